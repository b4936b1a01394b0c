"""Books by price from DBN files: what a message's levels become, and what becomes of one that cannot be believed."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import databento_dbn as dbn
import numpy as np
import pytest

from handlers.domain import reasons
from handlers.ingest.feed import Feed
from handlers.ingest.dbn import files as dbn_files
from handlers.ingest.dbn import mbp as dbn_mbp
from transport.instruments import Instrument
from transport.records import (
    ASK, BID, BOOK_DELTA, BOOK_SNAPSHOT, CLEAR, EVENT_END, EVENT_FIRST, GAP, SELL, SET, TRADE,
)  # fmt: skip

from tests.unit.dbn_lines import DOUBT, ESH4, LAST, SPREAD, T0_NS, TICK, UNDEF_TIME, feed_of, lines, rows_of

ES = Instrument("ESH4", "glbx", Decimal("0.25"), Decimal(1), "USD", Decimal(50))
Side = Sequence[tuple[int, int]]  # (ticks, size), best first
BIDS, ASKS = [(99, 5), (98, 6)], [(101, 7), (102, 8)]


def message(bids: Side, asks: Side, action: bytes = b"A", flags: int = LAST, **columns: Any) -> np.ndarray[Any, Any]:
    """One record of mbp-10."""
    out = lines(10, 1, action=action, side=b"A", flags=flags, **columns)
    for name, side in (("bid", bids), ("ask", asks)):
        for k, (ticks, size) in enumerate(side):
            out[f"{name}_px_{k:02d}"], out[f"{name}_sz_{k:02d}"] = ticks * TICK, size
    return out


def feed_with(tmp_path: Path, *messages: np.ndarray[Any, Any], instrument: Instrument = ES) -> Feed:
    body = np.concatenate(messages)
    body["ts_recv"] = np.where(body["ts_recv"] == UNDEF_TIME, UNDEF_TIME, T0_NS + 100 + np.arange(len(body)))
    return feed_of(tmp_path, body.tobytes(), [instrument], schema=dbn.Schema.MBP_10)


def told(rows: np.ndarray[Any, Any]) -> list[tuple[int, int, int, int, int]]:
    """(kind, side, ticks, lots, flags) of each row."""
    return [tuple(int(r[n]) for n in ("kind", "side", "price_ticks", "qty_lots", "flags")) for r in rows]  # type: ignore[misc]


def test_first_message_is_a_snapshot_and_later_ones_are_what_changed(tmp_path: Path) -> None:
    feed = feed_with(
        tmp_path, message(BIDS, ASKS), message([(99, 5), (97, 1)], ASKS), message([(99, 4), (97, 1)], [(100, 2), *ASKS])
    )
    assert told(rows_of(feed)) == [
        (BOOK_SNAPSHOT, BID, 99, 5, EVENT_FIRST), (BOOK_SNAPSHOT, BID, 98, 6, 0),
        (BOOK_SNAPSHOT, ASK, 101, 7, 0), (BOOK_SNAPSHOT, ASK, 102, 8, EVENT_END),
        (BOOK_DELTA, BID, 98, 0, 0), (BOOK_DELTA, BID, 97, 1, EVENT_END),
        (BOOK_DELTA, BID, 99, 4, 0), (BOOK_DELTA, ASK, 100, 2, EVENT_END),
    ]  # fmt: skip
    assert feed.counters == {}
    assert (feed.lines, feed.messages) == (3, 3)


def test_trade_comes_before_the_levels_and_the_end_is_where_the_event_ends(tmp_path: Path) -> None:
    feed = feed_with(
        tmp_path, message(BIDS, ASKS), message(BIDS, ASKS, b"T", 0, price=99 * TICK, size=2),
        message([(99, 3), (98, 6)], ASKS, b"C"), message(BIDS, ASKS, b"T", LAST, price=98 * TICK, size=1),
    )  # fmt: skip
    assert told(rows_of(feed))[4:] == [
        (TRADE, SELL, 99, 2, 0), (BOOK_DELTA, BID, 99, 3, EVENT_END), (TRADE, SELL, 98, 1, 0), (BOOK_DELTA, BID, 99, 5, EVENT_END),
    ]  # fmt: skip


def test_event_that_changes_no_quantity_restates_its_best_level(tmp_path: Path) -> None:
    empty = rows_of(feed_with(tmp_path, message([], []), message([], [])))
    assert told(empty) == [(BOOK_SNAPSHOT, 0, 0, 0, EVENT_FIRST | EVENT_END)] * 2
    feed = feed_with(tmp_path, message(BIDS, ASKS), message(BIDS, ASKS), message([], ASKS), message([], ASKS), message([], []))
    rows = rows_of(feed)
    assert told(rows)[4:] == [
        (BOOK_DELTA, BID, 99, 5, EVENT_END), (BOOK_DELTA, BID, 99, 0, 0), (BOOK_DELTA, BID, 98, 0, EVENT_END),
        (BOOK_DELTA, ASK, 101, 7, EVENT_END), (BOOK_DELTA, ASK, 101, 0, 0), (BOOK_DELTA, ASK, 102, 0, EVENT_END),
    ]  # fmt: skip
    assert (empty["action"][0], rows["action"][0]) == (CLEAR, SET)


def test_book_begins_with_the_first_record_that_ends_an_event(tmp_path: Path) -> None:
    feed = feed_with(tmp_path, message(BIDS, ASKS, b"T", 0, price=99 * TICK, size=2), message(BIDS, ASKS))
    assert [kind for kind, *_ in told(rows_of(feed))] == [TRADE] + [BOOK_SNAPSHOT] * 4
    assert feed.counters == {reasons.DEPTH_REFUSED: 1}


@pytest.mark.parametrize(
    ("spoil", "reason", "instrument"),
    [
        ({"bid_px_00": 99 * TICK + 1}, reasons.PRICE_OFF_GRID, ES),
        ({"bid_sz_00": 50}, reasons.QTY_OFF_GRID, Instrument("ESH4", "glbx", Decimal("0.25"), Decimal(100))),
        ({"bid_px_00": 97 * TICK}, reasons.OUT_OF_RANGE, ES),  # behind the second best
        ({"bid_px_00": 2**62}, reasons.OUT_OF_RANGE, Instrument("ESH4", "glbx", Decimal("1e-9"), Decimal(1))),
        ({"ts_event": UNDEF_TIME}, reasons.TIME_OUT_OF_RANGE, ES),
        ({"ts_recv": UNDEF_TIME}, reasons.TIME_OUT_OF_RANGE, ES),
        ({"action": b"?"}, reasons.UNKNOWN_RECORD, ES),
        ({"flags": LAST | DOUBT}, reasons.BOOK_DOUBTED, ES),
    ],
)
def test_message_that_cannot_be_believed_is_a_gap_and_the_next_is_a_snapshot(
    tmp_path: Path, spoil: dict[str, Any], reason: int, instrument: Instrument
) -> None:
    bids, asks = [(99, 500), (98, 600)], [(101, 700)]
    bad = message(bids, asks)
    for name, value in spoil.items():
        bad[name] = value
    feed = feed_with(tmp_path, message(bids, asks), bad, bad, message(bids, asks), instrument=instrument)
    rows = rows_of(feed)
    assert rows["kind"].tolist() == [BOOK_SNAPSHOT] * 3 + [GAP] + [BOOK_SNAPSHOT] * 3
    gap = rows[3]
    assert (gap["flags"], gap["lost"], gap["expected_seq"]) == (EVENT_END, -1 if reason == reasons.BOOK_DOUBTED else 1, 50)
    assert gap["reason"] == reason
    assert (gap["ts_recv_ns"] - T0_NS) in (100, 101)  # the feed's time where the message has none
    assert feed.counters == {reason: 1 if reason == reasons.BOOK_DOUBTED else 2, reasons.SEQUENCE_GAP: 1}
    assert feed.first_offenders[reason] == f"record 2: {reasons.DOC[reason]}"


def test_event_that_has_rows_ends_even_where_its_last_message_is_refused(tmp_path: Path) -> None:
    feed = feed_with(
        tmp_path, message(BIDS, ASKS), message(BIDS, ASKS, flags=DOUBT), message(BIDS, ASKS, b"T", 0, price=99 * TICK, size=2),
        message(BIDS, ASKS, b"?"), message(BIDS, ASKS, b"?"),
    )  # fmt: skip
    assert [(kind, flags) for kind, _, _, _, flags in told(rows_of(feed))[4:]] == [(GAP, EVENT_END), (TRADE, 0), (GAP, EVENT_END)]
    assert feed.counters[reasons.SEQUENCE_GAP] == 2


def test_bad_trade_is_counted_and_its_levels_stay(tmp_path: Path) -> None:
    feed = feed_with(tmp_path, message(BIDS, ASKS), message(BIDS[:1], ASKS, b"T", price=99 * TICK + 1, size=2))
    assert told(rows_of(feed))[4:] == [(BOOK_DELTA, BID, 98, 0, EVENT_END)]
    assert feed.counters == {reasons.PRICE_OFF_GRID: 1}


def test_instruments_have_books_of_their_own(tmp_path: Path) -> None:
    body = np.concatenate([message(BIDS, ASKS), message([(3, 1)], [], instrument_id=SPREAD), message(BIDS, ASKS[:1])])
    feed = feed_of(tmp_path, body.tobytes(), schema=dbn.Schema.MBP_10, symbols={"ESH4": ESH4, "ESH4-ESM4": SPREAD})
    feed.bind({"ESH4.glbx": 7, "ESH4-ESM4.glbx": 8}, 16)
    assert rows_of(feed)["instrument_id"].tolist() == [7] * 4 + [8, 7]
    assert [i.book for i in feed.instruments] == ["l2", "l2"]


def at_random(rng: np.random.Generator, count: int) -> list[np.ndarray[Any, Any]]:
    """Messages whose levels have little in common, some of them doubted, some not the last of their event."""
    messages = []
    for _ in range(count):
        sides = [sorted(rng.choice(30, rng.integers(0, 11), replace=False).tolist()) for _ in range(2)]
        bids, asks = [(100 - t, int(rng.integers(1, 9))) for t in sides[0]], [(101 + t, int(rng.integers(1, 9))) for t in sides[1]]
        flags = LAST if rng.random() < 0.6 else DOUBT if rng.random() < 0.05 else 0
        messages.append(message(bids, asks, rng.choice([b"A", b"T"]), flags, price=99 * TICK, size=1))
    return messages


def levels_of(r: np.ndarray[Any, Any]) -> dict[tuple[int, int], int]:
    """(side, ticks) -> size, as a message publishes them."""
    names = [(side, f"{name}_px_{k:02d}", f"{name}_sz_{k:02d}") for side, name in ((BID, "bid"), (ASK, "ask")) for k in range(10)]
    return {(side, int(r[price]) // TICK): int(r[size]) for side, price, size in names if r[size]}


def test_book_is_what_was_published_after_each_event_that_is_believed(tmp_path: Path, seed: int) -> None:
    messages = at_random(np.random.default_rng(seed), 400)
    rows = rows_of(feed_with(tmp_path, *messages))
    book: dict[tuple[int, int], int] | None = None
    compared = 0
    for origin, (r,) in enumerate(messages):
        for row in rows[rows["origin"] == origin]:
            if row["kind"] == GAP:
                book = None
            elif row["kind"] == BOOK_SNAPSHOT and row["flags"] & EVENT_FIRST:
                book = {}
            if row["kind"] in (BOOK_SNAPSHOT, BOOK_DELTA) and row["action"] == SET:
                assert book is not None, "a change of no book"
                book[int(row["side"]), int(row["price_ticks"])] = int(row["qty_lots"])
        if r["flags"] & LAST:
            assert book is not None
            assert {level: lots for level, lots in book.items() if lots} == levels_of(r)
            compared += 1
    assert compared > 150


def test_joined_rows_depend_neither_on_rows_max_nor_on_blocks_nor_on_the_kernels_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    messages = at_random(np.random.default_rng(seed), 300)
    whole = feed_with(tmp_path, *messages)
    expected = rows_of(whole).tobytes()
    for block, room, rows_max in ((700, 64, 1), (5_000, 41, 7)):
        monkeypatch.setattr(dbn_files, "BLOCK_BYTES", block)
        monkeypatch.setattr(dbn_mbp, "ROWS_AT_ONCE", room)
        feed = feed_with(tmp_path, *messages)
        chunks = list(feed.chunks(rows_max))
        assert b"".join(c.tobytes() for c in chunks) == expected
        assert (feed.counters, feed.first_offenders) == (whole.counters, whole.first_offenders)
        assert all(c["flags"][-1] & EVENT_END for c in chunks[:-1])
