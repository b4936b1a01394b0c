"""The configured indicators in the line: a FEATURE row of their own schema behind each bar that closes.

    bar ──► BAR_INPUT in ticks and lots ──► every feature of the set ──► a long row, eight values a slot

Indicators and factors of the universe run on one clock, that of `[bars]`, and a bar counts once. Bars that the line cuts are of that
clock. Of a feed's own, which may come beside them or instead, those are (`on_clock`) that `[bars]` could have cut, of its `interval_s`
and of its `of`, and with a calendar pieces of its sessions; days beside minutes, and all where bars are cut by what was traded, are
handed on and counted in `others`. A bar that does not open after the last of its instrument is left out and counted in `again`, so
that a feed's own bars and ours of the same minutes do not add up; bars cut by what was traded all count, for several may open at one
time. Of bars of quotes the bid's count. A session is the bar's own, else the calendar's, else a day of UTC. INGEST lets in no bar
of a feed that ends over an hour from now, behind which no other would count.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from handlers.domain.memory import address_of, set_slot_word
from handlers.domain.rows import begin
from handlers.domain.schema import indicators_id
from handlers.features.declare import BAR_INPUT
from handlers.features.feature_set import PLAN, FeatureSet, update_features
from transport.compiled import kernel
from transport.records import ASK, BY_FEATURES, FEATURE, VALUES_PER_SLOT

LINE = np.dtype([("values", "f8", (VALUES_PER_SLOT,))])  # of memory, or the values of a slot
SESSION_NS = 86_400 * 10**9
SHAPE = np.dtype(
    [
        ("parts", "i8"),  # slots a row, 0 = none are configured
        ("lines", "i8"),  # lines of memory an instrument
        ("schema", "u8"),
        ("sized", "i8"),  # 1: bars are cut by what was traded
        ("others", "i8"), ("again", "i8"),  # bars left out: of another clock, and not after the last
    ]
)  # fmt: skip
BEFORE_ALL = -(2**63)


class Indicators(NamedTuple):
    """Arrays of the set, of no use where `shape.parts` is 0, but for the counts there and `opened`: when the last bar of each instrument that counted opened."""

    plan: np.ndarray
    shape: np.ndarray
    memory: np.ndarray
    opened: np.ndarray
    input: np.ndarray
    row: np.ndarray


def new_indicators(made: FeatureSet | None, instruments: int, sized: bool) -> Indicators:
    """Memory of every instrument; `sized` takes several bars of one time. The machine code and the parameters stay the set's, which must live as long."""
    count = len(made.columns) if made else 0
    shape = np.zeros(1, SHAPE)
    shape["sized"] = sized
    memory = np.zeros(1, LINE)
    if made and count:
        memory = made.new_memory(max(1, instruments)).reshape(-1).view(LINE)
        shape["parts"], shape["lines"] = -(-count // VALUES_PER_SLOT), made.slots // VALUES_PER_SLOT
        shape["schema"] = indicators_id(made.schema_hash) | count << 32
    row = np.zeros(max(1, int(shape["parts"][0])), LINE)
    opened = np.full(max(1, instruments), BEFORE_ALL, np.int64)
    return Indicators(made.plan if made and count else np.zeros(1, PLAN), shape, memory, opened, np.zeros(1, BAR_INPUT), row)


@kernel
def take_bar(x, bar):
    """A BAR row as the input of features: prices in ticks, volume in lots."""
    x.open, x.high, x.low, x.close = bar.open_ticks, bar.high_ticks, bar.low_ticks, bar.close_ticks
    x.volume = bar.volume_lots
    x.session = bar.session if bar.session != 0 else bar.ts_open_ns // SESSION_NS


@kernel
def write_slot(slot, cause, number, values, schema):
    """A FEATURE row of one slot, the `number`-th of its input, with `values`, a LINE."""
    begin(slot, cause, BY_FEATURES, FEATURE, number)
    for k in range(VALUES_PER_SLOT):
        slot["values"][k] = values["values"][k]
    set_slot_word(slot, 14, schema)
    set_slot_word(slot, 15, np.uint64(0))


@kernel
def write_row(out, n, cause, row, parts, schema):
    """A FEATURE row of `parts` slots from out[n] on, with the values of `row`; returns how many slots are in `out`."""
    for part in range(parts):
        write_slot(out[n + part], cause, n, row[part], schema)
        out[n + part].part, out[n + part].parts = part, parts
    return n + parts


@kernel
def takes_bar(state, bar):
    """Whether `bar`, one of the clock, counts, which it then has."""
    i, shape = np.int64(bar.instrument_id), state.shape[0]
    if bar.side == ASK:
        return False
    if shape.sized == 0 and bar.ts_open_ns <= state.opened[i]:
        shape.again += 1
        return False
    state.opened[i] = bar.ts_open_ns
    return True


@kernel
def add_indicators(state, out, n):
    """Write the row of the bar in out[n - 1], which counts, behind it; returns how many slots are in `out`."""
    bar, shape = out[n - 1], state.shape[0]
    i = np.int64(bar.instrument_id)
    x, row = state.input[0], state.row[0]
    take_bar(x, bar)
    fault = update_features(state.plan, address_of(state.memory[i * shape.lines]), address_of(x), address_of(row))
    assert fault == 0, "a feature raised"
    return write_row(out, n, bar, state.row, shape.parts, shape.schema)
