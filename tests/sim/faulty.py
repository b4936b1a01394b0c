"""Strategies that break their contract, one way each, and two that trade plainly; for tests."""

from __future__ import annotations

import numpy as np

from handlers.contract import handler
from transport.records import FEATURE, MARKET_ORDER, PLACE, SELL, TARGET, TRADE


@handler(reads=FEATURE, state=[("seen", "i8")])
def raises(s, p, row, out):
    """Raises at the 50th feature row, and writes nothing before."""
    s.seen += 1
    if s.seen == 50:
        raise ValueError("no more")
    return 0


@handler(reads=FEATURE, state=[("seen", "i8")])
def asserts(s, p, row, out):
    """Fails an assertion of its own at the 50th feature row: a strategy's fault like any other."""
    s.seen += 1
    assert s.seen < 50, "no more"
    return 0


@handler(reads=FEATURE, state=[("seen", "i8")])
def hangs(s, p, row, out):
    """Does not return from the 5,000th feature row."""
    s.seen += 1
    while s.seen == 5000:
        pass
    return 0


@handler(reads=FEATURE, state=[("seen", "i8")], compiled=False)
def hangs_in_python(s, p, row, out):
    """The same as plain Python, sooner."""
    s.seen += 1
    while s.seen == 500:
        pass
    return 0


@handler(reads=FEATURE, state=[("seen", "i8")])
def sells_one(s, p, row, out):
    """Sells one lot at the 50th feature row, whatever it holds."""
    s.seen += 1
    out.action, out.side, out.order_type, out.qty_lots = PLACE, SELL, MARKET_ORDER, 1
    return 1 if s.seen == 50 else 0


@handler(reads=FEATURE, state=[("seen", "i8")])
def raises_late(s, p, row, out):
    """Raises at the 5,000th feature row of an instrument, when others have traded."""
    s.seen += 1
    if s.seen == 5000:
        raise ValueError("no more")
    return 0


@handler(reads=FEATURE, state=[("seen", "i8")], compiled=False)
def raises_in_python(s, p, row, out):
    """The same as plain Python, which keeps the error's words."""
    s.seen += 1
    if s.seen == 50:
        raise ValueError("no more")
    return 0


@handler(reads=FEATURE)
def allocates(s, p, row, out):
    """Makes an array in its step."""
    a = np.zeros(int(row.values[0]) % 7 + 1)
    return 1 if a[0] > 1.0 else 0


@handler(reads=FEATURE, state=[("seen", "i8")], rows_max=2)
def overruns(s, p, row, out):
    """Says that it wrote three rows where it declared two."""
    s.seen += 1
    return 3 if s.seen == 50 else 0


@handler(reads=TRADE, rows_max=1)
def endless(s, p, row, out):
    """Asks to be called again, for ever."""
    out.action = TARGET
    return -1


@handler(reads=TRADE, state=[("seen", "i8")], rows_max=32)
def floods(s, p, row, out):
    """At the 50th trade, asks for one lot more 32 times a call, and to be called again, for more rows than the stage has room for."""
    s.seen += 1
    if s.seen < 50:
        return 0
    for k in range(32):
        out[k].action, out[k].qty_lots = TARGET, k
    return -32


@handler(reads=FEATURE, state=[("target", "i8")])
def churn(s, p, row, out):
    """Turns its position over at every feature row: it asks for something whenever it may."""
    s.target = 1 if s.target <= 0 else -1
    out.action = TARGET
    out.qty_lots = s.target
    return 1
