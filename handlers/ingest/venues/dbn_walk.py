"""Where the records of a DBN file begin, by the length that each begins with."""

from __future__ import annotations

import numpy as np

from transport.compiled import kernel

RECORD_BYTES_MIN = 16  # the header of every record


@kernel
def find_records(data, at):
    """Write to `at` where each whole record of `data` begins; returns (how many, where the rest begins, 1 if that is no record).

    `at` has room for len(data) // RECORD_BYTES_MIN.
    """
    count, place, end = 0, 0, len(data)
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
