"""The paper exchange again, in plain Python: books of two dicts, a list of resting orders, lists as queues. Slow, short, the referee.

It is written from the rules, not from the kernels, and shares no code with them.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from handlers.domain import reasons
from transport.records import (
    ACCEPTED, ACK, ADD, AMEND, AMENDED, BOOK_DELTA, BOOK_SNAPSHOT, BUY, CANCEL, CANCELLED, CLEAR, DELETE, EVENT_END, EVENT_FIRST, EXPIRED, FILL,
    FOK, GAP, GTC, LIMIT_ORDER, MAKER, MARKET_ORDER, ORDER, QUOTE, REJECT, SELL, SET, TAKER, TRADE,
)  # fmt: skip

_WORD = 2**64 - 1


class Row(NamedTuple):
    """A market record, as much of it as the rules look at."""

    kind: int
    flags: int
    instrument: int
    side: int
    price: int
    qty: int
    ask: int
    ask_lots: int
    event_ns: int
    recv_ns: int
    action: int
    order_id: int


def rows_of(records: Any) -> list[Row]:
    """Slots as plain rows."""
    names = (
        "kind", "flags", "instrument_id", "side", "price_ticks", "qty_lots", "ask_ticks", "ask_lots", "ts_event_ns", "ts_recv_ns",
        "action", "order_id",
    )  # fmt: skip
    return [Row(*values) for values in zip(*(records[name].tolist() for name in names), strict=True)]


def rounded(numerator: int, denominator: int) -> int:
    """The quotient, half away from zero."""
    whole, rest = divmod(abs(numerator), denominator)
    whole += 2 * rest >= denominator
    return -whole if numerator < 0 else whole


def _mixed(word: int) -> int:
    word = (word + 0x9E3779B97F4A7C15) & _WORD  # splitmix64 (Steele, Lea & Flood 2014)
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)


def jitter(seed: int, key: int, salt: int, bound: int) -> int:
    """The modelled delay drawn for `key`: 0..bound - 1, or 0 when there is none."""
    return _mixed(_mixed(_mixed(seed) ^ key) ^ salt) % bound if bound else 0


@dataclass
class Book:
    """A side is a dict of price to lots; of a book that is told order by order there is a dict of those as well."""

    sides: dict[int, dict[int, int]] = field(default_factory=lambda: {BUY: {}, SELL: {}})
    orders: dict[int, tuple[int, int, int]] = field(default_factory=dict)  # id -> side, price, lots
    valid: bool = False
    quote: tuple[int, int] = (0, 0)
    trade: int = 0

    def apply(self, r: Row) -> None:
        if r.kind == TRADE:
            self.trade = r.price
        elif r.kind == QUOTE:
            self.quote = (r.price, r.ask)
        elif r.kind == GAP:
            self.valid = False
        elif r.kind == BOOK_SNAPSHOT:
            if r.flags & EVENT_FIRST:
                self.sides, self.orders, self.valid = {BUY: {}, SELL: {}}, {}, False
            if r.action != SET:
                self.apply_order(r)
            elif r.qty:
                self.sides[r.side][r.price] = r.qty
            self.valid = self.valid or bool(r.flags & EVENT_END)
        elif r.kind == BOOK_DELTA and r.action != SET:
            self.apply_order(r)
        elif r.kind == BOOK_DELTA and self.valid:
            if r.qty:
                self.sides[r.side][r.price] = r.qty
            else:
                self.sides[r.side].pop(r.price, None)

    def apply_order(self, r: Row) -> None:
        """ADD, DELETE of `qty` lots, MODIFY to a price and quantity, or CLEAR."""
        if r.action == CLEAR:
            self.sides, self.orders = {BUY: {}, SELL: {}}, {}
            return
        if r.action == ADD and r.order_id in self.orders:
            return
        side, price, lots = self.orders.pop(r.order_id, (r.side, r.price, 0))
        self._add(side, price, -lots)
        side, price, lots = (side, price, lots - r.qty) if r.action == DELETE else (r.side, r.price, r.qty)
        if lots > 0:
            self.orders[r.order_id] = side, price, lots
            self._add(side, price, lots)

    def _add(self, side: int, price: int, lots: int) -> None:
        left = self.sides[side].pop(price, 0) + lots
        if left:
            self.sides[side][price] = left

    def open(self) -> bool:
        return self.valid and bool(self.sides[BUY]) and bool(self.sides[SELL])

    def top(self) -> tuple[int, int]:
        return max(self.sides[BUY]), min(self.sides[SELL])

    def mid_twice(self) -> int:
        if self.open():
            return sum(self.top())
        return sum(self.quote) if min(self.quote) > 0 else 2 * self.trade

    def against(self, side: int, price: int | None) -> list[tuple[int, int]]:
        """Levels an order of `side` meets, best first; those its limit reaches when it has one."""
        if side == BUY:
            return sorted((p, q) for p, q in self.sides[SELL].items() if price is None or p <= price)
        return sorted(((p, q) for p, q in self.sides[BUY].items() if price is None or p >= price), reverse=True)

    def crossing(self, side: int, price: int | None) -> int:
        return sum(q for _, q in self.against(side, price))


@dataclass
class Request:
    """An order, cancel or amend on its way, and an order while it rests."""

    kind: int
    order_id: int
    instrument: int
    strategy: int
    side: int
    qty: int
    leaves: int = 0
    price: int = 0
    order_type: int = 0
    tif: int = GTC
    ahead: int = 0
    crossing: int = 0

    def key(self) -> int:
        return self.price if self.side == BUY else -self.price


@dataclass
class Report:
    """What comes back; `due` is when the line hears of it."""

    kind: int
    action: int
    reason: int
    order: Request
    order_id: int
    side: int
    price: int
    qty: int
    leaves: int
    order_type: int
    tif: int
    at: int
    due: int
    cash: int = 0
    fee: int = 0
    number: int = 0

    def telling(self) -> tuple[int, ...]:
        """What the tests compare."""
        return (
            self.due, self.kind, self.action, self.reason, self.order_id, self.side, self.price, self.qty, self.leaves,
            self.cash, self.fee,
        )  # fmt: skip


@dataclass
class Terms:
    """Money of a tick times a lot, and the fees."""

    num: int
    den: int
    maker: int
    taker: int
    fee_den: int


class Exchange:
    """Orders against replayed books; `arrivals` and `reports` are heaps of (due, order of arrival, what)."""

    def __init__(
        self, terms: list[Terms], out_ns: int, back_ns: int, out_jitter: int = 0, back_jitter: int = 0, seed: int = 1
    ) -> None:
        self.terms, self.seed = terms, seed
        self.out_ns, self.back_ns, self.out_jitter, self.back_jitter = out_ns, back_ns, out_jitter, back_jitter
        self.books = [Book() for _ in terms]
        self.resting: list[Request] = []
        self.arrivals: list[tuple[int, int, Request]] = []
        self.reports: list[tuple[int, int, Report]] = []
        self.pushed = self.executions = 0

    def submit(self, request: Request, now: int, seq: int, row: int) -> None:
        due = now + self.out_ns + jitter(self.seed, seq, row, self.out_jitter)
        self.pushed += 1
        heapq.heappush(self.arrivals, (due, self.pushed, request))

    def report(self, o: Request, kind: int, now: int, action: int, reason: int, price: int, qty: int, leaves: int) -> None:
        due = now + self.back_ns + jitter(self.seed, o.order_id, 1, self.back_jitter)
        told = Report(kind, action, reason, o, o.order_id, o.side, price, qty, leaves, o.order_type, o.tif, now, due)
        if kind == FILL:
            t = self.terms[o.instrument]
            money = rounded(price * qty * t.num, t.den)
            told.cash = -money if o.side == BUY else money
            told.fee = rounded(money * (t.maker if action == MAKER else t.taker), t.fee_den)
            self.executions += 1
            told.number = self.executions
        self.pushed += 1
        heapq.heappush(self.reports, (due, self.pushed, told))

    def advance(self, until: int) -> bool:
        """Let the earliest arrival before `until` in; whether there was one."""
        if not self.arrivals or self.arrivals[0][0] >= until:
            return False
        now, _, request = heapq.heappop(self.arrivals)
        if request.kind == ORDER:
            self._arrive(request, now)
        else:
            self._change(request, now)
        return True

    def _arrive(self, o: Request, now: int) -> None:
        book, qty = self.books[o.instrument], o.leaves
        if not book.open():
            return self.report(o, REJECT, now, 0, reasons.NO_LIQUIDITY, o.price, qty, qty)
        if o.tif == FOK and book.crossing(o.side, o.price if o.order_type == LIMIT_ORDER else None) < qty:
            return self.report(o, REJECT, now, 0, reasons.FOK_UNFILLED, o.price, qty, qty)
        self.report(o, ACK, now, ACCEPTED, 0, o.price, qty, qty)
        self._match(o, now)
        if o.leaves and not (o.order_type == LIMIT_ORDER and o.tif == GTC):
            why = reasons.NO_LIQUIDITY if o.order_type == MARKET_ORDER else reasons.IOC_REMAINDER
            self.report(o, ACK, now, EXPIRED, why, o.price, qty, o.leaves)
        return None

    def _match(self, o: Request, now: int) -> None:
        """Walk the other side as a taker; what a GTC limit order has left rests."""
        book = self.books[o.instrument]
        levels = book.against(o.side, o.price if o.order_type == LIMIT_ORDER else None) if book.open() else []
        for price, lots in levels:
            done = min(lots, o.leaves)
            if done:
                o.leaves -= done
                self.report(o, FILL, now, TAKER, 0, price, done, o.leaves)
        if o.leaves and o.order_type == LIMIT_ORDER and o.tif == GTC:
            o.ahead = book.sides[o.side].get(o.price, 0)
            o.crossing = book.crossing(o.side, o.price)
            self.resting.append(o)

    def _change(self, request: Request, now: int) -> None:
        o = next((o for o in self.resting if o.order_id == request.order_id), None)
        if o is None:
            why = reasons.UNKNOWN_ORDER
            return self.report(request, REJECT, now, request.kind, why, request.price, request.qty, 0)
        if request.kind == CANCEL:
            self.resting.remove(o)
            return self.report(o, ACK, now, CANCELLED, 0, o.price, o.qty, o.leaves)
        assert request.kind == AMEND
        before, filled = o.leaves, o.qty - o.leaves
        place_lost = request.price != o.price or request.qty > o.qty
        o.price, o.qty, o.leaves = request.price, request.qty, max(0, request.qty - filled)
        self.report(o, ACK, now, AMENDED, 0, o.price, before, o.leaves)
        if not o.leaves or place_lost:
            self.resting.remove(o)
        if o.leaves and place_lost:
            self._match(o, now)
        return None

    def _priority(self, instrument: int, side: int) -> list[Request]:
        """Ours on one side: better price first, then who came first (`resting` is in order of arrival)."""
        return sorted((o for o in self.resting if (o.instrument, o.side) == (instrument, side)), key=lambda o: -o.key())

    def _maker_fill(self, o: Request, lots: int, now: int) -> None:
        o.leaves -= lots
        self.report(o, FILL, now, MAKER, 0, o.price, lots, o.leaves)
        if not o.leaves:
            self.resting.remove(o)

    def on_market(self, r: Row, now: int) -> None:
        """The record is in the book already; ours on the bid are looked at before ours on the offer."""
        if r.kind == TRADE:
            for side in (BUY, SELL):
                if side != r.side:
                    self._meet_trade(side, r, now)
        elif r.kind in (BOOK_DELTA, BOOK_SNAPSHOT) and r.flags & EVENT_END and self.books[r.instrument].valid:
            for side in (BUY, SELL):
                self._meet_book(side, r.instrument, now)

    def _meet_trade(self, side: int, r: Row, now: int) -> None:
        lots = r.qty
        for o in self._priority(r.instrument, side):
            key = r.price if side == BUY else -r.price
            if o.key() < key or not lots:
                continue
            queued = min(o.ahead, lots) if o.key() == key else 0
            o.ahead -= queued
            mine = min(lots - queued, o.leaves)
            if mine:
                lots -= mine
                self._maker_fill(o, mine, now)

    def _meet_book(self, side: int, instrument: int, now: int) -> None:
        book, used = self.books[instrument], 0
        for o in self._priority(instrument, side):
            o.ahead = min(o.ahead, book.sides[side].get(o.price, 0))
            crossing = book.crossing(side, o.price)
            fresh, o.crossing = crossing - o.crossing, crossing
            mine = min(fresh - used, o.leaves)
            if mine > 0:
                used += mine
                self._maker_fill(o, mine, now)
