"""Binance's messages as typed structs, and a line of a raw capture taken apart into what the kernels want.

Numbers that are decimals in the venue's text stay text (`Raw`) up to the kernel; ids and times are bounded by the decoder itself.
Source: Binance API documentation, spot and USD-M futures websocket streams (August 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

from handlers.domain.reasons import (
    BROKEN_LINE,
    DOC,
    MISSING_FIELD,
    OUT_OF_INT64,
    TIME_JUMP,
    TIME_OUT_OF_RANGE,
    UNKNOWN_STREAM,
    UNKNOWN_SYMBOL,
    WRONG_TYPE,
)
from handlers.ingest.feed import YEAR_2000_NS, YEAR_2100_NS
from handlers.ingest.jumps import JUMPED, NO_TIME
from handlers.ingest.venues.depth import NO_PREVIOUS
from transport.records import BOOK_DELTA, BOOK_SNAPSHOT, BUY, NO_SIDE, QUOTE, SELL, TRADE

Id = Annotated[int, Meta(ge=0, le=2**63 - 1)]  # also times, in ms
ABSENT = -1
_NOTHING = Raw(b"")
_MS = 10**6
_EARLIEST_MS, _LATEST_MS = YEAR_2000_NS // _MS, YEAR_2100_NS // _MS


class Line(msgspec.Struct, gc=False):
    """What follows the receive time: a combined-stream envelope, a message without one, or a REST depth snapshot."""

    stream: str = ""
    data: Raw = _NOTHING
    e: str = ""
    lastUpdateId: Id = ABSENT  # the venue's names, as all here
    symbol: str = ""
    E: Id = ABSENT
    T: Id = ABSENT
    bids: Raw = _NOTHING
    asks: Raw = _NOTHING


class TradeMessage(msgspec.Struct, gc=False):
    """`<symbol>@trade`; `m`: the buyer was the maker."""

    s: str
    t: Id
    p: Raw
    q: Raw
    T: Id
    m: bool


class TickerMessage(msgspec.Struct, gc=False):
    """`<symbol>@bookTicker`; spot sends neither T nor E."""

    s: str
    u: Id
    b: Raw
    B: Raw
    a: Raw
    A: Raw
    T: Id = ABSENT
    E: Id = ABSENT


class DepthMessage(msgspec.Struct, gc=False):
    """`<symbol>@depth…`; only futures send T and pu."""

    s: str
    U: Id
    u: Id
    b: Raw
    a: Raw
    E: Id
    T: Id = ABSENT
    pu: Id = NO_PREVIOUS


class Refused(Exception):  # not an error: bad input on its way to a counter
    """A line that yields no record, and why."""

    def __init__(self, reason: int, what: str) -> None:
        super().__init__(what)
        self.reason = reason


_line = msgspec.json.Decoder(Line)
_trade = msgspec.json.Decoder(TradeMessage)
_ticker = msgspec.json.Decoder(TickerMessage)
_depth = msgspec.json.Decoder(DepthMessage)
# (kind, place, recv, event, venue_seq, first, prev, side), the first fields of binance_rows.MESSAGE, and the four texts
Parsed = tuple[tuple[int, int, int, int, int, int, int, int], tuple[Raw, Raw, Raw, Raw]]


def _time(ms: int) -> int:
    if not _EARLIEST_MS <= ms < _LATEST_MS:
        raise Refused(TIME_OUT_OF_RANGE, f"venue time {ms} ms")
    return ms * _MS


class Parser:
    """Takes lines of one source apart; `places` maps a symbol to its place in the feed's table."""

    def __init__(self, places: dict[str, int], futures: bool, snapshot_symbol: str) -> None:
        self.places = places
        self.futures = futures
        self.snapshot_symbol = snapshot_symbol  # whose the REST snapshots are, which do not say
        self._routes: dict[str, Callable[[int, Raw | bytes], Parsed]] = {}

    def parse(self, line: bytes, recv: int) -> Parsed:
        """`recv`: the line's receive time in ns, or NO_TIME, JUMPED. Raises Refused for a line without a usable message."""
        stamp, _, body = line.partition(b" ")
        if recv < 0:
            raise _timeless(stamp, recv)
        try:
            message = _line.decode(body)
            if message.stream:
                return self._route(message.stream)(recv, message.data)
            if message.lastUpdateId >= 0:
                return self._snapshot(recv, message)
            return self._route("@" + message.e)(recv, body)
        except msgspec.ValidationError as error:
            raise Refused(_reason(str(error)), str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Refused(BROKEN_LINE, str(error)) from None

    def _route(self, stream: str) -> Callable[[int, Raw | bytes], Parsed]:
        found = self._routes.get(stream)
        if found is None:
            what = stream.partition("@")[2]
            if what == "trade":
                found = self._trade
            elif what == "bookTicker":
                found = self._quote
            elif what == "depthUpdate" or what == "depth" or what.startswith("depth@"):
                found = self._diff
            else:
                raise Refused(UNKNOWN_STREAM, f"stream {stream[:40]!r}")
            if len(self._routes) < 4096:  # stream names come from outside; a feed has a few
                self._routes[stream] = found
        return found

    def _place(self, symbol: str) -> int:
        place = self.places.get(symbol)
        if place is None:
            raise Refused(
                UNKNOWN_SYMBOL, f"symbol {symbol[:40]!r}" if symbol else "a depth snapshot that names no symbol"
            )
        return place

    def _trade(self, recv: int, data: Raw | bytes) -> Parsed:
        m = _trade.decode(data)
        side = SELL if m.m else BUY
        return (TRADE, self._place(m.s), recv, _time(m.T), m.t, 0, 0, side), (m.p, m.q, _NOTHING, _NOTHING)

    def _quote(self, recv: int, data: Raw | bytes) -> Parsed:
        m = _ticker.decode(data)
        ms = m.T if m.T >= 0 else m.E
        event = _time(ms) if ms >= 0 else 0
        return (QUOTE, self._place(m.s), recv, event, m.u, 0, 0, NO_SIDE), (m.b, m.B, m.a, m.A)

    def _diff(self, recv: int, data: Raw | bytes) -> Parsed:
        m = _depth.decode(data)
        place = self._place(m.s)
        if self.futures == (m.pu == NO_PREVIOUS):
            raise Refused(
                MISSING_FIELD if self.futures else UNKNOWN_STREAM, "`pu`: spot and futures depth in one source"
            )
        if m.U > m.u:
            raise Refused(WRONG_TYPE, f"first update id {m.U} lies behind the last, {m.u}")
        event = _time(m.T if m.T >= 0 else m.E)
        previous = m.pu if self.futures else m.U - 1
        return (BOOK_DELTA, place, recv, event, m.u, m.U, previous, NO_SIDE), (m.b, _NOTHING, m.a, _NOTHING)

    def _snapshot(self, recv: int, m: Line) -> Parsed:
        if not m.bids or not m.asks:
            raise Refused(MISSING_FIELD, "a depth snapshot without bids or asks")
        ms = m.T if m.T >= 0 else m.E
        event = _time(ms) if ms >= 0 else 0
        place = self._place(m.symbol or self.snapshot_symbol)
        return (BOOK_SNAPSHOT, place, recv, event, m.lastUpdateId, 0, 0, NO_SIDE), (m.bids, _NOTHING, m.asks, _NOTHING)


def _reason(error: str) -> int:
    """Reason code of what msgspec says is wrong."""
    if "missing required field" in error:
        return MISSING_FIELD
    return OUT_OF_INT64 if "Expected `int` <=" in error or "Expected `int` >=" in error else WRONG_TYPE


def line_time(line: bytes) -> int:
    """Receive time in ns of a line, NO_TIME where it has none that can be read."""
    stamp = line.partition(b" ")[0]
    recv = int(stamp) if stamp.isdigit() and len(stamp) < 20 else NO_TIME
    return recv if YEAR_2000_NS <= recv < YEAR_2100_NS else NO_TIME


def _timeless(stamp: bytes, recv: int) -> Refused:
    """Why a line that begins with `stamp` has no time."""
    if recv == JUMPED:
        return Refused(TIME_JUMP, f"{stamp.decode()} ns: {DOC[TIME_JUMP]}")
    if not stamp.isdigit():
        return Refused(BROKEN_LINE, "does not begin with a receive time in ns")
    return Refused(TIME_OUT_OF_RANGE, f"receive time {stamp[:40].decode()} ns")


def envelope(line: bytes) -> tuple[str, dict[str, Any]] | None:
    """(stream or event name, fields) of a line of a capture, None for anything else; slow, for looking at a file's head."""
    stamp, _, body = line.partition(b" ")
    try:
        message = msgspec.json.decode(body) if stamp.isdigit() else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not isinstance(message, dict):
        return None
    data = message.get("data", message)
    if not isinstance(data, dict):
        return None
    return str(message.get("stream", data.get("e", ""))), data
