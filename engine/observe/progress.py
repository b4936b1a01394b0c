"""Progress on stderr: a bar where there is a terminal, one line where a compile is to be waited for, nothing else."""

from __future__ import annotations

from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

COMPILING = "compiling"
FIRST_TIME = "compiling the line: a minute or so, once for these sources and this machine; later starts load it"


class Say(Protocol):
    """How a verb tells what goes on: `done` inputs, of `total` where that is known."""

    def __call__(self, what: str, done: int, total: int | None = None) -> None: ...


def silent(what: str, done: int, total: int | None = None) -> None:
    """For who is not to be told."""


class ProgressBar:
    """As a context manager it gives a `Say`; `quiet` shows nothing at all."""

    def __init__(self, quiet: bool = False, console: Console | None = None, unit: str = "inputs") -> None:
        self._console = console or Console(stderr=True)
        self._line = not quiet and not self._console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.completed:,.0f} " + unit),
            TimeElapsedColumn(), TimeRemainingColumn(), console=self._console, transient=True,
            disable=quiet or not self._console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> Say:
        self._bar.start()
        return self.say

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def say(self, what: str, done: int, total: int | None = None) -> None:
        """Show what goes on; without a `total` the bar pulses."""
        if what == COMPILING:
            what = FIRST_TIME
            if self._line:
                self._console.print(what, soft_wrap=True)
        self._bar.update(self._task, description=what, completed=done if total is None else min(done, total), total=total)
