"""Every (state, event) pair against a table written by hand from what states and events mean, and the kernel against it.

A venue reports late, twice and out of order. So a pair is asked: may the order's history, told in another order, lead here? If so
the event is applied, or says nothing new; it cannot be only where the venue would contradict itself or answer what was not asked.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from handlers.domain import order as life
from transport.records import BUY, GTC, LIMIT_ORDER

Cells = dict[tuple[str, str], tuple[str, str]]  # (state, event) -> (state after it, disposition)
# A row a state: what is applied, each with the state it leads to; what says nothing new; fills after the end; what cannot be.
EXPECTED: dict[str, tuple[dict[str, str], str, str, str]] = {
    "INITIALISED": (  # ours alone yet: nothing that a venue says can be about it, and there is nothing to cancel or amend
        {"SUBMIT": "SUBMITTED", "DENY": "DENIED"},
        "",
        "",
        "ACCEPT REJECT PARTIAL_FILL FILL CANCEL_REQUEST CANCEL_ACK CANCEL_REJECT AMEND_REQUEST AMEND_ACK AMEND_REJECT EXPIRE",
    ),
    "DENIED": (  # never to be sent; a fill under its id is money moved all the same, and money is never left uncounted
        {},
        "DENY",
        "PARTIAL_FILL FILL",
        "SUBMIT ACCEPT REJECT CANCEL_REQUEST CANCEL_ACK CANCEL_REJECT AMEND_REQUEST AMEND_ACK AMEND_REJECT EXPIRE",
    ),
    "SUBMITTED": (  # unanswered: it may be sent again; fills and ends may overtake the acknowledgement; nothing else was asked
        {
            "ACCEPT": "ACCEPTED", "REJECT": "REJECTED", "PARTIAL_FILL": "PARTIALLY_FILLED", "FILL": "FILLED",
            "CANCEL_REQUEST": "PENDING_CANCEL", "CANCEL_ACK": "CANCELLED", "AMEND_REQUEST": "PENDING_AMEND", "EXPIRE": "EXPIRED",
        },
        "SUBMIT",
        "",
        "DENY CANCEL_REJECT AMEND_ACK AMEND_REJECT",
    ),
    "ACCEPTED": (  # a venue may take an order in and refuse it at the book; refusals of requests come twice; an amend was on its way
        {
            "REJECT": "REJECTED", "PARTIAL_FILL": "PARTIALLY_FILLED", "FILL": "FILLED", "CANCEL_REQUEST": "PENDING_CANCEL",
            "CANCEL_ACK": "CANCELLED", "AMEND_REQUEST": "PENDING_AMEND", "AMEND_ACK": "ACCEPTED", "EXPIRE": "EXPIRED",
        },
        "ACCEPT CANCEL_REJECT AMEND_REJECT",
        "",
        "SUBMIT DENY",
    ),
    "PARTIALLY_FILLED": (  # as ACCEPTED, but what has traded was not refused
        {
            "PARTIAL_FILL": "PARTIALLY_FILLED", "FILL": "FILLED", "CANCEL_REQUEST": "PENDING_CANCEL", "CANCEL_ACK": "CANCELLED",
            "AMEND_REQUEST": "PENDING_AMEND", "AMEND_ACK": "PARTIALLY_FILLED", "EXPIRE": "EXPIRED",
        },
        "ACCEPT CANCEL_REJECT AMEND_REJECT",
        "",
        "SUBMIT DENY REJECT",
    ),
    "FILLED": (  # whole: a second last fill is the same one, a part is an earlier one told late; other ends and refusals came too late
        {},
        "ACCEPT FILL CANCEL_ACK CANCEL_REJECT AMEND_ACK AMEND_REJECT EXPIRE",
        "PARTIAL_FILL",
        "SUBMIT DENY REJECT CANCEL_REQUEST AMEND_REQUEST",
    ),
    "PENDING_CANCEL": (  # open until the venue says: it may still be accepted, refused, filled; a halt asks again; no amend now
        {
            "ACCEPT": "PENDING_CANCEL", "REJECT": "REJECTED", "PARTIAL_FILL": "PENDING_CANCEL", "FILL": "FILLED",
            "CANCEL_ACK": "CANCELLED", "CANCEL_REJECT": "ACCEPTED", "AMEND_ACK": "PENDING_CANCEL", "AMEND_REJECT": "PENDING_CANCEL",
            "EXPIRE": "EXPIRED",
        },
        "CANCEL_REQUEST",
        "",
        "SUBMIT DENY AMEND_REQUEST",
    ),
    "PENDING_AMEND": (  # as above; a second amend may ask for something else, so it is refused and not taken for the first
        {
            "ACCEPT": "PENDING_AMEND", "REJECT": "REJECTED", "PARTIAL_FILL": "PENDING_AMEND", "FILL": "FILLED",
            "CANCEL_REQUEST": "PENDING_CANCEL", "CANCEL_ACK": "CANCELLED", "AMEND_ACK": "ACCEPTED", "AMEND_REJECT": "ACCEPTED",
            "EXPIRE": "EXPIRED",
        },
        "CANCEL_REJECT",
        "",
        "SUBMIT DENY AMEND_REQUEST",
    ),
    "CANCELLED": (  # it stood once, so it was not refused; whatever else the venue says of its life or its end is old
        {},
        "ACCEPT CANCEL_ACK CANCEL_REJECT AMEND_ACK AMEND_REJECT EXPIRE",
        "PARTIAL_FILL FILL",
        "SUBMIT DENY REJECT CANCEL_REQUEST AMEND_REQUEST",
    ),
    "REJECTED": (  # taken in and refused at the book, the acknowledgements may come after it
        {},
        "ACCEPT REJECT CANCEL_ACK CANCEL_REJECT AMEND_ACK AMEND_REJECT EXPIRE",
        "PARTIAL_FILL FILL",
        "SUBMIT DENY CANCEL_REQUEST AMEND_REQUEST",
    ),
    "EXPIRED": (  # as CANCELLED
        {},
        "ACCEPT CANCEL_ACK CANCEL_REJECT AMEND_ACK AMEND_REJECT EXPIRE",
        "PARTIAL_FILL FILL",
        "SUBMIT DENY REJECT CANCEL_REQUEST AMEND_REQUEST",
    ),
}  # fmt: skip


def by_hand() -> Cells:
    """The expected table cell by cell; what is not applied leaves the state."""
    cells: Cells = {}
    for state, (applied, nothing_new, late, cannot_be) in EXPECTED.items():
        cells |= {(state, event): (target, "APPLY") for event, target in applied.items()}
        for events, what in ((nothing_new, "DUPLICATE"), (late, "LATE"), (cannot_be, "INVALID")):
            cells |= {(state, event): (state, what) for event in events.split()}
    return cells


def cells_of(following: np.ndarray, disposition: np.ndarray) -> Cells:
    """The engine's table, or a changed copy of it, cell by cell."""
    pairs = product(enumerate(life.STATES), enumerate(life.EVENTS))
    return {(state, event): (life.STATES[following[s, e]], life.DISPOSITIONS[disposition[s, e]])
            for (s, state), (e, event) in pairs}  # fmt: skip


