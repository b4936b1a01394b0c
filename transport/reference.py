"""Records by reference: an input log that names rows of a tape instead of storing them a second time.

The input log of a replay is almost wholly rows of tapes that lie on the disk already. Such a block is stored as *runs*, each
either consecutive rows of one tape or rows of the line's own (reports, timers, commands), and those own rows, packed:

    payload   | previous ts_seq i64 | runs u32 | own rows u32 | runs of STORED_RUN | own rows, packed |

The reader makes the records again as the line saw them: `seq` counts on from the run's first, `ts_seq_ns` is
max(previous ts_seq_ns, ts_recv_ns), `epoch` is the run's, everything else is the tape's. Own rows are stored stamped. The chain
hash is over the materialised records, so a log by reference and an embedded one of the same run have the same hash.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from transport.compiled import I64, REC_T, ROWS_T, array_t, carray, intrinsic, kernel, types
from transport.errors import DamagedError
from transport.pack import BLOCK_ROWS, Rows, packed, unpack_block, words_of
from transport.records import REC, empty

OWN = -1  # source of a run of the line's own rows
SOURCES_MAX = 2**15 - 1
RUN = np.dtype([("source", "<i8"), ("first", "<i8"), ("count", "<i8"), ("seq", "<i8")])
STORED_RUN = np.dtype([("first", "<i8"), ("seq", "<i8"), ("source", "<i2"), ("epoch", "<u2"), ("count", "<u4")])
HEAD = struct.Struct("<qII")
BAD_SOURCE, BAD_RANGE, BAD_OWN = -1, -2, -3
WRONG = {
    BAD_SOURCE: "a run of a source that was not given",
    BAD_RANGE: "a run beyond the rows of its tape",
    BAD_OWN: "more own rows asked for than stored, or more rows than a block has",
}

_READ_ROWS = types.Array(REC_T, 1, "C", readonly=True)
_READ_RUNS = types.Array(array_t(RUN).dtype, 1, "C", readonly=True)
_READ_STORED = types.Array(array_t(STORED_RUN).dtype, 1, "C", readonly=True)
_READ_I64 = types.Array(types.int64, 1, "C", readonly=True)
_COUNTS = array_t(np.int64)


def _as_pointer(typing_context: Any, address: Any) -> Any:
    """The address as a pointer; its owner keeps the memory."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


_pointer: Any = intrinsic(_as_pointer)


@kernel(I64(_READ_ROWS, I64, I64, ROWS_T, I64, I64, I64, types.uint16))
def copy_run(tape_rows, first, count, out_rows, out_at, first_seq, previous_ts_seq, epoch):
    """Copy `count` rows of a tape from `first` to out_rows[out_at:] and stamp them; returns the last ts_seq_ns.

    The caller has checked both ranges.
    """
    now = previous_ts_seq
    for i in range(count):
        out_rows[out_at + i] = tape_rows[first + i]
        row = out_rows[out_at + i]
        now = max(now, row.ts_recv_ns)
        row.seq = first_seq + i
        row.ts_seq_ns = now
        row.epoch = epoch
    return now


@kernel(I64(_READ_STORED, I64, I64, _READ_I64, _READ_I64, _READ_ROWS, I64, ROWS_T, I64, I64))
def materialise(runs, first, last, addresses, lengths, own, own_at, out, out_at, previous_ts_seq):
    """The records of runs[first:last] to out[out_at:]; returns how many, or one of BAD_* where a run is out of bounds.

    `addresses` and `lengths` (rows) are the tapes'; own rows are taken in order from own[own_at].
    """
    at = out_at
    now = previous_ts_seq
    for k in range(first, last):
        run = runs[k]
        count = np.int64(run.count)
        if count > out.size - at:
            return np.int64(BAD_OWN)
        if run.source == OWN:
            if count > own.size - own_at:
                return np.int64(BAD_OWN)
            for i in range(count):
                out[at + i] = own[own_at + i]
            own_at += count
            if count > 0:
                now = out[at + count - 1].ts_seq_ns
        else:
            if run.source < 0 or run.source >= addresses.size:
                return np.int64(BAD_SOURCE)
            length = lengths[run.source]
            if run.first < 0 or run.first > length - count:
                return np.int64(BAD_RANGE)
            tape = carray(_pointer(addresses[run.source]), (length,), REC)
            now = copy_run(tape, run.first, count, out, at, run.seq, now, run.epoch)
        at += count
    return at - out_at


