"""The life of an order: every (state, event) decided, quantities that hold under any reports, and the table of open orders."""

from __future__ import annotations

import random

import numpy as np
import pytest

from handlers.domain import order as life
from transport.records import BUY, GTC, LIMIT_ORDER, SELL

PAIRS = [(s, e) for s in range(len(life.STATES)) for e in range(len(life.EVENTS))]
OPEN = set(range(len(life.STATES))) - set(life.TERMINAL)


def new_order(table: np.ndarray, order_id: int = 1, qty_lots: int = 10) -> np.void:
    at = life.insert(table, order_id, 3, 2, BUY, LIMIT_ORDER, GTC, 100, qty_lots)
    assert at >= 0
    return table[at]


def sent(qty_lots: int = 10) -> np.void:
    slot = new_order(life.new_table(8), qty_lots=qty_lots)
    assert life.transition(slot, life.SUBMIT) == life.APPLY
    return slot


def after(*events: int) -> tuple[str, list[str]]:
    """State and dispositions of a submitted order of no fills after `events`."""
    slot = sent()
    dispositions = [life.DISPOSITIONS[life.transition(slot, e)] for e in events]
    return life.STATES[slot["state"]], dispositions


# --- the table ------------------------------------------------------------------------------------------------------------
def test_every_state_and_event_has_its_number_and_is_decided() -> None:
    assert life.NEXT.shape == life.DISPOSITION.shape == (len(life.STATES), len(life.EVENTS)) == (11, 13)
    assert life.NEXT.max() < len(life.STATES)
    assert life.DISPOSITION.max() < len(life.DISPOSITIONS)
    numbers = [
        life.INITIALISED, life.DENIED, life.SUBMITTED, life.ACCEPTED_STATE, life.PARTIALLY_FILLED, life.FILLED,
        life.PENDING_CANCEL, life.PENDING_AMEND, life.CANCELLED_STATE, life.REJECTED_STATE, life.EXPIRED_STATE,
    ]  # fmt: skip
    assert numbers == list(range(11))
    assert (len(set(life.STATES)), len(set(life.EVENTS))) == (11, 13)


def test_only_an_applied_event_changes_the_state() -> None:
    for s, e in PAIRS:
        if life.DISPOSITION[s, e] != life.APPLY:
            assert life.NEXT[s, e] == s, (life.STATES[s], life.EVENTS[e])


def test_no_terminal_state_is_ever_left_and_only_fills_are_late() -> None:
    for s, e in PAIRS:
        what = life.DISPOSITION[s, e]
        assert life.is_terminal(s) == (s in life.TERMINAL)
        if s in life.TERMINAL:
            assert what != life.APPLY, (life.STATES[s], life.EVENTS[e])
        if what == life.LATE:
            assert s in life.TERMINAL
            assert e in (life.PARTIAL_FILL, life.FILL_WHOLE)


def test_a_fill_of_an_order_that_was_sent_is_never_invalid() -> None:
    for s in range(len(life.STATES)):
        if s != life.INITIALISED:
            assert life.DISPOSITION[s, life.PARTIAL_FILL] in (life.APPLY, life.LATE)
            assert life.DISPOSITION[s, life.FILL_WHOLE] != life.INVALID


def test_every_state_is_reached_and_every_open_one_can_end() -> None:
    reached, todo = {life.INITIALISED}, [life.INITIALISED]
    while todo:
        s = todo.pop()
        for target in {int(t) for t in life.NEXT[s]} - reached:
            reached.add(target)
            todo.append(target)
    assert reached | {life.PARTIALLY_FILLED} == set(range(len(life.STATES)))
    assert all(set(map(int, life.NEXT[s])) & set(life.TERMINAL) for s in OPEN)


def test_every_order_at_the_venue_can_be_cancelled_and_no_ended_one() -> None:
    for s in range(len(life.STATES)):
        if s in (life.SUBMITTED, life.ACCEPTED_STATE, life.PARTIALLY_FILLED, life.PENDING_AMEND):
            assert life.NEXT[s, life.CANCEL_REQUEST] == life.PENDING_CANCEL
        elif s in life.TERMINAL:
            assert life.DISPOSITION[s, life.CANCEL_REQUEST] == life.INVALID


