"""Events for tests of features: a market at random, made of whole ticks and lots."""

from __future__ import annotations

from typing import Any

import numpy as np

from handlers.features.declare import EVENT_INPUT, LEVELS_MAX, ON_BOOK, ON_GAP, ON_TRADE
from transport.records import BUY, NO_SIDE, SELL

Events = np.ndarray[Any, Any]


def random_events(seed: int, count: int, trades: float = 0.4, gaps: float = 0.0, step_ms: float = 20.0, missed: float = 0.0) -> Events:
    """A random walk of the best bid under levels with holes; a share of trades, of events at which a side is empty, and of gaps.

    Behind a gap the book is not known until its next event. Depths vary, a level in ten is missing at the deep end, one side in ten trades is unknown, times stand still now and then.
    """
    draw = np.random.default_rng(seed)
    x = np.zeros(count, EVENT_INPUT)
    x["ts_ns"] = 1_700_000_000_000_000_000 + np.cumsum(np.floor(draw.exponential(step_ms * 1e6, count)) * (draw.random(count) > 0.1)).astype(np.int64)
    is_trade = draw.random(count) < trades
    x["kind"] = np.where(is_trade, ON_TRADE, ON_BOOK)
    changed = ~is_trade
    changed[0] = True
    kept = np.maximum.accumulate(np.where(changed, np.arange(count), 0))  # a trade leaves the book as it stood
    bid = 10_000 + np.cumsum(draw.integers(-2, 3, count))
    spread = draw.integers(1, 4, count)
    for side, best, sign in (("bid", bid, -1), ("ask", bid + spread, 1)):
        steps = np.concatenate((np.zeros((count, 1), np.int64), np.cumsum(draw.integers(1, 4, (count, LEVELS_MAX - 1)), axis=1)), axis=1)
        there = np.arange(LEVELS_MAX) < draw.integers(LEVELS_MAX - 3, LEVELS_MAX + 4, (count, 1))
        x[f"{side}_ticks"] = ((best[:, None] + sign * steps) * there)[kept]
        x[f"{side}_lots"] = (draw.integers(1, 40, (count, LEVELS_MAX)) * there)[kept]
    x["mid"] = 0.5 * (x["bid_ticks"][:, 0] + x["ask_ticks"][:, 0])
    empty = (draw.random(count) < gaps)[kept]
    x["mid"][empty] = np.nan
    for name in ("bid_ticks", "bid_lots"):
        x[name][empty] = 0.0
    lost = draw.random(count) < missed
    last_gap, last_book = (np.maximum.accumulate(np.where(which, np.arange(count), -1)) for which in (lost, changed & ~lost))
    unknown = last_gap > last_book
    x["mid"][unknown] = np.nan
    for name in ("bid_ticks", "bid_lots", "ask_ticks", "ask_lots"):
        x[name][unknown] = 0.0
    side = draw.choice([BUY, SELL, NO_SIDE], count, p=[0.45, 0.45, 0.1])
    touch = np.where(side == SELL, bid[kept], (bid + spread)[kept])
    x["price"], x["qty"], x["side"] = np.where(is_trade, (touch, draw.integers(1, 60, count), side), 0)
    x["kind"][lost] = ON_GAP
    return x


def still_events(seed: int, count: int) -> Events:
    """The same times and sides in a market that does not move: every book is the first, every trade one lot at its mid."""
    x = random_events(seed, count)
    for name in ("mid", "bid_ticks", "bid_lots", "ask_ticks", "ask_lots"):
        x[name] = x[name][0]
    x["price"], x["qty"] = x["mid"][0], 1.0
    return x
