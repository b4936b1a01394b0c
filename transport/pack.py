"""Predict and byte-pack: the canonical bytes of a block of records, and the hash chain over them.

Market records barely differ from the one before, so a record is stored as what a simple prediction missed. All arithmetic is
on 64-bit words modulo 2**64, so that ANY 128 bytes come back exactly, padding included:

    word 0        seq        d = this - previous - 1
    word 1        ts_event   d = this - previous
    word 2        ts_recv    d = this - previous - d of ts_event
    word 3        ts_seq     d = this - previous - d of ts_recv (its plain difference)
    words 4, 5    small ids  x = (this xor previous) rotated by 16, which brings kind, flags, side and action to the low bytes
    words 6..15   the rest   d = this - previous

    a record:  | u16 mask of words that are not zero | a nibble of length (1..8) each, even count | their bytes, little-endian |

d is zigzag-coded (small negative numbers stay short), x is not. The first record of a block is predicted from zeros, so blocks
are independent. A *block* is BLOCK_ROWS consecutive records at multiples of BLOCK_ROWS from the start of a log; only the last
one of a closed log is shorter. Hence the packed bytes, and the chain

    digest_0 = SHA-256("tickline log 1" + name + layout hash)      digest_k = SHA-256(digest_(k-1) + packed bytes of block k)

depend on the records alone, not on how the writer was fed or how the disk holds them.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from transport.compiled import I64, U64, array_t, kernel, types
from transport.errors import DamagedError
from transport.records import LAYOUT_HASH, REC, SLOT_BYTES
from transport.words import leading_zeros, load_word, ones, store_word, trailing_zeros

BLOCK_ROWS = 4096
WORDS = SLOT_BYTES // 8
ROW_BYTES_MAX = 2 + WORDS // 2 + SLOT_BYTES  # mask, nibbles, every word whole
SPARE_BYTES = 8  # words are stored eight bytes at a time, past their own length
FIRST_ROTATED, LAST_ROTATED = 4, 5
SCRATCH_WORDS = 2 * WORDS  # one record's words, and a record of zeros
CHAIN_TAG = b"tickline log 1"

Rows = np.ndarray[Any, Any]
Bytes = Any  # contiguous bytes of any owner: bytes, memoryview, array

_READ_U64 = types.Array(U64, 1, "C", readonly=True)
_READ_U8 = types.Array(types.uint8, 1, "C", readonly=True)
_ONE, _ZERO, _SIGN = np.uint64(1), np.uint64(0), np.uint64(63)
_R16, _R48 = np.uint64(16), np.uint64(48)
_NIBBLE, _BYTE, _MASK = np.uint64(15), np.uint64(255), np.uint64(0xFFFF)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@kernel(inline=True)
def _zigzag(d):
    return (d << _ONE) ^ (_ZERO - (d >> _SIGN))


@kernel(inline=True)
def _unzigzag(z):
    return (z >> _ONE) ^ (_ZERO - (z & _ONE))


@kernel(inline=True)
def _change(words, at, before, past, word):
    return load_word(words, at + word) - load_word(before, past + word)


@kernel(inline=True)
def _keep(scratch, n, mask, z, word):
    """Put `z` at scratch[n] and count it when it is not zero: no branch, for the pattern is hard to predict."""
    store_word(scratch, n, z)
    some = np.uint64(z != _ZERO)
    return n + np.int64(some), mask | (some << np.uint64(word))


@kernel(inline=True)
def _pack_row(words, at, before, past, out, p, scratch):
    """One record against the one at before[past]; returns the index in `out` after it."""
    d1 = _change(words, at, before, past, 1)
    d2 = _change(words, at, before, past, 2)
    d3 = _change(words, at, before, past, 3)
    n, mask = _keep(scratch, 0, _ZERO, _zigzag(_change(words, at, before, past, 0) - _ONE), 0)
    n, mask = _keep(scratch, n, mask, _zigzag(d1), 1)
    n, mask = _keep(scratch, n, mask, _zigzag(d2 - d1), 2)
    n, mask = _keep(scratch, n, mask, _zigzag(d3 - d2), 3)
    for w in range(FIRST_ROTATED, LAST_ROTATED + 1):
        x = load_word(words, at + w) ^ load_word(before, past + w)
        n, mask = _keep(scratch, n, mask, (x << _R16) | (x >> _R48), w)
    for w in range(LAST_ROTATED + 1, WORDS):
        n, mask = _keep(scratch, n, mask, _zigzag(_change(words, at, before, past, w)), w)
    head = p + 2
    p = head + ((n + 1) >> 1)
    lengths = _ZERO
    for j in range(n):
        z = load_word(scratch, j)
        length = (71 - leading_zeros(z)) >> 3
        store_word(out, p, z)
        lengths |= np.uint64(length) << np.uint64(4 * j)
        p += length
    for j in range(2):
        out[np.uint64(head - 2 + j)] = np.uint8((mask >> np.uint64(8 * j)) & _BYTE)
    for j in range((n + 1) >> 1):
        out[np.uint64(head + j)] = np.uint8((lengths >> np.uint64(8 * j)) & _BYTE)
    return p


@kernel(I64(_READ_U64, I64, I64, array_t(np.uint8), array_t(np.uint64)))
def pack_words(words, first, count, out, scratch):
    """Pack `count` records of WORDS words each from record `first` on; returns the bytes written to `out`.

    `out` has room for packed_bytes_max(count); `scratch` is SCRATCH_WORDS words, the upper half zero.
    """
    p = np.int64(0)
    if count <= 0:
        return p
    p = _pack_row(words, first * WORDS, scratch, WORDS, out, p, scratch)
    for i in range(first + 1, first + count):
        p = _pack_row(words, i * WORDS, words, (i - 1) * WORDS, out, p, scratch)
    return p


@kernel(inline=True)
def _load(data, p, size):
    """Up to eight bytes from p on as a word; bytes from `size` on count as zero and are not read."""
    if p + 8 <= size:
        return load_word(data, p)
    word = _ZERO
    for j in range(p, size):
        word |= np.uint64(data[j]) << np.uint64(8 * (j - p))
    return word


@kernel(inline=True)
def _unpack_row(data, size, p, out, at, before, past, scratch):
    """One record to out[at]; returns the index in `data` after it, -1 when the bytes cannot be one."""
    if p + 2 > size:
        return np.int64(-1)
    mask = _load(data, p, size) & _MASK
    for w in range(WORDS):
        store_word(scratch, w, _ZERO)
    lengths = _load(data, p + 2, size)
    p += 2 + ((ones(mask) + 1) >> 1)
    while mask != _ZERO:
        length = np.int64(lengths & _NIBBLE)
        if length < 1 or length > 8 or p + length > size:
            return np.int64(-1)
        z = _load(data, p, size) & (_ALL >> np.uint64(64 - 8 * length))
        store_word(scratch, trailing_zeros(mask), z)
        lengths >>= np.uint64(4)
        mask &= mask - _ONE
        p += length
    if p > size:
        return np.int64(-1)
    d1 = _unzigzag(load_word(scratch, 1))
    d2 = _unzigzag(load_word(scratch, 2)) + d1
    d3 = _unzigzag(load_word(scratch, 3)) + d2
    store_word(out, at, load_word(before, past) + _unzigzag(load_word(scratch, 0)) + _ONE)
    store_word(out, at + 1, load_word(before, past + 1) + d1)
    store_word(out, at + 2, load_word(before, past + 2) + d2)
    store_word(out, at + 3, load_word(before, past + 3) + d3)
    for w in range(FIRST_ROTATED, LAST_ROTATED + 1):
        x = load_word(scratch, w)
        store_word(out, at + w, load_word(before, past + w) ^ ((x >> _R16) | (x << _R48)))
    for w in range(LAST_ROTATED + 1, WORDS):
        store_word(out, at + w, load_word(before, past + w) + _unzigzag(load_word(scratch, w)))
    return p


@kernel(I64(_READ_U8, I64, array_t(np.uint64), I64, I64, array_t(np.uint64)))
def unpack_words(data, size, out, first, count, scratch):
    """Unpack `count` records to record `first` of `out`; returns the bytes read, or -1 - i where record i is damaged.

    Reads nothing at or beyond data[size] and writes nothing beyond the records asked for, whatever the bytes are.
    """
    p = np.int64(0)
    for i in range(count):
        at = (first + i) * WORDS
        if i == 0:
            p = _unpack_row(data, size, p, out, at, scratch, np.int64(WORDS), scratch)
        else:
            p = _unpack_row(data, size, p, out, at, out, at - WORDS, scratch)
        if p < 0:
            return np.int64(-1 - i)
    return p


def new_scratch() -> np.ndarray[Any, Any]:
    """Working memory of one thread's packing."""
    return np.zeros(SCRATCH_WORDS, np.uint64)


