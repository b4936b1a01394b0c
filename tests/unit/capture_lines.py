"""Writes small Binance captures, line by line, for tests."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from handlers.ingest.feed import Feed
from handlers.ingest.venues.capture import CaptureFeed
from handlers.ingest.formats import open_feed
from transport.instruments import Instrument
from transport.records import (
    empty,
)

T0_NS = 1_723_161_255_000_000_000
T0_MS = 1_723_161_256_000
BTC = Instrument("BTCUSDT", "binance_usdm", Decimal("0.1"), Decimal("0.001"), "USDT")
SPOT_BTC = Instrument("BTCUSDT", "binance", Decimal("0.01"), Decimal("0.00001"), "USDT")


def line(at: int, body: dict[str, Any] | str) -> str:
    return f"{T0_NS + at} {body if isinstance(body, str) else json.dumps(body, separators=(',', ':'))}"


def trade(at: int, trade_id: int, price: str = "100.1", qty: str = "0.5", *, m: bool = False, **more: Any) -> str:
    data = {
        "e": "trade",
        "E": T0_MS,
        "T": T0_MS + at,
        "s": "BTCUSDT",
        "t": trade_id,
        "p": price,
        "q": qty,
        "X": "MARKET",
        "m": m,
    }
    return line(at, {"stream": "btcusdt@trade", "data": data | more})


def quote(at: int, u: int, **more: Any) -> str:
    data = {
        "e": "bookTicker",
        "u": u,
        "s": "BTCUSDT",
        "b": "100.0",
        "B": "1",
        "a": "100.1",
        "A": "2.5",
        "T": T0_MS + at,
    }
    return line(at, {"stream": "btcusdt@bookTicker", "data": data | {"E": T0_MS + at + 1} | more})


def depth(
    at: int, first: int, last: int, previous: int, bids: Any = (("100.0", "1"),), asks: Any = (), **more: Any
) -> str:
    data = {"e": "depthUpdate", "E": T0_MS + at + 1, "T": T0_MS + at, "s": "BTCUSDT", "U": first, "u": last}
    data |= {"pu": previous, "b": bids, "a": asks}
    return line(at, {"stream": "btcusdt@depth@0ms", "data": data | more})


def spot_depth(at: int, first: int, last: int) -> str:
    data = {"e": "depthUpdate", "E": T0_MS + at, "s": "BTCUSDT", "U": first, "u": last, "b": [["100.01", "1"]], "a": []}
    return line(at, {"stream": "btcusdt@depth@100ms", "data": data})


def snapshot(at: int, last: int, bids: Any = (("99.9", "3"),), asks: Any = (("100.2", "4"),)) -> str:
    return line(at, {"lastUpdateId": last, "bids": bids, "asks": asks})


def feed_of(tmp_path: Path, lines: Iterable[str], instruments: Iterable[Instrument] = (BTC,)) -> CaptureFeed:
    path = tmp_path / "capture.gz"
    path.write_bytes(gzip.compress("".join(text + "\n" for text in lines).encode()))
    feed = open_feed(str(path), list(instruments))
    assert isinstance(feed, CaptureFeed)
    return feed


def rows_of(feed: Feed, rows_max: int = 4096) -> np.ndarray[Any, Any]:
    return np.concatenate([empty(0), *feed.chunks(rows_max)])
