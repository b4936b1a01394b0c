"""`verify` accepts a run as it was made, and names what was changed and where for one that was not."""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from engine.run_folder import open_run
from engine.verify import Verdicts, verify
from transport.journal import LogWriter
from transport.records import BY_EXCHANGE, FEED_BASE, FILL, joined

from tests.runs import BOTH_STRATEGIES, Said, config_file, done, environment, log_rows, replayed, tickline

FEED = "synthetic:40_000:7"
STRATEGY = '''"""Follows the last trade."""

from handlers.contract import handler
from transport.records import BUY, TARGET, TRADE

LOTS = 30
BEAT = 40


@handler(reads=TRADE, state=[("seen", "i8")])
def follow(s, p, row, out):
    s.seen += 1
    if s.seen % BEAT:
        return 0
    out.action = TARGET
    out.qty_lots = LOTS if row.side == BUY else -LOTS
    return 1
'''
FOLLOW = """
[[strategy]]
name = "follow"
path = "follow.py:follow"
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that embeds its input, and one that refers to a tape beside it."""
    folder = tmp_path_factory.mktemp("verify")
    (folder / "follow.py").write_text(STRATEGY)
    config = config_file(folder, BOTH_STRATEGIES + FOLLOW)
    replayed(folder / "run", FEED, config=config)
    done("import", FEED, "--out", folder / "feed.tape")
    replayed(folder / "by_reference", folder / "feed.tape", config=config)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be damaged."""
    return shutil.copytree(made / "run", tmp_path / "run")


def flip(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path}"
    path.write_text(text.replace(old, new))


def moved(run: Path, tape: Path, to: Path) -> None:
    """Let a run look for its tape elsewhere."""
    text = (run / "run.json").read_text()
    (run / "run.json").write_text(text.replace(str(tape), str(to)))


def refused(run: Path) -> Said:
    said = tickline("verify", run)
    assert said.code == 1, said.out
    assert "NOT proved" in said.out
    return said


def test_a_run_is_proved(made: Path) -> None:
    for name in ("run", "by_reference"):
        said = done("verify", made / name)
        assert re.fullmatch(r"(evidence|program|decisions) +holds", said.out.splitlines()[0])
        assert "proved: " in said.out
        assert "DOES NOT HOLD" not in said.out
    found = done("verify", made / "run", "--json").json
    assert found["proved"] is True
    assert found["inputs"] == open_run(made / "run").summary()["inputs"]
    assert found["evidence"] == found["program"] == found["decisions"] == found["notes"] == []


def test_a_run_of_recorded_markets_is_proved(captures_run: Path) -> None:
    assert "proved: " in done("verify", captures_run).out


@pytest.mark.parametrize("log", ["input", "features", "signals", "risk", "orders"])
def test_a_flipped_bit_in_a_log_is_named_by_segment_and_row(run: Path, log: str, seed: int) -> None:
    segment = next((run / log).iterdir())
    at = random.Random(seed).randrange(segment.stat().st_size)
    flip(segment, at, at % 8)
    refused(run)
    found = verify(run)
    assert any(text.startswith(f"log {log}: {segment.name}") and re.search(r"row \d+", text) for text in found.evidence), found


def test_a_flipped_bit_in_the_middle_of_the_input_log_is_named_by_block(run: Path) -> None:
    segment = next((run / "input").iterdir())
    flip(segment, segment.stat().st_size // 2)
    found = verify(run)
    assert re.match(r"log input: \S+ block \d+, row \d+", found.evidence[0]), found
    assert 0 < found.inputs < open_run(run).input_log().rows_total
    assert any("re-execution stopped" in note for note in found.notes)


def test_a_flipped_bit_of_a_tape_is_named_by_block(made: Path, tmp_path: Path) -> None:
    tape = tmp_path / "feed.tape"
    shutil.copy(made / "feed.tape", tape)
    run = shutil.copytree(made / "by_reference", tmp_path / "run")
    moved(run, made / "feed.tape", tape)
    assert verify(run).proved
    flip(tape, 4096 + 128 * 10_000 + 56)
    said = refused(run)
    assert re.search(r"tape feed\.tape block 2, row 8192: ", said.out), said.out


def test_a_tape_that_is_gone_is_named(made: Path, tmp_path: Path) -> None:
    run = shutil.copytree(made / "by_reference", tmp_path / "run")
    moved(run, made / "feed.tape", tmp_path / "gone.tape")
    said = tickline("verify", run)
    assert said.code != 0
    assert "gone.tape" in said.out + said.err


def test_a_flipped_bit_of_a_blob_is_named(run: Path) -> None:
    for blob in (run / "blobs").iterdir():
        flip(blob, 100)
        assert blob.name in refused(run).out
        flip(blob, 100)
    assert verify(run).proved


def test_a_changed_configuration_value_is_named_with_both_values_and_what_it_did(run: Path) -> None:
    rewrite(run / "config.toml", "entry = 2.0", "entry = 2.25")
    found = verify(run)
    assert found.evidence == []
    assert found.program == ["configuration strategy.1.params.entry: 2.0 in the run, 2.25 now"]
    assert re.match(r"seq \d+, stage signals", found.decisions[0]), found
    refused(run)


def test_where_a_run_was_placed_is_no_part_of_the_program(run: Path) -> None:
    rewrite(run / "config.toml", "chunk_rows = 65536", "chunk_rows = 5000")
    assert verify(run).proved


@pytest.mark.parametrize("name", ["input_log_hash", "decision_log_hash", "market_hash", "orders_log_hash"])
def test_a_changed_hash_of_the_summary_is_named_with_both_values(run: Path, name: str) -> None:
    right = open_run(run).summary()["hashes"][name]
    wrong = ("1" if right[0] == "0" else "0") + right[1:]
    rewrite(run / "summary.json", f'"{name}": "{right}"', f'"{name}": "{wrong}"')
    assert f"summary.json: {name} {wrong}, the log" in refused(run).out
    assert any(right in text for text in verify(run).evidence)


def test_a_changed_instrument_is_named(run: Path) -> None:
    text = (run / "run.json").read_text()
    (run / "run.json").write_text(text.replace('"AAA"', '"AAB"'))
    assert any("run.json: its instruments" in text for text in verify(run).evidence)


def test_an_edited_strategy_is_named_with_the_first_decision_that_diverges(tmp_path: Path) -> None:
    (tmp_path / "follow.py").write_text(STRATEGY)
    run = tmp_path / "run"
    replayed(run, FEED, config=config_file(tmp_path, FOLLOW))
    rewrite(tmp_path / "follow.py", "LOTS = 30", "LOTS = 31")
    found = verify(run)
    assert found.evidence == []
    assert len(found.program) == 1
    assert re.match(rf"strategy file {tmp_path}/follow\.py: \w{{64}} in the run, \w{{64}} now", found.program[0])
    assert re.match(r"seq \d+, stage signals, row 0 \(Intent\): qty_lots -?30 in the log, -?31 now", found.decisions[0])
    refused(run)


def test_an_edited_strategy_file_that_decides_the_same_is_still_another_program(tmp_path: Path) -> None:
    (tmp_path / "follow.py").write_text(STRATEGY)
    run = tmp_path / "run"
    replayed(run, FEED, config=config_file(tmp_path, FOLLOW))
    rewrite(tmp_path / "follow.py", "Follows the last trade.", "Follows the trade before.")
    found = verify(run)
    assert len(found.program) == 1
    assert found.decisions == []
    refused(run)


def forge(run: Path, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Verdicts:
    """Write the input log anew after `change`, its chain and the summary's hash made to fit; what verify then says."""
    opened = open_run(run)
    rows = change(log_rows(run, "input"))
    rows["seq"] = np.arange(len(rows))
    shutil.rmtree(run / "input")
    with LogWriter(run, "input", opened.facts.run_id) as log:
        log.append(rows)
    right = opened.summary()["hashes"]["input_log_hash"]
    rewrite(run / "summary.json", f'"input_log_hash": "{right}"', f'"input_log_hash": "{log.digest}"')
    refused(run)
    return verify(run)


