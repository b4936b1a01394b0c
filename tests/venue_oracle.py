"""What happens at a venue, told twice: as the messages it sends, and as books in plain Python that share nothing with the engine.

An oracle reads the venue's messages in the order in which they happen, sent or lost, and knows after each one the best bid and ask of
its book. At any moment it can write the whole book down as the venue would: as a REST answer, or as the message that begins a
subscription.
"""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from decimal import Decimal
from typing import Any

Top = tuple[Decimal, Decimal, Decimal, Decimal]  # bid, quantity, ask, quantity
Texts = list[str]  # a level as the venue writes it: price, quantity, …


class Book:
    """Both sides by price."""

    def __init__(self) -> None:
        self.sides: dict[str, dict[Decimal, Texts]] = {"bids": {}, "asks": {}}

    def set(self, side: str, level: Texts) -> None:
        price = Decimal(level[0])
        if Decimal(level[1]):
            self.sides[side][price] = level
        else:
            self.sides[side].pop(price, None)

    def whole(self, bids: list[Texts], asks: list[Texts]) -> None:
        self.sides = {"bids": {Decimal(b[0]): b for b in bids}, "asks": {Decimal(a[0]): a for a in asks}}

    def levels(self, side: str) -> list[Texts]:
        """Best first."""
        return [level for _, level in sorted(self.sides[side].items(), reverse=side == "bids")]

    @property
    def top(self) -> Top:
        bid, ask = max(self.sides["bids"]), min(self.sides["asks"])
        return bid, Decimal(self.sides["bids"][bid][1]), ask, Decimal(self.sides["asks"][ask][1])

    def quantities(self) -> dict[str, dict[Decimal, Decimal]]:
        return {side: {price: Decimal(level[1]) for price, level in levels.items()} for side, levels in self.sides.items()}


class Oracle(ABC):
    """Books by symbol; `tops[text]` is what the book of a message was once that message had happened."""

    def __init__(self) -> None:
        self.books: dict[str, Book] = {}
        self.tops: dict[str, Top] = {}
        self.lock = threading.Lock()

    def happen(self, text: str) -> None:
        with self.lock:
            symbol = self.apply(json.loads(text))
            if symbol:
                self.tops[text] = self.books[symbol].top

    def book(self, symbol: str) -> Book:
        return self.books.setdefault(symbol, Book())

    def fresh(self, symbol: str) -> str:
        """The whole book as a message or an answer, now."""
        with self.lock:
            text = self.written(symbol)
            self.tops[text] = self.books[symbol].top
            return text

    @abstractmethod
    def apply(self, message: Any) -> str:
        """The symbol whose book a message changed; empty for other messages."""

    @abstractmethod
    def written(self, symbol: str) -> str:
        """The symbol's book as a message or an answer."""


class BinanceOracle(Oracle):
    """Begins with a recorded REST snapshot of its only symbol."""

    def __init__(self, symbol: str, snapshot: str) -> None:
        super().__init__()
        self.symbol, self.message = symbol, json.loads(snapshot)
        self.book(symbol).whole(self.message["bids"], self.message["asks"])
        self.tops[snapshot] = self.books[symbol].top

    def apply(self, message: Any) -> str:
        data = message.get("data", {})
        if data.get("e") != "depthUpdate" or data["u"] < self.message["lastUpdateId"]:
            return ""
        for side, levels in (("bids", data["b"]), ("asks", data["a"])):
            for level in levels:
                self.book(data["s"]).set(side, level)
        self.message["lastUpdateId"] = data["u"]
        return str(data["s"])

    def written(self, symbol: str) -> str:
        book = self.books[symbol]
        return json.dumps({**self.message, "bids": book.levels("bids"), "asks": book.levels("asks")})


class OkxOracle(Oracle):
    """Keeps the checksum that the venue signed the book with last."""

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[str, Any] = {}

    def apply(self, message: Any) -> str:
        if message.get("arg", {}).get("channel") != "books" or "data" not in message:
            return ""
        symbol, (data,) = message["arg"]["instId"], message["data"]
        if message["action"] == "snapshot":
            self.book(symbol).whole([], [])
        for side in ("bids", "asks"):
            for level in data[side]:
                self.book(symbol).set(side, level)
        self.last[symbol] = message
        return str(symbol)

    def written(self, symbol: str) -> str:
        book, last = self.books[symbol], self.last[symbol]
        data = {**last["data"][0], "bids": book.levels("bids"), "asks": book.levels("asks")}
        return json.dumps({**last, "action": "snapshot", "data": [data]})


class KrakenOracle(Oracle):
    """A thousand levels a side."""

    def apply(self, message: Any) -> str:
        if not isinstance(message, list) or not message[-2].startswith("book-"):
            return ""
        book = self.book(message[-1])
        for part in message[1:-2]:
            if "as" in part:
                book.whole(part["bs"], part["as"])
            for side, key in (("bids", "b"), ("asks", "a")):
                for level in part.get(key, ()):
                    book.set(side, level[:3])
                for level in book.levels(side)[1000:] if len(book.sides[side]) > 1000 else ():
                    del book.sides[side][Decimal(level[0])]
        return str(message[-1])

    def written(self, symbol: str) -> str:
        book = self.books[symbol]
        return json.dumps([1, {"as": book.levels("asks"), "bs": book.levels("bids")}, "book-1000", symbol])


class CoinbaseOracle(Oracle):
    """Books without sequence numbers."""

    def apply(self, message: Any) -> str:
        symbol = message.get("product_id", "")
        if message["type"] == "snapshot":
            self.book(symbol).whole(message["bids"], message["asks"])
        elif message["type"] == "l2update":
            for side, price, qty in message["changes"]:
                self.book(symbol).set("bids" if side == "buy" else "asks", [price, qty])
        return str(symbol) if message["type"] in ("snapshot", "l2update") else ""

    def written(self, symbol: str) -> str:
        book = self.books[symbol]
        return json.dumps({"type": "snapshot", "product_id": symbol, "bids": book.levels("bids"), "asks": book.levels("asks")})
