"""How far prices move, and bands about their mean that are as wide."""

from __future__ import annotations

import numpy as np

from handlers.features.blocks import EMA, HIGHEST, SPREAD, TOTAL, ema, highest, known, lowest, mean, spread, true_range
from handlers.features.declare import BAR_INPUT, Param, Value, feature
from handlers.features.indicators.common import first_value, period, ring

FIRST_RANGE = Param("first_range", "i8", 1, 0, 1)  # whether the first bar, which has no close before it, counts with high - low
WIDTH = Param("width", "f8", 2.0, 0.0, 1000.0)
LAST = [("bars", "i8"), ("close", "f8")]


@feature(
    reads=BAR_INPUT, values=[Value("mean_deviation", "price", "mean distance of closes from their mean")], params=[period(20)],
    window=ring, warm_up=first_value,
)  # fmt: skip
def mean_deviation(s, w, p, x, out):
    """Mean absolute deviation: sum of |close - mean| / n over the last n; O(n) a bar, as every deviation changes with the mean."""
    middle = mean(w, 0, p.period, x.close)
    apart = 0.0
    for k in range(TOTAL, TOTAL + p.period):
        apart += abs(w[k] - middle)
    out[0] = apart / p.period
    return known(middle)


@feature(
    reads=BAR_INPUT, values=[Value("standard_deviation", "price", "root of the mean squared distance of closes from their mean")],
    params=[period(20, low=2), Param("ddof", "i8", 0, 0, 1)],
    window=lambda p: SPREAD + p.period, warm_up=first_value,
)  # fmt: skip
def standard_deviation(s, w, p, x, out):
    """Standard deviation: sqrt(sum of (close - mean)^2 / (n - ddof)) over the last n: the population's, or the sample's (ddof = 1)."""
    middle = spread(w, 0, p.period, x.close)
    out[0] = np.sqrt(w[3] / (p.period - p.ddof))
    return known(middle)


@feature(
    reads=BAR_INPUT,
    values=[Value("upper", "price", "middle + width deviations"), Value("middle", "price", "mean of closes"),
            Value("lower", "price", "middle - width deviations"), Value("bandwidth", "%", "of upper - lower in the middle"),
            Value("percent_b", "", "place of the close, 0 at the lower band and 1 at the upper")],
    params=[period(20), WIDTH],
    window=lambda p: SPREAD + p.period, warm_up=first_value,
)  # fmt: skip
def bollinger(s, w, p, x, out):
    """Bollinger bands: mean +- width standard deviations (the population's) of the last n closes (Bollinger 2001).

    percent_b is 1 / 2 where the bands meet, the bandwidth 0 where the middle is.
    """
    middle = spread(w, 0, p.period, x.close)
    if not known(middle):
        return 0
    away = p.width * np.sqrt(w[3] / p.period)
    out[0], out[1], out[2] = middle + away, middle, middle - away
    out[3] = 200.0 * away / middle if middle != 0.0 else 0.0
    out[4] = (x.close - out[2]) / (2.0 * away) if away > 0.0 else 0.5
    return 1


@feature(
    reads=BAR_INPUT, values=[Value("atr", "price", "Wilder's mean of true ranges")], params=[period(14), FIRST_RANGE], state=LAST,
    window=lambda p: EMA, warm_up=lambda p: p.period - p.first_range,
)  # fmt: skip
def atr(s, w, p, x, out):
    """Average true range: v += (tr - v) / n, begun with the mean of the first n (Wilder 1978).

    tr = max(high, close before) - min(low, close before). The first bar counts with high - low, unless `first_range = 0`.
    """
    before = s.close if s.bars else x.close
    s.close = x.close
    s.bars += 1
    if s.bars == 1 and p.first_range == 0:
        return 0
    out[0] = ema(w, 0, p.period, 1.0 / p.period, true_range(x.high, x.low, before))
    return known(out[0])


@feature(
    reads=BAR_INPUT, values=[Value("natr", "%", "average true range in the close")], params=[period(14), FIRST_RANGE], state=LAST,
    window=lambda p: EMA, warm_up=lambda p: p.period - p.first_range,
)  # fmt: skip
def natr(s, w, p, x, out):
    """Normalised average true range: 100 ATR / close, 0 where the close is 0 (Forman 2006)."""
    before = s.close if s.bars else x.close
    s.close = x.close
    s.bars += 1
    if s.bars == 1 and p.first_range == 0:
        return 0
    found = ema(w, 0, p.period, 1.0 / p.period, true_range(x.high, x.low, before))
    out[0] = 100.0 * found / x.close if x.close != 0.0 else 0.0
    return known(found)


@feature(
    reads=BAR_INPUT,
    values=[Value("upper", "price", "middle + width ATR"), Value("middle", "price", "EMA of closes"),
            Value("lower", "price", "middle - width ATR")],
    params=[period(20), period(10, "atr"), WIDTH], state=LAST,
    window=lambda p: 2 * EMA, warm_up=lambda p: max(p.period, p.atr) - 1,
)  # fmt: skip
def keltner(s, w, p, x, out):
    """Keltner channels: EMA of n closes +- width average true ranges of `atr` bars (Raschke's form of Keltner 1960)."""
    before = s.close if s.bars else x.close
    s.close = x.close
    s.bars += 1
    middle = ema(w, 0, p.period, 2.0 / (p.period + 1), x.close)
    away = p.width * ema(w, EMA, p.atr, 1.0 / p.atr, true_range(x.high, x.low, before))
    out[0], out[1], out[2] = middle + away, middle, middle - away
    return known(out[0])


@feature(
    reads=BAR_INPUT,
    values=[Value("upper", "price", "highest high"), Value("middle", "price", "half of both"), Value("lower", "price", "lowest low")],
    params=[period(20)],
    window=lambda p: 2 * (HIGHEST + 2 * p.period), warm_up=first_value,
)  # fmt: skip
def donchian(s, w, p, x, out):
    """Donchian channel: highest high, lowest low and their mean over the last n bars, this one among them (Donchian 1960)."""
    out[0] = highest(w, 0, p.period, x.high)
    out[2] = lowest(w, HIGHEST + 2 * p.period, p.period, x.low)
    out[1] = 0.5 * (out[0] + out[2])
    return known(out[1])
