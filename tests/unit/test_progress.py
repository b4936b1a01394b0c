"""Progress: a bar with a share where the total is known, a line where a compile is to be waited for, silence where it is asked for."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from engine.loops import run_fused
from engine.observe.progress import COMPILING, FIRST_TIME, ProgressBar
from tests.runs import tickline_apart
from transport import compiled


def shown(*said: tuple[str, int, int | None], terminal: bool = True, quiet: bool = False) -> str:
    """What stands on the console after these words."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=150)
    with ProgressBar(quiet, console) as say:
        for what, done, total in said:
            say(what, done, total)
    return out.getvalue()


def test_bar_shows_what_goes_on_how_many_inputs_and_the_share_of_a_known_total() -> None:
    text = shown(("replaying", 500_000, 2_000_000))
    assert "replaying" in text
    assert "500,000 inputs" in text
    assert "25%" in text


def test_bar_does_not_pass_its_total_when_the_lines_own_records_come_on_top() -> None:
    text = shown(("replaying", 2_000_100, 2_000_000))
    assert "100%" in text
    assert "2,000,000 inputs" in text


def test_bar_without_a_total_counts_and_says_no_share() -> None:
    text = shown(("replaying", 1234, None))
    assert "1,234 inputs" in text
    assert "25%" not in text


@pytest.mark.parametrize("terminal", [True, False])
def test_first_compile_is_told_as_such_on_a_terminal_and_off_it(terminal: bool) -> None:
    assert FIRST_TIME in shown((COMPILING, 0, None), terminal=terminal)


def test_off_a_terminal_nothing_else_is_said_and_quiet_says_nothing_at_all() -> None:
    assert shown(("loading kernels", 0, None), ("replaying", 5, 10), terminal=False) == ""
    for terminal in (True, False):
        assert shown((COMPILING, 0, None), ("replaying", 5, 10), terminal=terminal, quiet=True) == ""


def test_replay_says_that_it_compiles_only_when_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = tickline_apart("replay", "synthetic:1000", "--out", tmp_path / "run")  # other tests have compiled the line
    assert said.code == 0
    assert compiled.is_compiled(run_fused)
    assert said.err == ""
    monkeypatch.setattr(compiled, "CACHE_DIR", tmp_path / "empty")
    assert not compiled.is_compiled(run_fused)
