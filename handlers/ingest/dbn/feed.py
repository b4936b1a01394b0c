"""Databento's files (DBN) of any schema and version as a feed: what the records become is in `layouts` and the decoders it names.

    blocks ─► lines: layout, receive time, origin ─► the rule for jumps ─► runs of whole events ─► a decoder for each layout ─► rows by origin

The files of a feed are of one dataset and one schema and follow one another; schemas are merged by receive time where they belong, by
INGEST, each being a feed of its own. A capture of a live session may hold records of several schemas; its metadata names none.
Source: Databento, DBN encoding and schemas (2024).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import databento_dbn as dbn
import msgspec
import numpy as np
from numpy.typing import NDArray

from handlers.domain.reasons import TRUNCATED, UNKNOWN_RECORD, UNREADABLE
from handlers.ingest.errors import FeedError, NotAFeedError, TruncatedError
from handlers.ingest.feed import Feed, Rows, choose_instruments, split_at_events
from handlers.ingest.jumps import JUMP_NS, NO_TIME, JumpRule, Times
from handlers.ingest.dbn import rows as dbn_rows
from handlers.ingest.dbn.decoding import F_LAST, F_SNAPSHOT, Decoding, Lines, received
from handlers.ingest.dbn.files import Bytes, layouts, present, read_metadata, read_records, unused, viewed
from handlers.ingest.dbn.grid import Grid, inferred, known_future, stated
from handlers.ingest.dbn.layouts import (
    BARS, DEFINITIONS, EVENTS, LAYOUTS, LEVELS, ORDERS, QUOTES, SAMPLED, SPARSE, SPARSE_JUMP_NS, STATUSES, TRADES,
    UNDEF_PRICE, WITHOUT_ROWS, Layout,
)  # fmt: skip
from handlers.ingest.dbn.mbo import OrdersDecoder
from handlers.ingest.dbn.mbp import LevelsDecoder
from handlers.ingest.dbn.symbols import Symbols, symbols_of
from transport.instruments import Instrument
from transport.records import SLOT_BYTES, empty

EVENT_BYTES_MAX = 1 << 28  # a longer event is decoded in parts, snapshots that follow one another one by one, so that memory is bounded
_ROWS_OF = {
    TRADES: dbn_rows.trades, QUOTES: dbn_rows.quotes, SAMPLED: dbn_rows.samples, BARS: dbn_rows.bars,
    STATUSES: dbn_rows.statuses, DEFINITIONS: dbn_rows.definitions,
}  # fmt: skip
_SLOT = f"V{SLOT_BYTES}"


class Run(NamedTuple):
    """Records that follow one another in the source, and of each:"""

    data: Bytes
    at: NDArray[np.int64]  # where it begins in `data`
    layout: NDArray[np.int64]  # place in LAYOUTS, or NO_LAYOUT
    file: NDArray[np.int64]  # place in the feed's `paths`
    origin: NDArray[np.int64]
    recv: Times  # receive ns, NO_TIME, JUMPED

    def part(self, which: slice | NDArray[np.bool_]) -> Run:
        return Run(self.data, *(column[which] for column in self[1:]))

    def join(self, behind: Run) -> Run:
        """Both, the bytes of the first from its first record on."""
        if not len(self.at) or not len(behind.at):
            return self if len(self.at) else behind
        data = self.data[self.at[0] :]
        moved = behind._replace(at=behind.at + len(data))
        mine = self._replace(at=self.at - self.at[0])
        return Run(np.concatenate((data, behind.data)), *map(np.concatenate, zip(mine[1:], moved[1:], strict=True)))


_NO_RUN = Run(np.empty(0, np.uint8), *(np.empty(0, np.int64) for _ in range(5)))


class DbnFeed(Feed):
    """One or more files of one dataset and schema; raises FeedError from the constructor if they are none.

    `known` are instruments that definitions elsewhere describe: their grids come before those that prices suggest.
    """

    def __init__(
        self, name: str, paths: Sequence[Path], instruments: Sequence[Instrument], known: Sequence[Instrument] = ()
    ) -> None:
        self.paths = list(paths)
        metadata = [read_metadata(path) for path in self.paths]
        self._schema = metadata[0].schema
        for what in ("dataset", "schema"):
            found = list(dict.fromkeys(str(getattr(m, what) or "mixed") for m in metadata))
            if len(found) > 1:
                raise NotAFeedError(
                    f"{self.paths[0].name} and the files with it are of different {what}s, {', '.join(found)}; name them as several feeds"
                )
        self._symbols = [self._table(path, m) for path, m in zip(self.paths, metadata, strict=True)]
        venue = metadata[0].dataset.partition(".")[0].lower()
        shown = list(dict.fromkeys(symbol for of in self._symbols for symbol in of.shown))
        self._stated = self._definitions(venue)
        self._known = {i.symbol: i for i in known if i.venue == venue} | self._stated
        chosen = choose_instruments(instruments, venue, shown, lambda s: self._infer(s, venue), self.paths[0].name) if shown else []
        self._grid = Grid(chosen)
        super().__init__(name, chosen)
        self.defined = tuple(self._stated.values())

    def _table(self, path: Path, metadata: dbn.Metadata) -> Symbols:
        return Symbols(path, ()) if metadata.schema in WITHOUT_ROWS else symbols_of(path, metadata)

    def restart(self) -> None:
        super().restart()
        self._feed_ns = NO_TIME  # greatest receive time decoded

    def chunks(self, rows_max: int) -> Iterator[Rows]:
        self.restart()
        decoding = Decoding(self.instruments, self._grid, self.ids, self.source_id, self.count)
        orders, levels = OrdersDecoder(decoding), LevelsDecoder(decoding)
        place_of = {i.symbol: place for place, i in enumerate(self.instruments)}
        file = 0
        for run, goes_on in self._events():
            if run.file[0] != file:
                file, orders.open[:] = int(run.file[0]), False
            yield from split_at_events(self._decode(run, goes_on, decoding, orders, levels, place_of), rows_max)

    def receive_times(self) -> NDArray[np.int64]:
        known = [np.empty(0, np.int64)]
        for path in self.paths:
            try:
                known.extend(recv for _, _, _, recv in self._timed(path))
            except FeedError:
                continue  # counted and told by `chunks`
        return np.maximum(self._rule().settle(np.concatenate(known), final=True), NO_TIME)

    def _rule(self) -> JumpRule:
        return JumpRule(SPARSE_JUMP_NS if self._schema in SPARSE else JUMP_NS)

    def _definitions(self, venue: str) -> dict[str, Instrument]:
        """Symbol -> the instrument that the first definition of it states; empty where the files hold none."""
        found: dict[str, Instrument] = {}
        if self._schema not in (dbn.Schema.DEFINITION, None):
            return found
        for symbols, path in zip(self._symbols, self.paths, strict=True):
            place_of = {symbol: place for place, symbol in enumerate(symbols.shown)}
            for records, recv, layout in self._records_quietly(path):
                if layout.decoder != DEFINITIONS:
                    continue
                places = symbols.places(records["instrument_id"], recv, place_of)
                for place, first in zip(*np.unique(places, return_index=True), strict=True):
                    symbol = symbols.shown[place]
                    instrument = stated(records[first], symbol, venue) if place >= 0 and symbol not in found else None
                    if instrument is not None:
                        found[symbol] = instrument
        return found

    def _infer(self, symbol: str, venue: str) -> Instrument:
        """From definitions, else from the table of roots, else from the prices of the first block that has any."""
        book = "l3" if self._schema in (dbn.Schema.MBO, None) else "l2"
        known = self._known.get(symbol) or known_future(symbol, venue, book)
        if known is not None:
            return msgspec.structs.replace(known, book=book)
        step = self._suggested.get(symbol, 0)
        return inferred(symbol, venue, np.array([step] if step else [], np.int64), book)

    @cached_property
    def _suggested(self) -> dict[str, int]:
        """Symbol -> greatest common divisor of its prices (1e-9) in the first block that has any."""
        found: dict[str, int] = {}
        for symbols, path in zip(self._symbols, self.paths, strict=True):
            wanted = {symbol: place for place, symbol in enumerate(symbols.shown) if symbol not in found}
            for records, recv, layout in self._records_quietly(path):
                if not wanted:
                    break
                steps = np.zeros(len(symbols.shown), np.int64)
                places = symbols.places(records["instrument_id"], recv, wanted)
                for name in layout.prices:
                    mine = (places >= 0) & (records[name] != UNDEF_PRICE)
                    np.gcd.at(steps, places[mine], records[name][mine])
                found |= {symbol: int(steps[place]) for symbol, place in wanted.items() if steps[place] > 0}
                wanted = {symbol: place for symbol, place in wanted.items() if symbol not in found}
        return found

    def _events(self) -> Iterator[tuple[Run, bool]]:
        """Runs of one file each that end with an event and outside a snapshot, or with the file; none is empty.

        With each, whether it had to be cut elsewhere, since it is too long: then a snapshot may go on in the next.
        """
        held = _NO_RUN
        for settled in self._settled():
            for file in np.unique(settled.file).tolist():
                if len(held.file) and held.file[0] != file:
                    yield held, False
                    held = _NO_RUN
                held = held.join(settled.part(settled.file == file))
                cut = _whole_events(held)
                if cut:
                    yield held.part(slice(cut)), _too_long(held)
                    held = held.part(slice(cut, None))
        if len(held.file):
            yield held, False

    def _settled(self) -> Iterator[Run]:
        """All records of the source, their receive times as the rule for jumps leaves them."""
        rule, rest = self._rule(), _NO_RUN
        for file, path in enumerate(self.paths):
            try:
                for data, at, layout, recv in self._timed(path):
                    for words, times in unused(data, at, layout):
                        self.count(UNKNOWN_RECORD, f"{path.name}: {words}", times)
                    origin = np.arange(self.lines, self.lines + len(at))
                    self.lines += len(at)
                    run = rest.join(Run(data, at, layout, np.full(len(at), file), origin, recv))
                    told = rule.settle(run.recv, final=False)
                    yield run.part(slice(len(told)))._replace(recv=told)
                    rest = run.part(slice(len(told), None))
            except FeedError as error:
                self.count(TRUNCATED if isinstance(error, TruncatedError) else UNREADABLE, str(error))
        yield rest._replace(recv=rule.settle(rest.recv, final=True))

    def _timed(self, path: Path) -> Iterator[tuple[Bytes, NDArray[np.int64], NDArray[np.int64], Times]]:
        """(bytes, where records begin, their layouts, their receive times) of each block of a file."""
        for block in read_records(path):
            layout = layouts(block.data, block.at, self._schema)
            recv = np.full(len(block.at), NO_TIME, np.int64)
            for number in present(layout):
                mine = layout == number
                recv[mine] = received(viewed(block.data, block.at[mine], LAYOUTS[number].dtype), LAYOUTS[number])
            yield block.data, block.at, layout, recv

    def _records_quietly(self, path: Path) -> Iterator[tuple[np.ndarray[Any, Any], Times, Layout]]:
        """(records, receive times, their layout), block by block, up to where the file can be read."""
        try:
            for data, at, layout, recv in self._timed(path):
                for number in present(layout):
                    mine = layout == number
                    yield viewed(data, at[mine], LAYOUTS[number].dtype), recv[mine], LAYOUTS[number]
        except FeedError:
            return  # counted and told when the feed runs

    def _decode(
        self, run: Run, goes_on: bool, decoding: Decoding, orders: OrdersDecoder, levels: LevelsDecoder, place_of: dict[str, int]
    ) -> Rows:
        """Rows of whole events, or of a part of one that is too long, in the order of the source."""
        symbols = self._symbols[int(run.file[0])]
        believed = self._believed(run.recv)
        found: list[Rows] = []
        for number in present(run.layout):
            layout, mine = LAYOUTS[number], run.layout == number
            records = viewed(run.data, run.at[mine], layout.dtype)
            place = symbols.places(records["instrument_id"], believed[mine], place_of)
            lines = Lines(records, place, run.recv[mine], run.origin[mine])
            self.messages += _messages(records, layout.decoder)
            if layout.decoder == ORDERS:
                found.append(orders.decode(lines, believed[mine], goes_on))
            elif layout.decoder == LEVELS:
                found.extend(levels.decode(lines, believed[mine], layout))
            else:
                found.append(_ROWS_OF[layout.decoder](decoding, lines, layout))
        return dbn_rows.finished(_by_origin(found))

    def _believed(self, recv: Times) -> Times:
        """`recv`, and where that is no time the feed's time up to there: NO_TIME only before the first of the source."""
        held = np.maximum.accumulate(np.append(self._feed_ns, recv))[1:]
        self._feed_ns = int(held[-1])
        return np.where(recv < 0, held, recv)


