"""Books by price from records that each bear the best levels whole: the kernel that turns them into what changed.

    record   levels as published ──► compared with those of the record before ──► SET of each that went (0 lots), then of each that changed

After the rows of a record the line's book holds exactly the levels that it published. The first record of an instrument that ends
an event, and the first one behind a gap, is a snapshot; until then there is no book that a change could be applied to, and records are
refused. A record that ends an event and changes no level restates the best one, so that the event has an end; trades come before the
levels. A record that cannot be believed is a GAP. Of an event that has rows already, one that cannot be believed and ends it is a GAP
again, for the same end. Source: Databento, MBP-1 and MBP-10 (2024).
"""

from __future__ import annotations

import numpy as np

from handlers.domain import reasons
from handlers.domain.limits import PRICE_MAX, QTY_MAX
from handlers.domain.memory import zero_slot
from transport.compiled import I64, ROWS_T, array_t, kernel, types
from transport.records import (
    ASK, BID, BOOK_DELTA, BOOK_SNAPSHOT, CLEAR, EVENT_END, EVENT_FIRST, GAP, SET, TRADE,
)  # fmt: skip

DEPTH_MAX = 10
ROWS_MAX = 1 + 4 * DEPTH_MAX  # of one record: a trade, and on both sides every level gone and every level new
UNDEFINED = 2**63 - 1
TALLIES = 256  # reasons of ingest are below
LINE = np.dtype(
    [
        ("place", "i8"),
        ("ts_event_ns", "i8"), ("ts_recv_ns", "i8"),  # receive time below 0: not even the feed has one yet
        ("venue_seq", "i8"), ("origin", "i8"),
        ("trade_ticks", "i8"), ("trade_lots", "i8"),
        ("refused", "i8"),  # reason why it cannot be believed, counted already; 0 for none
        ("trade", "u1"),  # it is one, and a good one
        ("side", "u1"),
        ("last", "u1"),
        ("doubted", "u1"),  # by the publisher
        ("pad", "u1", (4,)),
    ]
)  # fmt: skip
STATE = np.dtype(
    [
        ("known", "i8"),  # the levels are the book's
        ("broken", "i8"),  # a gap has been told
        ("open", "i8"),  # rows of an event were written, its end was not
        ("count", "i8", (2,)),  # levels a side, best first
        ("price", "i8", (2 * DEPTH_MAX,)),  # 1e-9
        ("size", "i8", (2 * DEPTH_MAX,)),  # the publisher's units
    ]
)  # fmt: skip
STEPS = np.dtype([("tick_nano", "i8"), ("lot_num", "i8"), ("lot_den", "i8"), ("instrument_id", "i8")])
_SIZE = np.uint64(0xFFFFFFFF)


def new_tally() -> np.ndarray:
    """(times, first origin) of each reason, shape (TALLIES, 2)."""
    tally = np.zeros((TALLIES, 2), np.int64)
    tally[:, 1] = -1
    return tally


@kernel(inline=True)
def note(tally, reason, origin):
    """Count one of `reason`."""
    if tally[reason, 0] == 0:
        tally[reason, 1] = origin
    tally[reason, 0] += 1


@kernel(inline=True)
def begin_row(row, line, step, source_id, kind):
    """The header of a row of `line`, everything else zero."""
    zero_slot(row)
    row.ts_event_ns = line.ts_event_ns
    row.ts_recv_ns = line.ts_recv_ns
    row.instrument_id = step.instrument_id
    row.source_id = source_id
    row.kind = kind
    row.venue_seq = line.venue_seq
    row.origin = line.origin


@kernel(inline=True)
def set_row(row, line, step, source_id, kind, s, price, size):
    """A SET of one level of side `s` (0 bids), both in the publisher's units."""
    begin_row(row, line, step, source_id, kind)
    row.side = BID if s == 0 else ASK
    row.action = SET
    row.price_ticks = price // step.tick_nano
    row.qty_lots = size * step.lot_den // step.lot_num


@kernel
def read_levels(levels, i, new):
    """Levels of record `i` into `new`, those with a price and a size; False where a side is not in order."""
    for s in range(2):
        n = 0
        for k in range(levels.shape[1]):
            price = levels[i, k, s]
            size = np.int64((np.uint64(levels[i, k, 2]) >> np.uint64(32 * s)) & _SIZE)
            if price == UNDEFINED or size == 0:
                continue
            at = s * DEPTH_MAX + n
            if n > 0 and (price >= new.price[at - 1] if s == 0 else price <= new.price[at - 1]):
                return False
            new.price[at] = price
            new.size[at] = size
            n += 1
        new.count[s] = n
    return True


@kernel(inline=True)
def find_level(levels, s, k, price):
    """Place of `price` on side `s` of `levels`, looked for at its `k`-th level first, or -1."""
    base = s * DEPTH_MAX
    if k < levels.count[s] and levels.price[base + k] == price:
        return base + k
    for j in range(base, base + levels.count[s]):
        if levels.price[j] == price:
            return j
    return -1


@kernel
def off_grid(old, new, step):
    """Reason why a level cannot be one of the instrument's, or 0; `old` are levels that were looked at before."""
    for s in range(2):
        for at in range(s * DEPTH_MAX, s * DEPTH_MAX + new.count[s]):
            if old.price[at] == new.price[at] and old.size[at] == new.size[at]:
                continue
            if new.size[at] > UNDEFINED // step.lot_den:
                return reasons.OUT_OF_RANGE
            ticks = new.price[at] // step.tick_nano
            if ticks * step.tick_nano != new.price[at]:
                return reasons.PRICE_OFF_GRID
            scaled = new.size[at] * step.lot_den
            lots = scaled // step.lot_num
            if lots * step.lot_num != scaled:
                return reasons.QTY_OFF_GRID
            if ticks < -PRICE_MAX or ticks > PRICE_MAX or lots > QTY_MAX:
                return reasons.OUT_OF_RANGE
    return 0


