"""The contract of a venue: what one module has to say so that its captures are decoded, and its streams followed live.

    line of a capture ──► form: (receive ns, url, body) ──► Protocol.parse ──► Parsed: integers and number texts
        └─ the live source writes such lines                                      │ levels.write_rows (compiled): ticks and lots
                                                                                  ▼
                      records ◄── capture.py lets through, holds or drops ◄── BookRule of the instrument: may it reach the book?

A protocol is the same object for a recorded capture and a live connection: what it learns (which prices stand behind the ids of a
book) it learns from the messages alone, in their order. A new venue is one module with one subclass, listed in `handlers.ingest.formats`;
`tests/unit/test_venue_contract.py` is run over every one of them.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, UTC
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, ClassVar, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta, Raw
from numpy.typing import NDArray

from handlers.domain.reasons import MISSING_FIELD, OUT_OF_INT64, TIME_OUT_OF_RANGE, UNKNOWN_SYMBOL, WRONG_TYPE
from handlers.ingest.feed import YEAR_2000_NS, YEAR_2100_NS, Rows
from transport.instruments import Instrument
from transport.records import BOOK_DELTA, BUY, NO_SIDE, SELL

Id = Annotated[int, Meta(ge=0, le=2**63 - 1)]  # also times, in ms
ABSENT = -1
NO_CHECK = -(2**62)  # a message that is not signed
NOTHING = Raw(b"")
PAST = 1  # `previous` of a trade that was asked for
NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # what decoding raises for text that is none, or too deep to be a message
MS = 10**6
SIDES = {"buy": BUY, "sell": SELL, "Buy": BUY, "Sell": SELL, "b": BUY, "s": SELL}
# Longest first: FDUSD ends in USD. Suffixes of symbols that price in that currency, where nothing else says it.
QUOTE_CURRENCIES = ("FDUSD", "USDT", "USDC", "BUSD", "TUSD", "USD", "EUR", "GBP", "TRY", "BRL", "JPY", "CHF", "BTC", "XBT", "ETH", "BNB")  # fmt: skip
_ISO = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")

RUN_MIN = 16  # book messages that are worth looking at together: below it, as live, one by one is quicker
APPLY, HOLD, STALE, REPEATED, BREAK = 0, 1, 2, 3, 4  # verdicts of a book's rule


class Line(NamedTuple):
    """A line of a capture: `recv` in ns, or below 0 where it has none that counts; `url` of a REST answer, else empty."""

    recv: int
    url: bytes
    body: bytes


class Batch(NamedTuple):
    """Lines one behind the other in `text`, a line break between, and some bytes behind the last: the body of line i is [begins[i], ends[i])."""

    text: NDArray[np.uint8]
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]


class Parsed(NamedTuple):
    """One event of one instrument as the venue says it; the numbers stay text (JSON) until the kernel reads them.

    kind      TRADE, QUOTE: texts are price, quantity (bid), price, quantity (ask); of a trade told by REST `previous` is PAST and `first`
              the first id of the trades that it sums up, `seq` being the last
              BOOK_DELTA, BOOK_SNAPSHOT: texts 0 and 2 are arrays of bids and of asks, each level an array [price, quantity, …]
              BAR: text 0 is the array [open, high, low, close], text 1 the volume, text 2 price times quantity summed, or nothing
              STATUS: no texts; `first` is the venue's code, `side` the neutral action
              CONNECTION, GAP: no texts; of the recorder's own lines, and where something unreadable may have been of any book
    place     of the instrument in the feed's table
    times     `event` in ns by the venue's clock, 0 where it says none
    numbers   `seq` the venue's sequence number or trade id, 0 where it has none; `first` and `previous` as the rule of the venue's
              book uses them; of a bar `first` is its start in ns, `previous` its length, `seq` its trades
    check     what the venue signs its book with, as the rule uses it; NO_CHECK where it does not
    more      the venue's message goes on with the next one, of the same instrument
    """

    kind: int
    place: int
    recv: int
    event: int
    seq: int
    first: int = 0
    previous: int = 0
    side: int = NO_SIDE
    check: int = NO_CHECK
    more: int = 0
    texts: tuple[Raw | bytes, Raw | bytes, Raw | bytes, Raw | bytes] = (NOTHING, NOTHING, NOTHING, NOTHING)


class Refused(Exception):  # not an error: bad input on its way to a counter
    """A line that yields no record, and why."""

    def __init__(self, reason: int, what: str) -> None:
        super().__init__(what)
        self.reason = reason


class Places:
    """Symbol -> place in the feed's table; `of` raises Refused for one that is not in it."""

    def __init__(self, symbols: Iterable[str]) -> None:
        self.known = {symbol: place for place, symbol in enumerate(symbols)}

    def of(self, symbol: str) -> int:
        place = self.known.get(symbol)
        if place is None:
            raise Refused(UNKNOWN_SYMBOL, f"symbol {symbol[:40]!r}" if symbol else "a message that names no symbol")
        return place


