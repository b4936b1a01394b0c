"""How a line runs in several processes, and INGEST's compiled loop there; the workers' is in `engine.worker_loop`.

    INGEST ── INPUT ──► every worker               stamped records; a record's position in the ring is its seq
    a stage ── its ring ──► next stage, INGEST     rows; its watermark says up to which seq they are all there
    exchange ── REPORTS ──► INGEST                 what it answered; watermark: the last seq its process has handled

Why the sequence is that of `run_fused`. There an arrival at the exchange at time a comes before the next candidate at time t if
a < t, else after it, and t is known. Here two processes must agree on that without either waiting for nothing.

 INGEST admits a candidate at t only while t < safe. A report that it has not seen yet is made by an arrival that is pending at
 the exchange, so it is due at NEXT_OUT or later; or by an input from `handled + 1` on, so it is due L after that input's time
 or later (L, the least way back, > 0). `safe` is the lesser of both: no report that is still to come is due before it.
 The exchange lets an arrival at a happen in two cases. Before it handles a record with a later time: INGEST admitted that one
 knowing that no report came between. Or, when it has handled all there is, before INGEST's horizon: the time of the candidate
 that `peek` gave for exactly these inputs and exactly these reports, hence `run_fused`'s own next candidate.
 Neither waits for ever: INGEST shows its horizon before it waits; an arrival that holds it up is earlier than that horizon by L.

Four stores carry it, each a release with its acquire; what is said first is loaded last:
 1. exchange: rows and reports published, then NEXT_OUT, then the watermark, then its INPUT slots released.
    INGEST: watermark, then NEXT_OUT, then REPORTS drained. So NEXT_OUT is no older than the watermark, and the reports
    made up to either are in the queue.
 2. INGEST: the horizon between two stores of TURN (odd while it is being written).
    exchange: TURN, the horizon, TURN again: the same even number twice means that the three values belong together.
 3. stage: rows published, then its watermark. Next stage: watermark, then rows: every row of a seq at or below it is there.
    INPUT up to that seq is there as well: the stage before saw it before it said so.
 4. INGEST: STOP or CLOSED; a worker looks at both every turn.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engine.loops import DONE, FAULT, LOGS_FULL, LOOK_EVERY, PACED, SLICE_OVER, WANTS_WINDOW
from handlers.domain import edges
from handlers.domain.borrowed import borrow
from handlers.domain.memory import copy_slot
from handlers.domain.queue import NEVER, push
from handlers.ingest.sequencer import NOTHING, STARVED, admit_feed, admit_own, close_line, full, peek
from transport.atomics import cycles, fence_release, load_acquire, store_release
from transport.compiled import kernel
from transport.records import CHECKPOINT
from transport.ring import consumer_cell, control_cell, head, mask, publish, readable, release, tail, watermark, whole_rows, writable
from transport.wait import PARK, SPINS, relax

HELD, CROWDED = 5, 6  # why sequencing stopped, besides the reasons in engine.loops: the exchange may be earlier; INPUT is full
INPUT_SLOTS = 1 << 14  # 2 MiB: a few ms of a burst; INGEST is ahead of the slowest worker by no more
BATCH = 64  # records between two publications while there is more to do
QUIET = 1 << 14  # turns in vain after which even a spinning waiter sleeps between two looks: the feed has paused
# Control cells of INPUT, written by INGEST, and of REPORTS, written by the exchange.
TURN, HORIZON_SEQ, HORIZON_TAKEN, HORIZON_NS, STOP = (control_cell(k) for k in range(5))
NEXT_OUT = control_cell(0)
BY_INGEST, BY_NEXT = 0, 1  # consumers of a stage's rows; INGEST reads REPORTS too


class Edge(NamedTuple):
    """A ring as its kernels take it."""

    cursors: np.ndarray
    slots: np.ndarray


class Rows(NamedTuple):
    """The rings of the deciding stages."""

    features: Edge
    signals: Edge
    risk: Edge
    orders: Edge


@kernel(inline=True)
def beat(cursors, me):
    """Count one more sign that worker `me` of INPUT moves, whether it had anything to do or not."""
    cell = consumer_cell(me)
    store_release(cursors, cell, cursors[cell] + 1)  # pairs with the load in the supervisor


@kernel
def take_log(edge, log, counts, k, only_checkpoints, control):
    """Move a stage's rows to its log, as far as there is room; whether none was left. One that it may not send stays: a fault."""
    cursors, slots = edge.cursors, edge.slots
    while True:
        there = readable(cursors, BY_INGEST)
        if there == 0:
            return True
        at, wrap = tail(cursors, BY_INGEST), mask(cursors)
        n = min(there, len(log) - counts[k])
        if n < there:
            n = whole_rows(slots, at, wrap, n)
        if n == 0:
            return False
        for i in range(n):
            row = slots[(at + i) & wrap]
            if only_checkpoints and row.kind != CHECKPOINT:
                continue  # SIGNALS looks at it
            fault = edges.forged(edges.FEATURES + k, row)
            if fault:
                control.fault, control.fault_seq = fault, row.seq
                release(cursors, BY_INGEST, i)
                return False
            copy_slot(log[counts[k]], row)
            counts[k] += 1
        release(cursors, BY_INGEST, n)


