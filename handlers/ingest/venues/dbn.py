"""Databento's market-by-order files (DBN, schema MBO) as a feed of L3 records.

    A C M   BOOK_DELTA   ADD, DELETE, MODIFY             with flag SNAPSHOT: BOOK_SNAPSHOT, same actions
    R       BOOK_SNAPSHOT CLEAR: from here the book is known, it is empty
    T       TRADE, side of the aggressor                 F       no record: the book changes by the C or M behind it

An event is what the venue sent at once; its last record bears flag LAST. EVENT_END stands there, also when that is a trade, and not
on a trade in the middle of one, for the book must not be read there. Where the last record yields none, EVENT_END moves to the
event's record before it. A snapshot ends where its records end, whether or not the publisher wrote LAST. A bad record that the
book would have needed becomes a GAP, as does the publisher's own mark MAYBE_BAD_BOOK, and book records are refused up to the
next snapshot; where the receive time is what is bad, the GAP bears the feed's time up to there. Source: Databento, MBO schema and
"Common fields, enums and types" (2024).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import databento_dbn as dbn
import numpy as np
from numpy.typing import NDArray

from handlers.domain.reasons import (
    BOOK_DOUBTED,
    DEPTH_REFUSED,
    DOC,
    FILL_SKIPPED,
    NOT_POSITIVE,
    OUT_OF_INT64,
    PRICE_OFF_GRID,
    QTY_OFF_GRID,
    SEQUENCE_GAP,
    TIME_JUMP,
    TIME_OUT_OF_RANGE,
    TRUNCATED,
    UNKNOWN_RECORD,
    UNKNOWN_SYMBOL,
    UNREADABLE,
)
from handlers.ingest.errors import FeedError, NotAFeedError, TruncatedError
from handlers.ingest.feed import YEAR_2000_NS, YEAR_2100_NS, Feed, Rows, choose_instruments, split_at_events
from handlers.ingest.jumps import JUMPED, NO_TIME, JumpRule, Times
from handlers.ingest.venues.dbn_files import MBO, Block, read_metadata, read_records
from handlers.ingest.venues.dbn_grid import NANO, inferred, known_future
from transport.instruments import Instrument
from transport.records import (
    ADD,
    ASK,
    BID,
    BOOK_DELTA,
    BOOK_SNAPSHOT,
    CLEAR,
    DELETE,
    EVENT_END,
    EVENT_FIRST,
    GAP,
    MODIFY,
    NO_SIDE,
    TRADE,
    empty,
)

EVENT_RECORDS_MAX = 1 << 22  # a longer run without LAST is cut, so that memory is bounded
_FILL = 255  # stands for F among the kinds
Column = NDArray[Any]


def _by_letter(table: dict[str, int], otherwise: int) -> NDArray[np.uint8]:
    found = np.full(256, otherwise, np.uint8)
    for letter, value in table.items():
        found[ord(letter)] = value
    return found


_KIND = _by_letter({"A": BOOK_DELTA, "C": BOOK_DELTA, "M": BOOK_DELTA, "R": BOOK_SNAPSHOT, "T": TRADE, "F": _FILL}, 0)
_ACTION = _by_letter({"A": ADD, "C": DELETE, "M": MODIFY, "R": CLEAR}, 0)
_SIDE = _by_letter({"B": BID, "A": ASK}, NO_SIDE)


class Run(NamedTuple):
    """Records that follow one another in the source, and of each:"""

    records: np.ndarray[Any, Any]  # dtype MBO
    file: NDArray[np.int64]  # place in the feed's `paths`
    origin: NDArray[np.int64]
    recv: Times  # receive ns, NO_TIME, JUMPED

    def part(self, which: slice | NDArray[np.bool_]) -> Run:
        return Run(*(column[which] for column in self))

    def join(self, behind: Run) -> Run:
        return Run(*map(np.concatenate, zip(self, behind, strict=True)))


_NO_RUN = Run(np.empty(0, MBO), *(np.empty(0, np.int64) for _ in range(3)))


class DbnFeed(Feed):
    """One or more MBO files of one dataset; raises FeedError from the constructor if they are none."""

    def __init__(self, name: str, paths: Sequence[Path], instruments: Sequence[Instrument]) -> None:
        self.paths = list(paths)
        metadata = [read_metadata(path) for path in self.paths]
        self._symbols = [_symbols_of(path, m) for path, m in zip(self.paths, metadata, strict=True)]
        if len({m.dataset for m in metadata}) > 1:
            raise NotAFeedError(
                f"{self.paths[0].name} and the files with it are of different datasets; name them as several feeds"
            )
        venue = metadata[0].dataset.partition(".")[0].lower()
        shown = list(dict.fromkeys(symbol for of in self._symbols for symbol in of.values()))
        chosen = choose_instruments(instruments, venue, shown, lambda s: self._infer(s, venue), self.paths[0].name)
        super().__init__(name, chosen)
        self._steps = [_steps(i) for i in self.instruments]

    def restart(self) -> None:
        super().restart()
        self._broken = [False] * len(self.instruments)
        self._feed_ns = NO_TIME  # greatest receive time decoded

    def chunks(self, rows_max: int) -> Iterator[Rows]:
        self.restart()
        places = [{i: self._place(symbol) for i, symbol in symbols.items()} for symbols in self._symbols]
        for run in self._events():
            yield from split_at_events(self._decode(run, places[run.file[0]]), rows_max)

    def receive_times(self) -> NDArray[np.int64]:
        known, at = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        total = 0
        for path in self.paths:
            try:
                for block in read_records(path):
                    known.append(_received(block.records))
                    at.append(block.ordinal + total)
                    total += block.total
            except FeedError:
                continue  # counted and told by `chunks`
        times = np.full(total, NO_TIME, np.int64)
        times[np.concatenate(at)] = np.maximum(JumpRule().settle(np.concatenate(known), final=True), NO_TIME)
        return times

    def _infer(self, symbol: str, venue: str) -> Instrument:
        """From the table of roots, else from the prices of the first block that has any."""
        known = known_future(symbol, venue)
        if known is not None:
            return known
        for symbols, path in zip(self._symbols, self.paths, strict=True):
            ids = [i for i, s in symbols.items() if s == symbol]
            for records in _blocks_quietly(path):
                mine = records["price"][np.isin(records["instrument_id"], ids) & (records["price"] != dbn.UNDEF_PRICE)]
                if len(mine):
                    return inferred(symbol, venue, mine)
        return inferred(symbol, venue, np.empty(0, np.int64))

    def _place(self, symbol: str) -> int:
        return next((p for p, i in enumerate(self.instruments) if i.symbol == symbol), -1)

    def _events(self) -> Iterator[Run]:
        """Runs of one file each that end with an event and outside a snapshot, or with the file; none is empty."""
        held = _NO_RUN
        for settled in self._settled():
            for file in np.unique(settled.file).tolist():
                if len(held.file) and held.file[0] != file:
                    yield held
                    held = _NO_RUN
                held = held.join(settled.part(settled.file == file))
                cut = _whole_events(held.records["flags"])
                if cut:
                    yield held.part(slice(cut))
                    held = held.part(slice(cut, None))
        if len(held.file):
            yield held

    def _settled(self) -> Iterator[Run]:
        """All records of the source, their receive times as the rule for jumps leaves them."""
        rule, rest = JumpRule(), _NO_RUN
        for file, path in enumerate(self.paths):
            for block in self._blocks(path):
                origin = block.ordinal + self.lines
                self.lines += block.total
                run = rest.join(Run(block.records, np.full(len(origin), file), origin, _received(block.records)))
                recv = rule.settle(run.recv, final=False)
                yield run.part(slice(len(recv)))._replace(recv=recv)
                rest = run.part(slice(len(recv), None))
        yield rest._replace(recv=rule.settle(rest.recv, final=True))

    def _blocks(self, path: Path) -> Iterator[Block]:
        try:
            for block in read_records(path):
                if block.other:
                    self.count(UNKNOWN_RECORD, f"{path.name}: {block.other}", block.total - len(block.ordinal))
                yield block
        except FeedError as error:
            self.count(TRUNCATED if isinstance(error, TruncatedError) else UNREADABLE, str(error))

    def _decode(self, run: Run, place_of: dict[int, int]) -> Rows:
        """Rows of whole events."""
        records, origin = run.records, run.origin
        place = _places(records["instrument_id"], place_of)
        kind = _KIND[_letters(records["action"])]
        last = records["flags"] & dbn.F_LAST != 0
        in_snapshot = (kind == BOOK_SNAPSHOT) | ((records["flags"] & dbn.F_SNAPSHOT != 0) & (kind == BOOK_DELTA))
        kind[in_snapshot] = BOOK_SNAPSHOT
        first, final = _snapshot_bounds(place, in_snapshot, last, _letters(records["action"]) == ord("R"))
        price, lots, reason = self._numbers(run, place, kind)
        self._count_refused(reason, origin)
        run = run._replace(recv=self._believed(run.recv))
        gap = self._find_gaps(run, place, kind, first, reason)
        keep = ((reason == 0) & (kind != _FILL)) | gap
        self.messages += int(np.count_nonzero(last))
        self._count_each(FILL_SKIPPED, (kind == _FILL) & (reason == 0), origin)
        end = final | last | gap
        _move_ends(end, last & ~keep, keep, place, last)
        kind[gap] = GAP
        flags = np.where(end, EVENT_END, 0) | np.where(first & ~gap, EVENT_FIRST, 0)
        return self._write(run.part(keep), place[keep], kind[keep], flags[keep], price[keep], lots[keep])

    def _believed(self, recv: Times) -> Times:
        """`recv`, and where that is no time the feed's time up to there: NO_TIME only before the first of the source."""
        held = np.maximum.accumulate(np.append(self._feed_ns, recv))[1:]
        self._feed_ns = int(held[-1])
        return np.where(recv < 0, held, recv)

    def _numbers(self, run: Run, place: Column, kind: Column) -> tuple[Column, Column, Column]:
        """(ticks, lots, reason or 0) of each record; reasons in the order of how much they say."""
        records = run.records
        price, lots = np.zeros(len(records), np.int64), np.zeros(len(records), np.int64)
        reason = np.zeros(len(records), np.int64)
        priced = (kind != _FILL) & (_letters(records["action"]) != ord("R"))
        for p, (tick, lot_num, lot_den) in enumerate(self._steps):
            mine = priced & (place == p)
            price[mine], off = np.divmod(records["price"][mine], tick)
            reason[np.flatnonzero(mine)[off != 0]] = PRICE_OFF_GRID
            lots[mine], off = np.divmod(records["size"][mine].astype(np.int64) * lot_den, lot_num)
            reason[np.flatnonzero(mine)[off != 0]] = QTY_OFF_GRID
        letters = _letters(records["action"])
        reason[priced & (records["size"] == 0) & ((letters == ord("A")) | (letters == ord("T")))] = NOT_POSITIVE
        reason[priced & (records["price"] == dbn.UNDEF_PRICE)] = PRICE_OFF_GRID
        reason[records["order_id"] > np.uint64(2**63 - 1)] = OUT_OF_INT64
        reason[(run.recv == NO_TIME) | ~_in_range(records["ts_event"])] = TIME_OUT_OF_RANGE
        reason[run.recv == JUMPED] = TIME_JUMP
        reason[kind == 0] = UNKNOWN_RECORD
        reason[place < 0] = UNKNOWN_SYMBOL
        return price, lots, reason

    def _find_gaps(self, run: Run, place: Column, kind: Column, first: Column, reason: Column) -> NDArray[np.bool_]:
        """Which records become a GAP; book records behind one are refused up to the next snapshot.

        There is none before the first time of the source: it would have no time, and there is no book yet that it could break.
        """
        records, origin = run.records, run.origin
        gap = np.zeros(len(records), np.bool_)
        book = (place >= 0) & ((kind == BOOK_DELTA) | (kind == BOOK_SNAPSHOT) | (kind == 0))
        doubted = book & (records["flags"] & dbn.F_MAYBE_BAD_BOOK != 0) & (reason == 0)
        breaks = (book & (reason != 0)) | doubted
        for p in np.flatnonzero(np.bincount(place[breaks], minlength=len(self._broken)) + self._broken):
            refused = np.zeros(len(records), np.bool_)
            for i in np.flatnonzero(book & (place == p)).tolist():
                if first[i] and reason[i] == 0:
                    self._broken[p] = False
                if breaks[i] and not self._broken[p]:
                    self._broken[p] = True
                    gap[i] = run.recv[i] != NO_TIME
                elif self._broken[p] and reason[i] == 0:
                    refused[i] = True
            reason[refused] = DEPTH_REFUSED
            self._count_each(DEPTH_REFUSED, refused, origin)
        self._count_each(BOOK_DOUBTED, gap & doubted, origin)
        self._count_each(SEQUENCE_GAP, gap, origin)
        return gap

    def _count_refused(self, reason: Column, origin: Column) -> None:
        for code in np.unique(reason[reason != 0]).tolist():
            self._count_each(code, reason == code, origin)

    def _count_each(self, reason: int, which: Column, origin: Column) -> None:
        if which.any():
            self.count(reason, f"record {int(origin[which.argmax()]) + 1}: {DOC[reason]}", int(np.count_nonzero(which)))

    def _write(self, run: Run, place: Column, kind: Column, flags: Column, price: Column, lots: Column) -> Rows:
        """Fill slots; what a GAP does not have is left zero."""
        records = run.records
        rows = empty(len(records))
        gap, book = kind == GAP, (kind == BOOK_DELTA) | (kind == BOOK_SNAPSHOT)
        letters = _letters(records["action"])
        for field, column in (
            ("ts_event_ns", records["ts_event"]), ("ts_recv_ns", run.recv), ("instrument_id", self.ids[place]),
            ("kind", kind), ("flags", flags), ("venue_seq", records["sequence"]), ("origin", run.origin),
            ("side", np.where(gap, NO_SIDE, _SIDE[_letters(records["side"])])), ("action", np.where(book, _ACTION[letters], 0)),
        ):  # fmt: skip
            rows[field] = column
        rows["source_id"] = self.source_id
        rows["price_ticks"], rows["qty_lots"] = np.where(gap, 0, price), np.where(gap, 0, lots)
        rows["order_id"] = np.where(book, records["order_id"], 0)
        rows["expected_seq"][gap] = rows["got_seq"][gap] = records["sequence"][gap]
        rows["lost"][gap] = np.where(records["flags"][gap] & dbn.F_MAYBE_BAD_BOOK != 0, -1, 1)
        return rows


