"""One number an instrument, seen against all others at that bar: median, robust z-score, rank, group mean, composite.

A NaN is an instrument that has no value: it is in no statistic and stays NaN. The order of instruments is that of the arrays, every
sum runs in that order, and nothing is taken from memory: the caller brings scratch. So the same row gives the same bits wherever
it is computed.

The median is found by bisection over the bits of the values and not by moving them: floats as ordered integers, the interval that
holds the one wanted halved by counting. Counting is a loop without branches, 64 passes are the most there can be whatever the
values, and ties, order and earlier content of the scratch cannot matter; a quickselect has neither that bound nor that simplicity.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from handlers.domain.numeric import bits_of, float_of
from transport.compiled import kernel

MAD_SIGMA = 1.482602218505602  # a normal's standard deviation over its median absolute deviation: 1 / (quantile of 3/4)
MEAN_SIGMA = 1.2533141373155001  # the same over its mean absolute deviation: sqrt(pi / 2)
_RADIX_BITS = 11
RADIX = 1 << _RADIX_BITS
_PASSES = 6  # of 11 bits: 64 and two to spare
_SIGN = np.uint64(1 << 63)


class Scratch(NamedTuple):
    """Room for one row of `n` instruments and `groups` groups; what is in it is of no account between calls."""

    keys: np.ndarray  # i8 (n,)
    deviations: np.ndarray  # i8 (n,)
    order: np.ndarray  # i8 (n,)
    spare: np.ndarray  # i8 (n,)
    counts: np.ndarray  # i8 (2048,)
    sums: np.ndarray  # f8 (groups,)
    members: np.ndarray  # i8 (groups,)


def new_scratch(n: int, groups: int) -> Scratch:
    """Zeroed scratch; at least one of each, since an empty array has no address."""
    size, many = max(1, n), max(1, groups)
    keys, deviations, order, spare = (np.zeros(size, np.int64) for _ in range(4))
    return Scratch(keys, deviations, order, spare, np.zeros(RADIX, np.int64), np.zeros(many), np.zeros(many, np.int64))


@kernel(inline=True)
def ordered_key(x):
    """int64 that compares as the float `x` does; both zeros have one key."""
    bits = bits_of(x + 0.0)
    return bits if bits >= 0 else bits ^ np.int64(0x7FFF_FFFF_FFFF_FFFF)


@kernel(inline=True)
def of_key(key):
    """The float of an `ordered_key`."""
    return float_of(key if key >= 0 else key ^ np.int64(0x7FFF_FFFF_FFFF_FFFF))


@kernel
def count_up_to(keys, n, pivot):
    """How many of keys[:n] are not above `pivot`."""
    count = np.int64(0)
    for i in range(n):
        count += np.int64(keys[i] <= pivot)
    return count


@kernel
def least_above(keys, n, low):
    """The smallest of keys[:n] that is above `low`, or the largest integer."""
    least = np.int64(0x7FFF_FFFF_FFFF_FFFF)
    for i in range(n):
        key = keys[i]
        least = min(least, key if key > low else np.int64(0x7FFF_FFFF_FFFF_FFFF))
    return least


@kernel
def select(keys, n, k):
    """The k-th smallest (from 0) of keys[:n], n >= 1; it stays below 66 passes."""
    low = high = keys[0]
    for i in range(n):
        low, high = min(low, keys[i]), max(high, keys[i])
    under = np.int64(0)  # keys below `low`
    while low < high:
        if under == k:
            return least_above(keys, n, low - 1)
        pivot = (low & high) + ((low ^ high) >> 1)  # their mean, rounded down, which cannot overflow
        count = count_up_to(keys, n, pivot)
        if count > k:
            high = pivot
        else:
            low, under = pivot + 1, count
    return low


@kernel
def median(keys, n):
    """Median of the floats whose keys are keys[:n], n >= 1; of an even number half the sum of the two in the middle."""
    k = (n - 1) // 2
    lower = select(keys, n, k)
    if n % 2 == 1:
        return of_key(lower)
    upper = lower if count_up_to(keys, n, lower) > k + 1 else least_above(keys, n, lower)
    return (of_key(lower) + of_key(upper)) * 0.5


@kernel
def robust_z(x, z, bound, scratch):
    """z[i] = (x[i] - median) / (1.4826 MAD), cut at +-`bound` (> 0); returns how many had a value. z may be x.

    Where over half of the values are equal, MAD is 0 and the mean absolute deviation from the median takes its place, times 1.2533;
    where all are equal every score is 0. Values finite.
    Source: Iglewicz & Hoaglin (1993), How to Detect and Handle Outliers, for both scales; cutting is winsorising of the scores.
    """
    n = np.int64(0)
    for i in range(len(x)):
        if x[i] == x[i]:
            scratch.keys[n] = ordered_key(x[i])
            n += 1
    if n == 0:
        z[:] = np.nan
        return n
    centre = median(scratch.keys, n)
    total = 0.0
    for i in range(n):
        off = abs(of_key(scratch.keys[i]) - centre)
        total += off
        scratch.deviations[i] = bits_of(off)  # not negative: its bits are its key
    scale = MAD_SIGMA * median(scratch.deviations, n)
    if scale == 0.0:
        scale = MEAN_SIGMA * (total / n)
    for i in range(len(x)):
        score = (x[i] - centre) / scale if scale > 0.0 else (x[i] - centre)
        z[i] = min(max(score, -bound), bound) if score == score else np.nan
    return n


@kernel
def sort_order(keys, n, scratch):
    """Put 0..n-1 into scratch.order so that keys[order] ascends, equal ones in their order: a radix sort of 11 bits a pass."""
    order, spare, counts = scratch.order, scratch.spare, scratch.counts
    for i in range(n):
        order[i] = i
    for at in range(_PASSES):
        shift = np.uint64(at * _RADIX_BITS)
        counts[:] = 0
        for i in range(n):
            counts[np.int64(((np.uint64(keys[i]) ^ _SIGN) >> shift) & np.uint64(RADIX - 1))] += 1
        before = np.int64(0)
        for digit in range(RADIX):
            before, counts[digit] = before + counts[digit], before
        for i in range(n):
            digit = np.int64(((np.uint64(keys[order[i]]) ^ _SIGN) >> shift) & np.uint64(RADIX - 1))
            spare[counts[digit]] = order[i]
            counts[digit] += 1
        for i in range(n):
            order[i] = spare[i]


@kernel
def ranks(x, z, scratch):
    """z[i] = the rank of x[i] from 1, equal values sharing the mean of theirs; returns how many had a value. z may be x."""
    n = np.int64(0)
    for i in range(len(x)):
        if x[i] == x[i]:
            scratch.keys[n] = ordered_key(x[i])
            scratch.deviations[n] = i
            n += 1
        else:
            z[i] = np.nan
    sort_order(scratch.keys, n, scratch)
    i = np.int64(0)
    while i < n:
        end = i + 1
        while end < n and scratch.keys[scratch.order[end]] == scratch.keys[scratch.order[i]]:
            end += 1
        for j in range(i, end):
            z[scratch.deviations[scratch.order[j]]] = (i + 1 + end) * 0.5
        i = end
    return n


@kernel
def centred_ranks(x, z, scratch):
    """z[i] = (rank - 1/2) / n - 1/2, within -1/2..1/2 and of mean 0; returns n, how many had a value. z may be x."""
    n = ranks(x, z, scratch)
    for i in range(len(x)):
        z[i] = (z[i] - 0.5) / n - 0.5
    return n


@kernel
def neutralise(z, groups, scratch):
    """Take from each z[i] the mean of its group, groups[i] in 0..len(scratch.sums)-1 (unchecked).

    A group with a single value says nothing of it within the group: what is left is 0. One without any has nothing to take.
    """
    sums, members = scratch.sums, scratch.members
    sums[:] = 0.0
    members[:] = 0
    for i in range(len(z)):
        if z[i] == z[i]:
            sums[groups[i]] += z[i]
            members[groups[i]] += 1
    for g in range(len(sums)):
        sums[g] = sums[g] / members[g] if members[g] else 0.0
    for i in range(len(z)):
        z[i] -= sums[groups[i]]


@kernel
def composite(z, weights, share_min, out):
    """out[i] = sum of weights[k] z[k, i] over sum of |weights[k]|, both over the factors that instrument has.

    NaN where the factors it has carry less than `share_min` (0..1) of all weight, or none.
    """
    whole = 0.0
    for k in range(len(weights)):
        whole += abs(weights[k])
    for i in range(len(out)):
        total = used = 0.0
        for k in range(len(weights)):
            known = z[k, i] == z[k, i]
            total += weights[k] * z[k, i] if known else 0.0
            used += abs(weights[k]) if known else 0.0
        out[i] = total / used if used > 0.0 and used >= share_min * whole else np.nan


@kernel
def correlation(x, y):
    """Pearson's of the places where both have a value; NaN for fewer than two of them or a side without spread."""
    n = np.int64(0)
    sum_x = sum_y = 0.0
    for i in range(len(x)):
        if x[i] == x[i] and y[i] == y[i]:
            n += 1
            sum_x += x[i]
            sum_y += y[i]
    xx = yy = xy = 0.0
    for i in range(len(x)):
        if x[i] == x[i] and y[i] == y[i]:
            a, b = x[i] - sum_x / n, y[i] - sum_y / n
            xx += a * a
            yy += b * b
            xy += a * b
    return xy / np.sqrt(xx * yy) if xx > 0.0 and yy > 0.0 else np.nan