@pytest.mark.parametrize(
    ("events", "state", "last"),
    [
        ((life.ACCEPT,), "ACCEPTED", "APPLY"),
        ((life.ACCEPT, life.ACCEPT), "ACCEPTED", "DUPLICATE"),
        ((life.FILL_WHOLE, life.ACCEPT), "FILLED", "DUPLICATE"),
        ((life.REJECT_NEW, life.ACCEPT), "REJECTED", "DUPLICATE"),
        ((life.CANCEL_REQUEST, life.ACCEPT), "PENDING_CANCEL", "APPLY"),
        ((life.CANCEL_REQUEST, life.CANCEL_REQUEST), "PENDING_CANCEL", "DUPLICATE"),
        ((life.CANCEL_REQUEST, life.FILL_WHOLE, life.CANCEL_REJECT), "FILLED", "DUPLICATE"),
        ((life.CANCEL_REQUEST, life.CANCEL_ACK, life.PARTIAL_FILL), "CANCELLED", "LATE"),
        ((life.ACCEPT, life.CANCEL_REQUEST, life.CANCEL_REJECT), "ACCEPTED", "APPLY"),
        ((life.ACCEPT, life.CANCEL_REQUEST, life.CANCEL_REJECT, life.CANCEL_REJECT), "ACCEPTED", "DUPLICATE"),
        ((life.ACCEPT, life.AMEND_REQUEST, life.AMEND_ACK), "ACCEPTED", "APPLY"),
        ((life.ACCEPT, life.AMEND_REQUEST, life.CANCEL_REQUEST, life.AMEND_ACK), "PENDING_CANCEL", "APPLY"),
        ((life.ACCEPT, life.AMEND_REQUEST, life.CANCEL_REQUEST, life.CANCEL_REJECT, life.AMEND_ACK), "ACCEPTED", "APPLY"),
        ((life.EXPIRE, life.FILL_WHOLE), "EXPIRED", "LATE"),
        ((life.CANCEL_ACK, life.CANCEL_REQUEST), "CANCELLED", "INVALID"),
        ((life.DENY,), "SUBMITTED", "INVALID"),
    ],
)
def test_reports_that_cross_repeat_or_come_late_end_where_they_should(events: tuple[int, ...], state: str, last: str) -> None:
    found, dispositions = after(*events)
    assert (found, dispositions[-1]) == (state, last), dispositions


def test_diagram_has_an_arrow_for_every_applied_change_and_no_other() -> None:
    lines = life.diagram().splitlines()
    assert lines[:2] == ["stateDiagram-v2", "    [*] --> INITIALISED"]
    drawn = set()
    for line in lines[2:]:
        source, _, rest = line.strip().partition(" --> ")
        target, _, events = rest.partition(": ")
        drawn |= {(source, target, e) for e in events.split(", ")}
    wanted = {(life.STATES[t], "[*]", "") for t in life.TERMINAL}
    for s, e in PAIRS:
        if life.DISPOSITION[s, e] == life.APPLY and life.NEXT[s, e] != s:
            wanted.add((life.STATES[s], life.STATES[life.NEXT[s, e]], life.EVENTS[e]))
    assert drawn == wanted


# --- quantities -----------------------------------------------------------------------------------------------------------
def test_a_refused_cancel_returns_to_the_open_state_that_is_true() -> None:
    slot = sent()
    assert life.fold_fill(slot, 4, 6) == life.APPLY
    for request, answer in ((life.CANCEL_REQUEST, life.CANCEL_REJECT), (life.AMEND_REQUEST, life.AMEND_REJECT)):
        life.transition(slot, request)
        life.transition(slot, answer)
        assert slot["state"] == life.PARTIALLY_FILLED


def test_fills_in_the_wrong_order_add_up() -> None:
    slot = sent()
    assert life.fold_fill(slot, 3, 0) == life.APPLY  # the last of two, first
    assert life.fold_fill(slot, 7, 3) == life.LATE
    assert (slot["filled_lots"], slot["leaves_lots"], slot["state"]) == (10, 0, life.FILLED)
    assert life.fold_fill(slot, 3, 0) == life.INVALID


def test_a_late_fill_counts_its_lots_and_leaves_the_order_cancelled() -> None:
    slot = sent()
    life.transition(slot, life.CANCEL_ACK)
    assert life.fold_fill(slot, 4, 6) == life.LATE
    assert (slot["filled_lots"], slot["leaves_lots"], slot["state"]) == (4, 0, life.CANCELLED_STATE)


