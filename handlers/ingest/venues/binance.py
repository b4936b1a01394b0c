"""A recorded Binance stream as a feed: trades, quotes and depth of spot or USD-M futures, with the venue's rule for the book.

A source is one capture, in one file or cut into several (by day): `<local receive ns> <raw JSON>` a line. Lines are read in
batches; a line whose receive time jumps is refused before anything else is asked, so that a depth message lost with it is a gap;
a batch's numbers become rows in one kernel call; then the depth messages among them are let through, held, or dropped one by one. Held messages come out behind the snapshot they waited for, with their own receive time and line, so `ts_recv_ns` of
a feed may step back there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from msgspec import Raw
from numpy.typing import NDArray

from handlers.domain import reasons
from handlers.domain.reasons import (
    DEPTH_REFUSED,
    DEPTH_REPEATED,
    DEPTH_STALE,
    HELD_OVERFLOW,
    SEQUENCE_GAP,
    SNAPSHOT_STALE,
    TRUNCATED,
    UNREADABLE,
)
from handlers.ingest.blocks import read_lines
from handlers.ingest.errors import FeedError, TruncatedError
from handlers.ingest.feed import Feed, Rows, choose_instruments, split_at_events
from handlers.ingest.jumps import NO_TIME, JumpRule, Times
from handlers.ingest.venues.binance_messages import Parser, Refused, line_time
from handlers.ingest.venues.binance_rows import MESSAGE, grid_table, rows_bound, write_rows
from handlers.ingest.venues.binance_scan import USDM, scan_capture
from handlers.ingest.venues.depth import APPLY, BREAK, REPEATED, STALE, DepthRule
from transport.instruments import Instrument
from transport.records import BOOK_DELTA, BOOK_SNAPSHOT, EVENT_END, GAP, empty

BATCH_LINES = 4096
BATCH_BYTES = 1 << 20  # of lines; keeps a batch of nothing but deep snapshots to some 10 MB of rows
HELD_MESSAGES_MAX = 2048  # 200 s of spot depth at 100 ms; a recorder fetches its snapshot within one or two
HELD_ROWS_MAX = 1 << 18
_REFUSED, _SNAPSHOT = 5, 6  # verdicts beside those of the depth rule
_DROPPED = {STALE: DEPTH_STALE, REPEATED: DEPTH_REPEATED}


class HeldDepth:
    """Depth messages of one instrument that wait for a snapshot; holds at most HELD_MESSAGES_MAX, HELD_ROWS_MAX rows."""

    def __init__(self) -> None:
        self.messages: deque[Rows] = deque()
        self.rows = 0
        self.gap_told = False  # downstream knows that the book is gone

    def push(self, rows: Rows) -> int:
        """Keep a copy; returns how many old messages had to go for it."""
        self.messages.append(rows.copy())
        self.rows += len(rows)
        gone = 0
        while len(self.messages) > HELD_MESSAGES_MAX or self.rows > HELD_ROWS_MAX:
            self.rows -= len(self.messages.popleft())
            gone += 1
        return gone

    def take(self) -> list[Rows]:
        """All of them, oldest first; none is held any more."""
        messages = list(self.messages)
        self.messages.clear()
        self.rows = 0
        return messages


class BinanceFeed(Feed):
    """One Binance capture; raises FeedError from the constructor if it is none."""

    def __init__(self, name: str, paths: Sequence[Path], instruments: Sequence[Instrument]) -> None:
        self.paths = list(paths)
        self.scan = scan_capture(self.paths)
        scan, shown = self.scan, list(self.scan.decimals)
        super().__init__(name, choose_instruments(instruments, scan.venue, shown, scan.instrument, self.paths[0].name))

    @property
    def futures(self) -> bool:
        return self.scan.venue == USDM

    def restart(self) -> None:
        super().restart()
        self._rules = [DepthRule(self.futures) for _ in self.instruments]
        self._held = [HeldDepth() for _ in self.instruments]

    def chunks(self, rows_max: int) -> Iterator[Rows]:
        self.restart()
        places = {instrument.symbol: place for place, instrument in enumerate(self.instruments)}
        depth = self.scan.depth_symbols
        parser = Parser(places, self.futures, depth[0] if len(depth) == 1 else "")
        self._grid = grid_table(self.ids, self.source_id, [(i.tick, i.lot) for i in self.instruments])
        for first, lines, times in self._timed():
            for rows in self._decode(parser, first, lines, times):
                yield from split_at_events(rows, rows_max)
        for held in self._held:
            for rows in held.take():
                self.count(DEPTH_REFUSED, f"{_where(rows)}: no snapshot came for it")

    def receive_times(self) -> NDArray[np.int64]:
        times: list[int] = []
        for path in self.paths:
            try:
                times.extend(map(line_time, read_lines(path)))
            except FeedError:
                continue  # counted and told by `chunks`
        return np.maximum(JumpRule().settle(np.array(times, np.int64), final=True), NO_TIME)

    def _timed(self) -> Iterator[tuple[int, list[bytes], Times]]:
        """(index of the first line, lines, their receive times as the rule for jumps leaves them)."""
        rule = JumpRule()
        rest: list[bytes] = []
        for batch, final in self._batches():
            lines = rest + batch
            times = rule.settle(np.fromiter(map(line_time, lines), np.int64, len(lines)), final)
            yield self.lines - len(lines), lines[: len(times)], times
            rest = lines[len(times) :]

    def _batches(self) -> Iterator[tuple[list[bytes], bool]]:
        """(lines, whether they are the last), across the source's files."""
        batch: list[bytes] = []
        size = 0
        for line in self._lines():
            batch.append(line)
            size += len(line)
            if len(batch) == BATCH_LINES or size > BATCH_BYTES:
                self.lines += len(batch)
                yield batch, False
                batch, size = [], 0
        self.lines += len(batch)
        yield batch, True

    def _lines(self) -> Iterator[bytes]:
        for path in self.paths:
            try:
                yield from read_lines(path)
            except FeedError as error:
                self.count(TRUNCATED if isinstance(error, TruncatedError) else UNREADABLE, str(error))

    def _decode(self, parser: Parser, first: int, lines: list[bytes], times: Times) -> Iterator[Rows]:
        """Rows of a batch, in the order they are to be sequenced."""
        fields: list[tuple[int, ...]] = []
        texts: list[Raw] = []
        for at, (line, recv) in enumerate(zip(lines, times.tolist(), strict=True), first):
            try:
                values, numbers = parser.parse(line, recv)
            except Refused as refused:
                self.count(refused.reason, f"line {at + 1}: {refused}")
                continue
            fields.append((*values, at, 0, 0, 0))
            texts.extend(numbers)
        messages = np.array(fields, MESSAGE)
        text = b"".join(texts)
        cuts = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)), out=cuts[1:])
        rows = empty(rows_bound(text, len(messages)))
        used = write_rows(np.frombuffer(text, np.uint8).copy(), cuts, messages, self._grid, rows)
        yield from self._let_through(messages, rows[:used])

    def _let_through(self, messages: Rows, rows: Rows) -> Iterator[Rows]:
        """Cut out what was refused or must wait; all else passes as it is, in long runs."""
        watched = (messages["refused"] != 0) | (messages["kind"] == BOOK_DELTA) | (messages["kind"] == BOOK_SNAPSHOT)
        begin = 0
        for m in messages[watched]:
            start, stop = int(m["start"]), int(m["stop"])
            verdict = self._verdict(m)
            if verdict == APPLY:
                continue
            if begin < start:
                yield rows[begin:start]
            begin = stop
            if verdict == _REFUSED:
                yield from self._refuse(m)
            elif verdict == _SNAPSHOT:
                yield from self._start_book(int(m["place"]), rows[start:stop])
            else:
                yield from self._set_aside(verdict, int(m["place"]), rows[start:stop])
        self.messages += len(messages) - int(np.count_nonzero(messages["refused"]))
        if begin < len(rows):
            yield rows[begin:]

    def _verdict(self, m: np.void) -> int:
        if m["refused"]:
            return _REFUSED
        if m["kind"] == BOOK_SNAPSHOT:
            return _SNAPSHOT
        return self._rules[m["place"]].judge(int(m["first_seq"]), int(m["venue_seq"]), int(m["prev_seq"]))

    def _refuse(self, m: np.void) -> Iterator[Rows]:
        """A number was bad; where it was the book's, what follows would be applied to a wrong book."""
        self.count(int(m["refused"]), f"line {m['line'] + 1}: {reasons.DOC[int(m['refused'])]}")
        rule = self._rules[m["place"]]
        if m["kind"] == BOOK_DELTA and not rule.waiting:
            rule.lose()
            row = empty(1)
            row["instrument_id"] = self.ids[m["place"]]
            for field in ("ts_event_ns", "ts_recv_ns", "venue_seq"):
                row[field] = m[field]
            row["origin"] = m["line"]
            yield self._gap(int(m["place"]), row, rule.last, rule.got(int(m["first_seq"]), int(m["prev_seq"])))

    def _start_book(self, place: int, rows: Rows) -> Iterator[Rows]:
        """A snapshot, then what had to wait for it."""
        if not self._rules[place].take_snapshot(int(rows["venue_seq"][0])):
            self.count(SNAPSHOT_STALE, _where(rows))
            return
        yield rows
        held = self._held[place]
        held.gap_told = False
        for message in held.take():
            first, last, previous = (int(message[field][0]) for field in ("first_seq", "venue_seq", "prev_seq"))
            verdict = self._rules[place].judge(first, last, previous)
            if verdict == APPLY:
                yield message
            else:
                yield from self._set_aside(verdict, place, message)

    def _set_aside(self, verdict: int, place: int, rows: Rows) -> Iterator[Rows]:
        """A depth message that does not reach the book now; a break is told, and the message kept for the next snapshot."""
        if verdict in _DROPPED:
            self.count(_DROPPED[verdict], _where(rows))
            return
        held, rule = self._held[place], self._rules[place]
        if verdict == BREAK:
            yield self._gap(place, rows, rule.expected, rule.got(int(rows["first_seq"][0]), int(rows["prev_seq"][0])))
        pushed_out = held.push(rows)
        if pushed_out:
            self.count(
                DEPTH_REFUSED if held.gap_told else HELD_OVERFLOW, f"{_where(rows)}: no snapshot yet", pushed_out
            )
            if not held.gap_told:
                yield self._gap(place, rows, rule.last, int(rows["first_seq"][0]))

    def _gap(self, place: int, message: Rows, expected: int, got: int) -> Rows:
        """The record that says that the book is not to be believed from this message on."""
        self._held[place].gap_told = True
        row = empty(1)
        for field in ("ts_event_ns", "ts_recv_ns", "instrument_id", "venue_seq", "origin"):
            row[field] = message[field][0]
        row["kind"], row["flags"], row["source_id"] = GAP, EVENT_END, self.source_id
        row["expected_seq"], row["got_seq"], row["lost"] = expected, got, -1  # ids count updates, not messages
        self.count(SEQUENCE_GAP, f"{_where(message)}: expected update id {expected}, got {got}")
        return row


def _where(rows: Rows) -> str:
    return f"line {int(rows['origin'][0]) + 1}"
