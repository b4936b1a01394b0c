"""A strategy for tests that uses every way to place, amend and cancel a limit order, on a fixed beat of feature events."""

from __future__ import annotations

from handlers.contract import handler
from handlers.domain.schema import MID, SPREAD
from transport.records import (
    AMEND_ORDER, BUY, CANCEL_ORDER, FEATURE, FOK, IOC, LIMIT_ORDER, PLACE, SELL,
)  # fmt: skip


@handler(
    reads=FEATURE,
    state=[("seen", "i8"), ("order", "i8"), ("side", "i8"), ("price", "i8"), ("qty", "i8")],
    params=[("lots", "i8"), ("beat", "i8")],
    defaults={"lots": 40, "beat": 60},
)
def quote(s, p, row, out):
    """Places at the touch, amends, cancels, and takes with IOC and FOK.

    Reads   Feature  mid, spread
    Writes  Intent   PLACE, AMEND_ORDER, CANCEL_ORDER of limit orders
    State   events seen; the order resting: id, side, price, lots
    """
    at = s.seen % p.beat
    s.seen += 1
    bid = int(row.values[MID] - 0.5 * row.values[SPREAD])
    ask = int(row.values[MID] + 0.5 * row.values[SPREAD])
    out.order_type = LIMIT_ORDER
    if at == 0:
        s.side = BUY if (s.seen // p.beat) % 2 == 0 else SELL
        s.price = bid if s.side == BUY else ask
        s.qty = p.lots
        s.order = (row.epoch << 48) | (row.seq << 12)  # the first leg of this input: this strategy is asked first
        out.action = PLACE
    elif at == p.beat // 6:
        s.qty = p.lots // 2
        out.action, out.order_id = AMEND_ORDER, s.order
    elif at == p.beat // 3:
        s.price = bid - 1 if s.side == BUY else ask + 1
        s.qty = p.lots + 5
        out.action, out.order_id = AMEND_ORDER, s.order
    elif at == p.beat // 2:
        out.action, out.order_id = CANCEL_ORDER, s.order
    elif at == p.beat * 2 // 3 or at == p.beat * 5 // 6:
        s.side = BUY if (s.seen // p.beat) % 2 else SELL
        s.price = ask if s.side == BUY else bid
        s.qty = p.lots * 3
        out.action = PLACE
        out.tif = IOC if at == p.beat * 2 // 3 else FOK
    else:
        return 0
    out.side, out.price_ticks, out.qty_lots = s.side, s.price, s.qty
    return 1
