"""Whatever is wrong with the input, the configuration, a strategy or the disk: words, the documented exit code, no traceback.

`tickline` raises what the command does not tell in words, so that a traceback in the output is a failure by itself.
"""

from __future__ import annotations

import gzip
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.ring_loops import INPUT_SLOTS
from engine.run_folder import open_run
from transport.journal import LogReader
from transport.records import BOOK_SNAPSHOT, EVENT_END, GAP
from transport.segment import SHM

from tests.runs import BOTH_STRATEGIES, ROOT, Said, await_end, config_file, environment, log_rows, replayed, tickline, tickline_apart
from tests.unit.capture_lines import depth, quote, snapshot, spot_depth, trade

FAULTY = ROOT / "tests" / "sim" / "faulty.py"
INSTRUMENTS = """
[[instrument]]
symbol = "BTCUSDT"
venue = "binance_usdm"
tick = 0.1
lot = 0.001
quote = "USDT"

[[instrument]]
symbol = "BTCUSDT"
venue = "binance"
tick = 0.01
lot = 0.00001
quote = "USDT"
"""
PLACEMENTS = ("fused", "split", "staged")
CHURN = f"""
[[strategy]]
name = "churn"
path = "{FAULTY}:churn"
"""


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No worker and no shared memory outlives a run, however that ended."""
    yield
    assert not multiprocessing.active_children()
    assert not ours_in_shm(os.getpid())


def ours_in_shm(pid: int) -> list[str]:
    return sorted(p.name for p in SHM.glob(f"*tickline-{pid}-*"))


def capture(path: Path, lines: Iterable[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(text + "\n" for text in lines).encode()))
    return path


def market(messages: int = 60) -> list[str]:
    """A snapshot, then a depth message and a trade in turn, a millisecond apart."""
    out = [snapshot(0, 1000)]
    for n in range(messages):
        at, last = (2 * n + 1) * 1_000_000, 1001 + n
        out.append(depth(at, last, last, last - 1, bids=(("100.0", str(1 + n % 5)),), asks=(("100.2", "4"),)))
        out.append(trade(at + 1_000_000, n + 1))
    return out


def told(said: Said, code: int, *words: str) -> str:
    """The command ended with `code` and says all of `words`."""
    text = said.out + said.err
    assert said.code == code, text
    assert "Traceback" not in text
    for word in words:
        assert word in text, text
    return text


def replay_of(
    tmp_path: Path, lines: Iterable[str], config: str = INSTRUMENTS, placement: str = "fused"
) -> tuple[Path, dict[str, int]]:
    """(run folder, what INGEST counted) of a capture."""
    feed = capture(tmp_path / "usdm.gz", lines)
    run = tmp_path / "run"
    summary = replayed(run, feed, config=config_file(tmp_path, config), options=("--placement", placement))
    assert tickline("verify", run).code == 0
    return run, summary["ingest"]


# --- feeds ---------------------------------------------------------------------------------------------------------------
def test_a_truncated_gzip_is_replayed_to_its_end_and_told(tmp_path: Path) -> None:
    whole = capture(tmp_path / "whole.gz", market(2000)).read_bytes()
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) * 2 // 3])
    summary = replayed(tmp_path / "run", tmp_path / "cut.gz", config=config_file(tmp_path, INSTRUMENTS))
    assert summary["ingest"]["TRUNCATED"] == 1
    assert "cut.gz" in summary["first_offenders"][str(tmp_path / "cut.gz")]["TRUNCATED"]
    assert 500 < summary["events"]["Trade"] < 2000
    assert tickline("verify", tmp_path / "run").code == 0


def test_a_damaged_gzip_is_replayed_to_the_damage_and_told(tmp_path: Path) -> None:
    whole = bytearray(capture(tmp_path / "damaged.gz", market(20_000)).read_bytes())
    whole[len(whole) // 2] ^= 0xFF  # well behind what is read to tell the format
    (tmp_path / "damaged.gz").write_bytes(whole)
    with pytest.raises((zlib.error, gzip.BadGzipFile)):
        gzip.decompress(whole)
    summary = replayed(tmp_path / "run", tmp_path / "damaged.gz", config=config_file(tmp_path, INSTRUMENTS))
    assert summary["ingest"]["UNREADABLE"] == 1


def test_a_broken_line_is_counted_and_the_first_is_shown(tmp_path: Path) -> None:
    lines = market()
    lines[20] = lines[20][:-7]
    lines[40] = "not a line at all"
    run, counted = replay_of(tmp_path, lines)
    assert counted["BROKEN_LINE"] == 2
    offender = open_run(run).summary()["first_offenders"][str(tmp_path / "usdm.gz")]["BROKEN_LINE"]
    assert re.search(r"\b2[01]\b", offender), offender
    assert open_run(run).summary()["events"]["Trade"] >= 58


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_price_off_the_grid_is_counted_and_does_not_trade(placement: str, tmp_path: Path) -> None:
    lines = market()
    lines[10] = trade(9_500_000, 10_000, price="100.15")
    run, counted = replay_of(tmp_path, lines, INSTRUMENTS + CHURN, placement)
    assert counted["PRICE_OFF_GRID"] == 1
    rows = log_rows(run, "input")
    assert 10_000 not in rows["venue_seq"]


def with_a_hole(tmp_path: Path, placement: str) -> Path:
    """A run over two venues; the first loses a depth message, and is sent a new snapshot 20 messages later."""
    lines = market()
    del lines[1 + 2 * 15]
    resync = 1 + 2 * 40
    lines.insert(resync, snapshot((2 * 40) * 1_000_000 + 500_000, 1001 + 38, bids=(("100.0", "2"),), asks=(("100.2", "4"),)))
    spot = [snapshot(0, 1000, bids=(("100.01", "3"),), asks=(("100.02", "4"),))]
    spot += [spot_depth((2 * n + 1) * 1_000_000 + 10, 1001 + n, 1001 + n) for n in range(60)]
    feeds = capture(tmp_path / "usdm" / "a.gz", lines), capture(tmp_path / "spot" / "a.gz", spot)
    run = tmp_path / "run"
    replayed(run, *feeds, config=config_file(tmp_path, INSTRUMENTS + CHURN), options=("--placement", placement))
    return run


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_lost_depth_message_is_a_gap_after_which_nothing_is_decided_until_a_snapshot(placement: str, tmp_path: Path) -> None:
    run = with_a_hole(tmp_path, placement)
    summary = open_run(run).summary()
    assert summary["gaps"] == 1
    assert summary["ingest"]["SEQUENCE_GAP"] == 1
    rows = log_rows(run, "input")
    gap = rows[rows["kind"] == GAP]
    assert gap["instrument_id"].tolist() == [0]
    lost_at = int(gap["seq"][0])
    snapshots = rows[(rows["kind"] == BOOK_SNAPSHOT) & (rows["flags"] & EVENT_END > 0) & (rows["instrument_id"] == 0)]
    back_at = int(snapshots["seq"][snapshots["seq"] > lost_at][0])
    asked = log_rows(run, "signals")
    mine = asked["seq"][asked["instrument_id"] == 0]
    assert np.any(mine < lost_at)
    assert not np.any((mine > lost_at) & (mine < back_at))
    assert np.any(mine > back_at)
    other = asked["seq"][asked["instrument_id"] == 1]
    assert np.count_nonzero((other > lost_at) & (other < back_at)) > 10
    for stage in ("risk", "orders"):
        decided = log_rows(run, stage)
        orders = decided["seq"][(decided["instrument_id"] == 0) & (decided["seq"] > lost_at) & (decided["seq"] < back_at)]
        reports = set(rows["seq"][rows["source_id"] < 16].tolist())
        assert set(orders.tolist()) <= reports, "only answers to what was asked before"


def test_what_is_no_feed_is_told_in_words(tmp_path: Path) -> None:
    picture, nothing, folder = tmp_path / "picture.png", tmp_path / "nothing.gz", tmp_path / "folder"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20)
    nothing.touch()
    folder.mkdir()
    (folder / "README.md").write_text("no captures here")
    for verb in (("replay",), ("import",), ("export", "--table", "trades")):
        name, *options = verb
        out = ("--out", tmp_path / "out")
        told(tickline(name, picture, *options, *out), 2, "picture.png is not a feed")
        told(tickline(name, nothing, *options, *out), 2, "nothing.gz is not a feed: it is empty")
        told(tickline(name, folder, *options, *out), 2, "holds no captures")
        told(tickline(name, tmp_path / "gone.gz", *options, *out), 2, "there is no file or folder", "gone.gz")
        told(tickline(name, "synthetic:many", *options, *out), 2, "synthetic:ROWS")
        assert not (tmp_path / "out").exists()


def test_what_is_no_run_is_told_in_words(tmp_path: Path) -> None:
    told(tickline("verify", tmp_path), 2, "is not a run")
    (tmp_path / "run.json").write_text("{}")
    told(tickline("verify", tmp_path), 2, "cannot be read")
    told(tickline("export", tmp_path, "--table", "fills"), 2, "cannot be read")


def test_a_tape_cut_short_is_told_in_words(tmp_path: Path) -> None:
    assert tickline("import", "synthetic:20_000", "--out", tmp_path / "feed.tape").code == 0
    data = (tmp_path / "feed.tape").read_bytes()
    (tmp_path / "feed.tape").write_bytes(data[: len(data) // 2])
    told(tickline("replay", tmp_path / "feed.tape", "--out", tmp_path / "run"), 2, "feed.tape")


# --- configuration -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[risk]\nnotional_maxx = 5\n', ("notional_maxx", "notional_max", "config.toml:2")),
        ('[line]\nseed = "one"\n', ("line.seed", "config.toml:2")),
        ("[line\n", ("config.toml",)),
        (BOTH_STRATEGIES.replace("lots", "lotz"), ("momentum", "no parameter 'lotz'")),
        (BOTH_STRATEGIES.replace('path = "momentum"', 'path = "momentum"\ninstruments = ["XYZ.synthetic"]'), ("XYZ.synthetic", "AAA.synthetic")),
        ('[[strategy]]\nname = "a"\npath = "gone.py:step"\n', ("no strategy at 'gone.py:step'",)),
        (f'[[strategy]]\nname = "a"\npath = "{FAULTY}:gone"\n', ("no step 'gone'", "churn")),
    ],
    ids=["unknown key", "wrong type", "no TOML", "unknown parameter", "unknown instrument", "missing file", "missing step"],
)
def test_a_wrong_configuration_is_told_with_its_place(text: str, words: tuple[str, ...], tmp_path: Path) -> None:
    config = config_file(tmp_path, text)
    told(tickline("replay", "synthetic:2000", "--config", config, "--out", tmp_path / "run"), 2, *words)
    assert not (tmp_path / "run").exists()


def test_a_missing_configuration_file_is_told(tmp_path: Path) -> None:
    told(tickline("replay", "synthetic:2000", "--config", tmp_path / "gone.toml", "--out", tmp_path / "run"), 2, "gone.toml")


def test_a_strategy_file_that_cannot_be_imported_is_told_with_its_error(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def step(:\n")
    config = config_file(tmp_path, '[[strategy]]\nname = "a"\npath = "broken.py:step"\n')
    told(tickline("replay", "synthetic:2000", "--config", config, "--out", tmp_path / "run"), 2, "broken.py", "SyntaxError")


def test_a_run_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    told(tickline("replay", "synthetic:2000", "--out", tmp_path / "run"), 2, "is not empty")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_a_speed_that_is_none_is_bad_usage(tmp_path: Path) -> None:
    told(tickline("replay", "synthetic:2000", "--speed", "fast", "--out", tmp_path / "run"), 2, "fast")


# --- strategies ----------------------------------------------------------------------------------------------------------
def stopped_by(step: str, placement: str, folder: Path, *words: str) -> tuple[Path, int]:
    """(run folder, input) of a run beside two good strategies that a faulty one stopped, told with `words`."""
    config = config_file(folder, f'{BOTH_STRATEGIES}\n[[strategy]]\nname = "mine"\npath = "{FAULTY}:{step}"\n')
    run = folder / placement
    command = ("replay", "synthetic:20_000", "--config", config, "--placement", placement, "--out", run)
    text = told(tickline(*command), 1, "strategy mine", *words)
    where = re.search(r"at seq (\d+), instrument (\w+\.synthetic)", text.replace("\n", " "))
    assert where, text
    assert not (run / "summary.json").exists()
    return run, int(where[1])


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("raises", ("raised an error",)),
        ("asserts", ("raised an error",)),
        ("raises_in_python", ("raised an error (ValueError: no more)",)),
        ("overruns", ("wrote more rows than it declares",)),
        ("endless", ("kept asking to be called again",)),
        ("floods", ("made more rows on one input than the stage can hold",)),
    ],
)
def test_a_strategy_that_breaks_its_contract_stops_the_line_with_the_journal_whole(
    step: str, words: tuple[str, ...], placement: str, tmp_path: Path
) -> None:
    run, seq = stopped_by(step, placement, tmp_path, *words)
    ahead = log_rows(run, "input")["seq"][-1] - seq
    assert 0 <= ahead <= (0 if placement == "fused" else INPUT_SLOTS)
    text = told(tickline("verify", run), 0, "did not end", "the run stopped here, and does so again: strategy mine")
    assert "was cut off" not in text, "what was decided before the fault is journaled"
    assert f"proved: {seq + 1:,} inputs" in text


@pytest.mark.parametrize("placement", ["split", "staged"])
def test_a_fault_leaves_the_same_decisions_and_is_proved_in_every_placement(placement: str, tmp_path: Path) -> None:
    here, seq = stopped_by("raises_late", "fused", tmp_path)
    there, same = stopped_by("raises_late", placement, tmp_path)
    assert seq == same
    assert len(log_rows(here, "orders")) > 20
    for stage in ("signals", "risk", "orders"):
        assert log_rows(here, stage).tobytes() == log_rows(there, stage).tobytes()
    for run in (here, there):
        told(tickline("verify", run, "--placement", placement), 0, "does so again: strategy mine", f"proved: {seq + 1:,} inputs")


def test_a_strategy_that_allocates_is_refused_before_anything_runs(tmp_path: Path) -> None:
    config = config_file(tmp_path, f'[[strategy]]\nname = "mine"\npath = "{FAULTY}:allocates"\n')
    said = tickline("replay", "synthetic:20_000", "--config", config, "--out", tmp_path / "run")
    told(said, 2, "allocates memory", "state")
    assert not (tmp_path / "run").exists()


# --- the system ----------------------------------------------------------------------------------------------------------
def limited(size: int) -> None:
    """No file of this process may grow beyond `size` bytes: a disk that is full, as far as it can tell."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("size", [500, 4000, 60_000, 400_000])
