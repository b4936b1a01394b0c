"""The engine's own book, folded from recorded feeds, and what their raw records tell besides, beside the reference figures."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from handlers.domain.book import NO_LEVEL, apply_market, level_at, level_key, mid_twice, new_markets, next_level
from handlers.domain.reasons import FILL_SKIPPED
from tests.golden.decoded import Decoded, decode, reference
from tests.golden.raw_capture import RawCapture
from tests.golden.raw_mbo import raw_records
from transport.compiled import kernel
from transport.records import ASK, BID, BOOK_DELTA, BUY, EVENT_END, NO_SIDE, SELL, TRADE, joined


@kernel
def _fold(markets, books, rows):
    for i in range(len(rows)):
        apply_market(markets[0], books, rows[i])


@kernel
def _ladder(markets, side, out):
    m = markets[0]
    n = 0
    key = m.best[side - BID]
    while key != NO_LEVEL:
        price = level_key(side, key)
        lots, orders = level_at(m, side, price)
        out[n, 0], out[n, 1], out[n, 2] = price, lots, orders
        n += 1
        key = next_level(m, side - BID, key)
    return n


@kernel
def _mid_twice(markets):
    return mid_twice(markets[0])


class EngineBook:
    """`handlers.domain.book` over the rows of a feed of one instrument."""

    def __init__(self, feed: Decoded) -> None:
        self.markets, self.books = new_markets([feed.feed.instruments[0].book == "l3"])
        _fold(self.markets, self.books, feed.rows)

    def side(self, side: int) -> np.ndarray[Any, Any]:
        """(ticks, lots, orders) of every level, best first, met by walking from level to level."""
        out = np.zeros((20_000, 3), np.int64)
        return out[: _ladder(self.markets, side, out)]


def whole(spec: Path, expected: dict[str, Any]) -> Decoded:
    found = decode(spec, expected)
    return Decoded(found.feed, joined(*found.feed.chunks(4096)), expected)


# --- order by order -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module", params=["20231224", "20231225"])
def mbo(request: pytest.FixtureRequest, data_dir: Path) -> tuple[Decoded, list[Any]]:
    path = data_dir / "databento_mbo_esh4" / f"esh4-glbx-mdp3-{request.param}.mbo.dbn.zst"
    return whole(path, reference(data_dir, f"mbo_esh4_{request.param}")), raw_records(path)


def test_the_engines_book_of_orders_ends_as_the_reference_book(mbo: tuple[Decoded, list[Any]]) -> None:
    feed, final = mbo[0], mbo[0].expected["final"]
    book = EngineBook(feed)
    market, orders = book.markets[0], book.books[0]
    assert (market["valid"], market["dropped"], market["unknown_orders"], orders["dropped"]) == (1, 0, 0, 0)
    assert orders["orders"] == np.count_nonzero(orders["qty_lots"]) == final["orders"]
    assert market["levels"].tolist() == [final["bid_levels"], final["ask_levels"]]
    for side, levels, total, top5 in ((BID, "bid_levels", "bid_size_total", "top5_bids"), (ASK, "ask_levels", "ask_size_total", "top5_asks")):
        ladder = book.side(side)
        assert len(ladder) == final[levels]
        assert ladder[:, 1].sum() == orders["qty_lots"][orders["side"] == side].sum() == final[total]
        assert ladder[:, 2].sum() == np.count_nonzero(orders["side"][orders["qty_lots"] > 0] == side)
        assert [[float(feed.price(p)), lots, n] for p, lots, n in ladder[:5].tolist()] == final[top5]


def test_each_letter_and_side_of_the_raw_records_is_counted_as_in_the_reference_and_has_its_place_in_the_line(
    mbo: tuple[Decoded, list[Any]],
) -> None:
    """T is a trade of its aggressor's side; F, the fill of one resting order, is counted and makes no record."""
    feed, raw = mbo
    counts = Counter(f"{r.action}{r.side}" for r in raw)
    assert counts == feed.expected["by_action_side"]
    trades = feed.of(TRADE)
    for letter, side in (("B", BUY), ("A", SELL), ("N", NO_SIDE)):
        assert np.count_nonzero(trades["side"] == side) == counts["T" + letter]
    fills = [k for k, r in enumerate(raw) if str(r.action) == "F"]
    assert not np.isin(feed.rows["origin"], fills).any()
    assert feed.feed.counters.get(FILL_SKIPPED, 0) == len(fills) == sum(counts["F" + letter] for letter in "BAN")
    expected = feed.expected.get("trades", {})
    assert sum(raw[k].size for k in fills) == expected.get("fill_volume_F", 0)
    assert sum(r.size for r in raw if str(r.action) == "T") == trades["qty_lots"].sum() == expected.get("volume", 0)


