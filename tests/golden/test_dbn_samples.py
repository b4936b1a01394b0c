"""Every sample of the DBN format, of each schema and version, against its publisher's own decoder, field by field."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import databento_dbn as dbn
import numpy as np
import pytest
import zstandard

from handlers.domain import reasons
from handlers.ingest.errors import NotAFeedError
from handlers.ingest.feed import Feed
from handlers.ingest.formats import open_feed
from transport.records import (
    ASK, BAR, BID, BOOK_DELTA, BOOK_SNAPSHOT, EVENT_END, INSTRUMENT, PRE_OPEN, QUOTE, STATUS, TRADE, TRADING, joined,
)  # fmt: skip


UNDEF = dbn.UNDEF_PRICE
SIDES = {"B": BID, "A": ASK, "N": 0}
SECONDS = {"ohlcv-1s": 1, "ohlcv-1m": 60, "ohlcv-1h": 3600, "ohlcv-1d": 86_400}
STATUS_ACTIONS = {7: TRADING, 1: PRE_OPEN, 6: TRADING}  # those that the samples have; the last is an indication while trading goes on
COUNTED = ("imbalance", "statistics")


def samples(data_dir: Path) -> dict[Path, dict[str, Any]]:
    """Path -> what the reference says of it: file_version, schema, records."""
    listed = json.loads((data_dir / "reference" / "dbn_samples.json").read_text())
    return {data_dir / "dbn_format_samples" / name: facts for name, facts in listed.items()}


def theirs(path: Path) -> list[Any]:
    """Records by the publisher's decoder."""
    data = path.read_bytes()
    if path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    decoder = dbn.DBNDecoder()
    decoder.write(data)
    return [r for r in decoder.decode() if not isinstance(r, dbn.Metadata)]


def ours(feed: Feed) -> np.ndarray[Any, Any]:
    return joined(*feed.chunks(4096))


class Grid:
    """Publisher's prices in ticks of the feed's one instrument."""

    def __init__(self, feed: Feed) -> None:
        self.nano = int(feed.instruments[0].tick * 10**9) if feed.instruments else 1

    def __call__(self, price: int) -> int:
        assert price % self.nano == 0
        return price // self.nano


def trade(r: Any, grid: Grid, end: int = EVENT_END) -> dict[str, int]:
    return {
        "kind": TRADE, "flags": end, "ts_event_ns": r.ts_event, "ts_recv_ns": r.ts_recv, "price_ticks": grid(r.price),
        "qty_lots": r.size, "side": SIDES[str(r.side)], "venue_seq": getattr(r, "sequence", 0),
    }  # fmt: skip


def quote(r: Any, grid: Grid, sampled: bool, end: int = EVENT_END) -> dict[str, int]:
    level = r.levels[0]
    sides = [(0, 0) if px == UNDEF or not size else (grid(px), size)
             for px, size in ((level.bid_px, level.bid_sz), (level.ask_px, level.ask_sz))]  # fmt: skip
    return {
        "kind": QUOTE, "flags": end, "ts_event_ns": r.ts_recv if sampled else r.ts_event, "ts_recv_ns": r.ts_recv,
        "price_ticks": sides[0][0], "qty_lots": sides[0][1], "ask_ticks": sides[1][0], "ask_lots": sides[1][1],
        "venue_seq": getattr(r, "sequence", 0),
    }  # fmt: skip


def bar(r: Any, grid: Grid, seconds: int) -> dict[str, int]:
    close = r.ts_event + seconds * 10**9
    prices = {f"{name}_ticks": grid(getattr(r, name)) for name in ("open", "high", "low", "close")}
    return {
        "kind": BAR, "flags": EVENT_END, "ts_event_ns": close, "ts_recv_ns": close, "ts_open_ns": r.ts_event,
        "interval_ns": seconds * 10**9, "volume_lots": r.volume, "trades": 0, "notional_ticks_lots": 0, **prices,
    }  # fmt: skip


def status(r: Any) -> dict[str, int]:
    code = int(r.action) | int(r.reason) << 16 | int(r.trading_event) << 32
    return {
        "kind": STATUS, "flags": EVENT_END, "ts_event_ns": r.ts_event, "ts_recv_ns": r.ts_recv, "status": code,
        "action": STATUS_ACTIONS[int(r.action)],
    }  # fmt: skip


def definition(r: Any, feed: Feed) -> dict[str, int]:
    stated = 0 < r.min_price_increment < UNDEF
    tick = r.min_price_increment if stated else int(feed.instruments[0].tick * 10**9)
    return {
        "kind": INSTRUMENT, "flags": EVENT_END, "ts_event_ns": r.ts_event, "ts_recv_ns": r.ts_recv, "tick_mantissa": tick,
        "tick_exponent": -9, "lot_mantissa": 1, "lot_exponent": 0, "fee_den": 1,
        "notional_num": int(Decimal(tick).scaleb(-9) * feed.instruments[0].multiplier * 10**8), "notional_den": 1,
    }  # fmt: skip


