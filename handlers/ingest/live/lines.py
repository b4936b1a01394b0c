"""Lines on their way from a connection's thread to the line's: stamped, bounded, and where some were dropped, saying so in their place.

    put ──► line line line [dropped: 17] line … ──► take        a message for which there is no room is counted in the place where
                                                                it would stand; what comes behind waits until half of it is taken

What stands there when it is taken becomes a line: then it is known how many were dropped.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from transport.clock import monotonic_ns, wall_ns

WAITING_MAX = 1 << 16  # lines: some seconds of the busiest market
WAITING_BYTES_MAX = 1 << 28

Line = tuple[int, bytes]  # receive time in ns, body
_DROPPED = b""  # stands for messages that were dropped; no message is empty when it waits here


class Taken(NamedTuple):
    """`until_ns`: no further line will be stamped earlier; `ended`: none will ever come; `resumed`: messages are let in again."""

    lines: list[Line]
    until_ns: int
    ended: bool
    resumed: bool


class WaitingLines:
    """Any thread may put, one takes. `overrun(lost)` is the body of a line that tells how many messages were dropped there."""

    def __init__(self, overrun: Callable[[int], bytes], woken: threading.Event) -> None:
        self.woken = woken  # set when there is something to take
        self._overrun = overrun
        self._lock = threading.Lock()
        self._lines: deque[Line] = deque()
        self._bytes = 0
        self._lost = 0  # where _DROPPED stands in `_lines`
        self._full = False  # messages are dropped until half of the room is free
        self._now_ns = self._put_ns = 0  # greatest time said; of the last line
        self._looked_ns = monotonic_ns()
        self._closing = self._ended = False

    def put(self, body: bytes, droppable: bool = False) -> None:
        """Stamp a line and let it wait; one that is droppable is counted instead where there is no room for it."""
        with self._lock:
            self._put_ns = self._now()
            self._full |= not self._has_room(body)
            if droppable and self._full:
                if not self._lost:
                    self._lines.append((self._put_ns, _DROPPED))
                self._lost += 1
            else:
                self._lines.append((self._put_ns, body or b" "))
                self._bytes += len(body or b" ")
        self.woken.set()

    def offer(self, body: bytes) -> bool:
        """Put a line that can be had again if there is room for it; whether there was."""
        with self._lock:
            room = not self._full and self._has_room(body)
        if room:
            self.put(body)
        return room

    def close(self) -> None:
        """From here time goes on with lines alone, so that after the last one nothing is due that its capture could not tell."""
        with self._lock:
            self._closing = True

    def end(self) -> None:
        """No line comes any more."""
        with self._lock:
            self._closing = self._ended = True
        self.woken.set()

    def take(self, lines_max: int) -> Taken:
        with self._lock:
            lines = [self._taken() for _ in range(min(lines_max, len(self._lines)))]
            resumed = self._full and len(self._lines) <= WAITING_MAX // 2 and self._bytes <= WAITING_BYTES_MAX // 2
            if resumed:
                self._full = False
            until = self._lines[0][0] if self._lines else self._put_ns if self._closing else self._now()
            return Taken(lines, until, self._ended and not self._lines, resumed)

    def _taken(self) -> Line:
        ns, body = self._lines.popleft()
        if body is not _DROPPED:
            self._bytes -= len(body)
            return ns, body
        lost, self._lost = self._lost, 0
        return ns, self._overrun(lost)

    def _has_room(self, body: bytes) -> bool:
        return len(self._lines) < WAITING_MAX and self._bytes + len(body) <= WAITING_BYTES_MAX

    def _now(self) -> int:
        """The wall's clock, but never back: where it was set back, time goes on at half its pace until the clock has caught up."""
        looked = monotonic_ns()
        self._now_ns = max(wall_ns(), self._now_ns + (looked - self._looked_ns) // 2)
        self._looked_ns = looked
        return self._now_ns
