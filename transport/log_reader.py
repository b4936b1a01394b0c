"""Reading a log: blocks in order, any range of rows, its hash, and what is wrong with it.

Opening costs a header and a seal a segment; a sealed segment is mapped into memory, and its frames walked, when its first row is
asked for; its blocks are unpacked one by one. The end of an open segment that is not a whole frame, or not a whole long row, is
*torn*: cut, told, never read. Anything else that does not hold is *damage*: reading stops there with DamagedError, and `verify`
lists all of it. What it cannot see is a log whose last segments were removed whole: a log that was closed says so (`closed`), and
the last digest, signed or kept elsewhere, settles it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from transport.blocks import OPEN, SEALED, Block, Damage, Walk, rows_of, segment_files, walk
from transport.errors import DamagedError
from transport.frames import (
    HEADER_BYTES,
    SEAL_BYTES,
    Data,
    Frame,
    Header,
    Seal,
    decode_header,
    decode_seal,
    frames_of,
    payload_of,
)  # fmt: skip
from transport.log_check import check_log
from transport.pack import BLOCK_ROWS, Rows, chain_next, chain_start, packed, words_of
from transport.records import SLOT_BYTES, empty
from transport.reference import Sources


class Segment(NamedTuple):
    """A file of the log that could be placed."""

    path: Path
    header: Header
    seal: Seal | None  # None while open
    end_row: int


class Cut(NamedTuple):
    """Where a writer goes on: the segment up to the block that holds the row, and the rows of that block before it."""

    number: int  # of the segment
    header: Header
    frames: bytes
    blocks: int
    digest: bytes
    first_row: int
    rows: Rows
    last_ts_seq_ns: int


def _mapped(path: Path) -> Data:
    """A sealed segment, which nobody writes to any more; an open one is read, for a writer that resumes may cut it."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class LogReader:
    """The log `name` in the run folder `folder`, as it is now; `sources` are the tapes of a log by reference, in order.

    Raises LayoutError for a log of another record layout, DamagedError where there is no log at all. `torn` says where the
    open end was cut, `damage` what hides rows from `rows_total` on, `closed` whether the log was brought to its end.
    """

    def __init__(self, folder: Path | str, name: str, sources: Sequence[Rows] | None = None) -> None:
        self.name = name
        self.path = Path(folder) / name
        self.torn: str | None = None
        self.damage: Damage | None = None
        self.rows_total = 0
        self.segments: list[Segment] = []
        self._sources = Sources(sources or ())
        self._held: tuple[int, Data, Walk] | None = None
        self.files = segment_files(self.path)
        if not self.files:
            raise DamagedError(f"{self.path} holds no log")
        for number, path in enumerate(self.files):
            if not self._place(number, path):
                break
        if not self.closed:
            self._drop_part_of_row()

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the segment that is mapped; no file stays open between calls."""
        self._held = None

    @property
    def closed(self) -> bool:
        """True when the writer closed the log and its last segment is here."""
        last = self.segments[-1].seal if self.segments else None
        return last is not None and last.final and self.damage is None

    @property
    def run_id(self) -> str:
        """Of the first segment; a run that was resumed under another id has several."""
        return self.segments[0].header.run_id if self.segments else ""

    def _stop(self, path: Path, what: str) -> bool:
        self.damage = Damage(path.name, -1, self.rows_total, None, what)
        return False

    def _place(self, number: int, path: Path) -> bool:
        """Add one segment behind the others; False where reading ends."""
        last = path == self.files[-1]
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
            if path.suffix == OPEN:
                rest = file.read()
            else:
                file.seek(-min(SEAL_BYTES, path.stat().st_size), 2)
                rest = file.read()
        try:
            header = decode_header(head)
            seal = decode_seal(rest) if path.suffix == SEALED else None
        except DamagedError as error:
            if path.suffix == OPEN and last and self._nothing_in(head + rest):
                self.torn = f"{path.name}: cut at byte 0, row {self.rows_total}: the segment was just begun"
                return False
            return self._stop(path, str(error))
        if header.name != self.name:
            return self._stop(path, f"a segment of the log {header.name}")
        if int(path.stem) != number or header.number != number or header.first_row != self.rows_total:
            return self._stop(
                path, f"segment {header.number} of row {header.first_row}, not {number} of {self.rows_total}"
            )
        before = self.segments[-1].seal if self.segments else None
        if header.digest != (before.digest if before else chain_start(self.name)):
            return self._stop(path, "the chain does not go on from the segment before")
        if seal is None:
            return self._place_open(path, header, head + rest, last)
        if seal.end_row < header.first_row or -(-(seal.end_row - header.first_row) // BLOCK_ROWS) != seal.blocks:
            return self._stop(path, f"sealed at row {seal.end_row} after {seal.blocks} blocks")
        self.segments.append(Segment(path, header, seal, seal.end_row))
        self.rows_total = seal.end_row
        return True

    @staticmethod
    def _nothing_in(data: bytes) -> bool:
        return all(not isinstance(item, Frame) for item in frames_of(data, len(data), check=True))

    def _place_open(self, path: Path, header: Header, data: bytes, last: bool) -> bool:
        found = walk(data, len(data), header.first_row, check=True)
        self.segments.append(Segment(path, header, None, found.end_row))
        self.rows_total = found.end_row
        if found.skipped and found.skipped[-1][1] == len(data) and found.hole is None:
            at = found.skipped[-1][0]
            self.torn = f"{path.name}: cut at byte {at} of {len(data)}, row {found.end_row}"
        if found.hole:
            return self._stop(path, found.hole)
        return True if last else self._stop(path, "segments follow one that was never sealed")

    def _drop_part_of_row(self) -> None:
        """End before a long row whose last slots were not written: a writer that was killed may have been between two blocks."""
        if not self.rows_total:
            return
        try:
            last = self.rows(self.rows_total - 1, 1)[0]
        except DamagedError:
            return  # told by whoever reads it
        if last["part"] + 1 < last["parts"]:
            self.rows_total -= min(self.rows_total, int(last["part"]) + 1)
            self.torn = f"{self.files[-1].name}: cut at row {self.rows_total}, within a row of {last['parts']} slots"

    def _load(self, number: int) -> tuple[Data, Walk]:
        if self._held is None or self._held[0] != number:
            segment = self.segments[number]
            path = segment.path if segment.path.exists() else segment.path.with_suffix(SEALED)  # sealed since we opened
            data = _mapped(path) if path.suffix == SEALED else path.read_bytes()
            end = len(data) - SEAL_BYTES if path.suffix == SEALED else len(data)
            found = walk(data, end, segment.header.first_row, check=path.suffix == OPEN)
            if found.hole or found.skipped:
                found = walk(data, end, segment.header.first_row, check=True)
            self._held = number, data, found
        return self._held[1], self._held[2]

    def _segment_of(self, row: int) -> int:
        return max(n for n, segment in enumerate(self.segments) if segment.header.first_row <= row)

    def _block(self, number: int) -> tuple[Rows, Segment, Block]:
        """Rows of one block, decoded; raises DamagedError naming it."""
        place = self._segment_of(number * BLOCK_ROWS)
        segment = self.segments[place]
        data, found = self._load(place)
        block = found.blocks.get(number)
        if block is None:
            raise DamagedError(
                f"{segment.path}: block {number}, row {number * BLOCK_ROWS}: its frame is damaged or missing"
            )
        try:
            return rows_of(data, block, self._sources), segment, block
        except DamagedError as error:
            raise DamagedError(f"{segment.path}: block {number}, row {block.first_row}: {error}") from error

    def blocks(self) -> Iterator[tuple[int, Rows]]:
        """(first row, rows) of every block in order; raises DamagedError where the log is damaged, after what is good."""
        yield from self._whole_blocks()
        if self.damage:
            raise DamagedError(f"{self.path}: {self.damage}")

    def _whole_blocks(self) -> Iterator[tuple[int, Rows]]:
        for number in range(-(-self.rows_total // BLOCK_ROWS)):
            rows = self._block(number)[0]
            yield number * BLOCK_ROWS, rows[: self.rows_total - number * BLOCK_ROWS]

    def rows(self, start: int, count: int) -> Rows:
        """A copy of `count` rows from `start`; raises IndexError beyond rows_total, DamagedError in a damaged block."""
        if start < 0 or count < 0 or start + count > self.rows_total:
            raise IndexError(f"rows {start} to {start + count} of {self.rows_total}")
        out = empty(count)
        words = words_of(out)
        per_row = SLOT_BYTES // 8
        at = 0
        while at < count:
            number, skip = divmod(start + at, BLOCK_ROWS)
            block = words_of(self._block(number)[0])[skip * per_row : (skip + count - at) * per_row]
            words[at * per_row : at * per_row + len(block)] = block
            at += len(block) // per_row
        return out

    @property
    def digest(self) -> str:
        """The log's hash (hex) computed anew from its records; what is torn or damaged at the end does not count."""
        digest = chain_start(self.name)
        for _, rows in self._whole_blocks():
            digest = chain_next(digest, packed(rows))
        return digest.hex()

    def verify(self) -> list[Damage]:
        """Everything that does not hold, in order; the torn end is not damage and is in `torn`."""
        return check_log(self.name, segment_files(self.path), self._sources)

    def cut(self, row: int) -> Cut:
        """What a writer needs to go on at `row`, 0 to rows_total."""
        if not 0 <= row <= self.rows_total or not self.segments:
            raise IndexError(f"row {row} of {self.rows_total}")
        first = row - row % BLOCK_ROWS
        place = self._segment_of(first)
        header = self.segments[place].header
        data, found = self._load(place)
        kept = [found.blocks.get(n) for n in range(header.first_row // BLOCK_ROWS, first // BLOCK_ROWS)]
        frames = b""
        digest = header.digest
        for block in kept:
            if block is None:
                raise DamagedError(f"{self.segments[place].path}: damaged before row {row}")
            frame = block.frames[0]
            payload_of(data, frame)
            frames += data[frame.at : frame.end]
            digest = frame.digest
        before = int(self.rows(first - 1, 1)["ts_seq_ns"][0]) if first else 0
        return Cut(header.number, header, frames, len(kept), digest, first, self.rows(first, row - first), before)
