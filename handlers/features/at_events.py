"""The configured features of events in the line: they take every trade and every change of the book, a FEATURE row of theirs is written at event ends.

    record ──► EVENT_INPUT of its instrument, in ticks and lots ──► every feature of the set ──► a long row, eight values a slot,
                                                                                            every `every`-th event end

A trade is an event wherever it stands in its venue's; the book is read at the end of one alone, so a trade in the middle finds it as it
stood before. Of the book it is what publishes the top (line.top): its deltas and snapshots, or the quotes, which have one level. While
a side is empty or the book is not valid there are no levels and no mid, and trades go on. A gap is an event of its own without a book
and without a row: what is held against what was before begins again, and does not take what was missed for one change. Quotes are not
known from a gap to the next one. Time is the line's, which never falls.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from handlers.domain.book import NO_LEVEL, level_at, level_key, next_level, two_sided
from handlers.domain.memory import address_of
from handlers.domain.schema import event_features_id
from handlers.features.at_bars import LINE, write_row
from handlers.features.declare import EVENT_INPUT, ON_BOOK, ON_GAP, ON_TRADE
from handlers.features.feature_set import PLAN, FeatureSet, update_features
from transport.compiled import kernel
from transport.records import ASK, BID, BOOK_DELTA, BOOK_SNAPSHOT, EVENT_END, QUOTE, TRADE, VALUES_PER_SLOT

SHAPE = np.dtype(
    [
        ("parts", "i8"),  # slots a row, 0 = none are configured
        ("lines", "i8"),  # lines of memory an instrument
        ("schema", "u8"),
        ("every", "i8"),  # event ends a row
        ("levels", "i8"),  # of the book a side that some feature reads
        ("quotes", "i8"),  # 1: the top is the quotes'
    ]
)  # fmt: skip


class EventFeatures(NamedTuple):
    """Arrays of the set, of no use where `shape.parts` is 0; `inputs` holds what stands of each instrument, `due` event ends to its next row."""

    plan: np.ndarray
    shape: np.ndarray
    memory: np.ndarray
    inputs: np.ndarray
    due: np.ndarray
    row: np.ndarray


def new_event_features(made: FeatureSet | None, instruments: int, every: int, quotes: bool) -> EventFeatures:
    """Memory of every instrument. The machine code and the parameters stay the set's, which must live as long."""
    count = len(made.columns) if made else 0
    shape, memory = np.zeros(1, SHAPE), np.zeros(1, LINE)
    if made and count:
        memory = made.new_memory(max(1, instruments)).reshape(-1).view(LINE)
        shape["parts"], shape["lines"] = -(-count // VALUES_PER_SLOT), made.slots // VALUES_PER_SLOT
        shape["schema"], shape["every"] = event_features_id(made.schema_hash) | count << 32, every
        shape["levels"], shape["quotes"] = max(_levels(p.params) for p in made.placed), quotes
    inputs = np.zeros(max(1, instruments), EVENT_INPUT)
    inputs["mid"] = np.nan
    row = np.zeros(max(1, int(shape["parts"][0])), LINE)
    due = np.full(max(1, instruments), every, np.int64)
    return EventFeatures(made.plan if made and count else np.zeros(1, PLAN), shape, memory, inputs, due, row)


def _levels(params: np.ndarray) -> int:
    """Levels that a feature with these parameters reads."""
    return int(params["levels"][0]) if "levels" in (params.dtype.names or ()) else 1


@kernel
def take_quote(x, m, known):
    """The last quote, if it is `known`, as the one level of the input."""
    there = known and m.bid_lots > 0 and m.ask_lots > 0
    x.bid_ticks[0], x.bid_lots[0] = (m.bid_ticks, m.bid_lots) if there else (0, 0)
    x.ask_ticks[0], x.ask_lots[0] = (m.ask_ticks, m.ask_lots) if there else (0, 0)
    x.mid = (m.bid_ticks + m.ask_ticks) * 0.5 if there else np.nan


@kernel
def take_side(m, side, ticks, lots, levels):
    """The best `levels` of a side of the book, zeros behind the last."""
    key = m.best[side - BID] if two_sided(m) else NO_LEVEL
    for k in range(levels):
        if key == NO_LEVEL:
            ticks[k] = lots[k] = 0.0
        else:
            price = level_key(side, key)
            ticks[k], lots[k] = price, level_at(m, side, price)[0]
            key = next_level(m, side - BID, key)


@kernel
def take_event(state, x, m, r, known):
    """Record `r` as the input of features, the book of its instrument `m` (or its quote, if it is `known`) as of now if an event ends here."""
    shape = state.shape[0]
    x.ts_ns = r.ts_seq_ns
    x.kind = ON_BOOK
    if r.kind == TRADE:
        x.kind = ON_TRADE
        x.price, x.qty, x.side = r.price_ticks, r.qty_lots, r.side
    if not r.flags & EVENT_END:
        return
    if shape.quotes:
        take_quote(x, m, known)
        return
    take_side(m, BID, x.bid_ticks, x.bid_lots, shape.levels)
    take_side(m, ASK, x.ask_ticks, x.ask_lots, shape.levels)
    x.mid = (x.bid_ticks[0] + x.ask_ticks[0]) * 0.5 if two_sided(m) else np.nan


@kernel
def feed(state, i):
    """Let the features of instrument `i` take what stands in its input; their values are then in the row."""
    memory = state.memory[i * state.shape[0].lines]
    fault = update_features(state.plan, address_of(memory), address_of(state.inputs[i]), address_of(state.row[0]))
    assert fault == 0, "a feature raised"


@kernel
def add_gap(state, i, when):
    """Let the features of instrument `i` take a gap: there is no book, and the trade that stands in the input was before it."""
    x = state.inputs[i]
    x.ts_ns, x.kind, x.mid = when, ON_GAP, np.nan
    for k in range(state.shape[0].levels):
        x.bid_ticks[k] = x.bid_lots[k] = x.ask_ticks[k] = x.ask_lots[k] = 0.0
    feed(state, i)


@kernel
def add_event(state, tops, m, r, out, n):
    """Let the features take record `r` and write their row to out[n] when one is due; returns how many slots are in `out`.

    `tops`: FEATURE_STATE of every instrument, which knows if the last quote is from behind the last gap.
    """
    shape = state.shape[0]
    ends = r.flags & EVENT_END
    book = r.kind == QUOTE if shape.quotes else r.kind == BOOK_DELTA or r.kind == BOOK_SNAPSHOT
    if r.kind != TRADE and not (book and ends):
        return n
    i = np.int64(r.instrument_id)
    take_event(state, state.inputs[i], m, r, tops[i].quoted != 0)
    feed(state, i)
    if not ends:
        return n
    state.due[i] -= 1
    if state.due[i] > 0:
        return n
    state.due[i] = shape.every
    return write_row(out, n, r, state.row, shape.parts, shape.schema)
