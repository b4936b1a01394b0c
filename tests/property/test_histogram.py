"""The histogram against the sorted values themselves: counts exact, percentiles within a bucket's width, the largest exact."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.observe.histogram import BUCKETS, COUNTS, HISTOGRAM, bucket_of, merge, percentiles, record, upper_bounds
from transport.compiled import I64, array_t, kernel

WANTED = (50, 90, 99, 99.9, 100)
HOUR_NS = 3_600_000_000_000
RELATIVE_ERROR = 1 / 32  # 32 buckets an octave


@kernel((array_t(HISTOGRAM), array_t(np.dtype("i8"))))
def record_all(histograms, values):
    for value in values:
        record(histograms[0], value)


@kernel((I64,))
def bucket(value):
    return bucket_of(value)


def histogram_of(values: np.ndarray) -> np.ndarray:
    histograms = np.zeros(1, HISTOGRAM)
    record_all(histograms, np.ascontiguousarray(values, np.int64))
    return histograms[0]["bucket"]


def assert_close(histogram: np.ndarray, values: np.ndarray) -> None:
    ranks = [max(1, ceil(Fraction(str(p)) * len(values) / 100)) for p in WANTED]
    exact = np.sort(values)[np.array(ranks) - 1]
    for found, truth in zip(percentiles(histogram, WANTED), exact, strict=True):
        assert truth <= found <= truth * (1 + RELATIVE_ERROR), (found, truth)
    assert percentiles(histogram, (100,)) == [values.max()]


@pytest.mark.parametrize("shape", ["exponential", "lognormal", "uniform", "constant"])
def test_percentiles_are_the_sorted_values_within_a_bucket(shape: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 100_000
    drawn = {
        "exponential": rng.exponential(700, n),
        "lognormal": rng.lognormal(8, 3, n),
        "uniform": rng.uniform(0, HOUR_NS, n),
        "constant": np.full(n, 12_345),
    }[shape]
    values = np.minimum(drawn, HOUR_NS).astype(np.int64)
    histogram = histogram_of(values)
    assert histogram[:COUNTS].sum() == n
    assert_close(histogram, values)


@given(st.lists(st.integers(0, HOUR_NS), min_size=1, max_size=300))
def test_any_values_are_counted_within_a_bucket(values: list[int]) -> None:
    assert_close(histogram_of(np.array(values)), np.array(values))


@given(st.lists(st.lists(st.integers(0, HOUR_NS), max_size=40), min_size=1, max_size=5))
def test_merged_histograms_are_the_histogram_of_all(parts: list[list[int]]) -> None:
    rows = np.array([histogram_of(np.array(part, np.int64)) for part in parts])
    everything = np.array([value for part in parts for value in part], np.int64)
    assert np.array_equal(merge(rows), histogram_of(everything))


def test_every_bucket_begins_where_the_one_below_ends() -> None:
    bounds = upper_bounds()
    assert bounds[-1] >= HOUR_NS
    assert np.all(np.diff(bounds) > 0)
    for index in range(COUNTS - 1):
        assert bucket(int(bounds[index])) == index
        assert bucket(int(bounds[index]) + 1) == index + 1


def test_what_lies_outside_is_counted_at_the_ends() -> None:
    histogram = histogram_of(np.array([-5, 2**62]))
    assert histogram[0] == 1
    assert histogram[COUNTS - 1] == 1
    assert percentiles(histogram, (50, 100)) == [0, 2**62]


def test_an_empty_histogram_has_no_percentiles() -> None:
    assert percentiles(np.zeros(BUCKETS, np.int64), WANTED) == [0] * len(WANTED)
