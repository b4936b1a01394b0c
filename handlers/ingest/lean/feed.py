"""QuantConnect Lean's data files as a feed: an equity's trade and quote ticks and bars, a currency pair's quotes and quote bars.

A source is any number of zips of one market. Those of one symbol, resolution and kind follow each other by day as one stream; the
streams are merged by time, at equal times bars first, which are of what is past, then quotes, then trades.

The files have the venue's time alone, as a local clock shows it: New York's for equities, at UTC-05 the year round for FXCM, UTC for
Oanda. There is no receive time, so `ts_recv_ns` is `ts_event_ns`: a replay has no latency on its way in. A bar bears the time at
which it closed. `origin` is the file's place in the feed times 2**32 plus the line. Sources: Lean, Data/equity/readme.md and
Data/forex/readme.md; the time zones of its Data/market-hours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from handlers.domain.reasons import DOC, TRUNCATED, UNKNOWN_SYMBOL, UNREADABLE
from handlers.ingest.clocks import read_clocks, zone_table
from handlers.ingest.errors import FeedError, NotAFeedError, TruncatedError
from handlers.ingest.feed import Feed, Rows, choose_instruments, split_at_events
from handlers.ingest.jumps import NO_TIME
from handlers.ingest.lean.files import (
    EQUITY, HEAD_BYTES, NO_DAY, QUOTES, TICK, TRADES, LeanFile, describe_file, read_lines, read_whole,
)  # fmt: skip
from handlers.ingest.lean.text import scan_lines
from handlers.ingest.lean.rows import (
    KEEP, NANO_DIGITS, Block, Decoded, Grid, Quoted, decode_bars, decode_quotes, decode_trades, grid_of, ordered,
)  # fmt: skip
from transport.compiled import load
from transport.instruments import Instrument
from transport.records import EVENT_END, REC, empty

FILE_AT = 32  # bit of `origin` from which the file's place stands
NEVER = 2**63 - 1
HELD_BLOCKS_MAX = 64  # of a stream that shows one time only; beyond that the merge goes on without its next line
EQUITY_TICK = Decimal("0.0001")  # the format's own grid; shares trade at fractions of a cent off the exchanges


class LeanFeed(Feed):
    """One or more of Lean's zips; raises FeedError from the constructor if they are none, or of several markets."""

    def __init__(self, name: str, paths: Sequence[Path], instruments: Sequence[Instrument], crossed: str = KEEP) -> None:
        """`crossed` is what to do with a quote tick whose bid is above its ask: KEEP, DROP, or DROP_LOCKED at it as well."""
        load(scan_lines, read_clocks)
        self.paths = list(paths)
        self.files = [describe_file(path) for path in self.paths]
        for file in self.files:
            _clock_known(file)
        markets = sorted({f.market for f in self.files})
        if len(markets) > 1:
            raise NotAFeedError(f"{self.paths[0].name} and the files with it are of {' and '.join(markets)}; name them as several feeds")
        shown = list(dict.fromkeys(f.symbol for f in self.files))
        super().__init__(name, choose_instruments(instruments, markets[0], shown, self._infer, self.paths[0].name))
        self._crossed = crossed
        self._grids = {i.symbol: grid_of(i) for i in self.instruments}
        self._places = {i.symbol: place for place, i in enumerate(self.instruments)}

    def chunks(self, rows_max: int) -> Iterator[Rows]:
        self.restart()
        for rows in merged([self._stream(files) for files in self._streams()]):
            self.messages += int(np.count_nonzero(rows["flags"] & EVENT_END))
            yield from split_at_events(rows, rows_max)

    def receive_times(self) -> NDArray[np.int64]:
        times = [np.empty(0, np.int64)]
        for file in self.files:
            try:
                last = np.zeros(1, np.int64)
                texts = [read_whole(file.path)] if file.day == NO_DAY else (text for text, _ in read_lines(file.path))
                for text in texts:
                    found = Block(file, text, last).ts_ns
                    times.append(np.where(found > 0, found, NO_TIME))
            except FeedError:
                continue  # counted and told by `chunks`
        return np.concatenate(times)

    def _infer(self, symbol: str) -> Instrument:
        files = [f for f in self.files if f.symbol == symbol]
        market = files[0].market
        if files[0].asset == EQUITY:
            return Instrument(symbol, market, EQUITY_TICK, Decimal(1), "USD")
        decimals = min(NANO_DIGITS, max(_decimals(f) for f in files))  # what is finer is off the grid, and counted
        return Instrument(symbol, market, Decimal(1).scaleb(-decimals), Decimal(1), symbol[3:] if len(symbol) == 6 else "USD")

    def _streams(self) -> list[list[tuple[int, LeanFile]]]:
        """The files, with their places in the feed, of each stream; streams in the order in which they come at equal times."""
        found: dict[tuple[bool, bool, str, str], list[tuple[int, LeanFile]]] = {}
        for place, file in enumerate(self.files):
            if file.symbol not in self._grids:
                self.count(UNKNOWN_SYMBOL, f"{file.path.name}: {file.symbol} is not in the instrument table")
                continue
            key = (file.resolution == TICK, file.what == TRADES, file.resolution, file.symbol)
            found.setdefault(key, []).append((place, file))
        return [sorted(found[key], key=lambda of: (of[1].day, of[0])) for key in sorted(found)]

    def _stream(self, files: list[tuple[int, LeanFile]]) -> Iterator[Rows]:
        """Rows of a stream, block after block; none is empty."""
        for place, file in files:
            number = self._places[file.symbol]
            for rows in self._decoded(file, place << FILE_AT):
                rows["instrument_id"], rows["source_id"] = self.ids[number], self.source_id
                if len(rows):
                    yield rows

    def _decoded(self, file: LeanFile, first: int) -> Iterator[Rows]:
        """Rows of a file; its line k has origin `first` + k."""
        grid, line = self._grids[file.symbol], 0
        try:
            for decoded in self._blocks(file, grid, first):
                self._count_refused(file, decoded.reasons, line)
                line += len(decoded.reasons)
                self.lines += len(decoded.reasons)
                yield decoded.rows
        except FeedError as error:
            self.count(TRUNCATED if isinstance(error, TruncatedError) else UNREADABLE, str(error))

    def _blocks(self, file: LeanFile, grid: Grid, first: int) -> Iterator[Decoded]:
        last = np.zeros(1, np.int64)  # UTC ns of the line before
        if file.day == NO_DAY:
            text = read_whole(file.path)
            if text:
                yield decode_bars(file, grid, text, last)
            return
        quoted = Quoted()
        for text, behind in read_lines(file.path):
            if file.resolution != TICK:
                decoded = decode_bars(file, grid, text, last)
            elif file.what == QUOTES:
                decoded, quoted = decode_quotes(file, grid, text, behind, first, quoted, self._crossed, last)
            else:
                decoded = decode_trades(file, grid, text, first, last)
            first += len(decoded.reasons)
            yield decoded

    def _count_refused(self, file: LeanFile, reasons: NDArray[np.int64], line: int) -> None:
        for reason in np.unique(reasons[reasons > 0]).tolist():
            which = reasons == reason
            offender = f"{file.path.name}: line {line + int(which.argmax()) + 1}: {DOC[reason]}"
            self.count(reason, offender, int(which.sum()))


