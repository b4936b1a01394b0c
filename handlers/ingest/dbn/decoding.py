"""What the decoders of DBN records share: lines of one layout with their place and time, what is wrong with them, and filled slots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import databento_dbn as dbn
import numpy as np
from numpy.typing import NDArray

from handlers.domain.reasons import DOC, TIME_JUMP, TIME_OUT_OF_RANGE, UNKNOWN_SYMBOL
from handlers.ingest.feed import YEAR_2000_NS, YEAR_2100_NS, Rows
from handlers.ingest.jumps import JUMPED, NO_TIME, Times
from handlers.ingest.dbn.grid import Grid
from handlers.ingest.dbn.layouts import BARS, Layout
from transport.instruments import Instrument
from transport.records import ASK, BID, NO_SIDE, empty

Column = NDArray[Any]
Mask = NDArray[np.bool_]


class Lines(NamedTuple):
    """Records of one layout, in the order of the source, and of each:"""

    records: np.ndarray[Any, Any]
    place: NDArray[np.int64]  # in the feed's instruments, -1 for none
    recv: Times  # receive ns, NO_TIME, JUMPED
    origin: NDArray[np.int64]

    def part(self, which: Mask) -> Lines:
        return self if which.all() else Lines(*(column[which] for column in self))


@dataclass
class Decoding:
    """Of one feed: its grid, the ids that its rows bear, and where refused lines are counted."""

    instruments: tuple[Instrument, ...]
    grid: Grid
    ids: NDArray[np.uint32]
    source_id: int
    count: Callable[[int, str, int], None]  # reason, first offender, times

    def count_each(self, reason: int, which: Mask, origin: Column) -> None:
        if which.any():
            self.count(reason, told(reason, int(origin[which.argmax()])), int(np.count_nonzero(which)))

    def kept(self, reason: Column, origin: Column) -> Mask:
        """Where `reason` is none; the others are counted."""
        for code in np.unique(reason[reason != 0]).tolist():
            self.count_each(code, reason == code, origin)
        return reason == 0

    def slots(self, lines: Lines, kind: int, flags: int, **fields: Column) -> Rows:
        """A slot for each line; what is not in `fields` is left zero."""
        rows = empty(len(lines.origin))
        rows["kind"], rows["flags"], rows["source_id"] = kind, flags, self.source_id
        rows["ts_recv_ns"], rows["origin"] = lines.recv, lines.origin
        rows["instrument_id"] = self.ids[lines.place] if len(self.ids) else 0  # of a feed without instruments every line is refused
        for name, column in fields.items():
            rows[name] = column
        return rows


def told(reason: int, origin: int) -> str:
    """The first offender of a reason in words."""
    return f"record {origin + 1}: {DOC[reason]}"


def refusals(lines: Lines, event_ns: Column) -> NDArray[np.int64]:
    """What is wrong with the times or the instrument of each line, 0 for nothing; what says most stands last."""
    reason = np.zeros(len(lines.origin), np.int64)
    reason[(lines.recv == NO_TIME) | ~in_range(event_ns)] = TIME_OUT_OF_RANGE
    reason[lines.recv == JUMPED] = TIME_JUMP
    reason[lines.place < 0] = UNKNOWN_SYMBOL
    return reason


def worse(reason: Column, than: Column) -> Column:
    """`reason`, and where that is none `than`."""
    return np.where(reason != 0, reason, than)


def received(records: np.ndarray[Any, Any], layout: Layout) -> Times:
    """When each record was received, NO_TIME where that cannot be; a bar is known when its interval has ended, never before."""
    if layout.decoder == BARS:
        opened = records["ts_event"]
        return np.where(in_range(opened), opened.astype(np.int64) + layout.interval_ns, NO_TIME)
    times = records["ts_recv"]
    return np.where(in_range(times), times.astype(np.int64), NO_TIME)


def in_range(times: Column) -> Mask:
    return (times >= np.uint64(YEAR_2000_NS)) & (times < np.uint64(YEAR_2100_NS))


def letters(column: np.ndarray[Any, Any]) -> NDArray[np.uint8]:
    return column.view(np.uint8)


def by_letter(table: dict[str, int], otherwise: int) -> NDArray[np.uint8]:
    """A table of 256 bytes to look letters up in."""
    found = np.full(256, otherwise, np.uint8)
    for letter, value in table.items():
        found[ord(letter)] = value
    return found


SIDES = by_letter({"B": BID, "A": ASK}, NO_SIDE)  # of the book, or of the aggressor
F_LAST, F_SNAPSHOT, F_DOUBTED = dbn.F_LAST, dbn.F_SNAPSHOT, dbn.F_MAYBE_BAD_BOOK
