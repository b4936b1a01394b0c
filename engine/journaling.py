"""The run's logs, written beside the line: what the line's thread hands over, another thread materialises, hashes and stores.

    line's thread ── Batch (runs, own records, decision rows, windows) ──► bounded queue ──► this thread ──► logs, hashes

A batch names the feed records by window and row, so the line never copies them for the journal. The queue is bounded: a disk
that cannot keep up stops the line, never the other way round. An error of the disk is raised at the next `put`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from engine.loops import DECIDING
from engine.watchdog import End
from handlers.ingest.sequencer import OWN
from transport.compiled import kernel
from transport.errors import StorageError
from transport.journal import LogWriter
from transport.records import BOOK_DELTA, BOOK_SNAPSHOT, QUOTE, TRADE, empty
from transport.reference import STORED_RUN, Sources, materialise, take_runs

Rows = np.ndarray[Any, Any]
BATCHES_MAX = 64  # in flight between the line and this thread
ABANDON_S = 30.0  # for what is still in the queue of a run that does not go on
PIECE_ROWS = 1 << 14  # materialised at a time
MARKET_WORDS = 8
INPUT_LOG = "input"


@dataclass(frozen=True)
class Window:
    """Rows of a feed as they stood in memory: `rows[0]` is row `first` of the feed."""

    rows: Rows
    first: int


@dataclass
class Batch:
    """Everything the line made since the last one; the arrays belong to the batch."""

    runs: np.ndarray[Any, Any]
    own: Rows
    decisions: tuple[Rows, ...]
    windows: Sequence[Window]


@kernel
def market_words(rows, out, place, counts):
    """Write the hashed words of every market row to `out`, in order; `place[i]` is its instrument. Returns how many.

    Hashed are kind, side, action and whether the event ends, venue time, prices, quantities, order id and venue sequence:
    what the market did, not when or how we heard of it.
    """
    n = 0
    for i in range(len(rows)):
        r = rows[i]
        kind = r.kind
        if kind != TRADE and kind != QUOTE and kind != BOOK_DELTA and kind != BOOK_SNAPSHOT:
            continue
        w = out[n]
        w[0] = np.int64(kind) | np.int64(r.side) << 8 | np.int64(r.action) << 16 | np.int64(r.flags & 3) << 24
        w[1] = r.ts_event_ns
        w[2] = r.price_ticks
        w[3] = r.qty_lots
        w[4] = r.ask_ticks if kind == QUOTE else (r.order_id if kind != TRADE else 0)
        w[5] = r.ask_lots if kind == QUOTE else 0
        w[6] = r.venue_seq
        w[7] = 0
        place[n] = r.instrument_id
        counts[np.int64(r.instrument_id)] += 1
        n += 1
    return n


class MarketHash:
    """SHA-256 per instrument over what its market did, and one over all of them in order of the instruments' names."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._sums = [hashlib.sha256(f"tickline market 1 {name}\n".encode()) for name in names]
        self._words = np.zeros((PIECE_ROWS, MARKET_WORDS), np.int64)
        self._place = np.zeros(PIECE_ROWS, np.int64)

    def update(self, rows: Rows) -> None:
        """Fold stamped input records in, at most PIECE_ROWS."""
        counts = np.zeros(max(1, len(self.names)), np.int64)
        n = int(market_words(rows, self._words, self._place, counts))
        seen = np.flatnonzero(counts)
        for i in seen:
            words = self._words[:n] if len(seen) == 1 else self._words[:n][self._place[:n] == i]
            self._sums[i].update(words.tobytes())

    def by_instrument(self) -> dict[str, str]:
        """Hex digest of each instrument."""
        return {name: s.hexdigest() for name, s in zip(self.names, self._sums, strict=True)}

    def digest(self) -> str:
        """Hex digest over the instruments' digests, by name."""
        text = "".join(f"{name} {value}\n" for name, value in sorted(self.by_instrument().items()))
        return hashlib.sha256(text.encode()).hexdigest()


def decision_hash(hashes: dict[str, str]) -> str:
    """One hash over the deciding stages' log hashes, in the order of the line."""
    return hashlib.sha256("".join(f"{s} {hashes[s]}\n" for s in DECIDING).encode()).hexdigest()


class Observer(Protocol):
    """Sees every row in log order, on the journal's thread."""

    def piece(self, rows: Rows) -> None:
        """Stamped input records; valid during the call."""

    def decisions(self, stage: str, rows: Rows) -> None:
        """Decision rows of a stage."""


