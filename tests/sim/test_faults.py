"""A fault of the engine's own, and a strategy that does not return: told in words, the journal whole, and nothing left running.

The assertions that fail here are the engine's own, reached by a position that is worth more money than int64 holds once the market
has moved, or by a state that a test has spoilt between two slices.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import verify as verifying
from engine import watchdog
from engine.config import LOTS_MAX, Config, StrategyConfig
from engine.errors import LineBroken
from engine.journaling import RunJournal
from engine.line import Built, build_line, sequence_first_words
from engine.loops import DECIDING
from engine.ring_loops import INPUT_SLOTS
from engine.run_folder import open_run
from engine.session import Session
from engine.verify import verify
from handlers.ingest.synthetic.feed import SyntheticFeed
from transport.journal import LogWriter
from transport.log_reader import LogReader
from transport.records import COMMAND, FEED_BASE, FILL, SET_POSITION, copied, joined

from tests.runs import ROOT, Said, config_file, environment, log_rows, replayed, state_of, tickline

pytestmark = pytest.mark.spawned

FAULTY = ROOT / "tests" / "sim" / "faulty.py"
PLACEMENTS = ("fused", "split", "staged")
FEED = "synthetic:20_000"
# Worth little at the price it was bought for; at the market's, more than int64 holds.
HELD = """
[[strategy]]
name = "mine"
path = "{path}:sells_one"

[[account.positions]]
strategy = "mine"
instrument = "AAA.synthetic"
lots = {lots}
price = "0.01"
"""
WORDS = "a fault of the engine, not of a strategy, stopped the line at seq "


def holding(folder: Path, lots: int) -> Path:
    return config_file(folder, HELD.format(path=FAULTY, lots=lots))


def broken_run(folder: Path, placement: str) -> tuple[Path, int]:
    """(run folder, input) of a run that an assertion of the engine stopped."""
    run = folder / placement
    said = tickline("replay", FEED, "--config", holding(folder, LOTS_MAX), "--placement", placement, "--out", run)
    assert said.code == 4, said
    assert len(said.err.splitlines()) == 2
    assert "Traceback" not in said.err
    where = re.match(rf"tickline: {WORDS}(\d+): assertion '\w+ overflows' failed; the journal is whole up to that input", said.err)
    assert where, said
    assert f"please report it with {run}/fault.txt" in said.err
    return run, int(where[1])


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_an_assertion_of_the_engine_stops_the_line_with_the_journal_whole(placement: str, tmp_path: Path) -> None:
    run, seq = broken_run(tmp_path, placement)
    assert "Traceback" in (run / "fault.txt").read_text()
    assert not (run / "summary.json").exists()
    inputs = log_rows(run, "input")
    assert inputs["kind"][seq] == FILL, "where the position is marked first"
    assert inputs["seq"].tolist() == list(range(len(inputs)))
    assert 0 <= len(inputs) - 1 - seq <= (0 if placement == "fused" else INPUT_SLOTS)
    for again in ("fused", "split"):
        said = tickline("verify", run, "--placement", again)
        assert said.code == 0, said
        assert f"the run stopped here, and does so again: {WORDS}{seq}: assertion" in said.out
        assert f"proved: {seq + 1:,} inputs" in said.out
        assert "was cut off" not in said.out, "what was decided before the fault is journaled"


def test_every_placement_breaks_at_the_same_input_with_the_same_decisions(tmp_path: Path) -> None:
    runs = [broken_run(tmp_path, placement) for placement in PLACEMENTS]
    assert len({seq for _, seq in runs}) == 1
    seq = runs[0][1]
    for stage in ("signals", "risk", "orders"):
        logs = {copied(rows, rows["seq"] <= seq).tobytes() for run, _ in runs for rows in [log_rows(run, stage)]}
        assert len(logs) == 1, stage


def forged(run: Path, change: Callable[[np.ndarray[Any, Any]], None]) -> None:
    """Write the input log anew after `change`; its chain holds, the summary's hashes do not."""
    rows = log_rows(run, "input")
    change(rows)
    shutil.rmtree(run / "input")
    with LogWriter(run, "input", open_run(run).facts.run_id) as log:
        log.append(rows)