def inserted(rows: np.ndarray[Any, Any], at: int, source: int) -> np.ndarray[Any, Any]:
    """A second copy of the fill at `at`, 100 inputs later and from `source`."""
    forged = joined(rows[at : at + 1])
    to = at + 100
    forged["source_id"] = source
    forged["ts_seq_ns"] = rows["ts_seq_ns"][to - 1]
    return joined(rows[:to], forged, rows[to:])


def test_a_log_written_anew_with_nothing_changed_is_proved(run: Path) -> None:
    """What the forgeries below are measured against."""
    opened = open_run(run)
    rows = log_rows(run, "input")
    shutil.rmtree(run / "input")
    with LogWriter(run, "input", opened.facts.run_id) as log:
        log.append(rows)
    assert verify(run).proved


def test_a_forged_report_of_the_exchange_is_found_where_it_stands(run: Path) -> None:
    rows = log_rows(run, "input")
    at = int(np.flatnonzero(rows["kind"] == FILL)[3])
    found = forge(run, lambda rows: inserted(rows, at, BY_EXCHANGE))
    assert found.evidence == []
    assert re.match(rf"seq {at + 100}, stage exchange: ", found.decisions[0]), found


def test_a_fill_that_a_feed_claims_is_found_where_it_stands(run: Path) -> None:
    rows = log_rows(run, "input")
    at = int(np.flatnonzero(rows["kind"] == FILL)[3])
    found = forge(run, lambda rows: inserted(rows, at, FEED_BASE))
    assert found.evidence == [f"log input: seq {at + 100}: a Fill record may not come from source {FEED_BASE}"]


