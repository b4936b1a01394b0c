"""Shared-memory segments: files in /dev/shm that carry their owner in their name and their layout in their first page.

    0        8        12           16           24         32          40            48          112           4096
    | magic  | version| page bytes | layout hash| owner pid| its start | payload bytes| kind name| zeros       | payload …

Made by os.open, posix_fallocate and mmap. `multiprocessing.shared_memory` will not do: on Python 3.11 it unlinks a segment when
a *reader* exits, and its sparse file dies of SIGBUS when /dev/shm is full; here every page exists before anybody sees the name.
The file is written under a dotted name and linked to its own when complete, so that nobody can attach to half of one.

A name is `tickline-<pid>-<run>-<edge>`. The owner is that pid together with its start time, because pids are reused. Whoever is
killed leaves its segments behind; `sweep`, at the next start, removes those whose owner is dead. Processes that still have one
mapped keep it: a name goes, memory stays until the last mapping does. (Containers that share one /dev/shm must share their pid
namespace as well, or one would take the other's owners for dead.)
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

from transport.errors import LayoutError, SegmentError
from transport.records import LAYOUT_HASH

SHM = Path("/dev/shm")
PAGE_BYTES = 4096
MAGIC = b"TICKLINE"
VERSION = 1
KIND_BYTES = 64
NAME_BYTES_MAX = 255  # NAME_MAX of tmpfs

_HEADER = struct.Struct(f"<8sIIQqqQ{KIND_BYTES}s")
_WORD = re.compile(r"[A-Za-z0-9_.-]+")
_OURS = re.compile(r"\.?tickline-(\d+)-.+")
_NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.ENOMEM, errno.EDQUOT)


class Header(NamedTuple):
    """The first page, as far as it is used."""

    magic: bytes
    version: int
    page_bytes: int
    layout_hash: int
    owner_pid: int
    owner_start: int  # clock ticks after boot, /proc/pid/stat
    payload_bytes: int
    kind: bytes

    @property
    def kind_name(self) -> str:
        return self.kind.rstrip(b"\0").decode("ascii", "replace")


def process_start(pid: int) -> int:
    """When process `pid` started, in clock ticks after boot (> 0); 0 when there is none, or only its zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = text.rpartition(")")[2].split()  # the command's name, in parentheses, may hold anything
    return 0 if fields[0] in "ZX" else int(fields[19])


def is_alive(pid: int, start: int) -> bool:
    """Whether the process that started at `start` still runs; one that was given its pid later does not count."""
    return start > 0 and process_start(pid) == start


