"""ORDERS: what it takes from RISK and from nobody else, what it says when nothing can leave, and reports that cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from handlers.domain import order as life
from handlers.domain import reasons
from handlers.domain.book import new_markets
from handlers.domain.borrowed import borrow
from handlers.domain.queue import pop
from handlers.orders.brokers.paper import ARRIVALS_MAX, new_paper
from handlers.orders.stage import OUT_ROWS, new_orders, step_orders
from tests.stages import Fields, change, order, slots, stamped, terms_of
from transport.compiled import kernel
from transport.records import (
    ACCEPTED, ACK, AMEND, AMENDED, BUY, BY_EXCHANGE, BY_INGEST, BY_ORDERS, BY_RISK, BY_SIGNALS, CANCEL, CANCELLED, COMMAND, END_OF_FEED,
    FEED_BASE, FILL, INTENT, NO_INSTRUMENT, ORDER, POSITION, REJECT, SELL, TIMER, empty,
)  # fmt: skip


@kernel
def _step(owned, owned_paper, markets, inputs, rows, out):
    return step_orders(borrow(owned), borrow(owned_paper), markets, inputs[0], rows, len(rows), out)


@kernel
def _next_report(queue, out):
    out[0] = queue.rows[pop(queue)]


class Office:
    """ORDERS before the paper exchange, which never answers by itself here: reports are the test's."""

    def __init__(self) -> None:
        terms = terms_of(1)
        self.orders = new_orders(2, 1, terms)
        self.paper = new_paper(1, terms, empty(2), 100, 0, 1000, 0, 1)
        self.markets, _ = new_markets([False])

    def step(self, cause: Fields, rows: list[Fields]) -> np.ndarray:
        out = empty(OUT_ROWS)
        return out[: _step(self.orders, self.paper, self.markets, slots([cause]), slots(rows), out)]

    def take(self, *rows: Fields, source: int = BY_RISK) -> np.ndarray:
        """Rows made of those that RISK wrote."""
        return self.step(stamped(TIMER, 1000, NO_INSTRUMENT), [{**row, "source_id": source} for row in rows])

    def report(self, kind: int, qty: int, leaves: int, action: int = 0, order_id: int = 1, **fields: Any) -> np.ndarray:
        about = {"qty_lots": qty, "leaves_lots": leaves, "action": action, "order_id": order_id, "side": BUY, "strategy_id": 1, "cash": -qty}
        return self.step(stamped(kind, 2000, source_id=BY_EXCHANGE, **{**about, **fields}), [])

    def answer(self) -> np.ndarray:
        """The report on its way back that is due first, as INGEST will hand it on."""
        out = empty(1)
        _next_report(self.paper.reports, out)
        return out

    def state_of(self, order_id: int = 1) -> str:
        return life.STATES[self.orders.table[life.find(self.orders.table, order_id)]["state"]]


def told(rows: np.ndarray) -> list[tuple[int, int]]:
    return [(int(r["kind"]), int(r["reason"])) for r in rows]


# --- only RISK makes an order ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("source", [0, BY_INGEST, BY_SIGNALS, BY_ORDERS, BY_EXCHANGE, FEED_BASE])
@pytest.mark.parametrize("kind", [ORDER, CANCEL, AMEND])
def test_refuses_what_does_not_come_from_risk_and_sends_nothing(kind: int, source: int) -> None:
    office = Office()
    assert told(office.take(order(1, BUY, 5, 1000, 99))) == [(ORDER, 0)]
    forged = order(2, BUY, 5, 1000, 99) if kind == ORDER else change(kind, 1, 1000, BUY, 99, 7)
    rows = office.take(forged, source=source)
    assert told(rows) == [(REJECT, reasons.FORGED_KIND)]
    assert rows[0]["source_id"] == BY_ORDERS
    assert office.paper.arrivals.head[0]["count"] == np.count_nonzero(office.orders.table["order_id"]) == 1
    assert office.state_of() == "SUBMITTED"


def test_forged_cancel_of_everything_withdraws_nothing() -> None:
    office = Office()
    office.take(order(1, BUY, 5, 1000, 99))
    assert told(office.take(change(CANCEL, 0, 1000), source=BY_SIGNALS)) == [(REJECT, reasons.FORGED_KIND)]
    assert office.state_of() == "SUBMITTED"


def test_intent_is_not_an_order_though_risk_hands_it_on() -> None:
    office = Office()
    assert not len(office.take({**order(1, BUY, 5, 1000, 99), "kind": INTENT}))
    assert office.paper.arrivals.head[0]["count"] == 0


# --- what cannot leave ----------------------------------------------------------------------------------------------------
def crowded() -> Office:
    """One order open, and as many requests on their way as may be."""
    office = Office()
    office.take(order(1, BUY, 5, 1000, 99))
    office.report(ACK, 5, 5, ACCEPTED)
    for first in range(2, ARRIVALS_MAX + 1, 512):
        office.take(*[order(n, BUY, 5, 1000, 99) for n in range(first, min(first + 512, ARRIVALS_MAX + 1))])
    assert office.paper.arrivals.head[0]["count"] == ARRIVALS_MAX
    return office


