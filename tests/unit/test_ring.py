"""One process, both ends: what a ring grants, shows, gives back, waits for and refuses."""

from __future__ import annotations

import random
import time
from functools import partial

import numpy as np
import pytest

from transport import ring as r
from transport.atomics import load_cell, store_cell
from transport.errors import LayoutError, SegmentError
from transport.records import SLOT_BYTES, empty
from transport.ring import LAPPED, LINE, PRODUCER, TAP_LOST, TAP_POSITION, Peer, Ring, tap_from
from transport.segment import Segment, process_start
from transport.wait import PARK, SPIN, YIELD

MS = 1_000_000


def rows_from(first, count):
    """`count` records whose seq and price are first, first + 1, …"""
    rows = empty(count)
    rows["seq"] = rows["price_ticks"] = np.arange(first, first + count)
    return rows


def push(ring, first, count):
    return r.push(ring.cursors, ring.slots, rows_from(first, count), 0, count)


def pop(ring, consumer, most):
    """The seqs of the records that were popped."""
    out = empty(most)
    count = r.pop(ring.cursors, ring.slots, consumer, out)
    assert (out["seq"] == out["price_ticks"]).all()
    return out["seq"][:count].tolist()


def read_tap(ring, tap, most):
    """LAPPED, or the seqs of the records that were read."""
    out = empty(most)
    count = r.tap_read(ring.cursors, ring.slots, tap, out)
    return LAPPED if count == LAPPED else out["seq"][:count].tolist()


# --- shape ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("capacity", [-8, 0, 1, 3, 6, 1000])
def test_refuses_a_capacity_that_is_not_a_power_of_two(capacity):
    with pytest.raises(ValueError, match=f"capacity {capacity} is not a power of two"):
        Ring.in_process(capacity)
    with pytest.raises(ValueError, match="power of two"):
        Ring.create("unit", "capacity", capacity)


@pytest.mark.parametrize("consumers", [-1, 9])
def test_refuses_more_gated_consumers_than_there_are_lines_for(consumers):
    with pytest.raises(ValueError, match="0 to 8"):
        Ring.in_process(8, consumers)


