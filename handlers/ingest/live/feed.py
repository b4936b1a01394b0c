"""A live source as a feed: the lines it takes, decoded by the code that decodes captures, and written to a capture as they are taken."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from handlers.domain.reasons import CONNECTION_LOST
from handlers.ingest.errors import FeedError
from handlers.ingest.feed import YEAR_2000_NS, YEAR_2100_NS, Rows, split_at_events
from handlers.ingest.venues.binance import BinanceStream
from handlers.ingest.venues.capture import BATCH_LINES, CaptureFeed
from handlers.ingest.venues.capture_lines import Nanoseconds
from handlers.ingest.venues.coinbase import CoinbaseStream
from handlers.ingest.venues.kraken import KrakenStream
from handlers.ingest.live.source import LiveSource
from handlers.ingest.venues.okx import OkxStream
from handlers.ingest.venues.own_lines import OwnLine
from handlers.ingest.live.past import BACK_MS
from handlers.ingest.venues.protocol import MS, Refused
from handlers.ingest.venues.stream import Stream
from handlers.ingest.venues.survey import Survey, is_countable
from transport.clock import wall_ns
from transport.errors import StorageError
from transport.instruments import Instrument
from transport.records import empty

STREAMS: tuple[type[Stream], ...] = (BinanceStream, OkxStream, KrakenStream, CoinbaseStream)
SYMBOLS_MAX = 100  # of one connection; Binance takes 1,024 streams, three a symbol
BOOK_LATE_S = 15.0  # after which a book that has not come is asked for again: an answer may have been no book, or a request unheard
LATE_LOOK_S = 1.0


def stream_of(market: str, symbols: Sequence[str], ws_url: str = "", rest_url: str = "") -> Stream:
    """The stream of a market by its name; raises FeedError in words."""
    for stream in STREAMS:
        if market in stream.markets:
            if not symbols or len(symbols) > SYMBOLS_MAX or len(set(symbols)) < len(symbols):
                raise FeedError(f"{market}: a connection takes 1 to {SYMBOLS_MAX} symbols, each once")
            for url, schemes in ((ws_url, ("ws", "wss")), (rest_url, ("http", "https"))):
                if url and not _is_address(url, schemes):
                    raise FeedError(f"{url!r} is no address that begins with {' or '.join(s + '://' for s in schemes)}")
            return stream(market, symbols, ws_url, rest_url)
    known = ", ".join(m for stream in STREAMS for m in stream.markets)
    raise FeedError(f"no live venue {market!r}; there are {known}")


def _is_address(url: str, schemes: Sequence[str]) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


class CaptureWriter:
    """A capture as it grows: `<receive ns> <body>` a line, gzip where the name ends in .gz; `flush` gives it to the system."""

    def __init__(self, path: Path) -> None:
        """Raises FeedError where there is a file already, or none can be."""
        try:
            self._file: Any = gzip.open(path, "xb", 1) if path.suffix == ".gz" else path.open("xb")  # noqa: SIM115
        except OSError as error:
            raise FeedError(f"{path} cannot be written: {error.strerror or error}") from error
        self._path, self._begun = path, False

    def write(self, lines: Sequence[tuple[int, bytes]]) -> None:
        """Raises StorageError, as all here, where the disk takes no more."""
        self._begun = True
        with self._storing():
            self._file.write(b"".join(b"%d %b\n" % line for line in lines))

    def flush(self) -> None:
        with self._storing():
            self._file.flush()

    def close(self) -> None:
        """May be called twice; a capture that was not begun leaves no file behind, which would be in the next one's way."""
        with self._storing():
            self._file.close()
        if not self._begun:
            self._path.unlink(missing_ok=True)

    @contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(f"{self._path} cannot be written: {error.strerror or error}") from error


