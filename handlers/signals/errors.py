"""Errors of strategies.

    StrategyError             a strategy cannot run: never retriable, its file must change
    ├── StrategyNotFound      no such file, or no such name in it
    └── StrategyRefused       it allocates, or calls into libm, which would not give the same bits everywhere
"""

from __future__ import annotations


class StrategyError(Exception):
    """A user's strategy cannot be loaded, compiled or run; the message names file and step."""

    retriable = False


class StrategyNotFound(StrategyError):
    """The path of a strategy leads nowhere."""


class StrategyRefused(StrategyError):
    """The strategy compiles, but does what a step on the line must not do."""
