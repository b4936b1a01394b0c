"""Writing files so that what is on disk is whole or absent, and a full disk is an error that says what to do."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from transport.errors import StorageError
from transport.pack import Bytes


def refused(path: Path, error: OSError, advice: str = "make room there and call again") -> StorageError:
    """The StorageError for a write to `path` that the system refused."""
    return StorageError(f"{path}: {error.strerror or error}; {advice}")


def write_all(fd: int, data: Bytes, path: Path) -> None:
    """Write every byte, however few the system takes at once; raises StorageError, part of `data` then written."""
    rest = memoryview(data).cast("B")
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except OSError as error:
            raise refused(path, error) from error


def sync(fd: int, path: Path) -> None:
    """Wait until the file is on the disk itself; raises StorageError, after which its state is unknown."""
    try:
        os.fsync(fd)
    except OSError as error:
        raise refused(path, error, "what was not yet synced may be lost") from error


def sync_folder(folder: Path) -> None:
    """Make names created, renamed or removed in `folder` survive a power loss."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync(fd, folder)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents; raises StorageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(folder, error, "choose a folder that may be written") from error


def write_whole(path: Path, parts: list[Bytes], *, durable: bool) -> None:
    """Write `parts` as the file `path`: under another name first, then renamed, so that a reader finds all of it or none."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    except OSError as error:
        raise refused(path, error) from error
    try:
        try:
            for part in parts:
                write_all(fd, part, path)
            if durable:
                sync(fd, path)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if durable:
        sync_folder(path.parent)
