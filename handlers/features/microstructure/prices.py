"""How prices move and what trading costs: realised variance, Kyle's lambda, Roll's spread, effective and realised spreads."""

from __future__ import annotations

import numpy as np

from handlers.domain.numeric import log
from handlers.features.declare import EVENT_INPUT, Param, Value, feature
from handlers.features.microstructure.common import MS_MAX, NS_PER_MS, PERIOD_MAX, has_book, is_gap, is_trade, period, sign_of
from handlers.features.windows import enter, expire, flow_slots, length, put, summed
from transport.compiled import kernel

HALF_PI = 1.5707963267948966
WAITING = 4  # slots of a trade whose realised spread is not known yet: when, side, price, mid
FLAT = 1e-12  # a spread of signed volume that is less than this of its squares is what rounding left of none


@feature(
    reads=EVENT_INPUT,
    values=[Value("variance", "", "sum of squared returns"), Value("bipower", "", "the part of it that is no jump"),
            Value("jump", "", "variance - bipower, at least 0")],
    params=[period(300, low=2), Param("sample_ms", "i8", 1000, 0, MS_MAX)],
    state=[("begun", "i8"), ("first", "i8"), ("slot", "i8"), ("mid", "f8"), ("sampled", "f8"), ("size", "f8"), ("sized", "i8")],
    window=lambda p: flow_slots(p.period, 1) + flow_slots(p.period - 1, 1), warm_up=lambda p: 1 if p.sample_ms else p.period,
    version=2,
)  # fmt: skip
def realised_variance(s, w, p, x, out):
    """Realised variance, sum of r_i^2, and bipower variation, pi / 2 sum of |r_i| |r_i-1|, of the last n log returns of the mid.

    Barndorff-Nielsen & Shephard (2004). Returns are between the last mids of intervals of `sample_ms` of the line's clock that have
    ended, an interval without an event having none but 0, or with `sample_ms = 0` between events of the book. A mid that is not known
    or not above 0 leaves the last one standing. Not negative; a value once there have been n returns. It begins again, without a value,
    behind a gap.
    """
    if is_gap(x):
        s.begun = s.slot = 0
        expire(w, 0, p.period, 1, np.inf)
        expire(w, flow_slots(p.period, 1), p.period - 1, 1, np.inf)
        return 0
    slot = x.ts_ns // (p.sample_ms * NS_PER_MS) if p.sample_ms > 0 else s.slot + 1
    if p.sample_ms > 0 and s.begun and slot > s.slot:
        end_interval(s, w, p, slot)
    if x.mid > 0.0 and (p.sample_ms > 0 or not is_trade(x)):
        s.mid = x.mid
        if not s.begun:
            s.begun, s.first, s.slot, s.sized = 1, slot, slot, slot - 2
            s.sampled = x.mid
        elif p.sample_ms == 0:
            take_return(s, w, p, slot)
            s.slot = slot
    out[0] = summed(w, 0, p.period, 1, 0)
    out[1] = HALF_PI * summed(w, flow_slots(p.period, 1), p.period - 1, 1, 0)
    out[2] = max(out[0] - out[1], 0.0)
    return 1 if s.begun and s.slot - s.first >= p.period + (1 if p.sample_ms > 0 else 0) else 0


@kernel
def end_interval(s, w, p, slot):
    """Interval s.slot has ended, and those up to `slot`: the return of the one, none of the others, in which nothing happened."""
    if s.slot == s.first:
        s.sampled = s.mid
    else:
        take_return(s, w, p, s.slot)
    expire(w, 0, p.period, 1, float(slot - 1 - s.first - p.period))
    expire(w, flow_slots(p.period, 1), p.period - 1, 1, float(slot - s.first - p.period))
    s.slot = slot


