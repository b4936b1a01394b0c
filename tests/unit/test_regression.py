"""The gate on speed: what it lets pass, and that it compares two trees with their own code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from perf import harness, regression


def gate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ours: list[float], base: list[float]) -> int:
    """Exit status for these CPU seconds of the two trees, the first of each uncounted."""
    turns = {harness.ROOT: iter(ours), tmp_path: iter(base)}

    def line(root: Path, rows: int) -> dict[str, Any]:
        return {"cpu_seconds": next(turns[root]), "events": rows, "decision_log_hash": "same"}

    class Base:
        def __enter__(self) -> Path:
            return tmp_path

        def __exit__(self, *raised: object) -> None: ...

    monkeypatch.setattr(regression, "line", line)
    monkeypatch.setattr(regression, "checked_out", lambda commit: Base())
    monkeypatch.setattr(harness, "write_result", lambda name, result: None)
    return regression.main(["--rounds", str(len(ours) - 1), "--rows", "1000"])


@pytest.mark.parametrize(
    ("ours", "status"),
    [
        ([9.0, 1.04, 1.04, 1.04], 0),
        ([9.0, 1.06, 1.06, 1.06], 1),
        ([9.0, 0.9, 1.0, 7.0], 0),  # one bad round is the machine's
        ([9.0, 1.2, 1.2, 1.0], 0),  # so are two, when the third is as fast as ever
        ([0.1, 1.2, 1.2, 1.1], 1),  # the first run compiles and does not count
    ],
)
def test_slower_is_what_the_pairs_and_the_fastest_runs_both_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ours: list[float], status: int) -> None:
    assert gate(monkeypatch, tmp_path, ours, [5.0, 1.0, 1.0, 1.0]) == status


def test_a_base_that_is_no_commit_is_refused_in_words() -> None:
    with pytest.raises(SystemExit, match="no tree of 'no-such-commit'"), regression.checked_out("no-such-commit"):
        pass


def test_the_base_is_a_tree_of_its_own_that_leaves_nothing_behind() -> None:
    if not (harness.ROOT / ".git").exists():
        pytest.skip("not a checkout")
    with regression.checked_out("HEAD") as tree:
        asked = "import engine, json; print(json.dumps({'at': engine.__file__}))"
        found = subprocess.run(["git", "-C", str(tree), "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
        assert len(found.strip()) == 40
        said = harness.run_child([sys.executable, "-c", asked], root=tree)
        assert said["at"].startswith(str(tree))
    assert not tree.exists()
    assert str(tree) not in subprocess.run(["git", "worktree", "list"], cwd=harness.ROOT, capture_output=True, text=True, check=True).stdout
