"""Tapes: what was imported is what is mapped, and a damaged block is named."""

from __future__ import annotations

import errno
import hashlib
import os
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transport import disk, tape
from transport.errors import DamagedError, LayoutError, StorageError
from transport.instruments import Instrument
from transport.pack import BLOCK_ROWS, chain_next, chain_start, packed
from transport.records import SLOT_BYTES, empty
from transport.reference import copy_run
from transport.tape import HEADER_BYTES, NO_INSTRUMENT, Tape, TapeWriter, source_facts

BTC = Instrument("BTCUSDT", "binance", Decimal("0.01"), Decimal("0.00001"), quote="USDT")
ETH = Instrument("ETHUSDT", "binance", Decimal("0.010"), Decimal("1E-4"), multiplier=Decimal("0.1"), book="l3")


def rows_of(count: int, seed: int = 1) -> np.ndarray:
    """Rows of every byte, of instruments 0 and 1."""
    rows = empty(count)
    rows.view("u1")[:] = np.random.default_rng(seed).integers(0, 256, count * SLOT_BYTES, np.uint8)
    rows["instrument_id"] = np.arange(count) % 2
    return rows


def write(path: Path, rows: np.ndarray, split: int = 10**9) -> None:
    with TapeWriter(path, [BTC, ETH], {"sources": []}) as writer:
        for at in range(0, len(rows), split):
            writer.append(rows[at : at + split])


@pytest.mark.parametrize("count", [0, 1, BLOCK_ROWS - 1, BLOCK_ROWS, 2 * BLOCK_ROWS + 5])
def test_maps_the_rows_and_instruments_that_were_written(tmp_path: Path, count: int) -> None:
    rows = rows_of(count)
    write(tmp_path / "a.tape", rows)
    with Tape.open(tmp_path / "a.tape") as found:
        assert len(found) == len(found.rows) == count
        assert found.rows.tobytes() == rows.tobytes()
        assert found.instruments == [BTC, ETH]
        assert found.provenance == {"sources": []}
        assert found.verify() == []


def test_content_is_the_chain_over_packed_blocks_however_it_was_fed(tmp_path: Path) -> None:
    rows = rows_of(2 * BLOCK_ROWS + 100)
    digest = chain_start("tape")
    for at in range(0, len(rows), BLOCK_ROWS):
        digest = chain_next(digest, packed(rows[at : at + BLOCK_ROWS]))
    for split in (7, 1000, BLOCK_ROWS, 5000, 10**6):
        write(tmp_path / f"{split}.tape", rows, split)
        with Tape.open(tmp_path / f"{split}.tape") as found:
            assert found.content == digest.hex()
    assert (tmp_path / "7.tape").read_bytes() == (tmp_path / "5000.tape").read_bytes()


def test_rows_are_read_only_and_slots_never_reach_the_file(tmp_path: Path) -> None:
    rows = rows_of(100)
    write(tmp_path / "a.tape", rows)
    with Tape.open(tmp_path / "a.tape") as found:
        with pytest.raises(ValueError, match="read-only"):
            found.rows["seq"][0] = 1
        out = empty(100)
        copy_run(found.rows, 0, 100, out, 0, 1, 0, 1)
        assert out["origin"].tolist() == rows["origin"].tolist()
        found.slots["seq"][:] = 0
        assert found.verify() == []
    with Tape.open(tmp_path / "a.tape") as again:
        assert again.rows.tobytes() == rows.tobytes()


def test_arrays_taken_from_a_tape_outlive_it(tmp_path: Path) -> None:
    rows = rows_of(50)
    write(tmp_path / "a.tape", rows)
    with Tape.open(tmp_path / "a.tape") as found:
        kept = found.rows[10:20]
    assert kept.tobytes() == rows[10:20].tobytes()


def test_a_damaged_block_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.tape", rows_of(3 * BLOCK_ROWS + 10))
    data = bytearray((tmp_path / "a.tape").read_bytes())
    for row in (BLOCK_ROWS + 3, 3 * BLOCK_ROWS + 9):
        data[HEADER_BYTES + row * SLOT_BYTES + 77] ^= 4
    (tmp_path / "a.tape").write_bytes(data)
    with Tape.open(tmp_path / "a.tape") as found:
        assert [(d.segment, d.block, d.first_row) for d in found.verify()] == [
            ("a.tape", 1, BLOCK_ROWS),
            ("a.tape", 3, 3 * BLOCK_ROWS),
        ]


