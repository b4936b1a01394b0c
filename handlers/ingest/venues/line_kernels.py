"""The lead of a capture's lines, `<receive ns> <body>`, read by kernels for a batch at a time."""

from __future__ import annotations

import numpy as np

from transport.compiled import I64, array_t, kernel

NO_TIME = -1  # as handlers.ingest.jumps has it
STAMP_MAX = 19  # digits of a receive time: the year 2100 has as many
_BLANK, _ZERO = ord(" "), ord("0")
_U8 = array_t(np.dtype("u1"))


@kernel(I64(_U8, I64[::1], I64[::1], I64[::1], I64, I64))
def read_times(text, begins, ends, times, earliest, latest):
    """Write the receive time in ns of each line, NO_TIME where it has none in [earliest, latest); returns how many have one."""
    read = 0
    for i in range(len(begins)):
        at, end = begins[i], ends[i]
        value = np.uint64(0)
        while at < end and text[at] >= _ZERO and text[at] <= _ZERO + 9 and at - begins[i] <= STAMP_MAX:
            value = value * np.uint64(10) + np.uint64(text[at] - _ZERO)
            at += 1
        n = at - begins[i]
        good = 0 < n <= STAMP_MAX and (at == end or text[at] == _BLANK)
        good = good and np.uint64(earliest) <= value and value < np.uint64(latest)
        times[i] = np.int64(value) if good else NO_TIME
        read += good
    return read


@kernel(I64(_U8, I64[::1], I64[::1], I64[::1]))
def find_bodies(text, begins, ends, bodies):
    """Write where the body of each line begins: behind its first blank, at its end where it has none; returns the lines."""
    for i in range(len(begins)):
        at = begins[i]
        while at < ends[i] and text[at] != _BLANK:
            at += 1
        bodies[i] = min(at + 1, ends[i])
    return len(begins)

