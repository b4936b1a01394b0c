"""What a feed is: one source of market records, decoded, not yet sequenced.

A feed yields the records of its source in source order, with everything but what INGEST assigns (`seq`, `ts_seq_ns`). `origin` is
the record's line (or record) index within the source, counted through all its files. EVENT_END stands on the last record of
every venue message; one that its source never ends, as a DBN event whose file is cut off, has none, and its book is valid with
the end of the next. A chunk ends in the middle of a message only where that is longer than memory may be. Bad input never raises
here: it is counted under a reason code, with the first offender kept in words. `chunks` has the source's own numbers; `windows` has
them as far as the line holds them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from handlers.domain.reasons import DOC, LEVEL_OUT_OF_BOUNDS, OUT_OF_RANGE
from handlers.ingest.bounds import hold_to_bounds
from handlers.ingest.errors import NotAFeedError
from transport.compiled import load
from transport.instruments import Instrument
from transport.records import EVENT_END

YEAR_2000_NS = 946_684_800 * 10**9
YEAR_2100_NS = 4_102_444_800 * 10**9

Rows = np.ndarray[Any, Any]  # shape (n,), dtype REC, C-contiguous


class Feed(ABC):
    """One source. `chunks` may be called again: it starts over, counters included."""

    defined: tuple[Instrument, ...] = ()  # whose grids the source itself states; a feed of the same instruments is read by them
    kind: ClassVar[str] = "capture"  # what a run's record calls it

    def __init__(self, name: str, instruments: Sequence[Instrument]) -> None:
        self.name = name
        self.instruments = tuple(instruments)
        self.source_id = 0
        self.ids = np.arange(len(self.instruments), dtype=np.uint32)  # place in `instruments` -> instrument_id
        load(hold_to_bounds)
        self.restart()

    def restart(self) -> None:
        """Forget what was counted."""
        self.counters: dict[int, int] = {}
        self.first_offenders: dict[int, str] = {}
        self.lines = 0  # lines (records, in a binary feed) read
        self.messages = 0  # venue messages that yielded records or were dropped by the venue's own rules

    def bind(self, ids: dict[str, int], source_id: int) -> None:
        """Say which `instrument_id` each instrument's name has and which `source_id` the rows bear; raises KeyError for a name missing."""
        self.ids = np.array([ids[i.name] for i in self.instruments], dtype=np.uint32)
        self.source_id = source_id

    def count(self, reason: int, offender: str, times: int = 1) -> None:
        """Count bad or dropped input; `offender` (line and what is wrong with it) is kept if it is the first of its reason."""
        self.counters[reason] = self.counters.get(reason, 0) + times
        self.first_offenders.setdefault(reason, offender)

    @abstractmethod
    def chunks(self, rows_max: int) -> Iterator[Rows]:
        """Yield arrays of at most `rows_max` records, or of one message if that has more; joined they do not depend on `rows_max`."""

    def windows(self, rows_max: int) -> Iterator[Rows]:
        """`chunks`, changed in place to what the line can hold, and what is beyond it counted."""
        lost = np.zeros(int(self.ids.max(initial=0)) + 1, np.uint8)
        for rows in self.chunks(rows_max):
            levels, first_level, broken, first_broken = hold_to_bounds(rows, lost)
            for reason, times, first in ((LEVEL_OUT_OF_BOUNDS, levels, first_level), (OUT_OF_RANGE, broken, first_broken)):
                if times:
                    self.count(reason, f"line {int(rows['origin'][first]) + 1}: {DOC[reason]}", times)
            yield rows

    @abstractmethod
    def receive_times(self) -> NDArray[np.int64]:
        """Receive time in ns of every line of the source, those without a record included; reads the source afresh.

        NO_TIME where it cannot be read, or is refused as a jump.
        """


def choose_instruments(
    configured: Sequence[Instrument], venue: str, shown: Sequence[str], infer: Callable[[str], Instrument], source: str
) -> list[Instrument]:
    """The configuration's instruments of the source's venue; if it names none of that venue, those the source shows, inferred.

    Raises NotAFeedError where the configuration names the venue, but no symbol of this source.
    """
    known = [i for i in configured if i.venue == venue]
    if not known:
        return [infer(symbol) for symbol in shown]
    if not any(i.symbol in shown for i in known):
        wanted = ", ".join(i.symbol for i in known)
        raise NotAFeedError(
            f"{source} holds {', '.join(shown)} of {venue}; the configuration knows only {wanted} there"
        )
    return known


def split_at_events(rows: Rows, rows_max: int) -> Iterator[Rows]:
    """Views of `rows`, each of at most `rows_max` (>= 1) records but whole events."""
    if len(rows) <= rows_max:
        if len(rows):
            yield rows
        return
    ends = np.flatnonzero(rows["flags"] & EVENT_END) + 1
    if not len(ends) or ends[-1] != len(rows):
        ends = np.append(ends, len(rows))
    start = 0
    while start < len(rows):
        k = int(np.searchsorted(ends, start + rows_max, "right"))
        stop = int(ends[k - 1]) if k and ends[k - 1] > start else int(ends[k])
        yield rows[start:stop]
        start = stop


def message_index(feeds: Sequence[Feed]) -> NDArray[np.int64]:
    """(receive ns, source, line) of every line of every source, shape (lines, 3), in the order of sequencing; lines without a time are left out."""
    parts = []
    for source, feed in enumerate(feeds):
        times = feed.receive_times()
        lines = np.flatnonzero(times >= 0)
        parts.append(np.column_stack((times[lines], np.full(len(lines), source), lines)))
    table = np.concatenate(parts) if parts else np.empty((0, 3), np.int64)
    return table[np.lexsort((table[:, 2], table[:, 1], table[:, 0]))]
