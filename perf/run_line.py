"""The whole line on the peers' L2 feed: by reference, stored in the journal, and on one core, in pairs of one run.

    tape (mapped) ──► sequence, book, 8 features, strategy, risk, orders, paper exchange, positions ──► decision logs, hashes

    python -m perf.run_line [--rounds 5] [--no-limit]     the three in turns, each in a fresh process; 1 when --embed is over the limit
    python -m perf.run_line --rows N [--embed] [--one-core]   one run, its result as a JSON line: our side of the peer comparison

What is on: every stage, the decision logs, the input log by reference to the tape or with its records in it, all hashes; journal
and hashes run on a second thread, on a second core unless told otherwise. `seconds` is the wall time of the line's thread from the
first record to the last, `cpu_seconds` its CPU time; `seconds_with_journal` ends when every log is closed and hashed. The strategy
is the peers': EMA 50/200 of the mid at each event, long or flat. No time is printed for a run whose orders, fills, lots or last
top of book are not those of `perf.peers.oracle`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from engine.config import Config, FeaturesConfig, LatencyConfig, LineConfig, StrategyConfig, resolve
from engine.feeds import open_feeds
from engine.journaling import RunJournal
from engine.line import Built, build_line, load_kernels, sequence_first_words
from engine.loops import DECIDING
from engine.session import Session
from engine.summary import Tally
from perf import harness
from perf.peers import feed as peer_feed
from perf.peers import oracle, terms
from transport.instruments import Instrument
from transport.records import ASK, BID, BOOK_DELTA, BOOK_SNAPSHOT, TRADE
from transport.tape import Tape, TapeWriter

WARMUP = 200
WARM_ROWS = 20_000
ROWS_SMALL = 50_000
EMBED_LIMIT = 1.25  # CPU time of the line's thread with the records stored, over that without
MODES: dict[str, tuple[str, ...]] = {"by reference": (), "stored (--embed)": ("--embed",), "one core": ("--one-core",)}


class WrongAnswer(Exception):
    """The line did something else than the oracle says, or than it does in another mode: there is no figure."""


def tape_of(rows: int) -> Path:
    """The shared feed's first `rows` as a tape, made on demand."""
    path = Path(__file__).parent / "peers" / "data" / f"l2-{rows}.tape"
    if not path.exists():
        instrument = Instrument("ETHUSDT", "peers", Decimal("0.01"), Decimal("0.001"), "USDT")
        with TapeWriter(path, [instrument], {"feed": "perf.peers.feed"}) as tape:
            tape.append(peer_feed.records(rows))
    Tape.open(path).close()
    return path


def configuration() -> Config:
    """The peers' task: windows 50/200, half a millisecond each way, beside a feed that is 1 ms late."""
    config, _ = resolve(None)
    strategy = StrategyConfig(name="cross", path="momentum", params={"lots": terms.ORDER_LOTS, "warmup": WARMUP, "short": 0})
    return msgspec.structs.replace(
        config,
        line=LineConfig(timer_interval_ms=1000, latency_sample=0),
        features=FeaturesConfig(ema_fast=50, ema_slow=200, volatility_window=200),
        latency=LatencyConfig(order_out_us=1500, report_back_us=500),
        strategy=(strategy,),
    )


def warm_up(config: Config) -> None:
    """The feed's first rows through a line that is thrown away, as the peers' runners do it before their clocks start."""
    load_kernels()
    feeds, instruments = open_feeds([str(tape_of(WARM_ROWS))], ())
    built = build_line(config, instruments, 1, 1, Path())
    session = Session(built, [feeds[0].windows(1 << 16)], lambda batch: None)
    session.open(lambda ns: sequence_first_words(built, config, ns, 1, 1))
    session.run()


def answer(rows: int) -> oracle.Answer:
    """What the first `rows` of the feed must lead to."""
    return oracle.WHOLE_FEED if rows == terms.ROWS else oracle.by_event(peer_feed.load(peer_feed.ensure(), rows))


def check(result: dict[str, Any], rows: int, due: oracle.Answer) -> None:
    """Raises WrongAnswer for a result that is not `due`, with everything that differs."""
    wanted = {
        "market_records": rows, "orders": due.orders, "fills": due.fills, "traded_lots": due.traded_lots,
        "bid_ticks": due.bid_ticks, "ask_ticks": due.ask_ticks, "rejects": {}, "refused": 0,
    }  # fmt: skip
    wrong = [f"{name} is {result[name]}, not {value}" for name, value in wanted.items() if result[name] != value]
    if wrong:
        raise WrongAnswer("; ".join(wrong))


def came_to(built: Built, tally: Tally) -> dict[str, Any]:
    """What a run that has ended led to, from its journal's tally, and the top of the book that it ended with."""
    counts = tally.counts()
    best = built.line.markets[0]["best"]  # asks are kept negated
    return {
        "market_records": sum(tally.kinds[kind] for kind in (TRADE, BOOK_DELTA, BOOK_SNAPSHOT)),
        **{name: counts[name] for name in ("inputs", "orders", "fills", "rejects")},
        "traded_lots": sum(fill[3] for fills in tally.fills.values() for fill in fills),
        "bid_ticks": int(best[0]), "ask_ticks": -int(best[ASK - BID]),
        "refused": int(built.line.sequencer.head[0]["refused"]),
    }  # fmt: skip


