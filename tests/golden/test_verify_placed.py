"""`verify --placement`: what one thread decided is made again by processes over rings, and a difference is named as ever."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from engine.journaling import decision_hash
from engine.loops import DECIDING
from engine.run_folder import open_run
from engine.verify import Verdicts, verify
from handlers.domain.limits import PRICE_MAX
from handlers.ingest.synthetic.feed import SyntheticFeed
from transport.journal import LogWriter
from transport.records import CANCEL_ALL, COMMAND, FEED_BASE, FILL, ORDER, TIMER, copied, joined
from transport.tape import TapeWriter

from tests.runs import BOTH_STRATEGIES, config_file, done, log_rows, replayed, tickline

PLACED = ("split", "staged")
STRATEGY = '''"""Follows the last trade."""

from handlers.contract import handler
from transport.records import BUY, TARGET, TRADE

LOTS = 30


@handler(reads=TRADE, state=[("seen", "i8")])
def follow(s, p, row, out):
    s.seen += 1
    if s.seen % 40:
        return 0
    out.action = TARGET
    out.qty_lots = LOTS if row.side == BUY else -LOTS
    return 1
'''
CONFIG = BOTH_STRATEGIES + """
[[strategy]]
name = "follow"
path = "follow.py:follow"

[line]
timer_interval_ms = 100
"""
Change = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def feeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two feeds of the same time, an instrument each."""
    folder = tmp_path_factory.mktemp("feeds")
    paths = []
    for number, seed in enumerate((7, 8)):
        feed = SyntheticFeed(seed, 15_000, 1)
        feed.bind({i.name: 0 for i in feed.instruments}, FEED_BASE + number)
        instruments = [msgspec.structs.replace(i, symbol=f"S{seed}") for i in feed.instruments]
        with TapeWriter(folder / f"{seed}.tape", instruments, {"sources": []}) as tape:
            for chunk in feed.chunks(65536):
                tape.append(chunk)
        paths.append(folder / f"{seed}.tape")
    return paths


