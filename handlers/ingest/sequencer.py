"""The sequencer: the only way in. It merges feeds, reports, commands and timers by time and rank and gives each its `seq`.

    rank 0  timers      due times start + k * interval; a timer for T precedes the first record with time >= T
                     (in a pause of the feeds of over PAUSE_NS, the first and the last alone)
         1  commands    configuration's first words, operators, the end of the feeds
         2  reports     what the exchange answered, by the time it is due back
         4+ feeds       by index, each in its own order

The order is (time, rank, position in source). A feed's time is its receive time, never going back within the feed. Nothing here
reads a clock: in a replay the line's time is `max(previous, receive time)`, whatever the speed.

A feed stands in memory as a *window* of slots, refilled by the caller; the sequencer copies a slot, stamps it, and notes in
`runs` which rows of which feed it admitted, so that the journal can be written off this thread.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from handlers.domain import edges, reasons
from handlers.domain.borrowed import borrow
from handlers.domain.limits import CLOCKS_APART_NS, PRICE_MAX, QTY_MAX
from handlers.domain.memory import copy_slot, prefetch_slot, slot_at, zero_slot
from handlers.domain.queue import NEVER, Queue, first, new_queue, pop, push
from transport.compiled import kernel
from transport.records import (
    ASK, BAR, BID, BOOK_DELTA, BOOK_SNAPSHOT, BY_INGEST, CANCEL_ALL, CLEAR, COMMAND, CONNECTION, END_OF_FEED, EVENT_END, FEED_BASE,
    FLATTEN, NO_INSTRUMENT, QUOTE, SLOT_BYTES, TIMER, WARMUP, empty,
)  # fmt: skip

FEEDS_MAX = 64
COMMANDS_MAX = 65536
AHEAD = 40  # slots that are asked for in advance: over a page, where the processor's own prefetching stops
PAUSE_NS = 31 * 86_400 * 10**9  # no market closes for so long; a second's timers of so long a time are 2.7 million, seconds of work
OWN = -1  # source of a run of the line's own records
MARKET = edges.KINDS[edges.FEEDS, FEED_BASE]  # a constant: `edges.forged` looks it up
INTERVAL_MAX_NS = 366 * 86_400 * 10**9  # of a bar: a year
RECORDS, CLOSING, ENDING = 0, 1, 2  # phases: feeds have records; their end is said; what was left over is withdrawn
# What `peek` answers besides a feed's index.
NOTHING, STARVED, A_TIMER, A_COMMAND, A_REPORT = -1, -2, -3, -4, -5

HEAD = np.dtype(
    [
        ("next_seq", "i8"),
        ("ts_seq_ns", "i8"),  # of the last record
        ("epoch", "i8"),
        ("instruments", "i8"),
        ("feeds", "i8"),
        ("timer_ns", "i8"),  # interval, 0 is off
        ("timer_due", "i8"),
        ("timers", "i8"),
        ("phase", "i8"),  # RECORDS, …
        ("flatten", "i8"),
        ("runs", "i8"), ("own", "i8"),  # entries used since the caller took them
        ("refused", "i8"),
    ]
)  # fmt: skip
WINDOW = np.dtype(
    [
        ("address", "i8"),  # of the window's first slot
        ("first", "i8"),  # row number of that slot within the feed
        ("at", "i8"), ("rows", "i8"),  # next slot, and how many there are
        ("final", "i8"),  # the feed has no window after this one
        ("key_ns", "i8"),  # time of the slot at `at`, which may enter the line; NEVER when the feed has ended
        ("quiet_ns", "i8"),  # a live feed whose window is used up has no record before this
        ("rank", "i8"),
        ("warm", "i8"),  # the flag WARMUP as the last record before the window bore it
        ("warm_last", "i8"),  # and as the window's own last one does
    ]
)  # fmt: skip
RUN = np.dtype([("source", "i8"), ("first", "i8"), ("count", "i8"), ("seq", "i8")])


class Sequencer(NamedTuple):
    """`runs` and `own` are emptied by the caller; `counters[reason]` counts what was refused."""

    head: np.ndarray
    windows: np.ndarray
    commands: Queue
    runs: np.ndarray
    own: np.ndarray
    counters: np.ndarray
    scratch: np.ndarray


def new_sequencer(
    feeds: int, instruments: int, timer_ns: int, epoch: int, flatten: bool, runs_max: int = 1 << 16, own_max: int = 1 << 16
) -> Sequencer:
    """Room for `runs_max` runs and `own_max` own records between two takings."""
    if feeds > FEEDS_MAX:
        raise ValueError(f"{feeds} feeds; a line takes at most {FEEDS_MAX}")
    head = np.zeros(1, HEAD)
    head["epoch"], head["instruments"], head["feeds"] = epoch, instruments, feeds
    head["timer_ns"], head["timer_due"], head["flatten"] = timer_ns, NEVER, flatten
    windows = np.zeros(max(1, feeds), WINDOW)
    windows["key_ns"] = NEVER
    return Sequencer(
        head, windows, new_queue(COMMANDS_MAX), np.zeros(runs_max, RUN), empty(own_max), np.zeros(1000, np.int64), empty(2)
    )


def open_window(s: Sequencer, feed: int, rows: np.ndarray, first: int, final: bool) -> None:
    """Give feed `feed` its next window, which may hold no record that is let in; `rows` is kept until its runs are journaled."""
    w = s.windows[feed]
    assert w["at"] == w["rows"], "the window before this one is not used up"
    last = int(w["key_ns"]) if w["key_ns"] != NEVER else -NEVER
    w["warm"] = w["warm_last"]
    w["address"] = rows.ctypes.data if len(rows) else 0
    w["first"], w["at"], w["rows"], w["final"], w["key_ns"] = first, 0, len(rows), final, last
    seek_first(s, feed)


def quiet_until(s: Sequencer, feed: int, when: int) -> None:
    """Say that a live feed whose window is used up has no record before `when` (ns): timers and reports need not wait for one."""
    w = s.windows[feed]
    assert w["at"] == w["rows"] and not w["final"], "the feed has a record or has ended"
    w["quiet_ns"] = max(int(w["quiet_ns"]), when)


def start_timers(s: Sequencer, first_ns: int, origin_ns: int = 0) -> None:
    """Timers are due at origin + k * interval, k >= 1, after the first record's time; origin 0 is that time itself.

    After it, not at it: START and what belongs to it are due then, and nothing comes before them.
    """
    interval = int(s.head[0]["timer_ns"])
    origin = origin_ns or first_ns
    s.head[0]["timer_due"] = origin + interval * max(1, (first_ns - origin) // interval + 1) if interval else NEVER


@kernel
def command(s, action, when):
    """Queue a command of the line itself, due at `when`."""
    c = s.scratch[1]
    zero_slot(c)
    c.kind = COMMAND
    c.flags = EVENT_END
    c.source_id = BY_INGEST
    c.instrument_id = NO_INSTRUMENT
    c.action = action
    c.ts_recv_ns = when
    c.parts = 1
    push(s.commands, c, when)


@kernel(inline=True)
def peek(s, reports):
    """(source, time) of the next candidate: a feed's index, A_TIMER, A_COMMAND, A_REPORT, STARVED or NOTHING.

    STARVED: a feed whose window is used up may have the next one. Its next record is no earlier than its window's time, so what
    is due before that does not wait for it. Once every feed has ended it is CANCEL_ALL, at the last record's time and so before
    any report: from there on nothing new passes, or a strategy that answers every fill with an order would keep the line from
    its end.
    """
    head = s.head[0]
    source = NOTHING
    when = starved = NEVER
    for f in range(head.feeds):
        w = s.windows[f]
        if w.at == w.rows and not w.final:
            starved = min(starved, max(w.key_ns, w.quiet_ns))
        elif w.key_ns < when:
            source, when = f, w.key_ns
    if source == NOTHING and starved == NEVER and head.phase == RECORDS:
        command(s, CANCEL_ALL, head.ts_seq_ns)
        head.phase = CLOSING
    due = reports.head[0].next_due
    if due <= when and due < NEVER:
        source, when = A_REPORT, due
    due = s.commands.head[0].next_due
    if due <= when and due < NEVER:
        source, when = A_COMMAND, due
    if head.timer_due <= when and (when < NEVER or starved < NEVER):
        source, when = A_TIMER, head.timer_due
    if starved < NEVER and when >= starved:
        return STARVED, starved
    return source, when


@kernel(inline=True)
def refusal(r, instruments):
    """Reason why a feed's record may not enter the line, or 0. Everything downstream indexes without looking again."""
    if r.source_id < FEED_BASE or r.kind > 63 or not (MARKET >> np.uint64(r.kind)) & np.uint64(1):
        return reasons.FORBIDDEN_KIND
    if r.instrument_id >= instruments and not (r.kind == CONNECTION and r.instrument_id == NO_INSTRUMENT):
        return reasons.UNKNOWN_SYMBOL
    if r.parts > 1:  # a seq is one slot of the input log
        return reasons.LONG_ROW
    if r.kind <= BOOK_SNAPSHOT:
        if np.uint64(r.price_ticks + PRICE_MAX) > np.uint64(2 * PRICE_MAX) or np.uint64(r.qty_lots) > np.uint64(QTY_MAX):
            return reasons.OUT_OF_RANGE
        if r.kind == QUOTE and (
            np.uint64(r.ask_ticks + PRICE_MAX) > np.uint64(2 * PRICE_MAX) or np.uint64(r.ask_lots) > np.uint64(QTY_MAX)
        ):
            return reasons.OUT_OF_RANGE
        if r.kind >= BOOK_DELTA and r.side != BID and r.side != ASK and r.action != CLEAR:
            return reasons.OUT_OF_RANGE
    elif r.kind == BAR:
        return bar_refusal(r)
    return 0


