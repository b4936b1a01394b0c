"""CSV tables as feeds: every kind of record, exact values, and what is wrong counted with its line and column."""

from __future__ import annotations

import gzip
import io
import random
import zipfile
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import zstandard

from handlers.ingest.errors import NotAFeedError
from handlers.ingest.tables import files as table_files
from handlers.ingest.tables import feed as tables
from handlers.ingest.tables.map import Columns, TableMap, TableTime, TableWords
from handlers.ingest.tables.map import problems_of
from tests.unit.made_tables import HEAD, T0, TRADES, counted, of_text, opened, rows_of
from transport.instruments import Instrument
from transport.records import (
    ASK, BAR, BID, BOOK_DELTA, BOOK_SNAPSHOT, BUY, EVENT_END, EVENT_FIRST, NO_SIDE, QUOTE, SELL, TRADE,
)  # fmt: skip

MINUTE_NS, DAY_NS = 60 * 10**9, 86_400 * 10**9
BOOK = TableMap("book_delta", venue="v", symbol="X", columns=Columns(time="t", price="p", qty="q", side="s", id="u", is_snapshot="snap"))


CLOSES = TableMap("bar", venue="v", wide=True, interval="1d", columns=Columns(open_time="t"))


def test_a_trade_a_line_with_ticks_and_lots_from_the_decimals_seen(tmp_path: Path) -> None:
    feed = of_text(tmp_path, f"{HEAD}{T0},61800.30,0.006,buy\n{T0 + 1},61800.25,1,SELL\n{T0 + 2},61800,0.5,\n")
    rows = rows_of(feed)
    assert [(i.name, str(i.tick), str(i.lot)) for i in feed.instruments] == [("X.v", "0.01", "0.001")]
    assert rows["kind"].tolist() == [TRADE] * 3
    assert rows["price_ticks"].tolist() == [6_180_030, 6_180_025, 6_180_000]
    assert rows["qty_lots"].tolist() == [6, 1000, 500]
    assert rows["side"].tolist() == [BUY, SELL, NO_SIDE]
    assert rows["ts_event_ns"].tolist() == [(T0 + n) * 10**6 for n in range(3)]
    assert rows["ts_recv_ns"].tolist() == rows["ts_event_ns"].tolist(), "without a receive time the event's stands for it"
    assert rows["origin"].tolist() == [1, 2, 3]
    assert (rows["flags"] == EVENT_END).all()
    assert (rows["source_id"] == 16).all()
    assert counted(feed) == {}


def test_a_configured_instrument_wins_over_what_the_decimals_suggest(tmp_path: Path) -> None:
    known = Instrument("X", "v", Decimal("0.05"), Decimal("0.002"))
    feed = of_text(tmp_path, f"{HEAD}{T0},61800.30,0.006,b\n{T0},61800.31,0.006,b\n{T0},61800.30,0.007,b\n", instruments=[known])
    assert rows_of(feed)["price_ticks"].tolist() == [1_236_006]
    assert counted(feed) == {"PRICE_OFF_GRID": 1, "QTY_OFF_GRID": 1}


def test_the_maps_own_tick_and_lot_are_taken(tmp_path: Path) -> None:
    table = TableMap("trade", venue="v", symbol="X", tick=Decimal("0.5"), lot=Decimal(10), columns=TRADES.columns)
    assert rows_of(of_text(tmp_path, f"{HEAD}{T0},2.5,30,b\n", table))[["price_ticks", "qty_lots"]].tolist() == [(5, 3)]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress, lambda data: zipped({"inside.csv": data})])
def test_compressed_files_are_known_by_their_content(tmp_path: Path, pack: object) -> None:
    text = f"{HEAD}{T0},1.5,2,b\n".encode()
    assert rows_of(of_text(tmp_path, pack(text)))["price_ticks"].tolist() == [15]  # type: ignore[operator]


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def test_a_zip_of_several_files_and_one_that_is_cut_are_told(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"table.csv holds 2 files; a zip is read where it holds one"):
        of_text(tmp_path, zipped({"a.csv": b"t\n", "b.csv": b"t\n"}))
    feed = of_text(tmp_path, zipped({"a.csv": f"{HEAD}{T0},1.5,2,b\n".encode()}))
    (tmp_path / "table.csv").write_bytes((tmp_path / "table.csv").read_bytes()[:60])
    assert len(rows_of(feed)) == 0
    assert counted(feed) == {"TRUNCATED": 1}


