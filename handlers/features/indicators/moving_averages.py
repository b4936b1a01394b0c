"""Moving averages of the close."""

from __future__ import annotations

import math

import numpy as np

from handlers.features.blocks import DELAY, EMA, TOTAL, WEIGHTED, delayed, ema as exponential, known, mean, total, weighted
from handlers.features.declare import BAR_INPUT, Param, Value, feature
from handlers.features.indicators.common import PERIOD_MAX, first_value, period, ring


@feature(
    reads=BAR_INPUT, values=[Value("sma", "price", "mean of the last `period` closes")], params=[period(14)],
    window=ring, warm_up=first_value,
)  # fmt: skip
def sma(s, w, p, x, out):
    """Simple moving average: sum of the last n closes / n."""
    out[0] = mean(w, 0, p.period, x.close)
    return known(out[0])


@feature(
    reads=BAR_INPUT, values=[Value("ema", "price", "exponential mean of closes")],
    params=[period(14), Param("seed", "i8", 0, 0, PERIOD_MAX)],
    window=lambda p: EMA, warm_up=lambda p: (p.seed or p.period) - 1,
)  # fmt: skip
def ema(s, w, p, x, out):
    """Exponential moving average: v += 2 / (n + 1) (close - v), begun with the mean of the first `seed` closes (0: of n).

    `seed = 1` begins with the first close.
    """
    out[0] = exponential(w, 0, p.seed if p.seed > 0 else p.period, 2.0 / (p.period + 1), x.close)
    return known(out[0])


@feature(
    reads=BAR_INPUT, values=[Value("smma", "price", "Wilder's mean of closes")], params=[period(14)],
    window=lambda p: EMA, warm_up=first_value,
)  # fmt: skip
def smma(s, w, p, x, out):
    """Smoothed (Wilder's) moving average: v += (close - v) / n, begun with the mean of the first n (Wilder 1978)."""
    out[0] = exponential(w, 0, p.period, 1.0 / p.period, x.close)
    return known(out[0])


@feature(
    reads=BAR_INPUT, values=[Value("wma", "price", "linearly weighted mean of closes")], params=[period(14)],
    window=lambda p: WEIGHTED + p.period, warm_up=first_value,
)  # fmt: skip
def wma(s, w, p, x, out):
    """Weighted moving average: sum of k close_k / (n (n + 1) / 2), k = 1 for the oldest of n and n for the newest."""
    out[0] = weighted(w, 0, p.period, x.close)
    return known(out[0])


@feature(
    reads=BAR_INPUT, values=[Value("dema", "price", "double exponential mean of closes")], params=[period(14)],
    window=lambda p: 2 * EMA, warm_up=lambda p: 2 * (p.period - 1),
)  # fmt: skip
def dema(s, w, p, x, out):
    """Double exponential moving average: 2 e1 - e2, e2 the EMA of e1, the EMA of closes (Mulloy 1994)."""
    alpha = 2.0 / (p.period + 1)
    once = exponential(w, 0, p.period, alpha, x.close)
    if not known(once):
        return 0
    out[0] = 2.0 * once - exponential(w, EMA, p.period, alpha, once)
    return known(out[0])


@feature(
    reads=BAR_INPUT, values=[Value("tema", "price", "triple exponential mean of closes")], params=[period(14)],
    window=lambda p: 3 * EMA, warm_up=lambda p: 3 * (p.period - 1),
)  # fmt: skip
def tema(s, w, p, x, out):
    """Triple exponential moving average: 3 e1 - 3 e2 + e3, each the EMA of the one before (Mulloy 1994)."""
    alpha = 2.0 / (p.period + 1)
    once = exponential(w, 0, p.period, alpha, x.close)
    if not known(once):
        return 0
    twice = exponential(w, EMA, p.period, alpha, once)
    if not known(twice):
        return 0
    out[0] = 3.0 * (once - twice) + exponential(w, 2 * EMA, p.period, alpha, twice)
    return known(out[0])


@feature(
    reads=BAR_INPUT, values=[Value("hma", "price", "Hull's mean of closes")], params=[period(16, low=2)],
    window=lambda p: 3 * WEIGHTED + p.period + p.period // 2 + math.isqrt(p.period),
    warm_up=lambda p: p.period + math.isqrt(p.period) - 2,
)  # fmt: skip
def hma(s, w, p, x, out):
    """Hull moving average: WMA over floor(sqrt n) of 2 WMA(n / 2) - WMA(n), n / 2 rounded down (Hull 2005)."""
    half = p.period // 2
    slow = weighted(w, 0, p.period, x.close)
    fast = weighted(w, WEIGHTED + p.period, half, x.close)
    if not known(slow):
        return 0
    out[0] = weighted(w, 2 * WEIGHTED + p.period + half, int(np.sqrt(p.period)), 2.0 * fast - slow)
    return known(out[0])


@feature(
    reads=BAR_INPUT, values=[Value("kama", "price", "Kaufman's adaptive mean of closes")],
    params=[period(10), period(2, "fast"), period(30, "slow")],
    state=[("bars", "i8"), ("close", "f8"), ("kama", "f8")],
    window=lambda p: DELAY + TOTAL + 2 * p.period, warm_up=lambda p: p.period,
)  # fmt: skip
def kama(s, w, p, x, out):
    """Kaufman's adaptive moving average: v += c^2 (close - v), begun with the close before the first value (Kaufman 1995).

    c = e (2 / (fast + 1) - 2 / (slow + 1)) + 2 / (slow + 1); e = |close - close n ago| / sum of n |changes|, 0 where nothing moved.
    """
    old = delayed(w, 0, p.period, x.close)
    before = s.close
    s.close = x.close
    s.bars += 1
    if s.bars == 1:
        return 0
    path = total(w, DELAY + p.period, p.period, abs(x.close - before))
    if not known(path):
        return 0
    if s.bars == p.period + 1:
        s.kama = before
    slow = 2.0 / (p.slow + 1)
    c = slow
    if path > 0.0:
        c += abs(x.close - old) / path * (2.0 / (p.fast + 1) - slow)
    s.kama += c * c * (x.close - s.kama)
    out[0] = s.kama
    return 1
