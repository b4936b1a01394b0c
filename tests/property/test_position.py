"""Positions against exact fractions: cash is conserved to the unit, whatever the fills and their order."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.domain.position import POSITION_STATE, apply_fill, fee_of, notional_money, unrealised
from transport.records import BUY, NO_SIDE, SELL

MANY = settings(max_examples=max(400, settings().max_examples))
NUM, DEN = 125, 7  # money of a tick times a lot: rounds nearly always


@dataclass(frozen=True)
class Traded:
    """One fill, with the money and fee that a venue would report."""

    side: int
    qty_lots: int
    money: int
    fee: int


FILLS = st.lists(
    st.builds(Traded, st.sampled_from([BUY, SELL]), st.integers(1, 50), st.integers(-(10**12), 10**12), st.integers(-(10**6), 10**9)),
    max_size=40,
)


def half_away(value: Fraction) -> int:
    size = floor(abs(value) + Fraction(1, 2))
    return -size if value < 0 else size


def folded(fills: list[Traded]) -> np.void:
    state = np.zeros(1, POSITION_STATE)
    for f in fills:
        apply_fill(state[0], f.side, f.qty_lots, f.money, f.fee)
    return state[0]


def sign(fill: Traded) -> int:
    return 1 if fill.side == BUY else -1


@MANY
@given(FILLS)
def test_cash_is_realised_less_cost_after_every_fill(fills: list[Traded]) -> None:
    state = np.zeros(1, POSITION_STATE)
    cash = fees = lots = 0
    for f in fills:
        apply_fill(state[0], f.side, f.qty_lots, f.money, f.fee)
        cash -= sign(f) * f.money
        lots += sign(f) * f.qty_lots
        fees += f.fee
        assert state[0]["realised"] - state[0]["cost"] == cash
        assert (state[0]["lots"], state[0]["fees"]) == (lots, fees)
        assert state[0]["bought_lots"] - state[0]["sold_lots"] == lots
        if lots == 0:
            assert state[0]["cost"] == 0
    assert state[0]["fills"] == len(fills)


@MANY
@given(FILLS)
def test_cost_is_the_average_cost_of_exact_fractions_within_a_unit_a_fill(fills: list[Traded]) -> None:
    state = np.zeros(1, POSITION_STATE)
    lots, cost, realised = 0, Fraction(0), Fraction(0)
    for number, f in enumerate(fills, 1):
        apply_fill(state[0], f.side, f.qty_lots, f.money, f.fee)
        closing = min(f.qty_lots, abs(lots)) if lots * sign(f) < 0 else 0
        closed_cost = cost * closing / abs(lots) if closing else Fraction(0)
        closed_money = Fraction(f.money * closing, f.qty_lots)
        realised += -sign(f) * closed_money - closed_cost
        cost += -closed_cost + sign(f) * (f.money - closed_money)
        lots += sign(f) * f.qty_lots
        assert abs(state[0]["cost"] - cost) <= number
        assert abs(state[0]["realised"] - realised) <= number


@MANY
@given(FILLS, st.randoms(use_true_random=False))
def test_order_of_fills_changes_neither_lots_nor_cash_nor_fees(fills: list[Traded], rng: object) -> None:
    shuffled = list(fills)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = folded(fills), folded(shuffled)
    assert one["realised"] - one["cost"] == other["realised"] - other["cost"]
    for name in ("lots", "fees", "bought_lots", "sold_lots", "fills"):
        assert one[name] == other[name]


@MANY
@given(FILLS)
def test_order_of_fills_of_one_side_changes_not_even_the_cost(fills: list[Traded]) -> None:
    bought = [Traded(BUY, f.qty_lots, f.money, f.fee) for f in fills]
    one = folded(bought)
    assert one == folded(bought[::-1])
    assert (one["cost"], one["realised"]) == (sum(f.money for f in fills), 0)


@MANY
@given(FILLS, st.integers(0, 10**9))
def test_a_position_closed_at_its_mark_realises_what_was_unrealised(fills: list[Traded], mark_ticks: int) -> None:
    pos = folded(fills)
    open_lots, expected = int(pos["lots"]), int(pos["realised"]) + unrealised(pos, mark_ticks, NUM, DEN)
    if open_lots:
        money = notional_money(mark_ticks, abs(open_lots), NUM, DEN)
        apply_fill(pos, SELL if open_lots > 0 else BUY, abs(open_lots), money, 0)
    assert (pos["lots"], pos["cost"], pos["realised"]) == (0, 0, expected)


@MANY
@given(st.integers(-(2**31), 2**31), st.integers(-(2**31), 2**31), st.integers(1, 2**20), st.integers(1, 2**40))
def test_notional_is_the_exact_product_rounded_half_away_from_zero(ticks: int, lots: int, num: int, den: int) -> None:
    expected = half_away(Fraction(ticks * lots * num, den))
    if abs(expected) < 2**63:
        assert notional_money(ticks, lots, num, den) == expected


@MANY
@given(st.lists(st.integers(0, 10**15), max_size=30), st.integers(-(10**6), 10**6), st.sampled_from([10**4, 10**6, 10**8]))
def test_fees_are_rounded_fill_by_fill_and_sum_without_loss(moneys: list[int], rate_num: int, rate_den: int) -> None:
    state = np.zeros(1, POSITION_STATE)
    for money in moneys:
        apply_fill(state[0], BUY, 1, money, fee_of(money, rate_num, rate_den))
    assert state[0]["fees"] == sum(half_away(Fraction(m * rate_num, rate_den)) for m in moneys)


def test_a_fee_of_half_a_unit_is_a_whole_unit_paid_or_returned() -> None:
    assert (fee_of(1_000, 5, 10_000), fee_of(999, 5, 10_000)) == (1, 0)
    assert (fee_of(1_000, -5, 10_000), fee_of(-1_000, 5, 10_000)) == (-1, 1)


def test_a_fill_through_zero_closes_then_opens_at_its_own_price() -> None:
    pos = folded([Traded(BUY, 10, 1_000, 1), Traded(SELL, 15, 1_800, 2)])
    assert pos.item() == (-5, -600, 200, 3, 10, 15, 2)
    assert unrealised(pos, 110, 1, 1) == 50


def test_an_odd_unit_of_a_split_fill_is_not_lost() -> None:
    pos = folded([Traded(BUY, 1, 100, 0), Traded(SELL, 3, 100, 0)])  # a third of 100 is 33: 67 opens the short
    assert (pos["realised"], pos["cost"]) == (-67, -67)


def test_money_that_does_not_fit_stops_the_line() -> None:
    pos = folded([Traded(BUY, 1, 2**62, 0)])
    with pytest.raises(AssertionError, match="sum overflows"):
        apply_fill(pos, BUY, 1, 2**62, 0)
    with pytest.raises(AssertionError, match="product overflows"):
        notional_money(2**33, 2**31, 1, 2**20)
    with pytest.raises(AssertionError, match="mul_div overflows"):
        notional_money(2**31, 2**31, 4, 1)
    with pytest.raises(AssertionError, match="result overflows"):
        notional_money(2**31, 2**31, 3, 1)


@pytest.mark.parametrize(("side", "qty_lots"), [(NO_SIDE, 1), (3, 1), (BUY, 0), (SELL, -1)])
def test_a_fill_without_side_or_lots_stops_the_line(side: int, qty_lots: int) -> None:
    with pytest.raises(AssertionError, match="a fill"):
        apply_fill(np.zeros(1, POSITION_STATE)[0], side, qty_lots, 100, 0)
