"""Tables as a feed: CSV and Parquet files whose columns a map names, in the order of their lines or sorted by time.

Lines are decoded in batches; a line whose receive time jumps is refused as in every feed; then what is bad is counted with its line
and column, and events are closed: a trade, quote or bar is one by itself, rows of a book are one as long as they follow one another
with the same instrument, time and id. No venue's rule of sequence is known for a table, so books are taken as they come.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.domain.reasons import DOC, TIME_JUMP, TRUNCATED, UNREADABLE
from handlers.ingest.errors import FeedError, NotAFeedError, TruncatedError
from handlers.ingest.feed import Feed, Rows, choose_instruments, split_at_events
from handlers.ingest.jumps import JUMP_NS, JUMPED, NO_TIME, JumpRule
from handlers.ingest.tables.parquet import is_parquet, parquet_batches, parquet_header, scan_parquet
from handlers.ingest.tables.cells import EMPTY
from handlers.ingest.tables.events import mark_events
from handlers.ingest.tables.files import (
    SCAN_BYTES,
    SCAN_BYTES_MIN,
    Batch,
    TableFile,
    bound,
    csv_batches,
    csv_header,
    scan_csv,
)
from handlers.ingest.tables.plan import SYMBOLS_MAX
from transport.instruments import Instrument
from transport.records import EVENT_END, copied, empty

SORT_ROWS_MAX = 1 << 22  # half a GiB of records
EVENT_ROWS_MAX = 1 << 20  # a longer event is given out in parts, so that memory is bounded
SORTED = -1  # in place of a batch's first line: `blamed` has the line of each row
BARS_APART = 31  # intervals between two bars of one source: a month of days, longer than any market closes


class TableFeed(Feed):
    """One or more tables as one source; raises FeedError from the constructor where a map does not fit its file."""

    def __init__(self, name: str, files: Sequence[TableFile], instruments: Sequence[Instrument]) -> None:
        self.files = list(files)
        self.paths = list(dict.fromkeys(p for f in files for p in (f.path, f.beside) if p is not None))  # what the records follow from
        self._parquet = [is_parquet(file.path) for file in files]
        self._headers = [parquet_header(f) if parquet else csv_header(f) for f, parquet in zip(files, self._parquet, strict=True)]
        super().__init__(name, _instruments(self.files, instruments))
        for file, header in zip(self.files, self._headers, strict=True):
            self._plan(file, header)

    def chunks(self, rows_max: int) -> Iterator[Rows]:
        self.restart()
        batches = self._in_order() if self._by_time() else self._settled()
        rest, goes_on = empty(0), False
        for batch in batches:
            rows = self._kept(batch)
            if len(rest):
                rows = _joined(rest, rows)
            done, goes_on = _closed(rows, goes_on, final=False)
            rest = copied(rows[done:])
            yield from split_at_events(rows[:done], rows_max)
        _closed(rest, goes_on, final=True)
        yield from split_at_events(rest, rows_max)

    def receive_times(self) -> NDArray[np.int64]:
        counters, offenders, lines, messages = self.counters, self.first_offenders, self.lines, self.messages
        self.restart()
        by_time = self._by_time()
        batches = [(batch.first, batch.times) for batch in (self._batches() if by_time else self._settled())]
        times = np.full(self.lines, NO_TIME, np.int64)
        for first, told in batches:
            times[first : first + len(told)] = np.maximum(told, NO_TIME)
        if by_time:
            self.restart()
            for batch in self._in_order():
                times[batch.blamed] = np.maximum(batch.times, NO_TIME)
        self.counters, self.first_offenders, self.lines, self.messages = counters, offenders, lines, messages
        return times

    def _by_time(self) -> bool:
        """Whether its lines are to be sorted."""
        return any(file.table.order == "time" for file in self.files)

    def _plan(self, file: TableFile, header: Sequence[str]) -> Any:
        """The plan of a file, whose own instruments are among the feed's."""
        own = file.table
        shown = [(place, i) for place, i in enumerate(self.instruments) if i.venue == own.venue or own.columns.instrument is not None]
        if own.symbol:
            shown = [(place, i) for place, i in shown if i.symbol == own.symbol]
        elif own.wide:
            shown = [(place, i) for place, i in shown if i.symbol in header]
        return bound(file, header, [i for _, i in shown], [int(self.ids[place]) for place, _ in shown], self.source_id)

    def _batches(self) -> Iterator[Batch]:
        """Every line of every file, its record read or refused; how a file ends early is counted."""
        for file, header, parquet in zip(self.files, self._headers, self._parquet, strict=True):
            plan = self._plan(file, header)
            if not len(plan.grids):
                continue  # the configuration has none of its instruments
            first = self.lines
            self.lines += int(file.has_header and not parquet)
            try:
                for batch in (parquet_batches if parquet else csv_batches)(file, plan, first):
                    self.lines = batch.first + len(batch.times)
                    yield batch
            except FeedError as error:
                self.count(TRUNCATED if isinstance(error, TruncatedError) else UNREADABLE, str(error))

    def _settled(self) -> Iterator[Batch]:
        """Batches with the times that the rule for jumps leaves them."""
        rule = JumpRule(_jump_ns(self.files))
        rest: Batch | None = None
        for batch in self._batches():
            if rest is not None and rest.a_line != batch.a_line:
                yield rest._replace(times=rule.settle(rest.times, final=True))
                rest = None
            whole = batch if rest is None else _joined_batches(rest, batch)
            told = rule.settle(whole.times, final=False)
            yield _part(whole, slice(0, len(told)))._replace(times=told)
            rest = _part(whole, slice(len(told), None)) if len(told) < len(whole.times) else None
        if rest is not None:
            yield rest._replace(times=rule.settle(rest.times, final=True))

    def _in_order(self) -> Iterator[Batch]:
        """One batch of all lines, sorted by receive time and place."""
        parts: list[Rows] = []
        lines: list[NDArray[np.int64]] = []
        for batch in self._batches():
            kept = self._kept(batch)
            if sum(map(len, parts)) + len(kept) > SORT_ROWS_MAX:
                self.count(UNREADABLE, f"line {batch.first + 1}: over {SORT_ROWS_MAX:,} rows are not sorted in memory; sort the file itself")
                break
            parts.append(kept)
            lines.append(batch.first + np.flatnonzero(batch.refused == 0) // batch.a_line)
        self.messages = 0  # counted again by the caller
        if parts:
            rows = _joined(*parts)
            order = np.argsort(rows["ts_recv_ns"], kind="stable")
            rows = copied(rows, order)
            told = JumpRule(_jump_ns(self.files)).settle(rows["ts_recv_ns"].copy(), final=True)
            yield Batch(SORTED, 1, rows, np.zeros(len(rows), np.int64), np.concatenate(lines)[order], told)

    def _kept(self, batch: Batch) -> Rows:
        """The batch's records; what is none is counted."""
        refused = batch.refused
        jumped = batch.times == JUMPED
        if jumped.any():
            refused = np.where(np.repeat(jumped, batch.a_line) & (refused == 0), TIME_JUMP, refused)
        bad = np.flatnonzero(refused)
        for reason in np.unique(refused[bad]).tolist():
            if reason != EMPTY:
                rows = bad[refused[bad] == reason]
                at = int(rows[0])
                line = batch.blamed[at] if batch.first == SORTED else batch.first + at // batch.a_line
                column = "" if reason == TIME_JUMP else f", column {batch.blamed[at] + 1}"
                self.count(reason, f"line {line + 1}{column}: {DOC[reason]}", len(rows))
        kept = copied(batch.rows, refused == 0) if len(bad) else batch.rows
        self.messages += len(kept)
        return kept


def _instruments(files: Sequence[TableFile], configured: Sequence[Instrument]) -> list[Instrument]:
    """The configured instruments of each venue, else those that the files show."""
    inferred: dict[str, Instrument] = {}
    for file in files:
        scan = scan_parquet if is_parquet(file.path) else scan_csv
        shown = scan(file, max(SCAN_BYTES_MIN, SCAN_BYTES // len(files)))
        finest = tuple(max((d[which] for d in shown.values()), default=0) for which in (0, 1))
        for name, decimals in {**dict.fromkeys(file.table.symbols, finest), **shown}.items():
            found = _inferred(file, name, decimals)
            if found is not None:
                before = inferred.get(found.name, found)
                inferred[found.name] = _with_steps(found, min(before.tick, found.tick), min(before.lot, found.lot))
    out: list[Instrument] = []
    for venue in dict.fromkeys(i.venue for i in inferred.values()):
        symbols = [i.symbol for i in inferred.values() if i.venue == venue]
        out += choose_instruments(configured, venue, symbols, lambda s, v=venue: inferred[f"{s}.{v}"], files[0].path.name)  # type: ignore[misc]
    if not out:
        raise NotAFeedError(f"{files[0].path.name} shows no symbol: it has no line, or the wrong column is named")
    if len(out) > SYMBOLS_MAX:
        raise NotAFeedError(f"{files[0].path.name} has {len(out)} instruments; a line takes at most {SYMBOLS_MAX}")
    return out


def _with_steps(instrument: Instrument, tick: Decimal, lot: Decimal) -> Instrument:
    return Instrument(instrument.symbol, instrument.venue, tick, lot, instrument.quote)


def _inferred(file: TableFile, name: str, decimals: tuple[int, ...]) -> Instrument | None:
    """The instrument that a table calls `name`; None for a name that cannot be one."""
    symbol, venue = name, file.table.venue
    if file.table.columns.instrument is not None:
        symbol, _, venue = name.rpartition(".")
    if not symbol or not venue or not name.isprintable():
        return None
    tick, lot = (Decimal(1).scaleb(-d) for d in decimals)
    return Instrument(symbol, venue, file.table.tick or tick, file.table.lot or lot, file.table.quote)


def _jump_ns(files: Sequence[TableFile]) -> int:
    """How far ahead of its source a time may be unconfirmed: a day, or BARS_APART intervals of bars, of days where columns tell it."""
    bars = [file.table.interval_ns or JUMP_NS for file in files if file.table.kind == "bar"]
    return max([JUMP_NS, *(BARS_APART * interval for interval in bars)])


def _joined(*parts: Rows) -> Rows:
    """Rows one after the other; bytes are joined, since fields of a record overlap."""
    out = empty(sum(map(len, parts)))
    at = 0
    for part in parts:
        out[at : at + len(part)].view(np.uint8)[:] = part.view(np.uint8)
        at += len(part)
    return out


def _joined_batches(a: Batch, b: Batch) -> Batch:
    more = [np.concatenate((x, y)) for x, y in ((a.refused, b.refused), (a.blamed, b.blamed), (a.times, b.times))]
    return Batch(a.first, a.a_line, _joined(a.rows, b.rows), *more)


def _part(batch: Batch, lines: slice) -> Batch:
    """Some lines of a batch."""
    first, stop, _ = lines.indices(len(batch.times))
    rows = slice(first * batch.a_line, stop * batch.a_line)
    return Batch(batch.first + first, batch.a_line, batch.rows[rows], batch.refused[rows], batch.blamed[rows], batch.times[lines])


def _closed(rows: Rows, goes_on: bool, final: bool) -> tuple[int, bool]:
    """Mark where events begin and end; returns (how many rows may be given out, whether what is left goes on with an event that they began).

    `goes_on` says the same of `rows`. Of an event that is too long all but its last row is given out, by which what follows is known.
    """
    open_from = int(mark_events(rows, goes_on)) if len(rows) else 0
    if final and open_from < len(rows):
        rows["flags"][-1] |= EVENT_END
        return len(rows), False
    if len(rows) - open_from > EVENT_ROWS_MAX:
        return len(rows) - 1, True
    return open_from, goes_on and open_from == 0
