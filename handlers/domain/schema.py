"""The feature row: which value stands where, in which unit. FEATURES writes it, strategies and tables read it."""

from __future__ import annotations

from typing import NamedTuple

from transport.records import VALUES_PER_SLOT


class Value(NamedTuple):
    """Declaration of one value of a feature row: its name, its unit (`price` and `volume`: as its input) and its meaning."""

    name: str
    unit: str
    what: str


FEATURES = (
    Value("mid", "ticks", "half of best bid plus best ask"),
    Value("spread", "ticks", "best ask minus best bid; negative when the venue's book is crossed"),
    Value("microprice", "ticks", "mid weighted by the opposite side's lots (Stoikov 2018, first order)"),
    Value("imbalance", "-1..1", "(bid lots - ask lots) / (bid lots + ask lots) at the top"),
    Value("ofi", "lots", "order-flow imbalance since the last event (Cont, Kukanov & Stoikov 2014, eq. 3), 0 where the top was not known since"),
    Value("ema_fast", "ticks", "exponential mean of mid over events, alpha = 2 / (n + 1)"),
    Value("ema_slow", "ticks", "the same, slower"),
    Value("volatility", "ticks", "root of the exponential mean of squared mid changes, an event, but those over a top that was not known"),
)
SCHEMA_ID = 2  # of FEATURES and LEVEL; above it in a row's schema_id stands how many levels it has
LEVEL = (
    Value("bid", "ticks", "price of the k-th best bid, 0 where there is none"),
    Value("bid_lots", "lots", "its quantity"),
    Value("ask", "ticks", "price of the k-th best ask, 0 where there is none"),
    Value("ask_lots", "lots", "its quantity"),
)
INDICATORS_FROM = 1 << 31  # schema_ids from here up are of rows of configured indicators: this and 31 bits of their schema's hash
EVENT_FEATURES_FROM = 1 << 30  # from here up to that, of rows of configured features of events: this and 30 bits of their schema's hash
FACTORS_FROM = 1 << 29  # from here up to that, of rows of scores in the universe: this and 29 bits of their schema's hash
FACTOR_SCORES = (  # of an instrument among all at one bar, NaN where it has none; what each factor is stands in handlers.features.factors
    Value("momentum", "score", "return over the periods but the last, of 12-1 by default"),
    Value("reversal", "score", "less the return of the last period"),
    Value("low_volatility", "score", "less the standard deviation of returns"),
    Value("liquidity", "score", "illiquidity: mean of |return| over traded value"),
    Value("high", "score", "close over the highest close of its window"),
    Value("composite", "score", "the five by their weights"),
)
DEPTH_MAX = 32  # levels a side: 136 values in 17 slots
MID, SPREAD, MICROPRICE, IMBALANCE, OFI, EMA_FAST, EMA_SLOW, VOLATILITY = range(len(FEATURES))
assert len(FEATURES) == VALUES_PER_SLOT, "the first slot holds these, the levels stand in the slots behind it"


def features_of(depth: int) -> tuple[Value, ...]:
    """Values of a feature row with `depth` levels of the book, in order: FEATURES, then bid, bid lots, ask, ask lots of each level."""
    levels = (Value(f"{v.name}_{k}", v.unit, v.what) for k in range(1, depth + 1) for v in LEVEL)
    return (*FEATURES, *levels)


def schema_id(depth: int) -> int:
    """What a row with `depth` levels bears."""
    return SCHEMA_ID | depth << 16


def indicators_id(schema_hash: str) -> int:
    """What a row of the indicators with this schema bears."""
    return INDICATORS_FROM | int(schema_hash[:8], 16) >> 1


def event_features_id(schema_hash: str) -> int:
    """What a row of the features of events with this schema bears."""
    return EVENT_FEATURES_FROM | int(schema_hash[:8], 16) >> 2


def factors_id(schema_hash: str) -> int:
    """What a row of scores in the universe with this schema bears."""
    return FACTORS_FROM | int(schema_hash[:8], 16) >> 3
