"""Logs: the hash does not depend on how they were fed, nothing flushed is lost, and no damaged bit passes for a record."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transport import disk, frames
from transport.errors import DamagedError, LayoutError, StorageError
from transport.frames import FRAME_BYTES, HEADER_BYTES, SEAL_BYTES, Frame, frame_head, frames_of
from transport.journal import LogReader, LogWriter
from transport.pack import BLOCK_ROWS, chain_next, chain_start, packed, unpack_block
from transport.records import FILL, TRADE, empty
from transport.reference import RUN, STORED_RUN, Sources, copy_run, decode, encode

ROOT = Path(__file__).resolve().parents[2]


def market(rows: int, seed: int = 1) -> np.ndarray:
    """Stamped trades; every byte of the slot is used by some row."""
    rng = np.random.default_rng(seed)
    out = empty(rows)
    times = 1_700_000_000_000_000_000 + np.cumsum(rng.integers(1_000, 2_000_000, rows))
    out["seq"] = np.arange(1, rows + 1)
    out["ts_event_ns"] = times
    out["ts_recv_ns"] = times + rng.integers(-300_000, 900_000, rows)
    out["ts_seq_ns"] = np.maximum.accumulate(out["ts_recv_ns"])
    out["source_id"], out["kind"], out["epoch"] = 16, TRADE, 3
    out["price_ticks"] = 600_000 + np.cumsum(rng.integers(-20, 21, rows))
    out["qty_lots"] = rng.integers(0, 100_000, rows)
    out["origin"] = rng.integers(0, 2**40, rows)
    return out


def chain_of(rows: np.ndarray, name: str = "input") -> str:
    """The log's hash by its definition."""
    digest = chain_start(name)
    for at in range(0, len(rows), BLOCK_ROWS):
        digest = chain_next(digest, packed(rows[at : at + BLOCK_ROWS]))
    return digest.hex()


def write(folder: Path, rows: np.ndarray, **options: Any) -> str:
    with LogWriter(folder, "input", "run-1", **options) as log:
        log.append(rows)
    return log.digest


def read(folder: Path, sources: list[np.ndarray] | None = None) -> np.ndarray:
    with LogReader(folder, "input", sources) as log:
        return log.rows(0, log.rows_total)


