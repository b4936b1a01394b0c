"""The synthetic feed: its messages, held to a plain dictionary of levels, and the texture it promises."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from handlers.ingest.synthetic.feed import INSTRUMENTS_MAX, START_NS, SyntheticFeed
from handlers.ingest.synthetic.flow import DEPTH, KEEP, LEVELS_MIN, PENDING_ROWS
from transport.records import (
    ASK,
    BID,
    BOOK_DELTA,
    BOOK_SNAPSHOT,
    BUY,
    EVENT_END,
    EVENT_FIRST,
    QUOTE,
    SELL,
    SET,
    SYNTHETIC,
    TRADE,
    empty,
    joined,
)

SEED = 20240808
ROWS = 100_000
GOLDEN = "4f1accbc5a7f5f04c46dd6f1b32030bc623a3cc49e9a71e5c5341b32ddc0809a"
BOUND = {"AAA.synthetic": 4, "BBB.synthetic": 9, "CCC.synthetic": 2}


def made(seed: int = SEED, rows: int = ROWS, rows_max: int = 8192, instruments: int = 3) -> np.ndarray[Any, Any]:
    feed = SyntheticFeed(seed, rows, instruments)
    if instruments == 3:
        feed.bind(BOUND, 16)
    return joined(*feed.chunks(rows_max))


@pytest.fixture(scope="module")
def rows() -> np.ndarray[Any, Any]:
    return made()


@pytest.fixture(scope="module")
def long_rows() -> np.ndarray[Any, Any]:
    return made(rows=1_000_000, rows_max=65536)


def messages(rows: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """Rows split behind every EVENT_END."""
    return np.split(rows, np.flatnonzero(rows["flags"] & EVENT_END)[:-1] + 1)


def of(rows: np.ndarray[Any, Any], name: str, kind: int) -> np.ndarray[Any, Any]:
    return rows[(rows["instrument_id"] == BOUND[name]) & (rows["kind"] == kind)]


def correlation(x: np.ndarray[Any, Any], lag: int) -> float:
    return float(np.corrcoef(x[:-lag], x[lag:])[0, 1])


class DictBook:
    """The oracle: {price: lots} a side, and what the feed has said about it."""

    def __init__(self) -> None:
        self.sides: dict[int, dict[int, int]] = {BID: {}, ASK: {}}
        self.venue_seq = 0

    def best(self, side: int) -> int:
        return max(self.sides[BID]) if side == BID else min(self.sides[ASK])

    def touch(self) -> tuple[int, int, int, int]:
        bid, ask = self.best(BID), self.best(ASK)
        return bid, self.sides[BID][bid], ask, self.sides[ASK][ask]

    def apply(self, side: int, price: int, qty: int) -> None:
        if qty:
            self.sides[side][price] = qty
        else:
            del self.sides[side][price]  # KeyError: a level was removed that is not there


def test_every_message_leaves_a_book_that_is_neither_crossed_nor_locked_nor_thin(rows: np.ndarray[Any, Any]) -> None:
    books = {i: DictBook() for i in BOUND.values()}
    for number, message in enumerate(messages(rows)):
        book = books[int(message["instrument_id"][0])]
        for r in message:
            if r["kind"] in (BOOK_DELTA, BOOK_SNAPSHOT):
                book.apply(int(r["side"]), int(r["price_ticks"]), int(r["qty_lots"]))
        bid, bid_lots, ask, ask_lots = book.touch()
        assert 0 < bid < ask
        assert bid_lots > 0 < ask_lots
        if number % 16:  # the whole book is looked at now and then, or the test would take ten seconds
            continue
        for side, levels in book.sides.items():
            assert LEVELS_MIN - 4 <= len(levels) <= KEEP + 1
            assert max(abs(price - book.best(side)) for price in levels) <= KEEP
            assert min(levels.values()) > 0


def test_trade_prints_at_the_touch_and_the_delta_behind_it_takes_exactly_its_lots(rows: np.ndarray[Any, Any]) -> None:
    books = {i: DictBook() for i in BOUND.values()}
    trades = 0
    for number, r in enumerate(rows):
        book = books[int(r["instrument_id"])]
        side, price, qty = int(r["side"]), int(r["price_ticks"]), int(r["qty_lots"])
        if r["kind"] in (BOOK_DELTA, BOOK_SNAPSHOT):
            book.apply(side, price, qty)
        elif r["kind"] == TRADE:
            passive = ASK if side == BUY else BID
            assert side in (BUY, SELL)
            assert price == book.best(passive)
            behind = rows[number + 1]
            assert (behind["kind"], behind["side"], behind["price_ticks"]) == (BOOK_DELTA, passive, price)
            assert behind["qty_lots"] == book.sides[passive][price] - qty
            assert behind["ts_event_ns"] == r["ts_event_ns"]
            trades += 1
    assert trades > 5_000


def test_quote_stands_behind_each_message_that_moved_the_touch_and_behind_no_other(rows: np.ndarray[Any, Any]) -> None:
    books = {i: DictBook() for i in BOUND.values()}
    told: dict[int, tuple[int, int, int, int]] = {}
    moved: int | None = None  # the instrument whose quote must come now
    for message in messages(rows):
        i = int(message["instrument_id"][0])
        if message["kind"][0] == QUOTE:
            (q,) = message
            assert i == moved
            told[i] = (int(q["price_ticks"]), int(q["qty_lots"]), int(q["ask_ticks"]), int(q["ask_lots"]))
            assert told[i] == books[i].touch()
            moved = None
            continue
        assert moved is None
        for r in message[message["kind"] != TRADE]:
            books[i].apply(int(r["side"]), int(r["price_ticks"]), int(r["qty_lots"]))
        moved = i if books[i].touch() != told.get(i) else None


def test_opens_with_a_snapshot_of_each_instrument(rows: np.ndarray[Any, Any]) -> None:
    for i in BOUND.values():
        own = rows[rows["instrument_id"] == i]
        head = own[: 2 * DEPTH]
        assert (head["kind"] == BOOK_SNAPSHOT).all()
        assert not (own[2 * DEPTH :]["kind"] == BOOK_SNAPSHOT).any()
        assert np.flatnonzero(head["flags"] & EVENT_FIRST).tolist() == [0]
        assert np.flatnonzero(head["flags"] & EVENT_END).tolist() == [2 * DEPTH - 1]
        assert np.count_nonzero(head["side"] == BID) == DEPTH


def test_update_ids_trade_ids_and_origins_have_no_gap(rows: np.ndarray[Any, Any]) -> None:
    assert rows["origin"].tolist() == list(range(len(rows)))
    for name in BOUND:
        trades = of(rows, name, TRADE)
        assert trades["venue_seq"].tolist() == list(range(1, len(trades) + 1))
        deltas = of(rows, name, BOOK_DELTA)
        ids = deltas["venue_seq"]
        assert ids[0] == of(rows, name, BOOK_SNAPSHOT)["venue_seq"][0] + 1
        assert set(np.diff(ids).tolist()) == {0, 1}
        assert (deltas["first_seq"] == ids).all()
        assert (deltas["prev_seq"] == ids - 1).all()
        ends = deltas[:-1]["flags"] & EVENT_END != 0
        assert (ends == (np.diff(ids) == 1)).all()


def test_times_never_step_back_and_receiving_takes_time(rows: np.ndarray[Any, Any]) -> None:
    assert rows["ts_event_ns"][0] == START_NS
    assert (np.diff(rows["ts_event_ns"]) >= 0).all()
    assert (np.diff(rows["ts_recv_ns"]) >= 0).all()
    latency = rows["ts_recv_ns"] - rows["ts_event_ns"]
    assert latency.min() >= 120_000
    assert np.percentile(latency, 99) > 2 * np.median(latency)
    for message in messages(rows):
        assert len(set(message["ts_event_ns"].tolist())) == len(set(message["instrument_id"].tolist())) == 1


def test_every_record_says_that_it_is_synthetic_and_bears_the_bound_ids(rows: np.ndarray[Any, Any]) -> None:
    assert (rows["flags"] & SYNTHETIC != 0).all()
    assert (rows["source_id"] == 16).all()
    assert set(rows["instrument_id"].tolist()) == set(BOUND.values())
    assert (rows[rows["kind"] == BOOK_DELTA]["action"] == SET).all()
    assert (rows["qty_lots"][rows["kind"] != BOOK_DELTA] > 0).all()
    assert not rows["seq"].any()
    assert not rows["ts_seq_ns"].any()


@pytest.mark.parametrize("rows_max", [1, 7, 100, 101, 4096, 1_000_000])
def test_same_rows_for_any_chunk_size(rows: np.ndarray[Any, Any], rows_max: int) -> None:
    wanted = rows if rows_max > 100 else rows[:3000]
    got = made(rows=len(rows) if rows_max > 100 else 4000, rows_max=rows_max)
    assert got[: len(wanted)].tobytes() == wanted.tobytes()


def test_chunks_are_whole_messages_of_at_most_rows_max() -> None:
    for chunk in SyntheticFeed(SEED, 3000).chunks(20):
        assert chunk["flags"][-1] & EVENT_END
        assert len(chunk) <= 20 or np.count_nonzero(chunk["flags"] & EVENT_END) == 1


def test_makes_at_most_the_rows_asked_for_and_misses_only_a_message_that_would_go_beyond() -> None:
    for wanted in range(2000, 2060):
        feed = SyntheticFeed(SEED, wanted)
        count = sum(map(len, feed.chunks(64)))
        assert wanted - PENDING_ROWS < count <= wanted
        assert feed.lines == count
        assert feed.messages < count
        assert feed.counters == {}


def test_a_second_pass_starts_over_and_receive_times_are_those_of_the_rows() -> None:
    feed = SyntheticFeed(SEED, 20_000)
    first = joined(*feed.chunks(512))
    again = joined(*feed.chunks(999))
    assert first.tobytes() == again.tobytes()
    assert feed.receive_times().tolist() == first["ts_recv_ns"].tolist()


def test_state_copied_in_the_middle_goes_on_with_the_same_rows() -> None:
    feed = SyntheticFeed(SEED, 10_000)
    chunks = feed.chunks(500)
    for _ in range(7):
        next(chunks)
    kept = [a.copy() for a in (feed.state.feed, feed.state.streams, feed.state.pending)]
    wanted = next(chunks)
    other = SyntheticFeed(SEED + 1, 10_000)
    for array, copy in zip((other.state.feed, other.state.streams, other.state.pending), kept, strict=True):
        array[:] = copy
    out = empty(500)
    assert other.state.write(out, 500, 10_000, feed.ids, feed.source_id) == len(wanted)
    assert out[: len(wanted)].tobytes() == wanted.tobytes()


def test_another_seed_gives_another_market(rows: np.ndarray[Any, Any]) -> None:
    assert made(seed=SEED + 1).tobytes() != rows.tobytes()


def test_an_instrument_moves_the_same_whatever_stands_beside_it() -> None:
    fields = ["ts_event_ns", "kind", "side", "price_ticks", "qty_lots", "venue_seq"]
    alone = made(rows=5_000, instruments=1)
    crowded = made(rows=50_000, instruments=5)
    beside = crowded[crowded["instrument_id"] == 0][: len(alone)]
    assert len(beside) == len(alone)
    assert alone[fields].tolist() == beside[fields].tolist()


def test_bits_have_not_changed_since_they_were_first_written_down(rows: np.ndarray[Any, Any]) -> None:
    assert hashlib.sha256(rows.tobytes()).hexdigest() == GOLDEN


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"seed": 2**64}, {"rows": -1}, {"instruments": 0}])
def test_refuses_a_seed_count_or_length_that_makes_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="synthetic feed"):
        SyntheticFeed(**{"seed": 1, "rows": 10, **wrong})
    with pytest.raises(ValueError, match="synthetic feed"):
        SyntheticFeed(1, 10, INSTRUMENTS_MAX + 1)


def test_spread_is_mostly_one_to_three_ticks_and_comes_back(long_rows: np.ndarray[Any, Any]) -> None:
    for name in BOUND:
        quotes = of(long_rows, name, QUOTE)
        spread = quotes["ask_ticks"] - quotes["price_ticks"]
        assert spread.min() == 1
        assert np.mean(spread <= 3) > 0.9
        assert np.mean(spread == 1) < 0.9
        wide = np.flatnonzero(spread[:-20] >= 6)
        assert spread[wide + 20].mean() < 0.5 * spread[wide].mean()


def test_trade_signs_persist(long_rows: np.ndarray[Any, Any]) -> None:
    for name in BOUND:
        sign = np.where(of(long_rows, name, TRADE)["side"] == BUY, 1.0, -1.0)
        assert correlation(sign, 1) > 0.2
        assert correlation(sign, 5) > 0.08
        assert 0.45 < np.mean(sign > 0) < 0.55


def test_volatility_and_arrivals_cluster(long_rows: np.ndarray[Any, Any]) -> None:
    quotes = of(long_rows, "AAA.synthetic", QUOTE)
    mid = 0.5 * (quotes["ask_ticks"] + quotes["price_ticks"])
    second = (quotes["ts_event_ns"] - START_NS) // 1_000_000_000
    at_second = mid[np.searchsorted(second, np.arange(1, second[-1]))]
    size = np.abs(np.diff(at_second))
    assert correlation(size, 1) > 0.1
    arrivals = np.unique(long_rows["ts_event_ns"][long_rows["instrument_id"] == BOUND["AAA.synthetic"]])
    gaps = np.diff(arrivals)
    assert gaps.std() > 1.2 * gaps.mean()  # 1.0 would be Poisson
    assert 200 < 1e9 / gaps.mean() < 2000


def test_trade_sizes_have_a_heavy_tail(long_rows: np.ndarray[Any, Any]) -> None:
    for name in BOUND:
        lots = of(long_rows, name, TRADE)["qty_lots"]
        assert np.percentile(lots, 99) > 6 * np.median(lots)


def test_price_wanders_but_stays_within_sight_of_home(long_rows: np.ndarray[Any, Any]) -> None:
    for name in BOUND:
        quotes = of(long_rows, name, QUOTE)
        price = quotes["price_ticks"]
        assert np.ptp(price) > 30
        assert abs(price - price[0]).max() < 0.1 * price[0]
