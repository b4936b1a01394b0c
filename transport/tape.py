"""Tapes: a recorded feed as one file of raw slots, mapped into memory and read as it lies there.

    | header 4096 | rows, 128 bytes each | xxh3-64 of every block of 4096 rows | instruments, JSON | provenance, JSON |

The header holds the record layout, the counts, the SHA-256 of what follows the rows, and `content`: the hash chain over the
packed rows (see `pack`), by the same rule as a log of the name "tape". It is under a sum of its own. The block sums name a
damaged block, the chain proves the whole. `instrument_id` of a row is an index into the tape's own instruments. A tape is
written under another name and renamed once whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from transport.blocks import Damage
from transport.disk import make_folder, refused, sync, sync_folder, write_all
from transport.errors import DamagedError, LayoutError, StorageError
from transport.frames import xxh3
from transport.instruments import Instrument
from transport.pack import (
    BLOCK_ROWS,
    WORDS,
    Bytes,
    Rows,
    chain_next,
    chain_start,
    new_scratch,
    pack_words,
    packed_bytes_max,
    words_of,
)
from transport.records import LAYOUT_HASH, REC, SLOT_BYTES, empty

VERSION = 1
MAGIC = b"TICKTAPE"
HEADER_BYTES = 4096  # a page: rows begin at a page's start
FACTS = struct.Struct("<8sIIQQQQQ32s32s")
SUM_AT = HEADER_BYTES - 8
TAIL_BYTES_MAX = 2**30
MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux: set no memory aside for copies never made
NO_INSTRUMENT = 2**32 - 1  # a row about the feed as a whole
CHAIN_NAME = "tape"
BLOCK_BYTES = BLOCK_ROWS * SLOT_BYTES


class Facts(NamedTuple):
    """What a tape's header says."""

    rows: int
    sums_bytes: int
    instruments_bytes: int
    provenance_bytes: int
    tail_sha: bytes
    content: bytes


class Content:
    """Sums and chain over the blocks of a tape, fed one canonical block after the other."""

    def __init__(self) -> None:
        self.sums: list[int] = []
        self.digest = chain_start(CHAIN_NAME)
        self._packed = np.empty(packed_bytes_max(BLOCK_ROWS), np.uint8)
        self._scratch = new_scratch()

    def add(self, words: Rows, first: int, count: int) -> None:
        """Take the block of `count` records from record `first` of `words`."""
        self.sums.append(xxh3(words[first * WORDS : (first + count) * WORDS]))
        size = int(pack_words(words, first, count, self._packed, self._scratch))
        self.digest = chain_next(self.digest, self._packed[:size])


def source_facts(paths: Iterable[Path | str]) -> list[dict[str, Any]]:
    """Name, size and SHA-256 of each file a tape is made from, for its provenance; the names only, not the folders."""
    facts = []
    for path in map(Path, paths):
        with path.open("rb") as file:
            sha = hashlib.file_digest(file, "sha256").hexdigest()
        facts.append({"name": path.name, "bytes": path.stat().st_size, "sha256": sha})
    return facts