def test_every_flipped_bit_and_every_truncation_is_reported(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    write(tmp_path / "a.tape", rows_of(300))
    good = (tmp_path / "a.tape").read_bytes()
    ends = [len(good), HEADER_BYTES, 200]
    for trial in range(200):
        bad = bytearray(good)
        if trial % 4 == 0:
            bad = bad[: chance.randrange(len(good))]
        else:
            bad[chance.randrange(ends[trial % 3])] ^= 1 << chance.randrange(8)
        (tmp_path / "a.tape").write_bytes(bad)
        try:
            with Tape.open(tmp_path / "a.tape") as found:
                assert found.verify(), f"trial {trial}"
        except (DamagedError, LayoutError):
            pass


def test_a_block_mended_with_its_sum_does_not_give_the_content_hash(tmp_path: Path) -> None:
    rows = rows_of(100)
    write(tmp_path / "a.tape", rows)
    rows["qty_lots"][50] ^= 1
    write(tmp_path / "b.tape", rows)
    other = tape.decode_facts((tmp_path / "b.tape").read_bytes()[:HEADER_BYTES], tmp_path)
    with Tape.open(tmp_path / "a.tape") as found:
        forged = tape.encode_facts(other._replace(content=found.facts.content))
    (tmp_path / "b.tape").write_bytes(forged + (tmp_path / "b.tape").read_bytes()[HEADER_BYTES:])
    with Tape.open(tmp_path / "b.tape") as found:
        assert ["content hash" in d.what for d in found.verify()] == [True]


def test_another_layout_and_another_file_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tape, "LAYOUT_HASH", 0xABCDEF)
        write(tmp_path / "a.tape", rows_of(3))
    with pytest.raises(LayoutError, match="0000000000abcdef"):
        Tape.open(tmp_path / "a.tape")
    (tmp_path / "b.csv").write_text("time,price\n" * 1000)
    with pytest.raises(LayoutError, match="is not a tape"):
        Tape.open(tmp_path / "b.csv")


def test_a_row_of_an_unknown_instrument_is_refused(tmp_path: Path) -> None:
    rows = rows_of(10)
    with TapeWriter(tmp_path / "a.tape", [BTC, ETH]) as writer:
        rows["instrument_id"][4] = 2
        with pytest.raises(ValueError, match="row 4: instrument 2"):
            writer.append(rows)
        rows["instrument_id"][4] = NO_INSTRUMENT
        writer.append(rows)
    with Tape.open(tmp_path / "a.tape") as found:
        assert len(found) == 10


def test_an_import_that_fails_leaves_no_tape_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def import_feed() -> None:
        with TapeWriter(tmp_path / "a.tape", [BTC, ETH]) as writer:
            writer.append(rows_of(5000))
            raise RuntimeError("the source ended in the middle of a line")

    with pytest.raises(RuntimeError, match="middle of a line"):
        import_feed()
    real = os.write

    def full(fd: int, data: Any) -> int:
        if memoryview(data).nbytes > HEADER_BYTES:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr(disk.os, "write", full)
        with pytest.raises(StorageError, match=r"a\.tape: No space left"):
            write(tmp_path / "a.tape", rows_of(5000))
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_file_is_refused_before_a_row_is_written_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(StorageError, match=f"{name} is there and is no file"):
            TapeWriter(tmp_path / name, [BTC, ETH])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "pipe"]
    assert (tmp_path / "pipe").is_fifo()


def test_a_tail_that_no_reader_would_take_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tape, "TAIL_BYTES_MAX", 1000)
    writer = TapeWriter(tmp_path / "a.tape", [BTC, ETH], {"sources": ["x" * 1000]})
    writer.append(rows_of(10))
    with pytest.raises(ValueError, match="a tape's tail has at most 1000 bytes, this one 1"):
        writer.close()
    assert list(tmp_path.iterdir()) == []


def test_provenance_names_the_source_files_and_their_hashes(tmp_path: Path) -> None:
    (tmp_path / "trades.csv").write_bytes(b"1,2,3\n")
    facts = source_facts([tmp_path / "trades.csv"])
    assert facts == [{"name": "trades.csv", "bytes": 6, "sha256": hashlib.sha256(b"1,2,3\n").hexdigest()}]
    with TapeWriter(tmp_path / "a.tape", [BTC, ETH], {"sources": facts, "source_id": 16}) as writer:
        writer.append(rows_of(3))
    with Tape.open(tmp_path / "a.tape") as found:
        assert found.provenance == {"sources": facts, "source_id": 16}