class LiveFeed(CaptureFeed):
    """One live connection, of the instruments the venue describes, or the configuration instead. `chunks` goes on until the source is stopped; an empty window says that nothing came, see `quiet_ns`."""

    kind: ClassVar[str] = "live"

    def __init__(
        self, source: LiveSource, capture: CaptureWriter | None, instruments: Sequence[Instrument] = (), stop: threading.Event | None = None
    ) -> None:
        """Asks the venue for its instruments, which blocks; raises FeedError where it does not know a symbol, or does not answer, or at `stop`."""
        stream = source.stream
        if not YEAR_2000_NS <= wall_ns() < YEAR_2100_NS:
            raise FeedError("this machine's clock is not set: no capture could bear its times")
        source.fetch_instruments(stop or threading.Event())
        self.source, self._capture = source, capture
        self._early = source.take(BATCH_LINES).lines  # what tells the instruments
        self.quiet_ns = 0
        self._history: Callable[[int], Iterator[Rows]] | None = None
        self._over_holes = False
        self._look_at = 0.0
        configured = {i.symbol: i for i in instruments if i.venue == stream.market}
        bare = [s for s in stream.symbols if configured and s not in configured]
        if bare:  # a replay of the capture takes the configuration's instruments alone
            raise FeedError(f"the configuration describes instruments of {stream.market}, but not {bare[0]}: describe all that are followed, or none")
        described = {symbol: configured.get(symbol, i) for symbol, i in self._described(stream).items()}
        super().__init__(stream.market, [Path(stream.market)], Nanoseconds(), Survey(stream.protocol(), stream.market, described), ())

    def _described(self, stream: Stream) -> dict[str, Instrument]:
        form, protocol = Nanoseconds(), stream.protocol()
        found: dict[str, Instrument] = {}
        for recv, body in self._early:
            try:
                described = protocol.instruments(form.split(b"%d %b" % (recv, body), recv))
                found |= {i.symbol: i for i in described if i.symbol in stream.symbols and i.venue == stream.market}
            except Refused:
                continue
            except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
                raise FeedError(f"{stream.market}: its description of instruments cannot be read: {error!r}") from error
        missing = [s for s in stream.symbols if s not in found]
        if missing:
            raise FeedError(f"{stream.market} has no symbol {missing[0]}")
        for symbol in stream.symbols:
            if not is_countable(found[symbol]):
                raise FeedError(f"{stream.market}: {symbol} is described with a tick, lot or size that nothing can be counted in")
        return {s: found[s] for s in stream.symbols}

    def warm(self, joins: Sequence[OwnLine], since_ms: int, history: Callable[[int], Iterator[Rows]] | None, over_holes: bool) -> None:
        """Before `chunks`: join each symbol to what its line says, after `history` (rows_max -> windows), which comes first.

        What no line knows a trade of begins with the venue's bars, and with its trades, from `since_ms` on. With `over_holes` what is
        missing in between does not end the feed.
        """
        self._history, self._over_holes = history, over_holes
        for own in joins:
            self.source.past.expect(own.symbol, own.time // MS - BACK_MS if own.last else since_ms, own, bars=history is None)

    def chunks(self, rows_max: int) -> Iterator[Rows]:
        self.restart()
        if self._history is not None:
            for rows in self._history(rows_max):
                yield rows
                if self.source.stop_asked:
                    break
        self._known_at = [time.monotonic()] * len(self.instruments)  # of each book, or when it was asked for again
        lines = self._early
        self.source.start()
        ended = False
        while not ended or lines:
            if lines:
                yield from self._take(lines, rows_max)
            else:
                yield empty(0)
            lines, self.quiet_ns, ended, _ = self.source.take(BATCH_LINES)
            self._ask_late()
        self._end()
        if self._capture is not None:
            self._capture.close()

    def _take(self, lines: list[tuple[int, bytes]], rows_max: int) -> Iterator[Rows]:
        """Write lines down, then decode them: what the line has seen is in the capture."""
        if self._capture is not None:
            self._capture.write(lines)
            self._capture.flush()
        first = self.lines
        self.lines += len(lines)
        times = np.array([recv for recv, _ in lines], np.int64)
        texts = [b"%d %b" % line for line in lines]
        for rows in self._decode(first, texts, times):
            yield from split_at_events(rows, rows_max)

    def ask_past(self, place: int, after_ns: int) -> None:
        self.source.past.ask(self.instruments[place].symbol, after_ns)

    def hole_stays(self, place: int, why: str) -> None:
        if not self._over_holes:
            name = self.instruments[place].name
            raise FeedError(f'{name} cannot be joined to its history: {why}; warmup.on_hole = "trade" goes on over the hole')

    def _ask_again(self, place: int, reason: int) -> None:
        if reason != CONNECTION_LOST:  # a new connection brings its books
            self.source.resync(self.instruments[place].symbol)

    def _ask_late(self) -> None:
        """Ask again for books that should have come by now."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LATE_LOOK_S
        for place, rule in enumerate(self._rules):
            if not rule.waiting:
                self._known_at[place] = now
            elif now - self._known_at[place] > BOOK_LATE_S:
                self._known_at[place] = now
                self.source.resync(self.instruments[place].symbol)

    def receive_times(self) -> NDArray[np.int64]:
        """None: what has come cannot be read a second time; its capture can."""
        return np.zeros(0, np.int64)
