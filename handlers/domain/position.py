"""The position of one strategy in one instrument, in integers: what is open, what it cost, what was earned.

    cash so far  =  realised - cost        to the unit, after every fill; fees are kept apart

`cost` is the signed money paid for the open lots (negative for a short: money received). A fill that opens adds its money to
it; a fill that closes takes out the closed share, and what the share cost less than it brought is realised. A share is rounded
once and the rounded number moves from one side to the other, so nothing is ever lost or made; a flat position costs 0.

Money is int64 in the units of `transport.instruments`; sums and products are checked, and one that does not fit is a bug, as
limits that would allow it are refused at start.
"""

from __future__ import annotations


import numpy as np

from handlers.domain.numeric import add_checked, mul_checked, mul_div
from transport.compiled import kernel
from transport.records import BUY, SELL

POSITION_STATE = np.dtype(
    [
        ("lots", "i8"),  # signed: > 0 is long
        ("cost", "i8"),  # signed money paid for the open lots
        ("realised", "i8"),  # money earned by closing, before fees
        ("fees", "i8"),  # paid so far; a rebate is negative
        ("bought_lots", "i8"),
        ("sold_lots", "i8"),
        ("fills", "i8"),
    ]
)


@kernel
def notional_money(price_ticks, qty_lots, num, den):
    """Money of `qty_lots` (signed) at a price, one tick times one lot being num/den units; half a unit rounds away from zero.

    Asserts that ticks times lots and the result fit int64. For a mid kept as bid + ask pass that sum and twice `den`.
    """
    return mul_div(mul_checked(price_ticks, qty_lots), num, den)


@kernel
def fee_of(money, rate_num, rate_den):
    """Fee of one fill of `money` at rate_num/rate_den, half a unit away from zero; > 0 is paid, a negative rate is a rebate."""
    return mul_div(abs(np.int64(money)), rate_num, rate_den)


@kernel
def close_lots(pos, qty_lots, money):
    """Close `qty_lots` (0 < qty_lots <= |pos.lots|) for the notional `money`; realises the difference to their cost."""
    released = mul_div(pos.cost, qty_lots, abs(pos.lots))
    brought = money if pos.lots > 0 else -money
    pos.realised = add_checked(pos.realised, add_checked(brought, -released))
    pos.cost -= released
    pos.lots += -qty_lots if pos.lots > 0 else qty_lots


@kernel
def apply_fill(pos, side, qty_lots, money, fee):
    """Fold one fill of our order into `pos`: `side` BUY or SELL, qty_lots > 0, money its notional, fee signed.

    The notional has the sign of the price: below zero, as a spread may trade, a seller pays and a buyer is paid.
    A fill through zero closes first and opens with the rest, its money split by lots; the split too loses no unit.
    """
    assert side == BUY or side == SELL, "a fill is bought or sold"
    assert qty_lots > 0, "a fill has lots"
    qty_lots, money = np.int64(qty_lots), np.int64(money)
    signed_lots = qty_lots if side == BUY else -qty_lots
    closing = min(qty_lots, abs(pos.lots)) if (pos.lots > 0) != (signed_lots > 0) else 0
    closing_money = mul_div(money, closing, qty_lots)
    if closing > 0:
        close_lots(pos, closing, closing_money)
    opening_money = money - closing_money
    pos.lots = add_checked(pos.lots, signed_lots + (closing if side == SELL else -closing))
    pos.cost = add_checked(pos.cost, opening_money if side == BUY else -opening_money)
    pos.fees = add_checked(pos.fees, fee)
    if side == BUY:
        pos.bought_lots = add_checked(pos.bought_lots, qty_lots)
    else:
        pos.sold_lots = add_checked(pos.sold_lots, qty_lots)
    pos.fills += 1


@kernel
def apply_fill_row(pos, r):
    """`apply_fill` of a FILL row; its notional is what the buyer pays."""
    apply_fill(pos, r.side, r.qty_lots, -r.cash if r.side == BUY else r.cash, r.fee)


@kernel
def unrealised(pos, mark_ticks, num, den):
    """Money that closing everything at `mark_ticks` would earn, before fees; arguments as in `notional_money`."""
    return add_checked(notional_money(mark_ticks, pos.lots, num, den), -pos.cost)
