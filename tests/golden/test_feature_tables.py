"""Indicators against tables that others published: Lean's reference tables, talipp's expected values, the stocks' last values."""

from __future__ import annotations

import csv
import gzip
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.bars import bars_of, series


class Column(NamedTuple):
    """A column of a table and the feature that makes it; `within` is the table's rounding, its input's included."""

    table: str
    column: str
    feature: str
    params: dict[str, float]
    value: str
    within: float
    count: int  # values compared


# Where the note says 7 digits, the table was rounded to, or computed with, seven significant digits, its inputs too.
LEAN = (
    Column("spy_with_indicators.txt", "SMA14", "sma", {"period": 14}, "sma", 0.006, 487),  # 7 digits of 14,000, of inputs of 2 places
    Column("spy_with_indicators.txt", "EMA14", "ema", {"period": 14}, "ema", 0.006, 487),
    Column("spy_with_indicators.txt", "MACD 12 26", "macd", {"signal": 1}, "macd", 2e-4, 475),
    Column("spy_with_indicators.txt", "RSI 14 Wilder", "rsi", {"period": 14}, "rsi", 5e-6, 486),
    Column("spy_with_macd.txt", "MACD", "macd", {}, "macd", 5e-6, 183),
    Column("spy_with_macd.txt", "Signal", "macd", {}, "signal", 6e-6, 183),
    Column("spy_with_macd.txt", "Histogram", "macd", {}, "histogram", 5e-6, 183),
    Column("spy_atr_wilder.txt", "Average True Range 14", "atr", {"period": 14}, "atr", 5.1e-6, 488),
    Column("spy_bollinger_bands.txt", "Moving Average 20", "bollinger", {}, "middle", 1e-12, 481),
    Column("spy_bollinger_bands.txt", "Bollinger Bands® 20 2 Top", "bollinger", {}, "upper", 6.1e-5, 481),  # 7 digits
    Column("spy_bollinger_bands.txt", "Bollinger Bands® 20 2 Bottom", "bollinger", {}, "lower", 6.1e-5, 481),
    Column("spy_bollinger_bands.txt", "BandWidth", "bollinger", {}, "bandwidth", 1.1e-4, 481),  # of the rounded bands
    Column("spy_bollinger_bands.txt", "%B", "bollinger", {}, "percent_b", 6.5e-5, 481),
    Column("spy_ema.csv", "EMA14", "ema", {"period": 14}, "ema", 0.0, 351),
    Column("spy_hma.txt", "HMA_16", "hma", {"period": 16}, "hma", 5e-8, 482),
    Column("spy_kama.txt", "KAMA_5", "kama", {"period": 5}, "kama", 1e-12, 495),
    Column("spy_with_adx.txt", "+DI14", "adx", {}, "plus_di", 5.1e-5, 477),
    Column("spy_with_adx.txt", "-DI14", "adx", {}, "minus_di", 5.1e-5, 477),
    Column("spy_with_adx.txt", "ADX 14", "adx", {}, "adx", 5.1e-5, 477),
    Column("spy_with_cci.txt", "Commodity Channel Index (CCI) 14", "cci", {"period": 14}, "cci", 2.5e-3, 488),  # 7 digits / 0.015
    Column("spy_with_don50.txt", "Donchian Channels 50 Top", "donchian", {"period": 50}, "upper", 0.0, 451),
    Column("spy_with_don50.txt", "Donchian Channels 50 Bottom", "donchian", {"period": 50}, "lower", 0.0, 451),
    Column("spy_with_don50.txt", "Donchian Channels 50 Mean", "donchian", {"period": 50}, "middle", 1e-12, 451),
    Column("spy_with_obv.txt", "OBV", "obv", {}, "obv", 1.5e3, 500),  # volumes of 7 digits, 1e8 each, summed
    Column("spy_with_stoch12k3.txt", "Stochastics 12 %K 3", "stochastic", {"period": 12, "k": 3, "d": 5}, "k", 4e-4, 484),  # 7 digits
    Column("spy_with_stoch12k3.txt", "%D 5", "stochastic", {"period": 12, "k": 3, "d": 5}, "d", 2.5e-4, 484),
    Column("spy_with_vwap.txt", "Moving VWAP 50", "vwap_moving", {"period": 50}, "vwap", 5.7e-5, 452),  # 7 digits
)
# talipp's indicator -> our feature, its parameters, our value of theirs.
TALIPP: dict[str, tuple[str, dict[str, float], dict[str, str]]] = {
    "ADX": ("adx", {"first_range": 1}, {"adx": "adx", "plus_di": "plus_di", "minus_di": "minus_di"}),
    "ATR": ("atr", {"period": 5}, {"": "atr"}),
    "AccuDist": ("accumulation", {}, {"": "accumulation"}),
    "Aroon": ("aroon", {"period": 10}, {"up": "up", "down": "down"}),
    "BB": ("bollinger", {"period": 5, "width": 2}, {"lb": "lower", "cb": "middle", "ub": "upper"}),
    "CCI": ("cci", {"period": 20}, {"": "cci"}),
    "DonchianChannels": ("donchian", {"period": 5}, {"lb": "lower", "cb": "middle", "ub": "upper"}),
    "EMA": ("ema", {"period": 20}, {"": "ema"}),
    "HMA": ("hma", {"period": 20}, {"": "hma"}),
    "KAMA": ("kama", {"period": 14, "fast": 2, "slow": 30}, {"": "kama"}),
    "MACD": ("macd", {"fast": 12, "slow": 26, "signal": 9}, {"macd": "macd", "signal": "signal", "histogram": "histogram"}),
    "MeanDev": ("mean_deviation", {"period": 20}, {"": "mean_deviation"}),
    "OBV": ("obv", {}, {"": "obv"}),
    "ParabolicSAR": (
        "parabolic_sar", {"step": 0.02, "increment": 0.02, "limit": 0.2, "first": 5},
        {"value": "sar", "ep": "extreme", "accel_factor": "acceleration"},
    ),
    "ROC": ("roc", {"period": 20}, {"": "roc"}),
    "RSI": ("rsi", {"period": 20, "seed": 19}, {"": "rsi"}),  # it begins with the mean of n - 1 changes
    "SMA": ("sma", {"period": 20}, {"": "sma"}),
    "SMMA": ("smma", {"period": 20}, {"": "smma"}),
    "StdDev": ("standard_deviation", {"period": 20}, {"": "standard_deviation"}),
    "Stoch": ("stochastic", {"period": 14, "k": 1, "d": 3}, {"k": "k", "d": "d"}),
    "SuperTrend": ("supertrend", {"period": 10, "width": 3}, {"value": "supertrend"}),
    "VWAP": ("vwap_session", {}, {"": "vwap"}),
    "WMA": ("wma", {"period": 20}, {"": "wma"}),
    "Williams": ("williams_r", {"period": 14}, {"": "williams_r"}),
}  # fmt: skip
STOCKS = ("AAPL", "FB", "GOOG", "IBM", "MSFT")
# Each last value of the stocks' reference: our feature, parameters and value.
LAST: dict[str, tuple[str, dict[str, float], str]] = {
    "sma20": ("sma", {"period": 20}, "sma"),
    "ema20": ("ema", {"period": 20}, "ema"),
    "rsi14_wilder": ("rsi", {"period": 14}, "rsi"),
    "atr14_wilder_tr_from_second_bar": ("atr", {"period": 14, "first_range": 0}, "atr"),
    "macd_12_26": ("macd", {}, "macd"),
    "macd_signal9": ("macd", {}, "signal"),
    "stoch14_k": ("stochastic", {"period": 14}, "k"),
    "vwap_typical_all": ("vwap_session", {}, "vwap"),
}


