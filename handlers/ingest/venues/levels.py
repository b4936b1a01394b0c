"""From the numbers of decoded venue messages, still text, to records: exact integers of tick and lot, no float on the way.

The texts of a batch of messages stand somewhere in one buffer, up to four to a message, as the JSON has them:

    trade   "61800.30" "0.006"                   quote   "61800.20" "2.507" "61800.30" "2.510"
    depth   [["58710.20","0.014"],...] (bids) nothing [["61800.30","1.1"],...] (asks) nothing
    bar     ["0.3529","0.3531","0.3529","0.3530"] (open, high, low, close) "9602" (volume) "3389.5" (notional) nothing

A number stands in quotes or bare (`0.5`, `1.1e-7`), as the venue's JSON has it. The JSON decoder has already found them well-formed, so commas and blanks need no second check here; shapes and digits do.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from handlers.domain.borrowed import borrow
from handlers.domain.reasons import NOT_A_NUMBER, NOT_POSITIVE, PRICE_OFF_GRID, QTY_OFF_GRID
from handlers.ingest.decimals import grid_step, read_cell, read_digits, read_plain
from transport.compiled import I64, ROWS_T, array_t, kernel
from transport.records import (
    ASK, BAR, BID, BOOK_SNAPSHOT, CONNECTION, EVENT_END, EVENT_FIRST, GAP, NO_INSTRUMENT, NO_SIDE, QUOTE, SET, STATUS, TRADE,
)  # fmt: skip

MESSAGE = np.dtype(
    [
        ("kind", "i8"),
        ("place", "i8"),  # of the instrument in the feed's table
        ("ts_recv_ns", "i8"),
        ("ts_event_ns", "i8"),
        ("venue_seq", "i8"),
        ("first_seq", "i8"),
        ("prev_seq", "i8"),
        ("side", "i8"),
        ("check", "i8"),  # what the venue signs its book with, for its rule
        ("more", "i8"),  # the venue's message goes on with the next one: its last row does not end the event
        ("line", "i8"),
        ("start", "i8"),  # its rows are [start, stop); written by `write_rows`, like the next two
        ("stop", "i8"),
        ("refused", "i8"),  # reason code, 0 when it has rows
    ]
)
GRID = np.dtype(
    [
        ("instrument_id", "i8"),
        ("source_id", "i8"),
        ("price_decimals", "i8"),
        ("price_step", "i8"),  # tick = step * 10**-decimals
        ("qty_decimals", "i8"),
        ("qty_step", "i8"),
    ]
)
TEXTS = 4  # per message
SPANS = 2 * TEXTS  # where each begins and ends
_QUOTE, _OPEN, _CLOSE, _COMMA, _BLANK, _MINUS, _ZERO = (ord(c) for c in '"[], -0')


class Work(NamedTuple):
    """What `write_rows` is given, as a tuple to be borrowed."""

    text: NDArray[np.uint8]
    spans: NDArray[np.int64]
    messages: NDArray[Any]
    grids: NDArray[Any]
    rows: NDArray[Any]


@kernel(inline=True)
def number_ends(text: Any, at: Any, end: Any) -> Any:
    """A bare number ends before `at`."""
    return at >= end or text[at] == _COMMA or text[at] == _CLOSE or text[at] == _BLANK


@kernel
def read_decimal(text: Any, at: Any, end: Any, decimals: Any, step: Any, off_grid: Any) -> Any:
    """(units of `step` * 10**-`decimals`, place behind it, reason or 0) of the number at `at`, quoted or bare."""
    quoted = at < end and text[at] == _QUOTE
    if quoted:
        at += 1
        value, behind = read_plain(text, at, decimals)
        if step != 1 and value % step:
            behind = -1
        if behind >= 0 and behind <= end:
            return value if step == 1 else value // step, behind, 0
    if at < end and text[at] == _MINUS:
        return 0, at, NOT_POSITIVE
    if quoted:
        value, at, why = read_digits(text, at, end, _QUOTE, decimals, step, off_grid)
        if at >= end:
            return 0, at, NOT_A_NUMBER
        return value, at if why else at + 1, why
    behind = at
    while not number_ends(text, behind, end):
        behind += 1
    if at == behind or text[at] < _ZERO or text[behind - 1] < _ZERO:  # JSON has neither `+5` nor `.5` nor `5.`
        return 0, at, NOT_A_NUMBER
    value, why = read_cell(text, at, behind, decimals, step, off_grid)
    return value, behind, why


@kernel(inline=True)
def read_plain_pair(text: Any, at: Any, end: Any, grid: Any) -> Any:
    """`read_pair` of `"61800.30","0.006"` on a grid of decimals, without a call; -1 for the place of whatever else stands there."""
    if at >= end or text[at] != _QUOTE or grid.price_step != 1 or grid.qty_step != 1:
        return 0, 0, -1
    price, at = read_plain(text, at + 1, grid.price_decimals)
    if at < 0 or text[at] != _COMMA or text[at + 1] != _QUOTE:
        return 0, 0, -1
    qty, at = read_plain(text, at + 2, grid.qty_decimals)
    return price, qty, at if at <= end else -1


@kernel
def read_pair(text: Any, at: Any, end: Any, grid: Any) -> Any:
    """(price in ticks, quantity in lots, place behind them, reason or 0) of two numbers."""
    at = skip_blank(text, at, end)
    price, at, why = read_decimal(text, at, end, grid.price_decimals, grid.price_step, PRICE_OFF_GRID)
    if why:
        return 0, 0, at, why
    at = skip_blank(text, at, end)
    qty, at, why = read_decimal(text, at, end, grid.qty_decimals, grid.qty_step, QTY_OFF_GRID)
    return price, qty, at, why


@kernel(inline=True)
def skip_blank(text: Any, at: Any, end: Any) -> Any:
    while at < end and (text[at] == _BLANK or text[at] == _COMMA):
        at += 1
    return at


@kernel
def close_level(text: Any, at: Any, end: Any) -> Any:
    """Place behind the `]` of a level, -1 if there is none; what venues put behind price and quantity (orders, a time) is passed over."""
    depth = 1
    quoted = False
    while at < end and depth > 0:
        if text[at] == _QUOTE:
            quoted = not quoted
        elif not quoted:
            if text[at] == _OPEN:
                depth += 1
            elif text[at] == _CLOSE:
                depth -= 1
        at += 1
    return at if depth == 0 else -1


@kernel
def stamp(r: Any, m: Any, grid: Any, side: Any) -> None:
    """Everything of a row but its numbers and flags."""
    r.ts_event_ns = m.ts_event_ns
    r.ts_recv_ns = m.ts_recv_ns
    r.instrument_id = grid.instrument_id
    r.source_id = grid.source_id
    r.kind = m.kind
    r.side = side
    r.action = SET
    r.venue_seq = m.venue_seq
    r.origin = m.line


@kernel
def write_levels(text: Any, at: Any, end: Any, m: Any, grid: Any, side: Any, rows: Any, row: Any) -> Any:
    """Write a row for each level of one side from `row` on; (row behind the last, reason or 0)."""
    at = skip_blank(text, at, end)
    if at >= end or text[at] != _OPEN:
        return row, NOT_A_NUMBER
    at = skip_blank(text, at + 1, end)
    while at < end and text[at] == _OPEN:
        price, qty, behind = read_plain_pair(text, at + 1, end, grid)
        if behind < 0:
            price, qty, behind, why = read_pair(text, at + 1, end, grid)
            if why:
                return row, why
        at = behind
        if price <= 0:
            return row, NOT_POSITIVE
        at = at + 1 if at < end and text[at] == _CLOSE else close_level(text, at, end)
        if at < 0:
            return row, NOT_A_NUMBER
        at = skip_blank(text, at, end)
        r = rows[row]
        stamp(r, m, grid, side)
        r.price_ticks = price
        r.qty_lots = qty
        r.prev_seq = m.prev_seq
        r.first_seq = m.first_seq
        row += 1
    return row, 0 if at == end - 1 and text[at] == _CLOSE else NOT_A_NUMBER


@kernel
def write_depth(text: Any, spans: Any, i: Any, m: Any, grid: Any, rows: Any, row: Any) -> Any:
    """Bids, then asks; a message without levels sets bid 0 to 0 lots, which no book holds, so that its sequence still shows."""
    start = row
    for k in range(2):
        at = SPANS * i + 4 * k
        row, why = write_levels(text, spans[at], spans[at + 1], m, grid, ASK if k else BID, rows, row)
        if why:
            return row, why
    if row == start:
        stamp(rows[row], m, grid, BID)
        rows[row].prev_seq = m.prev_seq
        rows[row].first_seq = m.first_seq
        row += 1
    if m.kind == BOOK_SNAPSHOT:
        rows[start].flags |= EVENT_FIRST
    rows[row - 1].flags |= EVENT_END
    return row, 0


@kernel
def read_two(text: Any, spans: Any, k: Any, grid: Any) -> Any:
    """(price in ticks, quantity in lots, reason or 0) of the text whose span is at `k`, and the one behind it."""
    begin, end = spans[k], spans[k + 1]
    price, at, why = read_decimal(text, begin, end, grid.price_decimals, grid.price_step, PRICE_OFF_GRID)
    if why or at != end:
        return 0, 0, why if why else NOT_A_NUMBER
    begin, end = spans[k + 2], spans[k + 3]
    qty, at, why = read_decimal(text, begin, end, grid.qty_decimals, grid.qty_step, QTY_OFF_GRID)
    if why or at != end:
        return 0, 0, why if why else NOT_A_NUMBER
    return price, qty, 0


@kernel
def write_print(text: Any, spans: Any, i: Any, m: Any, grid: Any, rows: Any, row: Any) -> Any:
    """A trade or a quote: one row."""
    r = rows[row]
    price, qty, why = read_two(text, spans, SPANS * i, grid)
    if why:
        return row, why
    if m.kind == QUOTE:
        ask, ask_lots, why = read_two(text, spans, SPANS * i + 4, grid)
        if why:
            return row, why
        r.ask_ticks = ask
        r.ask_lots = ask_lots
    elif price <= 0 or qty <= 0:
        return row, NOT_POSITIVE
    stamp(r, m, grid, m.side)
    r.price_ticks = price
    r.qty_lots = qty
    r.flags = 0 if m.more else EVENT_END
    return row + 1, 0


@kernel
def write_bar(text: Any, spans: Any, i: Any, m: Any, grid: Any, rows: Any, row: Any) -> Any:
    """A closed bar: one row."""
    r = rows[row]
    at, end = skip_blank(text, spans[SPANS * i + 0], spans[SPANS * i + 1]), spans[SPANS * i + 1]
    if at >= end or text[at] != _OPEN:
        return row, NOT_A_NUMBER
    at += 1
    for n in range(4):
        price, at, why = read_decimal(text, skip_blank(text, at, end), end, grid.price_decimals, grid.price_step, PRICE_OFF_GRID)
        if why:
            return row, why
        if n == 0:
            r.open_ticks = price
        elif n == 1:
            r.high_ticks = price
        elif n == 2:
            r.low_ticks = price
        else:
            r.close_ticks = price
    volume, at, why = read_decimal(text, spans[SPANS * i + 2], spans[SPANS * i + 3], grid.qty_decimals, grid.qty_step, QTY_OFF_GRID)
    if why:
        return row, why
    if spans[SPANS * i + 5] > spans[SPANS * i + 4]:
        decimals, step = grid.price_decimals + grid.qty_decimals, grid.price_step * grid.qty_step
        notional, at, why = read_decimal(text, spans[SPANS * i + 4], spans[SPANS * i + 5], decimals, step, QTY_OFF_GRID)
        if why:
            return row, why
        r.notional_ticks_lots = notional
    stamp(r, m, grid, NO_SIDE)
    r.action = 0
    r.origin = 0  # a bar has no room for it
    r.volume_lots = volume
    r.trades = m.venue_seq
    r.ts_open_ns = m.first_seq
    r.interval_ns = m.prev_seq
    r.flags = EVENT_END
    return row + 1, 0


@kernel
def write_status(m: Any, grid: Any, rows: Any, row: Any) -> Any:
    """A trading status: one row, no text."""
    r = rows[row]
    stamp(r, m, grid, NO_SIDE)
    r.action = m.side
    r.status = m.first_seq
    r.flags = EVENT_END
    return row + 1, 0


@kernel
def write_life(m: Any, grids: Any, rows: Any, row: Any) -> Any:
    """A step of the connection: one row, no text; of no instrument where place is -1."""
    r = rows[row]
    stamp(r, m, grids[max(m.place, 0)], NO_SIDE)
    if m.place < 0:
        r.instrument_id = NO_INSTRUMENT
    r.venue_seq = 0
    r.action = m.side
    r.connection = m.first_seq
    r.attempt = m.prev_seq
    r.code = m.venue_seq
    r.lost = m.check
    r.flags = EVENT_END
    return row + 1, 0


@kernel
def end_event(messages: Any, i: Any, rows: Any) -> None:
    """The last message of a venue's was refused: what was written of it ends there."""
    k = i - 1
    while k >= 0 and messages[k].line == messages[i].line and messages[k].more:
        if messages[k].stop > messages[k].start:
            rows[messages[k].stop - 1].flags |= EVENT_END
            return
        k -= 1


