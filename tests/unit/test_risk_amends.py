"""RISK and amends: the lots they add count at once, and come back however the amend or its order ends."""

from __future__ import annotations

import pytest

from handlers.domain import order as life
from handlers.domain import reasons
from tests.desk import MILLION, Desk, passed, place, refusal
from tests.stages import Fields, level, stamped
from transport.records import (
    ACCEPTED, ACK, AMEND, AMEND_ORDER, AMENDED, ASK, BUY, BY_RISK, CANCEL, CANCEL_ALL, CANCEL_ORDER, CANCELLED, EXPIRED, FILL, FOK,
    GAP, HALTED, ORDER, REDUCING, REJECT, SELL, SET_STATE,
)  # fmt: skip


def open_buys(desk: Desk, instrument: int = 0) -> int:
    """Lots open to buy, which account 1 and the instrument agree on while nobody else trades."""
    exposure = int(desk.state.exposures[instrument]["open_buy_lots"])
    assert exposure == desk.state.open_lots[instrument]["buy"]
    return exposure


def with_order(qty: int = 40, price: int = 1000, **limits: int) -> Desk:
    """A desk with a limit order to buy, acknowledged."""
    desk = Desk(**limits)
    assert passed(desk.ask(place(BUY, qty, price)))
    desk.report(ACK, BUY, qty, qty, ACCEPTED)
    return desk


def amended(desk: Desk, *args: int, **fields: int) -> bool:
    return desk.amend(*args, **fields)["kind"].tolist() == [AMEND]


# --- what an amend adds counts at once ------------------------------------------------------------------------------------
def test_amend_counts_what_it_adds_from_the_moment_it_passes() -> None:
    desk = with_order(40)
    assert amended(desk, 90, 1000)
    assert open_buys(desk) == 90
    assert refusal(desk.ask(place(BUY, 11))) == (reasons.POSITION_LIMIT, 100, 101)
    assert passed(desk.ask(place(BUY, 10)))


def test_amend_and_order_of_one_event_cannot_both_pass_a_limit_that_their_sum_breaks() -> None:
    desk = with_order(40)
    change = place(BUY, 90, 1000, action=AMEND_ORDER, order_id=desk.last)
    rows = desk.ask(change, place(BUY, 11))
    assert rows["kind"].tolist() == [AMEND, REJECT]
    desk = with_order(40)
    rows = desk.ask(place(BUY, 11), {**change, "order_id": desk.last})
    assert rows["kind"].tolist() == [ORDER, REJECT]
    assert open_buys(desk) == 51


def test_two_amends_of_one_event_cannot_both_pass_a_limit_that_their_sum_breaks() -> None:
    desk = with_order(30)
    first = desk.last
    assert passed(desk.ask(place(BUY, 30, 1000, strategy=2)))
    changes = [place(BUY, 60, 1000, strategy=s, action=AMEND_ORDER, order_id=i) for s, i in ((1, first), (2, desk.last))]
    rows = desk.ask(*changes)
    assert rows["kind"].tolist() == [AMEND, REJECT]
    assert (rows[1]["reason"], rows[1]["limit"], rows[1]["observed"]) == (reasons.POSITION_LIMIT, 100, 120)


def test_order_may_be_amended_in_the_event_that_placed_it() -> None:
    desk = Desk()
    order_id = (1 << 48) | ((desk.seq + 1) << 12)
    rows = desk.ask(place(BUY, 10, 1000), place(BUY, 20, 1000, action=AMEND_ORDER, order_id=order_id))
    assert rows["kind"].tolist() == [ORDER, AMEND]
    assert open_buys(desk) == 20


def test_amend_is_checked_as_an_order_of_what_it_adds_at_the_new_price() -> None:
    desk = with_order(40, notional_max=50 * MILLION, notional_total_max=90 * MILLION)
    ours = desk.last
    assert passed(desk.ask(place(SELL, 42, instrument=1)))
    desk.last = ours
    assert refusal(desk.amend(51, 1000)) == (reasons.NOTIONAL_LIMIT, 50 * MILLION, 51 * MILLION)
    assert refusal(desk.amend(49, 1000)) == (reasons.TOTAL_NOTIONAL_LIMIT, 90 * MILLION, 91 * MILLION)
    assert refusal(desk.amend(40, 1051)) == (reasons.PRICE_COLLAR, 500, 510)
    assert refusal(desk.amend(1001, 1000)) == (reasons.BAD_QTY, 1000, 1001)
    assert refusal(desk.amend(0, 1000)) == (reasons.BAD_QTY, 1000, 0)
    assert refusal(desk.amend(40, 0))[0] == reasons.BAD_PRICE
    assert refusal(desk.amend(40, 1000, tif=FOK + 1))[0] == reasons.UNKNOWN_INTENT
    assert open_buys(desk) == 40
    assert amended(desk, 48, 1000)


