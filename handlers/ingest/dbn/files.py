"""A DBN file taken apart: its metadata, and where each of its records lies.

    "DBN" version:u8 length:u32 | metadata | record record …        each record begins with its own length in words of 4 bytes

The metadata is decoded by `databento_dbn`; its decoder of records makes an object of each, which is slow, so that records are viewed
as arrays where they lie. Source: Databento, DBN encoding, versions 1 to 3 (2024).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import databento_dbn as dbn
import numpy as np
from numpy.typing import NDArray

from handlers.ingest.blocks import is_skipped, read_blocks
from handlers.ingest.errors import FeedError, NotAFeedError, TruncatedError, UnreadableError
from handlers.ingest.dbn.layouts import NO_LAYOUT, UNUSED, layout_of
from handlers.ingest.dbn.walk import RECORD_BYTES_MIN, find_records

MAGIC = b"DBN"
DBZ_MAGIC = b"DBZ"  # behind the 8 bytes with which a zstd frame that is passed over begins
_VERSIONS = (1, 2, 3)
BLOCK_BYTES = 1 << 22
_PREFIX = 8
_METADATA_BYTES_MAX = 1 << 28  # a file of every listed option has some 100 MB
Bytes = NDArray[np.uint8]


class Block(NamedTuple):
    """Whole records that follow one another in a file."""

    data: Bytes
    at: NDArray[np.int64]  # where each begins
    rest: bytes  # of a record not yet whole
    damaged: bool  # `rest` is no record


def read_metadata(path: Path) -> dbn.Metadata:
    """Raises NotAFeedError (not DBN, or of a version that is not known), TruncatedError, UnreadableError."""
    return next(_parts(path))[0]


def read_records(path: Path) -> Iterator[Block]:
    """Yield blocks of some BLOCK_BYTES.

    Raises, after the last whole record, TruncatedError or UnreadableError for a file that ends within one or is damaged.
    """
    parts = _parts(path)
    pending = [next(parts)[1]]
    failure: FeedError | None = None
    more = True
    while more:
        try:
            pending.append(next(parts)[1])
        except StopIteration:
            more = False
        except FeedError as error:
            failure, more = error, False
        if more and sum(map(len, pending)) < BLOCK_BYTES:
            continue
        block = _split(bytearray().join(pending))
        pending = [block.rest]
        yield block
        if block.damaged:
            raise UnreadableError(f"{path.name} is damaged: a record claims a length of under {RECORD_BYTES_MIN} bytes")
    if failure or pending[0]:
        raise failure or TruncatedError(f"{path.name} is cut off within a record")


def _split(data: bytearray) -> Block:
    whole = np.frombuffer(data, np.uint8)
    at = np.empty(len(data) // RECORD_BYTES_MIN, np.int64)
    count, end, damaged = find_records(whole, at)
    return Block(whole, at[:count], bytes(data[end:]), bool(damaged))


def _parts(path: Path) -> Iterator[tuple[Any, bytes]]:
    """First (metadata, bytes behind it), then (None, block) for all further bytes; raises as `read_metadata`."""
    head = bytearray()
    blocks = read_blocks(path)
    need = _PREFIX
    for block in blocks:
        head += block
        if len(head) >= _PREFIX:
            need = _PREFIX + int.from_bytes(head[4:_PREFIX], "little")
            if not head.startswith(MAGIC) or need > _METADATA_BYTES_MAX:
                raise NotAFeedError(f"{path.name} is not a DBN file")
            if len(head) >= need:
                break
    if len(head) < need:
        raise TruncatedError(f"{path.name} is cut off within its metadata")
    yield _metadata(path, bytes(head[:need])), bytes(head[need:])
    for block in blocks:
        yield None, block


def _metadata(path: Path, head: bytes) -> dbn.Metadata:
    if head[len(MAGIC)] not in _VERSIONS:
        raise NotAFeedError(f"{path.name} is of DBN version {head[len(MAGIC)]}; the engine reads 1, 2 and 3")
    try:
        return dbn.Metadata.decode(head)
    except (dbn.DBNError, ValueError, OverflowError) as error:
        raise NotAFeedError(f"{path.name}: its DBN metadata cannot be read: {error}") from error


def viewed(data: Bytes, at: NDArray[np.int64], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """The records that begin at `at` in `data`, as an array of `dtype`: where they lie if they are evenly spaced, else a copy."""
    if len(at) == 0:
        return np.empty(0, dtype)
    steps = np.diff(at)
    step = int(steps[0]) if len(steps) else dtype.itemsize
    if np.all(steps == step):
        return np.ndarray((len(at),), dtype, data.data, int(at[0]), (step,))
    windows = np.lib.stride_tricks.sliding_window_view(data, dtype.itemsize)
    return windows[at].view(dtype).reshape(len(at))


def layouts(data: Bytes, at: NDArray[np.int64], schema: Any) -> NDArray[np.int64]:
    """Place in LAYOUTS of each record, or NO_LAYOUT."""
    codes = data[at + 1].astype(np.int64) << 8 | data[at]
    if len(codes) and np.all(codes == codes[0]):
        return np.full(len(codes), _layout_of_code(int(codes[0]), schema))
    known, inverse = np.unique(codes, return_inverse=True)
    return np.array([_layout_of_code(code, schema) for code in known.tolist()], np.int64)[inverse]


def present(layout: NDArray[np.int64]) -> list[int]:
    """The places in LAYOUTS that occur in `layout`."""
    assert NO_LAYOUT == -1
    return np.flatnonzero(np.bincount(layout + 1)[1:]).tolist()


def _layout_of_code(code: int, schema: Any) -> int:
    return layout_of(code >> 8, (code & 255) * 4, schema)


def unused(data: Bytes, at: NDArray[np.int64], layout: NDArray[np.int64]) -> list[tuple[str, int]]:
    """(words, how many) of each type of record that the engine does not use."""
    types, counts = np.unique(data[at[layout == NO_LAYOUT] + 1], return_counts=True)
    return [
        (f"a record of type {t}, {UNUSED[t]}" if t in UNUSED else f"a record of type {t}", n)
        for t, n in zip(types.tolist(), counts.tolist(), strict=True)
    ]


def told_fragment(packed: bytes, head: bytes) -> str:
    """What a file without the head of a DBN file is, in words, if it is a relative of one, by its first bytes, packed and unpacked; else ""."""
    if is_skipped(packed) and packed[8:11] == DBZ_MAGIC:
        return "DBZ, which DBN replaced; `dbn FILE --output NEW.dbn` by Databento turns it into DBN"
    if len(head) > RECORD_BYTES_MIN and layout_of(head[1], head[0] * 4, None) != NO_LAYOUT:
        return "a fragment of DBN records without the metadata that names dataset, schema and symbols; put the head of its file before it"
    return ""
