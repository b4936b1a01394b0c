"""What `tickline export` writes is read back as a feed, without a map: the same market records, from CSV and from Parquet."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from engine.export import write_table
from engine.feeds import open_feeds
from engine.journaling import MarketHash
from handlers.ingest.feed import Rows
from handlers.ingest.synthetic.feed import SyntheticFeed
from tests.unit.made_tables import rows_of
from transport.instruments import Instrument
from transport.records import BAR, EVENT_END, QUOTE, TRADE, copied, empty

TABLE = (Instrument("AAA", "one", Decimal("0.01"), Decimal("0.001")), Instrument("BBB", "two", Decimal("0.25"), Decimal(1)))
COMMON = ("kind", "ts_event_ns", "ts_recv_ns", "instrument_id", "side", "flags")
FIELDS = {
    "trades": (*COMMON, "price_ticks", "qty_lots", "venue_seq"),
    "quotes": (*COMMON, "price_ticks", "qty_lots", "ask_ticks", "ask_lots", "venue_seq"),
    "bars": ("kind", "instrument_id", "open_ticks", "high_ticks", "low_ticks", "close_ticks", "volume_lots", "notional_ticks_lots", "trades", "ts_open_ns", "interval_ns"),
}  # fmt: skip
T0 = 1_723_161_256 * 10**9


def some(rows: int, kind: int, seed: int) -> tuple[np.random.Generator, Rows]:
    chance = np.random.default_rng(seed)
    out = empty(rows)
    out["kind"], out["flags"], out["source_id"] = kind, EVENT_END, 16
    out["instrument_id"] = chance.integers(0, 2, rows)
    return chance, out


def quotes(seed: int) -> Rows:
    chance, out = some(500, QUOTE, seed)
    out["ts_event_ns"] = T0 + np.cumsum(chance.integers(0, 10**9, 500))
    out["ts_recv_ns"] = out["ts_event_ns"] + chance.integers(-(10**6), 10**9, 500)
    out["qty_lots"], out["ask_lots"] = chance.integers(0, 3, 500), chance.integers(0, 3, 500)
    out["price_ticks"] = np.where(out["qty_lots"] > 0, chance.integers(-50, 10**6, 500), 0)  # an empty side has no price
    out["ask_ticks"] = np.where(out["ask_lots"] > 0, chance.integers(-50, 10**6, 500), 0)
    out["venue_seq"] = chance.integers(0, 2**40, 500)
    return out


def bars(seed: int) -> Rows:
    chance, out = some(500, BAR, seed)
    prices = np.sort(chance.integers(1, 10**6, (500, 4)), axis=1)
    out["low_ticks"], out["open_ticks"], out["close_ticks"], out["high_ticks"] = prices.T
    out["volume_lots"], out["notional_ticks_lots"], out["trades"] = (chance.integers(0, 10**9, 500) for _ in range(3))
    out["interval_ns"] = 60 * 10**9
    out["ts_open_ns"] = T0 + 60 * 10**9 * np.arange(500)
    return out


def trades(seed: int) -> Rows:
    feed = SyntheticFeed(seed % 2**32, 4000, 2)
    rows = next(feed.chunks(4000))
    rows = copied(rows, rows["kind"] == TRADE)
    rows["flags"] = EVENT_END  # a table says neither who made it nor what came of the book in the same event
    return rows


def market_of(rows: Rows) -> str:
    """The hash by which two runs are said to have seen the same market."""
    market = MarketHash([i.name for i in TABLE])
    market.update(rows)
    return market.digest()


@pytest.mark.parametrize(("name", "make"), [("trades", trades), ("quotes", quotes), ("bars", bars)])
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_an_exported_table_is_the_same_market_when_it_is_read(tmp_path: Path, seed: int, name: str, make: Callable[[int], Rows], form: str) -> None:
    due = make(seed)
    path = tmp_path / f"any.{form}"
    assert write_table([due], name, TABLE, out=path, format=form) == len(due) > 100
    (feed,), instruments = open_feeds([str(path)], TABLE)
    assert set(instruments) == set(TABLE)
    rows = rows_of(feed.decoder)
    assert feed.counted() == {}
    own = np.array([TABLE.index(instrument) for instrument in instruments], np.uint32)
    rows["instrument_id"] = own[rows["instrument_id"]]
    for field in FIELDS[name]:
        assert rows[field].tolist() == due[field].tolist(), field
    assert market_of(rows) == market_of(due)
    if name == "bars":
        assert rows["ts_recv_ns"].tolist() == (due["ts_open_ns"] + due["interval_ns"]).tolist()
