"""What each edge of the line may carry: which kinds, from whom. Checks, document and tests are all this one table.

A row that its edge does not declare is a bug or an attack. From outside it is refused with a reason and has no `seq`; inside, where
rows come from another process or wait in a queue, it is a fault: the line stops there, and the journal is whole up to it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from transport.compiled import kernel
from transport.records import (
    ACK, AMEND, BAR, BOOK_DELTA, BOOK_SNAPSHOT, BY_EXCHANGE, BY_FEATURES, BY_INGEST, BY_ORDERS, BY_RISK, BY_SIGNALS, CANCEL, CHECKPOINT,
    COMMAND, CONNECTION, FEATURE, FEED_BASE, FILL, GAP, INSTRUMENT, INTENT, NAME_OF, ORDER, POSITION, QUOTE, REJECT, SIGNAL, START, STATUS, TIMER,
    TRADE, VERDICT,
)  # fmt: skip

FEEDS, COMMANDS, REPORTS, INPUT, FEATURES, SIGNALS, RISK, ORDERS, BROKER = range(9)  # places in EDGES; four stages in a row
MARKET_KINDS = (TRADE, QUOTE, BOOK_DELTA, BOOK_SNAPSHOT, BAR, INSTRUMENT, STATUS, GAP, CONNECTION)
WORDS = (COMMAND, START, INSTRUMENT)
ANSWERS = (ACK, REJECT, FILL)
FORGED = -(1 << 16)  # a fault from here down says edge and kind: FORGED - (edge << 8 | kind)


class Edge(NamedTuple):
    """`sends`: source_id -> the kinds that this source may send here; FEED_BASE stands for every feed."""

    name: str
    sends: dict[int, tuple[int, ...]]


EDGES = (
    Edge("feeds → INGEST", {FEED_BASE: MARKET_KINDS}),
    Edge("commands → INGEST", {BY_INGEST: WORDS}),
    Edge("exchange → INGEST", {BY_EXCHANGE: ANSWERS}),
    Edge("INGEST → stages", {FEED_BASE: MARKET_KINDS, BY_INGEST: (*WORDS, TIMER), BY_EXCHANGE: ANSWERS}),
    Edge("FEATURES → SIGNALS", {BY_FEATURES: (BAR, FEATURE, CHECKPOINT)}),
    Edge("SIGNALS → RISK", {BY_SIGNALS: (INTENT, SIGNAL, REJECT)}),
    Edge("RISK → ORDERS", {BY_RISK: (ORDER, CANCEL, AMEND, REJECT, VERDICT)}),
    Edge("ORDERS → journal", {BY_ORDERS: (ORDER, CANCEL, AMEND, REJECT, POSITION)}),
    Edge("ORDERS → exchange", {BY_RISK: (ORDER,), BY_ORDERS: (CANCEL, AMEND)}),
)
SENDERS = {FEED_BASE: "feed", BY_INGEST: "INGEST", BY_FEATURES: "FEATURES", BY_SIGNALS: "SIGNALS", BY_RISK: "RISK", BY_ORDERS: "ORDERS", BY_EXCHANGE: "exchange"}


def _kinds() -> np.ndarray:
    """Bit k of [edge, source_id, FEED_BASE for every feed]: that source may send kind k over that edge."""
    table = np.zeros((len(EDGES), FEED_BASE + 1), np.uint64)
    for number, edge in enumerate(EDGES):
        for source, kinds in edge.sends.items():
            table[number, source] = sum(1 << kind for kind in kinds)
    return table


KINDS = _kinds()


@kernel(inline=True)
def forged(edge, r):
    """0 when `edge`, a place in EDGES, may carry row `r`; else the fault that stops the line, negative."""
    sender = min(np.int64(r.source_id), FEED_BASE)
    if r.kind < 64 and (KINDS[edge, sender] >> np.uint64(r.kind)) & np.uint64(1):
        return 0
    return FORGED - (edge << 8 | np.int64(r.kind))


def told(fault: int) -> str:
    """A fault of `forged` in words."""
    edge, kind = divmod(FORGED - fault, 256)
    return f"the edge {EDGES[edge].name} carried a row of kind {NAME_OF.get(kind, kind)} that it may not carry"


def table() -> str:
    """The edges as a markdown table, as ARCHITECTURE.md has it."""
    out = ["| edge | may carry |", "|---|---|"]
    for edge in EDGES:
        sends = (f"{', '.join(NAME_OF[k] for k in sorted(kinds))} of {SENDERS[source]}" for source, kinds in edge.sends.items())
        out.append(f"| {edge.name} | {'; '.join(sends)} |")
    return "\n".join(out)
