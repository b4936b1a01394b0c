"""The latency rig: records that come by the clock, through the engine's own INGEST and line processes.

    process 1: paced window ──► run_ingest: sequence, checks, timers ──► INPUT ring ──► process 2: the engine's worker (WHOLE)
               orders seen  ◄── rows of ORDERS taken from their ring ◄─────────────────  FEATURES … ORDERS, paper exchange

Record i is due at i / rate, whether or not the line keeps up: its receive time in the feed is that time, and INGEST may let it in
when the time stamp counter says so (`until_ns`, as in a paced replay, but moved by a compiled loop around `run_ingest`). So a
stall shows in every record that it delays (no coordinated omission). An order is timed from the due time of its cause, which
stands in its row, to the moment when the process that would send it has taken the row from the ring of ORDERS.

On: everything that `tickline replay --placement split` does, to the end of the input, and both processes spin. Off: the journal
and its hashes, which would want a third core; what it would be given is kept, and compared with a fused run afterwards.
Every 40 ms each process looks up into Python, as it does in any run: that is in the tail.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from engine.config import Config, RuntimeConfig
from engine.journaling import Batch
from engine.line import Built, build_line, load_kernels, sequence_first_words
from engine.loops import DECIDING, DONE, PACED, SLICE_OVER
from engine.ring_loops import Rows, ingest
from engine.session import Session
from engine.supervisor import PlacedSession
from engine.workers import INPUT, REPORTS, edge
from handlers.domain.borrowed import borrow
from perf.peers.terms import FEED_LATENCY_NS
from transport.atomics import cycles, pause
from transport.clock import cycles_now, cycles_per_ns
from transport.compiled import kernel
from transport.instruments import Instrument
from transport.records import EVENT_END, ORDER, copied
from transport.ring import Ring
from transport.wait import PARK, SPIN

Slots = np.ndarray[Any, Any]
START_NS = 1_700_000_000_000_000_000
LEAD_NS = 100_000_000  # from the start of the loop to the first record: both processes run by then
LOOK_NS = 1_000  # while INGEST is held or behind, it shows what it took this often: an order is seen at most so much too late

PACE = np.dtype([
    ("first_ns", "i8"),  # time of the line at `first_cycle`
    ("first_cycle", "i8"), ("cycles_per_ns", "f8"), ("look_cycles", "i8"),
    ("timed", "i8"),  # orders timed so far
])  # fmt: skip


class WrongAnswer(Exception):
    """The paced run decided something else than a fused run of the same records, or was not timed whole: there is no figure."""


@kernel
def run_paced(owned, inputs, rows, back, strategy, pace, took_ns, deadline):
    """The engine's `ingest` by the clock until `deadline` (cycles) or until Python is needed; returns why it came back.

    `took_ns` float64, one of each order: from its cause's due time until its row was taken from the ring.
    """
    line = borrow(owned)
    control, counts, orders = line.control[0], line.logs.counts, line.logs.orders
    p = pace[0]
    seen = counts[3]
    while True:
        now = cycles()
        control.until_ns = p.first_ns + np.int64((now - p.first_cycle) / p.cycles_per_ns) + 1
        why = ingest(line, inputs, rows, back, strategy, now + p.look_cycles)
        if seen < counts[3]:
            passed_ns = (cycles() - p.first_cycle) / p.cycles_per_ns
            while seen < counts[3]:
                r = orders[seen]
                seen += 1
                if r.kind == ORDER:
                    assert p.timed < len(took_ns), "a record has caused more than one order"
                    took_ns[p.timed] = passed_ns - (r.ts_recv_ns - p.first_ns)
                    p.timed += 1
        if why != SLICE_OVER and why != PACED:
            return why
        if cycles() > deadline:
            return SLICE_OVER
        pause()


def paced_feed(rows: Slots, rate: int) -> Slots:
    """A copy of a feed's rows, received one by one at `rate` a second; an event happened FEED_LATENCY_NS before its first row came."""
    out = copied(rows)
    places = np.arange(len(out))
    due = START_NS + places * 1_000_000_000 // rate
    begins = np.append(True, out["flags"][:-1] & EVENT_END != 0)
    out["ts_recv_ns"] = due
    out["ts_event_ns"] = due[np.maximum.accumulate(np.where(begins, places, 0))] - FEED_LATENCY_NS
    return out


