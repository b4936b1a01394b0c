"""A ring between real processes, under everything the scheduler does to them.

One producer, two gated consumers and one tap, each a process of its own, over a ring so small that it wraps thousands of times.
Record p carries p in its first word, words made from p after it, and in its last a checksum of the fifteen before. Batches of 1,
of 16 and random ones of 1 to 64, on both sides.

What a ring may show:
  - a gated consumer: p, p + 1, p + 2, … from the position where it joined, each whole, until it has them all;
  - a tap: whole records in order; or LAPPED, and then its position has grown by exactly what it has lost more;
  - the producer: room for 0 to `want` records, never so that an unreleased one is overwritten;
  - after a SIGKILL anywhere: the peer is DEAD, what was published is whole, what was not released is still there, and who takes
    the part over goes on at the cursor, with no record missing and none made up.
What it may never show: a torn record, a record twice, one missing, one before its turn, a head below one seen earlier.

100 million records by 16; singly and in random batches 2 million, where waiting for each other takes most of the time, and 100
million with TICKLINE_LONG=1. With checked indices all are 2 million.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from transport import ring as r
from transport.atomics import load_acquire
from transport.compiled import kernel
from transport.records import empty
from transport.ring import LAPPED, PRODUCER, TAP_LOST, TAP_POSITION, Peer, Ring, tap_from
from transport.segment import SHM, Segment, sweep
from transport.wait import YIELD

FEW = 2_000_000
MANY = FEW if os.environ.get("NUMBA_BOUNDSCHECK") == "1" else 100_000_000
SOME = MANY if os.environ.get("TICKLINE_LONG") == "1" else FEW
CAPACITY = 1024
TAP_ROWS = 256
WORDS = 16
SLICE_NS = 20_000_000  # a kernel comes back this often when nothing moves
LIMIT_S = 250.0  # then something is wrong, or the machine is drowning
SPAWN = multiprocessing.get_context("spawn")  # as workers are started; a fork would share what must not be


# --- records that give themselves away ------------------------------------------------------------------------------------
@kernel(inline=True)
def mixed(position, k):
    """A word of a record: an odd multiple of its position, so that no two records share one at the same place."""
    x = (position + 1) * (2 * k + 1) * -7046029254386353131
    return x ^ (x >> 29)


@kernel(inline=True)
def write_record(words, slot, position):
    total = position
    words[slot, 0] = position
    for k in range(1, WORDS - 1):
        x = mixed(position, k)
        words[slot, k] = x
        total = total * 31 + x
    words[slot, WORDS - 1] = total


@kernel(inline=True)
def is_whole(words, slot, position):
    """Whether the slot holds record `position` and its checksum, which is taken over the words that are there."""
    total = words[slot, 0]
    for k in range(1, WORDS - 1):
        total = total * 31 + words[slot, k]
    return words[slot, 0] == position and words[slot, WORDS - 1] == total and words[slot, 7] == mixed(position, 7)


@kernel(inline=True)
def next_batch(batch, state):
    """`batch`, or for 0 a random one of 1 to 64 (xorshift over state[0], never 0)."""
    if batch > 0:
        return batch
    x = state[0]
    x ^= x << 13
    x ^= (x >> 7) & 0x1FFFFFFFFFFFFFF
    x ^= x << 17
    state[0] = x
    return 1 + (x & 63)


@kernel
def produce(cursors, words, stop, batch, state):
    """Write records up to position `stop`; returns early when nothing was granted for SLICE_NS."""
    while r.head(cursors) < stop:
        size = min(next_batch(batch, state), stop - r.head(cursors))
        granted = r.await_writable(cursors, size, YIELD, SLICE_NS)
        if granted == 0:
            return
        first = r.head(cursors)
        for i in range(granted):
            write_record(words, (first + i) & r.mask(cursors), first + i)
        r.publish(cursors, granted)


@kernel
def consume(cursors, words, consumer, stop, batch, state):
    """Check records up to `stop`; the position of the first wrong one, or -1; returns early when none came for SLICE_NS."""
    while r.tail(cursors, consumer) < stop:
        known = r.await_readable(cursors, consumer, YIELD, SLICE_NS)
        if known == 0:
            return -1
        first = r.tail(cursors, consumer)
        size = min(known, next_batch(batch, state))
        for i in range(size):
            if not is_whole(words, (first + i) & r.mask(cursors), first + i):
                return first + i
        r.release(cursors, consumer, size)
    return -1


@kernel
def follow(cursors, slots, tap, out, out_words, state, turns):
    """Read as a tap, counting in `state` what was seen and how often it was lapped; the first wrong position, or -1."""
    seen_head = 0
    for _ in range(turns):
        at, lost = tap[TAP_POSITION], tap[TAP_LOST]
        count = r.tap_read(cursors, slots, tap, out)
        head = load_acquire(cursors, r.HEAD)  # pairs with the store of `publish`
        if head < seen_head:
            return head
        seen_head = head
        if count == LAPPED:
            state[1] += 1
            if tap[TAP_POSITION] - at != tap[TAP_LOST] - lost:
                return at
            continue
        for i in range(count):
            if not is_whole(out_words, i, at + i):
                return at + i
        state[0] += count
    return -1


# --- processes ------------------------------------------------------------------------------------------------------------
def drive(ring: Ring, who: int, stop: int, batch: int, seed: int) -> int:
    """Be the producer or a gated consumer until position `stop`; the first wrong position, or -1."""
    ring.join(who)
    state, end, wrong = np.array([seed * 2 + 1], np.int64), time.monotonic() + LIMIT_S, -1
    place: Callable[[], int] = lambda: r.head(ring.cursors) if who == PRODUCER else r.tail(ring.cursors, who)  # noqa: E731
    while place() < stop and wrong < 0:
        if time.monotonic() > end:
            raise TimeoutError(f"{who} stands at {place():,} of {stop:,}")
        if who == PRODUCER:
            produce(ring.cursors, ring.words, stop, batch, state)
        else:
            wrong = consume(ring.cursors, ring.words, who, stop, batch, state)
    if wrong < 0:
        ring.leave(who)
    return wrong


def work(name: str, who: int, stop: int, batch: int, seed: int) -> int:
    """`drive`, in another process."""
    ring = Ring.attach(name)
    try:
        return drive(ring, who, stop, batch, seed)
    finally:
        ring.close()


def tap_along(name: str) -> dict[str, int]:
    """Follow a ring, from its beginning to its closing, over a read-only mapping; what was seen, lost, and wrong."""
    ring = Ring.attach(name, writable=False)
    tap, out, state = tap_from(ring, 0), empty(TAP_ROWS), np.zeros(2, np.int64)
    words, wrong, end = out.view(np.int64).reshape(TAP_ROWS, WORDS), -1, time.monotonic() + LIMIT_S
    while wrong < 0 and not (r.is_closed(ring.cursors) and tap[TAP_POSITION] == r.head(ring.cursors)):
        assert time.monotonic() < end, f"the tap stands at {tap[TAP_POSITION]:,}"
        wrong = follow(ring.cursors, ring.slots, tap, out, words, state, 256)
        time.sleep(0)  # a tap yields to those who are waited for
    ring.close()
    return {"seen": int(state[0]), "lapped": int(state[1]), "lost": int(tap[TAP_LOST]), "wrong": wrong}


def die_owning(pipe: multiprocessing.connection.Connection) -> None:
    """Make a segment, say its name, and wait to be killed."""
    segment = Segment.create("litmus", "orphan", "ring", 4096)
    pipe.send(segment.name)
    time.sleep(LIMIT_S)


def wait_until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, f"not within a minute: {what}"
        time.sleep(0.001)


def kill(process: multiprocessing.process.BaseProcess) -> None:
    """SIGKILL, and wait until it is a zombie; it is not reaped yet, as a supervisor would find it."""
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


@pytest.fixture(scope="module")
def pool():
    warm = Ring.in_process(64, 1)  # every kernel is compiled once here, and found in the cache by the others
    assert drive(warm, PRODUCER, 64, 0, 1) == -1
    assert drive(warm, 0, 64, 0, 1) == -1
    with ProcessPoolExecutor(3, mp_context=SPAWN) as workers:
        yield workers


# --- tests ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("batch", "records"), [(1, SOME), (16, MANY), (0, SOME)], ids=["singly", "by_16", "random"])
def test_two_consumers_and_a_tap_see_every_record_whole_and_in_order(pool, batch, records, seed):
    with Ring.create("litmus", f"batch_{batch}", CAPACITY, consumers=2) as ring:
        consumers = [pool.submit(work, ring.name, k, records, batch, seed + k) for k in range(2)]
        tap = pool.submit(tap_along, ring.name)
        began = time.monotonic()
        drive(ring, PRODUCER, records, batch, seed + 2)
        assert [consumer.result() for consumer in consumers] == [-1, -1]
        seconds = time.monotonic() - began
        r.mark_closed(ring.cursors)
        seen = tap.result()
        assert seen["wrong"] == -1
        assert seen["seen"] + seen["lost"] == records
        assert (seen["lost"] > 0) == (seen["lapped"] > 0)
        assert [r.tail(ring.cursors, k) for k in range(2)] == [records, records]
        print(f"{records:,} records, {records / seconds / 1e6:.1f} M/s, tap {seen}")


def test_a_killed_consumer_is_noticed_and_its_successor_goes_on_at_its_cursor(pool, seed):
    stop = 400_000
    with Ring.create("litmus", "dead_consumer", CAPACITY) as ring:
        victim = SPAWN.Process(target=work, args=(ring.name, 0, stop, 0, seed))
        victim.start()
        ring.join(PRODUCER)
        state = np.array([2 * seed + 1], np.int64)
        wait_until(lambda: ring.peer_alive(0), "the consumer joins")
        wait_until(
            lambda: produce(ring.cursors, ring.words, 100_000, 0, state) or r.tail(ring.cursors, 0) > 50_000, "it reads"
        )
        kill(victim)
        assert ring.peer(0) is Peer.DEAD
        victim.join()
        produce(ring.cursors, ring.words, stop, 0, state)  # until the ring is full, and not one record further
        left_at = r.tail(ring.cursors, 0)
        assert r.head(ring.cursors) == min(left_at + CAPACITY, stop)
        successor = pool.submit(work, ring.name, 0, stop, 16, seed)
        assert drive(ring, PRODUCER, stop, 0, seed) == -1
        assert successor.result() == -1
        assert r.tail(ring.cursors, 0) == stop
        print(f"killed at {left_at:,}")


def test_a_killed_producer_is_noticed_and_its_successor_goes_on_at_its_cursor(pool, seed):
    stop = 400_000
    with Ring.create("litmus", "dead_producer", CAPACITY) as ring:
        victim = SPAWN.Process(target=work, args=(ring.name, PRODUCER, 2**62, 0, seed))
        victim.start()
        assert drive(ring, 0, 100_000, 0, seed) == -1
        kill(victim)
        assert ring.peer(PRODUCER) is Peer.DEAD
        victim.join()
        left_at = r.head(ring.cursors)
        assert left_at >= 100_000
        successor = pool.submit(work, ring.name, PRODUCER, left_at + stop, 16, seed)
        assert drive(ring, 0, left_at + stop, 0, seed) == -1
        assert successor.result() == -1
        assert ring.peer(PRODUCER) is Peer.ABSENT
        print(f"killed at {left_at:,}")


def test_the_segment_of_a_killed_owner_is_swept_and_a_living_ones_is_not(pool):
    near, far = SPAWN.Pipe()
    owner = SPAWN.Process(target=die_owning, args=(far,))
    owner.start()
    with Segment.create("litmus", "alive", "ring", 4096) as mine:
        name = near.recv()
        assert (SHM / name).exists()
        assert name not in sweep()
        kill(owner)
        assert name in sweep()
        owner.join()
        assert not (SHM / name).exists()
        assert (SHM / mine.name).exists()
