"""There and back between two processes on two cores, 128-byte records: how long, with its tail.

The near process writes a record into one ring and spins on another; the far one copies it across with an answer in its second
word, which is checked. One record is in flight at a time, so this is a latency at no load. Beside it, in the same rounds, pyzmq
over ipc (PAIR to PAIR): one record a message, which is like for like, and 16 records a message, whose trip is theirs together.
The tail is the machine's as much as ours: what else ran counts.

    python -m perf.bench_ring_ping_pong [--small] [--rounds N] [--strict]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from perf import harness
from perf.bench_ring_one_to_one import TIMEOUT_NS, WORDS, WrongAnswer, far_process, peer, start, two_cores, zmq
from transport.atomics import cycles
from transport.clock import cycles_per_ns
from transport.compiled import kernel
from transport.records import SLOT_BYTES
from transport.ring import PRODUCER, Ring, await_readable, head, mask, publish, release, tail, writable

CAPACITY = 64
TRIPS, TRIPS_SMALL = 500_000, 20_000
MESSAGES, MESSAGES_SMALL = 20_000, 1_000
WARM_SHARE = 10  # the first tenth of the trips is not counted
QUANTILES = (50.0, 90.0, 99.0, 99.9, 100.0)
BATCHES = (1, 16)  # records a message of pyzmq
TARGET = 80.0  # times the median round trip of pyzmq with one record a message

Rows = np.ndarray[Any, Any]


@kernel
def ping(there, there_words, back, back_words, trips, strategy, took):
    """Send trips records one by one; took[i] becomes the cycles of trip i. Returns how many came back right."""
    right = 0
    for i in range(trips):
        began = cycles()
        if writable(there, 1) == 0:
            break
        slot = head(there) & mask(there)
        for k in range(WORDS):
            there_words[slot, k] = i
        publish(there, 1)
        if await_readable(back, 0, strategy, TIMEOUT_NS) == 0:
            break
        slot = tail(back, 0) & mask(back)
        right += back_words[slot, 0] == i and back_words[slot, 1] == 3 * i + 1 and back_words[slot, WORDS - 1] == i
        release(back, 0, 1)
        took[i] = cycles() - began
    return right


@kernel
def pong(there, there_words, back, back_words, trips, strategy):
    """Answer `trips` records; returns how many came before the other side stalled for TIMEOUT_NS."""
    for i in range(trips):
        if await_readable(there, 0, strategy, TIMEOUT_NS) == 0 or writable(back, 1) == 0:
            return i
        asked = tail(there, 0) & mask(there)
        slot = head(back) & mask(back)
        for k in range(WORDS):
            back_words[slot, k] = there_words[asked, k]
        back_words[slot, 1] = 3 * back_words[slot, 1] + 1
        release(there, 0, 1)
        publish(back, 1)
    return trips


def answer_records(there_name: str, back_name: str, trips: int, strategy: int) -> int:
    """Job of the far process: consumer of one ring, producer of the other."""
    there, back = Ring.attach(there_name), Ring.attach(back_name)
    there.join(0)
    back.join(PRODUCER)
    answered = int(pong(there.cursors, there.words, back.cursors, back.words, trips, strategy))
    there.leave(0)
    back.leave(PRODUCER)
    there.close()
    back.close()
    return answered


def ring_trips(pipe: Connection, there: Ring, back: Ring, trips: int, strategy: int) -> Rows:
    """Quantiles of one round, ns (len(QUANTILES),)."""
    took = np.zeros(trips, np.int64)
    start(pipe, "ring", there.name, back.name, trips, strategy)
    right = int(ping(there.cursors, there.words, back.cursors, back.words, trips, strategy, took))
    _, answered = pipe.recv()
    if (right, answered) != (trips, trips):
        raise WrongAnswer(f"{answered:,} of {trips:,} records answered, {right:,} of them right")
    return np.percentile(took[trips // WARM_SHARE :] / cycles_per_ns(), QUANTILES)


def answer_messages(endpoint: str, trips: int) -> int:
    """Job of the far process: send every message back."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.connect(endpoint)
        for _ in range(trips):
            socket.send(socket.recv())
    return trips


