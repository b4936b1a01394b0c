"""The life of an order: one table of states and events, and the fixed-capacity table of open orders.

A report may come late, twice or out of order: that is normal. For every (state, event) the table says the next state and what
to make of the event. APPLY: as expected. DUPLICATE: says nothing new, counted, ignored. LATE: the order had ended as far as we
knew, but the fill happened, so the quantities are kept and the state too. INVALID: cannot be, counted and logged as a reject.

ACCEPTED and PARTIALLY_FILLED differ only in whether lots are filled: where the table says `acc`, `transition` enters the one that
is true. An order may be cancelled before the venue has acknowledged it, so that a halt never has to wait.
"""

from __future__ import annotations

import numpy as np

from transport.compiled import kernel
from transport.records import ACCEPTED, ACK, AMEND, AMENDED, CANCEL, CANCELLED, FILL, REJECT

TABLE_SLOTS = 8192  # of the tables that RISK and ORDERS keep; room for half as many open orders is certain
STATES = (
    "INITIALISED", "DENIED", "SUBMITTED", "ACCEPTED", "PARTIALLY_FILLED", "FILLED", "PENDING_CANCEL", "PENDING_AMEND",
    "CANCELLED", "REJECTED", "EXPIRED",
)  # fmt: skip
(
    INITIALISED, DENIED, SUBMITTED, ACCEPTED_STATE, PARTIALLY_FILLED, FILLED, PENDING_CANCEL, PENDING_AMEND, CANCELLED_STATE,
    REJECTED_STATE, EXPIRED_STATE,
) = range(len(STATES))  # fmt: skip
EVENTS = (
    "SUBMIT", "DENY", "ACCEPT", "REJECT", "PARTIAL_FILL", "FILL", "CANCEL_REQUEST", "CANCEL_ACK", "CANCEL_REJECT",
    "AMEND_REQUEST", "AMEND_ACK", "AMEND_REJECT", "EXPIRE",
)  # fmt: skip
(
    SUBMIT, DENY, ACCEPT, REJECT_NEW, PARTIAL_FILL, FILL_WHOLE, CANCEL_REQUEST, CANCEL_ACK, CANCEL_REJECT, AMEND_REQUEST,
    AMEND_ACK, AMEND_REJECT, EXPIRE,
) = range(len(EVENTS))  # fmt: skip
APPLY, DUPLICATE, LATE, INVALID = range(4)
DISPOSITIONS = ("APPLY", "DUPLICATE", "LATE", "INVALID")
TERMINAL = (DENIED, FILLED, CANCELLED_STATE, REJECTED_STATE, EXPIRED_STATE)

# A row a state, a column an event. A name is APPLY to that state (abbreviated), `=` DUPLICATE, `~` LATE, `!` INVALID,
# `.` APPLY without a change of state. An AMEND_ACK carries the venue's numbers and is applied in every acknowledged open state:
# the cancel that overtook the amend may have been refused meanwhile.
_ABBREVIATED = {
    "den": DENIED, "sub": SUBMITTED, "acc": ACCEPTED_STATE, "par": PARTIALLY_FILLED, "fil": FILLED, "pca": PENDING_CANCEL,
    "pam": PENDING_AMEND, "can": CANCELLED_STATE, "rej": REJECTED_STATE, "exp": EXPIRED_STATE,
}  # fmt: skip
_TABLE = """
                  SUBMIT DENY ACCEPT REJECT PARTIAL FILL CANREQ CANACK CANREJ AMEREQ AMEACK AMEREJ EXPIRE
INITIALISED       sub    den  !      !      !       !    !      !      !      !      !      !      !
DENIED            !      =    !      !      ~       ~    !      !      !      !      !      !      !
SUBMITTED         =      !    acc    rej    par     fil  pca    can    !      pam    !      !      exp
ACCEPTED          !      !    =      rej    par     fil  pca    can    =      pam    .      =      exp
PARTIALLY_FILLED  !      !    =      !      .       fil  pca    can    =      pam    .      =      exp
FILLED            !      !    =      !      ~       =    !      =      =      !      =      =      =
PENDING_CANCEL    !      !    .      rej    .       fil  =      can    acc    !      .      .      exp
PENDING_AMEND     !      !    .      rej    .       fil  pca    can    =      !      acc    acc    exp
CANCELLED         !      !    =      !      ~       ~    !      =      =      !      =      =      =
REJECTED          !      !    =      =      ~       ~    !      =      =      !      =      =      =
EXPIRED           !      !    =      !      ~       ~    !      =      =      !      =      =      =
"""


