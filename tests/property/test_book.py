"""The ladder, the far table and the window's moves against a plain dict."""

from __future__ import annotations

import numpy as np
import pytest

from handlers.domain import book as b
from transport.compiled import kernel
from transport.records import ADD, ASK, BID, BOOK_DELTA, DELETE, MODIFY, REC


@kernel
def replay_l2(m, side, price, qty, best, lots):
    for i in range(len(side)):
        b.set_level(m[0], side[i], price[i], qty[i], 1)
        for s in range(2):
            best[i, s] = m[0].best[s]
            lots[i, s] = b.best_lots(m[0], s + 1)


@kernel
def levels_of(m, side, out):
    n = 0
    key = m[0].best[side - 1]
    while key != b.NO_LEVEL:
        out[n] = key if side == 1 else -key
        n += 1
        key = b.next_level(m[0], side - 1, key)
    return n


@kernel
def replay_l3(m, t, rows):
    for i in range(len(rows)):
        b.apply_l3(m[0], t[0], rows[i])


def walk(market: np.ndarray, side: int) -> list[int]:
    out = np.zeros(60_000, np.int64)
    return out[: levels_of(market, side, out)].tolist()


@pytest.mark.parametrize("span", [40, 3_000, 30_000])
def test_top_and_levels_equal_a_dict_however_far_the_price_wanders(span: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 60_000
    centre = 1_000_000 + np.cumsum(rng.integers(-span // 8, span // 8 + 1, n))
    side = rng.integers(BID, ASK + 1, n)
    depth = rng.integers(0, span, n)
    price = np.where(side == BID, centre - depth, centre + depth + 1)
    qty = np.where(rng.random(n) < 0.45, 0, rng.integers(1, 1000, n))
    known: list[dict[int, int]] = [{}, {}]
    for i in range(n):  # delete levels that exist, or the book only grows
        if qty[i] == 0 and rng.random() < 0.8 and known[side[i] - 1]:
            levels = known[side[i] - 1]
            price[i] = (max(levels) if side[i] == BID else min(levels)) if rng.random() < 0.7 else next(iter(levels))
        if qty[i]:
            known[side[i] - 1][int(price[i])] = int(qty[i])
        else:
            known[side[i] - 1].pop(int(price[i]), None)
    market, _ = b.new_markets([False])
    best, lots = np.zeros((n, 2), np.int64), np.zeros((n, 2), np.int64)
    replay_l2(market, side, price, qty, best, lots)
    book: list[dict[int, int]] = [{}, {}]
    for i in range(n):
        if qty[i]:
            book[side[i] - 1][int(price[i])] = int(qty[i])
        else:
            book[side[i] - 1].pop(int(price[i]), None)
        if i % 97 == 0 or i > n - 100:
            for s, top in ((0, max(book[0], default=None)), (1, min(book[1], default=None))):
                key = b.NO_LEVEL if top is None else (top if s == 0 else -top)
                assert best[i, s] == key, (seed, i, s)
                assert lots[i, s] == (0 if top is None else book[s][top]), (seed, i, s)
    assert market[0]["dropped"] == 0
    assert walk(market, BID) == sorted(book[0], reverse=True)
    assert walk(market, ASK) == sorted(book[1])
    assert market[0]["levels"].tolist() == [len(book[0]), len(book[1])]


def test_order_book_keeps_quantity_and_count_of_every_level(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.zeros(40_000, REC)
    orders: dict[int, tuple[int, int, int]] = {}
    for row in rows:
        row["kind"] = BOOK_DELTA
        pick = int(rng.choice(list(orders)[:50])) if orders and rng.random() < 0.55 else 0
        if not pick:
            order = int(rng.integers(1, 2**62))
            side = int(rng.integers(1, 3))
            price = 20_000 + int(rng.integers(-300, 0) if side == BID else rng.integers(1, 300))
            qty = int(rng.integers(1, 50))
            row["action"], row["order_id"], row["side"], row["price_ticks"], row["qty_lots"] = ADD, order, side, price, qty
            orders[order] = (side, price, qty)
        elif rng.random() < 0.5:
            side, price, qty = orders[pick]
            cut = qty if rng.random() < 0.6 else int(rng.integers(1, qty + 1))
            row["action"], row["order_id"], row["side"], row["price_ticks"], row["qty_lots"] = DELETE, pick, side, price, cut
            orders[pick] = (side, price, qty - cut)
            if qty == cut:
                del orders[pick]
        else:
            side, price, qty = orders[pick]
            price, qty = price + int(rng.integers(-5, 6)), int(rng.integers(1, 60))
            row["action"], row["order_id"], row["side"], row["price_ticks"], row["qty_lots"] = MODIFY, pick, side, price, qty
            orders[pick] = (side, price, qty)
    market, table = b.new_markets([True])
    replay_l3(market, table, rows)
    for side in (BID, ASK):
        want: dict[int, list[int]] = {}
        for s, price, qty in orders.values():
            if s == side:
                want.setdefault(price, [0, 0])
                want[price][0] += qty
                want[price][1] += 1
        got = {p: [int(v) for v in b.level_at(market[0], side, p)] for p in walk(market, side)}
        assert got == want, seed
    assert table[0]["orders"] == len(orders)
    assert table[0]["dropped"] == market[0]["unknown_orders"] == 0


def test_a_full_far_table_counts_what_it_refuses() -> None:
    market, _ = b.new_markets([False])
    n = b.FAR + b.WINDOW
    price = 10_000_000 - 8 * np.arange(n)
    best, lots = np.zeros((n, 2), np.int64), np.zeros((n, 2), np.int64)
    replay_l2(market, np.full(n, BID), price, np.full(n, 5), best, lots)
    kept = int(market[0]["levels"][0])
    assert kept + int(market[0]["dropped"]) == n
    assert walk(market, BID) == price[:kept].tolist()
