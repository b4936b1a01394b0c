"""Whether there is a trend, which way, and where it would end."""

from __future__ import annotations

from handlers.features.blocks import DELAY, EMA, HIGHEST, age, delayed, ema, highest, known, lowest, true_range
from handlers.features.declare import BAR_INPUT, Param, Value, feature
from handlers.features.indicators.common import PERIOD_MAX, period
from transport.compiled import kernel


@feature(
    reads=BAR_INPUT,
    values=[Value("adx", "0..100", "Wilder's mean of the directional index"), Value("plus_di", "0..100", "upward movement in true range"),
            Value("minus_di", "0..100", "downward movement in true range")],
    params=[period(14), period(14, "smoothing"), Param("first_range", "i8", 0, 0, 1)],
    state=[("bars", "i8"), ("high", "f8"), ("low", "f8"), ("close", "f8")],
    window=lambda p: 4 * EMA, warm_up=lambda p: p.period + p.smoothing - 1,
)  # fmt: skip
def adx(s, w, p, x, out):
    """Average directional index: Wilder's mean of 100 |+DI - -DI| / (+DI + -DI), 0 where nothing moved (Wilder 1978).

    +DI = 100 m(up) / m(true range), up = high - high before where that is positive and more than low before - low. Each mean begins
    with that of its first n. The first bar has no true range, unless `first_range = 1`: then it is high - low, in that mean alone.
    """
    alpha = 1.0 / p.period
    s.bars += 1
    ranged = 0.0
    if s.bars > 1 or p.first_range == 1:
        before = s.close if s.bars > 1 else x.close
        ranged = ema(w, 0, p.period, alpha, true_range(x.high, x.low, before))
    up, down = x.high - s.high, s.low - x.low
    s.high, s.low, s.close = x.high, x.low, x.close
    if s.bars == 1:
        return 0
    plus = ema(w, EMA, p.period, alpha, up if up > down and up > 0.0 else 0.0)
    minus = ema(w, 2 * EMA, p.period, alpha, down if down > up and down > 0.0 else 0.0)
    if not known(plus):
        return 0
    scale = 100.0 / ranged if ranged > 0.0 else 0.0
    out[1], out[2] = scale * plus, scale * minus
    moved = plus + minus
    out[0] = ema(w, 3 * EMA, p.smoothing, 1.0 / p.smoothing, 100.0 * abs(plus - minus) / moved if moved > 0.0 else 0.0)
    return known(out[0])


@feature(
    reads=BAR_INPUT,
    values=[Value("up", "0..100", "how lately the highest high was"), Value("down", "0..100", "how lately the lowest low was"),
            Value("oscillator", "-100..100", "up less down")],
    params=[period(25)],
    window=lambda p: 2 * (HIGHEST + 2 * (p.period + 1)), warm_up=lambda p: p.period,
)  # fmt: skip
def aroon(s, w, p, x, out):
    """Aroon: 100 (n - bars since the highest high) / n over n + 1 bars, likewise the lowest low; of equals the latest (Chande 1995)."""
    n, behind = p.period, HIGHEST + 2 * (p.period + 1)
    high = highest(w, 0, n + 1, x.high)
    lowest(w, behind, n + 1, x.low)
    out[0] = 100.0 * (n - age(w, 0)) / n
    out[1] = 100.0 * (n - age(w, behind)) / n
    out[2] = out[0] - out[1]
    return known(high)


@kernel
def middle(w, at, n, x):
    """Half of the highest high and the lowest low of n bars; memory 2 (HIGHEST + 2 n)."""
    return 0.5 * (highest(w, at, n, x.high) + lowest(w, at + HIGHEST + 2 * n, n, x.low))


@feature(
    reads=BAR_INPUT,
    values=[Value("conversion", "price", "middle of `conversion` bars"), Value("base", "price", "middle of `base` bars"),
            Value("lead_a", "price", "half of both: the cloud `shift` bars on"), Value("lead_b", "price", "middle of `slow` bars: likewise"),
            Value("span_a", "price", "lead_a `shift` bars ago: the cloud here"), Value("span_b", "price", "lead_b `shift` bars ago")],
    params=[period(9, "conversion"), period(26, "base"), period(52, "slow"), period(26, "shift")],
    window=lambda p: 6 * HIGHEST + 4 * (p.conversion + p.base + p.slow) + 2 * (DELAY + p.shift),
    warm_up=lambda p: max(p.conversion, p.base, p.slow) + p.shift - 1,
)  # fmt: skip
def ichimoku(s, w, p, x, out):
    """Ichimoku: middles of the range over three periods, and the cloud they draw `shift` bars ahead (Hosoda 1969).

    The lagging span is the close, drawn back: it is no value of this bar. Nothing here looks ahead.
    """
    out[0] = middle(w, 0, p.conversion, x)
    at = 2 * HIGHEST + 4 * p.conversion
    out[1] = middle(w, at, p.base, x)
    at += 2 * HIGHEST + 4 * p.base
    out[2] = 0.5 * (out[0] + out[1])
    out[3] = middle(w, at, p.slow, x)
    at += 2 * HIGHEST + 4 * p.slow
    out[4] = delayed(w, at, p.shift, out[2])
    out[5] = delayed(w, at + DELAY + p.shift, p.shift, out[3])
    return known(out[4] + out[5])