def test_a_report_that_was_taken_out_is_found(run: Path) -> None:
    at = int(np.flatnonzero(log_rows(run, "input")["kind"] == FILL)[3])
    found = forge(run, lambda rows: joined(rows[:at], rows[at + 1 :]))
    assert found.decisions
    assert re.match(rf"seq {at}, stage exchange: ", found.decisions[0]), found


def test_a_better_fill_price_is_found_with_both_values(run: Path) -> None:
    at = int(np.flatnonzero(log_rows(run, "input")["kind"] == FILL)[3])

    def better(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        rows["price_ticks"][at] -= 1
        return rows

    price = int(log_rows(run, "input")["price_ticks"][at])
    found = forge(run, better)
    assert f"price_ticks {price - 1} in the log, {price} now" in found.decisions[0]


def test_no_flipped_bit_of_any_file_breaks_verify_or_is_taken_for_proof(run: Path, seed: int) -> None:
    """Free to change: the picture, comments, names of feeds, and what the summary tells of time and of the machine."""
    chance = random.Random(seed)
    files = sorted(p for p in run.rglob("*") if p.is_file() and p.name != "report.html")
    for _ in range(40):
        path = chance.choice(files)
        at, bit = chance.randrange(path.stat().st_size), chance.randrange(8)
        flip(path, at, bit)
        said = tickline("verify", run, "--json")
        where = f"{path.name}, byte {at}, bit {bit}: {said.out}{said.err}"
        assert said.code in (0, 1, 2), where
        if path.suffix in (".seg", ".open") or path.parent.name == "blobs":
            assert said.code == 1, where
        flip(path, at, bit)
    assert verify(run).proved


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("run.json", '"instruments_sha": "', '"instruments_sha": "g', "run.json cannot be read"),
        ("run.json", '"run_id": "', '"run_id": "0', "log input: of run "),
        ("run.json", '"venue": "synthetic"', '"venue": "synthetid"', "its instruments are not those of the blob"),
        ("run.json", '"epoch": 1', '"epoch": 2', "run.json: epoch 2, the log begins with 1"),
        ("environment.json", '"code_hash": "', '"code_hash": "0', "its code_hash is not that of the sources it lists"),
        ("summary.json", '"net_flattened": "', '"net_flattened": "9', "summary.json: pnl.net_flattened 9"),
        ("summary.json", '"code_hash": "', '"code_hash": "0', "summary.json: code_hash 0"),
        ("summary.json", '"gaps": 0', '"gaps": 1', "summary.json: gaps 1, the log's is 0"),
        ("summary.json", '"rejects": {', '"rejects": {"STALE_DATA": 5}, "more": {', "summary.json: rejects.STALE_DATA 5, the log's is absent"),
        ("summary.json", '"pnl": {', '"pnl": {"tips": 3, ', "summary.json: pnl.tips 3, the log's is absent"),
        ("summary.json", '"inputs": ', '"inputs": 9', "summary.json: inputs 9"),
        ("summary.json", '"hashes": {', '"hashes": 3, "h": {', "summary.json: hashes: "),
        ("summary.json", '"market_hash": "', '"market_hash": "0', "summary.json: market_hash 0"),
        ("summary.json", "{", "[", "summary.json cannot be read"),
    ],
)
def test_a_word_changed_in_what_a_run_tells_of_itself_is_found(run: Path, file: str, old: str, new: str, told: str) -> None:
    text = (run / file).read_text()
    assert old in text
    (run / file).write_text(text.replace(old, new, 1))
    said = tickline("verify", run)
    assert said.code in (1, 2)
    assert told in said.out + said.err


