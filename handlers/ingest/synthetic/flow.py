"""Kernels of the synthetic feed: one venue message after another, out of a seed.

What is imitated is the texture that engines and strategies trip over: arrivals that excite one another, calm and wild regimes,
runs of buys and of sells, momentum and reversion, a spread that widens when the touch is eaten and is filled again, heavy-tailed
sizes, sweeps through several levels, latency with a tail.

    arrival (thinned, self-exciting) ──► sweep | add | cancel ──► rows of one venue message ──► `pending` ──► the caller's chunk
                                              │
                                 book of the stream: two rings of quantities, slot = price mod RING

Each instrument has its own stream of draws (splitmix64), so the rows of one do not depend on how many others there are. All
state is three struct arrays and a call of the kernel goes on after any message, so the same seed gives the same rows for any
chunk size, and on any CPU, since there are only + - * /, sqrt and integers here.

A message is [trade, delta, …] or [delta, …] with one update id, EVENT_END on its last row; when it moved the touch, a quote with
the same times follows as a message of its own. A trade prints at the touch of the book as the rows before it left it.
"""

from __future__ import annotations

import numpy as np

from handlers.domain.numeric import log, splitmix64
from transport.compiled import kernel
from transport.records import (
    ASK,
    BID,
    BOOK_DELTA,
    BOOK_SNAPSHOT,
    BUY,
    EVENT_END,
    EVENT_FIRST,
    QUOTE,
    SELL,
    SET,
    SYNTHETIC,
    TRADE,
)  # fmt: skip

DEPTH = 50  # levels a side in the opening snapshot
KEEP = 100  # ticks behind the touch that a side reaches; what falls behind is cancelled
RING = 128  # slots a side; more than KEEP, so that two levels never share one
LEVELS_MIN = 16  # a side this thin is neither cancelled nor swept further
SWEEP_LEVELS_MAX = 4
IMPROVE_MAX = 8  # ticks that one order may better the touch by; bounds the rows of a message
PENDING_ROWS = 2 * DEPTH + 28  # the snapshot and its quote are the longest message

NEUTRAL, MOMENTUM, REVERSION = 0, 1, 2
DECAY_PER_S = 200.0  # excitation has halved after about 4 ms
JUMP_PER_S = 90.0  # added by each event: 0.6 children an event, 4/3 / DECAY_PER_S being the kernel's integral
SIGN_WEIGHT = 0.1  # of the newest trade in the memory of signs
_GOLDEN = 0x9E3779B97F4A7C15  # splitmix64's own stride
_SLOT = RING - 1

FEED = np.dtype(
    [
        ("rows", "i8"), ("messages", "i8"),  # written so far; `rows` is the origin of the next one
        ("head", "i8"), ("tail", "i8"),  # rows of `pending` still to write
        ("stream", "i8"),  # whose they are
        ("ts_event_ns", "i8"), ("ts_recv_ns", "i8"),  # of the message in `pending`
    ]
)  # fmt: skip
STREAM = np.dtype(
    [
        ("rng", "u8"),
        ("due_ns", "i8"),  # time of its next message
        ("base_rate", "f8"),  # events a second
        ("excited", "f8"),  # events a second on top of it, at the last event
        ("lots", "i8"),  # of an ordinary level
        ("home", "i8"),  # ticks: where the price is pulled to in the long run, so that it can never reach zero
        ("regime", "i8"), ("regime_left", "i8"),  # 0 calm, 1 ordinary, 2 wild; events left in it
        ("phase", "i8"), ("phase_left", "i8"), ("direction", "f8"),  # NEUTRAL, MOMENTUM (in a direction), REVERSION
        ("anchor", "f8"),  # slow average of the mid, ticks
        ("signs", "f8"),  # memory of trade signs, -1..1
        ("update_id", "i8"), ("trade_id", "i8"),
        ("best", "i8", (2,)), ("levels", "i8", (2,)),  # [bid, ask]
        ("told_ticks", "i8", (2,)), ("told_lots", "i8", (2,)),  # last quote
        ("qty", "i8", (2 * RING,)),
    ]
)  # fmt: skip
PENDING = np.dtype(
    [
        ("price_ticks", "i8"), ("qty_lots", "i8"), ("ask_ticks", "i8"), ("ask_lots", "i8"), ("venue_seq", "i8"),
        ("kind", "u1"), ("side", "u1"), ("flags", "u1"), ("pad", "u1", (5,)),
    ]
)  # fmt: skip