@pytest.mark.parametrize("lots", [0, -1, 11])
def test_a_fill_without_lots_or_beyond_the_order_changes_nothing(lots: int) -> None:
    slot = sent()
    before = slot.copy()
    assert life.fold_fill(slot, lots, 0) == life.INVALID
    assert slot == before


@pytest.mark.parametrize(("asked", "qty", "leaves", "state"), [(12, 12, 8, "PARTIALLY_FILLED"), (5, 5, 1, "PARTIALLY_FILLED"),
                                                               (4, 4, 0, "FILLED"), (2, 4, 0, "FILLED")])  # fmt: skip
def test_an_amend_moves_price_and_quantity_but_never_below_what_is_filled(asked: int, qty: int, leaves: int, state: str) -> None:
    slot = sent()
    life.fold_fill(slot, 4, 6)
    assert life.request_amend(slot, asked) == life.APPLY
    assert life.fold_amend(slot, 101, 6, max(0, asked - 4)) == life.APPLY
    assert (slot["price_ticks"], slot["qty_lots"], slot["leaves_lots"]) == (101, qty, leaves)
    assert life.STATES[slot["state"]] == state


def test_a_fill_made_before_an_amend_and_told_after_it_counts_against_the_new_quantity() -> None:
    slot = sent()
    life.request_amend(slot, 8)
    assert life.fold_amend(slot, 100, 6, 4) == life.APPLY  # 4 of 10 were filled when the venue made it 8
    assert (slot["qty_lots"], slot["leaves_lots"]) == (8, 8)
    assert life.fold_fill(slot, 4, 6) == life.APPLY
    assert (slot["filled_lots"], slot["leaves_lots"], slot["state"]) == (4, 4, life.PARTIALLY_FILLED)


def test_a_fill_that_an_amend_made_room_for_may_be_told_before_it() -> None:
    slot = sent()
    life.request_amend(slot, 15)
    assert life.fold_fill(slot, 12, 3) == life.APPLY
    assert (slot["state"], life.exposed_lots(slot)) == (life.PENDING_AMEND, 3)
    assert life.fold_amend(slot, 100, 10, 15) == life.APPLY
    assert (slot["qty_lots"], slot["leaves_lots"], slot["state"]) == (15, 3, life.PARTIALLY_FILLED)


def test_one_change_at_a_time_and_an_ack_of_no_amend_says_nothing_new() -> None:
    slot = sent()
    assert life.fold_amend(slot, 101, 10, 20) == life.DUPLICATE
    assert life.request_amend(slot, 15) == life.APPLY
    assert life.request_amend(slot, 12) == life.INVALID
    life.transition(slot, life.CANCEL_REQUEST)
    life.transition(slot, life.CANCEL_REJECT)  # ACCEPTED, with the amend still on its way
    assert life.request_amend(slot, 12) == life.INVALID
    assert (slot["wanted_lots"], slot["qty_lots"], life.exposed_lots(slot)) == (15, 10, 15)
    assert life.fold_amend(slot, 101, 10, 15) == life.APPLY
    assert life.fold_amend(slot, 101, 10, 15) == life.DUPLICATE
    assert slot["qty_lots"] == 15


def test_no_sequence_of_reports_fills_more_than_the_order_or_revives_an_ended_one(seed: int) -> None:
    rng = random.Random(seed)
    seen = np.zeros(len(life.DISPOSITIONS), np.int64)
    for _ in range(1_500):
        slot = sent(qty_lots=rng.randint(1, 12))
        for _ in range(rng.randint(1, 25)):
            before = slot.copy()
            event = rng.randrange(len(life.EVENTS))
            if event in (life.PARTIAL_FILL, life.FILL_WHOLE):
                what = life.fold_fill(slot, rng.randint(-1, 6), 0 if event == life.FILL_WHOLE else rng.randint(1, 6))
            elif event == life.AMEND_ACK:
                leaves = rng.randint(0, 12)
                what = life.fold_amend(slot, rng.randint(90, 110), slot["qty_lots"] - slot["filled_lots"], leaves)
            elif event == life.AMEND_REQUEST:
                what = life.request_amend(slot, rng.randint(1, 15))
            else:
                what = life.transition(slot, event)
            seen[what] += 1
            assert before["filled_lots"] <= slot["filled_lots"] <= max(slot["qty_lots"], slot["wanted_lots"])
            assert 0 <= slot["leaves_lots"] <= slot["qty_lots"]
            if before["state"] in life.TERMINAL:
                assert slot["state"] == before["state"]
                assert what != life.APPLY
            if what in (life.DUPLICATE, life.INVALID):
                assert slot == before
            if slot["state"] == life.ACCEPTED_STATE:
                assert slot["filled_lots"] == 0
            if slot["state"] not in life.TERMINAL:
                assert slot["leaves_lots"] == max(0, slot["qty_lots"] - slot["filled_lots"])
                assert life.exposed_lots(slot) > 0
    assert (seen > 100).all(), seen


