"""RISK: an intent in, an order or a reasoned refusal out. The only place where an order is made.

    INPUT (books, reports, commands) ─┐
    SIGNALS ── INTENT ────────────────┴──► checks, in this order ──► ORDER, CANCEL, AMEND │ REJECT with reason, limit, observed

The stage folds its own positions and open orders from the reports in the input log. What it lets pass counts at once: an order as
open from the moment it is made, an amend with the lots it adds, so that two intents of one event, or one beside an amend on its
way, cannot both pass a limit that one of them fills. The lots come back when a report says that they cannot fill any more:

    open lots of a side = sum over its open orders of max(quantity, quantity wanted by the amend on its way) - filled
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from handlers.domain import order as life
from handlers.domain import reasons
from handlers.domain.memory import zero_slot
from handlers.domain.position import POSITION_STATE, apply_fill_row
from handlers.domain.rows import stamp
from handlers.risk.checks import EXPOSURE, RISK_STATE, TOKEN, check_amend, check_order, fold_status, move_exposure
from transport.compiled import kernel
from transport.records import (
    ACK, ACTIVE, AMEND, AMEND_ORDER, BUY, BY_INGEST, BY_RISK, BY_SIGNALS, CANCEL, CANCEL_ALL, CANCEL_ORDER, COMMAND,
    END_OF_FEED, FILL, FLATTEN, HALTED, INTENT, MARKET_ORDER, NO_INSTRUMENT, ORDER, PLACE, REJECT, SELL,
    SET_POSITION, SET_STATE, SIGNAL, STATUS, TARGET, VERDICT,
)  # fmt: skip

LEG_BITS, SEQ_BITS = 12, 36  # client order id: epoch | seq | leg
OUT_ROWS = 1 << LEG_BITS  # of one input: a verdict, a cancel, a flattening order an account, a row an intent
ACCOUNTS_MAX = OUT_ROWS - 600  # strategies times instruments of a line
OPEN_LOTS = np.dtype([("buy", "i8"), ("sell", "i8")])  # of an account: made, and neither filled nor withdrawn


class RiskState(NamedTuple):
    """One RISK_STATE and LINE_LIMITS; LIMITS and EXPOSURE per instrument; an account per (strategy, instrument); open orders.

    Account of strategy s (from 1) in instrument i is `(s - 1) * instruments + i`; POSITION_STATE with its open lots beside it.
    """

    line: np.ndarray
    line_limits: np.ndarray
    limits: np.ndarray
    exposures: np.ndarray
    positions: np.ndarray
    open_lots: np.ndarray
    table: np.ndarray
    terms: np.ndarray


def new_risk(limits: np.ndarray, line_limits: np.ndarray, strategies: int, terms: np.ndarray) -> RiskState:
    """`limits` per instrument, `line_limits` of length 1; raises nothing, the values were checked with the configuration."""
    instruments = len(limits)
    line = np.zeros(1, RISK_STATE)
    line["tokens"] = line_limits["burst"] * TOKEN
    accounts = max(1, strategies) * instruments
    return RiskState(
        line, line_limits, limits, np.zeros(instruments, EXPOSURE), np.zeros(accounts, POSITION_STATE),
        np.zeros(accounts, OPEN_LOTS), life.new_table(life.TABLE_SLOTS), terms,
    )  # fmt: skip


@kernel(inline=True)
def account_of(state, strategy_id, instrument_id):
    """Index of an account, or -1 for a strategy or instrument that is not of this line."""
    instruments = len(state.limits)
    at = (np.int64(strategy_id) - 1) * instruments + np.int64(instrument_id)
    return at if strategy_id >= 1 and instrument_id < instruments and at < len(state.positions) else -1


@kernel
def add_open(state, account, instrument, side, lots):
    """Change the open lots of an account and its instrument; `side` BUY or SELL."""
    buy, sell = (lots, 0) if side == BUY else (0, lots)
    state.open_lots[account].buy += buy
    state.open_lots[account].sell += sell
    move_exposure(state.line[0], state.limits[instrument], state.exposures[instrument], 0, buy, sell)


@kernel
def fold_order(state, at, r):
    """Fold a report into the open order `at`; the lots that cannot fill any more come back, and all of them when it has ended."""
    slot = state.table[at]
    account, instrument, side = account_of(state, slot.strategy_id, slot.instrument_id), np.int64(slot.instrument_id), slot.side
    before = life.exposed_lots(slot)
    life.fold_report(slot, r)
    if life.is_terminal(slot.state):
        add_open(state, account, instrument, side, -before)
        life.remove(state.table, at)
        state.line[0].open_orders -= 1
    else:
        add_open(state, account, instrument, side, life.exposed_lots(slot) - before)


@kernel
def fold_report(state, r):
    """Fold a report into its order, if that is open, and a fill into its position, whether or not the order is."""
    at = life.find(state.table, r.order_id)
    if at >= 0:
        fold_order(state, at, r)
    account = account_of(state, r.strategy_id, r.instrument_id)
    if r.kind == FILL and account >= 0:
        i = np.int64(r.instrument_id)
        apply_fill_row(state.positions[account], r)
        move_exposure(state.line[0], state.limits[i], state.exposures[i], r.qty_lots if r.side == BUY else -r.qty_lots, 0, 0)


@kernel
def make_order(state, cause, out, n, account, strategy, instrument, side, qty, order_type, price, tif):
    """Write the ORDER row `n` and count it as open; the checks have passed. Without room for it the row is a REJECT."""
    row = out[n]
    zero_slot(row)
    row.kind = ORDER
    stamp(row, cause, BY_RISK, n)
    row.instrument_id = instrument
    row.strategy_id = strategy
    row.side = side
    row.qty_lots = row.leaves_lots = qty
    row.order_type = order_type
    row.price_ticks = price
    row.tif = tif
    row.order_id = (np.int64(cause.epoch) << (SEQ_BITS + LEG_BITS)) | (cause.seq << LEG_BITS) | np.int64(n)
    at = life.insert(state.table, row.order_id, instrument, strategy, side, order_type, tif, price, qty)
    if at < 0:
        row.kind, row.reason, row.leaves_lots = REJECT, reasons.TABLE_FULL, 0
        return n + 1
    life.transition(state.table[at], life.SUBMIT)
    add_open(state, account, instrument, side, qty)
    state.line[0].open_orders += 1
    return n + 1


@kernel
def refuse(cause, intent, out, n, reason, limit, observed):
    """Write REJECT row `n`: the intent, the reason, the limit and what was asked."""
    row = out[n]
    out[n] = intent
    row.kind = REJECT
    stamp(row, cause, BY_RISK, n)
    row.instrument_id = intent.instrument_id
    row.leaves_lots = 0
    row.reason = reason
    row.limit = limit
    row.observed = observed
    return n + 1


@kernel
def handle_intent(state, markets, cause, intent, out, n):
    """Check one intent; returns the number of rows in `out` after it."""
    if intent.kind == SIGNAL or intent.kind == REJECT:
        return n
    if intent.kind != INTENT or intent.source_id != BY_SIGNALS:
        return refuse(cause, intent, out, n, reasons.FORGED_KIND, INTENT, np.int64(intent.kind))
    account = account_of(state, intent.strategy_id, intent.instrument_id)
    if account < 0:
        return refuse(cause, intent, out, n, reasons.UNKNOWN_INSTRUMENT, 0, np.int64(intent.instrument_id))
    i = np.int64(intent.instrument_id)
    if intent.action == CANCEL_ORDER:
        return pass_cancel(state, cause, intent, out, n)
    if intent.action == AMEND_ORDER:
        return handle_amend(state, markets, cause, intent, out, n)
    side, qty = np.int64(intent.side), intent.qty_lots
    if intent.action == TARGET:
        pending = state.open_lots[account].buy - state.open_lots[account].sell
        delta = qty - state.positions[account].lots - pending
        if delta == 0:
            return n
        side, qty = (BUY, delta) if delta > 0 else (SELL, -delta)
    elif intent.action != PLACE:
        return refuse(cause, intent, out, n, reasons.UNKNOWN_INTENT, 0, np.int64(intent.action))
    order_type = np.int64(intent.order_type)
    order_type = MARKET_ORDER if order_type == 0 else order_type
    reason, limit, observed = check_order(
        state, markets, cause, i, side, qty, order_type, intent.price_ticks, np.int64(intent.tif), np.int64(intent.strategy_id)
    )
    if reason:
        return refuse(cause, intent, out, n, reason, limit, observed)
    return make_order(
        state, cause, out, n, account, intent.strategy_id, i, side, qty, order_type, intent.price_ticks, intent.tif
    )


@kernel
def change_row(cause, intent, kind, out, n):
    """Write CANCEL or AMEND row `n`: the intent, under our name."""
    row = out[n]
    out[n] = intent
    row.kind = kind
    stamp(row, cause, BY_RISK, n)
    row.instrument_id = intent.instrument_id
    row.action = 0
    return n + 1


@kernel
def pass_cancel(state, cause, intent, out, n):
    """A cancel of an order always passes; whose order it is, and whether it still is one, ORDERS says."""
    if intent.order_id == 0:
        return refuse(cause, intent, out, n, reasons.UNKNOWN_ORDER, 0, 0)
    at = life.find(state.table, intent.order_id)
    if at >= 0 and state.table[at].strategy_id == intent.strategy_id:
        life.transition(state.table[at], life.CANCEL_REQUEST)
    return change_row(cause, intent, CANCEL, out, n)


@kernel
def handle_amend(state, markets, cause, intent, out, n):
    """Check an amend of one of the strategy's open orders, in the order's own instrument and side, and count what it adds."""
    at = life.find(state.table, intent.order_id)
    if at < 0 or state.table[at].strategy_id != intent.strategy_id:
        return refuse(cause, intent, out, n, reasons.UNKNOWN_ORDER, 0, 0)
    slot = state.table[at]
    reason, limit, observed = check_amend(
        state, markets, cause, slot, intent.qty_lots, intent.price_ticks, np.int64(intent.tif)
    )
    if reason:
        return refuse(cause, intent, out, n, reason, limit, observed)
    before = life.exposed_lots(slot)
    life.request_amend(slot, intent.qty_lots)
    account, instrument = account_of(state, slot.strategy_id, slot.instrument_id), np.int64(slot.instrument_id)
    add_open(state, account, instrument, slot.side, life.exposed_lots(slot) - before)
    n = change_row(cause, intent, AMEND, out, n)
    out[n - 1].instrument_id, out[n - 1].side = slot.instrument_id, slot.side
    return n


@kernel
def cancel_everything(state, cause, out, n):
    """One CANCEL with order id 0 and no instrument: ORDERS withdraws every open order."""
    for at in range(len(state.table)):
        if state.table[at].order_id != 0:
            life.transition(state.table[at], life.CANCEL_REQUEST)
    row = out[n]
    zero_slot(row)
    row.kind = CANCEL
    stamp(row, cause, BY_RISK, n)
    row.instrument_id = NO_INSTRUMENT
    return n + 1


@kernel
def flatten(state, cause, out, n):
    """Market orders that bring every account to zero, RISK's own: no limit stands in the way of less risk."""
    instruments = len(state.limits)
    for account in range(len(state.positions)):
        lots = state.positions[account].lots
        if lots != 0 and n < len(out):
            n = make_order(
                state, cause, out, n, account, account // instruments + 1, account % instruments, SELL if lots > 0 else BUY,
                abs(lots), MARKET_ORDER, 0, 0,
            )  # fmt: skip
    return n


