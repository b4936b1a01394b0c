"""Streaming features and bars against a few lines of plain Python: the same floats to the last bit, the same integers, never a NaN."""

from __future__ import annotations

import math
import random
from collections import defaultdict

import numpy as np
import pytest

from handlers.domain.book import apply_market, new_markets
from handlers.domain.borrowed import borrow
from handlers.domain.schema import features_of, schema_id
from handlers.features.stage import ROWS_MAX, new_features, step_checkpoint, step_features
from tests.golden.oracle_exchange import Book, rows_of
from tests.stages import Fields, level, slots, snapshot, stamped, trade
from transport.compiled import kernel
from transport.records import (
    ASK, BAR, BID, BUY, BY_FEATURES, CHECKPOINT, COMMAND, CONNECTED, CONNECTION, DISCONNECTED, END_OF_FEED, EVENT_END, FEATURE, GAP, NO_INSTRUMENT,
    OVERRUN, QUOTE, SELL, TRADE, Record, empty,
)  # fmt: skip

FAST, SLOW, VOLATILITY = 5, 20, 10
DAY_NS, MINUTE_NS = 86_400 * 10**9, 60 * 10**9
Top = tuple[int, int, int, int]


@kernel
def _features(owned, markets, books, rows, scratch, out):
    state = borrow(owned)
    n = 0
    for i in range(len(rows)):
        r = rows[i]
        here = np.int64(r.instrument_id) if r.instrument_id < len(markets) else 0
        if r.instrument_id < len(markets):
            apply_market(markets[here], books, r)
        for j in range(step_features(state, markets[here], r, scratch)):
            out[n] = scratch[j]
            n += 1
    return n


def run(records: list[Fields], *, quotes: bool = False, instruments: int = 2, depth: int = 0) -> np.ndarray:
    """Every row that FEATURES makes of the records."""
    state = new_features(instruments, FAST, SLOW, VOLATILITY, MINUTE_NS, quotes, 4096, depth)
    markets, books = new_markets([False] * instruments)
    out = empty((2 + depth) * len(records) + instruments)
    rows = slots({**r, "seq": n} for n, r in enumerate(records))
    return out[: _features(state, markets, books, rows, empty(ROWS_MAX), out)]


def plain_values(tops: list[Top | None]) -> list[list[float]]:
    """The eight values after each (bid, lots, ask, lots); None where the top is not known."""
    out: list[list[float]] = []
    fast = slow = square = 0.0
    before: Top | None = None
    for top in tops:
        if top is None:
            before = None
            continue
        bid, bid_lots, ask, ask_lots = top
        mid, flow = (bid + ask) / 2, 0
        if not out:
            fast = slow = mid
        fast += 2 / (FAST + 1) * (mid - fast)
        slow += 2 / (SLOW + 1) * (mid - slow)
        if before is not None:
            was_bid, was_bid_lots, was_ask, was_ask_lots = before
            change = mid - (was_bid + was_ask) / 2
            flow += (bid_lots if bid >= was_bid else 0) - (was_bid_lots if bid <= was_bid else 0)
            flow -= (ask_lots if ask <= was_ask else 0) - (was_ask_lots if ask >= was_ask else 0)
            square += 2 / (VOLATILITY + 1) * (change * change - square)
        before, total = (bid, bid_lots, ask, ask_lots), bid_lots + ask_lots
        share = 1.0 / total
        micro = (bid * float(ask_lots) + ask * float(bid_lots)) * share
        out.append([mid, ask - bid, micro, (bid_lots - ask_lots) * share, flow, fast, slow, math.sqrt(square)])
    return out


def check(rows: np.ndarray, expected: dict[int, list[Top | None]], note: object) -> None:
    features = rows[rows["kind"] == FEATURE]
    assert not np.isnan(features["values"]).any(), note
    assert (features["source_id"] == BY_FEATURES).all()
    for instrument, tops in expected.items():
        mine = features[features["instrument_id"] == instrument]
        assert mine["values"].tolist() == plain_values(tops), note
    assert len(features) == sum(top is not None for tops in expected.values() for top in tops) > 100, note
    assert any(top is None for tops in expected.values() for top in tops), note