@pytest.mark.parametrize("text", [
    'id;"t" ; p ;q;s\r\n1;{t};"2.50";3;buy\r\n', '\ufeffid;t;p;q;s\n1;{t};2.5;3;buy', 'id;t;p;q;s\n"a;b";{t}; 2.50 ;"3";buy\n\n',
])  # fmt: skip
def test_quotes_blanks_line_ends_and_a_byte_order_mark_are_the_formats_own(tmp_path: Path, text: str) -> None:
    table = TableMap("trade", venue="v", symbol="X", separator=";", columns=TRADES.columns)
    feed = of_text(tmp_path, text.replace("{t}", str(T0)), table)
    assert rows_of(feed)[["price_ticks", "qty_lots", "side"]].tolist() == [(25, 3, BUY)]
    assert counted(feed) == {}


def test_columns_by_number_of_a_table_without_a_header(tmp_path: Path) -> None:
    table = TableMap("trade", venue="v", symbol="X", header=False, separator="\t", columns=Columns(time=3, price=1, qty=2))
    rows = rows_of(of_text(tmp_path, f"2.5\t3\t{T0}\n2.6\t4\t{T0}\n", table))
    assert rows["price_ticks"].tolist() == [25, 26]
    assert rows["origin"].tolist() == [0, 1]


def test_symbols_of_a_column_are_instruments_with_grids_of_their_own(tmp_path: Path) -> None:
    table = TableMap("trade", venue="v", columns=Columns(time="t", price="p", qty="q", symbol="s"))
    feed = of_text(tmp_path, f"{HEAD}{T0},1.25,2,AAA\n{T0},7,0.5,BBB\n{T0},1.5,1,AAA\n", table)
    rows = rows_of(feed)
    assert [(i.name, str(i.tick), str(i.lot)) for i in feed.instruments] == [("AAA.v", "0.01", "1"), ("BBB.v", "1", "0.1")]
    assert rows[["instrument_id", "price_ticks", "qty_lots"]].tolist() == [(0, 125, 2), (1, 7, 5), (0, 150, 1)]


def test_a_symbol_that_the_first_megabytes_do_not_show_is_counted_unless_the_map_lists_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "SCAN_BYTES", 40)
    monkeypatch.setattr(tables, "SCAN_BYTES_MIN", 40)
    table = TableMap("trade", venue="v", tick=Decimal(1), lot=Decimal(1), columns=Columns(time="t", price="p", qty="q", symbol="s"))
    text = f"{HEAD}{T0},1,2,AAA\n{T0},7,5,BBB\n"
    feed = of_text(tmp_path, text, table)
    assert len(rows_of(feed)) == 1
    assert counted(feed) == {"UNKNOWN_SYMBOL": 1}
    listed = TableMap("trade", venue="v", symbols=("AAA", "BBB"), tick=Decimal(1), lot=Decimal(1), columns=table.columns)
    assert len(rows_of(of_text(tmp_path, text, listed))) == 2


def test_quotes_with_an_empty_side(tmp_path: Path) -> None:
    table = TableMap("quote", venue="v", symbol="X", columns=Columns(time="t", bid="b", bid_qty="B", ask="a", ask_qty="A"))
    feed = of_text(tmp_path, f"t,b,B,a,A\n{T0},1.5,2,1.6,3\n{T0},,,1.6,3\n{T0},1.5,,1.6,3\n{T0},,2,1.6,3\n", table)
    rows = rows_of(feed)
    assert rows["kind"].tolist() == [QUOTE, QUOTE]
    assert rows[["price_ticks", "qty_lots", "ask_ticks", "ask_lots"]].tolist() == [(15, 2, 16, 3), (0, 0, 16, 3)]
    assert counted(feed) == {"MISSING_FIELD": 2}, "a quantity without its price is no empty side, nor the other way round"


