"""The first verdict of `verify`, by itself: every log, blob, tape and hash of a run against what is computed here from its files."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import msgspec
import pytest

from engine.evidence import Evidence, check_evidence
from engine.loops import DECIDING
from engine.run_folder import open_run
from tests.logs import chain_of
from tests.runs import BOTH_STRATEGIES, config_file, done, log_rows, replayed
from transport.instruments import Instrument

FEED = "synthetic:6_000:7"
LOGS = ("input", *DECIDING)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that embeds its input, and one that refers to a tape."""
    folder = tmp_path_factory.mktemp("evidence")
    config = config_file(folder, BOTH_STRATEGIES)
    replayed(folder / "run", FEED, config=config)
    done("import", FEED, "--out", folder / "feed.tape")
    replayed(folder / "by_reference", folder / "feed.tape", config=config)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made / "run", tmp_path / "run")


def evidence(run: Path) -> Evidence:
    return check_evidence(open_run(run))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("name", ["run", "by_reference"])
def test_a_run_as_it_was_made_holds_and_its_hashes_are_those_of_its_rows(made: Path, name: str) -> None:
    found = evidence(made / name)
    assert (found.faults, found.notes) == ([], [])
    hashes = {log: chain_of(log_rows(made / name, log), log) for log in LOGS}
    whole = hashlib.sha256("".join(f"{log} {hashes[log]}\n" for log in DECIDING).encode()).hexdigest()
    wanted = {f"{log}_log_hash": value for log, value in hashes.items()} | {"decision_log_hash": whole}
    assert wanted.items() <= found.stated.items()
    assert found.instruments == open_run(made / name).instruments


def test_logs_of_another_run_are_told_one_by_one(run: Path) -> None:
    ours = open_run(run).facts.run_id
    edit(run / "run.json", ours, "0" * 32)
    assert evidence(run).faults == [f"log {log}: of run {ours}, run.json is of {'0' * 32}" for log in LOGS]


def test_every_fault_is_told_and_none_hides_another(run: Path) -> None:
    facts = open_run(run).facts
    shutil.rmtree(run / "risk")
    segment = next((run / "orders").iterdir())
    segment.write_bytes(segment.read_bytes()[:-1])
    (run / "blobs" / facts.config_sha).unlink()
    edit(run / "summary.json", '"input_log_hash": "', '"input_log_hash": "0')
    found = evidence(run)
    told = ["log risk: ", f"log orders: {segment.name}", "summary.json: input_log_hash 0"]
    assert all(any(fault.startswith(text) for fault in found.faults) for text in told), found.faults
    assert any(facts.config_sha in fault for fault in found.faults)
    assert not any("signals" in fault or "decision_log_hash" in fault for fault in found.faults)  # those cannot be said


@pytest.mark.parametrize("name", [*(f"{log}_log_hash" for log in LOGS), "decision_log_hash"])
def test_a_hash_that_the_summary_states_otherwise_is_told_with_both(run: Path, name: str) -> None:
    was = open_run(run).hashes()[name]
    edit(run / "summary.json", f'"{name}": "{was}"', f'"{name}": "{was[::-1]}"')
    assert evidence(run).faults == [f"summary.json: {name} {was[::-1]}, the log's is {was}"]


def test_a_run_without_a_summary_is_noted_and_states_nothing(run: Path) -> None:
    (run / "summary.json").unlink()
    found = evidence(run)
    assert (found.faults, found.notes, found.stated) == ([], ["the run has no summary: it did not end"], {})


def test_an_instrument_table_that_is_not_the_blobs_is_told_and_the_blobs_is_used(run: Path) -> None:
    before = open_run(run).instruments
    edit(run / "run.json", '"lot": "0.001"', '"lot": "0.002"')
    sha = open_run(run).facts.instruments_sha
    found = evidence(run)
    assert found.faults == [f"run.json: its instruments are not those of the blob {sha}"]
    assert found.instruments == before


def test_a_blob_that_is_no_instrument_table_is_told_and_there_is_no_table(run: Path) -> None:
    facts = open_run(run).facts
    edit(run / "run.json", facts.instruments_sha, facts.config_sha)
    found = evidence(run)
    assert found.instruments is None
    assert any(f"instruments_sha {facts.config_sha} is no instrument table" in fault for fault in found.faults)


def test_another_tape_in_the_place_of_the_runs_is_told_with_both_contents(made: Path, tmp_path: Path) -> None:
    run = shutil.copytree(made / "by_reference", tmp_path / "run")
    tape = shutil.copy(made / "feed.tape", tmp_path / "feed.tape")
    edit(run / "run.json", str(made / "feed.tape"), str(tape))
    assert evidence(run).faults == []
    done("import", "synthetic:6_000:8", "--out", tmp_path / "other.tape")
    shutil.move(tmp_path / "other.tape", tape)
    (was,) = (str(feed["content"]) for feed in open_run(run).facts.feeds)
    (now,) = (found.content for found in open_run(run).tapes)
    assert f"tape {tape}: content {now[:16]}…, the run read {was[:16]}…" in evidence(run).faults


def test_the_table_of_the_blob_is_read_as_instruments(made: Path) -> None:
    facts = open_run(made / "run").facts
    blob = (made / "run" / "blobs" / facts.instruments_sha).read_bytes()
    assert hashlib.sha256(blob).hexdigest() == facts.instruments_sha
    assert evidence(made / "run").instruments == tuple(msgspec.json.decode(blob, type=list[Instrument]))
