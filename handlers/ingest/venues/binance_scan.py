"""What a Binance capture says about itself: spot or USD-M, its symbols, and the grid its prices and quantities lie on.

Used where the configuration names no instruments: ticks and lots are then inferred from the decimals seen. That is right for the
recorded part of the day and no promise for the rest of it: a finer price that comes later is off the grid and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from handlers.ingest.blocks import read_lines
from handlers.ingest.errors import FeedError, NotAFeedError
from handlers.ingest.venues.binance_messages import envelope
from transport.instruments import Instrument

SCAN_LINES = (
    2_000  # dust with a decimal more than the lot stands in spot books; recorded BTCUSDT shows it in line 1,886
)
SNAPSHOT_LINES = (
    20_000  # how far to look for a snapshot, whose 2,000 levels tell the grid best; recorded ones come by line 400
)
SPOT, USDM = "binance", "binance_usdm"
# Longest first: FDUSD ends in USD. Suffixes of spot and USD-M symbols that price in that currency.
QUOTE_CURRENCIES = ("FDUSD", "USDT", "USDC", "BUSD", "TUSD", "USD", "EUR", "GBP", "TRY", "BRL", "JPY", "BTC", "ETH", "BNB")  # fmt: skip


class Scan(msgspec.Struct):
    """What the head of a capture shows."""

    venue: str
    decimals: dict[str, tuple[int, int]]  # symbol -> significant decimals of prices, of quantities
    depth_symbols: list[str]

    def instrument(self, symbol: str) -> Instrument:
        """The instrument as inferred."""
        price, qty = self.decimals[symbol]
        bare = symbol.partition("_")[0]  # BTCUSDT_240927 is a dated future
        quote = next((q for q in QUOTE_CURRENCIES if bare.endswith(q) and bare != q), "USDT")
        return Instrument(symbol, self.venue, Decimal(1).scaleb(-price), Decimal(1).scaleb(-qty), quote)


def scan_capture(paths: list[Path]) -> Scan:
    """Read the head of the first file; raises NotAFeedError where it shows no Binance message, UnreadableError."""
    scan = Scan("", {}, [])
    snapshot: dict[str, Any] | None = None
    guess = ""
    for at, line in enumerate(_readable(paths[0])):
        if at >= SCAN_LINES and (snapshot is not None or at >= SNAPSHOT_LINES):
            break
        if at >= SCAN_LINES and b'"lastUpdateId"' not in line[:64]:
            continue
        stream, data = envelope(line) or ("", {})
        if "lastUpdateId" in data:
            snapshot = snapshot or data
            continue
        guess = guess or _market(stream, data, scan)
        _widen(scan, data.get("s"), _numbers(stream, data))
    scan.venue = scan.venue or guess
    if not scan.decimals or not scan.venue:
        raise NotAFeedError(
            f"{paths[0].name} shows no trade, bookTicker or depth message of Binance in its first {SCAN_LINES} lines"
        )
    if snapshot is not None and len(scan.depth_symbols) == 1:
        _widen(scan, scan.depth_symbols[0], _levels(snapshot, "bids", "asks"))
    return scan


def _readable(path: Path) -> Iterator[bytes]:
    """Lines up to where the file is cut or damaged: how it ends is told when it is read for good."""
    lines = read_lines(path)
    read = 0
    while True:
        try:
            line = next(lines)
        except StopIteration:
            return
        except FeedError:
            if not read:
                raise
            return
        read += 1
        yield line


def _market(stream: str, data: dict[str, Any], scan: Scan) -> str:
    """Note a depth message's venue and symbol; of a trade or a quote only guess, by the fields that one venue alone sends."""
    if "U" in data and isinstance(data.get("s"), str):
        scan.venue = scan.venue or (USDM if "pu" in data else SPOT)
        scan.decimals.setdefault(data["s"], (0, 0))
        if data["s"] not in scan.depth_symbols:
            scan.depth_symbols.append(data["s"])
        return ""
    if stream.endswith("trade"):
        return USDM if "X" in data else SPOT
    return (USDM if "E" in data else SPOT) if stream.endswith("bookTicker") else ""


def _numbers(stream: str, data: dict[str, Any]) -> Iterable[tuple[Any, Any]]:
    if stream.endswith("trade"):
        return [(data.get("p"), data.get("q"))]
    if stream.endswith("bookTicker"):
        return [(data.get("b"), data.get("B")), (data.get("a"), data.get("A"))]
    return _levels(data, "b", "a") if "U" in data else []


def _levels(data: dict[str, Any], *sides: str) -> Iterator[tuple[Any, Any]]:
    for side in sides:
        levels = data.get(side)
        for level in levels if isinstance(levels, list) else []:
            if isinstance(level, list) and len(level) >= 2:
                yield level[0], level[1]


def _widen(scan: Scan, symbol: Any, pairs: Iterable[tuple[Any, Any]]) -> None:
    """Raise the symbol's decimals to what `pairs` of price and quantity need."""
    if not isinstance(symbol, str):
        return
    for price, qty in pairs:
        if isinstance(price, str) and isinstance(qty, str):
            old = scan.decimals.get(symbol, (0, 0))
            scan.decimals[symbol] = (max(old[0], _decimals(price)), max(old[1], _decimals(qty)))


def _decimals(text: str) -> int:
    """Significant decimals: 61602.02000000 has 2; at most 18, what 64 bits can count."""
    return min(len(text.partition(".")[2].rstrip("0")), 18)
