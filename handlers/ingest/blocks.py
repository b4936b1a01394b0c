"""Bytes of a recorded file, decompressed by what it is and not by its name, and the lines in them.

Captures are cut off when a recorder is killed, so whatever can be decompressed is yielded first; only then the error is raised.
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

from handlers.ingest.errors import TruncatedError, UnreadableError

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZIP_MAGIC = b"PK\x03\x04"
READ_BYTES = 1 << 16
PACKED_BYTES = 1 << 12  # of compressed data at a time: 4 bytes of zstd may say 128 KiB, and so a block has at most 128 MiB
LINE_BYTES_MAX = 1 << 26  # the longest recorded line, a snapshot of 1,000 levels a side, has 60 kB
# What zipfile raises for a damaged zip; the last three: a name that is no text, a method it does not know, a lock.
ZIP_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, UnicodeDecodeError, NotImplementedError, RuntimeError)
_DAMAGED = (*ZIP_DAMAGED, zstandard.ZstdError, EOFError)


def _decompressor(head: bytes) -> Any:
    if head.startswith(GZIP_MAGIC):
        return zlib.decompressobj(31)
    return zstandard.ZstdDecompressor().decompressobj() if head.startswith(ZSTD_MAGIC) else None


def is_zip(path: Path) -> bool:
    """Whether the file's first bytes are a zip's; raises UnreadableError."""
    try:
        with path.open("rb") as file:
            return file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
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
            unpack = _decompressor(chunk)
            while chunk:
                if unpack is None:
                    yield chunk
                    chunk = file.read(READ_BYTES)
                    continue
                yield unpack.decompress(chunk)
                chunk = unpack.unused_data  # members behind the one that ended; all of them before more is read
                if len(chunk) < len(ZSTD_MAGIC):
                    chunk += file.read(PACKED_BYTES)
                if unpack.eof and chunk:
                    unpack = _next_member(path, chunk)
            if unpack is not None and not unpack.eof:
                raise TruncatedError(f"{path.name} is cut off: its compressed data has no end")
    except _DAMAGED as error:
        raise UnreadableError(f"{path.name} is damaged: {error}") from error
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror or error}") from error


def _zip_blocks(path: Path) -> Iterator[bytes]:
    """The one file in a zip; its checksum is looked at when the last block was read."""
    if not zipfile.is_zipfile(path):
        raise TruncatedError(f"{path.name} is cut off: its zip directory, which stands at the end, is missing")
    with zipfile.ZipFile(path) as archive:
        inside = [info for info in archive.infolist() if not info.is_dir()]
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
