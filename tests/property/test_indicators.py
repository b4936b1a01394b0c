"""Every feature, of bars and of events: as Python and as machine code, one input at a time and all at once, blind to the future; TA-Lib's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from handlers.domain.memory import address_of, view_at
from handlers.features.catalogue import INDICATORS, MICROSTRUCTURE
from handlers.features.declare import BAR_INPUT, EVENT_INPUT, Feature, Value, feature
from handlers.features.feature_set import FeatureSet, Placed
from tests.bars import bars_of, random_bars, series
from tests.events import random_events, still_events
from transport.shells import Attributes

ALL = (*INDICATORS, *MICROSTRUCTURE)
EVERY = pytest.mark.parametrize("which", ALL, ids=lambda f: f.name)
BAR_BYTES, EVENT_BYTES = BAR_INPUT.itemsize, EVENT_INPUT.itemsize
BOTH = pytest.mark.parametrize("known", [INDICATORS, MICROSTRUCTURE], ids=["of bars", "of events"])
Inputs = np.ndarray[Any, Any]


def random_inputs(reads: np.dtype[Any], seed: int, count: int, gaps: float = 0.0) -> Inputs:
    """Bars or events, as a feature reads; of events a share at which the book is not known."""
    return random_bars(seed, count) if reads == BAR_INPUT else random_events(seed, count, gaps=gaps)


def drawn(which: Feature, seed: int) -> dict[str, float]:
    """Parameters at random within their bounds, periods short."""
    draw = np.random.default_rng(seed)
    found: dict[str, float] = {}
    for p in which.parameters:
        low, high = p.low, min(p.high, max(p.low + 1, 12))
        found[p.name] = int(draw.integers(low, high + 1)) if p.format == "i8" else float(draw.uniform(low, high))
    return found


def plainly(placed: Placed, inputs: Inputs) -> np.ndarray[Any, Any]:
    """What the step gives as plain Python: shape (n, values)."""
    which = placed.feature
    s, p = Attributes(np.zeros(1, which.state)[0]), Attributes(placed.params[0])
    w = np.zeros(placed.window)
    rows = np.full((len(inputs), len(which.values)), np.nan)
    for x, row in zip(inputs, rows, strict=True):
        out = np.zeros(len(row))
        if which.plain(s, w, p, Attributes(x), out):
            row[:] = out
    return rows


def same_bits(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    """Equal to the last bit, any NaN being as good as another."""
    gone = np.isnan(a)
    return bool((gone == np.isnan(b)).all() and (a.view(np.int64) == b.view(np.int64))[~gone].all())


@EVERY
def test_machine_code_gives_what_python_gives_to_the_last_bit(which: Feature, seed: int) -> None:
    for n, params in enumerate(({}, drawn(which, seed), drawn(which, seed + 1))):
        made = FeatureSet([(which.name, params)], ALL)
        inputs = random_inputs(which.reads, seed + n, 150, gaps=0.05)
        assert same_bits(made.batch(inputs), plainly(made.placed[0], inputs)), params


@EVERY
def test_a_value_is_a_number_from_the_end_of_the_warm_up_on(which: Feature, seed: int) -> None:
    bars = which.reads == BAR_INPUT
    flat = bars_of({"close": [100.0] * 300}) if bars else still_events(seed, 300)
    for n, params in enumerate(({}, *(drawn(which, seed + k) for k in range(5)))):
        made = FeatureSet([(which.name, params)], ALL)
        before = made.placed[0].warm_up
        for inputs in (random_inputs(which.reads, seed + n, 300), flat):  # a market that does not move too
            gone = np.isnan(made.batch(inputs))
            assert gone[:before].all(), (params, before)
            begins = before
            if not bars:  # whose warm-up is the least that it can be: it counts trades, returns, lots
                begins = int(np.argmin(gone[:, 0])) if not gone.all() else len(gone)
            assert np.isfinite(made.batch(inputs)[begins:]).all(), (params, before)


@BOTH
def test_one_input_at_a_time_gives_what_all_at_once_gives_to_the_last_bit(known: tuple[Feature, ...], seed: int) -> None:
    made = FeatureSet([(f.name, {}) for f in known], known)
    inputs, memory = random_inputs(made.reads, seed, 400, gaps=0.002), made.new_memory()[0]
    whole, row = made.batch(inputs), np.zeros(len(made.columns))
    for k in range(len(inputs)):
        made.update(memory, inputs[k : k + 1], row)
        assert same_bits(row, whole[k]), k
    alone = [FeatureSet([(f.name, {})], known).batch(inputs) for f in known]
    assert same_bits(whole, np.concatenate(alone, axis=1))  # no feature sees what stands beside it


def moved_by_the_future(made: FeatureSet, seed: int) -> list[int]:
    """Inputs whose values are other ones when every input after them is changed, of a few drawn; those before t, and t's own."""
    inputs = random_inputs(made.reads, seed, 201)  # one more behind what is looked at
    before = made.batch(inputs[:-1])
    found = []
    for t in np.random.default_rng(seed).integers(60, 199, 8):
        other = inputs.copy()
        other[t + 1 :] = random_inputs(made.reads, seed + 1, 201)[t + 1 :]
        for name in made.reads.names or ():
            if made.reads[name].base.kind == "f":
                other[name][t + 1 :] *= 3.0
        other["session" if made.reads == BAR_INPUT else "ts_ns"][t + 1 :] += 7
        if not same_bits(before[: t + 1], made.batch(other[:-1])[: t + 1]):
            found.append(int(t))
    return found


