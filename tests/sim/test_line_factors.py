"""Factors of the universe in the line: a row an instrument at each bar, those of a batch over the panel, read, exported and proved."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet
import pytest

from engine.config import BarsConfig, Config, FactorsConfig, FactorWeights, IndicatorConfig, LineConfig, StrategyConfig, resolve
from engine.dumped import dump
from engine.errors import ConfigError
from engine.line import build_line, factors_of
from engine.session import standstill
from handlers.domain.book import new_markets
from handlers.domain.schema import EVENT_FEATURES_FROM, FACTOR_SCORES, FACTORS_FROM, schema_id
from handlers.features.bars import BY_TIME, new_bars
from handlers.features.factor_panel import score_panel
from handlers.features.factors import FACTORS, Z_SCORE, new_factors
from handlers.features.stage import new_features, rows_max
from handlers.ingest.synthetic.feed import SyntheticFeed
from tests.runs import config_file, done, log_rows, replayed, table
from tests.sim.test_line_indicators import ROWS, SEED, logs_of, one_bar
from tests.stages import slots
from transport.records import (
    BAR, BID, CHECKPOINT, COMMAND, END_OF_FEED, EVENT_END, FEATURE, NO_INSTRUMENT, NO_SIDE, SIGNAL, TIMER, copied, empty,
)  # fmt: skip

STOCKS, DAYS = "ABCDE", 40
SECOND_NS, DAY_NS = 10**9, 86_400 * 10**9
WINDOWS: dict[str, Any] = {"momentum": 3, "skip": 1, "reversal": 1, "volatility": 5, "liquidity": 4, "high": 6, "holes_max": 1}
MAP = """
kind = "bar"
venue = "us"
interval = "1d"
[columns]
symbol = "symbol"
open_time = "day"
close = "close"
volume = "volume"
"""
TOML = """
[line]
timer_interval_ms = 0
log_features = true

[bars]
interval_s = 86400

[factors]
enabled = true
momentum = 3
volatility = 5
liquidity = 4
high = 6
holes_max = 1
period_bars = 2

[factors.weights]
momentum = 2.0

[factors.groups]
A = "x"
C = "x"
D = "y"
"""
STRATEGIES = '''
from handlers.contract import FACTOR_ROW, handler
from transport.records import FEATURE, SIGNAL


@handler(reads=FACTOR_ROW, values=6)
def ranks(s, p, row, out):
    if row.values[5] != row.values[5]:
        return 0
    out.kind = SIGNAL
    out.value = s.values[5] + row.values[1]
    return 1


@handler(reads=FEATURE)
def counts(s, p, row, out):
    out.kind = SIGNAL
    return 1 if row.schema_id > 65535 else 0
'''
Rows = np.ndarray[Any, Any]


def written(folder: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """A table of daily bars with days that lack some, its closes and its traded values, (days, stocks) of the text's own floats."""
    rng = np.random.default_rng(SEED)
    cents = np.round(5000 * np.exp(np.cumsum(rng.normal(0, 0.02, (DAYS, len(STOCKS))), axis=0))).astype(int)
    tenths = rng.integers(0, 4000, cents.shape) * (rng.random(cents.shape) > 0.1)
    there = rng.random(cents.shape) > 0.05
    lines, closes, values = ["day,symbol,close,volume"], np.full(cents.shape, np.nan), np.full(cents.shape, np.nan)
    for t, k in zip(*np.nonzero(there), strict=True):
        close, volume = f"{cents[t, k] / 100:.2f}", f"{tenths[t, k] / 10:.1f}"
        lines.append(f"{np.datetime64('2024-01-01') + t},{STOCKS[k]},{close},{volume}")
        closes[t, k] = float(close)
        values[t, k] = float(close) * float(volume) if tenths[t, k] else np.nan
    path = config_file(folder, "\n".join(lines) + "\n", "bars.csv")
    config_file(folder, MAP, "bars.csv.toml")
    return path, closes, values


def factor_slots(rows: Rows) -> Rows:
    of_factors = (rows["kind"] == FEATURE) & (rows["schema_id"] >= FACTORS_FROM) & (rows["schema_id"] < EVENT_FEATURES_FROM)
    return copied(rows, of_factors)


