"""A run in several processes: makes the rings, starts the workers, watches them, and leaves nothing behind.

    split     this process: feeds, INGEST, journal │ line: FEATURES … ORDERS, paper exchange
    staged    this process: feeds, INGEST, journal │ features │ signals │ risk │ orders, paper exchange

The segments lose their names as soon as every worker has them mapped: whoever is killed then, nothing stays in /dev/shm.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np

from engine.config import Config
from engine.dumped import dump
from engine.cores import check_cores, pinned
from engine.errors import LineBroken, LineStopped, WorkerDied
from engine.journaling import Batch
from engine.journaling import Rows as Slots
from engine.line import Built
from engine.loops import DECIDING, DONE, FEATURES, ORDERS, RISK, SIGNALS, WHOLE
from engine.observe.histogram import merge
from engine.ring_loops import BY_INGEST, INPUT_SLOTS, NEXT_OUT, STOP, Rows, run_ingest, take_what_is_left
from engine.scratch import scratch_folder
from engine.session import Session, terminable
from engine.watchdog import HUNG_S, Stillness
from engine.workers import (
    BROKEN, CONFIG, FAULT_FILE, FAULTED, HISTOGRAMS, INPUT, REPORTS, TROUBLES, Assignment, Fault, edge, load_ring_kernels, work,
)  # fmt: skip
from handlers.domain.queue import NEVER
from handlers.orders.brokers.paper import REPORTS_MAX
from transport import compiled
from transport.atomics import load_cell, store_cell
from transport.ring import CLOSED, PRODUCER, WATERMARK, Peer, Ring, consumer_cell
from transport.segment import as_word, sweep
from transport.wait import PARK, YIELD

WORKERS = {
    "split": (("line", WHOLE),),
    "staged": (("features", FEATURES), ("signals", SIGNALS), ("risk", RISK), ("orders", ORDERS)),
}
ROW_SLOTS = 1 << 14
CONTEXT = multiprocessing.get_context("spawn")  # a fork of ours would share the journal's thread and its locks
START_S = 600.0  # a worker that compiles another machine's code for the first time takes minutes, not more
STOP_S = 5.0  # a loop comes back every 20 ms; what has not ended then hangs


class Crew:
    """The rings and the workers of one run; as a context manager it starts them, and ends them whatever happens."""

    def __init__(
        self, placement: str, built: Built, config: Config, base: Path, run_name: str, epoch: int, hung_s: float
    ) -> None:
        self._config, self._instruments, self._base, self._epoch = config, built.instruments, base, epoch
        self._run = as_word(run_name)
        self.roles = WORKERS[placement]
        ours = os.sched_getaffinity(0)  # before we pin ourselves
        check_cores(config.runtime.cores, ours)
        self.strategy = YIELD if len(self.roles) < len(ours) else PARK
        self.workers: dict[str, BaseProcess] = {}
        self.rings: dict[str, Ring] = {}
        self.troubles: dict[str, int] = {}
        self._hung_s = hung_s
        self._hung: dict[str, str] = {}  # workers that were ended for it, and what is said of them
        self._still: list[Stillness] = []  # of each worker, once all have begun
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        for ring in self.rings.values():
            store_cell(ring.cursors, STOP, 1)  # workers look at INPUT's
        for process in self.workers.values():
            self._end(process)
        self._ends.close()

    def _start(self) -> None:
        sweep()
        self._make_rings()
        self._ends.enter_context(pinned(self._core(0)))
        self._folder = self._ends.enter_context(scratch_folder("run"))
        (self._folder / CONFIG).write_text(dump(self._config))
        for place, (name, stage) in enumerate(self.roles):
            process = CONTEXT.Process(target=work, args=(self._assignment(name, stage, place),), name=name, daemon=True)
            process.start()
            self.workers[name] = process
        self._await_all()
        for ring in self.rings.values():
            ring.unlink()
        self._still = [Stillness() for _ in self.roles]

    def _make_rings(self) -> None:
        followed = {name for name, _ in self.roles} & set(DECIDING[:-1])  # stages whose rows another worker reads
        wanted = {INPUT: (INPUT_SLOTS, len(self.roles)), REPORTS: (REPORTS_MAX, 1)}
        wanted |= {name: (ROW_SLOTS, 2 if name in followed else 1) for name in DECIDING}
        for name, (capacity, consumers) in wanted.items():
            self.rings[name] = self._ends.enter_context(Ring.create(self._run, name, capacity, consumers))
            self.rings[name].join(PRODUCER if name == INPUT else BY_INGEST)
        store_cell(self.rings[REPORTS].cursors, NEXT_OUT, NEVER)

    def _core(self, place: int) -> int | None:
        cores = self._config.runtime.cores
        return cores[place % len(cores)] if cores else None

    def _assignment(self, name: str, stage: int, place: int) -> Assignment:
        return Assignment(
            name, stage, place, {k: ring.name for k, ring in self.rings.items()}, str(self._folder),
            msgspec.json.encode(list(self._instruments)), str(self._base.resolve()), self._epoch, self._core(place + 1),
            self.strategy, compiled.CODE_HASH,
        )  # fmt: skip

    def _await_all(self) -> None:
        """Wait until every worker has joined INPUT, the last it does before its loop; raises WorkerDied."""
        late = time.monotonic() + START_S
        for place, (name, _) in enumerate(self.roles):
            while self.rings[INPUT].peer(place) is not Peer.ALIVE:
                self.check()
                if time.monotonic() > late:
                    raise WorkerDied(f"worker {name} has not started within {START_S:.0f} s")
                time.sleep(0.002)

    def look(self) -> None:
        """Once a slice: a worker that has given no sign for HUNG_S of the time in which we ran is ended; `check` then raises."""
        for place, (name, stage) in enumerate(self.roles):
            beats = int(load_cell(self.rings[INPUT].cursors, consumer_cell(place)))
            if self._still[place].look(beats) > self._hung_s and self.workers[name].exitcode is None:
                handled = self._handled(name, stage)
                self._hung[name] = (
                    f"worker {name} has not moved for {self._hung_s:g} s {f'after seq {handled}' if handled >= 0 else 'since it began'}: "
                    "its process is stopped, or a strategy does not return"
                )
                self.workers[name].kill()
                self.workers[name].join(STOP_S)

    def _handled(self, name: str, stage: int) -> int:
        """The last input that a worker is known to have done with."""
        return int(load_cell(self.rings[DECIDING[-1] if stage == WHOLE else name].cursors, WATERMARK))

    def ended(self) -> list[str]:
        """Workers that do not run any more."""
        return [name for name, process in self.workers.items() if process.exitcode is not None]

    def check(self) -> None:
        """Raises LineStopped with a strategy's fault, LineBroken with one of ours, or WorkerDied, when a worker has ended."""
        ended = self.ended()
        for name in sorted(ended, key=lambda n: self.workers[n].exitcode not in (FAULTED, BROKEN)):  # a fault tells more than its echo
            status = self.workers[name].exitcode
            path = self._folder / FAULT_FILE.format(name)
            text = path.read_text() if path.exists() else ""
            if status in (FAULTED, BROKEN):
                fault = msgspec.json.decode(text, type=Fault)
                raise LineBroken(fault.text, fault.seq, fault.trace) if status == BROKEN else LineStopped(fault.text, fault.seq)
            if name in self._hung:
                raise WorkerDied(f"{self._hung[name]}; the journal is whole up to where it had come")
            how = f"was killed by signal {-status}" if status is not None and status < 0 else f"ended with status {status}"
            raise WorkerDied(f"worker {name} {how}{': ' + text if text else ''}; the journal is whole up to where it had come")

    def catching_up(self) -> bool:
        """Whether a worker that still runs has yet to handle what one before it, that has ended, handed on."""
        reach = -1
        ended = self.ended()
        for name, stage in self.roles:
            handled = self._handled(name, stage)
            if name in ended:
                reach = handled
            elif handled < reach:
                return True
        return False

    def finish(self, line: Any) -> None:
        """The input has ended: let every worker end, and gather their histograms into `line`'s."""
        store_cell(self.rings[INPUT].cursors, CLOSED, 1)  # pairs with the load of `is_closed`; we are its producer
        for name, process in self.workers.items():
            process.join(STOP_S)
            if process.exitcode != 0:
                self.check()
                raise WorkerDied(f"worker {name} does not end; its rows are all there")
            theirs = np.load(self._folder / HISTOGRAMS.format(name))
            for mine, more in zip(line.histograms["bucket"], theirs, strict=True):
                mine[:] = merge(np.stack([mine, more]))
            said = msgspec.json.decode((self._folder / TROUBLES.format(name)).read_bytes(), type=dict[str, int])
            for what, times in said.items():  # every worker folds the books: the same trouble is not several
                self.troubles[what] = max(times, self.troubles.get(what, 0))

    def _end(self, process: BaseProcess) -> None:
        for harder in (None, process.terminate, process.kill):
            if harder is not None:
                harder()
            process.join(STOP_S)
            if process.exitcode is not None:
                return


