"""One producer, one consumer, two processes on two cores, 128-byte records: how many a second.

The producer writes all 16 words of every record in place and publishes singly, by 16 or by 256; the consumer reads all 16 and
checks each record by itself: its sequence number and the sum of its words. The clock runs from the first record's arrival to
the last one's release. Beside it, in the same rounds, pyzmq over ipc (PUSH to PULL, no high-water mark): one record a message,
which the target is about, and 16 records a message, which is like for like with the ring by 16; its consumer only counts, and
looks at the last.

    python -m perf.bench_ring_one_to_one [--small] [--rounds N] [--strict]
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from perf import harness
from transport.atomics import monotonic_ns
from transport.compiled import kernel
from transport.records import SLOT_BYTES
from transport.ring import PRODUCER, Ring, await_readable, await_writable, head, mask, publish, release, tail
from transport.wait import SPIN, YIELD

try:
    import zmq
except ImportError:  # then the peer is reported as absent
    zmq = None

CAPACITY = 4096  # 512 KiB of slots: they stay in a second-level cache
BATCHES = (1, 16, 256)
TAKE_MAX = 256  # records a consumer handles between two releases
RECORDS, RECORDS_SMALL = 5_000_000, 200_000
MESSAGES, MESSAGES_SMALL = 100_000, 5_000
TIMEOUT_NS = 5_000_000_000
WORDS = SLOT_BYTES // 8
LAST = b"\xff" * SLOT_BYTES
TARGET = 30.0  # times the records a second of pyzmq with one a message, in batches of 16


class WrongAnswer(Exception):
    """A record was lost, torn or out of order, or the peer stopped: then there is no figure."""


@kernel
def produce(cursors, words, count, batch, strategy):
    """Write `count` records in batches; returns how many were published before the consumer stalled for TIMEOUT_NS."""
    done = 0
    while done < count:
        size = min(batch, count - done)
        if await_writable(cursors, size, strategy, TIMEOUT_NS) < size:
            break
        first = head(cursors)
        for i in range(size):
            slot = (first + i) & mask(cursors)
            for k in range(WORDS):
                words[slot, k] = first + i + k
        publish(cursors, size)
        done += size
    return done


@kernel
def consume(cursors, words, count, strategy, out):
    """Read and check `count` records: out[0] good ones, out[1] and out[2] monotonic ns of the first and after the last."""
    done, good = 0, 0
    while done < count:
        size = min(await_readable(cursors, 0, strategy, TIMEOUT_NS), TAKE_MAX, count - done)
        if size == 0:
            break
        if done == 0:
            out[1] = monotonic_ns()
        first = tail(cursors, 0)
        for i in range(size):
            slot = (first + i) & mask(cursors)
            total = 0
            for k in range(WORDS):
                total += words[slot, k]
            good += words[slot, 0] == first + i and total == WORDS * (first + i) + WORDS * (WORDS - 1) // 2
        release(cursors, 0, size)
        done += size
    out[0] = good
    out[2] = monotonic_ns()


def peer(batch: int) -> str:
    """How pyzmq with `batch` records a message is called."""
    return f"pyzmq ipc, {batch} a message"


def two_cores() -> tuple[int, int, int]:
    """Cores of the near and the far process, and how to wait: never a spin when there is but one core."""
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1], SPIN) if len(cores) > 1 else (cores[0], cores[0], YIELD)


def serve(pipe: Connection, core: int, jobs: dict[str, Callable[..., Any]]) -> None:
    """The far process: pinned, does the jobs it is asked for by name until it is sent None."""
    os.sched_setaffinity(0, {core})
    while (asked := pipe.recv()) is not None:
        name, arguments = asked
        pipe.send(("began", name))
        pipe.send(("done", jobs[name](*arguments)))


@contextlib.contextmanager
def far_process(core: int, jobs: dict[str, Callable[..., Any]]) -> Iterator[Connection]:
    """A spawned process that runs `serve`; it is told to stop at the end, and made to when it does not."""
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    process = context.Process(target=serve, args=(far, core, jobs), daemon=True)
    process.start()
    try:
        yield near
        near.send(None)
        process.join(10)
    finally:
        if process.is_alive():
            process.kill()
            process.join()


def start(pipe: Connection, name: str, *arguments: Any) -> None:
    """Have the far process do a job; returns when it has begun."""
    pipe.send((name, arguments))
    pipe.recv()


def push_records(name: str, count: int, batch: int, strategy: int) -> int:
    """Job of the far process: the producer's part of one round."""
    ring = Ring.attach(name)
    ring.join(PRODUCER)
    done = int(produce(ring.cursors, ring.words, count, batch, strategy))
    ring.leave(PRODUCER)
    ring.close()
    return done


