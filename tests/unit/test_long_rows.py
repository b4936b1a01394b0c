"""Rows of several slots: no ring shows one in part, no log ends within one, no source may send one."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from handlers.domain import reasons
from tests.logs import market
from tests.sequencing import Intake, trades
from transport import ring as r
from transport.journal import LogReader, LogWriter
from transport.pack import BLOCK_ROWS
from transport.records import FEATURE, PARTS_MAX, TRADE, empty
from transport.ring import LAPPED, TAP_POSITION, Ring, tap_from


def long_rows(sizes: list[int]) -> np.ndarray:
    """One row of each size, its slots numbered through."""
    out = empty(sum(sizes))
    out["kind"] = FEATURE
    out["parts"] = [size for size in sizes for _ in range(size)]
    out["part"] = [part for size in sizes for part in range(size)]
    out["seq"] = [seq for seq, size in enumerate(sizes) for _ in range(size)]
    out["origin"] = np.arange(len(out))
    return out


def random_sizes(chance: random.Random, count: int, most: int = PARTS_MAX) -> list[int]:
    return [chance.choice((1, 1, 2, chance.randrange(1, most + 1))) for _ in range(count)]


def whole(rows: np.ndarray) -> bool:
    """Begins with a row and ends with one."""
    return not len(rows) or (rows["part"][0] == 0 and rows["part"][-1] == rows["parts"][-1] - 1)


# --- rings ----------------------------------------------------------------------------------------------------------------
def test_ring_takes_and_gives_whole_rows_whatever_room_there_is(seed: int) -> None:
    chance = random.Random(seed)
    rows = long_rows(random_sizes(chance, 500, 20))
    ring = Ring.in_process(64)
    at, seen = 0, []
    while sum(map(len, seen)) < len(rows):
        stop = min(len(rows), at + chance.randrange(1, 200))
        while stop < len(rows) and rows["part"][stop]:
            stop += 1
        at += r.push(ring.cursors, ring.slots, rows, at, stop)
        assert at == len(rows) or rows["part"][at] == 0, seed
        out = empty(chance.randrange(20, 90))
        count = r.pop(ring.cursors, ring.slots, 0, out)
        assert whole(out[:count]), seed
        seen.append(out[:count])
    assert np.concatenate([part["origin"] for part in seen]).tolist() == list(range(len(rows)))


def test_row_that_does_not_fit_the_room_or_the_reader_is_left_where_it_is() -> None:
    ring, rows = Ring.in_process(8), long_rows([5, 5, 9])
    assert r.push(ring.cursors, ring.slots, rows, 0, 10) == 5
    assert r.pop(ring.cursors, ring.slots, 0, empty(4)) == 0
    assert r.pop(ring.cursors, ring.slots, 0, empty(5)) == 5
    assert r.push(ring.cursors, ring.slots, rows, 10, 19) == 0  # a row larger than the ring never is


def test_tap_sees_whole_rows_or_is_lapped(seed: int) -> None:
    chance = random.Random(seed)
    rows = long_rows(random_sizes(chance, 400, 20))
    ring = Ring.in_process(64, consumers=0)
    tap = tap_from(ring, 0)
    at = lapped = 0
    while at < len(rows):
        stop = min(len(rows), at + chance.randrange(1, 60))
        while stop < len(rows) and rows["part"][stop]:
            stop += 1
        at += r.push(ring.cursors, ring.slots, rows, at, stop)
        out = empty(chance.randrange(20, 64))
        before = int(tap[TAP_POSITION])
        count = r.tap_read(ring.cursors, ring.slots, tap, out)
        if count == LAPPED:
            lapped += 1
            continue
        assert whole(out[:count]) and out["origin"][:count].tolist() == list(range(before, before + count)), seed
    assert lapped, seed


# --- logs -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("into", [1, 5, 16])
def test_log_that_was_killed_between_two_blocks_of_a_row_ends_before_that_row(tmp_path: Path, into: int) -> None:
    rows = long_rows([1] * (BLOCK_ROWS - into) + [17] + [1] * 20)
    log = LogWriter(tmp_path, "features", "run-1")
    log.append(rows)  # the first block is written, what is left of the row is in memory
    log.release()
    with LogReader(tmp_path, "features") as reader:
        assert reader.rows_total == BLOCK_ROWS - into
        assert "within a row of 17 slots" in (reader.torn or "")
        assert whole(reader.rows(0, reader.rows_total))
        assert sum(len(block) for _, block in reader.blocks()) == reader.rows_total
        assert reader.verify() == []
    with LogWriter.resume(tmp_path, "features", "run-1") as log:
        assert log.rows_taken == BLOCK_ROWS - into
        log.append(rows[BLOCK_ROWS - into :])
    with LogReader(tmp_path, "features") as reader:
        assert reader.torn is None
        assert reader.rows(0, reader.rows_total).tobytes() == rows.tobytes()
        again = LogWriter(tmp_path / "again", "features", "run-2")
        again.append(rows)
        again.close()
        assert reader.digest == again.digest


def test_log_of_long_rows_comes_back_whole_and_a_closed_one_is_never_cut(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    rows = long_rows(random_sizes(chance, 2000))
    with LogWriter(tmp_path, "features", "run-1", segment_blocks=1) as log:
        at = 0
        while at < len(rows):
            count = chance.randrange(1, 3000)
            log.append(rows[at : at + count])
            at += count
            if chance.random() < 0.3:
                log.flush()
    with LogReader(tmp_path, "features") as reader:
        assert reader.rows(0, reader.rows_total).tobytes() == rows.tobytes(), seed
        assert (reader.torn, reader.verify()) == (None, [])


def test_log_flushed_after_a_whole_row_is_cut_nowhere(tmp_path: Path) -> None:
    rows = long_rows([1, 17, 3])
    log = LogWriter(tmp_path, "features", "run-1")
    log.append(rows)
    log.flush()
    log.release()
    with LogReader(tmp_path, "features") as reader:
        assert (reader.rows_total, reader.torn) == (21, None)
    log = LogWriter(tmp_path / "input", "input", "run-1")
    log.append(market(10))  # rows of one slot say 0 or 1
    log.flush()
    log.release()
    with LogReader(tmp_path / "input", "input") as reader:
        assert reader.rows_total == 10


# --- the way in -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("parts", [2, 255])
def test_long_row_from_a_feed_is_refused_and_counted(parts: int) -> None:
    rows = trades([10, 20, 30])
    rows["parts"][1] = parts
    intake = Intake([[rows]])
    log = intake.run()
    assert log["ts_recv_ns"][log["kind"] == TRADE].tolist() == [10, 30]
    assert intake.sequencer.counters[reasons.LONG_ROW] == 1
