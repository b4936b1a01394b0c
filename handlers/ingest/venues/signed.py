"""Books that the venue signs: the CRC-32 of its best levels, recomputed after every message, must be the one the message bears.

    rows of a message ──► a book of the rule's own ──► best levels as text ──► CRC-32 ──► the message's? ──► the line
                                                                                    └─ no: BREAK, nothing of it reaches the line

The rule keeps a book apart from the line's, since a message must be judged before it is let in.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from handlers.domain.book import new_markets
from handlers.domain.reasons import CHECKSUM_FAILED, SEQUENCE_GAP
from handlers.ingest.feed import Rows
from handlers.ingest.venues.checksums import fold_levels, trim
from handlers.ingest.venues.protocol import APPLY, BREAK, HOLD, NO_CHECK, REPEATED, BookRule
from transport.records import BOOK_DELTA, EVENT_END, SET, copied, empty

DROPPED_MAX = 4096  # levels that one message can push out of the depth: as many as it can add
NO_PREVIOUS = -1


class SignedRule(BookRule):
    """A book followed and checked against what the venue signs.

    `depth` levels a side are published, 0 is all. A message that bears no checksum (NO_CHECK) passes unchecked, as far as its sequence goes: `previous` is the number of the one
    before it, NO_PREVIOUS where the venue sends none.
    """

    holds: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.last = NO_PREVIOUS
        self._markets, _ = new_markets([False])
        self._out = empty(0)
        self._dropped = 0

    @property
    def depth(self) -> int:
        return 0

    @abstractmethod
    def signature(self, m: np.void) -> int:
        """What the venue would sign the book with."""

    def start(self, m: np.void, rows: Rows) -> int:
        self.last = int(m["venue_seq"]) or NO_PREVIOUS
        self._waiting = False
        return self._take(m, rows, True)

    def judge(self, m: np.void, rows: Rows) -> int:
        if self._waiting:
            return HOLD
        seq, previous = int(m["venue_seq"]), int(m["prev_seq"])
        if self.last != NO_PREVIOUS:  # a message without a number does not follow one with
            if seq == self.last and previous != self.last:
                return REPEATED
            if previous != self.last:
                self.reason, self.expected, self.got = SEQUENCE_GAP, self.last, previous
                self.lose()
                return BREAK
        self.last = seq or NO_PREVIOUS
        return self._take(m, rows, False)

    def _take(self, m: np.void, rows: Rows, whole: bool) -> int:
        fold_levels(self._markets, 0, rows, whole)
        self._dropped = 0
        if self.depth:
            self._out = self._out if len(self._out) else empty(DROPPED_MAX)
            self._dropped = trim(self._markets, 0, self.depth, self._out)
        if m["check"] == NO_CHECK:
            return APPLY
        ours = self.signature(m)
        if ours == m["check"]:
            return APPLY
        self.reason, self.expected, self.got = CHECKSUM_FAILED, int(m["check"]), ours
        self._dropped = 0
        self.lose()
        return BREAK

    def dropped(self) -> Rows | None:
        if not self._dropped:
            return None
        rows = self._out[: self._dropped]
        rows["kind"], rows["action"], rows["flags"] = BOOK_DELTA, SET, 0
        rows["flags"][-1] = EVENT_END
        return copied(rows)