@pytest.mark.parametrize("case", range(4))
def test_values_of_a_quoted_top_equal_plain_python(case: int, seed: int) -> None:
    chance = random.Random(seed + case)
    records: list[Fields] = []
    expected: dict[int, list[Top | None]] = defaultdict(list)
    known: dict[int, Top | None] = {}
    price = [chance.choice((50, 10_000, 6_000_000)) for _ in range(2)]
    for now in range(1000, 1600):
        i = chance.randrange(2)
        draw = chance.random()
        if draw < 0.25:
            records.append(trade(BUY, price[i], 5, now, i))
        elif draw < 0.3:
            records.append(stamped(GAP, now, i))
            known[i] = None
            expected[i].append(None)
            continue
        else:
            price[i] = max(10, price[i] + chance.randrange(-3, 4))
            top = (price[i], chance.choice((1, 7, 10**12)), price[i] + chance.randrange(-2, 4), chance.randrange(1, 900))
            known[i] = top
            fields = dict(zip(("price_ticks", "qty_lots", "ask_ticks", "ask_lots"), top, strict=True))
            records.append(stamped(QUOTE, now, i, **fields))
        if chance.random() < 0.1:
            records[-1]["flags"] = 0  # in the middle of an event nothing is taken
        elif i in known:
            expected[i].append(known[i])
    check(run(records, quotes=True), expected, seed + case)


def random_book(chance: random.Random) -> list[Fields]:
    """A book that is crossed, empty, broken by a gap and known again."""
    records = snapshot({99: 10, 98: 5}, {101: 7, 102: 9}, 1000)
    for now in range(1001, 1600):
        draw = chance.random()
        if draw < 0.2:
            records.append(trade(chance.choice((BUY, SELL)), chance.randrange(97, 104), 3, now))
        elif draw < 0.22:
            records += [stamped(GAP, now), *snapshot({99: 10}, {101: 7}, now)]
        else:
            side, lots = chance.choice((BID, ASK)), chance.choice((0, 0, 1, 8, 300))
            price = chance.randrange(96, 101) if side == BID else chance.randrange(100, 105)
            records.append(level(side, price, lots, now, flags=chance.choice((0, EVENT_END, EVENT_END))))
    return records


@pytest.mark.parametrize("case", range(4))
def test_values_of_the_books_top_equal_plain_python_over_crossed_empty_and_broken_books(case: int, seed: int) -> None:
    records = random_book(random.Random(seed + 10 + case))
    book: Book = Book()
    tops: list[Top | None] = []
    for r in rows_of(slots(records)):
        book.apply(r)
        if r.kind == GAP:
            tops.append(None)
        elif r.flags & EVENT_END and r.kind != QUOTE:
            if not book.open():
                tops.append(None)
                continue
            bid, ask = book.top()
            tops.append((bid, book.sides[BUY][bid], ask, book.sides[SELL][ask]))
    check(run(records), {0: tops}, seed + 10 + case)


