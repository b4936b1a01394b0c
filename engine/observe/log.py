"""The log: one line an event, for people on a terminal, as JSON for machines; written at the edges only, never from the line.

Events are short phrases, what varies is a key: `log.info("segment sealed", segment=7, records=1_000_000)`. The log goes to stderr,
so that stdout stays the command's answer, and it is no evidence: what a run decided is in its journal.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal, TextIO

import structlog

Level = Literal["debug", "info", "warning", "error"]


def set_up_log(level: Level = "info", json: bool | None = None, stream: TextIO | None = None) -> None:
    """Set up the process's log, once at start; `json` None: JSON unless `stream` (default stderr) is a terminal.

    Times are UTC in ISO 8601. The standard library's loggers, which dependencies use, go the same way from warnings up.
    """
    out = stream if stream is not None else sys.stderr
    as_json = not out.isatty() if json is None else json
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(sort_keys=True, default=str)]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback)]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,  # a second set-up (a test, a spawned worker) must reach loggers made before it
    )
    _adopt_standard_loggers(out, shared, last)


def _adopt_standard_loggers(out: TextIO, shared: list[Any], last: list[Any]) -> None:
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)


def get_log(part: str, **bound: Any) -> Any:
    """A logger whose events name the `part` of the engine they come from, and whatever else is `bound`."""
    return structlog.get_logger(part=part, **bound)
