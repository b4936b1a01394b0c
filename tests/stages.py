"""What the tests of the stages share: slots by their fields, markets to trade in, and the exchange run from Python."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from handlers.domain.book import apply_market, new_markets
from handlers.domain.borrowed import borrow
from handlers.domain.queue import NEVER, pop
from handlers.domain.terms import new_terms
from handlers.orders.brokers.paper import REPORTS_MAX, advance, new_paper, on_market, submit
from transport.compiled import kernel
from transport.instruments import Instrument
from transport.records import (
    AMEND, ASK, BID, BOOK_DELTA, BOOK_SNAPSHOT, BY_ORDERS, BY_RISK, CANCEL, EVENT_END, EVENT_FIRST, GTC, LIMIT_ORDER, MARKET_ORDER, ORDER, TRADE,
    empty,
)  # fmt: skip

Fields = dict[str, Any]


def slots(records: Iterable[Fields]) -> np.ndarray:
    """Slots with the given fields set and all else zero."""
    records = list(records)
    out = empty(len(records))
    for name in {key for record in records for key in record}:
        out[name] = [record.get(name, 0) for record in records]
    return out


def instruments(count: int) -> tuple[Instrument, ...]:
    """A tick of 0.01 and a lot of 0.001: one tick times one lot is 1,000 money units."""
    return tuple(Instrument(f"I{n}", "test", Decimal("0.01"), Decimal("0.001")) for n in range(count))


def terms_of(count: int, maker_bp: str = "2", taker_bp: str = "5") -> np.ndarray:
    return new_terms(instruments(count), 8, Decimal(maker_bp), Decimal(taker_bp))


def stamped(kind: int, at_ns: int, instrument: int = 0, **fields: Any) -> Fields:
    """A record as INGEST hands it on: an event of its own unless `flags` says otherwise."""
    header = {"kind": kind, "ts_seq_ns": at_ns, "ts_recv_ns": at_ns, "ts_event_ns": at_ns, "instrument_id": instrument}
    return {**header, "flags": EVENT_END, "venue_seq": 1, "parts": 1, **fields}


def snapshot(bids: dict[int, int], asks: dict[int, int], at_ns: int, instrument: int = 0) -> list[Fields]:
    """A whole book, valid from its last row on."""
    rows = [(BID, *level) for level in bids.items()] + [(ASK, *level) for level in asks.items()]
    out = [
        stamped(BOOK_SNAPSHOT, at_ns, instrument, side=s, price_ticks=p, qty_lots=q, flags=0, venue_seq=1) for s, p, q in rows
    ]
    out[0]["flags"] |= EVENT_FIRST
    out[-1]["flags"] |= EVENT_END
    return out


def level(side: int, price: int, lots: int, at_ns: int, instrument: int = 0, flags: int = EVENT_END) -> Fields:
    return stamped(BOOK_DELTA, at_ns, instrument, side=side, price_ticks=price, qty_lots=lots, flags=flags)


def trade(aggressor: int, price: int, lots: int, at_ns: int, instrument: int = 0) -> Fields:
    return stamped(TRADE, at_ns, instrument, side=aggressor, price_ticks=price, qty_lots=lots)


def order(
    order_id: int, side: int, qty: int, at_ns: int, price: int = 0, tif: int = GTC, instrument: int = 0, **fields: Any
) -> Fields:
    """An ORDER as RISK makes it: a limit order when it has a price."""
    kind = LIMIT_ORDER if price else MARKET_ORDER
    return stamped(
        ORDER, at_ns, instrument, order_id=order_id, side=side, qty_lots=qty, leaves_lots=qty, price_ticks=price,
        order_type=kind, tif=tif, strategy_id=1, seq=order_id, flags=0, venue_seq=0, source_id=BY_RISK, **fields,
    )  # fmt: skip


def change(kind: int, order_id: int, at_ns: int, side: int = 0, price: int = 0, qty: int = 0, instrument: int = 0) -> Fields:
    """A CANCEL or AMEND as ORDERS sends it."""
    return stamped(
        kind, at_ns, instrument, order_id=order_id, side=side, price_ticks=price, qty_lots=qty, strategy_id=1, flags=0, venue_seq=0,
        seq=order_id, source_id=BY_ORDERS,
    )  # fmt: skip


@kernel
def _run_exchange(owned, markets, books, rows, until_ns):
    paper = borrow(owned)
    for i in range(len(rows)):
        r = rows[i]
        while advance(paper, markets, r.ts_seq_ns):
            pass
        if r.kind == ORDER or r.kind == CANCEL or r.kind == AMEND:
            assert submit(paper, r)
        else:
            m = markets[np.int64(r.instrument_id)]
            apply_market(m, books, r)
            on_market(paper, m, r)
    while advance(paper, markets, until_ns):
        pass


@kernel
def _take_reports(queue, out):
    n = 0
    while queue.head[0].count > 0:
        out[n] = queue.rows[pop(queue)]
        n += 1
    return n


class Exchange:
    """The paper exchange alone: `run` feeds it records and orders in time order and returns what it reported, by due time."""

    def __init__(
        self, count: int = 1, out_ns: int = 100, out_jitter_ns: int = 0, back_ns: int = 1000, back_jitter_ns: int = 0,
        seed: int = 1, maker_bp: str = "2", taker_bp: str = "5",
    ) -> None:  # fmt: skip
        self.terms = terms_of(count, maker_bp, taker_bp)
        self.state = new_paper(count, self.terms, empty(2), out_ns, out_jitter_ns, back_ns, back_jitter_ns, seed)
        self.markets, self.books = new_markets([False] * count)

    def run(self, records: Sequence[Fields], until_ns: int = NEVER) -> np.ndarray:
        _run_exchange(self.state, self.markets, self.books, slots(records), until_ns)
        out = empty(REPORTS_MAX)
        return out[: _take_reports(self.state.reports, out)]
