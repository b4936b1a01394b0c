"""Kraken websocket v1: trades, tickers, books with the venue's checksum.

A data message is an array: [channel id, payload, …, channel name, pair]. Source: Kraken websocket API v1 documentation (2021), "Book
checksum" among it. The checksum covers ten levels a side: a message that is missing may have been of a deeper one and not show in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, ClassVar

import msgspec
import numpy as np
from msgspec import Raw

from handlers.domain.reasons import CONTROL_MESSAGE, MISSING_FIELD, UNKNOWN_STREAM, WRONG_TYPE
from handlers.ingest.venues.checksums import kraken_checksum
from handlers.ingest.venues.protocol import (
    NO_CHECK, NO_JSON, NOTHING, BookRule, Line, Parsed, Protocol, Refused, refusal, seconds_ns, side_of,
)  # fmt: skip
from handlers.ingest.venues.stream import Stream
from handlers.ingest.venues.signed import NO_PREVIOUS, SignedRule
from transport.instruments import Instrument
from transport.records import BOOK_DELTA, BOOK_SNAPSHOT, QUOTE, TRADE

DEPTH_MAX = 1000  # of the book-1000 channel, the deepest
DECIMALS_MAX = 15  # the venue writes up to 10; a tick of as many fits 64 bits of them


class BookPart(msgspec.Struct, gc=False, rename={"asks": "as"}):
    """A payload of the book channel: a whole book (`as`, `bs`), or changes of a side or both with the checksum after them."""

    asks: Raw = NOTHING
    bs: Raw = NOTHING
    a: Raw = NOTHING
    b: Raw = NOTHING
    c: str = ""


class Ticker(msgspec.Struct, gc=False):
    """Best ask and bid: [price, whole lots, lots]."""

    a: tuple[Raw, Raw, Raw]
    b: tuple[Raw, Raw, Raw]


class Facts(msgspec.Struct):
    """What the messages tell of a pair's book, for its rule."""

    depth: int = DEPTH_MAX
    price_decimals: int = 0  # as the venue writes them, trailing zeros included
    qty_decimals: int = 0


_array = msgspec.json.Decoder(list[Raw])
_trades = msgspec.json.Decoder(list[tuple[Raw, Raw, str, str, str, str]])
_ticker = msgspec.json.Decoder(Ticker)
_book = msgspec.json.Decoder(BookPart)
_levels = msgspec.json.Decoder(list[list[str]])
_text = msgspec.json.Decoder(str)
_answer = msgspec.json.Decoder(dict[str, Any])


class KrakenRule(SignedRule):
    """A book signed by the CRC-32 of its best ten levels, of which the venue publishes `facts.depth`."""

    def __init__(self, facts: Facts, instrument: Instrument) -> None:
        super().__init__()
        self._facts, self._instrument = facts, instrument

    @property
    def depth(self) -> int:
        return self._facts.depth

    def signature(self, m: np.void) -> int:
        tick = self._instrument.tick.scaleb(self._facts.price_decimals).as_integer_ratio()
        lot = self._instrument.lot.scaleb(self._facts.qty_decimals).as_integer_ratio()
        return int(kraken_checksum(self._markets, 0, *tick, *lot))


