"""The streaming features: what is taken of the top of the book at the end of each venue event.

`handlers.domain.schema` declares each value's place in the row, its unit and its source; `update` computes them. Values are floats in ticks and lots, IEEE + - * / and sqrt only.

Behind a top that is not known there is no difference to what was before: a gap, a book that is not valid, a side that is empty. The
first row behind it has an order flow of 0 and brings no change of the mid to the volatility; the exponential means go on with its mid.
Of a book the top is known again with its snapshot, of quotes with the next one.
"""

from __future__ import annotations

import numpy as np

from handlers.domain.schema import EMA_FAST, EMA_SLOW, IMBALANCE, MICROPRICE, MID, OFI, SPREAD, VOLATILITY
from transport.compiled import kernel

FEATURE_STATE = np.dtype(
    [
        ("begun", "i8"),  # 1: the means below have a value
        ("linked", "i8"),  # 1: nothing was missed since the top below
        ("quoted", "i8"),  # 1: a quote has come since the last gap
        ("bid_ticks", "i8"), ("bid_lots", "i8"), ("ask_ticks", "i8"), ("ask_lots", "i8"),  # top at the last event
        ("mid", "f8"),
        ("ema_fast", "f8"), ("ema_slow", "f8"),
        ("square", "f8"),  # exponential mean of squared mid changes
    ]
)  # fmt: skip
FEATURE_PARAMS = np.dtype(
    [
        ("alpha_fast", "f8"), ("alpha_slow", "f8"), ("alpha_volatility", "f8"),
        ("bar_ns", "i8"), ("top", "i8"),  # bar_ns: of plain bars, 0 where a step is taken apart
        ("checkpoint", "i8"),
        ("depth", "i8"),  # levels a side behind the first eight values
        ("schema", "u8"),  # schema_id and count, as they stand in a row
        ("behind_bars", "i8"),  # 1: something configured takes them, indicators or factors of the universe
        ("interval_ns", "i8"),  # of plain bars, 0 = bars are cut
    ]
)  # fmt: skip
TOP_BOOK, TOP_QUOTE = 0, 1


@kernel(inline=True)
def order_flow(s, bid, bid_lots, ask, ask_lots):
    """Signed lots that the top gained (bid) or lost (ask) since the last event."""
    flow = 0
    if bid >= s.bid_ticks:
        flow += bid_lots
    if bid <= s.bid_ticks:
        flow -= s.bid_lots
    if ask <= s.ask_ticks:
        flow -= ask_lots
    if ask >= s.ask_ticks:
        flow += s.ask_lots
    return flow


@kernel(inline=True)
def update(s, p, bid, bid_lots, ask, ask_lots, values):
    """Fold one event's top (lots > 0) into `s` and write the row's eight values."""
    mid = (bid + ask) * 0.5
    flow = 0
    if s.linked:
        flow = order_flow(s, bid, bid_lots, ask, ask_lots)
        change = mid - s.mid
        s.square += p.alpha_volatility * (change * change - s.square)
    elif s.begun == 0:
        s.ema_fast = s.ema_slow = mid
    s.ema_fast += p.alpha_fast * (mid - s.ema_fast)
    s.ema_slow += p.alpha_slow * (mid - s.ema_slow)
    s.begun = s.linked = 1
    s.mid = mid
    s.bid_ticks, s.bid_lots, s.ask_ticks, s.ask_lots = bid, bid_lots, ask, ask_lots
    share = 1.0 / (bid_lots + ask_lots)  # one division for both that need it
    values[MID] = mid
    values[SPREAD] = ask - bid
    values[MICROPRICE] = (bid * float(ask_lots) + ask * float(bid_lots)) * share
    values[IMBALANCE] = (bid_lots - ask_lots) * share
    values[OFI] = flow
    values[EMA_FAST] = s.ema_fast
    values[EMA_SLOW] = s.ema_slow
    values[VOLATILITY] = np.sqrt(s.square)
