"""One GET of a venue's REST interface, and how long to wait before it is tried again.

A request has a thread of its own, and a moment by which it has ended one way or the other: who waits for it can cut it off, and one
that hangs where nothing can cut it off (names being looked up, TLS being agreed on) holds nobody up, its answer is not wanted any more.
Addresses on the loopback are reached directly, whatever proxy the environment names.
"""

from __future__ import annotations

import http.client
import math
import queue
import random
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

TIMEOUT_S = 10.0  # without a sign from the other side
WHOLE_S = 20.0  # for all of an answer: one that comes byte by byte is none
BODY_BYTES_MAX = (1 << 26) - (1 << 16)  # with its time and address it is one line of a capture, at most blocks.LINE_BYTES_MAX
WHY_BYTES_MAX = 1 << 16  # of an answer that is no good
FIRST_S, LONGEST_S = 0.5, 30.0  # of the back-off
AFTER_MAX_S = 300.0  # a venue's own word for how long to keep away is believed up to this
LIMITED = (418, 429, 503)  # statuses that may come with Retry-After; 418 is Binance's for who went on after a 429
LOOPBACK = ("127.0.0.1", "::1", "localhost")
LOOK_S = 0.05


class Answer(NamedTuple):
    """`status` 0: no answer came, and `body` says why in words; `after_s`: the venue's word for when to come again, 0 without one."""

    status: int
    body: bytes
    after_s: float = 0.0


class Request(threading.Thread):
    """A GET of `url`; `done(answer)` is called on this thread, once. Any thread may `cut` it."""

    def __init__(self, url: str, done: Callable[[Answer], None], bytes_max: int) -> None:
        """`bytes_max` of its body; a longer answer is none."""
        super().__init__(name="rest", daemon=True)
        self._url, self._done, self._bytes_max = url, done, bytes_max
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut = False

    def run(self) -> None:
        self._done(_get(self._url, self._hold, self._bytes_max))

    def cut(self) -> None:
        """End it: where it waits for the other side it does so no more."""
        with self._lock:
            self._cut = True
            if self._socket is not None:
                _shut(self._socket)

    def _hold(self, connected: socket.socket) -> None:
        with self._lock:
            self._socket = connected
            if self._cut:
                _shut(connected)


def _shut(connected: socket.socket) -> None:
    with suppress(OSError):  # it is closed
        connected.shutdown(socket.SHUT_RDWR)


def get(url: str, stop: threading.Event | None = None) -> Answer:
    """The answer to a GET of `url`, waited for up to WHOLE_S or until `stop`; never raises for what a network or a server may do."""
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    request, until = Request(url, answers.put, BODY_BYTES_MAX), time.monotonic() + WHOLE_S
    request.start()
    try:
        while time.monotonic() < until and not (stop is not None and stop.is_set()):
            with suppress(queue.Empty):
                return answers.get(timeout=LOOK_S)
    finally:
        request.cut()
    return Answer(0, b"the answer took too long" if stop is None or not stop.is_set() else b"it was not waited for")


def _get(url: str, hold: Callable[[socket.socket], None], bytes_max: int) -> Answer:
    """What came; `hold` is told the socket."""
    try:
        return _opened(url, hold, bytes_max)
    except Exception as error:  # timeouts, cut connections, bad addresses; http.client raises its own for a broken answer
        return Answer(0, f"{type(error).__name__}: {error}".encode(errors="replace"))


def _opened(url: str, hold: Callable[[socket.socket], None], bytes_max: int) -> Answer:
    try:
        with _opener(url, hold).open(url, timeout=TIMEOUT_S) as answer:
            body = answer.read(bytes_max + 1)
            if len(body) > bytes_max:
                return Answer(0, b"the answer is too long")
            return Answer(answer.status, body) if not answer.length else Answer(0, b"the answer was cut off")
    except urllib.error.HTTPError as error:
        after_s, body = retry_after(error.headers.get("Retry-After", ""), error.code), b""
        with error, suppress(OSError, http.client.HTTPException):  # why it is no good need not come whole
            body = error.read(WHY_BYTES_MAX)
        return Answer(error.code, body, after_s)


def _opener(url: str, hold: Callable[[socket.socket], None]) -> urllib.request.OpenerDirector:
    handlers: list[urllib.request.BaseHandler] = [_Http(hold)]
    if url.startswith("https:"):
        handlers.append(_Https(hold))
    if urlsplit(url).hostname in LOOPBACK:
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


def _connection(kind: type[http.client.HTTPConnection], hold: Callable[[socket.socket], None], host: str, **more: Any) -> http.client.HTTPConnection:
    """A connection that tells `hold` its socket as soon as it stands."""

    class Held(kind):  # type: ignore[misc, valid-type]
        def connect(self) -> None:
            super().connect()
            hold(self.sock)

    return Held(host, **more)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, hold: Callable[[socket.socket], None]) -> None:
        super().__init__()
        self._made: Any = partial(_connection, http.client.HTTPConnection, hold)

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._made, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, hold: Callable[[socket.socket], None]) -> None:
        super().__init__()
        self._made: Any = partial(_connection, http.client.HTTPSConnection, hold)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._made, req, context=ssl.create_default_context())


def retry_after(text: str, status: int) -> float:
    """Seconds that a Retry-After header asks for, 0 to AFTER_MAX_S; 0 where it says nothing that can be read."""
    if status not in LIMITED or not text:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError, IndexError):
            return 0.0
    return 0.0 if math.isnan(seconds) else min(max(seconds, 0.0), AFTER_MAX_S)


def back_off_s(attempt: int, first_s: float = FIRST_S) -> float:
    """Seconds to wait after failed `attempt` (from 1): a draw below a bound that doubles up to LONGEST_S, and at least a tenth of it.

    Drawn anew each time, so that many clients that were cut off together do not come back together.
    """
    bound = min(LONGEST_S, first_s * 2.0 ** min(attempt - 1, 10))
    return bound * random.uniform(0.1, 1.0)
