"""What the line can hold of a decoded window: the last look at it before INGEST, which refuses records whose numbers are out of bounds.

A book's record may not simply be refused: it may be the one that empties the book before a snapshot, or that ends the event. So it is
changed in place, and keeps its flags; the book it makes is the venue's as far as the line can hold one, or is not valid.

    level worse than any price the line holds      no lots, at PRICE_MAX, where no book has a level     the nearer levels are all there
    order there, whatever happens to it            DELETE of the whole order                            the same, of an L3 book
    level of more lots than the line holds         QTY_MAX lots                                         so many at least
    level better than any price the line holds,    GAP; what follows in its snapshot is made deltas,    the touch is not known: no valid
      order of more lots, no side, lots below 0      which no invalid book takes                          book until the next snapshot
    trade, quote or bar that ends an event         refused by INGEST; its EVENT_END goes one back       the event has its end

The first three bear SUSPECT and are counted as LEVEL_OUT_OF_BOUNDS, the fourth as OUT_OF_RANGE. An L3 book counts the cancel of an
order that it never had among its unknown ones. A checksum is verified before, by the decoder, on the venue's own numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from handlers.domain import reasons
from handlers.domain.limits import PRICE_MAX, QTY_MAX
from handlers.domain.memory import set_slot_word
from handlers.ingest.sequencer import refusal
from transport.compiled import I64, ROWS_T, kernel, types
from transport.records import (
    ASK, BAR, BID, BOOK_DELTA, BOOK_SNAPSHOT, CLEAR, DELETE, EVENT_END, EVENT_FIRST, GAP, HEADER_BYTES, NO_INSTRUMENT, SET, SLOT_BYTES, SUSPECT,
)  # fmt: skip

_HELD = PRICE_MAX - 1  # no book has a level at PRICE_MAX itself, so that a row there changes none
_VENUE_SEQ_WORD = 14  # of a slot: what lies between the header and it is the kind's own


@kernel(inline=True)
def beyond(r: Any) -> Any:
    """A record of a book has a price, lots or a side that the line's book cannot take."""
    outside = np.uint64(r.price_ticks + _HELD) > np.uint64(2 * _HELD) or np.uint64(r.qty_lots) > np.uint64(QTY_MAX)
    return outside or (r.side != BID and r.side != ASK)


@kernel
def hold_level(r: Any) -> Any:
    """Change a record that is `beyond` to what the line can hold of it; returns the reason it counts under, 0 for none."""
    if r.action == CLEAR:
        r.price_ticks = r.qty_lots = 0
        return 0
    by_order, removes = r.action != SET, r.action == DELETE or (r.action == SET and r.qty_lots == 0)
    outside = r.price_ticks < -_HELD or r.price_ticks > _HELD
    worse = outside and (r.price_ticks < 0) == (r.side == BID)
    if r.qty_lots < 0 or (r.side != BID and r.side != ASK) or (outside and not worse and not removes):
        return reasons.OUT_OF_RANGE
    if by_order and not removes and not worse:  # of an order that is cut its fills would take too much
        return reasons.OUT_OF_RANGE
    if outside:
        r.price_ticks = PRICE_MAX if r.price_ticks > 0 else -PRICE_MAX
        r.action = DELETE if by_order else SET
        r.qty_lots = QTY_MAX if by_order else 0
    else:
        r.qty_lots = QTY_MAX
    r.flags |= SUSPECT
    return reasons.LEVEL_OUT_OF_BOUNDS


@kernel
def break_book(r: Any) -> None:
    """Make record `r` a GAP of its book."""
    r.kind, r.side, r.action, r.flags = GAP, 0, 0, r.flags & ~EVENT_FIRST
    for word in range(HEADER_BYTES // 8, _VENUE_SEQ_WORD):
        set_slot_word(r, word, 0)
    r.expected_seq = r.got_seq = r.venue_seq
    r.lost = -1
    r.reason = reasons.OUT_OF_RANGE


@kernel
def follow_snapshot(r: Any, lost: Any) -> None:
    """A row of a snapshot that was broken before it is a delta: the snapshot's end makes no book valid."""
    if r.flags & EVENT_FIRST:
        lost[r.instrument_id] = 0
    elif lost[r.instrument_id]:
        r.kind = BOOK_DELTA


@kernel
def end_before(rows: Any, at: Any) -> None:
    """Row `at`, which INGEST refuses, ends an event: let the row before it that is let in end it, where the event has one."""
    for i in range(at - 1, -1, -1):
        r = rows[i]
        if r.instrument_id == rows[at].instrument_id:
            if r.flags & EVENT_END:
                return
            if refusal(r, NO_INSTRUMENT) == 0:
                r.flags |= EVENT_END
                return


@kernel(types.UniTuple(I64, 4)(ROWS_T, types.uint8[::1]), deferred=True)
def hold_to_bounds(rows: Any, lost: Any) -> Any:
    """Change rows of a feed to what the line can hold; returns (levels out of bounds, row of the first, books broken, row of the first).

    `lost` of an instrument, by id, is 1 while its snapshot, which may go on in later rows, is broken; of those it knows.
    """
    levels, first_level, broken, first_broken = 0, -1, 0, -1
    for i in range(len(rows)):
        r = rows[i]
        if r.kind == BOOK_SNAPSHOT and r.instrument_id < len(lost):
            follow_snapshot(r, lost)
        if r.kind == BOOK_DELTA or r.kind == BOOK_SNAPSHOT:
            reason = hold_level(r) if beyond(r) else 0
            if reason == reasons.LEVEL_OUT_OF_BOUNDS:
                first_level = i if levels == 0 else first_level
                levels += 1
            elif reason:
                first_broken = i if broken == 0 else first_broken
                broken += 1
                if r.kind == BOOK_SNAPSHOT and r.instrument_id < len(lost):
                    lost[r.instrument_id] = 1
                break_book(r)
        elif r.kind <= BAR and r.flags & EVENT_END and refusal(r, NO_INSTRUMENT):
            end_before(rows, i)
    return levels, first_level, broken, first_broken


assert SLOT_BYTES == (_VENUE_SEQ_WORD + 2) * 8, "venue_seq and origin end the slot"
