"""CSV bytes to the words of records: one pass over each line, driven by the plan of its table; no float, nothing allocated.

    1723161256322,61800.30,0.006,BUY\n ──► cuts of the columns ──► symbol, then every cell by its form ──► slot, reason

A field may be quoted, with its separator inside; a line ends at its newline whatever is open there, so that one stray quote costs a
line and not the file. A row that has a reason is dropped by the caller, who tells line and column.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


from handlers.domain.borrowed import borrow
from handlers.domain.reasons import (
    BROKEN_LINE,
    MISSING_FIELD,
    NOT_POSITIVE,
    OUT_OF_RANGE,
    UNKNOWN_SYMBOL,
    WRONG_TYPE,
)
from handlers.ingest.decimals import meant_decimals, read_cell
from handlers.ingest.feed import YEAR_2100_NS
from handlers.ingest.jumps import NO_TIME
from handlers.ingest.tables.plan import (
    IS_SNAPSHOT,
    PRICE,
    QTY,
    REFUSED,
    SIDE,
    SYMBOL,
    TIME,
    WITH_LAST,
    find_symbol,
    grid_of,
)
from handlers.ingest.tables.times import WORDS, read_time
from transport.compiled import kernel
from transport.records import BAR, BOOK_DELTA, BOOK_SNAPSHOT, BUY, NO_SIDE, QUOTE, SELL, TRADE

EMPTY = 1  # beside the reason codes: a cell of a wide table that holds nothing, which is no fault
_NEWLINE, _RETURN, _QUOTE, _BLANK, _ZERO, _ONE, _SMALL_T, _SMALL_F = (ord(c) for c in '\n\r" 01tf')
_TO_SMALL = 32  # set in small letters, and in digits
_TRUE, _FALSE = (np.frombuffer(word, np.uint8) for word in (b"true", b"false"))


class Work(NamedTuple):
    """What a batch of lines is read from and into; `rows` is zeroed, `words` the same memory as int64, 16 a row."""

    text: np.ndarray  # uint8
    cuts: np.ndarray  # where the cells of the line at hand begin and end
    rows: np.ndarray  # dtype REC
    words: np.ndarray
    refused: np.ndarray  # of each row a reason, EMPTY, or 0
    blamed: np.ndarray  # of each row the column at fault
    times: np.ndarray  # of each line


@kernel
def split_line(text: Any, at: Any, end: Any, separator: Any, columns: Any, cuts: Any) -> Any:
    """(fields found, place of the newline or `end`, whether a quote is left open, or text follows one that closed); `cuts` gets [start, stop) of the first `columns`."""
    fields = 0
    open_quote = broken = False
    while fields < columns:
        while at < end and text[at] == _BLANK and separator != _BLANK:
            at += 1
        start = at
        if at < end and text[at] == _QUOTE:
            at += 1
            start, open_quote = at, True
            while at < end and text[at] != _NEWLINE:
                if text[at] == _QUOTE:
                    if at + 1 >= end or text[at + 1] != _QUOTE:
                        open_quote = False
                        break
                    at += 1
                at += 1
            stop = at
            at += not open_quote
            while at < end and text[at] != _NEWLINE and text[at] != separator:
                broken = broken or (text[at] != _BLANK and text[at] != _RETURN)
                at += 1
        else:
            while at < end and text[at] != _NEWLINE and text[at] != separator:
                at += 1
            stop = at
            while stop > start and (text[stop - 1] == _BLANK or text[stop - 1] == _RETURN):
                stop -= 1
        cuts[2 * fields] = start
        cuts[2 * fields + 1] = stop
        fields += 1
        if at >= end or text[at] == _NEWLINE:
            return fields, at, open_quote or broken
        at += 1
    while at < end and text[at] != _NEWLINE:
        at += 1
    return fields, at, open_quote or broken


@kernel
def read_side(text: Any, at: Any, end: Any, plan: Any) -> Any:
    """(BUY or SELL, 0), or (NO_SIDE, reason) for a word that the map does not have."""
    size = end - at
    for word in range(len(plan.word_cuts) - 1):
        start = plan.word_cuts[word]
        if plan.word_cuts[word + 1] - start == size:
            k = 0
            while k < size and plan.words[start + k] == text[at + k]:
                k += 1
            if k == size:
                return BUY if word < plan.buys else SELL, 0
    return NO_SIDE, WRONG_TYPE


@kernel
def read_flag(text: Any, at: Any, end: Any) -> Any:
    """(whether it is true, reason or 0) of true, false, True, F, 1, 0."""
    first = text[at] | _TO_SMALL
    if end == at + 1:
        whole = first == _SMALL_T or first == _ONE
        return whole, 0 if whole or first == _SMALL_F or first == _ZERO else WRONG_TYPE
    word = _TRUE if first == _SMALL_T else _FALSE
    if end - at != len(word):
        return False, WRONG_TYPE
    for k in range(len(word)):
        if text[at + k] | _TO_SMALL != word[k]:
            return False, WRONG_TYPE
    return first == _SMALL_T, 0


@kernel
def read_value(text: Any, at: Any, end: Any, form: Any, grid: Any) -> Any:
    """(units, reason or 0) of a price, a quantity, money or a count."""
    decimals, step, off_grid = grid_of(grid, form)
    return read_cell(text, at, end, decimals, step, off_grid)


@kernel
def read_line(plan: Any, w: Any, fields: Any, row: Any) -> Any:
    """(reason or 0, column) after the cells of the line at hand were read into a row; the first bad one ends it."""
    place, was_empty = 0, False
    text, r = w.text, w.rows[row]
    for c in range(len(plan.cells)):
        cell = plan.cells[c]
        if cell.column >= fields:
            return MISSING_FIELD, cell.column
        at, end = w.cuts[2 * cell.column], w.cuts[2 * cell.column + 1]
        if at == end:
            if cell.empty == REFUSED or (cell.empty == WITH_LAST and not was_empty):
                return MISSING_FIELD, cell.column
            was_empty = True
            continue
        if cell.empty == WITH_LAST and was_empty:
            return MISSING_FIELD, cell.column - 1
        was_empty = False
        if cell.form == TIME:
            value, why = read_time(text, at, end, plan.clock, cell.word, cell.add_units, cell.add_ns)
            w.words[row * WORDS + cell.word] = value
        elif cell.form == SYMBOL:
            place = find_symbol(plan.symbols, text, at, end, False)
            why = UNKNOWN_SYMBOL if place < 0 else 0
        elif cell.form == SIDE:
            r.side, why = read_side(text, at, end, plan)
        elif cell.form == IS_SNAPSHOT:
            whole, why = read_flag(text, at, end)
            r.kind = BOOK_SNAPSHOT if whole else BOOK_DELTA
        else:
            value, why = read_value(text, at, end, cell.form, plan.grids[place])
            w.words[row * WORDS + cell.word] = value
        if why:
            return why, cell.column
    r.instrument_id = plan.grids[place].instrument_id
    return 0, 0


@kernel
def finish_row(plan: Any, r: Any, line: Any) -> Any:
    """Reason or 0 after the rest of a record is filled in and looked over; `line` is its origin."""
    if r.ts_recv_ns == 0:
        r.ts_recv_ns = r.ts_event_ns
    r.source_id = plan.source_id
    if r.kind == 0:
        r.kind = plan.kind
    if r.kind == BAR:
        return finish_bar(plan, r)
    r.origin = line
    if r.qty_lots < 0 or (r.kind == TRADE and r.qty_lots == 0) or (r.kind == QUOTE and r.ask_lots < 0):
        return NOT_POSITIVE
    if (r.kind == BOOK_DELTA or r.kind == BOOK_SNAPSHOT) and r.side == NO_SIDE:
        return MISSING_FIELD
    return 0


@kernel
def finish_bar(plan: Any, r: Any) -> Any:
    """Its time is its close, which an interval that a column tells may put where no time is; high and low enclose the others."""
    if plan.one_price:
        r.open_ticks = r.high_ticks = r.low_ticks = r.close_ticks
    if plan.interval_ns:
        r.interval_ns = plan.interval_ns
    elif r.ts_event_ns == 0:
        r.ts_event_ns = r.ts_open_ns + r.interval_ns
    elif r.ts_open_ns == 0:
        r.ts_open_ns = r.ts_event_ns - r.interval_ns
    else:
        r.interval_ns = r.ts_event_ns - r.ts_open_ns
    if r.ts_recv_ns < r.ts_event_ns:  # also where a publisher stamps the bar's beginning: it cannot be known before it is closed
        r.ts_recv_ns = r.ts_event_ns
    if r.volume_lots < 0:
        return NOT_POSITIVE
    outside = r.open_ticks > r.high_ticks or r.close_ticks > r.high_ticks or r.open_ticks < r.low_ticks or r.close_ticks < r.low_ticks
    return OUT_OF_RANGE if outside or r.trades < 0 or r.interval_ns <= 0 or r.interval_ns > r.ts_event_ns or r.ts_event_ns > YEAR_2100_NS else 0


@kernel
def write_wide(plan: Any, w: Any, fields: Any, first: Any) -> None:
    """The bars of one line of a wide table, into the rows from `first` on; the first of them has the line's times."""
    times = w.rows[first]
    for k in range(len(plan.wide) - 1, -1, -1):
        row, column = first + k, plan.wide[k]
        r = w.rows[row]
        w.blamed[row] = column
        if column >= fields:
            w.refused[row] = MISSING_FIELD
            continue
        at, end = w.cuts[2 * column], w.cuts[2 * column + 1]
        if at == end:
            w.refused[row] = EMPTY
            continue
        r.ts_event_ns, r.ts_recv_ns, r.ts_open_ns, r.interval_ns = times.ts_event_ns, times.ts_recv_ns, times.ts_open_ns, times.interval_ns
        r.instrument_id = plan.grids[k].instrument_id
        r.close_ticks, why = read_value(w.text, at, end, np.int64(PRICE), plan.grids[k])
        w.refused[row] = why if why else finish_row(plan, r, np.int64(0))