def test_rows_of_a_book_that_follow_one_another_are_one_event(tmp_path: Path) -> None:
    lines = [(0, "1.5", 2, "bid", 7, "true"), (0, "1.6", 3, "ask", 7, "true"), (1, "1.5", 0, "bid", 8, "false"), (1, "1.4", 4, "bid", 8, "0"), (1, "1.6", 5, "a", 9, "F")]
    text = "t,p,q,s,u,snap\n" + "".join(f"{T0 + t},{p},{q},{s},{u},{snap}\n" for t, p, q, s, u, snap in lines)
    for rows_max in (1, 2, 100):
        rows = rows_of(of_text(tmp_path, text, BOOK), rows_max)
        assert rows["kind"].tolist() == [BOOK_SNAPSHOT] * 2 + [BOOK_DELTA] * 3
        assert rows["flags"].tolist() == [EVENT_FIRST, EVENT_END, 0, EVENT_END, EVENT_END]
        assert rows["side"].tolist() == [BID, ASK, BID, BID, ASK]
        assert rows["qty_lots"].tolist() == [2, 3, 0, 4, 5]


def test_an_event_of_a_book_is_one_however_the_text_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "t,p,q,s,u,snap\n" + "".join(f"{T0 + n // 7},{1 + n % 7}.5,{n % 3},{'b' if n % 2 else 'a'},{n // 7},{n % 28 < 7}\n" for n in range(700))
    whole = rows_of(of_text(tmp_path, text, BOOK))
    assert np.count_nonzero(whole["flags"] & EVENT_END) == 100
    for size, batch in ((64, 5), (1000, 3)):
        monkeypatch.setattr(table_files, "TEXT_BYTES", size)
        monkeypatch.setattr(table_files, "BATCH_ROWS", batch)
        assert (rows_of(of_text(tmp_path, text, BOOK)).view(np.uint8) == whole.view(np.uint8)).all()


def bars(**more: object) -> TableMap:
    columns = Columns(open_time="t", open="o", high="h", low="l", close="c", volume="v")
    return TableMap("bar", **{"venue": "v", "symbol": "X", "interval": "1m", "columns": columns, **more})  # type: ignore[arg-type]


