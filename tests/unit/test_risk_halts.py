"""RISK and a halted instrument: by its venue or by a check of its data, nothing is sent until it trades again."""

from __future__ import annotations

import pytest

from handlers.domain import reasons
from handlers.risk.checks import BY_DATA, BY_VENUE
from tests.desk import Desk, passed, place, refusal, target
from tests.stages import Fields, stamped
from transport.records import (
    ACCEPTED, ACK, AUCTION, BUY, CANCEL, CANCEL_ORDER, CLOSED, HALT, ORDER, PAUSED, PRE_OPEN, SELL, STATUS, TRADING, UNKNOWN_STATUS,
)  # fmt: skip


def status(action: int, instrument: int = 0, reason: int = 0) -> Fields:
    return stamped(STATUS, 1000, instrument, action=action, reason=reason)


@pytest.mark.parametrize("action", [HALT, PAUSED, CLOSED])
def test_refuses_orders_in_an_instrument_that_its_venue_does_not_trade(action: int) -> None:
    desk = Desk()
    desk.input(status(action))
    assert refusal(desk.ask(place(BUY, 1))) == (reasons.TRADING_HALTED, 0, BY_VENUE)
    assert refusal(desk.ask(target(5))) == (reasons.TRADING_HALTED, 0, BY_VENUE)
    assert passed(desk.ask(place(BUY, 1, instrument=1))), "the other instrument trades"
    for before_trading in (PRE_OPEN, AUCTION, UNKNOWN_STATUS):
        desk.input(status(before_trading))
        assert refusal(desk.ask(place(SELL, 1)))[0] == reasons.TRADING_HALTED
    desk.input(status(TRADING))
    assert passed(desk.ask(place(BUY, 1)))


def test_a_status_that_says_nothing_of_a_halt_changes_nothing() -> None:
    desk = Desk()
    for action in (UNKNOWN_STATUS, PRE_OPEN, AUCTION, TRADING):
        desk.input(status(action))
        assert passed(desk.ask(place(BUY, 1)))


def test_a_check_of_the_data_lifts_its_own_halt_and_not_the_venues() -> None:
    desk = Desk()
    desk.input(status(HALT, reason=reasons.PRICE_OUT_OF_BAND))
    assert refusal(desk.ask(place(BUY, 1))) == (reasons.TRADING_HALTED, 0, BY_DATA)
    desk.input(status(PAUSED))
    desk.input(status(TRADING, reason=reasons.PRICE_OUT_OF_BAND))
    assert refusal(desk.ask(place(BUY, 1))) == (reasons.TRADING_HALTED, 0, BY_VENUE)
    desk.input(status(HALT, reason=reasons.PRICE_OUT_OF_BAND))
    assert refusal(desk.ask(place(BUY, 1))) == (reasons.TRADING_HALTED, 0, BY_VENUE | BY_DATA)
    desk.input(status(TRADING))
    assert passed(desk.ask(place(BUY, 1))), "the venue's word begins anew"


def test_an_open_order_can_be_withdrawn_in_a_halt_and_not_amended() -> None:
    desk = Desk()
    assert desk.ask(place(BUY, 10, 995))["kind"].tolist() == [ORDER]
    desk.report(ACK, BUY, 10, 10, ACCEPTED)
    desk.input(status(HALT))
    assert refusal(desk.amend(12, 996))[0] == reasons.TRADING_HALTED
    assert desk.ask(place(BUY, 0, action=CANCEL_ORDER, order_id=desk.last))["kind"].tolist() == [CANCEL]


def test_intents_of_the_very_record_that_halts_are_refused() -> None:
    desk = Desk()
    assert refusal(desk.input(status(HALT), intents=[place(BUY, 1)]))[0] == reasons.TRADING_HALTED
