"""Which rows of books by order end events, and which are gaps: passes over a run of records, in the order of the source, as kernels."""

from __future__ import annotations

import numpy as np

from transport.compiled import I64, array_t, kernel, types

NONE = -1
_FLAGS, _NUMBERS = array_t(np.dtype("?")), array_t(np.dtype("i8"))


@kernel(types.void(_NUMBERS, _FLAGS, _FLAGS, _NUMBERS, _FLAGS), deferred=True)
def move_ends(place, last, keep, kept, end):
    """Give EVENT_END of records that yield no row to the one before them that does, in the same event of the same instrument.

    `kept` has room for a number an instrument. A record without an instrument, `place` below 0, is of no event.
    """
    kept[:] = NONE
    for i in range(len(place)):
        p = place[i]
        if p < 0:
            continue
        if keep[i]:
            kept[p] = i
        if last[i]:
            if kept[p] != NONE:
                end[kept[p]] = True
            kept[p] = NONE


@kernel(I64(_NUMBERS, _FLAGS, _FLAGS, _FLAGS, _FLAGS, _FLAGS, _FLAGS, _FLAGS, _FLAGS), deferred=True)
def find_gaps(place, book, begins, breaks, good, timed, broken, gap, refused):
    """Mark which book records become a gap and which good ones are refused up to the next that `begins` a snapshot; returns the gaps.

    `broken` says of each instrument whether its book is, and is kept from run to run; a break before the first time is no gap.
    """
    gaps = np.int64(0)
    for i in range(len(place)):
        if not book[i]:
            continue
        p = place[i]
        if begins[i]:
            broken[p] = False
        if breaks[i] and not broken[p]:
            broken[p] = True
            gap[i] = timed[i]
            gaps += timed[i]
        elif broken[p] and good[i]:
            refused[i] = True
    return gaps
