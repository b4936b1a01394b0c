"""BitMEX realtime: trades, quotes, orderBookL2, whose changes name a level by an id that its insertion gave a price.

A change of an id that is not known means that the book is not the venue's: the rule breaks there. A change of size that is missing shows
nowhere. Messages of a table before its `partial` are to be dropped. Source: BitMEX API documentation, "Websocket", "orderBookL2" (2021).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import Raw

from handlers.domain.reasons import BEFORE_STREAM, BOOK_ID_UNKNOWN, CONTROL_MESSAGE, MISSING_FIELD, UNKNOWN_STREAM, WRONG_TYPE
from handlers.ingest.venues.depth import SnapshotRule
from handlers.ingest.venues.protocol import (
    NO_JSON, NOTHING, BookRule, Id, Line, Parsed, Protocol, Refused, iso_ns, levels_text, refusal, side_of,
)  # fmt: skip
from transport.instruments import Instrument
from transport.records import BOOK_DELTA, BOOK_SNAPSHOT, BUY, QUOTE, SELL, TRADE

IDS_MAX = 1 << 16  # levels of one instrument; the largest recorded book has 4,000
UNKNOWN_ID = 1  # `check` of a message that names a level nobody inserted
_ZERO = b"0"


class Message(msgspec.Struct, gc=False):
    """A change of a table, or an answer to a request."""

    table: str = ""
    action: str = ""
    data: Raw = NOTHING
    filter: Raw = NOTHING


class LevelEntry(msgspec.Struct, gc=False):
    """A level of orderBookL2; an update bears no price, a deletion neither price nor size."""

    symbol: str
    id: Id
    side: str
    size: Raw = NOTHING
    price: Raw = NOTHING


class TradeEntry(msgspec.Struct, gc=False):
    """A print; `size` counts contracts, `side` is the taker's."""

    timestamp: str
    symbol: str
    side: str
    size: Raw
    price: Raw


class QuoteEntry(msgspec.Struct, gc=False):
    """Best bid and ask."""

    timestamp: str
    symbol: str
    bidSize: Raw = _ZERO  # type: ignore[assignment]
    bidPrice: Raw = _ZERO  # type: ignore[assignment]
    askPrice: Raw = _ZERO  # type: ignore[assignment]
    askSize: Raw = _ZERO  # type: ignore[assignment]


class Filter(msgspec.Struct, gc=False):
    """Which instrument a partial is of, also where it has no rows."""

    symbol: str = ""


_message = msgspec.json.Decoder(Message)
_book = msgspec.json.Decoder(list[LevelEntry])
_trades = msgspec.json.Decoder(list[TradeEntry])
_quotes = msgspec.json.Decoder(list[QuoteEntry])
_filter = msgspec.json.Decoder(Filter)
_answer = msgspec.json.Decoder(list[dict[str, Any]])


class IdRule(SnapshotRule):
    """A book whose messages the protocol has resolved from ids to prices, or could not."""

    def judge(self, m: Any, rows: Any) -> int:
        return self.follow(BOOK_ID_UNKNOWN if m["check"] == UNKNOWN_ID else 0)