@EVERY
def test_no_value_moves_when_everything_after_it_changes(which: Feature, seed: int) -> None:
    assert not moved_by_the_future(FeatureSet([(which.name, {})], ALL), seed)
    assert not moved_by_the_future(FeatureSet([(which.name, drawn(which, seed))], ALL), seed)


@feature(reads=BAR_INPUT, values=[Value("peek", "price", "the next close")], window=lambda p: 0, warm_up=lambda p: 0)
def peeks_ahead(s: Any, w: Any, p: Any, x: Any, out: Any) -> int:
    """Reads past its input, which a step in machine code can: the next bar of the array."""
    out[0] = view_at(address_of(x) + BAR_BYTES, BAR_INPUT).close
    return 1


@feature(reads=EVENT_INPUT, values=[Value("foresee", "ticks", "the next mid")], window=lambda p: 0, warm_up=lambda p: 0)
def foresees_the_mid(s: Any, w: Any, p: Any, x: Any, out: Any) -> int:
    """The same of events."""
    out[0] = view_at(address_of(x) + EVENT_BYTES, EVENT_INPUT).mid
    return 1


@pytest.mark.parametrize("leak", [peeks_ahead, foresees_the_mid], ids=lambda f: f.name)
def test_a_feature_that_looks_one_input_ahead_is_caught(leak: Feature, seed: int) -> None:
    assert moved_by_the_future(FeatureSet([(leak.name, {})], [leak]), seed)


ROLLING: dict[str, tuple[str, str, Callable[[np.ndarray[Any, Any]], float]]] = {
    "sma": ("sma", "close", lambda v: math.fsum(v) / len(v)),
    "wma": ("wma", "close", lambda v: math.fsum((k + 1) * x for k, x in enumerate(v)) * 2 / (len(v) * (len(v) + 1))),
    "standard_deviation": (
        "standard_deviation", "close", lambda v: math.sqrt(math.fsum((x - math.fsum(v) / len(v)) ** 2 for x in v) / len(v))
    ),
    "mean_deviation": ("mean_deviation", "close", lambda v: math.fsum(abs(x - math.fsum(v) / len(v)) for x in v) / len(v)),
}  # fmt: skip


@pytest.mark.parametrize("name", ROLLING)
def test_rolling_sums_are_as_exact_after_a_million_bars_as_after_a_hundred(name: str, seed: int) -> None:
    count, n = 1_000_000, 20
    close = np.random.default_rng(seed).normal(0.0, 0.1, count).cumsum() + 1000.0
    close[1000:1010] = 1e13  # what leaves a rolling sum must leave nothing behind
    value, column, exact = ROLLING[name]
    bars = bars_of({"close": close})
    made = series(bars, name, {"period": n})[value]
    worst = {
        part: max(abs(made[t] - exact(bars[column][t - n + 1 : t + 1])) / 1000.0 for t in range(part, part + 200))
        for part in (100, 1000 + 3 * n, count - 200)
    }
    print(worst)
    assert max(worst.values()) < 1e-13


