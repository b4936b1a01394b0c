"""nautilus_trader on the shared feed's depth rows, one process a run; prints one JSON line.

Run by perf/pipeline_peers.py inside nautilus_trader's own environment; by hand, from the project's root:

    perf/peers/.venvs/nautilus/bin/python -m perf.peers.run_nautilus --strategy cross|noop [--rows N]

Set up at its fastest with what the comparison needs: risk engine on (its order rate limit lifted), logging off, no post-run
analysis, no latency model. Every depth row is a delta of its own (the trades are left out), delivered to the strategy one by
one; the averages move at each. The strategy is a Python class, as its documentation has it, on the compiled indicators. What is
timed is `BacktestEngine.run` over data made and sorted beforehand.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import nautilus_trader  # type: ignore[import-not-found]
import numpy as np
from nautilus_trader.backtest.engine import (  # type: ignore[import-not-found]
    BacktestEngine,
    BacktestEngineConfig,
)
from nautilus_trader.config import (  # type: ignore[import-not-found]
    LoggingConfig,
    RiskEngineConfig,
    StrategyConfig,
)
from nautilus_trader.indicators import ExponentialMovingAverage  # type: ignore[import-not-found]
from nautilus_trader.model.currencies import USDT  # type: ignore[import-not-found]
from nautilus_trader.model.data import BookOrder, OrderBookDelta  # type: ignore[import-not-found]
from nautilus_trader.model.enums import (  # type: ignore[import-not-found]
    AccountType,
    BookAction,
    BookType,
    OmsType,
    OrderSide,
    RecordFlag,
)
from nautilus_trader.model.identifiers import TraderId, Venue  # type: ignore[import-not-found]
from nautilus_trader.model.objects import Money, Price, Quantity  # type: ignore[import-not-found]
from nautilus_trader.test_kit.providers import TestInstrumentProvider  # type: ignore[import-not-found]
from nautilus_trader.trading.strategy import Strategy  # type: ignore[import-not-found]

from perf.harness import peak_rss_mb, timed
from perf.peers.terms import (
    DATA,
    FAST_EVENTS,
    LOTS_PER_UNIT,
    ORDER_LOTS,
    SLOW_EVENTS,
    TICKS_PER_UNIT,
)

STRATEGIES = ("cross", "noop")
INSTRUMENT = TestInstrumentProvider.ethusdt_perp_binance()  # tick 0.01, lot 0.001: the feed's grid
VENUE = Venue("BINANCE")
NO_RATE_LIMIT = "1000000/00:00:01"


class CrossConfig(StrategyConfig, frozen=True):  # type: ignore[misc, call-arg]
    """Lengths of the two averages, in events."""

    fast_events: int = FAST_EVENTS
    slow_events: int = SLOW_EVENTS


class Noop(Strategy):  # type: ignore[misc]
    """Is given every delta and does nothing with it: the engine's floor."""

    seen = orders = fills = traded_lots = 0

    def on_start(self) -> None:
        self.subscribe_order_book_deltas(INSTRUMENT.id, BookType.L2_MBP)

    def on_order_book_deltas(self, deltas: Any) -> None:
        self.seen += 1


class Cross(Noop):
    """The strategy of the terms."""

    def __init__(self, config: CrossConfig) -> None:
        super().__init__(config)
        self.fast = ExponentialMovingAverage(config.fast_events)
        self.slow = ExponentialMovingAverage(config.slow_events)
        self.lots = Quantity(ORDER_LOTS / LOTS_PER_UNIT, 3)
        self.is_long = False

    def on_order_book_deltas(self, deltas: Any) -> None:
        mid = self.cache.order_book(INSTRUMENT.id).midpoint()
        if mid is None:
            return
        self.seen += 1
        fast, slow = self.fast, self.slow
        fast.update_raw(mid)
        slow.update_raw(mid)
        if slow.initialized and (fast.value > slow.value) != self.is_long:
            self.is_long = not self.is_long
            self.orders += 1
            side = OrderSide.BUY if self.is_long else OrderSide.SELL
            self.submit_order(self.order_factory.market(INSTRUMENT.id, side, self.lots))

    def on_order_filled(self, event: Any) -> None:
        self.fills += 1
        self.traded_lots += round(float(event.last_qty) * LOTS_PER_UNIT)


def deltas(rows: int) -> list[Any]:
    """The depth rows among the first `rows` of the feed, each a delta that ends its event."""
    with np.load(DATA) as columns:
        names = ("ts_event_ns", "side", "price_ticks", "qty_lots")
        depth = columns["kind"][:rows] == 0
        ts, side, price, lots = (columns[name][:rows][depth].tolist() for name in names)
    prices = {ticks: Price(ticks / TICKS_PER_UNIT, 2) for ticks in set(price)}
    out = []
    for at, of, ticks, count in zip(ts, side, price, lots, strict=True):
        whose = OrderSide.SELL if of else OrderSide.BUY
        order = BookOrder(whose, prices[ticks], Quantity(count / LOTS_PER_UNIT, 3), ticks)
        action = BookAction.UPDATE if count else BookAction.DELETE
        out.append(OrderBookDelta(INSTRUMENT.id, action, order, RecordFlag.F_LAST, 0, at, at))
    return out


def engine(data: list[Any], strategy: Noop) -> Any:
    """A back-test engine with one venue, the data and the strategy, ready to run."""
    made = BacktestEngine(
        BacktestEngineConfig(
            trader_id=TraderId("BT-001"),
            logging=LoggingConfig(bypass_logging=True),
            risk_engine=RiskEngineConfig(bypass=False, max_order_submit_rate=NO_RATE_LIMIT),
            run_analysis=False,
        )
    )
    cash = [Money(1_000_000, USDT)]
    made.add_venue(VENUE, OmsType.NETTING, AccountType.MARGIN, cash, book_type=BookType.L2_MBP, trade_execution=True)
    made.add_instrument(INSTRUMENT)
    made.add_strategy(strategy)
    made.add_data(data, sort=True)
    return made


def run(rows: int, strategy: str) -> dict[str, Any]:
    """One timed run."""
    mine = Noop(StrategyConfig()) if strategy == "noop" else Cross(CrossConfig())
    data = deltas(rows)
    ready = engine(data, mine)
    sample = timed(ready.run)
    book = ready.kernel.cache.order_book(INSTRUMENT.id)
    return {
        "name": f"nautilus_{strategy}",
        "version": nautilus_trader.__version__,
        "events": len(data),
        "seconds": sample.seconds,
        "cpu_seconds": sample.cpu_seconds,
        "orders": mine.orders,
        "fills": mine.fills,
        "traded_lots": mine.traded_lots,
        "strategy_events": mine.seen,
        "bid_ticks": round(float(book.best_bid_price()) * TICKS_PER_UNIT),
        "ask_ticks": round(float(book.best_ask_price()) * TICKS_PER_UNIT),
        "peak_rss_mb": round(peak_rss_mb()),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="nautilus_trader on the shared feed's depth rows")
    parser.add_argument("--strategy", choices=STRATEGIES, default=STRATEGIES[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    args = parser.parse_args()
    print(json.dumps(run(args.rows, args.strategy)))
