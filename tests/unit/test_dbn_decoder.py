"""The MBO feed against the publisher's own decoder, and on files written for each case."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import databento_dbn as dbn
import numpy as np
import pytest
import zstandard

from handlers.domain import reasons
from handlers.ingest import blocks
from handlers.ingest.errors import NotAFeedError
from handlers.ingest.dbn import feed as dbn_feed
from handlers.ingest.dbn import files as dbn_files
from handlers.ingest.formats import open_feed
from handlers.ingest.dbn.grid import inferred, known_future
from transport.instruments import Instrument
from transport.records import (
    ADD,
    ASK,
    BID,
    BOOK_DELTA,
    BOOK_SNAPSHOT,
    BUY,
    CLEAR,
    DELETE,
    EVENT_END,
    EVENT_FIRST,
    GAP,
    MODIFY,
    NO_SIDE,
    SELL,
    TRADE,
)

from tests.unit.dbn_lines import DOUBT, ESH4, LAST, SNAPSHOT, SPREAD, T0_NS, Row, feed_of, header, records, rows_of

def test_recorded_day_equals_the_publishers_own_decoder(data_dir: Path) -> None:
    path = data_dir / "databento_mbo_esh4" / "esh4-glbx-mdp3-20231225.mbo.dbn.zst"
    decoder = dbn.DBNDecoder()
    decoder.write(zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read())
    theirs = [r for r in decoder.decode() if isinstance(r, dbn.MBOMsg)]
    feed = open_feed(str(path))
    rows = rows_of(feed)
    kept = [(i, r) for i, r in enumerate(theirs) if str(r.action) != "F"]
    assert rows["origin"].tolist() == [i for i, _ in kept]
    for name, attribute in (("ts_event_ns", "ts_event"), ("ts_recv_ns", "ts_recv"), ("venue_seq", "sequence")):
        assert rows[name].tolist() == [getattr(r, attribute) for _, r in kept]
    assert rows["qty_lots"].tolist() == [r.size for _, r in kept]
    assert (rows["price_ticks"] * 250_000_000).tolist() == [r.price for _, r in kept]
    book = rows["kind"] != TRADE
    orders = [0 if str(r.action) == "T" else r.order_id for _, r in kept]
    assert np.where(book, rows["order_id"], 0).tolist() == orders
    assert feed.receive_times().tolist() == [r.ts_recv for r in theirs]


def test_actions_become_deltas_trades_and_nothing_and_the_end_is_the_last_record_of_the_event(tmp_path: Path) -> None:
    event: list[Row] = [
        ("A", "B", 1, 100, 5, LAST),
        ("T", "A", 0, 100, 2, 0),
        ("F", "B", 1, 100, 2, 0),
        ("M", "B", 1, 99, 3, 0),
        ("C", "B", 1, 99, 3, LAST),
    ]
    feed = feed_of(tmp_path, records(event).tobytes())
    feed.bind({"ESH4.glbx": 9}, 18)
    rows = rows_of(feed)
    assert rows["kind"].tolist() == [BOOK_DELTA, TRADE, BOOK_DELTA, BOOK_DELTA]
    assert rows["action"].tolist() == [ADD, 0, MODIFY, DELETE]
    assert rows["side"].tolist() == [BID, SELL, BID, BID]
    assert rows["flags"].tolist() == [EVENT_END, 0, 0, EVENT_END]
    assert rows["origin"].tolist() == [0, 1, 3, 4]
    assert rows["order_id"][[0, 2, 3]].tolist() == [1, 1, 1]
    assert (set(rows["instrument_id"].tolist()), set(rows["source_id"].tolist())) == ({9}, {18})
    assert feed.counters == {reasons.FILL_SKIPPED: 1}
    assert (feed.lines, feed.messages) == (5, 2)


def test_end_on_a_skipped_fill_moves_to_the_record_before_and_on_a_trade_stays(tmp_path: Path) -> None:
    rows: list[Row] = [
        ("C", "A", 1, 100, 1, 0),
        ("T", "B", 0, 100, 1, 0),
        ("F", "A", 1, 100, 1, LAST),
        ("F", "A", 1, 100, 1, LAST),  # an event that is nothing but a fill has no record to bear its end
        ("T", "N", 0, 101, 4, LAST),
    ]
    found = rows_of(feed_of(tmp_path, records(rows).tobytes()))
    assert found["kind"].tolist() == [BOOK_DELTA, TRADE, TRADE]
    assert found["flags"].tolist() == [0, EVENT_END, EVENT_END]
    assert found["side"].tolist() == [ASK, BUY, NO_SIDE]


def test_snapshot_begins_and_ends_even_without_the_publishers_last(tmp_path: Path) -> None:
    rows: list[Row] = [
        ("A", "B", 1, 100, 1, SNAPSHOT),
        ("A", "A", 2, 102, 1, SNAPSHOT),
        ("A", "B", 3, 99, 1, LAST),
    ]
    found = rows_of(feed_of(tmp_path, records(rows).tobytes()))
    assert found["kind"].tolist() == [BOOK_SNAPSHOT, BOOK_SNAPSHOT, BOOK_DELTA]
    assert found["flags"].tolist() == [EVENT_FIRST, EVENT_END, EVENT_END]


def test_clear_is_a_snapshot_of_an_empty_book_or_the_beginning_of_one(tmp_path: Path) -> None:
    rows: list[Row] = [
        ("R", "N", 0, 0, 0, LAST),
        ("A", "B", 1, 100, 1, LAST),
        ("R", "N", 0, 0, 0, SNAPSHOT),
        ("A", "B", 1, 100, 1, SNAPSHOT | LAST),
    ]
    body = records(rows)
    body["price"][[0, 2]] = dbn.UNDEF_PRICE
    found = rows_of(feed_of(tmp_path, body.tobytes()))
    assert found["kind"].tolist() == [BOOK_SNAPSHOT, BOOK_DELTA, BOOK_SNAPSHOT, BOOK_SNAPSHOT]
    assert found["action"].tolist() == [CLEAR, ADD, CLEAR, ADD]
    assert found["flags"].tolist() == [EVENT_FIRST | EVENT_END, EVENT_END, EVENT_FIRST, EVENT_END]
    assert found["price_ticks"].tolist() == [0, 100, 0, 100]


def spoil_price(r: Any) -> None:
    r["price"] += 1


def spoil_time(r: Any) -> None:
    r["ts_recv"] = dbn.UNDEF_TIMESTAMP


def spoil_size(r: Any) -> None:
    r["size"] = 0


def spoil_order(r: Any) -> None:
    r["order_id"] = 2**63


def spoil_action(r: Any) -> None:
    r["action"] = b"?"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_price, reasons.PRICE_OFF_GRID),
        (spoil_time, reasons.TIME_OUT_OF_RANGE),
        (spoil_size, reasons.NOT_POSITIVE),
        (spoil_order, reasons.OUT_OF_INT64),
        (spoil_action, reasons.UNKNOWN_RECORD),
    ],
)
def test_bad_order_is_a_gap_and_the_book_is_refused_up_to_the_next_snapshot(
    tmp_path: Path, spoil: Any, reason: int
) -> None:
    rows: list[Row] = [
        ("A", "B", 1, 100, 1, LAST),
        ("A", "B", 2, 100, 1, LAST),
        ("A", "B", 3, 100, 1, LAST),
        ("T", "B", 0, 100, 1, LAST),
        ("R", "N", 0, 0, 0, LAST),
        ("A", "B", 4, 100, 1, LAST),
    ]
    body = records(rows)
    spoil(body[1])
    es = Instrument("ESH4", "glbx", Decimal("0.25"), Decimal(1), book="l3")
    feed = feed_of(tmp_path, body.tobytes(), [es])
    found = rows_of(feed)
    assert found["kind"].tolist() == [BOOK_DELTA, GAP, TRADE, BOOK_SNAPSHOT, BOOK_DELTA]
    assert (found["lost"][1], found["flags"][1], found["origin"][1], found["reason"][1]) == (1, EVENT_END, 1, reason)
    assert feed.counters == {reason: 1, reasons.SEQUENCE_GAP: 1, reasons.DEPTH_REFUSED: 1}
    assert feed.first_offenders[reason].startswith("record 2: ")


def test_book_that_the_publisher_doubts_is_a_gap(tmp_path: Path) -> None:
    rows: list[Row] = [("A", "B", i, 100, 1, LAST | (DOUBT if i == 2 else 0)) for i in (1, 2, 3)]
    feed = feed_of(tmp_path, records(rows).tobytes())
    found = rows_of(feed)
    assert found["kind"].tolist() == [BOOK_DELTA, GAP]
    assert found["lost"][1] == -1
    assert feed.counters[reasons.BOOK_DOUBTED] == 1


def test_instruments_of_one_file_are_kept_apart_and_unknown_ones_counted(tmp_path: Path) -> None:
    es = records([("A", "B", 1, 100, 1, LAST), ("A", "B", 2, 100, 1, 0), ("A", "B", 3, 100, 1, LAST)])
    spread = records([("A", "A", 1, 3, 1, LAST), ("A", "A", 2, 5, 1, LAST)], SPREAD)
    stray = records([("A", "B", 9, 1, 1, LAST)], 5)
    body = np.concatenate((es[:2], spread[:1], es[2:], stray, spread[1:]))
    feed = feed_of(tmp_path, body.tobytes(), symbols={"ESH4": ESH4, "ESH4-ESM4": SPREAD})
    feed.bind({"ESH4.glbx": 1, "ESH4-ESM4.glbx": 2}, 16)
    rows = rows_of(feed)
    assert [i.tick for i in feed.instruments] == [Decimal("0.25"), Decimal("0.25")]
    assert rows["instrument_id"].tolist() == [1, 1, 2, 1, 2]
    assert rows["flags"].tolist() == [EVENT_END, 0, EVENT_END, EVENT_END, EVENT_END]
    assert feed.counters == {reasons.UNKNOWN_SYMBOL: 1}


def test_records_of_other_types_are_stepped_over_and_counted(tmp_path: Path) -> None:
    body = records([("A", "B", 1, 100, 1, LAST), ("A", "B", 2, 100, 1, LAST)])
    other = bytes([6, 23]) + bytes(22)
    feed = feed_of(tmp_path, body[:1].tobytes() + other + body[1:].tobytes())
    rows = rows_of(feed)
    assert rows["origin"].tolist() == [0, 2]
    assert (feed.lines, feed.counters) == (3, {reasons.UNKNOWN_RECORD: 1})
    assert feed.receive_times().tolist() == [T0_NS + 100, -1, T0_NS + 101]


def test_file_cut_within_a_record_yields_the_whole_ones(tmp_path: Path) -> None:
    body = records([("A", "B", i, 100, 1, LAST) for i in range(1, 6)]).tobytes()
    feed = feed_of(tmp_path, body[:-10])
    assert rows_of(feed)["order_id"].tolist() == [1, 2, 3, 4]
    assert feed.counters == {reasons.TRUNCATED: 1}
    damaged = feed_of(tmp_path, body[:112] + bytes(56))
    assert rows_of(damaged)["order_id"].tolist() == [1, 2]
    assert damaged.counters == {reasons.UNREADABLE: 1}


def test_zstd_cut_off_yields_what_was_readable(tmp_path: Path, data_dir: Path) -> None:
    whole = (data_dir / "databento_mbo_esh4" / "esh4-glbx-mdp3-20231225.mbo.dbn.zst").read_bytes()
    path = tmp_path / "cut.dbn.zst"
    path.write_bytes(whole[: len(whole) // 2])
    feed = open_feed(str(path))
    assert 10_000 < len(rows_of(feed)) < 60_000
    assert feed.counters[reasons.TRUNCATED] == 1


def test_joined_chunks_depend_neither_on_rows_max_nor_on_the_blocks(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(data_dir / "databento_mbo_esh4" / "esh4-glbx-mdp3-20231225.mbo.dbn.zst")
    expected = rows_of(open_feed(path))
    for block_bytes, rows_max in ((1 << 16, 3), (1 << 20, 1000)):
        monkeypatch.setattr(dbn_files, "BLOCK_BYTES", block_bytes)
        chunks = list(open_feed(path).chunks(rows_max))
        assert b"".join(chunk.tobytes() for chunk in chunks) == expected.tobytes()
        assert all(chunk["flags"][-1] & EVENT_END for chunk in chunks)
        assert all(len(c) <= rows_max or not np.any(c["flags"][:-1] & EVENT_END) for c in chunks)


def test_snapshots_of_more_than_memory_are_cut_between_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every instrument of a venue they follow one another as one: a cut in the middle of one would make its second half the book."""
    def snapshot(first: int) -> list[Row]:
        return [("R", "N", 0, 0, 0, SNAPSHOT), *(("A", "B", first + n, 100 - n, 1, SNAPSHOT) for n in range(8)), ("A", "A", first + 9, 200, 1, SNAPSHOT | LAST)]

    path = tmp_path / "day.dbn"
    body = b"".join(records(snapshot(10 * n), instrument=(ESH4, SPREAD)[n % 2]).tobytes() for n in range(1, 21))
    path.write_bytes(header(symbols={"ESH4": ESH4, "ESH4-ESM4": SPREAD}) + body)
    whole = rows_of(open_feed(str(path)))
    assert np.count_nonzero(whole["flags"] & EVENT_FIRST) == 20
    for module, name in ((blocks, "READ_BYTES"), (dbn_files, "BLOCK_BYTES"), (dbn_feed, "EVENT_BYTES_MAX")):
        monkeypatch.setattr(module, name, 1000)
    assert rows_of(open_feed(str(path))).tobytes() == whole.tobytes()


