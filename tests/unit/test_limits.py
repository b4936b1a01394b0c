"""Limits as the configuration gives them and as RISK's kernels take them: quantities in lots, money in its units."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.config import Config, RiskConfig, StrategyConfig
from engine.errors import ConfigError
from engine.line import UNLIMITED, build_line
from transport.instruments import Instrument


def limits_of(*lots: str, **rules: Any) -> tuple[np.ndarray, np.void]:
    """Limits per instrument and of the line, for instruments of these lots."""
    instruments = [Instrument(f"I{n}", "test", Decimal("0.01"), Decimal(lot)) for n, lot in enumerate(lots)]
    risk = build_line(Config(risk=RiskConfig(**rules)), instruments, 1, 1, Path()).line.risk
    return risk.limits, risk.line_limits[0]


def test_position_limits_are_off_by_default() -> None:
    limits, line = limits_of("0.001", "1")
    assert limits["position_max_lots"].tolist() == [UNLIMITED, UNLIMITED]
    assert limits["lot_units"].tolist() == [0, 0]
    assert line["position_total_max"] == UNLIMITED


def test_position_limit_is_in_whole_lots_of_each_instrument() -> None:
    limits, _ = limits_of("0.001", "0.4", position_max=Decimal("2.5"))
    assert limits["position_max_lots"].tolist() == [2500, 6]


def test_total_position_limit_is_in_the_largest_unit_that_all_lots_are_multiples_of() -> None:
    limits, line = limits_of("0.004", "0.006", "5", position_total_max=Decimal("12.0015"))
    assert limits["lot_units"].tolist() == [2, 3, 2500]  # of 0.002
    assert line["position_total_max"] == 6000
    limits, line = limits_of("1", "1", position_total_max=Decimal(10))
    assert (limits["lot_units"].tolist(), line["position_total_max"]) == ([1, 1], 10)


def test_limit_beyond_int64_is_none() -> None:
    limits, line = limits_of("0.00000001", position_max=Decimal("1e15"), position_total_max=Decimal("1e15"))
    assert limits["position_max_lots"].tolist() == [UNLIMITED]
    assert line["position_total_max"] == UNLIMITED


def test_refuses_total_over_lots_too_far_apart_to_be_added() -> None:
    with pytest.raises(ConfigError, match=r"risk.position_total_max: the lot of I1.test is more than"):
        limits_of("0.00000001", "100000", position_total_max=Decimal(1))


def test_more_accounts_than_one_input_can_flatten_are_refused() -> None:
    instruments = [Instrument(f"I{n}", "test", Decimal("0.01"), Decimal(1)) for n in range(512)]
    strategies = tuple(StrategyConfig(name=f"s{n}", path="momentum") for n in range(9))
    with pytest.raises(ConfigError, match="9 strategies and 512 instruments; a line takes 3496 pairs of them"):
        build_line(Config(strategy=strategies), instruments, 1, 1, Path())