def run(rows: int, embed: bool, cores: tuple[int, int]) -> dict[str, Any]:
    """Run once, measure and check, line and journal each on its core; raises WrongAnswer, and what the line raises."""
    config = configuration()
    warm_up(config)
    feeds, instruments = open_feeds([str(tape_of(rows))], ())
    built = build_line(config, instruments, 1, 1, Path())
    tape = feeds[0].tape
    assert tape is not None
    tape.slots.view("u1")[::4096].sum()  # the peers' arrays are in memory before their clock starts too
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        os.sched_setaffinity(0, {cores[1]})
        tally = Tally(instruments, ["cross"], 8)
        journal = RunJournal(Path(folder), "bench", [i.name for i in instruments], None if embed else [tape.slots], 1, "write", tally)
        os.sched_setaffinity(0, {cores[0]})
        session = Session(built, [feeds[0].windows(1 << 16)], journal.put)
        session.open(lambda ns: sequence_first_words(built, config, ns, 1, 1))
        cpu, wall = time.thread_time(), time.perf_counter()
        session.run()
        seconds, cpu_seconds = time.perf_counter() - wall, time.thread_time() - cpu
        hashes = journal.close()
        whole = time.perf_counter() - wall
    result = {
        "name": "tickline" + (" --embed" if embed else ""), "events": rows, "seconds": seconds, "cpu_seconds": cpu_seconds,
        "seconds_with_journal": whole, **came_to(built, tally), "peak_rss_mb": harness.peak_rss_mb(),
        "input_log_hash": hashes["input_log_hash"], "decision_log_hash": hashes["decision_log_hash"],
        "on": ["decision logs", "input log " + ("embedded" if embed else "by reference"), "hashes", *DECIDING],
    }  # fmt: skip
    check(result, rows, answer(rows))
    return result


def measure(rows: int, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Every mode in a fresh process a round, in turns; raises harness.RunFailed, and WrongAnswer when modes disagree."""

    def one(flags: tuple[str, ...]) -> dict[str, Any]:
        return harness.run_child([sys.executable, "-m", "perf.run_line", "--rows", str(rows), *flags])

    contenders: dict[str, Callable[[], Any]] = {name: partial(one, flags) for name, flags in MODES.items()}
    samples = harness.run_alternating(contenders, rounds)
    results = {name: [sample.result for sample in taken] for name, taken in samples.items()}
    agree(results)
    return results


def agree(results: dict[str, list[dict[str, Any]]]) -> None:
    """Raises WrongAnswer unless all runs have one input log and one decision log: storing and placing change neither."""
    for name in ("input_log_hash", "decision_log_hash"):
        found = {result[name] for taken in results.values() for result in taken}
        if len(found) != 1:
            raise WrongAnswer(f"the runs have {len(found)} different values of {name}")


def ns_a_record(taken: list[dict[str, Any]], clock: str) -> list[float]:
    """A clock of every run, over its records."""
    return [1e9 * result[clock] / result["events"] for result in taken]


def report(results: dict[str, list[dict[str, Any]]]) -> tuple[str, harness.Target]:
    """The table, and the cost of storing on the line's thread, paired by round, with its limit."""
    clocks = ("cpu_seconds", "seconds", "seconds_with_journal")
    rows = [
        [name, *(harness.Spread.of(ns_a_record(taken, clock)).text("{:.1f}".format) for clock in clocks)]
        for name, taken in results.items()
    ]
    reference, embed = (ns_a_record(results[name], "cpu_seconds") for name in list(MODES)[:2])
    ratio = harness.Spread.of([b / a for a, b in zip(reference, embed, strict=True)])
    what = f"stored over by reference, line's thread, of the pairs {ratio.low:.3f} .. {ratio.high:.3f}"
    heads = ["ns a record, median [low .. high]", "line's thread, CPU", "line's thread, wall", "wall until every log is closed"]
    return harness.table(heads, rows), harness.Target(what, ratio.median, EMBED_LIMIT, " x", at_least=False)


def _pairs(options: argparse.Namespace) -> int:
    rows, rounds = (ROWS_SMALL, 1) if options.small else (terms.ROWS, options.rounds)
    results = measure(rows, rounds)
    text, target = report(results)
    if not options.small:
        harness.write_result("run_line", {"rows": rows, "runs": results})
    print(text)
    status = 0 if options.small else harness.judged([target], strict=not options.no_limit)
    print(f"{rows:,} records, {rounds} rounds in turns; orders, fills, lots, top of book and hashes checked in every run")
    print(harness.machine_text(harness.machine()))
    return status


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="the three at a size for the tests, which judges nothing")
    parser.add_argument("--rounds", type=int, default=5, help="of the three")
    parser.add_argument("--no-limit", action="store_true", help=f"do not fail when --embed takes over {EMBED_LIMIT} times as long")
    parser.add_argument("--rows", type=int, help="one run of so many of the feed's records instead")
    parser.add_argument("--embed", action="store_true", help="of one run: store the tape's records in the journal too")
    parser.add_argument("--one-core", action="store_true", help="of one run: journal and line share a core")
    options = parser.parse_args(argv)
    if options.rows is None:
        if options.embed or options.one_core:
            parser.error("--embed and --one-core are of one run: give --rows too")
        return _pairs(options)
    mine = min(os.sched_getaffinity(0))
    other = next((c for c in range(os.cpu_count() or 1) if c != mine), mine)
    print(json.dumps(run(options.rows, options.embed, (mine, mine if options.one_core else other))))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (harness.RunFailed, WrongAnswer) as failed:
        raise SystemExit(str(failed)) from failed
