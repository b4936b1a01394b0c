"""Tick-to-order latency at a stated arrival rate: from the scheduled send of the record to the order that it causes.

    python -m perf.pipeline_tick_to_order [--runs 5] [--seconds 20] [--rates 10000 100000]

The rig is that of `perf.paced`: INGEST with its paced feed in one process, the whole line in another, both spinning, engine loops
both. Feed and strategy are those of the peer comparison. Every run's decision logs must be those of a fused run of the same
records, byte for byte, and every order must have been timed, or no figure is printed.
"""

from __future__ import annotations

import argparse
import os
import sys
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np

from perf import harness, paced
from perf.peers import terms
from perf.run_line import configuration, tape_of
from transport.records import EVENT_END
from transport.tape import Tape

PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99, 100.0)
ROWS_SMALL, RATE_SMALL = 20_000, 100_000
Runs = list[list[float]]


def name_of(percentile: float) -> str:
    """As the table has it."""
    return "max" if percentile == 100 else f"p{percentile:g}"


def slower_than(percentile: float, count: int) -> int:
    """Of `count` values, how many stand behind the one at `percentile`."""
    return count - ceil(Fraction(str(percentile)) * count / 100)  # exact: 99.9 is no binary number


def percentiles_of(took_ns: np.ndarray[Any, Any]) -> list[float]:
    """The values at PERCENTILES, ns: of each the least one with so many percent at or below it, never one in between."""
    ordered = np.sort(took_ns)
    return [float(ordered[-1 - slower_than(percentile, len(ordered))]) for percentile in PERCENTILES]


def report(rate: int, orders: int, runs: Runs) -> str:
    """The table of one rate over `runs`, each the percentiles of the latencies of `orders` orders in ns."""
    rows = []
    for percentile, values in zip(PERCENTILES, zip(*runs, strict=True), strict=True):
        spread = harness.Spread.of([ns / 1e3 for ns in values])
        rows.append([name_of(percentile), f"{slower_than(percentile, orders):,}", spread.text("{:,.2f}".format)])
    heads = [f"{rate:,} records/s", f"slower, of {orders:,} orders a run", f"µs, median of {len(runs)} runs [low .. high]"]
    worst = max(run[-1] for run in runs) / 1e3
    return f"{harness.table(heads, rows)}\nworst of all runs: {worst:,.2f} µs"


def measure(rate: int, rows: int, count: int) -> tuple[int, float, Runs]:
    """(orders a run, venue messages a second, percentiles of `count` runs in ns); raises paced.WrongAnswer."""
    tape = Tape.open(tape_of(rows))
    instruments, window = tuple(tape.instruments), paced.paced_feed(tape.slots, rate)
    messages = int(np.count_nonzero(window["flags"] & EVENT_END))
    answer = paced.run_fused_once(configuration(), instruments, window)
    cores = tuple(sorted(os.sched_getaffinity(0))[:2])
    runs = []
    for _ in range(count):
        took_ns = paced.run_paced_once(configuration(), instruments, window, answer, cores)
        runs.append(percentiles_of(took_ns))
    return answer.orders, messages * rate / rows, runs


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one short run, which is too short to quote")
    parser.add_argument("--runs", type=int, default=5, help="of each rate")
    parser.add_argument("--seconds", type=int, default=20, help="of each run")
    parser.add_argument("--rates", type=int, nargs="+", default=[10_000, 100_000], help="records a second")
    options = parser.parse_args(argv)
    for rate in (RATE_SMALL,) if options.small else options.rates:
        rows = ROWS_SMALL if options.small else min(terms.ROWS, rate * options.seconds)
        count = 1 if options.small else options.runs
        orders, messages, runs = measure(rate, rows, count)
        if not options.small:
            by_name = dict(zip(map(name_of, PERCENTILES), zip(*runs, strict=True), strict=True))
            harness.write_result("pipeline_tick_to_order", {"rate": rate, "rows": rows, "orders": orders, "ns": by_name})
        print(report(rate, orders, runs))
        print(f"{messages:,.0f} venue messages/s; {rows:,} records in {rows / rate:.1f} s a run; decisions as of a fused run, checked\n")
    print("from the scheduled send to the order's row in the process that sends it; on: all but the journal and its hashes")
    print(harness.machine_text(harness.machine()))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except paced.WrongAnswer as wrong:
        raise SystemExit(str(wrong)) from wrong
