"""Segments: made whole or not at all, refused by name when they are not what the reader expects, swept when orphaned."""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest

from transport.errors import LayoutError, SegmentError
from transport.records import LAYOUT_HASH
from transport.segment import PAGE_BYTES, SHM, Segment, is_alive, process_start, segment_name, sweep

BYTES = 3 * PAGE_BYTES + 8
LAYOUT_AT, PID_AT, START_AT = 16, 24, 32  # bytes into the header, as its drawing has them
NO_PID = 2**22 + 1  # above Linux's largest


def overwrite(path, at, value):
    """Put one 64-bit word into a segment's file behind its back."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(struct.pack("<Q", value))


@pytest.fixture
def segment(tmp_path):
    with Segment.create("run", "edge", "ring", BYTES, folder=tmp_path) as made:
        yield made


def test_a_name_carries_owner_run_and_edge(segment):
    assert segment.name == f"tickline-{os.getpid()}-run-edge" == segment_name("run", "edge")


@pytest.mark.parametrize("word", ["", "a/b", "a b", "ü"])
def test_refuses_a_word_that_cannot_stand_in_a_file_name(word):
    with pytest.raises(ValueError, match="segment's name"):
        segment_name("run", word)


def test_refuses_a_name_that_is_too_long_for_the_file_system():
    with pytest.raises(ValueError, match="254"):
        segment_name("r" * 240, "edge")


@pytest.mark.parametrize(("kind", "size"), [("", 8), ("k" * 65, 8), ("ring", 0)])
def test_refuses_a_segment_without_a_kind_or_a_payload(tmp_path, kind, size):
    with pytest.raises(ValueError, match="kind of 1 to 64"):
        Segment.create("run", "edge", kind, size, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_new_payload_is_zero_and_every_page_of_it_exists(segment):
    assert len(segment.payload) == BYTES
    assert not any(segment.payload)
    status = (segment.folder / segment.name).stat()
    assert status.st_size == PAGE_BYTES + BYTES
    assert status.st_blocks * 512 >= status.st_size


def test_a_segment_in_shared_memory_is_not_sparse_either():
    with Segment.create("unit", "sparse", "ring", BYTES) as made:
        status = (SHM / made.name).stat()
        assert status.st_blocks * 512 >= status.st_size > BYTES
    assert not (SHM / made.name).exists()


def test_what_one_mapping_writes_the_other_reads(segment):
    with Segment.attach(segment.name, "ring", folder=segment.folder) as other:
        np.frombuffer(segment.payload, np.int64, 1)[0] = 77
        assert np.frombuffer(other.payload, np.int64, 1)[0] == 77
        assert other.header == segment.header
        assert other.owner_alive()
    assert (segment.folder / segment.name).exists()  # who attached does not unlink


def test_a_read_only_mapping_yields_arrays_that_cannot_be_written(segment):
    with Segment.attach(segment.name, writable=False, folder=segment.folder) as other:
        assert not np.frombuffer(other.payload, np.int64, 1).flags.writeable


def test_what_fill_writes_is_there_before_the_name_is(tmp_path):
    seen = []

    def fill(payload):
        seen.extend(path.name for path in tmp_path.iterdir())
        payload[0] = 9

    with Segment.create("run", "edge", "ring", BYTES, fill, tmp_path) as made:
        assert made.payload[0] == 9
        assert seen == [f".{made.name}"]
        assert [path.name for path in tmp_path.iterdir()] == [made.name]


def test_a_segment_whose_fill_fails_leaves_nothing_behind(tmp_path):
    def fill(payload):
        raise KeyError("no such edge")

    with pytest.raises(KeyError):
        Segment.create("run", "edge", "ring", BYTES, fill, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_name_that_is_taken_and_leaves_its_holder_alone(segment):
    segment.payload[0] = 5
    with pytest.raises(SegmentError, match="exists: give this run or edge another name"):
        Segment.create("run", "edge", "ring", BYTES, folder=segment.folder)
    assert segment.payload[0] == 5
    assert [path.name for path in segment.folder.iterdir()] == [segment.name]


def test_another_record_layout_is_refused_with_both_hashes(segment):
    theirs = LAYOUT_HASH ^ 1
    overwrite(segment.folder / segment.name, LAYOUT_AT, theirs)
    with pytest.raises(LayoutError, match=f"{segment.name}.*{theirs:016x}.*{LAYOUT_HASH:016x}"):
        Segment.attach(segment.name, folder=segment.folder)


def test_another_format_is_refused(segment):
    overwrite(segment.folder / segment.name, 8, PAGE_BYTES << 32 | 2)
    with pytest.raises(LayoutError, match="format 2"):
        Segment.attach(segment.name, folder=segment.folder)


def test_bytes_that_are_not_ours_are_refused(tmp_path):
    (tmp_path / "tickline-1-a-b").write_bytes(b"x" * 8192)
    with pytest.raises(LayoutError, match="not ours"):
        Segment.attach("tickline-1-a-b", folder=tmp_path)


def test_another_kind_is_refused_by_name(segment):
    with pytest.raises(LayoutError, match=f"{segment.name} is a ring, not a journal"):
        Segment.attach(segment.name, "journal", folder=segment.folder)


def test_a_missing_segment_says_what_to_do(tmp_path):
    with pytest.raises(SegmentError, match=r"no segment tickline-1-a-b.*start its owner"):
        Segment.attach("tickline-1-a-b", folder=tmp_path)


@pytest.mark.parametrize("size", [0, 100, PAGE_BYTES, PAGE_BYTES + BYTES - 1])
def test_a_segment_that_was_cut_is_refused(segment, size):
    os.truncate(segment.folder / segment.name, size)
    with pytest.raises(SegmentError, match="too small"):
        Segment.attach(segment.name, folder=segment.folder)


def test_full_shared_memory_is_said_with_the_bytes_that_are_missing_and_leaves_nothing():
    before = set(os.listdir(SHM))
    with pytest.raises(
        SegmentError, match=r"bytes free, segment tickline-\d+-unit-huge needs 1,125,899,906,842,624.*shm-size"
    ):
        Segment.create("unit", "huge", "ring", 2**50 - PAGE_BYTES)
    assert {name for name in set(os.listdir(SHM)) - before if "unit-huge" in name} == set()


def test_a_segment_that_may_not_be_opened_is_anothers(segment, monkeypatch):
    def refuse(*asked):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:  # whoever runs the tests may be allowed everything
        patch.setattr(os, "open", refuse)
        with pytest.raises(SegmentError, match=f"{segment.name} belongs to another user: run both as one user"):
            Segment.attach(segment.name, folder=segment.folder)
    Segment.attach(segment.name, folder=segment.folder).close()


def test_closing_and_unlinking_twice_is_doing_it_once(segment):
    segment.close()
    segment.close()
    segment.unlink()
    segment.unlink()
    with pytest.raises(SegmentError, match="closed"):
        segment.payload  # noqa: B018
    assert list(segment.folder.iterdir()) == []


def test_an_array_outlives_the_close_of_its_segment(segment):
    cells = np.frombuffer(segment.payload, np.int64, 4)
    segment.close()
    cells[:] = 3
    assert cells.tolist() == [3, 3, 3, 3]


def test_a_segment_of_a_dead_owner_is_swept_and_a_living_ones_is_not(segment):
    folder = segment.folder
    with Segment.create("run", "dead", "ring", BYTES, folder=folder) as orphan:
        overwrite(folder / orphan.name, PID_AT, NO_PID)
        assert sweep(folder) == [orphan.name]
    assert [path.name for path in folder.iterdir()] == [segment.name]


def test_a_reused_pid_is_not_taken_for_the_owner(segment):
    overwrite(segment.folder / segment.name, START_AT, segment.header.owner_start - 1)
    with Segment.attach(segment.name, folder=segment.folder) as other:
        assert not other.owner_alive()
    assert sweep(segment.folder) == [segment.name]


def test_half_made_segments_of_the_dead_are_swept_and_other_programs_files_are_not(tmp_path):
    for name in (f".tickline-{NO_PID}-a-b", f".tickline-{os.getpid()}-a-b", f"tickline-{NO_PID}-other", "unrelated"):
        (tmp_path / name).write_bytes(bytes(PAGE_BYTES))
    assert sweep(tmp_path) == [f".tickline-{NO_PID}-a-b"]
    assert len(list(tmp_path.iterdir())) == 3


def test_only_a_process_that_runs_has_a_start_time():
    assert process_start(os.getpid()) > 0
    assert process_start(NO_PID) == 0
    assert is_alive(os.getpid(), process_start(os.getpid()))
    assert not is_alive(os.getpid(), process_start(os.getpid()) + 1)
    assert not is_alive(NO_PID, 0)


def test_a_zombie_does_not_count_as_running():
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is not reaped
    try:
        assert process_start(pid) == 0
    finally:
        os.waitpid(pid, 0)
