"""Bars: open, high, low and close of trades, or of bid and ask, cut by time, session, count, volume, notional or imbalance.

    plain   BAR_STATE   intervals of venue time, of trades, closed by the first trade of a later one: the default, and the fastest
    cut     OPEN_BAR    everything else, by the BAR_RULE of the run

Bars cut by a clock, BY_TIME and BY_SESSION. An interval is over, and its bar closed, when the rule's `close_on` says so: by a later
trade (or quote, where bars are of quotes), by the end of any later event of the instrument's market, or by a timer of the line `close_after_ns`
after it as well. Never before: a record of the same instrument from a later time of the venue, or the line's clock, has told that it
is over. Intervals begin at the session's open, or at the epoch where no calendar is asked; the last of a session ends with it.
Nothing is known of an interval without trades, which has no bar. A late trade, one of a closed interval, counts in the bar that is
open or the next, so that no volume is lost, except across a session's end: then it is in no bar and counted in `late`. A trade
outside every session is in no bar. A venue time more than CLOCKS_APART_NS ahead of the line's is taken for the line's: a single one of
another year would else hold the bar open that all trades until then are late for.

Bars cut by what was traded, closed by the trade that reaches the size, which is in them whole, or by a session's end:

    BY_TICKS      trades >= size          BY_NOTIONAL          |sum of price * lots| >= size
    BY_VOLUME     sum of lots >= size     BY_TICK_IMBALANCE    |theta| >= size, theta = sum of b
                                          BY_VOLUME_IMBALANCE  |theta| >= size, theta = sum of b * lots

b is +1 or -1, the side of the aggressor where the venue tells it, else the tick rule: the sign of the last change of price, 0 before
the first. With `adapt` > 0 the size of an imbalance bar follows the market, after the first bar: E[T] * |E[theta / T]|, T trades a
bar, both exponential means over bars with weight `adapt`, held within a quarter and four times `size`, for unbounded it feeds on
itself. Source: Lopez de Prado, Advances in Financial Machine Learning (2018), 2.3.1 and 2.3.2.1.

Conditions of a sale decide what it may do: a trade with one of the bits of `price_excluded` sets no price, one with a bit of
`volume_excluded` adds no volume. A bar whose trades all lack a price is none. A gap ends no bar: trades that it lost are in none.

Sums are exact up to SUM_MAX, where they stay: lots and price * lots of a bar beyond 4.6e18 show that number. (Those of plain bars
wrap there.)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from handlers.domain.limits import CLOCKS_APART_NS
from handlers.domain.memory import set_slot_word
from transport.compiled import kernel
from transport.records import BUY, NO_SIDE, SELL

BY_TIME, BY_SESSION, BY_TICKS, BY_VOLUME, BY_NOTIONAL, BY_TICK_IMBALANCE, BY_VOLUME_IMBALANCE = range(7)
ON_TRADE, ON_RECORD, ON_TIMER = range(3)
NEVER = 2**62  # a time after all others
SUM_MAX = 2**62 - 1  # two of them still add up
DAY_NS = 86_400 * 10**9

BAR_STATE = np.dtype(
    [
        ("ts_open_ns", "i8"),
        ("open_ticks", "i8"), ("high_ticks", "i8"), ("low_ticks", "i8"), ("close_ticks", "i8"),
        ("volume_lots", "i8"), ("notional_ticks_lots", "i8"),
        ("trades", "i8"),  # 0: no bar is open
    ]
)  # fmt: skip
BAR_RULE = np.dtype(
    [
        ("by", "i8"), ("quotes", "i8"),  # BY_TIME, …; 1: bars of bid and ask, BY_TIME or BY_SESSION only
        ("interval_ns", "i8"),  # BY_TIME
        ("price_excluded", "i8"), ("volume_excluded", "i8"),  # bits of a trade's conditions
        ("close_on", "i8"), ("close_after_ns", "i8"),
        ("sessions", "i8"),  # how many there are; 0: the day never ends
        ("adapt", "f8"),  # 0: the size stays
    ]
)  # fmt: skip
SESSION = np.dtype([("open_ns", "i8"), ("close_ns", "i8"), ("day", "i8")])  # ns UTC, close excluded; day since 1970-01-01
OPEN_BAR = np.dtype(
    [
        *BAR_STATE.descr,  # trades: those that count in the volume
        ("priced", "i8"),  # trades, or quotes, that set a price
        ("ends_ns", "i8"),  # when the bar is over by the clock, NEVER where no clock says so
        ("interval_ns", "i8"),
        ("closed_ns", "i8"),  # up to here bars of the clock are closed
        ("last_ns", "i8"),  # latest time in the bar
        ("session_at", "i8"),  # the session that was reached
        ("size", "i8"),
        ("last_ticks", "i8"), ("seen", "i8"),  # price of the last trade that set one, of any bar
        ("sign", "i8"), ("theta", "i8"),
        ("expected_trades", "f8"), ("expected_theta", "f8"),  # E[T], 0 before the first bar, and E[theta / T]
        ("late", "i8"),  # trades of a session that was closed
    ]
)  # fmt: skip


class BarsState(NamedTuple):
    """What cut bars need: one BAR_RULE, an OPEN_BAR an instrument (of quotes two: bid, ask), the sessions of the calendar."""

    rule: np.ndarray
    open: np.ndarray
    sessions: np.ndarray


def new_bars(sizes: list[int], sessions: np.ndarray | None = None, **rule: float) -> BarsState:
    """An OPEN_BAR for each of `sizes`, what it takes to close a bar that no clock cuts; `rule` names the fields of BAR_RULE."""
    rules = np.zeros(1, BAR_RULE)
    for name, value in rule.items():
        rules[name] = value
    if rules[0]["by"] == BY_SESSION and sessions is None:
        rules["interval_ns"] = DAY_NS  # of UTC, where there is no calendar
    if sessions is not None:
        rules["sessions"] = len(sessions)
    found = np.zeros(max(1, len(sizes)), OPEN_BAR)
    found["size"][: len(sizes)] = sizes
    return BarsState(rules, found, np.zeros(1, SESSION) if sessions is None or not len(sessions) else sessions)


def is_sized(by: int) -> bool:
    """Whether bars are cut by what was traded, not by a clock."""
    return by not in (BY_TIME, BY_SESSION)


@kernel
def session_of(sessions, count, when):
    """Place of the session that `when` lies in, or -1."""
    low, high = np.int64(0), count
    while low < high:
        middle = (low + high) >> 1
        if sessions[middle].close_ns <= when:
            low = middle + 1
        else:
            high = middle
    return low if low < count and sessions[low].open_ns <= when else -1


@kernel
def session_day(bars, when):
    """Day of the session that `when` lies in, 0 where there is no calendar."""
    at = session_of(bars.sessions, bars.rule[0].sessions, when)
    return bars.sessions[at].day if at >= 0 else 0


@kernel
def on_clock(bars, bar):
    """Whether a feed's bar is one that the rule of the run could have cut: its length, of trades or of quotes, a piece of a session.

    Without a calendar it may begin at any time, since a feed's days begin where its exchange is. None is of those cut by what was traded.
    """
    rule = bars.rule[0]
    if rule.by > BY_SESSION or (bar.side == NO_SIDE) != (rule.quotes == 0):
        return False
    if rule.sessions == 0:
        return bar.interval_ns == rule.interval_ns
    at = session_of(bars.sessions, rule.sessions, bar.ts_open_ns)
    if at < 0:
        return False
    into, left = bar.ts_open_ns - bars.sessions[at].open_ns, bars.sessions[at].close_ns - bar.ts_open_ns
    if rule.by == BY_SESSION:
        return into == 0 and bar.interval_ns == left
    return into % rule.interval_ns == 0 and bar.interval_ns == min(rule.interval_ns, left)


@kernel(inline=True)
def venue_time(r):
    """Venue time of a record in the line, or the line's where that cannot be one."""
    return r.ts_event_ns if r.ts_event_ns <= r.ts_seq_ns + CLOCKS_APART_NS else r.ts_seq_ns


