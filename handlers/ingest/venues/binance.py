"""Binance: spot, USD-M and COIN-M futures streams, with the venue's rule for its book.

Numbers that are decimals in the venue's text stay text (`Raw`) up to the kernel; ids and times are bounded by the decoder itself.
COIN-M sends the same messages with the pair (`ps`) beside the symbol; its contracts are inverse: quantities count contracts of a
fixed value in USD. Source: Binance API documentation, spot, USD-M and COIN-M websocket streams (August 2024); "How to manage a local
order book correctly".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any, ClassVar

import msgspec
from msgspec import Raw

from handlers.domain.reasons import CONTROL_MESSAGE, MISSING_FIELD, UNFINISHED_BAR, UNKNOWN_STREAM, WRONG_TYPE
from handlers.ingest.venues import binance_past as past
from handlers.ingest.venues.binance_scanner import BinanceScanner
from handlers.ingest.venues.depth import NO_PREVIOUS, DepthRule
from handlers.ingest.venues.protocol import (
    ABSENT, MS, NO_JSON, NOTHING, BookRule, Id, Line, Parsed, Protocol, Refused, Scanner, ms_ns, quote_of, refusal,
)  # fmt: skip
from handlers.ingest.venues.stream import BARS_MAX, Stream
from transport.instruments import Instrument
from transport.records import BAR, BOOK_DELTA, BOOK_SNAPSHOT, BUY, QUOTE, SELL, TRADE

SPOT, USDM, COINM = "binance", "binance_usdm", "binance_coinm"
_SYMBOL_OF_URL = re.compile(rb"[?&]symbol=([A-Za-z0-9_]+)")
_CONTRACT_USD = {"BTCUSD": Decimal(100)}  # value of a COIN-M contract; the others' is 10 (venue's contract specifications)


class Body(msgspec.Struct, gc=False):
    """What a line may be: a combined-stream envelope, a message without one, or a REST depth snapshot."""

    stream: str = ""
    data: Raw = NOTHING
    e: str = ""
    lastUpdateId: Id = ABSENT  # the venue's names, as all here
    symbol: str = ""
    E: Id = ABSENT
    T: Id = ABSENT
    ps: str = ""
    bids: Raw = NOTHING
    asks: Raw = NOTHING
    result: Raw = NOTHING
    id: Raw = NOTHING


class TradeMessage(msgspec.Struct, gc=False):
    """`<symbol>@trade` and `@aggTrade`; `m`: the buyer was the maker."""

    s: str
    p: Raw
    q: Raw
    T: Id
    m: bool
    t: Id = ABSENT
    a: Id = ABSENT  # aggregate's id
    X: str = ""  # futures' trades alone have it
    M: Raw = NOTHING  # spot's alone
    ps: str = ""


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
    ps: str = ""


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
    ps: str = ""


class Kline(msgspec.Struct, gc=False):
    """The bar of a kline message; `q` is the sum of price times quantity, of COIN-M in the base currency."""

    t: Id
    T: Id
    s: str
    o: Raw
    h: Raw
    l: Raw
    c: Raw
    v: Raw
    q: Raw
    n: Id
    x: bool  # closed


class KlineMessage(msgspec.Struct, gc=False):
    """`<symbol>@kline_<interval>`."""

    E: Id
    k: Kline
    ps: str = ""


_body = msgspec.json.Decoder(Body)
_trade = msgspec.json.Decoder(TradeMessage)
_ticker = msgspec.json.Decoder(TickerMessage)
_depth = msgspec.json.Decoder(DepthMessage)
_kline = msgspec.json.Decoder(KlineMessage)
_info = msgspec.json.Decoder(dict[str, Any])


class Binance(Protocol):
    """Spot, USD-M and COIN-M; which of them the messages tell. `snapshot_symbol` is whose REST snapshots are that name no symbol."""

    venue = SPOT
    markets = (SPOT, USDM, COINM)
    url_marks = (b"binance.com", b"binance.vision")
    snapshot_mark = b'"lastUpdateId"'

    def __init__(self, instruments: Sequence[Instrument] = (), market: str = "") -> None:
        super().__init__(instruments, market)
        self.snapshot_symbol = ""
        self.depth_symbols: list[str] = []
        self._market = ""  # by depth messages
        self._guess = ""  # by other messages, of fields that one market alone sends
        self._routes: dict[str, Callable[[int, Raw | bytes], Parsed]] = {}

    @classmethod
    def claims(cls, body: bytes) -> bool:
        try:
            message = _body.decode(body)
        except NO_JSON:
            return False
        streamed = "@" in message.stream and bool(message.data)
        return streamed or message.lastUpdateId >= 0 or message.e in ("trade", "aggTrade", "bookTicker", "depthUpdate", "kline")

    def market(self) -> str:
        return self.told_market or self._market or self._guess or SPOT

    @property
    def shown(self) -> bool:
        return bool(self.told_market or self._market or self._guess)

    def scanner(self) -> Scanner | None:
        return BinanceScanner(self.places.known, self.market() != SPOT)

    def fresh(self, instruments: Sequence[Instrument]) -> Protocol:
        found = Binance(instruments, self.market())
        found.snapshot_symbol = self.depth_symbols[0] if len(self.depth_symbols) == 1 else ""
        return found

    def rule(self, place: int, instrument: Instrument) -> BookRule:
        return DepthRule(self.market() != SPOT)

    def parse(self, line: Line) -> Sequence[Parsed]:
        try:
            if line.url and past.is_past(line.url):
                return past.parse(line, self.places, self.market() == COINM)
            message = _body.decode(line.body)
            if message.stream:
                return (self._route(message.stream)(line.recv, message.data),)
            if message.lastUpdateId >= 0:
                return (self._snapshot(line, message),)
            if message.result or message.id or line.url:
                raise Refused(CONTROL_MESSAGE, "answer to a request")
            return (self._route("@" + message.e)(line.recv, line.body),)
        except msgspec.ValidationError as error:
            raise refusal(error) from None

    def _route(self, stream: str) -> Callable[[int, Raw | bytes], Parsed]:
        found = self._routes.get(stream)
        if found is None:
            what = stream.partition("@")[2]
            if what == "trade" or what == "aggTrade":
                found = self._trade
            elif what == "bookTicker":
                found = self._quote
            elif what == "depthUpdate" or what == "depth" or what.startswith("depth@"):
                found = self._diff
            elif what.startswith("kline"):
                found = self._bar
            else:
                raise Refused(UNKNOWN_STREAM, f"stream {stream[:40]!r}")
            if len(self._routes) < 4096:  # stream names come from outside; a feed has a few
                self._routes[stream] = found
        return found

    def _trade(self, recv: int, data: Raw | bytes) -> Parsed:
        m = _trade.decode(data)
        number = m.t if m.t >= 0 else m.a
        if number < 0:
            raise Refused(MISSING_FIELD, "a trade without `t` or `a`")
        spot = bool(m.M) or (m.t >= 0 and not m.X)
        self._guess = self._guess or (COINM if m.ps else SPOT if spot else USDM)
        side = SELL if m.m else BUY
        return Parsed(TRADE, self.places.of(m.s), recv, ms_ns(m.T), number, 0, 0, side, texts=(m.p, m.q, NOTHING, NOTHING))

    def _quote(self, recv: int, data: Raw | bytes) -> Parsed:
        m = _ticker.decode(data)
        ms = m.T if m.T >= 0 else m.E
        self._guess = self._guess or (COINM if m.ps else USDM if m.E >= 0 else SPOT)
        event = ms_ns(ms) if ms >= 0 else 0
        return Parsed(QUOTE, self.places.of(m.s), recv, event, m.u, texts=(m.b, m.B, m.a, m.A))

    def _diff(self, recv: int, data: Raw | bytes) -> Parsed:
        m = _depth.decode(data)
        self._market = self._market or (COINM if m.ps else SPOT if m.pu == NO_PREVIOUS else USDM)
        if m.s not in self.depth_symbols and len(self.depth_symbols) < 4096:
            self.depth_symbols.append(m.s)
        place = self.places.of(m.s)
        futures = self.market() != SPOT
        if futures == (m.pu == NO_PREVIOUS):
            raise Refused(MISSING_FIELD if futures else UNKNOWN_STREAM, "`pu`: spot and futures depth in one source")
        if m.U > m.u:
            raise Refused(WRONG_TYPE, f"first update id {m.U} lies behind the last, {m.u}")
        event = ms_ns(m.T if m.T >= 0 else m.E)
        previous = m.pu if futures else m.U - 1
        return Parsed(BOOK_DELTA, place, recv, event, m.u, m.U, previous, texts=(m.b, NOTHING, m.a, NOTHING))

    def _bar(self, recv: int, data: Raw | bytes) -> Parsed:
        m = _kline.decode(data)
        k = m.k
        place = self.places.of(k.s)
        if not k.x:
            raise Refused(UNFINISHED_BAR, f"bar of {k.s} that begins at {k.t} ms")
        start, end = ms_ns(k.t), ms_ns(k.T) + MS
        prices = b"[" + b",".join(map(bytes, (k.o, k.h, k.l, k.c))) + b"]"
        notional = NOTHING if m.ps else k.q
        return Parsed(BAR, place, recv, max(ms_ns(m.E), end), k.n, start, end - start, texts=(prices, k.v, notional, NOTHING))

    def _snapshot(self, line: Line, m: Body) -> Parsed:
        if not m.bids or not m.asks:
            raise Refused(MISSING_FIELD, "a depth snapshot without bids or asks")
        ms = m.T if m.T >= 0 else m.E
        event = ms_ns(ms) if ms >= 0 else 0
        named = _SYMBOL_OF_URL.search(line.url)
        place = self.places.of(m.symbol or (named[1].decode() if named else self.snapshot_symbol))
        return Parsed(BOOK_SNAPSHOT, place, line.recv, event, m.lastUpdateId, texts=(m.bids, NOTHING, m.asks, NOTHING))

    def instruments(self, line: Line) -> Iterator[Instrument]:
        """`exchangeInfo`: tick and lot by the symbol's filters."""
        if b"/exchangeInfo" not in line.url:
            return
        market = self.told_market or (COINM if b"/dapi/" in line.url else USDM if b"/fapi/" in line.url else SPOT)
        for entry in _info.decode(line.body).get("symbols", ()):
            filters = {f["filterType"]: f for f in entry["filters"]}
            tick, lot = Decimal(filters["PRICE_FILTER"]["tickSize"]).normalize(), Decimal(filters["LOT_SIZE"]["stepSize"]).normalize()
            if tick > 0 and lot > 0:
                size = Decimal(entry.get("contractSize", 1))
                yield Instrument(entry["symbol"], market, tick, lot, entry["quoteAsset"], size, inverse=market == COINM)

    def infer(self, symbol: str, price_decimals: int, qty_decimals: int) -> Instrument:
        bare = symbol.partition("_")[0]  # BTCUSDT_240927 is a dated future
        tick, lot = Decimal(1).scaleb(-price_decimals), Decimal(1).scaleb(-qty_decimals)
        if self.market() == COINM:
            return Instrument(symbol, COINM, tick, lot, quote_of(bare), _CONTRACT_USD.get(bare, Decimal(10)), inverse=True)
        return Instrument(symbol, self.market(), tick, lot, quote_of(bare))


