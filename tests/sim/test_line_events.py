"""Configured features of events in the line: a row at event ends, read by strategies, exported under their names, the same in every placement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from engine.config import BarsConfig, Config, FeaturesConfig, IndicatorConfig, LineConfig, StrategyConfig
from engine.errors import ConfigError
from engine.line import build_line, event_features_of, indicators_of
from handlers.domain.schema import EVENT_FEATURES_FROM, INDICATORS_FROM, schema_id
from handlers.domain.book import new_markets
from handlers.features.catalogue import MICROSTRUCTURE
from handlers.features.declare import EVENT_INPUT, ON_BOOK, ON_TRADE
from handlers.features.feature_set import FeatureSet
from handlers.features.stage import ROWS_MAX, new_features
from handlers.ingest.synthetic.feed import SyntheticFeed
from tests.property.test_features import _features
from tests.runs import config_file, done, joined, log_rows, replayed, table
from tests.sim.test_line_indicators import ROWS, SECOND_NS, SEED, logs_of
from tests.stages import level, slots, snapshot, stamped
from transport.records import (
    ASK, BAR, BID, BOOK_DELTA, BOOK_SNAPSHOT, CHECKPOINT, EVENT_END, EVENT_FIRST, FEATURE, GAP, QUOTE, SIGNAL, TRADE, VALUES_PER_SLOT, copied,
    empty,
)  # fmt: skip

WANTED = (
    ("queue_imbalance", {"levels": 3}), ("sma", {"period": 3}), ("order_flow_levels", {"levels": 4, "period": 5}),
    ("trade_imbalance", {"period": 10, "window_ms": 500}), ("realised_variance", {"period": 3, "sample_ms": 100}),
)  # fmt: skip
VALUES = 1 + 11 + 1 + 3
STRATEGIES = '''
from handlers.contract import EVENT_ROW, handler
from transport.records import FEATURE, SIGNAL


@handler(reads=EVENT_ROW, values=13)
def leans(s, p, row, out):
    if row.values[0] != row.values[0] or s.values[12] != s.values[12]:
        return 0
    out.kind = SIGNAL
    out.value = row.values[0] + s.values[12]
    return 1


@handler(reads=FEATURE)
def counts(s, p, row, out):
    out.kind = SIGNAL
    return 1 if row.schema_id > 65535 else 0
'''
TOML = """
[bars]
interval_s = 1

[features]
row_every = 3

[[feature]]
name = "queue_imbalance"
params = { levels = 3 }

[[feature]]
name = "sma"

[[feature]]
name = "trade_intensity"
"""
Rows = np.ndarray[Any, Any]


def configured(features: tuple[tuple[str, dict[str, float]], ...] = WANTED, every: int = 1, **more: Any) -> Config:
    more.setdefault("line", LineConfig(log_features=True))
    more.setdefault("bars", BarsConfig(interval_s=1))
    return Config(features=FeaturesConfig(row_every=every), feature=tuple(IndicatorConfig(n, p) for n, p in features), **more)


def event_slots(rows: Rows) -> Rows:
    of_events = (rows["kind"] == FEATURE) & (rows["schema_id"] >= EVENT_FEATURES_FROM) & (rows["schema_id"] < INDICATORS_FROM)
    return copied(rows, of_events)


def fed() -> Rows:
    """The records of the generated feed that `logs_of` runs."""
    feed = SyntheticFeed(SEED, ROWS, 2)
    feed.bind({i.name: n for n, i in enumerate(feed.instruments)}, 16)
    return joined(*feed.chunks(4096))


def events_of(rows: Rows, instrument: int, quotes: bool = False) -> tuple[Rows, list[bool]]:
    """Events of an instrument, from books kept as dictionaries, and whether each ends its venue's event."""
    book: dict[int, dict[int, int]] = {BID: {}, ASK: {}}
    out, ends, now, valid, top = [], [], 0, False, None
    x = np.zeros(1, EVENT_INPUT)
    x["mid"] = np.nan
    for r in rows:
        now = max(now, int(r["ts_recv_ns"]))
        kind, flags, side = int(r["kind"]), int(r["flags"]), int(r["side"])
        if r["instrument_id"] != instrument or kind not in (TRADE, QUOTE, BOOK_DELTA, BOOK_SNAPSHOT):
            continue
        end = bool(flags & EVENT_END)
        if kind == BOOK_SNAPSHOT and flags & EVENT_FIRST:
            book, valid = {BID: {}, ASK: {}}, False
        if kind in (BOOK_DELTA, BOOK_SNAPSHOT):
            book[side][int(r["price_ticks"])] = int(r["qty_lots"])
            valid = valid or (kind == BOOK_SNAPSHOT and end)
        if kind == QUOTE:
            top = {BID: {int(r["price_ticks"]): int(r["qty_lots"])}, ASK: {int(r["ask_ticks"]): int(r["ask_lots"])}}
        if kind != TRADE and not (end and (kind == QUOTE) == quotes):
            continue
        x["ts_ns"], x["kind"] = now, ON_TRADE if kind == TRADE else ON_BOOK
        if kind == TRADE:
            x["price"], x["qty"], x["side"] = r["price_ticks"], r["qty_lots"], side
        if end:
            seen = (top or {BID: {}, ASK: {}}) if quotes else book
            sides = [sorted(((p, q) for p, q in seen[s].items() if q > 0), reverse=s == BID)[:4] for s in (BID, ASK)]
            known = all(sides) and (quotes or valid)
            for name, levels in zip(("bid", "ask"), sides, strict=True):
                padded = [*(levels if known else []), *[(0, 0)] * 10][:10]
                x[f"{name}_ticks"][0], x[f"{name}_lots"][0] = np.array(padded).T
            x["mid"] = 0.5 * (sides[0][0][0] + sides[1][0][0]) if known else np.nan
        out.append(x.copy())
        ends.append(end)
    return np.concatenate(out), ends