@kernel
def close_bar(s, interval_ns, out):
    """Write the open bar's fields to `out`, whose header is the caller's, and forget it; returns the rows written, 0 or 1."""
    if s.trades == 0:
        return 0
    out.ts_open_ns = s.ts_open_ns
    out.interval_ns = interval_ns
    out.open_ticks = s.open_ticks
    out.high_ticks = s.high_ticks
    out.low_ticks = s.low_ticks
    out.close_ticks = s.close_ticks
    out.volume_lots = s.volume_lots
    out.notional_ticks_lots = s.notional_ticks_lots
    out.trades = s.trades
    set_slot_word(out, 15, np.uint64(0))
    s.trades = 0
    return 1


@kernel(inline=True)
def add_trade(s, interval_ns, trade, out):
    """Fold a trade in; returns 1 when it closed the bar before it, which is then in `out`."""
    when = venue_time(trade)
    start = when - when % interval_ns
    rows = close_bar(s, interval_ns, out) if start > s.ts_open_ns else 0
    price = trade.price_ticks
    if s.trades == 0:
        s.ts_open_ns = max(start, s.ts_open_ns)
        s.open_ticks = s.high_ticks = s.low_ticks = price
        s.volume_lots = s.notional_ticks_lots = 0
    s.high_ticks = max(s.high_ticks, price)
    s.low_ticks = min(s.low_ticks, price)
    s.close_ticks = price
    s.volume_lots += trade.qty_lots
    s.notional_ticks_lots += price * trade.qty_lots
    s.trades += 1
    return rows


