"""The pre-trade checks, in the order they are made: each has a reason code, a limit and what was observed.

Money limits are in money units, prices in ticks, quantities in lots, times in ns of the line's clock. A limit that could
overflow int64 is refused when the configuration is read; what an order is worth saturates above every limit.
"""

from __future__ import annotations

import numpy as np

from handlers.domain import reasons
from handlers.domain.book import best_price, mid_twice, two_sided
from handlers.domain.limits import PRICE_MAX
from handlers.domain.numeric import add_checked, mul_checked, mul_div
from handlers.domain.order import may_amend
from transport.compiled import kernel
from transport.records import (
    ASK, BID, BUY, CLOSED, FOK, HALT, HALTED, LIMIT_ORDER, MARKET_ORDER, PAUSED, REDUCING, SELL, TRADING, WARMUP,
)  # fmt: skip

SPREAD_ANY = -(2**62)
LIMITS = np.dtype(
    [
        ("position_max_lots", "i8"),  # of the instrument, open orders included
        ("notional_max", "i8"),  # money units of that position
        ("qty_max_lots", "i8"),  # of one order
        ("collar_bp", "i8"),  # distance of a limit price from the mid, basis points
        ("stale_ns", "i8"),  # age of the last market record; 0 is off
        ("lot_units", "i8"),  # a lot in units of `position_total_max`, which lots of all instruments are multiples of; 0 is off
        ("inverse", "i8"),  # 1: the contract settles in its coin, which no account counts
        ("spread_min", "i8"),  # ticks that the ask must stand above the bid: 0 refuses crossed books, 1 locked ones too, SPREAD_ANY none
    ]
)
LINE_LIMITS = np.dtype(
    [
        ("position_total_max", "i8"),  # units; sum over instruments of |position|, open orders included
        ("notional_total_max", "i8"),  # money units; sum over instruments of |position|, open orders included
        ("rate", "i8"), ("burst", "i8"),  # orders a second, and at once
        ("duplicate_ns", "i8"),  # the same order again within this is refused; 0 is off
        ("open_orders_max", "i8"),
    ]
)  # fmt: skip
EXPOSURE = np.dtype(
    [
        ("net_lots", "i8"), ("open_buy_lots", "i8"), ("open_sell_lots", "i8"),
        ("last_ns", "i8"), ("last_side", "i8"), ("last_qty", "i8"), ("last_price", "i8"), ("last_strategy", "i8"),
        ("halted", "i8"),  # bits: BY_VENUE, BY_DATA
    ]
)  # fmt: skip
RISK_STATE = np.dtype(
    [
        ("state", "i8"), ("tokens", "i8"), ("tokens_ns", "i8"), ("open_orders", "i8"),
        ("gross_units", "i8"),  # of `position_total_max`: what every instrument holds and has open, kept up by `move_exposure`
    ]
)  # fmt: skip
BY_VENUE, BY_DATA = 1, 2  # who halted an instrument
WORTH_MAX = 2**62  # money units; configured limits are below it
TOKEN = 1_000_000_000  # an order costs this; `rate` orders a second accrue `rate` a nanosecond


@kernel
def worst_lots(exposure, side, qty):
    """Position of the instrument in the order's direction if it and every open order of its side fill, and none other."""
    if side == BUY:
        return exposure.net_lots + exposure.open_buy_lots + qty
    return -exposure.net_lots + exposure.open_sell_lots + qty


@kernel(inline=True)
def gross_lots(exposure):
    """Position of the instrument, either sign, if every open order of its worse side fills and none of the other."""
    return max(abs(exposure.net_lots + exposure.open_buy_lots), abs(exposure.net_lots - exposure.open_sell_lots))


@kernel
def move_exposure(line, limits, exposure, net, buy, sell):
    """Change what an instrument holds and has open, in lots, and with it the total over instruments."""
    before = gross_lots(exposure)
    exposure.net_lots += net
    exposure.open_buy_lots += buy
    exposure.open_sell_lots += sell
    line.gross_units = add_checked(line.gross_units, mul_checked(gross_lots(exposure) - before, limits.lot_units))


@kernel
def check_form(limits, side, qty, order_type, price, tif):
    """Is it an order at all, of what is counted: instrument, side, quantity, type, price."""
    if limits.inverse:
        return reasons.INVERSE_CONTRACT, 0, 1
    if side != BUY and side != SELL:
        return reasons.BAD_QTY, 0, side
    if qty <= 0 or qty > limits.qty_max_lots:
        return reasons.BAD_QTY, limits.qty_max_lots, qty
    if order_type != MARKET_ORDER and order_type != LIMIT_ORDER:
        return reasons.UNKNOWN_INTENT, 0, order_type
    if tif > FOK:
        return reasons.UNKNOWN_INTENT, FOK, tif
    if order_type == LIMIT_ORDER and (price <= 0 or price > PRICE_MAX):  # beyond it the collar's product would overflow
        return reasons.BAD_PRICE, PRICE_MAX, price
    return 0, 0, 0


