"""What the tests of logs share: stamped rows, a log's hash by its definition, and runs with own rows between them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

from transport.journal import LogReader, LogWriter
from transport.pack import BLOCK_ROWS, chain_next, chain_start, packed
from transport.records import FILL, TRADE, empty
from transport.reference import RUN


def market(rows: int, seed: int = 1) -> np.ndarray:
    """Stamped trades; every byte of the slot is used by some row."""
    rng = np.random.default_rng(seed)
    out = empty(rows)
    times = 1_700_000_000_000_000_000 + np.cumsum(rng.integers(1_000, 2_000_000, rows))
    out["seq"] = np.arange(1, rows + 1)
    out["ts_event_ns"] = times
    out["ts_recv_ns"] = times + rng.integers(-300_000, 900_000, rows)
    out["ts_seq_ns"] = np.maximum.accumulate(out["ts_recv_ns"])
    out["source_id"], out["kind"], out["epoch"] = 16, TRADE, 3
    out["price_ticks"] = 600_000 + np.cumsum(rng.integers(-20, 21, rows))
    out["qty_lots"] = rng.integers(0, 100_000, rows)
    out["origin"] = rng.integers(0, 2**40, rows)
    return out


def chain_of(rows: np.ndarray, name: str = "input") -> str:
    """The log's hash by its definition."""
    digest = chain_start(name)
    for at in range(0, len(rows), BLOCK_ROWS):
        digest = chain_next(digest, packed(rows[at : at + BLOCK_ROWS]))
    return digest.hex()


def write(folder: Path, rows: np.ndarray, **options: Any) -> str:
    with LogWriter(folder, "input", "run-1", **options) as log:
        log.append(rows)
    return log.digest


def read(folder: Path, sources: list[np.ndarray] | None = None) -> np.ndarray:
    with LogReader(folder, "input", sources) as log:
        return log.rows(0, log.rows_total)


def interleaved(tape: np.ndarray, seed: int, each: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs over the tape with own rows between them, the own rows, and (an oracle in plain loops) what the line saw."""
    chance = random.Random(seed)
    runs, seen, own = [], [], []
    at, seq, now = 0, 1, 0
    while at < len(tape):
        count = min(chance.randrange(1, each), len(tape) - at)
        runs.append((0, at, count, seq))
        for row in tape[at : at + count]:
            stamped = row.copy()
            now = max(now, int(row["ts_recv_ns"]))
            stamped["seq"], stamped["ts_seq_ns"], stamped["epoch"] = seq, now, 5
            seen.append(stamped)
            seq += 1
        at += count
        for _ in range(chance.randrange(0, 3)):
            report = empty(1)
            now += chance.randrange(0, 2_000_000)
            report["seq"], report["ts_seq_ns"], report["kind"], report["epoch"] = seq, now, FILL, 5
            own.append(report)
            runs.append((-1, 0, 1, seq))
            seen.append(report[0].copy())
            seq += 1
    own_rows, all_rows = empty(len(own)), empty(len(seen))
    for to, rows in ((own_rows, [r[0] for r in own]), (all_rows, seen)):
        to.view("u1")[:] = np.frombuffer(b"".join(r.tobytes() for r in rows), "u1")
    return np.array(runs, RUN), own_rows, all_rows
