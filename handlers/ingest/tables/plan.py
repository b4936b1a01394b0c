"""The map of a table bound to the columns of a file: which cell goes to which word of a record, and how it is read.

    column 3 ──(form PRICE, grid of the line's instrument)──► word 6 of the slot: price_ticks

A record is sixteen words of eight bytes, so that one table drives the reading of every kind; what is no whole word (side, kind,
instrument) has a form of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from handlers.domain.borrowed import borrow
from handlers.domain.reasons import OUT_OF_RANGE, PRICE_OFF_GRID, QTY_OFF_GRID
from handlers.ingest.decimals import grid_step
from handlers.ingest.tables.map import KIND_OF, TableMap, place_of
from handlers.ingest.tables.times import Clock, clock_of
from transport.compiled import kernel
from transport.instruments import INT64_MAX, Instrument
from transport.records import REC

PRICE, QTY, NOTIONAL, COUNT, TIME, SIDE, IS_SNAPSHOT, SYMBOL = range(8)  # forms of a cell
REFUSED, ZERO, WITH_LAST = range(3)  # an empty cell: no record, a zero, or a zero if the cell before it was empty too
PLAN = np.dtype([
    ("column", "i8"), ("form", "i8"), ("word", "i8"), ("empty", "i8"),
    ("add_units", "i8"), ("add_ns", "i8"),  # of a time: what lies between it and the time that the word wants
])  # fmt: skip
GRID = np.dtype([
    ("instrument_id", "i8"),
    ("price_decimals", "i8"), ("price_step", "i8"), ("qty_decimals", "i8"), ("qty_step", "i8"),
    ("notional_decimals", "i8"), ("notional_step", "i8"),
])  # fmt: skip
SYMBOLS_MAX = 512  # instruments of a line
_SLOTS, _NAME_BYTES = 4096, 64
_FNV, _PRIME = 0xCBF29CE484222325, 0x100000001B3


def word_of(field: str) -> int:
    """Place of a field of eight bytes among a slot's words."""
    assert REC.fields is not None
    return int(REC.fields[field][1]) // 8


EVENT, RECV = word_of("ts_event_ns"), word_of("ts_recv_ns")
# key of `[columns]` -> (form, field, what an empty cell is)
_CELLS: dict[str, tuple[int, str, int]] = {
    "symbol": (SYMBOL, "seq", REFUSED), "instrument": (SYMBOL, "seq", REFUSED), "time": (TIME, "ts_event_ns", REFUSED),
    "recv_time": (TIME, "ts_recv_ns", REFUSED), "price": (PRICE, "price_ticks", REFUSED), "qty": (QTY, "qty_lots", REFUSED),
    "side": (SIDE, "seq", ZERO), "id": (COUNT, "venue_seq", ZERO), "bid": (PRICE, "price_ticks", ZERO),
    "bid_qty": (QTY, "qty_lots", WITH_LAST), "ask": (PRICE, "ask_ticks", ZERO), "ask_qty": (QTY, "ask_lots", WITH_LAST),
    "first_id": (COUNT, "first_seq", ZERO), "prev_id": (COUNT, "prev_seq", ZERO), "is_snapshot": (IS_SNAPSHOT, "seq", ZERO),
    "open": (PRICE, "open_ticks", REFUSED), "high": (PRICE, "high_ticks", REFUSED), "low": (PRICE, "low_ticks", REFUSED),
    "close": (PRICE, "close_ticks", REFUSED), "volume": (QTY, "volume_lots", REFUSED),
    "notional": (NOTIONAL, "notional_ticks_lots", REFUSED), "trades": (COUNT, "trades", REFUSED),
    "conditions": (COUNT, "conditions", ZERO), "session": (COUNT, "session", ZERO),
    "interval_ns": (COUNT, "interval_ns", REFUSED),
}  # fmt: skip


class Symbols(NamedTuple):
    """Names of instruments by place, found by hash: open addressing, at most SYMBOLS_MAX of them in _SLOTS."""

    names: np.ndarray  # uint8, _NAME_BYTES for each
    lengths: np.ndarray
    slots: np.ndarray  # place + 1, 0 is free
    used: np.ndarray  # shape (1,): how many places are taken


class Plan(NamedTuple):
    """What kernels need to read a table; everything but `symbols` is only read."""

    cells: np.ndarray  # dtype PLAN, the symbol first
    wide: np.ndarray  # columns of the symbols of a wide table, by place
    clock: Clock
    symbols: Symbols
    grids: np.ndarray  # dtype GRID, by place
    words: np.ndarray  # uint8, the words for sides one after the other
    word_cuts: np.ndarray
    buys: int  # the first so many words are BUY
    kind: int
    interval_ns: int
    one_price: bool  # only closes are known
    source_id: int
    separator: int
    columns: int  # one more than the last that is read


def new_symbols() -> Symbols:
    """Room for SYMBOLS_MAX names."""
    return Symbols(
        np.zeros(SYMBOLS_MAX * _NAME_BYTES, np.uint8), np.zeros(SYMBOLS_MAX, np.int64), np.zeros(_SLOTS, np.int64), np.zeros(1, np.int64)
    )


def name_at(symbols: Symbols, place: int) -> str:
    """The name at a place, as text."""
    return symbols.names[place * _NAME_BYTES :][: symbols.lengths[place]].tobytes().decode(errors="replace")


