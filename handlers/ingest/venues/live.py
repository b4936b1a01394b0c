"""A live websocket as a source of lines: connected, subscribed, kept alive and connected again, on a thread of its own.

    venue ══websocket══► LiveSource (asyncio on uvloop, own thread) ──► lines waiting (bounded) ──► take(): the line's thread
          ◄═REST═══════     │ connection lines, REST answers                 │                          ├─► capture file
                            └──────── resync(symbol) ◄───────────────────────┴── a book was lost ◄──────┴─► decoder

What is taken is exactly what a capture holds, line by line: receive time, body. So a live session is decoded by the code that decodes
captures, and its capture decodes to the session's own records. Nothing is lost silently: a connection's end, and messages dropped
because the line did not keep up, are lines among the others, and with them every book ends until a snapshot comes.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from typing import Any
from urllib.parse import urlsplit

from msgspec import Raw
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from handlers.ingest.errors import FeedError
from handlers.ingest.venues import rest
from handlers.ingest.venues.own_lines import OwnLine, write
from handlers.ingest.venues.past import Past
from handlers.ingest.venues.stream import Stream
from transport.clock import wall_ns
from transport.records import CONNECT_FAILED, CONNECTED, CONNECTING, DISCONNECTED, OVERRUN, RESYNC, SUBSCRIBED

WAITING_MAX = 1 << 16  # lines that wait to be decoded: some seconds of the busiest market
WAITING_BYTES_MAX = 1 << 28
MESSAGE_BYTES_MAX = 1 << 24
OPEN_TIMEOUT_S = 10.0
STABLE_S = 60.0  # a connection that stood so long is no failed attempt
REST_SPACING_S = 0.1  # between two requests: ten a second stay below every venue's limit
RESYNC_SPACING_S = 1.0  # between two requests for the same book
STOP_TIMEOUT_S = 10.0
INSTRUMENT_ATTEMPTS = 5

Line = tuple[int, bytes]  # receive time in ns, body


class LiveSource:
    """One connection, kept up until `stop`; `take` hands out what came, `resync` asks for a symbol's book anew.

    `stream` says where and what. All methods may be called from any thread. `woken` is set when there is something to take.
    """

    def __init__(self, stream: Stream, woken: threading.Event | None = None) -> None:
        self.stream = stream
        self.woken = woken or threading.Event()
        self._lock = threading.Lock()
        self._lines: deque[Line] = deque()
        self._bytes = 0
        self._last_ns = 0
        self._lost = 0  # messages dropped since the last line said so
        self._connection = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self.stop_asked = False
        self._ended = False
        self._waiting: dict[str, asyncio.Task[None]] = {}  # symbol -> its book on the way
        self._asked: dict[str, float] = {}
        self._rest_free: asyncio.Lock | None = None
        self._socket: ClientConnection | None = None
        self._heard = 0.0
        self.past = Past(self, self._append)
        self.failure: BaseException | None = None
        self._append(write(OwnLine("capture", venue=stream.market, symbols=list(stream.symbols))))

    # --- the line's side ----------------------------------------------------------------------------------------------

    def take(self, lines_max: int) -> tuple[list[Line], int, bool]:
        """(lines, time before which no further line will be stamped, whether none will ever come).

        Raises the error that ended the source's thread, a bug.
        """
        with self._lock:
            if self._lost and len(self._lines) < WAITING_MAX // 2:
                self._say_lost()
            taken = [self._lines.popleft() for _ in range(min(lines_max, len(self._lines)))]
            self._bytes -= sum(len(body) for _, body in taken)
            self._last_ns = max(self._last_ns, wall_ns())
            until = self._lines[0][0] if self._lines else self._last_ns
            ended = self._ended and not self._lines
        if ended and self.failure is not None:
            raise self.failure
        return taken, until, ended

    def start(self) -> None:
        """Connect, on a thread of its own; a second call does nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"feed {self.stream.market}", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Close the connection and wait for the thread's end; what came until then can still be taken."""
        self.stop_asked = True
        thread, loop, stopping = self._thread, self._loop, self._stopping
        if thread is None:
            self._ended = True
            return
        if loop is not None and stopping is not None and not loop.is_closed():
            with suppress(RuntimeError):  # it closed in between
                loop.call_soon_threadsafe(stopping.set)
        thread.join(STOP_TIMEOUT_S)

    def in_loop(self, what: Callable[..., object], *args: object) -> None:
        """Have `what` called on the connection's thread, if it is there."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(what, *args)

    def resync(self, symbol: str) -> None:
        """Ask for the symbol's book anew, unless it is on its way."""
        self.in_loop(self._begin_book, symbol)

    def fetch_instruments(self) -> None:
        """Ask for the symbols' descriptions and keep the answers as lines; blocks; raises FeedError when they cannot be had."""
        for url in self.stream.instrument_urls():
            for attempt in range(1, INSTRUMENT_ATTEMPTS + 1):
                answer = rest.get(url)
                if self._keep_answer(url, answer):
                    break
                if attempt == INSTRUMENT_ATTEMPTS or (400 <= answer.status < 500 and answer.status not in rest.LIMITED):
                    what = f"status {answer.status}" if answer.status else answer.body.decode(errors="replace")
                    raise FeedError(f"{self.stream.market}: {url} does not answer ({what}) after {attempt} attempts")
                time.sleep(answer.after_s or rest.back_off_s(attempt))

    @property
    def connected(self) -> bool:
        """A connection stands."""
        return self._socket is not None

    # --- lines --------------------------------------------------------------------------------------------------------

    def _append(self, body: bytes, droppable: bool = False) -> None:
        """Stamp a line and let it wait; a message of the venue for which there is no room is counted as lost."""
        with self._lock:
            self._last_ns = max(self._last_ns, wall_ns())
            if droppable and (self._lost or len(self._lines) >= WAITING_MAX or self._bytes + len(body) > WAITING_BYTES_MAX):
                self._lost += 1
                return
            self._lines.append((self._last_ns, body))
            self._bytes += len(body)
        self.woken.set()

    def _say_lost(self) -> None:
        """The lock is held: a line that says how many messages were dropped; every book is asked for anew."""
        lost, self._lost = self._lost, 0
        own = OwnLine("connection", action=OVERRUN, connection=self._connection, lost=lost)
        self._last_ns = max(self._last_ns, wall_ns())
        self._lines.append((self._last_ns, write(own)))
        if self._loop is not None and not self._loop.is_closed():
            for symbol in self.stream.symbols:
                self._loop.call_soon_threadsafe(self._begin_book, symbol)

    def _tell(self, action: int, attempt: int = 0, code: int = 0, symbol: str = "") -> None:
        self._append(write(OwnLine("connection", action=action, connection=self._connection, attempt=attempt, code=code, symbol=symbol)))

    def _keep_answer(self, url: str, answer: rest.Answer) -> bool:
        """Keep a good answer as a line; whether it was one."""
        if answer.status != 200:
            return False
        try:
            json.loads(answer.body)
        except (ValueError, RecursionError):
            return False
        self._append(write(OwnLine("rest", url=url, status=200, body=Raw(_one_line(answer.body)))))
        return True

    # --- the connection's thread --------------------------------------------------------------------------------------

    def _work(self) -> None:
        import uvloop

        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._keep_up())
        except BaseException as error:  # told to whoever takes the last line
            self.failure = error
        finally:
            with self._lock:
                self._ended = True
            self.woken.set()

    async def _keep_up(self) -> None:
        """Connect, and connect again, until `stop`."""
        self._loop, self._stopping, self._rest_free = asyncio.get_running_loop(), asyncio.Event(), asyncio.Lock()
        failed = 0
        while not self._stopping.is_set() and not self.stop_asked:
            began = time.monotonic()
            stood = await self._connect_once(failed + 1)
            failed = 1 if stood and time.monotonic() - began >= STABLE_S else failed + 1
            await self._pause(rest.back_off_s(failed))

    async def _pause(self, seconds: float) -> None:
        assert self._stopping is not None
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _connect_once(self, attempt: int) -> bool:
        """One connection's whole life; whether it stood at all."""
        self._connection += 1
        self._tell(CONNECTING, attempt)
        url = self.stream.url()
        direct: dict[str, Any] = {"proxy": None} if urlsplit(url).hostname in rest.LOOPBACK else {}
        try:
            socket = await connect(url, open_timeout=OPEN_TIMEOUT_S, max_size=MESSAGE_BYTES_MAX, max_queue=1024, **direct)
        except InvalidStatus as refused:
            self._tell(CONNECT_FAILED, attempt, refused.response.status_code)
            await self._pause(rest.retry_after(refused.response.headers.get("Retry-After", ""), refused.response.status_code))
            return False
        except (OSError, WebSocketException, TimeoutError, ValueError):
            self._tell(CONNECT_FAILED, attempt)
            return False
        self._tell(CONNECTED, attempt)
        await self._follow(socket, attempt)
        return True

    async def _follow(self, socket: ClientConnection, attempt: int) -> None:
        """Subscribe, write down what comes, and tell the end."""
        assert self._stopping is not None
        self._socket, self._heard = socket, time.monotonic()
        tasks = [asyncio.create_task(c) for c in (self._listen(socket, attempt), self._watch(socket), self._stopping.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._socket = None
            books = list(self._waiting.values())
            self._waiting.clear()
            self._asked.clear()
            await _end([*tasks, *books, *self.past.leave()])
            await _end([asyncio.create_task(socket.close())], timeout_s=2.0)
            self._tell(DISCONNECTED, attempt, socket.close_code or 0)

    async def _listen(self, socket: ClientConnection, attempt: int) -> None:
        try:
            for message in self.stream.greetings():
                await socket.send(message)
            self._tell(SUBSCRIBED, attempt)
            for symbol in self.stream.symbols:
                if self.stream.book_url(symbol):
                    self._begin_book(symbol)
            self.past.begin()
            while True:
                message_bytes = await socket.recv(decode=False)
                self._heard = time.monotonic()
                if not self.stream.is_pong(message_bytes):
                    self._append(_one_line(message_bytes), droppable=True)
        except ConnectionClosed:
            return

    async def _watch(self, socket: ClientConnection) -> None:
        """Return, which closes the connection, when nothing was heard for `idle_s`; say the venue's own ping meanwhile."""
        pinged = time.monotonic()
        while time.monotonic() - self._heard < self.stream.idle_s:
            await asyncio.sleep(min(1.0, self.stream.idle_s / 10))
            if self.stream.ping_s and time.monotonic() - pinged >= self.stream.ping_s:
                pinged = time.monotonic()
                try:
                    await socket.send(self.stream.ping())
                except ConnectionClosed:
                    return

    # --- books --------------------------------------------------------------------------------------------------------

    def _begin_book(self, symbol: str) -> None:
        """In the loop: have the symbol's book on its way, once."""
        task = self._waiting.get(symbol)
        if self._socket is None or (task is not None and not task.done()):
            return
        self._waiting[symbol] = asyncio.create_task(self._fetch_book(symbol, self._socket))

    async def _fetch_book(self, symbol: str, socket: ClientConnection) -> None:
        """Ask until the book has come, or the connection ends, which cancels this."""
        wait = self._asked.get(symbol, 0.0) + RESYNC_SPACING_S - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        self._asked[symbol] = time.monotonic()
        url = self.stream.book_url(symbol)
        if not url:
            self._tell(RESYNC, 1, 0, symbol)
            try:
                for message in self.stream.book_messages(symbol):
                    await socket.send(message)
            except ConnectionClosed:
                pass
            return
        attempt = 0
        while True:
            attempt += 1
            kept, answer = await self.request(url)
            self._tell(RESYNC, attempt, answer.status, symbol)
            if kept:
                return
            await asyncio.sleep(rest.back_off_s(attempt))

    async def request(self, url: str, spacing_s: float = 0.0) -> tuple[bool, rest.Answer]:
        """(whether it is good, and so among the lines, answer) of a request: one at a time, spaced."""
        assert self._rest_free is not None
        async with self._rest_free:
            answer = await asyncio.to_thread(rest.get, url)
            kept = self._keep_answer(url, answer)
            await asyncio.sleep(answer.after_s or max(spacing_s, REST_SPACING_S))
        return kept, answer


def _one_line(body: bytes) -> bytes:
    """JSON on one line: between its tokens it may have line breaks, within a text it may not."""
    return body.replace(b"\r", b" ").replace(b"\n", b" ") if b"\n" in body or b"\r" in body else body


async def _end(tasks: list[asyncio.Task[Any]], timeout_s: float = 0.0) -> None:
    """Let tasks end within `timeout_s`, else cancel them; errors of the network end with them."""
    if tasks and timeout_s:
        await asyncio.wait(tasks, timeout=timeout_s)
    for task in tasks:
        task.cancel()
    for done in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(done, Exception) and not isinstance(done, OSError | WebSocketException | TimeoutError):
            raise done

