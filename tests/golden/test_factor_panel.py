"""Factors of twenty stocks over 33 years: the figures written down for them, and those of a panel that comes a day late."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped,unused-ignore]
import pytest

from handlers.domain.schema import FACTORS_FROM
from handlers.features.factor_panel import PanelScores, next_returns, rank_ic, score_panel, spread
from handlers.features.factors import HIGH, LIQUIDITY, LOW_VOLATILITY, MOMENTUM, REVERSAL, new_factors
from tests.runs import config_file, log_rows, replayed
from transport.records import FEATURE

NAMED = {"mom_12_1": MOMENTUM, "rev_1": REVERSAL, "lowvol_60d": LOW_VOLATILITY}
DIGIT = 0.5000001e-8  # of the figures: eight places


@pytest.fixture(scope="module")
def panel(data_dir: Path) -> pd.DataFrame:
    """Adjusted closes by day and stock."""
    return pd.read_csv(data_dir / "skfolio_sp500" / "sp500_dataset.csv.gz", index_col=0, parse_dates=True)


@pytest.fixture(scope="module")
def reference(data_dir: Path) -> dict[str, Any]:
    """What independent scripts found in the same file."""
    return dict(json.loads((data_dir / "reference" / "panel_sp500.json").read_text()))


def month_ends(panel: pd.DataFrame) -> np.ndarray:
    months = panel.index.year * 12 + panel.index.month
    return np.append(np.diff(months) != 0, True)


def scored(panel: pd.DataFrame) -> PanelScores:
    return score_panel(new_factors(panel.shape[1]), panel.to_numpy(), month_ends(panel))


@pytest.mark.parametrize("name", NAMED)
def test_factors_have_the_figures_written_down(panel: pd.DataFrame, reference: dict[str, Any], name: str) -> None:
    due, ends = reference["monthly_factors"][name], np.flatnonzero(month_ends(panel))
    raw = scored(panel).raw[ends, NAMED[name]]
    later = next_returns(panel.to_numpy()[ends])
    ics = rank_ic(raw, later)
    ics = ics[~np.isnan(ics)]
    assert len(ics) == due["months"]
    assert ics.mean() == pytest.approx(due["mean_rank_ic"], abs=DIGIT)
    assert ics.mean() / ics.std(ddof=1) == pytest.approx(due["ic_ir"], abs=DIGIT)
    assert np.nanmean(spread(raw, later)) == pytest.approx(due["quintile_long_short_mean_monthly"], abs=DIGIT)
    last = dict(zip(panel.columns, raw[-1], strict=True))
    assert {stock: pytest.approx(score, abs=DIGIT) for stock, score in due["last_scores"].items()} == {
        stock: last[stock] for stock in due["last_scores"]
    }


def test_holding_all_alike_has_the_figures_written_down(panel: pd.DataFrame, reference: dict[str, Any]) -> None:
    due = reference["equal_weight_daily_rebalanced"]
    days = np.nanmean(next_returns(panel.to_numpy())[:-1], axis=1)
    wealth = np.cumprod(1 + days)
    found = {
        "ann_mean": days.mean() * 252,
        "ann_vol": days.std(ddof=1) * np.sqrt(252),
        "sharpe": days.mean() / days.std(ddof=1) * np.sqrt(252),
        "total_return": wealth[-1] - 1,
        "max_drawdown": (wealth / np.maximum.accumulate(np.maximum(wealth, 1.0)) - 1).min(),
    }
    assert found == {name: pytest.approx(value, abs=DIGIT) for name, value in due.items()}


# --- an oracle of its own, in pandas ---------------------------------------------------------------------------------------
def pandas_factors(panel: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """The factors at month ends."""
    monthly = panel[month_ends(panel)]
    days = panel.pct_change()
    return {
        MOMENTUM: monthly.shift(1) / monthly.shift(12) - 1,
        REVERSAL: -monthly.pct_change(),
        LOW_VOLATILITY: -days.rolling(60).std()[month_ends(panel)],
        HIGH: (panel / panel.rolling(252).max())[month_ends(panel)],
    }


def pandas_ic(scores: pd.DataFrame, later: pd.DataFrame) -> float:
    return float(scores.rank(axis=1).corrwith(later.rank(axis=1), axis=1).mean())


def test_all_factors_are_those_of_pandas(panel: pd.DataFrame) -> None:
    raw = scored(panel).raw[month_ends(panel)]
    for factor, due in pandas_factors(panel).items():
        np.testing.assert_allclose(raw[:, factor], due.to_numpy(), rtol=1e-9, atol=1e-12)
    assert np.isnan(raw[:, LIQUIDITY]).all(), "nothing is known of what was traded"


def test_a_panel_a_day_late_has_the_figures_of_yesterdays_factors(panel: pd.DataFrame) -> None:
    """Against the same returns: had a factor seen today's close, or tomorrow's, these would be other figures."""
    late = panel.shift(1)
    ends = month_ends(panel)
    later = panel[ends].pct_change().shift(-1)
    raw, in_time = scored(late).raw[ends], scored(panel).raw[ends]
    for factor, due in pandas_factors(late).items():
        found = np.nanmean(rank_ic(raw[:, factor], later.to_numpy()))
        assert found == pytest.approx(pandas_ic(due, later), abs=1e-12)
        assert abs(found - np.nanmean(rank_ic(in_time[:, factor], later.to_numpy()))) > 1e-5


def test_a_late_panel_has_every_score_of_the_panel_a_day_later(panel: pd.DataFrame) -> None:
    ends = month_ends(panel)
    in_time = score_panel(new_factors(20), panel.to_numpy()[:1500], ends[:1500])
    late = score_panel(new_factors(20), panel.shift(1).to_numpy()[:1500], np.append(False, ends)[:1500])
    for now, then in zip(late, in_time, strict=True):
        assert np.array_equal(now[1:], then[:-1], equal_nan=True)


# --- the same by a line ----------------------------------------------------------------------------------------------------
WIDE = """
kind = "bar"
venue = "us"
interval = "1d"
wide = true
columns.open_time = "Date"
"""
DAILY = """
[line]
timer_interval_ms = 0
log_features = true

[bars]
interval_s = 86400

[factors]
enabled = true
period_bars = 21
"""


def test_a_line_over_the_file_says_the_scores_of_the_panel_bit_by_bit(panel: pd.DataFrame, data_dir: Path, tmp_path: Path) -> None:
    source = tmp_path / "sp500_dataset.csv.gz"
    source.symlink_to(data_dir / "skfolio_sp500" / "sp500_dataset.csv.gz")
    config_file(tmp_path, WIDE, "sp500_dataset.csv.gz.toml")
    replayed(tmp_path / "run", source, config=config_file(tmp_path, DAILY))
    rows = log_rows(tmp_path / "run", "features")
    of_factors = rows[(rows["kind"] == FEATURE) & (rows["schema_id"] >= FACTORS_FROM)]
    due = score_panel(new_factors(20), panel.to_numpy(), np.arange(1, len(panel) + 1) % 21 == 0)
    found = of_factors["values"][:, :6].reshape(len(panel), 20, 6)
    assert np.array_equal(found[:, :, :5], due.scores.transpose(0, 2, 1), equal_nan=True)
    assert np.array_equal(found[:, :, 5], due.composite, equal_nan=True)
    assert np.isfinite(due.composite[252:]).all()
