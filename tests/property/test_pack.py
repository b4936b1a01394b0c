"""Packing held to a short Python oracle, to any bytes at all, and to bytes that were damaged."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.errors import DamagedError
from transport.pack import (
    BLOCK_ROWS,
    chain_next,
    chain_start,
    new_scratch,
    pack_block,
    packed,
    packed_bytes_max,
    unpack_block,
    unpack_words,
    words_of,
)
from transport.records import BOOK_DELTA, LAYOUT_HASH, REC, SLOT_BYTES, empty

M = 2**64 - 1
PROT_NONE = 0


def rows_from(data: bytes) -> np.ndarray:
    rows = empty(len(data) // SLOT_BYTES)
    rows.view("u1")[:] = memoryview(data)
    return rows


def realistic(rows: int, seed: int) -> np.ndarray:
    """Book deltas of one instrument, as a venue sends them."""
    rng = np.random.default_rng(seed)
    out = empty(rows)
    times = 1_700_000_000_000_000_000 + np.cumsum(rng.integers(1_000, 2_000_000, rows))
    out["seq"] = np.arange(1, rows + 1)
    out["ts_event_ns"] = times
    out["ts_recv_ns"] = times + rng.integers(400_000, 900_000, rows)
    out["ts_seq_ns"] = np.maximum.accumulate(out["ts_recv_ns"])
    out["source_id"], out["kind"] = 16, BOOK_DELTA
    out["flags"], out["side"] = rng.integers(0, 2, rows), rng.integers(1, 3, rows)
    out["price_ticks"] = 600_000 + np.cumsum(rng.integers(-20, 21, rows))
    out["qty_lots"] = rng.integers(0, 100_000, rows)
    out["venue_seq"] = np.arange(rows) * 2
    return out


def oracle(data: bytes) -> bytes:
    """The format of the module's drawing, byte by byte."""

    def zigzag(d: int) -> int:
        d &= M
        return d << 1 & M if d < 2**63 else (~d << 1 & M) | 1

    out, before = b"", [0] * 16
    for at in range(0, len(data), SLOT_BYTES):
        now = [int.from_bytes(data[at + 8 * w : at + 8 * w + 8], "little") for w in range(16)]
        d = [(a - b) & M for a, b in zip(now, before, strict=True)]
        z = [zigzag(d[0] - 1), zigzag(d[1]), zigzag(d[2] - d[1]), zigzag(d[3] - d[2])]
        z += [((x := now[w] ^ before[w]) << 16 & M) | x >> 48 for w in (4, 5)]
        z += [zigzag(d[w]) for w in range(6, 16)]
        kept = [v.to_bytes((v.bit_length() + 7) // 8, "little") for v in z if v]
        lengths = sum(len(v) << 4 * j for j, v in enumerate(kept))
        mask = sum(1 << w for w, v in enumerate(z) if v)
        out += mask.to_bytes(2, "little") + lengths.to_bytes((len(kept) + 1) // 2, "little") + b"".join(kept)
        before = now
    return out


@given(st.lists(st.binary(min_size=SLOT_BYTES, max_size=SLOT_BYTES), max_size=12))
def test_any_bytes_come_back_exactly_and_pack_as_the_oracle_says(slots: list[bytes]) -> None:
    data = b"".join(slots)
    small = packed(rows_from(data))
    assert small == oracle(data)
    back = empty(len(slots))
    unpack_block(small, back, len(slots))
    assert back.tobytes() == data


@given(st.integers(0, 2**32), st.integers(1, 300))
def test_sparse_words_of_every_length_come_back_exactly(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    out = empty(rows)
    words = words_of(out)
    words[:] = rng.integers(0, 2**64, len(words), np.uint64) >> rng.integers(0, 64, len(words), np.uint64)
    words[rng.random(len(words)) < 0.5] = 0
    small = packed(out)
    assert small == oracle(out.tobytes())
    back = empty(rows)
    unpack_block(small, back, rows)
    assert back.tobytes() == out.tobytes()


def test_market_records_shrink_to_a_sixth_and_come_back() -> None:
    rows = realistic(BLOCK_ROWS, seed=1)
    small = packed(rows)
    assert len(small) < rows.nbytes / 6
    back = empty(BLOCK_ROWS)
    unpack_block(small, back, BLOCK_ROWS)
    assert back.tobytes() == rows.tobytes()


def test_worst_records_fit_the_stated_room_exactly() -> None:
    rows = rows_from(b"".join((b"\x40" if i % 2 else b"\xbf") * SLOT_BYTES for i in range(BLOCK_ROWS)))
    room = packed_bytes_max(BLOCK_ROWS)
    out = np.full(room + 64, 0xA5, np.uint8)
    used = pack_block(rows, out[:room])
    assert used <= room - 8
    assert (out[room:] == 0xA5).all()


def test_refuses_too_little_room_and_rows_that_are_not_slots() -> None:
    with pytest.raises(ValueError, match="bytes of room"):
        pack_block(empty(3), np.empty(10, np.uint8))
    with pytest.raises(ValueError, match="contiguous"):
        words_of(empty(8)[::2])
    with pytest.raises(ValueError, match="contiguous"):
        words_of(np.zeros(128, np.uint8))  # type: ignore[arg-type]


def guarded(data: bytes) -> tuple[mmap.mmap, np.ndarray]:
    """`data` ending where a page begins that must not be touched: one byte read beyond it kills the process."""
    pages = -(-len(data) // mmap.PAGESIZE) + 1
    memory = mmap.mmap(-1, pages * mmap.PAGESIZE)
    view = np.frombuffer(memory, np.uint8)
    start = view.ctypes.data + (pages - 1) * mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    view[(pages - 1) * mmap.PAGESIZE - len(data) : (pages - 1) * mmap.PAGESIZE] = np.frombuffer(data, np.uint8)
    assert libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(mmap.PAGESIZE), PROT_NONE) == 0
    return memory, view[(pages - 1) * mmap.PAGESIZE - len(data) : (pages - 1) * mmap.PAGESIZE]


def test_damaged_bytes_are_never_read_past_their_end_nor_written_past_the_rows(seed: int) -> None:
    chance = random.Random(seed)
    rows = realistic(64, seed=2)
    good = packed(rows)
    for _ in range(400):
        bad = bytearray(good[: chance.randrange(1, len(good) + 1)])
        for _ in range(chance.randrange(4)):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        memory, data = guarded(bytes(bad))
        out = empty(66)
        out.view("u1")[:] = 0x5A
        used = unpack_words(data, len(data), words_of(out), 1, 64, new_scratch())
        assert used <= len(data)
        edges = out.view("u1")
        assert (edges[:SLOT_BYTES] == 0x5A).all()
        assert (edges[-SLOT_BYTES:] == 0x5A).all()
        del data
        assert len(memory) >= mmap.PAGESIZE


def test_every_truncation_and_every_extension_is_damage() -> None:
    rows = realistic(20, seed=3)
    good = packed(rows)
    out = empty(20)
    for size in range(len(good)):
        with pytest.raises(DamagedError, match="record"):
            unpack_block(good[:size], out, 20)
    with pytest.raises(DamagedError, match="1 bytes left"):
        unpack_block(good + b"\0", out, 20)


def test_lengths_of_zero_or_beyond_eight_are_damage() -> None:
    for nibble in (0, 9, 15):
        with pytest.raises(DamagedError, match="record 0 of 1"):
            unpack_block(bytes([1, 0, nibble, *range(9)]), empty(1), 1)


def test_blocks_are_independent_of_what_came_before() -> None:
    rows = realistic(2 * BLOCK_ROWS, seed=4)
    assert packed(rows[BLOCK_ROWS:]) == packed(rows_from(rows[BLOCK_ROWS:].tobytes()))


def test_chain_is_the_sha256_it_is_said_to_be() -> None:
    first = hashlib.sha256(b"tickline log 1" + b"input" + LAYOUT_HASH.to_bytes(8, "little")).digest()
    assert chain_start("input") == first
    data = packed(realistic(10, seed=5))
    assert chain_next(first, data) == hashlib.sha256(first + data).digest()
    assert chain_next(first, np.frombuffer(data, np.uint8)) == hashlib.sha256(first + data).digest()


def test_packed_bytes_stay_those_of_version_1() -> None:
    rows = empty(2)
    rows["seq"] = [7, 8]
    rows["ts_event_ns"] = [1_000, 1_005]
    rows["ts_recv_ns"] = [1_100, 1_103]
    rows["ts_seq_ns"] = [1_100, 1_103]
    rows["kind"], rows["price_ticks"] = 1, [-3, -4]
    first, second = "57002111010cd007c80105", "460011010a0301"
    assert packed(rows).hex() == first + second
    assert rows.dtype == REC
