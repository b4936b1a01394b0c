"""The configuration: one frozen tree, read once at start, handed to the parts branch by branch.

A value comes from a flag, else the environment (`TICKLINE__SECTION__KEY`), else the file, else the default below, and `resolve`
says which. `engine.dumped` writes the tree as TOML that reads back to the same tree; without origins it is canonical, so its hash
names the configuration of a run. This module loads no kernel: a wrong key is told before anything is compiled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from engine.errors import ConfigError
from engine.layered import OFF, Layers, from_environment, read_file
from transport.instruments import Instrument

ENV_PREFIX = "TICKLINE"
BUILTIN_STRATEGIES = ("momentum", "mean_reversion")
MONEY_MAX = 2**62  # half of what int64 holds, so that the sum of two amounts within it cannot wrap
SPAN_MAX_NS = 366 * 86_400 * 10**9  # of a warm-up: a year
LOTS_MAX = 2**40  # of one order, and of one position to begin with: times any price in use it still fits int64
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$", max_length=64)]
Params = dict[str, int | float]
Micros = Annotated[int, Meta(ge=0, le=86_400_000_000)]  # up to a day
MicrosBack = Annotated[int, Meta(ge=1, le=86_400_000_000)]  # a way back takes time: what answers follows its cause
Millis = Annotated[int, Meta(ge=0, le=86_400_000)]  # up to a day
Count = Annotated[int, Meta(ge=1, le=2**30)]
Window = Annotated[int, Meta(ge=1, le=10_000_000)]  # events; more than a busy instrument has in a day
Lookback = Annotated[int, Meta(ge=1, le=2048)]  # as handlers.features.factors bounds them
Weight = Annotated[float, Meta(ge=-1e6, le=1e6)]
Policy = Literal["off", "flag", "drop", "halt"]
Core = Annotated[int, Meta(ge=0, le=4095)]
Bits = Annotated[int, Meta(ge=0, le=2**62)]
ALWAYS = "24/7"  # no calendar


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file; unknown keys are refused."""


class LineConfig(Section, frozen=True):
    """`[line]`: the run itself."""

    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 1  # any constant: it is in the log, and a run repeats with it
    line_id: Annotated[int, Meta(ge=0, le=65535)] = 1  # told by START; the account's first line
    timer_interval_ms: Millis = 1000  # a stale feed is noticed within 1 s; 0 = no timer
    timer_origin_ns: Annotated[int, Meta(ge=0, le=2**62)] = 0  # timers are due at origin + k * interval; 0 = the first record's time
    top: Literal["book", "quote"] = "book"  # every recorded venue publishes a book, few a quote beside it
    latency_sample: Annotated[int, Meta(ge=0, le=2**31)] = 64  # every 64th: reading clocks must not show; 0 = none
    checkpoint_inputs: Count = 4096  # narrows a divergence to 4,096 inputs for 128 bytes of log
    log_features: bool = False  # feature rows follow from the input log, and are most of all rows


class HeldPosition(Section, frozen=True):
    """`[[account.positions]]`: what the account holds when the run begins."""

    strategy: Name  # whose it is: positions are kept by strategy
    instrument: str  # name, `SYMBOL.venue`
    lots: Annotated[int, Meta(ge=-LOTS_MAX, le=LOTS_MAX)]  # signed
    price: Decimal  # average paid; it may be below 0, as spreads are


class AccountConfig(Section, frozen=True):
    """`[account]`: the money a run begins with and what trading costs."""

    currency: Annotated[str, Meta(pattern=r"^[A-Z0-9]{2,8}$")] = "USDT"  # what the recorded perpetuals settle in
    cash: Decimal = Decimal(1_000_000)  # a round paper account, a tenth of the default notional limit
    money_decimals: Annotated[int, Meta(ge=0, le=12)] = 8  # venues of coins settle in 1e-8
    maker_fee_bp: Decimal = Decimal(2)  # entry tier of the large perpetual venues; below 0 is a rebate
    taker_fee_bp: Decimal = Decimal(5)  # same tier
    at_end: Literal["mark", "flatten"] = "mark"  # open positions are valued, no trade is invented at the last record
    positions: tuple[HeldPosition, ...] = ()


