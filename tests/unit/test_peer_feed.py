"""The shared feed: its bytes are an answer others are checked against, so they may not move."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from perf.peers import feed
from transport import records

ROWS = 20_000


@pytest.fixture(scope="module")
def rows():
    return feed.generate(ROWS)


def test_one_seed_gives_one_feed_and_another_seed_another(rows):
    assert feed.generate(ROWS).tobytes() == rows.tobytes()
    assert feed.generate(ROWS, seed=12).tobytes() != rows.tobytes()


def test_feed_is_the_one_whose_answer_was_checked(rows):
    seen = hashlib.sha256(rows[:19_000].tobytes()).hexdigest()
    assert seen == "7b06527525c4be83de8b00e46540429d6dbeacb7829dfa42100cedc19bbd5876"


def test_short_feed_is_the_beginning_of_a_long_one(rows):
    assert feed.generate(5_000)[:-3].tobytes() == rows[:4_997].tobytes()


def test_refuses_a_feed_shorter_than_its_opening_book():
    with pytest.raises(ValueError, match="opening book"):
        feed.generate(99)


def test_book_is_neither_crossed_nor_empty_after_any_event(rows):
    levels = ({}, {})
    ts = rows["ts_event_ns"]
    ends = np.append(ts[1:] != ts[:-1], True)
    for row, end in zip(rows, ends, strict=True):
        price, lots = int(row["price_ticks"]), int(row["qty_lots"])
        side = levels[row["side"]]
        if row["kind"] == feed.TRADE_ROW:
            assert lots > 0
            assert price == (max(side) if row["side"] == feed.BID_SIDE else min(side)), "a trade happens at the touch"
        elif lots:
            side[price] = lots
        else:
            assert side.pop(price) > 0, "only a level that stands is taken away"
        if end:
            assert max(levels[0]) + 1 == min(levels[1])


def test_about_a_tenth_are_trades_and_some_events_have_several_rows(rows):
    assert 0.08 < np.mean(rows["kind"] == feed.TRADE_ROW) < 0.11
    sizes = np.unique(rows["ts_event_ns"], return_counts=True)[1]
    assert sizes[0] == 100
    assert set(sizes[1:]) == {1, 2, 3}
    assert np.all(np.diff(rows["ts_event_ns"]) >= 0)


def test_records_keep_every_value_and_close_every_event_once(rows):
    slots = feed.as_records(rows)
    trade = rows["kind"] == feed.TRADE_ROW
    assert slots.dtype == records.REC
    assert np.array_equal(slots["price_ticks"], rows["price_ticks"])
    assert np.array_equal(slots["qty_lots"], rows["qty_lots"])
    assert np.all(slots["ts_recv_ns"] - slots["ts_event_ns"] == 1_000_000)
    assert np.array_equal(slots["kind"] == records.TRADE, trade)
    assert np.all(slots["kind"][:100] == records.BOOK_SNAPSHOT)
    assert np.all(slots["kind"][100:][~trade[100:]] == records.BOOK_DELTA)
    ends = slots["flags"] & records.EVENT_END != 0
    assert np.count_nonzero(ends) == np.unique(rows["ts_event_ns"]).size
    assert np.array_equal(slots["ts_event_ns"][ends], np.unique(rows["ts_event_ns"]))
    assert np.flatnonzero(slots["flags"] & records.EVENT_FIRST).tolist() == [0]
    assert np.array_equal(slots["venue_seq"], np.arange(ROWS))
    assert np.array_equal(slots["origin"], np.arange(ROWS))
    assert set(slots["source_id"]) == {records.FEED_BASE}


def test_trade_that_hits_the_bid_is_a_sellers(rows):
    slots = feed.as_records(rows)
    trade = rows["kind"] == feed.TRADE_ROW
    hit_bid = rows["side"] == feed.BID_SIDE
    assert set(slots["side"][trade & hit_bid]) == {records.SELL}
    assert set(slots["side"][trade & ~hit_bid]) == {records.BUY}
    assert set(slots["side"][~trade & hit_bid]) == {records.BID}
    assert set(slots["side"][~trade & ~hit_bid]) == {records.ASK}


def test_every_record_is_one_its_kind_can_be_read_back_as(rows):
    slots = feed.as_records(rows[:500])
    for slot in slots:
        back = records.empty(1)
        records.to_slot(records.to_struct(slot), back[0:1].reshape(()))
        assert back[0].tobytes() == slot.tobytes()


def test_file_gives_back_the_rows_and_refuses_more_than_it_has(rows, tmp_path):
    path = tmp_path / "l2.npz"
    np.savez(path, **{name: rows[name] for name in feed.ROW.names})
    assert feed.load(path, 1_000).tobytes() == rows[:1_000].tobytes()
    with pytest.raises(ValueError, match="20000 rows"):
        feed.load(path, ROWS + 1)
