"""Lean's zips: what they are told by, what each line becomes, what is refused and why, and that no text crashes the decoder."""

from __future__ import annotations

import io
import zipfile
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.domain.reasons import (
    CROSSED_QUOTE, DOC, LOCKED_QUOTE, MISSING_FIELD, NOT_A_NUMBER, NOT_POSITIVE, OUT_OF_INT64, PRICE_OFF_GRID, QTY_OFF_GRID, TIME_JUMP,
    TIME_OUT_OF_RANGE, UNKNOWN_RECORD, UNKNOWN_SYMBOL, UNREADABLE, WRONG_TYPE,
)  # fmt: skip
from handlers.ingest.errors import FeedError, NotAFeedError
from handlers.ingest.jumps import NO_TIME
from handlers.ingest.lean import files as lean_files
from handlers.ingest.formats import open_feed
from handlers.ingest.lean.feed import LeanFeed
from handlers.ingest.lean.rows import DROP, DROP_LOCKED, KEEP, LETTER_AT, SUSPICIOUS
from transport.instruments import Instrument
from transport.records import ASK, BAR, BID, EVENT_END, NO_SIDE, QUOTE, REC, TRADE

NEW_YORK = ZoneInfo("America/New_York")
CONDITION = ord("P") << LETTER_AT | 0x20002020
TRADE_LINE = b"34200000,1815200,283,P,20002020,0"


