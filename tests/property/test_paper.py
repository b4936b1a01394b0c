"""The paper exchange against a plain-Python one, over random books, trades, orders, cancels and amends; and what no stream may break."""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np
import pytest

from tests.golden import oracle_exchange as oracle
from tests.stages import Exchange, Fields, change, level, order, slots, snapshot, trade
from transport.records import (
    ACCEPTED, ACK, AMEND, AMENDED, BUY, CANCEL, CANCELLED, EVENT_END, EXPIRED, FILL, FOK, GAP, GTC, IOC, ORDER, REJECT, SELL,
)  # fmt: skip

TELLING = (
    "ts_recv_ns", "kind", "action", "reason", "order_id", "side", "price_ticks", "qty_lots", "leaves_lots", "cash", "fee",
)  # fmt: skip
LAST_NS = 10**12


def random_market(chance: random.Random, at: int, instrument: int) -> list[Fields]:
    """A trade, an event of one to three level changes near 100, a gap and its snapshot."""
    draw = chance.random()
    if draw < 0.3:
        return [trade(chance.choice((BUY, SELL)), chance.randrange(96, 105), chance.randrange(1, 12), at, instrument)]
    if draw < 0.32:
        lots = lambda: chance.randrange(1, 20)  # noqa: E731
        whole = snapshot({p: lots() for p in range(95, 100)}, {p: lots() for p in range(101, 106)}, at, instrument)
        return [{"kind": GAP, "ts_seq_ns": at, "instrument_id": instrument}, *whole]
    count = chance.randrange(1, 4)
    out = []
    for k in range(count):
        side = chance.choice((BUY, SELL))
        price = chance.randrange(94, 102) if side == BUY else chance.randrange(99, 107)
        lots = 0 if chance.random() < 0.35 else chance.randrange(1, 20)
        out.append(level(side, price, lots, at, instrument, EVENT_END if k == count - 1 else 0))
    return out


def random_request(chance: random.Random, at: int, instrument: int, made: list[Fields]) -> Fields:
    if made and chance.random() < 0.4:
        target = chance.choice(made[-12:])
        price, qty = target["price_ticks"] + chance.randrange(-2, 3), chance.randrange(1, 25)
        kind = chance.choice((CANCEL, AMEND)) if target["price_ticks"] else CANCEL
        return change(kind, target["order_id"], at, target["side"], price, qty, target["instrument_id"])
    price = 0 if chance.random() < 0.25 else chance.randrange(96, 105)
    tif = chance.choice((GTC, GTC, GTC, IOC, FOK))
    made.append(order(len(made) + 1, chance.choice((BUY, SELL)), chance.randrange(1, 25), at, price, tif, instrument))
    return made[-1]


def random_stream(seed: int, count: int = 1500) -> list[Fields]:
    chance = random.Random(seed)
    out = [row for i in range(2) for row in snapshot({99: 10, 98: 5}, {101: 7, 102: 9}, 1000, i)]
    at, made = 1000, []
    for _ in range(count):
        at += chance.randrange(0, 120)  # often within the way out, so that commands overtake books and the other way round
        instrument = chance.randrange(2)
        out += [random_request(chance, at, instrument, made)] if chance.random() < 0.35 else random_market(chance, at, instrument)
    return out


def oracle_reports(stream: list[Fields], exchange: Exchange, **latencies: int) -> list[tuple[int, ...]]:
    terms = [oracle.Terms(*(int(t[n]) for n in ("num", "den", "maker_num", "taker_num", "fee_den"))) for t in exchange.terms]
    other = oracle.Exchange(terms, **latencies)
    for fields, r in zip(stream, oracle.rows_of(slots(stream)), strict=True):
        at = fields["ts_seq_ns"]
        while other.advance(at):
            pass
        if r.kind in (ORDER, CANCEL, AMEND):
            names = ("order_id", "instrument_id", "strategy_id", "side", "qty_lots", "leaves_lots", "price_ticks", "order_type", "tif")
            request = oracle.Request(r.kind, *(fields.get(name, 0) for name in names))
            other.submit(request, at, fields["seq"], 0)
        else:
            other.books[r.instrument].apply(r)
            other.on_market(r, at)
    while other.advance(LAST_NS):
        pass
    return [report.telling() for _, _, report in other.reports]


@pytest.mark.parametrize("case", range(12))
def test_reports_equal_those_of_the_plain_exchange(case: int, seed: int) -> None:
    stream = random_stream(seed + case)
    exchange = Exchange(2, 150, 90 * (case % 2), 1000, 40 * (case % 2), seed=9)
    got = exchange.run(stream)
    latencies = {"out_ns": 150, "back_ns": 1000, "out_jitter": 90 * (case % 2), "back_jitter": 40 * (case % 2), "seed": 9}
    expected = oracle_reports(stream, exchange, **latencies)
    told = [tuple(int(row[name]) for name in TELLING) for row in got]
    assert sorted(told) == sorted(expected)
    assert (np.diff(got["ts_recv_ns"]) >= 0).all()
    kinds = {(int(r["kind"]), int(r["action"])) for r in got}
    assert {(ACK, ACCEPTED), (ACK, CANCELLED), (ACK, AMENDED), (ACK, EXPIRED), (REJECT, 0), (FILL, 1), (FILL, 2)} <= kinds


def test_every_lot_of_every_order_is_accounted_for(seed: int) -> None:
    """quantity (as amended) = filled + withdrawn + still resting; and what a report says is left is what fills have left."""
    stream = random_stream(seed + 100, 3000)
    exchange = Exchange(2, 150, 0, 1000)
    rows = exchange.run(stream)
    orders = {f["order_id"]: f for f in stream if f["kind"] == ORDER}
    left = {n: f["qty_lots"] for n, f in orders.items()}
    bought: dict[int, int] = defaultdict(int)
    ended: set[int] = set()
    for r in rows:
        n, kind, action = int(r["order_id"]), int(r["kind"]), int(r["action"])
        if kind == FILL:
            assert n not in ended, (seed, n)
            assert r["qty_lots"] > 0
            left[n] -= int(r["qty_lots"])
            bought[n] += int(r["qty_lots"])
            assert left[n] == r["leaves_lots"] >= 0, (seed, n)
        elif kind == REJECT and action == 0:
            assert r["leaves_lots"] == left[n] == orders[n]["qty_lots"]
            left[n] = 0
        elif kind == ACK and action in (CANCELLED, EXPIRED):
            assert r["leaves_lots"] == left[n] > 0, (seed, n)
            left[n] = 0
        elif kind == ACK and action == AMENDED:
            assert r["qty_lots"] == left[n], (seed, n)
            left[n] = int(r["leaves_lots"])
        ended |= {n} if kind != REJECT and action != ACCEPTED and left[n] == 0 else set()
    resting = exchange.state.resting[: exchange.state.paper[0]["resting"]]
    assert {int(e["order_id"]): int(e["leaves_lots"]) for e in resting} == {n: lots for n, lots in left.items() if lots}
    assert sum(exchange.state.resting_of.tolist()) == len(resting)
    assert sum(bought.values()) == int(rows["qty_lots"][rows["kind"] == FILL].sum()) > 0
