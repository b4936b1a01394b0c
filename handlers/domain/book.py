"""One instrument's book and last prices, folded from market records: a ladder around the best, a hash table for the rest.

A price is turned into a *key*, `price` for bids and `-price` for asks, so that on both sides the best is the greatest key and no
branch on the side is left. Of each side the keys [lo, lo + WINDOW) stand in a ring, slot = key mod WINDOW, with one bit a slot
and one bit a word of slots; what is deeper stands in an open-addressing table. Nothing stands above the window.

        lo                                   best          lo + WINDOW
    far | . . x . x x . . . . x x x x . x x x x |  . . . . . |   (never a level here: the window moves up first)
        '-- ring: qty, orders, bitmap, summary --------------'

The best moves by a search in two words, the window moves by changing `lo`: levels are re-hashed only when they cross `lo`, and
a window that has drained to its last eighth is lowered, which scans the far table. L3 books keep every order in a second table
and the sums per level in the same ladder. All of it is fixed-capacity arrays: a side holds at most WINDOW + FAR * 7 // 8 levels
and refuses, counted in `dropped`, what does not fit.
"""

from __future__ import annotations

import numpy as np

from handlers.domain.bits import highest_bit
from transport.compiled import kernel
from transport.records import (
    ADD, ASK, BID, BOOK_DELTA, BOOK_SNAPSHOT, CLEAR, DELETE, EVENT_END, EVENT_FIRST, GAP, MODIFY, QUOTE, SET, TRADE,
)  # fmt: skip

WINDOW = 4096  # ticks; wider makes no difference, the levels in use sit in the nearest cache either way
FAR = 16384  # slots of the deep table a side; the largest recorded book has 5,018 levels a side
L3_ORDERS = 65536  # slots of the order table; the largest recorded book has 11,217 orders
NO_LEVEL = -(2**62)
_WORDS = WINDOW // 64
_MASK = WINDOW - 1
_HEADROOM = WINDOW // 4  # ticks left free above a new best
_GOLDEN = 0x9E3779B97F4A7C15
assert _WORDS == 64, "the summary is one word"

MARKET = np.dtype(
    [
        ("valid", "i8"),  # 1 from a snapshot's end to the next gap
        ("best", "i8", (2,)),  # greatest key a side, NO_LEVEL when empty
        ("lo", "i8", (2,)),
        ("levels", "i8", (2,)),
        ("far", "i8", (2,)),  # levels in the far table
        ("dropped", "i8"),  # levels refused because the far table was full
        ("l3", "i8"),  # index of the order table, -1 for an L2 book
        ("booked", "i8"),  # 1 once a book message came: from then on the book, not a quote, is what the market is
        ("ts_seq_ns", "i8"),  # of the last market record
        ("trade_ticks", "i8"),  # 0 before the first trade
        ("bid_ticks", "i8"), ("bid_lots", "i8"), ("ask_ticks", "i8"), ("ask_lots", "i8"),  # last quote; 0 before the first
        ("unknown_orders", "i8"),  # L3 messages about orders that are not in the table
        ("summary", "u8", (2,)),
        ("bitmap", "u8", (2 * _WORDS,)),
        ("qty", "i8", (2 * WINDOW,)),
        ("orders", "i4", (2 * WINDOW,)),
        ("far_key", "i8", (2 * FAR,)),
        ("far_qty", "i8", (2 * FAR,)),
        ("far_orders", "i4", (2 * FAR,)),
    ]
)  # fmt: skip
ORDER_BOOK = np.dtype(
    [
        ("orders", "i8"),
        ("dropped", "i8"),
        ("order_id", "i8", (L3_ORDERS,)),
        ("price_ticks", "i8", (L3_ORDERS,)),
        ("qty_lots", "i8", (L3_ORDERS,)),  # 0 marks a free slot
        ("side", "u1", (L3_ORDERS,)),
    ]
)