class BinanceStream(Stream):
    """`trade`, `bookTicker` and `depth@100ms` of each symbol over one combined stream; books come by REST, 1,000 levels a side.

    A symbol that nobody trades is silent for minutes, so the stream is asked for its subscriptions: the answer is the sign of life.
    """

    markets: ClassVar[dict[str, tuple[str, str]]] = {
        SPOT: ("wss://stream.binance.com:9443", "https://api.binance.com/api/v3"),
        USDM: ("wss://fstream.binance.com", "https://fapi.binance.com/fapi/v1"),
        COINM: ("wss://dstream.binance.com", "https://dapi.binance.com/dapi/v1"),
    }

    ping_s = 10.0

    def protocol(self) -> Binance:
        return Binance((), self.market)

    def url(self) -> str:
        kinds = ("trade", "bookTicker", "depth@100ms")
        return f"{self.ws_url}/stream?streams=" + "/".join(f"{s.lower()}@{kind}" for s in self.symbols for kind in kinds)

    def instrument_urls(self) -> list[str]:
        return [f"{self.rest_url}/exchangeInfo"]

    def ping(self) -> str:
        return '{"method":"LIST_SUBSCRIPTIONS","id":1}'

    def is_pong(self, message: bytes) -> bool:
        return message.startswith(b'{"result":[')

    def book_url(self, symbol: str) -> str:
        return f"{self.rest_url}/depth?symbol={symbol}&limit=1000"

    @property
    def past_spacing_s(self) -> float:
        """Futures: `aggTrades` weighs 20 of 2,400 a minute."""
        return 0.0 if self.market == SPOT else 1.0

    def trades_url(self, symbol: str, since_ms: int) -> str:
        return f"{self.rest_url}/aggTrades?symbol={symbol}&startTime={since_ms}&limit={past.TRADES_MAX}"

    def more_trades_url(self, symbol: str, answer: bytes) -> str:
        after = past.next_id(answer)
        return f"{self.rest_url}/aggTrades?symbol={symbol}&fromId={after}&limit={past.TRADES_MAX}" if after else ""

    def bars_url(self, symbol: str, start_ms: int, end_ms: int) -> str:
        return f"{self.rest_url}/klines?symbol={symbol}&interval=1m&startTime={start_ms}&endTime={end_ms - 1}&limit={BARS_MAX}"
