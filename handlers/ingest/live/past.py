"""What a live source asks of the time before its stream: closed bars, then trades up to now, and a `joined` line behind them.

Everything runs on the source's loop, and every answer is a line of it, so that `joining` finds the same in a session and its capture.
What was begun when a connection ends is begun again on the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from handlers.ingest.live import rest
from handlers.ingest.venues.own_lines import OwnLine, write
from handlers.ingest.venues.protocol import NO_JSON
from handlers.ingest.venues.stream import BARS_MAX, MINUTE_MS
from transport.clock import wall_ns

if TYPE_CHECKING:
    from handlers.ingest.live.source import LiveSource

PAGES_MAX = 200  # answers of 1,000 trades before the line is told of a hole, which asks on from there
REQUESTS_MAX = 5  # for one address, backing off, before it is told that it fails
AGAIN_S = 1.0  # between two askings for the same hole
BACK_MS = 1000  # asked again before the last trade known: a sum of trades bears the time of its first
NS_PER_MS = 10**6
UNREADABLE = 1  # code of a `joined` line behind an answer that is not what was asked for; others are HTTP's, or 2 for none
NO_ANSWER = 2


class Past:
    """The symbols whose past is asked for, and from when."""

    def __init__(self, source: LiveSource, append: Callable[[bytes], None]) -> None:
        """`append` stamps a line of `source` and lets it wait."""
        self.source, self._append = source, append
        self._since_ms: dict[str, int] = {}
        self._bars: set[str] = set()  # which begin with bars
        self._pending: dict[str, int] = {}  # symbol -> attempts, of those not told yet
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def expect(self, symbol: str, since_ms: int, own: OwnLine, bars: bool = False) -> None:
        """Before the start: the line knows of `symbol` what `own` says, and its past is wanted from `since_ms` on, with bars first."""
        self._since_ms[symbol], self._pending[symbol] = since_ms, 0
        if bars:
            self._bars.add(symbol)
        self._append(write(own))

    def ask(self, symbol: str, after_ns: int) -> None:
        """From any thread: trades after `after_ns` are missing; 0: all."""
        self.source.in_loop(self._ask, symbol, after_ns)

    def begin(self) -> None:
        """A connection stands and has subscribed: what comes from now on is live."""
        for symbol in self._pending:
            self._start(symbol)

    def leave(self) -> list[asyncio.Task[Any]]:
        """The connection ends: the tasks to end with it."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        return tasks

    def _ask(self, symbol: str, after_ns: int) -> None:
        if after_ns:
            self._since_ms[symbol] = after_ns // NS_PER_MS - BACK_MS
        self._pending[symbol] = self._pending.get(symbol, 0) + 1
        if self.source.connected:  # else the next connection begins with it
            self._start(symbol)

    def _start(self, symbol: str) -> None:
        task = self._tasks.get(symbol)
        if task is None or task.done():
            self._tasks[symbol] = asyncio.create_task(self._tell(symbol))
            self._tasks[symbol].add_done_callback(self.source.look_at_task)

    async def _tell(self, symbol: str) -> None:
        """Have all of a symbol's past, then say so."""
        attempt = self._pending[symbol]
        if attempt:
            await asyncio.sleep(AGAIN_S)
        code = await self._fetch(symbol)
        self._pending.pop(symbol, None)
        self._tasks.pop(symbol, None)
        self._append(write(OwnLine("joined", symbol=symbol, attempt=attempt + 1, code=code)))

    async def _fetch(self, symbol: str) -> int:
        """0, or the code of what went wrong."""
        stream = self.source.stream
        if symbol in self._bars:
            now_ms = wall_ns() // NS_PER_MS // MINUTE_MS * MINUTE_MS
            while self._since_ms[symbol] < now_ms:
                end_ms = min(self._since_ms[symbol] + BARS_MAX * MINUTE_MS, now_ms)
                answer = await self._get(stream.bars_url(symbol, self._since_ms[symbol], end_ms))
                if answer.status != 200:
                    return answer.status or NO_ANSWER
                self._since_ms[symbol] = end_ms
            self._bars.discard(symbol)
        url, pages = stream.trades_url(symbol, self._since_ms[symbol]), 0
        while url and pages < PAGES_MAX:
            pages += 1
            answer = await self._get(url)
            if answer.status != 200:
                return answer.status or NO_ANSWER
            try:
                url = stream.more_trades_url(symbol, answer.body)
            except NO_JSON:
                return UNREADABLE
        return 0

    async def _get(self, url: str) -> rest.Answer:
        """The answer, asked for a few times."""
        spacing_s = self.source.stream.past_spacing_s
        for attempt in range(1, REQUESTS_MAX):
            kept, answer = await self.source.request(url, spacing_s)
            if kept or (400 <= answer.status < 500 and answer.status not in rest.LIMITED):
                return answer
            await asyncio.sleep(rest.back_off_s(attempt))
        kept, answer = await self.source.request(url, spacing_s)
        return answer if kept or answer.status != 200 else answer._replace(status=0)
