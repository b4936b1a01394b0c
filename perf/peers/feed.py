"""The shared feed: seeded level-2 rows and trades, made once, read by every contender.

A row is a level's whole quantity (kind DEPTH, 0 removes the level) or a trade at the touch (kind TRADE). The book opens with 50
levels a side in one event and then, event by event, some 10 % trades, 6 % moves of the touch by a tick (two or three rows of ONE
timestamp: the old best goes, a new best comes on the other side), the rest a changed level at a geometric depth. It is never
crossed or empty at the end of an event. Prices are ticks of 0.01, quantities lots of 0.001, times nanoseconds.

    python -m perf.peers.feed        makes perf/peers/data/l2.npz, 52 MB
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from perf.peers.terms import BOOK_ROWS, DATA, FEED_LATENCY_NS, ROWS, SEED
from transport.compiled import kernel
from transport.records import (
    ASK,
    BID,
    BOOK_DELTA,
    BOOK_SNAPSHOT,
    BUY,
    EVENT_END,
    EVENT_FIRST,
    FEED_BASE,
    SELL,
    TRADE,
    empty,
)

# Values of the columns; kept as plain literals of this file because a kernel's disk cache does not see a changed import.
DEPTH_ROW, TRADE_ROW = 0, 1
BID_SIDE, ASK_SIDE = 0, 1
START_NS = 1_700_000_000_000_000_000
START_BID = 200_000
LEVELS = 50
WINDOW_TICKS = 1 << 16  # the walk stays within a few hundred ticks of its start over 2 M rows
BASE_TICKS = START_BID - WINDOW_TICKS // 2

ROW = np.dtype([("ts_event_ns", "<i8"), ("price_ticks", "<i8"), ("qty_lots", "<i8"), ("kind", "u1"), ("side", "u1")])
Rows = np.ndarray[Any, np.dtype[Any]]


@kernel()
def _draw_lots(mean: Any) -> Any:
    """A quantity >= 1 lot, exponential with `mean` units; rounded in units first, as the feed is quoted."""
    return int(round(np.random.exponential(mean) + 0.001, 3) * 1000.0 + 0.5)


@kernel()
def _put(rows: Any, i: Any, ts: Any, kind: Any, side: Any, price: Any, lots: Any) -> Any:
    row = rows[i]
    row.ts_event_ns = ts
    row.kind = kind
    row.side = side
    row.price_ticks = price
    row.qty_lots = lots
    return i + 1


@kernel()
def _set_level(rows: Any, i: Any, ts: Any, side: Any, price: Any, lots: Any, levels: Any) -> Any:
    levels[side, price - BASE_TICKS] = lots
    return _put(rows, i, ts, DEPTH_ROW, side, price, lots)


@kernel()
def _open_book(rows: Any, levels: Any, best: Any) -> Any:
    i = 0
    for depth in range(LEVELS):
        i = _set_level(rows, i, START_NS, BID_SIDE, best[BID_SIDE] - depth, _draw_lots(5.0), levels)
        i = _set_level(rows, i, START_NS, ASK_SIDE, best[ASK_SIDE] + depth, _draw_lots(5.0), levels)
    return i


@kernel()
def _move_touch(rows: Any, i: Any, ts: Any, levels: Any, best: Any) -> Any:
    """The best level of one side is taken away and the other side follows; at most three rows of one timestamp."""
    gone = ASK_SIDE if np.random.random() < 0.5 else BID_SIDE
    step = 1 if gone == ASK_SIDE else -1
    i = _set_level(rows, i, ts, gone, best[gone], 0, levels)
    best[gone] += step
    if levels[gone, best[gone] - BASE_TICKS] == 0:
        i = _set_level(rows, i, ts, gone, best[gone], _draw_lots(5.0), levels)
    best[1 - gone] += step
    return _set_level(rows, i, ts, 1 - gone, best[1 - gone], _draw_lots(5.0), levels)


@kernel()
def _change_level(rows: Any, i: Any, ts: Any, levels: Any, best: Any) -> Any:
    """A level near the touch gets another quantity or, behind the touch, one time in four, none."""
    side = ASK_SIDE if np.random.random() < 0.5 else BID_SIDE
    depth = min(int(np.random.exponential(6.0)), LEVELS - 1)
    price = best[side] - depth if side == BID_SIDE else best[side] + depth
    if depth > 0 and levels[side, price - BASE_TICKS] > 0 and np.random.random() < 0.25:
        return _set_level(rows, i, ts, side, price, 0, levels)
    return _set_level(rows, i, ts, side, price, _draw_lots(5.0), levels)


@kernel()
def _fill_rows(rows: Any, levels: Any, best: Any, seed: Any) -> Any:
    """The order of the random draws is the feed: another order is another feed, and the checked answers no longer hold."""
    np.random.seed(seed)
    i = _open_book(rows, levels, best)
    ts = START_NS
    while i < rows.size:
        ts += 1000 + int(np.random.exponential(400_000.0))
        what = np.random.random()
        if what < 0.10:
            side = ASK_SIDE if np.random.random() < 0.5 else BID_SIDE
            i = _put(rows, i, ts, TRADE_ROW, side, best[side], _draw_lots(0.5))
        elif what < 0.16 and i + 3 < rows.size:
            i = _move_touch(rows, i, ts, levels, best)
        else:
            i = _change_level(rows, i, ts, levels, best)
    return i


def generate(rows: int = ROWS, seed: int = SEED) -> Rows:
    """`rows` >= 100 feed rows, dtype ROW; a shorter feed is the beginning of a longer one but for its last three rows."""
    if rows < BOOK_ROWS:
        raise ValueError(f"the opening book alone has {BOOK_ROWS} rows, {rows} were asked for")
    out = np.zeros(rows, ROW)
    levels = np.zeros((2, WINDOW_TICKS), np.int64)
    best = np.array([START_BID, START_BID + 1], np.int64)
    made = _fill_rows(out, levels, best, seed)
    assert made == rows, f"{made} rows made of {rows}"
    return out


def ensure(path: Path = DATA) -> Path:
    """The feed of ROWS and SEED as columns in an .npz file, made when missing; a half-written file is never left behind."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = generate()
        columns: dict[str, Any] = {name: rows[name] for name in ROW.names or ()}
        partial = path.with_name(f"{path.stem}.{os.getpid()}.partial.npz")
        np.savez(partial, **columns)
        partial.replace(path)
    return path


