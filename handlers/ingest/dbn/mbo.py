"""Market-by-order records as a feed of L3 records.

    A C M   BOOK_DELTA   ADD, DELETE, MODIFY             with flag SNAPSHOT: BOOK_SNAPSHOT, same actions
    R       BOOK_SNAPSHOT CLEAR: from here the book is known, it is empty
    T       TRADE, side of the aggressor                 F       no record: the book changes by the C or M behind it

An event is what the venue sent at once; its last record bears flag LAST. EVENT_END stands there, also when that is a trade, and not
on a trade in the middle of one, for the book must not be read there. Where the last record yields none, EVENT_END moves to the
event's record before it. A snapshot ends where its records end, whether or not the publisher wrote LAST; one that is decoded in parts,
being larger than memory may be, has its EVENT_FIRST in the first and its EVENT_END in the last of them. A bad record that the
book would have needed becomes a GAP, as does the publisher's own mark MAYBE_BAD_BOOK, and book records are refused up to the
next snapshot; where the receive time is what is bad, the GAP bears the feed's time up to there. Source: Databento, MBO schema and
"Common fields, enums and types" (2024).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from handlers.domain.reasons import (
    BOOK_DOUBTED, DEPTH_REFUSED, FILL_SKIPPED, NOT_POSITIVE, OUT_OF_INT64, PRICE_OFF_GRID, QTY_OFF_GRID, SEQUENCE_GAP, UNKNOWN_RECORD,
)  # fmt: skip
from handlers.ingest.feed import Rows
from handlers.ingest.jumps import NO_TIME, Times
from handlers.ingest.dbn.orders import find_gaps, move_ends
from handlers.ingest.dbn.decoding import (
    F_DOUBTED, F_LAST, F_SNAPSHOT, SIDES, Column, Decoding, Lines, by_letter, letters, refusals, worse,
)  # fmt: skip
from transport.compiled import load
from transport.instruments import INT64_MAX
from transport.records import (
    ADD, BOOK_DELTA, BOOK_SNAPSHOT, CLEAR, DELETE, EVENT_END, EVENT_FIRST, GAP, MODIFY, NO_SIDE, TRADE, empty,
)  # fmt: skip

_FILL = 255  # stands for F among the kinds
_KIND = by_letter(
    {"A": BOOK_DELTA, "C": BOOK_DELTA, "M": BOOK_DELTA, "R": BOOK_SNAPSHOT, "T": TRADE, "F": _FILL}, 0
)
_ACTION = by_letter({"A": ADD, "C": DELETE, "M": MODIFY, "R": CLEAR}, 0)


class OrdersDecoder:
    """Books by order of one feed, from its beginning on."""

    def __init__(self, decoding: Decoding) -> None:
        load(move_ends, find_gaps)
        self._d = decoding
        self._broken = np.zeros(len(decoding.instruments), np.bool_)
        self._kept = np.zeros(len(decoding.instruments), np.int64)  # for `move_ends` to work in
        self.open = np.zeros(len(decoding.instruments), np.bool_)  # the instrument's snapshot goes on behind what was decoded

    def decode(self, lines: Lines, believed: Times, goes_on: bool) -> Rows:
        """Rows of whole events, or of the part of a snapshot that `goes_on`; `believed` are the receive times, the feed's up to there where a line's own cannot be."""
        records, origin, place = lines.records, lines.origin, lines.place
        kind = _KIND[letters(records["action"])]
        last = records["flags"] & F_LAST != 0
        in_snapshot = (kind == BOOK_SNAPSHOT) | ((records["flags"] & F_SNAPSHOT != 0) & (kind == BOOK_DELTA))
        kind[in_snapshot] = BOOK_SNAPSHOT
        clears = letters(records["action"]) == ord("R")
        first, final = _snapshot_bounds(place, in_snapshot, last, clears)
        self._join_parts(place, clears, first, final, last, goes_on)
        price, lots, reason = self._numbers(lines, kind, clears)
        self._d.kept(reason, origin)
        lines = lines._replace(recv=believed)
        gap = self._find_gaps(lines, kind, first, reason)
        keep = ((reason == 0) & (kind != _FILL)) | gap
        self._d.count_each(FILL_SKIPPED, (kind == _FILL) & (reason == 0), origin)
        end = final | last | gap
        move_ends(place, last, keep, self._kept, end)
        kind[gap] = GAP
        flags = np.where(end, EVENT_END, 0) | np.where(first & ~gap, EVENT_FIRST, 0)
        rows = self._write(lines.part(keep), kind[keep], flags[keep], price[keep], lots[keep])
        rows["reason"][gap[keep]] = np.where(reason[gap] == 0, BOOK_DOUBTED, reason[gap])
        return rows

    def _join_parts(self, place: Column, clears: Column, first: Column, final: Column, last: Column, goes_on: bool) -> None:
        """Take EVENT_FIRST from snapshots that go on from before and, where this part `goes_on`, EVENT_END from those that may go on behind it.

        One that does not has its end with its instrument's next event.
        """
        places, begins = np.unique(place, return_index=True)
        begins, ends = begins[places >= 0], len(place) - 1 - np.unique(place[::-1], return_index=True)[1][places >= 0]
        places = places[places >= 0]
        first[begins[self.open[places] & ~clears[begins]]] = False
        self.open[places] = final[ends] & ~last[ends] if goes_on else False
        final[ends[self.open[places]]] = False

    def _numbers(self, lines: Lines, kind: Column, clears: Column) -> tuple[Column, Column, Column]:
        """(ticks, lots, reason or 0) of each record; reasons in the order of how much they say."""
        records = lines.records
        letter = letters(records["action"])
        priced = (kind != _FILL) & ~clears
        price, off = self._d.grid.ticks(records["price"], lines.place)
        lots, odd = self._d.grid.lots(records["size"], lines.place)
        reason = np.where(priced & off, PRICE_OFF_GRID, np.where(priced & odd, QTY_OFF_GRID, 0))
        sized = priced & ((letter == ord("A")) | (letter == ord("T")))
        reason[sized & (records["size"] == 0) & (records["price"] != INT64_MAX)] = NOT_POSITIVE
        reason[records["order_id"] > np.uint64(INT64_MAX)] = OUT_OF_INT64
        wrong = refusals(lines, records["ts_event"])
        unread = np.where((kind == 0) & (lines.place >= 0), UNKNOWN_RECORD, wrong)
        return np.where(priced, price, 0), np.where(priced, lots, 0), worse(unread, reason)

    def _find_gaps(self, lines: Lines, kind: Column, first: Column, reason: Column) -> NDArray[np.bool_]:
        """Which records become a GAP; book records behind one are refused up to the next snapshot.

        There is none before the first time of the source: it would have no time, and there is no book yet that it could break.
        """
        records, origin, place = lines.records, lines.origin, lines.place
        gap, refused = np.zeros(len(records), np.bool_), np.zeros(len(records), np.bool_)
        book = (place >= 0) & ((kind == BOOK_DELTA) | (kind == BOOK_SNAPSHOT) | (kind == 0))
        doubted = book & (records["flags"] & F_DOUBTED != 0) & (reason == 0)
        breaks = (book & (reason != 0)) | doubted
        if breaks.any() or self._broken.any():
            find_gaps(place, book, first & (reason == 0), breaks, reason == 0, lines.recv != NO_TIME, self._broken, gap, refused)
        reason[refused] = DEPTH_REFUSED
        self._d.count_each(DEPTH_REFUSED, refused, origin)
        self._d.count_each(BOOK_DOUBTED, gap & doubted, origin)
        self._d.count_each(SEQUENCE_GAP, gap, origin)
        return gap

    def _write(self, lines: Lines, kind: Column, flags: Column, price: Column, lots: Column) -> Rows:
        """Fill slots; what a GAP does not have is left zero."""
        records = lines.records
        rows = empty(len(records))
        gap, book = kind == GAP, (kind == BOOK_DELTA) | (kind == BOOK_SNAPSHOT)
        action = np.where(book, _ACTION[letters(records["action"])], 0)
        for field, column in (
            ("ts_event_ns", records["ts_event"]), ("ts_recv_ns", lines.recv), ("instrument_id", self._d.ids[lines.place]),
            ("kind", kind), ("flags", flags), ("venue_seq", records["sequence"]), ("origin", lines.origin),
            ("side", np.where(gap, NO_SIDE, SIDES[letters(records["side"])])), ("action", action),
        ):  # fmt: skip
            rows[field] = column
        rows["source_id"] = self._d.source_id
        rows["price_ticks"], rows["qty_lots"] = np.where(gap, 0, price), np.where(gap, 0, lots)
        rows["order_id"] = np.where(book, records["order_id"], 0)
        rows["expected_seq"][gap] = rows["got_seq"][gap] = records["sequence"][gap]
        rows["lost"][gap] = np.where(records["flags"][gap] & F_DOUBTED != 0, -1, 1)
        return rows


def _snapshot_bounds(
    place: Column, in_snapshot: Column, last: Column, clears: Column
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(first, final) record of each instrument's snapshots; one ends at LAST or where its instrument's next record is of another kind."""
    order = np.argsort(place, kind="stable")
    mine, snap, end = place[order], in_snapshot[order], last[order]
    same = mine[1:] == mine[:-1]  # the next record is of the same instrument
    goes_on = same & snap[:-1] & snap[1:] & ~end[:-1] & ~clears[order][1:]
    first, final = np.zeros(len(place), np.bool_), np.zeros(len(place), np.bool_)
    first[order] = snap & ~np.concatenate((np.zeros(min(1, len(mine)), np.bool_), goes_on))
    final[order] = snap & ~np.concatenate((goes_on, np.zeros(min(1, len(mine)), np.bool_)))
    return first, final
