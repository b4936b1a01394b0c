"""A DBN file taken apart: its metadata, and its records as arrays.

    "DBN" version:u8 length:u32 | metadata | record record …        each record begins with its own length in words of 4 bytes

The metadata is decoded by `databento_dbn`, which also declares the layout of a record; its decoder makes an object of each record,
which is slow, so the records are viewed as arrays instead. Source: Databento, DBN encoding, versions 1 to 3 (2024).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import databento_dbn as dbn
import numpy as np
from numpy.typing import NDArray

from handlers.ingest.blocks import read_blocks
from handlers.ingest.errors import FeedError, NotAFeedError, TruncatedError, UnreadableError

MAGIC = b"DBN"
MBO: np.dtype[Any] = np.dtype(dbn.MBOMsg._dtypes)
RTYPE_MBO = 160
RECORD_BYTES_MIN = 16  # the header of every record
BLOCK_BYTES = 1 << 22
_PREFIX = 8
_METADATA_BYTES_MAX = 1 << 28  # a file of every listed option has some 100 MB
assert MBO.itemsize == 56, "databento_dbn declares another MBO record than the one this reader knows"


def read_metadata(path: Path) -> dbn.Metadata:
    """Raises NotAFeedError (not DBN, or a schema other than MBO), TruncatedError, UnreadableError."""
    return next(_parts(path))[0]


class Block(NamedTuple):
    """MBO records that follow one another in a file, and what stood between them."""

    records: np.ndarray[Any, Any]  # dtype MBO
    ordinal: NDArray[np.int64]  # of each among all records of the block
    total: int  # records of any type
    other: str  # the first of another type in words, "" when there is none
    rest: bytes  # of a record not yet whole
    damaged: bool  # `rest` is no record


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
        block = _split(b"".join(pending))
        pending = [block.rest]
        yield block
        if block.damaged:
            raise UnreadableError(f"{path.name} is damaged: a record claims a length of under {RECORD_BYTES_MIN} bytes")
    if failure or pending[0]:
        raise failure or TruncatedError(f"{path.name} is cut off within a record")


def _parts(path: Path) -> Iterator[tuple[Any, bytes]]:
    """First (metadata, bytes behind it), then (None, block) for all further bytes; raises as `read_metadata`."""
    head = b""
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
    yield _metadata(path, head[:need]), head[need:]
    for block in blocks:
        yield None, block


def _metadata(path: Path, head: bytes) -> dbn.Metadata:
    try:
        metadata = dbn.Metadata.decode(head)
    except (dbn.DBNError, ValueError) as error:
        raise NotAFeedError(f"{path.name}: its DBN metadata cannot be read: {error}") from error
    if metadata.schema != dbn.Schema.MBO:
        raise NotAFeedError(f"{path.name} holds DBN schema {metadata.schema or 'mixed'}; the engine reads mbo")
    return metadata


def _split(data: bytes) -> Block:
    count = len(data) // MBO.itemsize
    records = np.frombuffer(data, MBO, count)
    if np.all(records["length"] * 4 == MBO.itemsize) and np.all(records["rtype"] == RTYPE_MBO):
        return Block(records, np.arange(count), count, "", data[count * MBO.itemsize :], damaged=False)
    return _walk(data)


def _walk(data: bytes) -> Block:
    """As `_split`, record by record: live captures have system and mapping records between the MBO ones."""
    kept: list[bytes] = []
    index: list[int] = []
    other, total, at, damaged = "", 0, 0, False
    while at + 2 <= len(data):
        size = data[at] * 4
        damaged = size < RECORD_BYTES_MIN
        if damaged or at + size > len(data):
            break
        if data[at + 1] == RTYPE_MBO and size >= MBO.itemsize:
            kept.append(data[at : at + MBO.itemsize])
            index.append(total)
        else:
            other = other or f"a record of type {data[at + 1]}"
        total += 1
        at += size
    return Block(np.frombuffer(b"".join(kept), MBO), np.array(index, np.int64), total, other, data[at:], damaged)
