"""Lean's ticks through the whole line: session bars closed by timers, the same in every placement, proved and exported."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.golden.decoded import reference
from tests.runs import BOTH_STRATEGIES, config_file, done, replayed, table

DAY = "20131007"
CONFIG = (
    """
[line]
top = "quote"
[account]
currency = "USD"
[bars]
session = "XNYS"
close_on = "timer"
close_after_ms = 0
price_excluded_conditions = 0x101140220
"""
    + BOTH_STRATEGIES
)


@pytest.fixture(scope="module")
def ticks(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one day's trades and quotes."""
    folder = tmp_path_factory.mktemp("ibm")
    for what in ("trade", "quote"):
        shutil.copy(data_dir / "lean_equity_ibm" / "tick" / "ibm" / f"{DAY}_{what}.zip", folder)
    return folder


def test_a_day_of_ticks_replays_to_the_same_hashes_on_one_thread_and_in_five_processes_and_is_proved(ticks: Path, data_dir: Path, tmp_path: Path) -> None:
    placements = ("fused", "staged")
    runs = {
        name: replayed(tmp_path / name, ticks, config=config_file(tmp_path, f'{CONFIG}\n[runtime]\nplacement = "{name}"\n', f"{name}.toml"))
        for name in placements
    }
    assert len({run["hashes"]["decision_log_hash"] for run in runs.values()}) == 1
    assert len({run["hashes"]["input_log_hash"] for run in runs.values()}) == 1
    expected = reference(data_dir, "lean_ibm")[DAY]
    events = runs["fused"]["events"]
    assert (events["Trade"], events["Quote"]) == (expected["trades"]["n"], expected["quotes"]["n"])
    assert "BAR_TRADES_LATE" not in runs["fused"]["troubles"]
    done("verify", tmp_path / "fused")
    toolchain = json.loads((tmp_path / "fused" / "environment.json").read_text())["toolchain"]
    assert toolchain["exchange_calendars"] == version("exchange_calendars")  # whose sessions these were
    bars = table(tmp_path / "fused", "bars")
    theirs = {int(b["ts_open_ns"]): b for b in table(data_dir / "lean_equity_ibm" / "minute" / "ibm" / f"{DAY}_trade.zip", "bars")}
    same = [all(b[k] == theirs[int(b["ts_open_ns"])][k] for k in ("open", "high", "low", "close")) for b in bars]
    assert (len(same), sum(same)) == (390, expected["minute_trade_bars"]["regular_session"]["ohlc_equal"])
