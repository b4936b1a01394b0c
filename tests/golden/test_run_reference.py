"""Runs and exports of the engine against figures that independent scripts computed from the same recorded files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.config import Config
from engine.feeds import open_feeds
from engine.importing import merged
from engine.tables_of_run import tops
from handlers.ingest.formats import open_feed
from transport.records import FEED_BASE

from tests.golden.decoded import EIGHT, reference, utc
from tests.golden.raw_capture import Message, RawCapture, merged as merged_messages
from tests.runs import ROOT, config_file, done, log_rows, replayed, table

TICK_NANO = 250_000_000  # 0.25, the tick of ESH4, in the publisher's units of 1e-9


@dataclass
class Venue:
    """A recorded venue, a run over it that took its top of book from the quotes, and what is expected."""

    spec: Path
    run: Path
    expected: dict[str, Any]


@pytest.fixture(scope="module", params=["usdm", "spot"])
def venue(request: pytest.FixtureRequest, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Venue:
    folder = tmp_path_factory.mktemp(request.param)
    spec = data_dir / "binance_ws_capture" / request.param
    replayed(folder / "run", spec, config=config_file(folder, '[line]\ntop = "quote"\n'))
    return Venue(spec, folder / "run", reference(data_dir, f"binance_{request.param}_btcusdt"))


def test_exported_tops_are_the_reference_tops(venue: Venue, tmp_path: Path) -> None:
    done("export", venue.spec, "--table", "tops", "--out", tmp_path / "tops.csv")
    header, _, body = (tmp_path / "tops.csv").read_text().partition("\n")
    assert header == "u,bid,bid_qty,ask,ask_qty"
    assert body.count("\n") == venue.expected["book"]["applied"]
    assert hashlib.sha256(body.replace(",", " ").encode()).hexdigest() == venue.expected["book"]["top_sha256"]


def test_a_run_exports_the_tops_of_its_feed(venue: Venue) -> None:
    body = done("export", venue.run, "--table", "tops").out.partition("\n")[2]
    assert hashlib.sha256(body.replace(",", " ").encode()).hexdigest() == venue.expected["book"]["top_sha256"]


def test_exported_bars_are_the_reference_minute_bars(venue: Venue) -> None:
    names = ("open", "high", "low", "close", "volume", "trades")
    found = [
        [utc(int(bar["ts_open_ns"]), "ms"), *(Decimal(bar[name]) for name in names)] for bar in table(venue.run, "bars")
    ]
    expected = venue.expected["bars_1m_by_T(file order)"]
    assert found == [[at, *(Decimal(text) for text in bar)] for at, *bar in expected]


def test_features_on_quotes_sum_to_the_reference_order_flow_imbalance(venue: Venue) -> None:
    rows = table(venue.run, "features")
    quotes = venue.expected["book_ticker"]["n"]
    assert len(rows) > quotes, "a row each quote, and more at trades"
    lot = open_feed(str(venue.spec)).instruments[0].lot
    lots = sum(Fraction(row["ofi"]) for row in rows)
    assert lots.denominator == 1
    assert int(lots) * lot == Decimal(venue.expected["book_ticker"]["OFI_sum"])


def test_exported_quotes_have_the_reference_mean_spread(venue: Venue) -> None:
    rows = table(venue.run, "quotes")
    expected = venue.expected["book_ticker"]
    assert len(rows) == expected["n"]
    spread = sum(Decimal(row["ask"]) - Decimal(row["bid"]) for row in rows) / len(rows)
    assert spread.quantize(EIGHT) == Decimal(expected["mean_spread"])
    for at, name in ((0, "first"), (-1, "last")):
        assert [Decimal(rows[at][k]) for k in ("bid", "bid_qty", "ask", "ask_qty")] == list(map(Decimal, expected[name]))


def tops_of(spec: Path) -> np.ndarray[Any, Any]:
    feeds, instruments = open_feeds([str(spec)], Config().instrument)
    chunks, _ = merged(feeds, instruments, 4096)
    return np.concatenate(list(tops(chunks, instruments)))


def test_order_by_order_tops_are_the_reference_states(data_dir: Path) -> None:
    """`tops` has a row at each book event's end; the reference counts a state where both sides exist and something changed."""
    expected = reference(data_dir, "mbo_esh4_20231225")
    rows = tops_of(data_dir / "databento_mbo_esh4" / "esh4-glbx-mdp3-20231225.mbo.dbn.zst")
    names = ("bid_ticks", "bid_lots", "bid_orders", "ask_ticks", "ask_lots", "ask_orders")
    both = rows[(rows["bid_lots"] > 0) & (rows["ask_lots"] > 0)]
    states = np.column_stack([both[name] for name in names])
    changed = np.append(True, (states[1:] != states[:-1]).any(axis=1))
    digest = hashlib.sha256()
    for when, (bid, bid_lots, bids, ask, ask_lots, asks) in zip(
        both["ts_recv_ns"][changed].tolist(), states[changed].tolist(), strict=True
    ):
        digest.update(f"{when} {bid * TICK_NANO} {bid_lots} {bids} {ask * TICK_NANO} {ask_lots} {asks}\n".encode())
    assert np.count_nonzero(changed) == expected["bbo_states"]
    assert digest.hexdigest() == expected["bbo_sha256"]
    crossed = both[both["bid_ticks"] >= both["ask_ticks"]]
    assert len(crossed) == expected["crossed_at_event_end"] == 891
    assert [utc(int(crossed["ts_recv_ns"][at]), "ns") for at in (0, -1)] == expected["crossed_first_last"]