@kernel(I64(_READ_RUNS, _COUNTS, types.uint16, array_t(STORED_RUN), I64, I64, I64))
def take_runs(runs, cursor, epoch, stored, at, keep, room):
    """Move up to `room` rows of `runs` behind stored[:at], cutting the last run where the block ends; returns the new `at`.

    `cursor` is [run, rows of it taken before] and is moved on; [2] and [3] become the rows and the own rows taken now. A run
    that goes on where the stored one ended is joined to it, unless that one is below `keep` (already on disk).
    """
    cursor[2] = cursor[3] = 0
    while cursor[0] < runs.size and cursor[2] < room:
        run = runs[cursor[0]]
        done = cursor[1]
        count = min(run.count - done, room - cursor[2])
        if count > 0:
            first, seq = run.first + done, run.seq + done
            joined = at > keep and stored[at - 1].source == run.source and stored[at - 1].epoch == epoch
            if joined:
                before = stored[at - 1]
                size = np.int64(before.count)
                joined = run.source == OWN or (before.first + size == first and before.seq + size == seq)
            if joined:
                stored[at - 1].count += np.uint32(count)
            else:
                stored[at].source, stored[at].first, stored[at].seq = run.source, first, seq
                stored[at].epoch, stored[at].count = epoch, count
                at += 1
            cursor[2] += count
            if run.source == OWN:
                cursor[3] += count
        if done + count >= run.count:
            cursor[0] += 1
            cursor[1] = 0
        else:
            cursor[1] = done + count
    return at


class Sources:
    """The tapes a log refers to, by index, as kernels take them; keeps them alive."""

    def __init__(self, tapes: Sequence[Rows] = ()) -> None:
        if len(tapes) > SOURCES_MAX:
            raise ValueError(f"{len(tapes)} sources, at most {SOURCES_MAX}")
        for rows in tapes:
            words_of(rows)
        self.tapes = tuple(tapes)
        self.addresses = np.array([rows.ctypes.data for rows in tapes], np.int64)
        self.lengths = np.array([len(rows) for rows in tapes], np.int64)

    def check(self, runs: np.ndarray[Any, Any], own_rows: int) -> None:
        """Raise ValueError for runs outside the sources, or own runs that do not add up to `own_rows`."""
        if runs.dtype != RUN or runs.ndim != 1 or not runs.flags.c_contiguous:
            raise ValueError("runs must be a contiguous array of RUN")
        source, first, count = runs["source"], runs["first"], runs["count"]
        if np.any(source < OWN) or np.any(source >= len(self.tapes)) or np.any(count < 0):
            raise ValueError(f"a run of a negative count, or of a source that is not one of {len(self.tapes)}")
        fed = source != OWN
        if np.any(first[fed] < 0) or np.any(first[fed] > self.lengths[source[fed]] - count[fed]):
            raise ValueError("a run reaches beyond its tape")
        if int(count[~fed].sum()) != own_rows:
            raise ValueError(f"runs name {int(count[~fed].sum())} own rows, {own_rows} were given")


def encode(previous_ts_seq: int, runs: np.ndarray[Any, Any], own: Rows) -> bytes:
    """The payload of a block by reference."""
    return HEAD.pack(previous_ts_seq, len(runs), len(own)) + runs.tobytes() + packed(own)


def decode(payload: bytes, rows: int, sources: Sources) -> Rows:
    """The `rows` materialised records of a payload; raises DamagedError where it cannot be one of them."""
    if len(payload) < HEAD.size:
        raise DamagedError("the payload is shorter than its head")
    previous, run_count, own_count = HEAD.unpack_from(payload)
    if run_count > BLOCK_ROWS or own_count > BLOCK_ROWS or len(payload) < HEAD.size + run_count * STORED_RUN.itemsize:
        raise DamagedError("the payload's head is damaged")
    runs = np.frombuffer(payload, STORED_RUN, run_count, HEAD.size)
    own, out = empty(own_count), empty(rows)
    unpack_block(memoryview(payload)[HEAD.size + runs.nbytes :], own, own_count)
    made = int(materialise(runs, 0, run_count, sources.addresses, sources.lengths, own, 0, out, 0, previous))
    if made != rows:
        raise DamagedError(WRONG.get(made, f"runs give {made} records, the block has {rows}"))
    return out