def test_a_window_of_equal_values_has_no_spread_and_no_flow_left() -> None:
    close = [*np.random.default_rng(1).normal(0.0, 1.0, 100).cumsum() + 1e6, *[7.1] * 50]
    bars = bars_of({"close": close, "volume": [3.3] * 150})
    assert series(bars, "standard_deviation")["standard_deviation"][-1] == 0.0
    assert series(bars, "sma")["sma"][-1] == series(bars, "wma")["wma"][-1] == 7.1
    assert {k: v[-1] for k, v in series(bars, "bollinger").items()} == {
        "upper": 7.1, "middle": 7.1, "lower": 7.1, "bandwidth": 0.0, "percent_b": 0.5,
    }  # fmt: skip
    assert series(bars, "mfi")["mfi"][-1] == 50.0
    assert series(bars, "cci")["cci"][-1] == series(bars, "mean_deviation")["mean_deviation"][-1] == 0.0


def test_a_market_that_never_moves_has_the_values_that_the_declarations_state() -> None:
    flat = bars_of({"close": [100.0] * 200})
    said = {
        "rsi": [50.0], "stoch_rsi": [50.0, 50.0], "stochastic": [50.0, 50.0], "williams_r": [-50.0], "ultimate": [50.0], "mfi": [50.0],
        "cci": [0.0], "adx": [0.0, 0.0, 0.0], "roc": [0.0], "trix": [0.0], "atr": [0.0], "vwap_session": [100.0], "vwap_moving": [100.0],
        "kama": [100.0],
    }  # fmt: skip
    assert {name: [v[-1] for v in series(flat, name).values()] for name in said} == said


def test_session_vwap_begins_again_with_the_session() -> None:
    bars = bars_of({"close": [10.0, 20.0, 40.0, 80.0], "volume": [1.0, 3.0, 0.0, 2.0]}, session_bars=2)
    assert series(bars, "vwap_session")["vwap"].tolist() == [10.0, 17.5, 40.0, 80.0]


def ta(name: str, *columns: str, **options: float) -> Callable[[Any], Any]:
    """TA-Lib's function of these columns."""
    talib = pytest.importorskip("talib")
    return lambda bars: getattr(talib, name)(*(np.ascontiguousarray(bars[c]) for c in columns), **options)


HLC, HL = ("high", "low", "close"), ("high", "low")
# TA-Lib's function -> (its columns, its options, our feature, parameters, our values, from which bar on).
# Its MACD begins the fast mean as late as the slow one, its ADX and DI begin Wilder's sums with n - 1 bars: equal once that has worn
# off. Its ATR has no first range (`first_range = 0`). Its RSI, MFI and stochastics of a market that does not move are 0, ours 50.
TA_LIB: dict[str, tuple[tuple[str, ...], dict[str, float], str, dict[str, float], tuple[str, ...], int]] = {
    "SMA": (("close",), {"timeperiod": 14}, "sma", {}, ("sma",), 0),
    "EMA": (("close",), {"timeperiod": 14}, "ema", {}, ("ema",), 0),
    "WMA": (("close",), {"timeperiod": 14}, "wma", {}, ("wma",), 0),
    "DEMA": (("close",), {"timeperiod": 14}, "dema", {}, ("dema",), 0),
    "TEMA": (("close",), {"timeperiod": 14}, "tema", {}, ("tema",), 0),
    "KAMA": (("close",), {"timeperiod": 10}, "kama", {}, ("kama",), 0),
    "RSI": (("close",), {"timeperiod": 14}, "rsi", {}, ("rsi",), 0),
    "MACD": (("close",), {}, "macd", {}, ("macd", "signal", "histogram"), 300),
    "ROC": (("close",), {"timeperiod": 10}, "roc", {}, ("roc",), 0),
    "TRIX": (("close",), {"timeperiod": 15}, "trix", {}, ("trix",), 0),
    "STOCHF": (HLC, {"fastk_period": 14}, "stochastic", {}, ("k", "d"), 0),
    "STOCH": (HLC, {"fastk_period": 14}, "stochastic", {"k": 3}, ("k", "d"), 0),
    "STOCHRSI": (("close",), {"fastk_period": 14}, "stoch_rsi", {"k": 1}, ("k", "d"), 0),
    "WILLR": (HLC, {}, "williams_r", {}, ("williams_r",), 0),
    "CCI": (HLC, {"timeperiod": 20}, "cci", {}, ("cci",), 0),
    "ULTOSC": (HLC, {}, "ultimate", {}, ("ultimate",), 0),
    "AVGDEV": (("close",), {"timeperiod": 20}, "mean_deviation", {}, ("mean_deviation",), 0),
    "STDDEV": (("close",), {"timeperiod": 20}, "standard_deviation", {}, ("standard_deviation",), 0),
    "BBANDS": (("close",), {"timeperiod": 20}, "bollinger", {}, ("upper", "middle", "lower"), 0),
    "ATR": (HLC, {}, "atr", {"first_range": 0}, ("atr",), 0),
    "NATR": (HLC, {}, "natr", {"first_range": 0}, ("natr",), 0),
    "OBV": (("close", "volume"), {}, "obv", {}, ("obv",), 0),
    "AD": ((*HLC, "volume"), {}, "accumulation", {}, ("accumulation",), 0),
    "MFI": ((*HLC, "volume"), {}, "mfi", {}, ("mfi",), 0),
    "ADX": (HLC, {}, "adx", {}, ("adx",), 500),
    "PLUS_DI": (HLC, {}, "adx", {}, ("plus_di",), 500),
    "MINUS_DI": (HLC, {}, "adx", {}, ("minus_di",), 500),
    "AROON": (HL, {"timeperiod": 25}, "aroon", {}, ("down", "up"), 0),
    "SAR": (HL, {}, "parabolic_sar", {}, ("sar",), 0),
    "MAX": (("high",), {"timeperiod": 20}, "donchian", {}, ("upper",), 0),
    "MIN": (("low",), {"timeperiod": 20}, "donchian", {}, ("lower",), 0),
}


