"""The compiled loop of a worker: one stage of the line, or all of them, on what INPUT brings; see `engine.ring_loops` for why.

    INPUT, rows of the stage before ──► handle ──► logs ──► own ring ──► settle: NEXT_OUT, watermark, INPUT slots given back

Only a worker with ORDERS has the exchange, its arrivals, and the reports under way, which stay in the exchange's own queue until
they are seen back as inputs: so that it is as full, and refuses as much, as in one thread.
"""

from __future__ import annotations

import numpy as np

from engine.loops import (
    DONE, FAULT, FEATURES, ORDERS, RISK, SIGNALS, SLICE_OVER, WHOLE, keep, lap, room_in_logs, same_slot, step_line,
)  # fmt: skip
from engine.observe.histogram import record as record_value
from engine.ring_loops import BATCH, BY_NEXT, HORIZON_NS, HORIZON_SEQ, HORIZON_TAKEN, NEXT_OUT, QUIET, STOP, TURN, beat
from handlers.domain import edges
from handlers.domain.book import apply_market
from handlers.domain.borrowed import borrow
from handlers.domain.memory import copy_slot
from handlers.domain.queue import NEVER, pop, pushed
from handlers.features.stage import step_checkpoint, step_features
from handlers.orders.brokers.paper import advance, on_market
from handlers.orders.stage import concerns_orders, step_orders
from handlers.risk.stage import concerns_risk, step_risk
from handlers.signals.stage import step_signals
from transport.atomics import cycles, fence_acquire, load_acquire, store_release
from transport.compiled import kernel
from transport.records import BY_EXCHANGE, CHECKPOINT
from transport.ring import drained, head, mask, publish, readable, release, set_watermark, tail, watermark, whole_rows, writable
from transport.wait import PARK, SPINS, relax

STOPPED = 7  # why the loop came back, besides those of engine.loops: INGEST's process said so
# A worker's own state between two calls: last seq handled, something to settle, reports under way, rows of each log handed on.
HANDLED, UNSETTLED, UNDER_WAY, SENT, STATE_CELLS = 0, 1, 2, 3, 7


@kernel(inline=True)
def horizon(cursors, handled, made):
    """Time of INGEST's next candidate, if it has seen just what we have handled and made; else -NEVER: not known."""
    turn = load_acquire(cursors, TURN)  # pairs with `show_horizon`
    seq, taken = load_acquire(cursors, HORIZON_SEQ), load_acquire(cursors, HORIZON_TAKEN)
    when = load_acquire(cursors, HORIZON_NS)
    fence_acquire()  # the three are read before TURN is read again
    if turn & 1 or load_acquire(cursors, TURN) != turn or seq != handled or taken != made:
        return -NEVER
    return when


@kernel
def send_reports(paper, edge, state):
    """Publish the reports made since this was done last."""
    q = paper.reports
    count = q.head[0].count
    fresh = count - state[UNDER_WAY]
    if fresh > 0:
        granted = writable(edge.cursors, fresh)
        assert granted == fresh, "REPORTS holds as many as the exchange may have under way"
        at, wrap = head(edge.cursors), mask(edge.cursors)
        for k in range(fresh):
            copy_slot(edge.slots[(at + k) & wrap], q.rows[pushed(q, state[UNDER_WAY] + k)])
        publish(edge.cursors, fresh)
        state[UNDER_WAY] = count


@kernel
def see_back(line, r):
    """A report has become an input: it leaves the exchange's queue, and must be the one that is due there."""
    reports = line.paper.reports
    assert reports.head[0].count > 0, "a report came back that was not made"
    made = line.scratch.input[1]
    copy_slot(made, reports.rows[pop(reports)])
    made.seq, made.ts_seq_ns, made.epoch = r.seq, r.ts_seq_ns, r.epoch
    assert same_slot(r, made), "a report came back out of turn"


@kernel
def before_input(line, back, r, state):
    """Whatever reaches the exchange before input `r`, and the report that `r` is, if it is one."""
    while advance(line.paper, line.markets, r.ts_seq_ns):
        pass
    send_reports(line.paper, back, state)
    if r.source_id == BY_EXCHANGE:
        see_back(line, r)
        state[UNDER_WAY] -= 1


