"""Levels, orders and prices beyond what the line holds, from the decoder through INGEST to the book."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.feeds import open_feeds
from handlers.domain import reasons
from handlers.domain.book import apply_market, level_at, new_markets
from handlers.ingest.bounds import hold_to_bounds
from handlers.ingest.feed import Feed
from handlers.domain.limits import PRICE_MAX, QTY_MAX
from tests.sequencing import Intake
from tests.stages import Fields, slots
from transport.compiled import kernel, load
from transport.records import (
    ADD, ASK, BAR, BID, BOOK_DELTA, BOOK_SNAPSHOT, BUY, CLEAR, DELETE, EVENT_END, EVENT_FIRST, FEED_BASE, GAP, MODIFY, NO_SIDE, SET, SUSPECT, TRADE,
    copied,
)  # fmt: skip

FAR = 2**61
LEVELS, BROKEN = reasons.LEVEL_OUT_OF_BOUNDS, reasons.OUT_OF_RANGE


@kernel
def apply_all(markets, books, rows):
    for i in range(len(rows)):
        apply_market(markets[0], books, rows[i])


class Made(Feed):
    """A feed of records as they are given, cut anywhere, as a snapshot is that is longer than memory."""

    def __init__(self, *events: Iterable[Fields]) -> None:
        super().__init__("made", ())
        usual = {"source_id": FEED_BASE, "parts": 1, "ts_recv_ns": 1}
        self.rows = slots({**usual, "origin": n, **r} for n, r in enumerate(r for event in events for r in event))

    def chunks(self, rows_max: int) -> Iterator[np.ndarray]:
        self.restart()
        for start in range(0, len(self.rows), rows_max):
            yield copied(self.rows[start : start + rows_max])

    def receive_times(self) -> Any:
        return self.rows["ts_recv_ns"]


class Folded:
    """What INGEST let in of a feed, the book it made, and what was counted."""

    def __init__(self, feed: Feed, orders: bool = False, rows_max: int = 10_000) -> None:
        intake = Intake([list(feed.windows(rows_max))], instruments=1)
        log = intake.run(100_000)
        self.rows = copied(log, log["source_id"] >= FEED_BASE)
        self.counted = {**feed.counters, **{r: int(n) for r, n in enumerate(intake.sequencer.counters) if n}}
        self.first = feed.first_offenders
        self.markets, self.books = new_markets([orders])
        apply_all(self.markets, self.books, self.rows)

    @property
    def valid(self) -> bool:
        return bool(self.markets[0]["valid"])

    def levels(self, side: int, *prices: int) -> list[int]:
        return [int(level_at(self.markets[0], side, p)[0]) for p in prices]


def event(kind: int, *levels: tuple[int, int, int], **more: Any) -> list[Fields]:
    """An event of a book: (side, ticks, lots) set."""
    rows: list[Fields] = [{"kind": kind, "action": SET, "side": s, "price_ticks": p, "qty_lots": q, "flags": 0, **more} for s, p, q in levels]
    rows[0]["flags"] |= EVENT_FIRST if kind == BOOK_SNAPSHOT else 0
    rows[-1]["flags"] |= EVENT_END
    return rows


def whole(*levels: tuple[int, int, int]) -> list[Fields]:
    return event(BOOK_SNAPSHOT, *levels)


def change(*levels: tuple[int, int, int]) -> list[Fields]:
    return event(BOOK_DELTA, *levels)


OLD = whole((BID, 80, 1), (BID, 90, 2), (ASK, 110, 3), (ASK, 120, 4))


@pytest.mark.parametrize(("side", "far"), [(ASK, PRICE_MAX), (ASK, 2**63 - 1), (BID, -PRICE_MAX), (BID, -(2**63))])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_far_level_is_left_out_and_the_event_keeps_its_beginning_and_its_end(side: int, far: int, place: int) -> None:
    levels = [(BID, 99, 5), (ASK, 101, 6), (ASK, 102, 7)]
    levels.insert(place, (side, far, 8))
    book = Folded(Made(OLD, whole(*levels)))
    assert book.valid
    assert book.markets[0]["levels"].tolist() == [1, 2]
    assert book.levels(BID, 90, 99) == [0, 5]
    assert book.levels(ASK, 101, 102, 110) == [6, 7, 0]
    assert book.counted == {LEVELS: 1}
    assert "line" in book.first[LEVELS]
    assert np.flatnonzero(book.rows["flags"] & SUSPECT).tolist() == [4 + place]


def test_a_change_of_a_far_level_changes_no_level_and_ends_its_event() -> None:
    book = Folded(Made(OLD, change((BID, 90, 0), (ASK, FAR, 8)), change((ASK, FAR, 0), (ASK, 105, 1)), change((BID, FAR, 0))))
    assert book.valid
    assert book.levels(BID, 80, 90) == [1, 0]
    assert book.levels(ASK, 105, 110, 120) == [1, 3, 4]
    assert book.rows["flags"][[5, 7, 8]].tolist() == [EVENT_END | SUSPECT, EVENT_END, EVENT_END | SUSPECT]
    assert book.counted == {LEVELS: 3}


def test_no_book_has_a_level_where_far_ones_are_put() -> None:
    book = Folded(Made(whole((BID, 99, 5), (ASK, PRICE_MAX - 1, 6), (ASK, PRICE_MAX, 7)), change((ASK, FAR, 1))))
    assert book.levels(ASK, PRICE_MAX - 1, PRICE_MAX) == [6, 0]
    assert book.counted == {LEVELS: 2}


def test_more_lots_than_the_line_holds_are_as_many_as_it_does() -> None:
    book = Folded(Made(whole((BID, 99, 2**60), (ASK, 101, QTY_MAX)), change((ASK, 101, QTY_MAX + 1), (BID, 98, 1))))
    assert book.valid
    assert (book.levels(BID, 98, 99), book.levels(ASK, 101)) == ([1, QTY_MAX], [QTY_MAX])
    assert book.counted == {LEVELS: 2}


BETTER = [(BID, PRICE_MAX, 1), (ASK, -PRICE_MAX, 1), (NO_SIDE, 100, 1), (BID, 99, -1)]


@pytest.mark.parametrize("wrong", BETTER)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_book_whose_touch_the_line_cannot_hold_is_not_valid_until_a_snapshot_without_that(wrong: tuple[int, int, int], place: int) -> None:
    levels = [(BID, 99, 5), (ASK, 101, 6)]
    levels.insert(place, wrong)
    broken = [OLD, whole(*levels)]
    book = Folded(Made(*broken))
    assert not book.valid
    assert Folded(Made(*broken), rows_max=1).rows.tobytes() == book.rows.tobytes()
    assert book.rows["kind"].tolist().count(GAP) == 1
    gap = book.rows[book.rows["kind"] == GAP][0]
    assert (gap["reason"], gap["lost"], gap["expected_seq"]) == (BROKEN, -1, gap["venue_seq"])
    assert book.counted == {BROKEN: 1}
    assert not Folded(Made(*broken, change((BID, 98, 1)))).valid
    healed = Folded(Made(*broken, change((BID, 98, 1)), OLD))
    assert healed.valid
    assert healed.levels(BID, 80, 90, 98, 99) == [1, 2, 0, 0]


@pytest.mark.parametrize("wrong", BETTER)
def test_a_change_that_the_line_cannot_hold_breaks_the_book(wrong: tuple[int, int, int]) -> None:
    assert not Folded(Made(OLD, change((BID, 90, 1), wrong, (ASK, 110, 1)))).valid


def orders(kind: int, *changes: tuple[int, int, int, int, int]) -> list[Fields]:
    """An event of an L3 book: (action, order, side, ticks, lots)."""
    rows = event(kind, *((s, p, q) for _, _, s, p, q in changes))
    return [{**row, "action": action, "order_id": order} for row, (action, order, *_) in zip(rows, changes, strict=True)]


START = orders(BOOK_SNAPSHOT, (CLEAR, 0, NO_SIDE, FAR, -1), (ADD, 1, BID, 99, 5), (ADD, 2, ASK, 101, 6), (ADD, 3, ASK, FAR, 7))


@pytest.mark.parametrize(
    ("changes", "bids", "asks", "levels", "unknown"),
    [
        ([], [5, 0], [6, 0], 1, 1),  # the far order alone, which is nobody's
        ([(DELETE, 3, ASK, FAR, 7)], [5, 0], [6, 0], 2, 2),
        ([(MODIFY, 3, ASK, 102, 7)], [5, 0], [6, 7], 1, 1),  # it comes near: now it is an order
        ([(MODIFY, 2, ASK, FAR, 6)], [5, 0], [0, 0], 2, 1),  # it goes far: it is none any more
        ([(MODIFY, 2, ASK, FAR, 6), (MODIFY, 2, ASK, 102, 8)], [5, 0], [0, 8], 2, 1),
        ([(DELETE, 2, ASK, 101, QTY_MAX + 1)], [5, 0], [0, 0], 2, 1),
        ([(ADD, 4, BID, -FAR, 2**60)], [5, 0], [6, 0], 2, 2),
    ],
)
def test_orders_that_stand_too_far_are_none(
    changes: list[tuple[int, int, int, int, int]], bids: list[int], asks: list[int], levels: int, unknown: int
) -> None:
    book = Folded(Made(START, *([orders(BOOK_DELTA, *changes)] if changes else [])), orders=True)
    assert book.valid
    assert book.levels(BID, 99, 98) == bids
    assert book.levels(ASK, 101, 102) == asks
    assert book.counted == {LEVELS: levels}
    assert book.markets[0]["unknown_orders"] == unknown
    assert book.books[0]["orders"] == sum(lots > 0 for lots in bids + asks)


@pytest.mark.parametrize("change", [(ADD, 4, BID, 98, QTY_MAX + 1), (MODIFY, 1, BID, 99, QTY_MAX + 1), (ADD, 4, BID, FAR, 1), (ADD, 4, NO_SIDE, 98, 1)])
def test_an_order_of_more_lots_or_a_better_price_breaks_its_book(change: tuple[int, int, int, int, int]) -> None:
    book = Folded(Made(START, orders(BOOK_DELTA, change)), orders=True)
    assert not book.valid
    assert book.counted == {LEVELS: 1, BROKEN: 1}
    assert Folded(Made(START, orders(BOOK_DELTA, change), START), orders=True).valid


def test_a_trade_that_is_refused_leaves_its_events_end_to_the_record_before_it() -> None:
    far: Fields = {"kind": TRADE, "side": BUY, "price_ticks": FAR, "qty_lots": 1, "flags": EVENT_END}
    near = {**far, "price_ticks": 100, "flags": 0}
    book = Folded(Made([near, far], OLD, [far], change((BID, 90, 1)), [near, far], [{**far, "flags": 0}, far]))
    assert book.rows["flags"].tolist() == [EVENT_END, EVENT_FIRST, 0, 0, EVENT_END, EVENT_END, EVENT_END]
    assert book.counted == {reasons.OUT_OF_RANGE: 5}


def test_a_bar_that_is_refused_leaves_its_pairs_end_to_the_other() -> None:
    pair: list[Fields] = [{"kind": BAR, "side": side, "high_ticks": high, "flags": end} for side, high, end in ((BID, 5, 0), (ASK, FAR, EVENT_END))]
    book = Folded(Made(pair))
    assert book.rows["flags"].tolist() == [EVENT_END]
    assert book.counted == {reasons.OUT_OF_RANGE: 1}


def test_what_is_within_bounds_is_not_touched(seed: int) -> None:
    rng = np.random.default_rng(seed)
    edge = [-(PRICE_MAX - 1), -1, 0, 1, PRICE_MAX - 1]
    feed = Made(*(change((int(rng.integers(BID, ASK + 1)), int(rng.choice(edge)), int(rng.choice([0, 1, QTY_MAX])))) for _ in range(200)))
    book = Folded(feed)
    load(hold_to_bounds)
    assert hold_to_bounds(feed.rows, np.zeros(1, np.uint8)) == (0, -1, 0, -1)
    assert (book.rows["price_ticks"].tolist(), book.rows["qty_lots"].tolist()) == (feed.rows["price_ticks"].tolist(), feed.rows["qty_lots"].tolist())
    assert book.counted == {}


def test_books_of_random_levels_are_those_of_dictionaries_that_know_the_bounds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    events, valid, sides = [], False, ({}, {})  # type: ignore[var-annotated]
    for _ in range(400):
        fresh, levels = bool(rng.random() < 0.05), []
        for _ in range(int(rng.integers(1, 6))):
            side, lots = int(rng.integers(BID, ASK + 1)), int(rng.choice([0, 3, 7, 2**50 + 5]))
            away = int(rng.integers(1, 30)) if rng.random() < 0.8 else int(rng.integers(2**40, 2**60))
            levels.append((side, 1000 - away if side == BID else 1000 + away, lots))
        if rng.random() < 0.01:
            levels.append((BID, 2**41, 1))
        events.append(whole(*levels) if fresh else change(*levels))
        if fresh:
            valid, sides = True, ({}, {})
        valid = valid and not any(side == BID and price > 2**40 for side, price, _ in levels)
        for side, price, lots in levels:
            if abs(price) < 2**40:
                sides[side - BID].pop(price, None)
                if lots:
                    sides[side - BID][price] = min(lots, 2**50)
    book = Folded(Made(*events, whole((BID, 1, 1))) if not valid else Made(*events))
    assert book.valid, seed
    want = sides if valid else ({1: 1}, {})
    assert book.markets[0]["levels"].tolist() == [len(want[0]), len(want[1])], seed
    for side in (BID, ASK):
        assert book.levels(side, *want[side - BID]) == list(want[side - BID].values()), seed


# --- A book that its venue signs ------------------------------------------------------------------------------------------

HUGE = "20000000.00000001"  # 2,000,000,000,000,001 lots, above 2**50


def kraken(tmp_path: Path, signed: str) -> Feed:
    """A book with a level of HUGE, and a change signed with the CRC-32 of `signed`."""
    at = "1700000000.5"
    book = [1, {"as": [["10.2", "1.00000000", at]], "bs": [["10.1", HUGE, at]]}, "book-10", "A/USD"]
    change = [1, {"a": [["10.2", "2.00000000", at]], "c": str(zlib.crc32(signed.encode()))}, "book-10", "A/USD"]
    path = tmp_path / "kraken"
    path.write_text("".join(f"{1_700_000_000_000_000_000 + n} {json.dumps(body)}\n" for n, body in enumerate((book, change))))
    feed = open_feeds([str(path)], ())[0][0].decoder
    assert feed is not None
    return feed


def test_a_checksum_is_of_the_venues_own_lots_and_the_books_are_the_most_the_line_holds(tmp_path: Path) -> None:
    book = Folded(kraken(tmp_path, "102200000000" + "101" + "2000000000000001"))
    assert book.valid
    assert (book.levels(BID, 101), book.levels(ASK, 102)) == ([QTY_MAX], [200_000_000])
    assert book.counted == {LEVELS: 1}


def test_a_checksum_of_other_lots_breaks_the_book(tmp_path: Path) -> None:
    book = Folded(kraken(tmp_path, "102200000000" + "101" + str(QTY_MAX)))
    assert not book.valid
    assert book.counted == {LEVELS: 1, reasons.CHECKSUM_FAILED: 1}
