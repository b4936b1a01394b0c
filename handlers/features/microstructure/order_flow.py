"""What flows through the book: order-flow imbalance, signed trades, VPIN, the intensity of trades."""

from __future__ import annotations

import numpy as np

from handlers.domain.numeric import erf, exp
from handlers.features.blocks import SPREAD, spread
from handlers.features.declare import EVENT_INPUT, LEVELS_MAX, Param, Value, feature
from handlers.features.microstructure.common import DECAY, MS_MAX, NS_PER_MS, PERIOD_MAX, has_book, is_gap, is_trade, levels, period, sign_of
from handlers.features.windows import enter, expire, flow_slots, length, put, summed
from transport.compiled import kernel

LN_2 = 0.6931471805599453
ROOT_HALF = 0.7071067811865476
LEVEL = 4  # slots of a level as it last stood: bid, bid lots, ask, ask lots


@kernel
def remember(w, at, x, count):
    """Keep the first `count` levels at slot `at`: a side that lacks a level has it at no price, beyond all others."""
    for j in range(count):
        k = at + LEVEL * j
        w[k + 1], w[k + 3] = x.bid_lots[j], x.ask_lots[j]
        w[k] = x.bid_ticks[j] if x.bid_lots[j] > 0.0 else -np.inf
        w[k + 2] = x.ask_ticks[j] if x.ask_lots[j] > 0.0 else np.inf


@kernel
def flow_at(w, k, x, j):
    """Lots that level `j` gained on the bid's side or lost on the ask's, against the level kept at slot `k`."""
    bid = x.bid_ticks[j] if x.bid_lots[j] > 0.0 else -np.inf
    ask = x.ask_ticks[j] if x.ask_lots[j] > 0.0 else np.inf
    flow = 0.0
    if bid >= w[k]:
        flow += x.bid_lots[j]
    if bid <= w[k]:
        flow -= w[k + 1]
    if ask <= w[k + 2]:
        flow -= x.ask_lots[j]
    if ask >= w[k + 2]:
        flow += w[k + 3]
    return flow


@feature(
    reads=EVENT_INPUT, values=[Value("ofi", "lots", "lots the best bid gained and the best ask lost")], params=[period(1)],
    state=[("begun", "i8")],
    window=lambda p: LEVEL + flow_slots(p.period, 1), warm_up=lambda p: p.period,
)  # fmt: skip
def order_flow(s, w, p, x, out):
    """Order-flow imbalance of the best level, summed over the last n events of the book: Cont, Kukanov & Stoikov (2014), eq. 3.

    e = [bid >= bid'] bid_lots - [bid <= bid'] bid_lots' - [ask <= ask'] ask_lots + [ask >= ask'] ask_lots', ' the event before.
    It begins again, without a value, behind a gap and when a side was empty.
    """
    if not has_book(x):
        s.begun = 0
        expire(w, LEVEL, p.period, 1, 0.0)
        return 0
    if not is_trade(x):
        if s.begun:
            put(w, LEVEL, enter(w, LEVEL, p.period, 1, 0.0), 0, flow_at(w, 0, x, 0))
        s.begun = 1
        remember(w, 0, x, 1)
    out[0] = summed(w, LEVEL, p.period, 1, 0)
    return 1 if length(w, LEVEL) >= p.period else 0


@feature(
    reads=EVENT_INPUT,
    values=[Value("weighted", "lots", "sum of the levels', each weighted by `decay` times the weight before it"),
            *(Value(f"ofi_{j + 1}", "lots", f"of level {j + 1}, 0 beyond `levels`") for j in range(LEVELS_MAX))],
    params=[levels(5), DECAY, period(1)], state=[("begun", "i8")],
    window=lambda p: LEVEL * p.levels + flow_slots(p.period, p.levels), warm_up=lambda p: p.period,
)  # fmt: skip
def order_flow_levels(s, w, p, x, out):
    """Order-flow imbalance of each of k levels, summed over the last n events of the book: Xu, Gould & Howison (2018), eq. 6-8.

    Level j is the j-th best price of its side, each held against the j-th best before, as `order_flow` does the first; a side without
    a j-th price has it beyond all others with no lots. It begins again, without a value, behind a gap and when a side was empty.
    """
    at, k = LEVEL * p.levels, p.levels
    if not has_book(x):
        s.begun = 0
        expire(w, at, p.period, k, 0.0)
        return 0
    if not is_trade(x):
        if s.begun:
            entry = enter(w, at, p.period, k, 0.0)
            for j in range(k):
                put(w, at, entry, j, flow_at(w, LEVEL * j, x, j))
        s.begun = 1
        remember(w, 0, x, k)
    out[0] = 0.0
    weight = 1.0
    for j in range(LEVELS_MAX):
        out[1 + j] = summed(w, at, p.period, k, j) if j < k else 0.0
        out[0] += weight * out[1 + j]
        weight *= p.decay
    return 1 if length(w, at) >= p.period else 0