def differing(found: Cells) -> set[tuple[str, str]]:
    wanted = by_hand()
    return {cell for cell in wanted.keys() | found.keys() if wanted.get(cell) != found.get(cell)}


def test_the_expected_table_decides_every_pair_once() -> None:
    assert tuple(EXPECTED) == life.STATES
    for state, (applied, *others) in EXPECTED.items():
        named = [*applied, *(event for events in others for event in events.split())]
        assert sorted(named) == sorted(life.EVENTS), state


def test_every_cell_is_what_its_state_and_event_mean() -> None:
    found, wanted = cells_of(life.NEXT, life.DISPOSITION), by_hand()
    assert not differing(found), {cell: (found[cell], wanted[cell]) for cell in differing(found)}


def test_no_cell_can_be_changed_unseen() -> None:
    for s, e in product(range(len(life.STATES)), range(len(life.EVENTS))):
        cell = {(life.STATES[s], life.EVENTS[e])}
        for table, values in ((life.NEXT, len(life.STATES)), (life.DISPOSITION, len(life.DISPOSITIONS))):
            for value in set(range(values)) - {int(table[s, e])}:
                changed = table.copy()
                changed[s, e] = value
                tables = (changed, life.DISPOSITION) if table is life.NEXT else (life.NEXT, changed)
                assert differing(cells_of(*tables)) == cell, (cell, value)


@pytest.mark.parametrize("filled", [0, 4])
def test_the_kernel_moves_an_order_as_the_table_says(filled: int) -> None:
    """Where the table says ACCEPTED, an order of which lots are filled becomes PARTIALLY_FILLED."""
    table = life.new_table(8)
    slot = table[life.insert(table, 1, 3, 2, BUY, LIMIT_ORDER, GTC, 100, 10)]
    for (state, event), (target, what) in by_hand().items():
        slot["state"], slot["filled_lots"] = life.STATES.index(state), filled
        disposition = life.DISPOSITIONS[life.transition(slot, life.EVENTS.index(event))]
        true = "PARTIALLY_FILLED" if filled and target == "ACCEPTED" else target
        assert (life.STATES[slot["state"]], disposition) == (true, what), (state, event)
