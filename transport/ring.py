"""Rings: one producer, up to CONSUMERS_MAX gated consumers, any number of ungated taps, over shared or private memory.

Positions count records from 0 and never wrap; record p stands in slot p & (capacity - 1), capacity a power of two.

          gated cursor (slowest)         HEAD           CLAIMED          slowest + capacity
    ──────────┴──────────────────────────┴────────────────┴────────────────────┴──────────► positions
     free     │ published, readable      │ being written  │ writable           │ not yet

Memory: `cursors`, int64 cells of which every one that is written has LINE_BYTES to itself (two cache lines: processors fetch
them in pairs), then `slots`. Who writes a line is the only one that ever writes it:

    line 0      CAPACITY, CONSUMERS         written before the ring is shown, then constant
    line 1      HEAD                        producer: everything below is published
    line 2      GATE                        producer's own note of the slowest gated cursor; nobody else reads it
    line 3      CLAIMED                     producer: everything from here on is untouched yet; taps read it
    line 4      WATERMARK                   producer: last seq its stage has handled, -1 before the first
    line 5      CLOSED                      producer: 1 after its last publish
    line 6      who the producer is         pid and start time in one cell, 0 for nobody
    line 7..14  control cells               the runner's: `control_cell(0)` to `control_cell(7)`, each with one writer
    line 15+3k  consumer k: its cursor | its own note of HEAD, a cell for its runner | who it is
    byte 8192   slots, 128 bytes each       (CONTROL_BYTES)

The ordering argument. Four pairs of a release store and the acquire load that sees its value carry all of it.
 1. publish: slot writes, then HEAD (release); readable: HEAD (acquire), then slot reads. Who sees a head sees every slot below.
 2. release: slot reads, then the cursor (release); writable: the cursor (acquire), then slot writes. The producer overwrites a
    slot only below `slowest + capacity`, so after its last gated reader is done with it. Hence no tearing and no loss.
 3. taps are not waited for, so they copy first and look afterwards, as with a sequence lock. writable: CLAIMED, release fence,
    slot writes; tap_read: slot reads, acquire fence, CLAIMED. If a copied byte came from a later round, the fences order that
    round's claim before our look: CLAIMED is then past the copied position + capacity, and the copy is thrown away.
 4. WATERMARK and CLOSED are stored (release) after the publishes they speak of, and loaded (acquire) before HEAD is: who sees
    the watermark at s finds every row of s, who sees CLOSED finds the last record.
GATE and the consumer's note of HEAD are copies of cells that only grow: a stale one shows too little room or too few records,
never too much, and is refreshed when it is not enough. A 64-bit aligned store is whole on the CPUs we run on, so a process that
is killed leaves the cursors at a record's boundary: what it had claimed was not published, what it had not released is still
there, and its successor goes on from the cursor it finds.
"""

from __future__ import annotations

import os
from enum import Enum
from typing import Any, Self

import numpy as np

from transport.atomics import fence_acquire, fence_release, load_acquire, load_cell, store_cell, store_release, swap_cell
from transport.compiled import kernel
from transport.errors import SegmentError
from transport.records import REC, SLOT_BYTES
from transport.segment import Segment, is_alive, process_start
from transport.wait import PASSED, deadline_of, relax

CONSUMERS_MAX = 8
LINE_BYTES = 128
LINE = LINE_BYTES // 8  # cells
CAPACITY, CONSUMERS = 0, 1
HEAD, GATE, CLAIMED, WATERMARK, CLOSED, PRODUCER_ID = (line * LINE for line in range(1, 7))
CONTROL, CONTROL_CELLS = 7 * LINE, 8
CURSOR, CONSUMER_LINES = 15 * LINE, 3
SEEN, CONSUMER_ID = CURSOR + LINE, CURSOR + 2 * LINE
CONSUMER = CONSUMER_LINES * LINE  # from one consumer's cells to the next one's
CONTROL_BYTES = 8192
PRODUCER = -1  # in place of a consumer's index
LAPPED = -1  # what tap_read returns
TAP_POSITION, TAP_LOST, TAP_CELLS = 0, 1, 2

_PID_BITS = 22  # Linux: pids are below 2**22
_KIND = "ring"


def control_cell(k: int) -> int:
    """Index in `cursors` of the k-th control cell, for `load_acquire` and `store_release`; one writer each."""
    if not 0 <= k < CONTROL_CELLS:
        raise ValueError(f"control cell {k}: a ring has {CONTROL_CELLS}")
    return CONTROL + k * LINE


# --- the producer ---------------------------------------------------------------------------------------------------------
@kernel(inline=True)
def _slowest(cursors, head):
    slowest = head  # without gated consumers nothing is waited for
    for consumer in range(cursors[CONSUMERS]):
        # pairs with the cursor store of `release`: its slot reads are over before our writes begin
        slowest = min(slowest, load_acquire(cursors, CURSOR + consumer * CONSUMER))
    return slowest