@kernel
def bar_refusal(r):
    """`refusal` of a bar: high and low enclose open and close, all are prices, quantities are not negative, and it is over.

    Every decoder takes a bar for received at its end at the earliest, but where a venue's clock is ahead of ours; a table's day of a
    change of clocks is an hour shorter than its interval.
    """
    low, high = r.low_ticks, r.high_ticks
    inside = low <= r.open_ticks and r.open_ticks <= high and low <= r.close_ticks and r.close_ticks <= high
    if not inside or low < -PRICE_MAX or high > PRICE_MAX:
        return reasons.OUT_OF_RANGE
    if np.uint64(r.volume_lots) > np.uint64(QTY_MAX) or r.trades < 0:
        return reasons.OUT_OF_RANGE
    if np.uint64(r.interval_ns) > np.uint64(INTERVAL_MAX_NS) or r.ts_open_ns < 0:
        return reasons.OUT_OF_RANGE
    if r.ts_open_ns > r.ts_recv_ns + CLOCKS_APART_NS - r.interval_ns:
        return reasons.TIME_IN_FUTURE
    return 0


@kernel(inline=True)
def alone_until(s, f, reports, arrival_due, until_ns):
    """Time before which records of feed `f`, which `peek` has found, follow each other with nothing in between.

    What a record causes may shorten it: a report, or an arrival at the exchange (`arrival_due`), which precedes later records only.
    """
    head = s.head[0]
    before = min(min(until_ns, head.timer_due), min(s.commands.head[0].next_due, reports.head[0].next_due))
    before = min(before, arrival_due + 1)
    for g in range(head.feeds):
        if g != f:
            w = s.windows[g]
            before = min(before, (max(w.key_ns, w.quiet_ns) if w.at == w.rows else w.key_ns) + (g > f))
    return before


