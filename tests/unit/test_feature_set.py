"""A set of features: what its declarations may say, where values and memory lie, what the schema's hash covers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from handlers.domain.schema import FEATURES
from handlers.features.catalogue import INDICATORS, MICROSTRUCTURE
from handlers.features.declare import BAR_INPUT, Feature, FeatureError, Param, Value, feature
from handlers.features.feature_set import SET_VALUES_MAX, FeatureSet
from tests.bars import bars_of, random_bars

EVENT_INPUT = np.dtype(
    [("ts_ns", "i8"), ("kind", "i8"), ("price", "f8"), ("qty", "f8"), ("side", "i8"), ("bids_qty", "f8", (3,)), ("asks_qty", "f8", (3,))]
)
ONE = [Value("one", "", "a value")]
BY_NAME = {f.name: f for f in INDICATORS}


def none(p: Any) -> int:
    return 0


def declared(step: Any, **changed: Any) -> Feature:
    return feature(**{"reads": BAR_INPUT, "values": ONE, "window": none, "warm_up": none, **changed})(step)


def test_values_stand_one_behind_another_under_their_labels() -> None:
    made = FeatureSet([("rsi", {"period": 7}), ("macd", {}), ("bollinger", {"period": 20, "width": 2.5})], INDICATORS)
    assert [c.name for c in made.columns] == [
        "rsi_7", "macd.macd", "macd.signal", "macd.histogram", "bollinger_20_2.5.upper", "bollinger_20_2.5.middle",
        "bollinger_20_2.5.lower", "bollinger_20_2.5.bandwidth", "bollinger_20_2.5.percent_b",
    ]  # fmt: skip
    assert [(p.value, p.slot % 8, p.warm_up) for p in made.placed] == [(0, 0, 7), (1, 0, 33), (4, 0, 19)]
    heads = made.new_memory(2).view(np.int64)[:, [p.slot for p in made.placed]]
    assert heads.tolist() == [[p.window for p in made.placed]] * 2


def test_other_parameters_are_another_label() -> None:
    vpin = [("vpin", {"bucket": n}) for n in (1_234_567, 1_234_568, 2**40)]
    assert [c.name for c in FeatureSet(vpin, MICROSTRUCTURE).columns] == ["vpin_1234567", "vpin_1234568", "vpin_1099511627776"]
    emas = [("ema", given) for given in ({"period": 10}, {"seed": 10}, {"seed": 1, "period": 10}, {})]
    assert [c.name for c in FeatureSet(emas, INDICATORS).columns] == ["ema_10", "ema_seed10", "ema_10_1", "ema"]


def test_schema_tells_each_value_and_what_it_is_made_by() -> None:
    made = FeatureSet([("sma", {"period": 3}), ("donchian", {})], INDICATORS)
    assert made.schema.splitlines()[1:] == [
        "0 sma_3 [price] sma version 1; params period=3; window 9; warm-up 2",
        "1 donchian.upper [price] donchian version 1; params period=20; window 90; warm-up 19",
        "2 donchian.middle [price] donchian version 1; params period=20; window 90; warm-up 19",
        "3 donchian.lower [price] donchian version 1; params period=20; window 90; warm-up 19",
    ]
    assert made.schema_hash == FeatureSet([("sma", {"period": 3.0}), ("donchian", {})], INDICATORS).schema_hash


def test_hash_of_the_schema_changes_with_all_that_it_covers() -> None:
    sma = BY_NAME["sma"]
    changed = [
        [("sma", {})],
        [("sma", {"period": 15})],
        [("sma", {"period": 14}), ("obv", {})],
        [("obv", {}), ("sma", {"period": 14})],
    ]
    hashes = {FeatureSet(wanted, INDICATORS).schema_hash for wanted in changed}
    for other in ({"version": 2}, {"values": (Value("sma", "ticks", ""),)}, {"window": lambda p: 99}, {"warm_up": lambda p: 1}):
        hashes.add(FeatureSet([("sma", {})], [dataclasses.replace(sma, **other)]).schema_hash)
    assert len(hashes) == 8


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ([("smaa", {})], "no feature 'smaa'; there are accumulation"),
        ([("sma", {"width": 3})], "sma has no parameter 'width'; it has period"),
        ([("sma", {"period": 0})], "sma: period is 1 to 10000, not 0"),
        ([("sma", {"period": 2.5})], "sma: period must be a whole number"),
        ([("bollinger", {"width": float("nan")})], "bollinger: width is 0 to 1000, not nan"),
        ([("sma", {}), ("sma", {})], "the feature 'sma' is configured twice"),
        ([("bollinger", {"period": n}) for n in range(2, 60)], f"290 values and .* at most {SET_VALUES_MAX}"),
        ([("stochastic", {"period": 10_000 - n}) for n in range(120)], "slots of memory; a set has at most"),
    ],
)
def test_what_is_configured_wrongly_is_refused_in_words(wanted: list[tuple[str, dict[str, float]]], words: str) -> None:
    with pytest.raises(FeatureError, match=words):
        FeatureSet(wanted, INDICATORS)


def test_features_of_two_kinds_of_input_are_not_one_set() -> None:
    other = dataclasses.replace(BY_NAME["ema"], reads=EVENT_INPUT)
    with pytest.raises(FeatureError, match="same kind of input"):
        FeatureSet([("sma", {}), ("ema", {})], [BY_NAME["sma"], other])


@pytest.mark.parametrize(
    "changed",
    [
        {"values": []},
        {"values": [Value("a", "", ""), Value("a", "", "")]},
        {"params": [Param("n", "i8", 5, 6, 9)]},
        {"state": [("slots", "i8")]},
    ],
)
def test_a_declaration_that_cannot_hold_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        declared(none, **changed)


def test_a_feature_that_wants_too_much_memory_is_refused() -> None:
    greedy = declared(none, window=lambda p: 2**21)
    with pytest.raises(FeatureError, match="needs 2097152 slots"):
        FeatureSet([("none", {})], [greedy])


def allocates(s: Any, w: Any, p: Any, x: Any, out: Any) -> int:
    out[0] = np.zeros(int(x.close)).sum()
    return 1


def raises_to_a_power(s: Any, w: Any, p: Any, x: Any, out: Any) -> int:
    out[0] = x.close**x.open
    return 1


@pytest.mark.parametrize(("step", "words"), [(allocates, "allocates memory"), (raises_to_a_power, "calls pow")])
def test_a_step_that_allocates_or_calls_libm_is_refused_when_it_is_configured(step: Any, words: str) -> None:
    made = FeatureSet([(step.__name__, {})], [declared(step)])
    with pytest.raises(FeatureError, match=f"feature {step.__name__} {words}"):
        _ = made.plan


def pressure(s: Any, w: Any, p: Any, x: Any, out: Any) -> int:
    w[int(s.events) % 4] = x.bids_qty[0] - x.asks_qty[2]
    s.events += 1
    out[0] = w[0] + w[1] + w[2] + w[3]
    return 1 if s.events >= 4 else 0


def test_a_feature_may_read_another_input_with_levels_in_it() -> None:
    made = FeatureSet(
        [("pressure", {})],
        [declared(pressure, reads=EVENT_INPUT, state=[("events", "i8"), ("odd", "u1")], window=lambda p: 4, warm_up=lambda p: 3)],
    )
    events = np.zeros(6, EVENT_INPUT)
    events["bids_qty"][:, 0] = [1, 2, 4, 8, 16, 32]
    events["asks_qty"][:, 2] = 1
    assert made.batch(events)[3:, 0].tolist() == [11.0, 26.0, 56.0]
    assert np.isnan(made.batch(events)[:3]).all()


def test_instruments_have_memories_of_their_own() -> None:
    made = FeatureSet([("ema", {"period": 5}), ("donchian", {"period": 3})], INDICATORS)
    bars, memory = [random_bars(n, 60) for n in (1, 2)], made.new_memory(2)
    row = np.zeros(len(made.columns))
    for k in range(60):
        for i in range(2):
            made.update(memory[i], bars[i][k : k + 1], row)
            if k == 59:
                assert row.tolist() == made.batch(bars[i])[-1].tolist()


def test_bars_of_another_layout_are_refused() -> None:
    made = FeatureSet([("ema", {})], INDICATORS)
    with pytest.raises(TypeError, match="contiguous array"):
        made.batch(bars_of({"close": [1.0] * 10})[::2])
    with pytest.raises(TypeError, match="contiguous array"):
        made.batch(np.zeros(10, EVENT_INPUT))


def test_every_feature_says_what_it_is() -> None:
    every = (*INDICATORS, *MICROSTRUCTURE)
    names = [f.name for f in every]
    assert len(set(names)) == len(names)
    assert not set(names) & {f.name for f in FEATURES}
    for f in every:
        assert f.step.__doc__ and len(f.step.__doc__) > 40, f.name
        assert all(v.what for v in f.values), f.name
