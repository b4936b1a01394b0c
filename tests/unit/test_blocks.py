"""Bytes of recorded files: the same lines whatever they are packed in and wherever a block ends; damage after what was whole."""

from __future__ import annotations

import contextlib
import gzip
import io
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from handlers.ingest import blocks
from handlers.ingest.blocks import read_blocks, read_head, read_lines
from handlers.ingest.errors import FeedError, TruncatedError, UnreadableError
from handlers.ingest.lean.files import find_csv, read_whole

LINES = [b"one", b"", b"three " * 50, bytes(range(11, 256)), b"last"]
TEXT = b"\n".join(LINES) + b"\n"
HALF = len(TEXT) // 2


def skipped(content: bytes, number: int = 7) -> bytes:
    """A frame of zstd that a reader passes over (RFC 8878, 3.1.2)."""
    return (0x184D2A50 + number).to_bytes(4, "little") + len(content).to_bytes(4, "little") + content


PACKED = {
    "plain": TEXT,
    "gzip": gzip.compress(TEXT),
    "zstd": zstandard.compress(TEXT),
    "gzip members": gzip.compress(TEXT[:HALF]) + gzip.compress(b"") + gzip.compress(TEXT[HALF:]),
    "zstd frames": zstandard.compress(TEXT[:HALF]) + zstandard.compress(TEXT[HALF:]),
    "gzip, then zstd": gzip.compress(TEXT[:HALF]) + zstandard.compress(TEXT[HALF:]),
    "gzip, filled up with zeros": gzip.compress(TEXT) + bytes(1000),
    "gzip members, each filled up with zeros": gzip.compress(TEXT[:HALF]) + bytes(3) + gzip.compress(TEXT[HALF:]) + bytes(1),
    "zstd between frames to be skipped": skipped(b"") + zstandard.compress(TEXT[:HALF]) + skipped(bytes(300)) + zstandard.compress(TEXT[HALF:]) + skipped(b"seek table"),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "capture.without-a-suffix"


def read_at_once(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """So many bytes of a file, packed or not."""
    monkeypatch.setattr(blocks, "READ_BYTES", size)
    monkeypatch.setattr(blocks, "PACKED_BYTES", size)


def taken(lines: Iterator[bytes]) -> tuple[list[bytes], type[Exception] | None]:
    """What came, and the error that ended it."""
    found = []
    try:
        for line in lines:
            found.append(line)
    except (TruncatedError, UnreadableError) as error:
        return found, type(error)
    return found, None


@pytest.mark.parametrize("packing", PACKED)
def test_a_file_is_unpacked_by_its_content_in_blocks_of_any_size(
    file: Path, monkeypatch: pytest.MonkeyPatch, packing: str
) -> None:
    file.write_bytes(PACKED[packing])
    for size in (4, 5, 7, 64, 1 << 16):
        read_at_once(monkeypatch, size)
        assert b"".join(read_blocks(file)) == TEXT, size
        assert list(read_lines(file)) == LINES, size


def test_a_last_line_needs_no_end_and_an_empty_file_has_no_line(file: Path) -> None:
    file.write_bytes(TEXT[:-1])
    assert list(read_lines(file)) == LINES
    file.write_bytes(b"")
    assert list(read_lines(file)) == []


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_a_file_cut_anywhere_gives_its_whole_lines_and_then_says_so(
    file: Path, monkeypatch: pytest.MonkeyPatch, packing: str
) -> None:
    read_at_once(monkeypatch, 16)
    whole = PACKED[packing]
    for end in range(4, len(whole)):
        file.write_bytes(whole[:end])
        found, error = taken(read_lines(file))
        assert error is TruncatedError, end
        assert found == LINES[: len(found)], end  # a line cut off with its file is none


def test_a_damaged_file_gives_what_came_before_the_damage(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_at_once(monkeypatch, 32)
    first = gzip.compress(TEXT)
    file.write_bytes(first + gzip.compress(TEXT)[:10] + b"\xff" * 40)
    assert taken(read_lines(file)) == (LINES, UnreadableError)
    file.write_bytes(first + b"and then some text")
    with pytest.raises(UnreadableError, match="something that is not compressed data follows its end"):
        list(read_lines(file))


@pytest.mark.parametrize("end", [b"\0" * 7 + b"text", zstandard.compress(TEXT)[:9] + b"\0", b"\0\x1f"])
def test_zeros_behind_a_member_do_not_hide_what_follows_them(file: Path, end: bytes) -> None:
    file.write_bytes(gzip.compress(TEXT) + end)
    found, error = taken(read_lines(file))
    assert (found, error is None) == (LINES, False)


def test_a_frame_to_be_skipped_may_be_cut_off_and_is_not_read_into_memory(file: Path) -> None:
    file.write_bytes(zstandard.compress(TEXT) + skipped(bytes(1 << 16))[: 1 << 15])
    assert taken(read_lines(file)) == (LINES, TruncatedError)
    file.write_bytes(skipped(b"")[:6])
    assert taken(read_lines(file)) == ([], TruncatedError)
    file.write_bytes(zstandard.compress(TEXT) + skipped(b"")[:5])
    assert taken(read_lines(file)) == (LINES, TruncatedError)


def test_zeros_that_stand_alone_are_no_padding(file: Path) -> None:
    """Of a file that is not packed every byte is its own."""
    file.write_bytes(bytes(50))
    assert b"".join(read_blocks(file)) == bytes(50)


def test_members_that_were_read_are_unpacked_before_more_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recorder that closes a member a line makes thousands of a block: were all of them read on each time, time and memory grew without end."""
    given: list[int] = []

    class Watched:
        def __init__(self, head: bytes) -> None:
            self.inner = plain(head)

        def decompress(self, chunk: bytes) -> bytes:
            given.append(len(chunk))
            return bytes(self.inner.decompress(chunk))

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

    plain = blocks._decompressor
    monkeypatch.setattr(blocks, "_decompressor", Watched)
    file.write_bytes(gzip.compress(b"a line\n") * 2000)
    assert b"".join(read_blocks(file)) == b"a line\n" * 2000
    assert max(given) < blocks.PACKED_BYTES + 4  # of the magic that tells what the next member is


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_file_of_a_million_to_one_is_given_in_bounded_blocks(file: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]) -> None:
    monkeypatch.setattr(blocks, "PACKED_BYTES", 256)
    file.write_bytes(pack(bytes(1 << 26)))
    sizes = [len(block) for block in read_blocks(file)]
    assert sum(sizes) == 1 << 26
    assert max(sizes) <= 256 // 4 << 17  # what four bytes of zstd may say


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_any_damage_of_a_zip_is_told_and_raises_nothing_else(file: Path, method: int) -> None:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", method) as archive:
        archive.writestr("añ.csv", TEXT)
    for seed in range(300):
        damaged, draw = bytearray(whole.getvalue()), random.Random(seed)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(4, len(damaged))] = draw.randrange(256)
        file.write_bytes(damaged)
        for read in (lambda path: list(read_blocks(path)), find_csv, read_whole):
            with contextlib.suppress(FeedError):
                read(file)


def test_a_file_without_a_name_in_a_zip_is_a_file(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = ""
        with archive.open(info, "w") as inside:
            inside.write(TEXT)
    assert b"".join(read_blocks(file)) == TEXT


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_at_once(monkeypatch, 64)
    monkeypatch.setattr(blocks, "LINE_BYTES_MAX", 256)
    file.write_bytes(b"short\n" + b"x" * 1000)
    with pytest.raises(UnreadableError, match="a line of over 256 bytes"):
        list(read_lines(file))


def test_a_file_that_is_not_there_is_told_with_its_path(file: Path) -> None:
    with pytest.raises(UnreadableError, match=r"capture\.without-a-suffix cannot be read: No such file"):
        list(read_blocks(file))


@pytest.mark.parametrize("packing", PACKED)
def test_the_head_of_a_file_is_read_without_the_rest(file: Path, monkeypatch: pytest.MonkeyPatch, packing: str) -> None:
    read_at_once(monkeypatch, 8)
    file.write_bytes(PACKED[packing])
    assert read_head(file, 5) == TEXT[:5]
    assert read_head(file, 10**6) == TEXT
    few = read_head(file, 10**6, 1)
    assert few.count(b"\n") >= 1
    assert TEXT.startswith(few)
    assert packing != "plain" or len(few) < len(TEXT)
    file.write_bytes(gzip.compress(TEXT)[:-4])
    assert read_head(file, 10**6) == TEXT  # cut, but what is there tells the format