def test_a_book_of_more_rows_than_memory_takes_begins_once_and_ends_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were its parts events of their own, the last would be the whole book."""
    text = "t,p,q,s,u,snap\n" + "".join(f"{T0 + n // 300},{n},1,b,1,1\n" for n in range(450))
    whole = rows_of(of_text(tmp_path, text, BOOK))
    assert np.flatnonzero(whole["flags"] & EVENT_FIRST).tolist() == [0, 300]
    for module, name, value in ((tables, "EVENT_ROWS_MAX", 40), (table_files, "BATCH_ROWS", 25)):
        monkeypatch.setattr(module, name, value)
    feed = of_text(tmp_path, text, BOOK)
    chunks = list(feed.chunks(1 << 10))
    assert b"".join(chunk.tobytes() for chunk in chunks) == whole.tobytes()
    assert max(map(len, chunks)) <= 40 + 25


def test_a_bars_time_is_its_close_never_its_open(tmp_path: Path) -> None:
    rows = rows_of(of_text(tmp_path, f"t,o,h,l,c,v\n{T0},2,4,1,3,70\n", bars()))
    assert rows["kind"].tolist() == [BAR]
    assert rows[["open_ticks", "high_ticks", "low_ticks", "close_ticks", "volume_lots"]].tolist() == [(2, 4, 1, 3, 70)]
    assert rows[["ts_open_ns", "interval_ns"]].tolist() == [(T0 * 10**6, MINUTE_NS)]
    assert rows["ts_event_ns"].tolist() == rows["ts_recv_ns"].tolist() == [T0 * 10**6 + MINUTE_NS]


def test_a_bar_stamped_at_its_close_opened_an_interval_before(tmp_path: Path) -> None:
    table = bars(columns=Columns(close_time="t", close="c"))
    rows = rows_of(of_text(tmp_path, f"t,c\n{T0},3\n", table))
    assert rows[["ts_open_ns", "ts_event_ns"]].tolist() == [(T0 * 10**6 - MINUTE_NS, T0 * 10**6)]
    assert rows[["open_ticks", "high_ticks", "low_ticks", "close_ticks"]].tolist() == [(3, 3, 3, 3)], "where only closes are known, all are the close"


def test_a_receive_time_before_the_close_is_moved_to_it(tmp_path: Path) -> None:
    table = bars(columns=Columns(open_time="t", recv_time="r", close="c"))
    rows = rows_of(of_text(tmp_path, f"t,r,c\n{T0},{T0},3\n{T0},{T0 + 60_500},3\n", table))
    assert rows["ts_recv_ns"].tolist() == [T0 * 10**6 + MINUTE_NS, (T0 + 60_500) * 10**6]


def test_a_last_instant_within_the_bar_is_not_its_close(tmp_path: Path) -> None:
    table = bars(interval="", columns=Columns(open_time="t", close_time="e", close="c"), time=TableTime(close_is_last=True))
    rows = rows_of(of_text(tmp_path, f"t,e,c\n{T0},{T0 + 59_999},3\n", table))
    assert rows[["interval_ns", "ts_event_ns"]].tolist() == [(MINUTE_NS, T0 * 10**6 + MINUTE_NS)]


def test_a_daily_bar_closes_at_its_markets_midnight_in_summer_and_winter(tmp_path: Path) -> None:
    table = bars(interval="1d", time=TableTime(zone="America/New_York"))
    rows = rows_of(of_text(tmp_path, "t,o,h,l,c,v\n2024-03-08,1,1,1,1,1\n2024-03-09,1,1,1,1,1\n2024-03-10,1,1,1,1,1\n", table))
    closes = [np.datetime64(int(t), "ns").astype("datetime64[h]").item().isoformat() for t in rows["ts_event_ns"]]
    assert closes == ["2024-03-09T05:00:00", "2024-03-10T05:00:00", "2024-03-11T04:00:00"]


@pytest.mark.parametrize("line", ["2,1,1,1,5", "2,4,3,3,5", "2,4,1,5,5"])
def test_a_bar_whose_high_and_low_do_not_enclose_it_is_counted(tmp_path: Path, line: str) -> None:
    feed = of_text(tmp_path, f"t,o,h,l,c,v\n{T0},{line}\n{T0},2,4,1,3,5\n", bars())
    assert len(rows_of(feed)) == 1
    assert counted(feed) == {"OUT_OF_RANGE": 1}


def test_a_wide_table_has_a_bar_for_each_symbol_that_has_a_close(tmp_path: Path) -> None:
    table = TableMap("bar", venue="v", wide=True, interval="1d", columns=Columns(open_time="Date"))
    feed = of_text(tmp_path, "Date,AAA,BBB\n1990-01-02,1.5,20\n1990-01-03,,21\n1990-01-04,1.7\n1990-01-05,x,23.5\n", table)
    rows = rows_of(feed)
    assert [(i.name, str(i.tick)) for i in feed.instruments] == [("AAA.v", "0.1"), ("BBB.v", "0.1")]
    assert rows[["instrument_id", "close_ticks"]].tolist() == [(0, 15), (1, 200), (1, 210), (0, 17), (1, 235)]
    assert counted(feed) == {"MISSING_FIELD": 1, "NOT_A_NUMBER": 1}
    assert feed.receive_times().tolist()[1:] == sorted({int(t) for t in rows["ts_recv_ns"]})


def test_columns_without_a_name_are_no_symbols(tmp_path: Path) -> None:
    feed = of_text(tmp_path, "t,A,,,B\n2024-08-08,1,2,3,4\n", CLOSES)
    assert [i.name for i in feed.instruments] == ["A.v", "B.v"]
    assert rows_of(feed)["close_ticks"].tolist() == [1, 4]


def test_rows_sorted_by_time_keep_their_lines(tmp_path: Path) -> None:
    table = TableMap("trade", venue="v", order="time", columns=Columns(time="t", price="p", qty="q", symbol="s"))
    feed = of_text(tmp_path, f"{HEAD}{T0 + 2},1,1,AAA\n{T0 + 1},2,1,AAA\n{T0 + 1},3,x,AAA\n{T0 + 1},4,1,BBB\n{T0},5,1,BBB\n", table)
    rows = rows_of(feed)
    assert rows["price_ticks"].tolist() == [5, 2, 4, 1]
    assert rows["origin"].tolist() == [5, 2, 4, 1]
    assert counted(feed) == {"NOT_A_NUMBER": 1}
    assert feed.messages == 4


def test_more_rows_than_are_sorted_in_memory_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "SORT_ROWS_MAX", 2)
    table = TableMap("trade", venue="v", symbol="X", order="time", columns=TRADES.columns)
    feed = of_text(tmp_path, f"{HEAD}{T0},1,1,\n{T0},2,1,\n{T0},3,1,\n", table)
    assert len(rows_of(feed)) == 0
    assert counted(feed) == {"UNREADABLE": 1}


@pytest.mark.parametrize(("line", "reason", "column"), [
    (f"{T0},1.5", "MISSING_FIELD", 3), (f"{T0},,2,b", "MISSING_FIELD", 2), (f"{T0},1.5,2,up", "WRONG_TYPE", 4), ("noon,1.5,2,b", "WRONG_TYPE", 1),
    ("5,1.5,2,b", "WRONG_TYPE", 1), ("1960-01-01,1.5,2,b", "TIME_OUT_OF_RANGE", 1), (f"{T0},one,2,b", "NOT_A_NUMBER", 2), (f"{T0},1.55,2,b", "PRICE_OFF_GRID", 2),
    (f"{T0},1.5,2.5,b", "QTY_OFF_GRID", 3), (f"{T0},1e99,2,b", "OUT_OF_INT64", 2), (f"{T0},1.5,0,b", "NOT_POSITIVE", 1), (f"{T0},1.5,-2,b", "NOT_POSITIVE", 1),
    (f'{T0},1.5,2,"b', "BROKEN_LINE", 4),
])  # fmt: skip
def test_a_bad_line_is_counted_with_its_place_and_the_others_come(tmp_path: Path, line: str, reason: str, column: int) -> None:
    known = Instrument("X", "v", Decimal("0.1"), Decimal(1))
    feed = of_text(tmp_path, f"{HEAD}{T0},1.5,2,b\n{line}\n{T0},1.6,2,s\n", instruments=[known])
    assert rows_of(feed)["price_ticks"].tolist() == [15, 16]
    assert counted(feed) == {reason: 1}
    (told,) = feed.first_offenders.values()
    assert told.startswith("line 3")
    assert f"column {column}" in told or reason == "NOT_POSITIVE"


def test_a_line_that_is_alone_in_the_future_is_refused_and_one_that_goes_back_is_not(tmp_path: Path) -> None:
    feed = of_text(tmp_path, f"{HEAD}{T0},1,2,b\n2099-01-01,2,2,b\n{T0 - 5000},3,2,b\n{T0},4,2,b\n")
    assert rows_of(feed)["price_ticks"].tolist() == [1, 3, 4]
    assert counted(feed) == {"TIME_JUMP": 1}
    assert feed.first_offenders.popitem()[1].startswith("line 3:")


def test_daily_bars_may_be_days_apart(tmp_path: Path) -> None:
    """A Monday behind a Friday, at the end of the file, is confirmed by nobody."""
    feed = of_text(tmp_path, "t,o,h,l,c,v\n2024-08-08,1,1,1,1,1\n2024-08-09,1,1,1,1,1\n2024-08-12,1,1,1,1,1\n", bars(interval="1d"))
    assert len(rows_of(feed)) == 3


def test_how_the_text_is_cut_does_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    chance = random.Random(seed)
    text = HEAD + "".join(f"{T0 + n},{chance.randrange(1, 99)}.{chance.randrange(99)},{chance.randrange(9)},{chance.choice(('b', 's', '?', ''))}\n" for n in range(500))
    feed = of_text(tmp_path, text)
    whole, told, offenders = rows_of(feed), counted(feed), dict(feed.first_offenders)
    assert {"NOT_POSITIVE", "WRONG_TYPE"} <= set(told)
    for size, batch in ((1, 1), (200, 7), (5000, 64)):
        monkeypatch.setattr(table_files, "TEXT_BYTES", size)
        monkeypatch.setattr(table_files, "BATCH_ROWS", batch)
        feed = of_text(tmp_path, text)
        assert (rows_of(feed, batch).view(np.uint8) == whole.view(np.uint8)).all()
        assert (counted(feed), feed.first_offenders) == (told, offenders)


def test_several_files_are_one_source(tmp_path: Path) -> None:
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text(f"{HEAD}{T0},1.5,2,b\n")
    second.write_text(f"p,q,s,t\n1.25,2,b,{T0 + 1}\n")
    files = [table_files.TableFile(path, TRADES, "map") for path in (first, second)]
    feed = tables.TableFeed("x", files, ())
    rows = rows_of(feed)
    assert rows["price_ticks"].tolist() == [150, 125], "the finer of both files' decimals"
    assert rows["origin"].tolist() == [1, 3]


@pytest.mark.parametrize(("text", "table", "words"), [
    ("tx,p,q,s\n", TRADES, "columns.time = 't': the header has no such column, did you mean 'tx'?"),
    ("a,b\n", TRADES, "columns.time = 't': the header has no such column, it has a, b"),
    (HEAD, TableMap("trade", venue="v", columns=Columns(time="t", price="p", qty="q", symbol="s")), "table.csv shows no symbol"),
    (f"{HEAD}{T0},1,1,b\n", TableMap("trade", venue="v", symbol="X", columns=TRADES.columns, time=TableTime(zone="Mars/Olympus")), "'Mars/Olympus' is no time zone"),
    ("\xff\xfe", TRADES, "columns.time = 't'"),
    ("t,p,q,s,p\n", TRADES, "columns.price = 'p': the header has 2 such columns"),
    ("t,A,B,A\n", CLOSES, "symbol = 'A': the header has 2 such columns"),
    (f"{HEAD}{T0},1,1,b\n", TableMap("trade", venue="v", symbol="X", tick=Decimal(10**11), lot=Decimal(10**11), columns=TRADES.columns), "64 bits do not hold"),
])  # fmt: skip
def test_a_map_that_does_not_fit_its_file_is_told_when_it_is_opened(tmp_path: Path, text: str, table: TableMap, words: str) -> None:
    with pytest.raises(NotAFeedError) as caught:
        of_text(tmp_path, text, table)
    assert words in str(caught.value)


def test_words_of_the_side_column_are_the_maps(tmp_path: Path) -> None:
    table = TableMap("trade", venue="v", symbol="X", columns=TRADES.columns, words=TableWords(buy=("up", "1"), sell=("down",)))
    feed = of_text(tmp_path, f"{HEAD}{T0},1,1,up\n{T0},1,1,1\n{T0},1,1,down\n{T0},1,1,buy\n", table)
    assert rows_of(feed)["side"].tolist() == [BUY, BUY, SELL]
    assert counted(feed) == {"WRONG_TYPE": 1}


@pytest.mark.parametrize(("word", "kind"), [("true", BOOK_SNAPSHOT), ("True", BOOK_SNAPSHOT), ("T", BOOK_SNAPSHOT), ("1", BOOK_SNAPSHOT),
                                            ("FALSE", BOOK_DELTA), ("f", BOOK_DELTA), ("0", BOOK_DELTA)])  # fmt: skip
def test_a_flag_is_true_or_false(tmp_path: Path, word: str, kind: int) -> None:
    feed = of_text(tmp_path, f"t,p,q,s,u,snap\n{T0},1,1,buy,1,{word}\n", BOOK)
    assert rows_of(feed)["kind"].tolist() == [kind]


@pytest.mark.parametrize("word", ["full", "tomorrow", "fakse", "2", "tr", "x", "-"])
def test_a_word_that_begins_like_a_flag_is_none(tmp_path: Path, word: str) -> None:
    feed = of_text(tmp_path, f"t,p,q,s,u,snap\n{T0},1,1,buy,1,{word}\n", BOOK)
    assert len(rows_of(feed)) == 0
    assert counted(feed) == {"WRONG_TYPE": 1}


def test_an_interval_that_leads_beyond_all_times_is_none(tmp_path: Path) -> None:
    table = TableMap("bar", venue="v", symbol="X", columns=Columns(open_time="t", interval_ns="i", close="p"))
    feed = of_text(tmp_path, "t,i,p\n" + f"{T0},{5 * 10**18},1\n" * 2 + f"{T0},1000,1\n", table)
    assert rows_of(feed)["interval_ns"].tolist() == [1000]
    assert counted(feed) == {"OUT_OF_RANGE": 2}


def test_a_text_has_no_last_unit(tmp_path: Path) -> None:
    table = TableMap("bar", venue="v", symbol="X", interval="1m", columns=Columns(close_time="t", close="p"), time=TableTime(close_is_last=True))
    feed = of_text(tmp_path, "t,p\n2024-08-08T23:54:59.999Z,1\n", table)
    assert len(rows_of(feed)) == 0
    assert counted(feed) == {"WRONG_TYPE": 1}


def test_receive_times_leave_what_was_counted(tmp_path: Path) -> None:
    feed = of_text(tmp_path, f"{HEAD}{T0},1,1,buy\n{T0},x,1,buy\n")
    rows_of(feed)
    before = (feed.messages, feed.lines, counted(feed))
    assert len(feed.receive_times()) == 3
    assert (feed.messages, feed.lines, counted(feed)) == before


def test_a_price_below_zero_is_one(tmp_path: Path) -> None:
    assert rows_of(of_text(tmp_path, f"{HEAD}{T0},-1.5,2,b\n"))["price_ticks"].tolist() == [-15]


def test_an_empty_table_has_no_records(tmp_path: Path) -> None:
    feed = of_text(tmp_path, HEAD)
    assert len(rows_of(feed)) == 0
    assert opened(tmp_path / "table.csv", TRADES).receive_times().tolist() == [-1]


NOISE = "0.30000000000000004"  # 0.1 + 0.2


@pytest.mark.parametrize(("cells", "tick"), [
    (["1.25", NOISE, "1.5"], "0.01"), (["7", NOISE], "0.1"), ([NOISE, "1.2999999999999998", "1e-1"], "0.1"), (["1.25", "2.999999999999999889e-01"], "0.01"),
])  # fmt: skip
def test_a_cell_that_floating_point_made_tells_the_decimals_that_were_meant_and_is_counted(tmp_path: Path, cells: list[str], tick: str) -> None:
    feed = of_text(tmp_path, HEAD + "".join(f"{T0},{cell},2,b\n" for cell in cells))
    assert [i.tick for i in feed.instruments] == [Decimal(tick)]
    noise = sum(len(cell) > 15 for cell in cells)
    assert len(rows_of(feed)) == len(cells) - noise
    assert counted(feed) == {"PRICE_OFF_GRID": noise}


@pytest.mark.parametrize(("cells", "tick"), [
    (["50.32284179174976", "4.25"], "1E-14"), (["0.000000000000000001", "1.123456789012345678"], "1E-18"), (["123456789012345678", "1.5"], "0.1"),
])  # fmt: skip
def test_numbers_that_are_long_in_earnest_tell_all_their_decimals(tmp_path: Path, cells: list[str], tick: str) -> None:
    feed = of_text(tmp_path, HEAD + "".join(f"{T0},{cell},2,b\n" for cell in cells))
    assert [i.tick for i in feed.instruments] == [Decimal(tick)]
    assert [feed.instruments[0].tick * ticks for ticks in rows_of(feed)["price_ticks"].tolist()] == [Decimal(cell) for cell in cells]


def test_noise_of_one_symbols_closes_does_not_reach_another(tmp_path: Path) -> None:
    feed = of_text(tmp_path, f"t,AAA,BBB\n2024-01-02,1.5,{NOISE}\n2024-01-03,2.25,3\n2024-01-04,2.25,3.1\n", CLOSES)
    assert [str(i.tick) for i in feed.instruments] == ["0.01", "0.1"]
    assert len(rows_of(feed)) == 5
    assert counted(feed) == {"PRICE_OFF_GRID": 1}


def test_a_wide_table_has_closes_and_times_and_nothing_else() -> None:
    """One volume could not be that of every symbol of its line."""
    table = TableMap("bar", venue="v", wide=True, interval="1d", columns=Columns(open_time="t", recv_time="r", volume="v", side="s"))
    assert problems_of(table) == ["columns.side, columns.volume: a wide table has closes, each its symbol's own, and times"]


def test_receive_times_of_a_sorted_table_are_those_of_its_records(tmp_path: Path) -> None:
    """Days in any order: none is alone in the future once they are sorted, but the last."""
    table = TableMap("trade", venue="v", symbol="X", order="time", columns=TRADES.columns)
    days = [1, 400, 2, 401, 3, 10_000, 402]
    feed = of_text(tmp_path, HEAD + "".join(f"{T0 + day * 86_400_000},1,1,b\n" for day in days) + "x,1,1,b\n", table)
    rows = rows_of(feed)
    due = [(T0 + day * 86_400_000) * 10**6 if day != 10_000 else -1 for day in days]
    assert sorted(rows["ts_recv_ns"].tolist()) == sorted(due)[1:]
    assert feed.receive_times().tolist() == [-1, *due, -1]
    assert counted(feed) == {"TIME_JUMP": 1, "WRONG_TYPE": 1}


def test_a_header_that_is_longer_than_is_looked_at_is_told(tmp_path: Path) -> None:
    names = [f"{n:0200}" for n in range(400)]
    with pytest.raises(NotAFeedError, match="its first line has over 65536 bytes"):
        of_text(tmp_path, f"t,{','.join(names)}\n2024-01-02{',1' * 400}\n", CLOSES)
