"""Binance's rule for a local order book: which depth messages of one instrument may reach it.

    WAITING  --snapshot-->  PRIMED  --first message that spans it-->  FOLLOWING
       ^                      |                                           |
       '------ break ---------'------------------- break -----------------'

While WAITING, messages are to be held: the snapshot is fetched after the stream has begun and arrives behind messages that follow
it. Source: Binance API documentation, "How to manage a local order book correctly", spot and USD-M futures (August 2024).
"""

from __future__ import annotations

APPLY, HOLD, STALE, REPEATED, BREAK = 0, 1, 2, 3, 4
NO_PREVIOUS = -1  # `prev_seq` of a spot message, which names none

_WAITING, _PRIMED, _FOLLOWING = 0, 1, 2


class DepthRule:
    """State of one instrument's sequence; `futures` tells the two venues' rules apart."""

    def __init__(self, futures: bool) -> None:
        self.futures = futures
        self.state = _WAITING
        self.last = 0  # update id the book is at
        self.repeat = (0, 0)  # first and last id of the message applied last
        self.expected = 0  # id that the message called a break should have had

    @property
    def waiting(self) -> bool:
        return self.state == _WAITING

    def take_snapshot(self, last_update_id: int) -> bool:
        """Start from a snapshot; False if the book is already past it, which changes nothing."""
        if self.state != _WAITING and last_update_id < self.last:
            return False
        self.state, self.last, self.repeat = _PRIMED, last_update_id, (0, 0)
        return True

    def lose(self) -> None:
        """The book is not to be believed any more: wait for a snapshot."""
        self.state = _WAITING

    def judge(self, first: int, last: int, previous: int) -> int:
        """What to do with a message of update ids `first` to `last`; BREAK and HOLD leave the book waiting."""
        if self.state == _WAITING:
            return HOLD
        if self.state == _PRIMED:
            verdict = self._first_after_snapshot(first, last, previous)
        elif (first, last) == self.repeat:
            return REPEATED
        else:
            self.expected = self.last if self.futures else self.last + 1
            verdict = APPLY if self.got(first, previous) == self.expected else BREAK
        if verdict == APPLY:
            self.state, self.last, self.repeat = _FOLLOWING, last, (first, last)
        elif verdict == BREAK:
            self.lose()
        return verdict

    def got(self, first: int, previous: int) -> int:
        """The id that `expected` is compared with: what a futures message follows, what a spot message begins with."""
        return previous if self.futures else first

    def _first_after_snapshot(self, first: int, last: int, previous: int) -> int:
        self.expected = self.last if self.futures else self.last + 1
        if last < self.expected:
            return STALE
        if first <= self.expected or (self.futures and previous == self.last):
            return APPLY
        return BREAK
