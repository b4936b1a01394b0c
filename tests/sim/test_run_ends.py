"""What a run ends with: no order stays open, positions are marked or flattened, and both figures are those of walking the book."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.run_folder import open_run
from handlers.domain import reasons
from tests.golden.oracle_exchange import Book, rounded, rows_of
from tests.runs import BOTH_STRATEGIES, config_file, done, log_rows, replayed
from transport.instruments import Instrument
from transport.records import (
    ACK, ASK, AT_END, BID, BOOK_SNAPSHOT, BUY, CANCEL_ALL, CANCELLED, COMMAND, END_OF_FEED, EVENT_END, EVENT_FIRST, EXPIRED,
    FEED_BASE, FILL, FLATTEN, GAP, HALTED, NO_SIDE, ORDER, POSITION, QUOTE, REJECT, SELL, VERDICT, empty,
)  # fmt: skip
from transport.tape import TapeWriter

PLACED = ("split", "staged")
FEED = "synthetic:20000:5:2"
TAKER_BP = 5
# Ask again whenever they may, also when the feeds have ended and what is open is being withdrawn.
RESTLESS = """
from handlers.contract import handler
from transport.records import BUY, FEATURE, FILL, LIMIT_ORDER, PLACE, SELL, TARGET, TIMER


@handler(reads=TIMER, state=[("seen", "i8")])
def rests(s, p, timer, out):  # every 320 ms: answered within 200, then withdrawn in 200 more, between which one is due
    s.seen += 1
    if s.bid_ticks == 0 or s.seen % 16:
        return 0
    out.action, out.order_type, out.side, out.price_ticks, out.qty_lots = PLACE, LIMIT_ORDER, BUY, s.bid_ticks - 200, 3
    return 1


@handler(reads=(FEATURE, FILL), state=[("seen", "i8")])
def returns(s, p, row, out):
    s.seen += row.kind == FEATURE
    out.action, out.qty_lots = TARGET, 7
    return row.kind == FILL or s.seen == 100


@handler(reads=(FEATURE, FILL), state=[("seen", "i8")])
def turns(s, p, row, out):  # every fill is an order: without an end it would go on for ever
    s.seen += row.kind == FEATURE
    out.action, out.qty_lots = TARGET, -5 if s.position_lots > 0 else 5
    return row.kind == FILL or s.seen == 100
"""
SLOW = """
[line]
timer_interval_ms = 20

[latency]
order_out_us = 100000
report_back_us = 100000

[risk]
stale_data_ms = 0

[[strategy]]
name = "rests"
path = "restless.py:rests"

[[strategy]]
name = "returns"
path = "restless.py:returns"

[[strategy]]
name = "turns"
path = "restless.py:turns"
"""


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of both strategies that differ only in how they end."""
    folder = tmp_path_factory.mktemp("ends")
    config = config_file(folder, BOTH_STRATEGIES)
    for how in ("mark", "flatten"):
        replayed(folder / how, FEED, config=config, options=("--at-end", how))
    return {how: folder / how for how in ("mark", "flatten")}


def last_positions(run: Path) -> list[Any]:
    rows = log_rows(run, "orders")
    return list(rows[(rows["kind"] == POSITION) & (rows["action"] == AT_END)])


def books_of(run: Path, count: int) -> list[Book]:
    """The books as the feeds left them, folded in plain Python."""
    books = [Book() for _ in range(count)]
    inputs = log_rows(run, "input")
    for row in rows_of(inputs[inputs["source_id"] >= FEED_BASE]):
        books[row.instrument].apply(row)
    return books


def walked(book: Book, lots: int, unit: int) -> int:
    """Money units that bringing `lots` to zero pays, less the taker's fee on each level; a tick times a lot is `unit` of them."""
    left, money, fees = abs(lots), 0, 0
    for price, displayed in book.against(SELL if lots > 0 else BUY, None):
        taken = min(left, displayed)
        money, fees, left = money + price * taken * unit, fees + rounded(price * taken * unit * TAKER_BP, 10_000), left - taken
    assert not left
    return (money if lots > 0 else -money) - fees


def still_open(run: Path) -> set[int]:
    """Orders that were sent and of which no report says that they have ended."""
    inputs, orders = log_rows(run, "input"), log_rows(run, "orders")
    sent = set(orders["order_id"][orders["kind"] == ORDER].tolist())
    kind, action = inputs["kind"], inputs["action"]
    filled = (kind == FILL) & (inputs["leaves_lots"] == 0)
    ended = filled | ((kind == ACK) & np.isin(action, (CANCELLED, EXPIRED))) | ((kind == REJECT) & (action == 0))
    assert sent
    return sent - set(inputs["order_id"][ended].tolist())


