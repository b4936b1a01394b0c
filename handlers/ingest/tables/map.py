"""What a table's columns are: the map that a user writes in TOML beside a CSV or Parquet file, as a struct, and what it may say.

    kind = "trade"                 a trade, quote, book_delta, book_snapshot or bar a line
    venue = "xnas"                 and symbol = "AAPL", or a column for it
    tick = 0.01, lot = 1           of every instrument of the file; left out: from the decimals of its first 16 MiB
    [columns]                      by the header's words, or by number from 1
    time = "ts"
    price = "px"

Reading TOML is the engine's (`engine.table_maps`), which refuses unknown keys; what keys mean together is checked here.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from transport.records import BAR, BOOK_DELTA, BOOK_SNAPSHOT, QUOTE, TRADE

Kind = Literal["trade", "quote", "book_delta", "book_snapshot", "bar"]
Unit = Literal["auto", "s", "ms", "us", "ns", "iso"]
ColumnKey = str | Annotated[int, Meta(ge=1, le=4096)]  # the header's word, or its place from 1
KIND_OF: dict[str, int] = {"trade": TRADE, "quote": QUOTE, "book_delta": BOOK_DELTA, "book_snapshot": BOOK_SNAPSHOT, "bar": BAR}
SECOND_NS = 10**9
_SPANS = {"s": SECOND_NS, "m": 60 * SECOND_NS, "h": 3600 * SECOND_NS, "d": 86_400 * SECOND_NS, "w": 7 * 86_400 * SECOND_NS}


class Columns(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[columns]`: which column holds what; the first of each pair below is required by its kind, the rest may be left out."""

    time: ColumnKey | None = None  # the venue's time of the event; bars have open_time or close_time instead
    recv_time: ColumnKey | None = None  # ours; without it the event's time stands for it
    symbol: ColumnKey | None = None  # the venue's word
    instrument: ColumnKey | None = None  # SYMBOL.venue, as tables exported by the engine have it
    price: ColumnKey | None = None
    qty: ColumnKey | None = None
    side: ColumnKey | None = None
    id: ColumnKey | None = None  # trade id, update id
    bid: ColumnKey | None = None
    bid_qty: ColumnKey | None = None
    ask: ColumnKey | None = None
    ask_qty: ColumnKey | None = None
    first_id: ColumnKey | None = None
    prev_id: ColumnKey | None = None
    is_snapshot: ColumnKey | None = None  # of a book_delta table: true where the line is a row of a whole book
    open_time: ColumnKey | None = None
    close_time: ColumnKey | None = None
    interval_ns: ColumnKey | None = None
    open: ColumnKey | None = None
    high: ColumnKey | None = None
    low: ColumnKey | None = None
    close: ColumnKey | None = None
    volume: ColumnKey | None = None
    notional: ColumnKey | None = None
    trades: ColumnKey | None = None
    conditions: ColumnKey | None = None  # bits of a trade's conditions of sale
    session: ColumnKey | None = None  # number of a bar's session


