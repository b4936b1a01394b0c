"""One run of the line on this thread over feeds in memory: windows in, batches out, slice by slice."""

from __future__ import annotations

import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.errors import LineBroken, LineStopped
from engine.journaling import Batch, Rows, Window
from engine.line import Built, troubles
from engine.loops import DECIDING, DONE, FAULT, LOGS_FULL, PACED, SLICE_OVER, WANTS_WINDOW, run_fused
from engine.watchdog import Inside
from handlers.contract import EVENT_ROW, FACTOR_ROW, INDICATOR_ROW
from handlers.domain import edges
from handlers.domain.queue import NEVER
from handlers.ingest.sequencer import RUN, first_refused, open_window, start_timers
from handlers.signals.stage import STAGE_FULL, STEP_ENDLESS, STEP_OVERRAN, STEP_RAISED
from transport.clock import cycles_now, cycles_per_ns
from transport.records import BAR, FEATURE, copied, empty

SLICE_NS = 40_000_000  # a loop returns this often, inside 50 ms, for progress, signals and pacing
SWITCH_S = 1e-4  # the line's thread gets the interpreter back this soon from the journal's, not after Python's own 5 ms
PACED_HAND_OVER_S = 0.1  # a paced run makes few rows: they must not wait for a window to be used up before they are journaled
TERMINATED = 128 + signal.SIGTERM
BUGS = (AssertionError, IndexError)  # what a kernel raises, and only for a bug; the second where indices are checked
FAULTS = {  # of a strategy; those of an edge are `handlers.domain.edges`'
    STEP_RAISED: "raised an error",
    STEP_OVERRAN: "wrote more rows than it declares (rows_max)",
    STEP_ENDLESS: "kept asking to be called again on one record",
    STAGE_FULL: "made more rows on one input than the stage can hold",
}


class Terminated(SystemExit):
    """A SIGTERM came."""


