"""What one book update costs: the engine's own books folded from records, best bid and ask read after each, on one thread.

    python -m perf.bench_book [--small] [--rounds N] [--peers]

    L2      the feed of the peers' comparison (perf.peers.feed), and Binance's recorded USD-M stream where the recorded feeds are
    L3      CME's recorded orders of ESH4 where they are

A round folds all records; its result, the touch at the end, must be that of the round before and of a plain dictionary of levels. The
state is borrowed, as on the line: numba's own arrays cost two atomic counts of references a record, more than the update. A round
begins with state whose pages are there already, and without the time that Python needs to find the compiled fold. With --peers
hftbacktest's book and nautilus_trader's OrderBook run over the peers' feed as well, each in an environment of its own, and must come
to the same touch. CPU time, since the machine is shared.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from handlers.domain.book import NO_LEVEL, apply_market, best_price, new_markets
from handlers.domain.borrowed import borrow
from handlers.ingest.formats import open_feed
from perf import harness
from perf.peers import feed as peer_feed, venvs
from transport.compiled import kernel
from transport.records import ASK, BID, BOOK_DELTA, BOOK_SNAPSHOT, EVENT_FIRST, REC, SET, TRADE, copied

ROWS, ROWS_SMALL = 1_000_000, 50_000
L2_NS, L3_NS = 10.0, 40.0  # targets: a record, median
CHILD_TIMEOUT_S = 300.0
Rows = np.ndarray[Any, Any]


class WrongAnswer(Exception):
    """A book came to another touch than it must: there is no figure."""


class Folded(NamedTuple):
    """State of one book, and the records that are folded into it."""

    markets: Rows
    books: Rows
    rows: Rows


@kernel
def fold(owned):
    """Fold every row and read the touch; returns (sum of both bests over all rows, bid, ask)."""
    f = borrow(owned)
    m = f.markets[0]
    total = np.int64(0)
    for i in range(len(f.rows)):
        apply_market(m, f.books, f.rows[i])
        if m.best[0] != NO_LEVEL and m.best[1] != NO_LEVEL:
            total += best_price(m, BID) + best_price(m, ASK)
    return total, best_price(m, BID), best_price(m, ASK)


def recorded() -> Path:
    """Where the recorded feeds are."""
    return Path(os.environ.get("TICKLINE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def feeds(rows: int) -> dict[str, tuple[Rows, bool]]:
    """Name -> (records of one instrument's book, whether they are orders)."""
    peers = peer_feed.records(rows)
    found = {"L2, peers' feed": (copied(peers, peers["kind"] != TRADE), False)}
    usdm, mbo = recorded() / "binance_ws_capture" / "usdm", recorded() / "databento_mbo_esh4"
    if usdm.is_dir():
        found["L2, recorded Binance USD-M"] = (_book_rows(usdm, rows), False)
    if mbo.is_dir():
        found["L3, recorded ESH4"] = (_book_rows(mbo, rows), True)
    return found


def _book_rows(path: Path, rows: int) -> Rows:
    """Up to `rows` of a day that begins with a snapshot, over and over."""
    chunks = [copied(c, (c["kind"] == BOOK_DELTA) | (c["kind"] == BOOK_SNAPSHOT)) for c in open_feed(str(path)).chunks(1 << 16)]
    day = np.concatenate([c.view(np.uint8) for c in chunks])  # bytes: joined as records they would be others, five times as long
    return np.resize(day, max(1, rows * REC.itemsize // len(day)) * len(day))[: rows * REC.itemsize].view(REC)


def touch_of(rows: Rows) -> tuple[int, int]:
    """Best bid and ask that dictionaries of levels come to: the oracle of L2."""
    sides: dict[int, dict[int, int]] = {BID: {}, ASK: {}}
    for kind, flags, side, action, price, qty in rows[["kind", "flags", "side", "action", "price_ticks", "qty_lots"]].tolist():
        assert action == SET, kind
        if kind == BOOK_SNAPSHOT and flags & EVENT_FIRST:
            sides = {BID: {}, ASK: {}}
        if qty:
            sides[side][price] = qty
        else:
            sides[side].pop(price, None)
    return max(sides[BID]), min(sides[ASK])


def measure(rows: Rows, orders: bool) -> tuple[float, tuple[int, int, int]]:
    """(ns of CPU a record, what the fold returned) of one round."""
    markets, books = new_markets([orders])
    for state in (markets, books):
        state.view(np.uint8)[:] = state.view(np.uint8)  # fresh pages come at their first write
    times = [time.process_time_ns()]
    for part in (rows[:0], rows):
        found = fold(Folded(markets, books, part))
        times.append(time.process_time_ns())
    return (times[2] - 2 * times[1] + times[0]) / len(rows), tuple(int(v) for v in found)  # type: ignore[return-value]


def ours(rounds: int, rows: int) -> dict[str, harness.Spread]:
    """ns a record of each feed; raises WrongAnswer."""
    figures = {}
    for name, (records, orders) in feeds(rows).items():
        _, first = measure(records, orders)  # compiles
        taken = [measure(records, orders) for _ in range(rounds)]
        if any(result != first for _, result in taken):
            raise WrongAnswer(f"{name}: two rounds differ")
        if not orders and first[1:] != touch_of(records):
            raise WrongAnswer(f"{name}: {first[1:]}, dictionaries come to {touch_of(records)}")
        figures[name] = harness.Spread.of([ns for ns, _ in taken])
    return figures


def peers(rounds: int, rows: int) -> dict[str, harness.Spread]:
    """ns a row of the peers' books on the peers' feed; raises WrongAnswer, harness.RunFailed."""
    due = touch_of(feeds(rows)["L2, peers' feed"][0])
    figures = {}
    for name, call in _peer_calls(rows).items():
        taken = [call() for _ in range(rounds)]
        for result in taken:
            if (result["bid_ticks"], result["ask_ticks"]) != due:
                raise WrongAnswer(f"{name}: {result['bid_ticks']}, {result['ask_ticks']}, and not {due}")
        figures[f"{name} {taken[0]['version']}"] = harness.Spread.of([1e9 * r["cpu_seconds"] / r["rows"] for r in taken])
        if "cpu_seconds_bare" in taken[0]:
            figures[f"{name}, touch not read"] = harness.Spread.of([1e9 * r["cpu_seconds_bare"] / r["rows"] for r in taken])
    return figures


def _peer_calls(rows: int) -> dict[str, Callable[[], dict[str, Any]]]:
    def child(peer: str, module: str, *more: str) -> Callable[[], dict[str, Any]]:
        command = (str(venvs.ensure(peer)), "-W", "ignore", "-m", module, "--rows", str(rows), *more)
        return lambda: harness.run_child(command, CHILD_TIMEOUT_S)

    books = {f"hftbacktest {book}": child("hftbacktest", "perf.peers.book_hftbacktest", "--book", book) for book in ("hashmap", "roivector")}
    return books | {"nautilus_trader OrderBook": child("nautilus", "perf.peers.book_nautilus")}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="what one book update costs")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peers", action="store_true", help="hftbacktest and nautilus_trader beside ours")
    options = parser.parse_args(argv)
    rows, rounds = (ROWS_SMALL, 2) if options.small else (ROWS, options.rounds)
    figures = ours(rounds, rows)
    targets = [
        harness.Target(name, spread.median, L3_NS if name.startswith("L3") else L2_NS, " ns", at_least=False)
        for name, spread in figures.items()
    ]
    if options.peers:
        figures |= peers(max(2, rounds // 2), rows)
    print(harness.table(("book", "ns of CPU a record, median [min .. max]"), [[name, s.text("{:.1f}".format)] for name, s in figures.items()]))
    if options.small:
        return 0
    harness.write_result("book", {name: s.__dict__ for name, s in figures.items()})
    return harness.judged(targets, False)


if __name__ == "__main__":
    sys.exit(main())