def _symbols_of(path: Path, metadata: dbn.Metadata) -> dict[int, str]:
    """Publisher's instrument number -> symbol."""
    found: dict[int, str] = {}
    for symbol, intervals in metadata.mappings.items():
        for interval in intervals:
            if interval["symbol"].isdigit() and found.setdefault(int(interval["symbol"]), symbol) != symbol:
                raise NotAFeedError(
                    f"{path.name} uses instrument number {interval['symbol']} for two symbols; split it by day"
                )
    if not found:
        raise NotAFeedError(f"{path.name} maps no instrument number to a symbol")
    return found


def _steps(instrument: Instrument) -> tuple[int, int, int]:
    """(tick in 1e-9, lot as numerator, denominator); raises FeedError for a tick that DBN prices cannot show."""
    tick = instrument.tick * NANO
    if tick != int(tick):
        raise FeedError(f"{instrument.name}: a tick of {instrument.tick} is finer than the 1e-9 of DBN prices")
    return int(tick), *instrument.lot.as_integer_ratio()


def _blocks_quietly(path: Path) -> Iterator[np.ndarray[Any, Any]]:
    try:
        for block in read_records(path):
            yield block.records
    except FeedError:
        return  # counted and told when the feed runs


def _letters(column: np.ndarray[Any, Any]) -> NDArray[np.uint8]:
    return column.view(np.uint8)