@kernel(inline=True)
def writable(cursors, want):
    """How many of `want` slots may be written now, from `head` on: 0 (full) to min(want, capacity). Producer only.

    What is granted may be written in any order and published in parts; no slot may be written without having been granted.
    """
    head = cursors[HEAD]  # our own: nobody else stores it
    room = cursors[GATE] + cursors[CAPACITY] - head
    if room < want:
        cursors[GATE] = _slowest(cursors, head)
        room = cursors[GATE] + cursors[CAPACITY] - head
    granted = max(min(want, room), 0)
    if head + granted > cursors[CLAIMED]:
        store_release(cursors, CLAIMED, head + granted)  # pairs with the load of CLAIMED in `tap_read`
        fence_release()  # the claim is seen before any write into what it claims
    return granted


@kernel(inline=True)
def publish(cursors, count):
    """Show the next `count` written slots, all at once. Producer only."""
    store_release(cursors, HEAD, cursors[HEAD] + count)  # pairs with the load of HEAD in `readable` and `tap_read`


@kernel(inline=True)
def head(cursors):
    """Position of the next record to be published; for the producer the place to write next."""
    return load_acquire(cursors, HEAD)  # pairs with the store of `publish`


@kernel(inline=True)
def set_watermark(cursors, seq):
    """Say that the stage has handled every input up to `seq` and published its rows. Producer only."""
    store_release(cursors, WATERMARK, seq)  # pairs with the load of `watermark`


@kernel(inline=True)
def mark_closed(cursors):
    """Say that nothing will follow. Producer only."""
    store_release(cursors, CLOSED, 1)  # pairs with the load of `is_closed`


# --- gated consumers ------------------------------------------------------------------------------------------------------
@kernel(inline=True)
def readable(cursors, consumer):
    """How many records may be read now, from `tail` on: 0 only when there was none, otherwise those we know of."""
    at = consumer * CONSUMER
    own = cursors[CURSOR + at]  # our own: nobody else stores it
    known = cursors[SEEN + at] - own
    if known > 0:
        return known
    cursors[SEEN + at] = load_acquire(cursors, HEAD)  # pairs with the store of `publish`
    return cursors[SEEN + at] - own


@kernel(inline=True)
def release(cursors, consumer, count):
    """Give the next `count` slots back to the producer; they may not be read any more."""
    cell = CURSOR + consumer * CONSUMER
    store_release(cursors, cell, cursors[cell] + count)  # pairs with the load of the cursor in `_slowest`


@kernel(inline=True)
def tail(cursors, consumer):
    """Position of the next record that `consumer` will read."""
    return load_acquire(cursors, CURSOR + consumer * CONSUMER)  # pairs with the store of `release`


@kernel(inline=True)
def mask(cursors):
    """capacity - 1: the slot of position p is p & mask."""
    return cursors[CAPACITY] - 1


@kernel(inline=True)
def watermark(cursors):
    """Last seq the producing stage has handled, -1 before the first. Load it before `readable`, and every row is there."""
    return load_acquire(cursors, WATERMARK)  # pairs with the store of `set_watermark`


@kernel(inline=True)
def is_closed(cursors):
    """Whether the producer has said that nothing will follow; records may still be unread."""
    return load_acquire(cursors, CLOSED) != 0  # pairs with the store of `mark_closed`


@kernel(inline=True)
def drained(cursors, consumer):
    """Whether the ring is closed and `consumer` has released its last record."""
    if not is_closed(cursors):
        return False
    # CLOSED was loaded first, HEAD now: the other way round the last records could be missed.
    return head(cursors) == tail(cursors, consumer)


@kernel(inline=True)
def consumer_cell(consumer):
    """Index in `cursors` of a cell that `consumer` alone writes, for the runner."""
    return SEEN + 1 + consumer * CONSUMER


@kernel(inline=True)
def whole_rows(slots, first, wrap, count):
    """The most of `count` slots from `first` on that does not end within a long row; the slot behind them is looked at.

    Who cannot move all there is moves that many, so that a long row is never seen in part. `wrap` -1 is an array that does not.
    """
    while count > 0 and slots[(first + count) & wrap].part > 0:
        count -= 1
    return count


# --- copies, and taps -----------------------------------------------------------------------------------------------------
@kernel
def push(cursors, slots, rows, start, stop):
    """Copy rows[start:stop] in, as many whole rows as there is room for, and publish them; returns the slots. Producer only.

    A long row must fit the ring, or it is never taken.
    """
    granted = writable(cursors, stop - start)
    if granted < stop - start:
        granted = whole_rows(rows, start, -1, granted)
    if granted > 0:
        first, wrap = cursors[HEAD], cursors[CAPACITY] - 1
        for i in range(granted):
            slots[(first + i) & wrap] = rows[start + i]
        publish(cursors, granted)
    return granted


