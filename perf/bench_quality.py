"""What the checks of market data cost a record: clean windows, which they hand on as they are, and windows that they rebuild.

    python -m perf.bench_quality [--small] [--rounds N]

The windows of `synthetic:ROWS:7:3` are made first; the clock runs while they pass the gate. In the faulty ones every 1,000th quote
is crossed and left out, so that every window is copied. A round that finds another number of faults, or hands on another number
of records, has no figure. Beside it stands what walking the same windows without checks costs: reading a record's first line.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np

from engine.config import QualityConfig
from engine.feeds import open_feeds
from engine.quality import gates_of
from handlers.ingest.quality import Gate
from handlers.ingest.sequencer import first_refused
from perf import harness
from transport.records import QUOTE, copied

ROWS, ROWS_SMALL = 2_000_000, 100_000
WINDOW_ROWS = 65_536
EVERY = 1_000  # quotes
TARGET_NS = 50.0  # a record of a clean window: the line's own time for one
Windows = list[np.ndarray]


class WrongAnswer(Exception):
    """The checks found something else than was there: there is no figure."""


def windows_of(rows: int) -> tuple[Windows, Windows, int]:
    """(clean windows, the same with crossed quotes, how many of these)."""
    feeds, _ = open_feeds([f"synthetic:{rows}:7:3"], ())
    clean = list(feeds[0].windows(WINDOW_ROWS))
    faulty, planted = [copied(window) for window in clean], 0
    for window in faulty:
        at = np.flatnonzero(window["kind"] == QUOTE)[::EVERY]
        window["ask_ticks"][at] = window["price_ticks"][at] - 1
        planted += len(at)
    return clean, faulty, planted


def cost(windows: Windows, planted: int) -> float:
    """ns a record of one round; raises WrongAnswer."""
    feeds, table = open_feeds([f"synthetic:{ROWS_SMALL}:7:3"], ())
    gate: Gate = gates_of(QualityConfig(crossed="drop"), feeds, table)[0]
    began_ns = time.perf_counter_ns()
    out = sum(map(len, gate.sift(iter(windows), WINDOW_ROWS)))
    took_ns = time.perf_counter_ns() - began_ns
    report = gate.report({}, {})
    found, due = (report["checks"]["crossed"]["times"], report["flagged"], out), (planted, 0, gate.rows - planted)
    if found != due:
        raise WrongAnswer(f"(crossed, flagged, handed on) are {found}, not {due}")
    return took_ns / gate.rows


def walk(windows: Windows) -> float:
    """ns a record that INGEST's own look takes; raises WrongAnswer."""
    began_ns = time.perf_counter_ns()
    refused = [first_refused(window, 3) for window in windows]
    took_ns = time.perf_counter_ns() - began_ns
    if set(refused) != {-1}:
        raise WrongAnswer("INGEST refuses a record of the generator")
    return took_ns / sum(map(len, windows))


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, check, print; the small size takes a second and records nothing."""
    parser = argparse.ArgumentParser(description="ns a record of the checks of market data")
    parser.add_argument("--small", action="store_true", help="a size for the tests")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    rows, rounds = (ROWS_SMALL, 1) if args.small else (ROWS, args.rounds)
    clean, faulty, planted = windows_of(rows)
    ways = {
        "checks, clean windows": lambda: cost(clean, 0),
        "checks, windows rebuilt": lambda: cost(faulty, planted),
        "INGEST's look alone": lambda: walk(clean),
    }
    taken = harness.run_alternating(ways, rounds, warmups=1)
    costs = {name: [sample.result for sample in samples] for name, samples in taken.items()}
    if not args.small:
        harness.write_result("quality", {"ns_a_record": costs})
    table = [[name, harness.Spread.of(found).text("{:.1f}".format)] for name, found in costs.items()]
    print(harness.table([f"synthetic:{rows}:7:3", "ns a record, median [low .. high]"], table))
    print(f"{harness.machine_text(harness.machine())}; {rounds} rounds, {planted:,} planted faults found in each")
    looked = harness.Spread.of(costs["checks, clean windows"]).median
    return harness.judged([harness.Target("checks of a clean window", looked, TARGET_NS, " ns", at_least=False)], strict=not args.small)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except WrongAnswer as wrong:
        raise SystemExit(str(wrong)) from wrong
