"""Decoded market-by-order files against reference figures that independent scripts computed from the same recorded files.

The books here are plain dicts folded in Python from the records, so nothing but the decoding is on trial.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.domain.reasons import FILL_SKIPPED
from transport.records import (
    ADD,
    BID,
    BOOK_DELTA,
    BOOK_SNAPSHOT,
    BUY,
    DELETE,
    EVENT_END,
    EVENT_FIRST,
    MODIFY,
    NO_SIDE,
    SELL,
    TRADE,
)

from tests.golden.decoded import EIGHT, Decoded, decode, reference, utc


@pytest.fixture(scope="module", params=["20231224", "20231225"])
def mbo(request: pytest.FixtureRequest, data_dir: Path) -> Decoded:
    path = data_dir / "databento_mbo_esh4" / f"esh4-glbx-mdp3-{request.param}.mbo.dbn.zst"
    return decode(path, reference(data_dir, f"mbo_esh4_{request.param}"))


@dataclass
class OrderBook:
    """Orders by id, and per side price -> [size, orders]."""

    orders: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    sides: tuple[dict[int, list[int]], dict[int, list[int]]] = field(default_factory=lambda: ({}, {}))
    unknown: int = 0

    def apply(self, action: int, side: int, price: int, lots: int, order: int) -> None:
        old = self.orders.get(order)
        if action == ADD:
            self.unknown += old is not None
        elif old is None:
            self.unknown += 1
            return
        if old is not None:
            self._shift(old[0], old[1], -old[2], -1)
        left = (side, price, lots) if action in (ADD, MODIFY) else None
        if action == DELETE and old is not None and old[2] > lots:
            left = (old[0], old[1], old[2] - lots)
        self.orders.pop(order, None)
        if left is not None:
            self.orders[order] = left
            self._shift(*left, 1)

    def _shift(self, side: int, price: int, lots: int, orders: int) -> None:
        levels = self.sides[0 if side == BID else 1]
        level = levels.setdefault(price, [0, 0])
        level[0] += lots
        level[1] += orders
        if not level[1]:
            del levels[price]


def tops_at_event_ends(rows: np.ndarray[Any, Any], book: OrderBook) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(receive ns, bid, size, orders, ask, size, orders) at each EVENT_END of a two-sided book.

    A snapshot whose records do not end with the publisher's LAST has EVENT_END of our own giving; the reference reads the
    book only at LAST, so a snapshot counts only where nothing follows it.
    """
    only_snapshot = not np.any(rows["kind"] == BOOK_DELTA)
    names = ("kind", "flags", "ts_recv_ns", "action", "side", "price_ticks", "qty_lots", "order_id")
    best: list[int | None] = [None, None]
    for kind, flags, when, action, side, price, lots, order in zip(*(rows[n].tolist() for n in names), strict=True):
        if kind == TRADE:
            continue
        touched = [p for p in (price, book.orders.get(order, (0, None, 0))[1]) if p is not None]
        book.apply(action, side, price, lots, order)
        s = 0 if side == BID else 1
        at = best[s]
        if at is None or at not in book.sides[s] or any((p > at if s == 0 else p < at) for p in touched):
            best[s] = (max if s == 0 else min)(book.sides[s], default=None)
        if flags & EVENT_END and (kind == BOOK_DELTA or only_snapshot):
            bid, ask = best
            if bid is not None and ask is not None:
                yield when, (bid, *book.sides[0][bid], ask, *book.sides[1][ask])


