"""`runtime.cores`: the fused line's thread and the journal's stand where they were told to, and nobody stays there afterwards."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from engine.config import Config, RuntimeConfig
from engine.journaling import BATCHES_MAX, Batch, RunJournal
from engine.replay import replay

from tests.runs import config_file, tickline, tickline_apart

pytestmark = pytest.mark.spawned

OURS = sorted(os.sched_getaffinity(0))


def stood(folder: Path, *cores: int) -> tuple[set[int], set[int]]:
    """Cores that (the line's thread, the journal's thread) of a fused run could run on."""
    seen: dict[str, set[int]] = {}

    def look(what: str, done: int, total: int | None = None) -> None:
        if what == "replaying":
            seen["line"] = os.sched_getaffinity(0)
            for thread in threading.enumerate():
                if thread.name == "journal" and thread.native_id is not None:
                    seen["journal"] = os.sched_getaffinity(thread.native_id)

    replay(["synthetic:20_000"], Config(runtime=RuntimeConfig(cores=cores)), {}, folder, progress=look)
    return seen["line"], seen["journal"]


def test_a_fused_run_that_names_no_core_runs_on_any(tmp_path: Path) -> None:
    assert stood(tmp_path / "run") == (set(OURS), set(OURS))


@pytest.mark.skipif(len(OURS) < 2, reason="one core")
def test_the_first_core_is_the_lines_and_the_second_the_journals(tmp_path: Path) -> None:
    assert stood(tmp_path / "both", OURS[1], OURS[0]) == ({OURS[1]}, {OURS[0]})
    assert stood(tmp_path / "one", OURS[1]) == ({OURS[1]}, set(OURS))
    assert os.sched_getaffinity(0) == set(OURS)


@pytest.mark.parametrize("cores", ["[4095]", f"[{OURS[0]}, 4095]"])
@pytest.mark.parametrize("placement", ["fused", "split"])
def test_a_core_that_is_not_ours_is_refused(placement: str, cores: str, tmp_path: Path) -> None:
    config = config_file(tmp_path, f"[runtime]\ncores = {cores}\n")
    said = tickline("replay", "synthetic:2000", "--config", config, "--placement", placement, "--out", tmp_path / "run")
    assert said.code == 2, said
    assert "runtime.cores: core 4095 is not ours; there are " in said.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("placement", ["fused", "staged"])
def test_a_core_of_the_machine_that_is_not_ours_is_refused_too(placement: str, tmp_path: Path) -> None:
    if len(OURS) < 2:
        pytest.skip("needs two cores")
    config = config_file(tmp_path, f"[runtime]\ncores = [{OURS[1]}]\n")
    options = ("--config", config, "--placement", placement, "--out", tmp_path / "run")
    said = tickline_apart("replay", "synthetic:2000", *options, prepare=lambda: os.sched_setaffinity(0, {OURS[0]}))
    assert said.code == 2, said
    assert said.err == f"tickline: runtime.cores: core {OURS[1]} is not ours; there are {OURS[0]}\n"


def test_a_journal_whose_core_is_gone_says_so_to_who_hands_it_batches(tmp_path: Path) -> None:
    journal = RunJournal(tmp_path, "run", [], None, 1, "write", core=1 << 20)
    batch = Batch(np.zeros(0), np.zeros(0), (), [])

    def put_more_than_wait() -> None:
        for _ in range(2 * BATCHES_MAX):
            journal.put(batch)

    with pytest.raises(OSError, match="Invalid argument"):
        put_more_than_wait()
    with pytest.raises(OSError, match="Invalid argument"):
        journal.close()
