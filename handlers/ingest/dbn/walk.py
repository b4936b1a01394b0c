"""Where the records of a DBN file begin, by the length that each begins with."""

from __future__ import annotations

import numpy as np

from transport.compiled import I64, array_t, kernel, types

RECORD_BYTES_MIN = 16  # the header of every record


@kernel(types.UniTuple(I64, 3)(array_t(np.uint8), array_t(np.int64)))
def find_records(data, at):
    """Write to `at` where each whole record of `data` begins; returns (how many, where the rest begins, 1 if that is no record).

    `at` has room for len(data) // RECORD_BYTES_MIN.
    """
    count, place, end = np.int64(0), np.int64(0), len(data)
    while place < end:
        size = np.int64(data[place]) * 4
        if size < RECORD_BYTES_MIN:
            return count, place, 1
        if place + size > end:
            break
        at[count] = place
        count += 1
        place += size
    return count, place, 0
