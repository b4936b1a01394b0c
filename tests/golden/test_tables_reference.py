"""Recorded bars and panels read as tables, by a map beside them, held to the figures of the reference scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.table_maps import read_map
from handlers.ingest.feed import Rows
from handlers.ingest.formats import open_feed
from tests.unit.made_tables import rows_of
from transport.instruments import Instrument
from transport.records import BAR

DAY_NS, MINUTE_NS = 86_400 * 10**9, 60 * 10**9
STOCKS = """
kind = "bar"
venue = "us"
interval = "1d"
order = "time"          # the file has one ticker after the other
time.zone = "America/New_York"
[columns]
symbol = "Ticker"
open_time = "Date"
"""
EURO = """
kind = "bar"
venue = "xcme"
symbol = "6EH4"
interval = "1m"
columns = { close_time = "timestamp_utc", open = "open", high = "high", low = "low", close = "close", volume = "volume" }
"""
PANEL = """
kind = "bar"
venue = "us"
interval = "1d"
wide = true
columns.open_time = "Date"
"""


def read(source: Path, table: str, folder: Path) -> tuple[tuple[Instrument, ...], Rows]:
    """The instruments and records of a recorded file that a map lies beside."""
    data = folder / source.name
    data.symlink_to(source)
    data.with_name(data.name + ".toml").write_text(table)
    feed = open_feed(str(data), read_map=read_map)
    rows = rows_of(feed)
    assert feed.counters == {}
    assert (rows["kind"] == BAR).all()
    assert (np.diff(rows["ts_recv_ns"]) >= 0).all()
    assert (rows["ts_recv_ns"] >= rows["ts_open_ns"] + (rows["interval_ns"] // DAY_NS) * 23 * 3600 * 10**9).all(), "a bar is known when it closes"
    return feed.instruments, rows


def day(ns: Any) -> str:
    return str(np.datetime64(int(ns), "ns").astype("datetime64[D]"))


@pytest.fixture(scope="module")
def stocks(data_dir: Path) -> dict[str, Any]:
    return dict(json.loads((data_dir / "reference" / "bokeh_stocks.json").read_text()))


def test_daily_bars_of_five_stocks(data_dir: Path, tmp_path: Path, stocks: dict[str, Any]) -> None:
    table = STOCKS + 'open = "Open"\nhigh = "High"\nlow = "Low"\nclose = "Close"\nvolume = "Volume"\n'
    instruments, rows = read(data_dir / "bokeh_stocks_ohlcv" / "stocks.csv.gz", table, tmp_path)
    assert [i.symbol for i in instruments] == ["AAPL", "FB", "GOOG", "IBM", "MSFT"] == sorted(stocks)
    for place, instrument in enumerate(instruments):
        due, own = stocks[instrument.symbol], np.flatnonzero(rows["instrument_id"] == place)
        closes = rows["close_ticks"][own]
        assert len(own) == due["rows"]
        assert int(rows["volume_lots"][own].sum()) == due["volume"]
        assert (day(rows["ts_open_ns"][own[0]]), day(rows["ts_open_ns"][own[-1]])) == (due["first"], due["last"])
        assert float(instrument.price(int(closes[-1]))) == due["close_last"]
        assert closes[-1] / closes[0] - 1 == pytest.approx(due["raw_total_return"], abs=5e-9)


def test_adjusted_closes_of_five_stocks(data_dir: Path, tmp_path: Path, stocks: dict[str, Any]) -> None:
    instruments, rows = read(data_dir / "bokeh_stocks_ohlcv" / "stocks.csv.gz", STOCKS + 'close = "Adj Close"\n', tmp_path)
    for place, instrument in enumerate(instruments):
        closes = rows["close_ticks"][rows["instrument_id"] == place]
        assert float(instrument.price(int(closes[-1]))) == stocks[instrument.symbol]["adj_close_last"]
        assert closes[-1] / closes[0] - 1 == pytest.approx(stocks[instrument.symbol]["adj_total_return"], abs=5e-9)


def test_minute_bars_of_the_euro_future(data_dir: Path, tmp_path: Path) -> None:
    due = json.loads((data_dir / "reference" / "xcme_6e.json").read_text())
    (instrument,), rows = read(next((data_dir / "xcme_6e_1min").glob("*.csv.gz")), EURO, tmp_path)
    closes, volumes, times = rows["close_ticks"], rows["volume_lots"], rows["ts_event_ns"]
    gaps = np.diff(times)
    assert str(instrument.tick) == "0.00001"
    assert len(rows) == due["rows"]
    assert int(volumes.sum()) == due["volume"]
    assert [float(instrument.price(int(t))) for t in (rows["high_ticks"].max(), rows["low_ticks"].min(), closes[-1])] == [due["high"], due["low"], due["close_last"]]
    assert (int(np.count_nonzero(gaps > MINUTE_NS)), float(gaps.max() / MINUTE_NS)) == (due["gaps_over_1min"], due["largest_gap_minutes"])
    assert float(np.dot(closes, volumes)) / due["volume"] * 1e-5 == pytest.approx(due["vwap_close"], abs=5e-9)
    days, first = np.unique(times // DAY_NS, return_index=True)
    assert len(days) == due["bars_1d_utc"]
    for k, (date, opened, high, low, closed, volume) in enumerate(due["daily_utc_first3"]):
        own = slice(first[k], first[k + 1])
        found = [rows["open_ticks"][own][0], rows["high_ticks"][own].max(), rows["low_ticks"][own].min(), closes[own][-1]]
        assert day(times[first[k]]) == date
        assert [float(instrument.price(int(t))) for t in found] == [opened, high, low, closed]
        assert int(volumes[own].sum()) == volume


def test_a_panel_of_twenty_stocks_since_1990(data_dir: Path, tmp_path: Path) -> None:
    due = json.loads((data_dir / "reference" / "panel_sp500.json").read_text())
    instruments, rows = read(data_dir / "skfolio_sp500" / "sp500_dataset.csv.gz", PANEL, tmp_path)
    assert [i.symbol for i in instruments] == due["columns"]
    assert len(rows) == due["rows"] * due["assets"]
    prices = rows["close_ticks"].reshape(due["rows"], due["assets"]) * np.array([float(i.tick) for i in instruments])
    assert {i.symbol: round(float(p), 6) for i, p in zip(instruments, prices[-1], strict=True)}.items() >= due["last_prices"].items()
    assert (day(rows["ts_open_ns"][0]), day(rows["ts_open_ns"][-1])) == (due["first"], due["last"])
    returns = (prices[1:] / prices[:-1] - 1).mean(axis=1)
    wealth = np.cumprod(1 + returns)
    equal = due["equal_weight_daily_rebalanced"]
    assert returns.mean() * 252 == pytest.approx(equal["ann_mean"], abs=5e-8)
    assert returns.std(ddof=1) * np.sqrt(252) == pytest.approx(equal["ann_vol"], abs=5e-6)
    assert wealth[-1] - 1 == pytest.approx(equal["total_return"], abs=5e-5)
    assert (wealth / np.maximum.accumulate(wealth) - 1).min() == pytest.approx(equal["max_drawdown"], abs=5e-8)
    assert np.abs(prices[1:] / prices[:-1] - 1).max() == pytest.approx(due["max_abs_daily_return"], abs=5e-8)
