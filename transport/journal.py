"""The journal: logs of records that survive a killed process and can be held to their hash.

A log is written batch by batch and read block by block (see `frames` for the bytes, `pack` for the hash). The writer keeps one
block in memory; when it is full it is packed, chained and appended to the open segment, and a full segment is sealed: its
frames under LZ4, its end signed off with the chain's digest, renamed in one step. `flush` writes what of a block is there as a
partial frame, so that nothing flushed is lost to a kill. One thread writes a log; it may be another than the line's.

    append ──► block of 4096 rows ──► frame in 00000002.open ──► every 64 blocks: 00000002.seg
                     └── flush: partial frame ─────┘
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from transport.blocks import OPEN, SEALED, Damage, segment_files
from transport.disk import make_folder, refused, sync, sync_folder, write_all, write_whole
from transport.errors import DamagedError, StorageError
from transport.frames import (
    HEADER_BYTES,
    NAME_BYTES,
    PACKED,
    PARTIAL,
    REFERENCE,
    RUN_ID_BYTES,
    Frame,
    Header,
    Seal,
    compressed,
    encode_header,
    encode_seal,
    frame_head,
    frames_of,
)  # fmt: skip
from transport.log_reader import Cut, LogReader
from transport.pack import (
    BLOCK_ROWS,
    WORDS,
    Rows,
    chain_next,
    chain_start,
    new_scratch,
    pack_words,
    packed_bytes_max,
    words_of,
)
from transport.records import empty
from transport.reference import OWN, RUN, STORED_RUN, Sources, encode, materialise, take_runs

__all__ = ["RUN", "Damage", "LogReader", "LogWriter"]

SEGMENT_BLOCKS = 64  # 262,144 rows, some 4 MB packed: sealing one takes milliseconds
SEGMENT_BLOCKS_MAX = 4096
TS_SEQ_WORD = 3


class LogWriter:
    """Writes the log `name` under `folder`; a log that is there already is refused, `resume` goes on with it.

    `embed` stores records whole; without it rows of `sources` are stored by reference (see `append_reference`).
    `durability` "write" survives a killed process, "fsync" a power loss as well, from each `flush` on.
    `sign` gets each seal's digest and returns a signature of at most 256 bytes, stored with it.

    Every call may raise StorageError, when the disk refuses: the log stays readable to its last good frame, `rows_taken` says
    how many rows were accepted in all, and the call may be repeated with the rest once there is room.
    """

    def __init__(
        self,
        folder: Path | str,
        name: str,
        run_id: str,
        *,
        embed: bool = True,
        durability: Literal["write", "fsync"] = "write",
        segment_blocks: int = SEGMENT_BLOCKS,
        sources: Sequence[Rows] = (),
        sign: Callable[[bytes], bytes] | None = None,
        at: Cut | None = None,
    ) -> None:
        if not name or "/" in name or len(name.encode()) > NAME_BYTES or len(run_id.encode()) > RUN_ID_BYTES:
            raise ValueError(f"log name {name!r} or run id {run_id!r} is empty, too long or a path")
        if durability not in ("write", "fsync") or not 1 <= segment_blocks <= SEGMENT_BLOCKS_MAX:
            raise ValueError(f"durability {durability!r} or segment_blocks {segment_blocks} is not allowed")
        self.name, self.run_id, self.path = name, run_id, Path(folder) / name
        self.embed, self.durable, self.segment_blocks, self.sign = embed, durability == "fsync", segment_blocks, sign
        self._sources = Sources(sources)
        self._block = empty(BLOCK_ROWS)
        self._words = words_of(self._block)
        self._own = empty(BLOCK_ROWS)
        self._runs = np.zeros(BLOCK_ROWS, STORED_RUN)
        self._packed = np.empty(packed_bytes_max(BLOCK_ROWS), np.uint8)
        self._scratch = new_scratch()
        self._digest = chain_start(name)
        self._fd = -1
        self._bytes = self._index = self._blocks = 0  # of the open segment
        self._first = self._filled = self._flushed = 0  # first row of the block, its rows, those of them on disk
        self._run_count = self._own_count = self._runs_flushed = self._own_flushed = 0
        self._last_ts = 0  # ts_seq_ns before the block
        self._rows_synced = 0
        self._broken = False
        self.closed = False
        make_folder(self.path)
        if self.durable:
            sync_folder(self.path.parent)
        if at is not None:
            self._go_on(at)
        elif segment_files(self.path):
            raise StorageError(f"{self.path} holds a log already; resume it, or choose another folder")
        else:
            self._ready()

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        if kind is None:
            self.close()
            return
        with contextlib.suppress(StorageError):
            self.flush()
        self.release()

    @property
    def rows_taken(self) -> int:
        """Rows accepted so far, on disk or in the block in memory."""
        return self._first + self._filled

    @property
    def rows_durable(self) -> int:
        """Rows that survive, by the durability chosen; the gate's watermark."""
        return self._rows_synced if self.durable else self._first + self._flushed

    @property
    def digest(self) -> str:
        """Chain digest (hex) over the whole blocks so far; once closed, the log's hash."""
        return self._digest.hex()

    # --- taking rows ------------------------------------------------------------------------------------------------------

    def append(self, rows: Rows) -> None:
        """Take `rows`, stamped, any count; in a log by reference they are the line's own."""
        if not self.embed:
            run = np.array([(OWN, 0, len(rows), 0)], RUN)
            self.append_reference(run, rows, 0)
            return
        words = words_of(rows)
        at = 0
        while at < len(rows):
            self._make_room()
            if not self._filled and len(rows) - at >= BLOCK_ROWS:
                self._write_block(words, at, BLOCK_ROWS)
                at += BLOCK_ROWS
                continue
            count = min(BLOCK_ROWS - self._filled, len(rows) - at)
            part = words[at * WORDS : (at + count) * WORDS]
            self._words[self._filled * WORDS : (self._filled + count) * WORDS] = part
            self._filled += count
            at += count
        self._make_room()

    def append_reference(self, runs: np.ndarray[Any, Any], own_rows: Rows, epoch: int) -> None:
        """Take the rows of `runs` (RUN): rows of the sources, stamped here, and `own_rows`, stamped already, in order.

        A row of a source gets consecutive `seq` from its run's, ts_seq_ns = max(previous, ts_recv_ns) and `epoch`. Raises
        ValueError for runs out of bounds, then nothing is taken. `embed` decides how they are stored, not what they hash to.
        """
        self._sources.check(runs, len(own_rows))
        if not 0 <= epoch < 2**16:
            raise ValueError(f"epoch {epoch} does not fit 16 bits")
        own_words = words_of(own_rows)
        cursor = np.zeros(4, np.int64)
        own_at = 0
        while cursor[0] < len(runs):
            self._make_room()
            before = self._run_count
            if self.embed:
                before = self._run_count = self._runs_flushed = 0
            keep = self._runs_flushed
            held = self._own_count
            grown = int(self._runs["count"][before - 1]) if before > keep else 0
            after = int(take_runs(runs, cursor, epoch, self._runs, before, keep, BLOCK_ROWS - self._filled))
            taken, own = int(cursor[2]), int(cursor[3])
            own_held = words_of(self._own)
            own_held[held * WORDS : (held + own) * WORDS] = own_words[own_at * WORDS : (own_at + own) * WORDS]
            self._fill(before, after, grown, held)
            self._run_count, self._own_count = after, (0 if self.embed else held + own)
            own_at += own
            self._filled += taken
        self._make_room()

    def _fill(self, before: int, after: int, grown: int, own_at: int) -> None:
        """Materialise the runs just stored; `grown` rows of run before - 1 were there before it was joined to."""
        fresh = self._runs[max(before - 1, 0) if grown else before : after].copy()
        if grown:
            fresh["first"][0] += grown
            fresh["seq"][0] += grown
            fresh["count"][0] -= grown
        sources = self._sources
        now = self._ts_before(self._filled)
        made = materialise(
            fresh, 0, len(fresh), sources.addresses, sources.lengths, self._own, own_at, self._block, self._filled, now
        )
        assert made == int(fresh["count"].sum()), "runs were checked"

    def _ts_before(self, row: int) -> int:
        return int(self._block["ts_seq_ns"][row - 1]) if row else self._last_ts

    def _make_room(self) -> None:
        if self._filled == BLOCK_ROWS:
            self._write_block(self._words, 0, BLOCK_ROWS)

    # --- writing ----------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Bring every row taken to the operating system, with durability "fsync" to the disk."""
        self._make_room()
        if self._filled > self._flushed:
            first, rows = self._first + self._flushed, self._filled - self._flushed
            if self.embed:
                payload: Any = self._block.view("u1")[self._flushed * WORDS * 8 : self._filled * WORDS * 8]
                flags = PARTIAL
            else:
                payload = self._reference(self._flushed, self._runs_flushed, self._own_flushed)
                flags = PARTIAL | REFERENCE
            self._write_frame(flags, rows, first, self._digest, payload)
            self._flushed, self._runs_flushed, self._own_flushed = self._filled, self._run_count, self._own_count
        self._sync()

    def _reference(self, first: int, run: int, own: int) -> bytes:
        return encode(self._ts_before(first), self._runs[run : self._run_count], self._own[own : self._own_count])

    def _write_block(self, words: Rows, first: int, count: int) -> None:
        """Pack, chain and write one canonical block; only then it counts as taken off the memory."""
        size = int(pack_words(words, first, count, self._packed, self._scratch))
        data = self._packed[:size]
        digest = chain_next(self._digest, data)
        if self.embed:
            self._write_frame(PACKED, count, self._first, digest, data)
        else:
            self._write_frame(REFERENCE, count, self._first, digest, self._reference(0, 0, 0))
        self._digest = digest
        self._last_ts = int(words[(first + count - 1) * WORDS + TS_SEQ_WORD])
        self._first += count
        self._blocks += 1
        self._filled = self._flushed = 0
        self._run_count = self._own_count = self._runs_flushed = self._own_flushed = 0

    def _write_frame(self, flags: int, rows: int, first: int, digest: bytes, payload: Any) -> None:
        self._ready()
        head = frame_head(flags, rows, first, memoryview(payload).nbytes, digest, payload)
        self._write(head + memoryview(payload).tobytes())

    def _write(self, data: bytes) -> None:
        path = self._file(OPEN)
        try:
            write_all(self._fd, data, path)
        except StorageError:
            try:
                os.ftruncate(self._fd, self._bytes)
            except OSError:
                self._broken = True  # what comes after a torn frame would not be found
            raise
        self._bytes += len(data)

    def _sync(self) -> None:
        if self.durable and self._fd >= 0:
            rows = self._first + self._flushed
            try:
                sync(self._fd, self._file(OPEN))
            except StorageError:
                self._broken = True  # the system may have dropped the pages: a second fsync would lie
                raise
            self._rows_synced = rows

    # --- segments ---------------------------------------------------------------------------------------------------------

    def _file(self, suffix: str) -> Path:
        return self.path / f"{self._index:08d}{suffix}"

    def _ready(self) -> None:
        """See to an open segment with room for a block."""
        if self.closed or self._broken:
            why = "is closed" if self.closed else "failed in a way that only resuming it can mend"
            raise StorageError(f"{self.path}: the log {why}")
        if self._blocks >= self.segment_blocks:
            self._seal(final=False)
        if self._fd < 0:
            header = encode_header(Header(self._index, self._first, self._digest, self.name, self.run_id))
            self._open(self._file(OPEN), header)

    def _open(self, path: Path, header: bytes) -> None:
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        except OSError as error:
            raise refused(path, error) from error
        self._bytes = 0
        try:
            self._write(header)
            if self.durable:
                sync(self._fd, path)
                sync_folder(self.path)
        except StorageError:
            self.release()
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise

    def _seal(self, *, final: bool) -> None:
        """Write the segment's whole blocks under LZ4 with a seal, and put that file in the open one's place."""
        open_path = self._file(OPEN)
        with open_path.open("rb") as file:
            data = file.read(self._bytes)
        frames = [item for item in frames_of(data, len(data), check=True) if isinstance(item, Frame)]
        whole = [frame for frame in frames if not frame.flags & PARTIAL]
        if len(whole) != self._blocks or sum(f.end - f.at for f in frames) != len(data) - HEADER_BYTES:
            raise DamagedError(f"{open_path} does not hold what was written to it")
        signature = self.sign(self._digest) if self.sign else b""
        seal = encode_seal(Seal(final, len(whole), self._first, self._digest, signature))
        parts = [data[:HEADER_BYTES], *(compressed(data, frame) for frame in whole), seal]
        write_whole(self._file(SEALED), list(parts), durable=self.durable)
        self.release()
        with contextlib.suppress(FileNotFoundError):
            open_path.unlink()
        if self.durable:
            sync_folder(self.path)
            self._rows_synced = self._first
        self._index += 1
        self._blocks = 0

    def close(self) -> None:
        """Write the last, short block and the final seal; the log's hash is `digest` from here on."""
        if self.closed:
            return
        self._make_room()
        if self._filled:
            self._write_block(self._words, 0, self._filled)
        if self._fd < 0:
            self._ready()
        self._seal(final=True)
        self.closed = True

    def release(self) -> None:
        """Let go of the open segment without closing the log; rows not flushed are lost."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @classmethod
    def resume(
        cls,
        folder: Path | str,
        name: str,
        run_id: str,
        *,
        rows: int | None = None,
        sources: Sequence[Rows] = (),
        **options: Any,
    ) -> LogWriter:
        """Go on with a log after its last readable row, or cut it back to `rows` first; `options` as for a new one.

        Raises DamagedError for a log that is damaged, unless it is cut before the damage.
        """
        with LogReader(folder, name, sources) as log:
            if log.damage and rows is None:
                raise DamagedError(f"{log.path}: {log.damage}")
            if not log.segments and rows in (None, 0) and not log.damage:  # killed before the first header was whole
                for path in log.files:
                    path.unlink()
                return cls(folder, name, run_id, sources=sources, **options)
            cut = log.cut(log.rows_total if rows is None else rows)
        return cls(folder, name, run_id, sources=sources, at=cut, **options)

    def _go_on(self, cut: Cut) -> None:
        """Put a new open segment in the place of the one cut; a crash leaves the old end or the new one."""
        self._index, self._blocks, self._digest = cut.number, cut.blocks, cut.digest
        self._first, self._last_ts = cut.first_row, cut.last_ts_seq_ns
        temporary = self._file(OPEN + ".tmp")
        temporary.unlink(missing_ok=True)
        full, self.segment_blocks = self.segment_blocks, SEGMENT_BLOCKS_MAX + 1  # nothing is sealed half way
        self._open(temporary, encode_header(cut.header._replace(run_id=self.run_id)) + cut.frames)
        try:
            self.append(cut.rows)
            self.flush()
        except BaseException:
            self.release()
            raise
        self.segment_blocks = full
        for path in reversed(segment_files(self.path)):
            if int(path.stem) > cut.number:
                path.with_suffix(OPEN).unlink(missing_ok=True)  # the hidden one first, or it would come to light
                path.with_suffix(SEALED).unlink(missing_ok=True)
        os.replace(temporary, self._file(OPEN))
        self._file(SEALED).unlink(missing_ok=True)
        if self.durable:
            sync_folder(self.path)