def test_a_full_disk_is_told_and_what_was_written_stays_readable(size: int, tmp_path: Path) -> None:
    config = config_file(tmp_path, BOTH_STRATEGIES)
    run = tmp_path / "run"
    assert tickline("replay", "synthetic:2000", "--config", config, "--out", tmp_path / "first").code == 0  # compiles
    said = tickline_apart(
        "replay", "synthetic:400_000", "--config", config, "--out", run, "--json", prepare=lambda: limited(size)
    )
    told(said, 3, "File too large")
    assert str(run) in said.err
    assert not (run / "summary.json").exists()
    if size < 60_000:
        return
    log = LogReader(run, "input")
    assert log.rows_total > 0 or size < 400_000, "decisions are stored before their input, and filled the disk"
    assert log.rows(0, log.rows_total)["seq"].tolist() == list(range(log.rows_total))
    told(tickline("verify", run), 0, "did not end")


def started(run: Path, *args: str | Path, until_bytes: int) -> tuple[subprocess.Popen[str], list[int]]:
    """A replay into `run` whose input log has reached a size, and the processes it has started."""
    command = [sys.executable, "-m", "engine.cli", "replay", *map(str, args), "--out", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    began = time.monotonic()
    while sum(p.stat().st_size for p in run.glob("input/*")) < until_bytes:
        assert process.poll() is None and time.monotonic() - began < 100
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return process, [int(pid) for pid in children.split()]


def ended(process: subprocess.Popen[str], workers: list[int]) -> Said:
    """What a run said that has ended, and left nothing behind."""
    out, err = process.communicate(timeout=60)
    await_end(workers)
    assert not ours_in_shm(process.pid)
    return Said(process.returncode, out, err)


@pytest.mark.parametrize("placement", ["split", "staged"])
def test_a_disk_that_fills_up_under_processes_is_told_and_what_was_written_is_proved(placement: str, tmp_path: Path) -> None:
    config = config_file(tmp_path, BOTH_STRATEGIES)
    run = tmp_path / "run"
    replayed(tmp_path / "first", "synthetic:2000", config=config)  # compiles
    options = ("--config", config, "--placement", placement)
    process, workers = started(run, "synthetic:20_000_000", *options, until_bytes=100_000)
    assert workers
    size = max(p.stat().st_size for p in run.glob("*/*.open"))
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size + 10_000, size + 10_000))
    text = told(ended(process, workers), 3, "File too large")
    assert str(run) in text
    assert not (run / "summary.json").exists()
    told(tickline("verify", run), 0, "did not end")


