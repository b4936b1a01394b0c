"""Time bars: open, high, low, close of the trades of an interval of the venue's clock.

A bar closes when the first trade of a later interval arrives, or at the end of the feed; an interval without trades has no bar.
A trade that is late (its interval is closed) counts in the open bar, so that no volume is lost.
"""

from __future__ import annotations

import numpy as np

from handlers.domain.memory import set_slot_word
from transport.compiled import kernel

BAR_STATE = np.dtype(
    [
        ("ts_open_ns", "i8"),
        ("open_ticks", "i8"), ("high_ticks", "i8"), ("low_ticks", "i8"), ("close_ticks", "i8"),
        ("volume_lots", "i8"), ("notional_ticks_lots", "i8"),
        ("trades", "i8"),  # 0: no bar is open
    ]
)  # fmt: skip


@kernel
def close_bar(s, interval_ns, out):
    """Write the open bar's fields to `out`, whose header is the caller's, and forget it; returns the rows written, 0 or 1."""
    if s.trades == 0:
        return 0
    out.ts_open_ns = s.ts_open_ns
    out.interval_ns = interval_ns
    out.open_ticks = s.open_ticks
    out.high_ticks = s.high_ticks
    out.low_ticks = s.low_ticks
    out.close_ticks = s.close_ticks
    out.volume_lots = s.volume_lots
    out.notional_ticks_lots = s.notional_ticks_lots
    out.trades = s.trades
    set_slot_word(out, 15, np.uint64(0))
    s.trades = 0
    return 1


@kernel
def add_trade(s, interval_ns, trade, out):
    """Fold a trade in; returns 1 when it closed the bar before it, which is then in `out`."""
    start = trade.ts_event_ns - trade.ts_event_ns % interval_ns
    rows = close_bar(s, interval_ns, out) if start > s.ts_open_ns else 0
    price = trade.price_ticks
    if s.trades == 0:
        s.ts_open_ns = max(start, s.ts_open_ns)
        s.open_ticks = s.high_ticks = s.low_ticks = price
        s.volume_lots = s.notional_ticks_lots = 0
    s.high_ticks = max(s.high_ticks, price)
    s.low_ticks = min(s.low_ticks, price)
    s.close_ticks = price
    s.volume_lots += trade.qty_lots
    s.notional_ticks_lots += price * trade.qty_lots
    s.trades += 1
    return rows
