"""Binance's frequent messages read by a kernel, a batch of lines at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.ingest.feed import YEAR_2000_NS, YEAR_2100_NS
from handlers.ingest.venues.binance_kernels import KEYS, scan_messages
from handlers.ingest.venues.levels import MESSAGE, TEXTS
from handlers.ingest.venues.protocol import MS, Batch, Scanner
from transport.compiled import load


class BinanceScanner(Scanner):
    """Reads trades, aggregated trades, quotes and depth of the symbols in `places`; `futures` as in the rule of the book."""

    def __init__(self, places: Mapping[str, int], futures: bool) -> None:
        load(scan_messages)
        names = [s.encode() for s in sorted(places, key=places.__getitem__)]
        self._names = np.frombuffer(b"".join(names) or b"\0", np.uint8).copy()
        self._cuts = np.zeros(len(names) + 1, np.int64)
        np.cumsum([len(s) for s in names], out=self._cuts[1:])
        self._futures = int(futures)
        self._scratch = tuple(np.zeros(KEYS, np.int64) for _ in range(3))

    def scan(self, batch: Batch, times: NDArray[np.int64], first: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        messages, spans = np.zeros(len(times), MESSAGE), np.zeros((len(times), 2 * TEXTS), np.int64)
        scan_messages(
            batch.text, batch.begins, batch.ends, times, *self._scratch, messages, spans, self._names, self._cuts, self._futures, first,
            YEAR_2000_NS // MS, YEAR_2100_NS // MS,
        )  # fmt: skip
        return messages, spans