@kernel(inline=True)
def draw(s):
    """Next 64 bits of the stream."""
    word = splitmix64(s.rng)
    s.rng += np.uint64(_GOLDEN)
    return word


@kernel(inline=True)
def uniform(s):
    """In (0, 1], 53 bits."""
    return (np.int64(draw(s) >> np.uint64(11)) + 1) * (1.0 / 9007199254740992.0)


@kernel
def exponential(s):
    """Mean 1, at most 37."""
    return -log(uniform(s))


@kernel(inline=True)
def clamp(value, limit):
    return min(max(value, -limit), limit)


@kernel(inline=True)
def slot_of(side, price):
    return (side - BID) * RING + (price & _SLOT)


@kernel
def advance(s):
    """Set the time of the stream's next event by thinning (Ogata 1981, On Lewis' Simulation Method for Point Processes).

    Between events the excitation falls as (1 + DECAY_PER_S t / 4)**-4, which is near exp(-DECAY_PER_S t) and needs no exp.
    """
    base = s.base_rate * (0.5 if s.regime == 0 else 1.0 if s.regime == 1 else 2.5)
    ceiling = base + s.excited
    elapsed = 0.0
    left = 0.0
    while True:
        elapsed += exponential(s) / ceiling
        x = 1.0 + 0.25 * DECAY_PER_S * elapsed
        left = s.excited / (x * x * x * x)
        if uniform(s) * ceiling <= base + left:
            break
        ceiling = base + left
    s.excited = left + JUMP_PER_S
    s.due_ns += 1 + np.int64(elapsed * 1e9)


@kernel
def change_mood(s):
    """Count down the regime and the phase, and draw the next when one is over."""
    mid = 0.5 * (s.best[0] + s.best[1])
    s.anchor += 0.002 * (mid - s.anchor)
    s.regime_left -= 1
    if s.regime_left <= 0:
        u = uniform(s)
        s.regime = 0 if u < 0.4 else 1 if u < 0.8 else 2
        s.regime_left = 1000 + np.int64(4000.0 * exponential(s))
    s.phase_left -= 1
    if s.phase_left <= 0:
        u = uniform(s)
        s.phase = NEUTRAL if u < 0.4 else MOMENTUM if u < 0.7 else REVERSION
        s.direction = 1.0 if uniform(s) < 0.5 else -1.0
        s.phase_left = 300 + np.int64(1500.0 * exponential(s))


@kernel
def lean(s):
    """Where the flow leans, -0.3..0.3, > 0 to buys: the phase, and the pull home that outweighs it far away."""
    mid = 0.5 * (s.best[0] + s.best[1])
    pull = 4.0 * (s.home - mid) / s.home
    if s.phase == MOMENTUM:
        pull += 0.15 * s.direction
    elif s.phase == REVERSION:
        pull += clamp(0.02 * (s.anchor - mid), 0.2)
    return clamp(pull, 0.3)


@kernel
def push(f, pending, kind, side, price, qty, venue_seq):
    p = pending[f.tail]
    p.kind = kind
    p.side = side
    p.flags = SYNTHETIC
    p.price_ticks = price
    p.qty_lots = qty
    p.venue_seq = venue_seq
    f.tail += 1


@kernel
def put(f, s, pending, side, price, qty):
    """Set a level in the stream's own book and say so in a delta; the caller keeps `best`."""
    slot = slot_of(side, price)
    s.levels[side - BID] += (qty > 0) - (s.qty[slot] > 0)
    s.qty[slot] = qty
    push(f, pending, BOOK_DELTA, side, price, qty, s.update_id)


@kernel
def find_best(s, side):
    """Move `best` of a side to its nearest level; LEVELS_MIN sees to it that there is one."""
    away = -1 if side == BID else 1
    price = s.best[side - BID]
    for _ in range(KEEP):
        if s.qty[slot_of(side, price)] > 0:
            break
        price += away
    s.best[side - BID] = price


