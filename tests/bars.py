"""Bars for tests of features, and a feature's values by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from handlers.features.catalogue import INDICATORS
from handlers.features.declare import BAR_INPUT, Feature
from handlers.features.feature_set import FeatureSet



def bars_of(columns: Mapping[str, Sequence[float]], session_bars: int = 2**40) -> np.ndarray[Any, Any]:
    """Bars with these columns; a price that is not given is the close, a volume 0; a session begins every `session_bars`."""
    bars = np.zeros(len(columns["close"]), BAR_INPUT)
    for name in ("open", "high", "low", "close"):
        bars[name] = columns.get(name, columns["close"])
    bars["volume"] = columns.get("volume", 0.0)
    bars["session"] = np.arange(len(bars)) // session_bars
    return bars


def random_bars(seed: int, count: int) -> np.ndarray[Any, Any]:
    """A random walk in whole ticks, as in the line: flat bars, equal closes and bars without volume occur."""
    draw = np.random.default_rng(seed)
    close = np.cumsum(draw.integers(-3, 4, count)) + 100_000.0
    before = np.concatenate(([close[0]], close[:-1]))
    columns = {
        "open": before, "close": close, "high": np.maximum(before, close) + draw.integers(0, 4, count),
        "low": np.minimum(before, close) - draw.integers(0, 4, count), "volume": np.maximum(draw.integers(-20, 50, count), 0),
    }  # fmt: skip
    return bars_of(columns, session_bars=97)


def series(
    bars: np.ndarray[Any, Any], name: str, params: dict[str, float] | None = None, known: Sequence[Feature] = INDICATORS
) -> dict[str, np.ndarray[Any, Any]]:
    """Each value of a feature after each bar, by its name."""
    made = FeatureSet([(name, params or {})], known)
    rows = made.batch(bars)
    return {value.name: rows[:, k] for k, value in enumerate(made.placed[0].feature.values)}
