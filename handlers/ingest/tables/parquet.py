"""Parquet tables: row groups in bounded batches, column by column into the words of records, by the plan that CSV has too.

    decimal, integer   exactly; off the grid is counted, as in text
    double             the nearest step of the grid, if it is at most TOLERANCE of a step away, else counted; below 2**31 steps
                       a double's own error is far less than that, beyond it good prices begin to be refused, never bent
    float              by its shortest decimals, exactly: 61800.3 is 61800.30078125 as a double, which is no price that anybody made
    timestamp, date    as UTC where the column has a zone, else on the clock of the map
    anything else      as its text, read like a CSV cell; a list or a struct, which has none, cannot be read

pyarrow (`pip install 'tickline[store]'`) reads the file; it is imported when the first Parquet file is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

import numpy as np

from handlers.domain.reasons import MISSING_FIELD
from handlers.ingest.blocks import read_head
from handlers.ingest.decimals import DIGITS_KEPT, DIGITS_MEANT
from handlers.ingest.errors import NotAFeedError, UnreadableError
from handlers.ingest.jumps import NO_TIME
from handlers.ingest.tables.parquet_cells import counts_to_times, doubles_to_units, finish_rows, scale_column, texts_to_words
from handlers.ingest.tables.cells import EMPTY, Work
from handlers.ingest.tables.files import DECIMALS_MAX, Batch, TableFile, bound
from handlers.ingest.tables.times import DAY_NS
from handlers.ingest.tables.plan import EVENT, IS_SNAPSHOT, PRICE, QTY, RECV, REFUSED, SIDE, SYMBOL, TIME, WITH_LAST, Plan, wide_symbols
from transport.records import BOOK_DELTA, BOOK_SNAPSHOT, empty

MAGIC = b"PAR1"
BATCH_LINES = 1 << 15
UNIT_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}  # of timestamps
_WORDS = (SYMBOL, SIDE, IS_SNAPSHOT, TIME)  # forms that are not numbers
SCAN_ROWS = 1 << 20  # looked through for symbols and decimals, as the first 16 MiB of a CSV file are
_KEPT = Context(prec=DIGITS_KEPT)
Column = np.ndarray[Any, Any]


def is_parquet(path: Path) -> bool:
    """By its first bytes."""
    return read_head(path, len(MAGIC)) == MAGIC


def parquet_header(file: TableFile) -> list[str]:
    """Column names; raises NotAFeedError, UnreadableError."""
    try:
        return list(_opened(file).schema_arrow.names)
    except UnicodeDecodeError as error:
        raise UnreadableError(f"{file.path.name} has a column whose name is no text: {error}") from error


def _opened(file: TableFile) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise NotAFeedError(f"{file.path} is Parquet, which needs pyarrow: pip install 'tickline[store]'") from error
    try:
        return pq.ParquetFile(file.path)
    except (pa.ArrowException, OSError) as error:
        raise UnreadableError(f"{file.path.name} cannot be read as Parquet: {_line(error)}") from error


def _line(error: Exception) -> str:
    """Arrow's words, which may fill several lines, in one."""
    return " ".join(str(error).split())


def _record_batches(file: TableFile, columns: list[str], lines: int) -> Iterator[Any]:
    """Batches of at most so many lines; raises UnreadableError where the file is damaged."""
    import pyarrow as pa

    batches = _opened(file).iter_batches(batch_size=lines, columns=columns)
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError) as error:
            raise UnreadableError(f"{file.path.name} is damaged: {_line(error)}") from error
        if batch is None:
            return
        yield batch