def zipped(folder: Path, name: str, text: bytes | list[bytes], csv: str = "") -> Path:
    """A zip called `name` of one CSV, called `csv` or as Lean calls it in a zip of that name."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = text if isinstance(text, bytes) else b"".join(line + b"\n" for line in text)
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(csv or name, lines)
    return folder / name


def trades(folder: Path, lines: bytes | list[bytes], day: str = "20131007", symbol: str = "ibm") -> Path:
    return zipped(folder, f"{day}_trade.zip", lines, f"{day}_{symbol}_Trade_Tick.csv")


def quotes(folder: Path, lines: bytes | list[bytes], day: str = "20131007") -> Path:
    return zipped(folder, f"{day}_quote.zip", lines, f"{day}_ibm_Quote_Tick.csv")


def forex(folder: Path, lines: list[bytes]) -> Path:
    return zipped(folder, "20140512_quote.zip", lines, "20140512_eurusd_tick_quote.csv")


def daily(folder: Path, lines: list[bytes], name: str = "ibm") -> Path:
    return zipped(folder, f"{name}.zip", lines, f"{name}.csv")


def opened(*paths: Path, instruments: tuple[Instrument, ...] = (), crossed: str = KEEP) -> LeanFeed:
    feed = open_feed(",".join(map(str, paths)), instruments, crossed_quotes=crossed)
    assert isinstance(feed, LeanFeed)
    return feed


def rows_of(feed: LeanFeed, rows_max: int = 1 << 20) -> np.ndarray:
    return np.concatenate([np.empty(0, np.uint8), *(c.view(np.uint8) for c in feed.chunks(rows_max))]).view(REC)


def local(*when: int, zone: ZoneInfo = NEW_YORK) -> int:
    return int(datetime(*when, tzinfo=zone).timestamp()) * 10**9  # type: ignore[arg-type, misc]


# --- what each line becomes -----------------------------------------------------------------------------------------------
def test_a_trade_has_price_size_and_its_conditions_as_they_stand(tmp_path: Path) -> None:
    feed = opened(trades(tmp_path, [b"14400009.367,1374505,100,D,80000001,1"]))
    (row,) = rows_of(feed)
    assert (row["kind"], row["flags"], row["side"], row["price_ticks"], row["qty_lots"]) == (TRADE, EVENT_END, NO_SIDE, 1374505, 100)
    assert row["conditions"] == 0x80000001 | SUSPICIOUS | ord("D") << LETTER_AT
    assert row["ts_event_ns"] == row["ts_recv_ns"] == local(2013, 10, 7, 4) + 9_367_000
    assert feed.instruments == (Instrument("IBM", "usa", Decimal("0.0001"), Decimal(1), "USD"),)


def test_quotes_hold_the_newest_of_both_sides_and_a_pair_of_one_millisecond_is_one_event(tmp_path: Path) -> None:
    lines = [
        b"1,100,5,0,0,Q,1,0", b"1,0,0,105,6,P,1,0", b"2,104,7,0,0,Q,1,0", b"3,0,0,106,8,P,1,0", b"4,0,0,107,9,P,1,0", b"4,101,1,0,0,P,1,0",
    ]  # fmt: skip
    rows = rows_of(opened(quotes(tmp_path, lines)))
    found = [(int(r["price_ticks"]), int(r["qty_lots"]), int(r["ask_ticks"]), int(r["ask_lots"]), int(r["flags"])) for r in rows]
    assert set(rows["kind"].tolist()) == {QUOTE}
    assert found == [
        (100, 5, 0, 0, 0), (100, 5, 105, 6, EVENT_END), (104, 7, 105, 6, EVENT_END), (104, 7, 106, 8, EVENT_END),
        (104, 7, 107, 9, EVENT_END), (101, 1, 107, 9, EVENT_END),
    ]  # fmt: skip


def test_a_quote_that_is_refused_is_nobodys_best(tmp_path: Path) -> None:
    feed = opened(quotes(tmp_path, [b"1,100,5,0,0,Q,1,0", b"2,900,5,-1,5,Q,1,0", b"3,0,0,101,6,P,1,0"]))
    assert rows_of(feed)[["price_ticks", "ask_ticks"]].tolist() == [(100, 0), (100, 101)]
    assert feed.counters == {NOT_POSITIVE: 1}


def test_what_was_quoted_yesterday_is_not_the_best_of_today(tmp_path: Path) -> None:
    days = [quotes(tmp_path, [b"1,100,5,105,6,Q,1,0"]), quotes(tmp_path, [b"1,0,0,107,6,Q,1,0"], "20131008")]
    assert rows_of(opened(*days))["price_ticks"].tolist() == [100, 0]


def test_forex_quotes_are_decimals_at_five_hours_behind_utc_in_summer_too(tmp_path: Path) -> None:
    feed = opened(forex(tmp_path, [b"334,1.37632,1.37634", b"335,1.3763,1.37631"]))
    rows = rows_of(feed)
    assert rows["price_ticks"].tolist() == [137632, 137630]
    assert rows["qty_lots"].tolist() == rows["ask_lots"].tolist() == [1, 1]  # the file tells no size
    assert (rows["ts_event_ns"] - local(2014, 5, 12, 5, zone=ZoneInfo("UTC"))).tolist() == [334_000_000, 335_000_000]
    assert feed.instruments == (Instrument("EURUSD", "fxcm", Decimal("0.00001"), Decimal(1), "USD"),)
    assert opened(forex(tmp_path / "oanda" / "tick" / "eurusd", [b"334,1.37632,1.37634"])).instruments[0].venue == "oanda"


def test_a_minute_bar_bears_the_time_of_its_close(tmp_path: Path) -> None:
    path = zipped(tmp_path, "20131007_trade.zip", [b"34200000,10,12,9,11,77"], "20131007_ibm_minute_trade.csv")
    (row,) = rows_of(opened(path))
    assert [int(row[n]) for n in ("kind", "open_ticks", "high_ticks", "low_ticks", "close_ticks", "volume_lots")] == [BAR, 10, 12, 9, 11, 77]
    assert (row["ts_event_ns"], row["ts_open_ns"], row["interval_ns"]) == (local(2013, 10, 7, 9, 31), local(2013, 10, 7, 9, 30), 60 * 10**9)
    assert (row["side"], row["trades"], row["notional_ticks_lots"], row["session"]) == (NO_SIDE, 0, 0, 0)


def test_a_quote_bar_is_a_bid_and_an_ask_bar_of_one_event_and_an_empty_side_is_none(tmp_path: Path) -> None:
    lines = [b"0,10,12,9,11,7,13,15,12,14,8", b"1000,,,,,,13,15,12,14,8", b"2000,10,12,9,11,7,,,,,"]
    rows = rows_of(opened(zipped(tmp_path, "20131007_quote.zip", lines, "20131007_ibm_second_quote.csv")), 1)
    assert [(int(r["side"]), int(r["flags"]), int(r["close_ticks"]), int(r["volume_lots"])) for r in rows] == [
        (BID, 0, 11, 7), (ASK, EVENT_END, 14, 8), (ASK, EVENT_END, 14, 8), (BID, EVENT_END, 11, 7),
    ]  # fmt: skip


def test_hours_and_days_are_told_apart_by_their_times(tmp_path: Path) -> None:
    hours = rows_of(opened(daily(tmp_path, [b"20131007 09:00,10,12,9,11,77", b"20131007 10:00,10,12,9,11,77"])))
    assert hours["interval_ns"].tolist() == [3600 * 10**9] * 2
    assert hours["ts_event_ns"].tolist() == [local(2013, 10, 7, 10), local(2013, 10, 7, 11)]
    (day,) = rows_of(opened(daily(tmp_path, [b"20131007 00:00,10,12,9,11,77"])))
    assert (day["ts_event_ns"], day["interval_ns"]) == (local(2013, 10, 8), 24 * 3600 * 10**9)


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_one_hour_alone_is_an_hour(tmp_path: Path, end: bytes) -> None:
    path = zipped(tmp_path, "ibm.zip", b"20140501 09:00,1815200,1815300,1815000,1815200,100" + end, "ibm.csv")
    assert rows_of(opened(path))["interval_ns"].tolist() == [3600 * 10**9]


@pytest.mark.parametrize(("day", "hours"), [("20130310", 23), ("20131103", 25), ("20131007", 24)])
def test_local_time_follows_the_days_that_change_clocks(tmp_path: Path, day: str, hours: int) -> None:
    lines = [b"%d,10,1,P,1,0" % (minute * 60_000) for minute in range(0, 24 * 60, 5)]
    expected = []
    for minute in range(0, 24 * 60, 5):
        at = datetime(int(day[:4]), int(day[4:6]), int(day[6:]), minute // 60, minute % 60, tzinfo=NEW_YORK)
        expected.append(int(at.astimezone(UTC).timestamp()) * 10**9)
    assert rows_of(opened(trades(tmp_path, lines, day)))["ts_event_ns"].tolist() == expected
    (bar,) = rows_of(opened(daily(tmp_path, [day.encode() + b" 00:00,10,12,9,11,77"])))
    assert bar["interval_ns"] == hours * 3600 * 10**9


def test_streams_are_merged_by_time_bars_before_quotes_before_trades(tmp_path: Path) -> None:
    minute = zipped(tmp_path / "m", "20131007_trade.zip", [b"0,10,10,10,10,1", b"60000,20,20,20,20,1"], "20131007_ibm_minute_trade.csv")
    paths = (trades(tmp_path, [b"60000,7,1,P,1,0", b"60001,8,1,P,1,0"]), quotes(tmp_path, [b"60000,5,1,9,1,Q,1,0"]), minute)
    feed = opened(*paths)
    assert rows_of(feed)["kind"].tolist() == [BAR, QUOTE, TRADE, TRADE, BAR]
    assert rows_of(feed)["origin"].tolist() == [0, 1 << 32, 0, 1, 0]  # a bar has its session there
    assert feed.messages == feed.lines == 5


def test_days_named_in_any_order_and_symbols_follow_in_time(tmp_path: Path) -> None:
    paths = [trades(tmp_path, [b"5,20,1,P,1,0"], "20131008"), trades(tmp_path, [b"1,10,1,P,1,0", b"7,11,1,P,1,0"], "20131007")]
    other = trades(tmp_path / "aapl", [b"3,30,1,P,1,0"], "20131007", "aapl")
    feed = opened(*paths, other)
    feed.bind({"IBM.usa": 4, "AAPL.usa": 2}, 17)
    rows = rows_of(feed)
    assert rows["price_ticks"].tolist() == [10, 30, 11, 20]
    assert rows["instrument_id"].tolist() == [4, 2, 4, 4] and set(rows["source_id"].tolist()) == {17}


@pytest.mark.parametrize("block_bytes", [40, 100, 1 << 20])
def test_blocks_and_chunks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    lines = [b"%d,%d,5,0,0,Q,1,0\n%d,0,0,%d,6,P,1,0" % (k // 2, 100 + k, k // 2, 102 + k) for k in range(60)]
    paths = quotes(tmp_path, lines), trades(tmp_path, [b"%d,%d,1,P,1,0" % (k, 100 + k) for k in range(40)])
    whole = opened(*paths)
    expected = rows_of(whole).tobytes()
    monkeypatch.setattr(lean_files, "BLOCK_BYTES", block_bytes)
    for rows_max in (1, 3, 1000):
        feed = opened(*paths)
        chunks = list(feed.chunks(rows_max))
        assert b"".join(c.tobytes() for c in chunks) == expected
        assert all(c["flags"][-1] & EVENT_END for c in chunks)
        assert (feed.lines, feed.messages) == (whole.lines, whole.messages)


# --- what is refused ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1,10,1,P,1", MISSING_FIELD), (b",10,1,P,1,0", MISSING_FIELD), (b"1,,1,P,1,0", MISSING_FIELD), (b"1,10,1,P,1,0,9", UNKNOWN_RECORD),
        (b"1,1e3,1,P,1,0", NOT_A_NUMBER), (b"x,10,1,P,1,0", NOT_A_NUMBER), (b"1,10,-,P,1,0", NOT_A_NUMBER), (b"1,1.2.3,1,P,1,0", NOT_A_NUMBER),
        (b"1,99999999999999999999,1,P,1,0", OUT_OF_INT64), (b"1,9223372036854775,1,P,1,0", OUT_OF_INT64), (b"1,10,1,PQ,1,0", WRONG_TYPE),
        (b"1,10,1,P,xyz,0", WRONG_TYPE), (b"1,10,1,P,123456789,0", WRONG_TYPE), (b"-1,10,1,P,1,0", TIME_OUT_OF_RANGE),
        (b"86400000,10,1,P,1,0", TIME_OUT_OF_RANGE), (b"1,10.5,1,P,1,0", PRICE_OFF_GRID), (b"1,10.1234567,1,P,1,0", PRICE_OFF_GRID),
        (b"1,10,0.5,P,1,0", QTY_OFF_GRID), (b"1,10,1.1234567,P,1,0", QTY_OFF_GRID), (b"1,0,1,P,1,0", NOT_POSITIVE), (b"1,-5,1,P,1,0", NOT_POSITIVE),
        (b"1,10,0,P,1,0", NOT_POSITIVE), (b"1,10,-1,P,1,0", NOT_POSITIVE),
    ],
)  # fmt: skip
def test_a_bad_trade_is_counted_with_its_reason_and_its_neighbours_stay(tmp_path: Path, line: bytes, reason: int) -> None:
    feed = opened(trades(tmp_path, [TRADE_LINE, line, TRADE_LINE]))
    rows = rows_of(feed)
    assert (rows["price_ticks"].tolist(), rows["origin"].tolist()) == ([1815200] * 2, [0, 2])
    assert set(rows["conditions"].tolist()) == {CONDITION}
    assert feed.counters == {reason: 1}
    assert feed.first_offenders[reason] == f"20131007_trade.zip: line 2: {DOC[reason]}"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"20139999 00:00,10,12,9,11,77", TIME_OUT_OF_RANGE), (b"20131008 25:00,10,12,9,11,77", TIME_OUT_OF_RANGE),
        (b"19691231 00:00,10,12,9,11,77", TIME_OUT_OF_RANGE), (b"20131008T00:00,10,12,9,11,77", WRONG_TYPE),
        (b"20990101 00:00,10,12,9,11,77", TIME_JUMP), (b"20131008 00:00,,12,9,11,77", MISSING_FIELD),
        (b"20131008 00:00,0,12,0,11,77", NOT_POSITIVE), (b"20131008 00:00,10,12,9,11,-1", NOT_POSITIVE),
    ],
)  # fmt: skip
def test_a_bad_day_is_counted_with_its_reason_and_the_days_around_it_stay(tmp_path: Path, line: bytes, reason: int) -> None:
    feed = opened(daily(tmp_path, [b"20131004 00:00,10,12,9,11,77", line, b"20131009 00:00,10,12,9,11,77", b"20131014 00:00,10,12,9,11,77"]))
    assert [datetime.fromtimestamp(t / 1e9, NEW_YORK).day for t in rows_of(feed)["ts_open_ns"].tolist()] == [4, 9, 14]
    assert feed.counters == {reason: 1}


def test_a_last_day_decades_ahead_is_a_jump(tmp_path: Path) -> None:
    feed = opened(daily(tmp_path, [b"20131004 00:00,10,12,9,11,77", b"20131007 00:00,10,12,9,11,77", b"20990101 00:00,10,12,9,11,77"]))
    assert len(rows_of(feed)) == 2
    assert feed.counters == {TIME_JUMP: 1}


@pytest.mark.parametrize("line", [b"1,0,0,0,0,Q,1,0", b"1,-5,1,0,0,Q,1,0", b"1,10,1,-5,1,Q,1,0"])
def test_a_quote_without_a_price_or_with_one_below_zero_is_refused(tmp_path: Path, line: bytes) -> None:
    feed = opened(quotes(tmp_path, [line]))
    assert not len(rows_of(feed)) and feed.counters == {NOT_POSITIVE: 1}


@pytest.mark.parametrize(
    ("crossed", "kept", "counted"),
    [(KEEP, [12, 11, 10, 9], {}), (DROP, [11, 10, 9], {CROSSED_QUOTE: 1}), (DROP_LOCKED, [10, 9], {CROSSED_QUOTE: 1, LOCKED_QUOTE: 1})],
)
def test_crossed_and_locked_quotes_stay_or_go_as_the_configuration_says(
    tmp_path: Path, crossed: str, kept: list[int], counted: dict[int, int]
) -> None:
    lines = [b"1,1.00012,1.00011", b"2,1.00011,1.00011", b"3,1.00010,1.00011", b"4,1.00009,1.00011"]
    feed = opened(forex(tmp_path, lines), crossed=crossed)
    assert (rows_of(feed)["price_ticks"] - 100_000).tolist() == kept
    assert feed.counters == counted


def test_an_event_whose_second_half_is_dropped_ends_with_its_first(tmp_path: Path) -> None:
    lines = [b"1,100,5,0,0,Q,1,0", b"1,0,0,99,6,P,1,0", b"2,0,0,101,6,P,1,0"]
    feed = opened(quotes(tmp_path, lines), crossed=DROP)
    rows = rows_of(feed)
    assert list(zip(rows["origin"].tolist(), rows["flags"].tolist(), strict=True)) == [(0, EVENT_END), (2, EVENT_END)]
    assert feed.counters == {CROSSED_QUOTE: 1}


def test_a_configured_grid_is_held_to_and_a_symbol_beside_it_left_out(tmp_path: Path) -> None:
    cents = Instrument("IBM", "usa", Decimal("0.01"), Decimal(100))
    paths = trades(tmp_path, [b"1,1815200,300,P,1,0", b"1,1815250,300,P,1,0", b"1,1815200,250,P,1,0"]), trades(tmp_path / "aapl", [TRADE_LINE], symbol="aapl")
    feed = opened(*paths, instruments=(cents,))
    rows = rows_of(feed)
    assert (rows["price_ticks"].tolist(), rows["qty_lots"].tolist()) == ([18152], [3])
    assert feed.counters == {UNKNOWN_SYMBOL: 1, PRICE_OFF_GRID: 1, QTY_OFF_GRID: 1}
    with pytest.raises(FeedError, match="not finer"):
        opened(paths[0], instruments=(Instrument("IBM", "usa", Decimal("1e-10"), Decimal(1)),))


def test_lines_may_end_as_on_windows_or_not_at_all_and_empty_ones_are_nothing(tmp_path: Path) -> None:
    feed = opened(trades(tmp_path, TRADE_LINE + b"\r\n\r\n\n" + TRADE_LINE))
    assert len(rows_of(feed)) == 2
    assert feed.counters == {}


def test_receive_times_are_those_of_every_line_and_none_where_there_is_none(tmp_path: Path) -> None:
    feed = opened(trades(tmp_path, [TRADE_LINE, b"junk", b"86400000,1,1,P,1,0", TRADE_LINE]), daily(tmp_path, [b"20131007 00:00,10,12,9,11,77"]))
    at = local(2013, 10, 7, 9, 30)
    assert feed.receive_times().tolist() == [at, NO_TIME, NO_TIME, at, local(2013, 10, 8)]


# --- what is no such file -------------------------------------------------------------------------------------------------
def test_a_damaged_zip_is_told_when_opened_or_counted_when_read(tmp_path: Path) -> None:
    path = trades(tmp_path, [TRADE_LINE] * 5000)
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    with pytest.raises(FeedError, match=r"20131007_trade\.zip is cut off"):
        opened(path)
    at = len(whole) // 2
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
    feed = opened(path)
    rows_of(feed)
    assert feed.counters[UNREADABLE] == 1


def test_a_line_without_an_end_is_unreadable_and_not_kept(tmp_path: Path) -> None:
    feed = opened(trades(tmp_path, TRADE_LINE + b"\n" + b"1" * 100_000))
    assert len(rows_of(feed)) == 1
    assert feed.counters == {UNREADABLE: 1}


@pytest.mark.parametrize(
    ("name", "csv", "line"),
    [
        ("20131007_trade.zip", "notes.csv", TRADE_LINE), ("20139907_trade.zip", "20139907_ibm_Trade_Tick.csv", TRADE_LINE),
        ("20131007_trade.zip", "20131007_ibm_minute_trade.csv", b"1,2,3"), ("20131007_trade.zip", "20131007_btcusd_tick_trade.csv", b"1,2.5,3"),
        ("ibm.zip", "ibm.csv", b"date,open"), ("a.zip", "readme.txt", b"hello"), ("20131007_quote.zip", "20131007_es_minute_openinterest.csv", b"1,2"),
    ],
)  # fmt: skip
def test_a_zip_of_something_else_is_refused_by_name(tmp_path: Path, name: str, csv: str, line: bytes) -> None:
    with pytest.raises(NotAFeedError, match=name):
        opened(zipped(tmp_path, name, [line], csv))


def test_a_csv_of_any_name_is_told_by_the_folders_around_it(tmp_path: Path) -> None:
    (row,) = rows_of(opened(zipped(tmp_path / "tick" / "ibm", "20131007_trade.zip", [TRADE_LINE], "data.csv")))
    assert row["ts_event_ns"] == local(2013, 10, 7, 9, 30)


def test_equities_and_currencies_are_two_feeds(tmp_path: Path) -> None:
    with pytest.raises(NotAFeedError, match="fxcm and usa; name them as several feeds"):
        opened(trades(tmp_path, [TRADE_LINE]), forex(tmp_path / "fx", [b"1,1.1,1.2"]))


def test_a_zip_beside_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.txt.gz").write_bytes(b'1723161256000000000 {"a": 1}\n')
    with pytest.raises(NotAFeedError, match="mixes formats"):
        opened(trades(tmp_path, [TRADE_LINE]), tmp_path / "b.txt.gz")


# --- fuzz -----------------------------------------------------------------------------------------------------------------
GOOD = {
    "trade": (b"34200000,1815200,283,P,20002020,0", "20131007_ibm_Trade_Tick.csv"),
    "quote": (b"34200000,1800100,300,0,0,P,1,0", "20131007_ibm_Quote_Tick.csv"),
    "bars": (b"34200000,10,12,9,11,77", "20131007_ibm_minute_trade.csv"),
    "quote bars": (b"34200000,10,12,9,11,7,13,15,12,14,8", "20131007_ibm_minute_quote.csv"),
    "days": (b"20131007 00:00,10,12,9,11,77", "ibm.csv"),
    "forex": (b"334,1.37632,1.37634", "20140512_eurusd_tick_quote.csv"),
}
PIECES = st.sampled_from([b",", b"\n", b"\r", b"-", b".", b"9" * 19, b"0", b"a", b" ", b":", b"\xff", b"\x00", b"1e9", b"20990101 00:00", b""])


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """(what, lines of it with bytes put in, taken out or doubled); the first line is whole: it tells the format."""
    what = draw(st.sampled_from(sorted(GOOD)))
    line = GOOD[what][0]
    text = bytearray(b"\n".join([line] * draw(st.integers(1, 6))))
    for _ in range(draw(st.integers(0, 6))):
        at, cut = draw(st.integers(0, len(text))), draw(st.integers(0, 4))
        text[at : at + cut] = draw(PIECES | st.binary(max_size=3))
    return what, line + b"\n" + bytes(text)


@settings(max_examples=150)
@given(mutated())
def test_any_mutation_of_lines_yields_rows_or_counted_reasons_and_nothing_between(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[str, bytes]
) -> None:
    what, text = drawn
    csv = GOOD[what][1]
    path = zipped(tmp_path_factory.mktemp("fuzz"), csv.replace(".csv", ".zip"), text, csv)
    feed = opened(path)
    rows = rows_of(feed)
    blank = sum(not line.rstrip(b"\r") or line == b"" for line in text.split(b"\n")[: feed.lines])
    refused = sum(feed.counters.values())
    events = int((rows["flags"] & EVENT_END != 0).sum())
    assert feed.lines == text.count(b"\n") + (not text.endswith(b"\n"))
    assert len(np.unique(rows["origin"])) + refused + blank == feed.lines if what in ("trade", "quote", "forex") else events + refused + blank == feed.lines
    assert set(feed.counters) <= set(DOC) and set(feed.first_offenders) == set(feed.counters)
    assert (rows["ts_event_ns"] > 0).all() and (rows["ts_recv_ns"] == rows["ts_event_ns"]).all()
    priced = rows["low_ticks"] if what in ("bars", "quote bars", "days") else np.maximum(rows["price_ticks"], rows["ask_ticks"])
    assert (priced > 0).all()
    assert len(feed.receive_times()) == feed.lines


def test_zip_helper_makes_what_lean_makes(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(trades(tmp_path, [TRADE_LINE]).read_bytes())) as archive:
        assert archive.namelist() == ["20131007_ibm_Trade_Tick.csv"]

