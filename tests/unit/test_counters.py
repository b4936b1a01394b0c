"""Counters of a run: seen by another process while it runs, gone when it has ended, and not believed when its owner is dead."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.observe import counters as counting
from engine.observe import watch as watching
from engine.observe.counters import KIND, NAMES, Counters, observed, published
from transport.errors import LayoutError, SegmentError
from transport.segment import Segment

from tests.runs import environment, tickline


def test_what_a_run_stores_another_look_reads(tmp_path: Path) -> None:
    with Counters.create("mine", tmp_path) as counters:
        counters.store({"inputs": 7, "line_ns": 2**62, "rejects": -1})
        (name,) = published(tmp_path)
        with Counters.attach(name, tmp_path) as seen:
            assert seen.read() == {**dict.fromkeys(NAMES, 0), "inputs": 7, "line_ns": 2**62, "rejects": -1}
            assert seen.alive()
            counters.store({"inputs": 8})
            assert seen.read()["inputs"] == 8
        assert observed(tmp_path)[name]["inputs"] == 8
    assert published(tmp_path) == []
    assert observed(tmp_path) == {}


def test_a_look_cannot_write(tmp_path: Path) -> None:
    with Counters.create("mine", tmp_path):
        seen = Counters.attach(published(tmp_path)[0], tmp_path)
        with pytest.raises(ValueError, match="read-only"):
            seen.store({"inputs": 1})


def test_a_counter_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with Counters.create("mine", tmp_path) as counters, pytest.raises(KeyError, match="profit"):
        counters.store({"profit": 1})


def test_a_killed_run_is_not_taken_for_one_that_counts(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from engine.observe.counters import Counters\n"
        "c = Counters.create('dead', Path(sys.argv[1])); c.store({'inputs': 5}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    (name,) = published(tmp_path)
    with Counters.attach(name, tmp_path) as seen:
        assert seen.read()["inputs"] == 5
        assert not seen.alive()
    assert observed(tmp_path) == {}


def test_counters_of_another_version_are_refused_by_name(tmp_path: Path) -> None:
    with Segment.create("other", "counters", KIND + "x", 64, folder=tmp_path):
        with pytest.raises(LayoutError, match="not a counters"):
            Counters.attach(published(tmp_path)[0], tmp_path)
        assert observed(tmp_path) == {}
    with pytest.raises(SegmentError, match="no segment"):
        Counters.attach("tickline-1-gone-counters", tmp_path)


def test_a_watch_shows_rates_and_ends_with_the_last_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "observed", lambda: counting.observed(tmp_path))
    counters = Counters.create("mine", tmp_path)
    looks = watching.looks(0.01)
    first, rates = next(looks)
    (name,) = first
    assert rates == {}
    counters.store({"inputs": 1_000_000, "orders": 3})
    second, rates = next(looks)
    assert second[name]["orders"] == 3
    assert rates[name] > 1_000_000
    counters.__exit__()
    assert list(looks) == []


def test_the_table_names_run_and_process(tmp_path: Path) -> None:
    from rich.console import Console

    console = Console(width=200)
    with Counters.create("a-b", tmp_path) as counters:
        counters.store({"inputs": 12_345, "line_ns": 1_600_000_000_000_000_000})
        with console.capture() as said:
            console.print(watching.table(observed(tmp_path), {published(tmp_path)[0]: 99.6}))
    words = said.get().split()
    assert {"a-b", "12,345", "100", "2020-09-13"} <= set(words)


def test_a_replay_publishes_what_it_has_done_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "engine.cli", "replay", "synthetic:200_000", "--speed", "50x", "--out", str(tmp_path / "watched")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    name = f"tickline-{process.pid}-watched-counters"
    late = time.monotonic() + 200
    seen: dict[str, int] = {}
    while seen.get("journaled", 0) == 0 and process.poll() is None and time.monotonic() < late:
        seen = observed().get(name, {})
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert 0 < seen["journaled"] <= seen["inputs"]
    assert seen["line_ns"] > 0
    assert name not in published()


def test_a_machine_without_shared_memory_replays_without_counters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(run: str) -> Counters:
        raise SegmentError("no room")

    monkeypatch.setattr(Counters, "create", refused)
    said = tickline("replay", "synthetic:1000", "--out", tmp_path / "run")
    assert said.code == 0
    assert "counters are not published" in said.err + capsys.readouterr().err