def batch(closes: np.ndarray, values: np.ndarray | None = None, period_bars: int = 1, **options: Any) -> np.ndarray:
    """Scores and composite of whoever has a close, bar after bar: (rows, 6)."""
    ends = np.arange(1, len(closes) + 1) % period_bars == 0
    panel = score_panel(new_factors(closes.shape[1], **options), closes, ends, values)
    whole = np.concatenate([panel.scores, panel.composite[:, None]], axis=1).transpose(0, 2, 1)
    return np.ascontiguousarray(whole[~np.isnan(closes)])


def configured(**more: Any) -> Config:
    more.setdefault("line", LineConfig(log_features=True))
    more.setdefault("bars", BarsConfig(interval_s=1))
    return Config(factors=FactorsConfig(enabled=True, **WINDOWS), **more)


@pytest.mark.parametrize("normal", ["z_score", "rank"])
def test_the_rows_of_a_table_of_daily_bars_are_those_that_a_batch_over_its_panel_gives(normal: str, tmp_path: Path) -> None:
    source, closes, values = written(tmp_path)
    text = TOML.replace("enabled = true", f'enabled = true\nnormal = "{normal}"')
    replayed(tmp_path / "run", source, config=config_file(tmp_path, text))
    rows = log_rows(tmp_path / "run", "features")
    found, bars = factor_slots(rows), copied(rows, rows["kind"] == BAR)
    due = batch(
        closes, values, 2, momentum=3, volatility=5, liquidity=4, high=6, holes_max=1, normal=int(normal == "rank"),
        groups=np.array([0, 1, 0, 2, 1]), weights=(2.0, 1.0, 1.0, 1.0, 1.0),
    )  # fmt: skip
    assert np.ascontiguousarray(found["values"][:, :6]).tobytes() == due.tobytes()
    assert not found["values"][:, 6:].any() and set(found["count"].tolist()) == {6}
    assert np.isfinite(due).mean(axis=0).min() > 0.4
    days, stocks = np.nonzero(~np.isnan(closes))
    assert found["instrument_id"].tolist() == stocks.tolist()
    first = np.searchsorted(days, np.unique(days))  # the bar that begins a day ends the day before
    causes = [*bars["seq"][first[1:]].tolist(), rows["seq"][-1]]
    assert found["seq"].tolist() == [causes[day] for day in days]
    assert (np.diff(found["ts_seq_ns"]) >= 0).all() and (found["ts_seq_ns"] >= bars["ts_open_ns"] + DAY_NS).all(), "nothing is seen ahead"


def test_every_placement_decides_the_same_the_run_is_proved_and_its_table_exported(tmp_path: Path) -> None:
    source, closes, _ = written(tmp_path)
    (tmp_path / "mine.py").write_text(STRATEGIES)
    config = config_file(tmp_path, TOML + '\n[[strategy]]\nname = "ranks"\npath = "mine.py:ranks"\n')
    told = [
        replayed(tmp_path / placement, source, config=config, options=("--placement", placement)) for placement in ("fused", "split", "staged")
    ]
    assert told[0]["hashes"] == told[1]["hashes"] == told[2]["hashes"]
    assert len(log_rows(tmp_path / "fused", "signals")) > 50
    done("verify", tmp_path / "fused")
    done("verify", tmp_path / "staged")
    cells = table(tmp_path / "fused", "factors")
    assert list(cells[0])[5:] == [*FACTORS, "composite"] == [v.name for v in FACTOR_SCORES]
    assert len(cells) == (~np.isnan(closes)).sum() and cells[0]["momentum"] == "" != cells[-1]["momentum"]
    assert table(source, "factors", "--config", config) == cells
    done("export", tmp_path / "fused", "--table", "factors", "--format", "parquet", "--out", tmp_path / "f.parquet")
    stored = pyarrow.parquet.read_table(tmp_path / "f.parquet").to_pylist()
    assert [{name: "" if cell is None else str(cell) for name, cell in row.items()} for row in stored] == cells