def test_amend_is_held_to_the_total_position_limit() -> None:
    desk = with_order(4, position_total_max=10, lot_units=1)
    ours = desk.last
    assert passed(desk.ask(place(SELL, 4, instrument=1)))
    desk.last = ours
    assert refusal(desk.amend(7, 1000)) == (reasons.TOTAL_POSITION_LIMIT, 6, 7)
    assert amended(desk, 6, 1000)


def test_amend_is_checked_with_the_side_of_its_order_whatever_side_it_names() -> None:
    desk = with_order(40)
    desk.hold(50)
    assert refusal(desk.amend(60, 1000, side=SELL)) == (reasons.POSITION_LIMIT, 100, 110)
    rows = desk.amend(50, 1000, side=SELL)
    assert (rows[0]["kind"], rows[0]["side"]) == (AMEND, BUY)


def test_amend_is_checked_and_sent_in_the_instrument_of_its_order() -> None:
    desk = with_order(40)
    rows = desk.amend(50, 1000, instrument=1)
    assert (rows[0]["kind"], rows[0]["instrument_id"], rows[0]["source_id"]) == (AMEND, 0, BY_RISK)
    assert (open_buys(desk), open_buys(desk, 1)) == (50, 0)


def test_amend_takes_a_token_and_is_neither_a_new_order_nor_a_repetition() -> None:
    desk = with_order(40, burst=3, open_orders_max=1, duplicate_ns=500)
    assert amended(desk, 40, 1000)  # side, lots and price of the order before it
    desk.report(ACK, BUY, 40, 40, AMENDED)
    assert amended(desk, 41, 1000)
    desk.report(ACK, BUY, 40, 41, AMENDED)
    assert refusal(desk.amend(42, 1000))[0] == reasons.ORDER_RATE
    assert open_buys(desk) == 41


def test_amend_that_adds_no_lots_and_keeps_its_price_needs_no_market_and_no_room() -> None:
    desk = with_order(40)
    desk.hold(500)
    desk.input(stamped(GAP, 1000))
    assert refusal(desk.amend(40, 999)) == (reasons.INVALID_BOOK, 1, 0)
    assert refusal(desk.amend(41, 1000)) == (reasons.INVALID_BOOK, 1, 0)
    assert amended(desk, 30, 1000)


def test_new_price_of_the_same_lots_needs_a_fresh_market_and_no_room() -> None:
    desk = with_order(40)
    desk.hold(500)
    desk.now = 6001
    assert refusal(desk.amend(40, 1001)) == (reasons.STALE_DATA, 5000, 5001)
    desk.input(level(ASK, 1001, 7, 6001))
    assert amended(desk, 40, 1001)


# --- trading state --------------------------------------------------------------------------------------------------------
def test_halted_refuses_amends_and_reducing_those_that_add_to_the_position() -> None:
    desk = with_order(40)
    desk.command(SET_STATE, amount=REDUCING)
    assert refusal(desk.amend(41, 1000)) == (reasons.STATE_REDUCING, 0, 1)
    assert amended(desk, 39, 1000)
    desk.report(ACK, BUY, 40, 39, AMENDED)
    desk.hold(-60)
    assert refusal(desk.amend(61, 1000)) == (reasons.STATE_REDUCING, 21, 22)
    assert amended(desk, 60, 1000)
    desk.command(SET_STATE, amount=HALTED)
    desk.report(REJECT, BUY, 60, 0, AMEND)
    desk.report(REJECT, BUY, 60, 0, CANCEL)
    assert refusal(desk.amend(30, 1000))[0] == reasons.STATE_HALTED


# --- whose order, and in which state --------------------------------------------------------------------------------------
def test_refuses_amend_of_an_order_that_is_unknown_done_or_another_strategys() -> None:
    desk = with_order(40)
    assert refusal(desk.amend(50, 1000, order_id=12345)) == (reasons.UNKNOWN_ORDER, 0, 0)
    assert refusal(desk.ask(place(BUY, 50, 1000, action=AMEND_ORDER))) == (reasons.UNKNOWN_ORDER, 0, 0)
    assert refusal(desk.amend(50, 1000, strategy=2)) == (reasons.UNKNOWN_ORDER, 0, 0)
    desk.report(FILL, BUY, 40, 0, cash=-40 * MILLION)
    assert refusal(desk.amend(50, 1000)) == (reasons.UNKNOWN_ORDER, 0, 0)
    assert open_buys(desk) == 0


def test_refuses_second_change_while_the_first_is_on_its_way() -> None:
    desk = with_order(40)
    assert amended(desk, 50, 1000)
    assert refusal(desk.amend(60, 1000)) == (reasons.INVALID_TRANSITION, 0, life.PENDING_AMEND)
    assert open_buys(desk) == 50
    assert desk.ask(place(BUY, 0, action=CANCEL_ORDER, order_id=desk.last))["kind"].tolist() == [CANCEL]
    assert refusal(desk.amend(60, 1000)) == (reasons.INVALID_TRANSITION, 0, life.PENDING_CANCEL)
    desk.report(REJECT, BUY, 50, 0, CANCEL)  # the order is ACCEPTED now, and the amend still on its way
    assert refusal(desk.amend(60, 1000)) == (reasons.INVALID_TRANSITION, 0, life.ACCEPTED_STATE)
    desk.report(ACK, BUY, 40, 50, AMENDED)
    assert amended(desk, 60, 1000)


