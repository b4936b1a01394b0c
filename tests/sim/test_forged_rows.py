"""A row that somebody else writes into the shared memory of a run stops it, named, with the journal whole; nothing is left behind."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from engine.config import Config
from engine.errors import LineStopped
from engine.journaling import RunJournal
from engine.line import build_line, sequence_first_words
from engine.loops import DECIDING
from engine.supervisor import PlacedSession
from handlers.domain import edges
from handlers.ingest.synthetic.feed import SyntheticFeed
from tests.stages import slots
from transport.log_reader import LogReader
from transport.records import BY_EXCHANGE, BY_RISK, BY_SIGNALS, FEED_BASE, FILL, INTENT, NAME_OF, ORDER, joined
from transport.ring import push
from transport.segment import SHM

AHEAD = 300  # inputs from which on the row is found: nobody has handled them yet


@pytest.mark.parametrize(
    ("placement", "ring", "kind", "source", "edge"),
    [
        ("split", "input", ORDER, FEED_BASE, edges.INPUT),
        ("staged", "input", FILL, FEED_BASE, edges.INPUT),
        ("staged", "signals", ORDER, BY_SIGNALS, edges.SIGNALS),
        ("staged", "risk", ORDER, BY_SIGNALS, edges.RISK),
        ("staged", "orders", FILL, BY_EXCHANGE, edges.ORDERS),
        ("split", "reports", ORDER, BY_RISK, edges.REPORTS),
        ("staged", "reports", INTENT, BY_SIGNALS, edges.REPORTS),
    ],
)
def test_a_forged_row_in_shared_memory_stops_the_run_by_name(
    placement: str, ring: str, kind: int, source: int, edge: int, tmp_path: Path
) -> None:
    """No strategy runs, so that nobody else writes to the rings of SIGNALS, RISK and ORDERS, nor answers."""
    feed = SyntheticFeed(7, 60_000, 1)
    feed.bind({i.name: 0 for i in feed.instruments}, FEED_BASE)
    config = Config()
    built = build_line(config, feed.instruments, 1, 1, Path())
    journal = RunJournal(tmp_path, "run", [i.name for i in feed.instruments], None, 1, "write")
    session = PlacedSession(placement, built, [iter([joined(*feed.chunks(65536))])], journal.put, 1.0, config, Path(), "forged", 1)
    session.open(lambda ns: sequence_first_words(built, config, ns, 1, 2))
    forged_at: list[int] = []

    def forge(inputs: int) -> None:
        if inputs > 500 and not forged_at:
            forged_at.append(inputs + (0 if ring in ("input", "reports") else AHEAD))
            memory = session._crew.rings[ring]
            row = {"kind": kind, "source_id": source, "seq": forged_at[0], "ts_recv_ns": int(built.line.sequencer.head[0]["ts_seq_ns"])}
            assert push(memory.cursors, memory.slots, slots([row]), 0, 1) == 1

    with pytest.raises(LineStopped) as stopped:
        session.run(forge)
    journal.close()
    assert str(stopped.value).startswith(f"the edge {edges.EDGES[edge].name} carried a row of kind {NAME_OF[kind]} ")
    assert stopped.value.seq >= forged_at[0]
    with LogReader(tmp_path, "input") as log:
        rows = log.rows(0, log.rows_total)
        assert rows["seq"].tolist() == list(range(len(rows)))
        assert len(rows) >= 500
        assert kind not in rows["kind"]
    for name in DECIDING:
        with LogReader(tmp_path, name) as log:
            assert not np.isin(kind, log.rows(0, log.rows_total)["kind"])
    assert not multiprocessing.active_children()
    assert not list(SHM.glob(f"*tickline-{os.getpid()}-*"))
