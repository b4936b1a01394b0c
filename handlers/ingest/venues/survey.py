"""What a capture says about itself: whose it is, its symbols, and the grid its prices and quantities lie on.

Used where the configuration names no instruments. Ticks and lots are those of the venue's own description, where the capture holds
one or it lies beside it; else they are inferred from the decimals seen. That is right for the recorded part of the day and no promise
for the rest of it: a finer price that comes later is off the grid and counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from pathlib import Path

import msgspec

from handlers.ingest.blocks import read_lines
from handlers.ingest.errors import FeedError, NotAFeedError
from handlers.ingest.jumps import NO_TIME
from handlers.ingest.venues.capture_lines import Form
from handlers.ingest.venues.own_lines import MARK, OwnLine, read
from handlers.ingest.venues.protocol import NO_JSON, Line, Parsed, Places, Protocol, Refused
from transport.instruments import Instrument
from transport.records import BAR, BOOK_DELTA, BOOK_SNAPSHOT, QUOTE, TRADE

SCAN_LINES = (
    2_000  # dust with a decimal more than the lot stands in spot books; recorded BTCUSDT shows it in line 1,886
)
SNAPSHOT_LINES = (
    20_000  # how far to look for a snapshot, whose 2,000 levels tell the grid best; recorded ones come by line 400
)
SYMBOLS_MAX = 4096
DECIMALS_MAX = 18  # of a number, what 64 bits can count
INSTRUMENTS_BYTES_MAX = 1 << 26  # of one description; the largest recorded has 1.9 MB
_RECORDED_BESIDE = re.compile(r"(\w+?)\.(?:ws|http)\..*")


class Survey(msgspec.Struct):
    """What the head of a capture shows: `instruments` by symbol, as described or inferred, in the order they were seen."""

    protocol: Protocol
    venue: str
    instruments: dict[str, Instrument]


class _Growing(Places):
    """Places for whatever symbols come, up to SYMBOLS_MAX."""

    def __init__(self) -> None:
        super().__init__(())

    def of(self, symbol: str) -> int:
        if symbol and symbol not in self.known and len(self.known) < SYMBOLS_MAX:
            self.known[symbol] = len(self.known)
        return super().of(symbol)


def is_countable(instrument: Instrument) -> bool:
    """Whether tick, lot and multiplier are numbers above 0 of which 64 bits hold some; a venue's description is not ours."""
    return isinstance(instrument.quote, str) and all(map(_is_step, (instrument.tick, instrument.lot, instrument.multiplier)))


def _is_step(step: Decimal) -> bool:
    exponent = step.as_tuple().exponent
    return isinstance(exponent, int) and step > 0 and exponent >= -DECIMALS_MAX and step.adjusted() < DECIMALS_MAX


def survey_capture(paths: Sequence[Path], form: Form, protocol: Protocol) -> Survey:
    """Read the head of a source's first files with `protocol`; raises NotAFeedError where it shows no market data, UnreadableError."""
    protocol.places = places = _Growing()
    recorded = _recorded(paths[0])
    protocol.told_market = recorded.venue if recorded is not None else protocol.told_market
    decimals: dict[int, tuple[int, int]] = {}
    described: dict[str, Instrument] = {}
    unnamed: Line | None = None  # a snapshot that does not say whose it is
    for path in paths:
        waits = bool(protocol.snapshot_mark)  # for a snapshot
        for at, text in enumerate(_readable(path)):
            snapshot = bool(protocol.snapshot_mark) and protocol.snapshot_mark in text[:256]
            if at >= SCAN_LINES and (not waits or at >= SNAPSHOT_LINES):
                break
            if at >= SCAN_LINES and not snapshot:
                continue
            waits = waits and not snapshot
            try:
                line = form.split(text, max(form.time(text), 0))
                described |= {i.symbol: i for i in _described(protocol, line)}
                _widen(decimals, protocol.parse(line))
            except Refused:
                unnamed = unnamed or (line if snapshot else None)
            except NO_JSON:
                continue
        if not form.merged:
            break
    _decimals.cache_clear()  # of texts of any length
    for path in paths:
        described |= {i.symbol: i for i in _beside(path, form, protocol)}
    if recorded is not None and all(s in described for s in recorded.symbols):  # our own capture: what the session knew
        return Survey(type(protocol)((), recorded.venue), recorded.venue, {s: described[s] for s in recorded.symbols})
    if not decimals or not protocol.shown:
        raise NotAFeedError(f"{paths[0].name} shows no trade, quote or book message of {protocol.venue} in its first {SCAN_LINES} lines")
    _look_at_unnamed(protocol, unnamed, decimals)
    symbols = {place: symbol for symbol, place in places.known.items() if place in decimals}
    found = {s: _instrument(protocol, described.get(s), s, *decimals[place]) for place, s in sorted(symbols.items())}
    return Survey(protocol, protocol.market(), found)


