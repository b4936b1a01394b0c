"""What is told when the paper exchange is full: nothing is lost, what cannot be told is refused with a reason or does not happen."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from handlers.domain import reasons
from handlers.domain.book import apply_market
from handlers.domain.borrowed import borrow
from handlers.domain.queue import NEVER, pop
from handlers.orders.brokers.paper import (
    ARRIVALS_MAX, FILLS_MAX, REFUSALS_MAX, REPORTS_MAX, RESTING_MAX, WALK_MAX, advance, on_market, spare, submit,
)  # fmt: skip
from tests.stages import Exchange, Fields, change, order, slots, snapshot, trade
from transport.compiled import kernel
from transport.records import (
    ACCEPTED, ACK, AMEND, AMENDED, BUY, CANCEL, CANCELLED, EXPIRED, FILL, FOK, IOC, ORDER, REJECT, SELL, empty,
)  # fmt: skip

FOR_ALL_BUT_REFUSALS = REPORTS_MAX - REFUSALS_MAX


@kernel
def _go_on(owned, markets, books, rows, left):
    """Hand the exchange rows in time order; left[i] says which requests it took. Every report stays where it is."""
    paper = borrow(owned)
    for i in range(len(rows)):
        r = rows[i]
        while advance(paper, markets, r.ts_seq_ns):
            pass
        if r.kind == ORDER or r.kind == CANCEL or r.kind == AMEND:
            left[i] = submit(paper, r)
        else:
            m = markets[np.int64(r.instrument_id)]
            apply_market(m, books, r)
            on_market(paper, m, r)


@kernel
def _advance(owned, markets, until_ns):
    while advance(borrow(owned), markets, until_ns):
        pass


@kernel
def _spare(owned):
    return spare(borrow(owned))


@kernel
def _take(queue, out):
    for i in range(len(out)):
        out[i] = queue.rows[pop(queue)]


class Slow(Exchange):
    """An exchange whose answers take for ever, so that they pile up until the test takes them."""

    def __init__(self) -> None:
        super().__init__(back_ns=10**15)
        self.now = 1000

    def send(self, *records: Fields) -> list[bool]:
        """Which of the records, requests or of the market, were taken; each 10 ns after the one before, `order_out` being 100."""
        rows = slots(records)
        rows["ts_seq_ns"] = self.now + 10 * np.arange(1, len(rows) + 1)
        self.now += 10 * len(rows)
        left = np.ones(len(rows), np.bool_)
        _go_on(self.state, self.markets, self.books, rows, left)
        assert 0 <= self.waiting <= FOR_ALL_BUT_REFUSALS
        return [bool(x) for x in left]

    def settle(self) -> None:
        """Let everything arrive that is on its way."""
        _advance(self.state, self.markets, NEVER)
        assert _spare(self.state) == FOR_ALL_BUT_REFUSALS - self.waiting >= 0

    @property
    def waiting(self) -> int:
        return int(self.state.reports.head[0]["count"])

    def answers(self, count: int | None = None) -> np.ndarray:
        """The reports that are due first, taken off."""
        out = empty(self.waiting if count is None else count)
        _take(self.state.reports, out)
        return out

    def crowded(self) -> int:
        return int(self.state.paper[0]["crowded"])


def book(levels: int, lots: int = 1) -> list[Fields]:
    """A bid at 1,000 and asks at 1,001 and above, `levels` of them with `lots` each."""
    return snapshot({1000: 10**6}, {1001 + k: lots for k in range(levels)}, 1000)


def ends(rows: np.ndarray) -> Counter[int]:
    """How often each order was told to have ended."""
    ended = (rows["kind"] == FILL) & (rows["leaves_lots"] == 0)
    ended |= (rows["kind"] == REJECT) & (rows["action"] == 0)
    ended |= (rows["kind"] == ACK) & ((rows["action"] == EXPIRED) | (rows["action"] == CANCELLED))
    return Counter(rows["order_id"][ended].tolist())


# --- one order ------------------------------------------------------------------------------------------------------------
def test_an_order_walks_no_more_levels_than_its_fills_have_room_and_the_rest_expires_or_rests() -> None:
    walked = Exchange().run([*book(FILLS_MAX + 100), order(1, BUY, FILLS_MAX + 100, 1100)])
    assert np.count_nonzero(walked["kind"] == FILL) == FILLS_MAX
    assert len(walked) == WALK_MAX, "accepted, filled at each level, ended"
    assert (walked[-1]["action"], walked[-1]["leaves_lots"]) == (EXPIRED, 100)
    exchange = Exchange()
    rested = exchange.run([*book(FILLS_MAX + 100), order(1, BUY, FILLS_MAX + 100, 1100, price=5000)])
    assert len(rested) == 1 + FILLS_MAX
    assert exchange.state.resting[0]["leaves_lots"] == 100


def test_fill_or_kill_is_filled_whole_or_not_at_all_however_many_levels_it_would_walk() -> None:
    whole = Exchange().run([*book(FILLS_MAX + 100), order(1, BUY, FILLS_MAX, 1100, price=5000, tif=FOK)])
    assert np.count_nonzero(whole["kind"] == FILL) == FILLS_MAX
    assert whole[-1]["leaves_lots"] == 0
    none = Exchange().run([*book(FILLS_MAX + 100), order(1, BUY, FILLS_MAX + 1, 1100, price=5000, tif=FOK)])
    assert none["kind"].tolist() == [REJECT]
    assert none[0]["reason"] == reasons.FOK_UNFILLED


# --- resting orders -------------------------------------------------------------------------------------------------------
def test_an_order_that_finds_no_place_to_rest_expires_with_the_reason() -> None:
    slow = Slow()
    slow.send(*book(3))
    assert all(slow.send(*(order(n, BUY, 2, 0, price=900) for n in range(1, RESTING_MAX + 3))))
    slow.settle()
    assert slow.state.paper[0]["resting"] == RESTING_MAX
    rows = slow.answers()
    expired = rows[rows["action"] == EXPIRED]
    assert expired["order_id"].tolist() == [RESTING_MAX + 1, RESTING_MAX + 2]
    assert set(expired["reason"].tolist()) == {reasons.TABLE_FULL}
    assert set(expired["leaves_lots"].tolist()) == {2}
    slow.send(change(CANCEL, 7, 0), order(9999, BUY, 2, 0, price=900))
    slow.settle()
    assert slow.answers()["action"].tolist() == [CANCELLED, ACCEPTED]
    assert slow.state.paper[0]["resting"] == RESTING_MAX


# --- answers --------------------------------------------------------------------------------------------------------------
def test_with_answers_all_over_the_place_orders_are_refused_and_each_that_left_has_its_end() -> None:
    slow = Slow()
    slow.send(*book(1500))
    taken: list[int] = []
    refused = 0
    for first in range(1, 40_000, 64):
        asked = range(first, first + 64)
        left = slow.send(*(order(n, BUY, 40 if n % 3 else 1, 0, price=0 if n % 2 else 1010, tif=IOC) for n in asked))
        taken += [n for n, yes in zip(asked, left, strict=True) if yes]
        refused += left.count(False)
        if refused > 200:
            break
    slow.settle()
    assert slow.waiting > FOR_ALL_BUT_REFUSALS - WALK_MAX, "the test fills what there is"
    assert refused > 200
    rows = slow.answers()
    assert ends(rows) == Counter(taken), "every order that left ended once, none that did not"
    late = rows[(rows["kind"] == REJECT)]
    assert len(late) > 10
    assert set(late["reason"].tolist()) == {reasons.TABLE_FULL}
    assert (late["leaves_lots"] == late["qty_lots"]).all(), "refused whole"
    assert slow.send(order(99_999, BUY, 1, 0)) == [True], "what was answered makes room"


def crowd(slow: Slow, price: int = 900) -> int:
    """Rest 500 orders of ours, and trade them away lot by lot until nothing more can be told; how many fills there are."""
    slow.send(*book(3))
    slow.send(*(order(n, BUY, 1000, 0, price=price) for n in range(1, 501)))
    slow.settle()
    slow.answers()
    done = 0
    while not slow.crowded():
        before = slow.waiting
        slow.send(*(trade(SELL, price - 1, 1, 0) for _ in range(500)))
        done += slow.waiting - before
    return done


def test_a_resting_order_does_not_fill_while_that_cannot_be_told_and_fills_again_when_it_can() -> None:
    slow = Slow()
    done = crowd(slow)
    assert done == FOR_ALL_BUT_REFUSALS, "to the last report that is nobody's"
    assert slow.crowded() == 500 * (done // 500 + 1) - done
    resting = slow.state.resting[: slow.state.paper[0]["resting"]]
    told = slow.answers()
    assert told["qty_lots"].sum() == done == 500 * 1000 - resting["leaves_lots"].sum(), "what is filled is what was told"
    missed = slow.crowded()
    slow.send(trade(SELL, 899, 5, 0))
    assert slow.answers()["qty_lots"].tolist() == [5]
    assert slow.crowded() == missed


def test_requests_on_their_way_are_answered_though_the_market_fills_all_the_rest() -> None:
    slow = Slow()
    slow.send(*book(3))
    slow.send(*(order(n, BUY, 1000, 0, price=900) for n in range(1, 501)))
    slow.settle()
    slow.answers()
    asked = [change(CANCEL, n, 0) for n in range(401, 501)] + [change(AMEND, n, 0, BUY, 900, 1100) for n in range(301, 401)]
    rows = slots([*asked, *(trade(SELL, 899, 1, 0) for _ in range(FOR_ALL_BUT_REFUSALS + 100))])
    rows["ts_seq_ns"] = slow.now + 10  # all before the first of them arrives
    _go_on(slow.state, slow.markets, slow.books, rows, np.ones(len(rows), np.bool_))
    assert slow.waiting == FOR_ALL_BUT_REFUSALS - 2 * len(asked)
    assert slow.crowded() == 100 + 2 * len(asked)
    slow.settle()
    rows = slow.answers()
    answered = rows[rows["kind"] != FILL]
    assert np.count_nonzero(answered["action"] == CANCELLED) == 100
    amends = answered[answered["kind"] == REJECT]
    assert amends["order_id"].tolist() == list(range(301, 401))
    assert set(amends["reason"].tolist()) == {reasons.TABLE_FULL}
    assert set(amends["action"].tolist()) == {AMEND}
    slow.send(change(AMEND, 301, 0, BUY, 900, 1100))
    slow.settle()
    assert slow.answers()["action"].tolist() == [AMENDED]


def test_with_every_request_on_its_way_there_is_room_for_a_whole_walk() -> None:
    slow = Slow()
    slow.send(*book(FILLS_MAX))
    rows = slots(order(n, BUY, FILLS_MAX, 0) for n in range(1, ARRIVALS_MAX + 2))
    rows["ts_seq_ns"] = slow.now
    left = np.ones(len(rows), np.bool_)
    _go_on(slow.state, slow.markets, slow.books, rows, left)
    assert left.tolist() == [True] * ARRIVALS_MAX + [False]
    slow.settle()
    rows = slow.answers()
    assert ends(rows) == Counter(range(1, ARRIVALS_MAX + 1))
    walked = Counter(rows["order_id"][rows["kind"] == FILL].tolist())
    assert len(walked) >= 4
    assert set(walked.values()) == {FILLS_MAX}, "an order is filled as the book has it, or refused whole"


@pytest.mark.parametrize("kind", [CANCEL, AMEND])
def test_refusals_have_room_of_their_own(kind: int) -> None:
    assert REFUSALS_MAX >= 2 * 4096 + 4096, "of as many open orders as there may be, and of those that flatten as many accounts"
    slow = Slow()
    crowd(slow)
    assert slow.send(change(kind, 3, 0, BUY, 900, 1200), order(9999, BUY, 1, 0)) == [False, False]
    assert len(slow.state.reports.rows) - slow.waiting == REFUSALS_MAX
