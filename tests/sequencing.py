"""What the tests of the sequencer share: it alone, run from Python over windows of feeds, queued reports and commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from handlers.domain.borrowed import borrow
from handlers.domain.queue import Queue, new_queue, push_first
from handlers.ingest.sequencer import (
    NOTHING, STARVED, admit_feed, admit_own, close_line, full, new_sequencer, open_window, peek, quiet_until, start_timers,
)  # fmt: skip
from tests.stages import Fields, slots
from transport.compiled import kernel
from transport.records import ACK, BY_EXCHANGE, BY_INGEST, COMMAND, EVENT_END, TRADE, empty

_FULL = -9


@kernel
def _sequence(owned, owned_reports, out, n):
    s, reports = borrow(owned), borrow(owned_reports)
    while True:
        source, when = peek(s, reports)
        if source == STARVED:
            return n, source
        if source == NOTHING:
            if close_line(s):
                continue
            return n, source
        if full(s):
            return n, _FULL
        if source >= 0:
            admit_feed(s, source, out[n])
        else:
            admit_own(s, reports, source, when, out[n])
        n += 1


def trades(times: Sequence[int], feed: int = 0, **fields: Any) -> np.ndarray:
    """Rows of a feed received at `times`, told apart by their price."""
    usual = {"kind": TRADE, "flags": EVENT_END, "source_id": 16 + feed, "qty_lots": 1, "parts": 1}
    return slots({**usual, "ts_recv_ns": t, "price_ticks": 1000 * feed + k, **fields} for k, t in enumerate(times))


class Intake:
    """INGEST with its feeds cut into windows, or the time until which a live one is quiet; `run` returns the whole input log."""

    def __init__(self, feeds: Sequence[Sequence[np.ndarray | int]], timer_ns: int = 0, instruments: int = 2, **room: int) -> None:
        self.sequencer = new_sequencer(len(feeds), instruments, timer_ns, 3, False, **room)
        self.reports: Queue = new_queue(1024)
        self.feeds = [list(f) for f in feeds]
        self.runs: list[tuple[int, int, int, int]] = []
        self._next, self._rows = [0] * len(feeds), [0] * len(feeds)
        for f in range(len(feeds)):
            self._turn(f)

    def _turn(self, f: int) -> None:
        at = self._next[f]
        window = self.feeds[f][at]
        self._next[f] = at + 1
        if isinstance(window, int):
            quiet_until(self.sequencer, f, window)
            return
        open_window(self.sequencer, f, window, self._rows[f], at + 1 == len(self.feeds[f]))
        self._rows[f] += len(window)

    def timers_from(self, first_ns: int) -> None:
        start_timers(self.sequencer, first_ns)

    def answer(self, due: int, **fields: Any) -> None:
        push_first(self.reports, slots([{"kind": ACK, "source_id": BY_EXCHANGE, "flags": EVENT_END, "ts_recv_ns": due, **fields}]), due)

    def order(self, due: int, **fields: Any) -> None:
        push_first(self.sequencer.commands, slots([{"kind": COMMAND, "source_id": BY_INGEST, "ts_recv_ns": due, **fields}]), due)

    def run(self, rows_max: int = 5000) -> np.ndarray:
        out, n, why = empty(rows_max), 0, STARVED
        head, windows = self.sequencer.head[0], self.sequencer.windows
        while why != NOTHING:
            n, why = _sequence(self.sequencer, self.reports, out, n)
            self.runs += [tuple(int(x) for x in run) for run in self.sequencer.runs[: head["runs"]]]
            head["runs"] = head["own"] = 0
            for f in range(len(self.feeds)):
                if windows[f]["at"] == windows[f]["rows"] and not windows[f]["final"]:
                    self._turn(f)
        return out[:n]


def kinds_and_times(rows: np.ndarray) -> list[Fields]:
    return list(zip(rows["kind"].tolist(), rows["ts_seq_ns"].tolist(), strict=True))
