"""Tick-to-order latency at a stated arrival rate: from the scheduled send of the record to the order that it causes.

    generator process (paced, spinning) ──► INPUT ring in shared memory ──► line process (spinning): FEATURES … ORDERS, exchange

Record i is due at t0 + i / rate, by the time stamp counter, whether or not the line keeps up: a stall shows in every record it
delays (no coordinated omission). Timed is each order, from that due time until ORDERS has handed it to the exchange. The feed and
the strategy are those of the peer comparison. On: every stage and the ring; off: journal and hashes, which run beside the line.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np

from engine.line import build_line
from engine.loops import Line, step_line
from engine.observe.histogram import HISTOGRAM, percentiles
from engine.observe.histogram import record as record_value
from handlers.domain.borrowed import borrow
from handlers.domain.memory import copy_slot
from handlers.domain.queue import pop
from handlers.orders.brokers.paper import advance
from perf import harness
from perf.run_line import configuration, tape_of
from transport.atomics import cycles, pause
from transport.clock import cycles_now, cycles_per_ns
from transport.compiled import kernel
from transport.records import ORDER
from transport.ring import PRODUCER, Ring, head, mask, mark_closed, publish, drained, readable, release, tail, writable
from transport.tape import Tape

RING_SLOTS = 1 << 16
GIVE_UP_CYCLES = 100_000_000_000  # some 30 s
PERCENTILES = (50, 90, 99, 99.9, 99.99, 100)


@kernel
def send_paced(cursors, slots, rows, count, first_cycle, step_1024):
    """Publish rows[:count], one at a time, each at its due time (first_cycle + i * step_1024 / 1024); returns turns waited for a full ring, -1 when it gave up."""
    late = 0
    for i in range(count):
        due = first_cycle + ((i * step_1024) >> 10)
        while cycles() < due:
            pause()
        while writable(cursors, 1) == 0:
            late += 1
            pause()
            if cycles() - due > GIVE_UP_CYCLES:  # the line has died: nobody will ever make room
                return -1
        slot = slots[head(cursors) & mask(cursors)]
        copy_slot(slot, rows[i])
        slot.ts_seq_ns = rows[i].ts_recv_ns
        slot.origin = due
        publish(cursors, 1)
    mark_closed(cursors)
    return late


@kernel
def serve(owned, cursors, slots, histogram):
    """Run the line on what comes in until the ring is closed and drained; returns orders timed."""
    line = borrow(owned)
    r = line.scratch.input[0]
    made = line.scratch.input[1]
    reports = line.paper.reports
    counts = line.logs.counts
    seq = 0
    orders = 0
    while True:
        n = readable(cursors, 0)
        if n == 0:
            if drained(cursors, 0):
                return orders
            pause()
            continue
        for _ in range(n):
            copy_slot(r, slots[tail(cursors, 0) & mask(cursors)])
            while True:  # what is due before this record, as the sequencer would order it
                if advance(line.paper, line.markets, r.ts_seq_ns):
                    continue
                if reports.head[0].next_due > r.ts_seq_ns:
                    break
                copy_slot(made, reports.rows[pop(reports)])
                made.seq, made.ts_seq_ns = seq, made.ts_recv_ns
                seq += 1
                step_line(line, made, False)
            r.seq = seq
            seq += 1
            before = counts[3]
            step_line(line, r, False)
            if counts[3] > before and line.scratch.orders[0].kind == ORDER:
                record_value(histogram[0], cycles() - r.origin)
                orders += 1
            counts[0] = counts[1] = counts[2] = counts[3] = 0
            release(cursors, 0, 1)


def _generator(name: str, rows: int, rate: int, core: int, start: Any) -> None:
    os.sched_setaffinity(0, {core})
    tape = Tape.open(tape_of(rows))
    tape.slots.view("u1")[::4096].sum()
    ring = Ring.attach(name)
    ring.join(PRODUCER)
    ticks = cycles_per_ns()
    warm = Ring.in_process(64)
    send_paced(warm.cursors, warm.slots, tape.slots, 1, 0, 1)
    start.wait()
    step = int(ticks * 1e9 / rate * 1024)
    waited = send_paced(ring.cursors, ring.slots, tape.slots, rows, cycles_now() + int(ticks * 1e8), step)
    ring.leave(PRODUCER)
    if waited < 0:
        raise SystemExit("the line's process stopped reading")


def _fresh() -> Line:
    tape = Tape.open(tape_of(1000))
    return build_line(configuration(), tape.instruments, 1, 1, Path()).line


def measure(rows: int, rate: int, cores: tuple[int, int]) -> dict[str, float]:
    """Percentiles in ns of tick to order over `rows` records at `rate` a second."""
    context = multiprocessing.get_context("spawn")
    start = context.Event()
    with Ring.create("bench", "input", RING_SLOTS) as ring:
        ring.join(0)
        os.sched_setaffinity(0, {cores[1]})
        warm = Ring.in_process(64)
        histogram = np.zeros(1, HISTOGRAM)
        send_paced(warm.cursors, warm.slots, Tape.open(tape_of(1000)).slots, 50, 0, 1)
        serve(_fresh(), warm.cursors, warm.slots, histogram)
        histogram[:] = np.zeros(1, HISTOGRAM)
        child = context.Process(target=_generator, args=(ring.name, rows, rate, cores[0], start))
        child.start()
        built = build_line(configuration(), Tape.open(tape_of(1000)).instruments, 1, 1, Path())
        start.set()
        orders = int(serve(built.line, ring.cursors, ring.slots, histogram))
        child.join()
        ring.unlink()
    if child.exitcode or not orders:
        raise SystemExit(f"generator ended with {child.exitcode}, {orders} orders: nothing was measured")
    ticks = cycles_per_ns()
    values = percentiles(histogram[0]["bucket"], PERCENTILES)
    return {"orders": orders, **{f"p{p:g}" if p < 100 else "max": v / ticks for p, v in zip(PERCENTILES, values, strict=True)}}


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seconds", type=int, default=20, help="of each rate")
    parser.add_argument("--rates", type=int, nargs="+", default=[10_000, 100_000])
    options = parser.parse_args(argv)
    cores = (sorted(os.sched_getaffinity(0)) * 2)[:2]
    results = []
    for rate in (100_000,) if options.small else options.rates:
        rows = 20_000 if options.small else min(2_000_000, rate * options.seconds)
        found = measure(rows, rate, (cores[0], cores[1]))
        harness.write_result("pipeline_tick_to_order", {"rate": rate, "rows": rows, **found})
        results.append([f"{rate:,}", f"{rows:,}", *(f"{v:,.0f}" for v in found.values())])
        os.sched_setaffinity(0, set(cores))
    print(harness.table(["records/s", "records", "orders", "p50 ns", "p90", "p99", "p99.9", "p99.99", "max"], results))
    print(harness.machine_text(harness.machine()))


if __name__ == "__main__":
    main()