@kernel(inline=True)
def rows_above(edge, number, seq, into):
    """Copy the rows that the stage before made of input `seq` over edge `number`; returns how many, or a negative fault.

    Checkpoints are for the log alone.
    """
    cursors, slots = edge.cursors, edge.slots
    n = np.int64(0)
    while readable(cursors, BY_NEXT) > 0:
        row = slots[tail(cursors, BY_NEXT) & mask(cursors)]
        if row.seq != seq:
            break
        fault = edges.forged(number, row)
        if fault:
            return fault
        if row.kind != CHECKPOINT:
            copy_slot(into[n], row)
            n += 1
        release(cursors, BY_NEXT, 1)
    return n


@kernel(merged=True)
def step_stage(line, stage, above, r, timed):
    """One stage on one stamped input: what `step_line` does for it, over a fold of the books of its own. Negative is a fault.

    A change of `step_line` is a change here: tests/sim/test_placements.py compares the logs of both.
    """
    began = cycles() if timed else np.int64(0)
    logs, counts, scratch = line.logs, line.logs.counts, line.scratch
    here = np.int64(r.instrument_id) if r.instrument_id < len(line.markets) else 0
    m = line.markets[here]
    if r.instrument_id < len(line.markets):
        apply_market(m, line.books, r)
        if stage == ORDERS:
            on_market(line.paper, m, r)
    if stage == FEATURES:
        n = step_features(line.features, m, r, scratch.features)
        n += step_checkpoint(line.features, r, n, scratch.features)
        counts[0] = keep(logs.features, counts[0], scratch.features, n)
    elif stage == SIGNALS:
        came = rows_above(above, edges.FEATURES, r.seq, scratch.features)
        if came < 0:
            return came
        n = step_signals(line.signals, line.markets, r, scratch.features, came, scratch.signals)
        if n < 0:
            return n
        counts[1] = keep(logs.signals, counts[1], scratch.signals, n)
    elif stage == RISK:
        came = rows_above(above, edges.SIGNALS, r.seq, scratch.signals)
        if came < 0:
            return came
        if came or concerns_risk(r.kind):
            n = step_risk(line.risk, line.markets, r, scratch.signals, came, scratch.risk)
            counts[2] = keep(logs.risk, counts[2], scratch.risk, n)
    else:
        came = rows_above(above, edges.RISK, r.seq, scratch.risk)
        if came < 0:
            return came
        if came or concerns_orders(r.kind):
            n = step_orders(line.orders, line.paper, line.markets, r, scratch.risk, came, scratch.orders)
            counts[3] = keep(logs.orders, counts[3], scratch.orders, n)
    if timed:
        lap(line, stage, began)
    return 1


@kernel
def hand_on(edge, log, counts, k, state):
    """Publish what a log holds and set the ring's watermark; whether all of it went out and the log is empty again."""
    cursors, slots = edge.cursors, edge.slots
    left = counts[k] - state[SENT + k]
    if left > 0:
        granted = writable(cursors, left)
        if granted < left:
            granted = whole_rows(log, state[SENT + k], -1, granted)
        at, wrap = head(cursors), mask(cursors)
        for i in range(granted):
            copy_slot(slots[(at + i) & wrap], log[state[SENT + k] + i])
        publish(cursors, granted)
        state[SENT + k] += granted
        if granted < left:
            return False
    counts[k] = state[SENT + k] = 0
    set_watermark(cursors, state[HANDLED])  # after the rows: pairs with `run_worker` of the next stage
    return True


@kernel(inline=True)
def hand_on_all(line, rows, state):
    """`hand_on` for every log; of a worker with one stage the other logs are empty, their rings nobody's."""
    logs = line.logs
    done = hand_on(rows.features, logs.features, logs.counts, 0, state)
    done &= hand_on(rows.signals, logs.signals, logs.counts, 1, state)
    done &= hand_on(rows.risk, logs.risk, logs.counts, 2, state)
    done &= hand_on(rows.orders, logs.orders, logs.counts, 3, state)
    return done