def as_word(text: str) -> str:
    """`text` as a word of a segment's name: other characters replaced, cut to 64, never empty."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:64] or "run"


def segment_name(run: str, edge: str, pid: int | None = None) -> str:
    """`tickline-<pid>-<run>-<edge>`, of this process unless told; raises ValueError for a word that is no file name."""
    for word in (run, edge):
        if not _WORD.fullmatch(word):
            raise ValueError(f"{word!r} cannot be part of a segment's name: use letters, digits, '_', '.' and '-'")
    name = f"tickline-{os.getpid() if pid is None else pid}-{run}-{edge}"
    if len(name) > NAME_BYTES_MAX - 1:  # one byte for the dot it is made under
        raise ValueError(f"segment name of {len(name)} characters, at most {NAME_BYTES_MAX - 1} fit: {name}")
    return name


class Segment:
    """One mapping of a segment: a page of header, then `payload`, zeroed when made and in memory before it is used.

    Arrays over `payload` keep the mapping alive: `close` lets go of ours, the memory is unmapped when the last array goes.
    As a context manager it closes, and unlinks when it was created here.
    """

    def __init__(self, name: str, mapping: mmap.mmap, header: Header, created: bool, folder: Path) -> None:
        self.name, self.header, self.folder = name, header, folder
        self._mapping: mmap.mmap | None = mapping
        self._payload: memoryview | None = memoryview(mapping)[PAGE_BYTES : PAGE_BYTES + header.payload_bytes]
        self._created_by = os.getpid() if created else 0

    @classmethod
    def create(
        cls, run: str, edge: str, kind: str, payload_bytes: int,
        fill: Callable[[memoryview], None] | None = None, folder: Path = SHM,
    ) -> Self:  # fmt: skip
        """Make and own a segment; `fill` writes what the payload must hold before anybody can attach.

        Raises SegmentError when the name is taken or memory is short, ValueError for a bad name, kind or size.
        """
        encoded = kind.encode()
        if not 0 < len(encoded) <= KIND_BYTES or payload_bytes <= 0:
            raise ValueError(
                f"a segment needs a kind of 1 to {KIND_BYTES} bytes and a payload: {kind!r}, {payload_bytes}"
            )
        name = segment_name(run, edge)
        start = process_start(os.getpid())
        header = Header(
            MAGIC, VERSION, PAGE_BYTES, LAYOUT_HASH, os.getpid(), start, payload_bytes, encoded.ljust(KIND_BYTES, b"\0")
        )
        hidden = folder / f".{name}"
        mapping = _allocate(hidden, PAGE_BYTES + payload_bytes)
        try:
            _HEADER.pack_into(mapping, 0, *header)
            segment = cls(name, mapping, header, True, folder)
            if fill is not None:
                fill(segment.payload)
            _show(hidden, folder / name)
        finally:
            hidden.unlink(missing_ok=True)
        return segment

    @classmethod
    def attach(cls, name: str, kind: str | None = None, writable: bool = True, folder: Path = SHM) -> Self:
        """Map an existing segment, of `kind` when one is named.

        Raises LayoutError when it holds other records, another kind or is not ours; SegmentError when missing or cut short.
        """
        mapping = _map(folder / name, writable)
        try:
            header = _checked(name, mapping, kind)
        except BaseException:
            mapping.close()
            raise
        return cls(name, mapping, header, False, folder)

    @property
    def payload(self) -> memoryview:
        """The bytes after the header, read-only when attached so; raises SegmentError once closed."""
        if self._payload is None:
            raise SegmentError(f"segment {self.name} is closed here: attach to it again")
        return self._payload

    def owner_alive(self) -> bool:
        """Whether the process that made it still runs."""
        return is_alive(self.header.owner_pid, self.header.owner_start)

    def close(self) -> None:
        """Let go of the mapping; the name stays for others. Doing it twice is doing it once."""
        mapping, payload = self._mapping, self._payload
        self._mapping = self._payload = None
        if mapping is not None and payload is not None:
            with contextlib.suppress(BufferError):  # an array still looks at it: it is unmapped when the array goes
                payload.release()
                mapping.close()

    def unlink(self) -> None:
        """Take the name away; who has it mapped keeps the memory. Doing it twice is doing it once."""
        (self.folder / self.name).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()
        if self._created_by == os.getpid():
            self.unlink()


def _allocate(path: Path, total_bytes: int) -> mmap.mmap:
    """A new file with every page present, mapped and touched, so that no page fault waits for the line."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as taken:
        raise SegmentError(f"{path} is being made by this process already: give the edge another name") from taken
    try:
        os.posix_fallocate(handle, 0, total_bytes)
        return mmap.mmap(handle, total_bytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    except OSError as refused:
        path.unlink()
        if refused.errno not in _NO_ROOM:
            raise
        raise SegmentError(_no_room(path, total_bytes)) from refused
    finally:
        os.close(handle)


def _no_room(path: Path, total_bytes: int) -> str:
    free = os.statvfs(path.parent)
    return (
        f"{path.parent} has {free.f_bavail * free.f_frsize:,} bytes free, segment {path.name.lstrip('.')} needs {total_bytes:,}: "
        "remove what other runs left there, take smaller rings, or enlarge it "
        "(`mount -o remount,size=…`; in a container `--shm-size`)"
    )


def _show(hidden: Path, path: Path) -> None:
    """Give the finished file its name; link, unlike rename, never replaces another."""
    try:
        os.link(hidden, path)
    except FileExistsError as taken:
        raise SegmentError(f"segment {path.name} exists: give this run or edge another name, or unlink it") from taken


def _map(path: Path, writable: bool) -> mmap.mmap:
    try:
        handle = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    except FileNotFoundError as missing:
        raise SegmentError(
            f"no segment {path.name} in {path.parent}: start its owner, or correct the name"
        ) from missing
    except PermissionError as refused:
        raise SegmentError(f"segment {path.name} belongs to another user: run both as one user") from refused
    try:
        total_bytes = os.fstat(handle).st_size
        if total_bytes < PAGE_BYTES:
            raise SegmentError(_cut_short(path.name, total_bytes, PAGE_BYTES))
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        return mmap.mmap(handle, total_bytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=access)
    finally:
        os.close(handle)


def _cut_short(name: str, found_bytes: int, needed_bytes: int) -> str:
    return (
        f"segment {name} is too small, {found_bytes:,} bytes where its header asks for {needed_bytes:,}: "
        "something cut it; stop its run, remove it and start again"
    )


def _checked(name: str, mapping: mmap.mmap, kind: str | None) -> Header:
    """The header, once it is ours, of our layout, of the wanted kind and whole."""
    header = Header(*_HEADER.unpack_from(mapping, 0))
    if header.magic != MAGIC:
        raise LayoutError(f"segment {name} is not ours: it begins with {header.magic!r}, not {MAGIC!r}")
    if (header.version, header.page_bytes) != (VERSION, PAGE_BYTES):
        raise LayoutError(
            f"segment {name} has format {header.version} with a page of {header.page_bytes}, "
            f"this program reads {VERSION} with {PAGE_BYTES}: run both ends from one version"
        )
    if header.layout_hash != LAYOUT_HASH:
        raise LayoutError(
            f"segment {name} holds records of layout {header.layout_hash:016x}, this program's is {LAYOUT_HASH:016x}: "
            "run both ends from one version"
        )
    if kind is not None and header.kind_name != kind:
        raise LayoutError(f"segment {name} is a {header.kind_name}, not a {kind}")
    if len(mapping) < PAGE_BYTES + header.payload_bytes:
        raise SegmentError(_cut_short(name, len(mapping), PAGE_BYTES + header.payload_bytes))
    return header


def _orphans(folder: Path) -> Iterator[Path]:
    """Files named as ours whose owner is dead; one whose header is another program's is not ours whatever its name."""
    for path in sorted(folder.iterdir()):
        match = _OURS.fullmatch(path.name)
        if match is None:
            continue
        pid = int(match[1])
        try:
            with path.open("rb") as file:
                head = file.read(_HEADER.size)
        except OSError:  # gone meanwhile, or another user's
            continue
        if len(head) == _HEADER.size and head.startswith(MAGIC):
            header = Header(*_HEADER.unpack(head))
            if not is_alive(header.owner_pid, header.owner_start):
                yield path
        elif path.name.startswith(".") and not process_start(pid):  # killed before it wrote the header
            yield path


def sweep(folder: Path = SHM) -> list[str]:
    """Remove every segment whose owner is dead and return their names, sorted."""
    removed = []
    for path in _orphans(folder):
        with contextlib.suppress(OSError):
            path.unlink()
            removed.append(path.name)
    return removed