@kernel
def pop(cursors, slots, consumer, out):
    """Copy the rows that are there into `out`, as many whole ones as it holds, and release them; returns the slots."""
    there = readable(cursors, consumer)
    count = min(there, out.size)
    if count > 0:
        first, wrap = cursors[CURSOR + consumer * CONSUMER], cursors[CAPACITY] - 1
        if count < there:
            count = whole_rows(slots, first, wrap, count)
        for i in range(count):
            out[i] = slots[(first + i) & wrap]
        release(cursors, consumer, count)
    return count


@kernel
def tap_read(cursors, slots, tap, out):
    """Copy records into `out` without gating the producer; returns how many, or LAPPED.

    `tap` is int64 (TAP_CELLS,) of the reader's own: its position, and how many records it has lost. LAPPED means that `out`
    holds nothing of use: the producer was a round ahead, the tap has moved to the newest record and counted what it missed.
    """
    first = tap[TAP_POSITION]
    there = head(cursors) - first
    count = min(there, out.size)
    if count <= 0:
        return 0
    wrap = cursors[CAPACITY] - 1
    if count < there:
        count = whole_rows(slots, first, wrap, count)
    for i in range(count):
        out[i] = slots[(first + i) & wrap]
    fence_acquire()  # the copy is made before we look how far the producer has claimed
    # pairs with the store of CLAIMED in `writable`
    if load_acquire(cursors, CLAIMED) > first + cursors[CAPACITY]:
        newest = head(cursors)
        tap[TAP_LOST] += newest - first
        tap[TAP_POSITION] = newest
        return LAPPED
    tap[TAP_POSITION] = first + count
    return count


# --- waiting --------------------------------------------------------------------------------------------------------------
@kernel
def await_readable(cursors, consumer, strategy, timeout_ns):
    """Wait for records: how many there are, 0 when none came in `timeout_ns` or the ring is closed and empty.

    Keep the timeout at 50 ms or less, so that Python gets to handle signals and dead peers.
    """
    idle, deadline_ns = 0, 0
    while True:
        count = readable(cursors, consumer)
        if count > 0 or drained(cursors, consumer):
            return count
        deadline_ns = deadline_of(strategy, idle, deadline_ns, timeout_ns)
        if deadline_ns == PASSED:
            return 0
        idle = relax(strategy, idle)


@kernel
def await_writable(cursors, want, strategy, timeout_ns):
    """Wait until all of `want` slots may be written: `want`, or what was granted when `timeout_ns` had passed."""
    idle, deadline_ns = 0, 0
    while True:
        granted = writable(cursors, want)
        if granted == want:
            return granted
        deadline_ns = deadline_of(strategy, idle, deadline_ns, timeout_ns)
        if deadline_ns == PASSED:
            return granted
        idle = relax(strategy, idle)


class Peer(Enum):
    """What is known of a ring's producer or of one of its consumers."""

    ABSENT = 0  # has not joined yet, or has left in order
    ALIVE = 1  # its process runs; whether it moves is told by its cursor or watermark
    DEAD = 2  # joined, and its process is gone


def _this_process() -> int:
    """pid and start time in one cell, so that they can neither be seen half-written nor mistaken for a later process."""
    return process_start(os.getpid()) << _PID_BITS | os.getpid()


def _check(capacity: int, consumers: int) -> None:
    if capacity < 2 or capacity & (capacity - 1):
        raise ValueError(f"ring capacity {capacity} is not a power of two >= 2")
    if not 0 <= consumers <= CONSUMERS_MAX:
        raise ValueError(f"{consumers} gated consumers: a ring takes 0 to {CONSUMERS_MAX}")


