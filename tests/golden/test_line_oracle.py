"""Every decision of the compiled line equals that of a plain-Python one, byte for byte."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import numpy as np
import pytest

from engine.config import Config, RiskConfig, StrategyConfig
from engine.line import Built, build_line, sequence_first_words
from engine.session import Session
from handlers.domain import reasons
from handlers.ingest.synthetic.feed import START_NS, SyntheticFeed
from tests.golden import oracle_line as oracle
from tests.golden.line_runs import DECISIONS, HERE, difference, run_compiled, run_oracle, slots_of
from transport.instruments import Instrument
from transport.records import joined

ROWS = 60_000
SEED = 7  # a feed whose decisions are of every kind, which is checked below
CONFIG = Config(
    risk=RiskConfig(position_max=Decimal("0.6"), position_total_max=Decimal("0.9")),  # 600 and 900 lots of 0.001
    strategy=(
        StrategyConfig(name="quoter", path="quoter.py:quote"),
        StrategyConfig(name="trend", path="momentum", params={"lots": 250, "warmup": 50}),
        StrategyConfig(name="fade", path="mean_reversion", params={"lots": 400, "window": 200, "entry": 1.5}),
    ),
)


def feed_rows(seed: int, rows: int, first: int, start_ns: int = START_NS) -> tuple[list[Instrument], np.ndarray]:
    """A feed of one AAA-like instrument, numbered `first`."""
    feed = SyntheticFeed(seed, rows, 1, start_ns)
    feed.bind({i.name: first for i in feed.instruments}, 16 + first)
    return [msgspec.structs.replace(i, symbol=f"S{first}") for i in feed.instruments], joined(*feed.chunks(65536))


@pytest.fixture(scope="module", params=["one feed", "two feeds"])
def both(request: pytest.FixtureRequest) -> tuple[Built, dict[str, np.ndarray], oracle.Line]:
    if request.param == "one feed":
        instruments, rows = feed_rows(SEED, ROWS, 0)
        feeds = [rows]
    else:
        instruments, rows = feed_rows(SEED, ROWS // 2, 0)
        more, other = feed_rows(SEED + 1, ROWS // 2, 1, START_NS + 777_777)
        instruments, feeds = instruments + more, [rows, other]
    built, logs = run_compiled(CONFIG, instruments, feeds)
    return built, logs, run_oracle(CONFIG, built, feeds)


@pytest.mark.parametrize("log", DECISIONS)
def test_every_decision_row_equals_the_oracles(log: str, both: tuple[Built, dict[str, np.ndarray], oracle.Line]) -> None:
    _, logs, line = both
    assert not difference(log, logs[log], slots_of(getattr(line, log)))
    assert len(logs[log]) > 500


def test_cash_positions_and_clock_end_as_the_oracles(both: tuple[Built, dict[str, np.ndarray], oracle.Line]) -> None:
    built, _, line = both
    assert int(built.line.orders.line[0]["cash"]) == line.cash
    assert int(built.line.sequencer.head[0]["next_seq"]) == line.seq
    assert int(built.line.sequencer.head[0]["ts_seq_ns"]) == line.now
    for positions in (built.line.orders.positions, built.line.risk.positions):
        held = [tuple(int(p[n]) for n in ("lots", "cost", "realised", "fees", "fills")) for p in positions]
        assert held == [(a.lots, a.cost, a.realised, a.fees, a.fills) for a in line.accounts]
    money = sum(a.realised - a.cost - a.fees for a in line.accounts)
    assert line.cash == line.opening_cash + money


def test_risk_and_orders_have_the_same_orders_open_all_along() -> None:
    instruments, rows = feed_rows(SEED, ROWS // 3, 0)
    built = build_line(CONFIG, instruments, 1, 1, HERE)
    windows = iter([rows[k : k + 100] for k in range(0, len(rows), 100)])
    session = Session(built, [windows], lambda batch: None)
    session.open(lambda ns: sequence_first_words(built, CONFIG, ns, 1, 2))
    seen: list[int] = []

    def look(inputs: int) -> None:
        risk, orders = built.line.risk, built.line.orders
        assert risk.table.tobytes() == orders.table.tobytes(), inputs
        counted = int(np.count_nonzero(risk.table["order_id"]))
        assert int(risk.line[0]["open_orders"]) == counted
        seen.append(counted)

    session.run(look)
    assert sum(counted > 0 for counted in seen) > 20
    assert max(seen) > 1


def test_nothing_stays_open_after_the_end(both: tuple[Built, dict[str, np.ndarray], oracle.Line]) -> None:
    built, _, line = both
    assert not line.table
    assert not line.judge.working
    assert not built.line.orders.table.view(np.uint8).any()
    assert not built.line.risk.table.view(np.uint8).any()
    assert built.line.risk.line[0]["open_orders"] == 0
    assert not any(built.line.risk.open_lots[name].any() for name in ("buy", "sell"))
    assert not any(built.line.signals.subs[name].any() for name in ("open_buy_lots", "open_sell_lots"))
    assert built.line.paper.paper[0]["resting"] == 0


def test_the_run_had_every_kind_of_decision(both: tuple[Built, dict[str, np.ndarray], oracle.Line]) -> None:
    """An oracle that agrees on nothing happening would prove nothing."""
    built, logs, _ = both
    refused = set(logs["risk"]["reason"].tolist()) | set(logs["orders"]["reason"].tolist())
    assert {reasons.POSITION_LIMIT, reasons.UNKNOWN_ORDER} <= refused
    if len(built.instruments) > 1:
        assert reasons.TOTAL_POSITION_LIMIT in refused
    assert built.line.paper.paper[0]["executions"] > 500
    assert built.line.orders.line[0]["sent"] > 500
    assert len({int(k) for k in logs["orders"]["kind"]}) >= 5
