"""The referee of the comparison, held to answers worked out by hand and to a book kept another way."""

from __future__ import annotations

import numpy as np
import pytest

from perf.peers import feed, oracle, terms
from perf.peers.terms import SLOW_EVENTS


def rows_of(*events):
    """Rows of (ts, kind, side, price, lots)."""
    out = np.zeros(len(events), feed.ROW)
    for at, (ts, kind, side, price, lots) in enumerate(events):
        out[at] = (ts, price, lots, kind, side)
    return out


def walk(moves):
    """A one-level book that jumps to each mid of `moves` in one event of four rows."""
    events = []
    last = None
    for ts, mid in enumerate(moves):
        if last is not None:
            events += [(ts, 0, 0, last - 1, 0), (ts, 0, 1, last + 1, 0)]
        events += [(ts, 0, 0, mid - 1, 5), (ts, 0, 1, mid + 1, 5)]
        last = mid
    return rows_of(*events)


def test_buys_once_when_the_price_rises_after_the_warm_up():
    answer = oracle.by_event(walk([1_000] * SLOW_EVENTS + [1_010] * 20))
    assert (answer.orders, answer.events) == (1, SLOW_EVENTS + 20)
    assert (answer.bid_ticks, answer.ask_ticks) == (1_009, 1_011)


def test_sells_when_the_fast_average_falls_back():
    answer = oracle.by_event(walk([1_000] * SLOW_EVENTS + [1_010] * 20 + [900] * 20))
    assert answer.orders == 2


def test_sends_nothing_during_the_warm_up():
    rising = [1_000 + n for n in range(SLOW_EVENTS)]
    assert oracle.by_event(walk(rising)).orders == 0
    assert oracle.by_event(walk([*rising, 1_300])).orders == 1


def test_order_of_the_last_event_is_told_apart():
    answer = oracle.by_event(walk([1_000] * SLOW_EVENTS + [1_010]))
    assert (answer.orders, answer.orders_but_last) == (1, 0)


def test_trades_are_events_for_one_view_and_left_out_of_the_other():
    rows = rows_of((1, 0, 0, 10, 1), (1, 0, 1, 12, 1), (2, 1, 1, 12, 1), (3, 0, 0, 11, 4))
    assert oracle.by_event(rows).events == 3
    assert oracle.by_delta(rows).events == 2  # the first depth row leaves the book one-sided: there is no mid yet
    assert oracle.by_event(rows).bid_ticks == 11


def test_touch_follows_a_book_searched_anew_at_every_event():
    rows = feed.generate(6_000)
    levels = ({}, {})
    for at, row in enumerate(rows, 1):
        if row["kind"] == feed.DEPTH_ROW:
            levels[row["side"]][int(row["price_ticks"])] = int(row["qty_lots"])
        if at % 500 == 0 and at > 100:
            answer = oracle.by_event(rows[:at])
            assert answer.bid_ticks == max(p for p, lots in levels[0].items() if lots)
            assert answer.ask_ticks == min(p for p, lots in levels[1].items() if lots)


@pytest.mark.parametrize(("after_ns", "fills", "lots"), [(1_500_000, 2, 10), (1_500_001, 1, 5)])
def test_order_walks_the_book_of_its_arrival_behind_what_happens_until_then(after_ns, fills, lots):
    rows = walk([1_000] * SLOW_EVENTS + [1_010])
    rows["ts_event_ns"] *= 1_000_000
    sent_ns = int(rows["ts_event_ns"][-1])
    at = sent_ns + after_ns
    then = rows_of((at, 0, 1, 1_011, 4), (at, 0, 1, 1_012, 6), (at + 1, 0, 1, 1_020, 1))
    answer = oracle.by_event(np.concatenate([rows, then]))
    assert (answer.orders, answer.fills, answer.traded_lots, answer.under_way) == (1, fills, lots, 0)


def test_order_that_meets_too_little_gets_what_there_is():
    answer = oracle.by_event(walk([1_000] * SLOW_EVENTS + [1_010]))
    assert (answer.orders, answer.fills, answer.traded_lots, answer.under_way) == (1, 1, 5, 1)


def test_order_of_the_other_view_meets_the_book_at_once():
    rows = walk([1_000] * (SLOW_EVENTS + 2) + [1_010] * 3)
    answer = oracle.by_delta(rows)
    assert answer.orders > 0
    assert answer.under_way == 0
    assert answer.fills == answer.orders


def test_written_answer_is_that_of_the_terms():
    assert oracle.WHOLE_FEED.orders == oracle.WHOLE_FEED.orders_but_last == terms.ORDERS
    assert oracle.WHOLE_FEED.traded_lots == terms.TRADED_LOTS == terms.ORDERS * terms.ORDER_LOTS
