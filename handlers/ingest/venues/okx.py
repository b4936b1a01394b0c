"""OKX v5 public streams: trades, tickers, books of 400 levels with the venue's checksum, closed candles' bars.

Source: OKX API v5 documentation, public websocket channels (May 2022); `seqId` and `prevSeqId`, which later messages bear, are followed
where they stand. Without them the checksum, which covers 25 levels of 400 a side, shows a missing message only where it was of those.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta, Raw

from handlers.domain.reasons import BEFORE_STREAM, CONTROL_MESSAGE, UNKNOWN_STREAM, WRONG_TYPE
from handlers.ingest.decimals import grid_step
from handlers.ingest.venues.checksums import okx_checksum
from handlers.ingest.venues.protocol import (
    NO_CHECK, NO_JSON, NOTHING, BookRule, Line, Parsed, Protocol, Refused, refusal, side_of, text_ms_ns, trade_id,
)  # fmt: skip
from handlers.ingest.venues.stream import Stream
from handlers.ingest.venues.signed import NO_PREVIOUS, SignedRule
from transport.instruments import Instrument
from transport.records import BOOK_DELTA, BOOK_SNAPSHOT, QUOTE, TRADE

import numpy as np

Signed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class Arg(msgspec.Struct, gc=False):
    """Which channel of which instrument."""

    channel: str
    instId: str = ""  # the venue's names, as all here


class Message(msgspec.Struct, gc=False):
    """A push of a channel, or an event of the connection."""

    event: str = ""
    op: str = ""
    arg: Arg | None = None
    action: str = ""
    data: Raw = NOTHING


class TradeEntry(msgspec.Struct, gc=False):
    """`trades`: one print; `side` is the taker's."""

    px: Raw
    sz: Raw
    side: str
    ts: str
    tradeId: str


class TickerEntry(msgspec.Struct, gc=False):
    """`tickers`: best bid and ask; an empty side has empty texts."""

    bidPx: Raw
    bidSz: Raw
    askPx: Raw
    askSz: Raw
    ts: str


class BookEntry(msgspec.Struct, gc=False):
    """`books`: levels [price, quantity, liquidated orders, orders]."""

    asks: Raw
    bids: Raw
    ts: str
    checksum: Signed | None = None
    seqId: Signed = 0
    prevSeqId: Signed = NO_PREVIOUS


_message = msgspec.json.Decoder(Message)
_trades = msgspec.json.Decoder(list[TradeEntry])
_tickers = msgspec.json.Decoder(list[TickerEntry])
_books = msgspec.json.Decoder(list[BookEntry])
_answer = msgspec.json.Decoder(dict[str, Any])
_EMPTY = (b'""', b'"0"')


class OkxRule(SignedRule):
    """A book signed by the CRC-32 of its best 25 levels."""

    def __init__(self, instrument: Instrument) -> None:
        super().__init__()
        self._grid = (*grid_step(instrument.tick), *grid_step(instrument.lot))

    def signature(self, m: np.void) -> int:
        return int(okx_checksum(self._markets, 0, *self._grid))