def test_market_by_order_records_give_the_reference_tops_and_last_book(mbo: Decoded) -> None:
    expected, tick_nano = mbo.expected, int(mbo.feed.instruments[0].tick * 10**9)
    book, digest, states, crossed = OrderBook(), hashlib.sha256(), 0, []
    before: tuple[int, ...] = ()
    for when, top in tops_at_event_ends(mbo.rows, book):
        if top[0] >= top[3]:
            crossed.append((when, top[0] == top[3]))
        if top != before:
            bid, bid_lots, bid_orders, ask, ask_lots, ask_orders = top
            line = f"{when} {bid * tick_nano} {bid_lots} {bid_orders} {ask * tick_nano} {ask_lots} {ask_orders}\n"
            digest.update(line.encode())
            states += 1
            before = top
    assert (states, digest.hexdigest()) == (expected["bbo_states"], expected["bbo_sha256"])
    assert len(crossed) == expected["crossed_at_event_end"]
    assert sum(locked for _, locked in crossed) == expected["locked_at_event_end"]
    ends = [utc(crossed[at][0], "ns") for at in (0, -1)] if crossed else []
    assert ends == expected["crossed_first_last"]
    assert book.unknown == expected["duplicate_adds"] + sum(expected["unknown_order"].values())
    final = expected["final"]
    bids, asks = book.sides
    assert (len(book.orders), len(bids), len(asks)) == (final["orders"], final["bid_levels"], final["ask_levels"])
    totals = [sum(size for size, _ in levels.values()) for levels in (bids, asks)]
    assert totals == [final["bid_size_total"], final["ask_size_total"]]
    for levels, best_first, name in ((bids, True, "top5_bids"), (asks, False, "top5_asks")):
        top5 = sorted(levels, reverse=best_first)[:5]
        assert [[float(mbo.price(p)), *levels[p]] for p in top5] == final[name]


def test_market_by_order_records_are_as_many_as_the_file_has(mbo: Decoded) -> None:
    expected, feed, rows = mbo.expected, mbo.feed, mbo.rows
    counts = expected["by_action_side"]
    fills = sum(n for letters, n in counts.items() if letters[0] == "F")
    assert feed.lines == expected["records"]
    assert feed.messages == expected["events_LAST"]
    assert feed.counters == ({FILL_SKIPPED: fills} if fills else {})
    assert len(rows) == expected["records"] - fills
    book = rows[rows["kind"] != TRADE]
    for letter, action in (("A", ADD), ("C", DELETE), ("M", MODIFY)):
        for side_letter, side in (("B", BID), ("A", SELL)):
            found = np.count_nonzero((book["action"] == action) & (book["side"] == side))
            assert found == counts.get(letter + side_letter, 0)
    snapshot = rows[rows["kind"] == BOOK_SNAPSHOT]
    assert len(snapshot) == expected["snapshot_records"]
    assert [int(n) for n in np.flatnonzero(snapshot["flags"] & EVENT_FIRST)] == [0]
    assert [int(n) for n in np.flatnonzero(snapshot["flags"] & EVENT_END)] == [len(snapshot) - 1]
    live = rows[rows["kind"] != BOOK_SNAPSHOT]
    assert (utc(int(live["ts_recv_ns"][0]), "ns") if len(live) else None) == expected["first_live_ts_recv"]
    assert utc(int(rows["ts_recv_ns"][0]), "ns") == expected["ts_recv_first"]
    assert utc(int(rows["ts_recv_ns"][-1]), "ns") == expected["ts_recv_last"]
    assert np.count_nonzero(np.diff(rows["ts_recv_ns"]) < 0) == expected["ts_recv_backwards"]
    assert np.count_nonzero(np.diff(rows["ts_event_ns"]) < 0) == expected["ts_event_backwards"]
    assert np.count_nonzero(np.diff(rows["venue_seq"]) < 0) == expected["sequence_backwards"]


def test_market_by_order_trades_have_the_reference_volume_and_aggressors(mbo: Decoded) -> None:
    expected, trades = mbo.expected.get("trades"), mbo.of(TRADE)
    if expected is None:
        assert len(trades) == 0
        return
    prices, lots = trades["price_ticks"], trades["qty_lots"]
    assert (len(trades), lots.sum()) == (expected["n"], expected["volume"])
    vwap = mbo.price(int((prices * lots).sum())) / int(lots.sum())
    assert vwap.quantize(EIGHT) == Decimal(str(expected["vwap"]))
    found = [float(mbo.price(p)) for p in (prices.max(), prices.min(), prices[0], prices[-1])]
    assert found == [expected[name] for name in ("high", "low", "first", "last")]
    for side, name in ((BUY, "aggressor_buy_volume"), (SELL, "aggressor_sell_volume"), (NO_SIDE, "none")):
        assert lots[trades["side"] == side].sum() == expected[name]
    hours = {utc(int(ns), "ns")[:13] + ":00" for ns in trades["ts_event_ns"]}
    hourly = [expected[name] for name in ("first", "high", "low", "last", "volume", "n")]
    assert mbo.expected["hourly_ohlcv_by_ts_event"] == [[*hours, *hourly]]