def _lay_out(memory: memoryview | np.ndarray[Any, Any], capacity: int, consumers: int) -> None:
    """Write the cells of an empty ring into zeroed memory."""
    cursors = np.frombuffer(memory, np.int64, CONTROL_BYTES // 8)
    cursors[CAPACITY], cursors[CONSUMERS], cursors[WATERMARK] = capacity, consumers, -1


class Ring:
    """A ring's memory as arrays for the kernels above, and who takes part in it.

    `cursors` int64 (CONTROL_BYTES / 8,), `slots` REC (capacity,), `words` int64 (capacity, 16): the same slots as plain words.
    The gated consumers are declared when it is made and gate from position 0 on, whether they have joined yet or not. As a
    context manager it closes, and unlinks a segment that was created here.
    """

    def __init__(self, memory: memoryview | np.ndarray[Any, Any], segment: Segment | None = None) -> None:
        raw = np.frombuffer(memory, np.uint8)
        self.segment = segment
        self.name = segment.name if segment else ""
        self.cursors = raw[:CONTROL_BYTES].view(np.int64)
        self.capacity, self.consumers = int(self.cursors[CAPACITY]), int(self.cursors[CONSUMERS])
        self.slots = raw[CONTROL_BYTES : CONTROL_BYTES + self.capacity * SLOT_BYTES].view(REC)
        self.words = self.slots.view(np.int64).reshape(self.capacity, SLOT_BYTES // 8)

    @classmethod
    def create(cls, run: str, edge: str, capacity: int, consumers: int = 1) -> Self:
        """A new ring in shared memory, owned by this process; errors of `Segment.create`, ValueError for a bad capacity."""
        _check(capacity, consumers)
        payload_bytes = CONTROL_BYTES + capacity * SLOT_BYTES
        segment = Segment.create(run, edge, _KIND, payload_bytes, lambda payload: _lay_out(payload, capacity, consumers))
        return cls(segment.payload, segment)

    @classmethod
    def attach(cls, name: str, writable: bool = True) -> Self:
        """Another process's ring; a tap may attach read-only. Errors of `Segment.attach`."""
        segment = Segment.attach(name, _KIND, writable)
        return cls(segment.payload, segment)

    @classmethod
    def in_process(cls, capacity: int, consumers: int = 1) -> Self:
        """A ring between the threads or stages of one process, over a plain array; ValueError for a bad capacity."""
        _check(capacity, consumers)
        raw = np.zeros(CONTROL_BYTES + capacity * SLOT_BYTES + LINE_BYTES, np.uint8)
        start = -raw.ctypes.data % LINE_BYTES
        memory = raw[start : start + CONTROL_BYTES + capacity * SLOT_BYTES]
        _lay_out(memory, capacity, consumers)
        return cls(memory)

    def join(self, who: int) -> int:
        """Take the part of PRODUCER or of a gated consumer; returns the position to go on from, a dead predecessor's.

        Raises SegmentError while another live process has the part. A producer that joins reopens a closed ring.
        """
        cell, mine = self._id_cell(who), _this_process()
        found = int(load_cell(self.cursors, cell))
        taken = self.peer(who) is Peer.ALIVE and found != mine
        if taken or not swap_cell(self.cursors, cell, found, mine):
            holder = int(load_cell(self.cursors, cell)) & ((1 << _PID_BITS) - 1)
            raise SegmentError(f"{self._part(who)} is process {holder}, which runs: stop it first")
        if who == PRODUCER:
            store_cell(self.cursors, CLOSED, 0)  # pairs with the load of `is_closed`
            return int(head(self.cursors))
        return int(tail(self.cursors, who))

    def leave(self, who: int) -> None:
        """Give the part up in order, so that nobody takes us for dead; nothing happens when it is not ours."""
        swap_cell(self.cursors, self._id_cell(who), _this_process(), 0)

    def peer(self, who: int) -> Peer:
        """What became of PRODUCER or a gated consumer; reads /proc, so ask when nothing has moved for a while."""
        found = int(load_cell(self.cursors, self._id_cell(who)))
        if found == 0:
            return Peer.ABSENT
        return Peer.ALIVE if is_alive(found & ((1 << _PID_BITS) - 1), found >> _PID_BITS) else Peer.DEAD

    def peer_alive(self, who: int) -> bool:
        """Whether somebody has that part and runs."""
        return self.peer(who) is Peer.ALIVE

    def close(self) -> None:
        """Let go of the segment; the memory is unmapped when this ring and the arrays taken from it go."""
        if self.segment is not None:
            self.segment.close()

    def unlink(self) -> None:
        """Take the segment's name away; idempotent."""
        if self.segment is not None:
            self.segment.unlink()

    def _id_cell(self, who: int) -> int:
        if not PRODUCER <= who < self.consumers:
            raise ValueError(f"{self._part(who)}: this ring has {self.consumers} gated consumers")
        return PRODUCER_ID if who == PRODUCER else CONSUMER_ID + who * CONSUMER

    def _part(self, who: int) -> str:
        return f"{'producer' if who == PRODUCER else f'consumer {who}'} of ring {self.name or 'in this process'}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self.segment is not None:
            self.segment.__exit__(*raised)


def tap_from(ring: Ring, position: int | None = None) -> np.ndarray[Any, Any]:
    """The state `tap_read` needs, from `position` on, the newest record unless told."""
    tap = np.zeros(TAP_CELLS, np.int64)
    tap[TAP_POSITION] = head(ring.cursors) if position is None else position
    return tap
