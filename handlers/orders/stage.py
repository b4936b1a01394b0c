"""ORDERS: keeps the life of every order, sends what RISK made, and accounts for what comes back.

    RISK ── ORDER, CANCEL, AMEND ──► order table ──► broker        rows: what was sent, refused, and each position after a fill
    INPUT ── ACK, REJECT, FILL ────► order table ──► positions     and, at each timer and the end, every position marked to mid
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from handlers.domain import order as life
from handlers.domain import reasons
from handlers.domain.book import NO_LEVEL, level_at, level_key, mid_twice, next_level, two_sided
from handlers.domain.memory import copy_slot, zero_slot
from handlers.domain.position import POSITION_STATE, apply_fill_row, fee_of, notional_money, unrealised
from handlers.domain.rows import stamp
from handlers.orders.brokers.paper import report, submit
from transport.compiled import kernel
from transport.records import (
    ACK, AFTER_FILL, AMEND, ASK, AT_END, BID, BY_ORDERS, BY_RISK, CANCEL, COMMAND, END_OF_FEED, FILL, MARKED, ORDER,
    POSITION, REJECT, SET_CASH, SET_POSITION, TIMER,
)  # fmt: skip

OUT_ROWS = 9500  # of one input: a cancel an open order, or a mark an account
ORDERS_STATE = np.dtype([("cash", "i8"), ("sent", "i8"), ("invalid", "i8"), ("late", "i8"), ("duplicate", "i8")])


class OrdersState(NamedTuple):
    """One ORDERS_STATE, the table of open orders, an account per (strategy, instrument) as in RISK, and a slot to write in."""

    line: np.ndarray
    table: np.ndarray
    positions: np.ndarray
    terms: np.ndarray


def new_orders(strategies: int, instruments: int, terms: np.ndarray) -> OrdersState:
    """Room for every account of the line."""
    accounts = max(1, strategies) * max(1, instruments)
    return OrdersState(np.zeros(1, ORDERS_STATE), life.new_table(life.TABLE_SLOTS), np.zeros(accounts, POSITION_STATE), terms)


@kernel(inline=True)
def concerns_orders(kind):
    """Inputs that ORDERS does something about without a row of RISK."""
    return kind == ACK or kind == REJECT or kind == FILL or kind == TIMER or kind == COMMAND


@kernel
def account_of(state, strategy_id, instrument_id):
    """Index of an account, or -1 when there is none."""
    instruments = len(state.terms)
    at = (np.int64(strategy_id) - 1) * instruments + np.int64(instrument_id)
    return at if strategy_id >= 1 and instrument_id < instruments and at < len(state.positions) else -1


@kernel
def copy_row(source, cause, out, n):
    """Row `n` is a copy of `source`, stamped as ours."""
    copy_slot(out[n], source)
    stamp(out[n], cause, BY_ORDERS, n)
    out[n].instrument_id = source.instrument_id
    return n + 1


@kernel
def refuse(paper, cause, row, out, n, reason):
    """An order that cannot be sent: say so here, and to the whole line by a report."""
    n = copy_row(row, cause, out, n)
    out[n - 1].kind = REJECT
    out[n - 1].reason = reason
    report(paper, row, REJECT, cause.ts_seq_ns, 0, reason, row.price_ticks, row.qty_lots, row.leaves_lots)
    return n


@kernel
def send_order(state, paper, cause, row, out, n):
    """Enter an ORDER in the table and send it."""
    at = life.insert(
        state.table, row.order_id, row.instrument_id, row.strategy_id, row.side, row.order_type, row.tif, row.price_ticks,
        row.qty_lots,
    )  # fmt: skip
    if at < 0:
        return refuse(paper, cause, row, out, n, reasons.TABLE_FULL)
    life.transition(state.table[at], life.SUBMIT)
    if not submit(paper, row):
        life.remove(state.table, at)
        return refuse(paper, cause, row, out, n, reasons.TABLE_FULL)
    state.line[0].sent += 1
    return copy_row(row, cause, out, n)


@kernel
def send_change(state, paper, cause, row, out, n):
    """Send a CANCEL or AMEND of one open order of the strategy that asks."""
    at = life.find(state.table, row.order_id)
    if at < 0 or state.table[at].strategy_id != row.strategy_id:
        n = copy_row(row, cause, out, n)
        out[n - 1].kind = REJECT
        out[n - 1].action = row.kind
        out[n - 1].reason = reasons.UNKNOWN_ORDER
        return n
    slot = state.table[at]
    if row.kind == CANCEL:
        asked = np.int64(life.transition(slot, life.CANCEL_REQUEST))
    else:
        asked = life.request_amend(slot, row.qty_lots)
    if asked != life.APPLY:
        state.line[0].duplicate += 1
        return n
    n = copy_row(row, cause, out, n)
    sent = out[n - 1]
    sent.instrument_id, sent.side = slot.instrument_id, slot.side
    if not submit(paper, sent):
        refuse_change(paper, sent)
    return n


@kernel
def refuse_change(paper, sent):
    """A CANCEL or AMEND that cannot leave: refused here and, since RISK must hear of it, by a report, which ends the request."""
    report(paper, sent, REJECT, sent.ts_seq_ns, sent.kind, reasons.TABLE_FULL, sent.price_ticks, sent.qty_lots, 0)
    sent.kind, sent.action, sent.reason = REJECT, sent.kind, reasons.TABLE_FULL


@kernel
def cancel_all(state, paper, cause, out, n):
    """A CANCEL for every open order, by order id: the table's own order depends on its history."""
    done = np.int64(-1)
    while True:
        best = np.int64(2**62)
        at = -1
        for k in range(len(state.table)):
            slot = state.table[k]
            if slot.order_id > done and slot.order_id < best and slot.order_id != 0:
                best, at = slot.order_id, k
        if at < 0:
            return n
        done = best
        slot = state.table[at]
        if life.transition(slot, life.CANCEL_REQUEST) != life.APPLY:
            continue
        row = out[n]
        zero_slot(row)
        row.kind = CANCEL
        stamp(row, cause, BY_ORDERS, n)
        row.instrument_id, row.strategy_id, row.side = slot.instrument_id, slot.strategy_id, slot.side
        row.order_id, row.qty_lots, row.leaves_lots, row.price_ticks = best, slot.qty_lots, slot.leaves_lots, slot.price_ticks
        if not submit(paper, row):
            refuse_change(paper, row)
        n += 1