# --- marked or flattened ---------------------------------------------------------------------------------------------------
def test_marked_positions_stay_and_both_figures_are_told(ends: dict[str, Path]) -> None:
    pnl = open_run(ends["mark"]).summary()["pnl"]
    rows = last_positions(ends["mark"])
    assert sum(r["qty_lots"] != 0 for r in rows) >= 2
    own, unit = sum(int(r["realised"] - r["fee"]) for r in rows), Decimal(10) ** -8
    assert Decimal(pnl["net_marked_to_mid"]) == (own + sum(int(r["unrealised"]) for r in rows)) * unit
    assert Decimal(pnl["net_flattened"]) == (own + sum(int(r["if_flattened"]) for r in rows)) * unit
    assert Decimal(pnl["net_flattened"]) < Decimal(pnl["net_marked_to_mid"]), "spread and fee"


def test_each_account_is_marked_to_the_mid_and_its_flattening_walks_the_book(ends: dict[str, Path]) -> None:
    books, worth = books_of(ends["mark"], 2), (1000, 5_000_000)  # tick times lot, in 1e-8
    for r in last_positions(ends["mark"]):
        book, unit, lots, cost = books[r["instrument_id"]], worth[r["instrument_id"]], int(r["qty_lots"]), int(r["cost"])
        assert int(r["unrealised"]) == rounded(book.mid_twice() * lots * unit, 2) - cost
        levels = len(book.against(BUY, None)) + len(book.against(SELL, None))
        told = int(r["if_flattened"])
        assert abs(told - (walked(book, lots, unit) - cost if lots else 0)) <= levels, "a fee a level is rounded a level"


def test_flattened_positions_are_zero_and_earn_what_marking_said_they_would(ends: dict[str, Path]) -> None:
    marked, flat = (open_run(ends[how]).summary() for how in ("mark", "flatten"))
    assert [int(r["qty_lots"]) for r in last_positions(ends["flatten"])] == [0] * len(flat["accounts"])
    assert {a["position"] for a in flat["accounts"]} == {"0"}
    assert flat["pnl"]["net_flattened"] == flat["pnl"]["net_marked_to_mid"]
    assert Decimal(flat["pnl"]["unrealised"]) == 0
    fills = flat["fills"] - marked["fills"]
    assert fills > 0
    away = abs(Decimal(flat["pnl"]["net_flattened"]) - Decimal(marked["pnl"]["net_flattened"]))
    assert away <= fills * Decimal("1e-8"), "the market has not moved since, so that only fees round otherwise"
    assert flat["troubles"] == marked["troubles"] == {}


@pytest.mark.parametrize("how", ["mark", "flatten"])
def test_the_end_is_sequenced_and_nothing_trades_after_it_was_said(how: str, ends: dict[str, Path]) -> None:
    inputs, risk = log_rows(ends[how], "input"), log_rows(ends[how], "risk")
    words = inputs[(inputs["kind"] == COMMAND) & (inputs["action"] >= CANCEL_ALL)]
    assert words["action"].tolist() == [CANCEL_ALL, FLATTEN if how == "flatten" else CANCEL_ALL, END_OF_FEED]
    last = inputs[inputs["source_id"] >= FEED_BASE]["seq"][-1]
    assert words["seq"][0] == last + 1, "it is said before anything else happens"
    assert words["seq"][-1] == inputs["seq"][-1]
    (verdict,) = risk[risk["kind"] == VERDICT]
    assert (verdict["seq"], verdict["state"], verdict["reason"]) == (words["seq"][0], HALTED, 0)


@pytest.mark.parametrize("placement", PLACED)
@pytest.mark.parametrize("how", ["mark", "flatten"])
def test_every_placement_ends_alike_and_is_proved(how: str, placement: str, ends: dict[str, Path], tmp_path: Path) -> None:
    config = config_file(tmp_path, BOTH_STRATEGIES)
    summary = replayed(tmp_path / "run", FEED, config=config, options=("--at-end", how, "--placement", placement))
    fused = open_run(ends[how]).summary()
    assert summary["hashes"] == fused["hashes"]
    assert (summary["pnl"], summary["accounts"], summary["troubles"]) == (fused["pnl"], fused["accounts"], fused["troubles"])
    assert "proved: " in done("verify", tmp_path / "run", "--placement", placement).out


# --- strategies that do not stop -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["mark", "flatten"])
def test_no_order_is_open_at_the_end_whatever_strategies_ask_for_while_it_comes(how: str, tmp_path: Path) -> None:
    (tmp_path / "restless.py").write_text(RESTLESS)
    summary = replayed(tmp_path / "run", FEED, config=config_file(tmp_path, SLOW), options=("--at-end", how))
    assert summary["rejects"]["STATE_HALTED"] > 0, "they did ask"
    assert still_open(tmp_path / "run") == set()
    held = [int(r["qty_lots"]) for r in last_positions(tmp_path / "run")]
    assert any(held) == (how == "mark")
    assert "proved: " in done("verify", tmp_path / "run").out


