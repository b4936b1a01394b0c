"""What a compiled loop does while it has nothing to do.

SPIN answers soonest, in a hop of a few hundred nanoseconds between two cores, and needs a core to itself. YIELD shares its core
with whoever is runnable. PARK sleeps, and costs its peer up to a hundred microseconds; it is for workers that outnumber cores
and for edges that are quiet most of the time.
"""

from __future__ import annotations

from transport.atomics import monotonic_ns, pause, sched_yield, sleep_us
from transport.compiled import kernel

SPIN, YIELD, PARK = 0, 1, 2  # wait strategies
SPINS = 256  # pauses before a waiter gives its core away: about 10 µs, longer than a hop between two spinning cores
YIELDS = SPINS + 64
PASSED = -1
PARK_US = 50  # Linux's own timer slack: asking for less does not wake sooner


@kernel(inline=True)
def relax(strategy, idle):
    """One turn of waiting after `idle` turns in vain; returns idle + 1, and the caller starts at 0 when it has work again.

    SPIN never gives the core away, YIELD does after SPINS turns, PARK then sleeps PARK_US at a time. Never spin with more
    workers than cores.
    """
    if strategy == SPIN or idle < SPINS:
        pause()
    elif strategy == YIELD or idle < YIELDS:
        sched_yield()
    else:
        sleep_us(PARK_US)
    return idle + 1


@kernel(inline=True)
def deadline_of(strategy, idle, deadline_ns, timeout_ns):
    """The deadline of a wait: 0 until the clock is first looked at, then monotonic ns, PASSED when it is over.

    The clock is read every 64 turns and at each one that sleeps, so a wait that ends at once pays nothing for its timeout.
    """
    if not (idle & 63 == 63 or (strategy == PARK and idle >= YIELDS)):
        return deadline_ns
    now_ns = monotonic_ns()
    if deadline_ns == 0:
        return now_ns + timeout_ns
    return PASSED if now_ns >= deadline_ns else deadline_ns
