"""Strategies that ask for all they can get; for tests of what tables and queues hold."""

from __future__ import annotations

from handlers.contract import handler
from transport.records import BUY, FEATURE, MARKET_ORDER, PLACE, SELL, TARGET, TRADE


@handler(reads=FEATURE, state=[("seen", "i8")], params=[("lots", "i8"), ("orders", "i8")], defaults={"lots": 1000, "orders": 2}, rows_max=8)
def walks(s, p, row, out):
    """Takes `lots` from either side of the book in turn, `orders` times at every feature row."""
    for k in range(p.orders):
        s.seen += 1
        out[k].action, out[k].order_type, out[k].qty_lots = PLACE, MARKET_ORDER, p.lots
        out[k].side = BUY if s.seen % 2 else SELL
    return p.orders


@handler(reads=TRADE, state=[("asked", "i8")])
def once(s, p, trade, out):
    """Wants one lot of each instrument, from its first trade on."""
    if s.asked:
        return 0
    s.asked = 1
    out.action, out.qty_lots = TARGET, 1
    return 1
