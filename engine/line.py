"""The composition root: the one place that builds the line, from top to bottom as a record passes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from engine.config import LOTS_MAX, Config
from engine.errors import ConfigError
from engine.loops import CONTROL, DECIDING, LOG_ROWS, STAGES, Line, Logs, Scratch, run_fused
from engine.observe.histogram import HISTOGRAM
from engine.sessions import cut_bars_of
from handlers.contract import EVENT_ROW, FACTOR_ROW, INDICATOR_ROW, Handler
from handlers.domain.book import new_markets
from handlers.domain.queue import NEVER, push_first
from handlers.domain.schema import FACTOR_SCORES, features_of
from handlers.domain.terms import new_terms
from handlers.features import stage as features
from handlers.features.at_universe import FactorSet, new_factor_set
from handlers.features.catalogue import INDICATORS, MICROSTRUCTURE
from handlers.features.declare import EVENT_INPUT, FeatureError
from handlers.features.factors import RANK, Z_SCORE
from handlers.features.feature_set import FeatureSet
from handlers.ingest.sequencer import new_sequencer
from handlers.orders import stage as orders
from handlers.orders.brokers.paper import new_paper
from handlers.risk import stage as risk
from handlers.risk.checks import LIMITS, LINE_LIMITS, SPREAD_ANY
from handlers.signals import stage as signals
from handlers.signals.errors import StrategyError
from handlers.signals.loading import LoadedStep, compile_step, new_state
from transport.compiled import interruptible
from transport.instruments import Instrument
from transport.records import (
    BY_INGEST, COMMAND, EVENT_END, FEATURE, INSTRUMENT, NO_INSTRUMENT, SET_CASH, SET_POSITION, START, empty,
)  # fmt: skip

UNLIMITED = 2**62
FEATURE_ROWS_MAX = 1 << 13  # of one input: a quarter of a log between two takings, half a ring between two stages
LOT_UNITS_MAX = 2**32  # of two lots' common unit: 2**30 of the coarsest, many times what is traded, still fit int64


@dataclass
class Strategy:
    """A strategy in the line: its number (from 1), its compiled step, a state per instrument, its parameters."""

    name: str
    number: int
    loaded: LoadedStep
    instruments: list[int]
    states: np.ndarray[Any, Any]
    params: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Held:
    """A position that the run begins with: whose (from 1), in which instrument, signed lots and the money units paid for them."""

    strategy: int
    instrument: int
    lots: int
    cost: int


@dataclass
class Built:
    """A line ready to run, and what must live as long as it does."""

    line: Line
    instruments: tuple[Instrument, ...]
    strategies: list[Strategy]
    terms: np.ndarray[Any, Any]
    held: list[Held]
    indicators: FeatureSet | None
    events: FeatureSet | None


def indicators_of(config: Config) -> FeatureSet | None:
    """What is computed at each bar, None when nothing is; raises ConfigError for a name or a parameter there is not."""
    return _configured(config, events=False)


def event_features_of(config: Config) -> FeatureSet | None:
    """What is computed at each event, None when nothing is; raises ConfigError as `indicators_of`."""
    return _configured(config, events=True)


def factors_of(config: Config, instruments: Sequence[Instrument]) -> FactorSet | None:
    """What is computed over the universe at each bar, None when nothing is; raises ConfigError for windows that do not go together and unknown symbols."""
    f = config.factors
    if not f.enabled:
        return None
    windows = {name: getattr(f, name) for name in ("momentum", "skip", "reversal", "volatility", "liquidity", "high", "holes_max")}
    try:
        return new_factor_set(
            instruments, {w.name: getattr(f.weights, w.name) for w in msgspec.structs.fields(f.weights)}, f.groups, f.period_bars,
            normal=RANK if f.normal == "rank" else Z_SCORE, bound=f.bound, share_min=f.share_min, **windows,
        )  # fmt: skip
    except ValueError as error:
        raise ConfigError(f"[factors]: {error}") from error


def _configured(config: Config, events: bool) -> FeatureSet | None:
    known = (*INDICATORS, *MICROSTRUCTURE)
    of_events = {f.name for f in known if f.reads == EVENT_INPUT}
    wanted = [(f.name, dict(f.params)) for f in config.feature if (f.name in of_events) == events]
    try:
        return FeatureSet(wanted, known) if wanted else None
    except FeatureError as error:
        raise ConfigError(f"[[feature]]: {error}") from error


def _check_values(wanted: str, handler: Handler, config: Config, indicators: FeatureSet | None, events: FeatureSet | None) -> None:
    """Raises ConfigError for a strategy that sees more values of a row than there are."""
    rows = (
        (INDICATOR_ROW, "indicators", indicators.columns if indicators else (), "[[feature]] is"),
        (EVENT_ROW, "features of events", events.columns if events else (), "[[feature]] of events is"),
        (FACTOR_ROW, "factors", FACTOR_SCORES if config.factors.enabled else (), "factors are"),
    )
    count = len(features_of(config.features.depth))
    if handler.values > count and (FEATURE in handler.reads or not {INDICATOR_ROW, EVENT_ROW, FACTOR_ROW} & set(handler.reads)):
        raise ConfigError(f"strategy {wanted} sees {handler.values} values of a feature row, which has {count}: raise features.depth")
    for row, what, columns, section in rows:
        if row not in handler.reads:
            continue
        if not columns:
            raise ConfigError(f"strategy {wanted} reads {what}, and no {section} configured")
        if handler.values > len(columns):
            raise ConfigError(f"strategy {wanted} sees {handler.values} values of the {what}' row, which has {len(columns)}")


def load_strategies(
    config: Config, instruments: Sequence[Instrument], base: Path, indicators: FeatureSet | None = None, events: FeatureSet | None = None
) -> list[Strategy]:
    """Compile every strategy of the configuration; raises StrategyError or ConfigError naming it."""
    names = {i.name: n for n, i in enumerate(instruments)}
    found = []
    for number, wanted in enumerate(config.strategy, start=1):
        loaded = compile_step(wanted.path, base)
        if "*" in wanted.instruments:
            places = list(range(len(instruments)))
        else:
            missing = [n for n in wanted.instruments if n not in names]
            if missing:
                raise ConfigError(f"strategy {wanted.name}: no instrument {missing[0]!r}; there are {', '.join(names)}")
            places = sorted(names[n] for n in wanted.instruments)
        try:
            params = loaded.handler.pack_params(wanted.params)
        except ValueError as error:
            raise StrategyError(f"strategy {wanted.name}: {error}") from error
        _check_values(wanted.name, loaded.handler, config, indicators, events)
        shared = wanted.scope == "strategy"
        states = new_state(loaded.handler, 1 if shared else max(1, len(places)))
        found.append(Strategy(wanted.name, number, loaded, places, states, params))
    return found


def _subscriptions(strategies: Sequence[Strategy]) -> list[tuple[Any, ...]]:
    out = []
    for s in strategies:
        handler = s.loaded.handler
        for k, instrument in enumerate(s.instruments):
            state = s.states[min(k, len(s.states) - 1)].ctypes.data
            out.append(
                (
                    instrument,
                    s.number,
                    s.loaded.address,
                    state,
                    s.params.ctypes.data,
                    handler.rows_max,
                    handler.depth,
                    handler.values,
                    handler.reads,
                )
            )
    return out


def money_units(value: Decimal, config: Config, what: str) -> int:
    """An amount of the base currency in money units; raises ConfigError where it is not a whole number of them."""
    units = Fraction(value) * 10**config.account.money_decimals
    if units.denominator != 1 or abs(units) >= UNLIMITED:
        raise ConfigError(f"{what} = {value} is not a whole number of 1e-{config.account.money_decimals}, or too large")
    return int(units)


def _limits(config: Config, instruments: Sequence[Instrument]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rules = config.risk
    limits = np.zeros(max(1, len(instruments)), LIMITS)
    for row, instrument in zip(limits, instruments, strict=False):
        row["position_max_lots"] = _whole(rules.position_max, Fraction(instrument.lot))
        row["notional_max"] = money_units(rules.notional_max, config, "risk.notional_max")
        row["qty_max_lots"] = LOTS_MAX
        row["collar_bp"] = rules.price_collar_bp
        row["stale_ns"] = rules.stale_data_ms * 1_000_000
        row["inverse"] = instrument.inverse
        row["spread_min"] = {"refuse": 0, "refuse_locked": 1, "allow": SPREAD_ANY}[rules.crossed_book]
    line = np.zeros(1, LINE_LIMITS)
    line["position_total_max"] = UNLIMITED
    if rules.position_total_max is not None and instruments:
        unit = _common_unit(instruments)
        limits["lot_units"] = [int(Fraction(i.lot) / unit) for i in instruments]
        line["position_total_max"] = _whole(rules.position_total_max, unit)
    line["notional_total_max"] = money_units(rules.notional_total_max, config, "risk.notional_total_max")
    line["rate"], line["burst"] = rules.orders_per_second_max, rules.orders_burst
    line["duplicate_ns"] = rules.duplicate_window_us * 1000
    line["open_orders_max"] = rules.open_orders_max
    return limits, line


def _whole(limit: Decimal | None, unit: Fraction) -> int:
    """A quantity in whole `unit`s, rounded down; UNLIMITED for None and for what is as much."""
    return UNLIMITED if limit is None else min(UNLIMITED, int(Fraction(limit) / unit))


def _common_unit(instruments: Sequence[Instrument]) -> Fraction:
    """The largest quantity that every instrument's lot is a whole multiple of; raises ConfigError for lots too far apart."""
    lots = [Fraction(i.lot) for i in instruments]
    finest = math.lcm(*(lot.denominator for lot in lots))
    unit = Fraction(math.gcd(*(int(lot * finest) for lot in lots)), finest)
    for lot, instrument in zip(lots, instruments, strict=True):
        if lot / unit > LOT_UNITS_MAX:
            raise ConfigError(f"risk.position_total_max: the lot of {instrument.name} is more than {LOT_UNITS_MAX} times {unit}")
    return unit