def _received(records: np.ndarray[Any, Any]) -> Times:
    received = records["ts_recv"]
    return np.where(_in_range(received), received.view(np.int64), NO_TIME)


def _whole_events(flags: Column) -> int:
    """How many of the records are whole events outside a snapshot; all of them where an event has too many."""
    inside = np.append(flags[1:] & dbn.F_SNAPSHOT, dbn.F_SNAPSHOT) != 0  # what follows the last one is not known yet
    ends = np.flatnonzero((flags & dbn.F_LAST != 0) & ~inside)
    if len(ends):
        return int(ends[-1]) + 1
    return len(flags) if len(flags) > EVENT_RECORDS_MAX else 0


def _in_range(times: NDArray[np.uint64]) -> NDArray[np.bool_]:
    return (times >= np.uint64(YEAR_2000_NS)) & (times < np.uint64(YEAR_2100_NS))


def _places(numbers: NDArray[np.uint32], place_of: dict[int, int]) -> NDArray[np.int64]:
    """Place in the feed's table of each instrument number, -1 where it has none."""
    unique, inverse = np.unique(numbers, return_inverse=True)
    return np.array([place_of.get(n, -1) for n in unique.tolist()], np.int64)[inverse]


def _snapshot_bounds(
    place: Column, in_snapshot: Column, last: Column, clears: Column
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(first, final) record of each instrument's snapshots; one ends at LAST or where its instrument's next record is of another kind."""
    order = np.argsort(place, kind="stable")
    mine, snap, end = place[order], in_snapshot[order], last[order]
    same = mine[1:] == mine[:-1]  # the next record is of the same instrument
    goes_on = same & snap[:-1] & snap[1:] & ~end[:-1] & ~clears[order][1:]
    first, final = np.zeros(len(place), np.bool_), np.zeros(len(place), np.bool_)
    first[order] = snap & ~np.concatenate((np.zeros(min(1, len(mine)), np.bool_), goes_on))
    final[order] = snap & ~np.concatenate((goes_on, np.zeros(min(1, len(mine)), np.bool_)))
    return first, final


def _move_ends(end: Column, lost: Column, keep: Column, place: Column, last: Column) -> None:
    """Give EVENT_END of records that yield none to the kept record before them in the same event of the same instrument."""
    for i in np.flatnonzero(lost & (place >= 0)).tolist():
        for j in range(i - 1, -1, -1):
            if place[j] == place[i]:
                if last[j]:
                    break
                if keep[j]:
                    end[j] = True
                    break
