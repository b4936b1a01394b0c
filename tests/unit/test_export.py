"""Exported tables: exact decimals, the right rows, whole files or none."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.export import FORMATS, TABLES, TOP, ExportError, columns_of, decimal_text, write_table
from engine.tables import COLUMNS, DECIMAL_KINDS, KINDS_OF, NUMBER_KINDS, TEXT_KINDS
from handlers.domain import reasons
from handlers.domain.schema import FEATURES, SCHEMA_ID
from handlers.ingest.synthetic.feed import SyntheticFeed
from transport.instruments import Instrument, plain
from transport.records import (
    ACCEPTED,
    ACK,
    AFTER_FILL,
    ASK,
    BAR,
    BUY,
    CANCEL,
    FEATURE,
    FILL,
    GTC,
    IOC,
    KIND_OF,
    LIMIT_ORDER,
    MAKER,
    MARKED,
    MARKET_ORDER,
    NO_INSTRUMENT,
    ORDER,
    POSITION,
    QUOTE,
    REC,
    REJECT,
    SELL,
    SIGNAL,
    TAKER,
    TRADE,
    dtype_of,
    empty,
)

BTC = Instrument("BTCUSDT", "binance", Decimal("0.01"), Decimal("0.00001"), quote="USDT")
ES = Instrument("ESH4", "glbx", Decimal("0.25"), Decimal(1), multiplier=Decimal(50))
INSTRUMENTS = (BTC, ES)
Table = list[dict[str, str]]


def rows_of(*rows: dict[str, Any]) -> np.ndarray[Any, Any]:
    out = empty(len(rows))
    for slot, row in zip(out, rows, strict=True):
        for name, value in row.items():
            slot[name] = value
    return out


def exported(tmp_path: Path, table: str, rows: np.ndarray[Any, Any], **options: Any) -> Table:
    path = tmp_path / "table.csv"
    write_table([rows], table, INSTRUMENTS, path, **options)
    return list(csv.DictReader(path.open(newline="")))


@given(st.integers(-(2**63) * 25, 2**63 * 25), st.integers(-3, 20))
def test_decimal_text_is_the_exact_value_without_trailing_zeros(units: int, decimals: int) -> None:
    text = decimal_text(units, decimals)
    sign, digits = int(units < 0), tuple(map(int, str(abs(units))))
    assert Decimal(text) == Decimal((sign, digits, -decimals))
    assert text == plain(Decimal((sign, digits, -decimals)))


def test_every_column_names_a_field_of_the_kinds_its_table_is_made_of() -> None:
    for table in TABLES:
        for column in COLUMNS[table]:
            assert column.kind in (*NUMBER_KINDS, *DECIMAL_KINDS, *TEXT_KINDS)
            field = column.field.partition(".")[0]
            if table == "tops":
                assert field in (TOP.names or ())
                continue
            if column.field == "net":
                continue  # computed from two fields
            assert any(field in (dtype_of(KIND_OF[kind]).names or ()) for kind in KINDS_OF[table])


def test_trades_leave_as_exact_decimals_with_the_aggressors_side(tmp_path: Path) -> None:
    rows = rows_of(
        {
            "kind": TRADE,
            "ts_event_ns": 5,
            "ts_recv_ns": 7,
            "venue_seq": 42,
            "price_ticks": 6160202,
            "qty_lots": 150000,
            "side": BUY,
            "conditions": 2**31,
        },
        {"kind": QUOTE, "price_ticks": 1, "qty_lots": 1},
        {"kind": TRADE, "instrument_id": 1, "price_ticks": 19_003, "qty_lots": 3, "side": SELL},
        {"kind": TRADE, "instrument_id": 1, "price_ticks": -2, "qty_lots": 2**62, "side": 0},
    )
    first, second, third = exported(tmp_path, "trades", rows)
    assert first == {
        "ts_event_ns": "5", "ts_recv_ns": "7", "instrument": "BTCUSDT.binance", "trade_id": "42", "price": "61602.02",
        "qty": "1.5", "side": "BUY", "conditions": "2147483648",
    }  # fmt: skip
    assert (second["instrument"], second["price"], second["qty"], second["side"]) == (
        "ESH4.glbx",
        "4750.75",
        "3",
        "SELL",
    )
    assert (third["price"], third["qty"], third["side"]) == ("-0.5", str(2**62), "")


def test_quotes_leave_an_empty_side_empty(tmp_path: Path) -> None:
    rows = rows_of({"kind": QUOTE, "price_ticks": 100, "qty_lots": 7, "ask_ticks": 0, "ask_lots": 0, "venue_seq": 9})
    (quote,) = exported(tmp_path, "quotes", rows)
    assert (quote["bid"], quote["bid_qty"], quote["ask"], quote["ask_qty"]) == ("1", "0.00007", "", "")


def test_tops_of_one_binance_instrument_have_five_columns_and_one_row_per_event(tmp_path: Path) -> None:
    tops = np.zeros(2, TOP)
    tops["venue_seq"] = (50197935611, 50197935612)
    tops["bid_ticks"], tops["bid_lots"] = 5512201, (123000, 100000)
    tops["ask_ticks"], tops["ask_lots"] = (5512210, 5512300), 1
    path = tmp_path / "tops.csv"
    assert write_table([tops], "tops", [BTC], path) == 2
    assert path.read_text() == (
        "u,bid,bid_qty,ask,ask_qty\n50197935611,55122.01,1.23,55122.1,0.00001\n50197935612,55122.01,1,55123,0.00001\n"
    )


def test_tops_of_other_venues_say_when_and_of_what(tmp_path: Path) -> None:
    tops = np.zeros(1, TOP)
    tops["instrument_id"], tops["ask_ticks"], tops["ask_lots"], tops["ask_orders"] = 1, 19_000, 4, 2
    (top,) = exported(tmp_path, "tops", tops)
    assert (top["instrument"], top["bid"], top["ask"], top["ask_qty"], top["ask_orders"]) == (
        "ESH4.glbx",
        "",
        "4750",
        "4",
        "2",
    )


def test_bars_sum_to_an_exact_notional(tmp_path: Path) -> None:
    bar = {"open_ticks": 4, "high_ticks": 9, "low_ticks": 3, "close_ticks": 5, "volume_lots": 10, "trades": 2}
    rows = rows_of({"kind": BAR, "instrument_id": 1, "notional_ticks_lots": 61, "interval_ns": 60, "side": ASK, "session": 15_985, **bar})
    (row,) = exported(tmp_path, "bars", rows)
    assert (row["side"], row["session"]) == ("ASK", "15985")
    assert (row["open"], row["high"], row["low"], row["close"]) == ("1", "2.25", "0.75", "1.25")
    assert (row["volume"], row["trades"], row["interval_ns"]) == ("10", "2", "60")
    assert Decimal(row["notional"]) == 61 * ES.tick * ES.multiplier


def test_features_leave_under_their_names_and_read_back_as_the_same_floats(tmp_path: Path) -> None:
    values = [0.1 + 0.2, -1e-300, 5.0, 1 / 3, 0.0, 2.0**60, -0.5, 1e22]
    (row,) = exported(tmp_path, "features", rows_of({"kind": FEATURE, "schema_id": SCHEMA_ID, "values": values}))
    assert [float(row[f.name]) for f in FEATURES] == values
    with pytest.raises(ExportError, match="another schema"):
        exported(tmp_path, "features", rows_of({"kind": FEATURE, "schema_id": SCHEMA_ID + 1}))


def test_signals_leave_with_their_strategy(tmp_path: Path) -> None:
    (row,) = exported(
        tmp_path, "signals", rows_of({"kind": SIGNAL, "strategy_id": 3, "value": 0.25, "strength": 1.5, "seq": 8})
    )
    assert (row["seq"], row["strategy_id"], row["value"], row["strength"]) == ("8", "3", "0.25", "1.5")


def test_orders_tell_their_whole_life_and_why_they_were_refused(tmp_path: Path) -> None:
    base = {"order_id": 77, "side": SELL, "qty_lots": 200_000}
    rows = rows_of(
        {"kind": ORDER, "order_type": LIMIT_ORDER, "tif": GTC, "price_ticks": 101, **base},
        {"kind": ACK, "action": ACCEPTED, "order_type": LIMIT_ORDER, "price_ticks": 101, **base},
        {"kind": ORDER, "order_type": MARKET_ORDER, "tif": IOC, **base},
        {"kind": REJECT, "order_type": MARKET_ORDER, "reason": reasons.SEQUENCE_GAP, **base},
        {"kind": CANCEL, "instrument_id": NO_INSTRUMENT},
        {"kind": FILL, **base},
    )
    table = exported(tmp_path, "orders", rows)
    assert [r["event"] for r in table] == ["ORDER", "ACCEPTED", "ORDER", "REJECT", "CANCEL"]
    assert [r["price"] for r in table] == ["1.01", "1.01", "", "", ""]
    assert [r["reason"] for r in table] == ["", "", "", "SEQUENCE_GAP", ""]
    assert (table[0]["order_type"], table[0]["tif"], table[2]["order_type"], table[2]["tif"]) == (
        "LIMIT",
        "GTC",
        "MARKET",
        "IOC",
    )
    assert (table[4]["instrument"], table[4]["qty"]) == ("", "")
    assert {r["order_id"] for r in table[:4]} == {"77"}


def test_fills_leave_fee_and_cash_in_their_currency(tmp_path: Path) -> None:
    fill = {"kind": FILL, "order_id": 5, "side": BUY, "price_ticks": 6160202, "qty_lots": 1000, "strategy_id": 1}
    rows = rows_of(
        {**fill, "action": TAKER, "fee": 30801010, "cash": -61602020000},
        {**fill, "action": MAKER, "fee": -1, "leaves_lots": 5},
    )
    first, second = exported(tmp_path, "fills", rows)
    assert (first["fee"], first["cash"], first["currency"], first["liquidity"]) == (
        "0.3080101",
        "-616.0202",
        "USDT",
        "TAKER",
    )
    assert (second["fee"], second["liquidity"], second["leaves_qty"]) == ("-0.00000001", "MAKER", "0.00005")
    (cents, _) = exported(tmp_path, "fills", rows, money_decimals=2)
    assert cents["fee"] == "308010.1"


def test_positions_show_what_is_unrealised_only_where_it_was_marked(tmp_path: Path) -> None:
    rows = rows_of(
        {"kind": POSITION, "action": AFTER_FILL, "qty_lots": -100_000, "cost": -5 * 10**8, "realised": 3},
        {"kind": POSITION, "action": MARKED, "qty_lots": -100_000, "unrealised": -(10**7)},
    )
    after, marked = exported(tmp_path, "positions", rows)
    assert (after["cause"], after["position"], after["cost"], after["unrealised"]) == ("FILL", "-1", "-5", "")
    assert (after["realised"], marked["cause"], marked["unrealised"]) == ("0.00000003", "MARK", "-0.1")


def test_pnl_sums_the_accounts_of_a_currency_fill_by_fill(tmp_path: Path) -> None:
    unit = 10**8

    def position(strategy: int, instrument: int, realised: int, fee: int, action: int = AFTER_FILL) -> dict[str, Any]:
        account = {"strategy_id": strategy, "instrument_id": instrument}
        return {"kind": POSITION, "action": action, "realised": realised * unit, "fee": fee * unit, **account}

    rows = rows_of(
        position(1, 0, 0, 1),
        position(2, 0, 10, 2),
        position(1, 0, -4, 3),
        position(1, 0, 999, 999, MARKED),
        position(1, 1, 7, 0),
        position(2, 0, 11, 4),
    )
    path = tmp_path / "pnl.csv"
    assert write_table([rows[:2], rows[2:]], "pnl", INSTRUMENTS, path) == 5
    table = list(csv.DictReader(path.open(newline="")))
    totals = [(r["currency"], r["total_realised"], r["total_fees"], r["total_net"]) for r in table]
    assert totals == [
        ("USDT", "0", "1", "-1"),
        ("USDT", "10", "3", "7"),
        ("USDT", "6", "5", "1"),
        ("USD", "7", "0", "7"),
        ("USDT", "7", "7", "0"),
    ]


def market() -> Iterator[np.ndarray[Any, Any]]:
    return SyntheticFeed(11, 20_000).chunks(3000)


@pytest.mark.parametrize("table", ["trades", "quotes"])
def test_parquet_holds_what_csv_says(tmp_path: Path, table: str) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    instruments = SyntheticFeed(11, 1).instruments
    counts = {f: write_table(market(), table, instruments, tmp_path / f, f) for f in FORMATS}
    assert counts["csv"] == counts["parquet"] > 1000
    parquet = pq.read_table(tmp_path / "parquet")
    kinds = {c.name: c.kind for c in columns_of(table)}
    with (tmp_path / "csv").open(newline="") as file:
        for text, row in zip(csv.DictReader(file), parquet.to_pylist(), strict=True):
            for name, cell in row.items():
                if cell is None:
                    assert text[name] == ""
                elif kinds[name] in DECIMAL_KINDS:
                    assert isinstance(cell, Decimal)
                    assert cell == Decimal(text[name])
                else:
                    assert str(cell) == text[name]


def test_every_table_can_be_written_empty_in_every_format(tmp_path: Path) -> None:
    for table in TABLES:
        for form in FORMATS:
            if form == "parquet":
                pytest.importorskip("pyarrow")
            nothing = np.zeros(0, TOP) if table == "tops" else empty(0)
            assert write_table([nothing], table, INSTRUMENTS, tmp_path / f"{table}.{form}", form) == 0
        header = (tmp_path / f"{table}.csv").read_text()
        assert header == ",".join(c.name for c in columns_of(table)) + "\n"


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "trades.csv"
    path.write_text("old")

    def breaks() -> Iterator[np.ndarray[Any, Any]]:
        yield from SyntheticFeed(1, 500).chunks(100)
        raise RuntimeError("source failed")

    with pytest.raises(RuntimeError, match="source failed"):
        write_table(breaks(), "trades", SyntheticFeed(1, 1).instruments, path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["trades.csv"]


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    """As /dev/null is: a file in a device's place would be everybody's."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(pipe.read_text)
        write_table([rows_of({"kind": TRADE, "qty_lots": 1})], "trades", INSTRUMENTS, pipe)
        assert len(read.result(timeout=30).splitlines()) == 2
    assert pipe.is_fifo()
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_a_link_keeps_pointing_at_the_file_that_is_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "trades.csv")
    for _ in range(2):
        write_table([rows_of({"kind": TRADE, "qty_lots": 1})], "trades", INSTRUMENTS, tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert len((tmp_path / "trades.csv").read_text().splitlines()) == 2


def test_standard_output_stays_open_after_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer))
    write_table([rows_of({"kind": TRADE, "side": ASK, "qty_lots": 1})], "trades", INSTRUMENTS)
    assert not buffer.closed
    assert buffer.getvalue().decode().splitlines()[1] == "0,0,BTCUSDT.binance,0,0,0.00001,SELL,"


