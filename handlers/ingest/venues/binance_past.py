"""What Binance answers when asked for the past: aggregate trades and closed bars, as events of the same kinds that its streams send.

An aggregate sums up the trades of one taker at one price (futures: within 100 ms); it says the first and last trade id that it covers.
Insurance fund and ADL trades are in none, so that ids may be missing where such were. Source: Binance API documentation, "Compressed/
Aggregate trades list" and "Kline/Candlestick data" of spot, USD-M and COIN-M REST market data (2024).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
from msgspec import Raw

from handlers.domain.reasons import UNFINISHED_BAR, UNKNOWN_STREAM, WRONG_TYPE
from handlers.ingest.venues.protocol import MS, NOTHING, PAST, Id, Line, Parsed, Places, Refused, ms_ns
from transport.records import BAR, BUY, SELL, TRADE

TRADES_MAX = 1000  # an answer has at most so many aggregates
_TRADES, _BARS = b"/aggTrades?", b"/klines?"
_SYMBOL = re.compile(rb"[?&]symbol=([A-Za-z0-9_]+)")


class Aggregate(msgspec.Struct, gc=False):
    """Trades `f` to `l`; `a` is the aggregate's own id, `m`: the buyer was the maker."""

    a: Id
    p: Raw
    q: Raw
    f: Id
    l: Id
    T: Id
    m: bool


# open time, open, high, low, close, volume, close time, quote volume (COIN-M: base), trades, taker's volumes, unused
Bar = tuple[Id, Raw, Raw, Raw, Raw, Raw, Id, Raw, Id, Raw, Raw, Raw]
_trades = msgspec.json.Decoder(list[Aggregate])
_bars = msgspec.json.Decoder(list[Bar])


def is_past(url: bytes) -> bool:
    """The answer from there is read here."""
    return _TRADES in url or _BARS in url


def next_id(answer: bytes) -> int:
    """Aggregate id that goes on behind a full answer, 0 where it was not full; raises msgspec.DecodeError."""
    trades = _trades.decode(answer)
    return trades[-1].a + 1 if len(trades) >= TRADES_MAX else 0


def parse(line: Line, places: Places, inverse: bool) -> Sequence[Parsed]:
    """The events of an answer; raises Refused, msgspec.DecodeError."""
    named = _SYMBOL.search(line.url)
    if named is None:
        raise Refused(UNKNOWN_STREAM, "an answer without its symbol")
    place = places.of(named[1].decode())
    if _TRADES in line.url:
        return [_trade(line.recv, place, m) for m in _trades.decode(line.body)]
    return [_bar(line.recv, place, bar, inverse) for bar in _bars.decode(line.body)]


def _trade(recv: int, place: int, m: Aggregate) -> Parsed:
    if m.f > m.l:
        raise Refused(WRONG_TYPE, f"first trade id {m.f} lies behind the last, {m.l}")
    return Parsed(TRADE, place, recv, ms_ns(m.T), m.l, m.f, PAST, SELL if m.m else BUY, texts=(m.p, m.q, NOTHING, NOTHING))


def _bar(recv: int, place: int, bar: Bar, inverse: bool) -> Parsed:
    start, end = ms_ns(bar[0]), ms_ns(bar[6]) + MS
    if end > recv:
        raise Refused(UNFINISHED_BAR, f"bar that begins at {bar[0]} ms")
    prices = b"[" + b",".join(map(bytes, bar[1:5])) + b"]"
    return Parsed(BAR, place, recv, end, bar[8], start, end - start, texts=(prices, bar[5], NOTHING if inverse else bar[7], NOTHING))
