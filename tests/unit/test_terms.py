"""What a tick times a lot is worth, and the fees: exact ratios, and money from them rounded once, half a unit from zero."""

from __future__ import annotations

import math
import random
from decimal import Decimal
from fractions import Fraction

import pytest

from handlers.domain.position import fee_of, notional_money
from handlers.domain.terms import RATIO_MAX, new_terms
from transport.errors import InstrumentError
from transport.instruments import Instrument


def instrument(tick: str, lot: str, multiplier: str = "1") -> Instrument:
    return Instrument("I", "test", Decimal(tick), Decimal(lot), multiplier=Decimal(multiplier))


def half_away(value: Fraction) -> int:
    return (-1 if value < 0 else 1) * math.floor(abs(value) + Fraction(1, 2))


@pytest.mark.parametrize(
    ("tick", "lot", "multiplier", "decimals", "num", "den"),
    [
        ("0.01", "0.001", "1", 8, 1000, 1),
        ("0.25", "1", "50", 2, 1250, 1),
        ("0.25", "1", "50", 0, 25, 2),  # a tick of one lot is 12.5 units
        ("0.0001", "0.001", "1", 2, 1, 100_000),  # less than a unit: the ratio is kept, not what it rounds to
        ("1E+1", "1E+2", "1", 0, 1000, 1),
    ],
)
def test_a_tick_of_a_lot_is_worth_an_exact_ratio(
    tick: str, lot: str, multiplier: str, decimals: int, num: int, den: int
) -> None:
    (row,) = new_terms([instrument(tick, lot, multiplier)], decimals, Decimal(2), Decimal(5))
    assert (row["num"], row["den"]) == (num, den)


@pytest.mark.parametrize(
    ("maker", "taker", "num", "den"),
    [
        ("2", "5", (2, 5), 10_000),
        ("-0.25", "4.5", (-25, 450), 1_000_000),  # a rebate, and both over one denominator
        ("0", "0.0001", (0, 1), 100_000_000),
        ("1E+1", "2.50", (100, 25), 100_000),
    ],
)
def test_fees_are_exact_over_one_denominator(maker: str, taker: str, num: tuple[int, int], den: int) -> None:
    (row,) = new_terms([instrument("0.01", "1")], 8, Decimal(maker), Decimal(taker))
    assert (int(row["maker_num"]), int(row["taker_num"]), row["fee_den"]) == (*num, den)
    for part, bp in (("maker_num", maker), ("taker_num", taker)):
        assert Fraction(int(row[part]), int(row["fee_den"])) == Fraction(Decimal(bp)) / 10_000


def test_every_instrument_has_a_row_and_no_instruments_have_one_of_zeros() -> None:
    rows = new_terms([instrument("0.01", "1"), instrument("0.5", "1")], 2, Decimal(2), Decimal(5))
    assert rows["num"].tolist() == [1, 50]
    assert not any(new_terms([], 8, Decimal(2), Decimal(5))[0].item())


def test_money_and_fees_are_rounded_once_half_a_unit_from_zero(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(500):
        decimals = rng.choice([0, 2, 8])
        tick, lot = (Decimal(rng.choice(["1", "0.5", "0.25", "0.01", "0.00001"])) for _ in range(2))
        multiplier, maker = Decimal(rng.choice(["1", "0.1", "50"])), Decimal(rng.randint(-50, 0)) / 10
        (row,) = new_terms([instrument(str(tick), str(lot), str(multiplier))], decimals, maker, Decimal("5.05"))
        price, lots = rng.randint(1, 10**5), rng.randint(-1000, 1000)
        exact = Fraction(price * lots) * Fraction(tick) * Fraction(lot) * Fraction(multiplier) * 10**decimals
        money = notional_money(price, lots, row["num"], row["den"])
        assert money == half_away(exact)
        for part, bp in (("maker_num", maker), ("taker_num", Decimal("5.05"))):
            assert fee_of(money, row[part], row["fee_den"]) == half_away(abs(money) * Fraction(bp) / 10_000)


@pytest.mark.parametrize(("tick", "decimals"), [(str(RATIO_MAX + 1), 0), ("0.0000000000001", 0)])
def test_refuses_instrument_whose_ratio_is_too_fine_or_too_coarse(tick: str, decimals: int) -> None:
    with pytest.raises(InstrumentError, match=r"I\.test: a tick times a lot is .* too fine or too coarse"):
        new_terms([instrument(tick, "1")], decimals, Decimal(2), Decimal(5))
    (row,) = new_terms([instrument(str(RATIO_MAX), "1")], 0, Decimal(2), Decimal(5))
    assert row["num"] == RATIO_MAX
