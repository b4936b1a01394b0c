"""Where the events of a table begin and end: EVENT_FIRST on a book's first row, EVENT_END on the last of every event."""

from __future__ import annotations

from transport.compiled import kernel
from transport.records import BOOK_DELTA, BOOK_SNAPSHOT, EVENT_END, EVENT_FIRST


@kernel
def mark_events(rows, goes_on):
    """Mark the rows of a table; returns where the event begins that the next row may still belong to, or len(rows).

    `goes_on` says that the first row is of an event whose beginning was marked before.
    """
    start = 0
    for i in range(len(rows)):
        r = rows[i]
        in_book = r.kind == BOOK_DELTA or r.kind == BOOK_SNAPSHOT
        if i > start:
            before = rows[i - 1]
            same = in_book and r.kind == before.kind and r.instrument_id == before.instrument_id
            if not (same and r.ts_event_ns == before.ts_event_ns and r.venue_seq == before.venue_seq):
                before.flags |= EVENT_END
                start = i
        if not in_book:
            r.flags |= EVENT_END
            start = i + 1
        elif i == start and r.kind == BOOK_SNAPSHOT and not (goes_on and i == 0):
            r.flags |= EVENT_FIRST
    return start
