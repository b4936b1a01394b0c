"""The Binance feed on small captures written for each case."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.domain import reasons
from handlers.ingest.venues import capture as module
from handlers.ingest.formats import open_feed
from handlers.ingest.venues.depth import NO_PREVIOUS, DepthRule
from handlers.ingest.venues.protocol import APPLY, BREAK, HOLD, REPEATED, STALE
from transport.records import (
    ASK,
    BID,
    BOOK_DELTA,
    BOOK_SNAPSHOT,
    BUY,
    EVENT_END,
    EVENT_FIRST,
    GAP,
    QUOTE,
    SELL,
    TRADE,
)

from tests.unit.capture_lines import (
    BTC,
    SPOT_BTC,
    T0_MS,
    T0_NS,
    depth,
    feed_of,
    line,
    quote,
    rows_of,
    snapshot,
    spot_depth,
    trade,
)


# --- each kind ------------------------------------------------------------------------------------------------------------


def test_trade_becomes_one_record_whose_side_is_the_aggressors(tmp_path: Path) -> None:
    feed = feed_of(tmp_path, [trade(1, 7, "61800.30", "0.006", m=True), trade(2, 8, m=False)])
    feed.bind({"BTCUSDT.binance_usdm": 5}, 17)
    sold, bought = rows_of(feed)
    assert (sold["kind"], sold["side"], sold["price_ticks"], sold["qty_lots"]) == (TRADE, SELL, 618_003, 6)
    assert (sold["venue_seq"], sold["origin"], sold["flags"]) == (7, 0, EVENT_END)
    assert (sold["ts_recv_ns"], sold["ts_event_ns"]) == (T0_NS + 1, (T0_MS + 1) * 10**6)
    assert (sold["instrument_id"], sold["source_id"], sold["seq"], sold["ts_seq_ns"]) == (5, 17, 0, 0)
    assert (bought["side"], bought["origin"]) == (BUY, 1)


def test_quote_becomes_one_record_and_spot_quotes_have_no_event_time(tmp_path: Path) -> None:
    (row,) = rows_of(feed_of(tmp_path, [quote(1, 9)]))
    assert (row["kind"], row["venue_seq"], row["ts_event_ns"]) == (QUOTE, 9, (T0_MS + 1) * 10**6)
    assert [row[n] for n in ("price_ticks", "qty_lots", "ask_ticks", "ask_lots")] == [1000, 1000, 1001, 2500]
    data = {"u": 1, "s": "BTCUSDT", "b": "100.01", "B": "1.00000000", "a": "100.02", "A": "2"}
    spot = feed_of(tmp_path, [line(0, {"stream": "btcusdt@bookTicker", "data": data})], [SPOT_BTC])
    (row,) = rows_of(spot)
    assert (row["ts_event_ns"], row["price_ticks"], row["qty_lots"]) == (0, 10_001, 100_000)


def test_depth_becomes_bids_then_asks_with_the_end_on_the_last(tmp_path: Path) -> None:
    bids, asks = [["100.0", "1"], ["99.5", "0.000"]], [["100.3", "0.25"]]
    rows = rows_of(feed_of(tmp_path, [snapshot(0, 10), depth(1, 9, 12, 8, bids, asks)]))
    assert rows["kind"].tolist() == [BOOK_SNAPSHOT] * 2 + [BOOK_DELTA] * 3
    assert rows["flags"].tolist() == [EVENT_FIRST, EVENT_END, 0, 0, EVENT_END]
    assert rows["side"].tolist() == [BID, ASK, BID, BID, ASK]
    assert rows["price_ticks"].tolist() == [999, 1002, 1000, 995, 1003]
    assert rows["qty_lots"].tolist() == [3000, 4000, 1000, 0, 250]
    assert rows["venue_seq"].tolist() == [10, 10, 12, 12, 12]
    assert (rows["first_seq"][2], rows["prev_seq"][2]) == (9, 8)


def test_depth_without_levels_keeps_its_place_by_removing_what_no_book_holds(tmp_path: Path) -> None:
    rows = rows_of(feed_of(tmp_path, [snapshot(0, 10), depth(1, 9, 12, 8, [], [])]))
    last = rows[-1]
    assert [last[n] for n in ("kind", "side", "price_ticks", "qty_lots", "venue_seq", "flags")] == [
        BOOK_DELTA,
        BID,
        0,
        0,
        12,
        EVENT_END,
    ]


# --- the venue's rule -----------------------------------------------------------------------------------------------------


def test_depth_before_the_snapshot_is_held_and_released_behind_it_with_its_own_time(tmp_path: Path) -> None:
    lines = [
        depth(1, 1, 5, 0),
        depth(2, 6, 12, 5),
        trade(3, 1),
        depth(4, 13, 15, 12),
        snapshot(5, 10),
        depth(6, 16, 20, 15),
    ]
    feed = feed_of(tmp_path, lines)
    rows = rows_of(feed)
    assert rows["origin"].tolist() == [2, 4, 4, 1, 3, 5]
    assert (rows["ts_recv_ns"] - T0_NS).tolist() == [3, 5, 5, 2, 4, 6]
    assert feed.counters == {reasons.DEPTH_STALE: 1}
    assert feed.first_offenders == {reasons.DEPTH_STALE: "line 1"}
    assert (feed.lines, feed.messages) == (6, 6)


def test_depth_that_comes_twice_is_counted_and_applied_once(tmp_path: Path) -> None:
    feed = feed_of(tmp_path, [snapshot(0, 10), depth(1, 9, 12, 8), depth(2, 9, 12, 8), depth(3, 13, 15, 12)])
    assert [n for n in rows_of(feed)["origin"].tolist() if n] == [1, 3]
    assert feed.counters == {reasons.DEPTH_REPEATED: 1}


def test_break_of_the_sequence_emits_one_gap_and_refuses_depth_until_a_snapshot(tmp_path: Path) -> None:
    lines = [
        snapshot(0, 10),
        depth(1, 9, 12, 8),
        depth(2, 20, 25, 19),
        depth(3, 26, 30, 25),
        trade(4, 1),
        depth(5, 31, 35, 30),
    ]
    feed = feed_of(tmp_path, lines)
    rows = rows_of(feed)
    assert rows["kind"].tolist() == [BOOK_SNAPSHOT, BOOK_SNAPSHOT, BOOK_DELTA, GAP, TRADE]
    gap = rows[3]
    assert [gap[n] for n in ("expected_seq", "got_seq", "lost", "venue_seq", "origin")] == [12, 19, -1, 25, 2]
    assert gap["flags"] == EVENT_END
    assert feed.counters == {reasons.SEQUENCE_GAP: 1, reasons.DEPTH_REFUSED: 3}
    resumed = feed_of(tmp_path, [*lines, snapshot(6, 33), depth(7, 36, 40, 35)])
    rows = rows_of(resumed)
    assert rows["origin"].tolist() == [0, 0, 1, 2, 4, 6, 6, 5, 7]
    assert resumed.counters == {reasons.SEQUENCE_GAP: 1, reasons.DEPTH_STALE: 2}


def test_recorded_capture_without_one_depth_line_has_one_gap_and_refuses_the_rest(
    tmp_path: Path, data_dir: Path
) -> None:
    with gzip.open(data_dir / "binance_ws_capture" / "usdm" / "btcusdt_20240808.gz", "rt") as file:
        lines = [text.rstrip("\n") for _, text in zip(range(20_000), file, strict=False)]
    at = [i for i, text in enumerate(lines) if "@depth" in text[:60]]
    feed = feed_of(tmp_path, lines[: at[500]] + lines[at[500] + 1 :], [])
    rows = rows_of(feed)
    assert np.count_nonzero(rows["kind"] == GAP) == 1
    assert feed.counters == {
        reasons.DEPTH_STALE: 4,
        reasons.SEQUENCE_GAP: 1,
        reasons.DEPTH_REFUSED: len(at) - 501,
    }
    book = rows[(rows["kind"] == BOOK_DELTA) | (rows["kind"] == GAP)]
    assert book["kind"][-1] == GAP


def test_depth_that_no_snapshot_comes_for_is_bounded_counted_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HELD_MESSAGES_MAX", 3)
    lines = [depth(i, 10 * i, 10 * i + 9, 10 * i - 1) for i in range(1, 8)]
    feed = feed_of(tmp_path, lines)
    rows = rows_of(feed)
    assert rows["kind"].tolist() == [GAP]
    assert rows["origin"].tolist() == [3]
    assert feed.counters == {
        reasons.HELD_OVERFLOW: 1,
        reasons.SEQUENCE_GAP: 1,
        reasons.DEPTH_REFUSED: 6,
    }


def test_snapshot_older_than_the_book_is_dropped_and_a_newer_one_replaces_it(tmp_path: Path) -> None:
    lines = [
        snapshot(0, 10),
        depth(1, 9, 12, 8),
        snapshot(2, 11),
        depth(3, 13, 15, 12),
        snapshot(4, 15),
        depth(5, 16, 18, 15),
    ]
    feed = feed_of(tmp_path, lines)
    assert rows_of(feed)["origin"].tolist() == [0, 0, 1, 3, 4, 4, 5]
    assert feed.counters == {reasons.SNAPSHOT_STALE: 1}


def test_spot_rule_wants_the_next_id_and_drops_up_to_the_snapshots(tmp_path: Path) -> None:
    lines = [spot_depth(0, 1, 10), snapshot(1, 10), spot_depth(2, 8, 12), spot_depth(3, 13, 14), spot_depth(4, 16, 17)]
    feed = feed_of(tmp_path, lines, [SPOT_BTC])
    rows = rows_of(feed)
    assert rows["kind"].tolist() == [BOOK_SNAPSHOT, BOOK_SNAPSHOT, BOOK_DELTA, BOOK_DELTA, GAP]
    assert rows["prev_seq"][2:4].tolist() == [7, 12]
    assert (rows["expected_seq"][4], rows["got_seq"][4]) == (15, 16)
    assert feed.counters[reasons.DEPTH_STALE] == 1


def test_depth_rule_follows_waits_drops_repeats_and_breaks() -> None:
    rule = DepthRule(futures=True)
    assert rule.follow(1, 5, 0) == HOLD
    assert rule.take_snapshot(10)
    assert rule.follow(6, 9, 5) == STALE
    assert rule.follow(9, 12, 8) == APPLY
    assert rule.follow(9, 12, 8) == REPEATED
    assert rule.follow(13, 15, 12) == APPLY
    assert not rule.take_snapshot(14)
    assert rule.follow(17, 18, 16) == BREAK
    assert rule.expected == 15
    assert rule.follow(19, 20, 18) == HOLD
    spot = DepthRule(futures=False)
    assert spot.take_snapshot(10)
    assert spot.follow(12, 13, NO_PREVIOUS) == BREAK


# --- bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("no time at all", reasons.BROKEN_LINE),
        (line(5, '{"stream":"btcusdt@trade","data":{"e":"tra'), reasons.BROKEN_LINE),
        (line(5, "[1,2]"), reasons.WRONG_TYPE),
        (line(5, {"stream": "btcusdt@markPrice", "data": {}}), reasons.UNKNOWN_STREAM),
        (line(5, {"result": None, "id": 1}), reasons.CONTROL_MESSAGE),
        (trade(5, 2, s="ETHUSDT"), reasons.UNKNOWN_SYMBOL),
        (line(5, {"stream": "btcusdt@trade", "data": {"s": "BTCUSDT", "t": 2}}), reasons.MISSING_FIELD),
        (trade(5, 2, m="no"), reasons.WRONG_TYPE),
        (trade(5, 2**63), reasons.OUT_OF_INT64),
        (trade(5, -1), reasons.OUT_OF_INT64),
        (trade(5, 2, T=1), reasons.TIME_OUT_OF_RANGE),
        (trade(5, 2, T=4_102_444_800_000), reasons.TIME_OUT_OF_RANGE),
        ("12345 {}", reasons.TIME_OUT_OF_RANGE),
        pytest.param("9" * 5000 + " {}", reasons.TIME_OUT_OF_RANGE, id="more digits than Python makes an int of"),
        (f"{T0_NS + 2 * 10**18} {{}}", reasons.TIME_JUMP),
        (trade(5, 2, "100.15"), reasons.PRICE_OFF_GRID),
        (trade(5, 2, "100.1", "0.0005"), reasons.QTY_OFF_GRID),
        (trade(5, 2, "1e2"), reasons.NOT_A_NUMBER),
        (trade(5, 2, ""), reasons.NOT_A_NUMBER),
        (trade(5, 2, "-100.1"), reasons.NOT_POSITIVE),
        (trade(5, 2, "0.0"), reasons.NOT_POSITIVE),
        (trade(5, 2, "100.1", "0"), reasons.NOT_POSITIVE),
        (trade(5, 2, "99999999999999999999.1"), reasons.OUT_OF_INT64),
        (quote(5, 2, b="abc"), reasons.NOT_A_NUMBER),
        (quote(5, 2, a="100.15"), reasons.PRICE_OFF_GRID),
    ],
)
def test_bad_line_is_counted_with_its_reason_and_number_and_its_neighbours_pass(
    tmp_path: Path, bad: str, reason: int
) -> None:
    feed = feed_of(tmp_path, [trade(1, 1), bad, trade(6, 3)])
    rows = rows_of(feed)
    assert rows["venue_seq"].tolist() == [1, 3]
    assert rows["origin"].tolist() == [0, 2]
    assert feed.counters == {reason: 1}
    assert feed.first_offenders[reason].startswith("line 2: ")
    assert (feed.lines, feed.messages) == (3, 2)


@pytest.mark.parametrize(
    ("bids", "reason"),
    [
        ([["100.0", "1"], ["100.05", "1"]], reasons.PRICE_OFF_GRID),
        ([["100.0"]], reasons.NOT_A_NUMBER),
        ([["100.0", ["1"]]], reasons.NOT_A_NUMBER),
        (["100.0", "1"], reasons.NOT_A_NUMBER),
        ("100.0", reasons.NOT_A_NUMBER),
        ([["0", "1"]], reasons.NOT_POSITIVE),
    ],
)
def test_bad_level_refuses_the_whole_depth_message_and_is_a_gap(tmp_path: Path, bids: Any, reason: int) -> None:
    lines = [snapshot(0, 10), depth(1, 9, 12, 8), depth(2, 13, 14, 12, bids), quote(3, 9), depth(4, 15, 16, 14)]
    feed = feed_of(tmp_path, lines)
    rows = rows_of(feed)
    assert rows["kind"].tolist() == [BOOK_SNAPSHOT, BOOK_SNAPSHOT, BOOK_DELTA, GAP, QUOTE]
    assert (rows["expected_seq"][3], rows["got_seq"][3], rows["origin"][3]) == (12, 12, 2)
    assert feed.counters == {reason: 1, reasons.SEQUENCE_GAP: 1, reasons.DEPTH_REFUSED: 1}


def test_futures_depth_in_a_spot_capture_is_refused_not_mixed_in(tmp_path: Path) -> None:
    feed = feed_of(tmp_path, [spot_depth(0, 1, 2), depth(1, 3, 4, 2)], [SPOT_BTC])
    rows_of(feed)
    assert feed.counters[reasons.UNKNOWN_STREAM] == 1


def test_truncated_gzip_yields_what_was_readable_and_is_counted(tmp_path: Path) -> None:
    rng = random.Random(7)
    lines = [trade(i, i, qty=f"{rng.randrange(1, 10**6) / 1000:.3f}") for i in range(20_000)]
    whole = gzip.compress("".join(text + "\n" for text in lines).encode())
    path = tmp_path / "cut.gz"
    path.write_bytes(whole[: len(whole) // 2])
    feed = open_feed(str(path), [BTC])
    ids = rows_of(feed)["venue_seq"]
    assert 5_000 < len(ids) < 15_000
    assert np.array_equal(ids, np.arange(len(ids)))
    assert feed.counters == {reasons.TRUNCATED: 1}
    assert "cut.gz is cut off" in feed.first_offenders[reasons.TRUNCATED]
    assert len(feed.receive_times()) == len(ids)


def test_damaged_gzip_is_counted_as_unreadable(tmp_path: Path) -> None:
    rng = random.Random(8)
    text = "".join(trade(i, rng.randrange(10**9)) + "\n" for i in range(20_000)).encode()
    whole = bytearray(gzip.compress(text))
    whole[len(whole) * 3 // 4 : len(whole) * 3 // 4 + 64] = bytes(64)
    path = tmp_path / "bad.gz"
    path.write_bytes(whole)
    feed = open_feed(str(path), [BTC])
    rows = rows_of(feed)
    assert len(rows) > 5_000
    assert feed.counters[reasons.UNREADABLE] == 1


def test_last_line_without_an_end_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "plain"
    path.write_text(trade(1, 1) + "\n" + trade(2, 2))
    assert rows_of(open_feed(str(path), [BTC]))["venue_seq"].tolist() == [1, 2]