# --- the table of open orders ---------------------------------------------------------------------------------------------
def test_slot_is_one_cache_line() -> None:
    assert life.ORDER_SLOT.itemsize == 64


def test_new_entry_holds_what_was_given_and_nothing_of_what_stood_there() -> None:
    table = life.new_table(8)
    first = new_order(table)
    life.fold_fill(first, 1, 9)
    life.transition(first, life.SUBMIT)
    life.remove(table, life.find(table, 1))
    assert not table.view(np.uint8).any()
    slot = table[life.insert(table, 1, 7, 6, SELL, LIMIT_ORDER, GTC, -5, 20)]
    given = {"order_id": 1, "instrument_id": 7, "strategy_id": 6, "side": SELL, "price_ticks": -5, "qty_lots": 20}
    given |= {"filled_lots": 0, "leaves_lots": 20, "wanted_lots": 0, "state": life.INITIALISED, "tif": GTC}
    assert {name: int(slot[name]) for name in given} == given


def test_id_zero_and_an_id_that_is_open_are_refused() -> None:
    table = life.new_table(64)
    new_order(table, 5)
    assert life.insert(table, 5, 0, 1, BUY, LIMIT_ORDER, GTC, 1, 1) == -1
    assert life.insert(table, 0, 0, 1, BUY, LIMIT_ORDER, GTC, 1, 1) == -1
    assert life.find(table, 0) == -1
    assert np.count_nonzero(table["order_id"]) == 1


@pytest.mark.parametrize("slots", [0, 4, 12, -8])
def test_table_size_must_be_a_power_of_two(slots: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        life.new_table(slots)


def test_full_table_refuses_and_still_finds_and_removes() -> None:
    table, kept = life.new_table(64), []
    for order_id in range(1, 5_000):
        if life.insert(table, order_id, 0, 1, BUY, LIMIT_ORDER, GTC, 1, 1) >= 0:
            kept.append(order_id)
    assert len(kept) == 64 == np.count_nonzero(table["order_id"])
    assert life.insert(table, 10_000, 0, 1, BUY, LIMIT_ORDER, GTC, 1, 1) == -1 == life.find(table, 10_000)
    for gone, order_id in enumerate(kept, 1):
        life.remove(table, life.find(table, order_id))
        assert np.count_nonzero(table["order_id"]) == 64 - gone
        assert all(table[life.find(table, other)]["order_id"] == other for other in kept[gone:])
    assert not table.view(np.uint8).any()


def test_half_of_the_slots_are_always_available(seed: int) -> None:
    rng = random.Random(seed)
    table = life.new_table(1024)
    for k in range(512):
        order_id = (rng.randint(1, 4) << 48) | (k << 8) | rng.randint(0, 7) | 1 << 62  # ids are made of epoch, seq and leg
        assert life.insert(table, order_id, 0, 1, BUY, LIMIT_ORDER, GTC, 1, 1) >= 0, k


def test_table_agrees_with_a_dict_under_random_inserts_and_removals(seed: int) -> None:
    rng = random.Random(seed)
    table, oracle = life.new_table(64), dict[int, int]()
    for _ in range(20_000):
        order_id = rng.choice([rng.randint(1, 80), rng.randint(1, 80) << 32, -rng.randint(1, 20)])
        if rng.random() < 0.5 and len(oracle) < 32:
            price = rng.randint(1, 10**6)
            at = life.insert(table, order_id, 0, 1, BUY, LIMIT_ORDER, GTC, price, 1)
            assert (at >= 0) <= (order_id not in oracle)
            if at >= 0:
                oracle[order_id] = price
        elif order_id in oracle:
            life.remove(table, life.find(table, order_id))
            del oracle[order_id]
        at = life.find(table, order_id)
        assert (int(table[at]["price_ticks"]) if at >= 0 else None) == oracle.get(order_id)
    assert {int(s["order_id"]): int(s["price_ticks"]) for s in table if s["order_id"]} == oracle
    assert np.count_nonzero(table["order_id"]) == len(oracle)
