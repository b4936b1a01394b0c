"""The paper exchange: what an order meets, where it stands in the queue, when its reports come back, and what they cost."""

from __future__ import annotations

import numpy as np

from handlers.domain import reasons
from tests.stages import Exchange, Fields, change, level, order, snapshot, trade
from transport.records import (
    ACCEPTED, ACK, AMEND, AMENDED, BUY, CANCEL, CANCELLED, EXPIRED, FILL, FOK, GAP, IOC, MAKER, REJECT, SELL, TAKER,
)  # fmt: skip

BIDS, ASKS = {99: 10, 98: 20, 97: 30}, {101: 10, 102: 20, 103: 30}
OPEN = snapshot(BIDS, ASKS, 1000)  # orders sent at 1100 arrive at 1200 and are answered at 2200


def reports(*records: Fields, exchange: Exchange | None = None) -> np.ndarray:
    return (exchange or Exchange()).run([*OPEN, *records])


def told(rows: np.ndarray) -> list[tuple[int, int, int, int, int]]:
    """(kind, action, price, lots, leaves) of each report."""
    return [tuple(int(r[n]) for n in ("kind", "action", "price_ticks", "qty_lots", "leaves_lots")) for r in rows]


# --- taking ---------------------------------------------------------------------------------------------------------------
def test_market_order_walks_the_levels_one_fill_each() -> None:
    assert told(reports(order(1, BUY, 35, 1100))) == [
        (ACK, ACCEPTED, 0, 35, 35), (FILL, TAKER, 101, 10, 25), (FILL, TAKER, 102, 20, 5), (FILL, TAKER, 103, 5, 0),
    ]  # fmt: skip
    assert told(reports(order(1, SELL, 12, 1100)))[1:] == [(FILL, TAKER, 99, 10, 2), (FILL, TAKER, 98, 2, 0)]


def test_market_order_larger_than_the_book_takes_it_all_and_the_rest_expires() -> None:
    rows = reports(order(1, BUY, 100, 1100))
    assert told(rows)[-2:] == [(FILL, TAKER, 103, 30, 40), (ACK, EXPIRED, 0, 100, 40)]
    assert rows[-1]["reason"] == reasons.NO_LIQUIDITY


def test_order_into_a_book_broken_by_a_gap_is_rejected_with_all_its_lots() -> None:
    rows = reports({"kind": GAP, "ts_seq_ns": 1050}, order(1, BUY, 5, 1100))
    assert told(rows) == [(REJECT, 0, 0, 5, 5)]
    assert rows[0]["reason"] == reasons.NO_LIQUIDITY


def test_limit_order_takes_as_far_as_its_price_and_rests_with_what_is_left() -> None:
    exchange = Exchange()
    rows = reports(order(1, BUY, 25, 1100, 101), exchange=exchange)
    assert told(rows) == [(ACK, ACCEPTED, 101, 25, 25), (FILL, TAKER, 101, 10, 15)]
    assert exchange.state.paper[0]["resting"] == 1
    assert exchange.state.resting[0]["leaves_lots"] == 15


def test_immediate_or_cancel_takes_what_it_reaches_and_the_rest_expires() -> None:
    rows = reports(order(1, SELL, 25, 1100, 99, IOC))
    assert told(rows)[1:] == [(FILL, TAKER, 99, 10, 15), (ACK, EXPIRED, 99, 25, 15)]
    assert rows[-1]["reason"] == reasons.IOC_REMAINDER


def test_fill_or_kill_is_filled_whole_or_rejected_whole() -> None:
    assert told(reports(order(1, BUY, 30, 1100, 102, FOK)))[1:] == [(FILL, TAKER, 101, 10, 20), (FILL, TAKER, 102, 20, 0)]
    refused = reports(order(1, BUY, 31, 1100, 102, FOK))
    assert told(refused) == [(REJECT, 0, 102, 31, 31)]
    assert refused[0]["reason"] == reasons.FOK_UNFILLED


def test_fill_or_kill_at_the_market_is_filled_whole_or_rejected_whole() -> None:
    for side, last in ((BUY, 103), (SELL, 97)):
        assert told(reports(order(1, side, 60, 1100, tif=FOK)))[-1] == (FILL, TAKER, last, 30, 0)
        refused = reports(order(1, side, 61, 1100, tif=FOK))
        assert told(refused) == [(REJECT, 0, 0, 61, 61)]
        assert refused[0]["reason"] == reasons.FOK_UNFILLED