@kernel
def check_market(limits, m, cause, order_type, price):
    """Is there a market to trade in: not history, a valid book that is not crossed, fresh, and a price near it."""
    if cause.flags & WARMUP:
        return reasons.IN_WARMUP, 0, 0
    twice = mid_twice(m)
    if twice <= 0 or (m.booked != 0 and not two_sided(m)):
        return reasons.INVALID_BOOK, 1, m.valid
    if two_sided(m):  # the paper exchange would fill both sides of an auction's book
        spread = best_price(m, ASK) - best_price(m, BID)
        if spread < limits.spread_min:
            return reasons.CROSSED_BOOK, limits.spread_min, spread
    age = cause.ts_seq_ns - m.ts_seq_ns
    if limits.stale_ns > 0 and age > limits.stale_ns:
        return reasons.STALE_DATA, limits.stale_ns, age
    if order_type == LIMIT_ORDER:
        away = abs(2 * price - twice)
        if away * 10_000 > limits.collar_bp * twice:  # exact: a rounded distance would let half a basis point more pass
            return reasons.PRICE_COLLAR, limits.collar_bp, mul_div(away, 10_000, twice)
    return 0, 0, 0


@kernel
def fold_status(exposure, r):
    """Who halts the instrument after a status row; one with a reason is of a check of the data, which lifts its own halt alone.

    The venue's TRADING lifts both: a session begins. PRE_OPEN, AUCTION and what is unknown leave it as it is.
    """
    by_data = r.reason != 0
    if r.action == TRADING:
        exposure.halted = exposure.halted & ~BY_DATA if by_data else 0
    elif r.action == HALT or r.action == PAUSED or r.action == CLOSED:
        exposure.halted |= BY_DATA if by_data else BY_VENUE


@kernel
def check_state(line, exposure, side, qty):
    """HALTED refuses everything, and so does a halt of the instrument; REDUCING whatever does not bring the position nearer to zero."""
    if line.state == HALTED:
        return reasons.STATE_HALTED, 0, line.state
    if exposure.halted:
        return reasons.TRADING_HALTED, 0, exposure.halted
    if line.state == REDUCING:
        net = exposure.net_lots
        room = max(0, net - exposure.open_sell_lots if side == SELL else -net - exposure.open_buy_lots)
        if qty > room:
            return reasons.STATE_REDUCING, room, qty
    return 0, 0, 0


@kernel
def worth_of(lots, twice, terms):
    """Money units of `lots` > 0 at half of `twice` ticks, either sign; WORTH_MAX, above every limit, where it is that much or more."""
    if np.float64(lots) * np.float64(abs(twice)) >= 2.0 * WORTH_MAX:
        return np.int64(WORTH_MAX)
    half = mul_div(lots, abs(twice), 2)
    if np.float64(half) * np.float64(terms.num) >= np.float64(WORTH_MAX) * np.float64(terms.den):
        return np.int64(WORTH_MAX)
    return mul_div(half, terms.num, terms.den)


@kernel
def total_worth(exposures, terms, markets, skip):
    """Money units of every instrument's exposure but `skip`'s, the larger of its two sides, marked to mid; WORTH_MAX at most."""
    total = np.int64(0)
    for j in range(len(exposures)):
        lots = gross_lots(exposures[j])
        if j != skip and lots > 0:
            worth = worth_of(lots, mid_twice(markets[j]), terms[j])
            if worth >= WORTH_MAX - total:
                return np.int64(WORTH_MAX)
            total += worth
    return total


@kernel
def room_in_total(line, line_limits, limits, exposure):
    """Lots that the instrument may come to hold beside what all others do; it may be below zero."""
    others = line.gross_units - gross_lots(exposure) * limits.lot_units
    return (line_limits.position_total_max - others) // limits.lot_units