def new_markets(l3: list[bool]) -> tuple[np.ndarray, np.ndarray]:
    """State for one instrument per entry of `l3`: (markets, order books), the second with at least one row for its type."""
    markets = np.zeros(max(1, len(l3)), MARKET)
    markets["best"] = NO_LEVEL
    markets["l3"] = -1
    for index, number in enumerate(np.flatnonzero(l3)):
        markets[number]["l3"] = index
    return markets, np.zeros(max(1, sum(l3)), ORDER_BOOK)


@kernel(inline=True)
def level_key(side, price_ticks):
    """Key of a price on BID or ASK; `level_price` undoes it."""
    return price_ticks if side == BID else -price_ticks


@kernel(inline=True)
def highest_slot(m, s, low, high):
    """Highest occupied slot of side `s` in low..high, or -1."""
    base = s * _WORDS
    word = high >> 6
    bits = m.bitmap[base + word] & (np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(63 - (high & 63)))
    while True:
        if bits:
            found = (word << 6) + highest_bit(bits)
            return found if found >= low else -1
        if word == 0:
            return -1
        above = m.summary[s] & ((np.uint64(1) << np.uint64(word)) - np.uint64(1))
        if not above:
            return -1
        word = highest_bit(above)
        bits = m.bitmap[base + word]


@kernel
def far_max_below(m, s, key):
    """Greatest far key less than `key`, or NO_LEVEL; a scan, for rare depths only."""
    best = NO_LEVEL
    if m.far[s] == 0:
        return best
    for i in range(s * FAR, (s + 1) * FAR):
        if m.far_qty[i] > 0 and best < m.far_key[i] < key:
            best = m.far_key[i]
    return best


@kernel(inline=True)
def next_level(m, s, key):
    """Next worse key than `key` (itself within or above the window), or NO_LEVEL."""
    low = m.lo[s]
    if key > low:
        p, p_low = key & _MASK, low & _MASK
        if p > p_low:
            found = highest_slot(m, s, p_low, p - 1)
        else:
            found = highest_slot(m, s, 0, p - 1) if p > 0 else -1
            if found < 0:
                found = highest_slot(m, s, p_low, WINDOW - 1)
        if found >= 0:
            return key - ((p - found) & _MASK)
    return far_max_below(m, s, key)


@kernel(inline=True)
def far_slot(m, s, key):
    """Slot of `key` in the far table of side `s`, or the free slot where it belongs."""
    i = np.int64((np.uint64(key) * np.uint64(_GOLDEN)) >> np.uint64(50)) & (FAR - 1)
    base = s * FAR
    while m.far_qty[base + i] > 0 and m.far_key[base + i] != key:
        i = (i + 1) & (FAR - 1)
    return base + i


@kernel
def far_remove(m, s, slot):
    """Free a far slot and move what probed past it back, so that no tombstones are left."""
    base = s * FAR
    hole = slot - base
    i = hole
    while True:
        i = (i + 1) & (FAR - 1)
        if m.far_qty[base + i] == 0:
            break
        home = np.int64((np.uint64(m.far_key[base + i]) * np.uint64(_GOLDEN)) >> np.uint64(50)) & (FAR - 1)
        if ((i - home) & (FAR - 1)) >= ((i - hole) & (FAR - 1)):
            m.far_key[base + hole] = m.far_key[base + i]
            m.far_qty[base + hole] = m.far_qty[base + i]
            m.far_orders[base + hole] = m.far_orders[base + i]
            hole = i
    m.far_qty[base + hole] = 0
    m.far_key[base + hole] = 0
    m.far_orders[base + hole] = 0
    m.far[s] -= 1


@kernel(inline=True)
def far_set(m, s, key, qty, orders):
    """Set a level below the window; refuses, counted, the level that would overfill the table."""
    slot = far_slot(m, s, key)
    if m.far_qty[slot] > 0:
        if qty > 0:
            m.far_qty[slot] = qty
            m.far_orders[slot] = orders
        else:
            far_remove(m, s, slot)
            m.levels[s] -= 1
    elif qty > 0:
        if m.far[s] >= FAR * 7 // 8:
            m.dropped += 1
            return
        m.far_key[slot] = key
        m.far_qty[slot] = qty
        m.far_orders[slot] = orders
        m.far[s] += 1
        m.levels[s] += 1


