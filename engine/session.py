"""One run of the line on this thread over feeds in memory: windows in, batches out, slice by slice."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.errors import LineStopped
from engine.journaling import Batch, Rows, Window
from engine.line import Built, troubles
from engine.loops import DECIDING, DONE, FAULT, LOGS_FULL, PACED, SLICE_OVER, WANTS_WINDOW, run_fused
from handlers.domain import edges
from handlers.domain.queue import NEVER
from handlers.ingest.sequencer import open_window, start_timers
from handlers.signals.stage import STAGE_FULL, STEP_ENDLESS, STEP_OVERRAN, STEP_RAISED

from transport.clock import cycles_now, cycles_per_ns
from transport.records import copied, empty

SLICE_NS = 40_000_000  # a loop returns this often, inside 50 ms, for progress, signals and pacing
SWITCH_S = 1e-4  # the line's thread gets the interpreter back this soon from the journal's, not after Python's own 5 ms
PACED_HAND_OVER_S = 0.1  # a paced run makes few rows: they must not wait for a window to be used up before they are journaled
TERMINATED = 128 + signal.SIGTERM
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
        """Run to the end of the feeds; raises LineStopped at the input where a strategy broke its contract."""
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
                why = self._slice(cycles_now() + self._slice_cycles)
            except AssertionError:  # a bug: what was sequenced before it is journaled all the same
                self._hand_over()
                raise
            waited = why == PACED and time.monotonic() - self._handed_over > PACED_HAND_OVER_S
            if waited or why in (WANTS_WINDOW, LOGS_FULL, DONE, FAULT) or line.sequencer.head[0]["runs"] > 1 << 12:
                self._hand_over()
            progress(int(line.sequencer.head[0]["next_seq"]))
            if why == WANTS_WINDOW:
                self._refill()
            elif why == PACED:
                time.sleep(0.001)
            elif why == FAULT:
                raise_interrupt(self.built)
                raise LineStopped(fault_text(self.built), int(line.control[0]["fault_seq"]))
            elif why == DONE:
                return
            assert why in (SLICE_OVER, WANTS_WINDOW, LOGS_FULL, PACED)

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
        runs, own = int(head["runs"]), int(head["own"])
        counts = line.logs.counts
        if not runs and not counts.any():
            return
        logs: list[Any] = [getattr(line.logs, name) for name in DECIDING]
        batch = Batch(
            line.sequencer.runs[:runs].copy(),
            copied(line.sequencer.own[:own]),
            tuple(copied(log[: int(n)]) for log, n in zip(logs, counts, strict=True)),
            [i.current for i in self.intakes],
        )
        head["runs"] = head["own"] = 0
        counts[:] = 0
        self.take(batch)


def raise_interrupt(built: Built) -> None:
    """A Ctrl-C or a SIGTERM that came while a plain Python step ran is not that step's fault: raise it."""
    for strategy in built.strategies:
        for error in strategy.loaded.errors:
            if isinstance(error, KeyboardInterrupt | Terminated):
                raise error


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