def _build() -> tuple[np.ndarray, np.ndarray]:
    following = np.zeros((len(STATES), len(EVENTS)), np.uint8)
    disposition = np.zeros((len(STATES), len(EVENTS)), np.uint8)
    lines = [line.split() for line in _TABLE.strip().splitlines()[1:]]
    for state, (name, *cells) in enumerate(lines):
        assert name == STATES[state], name
        assert len(cells) == len(EVENTS), name
        for event, cell in enumerate(cells):
            following[state, event] = _ABBREVIATED.get(cell, state)
            disposition[state, event] = {"=": DUPLICATE, "~": LATE, "!": INVALID}.get(cell, APPLY)
    return following, disposition


NEXT, DISPOSITION = _build()
ORDER_SLOT = np.dtype(
    [
        ("order_id", "i8"),  # 0 marks a free slot
        ("price_ticks", "i8"), ("qty_lots", "i8"), ("filled_lots", "i8"), ("leaves_lots", "i8"),
        ("wanted_lots", "i8"),  # quantity that the amend on its way asks for; 0 when none is
        ("instrument_id", "u4"), ("strategy_id", "u4"),
        ("side", "u1"), ("state", "u1"), ("order_type", "u1"), ("tif", "u1"), ("unused", "u1", (4,)),
    ]
)  # fmt: skip
_GOLDEN = 0x9E3779B97F4A7C15


def diagram() -> str:
    """The applied transitions as a mermaid state diagram, one arrow a pair of states; what leaves the state is left out."""
    out = ["stateDiagram-v2", "    [*] --> INITIALISED"]
    for s, state in enumerate(STATES):
        for target, name in enumerate(STATES):
            events = [EVENTS[e] for e in range(len(EVENTS)) if s != target == NEXT[s, e] and DISPOSITION[s, e] == APPLY]
            if events:
                out.append(f"    {state} --> {name}: {', '.join(events)}")
    return "\n".join([*out, *(f"    {STATES[t]} --> [*]" for t in TERMINAL)])


def new_table(slots: int) -> np.ndarray:
    """An empty table, sized to hold slots // 2 open orders with short probes; raises ValueError unless a power of two >= 8."""
    if slots < 8 or slots & (slots - 1):
        raise ValueError(f"{slots} slots is not a power of two of at least 8")
    return np.zeros(slots, ORDER_SLOT)


@kernel(inline=True)
def _home(table, order_id):
    return np.int64((np.uint64(order_id) * np.uint64(_GOLDEN)) >> np.uint64(32)) & (len(table) - 1)


@kernel
def find(table, order_id):
    """Index of an open order, or -1."""
    i = _home(table, order_id)
    for _ in range(len(table)):
        if table[i].order_id == order_id:
            return i if order_id != 0 else -1
        if table[i].order_id == 0:
            return -1
        i = (i + 1) & (len(table) - 1)
    return -1


@kernel
def insert(table, order_id, instrument_id, strategy_id, side, order_type, tif, price_ticks, qty_lots):
    """Index of the new entry, INITIALISED; -1 when its id is 0 or taken, or no slot is free within an eighth of the table."""
    if order_id == 0:
        return -1
    i = _home(table, order_id)
    for _ in range(len(table) >> 3):
        slot = table[i]
        if slot.order_id == order_id:
            return -1
        if slot.order_id == 0:
            slot.order_id, slot.instrument_id, slot.strategy_id = order_id, instrument_id, strategy_id
            slot.side, slot.order_type, slot.tif = side, order_type, tif
            slot.price_ticks, slot.qty_lots, slot.leaves_lots = price_ticks, qty_lots, qty_lots
            slot.filled_lots = slot.wanted_lots = 0
            slot.state = INITIALISED
            return i
        i = (i + 1) & (len(table) - 1)
    return -1


@kernel
def remove(table, hole):
    """Free an entry, moving back what probed past it: indices of other orders may change, look them up again."""
    mask = len(table) - 1
    i = hole
    for _ in range(mask):  # once around, should every slot be taken
        i = (i + 1) & mask
        if table[i].order_id == 0:
            break
        if ((i - _home(table, table[i].order_id)) & mask) >= ((i - hole) & mask):
            table[hole] = table[i]
            hole = i
    free = table[hole]
    free.order_id = free.price_ticks = free.qty_lots = free.filled_lots = free.leaves_lots = free.wanted_lots = 0
    free.instrument_id = free.strategy_id = 0
    free.side = free.state = free.order_type = free.tif = 0