@kernel(inline=True)
def ring_put(m, s, key, qty, orders):
    """Write a level into its ring slot and set its bits; the caller has checked the window."""
    p = key & _MASK
    m.qty[s * WINDOW + p] = qty
    m.orders[s * WINDOW + p] = orders
    m.bitmap[s * _WORDS + (p >> 6)] |= np.uint64(1) << np.uint64(p & 63)
    m.summary[s] |= np.uint64(1) << np.uint64(p >> 6)


@kernel(inline=True)
def ring_take(m, s, key):
    """Empty a ring slot and clear its bits."""
    p = key & _MASK
    m.qty[s * WINDOW + p] = 0
    m.orders[s * WINDOW + p] = 0
    w = s * _WORDS + (p >> 6)
    m.bitmap[w] &= ~(np.uint64(1) << np.uint64(p & 63))
    if m.bitmap[w] == 0:
        m.summary[s] &= ~(np.uint64(1) << np.uint64(p >> 6))


@kernel
def raise_window(m, s, lo):
    """Move the window up to `lo`: levels that fall off its lower end go to the far table."""
    key = m.best[s]
    low = m.lo[s]
    while key != NO_LEVEL and key >= low:
        following = next_level(m, s, key)
        if key < lo:
            qty, orders = m.qty[s * WINDOW + (key & _MASK)], m.orders[s * WINDOW + (key & _MASK)]
            ring_take(m, s, key)
            m.levels[s] -= 1
            far_set(m, s, key, qty, orders)
        key = following
    m.lo[s] = lo


@kernel
def lower_window(m, s, lo):
    """Move the window down to `lo`: far levels it now covers come into the ring."""
    m.lo[s] = lo
    if m.far[s] == 0:
        return
    base = s * FAR
    i = 0
    while i < FAR:
        key = m.far_key[base + i]
        if m.far_qty[base + i] > 0 and key >= lo:
            ring_put(m, s, key, m.far_qty[base + i], m.far_orders[base + i])
            far_remove(m, s, base + i)  # may move another level into this slot: look at it again
        else:
            i += 1


@kernel(inline=True)
def best_after_removal(m, s, key):
    """New best once the best level `key` is gone; lowers the window when it has drained."""
    best = next_level(m, s, key)
    if best == NO_LEVEL:
        return best
    if best - m.lo[s] < WINDOW // 8:
        lower_window(m, s, best - (WINDOW - 1 - _HEADROOM))
    return best


@kernel
def set_outside(m, s, key, qty, orders):
    """Set a level that the window does not cover."""
    if m.best[s] == NO_LEVEL and qty > 0:  # empty side: put the window where the level is
        m.lo[s] = key - (WINDOW - 1 - _HEADROOM)
    elif key >= m.lo[s] + WINDOW:
        if qty <= 0:
            return
        raise_window(m, s, key - (WINDOW - 1 - _HEADROOM))
    else:
        far_set(m, s, key, qty, orders)
        return
    ring_put(m, s, key, qty, orders)
    m.levels[s] += 1
    m.best[s] = max(m.best[s], key)


@kernel(inline=True)
def set_level(m, side, price_ticks, qty, orders):
    """The level at `price_ticks` now holds `qty` lots in `orders` orders; qty 0 removes it, an unknown one is no error."""
    s = np.int64(side != BID)  # not a difference, which might be negative: an index that cannot be costs no look
    key = price_ticks if side == BID else -price_ticks
    if np.uint64(key - m.lo[s]) >= np.uint64(WINDOW) or m.best[s] == NO_LEVEL:
        set_outside(m, s, key, qty, orders)
        return
    old = m.qty[s * WINDOW + (key & _MASK)]
    if qty > 0:
        if old > 0:
            m.qty[s * WINDOW + (key & _MASK)] = qty
            m.orders[s * WINDOW + (key & _MASK)] = orders
        else:
            ring_put(m, s, key, qty, orders)
            m.levels[s] += 1
            if key > m.best[s]:
                m.best[s] = key
    elif old > 0:
        ring_take(m, s, key)
        m.levels[s] -= 1
        if key == m.best[s]:
            m.best[s] = best_after_removal(m, s, key)