def _held(
    config: Config, instruments: Sequence[Instrument], terms: np.ndarray[Any, Any], limits: np.ndarray[Any, Any]
) -> list[Held]:
    """`account.positions` in lots and money units, rounded to one; raises ConfigError for one that cannot be counted.

    The price is what was paid on average, which need not be on the grid.
    """
    names = {i.name: n for n, i in enumerate(instruments)}
    strategies = {s.name: n for n, s in enumerate(config.strategy, start=1)}
    out = []
    for at, held in enumerate(config.account.positions):
        key = f"account.positions.{at}"
        if held.instrument not in names:
            raise ConfigError(f"{key}: no instrument {held.instrument!r}; there are {', '.join(names)}")
        number = names[held.instrument]
        ticks = Fraction(held.price) / Fraction(instruments[number].tick) * held.lots
        cost = round(ticks * Fraction(int(terms[number]["num"]), int(terms[number]["den"])))
        counted = (int(ticks), cost, held.lots * int(limits[number]["lot_units"]))
        if max(map(abs, counted)) >= UNLIMITED:
            raise ConfigError(f"{key}: {held.lots} lots of {held.instrument} at {held.price} are too much to count")
        out.append(Held(strategies[held.strategy], number, held.lots, cost))
    return out


def build_line(config: Config, instruments: Sequence[Instrument], feeds: int, epoch: int, base: Path) -> Built:
    """The whole line for one thread: INGEST, FEATURES, SIGNALS, RISK, ORDERS and the paper exchange, all memory taken."""
    if len(instruments) > features.INSTRUMENTS_MAX:
        raise ConfigError(f"{len(instruments)} instruments; a line takes at most {features.INSTRUMENTS_MAX}")
    n = len(instruments)
    if n * len(config.strategy) > risk.ACCOUNTS_MAX:
        raise ConfigError(f"{len(config.strategy)} strategies and {n} instruments; a line takes {risk.ACCOUNTS_MAX} pairs of them")
    account, wait, f = config.account, config.latency, config.features
    terms = new_terms(instruments, account.money_decimals, account.maker_fee_bp, account.taker_fee_bp)
    sequencer = new_sequencer(feeds, n, config.line.timer_interval_ms * 1_000_000, epoch, account.at_end == "flatten")
    markets, books = new_markets([i.book == "l3" for i in instruments])
    indicators, events = indicators_of(config), event_features_of(config)
    factors = factors_of(config, instruments)
    rows = features.rows_max(n, indicators, config.bars.of == "quotes", factors is not None)
    if rows > FEATURE_ROWS_MAX:
        raise ConfigError(f"{n} instruments with {len(indicators.placed) if indicators else 0} indicators{' and factors' if factors else ''} make {rows} rows at the end; a line takes {FEATURE_ROWS_MAX}")
    strategies = load_strategies(config, instruments, base, indicators, events)
    limits, line_limits = _limits(config, instruments)
    cut = cut_bars_of(config.bars, instruments)
    line = Line(
        control=np.zeros(1, CONTROL),
        sequencer=sequencer,
        markets=markets,
        books=books,
        features=features.new_features(
            n, f.ema_fast, f.ema_slow, f.volatility_window, 0 if cut else config.bars.interval_s * 10**9, config.line.top == "quote",
            config.line.checkpoint_inputs, f.depth, cut, indicators, events, f.row_every,
            factors, config.bars.close_after_ms * 1_000_000,
        ),
        signals=signals.new_signals(_subscriptions(strategies), n),
        risk=risk.new_risk(limits, line_limits, len(strategies), terms),
        orders=orders.new_orders(len(strategies), n, terms),
        paper=new_paper(
            n, terms, empty(2), wait.order_out_us * 1000, wait.order_out_jitter_us * 1000, wait.report_back_us * 1000,
            wait.report_back_jitter_us * 1000, config.line.seed,
        ),
        logs=Logs(np.zeros(len(DECIDING), np.int64), *(empty(LOG_ROWS) for _ in DECIDING)),
        scratch=Scratch(
            empty(2), empty(rows), empty(signals.OUT_ROWS), empty(risk.OUT_ROWS), empty(orders.OUT_ROWS)
        ),
        histograms=np.zeros(len(STAGES), HISTOGRAM),
    )  # fmt: skip
    line.control["sample_mask"] = _mask(config.line.latency_sample)
    line.control["log_features"] = config.line.log_features
    line.control["until_ns"] = NEVER
    return Built(line, tuple(instruments), strategies, terms, _held(config, instruments, terms, limits), indicators, events)