# --- levels ---------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module", params=["usdm", "spot"])
def binance(request: pytest.FixtureRequest, data_dir: Path) -> tuple[Decoded, RawCapture]:
    folder = data_dir / "binance_ws_capture" / request.param
    return whole(folder, reference(data_dir, f"binance_{request.param}_btcusdt")), RawCapture(folder, request.param == "usdm")


def test_the_engines_book_of_levels_ends_as_the_reference_book(binance: tuple[Decoded, RawCapture], data_dir: Path) -> None:
    feed, expected = binance[0], binance[0].expected["book"]
    book = EngineBook(feed)
    market = book.markets[0]
    assert (market["valid"], market["dropped"]) == (1, 0)
    assert market["levels"].tolist() == expected["final_levels"]
    for side, best, name in ((BID, "bid", "final_top5_bids"), (ASK, "ask", "final_top5_asks")):
        ladder = book.side(side)
        assert len(ladder) == expected["final_levels"][side - BID]
        found = [[feed.price(p), feed.qty(lots)] for p, lots, _ in ladder[:5].tolist()]
        assert found == [[Decimal(p), Decimal(q)] for p, q in expected[name]]
        quote = feed.expected["book_ticker"]["last"]
        assert found[0] == [Decimal(text) for text in (quote[:2] if best == "bid" else quote[2:4])]
    if binance[1].futures:
        assert feed.price(_mid_twice(book.markets)) / 2 == Decimal(reference(data_dir, "replay")["book_walk"]["final_mid"])


def test_every_raw_trade_is_of_the_reference_types_and_a_record_of_the_line(binance: tuple[Decoded, RawCapture]) -> None:
    """The type of the order behind a trade is no field of a record: the line takes every trade, and these have a price."""
    feed, raw = binance
    expected, trades = feed.expected["trades"], feed.of(TRADE)
    told = [m for _, m in raw.of("trade")]
    assert Counter(m.get("X", "-") for m in told) == expected["order_types"]
    assert sum(Decimal(m["p"]) == 0 for m in told) == expected["zero_price"] == np.count_nonzero(trades["price_ticks"] == 0)
    ids = [m["t"] for m in told]
    assert trades["venue_seq"].tolist() == ids
    assert len(ids) - len(set(ids)) == expected["id_duplicates"]
    assert ids[-1] - ids[0] + 1 - len(set(ids)) == expected["id_missing"]


def test_the_local_clock_is_behind_the_exchanges_by_the_reference_times(binance: tuple[Decoded, RawCapture]) -> None:
    """Of futures the line keeps T, when the book changed, and not E, when that was sent; of spot there is E alone."""
    feed, raw = binance
    depth = raw.of("depthUpdate")
    late = [when / 1e6 - m["E"] for when, m in depth]
    expected = feed.expected["local_minus_E_ms(depth)"]
    found = {"min": min(late), "median": median(late), "max": max(late)}
    assert {name: round(ms, 3) for name, ms in found.items()} == expected
    ends = feed.of(BOOK_DELTA)
    ends = ends[ends["flags"] & EVENT_END != 0]
    kept = {when: m["T" if raw.futures else "E"] * 1_000_000 for when, m in depth}
    assert ends["ts_event_ns"].tolist() == [kept[when] for when in ends["ts_recv_ns"].tolist()]
    if raw.futures:
        assert {m["E"] - m["T"] >= 0 for _, m in depth} == {True}
