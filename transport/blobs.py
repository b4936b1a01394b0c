"""Blobs: cold content (configuration, instrument table, model manifest) kept beside the log under its hash.

    folder/<64 hex digits of SHA-256>

A blob is on the disk before a record that refers to it is sequenced; the record carries the short id, the hash's first 8 bytes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from transport.disk import make_folder, sync_folder, write_whole
from transport.errors import DamagedError

BLOB_BYTES_MAX = 2**28  # 256 MiB: a manifest is kilobytes, folded weights are megabytes
SHORT_BYTES = 8


def short_id(sha: str) -> int:
    """The signed 64-bit id that records carry for the hash `sha` (hex)."""
    return int.from_bytes(bytes.fromhex(sha)[:SHORT_BYTES], "little", signed=True)


def put(folder: Path | str, data: bytes) -> tuple[str, int]:
    """Store `data`, synced before this returns; gives its SHA-256 (hex) and short id.

    Raises ValueError beyond BLOB_BYTES_MAX, StorageError when the disk refuses, DamagedError when another blob has the same
    short id.
    """
    if len(data) > BLOB_BYTES_MAX:
        raise ValueError(f"a blob has at most {BLOB_BYTES_MAX} bytes, this one {len(data)}")
    folder = Path(folder)
    sha = hashlib.sha256(data).hexdigest()
    path = folder / sha
    make_folder(folder)
    twins = [name for name in _names(folder, sha[: 2 * SHORT_BYTES]) if name != sha]
    if twins:
        raise DamagedError(f"{path} and {twins[0]} have the same short id")
    if not path.is_file() or path.read_bytes() != data:
        write_whole(path, [data], durable=True)
    sync_folder(folder)  # also for a blob that another writer has renamed but not yet synced
    return sha, short_id(sha)


def get(folder: Path | str, sha: str) -> bytes:
    """The blob of this hash; raises DamagedError when it is absent or its bytes have another hash."""
    path = Path(folder) / sha
    if len(sha) != 64 or not set(sha) <= set("0123456789abcdef"):
        raise ValueError(f"{sha!r} is not a SHA-256 in hex")
    if not path.is_file():
        raise DamagedError(f"{path}: the blob is missing")
    if path.stat().st_size > BLOB_BYTES_MAX:
        raise DamagedError(f"{path}: larger than a blob may be")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha:
        raise DamagedError(f"{path}: the bytes have another hash than the name says")
    return data


def find(folder: Path | str, short: int) -> bytes:
    """The blob whose short id a record carries; raises DamagedError as `get` does."""
    names = _names(Path(folder), short.to_bytes(SHORT_BYTES, "little", signed=True).hex())
    if len(names) != 1:
        raise DamagedError(f"{folder}: {len(names)} blobs have the short id {short}")
    return get(folder, names[0])


def _names(folder: Path, prefix: str) -> list[str]:
    return sorted(path.name for path in folder.glob(prefix + "*") if len(path.name) == 64)