def test_a_book_known_from_a_snapshot_alone_has_no_tops(data_dir: Path) -> None:
    assert len(tops_of(data_dir / "databento_mbo_esh4" / "esh4-glbx-mdp3-20231224.mbo.dbn.zst")) == 0


def messages(rows: np.ndarray[Any, Any]) -> list[Message]:
    """Every venue message that stamped rows came from, in their order."""
    columns = (rows[name].tolist() for name in ("ts_recv_ns", "source_id", "origin"))
    found = [message for message, _ in groupby(zip(*columns, strict=True))]
    return [(when, source - FEED_BASE, line) for when, source, line in found]


@dataclass
class Merge:
    """A run over two venues, their lines as they were received, and what the venues' rules say of those."""

    logged: list[Message]
    received: list[list[Message]]
    entering: list[list[Message]]  # by source, as they may enter the line
    waits: set[tuple[int, int]]  # (source, line) of what is held for its snapshot
    stale: set[tuple[int, int]]  # of what the snapshot has already


@pytest.fixture(scope="module")
def merge(data_dir: Path, captures_run: Path) -> Merge:
    rows = log_rows(captures_run, "input")
    found = Merge(messages(rows[rows["source_id"] >= FEED_BASE]), [], [], set(), set())
    for source, name in enumerate(("usdm", "spot")):
        raw = RawCapture(data_dir / "binance_ws_capture" / name, name == "usdm")
        order, waits, stale = raw.order_in_the_line(source)
        found.received.append([(when, source, line) for line, (when, _) in enumerate(raw.lines)])
        found.entering.append(order)
        found.waits |= {(source, line) for line in waits}
        found.stale |= {(source, line) for line in stale}
        assert len(stale) == reference(data_dir, f"binance_{name}_btcusdt")["book"]["dropped_before_snapshot"]
    return found