@kernel
def take_return(s, w, p, slot):
    """The return from the mid sampled last to the one now, that of interval `slot`."""
    size = abs(log(s.mid / s.sampled))
    s.sampled = s.mid
    at = flow_slots(p.period, 1)
    put(w, 0, enter(w, 0, p.period, 1, float(slot - s.first)), 0, size * size)
    beside = s.size if s.sized == slot - 1 else 0.0
    put(w, at, enter(w, at, p.period - 1, 1, float(slot - s.first)), 0, size * beside)
    s.size, s.sized = size, slot


@feature(
    reads=EVENT_INPUT,
    values=[Value("lambda", "ticks/lot", "slope of mid changes on signed volume"), Value("r2", "0..1", "share of mid changes it explains")],
    params=[period(100, low=2), Param("trades", "i8", 10, 1, PERIOD_MAX)],
    state=[("begun", "i8"), ("trades", "i8"), ("lots", "f8"), ("mid", "f8"), ("slope", "f8"), ("r2", "f8")],
    window=lambda p: flow_slots(p.period, 5), warm_up=lambda p: p.period * (p.trades + 1),
)  # fmt: skip
def kyle_lambda(s, w, p, x, out):
    """Kyle's lambda: slope of the regression with intercept of mid changes on signed lots, over the last n observations (Kyle 1985).

    lambda = (sum xy - sum x sum y / n) / (sum xx - (sum x)^2 / n). An observation begins with the mid that ended the one before and
    ends with the first event of the book behind `trades` trades: y is the change, x the lots bought less those sold. Both are 0 where
    the signed lots of all observations are the same, r2 where the mid never moves. What a gap, or a mid that is not known, interrupts is
    left out.
    """
    if not has_book(x):
        s.begun = 0
    elif is_trade(x):
        s.trades += 1
        s.lots += sign_of(x) * x.qty
    elif not s.begun or s.trades >= p.trades:
        if s.begun:
            observe(s, w, p, s.lots, x.mid - s.mid)
        s.begun, s.trades, s.lots, s.mid = 1, 0, 0.0, x.mid
    out[0], out[1] = s.slope, s.r2
    return 1 if length(w, 0) >= p.period else 0


@kernel
def observe(s, w, p, lots, change):
    """Take an observation in and regress again."""
    n = p.period
    entry = enter(w, 0, n, 5, 0.0)
    put(w, 0, entry, 0, lots)
    put(w, 0, entry, 1, change)
    put(w, 0, entry, 2, lots * lots)
    put(w, 0, entry, 3, lots * change)
    put(w, 0, entry, 4, change * change)
    if length(w, 0) < n:
        return
    x, y, xx = summed(w, 0, n, 5, 0), summed(w, 0, n, 5, 1), summed(w, 0, n, 5, 2)
    xy, yy = summed(w, 0, n, 5, 3), summed(w, 0, n, 5, 4)
    apart, moved = xx - x * x / n, yy - y * y / n
    s.slope = s.r2 = 0.0
    if apart > FLAT * xx:
        both = xy - x * y / n
        s.slope = both / apart
        if moved > FLAT * yy:
            s.r2 = min(1.0, both * both / (apart * moved))


@feature(
    reads=EVENT_INPUT, values=[Value("spread", "ticks", "implied by how trade prices bounce")], params=[period(200, low=2)],
    state=[("trades", "i8"), ("price", "f8"), ("change", "f8"), ("spread", "f8")],
    window=lambda p: flow_slots(p.period, 3), warm_up=lambda p: p.period + 1, version=2,
)  # fmt: skip
def roll_spread(s, w, p, x, out):
    """Roll's spread: 2 sqrt(-cov(dp_i, dp_i-1)) over the last n pairs of successive changes of the trade price (Roll 1984).

    cov is the population's; 0 where it is not negative. Changes are of trades with no gap between them, pairs of three such.
    """
    if is_gap(x):
        s.trades = 0
    elif is_trade(x):
        change = x.price - s.price
        if s.trades >= 2:
            entry = enter(w, 0, p.period, 3, 0.0)
            put(w, 0, entry, 0, change * s.change)
            put(w, 0, entry, 1, change)
            put(w, 0, entry, 2, s.change)
            product, now = summed(w, 0, p.period, 3, 0) / p.period, summed(w, 0, p.period, 3, 1) / p.period
            s.spread = 2.0 * np.sqrt(max(now * (summed(w, 0, p.period, 3, 2) / p.period) - product, 0.0))
        s.trades = min(s.trades + 1, 2)
        s.price, s.change = x.price, change
    out[0] = s.spread
    return 1 if length(w, 0) >= p.period else 0


