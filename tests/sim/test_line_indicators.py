"""Configured indicators in the line: a row behind each bar, read by strategies, exported under their names, the same in every placement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet
import pytest

from engine.config import Config, BarsConfig, IndicatorConfig, LineConfig, StrategyConfig
from engine.dumped import dump
from engine.errors import ConfigError
from engine.line import FEATURE_ROWS_MAX, build_line, indicators_of, sequence_first_words
from engine.loops import DECIDING
from engine.session import Session
from handlers.domain.book import new_markets
from handlers.domain.borrowed import borrow
from handlers.domain.schema import INDICATORS_FROM, schema_id
from handlers.features.at_bars import SESSION_NS
from handlers.features.bars import BY_SESSION, BY_TICKS, BY_TIME, ON_RECORD, SESSION, BarsState, new_bars
from handlers.features.declare import BAR_INPUT
from handlers.features.stage import ROWS_MAX, new_features, step_features
from handlers.ingest.synthetic.feed import SyntheticFeed
from tests.runs import config_file, done, joined, log_rows, replayed, table
from tests.stages import slots
from transport.compiled import kernel
from transport.records import ASK, BAR, BID, CHECKPOINT, FEATURE, NO_SIDE, SIGNAL, copied, empty

ROWS, SEED = 20_000, 3
WANTED = (("sma", {"period": 3}), ("macd", {"fast": 2, "slow": 4, "signal": 2}), ("bollinger", {"period": 5}), ("vwap_session", {}))
VALUES = 10
SECOND_NS = 10**9
STRATEGIES = '''
from handlers.contract import INDICATOR_ROW, handler
from transport.records import FEATURE, SIGNAL


@handler(reads=INDICATOR_ROW, values=10)
def watches(s, p, row, out):
    if row.values[0] != row.values[0]:
        return 0
    out.kind = SIGNAL
    out.value = s.values[9] - row.values[0]
    return 1


@handler(reads=FEATURE, state=[("seen", "i8")])
def counts(s, p, row, out):
    s.seen += 1
    out.kind = SIGNAL
    out.value = row.values[1]
    return 1 if row.values[1] > 1e6 or row.schema_id > 65535 else 0
'''
TOML = """
[bars]
interval_s = 1

[[feature]]
name = "sma"
params = { period = 3 }

[[feature]]
name = "macd"
params = { fast = 2, slow = 4, signal = 2 }

[[feature]]
name = "bollinger"
params = { period = 5 }