class PlacedSession(Session):
    """A Session whose stages run in other processes; `built`'s own sequencer is INGEST, its other stages are not used."""

    def __init__(
        self,
        placement: str,
        built: Built,
        feeds: Sequence[Iterator[Slots]],
        take: Callable[[Batch], None],
        speed: float,
        config: Config,
        base: Path,
        run_name: str,
        epoch: int,
        hung_s: float = HUNG_S,
    ) -> None:
        """`placement` "split" or "staged"; `config`, `base` and `epoch` are what `built` was built from.

        A worker that needs more than `hung_s` for one input ends the run: what every strategy of plain Python does with one
        record must together take less.
        """
        super().__init__(built, feeds, take, speed, config.line.timer_origin_ns)
        assert built.line.sequencer.head[0]["next_seq"] == 0, "a record's seq is its position in INPUT"
        self._crew = Crew(placement, built, config, base, run_name, epoch, hung_s)

    def run(self, progress: Callable[[int], None] = lambda inputs: None) -> None:
        """Start the workers, run to the end of the feeds, end them; raises LineStopped, WorkerDied, ConfigError, SegmentError."""
        began = time.monotonic()
        with terminable():
            load_ring_kernels()
            with self._crew as crew:
                self.starting_s = time.monotonic() - began
                self._began_ns = time.monotonic_ns()
                super().run(progress)
                crew.finish(self.built.line)

    def troubles(self) -> dict[str, int]:
        """Those of the workers, who had the books and the orders."""
        return self._crew.troubles

    def _slice(self, deadline: int) -> int:
        crew, line = self._crew, self.built.line
        rows = Rows(*(edge(crew.rings[name]) for name in DECIDING))
        why = int(run_ingest(line, edge(crew.rings[INPUT]), rows, edge(crew.rings[REPORTS]), crew.strategy, deadline))
        if why == DONE:
            return why
        crew.look()
        if crew.ended():
            self._take_the_rest(rows)
            crew.check()
        return why

    def _take_the_rest(self, rows: Rows) -> None:
        """A worker has ended: let those behind it handle what it handed on, and take every row that was made."""
        late = time.monotonic() + STOP_S
        while True:
            more = self._crew.catching_up() and time.monotonic() < late  # before the rows: their watermark comes after them
            taken = take_what_is_left(self.built.line, rows)
            self._hand_over()
            if taken and not more:
                return
            time.sleep(0.001)