def zmq_trips(pipe: Connection, folder: Path, trips: int, batch: int) -> Rows:
    """Quantiles of one round through pyzmq, `batch` records a message, ns (len(QUANTILES),)."""
    endpoint = f"ipc://{folder}/ping_pong"
    message = bytes(range(SLOT_BYTES)) * batch
    took = np.zeros(trips, np.int64)
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.rcvtimeo = TIMEOUT_NS // 1_000_000
        socket.bind(endpoint)
        start(pipe, "zmq", endpoint, trips)
        for i in range(trips):
            began_ns = time.perf_counter_ns()
            socket.send(message)
            answer = socket.recv()
            took[i] = time.perf_counter_ns() - began_ns
            if answer != message:
                raise WrongAnswer(f"pyzmq: message {i:,} came back different")
        pipe.recv()
    return np.percentile(took[trips // WARM_SHARE :], QUANTILES)


JOBS: dict[str, Callable[..., Any]] = {"ring": answer_records, "zmq": answer_messages}


def measure(rounds: int, trips: int, messages: int) -> dict[str, list[Rows]]:
    """Quantiles of each contender, one row a round, the contenders taking turns."""
    near, far, strategy = two_cores()
    with (
        tempfile.TemporaryDirectory() as folder,
        far_process(far, JOBS) as pipe,
        harness.pinned(near),
        Ring.create("bench", "there", CAPACITY) as there,
        Ring.create("bench", "back", CAPACITY) as back,
    ):
        contenders: dict[str, Callable[[], Any]] = {"ring": partial(ring_trips, pipe, there, back, trips, strategy)}
        if zmq is not None:
            for batch in BATCHES:
                contenders[peer(batch)] = partial(zmq_trips, pipe, Path(folder), messages, batch)
        samples = harness.run_alternating(contenders, rounds, warmups=1)
    return {name: [sample.result for sample in taken] for name, taken in samples.items()}


def report(quantiles: dict[str, list[Rows]]) -> str:
    """The table, µs: the median over the rounds of each quantile, of the largest one the largest."""
    rows = []
    for name, mine in quantiles.items():
        middle, worst = np.median(mine, axis=0) / 1e3, np.max(mine, axis=0)[-1] / 1e3
        rows.append([name, *(f"{us:,.2f}" for us in middle[:-1]), f"{worst:,.1f}"])
    return harness.table(["round trip of 128-byte records, µs", *(f"p{q:g}" for q in QUANTILES[:-1]), "max"], rows)


def targets(quantiles: dict[str, list[Rows]]) -> list[harness.Target]:
    """The median trip of pyzmq with one record a message over ours; none without pyzmq."""
    if peer(1) not in quantiles:
        return []
    ratio = harness.Spread.of([float(b[0] / a[0]) for a, b in zip(quantiles["ring"], quantiles[peer(1)], strict=True)])
    return [harness.Target("p50 of pyzmq ipc with one record a message over the ring's", ratio.median, TARGET, " x")]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, check, print; the small size takes a second or two and records nothing."""
    parser = argparse.ArgumentParser(description="round trips between two processes")
    parser.add_argument("--small", action="store_true", help="a size for the tests")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--strict", action="store_true", help="fail when the target is missed")
    args = parser.parse_args(argv)
    rounds, trips, messages = (1, TRIPS_SMALL, MESSAGES_SMALL) if args.small else (args.rounds, TRIPS, MESSAGES)
    quantiles = measure(rounds, trips, messages)
    if not args.small:
        harness.write_result(
            "ring_ping_pong", {"round_trip_ns": {k: np.array(v).tolist() for k, v in quantiles.items()}}
        )
    print(report(quantiles))
    found = targets(quantiles)
    if args.small:
        print("the small size checks that this runs and answers right; it is too short to quote")
    status = 0 if args.small else harness.judged(found, args.strict)
    print(f"{harness.machine_text(harness.machine())}; {rounds} rounds, {trips:,} trips, {messages:,} messages")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