@kernel
def write_snapshot(out, n, line, step, source_id, new):
    """The whole book from `out[n]` on; returns where the next row goes."""
    first = n
    for s in range(2):
        for at in range(s * DEPTH_MAX, s * DEPTH_MAX + new.count[s]):
            set_row(out[n], line, step, source_id, BOOK_SNAPSHOT, s, new.price[at], new.size[at])
            n += 1
    if n == first:
        begin_row(out[n], line, step, source_id, BOOK_SNAPSHOT)
        out[n].action = CLEAR
        n += 1
    out[first].flags = EVENT_FIRST
    return n


@kernel
def write_changes(out, n, line, step, source_id, old, new):
    """What differs between `old` and `new` from `out[n]` on; returns where the next row goes."""
    for s in range(2):
        base = s * DEPTH_MAX
        for k in range(old.count[s]):
            if find_level(new, s, k, old.price[base + k]) < 0:
                set_row(out[n], line, step, source_id, BOOK_DELTA, s, old.price[base + k], 0)
                n += 1
    for s in range(2):
        base = s * DEPTH_MAX
        for k in range(new.count[s]):
            at = find_level(old, s, k, new.price[base + k])
            if at < 0 or old.size[at] != new.size[base + k]:
                set_row(out[n], line, step, source_id, BOOK_DELTA, s, new.price[base + k], new.size[base + k])
                n += 1
    return n


@kernel
def restate(out, n, line, step, source_id, new):
    """One row that says what the book holds already: its best level, or that it is empty."""
    for s in range(2):
        if new.count[s] > 0:
            set_row(out[n], line, step, source_id, BOOK_DELTA, s, new.price[s * DEPTH_MAX], new.size[s * DEPTH_MAX])
            return n + 1
    return write_snapshot(out, n, line, step, source_id, new)


@kernel(inline=True)
def keep_levels(state, new):
    """The book of `state` is now `new`."""
    for s in range(2):
        state.count[s] = new.count[s]
        for at in range(s * DEPTH_MAX, s * DEPTH_MAX + new.count[s]):
            state.price[at] = new.price[at]
            state.size[at] = new.size[at]


@kernel
def write_gap(out, n, line, step, source_id, state, reason, tally):
    """What a line refused for `reason` comes to from `out[n]` on: a GAP, unless one stands already; returns where the next row goes."""
    closes = line.last and state.open
    if reason == reasons.BOOK_DOUBTED and not state.broken:
        note(tally, reasons.BOOK_DOUBTED, line.origin)
    if (not state.broken or closes) and line.ts_recv_ns >= 0:
        note(tally, reasons.SEQUENCE_GAP, line.origin)
        begin_row(out[n], line, step, source_id, GAP)
        out[n].expected_seq = out[n].got_seq = line.venue_seq
        out[n].lost = -1 if reason == reasons.BOOK_DOUBTED else 1
        out[n].reason = reason
        out[n].flags = EVENT_END
        state.open = 0
        n += 1
    state.broken = 1
    state.known = 0
    return n


@kernel
def write_line(out, n, line, levels, i, step, source_id, state, new, tally):
    """The rows of one record from `out[n]` on; returns where the next row goes."""
    reason = line.refused
    if reason == 0 and line.doubted:
        reason = reasons.BOOK_DOUBTED
    elif reason == 0:
        reason = off_grid(state, new, step) if read_levels(levels, i, new) else reasons.OUT_OF_RANGE
        if reason:
            note(tally, reason, line.origin)
    if reason:
        return write_gap(out, n, line, step, source_id, state, reason, tally)
    first = n
    if line.trade:
        begin_row(out[n], line, step, source_id, TRADE)
        out[n].side = line.side
        out[n].price_ticks = line.trade_ticks
        out[n].qty_lots = line.trade_lots
        n += 1
    if state.known:
        n = write_changes(out, n, line, step, source_id, state, new)
        if n == first and line.last:
            n = restate(out, n, line, step, source_id, new)
    elif line.last:
        n = write_snapshot(out, n, line, step, source_id, new)
        state.known = 1
        state.broken = 0
    else:
        note(tally, reasons.DEPTH_REFUSED, line.origin)
    if state.known:
        keep_levels(state, new)
    if line.last:
        out[n - 1].flags |= EVENT_END
        state.open = 0
    elif n > first:
        state.open = 1
    return n


@kernel(
    types.UniTuple(I64, 2)(
        array_t(LINE), types.Array(I64, 3, "C"), array_t(STEPS), array_t(STATE), array_t(STATE), I64, I64, ROWS_T,
        types.Array(I64, 2, "C"),
    ),
    deferred=True,
)
def write_levels(lines, levels, steps, states, new, source_id, start, out, tally):
    """Rows of lines[start:] into `out` as far as it has room; returns (the line to go on with, rows written).

    `levels` has shape (lines, depth, 4): bid price, ask price, both sizes in one word, counts. `new` is one STATE to work in.
    """
    i, n = start, np.int64(0)
    while i < len(lines) and n + ROWS_MAX <= len(out):
        line = lines[i]
        if line.place >= 0:
            n = write_line(
                out, n, line, levels, i, steps[line.place], source_id, states[line.place], new[0], tally
            )
        i += 1
    return i, n