def test_a_folder_that_may_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    told(tickline("replay", "synthetic:2000", "--out", tmp_path / "file" / "run"), 2, "file")
    told(tickline("import", "synthetic:2000", "--out", tmp_path / "file" / "tape"), 3, "file")
    told(tickline("export", "synthetic:2000", "--table", "trades", "--out", tmp_path / "file" / "csv"), 2, "file")


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_an_interrupted_replay_ends_with_its_journal_readable(
    placement: str, number: signal.Signals, code: int, word: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    replayed(tmp_path / "first", "synthetic:2000")  # compiles
    options = ("--speed", "1x", "--placement", placement)
    process, workers = started(run, "synthetic:100_000", *options, until_bytes=10_000)
    process.send_signal(number)
    said = ended(process, workers)
    told(said, code, word)
    assert 0 < open_run(run).input_log().rows_total < 100_000
    told(tickline("verify", run), 0, "did not end")


def test_a_quote_without_a_book_decides_nothing(tmp_path: Path) -> None:
    run, _ = replay_of(tmp_path, [quote(n * 1_000_000, n) for n in range(1, 50)], INSTRUMENTS + CHURN)
    assert open_run(run).log("signals").rows_total == 0


@pytest.mark.parametrize("speed", ["inf", "nan", "-1x", "0"])
def test_a_speed_that_is_no_number_is_bad_usage(speed: str, tmp_path: Path) -> None:
    told(tickline("replay", "synthetic:2000", f"--speed={speed}", "--out", tmp_path / "run"), 2, speed)


def test_more_feeds_than_a_line_takes_are_told(tmp_path: Path) -> None:
    told(tickline("replay", *["synthetic:1000"] * 65, "--out", tmp_path / "run"), 2, "65 feeds; a line takes at most 64")


def test_a_position_to_start_from_that_is_worth_too_much_is_told(tmp_path: Path) -> None:
    held = f'[[account.positions]]\nstrategy = "momentum"\ninstrument = "AAA.synthetic"\nlots = {2**62}\nprice = "100"\n'
    config = config_file(tmp_path, BOTH_STRATEGIES + held)
    told(tickline("replay", "synthetic:2000", "--config", config, "--out", tmp_path / "run"), 2, "account.positions.0.lots")


def test_features_of_a_run_that_a_strategy_stopped_are_exported_to_there(tmp_path: Path) -> None:
    run, seq = stopped_by("raises", "fused", tmp_path, "raised an error")
    said = tickline("export", run, "--table", "features")
    assert said.code == 0
    rows = said.out.splitlines()
    assert 0 < len(rows) <= seq + 2
