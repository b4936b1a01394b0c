"""The feature row: which value stands where, in which unit. FEATURES writes it, strategies and tables read it."""

from __future__ import annotations

from typing import NamedTuple

from transport.records import VALUES_PER_SLOT


class Feature(NamedTuple):
    """Declaration of one value of the feature row."""

    name: str
    unit: str
    what: str


FEATURES = (
    Feature("mid", "ticks", "half of best bid plus best ask"),
    Feature("spread", "ticks", "best ask minus best bid; negative when the venue's book is crossed"),
    Feature("microprice", "ticks", "mid weighted by the opposite side's lots (Stoikov 2018, first order)"),
    Feature("imbalance", "-1..1", "(bid lots - ask lots) / (bid lots + ask lots) at the top"),
    Feature("ofi", "lots", "order-flow imbalance since the last event (Cont, Kukanov & Stoikov 2014, eq. 3)"),
    Feature("ema_fast", "ticks", "exponential mean of mid over events, alpha = 2 / (n + 1)"),
    Feature("ema_slow", "ticks", "the same, slower"),
    Feature("volatility", "ticks", "root of the exponential mean of squared mid changes, an event"),
)
SCHEMA_ID = 1  # of FEATURES and LEVEL; above it in a row's schema_id stands how many levels it has
LEVEL = (
    Feature("bid", "ticks", "price of the k-th best bid, 0 where there is none"),
    Feature("bid_lots", "lots", "its quantity"),
    Feature("ask", "ticks", "price of the k-th best ask, 0 where there is none"),
    Feature("ask_lots", "lots", "its quantity"),
)
DEPTH_MAX = 32  # levels a side: 136 values in 17 slots
MID, SPREAD, MICROPRICE, IMBALANCE, OFI, EMA_FAST, EMA_SLOW, VOLATILITY = range(len(FEATURES))
assert len(FEATURES) == VALUES_PER_SLOT, "the first slot holds these, the levels stand in the slots behind it"


def features_of(depth: int) -> tuple[Feature, ...]:
    """Values of a feature row with `depth` levels of the book, in order: FEATURES, then bid, bid lots, ask, ask lots of each level."""
    levels = (Feature(f"{v.name}_{k}", v.unit, v.what) for k in range(1, depth + 1) for v in LEVEL)
    return (*FEATURES, *levels)


def schema_id(depth: int) -> int:
    """What a row with `depth` levels bears."""
    return SCHEMA_ID | depth << 16
