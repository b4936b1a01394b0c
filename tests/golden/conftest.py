"""Runs that several golden tests look at, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.forked import workers_are_forked as workers_are_forked
from tests.runs import BOTH_STRATEGIES, config_file, replayed


@pytest.fixture(scope="session")
def captures(data_dir: Path) -> tuple[Path, Path]:
    """Two recorded venues that a replay merges."""
    return data_dir / "binance_ws_capture" / "usdm", data_dir / "binance_ws_capture" / "spot"


@pytest.fixture(scope="session")
def both_strategies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration of both built-in strategies."""
    return config_file(tmp_path_factory.mktemp("config"), BOTH_STRATEGIES)


@pytest.fixture(scope="session")
def captures_run(captures: tuple[Path, Path], both_strategies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of both strategies over both venues."""
    folder = tmp_path_factory.mktemp("captures") / "run"
    replayed(folder, *captures, config=both_strategies)
    return folder