@kernel
def sweep(f, s, pending):
    """A market order: takes up to SWEEP_LEVELS_MAX levels from the touch, one trade and one delta each; the rest lapses.

    Sizes are Pareto with exponent 4/3. The sign follows the signs before it (orders are split), then the lean.
    """
    buys = uniform(s) < 0.5 + 0.35 * s.signs + lean(s) * 0.4
    aggressor, side = (BUY, ASK) if buys else (SELL, BID)
    s.signs += SIGN_WEIGHT * ((1.0 if buys else -1.0) - s.signs)
    root = np.sqrt(uniform(s))
    wild = 1.5 if s.regime == 2 else 1.0
    left = 1 + np.int64(min(0.12 * wild / (root * np.sqrt(root)), 1000.0) * s.lots)
    for _ in range(SWEEP_LEVELS_MAX):
        price = s.best[side - BID]
        have = s.qty[slot_of(side, price)]
        taken = min(left, have)
        s.trade_id += 1
        push(f, pending, TRADE, aggressor, price, taken, s.trade_id)
        put(f, s, pending, side, price, have - taken)
        left -= taken
        if taken == have:
            find_best(s, side)
        if left == 0 or s.levels[side - BID] <= LEVELS_MIN:
            break


@kernel(inline=True)
def depth_of_order(s):
    """Ticks behind the touch, exponential with mean 6, at most KEEP // 2."""
    return np.int64(clamp(6.0 * exponential(s), KEEP // 2))


@kernel
def improve(f, s, pending, side):
    """An order inside the spread: the new touch; levels that now lie more than KEEP behind it are cancelled."""
    toward = 1 if side == BID else -1
    room = s.best[1] - s.best[0] - 1
    ticks = 1 if uniform(s) < 0.7 else min(room, IMPROVE_MAX)
    price = s.best[side - BID] + toward * ticks
    s.best[side - BID] = price
    put(f, s, pending, side, price, 1 + np.int64(0.5 * s.lots * exponential(s)))
    for behind in range(KEEP + 1, KEEP + 1 + ticks):
        far = price - toward * behind
        if s.qty[slot_of(side, far)] > 0:
            put(f, s, pending, side, far, 0)


@kernel
def add(f, s, pending):
    """A limit order: inside the spread the more often the wider it is, else at a depth that thins out exponentially."""
    side = BID if uniform(s) < 0.5 + lean(s) else ASK
    spread = s.best[1] - s.best[0]
    eager = 0.0 if spread == 1 else 0.35 if spread == 2 else 0.7 if spread == 3 else 0.95
    if uniform(s) < eager:
        improve(f, s, pending, side)
        return
    depth = depth_of_order(s)
    price = s.best[side - BID] + (-depth if side == BID else depth)
    more = 1 + np.int64((0.1 + 0.5 * exponential(s)) * (1.0 + depth * 0.06) * s.lots)
    put(f, s, pending, side, price, s.qty[slot_of(side, price)] + more)


@kernel
def cancel(f, s, pending):
    """A level is withdrawn, wholly or by half; where there is none to spare an order comes instead."""
    side = BID if uniform(s) < 0.5 - lean(s) else ASK
    depth = depth_of_order(s)
    price = s.best[side - BID] + (-depth if side == BID else depth)
    have = s.qty[slot_of(side, price)]
    if have == 0 or s.levels[side - BID] <= LEVELS_MIN:
        add(f, s, pending)
        return
    put(f, s, pending, side, price, 0 if uniform(s) < 0.3 else have // 2)
    find_best(s, side)


@kernel
def open_book(f, s, pending):
    """The opening snapshot: DEPTH adjoining levels a side, thicker with depth."""
    s.update_id = 1
    for side in (BID, ASK):
        away = -1 if side == BID else 1
        for depth in range(DEPTH):
            price = s.best[side - BID] + away * depth
            qty = 1 + np.int64((0.3 + 0.7 * exponential(s)) * (1.0 + depth * 0.06) * s.lots)
            s.qty[slot_of(side, price)] = qty
            push(f, pending, BOOK_SNAPSHOT, side, price, qty, s.update_id)
        s.levels[side - BID] = DEPTH
    pending[0].flags |= EVENT_FIRST


@kernel
def tell_touch(f, s, pending):
    """A quote, if the touch is not what the last one said."""
    bid, ask = s.best[0], s.best[1]
    bid_lots, ask_lots = s.qty[slot_of(BID, bid)], s.qty[slot_of(ASK, ask)]
    if bid == s.told_ticks[0] and ask == s.told_ticks[1] and bid_lots == s.told_lots[0] and ask_lots == s.told_lots[1]:
        return
    s.told_ticks[0], s.told_ticks[1] = bid, ask
    s.told_lots[0], s.told_lots[1] = bid_lots, ask_lots
    pending[f.tail].ask_ticks = ask
    pending[f.tail].ask_lots = ask_lots
    push(f, pending, QUOTE, 0, bid, bid_lots, s.update_id)
    pending[f.tail - 1].flags |= EVENT_END


@kernel
def make_message(f, s, pending):
    """Fill `pending` with the stream's next message and set the time of the one after it."""
    f.head = f.tail = 0
    f.ts_event_ns = s.due_ns
    root = np.sqrt(uniform(s))
    latency_ns = 120_000 + np.int64(20_000.0 * exponential(s)) + np.int64(min(4_000.0 / (root * root), 5e6))
    f.ts_recv_ns = max(f.ts_recv_ns, f.ts_event_ns + latency_ns)  # one connection delivers in order
    if s.update_id == 0:
        open_book(f, s, pending)
    else:
        s.update_id += 1
        change_mood(s)
        u = uniform(s)
        market = 0.06 if s.regime == 0 else 0.10 if s.regime == 1 else 0.16
        if u < market:
            sweep(f, s, pending)
        elif u < market + 0.42:
            cancel(f, s, pending)
        else:
            add(f, s, pending)
    pending[f.tail - 1].flags |= EVENT_END
    tell_touch(f, s, pending)
    advance(s)


@kernel
def earliest(streams):
    """Index of the stream whose message is due first; of equals the lowest."""
    found = 0
    for i in range(1, len(streams)):
        if streams[i].due_ns < streams[found].due_ns:
            found = i
    return found


@kernel
def message_rows(f, pending):
    """Rows of `pending` up to the next end of a message."""
    last = f.head
    while not pending[last].flags & EVENT_END:
        last += 1
    return last + 1 - f.head


@kernel
def write_row(f, p, r, instrument_id, source_id):
    """`p` as the record `r`, a zeroed slot."""
    r.ts_event_ns = f.ts_event_ns
    r.ts_recv_ns = f.ts_recv_ns
    r.instrument_id = instrument_id
    r.source_id = source_id
    r.kind = p.kind
    r.flags = p.flags
    r.side = p.side
    r.price_ticks = p.price_ticks
    r.qty_lots = p.qty_lots
    if p.kind == QUOTE:
        r.ask_ticks = p.ask_ticks
        r.ask_lots = p.ask_lots
    elif p.kind != TRADE:
        r.action = SET
        r.prev_seq = p.venue_seq - 1
        r.first_seq = p.venue_seq
    r.parts = 1
    r.venue_seq = p.venue_seq
    r.origin = f.rows


@kernel
def generate(out, rows_max, rows_left, feed, streams, pending, ids, source_id):
    """Write the next whole messages into `out`, zeroed slots; returns how many rows.

    That is at most `rows_left`, and at most `rows_max` unless the first message alone has more; `out` has room for either.
    """
    f = feed[0]
    n = 0
    while True:
        if f.head == f.tail:
            f.stream = earliest(streams)
            make_message(f, streams[f.stream], pending)
        rows = message_rows(f, pending)
        if n + rows > rows_left or (n > 0 and n + rows > rows_max):
            return n
        for _ in range(rows):
            write_row(f, pending[f.head], out[n], ids[f.stream], source_id)
            f.head += 1
            f.rows += 1
            n += 1
        f.messages += 1
