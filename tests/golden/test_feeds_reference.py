"""Decoded feeds against reference figures that independent scripts computed from the same recorded files.

The books here are plain dicts folded in Python from the records, so nothing but the decoding is on trial.
"""

from __future__ import annotations

import bisect
import hashlib
import time
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from handlers.domain.reasons import DEPTH_STALE
from handlers.ingest.feed import message_index
from handlers.ingest.formats import open_feed
from transport.instruments import plain
from transport.records import (
    BID,
    BOOK_DELTA,
    BOOK_SNAPSHOT,
    BUY,
    EVENT_END,
    EVENT_FIRST,
    QUOTE,
    SELL,
    TRADE,
)

from tests.golden.decoded import EIGHT, Decoded, decode, reference, utc

MINUTE_NS = 60 * 10**9


@pytest.fixture(scope="module", params=["usdm", "spot"])
def binance(request: pytest.FixtureRequest, data_dir: Path) -> Decoded:
    return decode(
        data_dir / "binance_ws_capture" / request.param, reference(data_dir, f"binance_{request.param}_btcusdt")
    )


def test_every_line_of_a_capture_is_a_message_of_a_known_stream(binance: Decoded) -> None:
    expected, feed = binance.expected, binance.feed
    assert feed.lines == feed.messages == expected["lines"]
    applied = np.count_nonzero(binance.of(BOOK_DELTA)["flags"] & EVENT_END)
    assert feed.counters == {DEPTH_STALE: expected["book"]["dropped_before_snapshot"]}
    streams = expected["streams"]
    assert applied + feed.counters[DEPTH_STALE] == streams["depth"]
    assert len(binance.of(QUOTE)) == streams["bookTicker"]
    assert len(binance.of(TRADE)) == streams["trade"]
    assert np.count_nonzero(binance.of(BOOK_SNAPSHOT)["flags"] & EVENT_FIRST) == streams["rest_depth_snapshot"]
    times = feed.receive_times()
    assert (times[0], times[-1]) == (expected["local_ts_first"], expected["local_ts_last"])


def test_trades_have_the_reference_volume_prices_and_aggressors(binance: Decoded) -> None:
    trades, expected = binance.of(TRADE), binance.expected["trades"]
    ids = trades["venue_seq"]
    assert (ids[0], ids[-1], len(ids)) == (expected["id_first"], expected["id_last"], expected["n"])
    assert np.all(np.diff(ids) == 1)
    assert not np.any(np.diff(trades["ts_event_ns"]) < 0)
    assert utc(int(trades["ts_event_ns"][0]), "ms") == expected["T_first"]
    assert utc(int(trades["ts_event_ns"][-1]), "ms") == expected["T_last"]
    pairs = list(zip(trades["price_ticks"].tolist(), trades["qty_lots"].tolist(), strict=True))
    volume = binance.qty(sum(q for _, q in pairs))
    notional = binance.price(1) * binance.qty(1) * sum(p * q for p, q in pairs)
    assert (volume, notional) == (Decimal(expected["volume"]), Decimal(expected["notional"]))
    assert (notional / volume).quantize(EIGHT) == Decimal(expected["vwap"])
    for side, name in ((BUY, "buy_aggr_volume"), (SELL, "sell_aggr_volume")):
        assert binance.qty(trades["qty_lots"][trades["side"] == side].sum()) == Decimal(expected[name])
    prices = trades["price_ticks"]
    found = [binance.price(p) for p in (prices.max(), prices.min(), prices[0], prices[-1])]
    assert found == [Decimal(expected[name]) for name in ("high", "low", "first", "last")]


def test_trades_make_the_reference_minute_bars(binance: Decoded) -> None:
    bars: dict[int, list[int]] = {}
    trades = binance.of(TRADE)
    columns = (trades[name].tolist() for name in ("ts_event_ns", "price_ticks", "qty_lots"))
    for when, price, qty in zip(*columns, strict=True):
        bar = bars.setdefault(when - when % MINUTE_NS, [price, price, price, price, 0, 0])
        bar[1], bar[2], bar[3] = max(bar[1], price), min(bar[2], price), price
        bar[4] += qty
        bar[5] += 1
    found = [
        [utc(at, "ms"), *(binance.price(p) for p in bar[:4]), binance.qty(bar[4]), Decimal(bar[5])]
        for at, bar in bars.items()
    ]
    expected = binance.expected["bars_1m_by_T(file order)"]
    assert found == [[at, *(Decimal(text) for text in bar)] for at, *bar in expected]


