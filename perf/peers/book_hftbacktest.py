"""hftbacktest's book alone on the shared feed: its loop over the feed's rows for the local side, best bid and ask read at every one.

Run by perf/bench_book.py inside hftbacktest's own environment; prints one JSON line. It offers its book to Python in no other way than
through that loop.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import hftbacktest as hft  # type: ignore[import-not-found]
import numpy as np
from numba import njit  # the peer's numba, not ours: this file runs in its environment only

from perf.harness import timed
from perf.peers.run_hftbacktest import BOOKS, COMPILE_ROWS, END_OF_DATA, NEVER_NS, backtest, events


@njit
def follow(h: Any) -> Any:
    """Rows seen, and the sum of both bests over them, in ticks."""
    seen = total = 0
    while h.wait_next_feed(False, NEVER_NS) != END_OF_DATA:
        depth = h.depth(0)
        total += depth.best_bid_tick + depth.best_ask_tick
        seen += 1
    return seen, total, h.depth(0).best_bid_tick, h.depth(0).best_ask_tick


def run(rows: int, book: str) -> dict[str, Any]:
    """One timed run over the first `rows`."""
    data = events(rows)
    data["ev"] &= ~np.uint64(hft.EXCH_EVENT)  # the exchange's own book stays empty: one book is kept, not two
    few = data[:COMPILE_ROWS].copy()
    first = backtest(few, book)
    follow(first)
    first.close()
    tested = backtest(data, book)
    sample = timed(lambda: follow(tested))
    seen, _, bid, ask = sample.result
    tested.close()
    return {"version": hft.__version__, "rows": rows, "cpu_seconds": sample.cpu_seconds, "seen": int(seen), "bid_ticks": int(bid), "ask_ticks": int(ask)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="hftbacktest's book on the shared feed")
    parser.add_argument("--book", choices=BOOKS, default=BOOKS[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    args = parser.parse_args()
    print(json.dumps(run(args.rows, args.book)))
