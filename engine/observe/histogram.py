"""A log-linear histogram over non-negative int64 in a plain array, 32 buckets an octave: values within 3.2 %, the largest exact.

Any unit; the line records counter cycles and converts when it reports. One row is BUCKETS int64: the counts, and last the
largest value seen.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np

from handlers.domain.bits import highest_bit
from transport.compiled import kernel

SUB_BITS = 5
_OCTAVES = 43  # up to 2**42, over an hour of nanoseconds; larger values count in the last bucket
COUNTS = (_OCTAVES - SUB_BITS + 1) << SUB_BITS
BUCKETS = COUNTS + 1
HISTOGRAM = np.dtype([("bucket", "i8", (BUCKETS,))])


@kernel(inline=True)
def bucket_of(value):
    """Bucket of a value >= 0."""
    if value < (1 << SUB_BITS):
        return value
    shift = highest_bit(np.uint64(value)) - SUB_BITS
    return min(((shift + 1) << SUB_BITS) + (value >> shift) - (1 << SUB_BITS), COUNTS - 1)


@kernel(inline=True)
def record(histogram, value):
    """Count one value in a HISTOGRAM record; a negative one (a clock that went back) counts as 0."""
    value = max(value, 0)
    histogram.bucket[bucket_of(value)] += 1
    if value > histogram.bucket[COUNTS]:
        histogram.bucket[COUNTS] = value


def upper_bounds() -> np.ndarray[Any, Any]:
    """Largest value of each bucket, shape (COUNTS,)."""
    index = np.arange(COUNTS, dtype=np.int64)
    shift = np.maximum((index >> SUB_BITS) - 1, 0)
    first = np.where(index < (1 << SUB_BITS), index, ((index & ((1 << SUB_BITS) - 1)) + (1 << SUB_BITS)) << shift)
    return first + (np.int64(1) << shift) - 1


def percentiles(histogram: np.ndarray[Any, Any], wanted: tuple[float, ...]) -> list[int]:
    """Upper bound of the bucket that holds each percentile; 100 is the largest value itself; zeros for an empty histogram."""
    counts = histogram[:COUNTS]
    total = int(counts.sum())
    if not total:
        return [0] * len(wanted)
    reached = np.cumsum(counts)
    bounds = upper_bounds()
    largest = int(histogram[COUNTS])
    found = []
    for p in wanted:
        rank = max(1, ceil(Fraction(str(p)) * total / 100))  # exact: 99.9 is no binary number
        at = int(np.searchsorted(reached, rank))
        found.append(largest if p >= 100 else min(largest, int(bounds[min(at, COUNTS - 1)])))
    return found


def merge(histograms: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """One histogram of several, shape (n, BUCKETS) to (BUCKETS,)."""
    out = histograms.sum(axis=0)
    out[COUNTS] = histograms[:, COUNTS].max()
    return out
