"""Numbers of tables as whole units of a grid, held to Python's exact decimals."""

from __future__ import annotations

import random
from decimal import ROUND_HALF_UP, Context, Decimal

import numpy as np
import pytest

from handlers.domain.reasons import NOT_A_NUMBER, OUT_OF_INT64, PRICE_OFF_GRID
from handlers.ingest.decimals import DIGITS_KEPT, DIGITS_MEANT, decimals_in, grid_step, meant_decimals, read_cell


def read(text: str, step: str = "0.01") -> tuple[int, int]:
    raw = np.frombuffer(text.encode() or b"\0", np.uint8).copy()
    units, why = read_cell(raw, 0, len(text.encode()), *grid_step(Decimal(step)), PRICE_OFF_GRID)
    return int(units), int(why)


@pytest.mark.parametrize(("text", "step", "units"), [
    ("61800.30", "0.01", 6_180_030), ("-1.5", "0.5", -3), ("+2", "1", 2), ("0", "0.01", 0), ("1e-05", "0.00001", 1), ("1.5E+3", "10", 150),
    ("2.50e1", "0.25", 100), (".5", "0.1", 5), ("5.", "1", 5), ("0e-400", "1", 0), ("-0.000", "0.01", 0), ("9223372036854775799", "1", 2**63 - 9),
])  # fmt: skip
def test_numbers_are_whole_units(text: str, step: str, units: int) -> None:
    assert read(text, step) == (units, 0)


@pytest.mark.parametrize(("text", "reason"), [
    ("", NOT_A_NUMBER), ("-", NOT_A_NUMBER), ("nan", NOT_A_NUMBER), ("1,5", NOT_A_NUMBER), ("1.2.3", NOT_A_NUMBER), ("--1", NOT_A_NUMBER),
    ("-+1", NOT_A_NUMBER), ("1e", NOT_A_NUMBER), ("1e+", NOT_A_NUMBER), ("1e1.5", NOT_A_NUMBER), (".", NOT_A_NUMBER), ("0x10", NOT_A_NUMBER), ("1\0", NOT_A_NUMBER),
    ("0.001", PRICE_OFF_GRID), ("1e-3", PRICE_OFF_GRID), ("1e-9999", PRICE_OFF_GRID), ("0.12345678901234567890123", PRICE_OFF_GRID), ("9223372036854775807", OUT_OF_INT64), ("1e300", OUT_OF_INT64),
])  # fmt: skip
def test_what_is_no_number_of_the_grid_has_a_reason(text: str, reason: int) -> None:
    assert read(text)[1] == reason


def test_any_decimal_is_read_as_pythons(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(3000):
        value = Decimal(chance.randrange(-(10**12), 10**12)).scaleb(-chance.randrange(10))
        text = chance.choice((f"{value:f}", f"{value:e}", f"{value:E}", str(value)))
        step = Decimal(chance.choice((1, 2, 5, 25))).scaleb(-chance.randrange(6))
        units, rest = divmod(value, step)
        found, why = read(text, str(step))
        if rest:
            assert why == PRICE_OFF_GRID, (text, step)
        else:
            assert (found, why) == (int(units), 0), (text, step)


@pytest.mark.parametrize(("text", "decimals"), [
    ("61602.02000000", 2), ("1e-05", 5), ("1.25E1", 1), ("7", 0), ("-0.5", 1), ("", 0), ("n/a", 0), ("1e+30", 0), ("0.000", 0), ("1e", 0),
])  # fmt: skip
def test_significant_decimals_tell_the_grid(text: str, decimals: int) -> None:
    assert decimals_in(np.frombuffer(text.encode() + b"\0", np.uint8).copy(), 0, len(text)) == decimals


def test_decimals_that_were_meant_are_those_of_the_number_rounded_to_what_a_double_keeps(seed: int) -> None:
    chance, kept = random.Random(seed), Context(prec=DIGITS_KEPT, rounding=ROUND_HALF_UP)
    for _ in range(3000):
        number = Decimal(chance.randrange(1, 10 ** chance.randrange(1, 8))).scaleb(-chance.randrange(7))
        text = str(chance.choice((float(number) * 3, float(number) + 0.1, 1 / float(number), number, f"{float(number):.18e}")))
        exact = Decimal(text).normalize()
        rounded = kept.create_decimal(exact).normalize()
        short = len(exact.as_tuple().digits) > DIGITS_KEPT and len(rounded.as_tuple().digits) <= DIGITS_MEANT
        due = max(0, -int((rounded if short else exact).as_tuple().exponent))
        assert meant_decimals(np.frombuffer(text.encode() + b"\0", np.uint8).copy(), 0, len(text)) == due, (seed, text)