def order(r: Any, grid: Grid) -> dict[str, int]:
    return {
        "kind": BOOK_DELTA, "flags": EVENT_END, "ts_event_ns": r.ts_event, "ts_recv_ns": r.ts_recv, "venue_seq": r.sequence,
        "price_ticks": grid(r.price), "qty_lots": r.size, "order_id": r.order_id, "side": SIDES[str(r.side)],
    }  # fmt: skip


def expected(schema: str, records: list[Any], feed: Feed) -> list[dict[str, int]]:
    """The rows that `records` of a schema must become, but for those of mbp."""
    grid, out = Grid(feed), list[dict[str, int]]()
    for r in records:
        if schema in SECONDS:
            out.append(bar(r, grid, SECONDS[schema]))
        elif schema in ("tbbo", "cmbp-1"):
            traded = str(r.action) == "T"
            out.append(quote(r, grid, False, 0 if traded else EVENT_END))
            out.extend([trade(r, grid)] if traded else [])
        elif schema == "trades":
            out.append(trade(r, grid))
        elif "bbo" in schema:
            out.append(quote(r, grid, True))
        elif schema == "mbo":
            out.append(order(r, grid))
        elif schema == "status":
            out.append(status(r))
        elif schema == "definition":
            out.append(definition(r, feed))
    return out


def test_each_sample_holds_as_many_records_as_the_reference_says(data_dir: Path) -> None:
    for path, facts in samples(data_dir).items():
        feed = open_feed(str(path))
        rows = ours(feed)
        assert feed.lines == facts["records"], path.name
        assert len(feed.receive_times()) == facts["records"]
        unused = {reasons.UNKNOWN_RECORD: facts["records"]} if facts["schema"] in COUNTED and facts["records"] else {}
        assert feed.counters == unused, path.name
        assert set(rows["source_id"].tolist()) <= {0}
        if facts["schema"] in COUNTED:
            assert len(rows) == 0
            assert facts["schema"] in feed.first_offenders[reasons.UNKNOWN_RECORD]


def test_fields_of_each_sample_equal_the_publishers_own_decoder(data_dir: Path) -> None:
    compared = 0
    for path, facts in samples(data_dir).items():
        feed, schema = open_feed(str(path)), facts["schema"]
        rows = ours(feed)
        if schema.startswith("mbp"):
            continue
        wanted = expected(schema, theirs(path), feed)
        assert len(rows) == len(wanted), path.name
        for row, fields in zip(rows, wanted, strict=True):
            assert {name: int(row[name]) for name in fields} == fields, path.name
            compared += len(fields)
    assert compared > 1_000


def test_levels_of_each_mbp_sample_fold_to_those_the_publisher_shows(data_dir: Path) -> None:
    events = 0
    for path, facts in samples(data_dir).items():
        if not facts["schema"].startswith("mbp"):
            continue
        feed = open_feed(str(path))
        rows, grid, book = ours(feed), Grid(feed), dict[tuple[int, int], int]()
        for origin, r in enumerate(theirs(path)):
            mine = rows[rows["origin"] == origin]
            assert mine["kind"].tolist() == [BOOK_SNAPSHOT if origin == 0 else BOOK_DELTA] * len(mine)
            for row in mine:
                assert (row["ts_event_ns"], row["ts_recv_ns"], row["venue_seq"]) == (r.ts_event, r.ts_recv, r.sequence)
                book[int(row["side"]), int(row["price_ticks"])] = int(row["qty_lots"])
            book = {key: lots for key, lots in book.items() if lots}
            assert book == {
                **{(BID, grid(x.bid_px)): x.bid_sz for x in r.levels if x.bid_px != UNDEF},
                **{(ASK, grid(x.ask_px)): x.ask_sz for x in r.levels if x.ask_px != UNDEF},
            }  # fmt: skip
            assert mine["flags"][-1] & EVENT_END
            events += 1
    assert events == 16


def test_what_is_beside_the_samples_is_refused_in_words(data_dir: Path) -> None:
    folder = data_dir / "dbn_format_samples"
    others = [p for p in folder.iterdir() if p not in samples(data_dir) and p.name != "LICENSE"]
    assert len(others) == 17
    for path in others:
        words = "DBZ, which DBN replaced" if path.suffix == ".dbz" else "fragment of DBN records without the metadata"
        with pytest.raises(NotAFeedError, match=words):
            open_feed(str(path))


@pytest.mark.parametrize("schema", ["mbp-10", "ohlcv-1m", "bbo-1s", "status", "cmbp-1"])
def test_versions_of_a_sample_give_the_same_rows(data_dir: Path, schema: str) -> None:
    found = {
        ours(open_feed(str(path))).tobytes() for path, facts in samples(data_dir).items() if facts["schema"] == schema
    }
    assert len(found) == 1
