"""Our line beside other engines: one feed, one strategy, one run, every answer checked before a figure is printed.

    python -m perf.pipeline_peers [--rounds 3] [--rows 2000000] [--nautilus-rows 1150000] [--core 0] [--only NAME ...] [--strict]

Makes the feed and the peers' environments when they are missing, then runs every contender once a round, in a fresh process
pinned to one core. A ratio is ours over the peer's within one round, so that the machine's slow minutes hit both sides of it.
Every measurement is appended to perf/results/pipeline_peers.jsonl. Beside each target stands whether it is met; with --strict one
that is missed is an exit status of 1.

Our side is `python -m perf.run_line --rows N`: it runs the first N rows of `perf.peers.feed` (`feed.records(N)`) through the whole
line and prints, as the last line that is a JSON object,

    name            "tickline", or another name for a variant
    events          input records handled, N
    seconds         wall time of the timed loop; compiling, starting and reading the feed left out
    cpu_seconds     CPU time of the process over the same
    orders, fills   what the strategy of `perf.peers.terms` sent and got
    traded_lots     of those fills
    bid_ticks, ask_ticks    the touch at the end; of all these the oracle has the value that must be
    anything else   kept in the results (what was on: journal, hashes, decision log; peak_rss_mb is shown in the table)
"""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from perf import harness
from perf.peers import feed, oracle, terms, venvs

OURS = "tickline"
OUR_MODULE = "perf.run_line"
NAUTILUS_ROWS = 1_150_000  # of which 1.04 M are deltas
CHILD_TIMEOUT_S = 600.0
REQUIRED = ("name", "events", "seconds", "cpu_seconds", "orders", "fills")
TARGETS = {"hftbacktest_roivector": 2.0, "nautilus_cross": 100.0}  # how many times the peer's events a second ours must be
HEADS = ("contender", "events", "events/s median [min .. max]", "CPU ns", "orders", "fills", "RSS MiB", "ours / it")
Result = dict[str, Any]


class WrongAnswer(RuntimeError):
    """A contender did other work than the terms say; its time means nothing and no table is printed."""


@dataclass(frozen=True)
class Contender:
    """One row of the table: how it is run and what its result must say, field by field."""

    name: str
    command: tuple[str, ...]
    must: dict[str, int]

    def measure(self) -> Result:
        """One fresh process; raises harness.RunFailed or WrongAnswer."""
        result = harness.run_child(self.command, CHILD_TIMEOUT_S)
        check(self.name, result, self.must)
        return result


def check(name: str, result: Result, must: dict[str, int]) -> None:
    """Raises WrongAnswer for a missing field, a time that is none, or a value that is not the oracle's."""
    missing = [field for field in REQUIRED if field not in result]
    if missing:
        raise WrongAnswer(f"{name}: its result lacks {', '.join(missing)}")
    if not result["seconds"] > 0 or not result["events"] > 0:
        raise WrongAnswer(f"{name}: {result['events']} events in {result['seconds']} s")
    for field, value in must.items():
        if result.get(field) != value:
            raise WrongAnswer(f"{name}: {field} is {result.get(field)}, the oracle has {value}")


def contenders(rows: int, nautilus_rows: int, only: list[str]) -> list[Contender]:
    """Ours first when it is there, then the peers; environments are made for those that will run."""
    builders: dict[str, Callable[[], Contender]] = {OURS: partial(_ours, rows)}
    for book in ("hashmap", "roivector"):
        builders[f"hftbacktest_{book}"] = partial(_hftbacktest, rows, book)
    for strategy in ("cross", "noop"):
        builders[f"nautilus_{strategy}"] = partial(_nautilus, min(rows, nautilus_rows), strategy)
    unknown = set(only) - set(builders)
    if unknown:
        raise SystemExit(f"no contender is called {', '.join(sorted(unknown))}; there are {', '.join(builders)}")
    if importlib.util.find_spec(OUR_MODULE) is None:
        if OURS in only:
            raise SystemExit(f"{OUR_MODULE} does not exist: there is nothing of ours to run")
        print(f"{OUR_MODULE} does not exist: the peers run alone and there are no ratios", file=sys.stderr, flush=True)
        del builders[OURS]
    return [build() for name, build in builders.items() if not only or name in only]


@cache
def _by_event(rows: int) -> oracle.Answer:
    """The oracle's answer; raises WrongAnswer when the one that is written down for the whole feed is another."""
    answer = oracle.by_event(feed.load(feed.ensure(), rows))
    if rows == terms.ROWS and answer != oracle.WHOLE_FEED:
        raise WrongAnswer(f"the oracle says {answer}, written down is {oracle.WHOLE_FEED}")
    return answer


@cache
def _by_delta(rows: int) -> oracle.Answer:
    return oracle.by_delta(feed.load(feed.ensure(), rows))


def _ours(rows: int) -> Contender:
    answer = _by_event(rows)
    command = (sys.executable, "-m", OUR_MODULE, "--rows", str(rows))
    return Contender(OURS, command, {"events": rows, **_traded(answer), **_touch(answer)})


def _traded(answer: oracle.Answer) -> dict[str, int]:
    return {"orders": answer.orders, "fills": answer.fills, "traded_lots": answer.traded_lots}


