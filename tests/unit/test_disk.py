"""Logs on a disk that refuses: full, limited, or failing to sync."""

from __future__ import annotations

import errno
import os
import random
import resource
from pathlib import Path
from typing import Any

import pytest

from tests.logs import chain_of, market, read
from transport import disk
from transport.errors import StorageError
from transport.frames import HEADER_BYTES
from transport.journal import LogReader, LogWriter
from transport.pack import BLOCK_ROWS


class SmallDisk:
    """os.write on a disk of `room` bytes: short at its end, then ENOSPC."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.write = os.write

    def __call__(self, fd: int, data: Any) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = self.write(fd, memoryview(data)[: self.room])
        self.room -= done
        return done


@pytest.mark.parametrize("embed", [True, False])
def test_a_full_disk_is_named_the_log_stays_readable_and_the_call_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, embed: bool
) -> None:
    chance = random.Random(seed)
    data = market(4 * BLOCK_ROWS + 77)
    small = SmallDisk(HEADER_BYTES)
    monkeypatch.setattr(disk.os, "write", small)
    log = LogWriter(tmp_path, "input", "run-1", segment_blocks=2, embed=embed)
    failures = 0

    def attempt() -> StorageError | None:
        try:
            log.append(data[log.rows_taken :][: chance.choice([50, 3000, 9000])])
            log.flush()
            if log.rows_taken == len(data):
                log.close()
        except StorageError as error:
            return error
        return None

    while not log.closed:
        error = attempt()
        if error is None:
            continue
        failures += 1
        assert failures < 1000
        assert str(tmp_path) in str(error)
        assert "make room" in str(error)
        assert error.retriable
        with LogReader(tmp_path, "input") as reader:
            rows = reader.rows(0, reader.rows_total)
            assert (reader.torn, reader.damage) == (None, None)
            assert len(rows) >= log.rows_durable
            assert rows.tobytes() == data[: len(rows)].tobytes()
        small.room = chance.randrange(300_000)
    assert failures > 3
    assert log.digest == chain_of(data)
    assert read(tmp_path).tobytes() == data.tobytes()
    assert [p.name for p in sorted((tmp_path / "input").iterdir())] == [f"{n:08d}.seg" for n in range(3)]


def test_a_file_that_may_not_grow_is_a_storage_error(tmp_path: Path) -> None:
    data = market(2 * BLOCK_ROWS)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = LogWriter(tmp_path, "input", "run-1")
    log.append(data[:BLOCK_ROWS])
    size = (tmp_path / "input/00000000.open").stat().st_size
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000, hard))
        with pytest.raises(StorageError, match=r"00000000\.open"):
            log.append(data[BLOCK_ROWS:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read(tmp_path).tobytes() == data[:BLOCK_ROWS].tobytes()
    log.append(data[log.rows_taken :])
    log.close()
    assert read(tmp_path).tobytes() == data.tobytes()


def test_fsync_durability_counts_rows_only_once_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(disk.os, "fsync", lambda fd: (synced.append(fd), real(fd))[1])
    data = market(BLOCK_ROWS + 10)
    with LogWriter(tmp_path, "input", "run-1", durability="fsync") as log:
        log.append(data)
        assert (log.rows_taken, log.rows_durable) == (len(data), 0)
        before = len(synced)
        log.flush()
        assert log.rows_durable == len(data)
        assert len(synced) == before + 1
    assert log.rows_durable == len(data)


def test_a_failed_fsync_is_not_tried_again_on_the_same_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = market(30)
    log = LogWriter(tmp_path, "input", "run-1", durability="fsync")
    log.append(data[:10])

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(disk.os, "fsync", fail)
        with pytest.raises(StorageError, match="may be lost"):
            log.flush()
    log.append(data[10:20])
    with pytest.raises(StorageError, match="resuming"):
        log.flush()
    assert log.rows_durable == 0
    log.release()
    with LogWriter.resume(tmp_path, "input", "run-1", durability="fsync") as again:
        again.append(data[again.rows_taken :])
    assert again.digest == chain_of(data)


def test_an_error_in_the_run_leaves_the_log_flushed_and_open(tmp_path: Path) -> None:
    def run() -> None:
        with LogWriter(tmp_path, "input", "run-1") as log:
            log.append(market(10))
            raise RuntimeError("a bug in the line")

    with pytest.raises(RuntimeError, match="a bug"):
        run()
    with LogReader(tmp_path, "input") as reader:
        assert (reader.rows_total, reader.closed, reader.torn) == (10, False, None)
    with pytest.raises(ValueError, match="durability"):
        LogWriter(tmp_path, "x", "run-1", durability="maybe")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="log name"):
        LogWriter(tmp_path, "../x", "run-1")
