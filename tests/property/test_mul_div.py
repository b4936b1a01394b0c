"""The 128-bit product, checked sums and draws against Python's integers, which know no overflow."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from handlers.domain.numeric import add_checked, divide_wide, high_product, mul_checked, mul_div
from transport.compiled import kernel

LEAST, MOST = -(2**63), 2**63 - 1
# Uniform integers alone would nearly always overflow: half of the draws have a random width instead.
WIDE = st.integers(LEAST, MOST)
SHIFT = st.integers(0, 63)
INT64 = st.one_of(WIDE, st.builds(int.__rshift__, WIDE, SHIFT), st.sampled_from([LEAST, MOST, -1, 0, 1]))
WORD = st.integers(0, 2**64 - 1)
UINT64 = st.one_of(WORD, st.builds(int.__rshift__, WORD, SHIFT))
MANY = settings(max_examples=max(600, settings().max_examples))


@kernel
def high_product_of(a, b):  # type: ignore[no-untyped-def]
    return high_product(a, b)


def half_away(value: Fraction) -> int:
    size = floor(abs(value) + Fraction(1, 2))
    return -size if value < 0 else size


@MANY
@given(INT64, INT64, INT64)
@example(LEAST, 1, 1)
@example(LEAST, -1, 1)
@example(LEAST, LEAST, LEAST)
@example(MOST, MOST, MOST)
@example(MOST, 3, 2)
@example(MOST, 2, -2)
@example(1, 1, 2)
@example(-1, 1, 2)
@example(0, 5, LEAST)
@example(2**62, 4, 2**62 + 1)
def test_product_over_divisor_is_exact_rounded_or_refused(a: int, b: int, c: int) -> None:
    expected = half_away(Fraction(a * b, c)) if c else None
    if expected is None or not LEAST <= expected <= MOST:
        with pytest.raises(AssertionError, match="by zero" if c == 0 else "overflows"):
            mul_div(a, b, c)
    else:
        assert mul_div(a, b, c) == expected


@MANY
@given(st.integers(1, MOST), st.integers(1, MOST), INT64)
def test_results_within_range_are_never_refused(c: int, a: int, wanted: int) -> None:
    b = wanted * c // a  # near the quotient that is wanted, so that most cases need the wide division
    if LEAST <= b <= MOST:
        expected = half_away(Fraction(a * b, c))
        if LEAST <= expected <= MOST:
            assert mul_div(a, b, c) == expected


@MANY
@given(UINT64, UINT64, UINT64)
@example(2**64 - 2, 2**64 - 1, 2**64 - 1)
@example(2**63 - 1, 2**64 - 1, 2**63)
@example(2**32 - 1, 0, 2**32)
@example(0x7FFFFFFFFFFFFFFF, 0xFFFFFFFF00000000, 0x80000000FFFFFFFF)
def test_wide_division_gives_quotient_and_remainder(hi: int, lo: int, d: int) -> None:
    if hi >= d:
        hi %= max(1, d)
    if d > hi:
        got = divide_wide(np.uint64(hi), np.uint64(lo), np.uint64(d))
        assert tuple(map(int, got)) == divmod(hi << 64 | lo, d)


@MANY
@given(UINT64, UINT64)
def test_high_product_is_the_upper_word(a: int, b: int) -> None:
    assert int(high_product_of(np.uint64(a), np.uint64(b))) == a * b >> 64


@MANY
@given(INT64, INT64)
@example(LEAST, -1)
@example(LEAST, LEAST)
@example(MOST, 1)
@example(LEAST, 1)
def test_sums_and_products_are_exact_or_refused(a: int, b: int) -> None:
    for compute, expected in ((add_checked, a + b), (mul_checked, a * b)):
        if LEAST <= expected <= MOST:
            assert compute(a, b) == expected
        else:
            with pytest.raises(AssertionError, match="overflows"):
                compute(a, b)
