"""Which instrument a publisher's number names: by the mapping in a file's metadata, by day; in a live capture by its mapping records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import databento_dbn as dbn
import numpy as np
from numpy.typing import NDArray

from handlers.ingest.errors import FeedError, NotAFeedError
from handlers.ingest.dbn.files import read_records, viewed
from handlers.ingest.dbn.layouts import RTYPE_MAPPING, SECOND_NS

FOREVER_NS = 2**63 - 1


class Named(NamedTuple):
    """From `start_ns` up to `end_ns` the number is the symbol's."""

    number: int
    start_ns: int
    end_ns: int
    symbol: str


class Symbols:
    """The table of one file. A number that names one symbol throughout names it always; one that is used again, by the time."""

    def __init__(self, path: Path, named: Iterable[Named]) -> None:
        """Raises NotAFeedError where a number names two symbols at once."""
        self._of: dict[int, list[Named]] = {}
        for entry in sorted(named):
            self._of.setdefault(entry.number, []).append(entry)
        for number, entries in self._of.items():
            if len({e.symbol for e in entries}) == 1:
                self._of[number] = [Named(number, 0, FOREVER_NS, entries[0].symbol)]
            for before, after in zip(self._of[number], self._of[number][1:], strict=False):
                if after.start_ns < before.end_ns and after.symbol != before.symbol:
                    raise NotAFeedError(f"{path.name} uses instrument number {number} for two symbols on one day")
        self.shown = list(dict.fromkeys(e.symbol for entries in self._of.values() for e in entries))  # every symbol, once

    def places(
        self, numbers: NDArray[np.uint32], times: NDArray[np.int64], place_of: dict[str, int]
    ) -> NDArray[np.int64]:
        """`place_of` the symbol that each number has at its time (ns), -1 where it has none."""
        if len(numbers) and np.all(numbers == numbers[0]):
            unique, inverse = numbers[:1], np.zeros(len(numbers), np.int64)
        else:
            unique, inverse = np.unique(numbers, return_inverse=True)
        entries = [self._of.get(n, []) for n in unique.tolist()]
        found = np.array([place_of.get(e[0].symbol, -1) if e else -1 for e in entries], np.int64)[inverse]
        for which in (i for i, e in enumerate(entries) if len(e) > 1):
            mine = np.flatnonzero(inverse == which)
            found[mine] = _by_time(entries[which], times[mine], place_of)
        return found


def _by_time(entries: list[Named], times: NDArray[np.int64], place_of: dict[str, int]) -> NDArray[np.int64]:
    starts, ends = np.array([(e.start_ns, e.end_ns) for e in entries]).T
    at = np.searchsorted(starts, times, "right") - 1
    place = np.array([place_of.get(e.symbol, -1) for e in entries], np.int64)[at]
    return np.where((at >= 0) & (times < ends[at]), place, -1)


def symbols_of(path: Path, metadata: dbn.Metadata) -> Symbols:
    """The table of a file; raises NotAFeedError where it maps no number, one to two symbols, or on a day that is none."""
    try:
        named = list(_mapped(metadata)) or list(_announced(path))
    except (ValueError, OverflowError) as error:  # days are decoded when they are asked for
        raise NotAFeedError(f"{path.name}: its mapping of symbols cannot be read: {error}") from error
    if not named:
        raise NotAFeedError(f"{path.name} maps no instrument number to a symbol")
    return Symbols(path, named)


def _mapped(metadata: dbn.Metadata) -> Iterator[Named]:
    """Of the metadata, which maps symbols to numbers or numbers to symbols; days are UTC, the last one is not part of the interval."""
    for key, intervals in metadata.mappings.items():
        for interval in intervals:
            value = interval["symbol"]
            number, symbol = (value, key) if _is_number(value) else (key, value)
            if _is_number(number) and symbol:
                yield Named(int(number), _ns(interval["start_date"]), _ns(interval["end_date"]), symbol)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) < 2**32


def _ns(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * SECOND_NS


def _announced(path: Path) -> Iterator[Named]:
    """Of the mapping records of a live capture: each holds from its time to the next one of its number."""
    found: dict[int, tuple[int, str]] = {}
    for entry in _mapping_records(path):
        number = int(entry["instrument_id"])
        out, asked = (entry[f"stype_{way}_symbol"].decode("utf-8", "replace") for way in ("out", "in"))
        symbol = out if out and not _is_number(out) else asked
        time_ns = min(int(entry["ts_event"]), FOREVER_NS)
        if number in found and found[number][1] != symbol:
            yield Named(number, found[number][0], time_ns, found[number][1])
            found[number] = (time_ns, symbol)
        if symbol:
            found.setdefault(number, (0, symbol))
    for number, (start, symbol) in found.items():
        yield Named(number, start, FOREVER_NS, symbol)


def _mapping_records(path: Path) -> Iterator[Any]:
    forms = [np.dtype(form._dtypes) for form in (dbn.SymbolMappingMsg, dbn.SymbolMappingMsgV1)]  # the longer one first
    try:
        for block in read_records(path):
            for place in block.at[block.data[block.at + 1] == RTYPE_MAPPING].tolist():
                form = next((f for f in forms if f.itemsize <= int(block.data[place]) * 4), None)
                if form is not None:
                    yield viewed(block.data, np.array([place]), form)[0]
    except FeedError:
        return  # counted and told when the feed runs