class BookRule(ABC):
    """Which book messages of one instrument may reach its book.

        WAITING ── snapshot ──► following ── break ──► WAITING

    `holds`: whether a message that comes while waiting is kept for a snapshot that may be behind it, or dropped. After a BREAK
    `reason` says why, and `expected` and `got` what was compared.
    """

    holds: ClassVar[bool] = False
    reason = 0
    expected = 0
    got = 0
    last = 0  # the venue's number that the book is at, where it has such

    def __init__(self) -> None:
        self._waiting = True

    @property
    def waiting(self) -> bool:
        return self._waiting

    @abstractmethod
    def start(self, m: np.void, rows: Rows) -> int:
        """A snapshot (MESSAGE `m`, its rows): APPLY, STALE where the book is past it already, BREAK where it is not what was signed."""

    @abstractmethod
    def judge(self, m: np.void, rows: Rows) -> int:
        """A message while following: APPLY, STALE, REPEATED or BREAK; HOLD while waiting."""

    def run(self, messages: NDArray[Any]) -> int:
        """How many of the first of `messages`, each whole and of its instrument, it applied at once; 0 leaves them to `judge`."""
        return 0

    def link(self, m: np.void) -> int:
        """The number in message `m` that says what it follows; 0 where the venue has none."""
        return 0

    def lose(self) -> None:
        """The book is not to be believed any more: wait for a snapshot."""
        self._waiting = True

    def dropped(self) -> Rows | None:
        """Levels that the last message pushed out of what the venue publishes, as rows that remove them; their headers are the caller's."""
        return None


def apply_runs(rules: Sequence[BookRule], messages: NDArray[Any], watched: NDArray[np.bool_]) -> None:
    """Take out of `watched` the book messages before the first of any other kind that the rules of their places apply many at once."""
    whole = (messages["kind"] == BOOK_DELTA) & (messages["refused"] == 0)
    others = np.flatnonzero(watched & ~whole)
    book = np.flatnonzero(whole[: others[0]] if len(others) else whole)
    if len(book) < RUN_MIN:
        return
    places = messages["place"][book]
    for place in np.unique(places).tolist():
        own = book[places == place]
        watched[own[: rules[place].run(messages[own])]] = False


