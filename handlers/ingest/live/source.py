"""A live websocket as a source of lines: connected, subscribed, kept alive and connected again, on a thread of its own.

    venue ══websocket══► LiveSource (asyncio on uvloop, own thread) ──► WaitingLines ──► take(): the line's thread
          ◄═REST═══════     │ connection lines, REST answers             (bounded)        ├─► capture file
                            └──────── resync(symbol) ◄──────── a book was lost ◄──────────┴─► decoder

What is taken is exactly what a capture holds, line by line: receive time, body. So a live session is decoded by the code that decodes
captures, and its capture decodes to the session's own records. Nothing is lost silently: a connection's end, and messages dropped
because the line did not keep up, are lines among the others, and with them every book ends until a snapshot comes.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Raw
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from handlers.ingest.errors import FeedError
from handlers.ingest.live import rest
from handlers.ingest.live.lines import Taken, WaitingLines
from handlers.ingest.venues.own_lines import MARK, OwnLine, write
from handlers.ingest.live.past import Past
from handlers.ingest.venues.protocol import NO_JSON
from handlers.ingest.venues.stream import Stream
from transport.records import CONNECT_FAILED, CONNECTED, CONNECTING, DISCONNECTED, OVERRUN, RESYNC, SUBSCRIBED

MESSAGE_BYTES_MAX = 1 << 24  # a longer one ends the connection with code 1009
OPEN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 2.0  # for the venue's answer to our close; then the connection is cut
STABLE_S = 60.0  # a connection that stood so long is no failed attempt, nor a book
REST_SPACING_S = 0.1  # between two requests: ten a second stay below every venue's limit
RESYNC_SPACING_S = 1.0  # between two requests for the same book; doubled by each that is soon followed by another
RESYNC_LONGEST_S = 60.0  # a book that breaks each time: OKX takes 480 subscriptions an hour, Binance some 100 books a minute
STOP_TIMEOUT_S = 10.0
INSTRUMENT_ATTEMPTS = 5
NORMAL, ABNORMAL = 1000, 1006  # close codes
NETWORK = (OSError, WebSocketException, TimeoutError)  # what a connection may end with
T = TypeVar("T")


class LiveSource:
    """One connection, kept up until `stop`; `take` hands out what came, `resync` asks for a symbol's book anew.

    `stream` says where and what. All methods may be called from any thread. `woken` is set when there is something to take.
    """

    def __init__(self, stream: Stream, woken: threading.Event | None = None) -> None:
        self.stream = stream
        self.woken = woken or threading.Event()
        self.failure: BaseException | None = None  # a bug that ended the thread
        self._lines = WaitingLines(self._overrun, self.woken)
        self._connection = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._stop_asked = False
        self._told_end = False  # the last line was told after `stop`
        self._books: dict[str, asyncio.Task[None]] = {}  # symbol -> its book on the way
        self._asked: dict[str, tuple[float, float]] = {}  # symbol -> when last, seconds from then to the next
        self._rest_free: asyncio.Lock | None = None
        self._rest_from = 0.0  # no request before
        self._socket: ClientConnection | None = None
        self._fault: asyncio.Future[None] | None = None
        self._heard = 0.0
        self.past = Past(self, self._lines.put)
        self._lines.put(write(OwnLine("capture", venue=stream.market, symbols=list(stream.symbols))))

    # --- the line's side ----------------------------------------------------------------------------------------------

    def take(self, lines_max: int) -> Taken:
        """What waits, at most `lines_max` lines; raises the error that ended the source's thread, a bug."""
        taken = self._lines.take(lines_max)
        if taken.resumed:  # what was dropped may have been any book's
            for symbol in self.stream.symbols:
                self.resync(symbol)
        if taken.ended and not taken.lines and self.failure is not None:
            raise self.failure
        return taken

    def start(self) -> None:
        """Connect, on a thread of its own; a second call does nothing."""
        if self._thread is None and not self._stop_asked:
            self._thread = threading.Thread(target=self._work, name=f"feed {self.stream.market}", daemon=True)
            self._thread.start()

    def ask_to_stop(self) -> None:
        """Have the connection closed; what came until then can still be taken, up to the line that tells the end."""
        self._lines.close()
        self._stop_asked = True
        if self._thread is None:
            self._lines.end()
        elif self._stopping is not None:
            self.in_loop(self._stopping.set)

    def stop(self) -> None:
        """`ask_to_stop`, and wait for the thread's end."""
        self.ask_to_stop()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)

    @property
    def stop_asked(self) -> bool:
        return self._stop_asked

    @property
    def connected(self) -> bool:
        """A connection stands."""
        return self._socket is not None

    def resync(self, symbol: str) -> None:
        """Ask for the symbol's book anew, unless it is on its way; without a connection nothing is asked, a new one brings its books."""
        self.in_loop(self._begin_book, symbol)

    def in_loop(self, function: Any, *args: Any) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(function, *args)

    def fetch_instruments(self, stop: threading.Event) -> None:
        """Ask for the symbols' descriptions and keep the answers as lines; blocks; raises FeedError when they cannot be had, or at `stop`."""
        for url in self.stream.instrument_urls():
            for attempt in range(1, INSTRUMENT_ATTEMPTS + 1):
                answer = rest.get(url, stop)
                if answer.status == 200 and self._keep_answer(url, answer):
                    break
                after_s = answer.after_s or rest.back_off_s(attempt)
                last = attempt == INSTRUMENT_ATTEMPTS or (400 <= answer.status < 500 and answer.status not in rest.LIMITED)
                if last or stop.wait(after_s):
                    what = f"status {answer.status}" if answer.status else answer.body.decode(errors="replace")
                    raise FeedError(f"{self.stream.market}: {url} does not answer ({what}) after {attempt} attempts")

    # --- lines --------------------------------------------------------------------------------------------------------

    def _tell(self, action: int, attempt: int = 0, code: int = 0, symbol: str = "", lost: int = 0) -> None:
        self._told_end = self._stop_asked
        self._lines.put(self._own(action, attempt, code, symbol, lost))

    def _own(self, action: int, attempt: int = 0, code: int = 0, symbol: str = "", lost: int = 0) -> bytes:
        return write(OwnLine("connection", action=action, connection=self._connection, attempt=attempt, code=code, symbol=symbol, lost=lost))

    def _overrun(self, lost: int) -> bytes:
        return self._own(OVERRUN, lost=lost)

    def _keep_answer(self, url: str, answer: rest.Answer) -> bool:
        """Keep an answer as a line, if it is JSON, and there is room for it; whether it was."""
        try:
            msgspec.json.decode(answer.body)
        except NO_JSON:
            return False
        return self._lines.offer(write(OwnLine("rest", url=url, status=200, body=Raw(_one_line(answer.body)))))

    # --- the connection's thread --------------------------------------------------------------------------------------

    def _work(self) -> None:
        import uvloop

        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._keep_up())
        except BaseException as error:  # told to whoever takes the last line
            self.failure = error
        finally:
            self._lines.end()

    async def _keep_up(self) -> None:
        """Connect, and connect again, until `stop`."""
        self._loop, self._stopping, self._rest_free = asyncio.get_running_loop(), asyncio.Event(), asyncio.Lock()
        failed = 0
        while not self._stop_asked:
            began = time.monotonic()
            stood = await self._connect_once(failed + 1)
            failed = 1 if stood and time.monotonic() - began >= STABLE_S else failed + 1
            await self._pause(rest.back_off_s(failed))
        if not self._told_end:  # the last line is as late as the last time that was told, so that the capture tells it too
            self._tell(DISCONNECTED)
        self._lines.end()  # before the loop is closed, which waits for a name that is being looked up

    async def _pause(self, seconds: float) -> None:
        assert self._stopping is not None
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What `work` comes to; None where `stop` comes first, which ends it."""
        assert self._stopping is not None
        task, stopping = asyncio.create_task(work), asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            task.cancel()
            stopping.cancel()
            await asyncio.gather(task, stopping, return_exceptions=True)

    async def _connect_once(self, attempt: int) -> bool:
        """One connection's whole life; whether it stood at all."""
        self._connection += 1
        self._tell(CONNECTING, attempt)
        code, after_s = 0, 0.0
        try:
            socket = await self._unless_stopped(_open(self.stream.url()))
        except InvalidStatus as refused:
            socket, code = None, refused.response.status_code
            after_s = rest.retry_after(refused.response.headers.get("Retry-After", ""), code)
        except ImportError as error:  # a proxy of the environment that wants a package
            raise FeedError(f"{self.stream.market}: {error}") from error
        except (*NETWORK, ValueError):  # the last for an address that is none
            socket = None
        if socket is None:
            self._tell(CONNECT_FAILED, attempt, code)
            await self._pause(after_s)
            return False
        self._tell(CONNECTED, attempt)
        try:
            await self._follow(socket, attempt)
        finally:
            self._tell(DISCONNECTED, attempt, _close_code(socket))
        return True

    async def _follow(self, socket: ClientConnection, attempt: int) -> None:
        """Subscribe, and write down what comes, until it ends or is silent for too long, or `stop`."""
        assert self._stopping is not None
        self._socket, self._heard = socket, time.monotonic()
        self._fault = asyncio.get_running_loop().create_future()
        tasks: list[asyncio.Future[Any]] = [self._fault]
        tasks += [asyncio.create_task(c) for c in (self._listen(socket, attempt), self._watch(socket), self._stopping.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._socket = None
            books = list(self._books.values())
            self._books.clear()
            self._asked.clear()
            try:
                await _end([*tasks, *books, *self.past.leave()])
            finally:
                with suppress(*NETWORK):
                    await socket.close()

    async def _listen(self, socket: ClientConnection, attempt: int) -> None:
        with suppress(ConnectionClosed):
            for message in self.stream.greetings():
                await socket.send(message)
            self._tell(SUBSCRIBED, attempt)
            for symbol in self.stream.symbols:
                if self.stream.book_url(symbol):
                    self._begin_book(symbol)
            self.past.begin()
            while True:
                body = await socket.recv(decode=False)
                self._heard = time.monotonic()
                if not self.stream.is_pong(body):
                    self._lines.put(_venues(_one_line(body)), droppable=True)

    async def _watch(self, socket: ClientConnection) -> None:
        """Return, which closes the connection, when nothing was heard for `idle_s`; say the venue's own ping meanwhile."""
        pinged = time.monotonic()
        while time.monotonic() - self._heard < self.stream.idle_s:
            await asyncio.sleep(min(1.0, self.stream.idle_s / 10))
            if self.stream.ping_s and time.monotonic() - pinged >= self.stream.ping_s:
                pinged = time.monotonic()
                with suppress(ConnectionClosed):
                    await socket.send(self.stream.ping())

    # --- books --------------------------------------------------------------------------------------------------------

    def _begin_book(self, symbol: str) -> None:
        """In the loop: have the symbol's book on its way, once."""
        task = self._books.get(symbol)
        if self._socket is None or (task is not None and not task.done()):
            return
        self._books[symbol] = asyncio.create_task(self._fetch_book(symbol, self._socket))
        self._books[symbol].add_done_callback(self.look_at_task)

    def look_at_task(self, task: asyncio.Task[None]) -> None:
        """What a task that nobody waits for raised, a bug, ends the connection and with it the source."""
        error = None if task.cancelled() else task.exception()
        if error is not None and self._fault is not None and not self._fault.done():
            self._fault.set_exception(error)

    async def _fetch_book(self, symbol: str, socket: ClientConnection) -> None:
        """Ask until the book has come, or the connection ends, which cancels this."""
        asked, pause_s = self._asked.get(symbol, (-math.inf, RESYNC_SPACING_S))
        stood_s = time.monotonic() - asked
        pause_s = pause_s if stood_s < STABLE_S else RESYNC_SPACING_S
        await asyncio.sleep(pause_s - stood_s)
        again = min(2 * pause_s, RESYNC_LONGEST_S) if stood_s < STABLE_S else pause_s
        self._asked[symbol] = time.monotonic(), again
        url = self.stream.book_url(symbol)
        if url:
            await self._fetch_by_rest(symbol, url)
            return
        self._tell(RESYNC, 1, 0, symbol)
        with suppress(ConnectionClosed):
            for message in self.stream.book_messages(symbol):
                await socket.send(message)

    async def _fetch_by_rest(self, symbol: str, url: str) -> None:
        attempt = 0
        while True:
            attempt += 1
            answer = await self._request(url)
            self._tell(RESYNC, attempt, answer.status, symbol)
            if answer.status == 200 and self._keep_answer(url, answer):
                return  # without waiting for anything more: whom this book does not help asks for the next
            await asyncio.sleep(rest.back_off_s(attempt))

    async def _request(self, url: str, spacing_s: float = 0.0) -> rest.Answer:
        """The answer to a request: one at a time, spaced, none while the venue wants none."""
        assert self._rest_free is not None
        async with self._rest_free:
            await asyncio.sleep(self._rest_from - time.monotonic())
            self._rest_from = time.monotonic() + REST_SPACING_S
            answer = await _get(url)
            self._rest_from = time.monotonic() + max(answer.after_s, spacing_s, REST_SPACING_S)
        return answer

    async def request(self, url: str, spacing_s: float) -> tuple[bool, rest.Answer]:
        """(whether it is good, and so among the lines, answer) of a request for the past."""
        answer = await self._request(url, spacing_s)
        return answer.status == 200 and self._keep_answer(url, answer), answer


def _close_code(socket: ClientConnection) -> int:
    """Why a connection ended: what the venue said; where it said nothing (1006), what we told it was wrong, as a message too big."""
    sent = socket.protocol.close_sent
    if socket.close_code in (None, ABNORMAL) and sent is not None and sent.code != NORMAL:
        return int(sent.code)
    return int(socket.close_code or 0)


def _one_line(body: bytes) -> bytes:
    """JSON on one line: between its tokens it may have line breaks, within a text it may not."""
    return body.replace(b"\r", b" ").replace(b"\n", b" ") if b"\n" in body or b"\r" in body else body


def _venues(body: bytes) -> bytes:
    """A message that looks like a line of our own is told from one."""
    return b" " + body if body.startswith(MARK) else body


async def _open(url: str) -> ClientConnection:
    direct: dict[str, Any] = {"proxy": None} if urlsplit(url).hostname in rest.LOOPBACK else {}
    return await connect(
        url, open_timeout=OPEN_TIMEOUT_S, close_timeout=CLOSE_TIMEOUT_S, max_size=MESSAGE_BYTES_MAX, max_queue=1024, **direct
    )


async def _get(url: str) -> rest.Answer:
    """`rest.get` for the loop."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[rest.Answer] = loop.create_future()

    def done(answer: rest.Answer) -> None:
        with suppress(RuntimeError):  # nobody waits any more: the loop is closed
            loop.call_soon_threadsafe(_answer, answered, answer)

    request = rest.Request(url, done, MESSAGE_BYTES_MAX)  # a book or a page of trades has a hundredth
    request.start()
    try:
        async with asyncio.timeout(rest.WHOLE_S):
            return await answered
    except TimeoutError:
        return rest.Answer(0, b"the answer took too long")
    finally:
        request.cut()


def _answer(answered: asyncio.Future[rest.Answer], answer: rest.Answer) -> None:
    if not answered.done():
        answered.set_result(answer)


async def _end(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """End tasks; errors of the network end with them, others are raised."""
    for task in tasks:
        task.cancel()
    for done in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(done, Exception) and not isinstance(done, NETWORK):
            raise done
