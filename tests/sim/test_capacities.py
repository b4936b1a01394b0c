"""What the line holds, filled to the brim on the whole line: what does not fit has a reason or a counter, and the run is proved."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from engine.run_folder import open_run
from handlers.domain.book import FAR, L3_ORDERS, WINDOW
from handlers.features.stage import INSTRUMENTS_MAX
from handlers.orders.brokers.paper import REFUSALS_MAX, REPORTS_MAX, WALK_MAX
from tests.runs import ROOT, config_file, done, log_rows, replayed, tickline
from tests.stages import Fields, level, slots, snapshot, trade
from transport.instruments import Instrument
from transport.records import (
    ACK, ADD, ASK, BID, BOOK_SNAPSHOT, BUY, CLEAR, DELETE, EVENT_END, EVENT_FIRST, EXPIRED, FEED_BASE, FILL, FLATTEN, ORDER,
    REJECT, SELL,
)  # fmt: skip
from transport.tape import TapeWriter

GREEDY = ROOT / "tests" / "sim" / "greedy.py"
PLACEMENTS = ("fused", "split", "staged")
# Answers come after the feed has ended: whatever the exchange says piles up.
SLOW = f"""
[account]
money_decimals = 2
[latency]
report_back_us = 600_000_000
[risk]
open_orders_max = 4096
orders_per_second_max = 1_000_000
orders_burst = 100_000
notional_max = 1_000_000_000_000
notional_total_max = 1_000_000_000_000
price_collar_bp = 10_000
[[strategy]]
name = "walks"
path = "{GREEDY}:walks"
params = {{ lots = 4000 }}
"""


def tape_of(path: Path, instruments: list[Instrument], records: list[Fields]) -> Path:
    rows = slots({**r, "ts_seq_ns": 0, "source_id": FEED_BASE} for r in records)
    with TapeWriter(path, instruments, {"sources": []}) as tape:
        tape.append(rows)
    return path


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run in each placement in which the exchange has as many answers on their way as it may."""
    folder = tmp_path_factory.mktemp("crowded")
    config = config_file(folder, SLOW)
    for placement in PLACEMENTS:
        replayed(folder / placement, "synthetic:20_000:1:1", config=config, options=("--placement", placement))
    return {placement: folder / placement for placement in PLACEMENTS}


def test_with_the_exchange_full_of_answers_orders_are_refused_with_a_reason_and_none_is_left_without_an_end(
    crowded: dict[str, Path],
) -> None:
    run = crowded["fused"]
    summary = open_run(run).summary()
    assert summary["rejects"]["TABLE_FULL"] > 1000
    assert summary["troubles"] == {}
    inputs, risk = log_rows(run, "input"), log_rows(run, "risk")
    reports = inputs[np.isin(inputs["kind"], (ACK, FILL, REJECT))]
    assert REPORTS_MAX - REFUSALS_MAX - WALK_MAX < len(reports) <= REPORTS_MAX, "all of them on their way at once"
    ended = (reports["kind"] == FILL) & (reports["leaves_lots"] == 0)
    ended |= (reports["action"] == EXPIRED) & (reports["kind"] == ACK)
    ended |= (reports["kind"] == REJECT) & (reports["action"] == 0)  # another is of its withdrawal at the feeds' end
    made = risk["order_id"][risk["kind"] == ORDER].tolist()
    assert len(made) == 4096
    assert Counter(reports["order_id"][ended].tolist()) == Counter(made)


def test_the_full_exchange_decides_the_same_in_every_placement_and_is_proved(crowded: dict[str, Path]) -> None:
    hashes = {placement: open_run(run).summary()["hashes"] for placement, run in crowded.items()}
    assert hashes["fused"] == hashes["split"] == hashes["staged"]
    for run in crowded.values():
        done("verify", run)


# --- books ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("placement", ["fused", "split"])
def test_orders_that_an_order_by_order_book_has_no_room_for_are_counted_and_the_others_stay(placement: str, tmp_path: Path) -> None:
    l3 = Instrument("ES", "test", Decimal("0.25"), Decimal(1), book="l3")
    room, extra = L3_ORDERS * 7 // 8, 100
    empty_book = {**level(BID, 0, 0, 1000, flags=EVENT_FIRST | EVENT_END), "kind": BOOK_SNAPSHOT, "action": CLEAR}

    def add(n: int) -> Fields:
        side = BID if n % 2 else ASK
        price = 10_000 - n % 50 if side == BID else 10_001 + n % 50
        return {**level(side, price, 1, 1000 + n), "action": ADD, "order_id": n}

    gone = {**level(BID, 9_999, 1, 10**6), "action": DELETE, "order_id": 1}
    again = [{**add(n), "ts_recv_ns": 10**6 + n} for n in (10**6 + 1, 10**6 + 3)]
    tape = tape_of(tmp_path / "l3.tape", [l3], [empty_book, *map(add, range(1, room + extra + 1)), gone, *again])
    config = config_file(tmp_path, f'[runtime]\nplacement = "{placement}"\n')
    summary = replayed(tmp_path / "run", tape, config=config)
    assert summary["troubles"] == {"BOOK_ORDERS_DROPPED": extra + 1}, "one has gone, so one of the two that come then fits"
    top = log_top(tmp_path / "run")
    assert (top["bid"], top["ask"]) == ("2499.75", "2500.25")
    kept = [*range(2, room + 1), 10**6 + 1]
    assert float(top["bid_qty"]) == sum(n % 50 == 1 for n in kept)
    done("verify", tmp_path / "run")


