"""summary.json, figure by figure, against plain sums over the rows of a run's logs; and the series that the report draws."""

from __future__ import annotations

from collections import Counter
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.line import build_line
from engine.run_folder import open_run
from engine.summary import Tally
from handlers.domain import reasons
from handlers.ingest.synthetic.feed import synthetic_instruments
from tests.runs import BOTH_STRATEGIES, config_file, log_rows, replayed, table
from transport.records import (
    ACK, AFTER_FILL, BUY, COMMAND, FILL, MARKED, NAME_OF, ORDER, POSITION, REJECT, SET_POSITION, SYNTHETIC, TIMER, TRADE, empty,
)  # fmt: skip

FEED = "synthetic:30000:3:2"
# Limits that refuse some of what both ask for, and a position that only the second would close.
CONFIG = (
    BOTH_STRATEGIES
    + """
[account]
cash = 50000

[[account.positions]]
strategy = "momentum"
instrument = "BBB.synthetic"
lots = 30
price = 2400

[risk]
notional_max = 300000
orders_per_second_max = 8
orders_burst = 3

[line]
latency_sample = 8
timer_interval_ms = 200
"""
)
NAMES = ("momentum", "fade")
UNIT = Decimal("1e-8")
Account = tuple[int, int]  # strategy from 1, instrument


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("summary")
    replayed(folder / "run", FEED, config=config_file(folder, CONFIG))
    return folder / "run"


@pytest.fixture(scope="module")
def summary(run: Path) -> dict[str, Any]:
    return open_run(run).summary()


def account(row: Any) -> Account:
    return int(row["strategy_id"]), int(row["instrument_id"])


def traded(run: Path) -> dict[Account, dict[str, Any]]:
    """Lots, cash and fees of each account, summed over what it began with and its fills alone."""
    out: dict[Account, dict[str, Any]] = {}
    for r in log_rows(run, "input"):
        begun = r["kind"] == COMMAND and r["action"] == SET_POSITION
        if not begun and r["kind"] != FILL:
            continue
        a = out.setdefault(account(r), {"lots": 0, "cash": 0, "fees": 0, "fills": 0})
        a["lots"] += int(r["qty_lots"]) * (1 if begun or r["side"] == BUY else -1)
        a["cash"] += -int(r["basis"]) if begun else int(r["cash"])
        a["fees"] += 0 if begun else int(r["fee"])
        a["fills"] += not begun
    return out


def last_mids(run: Path) -> dict[str, Decimal]:
    """Mid of each instrument's last top of book, as exported."""
    return {row["instrument"]: (Decimal(row["bid"]) + Decimal(row["ask"])) / 2 for row in table(run, "tops")}


# --- counts ----------------------------------------------------------------------------------------------------------------
def test_events_inputs_and_fills_are_those_of_the_input_log(run: Path, summary: dict[str, Any]) -> None:
    rows = log_rows(run, "input")
    assert summary["events"] == {NAME_OF[k]: n for k, n in sorted(Counter(rows["kind"].tolist()).items())}
    assert summary["inputs"] == len(rows)
    assert summary["fills"] == len(table(run, "fills")) > 50
    assert summary["synthetic"] is bool((rows["flags"] & SYNTHETIC).any()) is True
    assert summary["gaps"] == 0


def test_orders_are_those_that_left(run: Path, summary: dict[str, Any]) -> None:
    sent = [row for row in table(run, "orders") if row["event"] == "ORDER"]
    assert summary["orders"] == len(sent) > 50


def test_rejects_are_counted_by_reason_once_each(run: Path, summary: dict[str, Any]) -> None:
    told: Counter[str] = Counter()
    for name in ("input", "signals", "risk", "orders"):
        rows = log_rows(run, name)
        why = rows["reason"][rows["kind"] == REJECT].tolist()
        told.update(reasons.NAME[w] for w in why if (name, w) != ("orders", reasons.TABLE_FULL))  # it comes back as a report
    assert summary["rejects"] == dict(told)
    assert {"NOTIONAL_LIMIT", "ORDER_RATE"} <= set(told)


# --- money -----------------------------------------------------------------------------------------------------------------
def test_accounts_are_the_sums_of_their_fills(run: Path, summary: dict[str, Any]) -> None:
    instruments = synthetic_instruments(2)
    told = {(NAMES.index(a["strategy"]) + 1, [i.name for i in instruments].index(a["instrument"])): a for a in summary["accounts"]}
    sums = traded(run)
    assert set(told) == set(sums)
    mids = last_mids(run)
    for name, a in sums.items():
        instrument, row = instruments[name[1]], told[name]
        qty = a["lots"] * instrument.lot
        assert Decimal(row["position"]) == qty
        assert (Decimal(row["fees"]), row["fills"]) == (a["fees"] * UNIT, a["fills"])
        worth = (qty * mids[instrument.name]).quantize(UNIT, ROUND_HALF_EVEN)
        net = Decimal(row["realised"]) + Decimal(row["unrealised"])
        assert abs(net - (a["cash"] * UNIT + worth)) <= UNIT, "what came in, and what is left at the mid"
        if not qty:
            assert (row["unrealised"], row["average_price"]) == ("0", "")


