"""A bounded queue of slots by due time: what is on its way to a venue, and what is on its way back.

A binary heap of (due, order of arrival) over a pool of slots; equal times keep their order. Capacity is fixed when it is made.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from transport.compiled import kernel
from transport.records import empty

NEVER = 2**62  # due time of an empty queue
_HEAD = np.dtype([("count", "i8"), ("arrivals", "i8"), ("next_due", "i8")])
_ENTRY = np.dtype([("due", "i8"), ("arrival", "i8"), ("slot", "i8")])


class Queue(NamedTuple):
    """`heap[0]` is the earliest; `free` lists the unused slots of `rows`; `head[0].next_due` is NEVER when empty."""

    head: np.ndarray
    heap: np.ndarray
    free: np.ndarray
    rows: np.ndarray


def new_queue(capacity: int) -> Queue:
    """Room for `capacity` slots."""
    head = np.zeros(1, _HEAD)
    head["next_due"] = NEVER
    return Queue(head, np.zeros(capacity, _ENTRY), np.arange(capacity, dtype=np.int64), empty(capacity))


@kernel(inline=True)
def room(q):
    """Slots still free."""
    return len(q.heap) - q.head[0].count


@kernel(inline=True)
def _before(a, b):
    return a.due < b.due or (a.due == b.due and a.arrival < b.arrival)


@kernel(inline=True)
def _swap(heap, i, j):
    due, arrival, slot = heap[i].due, heap[i].arrival, heap[i].slot
    heap[i].due, heap[i].arrival, heap[i].slot = heap[j].due, heap[j].arrival, heap[j].slot
    heap[j].due, heap[j].arrival, heap[j].slot = due, arrival, slot


@kernel
def push(q, record, due):
    """Copy `record` in, due at `due`; a full queue is a bug of the caller, who asks `room` first."""
    head = q.head[0]
    assert head.count < len(q.heap), "queue overflow"
    slot = q.free[head.count]
    q.rows[slot] = record
    i = head.count
    q.heap[i].due, q.heap[i].arrival, q.heap[i].slot = due, head.arrivals, slot
    head.arrivals += 1
    head.count += 1
    while i > 0 and _before(q.heap[i], q.heap[(i - 1) >> 1]):
        _swap(q.heap, i, (i - 1) >> 1)
        i = (i - 1) >> 1
    head.next_due = q.heap[0].due


@kernel
def push_first(q, rows, due):
    """`push` of rows[0], for Python, which cannot hand a single union record to a kernel."""
    push(q, rows[0], due)


@kernel(inline=True)
def pushed(q, k):
    """Slot of the entry that was pushed when the queue held `k`, as long as nothing has been popped since."""
    return q.free[k]


@kernel(inline=True)
def first(q):
    """Slot of the earliest entry, which stays; the queue is not empty."""
    return q.heap[0].slot


@kernel
def pop(q):
    """Slot of the earliest entry, its place freed: read `q.rows[slot]` before the next push."""
    head = q.head[0]
    slot = q.heap[0].slot
    head.count -= 1
    q.free[head.count] = slot
    _swap(q.heap, 0, head.count)
    i = 0
    while True:
        left = 2 * i + 1
        if left >= head.count:
            break
        if left + 1 < head.count and _before(q.heap[left + 1], q.heap[left]):
            left += 1
        if not _before(q.heap[left], q.heap[i]):
            break
        _swap(q.heap, i, left)
        i = left
    head.next_due = q.heap[0].due if head.count > 0 else NEVER
    return slot