@pytest.mark.parametrize("depth", [1, 2, 3, 32])
def test_levels_of_the_book_follow_in_a_long_row(depth: int, seed: int) -> None:
    records = random_book(random.Random(seed + 30 + depth))
    book, expected = Book(), []
    for r in rows_of(slots(records)):
        book.apply(r)
        if r.flags & EVENT_END and r.kind not in (QUOTE, GAP) and book.open():
            bids, asks = sorted(book.sides[BUY].items(), reverse=True), sorted(book.sides[SELL].items())
            padded = [levels[:depth] + [(0, 0)] * (depth - len(levels)) for levels in (bids, asks)]
            expected.append([v for bid, ask in zip(*padded, strict=True) for v in (*bid, *ask)])
    deep, plain = run(records, depth=depth), run(records)
    first = deep[deep["part"] == 0]
    assert first["values"].tolist() == plain["values"].tolist()
    parts = 1 + -(-4 * depth // 8)
    assert set(deep["parts"].tolist()) == {parts}
    assert deep["part"].tolist() == list(range(parts)) * len(first)
    for name in set(Record.__struct_fields__) - {"part"}:
        assert deep[name].tolist() == np.repeat(first[name], parts).tolist(), name
    assert set(deep["schema_id"].tolist()) == {schema_id(depth)}
    assert set(deep["count"].tolist()) == {len(features_of(depth))}
    behind = deep["values"][deep["part"] > 0].reshape(len(first), -1)
    assert behind[:, : 4 * depth].tolist() == expected, seed
    assert not behind[:, 4 * depth :].any()


def test_levels_beside_a_quoted_top_are_zero_while_the_book_is_not_known() -> None:
    quote = stamped(QUOTE, 1000, price_ticks=99, qty_lots=5, ask_ticks=101, ask_lots=6)
    rows = run([quote, *snapshot({98: 1}, {102: 2}, 1001), quote, stamped(GAP, 1002), quote], quotes=True, depth=1)
    assert rows[rows["part"] == 1]["values"][:, :4].tolist() == [[0, 0, 0, 0], [98, 1, 102, 2], [0, 0, 0, 0]]


def test_digest_covers_every_slot_of_a_long_row_and_counts_them() -> None:
    digests = set()
    for lots in (5, 6):  # of the second level: the first eight values are the same
        state = new_features(1, FAST, SLOW, VOLATILITY, MINUTE_NS, False, 4096, 2)
        markets, books = new_markets([False])
        rows = slots(snapshot({99: 10, 98: lots}, {101: 7}, 1000))
        assert _features(state, markets, books, rows, empty(ROWS_MAX), empty(8)) == 2
        assert state.digest[0]["rows"] == 2
        digests.add(int(state.digest[0]["value"]))
    assert len(digests) == 2


def test_checkpoint_behind_a_long_row_has_the_next_row_number() -> None:
    state = new_features(1, FAST, SLOW, VOLATILITY, MINUTE_NS, False, 2, 3)
    rows, scratch = slots(snapshot({99: 10}, {101: 7}, 1000)), empty(ROWS_MAX)
    markets, books = new_markets([False])
    rows["seq"] = [0, 1]
    assert _features(state, markets, books, rows, scratch, empty(8)) == 3
    assert _checkpoint(state, rows[1:], 3, scratch) == 1
    assert (scratch[3]["kind"], scratch[3]["row"], scratch[3]["rows"]) == (CHECKPOINT, 1, 3)


@kernel
def _checkpoint(owned, rows, n, scratch):
    return step_checkpoint(borrow(owned), rows[0], n, scratch)


def test_no_row_comes_before_both_sides_are_known() -> None:
    assert not len(run([trade(BUY, 100, 1, 1000), level(BID, 99, 5, 1001)]))
    assert not len(run([trade(BUY, 100, 1, 1000), stamped(QUOTE, 1001, price_ticks=99, qty_lots=5)], quotes=True))


LOSSES = {"gap": stamped(GAP, 2), "end": stamped(CONNECTION, 2, NO_INSTRUMENT, action=DISCONNECTED), "overrun": stamped(CONNECTION, 2, NO_INSTRUMENT, action=OVERRUN)}


def test_what_does_not_end_a_connection_loses_nothing() -> None:
    quote = stamped(QUOTE, 1, price_ticks=99, qty_lots=10, ask_ticks=101, ask_lots=7)
    rows = run([quote, stamped(CONNECTION, 2, NO_INSTRUMENT, action=CONNECTED), {**quote, "qty_lots": 15}], quotes=True)
    assert rows["values"][:, 4].tolist() == [0.0, 5.0]


@pytest.mark.parametrize(("quotes", "loss"), [(False, "gap"), *((True, loss) for loss in LOSSES)])
def test_what_moved_in_a_gap_is_no_order_flow_and_no_volatility(quotes: bool, loss: str) -> None:
    """Of quotes the last one before the gap is not what a trade behind it finds. (A connection that ends is told of books by gaps.)"""
    sides = {"price_ticks": 99, "qty_lots": 10, "ask_ticks": 101, "ask_lots": 7}
    far = {"price_ticks": 899, "qty_lots": 10, "ask_ticks": 901, "ask_lots": 7}
    before = [stamped(QUOTE, 1, **sides)] if quotes else snapshot({99: 10}, {101: 7}, 1)
    behind = [stamped(QUOTE, 4, **far)] if quotes else snapshot({899: 10}, {901: 7}, 4)
    for broken in (True, False):
        records = [*before, trade(BUY, 101, 1, 2), *([LOSSES[loss]] if broken else []), trade(BUY, 901, 1, 3), *behind, trade(BUY, 901, 1, 5)]
        values = run(records, quotes=quotes)["values"]
        assert values[:, 0].tolist() == [100.0] * (2 if broken else 3) + [900.0] * 2
        assert values[-2:, 4].tolist() == ([0.0, 0.0] if broken else [10.0 + 7.0, 0.0])
        assert (values[-1, 7] == 0.0) == broken
        assert 100.0 < values[-1, 6] < values[-1, 5] < 900.0, "the means go on"


def test_top_without_lots_makes_no_row_and_no_nan() -> None:
    empty_top = stamped(QUOTE, 1000, price_ticks=99, ask_ticks=101)
    assert not len(run([empty_top], quotes=True))


# --- bars -----------------------------------------------------------------------------------------------------------------
Bar = tuple[int, ...]


def plain_bars(trades: list[tuple[int, int, int, int]]) -> list[Bar]:
    """(instrument, start, open, high, low, close, lots, sum of price times lots, trades) in the order in which they close."""
    open_bars: dict[int, tuple[int, list[tuple[int, int]]]] = {}
    out: list[Bar] = []

    def close(instrument: int) -> None:
        start, done = open_bars.pop(instrument)
        prices = [p for p, _ in done]
        money = sum(p * q for p, q in done)
        lots = sum(q for _, q in done)
        out.append((instrument, start, prices[0], max(prices), min(prices), prices[-1], lots, money, len(done)))

    for instrument, at, price, lots in trades:
        start = at // MINUTE_NS * MINUTE_NS
        if instrument in open_bars and start > open_bars[instrument][0]:
            close(instrument)
        open_bars.setdefault(instrument, (start, []))[1].append((price, lots))
    for instrument in sorted(open_bars):
        close(instrument)
    return out


def bars_of(trades: list[tuple[int, int, int, int]]) -> list[Bar]:
    records = [trade(BUY, p, q, at, i) for i, at, p, q in trades]
    rows = run([*records, stamped(COMMAND, 1, NO_INSTRUMENT, action=END_OF_FEED)])
    assert set(rows["kind"].tolist()) == {BAR}
    assert set(rows["interval_ns"].tolist()) == {MINUTE_NS}
    names = (
        "instrument_id", "ts_open_ns", "open_ticks", "high_ticks", "low_ticks", "close_ticks", "volume_lots",
        "notional_ticks_lots", "trades",
    )  # fmt: skip
    return [tuple(int(r[n]) for n in names) for r in rows]


@pytest.mark.parametrize("case", range(6))
def test_bars_of_random_trades_equal_plain_python(case: int, seed: int) -> None:
    chance = random.Random(seed + 20 + case)
    at, trades = 20_000 * DAY_NS - 30 * MINUTE_NS, []  # over midnight
    for _ in range(800):
        at += chance.choice((0, MINUTE_NS // 50, MINUTE_NS // 3, MINUTE_NS if chance.random() < 0.2 else 0, 5 * MINUTE_NS))
        late = chance.randrange(2 * MINUTE_NS) if chance.random() < 0.1 else 0
        trades.append((chance.randrange(2), at - late, chance.randrange(-50, 50_000), chance.randrange(1, 1000)))
    assert bars_of(trades) == plain_bars(trades), seed + 20 + case


def test_late_trade_counts_in_the_open_bar() -> None:
    bars = bars_of([(0, MINUTE_NS, 10, 1), (0, 2 * MINUTE_NS, 20, 1), (0, MINUTE_NS + 5, 7, 3)])
    assert bars == [(0, MINUTE_NS, 10, 10, 10, 10, 1, 10, 1), (0, 2 * MINUTE_NS, 20, 20, 7, 7, 4, 41, 2)]


def test_interval_without_trades_has_no_bar_and_a_day_changes_like_any_minute() -> None:
    bars = bars_of([(0, DAY_NS - 1, 10, 1), (0, DAY_NS, 20, 1), (0, DAY_NS + 9 * MINUTE_NS, 30, 1)])
    assert [b[1] for b in bars] == [DAY_NS - MINUTE_NS, DAY_NS, DAY_NS + 9 * MINUTE_NS]


def test_bar_comes_before_the_feature_row_of_the_trade_that_closed_it() -> None:
    records = [*snapshot({99: 1}, {101: 1}, 1), trade(BUY, 101, 1, 1), {**trade(BUY, 101, 2, 2), "ts_event_ns": MINUTE_NS}]
    rows = run(records)
    assert rows["kind"].tolist() == [FEATURE, FEATURE, BAR, FEATURE]
    assert rows["row"].tolist()[-2:] == [0, 1]
    assert rows["seq"].tolist()[-2:] == [len(records) - 1] * 2
    assert records[-1]["kind"] == TRADE
