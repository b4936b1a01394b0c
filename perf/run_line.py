"""Our side of the peer comparison: the whole line on the shared L2 feed, one JSON line on stdout.

    tape (mapped) ──► sequence, book, 8 features, strategy, risk, orders, paper exchange, positions ──► decision logs, hashes

What is on: every stage, the decision logs, the input log by reference to the tape, all hashes; journal and hashes run on a
second thread. `seconds` is the wall time of the line's thread from the first record to the last; `seconds_with_journal` ends
when every log is closed and hashed. The strategy is the peers': EMA 50/200 of the mid at each event, long or flat.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from decimal import Decimal
from pathlib import Path

import msgspec

from engine.config import Config, FeaturesConfig, LatencyConfig, LineConfig, StrategyConfig, resolve
from engine.feeds import open_feeds
from engine.journaling import RunJournal
from engine.line import build_line, load_kernels, sequence_first_words
from engine.loops import DECIDING
from engine.session import Session
from engine.summary import Tally
from perf import harness
from perf.peers import feed as peer_feed
from transport.instruments import Instrument
from transport.tape import Tape, TapeWriter

LOTS, WARMUP = 10, 200
WARM_ROWS = 20_000


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
    strategy = StrategyConfig(name="cross", path="momentum", params={"lots": LOTS, "warmup": WARMUP, "short": 0})
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


def run(rows: int, embed: bool, cores: tuple[int, int] | None) -> dict[str, object]:
    """Run once and measure; raises what the line raises."""
    config = configuration()
    warm_up(config)
    feeds, instruments = open_feeds([str(tape_of(rows))], ())
    built = build_line(config, instruments, 1, 1, Path())
    tape = feeds[0].tape
    assert tape is not None
    tape.slots.view("u1")[::4096].sum()  # the peers' arrays are in memory before their clock starts too
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        if cores:
            os.sched_setaffinity(0, {cores[1]})
        tally = Tally(instruments, ["cross"], 8)
        journal = RunJournal(Path(folder), "bench", [i.name for i in instruments], None if embed else [tape.slots], 1, "write", tally)
        if cores:
            os.sched_setaffinity(0, {cores[0]})
        session = Session(built, [feeds[0].windows(1 << 16)], journal.put)
        session.open(lambda ns: sequence_first_words(built, config, ns, 1, 1))
        cpu, wall = time.thread_time(), time.perf_counter()
        session.run()
        seconds, cpu_seconds = time.perf_counter() - wall, time.thread_time() - cpu
        hashes = journal.close()
        whole = time.perf_counter() - wall
    counts = tally.counts()
    return {
        "name": "tickline" + (" --embed" if embed else ""), "events": rows, "seconds": seconds, "cpu_seconds": cpu_seconds,
        "seconds_with_journal": whole, "inputs": counts["inputs"], "orders": counts["orders"], "fills": counts["fills"],
        "rejects": counts["rejects"], "peak_rss_mb": harness.peak_rss_mb(), "decision_log_hash": hashes["decision_log_hash"],
        "on": ["decision logs", "input log " + ("embedded" if embed else "by reference"), "hashes", *DECIDING],
    }  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--embed", action="store_true", help="store the tape's records in the journal too")
    parser.add_argument("--one-core", action="store_true", help="journal and line share a core")
    options = parser.parse_args(argv)
    available = sorted(os.sched_getaffinity(0))
    every = list(range(os.cpu_count() or 1))
    other = next((c for c in every if c != available[0]), None)
    cores = None if options.one_core or other is None else (available[0], other)
    print(json.dumps(run(options.rows, options.embed, cores)))


if __name__ == "__main__":
    main()
