"""A DBN file taken apart: its metadata, and its records as arrays.

    "DBN" version:u8 length:u32 | metadata | record record …        each record begins with its own length in words of 4 bytes

The metadata is decoded by `databento_dbn`, which also declares the layout of a record; its decoder makes an object of each record,
which is slow, so the records are viewed as arrays instead. Source: Databento, DBN encoding, versions 1 to 3 (2024).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import databento_dbn as dbn
import numpy as np

from handlers.ingest.blocks import read_blocks
from handlers.ingest.errors import FeedError, NotAFeedError, TruncatedError

MAGIC = b"DBN"
MBO: np.dtype[Any] = np.dtype(dbn.MBOMsg._dtypes)
RTYPE_MBO = 160
BLOCK_BYTES = 1 << 22
_PREFIX = 8
_METADATA_BYTES_MAX = 1 << 28  # a file of every listed option has some 100 MB
assert MBO.itemsize == 56, "databento_dbn declares another MBO record than the one this reader knows"


def read_metadata(path: Path) -> dbn.Metadata:
    """Raises NotAFeedError (not DBN, or a schema other than MBO), TruncatedError, UnreadableError."""
    return next(_parts(path))[0]


def read_records(path: Path) -> Iterator[tuple[np.ndarray[Any, Any], int, str]]:
    """Yield (MBO records, records of other types among them, the first of those in words) block by block.

    Raises TruncatedError after the last whole record of a file that ends within one, UnreadableError.
    """
    parts = _parts(path)
    _, rest = next(parts)
    for _, block in parts:
        rest += block
        if len(rest) >= BLOCK_BYTES:
            records, other, what, rest = _split(rest)
            yield records, other, what
    records, other, what, rest = _split(rest)
    yield records, other, what
    if rest:
        raise TruncatedError(f"{path.name} is cut off within a record")


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


def _split(data: bytes) -> tuple[np.ndarray[Any, Any], int, str, bytes]:
    """(whole MBO records, number of others, the first of them in words, bytes of a record not yet whole)."""
    count = len(data) // MBO.itemsize
    records = np.frombuffer(data, MBO, count)
    if np.all(records["length"] * 4 == MBO.itemsize) and np.all(records["rtype"] == RTYPE_MBO):
        return records, 0, "", data[count * MBO.itemsize :]
    return _walk(data)


def _walk(data: bytes) -> tuple[np.ndarray[Any, Any], int, str, bytes]:
    """As `_split`, record by record: live captures have system and mapping records between the MBO ones."""
    kept: list[bytes] = []
    other, what, at = 0, "", 0
    while at + 2 <= len(data):
        size = data[at] * 4
        if size < 16:
            raise FeedError(f"a DBN record claims a length of {size} bytes")
        if at + size > len(data):
            break
        if data[at + 1] == RTYPE_MBO and size >= MBO.itemsize:
            kept.append(data[at : at + MBO.itemsize])
        else:
            other += 1
            what = what or f"a record of type {data[at + 1]}"
        at += size
    return np.frombuffer(b"".join(kept), MBO), other, what, data[at:]
