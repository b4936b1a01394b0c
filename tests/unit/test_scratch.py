"""Temporary folders are gone when they were left, and when their owner was killed the next one takes them along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from engine.scratch import scratch_folder
from transport.segment import process_start

from tests.runs import environment

MAKES_ONE = """
import time
from engine.scratch import scratch_folder
with scratch_folder("verify") as folder:
    (folder / "input").mkdir()
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_scratch_folder_bears_its_owner_and_is_gone_afterwards(temporary: Path) -> None:
    pid = os.getpid()
    with scratch_folder("verify") as folder:
        assert folder.parent == temporary
        assert folder.name.startswith(f"tickline-verify-{pid}-{process_start(pid)}-")
        (folder / "log").write_text("rows")
    assert not list(temporary.iterdir())


def test_what_a_killed_owner_left_is_swept_by_the_next_and_nothing_else_is(temporary: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", MAKES_ONE], stdout=subprocess.PIPE, text=True, env=environment(TMPDIR=str(temporary))
    )
    assert process.stdout is not None
    left = Path(process.stdout.readline().strip())
    for name in ("tickline-verify-notes", "tickline-verify-1-x-y", "mine-verify-999999999-1-x"):
        (temporary / name).mkdir()
    others = set(temporary.iterdir()) - {left}
    with scratch_folder("run") as mine:
        assert set(temporary.iterdir()) == others | {left, mine}, "its owner lives"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    assert left.is_dir()
    with scratch_folder("run") as mine:
        assert set(temporary.iterdir()) == others | {mine}