@pytest.mark.parametrize("placement", ["fused", "split"])
def test_an_assertion_where_the_run_had_none_is_a_finding_that_names_the_seq(placement: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    replayed(run, FEED, config=holding(tmp_path, 2**20))
    if placement == "split":  # there the positions to start from are made again, not taken from the log
        text = (run / "config.toml").read_text()
        (run / "config.toml").write_text(text.replace(str(2**20), str(LOTS_MAX)))

    def more(rows: np.ndarray[Any, Any]) -> None:
        held = (rows["kind"] == COMMAND) & (rows["action"] == SET_POSITION)
        rows["qty_lots"][held] *= LOTS_MAX >> 20
        rows["basis"][held] *= LOTS_MAX >> 20

    forged(run, more)
    seq = int(np.flatnonzero(log_rows(run, "input")["kind"] == FILL)[0])
    found = verify(run, placement=placement)
    assert len(found.decisions) == 1
    assert f"{WORDS}{seq}: assertion" in found.decisions[0]


def spoilt(built: Built) -> None:
    """The next order of one lot counts for more than int64 holds."""
    built.line.risk.limits["lot_units"], built.line.risk.line["gross_units"] = -(2**63), -1


@pytest.mark.parametrize("embed", [False, True])
def test_a_fault_at_a_feeds_record_is_journaled_up_to_that_record(embed: bool, tmp_path: Path) -> None:
    """The loop notes a run of a feed's records when it is over: here it never is."""
    feed = SyntheticFeed(7, 20_000, 1)
    feed.bind({i.name: n for n, i in enumerate(feed.instruments)}, FEED_BASE)
    rows = joined(*(copied(chunk) for chunk in feed.chunks(65536)))
    config = Config(strategy=(StrategyConfig(name="mine", path=f"{FAULTY}:sells_one"),))
    tapes = None if embed else [rows]

    def logged(name: str, spoil: Callable[[Built], None]) -> tuple[np.ndarray[Any, Any], LineBroken | None]:
        built = build_line(config, feed.instruments, 1, 1, Path())
        journal = RunJournal(tmp_path / name, "run", ["AAA.synthetic"], tapes, 1, "write")
        session = Session(built, [iter([rows[:10], rows[10:]])], journal.put)
        session.open(lambda ns: sequence_first_words(built, config, ns, 1, 2))
        fault = None
        try:
            session.run(lambda inputs: spoil(built))
        except LineBroken as raised:
            fault = raised
        journal.abandon()
        with LogReader(tmp_path / name, "input", tapes or ()) as log:
            return log.rows(0, log.rows_total), fault

    good, none = logged("good", lambda built: None)
    broken, fault = logged("spoilt", spoilt)
    assert none is None
    assert fault is not None
    assert "assertion 'sum overflows' failed" in str(fault)
    assert len(broken) == fault.seq + 1
    assert broken["source_id"][-1] == FEED_BASE
    assert broken.tobytes() == copied(good[: fault.seq + 1]).tobytes()


# --- a strategy that does not return -------------------------------------------------------------------------------------
SOON = """
import sys
import engine.watchdog
engine.watchdog.HUNG_S = float(sys.argv.pop(1))
from engine.cli import main
main()
"""


def begun(hung_s: float, *args: str | Path) -> subprocess.Popen[str]:
    """`tickline ARGS` in a process of its own that takes a line for hung after `hung_s`."""
    command = [sys.executable, "-c", SOON, str(hung_s), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


def ended(process: subprocess.Popen[str], timeout_s: float = 120) -> Said:
    out, err = process.communicate(timeout=timeout_s)
    return Said(process.returncode, out, err)


def hanging(folder: Path, step: str) -> Path:
    return config_file(folder, f'[[strategy]]\nname = "mine"\npath = "{FAULTY}:{step}"\n')


def hung_at(run: Path, step_rows: int) -> int:
    """The last input in the journal, which must be about where the strategy hangs."""
    rows = log_rows(run, "input")
    assert rows["seq"].tolist() == list(range(len(rows)))
    assert len(rows) > step_rows
    return int(rows["seq"][-1])


@pytest.mark.parametrize(("step", "rows"), [("hangs", 5000), ("hangs_in_python", 500)])
def test_a_strategy_that_does_not_return_ends_a_fused_run_and_its_verification(step: str, rows: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    said = ended(begun(0.8, "replay", "synthetic:20_000:7:1", "--config", hanging(tmp_path, step), "--out", run))
    assert said.code == 3, said
    seq = hung_at(run, rows)
    words = f"the line has not moved for 0.8 s at seq {seq}: strategy mine does not return; the journal is whole up to that input"
    assert words in said.err
    assert "Traceback" not in said.err
    said = ended(begun(0.8, "verify", run))
    assert said.code == 3, said
    assert words in said.err


def await_hang(run: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the run has its folder and works at nothing but its strategy."""
    until = time.monotonic() + 100
    while not (run / "run.json").exists():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    time.sleep(1.5)


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_a_signal_ends_a_fused_run_whose_strategy_does_not_return(
    number: signal.Signals, code: int, word: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = begun(60, "replay", "synthetic:20_000:7:1", "--config", hanging(tmp_path, "hangs"), "--out", run)
    await_hang(run, process)
    process.send_signal(number)
    said = ended(process, 20)
    assert said.code == code, said
    assert word in said.err
    assert "Traceback" not in said.err
    assert hung_at(run, 5000) > 5000


def test_a_fused_run_that_was_stopped_itself_is_not_taken_for_one_that_hangs(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = config_file(tmp_path, f'[[strategy]]\nname = "mine"\npath = "{FAULTY}:churn"\n')
    process = begun(0.5, "replay", "synthetic:60_000", "--speed", "1x", "--config", config, "--out", run)
    await_hang(run, process)
    for _ in range(2):
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.2)
        assert state_of(process.pid) == "T"
        process.send_signal(signal.SIGCONT)
        time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said = ended(process, 20)
    assert said.code == 130, said
    assert all(len(log_rows(run, name)) for name in ("input", *DECIDING))


def test_a_loop_that_is_yet_to_be_compiled_is_not_taken_for_one_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "HUNG_S", 0.3)
    replayed(tmp_path / "run", "synthetic:2000")
    loop, calls = verifying.run_logged, []

    def compiled_first(*given: Any) -> Any:
        if not calls:
            time.sleep(1)
        calls.append(1)
        return loop(*given)

    monkeypatch.setattr(verifying, "run_logged", compiled_first)
    assert verify(tmp_path / "run").proved
    assert len(calls) > 1
