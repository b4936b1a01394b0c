"""Trades, quotes, bars, statuses and definitions of DBN files, each case written for itself."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import databento_dbn as dbn
import numpy as np
import pytest
import zstandard

from engine.feeds import open_feeds
from engine.importing import merged
from handlers.domain import reasons
from handlers.ingest.errors import NotAFeedError
from handlers.ingest.dbn.grid import multiplier_of
from handlers.ingest.formats import open_feed
from transport.instruments import Instrument
from transport.records import (
    AUCTION, BAR, BOOK_DELTA, BUY, CLOSED, EVENT_END, HALT, INSTRUMENT, PAUSED, PRE_OPEN, QUOTE, SELL, STATUS, TRADE, TRADING, UNKNOWN_STATUS,
)  # fmt: skip

from tests.unit.dbn_lines import (
    ESH4, LAST, SECOND_NS, T0_NS, TICK, UNDEF, UNDEF_TIME, feed_of, header, lines, records, rows_of,
)  # fmt: skip

DAY_NS = 86_400 * SECOND_NS
ES = Instrument("ESH4", "glbx", Decimal("0.25"), Decimal(1), "USD", Decimal(50))
HUNDRED = Instrument("ESH4", "glbx", Decimal("0.25"), Decimal(100), "USD")
SEC = dbn.Schema


def trades(count: int, **columns: Any) -> np.ndarray[Any, Any]:
    return lines(0, count, **{"action": b"T", "side": b"A", "price": 100 * TICK, "size": 3, **columns})


def quotes(rtype: int, count: int, **columns: Any) -> np.ndarray[Any, Any]:
    best = {"bid_px_00": 99 * TICK, "bid_sz_00": 5, "ask_px_00": 101 * TICK, "ask_sz_00": 7}
    return lines(rtype, count, **{"price": 101 * TICK, "size": 2, "side": b"B", **best, **columns})


def bars(rtype: int, opened: Any, **columns: Any) -> np.ndarray[Any, Any]:
    prices = {"open": 100 * TICK, "high": 103 * TICK, "low": 99 * TICK, "close": 101 * TICK}
    return lines(rtype, len(opened), **{**prices, "volume": 12, "ts_event": opened, **columns})


def test_each_trade_is_an_event_by_itself_whatever_its_flags(tmp_path: Path) -> None:
    body = trades(3, side=[b"A", b"B", b"N"], flags=[0, LAST, 0])
    rows = rows_of(feed_of(tmp_path, body.tobytes(), schema=SEC.TRADES))
    assert rows["kind"].tolist() == [TRADE] * 3
    assert rows["flags"].tolist() == [EVENT_END] * 3
    assert rows["side"].tolist() == [SELL, BUY, 0]
    assert (rows["price_ticks"][0], rows["qty_lots"][0], rows["venue_seq"][0]) == (100, 3, 50)


@pytest.mark.parametrize(
    ("field", "value", "instrument", "reason"),
    [
        ("price", 100 * TICK + 1, ES, reasons.PRICE_OFF_GRID),
        ("price", UNDEF, ES, reasons.PRICE_OFF_GRID),
        ("size", 0, ES, reasons.NOT_POSITIVE),
        ("size", 150, HUNDRED, reasons.QTY_OFF_GRID),
        ("ts_recv", UNDEF_TIME, ES, reasons.TIME_OUT_OF_RANGE),
        ("ts_event", UNDEF_TIME, ES, reasons.TIME_OUT_OF_RANGE),
        ("ts_recv", T0_NS + 40 * DAY_NS, ES, reasons.TIME_JUMP),
        ("action", b"A", ES, reasons.UNKNOWN_RECORD),
        ("instrument_id", 5, ES, reasons.UNKNOWN_SYMBOL),
        ("rtype", 99, ES, reasons.UNKNOWN_RECORD),
    ],
)
def test_bad_trade_is_counted_with_its_reason_and_the_others_stay(
    tmp_path: Path, field: str, value: Any, instrument: Instrument, reason: int
) -> None:
    body = trades(3, size=300)
    body[field][1] = value
    feed = feed_of(tmp_path, body.tobytes(), [instrument], schema=SEC.TRADES)
    assert rows_of(feed)["origin"].tolist() == [0, 2]
    assert feed.counters == {reason: 1}


def test_tbbo_is_the_quote_before_the_trade_then_the_trade(tmp_path: Path) -> None:
    body = quotes(1, 2, action=b"T")
    rows = rows_of(feed_of(tmp_path, body.tobytes(), schema=SEC.TBBO))
    assert rows["kind"].tolist() == [QUOTE, TRADE] * 2
    assert rows["flags"].tolist() == [0, EVENT_END] * 2
    assert [rows[0][n] for n in ("price_ticks", "qty_lots", "ask_ticks", "ask_lots")] == [99, 5, 101, 7]
    assert [rows[1][n] for n in ("price_ticks", "qty_lots", "side")] == [101, 2, BUY]


def test_consolidated_quote_bears_a_trade_only_where_it_is_one(tmp_path: Path) -> None:
    body = quotes(177, 3, action=[b"A", b"T", b"C"])
    body["price"][0] = UNDEF  # of what is no trade nothing is asked
    rows = rows_of(feed_of(tmp_path, body.tobytes(), schema=SEC.CMBP_1))
    assert rows["kind"].tolist() == [QUOTE, QUOTE, TRADE, QUOTE]
    assert rows["flags"].tolist() == [EVENT_END, 0, EVENT_END, EVENT_END]
    assert rows["origin"].tolist() == [0, 1, 1, 2]


def test_side_of_a_quote_without_price_or_size_has_nobody(tmp_path: Path) -> None:
    body = quotes(195, 3)
    body["bid_px_00"][0], body["ask_sz_00"][1], body["bid_px_00"][2] = UNDEF, 0, 99 * TICK + 1
    feed = feed_of(tmp_path, body.tobytes(), [ES], schema=SEC.BBO_1S)
    found = [[row[n] for n in ("price_ticks", "qty_lots", "ask_ticks", "ask_lots")] for row in rows_of(feed)]
    assert found == [[0, 0, 101, 7], [99, 5, 0, 0]]
    assert feed.counters == {reasons.PRICE_OFF_GRID: 1}


def test_sampled_quote_is_of_the_end_of_its_interval_and_its_last_trade_is_none(tmp_path: Path) -> None:
    body = quotes(196, 2, ts_event=[T0_NS - 7, UNDEF_TIME], ts_recv=T0_NS + 60 * SECOND_NS, price=UNDEF)
    feed = feed_of(tmp_path, body.tobytes(), [ES], schema=SEC.BBO_1M)
    rows = rows_of(feed)
    assert rows["kind"].tolist() == [QUOTE, QUOTE]
    assert rows["ts_event_ns"].tolist() == rows["ts_recv_ns"].tolist() == [T0_NS + 60 * SECOND_NS] * 2
    assert feed.counters == {}


@pytest.mark.parametrize(
    ("schema", "rtype", "seconds"),
    [(SEC.OHLCV_1S, 32, 1), (SEC.OHLCV_1M, 33, 60), (SEC.OHLCV_1H, 34, 3600), (SEC.OHLCV_1D, 35, 86_400)],
)
def test_bar_is_known_when_its_interval_has_ended(tmp_path: Path, schema: Any, rtype: int, seconds: int) -> None:
    opened = T0_NS + np.arange(2) * seconds * SECOND_NS
    for written in (rtype, 17):  # old files leave the interval to the schema
        body = bars(rtype, opened)
        body["rtype"] = written
        (first, second) = rows_of(feed_of(tmp_path, body.tobytes(), [ES], schema=schema))
        close = T0_NS + seconds * SECOND_NS
        assert (first["kind"], first["ts_event_ns"], first["ts_recv_ns"], first["ts_open_ns"]) == (BAR, close, close, T0_NS)
        assert first["interval_ns"] == seconds * SECOND_NS
        assert [first[f"{n}_ticks"] for n in ("open", "high", "low", "close")] == [100, 103, 99, 101]
        assert (first["volume_lots"], first["trades"], first["notional_ticks_lots"], first["origin"]) == (12, 0, 0, 0)
        assert second["ts_open_ns"] == close


def test_bar_enters_the_line_behind_every_trade_of_its_interval(tmp_path: Path) -> None:
    """Of two feeds, in the sequencer: a bar that came at its beginning would tell the trades that make it."""
    within = T0_NS + np.array([0, 59, 60, 61, 119, 120]) * SECOND_NS
    files = {
        "bars": header(SEC.OHLCV_1M) + bars(33, T0_NS + np.arange(2) * 60 * SECOND_NS).tobytes(),
        "trades": header(SEC.TRADES) + trades(6, ts_event=within, ts_recv=within).tobytes(),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    chunks, _ = merged(*open_feeds([str(tmp_path / name) for name in files], []), 4096)
    found = [(int(r["kind"]), int(r["ts_recv_ns"] - T0_NS) // SECOND_NS) for rows in chunks for r in rows]
    assert found == [(TRADE, 0), (TRADE, 59), (BAR, 60), (TRADE, 60), (TRADE, 61), (TRADE, 119), (BAR, 120), (TRADE, 120)]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("close", UNDEF, reasons.PRICE_OFF_GRID),
        ("high", 103 * TICK + 1, reasons.PRICE_OFF_GRID),
        ("volume", 2**63, reasons.OUT_OF_INT64),
        ("ts_event", UNDEF_TIME, reasons.TIME_OUT_OF_RANGE),
    ],
)
def test_bad_bar_is_counted_with_its_reason(tmp_path: Path, field: str, value: int, reason: int) -> None:
    body = bars(33, T0_NS + np.arange(3) * 60 * SECOND_NS)
    body[field][1] = value
    feed = feed_of(tmp_path, body.tobytes(), [ES], schema=SEC.OHLCV_1M)
    assert len(rows_of(feed)) == 2
    assert feed.counters == {reason: 1}


def test_daily_bar_behind_a_weekend_is_no_jump_even_as_the_last(tmp_path: Path) -> None:
    body = bars(35, T0_NS + np.array([0, 1, 4]) * DAY_NS)
    feed = feed_of(tmp_path, body.tobytes(), [ES], schema=SEC.OHLCV_1D)
    assert len(rows_of(feed)) == 3
    assert feed.counters == {}
    assert (feed.receive_times() > 0).all()


def test_status_has_a_neutral_action_and_the_venues_code(tmp_path: Path) -> None:
    actions = [*range(16), 99, 0, 14]
    trading = [b"~"] * 17 + [b"N", b"Y"]
    body = lines(18, len(actions), action=actions, reason=3, trading_event=2, is_trading=trading)
    rows = rows_of(feed_of(tmp_path, body.tobytes(), [ES], schema=SEC.STATUS))
    assert set(rows["kind"].tolist()) == {STATUS}
    assert rows["action"].tolist() == [
        UNKNOWN_STATUS, PRE_OPEN, AUCTION, PRE_OPEN, AUCTION, AUCTION, UNKNOWN_STATUS, TRADING, HALT, PAUSED, HALT, UNKNOWN_STATUS,
        CLOSED, CLOSED, UNKNOWN_STATUS, CLOSED, UNKNOWN_STATUS, PAUSED, TRADING,
    ]  # fmt: skip
    assert rows["status"].tolist() == [a | 3 << 16 | 2 << 32 for a in actions]


def defined(count: int = 1, **columns: Any) -> np.ndarray[Any, Any]:
    """Definitions of a future that is in no table: tick 0.05, a tick worth 2.50."""
    stated = {"min_price_increment": 50_000_000, "min_price_increment_amount": 2_500_000_000, "contract_multiplier": 2**31 - 1}
    return lines(19, count, **{**stated, "currency": b"EUR", "security_update_action": b"A", **columns})


def test_definition_is_a_row_and_the_grid(tmp_path: Path) -> None:
    feed = feed_of(tmp_path, defined(2, min_price_increment=[50_000_000, 100_000_000]).tobytes(), schema=SEC.DEFINITION)
    assert feed.instruments == (Instrument("ESH4", "glbx", Decimal("0.05"), Decimal(1), "EUR", Decimal(50)),)
    rows = rows_of(feed)
    assert rows["kind"].tolist() == [INSTRUMENT] * 2
    assert rows["tick_mantissa"].tolist() == [50_000_000, 100_000_000]  # as stated each time
    assert (rows["tick_exponent"][0], rows["lot_mantissa"][0], rows["lot_exponent"][0]) == (-9, 1, 0)
    assert (rows["notional_num"][0], rows["notional_den"][0], rows["fee_den"][0]) == (250_000_000, 1, 1)


def test_definition_that_deletes_or_is_too_large_is_counted(tmp_path: Path) -> None:
    body = defined(3, security_update_action=[b"A", b"D", b"M"])
    body["min_price_increment"][2], body["min_price_increment_amount"][2], body["contract_multiplier"][2] = UNDEF - 1, 0, 2**31 - 2
    feed = feed_of(tmp_path, body.tobytes(), schema=SEC.DEFINITION)
    assert rows_of(feed)["kind"].tolist() == [INSTRUMENT]
    assert feed.counters == {reasons.UNKNOWN_RECORD: 1, reasons.OUT_OF_INT64: 1}


@pytest.mark.parametrize(
    ("tick", "amount", "contract", "money"),
    [
        (250_000_000, 12_500_000_000, 2**31 - 1, Decimal(50)),
        (15_625_000, 15_625_000_000, 1, Decimal(1000)),
        (10_000_000, UNDEF, 100, Decimal(100)),
        (10_000_000, 0, 2**31 - 1, None),
        (3, 10, 7, Decimal(7)),  # a third has no end
    ],
)
def test_multiplier_is_the_money_of_a_tick_over_the_tick(tick: int, amount: int, contract: int, money: Decimal | None) -> None:
    assert multiplier_of(tick, amount, contract) == money


def test_what_one_feed_defines_is_the_grid_of_the_others(tmp_path: Path) -> None:
    files = {
        "a": header(SEC.DEFINITION) + defined().tobytes(),
        "b": header(SEC.TRADES) + trades(2, price=[100 * TICK, 102 * TICK]).tobytes(),
        "c": header(SEC.MBO) + records([("A", "B", 1, 100, 1, LAST)]).tobytes(),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    feeds, table = open_feeds([str(tmp_path / name) for name in files], [])
    assert table == (Instrument("ESH4", "glbx", Decimal("0.05"), Decimal(1), "EUR", Decimal(50), "l3"),)
    rows = [row for feed in feeds[1:] for window in feed.windows(9) for row in window]
    assert [int(row["price_ticks"]) for row in rows] == [500, 510, 500]
    assert open_feeds([str(tmp_path / "b"), str(tmp_path / "a")], [ES])[1] == (ES,)


def test_number_that_is_used_again_names_the_symbol_of_its_day(tmp_path: Path) -> None:
    again = {"ESH4": [(25, 26, str(ESH4))], "NQH4": [(26, 27, str(ESH4))]}
    moments = T0_NS + np.array([0, 2, 26]) * 3600 * SECOND_NS  # 22:00, midnight, and a day later
    feed = feed_of(tmp_path, trades(3, ts_event=moments, ts_recv=moments).tobytes(), schema=SEC.TRADES, symbols=again)
    assert [i.symbol for i in feed.instruments] == ["ESH4", "NQH4"]
    assert rows_of(feed)["instrument_id"].tolist() == [0, 1]
    assert feed.counters == {reasons.UNKNOWN_SYMBOL: 1}


def test_metadata_may_map_numbers_to_symbols(tmp_path: Path) -> None:
    feed = feed_of(tmp_path, trades(1).tobytes(), schema=SEC.TRADES, symbols={str(ESH4): [(25, 26, "ESH4")]})
    assert [i.name for i in feed.instruments] == ["ESH4.glbx"]
    assert len(rows_of(feed)) == 1


def mapping(number: int, symbol: bytes, at_ns: int) -> bytes:
    out = np.zeros(1, np.dtype(dbn.SymbolMappingMsg._dtypes))
    out["length"], out["rtype"], out["instrument_id"], out["ts_event"] = out.itemsize // 4, 22, number, at_ns
    out["stype_in_symbol"], out["stype_out_symbol"] = b"ES.c.0", symbol
    return out.tobytes()


def test_live_capture_of_several_schemas_is_read_in_its_order(tmp_path: Path) -> None:
    orders = records([("A", "B", 1, 100, 1, LAST), ("A", "B", 2, 100, 1, LAST)])
    parts = [mapping(ESH4, b"ESH4", T0_NS), orders[:1].tobytes(), trades(1).tobytes(), quotes(195, 1).tobytes(), orders[1:].tobytes()]
    feed = feed_of(tmp_path, b"".join(parts), schema=None, symbols={})
    rows = rows_of(feed)
    assert rows["kind"].tolist() == [BOOK_DELTA, TRADE, QUOTE, BOOK_DELTA]
    assert rows["origin"].tolist() == [1, 2, 3, 4]
    assert feed.counters == {reasons.UNKNOWN_RECORD: 1}
    assert feed.first_offenders[reasons.UNKNOWN_RECORD] == "day.dbn.zst: a record of type 22, symbol mapping"


def test_live_mapping_holds_from_its_time_on(tmp_path: Path) -> None:
    moved = mapping(ESH4, b"ESH4", T0_NS) + mapping(ESH4, b"ESM4", T0_NS + 101)
    feed = feed_of(tmp_path, moved + trades(3).tobytes(), schema=SEC.TRADES, symbols={})
    assert [i.symbol for i in feed.instruments] == ["ESH4", "ESM4"]
    assert rows_of(feed)["instrument_id"].tolist() == [0, 1, 1]


def test_records_with_a_time_of_sending_behind_them_are_read(tmp_path: Path) -> None:
    longer = np.dtype([("record", trades(0).dtype), ("ts_out", "<u8")])
    body = np.zeros(3, longer)
    body["record"] = trades(3, length=longer.itemsize // 4)
    for schema, rtype, columns in ((SEC.TRADES, 0, trades(3)), (SEC.MBP_1, 1, quotes(1, 3, action=b"A", flags=LAST))):
        body = np.zeros(3, [("record", columns.dtype), ("ts_out", "<u8")])
        body["record"] = columns
        body["record"]["length"] = body.itemsize // 4
        body["ts_out"] = 2**64 - 1
        rows = rows_of(feed_of(tmp_path, body.tobytes(), [ES], schema=schema, ts_out=True))
        assert (rtype, sorted(set(rows["origin"].tolist()))) == (rtype, [0, 1, 2])
        assert rows["ts_recv_ns"][-1] == T0_NS + 102


def test_files_of_several_schemas_are_several_feeds(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(header(SEC.TRADES))
    (tmp_path / "b").write_bytes(header(SEC.BBO_1S))
    with pytest.raises(NotAFeedError, match="are of different schemas, trades, bbo-1s; name them as several feeds"):
        feed_of(tmp_path, b"", schema=SEC.TRADES).__class__("x", [tmp_path / "a", tmp_path / "b"], [])


@pytest.mark.parametrize("version", [0, 4, 255])
def test_version_that_is_not_known_is_refused_in_words(tmp_path: Path, version: int) -> None:
    head = bytearray(header())
    head[3] = version
    (tmp_path / "a.dbn").write_bytes(zstandard.compress(bytes(head)))
    with pytest.raises(NotAFeedError, match=f"a.dbn is of DBN version {version}; the engine reads 1, 2 and 3"):
        open_feeds([str(tmp_path / "a.dbn")], [])


@pytest.mark.parametrize("rtype", [0, 1, 10, 18, 19, 32, 160, 177, 195, 197])
def test_record_in_a_file_of_a_schema_without_rows_is_counted(tmp_path: Path, rtype: int) -> None:
    feed = feed_of(tmp_path, lines(rtype, 2).tobytes(), schema=dbn.Schema.STATISTICS)
    assert len(rows_of(feed)) == 0
    assert feed.counters == {reasons.UNKNOWN_RECORD if rtype == 0 else reasons.UNKNOWN_SYMBOL: 2}


def test_a_mapping_of_a_day_that_is_none_is_told(tmp_path: Path) -> None:
    path = tmp_path / "day.dbn"
    path.write_bytes(header().replace((20231225).to_bytes(4, "little"), (1225).to_bytes(4, "little")))
    with pytest.raises(NotAFeedError, match=r"day.dbn: its mapping of symbols cannot be read: year 0 is out of range"):
        open_feed(str(path))
