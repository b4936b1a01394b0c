"""Mean reversion: fade the mid's distance from its own mean, leave near it, give up beyond a stop."""

from __future__ import annotations

import math

from handlers.contract import handler
from handlers.domain.schema import MID
from transport.records import FEATURE, TARGET


@handler(
    reads=FEATURE,
    state=[("seen", "i8"), ("target", "i8"), ("stopped", "i8"), ("mean", "f8"), ("variance", "f8")],
    params=[("lots", "i8"), ("window", "i8"), ("entry", "f8"), ("exit", "f8"), ("stop", "f8")],
    defaults={"lots": 1, "window": 500, "entry": 2.0, "exit": 0.5, "stop": 4.0},
)
def mean_reversion(s, p, row, out):
    """z-score of the mid with entry, exit and stop.

    Reads   Feature  mid, in ticks
    Writes  Intent   TARGET -lots when z > entry, +lots when z < -entry, 0 inside exit or beyond stop; only when it changes.
                     After a stop nothing is entered until z has been inside exit.
    State   exponential mean and variance of the mid over `p.window` events, last target, whether stopped out
    Source  Avellaneda & Lee (2010), Statistical Arbitrage in the US Equities Market, section 4 (s-score thresholds)
    """
    mid = row.values[MID]
    if s.seen == 0:
        s.mean = mid
    alpha = 2.0 / (p.window + 1)
    away = mid - s.mean
    s.mean += alpha * away
    s.variance = (1.0 - alpha) * (s.variance + alpha * away * away)
    s.seen += 1
    if s.seen <= p.window or s.variance <= 0.0:
        return 0
    z = (mid - s.mean) / math.sqrt(s.variance)
    size = abs(z)
    target = s.target
    if size < p.exit:
        target = 0
        s.stopped = 0
    elif size > p.stop:
        target = 0
        s.stopped = 1
    elif size > p.entry and s.stopped == 0:
        target = -p.lots if z > 0.0 else p.lots
    if target == s.target:
        return 0
    s.target = target
    out.action = TARGET
    out.qty_lots = target
    return 1