@kernel(I64(array_t(np.dtype("u1")), I64[:, ::1], array_t(MESSAGE), array_t(GRID), ROWS_T), deferred=True)
def write_rows(text: Any, spans: Any, messages: Any, grids: Any, rows: Any) -> Any:
    """Write the rows of all messages into zeroed `rows`; returns rows used.

    `spans[i]` holds where each text of message i begins and ends, shape (messages, 2 * TEXTS), equal where it has none; `rows` has a
    slot for every level and one more for every message. What a refused message had written stays behind as a hole between the spans of its neighbours.
    """
    w = borrow(Work(text, spans, messages, grids, rows))
    row = np.int64(0)
    for i in range(len(w.messages)):
        m = w.messages[i]
        m.start = row
        if m.kind == TRADE or m.kind == QUOTE:
            row, why = write_print(w.text, w.spans, i, m, w.grids[m.place], w.rows, row)
        elif m.kind == BAR:
            row, why = write_bar(w.text, w.spans, i, m, w.grids[m.place], w.rows, row)
        elif m.kind == STATUS:
            row, why = write_status(m, w.grids[m.place], w.rows, row)
        elif m.kind == CONNECTION:
            row, why = write_life(m, w.grids, w.rows, row)
        elif m.kind == GAP:
            why = 0  # of every book: made by whoever knows which of them are followed
        else:
            row, why = write_depth(w.text, w.spans, i, m, w.grids[m.place], w.rows, row)
        m.refused = why
        m.stop = row
        if why and not m.more:
            end_event(w.messages, i, w.rows)
    return row


def text_spans(texts: Sequence[Any], begin: int) -> NDArray[np.int64]:
    """Where texts begin and end that stand one behind the other from `begin` on, TEXTS to a message; shape (messages, 2 * TEXTS)."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    ends = begin + np.cumsum(lengths)
    return np.stack((ends - lengths, ends), axis=1).reshape(-1, 2 * TEXTS)


def rows_bound(text: bytes | NDArray[np.uint8], messages: int) -> int:
    """How many rows `write_rows` can need: one a level, which is an array, and one a message."""
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == _OPEN)) + messages


def grid_table(ids: NDArray[np.uint32], source_id: int, steps: list[tuple[Decimal, Decimal]]) -> NDArray[Any]:
    """GRID of a feed's instruments from their (tick, lot)."""
    entries = zip(ids.tolist(), steps, strict=True)
    return np.array([(i, source_id, *grid_step(tick), *grid_step(lot)) for i, (tick, lot) in entries], GRID)