@feature(
    reads=EVENT_INPUT, values=[Value("imbalance", "-1..1", "lots bought less lots sold, in all lots traded")],
    params=[period(100), Param("window_ms", "i8", 0, 0, MS_MAX)],
    state=[("begun", "i8"), ("first_ns", "i8"), ("full", "i8")],
    window=lambda p: flow_slots(p.period, 2), warm_up=lambda p: min(p.period - 1, 1) if p.window_ms else p.period - 1,
)  # fmt: skip
def trade_imbalance(s, w, p, x, out):
    """Trade imbalance: (bought - sold) / (bought + sold) lots of the last n trades that are less than `window_ms` old (0: of any age).

    A trade whose side nobody knows counts in the divisor alone. 0 where none traded. It has a value from the n-th trade on, or once
    the first event is `window_ms` old. Chordia, Roll & Subrahmanyam (2002), order imbalance in shares, scaled by volume. It goes on over
    a gap, as if nothing had traded in it.
    """
    if not s.begun:
        s.begun, s.first_ns = 1, x.ts_ns
    age_ns, span_ns = x.ts_ns - s.first_ns, p.window_ms * NS_PER_MS
    if is_trade(x):
        entry = enter(w, 0, p.period, 2, float(age_ns))
        put(w, 0, entry, 0, sign_of(x) * x.qty)
        put(w, 0, entry, 1, x.qty)
        if length(w, 0) >= p.period:
            s.full = 1
    if span_ns > 0:
        expire(w, 0, p.period, 2, float(age_ns - span_ns))
        if age_ns >= span_ns:
            s.full = 1
    lots = summed(w, 0, p.period, 2, 1)
    out[0] = summed(w, 0, p.period, 2, 0) / lots if lots > 0.0 else 0.0
    return 1 if s.full else 0


@feature(
    reads=EVENT_INPUT, values=[Value("vpin", "0..1", "mean |bought - sold| of a bucket, in its lots")],
    params=[Param("bucket", "i8", 1000, 1, 2**40), period(50, low=2), Param("bulk", "i8", 0, 0, 1)],
    state=[("filled", "f8"), ("bought", "f8"), ("price", "f8"), ("priced", "i8"), ("prices", "i8"), ("vpin", "f8")],
    window=lambda p: flow_slots(p.period, 1) + SPREAD + p.period, warm_up=lambda p: 0, version=2,
)  # fmt: skip
def vpin(s, w, p, x, out):
    """VPIN: sum of |bought - sold| over the last n buckets / (n V), buckets of V = `bucket` lots (Easley, Lopez de Prado & O'Hara 2012).

    A trade that overfills a bucket goes on in the next. Sides are the trades' (what nobody knows is half and half), or with `bulk = 1`
    those of their eq. 4 with the bucket as its own bar: bought = V Phi(dp / sigma), dp the change of the last price from bucket to
    bucket, sigma its deviation (the population's) over the last n, this one among them; half and half while that is 0 or not known.
    The first value stands at the n-th bucket, in bulk n - 1 later; at most n buckets of one trade are looked at, which are all that stay.
    Over a gap the open bucket goes on with what trades behind it; dp of a bucket that a gap stands in or before is 0, as of the first.
    """
    if is_gap(x):
        s.priced = 0
    elif is_trade(x):
        fill_buckets(s, w, p, x)
    out[0] = s.vpin
    return 1 if s.prices >= (2 * p.period - 1 if p.bulk else p.period) else 0


@kernel
def fill_buckets(s, w, p, x):
    """Pour a trade into the buckets and close those it fills."""
    left, share = x.qty, 0.5 + 0.5 * sign_of(x)
    spare = left - (p.period + 1.0) * p.bucket
    if spare > 0.0:  # as many whole buckets as would only pass through the window
        whole = int(spare // p.bucket)
        left -= float(whole) * p.bucket
        s.prices = min(s.prices + whole, 2 * PERIOD_MAX)
    while s.filled + left >= p.bucket:
        room = p.bucket - s.filled
        s.bought += share * room
        left -= room
        close_bucket(s, w, p, x.price)
    s.filled += left
    s.bought += share * left


@kernel
def close_bucket(s, w, p, price):
    """Take a full bucket into the window."""
    change = price - s.price if s.priced else 0.0
    s.price, s.priced = price, 1
    bought = s.bought
    if p.bulk:
        at = flow_slots(p.period, 1)
        middle = spread(w, at, p.period, change)
        sigma = np.sqrt(w[at + 3] / p.period) if middle == middle else 0.0
        z = change / sigma if sigma > 0.0 else 0.0
        bought = p.bucket * (0.5 + 0.5 * erf(z * ROOT_HALF))
    put(w, 0, enter(w, 0, p.period, 1, 0.0), 0, abs(2.0 * bought - p.bucket))
    s.vpin = summed(w, 0, p.period, 1, 0) / (float(p.period) * p.bucket)
    s.filled = s.bought = 0.0
    s.prices = min(s.prices + 1, 2 * PERIOD_MAX)


@feature(
    reads=EVENT_INPUT,
    values=[Value("intensity", "trades/s", "of all trades"), Value("buys", "trades/s", "of those that bought"),
            Value("sells", "trades/s", "of those that sold")],
    params=[Param("half_life_ms", "f8", 1000.0, 0.001, MS_MAX)],
    state=[("begun", "i8"), ("last_ns", "i8"), ("all", "f8"), ("buys", "f8"), ("sells", "f8")],
    window=lambda p: 0, warm_up=lambda p: 0,
)  # fmt: skip
def trade_intensity(s, w, p, x, out):
    """Intensity of trades: sum over trades of b exp(-b (t - t_i)), b = ln 2 / half-life: the exponential kernel of Hawkes (1971).

    Its mean is the rate of trades; the excited part of a Hawkes process with branching ratio a is a times this. It decays at every
    event and grows by b at a trade, that of the event itself among them; at least 0. Over a gap it decays, as if nothing had traded.
    """
    rate = LN_2 * 1000.0 / p.half_life_ms
    past_ns = x.ts_ns - s.last_ns if s.begun else 0
    if past_ns > 0:
        kept = exp(-rate * (past_ns * 1e-9))
        s.all *= kept
        s.buys *= kept
        s.sells *= kept
    s.begun, s.last_ns = 1, x.ts_ns
    if is_trade(x):
        sign = sign_of(x)
        s.all += rate
        s.buys += rate if sign > 0.0 else 0.0
        s.sells += rate if sign < 0.0 else 0.0
    out[0], out[1], out[2] = s.all, s.buys, s.sells
    return 1
