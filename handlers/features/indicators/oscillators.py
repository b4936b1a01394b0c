"""Where the close stands in its range: stochastic, Williams %R, CCI, the ultimate oscillator."""

from __future__ import annotations

from handlers.features.blocks import HIGHEST, TOTAL, highest, known, lowest, mean, total, true_range
from handlers.features.declare import BAR_INPUT, Value, feature
from handlers.features.indicators.common import first_value, period, ring


@feature(
    reads=BAR_INPUT,
    values=[Value("k", "0..100", "place of the close in the range, smoothed"), Value("d", "0..100", "mean of k")],
    params=[period(14), period(1, "k"), period(3, "d")],
    window=lambda p: 2 * (HIGHEST + 2 * p.period) + 2 * TOTAL + p.k + p.d,
    warm_up=lambda p: p.period + p.k + p.d - 3,
)  # fmt: skip
def stochastic(s, w, p, x, out):
    """Stochastic: 100 (close - lowest low) / (highest high - lowest low) over n bars, 50 where they are equal (Lane 1984).

    k is its mean over `k` bars, d the mean of k over `d`: `k = 1` is the fast stochastic, `k = 3` the slow.
    """
    high = highest(w, 0, p.period, x.high)
    at = HIGHEST + 2 * p.period
    low = lowest(w, at, p.period, x.low)
    if not known(low):
        return 0
    at += HIGHEST + 2 * p.period
    out[0] = mean(w, at, p.k, 100.0 * (x.close - low) / (high - low) if high > low else 50.0)
    if not known(out[0]):
        return 0
    out[1] = mean(w, at + TOTAL + p.k, p.d, out[0])
    return known(out[1])


@feature(
    reads=BAR_INPUT, values=[Value("williams_r", "-100..0", "place of the close under the highest high")], params=[period(14)],
    window=lambda p: 2 * (HIGHEST + 2 * p.period), warm_up=first_value,
)  # fmt: skip
def williams_r(s, w, p, x, out):
    """Williams %R: -100 (highest high - close) / (highest high - lowest low) over n bars, -50 where they are equal (Williams 1973)."""
    high = highest(w, 0, p.period, x.high)
    low = lowest(w, HIGHEST + 2 * p.period, p.period, x.low)
    out[0] = -100.0 * (high - x.close) / (high - low) if high > low else -50.0
    return known(low)


@feature(
    reads=BAR_INPUT, values=[Value("cci", "", "distance from the mean typical price in 0.015 mean deviations")], params=[period(20)],
    window=ring, warm_up=first_value,
)  # fmt: skip
def cci(s, w, p, x, out):
    """Commodity channel index: (t - mean t) / (0.015 mean |t - mean t|) over n, t = (high + low + close) / 3; 0 where all are equal.

    O(n) a bar: every deviation changes with the mean (Lambert 1980).
    """
    typical = (x.high + x.low + x.close) / 3.0
    middle = mean(w, 0, p.period, typical)
    if not known(middle):
        return 0
    apart = 0.0
    for k in range(TOTAL, TOTAL + p.period):
        apart += abs(w[k] - middle)
    out[0] = (typical - middle) * p.period / (0.015 * apart) if apart > 0.0 else 0.0
    return 1


@feature(
    reads=BAR_INPUT, values=[Value("ultimate", "0..100", "buying pressure over three periods")],
    params=[period(7, "fast"), period(14, "middle"), period(28, "slow")],
    state=[("bars", "i8"), ("close", "f8")],
    window=lambda p: 6 * TOTAL + 2 * (p.fast + p.middle + p.slow),
    warm_up=lambda p: max(p.fast, p.middle, p.slow),
)  # fmt: skip
def ultimate(s, w, p, x, out):
    """Ultimate oscillator: 100 (4 b1 / t1 + 2 b2 / t2 + b3 / t3) / 7, sums of buying pressure and of true range (Williams 1985).

    Pressure is close - min(low, close before). A quotient counts 1 / 2 where nothing moved.
    """
    before = s.close
    s.close = x.close
    s.bars += 1
    if s.bars == 1:
        return 0
    pressure, moved = x.close - min(x.low, before), true_range(x.high, x.low, before)
    at, found, weight = 0, 0.0, 4.0
    for n in (p.fast, p.middle, p.slow):
        bought = total(w, at, n, pressure)
        ranged = total(w, at + TOTAL + n, n, moved)
        found += weight * (bought / ranged if ranged != 0.0 else 0.5)
        weight *= 0.5
        at += 2 * (TOTAL + n)
    out[0] = 100.0 * found / 7.0
    return known(out[0])
