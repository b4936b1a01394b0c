"""How fast the close has moved: RSI and its stochastic, MACD, rate of change, TRIX."""

from __future__ import annotations

from handlers.features.blocks import DELAY, EMA, HIGHEST, NAN, TOTAL, delayed, ema, highest, known, lowest, mean
from handlers.features.declare import BAR_INPUT, Param, Value, feature
from handlers.features.indicators.common import PERIOD_MAX, period
from transport.compiled import kernel

STRENGTH = 2 + 2 * EMA  # bars, close, mean gain, mean loss


@kernel
def strength(w, at, n, seed, close):
    """Wilder's relative strength index of `close`, NaN for the first n inputs; memory STRENGTH."""
    change = close - w[at + 1]
    w[at + 1] = close
    w[at] += 1.0
    if w[at] == 1.0:
        return NAN
    gain = ema(w, at + 2, seed, 1.0 / n, max(change, 0.0))
    loss = ema(w, at + 2 + EMA, seed, 1.0 / n, max(-change, 0.0))
    moved = gain + loss
    if w[at] <= n or not known(moved):
        return NAN
    return 100.0 * gain / moved if moved > 0.0 else 50.0


@feature(
    reads=BAR_INPUT, values=[Value("rsi", "0..100", "share of gains in mean gains and losses")],
    params=[period(14), Param("seed", "i8", 0, 0, PERIOD_MAX)],
    window=lambda p: STRENGTH, warm_up=lambda p: max(p.period, p.seed),
)  # fmt: skip
def rsi(s, w, p, x, out):
    """Relative strength index: 100 g / (g + l), Wilder's means of gains and losses over n; 50 where nothing moved (Wilder 1978).

    The means begin with the plain mean of the first `seed` changes (0: of n; some libraries take n - 1).
    """
    out[0] = strength(w, 0, p.period, p.seed if p.seed > 0 else p.period, x.close)
    return known(out[0])


@feature(
    reads=BAR_INPUT,
    values=[Value("k", "0..100", "place of the RSI in its range, smoothed"), Value("d", "0..100", "mean of k")],
    params=[period(14), period(14, "stoch"), period(3, "k"), period(3, "d")],
    window=lambda p: STRENGTH + 2 * (HIGHEST + 2 * p.stoch) + 2 * TOTAL + p.k + p.d,
    warm_up=lambda p: p.period + p.stoch + p.k + p.d - 3,
)  # fmt: skip
def stoch_rsi(s, w, p, x, out):
    """Stochastic RSI: 100 (r - min r) / (max r - min r) over `stoch` RSIs, 50 where they are equal (Chande & Kroll 1994).

    k is its mean over `k`, d the mean of k over `d`.
    """
    r = strength(w, 0, p.period, p.period, x.close)
    if not known(r):
        return 0
    at = STRENGTH
    high = highest(w, at, p.stoch, r)
    at += HIGHEST + 2 * p.stoch
    low = lowest(w, at, p.stoch, r)
    if not known(low):
        return 0
    at += HIGHEST + 2 * p.stoch
    out[0] = mean(w, at, p.k, 100.0 * (r - low) / (high - low) if high > low else 50.0)
    if not known(out[0]):
        return 0
    out[1] = mean(w, at + TOTAL + p.k, p.d, out[0])
    return known(out[1])


@feature(
    reads=BAR_INPUT,
    values=[Value("macd", "price", "fast less slow EMA of closes"), Value("signal", "price", "EMA of macd"),
            Value("histogram", "price", "macd less signal")],
    params=[period(12, "fast"), period(26, "slow"), period(9, "signal")],
    window=lambda p: 3 * EMA, warm_up=lambda p: max(p.fast, p.slow) + p.signal - 2,
)  # fmt: skip
def macd(s, w, p, x, out):
    """Moving average convergence/divergence: EMA(fast) - EMA(slow), and its EMA(signal); each begun with its plain mean (Appel 1979).

    The signal's is the mean of the first `signal` differences. Some libraries begin the fast EMA as late as the slow one.
    """
    fast = ema(w, 0, p.fast, 2.0 / (p.fast + 1), x.close)
    slow = ema(w, EMA, p.slow, 2.0 / (p.slow + 1), x.close)
    out[0] = fast - slow
    if not known(out[0]):
        return 0
    out[1] = ema(w, 2 * EMA, p.signal, 2.0 / (p.signal + 1), out[0])
    out[2] = out[0] - out[1]
    return known(out[1])


@feature(
    reads=BAR_INPUT, values=[Value("roc", "%", "change of the close over `period` bars")], params=[period(10)],
    window=lambda p: DELAY + p.period, warm_up=lambda p: p.period,
)  # fmt: skip
def roc(s, w, p, x, out):
    """Rate of change: 100 (close - close n ago) / close n ago, 0 where that was 0."""
    old = delayed(w, 0, p.period, x.close)
    out[0] = 100.0 * (x.close - old) / old if old != 0.0 else 0.0
    return known(old)


@feature(
    reads=BAR_INPUT, values=[Value("trix", "%", "change of the triple EMA over a bar")], params=[period(15)],
    state=[("seen", "i8"), ("smooth", "f8")],
    window=lambda p: 3 * EMA, warm_up=lambda p: 3 * (p.period - 1) + 1,
)  # fmt: skip
def trix(s, w, p, x, out):
    """TRIX: 100 (e3 - e3 before) / e3 before, e3 the EMA of the EMA of the EMA of closes; 0 where that was 0 (Hutson 1983)."""
    alpha = 2.0 / (p.period + 1)
    smooth = ema(w, 0, p.period, alpha, x.close)
    if known(smooth):
        smooth = ema(w, EMA, p.period, alpha, smooth)
    if known(smooth):
        smooth = ema(w, 2 * EMA, p.period, alpha, smooth)
    if not known(smooth):
        return 0
    before = s.smooth
    s.smooth = smooth
    s.seen += 1
    out[0] = 100.0 * (smooth - before) / before if before != 0.0 else 0.0
    return 1 if s.seen > 1 else 0