@pytest.mark.parametrize("top", ["book", "quote"])
@pytest.mark.parametrize("every", [1, 7])
def test_rows_at_event_ends_are_those_that_a_batch_over_the_events_gives(top: str, every: int) -> None:
    config = configured(every=every, line=LineConfig(log_features=True, top=top))
    found, made = event_slots(logs_of(config)["features"]), event_features_of(config)
    assert made and len(made.columns) == VALUES
    fed_rows = fed()
    for i in range(2):
        ours = copied(found, found["instrument_id"] == i)
        events, ends = events_of(fed_rows, i, quotes=top == "quote")
        due = made.batch(events)[np.flatnonzero(ends)][every - 1 :: every]
        values = ours["values"].reshape(-1, 2 * VALUES_PER_SLOT)
        assert len(values) == len(due) > 100 and ours["part"].tolist() == [0, 1] * len(due)
        assert values[:, :VALUES].tobytes() == due.tobytes()
        assert np.isfinite(due[-1]).all()


def test_what_a_gap_of_the_book_hides_is_no_flow() -> None:
    made = FeatureSet([("order_flow", {"period": 1})], MICROSTRUCTURE)
    books = (snapshot({99: 10}, {101: 7}, 1), [level(BID, 99, 14, 2)], snapshot({200: 50}, {202: 50}, 3), [level(BID, 200, 53, 4)])
    found = []
    for between in ([], [stamped(GAP, 3)]):
        state = new_features(1, 5, 20, 10, SECOND_NS, False, 4096, events=made)
        rows = slots({**r, "seq": n} for n, r in enumerate([*books[0], *books[1], *between, *books[2], *books[3]]))
        markets, orders = new_markets([False])
        out = empty(4 * len(rows))
        found.append(event_slots(out[: _features(state, markets, orders, rows, empty(ROWS_MAX), out)])["values"][:, 0].tolist())
    assert found[0][1:] == [4.0, 50.0 + 7.0, 3.0], "a snapshot alone is a change of the book"
    assert found[1][1] == 4.0 and np.isnan(found[1][2]) and found[1][3] == 3.0 and len(found[1]) == 4


def test_quotes_are_not_known_from_a_gap_to_the_next_one() -> None:
    made = FeatureSet([("order_flow", {"period": 1}), ("queue_imbalance", {"levels": 1})], MICROSTRUCTURE)
    quote = {"price_ticks": 99, "qty_lots": 10, "ask_ticks": 101, "ask_lots": 10}
    records = [
        stamped(QUOTE, 1, **quote), stamped(QUOTE, 2, **{**quote, "qty_lots": 14}), stamped(GAP, 3), stamped(TRADE, 4, price_ticks=300, qty_lots=1),
        stamped(QUOTE, 5, **{**quote, "price_ticks": 100, "qty_lots": 50}), stamped(QUOTE, 6, **{**quote, "price_ticks": 100, "qty_lots": 53}),
    ]  # fmt: skip
    state = new_features(1, 5, 20, 10, SECOND_NS, True, 4096, events=made)
    markets, orders = new_markets([False])
    out = empty(4 * len(records))
    rows = slots({**r, "seq": n} for n, r in enumerate(records))
    found = event_slots(out[: _features(state, markets, orders, rows, empty(ROWS_MAX), out)])
    flow, imbalance = found["values"][:, 0].tolist(), found["values"][:, 1].tolist()
    assert found["seq"].tolist() == [0, 1, 3, 4, 5] and np.isnan([flow[0], flow[2], imbalance[2], flow[3]]).all()
    assert (flow[1], flow[4]) == (4.0, 3.0) and imbalance[3] == 40 / 60


