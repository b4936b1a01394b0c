"""The whole line again, in plain Python: dicts, lists, ints and floats, no kernel. Slow, short, the referee of every decision.

    sequencing ──► top of book, means, volatility ──► strategies ──► position limit ──► orders ──► oracle_exchange ──► reports

It is written from the rules of each stage and yields every row of the signals, risk and orders logs as a dict of its fields.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from handlers.domain import reasons
from tests.golden.oracle_exchange import Book, Exchange, Report, Request, Row, Terms, rounded
from tests.golden.oracle_risk import Risk
from transport.records import (
    ACCEPTED, ACK, AFTER_FILL, AMEND, AMENDED, AT_END, BOOK_DELTA, BOOK_SNAPSHOT, BUY, BY_ORDERS, BY_SIGNALS,
    CANCEL, CANCEL_ALL, COMMAND, END_OF_FEED, EVENT_END, FILL, INSTRUMENT, INTENT, MARKED, NO_INSTRUMENT,
    ORDER, POSITION, REJECT, SELL, SET_CASH, START, TARGET, TIMER, TRADE,
)  # fmt: skip

Fields = dict[str, Any]
NEVER = 2**62


@dataclass
class Input:
    """One sequenced record."""

    seq: int
    kind: int
    event_ns: int
    recv_ns: int
    now: int
    instrument: int = NO_INSTRUMENT
    action: int = 0
    amount: int = 0
    market: Row | None = None
    report: Report | None = None

    def row(self, source: int, number: int, kind: int, **fields: Any) -> Fields:
        """A row made of this input."""
        header = {
            "seq": self.seq, "ts_event_ns": self.event_ns, "ts_recv_ns": self.recv_ns, "ts_seq_ns": self.now, "epoch": 1,
            "instrument_id": self.instrument, "source_id": source, "row": number, "parts": 1, "kind": kind,
        }  # fmt: skip
        return {**header, **fields}


@dataclass
class Features:
    """The means of one instrument."""

    fast_n: int
    slow_n: int
    volatility_n: int
    events: int = 0
    mid: float = 0.0
    fast: float = 0.0
    slow: float = 0.0
    square: float = 0.0

    def update(self, bid: int, ask: int) -> list[float]:
        """mid, spread, ema_fast, ema_slow, volatility where strategies look for them."""
        mid = (bid + ask) / 2
        if not self.events:
            self.fast = self.slow = mid
        else:
            change = mid - self.mid
            self.fast += 2.0 / (self.fast_n + 1) * (mid - self.fast)
            self.slow += 2.0 / (self.slow_n + 1) * (mid - self.slow)
            self.square += 2.0 / (self.volatility_n + 1) * (change * change - self.square)
        self.events, self.mid = self.events + 1, mid
        return [mid, float(ask - bid), 0.0, 0.0, 0.0, self.fast, self.slow, math.sqrt(self.square)]


def momentum(lots: int, warmup: int) -> Callable[[list[float], Input], Fields | None]:
    """Long above, short below, when it changes."""
    seen = target = 0

    def step(values: list[float], cause: Input) -> Fields | None:
        nonlocal seen, target
        seen += 1
        wanted = lots if values[5] > values[6] else -lots
        if seen <= warmup or wanted == target:
            return None
        target = wanted
        return {"action": TARGET, "qty_lots": target}

    return step


def mean_reversion(
    lots: int, window: int, entry: float, leave: float, stop: float
) -> Callable[[list[float], Input], Fields | None]:
    """Against the distance from the mean, in deviations."""
    seen, target, stopped, mean, variance = 0, 0, False, 0.0, 0.0

    def step(values: list[float], cause: Input) -> Fields | None:
        nonlocal seen, target, stopped, mean, variance
        mean = mean if seen else values[0]
        alpha, away = 2.0 / (window + 1), values[0] - mean
        mean += alpha * away
        variance = (1.0 - alpha) * (variance + alpha * away * away)
        seen += 1
        if seen <= window or variance <= 0:
            return None
        z = (values[0] - mean) / math.sqrt(variance)
        wanted = target
        if abs(z) < leave:
            wanted, stopped = 0, False
        elif abs(z) > stop:
            wanted, stopped = 0, True
        elif abs(z) > entry and not stopped:
            wanted = -lots if z > 0 else lots
        if wanted == target:
            return None
        target = wanted
        return {"action": TARGET, "qty_lots": target}

    return step


def plain_python(handler: Any, **params: Any) -> Callable[[list[float], Input], Fields | None]:
    """A handler's own function, called with plain objects."""
    state = SimpleNamespace(**dict.fromkeys(handler.state.names, 0))

    def step(values: list[float], cause: Input) -> Fields | None:
        out = SimpleNamespace()
        options = SimpleNamespace(**{**handler.defaults, **params})
        return vars(out) if handler.step(state, options, SimpleNamespace(values=values, seq=cause.seq, epoch=1), out) else None

    return step