def parquet_batches(file: TableFile, plan: Plan, line: int) -> Iterator[Batch]:
    """Every row of a Parquet file, as `csv_batches` gives lines; raises UnreadableError for a column that cannot be taken for cells."""
    import pyarrow as pa

    names = parquet_header(file)
    used = sorted({*plan.cells["column"].tolist(), *plan.wide.tolist()})
    a_line = max(1, len(plan.wide))
    for arrow in _record_batches(file, [names[c] for c in used], max(1, BATCH_LINES // a_line)):
        lines = arrow.num_rows
        rows = empty(lines * a_line)
        refused, blamed = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
        words = rows.view(np.int64).reshape(lines, a_line, 16)
        try:
            columns = {c: _plain(arrow.column(names[c])) for c in used}
            _fill(plan, columns, rows, words, refused.reshape(lines, a_line), blamed.reshape(lines, a_line))
        except pa.ArrowException as error:
            raise UnreadableError(f"{file.path.name}: rows {line + 1} to {line + lines}: {_line(error)}") from error
        finish_rows(plan, rows, line, a_line, refused)
        when = words[:, 0, RECV].copy()
        when = np.where(when == 0, words[:, 0, EVENT], when)
        yield Batch(line, a_line, rows, refused, blamed, np.where(when == 0, NO_TIME, when))
        line += lines


def _fill(plan: Plan, columns: dict[int, Any], rows: Any, words: Column, refused: Column, blamed: Column) -> None:
    """Every cell of the plan, then the closes of a wide table, where nothing was wrong with the line before."""
    lines, a_line, _ = words.shape
    places = np.zeros(lines, np.int64)
    empty_before = np.zeros(lines, np.bool_)
    for cell in plan.cells:
        array = columns[int(cell["column"])]
        missing = _missing(array, int(cell["form"]))
        values, why = _cell(plan, cell, array, places)
        if cell["empty"] == WITH_LAST:
            wrong = missing != empty_before
        else:
            wrong = missing & (cell["empty"] == REFUSED)
        why = np.where(missing, 0, why)
        why = np.where(wrong, MISSING_FIELD, why)
        values = np.where(missing | (why != 0), 0, values)
        empty_before = missing
        new = (refused[:, 0] == 0) & (why != 0)
        refused[new] = EMPTY
        refused[new, 0], blamed[new, 0] = why[new], cell["column"]
        _put(rows, words, int(cell["form"]), int(cell["word"]), values, places)
    first = rows[::a_line]
    first["instrument_id"] = plan.grids["instrument_id"][places] if a_line == 1 else plan.grids["instrument_id"][0]
    good = refused[:, 0] == 0
    for k in range(len(plan.wide) - 1, -1, -1):
        _fill_close(plan, k, columns[int(plan.wide[k])], rows[k::a_line], words, refused, blamed, good)


def _plain(array: Any) -> Any:
    """A column whose texts stand in a dictionary, or as bytes, as texts; floats of 32 bits as the shortest decimals that are they."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
    if pa.types.is_float32(array.type):
        return pc.if_else(pc.is_nan(array), pa.scalar(None, pa.float32()), array).cast(pa.large_string())
    return array.cast(pa.large_string()) if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type) else array


def _put(rows: Any, words: Column, form: int, word: int, values: Column, places: Column) -> None:
    if form == SYMBOL:
        places[:] = np.maximum(values, 0)
    elif form == SIDE:
        rows["side"] = values
    elif form == IS_SNAPSHOT:
        rows["kind"] = np.where(values != 0, BOOK_SNAPSHOT, BOOK_DELTA)
    else:
        words[:, 0, word] = values


def _fill_close(plan: Plan, k: int, array: Any, rows: Any, words: Column, refused: Column, blamed: Column, good: Column) -> None:
    """The close of symbol `k` on every good line; the line's times come from its first row."""
    missing = _missing(array, PRICE)
    cell = np.zeros(1, plan.cells.dtype)[0]
    cell["form"] = PRICE
    values, why = _cell(plan, cell, array, np.full(len(array), k, np.int64))
    words[:, k] = np.where(good[:, None], words[:, 0], 0)
    rows["instrument_id"] = plan.grids["instrument_id"][k]
    rows["close_ticks"] = np.where(missing | (why != 0), 0, values)
    refused[good, k] = np.where(missing, EMPTY, why)[good]
    blamed[good, k] = plan.wide[k]


def _missing(array: Any, form: int) -> Column:
    """Nulls, and empty texts; NaN too, which is how a double says that it has no value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    null = array.is_null(nan_is_null=pa.types.is_floating(array.type))
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        null = pc.or_(null, pc.fill_null(pc.equal(pc.utf8_trim_whitespace(array), ""), True))
    return np.asarray(null)


def _cell(plan: Plan, cell: Any, array: Any, places: Column) -> tuple[Column, Column]:
    """(values, reasons) of one column for one word."""
    import pyarrow as pa

    form, kind = int(cell["form"]), array.type
    values, why = np.zeros(len(array), np.int64), np.zeros(len(array), np.int64)
    if form == TIME and (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        counts, unit_ns = _counts(array)
        known = getattr(kind, "tz", None) is not None
        counts_to_times(counts, unit_ns, plan.clock, known, cell["word"], cell["add_units"] * unit_ns, cell["add_ns"], values, why)
    elif form not in _WORDS and pa.types.is_floating(kind):
        doubles_to_units(np.asarray(array.cast(pa.float64()).fill_null(0.0)), plan.grids, places, form, values, why)
    elif form not in _WORDS and pa.types.is_decimal128(kind) and (mantissas := _mantissas(array)) is not None:
        scale_column(mantissas, -kind.scale, plan.grids, places, form, values, why)
    elif form not in _WORDS and pa.types.is_signed_integer(kind):
        scale_column(np.asarray(array.cast(pa.int64()).fill_null(0)), 0, plan.grids, places, form, values, why)
    else:
        text, offsets = _texts(array)
        texts_to_words(Work(text, offsets, empty(0), places, values, why, places), plan, cell)
    return values, why


def _counts(array: Any) -> tuple[Column, int]:
    """(what a column of timestamps or dates counts since 1970, ns of its unit)."""
    import pyarrow as pa

    kind, whole = array.type, array.cast(pa.int32()) if pa.types.is_date32(array.type) else array
    counts = np.asarray(whole.cast(pa.int64()).fill_null(0))
    if pa.types.is_date64(kind):
        return counts // (DAY_NS // UNIT_NS["ms"]), DAY_NS
    return counts, UNIT_NS[kind.unit] if pa.types.is_timestamp(kind) else DAY_NS


def _mantissas(array: Any) -> Column | None:
    """A column of decimals without their point; None where 64 bits do not hold them, as with 18 decimals: those are read as text."""
    low_high = np.frombuffer(array.buffers()[1], np.int64).reshape(-1, 2)[array.offset : array.offset + len(array)]
    low = low_high[:, 0].copy()
    return None if ((low_high[:, 1] != low >> 63) & ~np.asarray(array.is_null())).any() else low


def _texts(array: Any) -> tuple[Column, Column]:
    """(bytes of all texts, where each begins and the last ends)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.utf8_trim_whitespace(array.cast(pa.string()).fill_null("")).cast(pa.large_string())
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1].copy()
    data = texts.buffers()[2]
    return np.frombuffer(data if data is not None and data.size else b"\0", np.uint8).copy(), offsets


def scan_parquet(file: TableFile, size: int) -> dict[str, tuple[int, int]]:
    """What the table calls its instruments -> decimals of prices, of quantities, in its first SCAN_ROWS rows; `size` is for text files."""
    import pyarrow as pa

    names = parquet_header(file)
    table = file.table
    cells = bound(file, names, (), (), 0).cells
    prices, quantities, symbols = ([names[c] for c in cells["column"][cells["form"] == form]] for form in (PRICE, QTY, SYMBOL))
    prices = wide_symbols(table, names) if table.wide else prices
    found: dict[str, tuple[int, int]] = {}
    rows = 0
    for batch in _record_batches(file, [*prices, *quantities, *symbols], BATCH_LINES):
        try:
            if table.wide:
                for name in prices:
                    _widen(found, name, _decimals([_plain(batch.column(name))]), 0)
            else:
                _scan(batch, table.symbol, symbols, [prices, quantities], found)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise UnreadableError(f"{file.path.name} has a column that is none of a table: {_line(error)}") from error
        rows += batch.num_rows
        if rows >= SCAN_ROWS:
            break
    return found


def _scan(batch: Any, symbol: str, symbols: list[str], numbers: list[list[str]], found: dict[str, tuple[int, int]]) -> None:
    """Widen `found` by the prices and quantities of each symbol in a batch, all of `symbol` where no column of `symbols` says."""
    import pyarrow.compute as pc

    columns = [[_plain(batch.column(name)) for name in of] for of in numbers]
    if not symbols:
        _widen(found, symbol, *map(_decimals, columns))
        return
    named = _plain(batch.column(symbols[0]))
    for name in pc.unique(named).drop_null().to_pylist():
        mine = pc.equal(named, name)
        _widen(found, str(name).strip(), *(_decimals([column.filter(mine) for column in of]) for of in columns))


def _widen(found: dict[str, tuple[int, int]], name: str, price: int, qty: int) -> None:
    before = found.get(name, (0, 0))
    found[name] = (min(max(before[0], price), DECIMALS_MAX), min(max(before[1], qty), DECIMALS_MAX))


def _decimals(arrays: list[Any]) -> int:
    """Significant decimals that every value of the columns needs, by the shortest text of each distinct one; noise as `meant_decimals` has it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    most = 0
    for array in arrays:
        exact = pa.types.is_decimal(array.type)
        for value in pc.unique(array).drop_null().to_pylist():
            try:
                number = Decimal(str(value)).normalize()
            except ArithmeticError:
                continue  # no number: counted when it is read
            digits, exponent = number.as_tuple()[1:]
            if not exact and len(digits) > DIGITS_KEPT and len((meant := _KEPT.create_decimal(number).normalize()).as_tuple().digits) <= DIGITS_MEANT:
                exponent = meant.as_tuple().exponent
            most = max(most, -exponent) if isinstance(exponent, int) else most
    return most