# --- resting --------------------------------------------------------------------------------------------------------------
def fills(rows: np.ndarray) -> list[tuple[int, int, int]]:
    """(order, price, lots) of the fills of those who waited."""
    makers = rows[(rows["kind"] == FILL) & (rows["action"] == MAKER)]
    return [(int(r["order_id"]), int(r["price_ticks"]), int(r["qty_lots"])) for r in makers]


def test_queue_ahead_is_used_up_before_a_resting_order_is_filled() -> None:
    ours = order(1, BUY, 5, 1100, 99)
    assert fills(reports(ours, trade(SELL, 99, 10, 1300))) == []
    assert fills(reports(ours, trade(SELL, 99, 12, 1300))) == [(1, 99, 2)]
    assert fills(reports(ours, trade(SELL, 99, 9, 1300), trade(SELL, 99, 9, 1400))) == [(1, 99, 5)]


def test_trade_at_the_price_by_our_own_side_fills_nothing() -> None:
    assert fills(reports(order(1, BUY, 5, 1100, 99), trade(BUY, 99, 100, 1300))) == []


def test_level_that_shrinks_below_the_queue_ahead_lowers_it() -> None:
    ours = order(1, BUY, 5, 1100, 99)
    assert fills(reports(ours, level(BUY, 99, 4, 1300), trade(SELL, 99, 5, 1400))) == [(1, 99, 1)]
    grown = [level(BUY, 99, 50, 1300), trade(SELL, 99, 11, 1400)]  # who comes later stands behind us
    assert fills(reports(ours, *grown)) == [(1, 99, 1)]


def test_trade_through_the_price_fills_at_our_own_price_without_a_queue() -> None:
    assert fills(reports(order(1, BUY, 5, 1100, 99), trade(SELL, 98, 3, 1300))) == [(1, 99, 3)]
    assert fills(reports(order(1, SELL, 5, 1100, 101), trade(BUY, 102, 9, 1300))) == [(1, 101, 5)]


def test_lots_of_a_trade_are_given_out_once_by_price_then_time() -> None:
    late_but_better = [order(1, BUY, 4, 1100, 98), order(2, BUY, 4, 1110, 99), order(3, BUY, 4, 1120, 99)]
    assert fills(reports(*late_but_better, trade(SELL, 97, 10, 1300))) == [(2, 99, 4), (3, 99, 4), (1, 98, 2)]


def test_new_lots_through_the_price_fill_once() -> None:
    ours = order(1, BUY, 9, 1100, 100)
    once = [level(SELL, 100, 4, 1300), level(SELL, 100, 4, 1400), level(SELL, 103, 7, 1500)]
    assert fills(reports(ours, *once)) == [(1, 100, 4)]
    more = [level(SELL, 100, 4, 1300), level(SELL, 99, 2, 1400)]
    assert fills(reports(ours, *more)) == [(1, 100, 4), (1, 100, 2)]


def test_new_lots_through_two_of_our_orders_go_to_the_better_first_and_to_one_only() -> None:
    ours = [order(1, BUY, 3, 1100, 99), order(2, BUY, 3, 1110, 100)]
    assert fills(reports(*ours, level(SELL, 99, 4, 1300))) == [(2, 100, 3), (1, 99, 1)]


def test_an_event_is_looked_at_when_it_is_whole() -> None:
    ours = order(1, BUY, 9, 1100, 100)
    assert fills(reports(ours, level(SELL, 100, 4, 1300, flags=0), level(SELL, 100, 0, 1300))) == []


# --- changing -------------------------------------------------------------------------------------------------------------
def test_cancel_withdraws_what_is_left_and_nothing_fills_after_it() -> None:
    ours = order(1, BUY, 5, 1100, 99)
    rows = reports(ours, trade(SELL, 98, 2, 1300), change(CANCEL, 1, 1400), trade(SELL, 98, 9, 1600))
    assert told(rows)[1:] == [(FILL, MAKER, 99, 2, 3), (ACK, CANCELLED, 99, 5, 3)]


def test_change_of_an_order_that_does_not_rest_is_rejected_and_gives_nothing_back() -> None:
    for kind in (CANCEL, AMEND):
        rows = reports(change(kind, 7, 1100, BUY, 98, 3))
        assert told(rows) == [(REJECT, kind, 98, 3, 0)]
        assert rows[0]["reason"] == reasons.UNKNOWN_ORDER


def test_amend_to_fewer_lots_keeps_the_place_in_the_queue() -> None:
    rows = reports(order(1, BUY, 8, 1100, 99), trade(SELL, 99, 7, 1300), change(AMEND, 1, 1350, BUY, 99, 5), trade(SELL, 99, 4, 1500))
    assert told(rows)[1] == (ACK, AMENDED, 99, 8, 5)
    assert fills(rows) == [(1, 99, 1)]