@dataclass
class Account:
    """Position of a strategy in an instrument."""

    lots: int = 0
    cost: int = 0
    realised: int = 0
    fees: int = 0
    fills: int = 0

    def fill(self, side: int, lots: int, money: int, fee: int) -> None:
        sign = 1 if side == BUY else -1
        closing = min(lots, abs(self.lots)) if self.lots * sign < 0 else 0
        closing_money = rounded(money * closing, lots)
        if closing:
            released = rounded(self.cost * closing, abs(self.lots))
            self.realised += -sign * closing_money - released
            self.cost -= released
        self.cost += sign * (money - closing_money)
        self.lots += sign * lots
        self.fees += fee
        self.fills += 1


@dataclass
class Open:
    """An order as ORDERS knows it."""

    row: Fields
    leaves: int
    cancelling: bool = False
    amending: bool = False
    filled: int = 0


class Line:
    """Feeds in, decision rows out; `strategies[k]` makes a step per instrument."""

    def __init__(
        self, feeds: Sequence[list[Row]], terms: list[Terms], strategies: Sequence[Callable[[], Any]], position_max: int, *,
        total_max: int, cash: int, out_ns: int, back_ns: int, timer_ns: int, fast: int, slow: int, volatility: int,
    ) -> None:  # fmt: skip
        self.feeds, self.at = feeds, [0] * len(feeds)
        self.keys = [f[0].recv_ns for f in feeds]
        self.exchange = Exchange(terms, out_ns, back_ns)
        self.terms, self.count = terms, len(terms)
        self.features = [Features(fast, slow, volatility) for _ in terms]
        self.steps = [[make() for make in strategies] for _ in terms]
        self.accounts = [Account() for _ in range(len(strategies) * self.count)]
        self.judge = Risk(self.accounts, self.exchange.books, position_max, total_max)
        self.opening_cash, self.cash = cash, 0
        self.timer_ns, self.timer_due, self.timers = timer_ns, min(self.keys) + timer_ns, 0
        self.table: dict[int, Open] = {}
        self.seq, self.now, self.phase = 0, 0, 0
        self.commands: list[Input] = []
        self.answers: list[Report] = []
        self.signals: list[Fields] = []
        self.risk: list[Fields] = []
        self.orders: list[Fields] = []

    # --- sequencing -------------------------------------------------------------------------------------------------------
    def candidate(self) -> tuple[int, int, int]:
        """(time, rank, feed) of what comes next; time NEVER when nothing is left."""
        found = [(key, 4 + f, f) for f, key in enumerate(self.keys)]
        if self.exchange.reports:
            found.append((self.exchange.reports[0][0], 2, 0))
        if self.commands:
            found.append((self.commands[0].recv_ns, 1, 0))
        best = min(found)
        return (self.timer_due, 0, 0) if self.timer_due <= best[0] < NEVER else best

    def inputs(self) -> Iterator[Input]:
        first = min(self.keys)
        self.commands = [Input(0, kind, 0, first, 0, i) for kind, i in [(START, NO_INSTRUMENT), *((INSTRUMENT, i) for i in range(self.count))]]
        self.commands.append(Input(0, COMMAND, 0, first, 0, action=SET_CASH, amount=self.opening_cash))
        while True:
            if self.phase == 0 and set(self.keys) == {NEVER}:
                self.commands.append(Input(0, COMMAND, 0, self.now, 0, action=CANCEL_ALL))
                self.phase = 1
            when, rank, f = self.candidate()
            if self.exchange.advance(when):
                continue
            if when == NEVER:
                if self.phase == 3:
                    return
                self.commands.append(Input(0, COMMAND, 0, self.now, 0, action=(0, CANCEL_ALL, END_OF_FEED)[self.phase]))
                self.phase += 1
                continue
            taken = self.take(when, rank, f)
            self.now = max(self.now, when)
            taken.seq, taken.now = self.seq, self.now
            self.seq += 1
            yield taken

    def take(self, when: int, rank: int, f: int) -> Input:
        if rank == 0:
            self.timer_due += self.timer_ns
            return Input(0, TIMER, 0, when, 0)
        if rank == 1:
            return self.commands.pop(0)
        if rank == 2:
            told = heapq.heappop(self.exchange.reports)[2]
            self.answers.append(told)
            return Input(0, told.kind, told.at, told.due, 0, told.order.instrument, told.action, report=told)
        r = self.feeds[f][self.at[f]]
        self.at[f] += 1
        ended = self.at[f] == len(self.feeds[f])
        self.keys[f] = NEVER if ended else max(self.keys[f], self.feeds[f][self.at[f]].recv_ns)
        return Input(0, r.kind, r.event_ns, r.recv_ns, 0, r.instrument, market=r)

    # --- one input through the stages -------------------------------------------------------------------------------------
    def run(self) -> None:
        for cause in self.inputs():
            intents = self.decide(cause) if cause.market else []
            self.signals += intents
            made = self.judge.check(cause, intents)
            self.risk += made
            self.orders += self.send(cause, made)

    def decide(self, cause: Input) -> list[Fields]:
        r = cause.market
        assert r is not None
        book: Book = self.exchange.books[r.instrument]
        book.apply(r)
        self.exchange.on_market(r, cause.now)
        if not r.flags & EVENT_END or r.kind not in (BOOK_DELTA, TRADE, BOOK_SNAPSHOT) or not book.open():
            return []
        values = self.features[r.instrument].update(*book.top())
        out: list[Fields] = []
        for k, step in enumerate(self.steps[r.instrument], start=1):
            wanted = step(values, cause)
            if wanted is not None:
                out.append(cause.row(BY_SIGNALS, len(out), INTENT, strategy_id=k, **wanted))
        return out

    def send(self, cause: Input, made: list[Fields]) -> list[Fields]:
        out: list[Fields] = []
        if cause.kind == TIMER:
            out = self.marks(cause, MARKED)
        elif cause.kind == COMMAND and cause.action == SET_CASH:
            self.cash = cause.amount
        elif cause.kind == COMMAND and cause.action == END_OF_FEED:
            out = self.marks(cause, AT_END)
        elif cause.report:
            out = self.account_for(cause, cause.report)
        for row in made:
            if row["kind"] == ORDER:
                self.table[row["order_id"]] = Open(row, row["qty_lots"])
                out.append({**row, "source_id": BY_ORDERS, "row": len(out)})
                self.submit(out[-1], cause)
            elif row["kind"] == CANCEL and not row.get("order_id"):
                out += self.withdraw_all(cause, len(out))
            elif row["kind"] in (CANCEL, AMEND):
                out += self.send_change(cause, row, len(out))
        return out

    def submit(self, row: Fields, cause: Input) -> None:
        names = ("kind", "order_id", "instrument_id", "strategy_id", "side", "qty_lots", "leaves_lots", "price_ticks", "order_type", "tif")
        self.exchange.submit(Request(*(row.get(name, 0) for name in names)), cause.now, cause.seq, row["row"])

    def send_change(self, cause: Input, row: Fields, number: int) -> list[Fields]:
        sent = {**row, "source_id": BY_ORDERS, "row": number}
        known = self.table.get(row["order_id"])
        if known is None:
            return [{**sent, "kind": REJECT, "action": row["kind"], "reason": reasons.UNKNOWN_ORDER}]
        if known.cancelling or (row["kind"] == AMEND and known.amending):
            return []
        known.cancelling, known.amending = row["kind"] == CANCEL, row["kind"] == AMEND
        sent["side"] = known.row["side"]
        self.submit(sent, cause)
        return [sent]

    def withdraw_all(self, cause: Input, number: int) -> list[Fields]:
        out = []
        for order_id, known in sorted(self.table.items()):
            if not known.cancelling:
                known.cancelling = True
                keep = {k: known.row[k] for k in ("instrument_id", "strategy_id", "side", "qty_lots", "price_ticks")}
                out.append(cause.row(BY_ORDERS, number + len(out), CANCEL, order_id=order_id, leaves_lots=known.leaves) | keep)
                self.submit(out[-1], cause)
        return out

    def account_for(self, cause: Input, told: Report) -> list[Fields]:
        """The life of the order, then a position row for a fill."""
        known = self.table.get(told.order_id)
        if known:
            if told.kind == FILL:
                known.leaves = told.leaves
                known.filled += told.qty
            elif told.kind == ACK and told.action == AMENDED:
                known.leaves, known.amending = told.leaves, False
                known.row = {**known.row, "price_ticks": told.price, "qty_lots": known.filled + told.leaves}
            elif told.kind == REJECT and told.action:
                known.cancelling &= told.action != CANCEL
                known.amending &= told.action != AMEND
            elif told.action != ACCEPTED:
                known.leaves = 0
            if not known.leaves:
                del self.table[told.order_id]
        if told.kind != FILL:
            return []
        self.cash += told.cash - told.fee
        place = (told.order.strategy - 1) * self.count + told.order.instrument
        row = self.position(cause, place, AFTER_FILL, told.price, 0)
        return [{**row, "order_id": told.order_id}]

    def position(self, cause: Input, place: int, why: int, price: int | None, number: int) -> Fields:
        a, t = self.accounts[place], self.terms[place % self.count]
        twice = self.exchange.books[place % self.count].mid_twice()
        return cause.row(
            BY_ORDERS, number, POSITION, strategy_id=place // self.count + 1, action=why, qty_lots=a.lots, realised=a.realised,
            price_ticks=twice // 2 if price is None else price, fee=a.fees, cost=a.cost,
            unrealised=rounded(twice * a.lots * t.num, 2 * t.den) - a.cost,
        ) | {"instrument_id": place % self.count}  # fmt: skip

    def marks(self, cause: Input, why: int) -> list[Fields]:
        out: list[Fields] = []
        for place, a in enumerate(self.accounts):
            if a.fills or a.lots:
                out.append(self.position(cause, place, why, None, len(out)))
                if why == AT_END and a.lots:
                    out[-1]["if_flattened"] = self.if_flattened(a, place % self.count)
        return out

    def if_flattened(self, a: Account, instrument: int) -> int:
        """What walking the book to zero would earn, the taker's fee paid; lots beyond the book go at its last price."""
        t, left, money, price = self.terms[instrument], abs(a.lots), 0, 0
        for price, displayed in self.exchange.books[instrument].against(SELL if a.lots > 0 else BUY, None):
            lots = min(left, displayed)
            money += rounded(price * lots * t.num, t.den)
            left -= lots
            if not left:
                break
        money += rounded(price * left * t.num, t.den)
        return (money if a.lots > 0 else -money) - a.cost - rounded(money * t.taker, t.fee_den)