def panel_of(bars: Rows, instruments: int) -> np.ndarray:
    """Closes of BAR rows by when they close."""
    ends, place = np.unique(bars["ts_open_ns"] + bars["interval_ns"], return_inverse=True)
    closes = np.full((len(ends), instruments), np.nan)
    closes[place, bars["instrument_id"]] = bars["close_ticks"]
    return closes


def test_bars_of_trades_that_timers_close_are_a_panel_without_holes_by_lateness() -> None:
    bars = BarsConfig(interval_s=1, close_on="timer", close_after_ms=100)
    rows = logs_of(configured(bars=bars, line=LineConfig(log_features=True, timer_interval_ms=100)), instruments=4)["features"]
    own, found = copied(rows, rows["kind"] == BAR), factor_slots(rows)
    ticks = np.array([i.tick.as_integer_ratio() for i in SyntheticFeed(SEED, ROWS, 4).instruments], float)
    closes = panel_of(own, 4) * ticks[:, 0] / ticks[:, 1]
    found_scores = np.ascontiguousarray(found["values"][:, [0, 1, 2, 4]])  # illiquidity is of traded values, and so the composite
    due = np.ascontiguousarray(batch(closes, **WINDOWS)[:, [0, 1, 2, 4]])
    whole = rows["seq"][-1]
    before = int((found["seq"] < whole).sum())  # at the end bars close before their time
    assert before > 20 and found_scores[:before].tobytes() == due[:before].tobytes()
    ends = np.repeat(np.unique(own["ts_open_ns"] + own["interval_ns"]), (~np.isnan(closes)).sum(axis=1))
    assert (found["ts_seq_ns"][:before] >= ends[:before] + 100 * 10**6).all()


def test_a_line_without_factors_says_the_same_but_for_their_rows() -> None:
    sma = (IndicatorConfig("sma", {"period": 3}), IndicatorConfig("trade_intensity"))
    for bars, feature in ((BarsConfig(interval_s=1), ()), (BarsConfig(interval_s=1, close_on="record"), sma)):
        config = configured(bars=bars, feature=feature)
        with_them = logs_of(config)["features"]
        without = logs_of(msgspec.structs.replace(config, factors=FactorsConfig()))["features"]
        of_factors = (with_them["kind"] == FEATURE) & (with_them["schema_id"] >= FACTORS_FROM) & (with_them["schema_id"] < EVENT_FEATURES_FROM)
        kept = [copied(rows, which & (rows["kind"] != CHECKPOINT)) for rows, which in ((with_them, ~of_factors), (without, without["kind"] > 0))]
        for rows in kept:
            rows["row"] = 0  # which counts the rows before it
        assert of_factors.sum() > 20 and kept[0].tobytes() == kept[1].tobytes()
        checks = [rows[rows["kind"] == CHECKPOINT]["rows"][-1] for rows in (with_them, without)]
        assert checks[0] - checks[1] == of_factors.sum()  # the digest covers them