class Scanner(ABC):
    """A compiled reader of a venue's frequent messages: it takes what it is sure of and leaves every other line to `Protocol.parse`."""

    @abstractmethod
    def scan(self, batch: Batch, times: NDArray[np.int64], first: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """(MESSAGE for each line, kind 0 where it was left; where their texts stand in `batch.text`) of lines received at `times`.

        A time below 0 is a line that is refused; `first` is the index of the first line within the source.
        """


class Protocol(ABC):
    """One venue's messages. `parse` raises nothing but Refused and NO_JSON, whatever the bytes are."""

    venue: ClassVar[str]
    markets: ClassVar[tuple[str, ...]] = ()  # `venue` of its instruments, where the venue has several
    url_marks: ClassVar[tuple[bytes, ...]]  # in the URLs of its captures
    snapshot_mark: ClassVar[bytes] = b""  # near the start of a message that holds a whole book
    exact: ClassVar[bool] = True  # numbers are decimals as the venue counts; else binary floats, to be put on the grid by `parse`

    sequenced: bool = True  # a book message that is missing shows in the next one; else one that cannot be read ends the books

    def __init__(self, instruments: Sequence[Instrument] = (), market: str = "") -> None:
        self.places = Places(i.symbol for i in instruments)
        self.told_market = market  # empty: the messages will tell

    @classmethod
    @abstractmethod
    def claims(cls, body: bytes) -> bool:
        """Whether `body`, a message of a capture that says nothing else of its venue, can only be this one's; never raises."""

    @abstractmethod
    def parse(self, line: Line) -> Sequence[Parsed]:
        """The events of a message, none of them half; raises Refused, one of NO_JSON."""

    @property
    def shown(self) -> bool:
        """Messages have told what `market` needs to know."""
        return True

    @abstractmethod
    def rule(self, place: int, instrument: Instrument) -> BookRule:
        """A new rule for the book of `instrument`, which stands at `place`."""

    def scanner(self) -> Scanner | None:
        """What reads the frequent messages of a batch of lines without a Python object for each; None where the venue has no such."""
        return None

    def instruments(self, line: Line) -> Iterator[Instrument]:
        """Instruments that a REST answer describes with tick and lot; nothing where it is another answer."""
        return iter(())

    def fresh(self, instruments: Sequence[Instrument]) -> Protocol:
        """One that has parsed nothing yet, of the market that this one has seen, with `instruments` in their places."""
        return type(self)(instruments, self.market())

    def market(self) -> str:
        """Which of the venue's markets the messages parsed so far are of: the `venue` of its instruments."""
        return self.venue

    def infer(self, symbol: str, price_decimals: int, qty_decimals: int) -> Instrument:
        """The instrument as decimals seen suggest it."""
        return Instrument(symbol, self.market(), Decimal(1).scaleb(-price_decimals), Decimal(1).scaleb(-qty_decimals), quote_of(symbol))


def quote_of(symbol: str) -> str:
    """Currency that a symbol's prices are in: behind the separator, else by its suffix; USDT where nothing says."""
    parts = [p for p in re.split(r"[-/_]", symbol) if p]
    if len(parts) > 1 and parts[1].isalpha() and len(parts[1]) <= 5 and parts[1] not in ("PERP", "SWAP"):
        return parts[1]
    return next((q for q in QUOTE_CURRENCIES if parts[0].endswith(q) and parts[0] != q), "USDT")


def ms_ns(ms: int) -> int:
    """A venue's time in ms as ns; raises Refused outside the years 2000 to 2100."""
    return in_range(ms * MS)


def in_range(ns: int) -> int:
    """`ns` itself; raises Refused outside the years 2000 to 2100."""
    if not YEAR_2000_NS <= ns < YEAR_2100_NS:
        raise Refused(TIME_OUT_OF_RANGE, f"venue time {ns} ns")
    return ns


def text_ms_ns(text: str) -> int:
    """A time in ms as digits in quotes; raises Refused."""
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise Refused(TIME_OUT_OF_RANGE, f"venue time {text[:40]!r} ms")
    return ms_ns(int(text))


def seconds_ns(text: str) -> int:
    """A time in seconds with up to nine decimals, exact; raises Refused."""
    whole, _, part = text.partition(".")
    if not (whole.isascii() and whole.isdigit() and len(whole) <= 12) or (part and not (part.isascii() and part.isdigit())):
        raise Refused(TIME_OUT_OF_RANGE, f"venue time {text[:40]!r} s")
    return in_range(int(whole) * 10**9 + int(part[:9].ljust(9, "0")))


@lru_cache(maxsize=1024)
def _second(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 10**9


def iso_ns(text: str) -> int:
    """A time as `2021-04-17T16:43:37.075687Z`, UTC, up to nine decimals, exact; raises Refused."""
    found = _ISO.fullmatch(text)
    if found is None:
        raise Refused(TIME_OUT_OF_RANGE, f"venue time {text[:40]!r}")
    try:
        return in_range(_second(found[1]) + int((found[2] or "").ljust(9, "0")))
    except ValueError:
        raise Refused(TIME_OUT_OF_RANGE, f"venue time {text[:40]!r}") from None


def side_of(word: str) -> int:
    """BUY or SELL; raises Refused for another word."""
    side = SIDES.get(word)
    if side is None:
        raise Refused(WRONG_TYPE, f"side {word[:20]!r}")
    return side


def levels_text(levels: Iterable[tuple[Raw | bytes, Raw | bytes]]) -> bytes:
    """Prices and quantities, JSON numbers or texts, as the array that the kernel reads."""
    return b"[" + b",".join([b"[" + bytes(price) + b"," + bytes(qty) + b"]" for price, qty in levels]) + b"]"


def trade_id(value: Any) -> int:
    """A venue's trade id as a number; raises Refused where it is none that fits."""
    digits = isinstance(value, str) and value.isascii() and value.isdigit()
    number = int(value.lstrip("0")[:20] or 0) if digits else value if isinstance(value, int) else -1  # 20 digits are too many already
    if not 0 <= number < 2**63:
        raise Refused(OUT_OF_INT64 if number >= 0 else WRONG_TYPE, f"trade id {str(value)[:40]!r}")
    return number


def refusal(error: msgspec.ValidationError) -> Refused:
    """What msgspec says is wrong, with its reason code."""
    text = str(error)
    if "missing required field" in text:
        return Refused(MISSING_FIELD, text)
    return Refused(OUT_OF_INT64 if "Expected `int` <=" in text or "Expected `int` >=" in text else WRONG_TYPE, text)
