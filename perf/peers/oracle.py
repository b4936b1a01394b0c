"""The answer every contender must give, from a book of two dicts and two averages in plain Python: slow, short, and the referee.

An event is all rows of one timestamp and is judged at its last row, trades included (`by_event`), which is how hftbacktest and
our line see the feed. nautilus_trader is given the depth rows alone, each an event of its own (`by_delta`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from perf.peers.feed import BID_SIDE, DEPTH_ROW, Rows
from perf.peers.terms import FAST_EVENTS, SLOW_EVENTS, TICKS_PER_UNIT


@dataclass(frozen=True)
class Answer:
    """How many orders the strategy sends, over how many events, and the touch at the end of the feed.

    `orders_but_last` leaves out what the last event would send: hftbacktest ends the run where it is due, without showing it.
    """

    orders: int
    orders_but_last: int
    events: int
    bid_ticks: int
    ask_ticks: int


class _Book:
    """Levels under keys, asks negated, so that the best is the largest key on both sides."""

    def __init__(self) -> None:
        self.levels: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self.best: list[int | None] = [None, None]

    def apply(self, side: int, price: int, lots: int) -> None:
        key = price if side == BID_SIDE else -price
        level, best = self.levels[side], self.best[side]
        if lots:
            level[key] = lots
            self.best[side] = key if best is None else max(best, key)
        else:
            level.pop(key, None)
            if key == best:
                self.best[side] = max(level, default=None)

    def touch(self) -> tuple[int, int] | None:
        bid, ask = self.best
        return None if bid is None or ask is None else (bid, -ask)


def _touches(rows: Rows, ends: list[bool]) -> Iterator[tuple[int, int]]:
    """Best bid and ask after every row that ends an event, once both sides have a level."""
    book = _Book()
    columns = (rows[name].tolist() for name in ("kind", "side", "price_ticks", "qty_lots"))
    for kind, side, price, lots, end in zip(*columns, ends, strict=True):
        if kind == DEPTH_ROW:
            book.apply(side, price, lots)
        touch = book.touch() if end else None
        if touch is not None:
            yield touch


def by_event(rows: Rows) -> Answer:
    """Orders when the averages move at the last row of each timestamp; trading starts after event SLOW_EVENTS."""
    ts = rows["ts_event_ns"]
    return _trade(_touches(rows, np.append(ts[1:] != ts[:-1], True).tolist()), SLOW_EVENTS + 1)


def by_delta(rows: Rows) -> Answer:
    """Orders when the averages move at every depth row and trades are left out; trading starts with event SLOW_EVENTS."""
    depth = rows[rows["kind"] == DEPTH_ROW]
    return _trade(_touches(depth, [True] * depth.size), SLOW_EVENTS)


def _trade(touches: Iterator[tuple[int, int]], first_event: int) -> Answer:
    up, down = 2.0 / (FAST_EVENTS + 1), 2.0 / (SLOW_EVENTS + 1)
    events = orders = before = bid = ask = 0
    fast = slow = 0.0
    is_long = False
    for bid, ask in touches:
        mid = (bid / TICKS_PER_UNIT + ask / TICKS_PER_UNIT) * 0.5
        if events == 0:
            fast = slow = mid
        events += 1
        before = orders
        fast += up * (mid - fast)
        slow += down * (mid - slow)
        if events >= first_event and (fast > slow) != is_long:
            is_long = not is_long
            orders += 1
    return Answer(orders, before, events, bid, ask)