@kernel(inline=True)
def settle(line, inputs, me, back, state):
    """Say how far this worker is, its rows and reports being published, and give its INPUT slots back."""
    due = line.paper.arrivals.head[0].next_due
    next_out = NEVER if due == NEVER else due + line.paper.paper[0].back_ns
    store_release(back.cursors, NEXT_OUT, next_out)  # after the reports: pairs with `look_back`
    set_watermark(back.cursors, state[HANDLED])  # after NEXT_OUT: pairs with `look_back`
    release(inputs.cursors, me, state[HANDLED] + 1 - tail(inputs.cursors, me))


@kernel(merged=True)
def handle_input(line, stage, above, back, r, state):
    """Handle input `r`; 0, or a negative fault."""
    control, trades = line.control[0], stage >= ORDERS
    timed = r.seq & control.sample_mask == 0
    began = np.int64(0)
    code = edges.forged(edges.INPUT, r)
    if code == 0:
        if trades:
            before_input(line, back, r, state)
        if timed:
            began = cycles()
        code = step_line(line, r, timed) if stage == WHOLE else step_stage(line, stage, above, r, timed)
    if code < 0:
        control.fault, control.fault_seq = code, r.seq
        return code
    if timed and stage == WHOLE:
        record_value(line.histograms[WHOLE], cycles() - began)
    if trades:
        send_reports(line.paper, back, state)
    state[HANDLED] = r.seq
    return 0


@kernel(merged=True)
def handle_inputs(line, stage, inputs, me, above, back, state):
    """Handle what is there, at most BATCH; returns how many inputs, or things at the exchange, or a negative fault."""
    cursors, slots = inputs.cursors, inputs.slots
    r = line.scratch.input[0]
    gated = stage != FEATURES and stage != WHOLE
    # the watermark before INPUT and before the rows: pairs with `hand_on` of the stage before
    reach = watermark(above.cursors) - state[HANDLED] if gated else BATCH
    n = min(min(readable(cursors, me), reach), BATCH)
    at, wrap = tail(cursors, me), mask(cursors)
    for i in range(n):
        if not room_in_logs(line):
            return i
        copy_slot(r, slots[(at + i) & wrap])
        code = handle_input(line, stage, above, back, r, state)
        if code < 0:
            return code
        beat(cursors, me)
    if n == 0 and stage >= ORDERS:
        until = horizon(cursors, state[HANDLED], head(back.cursors))
        if advance(line.paper, line.markets, until):
            send_reports(line.paper, back, state)
            return 1
    return n


@kernel
def run_worker(owned, stage, inputs, me, above, rows, back, state, strategy, deadline):
    """Run one stage, or with WHOLE all of them, until `deadline` (cycles), the end, a fault or a word to stop; returns which.

    `me` is our place among INPUT's consumers; `above` the rows of the stage before, `rows` and `back` what we write: rings that
    a stage has no use for are private ones. `state` int64 (STATE_CELLS,): HANDLED -1 at first, else 0.
    """
    line = borrow(owned)
    cursors = inputs.cursors
    beat(cursors, me)  # we come back to Python every slice: an idle worker beats too
    fresh = SPINS if strategy == PARK else 0
    idle = fresh
    while True:
        if load_acquire(cursors, STOP):  # pairs with the supervisor's store
            return STOPPED
        moved = False
        if not state[UNSETTLED]:
            state[UNSETTLED] = handle_inputs(line, stage, inputs, me, above, back, state)
        if state[UNSETTLED] and hand_on_all(line, rows, state):
            if state[UNSETTLED] < 0:  # a fault: what was decided before it is handed on first
                return FAULT
            settle(line, inputs, me, back, state)
            state[UNSETTLED] = 0
            moved = True
        if moved:
            idle = fresh
        elif drained(cursors, me):
            return DONE
        else:
            idle = relax(PARK if idle > QUIET else strategy, idle)
        if cycles() > deadline:
            return SLICE_OVER
