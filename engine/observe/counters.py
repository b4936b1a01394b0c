"""Counters of a run in shared memory: what it has done so far, for whoever looks, at no cost to the line.

    run ── stores, a few times a slice ──► segment tickline-<pid>-<run>-counters ◄── reads ── tickline watch

One int64 a counter, each stored and read whole; two of them may be of different moments. The segment goes with its run; that of a
killed run stays until the next start sweeps it, and says by its owner that nobody counts any more.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np

from transport.errors import LayoutError, SegmentError
from transport.segment import SHM, Segment

EDGE = "counters"
NAMES = (
    "inputs",  # records sequenced
    "line_ns",  # the line's time: ts_seq of the last of them
    "refused",  # records INGEST would not take
    "journaled",  # records in the journal
    "waiting",  # batches on their way there
    "orders", "fills", "rejects",  # as journaled
)  # fmt: skip
KIND = f"counters {zlib.crc32(' '.join(NAMES).encode()):08x}"  # another set of counters is another kind
_AT = {name: at for at, name in enumerate(NAMES)}


class Counters:
    """The counters of one run; as a context manager their segment goes away at the end, when it was made here."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self._cells = np.frombuffer(segment.payload, np.int64)

    @classmethod
    def create(cls, run: str, folder: Path = SHM) -> Self:
        """Publish the counters of `run`, all zero; raises SegmentError when shared memory is short, ValueError for a bad name."""
        return cls(Segment.create(run, EDGE, KIND, 8 * len(NAMES), folder=folder))

    @classmethod
    def attach(cls, name: str, folder: Path = SHM) -> Self:
        """Look at the counters of segment `name`; raises SegmentError or LayoutError as `Segment.attach` does."""
        return cls(Segment.attach(name, KIND, writable=False, folder=folder))

    def store(self, values: Mapping[str, int]) -> None:
        """Set some counters; raises KeyError for one that there is not."""
        for name, value in values.items():
            self._cells[_AT[name]] = value  # 8 aligned bytes: one store

    def read(self) -> dict[str, int]:
        """All of them."""
        return {name: int(self._cells[at]) for name, at in _AT.items()}

    def alive(self) -> bool:
        """Whether the run's process is still there."""
        return self.segment.owner_alive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        del self._cells
        self.segment.__exit__()


def published(folder: Path = SHM) -> list[str]:
    """Segments of the runs on this machine that publish counters, sorted; their owners may be dead."""
    return sorted(path.name for path in folder.glob(f"tickline-*-{EDGE}"))


def observed(folder: Path = SHM) -> dict[str, dict[str, int]]:
    """Counters of every run that is alive, by segment; one that ends meanwhile, or that another version made, is left out."""
    found = {}
    for name in published(folder):
        try:
            with Counters.attach(name, folder) as counters:
                if counters.alive():
                    found[name] = counters.read()
        except (SegmentError, LayoutError):
            continue
    return found