[[feature]]
name = "vwap_session"
"""
Rows = np.ndarray[Any, Any]


@kernel
def one_bar(owned, markets, rows, out):
    return step_features(borrow(owned), markets[0], rows[0], out)


def configured(**more: Any) -> Config:
    feature = tuple(IndicatorConfig(name, params) for name, params in WANTED)
    return Config(line=LineConfig(log_features=True), bars=BarsConfig(interval_s=1), feature=feature, **more)


def logs_of(config: Config, base: Path = Path(), instruments: int = 2) -> dict[str, Rows]:
    """The decision logs of a run over a generated feed, of two instruments unless told."""
    feed = SyntheticFeed(SEED, ROWS, instruments)
    feed.bind({i.name: n for n, i in enumerate(feed.instruments)}, 16)
    built = build_line(config, feed.instruments, 1, 1, base)
    batches: list[Any] = []
    session = Session(built, [feed.chunks(4096)], batches.append)
    session.open(lambda ns: sequence_first_words(built, config, ns, 1, 2))
    session.run()
    return {name: joined(*(b.decisions[k] for b in batches)) for k, name in enumerate(DECIDING)}


def inputs_of(bars: Rows) -> Rows:
    """BAR rows as the input of features."""
    out = np.zeros(len(bars), BAR_INPUT)
    for name in ("open", "high", "low", "close"):
        out[name] = bars[f"{name}_ticks"]
    out["volume"], out["session"] = bars["volume_lots"], bars["ts_open_ns"] // SESSION_NS
    return out


def indicator_slots(rows: Rows) -> Rows:
    return copied(rows, (rows["kind"] == FEATURE) & (rows["schema_id"] >= INDICATORS_FROM))


def test_behind_each_bar_stand_the_values_that_a_batch_over_the_bars_gives() -> None:
    config = configured()
    rows = logs_of(config)["features"]
    made = indicators_of(config)
    assert made and len(made.columns) == VALUES
    for i in range(2):
        ours = copied(rows, rows["instrument_id"] == i)
        bars, found = copied(ours, ours["kind"] == BAR), indicator_slots(ours)
        assert len(bars) > 15 and len(found) == 2 * len(bars)
        assert found["part"].tolist() == [0, 1] * len(bars) and set(found["count"].tolist()) == {VALUES}
        assert (found["seq"][::2] == bars["seq"]).all()
        values = found["values"].reshape(len(bars), 16)
        assert values[:, :VALUES].tobytes() == made.batch(inputs_of(bars)).tobytes()
        assert not values[:, VALUES:].any()


def test_a_line_without_indicators_says_nothing_of_them() -> None:
    with_them, without = logs_of(configured())["features"], logs_of(msgspec.structs.replace(configured(), feature=()))["features"]
    others = (with_them["kind"] == FEATURE) & (with_them["schema_id"] >= INDICATORS_FROM)
    kept = [copied(rows, which & (rows["kind"] != CHECKPOINT)) for rows, which in ((with_them, ~others), (without, without["kind"] > 0))]
    for rows in kept:
        rows["row"] = 0  # which counts the rows before it
    assert others.any() and kept[0].tobytes() == kept[1].tobytes()
    assert "feature]]" not in dump(Config())


def test_a_strategy_reads_the_indicators_and_one_that_reads_features_is_not_shown_them(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(STRATEGIES)
    config = configured(strategy=tuple(StrategyConfig(name, f"mine.py:{name}") for name in ("watches", "counts")))
    logs = logs_of(config, tmp_path)
    found = indicator_slots(logs["features"])["values"].reshape(-1, 16)
    due = (found[:, 9] - found[:, 0])[~np.isnan(found[:, 0])]
    signals = logs["signals"]
    assert (signals["kind"] == SIGNAL).all() and set(signals["strategy_id"].tolist()) == {1}
    assert signals["value"].tolist() == due.tolist()


def test_a_bar_counts_once_and_only_of_the_configured_interval() -> None:
    made = indicators_of(Config(feature=(IndicatorConfig("obv"),)))
    state = new_features(1, 5, 20, 10, SECOND_NS, False, 4096, 0, indicators=made)
    markets, _ = new_markets([False])
    out, told = empty(ROWS_MAX), []
    for opened, interval in ((0, 1), (0, 1), (1, 60), (2, 1), (1, 1), (3, 1)):
        bar = slots([{"kind": BAR, "ts_open_ns": opened * SECOND_NS, "interval_ns": interval * SECOND_NS, "volume_lots": 7, "close_ticks": opened}])
        n = one_bar(state, markets, bar, out)
        told.append([float(row["values"][0]) for row in out[:n] if row["kind"] == FEATURE])
    assert told == [[7.0], [], [], [14.0], [], [21.0]]
    assert state.indicators.shape[["others", "again"]][0].tolist() == (1, 2)


OPEN_NS = 20_000 * SESSION_NS + 52_200 * SECOND_NS  # half past two in the afternoon
HOURS = np.array([(OPEN_NS + k * SESSION_NS, OPEN_NS + k * SESSION_NS + 200 * SECOND_NS, 20_000 + k) for k in range(3)], SESSION)
MINUTES: dict[str, Any] = {"by": BY_TIME, "interval_ns": 60 * SECOND_NS, "close_on": ON_RECORD}
BAR_TIMES = {  # (opened, seconds, side)
    "a minute": (OPEN_NS, 60, NO_SIDE), "a day": (OPEN_NS + 60 * SECOND_NS, 86_400, NO_SIDE), "of the bid": (OPEN_NS + 60 * SECOND_NS, 60, BID),
    "of the ask": (OPEN_NS + 60 * SECOND_NS, 60, ASK), "half a minute on": (OPEN_NS + 90 * SECOND_NS, 60, NO_SIDE),
    "the session's rest": (OPEN_NS + 180 * SECOND_NS, 20, NO_SIDE), "at night": (OPEN_NS + 240 * SECOND_NS, 60, NO_SIDE),
    "a session": (OPEN_NS + SESSION_NS, 200, NO_SIDE), "the next minute": (OPEN_NS + 2 * SESSION_NS + 60 * SECOND_NS, 60, NO_SIDE),
}  # fmt: skip


@pytest.mark.parametrize(
    ("cut", "counts"),
    [
        (new_bars([0], **MINUTES), ["a minute", "half a minute on", "at night", "the next minute"]),
        (new_bars([0, 0], quotes=1, **MINUTES), ["of the bid"]),
        (new_bars([0], HOURS, **MINUTES), ["a minute", "the session's rest", "the next minute"]),
        (new_bars([0], HOURS, by=BY_SESSION), ["a session"]),
        (new_bars([0], by=BY_SESSION), ["a day"]),
        (new_bars([5], by=BY_TICKS), []),
    ],
    ids=["minutes", "minutes of quotes", "minutes of sessions", "sessions", "days", "ticks"],
)
def test_of_the_bars_of_a_feed_indicators_take_those_that_the_line_could_have_cut(cut: BarsState, counts: list[str]) -> None:
    state = new_features(1, 5, 20, 10, 0, False, 4096, 0, cut, indicators_of(Config(feature=(IndicatorConfig("obv"),))))
    markets, _ = new_markets([False])
    out, told = empty(ROWS_MAX), []
    for name, (opened, seconds, side) in BAR_TIMES.items():
        bar = {"kind": BAR, "ts_open_ns": opened, "interval_ns": seconds * SECOND_NS, "side": side, "volume_lots": 1, "close_ticks": 5}
        n = one_bar(state, markets, slots([bar]), out)
        assert out[0]["kind"] == BAR and out[0]["interval_ns"] == seconds * SECOND_NS, "every bar is handed on"
        told += [name] * (n == 2)
    assert told == counts
    asks = 1 if cut.rule[0]["quotes"] else 0  # the other of a pair, which is left out but not passed over
    assert state.indicators.shape[0]["others"] == len(BAR_TIMES) - len(counts) - asks


def test_a_feeds_bar_is_of_the_calendars_session_over_midnight() -> None:
    begins = 20_001 * SESSION_NS - 60 * SECOND_NS
    cut = new_bars([0], np.array([(begins, begins + 180 * SECOND_NS, 20_001)], SESSION), **MINUTES)
    state = new_features(1, 5, 20, 10, 0, False, 4096, 0, cut, indicators_of(Config(feature=(IndicatorConfig("vwap_session"),))))
    markets, _ = new_markets([False])
    out, told = empty(ROWS_MAX), []
    for k in range(3):
        prices = dict.fromkeys(("open_ticks", "high_ticks", "low_ticks", "close_ticks"), 10 * (k + 1))
        bar = {"kind": BAR, "ts_open_ns": begins + 60 * SECOND_NS * k, "interval_ns": 60 * SECOND_NS, "volume_lots": 1, **prices}
        assert one_bar(state, markets, slots([bar]), out) == 2
        told.append((int(out[0]["session"]), float(out[1]["values"][0])))
    assert told == [(20_001, 10.0), (20_001, 15.0), (20_001, 20.0)]


def test_the_schema_that_rows_bear_is_another_with_another_set() -> None:
    ids = set()
    for period in (3, 4):
        made = indicators_of(Config(feature=(IndicatorConfig("sma", {"period": period}),)))
        shape = new_features(1, 5, 20, 10, SECOND_NS, False, 4096, 0, indicators=made).indicators.shape[0]
        ids.add(int(shape["schema"]) & 0xFFFFFFFF)
    assert len(ids) == 2 and min(ids) >= INDICATORS_FROM > schema_id(32)


@pytest.mark.parametrize(
    ("feature", "strategy", "words"),
    [
        ((IndicatorConfig("smaa"),), "", r"\[\[feature\]\]: no feature 'smaa'; there are accumulation"),
        ((IndicatorConfig("sma", {"period": 0}),), "", "sma: period is 1 to 10000"),
        ((), "watches", "strategy it reads indicators, and no \\[\\[feature\\]\\] is configured"),
        ((IndicatorConfig("sma"),), "watches", "sees 10 values of the indicators' row, which has 1"),
    ],
)
def test_what_there_is_not_is_refused_in_words(feature: tuple[IndicatorConfig, ...], strategy: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(STRATEGIES)
    strategies = (StrategyConfig("it", f"mine.py:{strategy}"),) if strategy else ()
    with pytest.raises(ConfigError, match=words):
        build_line(Config(feature=feature, strategy=strategies), (), 1, 1, tmp_path)


def test_more_rows_at_the_end_than_a_line_takes_are_refused() -> None:
    instruments = SyntheticFeed(SEED, 10, 25).instruments * 20
    periods = tuple(IndicatorConfig("bollinger", {"period": n}) for n in range(2, 30))
    with pytest.raises(ConfigError, match=f"500 instruments with 28 indicators make 9501 rows at the end; a line takes {FEATURE_ROWS_MAX}"):
        build_line(Config(feature=periods), instruments, 1, 1, Path())


def test_a_run_is_exported_under_the_names_of_the_values_and_proved(tmp_path: Path) -> None:
    config = config_file(tmp_path, TOML)
    replayed(tmp_path / "run", f"synthetic:{ROWS}:{SEED}:2", config=config)
    rows = table(tmp_path / "run", "indicators")
    assert list(rows[0])[5:8] == ["sma_3", "macd_2_4_2.macd", "macd_2_4_2.signal"] and list(rows[0])[-1] == "vwap_session"
    mine = [row for row in rows if row["instrument"] == rows[0]["instrument"]]
    assert [row["sma_3"] == "" for row in mine[:4]] == [True, True, False, False]
    assert len(table(tmp_path / "run", "features")) > 0
    done("export", tmp_path / "run", "--table", "indicators", "--format", "parquet", "--out", tmp_path / "i.parquet")
    stored = pyarrow.parquet.read_table(tmp_path / "i.parquet").to_pylist()
    assert [{name: "" if cell is None else str(cell) for name, cell in row.items()} for row in stored] == rows
    done("verify", tmp_path / "run")


def test_five_processes_decide_what_one_thread_does(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(STRATEGIES)
    text = TOML + '\n[[strategy]]\nname = "watches"\npath = "mine.py:watches"\n'
    config = config_file(tmp_path, text)
    told = [
        replayed(tmp_path / placement, f"synthetic:{ROWS}:{SEED}:2", config=config, options=("--placement", placement))
        for placement in ("fused", "staged")
    ]
    logs = [log_rows(tmp_path / placement, "signals").tobytes() for placement in ("fused", "staged")]
    assert len(logs[0]) > 128 * 10 and logs[0] == logs[1]
    assert told[0]["hashes"] == told[1]["hashes"]