@kernel
def check_size(line, line_limits, limits, exposures, terms, markets, i, side, qty):
    """Position and notional, of the instrument and in total; an order that at most brings it to zero always passes."""
    lots = worst_lots(exposures[i], side, qty)
    if lots <= 0:
        return 0, 0, 0
    if lots > limits[i].position_max_lots:
        return reasons.POSITION_LIMIT, limits[i].position_max_lots, lots
    if limits[i].lot_units > 0:
        room = room_in_total(line, line_limits, limits[i], exposures[i])
        if lots > room:
            return reasons.TOTAL_POSITION_LIMIT, room, lots
    worth = worth_of(lots, mid_twice(markets[i]), terms[i])
    if worth > limits[i].notional_max:
        return reasons.NOTIONAL_LIMIT, limits[i].notional_max, worth
    total = worth + total_worth(exposures, terms, markets, i)
    if total > line_limits.notional_total_max:
        return reasons.TOTAL_NOTIONAL_LIMIT, line_limits.notional_total_max, total
    return 0, 0, 0


@kernel
def check_repeated(line, line_limits, exposure, now_ns, side, qty, price, strategy):
    """As many orders as may be, and the same order again."""
    if line.open_orders >= line_limits.open_orders_max:
        return reasons.OPEN_ORDERS_LIMIT, line_limits.open_orders_max, line.open_orders
    again = (
        exposure.last_side == side
        and exposure.last_qty == qty
        and exposure.last_price == price
        and exposure.last_strategy == strategy
    )
    if again and now_ns - exposure.last_ns < line_limits.duplicate_ns:
        return reasons.DUPLICATE_ORDER, line_limits.duplicate_ns, now_ns - exposure.last_ns
    return 0, 0, 0


@kernel
def check_rate(line, line_limits, now_ns):
    """A token bucket on the line's clock, for orders and amends together; what passes takes its token here."""
    full = line_limits.burst * TOKEN
    waited = min(now_ns - line.tokens_ns, full // line_limits.rate + 1)
    line.tokens = min(full, line.tokens + waited * line_limits.rate)
    line.tokens_ns = now_ns
    if line.tokens < TOKEN:
        return reasons.ORDER_RATE, line_limits.rate, line.tokens
    line.tokens -= TOKEN
    return 0, 0, 0


@kernel
def check_order(state, markets, cause, i, side, qty, order_type, price, tif, strategy):
    """(reason, limit, observed) of the first check that refuses, reason 0 when all pass."""
    line, line_limits, limits, exposure = state.line[0], state.line_limits[0], state.limits[i], state.exposures[i]
    now_ns = cause.ts_seq_ns
    reason, limit, observed = check_form(limits, side, qty, order_type, price, tif)
    if reason:
        return reason, limit, observed
    reason, limit, observed = check_state(line, exposure, side, qty)
    if reason:
        return reason, limit, observed
    reason, limit, observed = check_market(limits, markets[i], cause, order_type, price)
    if reason:
        return reason, limit, observed
    reason, limit, observed = check_size(line, line_limits, state.limits, state.exposures, state.terms, markets, i, side, qty)
    if reason:
        return reason, limit, observed
    reason, limit, observed = check_repeated(line, line_limits, exposure, now_ns, side, qty, price, strategy)
    if reason:
        return reason, limit, observed
    reason, limit, observed = check_rate(line, line_limits, now_ns)
    if reason:
        return reason, limit, observed
    exposure.last_ns, exposure.last_side, exposure.last_qty = now_ns, side, qty
    exposure.last_price, exposure.last_strategy = price, strategy
    return 0, 0, 0


@kernel
def check_amend(state, markets, cause, order, qty, price, tif):
    """As `check_order`, of an amend of `order` to `qty` lots as a whole at `price`.

    Its size is checked as that of a new order of the lots it adds, its price as that of the whole; one that adds none and keeps
    the price needs no market. It makes no order, so neither their number nor a repetition can refuse it.
    """
    i, side = np.int64(order.instrument_id), np.int64(order.side)
    line, line_limits, limits = state.line[0], state.line_limits[0], state.limits[i]
    added = max(0, qty - order.qty_lots)
    reason, limit, observed = check_form(limits, side, qty, LIMIT_ORDER, price, tif)
    if reason:
        return reason, limit, observed
    if not may_amend(order):
        return reasons.INVALID_TRANSITION, 0, np.int64(order.state)
    reason, limit, observed = check_state(line, state.exposures[i], side, added)
    if reason:
        return reason, limit, observed
    if added > 0 or price != order.price_ticks:
        reason, limit, observed = check_market(limits, markets[i], cause, LIMIT_ORDER, price)
        if reason:
            return reason, limit, observed
    if added > 0:
        reason, limit, observed = check_size(
            line, line_limits, state.limits, state.exposures, state.terms, markets, i, side, added
        )
        if reason:
            return reason, limit, observed
    return check_rate(line, line_limits, cause.ts_seq_ns)