class TableTime(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[time]`: how times are written, the same in every time column."""

    unit: Unit = "auto"  # a number by its size, from 1973 on; anything else as ISO 8601
    zone: str = "UTC"  # whose clock it is where the text has no offset of its own
    close_is_last: bool = False  # the close time is the last unit within the bar, as venues write 23:59:59.999


class TableWords(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[words]`: the words of the side column; book sides and aggressors alike. An empty cell is no side."""

    buy: tuple[str, ...] = ("BUY", "Buy", "buy", "B", "b", "BID", "Bid", "bid")
    sell: tuple[str, ...] = ("SELL", "Sell", "sell", "S", "s", "ASK", "Ask", "ask", "A", "a")


class TableMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole map."""

    kind: Kind
    venue: str = ""
    symbol: str = ""  # of the whole file; otherwise a column says it
    symbols: tuple[str, ...] = ()  # with a column: those that the first 16 MiB do not show, on the finest grid that they do
    quote: str = "USD"  # currency that prices are in
    tick: Decimal | None = None
    lot: Decimal | None = None
    header: bool = True  # whether the first line names the columns
    separator: Literal[",", ";", "\t", "|", " "] = ","
    order: Literal["file", "time"] = "file"  # "time": sorted in memory first, by receive time, then place in the file
    wide: bool = False  # bars: every column that `columns` does not name is a symbol, its cells are closes
    interval: Annotated[str, Meta(pattern="^$|^[1-9][0-9]{0,5}[smhdw]$")] = ""  # bars: 1m, 1d
    time: TableTime = TableTime()
    columns: Columns = Columns()
    words: TableWords = TableWords()

    @property
    def interval_ns(self) -> int:
        """Of the bars, 0 when columns say it."""
        return int(self.interval[:-1]) * _SPANS[self.interval[-1]] if self.interval else 0


WHEN, WHICH = ("time", "recv_time"), ("symbol", "instrument")
BOOK_COLUMNS = (*WHEN, *WHICH, "side", "price", "qty", "id", "first_id", "prev_id")
TAKES: dict[str, tuple[str, ...]] = {
    "trade": (*WHEN, *WHICH, "price", "qty", "side", "id", "conditions"),
    "quote": (*WHEN, *WHICH, "bid", "bid_qty", "ask", "ask_qty", "id"),
    "book_delta": (*BOOK_COLUMNS, "is_snapshot"),
    "book_snapshot": BOOK_COLUMNS,
    "bar": ("open_time", "close_time", "recv_time", "interval_ns", *WHICH, "open", "high", "low", "close", "volume", "notional", "trades", "side", "session"),
}  # fmt: skip
NEEDS: dict[str, tuple[str, ...]] = {
    "trade": ("time", "price", "qty"),
    "quote": ("time", "bid", "bid_qty", "ask", "ask_qty"),
    "book_delta": ("time", "side", "price", "qty"),
    "book_snapshot": ("time", "side", "price", "qty"),
    "bar": ("close",),
}


OF_ONE_SYMBOL = ("volume", "notional", "trades", "side", "session")  # of a bar: no column of a wide table could be that of all its symbols


def problems_of(table: TableMap) -> list[str]:
    """What the keys say that cannot be, in words for the user; empty where all is well."""
    named = {key: value for key in Columns.__struct_fields__ if (value := getattr(table.columns, key)) is not None}
    found = [f"columns.{key}: a {table.kind} has no such column; it takes {', '.join(TAKES[table.kind])}" for key in named if key not in TAKES[table.kind]]
    needed = () if table.wide else NEEDS[table.kind]
    found += [f"columns.{key}: a {table.kind} needs it" for key in needed if key not in named]
    twice = {value for value in named.values() if list(named.values()).count(value) > 1}
    found += [f"columns: {value!r} is named twice" for value in sorted(twice, key=str)]
    found += [f"columns.{key} = {value!r}: without a header a column is named by its number, from 1" for key, value in named.items()
              if not table.header and isinstance(value, str)]  # fmt: skip
    found += [f"{key}: expected a step above 0, got {value}" for key in ("tick", "lot") if (value := getattr(table, key)) is not None and value <= 0]
    if both := sorted(set(table.words.buy) & set(table.words.sell)):
        found.append(f"words: {both[0]!r} cannot be both buy and sell")
    return found + _which(table, named) + (_bar(table, named) if table.kind == "bar" else _no_bar(table))


def _which(table: TableMap, named: dict[str, ColumnKey]) -> list[str]:
    """Exactly one way to say which instrument a line is of."""
    ways = [bool(table.symbol), "symbol" in named, "instrument" in named, table.wide]
    if sum(ways) != 1:
        return ["symbol: say it once: symbol = \"…\" for the whole file, or columns.symbol, or columns.instrument (SYMBOL.venue), or wide = true"]
    if table.symbols and (table.symbol or table.wide):
        return ["symbols: is for a table with a column of symbols"]
    if not table.venue and "instrument" not in named:
        return ["venue: is required, a short name such as binance or xnas"]
    return []


def _bar(table: TableMap, named: dict[str, ColumnKey]) -> list[str]:
    """When a bar closes must be known: it enters the line then."""
    found = []
    times = [key for key in ("open_time", "close_time") if key in named]
    if not times:
        found.append("columns.open_time: a bar needs open_time or close_time: the line sees it when it closes, not when it opens")
    if len(times) == 1 and not table.interval and "interval_ns" not in named:
        found.append('interval: a bar with one time needs it, such as interval = "1m"')
    if table.interval and (len(times) == 2 or "interval_ns" in named):
        found.append("interval: columns say it already")
    if len({key in named for key in ("open", "high", "low")}) > 1 or (table.wide and "open" in named):
        found.append("columns: open, high and low are given together, or left out where only closes are known")
    if table.wide and ("close" in named or not table.header):
        found.append("wide: every column but the times is a symbol's close, named by the header")
    if table.wide and (shared := [f"columns.{key}" for key in named if key in OF_ONE_SYMBOL]):
        found.append(f"{', '.join(shared)}: a wide table has closes, each its symbol's own, and times")
    if table.time.close_is_last and (table.time.unit == "iso" or "close_time" not in named):
        found.append("time.close_is_last: is for a numeric close_time")
    return found


def _no_bar(table: TableMap) -> list[str]:
    found = [f"{key}: is for bars" for key in ("wide", "interval") if getattr(table, key)]
    return found + (["time.close_is_last: is for bars"] if table.time.close_is_last else [])


def place_of(key: ColumnKey, header: Sequence[str], what: str) -> int:
    """Place from 0 of a column; raises KeyError, with a text for the user, for a word that the header has not, or has twice."""
    if isinstance(key, int):
        return key - 1
    if header.count(key) > 1:
        raise KeyError(f"{what} = {key!r}: the header has {header.count(key)} such columns")
    if key in header:
        return header.index(key)
    near = difflib.get_close_matches(key, header, 1, 0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(header)}"
    raise KeyError(f"{what} = {key!r}: the header has no such column, {hint}")