def packed_bytes_max(rows: int) -> int:
    """Room that packing `rows` records may need."""
    return rows * ROW_BYTES_MAX + SPARE_BYTES


def words_of(rows: Rows) -> np.ndarray[Any, Any]:
    """The records' bytes as 64-bit words, shape (16 * rows,), no copy; raises ValueError unless they are contiguous slots.

    Copies go through words and never through REC itself: numpy copies a struct field by field and leaves padding behind.
    """
    if rows.dtype != REC or rows.ndim != 1 or not rows.flags.c_contiguous:
        raise ValueError(f"expected a contiguous row of slots, got dtype {rows.dtype.name}, shape {rows.shape}")
    return rows.view(np.uint64)


def pack_block(rows: Rows, out: np.ndarray[Any, Any]) -> int:
    """Pack `rows` (any count) into `out` (u1, at least packed_bytes_max(len(rows))); returns the bytes used."""
    if out.dtype != np.uint8 or len(out) < packed_bytes_max(len(rows)):
        raise ValueError(f"packing {len(rows)} rows needs {packed_bytes_max(len(rows))} bytes of room")
    return int(pack_words(words_of(rows), 0, len(rows), out, new_scratch()))


def packed(rows: Rows) -> bytes:
    """The packed bytes of `rows`."""
    out = np.empty(packed_bytes_max(len(rows)), np.uint8)
    return out[: pack_block(rows, out)].tobytes()


def unpack_block(data: Bytes, rows_out: Rows, count: int) -> None:
    """Unpack exactly `count` records, which must use up `data`; raises DamagedError where it is not so."""
    if not 0 <= count <= len(rows_out):
        raise ValueError(f"room for {len(rows_out)} rows, {count} asked for")
    raw = np.frombuffer(data, np.uint8)
    used = int(unpack_words(raw, len(raw), words_of(rows_out), 0, count, new_scratch()))
    if used < 0:
        raise DamagedError(f"packed record {-1 - used} of {count} is damaged")
    if used != len(raw):
        raise DamagedError(f"{len(raw) - used} bytes left after {count} packed records")


def chain_start(name: str) -> bytes:
    """digest_0 of the log `name` under this record layout."""
    return hashlib.sha256(CHAIN_TAG + name.encode() + LAYOUT_HASH.to_bytes(8, "little")).digest()


def chain_next(digest: bytes, data: Bytes) -> bytes:
    """The digest after the block whose packed bytes are `data`."""
    link = hashlib.sha256(digest)
    link.update(data)
    return link.digest()
