"""The tables that can be exported: their columns, and which kinds of record they are made of; declared once, here.

A column says what its integers mean (`kind`) and which field of the record holds them. `engine.export` turns them into text and
Parquet; documentation and tests read the same declarations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from engine.errors import EngineError
from handlers.domain.schema import FEATURES, Value, features_of
from transport.instruments import Instrument
from transport.records import (
    ACCEPTED,
    ACK,
    AFTER_FILL,
    AMEND,
    AMENDED,
    ASK,
    AT_END,
    BAR,
    BID,
    BUY,
    CANCEL,
    CANCELLED,
    EXPIRED,
    FEATURE,
    FILL,
    FOK,
    GTC,
    IOC,
    LIMIT_ORDER,
    MAKER,
    MARKED,
    MARKET_ORDER,
    NO_SIDE,
    ORDER,
    POSITION,
    QUOTE,
    REJECT,
    SELL,
    SIGNAL,
    TAKER,
    TRADE,
    VALUES_PER_SLOT,
)

TOP = np.dtype(
    [
        ("ts_recv_ns", "i8"), ("instrument_id", "u4"), ("venue_seq", "i8"),
        ("bid_ticks", "i8"), ("bid_lots", "i8"), ("ask_ticks", "i8"), ("ask_lots", "i8"),  # lots 0: that side is empty
        ("bid_orders", "i8"), ("ask_orders", "i8"),
    ]
)  # fmt: skip


class ExportError(EngineError):
    """A table cannot be written as asked: unknown table or format, a missing package, a row that is not of the table."""


class Column(NamedTuple):
    """One column: its heading, what its numbers mean, and the field of the record that holds them."""

    name: str
    kind: str  # one of NUMBER_KINDS, DECIMAL_KINDS or TEXT_KINDS
    field: str  # `values.3` is the fourth of an array, `values1.3` that of a long row's second slot
    blank: str = ""  # the cell is empty where this field is zero, or by the rule PRICED or IF_MARKED


PRICED = "priced"  # empty for a market order, which has no price
KNOWN = "known"  # empty while a feature warms up, and has no number
IF_MARKED = "if marked"  # empty after a fill, where nothing was marked
NUMBER_KINDS = ("int", "ns", "float")
DECIMAL_KINDS = ("price", "qty", "notional", "money", "total")  # total: money summed over a currency's accounts
NAMES: dict[str, dict[int, str]] = {
    "side": {NO_SIDE: "", BUY: "BUY", SELL: "SELL"},
    "quoted": {NO_SIDE: "", BID: "BID", ASK: "ASK"},
    "order_type": {MARKET_ORDER: "MARKET", LIMIT_ORDER: "LIMIT"},
    "tif": {GTC: "GTC", IOC: "IOC", FOK: "FOK"},
    "liquidity": {MAKER: "MAKER", TAKER: "TAKER"},
    "cause": {AFTER_FILL: "FILL", MARKED: "MARK", AT_END: "END"},
    "event": {ORDER: "ORDER", CANCEL: "CANCEL", AMEND: "AMEND", REJECT: "REJECT"},
    "ack": {ACCEPTED: "ACCEPTED", CANCELLED: "CANCELLED", AMENDED: "AMENDED", EXPIRED: "EXPIRED"},
}
TEXT_KINDS = ("instrument", "currency", "reason", "side", "quoted", "order_type", "tif", "liquidity", "cause", "event")

_VENUE_TIMES = (Column("ts_event_ns", "ns", "ts_event_ns"), Column("ts_recv_ns", "ns", "ts_recv_ns"))
_LINE_TIMES = (Column("seq", "int", "seq"), Column("ts_seq_ns", "ns", "ts_seq_ns"))
_INSTRUMENT = Column("instrument", "instrument", "instrument_id")
_STRATEGY = Column("strategy_id", "int", "strategy_id")
_TOP_CELLS = (
    Column("bid", "price", "bid_ticks", "bid_lots"),
    Column("bid_qty", "qty", "bid_lots", "bid_lots"),
    Column("ask", "price", "ask_ticks", "ask_lots"),
    Column("ask_qty", "qty", "ask_lots", "ask_lots"),
)
BINANCE_TOPS = (Column("u", "int", "venue_seq"), *_TOP_CELLS)
KINDS_OF: dict[str, tuple[int, ...]] = {
    "trades": (TRADE,), "quotes": (QUOTE,), "tops": (), "bars": (BAR,), "features": (FEATURE,), "indicators": (FEATURE,), "event_features": (FEATURE,), "factors": (FEATURE,), "signals": (SIGNAL,),
    "orders": (ORDER, CANCEL, AMEND, ACK, REJECT), "fills": (FILL,), "positions": (POSITION,), "pnl": (POSITION,),
}  # fmt: skip
COLUMNS: dict[str, tuple[Column, ...]] = {
    "trades": (
        *_VENUE_TIMES, _INSTRUMENT, Column("trade_id", "int", "venue_seq"), Column("price", "price", "price_ticks"),
        Column("qty", "qty", "qty_lots"), Column("side", "side", "side"), Column("conditions", "int", "conditions", "conditions"),
    ),
    "quotes": (
        *_VENUE_TIMES, _INSTRUMENT, Column("venue_seq", "int", "venue_seq"),
        Column("bid", "price", "price_ticks", "qty_lots"), Column("bid_qty", "qty", "qty_lots", "qty_lots"),
        Column("ask", "price", "ask_ticks", "ask_lots"), Column("ask_qty", "qty", "ask_lots", "ask_lots"),
    ),
    "tops": (
        Column("ts_recv_ns", "ns", "ts_recv_ns"), _INSTRUMENT, Column("venue_seq", "int", "venue_seq"), *_TOP_CELLS,
        Column("bid_orders", "int", "bid_orders"), Column("ask_orders", "int", "ask_orders"),
    ),
    "bars": (
        Column("ts_open_ns", "ns", "ts_open_ns"), Column("interval_ns", "ns", "interval_ns"), _INSTRUMENT,
        Column("open", "price", "open_ticks"), Column("high", "price", "high_ticks"), Column("low", "price", "low_ticks"),
        Column("close", "price", "close_ticks"), Column("volume", "qty", "volume_lots"),
        Column("notional", "notional", "notional_ticks_lots"), Column("trades", "int", "trades"),
        Column("side", "quoted", "side"), Column("session", "int", "session", "session"),
    ),
    "features": (
        *_LINE_TIMES, *_VENUE_TIMES, _INSTRUMENT,
        *(Column(feature.name, "float", f"values.{i}") for i, feature in enumerate(FEATURES)),
    ),
    "indicators": (*_LINE_TIMES, *_VENUE_TIMES, _INSTRUMENT),
    "event_features": (*_LINE_TIMES, *_VENUE_TIMES, _INSTRUMENT),
    "factors": (*_LINE_TIMES, *_VENUE_TIMES, _INSTRUMENT),
    "signals": (
        *_LINE_TIMES, _INSTRUMENT, _STRATEGY, Column("value", "float", "value"), Column("strength", "float", "strength"),
    ),
    "orders": (
        *_LINE_TIMES, _INSTRUMENT, _STRATEGY, Column("event", "event", "kind"), Column("order_id", "int", "order_id"),
        Column("side", "side", "side"), Column("order_type", "order_type", "order_type"),
        Column("tif", "tif", "tif", "order_type"), Column("price", "price", "price_ticks", PRICED),
        Column("qty", "qty", "qty_lots"), Column("leaves_qty", "qty", "leaves_lots"), Column("reason", "reason", "reason"),
    ),
    "fills": (
        *_LINE_TIMES, Column("ts_event_ns", "ns", "ts_event_ns"), _INSTRUMENT, _STRATEGY,
        Column("order_id", "int", "order_id"), Column("side", "side", "side"), Column("price", "price", "price_ticks"),
        Column("qty", "qty", "qty_lots"), Column("leaves_qty", "qty", "leaves_lots"),
        Column("liquidity", "liquidity", "action"), Column("fee", "money", "fee"), Column("cash", "money", "cash"),
        Column("currency", "currency", "instrument_id"),
    ),
    "positions": (
        *_LINE_TIMES, _INSTRUMENT, _STRATEGY, Column("cause", "cause", "action"), Column("position", "qty", "qty_lots"),
        Column("cost", "money", "cost"), Column("realised", "money", "realised"),
        Column("unrealised", "money", "unrealised", IF_MARKED), Column("fees", "money", "fee"),
        Column("currency", "currency", "instrument_id"),
    ),
    "pnl": (
        *_LINE_TIMES, _INSTRUMENT, _STRATEGY, Column("position", "qty", "qty_lots"), Column("realised", "money", "realised"),
        Column("fees", "money", "fee"), Column("currency", "currency", "instrument_id"),
        Column("total_realised", "total", "realised"), Column("total_fees", "total", "fee"), Column("total_net", "total", "net"),
    ),
}  # fmt: skip
TABLES = tuple(COLUMNS)
FORMATS = ("csv", "parquet")


def columns_of(
    table: str, instruments: Sequence[Instrument] = (), depth: int = 0, values: Sequence[Value] = ()
) -> tuple[Column, ...]:
    """Columns of `table`; features have those of `depth` levels behind their own, indicators, features of events and factors `values`, those configured. Raises ExportError.

    The tops of one Binance instrument are `u, bid, bid_qty, ask, ask_qty`.
    """
    if table not in COLUMNS:
        raise ExportError(f"no table {table!r}; there are {', '.join(TABLES)}")
    if table == "tops" and len(instruments) == 1 and instruments[0].venue.startswith("binance"):
        return BINANCE_TOPS
    if table == "features":
        more = enumerate(features_of(depth)[len(FEATURES) :], len(FEATURES))
        return (*COLUMNS[table], *(Column(feature.name, "float", _place(i)) for i, feature in more))
    if table in ("indicators", "event_features", "factors"):
        return (*COLUMNS[table], *(Column(value.name, "float", _place(i), KNOWN) for i, value in enumerate(values)))
    return COLUMNS[table]


def _place(value: int) -> str:
    """The field of a long row's `value`-th number."""
    part, k = divmod(value, VALUES_PER_SLOT)
    return f"values{part or ''}.{k}"
