"""Coinbase Exchange feed: matches, level2 books.

The book channel has no sequence numbers: that nothing is missing rests on the connection (TCP) alone, and a new one begins with a
snapshot. The ticker shows no quantities at its best prices, so it makes no quotes; it is counted as not read. Source: Coinbase Exchange
websocket feed documentation (2021).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, ClassVar

import msgspec
from msgspec import Raw

from handlers.domain.reasons import BEFORE_STREAM, CONTROL_MESSAGE, MISSING_FIELD, UNKNOWN_STREAM
from handlers.ingest.venues.depth import SnapshotRule
from handlers.ingest.venues.protocol import (
    ABSENT, NO_JSON, NOTHING, BookRule, Id, Line, Parsed, Protocol, Refused, iso_ns, levels_text, refusal, side_of,
)  # fmt: skip
from handlers.ingest.venues.stream import Stream
from transport.instruments import Instrument
from transport.records import BOOK_DELTA, BOOK_SNAPSHOT, BUY, SELL, TRADE

_CONTROL = ("subscriptions", "heartbeat", "status", "error")


class Message(msgspec.Struct, gc=False):
    """Any message of the feed, by `type`."""

    type: str
    product_id: str = ""
    time: str = ""
    price: Raw = NOTHING
    size: Raw = NOTHING
    side: str = ""
    trade_id: Id = ABSENT
    changes: Raw = NOTHING
    asks: Raw = NOTHING
    bids: Raw = NOTHING


_message = msgspec.json.Decoder(Message)
_changes = msgspec.json.Decoder(list[tuple[str, Raw, Raw]])
_answer = msgspec.json.Decoder(list[dict[str, Any]])
_TYPES = ("match", "l2update", "snapshot")


class Coinbase(Protocol):
    """Spot products, SKL-USD. `side` of a match is the maker's: the aggressor's is the other."""

    venue = "coinbase"
    url_marks = (b"coinbase.com",)
    sequenced = False

    @classmethod
    def claims(cls, body: bytes) -> bool:
        try:
            message = _message.decode(body)
        except NO_JSON:
            return False
        return message.type in (*_TYPES, "last_match", "ticker") and bool(message.product_id)

    def rule(self, place: int, instrument: Instrument) -> BookRule:
        return SnapshotRule()

    def parse(self, line: Line) -> Sequence[Parsed]:
        try:
            m = _message.decode(line.body)
            if m.type in _TYPES:
                return (self._event(line.recv, m, self.places.of(m.product_id)),)
        except msgspec.ValidationError as error:
            raise refusal(error) from None
        if m.type == "last_match":
            raise Refused(BEFORE_STREAM, "last_match")
        raise Refused(CONTROL_MESSAGE if m.type in _CONTROL else UNKNOWN_STREAM, f"type {m.type[:40]!r}")

    def _event(self, recv: int, m: Message, place: int) -> Parsed:
        if m.type == "snapshot":
            if not m.asks or not m.bids:
                raise Refused(MISSING_FIELD, "a snapshot without bids or asks")
            return Parsed(BOOK_SNAPSHOT, place, recv, iso_ns(m.time) if m.time else 0, 0, texts=(m.bids, NOTHING, m.asks, NOTHING))
        event = iso_ns(m.time)
        if m.type == "l2update":
            if not m.changes:
                raise Refused(MISSING_FIELD, "an update without changes")
            changes = [(side_of(side), price, qty) for side, price, qty in _changes.decode(m.changes)]
            bids, asks = (levels_text((p, q) for s, p, q in changes if s == side) for side in (BUY, SELL))
            return Parsed(BOOK_DELTA, place, recv, event, 0, texts=(bids, NOTHING, asks, NOTHING))
        if not m.price or not m.size or m.trade_id < 0:
            raise Refused(MISSING_FIELD, "a match without price, size or id")
        aggressor = SELL if side_of(m.side) == BUY else BUY
        return Parsed(TRADE, place, recv, event, m.trade_id, side=aggressor, texts=(m.price, m.size, NOTHING, NOTHING))

    def instruments(self, line: Line) -> Iterator[Instrument]:
        """`/products`: increments of quote and base."""
        if not line.url.endswith(b"/products"):
            return
        for entry in _answer.decode(line.body):
            tick, lot = Decimal(entry["quote_increment"]).normalize(), Decimal(entry["base_increment"]).normalize()
            yield Instrument(entry["id"], self.venue, tick, lot, entry["quote_currency"])


class CoinbaseStream(Stream):
    """`matches` and `level2_batch` (level2 in batches of 50 ms, without authentication) of each product; a snapshot begins each subscription."""

    markets: ClassVar[dict[str, tuple[str, str]]] = {"coinbase": ("wss://ws-feed.exchange.coinbase.com", "https://api.exchange.coinbase.com")}

    def protocol(self) -> Coinbase:
        return Coinbase((), self.market)

    def url(self) -> str:
        return self.ws_url

    def instrument_urls(self) -> list[str]:
        return [f"{self.rest_url}/products"]

    def greetings(self) -> list[str]:
        return [self._say("subscribe", ["matches", "level2_batch", "heartbeat"], self.symbols)]

    def book_messages(self, symbol: str) -> list[str]:
        return [self._say(op, ["level2_batch"], (symbol,)) for op in ("unsubscribe", "subscribe")]

    def _say(self, op: str, channels: list[str], symbols: Sequence[str]) -> str:
        return json.dumps({"type": op, "product_ids": list(symbols), "channels": channels})