class RunJournal:
    """The input log, the decision logs and the market hash of one run, written by a thread of their own.

    `tapes` are the feeds' whole rows when the input is journaled by reference, else None; `core` is the thread's, None any.
    Errors: StorageError.
    """

    def __init__(
        self,
        folder: Path,
        run_id: str,
        names: Sequence[str],
        tapes: Sequence[Rows] | None,
        epoch: int,
        durability: str,
        observer: Observer | None = None,
        core: int | None = None,
    ) -> None:
        options: dict[str, Any] = {"durability": durability}
        self._tapes = tapes
        self._observer = observer
        self._core = core
        self._epoch = epoch
        self.input = LogWriter(folder, INPUT_LOG, run_id, embed=tapes is None, sources=tapes or (), **options)
        self.decisions = [LogWriter(folder, name, run_id, **options) for name in DECIDING]
        self.market = MarketHash(names)
        self._piece = empty(PIECE_ROWS)
        self._last_ts = 0
        self._queue: queue.Queue[Batch | None] = queue.Queue(BATCHES_MAX)
        self._error: BaseException | None = None
        self._end = End()
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def put(self, batch: Batch) -> None:
        """Hand a batch over, waiting while the queue is full; raises what the journal's thread ran into."""
        while True:
            if self._error is not None:
                raise self._error
            try:
                self._queue.put(batch, timeout=0.1)
                return
            except queue.Full:
                continue

    @property
    def waiting(self) -> int:
        """Batches that were handed over and are not journaled yet."""
        return self._queue.qsize()

    def close(self) -> dict[str, str]:
        """Finish every log; returns the hashes of summary.json."""
        self._queue.put(None)
        self._end.wait()
        if self._error is not None:
            raise self._error
        for log in (self.input, *self.decisions):
            log.close()
        stages = {name: log.digest for name, log in zip(DECIDING, self.decisions, strict=True)}
        return {
            "input_log_hash": self.input.digest,
            "decision_log_hash": decision_hash(stages),
            "market_hash": self.market.digest(),
            **{f"{name}_log_hash": value for name, value in stages.items()},
        }

    def abandon(self) -> None:
        """Flush what is there and let go: the run did not end, its logs stay readable to here, each as far as the disk took it."""
        try:
            self._queue.put(None, timeout=ABANDON_S)
        except queue.Full:
            return
        if not self._end.wait(ABANDON_S):  # a disk that does not answer: the logs are still that thread's
            return
        for log in (self.input, *self.decisions):
            with contextlib.suppress(StorageError):
                log.flush()
            log.release()

    def _work(self) -> None:
        try:
            if self._core is not None:
                os.sched_setaffinity(0, {self._core})
            while (batch := self._queue.get()) is not None:
                self._take(batch)
        except BaseException as error:
            self._error = error
            while self._queue.get() is not None:  # whoever waits for room is told by `put`, at the end by `close`
                pass
        finally:
            self._end.come()

    def _take(self, batch: Batch) -> None:
        if self._tapes is not None:
            self.input.append_reference(batch.runs, batch.own, self._epoch)
        for piece in self._pieces(batch):
            self.market.update(piece)
            if self._observer:
                self._observer.piece(piece)
            if self._tapes is None:
                self.input.append(piece)
        self.input.flush()  # the truth before the evidence: a killed run has no decision without its cause
        for log, rows in zip(self.decisions, batch.decisions, strict=True):
            if len(rows):
                log.append(rows)
                log.flush()
                if self._observer:
                    self._observer.decisions(log.name, rows)

    def _pieces(self, batch: Batch) -> Iterator[Rows]:
        """The batch's input records as the line saw them, at most PIECE_ROWS at a time; valid until the next piece."""
        sources = Sources([w.rows for w in batch.windows])
        runs = batch.runs.copy()
        for number, window in enumerate(batch.windows):
            runs["first"][runs["source"] == number] -= window.first
        sources.check(runs, len(batch.own))
        cursor, own_at = np.zeros(4, np.int64), 0
        stored = np.zeros(PIECE_ROWS, STORED_RUN)
        while cursor[0] < len(runs):
            count = int(take_runs(runs, cursor, self._epoch, stored, 0, 0, PIECE_ROWS))
            rows, own = int(cursor[2]), int(cursor[3])
            made = materialise(
                stored, 0, count, sources.addresses, sources.lengths, batch.own, own_at, self._piece, 0, self._last_ts
            )
            assert made == rows, "runs were checked"
            own_at += own
            self._last_ts = int(self._piece["ts_seq_ns"][rows - 1])
            yield self._piece[:rows]


assert OWN == -1, "materialise takes the same mark"
