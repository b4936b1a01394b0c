"""Bytes of a recorded file, decompressed by what it is and not by its name, and the lines in them.

Captures are cut off when a recorder is killed, so whatever can be decompressed is yielded first; only then the error is raised.
Between and behind its members gzip may have zeros, as tapes and file systems fill up with (so does gzip(1) read it), and zstd frames
that are to be passed over, where writers keep an index (RFC 8878, 3.1.2).
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import zstandard

from handlers.ingest.errors import TruncatedError, UnreadableError

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
SKIPPED_MAGIC = b"\x2a\x4d\x18"  # behind a byte of 0x50 to 0x5F
ZIP_MAGIC = b"PK\x03\x04"
READ_BYTES = 1 << 16
PACKED_BYTES = 1 << 12  # of compressed data at a time: 4 bytes of zstd may say 128 KiB, and so a block has at most 128 MiB
LINE_BYTES_MAX = 1 << 26  # the longest recorded line, a snapshot of 1,000 levels a side, has 60 kB
# What zipfile raises for a damaged zip; the last three: a name that is no text, a method it does not know, a lock.
ZIP_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, UnicodeDecodeError, NotImplementedError, RuntimeError)
_DAMAGED = (*ZIP_DAMAGED, zstandard.ZstdError, EOFError)


class SkippedFrame:
    """A frame of zstd that holds nothing of the content; has what `decompressobj` has."""

    def __init__(self) -> None:
        self.eof = False
        self.unused_data = b""
        self._head = b""
        self._left = 0  # bytes, once the head is known

    def decompress(self, chunk: bytes) -> bytes:
        """Nothing; `unused_data` is what follows the frame."""
        missing = 8 - len(self._head)
        if missing > 0:
            self._head += chunk[:missing]
            chunk = chunk[missing:]
            self._left = int.from_bytes(self._head[4:], "little")
        self.unused_data = chunk[self._left :]
        self._left = max(0, self._left - len(chunk))
        self.eof = len(self._head) == 8 and not self._left
        return b""


def is_skipped(head: bytes) -> bool:
    """Whether bytes begin a frame of zstd that is to be passed over."""
    return head[1:4] == SKIPPED_MAGIC and head[0] >> 4 == 5


def _decompressor(head: bytes) -> Any:
    if head.startswith(GZIP_MAGIC):
        return zlib.decompressobj(31)
    if is_skipped(head):
        return SkippedFrame()
    return zstandard.ZstdDecompressor().decompressobj() if head.startswith(ZSTD_MAGIC) else None


def is_zip(path: Path) -> bool:
    """Whether the file's first bytes are a zip's; raises UnreadableError."""
    return packed_head(path, len(ZIP_MAGIC)) == ZIP_MAGIC


def packed_head(path: Path, size: int) -> bytes:
    """The first bytes as they lie in the file; raises UnreadableError."""
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror or error}") from error


def read_blocks(path: Path) -> Iterator[bytes]:
    """Yield the file's content in blocks of no fixed size; gzip and zstd of several members are joined; a zip holds one file.

    Raises UnreadableError (cannot be opened, damaged) and TruncatedError, the latter after all that was readable.
    """
    try:
        with path.open("rb") as file:
            chunk = file.read(PACKED_BYTES)
            if chunk.startswith(ZIP_MAGIC):
                yield from _zip_blocks(path)
                return
            unpack, gzipped = _decompressor(chunk), chunk.startswith(GZIP_MAGIC)
            while chunk:
                if unpack is None:
                    yield chunk
                    chunk = file.read(READ_BYTES)
                    continue
                yield unpack.decompress(chunk)
                chunk = _followed(file, unpack.unused_data, gzipped and unpack.eof)  # members behind the one that ended; all of them before more is read
                if unpack.eof and chunk:
                    unpack, gzipped = _next_member(path, chunk), chunk.startswith(GZIP_MAGIC)
            if unpack is not None and not unpack.eof:
                raise TruncatedError(f"{path.name} is cut off: its compressed data has no end")
    except _DAMAGED as error:
        raise UnreadableError(f"{path.name} is damaged: {error}") from error
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror or error}") from error


def _followed(file: IO[bytes], chunk: bytes, padded: bool) -> bytes:
    """`chunk`, enough of it to tell a member by, read on where it has less; zeros before it left out if it may be `padded`."""
    while True:
        chunk = chunk.lstrip(b"\0") if padded else chunk
        if len(chunk) >= len(ZSTD_MAGIC):
            return chunk
        more = file.read(PACKED_BYTES)
        chunk += more
        if not (padded and more):
            return chunk


def _zip_blocks(path: Path) -> Iterator[bytes]:
    """The one file in a zip; its checksum is looked at when the last block was read."""
    if not zipfile.is_zipfile(path):
        raise TruncatedError(f"{path.name} is cut off: its zip directory, which stands at the end, is missing")
    with zipfile.ZipFile(path) as archive:
        inside = [info for info in archive.infolist() if not info.filename.endswith("/")]  # `is_dir` fails on one without a name
        if len(inside) != 1:
            raise UnreadableError(f"{path.name} holds {len(inside)} files; a zip is read where it holds one")
        with archive.open(inside[0]) as file:
            while block := file.read(READ_BYTES):
                yield block


def _next_member(path: Path, chunk: bytes) -> Any:
    unpack = _decompressor(chunk)
    if unpack is None:
        raise UnreadableError(f"{path.name} is damaged: something that is not compressed data follows its end")
    return unpack


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield lines without their end; a last line cut off with its file is not one. Raises what `read_blocks` raises."""
    for lines in read_line_lists(path):
        yield from lines


def read_line_lists(path: Path) -> Iterator[list[bytes]]:
    """`read_lines`, a block's lines at a time."""
    tail = b""
    for block in read_blocks(path):
        lines = block.split(b"\n")
        if len(lines) == 1:
            tail += block
            if len(tail) > LINE_BYTES_MAX:
                raise UnreadableError(f"{path.name} has a line of over {LINE_BYTES_MAX} bytes")
            continue
        lines[0] = tail + lines[0]
        tail = lines.pop()
        yield lines
    if tail:
        yield [tail]


def read_head(path: Path, size: int, lines: int = 1 << 62) -> bytes:
    """The first `size` decompressed bytes, fewer where the file has no more or is damaged behind them, or where they hold `lines` lines.

    Raises UnreadableError.
    """
    head, ends = b"", 0
    try:
        for block in read_blocks(path):
            head += block
            ends += block.count(b"\n")
            if len(head) >= size or ends >= lines:
                break
    except (TruncatedError, UnreadableError):
        if not head:  # else the head of a damaged file tells its format as well as a whole one's
            raise
    return head[:size]
