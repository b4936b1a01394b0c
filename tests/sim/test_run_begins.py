"""What a run begins with: cash, fees, currency and positions stand first in the log, and every stage counts what is held from there on."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.config import LOTS_MAX, AccountConfig, Config, HeldPosition, RiskConfig, StrategyConfig
from engine.errors import ConfigError
from engine.line import Held, build_line
from engine.run_folder import open_run
from handlers.domain import reasons
from handlers.ingest.synthetic.feed import synthetic_instruments
from tests.runs import config_file, done, log_rows, replayed, table, tickline
from transport.blobs import short_id
from transport.instruments import Instrument
from transport.records import (
    AFTER_FILL, AT_END, BUY, COMMAND, FEED_BASE, FILL, INSTRUMENT, MARKED, NO_INSTRUMENT, ORDER, POSITION, REJECT, SET_CASH,
    SET_POSITION, START,
)  # fmt: skip

FEED = "synthetic:12000:5:2"
AAA, BBB = synthetic_instruments(2)  # ticks of 0.01 and 0.05, lots of 0.001 and 1
UNIT = 10**8  # money units of one of the account's currency
KEEPER, CLOSER, PUSHER = 1, 2, 3
STRATEGIES = """
from handlers.contract import handler
from transport.records import BUY, FEATURE, PLACE, SIGNAL, TARGET


@handler(reads=FEATURE, state=[("seen", "i8")])
def keep(s, p, row, out):  # says what it holds and never trades
    s.seen += 1
    out.kind, out.value, out.strength = SIGNAL, s.position_lots, s.cost
    return s.seen == 1


@handler(reads=FEATURE, state=[("seen", "i8")])
def close(s, p, row, out):
    s.seen += 1
    out.action, out.qty_lots = TARGET, 0
    return s.seen == 20


@handler(reads=FEATURE, state=[("seen", "i8")])
def push(s, p, row, out):
    s.seen += 1
    out.action, out.side, out.qty_lots = PLACE, BUY, 700
    return s.seen == 10
"""
CONFIG = """
[line]
seed = 9
line_id = 4

[account]
currency = "EURX"
cash = 250000.5
maker_fee_bp = 1
taker_fee_bp = 4

[[account.positions]]
strategy = "keeper"
instrument = "AAA.synthetic"
lots = 700
price = 61000.25

[[account.positions]]
strategy = "closer"
instrument = "AAA.synthetic"
lots = -300
price = 61700

[[account.positions]]
strategy = "closer"
instrument = "BBB.synthetic"
lots = -40
price = 2400.05

[risk]
position_max = 1

[[strategy]]
name = "keeper"
path = "held.py:keep"

[[strategy]]
name = "closer"
path = "held.py:close"

[[strategy]]
name = "pusher"
path = "held.py:push"
instruments = ["AAA.synthetic"]
"""
# (strategy, instrument) -> lots, money units paid for them; by hand from the configuration above
HELD = {
    (KEEPER, 0): (700, 42_700_17500000),  # 0.700 at 61,000.25 = 42,700.175
    (CLOSER, 0): (-300, -18_510_00000000),  # 0.300 at 61,700
    (CLOSER, 1): (-40, -96_002_00000000),  # 40 at 2,400.05
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the strategies, their configuration, and a run on one thread in `run`."""
    made = tmp_path_factory.mktemp("held")
    (made / "held.py").write_text(STRATEGIES)
    replayed(made / "run", FEED, config=config_file(made, CONFIG))
    return made


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    return folder / "run"


def fields(row: Any, *names: str) -> tuple[int, ...]:
    return tuple(int(row[n]) for n in names)


# --- the first records -----------------------------------------------------------------------------------------------------
def test_start_instruments_cash_and_positions_are_the_first_records_at_the_time_of_the_first_of_the_feed(run: Path) -> None:
    rows = log_rows(run, "input")
    first = int(np.flatnonzero(rows["source_id"] >= FEED_BASE)[0])
    assert rows["kind"][:first].tolist() == [START, INSTRUMENT, INSTRUMENT, COMMAND, COMMAND, COMMAND, COMMAND]
    assert rows["action"][3:first].tolist() == [SET_CASH, SET_POSITION, SET_POSITION, SET_POSITION]
    assert rows["seq"][:first].tolist() == list(range(first))
    assert set(rows["ts_seq_ns"][: first + 1].tolist()) == {int(rows["ts_recv_ns"][first])}
    assert not (rows["kind"][first:] == START).any()
    assert not np.isin(rows["action"][first:][rows["kind"][first:] == COMMAND], (SET_CASH, SET_POSITION)).any()