# Says on standard output how far each log has been flushed, after it was.
NARRATED = """
import sys
from transport.journal import LogWriter

flush = LogWriter.flush

def told(log):
    flush(log)
    print(log.name, log.rows_taken, flush=True)

LogWriter.flush = told
sys.argv = ["tickline", *sys.argv[1:]]
from engine.cli import main
main()
"""


@pytest.fixture
def killed(made: Path, tmp_path: Path) -> tuple[Path, dict[str, int]]:
    """The folder of a long run killed in its middle, and how many rows of each log it had flushed by its own account."""
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", NARRATED, "replay", "synthetic:50_000_000:7", "--config", str(made / "config.toml")]
    process = subprocess.Popen(
        [*command, "--out", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout is not None
    flushed: dict[str, int] = {}
    deadline = time.monotonic() + 250
    while flushed.get("input", 0) < 300_000 and time.monotonic() < deadline:
        name, rows = process.stdout.readline().split()
        flushed[name] = int(rows)
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate(timeout=60)
    for line in rest.splitlines():
        if re.fullmatch(r"\w+ \d+", line):
            flushed[line.split()[0]] = int(line.split()[1])
    assert process.returncode == -signal.SIGKILL
    return folder, flushed


def test_a_killed_run_lost_nothing_it_had_flushed_and_is_proved_up_to_the_cut(killed: tuple[Path, dict[str, int]]) -> None:
    folder, flushed = killed
    run = open_run(folder)
    assert flushed["input"] >= 300_000
    for name, rows in flushed.items():
        log = run.input_log() if name == "input" else run.log(name)
        assert log.rows_total >= rows, name
        assert len(log.rows(0, log.rows_total)) == log.rows_total
    said = done("verify", folder)
    assert "did not end" in said.out
    found = verify(folder)
    assert found.proved
    assert found.inputs == run.input_log().rows_total


def test_decisions_of_a_killed_run_that_were_not_journaled_are_made_again(killed: tuple[Path, dict[str, int]]) -> None:
    """Cut at any place, a log may be behind the input or ahead of it; neither is a divergence, and both are told."""
    folder, _ = killed
    ahead = shutil.copytree(folder, folder.with_name("ahead"))
    inputs = log_rows(ahead, "input")
    cut = len(inputs) // 2
    shutil.rmtree(ahead / "input")
    log = LogWriter(ahead, "input", open_run(folder).facts.run_id)
    log.append(inputs[:cut])
    log.flush()
    log.release()
    found = verify(ahead)
    assert found.proved, found
    assert any(re.match(r"log orders has \d+ rows of inputs that were not yet journaled", note) for note in found.notes)
    behind = shutil.copytree(folder, folder.with_name("behind"))
    rows = log_rows(behind, "orders")
    shutil.rmtree(behind / "orders")
    log = LogWriter(behind, "orders", open_run(folder).facts.run_id)
    log.append(rows[: len(rows) // 2])
    log.flush()
    log.release()
    found = verify(behind)
    assert found.proved, found
    seq = rows["seq"][len(rows) // 2]
    assert f"log orders ends before seq {seq}: the run was cut off there" in found.notes


def test_a_run_without_its_environment_or_configuration_is_told_in_words(run: Path) -> None:
    (run / "environment.json").unlink()
    assert "environment.json cannot be read" in refused(run).out
    (run / "config.toml").unlink()
    assert "config.toml" in refused(run).out


def test_the_environment_names_every_source_that_was_compiled(made: Path) -> None:
    facts = msgspec.json.decode((made / "run" / "environment.json").read_bytes())
    assert "engine/loops.py" in facts["sources"]
    assert [Path(path).name for path in facts["strategies"]] == ["follow.py"]


@pytest.mark.parametrize(("field", "value"), [("instrument_id", 2**30), ("price_ticks", 2**60), ("qty_lots", -1)])
def test_a_record_that_no_ingest_lets_in_is_found_and_not_run(run: Path, field: str, value: int) -> None:
    rows = log_rows(run, "input")
    at = int(np.flatnonzero(rows["source_id"] >= FEED_BASE)[50])

    def wrong(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        rows[field][at] = value
        return rows

    found = forge(run, wrong)
    assert re.match(rf"log input: seq {at}: a \w+ record of instrument \d+ holds what INGEST refuses", found.evidence[0]), found
