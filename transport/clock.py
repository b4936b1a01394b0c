"""The clocks, read from Python; kernels read theirs through `transport.atomics`.

`wall_ns` is what the world calls now and may step back; `monotonic_ns` never does; `cycles_now` is the cheapest and counts at
`cycles_per_ns`. Only the edges, INGEST and measurements may call them: downstream of INGEST time comes with the record.
"""

from __future__ import annotations

import functools
import time

import numpy as np

from transport.atomics import cycles
from transport.atomics import monotonic_ns as monotonic_ns_compiled
from transport.compiled import I64, array_t, kernel, types

PAIRINGS = 64  # readings of both clocks at each end, of which the tightest counts
SETTLE_NS = 20_000_000  # between the two ends: an error of 40 ns at either is then 4 in a million

wall_ns = time.time_ns
monotonic_ns = time.monotonic_ns


@kernel(types.void(array_t(np.int64)))
def _read_pair(out):
    """Both clocks at one moment: out[0] cycles, out[1] monotonic ns, from the tightest of PAIRINGS brackets."""
    tightest = np.int64(1) << 62
    for _ in range(PAIRINGS):
        before = cycles()
        now = monotonic_ns_compiled()
        after = cycles()
        if after - before < tightest:
            tightest = after - before
            out[0] = before + (after - before) // 2
            out[1] = now


@kernel(I64())
def cycles_now():
    """`transport.atomics.cycles`, callable from Python."""
    return cycles()


def measure_cycles_per_ns(settle_ns: int = SETTLE_NS) -> float:
    """Counter ticks in a nanosecond, measured now over `settle_ns` of sleep; > 0."""
    first, last = np.zeros(2, np.int64), np.zeros(2, np.int64)
    _read_pair(first)
    time.sleep(settle_ns / 1e9)
    _read_pair(last)
    ticks, ns = (last - first).tolist()
    return float(ticks / ns)


@functools.cache
def cycles_per_ns() -> float:
    """As `measure_cycles_per_ns`, measured once in a process: the counter's rate is constant."""
    return measure_cycles_per_ns()