@kernel(inline=True)
def is_terminal(state):
    """No event but a late fill can follow."""
    return state == DENIED or state == FILLED or state == CANCELLED_STATE or state == REJECTED_STATE or state == EXPIRED_STATE


@kernel(inline=True)
def transition(slot, event):
    """Move an order by one event as the table says; returns the disposition."""
    state = slot.state
    following = NEXT[state, event]
    if following == ACCEPTED_STATE and slot.filled_lots > 0:
        following = PARTIALLY_FILLED
    slot.state = following
    return DISPOSITION[state, event]


@kernel(inline=True)
def exposed_lots(slot):
    """Lots of an open order that may still fill; while an amend is on its way, the larger of before and after it."""
    return max(slot.qty_lots, slot.wanted_lots) - slot.filled_lots


@kernel(inline=True)
def may_amend(slot):
    """One change at a time: neither an amend nor a cancel of the order is on its way."""
    return slot.wanted_lots == 0 and DISPOSITION[slot.state, AMEND_REQUEST] == APPLY


@kernel
def request_amend(slot, qty_lots):
    """An amend to `qty_lots` > 0 as a whole leaves; returns the disposition, INVALID where `may_amend` says no."""
    if not may_amend(slot):
        return INVALID
    slot.wanted_lots = qty_lots
    return np.int64(transition(slot, AMEND_REQUEST))


@kernel
def fold_fill(slot, qty_lots, leaves_lots):
    """Fold a fill of `qty_lots`, after which the venue has `leaves_lots` open; returns the disposition.

    INVALID, nothing changed, without lots or with more than can be unfilled. What is left is counted here, not taken from the
    venue, since two fills may arrive in the wrong order, or one before the amend that made room for it; the order is FILLED
    when either count says so.
    """
    if qty_lots <= 0 or qty_lots > exposed_lots(slot):
        return INVALID
    disposition = transition(slot, FILL_WHOLE if leaves_lots == 0 else PARTIAL_FILL)
    if disposition == APPLY or disposition == LATE:
        slot.filled_lots += qty_lots
        if disposition == APPLY and exposed_lots(slot) == 0:
            slot.state = FILLED
        slot.leaves_lots = 0 if is_terminal(slot.state) else max(0, slot.qty_lots - slot.filled_lots)
    return np.int64(disposition)


@kernel
def fold_amend(slot, price_ticks, before_lots, leaves_lots):
    """Fold an AMEND_ACK: a new price, and `leaves_lots` open where the venue had `before_lots`; returns the disposition.

    The difference counts, not the number: a fill that the venue made before the amend may be told after it. DUPLICATE when no
    amend is on its way. An order amended down to what is filled already has nothing left to do: it is FILLED.
    """
    if slot.wanted_lots == 0:
        return DUPLICATE
    qty = slot.qty_lots + leaves_lots - before_lots
    if leaves_lots < 0 or qty < slot.filled_lots:
        return INVALID
    disposition = transition(slot, AMEND_ACK)
    if disposition == APPLY:
        slot.price_ticks, slot.qty_lots, slot.wanted_lots = price_ticks, qty, 0
        slot.leaves_lots = qty - slot.filled_lots
        if slot.leaves_lots == 0:
            slot.state = FILLED
    return np.int64(disposition)


@kernel
def event_of(r):
    """Which event of the order's life a report is."""
    if r.kind == FILL:
        return FILL_WHOLE if r.leaves_lots == 0 else PARTIAL_FILL
    if r.kind == REJECT:
        if r.action == CANCEL:
            return CANCEL_REJECT
        return AMEND_REJECT if r.action == AMEND else REJECT_NEW
    if r.action == ACCEPTED:
        return ACCEPT
    if r.action == CANCELLED:
        return CANCEL_ACK
    return AMEND_ACK if r.action == AMENDED else EXPIRE


@kernel
def fold_report(slot, r):
    """Fold an ACK, REJECT or FILL into its order; returns the disposition. RISK and ORDERS both do, so their tables agree."""
    if r.kind == FILL:
        return fold_fill(slot, r.qty_lots, r.leaves_lots)
    if r.kind == ACK and r.action == AMENDED:
        return fold_amend(slot, r.price_ticks, r.qty_lots, r.leaves_lots)
    event = event_of(r)
    disposition = np.int64(transition(slot, event))
    if event == AMEND_REJECT and slot.wanted_lots != 0:
        slot.wanted_lots = 0
        return APPLY  # also when a refused cancel has made the order ACCEPTED in between
    return disposition
