"""The paper exchange: our orders against the replayed book, with price-time priority and modelled latencies.

    ORDERS ──(order_out)──► arrivals ──► match against the book as of the arrival ──► reports ──(report_back)──► INGEST

An order that leaves at t arrives at t + order_out, after every market record with ts_seq <= that time and before the next; its
reports come back report_back later. The market does not feel us: our fills take nothing out of the replayed book.
A market order, and a limit order as far as its price reaches, walks the opposite side level by level, one FILL a level (taker).
What a GTC limit order leaves rests behind the lots then displayed at its price (`ahead`); trades at that price use `ahead` up
first, and a level that shrinks below `ahead` lowers it (risk-averse: cancellations are taken from behind us). A trade through
the price, or new opposite lots at or through it, fill it at its own price (maker).

No report is ever lost: what cannot be told is not done. Of the room for reports, two are promised to every request on its way, and
REFUSALS_MAX are ORDERS' own. What is left is `spare`: without it no request leaves or is worked off, and no resting order fills.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from handlers.domain import edges, reasons
from handlers.domain.book import NO_LEVEL, level_at, level_key, next_level, two_sided
from handlers.domain.memory import zero_slot
from handlers.domain.numeric import draw
from handlers.domain.order import TABLE_SLOTS
from handlers.domain.position import fee_of, notional_money
from handlers.domain.queue import Queue, new_queue, pop, push, room
from transport.compiled import kernel
from transport.records import (
    ACCEPTED, ACK, AMEND, AMENDED, BID, BOOK_DELTA, BOOK_SNAPSHOT, BUY, BY_EXCHANGE, CANCEL, CANCELLED, EVENT_END, EXPIRED, FILL,
    FOK, GTC, LIMIT_ORDER, MAKER, MARKET_ORDER, ORDER, REJECT, SELL, TAKER, TRADE,
)  # fmt: skip

RESTING_MAX = 1024
ARRIVALS_MAX = 4096
REPORTS_MAX = 32768
REFUSALS_MAX = 2 * TABLE_SLOTS  # ORDERS may refuse a new order, or at once a cancel and an amend of one, for every open order
FILLS_MAX = 2000  # levels one order may walk; what is left then expires
WALK_MAX = FILLS_MAX + 2  # reports of one arrival: it is accepted, filled at each level, and ends
assert REFUSALS_MAX + 2 * ARRIVALS_MAX + WALK_MAX <= REPORTS_MAX, "with every request on its way there is room for a walk"

RESTING = np.dtype(
    [
        ("order_id", "i8"), ("instrument_id", "i8"), ("strategy_id", "i8"),
        ("side", "i8"), ("price_ticks", "i8"), ("qty_lots", "i8"), ("leaves_lots", "i8"),
        ("ahead_lots", "i8"),  # displayed before us at our price
        ("crossing_lots", "i8"),  # opposite lots at or through our price when last looked at
        ("tif", "i8"),
    ]
)  # fmt: skip
PAPER = np.dtype(
    [
        ("out_ns", "i8"), ("out_jitter_ns", "i8"), ("back_ns", "i8"), ("back_jitter_ns", "i8"), ("seed", "i8"),
        ("resting", "i8"), ("executions", "i8"),
        ("crowded", "i8"),  # fills of resting orders not made for want of room to tell them
    ]
)  # fmt: skip


class PaperState(NamedTuple):
    """PAPER (one), resting orders by priority (see `rest`), how many rest per instrument, and the two queues."""

    paper: np.ndarray
    resting: np.ndarray
    resting_of: np.ndarray
    arrivals: Queue
    reports: Queue
    terms: np.ndarray
    scratch: np.ndarray  # one slot a report is put together in


def new_paper(
    instruments: int, terms: np.ndarray, scratch: np.ndarray, out_ns: int, out_jitter_ns: int, back_ns: int, back_jitter_ns: int,
    seed: int,
) -> PaperState:  # fmt: skip
    """Latencies in ns, `back_ns` >= 1000; draws are keyed by (seed, seq of the cause)."""
    paper = np.zeros(1, PAPER)
    paper["out_ns"], paper["out_jitter_ns"], paper["back_ns"], paper["back_jitter_ns"] = out_ns, out_jitter_ns, back_ns, back_jitter_ns
    paper["seed"] = seed
    return PaperState(
        paper, np.zeros(RESTING_MAX, RESTING), np.zeros(max(1, instruments), np.int64), new_queue(ARRIVALS_MAX),
        new_queue(REPORTS_MAX), terms, scratch,
    )  # fmt: skip


@kernel(inline=True)
def spare(state):
    """How many reports may be made that are not promised to anyone."""
    return room(state.reports) - 2 * state.arrivals.head[0].count - REFUSALS_MAX


@kernel
def submit(state, row):
    """An ORDER, CANCEL or AMEND leaves now; False when too many are on their way, or answers (the caller refuses it)."""
    assert edges.forged(edges.BROKER, row) == 0, "the exchange was sent what it may not be sent"
    if room(state.arrivals) == 0 or spare(state) < 2:
        return False
    paper = state.paper[0]
    jitter = 0
    if paper.out_jitter_ns > 0:
        jitter = np.int64(draw(paper.seed, row.seq, row.row) % np.uint64(paper.out_jitter_ns))
    push(state.arrivals, row, row.ts_seq_ns + paper.out_ns + jitter)
    return True


@kernel
def report(state, order, kind, now_ns, action, reason, price, qty, leaves):
    """Put a report on its way; the caller has seen to it that there is room."""
    paper = state.paper[0]
    r = state.scratch[0]
    zero_slot(r)
    r.kind = kind
    r.flags = EVENT_END
    r.source_id = BY_EXCHANGE
    r.instrument_id = order.instrument_id
    r.strategy_id = order.strategy_id
    r.order_id = order.order_id
    r.side = order.side
    r.action = action
    r.reason = reason
    r.price_ticks = price
    r.qty_lots = qty
    r.leaves_lots = leaves
    r.order_type = order.order_type
    r.tif = order.tif
    r.parts = 1
    r.ts_event_ns = now_ns
    jitter = 0
    if paper.back_jitter_ns > 0:
        jitter = np.int64(draw(paper.seed, order.order_id, 1) % np.uint64(paper.back_jitter_ns))
    r.ts_recv_ns = now_ns + paper.back_ns + jitter
    if kind == FILL:
        terms = state.terms[np.int64(order.instrument_id)]
        money = notional_money(price, qty, terms.num, terms.den)
        r.cash = -money if order.side == BUY else money
        r.fee = fee_of(money, terms.maker_num if action == MAKER else terms.taker_num, terms.fee_den)
        paper.executions += 1
        r.venue_seq = paper.executions
    push(state.reports, r, r.ts_recv_ns)


@kernel
def crossing_lots(m, side, price):
    """Opposite lots displayed at or through `price` for an order of `side`, on the levels that one order may walk."""
    opposite = SELL if side == BUY else BUY
    limit = level_key(opposite, price)
    total = np.int64(0)
    key = m.best[opposite - BID]
    levels = 0
    while key != NO_LEVEL and key >= limit and levels < FILLS_MAX:
        levels += 1
        total += level_at(m, opposite, level_key(opposite, key))[0]
        key = next_level(m, opposite - BID, key)
    return total


@kernel(inline=True)
def worst_price(order):
    """The price up to which an order takes: its own, of a market order any that there is."""
    if order.order_type == LIMIT_ORDER:
        return order.price_ticks
    return -NO_LEVEL - 1 if order.side == BUY else NO_LEVEL + 1


@kernel
def take(state, m, order, now_ns):
    """Walk the opposite side while the price allows; one taker fill a level; returns the lots left."""
    opposite = SELL if order.side == BUY else BUY
    limit = level_key(opposite, worst_price(order))
    left = order.leaves_lots
    key = m.best[opposite - BID]
    fills = 0
    while left > 0 and key != NO_LEVEL and key >= limit and fills < FILLS_MAX:
        price = level_key(opposite, key)
        lots = min(left, level_at(m, opposite, price)[0])
        report(state, order, FILL, now_ns, TAKER, 0, price, lots, left - lots)
        left -= lots
        fills += 1
        key = next_level(m, opposite - BID, key)
    return left


@kernel
def rest(state, m, order, left):
    """Keep what a GTC limit order has left, behind the lots displayed at its price; False when the table is full.

    Among ours of one instrument and side the better price stands first, and of equal prices the earlier.
    """
    paper = state.paper[0]
    if paper.resting >= RESTING_MAX:
        return False
    key = level_key(order.side, order.price_ticks)
    at = 0
    while at < paper.resting:
        e = state.resting[at]
        if e.instrument_id == order.instrument_id and e.side == order.side and level_key(e.side, e.price_ticks) < key:
            break
        at += 1
    for k in range(paper.resting, at, -1):
        state.resting[k] = state.resting[k - 1]
    e = state.resting[at]
    e.order_id, e.instrument_id, e.strategy_id = order.order_id, order.instrument_id, order.strategy_id
    e.side, e.price_ticks, e.qty_lots, e.leaves_lots = order.side, order.price_ticks, order.qty_lots, left
    e.ahead_lots = level_at(m, order.side, order.price_ticks)[0]
    e.crossing_lots = crossing_lots(m, order.side, order.price_ticks)
    e.tif = order.tif
    paper.resting += 1
    state.resting_of[np.int64(order.instrument_id)] += 1
    return True


@kernel
def arrive(state, m, order, now_ns):
    """An order reaches the exchange: refuse, or accept and match, rest or expire what is left."""
    qty = order.leaves_lots
    if spare(state) < WALK_MAX:
        report(state, order, REJECT, now_ns, 0, reasons.TABLE_FULL, order.price_ticks, qty, qty)
        return
    if not two_sided(m):
        report(state, order, REJECT, now_ns, 0, reasons.NO_LIQUIDITY, order.price_ticks, qty, qty)
        return
    if order.tif == FOK and crossing_lots(m, order.side, worst_price(order)) < qty:
        report(state, order, REJECT, now_ns, 0, reasons.FOK_UNFILLED, order.price_ticks, qty, qty)
        return
    report(state, order, ACK, now_ns, ACCEPTED, 0, order.price_ticks, qty, qty)
    left = take(state, m, order, now_ns)
    if left == 0:
        return
    if order.order_type == LIMIT_ORDER and order.tif == GTC:
        if rest(state, m, order, left):
            return
        report(state, order, ACK, now_ns, EXPIRED, reasons.TABLE_FULL, order.price_ticks, qty, left)
        return
    reason = reasons.NO_LIQUIDITY if order.order_type == MARKET_ORDER else reasons.IOC_REMAINDER
    report(state, order, ACK, now_ns, EXPIRED, reason, order.price_ticks, qty, left)


@kernel
def find_resting(state, order_id):
    """Index of a resting order, or -1."""
    for j in range(state.paper[0].resting):
        if state.resting[j].order_id == order_id:
            return j
    return -1


@kernel
def drop_resting(state, j):
    """Remove a resting order; the others keep their order, which is their priority among us."""
    paper = state.paper[0]
    state.resting_of[state.resting[j].instrument_id] -= 1
    for k in range(j, paper.resting - 1):
        state.resting[k] = state.resting[k + 1]
    paper.resting -= 1


@kernel
def report_resting(state, e, kind, now_ns, action, reason, qty, leaves):
    """A report about a resting order, through an order slot in the second scratch row."""
    o = state.scratch[1]
    zero_slot(o)
    o.order_id, o.instrument_id, o.strategy_id, o.side = e.order_id, e.instrument_id, e.strategy_id, e.side
    o.order_type, o.tif = LIMIT_ORDER, e.tif
    report(state, o, kind, now_ns, action, reason, e.price_ticks, qty, leaves)


@kernel
def change(state, m, request, now_ns):
    """A CANCEL or AMEND reaches the exchange; what no longer rests is refused, nothing is given back for that."""
    j = find_resting(state, request.order_id)
    crowded = request.kind == AMEND and spare(state) < WALK_MAX
    if j < 0 or crowded:
        reason = reasons.UNKNOWN_ORDER if j < 0 else reasons.TABLE_FULL
        report(state, request, REJECT, now_ns, request.kind, reason, request.price_ticks, request.qty_lots, 0)
        return
    e = state.resting[j]
    if request.kind == CANCEL:
        report_resting(state, e, ACK, now_ns, CANCELLED, 0, e.qty_lots, e.leaves_lots)
        drop_resting(state, j)
        return
    before = e.leaves_lots
    done = e.qty_lots - e.leaves_lots
    moved = request.price_ticks != e.price_ticks or request.qty_lots > e.qty_lots
    e.price_ticks = request.price_ticks
    e.qty_lots = request.qty_lots
    e.leaves_lots = max(0, request.qty_lots - done)
    report_resting(state, e, ACK, now_ns, AMENDED, 0, before, e.leaves_lots)
    if e.leaves_lots == 0:
        drop_resting(state, j)
    elif moved:
        queue_again(state, m, j, now_ns)


@kernel
def queue_again(state, m, j, now_ns):
    """A resting order with a new price or more lots loses its place: it matches and rests as if it came now."""
    e = state.resting[j]
    o = state.scratch[1]
    zero_slot(o)
    o.order_id, o.instrument_id, o.strategy_id, o.side = e.order_id, e.instrument_id, e.strategy_id, e.side
    o.order_type, o.tif, o.price_ticks, o.qty_lots, o.leaves_lots = LIMIT_ORDER, e.tif, e.price_ticks, e.qty_lots, e.leaves_lots
    drop_resting(state, j)
    left = take(state, m, o, now_ns) if two_sided(m) else o.leaves_lots
    if left > 0:
        rest(state, m, o, left)  # there is room: its own place has just become free


@kernel
def fill_resting(state, j, lots, now_ns):
    """Fill `lots` > 0 of resting order `j` at its own price, while that can be told; True when it is done and gone."""
    if spare(state) < 1:
        state.paper[0].crowded += 1
        return False
    e = state.resting[j]
    lots = min(lots, e.leaves_lots)
    report_resting(state, e, FILL, now_ns, MAKER, 0, lots, e.leaves_lots - lots)
    e.leaves_lots -= lots
    if e.leaves_lots > 0:
        return False
    drop_resting(state, j)
    return True


@kernel
def meet_trade(state, r):
    """A trade printed: it goes through the queue before us, then to us, each lot once among all our orders."""
    lots = r.qty_lots
    j = 0
    while j < state.paper[0].resting and lots > 0:
        e = state.resting[j]
        gone = False
        if e.instrument_id == r.instrument_id and e.side != r.side:
            better = e.price_ticks - r.price_ticks if e.side == BUY else r.price_ticks - e.price_ticks
            if better == 0:
                queued = min(e.ahead_lots, lots)
                e.ahead_lots -= queued
                mine = min(lots - queued, e.leaves_lots)
            else:
                mine = min(lots, e.leaves_lots) if better > 0 else 0
            if mine > 0:
                lots -= mine
                gone = fill_resting(state, j, mine, r.ts_seq_ns)
        j += 0 if gone else 1


@kernel
def meet_book(state, m, r):
    """The book changed: shrink the queues before us, and fill what new opposite lots reach, each lot once among ours."""
    bought = sold = np.int64(0)  # the better price comes first and takes the best of them, which all after it reach too
    j = 0
    while j < state.paper[0].resting:
        e = state.resting[j]
        gone = False
        if e.instrument_id == r.instrument_id and m.valid:
            e.ahead_lots = min(e.ahead_lots, level_at(m, e.side, e.price_ticks)[0])
            crossing = crossing_lots(m, e.side, e.price_ticks)
            fresh = crossing - e.crossing_lots
            e.crossing_lots = crossing
            mine = min(fresh - (bought if e.side == BUY else sold), e.leaves_lots)
            if mine > 0:
                bought += mine if e.side == BUY else 0
                sold += mine if e.side == SELL else 0
                gone = fill_resting(state, j, mine, r.ts_seq_ns)
        j += 0 if gone else 1


@kernel(inline=True)
def on_market(state, m, r):
    """A market record was folded into `m`: what rests may be filled by it."""
    if r.instrument_id < len(state.resting_of) and state.resting_of[np.int64(r.instrument_id)] > 0:
        if r.kind == TRADE:
            meet_trade(state, r)
        elif (r.kind == BOOK_DELTA or r.kind == BOOK_SNAPSHOT) and r.flags & EVENT_END:
            meet_book(state, m, r)


@kernel
def advance(state, markets, until_ns):
    """Let everything arrive whose time is before `until_ns`; every market record up to those times is folded in already.

    One arrival a call, since its reports may be due before the next one; returns whether there was one.
    """
    due = state.arrivals.head[0].next_due
    if due >= until_ns:
        return False
    row = state.arrivals.rows[pop(state.arrivals)]
    m = markets[np.int64(row.instrument_id)]
    if row.kind == ORDER:
        arrive(state, m, row, due)
    elif row.kind == CANCEL or row.kind == AMEND:
        change(state, m, row, due)
    return True
