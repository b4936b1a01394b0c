"""Cross-section factors on a bar clock: one step a bar for the whole universe, five scores an instrument and their composite.

    closes, traded value ──► rings of the last bars ──► raw factors ──► z-score or rank ──► less the group's mean ──► composite
    member, period end ─────────────┘                   (FACTORS, n)     of the members        (SCORES, n)              (n,)

A *bar* is a row of closes, a day as a rule; a *period* is what momentum and reversal count in: its last bar is given as such by
the caller (`period_end`: the last trading day of a month, or every bar, with windows in bars). Rings begin as NaN, so that warm-up
needs no rule of its own: a factor whose window reaches behind the first bar is NaN. Nothing outlives its window: what a bar's
scores are depends on the bars in the windows alone, bit for bit, wherever the stream began.

An instrument has no score at a bar where it is no member of the universe, has no close, or not enough history; it is then in no
statistic. Membership is asked bar by bar, so that a universe is that of its day; history is kept of whoever has closes, member
or not. A batch is the same step, bar after bar (`handlers.features.factor_panel`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from handlers.features.cross_section import Scratch, centred_ranks, composite, neutralise, new_scratch, robust_z
from transport.compiled import kernel

MOMENTUM, REVERSAL, LOW_VOLATILITY, LIQUIDITY, HIGH = range(5)
FACTORS = ("momentum", "reversal", "low_volatility", "liquidity", "high")
Z_SCORE, RANK = 0, 1
INSTRUMENTS_MAX = 65_536
WINDOW_MAX = 2_048  # bars
CLOSE_MIN, CLOSE_MAX = 1e-12, 1e12  # outside it a close is none; within it no ratio overflows
VALUE_MIN, VALUE_MAX = 1e-6, 1e18  # of the currency traded in a bar
MILLION = 1e6

FACTOR_PARAMS = np.dtype(
    [
        ("momentum", "i8"), ("skip", "i8"), ("reversal", "i8"),  # periods
        ("volatility", "i8"), ("liquidity", "i8"), ("high", "i8"),  # bars
        ("holes_max", "i8"), ("normal", "i8"), ("bound", "f8"), ("share_min", "f8"),
    ]
)  # fmt: skip
HEAD = np.dtype([("bars", "i8"), ("periods", "i8")])  # taken so far


class Factors(NamedTuple):
    """Arrays of `n` instruments; a ring's row is a bar's (or a period's), but `closes` is by instrument, so that it can be scanned."""

    params: np.ndarray
    head: np.ndarray
    ends: np.ndarray  # f8 (momentum + 1, n): closes of the last periods
    last: np.ndarray  # f8 (n,): close of the bar before
    returns: np.ndarray  # f8 (volatility, n)
    impacts: np.ndarray  # f8 (liquidity, n): |return| a million of currency traded
    closes: np.ndarray  # f8 (n, high)
    known: np.ndarray  # i8 (n,): closes in it that are there
    top: np.ndarray  # f8 (n,): highest of them
    top_bar: np.ndarray  # i8 (n,): its bar, the latest of equal ones
    sums: np.ndarray  # f8 (2, n)
    counts: np.ndarray  # i8 (n,)
    groups: np.ndarray  # i8 (n,)
    weights: np.ndarray  # f8 (5,)
    raw: np.ndarray  # f8 (5, n): of the last step, and so the two below
    scores: np.ndarray  # f8 (5, n)
    composite: np.ndarray  # f8 (n,)
    scratch: Scratch


def new_factors(
    n: int, *, momentum: int = 12, skip: int = 1, reversal: int = 1, volatility: int = 60, liquidity: int = 21, high: int = 252,
    holes_max: int = 0, normal: int = Z_SCORE, bound: float = 3.0, share_min: float = 0.5,
    groups: np.ndarray | None = None, weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0),
) -> Factors:  # fmt: skip
    """State of `n` instruments that have seen no bar; the defaults are those of the sources: 12-1, a month, 60 days, 52 weeks.

    Windows as in FACTOR_PARAMS, each up to WINDOW_MAX, skip and reversal up to momentum. Of the bars in a window of volatility,
    liquidity and high, `holes_max` may lack a value. `groups`: (n,) integers from 0, none is one group; whoever has no sector is
    put in one of its own by the caller. `weights`: of FACTORS, signed. Raises ValueError for what is out of these bounds.
    """
    windows = (momentum, skip, reversal, volatility, liquidity, high)
    if not 1 <= n <= INSTRUMENTS_MAX:
        raise ValueError(f"{n} instruments; 1 to {INSTRUMENTS_MAX} are possible")
    if min(windows[0], *windows[2:]) < 1 or max(windows) > WINDOW_MAX or not 0 <= skip < momentum or reversal > momentum or volatility < 2:
        raise ValueError(f"windows {windows}: 1 to {WINDOW_MAX} (volatility from 2), skip below momentum, reversal not above it")
    if not 0 <= holes_max < min(liquidity, high, volatility - 1) or not bound > 0.0 or not 0.0 <= share_min <= 1.0 or normal not in (0, 1):
        raise ValueError("holes_max must leave a value in every window (two of volatility), bound be above 0, share_min 0 to 1")
    codes = np.zeros(n, np.int64) if groups is None else np.ascontiguousarray(groups, np.int64)
    if codes.shape != (n,) or codes.min() < 0 or codes.max() >= n:
        raise ValueError(f"groups must be {n} codes of 0 to {n - 1}")
    if len(weights) != len(FACTORS) or not np.isfinite(weights).all() or not any(weights):
        raise ValueError(f"weights must be {len(FACTORS)} finite numbers, not all 0")
    params = np.zeros(1, FACTOR_PARAMS)
    params[0] = (*windows, holes_max, normal, bound, share_min)
    rows = [np.full((w, n), np.nan) for w in (momentum + 1, volatility, liquidity)]
    five = len(FACTORS)
    return Factors(
        params, np.zeros(1, HEAD), rows[0], np.full(n, np.nan), rows[1], rows[2], np.full((n, high), np.nan),
        np.zeros(n, np.int64), np.zeros(n), np.zeros(n, np.int64), np.zeros((2, n)), np.zeros(n, np.int64), codes,
        np.array(weights, np.float64), np.full((five, n), np.nan), np.full((five, n), np.nan), np.full(n, np.nan),
        new_scratch(n, int(codes.max()) + 1),
    )  # fmt: skip


