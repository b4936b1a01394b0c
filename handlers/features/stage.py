"""FEATURES: a market record in, bars and feature rows out.

    INPUT ──► (books folded by the runner) ──► bars, feature rows ──► SIGNALS        a row with levels is a long row;
                                          │                                         a feed's own bars are handed on;
                                          │                                         behind a bar, configured indicators;
                                          │                                         behind these, rows of the universe, when its bar is over;
                                          │                                         last, the row of configured features of events
                                          └──► a checkpoint every `checkpoint` inputs: the rolling digest of those rows
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from handlers.domain.book import NO_LEVEL, best_lots, best_price, level_at, next_level, two_sided
from handlers.domain.memory import copy_slot, set_slot_word, slot_word, zero_slot
from handlers.domain.rows import begin, stamp
from handlers.domain.schema import features_of, schema_id
from handlers.features.at_bars import Indicators, add_indicators, new_indicators, takes_bar
from handlers.features.at_events import EventFeatures, add_event, add_gap, new_event_features
from handlers.features.at_universe import FactorSet, Universe, add_to_universe, new_universe, score_universe, score_until
from handlers.features.bars import (
    BAR_STATE, ON_TIMER, ON_TRADE, BarsState, add_trade, close_bar, cut_quote, cut_trade, end_bar, is_open,
    is_sized, new_bars, on_clock, session_day, venue_time,
)  # fmt: skip
from handlers.features.feature_set import FeatureSet
from handlers.features.streaming import FEATURE_PARAMS, FEATURE_STATE, TOP_BOOK, TOP_QUOTE, update
from transport.compiled import kernel
from transport.records import (
    ASK, BAR, BID, BOOK_DELTA, BOOK_SNAPSHOT, BY_FEATURES, CHECKPOINT, COMMAND, CONNECTION, DISCONNECTED, END_OF_FEED, EVENT_END, FEATURE,
    GAP, NO_SIDE, OVERRUN, QUOTE, TIMER, TRADE, VALUES_PER_SLOT,
)  # fmt: skip

CUT, EVENTS, UNIVERSE = 2, 4, 8  # added to params.top in a run with cut bars, with features of events, with factors of the universe
ROWS_MAX = 520  # slots of one input: a bar an instrument at a timer or the end of the feed and a checkpoint, else bars and a long row
INSTRUMENTS_MAX = 512  # half of it with bars of quotes, which come in pairs
PLAIN = np.uint64(schema_id(0) | len(features_of(0)) << 32)  # schema and count of a row without levels
DIGEST = np.dtype([("value", "u8"), ("rows", "i8"), ("due", "i8")])  # rows: slots so far; due: seq of the next checkpoint
_P1, _P2 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F  # odd, of xxHash
_KEY = np.array([(_P1 * (2 * i + 1) ^ (_P2 >> i)) >> 8 & 0x7FFFFFFF | 1 << 30 | 1 for i in range(16)], np.uint64)  # of one instruction


class FeaturesState(NamedTuple):
    """Arrays of the stage: one FEATURE_STATE and BAR_STATE per instrument, one set of parameters, one rolling digest; cut bars, indicators, features of events, factors."""

    features: np.ndarray
    bars: np.ndarray
    params: np.ndarray
    digest: np.ndarray
    cut: BarsState
    indicators: Indicators
    events: EventFeatures
    universe: Universe


def new_features(
    instruments: int, ema_fast: int, ema_slow: int, volatility_window: int, bar_ns: int, top_quote: bool, checkpoint: int,
    depth: int = 0, cut: BarsState | None = None, indicators: FeatureSet | None = None, events: FeatureSet | None = None,
    row_every: int = 1, factors: FactorSet | None = None, close_after_ns: int = 0,
) -> FeaturesState:  # fmt: skip
    """Windows in events, `bar_ns` > 0, `checkpoint` in inputs, `depth` levels a side in a feature row, 0 to 32.

    `cut` bars are made instead of the plain ones of `bar_ns`, which is then 0. The sets of `indicators` and of features of
    `events`, a row of which comes every `row_every` event ends, must live on. `factors` of all instruments are stepped by a timer
    `close_after_ns` after a bar's close at the latest.
    """
    assert (bar_ns == 0) == (cut is not None)
    params = np.zeros(1, FEATURE_PARAMS)
    params["alpha_fast"], params["alpha_slow"] = 2.0 / (ema_fast + 1), 2.0 / (ema_slow + 1)
    params["alpha_volatility"] = 2.0 / (volatility_window + 1)
    apart = (0 if cut is None else CUT) + (EVENTS if events else 0) + (UNIVERSE if factors else 0)
    params["bar_ns"], params["interval_ns"], params["checkpoint"] = 0 if apart else bar_ns, bar_ns, checkpoint
    params["top"] = (TOP_QUOTE if top_quote else TOP_BOOK) + apart
    params["depth"], params["schema"] = depth, schema_id(depth) | len(features_of(depth)) << 32
    rows = max(1, instruments)
    digest = np.zeros(1, DIGEST)
    digest["due"] = checkpoint - 1
    cut = new_bars([], interval_ns=bar_ns) if cut is None else cut
    at_bars = new_indicators(indicators, instruments, is_sized(cut.rule[0]["by"]))
    params["behind_bars"] = indicators is not None or factors is not None
    at_events = new_event_features(events, instruments, row_every, top_quote)
    universe = new_universe(factors, close_after_ns)
    return FeaturesState(np.zeros(rows, FEATURE_STATE), np.zeros(rows, BAR_STATE), params, digest, cut, at_bars, at_events, universe)


def rows_max(instruments: int, indicators: FeatureSet | None, quotes: bool = False, factors: bool = False) -> int:
    """Slots that one input may make: ROWS_MAX, or at the end of the feed for each instrument a bar (two, of quotes), a row of indicators and two of factors.

    A row of factors is of a bar that waited or of one that this input closed, and an instrument has at most one of each.
    """
    values = len(indicators.columns) if indicators else 0
    each = 1 + quotes - (-values // VALUES_PER_SLOT) + 2 * factors
    return max(ROWS_MAX, instruments * each + 1) if values or factors else ROWS_MAX


@kernel(inline=True)
def fold_digest(digest, row):
    """Mix one slot into the rolling digest: its place, instrument, kind and its own 80 bytes; the times are its cause's.

    A sum of products of pairs of words, each with a constant added (the NH of UMAC, RFC 4418 5.2), whose multiplications overlap;
    then one mix with what was before.
    """
    total = digest.value + (slot_word(row, 0) + _KEY[0]) * (slot_word(row, 4) + _KEY[1])
    for i in range(6, 16, 2):
        total += (slot_word(row, i) + _KEY[i]) * (slot_word(row, i + 1) + _KEY[i + 1])
    total = (total ^ (total >> np.uint64(32))) * np.uint64(_P1)
    digest.value = total ^ (total >> np.uint64(29))
    digest.rows += 1


@kernel
def write_bar(state, at, r, out, n):
    """Close cut bar `at` into out[n], caused by `r`; returns the new n."""
    cut = state.cut
    if end_bar(cut, cut.open[at], out[n]) == 0:
        return n
    begin(out[n], r, BY_FEATURES, BAR, n)
    sides = 1 + cut.rule[0].quotes
    out[n].instrument_id = at // sides
    out[n].side = BID + at % sides if sides > 1 else NO_SIDE
    fold_bar(state.digest[0], out[n])
    return after_bar(state, out, n + 1) if state.params[0].behind_bars else n + 1


@kernel
def fold_bar(digest, row):
    """`fold_digest` of a bar: its side is among what tells it."""
    digest.value += np.uint64(row.side)
    fold_digest(digest, row)


@kernel
def close_over(state, at, when, r, out, n):
    """Close cut bar `at` if it is over by the clock at `when`; returns the new n."""
    b = state.cut.open[at]
    if not is_open(b) or b.ends_ns > when:
        return n
    n = write_bar(state, at, r, out, n)
    b.closed_ns = b.ends_ns
    return n


@kernel
def cut_bars(state, r, out):
    """Cut bars of one input: those that it tells to be over, then the one that it fills; returns the rows in `out`."""
    cut = state.cut
    rule = cut.rule[0]
    n = 0
    sides = 1 + rule.quotes
    if r.kind == TIMER:
        if rule.close_on == ON_TIMER:
            for at in range(sides * len(state.bars)):
                n = close_over(state, at, r.due_ns - rule.close_after_ns, r, out, n)
        return n
    counts = r.kind == QUOTE if rule.quotes else r.kind == TRADE
    if not counts and (rule.close_on == ON_TRADE or r.kind > BOOK_SNAPSHOT):
        return n
    first, when = sides * np.int64(r.instrument_id), venue_time(r)
    for at in range(first, first + sides):
        n = close_over(state, at, when, r, out, n)
    if counts and rule.quotes:
        cut_quote(cut, cut.open[first], when, r.price_ticks, r.qty_lots)
        cut_quote(cut, cut.open[first + 1], when, r.ask_ticks, r.ask_lots)
    elif counts and cut_trade(cut, cut.open[first], r):
        n = write_bar(state, first, r, out, n)
    return n


@kernel
def after_bar(state, out, n):
    """Behind the bar in out[n - 1] the configured indicators, and rows of the universe bar before it; returns how many slots are in `out`."""
    bar, indicators = out[n - 1], state.indicators
    if not takes_bar(indicators, bar):
        return n
    after = add_indicators(indicators, out, n) if indicators.shape[0].parts else n
    if state.params[0].top & UNIVERSE:
        after = add_to_universe(state.universe, bar, out, after)
    return fold_rows(state, out, n, after)


@kernel
def fold_rows(state, out, n, after):
    """`fold_digest` of out[n:after]; returns `after`."""
    for k in range(n, after):
        fold_digest(state.digest[0], out[k])
    return after


@kernel
def close_all_bars(state, r, out):
    """Close every open bar, in instrument order, and the universe bar; returns the rows in `out`."""
    n = 0
    if state.params[0].interval_ns == 0:
        for at in range(len(state.cut.open)):
            n = write_bar(state, at, r, out, n)
    else:
        n = close_plain_bars(state, r, out)
    if not state.params[0].top & UNIVERSE:
        return n
    return fold_rows(state, out, n, score_universe(state.universe, r, out, n))


@kernel
def close_plain_bars(state, r, out):
    """Close every open bar of `interval_ns`, in instrument order; returns the rows in `out`."""
    n = 0
    for i in range(len(state.bars)):
        if state.bars[i].trades > 0:
            close_bar(state.bars[i], state.params[0].interval_ns, out[n])
            begin(out[n], r, BY_FEATURES, BAR, n)
            out[n].instrument_id = i
            fold_digest(state.digest[0], out[n])
            n += 1
            if state.params[0].behind_bars:
                n = after_bar(state, out, n)
    return n


@kernel
def add_levels(state, m, out, n):
    """Go on with the feature row begun in out[n], two levels of the book a slot; returns how many slots are in `out`."""
    depth = state.params[0].depth
    behind = (depth + 1) // 2
    out[n].parts = 1 + behind
    for part in range(1, 1 + behind):
        row = out[n + part]
        copy_slot(row, out[n])
        row.part = part
        row["values"][:] = 0.0
    for s in range(2):
        key = m.best[s] if m.valid else NO_LEVEL
        for k in range(depth):
            if key == NO_LEVEL:
                break
            price = key if s == 0 else -key
            values, at = out[n + 1 + k // 2]["values"], 4 * (k % 2) + 2 * s
            values[at], values[at + 1] = price, level_at(m, s + BID, price)[0]
            key = next_level(m, s, key)
    for part in range(1, 1 + behind):
        fold_digest(state.digest[0], out[n + part])
    return n + 1 + behind


@kernel
def pass_bar(state, r, out):
    """Hand on the bar `r` that a feed brought, and let what is behind bars take it where it is one of their clock.

    Strategies that read bars see those of a feed, of any interval, and our own alike.
    """
    row = out[0]
    copy_slot(row, r)
    begin(row, r, BY_FEATURES, BAR, 0)
    row.side = r.side
    counts = on_clock(state.cut, row)
    if counts and row.session == 0:
        row.session = session_day(state.cut, row.ts_open_ns)
    fold_bar(state.digest[0], row)
    if not state.params[0].behind_bars:
        return 1
    if counts:
        return after_bar(state, out, 1)
    shape = state.indicators.shape[0]
    shape.others += 1
    return 1


@kernel
def pass_gap(state, i, r):
    """What was known of the top of instrument `i` is over by `r`: differences begin again behind it."""
    state.features[i].linked = state.features[i].quoted = 0
    if state.params[0].top & EVENTS:
        add_gap(state.events, i, r.ts_seq_ns)


@kernel
def pass_loss(state, r):
    """A gap, of its instrument; a connection that ended or lost messages, which does not say of whom: of all. It has no row."""
    if r.kind == GAP:
        pass_gap(state, np.int64(r.instrument_id), r)
    elif r.action == DISCONNECTED or r.action == OVERRUN:
        for i in range(len(state.features)):
            pass_gap(state, i, r)
    return 0


@kernel(inline=True)
def add_top(state, m, r, out, n):
    """The end of `step_features` in a run that is stepped apart: the feature row of `r`, if it ends an event of the top.

    Written twice so that others pay nothing: what is changed in either is changed in the other. tests/property/test_bars.py and
    tests/sim/test_line_events.py compare their rows.
    """
    p = state.params[0]
    if not r.flags & EVENT_END:
        return n
    if not p.top & TOP_QUOTE:
        if not (r.kind == BOOK_DELTA or r.kind == TRADE or r.kind == BOOK_SNAPSHOT):
            return n
        s = state.features[np.int64(r.instrument_id)]
        if not two_sided(m):
            s.linked = 0
            return n
        bid, ask, bid_lots, ask_lots = best_price(m, BID), best_price(m, ASK), best_lots(m, BID), best_lots(m, ASK)
    else:
        if not (r.kind == QUOTE or r.kind == TRADE):
            return n
        s = state.features[np.int64(r.instrument_id)]
        if s.quoted == 0 or m.bid_lots <= 0 or m.ask_lots <= 0:
            s.linked = 0
            return n
        bid, ask, bid_lots, ask_lots = m.bid_ticks, m.ask_ticks, m.bid_lots, m.ask_lots
    row = out[n]
    begin(row, r, BY_FEATURES, FEATURE, n)
    update(s, p, bid, bid_lots, ask, ask_lots, row["values"])
    set_slot_word(row, 14, p.schema)
    set_slot_word(row, 15, np.uint64(0))
    fold_digest(state.digest[0], row)
    return n + 1 if p.schema == PLAIN else add_levels(state, m, out, n)


@kernel
def plain_bar(state, r, out):
    """The bar of `interval_ns` that trade `r` is behind of, with its indicators; returns the rows in `out`."""
    n = add_trade(state.bars[np.int64(r.instrument_id)], state.params[0].interval_ns, r, out[0])
    if n == 0:
        return 0
    begin(out[0], r, BY_FEATURES, BAR, 0)
    fold_digest(state.digest[0], out[0])
    return after_bar(state, out, n) if state.params[0].behind_bars else n


@kernel
def step_apart(state, m, r, out):
    """`step_features` of a run with cut bars, features of events or factors, at a trade or the end of an event: apart, so that others pay nothing."""
    p = state.params[0]
    if p.interval_ns == 0:
        n = cut_bars(state, r, out)
    else:
        n = plain_bar(state, r, out) if r.kind == TRADE else 0
    if r.kind == TIMER and p.top & UNIVERSE:
        n = fold_rows(state, out, n, score_until(state.universe, r, out, n))
    n = add_top(state, m, r, out, n)
    if not p.top & EVENTS:
        return n
    return fold_rows(state, out, n, add_event(state.events, state.features, m, r, out, n))


@kernel(inline=True)
def step_features(state, m, r, out):
    """Rows of one input `r`, whose market record is already folded into `m`; returns how many slots of `out` they take.

    A feature row comes at EVENT_END of a trade and of whichever publishes the top of the book (params.top), and only while
    both sides are known: of quotes, not from a gap to the next one.
    """
    p = state.params[0]
    i = np.int64(r.instrument_id)
    n = 0
    if r.kind == TRADE:
        if p.bar_ns == 0:
            return step_apart(state, m, r, out)
        n = add_trade(state.bars[i], p.bar_ns, r, out[0])
        if n:
            begin(out[0], r, BY_FEATURES, BAR, 0)
            fold_digest(state.digest[0], out[0])
            if p.behind_bars:
                n = after_bar(state, out, n)
    elif r.kind == QUOTE:
        state.features[i].quoted = 1
    elif r.kind == COMMAND and r.action == END_OF_FEED:
        return close_all_bars(state, r, out)
    elif r.kind == BAR:
        return pass_bar(state, r, out)
    elif r.kind == GAP or r.kind == CONNECTION:
        return pass_loss(state, r)
    if not r.flags & EVENT_END:
        return n
    if p.top == TOP_BOOK:
        if not (r.kind == BOOK_DELTA or r.kind == TRADE or r.kind == BOOK_SNAPSHOT):
            return n
        if not two_sided(m):
            state.features[i].linked = 0
            return n
        bid, ask, bid_lots, ask_lots = best_price(m, BID), best_price(m, ASK), best_lots(m, BID), best_lots(m, ASK)
    elif p.top >= CUT:
        return step_apart(state, m, r, out)
    else:
        if not (r.kind == QUOTE or r.kind == TRADE):
            return n
        if state.features[i].quoted == 0 or m.bid_lots <= 0 or m.ask_lots <= 0:
            state.features[i].linked = 0
            return n
        bid, ask, bid_lots, ask_lots = m.bid_ticks, m.ask_ticks, m.bid_lots, m.ask_lots
    row = out[n]
    begin(row, r, BY_FEATURES, FEATURE, n)
    update(state.features[i], p, bid, bid_lots, ask, ask_lots, row["values"])
    schema = p.schema
    set_slot_word(row, 14, schema)
    set_slot_word(row, 15, np.uint64(0))
    fold_digest(state.digest[0], row)  # while its words are in registers
    return n + 1 if schema == PLAIN else add_levels(state, m, out, n)


@kernel(inline=True)
def step_checkpoint(state, r, n, rows):
    """After the rows of input `r`, in rows[:n]: 1 when a checkpoint is due, which is then in rows[n], else 0."""
    digest = state.digest[0]
    if r.seq < digest.due and not (r.kind == COMMAND and r.action == END_OF_FEED):
        return 0
    digest.due += state.params[0].checkpoint
    out = rows[n]
    zero_slot(out)
    out.kind = CHECKPOINT
    out.digest = np.int64(digest.value)
    out.rows = digest.rows
    stamp(out, r, BY_FEATURES, np.int64(rows[n - 1].row) + 1 if n else 0)
    return 1