class LatencyConfig(Section, frozen=True):
    """`[latency]`: modelled delays between line and exchange; a jitter is a seeded uniform draw from 0 to its value, added."""

    order_out_us: Micros = 1000  # 1 ms: a server in the venue's region, not in its rack
    order_out_jitter_us: Micros = 0  # constant: two runs differ only in what was changed
    report_back_us: MicrosBack = 1000  # the same way back; >= 1: a report follows its cause
    report_back_jitter_us: Micros = 0  # as above


class FeaturesConfig(Section, frozen=True):
    """`[features]`: windows in events of the instrument, exponentially weighted."""

    ema_fast: Window = 50  # about 5 s of a book published every 100 ms
    ema_slow: Window = 200  # four times the fast, the usual ratio of a crossover
    volatility_window: Window = 200  # as the slow average, so that both turn over together
    depth: Annotated[int, Meta(ge=0, le=32)] = 0  # levels of the book a side in the feature row: a slot more for two of them
    row_every: Annotated[int, Meta(ge=1, le=2**31)] = 1  # ends of venue events a row of the configured features of events


class BarsConfig(Section, frozen=True):
    """`[bars]`: how trades, or quotes, are cut into bars; with the defaults but for the interval the line is at its fastest."""

    by: Literal["time", "session", "ticks", "volume", "notional", "tick_imbalance", "volume_imbalance"] = "time"  # the usual bar
    of: Literal["trades", "quotes"] = "trades"  # quotes: a pair of bars, bid and ask, by time or session
    interval_s: Annotated[int, Meta(ge=1, le=86_400)] = 60  # by time: the minute bar
    size: Decimal = Decimal(1000)  # of what `by` names but time and session: trades, quantity or money; a thousand trades are minutes
    adapt_bars: Annotated[int, Meta(ge=0, le=10_000)] = 0  # imbalance: the size follows that many bars; 0: it stays
    session: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_/]+$", max_length=16)] = ALWAYS  # an exchange's market identifier, XNYS: no bar outside its sessions or across two; by default no end of a day
    close_on: Literal["trade", "record", "timer"] = "trade"  # what closes a bar of the clock at the earliest
    close_after_ms: Millis = 1000  # timer: how long after its end; above the way here and what clocks differ by
    price_excluded_conditions: Bits = 0  # trades with one of these bits set no price
    volume_excluded_conditions: Bits = 0  # and these add no volume


class FactorWeights(Section, frozen=True):
    """`[factors.weights]`: of the scores in the composite; below 0 turns one round."""

    momentum: Weight = 1.0  # all five alike: no source weighs them
    reversal: Weight = 1.0
    low_volatility: Weight = 1.0
    liquidity: Weight = 1.0
    high: Weight = 1.0


class FactorsConfig(Section, frozen=True):
    """`[factors]`: scores of every instrument among all, once a bar; windows in bars of `[bars]`, the first three in periods."""

    enabled: bool = False  # it asks for a universe
    period_bars: Annotated[int, Meta(ge=1, le=2048)] = 1  # a bar is a period; with daily bars 21 are about a month, the sources' period
    momentum: Lookback = 12  # Jegadeesh & Titman (1993)
    skip: Annotated[int, Meta(ge=0, le=2047)] = 1  # the last period left out, as in Fama & French (1996)
    reversal: Lookback = 1  # Jegadeesh (1990)
    volatility: Annotated[int, Meta(ge=2, le=2048)] = 60  # of daily bars three months, between Ang et al. (2006) and Blitz & van Vliet (2007)
    liquidity: Lookback = 21  # of daily bars a month, as in Acharya & Pedersen (2005)
    high: Lookback = 252  # of daily bars 52 weeks: George & Hwang (2004)
    holes_max: Annotated[int, Meta(ge=0, le=2047)] = 0  # bars of a window that may lack a value: none, so that windows are whole
    normal: Literal["z_score", "rank"] = "z_score"  # keeps distances
    bound: Annotated[float, Meta(gt=0, le=1e6)] = 3.0  # of a z-score: three standard deviations, the usual cut
    share_min: Annotated[float, Meta(ge=0, le=1)] = 0.5  # of all weight that an instrument's factors must carry for a composite: half
    weights: FactorWeights = FactorWeights()
    groups: dict[str, str] = {}  # group by symbol, whose mean is taken off each score; the others are one group


