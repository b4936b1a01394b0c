"""Blobs: found by their hash or by the short id in a record, and never believed unless the hash holds."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from transport import blobs, disk
from transport.errors import DamagedError


def test_a_blob_comes_back_by_hash_and_by_short_id(tmp_path: Path) -> None:
    data = b"tick = 0.01\n" * 100
    sha, short = blobs.put(tmp_path / "blobs", data)
    assert sha == hashlib.sha256(data).hexdigest()
    assert short == int.from_bytes(hashlib.sha256(data).digest()[:8], "little", signed=True) == blobs.short_id(sha)
    assert blobs.get(tmp_path / "blobs", sha) == data
    assert blobs.find(tmp_path / "blobs", short) == data
    assert blobs.put(tmp_path / "blobs", data) == (sha, short)
    assert [p.name for p in (tmp_path / "blobs").iterdir()] == [sha]


def test_a_blob_is_synced_before_put_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def watch(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(disk.os, "fsync", watch)
    sha, _ = blobs.put(tmp_path, b"x")
    assert synced[0] == str(tmp_path / f"{sha}.tmp")
    assert synced[-1] == str(tmp_path)


def test_damaged_and_missing_blobs_are_refused_and_a_damaged_one_is_mended_by_put(tmp_path: Path) -> None:
    sha, short = blobs.put(tmp_path, b"weights")
    (tmp_path / sha).write_bytes(b"weighty")
    with pytest.raises(DamagedError, match="another hash"):
        blobs.get(tmp_path, sha)
    with pytest.raises(DamagedError, match="another hash"):
        blobs.find(tmp_path, short)
    assert blobs.put(tmp_path, b"weights") == (sha, short)
    assert blobs.get(tmp_path, sha) == b"weights"
    with pytest.raises(DamagedError, match="missing"):
        blobs.get(tmp_path, "0" * 64)
    with pytest.raises(DamagedError, match="0 blobs"):
        blobs.find(tmp_path, 1)
    with pytest.raises(ValueError, match="SHA-256"):
        blobs.get(tmp_path, "../secrets")


def test_a_blob_beyond_its_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "BLOB_BYTES_MAX", 10)
    with pytest.raises(ValueError, match="at most 10 bytes"):
        blobs.put(tmp_path, b"x" * 11)
    assert not list(tmp_path.iterdir())