def log_top(run: Path) -> dict[str, str]:
    """The last row of a run's tops of book."""
    header, *_, last = done("export", run, "--table", "tops").out.splitlines()
    return dict(zip(header.split(","), last.split(","), strict=True))


@pytest.mark.parametrize("placement", ["fused", "split"])
def test_levels_too_deep_for_the_book_are_counted_and_those_near_the_top_stay(placement: str, tmp_path: Path) -> None:
    l2 = Instrument("AAA", "test", Decimal("0.01"), Decimal(1))
    levels = 20_000
    records = [*snapshot({50_000 - k: 1 + k for k in range(levels)}, {50_001: 7}, 1000), level(BID, 50_000, 5, 2000)]
    tape = tape_of(tmp_path / "deep.tape", [l2], records)
    config = config_file(tmp_path, f'[runtime]\nplacement = "{placement}"\n[features]\ndepth = 32\n')
    summary = replayed(tmp_path / "run", tape, config=config)
    headroom = WINDOW // 4
    assert summary["troubles"] == {"BOOK_LEVELS_DROPPED": levels - (WINDOW - headroom) - FAR * 7 // 8}
    row = done("export", tmp_path / "run", "--table", "features").out.splitlines()
    last = dict(zip(row[0].split(","), row[-1].split(","), strict=True))
    assert [float(last[f"bid_{k}"]) for k in (1, 2, 32)] == [50_000, 49_999, 49_969]
    assert [float(last[f"bid_lots_{k}"]) for k in (1, 2, 32)] == [5, 2, 32]
    done("verify", tmp_path / "run")


# --- instruments ----------------------------------------------------------------------------------------------------------
def many(count: int, path: Path) -> Path:
    """A tape of `count` instruments, each with a book and three trades."""
    instruments = [Instrument(f"I{n}", "test", Decimal("0.01"), Decimal("0.001")) for n in range(count)]
    records: list[Fields] = []
    for n in range(count):
        records += snapshot({1000 + n: 50}, {1002 + n: 50}, 1000 + n, n)
    for k in range(3):
        records += [trade(BUY if n % 2 else SELL, 1001 + n, 1 + k, 10**7 * (k + 1) + n, n) for n in range(count)]
    return tape_of(path, instruments, records)


def test_as_many_instruments_as_a_line_takes_are_traded_flattened_and_marked_in_every_placement(tmp_path: Path) -> None:
    tape = many(INSTRUMENTS_MAX, tmp_path / "many.tape")
    text = f'[account]\nat_end = "flatten"\n[risk]\nopen_orders_max = 4096\n[[strategy]]\nname = "once"\npath = "{GREEDY}:once"\n'
    config = config_file(tmp_path, text)
    hashes = []
    for placement in PLACEMENTS:
        run = tmp_path / placement
        summary = replayed(run, tape, config=config, options=("--placement", placement))
        assert (summary["orders"], summary["fills"]) == (2 * INSTRUMENTS_MAX, 2 * INSTRUMENTS_MAX)
        assert len(summary["accounts"]) == INSTRUMENTS_MAX
        assert {account["position"] for account in summary["accounts"]} == {"0"}
        assert summary["rejects"] == summary["troubles"] == {}
        hashes.append(summary["hashes"])
    assert hashes[0] == hashes[1] == hashes[2]
    inputs = log_rows(tmp_path / "fused", "input")
    flatten = inputs["seq"][inputs["action"] == FLATTEN][-1]
    at_once = log_rows(tmp_path / "fused", "risk")
    assert np.count_nonzero((at_once["seq"] == flatten) & (at_once["kind"] == ORDER)) == INSTRUMENTS_MAX
    bought = inputs[(inputs["kind"] == FILL) & (inputs["side"] == BUY)]
    assert sorted(bought["instrument_id"].tolist()) == list(range(INSTRUMENTS_MAX))
    assert (bought["price_ticks"] == 1002 + bought["instrument_id"].astype(np.int64)).all()
    done("verify", tmp_path / "fused")


def test_one_instrument_more_is_refused_in_words(tmp_path: Path) -> None:
    said = tickline("replay", many(INSTRUMENTS_MAX + 1, tmp_path / "many.tape"), "--out", tmp_path / "run")
    assert said.code == 2
    assert f"{INSTRUMENTS_MAX + 1} instruments; a line takes at most {INSTRUMENTS_MAX}" in said.err + said.out
