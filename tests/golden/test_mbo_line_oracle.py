"""Every decision over a recorded order-by-order feed equals that of a plain-Python line with a book of orders, byte for byte."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from engine.config import Config, RiskConfig, StrategyConfig
from engine.line import Built
from handlers.domain.reasons import CROSSED_BOOK
from handlers.ingest.formats import open_feed
from tests.golden import oracle_line as oracle
from tests.golden.line_runs import DECISIONS, difference, run_compiled, run_oracle, slots_of
from transport.records import ACK, AMENDED, BOOK_DELTA, CANCELLED, EXPIRED, FILL, MAKER, REJECT, SET, TAKER, joined

MILLIARD = Decimal(10**9)
CONFIG = Config(
    risk=RiskConfig(
        position_max=Decimal(600), position_total_max=Decimal(900), notional_max=MILLIARD, notional_total_max=MILLIARD, stale_data_ms=0
    ),
    strategy=(
        StrategyConfig(name="quoter", path="quoter.py:quote"),
        StrategyConfig(name="trend", path="momentum", params={"lots": 250, "warmup": 50}),
        StrategyConfig(name="fade", path="mean_reversion", params={"lots": 400, "window": 200, "entry": 1.5}),
    ),
)
Both = tuple[Built, dict[str, np.ndarray], oracle.Line]


@pytest.fixture(scope="module")
def both(data_dir: Path) -> Both:
    """Christmas 2023 of one future, from the opening auction to midnight, through both lines."""
    feed = open_feed(str(data_dir / "databento_mbo_esh4" / "esh4-glbx-mdp3-20231225.mbo.dbn.zst"))
    feed.bind({i.name: n for n, i in enumerate(feed.instruments)}, 16)
    rows = joined(*feed.chunks(65536))
    assert not np.any(rows["action"][rows["kind"] == BOOK_DELTA] == SET), "every message is about one order"
    built, logs = run_compiled(CONFIG, list(feed.instruments), [rows])
    return built, logs, run_oracle(CONFIG, built, [rows])


@pytest.mark.parametrize("log", DECISIONS)
def test_every_decision_row_on_an_order_by_order_book_equals_the_oracles(log: str, both: Both) -> None:
    _, logs, line = both
    assert not difference(log, logs[log], slots_of(getattr(line, log)))
    assert len(logs[log]) > 1000


def test_money_and_clock_end_as_the_oracles_and_every_kind_of_answer_came(both: Both) -> None:
    built, logs, line = both
    assert int(built.line.orders.line[0]["cash"]) == line.cash
    assert int(built.line.sequencer.head[0]["next_seq"]) == line.seq
    assert int(built.line.paper.paper[0]["executions"]) == line.exchange.executions > 1000
    told = {(r.kind, r.action) for r in line.answers}
    assert {(FILL, MAKER), (FILL, TAKER), (ACK, CANCELLED), (ACK, AMENDED), (ACK, EXPIRED)} <= told
    assert CROSSED_BOOK in logs["risk"]["reason"][logs["risk"]["kind"] == REJECT], "the day begins with an auction"


def test_the_books_of_both_lines_end_with_the_same_orders(both: Both) -> None:
    built, _, line = both
    table, book = built.line.books[0], line.exchange.books[0]
    used = np.flatnonzero(table["qty_lots"])
    fields = (table[name][used].tolist() for name in ("order_id", "side", "price_ticks", "qty_lots"))
    assert {i: tuple(order) for i, *order in zip(*fields, strict=True)} == book.orders
    assert len(book.orders) == 11_217
