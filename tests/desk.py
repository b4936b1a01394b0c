"""RISK at a desk: two strategies, two instruments, limits by name; inputs and intents in, rows out."""

from __future__ import annotations

from typing import Any

import numpy as np

from handlers.domain import reasons
from handlers.domain.book import apply_market, new_markets
from handlers.domain.borrowed import borrow
from handlers.risk.checks import LIMITS, LINE_LIMITS
from handlers.risk.stage import OUT_ROWS, new_risk, step_risk
from tests.stages import Fields, slots, snapshot, stamped, terms_of
from transport.compiled import kernel
from transport.records import (
    AMEND_ORDER, BUY, BY_RISK, BY_SIGNALS, COMMAND, EVENT_END, INTENT, LIMIT_ORDER, MARKET_ORDER, NO_INSTRUMENT, ORDER, PLACE, REJECT,
    SET_POSITION, TARGET, TIMER, empty,
)  # fmt: skip

NO_LIMIT = 2**60
MILLION = 1_000_000  # money units of a lot at the mid of 1,000 ticks


@kernel
def _step(owned, markets, books, inputs, intents, out):
    r = inputs[0]
    if r.instrument_id < len(markets):
        apply_market(markets[np.int64(r.instrument_id)], books, r)
    return step_risk(borrow(owned), markets, r, intents, len(intents), out)


class Desk:
    """RISK with two strategies, two instruments and a mid of 1,000 ticks in each at time 1,000; limits by name."""

    def __init__(self, **given: int) -> None:
        limits, line = np.zeros(2, LIMITS), np.zeros(1, LINE_LIMITS)
        usual = {
            "position_max_lots": 100, "notional_max": NO_LIMIT, "qty_max_lots": 1000, "collar_bp": 500, "stale_ns": 5000,
            "position_total_max": NO_LIMIT, "lot_units": 0, "notional_total_max": NO_LIMIT, "rate": 1000, "burst": 1000,
            "duplicate_ns": 0, "open_orders_max": 100, "spread_min": 0, "inverse": 0,
        }  # fmt: skip
        self.limits = {**usual, **given}
        for name, value in self.limits.items():
            (limits if name in (limits.dtype.names or ()) else line)[name] = value
        self.state = new_risk(limits, line, 2, terms_of(2))
        self.markets, self.books = new_markets([False, False])
        self.seq, self.now, self.last = 0, 1000, 0
        for i in range(2):
            self.input(*snapshot({999: 50}, {1001: 50}, 1000, i))

    def input(self, *records: Fields, intents: list[Fields] | None = None) -> np.ndarray:
        """Rows of the last of `records`, with which the intents come."""
        out, n = empty(OUT_ROWS), 0
        for record in records:
            self.seq += 1
            asked = slots(intents or []) if record is records[-1] else empty(0)
            n = _step(self.state, self.markets, self.books, slots([{**record, "seq": self.seq, "epoch": 1}]), asked, out)
        made = out[:n]["order_id"][out[:n]["kind"] == ORDER]
        self.last = int(made[-1]) if len(made) else self.last
        return out[:n]

    def ask(self, *intents: Fields, at: int = 0, flags: int = EVENT_END) -> np.ndarray:
        """Rows of intents that come of one input at `at`."""
        self.now = max(self.now, at)
        return self.input(stamped(TIMER, self.now, flags=flags), intents=list(intents))

    def command(self, action: int, **fields: Any) -> np.ndarray:
        return self.input(stamped(COMMAND, self.now, **{"instrument": NO_INSTRUMENT, "action": action, **fields}))

    def report(self, kind: int, side: int, qty: int, leaves: int, action: int = 0, strategy: int = 1, **fields: Any) -> None:
        """A report of the order made last, or of `order_id`."""
        about = {"side": side, "qty_lots": qty, "leaves_lots": leaves, "action": action, "strategy_id": strategy, "order_id": self.last}
        self.input(stamped(kind, self.now, **{**about, **fields}))

    def amend(self, qty: int, price: int, order_id: int = 0, **fields: Any) -> np.ndarray:
        """Rows of an amend of the order made last, or of `order_id`."""
        return self.ask(place(fields.pop("side", BUY), qty, price, action=AMEND_ORDER, order_id=order_id or self.last, **fields))

    def hold(self, lots: int, instrument: int = 0, strategy: int = 1) -> None:
        self.command(SET_POSITION, instrument=instrument, qty_lots=lots, basis=lots * MILLION, strategy_id=strategy)


def place(side: int, qty: int, price: int = 0, instrument: int = 0, strategy: int = 1, **fields: Any) -> Fields:
    kind = LIMIT_ORDER if price else MARKET_ORDER
    return {
        "kind": INTENT, "source_id": BY_SIGNALS, "instrument_id": instrument, "strategy_id": strategy, "action": PLACE, "side": side,
        "qty_lots": qty, "price_ticks": price, "order_type": kind, **fields,
    }  # fmt: skip


def target(lots: int, **fields: Any) -> Fields:
    return {**place(0, lots), "action": TARGET, **fields}


def passed(rows: np.ndarray) -> bool:
    return rows["kind"].tolist() == [ORDER]


def refusal(rows: np.ndarray) -> tuple[int, int, int]:
    """(reason, limit, observed) of the one refusal."""
    assert rows["kind"].tolist() == [REJECT], rows["kind"]
    assert reasons.NAME[int(rows[0]["reason"])] and reasons.DOC[int(rows[0]["reason"])]
    assert (rows[0]["source_id"], rows[0]["leaves_lots"]) == (BY_RISK, 0)
    return int(rows[0]["reason"]), int(rows[0]["limit"]), int(rows[0]["observed"])