@kernel
def level_at(m, side, price_ticks):
    """(lots, orders) standing at a price, zeros when none."""
    s = np.int64(side != BID)
    key = level_key(side, price_ticks)
    if np.uint64(key - m.lo[s]) < np.uint64(WINDOW):
        slot = s * WINDOW + (key & _MASK)
        return m.qty[slot], m.orders[slot]
    if m.far[s] > 0 and key < m.lo[s]:
        slot = far_slot(m, s, key)
        return m.far_qty[slot], m.far_orders[slot]
    return np.int64(0), np.int32(0)


@kernel
def clear_book(m):
    """Empty both sides; counters and last prices stay."""
    for s in range(2):
        m.best[s] = NO_LEVEL
        m.lo[s] = m.levels[s] = 0
        m.summary[s] = 0
        if m.far[s] > 0:
            for i in range(s * FAR, (s + 1) * FAR):
                m.far_key[i] = m.far_qty[i] = 0
                m.far_orders[i] = 0
        m.far[s] = 0
    for i in range(2 * _WORDS):
        m.bitmap[i] = 0
    for i in range(2 * WINDOW):
        m.qty[i] = 0
        m.orders[i] = 0


@kernel
def order_slot(t, order_id):
    """Slot of an order in the L3 table, or the free slot where it belongs."""
    i = np.int64((np.uint64(order_id) * np.uint64(_GOLDEN)) >> np.uint64(48)) & (L3_ORDERS - 1)
    while t.qty_lots[i] > 0 and t.order_id[i] != order_id:
        i = (i + 1) & (L3_ORDERS - 1)
    return i


@kernel
def remove_order(t, hole):
    """Free an order's slot, moving back what probed past it."""
    i = hole
    while True:
        i = (i + 1) & (L3_ORDERS - 1)
        if t.qty_lots[i] == 0:
            break
        home = np.int64((np.uint64(t.order_id[i]) * np.uint64(_GOLDEN)) >> np.uint64(48)) & (L3_ORDERS - 1)
        if ((i - home) & (L3_ORDERS - 1)) >= ((i - hole) & (L3_ORDERS - 1)):
            t.order_id[hole] = t.order_id[i]
            t.price_ticks[hole] = t.price_ticks[i]
            t.qty_lots[hole] = t.qty_lots[i]
            t.side[hole] = t.side[i]
            hole = i
    t.order_id[hole] = t.price_ticks[hole] = t.qty_lots[hole] = 0
    t.side[hole] = 0
    t.orders -= 1


@kernel(inline=True)
def shift_level(m, side, price_ticks, lots, orders):
    """Add `lots` and `orders` (either may be negative) to a level."""
    qty, count = level_at(m, side, price_ticks)
    set_level(m, side, price_ticks, qty + lots, np.int32(count + orders))


@kernel(inline=True)
def take_lots(m, t, i, lots):
    """Take `lots` off the order in slot `i`, or all that it has; of a free slot it is an order that nobody added."""
    had = t.qty_lots[i]
    if had <= 0:
        m.unknown_orders += 1
        return
    gone = min(lots, had)
    shift_level(m, t.side[i], t.price_ticks[i], -gone, -1 if gone == had else 0)
    if gone == had:
        remove_order(t, i)
    else:
        t.qty_lots[i] = had - gone


