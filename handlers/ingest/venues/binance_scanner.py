"""Binance's frequent messages read by a kernel, a batch of lines at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.ingest.feed import YEAR_2000_NS, YEAR_2100_NS
from handlers.ingest.venues.binance_kernels import GUESSES, KEYS, Scratch, scan_messages
from handlers.ingest.venues.levels import MESSAGE, SPANS
from handlers.ingest.venues.protocol import MS, Batch, Scanner
from transport.compiled import load


class BinanceScanner(Scanner):
    """Reads trades, aggregated trades, quotes and depth of the symbols in `places`; `futures` as in the rule of the book."""

    def __init__(self, places: Mapping[str, int], futures: bool) -> None:
        load(scan_messages)
        names = [s.encode() for s in sorted(places, key=places.__getitem__)]
        self._names = np.frombuffer(b"".join(names) or b"\0", np.uint8).copy()
        self._cuts = np.zeros(max(len(names), 1) + 1, np.int64)
        self._cuts[1 : len(names) + 1] = np.cumsum([len(s) for s in names])
        self._futures = int(futures)
        self._scratch = [np.zeros(KEYS, np.int64) for _ in Scratch._fields]
        self._guesses = np.zeros(GUESSES, np.int64)

    def scan(self, batch: Batch, times: NDArray[np.int64], first: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        messages, spans = np.empty(len(times), MESSAGE), np.empty((len(times), SPANS), np.int64)  # of a line that is left only `kind` is written
        scan_messages(
            batch.text, batch.begins, batch.ends, times, *self._scratch, messages, spans, self._names, self._cuts, self._guesses, self._futures, first,
            YEAR_2000_NS // MS, YEAR_2100_NS // MS,
        )  # fmt: skip
        return messages, spans