def test_every_cell_that_somebody_writes_has_a_line_to_itself():
    shared = [r.HEAD, r.GATE, r.CLAIMED, r.WATERMARK, r.CLOSED, r.PRODUCER_ID]
    shared += [r.control_cell(k) for k in range(r.CONTROL_CELLS)]
    for consumer in range(r.CONSUMERS_MAX):
        shared += [cell + consumer * r.CONSUMER for cell in (r.CURSOR, r.SEEN, r.CONSUMER_ID)]
    lines = [cell // LINE for cell in shared]
    assert len(set(lines)) == len(shared)
    assert 0 not in lines  # the constants' line
    assert max(shared) < r.CONTROL_BYTES // 8


def test_refuses_a_control_cell_that_does_not_exist():
    with pytest.raises(ValueError, match="has 8"):
        r.control_cell(8)
    with pytest.raises(ValueError, match="has 8"):
        r.control_cell(-1)


@pytest.mark.parametrize("make", [Ring.in_process, partial(Ring.create, "unit", "aligned")])
def test_cells_and_slots_begin_at_a_line_and_words_are_the_slots(make):
    ring = make(8)
    ring.unlink()
    assert ring.cursors.ctypes.data % r.LINE_BYTES == 0
    assert ring.slots.ctypes.data % SLOT_BYTES == 0
    assert (ring.slots.shape, ring.words.shape) == ((8,), (8, 16))
    ring.slots["seq"][3] = 12
    assert ring.words[3, 0] == 12


# --- producer and gated consumers -----------------------------------------------------------------------------------------
def test_a_full_ring_is_a_return_value():
    ring = Ring.in_process(4)
    assert push(ring, 0, 6) == 4
    assert push(ring, 4, 1) == 0
    assert r.writable(ring.cursors, 1) == 0
    assert pop(ring, 0, 1) == [0]
    assert push(ring, 4, 2) == 1
    assert pop(ring, 0, 9) == [1, 2, 3]  # those it knew of, then the one that came since
    assert pop(ring, 0, 9) == [4]


def test_an_empty_ring_is_a_return_value():
    ring = Ring.in_process(4)
    assert r.readable(ring.cursors, 0) == 0
    assert pop(ring, 0, 4) == []


def test_what_is_claimed_and_written_is_unseen_until_it_is_published():
    ring = Ring.in_process(8)
    assert r.writable(ring.cursors, 3) == 3
    ring.slots["seq"][:3] = 7
    assert r.readable(ring.cursors, 0) == 0
    r.publish(ring.cursors, 2)
    assert r.readable(ring.cursors, 0) == 2
    assert (r.head(ring.cursors), r.tail(ring.cursors, 0)) == (2, 0)


def test_what_is_granted_is_never_more_than_wanted_nor_than_there_is():
    ring = Ring.in_process(8)
    assert [r.writable(ring.cursors, want) for want in (0, 1, 8, 100)] == [0, 1, 8, 8]


def test_the_slowest_gated_consumer_holds_the_producer_back():
    ring = Ring.in_process(4, consumers=3)
    assert push(ring, 0, 4) == 4
    assert pop(ring, 0, 4) == [0, 1, 2, 3]
    assert pop(ring, 2, 3) == [0, 1, 2]
    assert r.writable(ring.cursors, 4) == 0
    assert pop(ring, 1, 2) == [0, 1]
    assert r.writable(ring.cursors, 4) == 2


def test_a_consumer_that_never_joined_gates_all_the_same():
    ring = Ring.in_process(4, consumers=2)
    ring.join(0)
    assert push(ring, 0, 4) == 4
    pop(ring, 0, 4)
    assert ring.peer(1) is Peer.ABSENT
    assert push(ring, 4, 1) == 0


def test_without_gated_consumers_the_producer_never_waits():
    ring = Ring.in_process(4, consumers=0)
    assert [push(ring, first, 4) for first in range(0, 40, 4)] == [4] * 10


def test_the_producer_looks_at_far_cursors_only_when_its_note_of_them_is_used_up():
    ring = Ring.in_process(8)
    push(ring, 0, 4)
    pop(ring, 0, 4)
    r.writable(ring.cursors, 4)
    assert ring.cursors[r.GATE] == 0  # 4 of 8 slots were known to be free
    r.writable(ring.cursors, 5)
    assert ring.cursors[r.GATE] == 4


def test_a_consumer_looks_at_the_head_only_when_its_note_of_it_is_used_up():
    ring = Ring.in_process(8)
    push(ring, 0, 2)
    assert r.readable(ring.cursors, 0) == 2
    push(ring, 2, 2)
    assert r.readable(ring.cursors, 0) == 2
    r.release(ring.cursors, 0, 2)
    assert r.readable(ring.cursors, 0) == 2


def test_a_record_goes_round_whole():
    ring, row, out = Ring.in_process(2), empty(1), empty(1)
    for turn in range(5):
        row.view(np.uint8)[:] = np.arange(SLOT_BYTES) + turn
        r.push(ring.cursors, ring.slots, row, 0, 1)
        assert r.pop(ring.cursors, ring.slots, 0, out) == 1
        assert out.tobytes() == row.tobytes()


def test_any_order_of_pushes_and_pops_gives_what_a_list_would(seed):
    draw = random.Random(seed)
    ring, written, read = Ring.in_process(16, consumers=3), 0, [0, 0, 0]
    for _ in range(3000):
        if draw.random() < 0.5:
            want = draw.randrange(1, 21)
            granted = push(ring, written, want)
            assert granted == min(want, 16 - (written - min(read)))
            written += granted
        else:
            consumer, most = draw.randrange(3), draw.randrange(1, 21)
            got = pop(ring, consumer, most)
            assert got == list(range(read[consumer], read[consumer] + len(got)))
            assert len(got) > 0 or read[consumer] == written
            read[consumer] += len(got)
        assert r.head(ring.cursors) == written
        assert [r.tail(ring.cursors, k) for k in range(3)] == read


# --- watermark, control cells, closing ------------------------------------------------------------------------------------
def test_the_watermark_begins_before_the_first_seq():
    ring = Ring.in_process(4)
    assert r.watermark(ring.cursors) == -1
    r.set_watermark(ring.cursors, 41)
    assert r.watermark(ring.cursors) == 41


def test_control_cells_begin_at_zero_and_keep_apart():
    ring = Ring.in_process(4)
    cells = [r.control_cell(k) for k in range(r.CONTROL_CELLS)]
    assert [load_cell(ring.cursors, cell) for cell in cells] == [0] * 8
    for k, cell in enumerate(cells):
        store_cell(ring.cursors, cell, k + 100)
    assert [load_cell(ring.cursors, cell) for cell in cells] == list(range(100, 108))
    assert (r.head(ring.cursors), r.watermark(ring.cursors)) == (0, -1)


def test_a_closed_ring_is_drained_once_its_last_record_is_released():
    ring = Ring.in_process(4)
    push(ring, 0, 2)
    assert not r.drained(ring.cursors, 0)
    r.mark_closed(ring.cursors)
    assert r.is_closed(ring.cursors)
    assert not r.drained(ring.cursors, 0)
    assert pop(ring, 0, 4) == [0, 1]
    assert r.drained(ring.cursors, 0)


# --- taps -----------------------------------------------------------------------------------------------------------------
def test_a_tap_reads_what_gated_consumers_read_and_holds_nobody_back():
    ring = Ring.in_process(4)
    tap = tap_from(ring)
    push(ring, 0, 3)
    assert read_tap(ring, tap, 2) == [0, 1]
    assert read_tap(ring, tap, 2) == [2]
    assert read_tap(ring, tap, 2) == []
    pop(ring, 0, 3)
    assert push(ring, 3, 4) == 4


def test_a_lapped_tap_is_told_moves_to_the_newest_and_counts_what_it_missed():
    ring = Ring.in_process(4, consumers=0)
    tap = tap_from(ring, 0)
    push(ring, 0, 4)
    push(ring, 4, 1)
    assert read_tap(ring, tap, 4) == LAPPED
    assert (tap[TAP_POSITION], tap[TAP_LOST]) == (5, 5)
    push(ring, 5, 2)
    assert read_tap(ring, tap, 4) == [5, 6]


def test_a_tap_a_whole_round_behind_is_not_lapped_yet():
    ring = Ring.in_process(4, consumers=0)
    tap = tap_from(ring, 0)
    push(ring, 0, 4)
    assert read_tap(ring, tap, 4) == [0, 1, 2, 3]


def test_a_claim_alone_laps_a_tap_because_the_slot_may_be_half_written():
    ring = Ring.in_process(4, consumers=0)
    tap = tap_from(ring, 0)
    push(ring, 0, 4)
    assert r.writable(ring.cursors, 1) == 1
    assert read_tap(ring, tap, 1) == LAPPED
    assert tap[TAP_LOST] == 4


def test_a_smaller_claim_does_not_take_back_a_larger_one():
    ring = Ring.in_process(8, consumers=0)
    r.writable(ring.cursors, 6)
    r.writable(ring.cursors, 1)
    assert load_cell(ring.cursors, r.CLAIMED) == 6


def test_a_tap_begins_at_the_newest_record_unless_told():
    ring = Ring.in_process(4, consumers=0)
    push(ring, 0, 3)
    assert tap_from(ring).tolist() == [3, 0]
    assert tap_from(ring, 1).tolist() == [1, 0]


# --- waiting --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("strategy", [SPIN, YIELD, PARK])
def test_waiting_ends_at_its_timeout(strategy):
    ring = Ring.in_process(4)
    r.await_readable(ring.cursors, 0, strategy, 0)  # compiled before the clock runs
    began_ns = time.monotonic_ns()
    assert r.await_readable(ring.cursors, 0, strategy, 5 * MS) == 0
    assert 5 * MS <= time.monotonic_ns() - began_ns < 2000 * MS
    push(ring, 0, 3)
    assert r.await_writable(ring.cursors, 2, strategy, MS) == 1


@pytest.mark.parametrize("strategy", [SPIN, YIELD, PARK])
def test_waiting_ends_at_once_when_there_is_something(strategy):
    ring = Ring.in_process(4)
    assert r.await_writable(ring.cursors, 4, strategy, 10**12) == 4
    push(ring, 0, 3)
    assert r.await_readable(ring.cursors, 0, strategy, 10**12) == 3


def test_waiting_ends_when_the_ring_is_closed_and_empty():
    ring = Ring.in_process(4)
    r.mark_closed(ring.cursors)
    assert r.await_readable(ring.cursors, 0, PARK, 10**12) == 0


# --- shared memory and who takes part -------------------------------------------------------------------------------------
def test_what_is_pushed_at_one_mapping_is_popped_at_the_other():
    with Ring.create("unit", "two_mappings", 8, consumers=2) as ring:
        other = Ring.attach(ring.name)
        assert (other.capacity, other.consumers) == (8, 2)
        push(ring, 5, 3)
        assert pop(other, 1, 8) == [5, 6, 7]
        assert r.tail(ring.cursors, 1) == 3
        other.close()
    with pytest.raises(SegmentError, match="no segment"):
        Ring.attach(ring.name)


def test_a_tap_needs_no_more_than_a_read_only_mapping():
    with Ring.create("unit", "read_only", 8) as ring:
        other = Ring.attach(ring.name, writable=False)
        tap = tap_from(other)
        push(ring, 0, 3)
        assert read_tap(other, tap, 8) == [0, 1, 2]
        with pytest.raises(ValueError, match="read-only"):
            other.cursors[r.HEAD] = 9


def test_a_segment_that_is_no_ring_is_refused():
    with (
        Segment.create("unit", "no_ring", "journal", 8192) as segment,
        pytest.raises(LayoutError, match="is a journal"),
    ):
        Ring.attach(segment.name)


def test_joining_gives_the_position_to_go_on_from():
    ring = Ring.in_process(8, consumers=2)
    push(ring, 0, 5)
    pop(ring, 1, 3)
    assert [ring.join(who) for who in (PRODUCER, 0, 1)] == [5, 0, 3]
    assert [ring.peer(who) for who in (PRODUCER, 0, 1)] == [Peer.ALIVE] * 3


def test_who_leaves_is_absent_and_not_dead():
    ring = Ring.in_process(8)
    assert ring.peer(0) is Peer.ABSENT
    assert not ring.peer_alive(0)
    ring.join(0)
    assert ring.peer_alive(0)
    ring.leave(0)
    assert ring.peer(0) is Peer.ABSENT


def test_a_part_whose_holder_runs_is_refused_and_a_dead_holders_is_taken():
    ring = Ring.in_process(8)
    ring.join(0)
    mine = int(load_cell(ring.cursors, r.CONSUMER_ID))
    store_cell(ring.cursors, r.CONSUMER_ID, process_start(1) << 22 | 1)
    assert ring.peer(0) is Peer.ALIVE
    with pytest.raises(SegmentError, match="consumer 0 of ring in this process is process 1, which runs"):
        ring.join(0)
    ring.leave(0)
    assert ring.peer(0) is Peer.ALIVE  # what is not ours we do not give up
    store_cell(ring.cursors, r.CONSUMER_ID, mine + (1 << 22))  # our pid, started a tick later: not us
    assert ring.peer(0) is Peer.DEAD
    assert ring.join(0) == 0
    assert int(load_cell(ring.cursors, r.CONSUMER_ID)) == mine


def test_a_producer_that_joins_reopens_a_closed_ring():
    ring = Ring.in_process(8)
    r.mark_closed(ring.cursors)
    ring.join(PRODUCER)
    assert not r.is_closed(ring.cursors)


def test_refuses_a_consumer_that_was_not_declared():
    ring = Ring.in_process(8, consumers=1)
    for call in (ring.join, ring.leave, ring.peer):
        with pytest.raises(ValueError, match="consumer 1 of ring in this process: this ring has 1"):
            call(1)
