"""What each part of the line costs a record: the loop run up to a part, for every part, on the feed of the peers' comparison.

    sequence │ + book, exchange's look │ + features, digest │ + strategy │ + risk, orders, exchange, reports

The parts are the engine's own kernels, called in the order of `engine.loops.step_line`; with all of them the orders must be those
of the peers' terms. The median of rounds that alternate between the parts; a part's cost is the difference of two medians. It is
one loop that is told where to stop, not five that are compiled for it, and nothing is journaled: the sum is somewhat off the line's
own time, which `python -m perf.run_line` measures.
"""

from __future__ import annotations

import argparse
import os
import time
from functools import partial
from pathlib import Path

import numpy as np

from engine.feeds import open_feeds
from engine.line import build_line, sequence_first_words
from engine.session import Session
from handlers.domain.book import apply_market
from handlers.domain.borrowed import borrow
from handlers.domain.queue import NEVER
from handlers.features.stage import step_checkpoint, step_features
from handlers.ingest.sequencer import NOTHING, STARVED, admit_own, alone_until, peek, take_next
from handlers.orders.brokers.paper import advance, on_market
from handlers.orders.stage import concerns_orders, step_orders
from handlers.risk.stage import concerns_risk, step_risk
from handlers.signals.stage import step_signals
from perf import harness
from perf.peers import feed as peer_feed, oracle, terms
from perf.run_line import WARM_ROWS, configuration, tape_of
from transport.compiled import kernel
from transport.records import ORDER

PARTS = ("sequence", "book", "features", "strategy", "risk, orders, exchange")


@kernel(inline=True)
def step_up_to(line, r, last):
    """The parts of `step_line` up to number `last` of PARTS; returns the orders made."""
    m = line.markets[np.int64(r.instrument_id) if r.instrument_id < len(line.markets) else 0]
    scratch = line.scratch
    if last < 1:
        return 0
    if r.instrument_id < len(line.markets):
        apply_market(m, line.books, r)
        on_market(line.paper, m, r)
    if last < 2:
        return 0
    n_features = step_features(line.features, m, r, scratch.features)
    step_checkpoint(line.features, r, n_features, scratch.features)
    if last < 3:
        return 0
    n_signals = step_signals(line.signals, line.markets, r, scratch.features, n_features, scratch.signals)
    if last < 4 or (n_signals == 0 and not concerns_risk(r.kind) and not concerns_orders(r.kind)):
        return 0
    n_risk = step_risk(line.risk, line.markets, r, scratch.signals, n_signals, scratch.risk)
    step_orders(line.orders, line.paper, line.markets, r, scratch.risk, n_risk, scratch.orders)
    orders = 0
    for j in range(n_risk):
        orders += scratch.risk[j].kind == ORDER
    return orders


@kernel
def run_up_to(owned, last):
    """The whole feed, which lies in one window, through the parts up to `last`; returns (records, orders)."""
    line = borrow(owned)
    s, reports, arrivals = line.sequencer, line.paper.reports, line.paper.arrivals.head[0]
    r = line.scratch.input[0]
    records, orders = 0, 0
    while True:
        source, when = peek(s, reports)
        if arrivals.next_due < when:
            advance(line.paper, line.markets, when)
            continue
        if source == NOTHING or source == STARVED:
            return records, orders
        if source < 0:
            admit_own(s, reports, source, when, r)
            s.head[0].runs = s.head[0].own = 0
            orders += step_up_to(line, r, last)
            continue
        before = alone_until(s, source, reports, arrivals.next_due, NEVER)
        w = s.windows[source]
        while True:
            take_next(s, w, r)
            records += 1
            made = step_up_to(line, r, last)
            orders += made
            if made or w.at == w.rows or w.key_ns >= min(before, reports.head[0].next_due):
                break


def opened(rows: int) -> Session:
    """A session at the first record of the feed; it keeps the window in memory."""
    config = configuration()
    feeds, instruments = open_feeds([str(tape_of(rows))], ())
    built = build_line(config, instruments, 1, 1, Path())
    session = Session(built, [feeds[0].windows(1 << 16)], lambda batch: None)
    session.open(lambda ns: sequence_first_words(built, config, ns, 1, 1))
    return session


def run(rows: int, last: int, wanted: int) -> float:
    """Nanoseconds of CPU a record; raises AssertionError where the parts together make other orders than the terms ask for."""
    session = opened(rows)
    began = time.thread_time_ns()
    records, orders = run_up_to(session.built.line, last)
    took = time.thread_time_ns() - began
    assert records == rows, f"{records} records of {rows}"
    assert orders == (wanted if last == len(PARTS) - 1 else 0), f"{orders} orders, not {wanted}"
    return took / rows


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, default=terms.ROWS)
    parser.add_argument("--small", action="store_true", help="20,000 rows, one round")
    options = parser.parse_args(argv)
    rows, rounds = (20_000, 1) if options.small else (options.rows, options.rounds)
    wanted = terms.ORDERS if rows == terms.ROWS else oracle.by_event(peer_feed.load(peer_feed.ensure(), rows)).orders
    run(WARM_ROWS, 0, 0)  # compiled before anything is timed
    with harness.pinned(min(os.sched_getaffinity(0))):
        samples = harness.run_alternating({part: partial(run, rows, k, wanted) for k, part in enumerate(PARTS)}, rounds, 1)
    spreads = [harness.Spread.of([s.result for s in samples[part]]) for part in PARTS]
    before = [0.0, *(s.median for s in spreads)]
    cells = [
        (part, spread.text("{:.1f}".format), f"{spread.median - was:+.1f}") for part, spread, was in zip(PARTS, spreads, before, strict=False)
    ]
    print(harness.table(("up to", "ns of CPU a record", "this part"), cells))
    print(harness.machine_text(harness.machine()))
    if not options.small:
        harness.write_result("line_parts", {"rows": rows, "ns": {p: vars(s) for p, s in zip(PARTS, spreads, strict=True)}})


if __name__ == "__main__":
    main()