def test_amend_to_more_lots_or_another_price_loses_the_place() -> None:
    eaten = [order(1, BUY, 8, 1100, 99), order(2, BUY, 8, 1110, 99), trade(SELL, 99, 7, 1300)]
    more = reports(*eaten, change(AMEND, 1, 1350, BUY, 99, 9), trade(SELL, 99, 4, 1500))
    assert fills(more) == [(2, 99, 1)]  # it stands behind 10 lots again, and behind our own second order
    moved = reports(*eaten, change(AMEND, 1, 1350, BUY, 98, 8), trade(SELL, 98, 9, 1500))
    assert fills(moved) == [(2, 99, 8)]


def test_amend_through_the_market_takes_there_at_once() -> None:
    rows = reports(order(1, BUY, 15, 1100, 99), change(AMEND, 1, 1350, BUY, 102, 15))
    assert told(rows)[1:] == [(ACK, AMENDED, 102, 15, 15), (FILL, TAKER, 101, 10, 5), (FILL, TAKER, 102, 5, 0)]


def test_amend_down_to_what_is_filled_ends_the_order() -> None:
    exchange = Exchange()
    ours = [order(1, BUY, 8, 1100, 99), trade(SELL, 98, 6, 1300), change(AMEND, 1, 1350, BUY, 99, 6)]
    assert told(reports(*ours, exchange=exchange))[-1] == (ACK, AMENDED, 99, 2, 0)
    assert exchange.state.paper[0]["resting"] == 0


# --- times ----------------------------------------------------------------------------------------------------------------
def test_latencies_out_and_back_are_exact() -> None:
    rows = reports(order(1, BUY, 5, 1100), exchange=Exchange(out_ns=70, back_ns=1234))
    assert rows["ts_event_ns"].tolist() == [1170, 1170]
    assert rows["ts_recv_ns"].tolist() == [1170 + 1234] * 2


def test_order_meets_the_book_as_of_its_arrival() -> None:
    ours = order(1, BUY, 5, 1100)  # arrives at 1200
    at_arrival = told(reports(ours, level(SELL, 101, 3, 1200)))
    assert at_arrival[1:] == [(FILL, TAKER, 101, 3, 2), (FILL, TAKER, 102, 2, 0)]
    assert told(reports(ours, level(SELL, 101, 3, 1201)))[1:] == [(FILL, TAKER, 101, 5, 0)]


def test_jitter_is_within_its_bound_repeats_with_the_seed_and_changes_with_it() -> None:
    orders = [order(n, BUY, 1, 1100 + n) for n in range(1, 60)]

    def delays(seed: int) -> list[tuple[int, int]]:
        rows = reports(*orders, exchange=Exchange(out_ns=50, out_jitter_ns=500, back_ns=1000, back_jitter_ns=300, seed=seed))
        acks = rows[rows["kind"] == ACK]
        return sorted((int(r["order_id"]), int(r["ts_event_ns"]), int(r["ts_recv_ns"])) for r in acks)

    first = delays(5)
    assert first == delays(5) != delays(6)
    out = [at - 1100 - n - 50 for n, at, _ in first]
    back = [due - at - 1000 for _, at, due in first]
    assert 0 <= min(out) <= max(out) < 500
    assert 0 <= min(back) <= max(back) < 300
    assert len(set(out)) > 40
    assert len(set(back)) > 40


# --- money ----------------------------------------------------------------------------------------------------------------
def test_fees_are_rounded_half_away_from_zero_fill_by_fill() -> None:
    # a tick times a lot is 1,000 units: 10 lots at 101 are 1,010,000, of which 0.0099 bp are 0.9999 units
    exchange = Exchange(maker_bp="-0.0001", taker_bp="0.0099")
    rows = reports(order(1, BUY, 15, 1100), exchange=exchange)
    taken = rows[rows["kind"] == FILL]
    assert taken["cash"].tolist() == [-101 * 10 * 1000, -102 * 5 * 1000]
    assert taken["fee"].tolist() == [1, 1]  # 0.9999 and 0.5049 units: each fill is rounded, not their sum
    half = reports(order(1, SELL, 5, 1100, 100), trade(BUY, 100, 5, 1300), exchange=Exchange(maker_bp="-0.01", taker_bp="1"))
    assert (int(half[-1]["cash"]), int(half[-1]["fee"])) == (500_000, -1)  # a rebate of half a unit is a unit


def test_executions_are_numbered() -> None:
    rows = reports(order(1, BUY, 35, 1100))
    assert rows["venue_seq"].tolist() == [0, 1, 2, 3]
