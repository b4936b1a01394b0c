"""Columns of Parquet tables to the words of records: the kernels behind `parquet`, a column at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from handlers.domain.borrowed import borrow
from handlers.domain.reasons import NOT_A_NUMBER, OUT_OF_INT64, TIME_OUT_OF_RANGE, UNKNOWN_SYMBOL
from handlers.ingest.decimals import scale_units
from handlers.ingest.feed import YEAR_2100_NS
from handlers.ingest.tables.cells import finish_row, read_flag, read_side, read_value
from handlers.ingest.tables.plan import IS_SNAPSHOT, SIDE, SYMBOL, TIME, find_symbol, grid_of
from handlers.ingest.tables.times import YEAR_1971_NS, moved_time, read_time
from transport.compiled import kernel

TOLERANCE = 1e-6  # of a step: how far from the grid a double may lie
_WHOLE_MAX = 2.0**53  # beyond it doubles skip integers


@kernel
def scale_column(mantissas: Any, power: Any, grids: Any, places: Any, form: Any, values: Any, why: Any) -> None:
    """Exact units of `mantissas` * 10**`power`."""
    for i in range(len(mantissas)):
        decimals, step, off_grid = grid_of(grids[places[i]], form)
        values[i], why[i] = scale_units(mantissas[i], power + decimals, step, off_grid)


@kernel
def doubles_to_units(numbers: Any, grids: Any, places: Any, form: Any, values: Any, why: Any) -> None:
    """The nearest step of each double, where it is near enough."""
    for i in range(len(numbers)):
        decimals, step, off_grid = grid_of(grids[places[i]], form)
        scale = 1.0
        for _ in range(decimals):
            scale *= 10.0
        units = numbers[i] * scale / step
        if not (units > -_WHOLE_MAX and units < _WHOLE_MAX):
            why[i] = OUT_OF_INT64 if units == units else NOT_A_NUMBER
            continue
        nearest = np.int64(units + 0.5) if units >= 0.0 else -np.int64(0.5 - units)
        away = units - nearest
        if away > TOLERANCE or away < -TOLERANCE:
            why[i] = off_grid
        else:
            values[i] = nearest


@kernel
def counts_to_times(stamps: Any, unit_ns: Any, clock: Any, known: Any, word: Any, more_ns: Any, add_ns: Any, values: Any, why: Any) -> None:
    """ns since 1970 of counts of `unit_ns`, of UTC if `known` or else of the map's clock, moved as `moved_time` says."""
    for i in range(len(stamps)):
        if stamps[i] < YEAR_1971_NS // unit_ns or stamps[i] > YEAR_2100_NS // unit_ns:  # asked before they are ns, which may not fit
            why[i] = TIME_OUT_OF_RANGE
            continue
        values[i], why[i] = moved_time(stamps[i] * unit_ns, known, clock, word, more_ns, add_ns)


@kernel
def texts_to_words(owned_work: Any, owned_plan: Any, cell: Any) -> None:
    """Cells that are text, as in CSV; an empty one is left to the caller.

    `cuts` of the work has where each text begins and the last ends, `words` the places, `refused` takes the values, `blamed` the reasons.
    """
    w, plan = borrow(owned_work), borrow(owned_plan)
    for i in range(len(w.refused)):
        at, end = w.cuts[i], w.cuts[i + 1]
        if at == end:
            continue
        if cell.form == TIME:
            value, why = read_time(w.text, at, end, plan.clock, cell.word, cell.add_units, cell.add_ns)
        elif cell.form == SYMBOL:
            value = find_symbol(plan.symbols, w.text, at, end, False)
            why = UNKNOWN_SYMBOL if value < 0 else 0
        elif cell.form == SIDE:
            value, why = read_side(w.text, at, end, plan)
        elif cell.form == IS_SNAPSHOT:
            whole, why = read_flag(w.text, at, end)
            value = np.int64(whole)
        else:
            value, why = read_value(w.text, at, end, cell.form, plan.grids[w.words[i]])
        w.refused[i], w.blamed[i] = value, why


@kernel
def finish_rows(owned: Any, rows: Any, line: Any, a_line: Any, refused: Any) -> None:
    """`finish_row` of every row that nothing is wrong with."""
    plan = borrow(owned)
    for i in range(len(rows)):
        if refused[i] == 0:
            refused[i] = finish_row(plan, rows[i], line + i // a_line)