def order_flow_imbalance(quotes: list[tuple[int, int, int, int]]) -> int:
    """Sum over consecutive quotes (bid, lots, ask, lots) of e_n in Cont, Kukanov & Stoikov (2014), section 2.1; in lots."""
    total = 0
    for (b0, qb0, a0, qa0), (b1, qb1, a1, qa1) in pairwise(quotes):
        total += (qb1 if b1 >= b0 else 0) - (qb0 if b1 <= b0 else 0)
        total += (qa0 if a1 >= a0 else 0) - (qa1 if a1 <= a0 else 0)
    return total


def test_quotes_have_the_reference_spreads_and_order_flow_imbalance(binance: Decoded) -> None:
    quotes, expected = binance.of(QUOTE), binance.expected["book_ticker"]
    four = [quotes[name].tolist() for name in ("price_ticks", "qty_lots", "ask_ticks", "ask_lots")]
    table = list(zip(*four, strict=True))
    for at, name in ((0, "first"), (-1, "last")):
        bid, bid_lots, ask, ask_lots = table[at]
        found = [binance.price(bid), binance.qty(bid_lots), binance.price(ask), binance.qty(ask_lots)]
        assert found == [Decimal(text) for text in expected[name]]
    spreads = [ask - bid for bid, _, ask, _ in table]
    assert min(spreads) > 0
    assert (binance.price(sum(spreads)) / len(spreads)).quantize(EIGHT) == Decimal(expected["mean_spread"])
    times = quotes["ts_recv_ns"].tolist()
    held = [after - before for before, after in pairwise(times)]
    weighted = sum(spread * ns for spread, ns in zip(spreads, held, strict=False))
    mean = binance.price(weighted) / (times[-1] - times[0])
    assert mean.quantize(EIGHT) == Decimal(expected["time_weighted_spread_local_ts"])
    assert binance.qty(order_flow_imbalance(table)) == Decimal(expected["OFI_sum"])
    assert not np.any(np.diff(quotes["venue_seq"]) < 0)


@dataclass
class DictBook:
    """Two dicts of price -> lots; the best of a side is kept and searched for anew when it goes."""

    sides: tuple[dict[int, int], dict[int, int]] = field(default_factory=lambda: ({}, {}))
    best: list[int | None] = field(default_factory=lambda: [None, None])

    def set(self, side: int, price: int, lots: int) -> None:
        s = 0 if side == BID else 1
        levels, better = self.sides[s], max if s == 0 else min
        if lots:
            levels[price] = lots
            best = self.best[s]
            self.best[s] = price if best is None else better(best, price)
        elif levels.pop(price, None) is not None and price == self.best[s]:
            self.best[s] = better(levels) if levels else None


@dataclass
class Folded:
    """The depth records folded: top after every applied event, and the last book."""

    book: DictBook
    snapshot_levels: list[int]
    snapshot_best: list[int | None]
    tops: list[tuple[int, int, int, int, int]]  # update id, bid, lots, ask, lots


def fold(rows: np.ndarray[Any, Any]) -> Folded:
    folded = Folded(DictBook(), [], [], [])
    depth = rows[(rows["kind"] == BOOK_DELTA) | (rows["kind"] == BOOK_SNAPSHOT)]
    names = ("kind", "flags", "side", "price_ticks", "qty_lots", "venue_seq")
    for kind, flags, side, price, lots, seq in zip(*(depth[n].tolist() for n in names), strict=True):
        if flags & EVENT_FIRST:
            folded.book = DictBook()
        book = folded.book
        book.set(side, price, lots)
        if flags & EVENT_END and kind == BOOK_SNAPSHOT:
            folded.snapshot_levels = [len(levels) for levels in book.sides]
            folded.snapshot_best = list(book.best)
        elif flags & EVENT_END:
            bid, ask = book.best
            assert bid is not None
            assert ask is not None
            folded.tops.append((seq, bid, book.sides[0][bid], ask, book.sides[1][ask]))
    return folded


@pytest.fixture(scope="module")
def folded(binance: Decoded) -> Folded:
    return fold(binance.rows)


def test_depth_starts_from_the_snapshot_and_follows_without_a_gap(binance: Decoded, folded: Folded) -> None:
    expected, deltas = binance.expected["book"], binance.of(BOOK_DELTA)
    snapshot = binance.of(BOOK_SNAPSHOT)
    assert set(snapshot["venue_seq"].tolist()) == {expected["snapshot_lastUpdateId"]}
    assert folded.snapshot_levels == expected["snapshot_levels"]
    assert [binance.price(p or 0) for p in folded.snapshot_best] == [Decimal(t) for t in expected["snapshot_best"]]
    first, last, previous = expected["first_applied_U_u_pu"]
    found = [int(deltas[name][0]) for name in ("first_seq", "venue_seq", "prev_seq")]
    assert found == [first, last, first - 1 if previous is None else previous]
    assert len(folded.tops) == expected["applied"]
    ends = deltas[deltas["flags"] & EVENT_END != 0]
    assert np.all(ends["prev_seq"][1:] == ends["venue_seq"][:-1])


