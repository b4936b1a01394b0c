"""The cross-section factors in the line: the universe is all its instruments, stepped once a bar, a FEATURE row an instrument.

    bar ──► close, traded value ──► the universe bar that waits ──► step of all instruments ──► a row for each that has a close in it
                                     its time: the bar's close

The bars are those that indicators count (`takes_bar`). The universe bar that waits is over, and stepped, by the first of: a bar that
closes later; a timer of the line `bars.close_after_ms` after its close; the end of the feed. So no score sees a close of a later
time, nor comes before one that it has seen. A bar that closes before the one that waits, or when its own was stepped, is late: it
counts nowhere but in `late`, and its instrument has no close there, which is a hole in its windows. Where instruments are quiet, bars
that a timer closes (`bars.close_on`) are not late. INGEST lets in no bar that ends over an hour from now, so that the universe's time
is ahead of the line's by as much at most.

Values are those of the instruments' own decimals: a close is the float next to its decimal, so that a panel of the same closes
(`handlers.features.factor_panel`) gives the same bits. Traded value is close * volume, of inverse contracts volume, times the
multiplier, in the currency of the instrument; of bars of quotes, whose volume is what was bid, it is not known. The step is called
through its address: its arrays of two dimensions stay out of the loop, and nobody compiles it who has no factors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from handlers.domain.memory import address_of, call_step, pointer_at
from handlers.domain.schema import FACTOR_SCORES, Value, factors_id
from handlers.features.at_bars import BEFORE_ALL, LINE, write_slot
from handlers.features.cross_section import RADIX, Scratch
from handlers.features.factors import FACTOR_PARAMS, FACTORS, HEAD, Factors, new_factors, step_factors
from handlers.features.feature_set import ONE
from transport.compiled import F64, I64, STEP, carray, entry, kernel, load
from transport.instruments import Instrument
from transport.records import NO_SIDE, VALUES_PER_SLOT

VERSION = 2  # of what the scores mean
FIVE = len(FACTORS)
assert FIVE + 1 == len(FACTOR_SCORES) <= VALUES_PER_SLOT, "the scores and the composite are one slot"
CLOCK = np.dtype(
    [
        ("close_ns", "i8"),  # of the universe bar that waits, or of the last one that was stepped
        ("waiting", "i8"),  # bars in it, 0 = none waits
        ("after_ns", "i8"),  # a timer this long after it steps it
        ("late", "i8"),  # bars that came when theirs was over
        ("step", "i8"),  # address
        ("schema", "u8"),
    ]
)  # fmt: skip
SCALE = np.dtype([("tick", "f8"), ("ticks", "f8"), ("lot", "f8"), ("lots", "f8"), ("inverse", "i8")])  # fractions: of a tick, of a lot times the multiplier
_SCRATCH = tuple(f"scratch_{name}" for name in Scratch._fields)
PLACES = np.dtype([(name, "i8") for name in ("instruments", "group_count", "period_bars", *Factors._fields[:-1], *_SCRATCH, "members")])  # offsets, but for the first three


@dataclass(frozen=True)
class FactorSet:
    """What is configured: names of the values, the schema in words and its SHA-256, the state that a line begins with (copied)."""

    columns: tuple[Value, ...]
    schema: str
    schema_hash: str
    factors: Factors
    scales: np.ndarray[Any, Any]
    period_bars: int


class Universe(NamedTuple):
    """Arrays of the universe, of no use where no factors are configured; `bar` is closes, then traded values, NaN where there is none."""

    clock: np.ndarray
    places: np.ndarray
    memory: np.ndarray
    scales: np.ndarray
    bar: np.ndarray
    rows: np.ndarray


def new_factor_set(
    instruments: Sequence[Instrument], weights: Mapping[str, float], groups: Mapping[str, str], period_bars: int = 1, **options: Any
) -> FactorSet:
    """Factors over `instruments`: `options` as `new_factors` has them, `weights` by the names in FACTORS, a group's name by symbol.

    Who is in no group is in one with all such. Every `period_bars`-th bar ends a period. Raises ValueError for what is out of bounds
    and for a symbol that is none.
    """
    symbols = [i.symbol for i in instruments]
    unknown = [s for s in groups if s not in symbols]
    if unknown:
        raise ValueError(f"groups: no instrument has the symbol {unknown[0]!r}; there are {', '.join(symbols)}")
    labels = [groups.get(s) for s in symbols]
    distinct = list(dict.fromkeys(labels))
    codes = np.array([distinct.index(label) for label in labels] or [0], np.int64)
    chosen = tuple(float(weights[name]) for name in FACTORS)
    factors = new_factors(max(1, len(symbols)), groups=codes, weights=chosen, **options)
    scales = np.zeros(max(1, len(symbols)), SCALE)
    for row, i in zip(scales, instruments, strict=False):
        lot = Fraction(i.lot) * Fraction(i.multiplier)
        row["tick"], row["ticks"] = Fraction(i.tick).as_integer_ratio()
        row["lot"], row["lots"], row["inverse"] = *lot.as_integer_ratio(), i.inverse
    told = {**dict(sorted(options.items())), "weights": chosen, "period_bars": period_bars, "groups": list(zip(symbols, labels, strict=True))}
    schema = f"factors version {VERSION}\n" + "".join(f"{name} {value!r}\n" for name, value in told.items())
    return FactorSet(FACTOR_SCORES, schema, hashlib.sha256(schema.encode()).hexdigest(), factors, scales, period_bars)


def new_universe(made: FactorSet | None, after_ns: int) -> Universe:
    """A universe that has seen no bar; a timer `after_ns` after a bar's close steps it. The step is compiled here, or loaded."""
    clock, places = np.zeros(1, CLOCK), np.zeros(1, PLACES)
    clock["close_ns"], clock["after_ns"] = BEFORE_ALL, after_ns
    if made is None:
        return Universe(clock, places, np.zeros(1, LINE), np.zeros(1, SCALE), np.zeros(2, ONE), np.zeros(1, LINE))
    load(step_universe)
    clock["step"], clock["schema"] = entry(step_universe), factors_id(made.schema_hash) | len(made.columns) << 32
    n, scratch = len(made.factors.last), made.factors.scratch
    places["instruments"], places["group_count"], places["period_bars"] = n, len(scratch.sums), made.period_bars
    arrays = [*made.factors[:-1], *scratch, np.ones(n, np.bool_)]
    memory = np.zeros(sum(-(-a.nbytes // LINE.itemsize) for a in arrays), LINE)
    at = 0
    for name, array in zip((*Factors._fields[:-1], *_SCRATCH, "members"), arrays, strict=True):
        places[name] = at
        memory.view(np.uint8)[at : at + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
        at += -(-array.nbytes // LINE.itemsize) * LINE.itemsize
    bar = np.full(2 * n, np.nan).view(ONE)
    return Universe(clock, places, memory, made.scales.copy(), bar, np.zeros(n, LINE))


@kernel(inline=True)
def factors_in(memory, places):
    """The Factors whose arrays stand in `memory` at `places`."""
    x, n = places, places.instruments
    p = carray(pointer_at(memory, x.params), (1,), FACTOR_PARAMS)
    scratch = Scratch(
        carray(pointer_at(memory, x.scratch_keys), (n,), I64), carray(pointer_at(memory, x.scratch_deviations), (n,), I64),
        carray(pointer_at(memory, x.scratch_order), (n,), I64), carray(pointer_at(memory, x.scratch_spare), (n,), I64),
        carray(pointer_at(memory, x.scratch_counts), (RADIX,), I64), carray(pointer_at(memory, x.scratch_sums), (x.group_count,), F64),
        carray(pointer_at(memory, x.scratch_members), (x.group_count,), I64),
    )  # fmt: skip
    return Factors(
        p, carray(pointer_at(memory, x.head), (1,), HEAD), carray(pointer_at(memory, x.ends), (p[0].momentum + 1, n), F64),
        carray(pointer_at(memory, x.last), (n,), F64), carray(pointer_at(memory, x.returns), (p[0].volatility, n), F64),
        carray(pointer_at(memory, x.impacts), (p[0].liquidity, n), F64), carray(pointer_at(memory, x.closes), (n, p[0].high), F64),
        carray(pointer_at(memory, x.known), (n,), I64), carray(pointer_at(memory, x.top), (n,), F64),
        carray(pointer_at(memory, x.top_bar), (n,), I64), carray(pointer_at(memory, x.sums), (2, n), F64),
        carray(pointer_at(memory, x.counts), (n,), I64), carray(pointer_at(memory, x.groups), (n,), I64),
        carray(pointer_at(memory, x.weights), (FIVE,), F64), carray(pointer_at(memory, x.raw), (FIVE, n), F64),
        carray(pointer_at(memory, x.scores), (FIVE, n), F64), carray(pointer_at(memory, x.composite), (n,), F64), scratch,
    )  # fmt: skip


@kernel(STEP, deferred=True)
def step_universe(memory, places, bar, out):
    """`step_factors` with the closes and traded values at `bar`; the scores and the composite of each instrument go to `out`, a LINE each."""
    x = carray(places, (1,), PLACES)[0]
    n = x.instruments
    s = factors_in(memory, x)
    closes = carray(bar, (2, n), F64)
    period_end = (s.head[0].bars + 1) % x.period_bars == 0
    step_factors(s, closes[0], closes[1], carray(pointer_at(memory, x.members), (n,), np.bool_), period_end)
    rows = carray(out, (n, VALUES_PER_SLOT), F64)
    for i in range(n):
        for k in range(FIVE):
            rows[i, k] = s.scores[k, i]
        rows[i, FIVE] = s.composite[i]
    return 1


@kernel
def score_universe(state, cause, out, n):
    """Step the universe bar that waits, if one does, and write the rows caused by `cause` behind out[n - 1]; returns how many slots are in `out`."""
    clock = state.clock[0]
    if clock.waiting == 0:
        return n
    clock.waiting = 0
    said = call_step(clock.step, address_of(state.memory[0]), address_of(state.places[0]), address_of(state.bar[0]), address_of(state.rows[0]))
    assert said == 1, "the factors raised"
    many = len(state.rows)
    for i in range(many):
        closed = state.bar[i].value == state.bar[i].value
        state.bar[i].value = state.bar[many + i].value = np.nan
        if closed:
            write_slot(out[n], cause, n, state.rows[i], clock.schema)
            out[n].instrument_id = i
            n += 1
    return n


@kernel
def add_to_universe(state, bar, out, n):
    """Put a bar that counts into the universe bar of its close, behind the rows of one that it shows to be over; returns how many slots are in `out`."""
    clock, i = state.clock[0], np.int64(bar.instrument_id)
    closed = bar.ts_open_ns + bar.interval_ns
    if closed < clock.close_ns or (closed == clock.close_ns and clock.waiting == 0):
        clock.late += 1
        return n
    if closed > clock.close_ns:
        n = score_universe(state, bar, out, n)
        clock.close_ns = closed
    scale = state.scales[i]
    close, volume = bar.close_ticks * scale.tick / scale.ticks, bar.volume_lots * scale.lot / scale.lots
    value = volume if scale.inverse else close * volume
    state.bar[i].value = close
    state.bar[len(state.rows) + i].value = value if bar.volume_lots > 0 and bar.side == NO_SIDE else np.nan
    clock.waiting += 1
    return n


@kernel
def score_until(state, r, out, n):
    """At timer `r`, step the universe bar that is over by it; returns how many slots are in `out`."""
    clock = state.clock[0]
    if clock.waiting == 0 or r.due_ns < clock.close_ns + clock.after_ns:
        return n
    return score_universe(state, r, out, n)