def _messages(records: np.ndarray[Any, Any], decoder: int) -> int:
    return int(np.count_nonzero(records["flags"] & F_LAST)) if decoder in EVENTS else len(records)


def _by_origin(found: list[Rows]) -> Rows:
    """The rows of several decoders as one array, in the order of the records they came from."""
    if len(found) == 1:
        return found[0]
    joined = empty(sum(map(len, found)))
    slots, at = joined.view(_SLOT), 0
    for rows in found:
        slots[at : at + len(rows)] = rows.view(_SLOT)
        at += len(rows)
    origin = joined["origin"]
    return joined if np.all(origin[1:] >= origin[:-1]) else slots[np.argsort(origin, kind="stable")].view(joined.dtype)


def _too_long(run: Run) -> bool:
    return bool(run.at[-1] - run.at[0] > EVENT_BYTES_MAX)


def _whole_events(run: Run) -> int:
    """How many of the records are whole events outside a snapshot; of too many all whole ones, of one that is too long what there is.

    All where none is of several records.
    """
    flags = np.zeros(len(run.at), np.uint8)
    several = [number for number in present(run.layout) if LAYOUTS[number].decoder in EVENTS]
    if not several:
        return len(flags)
    for number in several:
        fields = LAYOUTS[number].dtype.fields
        assert fields is not None
        mine = run.layout == number
        flags[mine] = run.data[run.at[mine] + fields["flags"][1]]
    inside = np.append(flags[1:] & F_SNAPSHOT, F_SNAPSHOT) != 0  # what follows the last one is not known yet
    last = flags & F_LAST != 0
    too_many = _too_long(run)
    ends = np.flatnonzero(last if too_many else last & ~inside)  # a snapshot's own end is one as well, only not yet a sure one
    if len(ends):
        return int(ends[-1]) + 1
    return len(flags) if too_many else 0