@kernel(inline=True)
def note_run(s, source, first, count, seq):
    """Extend the last run by `count` records, or begin one."""
    head = s.head[0]
    n = head.runs
    if n > 0:
        run = s.runs[n - 1]
        if run.source == source and run.first + run.count == first:
            run.count += count
            return
    run = s.runs[n]
    run.source, run.first, run.count, run.seq = source, first, count, seq
    head.runs = n + 1


@kernel(inline=True)
def stamp_input(s, r, when):
    """Give `r` its place and the line's time."""
    head = s.head[0]
    r.seq = head.next_seq
    r.epoch = head.epoch
    head.next_seq += 1
    if when > head.ts_seq_ns:
        head.ts_seq_ns = when
    r.ts_seq_ns = head.ts_seq_ns


@kernel(inline=True)
def seek(s, w):
    """Move window `w` on to its next record that may enter the line, count those that may not, and set its time by that one.

    A refused record has no effect at all: it moves no time and calls no timer, for the journal does not know it.
    """
    head = s.head[0]
    while w.at < w.rows:
        source = slot_at(w.address + w.at * SLOT_BYTES)
        reason = refusal(source, head.instruments)
        if reason == 0:
            if source.ts_recv_ns > w.key_ns:
                w.key_ns = source.ts_recv_ns
            return
        s.counters[reason] += 1
        head.refused += 1
        w.at += 1
    if w.final:
        w.key_ns = NEVER


@kernel
def first_refused(rows, instruments):
    """Index of the first row of a log that INGEST could not have let in, by its content, or -1."""
    for i in range(len(rows)):
        r = rows[i]
        if r.source_id >= FEED_BASE:
            if refusal(r, instruments):
                return i
        elif r.instrument_id >= instruments and r.instrument_id != NO_INSTRUMENT:
            return i
    return -1