# --- what flattening cannot do ---------------------------------------------------------------------------------------------
THIN = Instrument("THIN", "test", Decimal("0.01"), Decimal("0.001"))  # a tick times a lot is 1,000 money units
HOLDING = """
[account]
at_end = "{how}"

[[account.positions]]
strategy = "idle"
instrument = "THIN.test"
lots = {lots}
price = 10

[[strategy]]
name = "idle"
path = "momentum"
"""


def thin_run(folder: Path, how: str, lots: int, *records: dict[str, int]) -> dict[str, Any]:
    """The summary of a run that holds `lots` at 1,000 ticks over a tape of these records, a millisecond apart."""
    rows = empty(len(records))
    rows["flags"], rows["parts"], rows["source_id"] = EVENT_END, 1, FEED_BASE
    for n, record in enumerate(records):
        rows["ts_event_ns"][n] = rows["ts_recv_ns"][n] = 10**18 + n * 10**6
        for name, value in record.items():
            rows[name][n] = value
    with TapeWriter(folder / "thin.tape", [THIN], {"sources": []}) as tape:
        tape.append(rows)
    return replayed(folder / "run", folder / "thin.tape", config=config_file(folder, HOLDING.format(how=how, lots=lots)))


def level(side: int, price: int, lots: int, flags: int = 0) -> dict[str, int]:
    return {"kind": BOOK_SNAPSHOT, "side": side, "price_ticks": price, "qty_lots": lots, "flags": flags, "venue_seq": 1}


BOOK = (level(BID, 990, 5, EVENT_FIRST), level(BID, 980, 7), level(ASK, 1010, 3), level(ASK, 1020, 4, EVENT_END))


def earned(*sold: tuple[int, int]) -> Decimal:
    """What selling lots at (price, lots) earns that were bought at 1,000 ticks: 1,000 money units a tick, 5 bp are half a one."""
    return sum(Decimal((price - 1000) * lots * 1000) - Decimal(price * lots) / 2 for price, lots in sold) / 10**8


def test_what_the_book_cannot_take_stays_and_is_told(tmp_path: Path) -> None:
    summary = thin_run(tmp_path, "flatten", 20, *BOOK)
    assert summary["troubles"] == {"NOT_FLATTENED": 1}
    assert summary["fills"] == 2
    (account,) = summary["accounts"]
    assert (account["position"], account["fills"]) == ("0.008", 2)
    (expired,) = (r for r in log_rows(tmp_path / "run", "input") if r["kind"] == ACK and r["action"] == EXPIRED)
    assert (int(expired["leaves_lots"]), int(expired["reason"])) == (8, reasons.NO_LIQUIDITY)
    sold = earned((990, 5), (980, 7))
    again = earned((990, 5), (980, 3))  # the book does not feel us
    assert Decimal(summary["pnl"]["net_marked_to_mid"]) == sold, "the mid is the price paid"
    assert Decimal(summary["pnl"]["net_flattened"]) == sold + again


def test_what_the_book_could_not_take_counts_at_its_last_level(tmp_path: Path) -> None:
    summary = thin_run(tmp_path, "mark", 20, *BOOK)
    assert summary["troubles"] == {}
    assert Decimal(summary["pnl"]["net_marked_to_mid"]) == 0
    assert Decimal(summary["pnl"]["net_flattened"]) == earned((990, 5), (980, 15))


def test_a_market_without_a_book_is_marked_and_says_that_nothing_was_flattened(tmp_path: Path) -> None:
    quote = {"kind": QUOTE, "price_ticks": 1090, "qty_lots": 50, "ask_ticks": 1110, "ask_lots": 50}
    summary = thin_run(tmp_path, "flatten", 20, quote)
    assert summary["troubles"] == {"NOT_FLATTENED": 1}
    assert summary["rejects"] == {"NO_LIQUIDITY": 1}
    assert Decimal(summary["pnl"]["net_marked_to_mid"]) == Decimal(20 * 100 * 1000) / 10**8
    assert Decimal(summary["pnl"]["net_flattened"]) == Decimal(20 * 100 * 1000 - 20 * 1100 // 2) / 10**8, "at the mid, less the fee"


def test_a_book_with_a_gap_at_the_end_is_not_walked(tmp_path: Path) -> None:
    summary = thin_run(tmp_path, "mark", -20, *BOOK, {"kind": GAP, "side": NO_SIDE})
    assert Decimal(summary["pnl"]["unrealised"]) == 0
    assert summary["pnl"]["net_flattened"] == summary["pnl"]["net_marked_to_mid"], "nothing is known of the market"
    assert summary["troubles"] == {}
