"""A window of the latest entries, by number and by age, with sums over it: what features of events add up.

    flow, flow_slots(n, k)    [ oldest | front | back | sums of the back: k ][ ring of n: when ][ ring of n entries of k ]

An entry has k values and a time. The older part of the window, its *front*, holds in each entry's place the sums from that entry to the
front's end; the newer part, the *back*, holds the values and has their sums beside it. So the sums over the window are those of its oldest
entry and those of the back, and an entry leaves without anything being subtracted: nothing drifts, and what an outlier leaves behind is
nothing. When the front is used up, the back is added up from its newest entry to its oldest and becomes the front: two additions an entry
and value, amortised, n of them at once at worst.
"""

from __future__ import annotations

from transport.compiled import kernel

FLOW = 3


@kernel(inline=True)
def flow_slots(n, k):
    """Slots of a window of at most `n` entries of `k` values."""
    return FLOW + k + n * (1 + k)


@kernel(inline=True)
def length(w, at):
    """Entries in the window."""
    return w[at + 1] + w[at + 2]


@kernel
def turn(w, at, n, k):
    """Make the back the front: each entry takes the sums from itself to the newest, which are the sums of the back until then."""
    place, count = int(w[at]), int(w[at + 2])
    first = at + FLOW + k + n
    for i in range(count - 2, -1, -1):
        here = first + (place + i) % n * k
        after = first + (place + i + 1) % n * k
        for j in range(k):
            w[here + j] += w[after + j]
    for j in range(k):
        w[at + FLOW + j] = 0.0
    w[at + 1], w[at + 2] = count, 0.0


@kernel
def leave(w, at, n, k):
    """Let the oldest entry go; there is one."""
    if w[at + 1] == 0.0:
        turn(w, at, n, k)
    w[at] = 0.0 if w[at] + 1.0 == n else w[at] + 1.0
    w[at + 1] -= 1.0


@kernel
def expire(w, at, n, k, until):
    """Let go what entered at `until` or before; times do not fall."""
    while length(w, at) > 0.0 and w[at + FLOW + k + int(w[at])] <= until:
        leave(w, at, n, k)


@kernel
def enter(w, at, n, k, when):
    """Take an entry in, the oldest leaving when n are there; returns where its k values stand, each of which `put` writes."""
    if length(w, at) >= n:
        leave(w, at, n, k)
    place = int(w[at] + length(w, at)) % n
    w[at + 2] += 1.0
    w[at + FLOW + k + place] = when
    return at + FLOW + k + n + place * k


@kernel(inline=True)
def put(w, at, entry, j, value):
    """Write the j-th value of the entry that has just been taken in."""
    w[entry + j] = value
    w[at + FLOW + j] += value


@kernel
def summed(w, at, n, k, j):
    """Sum of the j-th values over the window."""
    if w[at + 1] == 0.0:
        return w[at + FLOW + j]
    return w[at + FLOW + k + n + int(w[at]) * k + j] + w[at + FLOW + j]