class FeedsConfig(Section, frozen=True):
    """`[feeds]`: what is done with what they bring, before it enters the line."""

    crossed_quotes: Literal["keep", "drop", "drop_locked"] = "keep"  # of Lean's quote ticks, indicative ones among them: as recorded


class RiskConfig(Section, frozen=True):
    """`[risk]`: limits checked for every child order; "off" where a limit may be absent."""

    position_max: Decimal | None = None  # an instrument's, in quantity; off: none suits both a coin and a future
    position_total_max: Decimal | None = None  # all instruments, in quantity; off: contracts add up, coins of two kinds do not
    notional_max: Decimal = Decimal(10_000_000)  # an instrument, account currency; ten times the default cash
    notional_total_max: Decimal = Decimal(100_000_000)  # all instruments: ten at their limit
    price_collar_bp: Annotated[int, Meta(ge=1, le=1_000_000)] = 500  # 5 % off the top of book is a mistake, not a price
    orders_per_second_max: Count = 1000  # above any strategy shipped, below a runaway loop
    orders_burst: Count = 1000  # one second's worth at once
    crossed_book: Literal["refuse", "refuse_locked", "allow"] = "refuse"  # before an opening auction books are crossed, and nobody trades at either side
    stale_data_ms: Millis = 5000  # fifty missed updates of a 100 ms book; 0 = never stale
    duplicate_window_us: Micros = 0  # off: two equal orders of two strategies are no mistake
    open_orders_max: Annotated[int, Meta(ge=1, le=4096)] = 256  # of the line, half its table at most; above venues' own 200 an instrument


class QualityBounds(Section, frozen=True):
    """`[[quality.bounds]]`: what prices and quantities of an instrument can be at all, "off" where there is no bound."""

    instrument: str  # name, `SYMBOL.venue`
    price_min: Decimal | None = None
    price_max: Decimal | None = None
    qty_max: Decimal | None = None


class QualityConfig(Section, frozen=True):
    """`[quality]`: checks of the feeds' records before they enter the line, and what is done with one that a check objects to.

    "flag" lets it pass marked SUSPECT, "drop" leaves it out, "halt" leaves it out and halts its instrument, "off" does not look.
    """

    enabled: bool = False  # a recorded day is replayed as it was; `tickline quality` looks all the same
    price_bounds: Policy = "drop"  # only where bounds are given, and then it is no price
    price_band: Policy = "flag"
    time_backwards: Policy = "flag"
    time_future: Policy = "flag"
    time_stale: Policy = "flag"
    volume: Policy = "flag"
    returns: Policy = "flag"
    duplicate: Policy = "drop"  # a trade counted twice is a wrong volume
    trade_gap: Policy = "flag"
    crossed: Policy = "flag"
    locked: Policy = "flag"
    band_bp: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000  # 10 %: the wider band of Limit Up-Limit Down for shares above 3 dollars
    confirm: Annotated[int, Meta(ge=2, le=1000)] = 5  # so many in a row are no bad print but the market
    backwards_us: Micros = 0  # a venue's channel is in order
    future_ms: Millis = 5000  # within it venues take a request of ours for timely (Binance's recvWindow)
    stale_ms: Millis = 60_000  # a minute late is a replayed message, no slow one
    volume_multiple: Annotated[float, Meta(gt=1, le=1e9)] = 1000.0  # of the usual trade; recorded ones come to 400
    return_multiple: Annotated[float, Meta(gt=1, le=1e9)] = 50.0  # of the usual change; 1 in 800 of the recorded trades
    window: Window = 500  # trades that the usual is taken over, exponentially
    warmup: Annotated[int, Meta(ge=1, le=1_000_000)] = 200  # trades before anything is usual
    resume_after: Annotated[int, Meta(ge=0, le=2**40)] = 0  # records without objection that end a halt; 0: the venue's TRADING does
    bounds: tuple[QualityBounds, ...] = ()