def interleaved(tape: np.ndarray, seed: int, each: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs over the tape with own rows between them, the own rows, and (an oracle in plain loops) what the line saw."""
    chance = random.Random(seed)
    runs, seen, own = [], [], []
    at, seq, now = 0, 1, 0
    while at < len(tape):
        count = min(chance.randrange(1, each), len(tape) - at)
        runs.append((0, at, count, seq))
        for row in tape[at : at + count]:
            stamped = row.copy()
            now = max(now, int(row["ts_recv_ns"]))
            stamped["seq"], stamped["ts_seq_ns"], stamped["epoch"] = seq, now, 5
            seen.append(stamped)
            seq += 1
        at += count
        for _ in range(chance.randrange(0, 3)):
            report = empty(1)
            now += chance.randrange(0, 2_000_000)
            report["seq"], report["ts_seq_ns"], report["kind"], report["epoch"] = seq, now, FILL, 5
            own.append(report)
            runs.append((-1, 0, 1, seq))
            seen.append(report[0].copy())
            seq += 1
    own_rows, all_rows = empty(len(own)), empty(len(seen))
    for to, rows in ((own_rows, [r[0] for r in own]), (all_rows, seen)):
        to.view("u1")[:] = np.frombuffer(b"".join(r.tobytes() for r in rows), "u1")
    return np.array(runs, RUN), own_rows, all_rows


# --- the hash and the bytes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 4 * BLOCK_ROWS, 5 * BLOCK_ROWS + 17])
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


def test_a_log_that_is_there_is_refused_and_so_is_one_that_is_not(tmp_path: Path) -> None:
    write(tmp_path, market(3))
    with pytest.raises(StorageError, match="resume"):
        LogWriter(tmp_path, "input", "run-2")
    with pytest.raises(DamagedError, match="no log"):
        LogReader(tmp_path, "orders")


def test_seal_carries_the_signature_of_its_digest(tmp_path: Path) -> None:
    digest = write(tmp_path, market(BLOCK_ROWS + 1), segment_blocks=1, sign=lambda head: b"signed " + head)
    with LogReader(tmp_path, "input") as log:
        seals = [segment.seal for segment in log.segments]
    assert [seal.signature == b"signed " + seal.digest for seal in seals if seal] == [True, True]
    assert seals[-1] is not None
    assert seals[-1].digest.hex() == digest


# --- flushing, kills, torn ends -----------------------------------------------------------------------------------------


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
from tests.unit.test_journal import market
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


# --- damage -------------------------------------------------------------------------------------------------------------


def assert_not_believed(folder: Path, data: np.ndarray, what: str) -> None:
    """The log says that something is wrong, and no row it still gives is a wrong one."""
    try:
        reader = LogReader(folder, "input")
    except LayoutError:
        return
    assert reader.verify() or reader.torn, what
    row = 0
    try:
        for first, rows in reader.blocks():
            assert first == row, what
            assert rows.tobytes() == data[row : row + len(rows)].tobytes(), what
            row += len(rows)
        assert reader.torn or row == len(data), what
    except DamagedError:
        pass


@pytest.mark.parametrize("closed", [True, False])
def test_every_flipped_bit_is_reported_and_never_read(tmp_path: Path, seed: int, closed: bool) -> None:
    chance = random.Random(seed)
    data = market(3 * BLOCK_ROWS + 40)
    log = LogWriter(tmp_path, "input", "run-1", segment_blocks=2)
    for part in (data[:100], data[100 : BLOCK_ROWS * 2], data[BLOCK_ROWS * 2 : -20], data[-20:]):
        log.append(part)
        log.flush()
    log.close() if closed else log.release()
    files = sorted((tmp_path / "input").iterdir())
    assert [p.suffix for p in files] == [".seg", ".seg" if closed else ".open"]
    for trial in range(300):
        path = chance.choice(files)
        good = path.read_bytes()
        # half of the trials near a head, where the fields are
        at = chance.randrange(len(good)) if trial % 2 else chance.choice([chance.randrange(400), -chance.randrange(1, 400)])
        bad = bytearray(good)
        bad[at] ^= 1 << chance.randrange(8)
        path.write_bytes(bad)
        assert_not_believed(tmp_path, data, f"{path.name} byte {at}")
        path.write_bytes(good)
    assert LogReader(tmp_path, "input").verify() == []


def test_every_truncation_of_a_sealed_segment_is_reported(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    data = market(2 * BLOCK_ROWS + 40)
    write(tmp_path, data, segment_blocks=1)
    for path in sorted((tmp_path / "input").iterdir()):
        good = path.read_bytes()
        near = [*range(0, 400, 7), *(len(good) - n for n in range(1, SEAL_BYTES + FRAME_BYTES + 20, 5))]
        for end in [*near, *(chance.randrange(len(good)) for _ in range(10))]:
            path.write_bytes(good[:end])
            assert_not_believed(tmp_path, data, f"{path.name} cut at {end}")
        path.write_bytes(good)


def replace_block(path: Path, number: int, rows: np.ndarray) -> None:
    """Forge block `number` of a segment: other records under a good sum and the old digest."""
    data = path.read_bytes()
    found = [f for f in frames_of(data, len(data) - SEAL_BYTES, check=True) if isinstance(f, Frame)]
    old = found[number]
    small = packed(rows)
    head = frame_head(frames.PACKED, old.rows, old.first_row, len(small), old.digest, small)
    path.write_bytes(data[: old.at] + head + small + data[old.end :])


def test_a_forged_record_under_a_mended_sum_breaks_the_chain_at_its_block(tmp_path: Path) -> None:
    data = market(4 * BLOCK_ROWS)
    write(tmp_path, data, segment_blocks=2)
    forged = empty(BLOCK_ROWS)
    unpack_block(packed(data[3 * BLOCK_ROWS :]), forged, BLOCK_ROWS)
    forged["qty_lots"][7] += 1
    replace_block(tmp_path / "input/00000001.seg", 1, forged)
    with LogReader(tmp_path, "input") as log:
        (damage,) = log.verify()
        assert log.digest != chain_of(data)
    assert damage[:4] == ("00000001.seg", 3, 3 * BLOCK_ROWS, 3 * BLOCK_ROWS + 1)
    assert "digest of the chain" in damage.what
    assert str(damage).startswith(f"00000001.seg block 3, row {3 * BLOCK_ROWS}, seq ")


def test_missing_swapped_and_foreign_segments_are_named(tmp_path: Path) -> None:
    data = market(3 * BLOCK_ROWS)
    write(tmp_path / "good", data, segment_blocks=1)
    write(tmp_path / "other", market(3 * BLOCK_ROWS, seed=2), segment_blocks=1)

    def spoiled(name: str, spoil: Any) -> list[str]:
        shutil.copytree(tmp_path / "good", tmp_path / name)
        spoil(tmp_path / name / "input")
        assert_not_believed(tmp_path / name, data, name)
        return [str(damage) for damage in LogReader(tmp_path / name, "input").verify()]

    missing = spoiled("missing", lambda log: (log / "00000001.seg").unlink())
    assert any("segment 1 is missing" in text for text in missing)
    swapped = spoiled("swapped", lambda log: shutil.copy(log / "00000002.seg", log / "00000001.seg"))
    assert any("it is segment 2 of the log input" in text for text in swapped)
    foreign = spoiled("foreign", lambda log: shutil.copy(tmp_path / "other/input/00000001.seg", log / "00000001.seg"))
    assert any("chain does not go on" in text for text in foreign)


def test_a_log_without_its_last_segments_is_not_closed(tmp_path: Path) -> None:
    write(tmp_path, market(3 * BLOCK_ROWS), segment_blocks=1)
    (tmp_path / "input/00000002.seg").unlink()
    with LogReader(tmp_path, "input") as log:
        assert (log.rows_total, log.closed) == (2 * BLOCK_ROWS, False)


def test_another_record_layout_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(frames, "LAYOUT_HASH", 0xABCDEF)
        write(tmp_path, market(10))
    with pytest.raises(LayoutError, match="0000000000abcdef"):
        LogReader(tmp_path, "input")


# --- by reference ---------------------------------------------------------------------------------------------------------


def test_copy_run_stamps_and_keeps_everything_else() -> None:
    tape, out = market(50), empty(60)
    tape["ts_recv_ns"][20] -= 10**9
    last = copy_run(tape, 10, 30, out, 5, 1000, int(tape["ts_recv_ns"][9]) + 123_456, 9)
    made = out[5:35]
    assert made["seq"].tolist() == list(range(1000, 1030))
    expected = np.maximum.accumulate(np.maximum(tape["ts_recv_ns"][10:40], tape["ts_recv_ns"][9] + 123_456))
    assert made["ts_seq_ns"].tolist() == expected.tolist()
    assert last == expected[-1]
    assert set(made["epoch"].tolist()) == {9}
    for name in set(tape.dtype.names or ()) - {"seq", "ts_seq_ns", "epoch"}:
        assert made[name].tobytes() == tape[name][10:40].tobytes(), name
    assert not out[:5].tobytes().strip(b"\0")
    assert not out[35:].tobytes().strip(b"\0")


def test_a_log_by_reference_has_the_hash_of_the_embedded_one_at_a_fraction_of_its_size(tmp_path: Path, seed: int) -> None:
    tape = market(3 * BLOCK_ROWS + 500)
    runs, own, seen = interleaved(tape, seed)
    sizes = []
    for embed in (True, False):
        folder = tmp_path / str(embed)
        with LogWriter(folder, "input", "run-1", embed=embed, sources=[tape], segment_blocks=2) as log:
            log.append_reference(runs, own, 5)
        assert log.digest == chain_of(seen)
        sources = None if embed else [tape]
        assert read(folder, sources).tobytes() == seen.tobytes()
        with LogReader(folder, "input", sources) as reader:
            assert reader.verify() == []
            assert reader.digest == chain_of(seen)
        sizes.append(sum(p.stat().st_size for p in (folder / "input").iterdir()))
    assert sizes[1] < sizes[0] / 5


@pytest.mark.parametrize("embed", [True, False])
def test_runs_may_come_in_any_pieces_and_be_flushed_anywhere(tmp_path: Path, seed: int, embed: bool) -> None:
    chance = random.Random(seed)
    tape = market(2 * BLOCK_ROWS + 300)
    runs, own, seen = interleaved(tape, seed, each=900)
    with LogWriter(tmp_path, "input", "run-1", embed=embed, sources=[tape], segment_blocks=1) as log:
        own_at = 0
        for source, first, count, seq in runs.tolist():
            done = 0
            while done < count:  # a run in pieces, to be joined again
                size = min(chance.randrange(1, 400), count - done)
                mine = size if source < 0 else 0
                piece = np.array([(source, first + done, size, seq + done)], RUN)
                log.append_reference(piece, own[own_at : own_at + mine], 5)
                own_at += mine
                done += size
                if chance.random() < 0.3:
                    log.flush()
                    with LogReader(tmp_path, "input", [tape]) as reader:
                        rows = reader.rows(0, reader.rows_total)
                        assert rows.tobytes() == seen[: log.rows_taken].tobytes()
                        assert reader.torn is None
    assert log.digest == chain_of(seen)


def test_own_rows_alone_may_be_appended_to_a_log_by_reference(tmp_path: Path) -> None:
    data = market(BLOCK_ROWS + 5)
    assert write(tmp_path, data, embed=False, sources=[]) == chain_of(data)
    assert read(tmp_path).tobytes() == data.tobytes()


def test_runs_out_of_bounds_are_refused_and_take_nothing(tmp_path: Path) -> None:
    tape = market(100)
    bad = [[(0, 50, 51, 1)], [(1, 0, 1, 1)], [(-2, 0, 1, 1)], [(0, -1, 1, 1)], [(0, 0, -1, 1)], [(-1, 0, 2, 1)]]
    with LogWriter(tmp_path, "input", "run-1", embed=False, sources=[tape]) as log:
        for runs in bad:
            with pytest.raises(ValueError, match="run"):
                log.append_reference(np.array(runs, RUN), market(1), 5)
        with pytest.raises(ValueError, match="epoch"):
            log.append_reference(np.array([(0, 0, 1, 1)], RUN), market(0), 2**16)
        assert log.rows_taken == 0


def test_a_changed_or_missing_tape_is_found_by_the_chain(tmp_path: Path) -> None:
    tape = market(2 * BLOCK_ROWS)
    with LogWriter(tmp_path, "input", "run-1", embed=False, sources=[tape]) as log:
        log.append_reference(np.array([(0, 0, len(tape), 1)], RUN), market(0), 5)
    changed = market(2 * BLOCK_ROWS)
    changed["qty_lots"][BLOCK_ROWS + 9] += 1
    with LogReader(tmp_path, "input", [changed]) as reader:
        assert [(d.block, d.first_row) for d in reader.verify()] == [(1, BLOCK_ROWS)]
    for sources, what in ((None, "a source that was not given"), ([tape[:5000]], "beyond the rows of its tape")):
        with LogReader(tmp_path, "input", sources) as reader:
            assert any(what in d.what for d in reader.verify())
            with pytest.raises(DamagedError, match=what):
                list(reader.blocks())


def test_damaged_reference_payloads_are_refused_whatever_they_say(seed: int) -> None:
    chance = random.Random(seed)
    tape = market(200)
    runs = np.zeros(2, STORED_RUN)
    runs["first"], runs["seq"], runs["source"], runs["count"] = [0, 0], [1, 101], [0, -1], [100, 10]
    good = encode(0, runs, market(10))
    sources = Sources([tape])
    assert len(decode(good, 110, sources)) == 110
    with pytest.raises(DamagedError):
        decode(good, 109, sources)
    refused = 0
    for _ in range(500):
        bad = bytearray(good[: chance.randrange(1, len(good) + 1)])
        for _ in range(3):
            bad[chance.randrange(min(70, len(bad)))] = chance.choice([0, 255, chance.randrange(256)])
        try:
            assert len(decode(bytes(bad), 110, sources)) == 110
        except DamagedError:
            refused += 1
    assert refused > 300


# --- the disk ---------------------------------------------------------------------------------------------------------------


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
    while log.rows_taken < len(data) or not log.closed:
        try:
            log.append(data[log.rows_taken :][: chance.choice([50, 3000, 9000])])
            log.flush()
            if log.rows_taken == len(data):
                log.close()
        except StorageError as error:
            failures += 1
            assert str(tmp_path) in str(error)
            assert "make room" in str(error)
            assert error.retriable
            with LogReader(tmp_path, "input") as reader:
                rows = reader.rows(0, reader.rows_total)
                assert (reader.torn, reader.damage) == (None, None)
                assert len(rows) >= log.rows_durable
                assert rows.tobytes() == data[: len(rows)].tobytes()
            small.room = chance.randrange(60_000)
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
    log.flush()
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
    with pytest.raises(RuntimeError), LogWriter(tmp_path, "input", "run-1") as log:
        log.append(market(10))
        raise RuntimeError
    with LogReader(tmp_path, "input") as reader:
        assert (reader.rows_total, reader.closed, reader.torn) == (10, False, None)
    with pytest.raises(ValueError, match="durability"):
        LogWriter(tmp_path, "x", "run-1", durability="maybe")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="log name"):
        LogWriter(tmp_path, "../x", "run-1")


# --- going on -----------------------------------------------------------------------------------------------------------------


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