def _touch(answer: oracle.Answer) -> dict[str, int]:
    return {"bid_ticks": answer.bid_ticks, "ask_ticks": answer.ask_ticks}


def _hftbacktest(rows: int, book: str) -> Contender:
    """It reaches the last event, applies it, and returns the end of the data instead of showing it; hence the `- 1`.

    Told to fill orders whole, it makes one fill of each; those still under way when the data ends may be filled or not.
    """
    answer = _by_event(rows)
    must = {"events": rows, "strategy_events": answer.events - 1, "orders": answer.orders_but_last, **_touch(answer)}
    if not answer.under_way:
        must |= {"fills": answer.orders, "traded_lots": answer.traded_lots}
    python = str(venvs.ensure("hftbacktest"))
    command = (python, "-W", "ignore", "-m", "perf.peers.run_hftbacktest", "--rows", str(rows), "--book", book)
    return Contender(f"hftbacktest_{book}", command, must)


def _nautilus(rows: int, strategy: str) -> Contender:
    answer = _by_delta(rows)
    must = {**_touch(answer), "orders": 0, "fills": 0, "traded_lots": 0}
    if strategy == "cross":
        must |= {**_traded(answer), "strategy_events": answer.events}
    python = str(venvs.ensure("nautilus"))
    command = (python, "-W", "ignore", "-m", "perf.peers.run_nautilus", "--rows", str(rows), "--strategy", strategy)
    return Contender(f"nautilus_{strategy}", command, must)


def rates(samples: list[harness.Sample]) -> list[float]:
    """Events a second of each round, by the contender's own clock."""
    return [sample.result["events"] / sample.result["seconds"] for sample in samples]


def report(runs: dict[str, list[harness.Sample]]) -> str:
    """The table; the last column is ours over the contender, paired by round, and empty when ours did not run."""
    ours = rates(runs[OURS]) if OURS in runs else []
    rows = []
    for name, samples in runs.items():
        results = [sample.result for sample in samples]
        mine = rates(samples)
        cpu_ns = harness.Spread.of([1e9 * r["cpu_seconds"] / r["events"] for r in results])
        ratio = harness.Spread.of([a / b for a, b in zip(ours, mine, strict=True)]) if ours and name != OURS else None
        last = results[-1]
        rows.append([
            f"{name} {last['version']}" if "version" in last else name,
            f"{last['events']:,}",
            harness.Spread.of(mine).text(harness.rate_text),
            f"{cpu_ns.median:,.1f}",
            f"{last['orders']:,}",
            f"{last['fills']:,}",
            f"{last['peak_rss_mb']:,}" if "peak_rss_mb" in last else "",
            ratio.text("{:.2f}".format) if ratio else "",
        ])  # fmt: skip
    return harness.table(HEADS, rows)


def targets(runs: dict[str, list[harness.Sample]]) -> list[harness.Target]:
    """Ours over each peer that has a target and ran: the median of the rounds' ratios."""
    if OURS not in runs:
        return []
    ours = rates(runs[OURS])
    return [
        harness.Target(
            f"ours over {name}",
            harness.Spread.of([a / b for a, b in zip(ours, rates(runs[name]), strict=True)]).median,
            limit,
            " x",
        )
        for name, limit in TARGETS.items()
        if name in runs
    ]


def main() -> int:
    """Parse, make what is missing, run, check, print; 1 for a target that is missed under --strict."""
    parser = argparse.ArgumentParser(description="our line beside other engines, in one run")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes a contender (default 3)")
    parser.add_argument("--rows", type=int, default=terms.ROWS, help="feed rows, at most and by default 2,000,000")
    parser.add_argument("--nautilus-rows", type=int, default=NAUTILUS_ROWS, help="feed rows for nautilus_trader")
    parser.add_argument("--core", type=int, default=0, help="the core every process is pinned to")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="run these contenders only")
    parser.add_argument("--strict", action="store_true", help="fail when a target is missed")
    args = parser.parse_args()
    if args.rounds < 1 or not terms.BOOK_ROWS < min(args.rows, args.nautilus_rows) <= args.rows <= terms.ROWS:
        parser.error(f"rounds must be positive, rows between {terms.BOOK_ROWS + 1} and {terms.ROWS}")
    entered = contenders(args.rows, args.nautilus_rows, args.only)
    with harness.pinned(args.core):
        runs = harness.run_alternating({c.name: c.measure for c in entered}, args.rounds)
    for name, samples in runs.items():
        for at, sample in enumerate(samples):
            harness.write_result("pipeline_peers", {"contender": name, "round": at, **sample.result})
    print(report(runs))
    status = harness.judged(targets(runs), args.strict)
    print(f"\n{harness.machine_text(harness.machine())}")
    print(f"core {args.core}, {args.rounds} rounds alternating, every run a fresh process:")
    for contender in entered:
        print(f"  {contender.name}: {shlex.join(contender.command).replace(f'{harness.ROOT}/', '')}")
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (harness.RunFailed, venvs.InstallFailed, WrongAnswer) as failed:
        raise SystemExit(str(failed)) from failed
