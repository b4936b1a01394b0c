"""The blocks of a segment: frames put in order, decoded to records, and what damage is called."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from transport.errors import DamagedError
from transport.frames import LZ4, PACKED, PARTIAL, REFERENCE, Data, Frame, frames_of, payload_of
from transport.pack import BLOCK_ROWS, Rows, unpack_block, words_of
from transport.records import REC, SLOT_BYTES, empty
from transport.reference import Sources, decode

SEALED, OPEN = ".seg", ".open"


class Damage(NamedTuple):
    """One thing that does not hold: where, and what; a seq is given where it can still be read."""

    segment: str
    block: int  # counted from the start of the log, -1 for a header, a seal or a whole file
    first_row: int
    first_seq: int | None
    what: str

    def __str__(self) -> str:
        seq = "" if self.first_seq is None else f", seq {self.first_seq}"
        block = "" if self.block < 0 else f" block {self.block}"
        return f"{self.segment}{block}, row {self.first_row}{seq}: {self.what}"


class Block(NamedTuple):
    """One canonical block: a whole frame, or the partial frames that stand for it so far."""

    first_row: int
    rows: int
    frames: tuple[Frame, ...]


class Walk(NamedTuple):
    """The frames of one segment put in order."""

    blocks: dict[int, Block]  # by number of the block
    end_row: int  # rows readable without a hole
    skipped: list[tuple[int, int]]  # bytes that are no frame
    hole: str | None  # why rows after end_row cannot be placed


def segment_files(folder: Path) -> list[Path]:
    """Segments in order; a sealed one hides the open one it was made from, should a crash have left both."""
    found = {path.stem: path for path in sorted(folder.glob("*" + OPEN)) if path.stem.isdigit()}
    found |= {path.stem: path for path in sorted(folder.glob("*" + SEALED)) if path.stem.isdigit()}
    return [found[stem] for stem in sorted(found)]


def walk(data: Data, end: int, first_row: int, check: bool) -> Walk:
    """The blocks of a segment of which data[:end] are header and frames."""
    blocks: dict[int, Block] = {}
    skipped: list[tuple[int, int]] = []
    partial: list[Frame] = []
    whole = row = first_row
    for item in frames_of(data, end, check):
        if not isinstance(item, Frame):
            skipped.append(item)
            continue
        in_place = whole % BLOCK_ROWS == 0  # nothing follows a short block
        if in_place and not item.flags & PARTIAL and item.first_row == whole:
            blocks[whole // BLOCK_ROWS] = Block(whole, item.rows, (item,))
            whole = row = whole + item.rows
            partial = []
        elif in_place and item.flags & PARTIAL and item.first_row == row and row + item.rows <= whole + BLOCK_ROWS:
            partial.append(item)
            row += item.rows
            blocks[whole // BLOCK_ROWS] = Block(whole, row - whole, tuple(partial))
        else:
            return Walk(blocks, row, skipped, f"a frame of row {item.first_row} stands where row {row} belongs")
    return Walk(blocks, row, skipped, None)


def rows_of(data: Data, block: Block, sources: Sources) -> Rows:
    """The records of one block; raises DamagedError, without its place."""
    out = empty(block.rows)
    words = words_of(out)
    at = 0
    for frame in block.frames:
        payload = payload_of(data, frame)
        part = words[at : at + frame.rows * SLOT_BYTES // 8]
        kind = frame.flags & ~LZ4
        if kind == PACKED:
            unpack_block(payload, part.view(REC), frame.rows)
        elif kind in (REFERENCE, REFERENCE | PARTIAL):
            part[:] = words_of(decode(payload, frame.rows, sources))
        elif kind == PARTIAL:
            part.view("u1")[:] = memoryview(payload)
        else:
            raise DamagedError(f"a frame of unknown flags {frame.flags}")
        at += len(part)
    return out
