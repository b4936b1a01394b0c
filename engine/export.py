"""Tables for people and other programs: rows of records as CSV or Parquet, with exact decimals and nanoseconds.

    REC rows ──(the table's kinds)──► columns of integers, decimals, texts ──► csv | parquet ──► tmp file, renamed | stdout

Prices, quantities and money leave as the exact decimals their integers mean: text without trailing zeros in CSV, decimal128 in
Parquet. Times are int64 columns named `*_ns`, ns since 1970 UTC, in both. A cell that has no value (price of a market order, best
bid of an empty side) is empty in CSV and null in Parquet. Rows are taken chunk by chunk and never held together.

A number is turned into text once per distinct value of a chunk: prices repeat, so half a million rows take seconds.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.tables import (
    DECIMAL_KINDS,
    FORMATS,
    IF_MARKED,
    KINDS_OF,
    KNOWN,
    NAMES,
    NUMBER_KINDS,
    PRICED,
    TABLES,
    TEXT_KINDS,
    TOP,
    Column,
    ExportError,
    columns_of,
)
from handlers.domain import reasons
from handlers.domain.schema import EVENT_FEATURES_FROM, FACTORS_FROM, FEATURES, INDICATORS_FROM, LEVEL, schema_id
from transport.instruments import MONEY_DECIMALS, Instrument
from transport.records import ACK, AFTER_FILL, LIMIT_ORDER, NO_INSTRUMENT, POSITION, REC, copied, long_dtype

__all__ = ["FORMATS", "TABLES", "TOP", "Column", "ExportError", "columns_of", "write_table"]

Rows = np.ndarray[Any, Any]  # shape (n,), dtype REC, or TOP for the table of tops
Cells = list[Any]  # one column of a chunk: int, float, str, or None for an empty cell
CHUNK_ROWS = 65536  # of cells at a time, whatever the caller's chunks are
PARQUET_DIGITS = 38  # of decimal128
_REASONS = {code: name for name, code in vars(reasons).items() if name.isupper() and isinstance(code, int)}


def decimal_text(units: int, decimals: int) -> str:
    """units * 10**-decimals, exact, without exponent or trailing zeros; `decimals` may be negative."""
    if decimals <= 0:
        return str(units * 10**-decimals)
    whole, rest = divmod(abs(units), 10**decimals)
    text = f"{whole}.{rest:0{decimals}d}".rstrip("0") if rest else str(whole)
    return f"-{text}" if units < 0 else text


def decimal_texts(values: NDArray[np.int64], mantissa: int, decimals: int) -> NDArray[np.object_]:
    """Each value * mantissa * 10**-decimals as text; Python's integers, so that nothing overflows."""
    distinct, place = np.unique(values, return_inverse=True)
    texts = np.array([decimal_text(v * mantissa, decimals) for v in distinct.tolist()], dtype=object)
    return texts[place]


def _mantissa(step: Decimal) -> tuple[int, int]:
    """(mantissa, decimals) with step = mantissa * 10**-decimals."""
    _, digits, exponent = step.as_tuple()
    assert isinstance(exponent, int)
    return int("".join(map(str, digits))), -exponent


SCHEMAS = {  # table of FEATURE rows -> the schema_ids that are its own, from, to before
    "features": (0, FACTORS_FROM), "factors": (FACTORS_FROM, EVENT_FEATURES_FROM),
    "event_features": (EVENT_FEATURES_FROM, INDICATORS_FROM), "indicators": (INDICATORS_FROM, 2**32),
}  # fmt: skip


class Totals:
    """Realised result and fees summed over all accounts of a currency, as POSITION rows go by."""

    def __init__(self) -> None:
        self._accounts: dict[tuple[int, int], tuple[int, int]] = {}
        self._sums: dict[str, list[int]] = {}

    def after(self, rows: Rows, currencies: Cells) -> dict[str, Cells]:
        """Totals of the row's currency after each row: `realised`, `fee`, `net`, in money units."""
        out: dict[str, Cells] = {"realised": [], "fee": [], "net": []}
        fields = (rows[name].tolist() for name in ("strategy_id", "instrument_id", "realised", "fee"))
        for strategy, instrument, realised, fee, currency in zip(*fields, currencies, strict=True):
            before = self._accounts.get((strategy, instrument), (0, 0))
            self._accounts[strategy, instrument] = (realised, fee)
            total = self._sums.setdefault(currency, [0, 0])
            total[0] += realised - before[0]
            total[1] += fee - before[1]
            out["realised"].append(total[0])
            out["fee"].append(total[1])
            out["net"].append(total[0] - total[1])
        return out