@kernel
def apply_l3(m, t, r):
    """One order message: ADD, DELETE (of `qty_lots`, possibly a part), MODIFY (to a price and quantity) or CLEAR."""
    if r.action == CLEAR:
        clear_book(m)
        t.order_id[:] = 0
        t.qty_lots[:] = 0
        t.orders = 0
        return
    i = order_slot(t, r.order_id)
    had = t.qty_lots[i]
    if r.action == DELETE or (had > 0 and r.action == MODIFY and r.qty_lots <= 0):
        take_lots(m, t, i, r.qty_lots if r.action == DELETE else had)
    elif had > 0 and r.action == ADD:
        m.unknown_orders += 1
    elif r.qty_lots > 0:
        if had > 0:
            shift_level(m, t.side[i], t.price_ticks[i], -had, -1)
        elif t.orders >= L3_ORDERS * 7 // 8:
            t.dropped += 1
            return
        else:
            t.orders += 1
        t.order_id[i] = r.order_id
        t.price_ticks[i] = r.price_ticks
        t.qty_lots[i] = r.qty_lots
        t.side[i] = r.side
        shift_level(m, r.side, r.price_ticks, r.qty_lots, 1)


@kernel(inline=True)
def apply_market(m, books, r):
    """Fold one market record into its instrument's state; other kinds change nothing."""
    kind = r.kind
    if kind == BOOK_DELTA:
        if r.action == SET:
            if m.valid:
                set_level(m, r.side, r.price_ticks, r.qty_lots, 1)
        elif m.l3 >= 0:
            apply_l3(m, books[m.l3], r)
        m.booked = 1
        m.ts_seq_ns = r.ts_seq_ns
    elif kind == TRADE:
        m.trade_ticks = r.price_ticks
        m.ts_seq_ns = r.ts_seq_ns
    elif kind == QUOTE:
        m.bid_ticks = r.price_ticks
        m.bid_lots = r.qty_lots
        m.ask_ticks = r.ask_ticks
        m.ask_lots = r.ask_lots
        m.ts_seq_ns = r.ts_seq_ns
    elif kind == BOOK_SNAPSHOT or kind == GAP:
        apply_snapshot(m, books, r)


@kernel
def apply_snapshot(m, books, r):
    """A row of a whole book (it is valid again at EVENT_END), or the gap that makes it invalid."""
    m.ts_seq_ns = r.ts_seq_ns
    if r.kind == GAP:
        m.valid = 0
        return
    if r.flags & EVENT_FIRST:
        m.valid = 0
        clear_book(m)
        if m.l3 >= 0:
            books[m.l3].order_id[:] = 0
            books[m.l3].qty_lots[:] = 0
            books[m.l3].orders = 0
    if r.action == SET:
        if r.qty_lots > 0:
            set_level(m, r.side, r.price_ticks, r.qty_lots, 1)
    elif m.l3 >= 0:
        apply_l3(m, books[m.l3], r)
    m.booked = 1
    if r.flags & EVENT_END:
        m.valid = 1


@kernel(inline=True)
def best_price(m, side):
    """Best price of a side in ticks; the caller has checked `m.best[side - BID] != NO_LEVEL`."""
    key = m.best[side - BID]
    return key if side == BID else -key


@kernel(inline=True)
def best_lots(m, side):
    """Lots at the best of a side, 0 when the side is empty."""
    s = side - BID
    key = m.best[s]
    return m.qty[s * WINDOW + (key & _MASK)] if key != NO_LEVEL else 0


@kernel(inline=True)
def two_sided(m):
    """The book is valid and has a bid and an ask."""
    return m.valid != 0 and m.best[0] != NO_LEVEL and m.best[1] != NO_LEVEL


@kernel
def mid_twice(m):
    """Bid plus ask of the book, else of the last quote, else twice the last trade, in ticks; 0 when nothing is known."""
    if two_sided(m):
        return best_price(m, BID) + best_price(m, ASK)
    if m.bid_ticks > 0 and m.ask_ticks > 0:
        return m.bid_ticks + m.ask_ticks
    return 2 * m.trade_ticks