@kernel(inline=True)
def take_logs(line, rows):
    """Move the rows of every stage to the logs; whether none was left. FEATURES' own ring also has what SIGNALS reads."""
    logs, control = line.logs, line.control[0]
    all_taken = take_log(rows.features, logs.features, logs.counts, 0, not control.log_features, control)
    all_taken &= take_log(rows.signals, logs.signals, logs.counts, 1, False, control)
    all_taken &= take_log(rows.risk, logs.risk, logs.counts, 2, False, control)
    all_taken &= take_log(rows.orders, logs.orders, logs.counts, 3, False, control)
    return all_taken


@kernel
def take_what_is_left(owned, rows):
    """`take_logs` for Python, once workers have ended; whether there is nothing left to take."""
    line = borrow(owned)
    return take_logs(line, rows) or line.control[0].fault != 0


@kernel
def take_reports(edge, reports):
    """Put every report that is published among those that wait for their time; returns 0, or a fault, the forged one left there."""
    cursors, slots = edge.cursors, edge.slots
    while True:
        n = readable(cursors, BY_INGEST)
        if n == 0:
            return np.int64(0)
        at, wrap = tail(cursors, BY_INGEST), mask(cursors)
        for i in range(n):
            report = slots[(at + i) & wrap]
            fault = edges.forged(edges.REPORTS, report)
            if fault:
                release(cursors, BY_INGEST, i)
                return fault
            push(reports, report, report.ts_recv_ns)
        release(cursors, BY_INGEST, n)


@kernel(inline=True)
def look_back(line, inputs, back, last):
    """(safe, whether the exchange is at rest): before `safe` no report is due that is not in the queue of reports now.

    `last` is the last seq published. The slot of `handled + 1` is still the one we wrote: the exchange releases a slot after
    the watermark that passes it, so had we been granted it again, we would have loaded a higher watermark now.
    """
    handled = watermark(back.cursors)  # before NEXT_OUT: pairs with `settle`
    next_out = load_acquire(back.cursors, NEXT_OUT)  # before the reports: pairs with `settle`
    fault = take_reports(back, line.paper.reports)
    if fault:
        line.control[0].fault, line.control[0].fault_seq = fault, last + 1
        return -NEVER, False
    if handled == last:
        return next_out, next_out == NEVER
    following = inputs.slots[(handled + 1) & mask(inputs.cursors)].ts_seq_ns
    return min(next_out, following + line.paper.paper[0].back_ns), False