@kernel
def change_state(state, cause, out, n, wanted, reason):
    """Enter a trading state and say so and why; nothing when it is the present one."""
    line = state.line[0]
    if line.state == wanted:
        return n
    line.state = wanted
    row = out[n]
    zero_slot(row)
    row.kind = VERDICT
    row.state = wanted
    row.reason = reason
    stamp(row, cause, BY_RISK, n)
    return n + 1


@kernel
def handle_command(state, r, out):
    """What an operator's word does here; returns rows."""
    if r.action == SET_POSITION:
        account = account_of(state, r.strategy_id, r.instrument_id)
        if account >= 0:
            i, more = np.int64(r.instrument_id), r.qty_lots - state.positions[account].lots
            move_exposure(state.line[0], state.limits[i], state.exposures[i], more, 0, 0)
            state.positions[account].lots = r.qty_lots
            state.positions[account].cost = r.basis
        return 0
    if r.action == SET_STATE:
        if r.amount < ACTIVE or r.amount > HALTED:
            return refuse(r, r, out, 0, reasons.UNKNOWN_INTENT, HALTED, r.amount)
        n = change_state(state, r, out, 0, r.amount, reasons.OPERATOR)
        return cancel_everything(state, r, out, n) if r.amount == HALTED and n else n
    if r.action == CANCEL_ALL or r.action == FLATTEN:
        # INGEST's own is that of the end of the feeds: what a strategy asked for after it, at a timer or a fill, would stay open
        n = change_state(state, r, out, 0, HALTED, 0) if r.source_id == BY_INGEST else 0
        n = cancel_everything(state, r, out, n)
        return flatten(state, r, out, n) if r.action == FLATTEN else n
    if r.action == END_OF_FEED:
        return change_state(state, r, out, 0, HALTED, 0)
    return 0


@kernel(inline=True)
def concerns_risk(kind):
    """Inputs that RISK does something about besides folding the book."""
    return kind == FILL or kind == ACK or kind == REJECT or kind == COMMAND or kind == STATUS


@kernel
def step_risk(state, markets, r, intents, count, out):
    """Rows of one input: reports and commands first, then the intents of the same `seq` in row order."""
    n = 0
    if r.kind == COMMAND:
        n = handle_command(state, r, out)
    elif r.kind == STATUS:
        fold_status(state.exposures[np.int64(r.instrument_id)], r)
    elif concerns_risk(r.kind):
        fold_report(state, r)
    for j in range(count):
        n = handle_intent(state, markets, r, intents[j], out, n)
    return n