def test_start_names_configuration_instruments_seed_line_and_currency(run: Path) -> None:
    start, facts = log_rows(run, "input")[0], open_run(run).facts
    assert fields(start, "config_id", "instruments_id") == (short_id(facts.config_sha), short_id(facts.instruments_sha))
    assert fields(start, "seed", "line_id", "epoch", "instrument_id") == (9, 4, 1, NO_INSTRUMENT)
    assert int(start["currency"]).to_bytes(8, "little").rstrip(b"\0") == b"EURX"


def test_instruments_have_their_grid_their_worth_and_the_fees_of_the_account(run: Path) -> None:
    for number, instrument in enumerate((AAA, BBB)):
        row = log_rows(run, "input")[1 + number]
        assert fields(row, "instrument_id", "blob_id") == (number, short_id(open_run(run).facts.instruments_sha))
        assert int(row["tick_mantissa"]) * Decimal(10) ** int(row["tick_exponent"]) == instrument.tick
        assert int(row["lot_mantissa"]) * Decimal(10) ** int(row["lot_exponent"]) == instrument.lot
        assert Fraction(*fields(row, "notional_num", "notional_den")) == Fraction(instrument.tick * instrument.lot) * UNIT
        assert Fraction(*fields(row, "maker_num", "fee_den")) == Fraction(1, 10_000)
        assert Fraction(*fields(row, "taker_num", "fee_den")) == Fraction(4, 10_000)


def test_cash_and_positions_are_in_money_units_and_lots(run: Path) -> None:
    rows = log_rows(run, "input")
    assert fields(rows[3], "amount", "instrument_id") == (25_000_050_000_000, NO_INSTRUMENT)
    told = {fields(r, "strategy_id", "instrument_id"): fields(r, "qty_lots", "basis") for r in rows[4:7]}
    assert told == HELD


# --- every stage -----------------------------------------------------------------------------------------------------------
def test_a_strategy_sees_from_its_first_record_what_it_holds(run: Path) -> None:
    rows = log_rows(run, "signals")
    said = rows[rows["strategy_id"] == KEEPER]
    assert {int(r["instrument_id"]): (r["value"], r["strength"]) for r in said} == {0: HELD[KEEPER, 0], 1: (0, 0)}


def test_a_target_orders_the_difference_to_what_is_held(run: Path) -> None:
    rows = log_rows(run, "risk")
    orders = rows[(rows["kind"] == ORDER) & (rows["strategy_id"] == CLOSER)]
    assert {fields(r, "instrument_id", "side", "qty_lots") for r in orders} == {(0, BUY, 300), (1, BUY, 40)}


def test_limits_count_what_all_strategies_hold(run: Path) -> None:
    rows = log_rows(run, "risk")
    (refused,) = rows[rows["kind"] == REJECT]
    assert fields(refused, "strategy_id", "reason") == (PUSHER, reasons.POSITION_LIMIT)
    assert fields(refused, "limit", "observed") == (1000, 700 - 300 + 700)


def test_closing_what_is_held_realises_the_difference_to_its_price(run: Path) -> None:
    fills, rows = log_rows(run, "input"), log_rows(run, "orders")
    fills = fills[fills["kind"] == FILL]
    for instrument in (0, 1):
        mine = fills[fills["instrument_id"] == instrument]
        lots, cost = HELD[CLOSER, instrument]
        assert mine["qty_lots"].sum() == -lots
        of_account = (rows["strategy_id"] == CLOSER) & (rows["instrument_id"] == instrument)
        last = rows[of_account & (rows["kind"] == POSITION) & (rows["action"] == AFTER_FILL)][-1]
        assert fields(last, "qty_lots", "cost", "realised", "fee") == (0, 0, int(mine["cash"].sum()) - cost, int(mine["fee"].sum()))


def test_what_is_only_held_is_marked_to_the_mid_at_every_timer_and_at_the_end(run: Path) -> None:
    rows = log_rows(run, "orders")
    kept = rows[(rows["kind"] == POSITION) & (rows["strategy_id"] == KEEPER)]
    timers = log_rows(run, "input")
    assert kept["action"].tolist() == [MARKED] * int((timers["kind"] == 9).sum()) + [AT_END]
    assert set(kept["instrument_id"].tolist()) == {0}
    top = [row for row in table(run, "tops") if row["instrument"] == AAA.name][-1]
    worth = (Decimal(top["bid"]) + Decimal(top["ask"])) / 2 * 700 * AAA.lot * UNIT
    lots, cost = HELD[KEEPER, 0]
    assert fields(kept[-1], "qty_lots", "cost", "unrealised", "realised", "fee") == (lots, cost, int(worth) - cost, 0, 0)


