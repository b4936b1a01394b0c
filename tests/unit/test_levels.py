"""Decimal text of Binance messages to integers and rows."""

from __future__ import annotations

import random
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.domain import reasons
from handlers.ingest.decimals import grid_step
from handlers.ingest.venues.levels import MESSAGE, grid_table, read_decimal, rows_bound, text_spans, write_rows
from transport.records import (
    BOOK_DELTA,
    BOOK_SNAPSHOT,
    EVENT_END,
    QUOTE,
    TRADE,
    empty,
)


@given(
    units=st.integers(0, 2**63 - 1),
    decimals=st.integers(0, 10),
    step=st.sampled_from([1, 5, 25, 10]),
    zeros=st.integers(0, 6),
)
def test_decimal_text_is_read_exactly(units: int, decimals: int, step: int, zeros: int) -> None:
    value = Decimal(units).scaleb(-decimals)
    text = format(value, "f")
    text += ("." if "." not in text and zeros else "") + "0" * zeros
    quoted = np.frombuffer(f'"{text}"'.encode(), np.uint8).copy()
    found, at, why = read_decimal(quoted, 0, len(quoted), decimals, step, reasons.PRICE_OFF_GRID)
    if why == reasons.OUT_OF_INT64:
        assert units > 2**63 - 32  # the last few counts are refused rather than risked; no price or quantity comes near
    elif units % step:
        assert why == reasons.PRICE_OFF_GRID
    else:
        assert (found * step, at, why) == (units, len(quoted), 0)


@given(text=st.text(alphabet='0123456789.-+e"[], x', max_size=12))
def test_other_text_is_refused_unless_decimal_reads_it_the_same(text: str) -> None:
    quoted = np.frombuffer(f'"{text}"'.encode(), np.uint8).copy()
    found, at, why = read_decimal(quoted, 0, len(quoted), 3, 1, reasons.PRICE_OFF_GRID)
    if why == 0 and at == len(quoted):
        assert Decimal(text) == Decimal(int(found)).scaleb(-3)


def test_grid_step_is_the_exact_decimal() -> None:
    for step, expected in (("0.25", (2, 25)), ("10", (0, 10)), ("1E+1", (0, 10)), ("0.10", (2, 10)), ("1", (0, 1))):
        assert grid_step(Decimal(step)) == expected


@pytest.mark.parametrize(
    ("text", "units"),
    [("0.5", 500), ("1.1e-1", 110), ("5e-3", 5), ("1E2", 100_000), ("12.5e+1", 125_000), ("0", 0), ("0e5", 0), ("3", 3000), ("1.2345e2", 123_450)],
)
def test_bare_numbers_are_read_with_their_exponents(text: str, units: int) -> None:
    found, at, why = read_decimal(np.frombuffer(f"{text}]".encode(), np.uint8).copy(), 0, len(text) + 1, 3, 1, reasons.PRICE_OFF_GRID)
    assert (found, at, why) == (units, len(text), 0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1e-4", reasons.PRICE_OFF_GRID), ("1.00005", reasons.PRICE_OFF_GRID), ("e5", reasons.NOT_A_NUMBER), ("1e", reasons.NOT_A_NUMBER),
        ("1e+", reasons.NOT_A_NUMBER), ("null", reasons.NOT_A_NUMBER), ("-1", reasons.NOT_POSITIVE),
        ("1e30", reasons.OUT_OF_INT64), ("1e99", reasons.OUT_OF_INT64), ('1"', reasons.NOT_A_NUMBER),
    ],
)  # fmt: skip
def test_bare_numbers_that_are_none_or_off_the_grid_are_refused(text: str, reason: int) -> None:
    _, _, why = read_decimal(np.frombuffer(text.encode(), np.uint8).copy(), 0, len(text), 3, 1, reasons.PRICE_OFF_GRID)
    assert why == reason


def test_rows_never_exceed_the_bound_however_wrong_the_levels(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(50):
        n = rng.randrange(1, 20)
        messages = np.zeros(n, MESSAGE)
        messages["kind"] = [rng.choice([TRADE, QUOTE, BOOK_DELTA, BOOK_SNAPSHOT]) for _ in range(n)]
        parts = ["[", "]", '"1"', '"2.5"', ",", '"x"', '["3","4"]', '[["3","4"],["5","0"]]', ""]
        texts = ["".join(rng.choices(parts, k=rng.randrange(4))).encode() for _ in range(4 * n)]
        text = b"".join(texts)
        rows = empty(rows_bound(text, n))
        grid = grid_table(np.array([3], np.uint32), 16, [(Decimal("0.1"), Decimal("0.1"))])
        used = write_rows(np.frombuffer(text, np.uint8).copy(), text_spans(texts, 0), messages, grid, rows)
        assert used <= len(rows)
        whole = messages[messages["refused"] == 0]
        assert all(rows["flags"][stop - 1] & EVENT_END for stop in whole["stop"].tolist())
