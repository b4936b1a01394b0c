"""What the resting book says: where the price leans, which side is heavier, how steep it is, how it fills up again."""

from __future__ import annotations

from handlers.domain.numeric import log
from handlers.features.blocks import NAN, known
from handlers.features.declare import EVENT_INPUT, Param, Value, feature
from handlers.features.microstructure.common import DECAY, MS_MAX, NS_PER_MS, has_book, is_trade, levels, period, sign_of
from handlers.features.windows import enter, flow_slots, length, put, summed
from transport.compiled import kernel


@feature(
    reads=EVENT_INPUT, values=[Value("microprice", "ticks", "prices of the levels, each weighted by the other side's lots")],
    params=[levels(5), DECAY], window=lambda p: 0, warm_up=lambda p: 0,
)  # fmt: skip
def microprice_levels(s, w, p, x, out):
    """Weighted mid over k levels: sum of d^j (bid_j ask_lots_j + ask_j bid_lots_j) / sum of d^j (bid_lots_j + ask_lots_j), j = 0..k-1.

    With one level it is the weighted mid, the first-order microprice of Stoikov (2018); `decay` is d. Within the k-th bid and ask.
    Levels count while both sides have them; no value while a side is empty.
    """
    if not has_book(x):
        return 0
    money = lots = 0.0
    weight = 1.0
    for j in range(p.levels):
        bids, asks = x.bid_lots[j], x.ask_lots[j]
        if not (bids > 0.0 and asks > 0.0):
            break
        money += weight * (x.bid_ticks[j] * asks + x.ask_ticks[j] * bids)
        lots += weight * (bids + asks)
        weight *= p.decay
    out[0] = money / lots
    return 1


@feature(
    reads=EVENT_INPUT, values=[Value("imbalance", "-1..1", "share of bids less that of asks in what rests")],
    params=[levels(5), DECAY], window=lambda p: 0, warm_up=lambda p: 0,
)  # fmt: skip
def queue_imbalance(s, w, p, x, out):
    """Queue imbalance over k levels: (B - A) / (B + A), B and A the sums of d^j bid_lots_j and d^j ask_lots_j, j = 0..k-1.

    Gould & Bonart (2016) for the best level; `decay` is d. No value while a side is empty.
    """
    if not has_book(x):
        return 0
    bids, asks = weighted_lots(x.bid_lots, p.levels, p.decay), weighted_lots(x.ask_lots, p.levels, p.decay)
    out[0] = (bids - asks) / (bids + asks)
    return 1


@kernel
def weighted_lots(lots, count, decay):
    """Lots of the first `count` levels of a side, each weighted by `decay` times the weight before it."""
    found = 0.0
    weight = 1.0
    for j in range(count):
        found += weight * lots[j]
        weight *= decay
    return found


@feature(
    reads=EVENT_INPUT,
    values=[Value("slope", "", "mean of both sides'"), Value("bid", "", "slope of the bids"), Value("ask", "", "slope of the asks")],
    params=[levels(5)], window=lambda p: 0, warm_up=lambda p: 0,
)  # fmt: skip
def book_slope(s, w, p, x, out):
    """Slope of the book, an elasticity of depth to price: (v_1 / |p_1 / mid - 1| + sum of (v_j+1 / v_j - 1) / |p_j+1 / p_j - 1|) / k a side.

    Naes & Skjeltorp (2006), eq. 2-4, with v_j = ln(1 + lots of the first j levels), so that one lot is not nothing; k the levels
    there are, at most `levels`. Above 0. No value while a side is empty, the book is crossed or locked, or a price is not above 0.
    """
    if not has_book(x) or not x.bid_ticks[0] < x.ask_ticks[0]:
        return 0
    out[1] = slope_of(x.bid_ticks, x.bid_lots, x.mid, p.levels)
    out[2] = slope_of(x.ask_ticks, x.ask_lots, x.mid, p.levels)
    out[0] = 0.5 * (out[1] + out[2])
    return known(out[0])


@kernel
def slope_of(ticks, lots, mid, count):
    """Slope of one side; NaN where a price is not above 0."""
    depth = before = found = 0.0
    price = mid
    there = 0
    for j in range(count):
        if not lots[j] > 0.0:
            break
        if not (ticks[j] > 0.0 and price > 0.0):
            return NAN
        depth += lots[j]
        v = log(1.0 + depth)
        rise = v if j == 0 else v / before - 1.0
        found += rise / abs(ticks[j] / price - 1.0)
        price, before = ticks[j], v
        there += 1
    return found / there if there > 0 else NAN


@feature(
    reads=EVENT_INPUT,
    values=[Value("recovered", "0..1", "mean share of the lost depth that had come back when an episode ended"),
            Value("time_ms", "ms", "mean length of an episode")],
    params=[levels(5), Param("target", "f8", 0.9, 0.0, 1.0), Param("timeout_ms", "i8", 10_000, 1, MS_MAX), period(20)],
    state=[("open", "i8", (2,)), ("began_ns", "i8", (2,)), ("before", "f8", (2,)), ("low", "f8", (2,)), ("depth", "f8", (2,))],
    window=lambda p: flow_slots(p.period, 2), warm_up=lambda p: 2,
)  # fmt: skip
def resilience(s, w, p, x, out):
    """Resilience: which share of the depth that trades took comes back, and how soon, a mean over the last n episodes of both sides.

    An episode begins with a trade, on the side it takes from, unless one is open there: `before` is the lots of the first k levels as
    the book last stood, `low` the least since. It ends once (depth - low) >= target (before - low) with low < before, or with what
    has come back after `timeout_ms`; one in which nothing was lost does not count. It is also dropped at a gap and where a side is empty. Resilience as
    in Kyle (1985); the measure is that of Obizhaeva & Wang (2013) without their exponential form. `recovered` in 0..1, `time_ms` in
    0..timeout_ms. A venue whose book is told ahead of its trades hides a part of what they took.
    """
    if not has_book(x):
        s.open[0] = s.open[1] = 0
        return 0
    for side in range(2):
        if s.open[side] and x.ts_ns - s.began_ns[side] > p.timeout_ms * NS_PER_MS:
            end_episode(s, w, p, side, p.timeout_ms * NS_PER_MS)
        lots = weighted_lots(x.bid_lots, p.levels, 1.0) if side == 0 else weighted_lots(x.ask_lots, p.levels, 1.0)
        s.depth[side] = lots
        if s.open[side]:
            s.low[side] = min(s.low[side], lots)
            lost = s.before[side] - s.low[side]
            if lost > 0.0 and lots > s.low[side] and lots - s.low[side] >= p.target * lost:
                end_episode(s, w, p, side, x.ts_ns - s.began_ns[side])
    sign = sign_of(x) if is_trade(x) else 0.0
    side = 1 if sign > 0.0 else 0
    if sign != 0.0 and not s.open[side]:
        s.open[side], s.began_ns[side] = 1, x.ts_ns
        s.before[side] = s.low[side] = s.depth[side]
    out[0], out[1] = summed(w, 0, p.period, 2, 0) / p.period, summed(w, 0, p.period, 2, 1) / p.period
    return 1 if length(w, 0) >= p.period else 0


@kernel
def end_episode(s, w, p, side, took_ns):
    """Count the episode of `side`, as the depth last stood, unless nothing was lost."""
    s.open[side] = 0
    lost = s.before[side] - s.low[side]
    if lost > 0.0:
        entry = enter(w, 0, p.period, 2, 0.0)
        put(w, 0, entry, 0, min(1.0, (s.depth[side] - s.low[side]) / lost))
        put(w, 0, entry, 1, took_ns / NS_PER_MS)
