"""A worker: the process that runs one stage of the line, or all stages behind INGEST, over rings in shared memory.

It is told everything by an `Assignment`, builds the line itself from the configuration, and keeps only the state of its stage.
Its words to the supervisor are its exit status and files: why it stopped, how long its stage took, what it had trouble with.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from engine.config import Config, resolve
from engine.errors import EngineError, LineBroken, LineStopped
from engine.line import Built, build_line, troubles
from engine.loops import DECIDING, DONE, FAULT, FEATURES, SLICE_OVER, WHOLE
from engine.ring_loops import BY_NEXT, STOP, Edge, Rows, run_ingest
from engine.session import BUGS, SLICE_NS, broken, strategy_fault
from engine.worker_loop import HANDLED, STATE_CELLS, STOPPED, UNSETTLED, run_worker
from handlers.signals.errors import StrategyError
from transport import compiled
from transport.atomics import store_cell
from transport.clock import cycles_now, cycles_per_ns
from transport.errors import TransportError
from transport.instruments import Instrument
from transport.ring import PRODUCER, Ring
from transport.wait import PARK

FAULTED, FAILED, BROKEN = 3, 4, 5  # exit status: a strategy's fault, anything else, the engine's; 0 is the end or a word to stop
INPUT, REPORTS = "input", "reports"
CONFIG, FAULT_FILE, HISTOGRAMS, TROUBLES = "config.toml", "{}.fault", "{}.npy", "{}.json"


@dataclass(frozen=True)
class Assignment:
    """What a worker is to do; plain values, for they cross to another process."""

    name: str  # of the worker, in messages and files
    stage: int  # row of engine.loops' stages; WHOLE is all of them
    place: int  # among INPUT's consumers
    rings: dict[str, str]  # edge -> segment
    folder: str  # config.toml, and where its own files go
    instruments: bytes  # the table as JSON
    base: str
    epoch: int
    core: int | None
    strategy: int  # how it waits
    code_hash: str  # of the process that hands it out


class Fault(msgspec.Struct):
    """What a worker says of a fault."""

    seq: int
    text: str
    trace: str = ""  # of the engine's own


@dataclass
class Post:
    """A worker's rings as its loop takes them; what its stage has no use for is private."""

    inputs: Ring
    above: Ring
    rows: list[Ring]
    back: Ring

    def edges(self) -> tuple[Edge, Edge, Rows, Edge]:
        """(INPUT, the stage before, every stage's rows, REPORTS)."""
        return edge(self.inputs), edge(self.above), Rows(*map(edge, self.rows)), edge(self.back)


def edge(ring: Ring) -> Edge:
    """A ring's memory."""
    return Edge(ring.cursors, ring.slots)


def _private() -> Ring:
    return Ring.in_process(2, 2)


def new_state() -> np.ndarray[Any, Any]:
    """What `run_worker` keeps between two calls."""
    state = np.zeros(STATE_CELLS, np.int64)
    state[HANDLED] = -1
    return state


def load_ring_kernels() -> None:
    """Compile the loops of the placements, or load them from the disk cache, by letting each come back at once."""
    built = build_line(Config(), (), 0, 1, Path())
    stopped = Ring.in_process(2, 2)
    store_cell(stopped.cursors, STOP, 1)
    inputs, above, rows, back = Post(stopped, _private(), [_private() for _ in DECIDING], _private()).edges()
    with compiled.interruptible():
        run_worker(built.line, WHOLE, inputs, 0, above, rows, back, new_state(), PARK, 0)
        run_ingest(built.line, edge(_private()), rows, back, PARK, 0)


def _attach(a: Assignment) -> Post:
    """The rings of an assignment, each joined in the part that the stage has."""

    def joined(name: str, who: int) -> Ring:
        ring = Ring.attach(a.rings[name])
        ring.join(who)
        return ring

    mine = range(len(DECIDING)) if a.stage == WHOLE else (a.stage - FEATURES,)
    rows = [joined(name, PRODUCER) if k in mine else _private() for k, name in enumerate(DECIDING)]
    above = joined(DECIDING[mine[0] - 1], BY_NEXT) if mine[0] else _private()
    back = joined(REPORTS, PRODUCER) if mine[-1] == len(DECIDING) - 1 else _private()
    return Post(joined(INPUT, a.place), above, rows, back)  # INPUT last: by that the supervisor knows us ready


def _run(a: Assignment, built: Built) -> int:
    """Run the stage to its end; returns the loop's last word. Raises LineStopped, LineBroken."""
    load_ring_kernels()
    ticks = cycles_per_ns()
    inputs, above, rows, back = _attach(a).edges()
    state = new_state()
    gc.collect()
    gc.freeze()
    gc.disable()
    bug: BaseException | None = None
    while True:
        deadline = cycles_now() + int(SLICE_NS * ticks)
        try:
            why = int(run_worker(built.line, a.stage, inputs, a.place, above, rows, back, state, a.strategy, deadline))
        except BUGS as raised:
            bug, why = raised, SLICE_OVER
            state[UNSETTLED] = FAULT  # as after a strategy's: what was decided before it is handed on, nothing more is handled
        if why == FAULT:
            raise broken(bug, int(built.line.scratch.input[0]["seq"])) if bug else strategy_fault(built)
        if why != SLICE_OVER:
            return why
        if _orphaned():
            return STOPPED


def _orphaned() -> bool:
    """Whether the process that started us was killed."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


def _work(a: Assignment) -> int:
    if a.core is not None:
        os.sched_setaffinity(0, {a.core})
    if a.code_hash != compiled.CODE_HASH:
        raise EngineError("the program's files were changed while the run was starting: start it again")
    folder = Path(a.folder)
    config, _ = resolve(folder / CONFIG)
    instruments = msgspec.json.decode(a.instruments, type=list[Instrument])
    built = build_line(config, instruments, 0, a.epoch, Path(a.base))
    try:
        why = _run(a, built)
    except LineStopped as stopped:
        trace, status = (stopped.trace, BROKEN) if isinstance(stopped, LineBroken) else ("", FAULTED)
        fault = Fault(stopped.seq, str(stopped), trace)
        (folder / FAULT_FILE.format(a.name)).write_bytes(msgspec.json.encode(fault))
        return status
    assert why in (DONE, STOPPED)
    np.save(folder / HISTOGRAMS.format(a.name), built.line.histograms["bucket"])
    (folder / TROUBLES.format(a.name)).write_bytes(msgspec.json.encode(troubles(built.line)))
    return 0


def work(a: Assignment) -> None:
    """A worker's main. A terminal's Ctrl-C is the supervisor's to act on; a SIGTERM of our own ends us in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(FAILED))
    try:
        status = _work(a)
    except Exception as error:
        status = FAILED
        if not _orphaned():  # else nobody reads it, and another worker may have removed the folder
            told = isinstance(error, EngineError | StrategyError | TransportError)  # a user can act on it
            text = str(error) if told else f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}"
            (Path(a.folder) / FAULT_FILE.format(a.name)).write_text(text)
    if _orphaned():
        shutil.rmtree(a.folder, ignore_errors=True)  # its owner cannot any more; whoever of us is last leaves nothing
    sys.exit(status)
