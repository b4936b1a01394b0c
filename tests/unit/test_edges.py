"""No edge carries what it does not declare: a forged row stops the line, named, in one process and over rings."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from engine.config import Config
from engine.errors import LineStopped
from engine.line import Built, build_line, sequence_first_words
from engine.loops import DECIDING, FAULT, FEATURES, ORDERS, RISK, SIGNALS, WHOLE
from engine.ring_loops import NEXT_OUT, Rows, run_ingest, take_what_is_left
from engine.session import Session, fault_text
from engine.worker_loop import HANDLED, run_worker
from engine.workers import Post, edge, new_state
from handlers.domain import edges
from handlers.domain.book import new_markets
from handlers.domain.borrowed import borrow
from handlers.domain.edges import EDGES, forged
from handlers.domain.queue import NEVER, push_first
from handlers.orders.brokers.paper import new_paper, submit
from handlers.signals.stage import OUT_ROWS, new_signals, step_signals
from tests.runs import ROOT
from tests.stages import Fields, slots, stamped, terms_of
from transport.atomics import store_cell
from transport.clock import cycles_now
from transport.compiled import kernel
from transport.instruments import Instrument
from transport.records import (
    ACK, AMEND, BAR, BY_EXCHANGE, BY_FEATURES, BY_INGEST, BY_ORDERS, BY_RISK, BY_SIGNALS, CANCEL, CHECKPOINT, COMMAND, FEATURE, FEED_BASE,
    FILL, INTENT, KINDS, NAME_OF, NO_INSTRUMENT, ORDER, REJECT, SET_CASH, SIGNAL, TIMER, TRADE, empty,
)  # fmt: skip
from transport.ring import Ring, push, set_watermark
from transport.wait import PARK

ONE = [Instrument("AAA", "test", Decimal("0.01"), Decimal("0.001"))]
STAGE_ROWS = {  # one that each stage may write, whatever became of the input
    "features": {"source_id": BY_FEATURES, "kind": CHECKPOINT},
    "signals": {"source_id": BY_SIGNALS, "kind": SIGNAL},
    "risk": {"source_id": BY_RISK, "kind": REJECT},
    "orders": {"source_id": BY_ORDERS, "kind": REJECT},
}
NUMBERS = dict(zip(DECIDING, (edges.FEATURES, edges.SIGNALS, edges.RISK, edges.ORDERS), strict=True))
FORGERIES = [
    ("features", TRADE, BY_FEATURES), ("features", FEATURE, BY_SIGNALS), ("features", FEATURE, FEED_BASE),
    ("signals", ORDER, BY_SIGNALS), ("signals", INTENT, BY_RISK), ("signals", CANCEL, BY_RISK),
    ("risk", INTENT, BY_RISK), ("risk", ORDER, BY_SIGNALS), ("risk", FILL, BY_EXCHANGE),
    ("orders", FILL, BY_ORDERS), ("orders", ORDER, BY_RISK), ("orders", ACK, BY_EXCHANGE),
]  # fmt: skip


@kernel
def _forged(edge, rows):
    return forged(edge, rows[0])


# --- the table ------------------------------------------------------------------------------------------------------------
def test_every_edge_carries_what_it_declares_from_whom_it_says_and_nothing_else() -> None:
    refused = 0
    for number, declared_edge in enumerate(EDGES):
        for source in (*range(FEED_BASE + 2), FEED_BASE + 63, 2**16 - 1):
            declared = declared_edge.sends.get(min(source, FEED_BASE), ())
            for kind in (*range(70), 64 + TRADE, 128 + ORDER, 255):
                fault = _forged(number, slots([{"kind": kind, "source_id": source}]))
                assert (fault == 0) == (kind in declared), (declared_edge.name, source, kind)
                if fault:
                    refused += 1
                    assert fault <= edges.FORGED
                    assert edges.told(fault) == (
                        f"the edge {declared_edge.name} carried a row of kind {NAME_OF.get(kind, kind)} that it may not carry"
                    )
    assert refused > 10_000


def test_only_risk_makes_an_order_and_only_the_exchange_a_fill_wherever_they_are_carried() -> None:
    makers = {kind: {s for e in EDGES for s, kinds in e.sends.items() if kind in kinds} for kind in (ORDER, FILL, INTENT)}
    assert makers == {ORDER: {BY_RISK, BY_ORDERS}, FILL: {BY_EXCHANGE}, INTENT: {BY_SIGNALS}}
    assert ORDER not in EDGES[edges.BROKER].sends[BY_ORDERS], "to the exchange goes RISK's own row"
    carried = {kind for e in EDGES for kinds in e.sends.values() for kind in kinds}
    unused = {k.__struct_config__.tag for k in KINDS} - carried
    assert sorted(NAME_OF[k] for k in unused) == ["Forecast", "Mark"], "a kind that is written has an edge"


def test_the_architecture_has_this_table() -> None:
    assert edges.table() in (ROOT / "ARCHITECTURE.md").read_text()


# --- within one thread ----------------------------------------------------------------------------------------------------
def started() -> tuple[Built, Session, list[np.ndarray]]:
    """A line of one instrument and no strategy over 40 trades, and where its inputs' seqs are collected."""
    rows = slots(
        {**stamped(TRADE, 1000 + n), "ts_seq_ns": 0, "source_id": FEED_BASE, "price_ticks": 100, "qty_lots": 1} for n in range(40)
    )
    config = Config()
    built = build_line(config, ONE, 1, 1, Path())
    runs: list[np.ndarray] = []
    session = Session(built, [iter([rows])], lambda batch: runs.append(batch.runs))
    session.open(lambda ns: sequence_first_words(built, config, ns, 1, 2))
    return built, session, runs


