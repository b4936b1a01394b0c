"""Damaged tables: whatever stands in the bytes, nothing crashes, and every line is a record or counted under a reason.

What is accepted is held to a plain reader of the same line, with Python's csv and exact decimals: a damaged line may be refused, never
bent into another value.
"""

from __future__ import annotations

import csv
import tempfile
from decimal import Decimal, InvalidOperation
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from handlers.domain.reasons import TIME_JUMP
from handlers.ingest.errors import FeedError
from handlers.ingest.tables.map import Columns, TableMap
from tests.unit.made_tables import HEAD, T0, TRADES, counted, of_text, rows_of
from transport.instruments import Instrument

CENTS = Instrument("X", "v", Decimal("0.01"), Decimal("0.001"))
LINES = [f"{T0 + n},618{n:02d}.{n % 100:02d},0.{n + 1:03d},{'buy' if n % 2 else 'SELL'}".encode() for n in range(12)]
SPICE = [b'"', b",", b"\n", b"\r", b"\0", b"-", b"+", b"e", b".", b"9" * 20, b"\xff", b" ", b'""', b",,", b"nan", b"1e-5", b"2099-01-01", b""]
EDIT = st.tuples(st.integers(0, 500), st.integers(0, 6), st.one_of(st.sampled_from(SPICE), st.binary(max_size=4)))
SIDES = {"buy": 1, "b": 1, "bid": 1, "sell": 2, "s": 2, "ask": 2, "a": 2, "": 0}
BOOK = TableMap("book_delta", venue="v", symbol="X", columns=Columns(time="t", price="p", qty="q", side="s"))


def damaged(edits: list[tuple[int, int, bytes]]) -> bytes:
    """The lines, with some bytes cut out at places and others put there."""
    text = b"\n".join(LINES) + b"\n"
    for at, cut, put in edits:
        at %= len(text) + 1
        text = text[:at] + put + text[at + cut :]
    return HEAD.encode() + text


@given(st.lists(EDIT, max_size=8))
@settings(max_examples=300)
def test_every_line_is_a_record_or_counted(edits: list[tuple[int, int, bytes]]) -> None:
    text = damaged(edits)
    lines = text.split(b"\n")[1:]
    held = sum(1 for line in lines if line not in (b"", b"\r"))
    for table in (TRADES, BOOK):
        with tempfile.TemporaryDirectory() as folder:
            feed = of_text(Path(folder), text, table, [CENTS])
            rows = rows_of(feed, 3)
            assert len(rows) + sum(counted(feed).values()) == held
            assert all(feed.first_offenders[reason] for reason in feed.counters)


@example([(297, 0, b'""')])  # text behind a quote that closed
@example([(0, 0, b'"'), (0, 0, b'"'), (299, 1, b'""')])
@given(st.lists(EDIT, max_size=6))
@settings(max_examples=300)
def test_what_is_accepted_says_what_the_line_says(edits: list[tuple[int, int, bytes]]) -> None:
    text = damaged(edits)
    lines = text.split(b"\n")
    with tempfile.TemporaryDirectory() as folder:
        feed = of_text(Path(folder), text, TRADES, [CENTS])
        for row in rows_of(feed):
            _, price, qty, side, *_ = read_plainly(lines[int(row["origin"])])
            assert int(row["price_ticks"]) == Decimal(price) * 100
            assert int(row["qty_lots"]) == Decimal(qty) * 1000
            assert SIDES[side.lower()] == int(row["side"])


def read_plainly(line: bytes) -> list[str]:
    """Cells of a line by Python's csv; a quote in the middle of a cell is part of it in both readers."""
    return [cell.strip(" \r") for cell in next(csv.reader([line.decode("latin-1").replace("\r", " ").replace("\0", " ")], skipinitialspace=True))]


@given(st.lists(EDIT, min_size=1, max_size=8))
@settings(max_examples=150)
def test_good_lines_around_a_bad_one_always_come(edits: list[tuple[int, int, bytes]]) -> None:
    """Damage costs the lines it touches: those whose bytes are as they were are all there, but for a time that stands alone."""
    text = damaged(edits)
    with tempfile.TemporaryDirectory() as folder:
        feed = of_text(Path(folder), text, TRADES, [CENTS])
        rows = rows_of(feed)
    whole = [line for line in text.split(b"\n")[1:] if line in LINES]
    due = sorted(Decimal(line.split(b",")[1].decode()) * 100 for line in whole)
    assert len(rows) + feed.counters.get(TIME_JUMP, 0) >= len(whole)
    missing = len(due) - sum(1 for price in due if int(price) in set(rows["price_ticks"].tolist()))
    assert missing <= feed.counters.get(TIME_JUMP, 0)


@given(st.binary(max_size=400))
@settings(max_examples=200)
def test_any_bytes_at_all_are_a_table_without_records_or_no_table(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            feed = of_text(Path(folder), HEAD.encode() + data, TRADES, [CENTS])
        except FeedError:
            return
        for row in rows_of(feed):
            line = (HEAD.encode() + data).split(b"\n")[int(row["origin"])]
            try:
                Decimal(read_plainly(line)[1])
            except InvalidOperation:
                raise AssertionError(f"{line!r} became a record") from None