def load(path: Path = DATA, rows: int = ROWS) -> Rows:
    """The first `rows` feed rows of the file; raises ValueError when it has fewer."""
    with np.load(path) as columns:
        out = np.zeros(rows, ROW)
        for name in ROW.names or ():
            column = columns[name]
            if column.size < rows:
                raise ValueError(f"{path} has {column.size} rows, {rows} were asked for")
            out[name] = column[:rows]
    return out


def as_records(rows: Rows) -> Rows:
    """Feed rows as slots of `transport.records.REC`: instrument 0, source FEED_BASE, received FEED_LATENCY_NS after the event.

    The opening book becomes a snapshot. EVENT_END stands on the last row of each timestamp. A trade's side is its aggressor's,
    which is the other side than the one of the book that was hit. `venue_seq` and `origin` are the row's index.
    """
    out = empty(rows.size)
    is_trade = rows["kind"] == TRADE_ROW
    of_bid = rows["side"] == BID_SIDE
    out["kind"] = np.where(is_trade, TRADE, BOOK_DELTA)
    out["kind"][:BOOK_ROWS] = BOOK_SNAPSHOT
    out["side"] = np.where(is_trade, np.where(of_bid, SELL, BUY), np.where(of_bid, BID, ASK))
    ts = rows["ts_event_ns"]
    out["flags"] = np.where(np.append(ts[1:] != ts[:-1], True), EVENT_END, 0)
    out["flags"][0] |= EVENT_FIRST
    out["ts_event_ns"] = ts
    out["ts_recv_ns"] = ts + FEED_LATENCY_NS
    out["price_ticks"] = rows["price_ticks"]
    out["qty_lots"] = rows["qty_lots"]
    out["source_id"] = FEED_BASE
    out["venue_seq"] = out["origin"] = np.arange(rows.size)
    return out


def records(rows: int = ROWS) -> Rows:
    """The first `rows` of the shared feed as slots, made on demand; what our own line is run on."""
    return as_records(load(ensure(), rows))


if __name__ == "__main__":
    made = load(ensure())
    print(f"{DATA}: {made.size:,} rows, {np.count_nonzero(made['kind'] == TRADE_ROW):,} of them trades")
