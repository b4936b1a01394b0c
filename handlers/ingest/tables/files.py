"""The files of a table: CSV text in batches of lines, headers, and what the first megabytes show of symbols and decimals."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from handlers.ingest.blocks import LINE_BYTES_MAX, read_blocks, read_head
from handlers.ingest.errors import NotAFeedError, UnreadableError
from handlers.ingest.feed import Rows
from handlers.ingest.tables.cells import Work, decode_lines, scan_lines
from handlers.ingest.tables.map import TableMap
from handlers.ingest.tables.plan import SYMBOLS_MAX, Plan, bind_plan, name_at, new_symbols, wide_symbols
from transport.instruments import Instrument
from transport.records import empty

TEXT_BYTES = 1 << 20  # decoded at a time
BATCH_ROWS = 1 << 15  # 4 MiB of records
SCAN_BYTES = 1 << 24  # of all files of a feed together, as long as each has
SCAN_BYTES_MIN = 1 << 18
HEADER_BYTES = 1 << 16
DECIMALS_MAX = 18  # what 64 bits can count
_BOM = b"\xef\xbb\xbf"


class TableFile(NamedTuple):
    """A file of a feed, its map, and where the map comes from, in words."""

    path: Path
    table: TableMap
    told: str
    beside: Path | None = None  # the map's own file

    @property
    def has_header(self) -> bool:
        return self.table.header


class Batch(NamedTuple):
    """Rows of consecutive lines, `a_line` to each, and of each row why it is none (0: it is one) and the column at fault."""

    first: int  # index of the first line within the source
    a_line: int
    rows: Rows
    refused: np.ndarray[Any, Any]
    blamed: np.ndarray[Any, Any]
    times: np.ndarray[Any, Any]  # receive time of each line, or NO_TIME


def csv_header(file: TableFile) -> list[str]:
    """The column names of a CSV file, none where its map says so; raises NotAFeedError, UnreadableError."""
    if not file.has_header:
        return []
    head = read_head(file.path, HEADER_BYTES)
    if len(head) == HEADER_BYTES and b"\n" not in head:
        raise NotAFeedError(f"{file.path}: its first line has over {HEADER_BYTES} bytes, which no header of a table has")
    line = head.removeprefix(_BOM).split(b"\n", 1)[0].rstrip(b"\r")
    try:
        return [word.strip() for word in next(csv.reader([line.decode()], delimiter=file.table.separator), [])]
    except (UnicodeDecodeError, csv.Error) as error:
        raise NotAFeedError(f"{file.path}: its first line is no header of a table: {error}") from error


def bound(file: TableFile, header: Sequence[str], instruments: Sequence[Instrument], ids: Sequence[int], source_id: int) -> Plan:
    """The plan of a file; raises NotAFeedError in words where the map names a column that the file has not."""
    try:
        return bind_plan(file.table, header, instruments, ids, source_id)
    except KeyError as error:
        raise NotAFeedError(f"{file.path}: {file.told}: {error.args[0]}") from error


def csv_batches(file: TableFile, plan: Plan, line: int) -> Iterator[Batch]:
    """Every line of a CSV file, but its header; `line` is the index of its first line. Raises what `read_blocks` raises, at the end."""
    a_line = max(1, len(plan.wide))
    cuts = np.zeros(2 * plan.columns, np.int64)
    line += file.has_header
    for text, final in _texts(file):
        at = 0
        while True:
            left = int(np.count_nonzero(text[at:] == 10)) + final
            lines = min(left, max(1, BATCH_ROWS // a_line))
            rows = empty(lines * a_line)
            times = np.zeros(lines, np.int64)
            refused, blamed = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
            work = Work(text, cuts, rows, rows.view(np.int64), refused, blamed, times)
            at, taken = decode_lines(plan, work, at, final, line)
            if not taken:
                break
            used = taken * a_line
            yield Batch(line, a_line, rows[:used], refused[:used], blamed[:used], times[:taken])
            line += taken


def _texts(file: TableFile) -> Iterator[tuple[np.ndarray[Any, Any], bool]]:
    """(text of whole lines behind the header, whether it is the last): the caller decodes each wholly before it asks for the next."""
    rest, head = bytearray(), True
    for block in read_blocks(file.path):
        rest += block
        if len(rest) < TEXT_BYTES:
            continue
        if head:
            rest, head = _behind_header(file, rest), False
        stop = rest.rfind(b"\n") + 1
        if stop:
            yield np.frombuffer(bytes(rest[:stop]), np.uint8).copy(), False
            rest = rest[stop:]
        elif len(rest) > LINE_BYTES_MAX:
            raise UnreadableError(f"{file.path.name} has a line of over {LINE_BYTES_MAX} bytes")
    if head:
        rest = _behind_header(file, rest)
    yield np.frombuffer(bytes(rest), np.uint8).copy(), True


def _behind_header(file: TableFile, text: bytearray) -> bytearray:
    text = text.removeprefix(_BOM)
    return text.partition(b"\n")[2] if file.has_header else text


def scan_csv(file: TableFile, size: int) -> dict[str, tuple[int, int]]:
    """What the table calls its instruments -> decimals of prices, of quantities, seen in the first `size` bytes."""
    header = csv_header(file)
    text = read_head(file.path, size)
    if len(text) == size:
        text = text[: text.rfind(b"\n") + 1]
    body = np.frombuffer(bytes(_behind_header(file, bytearray(text))), np.uint8).copy()
    names = wide_symbols(file.table, header) if file.table.wide else [file.table.symbol]
    if len(names) > SYMBOLS_MAX:
        raise NotAFeedError(f"{file.path}: {len(names)} columns of symbols; a line takes at most {SYMBOLS_MAX} instruments")
    plan = bound(file, header, [Instrument(n, file.table.venue, Decimal(1), Decimal(1)) for n in names], range(len(names)), 0)
    symbols, decimals, none = new_symbols(), np.zeros(2 * SYMBOLS_MAX, np.int64), np.zeros(0, np.int64)
    scan_lines(plan, Work(body, np.zeros(2 * plan.columns, np.int64), empty(0), none, none, none, none), symbols, decimals)
    if int(symbols.used[0]):
        names = [name_at(symbols, place) for place in range(int(symbols.used[0]))]
    elif not (file.table.wide or file.table.symbol):
        names = []
    return {name: (min(int(p), DECIMALS_MAX), min(int(q), DECIMALS_MAX)) for name, (p, q) in zip(names, decimals.reshape(-1, 2), strict=False)}