def _instrument(protocol: Protocol, described: Instrument | None, symbol: str, price_decimals: int, qty_decimals: int) -> Instrument:
    """As described, on a finer grid where the numbers seen need one: books keep orders from before a tick was widened, and dust."""
    if described is None:
        return protocol.infer(symbol, price_decimals, qty_decimals)
    if not protocol.exact:
        return described
    tick, lot = (Decimal(1).scaleb(-n) for n in (price_decimals, qty_decimals))
    return msgspec.structs.replace(described, tick=_finer(described.tick, tick), lot=_finer(described.lot, lot))


def _finer(step: Decimal, seen: Decimal) -> Decimal:
    return seen if step % seen == 0 and seen < step and _places(step) < _places(seen) else step


def _places(step: Decimal) -> int:
    """Decimals that multiples of `step` have."""
    exponent = step.normalize().as_tuple().exponent
    assert isinstance(exponent, int)
    return max(0, -exponent)


def _recorded(path: Path) -> OwnLine | None:
    """The first line of a capture that `tickline record` wrote."""
    for text in _readable(path):
        body = text.partition(b" ")[2]
        try:
            own = read(body) if body.startswith(MARK) else None
        except Refused:
            return None
        return own if own is not None and own.tickline == "capture" else None
    return None


def _look_at_unnamed(protocol: Protocol, unnamed: Line | None, decimals: dict[int, tuple[int, int]]) -> None:
    """Whose a snapshot is that names no symbol is known once the rest has been seen."""
    if unnamed is None:
        return
    named = protocol.fresh([protocol.infer(symbol, 0, 0) for symbol in protocol.places.known])
    try:
        _widen(decimals, named.parse(unnamed))
    except (Refused, *NO_JSON):
        return
    finally:
        _decimals.cache_clear()


def _described(protocol: Protocol, line: Line) -> Iterable[Instrument]:
    if not line.url or len(line.body) > INSTRUMENTS_BYTES_MAX:
        return ()
    try:
        return [i for i in protocol.instruments(line) if is_countable(i)]
    except (*NO_JSON, KeyError, TypeError, ValueError, ArithmeticError, AttributeError):
        return ()  # another answer, or a damaged one: the grid is inferred then


def _beside(path: Path, form: Form, protocol: Protocol) -> Iterator[Instrument]:
    """What `VENUE.0` beside a file `VENUE.ws.…` describes."""
    found = _RECORDED_BESIDE.fullmatch(path.name)
    beside = path.with_name(f"{found[1]}.0") if found else path
    if beside == path or not beside.is_file():
        return
    for text in _readable(beside):
        try:
            yield from _described(protocol, form.split(text, max(form.time(text), NO_TIME)))
        except Refused:
            continue


def _readable(path: Path) -> Iterator[bytes]:
    """Lines up to where the file is cut or damaged: how it ends is told when it is read for good."""
    lines = read_lines(path)
    read = 0
    while True:
        try:
            line = next(lines)
        except StopIteration:
            return
        except FeedError:
            if not read:
                raise
            return
        read += 1
        yield line


def _widen(decimals: dict[int, tuple[int, int]], events: Sequence[Parsed]) -> None:
    """Raise the decimals of each event's instrument to what its numbers need."""
    for event in events:
        price, qty = decimals.get(event.place, (0, 0))
        prices, quantities = _numbers(event)
        decimals[event.place] = (max([price, *map(_decimals, prices)]), max([qty, *map(_decimals, quantities)]))


def _numbers(event: Parsed) -> tuple[list[str], list[str]]:
    """(prices, quantities) of an event, as text."""
    texts = event.texts
    if event.kind in (TRADE, QUOTE):
        plain = [(bytes(texts[k]).strip(b'"').decode(), bytes(texts[k + 1]).strip(b'"').decode()) for k in (0, 2) if texts[k]]
        return [price for price, _ in plain], [qty for _, qty in plain]
    if event.kind == BAR:
        return [str(price) for price in msgspec.json.decode(texts[0])], []
    if event.kind not in (BOOK_DELTA, BOOK_SNAPSHOT):
        return [], []
    sides = [msgspec.json.decode(side) for side in (texts[0], texts[2])]
    levels = [level for side in sides if isinstance(side, list) for level in side if isinstance(level, list) and len(level) >= 2]
    return [str(level[0]) for level in levels], [str(level[1]) for level in levels]


@lru_cache(maxsize=1 << 14)  # most numbers of a book come again and again
def _decimals(text: str) -> int:
    """Significant decimals: 61602.02000000 has 2, 1.1e-7 has 8; at most 18, what 64 bits can count."""
    mantissa, _, exponent = text.lower().partition("e")
    places = len(mantissa.partition(".")[2].rstrip("0"))
    if not exponent:
        return min(places, DECIMALS_MAX)
    digits = exponent[1:] if exponent[:1] in ("+", "-") else exponent
    shift = int(exponent) if digits.isascii() and digits.isdigit() and len(exponent) <= 3 else 0
    return min(max(places - shift, 0), DECIMALS_MAX)