@kernel
def find_symbol(s: Any, text: Any, at: Any, end: Any, add: Any) -> Any:
    """Place of the name that fills [at, end), or -1; with `add` a new one gets the next place while there is room."""
    size = end - at
    if size > _NAME_BYTES:
        return -1
    code = np.uint64(_FNV)
    for i in range(at, end):
        code = (code ^ np.uint64(text[i])) * np.uint64(_PRIME)
    slot = np.int64((code ^ (code >> np.uint64(32))) & np.uint64(len(s.slots) - 1))
    while s.slots[slot]:
        place = s.slots[slot] - 1
        same = s.lengths[place] == size
        k = 0
        while same and k < size:
            same = s.names[place * _NAME_BYTES + k] == text[at + k]
            k += 1
        if same:
            return place
        slot = (slot + 1) % len(s.slots)
    place = s.used[0]
    if not add or place == len(s.lengths):
        return -1
    for k in range(size):
        s.names[place * _NAME_BYTES + k] = text[at + k]
    s.lengths[place] = size
    s.slots[slot] = place + 1
    s.used[0] = place + 1
    return place


@kernel
def add_names(owned: Any, text: Any, cuts: Any) -> None:
    """Give each name its place; `cuts` has where each begins, and the end."""
    s = borrow(owned)
    for k in range(len(cuts) - 1):
        find_symbol(s, text, cuts[k], cuts[k + 1], True)


@kernel
def grid_of(g: Any, form: Any) -> Any:
    """(decimals, step, reason for what is off it) of a form of number, from an instrument's entry in the grids."""
    decimals, step, off_grid = g.price_decimals, g.price_step, np.int64(PRICE_OFF_GRID)
    if form == QTY:
        decimals, step, off_grid = g.qty_decimals, g.qty_step, np.int64(QTY_OFF_GRID)
    elif form == NOTIONAL:
        decimals, step, off_grid = g.notional_decimals, g.notional_step, np.int64(QTY_OFF_GRID)
    elif form == COUNT:
        decimals, step, off_grid = np.int64(0), np.int64(1), np.int64(OUT_OF_RANGE)
    return decimals, step, off_grid


def bind_plan(
    table: TableMap, header: Sequence[str], instruments: Sequence[Instrument], ids: Sequence[int], source_id: int
) -> Plan:
    """The plan for a file with this header (empty: none); raises KeyError in words for a column or a zone that does not exist, a step that is too large."""
    cells = sorted(_entries(table, header), key=lambda cell: cell[1] != SYMBOL)
    wide = _wide_columns(table, header, [i.symbol for i in instruments])
    words = [w.encode() for w in (*table.words.buy, *table.words.sell)]
    columns = max([c[0] for c in cells] + wide) + 1
    return Plan(
        np.array(cells, PLAN), np.array(wide, np.int64), clock_of(table.time.unit, table.time.zone),
        symbols_of(table, instruments), _grids(instruments, ids),
        np.frombuffer(b"".join(words) or b"\0", np.uint8).copy(), np.cumsum([0, *map(len, words)]).astype(np.int64), len(table.words.buy),
        KIND_OF[table.kind], table.interval_ns, table.kind == "bar" and table.columns.open is None, source_id,
        ord(table.separator), columns,
    )  # fmt: skip


def _entries(table: TableMap, header: Sequence[str]) -> list[tuple[int, ...]]:
    found = []
    for key in type(table.columns).__struct_fields__:
        name = getattr(table.columns, key)
        if name is None:
            continue
        column = place_of(name, header, f"columns.{key}")
        if key in ("open_time", "close_time"):
            found += _bar_times(table, key, column)
        else:
            form, field, empty = _CELLS[key]
            found.append((column, form, word_of(field), empty, 0, 0))
    return found


def _bar_times(table: TableMap, key: str, column: int) -> list[tuple[int, ...]]:
    """A bar's own time is its close; where only one end is told, the interval leads to the other on the same clock."""
    last = int(table.time.close_is_last)
    ends = {"open_time": (word_of("ts_open_ns"), 0), "close_time": (EVENT, last)}
    found: list[tuple[int, ...]] = [(column, TIME, ends[key][0], REFUSED, ends[key][1], 0)]
    if table.interval_ns:
        other = (EVENT, table.interval_ns) if key == "open_time" else (ends["open_time"][0], -table.interval_ns)
        found.append((column, TIME, other[0], REFUSED, ends[key][1], other[1]))
    return found


def _wide_columns(table: TableMap, header: Sequence[str], symbols: Sequence[str]) -> list[int]:
    return [place_of(symbol, header, "symbol") for symbol in symbols] if table.wide else []


def wide_symbols(table: TableMap, header: Sequence[str]) -> list[str]:
    """Every column that has a name, but not in the map."""
    named = {place_of(name, header, key) for key in type(table.columns).__struct_fields__ if (name := getattr(table.columns, key)) is not None}
    return [word for place, word in enumerate(header) if word and place not in named]


def symbols_of(table: TableMap, instruments: Sequence[Instrument]) -> Symbols:
    """The instruments by what the table calls them."""
    symbols = new_symbols()
    names = [(i.name if table.columns.instrument is not None else i.symbol).encode() for i in instruments]
    text = np.frombuffer(b"".join(names) or b"\0", np.uint8).copy()
    add_names(symbols, text, np.cumsum([0, *map(len, names)]).astype(np.int64))
    return symbols


def _grids(instruments: Sequence[Instrument], ids: Sequence[int]) -> np.ndarray[Any, Any]:
    rows = [
        (n, *grid_step(i.tick), *grid_step(i.lot), *grid_step(i.tick * i.lot * i.multiplier))
        for n, i in zip(ids, instruments, strict=True)
    ]
    for i, row in zip(instruments, rows, strict=True):
        if max(row) > INT64_MAX:
            raise KeyError(f"{i.name}: 64 bits do not hold a tick of {i.tick} times a lot of {i.lot}")
    return np.array(rows, GRID)


