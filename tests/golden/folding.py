"""Decoded rows folded into books by the line's own kernels, event by event."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from handlers.domain.book import NO_LEVEL, apply_market, best_lots, best_price, new_markets, two_sided
from transport.compiled import kernel
from transport.records import ASK, BID, EVENT_END


@kernel
def _fold(markets, books, rows, crossed, invalid):
    for i in range(len(rows)):
        r = rows[i]
        m = markets[r.instrument_id]
        apply_market(m, books, r)
        if r.flags & EVENT_END and two_sided(m) and best_price(m, BID) >= best_price(m, ASK):
            crossed[r.instrument_id] += 1
        if r.flags & EVENT_END and not m.valid:
            invalid[r.instrument_id] += 1


@kernel
def _best(m, out):
    for s in range(2):
        if m.best[s] != NO_LEVEL:
            out[2 * s], out[2 * s + 1] = best_price(m, BID + s), best_lots(m, BID + s)


class Books(NamedTuple):
    """State after all rows: `tops` are bid, lots, ask, lots in ticks and lots; `crossed` counts event ends at which it was, by instrument."""

    markets: np.ndarray[Any, Any]
    tops: list[list[int]]
    crossed: list[int]
    invalid: list[int]


def fold(rows: np.ndarray[Any, Any], instruments: int) -> Books:
    """`rows` bear the places of their instruments as ids."""
    markets, books = new_markets([False] * instruments)
    crossed, invalid = np.zeros(instruments, np.int64), np.zeros(instruments, np.int64)
    _fold(markets, books, rows, crossed, invalid)
    tops = []
    for m in markets:
        out = np.zeros(4, np.int64)
        _best(m, out)
        tops.append(out.tolist())
    return Books(markets, tops, crossed.tolist(), invalid.tolist())