@contextmanager
def terminable() -> Iterator[None]:
    """A SIGTERM raises Terminated here, so that what was begun is ended in order; outside the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: Any) -> None:
        raise Terminated(TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass
class Intake:
    """A feed as the session reads it: its windows so far, and the one the sequencer is in."""

    windows: Iterator[Rows]
    current: Window = field(default_factory=lambda: Window(np.zeros(0, np.uint8), 0))
    ahead: Rows | None = None

    def begin(self) -> None:
        self.ahead = self._next()

    def _next(self) -> Rows | None:
        """The next window with rows in it: an empty one has no time to open the line or go on with."""
        return next((rows for rows in self.windows if len(rows)), None)

    def turn(self) -> tuple[Rows, int, bool]:
        """(rows, first row, final) of the next window."""
        rows = self.ahead
        assert rows is not None, "a feed that has ended was asked for more"
        self.ahead = self._next()
        self.current = Window(rows, self.current.first + len(self.current.rows))
        return rows, self.current.first, self.ahead is None


class Session:
    """Drives `run_fused` over the feeds; `take` receives a Batch whenever there is one."""

    doing = "replaying"  # what its progress says

    def __init__(self, built: Built, feeds: Sequence[Iterator[Rows]], take: Callable[[Batch], None], speed: float = 0.0, timer_origin_ns: int = 0) -> None:
        """`speed` 0 runs as fast as it can, else that many seconds of the feed a second."""
        self.built = built
        self.intakes = [Intake(f) for f in feeds]
        self.take = take
        self.speed = speed
        self.timer_origin_ns = timer_origin_ns
        self.first_ns: int | None = None
        self.starting_s = 0.0  # of the time that `run` takes, what passed before the first record: processes were started
        self._began_ns = 0
        self._handed_over = time.monotonic()
        self._handed_seq = 0  # the first that was not handed over, and of each feed the row after the last that was
        self._handed_rows = np.zeros(len(feeds), np.int64)
        self.inside = Inside()  # the loop
        self._taken_over = False
        self._slice_cycles = int(SLICE_NS * cycles_per_ns())  # the counter is measured once, which takes a moment

    def open(self, first_words: Callable[[int], None]) -> None:
        """Open every feed's first window; `first_words(ns)` queues what the log begins with."""
        sequencer = self.built.line.sequencer
        for number, intake in enumerate(self.intakes):
            intake.begin()
            if intake.ahead is None:
                intake.ahead = empty(0)
            self._turn(number)
        times = [int(w["key_ns"]) for w in sequencer.windows if w["at"] < w["rows"]]
        first = min(times) if times else 0
        self.first_ns = first
        start_timers(sequencer, first, self.timer_origin_ns)
        first_words(first)
        self._began_ns = time.monotonic_ns()

    def run(self, progress: Callable[[int], None] = lambda inputs: None) -> None:
        """Run to the end of the feeds; raises LineStopped at the input where a strategy broke its contract, or LineBroken."""
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        try:
            self._run(progress)
        finally:
            sys.setswitchinterval(before)

    def _run(self, progress: Callable[[int], None]) -> None:
        line = self.built.line
        while True:
            if self.speed:
                line.control["until_ns"] = self._until()
            try:
                with self.inside:
                    why = self._slice(cycles_now() + self._slice_cycles)
            except BUGS as bug:  # what was sequenced up to it is journaled all the same
                self.hand_over_rest()
                raise broken(bug, int(line.sequencer.head[0]["next_seq"]) - 1) from bug
            if self._is_time_to_hand_over(why) or line.sequencer.head[0]["runs"] > 1 << 12:
                self._hand_over()
            progress(int(line.sequencer.head[0]["next_seq"]))
            if why == WANTS_WINDOW:
                self._refill()
            elif why == PACED:
                time.sleep(0.001)
            elif why == FAULT:
                raise strategy_fault(self.built)
            elif why == DONE:
                return
            assert why in (SLICE_OVER, WANTS_WINDOW, LOGS_FULL, PACED)

    def _is_time_to_hand_over(self, why: int) -> bool:
        waited = why == PACED and time.monotonic() - self._handed_over > PACED_HAND_OVER_S
        return waited or why in (WANTS_WINDOW, LOGS_FULL, DONE, FAULT)

    def troubles(self) -> dict[str, int]:
        """`engine.line.troubles` of the run that has ended."""
        return troubles(self.built.line)

    def _slice(self, deadline: int) -> int:
        """Run until Python is needed or `deadline` (cycles); why it came back."""
        return int(run_fused(self.built.line, deadline))

    def _until(self) -> int:
        assert self.first_ns is not None
        return min(NEVER, self.first_ns + int((time.monotonic_ns() - self._began_ns) * self.speed) + 1)

    def _refill(self) -> None:
        sequencer = self.built.line.sequencer
        for number in range(len(self.intakes)):
            w = sequencer.windows[number]
            if w["at"] == w["rows"] and not w["final"]:
                self._turn(number)

    def _turn(self, number: int) -> None:
        """Open a feed's next window that has a record to let in, or its last one."""
        sequencer = self.built.line.sequencer
        w = sequencer.windows[number]
        while True:
            open_window(sequencer, number, *self.intakes[number].turn())
            if w["at"] < w["rows"] or w["final"]:
                return

    def _hand_over(self) -> None:
        line = self.built.line
        self._handed_over = time.monotonic()
        head = line.sequencer.head[0]
        if self._taken_over or (not head["runs"] and not line.logs.counts.any()):
            return
        batch = self._batch()
        windows = line.sequencer.windows[: len(self.intakes)]
        self._handed_seq, self._handed_rows = int(head["next_seq"]), windows["first"] + windows["at"]
        head["runs"] = head["own"] = 0
        line.logs.counts[:] = 0
        self.take(batch)

    def _batch(self) -> Batch:
        """Copies of what the line has made since the last handing over."""
        line = self.built.line
        head = line.sequencer.head[0]
        logs: list[Any] = [getattr(line.logs, name) for name in DECIDING]
        return Batch(
            line.sequencer.runs[: int(head["runs"])].copy(),
            copied(line.sequencer.own[: int(head["own"])]),
            tuple(copied(log[: int(n)]) for log, n in zip(logs, line.logs.counts, strict=True)),
            [i.current for i in self.intakes],
        )

    def hand_over_rest(self) -> None:
        """Hand over what was sequenced although the loop was left in the middle; the line does not go on afterwards."""
        if not self._taken_over:
            self._take_rest(self._batch_with_rest())

    def take_over(self) -> None:
        """`hand_over_rest` from another thread than the line's, for a loop that does not come back; the line's hands over no more.

        Where it moves or comes back meanwhile, nothing is handed over: the copies may be of several moments.
        """
        self._taken_over = True  # before `inside` is asked: a line that came out since then has seen it
        head = self.built.line.sequencer.head[0]
        next_seq = int(head["next_seq"])
        batch = self._batch_with_rest()
        if self.inside and int(head["next_seq"]) == next_seq:
            self._take_rest(batch)

    def _take_rest(self, batch: Batch) -> None:
        if len(batch.runs) or any(map(len, batch.decisions)):
            self.take(batch)

    def _batch_with_rest(self) -> Batch:
        """`_batch` and behind it the run of a feed's records that the loop was in: it notes that itself only at the run's end."""
        batch = self._batch()
        runs = batch.runs
        seq = self._handed_seq + int(runs["count"].sum())
        count = int(self.built.line.sequencer.head[0]["next_seq"]) - seq
        for feed in range(len(self.intakes)) if count else ():
            mine = runs[runs["source"] == feed]
            noted = max(mine["first"] + mine["count"], default=self._handed_rows[feed])
            end = self._taken(feed)
            if end > noted:
                batch.runs = np.append(runs, np.array([(feed, end - count, count, seq)], RUN))
                break
        return batch

    def _taken(self, feed: int) -> int:
        """Row of `feed` after the last that was let in from its window, which stands behind those it refused since."""
        w, instruments = self.built.line.sequencer.windows[feed], int(self.built.line.sequencer.head[0]["instruments"])
        rows, at = self.intakes[feed].current.rows, int(w["at"])
        while at and first_refused(rows[at - 1 : at], instruments) >= 0:
            at -= 1
        return int(w["first"]) + at