@kernel
def change_of_periods(s, back, skip, sign, out):
    """out = sign * (close `skip` periods ago / close `back` periods ago - 1), as of the last period's end; a number, no unit.

    Window `back` periods, warm-up back + 1 period ends. Both closes must be there.
    Source  momentum: Jegadeesh & Titman (1993), with the last month left out as in Fama & French (1996): sign +1, back 12, skip 1
            reversal: Jegadeesh (1990): sign -1, back 1, skip 0
    """
    depth, periods = len(s.ends), s.head[0].periods
    if periods <= back:
        out[:] = np.nan
        return
    new, old = s.ends[(periods - 1 - skip) % depth], s.ends[(periods - 1 - back) % depth]
    for i in range(len(out)):
        out[i] = sign * (new[i] / old[i] - 1.0)


@kernel
def low_volatility(s, out):
    """out = -(sample standard deviation of the last `volatility` returns of a bar), mean removed, n - 1; unit: return a bar.

    Window `volatility` bars, warm-up one bar more. Two passes over the window, from its oldest bar on: no sum is carried along,
    so none drifts.
    Source  Ang, Hodrick, Xing & Zhang (2006); Blitz & van Vliet (2007) for total volatility
    """
    window, bars = len(s.returns), s.head[0].bars
    mean, square, counts = s.sums[0], s.sums[1], s.counts
    mean[:] = 0.0
    square[:] = 0.0
    counts[:] = 0
    for k in range(bars, bars + window):
        row = s.returns[k % window]
        for i in range(len(out)):
            known = row[i] == row[i]
            mean[i] += row[i] if known else 0.0
            counts[i] += np.int64(known)
    for i in range(len(out)):
        mean[i] /= counts[i]
    for k in range(bars, bars + window):
        row = s.returns[k % window]
        for i in range(len(out)):
            off = row[i] - mean[i]
            square[i] += off * off if off == off else 0.0
    least = window - s.params[0].holes_max
    for i in range(len(out)):
        out[i] = -np.sqrt(square[i] / (counts[i] - 1)) if counts[i] >= least else np.nan