@kernel
def refuse(w: Any, first: Any, a_line: Any, why: Any, column: Any) -> None:
    """All rows of a line are none, for a reason that counts once."""
    for row in range(first, first + a_line):
        w.refused[row] = EMPTY
    w.refused[first], w.blamed[first] = why, column


@kernel
def decode_lines(owned_plan: Any, owned_work: Any, at: Any, final: Any, line: Any) -> Any:
    """(place behind the last line taken, lines taken) of whole lines of the text from `at` on, while there is room in `times`.

    A line has one row, or one for each symbol of a wide table; `line` is the index of the first within the source. Without `final`
    what has no newline yet is left. An empty line has neither a time nor a record, nor a fault.
    """
    plan, w = borrow(owned_plan), borrow(owned_work)
    at, taken, a_line = np.int64(at), 0, max(1, len(plan.wide))
    text, end = w.text, len(w.text)
    while at < end and taken < len(w.times):
        fields, stop, open_quote = split_line(text, at, end, plan.separator, plan.columns, w.cuts)
        if stop == end and not final:
            return at, taken
        first = taken * a_line
        why, column = EMPTY, np.int64(0)
        if stop > at and not (stop == at + 1 and text[at] == _RETURN):
            why, column = read_line(plan, w, fields, first)
            if why == 0 and open_quote:
                why, column = BROKEN_LINE, fields - 1
        r = w.rows[first]
        if why == 0 and len(plan.wide):
            write_wide(plan, w, fields, first)
        elif why == 0:
            why = finish_row(plan, r, line + taken)
        if why:
            refuse(w, first, a_line, why, column)
        when = r.ts_recv_ns if r.ts_recv_ns else r.ts_event_ns
        w.times[taken] = when if when else NO_TIME
        taken += 1
        at = stop + 1
    return at, taken


