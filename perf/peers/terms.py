"""The terms every contender runs under: one feed, one strategy, one order size, one set of latencies.

Nothing here imports more than the standard library: the runners read it from inside their own environments, whose numpy and
numba are not ours.

The task: at the end of every venue event, two exponential moving averages (50 and 200 events) of the mid price; once more than
200 events were seen, a market buy when the fast one rises above the slow one and a market sell back to flat when it no longer
is. Long or flat, one order size, no waiting for fills.
"""

from __future__ import annotations

from pathlib import Path

ROWS = 2_000_000
SEED = 11
TICKS_PER_UNIT = 100  # a price tick is 0.01
LOTS_PER_UNIT = 1_000  # a lot is 0.001
FAST_EVENTS = 50
SLOW_EVENTS = 200
ORDER_LOTS = 10
FEED_LATENCY_NS = 1_000_000  # venue to us
ORDER_LATENCY_NS = 500_000  # us to the venue, and again back
BOOK_ROWS = 100  # the feed opens with a whole book: 50 levels a side, one event

# The answer at ROWS and SEED; other sizes are checked against `oracle`.
ORDERS = 11_556
TRADED_LOTS = 115_560

DATA = Path(__file__).resolve().parent / "data" / "l2.npz"
