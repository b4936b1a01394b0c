"""Binance's rule for a local order book: which depth messages of one instrument may reach it.

    WAITING  --snapshot-->  PRIMED  --first message that spans it-->  FOLLOWING
       ^                      |                                           |
       '------ break ---------'------------------- break -----------------'

While WAITING, messages are to be held: the snapshot is fetched after the stream has begun and arrives behind messages that follow
it. Source: Binance API documentation, "How to manage a local order book correctly", spot and USD-M futures (August 2024).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from handlers.domain.reasons import SEQUENCE_GAP
from handlers.ingest.feed import Rows
from handlers.ingest.venues.protocol import APPLY, BREAK, HOLD, REPEATED, STALE, BookRule

NO_PREVIOUS = -1  # `prev_seq` of a spot message, which names none

_WAITING, _PRIMED, _FOLLOWING = 0, 1, 2


class DepthRule(BookRule):
    """State of one instrument's sequence; `futures` tells the two venues' rules apart."""

    holds: ClassVar[bool] = True
    reason = SEQUENCE_GAP

    def __init__(self, futures: bool) -> None:
        super().__init__()
        self.futures = futures
        self.state = _WAITING
        self.last = 0  # update id the book is at
        self.repeat = (0, 0)  # first and last id of the message applied last

    @property
    def waiting(self) -> bool:
        return self.state == _WAITING

    def start(self, m: np.void, rows: Rows) -> int:
        return APPLY if self.take_snapshot(int(m["venue_seq"])) else STALE

    def judge(self, m: np.void, rows: Rows) -> int:
        return self.follow(int(m["first_seq"]), int(m["venue_seq"]), int(m["prev_seq"]))

    def run(self, messages: NDArray[Any]) -> int:
        """As `follow` of each, up to the first that is not simply applied."""
        if self.state != _FOLLOWING:
            return 0
        first, last = messages["first_seq"], messages["venue_seq"]
        before = np.append(self.last, last[:-1])  # the id that the book is at when each comes
        repeated = (first == np.append(self.repeat[0], first[:-1])) & (last == before)
        expected = before if self.futures else before + 1
        follows = ((messages["prev_seq"] if self.futures else first) == expected) & ~repeated
        n = len(follows) if follows.all() else int(follows.argmin())
        if n:
            self.expected, self.last = int(expected[n - 1]), int(last[n - 1])
            self.repeat = (int(first[n - 1]), self.last)
        return n

    def take_snapshot(self, last_update_id: int) -> bool:
        """Start from a snapshot; False if the book is already past it, which changes nothing."""
        if self.state != _WAITING and last_update_id < self.last:
            return False
        self.state, self.last, self.repeat = _PRIMED, last_update_id, (0, 0)
        return True

    def lose(self) -> None:
        """The book is not to be believed any more: wait for a snapshot."""
        self.state = _WAITING

    def link(self, m: np.void) -> int:
        return self._link(int(m["first_seq"]), int(m["prev_seq"]))

    def follow(self, first: int, last: int, previous: int) -> int:
        """What to do with a message of update ids `first` to `last`; BREAK and HOLD leave the book waiting."""
        if self.state == _WAITING:
            return HOLD
        if self.state == _PRIMED:
            verdict = self._first_after_snapshot(first, last, previous)
        elif (first, last) == self.repeat:
            return REPEATED
        else:
            self.expected = self.last if self.futures else self.last + 1
            verdict = APPLY if self._link(first, previous) == self.expected else BREAK
        if verdict == APPLY:
            self.state, self.last, self.repeat = _FOLLOWING, last, (first, last)
        elif verdict == BREAK:
            self.got = self._link(first, previous)
            self.lose()
        return verdict

    def _link(self, first: int, previous: int) -> int:
        """The id that `expected` is compared with: what a futures message follows, what a spot message begins with."""
        return previous if self.futures else first

    def _first_after_snapshot(self, first: int, last: int, previous: int) -> int:
        self.expected = self.last if self.futures else self.last + 1
        if last < self.expected:
            return STALE
        if first <= self.expected or (self.futures and previous == self.last):
            return APPLY
        return BREAK


class SnapshotRule(BookRule):
    """A book without sequence numbers: whole with its snapshot, and followed as long as nothing breaks it."""

    def start(self, m: np.void, rows: Rows) -> int:
        self._waiting = False
        return self.judge(m, rows)

    def judge(self, m: np.void, rows: Rows) -> int:
        return self.follow(0)

    def follow(self, wrong: int) -> int:
        """APPLY, or BREAK for a message that is wrong by that reason; HOLD while waiting."""
        if self._waiting:
            return HOLD
        if wrong:
            self.reason = wrong
            self.lose()
            return BREAK
        return APPLY
