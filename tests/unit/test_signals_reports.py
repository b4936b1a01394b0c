"""What a strategy is shown of itself: its position and open orders, folded from the reports in the input log alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from handlers.domain.borrowed import borrow
from handlers.signals.stage import SignalsState, fold_report, new_signals
from tests.stages import Fields, slots, stamped
from transport.compiled import kernel
from transport.records import (
    ACCEPTED, ACK, AMENDED, BUY, CANCELLED, COMMAND, EXPIRED, FILL, MAKER, SELL, SET_CASH, SET_POSITION,
)  # fmt: skip

SHOWN = ("position_lots", "open_buy_lots", "open_sell_lots", "cost", "realised", "fees")
US, OTHER = 2, 1  # strategies of instrument 0; both have instrument 1 too


@kernel
def _fold(owned, rows):
    state = borrow(owned)
    for i in range(len(rows)):
        fold_report(state, rows[i])


class Accounts:
    """SIGNALS' accounts of two strategies in two instruments; no step is called."""

    def __init__(self) -> None:
        declared = (0, 0, 0, 1, 0, 0)
        subs = [(instrument, strategy, *declared, (FILL,)) for instrument in (0, 1) for strategy in (OTHER, US)]
        self.state: SignalsState = new_signals(subs, 2)

    def fold(self, *records: Fields) -> dict[str, int]:
        """What we are shown in instrument 0 after `records`; nobody else's account may have moved."""
        _fold(self.state, slots(records))
        for row in self.state.subs:
            if (row["instrument_id"], row["strategy_id"]) == (0, US):
                shown = {name: int(row[name]) for name in SHOWN}
            else:
                assert not any(row[name] for name in SHOWN)
        return shown


def ack(action: int, side: int, leaves: int, qty: int = 0) -> Fields:
    return stamped(ACK, 1, side=side, action=action, leaves_lots=leaves, qty_lots=qty, strategy_id=US, order_id=1)


def fill(side: int, lots: int, money: int, fee: int = 0) -> Fields:
    cash = -money if side == BUY else money
    return stamped(FILL, 1, side=side, action=MAKER, qty_lots=lots, cash=cash, fee=fee, strategy_id=US, order_id=1)


def shown(**values: int) -> dict[str, int]:
    return {**dict.fromkeys(SHOWN, 0), **values}


@pytest.mark.parametrize(("side", "name"), [(BUY, "open_buy_lots"), (SELL, "open_sell_lots")])
def test_an_orders_lots_are_open_from_its_acknowledgement_until_it_is_over(side: int, name: str) -> None:
    sign = 1 if side == BUY else -1
    accounts = Accounts()
    assert accounts.fold(ack(ACCEPTED, side, 10)) == shown(**{name: 10})
    assert accounts.fold(fill(side, 3, 300, 2)) == shown(**{name: 7}, position_lots=3 * sign, cost=300 * sign, fees=2)
    amended = accounts.fold(ack(AMENDED, side, leaves=12, qty=7))  # the venue had 7 open and has 12
    assert amended[name] == 12
    assert accounts.fold(ack(AMENDED, side, leaves=5, qty=12))[name] == 5
    for over in (CANCELLED, EXPIRED):
        assert accounts.fold(ack(over, side, leaves=5))[name] == 0
        accounts.fold(ack(ACCEPTED, side, 5))


def test_a_position_that_is_set_replaces_lots_and_cost_and_keeps_the_rest() -> None:
    accounts = Accounts()
    accounts.fold(ack(ACCEPTED, SELL, 9), fill(BUY, 4, 400, 1), fill(SELL, 1, 130, 1))
    held = accounts.fold(stamped(COMMAND, 1, action=SET_POSITION, qty_lots=-7, basis=-900, strategy_id=US))
    assert held == shown(position_lots=-7, cost=-900, open_sell_lots=8, open_buy_lots=-4, realised=30, fees=2)
    assert accounts.fold(stamped(COMMAND, 1, action=SET_CASH, amount=5, strategy_id=US)) == held


def test_below_zero_a_seller_pays_and_a_buyer_is_paid() -> None:
    accounts = Accounts()
    accounts.fold(ack(ACCEPTED, SELL, 10), ack(ACCEPTED, BUY, 10))
    assert accounts.fold(fill(SELL, 10, -20)) == shown(position_lots=-10, cost=20, open_buy_lots=10)
    assert accounts.fold(fill(BUY, 10, 80)) == shown(realised=-100)


def test_a_fill_before_its_acknowledgement_comes_to_the_same() -> None:
    one, two = Accounts(), Accounts()
    reports = [ack(ACCEPTED, BUY, 10), fill(BUY, 4, 40)]
    assert one.fold(*reports) == two.fold(*reversed(reports)) == shown(position_lots=4, cost=40, open_buy_lots=6)


def test_accounts_follow_any_life_of_many_orders(seed: int) -> None:
    """Against a dict of open orders and sums: lots, fees, and cash = realised - cost; a flat position costs nothing."""
    rng = random.Random(seed)
    accounts, orders = Accounts(), dict[int, list[int]]()  # number -> [side, lots open]
    lots = cash = fees = 0
    for number in range(2_000):
        what = rng.choice(["new", "fill", "fill", "amend", "end"])
        if what == "new" or not orders:
            side, qty = rng.choice([BUY, SELL]), rng.randint(1, 20)
            orders[number] = [side, qty]
            report: Any = ack(ACCEPTED, side, qty)
        else:
            key = rng.choice(list(orders))
            side, left = orders[key]
            if what == "fill":
                took, money, fee = rng.randint(1, left), rng.randint(1, 10**6), rng.randint(-5, 50)
                report, orders[key][1] = fill(side, took, money, fee), left - took
                lots += took if side == BUY else -took
                cash += -money if side == BUY else money
                fees += fee
            elif what == "amend":
                orders[key][1] = rng.randint(1, 20)
                report = ack(AMENDED, side, leaves=orders[key][1], qty=left)
            else:
                report, orders[key][1] = ack(rng.choice([CANCELLED, EXPIRED]), side, leaves=left), 0
            if orders[key][1] == 0:
                del orders[key]
        seen = accounts.fold(report)
        left_of = {of: sum(left for side, left in orders.values() if side == of) for of in (BUY, SELL)}
        assert (seen["open_buy_lots"], seen["open_sell_lots"]) == (left_of[BUY], left_of[SELL])
        assert (seen["position_lots"], seen["fees"], seen["realised"] - seen["cost"]) == (lots, fees, cash)
        assert seen["cost"] == 0 if lots == 0 else np.sign(seen["cost"]) in (0, np.sign(lots))
