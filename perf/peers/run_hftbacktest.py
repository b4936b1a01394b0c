"""hftbacktest on the shared feed, one book implementation a process; prints one JSON line.

Run by perf/pipeline_peers.py inside hftbacktest's own environment; by hand, from the project's root:

    perf/peers/.venvs/hftbacktest/bin/python -m perf.peers.run_hftbacktest --book hashmap|roivector [--rows N]

Set up as its own documentation does for a linear asset: constant order latency, risk-averse queue model, no partial fills. The
strategy is compiled, event driven (`wait_next_feed`), and reads best bid and ask at every feed event. What is timed is the
strategy's loop over prepared data in memory, after a run over the first rows that compiles it.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import hftbacktest as hft  # type: ignore[import-not-found]
import numpy as np
from hftbacktest.types import event_dtype  # type: ignore[import-not-found]
from numba import njit  # the peer's numba, not ours: this file runs in its environment only

from perf.harness import peak_rss_mb, timed
from perf.peers.terms import (
    DATA,
    FAST_EVENTS,
    FEED_LATENCY_NS,
    LOTS_PER_UNIT,
    ORDER_LATENCY_NS,
    ORDER_LOTS,
    ROWS,
    SLOW_EVENTS,
    TICKS_PER_UNIT,
)

BOOKS = ("hashmap", "roivector")
PRICE_LOW, PRICE_HIGH = 1_900.0, 2_100.0  # the vector book's range: five times what the feed walks
COMPILE_ROWS = 20_000
NEVER_NS = 60_000_000_000  # longer than any silence of the feed
END_OF_DATA = 1
QTY = ORDER_LOTS / LOTS_PER_UNIT


def events(rows: int) -> np.ndarray[Any, Any]:
    """The feed as hftbacktest's events, for the exchange's book and for ours; a trade bears its aggressor's side."""
    with np.load(DATA) as columns:
        kind, side = columns["kind"][:rows], columns["side"][:rows]
        out = np.zeros(kind.size, event_dtype)
        buys = np.where(kind == 0, side == 0, side == 1)
        what = np.where(kind == 0, hft.DEPTH_EVENT, hft.TRADE_EVENT).astype(np.uint64)
        whose = np.where(buys, hft.BUY_EVENT, hft.SELL_EVENT).astype(np.uint64)
        out["ev"] = what | whose | np.uint64(hft.EXCH_EVENT | hft.LOCAL_EVENT)
        out["exch_ts"] = columns["ts_event_ns"][:rows]
        out["local_ts"] = out["exch_ts"] + FEED_LATENCY_NS
        out["px"] = columns["price_ticks"][:rows] / TICKS_PER_UNIT
        out["qty"] = columns["qty_lots"][:rows] / LOTS_PER_UNIT
    return out


def backtest(data: np.ndarray[Any, Any], book: str) -> Any:
    """A back-test over `data`; the caller must hold `data` until it is closed, for the asset keeps no reference and would hang."""
    asset = (
        hft.BacktestAsset()
        .data([data])
        .linear_asset(1.0)
        .constant_order_latency(ORDER_LATENCY_NS, ORDER_LATENCY_NS)
        .risk_adverse_queue_model()
        .no_partial_fill_exchange()
        .trading_value_fee_model(-0.00005, 0.0007)
        .tick_size(1 / TICKS_PER_UNIT)
        .lot_size(1 / LOTS_PER_UNIT)
        .last_trades_capacity(0)
    )
    if book == "roivector":
        return hft.ROIVectorMarketDepthBacktest([asset.roi_lb(PRICE_LOW).roi_ub(PRICE_HIGH)])
    return hft.HashMapMarketDepthBacktest([asset])


@njit
def cross(h: Any, fast_events: Any, slow_events: Any, qty: Any) -> Any:
    """The strategy of the terms; returns events seen, orders sent, and the touch at the end, in ticks.

    Only best_bid and best_ask are read: with the vector book of 2.4.4 best_bid_qty and best_ask_qty return prices.
    """
    up, down = 2.0 / (fast_events + 1), 2.0 / (slow_events + 1)
    fast = slow = 0.0
    seen = orders = 0
    is_long = False
    while h.wait_next_feed(False, NEVER_NS) != END_OF_DATA:
        depth = h.depth(0)
        mid = (depth.best_bid + depth.best_ask) * 0.5
        if not mid > 0:
            continue
        if seen == 0:
            fast = slow = mid
        seen += 1
        fast += up * (mid - fast)
        slow += down * (mid - slow)
        if seen <= slow_events or (fast > slow) == is_long:
            continue
        is_long = not is_long
        orders += 1
        if is_long:
            h.submit_buy_order(0, orders, depth.best_ask, qty, hft.GTC, hft.MARKET, False)
        else:
            h.submit_sell_order(0, orders, depth.best_bid, qty, hft.GTC, hft.MARKET, False)
        h.clear_inactive_orders(0)
    depth = h.depth(0)
    return seen, orders, depth.best_bid_tick, depth.best_ask_tick


def run(rows: int, book: str) -> dict[str, Any]:
    """One timed run over the first `rows` of the feed."""
    data = events(rows)
    few = data[:COMPILE_ROWS].copy()
    first = backtest(few, book)
    compiling = timed(lambda: cross(first, FAST_EVENTS, SLOW_EVENTS, QTY))
    first.close()
    tested = backtest(data, book)
    sample = timed(lambda: cross(tested, FAST_EVENTS, SLOW_EVENTS, QTY))
    state = tested.state_values(0)
    seen, orders, bid, ask = sample.result
    result = {
        "name": f"hftbacktest_{book}",
        "version": hft.__version__,
        "events": len(data),
        "seconds": sample.seconds,
        "cpu_seconds": sample.cpu_seconds,
        "orders": int(orders),
        "fills": int(state.num_trades),
        "traded_lots": round(float(state.trading_volume) * LOTS_PER_UNIT),
        "cash": float(state.balance),
        "strategy_events": int(seen),
        "bid_ticks": int(bid),
        "ask_ticks": int(ask),
        "first_call_seconds": compiling.seconds,
        "peak_rss_mb": round(peak_rss_mb()),
    }
    tested.close()
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="hftbacktest on the shared feed")
    parser.add_argument("--book", choices=BOOKS, default=BOOKS[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    args = parser.parse_args()
    print(json.dumps(run(args.rows, args.book)))
