"""The live half of a venue's contract: where to connect, what to say, how to get a book anew.

A venue that can be followed live has a subclass beside its protocol. It opens nothing itself: `live` connects, asks and writes down
what comes, in the very form of a recorded capture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from handlers.ingest.venues.protocol import Protocol

BARS_MAX = 1000  # that one request may ask for
MINUTE_MS = 60_000


class Stream(ABC):
    """One connection to one market of a venue, for `symbols` as the venue writes them."""

    markets: ClassVar[dict[str, tuple[str, str]]]  # venue of the instruments -> (websocket address, REST address)
    idle_s: ClassVar[float] = 30.0  # a connection silent for so long is taken for dead
    ping_s: ClassVar[float] = 0.0  # how often the venue wants to hear `ping`; 0: the websocket's own pings are enough

    def __init__(self, market: str, symbols: Sequence[str], ws_url: str = "", rest_url: str = "") -> None:
        """Addresses are the venue's own where none is given; raises KeyError for a market that is not the venue's."""
        ws, rest = self.markets[market]
        self.market, self.symbols = market, tuple(symbols)
        self.ws_url, self.rest_url = ws_url or ws, rest_url or rest

    @abstractmethod
    def protocol(self) -> Protocol:
        """A protocol that has parsed nothing yet, of this market."""

    @abstractmethod
    def url(self) -> str:
        """Where to connect."""

    @abstractmethod
    def instrument_urls(self) -> list[str]:
        """REST addresses that describe the symbols; the answers are read by `Protocol.instruments`."""

    def greetings(self) -> list[str]:
        """Messages that subscribe, sent once the connection stands."""
        return []

    def book_url(self, symbol: str) -> str:
        """REST address of a whole book; empty where the stream itself sends one to who subscribes anew."""
        return ""

    def book_messages(self, symbol: str) -> list[str]:
        """Messages that make the stream send a whole book again."""
        return []

    @property
    def past_spacing_s(self) -> float:
        """Seconds between two requests for the past, where they cost more than others."""
        return 0.0

    def trades_url(self, symbol: str, since_ms: int) -> str:
        """REST address of trades from `since_ms` (venue's clock) on, the oldest first; empty where the past cannot be had."""
        return ""

    def more_trades_url(self, symbol: str, answer: bytes) -> str:
        """Address of what follows an answer; empty where it was the last. Raises msgspec.DecodeError."""
        return ""

    def bars_url(self, symbol: str, start_ms: int, end_ms: int) -> str:
        """REST address of minute bars that begin in [start, end), at most BARS_MAX."""
        return ""

    def ping(self) -> str:
        """What is sent every `ping_s`."""
        return ""

    def is_pong(self, message: bytes) -> bool:
        """A message that only answers a ping, and is not written down."""
        return False