@kernel
def scan_lines(owned_plan: Any, owned_work: Any, owned_symbols: Any, decimals: Any) -> None:
    """Note the symbols of whole lines and, by place, the most decimals of prices and of quantities: two numbers a place."""
    plan, w, symbols = borrow(owned_plan), borrow(owned_work), borrow(owned_symbols)
    text, at, end = w.text, np.int64(0), len(w.text)
    while at < end:
        fields, stop, _ = split_line(text, at, end, plan.separator, plan.columns, w.cuts)
        place = np.int64(0)
        for c in range(len(plan.cells)):
            cell = plan.cells[c]
            start, behind = w.cuts[2 * cell.column], w.cuts[2 * cell.column + 1]
            if cell.column >= fields or start == behind or place < 0:
                continue
            if cell.form == SYMBOL:
                place = find_symbol(symbols, text, start, behind, True)
            elif cell.form == PRICE or cell.form == QTY:
                which = 2 * place + (cell.form == QTY)
                decimals[which] = max(decimals[which], meant_decimals(text, start, behind))
        for k in range(len(plan.wide)):
            column = plan.wide[k]
            if column < fields:
                decimals[2 * k] = max(decimals[2 * k], meant_decimals(text, w.cuts[2 * column], w.cuts[2 * column + 1]))
        at = stop + 1