def test_summary_and_tables_tell_what_is_held_and_what_it_came_to(run: Path) -> None:
    summary = open_run(run).summary()
    accounts = {(a["strategy"], a["instrument"]): a for a in summary["accounts"]}
    assert set(accounts) == {("keeper", AAA.name), ("closer", AAA.name), ("closer", BBB.name)}
    keeper = accounts["keeper", AAA.name]
    assert (keeper["position"], Decimal(keeper["average_price"]), keeper["fills"], keeper["fees"]) == ("0.7", Decimal("61000.25"), 0, "0")
    assert {a["position"] for name, a in accounts.items() if name[0] == "closer"} == {"0"}
    realised = sum(Decimal(a["realised"]) for a in accounts.values())
    assert Decimal(summary["pnl"]["realised"]) == realised != 0
    assert summary["pnl"]["currency"] == "EURX"
    assert summary["pnl"]["unrealised"] == keeper["unrealised"]
    last = [row for row in table(run, "positions") if row["strategy_id"] == str(KEEPER)][-1]
    assert (Decimal(last["position"]), Decimal(last["cost"])) == (Decimal("0.7"), Decimal(HELD[KEEPER, 0][1]) / UNIT)


@pytest.mark.parametrize("placement", ["fused", "split", "staged"])
def test_every_placement_begins_with_the_same_words_and_is_proved(placement: str, folder: Path, tmp_path: Path) -> None:
    made = tmp_path / "run"
    summary = replayed(made, FEED, config=folder / "config.toml", options=("--placement", placement))
    first = open_run(folder / "run").summary()
    assert summary["hashes"] == first["hashes"]
    assert (summary["accounts"], summary["pnl"]) == (first["accounts"], first["pnl"])
    assert "proved: " in done("verify", made, "--placement", placement).out


# --- what cannot be held ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("was", "now", "words"),
    [
        ('instrument = "BBB.synthetic"\nlots', 'instrument = "BBC.synthetic"\nlots', "no instrument 'BBC.synthetic'; there are AAA.synthetic, BBB"),
        ("price = 61000.25", 'price = "1e17"', "lots of AAA.synthetic at 1E+17 are too much to count"),
        ("price = 61000.25", 'price = "1e999999999"', "expected at most 18 digits before the point and behind it"),
        ('strategy = "keeper"', 'strategy = "keeping"', "no strategy keeping; there are: keeper, closer, pusher"),
        ("lots = 700", "lots = 2_000_000_000_000", "expected int <= 1099511627776"),
    ],
)
def test_refuses_what_cannot_be_held_before_there_is_a_run(was: str, now: str, words: str, folder: Path, tmp_path: Path) -> None:
    assert was in CONFIG
    config = config_file(tmp_path, CONFIG.replace(was, now))
    (tmp_path / "held.py").write_text(STRATEGIES)
    said = tickline("replay", FEED, "--config", config, "--out", tmp_path / "run")
    assert said.code == 2
    assert words in said.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("lots", "price"), [(LOTS_MAX, "10000000000"), (-(2**39), "-20000000000")])
def test_refuses_positions_worth_more_than_can_be_counted(lots: int, price: str) -> None:
    with pytest.raises(ConfigError, match=r"lots of A\.test at .* are too much to count"):
        line_holding(lots, Decimal(price))


def test_refuses_positions_that_the_total_cannot_count() -> None:
    others = (Instrument("B", "test", Decimal("0.01"), Decimal("0.0000001")),)
    with pytest.raises(ConfigError, match=r"lots of A\.test at 0 are too much to count"):
        line_holding(2**39, Decimal(0), *others, position_total_max=Decimal(10**12))


@pytest.mark.parametrize(
    ("lots", "price", "cost"),
    [(3, "1.00333333333", 301_000_000), (-3, "1.005", -301_500_000), (1, "1.000000005", 100_000_000), (1, "1.000000015", 100_000_002)],
)
def test_an_average_price_between_two_ticks_costs_what_was_paid_to_the_nearest_unit(lots: int, price: str, cost: int) -> None:
    (held,) = line_holding(lots, Decimal(price))
    assert (held.lots, held.cost) == (lots, cost)


def line_holding(lots: int, price: Decimal, *others: Instrument, **rules: Any) -> list[Held]:
    """What a line holds that was built to hold so many lots of an instrument with a tick of 0.01 and a lot of 1."""
    config = Config(
        account=AccountConfig(positions=(HeldPosition("m", "A.test", lots, price),)), risk=RiskConfig(**rules),
        strategy=(StrategyConfig("m", "momentum"),),
    )  # fmt: skip
    return build_line(config, (Instrument("A", "test", Decimal("0.01"), Decimal(1)), *others), 1, 1, Path()).held