class Bitmex(Protocol):
    """Perpetuals and futures by their symbols, XBTUSD."""

    venue = "bitmex"
    url_marks = (b"bitmex.com",)
    sequenced = False

    def __init__(self, instruments: Sequence[Instrument] = (), market: str = "") -> None:
        super().__init__(instruments, market)
        self._prices: dict[int, dict[int, Raw]] = {}  # place -> id of a level -> its price

    @classmethod
    def claims(cls, body: bytes) -> bool:
        try:
            message = _message.decode(body)
        except NO_JSON:
            return False
        return message.table in ("orderBookL2", "orderBookL2_25", "trade", "quote") and bool(message.data)

    def rule(self, place: int, instrument: Instrument) -> BookRule:
        return IdRule()

    def parse(self, line: Line) -> Sequence[Parsed]:
        try:
            m = _message.decode(line.body)
            if not m.table or not m.data:
                raise Refused(CONTROL_MESSAGE, "an answer to a request")
            if m.table.startswith("orderBookL2"):
                return self._changes(line.recv, m)
            if m.table == "trade":
                if m.action == "partial":
                    raise Refused(BEFORE_STREAM, "partial of the trade table")
                return self._prints(line.recv, _trades.decode(m.data))
            if m.table == "quote":
                return self._quotes(line.recv, _quotes.decode(m.data))
        except msgspec.ValidationError as error:
            raise refusal(error) from None
        raise Refused(UNKNOWN_STREAM, f"table {m.table[:40]!r}")

    def _prints(self, recv: int, entries: list[TradeEntry]) -> Sequence[Parsed]:
        places = [self.places.of(t.symbol) for t in entries]
        return [
            Parsed(
                TRADE, place, recv, iso_ns(t.timestamp), 0, side=side_of(t.side) if t.side else 0,
                more=_goes_on(places, n), texts=(t.price, t.size, NOTHING, NOTHING),
            )
            for n, (place, t) in enumerate(zip(places, entries, strict=True))
        ]  # fmt: skip

    def _quotes(self, recv: int, entries: list[QuoteEntry]) -> Sequence[Parsed]:
        places = [self.places.of(q.symbol) for q in entries]
        return [
            Parsed(
                QUOTE, place, recv, iso_ns(q.timestamp), 0, more=_goes_on(places, n),
                texts=tuple(_ZERO if bytes(t) == b"null" else t for t in (q.bidPrice, q.bidSize, q.askPrice, q.askSize)),  # type: ignore[arg-type]
            )
            for n, (place, q) in enumerate(zip(places, entries, strict=True))
        ]  # fmt: skip

    def _changes(self, recv: int, m: Message) -> Sequence[Parsed]:
        """A message of the book: one event for each of its instruments, which is one but in odd cases."""
        if m.action not in ("partial", "insert", "update", "delete"):
            raise Refused(WRONG_TYPE, f"action {m.action[:40]!r}")
        by_place: dict[int, list[LevelEntry]] = {}
        for entry in _book.decode(m.data):
            by_place.setdefault(self.places.of(entry.symbol), []).append(entry)
        if m.action == "partial" and not by_place:
            by_place[self.places.of(_filter.decode(m.filter or b"{}").symbol)] = []
        kind = BOOK_SNAPSHOT if m.action == "partial" else BOOK_DELTA
        found = []
        for place, entries in by_place.items():
            bids, asks, known = self._resolve(place, m.action, entries)
            check = 0 if known else UNKNOWN_ID
            found.append(Parsed(kind, place, recv, 0, 0, check=check, texts=(bids, NOTHING, asks, NOTHING)))
        return found

    def _resolve(self, place: int, action: str, entries: list[LevelEntry]) -> tuple[bytes, bytes, bool]:
        """(bids, asks, whether every id was known) with prices looked up and remembered."""
        prices = self._prices.setdefault(place, {})
        if action == "partial":
            prices.clear()
        sides: dict[int, list[tuple[Raw | bytes, Raw | bytes]]] = {BUY: [], SELL: []}
        known = True
        for entry in entries:
            price = entry.price or prices.get(entry.id)
            if (action in ("partial", "insert") and not entry.price) or (action != "delete" and not entry.size):
                raise Refused(MISSING_FIELD, "a level without price or size")
            if not price or len(prices) > IDS_MAX or (action in ("update", "delete") and entry.id not in prices):
                known = False
                continue
            if action == "delete":
                del prices[entry.id]
            else:
                prices[entry.id] = price
            sides[side_of(entry.side)].append((price, _ZERO if action == "delete" else entry.size))
        return levels_text(sides[BUY]), levels_text(sides[SELL]), known

    def instruments(self, line: Line) -> Iterator[Instrument]:
        """`/instrument/active`: tick; quantities count contracts. An inverse contract's multiplier is its value in the quote currency."""
        if b"/instrument" not in line.url:
            return
        for entry in _answer.decode(line.body):
            if entry.get("tickSize"):
                tick, lot = (Decimal(repr(entry[key])).normalize() for key in ("tickSize", "lotSize"))
                inverse = bool(entry.get("isInverse"))
                yield Instrument(entry["symbol"], self.venue, tick, _contracts(lot), entry["quoteCurrency"], inverse=inverse)


def _contracts(lot: Decimal) -> Decimal:
    """Quantities of the book count contracts singly, also where orders must be multiples of a lot."""
    return min(lot, Decimal(1))


def _goes_on(places: list[int], n: int) -> int:
    return int(n + 1 < len(places) and places[n + 1] == places[n])