def ring_rate(pipe: Connection, ring: Ring, count: int, batch: int, strategy: int) -> float:
    """Records a second of one round through the ring."""
    out = np.zeros(3, np.int64)
    start(pipe, "ring", ring.name, count, batch, strategy)
    consume(ring.cursors, ring.words, count, strategy, out)
    _, sent = pipe.recv()
    if (sent, int(out[0])) != (count, count):
        raise WrongAnswer(
            f"batches of {batch}: {sent:,} of {count:,} records sent, {int(out[0]):,} arrived whole, in order"
        )
    return count / ((int(out[2]) - int(out[1])) / 1e9)


def push_messages(endpoint: str, count: int, batch: int) -> int:
    """Job of the far process: `count` messages of `batch` records each, the last one different."""
    message = bytes(SLOT_BYTES * batch)
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.sndhwm = 0
        socket.connect(endpoint)
        for _ in range(count - 1):
            socket.send(message)
        socket.send(LAST * batch)
    return count


def zmq_rate(pipe: Connection, folder: Path, count: int, batch: int) -> float:
    """Records a second of one round through pyzmq."""
    endpoint = f"ipc://{folder}/one_way"
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.rcvhwm = 0
        socket.rcvtimeo = TIMEOUT_NS // 1_000_000
        socket.bind(endpoint)
        start(pipe, "zmq", endpoint, count, batch)
        socket.recv()
        began_ns = time.perf_counter_ns()
        for _ in range(count - 2):
            socket.recv()
        last = socket.recv()
        seconds = (time.perf_counter_ns() - began_ns) / 1e9
        _, sent = pipe.recv()
    if sent != count or last != LAST * batch:
        raise WrongAnswer(f"pyzmq: message {count:,} is not the last one that was sent")
    return count * batch / seconds


JOBS: dict[str, Callable[..., Any]] = {"ring": push_records, "zmq": push_messages}


def measure(rounds: int, records: int, messages: int) -> dict[str, list[float]]:
    """Records a second of each contender, one figure a round, the contenders taking turns."""
    near, far, strategy = two_cores()
    with (
        tempfile.TemporaryDirectory() as folder,
        far_process(far, JOBS) as pipe,
        harness.pinned(near),
        Ring.create("bench", "one_to_one", CAPACITY) as ring,
    ):
        contenders: dict[str, Callable[[], Any]] = {
            f"ring, by {batch}": partial(ring_rate, pipe, ring, records, batch, strategy) for batch in BATCHES
        }
        if zmq is not None:
            for batch in BATCHES[:2]:
                contenders[peer(batch)] = partial(zmq_rate, pipe, Path(folder), messages, batch)
        samples = harness.run_alternating(contenders, rounds, warmups=1)
    return {name: [sample.result for sample in taken] for name, taken in samples.items()}


def report(rates: dict[str, list[float]]) -> str:
    """The table; the last two columns are a contender over pyzmq, message by message and batch by batch, paired by round."""
    rows = []
    for name, mine in rates.items():
        cells = [name, harness.Spread.of(mine).text(harness.rate_text)]
        for batch in BATCHES[:2]:
            theirs = rates.get(peer(batch))
            paired = [a / b for a, b in zip(mine, theirs, strict=True)] if theirs else []
            cells.append(harness.Spread.of(paired).text("{:.1f}".format) if paired else "pyzmq absent")
        rows.append(cells)
    return harness.table(["128-byte records a second", "median [low .. high]", "/ pyzmq, 1 a message", "/ pyzmq, 16 a message"], rows)


def targets(rates: dict[str, list[float]]) -> list[harness.Target]:
    """Ours in batches of 16 over pyzmq, which sends one record a message; none without pyzmq."""
    if peer(1) not in rates:
        return []
    ratio = harness.Spread.of([a / b for a, b in zip(rates["ring, by 16"], rates[peer(1)], strict=True)])
    return [harness.Target("ring by 16 over pyzmq ipc with one record a message", ratio.median, TARGET, " x")]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, check, print; the small size takes a second or two and records nothing."""
    parser = argparse.ArgumentParser(description="records a second from one process to another")
    parser.add_argument("--small", action="store_true", help="a size for the tests")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--strict", action="store_true", help="fail when the target is missed")
    args = parser.parse_args(argv)
    rounds, records, messages = (1, RECORDS_SMALL, MESSAGES_SMALL) if args.small else (args.rounds, RECORDS, MESSAGES)
    rates = measure(rounds, records, messages)
    if not args.small:
        harness.write_result("ring_one_to_one", {"records_per_s": rates})
    print(report(rates))
    found = targets(rates)
    if args.small:
        print("the small size checks that this runs and answers right; it is too short to quote")
    status = 0 if args.small else harness.judged(found, args.strict)
    print(f"{harness.machine_text(harness.machine())}; {rounds} rounds, {records:,} records, {messages:,} messages")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
