"""The log: JSON for machines, a line for people, quiet below its level, the same for a dependency's logger."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from engine.observe.log import get_log, set_up_log


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    structlog.reset_defaults()
    root.handlers, root.level = handlers, level


def test_writes_one_json_object_an_event_with_what_is_bound() -> None:
    out = io.StringIO()
    set_up_log(stream=out)
    get_log("journal", run="r1").info("segment sealed", segment=7)
    (line,) = out.getvalue().splitlines()
    event = json.loads(line)
    assert event.pop("timestamp").endswith("Z")
    assert event == {"event": "segment sealed", "level": "info", "part": "journal", "run": "r1", "segment": 7}


def test_is_quiet_below_its_level_and_can_be_set_up_again() -> None:
    first, second = io.StringIO(), io.StringIO()
    log = get_log("line")
    set_up_log("warning", stream=first)
    log.info("unheard")
    log.warning("heard")
    set_up_log("debug", json=False, stream=second)
    log.debug("to the second")
    assert [json.loads(line)["event"] for line in first.getvalue().splitlines()] == ["heard"]
    assert "to the second" in second.getvalue()
    assert "part=line" in second.getvalue()


def test_an_error_keeps_its_traceback_on_its_own_line() -> None:
    out = io.StringIO()
    set_up_log(stream=out)
    try:
        raise ValueError("off the grid")
    except ValueError:
        get_log("ingest").exception("record refused")
    (line,) = out.getvalue().splitlines()
    assert "ValueError: off the grid" in json.loads(line)["exception"]


@pytest.mark.parametrize("as_json", [True, False])
def test_a_dependencys_logger_goes_the_same_way(as_json: bool) -> None:
    out = io.StringIO()
    set_up_log(json=as_json, stream=out)
    logging.getLogger("some.client").warning("retry %d", 3)
    logging.getLogger("some.client").info("chatter")
    (line,) = out.getvalue().splitlines()
    assert "retry 3" in line
    if as_json:
        assert json.loads(line)["level"] == "warning"