@pytest.mark.parametrize(
    ("number", "kind", "source"),
    [
        (edges.REPORTS, ORDER, BY_EXCHANGE), (edges.REPORTS, FILL, FEED_BASE), (edges.REPORTS, TRADE, FEED_BASE),
        (edges.REPORTS, COMMAND, BY_INGEST), (edges.REPORTS, 0, 0), (edges.COMMANDS, FILL, BY_EXCHANGE),
        (edges.COMMANDS, ORDER, BY_INGEST), (edges.COMMANDS, COMMAND, FEED_BASE), (edges.COMMANDS, TIMER, BY_INGEST),
    ],
)  # fmt: skip
def test_a_forged_report_or_command_gets_no_seq_and_stops_the_line(number: int, kind: int, source: int) -> None:
    built, session, runs = started()
    queue = built.line.paper.reports if number == edges.REPORTS else built.line.sequencer.commands
    push_first(queue, slots([{"kind": kind, "source_id": source, "ts_recv_ns": 1020}]), 1020)
    words = 3 + 20  # START, the instrument, cash, and the trades before it
    with pytest.raises(LineStopped, match=f"the edge {EDGES[number].name} carried .*, at seq {words}; the journal is whole") as stopped:
        session.run()
    assert str(NAME_OF.get(kind, kind)) in str(stopped.value)
    journaled = np.concatenate(runs)
    assert journaled["count"].sum() == words == built.line.sequencer.head[0]["next_seq"]


def test_a_command_that_belongs_there_is_sequenced() -> None:
    built, session, runs = started()
    row = {"kind": COMMAND, "source_id": BY_INGEST, "ts_recv_ns": 1020, "action": SET_CASH, "amount": 5, "instrument_id": NO_INSTRUMENT}
    push_first(built.line.sequencer.commands, slots([row]), 1020)
    session.run()
    assert np.concatenate(runs)["count"].sum() == 3 + 40 + 1 + 3
    assert built.line.orders.line[0]["cash"] == 5


@kernel
def _signals(owned, markets, inputs, rows, out):
    return step_signals(borrow(owned), markets, inputs[0], rows, len(rows), out)


