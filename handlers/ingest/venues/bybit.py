"""Bybit v2 linear perpetuals: trades, orderBookL2_25, whose changes name each level by its price.

The book has no sequence that would show a missing message (`cross_seq` only grows): nothing but the connection (TCP) vouches for it, and
a new one begins with a snapshot. Source: Bybit API v2 documentation, linear public topics (2021).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import Raw

from handlers.domain.reasons import CONTROL_MESSAGE, MISSING_FIELD, UNKNOWN_STREAM, WRONG_TYPE
from handlers.ingest.venues.depth import SnapshotRule
from handlers.ingest.venues.protocol import (
    NO_JSON, NOTHING, BookRule, Line, Parsed, Protocol, Refused, in_range, levels_text, refusal, side_of, text_ms_ns,
)  # fmt: skip
from transport.instruments import Instrument
from transport.records import BOOK_DELTA, BOOK_SNAPSHOT, BUY, SELL, TRADE

_ZERO = b"0"
_NOISE = 2.0**-22  # of a quantity: the venue's are 32-bit floats as text, 12.849999 for 12.85, exact to 2**-24


class Message(msgspec.Struct, gc=False):
    """A push of a topic, or an answer to a request."""

    topic: str = ""
    type: str = ""
    data: Raw = NOTHING
    cross_seq: str = ""
    timestamp_e6: str = ""


class LevelEntry(msgspec.Struct, gc=False):
    """A level; one that is deleted has no size."""

    price: Raw
    side: str
    size: Raw = NOTHING


class Snapshot(msgspec.Struct, gc=False):
    """`data` of a snapshot."""

    order_book: list[LevelEntry]


class Delta(msgspec.Struct, gc=False):
    """`data` of a delta."""

    delete: list[LevelEntry] = []
    update: list[LevelEntry] = []
    insert: list[LevelEntry] = []


class TradeEntry(msgspec.Struct, gc=False):
    """A print; `side` is the taker's."""

    symbol: str
    price: Raw
    size: Raw
    side: str
    trade_time_ms: str


_message = msgspec.json.Decoder(Message)
_snapshot = msgspec.json.Decoder(Snapshot)
_delta = msgspec.json.Decoder(Delta)
_trades = msgspec.json.Decoder(list[TradeEntry])
_answer = msgspec.json.Decoder(dict[str, Any])


class Bybit(Protocol):
    """Linear perpetuals by their symbols, LTCUSDT."""

    venue = "bybit"
    url_marks = (b"bybit.com",)
    sequenced = False
    exact = False

    def __init__(self, instruments: Sequence[Instrument] = (), market: str = "") -> None:
        super().__init__(instruments, market)
        self._lots = [i.lot for i in instruments]

    @classmethod
    def claims(cls, body: bytes) -> bool:
        try:
            message = _message.decode(body)
        except NO_JSON:
            return False
        return message.topic.startswith(("orderBookL2_25.", "trade."))

    def rule(self, place: int, instrument: Instrument) -> BookRule:
        return SnapshotRule()

    def parse(self, line: Line) -> Sequence[Parsed]:
        try:
            m = _message.decode(line.body)
            if not m.topic or not m.data:
                raise Refused(CONTROL_MESSAGE, "an answer to a request")
            topic, _, symbol = m.topic.partition(".")
            if topic == "trade":
                return self._prints(line.recv, _trades.decode(m.data))
            if topic == "orderBookL2_25":
                return (self._book(line.recv, m, self.places.of(symbol)),)
        except msgspec.ValidationError as error:
            raise refusal(error) from None
        raise Refused(UNKNOWN_STREAM, f"topic {m.topic[:40]!r}")

    def _prints(self, recv: int, entries: list[TradeEntry]) -> Sequence[Parsed]:
        last = len(entries) - 1
        return [
            Parsed(
                TRADE, self.places.of(t.symbol), recv, text_ms_ns(t.trade_time_ms), 0, side=side_of(t.side), more=int(n < last),
                texts=(t.price, self._qty(self.places.of(t.symbol), t.size), NOTHING, NOTHING),
            )
            for n, t in enumerate(entries)
        ]  # fmt: skip

    def _book(self, recv: int, m: Message, place: int) -> Parsed:
        if not all(t.isascii() and t.isdigit() and len(t) <= 18 for t in (m.timestamp_e6, m.cross_seq)):
            raise Refused(MISSING_FIELD, "a book message without time or sequence")
        event, seq = in_range(int(m.timestamp_e6) * 1000), int(m.cross_seq)
        if m.type == "snapshot":
            kind, entries = BOOK_SNAPSHOT, [(e, e.size) for e in _snapshot.decode(m.data).order_book]
        elif m.type == "delta":
            delta = _delta.decode(m.data)
            kind = BOOK_DELTA
            entries = [(e, Raw(_ZERO)) for e in delta.delete] + [(e, e.size) for e in (*delta.update, *delta.insert)]
        else:
            raise Refused(WRONG_TYPE, f"type {m.type[:40]!r}")
        if not all(size for _, size in entries):
            raise Refused(MISSING_FIELD, "a level without size")
        bids, asks = (levels_text((e.price, self._qty(place, size)) for e, size in entries if side_of(e.side) == side) for side in (BUY, SELL))
        return Parsed(kind, place, recv, event, seq, texts=(bids, NOTHING, asks, NOTHING))

    def _qty(self, place: int, size: Raw) -> Raw | bytes:
        """A quantity on the instrument's grid, where a float's noise alone keeps it off; else as the venue wrote it."""
        text = bytes(size)
        if place >= len(self._lots) or len(text.partition(b".")[2]) <= 1:
            return size
        lot = self._lots[place]
        try:
            value = Decimal(text.decode())
            near = (value / lot).to_integral_value() * lot if value.is_finite() else value
        except (ArithmeticError, UnicodeDecodeError):
            return size
        return format(near, "f").encode() if 0 < abs(near - value) <= value * Decimal(_NOISE) else size

    def instruments(self, line: Line) -> Iterator[Instrument]:
        """`/v2/public/symbols`: tick and quantity step."""
        if b"/public/symbols" not in line.url:
            return
        for entry in _answer.decode(line.body).get("result", ()):
            tick = Decimal(entry["price_filter"]["tick_size"]).normalize()
            lot = Decimal(repr(entry["lot_size_filter"]["qty_step"])).normalize()
            inverse = entry["quote_currency"] == "USD"
            yield Instrument(entry["name"], self.venue, tick, lot, entry["quote_currency"], inverse=inverse)
