"""The compiled loops: one input record through the stages, and the three ways to arrange that on threads and processes.

    fused    sequence ──► step_line (FEATURES … ORDERS) ──► paper exchange ──► reports queue ──► sequence
    split    INGEST process: sequence ──► INPUT ring │ line process: step_line, exchange ──► REPORTS ring ──► INGEST
    staged   the same, a process a stage, each with a ring of its rows

A loop returns to Python when its time slice is over, when a feed wants its next window, when a log must be taken, when there is
nothing to do, or on a fault. Where it stopped is not observable: any split of the stream gives the same bytes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engine.observe.histogram import record as record_value
from handlers.domain.book import apply_market
from handlers.domain.borrowed import borrow
from handlers.domain.memory import copy_slot, slot_word
from handlers.domain.queue import NEVER, pop
from handlers.features.stage import FeaturesState, step_checkpoint, step_features
from handlers.ingest.sequencer import (
    NOTHING, STARVED, Sequencer, admit_own, alone_until, close_line, full, note_run, peek, take_next,
)  # fmt: skip
from handlers.orders.brokers.paper import PaperState, advance, on_market
from handlers.orders.stage import OrdersState, concerns_orders, step_orders
from handlers.risk.stage import RiskState, concerns_risk, step_risk
from handlers.signals.stage import SignalsState, step_signals
from transport.atomics import cycles
from transport.compiled import kernel
from transport.records import BY_EXCHANGE, FEED_BASE

# Why a loop came back.
SLICE_OVER, WANTS_WINDOW, LOGS_FULL, DONE, PACED, FAULT = 0, 1, 2, 3, 4, -1
# Why a re-execution stopped: the log has a report that the exchange does not make, or another one, or lacks one.
NO_REPORT, OTHER_REPORT, MISSED_REPORT = -2, -3, -4
LOOK_EVERY = 256  # records between two looks at the slice's end
LOG_ROWS = 1 << 15  # rows of a stage's log between two takings
INGEST, FEATURES, SIGNALS, RISK, ORDERS, WHOLE = range(6)  # rows of the histograms
STAGES = ("ingest", "features", "signals", "risk", "orders", "line")
DECIDING = ("features", "signals", "risk", "orders")

CONTROL = np.dtype(
    [
        ("sample_mask", "i8"),  # every (mask + 1)-th input is timed
        ("log_features", "i8"),  # log every feature row, not only checkpoints
        ("fault", "i8"), ("fault_seq", "i8"),
        ("until_ns", "i8"),  # pacing: no input at or after this time of the line
    ]
)  # fmt: skip


class Logs(NamedTuple):
    """Rows of each deciding stage since Python took them; `counts[k]` are used."""

    counts: np.ndarray
    features: np.ndarray
    signals: np.ndarray
    risk: np.ndarray
    orders: np.ndarray


class Scratch(NamedTuple):
    """Where one input and its rows stand while it passes."""

    input: np.ndarray
    features: np.ndarray
    signals: np.ndarray
    risk: np.ndarray
    orders: np.ndarray


class Line(NamedTuple):
    """Everything one thread needs to run the line; `engine.line` builds it."""

    control: np.ndarray
    sequencer: Sequencer
    markets: np.ndarray
    books: np.ndarray
    features: FeaturesState
    signals: SignalsState
    risk: RiskState
    orders: OrdersState
    paper: PaperState
    logs: Logs
    scratch: Scratch
    histograms: np.ndarray  # HISTOGRAM per stage, in cycles of the time stamp counter


@kernel(inline=True)
def keep(log, count, rows, n):
    """Append `n` rows to a log; room was made sure of before the input was taken."""
    for j in range(n):
        copy_slot(log[count + j], rows[j])
    return count + n


@kernel(inline=True)
def lap(line, stage, began):
    """Count the cycles since `began` for a stage; returns the time now."""
    now = cycles()
    record_value(line.histograms[stage], now - began)
    return now


@kernel(inline=True)
def step_line(line, r, timed):
    """FEATURES, SIGNALS, RISK, ORDERS and the exchange on one stamped input; 1 when it logged rows, a negative fault, else 0.

    `timed` inputs are measured stage by stage; nothing that is decided depends on it. What is changed here is changed in
    `step_stage` of engine.worker_loop as well: tests/sim/test_placements.py compares the logs of both.
    """
    began = cycles() if timed else np.int64(0)
    logs, scratch = line.logs, line.scratch
    counts = logs.counts
    here = np.int64(r.instrument_id) if r.instrument_id < len(line.markets) else 0
    m = line.markets[here]
    if r.instrument_id < len(line.markets):
        apply_market(m, line.books, r)
        on_market(line.paper, m, r)
    n_features = step_features(line.features, m, r, scratch.features)
    checkpoint = step_checkpoint(line.features, r, n_features, scratch.features)
    if line.control[0].log_features:
        counts[0] = keep(logs.features, counts[0], scratch.features, n_features)
    if checkpoint:
        copy_slot(logs.features[counts[0]], scratch.features[n_features])
        counts[0] += 1
    if timed:
        began = lap(line, FEATURES, began)
    n_signals = step_signals(line.signals, line.markets, r, scratch.features, n_features, scratch.signals)
    if timed:
        began = lap(line, SIGNALS, began)
    if n_signals < 0:
        return n_signals
    if n_signals == 0 and not concerns_risk(r.kind) and not concerns_orders(r.kind):
        return np.int64(checkpoint) | line.control[0].log_features
    counts[1] = keep(logs.signals, counts[1], scratch.signals, n_signals)
    n_risk = step_risk(line.risk, line.markets, r, scratch.signals, n_signals, scratch.risk)
    counts[2] = keep(logs.risk, counts[2], scratch.risk, n_risk)
    if timed:
        began = lap(line, RISK, began)
    n_orders = step_orders(line.orders, line.paper, line.markets, r, scratch.risk, n_risk, scratch.orders)
    counts[3] = keep(logs.orders, counts[3], scratch.orders, n_orders)
    if timed:
        lap(line, ORDERS, began)
    return 1


@kernel
def step_timed(line, r):
    """`step_line` on an input that is measured; a function of its own, so that the others carry no trace of it."""
    began = cycles()
    logged = step_line(line, r, True)
    record_value(line.histograms[WHOLE], cycles() - began)
    return logged


@kernel(inline=True)
def room_in_logs(line):
    """Every log can take the most that one input may add."""
    counts, logs, scratch = line.logs.counts, line.logs, line.scratch
    return (
        counts[0] + len(scratch.features) <= len(logs.features)
        and counts[1] + len(scratch.signals) <= len(logs.signals)
        and counts[2] + len(scratch.risk) <= len(logs.risk)
        and counts[3] + len(scratch.orders) <= len(logs.orders)
    )


@kernel(inline=True)
def same_slot(a, b):
    """The 128 bytes of two slots are equal."""
    different = np.uint64(0)
    for i in range(16):
        different |= slot_word(a, i) ^ slot_word(b, i)
    return different == 0


@kernel
def run_logged(owned, rows, first, last):
    """Re-execute the stamped inputs rows[first:last]; returns (next row, why): the log is the only input.

    The exchange runs along in compare mode: each report it makes must stand in the log, at its place, byte for byte.
    """
    line = borrow(owned)
    control = line.control[0]
    reports = line.paper.reports
    r, made = line.scratch.input[0], line.scratch.input[1]
    i = first
    logged = 1
    while i < last:
        if logged and not room_in_logs(line):
            return i, LOGS_FULL
        copy_slot(r, rows[i])
        if advance(line.paper, line.markets, r.ts_seq_ns):
            continue
        due = reports.head[0].next_due
        if r.source_id == BY_EXCHANGE:
            if due == NEVER:
                return i, NO_REPORT
            copy_slot(made, reports.rows[pop(reports)])
            made.seq, made.ts_seq_ns, made.epoch = r.seq, r.ts_seq_ns, r.epoch
            if not same_slot(r, made):
                return i, OTHER_REPORT
        elif due < r.ts_seq_ns or (due == r.ts_seq_ns and r.source_id >= FEED_BASE):
            return i, MISSED_REPORT
        logged = step_line(line, r, False)
        if logged < 0:
            control.fault, control.fault_seq = logged, r.seq
            return i, FAULT
        i += 1
    return i, SLICE_OVER


@kernel(merged=True)
def run_on(line, source, when, before_ns):
    """Sequence and handle the candidate that `peek` found, and a feed's next rows as long as nothing else can come between.

    Returns (what the last step said, how many were taken). It stops after a record that logged rows: their logs may be full, and
    an order may be under way.
    """
    s, control = line.sequencer, line.control[0]
    r, reports = line.scratch.input[0], line.paper.reports
    w = s.windows[max(source, 0)]
    first, seq = w.at, s.head[0].next_seq
    n = logged = 0
    while True:
        if source < 0:
            fault = admit_own(s, reports, source, when, r)
            if fault < 0:
                return fault, n
        else:
            take_next(s, w, r)
        n += 1
        logged = step_timed(line, r) if r.seq & control.sample_mask == 0 else step_line(line, r, False)
        if logged != 0 or source < 0 or w.at != first + n or w.at == w.rows or n == LOOK_EVERY:
            break  # w.at: rows in between were refused, which ends a run
        if w.key_ns >= min(before_ns, reports.head[0].next_due):
            break
    if source >= 0:
        note_run(s, source, w.first + first, n, seq)
    return logged, n


@kernel
def run_fused(owned, deadline):
    """Run the whole line on this thread until `deadline` (cycles) or until Python is needed; returns why it came back."""
    line = borrow(owned)
    s, control = line.sequencer, line.control[0]
    reports, arrivals = line.paper.reports, line.paper.arrivals.head[0]
    look = 0
    logged = 1
    while True:
        source, when = peek(s, reports)
        if arrivals.next_due < when:
            advance(line.paper, line.markets, when)
            continue
        if source == STARVED:
            return WANTS_WINDOW
        if source == NOTHING:
            if close_line(s):
                continue
            return DONE
        if when >= control.until_ns:
            return PACED
        if full(s) or (logged and not room_in_logs(line)):
            return LOGS_FULL
        before = alone_until(s, source, reports, arrivals.next_due, control.until_ns)
        logged, n = run_on(line, source, when, before)
        if logged < 0:
            control.fault, control.fault_seq = logged, line.scratch.input[0].seq
            return FAULT
        look += n + 1
        if look >= LOOK_EVERY:
            look = 0
            if cycles() > deadline:
                return SLICE_OVER
