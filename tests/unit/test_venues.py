"""What each venue's messages become, where a recorded capture does not show it: bad ids, unfinished bars, inverse contracts, lost books."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.domain import reasons
from handlers.ingest.errors import NotAFeedError
from handlers.ingest.feed import Feed
from handlers.ingest.formats import open_feed
from handlers.ingest.venues.protocol import trade_id
from transport.records import (
    BAR, BOOK_DELTA, BOOK_SNAPSHOT, BUY, CONNECTING, CONNECTION, DISCONNECTED, EVENT_END, GAP, NO_INSTRUMENT, QUOTE, SELL, TRADE,
)  # fmt: skip

T0 = 1_700_000_000
ISO = "2023-11-14T22:13:20.000Z"


def capture(tmp_path: Path, bodies: Sequence[Any], name: str = "capture") -> Feed:
    """A feed of `bodies`, a nanosecond apart."""
    path = tmp_path / name
    path.write_text("".join(f"{T0 * 10**9 + n} {b if isinstance(b, str) else json.dumps(b)}\n" for n, b in enumerate(bodies)))
    return open_feed(str(path))


def rows_of(feed: Feed) -> np.ndarray[Any, Any]:
    return np.concatenate([*feed.chunks(1000)])


# --- BitMEX ---------------------------------------------------------------------------------------------------------------


def bitmex(action: str, *levels: dict[str, Any]) -> dict[str, Any]:
    return {"table": "orderBookL2", "action": action, "data": [{"symbol": "XBTUSD", **level} for level in levels]}


BITMEX_BOOK = bitmex(
    "partial", {"id": 1, "side": "Sell", "size": 10, "price": 101.5}, {"id": 2, "side": "Buy", "size": 20, "price": 1e2}
)


def test_bitmex_level_keeps_the_price_of_its_insertion(tmp_path: Path) -> None:
    feed = capture(tmp_path, [BITMEX_BOOK, bitmex("update", {"id": 1, "side": "Sell", "size": 7}), bitmex("delete", {"id": 2, "side": "Buy"})])
    rows = rows_of(feed)
    assert rows["kind"].tolist() == [BOOK_SNAPSHOT, BOOK_SNAPSHOT, BOOK_DELTA, BOOK_DELTA]
    prices = [str(feed.instruments[0].price(int(p))) for p in rows["price_ticks"]]
    assert prices == ["100.0", "101.5", "101.5", "100.0"]
    assert rows["qty_lots"].tolist() == [20, 10, 7, 0]


def test_bitmex_change_of_an_id_nobody_inserted_breaks_the_book(tmp_path: Path) -> None:
    bodies = [BITMEX_BOOK, bitmex("update", {"id": 9, "side": "Sell", "size": 7}), bitmex("update", {"id": 1, "side": "Sell", "size": 7}), BITMEX_BOOK]
    feed = capture(tmp_path, bodies)
    rows = rows_of(feed)
    assert rows["kind"].tolist() == [BOOK_SNAPSHOT] * 2 + [GAP] + [BOOK_SNAPSHOT] * 2
    assert rows["reason"][2] == reasons.BOOK_ID_UNKNOWN
    assert feed.counters == {reasons.BOOK_ID_UNKNOWN: 1, reasons.DEPTH_REFUSED: 1}


def test_bitmex_trades_of_one_message_are_one_event_and_the_partial_is_no_trade(tmp_path: Path) -> None:
    prints = [{"timestamp": ISO, "symbol": "XBTUSD", "side": side, "size": 100, "price": 100.5} for side in ("Buy", "Sell")]
    feed = capture(tmp_path, [{"table": "trade", "action": "partial", "data": prints}, {"table": "trade", "action": "insert", "data": prints}])
    rows = rows_of(feed)
    assert rows["kind"].tolist() == [TRADE, TRADE]
    assert rows["side"].tolist() == [BUY, SELL]
    assert rows["flags"].tolist() == [0, EVENT_END]
    assert rows["ts_event_ns"].tolist() == [T0 * 10**9] * 2
    assert feed.counters == {reasons.BEFORE_STREAM: 1}


def test_event_ends_at_the_last_good_trade_where_the_last_of_a_message_is_bad(tmp_path: Path) -> None:
    prints = [{"timestamp": ISO, "symbol": "XBTUSD", "side": "Buy", "size": size, "price": 100.5} for size in (100, 0)]
    feed = capture(tmp_path, [{"table": "trade", "action": "insert", "data": prints}])
    rows = rows_of(feed)
    assert rows["flags"].tolist() == [EVENT_END]
    assert feed.counters == {reasons.NOT_POSITIVE: 1}


# --- Binance --------------------------------------------------------------------------------------------------------------


def test_coin_margined_contracts_are_inverse_and_count_in_contracts(tmp_path: Path) -> None:
    data = {"e": "trade", "E": T0 * 1000, "T": T0 * 1000, "s": "BTCUSD_PERP", "ps": "BTCUSD", "t": 7, "p": "35000.1", "q": "12", "X": "MARKET", "m": True}
    depth = {"e": "depthUpdate", "E": T0 * 1000, "T": T0 * 1000, "s": "BTCUSD_PERP", "ps": "BTCUSD", "U": 1, "u": 2, "pu": 0, "b": [["35000.1", "3"]], "a": []}
    feed = capture(tmp_path, [{"stream": "btcusd_perp@trade", "data": data}, {"stream": "btcusd_perp@depth", "data": depth}])
    instrument = feed.instruments[0]
    assert (instrument.name, instrument.inverse, instrument.multiplier, instrument.quote) == ("BTCUSD_PERP.binance_coinm", True, Decimal(100), "USD")
    rows = rows_of(feed)
    assert (rows["kind"].tolist(), rows["qty_lots"].tolist(), rows["side"].tolist()) == ([TRADE], [12], [SELL])
    assert feed.counters == {reasons.DEPTH_REFUSED: 1}  # held for a snapshot that never came


def test_bar_that_is_not_closed_is_none_yet(tmp_path: Path) -> None:
    def kline(closed: bool) -> dict[str, Any]:
        k = {"t": T0 * 1000, "T": T0 * 1000 + 59_999, "s": "BTCUSDT", "o": "10.0", "h": "11.0", "l": "9.5", "c": "10.5", "v": "3", "q": "30.5", "n": 4}
        return {"stream": "btcusdt@kline_1m", "data": {"e": "kline", "E": T0 * 1000 + 60_050, "s": "BTCUSDT", "k": k | {"x": closed}}}

    trade = {"e": "trade", "E": T0 * 1000, "T": T0 * 1000, "s": "BTCUSDT", "t": 7, "p": "10.5", "q": "1", "X": "MARKET", "m": True}
    feed = capture(tmp_path, [{"stream": "btcusdt@trade", "data": trade}, kline(False), kline(True)])
    bars = rows_of(feed)[1:]
    assert feed.counters == {reasons.UNFINISHED_BAR: 1}
    assert bars["kind"].tolist() == [BAR]
    bar = bars[0]
    assert [int(bar[f]) for f in ("open_ticks", "high_ticks", "low_ticks", "close_ticks", "volume_lots", "trades")] == [100, 110, 95, 105, 3, 4]
    assert (bar["notional_ticks_lots"], bar["interval_ns"], bar["ts_open_ns"]) == (305, 60 * 10**9, T0 * 10**9)
    assert bar["ts_event_ns"] == (T0 * 1000 + 60_050) * 10**6  # when it was known, not when it began


# --- connections and books without sequence numbers -------------------------------------------------------------------------


def coinbase_book(symbol: str) -> dict[str, Any]:
    return {"type": "snapshot", "product_id": symbol, "bids": [["10.1", "2"]], "asks": [["10.2", "3"]]}


def coinbase_change(symbol: str, qty: str = "5") -> dict[str, Any]:
    return {"type": "l2update", "product_id": symbol, "changes": [["buy", "10.1", qty]], "time": ISO}


def test_line_that_cannot_be_read_ends_every_book_that_no_sequence_would_show_it_missing_from(tmp_path: Path) -> None:
    bodies = [coinbase_book("A-USD"), coinbase_book("B-USD"), '{"type":"l2upd', coinbase_change("A-USD"), coinbase_book("B-USD"), coinbase_change("B-USD")]
    feed = capture(tmp_path, bodies)
    rows = rows_of(feed)
    gaps = rows[rows["kind"] == GAP]
    assert gaps["instrument_id"].tolist() == [0, 1]
    assert gaps["reason"].tolist() == [reasons.BROKEN_LINE] * 2
    assert rows["origin"].tolist() == [0, 0, 1, 1, 2, 2, 4, 4, 5]
    assert feed.counters == {reasons.BROKEN_LINE: 1, reasons.DEPTH_REFUSED: 1}


def test_messages_of_no_book_leave_the_books_alone(tmp_path: Path) -> None:
    bodies = [coinbase_book("A-USD"), {"type": "heartbeat"}, {"type": "ticker", "product_id": "A-USD"}, coinbase_change("A-USD")]
    feed = capture(tmp_path, bodies)
    assert GAP not in rows_of(feed)["kind"]
    assert feed.counters == {reasons.CONTROL_MESSAGE: 1, reasons.UNKNOWN_STREAM: 1}


def test_end_of_a_connection_is_a_record_and_ends_its_books(tmp_path: Path) -> None:
    lost = {"tickline": "connection", "action": DISCONNECTED, "connection": 3, "attempt": 2, "code": 1006}
    bodies = [coinbase_book("A-USD"), lost, coinbase_change("A-USD"), coinbase_book("A-USD"), coinbase_change("A-USD")]
    feed = capture(tmp_path, bodies)
    rows = rows_of(feed)
    assert rows["kind"].tolist() == [BOOK_SNAPSHOT] * 2 + [CONNECTION, GAP] + [BOOK_SNAPSHOT] * 2 + [BOOK_DELTA]
    told = rows[2]
    assert (told["action"], told["connection"], told["attempt"], told["code"], told["instrument_id"]) == (DISCONNECTED, 3, 2, 1006, NO_INSTRUMENT)
    assert rows["reason"][3] == reasons.CONNECTION_LOST
    assert feed.counters == {reasons.CONNECTION_LOST: 1, reasons.DEPTH_REFUSED: 1}


def test_books_of_a_recorder_that_was_killed_end_where_the_next_one_connects(tmp_path: Path) -> None:
    begins = {"tickline": "connection", "action": CONNECTING, "connection": 1, "attempt": 1}
    feed = capture(tmp_path, [coinbase_book("A-USD"), begins, coinbase_change("A-USD"), coinbase_book("A-USD")])
    rows = rows_of(feed)
    assert rows["kind"].tolist() == [BOOK_SNAPSHOT] * 2 + [CONNECTION, GAP] + [BOOK_SNAPSHOT] * 2
    assert feed.counters == {reasons.CONNECTION_LOST: 1, reasons.DEPTH_REFUSED: 1}


# --- Kraken, OKX ------------------------------------------------------------------------------------------------------------


def test_kraken_levels_beyond_the_published_depth_are_removed_in_the_same_event(tmp_path: Path) -> None:
    book = [1, {"as": [["10.2", "1.0", "1.0"], ["10.3", "1.0", "1.0"]], "bs": [["10.1", "1.0", "1.0"]]}, "book-2", "A/USD"]
    better = [1, {"a": [["10.15", "4.0", f"{T0}.5"]]}, "book-2", "A/USD"]
    more = [1, {"a": [["10.16", "4.0", f"{T0}.5"]]}, "book-2", "A/USD"]
    book[1] = json.loads(json.dumps(book[1]).replace('"1.0"]', f'"{T0}.25"]'))
    feed = capture(tmp_path, [book, better, more])
    rows = rows_of(feed)
    changes = rows[rows["kind"] == BOOK_DELTA]
    price = feed.instruments[0].price
    assert [(str(price(int(r["price_ticks"]))), int(r["qty_lots"]), int(r["flags"])) for r in changes] == [
        ("10.15", 4, 0), ("10.30", 0, EVENT_END), ("10.16", 4, 0), ("10.20", 0, EVENT_END),
    ]  # fmt: skip
    assert changes["origin"].tolist() == [1, 1, 2, 2]


def test_kraken_snapshot_beyond_the_published_depth_ends_there(tmp_path: Path) -> None:
    book = [1, {"as": [[f"10.{n}", "1.0", f"{T0}.25"] for n in (2, 3, 4)], "bs": [["10.1", "1.0", f"{T0}.25"]]}, "book-1", "A/USD"]
    feed = capture(tmp_path, [book])
    rows = rows_of(feed)
    price = feed.instruments[0].price
    assert [(str(price(int(r["price_ticks"]))), int(r["qty_lots"])) for r in rows[-2:]] == [("10.4", 0), ("10.3", 0)]
    assert [int(f) & EVENT_END for f in rows["flags"]] == [0, 0, 0, 0, 0, EVENT_END]


def test_okx_trade_that_is_told_again_to_who_subscribes_anew_counts_once(tmp_path: Path) -> None:
    feed = capture(tmp_path, [okx_trade("7"), okx_trade("8"), okx_trade("8"), okx_trade("9"), okx_trade("8")])
    assert rows_of(feed)["venue_seq"].tolist() == [7, 8, 9, 8]
    assert feed.counters == {reasons.BEFORE_STREAM: 1}


def test_okx_sequence_is_followed_where_messages_bear_one(tmp_path: Path) -> None:
    numbers = [("snapshot", 5, -1), ("update", 8, 5), ("update", 12, 9), ("update", 13, 12)]
    feed = capture(tmp_path, [okx_book(action, seqId=seq, prevSeqId=previous) for action, seq, previous in numbers])
    rows = rows_of(feed)
    gaps = rows[rows["kind"] == GAP]
    assert gaps[["expected_seq", "got_seq", "reason"]].tolist() == [(8, 9, reasons.SEQUENCE_GAP)]
    assert feed.counters == {reasons.SEQUENCE_GAP: 1, reasons.DEPTH_REFUSED: 1}


def test_okx_book_with_numbers_breaks_by_a_message_without_one(tmp_path: Path) -> None:
    feed = capture(tmp_path, [okx_book("snapshot", seqId=5, prevSeqId=-1), okx_book("update"), okx_book("update", seqId=9, prevSeqId=8)])
    rows = rows_of(feed)
    assert rows[rows["kind"] == GAP][["expected_seq", "got_seq", "reason"]].tolist() == [(5, -1, reasons.SEQUENCE_GAP)]
    assert BOOK_DELTA not in rows["kind"]


def test_okx_side_without_orders_is_a_quote_of_nothing(tmp_path: Path) -> None:
    ticker = {"bidPx": "10.1", "bidSz": "2", "askPx": "", "askSz": "", "ts": str(T0 * 1000)}
    feed = capture(tmp_path, [{"arg": {"channel": "tickers", "instId": "A-USD"}, "data": [ticker]}])
    quote = rows_of(feed)[0]
    assert (quote["kind"], quote["qty_lots"], quote["ask_ticks"], quote["ask_lots"]) == (QUOTE, 2, 0, 0)


def okx_book(action: str, **more: Any) -> dict[str, Any]:
    entry = {"asks": [["10.2", "1", "0", "1"]], "bids": [["10.1", "1", "0", "1"]], "ts": str(T0 * 1000), **more}
    return {"arg": {"channel": "books", "instId": "A-USD"}, "action": action, "data": [entry]}


KRAKEN_BOOK = [1, {"as": [["10.2", "1.0", f"{T0}.5"]], "bs": [["10.1", "1.0", f"{T0}.5"]]}, "book-10", "A/USD"]


def kraken_change(price: str = "10.2", channel: str = "book-10", **more: str) -> list[Any]:
    return [1, {"a": [[price, "2.0", f"{T0}.5"]], **more}, channel, "A/USD"]


@pytest.mark.parametrize(("book", "change"), [
    (BITMEX_BOOK, bitmex("update", {"id": 1, "side": "Sell", "size": 7})),  # a size that was missed shows nowhere
    (KRAKEN_BOOK, kraken_change()),  # nor does a level below the ten that are signed
    (okx_book("snapshot"), okx_book("update")),  # or the 25, where messages have no numbers
])  # fmt: skip
def test_book_whose_checks_do_not_cover_it_all_ends_with_a_line_that_cannot_be_read(tmp_path: Path, book: Any, change: Any) -> None:
    feed = capture(tmp_path, [book, json.dumps(change)[:-9], change, book])
    rows = rows_of(feed)
    assert rows["kind"].tolist() == [BOOK_SNAPSHOT] * 2 + [GAP] + [BOOK_SNAPSHOT] * 2
    assert feed.counters == {reasons.BROKEN_LINE: 1, reasons.DEPTH_REFUSED: 1}


def test_okx_book_with_numbers_outlives_a_line_that_was_of_no_book(tmp_path: Path) -> None:
    bodies = [okx_book("snapshot", seqId=5, prevSeqId=-1), '{"arg":', okx_book("update", seqId=8, prevSeqId=5), '{"arg":', okx_book("update", seqId=9, prevSeqId=7)]
    feed = capture(tmp_path, bodies)
    rows = rows_of(feed)
    assert rows["kind"].tolist() == [BOOK_SNAPSHOT] * 2 + [BOOK_DELTA] * 2 + [GAP]
    assert feed.counters == {reasons.BROKEN_LINE: 2, reasons.SEQUENCE_GAP: 1}


def test_kraken_book_without_a_level_tells_no_decimals(tmp_path: Path) -> None:
    signed = kraken_change(c=str(zlib.crc32(b"10220" b"10110")))  # digits of ask, bid: price, quantity
    feed = capture(tmp_path, [KRAKEN_BOOK, signed, [1, {"as": [], "bs": []}, "book-10", "A/USD"]])
    assert GAP not in rows_of(feed)["kind"]
    assert feed.counters == {}


def test_coinbase_update_without_changes_is_no_update_of_nothing(tmp_path: Path) -> None:
    feed = capture(tmp_path, [coinbase_book("A-USD"), {"type": "l2update", "product_id": "A-USD", "time": ISO}])
    assert rows_of(feed)["kind"].tolist() == [BOOK_SNAPSHOT] * 2 + [GAP]
    assert feed.counters == {reasons.MISSING_FIELD: 1}


# --- numbers that no venue sends ----------------------------------------------------------------------------------------------


def okx_trade(trade_id: str) -> dict[str, Any]:
    print_ = {"px": "10.1", "sz": "1", "side": "buy", "ts": str(T0 * 1000), "tradeId": trade_id}
    return {"arg": {"channel": "trades", "instId": "A-USD"}, "data": [print_]}


def bybit_book(size: str) -> str:
    level = {"price": "100.5", "side": "Buy", "size": "@"}
    body = {"topic": "orderBookL2_25.LTCUSDT", "type": "snapshot", "data": {"order_book": [level]}, "cross_seq": "1", "timestamp_e6": str(T0 * 10**6)}
    return json.dumps(body).replace('"@"', size)


@pytest.mark.parametrize(("good", "bad", "reason"), [
    (okx_trade("1"), okx_trade("1" * 5000), reasons.OUT_OF_INT64),  # more digits than Python makes a number of
    (okx_trade("1"), okx_trade("9223372036854775808"), reasons.OUT_OF_INT64),
    (bybit_book("1.5"), bybit_book("1.5e999999"), reasons.OUT_OF_INT64),
    (KRAKEN_BOOK, kraken_change(channel="book-\N{SUPERSCRIPT TWO}"), reasons.UNKNOWN_STREAM),
    (KRAKEN_BOOK, kraken_change("10.2" + "0" * 30, c="123"), reasons.WRONG_TYPE),
    (coinbase_book("A-USD"), coinbase_book("A-USD") | {"asks": 5}, reasons.NOT_A_NUMBER),
    (coinbase_book("A-USD"), coinbase_book("A-USD") | {"asks": None}, reasons.NOT_A_NUMBER),
    (coinbase_book("A-USD"), coinbase_book("A-USD") | {"asks": [["1e+-5", "2"]]}, reasons.NOT_A_NUMBER),
    (coinbase_book("A-USD"), coinbase_book("A-USD") | {"asks": [["1e\N{SUPERSCRIPT TWO}", "2"]]}, reasons.NOT_A_NUMBER),
])  # fmt: skip
def test_number_that_no_venue_sends_is_counted_and_never_raises(tmp_path: Path, good: Any, bad: Any, reason: int) -> None:
    feed = capture(tmp_path, [good, bad])
    assert len(rows_of(feed)) > 0
    assert feed.counters[reason] == 1


def test_trade_id_may_have_zeros_before_it() -> None:
    assert (trade_id("0" * 30 + "123"), trade_id("0"), trade_id(7)) == (123, 0, 7)


# --- opening ----------------------------------------------------------------------------------------------------------------


def test_capture_of_a_venue_nobody_knows_and_of_two_venues_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(NotAFeedError, match="a venue the engine does not read"):
        capture(tmp_path, [{"exchange": "moon", "px": 1}])
    capture(tmp_path, [coinbase_book("A-USD")], "one")
    capture(tmp_path, [BITMEX_BOOK], "two")
    with pytest.raises(NotAFeedError, match="different venues"):
        open_feed(f"{tmp_path / 'one'},{tmp_path / 'two'}")


CRYPTOFEED = b'1628812800.5: {"type":"subscriptions"}\n'


def test_a_capture_written_in_two_ways_is_refused_in_words_whichever_file_comes_first(tmp_path: Path) -> None:
    capture(tmp_path, [coinbase_book("A-USD")], "one")
    (tmp_path / "two").write_bytes(CRYPTOFEED + b'1628812801.5: {"type":"ticker","product_id":"A-USD"}\n')
    for names in (("one", "two"), ("two", "one")):
        with pytest.raises(NotAFeedError, match=r"written in different ways: .*one line 1 \(<receive ns> <JSON>\)|two line 1 \(cryptofeed's"):
            open_feed(",".join(str(tmp_path / name) for name in names))
    both = tmp_path / "both"
    both.write_bytes((tmp_path / "one").read_bytes() + CRYPTOFEED)
    with pytest.raises(NotAFeedError, match=r"both line 1 \(<receive ns> <JSON>\), both line 2 \(cryptofeed's"):
        open_feed(str(both))


def test_a_capture_of_two_venues_in_one_file_is_refused_with_their_lines(tmp_path: Path) -> None:
    with pytest.raises(NotAFeedError, match=r"different venues: one line 1 \(coinbase\), one line 2 \(bitmex\); part them"):
        capture(tmp_path, [coinbase_book("A-USD"), BITMEX_BOOK], "one")


def test_lines_of_another_venue_or_way_behind_the_head_are_counted_and_make_no_records(tmp_path: Path) -> None:
    """As where two recorders were set to one file later on: what is not the capture's is told, and never taken for it."""
    capture(tmp_path, [coinbase_book("A-USD")] * 300, "one")
    alone = rows_of(open_feed(str(tmp_path / "one")))
    content = (tmp_path / "one").read_bytes()
    capture(tmp_path, [BITMEX_BOOK], "two")
    other = (tmp_path / "two").read_bytes()
    (tmp_path / "one").write_bytes(content + other + CRYPTOFEED)
    feed = open_feed(str(tmp_path / "one"))
    books = rows_of(feed)
    assert books[books["kind"] != GAP]["price_ticks"].tolist() == alone["price_ticks"].tolist()
    assert {reasons.NAME[reason]: n for reason, n in feed.counters.items()} == {"MISSING_FIELD": 1, "BROKEN_LINE": 1}


def test_messages_of_one_venue_with_and_without_their_envelope_are_one_capture(tmp_path: Path) -> None:
    body = {"e": "trade", "E": 1, "T": 1_723_161_256_000, "s": "BTCUSDT", "t": 7, "p": "100.1", "q": "0.5", "X": "MARKET", "m": False}
    capture(tmp_path, [body, {"stream": "btcusdt@trade", "data": body | {"t": 8}}, body | {"t": 9}], "one")
    rows = rows_of(open_feed(str(tmp_path / "one")))
    assert rows["venue_seq"].tolist() == [7, 8, 9]