class StrategyConfig(Section, frozen=True):
    """`[[strategy]]`: one strategy and what it trades."""

    name: Name
    path: str  # a built-in, or "FILE.py:FUNCTION" with FILE beside the configuration file
    instruments: tuple[str, ...] = ("*",)  # names `SYMBOL.venue`, or "*" for all of the tape
    params: Params = {}  # the strategy knows its own defaults
    scope: Literal["instrument", "strategy"] = "instrument"  # one state per instrument: the usual shape of a signal


class IndicatorConfig(Section, frozen=True):
    """`[[feature]]`: one indicator, computed at each bar that closes, or one feature of events, computed at each of them."""

    name: Name  # of handlers.features.catalogue
    params: Params = {}  # it knows its own defaults


class JournalConfig(Section, frozen=True):
    """`[journal]`: how the input log is kept."""

    durability: Literal["write", "fsync"] = "write"  # survives a killed process; fsync survives a power loss
    embed: bool = False  # an imported tape is referred to by hash, not copied


class WarmupConfig(Section, frozen=True, rename={"source": "from"}):
    """`[warmup]`: the history that a live line is fed before it may trade; a replay has its own in its feeds."""

    source: Literal["off", "journal", "parquet", "rest"] = "off"  # a line that knows nothing trades on what comes
    path: str = ""  # of journal: a run's folder; of parquet: whatever a replay takes
    span: Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,6}[smhd]$")] = "2h"  # the slow mean of 200 events and a bar many times over
    on_hole: Literal["stop", "trade"] = "stop"  # what the strategies know is then not what they would know


class RuntimeConfig(Section, frozen=True):
    """`[runtime]`: where the line runs; nothing here may change a decision."""

    placement: Literal["fused", "split", "staged"] = "fused"  # fewest hops, best on few cores
    cores: tuple[Core, ...] = ()  # empty: not pinned, right for a machine shared with others
    chunk_rows: Annotated[int, Meta(ge=1, le=2**24)] = 65536  # 8 MiB of records, well under the 50 ms a kernel may run


class Config(Section, frozen=True):
    """Everything a run is told, apart from the tape."""

    line: LineConfig = LineConfig()
    account: AccountConfig = AccountConfig()
    latency: LatencyConfig = LatencyConfig()
    feeds: FeedsConfig = FeedsConfig()
    features: FeaturesConfig = FeaturesConfig()
    bars: BarsConfig = BarsConfig()
    factors: FactorsConfig = FactorsConfig()
    risk: RiskConfig = RiskConfig()
    quality: QualityConfig = QualityConfig()
    journal: JournalConfig = JournalConfig()
    warmup: WarmupConfig = WarmupConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    instrument: tuple[Instrument, ...] = ()  # used instead of what the tape's prices suggest
    strategy: tuple[StrategyConfig, ...] = ()
    feature: tuple[IndicatorConfig, ...] = ()


def resolve(
    path: Path | str | None, flags: Mapping[str, Any] | None = None, env: Mapping[str, str] | None = None
) -> tuple[Config, dict[str, str]]:
    """(configuration, dotted key -> origin) of a TOML file (None: none), flags by dotted key (None values are skipped) and `env`.

    An origin is "default", "FILE:line", "env NAME" or "flag". Raises ConfigError with a line for each problem.
    """
    document, given = read_file(Path(path)) if path is not None else ({}, {})
    layers = Layers(document, given, str(path) if path is not None else None)
    for key, (text, origin) in from_environment(env or {}, ENV_PREFIX).items():
        layers.put(key, text, origin)
    for key, value in (flags or {}).items():
        if value is not None:
            layers.put(key, value, "flag")
    config = layers.struct(Config, layers.document, "")
    if config is not None and not layers.problems:
        layers.problems += [f"{key}: {what} ({layers.origin(key)})" for key, what in _contradictions(config)]
    if config is None or layers.problems:
        raise ConfigError("\n".join(layers.problems))
    return config, layers.origins