def test_refuses_amend_after_cancel_of_everything() -> None:
    desk = with_order(40)
    desk.command(CANCEL_ALL)
    assert refusal(desk.amend(50, 1000))[0] == reasons.INVALID_TRANSITION


def test_strangers_cancel_does_not_keep_an_order_from_being_amended() -> None:
    desk = with_order(40)
    assert desk.ask(place(BUY, 0, strategy=2, action=CANCEL_ORDER, order_id=desk.last))["kind"].tolist() == [CANCEL]
    assert amended(desk, 50, 1000)


# --- however it ends ------------------------------------------------------------------------------------------------------
REFUSED = {"kind": REJECT, "action": AMEND, "qty": 70, "leaves": 0}
UP = {"kind": ACK, "action": AMENDED, "qty": 40, "leaves": 70}
DOWN = {"kind": ACK, "action": AMENDED, "qty": 40, "leaves": 15}


@pytest.mark.parametrize(
    ("wanted", "told", "left"),
    [
        (70, [UP], 70),
        (70, [REFUSED], 40),
        (15, [DOWN], 15),
        (15, [REFUSED], 40),
        (70, [{"kind": ACK, "action": ACCEPTED, "qty": 40, "leaves": 40}, UP], 70),
        # a fill before the amend, as the venue saw them and the other way round
        (70, [{"kind": FILL, "qty": 10, "leaves": 30}, {**UP, "qty": 30, "leaves": 60}], 60),
        (70, [{**UP, "qty": 30, "leaves": 60}, {"kind": FILL, "qty": 10, "leaves": 30}], 60),
        (15, [{**DOWN, "qty": 30, "leaves": 5}, {"kind": FILL, "qty": 10, "leaves": 30}], 5),
        # a fill after it, both ways; the second fills more than there was before
        (70, [UP, {"kind": FILL, "qty": 50, "leaves": 20}], 20),
        (70, [{"kind": FILL, "qty": 50, "leaves": 20}, UP], 20),
        # filled whole, withdrawn, expired or refused before the amend came
        (70, [{"kind": FILL, "qty": 40, "leaves": 0}, REFUSED], 0),
        (70, [REFUSED, {"kind": FILL, "qty": 40, "leaves": 0}], 0),
        (70, [{"kind": ACK, "action": CANCELLED, "qty": 40, "leaves": 40}, REFUSED], 0),
        (70, [{"kind": ACK, "action": EXPIRED, "qty": 40, "leaves": 40}, REFUSED], 0),
        (70, [{"kind": REJECT, "qty": 40, "leaves": 40}, REFUSED], 0),
        (70, [{"kind": FILL, "qty": 10, "leaves": 30}, {"kind": ACK, "action": CANCELLED, "qty": 40, "leaves": 30}, REFUSED], 0),
        # down to what is filled, and below: nothing is left to do
        (10, [{"kind": FILL, "qty": 10, "leaves": 30}, {**DOWN, "qty": 30, "leaves": 0}], 0),
        (5, [{"kind": FILL, "qty": 10, "leaves": 30}, {**DOWN, "qty": 30, "leaves": 0}], 0),
        (5, [{**DOWN, "qty": 30, "leaves": 0}, {"kind": FILL, "qty": 10, "leaves": 30}], 0),
        # told twice
        (70, [UP, UP], 70),
        (70, [REFUSED, REFUSED], 40),
    ],
)
def test_open_lots_are_what_can_still_fill_however_an_amend_ends(wanted: int, told: list[Fields], left: int) -> None:
    desk = with_order(40, lot_units=3)
    assert amended(desk, wanted, 1000)
    assert open_buys(desk) == max(40, wanted)
    for report in told:
        about = {"action": 0, **report}
        desk.report(about["kind"], BUY, about["qty"], about["leaves"], about["action"], cash=-about["qty"] * MILLION)
    filled = sum(report["qty"] for report in told if report["kind"] == FILL)
    exposure = desk.state.exposures[0]
    assert (open_buys(desk), exposure["net_lots"]) == (left, filled)
    assert desk.state.line[0]["open_orders"] == (left > 0) == (desk.state.table["order_id"] != 0).sum()
    assert desk.state.line[0]["gross_units"] == 3 * (filled + left)


def test_down_amend_gives_its_lots_back_only_when_the_venue_says_so() -> None:
    desk = with_order(40)
    assert amended(desk, 10, 1000)
    assert refusal(desk.ask(place(BUY, 61))) == (reasons.POSITION_LIMIT, 100, 101)
    desk.report(ACK, BUY, 40, 10, AMENDED)
    assert passed(desk.ask(place(BUY, 90)))