class Kraken(Protocol):
    """Spot pairs by their websocket names, XBT/CHF."""

    venue = "kraken"
    url_marks = (b"kraken.com",)
    sequenced = False

    def __init__(self, instruments: Sequence[Instrument] = (), market: str = "") -> None:
        super().__init__(instruments, market)
        self._facts: dict[int, Facts] = {}

    @classmethod
    def claims(cls, body: bytes) -> bool:
        try:
            name = _text.decode(_array.decode(body)[-2])
        except (*NO_JSON, IndexError):
            return False
        return name in ("trade", "ticker") or name.startswith("book-")

    def rule(self, place: int, instrument: Instrument) -> BookRule:
        return KrakenRule(self._facts.setdefault(place, Facts()), instrument)

    def parse(self, line: Line) -> Sequence[Parsed]:
        if line.body[:1] != b"[":
            raise Refused(CONTROL_MESSAGE, "an event of the connection")
        try:
            parts = _array.decode(line.body)
            if len(parts) < 4:
                raise Refused(MISSING_FIELD, f"a message of {len(parts)} parts")
            channel, place = _text.decode(parts[-2]), self.places.of(_text.decode(parts[-1]))
            if channel == "trade":
                return self._prints(line.recv, place, _trades.decode(parts[1]))
            if channel == "ticker":
                return [self._quote(line.recv, place, _ticker.decode(parts[1]))]
            if channel.startswith("book-") and channel[5:].isascii() and channel[5:].isdigit():
                return self._changes(line.recv, place, int(channel[5:9]), [_book.decode(p) for p in parts[1:-2]])
        except msgspec.ValidationError as error:
            raise refusal(error) from None
        raise Refused(UNKNOWN_STREAM, f"channel {channel[:40]!r}")

    def _prints(self, recv: int, place: int, entries: list[tuple[Raw, Raw, str, str, str, str]]) -> Sequence[Parsed]:
        last = len(entries) - 1
        return [
            Parsed(TRADE, place, recv, seconds_ns(time), 0, side=side_of(side), more=int(n < last), texts=(price, qty, NOTHING, NOTHING))
            for n, (price, qty, time, side, _, _) in enumerate(entries)
        ]

    def _quote(self, recv: int, place: int, m: Ticker) -> Parsed:
        return Parsed(QUOTE, place, recv, 0, 0, texts=(m.b[0], m.b[2], m.a[0], m.a[2]))

    def _changes(self, recv: int, place: int, depth: int, parts: list[BookPart]) -> Sequence[Parsed]:
        facts = self._facts.setdefault(place, Facts())
        whole = next((p for p in parts if p.asks or p.bs), None)
        if whole is not None:
            facts.depth = min(depth, DEPTH_MAX)
            asks, bids = whole.asks or b"[]", whole.bs or b"[]"
            event, price, qty = self._look(asks, bids)
            if price or qty:  # an empty book shows none
                facts.price_decimals, facts.qty_decimals = price, qty
            return [Parsed(BOOK_SNAPSHOT, place, recv, event, 0, 0, NO_PREVIOUS, texts=(bids, NOTHING, asks, NOTHING))]
        asks = next((p.a for p in parts if p.a), b"[]")
        bids = next((p.b for p in parts if p.b), b"[]")
        sign = next((p.c for p in parts if p.c), "")
        if sign and not (sign.isascii() and sign.isdigit() and len(sign) <= 10):
            raise Refused(WRONG_TYPE, f"checksum {sign[:40]!r}")
        event, _, _ = self._look(asks, bids)
        check = int(sign) if sign else NO_CHECK
        return [Parsed(BOOK_DELTA, place, recv, event, 0, 0, NO_PREVIOUS, check=check, texts=(bids, NOTHING, asks, NOTHING))]

    def _look(self, asks: Raw | bytes, bids: Raw | bytes) -> tuple[int, int, int]:
        """(newest time in ns, decimals of prices, of quantities) of levels [price, quantity, time, …]."""
        levels = _levels.decode(asks) + _levels.decode(bids)
        if any(len(level) < 3 for level in levels):
            raise Refused(MISSING_FIELD, "a level without price, quantity or time")
        event = max((seconds_ns(level[2]) for level in levels), default=0)
        price, qty = (len(text.partition(".")[2]) for text in (levels[0][:2] if levels else ("", "")))
        if max(price, qty) > DECIMALS_MAX:
            raise Refused(WRONG_TYPE, f"a level of {max(price, qty)} decimals")
        return event, price, qty

    def instruments(self, line: Line) -> Iterator[Instrument]:
        """`/public/AssetPairs`: decimals of pair and lot."""
        if b"/public/AssetPairs" not in line.url:
            return
        for entry in _answer.decode(line.body).get("result", {}).values():
            if entry.get("wsname"):
                tick, lot = (Decimal(1).scaleb(-int(entry[key])) for key in ("pair_decimals", "lot_decimals"))
                yield Instrument(entry["wsname"], self.venue, tick, lot, entry["wsname"].partition("/")[2])


class KrakenStream(Stream):
    """`trade`, `ticker` and `book` (1,000 levels) of each pair; who subscribes to `book` anew gets a snapshot."""

    markets: ClassVar[dict[str, tuple[str, str]]] = {"kraken": ("wss://ws.kraken.com", "https://api.kraken.com/0")}

    def protocol(self) -> Kraken:
        return Kraken((), self.market)

    def url(self) -> str:
        return self.ws_url

    def instrument_urls(self) -> list[str]:
        return [f"{self.rest_url}/public/AssetPairs"]

    def greetings(self) -> list[str]:
        return [self._say("subscribe", channel, *self.symbols) for channel in ("trade", "ticker", "book")]

    def book_messages(self, symbol: str) -> list[str]:
        return [self._say(event, "book", symbol) for event in ("unsubscribe", "subscribe")]

    def _say(self, event: str, channel: str, *symbols: str) -> str:
        subscription: dict[str, Any] = {"name": channel} | ({"depth": DEPTH_MAX} if channel == "book" else {})
        return json.dumps({"event": event, "pair": list(symbols), "subscription": subscription})
