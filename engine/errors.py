"""Errors of running the line.

EngineError
├── LineStopped   a strategy broke its contract, or an edge carried what it may not; the journal is whole up to that input; never retriable
│   └── LineBroken    an assertion of the engine failed there: a bug of ours
├── WorkerDied    a process of the line is gone, failed or hangs; the journal is whole up to where it had come; retriable
├── FetchError    an archive did not answer, or not what it promised; retriable, and goes on from what came
│   └── NotPublishedError  it does not have the file
└── ConfigError   the configuration cannot be used as it stands; never retriable, the message says what to change
"""

from __future__ import annotations


class EngineError(Exception):
    """Root of this package's errors; `retriable` says whether the same call may succeed later."""

    retriable = False


class ConfigError(EngineError):
    """A key or value of the configuration is wrong; one line of the message per problem, each with where it came from."""


class LineStopped(EngineError):
    """The line stopped at input `seq`, because of what a strategy did there or an edge carried, unless it is a LineBroken."""

    def __init__(self, text: str, seq: int) -> None:
        super().__init__(text)
        self.seq = seq


class LineBroken(LineStopped):
    """An assertion of the engine failed at input `seq`, or behind it before the next; `trace` is where in the program."""

    def __init__(self, text: str, seq: int, trace: str) -> None:
        super().__init__(text, seq)
        self.trace = trace


class WorkerDied(EngineError):
    """A process of the line was killed, failed outside its loop, or does not move: the run ends, and may be started again."""

    retriable = True


class FetchError(EngineError):
    """A file of an archive did not come; the message says which and why."""

    retriable = True


class NotPublishedError(FetchError):
    """The archive does not have the file, perhaps not yet."""