@pytest.mark.parametrize(("kind", "source"), [(TRADE, BY_FEATURES), (FILL, BY_EXCHANGE), (FEATURE, BY_SIGNALS), (FEATURE, FEED_BASE)])
def test_signals_takes_rows_of_features_only(kind: int, source: int) -> None:
    state, (markets, _) = new_signals([], 1), new_markets([False])

    def answer(*rows: Fields) -> int:
        return int(_signals(state, markets, slots([stamped(TRADE, 1000)]), slots(rows), empty(OUT_ROWS)))

    good = [{"kind": kind, "source_id": BY_FEATURES} for kind in (BAR, FEATURE, CHECKPOINT)]
    assert answer(*good) == 0
    fault = answer(*good, {"kind": kind, "source_id": source})
    assert edges.told(fault).startswith(f"the edge FEATURES → SIGNALS carried a row of kind {NAME_OF[kind]}")


@kernel
def _submit(owned, rows):
    return submit(borrow(owned), rows[0])


@pytest.mark.parametrize(("kind", "source"), [(FILL, BY_EXCHANGE), (INTENT, BY_SIGNALS), (ORDER, BY_SIGNALS), (ORDER, BY_ORDERS), (AMEND, BY_RISK)])
def test_the_exchange_is_sent_orders_of_risk_and_changes_of_orders_only(kind: int, source: int) -> None:
    paper = new_paper(1, terms_of(1), empty(2), 100, 0, 1000, 0, 1)
    assert _submit(paper, slots([{"kind": ORDER, "source_id": BY_RISK}]))
    with pytest.raises(AssertionError, match="sent what it may not be sent"):
        _submit(paper, slots([{"kind": kind, "source_id": source}]))
    assert paper.arrivals.head[0]["count"] == 1


# --- over rings -----------------------------------------------------------------------------------------------------------
class Bench:
    """The rings of a placement in this process's own memory; the test is every process but the one it calls."""

    def __init__(self) -> None:
        self.built = build_line(Config(), ONE, 0, 1, Path())
        self.built.line.control["log_features"] = 1
        self.input, self.reports = Ring.in_process(64, 1), Ring.in_process(64, 1)
        self.rows = {name: Ring.in_process(64, 2) for name in DECIDING}
        store_cell(self.reports.cursors, NEXT_OUT, NEVER)

    def put(self, ring: Ring, *rows: Fields) -> None:
        assert push(ring.cursors, ring.slots, slots(rows), 0, len(rows)) == len(rows)

    def inputs(self, count: int, **last: int) -> None:
        """`count` trades as INGEST stamps them, the last with other fields."""
        rows = [{**stamped(TRADE, 1000 + n), "seq": n, "source_id": FEED_BASE, "price_ticks": 100, "qty_lots": 1} for n in range(count)]
        self.put(self.input, *rows[:-1], {**rows[-1], **last})

    def work(self, stage: int) -> int:
        """Let the worker of a stage handle what there is; why it came back."""
        above = self.rows[DECIDING[stage - SIGNALS]] if SIGNALS <= stage <= ORDERS else Ring.in_process(2, 2)
        own = [Ring.in_process(64, 2) for _ in DECIDING]
        inputs, above_edge, rows, back = Post(self.input, above, own, self.reports).edges()
        self.state = new_state()
        return int(run_worker(self.built.line, stage, inputs, 0, above_edge, rows, back, self.state, PARK, cycles_now() + 10**8))

    def ingest(self) -> int:
        """Let INGEST, which has no feed, take what there is; why it came back."""
        inputs, _, rows, back = Post(self.input, self.input, list(self.rows.values()), self.reports).edges()
        return int(run_ingest(self.built.line, inputs, rows, back, PARK, cycles_now() + 10**8))

    def fault(self) -> tuple[str, int]:
        control = self.built.line.control[0]
        return fault_text(self.built), int(control["fault_seq"])


def told(number: int, kind: int, seq: int) -> tuple[str, int]:
    text = f"the edge {EDGES[number].name} carried a row of kind {NAME_OF[kind]} that it may not carry, at seq {seq}"
    return f"{text}; the journal is whole up to that input", seq