def test_depth_gives_the_reference_top_after_every_event_and_the_reference_last_book(
    binance: Decoded, folded: Folded
) -> None:
    expected = binance.expected["book"]
    digest = hashlib.sha256()
    for seq, bid, bid_lots, ask, ask_lots in folded.tops:
        values = (binance.price(bid), binance.qty(bid_lots), binance.price(ask), binance.qty(ask_lots))
        digest.update(f"{seq} {' '.join(map(plain, values))}\n".encode())
    assert digest.hexdigest() == expected["top_sha256"]
    assert not [top for top in folded.tops if top[1] >= top[3]]
    bids, asks = folded.book.sides
    assert [len(bids), len(asks)] == expected["final_levels"]
    for levels, best_first, name in ((bids, True, "final_top5_bids"), (asks, False, "final_top5_asks")):
        top = sorted(levels, reverse=best_first)[:5]
        found = [[binance.price(p), binance.qty(levels[p])] for p in top]
        assert found == [[Decimal(p), Decimal(q)] for p, q in expected[name]]


def test_depth_agrees_with_the_separate_quote_stream_as_often_as_the_reference(
    binance: Decoded, folded: Folded
) -> None:
    """Against the last quote that came before the depth message and is not of a later update."""
    expected, quotes, deltas = binance.expected["book"], binance.of(QUOTE), binance.of(BOOK_DELTA)
    names = ("price_ticks", "qty_lots", "ask_ticks", "ask_lots")
    table = list(zip(*(quotes[name].tolist() for name in names), strict=True))
    ids, lines = quotes["venue_seq"].tolist(), quotes["origin"].tolist()
    depth_lines = deltas["origin"][deltas["flags"] & EVENT_END != 0].tolist()
    prices = both = checked = 0
    for line, (seq, *top) in zip(depth_lines, folded.tops, strict=True):
        at = min(bisect.bisect_left(lines, line), bisect.bisect_right(ids, seq)) - 1
        if at >= 0:
            checked += 1
            prices += (top[0], top[2]) == (table[at][0], table[at][2])
            both += tuple(top) == table[at]
    names = ("depth_vs_bookTicker_checked", "best_price_match", "best_price_and_size_match")
    assert [checked, prices, both] == [expected[name] for name in names]


def test_depth_shows_the_local_clock_behind_the_exchange(binance: Decoded) -> None:
    """The reference is by E; futures records keep T, the transaction's time, which is a few ms before it."""
    ends = binance.of(BOOK_DELTA)
    ends = ends[ends["flags"] & EVENT_END != 0]
    late_ms = (ends["ts_recv_ns"] - ends["ts_event_ns"]) / 1e6
    expected, futures = binance.expected["local_minus_E_ms(depth)"], binance.feed.instruments[0].venue == "binance_usdm"
    assert median(late_ms.tolist()) == pytest.approx(expected["median"], abs=5 if futures else 0.01)
    assert late_ms.min() >= expected["min"] - 0.001
    assert late_ms.max() < (0 if futures else expected["max"] + 0.001)


def test_merge_of_both_captures_has_the_reference_order(data_dir: Path) -> None:
    expected = reference(data_dir, "replay")["merge"]
    folder = data_dir / "binance_ws_capture"
    merged = message_index([open_feed(str(folder / "usdm")), open_feed(str(folder / "spot"))])
    assert len(merged) == expected["events"]
    assert np.count_nonzero(np.diff(merged[:, 1])) == expected["source_switches"]
    assert np.count_nonzero(np.diff(merged[:, 0]) == 0) == expected["equal_timestamps"]
    text = "".join(f"{ns} {source} {line}\n" for ns, source, line in merged.tolist())
    assert hashlib.sha256(text.encode()).hexdigest() == expected["sha256"]


def test_three_captures_are_decoded_in_seconds(data_dir: Path) -> None:
    began = time.perf_counter()
    lines = 0
    for name in ("usdm", "spot"):
        feed = open_feed(str(data_dir / "binance_ws_capture" / name))
        for _ in feed.chunks(4096):
            pass
        lines += feed.lines
    assert lines == 193_528
    assert time.perf_counter() - began < 12.0  # 2.2 s on an idle core; the bound is for a shared one