def load_kernels() -> None:
    """Compile the line's loop, or load it from the disk cache, by running an empty line to its end: before any clock starts."""
    with interruptible():
        run_fused(build_line(Config(), (), 0, 1, Path()).line, 0)


def _mask(sample: int) -> int:
    """Low bits of `seq` that are zero on a timed input: every `sample`-th, rounded up to a power of two; 0 times one in 2**62."""
    return (1 << (sample - 1).bit_length()) - 1 if sample else 2**62 - 1


def sequence_first_words(built: Built, config: Config, first_ns: int, config_id: int, instruments_id: int) -> None:
    """Queue what the input log begins with, due at the first record's time: START, the instruments, cash, positions."""
    commands = built.line.sequencer.commands
    row = empty(1)

    def say(kind: int, instrument: int = NO_INSTRUMENT, **fields: int) -> None:
        row.view(np.uint8)[:] = 0
        first = row[0]
        first["kind"], first["flags"], first["source_id"], first["parts"] = kind, EVENT_END, BY_INGEST, 1
        first["instrument_id"], first["ts_recv_ns"] = instrument, first_ns
        for name, value in fields.items():
            first[name] = value
        push_first(commands, row, first_ns)

    currency = int.from_bytes(config.account.currency.encode("ascii"), "little")
    say(
        START, config_id=config_id, instruments_id=instruments_id, seed=config.line.seed, line_id=config.line.line_id,
        currency=currency,
    )  # fmt: skip
    for number, instrument in enumerate(built.instruments):
        tick, lot, terms = _parts(instrument.tick), _parts(instrument.lot), built.terms[number]
        say(
            INSTRUMENT, number, blob_id=instruments_id, tick_mantissa=tick[0], tick_exponent=tick[1], lot_mantissa=lot[0],
            lot_exponent=lot[1], notional_num=int(terms["num"]), notional_den=int(terms["den"]),
            maker_num=int(terms["maker_num"]), taker_num=int(terms["taker_num"]), fee_den=int(terms["fee_den"]),
        )  # fmt: skip
    say(COMMAND, action=SET_CASH, amount=money_units(config.account.cash, config, "account.cash"))
    for held in built.held:
        say(
            COMMAND, held.instrument, action=SET_POSITION, qty_lots=held.lots, basis=held.cost, strategy_id=held.strategy
        )


def _parts(value: Decimal) -> tuple[int, int]:
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    return int("".join(map(str, digits))), exponent


def troubles(line: Line) -> dict[str, int]:
    """What tables had no room for, and reports and messages that fit nothing, counted; what did not happen is left out."""
    orders, paper = line.orders.line[0], line.paper.paper[0]
    found = {
        "BOOK_LEVELS_DROPPED": line.markets["dropped"].sum(), "BOOK_ORDERS_DROPPED": line.books["dropped"].sum(),
        "BOOK_ORDERS_UNKNOWN": line.markets["unknown_orders"].sum(), "FILLS_MISSED": paper["crowded"],
        "BAR_TRADES_LATE": line.features.cut.open["late"].sum(), "BAR_LATE": line.features.universe.clock["late"].sum(),
        "BAR_OF_OTHER_CLOCK": line.features.indicators.shape["others"].sum(), "BAR_REPEATED": line.features.indicators.shape["again"].sum(),
        "REPORTS_INVALID": orders["invalid"], "FILLS_LATE": orders["late"], "REPEATED": orders["duplicate"],
    }  # fmt: skip
    return {name: int(n) for name, n in found.items() if n}