def test_a_snapshot_of_more_than_memory_is_one_whatever_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two instruments side by side, one with LAST and one without; then events, and the first's next snapshot, on from another file."""
    def orders(number: int, first: int, count: int, last: int) -> np.ndarray[Any, Any]:
        rows: list[Row] = [("A", "B", first + n, 100 - n % 50, 1, SNAPSHOT) for n in range(count)]
        return records([*rows[:-1], (*rows[-1][:5], SNAPSHOT | last)], instrument=number)

    mixed = np.stack([orders(ESH4, 1, 400, LAST), orders(SPREAD, 1000, 400, 0)], axis=1).reshape(-1)
    live = [records([("A", "A", 9000 + n, 300, 1, LAST)], instrument=number) for n, number in enumerate((ESH4, SPREAD) * 3)]
    head = header(symbols={"ESH4": ESH4, "ESH4-ESM4": SPREAD})
    for name, parts in (("a", [mixed, *live]), ("b", [orders(ESH4, 5000, 100, LAST), *live])):
        (tmp_path / f"{name}.dbn").write_bytes(head + b"".join(part.tobytes() for part in parts))
    whole = rows_of(open_feed(str(tmp_path)))
    assert np.count_nonzero(whole["flags"] & EVENT_FIRST) == 3
    for module, name in ((blocks, "READ_BYTES"), (dbn_files, "BLOCK_BYTES"), (dbn_feed, "EVENT_BYTES_MAX")):
        monkeypatch.setattr(module, name, 2000)
    feed = open_feed(str(tmp_path))
    assert rows_of(feed).tobytes() == whole.tobytes()
    assert max(map(len, feed.chunks(1 << 20))) < 100
    assert feed.counters == {}