@kernel
def position_row(state, account, cause, why, price, twice, out, n):
    """POSITION row `n` of an account, marked at half of `twice` ticks (0: not marked)."""
    p = state.positions[account]
    instruments = len(state.terms)
    row = out[n]
    zero_slot(row)
    row.kind = POSITION
    stamp(row, cause, BY_ORDERS, n)
    row.instrument_id = account % instruments
    row.strategy_id = account // instruments + 1
    row.action = why
    row.price_ticks = price
    row.qty_lots = p.lots
    row.realised = p.realised
    row.fee = p.fees
    row.cost = p.cost
    if twice != 0:
        terms = state.terms[account % instruments]
        row.unrealised = unrealised(p, twice, terms.num, 2 * terms.den)
    return n + 1


@kernel
def if_flattened(p, m, terms, twice):
    """Money units that closing the position now would earn after the taker's fee: it walks the book; the rest goes at the last level.

    Where there is no book to walk all goes at half of `twice` ticks, the mid it is marked at.
    """
    side = BID if p.lots > 0 else ASK
    left = abs(p.lots)
    money = np.int64(0)
    key = m.best[side - BID] if two_sided(m) else NO_LEVEL
    while left > 0 and key != NO_LEVEL:
        price = level_key(side, key)
        lots = min(left, level_at(m, side, price)[0])
        money += notional_money(price, lots, terms.num, terms.den)
        left -= lots
        twice = 2 * price
        key = next_level(m, side - BID, key)
    money += notional_money(twice, left, terms.num, 2 * terms.den)
    return (money if p.lots > 0 else -money) - p.cost - fee_of(money, terms.taker_num, terms.fee_den)


@kernel
def mark_all(state, markets, cause, why, out, n):
    """A POSITION row for every account that has traded or holds something."""
    for account in range(len(state.positions)):
        p = state.positions[account]
        if p.fills > 0 or p.lots != 0:
            twice = mid_twice(markets[account % len(state.terms)])
            n = position_row(state, account, cause, why, twice // 2, twice, out, n)
            if why == AT_END and p.lots != 0 and twice != 0:
                instrument = account % len(state.terms)
                out[n - 1].if_flattened = if_flattened(p, markets[instrument], state.terms[instrument], twice)
    return n


@kernel
def handle_report(state, markets, r, out, n):
    """Fold a report: the order's life first, then money. A fill is never lost, whatever state its order is in."""
    line = state.line[0]
    late = False
    at = life.find(state.table, r.order_id)
    if at >= 0:
        slot = state.table[at]
        disposition = life.fold_report(slot, r)
        if disposition == life.DUPLICATE:
            line.duplicate += 1
            return n
        if disposition == life.INVALID:  # told, and the money of a fill still counts
            line.invalid += 1
            n = copy_row(r, r, out, n)
            out[n - 1].kind = REJECT
            out[n - 1].reason = reasons.OVERFILL if r.kind == FILL else reasons.INVALID_TRANSITION
        if life.is_terminal(slot.state):
            life.remove(state.table, at)
    elif r.kind == FILL:
        late = True
        line.late += 1
    account = account_of(state, r.strategy_id, r.instrument_id)
    if r.kind == FILL and account >= 0:
        apply_fill_row(state.positions[account], r)
        line.cash += r.cash - r.fee
        twice = mid_twice(markets[np.int64(r.instrument_id)])
        n = position_row(state, account, r, AFTER_FILL, r.price_ticks, twice, out, n)
        out[n - 1].order_id = r.order_id
        out[n - 1].reason = reasons.LATE_FILL if late else 0
    return n


@kernel
def handle_command(state, markets, r, out):
    """Cash and positions to start from; the marks at the end."""
    if r.action == SET_CASH:
        state.line[0].cash = r.amount
    elif r.action == SET_POSITION:
        account = account_of(state, r.strategy_id, r.instrument_id)
        if account >= 0:
            state.positions[account].lots = r.qty_lots
            state.positions[account].cost = r.basis
    elif r.action == END_OF_FEED:
        return mark_all(state, markets, r, AT_END, out, 0)
    return 0


@kernel
def step_orders(state, paper, markets, r, rows, count, out):
    """Rows of one input: the report, command or timer itself, then what RISK made of the same `seq`."""
    n = 0
    if r.kind == TIMER:
        n = mark_all(state, markets, r, MARKED, out, 0)
    elif r.kind == COMMAND:
        n = handle_command(state, markets, r, out)
    elif concerns_orders(r.kind):
        n = handle_report(state, markets, r, out, n)
    for j in range(count):
        row = rows[j]
        if row.source_id != BY_RISK:
            n = copy_row(row, r, out, n)
            out[n - 1].kind, out[n - 1].reason = REJECT, reasons.FORGED_KIND
        elif row.kind == ORDER:
            n = send_order(state, paper, r, row, out, n)
        elif row.kind == CANCEL and row.order_id == 0:
            n = cancel_all(state, paper, r, out, n)
        elif row.kind == CANCEL or row.kind == AMEND:
            n = send_change(state, paper, r, row, out, n)
    return n