class TapeWriter:
    """Writes the tape `path`, which appears when `close` has brought everything to the disk; leaving early removes it.

    `provenance` is kept as JSON: where the rows come from, the files of `source_facts` under "sources". Calls raise
    StorageError when the disk refuses; the tape is then to be written again from its start.
    """

    def __init__(
        self, path: Path | str, instruments: Sequence[Instrument], provenance: dict[str, Any] | None = None
    ) -> None:
        self.path = Path(path)
        self.rows = 0
        self._instruments = msgspec.json.encode(list(instruments))
        self._provenance = msgspec.json.encode(provenance or {})
        self._known = len(instruments)
        self._block = words_of(empty(BLOCK_ROWS))
        self._filled = 0
        self._content = Content()
        self._temporary = self.path.with_name(self.path.name + ".tmp")
        if self.path.exists() and not self.path.is_file():  # a folder, or a device that the tape would take the name of
            raise StorageError(f"{self.path} is there and is no file; choose another name")
        make_folder(self.path.parent)
        try:
            self._fd = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        except OSError as error:
            raise refused(self.path, error) from error
        self._write(bytes(HEADER_BYTES))

    def __enter__(self) -> TapeWriter:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def append(self, rows: Rows) -> None:
        """Take `rows`, any count; raises ValueError, taking none, for a row of an instrument the tape does not have."""
        words = words_of(rows)
        ids = rows["instrument_id"]
        wrong = np.flatnonzero((ids >= self._known) & (ids != NO_INSTRUMENT))
        if len(wrong):
            raise ValueError(f"row {self.rows + wrong[0]}: instrument {ids[wrong[0]]} of a tape of {self._known}")
        at = 0
        while at < len(rows):
            if not self._filled and len(rows) - at >= BLOCK_ROWS:
                self._put(words, at, BLOCK_ROWS)
                at += BLOCK_ROWS
                continue
            count = min(BLOCK_ROWS - self._filled, len(rows) - at)
            part = words[at * WORDS : (at + count) * WORDS]
            self._block[self._filled * WORDS : (self._filled + count) * WORDS] = part
            self._filled += count
            at += count
            if self._filled == BLOCK_ROWS:
                self._put(self._block, 0, BLOCK_ROWS)
                self._filled = 0
        self.rows += len(rows)

    def _put(self, words: Rows, first: int, count: int) -> None:
        self._content.add(words, first, count)
        self._write(words[first * WORDS : (first + count) * WORDS].view(np.uint8))

    def _write(self, data: Bytes) -> None:
        try:
            write_all(self._fd, data, self.path)
        except BaseException:
            self.abandon()
            raise

    def close(self) -> None:
        """Write what is left, the tail and the header, sync, and put the tape in its place."""
        if self._fd < 0:
            return
        if self._filled:
            self._put(self._block, 0, self._filled)
            self._filled = 0
        sums = np.array(self._content.sums, "<u8").tobytes()
        tail = sums + self._instruments + self._provenance
        if len(tail) > TAIL_BYTES_MAX:
            self.abandon()
            raise ValueError(f"a tape's tail has at most {TAIL_BYTES_MAX} bytes, this one {len(tail)}")
        sizes = (len(sums), len(self._instruments), len(self._provenance))
        facts = Facts(self.rows, *sizes, hashlib.sha256(tail).digest(), self._content.digest)
        self._write(tail)
        try:
            os.lseek(self._fd, 0, os.SEEK_SET)
            write_all(self._fd, encode_facts(facts), self.path)
            sync(self._fd, self.path)
            os.replace(self._temporary, self.path)
        except BaseException:
            self.abandon()
            raise
        os.close(self._fd)
        self._fd = -1
        sync_folder(self.path.parent)

    def abandon(self) -> None:
        """Remove what was written; the tape never appears."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            with contextlib.suppress(OSError):
                self._temporary.unlink()


def encode_facts(facts: Facts) -> bytes:
    """The header page."""
    head = FACTS.pack(MAGIC, VERSION, HEADER_BYTES, LAYOUT_HASH, *facts).ljust(SUM_AT, b"\0")
    return head + xxh3(head).to_bytes(8, "little")


def decode_facts(data: bytes, path: Path) -> Facts:
    """Raises LayoutError for a file that is no tape or has another layout, DamagedError for a header that is damaged."""
    if data[: len(MAGIC)] != MAGIC:
        raise LayoutError(f"{path} is not a tape")
    if len(data) < HEADER_BYTES or int.from_bytes(data[SUM_AT:HEADER_BYTES], "little") != xxh3(data[:SUM_AT]):
        raise DamagedError(f"{path}: the header is damaged")
    _, version, _, layout, *facts = FACTS.unpack_from(data)
    if version != VERSION or layout != LAYOUT_HASH:
        raise LayoutError(
            f"{path}: tape version {version} of record layout {layout:016x}, "
            f"this program reads version {VERSION} of {LAYOUT_HASH:016x}; import it again"
        )
    return Facts(*facts)


class Tape:
    """A tape open for reading; made by `Tape.open`.

    `rows` is read-only. `slots` is the same memory for kernels that declare writable arrays: mapped privately, so that a
    write stays in this process and never reaches the file.
    """

    def __init__(self, path: Path, facts: Facts, mapping: mmap.mmap, tail: bytes) -> None:
        self.path = path
        self.facts = facts
        self.content = facts.content.hex()
        self.slots: Rows = np.frombuffer(mapping, REC, facts.rows, HEADER_BYTES)
        self.rows: Rows = self.slots.view()
        self.rows.flags.writeable = False
        self._mapping = mapping
        cut = facts.sums_bytes + facts.instruments_bytes
        self._sums = np.frombuffer(tail, "<u8", facts.sums_bytes // 8)
        try:
            self.instruments = msgspec.json.decode(tail[facts.sums_bytes : cut], type=list[Instrument])
            self.provenance = msgspec.json.decode(tail[cut:], type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise DamagedError(f"{path}: instruments or provenance cannot be read: {error}") from error

    @classmethod
    def open(cls, path: Path | str) -> Tape:
        """Map a tape; raises LayoutError, DamagedError for its header or tail, FileNotFoundError. Rows: see `verify`."""
        path = Path(path)
        with path.open("rb") as file:
            facts = decode_facts(file.read(HEADER_BYTES), path)
            tail_at = HEADER_BYTES + facts.rows * SLOT_BYTES
            tail_bytes = facts.sums_bytes + facts.instruments_bytes + facts.provenance_bytes
            size = os.fstat(file.fileno()).st_size
            blocks = -(-facts.rows // BLOCK_ROWS)
            if size != tail_at + tail_bytes or tail_bytes > TAIL_BYTES_MAX or facts.sums_bytes != 8 * blocks:
                raise DamagedError(f"{path}: {size} bytes, the header speaks of {tail_at + tail_bytes}")
            file.seek(tail_at)
            tail = file.read(tail_bytes)
            if hashlib.sha256(tail).digest() != facts.tail_sha:
                raise DamagedError(f"{path}: sums, instruments or provenance are damaged")
            flags = mmap.MAP_PRIVATE | MAP_NORESERVE
            mapping = mmap.mmap(file.fileno(), size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        return cls(path, facts, mapping, tail)

    def __enter__(self) -> Tape:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.facts.rows

    def close(self) -> None:
        """Let go of the file; arrays taken from the tape keep their memory mapped as long as they live."""
        self.rows = self.slots = empty(0)
        with contextlib.suppress(BufferError):
            self._mapping.close()

    def _read_blocks(self) -> Iterator[Rows]:
        block = words_of(empty(BLOCK_ROWS))
        with self.path.open("rb", buffering=0) as file:
            file.seek(HEADER_BYTES)
            for number in range(len(self._sums)):
                want = min(BLOCK_ROWS, self.facts.rows - number * BLOCK_ROWS) * WORDS
                got = file.readinto(block[:want].view(np.uint8).data)
                yield block[: want if got == want * 8 else 0]

    def verify(self) -> list[Damage]:
        """Blocks of the file whose bytes are not those that were written; [] when `content` holds as well."""
        found = []
        content = Content()
        for number, words in enumerate(self._read_blocks()):
            content.add(words, 0, len(words) // WORDS)
            if content.sums[-1] != self._sums[number]:
                what = "the sum of the block does not hold" if len(words) else "the block cannot be read whole"
                found.append(Damage(self.path.name, number, number * BLOCK_ROWS, None, what))
        if not found and content.digest != self.facts.content:
            found.append(Damage(self.path.name, -1, 0, None, "the rows do not give the content hash of the header"))
        return found
