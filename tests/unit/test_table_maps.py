"""The map beside a table: where it is looked for, how keys are refused, and what keys may not say together."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.table_maps import read_map
from engine.tables import COLUMNS
from handlers.ingest.errors import NotAFeedError
from handlers.ingest.formats import open_feed
from handlers.ingest.tables.layouts import _EXPORTED
from tests.unit.made_tables import HEAD, T0, counted, rows_of

GOOD = """kind = "trade"
venue = "xnas"
symbol = "AAPL"
tick = 0.01
[time]
unit = "ms"
[columns]
time = "t"
price = "p"
qty = "q"
"""
LINE = f"{T0},1.5,2,b\n"


def written(folder: Path, text: str, name: str = "map.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_map_is_read_with_exact_decimals(tmp_path: Path) -> None:
    table = read_map(written(tmp_path, GOOD))
    assert (table.kind, table.venue, table.symbol, table.tick) == ("trade", "xnas", "AAPL", Decimal("0.01"))
    assert (table.columns.time, table.time.unit) == ("t", "ms")


BAR = 'kind = "bar"\nvenue = "v"\nsymbol = "X"\n'


@pytest.mark.parametrize(("text", "words"), [
    (GOOD.replace("price", "prize"), "columns.prize: unknown key, did you mean columns.price? ("),
    (GOOD.replace("venue", "venu"), "venu: unknown key, did you mean venue? ("),
    (GOOD.replace('"trade"', '"trades"'), 'kind = "trades": expected trade or quote or book_delta or book_snapshot or bar, did you mean trade?'),
    (GOOD.replace('"ms"', '"millis"'), 'time.unit = "millis": expected auto or s or ms or us or ns or iso'),
    (GOOD.replace('kind = "trade"\n', ""), "kind: is required"),
    (GOOD.replace("0.01", "0"), "tick: expected a step above 0, got 0"),
    (GOOD.replace("0.01", '"fine"'), 'tick = "fine": expected a decimal number'),
    (GOOD.replace('venue = "xnas"\n', ""), "venue: is required, a short name such as binance or xnas"),
    (GOOD.replace('symbol = "AAPL"\n', ""), "symbol: say it once"),
    (GOOD + 'symbol = "s"\n', "symbol: say it once"),
    (GOOD.replace('price = "p"\n', ""), "columns.price: a trade needs it"),
    (GOOD + 'bid = "b"\n', "columns.bid: a trade has no such column; it takes time, recv_time, symbol, instrument, price, qty, side, id"),
    (GOOD.replace('"q"', '"p"'), "columns: 'p' is named twice"),
    ("header = false\n" + GOOD, "columns.time = 't': without a header a column is named by its number, from 1"),
    (GOOD.replace('"t"', "0"), "columns.time = 0: expected"),
    (GOOD.replace('"t"', "1.5"), "columns.time = 1.5: expected"),
    (GOOD + '[words]\nbuy = ["x"]\nsell = ["x"]\n', "words: 'x' cannot be both buy and sell"),
    (GOOD + '[words]\nbuy = "x"\n', 'words.buy = "x": expected array'),
    ('interval = "1m"\n' + GOOD, "interval: is for bars"),
    ("wide = true\n" + GOOD.replace('symbol = "AAPL"\n', ""), "wide: is for bars"),
    ('symbols = ["A"]\n' + GOOD, "symbols: is for a table with a column of symbols"),
    (GOOD.replace('unit = "ms"', "close_is_last = true"), "time.close_is_last: is for bars"),
    ('separator = "::"\n' + GOOD, 'separator = "::": expected , or ; or'),
    (BAR + '[columns]\nclose = "c"\n', "columns.open_time: a bar needs open_time or close_time: the line sees it when it closes"),
    (BAR + '[columns]\nclose = "c"\ntime = "t"\n', "columns.time: a bar has no such column"),
    (BAR + '[columns]\nclose = "c"\nopen_time = "t"\n', 'interval: a bar with one time needs it, such as interval = "1m"'),
    (BAR + 'interval = "1m"\n[columns]\nclose = "c"\nopen_time = "t"\nclose_time = "e"\n', "interval: columns say it already"),
    (BAR + 'interval = "1y"\n[columns]\nclose = "c"\nopen_time = "t"\n', 'interval = "1y": expected'),
    (BAR + 'interval = "1m"\n[columns]\nclose = "c"\nopen_time = "t"\nhigh = "h"\n', "columns: open, high and low are given together"),
    (BAR + 'interval = "1m"\n[time]\nclose_is_last = true\n[columns]\nclose = "c"\nopen_time = "t"\n', "time.close_is_last: is for a numeric close_time"),
    ('kind = "bar"\nvenue = "v"\nwide = true\ninterval = "1d"\n[columns]\nopen_time = "t"\nclose = "c"\n', "wide: every column but the times is a symbol's close"),
    ("kind = ", "is not TOML"),
])  # fmt: skip
def test_a_map_that_is_wrong_is_refused_in_words(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_map(written(tmp_path, text))
    assert words in str(caught.value)
    assert str(tmp_path / "map.toml") in str(caught.value)


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_map(written(tmp_path, GOOD.replace("venue", "venu").replace("price", "prize")))
    assert len(str(caught.value).splitlines()) == 2


def test_the_map_with_the_files_name_comes_before_that_of_the_folder(tmp_path: Path) -> None:
    data = written(tmp_path, HEAD + LINE, "day.csv")
    written(tmp_path, GOOD)
    assert open_feed(str(data), read_map=read_map).instruments[0].symbol == "AAPL"
    written(tmp_path, GOOD.replace("AAPL", "MSFT"), "day.csv.toml")
    feed = open_feed(str(data), read_map=read_map)
    assert feed.instruments[0].symbol == "MSFT"
    assert [path.name for path in feed.paths] == ["day.csv", "day.csv.toml"], "records follow from both"  # type: ignore[attr-defined]


def test_a_folder_of_tables_is_one_feed_without_its_maps(tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    written(tmp_path, HEAD + LINE, "a.csv")
    written(tmp_path, HEAD + LINE, "b.csv")
    written(tmp_path, "0  b.csv", "b.csv.CHECKSUM")
    assert len(rows_of(open_feed(str(tmp_path), read_map=read_map))) == 2


def test_a_table_without_a_map_is_told_where_one_belongs(tmp_path: Path) -> None:
    with pytest.raises(NotAFeedError, match=r"what the columns of a table are is said in a map, FILE.toml or map.toml beside it"):
        open_feed(str(written(tmp_path, HEAD + LINE, "day.csv")), read_map=read_map)


def test_tables_that_the_engine_exports_need_no_map(tmp_path: Path) -> None:
    """The headers written down here are those that are exported."""
    assert set(_EXPORTED) == {tuple(column.name for column in COLUMNS[name]) for name in ("trades", "quotes", "bars")}
    data = written(tmp_path, f"ts_event_ns,ts_recv_ns,instrument,trade_id,price,qty,side,conditions\n{T0}000000,{T0}000005,X.v,9,1.5,2,SELL,5\n", "any.csv")
    feed = open_feed(str(data))
    rows = rows_of(feed)
    assert [i.name for i in feed.instruments] == ["X.v"]
    assert rows[["ts_recv_ns", "venue_seq", "price_ticks", "qty_lots", "side", "conditions"]].tolist() == [(T0 * 10**6 + 5, 9, 15, 2, 2, 5)]


MS, US = 1_723_161_256_322, 1_736_467_200_000_123
TRADE_HEAD, AGG_HEAD = "id,price,qty,quote_qty,time,is_buyer_maker\n", "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n"
KLINE_HEAD = "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore\n"
BOOK_HEAD = "update_id,best_bid_price,best_bid_qty,best_ask_price,best_ask_qty,transaction_time,event_time\n"


@pytest.mark.parametrize(("name", "text", "instrument", "row"), [
    ("BTCUSDT-trades-2024-08-08.csv", f"7,61800.30000000,0.00600000,370.80180000,{MS},True,True\n", "BTCUSDT.binance", (MS * 10**6, 618003, 6, 2, 7)),
    ("BTCUSDT-trades-2025-01-10.csv", f"7,61800.30000000,0.00600000,370.80180000,{US},False,True\n", "BTCUSDT.binance", (US * 10**3, 618003, 6, 1, 7)),
    ("BTCUSDT-trades-2024-08-08.csv", f"{TRADE_HEAD}7,61800.3,0.006,370.8018,{MS},true\n", "BTCUSDT.binance_usdm", (MS * 10**6, 618003, 6, 2, 7)),
    ("BTCUSDT-trades-2021-08-08.csv", f"7,61800.3,0.006,370.8018,{MS},false\n", "BTCUSDT.binance_usdm", (MS * 10**6, 618003, 6, 1, 7)),
    ("BTCUSD_PERP-trades-2024-08-08.csv", f"7,61800.3,6,0.01,{MS},true\n", "BTCUSD_PERP.binance_coinm", (MS * 10**6, 618003, 6, 2, 7)),
    ("ETHBTC-aggTrades-2024-08-08.csv", f"7,0.03080000,1.50000000,1,2,{MS},True,True\n", "ETHBTC.binance", (MS * 10**6, 308, 15, 2, 7)),
    ("BTCUSDT-aggTrades-2024-08-08.csv", f"{AGG_HEAD}7,61800.3,0.006,1,2,{MS},false\n", "BTCUSDT.binance_usdm", (MS * 10**6, 618003, 6, 1, 7)),
    ("BTCUSDT-bookTicker-2024-02-15.csv", f"{BOOK_HEAD}7,61800.3,0.006,61800.4,1,{MS},{MS + 9}\n", "BTCUSDT.binance_usdm", (MS * 10**6, 618003, 6, 0, 7)),
])  # fmt: skip
def test_prints_and_quotes_of_binances_archive_need_no_map(tmp_path: Path, name: str, text: str, instrument: str, row: tuple[int, ...]) -> None:
    feed = open_feed(str(written(tmp_path, text, name)))
    rows = rows_of(feed)
    assert [i.name for i in feed.instruments] == [instrument]
    assert rows[["ts_event_ns", "price_ticks", "qty_lots", "side", "venue_seq"]].tolist() == [row]
    assert counted(feed) == {}


@pytest.mark.parametrize(("stamp", "head", "venue"), [(60_000, "", "binance"), (60_000_000, "", "binance"), (60_000, KLINE_HEAD, "binance_usdm")])
def test_klines_of_binances_archive_are_bars_that_close_when_the_next_opens(tmp_path: Path, stamp: int, head: str, venue: str) -> None:
    opens = 28_719_354 * stamp
    text = f"{head}{opens},2.0,4.5,1.0,3.0,70.5,{opens + stamp - 1},200,13,1,2,0\n"
    feed = open_feed(str(written(tmp_path, text, "BTCUSDT-1m-2024-08-08.csv")))
    rows = rows_of(feed)
    assert feed.instruments[0].name == f"BTCUSDT.{venue}"
    close_ns = 28_719_355 * 60 * 10**9
    assert rows[["ts_event_ns", "interval_ns", "open_ticks", "high_ticks", "low_ticks", "close_ticks", "volume_lots", "trades"]].tolist() == [
        (close_ns, 60 * 10**9, 20, 45, 10, 30, 705, 13)
    ]


def test_the_archives_folders_tell_the_market_where_the_columns_do_not(tmp_path: Path) -> None:
    folder = tmp_path / "futures" / "um" / "daily" / "klines" / "BTCUSDT" / "1m"
    folder.mkdir(parents=True)
    opens = 28_719_354 * 60_000
    written(folder, f"{opens},2,4,1,3,70,{opens + 59_999},200,13,1,2,0\n", "BTCUSDT-1m-2021-08-08.csv")
    assert open_feed(str(folder)).instruments[0].venue == "binance_usdm"


def test_a_file_named_like_the_archives_with_other_columns_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotAFeedError, match="is named like a file of Binance's archive, but its first line has 2 columns"):
        open_feed(str(written(tmp_path, "1,2\n", "BTCUSDT-trades-2024-08-08.csv")))
