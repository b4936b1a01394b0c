"""The latency rig: what it makes of a feed, what it refuses to call the same decisions, and how its figures are told."""

from __future__ import annotations

import numpy as np
import pytest

from engine.journaling import Batch
from perf import paced
from perf import pipeline_tick_to_order as bench
from perf.peers import feed
from transport.records import EVENT_END, ORDER, POSITION, empty

RATE = 30_000  # whose step is no whole number of ns


def batch(orders: int = 0, positions: int = 0, own: int = 0) -> Batch:
    """A batch with so many rows of ORDERS' log and so many inputs of the line's own."""
    rows = empty(orders + positions)
    rows["kind"] = [ORDER] * orders + [POSITION] * positions
    return Batch(np.zeros(0), empty(own), (empty(0), empty(0), empty(0), rows), [])


def test_records_come_at_the_rate_and_an_events_rows_have_one_event_time() -> None:
    rows = feed.as_records(feed.generate(5_000))
    made = paced.paced_feed(rows, RATE)
    due = made["ts_recv_ns"] - made["ts_recv_ns"][0]
    assert due.tolist() == [i * 10**9 // RATE for i in range(5_000)]
    begins = np.flatnonzero(np.append(True, rows["flags"][:-1] & EVENT_END != 0))
    events = np.append(np.diff(begins), 5_000 - begins[-1])
    assert made["ts_event_ns"].tolist() == np.repeat(made["ts_recv_ns"][begins] - 1_000_000, events).tolist()


def test_a_paced_feed_is_a_copy_that_differs_in_its_times_alone() -> None:
    rows = feed.as_records(feed.generate(1_000))
    before = rows.tobytes()
    made = paced.paced_feed(rows, RATE)
    assert rows.tobytes() == before
    made["ts_recv_ns"], made["ts_event_ns"] = rows["ts_recv_ns"], rows["ts_event_ns"]
    assert made.tobytes() == before


def test_decisions_are_the_same_however_they_were_handed_over() -> None:
    whole, parts = paced.Decided.of([batch(2, 2, 3)]), paced.Decided.of([batch(2, 0, 1), batch(0, 0, 0), batch(0, 2, 2)])
    assert (whole.orders, whole.rows["orders"], whole.rows["own inputs"]) == (2, 4, 3)
    parts.compare(whole)


@pytest.mark.parametrize(("other", "words"), [(batch(3, 1, 3), r"orders \(4 rows, fused 4\)"), (batch(2, 2, 4), "own inputs")])
def test_names_the_log_in_which_a_paced_run_differs(other: Batch, words: str) -> None:
    with pytest.raises(paced.WrongAnswer, match=words):
        paced.Decided.of([other]).compare(paced.Decided.of([batch(2, 2, 3)]))


def test_percentiles_are_values_that_were_seen() -> None:
    took = np.arange(1_000, 0, -1) * 1_000.0
    assert bench.percentiles_of(took) == [500_000.0, 900_000.0, 990_000.0, 999_000.0, 1_000_000.0, 1_000_000.0]
    assert [bench.slower_than(p, 1_000) for p in bench.PERCENTILES] == [500, 100, 10, 1, 0, 0]
    assert bench.slower_than(99.9, 11_556) == 11


def test_table_has_medians_ranges_counts_and_the_worst_of_all_runs() -> None:
    runs = [[1e3, 2e3, 3e3, 4e3, 5e3, 6e3], [2e3, 2e3, 3e3, 4e3, 5e3, 90e3], [9e3, 2e3, 3e3, 4e3, 5e3, 7e3]]
    lines = [" ".join(line.split()) for line in bench.report(10_000, 200, runs).splitlines()]
    assert lines[0].startswith("10,000 records/s slower, of 200 orders a run")
    assert lines[2] == "p50 100 2.00 [1.00 .. 9.00]"
    assert lines[5] == "p99.9 0 4.00 [4.00 .. 4.00]"
    assert lines[7:] == ["max 0 7.00 [6.00 .. 90.00]", "worst of all runs: 90.00 µs"]