@kernel(inline=True)
def show_horizon(cursors, seq, taken, when):
    """Say that after input `seq` and `taken` reports the next candidate's time is `when`."""
    if (
        cursors[HORIZON_SEQ] == seq and cursors[HORIZON_TAKEN] == taken and cursors[HORIZON_NS] == when
    ):  # our own cells, already so
        return
    turn = cursors[TURN]
    store_release(cursors, TURN, turn + 1)
    fence_release()  # the odd number is seen before any of the three
    store_release(cursors, HORIZON_SEQ, seq)
    store_release(cursors, HORIZON_TAKEN, taken)
    store_release(cursors, HORIZON_NS, when)
    store_release(cursors, TURN, turn + 2)  # pairs with the loads of TURN in `horizon`


@kernel(merged=True)
def sequence(line, inputs, safe):
    """Admit and publish candidates before `safe`, at most LOOK_EVERY; returns (why it stopped, what is `safe` after them)."""
    s = line.sequencer
    reports, until_ns, return_ns = line.paper.reports, line.control[0].until_ns, line.paper.paper[0].back_ns
    cursors, slots = inputs.cursors, inputs.slots
    wrap = mask(cursors)
    written = np.int64(0)  # and not yet published
    why = SLICE_OVER
    for _ in range(LOOK_EVERY):
        source, when = peek(s, reports)
        if source == STARVED:
            why = WANTS_WINDOW
        elif when >= safe:
            why = HELD
        elif when >= until_ns:
            why = PACED
        elif full(s):
            why = LOGS_FULL
        elif writable(cursors, written + 1) <= written:
            why = CROWDED
        if why != SLICE_OVER:
            break
        r = slots[(head(cursors) + written) & wrap]
        if source >= 0:
            admit_feed(s, source, r)
        else:
            fault = admit_own(s, reports, source, when, r)
            if fault:
                line.control[0].fault, line.control[0].fault_seq = fault, r.seq
                why = FAULT
                break
        safe = min(safe, r.ts_seq_ns + return_ns)
        written += 1
        if written == BATCH:
            publish(cursors, written)
            written = 0
    if written:
        publish(cursors, written)
    return why, safe


@kernel(merged=True)
def consult(line, inputs, back):
    """Look what the exchange has come to, and show it the next candidate; returns (what to do, what is `safe` now)."""
    s, reports = line.sequencer, line.paper.reports
    last = s.head[0].next_seq - 1
    safe, at_rest = look_back(line, inputs, back, last)
    source, when = peek(s, reports)
    if source == NOTHING and at_rest:
        if not close_line(s):
            return DONE, safe
        source, when = peek(s, reports)
    show_horizon(inputs.cursors, last, tail(back.cursors, BY_INGEST), when)
    if when >= safe:
        return HELD, safe
    return (PACED if when >= line.control[0].until_ns else SLICE_OVER), safe


@kernel(inline=True)
def ingest(line, inputs, rows, back, strategy, deadline):
    """`run_ingest` on a borrowed line, for a compiled loop around it: a call with the line's arrays takes longer than a hop."""
    safe = -NEVER  # until we have looked
    fresh = SPINS if strategy == PARK else 0  # who shares its core does not spin even once
    idle = fresh
    while True:
        why, safe = sequence(line, inputs, safe)
        if why == HELD or why == PACED:
            why, safe = consult(line, inputs, back)
        if not take_logs(line, rows):  # after the exchange's watermark: once it is DONE every row is there
            return FAULT if line.control[0].fault else LOGS_FULL
        if line.control[0].fault:
            return FAULT
        if why == SLICE_OVER:
            idle = fresh
        elif why == HELD or why == CROWDED:
            idle = relax(PARK if idle > QUIET else strategy, idle)
        else:
            return why
        if cycles() > deadline:
            return SLICE_OVER


@kernel
def run_ingest(owned, inputs, rows, back, strategy, deadline):
    """Sequence until `deadline` (cycles) or until Python is needed; returns why it came back, as `run_fused` does."""
    return ingest(borrow(owned), inputs, rows, back, strategy, deadline)