@pytest.mark.parametrize("bars", [BarsConfig(interval_s=1), BarsConfig(by="ticks", size=50), BarsConfig(of="quotes", interval_s=1)], ids=str)
def test_a_line_without_features_of_events_says_the_same_but_for_their_rows(bars: BarsConfig) -> None:
    line = LineConfig(log_features=True, top="quote" if bars.of == "quotes" else "book")
    bar_features = tuple(f for f in WANTED if f[0] == "sma")
    with_them = logs_of(configured(bars=bars, line=line))["features"]
    without = logs_of(configured(bar_features, bars=bars, line=line))["features"]
    of_events = (with_them["kind"] == FEATURE) & (with_them["schema_id"] >= EVENT_FEATURES_FROM) & (with_them["schema_id"] < INDICATORS_FROM)
    kept = [copied(rows, which & (rows["kind"] != CHECKPOINT)) for rows, which in ((with_them, ~of_events), (without, without["kind"] > 0))]
    for rows in kept:
        rows["row"] = 0  # which counts the rows before it
    assert (kept[1]["kind"] == BAR).sum() > 10 and (kept[1]["kind"] == FEATURE).sum() > 100
    assert kept[0].tobytes() == kept[1].tobytes()
    checks = [rows[rows["kind"] == CHECKPOINT]["rows"][-1] for rows in (with_them, without)]
    assert checks[0] - checks[1] == of_events.sum() > 0  # the digest covers them


def test_a_strategy_reads_the_features_of_events_and_one_that_reads_features_is_not_shown_them(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(STRATEGIES)
    config = configured(strategy=tuple(StrategyConfig(name, f"mine.py:{name}") for name in ("leans", "counts")))
    logs = logs_of(config, tmp_path)
    found = event_slots(logs["features"])["values"].reshape(-1, 2 * VALUES_PER_SLOT)
    due = (found[:, 0] + found[:, 12])[~np.isnan(found[:, 0] + found[:, 12])]
    signals = logs["signals"]
    assert (signals["kind"] == SIGNAL).all() and set(signals["strategy_id"].tolist()) == {1}
    assert len(due) > 1000 and signals["value"].tolist() == due.tolist()


def test_the_schemas_of_bars_and_of_events_are_told_apart() -> None:
    config = configured()
    assert [c.name for c in indicators_of(config).columns] == ["sma_3"]  # type: ignore[union-attr]
    built = build_line(config, SyntheticFeed(SEED, 10, 1).instruments, 1, 1, Path())
    ids = [int(built.line.features.events.shape[0]["schema"]), int(built.line.features.indicators.shape[0]["schema"])]
    assert schema_id(32) < EVENT_FEATURES_FROM <= ids[0] & 0xFFFFFFFF < INDICATORS_FROM <= ids[1] & 0xFFFFFFFF
    assert ids[0] >> 32 == VALUES and built.line.features.events.shape[0]["levels"] == 4
    other = msgspec.structs.replace(config, feature=config.feature[:-1])
    assert event_features_of(other).schema_hash != event_features_of(config).schema_hash  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("feature", "strategy", "words"),
    [
        ((IndicatorConfig("vpn"),), "", r"\[\[feature\]\]: no feature 'vpn'; there are .*trade_intensity.*vpin"),
        ((IndicatorConfig("vpin", {"bucket": 0}),), "", "vpin: bucket is 1 to"),
        ((IndicatorConfig("sma"),), "leans", r"strategy it reads features of events, and no \[\[feature\]\] of events is configured"),
        ((IndicatorConfig("vpin"),), "leans", "sees 13 values of the features of events' row, which has 1"),
    ],
)
def test_what_there_is_not_is_refused_in_words(feature: tuple[IndicatorConfig, ...], strategy: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(STRATEGIES)
    strategies = (StrategyConfig("it", f"mine.py:{strategy}"),) if strategy else ()
    with pytest.raises(ConfigError, match=words):
        build_line(Config(feature=feature, strategy=strategies), (), 1, 1, tmp_path)


def test_a_run_is_exported_under_the_names_of_the_values_and_proved_in_every_placement(tmp_path: Path) -> None:
    config = config_file(tmp_path, TOML)
    told = [
        replayed(tmp_path / placement, f"synthetic:{ROWS}:{SEED}:2", config=config, options=("--placement", placement))
        for placement in ("fused", "staged")
    ]
    assert told[0]["hashes"] == told[1]["hashes"]
    rows = table(tmp_path / "fused", "event_features")
    names = ["queue_imbalance_3", "trade_intensity.intensity", "trade_intensity.buys", "trade_intensity.sells"]
    assert list(rows[0])[-4:] == names and list(table(tmp_path / "fused", "indicators")[0])[-1] == "sma"
    count = len(table(tmp_path / "fused", "features"))
    assert abs(3 * len(rows) - count) <= 3 * 2 + 2 * 100  # a third of the events at which both sides are known, and of the few before
    assert log_rows(tmp_path / "fused", "features").tobytes() == log_rows(tmp_path / "staged", "features").tobytes()
    done("verify", tmp_path / "fused")
