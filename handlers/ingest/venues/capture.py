"""A recorded stream of a venue as a feed: trades, quotes, bars and books, with the venue's own rule for each book.

A source is one capture, in one file, cut into several (by day), or of several connections recorded side by side. Lines are read in
batches; a line whose receive time jumps is refused before anything else is asked, so that a book message lost with it is a gap; a
batch's numbers become rows in one kernel call; then the book messages among them are let through, held, or dropped one by one. Held
messages come out behind the snapshot they waited for, with their own receive time and line, so `ts_recv_ns` of a feed may step back
there.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from msgspec import Raw
from numpy.typing import NDArray

from handlers.domain import reasons
from handlers.domain.reasons import (
    BEFORE_STREAM, BROKEN_LINE, CONNECTION_LOST, CONTROL_MESSAGE, DEPTH_REFUSED, DEPTH_REPEATED, DEPTH_STALE, HELD_OVERFLOW, HISTORY_HOLE,
    SEQUENCE_GAP, SNAPSHOT_STALE, TRUNCATED, UNFINISHED_BAR, UNKNOWN_STREAM, UNKNOWN_SYMBOL, UNREADABLE,
)  # fmt: skip
from handlers.ingest.blocks import read_line_lists
from handlers.ingest.errors import FeedError, TruncatedError
from handlers.ingest.feed import Feed, Rows, choose_instruments, split_at_events
from handlers.ingest.jumps import JUMP_NS, NO_TIME, JumpRule, Times
from handlers.ingest.venues.capture_lines import Form
from handlers.ingest.venues.joining import Joining
from handlers.ingest.venues.levels import MESSAGE, grid_table, rows_bound, text_spans, write_rows
from handlers.ingest.venues.own_lines import HISTORY_URL, LIFE_URL, life, read
from handlers.ingest.venues.protocol import APPLY, BREAK, NO_JSON, REPEATED, STALE, Batch, BookRule, Parsed, Protocol, Refused, apply_runs
from handlers.ingest.venues.survey import Survey
from transport.compiled import load
from transport.instruments import INT64_MAX, Instrument
from transport.records import (
    BOOK_DELTA, BOOK_SNAPSHOT, CONNECTING, CONNECTION, DISCONNECTED, EVENT_END, GAP, JOINED, OVERRUN, TRADE, WARMUP, copied, empty,
)  # fmt: skip

BATCH_LINES = 4096
_NO_TEXT = np.zeros(0, np.uint8)
BATCH_BYTES = 1 << 20  # of lines; keeps a batch of nothing but deep snapshots to some 10 MB of rows
HELD_MESSAGES_MAX = 2048  # 200 s of spot depth at 100 ms; a recorder fetches its snapshot within one or two
HELD_ROWS_MAX = 1 << 18
WATCHED = (BOOK_DELTA, BOOK_SNAPSHOT, CONNECTION, GAP)  # what is not simply passed on
NOT_OF_A_BOOK = (CONTROL_MESSAGE, UNKNOWN_STREAM, UNKNOWN_SYMBOL, BEFORE_STREAM, UNFINISHED_BAR)  # refused, and no book misses it
_REFUSED, _SNAPSHOT = 5, 6  # verdicts beside those of a book's rule
_DROPPED = {STALE: DEPTH_STALE, REPEATED: DEPTH_REPEATED}


class Held(NamedTuple):
    """A book message that waits: its entry of MESSAGE and its rows, both copies."""

    message: np.void
    rows: Rows


class HeldDepth:
    """Book messages of one instrument that wait for a snapshot; holds at most HELD_MESSAGES_MAX, HELD_ROWS_MAX rows."""

    def __init__(self) -> None:
        self.messages: deque[Held] = deque()
        self.rows = 0
        self.gap_told = False  # downstream knows that the book is gone

    def push(self, m: np.void, rows: Rows) -> int:
        """Keep a copy; returns how many old messages had to go for it."""
        self.messages.append(Held(m.copy(), copied(rows)))
        self.rows += len(rows)
        gone = 0
        while len(self.messages) > HELD_MESSAGES_MAX or self.rows > HELD_ROWS_MAX:
            self.rows -= len(self.messages.popleft().rows)
            gone += 1
        return gone

    def take(self) -> list[Held]:
        """All of them, oldest first; none is held any more."""
        messages = list(self.messages)
        self.messages.clear()
        self.rows = 0
        return messages


class CaptureFeed(Feed):
    """One capture, as `survey` found it; `handlers.ingest.formats` opens it."""

    def __init__(self, name: str, paths: Sequence[Path], form: Form, survey: Survey, instruments: Sequence[Instrument]) -> None:
        load(write_rows)
        self.paths = list(paths)
        self.form = form
        self.survey = survey
        shown = list(survey.instruments)
        super().__init__(
            name, choose_instruments(instruments, survey.venue, shown, survey.instruments.__getitem__, self.paths[0].name)
        )

    def restart(self) -> None:
        super().restart()
        self._protocol: Protocol = self.survey.protocol.fresh(self.instruments)
        self._rules: list[BookRule] = [self._protocol.rule(place, i) for place, i in enumerate(self.instruments)]
        self._held = [HeldDepth() for _ in self.instruments]
        self._joining = Joining(self)
        self._scanner = self._protocol.scanner()
        self._grid = grid_table(self.ids, self.source_id, [(i.tick, i.lot) for i in self.instruments])

    def chunks(self, rows_max: int) -> Iterator[Rows]:
        self.restart()
        for first, lines, times, joined in self._timed():
            for rows in self._decode(first, lines, times, joined):
                yield from split_at_events(rows, rows_max)
        self._end()

    def _end(self) -> None:
        """Count what still waits: nothing comes any more."""
        self._give_up()
        self._joining.give_up()

    def _give_up(self) -> None:
        """Count what still waits for a snapshot: none comes for it any more."""
        for held in self._held:
            for message in held.take():
                self.count(DEPTH_REFUSED, f"{_where(message.rows)}: no snapshot came for it")

    def receive_times(self) -> NDArray[np.int64]:
        times = self.form.times(list(chain.from_iterable(self._lines(silent=True))))
        return np.maximum(JumpRule().settle(times, final=True), NO_TIME)

    def _timed(self) -> Iterator[tuple[int, list[bytes], Times, Batch | None]]:
        """(index of the first line, lines, their receive times as the rule for jumps leaves them, the lines as `Form.batch` has them)."""
        rule = JumpRule()
        rest: list[bytes] = []
        for batch, final in self._batches():
            lines = rest + batch
            times, joined = self.form.read(lines)
            times = rule.settle(times, final)
            n = len(times)
            yield self.lines - len(lines), lines[:n], times, joined and Batch(joined.text, joined.begins[:n], joined.ends[:n])
            rest = lines[n:]

    def _batches(self) -> Iterator[tuple[list[bytes], bool]]:
        """(lines, whether they are the last), across the source's files."""
        batch: list[bytes] = []
        size = 0
        for lines in self._lines():
            batch += lines
            size += sum(map(len, lines))
            while len(batch) >= BATCH_LINES or size > BATCH_BYTES:
                part = batch[:BATCH_LINES]
                self.lines += len(part)
                yield part, False
                batch = batch[BATCH_LINES:]
                size = sum(map(len, batch))
        self.lines += len(batch)
        yield batch, True

    def _lines(self, silent: bool = False) -> Iterator[list[bytes]]:
        """Lines of all files, a block at a time, one file after the other, or merged by time where they were recorded side by side."""
        files = [self._lines_of(path, silent) for path in self.paths]
        if self.form.merged and len(files) > 1:
            keyed = (self._keyed(chain.from_iterable(lists), n) for n, lists in enumerate(files))
            merged = (line for _, _, _, line in heapq.merge(*keyed))
            while lines := list(islice(merged, BATCH_LINES)):
                yield lines
            return
        for lists in files:
            yield from lists

    def _lines_of(self, path: Path, silent: bool) -> Iterator[list[bytes]]:
        try:
            yield from read_line_lists(path)
        except FeedError as error:
            if not silent:
                self.count(TRUNCATED if isinstance(error, TruncatedError) else UNREADABLE, str(error))

    def _keyed(self, lines: Iterable[bytes], file: int) -> Iterator[tuple[int, int, int, bytes]]:
        """(time, file, place in it, line); one without a time, or far off, stays behind the line before it."""
        key = NO_TIME
        for at, line in enumerate(lines):
            time = self.form.time(line)
            if key == NO_TIME or key <= time <= key + JUMP_NS:
                key = max(key, time)
            yield key, file, at, line

    def _decode(self, first: int, lines: list[bytes], times: Times, joined: Batch | None = None) -> Iterator[Rows]:
        """Rows of a batch, in the order they are to be sequenced; `joined` spares joining the lines once more."""
        batch = joined or self.form.batch(lines) if self._scanner is not None else None
        if batch is None or self._scanner is None:
            return self._rows_of(*self._parsed(first, lines, times, np.arange(len(lines)), 0))
        messages, spans = self._scanner.scan(batch, times, first)
        left = np.flatnonzero(messages["kind"] == 0)
        if not len(left):
            return self._rows_of(messages, spans, b"", batch.text)
        others, of_others, text = self._parsed(first, lines, times, left, len(batch.text))
        where = np.searchsorted(messages["line"][messages["kind"] != 0], others["line"])
        taken = messages["kind"] != 0
        whole = np.insert(messages[taken], where, others)
        return self._rows_of(whole, np.insert(spans[taken], where, of_others, axis=0), text, batch.text)

    def _parsed(self, first: int, lines: list[bytes], times: Times, which: NDArray[np.int64], begin: int) -> tuple[Rows, NDArray[np.int64], bytes]:
        """(MESSAGE, spans, texts one behind the other from `begin` on) of the lines that are left to the parser."""
        fields: list[tuple[int, ...]] = []
        texts: list[Raw | bytes] = []
        for i in which.tolist():
            for parsed in self._parse(first + i, lines[i], int(times[i])):
                fields.append((*parsed[:10], first + i, 0, 0, 0))
                texts.extend(parsed.texts)
        return np.array(fields, MESSAGE), text_spans(texts, begin), b"".join(texts)

    def _parse(self, at: int, line: bytes, recv: int) -> Sequence[Parsed]:
        """Events of a line; where it has none to be read, nothing, or that every book is in doubt."""
        try:
            split = self.form.split(line, recv)
            if split.url == HISTORY_URL:
                own = read(split.body)
                self._joining.expect(self._protocol.places.of(own.symbol), own)
                return ()
            return (life(split, self._protocol.places.known),) if split.url == LIFE_URL else self._protocol.parse(split)
        except Refused as refused:
            reason, what = refused.reason, str(refused)
        except NO_JSON as error:
            reason, what = BROKEN_LINE, str(error)
        self.count(reason, f"line {at + 1}: {what}")
        harmless = self._protocol.sequenced or reason in NOT_OF_A_BOOK
        return () if harmless else (Parsed(GAP, -1, max(recv, 0), 0, 0, check=reason),)

    def _rows_of(self, messages: Rows, spans: NDArray[np.int64], text: bytes, before: NDArray[np.uint8] = _NO_TEXT) -> Iterator[Rows]:
        """Rows of messages whose texts stand in `before`, and `text` behind it."""
        buffer = np.frombuffer(bytearray(before.tobytes() + text), np.uint8) if text or not len(before) else before
        rows = empty(rows_bound(buffer, len(messages)))
        used = write_rows(buffer, np.ascontiguousarray(spans), messages, self._grid, rows)
        for passed in self._let_through(messages, rows[:used]):
            if self._joining.warming:
                passed["flags"] |= WARMUP
            yield passed

    def _let_through(self, messages: Rows, rows: Rows) -> Iterator[Rows]:
        """Cut out what was refused or must wait; all else passes as it is, in long runs."""
        watched = (messages["refused"] != 0) | np.isin(messages["kind"], WATCHED)
        if self._joining.joins:
            watched |= (messages["kind"] == TRADE) & np.isin(messages["place"], list(self._joining.joins))
        apply_runs(self._rules, messages, watched)
        begin = 0
        for m in messages[watched]:
            start, stop = int(m["start"]), int(m["stop"])
            if m["kind"] == TRADE or (m["kind"] == CONNECTION and m["side"] == JOINED):
                yield rows[begin:start]
                begin = stop
                if m["refused"]:
                    yield from self._refuse(m)
                yield from self._joining.step(m, rows[start:stop])
                continue
            if m["kind"] == CONNECTION or m["kind"] == GAP:
                yield rows[begin:stop]
                begin = stop
                yield from self._doubt_all(m)
                continue
            verdict = self._verdict(m, rows[start:stop])
            pushed_out = self._rules[m["place"]].dropped() if verdict == APPLY else None
            if verdict == APPLY and pushed_out is None:
                continue
            if pushed_out is not None:
                yield from self._with_removals(rows[begin:stop], pushed_out)
                begin = stop
                continue
            if begin < start:
                yield rows[begin:start]
            begin = stop
            if verdict == _REFUSED:
                yield from self._refuse(m)
            elif verdict == _SNAPSHOT:
                yield from self._start_book(m, rows[start:stop])
            else:
                yield from self._set_aside(verdict, m, rows[start:stop])
        self.messages += len(messages) - int(np.count_nonzero(messages["refused"]))
        if begin < len(rows):
            yield rows[begin:]

    def _doubt_all(self, m: np.void) -> Iterator[Rows]:
        """Where a connection ended or begins, or lost messages, or what could not be read may have been any book's: no book is known any more."""
        if m["kind"] == CONNECTION and m["side"] not in (CONNECTING, DISCONNECTED, OVERRUN):
            return
        self._give_up()
        for place, rule in enumerate(self._rules):
            if not rule.waiting:
                expected = rule.last
                rule.lose()
                yield self._gap(m, CONNECTION_LOST if m["kind"] == CONNECTION else int(m["check"]), expected, 0, place)

    def _verdict(self, m: np.void, rows: Rows) -> int:
        if m["refused"]:
            return _REFUSED
        if m["kind"] == BOOK_SNAPSHOT:
            return _SNAPSHOT
        return self._rules[m["place"]].judge(m, rows)

    def _with_removals(self, rows: Rows, pushed_out: Rows | None) -> Iterator[Rows]:
        """`rows`, whose last message pushed out levels, and behind it rows that remove them, with the header of its last row."""
        if pushed_out is None:
            yield rows
            return
        rows["flags"][-1] &= 255 - EVENT_END  # the event goes on with the levels it pushed out
        yield rows
        for field in ("ts_event_ns", "ts_recv_ns", "instrument_id", "source_id", "venue_seq", "prev_seq", "first_seq", "origin"):
            pushed_out[field] = rows[field][-1]
        yield pushed_out

    def _refuse(self, m: np.void) -> Iterator[Rows]:
        """A number was bad; where it was the book's, what follows would be applied to a wrong book."""
        self.count(int(m["refused"]), f"line {m['line'] + 1}: {reasons.DOC[int(m['refused'])]}")
        rule = self._rules[m["place"]]
        if m["kind"] not in (BOOK_DELTA, BOOK_SNAPSHOT) or rule.waiting:
            return
        rule.lose()
        yield self._gap(m, SEQUENCE_GAP, rule.last, rule.link(m))

    def _start_book(self, m: np.void, rows: Rows) -> Iterator[Rows]:
        """A snapshot, then what had to wait for it."""
        place = int(m["place"])
        rule = self._rules[place]
        verdict = rule.start(m, rows)
        if verdict == STALE:
            self.count(SNAPSHOT_STALE, _where(rows))
            return
        if verdict == BREAK:
            yield self._gap(m, rule.reason, rule.expected, rule.got)
            return
        yield from self._with_removals(rows, rule.dropped())
        held = self._held[place]
        held.gap_told = False
        for message in held.take():
            verdict = rule.judge(message.message, message.rows)
            if verdict == APPLY:
                yield message.rows
            else:
                yield from self._set_aside(verdict, message.message, message.rows)

    def _set_aside(self, verdict: int, m: np.void, rows: Rows) -> Iterator[Rows]:
        """A book message that does not reach the book now; a break is told, and the message kept where the rule holds such."""
        if verdict in _DROPPED:
            self.count(_DROPPED[verdict], _where(rows))
            return
        place = int(m["place"])
        held, rule = self._held[place], self._rules[place]
        if verdict == BREAK:
            yield self._gap(m, rule.reason, rule.expected, rule.got)
        if not rule.holds:
            if verdict != BREAK:
                self.count(DEPTH_REFUSED, f"{_where(rows)}: no snapshot yet")
            return
        pushed_out = held.push(m, rows)
        if pushed_out:
            self.count(
                DEPTH_REFUSED if held.gap_told else HELD_OVERFLOW, f"{_where(rows)}: no snapshot yet", pushed_out
            )
            if not held.gap_told:
                yield self._gap(m, SEQUENCE_GAP, rule.last, int(m["first_seq"]))

    def _gap(self, m: np.void, reason: int, expected: int, got: int, place: int = -1) -> Rows:
        """The record that says that a book, of the instrument of message `m` unless said, is not to be believed from it on."""
        place = int(m["place"]) if place < 0 else place
        self._held[place].gap_told = True
        row = empty(1)
        for field in ("ts_event_ns", "ts_recv_ns"):
            row[field] = m[field]
        row["venue_seq"] = 0 if m["kind"] == CONNECTION else m["venue_seq"]
        row["origin"], row["instrument_id"] = m["line"], self.ids[place]
        row["kind"], row["flags"], row["source_id"] = GAP, EVENT_END, self.source_id
        row["expected_seq"] = min(expected, INT64_MAX)  # one behind the greatest id has no place
        row["got_seq"], row["lost"], row["reason"] = got, -1, reason  # ids count updates, not messages
        if m["kind"] != GAP:  # else it is counted already
            self.count(reason, f"line {int(m['line']) + 1}: expected {expected}, got {got}")
        self._ask_again(place, reason)
        return row

    def tell_hole(self, m: np.void, expected: int, got: int) -> Rows:
        """Between the history and message `m` trades are missing, and who knows what else: a GAP record, and the book is asked for."""
        self._rules[m["place"]].lose()
        return self._gap(m, HISTORY_HOLE, expected, got)

    def ask_past(self, place: int, after_ns: int) -> None:
        """Trades are missing after `after_ns` of the venue's clock (0: from the beginning): a live feed asks for them."""

    def hole_stays(self, place: int, why: str) -> None:
        """They cannot be had. What is recorded goes on as its session did; a live feed may raise FeedError."""

    def _ask_again(self, place: int, reason: int) -> None:
        """A book was lost: a live feed asks the venue for it."""


def _where(rows: Rows) -> str:
    return f"line {int(rows['origin'][0]) + 1}"