def number(cell: str) -> float:
    """A cell, NaN where there is none."""
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def table_of(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The columns of a CSV file by their heads, a short row's last cells NaN."""
    with path.open(encoding="utf-8-sig") as file:
        head, *rows = [row for row in csv.reader(file) if row]
    cells = np.array([[number(c) for c in (*row, *[""] * (len(head) - len(row)))] for row in rows])
    return {name.strip(): cells[:, k] for k, name in enumerate(head)}


@pytest.mark.parametrize("what", LEAN, ids=lambda c: f"{c.table}-{c.column}")
def test_values_are_those_of_the_published_table_to_its_rounding(what: Column, data_dir: Path) -> None:
    table = table_of(data_dir / "lean_indicator_refs" / what.table)
    bars = bars_of({name.lower(): column for name, column in table.items()})
    made = series(bars, what.feature, what.params)[what.value]
    expected = table[what.column]
    both = ~np.isnan(expected) & ~np.isnan(made)
    assert both.sum() == what.count
    assert np.abs(made - expected)[both].max() <= what.within


def test_every_published_table_is_read(data_dir: Path) -> None:
    tables = {p.name for p in (data_dir / "lean_indicator_refs").iterdir() if p.name != "LICENSE"}
    assert tables - {c.table for c in LEAN} == {"spy_ohlcv.txt"}  # which has no indicator
    assert len({c.table for c in LEAN}) == 13


def test_values_are_those_that_talipp_expects(data_dir: Path) -> None:
    said = json.loads((data_dir / "talipp_indicator_values" / "talipp_expected.json").read_text())
    assert set(said["indicators"]) == set(TALIPP)
    compared = 0
    for name, indicator in said["indicators"].items():
        feature, params, values = TALIPP[name]
        given = said["inputs"][indicator["input"]]
        made = series(bars_of(given if isinstance(given, dict) else {"close": given}), feature, params)
        for place, expected in indicator["expected"]["test_init"].items():
            at = re.fullmatch(r"ind\[(-?\d+)\](?:\.(\w+))?", place)
            assert at, place
            assert abs(made[values[at[2] or ""]][int(at[1])] - expected) <= said["tolerance"], f"{name} {place}"
            compared += 1
    assert compared == 113


@pytest.mark.parametrize("stock", STOCKS)
def test_last_values_are_the_stocks(stock: str, data_dir: Path) -> None:
    said = json.loads((data_dir / "reference" / "bokeh_stocks.json").read_text())[stock]["indicators_last_on_raw"]
    with gzip.open(data_dir / "bokeh_stocks_ohlcv" / "stocks.csv.gz", "rt") as file:
        rows = [row for row in csv.DictReader(file) if row["Ticker"] == stock]
    bars = bars_of({name.lower(): [float(row[name]) for row in rows] for name in ("Open", "High", "Low", "Close", "Volume")})
    for name, (feature, params, value) in LAST.items():
        assert series(bars, feature, params)[value][-1] == pytest.approx(said[name], rel=0, abs=6e-9), name
    bands = series(bars, "bollinger", {"period": 20, "width": 2})
    assert [bands["lower"][-1], bands["upper"][-1]] == pytest.approx(said["boll20_2_pop"], rel=0, abs=6e-9)
    # That reference begins at zero, ours, as the tables of Lean and talipp, with the first bar's volume.
    assert series(bars, "obv")["obv"][-1] - bars["volume"][0] == said["obv"]