class PacedSession(PlacedSession):
    """A run in two processes that lets its only window in by the clock and times its orders."""

    def __init__(self, built: Built, window: Slots, config: Config, strategy: int) -> None:
        """`strategy` is how both processes wait; batches are kept in `batches`."""
        self.batches: list[Batch] = []
        super().__init__("split", built, [iter([window])], self.batches.append, 0.0, config, Path(), "bench", 1)
        self._crew.strategy = strategy
        self._pace = np.zeros(1, PACE)
        self._took_ns = np.zeros(len(window))

    @property
    def took_ns(self) -> np.ndarray[Any, Any]:
        """Of each order made so far, in the order they were seen."""
        return self._took_ns[: int(self._pace["timed"][0])]

    def _slice(self, deadline: int) -> int:
        if not self._pace["first_cycle"][0]:
            self._begin()
        rings, line = self._crew.rings, self.built.line
        rows = Rows(*(edge(rings[name]) for name in DECIDING))
        why = int(
            run_paced(
                line, edge(rings[INPUT]), rows, edge(rings[REPORTS]), self._crew.strategy, self._pace, self._took_ns, deadline
            )
        )
        if why != DONE:
            self._crew.look()
            self._crew.check()
        return why

    def _begin(self) -> None:
        ticks = cycles_per_ns()
        self._pace["first_ns"], self._pace["cycles_per_ns"] = self.first_ns, ticks
        self._pace["look_cycles"] = int(LOOK_NS * ticks)
        self._pace["first_cycle"] = cycles_now() + int(LEAD_NS * ticks)


def load_paced_kernels() -> None:
    """Compile `run_paced`, or load it from the disk cache, by letting it come back at once."""
    built = build_line(Config(), (), 0, 1, Path())
    rings = [edge(Ring.in_process(2, 2)) for _ in range(6)]
    pace = np.zeros(1, PACE)
    pace["cycles_per_ns"] = 1.0
    run_paced(built.line, rings[0], Rows(*rings[1:5]), rings[5], PARK, pace, np.zeros(1), 0)


@dataclass(frozen=True)
class Decided:
    """What a run decided: a digest of each stage's log and of the line's own inputs, and how many rows each has."""

    digests: dict[str, str]
    rows: dict[str, int]
    orders: int

    @classmethod
    def of(cls, batches: list[Batch]) -> Decided:
        """What a session handed over, in its order."""
        logs = {name: [batch.decisions[k] for batch in batches] for k, name in enumerate(DECIDING)}
        logs["own inputs"] = [batch.own for batch in batches]  # timers, commands, reports, each with its seq
        digests = {name: hashlib.sha256() for name in logs}
        for name, parts in logs.items():
            for part in parts:
                digests[name].update(part.view(np.uint8).data)
        return cls(
            {name: digest.hexdigest() for name, digest in digests.items()},
            {name: sum(map(len, parts)) for name, parts in logs.items()},
            sum(int(np.count_nonzero(part["kind"] == ORDER)) for part in logs["orders"]),
        )

    def compare(self, fused: Decided) -> None:
        """Raises WrongAnswer naming the logs in which this differs from a fused run."""
        wrong = [name for name in self.digests if self.digests[name] != fused.digests[name]]
        if wrong:
            said = ", ".join(f"{name} ({self.rows[name]:,} rows, fused {fused.rows[name]:,})" for name in wrong)
            raise WrongAnswer(f"the paced run and the fused one differ in {said}")


def _open(session: Session, config: Config) -> None:
    session.open(lambda ns: sequence_first_words(session.built, config, ns, 1, 1))


def run_fused_once(config: Config, instruments: tuple[Instrument, ...], window: Slots) -> Decided:
    """What one thread decides on the same records: the answer."""
    load_kernels()
    batches: list[Batch] = []
    session = Session(build_line(config, instruments, 1, 1, Path()), [iter([window])], batches.append)
    _open(session, config)
    session.run()
    return Decided.of(batches)


def run_paced_once(
    config: Config, instruments: tuple[Instrument, ...], window: Slots, answer: Decided, cores: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    """Tick to order of every order, ns, of one run on two `cores`, or unpinned without; raises WrongAnswer, and what a run raises."""
    load_paced_kernels()
    placed = msgspec.structs.replace(config, runtime=RuntimeConfig(placement="split", cores=cores))
    built = build_line(placed, instruments, 1, 1, Path())
    session = PacedSession(built, window, placed, SPIN if len(set(cores)) > 1 else PARK)
    _open(session, placed)
    session.run()
    Decided.of(session.batches).compare(answer)
    if len(session.took_ns) != answer.orders or not len(session.took_ns):
        raise WrongAnswer(f"{len(session.took_ns):,} orders were timed, {answer.orders:,} were made")
    if session.took_ns.min() < 0:
        raise WrongAnswer(f"an order was seen {-session.took_ns.min():.0f} ns before its cause was due")
    return session.took_ns