def deciding(config: Config) -> Config:
    """What a run's decisions follow from: where it ran, how it was journaled and where its first records came from are put back."""
    return msgspec.structs.replace(config, runtime=RuntimeConfig(), journal=JournalConfig(), warmup=WarmupConfig())


def _contradictions(config: Config) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) of values that are each allowed and do not go together."""
    if config.features.ema_fast >= config.features.ema_slow:
        yield "features.ema_fast", f"{config.features.ema_fast} must be below ema_slow, {config.features.ema_slow}"
    yield from _wrong_bars(config.bars)
    if config.factors.enabled and config.bars.by not in ("time", "session"):
        yield "factors.enabled", f"bars by {config.bars.by} close at no common time; factors need bars by time or session"
    if len(set(config.runtime.cores)) < len(config.runtime.cores):
        yield "runtime.cores", "a core is named twice"
    yield from _wrong_warmup(config.warmup)
    yield from _wrong_money(config)
    yield from _wrong_instruments(config.instrument)
    yield from _wrong_strategies(config.strategy)
    yield from _wrong_positions(config)
    yield from _wrong_bounds(config.quality)


def _wrong_bounds(quality: QualityConfig) -> Iterator[tuple[str, str]]:
    names = [b.instrument for b in quality.bounds]
    for n, b in enumerate(quality.bounds):
        if b.price_min is not None and b.price_max is not None and b.price_min > b.price_max:
            yield f"quality.bounds.{n}.price_min", f"{b.price_min} is above price_max, {b.price_max}"
        if b.qty_max is not None and b.qty_max <= 0:
            yield f"quality.bounds.{n}.qty_max", f'{b.qty_max} must be above 0, or "{OFF}"'
        if names.index(b.instrument) < n:
            yield f"quality.bounds.{n}.instrument", f"{b.instrument} has bounds above already"


def _wrong_bars(bars: BarsConfig) -> Iterator[tuple[str, str]]:
    if bars.size <= 0:
        yield "bars.size", f"{bars.size} must be above 0"
    if bars.of == "quotes" and bars.by not in ("time", "session"):
        yield "bars.of", f"bars of quotes are by time or session, not by {bars.by}"
    if bars.adapt_bars and not bars.by.endswith("_imbalance"):
        yield "bars.adapt_bars", f"bars by {bars.by} have no size that adapts"


def _wrong_warmup(warmup: WarmupConfig) -> Iterator[tuple[str, str]]:
    if warmup.source in ("journal", "parquet") and not warmup.path:
        yield "warmup.from", f'"{warmup.source}" needs warmup.path'
    elif warmup.path and warmup.source not in ("journal", "parquet"):
        yield "warmup.path", f'"{warmup.path}" is not read from = "{warmup.source}"'
    if span_ns(warmup.span) > SPAN_MAX_NS:
        yield "warmup.span", f'"{warmup.span}" is more than a year'


def span_ns(span: str) -> int:
    """A span as `90s`, `15m`, `2h` or `1d`, in ns."""
    return int(span[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[span[-1]] * 10**9


def _wrong_money(config: Config) -> Iterator[tuple[str, str]]:
    account, risk = config.account, config.risk
    unit = Decimal(1).scaleb(-account.money_decimals)
    amounts = (("account.cash", account.cash), ("risk.notional_max", risk.notional_max))
    for key, amount in (*amounts, ("risk.notional_total_max", risk.notional_total_max)):
        if amount <= 0:
            yield key, f"{amount} must be above 0"
        elif amount >= MONEY_MAX * unit:
            yield (
                key,
                f"{amount} overflows: with {account.money_decimals} money_decimals it must be below {MONEY_MAX * unit}",
            )
        elif amount % unit:
            yield key, f"{amount} is finer than {account.money_decimals} money_decimals"
    if risk.notional_max > risk.notional_total_max:
        yield "risk.notional_max", f"{risk.notional_max} is above notional_total_max, {risk.notional_total_max}"
    for key, limit in (("position_max", risk.position_max), ("position_total_max", risk.position_total_max)):
        if limit is not None and limit <= 0:
            yield f"risk.{key}", f'{limit} must be above 0, or "{OFF}"'
    if risk.position_max is not None and risk.position_total_max is not None and risk.position_max > risk.position_total_max:
        yield "risk.position_max", f"{risk.position_max} is above position_total_max, {risk.position_total_max}"
    yield from _wrong_fees(account)


def _wrong_fees(account: AccountConfig) -> Iterator[tuple[str, str]]:
    for key, fee in (("account.maker_fee_bp", account.maker_fee_bp), ("account.taker_fee_bp", account.taker_fee_bp)):
        if abs(fee) > 1000:
            yield key, f"{fee} is above 1000 bp, a tenth of the trade"
        elif fee % Decimal("0.0001"):
            yield key, f"{fee} is finer than 0.0001 bp"
    if account.taker_fee_bp < 0:
        yield "account.taker_fee_bp", f"{account.taker_fee_bp} must not be below 0"
    elif account.maker_fee_bp + account.taker_fee_bp < 0:
        yield (
            "account.maker_fee_bp",
            f"a rebate of {-account.maker_fee_bp} above the taker fee pays for trading with oneself",
        )


def _wrong_positions(config: Config) -> Iterator[tuple[str, str]]:
    positions = config.account.positions
    held = [(p.instrument, p.strategy) for p in positions]
    strategies = [s.name for s in config.strategy]
    for n, position in enumerate(positions):
        if held.index((position.instrument, position.strategy)) < n:
            yield (
                f"account.positions.{n}.instrument",
                f"{position.strategy} has a position in {position.instrument} above",
            )
        if not position.lots:
            yield f"account.positions.{n}.lots", "a position of 0 lots is none"
        if position.strategy not in strategies:
            yield (
                f"account.positions.{n}.strategy",
                f"no strategy {position.strategy}; there are: {', '.join(strategies)}",
            )


def _wrong_instruments(instruments: tuple[Instrument, ...]) -> Iterator[tuple[str, str]]:
    names = [i.name for i in instruments]
    for n, instrument in enumerate(instruments):
        for key in ("tick", "lot", "multiplier"):
            if getattr(instrument, key) <= 0:
                yield f"instrument.{n}.{key}", f"{getattr(instrument, key)} must be above 0"
        if instrument.book not in ("l2", "l3"):
            yield f"instrument.{n}.book", f'"{instrument.book}" is neither l2 nor l3'
        if names.index(instrument.name) < n:
            yield f"instrument.{n}.symbol", f"{instrument.name} is described above already"


def _wrong_strategies(strategies: tuple[StrategyConfig, ...]) -> Iterator[tuple[str, str]]:
    names = [s.name for s in strategies]
    for n, strategy in enumerate(strategies):
        if names.index(strategy.name) < n:
            yield f"strategy.{n}.name", f"{strategy.name} is the name of another strategy"
        if strategy.path not in BUILTIN_STRATEGIES and not re.fullmatch(r".+\.py:[A-Za-z_]\w*", strategy.path):
            choices = ", ".join(BUILTIN_STRATEGIES)
            yield f"strategy.{n}.path", f'"{strategy.path}" is neither FILE.py:FUNCTION nor a built-in ({choices})'
        if not strategy.instruments:
            yield f"strategy.{n}.instruments", 'names no instrument; "*" is all'
        elif "*" in strategy.instruments and len(strategy.instruments) > 1:
            yield f"strategy.{n}.instruments", 'has names beside "*"'