@feature(
    reads=BAR_INPUT,
    values=[Value("sar", "price", "where the trend would turn"), Value("trend", "", "+1 up, -1 down"),
            Value("extreme", "price", "highest high or lowest low of the trend"), Value("acceleration", "", "share of the way a bar")],
    params=[Param("step", "f8", 0.02, 0.0, 1.0), Param("increment", "f8", 0.02, 0.0, 1.0), Param("limit", "f8", 0.2, 0.0, 1.0),
            Param("first", "i8", 0, 0, PERIOD_MAX)],
    state=[("bars", "i8"), ("sar", "f8"), ("trend", "f8"), ("extreme", "f8"), ("acceleration", "f8"), ("high", "f8"), ("low", "f8")],
    window=lambda p: 2, warm_up=lambda p: max(p.first, 2) - 1,
)  # fmt: skip
def parabolic_sar(s, w, p, x, out):
    """Parabolic SAR: sar += acceleration (extreme - sar), never inside the last two bars; a bar that reaches it turns the trend.

    Wilder (1978). It begins with the second bar: down where the low fell more than the high rose, at the first bar's extreme; or,
    with `first` bars, upwards from their lowest low.
    """
    s.bars += 1
    begins = s.bars == max(p.first, 2)
    if s.bars <= max(p.first, 2):
        begin_sar(s, w, p, x)
    if s.bars >= max(p.first, 2):
        if not (begins and p.first > 0):
            turn_or_go_on(s, p, x)
        out[0], out[1], out[2], out[3] = s.sar, s.trend, s.extreme, s.acceleration
        s.sar += s.acceleration * (s.extreme - s.sar)
        if s.trend > 0.0:
            s.sar = min(s.sar, min(s.low, x.low))
        else:
            s.sar = max(s.sar, max(s.high, x.high))
    s.high, s.low = x.high, x.low
    return 1 if s.bars >= max(p.first, 2) else 0


@kernel
def begin_sar(s, w, p, x):
    """Until the first value: extremes so far in w[:2]; then the trend, its extreme and the stop."""
    w[0] = x.high if s.bars == 1 else max(w[0], x.high)
    w[1] = x.low if s.bars == 1 else min(w[1], x.low)
    s.acceleration = p.step
    if p.first > 0:
        s.trend, s.extreme, s.sar = 1.0, w[0], w[1]
        return
    down = s.low - x.low > 0.0 and s.low - x.low > x.high - s.high
    s.trend = -1.0 if down else 1.0
    s.extreme, s.sar = (x.low, s.high) if down else (x.high, s.low)
    s.high, s.low = x.high, x.low  # the first stop is held against this bar alone


@kernel
def turn_or_go_on(s, p, x):
    """Hold the bar against the stop: turn, or carry the extreme on and hasten."""
    if s.trend > 0.0 and x.low <= s.sar:
        s.sar = max(s.extreme, max(s.high, x.high))
        s.trend, s.extreme, s.acceleration = -1.0, x.low, p.step
    elif s.trend < 0.0 and x.high >= s.sar:
        s.sar = min(s.extreme, min(s.low, x.low))
        s.trend, s.extreme, s.acceleration = 1.0, x.high, p.step
    elif s.trend * (x.high if s.trend > 0.0 else x.low) > s.trend * s.extreme:
        s.extreme = x.high if s.trend > 0.0 else x.low
        s.acceleration = min(s.acceleration + p.increment, p.limit)


@feature(
    reads=BAR_INPUT,
    values=[Value("supertrend", "price", "the band that carries the trend"), Value("trend", "", "+1 up, -1 down")],
    params=[period(10), Param("width", "f8", 3.0, 0.0, 1000.0)],
    state=[("bars", "i8"), ("close", "f8"), ("upper", "f8"), ("lower", "f8"), ("trend", "f8")],
    window=lambda p: EMA, warm_up=lambda p: p.period - 1,
)  # fmt: skip
def supertrend(s, w, p, x, out):
    """Supertrend: (high + low) / 2 +- width ATR, a band that only follows its trend; the close beyond it turns it (Seban 2008).

    It begins downwards, at the upper band.
    """
    before = s.close if s.bars else x.close
    s.close = x.close
    s.bars += 1
    away = p.width * ema(w, 0, p.period, 1.0 / p.period, true_range(x.high, x.low, before))
    if not known(away):
        return 0
    upper, lower = 0.5 * (x.high + x.low) + away, 0.5 * (x.high + x.low) - away
    if s.trend == 0.0:
        s.upper, s.lower, s.trend = upper, lower, -1.0
    if upper < s.upper or before > s.upper:
        s.upper = upper
    if lower > s.lower or before < s.lower:
        s.lower = lower
    if s.trend < 0.0 and x.close > s.upper:
        s.trend = 1.0
    elif s.trend > 0.0 and x.close < s.lower:
        s.trend = -1.0
    out[0], out[1] = s.upper if s.trend < 0.0 else s.lower, s.trend
    return 1
