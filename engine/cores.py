"""Threads on cores, `runtime.cores`: who runs where, and cores that there are not."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from engine.errors import ConfigError


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """This thread on `core`; raises ConfigError where the machine has no such core for us."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    check_cores([core], before)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def check_cores(cores: Iterable[int], ours: set[int]) -> None:
    """Raises ConfigError for the first of `cores` that is not among `ours`."""
    for core in cores:
        if core not in ours:
            raise ConfigError(f"runtime.cores: core {core} is not ours; there are {', '.join(map(str, sorted(ours)))}")