def test_average_price_is_what_the_open_lots_cost_a_piece(run: Path, summary: dict[str, Any]) -> None:
    mids = last_mids(run)
    held = [a for a in summary["accounts"] if Decimal(a["position"])]
    for row in held:
        qty, average = Decimal(row["position"]), Decimal(row["average_price"])
        hundredth = next(i.tick for i in synthetic_instruments(2) if i.name == row["instrument"]) / 100
        assert abs(qty * (mids[row["instrument"]] - average) - Decimal(row["unrealised"])) <= abs(qty) * hundredth / 2 + UNIT
    assert len(held) >= 2


def test_totals_are_the_sums_over_accounts(run: Path, summary: dict[str, Any]) -> None:
    pnl = summary["pnl"]
    for key in ("realised", "unrealised", "fees"):
        assert Decimal(pnl[key]) == sum(Decimal(a[key]) for a in summary["accounts"])
    assert Decimal(pnl["net_marked_to_mid"]) == Decimal(pnl["realised"]) + Decimal(pnl["unrealised"]) - Decimal(pnl["fees"])
    rows = log_rows(run, "orders")
    ending = rows[(rows["kind"] == POSITION) & (rows["seq"] == rows["seq"][-1])]
    flattened = sum(int(r["realised"] + r["if_flattened"] - r["fee"]) for r in ending)
    assert Decimal(pnl["net_flattened"]) == flattened * UNIT != Decimal(pnl["net_marked_to_mid"])


def equity_of(run: Path) -> list[tuple[int, Decimal]]:
    """(time, cash and what every account came to) at each mark, from the exported table."""
    worth: dict[tuple[str, str], Decimal] = {}
    out: dict[int, Decimal] = {}
    for row in table(run, "positions"):
        if row["cause"] in ("MARK", "END"):
            worth[row["strategy_id"], row["instrument"]] = Decimal(row["realised"]) + Decimal(row["unrealised"]) - Decimal(row["fees"])
            out[int(row["ts_seq_ns"])] = 50_000 + sum(worth.values(), Decimal(0))
    return sorted(out.items())


def test_the_drawdown_is_the_deepest_fall_from_a_peak_of_the_equity_at_marks(run: Path, summary: dict[str, Any]) -> None:
    peak, deepest = Decimal(50_000), Decimal(0)
    marks = equity_of(run)
    for _, worth in marks:
        peak = max(peak, worth)
        deepest = max(deepest, peak - worth)
    assert len(marks) > 100
    assert abs(Decimal(summary["pnl"]["max_drawdown"]) - deepest) <= Decimal("0.0051")
    assert deepest > 1


# --- latency ---------------------------------------------------------------------------------------------------------------
def test_every_eighth_input_is_timed_in_the_stages_that_it_reaches(run: Path, summary: dict[str, Any]) -> None:
    rows = log_rows(run, "input")
    asked = set(log_rows(run, "signals")["seq"].tolist())
    timed = [r for r in rows if r["seq"] % 8 == 0]
    further = [r for r in timed if r["kind"] in (ACK, REJECT, FILL, COMMAND, TIMER) or int(r["seq"]) in asked]
    samples = {stage: told["samples"] for stage, told in summary["latency"].items()}
    assert samples == dict.fromkeys(("features", "signals", "line"), len(timed)) | dict.fromkeys(("risk", "orders"), len(further))
    assert summary["latency_sampled_every"] == 8
    for told in summary["latency"].values():
        assert 0 <= told["p50"] <= told["p90"] <= told["p99"] <= told["p99.9"] <= told["max"]


# --- series ----------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def tally(run: Path) -> Tally:
    """The logs folded again, in pieces of no particular size."""
    opened = open_run(run)
    made = Tally(opened.instruments, list(NAMES), 8)
    inputs = log_rows(run, "input")
    for at in range(0, len(inputs), 777):
        made.piece(inputs[at : at + 777])
    for stage in ("signals", "risk", "orders"):
        made.decisions(stage, log_rows(run, stage))
    return made


def test_folding_the_logs_again_gives_the_same_figures(run: Path, tally: Tally, summary: dict[str, Any]) -> None:
    opened = open_run(run)
    config = opened.config()
    made = tally.counts() | tally.money_told(config.account, build_line(config, opened.instruments, 1, 1, Path()).terms)
    assert {key: summary[key] for key in made} == made


