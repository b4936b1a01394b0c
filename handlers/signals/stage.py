"""SIGNALS: every strategy sees the input and the feature rows of its instruments, and answers with intents and signals.

The stage keeps each strategy's own position and open orders from the reports in the input log and shows them in the view at the
head of the strategy's state. What a step may return is checked here: SIGNAL and INTENT rows, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from handlers.contract import ACCOUNT_FIELDS, CALLS_MAX, DEPTH_MAX, EVENT_ROW, FACTOR_ROW, GUARD_ROWS, INDICATOR_ROW, ROWS_MAX, VALUES_MAX, VIEW
from handlers.domain import edges, reasons
from handlers.domain.book import NO_LEVEL, best_price, level_at, next_level, two_sided
from handlers.domain.memory import RAISED, address_of, call_step, copy_line, slot_word, view_at, zero_slot
from handlers.domain.position import POSITION_STATE, apply_fill_row
from handlers.domain.rows import stamp
from handlers.domain.schema import EVENT_FEATURES_FROM, FACTORS_FROM, INDICATORS_FROM
from transport.compiled import kernel
from transport.records import (
    ACCEPTED, ACK, AMENDED, ASK, BID, BUY, BY_SIGNALS, COMMAND, FEATURE, FILL, HEADER_BYTES, INTENT, REJECT, SET_POSITION, SIGNAL,
    SLOT_BYTES, VALUES_PER_SLOT, empty,
)  # fmt: skip

VIEW_BYTES = VIEW.itemsize
LEVELS = np.dtype([("word", "i8", (4 * DEPTH_MAX,))])  # bid prices, bid lots, ask prices, ask lots, `depth` each
VALUES = np.dtype([("word", "u8", (VALUES_MAX,))])  # float64 as they stand in the slots
OUT_ROWS = 512  # intents and signals of one input
# What the stage returns instead of a row count when a step broke its contract.
STEP_RAISED, STEP_OVERRAN, STEP_ENDLESS, STAGE_FULL = -1, -2, -3, -4

SUBSCRIPTION = np.dtype(
    [
        ("step", "i8"), ("state", "i8"), ("params", "i8"),  # addresses
        ("rows_max", "i8"),
        ("depth", "i4"), ("values", "i4"),  # what it declares to see behind the view
        ("reads", "u8"),  # bit k: the step reads kind k
        ("shows", "i8"),  # levels or values behind the view, or neither
        ("unused", "i8"),
        *ACCOUNT_FIELDS,  # as the view shows them
    ]
)  # fmt: skip
ACCOUNT_AT = 64  # its place in a SUBSCRIPTION
SLOT_WORDS, VALUES_WORD = SLOT_BYTES // 8, HEADER_BYTES // 8
assert SUBSCRIPTION.itemsize == 128, "the account is the second cache line"
assert VALUES_PER_SLOT == 8, "the place of a value is computed by shifts"


class SignalsState(NamedTuple):
    """`subs` are ordered by instrument, then strategy; those of instrument i are first[i]..first[i + 1].

    `positions` runs beside `subs`; `reads` says which kinds anyone reads at all, an instrument each and last of all; `rows` is the scratch a step writes to, with guard rows behind; `failed` names the
    subscription that broke its contract.
    """

    subs: np.ndarray
    first: np.ndarray
    positions: np.ndarray
    reads: np.ndarray
    rows: np.ndarray
    failed: np.ndarray


def new_signals(subs: Sequence[tuple[Any, ...]], instruments: int) -> SignalsState:
    """`subs`: (instrument_id, strategy_id, step, state, params addresses, rows_max, depth, values, kinds read) in that order."""
    table = np.zeros(max(1, len(subs)), SUBSCRIPTION)
    first = np.zeros(instruments + 1, np.int64)
    anyone = np.zeros(instruments + 1, np.uint64)
    for row, (instrument, strategy, *declared, reads) in zip(table, sorted(subs), strict=False):
        row["instrument_id"], row["strategy_id"] = instrument, strategy
        for name, value in zip(("step", "state", "params", "rows_max", "depth", "values"), declared, strict=True):
            row[name] = value
        row["shows"] = row["depth"] | row["values"]
        row["reads"] = sum(1 << kind for kind in reads)
        first[instrument + 1 :] += 1
        anyone[[instrument, instruments]] |= row["reads"]
    return SignalsState(
        table, first, np.zeros(len(table), POSITION_STATE), anyone, empty(ROWS_MAX + GUARD_ROWS), np.full(1, -1, np.int64)
    )


@kernel
def fill_depth(sub, m):
    """Write `depth` levels a side behind the view: prices, lots, and zeros where the book has no more."""
    k = np.int64(sub.depth)
    levels = view_at(sub.state + VIEW_BYTES, LEVELS)
    for s in range(2):
        key = m.best[s] if m.valid else NO_LEVEL
        for j in range(k):
            at = 2 * s * k + j
            if key == NO_LEVEL:
                levels.word[at] = levels.word[at + k] = 0
                continue
            levels.word[at] = key if s == 0 else -key
            levels.word[at + k] = level_at(m, s + BID, levels.word[at])[0]
            key = next_level(m, s, key)


@kernel
def fill_more(sub, m, r):
    """Show what the strategy declared to see besides: levels of the book, and the values of the feature row `r`."""
    if sub.depth:
        fill_depth(sub, m)
    if r.kind == FEATURE:
        seen = view_at(sub.state + VIEW_BYTES + 32 * np.int64(sub.depth), VALUES)
        for k in range(sub.values):  # value k stands in slot k // 8, and a long row's slots follow each other
            seen.word[k] = slot_word(r, (k >> 3) * SLOT_WORDS + VALUES_WORD + (k & 7))


@kernel(inline=True)
def fill_view(sub, m, r):
    """Show the strategy its position, its open orders and the top of the book."""
    copy_line(sub.state, address_of(sub) + ACCOUNT_AT)
    v = view_at(sub.state, VIEW)
    if two_sided(m):
        v.bid_ticks, v.ask_ticks = best_price(m, BID), best_price(m, ASK)
    else:
        v.bid_ticks = v.ask_ticks = 0
    if sub.shows:
        fill_more(sub, m, r)


@kernel(inline=True)
def show_account(sub, position):
    """Bring the account that the view shows up to date."""
    sub.position_lots = position.lots
    sub.cost = position.cost
    sub.realised = position.realised
    sub.fees = position.fees


@kernel
def collect(state, k, cause, count, out, n):
    """Check and stamp the `count` rows a step wrote, append them to `out` from `n`; returns the new n or STAGE_FULL.

    A row of a kind this edge may not carry becomes a REJECT with reason FORGED_KIND: it is logged and goes no further.
    """
    sub = state.subs[k]
    for j in range(count):
        if n >= OUT_ROWS:
            return STAGE_FULL
        row = state.rows[j]
        if row.kind != INTENT and row.kind != SIGNAL:
            row.kind = REJECT
            row.reason = reasons.FORGED_KIND
        stamp(row, cause, BY_SIGNALS, n)
        row.instrument_id = sub.instrument_id
        row.strategy_id = sub.strategy_id
        out[n] = row
        n += 1
    return n


@kernel
def clear_rows(rows, rows_max):
    """Rows after the first as intents to be filled in, and the guard behind them: a step before may have had more rows."""
    for j in range(1, rows_max + GUARD_ROWS):
        zero_slot(rows[j])
        if j < rows_max:
            rows[j].kind = INTENT


@kernel(inline=True)
def ask(state, sub, m, r):
    """Let a step see the view and record `r`; what it returned."""
    rows = state.rows
    fill_view(sub, m, r)
    zero_slot(rows[0])
    rows[0].kind = INTENT
    if sub.rows_max > 1:  # of one row none can run over
        clear_rows(rows, sub.rows_max)
    return call_step(sub.step, sub.state, sub.params, address_of(r), address_of(rows[0]))


@kernel
def take_answer(state, k, m, r, cause, out, n, count):
    """Collect what subscription `k` answered, `count` not 0, and ask again while it wants that; returns n or a negative fault."""
    sub = state.subs[k]
    rows = state.rows
    for _ in range(CALLS_MAX):
        if count == RAISED:
            return STEP_RAISED
        again = count < 0
        count = abs(count)
        if count > sub.rows_max or (sub.rows_max > 1 and guard_broken(rows, sub.rows_max)):
            return STEP_OVERRAN
        n = collect(state, k, cause, count, out, n)
        if not again or n < 0:
            return n
        count = ask(state, sub, m, r)
        if count == 0:
            return n
    return STEP_ENDLESS


@kernel(inline=True)
def run_step(state, k, m, r, cause, out, n):
    """Let subscription `k` handle record `r` of input `cause` until it has no more to say; returns n or a negative fault."""
    count = ask(state, state.subs[k], m, r)
    return n if count == 0 else take_answer(state, k, m, r, cause, out, n, count)


@kernel(inline=True)
def guard_broken(rows, rows_max):
    """A slot behind the declared rows was written to: they were zero before the step."""
    for j in range(rows_max, rows_max + GUARD_ROWS):
        for word in range(SLOT_BYTES // 8):
            if slot_word(rows[j], word):
                return True
    return False


@kernel
def fold_report(state, r):
    """Keep positions and open orders of every strategy from the reports and commands in the input log."""
    i = np.int64(r.instrument_id)
    for k in range(state.first[i], state.first[i + 1]):
        sub = state.subs[k]
        if sub.strategy_id != r.strategy_id:
            continue
        position = state.positions[k]
        if r.kind == FILL:
            apply_fill_row(position, r)
            open_lots(sub, r.side, -r.qty_lots)
        elif r.kind == ACK:
            if r.action == ACCEPTED:
                open_lots(sub, r.side, r.leaves_lots)
            elif r.action == AMENDED:
                open_lots(sub, r.side, r.leaves_lots - r.qty_lots)
            else:
                open_lots(sub, r.side, -r.leaves_lots)
        elif r.kind == COMMAND and r.action == SET_POSITION:
            position.lots = r.qty_lots
            position.cost = r.basis
        show_account(sub, position)


@kernel(inline=True)
def open_lots(sub, side, lots):
    if side == BUY:
        sub.open_buy_lots += lots
    else:
        sub.open_sell_lots += lots


@kernel
def run_all(state, markets, r, here, out):
    """Let every strategy that reads the input itself handle it; a fill is shown to the strategy whose it is."""
    instruments = len(state.first) - 1
    low = state.first[here] if here < instruments else 0
    high = state.first[here + 1] if here < instruments else state.first[instruments]
    bit = np.uint64(1) << np.uint64(r.kind)
    n = 0
    for k in range(low, high):
        sub = state.subs[k]
        if sub.reads & bit and (r.kind != FILL or r.strategy_id == sub.strategy_id):
            n = run_step(state, k, markets[sub.instrument_id], r, r, out, n)
            if n < 0:
                state.failed[0] = k
                return n
    return n


@kernel
def row_bit(schema):
    """The bit of `reads` for a row of FEATURE of a schema of its own."""
    if schema >= INDICATORS_FROM:
        return np.uint64(1 << INDICATOR_ROW)
    return np.uint64(1 << EVENT_ROW) if schema >= EVENT_FEATURES_FROM else np.uint64(1 << FACTOR_ROW)


@kernel(inline=True)
def step_signals(state, markets, r, feature_rows, count, out):
    """Rows of one input: each strategy handles `r`, then each feature row, in strategy order; negative is a fault."""
    kind = r.kind
    instruments = len(state.first) - 1
    here = min(np.int64(r.instrument_id), instruments)  # timers and commands concern everyone
    if (kind == FILL or kind == ACK or kind == COMMAND) and here < instruments:
        fold_report(state, r)
    n = 0
    bit = np.uint64(1) << np.uint64(kind)
    if state.reads[here] & bit:
        n = run_all(state, markets, r, here, out)
        if n < 0:
            return n
    for j in range(count):
        row = feature_rows[j]
        fault = edges.forged(edges.FEATURES, row)
        if fault:
            return fault
        if row.part > 0:  # seen with the first slot of its row
            continue
        i = np.int64(row.instrument_id)
        bit = np.uint64(1) << np.uint64(row.kind)
        if row.kind == FEATURE and row.schema_id >= FACTORS_FROM:
            bit = row_bit(row.schema_id)
        for k in range(state.first[i], state.first[i + 1]):
            if state.subs[k].reads & bit:
                n = run_step(state, k, markets[i], row, r, out, n)
                if n < 0:
                    state.failed[0] = k
                    return n
    return n
