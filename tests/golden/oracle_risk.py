"""RISK again, in plain Python: what is held, what open orders could make of it, and what of the intents may pass.

It is written from the rules: nothing is kept up beside the orders themselves, every sum is made anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from handlers.domain import order as life
from handlers.domain import reasons
from tests.golden.oracle_exchange import Book, Report
from transport.records import (
    ACCEPTED, AMEND, AMEND_ORDER, AMENDED, BUY, BY_RISK, CANCEL, CANCEL_ALL, CANCEL_ORDER, COMMAND, FILL, HALTED,
    MARKET_ORDER, ORDER, PLACE, REJECT, SELL, TARGET, VERDICT,
)  # fmt: skip

if TYPE_CHECKING:
    from tests.golden.oracle_line import Account, Input

Fields = dict[str, Any]


@dataclass
class Working:
    """An order as RISK knows it: it made it, let changes of it pass, and hears what became of them."""

    strategy: int
    instrument: int
    side: int
    qty: int
    price: int
    filled: int = 0
    asked: int | None = None  # quantity of the amend that is not answered yet
    cancelling: bool = False

    def could_fill(self) -> int:
        return max(self.qty, self.asked or 0) - self.filled

    def hear(self, told: Report) -> bool:
        """Take a report in; whether the order is still open after it."""
        if told.kind == FILL:
            self.filled += told.qty
            return told.leaves > 0
        if told.kind == REJECT:
            if told.action == AMEND:
                self.asked = None
            elif told.action == CANCEL:
                self.cancelling = False
            return told.action in (AMEND, CANCEL)
        if told.action == AMENDED:
            self.qty, self.price, self.asked = self.filled + told.leaves, told.price, None
            return told.leaves > 0
        return told.action == ACCEPTED


class Risk:
    """Accounts by (strategy, instrument), orders at work, two limits in lots, and the state of trading."""

    def __init__(self, accounts: Sequence[Account], books: Sequence[Book], position_max: int, total_max: int) -> None:
        self.accounts, self.books, self.count = accounts, books, len(books)
        self.position_max, self.total_max = position_max, total_max
        self.working: dict[int, Working] = {}
        self.halted = False

    def account(self, strategy: int, instrument: int) -> Account:
        return self.accounts[(strategy - 1) * self.count + instrument]

    def could_fill(self, side: int, instrument: int, strategy: int | None = None) -> int:
        orders = [o for o in self.working.values() if (o.side, o.instrument) == (side, instrument)]
        return sum(o.could_fill() for o in orders if strategy in (None, o.strategy))

    def held(self, instrument: int) -> int:
        return sum(a.lots for place, a in enumerate(self.accounts) if place % self.count == instrument)

    def worst(self, instrument: int) -> int:
        """The largest position, of either sign, that an instrument could come to."""
        held = self.held(instrument)
        return max(abs(held + self.could_fill(BUY, instrument)), abs(held - self.could_fill(SELL, instrument)))

    def crossed(self, instrument: int) -> Fields:
        """What refuses an order where bids are above asks, as the fields of the refusal; empty where they are not."""
        book = self.books[instrument]
        bid, ask = book.top() if book.open() else (0, 0)
        return {"reason": reasons.CROSSED_BOOK, "limit": 0, "observed": ask - bid} if bid > ask else {}

    def over(self, instrument: int, side: int, more: int) -> Fields:
        """What refuses `more` lots of a side, as the fields of the refusal; empty when nothing does."""
        held = self.held(instrument)
        reach = (held if side == BUY else -held) + self.could_fill(side, instrument) + more
        if reach <= 0 or not more:
            return {}
        if reach > self.position_max:
            return {"reason": reasons.POSITION_LIMIT, "limit": self.position_max, "observed": reach}
        left = self.total_max - sum(self.worst(i) for i in range(self.count) if i != instrument)
        if reach > left:
            return {"reason": reasons.TOTAL_POSITION_LIMIT, "limit": left, "observed": reach}
        return {}

    def check(self, cause: Input, intents: list[Fields]) -> list[Fields]:
        out: list[Fields] = []
        if cause.kind == COMMAND and cause.action == CANCEL_ALL:
            out += [] if self.halted else [cause.row(BY_RISK, 0, VERDICT, state=HALTED)]  # the feeds have ended
            out.append(cause.row(BY_RISK, len(out), CANCEL))
            self.halted = True
            for order in self.working.values():
                order.cancelling = True
        elif cause.report:
            told = cause.report
            if told.kind == FILL:
                money = -told.cash if told.side == BUY else told.cash
                self.account(told.order.strategy, told.order.instrument).fill(told.side, told.qty, money, told.fee)
            order = self.working.get(told.order_id)
            if order and not order.hear(told):
                del self.working[told.order_id]
        for intent in intents:
            made = self.judge(cause, intent, len(out))
            out += [made] if made else []
        return out

    def judge(self, cause: Input, intent: Fields, number: int) -> Fields | None:
        i, action, strategy = cause.instrument, intent["action"], intent["strategy_id"]
        if action in (CANCEL_ORDER, AMEND_ORDER):
            return self.judge_change(intent, number)
        side, qty = intent.get("side", 0), intent["qty_lots"]
        if action == TARGET:
            pending = self.could_fill(BUY, i, strategy) - self.could_fill(SELL, i, strategy)
            delta = qty - self.account(strategy, i).lots - pending
            if not delta:
                return None
            side, qty = (BUY, delta) if delta > 0 else (SELL, -delta)
        why = self.crossed(i) or self.over(i, side, qty)
        if why:
            return {**intent, "source_id": BY_RISK, "row": number, "kind": REJECT, "leaves_lots": 0, **why}
        assert action in (TARGET, PLACE)
        order_id = (1 << 48) | (cause.seq << 12) | number
        self.working[order_id] = Working(strategy, i, side, qty, intent.get("price_ticks", 0))
        return cause.row(
            BY_RISK, number, ORDER, side=side, qty_lots=qty, leaves_lots=qty, strategy_id=strategy, order_id=order_id,
            price_ticks=intent.get("price_ticks", 0), order_type=intent.get("order_type", MARKET_ORDER), tif=intent.get("tif", 0),
        )  # fmt: skip

    def judge_change(self, intent: Fields, number: int) -> Fields:
        """A cancel passes; an amend of an order of ours, one at a time, with room for the lots it adds."""
        mine = self.working.get(intent["order_id"])
        mine = mine if mine and mine.strategy == intent["strategy_id"] else None
        passed = {**intent, "source_id": BY_RISK, "row": number, "action": 0}
        if intent["action"] == CANCEL_ORDER:
            if mine:
                mine.cancelling = True
            return {**passed, "kind": CANCEL}
        refused = {**intent, "source_id": BY_RISK, "row": number, "kind": REJECT, "leaves_lots": 0}
        if not mine:
            return {**refused, "reason": reasons.UNKNOWN_ORDER}
        if mine.cancelling or mine.asked is not None:
            state = life.PENDING_CANCEL if mine.cancelling else life.PENDING_AMEND
            return {**refused, "reason": reasons.INVALID_TRANSITION, "observed": state}
        added = max(0, intent["qty_lots"] - mine.qty)
        why = self.crossed(mine.instrument) if added or intent["price_ticks"] != mine.price else {}
        why = why or self.over(mine.instrument, mine.side, added)
        if why:
            return {**refused, **why}
        mine.asked = intent["qty_lots"]
        return {**passed, "kind": AMEND, "instrument_id": mine.instrument, "side": mine.side}
