"""A venue on the loopback: a websocket server that plays scripts, one a connection, and answers REST requests on the same port."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response


@dataclass
class Send:
    """Send a message; `happens`: what it tells has happened at the venue, else it is a fault of the way here."""

    text: str | bytes
    happens: bool = True


@dataclass
class Lose:
    """What a message tells happens, but nobody sends it."""

    text: str


@dataclass
class Refuse:
    """First and only step of a script: the handshake is answered so."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Pause:
    """Send nothing for a while."""

    seconds: float


@dataclass
class Await:
    """Wait until a message of the client fulfils `wanted`, then send what `answer` makes of it."""

    wanted: Callable[[str], bool]
    answer: Callable[[str], Sequence[str]] = lambda message: ()


@dataclass
class Call:
    """Call a function of the test, in the server's thread; what it returns is sent."""

    what: Callable[[], Sequence[str]]


@dataclass
class Abort:
    """Cut the connection without a word."""


@dataclass
class Close:
    """End the connection with a close code."""

    code: int = 1001


Step = Send | Lose | Refuse | Pause | Await | Call | Abort | Close


@dataclass
class Answer:
    """What a REST request is answered."""

    body: bytes | str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class VenueServer:
    """`scripts[k]` is played to the k-th connection, the last one to all further; after its script a connection stays open."""

    def __init__(
        self, scripts: Sequence[Sequence[Step]], rest: Callable[[str], Answer | None], happen: Callable[[str], None] = lambda text: None
    ) -> None:
        """`happen` is told what happens at the venue, before it is sent."""
        self.scripts, self.rest, self.happen = scripts, rest, happen
        self.sent: list[tuple[int, str | bytes]] = []  # (connection from 1, message)
        self.connections = 0
        self.requests: list[str] = []
        self.answers: list[tuple[int, bytes | None]] = []  # to each: (connections there had been, body), None until there is one
        self.heard: list[str] = []
        self.played = threading.Event()  # the last script has come to its end
        self.port = 0
        self._server: Server | None = None

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        if "Upgrade" in request.headers:
            first = next(iter(self.scripts[min(self.connections, len(self.scripts) - 1)]), None)
            if not isinstance(first, Refuse):
                return None
            self.connections += 1
            return Response(first.status, HTTPStatus(first.status).phrase, Headers({"Content-Length": "0", **first.headers}), b"")
        self.requests.append(request.path)
        place = len(self.answers)
        self.answers.append((self.connections, None))
        found = await asyncio.to_thread(self.rest, request.path)
        body = b"" if found is None else found.body.encode() if isinstance(found.body, str) else found.body
        self.answers[place] = (self.answers[place][0], body)
        if found is None:
            return connection.respond(HTTPStatus.NOT_FOUND, "no such path\n")
        headers = Headers({"Content-Length": str(len(body)), "Connection": "close", **found.headers})
        return Response(found.status, HTTPStatus(found.status).phrase if found.status != 418 else "I'm a teapot", headers, body)

    async def _play(self, connection: ServerConnection) -> None:
        number = min(self.connections, len(self.scripts) - 1)
        self.connections += 1
        ordinal = self.connections
        inbox: asyncio.Queue[str] = asyncio.Queue()

        async def hear() -> None:
            async for message in connection:
                self.heard.append(str(message))
                inbox.put_nowait(str(message))

        hearing = asyncio.create_task(hear())
        try:
            for step in self.scripts[number]:
                await self._do(step, connection, inbox, ordinal)
            if number == len(self.scripts) - 1:
                self.played.set()
            await hearing
        except ConnectionClosed:
            pass
        finally:
            hearing.cancel()

    async def _send(self, connection: ServerConnection, text: str | bytes, number: int) -> None:
        self.sent.append((number, text))
        await connection.send(text, text=True)

    async def _do(self, step: Step, connection: ServerConnection, inbox: asyncio.Queue[str], number: int) -> None:
        match step:
            case Send(text, happens):
                if happens:
                    self.happen(text if isinstance(text, str) else text.decode())
                await self._send(connection, text, number)
            case Lose(text):
                self.happen(text)
            case Pause(seconds):
                await asyncio.sleep(seconds)
            case Await(wanted, answer):
                while not wanted(message := await inbox.get()):
                    pass
                for text in answer(message):
                    await self._send(connection, text, number)
            case Call(what):
                for text in await asyncio.to_thread(what):
                    await self._send(connection, text, number)
            case Abort():
                connection.transport.abort()
            case Close(code):
                await connection.close(code)

    async def _serve(self, ready: threading.Event, done: asyncio.Event) -> None:
        async with serve(self._play, "127.0.0.1", 0, process_request=self._answer, ping_interval=None, close_timeout=0.2) as self._server:
            self.port = next(iter(self._server.sockets)).getsockname()[1]
            ready.set()
            await done.wait()
        left = asyncio.all_tasks() - {asyncio.current_task()}  # a handshake that is still being answered
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    @contextmanager
    def running(self) -> Iterator[VenueServer]:
        ready, loop = threading.Event(), asyncio.new_event_loop()
        done: asyncio.Event = asyncio.Event()
        thread = threading.Thread(target=loop.run_until_complete, args=(self._serve(ready, done),), daemon=True)
        thread.start()
        assert ready.wait(10)
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(done.set)
            thread.join(10)
            loop.close()


def json_messages(lines: Sequence[bytes]) -> list[str]:
    """The bodies of capture lines of either form."""
    return [line.partition(b" ")[2].decode() if line[:19].isdigit() else line.partition(b": ")[2].decode() for line in lines]