def _clock_known(file: LeanFile) -> None:
    """Raises FeedError where the system does not know the clock of the file's market."""
    try:
        zone_table(file.zone)
    except KeyError as error:
        raise FeedError(f"{file.path.name}: {error.args[0]}") from error


def _decimals(file: LeanFile) -> int:
    """The most decimals that a price in the first lines of a file has."""
    try:
        head = next(read_lines(file.path))[0][:HEAD_BYTES]
    except (FeedError, StopIteration):
        return 0
    fields = [field for line in head.split(b"\n")[:-1] for field in line.split(b",")[1:]]
    return max((len(field.rstrip(b"\r").partition(b".")[2]) for field in fields), default=0)


class Waiting:
    """The rows of a stream that the merge has not given out yet, with times that never go back."""

    def __init__(self, stream: Iterator[Rows]) -> None:
        self.stream = stream
        self.rows = empty(0)
        self.times = np.empty(0, np.int64)
        self.ended = False
        self.blocks = 0  # in `rows`

    def read(self) -> None:
        """Put the stream's next block behind what waits."""
        block = next(self.stream, None)
        if block is None:
            self.ended = True
            return
        before = self.times[-1] if len(self.times) else 0
        times = np.maximum(np.maximum.accumulate(block["ts_event_ns"]), before)
        self.rows = _joined(self.rows, block) if len(self.rows) else block
        self.times = np.append(self.times, times)
        self.blocks += 1

    def take(self, before: int) -> tuple[Rows, NDArray[np.int64]]:
        """The rows with a time below `before`; they no longer wait."""
        cut = int(np.searchsorted(self.times, before))
        rows, times = self.rows[:cut], self.times[:cut]
        self.rows, self.times = self.rows[cut:], self.times[cut:]
        if not len(self.rows):
            self.blocks = 0
        return rows, times


def merged(streams: Sequence[Iterator[Rows]]) -> Iterator[Rows]:
    """The rows of all streams by time, at equal times the earlier stream's first; a stream's own order stays."""
    waiting = [Waiting(s) for s in streams]
    while True:
        for w in waiting:
            while not w.ended and not len(w.rows):
                w.read()
        going_on = [w for w in waiting if not w.ended]
        limit = min((int(w.times[-1]) for w in going_on), default=NEVER)
        limit += any(w.blocks > HELD_BLOCKS_MAX for w in going_on)
        taken = [part for part in (w.take(limit) for w in waiting) if len(part[0])]
        if len(taken) == 1:
            yield taken[0][0]
        elif taken:
            yield ordered([rows for rows, _ in taken], np.concatenate([times for _, times in taken]))
        elif going_on:
            min(going_on, key=lambda w: int(w.times[-1])).read()
        else:
            return


def _joined(first: Rows, second: Rows) -> Rows:
    return np.concatenate((first.view(np.uint8), second.view(np.uint8))).view(REC)


