"""What system tests share: the command in this process and in one of its own, small runs, and the rows of their logs."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from engine import cli
from engine.run_folder import Run, open_run

ROOT = Path(__file__).resolve().parent.parent
# Short windows, so that both built-in strategies trade often in a short feed.
BOTH_STRATEGIES = """
[[strategy]]
name = "momentum"
path = "momentum"
params = { lots = 100, warmup = 200 }

[[strategy]]
name = "fade"
path = "mean_reversion"
params = { lots = 100, window = 200, entry = 2.0, exit = 0.5, stop = 5.0 }
"""


@dataclass(frozen=True)
class Said:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def tickline(*args: str | Path) -> Said:
    """`tickline ARGS` in this process, by its real entry point; what it does not tell in words is raised here."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    code: object = 0
    argv = mock.patch.object(sys, "argv", ["tickline", *map(str, args)])
    with argv, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    texts = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
    return Said(int(code or 0) if not isinstance(code, str) else 1, *texts)


def done(*args: str | Path) -> Said:
    """`tickline ARGS`, which must go well."""
    said = tickline(*args)
    assert said.code == 0, f"tickline {' '.join(map(str, args))}: {said.code}\n{said.out}\n{said.err}"
    return said


def environment(**more: str) -> dict[str, str]:
    """The environment of a process that finds the packages wherever it starts."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def tickline_apart(
    *args: str | Path, prepare: Callable[[], None] | None = None, timeout_s: int = 280, **env: str
) -> Said:
    """`tickline ARGS` in a process of its own; `prepare` runs in it before Python starts."""
    command = [sys.executable, "-m", "engine.cli", *map(str, args)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment(**env), timeout=timeout_s, preexec_fn=prepare)
    return Said(run.returncode, run.stdout, run.stderr)


def state_of(pid: int) -> str:
    """The process's state as the system has it: R, S, T, Z, …; "X" when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def await_end(pids: list[int]) -> None:
    """Wait until none of these processes runs any more."""
    until = time.monotonic() + 30
    while any(state_of(pid) not in "ZX" for pid in pids):
        assert time.monotonic() < until, f"processes {pids} outlive their run"
        time.sleep(0.02)


def config_file(folder: Path, text: str, name: str = "config.toml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def replayed(folder: Path, *feeds: str | Path, config: Path | None = None, options: tuple[str, ...] = ()) -> dict[str, Any]:
    """The summary of a replay into `folder`."""
    chosen = ("--config", config) if config else ()
    summary: dict[str, Any] = done("replay", *feeds, *chosen, *options, "--out", folder, "--json").json
    return summary


def whole_log(run: Run, name: str) -> np.ndarray[Any, Any]:
    """Every row of a log."""
    log = run.input_log() if name == "input" else run.log(name)
    return log.rows(0, log.rows_total)


def log_rows(folder: Path, name: str) -> np.ndarray[Any, Any]:
    return whole_log(open_run(folder), name)


def table(source: str | Path, name: str, *more: str | Path) -> list[dict[str, str]]:
    """An exported table, cells as text."""
    text = done("export", source, *more, "--table", name).out
    return list(csv.DictReader(io.StringIO(text)))