@pytest.mark.parametrize("name", TA_LIB)
def test_values_are_ta_libs(name: str, seed: int) -> None:
    columns, options, which, params, values, begin = TA_LIB[name]
    bars = random_bars(seed, 2000)
    said = ta(name, *columns, **options)(bars)
    made = series(bars, which, params)
    for value, expected in zip(values, said if isinstance(said, (tuple, list)) else (said,), strict=True):
        both = ~np.isnan(expected) & ~np.isnan(made[value])
        both[:begin] = False
        first = int(np.argmax(~np.isnan(made[value])))
        assert both[max(begin, first) :].all()  # wherever ours is known
        assert np.isnan(expected[:first]).all() or name.endswith("_DI")  # ours wait for the ADX beside them
        assert np.abs(made[value] - expected)[both].max() <= 1e-9 * max(1.0, np.abs(expected[both]).max()), value


def test_what_ta_lib_has_not_is_made_of_what_it_has(seed: int) -> None:
    bars = random_bars(seed, 1000)
    def wma(x: np.ndarray[Any, Any], n: int) -> np.ndarray[Any, Any]:
        return ta("WMA", "x", timeperiod=n)({"x": x})

    def total(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return ta("SUM", "x", timeperiod=50)({"x": x})

    hull = wma(2 * wma(bars["close"], 8) - wma(bars["close"], 16), 4)
    middle = {n: (ta("MAX", "high", timeperiod=n)(bars) + ta("MIN", "low", timeperiod=n)(bars)) / 2 for n in (9, 26, 52)}
    shifted = {n: np.concatenate((np.full(26, np.nan), v[:-26])) for n, v in middle.items()}
    typical = bars["open"] + bars["high"] + bars["low"] + bars["close"]
    due = {
        ("hma", "hma"): hull,
        ("ichimoku", "conversion"): middle[9], ("ichimoku", "base"): middle[26], ("ichimoku", "lead_b"): middle[52],
        ("ichimoku", "lead_a"): (middle[9] + middle[26]) / 2, ("ichimoku", "span_b"): shifted[52],
        ("ichimoku", "span_a"): (shifted[9] + shifted[26]) / 2,
        ("keltner", "middle"): ta("EMA", "close", timeperiod=20)(bars),
        ("vwap_moving", "vwap"): total(typical * bars["volume"]) / (4 * total(bars["volume"])),
    }  # fmt: skip
    for (name, value), expected in due.items():
        made = series(bars, name)[value]
        known = ~np.isnan(made)
        assert made[known] == pytest.approx(expected[known], rel=1e-12), (name, value)
    keltner, atr = series(bars, "keltner"), series(bars, "atr", {"period": 10})["atr"]
    assert np.nanmax(np.abs(keltner["upper"] - keltner["lower"] - 4 * atr)) < 1e-9
