"""Receive times that jump, in every placement: what they may not do to the line's clock and its timers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from transport.records import TIMER

from tests.runs import log_rows
from tests.sim.test_bad_input import CHURN, INSTRUMENTS, PLACEMENTS, market, replay_of


def stamped(text: str, day: int) -> str:
    """The same line, received `day` days later."""
    ns, _, body = text.partition(" ")
    return f"{int(ns) + day * 86_400 * 10**9} {body}"


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_receive_time_that_jumps_is_counted_and_moves_no_clock(placement: str, tmp_path: Path) -> None:
    lines = market()
    lines[11] = stamped(lines[11], 27_000)  # a depth message: lost, it is a gap
    lines[-1] = stamped(lines[-1], 27_000)
    run, counted = replay_of(tmp_path, lines, INSTRUMENTS + CHURN, placement)
    assert (counted["TIME_JUMP"], counted["SEQUENCE_GAP"]) == (2, 1)
    rows = log_rows(run, "input")
    assert rows["ts_seq_ns"][-1] - rows["ts_seq_ns"][0] < 10**9
    assert not np.any(rows["kind"] == TIMER)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_pause_of_years_has_two_timers(placement: str, tmp_path: Path) -> None:
    """As two lines behind one another make it whose times jump alike."""
    lines = market()
    lines[40:] = [stamped(text, 27_000) for text in lines[40:]]
    run, counted = replay_of(tmp_path, lines, INSTRUMENTS + CHURN, placement)
    assert "TIME_JUMP" not in counted
    rows = log_rows(run, "input")
    due = rows["due_ns"][rows["kind"] == TIMER] - rows["ts_seq_ns"][0]
    assert due.tolist() == [10**9, 27_000 * 86_400 * 10**9]