# --- cut bars -------------------------------------------------------------------------------------------------------------
@kernel(inline=True)
def is_open(b):
    return b.trades > 0 or b.priced > 0


@kernel
def bounded(total, more):
    """Their sum, held within SUM_MAX on either side; both lie within it."""
    return min(max(total + more, -SUM_MAX), SUM_MAX)


@kernel
def bounded_product(price, lots):
    """price * lots, held within SUM_MAX on either side; lots >= 0."""
    if lots > SUM_MAX // max(1, abs(price)):
        return SUM_MAX if price > 0 else -SUM_MAX
    return price * lots


@kernel
def find_session(bars, b, when):
    """Move `b` on to the session that is not over at `when`; whether that has begun. No session is gone back to."""
    count = bars.rule[0].sessions
    if count == 0:
        return True
    while b.session_at < count and bars.sessions[b.session_at].close_ns <= when:
        b.session_at += 1
    return b.session_at < count and bars.sessions[b.session_at].open_ns <= when


@kernel
def begin_bar(bars, b, when):
    """Open the bar of `when`, which lies in the session that `b` has reached."""
    rule = bars.rule[0]
    b.volume_lots = b.notional_ticks_lots = b.theta = 0
    b.last_ns = when
    start, b.ends_ns = np.int64(0), NEVER
    if rule.sessions > 0:
        start, b.ends_ns = bars.sessions[b.session_at].open_ns, bars.sessions[b.session_at].close_ns
    b.ts_open_ns = when
    if rule.by == BY_TIME or (rule.by == BY_SESSION and rule.sessions == 0):
        b.ts_open_ns = when - (when - start) % rule.interval_ns
        b.ends_ns = min(b.ends_ns, b.ts_open_ns + rule.interval_ns)
    elif rule.by == BY_SESSION:
        b.ts_open_ns = start
    b.interval_ns = b.ends_ns - b.ts_open_ns


@kernel
def end_bar(bars, b, out):
    """Write the open bar to `out` (its header is the caller's) and forget it; 1, or 0 where it has no price and is none."""
    rule = bars.rule[0]
    rows = 0
    if b.priced > 0:
        rows = 1
        by_clock = rule.by == BY_TIME or rule.by == BY_SESSION
        out.ts_open_ns = b.ts_open_ns
        out.interval_ns = b.interval_ns if by_clock else b.last_ns - b.ts_open_ns
        out.open_ticks = b.open_ticks
        out.high_ticks = b.high_ticks
        out.low_ticks = b.low_ticks
        out.close_ticks = b.close_ticks
        out.volume_lots = b.volume_lots
        out.notional_ticks_lots = b.notional_ticks_lots
        out.trades = b.trades
        out.session = bars.sessions[b.session_at].day if rule.sessions > 0 else 0
    b.trades = b.priced = 0
    return rows