def test_order_that_cannot_leave_is_refused_here_and_by_a_report_with_all_its_lots() -> None:
    office = crowded()
    assert told(office.take(order(9999, BUY, 5, 1000, 99))) == [(REJECT, reasons.TABLE_FULL)]
    report = office.answer()[0]
    assert (report["kind"], report["action"], report["order_id"], report["leaves_lots"]) == (REJECT, 0, 9999, 5)
    assert life.find(office.orders.table, 9999) < 0


@pytest.mark.parametrize(("kind", "pending"), [(CANCEL, "PENDING_CANCEL"), (AMEND, "PENDING_AMEND")])
def test_change_that_cannot_leave_is_refused_here_and_by_a_report_that_ends_it(kind: int, pending: str) -> None:
    office = crowded()
    rows = office.take(change(kind, 1, 1000, BUY, 99, 7))
    assert told(rows) == [(REJECT, reasons.TABLE_FULL)]
    assert (rows[0]["action"], office.state_of()) == (kind, pending)
    report = office.answer()
    assert [int(report[0][n]) for n in ("kind", "action", "order_id", "leaves_lots")] == [REJECT, kind, 1, 0]
    office.step({name: report[0][name] for name in report.dtype.names}, [])
    assert office.state_of() == "ACCEPTED"


def test_cancel_of_everything_that_cannot_leave_is_reported_for_each_order() -> None:
    office = crowded()
    rows = office.take(change(CANCEL, 0, 1000))
    assert set(told(rows)) == {(REJECT, reasons.TABLE_FULL)}
    assert len(rows) == office.paper.reports.head[0]["count"] == ARRIVALS_MAX


# --- reports that cannot be, or come late ---------------------------------------------------------------------------------
def test_fill_of_more_than_the_order_has_is_told_and_its_money_counts() -> None:
    office = Office()
    office.take(order(1, BUY, 5, 1000, 99))
    assert told(office.report(FILL, 6, 0)) == [(REJECT, reasons.OVERFILL), (POSITION, 0)]
    assert office.orders.positions[0]["lots"] == 6
    assert office.orders.line[0]["invalid"] == 1


def test_report_that_cannot_be_in_the_orders_state_is_told_and_changes_nothing() -> None:
    office = Office()
    office.take(order(1, BUY, 5, 1000, 99))
    assert told(office.report(REJECT, 5, 0, CANCEL)) == [(REJECT, reasons.INVALID_TRANSITION)]
    assert office.state_of() == "SUBMITTED"


def test_fill_after_the_orders_end_counts_and_its_position_says_that_it_was_late() -> None:
    office = Office()
    office.take(order(1, BUY, 5, 1000, 99))
    assert told(office.report(FILL, 2, 3)) == [(POSITION, 0)]
    assert told(office.report(ACK, 5, 3, CANCELLED)) == []
    assert told(office.report(FILL, 3, 0)) == [(POSITION, reasons.LATE_FILL)]
    assert (office.orders.positions[0]["lots"], office.orders.line[0]["late"]) == (5, 1)


def test_cash_is_realised_less_cost_after_fills_on_both_sides_of_zero() -> None:
    office = Office()
    for number, (side, cash) in enumerate(((SELL, -20), (BUY, -80), (BUY, 30), (SELL, -5)), start=1):
        office.take(order(number, side, 10, 1000))
        office.report(FILL, 10, 0, order_id=number, side=side, cash=cash)
        account = office.orders.positions[0]
        assert account["realised"] - account["cost"] == office.orders.line[0]["cash"]
    assert (account["lots"], account["cost"], account["realised"]) == (0, 0, -75)


@pytest.mark.parametrize("mid", [7, -7])
def test_a_position_is_marked_on_either_side_of_zero(mid: int) -> None:
    office = Office()
    office.take(order(1, BUY, 10, 1000))
    office.report(FILL, 10, 0, cash=-30_000)  # 3 ticks: a tick times a lot is 1,000 money units
    market = office.markets[0]
    market["bid_ticks"] = market["ask_ticks"] = 0
    market["trade_ticks"] = mid
    for kind, fields in ((TIMER, {}), (COMMAND, {"action": END_OF_FEED})):
        rows = office.step(stamped(kind, 3000, NO_INSTRUMENT, **fields), [])
        assert rows["unrealised"].tolist() == [10_000 * mid - 30_000]
    fee = 10_000 * 7 * 5 // 10_000
    assert rows["if_flattened"].tolist() == [10_000 * mid - 30_000 - fee]


def test_ack_of_an_amend_that_nobody_asked_for_is_ignored() -> None:
    office = Office()
    office.take(order(1, BUY, 5, 1000, 99))
    office.report(ACK, 5, 5, ACCEPTED)
    assert not len(office.report(ACK, 5, 9, AMENDED))
    assert office.orders.table[life.find(office.orders.table, 1)]["leaves_lots"] == 5
    assert office.orders.line[0]["duplicate"] == 1
