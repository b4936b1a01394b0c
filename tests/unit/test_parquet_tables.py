"""Parquet tables: the same records as from CSV, decimals exactly, doubles only where they lie on the grid."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handlers.ingest.errors import FeedError, NotAFeedError, UnreadableError
from handlers.ingest.tables import parquet
from handlers.ingest.tables.map import Columns, TableMap, TableTime
from handlers.ingest.tables.feed import TableFeed
from tests.unit.made_tables import T0, TRADES, counted, of_text, opened, rows_of
from transport.instruments import Instrument
from transport.records import NO_SIDE, SELL

CENTS = Instrument("X", "v", Decimal("0.01"), Decimal("0.001"))


def of_columns(tmp_path: Path, columns: dict[str, Any], table: TableMap = TRADES, known: tuple[Instrument, ...] = (CENTS,)) -> TableFeed:
    """Columns as a Parquet feed, in row groups of three."""
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=3)
    return opened(path, table, known)


def trades(**columns: Any) -> dict[str, Any]:
    """Columns of trades, four rows unless told otherwise."""
    rows = len(next(iter(columns.values()))) if columns else 4
    return {"t": pa.array([T0 + n for n in range(rows)]), "p": pa.array([1] * rows), "q": pa.array([1] * rows), "s": pa.array(["buy"] * rows), **columns}


def test_decimals_integers_and_texts_are_exact(tmp_path: Path) -> None:
    exact = [Decimal("61800.30"), Decimal("-0.01"), Decimal("90071992547409.93"), Decimal("0")]
    for column in (pa.array(exact, pa.decimal128(38, 2)), pa.array(exact, pa.decimal128(38, 18)), pa.array([str(p) for p in exact])):
        rows = rows_of(of_columns(tmp_path, trades(p=column)))
        assert rows["price_ticks"].tolist() == [6_180_030, -1, 9_007_199_254_740_993, 0]
        assert rows["qty_lots"].tolist() == [1000] * 4


def test_doubles_are_the_grid_they_stand_for_or_are_counted(tmp_path: Path) -> None:
    """0.1 + 0.2 is no multiple of 0.01, and is one within a millionth of a tick; 0.30001 is not."""
    feed = of_columns(tmp_path, trades(p=pa.array([0.1 + 0.2, 61800.3, -1.15, 0.30001, 1e300, float("nan")])))
    assert rows_of(feed)["price_ticks"].tolist() == [30, 6_180_030, -115]
    assert counted(feed) == {"PRICE_OFF_GRID": 1, "OUT_OF_INT64": 1, "MISSING_FIELD": 1}


@pytest.mark.parametrize(("value", "ticks"), [(0.30 + 0.9e-8, [30]), (0.30 + 1.1e-8, [])])
def test_the_tolerance_is_a_millionth_of_a_tick(tmp_path: Path, value: float, ticks: list[int]) -> None:
    assert rows_of(of_columns(tmp_path, trades(p=pa.array([value]))))["price_ticks"].tolist() == ticks


@pytest.mark.parametrize("column", [
    pa.array([datetime(2024, 8, 8, 12, tzinfo=UTC)], pa.timestamp("us", "UTC")), pa.array([datetime(2024, 8, 8, 8)], pa.timestamp("ms")),
    pa.array([1_723_118_400 * 10**9]), pa.array(["2024-08-08T12:00Z"]), pa.array(["2024-08-08 08:00"]).dictionary_encode(),
])  # fmt: skip
def test_times_are_stamps_counts_or_text_on_the_maps_clock_unless_they_say_otherwise(tmp_path: Path, column: Any) -> None:
    table = TableMap("trade", venue="v", symbol="X", columns=TRADES.columns, time=TableTime(zone="America/New_York"))
    if pa.types.is_integer(column.type):
        table = TRADES  # a count has no zone
    rows = rows_of(of_columns(tmp_path, trades(t=column), table))
    assert rows["ts_event_ns"].tolist() == [1_723_118_400 * 10**9]


def test_dates_of_daily_bars_open_at_midnight(tmp_path: Path) -> None:
    table = TableMap("bar", venue="v", symbol="X", interval="1d", time=TableTime(zone="America/New_York"), columns=Columns(open_time="d", close="c"))
    rows = rows_of(of_columns(tmp_path, {"d": pa.array([date(2024, 3, 10)]), "c": pa.array([1.5])}, table))
    assert rows[["ts_open_ns", "ts_event_ns"]].tolist() == [(1_710_046_800 * 10**9, 1_710_129_600 * 10**9)], "a day of 23 hours"


def test_sides_symbols_and_what_is_missing(tmp_path: Path) -> None:
    table = TableMap("trade", venue="v", columns=Columns(time="t", price="p", qty="q", side="s", symbol="i"))
    columns = trades(s=pa.array(["sell", None, "buy", "up", "b"]), i=pa.array(["A", "B", None, "A", "A"]).dictionary_encode(), p=pa.array([1, 2, 3, 4, None]))
    feed = of_columns(tmp_path, columns, table, known=())
    rows = rows_of(feed)
    assert [i.name for i in feed.instruments] == ["A.v", "B.v"]
    assert rows[["instrument_id", "side", "price_ticks"]].tolist() == [(0, SELL, 1), (1, NO_SIDE, 2)]
    assert counted(feed) == {"MISSING_FIELD": 2, "WRONG_TYPE": 1}
    assert feed.first_offenders.popitem()[1].startswith("line ")


def test_grids_are_inferred_from_the_values_not_from_a_columns_scale(tmp_path: Path) -> None:
    columns = trades(p=pa.array([Decimal("1.5"), Decimal("2.25")], pa.decimal128(38, 18)), q=pa.array([0.1, 0.125]))
    (instrument,) = of_columns(tmp_path, columns, known=()).instruments
    assert (str(instrument.tick), str(instrument.lot)) == ("0.01", "0.001")


def test_a_wide_table_has_a_bar_for_each_symbol_that_has_a_close(tmp_path: Path) -> None:
    table = TableMap("bar", venue="v", wide=True, interval="1d", columns=Columns(open_time="Date"))
    columns = {"Date": pa.array(["1990-01-02", "soon", "1990-01-04"]), "A": pa.array([1.5, 2.0, None]), "B": pa.array([20.0, 21.0, 22.5])}
    feed = of_columns(tmp_path, columns, table, known=())
    assert rows_of(feed)[["instrument_id", "close_ticks"]].tolist() == [(0, 15), (1, 200), (1, 225)]
    assert counted(feed) == {"WRONG_TYPE": 1}


def test_text_and_parquet_of_the_same_table_are_the_same_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    chance = random.Random(seed)
    lines = [(T0 + n, Decimal(chance.randrange(-50, 9999)) / 100, Decimal(chance.randrange(-1, 999)) / 1000, chance.choice(("buy", "sell", "", "?"))) for n in range(300)]
    text = "t,p,q,s\n" + "".join(f"{t},{p},{q},{s}\n" for t, p, q, s in lines)
    t, p, q, s = (list(column) for column in zip(*lines, strict=True))
    from_text = of_text(tmp_path, text, instruments=(CENTS,))
    due = rows_of(from_text)
    due["origin"] -= 1  # of the header
    monkeypatch.setattr(parquet, "BATCH_LINES", 37)
    columns = {"t": pa.array(t), "p": pa.array(p), "q": pa.array([float(x) for x in q]), "s": pa.array(s)}
    feed = of_columns(tmp_path, columns)
    assert (rows_of(feed, 50).view(np.uint8) == due.view(np.uint8)).all()
    assert counted(feed) == counted(from_text)
    assert len(due) < 300


def test_a_file_that_is_no_parquet_behind_its_first_bytes_is_told(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UnreadableError, match=r"table.parquet cannot be read as Parquet"):
        opened(path, TRADES)


def test_a_name_that_is_no_text_is_told(tmp_path: Path) -> None:
    of_columns(tmp_path, trades())
    path = tmp_path / "table.parquet"
    path.write_bytes(path.read_bytes().replace(b"ARROW:schema", b"ARROW:lost!!").replace(b"\x18\x01p", b"\x18\x01\xf1"))
    with pytest.raises(UnreadableError, match="has a column whose name is no text"):
        opened(path, TRADES)


def test_whatever_arrow_says_of_damage_is_told_in_one_line(tmp_path: Path) -> None:
    of_columns(tmp_path, trades(p=pa.array(range(40)), t=pa.array(range(T0, T0 + 40))))
    path = tmp_path / "table.parquet"
    whole = path.read_bytes()
    for seed in range(150):
        draw, damaged = random.Random(seed), bytearray(whole)
        for _ in range(3):
            damaged[draw.randrange(4, len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        told = []
        try:
            feed = opened(path, TRADES)
            rows_of(feed)
            told += feed.first_offenders.values()
        except FeedError as error:
            told.append(str(error))
        assert not any("\n" in words for words in told), seed


def test_a_damaged_row_group_ends_the_feed_and_is_counted(tmp_path: Path) -> None:
    feed = of_columns(tmp_path, trades(p=pa.array(range(1000))))
    path = tmp_path / "table.parquet"
    data = bytearray(path.read_bytes())
    data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)
    path.write_bytes(data)
    assert len(rows_of(feed)) < 1000
    assert counted(feed) == {"UNREADABLE": 1}


SYMBOLS = TableMap("trade", venue="v", columns=Columns(time="t", price="p", qty="q", symbol="s"))
AB = tuple(Instrument(symbol, "v", Decimal("0.1"), Decimal(1)) for symbol in "AB")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
def test_an_empty_text_is_missing_in_whatever_it_is_kept(tmp_path: Path, kind: Any) -> None:
    columns = trades(s=pa.array(["", "B", "A"]).cast(kind), p=pa.array(["1.5", "", "2.5"]).cast(kind))
    feed = of_columns(tmp_path, columns, SYMBOLS, AB)
    assert rows_of(feed)[["instrument_id", "price_ticks"]].tolist() == [(0, 25)]
    assert counted(feed) == {"MISSING_FIELD": 2}


def test_blanks_around_a_symbol_are_none_of_it(tmp_path: Path) -> None:
    feed = of_columns(tmp_path, trades(s=pa.array([" A", "B "])), SYMBOLS, ())
    assert [i.name for i in feed.instruments] == ["A.v", "B.v"]
    assert rows_of(feed)["instrument_id"].tolist() == [0, 1]


@pytest.mark.parametrize("column", [
    pa.array([2**64 // 1000 + T0 * 1000, T0 * 1000], pa.timestamp("us")),  # the year 2609: in ns and 64 bits, some 2024
    pa.array([-(2**64 // 1000) + T0 * 1000, T0 * 1000], pa.timestamp("us")),
    pa.array([213_504 + T0 // 86_400_000, T0 // 86_400_000], pa.date32()),
])  # fmt: skip
def test_a_time_that_64_bits_of_ns_do_not_hold_is_no_other_time(tmp_path: Path, column: Any) -> None:
    feed = of_columns(tmp_path, trades(t=column))
    assert rows_of(feed)["origin"].tolist() == [1]
    assert counted(feed) == {"TIME_OUT_OF_RANGE": 1}


@pytest.mark.parametrize(("column", "close_ns"), [
    (pa.array([T0 + 59_999]), (T0 + 60_000) * 10**6),
    (pa.array([T0 + 59_999], pa.timestamp("ms")), (T0 + 60_000) * 10**6),
    (pa.array([(T0 + 60_000) * 1000 - 1], pa.timestamp("us", "UTC")), (T0 + 60_000) * 10**6),
    (pa.array([19_943], pa.date32()), 19_944 * 86_400 * 10**9),
    (pa.array([19_943 * 86_400_000], pa.date64()), 19_944 * 86_400 * 10**9),
])  # fmt: skip
def test_the_last_unit_within_a_bar_leads_to_its_end_whatever_the_unit(tmp_path: Path, column: Any, close_ns: int) -> None:
    table = TableMap("bar", venue="v", symbol="X", interval="1m", columns=Columns(close_time="t", close="p"), time=TableTime(close_is_last=True))
    rows = rows_of(of_columns(tmp_path, {"t": column, "p": [1]}, table))
    assert rows[["ts_open_ns", "ts_event_ns"]].tolist() == [(close_ns - 60 * 10**9, close_ns)]


@pytest.mark.parametrize("key", ["p", "s"])
@pytest.mark.parametrize("column", [pa.array([{"a": 1}]), pa.array([[1]]), pa.array([b"\xff"])], ids=["struct", "list", "no text"])
def test_a_column_that_holds_no_cells_is_told(tmp_path: Path, key: str, column: Any) -> None:
    with pytest.raises(UnreadableError, match="has a column that is none of a table"):
        of_columns(tmp_path, trades(t=pa.array([T0]), **{key: column}), SYMBOLS, AB)


def test_a_side_that_holds_no_cells_ends_the_feed_and_is_counted(tmp_path: Path) -> None:
    feed = of_columns(tmp_path, trades(t=pa.array([T0]), s=pa.array([[1]])))
    assert len(rows_of(feed)) == 0
    assert counted(feed) == {"UNREADABLE": 1}


def test_a_column_that_is_there_twice_is_told(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([T0]), *[pa.array([1])] * 3], ["t", "p", "q", "p"]), path)
    with pytest.raises(NotAFeedError, match=r"columns\.price = 'p': the header has 2 such columns"):
        opened(path, TableMap("trade", venue="v", symbol="X", columns=Columns(time="t", price="p", qty="q")))


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotAFeedError, match=r"columns.price = 'p': the header has no such column"):
        of_columns(tmp_path, {"t": pa.array([T0]), "q": pa.array([1]), "s": pa.array(["b"])})


def test_doubles_with_noise_are_the_steps_that_the_others_tell(tmp_path: Path) -> None:
    feed = of_columns(tmp_path, trades(p=pa.array([0.1 + 0.2, 0.25, 1.5])), known=())
    assert [str(i.tick) for i in feed.instruments] == ["0.01"]
    assert rows_of(feed)["price_ticks"].tolist() == [30, 25, 150]
    assert counted(feed) == {}


def test_decimals_of_any_length_are_exact_and_tell_the_tick(tmp_path: Path) -> None:
    feed = of_columns(tmp_path, trades(p=pa.array([Decimal("1.123456789012345678"), Decimal(2)], pa.decimal128(38, 18))), known=())
    assert [i.tick for i in feed.instruments] == [Decimal("1E-18")]
    assert len(rows_of(feed)) == 2


def test_floats_of_32_bits_are_the_decimals_that_they_show(tmp_path: Path) -> None:
    """61800.3 is 61800.30078125 to them: no price anybody made, and no step of a grid."""
    feed = of_columns(tmp_path, trades(p=pa.array([61800.3, 0.1, None, float("nan"), 1e-2], pa.float32())), known=())
    assert [str(i.tick) for i in feed.instruments] == ["0.01"]
    assert rows_of(feed)["price_ticks"].tolist() == [6_180_030, 10, 1]
    assert counted(feed) == {"MISSING_FIELD": 2}