def raise_interrupt(built: Built) -> None:
    """A Ctrl-C or a SIGTERM that came while a plain Python step ran is not that step's fault: raise it."""
    for strategy in built.strategies:
        for error in strategy.loaded.errors:
            if isinstance(error, KeyboardInterrupt | Terminated):
                raise error


def strategy_fault(built: Built) -> LineStopped:
    """What stopped the line when a loop came back with FAULT; raises the interrupt that it was instead."""
    raise_interrupt(built)
    return LineStopped(fault_text(built), int(built.line.control[0]["fault_seq"]))


def broken(bug: BaseException, seq: int) -> LineBroken:
    """What stopped the line when a kernel raised `bug`, `seq` being the last input that was begun."""
    what = f"assertion {str(bug)!r} failed" if isinstance(bug, AssertionError) else f"{type(bug).__name__}: {bug}"
    return LineBroken(
        f"a fault of the engine, not of a strategy, stopped the line at seq {seq}: {what}; the journal is whole up to that input",
        seq, "".join(traceback.format_exception(bug)),
    )  # fmt: skip


def standstill(built: Built, seconds: float) -> str:
    """What hangs, in words, when the loop has not come back from one input: the strategies that it may have called there."""
    r, signals = built.line.scratch.input[0], built.line.signals
    subs, here = signals.subs[: signals.first[-1]], int(r["instrument_id"])
    if here < len(built.instruments):  # else a timer or a command, which concern every instrument
        mine = np.arange(len(subs))
        mine = (signals.first[here] <= mine) & (mine < signals.first[here + 1])
        subs = subs[mine | (subs["reads"] & np.uint64(1 << FACTOR_ROW) != 0)]  # rows of the universe are of every instrument
    kinds = np.uint64(1 << int(r["kind"]) | 1 << FEATURE | 1 << BAR | 1 << INDICATOR_ROW | 1 << EVENT_ROW | 1 << FACTOR_ROW)
    called = dict.fromkeys(built.strategies[int(s["strategy_id"]) - 1].name for s in subs if s["reads"] & kinds)
    who = f"strategy {' or '.join(called)} does not return" if called else "a loop of the engine does not end"
    return f"the line has not moved for {seconds:g} s at seq {int(r['seq'])}: {who}; the journal is whole up to that input"


def fault_text(built: Built) -> str:
    """Which strategy broke its contract, or which edge carried what it may not: how, and where."""
    line = built.line
    control = line.control[0]
    if int(control["fault"]) <= edges.FORGED:
        return f"{edges.told(int(control['fault']))}, at seq {int(control['fault_seq'])}; the journal is whole up to that input"
    sub = line.signals.subs[int(line.signals.failed[0])]
    strategy = built.strategies[int(sub["strategy_id"]) - 1]
    what = FAULTS[int(control["fault"])]
    detail = ""
    if strategy.loaded.errors:
        error = strategy.loaded.errors[-1]
        detail = f" ({type(error).__name__}: {error})"
    return (
        f"strategy {strategy.name} {what}{detail} at seq {int(control['fault_seq'])}, instrument "
        f"{built.instruments[int(sub['instrument_id'])].name}; the journal is whole up to that input"
    )
