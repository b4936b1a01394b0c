"""A paced run: it decides what a run at full speed does, and takes the feed's own time divided by its speed, never less."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import BOTH_STRATEGIES, config_file, log_rows, replayed
from transport.records import FEED_BASE

TRIES = 3  # a neighbour may hold us up; that a run is too fast no neighbour can do


@pytest.mark.parametrize(
    ("speed", "rows", "placement"),
    [("10x", 8000, "fused"), ("10x", 8000, "split"), ("1x", 800, "fused"), ("0.5x", 800, "fused"), ("4", 3000, "fused")],
)
def test_a_paced_run_decides_the_same_in_the_time_of_the_feed(speed: str, rows: int, placement: str, tmp_path: Path) -> None:
    config, feed = config_file(tmp_path, BOTH_STRATEGIES), f"synthetic:{rows}:5:2"
    fast = replayed(tmp_path / "max", feed, config=config, options=("--speed", "max"))
    inputs = log_rows(tmp_path / "max", "input")
    times = inputs["ts_seq_ns"][inputs["source_id"] >= FEED_BASE]
    lasts = int(times[-1] - times[0]) / 1e9 / float(speed.removesuffix("x"))
    assert lasts > 0.3, "else it would show nothing"
    took = []
    while len(took) < TRIES and (not took or took[-1] > 2 * lasts + 0.5):
        options = ("--speed", speed, "--placement", placement)
        paced = replayed(tmp_path / f"paced-{len(took)}", feed, config=config, options=options)
        assert paced["hashes"] == fast["hashes"]
        took.append(paced["seconds"])
        assert took[-1] >= lasts, "no record may come before its time"
    assert took[-1] <= 2 * lasts + 0.5, f"{took} s for a feed of {lasts:.2f} s at {speed}"
