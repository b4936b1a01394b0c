"""How a line of a capture is written: the receive time, where the body came from, and the body itself, taken apart.

    <receive ns> <JSON>                      what `tickline record` writes, its own lines between; common recorders of one stream
    <receive s>: <JSON>                      cryptofeed: received on the websocket
    <url> -> <receive s>: <JSON>             a REST answer
    <url> <- <s>: <JSON>, <url> <-> <s>      what the recorder sent, and that it connected: no market data
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from handlers.domain.reasons import BROKEN_LINE, CONTROL_MESSAGE, DOC, TIME_JUMP, TIME_OUT_OF_RANGE
from handlers.ingest.feed import YEAR_2000_NS, YEAR_2100_NS
from handlers.ingest.jumps import JUMPED, NO_TIME
from handlers.ingest.venues.own_lines import MARK, opened
from handlers.ingest.venues.line_kernels import find_bodies, read_times
from handlers.ingest.venues.protocol import Batch, Line, Refused
from transport.words import WORD_BYTES

_SPARE = bytes(2 * WORD_BYTES)
_SECONDS = re.compile(rb"(\d{1,12})(?:\.(\d{1,9}))?")


class Form(ABC):
    """One way of writing lines."""

    written: ClassVar[str]  # how, for a user

    def times(self, lines: Sequence[bytes]) -> NDArray[np.int64]:
        """`time` of each line."""
        return np.fromiter(map(self.time, lines), np.int64, len(lines))

    def batch(self, lines: Sequence[bytes]) -> Batch | None:
        """The lines in one buffer, with where their bodies stand; None in a form that no scanner reads."""
        return None

    def read(self, lines: Sequence[bytes]) -> tuple[NDArray[np.int64], Batch | None]:
        """`times` and `batch` of the lines."""
        return self.times(lines), self.batch(lines)

    merged = False  # files of one source were written side by side, each by its connection: to be merged by time

    @abstractmethod
    def time(self, line: bytes) -> int:
        """Receive time in ns, NO_TIME where it has none that can be read."""

    @abstractmethod
    def split(self, line: bytes, recv: int) -> Line:
        """The line taken apart; `recv` is its time, or NO_TIME, JUMPED. Raises Refused for one that is no message."""


class Nanoseconds(Form):
    """`<receive ns> <JSON>`."""

    written = "<receive ns> <JSON>"

    def times(self, lines: Sequence[bytes]) -> NDArray[np.int64]:
        return self.read(lines)[0]

    def batch(self, lines: Sequence[bytes]) -> Batch:
        return self.read(lines)[1]

    def read(self, lines: Sequence[bytes]) -> tuple[NDArray[np.int64], Batch]:
        text, begins, ends = _joined(lines)
        found, bodies = np.empty(len(lines), np.int64), np.empty(len(lines), np.int64)
        read_times(text, begins, ends, found, YEAR_2000_NS, YEAR_2100_NS)
        find_bodies(text, begins, ends, bodies)
        return found, Batch(text, bodies, ends)

    def time(self, line: bytes) -> int:
        stamp = line.partition(b" ")[0]
        recv = int(stamp) if stamp.isdigit() and len(stamp) < 20 else NO_TIME
        return recv if YEAR_2000_NS <= recv < YEAR_2100_NS else NO_TIME

    def split(self, line: bytes, recv: int) -> Line:
        stamp, _, body = line.partition(b" ")
        if recv < 0:
            raise _timeless(stamp, recv, stamp.isdigit())
        return opened(recv, body) if body.startswith(MARK) else Line(recv, b"", body)


class Cryptofeed(Form):
    """`[<url> ->] <receive s>: <JSON>`, several files of one venue recorded side by side."""

    written = "cryptofeed's <receive s>: <JSON>"
    merged = True

    def time(self, line: bytes) -> int:
        found = _SECONDS.fullmatch(line.partition(b": ")[0].rpartition(b" ")[2])
        if found is None:
            return NO_TIME
        recv = int(found[1]) * 10**9 + int((found[2] or b"0").ljust(9, b"0"))
        return recv if YEAR_2000_NS <= recv < YEAR_2100_NS else NO_TIME

    def split(self, line: bytes, recv: int) -> Line:
        head, _, body = line.partition(b": ")
        where, _, stamp = head.rpartition(b" ")
        if not line:
            raise Refused(CONTROL_MESSAGE, "a blank line, as stands between connections")
        if where.endswith((b" <-", b" <->")):
            raise Refused(CONTROL_MESSAGE, "what the recorder itself did")
        if recv < 0:
            raise _timeless(stamp, recv, _SECONDS.fullmatch(stamp) is not None)
        return Line(recv, where.removesuffix(b" ->"), body)


def _joined(lines: Sequence[bytes]) -> Batch:
    """Lines in one buffer, with a word behind them for who reads by words; of whole lines, where a Batch has bodies."""
    ends = np.cumsum(np.fromiter(map(len, lines), np.int64, len(lines)) + 1) - 1
    begins = np.zeros(len(lines), np.int64)
    begins[1:] = ends[:-1] + 1
    return Batch(np.frombuffer(bytearray(b"\n").join([*lines, _SPARE]), np.uint8), begins, ends)


def _timeless(stamp: bytes, recv: int, readable: bool) -> Refused:
    """Why a line that begins with `stamp` has no time."""
    if recv == JUMPED:
        return Refused(TIME_JUMP, f"{stamp.decode()}: {DOC[TIME_JUMP]}")
    if not readable:
        return Refused(BROKEN_LINE, "does not begin with a receive time")
    return Refused(TIME_OUT_OF_RANGE, f"receive time {stamp[:40].decode()}")


_CRYPTOFEED_LINE = re.compile(rb"(?:\d{9,10}\.\d+: [\[{]|wss?://\S+ <->? \d|https?://\S+ -> \d)")
_NANOSECONDS_LINE = re.compile(rb"\d{19} ?[\[{]")


def form_of(head: Sequence[bytes]) -> Form | None:
    """The form of a file that begins with the lines `head`; None where it is no capture."""
    if any(_NANOSECONDS_LINE.match(line) for line in head):
        return Nanoseconds()
    return Cryptofeed() if any(_CRYPTOFEED_LINE.match(line) for line in head) else None