def test_the_equity_drawn_is_that_of_the_marks_less_the_cash_at_the_start(run: Path, tally: Tally) -> None:
    times, drawn = tally.series(Decimal(50_000))["equity"]
    marks = equity_of(run)
    assert times.tolist() == [when for when, _ in marks]
    assert np.allclose(drawn, [float(worth - 50_000) for _, worth in marks], rtol=0, atol=1e-6)


def test_the_position_drawn_begins_with_what_is_held_and_adds_up_all_strategies(run: Path, tally: Tally) -> None:
    drawn = tally.series(Decimal(50_000))["position"]
    for number, instrument in enumerate(synthetic_instruments(2)):
        held = 30 if number else 0
        wanted = [held] if number else []
        for r in log_rows(run, "input"):
            if r["kind"] == FILL and r["instrument_id"] == number:
                held += int(r["qty_lots"]) if r["side"] == BUY else -int(r["qty_lots"])
                wanted.append(held)
        assert np.allclose(drawn[instrument.name][1], np.array(wanted) * float(instrument.lot))


def test_fills_and_prices_drawn_are_those_of_the_log(run: Path, tally: Tally) -> None:
    series, rows = tally.series(Decimal(50_000)), log_rows(run, "input")
    for number, instrument in enumerate(synthetic_instruments(2)):
        mine = rows[rows["instrument_id"] == number]
        fills, trades = mine[mine["kind"] == FILL], mine[mine["kind"] == TRADE]
        times, prices, sides, qtys = series["fills"][instrument.name]
        assert times.tolist() == fills["ts_seq_ns"].tolist()
        assert np.allclose(prices, fills["price_ticks"] * float(instrument.tick))
        assert sides == ["BUY" if s == BUY else "SELL" for s in fills["side"]]
        assert np.allclose(qtys, fills["qty_lots"] * float(instrument.lot))
        seen = set(zip(trades["ts_seq_ns"].tolist(), (trades["price_ticks"] * float(instrument.tick)).tolist(), strict=True))
        points = list(zip(*(a.tolist() for a in series["price"][instrument.name]), strict=True))
        assert set(points) <= seen
        assert len(points) >= 64


def test_a_run_in_which_nothing_happened_has_a_summary_of_zeros() -> None:
    tally = Tally(synthetic_instruments(1), [], 8)
    tally.piece(empty(0))
    assert tally.counts() == {"events": {}, "inputs": 0, "orders": 0, "fills": 0, "rejects": {}, "synthetic": False, "gaps": 0}
    told = tally.pnl(Decimal(5), "USD")
    assert {told.pop("currency"), told.pop("max_drawdown")} == {"USD", "0.00"}
    assert set(told.values()) == {"0"}
    assert tally.not_flattened() == {}


def test_accounts_that_still_hold_something_were_not_flattened() -> None:
    tally = Tally(synthetic_instruments(1), ["one", "two"], 8)
    rows = empty(3)
    rows["kind"], rows["action"], rows["strategy_id"], rows["qty_lots"] = POSITION, AFTER_FILL, (1, 2, 2), (5, -5, 0)
    tally.decisions("orders", rows[:2])
    assert tally.not_flattened() == {"NOT_FLATTENED": 2}
    tally.decisions("orders", rows[2:])
    assert tally.not_flattened() == {"NOT_FLATTENED": 1}


def test_equity_at_a_mark_is_that_of_every_account_at_its_last_mark() -> None:
    tally = Tally(synthetic_instruments(1), ["one", "two"], 2)
    rows = empty(4)
    rows["kind"], rows["action"], rows["strategy_id"], rows["ts_seq_ns"] = POSITION, MARKED, (1, 2, 1, 2), (10, 10, 20, 30)
    rows["realised"], rows["unrealised"], rows["fee"] = (100, 200, 100, 200), (50, -400, 0, -150), (1, 2, 1, 2)
    tally.decisions("orders", rows)
    times, worth = tally.equity(Decimal(5))
    assert times.tolist() == [10, 20, 30]
    assert worth.tolist() == [5 + (149 - 202) / 100, 5 + (99 - 202) / 100, 5 + (99 + 48) / 100]


def test_orders_that_the_exchange_was_not_sent_are_no_orders() -> None:
    tally = Tally(synthetic_instruments(1), ["one"], 8)
    rows = empty(3)
    rows["kind"], rows["reason"] = (ORDER, REJECT, REJECT), (0, reasons.TABLE_FULL, reasons.UNKNOWN_ORDER)
    tally.decisions("orders", rows)
    assert tally.counts()["orders"] == 1
    assert tally.counts()["rejects"] == {"UNKNOWN_ORDER": 1}, "a full table is told by the report that follows"
