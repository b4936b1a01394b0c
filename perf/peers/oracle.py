"""The answer every contender must give, from a book of two dicts and two averages in plain Python: slow, short, and the referee.

Orders are market orders that walk the opposite side of the book as it stands when they arrive, a fill a level; the market does
not feel them. hftbacktest, which is told to fill orders whole, makes one fill of each instead.

An event is all rows of one timestamp and is judged at its last row, trades included (`by_event`), which is how hftbacktest and
our line see the feed. nautilus_trader is given the depth rows alone, each an event of its own (`by_delta`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perf.peers.feed import ASK_SIDE, BID_SIDE, DEPTH_ROW, Rows
from perf.peers.terms import FAST_EVENTS, FEED_LATENCY_NS, ORDER_LATENCY_NS, ORDER_LOTS, ORDERS, SLOW_EVENTS, TICKS_PER_UNIT, TRADED_LOTS


@dataclass(frozen=True)
class Answer:
    """How many orders the strategy sends, over how many events, what they meet, and the touch at the end of the feed.

    `orders_but_last` leaves out what the last event would send: hftbacktest ends the run where it is due, without showing it.
    """

    orders: int
    orders_but_last: int
    events: int
    fills: int
    traded_lots: int
    bid_ticks: int
    ask_ticks: int
    under_way: int  # orders that arrive after the last row, if at all


# `by_event` of the whole feed, for those who have no seconds to spare; the peer comparison holds it to the oracle itself.
WHOLE_FEED = Answer(
    orders=ORDERS, orders_but_last=ORDERS, events=1_870_917, fills=11_581, traded_lots=TRADED_LOTS, bid_ticks=199_663,
    ask_ticks=199_664, under_way=0,
)  # fmt: skip


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

    def walk(self, side: int, lots: int) -> tuple[int, int]:
        """(levels met, lots got) by a market order of `lots` against `side`."""
        left, met, key = lots, 0, self.best[side]
        while left > 0 and key is not None:
            left -= min(left, self.levels[side][key])
            met += 1
            key = max((k for k in self.levels[side] if k < key), default=None) if left else None
        return met, lots - left


class _Cross:
    """The strategy of the terms: which way to trade after an event, if at all."""

    def __init__(self, first_event: int) -> None:
        self.events = 0
        self._first_event = first_event
        self._fast = self._slow = 0.0
        self._is_long = False

    def decide(self, bid: int, ask: int) -> int | None:
        """The side of the book to trade against now that the touch is (bid, ask) in ticks, or None."""
        mid = (bid / TICKS_PER_UNIT + ask / TICKS_PER_UNIT) * 0.5
        if self.events == 0:
            self._fast = self._slow = mid
        self.events += 1
        self._fast += 2.0 / (FAST_EVENTS + 1) * (mid - self._fast)
        self._slow += 2.0 / (SLOW_EVENTS + 1) * (mid - self._slow)
        if self.events < self._first_event or (self._fast > self._slow) == self._is_long:
            return None
        self._is_long = not self._is_long
        return ASK_SIDE if self._is_long else BID_SIDE


def by_event(rows: Rows) -> Answer:
    """Orders when the averages move at the last row of each timestamp; trading starts after event SLOW_EVENTS.

    An order arrives FEED_LATENCY_NS + ORDER_LATENCY_NS after its event: behind the rows of that time, before the next.
    """
    ts = rows["ts_event_ns"]
    ends = np.append(ts[1:] != ts[:-1], True).tolist()
    return _trade(rows, ends, SLOW_EVENTS + 1, FEED_LATENCY_NS + ORDER_LATENCY_NS)


def by_delta(rows: Rows) -> Answer:
    """Orders when the averages move at every depth row and trades are left out; trading starts with event SLOW_EVENTS, and at once."""
    depth = rows[rows["kind"] == DEPTH_ROW]
    return _trade(depth, [True] * depth.size, SLOW_EVENTS, -1)


def _trade(rows: Rows, ends: list[bool], first_event: int, delay_ns: int) -> Answer:
    """The strategy after every row that ends an event, once both sides have a level; a `delay_ns` below 0 is none at all."""
    book, strategy = _Book(), _Cross(first_event)
    under_way: list[tuple[int, int]] = []  # (when it arrives, side it is against), in order
    arrived: list[tuple[int, int]] = []
    orders = before = 0
    touch: tuple[int, int] | None = None
    columns = (rows[name].tolist() for name in ("ts_event_ns", "kind", "side", "price_ticks", "qty_lots"))
    for now_ns, kind, side, price, lots, end in zip(*columns, ends, strict=True):
        while under_way and under_way[0][0] < now_ns:
            arrived.append(book.walk(under_way.pop(0)[1], ORDER_LOTS))
        if kind == DEPTH_ROW:
            book.apply(side, price, lots)
        touch = book.touch() if end else None
        if touch is None:
            continue
        before = orders
        against = strategy.decide(*touch)
        if against is not None:
            orders += 1
            under_way.append((now_ns + delay_ns, against))
            if delay_ns < 0:
                arrived.append(book.walk(under_way.pop()[1], ORDER_LOTS))
    arrived += [book.walk(against, ORDER_LOTS) for _, against in under_way]
    bid, ask = touch or (0, 0)
    fills, lots = sum(met for met, _ in arrived), sum(got for _, got in arrived)
    return Answer(orders, before, strategy.events, fills, lots, bid, ask, len(under_way))