@kernel
def warm_at(head, w, end, before):
    """The flag WARMUP of the last record let in from the first `end` slots of window `w`, `before` where none was."""
    for i in range(end - 1, -1, -1):
        r = slot_at(w.address + i * SLOT_BYTES)
        if refusal(r, head.instruments) == 0:
            return np.int64(r.flags & WARMUP)
    return np.int64(before)


@kernel
def seek_first(owned, feed):
    """`seek` for Python, after it has opened a window, and whether that ends in history."""
    s = borrow(owned)
    w = s.windows[feed]
    w.warm_last = warm_at(s.head[0], w, w.rows, w.warm)
    seek(s, w)


@kernel(inline=True)
def take_next(s, w, r):
    """Take the record that window `w` stands at into `r`, stamped; its run is the caller's to note."""
    address, when = w.address + w.at * SLOT_BYTES, w.key_ns
    copy_slot(r, slot_at(address))
    prefetch_slot(address + AHEAD * SLOT_BYTES)
    w.at += 1
    seek(s, w)
    stamp_input(s, r, when)


@kernel(inline=True)
def admit_feed(s, f, r):
    """`take_next` of feed `f`, noted."""
    w = s.windows[f]
    row = w.first + w.at
    take_next(s, w, r)
    note_run(s, f, row, 1, r.seq)


@kernel
def in_warmup(s):
    """WARMUP while the last record of some feed was of its history, else 0: nobody is to trade on a timer in there.

    Asked at timers alone, and of what was let in, however it was cut into windows: a re-execution finds the same.
    """
    head = s.head[0]
    for f in range(head.feeds):
        w = s.windows[f]
        if warm_at(head, w, w.at, w.warm):
            return np.int64(WARMUP)
    return np.int64(0)


@kernel(inline=True)
def timers_on(s, due):
    """How many intervals after `due` the next timer is due: 1, or as many as lead to the last one before the feeds' next record.

    Asks the feeds alone: when a report will come may be known earlier in one placement than in another.
    """
    head = s.head[0]
    record = NEVER
    for f in range(head.feeds):
        record = min(record, s.windows[f].key_ns)
    if record == NEVER or record - due <= PAUSE_NS:
        return 1
    return max(1, (record - due) // head.timer_ns)


@kernel(inline=True)
def take_own(edge, queue, r, seq):
    """Move the earliest row of `queue` to `r`; one that `edge` may not carry stays, is shown in `r` as `seq`, and is a fault."""
    copy_slot(r, queue.rows[first(queue)])
    fault = edges.forged(edge, r)
    if fault:
        r.seq = seq
    else:
        pop(queue)
    return fault


@kernel
def admit_own(s, reports, source, when, r):
    """Take a timer, command or report into `r` and keep it in `own`; returns 0, or the fault of `take_own`."""
    head = s.head[0]
    fault = np.int64(0)
    if source == A_TIMER:
        zero_slot(r)
        r.kind = TIMER
        r.flags = EVENT_END | in_warmup(s)
        r.source_id = BY_INGEST
        r.instrument_id = NO_INSTRUMENT
        r.due_ns = r.ts_recv_ns = when
        r.timer_id = head.timers
        r.parts = 1
        head.timers += 1
        head.timer_due += head.timer_ns * timers_on(s, when)
    elif source == A_COMMAND:
        fault = take_own(edges.COMMANDS, s.commands, r, head.next_seq)
    else:
        fault = take_own(edges.REPORTS, reports, r, head.next_seq)
    if fault:
        return fault
    stamp_input(s, r, when)
    s.own[head.own] = r
    note_run(s, OWN, np.int64(head.own), 1, r.seq)
    head.own += 1
    return 0


@kernel
def close_line(s):
    """Feeds have ended and nothing is in flight: withdraw (or flatten) what is left, then end; False once the end is sequenced."""
    head = s.head[0]
    if head.phase == CLOSING:
        command(s, FLATTEN if head.flatten else CANCEL_ALL, head.ts_seq_ns)
    elif head.phase == ENDING:
        command(s, END_OF_FEED, head.ts_seq_ns)
    else:
        return False
    head.phase += 1
    return True


@kernel(inline=True)
def full(s):
    """The caller must take `runs` and `own` before the next record."""
    head = s.head[0]
    return head.runs >= len(s.runs) or head.own >= len(s.own)


def source_of(feed: int) -> int:
    """source_id of the records of feed `feed`."""
    return FEED_BASE + feed
