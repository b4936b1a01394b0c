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
SCHEMA_ID = 1
MID, SPREAD, MICROPRICE, IMBALANCE, OFI, EMA_FAST, EMA_SLOW, VOLATILITY = range(len(FEATURES))
assert len(FEATURES) == VALUES_PER_SLOT, "one slot holds the row; more features make it a long row"
