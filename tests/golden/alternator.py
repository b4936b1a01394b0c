"""A strategy for tests: market orders on the timer, buying and selling in turn."""

from __future__ import annotations

from handlers.contract import handler
from transport.records import BUY, MARKET_ORDER, PLACE, SELL, TIMER


@handler(reads=TIMER, state=[("asked", "i8")], params=[("lots", "i8")], defaults={"lots": 5000})
def alternate(s, p, row, out):
    """At every timer a market order of `p.lots`: buy, sell, buy, …

    Reads   Timer
    Writes  Intent   PLACE of a market order
    State   timers seen
    """
    s.asked += 1
    out.action = PLACE
    out.order_type = MARKET_ORDER
    out.side = BUY if s.asked % 2 else SELL
    out.qty_lots = p.lots
    return 1
