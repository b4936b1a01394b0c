"""A run of the compiled line and of the plain-Python one on the same rows, and where their logs first differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.config import Config
from engine.line import Built, build_line, sequence_first_words
from engine.session import Session
from tests.golden import oracle_line as oracle
from tests.golden.oracle_exchange import Terms, rows_of
from tests.golden.quoter import quote
from transport.instruments import Instrument
from transport.records import NAME_OF, REC, empty, joined

HERE = Path(__file__).parent
DECISIONS = ("signals", "risk", "orders")


def run_compiled(config: Config, instruments: list[Instrument], feeds: list[np.ndarray]) -> tuple[Built, dict[str, np.ndarray]]:
    """The line after its run, and the rows of its DECISIONS."""
    built = build_line(config, instruments, len(feeds), 1, HERE)
    batches: list[Any] = []
    session = Session(built, [iter([rows]) for rows in feeds], batches.append)
    session.open(lambda ns: sequence_first_words(built, config, ns, 1, 2))
    session.run()
    return built, {name: joined(*(b.decisions[k] for b in batches)) for k, name in enumerate(DECISIONS, start=1)}


def run_oracle(config: Config, built: Built, feeds: list[np.ndarray]) -> oracle.Line:
    """The same in plain Python: strategies quoter, momentum of 250 and mean reversion of 400, limits of 600 lots and 900 in all."""
    names = ("num", "den", "maker_num", "taker_num", "fee_den")
    f, wait = config.features, config.latency
    line = oracle.Line(
        [rows_of(rows) for rows in feeds], [Terms(*(int(t[n]) for n in names)) for t in built.terms],
        [lambda: oracle.plain_python(quote), lambda: oracle.momentum(250, 50), lambda: oracle.mean_reversion(400, 200, 1.5, 0.5, 4.0)],
        600, total_max=900, cash=10**14, out_ns=wait.order_out_us * 1000, back_ns=wait.report_back_us * 1000,
        timer_ns=config.line.timer_interval_ms * 10**6, fast=f.ema_fast, slow=f.ema_slow, volatility=f.volatility_window,
    )  # fmt: skip
    line.run()
    return line


def slots_of(rows: list[oracle.Fields]) -> np.ndarray:
    """The oracle's rows as slots."""
    out = empty(len(rows))
    for name in {key for row in rows for key in row}:
        held = [k for k, row in enumerate(rows) if name in row]
        out[name][held] = [rows[k][name] for k in held]
    return out


def difference(name: str, got: np.ndarray, expected: np.ndarray) -> str:
    """The first row that differs, field by field; "" when all are equal."""
    words = [rows.view(np.uint8).reshape(-1, 128) for rows in (got, expected)]
    same = min(len(got), len(expected))
    differs = np.flatnonzero((words[0][:same] != words[1][:same]).any(axis=1))
    if not len(differs):
        return "" if len(got) == len(expected) else f"{name}: {len(got)} rows, the oracle has {len(expected)}"
    a, b = got[differs[0]], expected[differs[0]]
    fields = {n: (a[n].tolist(), b[n].tolist()) for n in REC.names or () if a[n].tobytes() != b[n].tobytes()}
    return f"{name}: row {differs[0]} of {len(got)}, seq {a['seq']}, {NAME_OF[int(a['kind'])]}: (line, oracle) {fields}"