@kernel
def take_price(b, price):
    if b.priced == 0:
        b.open_ticks = b.high_ticks = b.low_ticks = price
    b.high_ticks = max(b.high_ticks, price)
    b.low_ticks = min(b.low_ticks, price)
    b.close_ticks = price
    b.priced += 1


@kernel
def sign_of(b, trade, priced):
    """b of the module's formula, which `b` keeps."""
    if trade.side == BUY:
        b.sign = 1
    elif trade.side == SELL:
        b.sign = -1
    elif priced and b.seen and trade.price_ticks != b.last_ticks:
        b.sign = 1 if trade.price_ticks > b.last_ticks else -1
    if priced:
        b.last_ticks, b.seen = trade.price_ticks, 1
    return b.sign


@kernel
def place_for(bars, b, when):
    """Whether something that happened at `when` counts in a bar, which is open then."""
    if not find_session(bars, b, when):
        b.late += when < b.closed_ns
        return False
    when = max(when, b.closed_ns)
    if bars.rule[0].sessions > 0 and bars.sessions[b.session_at].close_ns <= when:
        b.late += 1
        return False
    if not is_open(b):
        begin_bar(bars, b, when)
    b.last_ns = max(b.last_ns, when)
    return True


@kernel
def cut_trade(bars, b, trade):
    """Fold a trade in; whether the bar has reached its size."""
    rule = bars.rule[0]
    priced, counted = trade.conditions & rule.price_excluded == 0, trade.conditions & rule.volume_excluded == 0
    if not (priced or counted) or not place_for(bars, b, venue_time(trade)):
        return False
    sign = sign_of(b, trade, priced)
    if priced:
        take_price(b, trade.price_ticks)
    if counted:
        b.volume_lots = bounded(b.volume_lots, trade.qty_lots)
        b.notional_ticks_lots = bounded(b.notional_ticks_lots, bounded_product(trade.price_ticks, trade.qty_lots))
        b.theta = bounded(b.theta, sign if rule.by == BY_TICK_IMBALANCE else sign * trade.qty_lots)
        b.trades += 1
    return b.priced > 0 and b.trades > 0 and reached(rule, b)


@kernel
def reached(rule, b):
    """The open bar has the size that closes it; that of the next imbalance bar is then known."""
    if rule.by == BY_TICKS:
        return b.trades >= b.size
    if rule.by == BY_VOLUME:
        return b.volume_lots >= b.size
    if rule.by == BY_NOTIONAL:
        return abs(b.notional_ticks_lots) >= b.size
    if rule.by != BY_TICK_IMBALANCE and rule.by != BY_VOLUME_IMBALANCE:
        return False
    if rule.adapt == 0.0:
        return abs(b.theta) >= b.size
    wanted = float(b.size)
    if b.expected_trades > 0.0:
        wanted = min(max(b.expected_trades * abs(b.expected_theta), wanted * 0.25), wanted * 4.0)
    if float(abs(b.theta)) < wanted:
        return False
    share = b.theta / b.trades
    if b.expected_trades > 0.0:
        b.expected_trades += rule.adapt * (b.trades - b.expected_trades)
        b.expected_theta += rule.adapt * (share - b.expected_theta)
    else:
        b.expected_trades, b.expected_theta = float(b.trades), share
    return True


@kernel
def cut_quote(bars, b, when, price, lots):
    """Fold one side of a quote in; a side that is not known yet has neither price nor lots."""
    if (price == 0 and lots == 0) or not place_for(bars, b, when):
        return
    take_price(b, price)
    b.volume_lots = lots
    b.trades += 1