@kernel
def illiquidity(s, out):
    """out = mean over the last `liquidity` bars of |return| / traded value; unit: return a million of currency. High is illiquid.

    Window `liquidity` bars, warm-up one bar more; a bar without trading has no value and is a hole.
    Source  Amihud (2002), Illiquidity and stock returns, eq. 1, over a month as in Acharya & Pedersen (2005)
    """
    window, bars = len(s.impacts), s.head[0].bars
    total, counts = s.sums[0], s.counts
    total[:] = 0.0
    counts[:] = 0
    for k in range(bars, bars + window):
        row = s.impacts[k % window]
        for i in range(len(out)):
            known = row[i] == row[i]
            total[i] += row[i] if known else 0.0
            counts[i] += np.int64(known)
    least = window - s.params[0].holes_max
    for i in range(len(out)):
        out[i] = total[i] / counts[i] if counts[i] >= least else np.nan


@kernel
def nearness_to_high(s, close, out):
    """out = close / highest close of the last `high` bars, this one included; in (0, 1].

    Window and warm-up `high` bars. The highest is kept; when it leaves the window, and only then, the window is looked through.
    Source  George & Hwang (2004), The 52-Week High and Momentum Investing
    """
    bar = s.head[0].bars - 1
    window = s.params[0].high
    least = window - s.params[0].holes_max
    for i in range(len(out)):
        row = s.closes[i]
        if s.top_bar[i] <= bar - window:
            s.top[i], s.top_bar[i] = 0.0, bar
            for k in range(max(0, bar - window + 1), bar + 1):
                if row[k % window] >= s.top[i]:
                    s.top[i], s.top_bar[i] = row[k % window], k
        out[i] = close[i] / s.top[i] if s.known[i] >= least else np.nan


@kernel
def take_bar(s, close, value, period_end):
    """Write one bar into the rings; `last` is then its closes, NaN for those that are none."""
    head = s.head[0]
    bar = head.bars
    returns, impacts, at = s.returns[bar % len(s.returns)], s.impacts[bar % len(s.impacts)], bar % s.params[0].high
    for i in range(len(close)):
        new = close[i] if CLOSE_MIN <= close[i] and close[i] <= CLOSE_MAX else np.nan
        change = new / s.last[i] - 1.0
        traded = VALUE_MIN <= value[i] and value[i] <= VALUE_MAX
        returns[i] = change
        impacts[i] = abs(change) / value[i] * MILLION if traded else np.nan
        s.last[i] = new
        s.known[i] += np.int64(new == new) - np.int64(s.closes[i, at] == s.closes[i, at])
        s.closes[i, at] = new
        if new >= s.top[i]:
            s.top[i], s.top_bar[i] = new, bar
    head.bars = bar + 1
    if period_end:
        ends = s.ends[head.periods % len(s.ends)]
        for i in range(len(close)):
            ends[i] = s.last[i]
        head.periods += 1


@kernel
def step_factors(s, close, value, member, period_end):
    """One bar of the whole universe: closes, traded value in currency (NaN: not known), members, whether it ends a period; each (n,).

    Afterwards `raw`, `scores` and `composite` are this bar's. Closes adjusted for splits and dividends, or the factors are of the
    splits. No memory is taken; work is O(n) times the windows of volatility and liquidity.
    """
    p = s.params[0]
    take_bar(s, close, value, period_end)
    change_of_periods(s, p.momentum, p.skip, 1.0, s.raw[MOMENTUM])
    change_of_periods(s, p.reversal, 0, -1.0, s.raw[REVERSAL])
    low_volatility(s, s.raw[LOW_VOLATILITY])
    illiquidity(s, s.raw[LIQUIDITY])
    nearness_to_high(s, s.last, s.raw[HIGH])
    for k in range(len(s.raw)):
        raw, scores = s.raw[k], s.scores[k]
        for i in range(len(raw)):
            raw[i] = raw[i] if member[i] and s.last[i] == s.last[i] else np.nan
        if p.normal == RANK:
            centred_ranks(raw, scores, s.scratch)
        else:
            robust_z(raw, scores, p.bound, s.scratch)
        neutralise(scores, s.groups, s.scratch)
    composite(s.scores, s.weights, p.share_min, s.composite)
