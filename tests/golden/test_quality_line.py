"""A run whose feeds are checked: what is left out, flagged and halted, and that it re-executes from its journal on every placement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.feeds import open_feeds
from handlers.domain import reasons
from tests.runs import BOTH_STRATEGIES, config_file, done, log_rows, replayed, table
from transport.records import BY_RISK, EVENT_END, FEED_BASE, HALT, ORDER, QUOTE, REJECT, STATUS, SUSPECT, TRADE, TRADING, joined
from transport.tape import TapeWriter

FEED = "synthetic:60_000:9:1"
SECTION = '\n[quality]\nenabled = true\ncrossed = "halt"\nlocked = "drop"\nreturns = "flag"\nresume_after = 4000\n'
Rows = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quality")


@pytest.fixture(scope="module")
def faulty(folder: Path) -> tuple[Path, Rows]:
    """A tape with quotes that cross (two), quotes that lock (four) and trades far off (three), and its rows."""
    feeds, table = open_feeds([FEED], ())
    rows = joined(*feeds[0].windows(1 << 16))
    quotes, trades = (np.flatnonzero(rows["kind"] == kind) for kind in (QUOTE, TRADE))
    crossed, locked, far = quotes[[4_000, 7_000]], quotes[[1_000, 2_000, 3_000, 5_000]], trades[[2_000, 3_000, 4_000]]
    rows["ask_ticks"][crossed] = rows["price_ticks"][crossed] - 3
    rows["ask_ticks"][locked] = rows["price_ticks"][locked]
    rows["price_ticks"][far] += 4_000
    path = folder / "faulty.tape"
    with TapeWriter(path, list(table), {"sources": []}) as tape:
        tape.append(rows)
    return path, rows


@pytest.fixture(scope="module")
def run(folder: Path, faulty: tuple[Path, Rows]) -> tuple[Path, dict[str, Any]]:
    """A fused run with the checks on, and its summary."""
    config = config_file(folder, BOTH_STRATEGIES + SECTION)
    return folder / "run", replayed(folder / "run", faulty[0], config=config)


def test_what_a_check_leaves_out_is_not_in_the_log_and_what_it_flags_is_marked(
    run: tuple[Path, dict[str, Any]], faulty: tuple[Path, Rows]
) -> None:
    log = log_rows(run[0], "input")
    market = log[(log["source_id"] >= FEED_BASE) & (log["kind"] != STATUS)]
    report = run[1]["quality"][str(faulty[0])]
    times = {key: check["times"] for key, check in report["checks"].items() if check["times"]}
    assert times == {"returns": 3, "crossed": 2, "locked": 4}
    assert report["checks"]["locked"]["reason"] == reasons.NAME[reasons.LOCKED_QUOTE]
    assert len(market) == len(faulty[1]) - 6
    assert np.count_nonzero(market["flags"] & SUSPECT) == 3
    assert (market["kind"][market["flags"] & SUSPECT != 0] == TRADE).all()
    assert not ((market["kind"] == QUOTE) & (market["ask_ticks"] <= market["price_ticks"])).any()


def test_a_halt_of_the_data_keeps_orders_back_until_it_is_lifted(run: tuple[Path, dict[str, Any]]) -> None:
    log, risk = log_rows(run[0], "input"), log_rows(run[0], "risk")
    said = log[log["kind"] == STATUS]
    assert said["action"].tolist() == [HALT, TRADING] * 2
    assert set(said["reason"].tolist()) == {reasons.CROSSED_QUOTE}
    assert (said["flags"] == EVENT_END | 8).all(), "SYNTHETIC, as what it is about"
    seqs = said["seq"].tolist()
    orders = risk[(risk["kind"] == ORDER) & (risk["source_id"] == BY_RISK)]["seq"]
    refused = risk[(risk["kind"] == REJECT) & (risk["reason"] == reasons.TRADING_HALTED)]["seq"]
    within = np.zeros(len(refused), bool)
    for begun, ended in zip(seqs[::2], seqs[1::2], strict=True):
        assert not ((orders >= begun) & (orders < ended)).any()
        within |= (refused >= begun) & (refused < ended)
    assert len(orders)
    assert len(refused)
    assert within.all()
    assert run[1]["rejects"]["TRADING_HALTED"] == len(refused)


def test_the_run_is_proved_and_its_input_stored_by_value(run: tuple[Path, dict[str, Any]]) -> None:
    assert json.loads((run[0] / "run.json").read_text())["by_reference"] is False
    assert done("verify", run[0], "--json").json["proved"] is True


def test_every_placement_makes_the_same_of_it(run: tuple[Path, dict[str, Any]], faulty: tuple[Path, Rows], folder: Path) -> None:
    again = replayed(folder / "staged", faulty[0], config=folder / "config.toml", options=("--placement", "staged"))
    assert again["hashes"] == run[1]["hashes"]
    assert again["quality"] == run[1]["quality"]


def test_windows_of_another_size_make_the_same_log(run: tuple[Path, dict[str, Any]], faulty: tuple[Path, Rows], folder: Path) -> None:
    config = config_file(folder, BOTH_STRATEGIES + SECTION + "\n[runtime]\nchunk_rows = 777\n", "small.toml")
    assert replayed(folder / "small", faulty[0], config=config)["hashes"] == run[1]["hashes"]


def test_the_report_of_a_run_tells_of_its_feeds(run: tuple[Path, dict[str, Any]]) -> None:
    page = (run[0] / "report.html").read_text()
    assert "Quality of the feeds" in page
    assert "CROSSED_QUOTE" in page


def test_a_table_made_of_the_feed_is_that_of_the_run(run: tuple[Path, dict[str, Any]], faulty: tuple[Path, Rows], folder: Path) -> None:
    config = config_file(folder, BOTH_STRATEGIES + SECTION)
    for name in ("quotes", "tops", "bars"):
        of_run = table(run[0], name)
        assert table(faulty[0], name, "--config", config) == of_run
        assert len(of_run) > 1
    drops = config_file(folder, SECTION.replace('returns = "flag"', 'returns = "drop"'), "drops.toml")
    highs = [max(float(row["high"]) for row in rows) for rows in (of_run, table(faulty[0], "bars", "--config", drops))]
    assert highs[0] - highs[1] > 30, "the trades far off are in no bar"


def test_without_the_section_a_tape_is_journaled_by_reference_and_nothing_is_looked_at(folder: Path, faulty: tuple[Path, Rows]) -> None:
    summary = replayed(folder / "off", faulty[0], config=config_file(folder, BOTH_STRATEGIES, "off.toml"))
    assert "quality" not in summary
    assert json.loads((folder / "off" / "run.json").read_text())["by_reference"] is True
    log = log_rows(folder / "off", "input")
    assert np.count_nonzero(log["source_id"] >= FEED_BASE) == len(faulty[1])
