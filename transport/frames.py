"""How a log lies on disk: segment files of a header, frames and, once sealed, a seal.

    folder/name/00000000.seg    | header 256 | frame | frame | … | seal 328 |      sealed: whole blocks, LZ4 over them
    folder/name/00000001.open   | header 256 | frame | frame | …                   the one being written

    header   magic, version, layout hash, segment, first row, digest before, log name, run id, sum
    frame    | magic | flags | rows | bytes | first row | bytes before LZ4 | chain digest | sum |  72 bytes, then the payload
    seal     magic, final, blocks, rows before the end, digest, signature, sum

Every byte of a file is under one xxh3-64 sum: a header's, a seal's, or a frame's, which covers its head and its payload. Sums
find damage; the chain digest finds a change that mends the sums, as long as the head digest is kept elsewhere. `signature` is
the place for a signature of the digest (zero when none was asked for); the run id stands outside every hash of the log.

A *partial* frame holds rows of a block that is not full yet, as flush() left them. The whole block follows in a later frame
and then counts instead: appending is all that ever happens to an open segment, so a crash can only cut its end.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from typing import NamedTuple

import lz4.block
import xxhash

from transport.errors import DamagedError, LayoutError
from transport.pack import BLOCK_ROWS, Bytes, packed_bytes_max
from transport.records import LAYOUT_HASH, SLOT_BYTES

VERSION = 1
PACKED, LZ4, REFERENCE, PARTIAL = 1, 2, 4, 8
FRAME_MAGIC = 0x4B4C4254  # "TBLK"
FRAME_MARK = FRAME_MAGIC.to_bytes(4, "little")
HEADER_MAGIC, SEAL_MAGIC = b"TICKLOG\0", b"TICKSEAL"
HEADER = struct.Struct("<8sIIQQQ32s32s64s80x")  # and its sum
FRAME = struct.Struct("<IIIIQI4x32s")  # and its sum
SEAL = struct.Struct("<8sIIQ32sI4x256s")  # and its sum
SUM = struct.Struct("<Q")
HEADER_BYTES, FRAME_BYTES, SEAL_BYTES = HEADER.size + 8, FRAME.size + 8, SEAL.size + 8
NAME_BYTES, RUN_ID_BYTES, SIGNATURE_BYTES_MAX = 32, 64, 256
PAYLOAD_BYTES_MAX = 2 * packed_bytes_max(BLOCK_ROWS)  # a block by reference of nothing but own rows, each a run


Data = bytes | mmap.mmap  # of a segment


class Header(NamedTuple):
    """Head of a segment."""

    number: int  # of the segment in the log
    first_row: int
    digest: bytes  # of the chain before the segment
    name: str
    run_id: str


class Frame(NamedTuple):
    """Head of a frame, and where its payload lies in the file."""

    at: int
    flags: int
    rows: int
    size: int  # payload as stored
    first_row: int
    full_size: int  # payload before LZ4
    digest: bytes  # of the chain after the block; of a partial frame, before it

    @property
    def end(self) -> int:
        return self.at + FRAME_BYTES + self.size


class Seal(NamedTuple):
    """End of a sealed segment."""

    final: bool  # the log was closed here
    blocks: int
    end_row: int
    digest: bytes
    signature: bytes


def xxh3(*parts: Bytes) -> int:
    """xxh3-64 of the parts, one after the other."""
    total = xxhash.xxh3_64()
    for part in parts:
        total.update(part)
    return total.intdigest()


def _summed(head: bytes) -> bytes:
    return head + SUM.pack(xxh3(head))


def _sum_holds(data: bytes) -> bool:
    return SUM.unpack(data[-8:])[0] == xxh3(data[:-8])


def encode_header(header: Header) -> bytes:
    """The first HEADER_BYTES of a segment."""
    name, run_id = header.name.encode(), header.run_id.encode()
    return _summed(
        HEADER.pack(
            HEADER_MAGIC,
            VERSION,
            HEADER_BYTES,
            LAYOUT_HASH,
            header.number,
            header.first_row,
            header.digest,
            name,
            run_id,
        )
    )


def decode_header(data: bytes) -> Header:
    """Raises DamagedError for bytes that are no header, LayoutError for one of another version or record layout."""
    if len(data) < HEADER_BYTES or not _sum_holds(data[:HEADER_BYTES]) or data[:8] != HEADER_MAGIC:
        raise DamagedError("the segment's header is damaged")
    _, version, _, layout, number, first_row, digest, name, run_id = HEADER.unpack_from(data)
    if version != VERSION:
        raise LayoutError(f"segment of version {version}, this program reads version {VERSION}")
    if layout != LAYOUT_HASH:
        raise LayoutError(f"segment of record layout {layout:016x}, this program has {LAYOUT_HASH:016x}")
    return Header(number, first_row, digest, name.rstrip(b"\0").decode(), run_id.rstrip(b"\0").decode())


def encode_seal(seal: Seal) -> bytes:
    """The last SEAL_BYTES of a sealed segment; raises ValueError for a signature beyond SIGNATURE_BYTES_MAX."""
    if len(seal.signature) > SIGNATURE_BYTES_MAX:
        raise ValueError(f"a signature has at most {SIGNATURE_BYTES_MAX} bytes, this one {len(seal.signature)}")
    flags = int(seal.final)
    size = len(seal.signature)
    return _summed(SEAL.pack(SEAL_MAGIC, flags, seal.blocks, seal.end_row, seal.digest, size, seal.signature))


def decode_seal(data: bytes) -> Seal:
    """Raises DamagedError for bytes that are no seal."""
    if len(data) < SEAL_BYTES or not _sum_holds(data[-SEAL_BYTES:]) or data[-SEAL_BYTES:][:8] != SEAL_MAGIC:
        raise DamagedError("the segment's seal is damaged or missing")
    _, flags, blocks, end_row, digest, size, signature = SEAL.unpack_from(data, len(data) - SEAL_BYTES)
    return Seal(bool(flags), blocks, end_row, digest, signature[:size])


def frame_head(flags: int, rows: int, first_row: int, full_size: int, digest: bytes, payload: Bytes) -> bytes:
    """The FRAME_BYTES before `payload`."""
    head = FRAME.pack(FRAME_MAGIC, flags, rows, memoryview(payload).nbytes, first_row, full_size, digest)
    return head + SUM.pack(xxh3(head, payload))


def compressed(data: bytes, frame: Frame) -> bytes:
    """The frame with LZ4 over its payload where that makes it smaller, head and payload."""
    body = data[frame.at + FRAME_BYTES : frame.end]
    if not frame.flags & LZ4:
        small = lz4.block.compress(body, store_size=False)
        if len(small) < len(body):
            flags = frame.flags | LZ4
            return frame_head(flags, frame.rows, frame.first_row, len(body), frame.digest, small) + small
    return data[frame.at : frame.end]


def frame_at(data: Data, at: int, end: int, check: bool) -> Frame | None:
    """The frame at `at` of data[:end], or None where there is no whole one; its sum is looked at only to `check`."""
    if at + FRAME_BYTES > end:
        return None
    magic, flags, rows, size, first_row, full_size, digest = FRAME.unpack_from(data, at)
    frame = Frame(at, flags, rows, size, first_row, full_size, digest)
    if magic != FRAME_MAGIC or not 0 < rows <= BLOCK_ROWS or full_size > PAYLOAD_BYTES_MAX or frame.end > end:
        return None
    return frame if not check or frame_sum_holds(data, frame) else None


def frame_sum_holds(data: Data, frame: Frame) -> bool:
    """True where head and payload of the frame are as they were written."""
    view = memoryview(data)
    body = frame.at + FRAME_BYTES
    return bool(SUM.unpack_from(data, body - 8)[0] == xxh3(view[frame.at : body - 8], view[body : frame.end]))


def frames_of(data: Data, end: int, check: bool) -> Iterator[Frame | tuple[int, int]]:
    """The frames of data[HEADER_BYTES:end]; where there is none, the (start, end) of the bytes that had to be skipped."""
    at = HEADER_BYTES
    while at < end:
        frame = frame_at(data, at, end, check)
        if frame is not None:
            yield frame
            at = frame.end
            continue
        following = _next_frame(data, at + 1, end)
        yield at, following
        at = following


def _next_frame(data: Data, at: int, end: int) -> int:
    while (at := data.find(FRAME_MARK, at, end)) >= 0:
        if frame_at(data, at, end, check=True) is not None:
            return at
        at += 1
    return end


def payload_of(data: Data, frame: Frame) -> bytes:
    """The frame's payload before LZ4; raises DamagedError when its sum does not hold or LZ4 refuses it."""
    if not frame_sum_holds(data, frame):
        raise DamagedError("the sum does not hold")
    body = data[frame.at + FRAME_BYTES : frame.end]
    if frame.flags & LZ4:
        try:
            body = lz4.block.decompress(body, uncompressed_size=frame.full_size)
        except lz4.block.LZ4BlockError as error:
            raise DamagedError(f"LZ4 refuses the payload: {error}") from error
    if len(body) != frame.full_size or (frame.flags == PARTIAL and len(body) != frame.rows * SLOT_BYTES):
        raise DamagedError("the payload has another length than its head says")
    return body
