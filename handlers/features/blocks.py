"""Building blocks of features: rolling memory in a few slots of a window, O(1) an input, amortised, each by itself a small machine.

A block is called as `block(w, at, ..., x)`: `w` the feature's window, `at` the block's first slot. It returns its value, NaN until
it has seen as many inputs as it needs, so that blocks can be chained: who feeds one from another asks `known` first.

    ema, EMA slots       [ inputs | value ]
    total, TOTAL + n     [ full | place | sum | fresh | equal | last ][ ring of n ]
    weighted, same       [ full | place | sum | fresh | equal | last | weighted | fresh ][ ring of n ]
    spread, same         [ full | place | mean | squares | equal | last | fresh mean | fresh squares ][ ring of n ]
    highest, HIGHEST+2n  [ inputs | place | greatest | its input | input found ][ ring of n ][ ring of n: the input it is of ]
    delayed, DELAY + n   [ full | place ][ ring of n ]

No sum drifts. What enters is added twice: to the rolling sum, from which what leaves is subtracted, and to a fresh one that begins
at zero with each turn of the ring. When the ring comes round, the fresh sum is that of exactly the n values in it, added in order,
and takes the place of the rolling one: the error is that of at most 2n additions of what was in the ring within the last turn, and
no input costs more than another. What an input a billion times the others leaves in the last places is gone a turn after it. A ring full of one value has exactly that value for its mean and exactly zero for its spread.
"""

from __future__ import annotations

import numpy as np

from transport.compiled import kernel

EMA, TOTAL, WEIGHTED, SPREAD, HIGHEST, DELAY = 2, 6, 8, 8, 5, 2
NAN = np.nan


@kernel(inline=True)
def known(value):
    """1 when a block or feature has a value, 0 while it warms up."""
    return 1 if value == value else 0


@kernel(inline=True)
def ema(w, at, seed, alpha, x):
    """Exponential mean: v += alpha (x - v), begun with the plain mean of the first `seed` inputs (1: with the first)."""
    if w[at] >= seed:
        w[at + 1] += alpha * (x - w[at + 1])
        return w[at + 1]
    w[at] += 1.0
    w[at + 1] += x
    if w[at] < seed:
        return NAN
    w[at + 1] /= seed
    return w[at + 1]


@kernel(inline=True)
def swap(w, at, ring, n, x):
    """Put `x` in the place of the oldest of the ring at slot `ring`; returns what stood there (0 at first) and counts equal inputs.

    Slots `at`: full, place; `at + 4`: equal, last. Place 0 afterwards means that the ring has come round.
    """
    place = int(w[at + 1])
    old = w[ring + place]
    w[ring + place] = x
    if x == w[at + 5]:
        w[at + 4] += 1.0
    else:
        w[at + 4] = 1.0
        w[at + 5] = x
    place += 1
    if place == n:
        place = 0
        w[at] = 1.0
    w[at + 1] = place
    return old


@kernel(inline=True)
def total(w, at, n, x):
    """Sum of the last n inputs."""
    w[at + 2] += x - swap(w, at, at + TOTAL, n, x)
    w[at + 3] += x
    if w[at + 1] == 0.0:
        w[at + 2] = w[at + 3]
        w[at + 3] = 0.0
    if w[at] == 0.0:
        return NAN
    if w[at + 4] >= n:
        w[at + 2] = n * x
    return w[at + 2]


@kernel(inline=True)
def mean(w, at, n, x):
    """Mean of the last n inputs; memory as `total`."""
    found = total(w, at, n, x) / n
    return x if w[at + 4] >= n else found


@kernel(inline=True)
def weighted(w, at, n, x):
    """Mean of the last n inputs weighted 1..n, the newest most: every step takes one weight from all, which is their sum."""
    before = w[at + 2]
    old = swap(w, at, at + WEIGHTED, n, x)
    place = w[at + 1] if w[at + 1] > 0.0 else n
    w[at + 6] += n * x - before
    w[at + 2] += x - old
    w[at + 3] += x
    w[at + 7] += place * x
    if w[at + 1] == 0.0:
        w[at + 2], w[at + 6] = w[at + 3], w[at + 7]
        w[at + 3] = w[at + 7] = 0.0
    if w[at] == 0.0:
        return NAN
    if w[at + 4] >= n:
        return x
    return w[at + 6] / (0.5 * n * (n + 1))


@kernel(inline=True)
def spread(w, at, n, x):
    """Mean of the last n inputs; their squared deviations from it, summed, stand in w[at + 3].

    Welford's recurrence (1962) for what enters, with its rolling form for what leaves; never below zero.
    """
    old = swap(w, at, at + SPREAD, n, x)
    place = w[at + 1] if w[at + 1] > 0.0 else n
    away = x - w[at + 6]
    w[at + 6] += away / place
    w[at + 7] += away * (x - w[at + 6])
    if w[at] == 0.0:
        return NAN
    if w[at + 1] == 0.0:
        w[at + 2], w[at + 3] = w[at + 6], w[at + 7]
        w[at + 6] = w[at + 7] = 0.0
    else:
        before = w[at + 2]
        w[at + 2] += (x - old) / n
        w[at + 3] += (x - old) * (x - w[at + 2] + old - before)
    if w[at + 4] >= n:
        w[at + 2], w[at + 3] = x, 0.0
    w[at + 3] = max(w[at + 3], 0.0)
    return w[at + 2]


@kernel(inline=True)
def highest(w, at, n, x):
    """Greatest of the last n inputs: of those since the ring came round, and of what is left of the turn before (van Herk 1992).

    When the ring comes round, each place takes the greatest from there to the end of the ring, which is all that will be asked of it:
    n comparisons every n inputs and two an input, none of which a random series makes hard to predict, as it does a queue's.
    """
    now, place = w[at], int(w[at + 1])
    ring, when = at + HIGHEST, at + HIGHEST + n
    w[at] = now + 1.0
    w[ring + place], w[when + place] = x, now
    newer = place == 0 or x >= w[at + 2]
    best = x if newer else w[at + 2]
    found = now if newer else w[at + 3]
    w[at + 2], w[at + 3] = best, found
    place += 1
    if place < n:
        w[at + 1] = place
        older, of = w[ring + place], w[when + place]
        found = of if older > best else found
        best = older if older > best else best
    else:
        w[at + 1] = 0.0
        top, of = x, now
        for k in range(n - 2, -1, -1):
            value, its = w[ring + k], w[when + k]
            of = its if value > top else of
            top = value if value > top else top
            w[ring + k], w[when + k] = top, of
    w[at + 4] = found
    return best if now + 1.0 >= n else NAN


@kernel(inline=True)
def lowest(w, at, n, x):
    """Least of the last n inputs; memory as `highest`."""
    return -highest(w, at, n, -x)


@kernel(inline=True)
def age(w, at):
    """Inputs since the one that `highest` or `lowest` gave, the latest of equals."""
    return w[at] - 1.0 - w[at + 4]


@kernel(inline=True)
def delayed(w, at, n, x):
    """The input n inputs ago."""
    place = int(w[at + 1])
    old = w[at + DELAY + place]
    full = w[at]
    w[at + DELAY + place] = x
    place += 1
    if place == n:
        place = 0
        w[at] = 1.0
    w[at + 1] = place
    return old if full > 0.0 else NAN


@kernel(inline=True)
def true_range(high, low, close):
    """The range of a bar and of the gap from the close before it (Wilder 1978)."""
    return max(high, close) - min(low, close)
