"""Damaged logs: no flipped bit, cut, forged or missing piece passes for a record."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.logs import chain_of, market, write
from transport import frames
from transport.errors import DamagedError, LayoutError
from transport.frames import FRAME_BYTES, SEAL_BYTES, Frame, frame_head, frames_of
from transport.journal import LogReader, LogWriter
from transport.pack import BLOCK_ROWS, packed, unpack_block
from transport.records import empty


def assert_not_believed(folder: Path, data: np.ndarray, what: str) -> None:
    """The log says that something is wrong, and no row it still gives is a wrong one."""
    try:
        reader = LogReader(folder, "input")
    except LayoutError:
        return
    assert reader.verify() or reader.torn, what
    row = 0
    try:
        for first, rows in reader.blocks():
            assert first == row, what
            assert rows.tobytes() == data[row : row + len(rows)].tobytes(), what
            row += len(rows)
        assert reader.torn or row == len(data), what
    except DamagedError:
        pass


@pytest.mark.parametrize("closed", [True, False])
def test_every_flipped_bit_is_reported_and_never_read(tmp_path: Path, seed: int, closed: bool) -> None:
    chance = random.Random(seed)
    data = market(3 * BLOCK_ROWS + 40)
    log = LogWriter(tmp_path, "input", "run-1", segment_blocks=2)
    for part in (data[:100], data[100 : BLOCK_ROWS * 2], data[BLOCK_ROWS * 2 : -20], data[-20:]):
        log.append(part)
        log.flush()
    log.close() if closed else log.release()
    files = sorted((tmp_path / "input").iterdir())
    assert [p.suffix for p in files] == [".seg", ".seg" if closed else ".open"]
    for trial in range(300):
        path = chance.choice(files)
        good = path.read_bytes()
        # half of the trials near a head, where the fields are
        at = (
            chance.randrange(len(good))
            if trial % 2
            else chance.choice([chance.randrange(400), -chance.randrange(1, 400)])
        )
        bad = bytearray(good)
        bad[at] ^= 1 << chance.randrange(8)
        path.write_bytes(bad)
        assert_not_believed(tmp_path, data, f"{path.name} byte {at}")
        path.write_bytes(good)
    assert LogReader(tmp_path, "input").verify() == []


def test_every_truncation_of_a_sealed_segment_is_reported(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    data = market(2 * BLOCK_ROWS + 40)
    write(tmp_path, data, segment_blocks=1)
    for path in sorted((tmp_path / "input").iterdir()):
        good = path.read_bytes()
        near = [*range(0, 400, 7), *(len(good) - n for n in range(1, SEAL_BYTES + FRAME_BYTES + 20, 5))]
        for end in [*near, *(chance.randrange(len(good)) for _ in range(10))]:
            path.write_bytes(good[:end])
            assert_not_believed(tmp_path, data, f"{path.name} cut at {end}")
        path.write_bytes(good)


def replace_block(path: Path, number: int, rows: np.ndarray) -> None:
    """Forge block `number` of a segment: other records under a good sum and the old digest."""
    data = path.read_bytes()
    found = [f for f in frames_of(data, len(data) - SEAL_BYTES, check=True) if isinstance(f, Frame)]
    old = found[number]
    small = packed(rows)
    head = frame_head(frames.PACKED, old.rows, old.first_row, len(small), old.digest, small)
    path.write_bytes(data[: old.at] + head + small + data[old.end :])


def test_a_forged_record_under_a_mended_sum_breaks_the_chain_at_its_block(tmp_path: Path) -> None:
    data = market(4 * BLOCK_ROWS)
    write(tmp_path, data, segment_blocks=2)
    forged = empty(BLOCK_ROWS)
    unpack_block(packed(data[3 * BLOCK_ROWS :]), forged, BLOCK_ROWS)
    forged["qty_lots"][7] += 1
    replace_block(tmp_path / "input/00000001.seg", 1, forged)
    with LogReader(tmp_path, "input") as log:
        (damage,) = log.verify()
        assert log.digest != chain_of(data)
    assert damage[:4] == ("00000001.seg", 3, 3 * BLOCK_ROWS, 3 * BLOCK_ROWS + 1)
    assert "digest of the chain" in damage.what
    assert str(damage).startswith(f"00000001.seg block 3, row {3 * BLOCK_ROWS}, seq ")


def test_missing_swapped_and_foreign_segments_are_named(tmp_path: Path) -> None:
    data = market(3 * BLOCK_ROWS)
    write(tmp_path / "good", data, segment_blocks=1)
    write(tmp_path / "other", market(3 * BLOCK_ROWS, seed=2), segment_blocks=1)

    def spoiled(name: str, spoil: Any) -> list[str]:
        shutil.copytree(tmp_path / "good", tmp_path / name)
        spoil(tmp_path / name / "input")
        assert_not_believed(tmp_path / name, data, name)
        return [str(damage) for damage in LogReader(tmp_path / name, "input").verify()]

    missing = spoiled("missing", lambda log: (log / "00000001.seg").unlink())
    assert any("segment 1 is missing" in text for text in missing)
    swapped = spoiled("swapped", lambda log: shutil.copy(log / "00000002.seg", log / "00000001.seg"))
    assert any("it is segment 2 of the log input" in text for text in swapped)
    foreign = spoiled("foreign", lambda log: shutil.copy(tmp_path / "other/input/00000001.seg", log / "00000001.seg"))
    assert any("chain does not go on" in text for text in foreign)


def test_a_log_without_its_last_segments_is_not_closed(tmp_path: Path) -> None:
    write(tmp_path, market(3 * BLOCK_ROWS), segment_blocks=1)
    (tmp_path / "input/00000002.seg").unlink()
    with LogReader(tmp_path, "input") as log:
        assert (log.rows_total, log.closed) == (2 * BLOCK_ROWS, False)


def test_another_record_layout_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(frames, "LAYOUT_HASH", 0xABCDEF)
        write(tmp_path, market(10))
    with pytest.raises(LayoutError, match="0000000000abcdef"):
        LogReader(tmp_path, "input")