class Okx(Protocol):
    """Spot, swaps and futures by their `instId`; inverse contracts (settled in the coin) are marked so by the venue's description."""

    venue = "okx"
    url_marks = (b"okx.com", b"okex.com")
    sequenced = False  # until a book message bears its number

    def __init__(self, instruments: Sequence[Instrument] = (), market: str = "") -> None:
        super().__init__(instruments, market)
        self._last_trades: dict[int, int] = {}

    @classmethod
    def claims(cls, body: bytes) -> bool:
        try:
            message = _message.decode(body)
        except NO_JSON:
            return False
        return message.arg is not None and bool(message.arg.channel)

    def rule(self, place: int, instrument: Instrument) -> BookRule:
        return OkxRule(instrument)

    def parse(self, line: Line) -> Sequence[Parsed]:
        try:
            m = _message.decode(line.body)
            if m.event or m.op or m.arg is None or not m.data:
                raise Refused(CONTROL_MESSAGE, f"event {m.event[:40]!r}")
            return self._route(line.recv, m, m.arg)
        except msgspec.ValidationError as error:
            raise refusal(error) from None

    def _route(self, recv: int, m: Message, arg: Arg) -> Sequence[Parsed]:
        channel = arg.channel
        if channel == "trades" or channel == "trades-all":
            return self._prints(recv, self.places.of(arg.instId), _trades.decode(m.data))
        if channel == "tickers":
            return self._quotes(recv, self.places.of(arg.instId), _tickers.decode(m.data))
        if channel in ("books", "books-l2-tbt", "books50-l2-tbt"):
            return self._book(recv, self.places.of(arg.instId), m.action, _books.decode(m.data))
        raise Refused(UNKNOWN_STREAM, f"channel {channel[:40]!r}")

    def _prints(self, recv: int, place: int, entries: list[TradeEntry]) -> Sequence[Parsed]:
        ids = [trade_id(t.tradeId) for t in entries]
        if len(ids) == 1 and ids[0] == self._last_trades.get(place):
            raise Refused(BEFORE_STREAM, f"trade {ids[0]} once more, as who subscribes is told the last one")
        last = len(entries) - 1
        found = [
            Parsed(
                TRADE, place, recv, text_ms_ns(t.ts), ids[n], side=side_of(t.side), more=int(n < last),
                texts=(t.px, t.sz, NOTHING, NOTHING),
            )
            for n, t in enumerate(entries)
        ]  # fmt: skip
        if ids:
            self._last_trades[place] = ids[-1]
        return found

    def _quotes(self, recv: int, place: int, entries: list[TickerEntry]) -> Sequence[Parsed]:
        last = len(entries) - 1
        return [
            Parsed(QUOTE, place, recv, text_ms_ns(q.ts), 0, more=int(n < last), texts=(_side(q.bidPx), _side(q.bidSz), _side(q.askPx), _side(q.askSz)))
            for n, q in enumerate(entries)
        ]

    def _book(self, recv: int, place: int, action: str, entries: list[BookEntry]) -> Sequence[Parsed]:
        if action not in ("snapshot", "update"):
            raise Refused(WRONG_TYPE, f"action {action[:40]!r}")
        kind = BOOK_SNAPSHOT if action == "snapshot" else BOOK_DELTA
        self.sequenced = any(b.seqId for b in entries)
        return [
            Parsed(
                kind, place, recv, text_ms_ns(b.ts), max(b.seqId, 0), 0, b.prevSeqId if b.seqId else NO_PREVIOUS,
                check=NO_CHECK if b.checksum is None else b.checksum, texts=(b.bids, NOTHING, b.asks, NOTHING),
            )
            for b in entries
        ]  # fmt: skip

    def instruments(self, line: Line) -> Iterator[Instrument]:
        """`/public/instruments`: tick and lot; a contract's value is its multiplier."""
        if b"/public/instruments" not in line.url:
            return
        for entry in _answer.decode(line.body).get("data", ()):
            if not entry.get("tickSz") or not entry.get("lotSz"):
                continue
            inverse = entry.get("ctType") == "inverse"
            quote = entry.get("quoteCcy") or (entry.get("ctValCcy") if inverse else entry.get("settleCcy")) or "USD"
            size = Decimal(entry.get("ctVal") or 1) * Decimal(entry.get("ctMult") or 1)
            tick, lot = Decimal(entry["tickSz"]), Decimal(entry["lotSz"])
            yield Instrument(entry["instId"], self.venue, tick, lot, quote, size, inverse=inverse)


class OkxStream(Stream):
    """`trades`, `tickers` and `books` of each symbol; who subscribes to `books` anew gets a snapshot."""

    markets: ClassVar[dict[str, tuple[str, str]]] = {"okx": ("wss://ws.okx.com:8443/ws/v5/public", "https://www.okx.com/api/v5")}
    ping_s = 20.0  # the venue closes what was silent for 30

    def protocol(self) -> Okx:
        return Okx((), self.market)

    def url(self) -> str:
        return self.ws_url

    def instrument_urls(self) -> list[str]:
        kinds = sorted({"SWAP" if s.endswith("-SWAP") else "FUTURES" if s.count("-") == 2 else "SPOT" for s in self.symbols})
        return [f"{self.rest_url}/public/instruments?instType={kind}" for kind in kinds]

    def greetings(self) -> list[str]:
        return [self._say("subscribe", channel, *self.symbols) for channel in ("trades", "tickers", "books")]

    def book_messages(self, symbol: str) -> list[str]:
        return [self._say(op, "books", symbol) for op in ("unsubscribe", "subscribe")]

    def _say(self, op: str, channel: str, *symbols: str) -> str:
        return json.dumps({"op": op, "args": [{"channel": channel, "instId": s} for s in symbols]})

    def ping(self) -> str:
        return "ping"

    def is_pong(self, message: bytes) -> bool:
        return message == b"pong"


def _side(text: Raw) -> Raw | bytes:
    """A side without orders, which the venue writes as an empty text, has price 0 and quantity 0."""
    return _EMPTY[1] if bytes(text) == _EMPTY[0] else text
