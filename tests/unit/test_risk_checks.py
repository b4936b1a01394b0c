"""RISK at its limits: what just passes, what just does not and why, and the lots that come back when an order ends."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from handlers.domain import reasons
from handlers.domain.order import TABLE_SLOTS
from handlers.risk.checks import SPREAD_ANY
from tests.desk import MILLION, Desk, passed, place, refusal, target
from tests.stages import level, snapshot, stamped
from transport.records import (
    ACCEPTED, ACK, ACTIVE, AMEND, ASK, BID, BUY, BY_INGEST, BY_RISK, CANCEL, CANCEL_ALL, CANCEL_ORDER, CANCELLED, END_OF_FEED, EVENT_END,
    EXPIRED, FILL, FLATTEN, FOK, GAP, HALTED, INTENT, LIMIT_ORDER, MARKET_ORDER, NO_INSTRUMENT, ORDER, QUOTE, REDUCING, REJECT, SELL,
    SET_STATE, SIGNAL, TIMER, VERDICT, WARMUP,
)  # fmt: skip

RISK_FOLDER = Path(__file__).resolve().parents[2] / "handlers" / "risk"


# --- size -----------------------------------------------------------------------------------------------------------------
def test_refuses_order_that_would_cross_position_limit() -> None:
    for side in (BUY, SELL):
        assert passed(Desk().ask(place(side, 100)))
        assert refusal(Desk().ask(place(side, 101))) == (reasons.POSITION_LIMIT, 100, 101)


def test_position_limit_counts_what_is_held_and_open_by_all_strategies() -> None:
    desk = Desk()
    desk.hold(30)
    assert passed(desk.ask(place(BUY, 40, strategy=2)))
    assert refusal(desk.ask(place(BUY, 31))) == (reasons.POSITION_LIMIT, 100, 101)
    assert passed(desk.ask(place(BUY, 30)))


def test_two_intents_of_one_event_cannot_both_fill_the_limit() -> None:
    rows = Desk().ask(place(BUY, 60), place(BUY, 60, strategy=2))
    assert rows["kind"].tolist() == [ORDER, REJECT]
    assert rows["row"].tolist() == [0, 1]


def test_order_towards_zero_passes_though_the_position_is_over_its_limit() -> None:
    desk = Desk()
    desk.hold(-500)
    assert passed(desk.ask(place(BUY, 500)))


def test_order_through_zero_is_held_to_the_limit_though_it_makes_the_position_smaller() -> None:
    desk = Desk()
    desk.hold(-500)
    assert refusal(desk.ask(place(BUY, 601))) == (reasons.POSITION_LIMIT, 100, 101)
    assert passed(desk.ask(place(BUY, 600)))


def test_refuses_order_that_would_cross_notional_limit() -> None:
    assert passed(Desk(notional_max=10 * MILLION).ask(place(BUY, 10)))
    refused = Desk(notional_max=10 * MILLION).ask(place(BUY, 11))
    assert refusal(refused) == (reasons.NOTIONAL_LIMIT, 10 * MILLION, 11 * MILLION)


def test_refuses_order_that_would_cross_total_notional_limit_over_two_instruments() -> None:
    desk = Desk(notional_total_max=10 * MILLION)
    assert passed(desk.ask(place(SELL, 6, instrument=1)))
    assert refusal(desk.ask(place(BUY, 5))) == (reasons.TOTAL_NOTIONAL_LIMIT, 10 * MILLION, 11 * MILLION)
    assert passed(desk.ask(place(BUY, 4)))


@pytest.mark.parametrize("lots", [6, -6])
def test_what_is_held_below_zero_counts_in_the_total_notional_as_what_is_held_above(lots: int) -> None:
    desk = Desk(notional_total_max=10 * MILLION)
    desk.hold(lots, instrument=1)
    desk.input(*snapshot({-1001: 50}, {-999: 50}, 1000, 1))
    assert refusal(desk.ask(place(BUY, 5))) == (reasons.TOTAL_NOTIONAL_LIMIT, 10 * MILLION, 11 * MILLION)
    assert passed(desk.ask(place(BUY, 4)))


def test_refuses_order_that_would_cross_total_position_limit_over_two_instruments() -> None:
    desk = Desk(position_total_max=35, lot_units=5)  # 7 lots of either
    assert passed(desk.ask(place(SELL, 4, instrument=1)))
    assert refusal(desk.ask(place(BUY, 4))) == (reasons.TOTAL_POSITION_LIMIT, 3, 4)
    assert passed(desk.ask(place(BUY, 3)))
    assert passed(desk.ask(place(SELL, 3)))  # the other side of an order that may not fill
    assert refusal(desk.ask(place(SELL, 1, instrument=1))) == (reasons.TOTAL_POSITION_LIMIT, 4, 5)


def test_total_position_limit_counts_held_lots_and_lets_pass_what_brings_them_to_zero() -> None:
    desk = Desk(position_total_max=10, lot_units=1)
    desk.hold(-30)
    assert refusal(desk.ask(place(BUY, 1, instrument=1))) == (reasons.TOTAL_POSITION_LIMIT, -20, 1)
    assert passed(desk.ask(place(BUY, 30)))
    desk.report(FILL, BUY, 30, 0, cash=-30 * MILLION)
    assert desk.state.line[0]["gross_units"] == 0
    assert passed(desk.ask(place(BUY, 10, instrument=1)))


# --- form -----------------------------------------------------------------------------------------------------------------
def test_refuses_quantity_that_is_not_positive_or_above_the_largest_order() -> None:
    desk = Desk(position_max_lots=5000)
    assert passed(desk.ask(place(BUY, 1)))
    assert refusal(desk.ask(place(BUY, 0))) == (reasons.BAD_QTY, 1000, 0)
    assert refusal(desk.ask(place(BUY, -3))) == (reasons.BAD_QTY, 1000, -3)
    assert passed(desk.ask(place(BUY, 1000)))
    assert refusal(desk.ask(place(BUY, 1001))) == (reasons.BAD_QTY, 1000, 1001)


def test_refuses_target_so_far_away_that_the_difference_wraps() -> None:
    desk = Desk()
    desk.hold(-50)
    for lots in (2**63 - 1, -(2**63)):
        assert refusal(desk.ask(target(lots)))[0] == reasons.BAD_QTY


def test_refuses_side_that_is_neither_buy_nor_sell() -> None:
    assert refusal(Desk().ask(place(0, 1))) == (reasons.BAD_QTY, 0, 0)
    assert refusal(Desk().ask(place(3, 1)))[0] == reasons.BAD_QTY


def test_refuses_price_that_the_market_cannot_have() -> None:
    desk = Desk()
    for price in (0, -5, 2**40 + 1, 2**62, 2**63 - 1):
        assert refusal(desk.ask(place(BUY, 1, price, order_type=LIMIT_ORDER)))[0] == reasons.BAD_PRICE


def test_refuses_action_type_or_time_in_force_that_does_not_exist() -> None:
    desk = Desk()
    assert refusal(desk.ask(place(BUY, 1, action=9))) == (reasons.UNKNOWN_INTENT, 0, 9)
    assert refusal(desk.ask(place(BUY, 1, order_type=3))) == (reasons.UNKNOWN_INTENT, 0, 3)
    assert passed(desk.ask(place(BUY, 1, tif=FOK)))
    assert refusal(desk.ask(place(BUY, 1, tif=FOK + 1))) == (reasons.UNKNOWN_INTENT, FOK, FOK + 1)


def test_refuses_instrument_or_strategy_that_is_not_of_the_line() -> None:
    assert refusal(Desk().ask(place(BUY, 1, instrument=2))) == (reasons.UNKNOWN_INSTRUMENT, 0, 2)
    assert refusal(Desk().ask(place(BUY, 1, instrument=NO_INSTRUMENT)))[0] == reasons.UNKNOWN_INSTRUMENT
    for strategy in (0, 3):
        assert refusal(Desk().ask(place(BUY, 1, strategy=strategy)))[0] == reasons.UNKNOWN_INSTRUMENT


@pytest.mark.parametrize("kind", [ORDER, CANCEL, AMEND, FILL, TIMER])
def test_refuses_forged_kind_in_the_rows_of_signals(kind: int) -> None:
    desk = Desk()
    assert refusal(desk.ask(place(BUY, 1, kind=kind))) == (reasons.FORGED_KIND, INTENT, kind)
    assert desk.state.line[0]["open_orders"] == 0


def test_refuses_intent_that_does_not_come_from_signals() -> None:
    assert refusal(Desk().ask(place(BUY, 1, source_id=BY_RISK)))[0] == reasons.FORGED_KIND


def test_signals_and_what_signals_refused_make_no_row() -> None:
    assert not len(Desk().ask(place(BUY, 1, kind=SIGNAL), place(BUY, 1, kind=REJECT)))


# --- the market -----------------------------------------------------------------------------------------------------------
def test_refuses_price_outside_the_collar() -> None:
    for price, side in ((1050, BUY), (950, SELL)):
        assert passed(Desk().ask(place(side, 1, price)))
    assert refusal(Desk().ask(place(BUY, 1, 1051))) == (reasons.PRICE_COLLAR, 500, 510)
    assert refusal(Desk().ask(place(SELL, 1, 949))) == (reasons.PRICE_COLLAR, 500, 510)


def test_collar_is_exact_where_its_edge_lies_between_ticks() -> None:
    desk = Desk()
    desk.input(level(ASK, 1001, 0, 1000), level(ASK, 1002, 5, 1000))  # mid 1000.5, edge 1050.525
    assert passed(desk.ask(place(BUY, 1, 1050)))
    assert refusal(desk.ask(place(BUY, 1, 1051)))[0] == reasons.PRICE_COLLAR


def test_refuses_order_on_stale_data() -> None:
    assert passed(Desk().ask(place(BUY, 1), at=6000))
    assert refusal(Desk().ask(place(BUY, 1), at=6001)) == (reasons.STALE_DATA, 5000, 5001)
    assert passed(Desk(stale_ns=0).ask(place(BUY, 1), at=10**15))  # 0 is off


def test_refuses_order_on_a_book_that_a_gap_made_invalid_until_its_snapshot() -> None:
    desk = Desk()
    desk.input(stamped(GAP, 1000))
    assert refusal(desk.ask(place(BUY, 1))) == (reasons.INVALID_BOOK, 1, 0)
    assert passed(desk.ask(place(BUY, 1, instrument=1)))
    desk.input(*snapshot({999: 50}, {1001: 50}, 1000))
    assert passed(desk.ask(place(BUY, 1)))


def test_refuses_order_on_the_broken_book_of_a_venue_that_numbers_no_messages_though_it_quotes() -> None:
    desk = Desk()
    desk.input(stamped(QUOTE, 1000, price_ticks=999, qty_lots=5, ask_ticks=1001, ask_lots=5, venue_seq=0))
    desk.input(*({**row, "venue_seq": 0} for row in snapshot({999: 50}, {1001: 50}, 1000)))
    assert passed(desk.ask(place(BUY, 1)))
    desk.input(stamped(GAP, 1000, venue_seq=0))
    assert refusal(desk.ask(place(BUY, 1))) == (reasons.INVALID_BOOK, 1, 0)


def test_refuses_orders_of_contracts_that_settle_in_their_coin() -> None:
    assert refusal(Desk(inverse=1).ask(place(BUY, 1))) == (reasons.INVERSE_CONTRACT, 0, 1)


def test_locked_books_are_refused_and_crossed_ones_traded_on_where_the_configuration_says_so() -> None:
    strict, lax = Desk(spread_min=1), Desk(spread_min=SPREAD_ANY)
    for desk in (strict, lax):
        desk.input(level(BID, 1001, 5, 1000))
    assert refusal(strict.ask(place(BUY, 1))) == (reasons.CROSSED_BOOK, 1, 0)
    lax.input(level(BID, 1003, 5, 1000))
    assert passed(lax.ask(place(BUY, 1)))


def test_refuses_order_while_bids_are_above_asks_as_before_an_opening_auction() -> None:
    desk = Desk()
    desk.input(level(BID, 1001, 5, 1000))
    assert passed(desk.ask(place(BUY, 1))), "locked is not crossed"
    desk.input(level(BID, 1003, 5, 1000))
    assert refusal(desk.ask(place(BUY, 1))) == (reasons.CROSSED_BOOK, 0, -2)
    assert refusal(desk.ask(place(SELL, 1, 1002))) == (reasons.CROSSED_BOOK, 0, -2)
    assert passed(desk.ask(place(SELL, 1, instrument=1)))
    desk.input(level(BID, 1003, 0, 1000))
    assert passed(desk.ask(place(BUY, 1)))


def test_refuses_order_while_history_is_fed() -> None:
    assert refusal(Desk().ask(place(BUY, 1), flags=EVENT_END | WARMUP))[0] == reasons.IN_WARMUP


# --- rate -----------------------------------------------------------------------------------------------------------------
def test_refuses_order_beyond_the_rate_and_refills_on_the_lines_clock() -> None:
    desk = Desk(rate=1000, burst=2, stale_ns=0)
    assert [passed(desk.ask(place(BUY, 1))) for _ in range(3)] == [True, True, False]
    assert refusal(desk.ask(place(BUY, 1), at=1000 + 999_999)) == (reasons.ORDER_RATE, 1000, 999_999_000)
    assert passed(desk.ask(place(BUY, 1), at=1000 + 1_000_000))
    assert not passed(desk.ask(place(BUY, 1)))


def test_burst_is_the_most_that_a_pause_saves_up() -> None:
    desk = Desk(rate=1000, burst=2, stale_ns=0)
    assert [passed(desk.ask(place(BUY, 1), at=10**18)) for _ in range(3)] == [True, True, False]


def test_refuses_same_order_again_within_the_time_of_a_duplicate() -> None:
    desk = Desk(duplicate_ns=500)
    assert passed(desk.ask(place(BUY, 1), at=1000))
    assert refusal(desk.ask(place(BUY, 1), at=1499)) == (reasons.DUPLICATE_ORDER, 500, 499)
    assert passed(desk.ask(place(BUY, 2), at=1499))
    assert passed(desk.ask(place(BUY, 2, strategy=2), at=1499))
    assert passed(desk.ask(place(BUY, 2, strategy=2), at=1999))


def test_refuses_order_when_as_many_are_open_as_may_be() -> None:
    desk = Desk(open_orders_max=2)
    assert passed(desk.ask(place(BUY, 1))) and passed(desk.ask(place(SELL, 1)))
    assert refusal(desk.ask(place(BUY, 1))) == (reasons.OPEN_ORDERS_LIMIT, 2, 2)


def test_refuses_order_that_the_table_of_open_orders_has_no_room_for() -> None:
    desk = Desk(open_orders_max=10**6, rate=10**6, burst=10**6, position_max_lots=10**6)
    made = 0
    while True:
        rows = desk.ask(*[place(BUY, 1)] * 500)
        full = rows[rows["kind"] == REJECT]
        made += len(rows) - len(full)
        if len(full):
            break
    assert set(full["reason"].tolist()) == {reasons.TABLE_FULL}
    assert set(full["leaves_lots"].tolist()) == {0}
    assert TABLE_SLOTS // 2 <= made <= TABLE_SLOTS
    assert desk.state.line[0]["open_orders"] == desk.state.exposures[0]["open_buy_lots"] == made


# --- trading state --------------------------------------------------------------------------------------------------------
def test_halted_refuses_every_order_and_lets_cancels_pass() -> None:
    desk = Desk()
    rows = desk.command(SET_STATE, amount=HALTED)
    assert rows["kind"].tolist() == [VERDICT, CANCEL]
    assert (rows[0]["state"], rows[0]["reason"]) == (HALTED, reasons.OPERATOR)
    assert (rows[1]["order_id"], rows[1]["instrument_id"]) == (0, NO_INSTRUMENT)
    assert refusal(desk.ask(place(BUY, 1)))[0] == reasons.STATE_HALTED
    assert desk.ask(place(BUY, 1, action=CANCEL_ORDER, order_id=7))["kind"].tolist() == [CANCEL]
    assert not len(desk.command(SET_STATE, amount=HALTED))
    assert desk.command(SET_STATE, amount=ACTIVE)["kind"].tolist() == [VERDICT]
    assert passed(desk.ask(place(BUY, 1)))


def test_reducing_lets_pass_what_brings_the_position_nearer_to_zero_and_not_through() -> None:
    desk = Desk()
    desk.hold(10)
    desk.command(SET_STATE, amount=REDUCING)
    assert refusal(desk.ask(place(BUY, 1))) == (reasons.STATE_REDUCING, 0, 1)
    assert refusal(desk.ask(place(SELL, 11))) == (reasons.STATE_REDUCING, 10, 11)
    assert passed(desk.ask(place(SELL, 10)))
    assert refusal(desk.ask(place(SELL, 1))) == (reasons.STATE_REDUCING, 0, 1)  # the open order may fill


@pytest.mark.parametrize("state", [-1, HALTED + 1])
def test_refuses_state_that_does_not_exist_and_stays_in_the_one_it_is_in(state: int) -> None:
    desk = Desk()
    desk.command(SET_STATE, amount=HALTED)
    assert refusal(desk.command(SET_STATE, amount=state)) == (reasons.UNKNOWN_INTENT, HALTED, state)
    assert refusal(desk.ask(place(BUY, 1)))[0] == reasons.STATE_HALTED


def test_end_of_the_feed_halts_and_no_operator_did() -> None:
    rows = Desk().command(END_OF_FEED)
    assert (rows["kind"].tolist(), rows[0]["state"], rows[0]["reason"]) == ([VERDICT], HALTED, reasons.NO_REASON)


def test_flatten_withdraws_everything_and_brings_every_account_to_zero_over_any_limit() -> None:
    desk = Desk(position_max_lots=1, rate=1, burst=1)
    desk.hold(30)
    desk.hold(-7, instrument=1, strategy=2)
    rows = desk.command(FLATTEN)
    assert rows["kind"].tolist() == [CANCEL, ORDER, ORDER]
    told = [tuple(int(r[n]) for n in ("strategy_id", "instrument_id", "side", "qty_lots", "order_type")) for r in rows[1:]]
    assert told == [(1, 0, SELL, 30, MARKET_ORDER), (2, 1, BUY, 7, MARKET_ORDER)]


def test_cancel_all_is_one_cancel_of_everything() -> None:
    assert Desk().command(CANCEL_ALL)["kind"].tolist() == [CANCEL]


@pytest.mark.parametrize(("action", "orders"), [(CANCEL_ALL, []), (FLATTEN, [ORDER])])
def test_nothing_that_is_asked_for_after_the_end_of_the_feeds_passes(action: int, orders: list[int]) -> None:
    desk = Desk()
    desk.hold(30)
    rows = desk.command(action, source_id=BY_INGEST)
    assert rows["kind"].tolist() == [VERDICT, CANCEL, *orders]
    assert (rows[0]["state"], rows[0]["reason"]) == (HALTED, reasons.NO_REASON)
    assert refusal(desk.ask(place(BUY, 1)))[0] == reasons.STATE_HALTED
    assert not len(desk.command(END_OF_FEED, source_id=BY_INGEST)), "it is told once"


@pytest.mark.parametrize("action", [CANCEL_ALL, FLATTEN])
def test_trading_goes_on_after_an_operator_withdrew_or_flattened(action: int) -> None:
    desk = Desk()
    desk.command(action)
    assert passed(desk.ask(place(BUY, 1)))


# --- orders and what becomes of them --------------------------------------------------------------------------------------
def test_target_orders_the_difference_to_position_and_open_orders() -> None:
    desk = Desk()
    desk.hold(10)
    rows = desk.ask(target(25))
    assert (int(rows[0]["side"]), int(rows[0]["qty_lots"])) == (BUY, 15)
    assert not len(desk.ask(target(25)))
    rows = desk.ask(target(-5))
    assert (int(rows[0]["side"]), int(rows[0]["qty_lots"])) == (SELL, 30)


def test_order_id_is_made_of_epoch_seq_and_leg() -> None:
    desk = Desk()
    rows = desk.ask(place(BUY, 1), place(SELL, 1))
    assert rows["order_id"].tolist() == [(1 << 48) | (desk.seq << 12) | leg for leg in (0, 1)]


@pytest.mark.parametrize(("kind", "action"), [(ACK, CANCELLED), (ACK, EXPIRED), (REJECT, 0)])
@pytest.mark.parametrize("side", [BUY, SELL])
def test_open_lots_come_back_when_an_order_ends(kind: int, action: int, side: int) -> None:
    desk = Desk(open_orders_max=1)
    assert passed(desk.ask(place(side, 100)))
    desk.report(ACK, side, 100, 100, ACCEPTED)
    assert not passed(desk.ask(place(side, 1)))
    desk.report(kind, side, 100, 100, action)
    assert passed(desk.ask(place(side, 100)))


def test_refused_cancel_gives_nothing_back() -> None:
    desk = Desk()
    assert passed(desk.ask(place(BUY, 100)))
    desk.report(REJECT, BUY, 100, 0, CANCEL)
    assert refusal(desk.ask(place(BUY, 1)))[0] == reasons.POSITION_LIMIT


def test_end_of_an_order_that_is_told_twice_gives_its_lots_back_once() -> None:
    desk = Desk()
    assert passed(desk.ask(place(BUY, 60)))
    first = desk.last
    assert passed(desk.ask(place(BUY, 40)))
    for _ in range(2):
        desk.report(ACK, BUY, 60, 60, CANCELLED, order_id=first)
    assert (desk.state.exposures[0]["open_buy_lots"], desk.state.line[0]["open_orders"]) == (40, 1)


def test_fill_after_the_end_of_its_order_moves_the_position_and_gives_nothing_back() -> None:
    desk = Desk()
    assert passed(desk.ask(place(BUY, 60)))
    desk.report(ACK, BUY, 60, 60, CANCELLED)
    desk.report(FILL, BUY, 10, 50, cash=-10 * MILLION)
    exposure = desk.state.exposures[0]
    assert (exposure["net_lots"], exposure["open_buy_lots"], desk.state.line[0]["open_orders"]) == (10, 0, 0)


def test_filled_lots_move_from_open_to_held() -> None:
    desk = Desk(open_orders_max=1)
    assert passed(desk.ask(place(BUY, 100)))
    desk.report(FILL, BUY, 40, 60, cash=-40 * MILLION)
    assert refusal(desk.ask(place(BUY, 1)))[0] == reasons.POSITION_LIMIT
    desk.report(FILL, BUY, 60, 0, cash=-60 * MILLION)
    assert desk.state.exposures[0]["net_lots"] == 100
    assert desk.state.open_lots[0]["buy"] == desk.state.exposures[0]["open_buy_lots"] == 0
    assert passed(desk.ask(place(SELL, 200)))


def test_refuses_cancel_of_no_order() -> None:
    assert refusal(Desk().ask(place(BUY, 1, action=CANCEL_ORDER)))[0] == reasons.UNKNOWN_ORDER


def test_position_that_is_set_twice_counts_once() -> None:
    desk = Desk()
    desk.hold(40)
    desk.hold(60)
    assert desk.state.exposures[0]["net_lots"] == 60


def test_every_reason_that_risk_can_give_is_reached_here_or_by_its_amends_and_halts() -> None:
    given = {name for file in RISK_FOLDER.glob("*.py") for name in re.findall(r"reasons\.([A-Z]\w+)", file.read_text())}
    tests = [Path(__file__).with_name(f"test_risk_{part}.py") for part in ("checks", "amends", "halts")]
    here = {name for file in tests for name in re.findall(r"reasons\.([A-Z]\w+)", file.read_text())} - {"NAME", "DOC", "NO_REASON"}
    assert here - {"PRICE_OUT_OF_BAND"} == given, "the one left out is of a check of the data"
    assert len(given) == 25


def test_an_order_whose_worth_would_not_fit_64_bits_is_over_the_limit() -> None:
    desk = Desk(qty_max_lots=2**40, position_max_lots=2**62, notional_max=10**15, notional_total_max=2**62 - 1)
    assert refusal(desk.ask(place(BUY, 2**40)))[0] == reasons.NOTIONAL_LIMIT
    huge = Desk(qty_max_lots=2**40, position_max_lots=2**62, notional_max=2**62 - 1, notional_total_max=2**62 - 1)
    huge.state.terms["num"] = 2**40
    assert refusal(huge.ask(place(BUY, 2**40))) == (reasons.NOTIONAL_LIMIT, 2**62 - 1, 2**62)