def test_a_strategy_reads_the_factors_and_one_that_reads_features_is_not_shown_them(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(STRATEGIES)
    logs = logs_of(configured(strategy=tuple(StrategyConfig(name, f"mine.py:{name}") for name in ("ranks", "counts"))), tmp_path, 4)
    found, signals = factor_slots(logs["features"]), logs["signals"]
    due = found["values"][:, 5] + found["values"][:, 1]
    assert (signals["kind"] == SIGNAL).all() and set(signals["strategy_id"].tolist()) == {1}
    known = ~np.isnan(found["values"][:, 5])
    assert known.sum() > 20 and signals["value"].tolist() == due[known].tolist()
    assert signals["instrument_id"].tolist() == found["instrument_id"][known].tolist()


def stepped(steps: list[tuple[str, int, int]], late: list[int] | None = None) -> list[list[tuple[int, bool]]]:
    """What one universe of two says to bars ("bar", instrument, opened at second), to timers and to the end: (instrument, known reversal).

    How many bars it counted as late is added to `late`.
    """
    made = factors_of(Config(factors=FactorsConfig(enabled=True, **WINDOWS)), SyntheticFeed(SEED, 10, 2).instruments)
    state = new_features(2, 5, 20, 10, SECOND_NS, False, 4096, factors=made, close_after_ns=SECOND_NS // 2)
    markets, _ = new_markets([False, False])
    out, said = empty(rows_max(2, None, factors=True)), []
    for what, instrument, at_s in steps:
        fields: dict[str, Any] = {"kind": TIMER, "due_ns": at_s, "instrument_id": NO_INSTRUMENT, "flags": EVENT_END}
        if what == "bar":
            fields = {"kind": BAR, "ts_open_ns": at_s * SECOND_NS, "interval_ns": SECOND_NS, "instrument_id": instrument, "close_ticks": 10}
        elif what == "end":
            fields = {"kind": COMMAND, "action": END_OF_FEED, "instrument_id": NO_INSTRUMENT, "flags": EVENT_END}
        n = one_bar(state, markets, slots([fields]), out)
        said.append([(int(r["instrument_id"]), not np.isnan(r["values"][1])) for r in out[:n] if r["kind"] == FEATURE])
    if late is not None:
        late.append(int(state.universe.clock[0]["late"]))
    return said


def test_a_universe_bar_is_over_by_a_later_bar_a_timer_or_the_end_and_late_bars_count_nowhere() -> None:
    half = SECOND_NS // 2
    both, known = [(0, False), (1, False)], [(0, True), (1, True)]
    assert stepped([("bar", 0, 0), ("bar", 1, 0), ("bar", 0, 1), ("bar", 1, 1), ("end", 0, 0)]) == [[], [], both, [], known]
    timers = [("bar", 0, 0), ("bar", 1, 0), ("timer", 0, SECOND_NS + half - 1), ("timer", 0, SECOND_NS + half), ("timer", 0, 9 * SECOND_NS)]
    assert stepped(timers) == [[], [], [], both, []]
    late = [("bar", 0, 0), ("timer", 0, 2 * SECOND_NS), ("bar", 1, 0), ("bar", 0, 2), ("bar", 1, 1), ("end", 0, 0), ("end", 0, 0)]
    counted: list[int] = []
    assert stepped(late, counted) == [[], [(0, False)], [], [], [], [(0, True)], []] and counted == [2]
    assert stepped([("bar", 0, 0), ("bar", 0, 0), ("bar", 0, 1), ("timer", 0, 0)])[1:] == [[], [(0, False)], []], "a bar counts once"


@pytest.mark.parametrize("quotes", [0, 1])
def test_what_was_bid_is_no_traded_value(quotes: int) -> None:
    made = factors_of(Config(factors=FactorsConfig(enabled=True, **WINDOWS)), SyntheticFeed(SEED, 10, 2).instruments)
    cut = new_bars([0] * 2 * (1 + quotes), by=BY_TIME, interval_ns=SECOND_NS, quotes=quotes)
    state = new_features(2, 5, 20, 10, 0, False, 4096, cut=cut, factors=made, close_after_ns=SECOND_NS)
    markets, _ = new_markets([False, False])
    out, found = empty(rows_max(2, None, bool(quotes), factors=True)), []
    for at in range(8):
        for i in range(2):
            bar = {"kind": BAR, "ts_open_ns": at * SECOND_NS, "interval_ns": SECOND_NS, "instrument_id": i, "close_ticks": 50 + at * i, "volume_lots": 5}
            n = one_bar(state, markets, slots([{**bar, "side": BID if quotes else NO_SIDE}]), out)
            found += out[:n][out[:n]["kind"] == FEATURE]["values"][:, [2, 3]].tolist()
    assert len(found) == 14 and np.isnan(found[-1]).tolist() == [False, bool(quotes)], "volatility and illiquidity"


def test_the_schema_that_rows_bear_is_another_with_other_factors() -> None:
    instruments = SyntheticFeed(SEED, 10, 2).instruments
    symbol = instruments[0].symbol
    plain = FactorsConfig(enabled=True)
    changes: list[dict[str, Any]] = [
        {}, {"period_bars": 2}, {"momentum": 6}, {"normal": "rank"}, {"weights": FactorWeights(high=0.5)}, {"groups": {symbol: "x"}},
    ]  # fmt: skip
    ids = set()
    for change in changes:
        built = build_line(Config(factors=msgspec.structs.replace(plain, **change)), instruments, 1, 1, Path())
        ids.add(int(built.line.features.universe.clock[0]["schema"]) & 0xFFFFFFFF)
    assert len(ids) == len(changes) and schema_id(32) < FACTORS_FROM <= min(ids) and max(ids) < EVENT_FEATURES_FROM


def test_the_defaults_are_those_of_the_kernels() -> None:
    assert {f.encode_name for f in msgspec.structs.fields(FactorWeights)} == set(FACTORS)
    config, defaults = FactorsConfig(), {k: p.default for k, p in inspect.signature(new_factors).parameters.items()}
    for name in ("momentum", "skip", "reversal", "volatility", "liquidity", "high", "holes_max", "bound", "share_min"):
        assert getattr(config, name) == defaults[name], name
    assert config.normal == "z_score" and defaults["normal"] == Z_SCORE
    assert tuple(getattr(config.weights, name) for name in FACTORS) == defaults["weights"]


def test_who_reads_rows_of_the_universe_is_named_when_it_does_not_return_from_the_bar_of_another(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(STRATEGIES)
    instruments = SyntheticFeed(SEED, 10, 2).instruments
    strategies = tuple(StrategyConfig(name, f"mine.py:{name}", (instruments[1].name,)) for name in ("ranks", "counts"))
    built = build_line(configured(strategy=strategies), instruments, 1, 1, tmp_path)
    assert built.line.scratch.input[0]["instrument_id"] == 0
    assert "strategy ranks does not return" in standstill(built, 10.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("enabled = 1", "factors.enabled = 1: expected bool"),
        ("momentun = 3", r"factors.momentun: unknown key, did you mean factors.momentum\?"),
        ("high = 4096", "factors.high = 4096: expected int <= 2048"),
        ("weights = { size = 1.0 }", "factors.weights.size: unknown key"),
        ('enabled = true\n[bars]\nby = "ticks"', "factors.enabled: bars by ticks close at no common time"),
    ],
)
def test_a_wrong_key_is_told_before_anything_is_compiled(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve(config_file(tmp_path, f"[factors]\n{text}\n"))


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        (FactorsConfig(enabled=True, skip=12), r"\[factors\]: windows \(12, 12, 1, 60, 21, 252\)"),
        (FactorsConfig(enabled=True, holes_max=21), r"\[factors\]: holes_max must leave a value in every window"),
        (FactorsConfig(enabled=True, weights=FactorWeights(0.0, 0.0, 0.0, 0.0, 0.0)), "weights must be 5 finite numbers, not all 0"),
        (FactorsConfig(enabled=True, groups={"NONE": "x"}), "groups: no instrument has the symbol 'NONE'; there are "),
        (FactorsConfig(), "strategy it reads factors, and no factors are configured"),
    ],
)
def test_what_does_not_go_together_is_refused_in_words(factors: FactorsConfig, words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(STRATEGIES)
    with pytest.raises(ConfigError, match=words):
        build_line(Config(factors=factors, strategy=(StrategyConfig("it", "mine.py:ranks"),)), SyntheticFeed(SEED, 10, 2).instruments, 1, 1, tmp_path)


def test_a_strategy_sees_no_more_values_than_the_row_of_factors_has(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(STRATEGIES.replace("values=6", "values=7"))
    with pytest.raises(ConfigError, match="sees 7 values of the factors' row, which has 6"):
        build_line(configured(strategy=(StrategyConfig("it", "mine.py:ranks"),)), (), 1, 1, tmp_path)


def test_the_section_reads_back_as_it_is_written(tmp_path: Path) -> None:
    config, _ = resolve(config_file(tmp_path, TOML))
    assert config.factors.groups == {"A": "x", "C": "x", "D": "y"} and config.factors.weights == FactorWeights(momentum=2.0)
    assert resolve(config_file(tmp_path, dump(config), "again.toml"))[0] == config


def test_all_instruments_of_a_line_have_room_for_their_rows_at_the_end() -> None:
    config = configured()
    assert rows_max(512, None, factors=True) == 3 * 512 + 1
    line = build_line(config, (SyntheticFeed(SEED, 10, 25).instruments * 21)[:512], 1, 1, Path()).line
    assert len(line.scratch.features) == 3 * 512 + 1 and len(line.features.universe.rows) == 512
