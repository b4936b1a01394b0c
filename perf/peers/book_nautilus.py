"""nautilus_trader's OrderBook on the shared feed's depth rows: `apply_delta`, best bid and ask read after each, from Python.

Run by perf/bench_book.py inside nautilus_trader's own environment; prints one JSON line. The deltas are made beforehand.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import nautilus_trader  # type: ignore[import-not-found]
from nautilus_trader.model.book import OrderBook  # type: ignore[import-not-found]
from nautilus_trader.model.enums import BookType  # type: ignore[import-not-found]

from perf.harness import timed
from perf.peers.run_nautilus import INSTRUMENT, deltas
from perf.peers.terms import TICKS_PER_UNIT


def follow(book: Any, data: list[Any]) -> None:
    """Apply every delta and read the touch."""
    apply, bid, ask = book.apply_delta, book.best_bid_price, book.best_ask_price
    for delta in data:
        apply(delta)
        bid()
        ask()


def apply_all(book: Any, data: list[Any]) -> None:
    """Apply every delta."""
    apply = book.apply_delta
    for delta in data:
        apply(delta)


def run(rows: int) -> dict[str, Any]:
    """Two timed runs over the depth rows among the first `rows`: with the touch read, and without."""
    data = deltas(rows)
    read, bare = OrderBook(INSTRUMENT.id, BookType.L2_MBP), OrderBook(INSTRUMENT.id, BookType.L2_MBP)
    sample, alone = timed(lambda: follow(read, data)), timed(lambda: apply_all(bare, data))
    return {
        "version": nautilus_trader.__version__,
        "rows": len(data),
        "cpu_seconds": sample.cpu_seconds,
        "cpu_seconds_bare": alone.cpu_seconds,
        "bid_ticks": round(float(read.best_bid_price()) * TICKS_PER_UNIT),
        "ask_ticks": round(float(read.best_ask_price()) * TICKS_PER_UNIT),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="nautilus_trader's book on the shared feed's depth rows")
    parser.add_argument("--rows", type=int, default=1_000_000)
    args = parser.parse_args()
    print(json.dumps(run(args.rows)))
