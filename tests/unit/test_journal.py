"""Logs: the hash does not depend on how they were fed, nothing flushed is lost, and a log goes on after a kill."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.logs import chain_of, market, read, write
from transport.errors import DamagedError, StorageError
from transport.frames import FRAME_BYTES, HEADER_BYTES, SIGNATURE_BYTES_MAX, Seal, decode_seal, encode_seal
from transport.journal import LogReader, LogWriter
from transport.pack import BLOCK_ROWS
from transport.reference import RUN

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "rows", [0, 1, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 4 * BLOCK_ROWS, 5 * BLOCK_ROWS + 17]
)
def test_reads_back_what_was_appended_under_the_hash_of_its_definition(tmp_path: Path, rows: int) -> None:
    data = market(rows)
    digest = write(tmp_path, data, segment_blocks=2)
    with LogReader(tmp_path, "input") as log:
        assert (log.rows_total, log.closed, log.torn, log.damage, log.verify()) == (rows, True, None, None, [])
        assert log.run_id == "run-1"
        assert log.digest == digest == chain_of(data)
        assert b"".join(part.tobytes() for _, part in log.blocks()) == data.tobytes()
        assert [first for first, _ in log.blocks()] == list(range(0, rows, BLOCK_ROWS))


def test_hash_and_sealed_files_do_not_depend_on_how_the_writer_was_fed(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    data = market(4 * BLOCK_ROWS + 900)
    write(tmp_path / "whole", data, segment_blocks=2)
    with LogWriter(tmp_path / "split", "input", "run-1", segment_blocks=2) as log:
        at = 0
        while at < len(data):
            count = chance.choice([1, 3, 700, BLOCK_ROWS, 2 * BLOCK_ROWS + 5])
            log.append(data[at : at + count])
            at += count
            if chance.random() < 0.4:
                log.flush()
    one, two = sorted((tmp_path / "whole/input").iterdir()), sorted((tmp_path / "split/input").iterdir())
    assert [p.name for p in one] == [p.name for p in two] == ["00000000.seg", "00000001.seg", "00000002.seg"]
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]


def test_the_run_id_is_outside_the_hash_and_the_name_is_inside(tmp_path: Path) -> None:
    data = market(100)
    digests = []
    for folder, name, run in (("a", "input", "run-1"), ("b", "input", "run-2"), ("c", "risk", "run-1")):
        with LogWriter(tmp_path / folder, name, run) as log:
            log.append(data)
        digests.append(log.digest)
    assert digests[0] == digests[1] != digests[2]


def test_any_range_of_rows_can_be_read(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    data = market(3 * BLOCK_ROWS + 100)
    write(tmp_path, data, segment_blocks=1)
    with LogReader(tmp_path, "input") as log:
        for _ in range(20):
            start = chance.randrange(len(data))
            count = chance.randrange(len(data) - start + 1)
            assert log.rows(start, count).tobytes() == data[start : start + count].tobytes()
        with pytest.raises(IndexError):
            log.rows(len(data), 1)


def test_sealed_segment_is_mapped_one_at_a_time_and_let_go(tmp_path: Path) -> None:
    data = market(2 * BLOCK_ROWS + 100)
    write(tmp_path, data, segment_blocks=1)

    def mapped() -> list[str]:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return sorted({line.split()[-1].rpartition("/")[2] for line in lines if str(tmp_path) in line})

    with LogReader(tmp_path, "input") as log:
        assert mapped() == []
        for number in (0, 2, 1):
            log.rows(number * BLOCK_ROWS, 10)
            assert mapped() == [f"{number:08d}.seg"]
    assert mapped() == []


def test_a_log_that_is_there_is_refused_and_so_is_one_that_is_not(tmp_path: Path) -> None:
    write(tmp_path, market(3))
    with pytest.raises(StorageError, match="resume"):
        LogWriter(tmp_path, "input", "run-2")
    with pytest.raises(DamagedError, match="no log"):
        LogReader(tmp_path, "orders")


def test_a_signature_that_does_not_fit_the_seal_is_refused() -> None:
    seal = Seal(True, 1, BLOCK_ROWS, bytes(32), b"s" * SIGNATURE_BYTES_MAX)
    assert decode_seal(encode_seal(seal)) == seal
    with pytest.raises(ValueError, match="a signature has at most 256 bytes, this one 257"):
        encode_seal(seal._replace(signature=b"s" * (SIGNATURE_BYTES_MAX + 1)))


def test_seal_carries_the_signature_of_its_digest(tmp_path: Path) -> None:
    digest = write(tmp_path, market(BLOCK_ROWS + 1), segment_blocks=1, sign=lambda head: b"signed " + head)
    with LogReader(tmp_path, "input") as log:
        seals = [segment.seal for segment in log.segments]
    assert [seal.signature == b"signed " + seal.digest for seal in seals if seal] == [True, True]
    assert seals[-1] is not None
    assert seals[-1].digest.hex() == digest


def test_flushed_rows_are_readable_while_the_block_is_still_filling(tmp_path: Path) -> None:
    data = market(BLOCK_ROWS + 300)
    with LogWriter(tmp_path, "input", "run-1") as log:
        for at in range(0, len(data), 100):
            log.append(data[at : at + 100])
            log.flush()
            log.flush()
            with LogReader(tmp_path, "input") as reader:
                assert reader.rows_total == log.rows_durable == log.rows_taken == min(at + 100, len(data))
                assert not reader.closed
        with LogReader(tmp_path, "input") as reader:
            assert reader.rows(0, len(data)).tobytes() == data.tobytes()
            assert reader.verify() == []
            assert reader.digest == chain_of(data)


def test_a_killed_process_loses_nothing_it_flushed(tmp_path: Path) -> None:
    program = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from tests.logs import market
from transport.journal import LogWriter
log = LogWriter(sys.argv[2], "input", "run-1")
rows = market(6000)
log.append(rows[:5000])
log.flush()
log.append(rows[5000:])
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program, str(ROOT), str(tmp_path)], timeout=120, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert read(tmp_path).tobytes() == market(6000)[:5000].tobytes()


def test_an_open_log_cut_at_any_byte_gives_its_rows_up_to_the_last_whole_frame(tmp_path: Path) -> None:
    data = market(BLOCK_ROWS + 60)
    with LogWriter(tmp_path / "log", "input", "run-1") as log:
        log.append(data[: BLOCK_ROWS + 50])
        log.flush()
        size = (tmp_path / "log/input/00000000.open").stat().st_size
        log.append(data[BLOCK_ROWS + 50 :])
        log.flush()
        whole = (tmp_path / "log/input/00000000.open").read_bytes()
    part = tmp_path / "cut/input/00000000.open"
    part.parent.mkdir(parents=True)
    for end in range(size - 3, len(whole) + 1):
        part.write_bytes(whole[:end])
        with LogReader(tmp_path / "cut", "input") as reader:
            if end < size:
                assert (reader.rows_total, reader.torn is None) == (BLOCK_ROWS, False)
            elif end < len(whole):
                assert reader.rows_total == BLOCK_ROWS + 50
                assert (reader.torn is None) == (end == size)
                assert end == size or f"row {BLOCK_ROWS + 50}" in str(reader.torn)
            else:
                assert (reader.rows_total, reader.torn) == (len(data), None)
            assert reader.damage is None
            assert reader.verify() == []
            rows = reader.rows(0, reader.rows_total)
            assert rows.tobytes() == data[: len(rows)].tobytes()


def test_a_torn_whole_block_falls_back_to_what_had_been_flushed_of_it(tmp_path: Path) -> None:
    data = market(BLOCK_ROWS)
    with LogWriter(tmp_path, "input", "run-1") as log:
        log.append(data[:4000])
        log.flush()
        size = (tmp_path / "input/00000000.open").stat().st_size
        log.append(data[4000:])
        shutil.copytree(tmp_path / "input", tmp_path / "torn/input")
    os.truncate(tmp_path / "torn/input/00000000.open", size + FRAME_BYTES + 1000)
    with LogReader(tmp_path / "torn", "input") as reader:
        assert reader.rows_total == 4000
        assert "row 4000" in str(reader.torn)
        assert reader.rows(0, 4000).tobytes() == data[:4000].tobytes()


def test_a_segment_killed_in_its_header_is_torn_and_can_be_resumed(tmp_path: Path) -> None:
    data = market(BLOCK_ROWS + 10)
    for keep in (0, 5, HEADER_BYTES - 1):
        for blocks_before in (0, 1):
            folder = tmp_path / f"{keep}-{blocks_before}"
            with LogWriter(folder, "input", "run-1", segment_blocks=1) as log:
                log.append(data[: blocks_before * BLOCK_ROWS + 1])
                log.flush()
                log.release()
                os.truncate(folder / f"input/{blocks_before:08d}.open", keep)
                with LogReader(folder, "input") as reader:
                    assert (reader.rows_total, reader.damage) == (blocks_before * BLOCK_ROWS, None)
                    assert reader.torn is not None
                    assert reader.verify() == []
                with LogWriter.resume(folder, "input", "run-2", segment_blocks=1) as again:
                    again.append(data[blocks_before * BLOCK_ROWS :])
                assert again.digest == chain_of(data)
                log.closed = True


def test_a_crash_between_sealing_and_removing_the_open_segment_is_harmless(tmp_path: Path) -> None:
    data = market(2 * BLOCK_ROWS)
    with LogWriter(tmp_path, "input", "run-1", segment_blocks=1) as log:
        log.append(data[:BLOCK_ROWS])
        (tmp_path / "kept").write_bytes((tmp_path / "input/00000000.open").read_bytes())
        log.append(data[BLOCK_ROWS:])
    shutil.move(tmp_path / "kept", tmp_path / "input/00000000.open")
    with LogReader(tmp_path, "input") as reader:
        assert reader.verify() == []
        assert reader.digest == chain_of(data)


@pytest.mark.parametrize("embed", [True, False])
@pytest.mark.parametrize("end", [0, 1, 4000, BLOCK_ROWS, BLOCK_ROWS + 9, 2 * BLOCK_ROWS, 3 * BLOCK_ROWS + 50])
def test_a_resumed_log_ends_with_the_hash_of_one_never_interrupted(tmp_path: Path, end: int, embed: bool) -> None:
    tape = market(4 * BLOCK_ROWS + 10)
    runs = np.array([(0, 0, len(tape), 1)], RUN)
    options: dict[str, Any] = {"embed": embed, "sources": [tape], "segment_blocks": 2}
    with LogWriter(tmp_path / "one", "input", "run-1", **options) as one:
        one.append_reference(runs, market(0), 5)
    first = LogWriter(tmp_path / "two", "input", "run-1", **options)
    first.append_reference(np.array([(0, 0, end, 1)], RUN), market(0), 5)
    first.flush()
    first.release()
    with LogWriter.resume(tmp_path / "two", "input", "run-1", **options) as two:
        assert two.rows_taken == two.rows_durable == end
        two.append_reference(np.array([(0, end, len(tape) - end, end + 1)], RUN), market(0), 5)
    assert two.digest == one.digest
    assert read(tmp_path / "two", [tape]).tobytes() == read(tmp_path / "one", [tape]).tobytes()
    assert not list((tmp_path / "two/input").glob("*.tmp"))


@pytest.mark.parametrize("keep", [0, 5, BLOCK_ROWS, BLOCK_ROWS + 1, 2 * BLOCK_ROWS, 4 * BLOCK_ROWS + 2])
def test_a_log_ahead_is_cut_back_and_goes_on_from_there(tmp_path: Path, keep: int) -> None:
    data = market(4 * BLOCK_ROWS + 10)
    write(tmp_path, data, segment_blocks=1)
    (tmp_path / "input/00000003.open").write_bytes(b"left by a crash while it was sealed")
    log = LogWriter.resume(tmp_path, "input", "run-2", rows=keep, segment_blocks=1)
    log.release()
    assert read(tmp_path).tobytes() == data[:keep].tobytes()
    with LogWriter.resume(tmp_path, "input", "run-2", segment_blocks=1) as again:
        again.append(data[keep:])
    assert again.digest == chain_of(data)
    with LogReader(tmp_path, "input") as reader:
        assert reader.verify() == []
        assert reader.closed


def test_a_damaged_log_is_resumed_only_before_its_damage(tmp_path: Path) -> None:
    data = market(3 * BLOCK_ROWS)
    write(tmp_path, data, segment_blocks=1)
    path = tmp_path / "input/00000001.seg"
    bad = bytearray(path.read_bytes())
    bad[10] ^= 1
    path.write_bytes(bad)
    with pytest.raises(DamagedError, match=r"00000001\.seg"):
        LogWriter.resume(tmp_path, "input", "run-2")
    LogWriter.resume(tmp_path, "input", "run-2", rows=BLOCK_ROWS).release()
    assert read(tmp_path).tobytes() == data[:BLOCK_ROWS].tobytes()