@pytest.fixture(scope="module")
def made(feeds: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fused run of two merged feeds, and their strategies."""
    folder = tmp_path_factory.mktemp("placed")
    (folder / "follow.py").write_text(STRATEGY)
    replayed(folder / "run", *feeds, config=config_file(folder, CONFIG))
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    return shutil.copytree(made / "run", tmp_path / "run")


@pytest.mark.parametrize("placement", PLACED)
def test_a_run_of_two_feeds_is_proved_in_processes(placement: str, made: Path) -> None:
    inputs = log_rows(made / "run", "input")
    assert {FEED_BASE, FEED_BASE + 1} <= set(inputs["source_id"].tolist())
    assert len(log_rows(made / "run", "orders")) > 100
    found = done("verify", made / "run", "--placement", placement, "--json").json
    assert found["proved"] is True
    assert found["inputs"] == len(inputs)
    assert found["notes"] == []


def test_a_run_of_recorded_markets_is_proved_in_processes(captures_run: Path) -> None:
    assert "proved: " in done("verify", captures_run, "--placement", "split").out


def test_fused_is_what_happens_without_the_option(made: Path) -> None:
    said = [done("verify", made / "run", *option, "--json").out for option in ((), ("--placement", "fused"))]
    assert said[0] == said[1]


def test_refuses_a_placement_that_is_none(made: Path) -> None:
    said = tickline("verify", made / "run", "--placement", "kafka")
    assert said.code == 2
    assert "placement 'kafka' is not one of fused, split, staged" in said.err


def test_records_that_ingest_refuses_are_as_if_they_were_not_there(made: Path, tmp_path: Path) -> None:
    """Before the first record, ahead of their time among them, and long behind the last: they move no time and call no timer."""
    feed = SyntheticFeed(7, 6000, 1)
    feed.bind({i.name: n for n, i in enumerate(feed.instruments)}, FEED_BASE)
    rows = joined(*(copied(chunk) for chunk in feed.chunks(65536)))
    refused = np.zeros(len(rows), bool)
    refused[[0, 3000, -1]] = True
    rows["price_ticks"][refused] = 2 * PRICE_MAX
    rows["ts_recv_ns"][0] -= 5_000_000_000
    rows["ts_recv_ns"][[3000, -1]] += 5_000_000_000
    shutil.copy(made / "follow.py", tmp_path)
    config = config_file(tmp_path, CONFIG)
    summaries = {}
    for name, part in (("with", rows), ("without", copied(rows, ~refused))):
        with TapeWriter(tmp_path / f"{name}.tape", list(feed.instruments), {"sources": []}) as tape:
            tape.append(part)
        summaries[name] = replayed(tmp_path / name, tmp_path / f"{name}.tape", config=config)
    assert summaries["with"]["ingest"] == {"OUT_OF_RANGE": 3}
    assert summaries["with"]["hashes"] == summaries["without"]["hashes"]
    for placement in ("fused", *PLACED):
        assert verify(tmp_path / "with", placement=placement).proved


@pytest.mark.parametrize("placement", PLACED)
def test_an_edited_strategy_is_named_with_the_first_decision_that_diverges(
    placement: str, feeds: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "follow.py").write_text(STRATEGY)
    replayed(tmp_path / "run", *feeds, config=config_file(tmp_path, CONFIG))
    (tmp_path / "follow.py").write_text(STRATEGY.replace("LOTS = 30", "LOTS = 31"))
    found = verify(tmp_path / "run", placement=placement)
    assert found.evidence == []
    assert re.match(r"strategy file \S+follow\.py: \w{64} in the run, \w{64} now", found.program[0])
    assert re.match(r"seq \d+, stage signals, row \d \(Intent\): qty_lots -?30 in the log, -?31 now", found.decisions[0]), found
    assert found.decisions == verify(tmp_path / "run").decisions


def rewritten(run: Path, name: str, change: Change) -> None:
    """Write a log anew after `change`, its chain and the summary's hashes made to fit."""
    opened = open_run(run)
    rows = change(log_rows(run, name))
    shutil.rmtree(run / name)
    with LogWriter(run, name, opened.facts.run_id) as log:
        log.append(rows)
    hashes = opened.hashes()
    mended = hashes | {f"{name}_log_hash": log.digest}
    mended["decision_log_hash"] = decision_hash({stage: mended[f"{stage}_log_hash"] for stage in DECIDING})
    text = (run / "summary.json").read_text()
    for key, was in hashes.items():
        text = text.replace(f'"{key}": "{was}"', f'"{key}": "{mended[key]}"')
    (run / "summary.json").write_text(text)


@pytest.mark.parametrize("placement", PLACED)
def test_a_forged_order_is_found_with_both_prices(placement: str, run: Path) -> None:
    rows = log_rows(run, "orders")
    at = int(np.flatnonzero(rows["kind"] == ORDER)[20])
    seq, price = int(rows["seq"][at]), int(rows["price_ticks"][at])

    def dearer(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        rows["price_ticks"][at] += 1
        return rows

    rewritten(run, "orders", dearer)
    found = verify(run, placement=placement)
    assert found.evidence == []
    assert re.match(rf"seq {seq}, stage orders, row \d+ \(Order\): price_ticks {price + 1} in the log, {price} now", found.decisions[0])
    assert found.decisions == verify(run).decisions


def forged_input(run: Path, change: Change) -> Verdicts:
    """What a split placement says of the run once its input log was changed."""

    def numbered(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        rows = change(rows)
        rows["seq"] = np.arange(len(rows))
        return rows

    rewritten(run, "input", numbered)
    found = verify(run, placement="split")
    assert not found.proved
    return found


def test_a_report_that_was_taken_out_of_the_log_is_found_where_it_stood(run: Path) -> None:
    at = int(np.flatnonzero(log_rows(run, "input")["kind"] == FILL)[3])
    found = forged_input(run, lambda rows: joined(rows[:at], rows[at + 1 :]))
    assert re.match(rf"seq {at}, stage \w+, row 0: kind \w+ in the log, Fill now|seq {at}, stage exchange", found.decisions[0]), found


def test_a_better_fill_price_is_found_with_both_values(run: Path) -> None:
    at = int(np.flatnonzero(log_rows(run, "input")["kind"] == FILL)[3])
    price = int(log_rows(run, "input")["price_ticks"][at])

    def better(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        rows["price_ticks"][at] -= 1
        return rows

    words = f"seq {at}, stage exchange, row 0 (Fill): price_ticks {price - 1} in the log, {price} now"
    assert forged_input(run, better).decisions[0].startswith(words)


def test_a_timer_that_was_taken_out_of_the_log_is_found(run: Path) -> None:
    at = int(np.flatnonzero(log_rows(run, "input")["kind"] == TIMER)[5])
    found = forged_input(run, lambda rows: joined(rows[:at], rows[at + 1 :]))
    assert re.match(rf"seq {at}, stage \w+, row 0", found.decisions[0]), found


def cut_off(run: Path, rows_of: Callable[[str, int], int]) -> None:
    """The run as a kill would have left it, each log with the first `rows_of(log, rows)` of its rows."""
    (run / "summary.json").unlink()
    for name in ("input", *DECIDING):
        rows = log_rows(run, name)
        shutil.rmtree(run / name)
        log = LogWriter(run, name, open_run(run).facts.run_id)
        log.append(rows[: rows_of(name, len(rows))])
        log.flush()
        log.release()


@pytest.mark.parametrize("where", ["among records", "behind a timer", "while orders are withdrawn"])
@pytest.mark.parametrize("placement", PLACED)
def test_a_killed_run_is_proved_up_to_the_cut(placement: str, where: str, run: Path) -> None:
    inputs = log_rows(run, "input")
    closing = int(np.flatnonzero((inputs["kind"] == COMMAND) & (inputs["action"] == CANCEL_ALL))[0])
    timers = np.flatnonzero(inputs["kind"] == TIMER)
    timer = int(timers[len(timers) // 2])
    kept = {"among records": len(inputs) // 2, "behind a timer": timer + 1, "while orders are withdrawn": closing + 1}[where]
    cut_off(run, lambda name, rows: {"input": kept, "orders": rows // 4}.get(name, rows))
    found = verify(run, placement=placement)
    assert found.proved, found
    assert found.inputs == kept
    assert any(re.match(r"log orders ends before seq \d+: the run was cut off there", note) for note in found.notes)
    assert sorted(found.notes) == sorted(verify(run).notes)