def test_an_event_that_its_file_does_not_end_has_no_end(tmp_path: Path) -> None:
    rows = rows_of(feed_of(tmp_path, records([("A", "B", 1, 100, 1, LAST), ("A", "B", 2, 99, 1, 0), ("A", "B", 3, 98, 1, 0)]).tobytes()))
    assert (rows["flags"] & EVENT_END != 0).tolist() == [True, False, False]


def test_files_of_different_datasets_are_no_one_feed(tmp_path: Path) -> None:
    for name, dataset in (("a", "GLBX.MDP3"), ("b", "XNAS.ITCH")):
        (tmp_path / f"{name}.mbo.dbn.zst").write_bytes(zstandard.compress(header(dataset=dataset)))
    with pytest.raises(NotAFeedError, match=r"a\.mbo\.dbn\.zst and the files with it are of different datasets"):
        open_feed(str(tmp_path))


@pytest.mark.parametrize(
    ("symbols", "told"),
    [
        ({"ESH4": ESH4, "ESM4": ESH4}, f"uses instrument number {ESH4} for two symbols on one day"),
        ({"ESH4": "ESH4"}, "maps no instrument number to a symbol"),
    ],
)
def test_a_file_whose_numbers_name_no_instrument_or_two_is_refused(
    tmp_path: Path, symbols: dict[str, int | str], told: str
) -> None:
    with pytest.raises(NotAFeedError, match=f"day.dbn.zst {told}"):
        feed_of(tmp_path, b"", symbols=symbols)


def test_known_roots_and_inferred_grids() -> None:
    es = known_future("ESH4", "glbx")
    assert es == Instrument("ESH4", "glbx", Decimal("0.25"), Decimal(1), "USD", Decimal(50), "l3")
    assert known_future("MESZ23", "glbx") is not None
    assert known_future("ESH4-ESM4", "glbx") is None
    assert known_future("ESH4", "xnas") is None
    assert inferred("X", "xnas", np.array([10_020_000_000, 10_040_000_000])).tick == Decimal("0.02")


def test_configured_instrument_overrides_the_table(tmp_path: Path) -> None:
    mine = Instrument("ESH4", "glbx", Decimal("0.5"), Decimal(1), "USD", Decimal(5), "l3")
    feed = feed_of(tmp_path, records([("A", "B", 1, 100, 1, LAST)]).tobytes(), [mine])
    assert feed.instruments == (mine,)
    assert rows_of(feed)["price_ticks"].tolist() == [50]