@feature(
    reads=EVENT_INPUT, values=[Value("effective", "ticks", "mean of twice the distance of a trade from the mid, signed by its side")],
    params=[period(100)], window=lambda p: flow_slots(p.period, 1), warm_up=lambda p: p.period - 1,
)  # fmt: skip
def effective_spread(s, w, p, x, out):
    """Effective spread: mean of 2 q (price - mid) over the last n trades, q = +1 bought, -1 sold, mid as the book stands at the trade.

    Huang & Stoll (1996). A trade without a mid or a side does not count. Negative where trades were inside out. It goes on over a gap.
    """
    if is_trade(x) and has_book(x):
        sign = sign_of(x)
        if sign != 0.0:
            put(w, 0, enter(w, 0, p.period, 1, 0.0), 0, 2.0 * sign * (x.price - x.mid))
    out[0] = summed(w, 0, p.period, 1, 0) / p.period
    return 1 if length(w, 0) >= p.period else 0


@feature(
    reads=EVENT_INPUT,
    values=[Value("realised", "ticks", "mean of twice the distance of a trade from the mid `delay_ms` later, signed by its side"),
            Value("impact", "ticks", "mean of twice the mid's move within `delay_ms`, signed by the trade's side")],
    params=[period(100), Param("delay_ms", "i8", 1000, 1, MS_MAX), Param("waiting", "i8", 4096, 1, 100_000)],
    state=[("begun", "i8"), ("first_ns", "i8"), ("oldest", "i8"), ("count", "i8"), ("mid", "f8")],
    window=lambda p: flow_slots(p.period, 2) + WAITING * p.waiting, warm_up=lambda p: p.period,
)  # fmt: skip
def realised_spread(s, w, p, x, out):
    """Realised spread: mean of 2 q (price - mid'), and price impact, mean of 2 q (mid' - mid), mid' the mid `delay_ms` after the trade.

    Huang & Stoll (1996); both together are the effective spread. The means are over the last n trades whose mid' is known: the mid as it
    stood when the first event more than `delay_ms` later comes. `waiting` trades at most wait for theirs; one that finds no room, or no
    mid, or no side, does not count. A trade before a gap counts if the mid is known again when its time comes.
    """
    if not s.begun:
        s.begun, s.first_ns = 1, x.ts_ns
    at, now = flow_slots(p.period, 2), float(x.ts_ns - s.first_ns)
    until = now - float(p.delay_ms * NS_PER_MS)
    while s.count > 0 and w[at + WAITING * s.oldest] < until:
        k = at + WAITING * s.oldest
        if s.mid == s.mid:
            entry = enter(w, 0, p.period, 2, 0.0)
            put(w, 0, entry, 0, 2.0 * w[k + 1] * (w[k + 2] - s.mid))
            put(w, 0, entry, 1, 2.0 * w[k + 1] * (s.mid - w[k + 3]))
        s.oldest = 0 if s.oldest + 1 == p.waiting else s.oldest + 1
        s.count -= 1
    s.mid = x.mid
    sign = sign_of(x) if is_trade(x) and has_book(x) else 0.0
    if sign != 0.0 and s.count < p.waiting:
        k = at + WAITING * ((s.oldest + s.count) % p.waiting)
        w[k], w[k + 1], w[k + 2], w[k + 3] = now, sign, x.price, x.mid
        s.count += 1
    out[0], out[1] = summed(w, 0, p.period, 2, 0) / p.period, summed(w, 0, p.period, 2, 1) / p.period
    return 1 if length(w, 0) >= p.period else 0