def test_messages_that_wait_for_nothing_are_sequenced_in_the_reference_order(merge: Merge, data_dir: Path) -> None:
    expected = reference(data_dir, "replay")["merge"]
    whole = sorted(message for feed in merge.received for message in feed)
    digest = hashlib.sha256("".join(f"{when} {source} {line}\n" for when, source, line in whole).encode())
    assert (len(whole), digest.hexdigest()) == (expected["events"], expected["sha256"]), "this is the reference's order"
    aside = merge.waits | merge.stale
    logged, order = ([m for m in some if m[1:] not in aside] for some in (merge.logged, whole))
    assert logged == order
    assert len(whole) - len(order) == len(aside) == 9
    assert sum(a[0] == b[0] for a, b in pairwise(whole)) == expected["equal_timestamps"] == 26
    assert sum(a[0] == b[0] for a, b in pairwise(logged)) == 26, "none of them waits"
    assert sum(a[1] != b[1] for a, b in pairwise(whole)) == expected["source_switches"]


def test_messages_that_wait_for_their_snapshot_come_right_behind_it(merge: Merge) -> None:
    """Nothing else of the whole log is in another place: not a message more, less, or elsewhere."""
    assert merge.logged == merged_messages(merge.entering)
    assert (len(merge.waits), len(merge.stale)) == (3, 6)
    place = {message[1:]: k for k, message in enumerate(merge.logged)}
    assert not merge.stale & place.keys()
    for source in (0, 1):
        waited = sorted(line for s, line in merge.waits if s == source)
        behind = [place[source, line] for line in waited]
        assert behind == list(range(behind[0], behind[0] + len(behind)))
        assert merge.logged[behind[0] - 1][0] > merge.logged[behind[-1]][0], "the snapshot was received after all of them"


def test_market_orders_walk_the_book_as_the_broker_reference_does(data_dir: Path, tmp_path: Path) -> None:
    expected = reference(data_dir, "replay")["book_walk"]
    first_ns = reference(data_dir, "binance_usdm_btcusdt")["local_ts_first"]
    text = f"""
[line]
timer_interval_ms = 10000
timer_origin_ns = {first_ns}
[latency]
order_out_us = 0
report_back_us = 1
[[strategy]]
name = "alternator"
path = "{ROOT / "tests" / "golden" / "alternator.py"}:alternate"
params = {{ lots = 5000 }}
"""
    run = tmp_path / "run"
    summary = replayed(run, data_dir / "binance_ws_capture" / "usdm", config=config_file(tmp_path, text))
    fills = table(run, "fills")
    orders = []
    cash = Decimal(0)
    for number, (_, group) in enumerate(groupby(fills, key=lambda fill: fill["order_id"]), start=1):
        walked = list(group)
        qty = sum(Decimal(fill["qty"]) for fill in walked)
        notional = sum(Decimal(fill["qty"]) * Decimal(fill["price"]) for fill in walked)
        side = walked[0]["side"].lower()
        assert qty == Decimal(expected["size"])
        assert {fill["liquidity"] for fill in walked} == {"TAKER"}
        cash += notional if side == "sell" else -notional
        orders.append([number, side, notional / qty, len(walked)])
    assert [[n, side, average, levels] for n, side, average, levels in orders] == [
        [n, side, Decimal(average), levels] for n, side, average, levels in expected["fills"]
    ]
    assert len(orders) == summary["orders"] == expected["orders"] == 34
    assert cash == Decimal(expected["cash_before_fees"])
    assert sum(Decimal(fill["cash"]) for fill in fills) == cash
    assert sum(Decimal(fill["fee"]) for fill in fills) == Decimal(expected["fees"])
    pnl = {name: Decimal(summary["pnl"][name]) for name in ("realised", "unrealised", "fees", "net_marked_to_mid")}
    assert pnl == {
        "realised": cash,
        "unrealised": 0,
        "fees": Decimal(expected["fees"]),
        "net_marked_to_mid": Decimal(expected["net_pnl_marked_to_mid"]),
    }
    assert [account["position"] for account in summary["accounts"]] == [str(expected["position"])]
    tick = open_feed(str(data_dir / "binance_ws_capture" / "usdm")).instruments[0].tick
    assert Decimal(table(run, "features")[-1]["mid"]) * tick == Decimal(expected["final_mid"])