@pytest.mark.parametrize("stage", [FEATURES, SIGNALS, RISK, ORDERS, WHOLE])
@pytest.mark.parametrize(("kind", "source"), [(ORDER, FEED_BASE), (TRADE, BY_EXCHANGE), (FILL, BY_INGEST), (INTENT, BY_SIGNALS), (FEATURE, BY_FEATURES)])
def test_a_worker_takes_no_input_that_ingest_cannot_have_sequenced(kind: int, source: int, stage: int) -> None:
    bench = Bench()
    bench.inputs(8, kind=kind, source_id=source)
    if stage in (SIGNALS, RISK, ORDERS):
        set_watermark(bench.rows[DECIDING[stage - SIGNALS]].cursors, 7)
    assert bench.work(stage) == FAULT
    assert bench.fault() == told(edges.INPUT, kind, 7)
    assert bench.state[HANDLED] == 6, "what came before it is handled"


@pytest.mark.parametrize(("from_stage", "kind", "source"), [f for f in FORGERIES if f[0] != "orders"])
def test_a_stage_takes_no_row_that_the_stage_before_may_not_write(from_stage: str, kind: int, source: int) -> None:
    bench = Bench()
    bench.inputs(8)
    ring = bench.rows[from_stage]
    bench.put(ring, {**STAGE_ROWS[from_stage], "seq": 2}, {**STAGE_ROWS[from_stage], "seq": 5}, {"kind": kind, "source_id": source, "seq": 5})
    set_watermark(ring.cursors, 7)
    assert bench.work(SIGNALS + DECIDING.index(from_stage)) == FAULT
    assert bench.fault() == told(NUMBERS[from_stage], kind, 5)
    assert bench.state[HANDLED] == 4


@pytest.mark.parametrize(("from_stage", "kind", "source"), FORGERIES)
def test_ingest_journals_no_row_that_its_stage_may_not_write(from_stage: str, kind: int, source: int) -> None:
    bench = Bench()
    good = {**STAGE_ROWS[from_stage], "seq": 2}
    bench.put(bench.rows[from_stage], good, good, {"kind": kind, "source_id": source, "seq": 5}, good)
    assert bench.ingest() == FAULT
    assert bench.fault() == told(NUMBERS[from_stage], kind, 5)
    assert bench.built.line.logs.counts[DECIDING.index(from_stage)] == 2, "the log ends before it"
    rows = Rows(*(edge(bench.rows[name]) for name in DECIDING))
    assert take_what_is_left(bench.built.line, rows), "nothing waits for it to go away"
    assert bench.built.line.logs.counts.sum() == 2


@pytest.mark.parametrize(("kind", "source"), [(ORDER, BY_EXCHANGE), (FILL, BY_ORDERS), (FILL, FEED_BASE), (COMMAND, BY_INGEST), (TRADE, FEED_BASE)])
def test_ingest_takes_no_report_but_the_exchanges(kind: int, source: int) -> None:
    bench = Bench()
    bench.put(bench.reports, {"kind": ACK, "source_id": BY_EXCHANGE, "ts_recv_ns": 2000}, {"kind": kind, "source_id": source, "ts_recv_ns": 2000})
    assert bench.ingest() == FAULT
    assert bench.fault() == told(edges.REPORTS, kind, 0)
    assert bench.built.line.paper.reports.head[0]["count"] == 1
    assert bench.built.line.sequencer.head[0]["next_seq"] == 0


def test_rows_that_belong_there_pass_every_ring() -> None:
    bench = Bench()
    for name in DECIDING:
        kinds = sorted(EDGES[NUMBERS[name]].sends[STAGE_ROWS[name]["source_id"]])
        bench.put(bench.rows[name], *({**STAGE_ROWS[name], "kind": kind} for kind in kinds))
    assert bench.ingest() != FAULT
    assert bench.built.line.logs.counts.tolist() == [3, 3, 5, 5]
