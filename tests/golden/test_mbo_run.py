"""A recorded order-by-order feed through the whole line, in every placement, beside a book of its raw records."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.domain.schema import IMBALANCE, MICROPRICE, MID, OFI, SPREAD
from tests.golden.decoded import reference
from tests.golden.raw_mbo import RawBook, events, raw_records
from tests.runs import config_file, done, log_rows, replayed, table
from transport.records import BOOK_SNAPSHOT, FEATURE, FEED_BASE, FILL, ORDER, SELL, TAKER

# An order larger than the best level, so that fills walk the book; limits that let it.
CONFIG = """
[features]
depth = 2
[line]
log_features = true
[risk]
notional_max = 1_000_000_000
notional_total_max = 1_000_000_000

[[strategy]]
name = "momentum"
path = "momentum"
params = { lots = 60, warmup = 200 }

[[strategy]]
name = "fade"
path = "mean_reversion"
params = { lots = 40, window = 200, entry = 2.0, exit = 0.5, stop = 5.0 }
"""
ORDER_OUT_NS = 1_000_000
TICK, MULTIPLIER = Decimal("0.25"), 50


@dataclass
class Recorded:
    """A recorded day, its raw records, and a run of it in each placement; "again" is fused a second time."""

    spec: Path
    raw: list[Any]
    runs: dict[str, Path]
    summaries: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def day(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    folder = tmp_path_factory.mktemp("mbo")
    spec = data_dir / "databento_mbo_esh4" / "esh4-glbx-mdp3-20231225.mbo.dbn.zst"
    config = config_file(folder, CONFIG)
    names = {"fused": "fused", "again": "fused", "split": "split", "staged": "staged"}
    summaries = {n: replayed(folder / n, spec, config=config, options=("--placement", p)) for n, p in names.items()}
    return Recorded(spec, raw_records(spec), {n: folder / n for n in names}, summaries)


def test_the_feed_gives_the_same_hashes_twice_and_in_every_placement(day: Recorded) -> None:
    hashes = [summary["hashes"] for summary in day.summaries.values()]
    assert hashes == [hashes[0]] * 4
    assert len(set(hashes[0].values())) == len(hashes[0]) == 7
    told = day.summaries["fused"]
    assert told["orders"] > 100
    assert told["fills"] > 2 * told["orders"], "orders walk several levels"
    assert {a["strategy"] for a in told["accounts"]} == {"momentum", "fade"}
    assert told["troubles"] == {}
    assert told["rejects"].keys() == {"CROSSED_BOOK"}, "of the opening auction"
    assert (told["ingest"], told["gaps"]) == ({"FILL_SKIPPED": 6371}, 0)


@pytest.mark.parametrize("placement", ["fused", "split", "staged"])
def test_each_run_of_the_feed_is_proved(placement: str, day: Recorded) -> None:
    verdicts = done("verify", day.runs[placement], "--json").json
    assert verdicts["proved"]
    assert verdicts["inputs"] == day.summaries[placement]["inputs"] > 140_000


def test_a_run_of_the_feed_is_proved_by_running_it_again_in_processes(day: Recorded) -> None:
    assert done("verify", day.runs["fused"], "--placement", "split", "--json").json["proved"]


def expected_values(book: RawBook, before: tuple[int, ...]) -> tuple[list[float], tuple[int, ...]]:
    """mid, spread, microprice, imbalance, order flow as they must be, and the top for the next event."""
    ((bid, bid_lots),), ((ask, ask_lots),) = book.best("B", 1), book.best("A", 1)
    flow = 0
    if before:
        old_bid, old_bid_lots, old_ask, old_ask_lots = before
        flow = (bid_lots if bid >= old_bid else 0) - (old_bid_lots if bid <= old_bid else 0)
        flow += (old_ask_lots if ask >= old_ask else 0) - (ask_lots if ask <= old_ask else 0)
    share = 1.0 / (bid_lots + ask_lots)
    micro = (bid * float(ask_lots) + ask * float(bid_lots)) * share
    return [(bid + ask) / 2, ask - bid, micro, (bid_lots - ask_lots) * share, flow], (bid, bid_lots, ask, ask_lots)


def test_every_feature_row_is_that_of_the_book_of_raw_records_at_the_end_of_its_event(day: Recorded) -> None:
    rows, inputs = log_rows(day.runs["fused"], "features"), log_rows(day.runs["fused"], "input")
    rows = rows[rows["kind"] == FEATURE]
    at_top = np.flatnonzero(rows["part"] == 0)
    origins = inputs["origin"][rows["seq"][at_top]].tolist()
    values = rows["values"][at_top][:, [MID, SPREAD, MICROPRICE, IMBALANCE, OFI]].tolist()
    levels = rows["values"][at_top + 1].tolist()  # bid, lots, ask, lots of the first level, then of the second
    assert rows["parts"][at_top].tolist() == [2] * len(at_top)
    book, top, number = RawBook(), (), 0
    for first, behind in events(day.raw):
        for r in day.raw[first:behind]:
            book.apply(r)
        assert first <= origins[number] < behind, "one row an event, from a record of that event"
        expected, top = expected_values(book, top)
        assert values[number] == expected, origins[number]
        if number % 50 == 0:
            both = zip(book.best("B", 2), book.best("A", 2), strict=True)
            assert levels[number] == [float(x) for bid, ask in both for x in (*bid, *ask)]
        number += 1
    assert number == len(at_top) == reference(day.spec.parents[1], "mbo_esh4_20231225")["events_LAST"] + 1, "and the snapshot's"


def test_every_fill_is_what_walking_the_book_of_raw_records_gives_when_the_order_arrives(day: Recorded) -> None:
    run = day.runs["fused"]
    inputs, orders = log_rows(run, "input"), log_rows(run, "orders")
    orders, fills = orders[orders["kind"] == ORDER], inputs[inputs["kind"] == FILL]
    assert set(fills["action"].tolist()) == {TAKER}, "both strategies send market orders"
    book, at, levels_walked = RawBook(), 0, 0
    for order in orders:
        arrival = int(order["ts_seq_ns"]) + ORDER_OUT_NS
        while at < len(day.raw) and day.raw[at].ts_recv <= arrival:
            book.apply(day.raw[at])
            at += 1
        mine = fills[fills["order_id"] == order["order_id"]]
        walked = book.walked("B" if order["side"] == SELL else "A", int(order["qty_lots"]))
        assert list(zip(mine["price_ticks"].tolist(), mine["qty_lots"].tolist(), strict=True)) == walked
        assert set(mine["ts_event_ns"].tolist()) == {arrival}
        levels_walked += len(walked)
    assert levels_walked == len(fills)


def test_exports_of_the_run_are_those_of_the_feed_and_of_its_logs(day: Recorded) -> None:
    run = day.runs["fused"]
    tops = [done("export", source, "--table", "tops").out for source in (run, day.spec)]
    assert tops[0] == tops[1]
    assert tops[0].count("\n") == 1 + 47_022
    features = table(run, "features")
    assert len(features) == 47_023
    assert {"mid", "spread", "bid_lots_1", "ask_lots_2"} <= features[0].keys()
    last = reference(day.spec.parents[1], "mbo_esh4_20231225")["final"]
    (bid, bid_lots, _), (ask, ask_lots, _) = last["top5_bids"][0], last["top5_asks"][0]
    found = [float(features[-1][name]) for name in ("bid_1", "bid_lots_1", "ask_1", "ask_lots_1")]
    assert found == [bid / 0.25, bid_lots, ask / 0.25, ask_lots]
    assert float(features[-1]["mid"]) * 0.25 == (bid + ask) / 2
    sent, fills = [o for o in table(run, "orders") if o["event"] == "ORDER"], table(run, "fills")
    assert (len(sent), len(fills)) == (day.summaries["fused"]["orders"], day.summaries["fused"]["fills"])
    for fill in fills:
        money = Decimal(fill["price"]) * Decimal(fill["qty"]) * MULTIPLIER
        assert Decimal(fill["cash"]) == (money if fill["side"] == "SELL" else -money)
        assert Decimal(fill["price"]) % TICK == 0


def test_the_input_log_holds_each_record_that_the_line_reads_once_and_in_order(day: Recorded) -> None:
    """F is no record of the line: what it tells, the C or M behind it does to the book, and T to the market."""
    inputs = log_rows(day.runs["fused"], "input")
    rows = inputs[inputs["source_id"] >= FEED_BASE]
    read = [k for k, r in enumerate(day.raw) if str(r.action) != "F"]
    assert rows["origin"].tolist() == read
    assert np.count_nonzero(rows["kind"] == BOOK_SNAPSHOT) == 8725
    sizes = hashlib.sha256(rows["qty_lots"].tobytes()).hexdigest()
    assert sizes == hashlib.sha256(np.array([day.raw[k].size for k in read], np.int64).tobytes()).hexdigest()