def test_says_which_extra_is_missing_when_pyarrow_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ExportError, match=r"tickline\[store\]"):
        write_table([], "trades", INSTRUMENTS, tmp_path / "t.parquet", "parquet")
    assert list(tmp_path.iterdir()) == []


def test_refuses_what_it_cannot_write_by_name(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no table 'candles'; there are trades"):
        write_table([], "candles", INSTRUMENTS, tmp_path / "x")
    with pytest.raises(ExportError, match="no format 'xlsx'"):
        write_table([], "trades", INSTRUMENTS, tmp_path / "x", "xlsx")
    with pytest.raises(ExportError, match="instrument 2 is not in the table of 2"):
        exported(tmp_path, "trades", rows_of({"kind": TRADE, "instrument_id": 2}))
    with pytest.raises(ExportError, match="dtype TOP"):
        exported(tmp_path, "tops", empty(1))
    with pytest.raises(ExportError, match="dtype REC"):
        exported(tmp_path, "trades", np.zeros(1, TOP))
    with pytest.raises(ExportError, match="cannot be written"):
        write_table([], "trades", INSTRUMENTS, tmp_path / "nowhere" / "x")
    assert list(tmp_path.iterdir()) == []


def test_numbers_too_large_for_a_decimal_column_are_refused_not_rounded(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    fine = Instrument("X", "synthetic", Decimal("1e-25"), Decimal(1))
    rows = rows_of({"kind": TRADE, "price_ticks": 2**62, "qty_lots": 1})
    assert write_table([rows], "trades", [fine], tmp_path / "x", "parquet") == 1
    finer = Instrument("X", "synthetic", Decimal("123456789123456789123e-38"), Decimal(1))
    with pytest.raises(ExportError, match="price has a value"):
        write_table([rows], "trades", [finer], tmp_path / "y", "parquet")


def test_selecting_rows_keeps_the_fields_of_their_kind() -> None:
    rows = rows_of({"kind": FILL, "fee": 9, "cash": -3, "strategy_id": 4}, {"kind": TRADE})
    chosen = rows[rows["kind"] == FILL]
    assert chosen.dtype == REC
    assert chosen[["fee", "cash", "strategy_id"]].tolist() == [(9, -3, 4)]
