"""Momentum: long while the fast mean of the mid is above the slow one, short or flat below, when the market moves enough."""

from __future__ import annotations

from handlers.contract import handler
from handlers.domain.schema import EMA_FAST, EMA_SLOW, VOLATILITY
from transport.records import FEATURE, TARGET


@handler(
    reads=FEATURE,
    state=[("seen", "i8"), ("target", "i8")],
    params=[("lots", "i8"), ("warmup", "i8"), ("volatility_min", "f8"), ("volatility_max", "f8"), ("short", "i8")],
    defaults={"lots": 1, "warmup": 200, "volatility_min": 0.0, "volatility_max": 1e18, "short": 1},
)
def momentum(s, p, row, out):
    """EMA cross with a volatility filter.

    Reads   Feature  ema_fast, ema_slow, volatility, in ticks
    Writes  Intent   TARGET `p.lots` above, -`p.lots` below (0 when `p.short` is 0), only when it changes
    State   events seen, last target
    Source  Brock, Lakonishok & LeBaron (1992), Simple Technical Trading Rules; the filter is ours
    """
    s.seen += 1
    if s.seen <= p.warmup:
        return 0
    volatility = row.values[VOLATILITY]
    if volatility < p.volatility_min or volatility > p.volatility_max:
        return 0
    target = p.lots if row.values[EMA_FAST] > row.values[EMA_SLOW] else -p.lots * p.short
    if target == s.target:
        return 0
    s.target = target
    out.action = TARGET
    out.qty_lots = target
    return 1
