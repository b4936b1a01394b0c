"""The check of a whole log: sums, chain, order of rows, headers and seals; goes on after damage and names every place."""

from __future__ import annotations

from pathlib import Path

from transport.blocks import OPEN, SEALED, Block, Damage, rows_of
from transport.errors import DamagedError
from transport.frames import (
    HEADER_BYTES,
    PARTIAL,
    SEAL_BYTES,
    Frame,
    Header,
    Seal,
    decode_header,
    decode_seal,
    frames_of,
)
from transport.pack import BLOCK_ROWS, chain_next, chain_start, packed
from transport.reference import Sources


class Check:
    """Walks the segments in order; `row` and `digest` are where the log should go on, digest None once that is unknown."""

    def __init__(self, name: str, sources: Sources) -> None:
        self.name = name
        self.sources = sources
        self.found: list[Damage] = []
        self.row = 0  # whole blocks
        self.partial = 0  # rows of partial frames after them
        self.digest: bytes | None = chain_start(name)
        self.file = ""

    def note(self, what: str, block: int = -1, first_row: int | None = None, first_seq: int | None = None) -> None:
        self.found.append(Damage(self.file, block, self.row if first_row is None else first_row, first_seq, what))

    def segment(self, number: int, path: Path, last: bool) -> None:
        """Check one file, and set `row` and `digest` for the next."""
        self.file = path.name
        data = path.read_bytes()
        if int(path.stem) != number:
            self.note(f"segment {number} is missing before it" if int(path.stem) > number else "out of order")
        header = self._header(data, path, last)
        sealed = path.suffix == SEALED
        seal: Seal | None = None
        if sealed:
            try:
                seal = decode_seal(data)
            except DamagedError as error:
                self.note(str(error))
        elif not last:
            self.note("segments follow one that was never sealed")
        blocks = 0
        self.partial = 0
        end = len(data) - (SEAL_BYTES if seal else 0)
        for item in frames_of(data, end, check=True):
            if isinstance(item, Frame):
                blocks += not item.flags & PARTIAL
                self._frame(data, item, sealed)
            elif sealed or not last or item[1] < end:
                self.note(f"bytes {item[0]} to {item[1]} are no frame: its sum does not hold", self.row // BLOCK_ROWS)
        if seal:
            self._seal(seal, blocks, last)
        if header is None:
            self.digest = None

    def _header(self, data: bytes, path: Path, may_be_torn: bool) -> Header | None:
        try:
            header = decode_header(data)
        except DamagedError as error:
            frames = any(isinstance(item, Frame) for item in frames_of(data, len(data), check=True))
            if path.suffix != OPEN or not may_be_torn or frames:
                self.note(str(error))
            self.digest = None
            return None
        if header.name != self.name or header.number != int(path.stem):
            self.note(f"it is segment {header.number} of the log {header.name}")
        if header.first_row != self.row:
            self.note(f"rows {self.row} to {header.first_row} are missing before the segment")
        if self.digest is not None and header.digest != self.digest:
            self.note("the chain does not go on from the segment before")
        self.row, self.digest = header.first_row, header.digest
        return header

    def _frame(self, data: bytes, frame: Frame, sealed: bool) -> None:
        number = frame.first_row // BLOCK_ROWS
        partial = bool(frame.flags & PARTIAL)
        expected = self.row + (self.partial if partial else 0)
        if frame.first_row != expected or (sealed and partial):
            self.note(f"a frame of row {frame.first_row} stands where row {expected} belongs", number, frame.first_row)
            self.digest = None
        try:
            rows = rows_of(data, Block(frame.first_row, frame.rows, (frame,)), self.sources)
        except DamagedError as error:
            self.note(str(error), number, frame.first_row)
            self.digest = None
        else:
            seq = int(rows["seq"][0])
            if partial:
                digest = self.digest
            else:
                digest = chain_next(self.digest, packed(rows)) if self.digest is not None else None
            if digest is not None and digest != frame.digest:
                self.note("the records do not give the digest of the chain", number, frame.first_row, seq)
        if partial:
            self.partial = frame.first_row + frame.rows - self.row
        else:
            self.row, self.partial, self.digest = frame.first_row + frame.rows, 0, frame.digest

    def _seal(self, seal: Seal, blocks: int, last: bool) -> None:
        if seal.end_row != self.row or seal.blocks != blocks:
            self.note(f"sealed at row {seal.end_row} after {seal.blocks} blocks, {blocks} blocks end at row {self.row}")
        if self.digest is not None and seal.digest != self.digest:
            self.note("the seal has another digest than the last block")
        if seal.final and not last:
            self.note("segments follow the one that closed the log")
        self.row, self.digest = seal.end_row, seal.digest


def check_log(name: str, files: list[Path], sources: Sources) -> list[Damage]:
    """All damage of the log whose segments are `files`; [] when everything holds."""
    check = Check(name, sources)
    for number, file in enumerate(files):
        if file.stat().st_size < HEADER_BYTES and not (file == files[-1] and file.suffix == OPEN):
            check.file = file.name
            check.note("shorter than a header")
            check.digest = None
            continue
        check.segment(number, file, file == files[-1])
    return check.found