class Converter:
    """Turns rows of one table into columns of cells; decimals are exact text here, whatever the format."""

    def __init__(
        self, table: str, columns: Sequence[Column], instruments: Sequence[Instrument], money_decimals: int
    ) -> None:
        self.table = table
        self.columns = columns
        self.instruments = instruments
        self.money_decimals = money_decimals
        self._totals = Totals()
        self._values = [c for c in columns if c.field.startswith("values")]  # of a feature row, all of them
        self._steps = {
            "price": [_mantissa(i.tick) for i in instruments],
            "qty": [_mantissa(i.lot) for i in instruments],
            "notional": [_mantissa(i.tick * i.lot * i.multiplier) for i in instruments],
        }

    def scale(self, kind: str) -> int:
        """Decimals that hold every value of a decimal kind."""
        if kind in self._steps:
            return max((decimals for _, decimals in self._steps[kind]), default=0)
        return self.money_decimals

    def select(self, rows: Rows) -> Rows:
        """The rows that belong to the table; raises ExportError where one cannot be read as such."""
        chosen = self._of_table(rows)
        ids = chosen["instrument_id"]
        beyond = ids[(ids >= len(self.instruments)) & (ids != NO_INSTRUMENT)]
        if len(beyond):
            raise ExportError(f"instrument {beyond[0]} is not in the table of {len(self.instruments)} instruments")
        return chosen

    def _of_table(self, rows: Rows) -> Rows:
        if self.table == "tops":
            if rows.dtype != TOP:
                raise ExportError("the table of tops is made of rows of dtype TOP, folded from the book")
            return rows
        if rows.dtype != REC:
            raise ExportError(f"the table of {self.table} is made of records (dtype REC)")
        chosen = copied(rows, np.isin(rows["kind"], KINDS_OF[self.table]))
        if self.table == "pnl":
            chosen = copied(chosen, chosen["action"] == AFTER_FILL)
        if self.table in SCHEMAS:
            first, behind = SCHEMAS[self.table]
            return self._long(copied(chosen, (chosen["schema_id"] >= first) & (chosen["schema_id"] < behind)))
        return chosen

    def _long(self, slots: Rows) -> Rows:
        """Feature rows, each as one element, of slots that hold whole rows."""
        parts = 1 + max((int(c.field.partition(".")[0].removeprefix("values") or 0) for c in self._values), default=0)
        schema = schema_id((len(self._values) - len(FEATURES)) // len(LEVEL))
        if self.table != "features":
            if (slots["count"] != len(self._values)).any() or len(set(slots["schema_id"].tolist())) > 1:
                raise ExportError(f"{self.table} of another schema than one of {len(self._values)} values")
        elif (slots["schema_id"] != schema).any():
            raise ExportError(f"features of another schema than {schema}: this version cannot name their columns")
        if len(slots) % parts or (slots["part"].reshape(-1, parts) != np.arange(parts)).any():
            raise ExportError("a feature row lacks some of its slots")
        return slots.view(long_dtype(parts))

    def cells(self, rows: Rows) -> list[Cells]:
        """One list per column, all of len(rows)."""
        totals = self._totals.after(rows, self._currency(rows)) if any(c.kind == "total" for c in self.columns) else {}
        out = []
        for column in self.columns:
            if column.kind == "total":
                out.append([decimal_text(v, self.money_decimals) for v in totals[column.field]])
            else:
                out.append(self._column(column, rows))
        return out

    def _column(self, column: Column, rows: Rows) -> Cells:
        name, _, index = column.field.partition(".")
        values = rows[name][:, int(index)] if index else rows[name]
        if column.kind in NUMBER_KINDS:
            cells = values.astype(object)
        elif column.kind == "money":
            cells = decimal_texts(values, 1, self.money_decimals)
        elif column.kind in DECIMAL_KINDS:
            cells = self._scaled(values, rows["instrument_id"], self._steps[column.kind])
        else:
            assert column.kind in TEXT_KINDS
            return self._texts(column.kind, values, rows)
        blank = self._blank(column.blank, rows, values)
        if blank is not None:
            cells[blank] = None
        return cells.tolist()

    @staticmethod
    def _scaled(
        values: NDArray[np.int64], ids: NDArray[np.uint32], steps: list[tuple[int, int]]
    ) -> NDArray[np.object_]:
        """Texts of ticks or lots of several instruments; None where a row concerns no instrument."""
        cells = np.full(len(values), None, dtype=object)
        for i in np.unique(ids).tolist():
            if i != NO_INSTRUMENT:
                where = ids == i
                cells[where] = decimal_texts(values[where], *steps[i])
        return cells

    def _texts(self, kind: str, values: NDArray[Any], rows: Rows) -> Cells:
        codes = values.tolist()
        if kind == "instrument":
            return [None if v == NO_INSTRUMENT else self.instruments[v].name for v in codes]
        if kind == "currency":
            return self._currency(rows)
        if kind == "reason":
            return [_REASONS.get(v, str(v)) if v else None for v in codes]
        names = NAMES[kind]
        if kind == "event":
            acks = NAMES["ack"]
            actions = rows["action"].tolist()
            return [acks.get(a, str(a)) if v == ACK else names[v] for v, a in zip(codes, actions, strict=True)]
        return [names.get(v, str(v) if v else "") or None for v in codes]

    def _currency(self, rows: Rows) -> Cells:
        return [None if v == NO_INSTRUMENT else self.instruments[v].quote for v in rows["instrument_id"].tolist()]

    @staticmethod
    def _blank(rule: str, rows: Rows, values: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Which cells are empty, or None for no rule."""
        if not rule:
            return None
        if rule == PRICED:
            return (rows["order_type"] != LIMIT_ORDER) & (rows["price_ticks"] == 0)
        if rule == KNOWN:
            return np.asarray(np.isnan(values))
        if rule == IF_MARKED:
            return (rows["action"] == AFTER_FILL) & (rows["kind"] == POSITION)
        return np.asarray(rows[rule] == 0)


class Writer(Protocol):
    """Where converted chunks go."""

    def write(self, cells: list[Cells]) -> None: ...

    def close(self) -> None: ...


class CsvWriter:
    """RFC 4180 with a header and `\\n` ends of line."""

    def __init__(self, out: IO[bytes], converter: Converter) -> None:
        self._text = io.TextIOWrapper(out, encoding="utf-8", newline="")
        self._csv = csv.writer(self._text, lineterminator="\n")
        self._csv.writerow([c.name for c in converter.columns])

    def write(self, cells: list[Cells]) -> None:
        self._csv.writerows(zip(*cells, strict=True))

    def close(self) -> None:
        self._text.flush()
        self._text.detach()  # the bytes below are the caller's to close


class ParquetWriter:
    """Parquet with int64, float64, string and decimal128 columns; needs pyarrow."""

    def __init__(self, out: IO[bytes], converter: Converter) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise ExportError("Parquet needs pyarrow: pip install 'tickline[store]'") from error
        self._pa = pa
        self._kinds = [c.kind for c in converter.columns]
        scales = {kind: max(0, converter.scale(kind)) for kind in DECIMAL_KINDS}
        simple = {"int": pa.int64(), "ns": pa.int64(), "float": pa.float64()}
        types = [
            pa.decimal128(PARQUET_DIGITS, scales[k]) if k in scales else simple.get(k, pa.string()) for k in self._kinds
        ]
        self._schema = pa.schema([pa.field(c.name, t) for c, t in zip(converter.columns, types, strict=True)])
        self._writer = pq.ParquetWriter(out, self._schema)

    def write(self, cells: list[Cells]) -> None:
        arrays = [
            self._decimals(column, field) if kind in DECIMAL_KINDS else self._pa.array(column, field.type)
            for column, kind, field in zip(cells, self._kinds, self._schema, strict=True)
        ]
        self._writer.write_batch(self._pa.record_batch(arrays, schema=self._schema))

    def _decimals(self, texts: Cells, field: Any) -> Any:
        """Exact or refused: pyarrow raises where a value has more digits than the column."""
        cache = {text: Decimal(text) for text in set(texts) if text is not None}
        try:
            return self._pa.array([cache.get(text) for text in texts], field.type)
        except self._pa.ArrowInvalid as error:
            raise ExportError(f"column {field.name} has a value that {field.type} cannot hold: {error}") from error

    def close(self) -> None:
        self._writer.close()


@contextlib.contextmanager
def _target(path: Path | None) -> Iterator[IO[bytes]]:
    """Standard output, or a file beside `path` that takes its name when all went well and vanishes when not.

    A device or a pipe is written to as it is: a file would take its name away from everybody.
    """
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    in_place = path.exists() and not path.is_file()
    whole = path if in_place else path.resolve()  # the file behind a link, not the link, is what is replaced
    unfinished = whole if in_place else whole.with_name(f".{whole.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            yield file
        if not in_place:
            unfinished.replace(whole)
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if not in_place:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def table_writer(
    table: str,
    instruments: Sequence[Instrument],
    out: Path | None = None,
    format: str = "csv",
    money_decimals: int = MONEY_DECIMALS,
    columns: Sequence[Column] | None = None,
) -> Iterator[Callable[[Rows], int]]:
    """Within it, a function that writes what of some rows belongs to `table` to `out` (None: standard output), and says how many.

    `instruments` in the order of their ids; `columns` replaces the table's own. A file appears under its name only when it is
    whole. Raises ExportError.
    """
    if format not in FORMATS:
        raise ExportError(f"no format {format!r}; there are {', '.join(FORMATS)}")
    converter = Converter(table, columns or columns_of(table, instruments), instruments, money_decimals)
    with _target(out) as file:
        writer: Writer = CsvWriter(file, converter) if format == "csv" else ParquetWriter(file, converter)

        def write(rows: Rows) -> int:
            chosen = converter.select(rows)
            for start in range(0, len(chosen), CHUNK_ROWS):
                writer.write(converter.cells(chosen[start : start + CHUNK_ROWS]))
            return len(chosen)

        try:
            yield write
        finally:
            writer.close()


def write_table(rows: Iterable[Rows], table: str, instruments: Sequence[Instrument], *more: Any, **options: Any) -> int:
    """Write the rows of `table` among `rows`; returns how many. Arguments and errors are `table_writer`'s."""
    with table_writer(table, instruments, *more, **options) as write:
        return sum(write(chunk) for chunk in rows)
