"""Which of QuantConnect Lean's data files a zip is, the lines in it, and what its clock times are in UTC.

    [asset/market/]minute/ibm/20131007_trade.zip : 20131007_ibm_minute_trade.csv     one symbol, one day
    [asset/market/]daily/ibm.zip                 : ibm.csv                           one symbol, all its history

What a file is stands in the name of the CSV in it, else in the folders around it; how many columns it has and whether its prices
have a point is read from its first line. Source: Lean, Data/equity and Data/forex, readme.md.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from handlers.ingest.blocks import ZIP_DAMAGED
from handlers.ingest.clocks import read_clocks, zone_table
from handlers.ingest.errors import NotAFeedError, TruncatedError, UnreadableError

BLOCK_BYTES = 1 << 20  # of lines at a time: some 40,000 ticks
LINE_BYTES_MAX = 4096  # the longest of the formats has some 120
STAMPED_BYTES_MAX = 1 << 26  # an hourly file of 100 years has a third of it; it is read at once
HEAD_BYTES = 1 << 14
DAY_NS = 86_400 * 10**9
TICK, SECOND, MINUTE, HOUR, DAILY = "tick", "second", "minute", "hour", "daily"
TRADES, QUOTES = "trade", "quote"
EQUITY, FOREX = "equity", "forex"
INTERVAL_NS = {SECOND: 10**9, MINUTE: 60 * 10**9, HOUR: 3600 * 10**9}
EPOCH = date(1970, 1, 1)
NO_DAY = -1
# Of the data, not of the exchange: Lean keeps FXCM's at a fixed five hours behind UTC and Oanda's in UTC.
ZONES = {"usa": "America/New_York", "fxcm": "Etc/GMT+5", "oanda": "UTC"}  # the second: five hours behind, as its sign does not say
_DATED = re.compile(r"(\d{8})_(.+)_([a-z]+)_([a-z]+)\.csv", re.I)
_ZIP_DATED = re.compile(r"(\d{8})_(trade|quote)\.zip", re.I)
_PLAIN = re.compile(r"([A-Za-z0-9.\-]+)\.csv")
_SHAPES = {  # (ticks or bars, what, columns); ticks of 3 columns are forex
    (TICK, TRADES, 6), (TICK, QUOTES, 8), (TICK, QUOTES, 3), ("bar", TRADES, 6), ("bar", QUOTES, 11),
}  # fmt: skip


@dataclass(frozen=True)
class LeanFile:
    """One zip: `day` counts days since 1970-01-01, NO_DAY where every line has its own."""

    path: Path
    symbol: str
    market: str
    asset: str
    resolution: str
    what: str
    day: int
    columns: int

    @property
    def zone(self) -> str:
        return ZONES[self.market]


def find_csv(path: Path) -> str:
    """Name of the one CSV in a zip; raises NotAFeedError where there is none or are several, UnreadableError."""
    with _reading(path), zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if n.lower().endswith(".csv")]
    if len(names) != 1:
        raise NotAFeedError(f"{path.name} is not one of Lean's files: a zip of {len(names)} CSV files, not of one")
    return names[0]


def describe_file(path: Path) -> LeanFile:
    """What a zip holds; raises NotAFeedError where it is none of Lean's equity and forex files, UnreadableError."""
    name = find_csv(path)
    symbol, resolution, what, day = _named(path, Path(name).name)
    head = _head(path).split(b"\n")
    columns = head[0].count(b",") + 1
    forex = columns == 3 or b"." in b"".join(head[0].split(b",")[1:2])
    if not resolution:
        what = QUOTES if columns == 11 else TRADES
        times = [line.split(b",")[0][-5:] for line in head[:-1] or head]  # the last may be cut, unless it is the only one
        resolution = DAILY if all(t == b"00:00" for t in times) else HOUR
    kind = (TICK if resolution == TICK else "bar", what, columns)
    if kind not in _SHAPES or (forex and what == TRADES) or (resolution == TICK and forex != (columns == 3)):
        raise NotAFeedError(
            f"{path.name}: {columns} columns of a Lean file of {resolution} {what}s; the engine reads those of equities and of forex"
        )
    market = "usa"
    if forex:
        market = "oanda" if "oanda" in (p.lower() for p in path.resolve().parts) else "fxcm"
    asset = FOREX if forex else EQUITY
    return LeanFile(path, symbol.upper(), market, asset, resolution, what, day, columns)


def _named(path: Path, name: str) -> tuple[str, str, str, int]:
    """(symbol, resolution, what, day) by the CSV's name or the folders; the middle two empty where each line has its own day."""
    dated = _DATED.fullmatch(name)
    if dated:
        words = {dated[3].lower(), dated[4].lower()}
        what, resolution = words & {TRADES, QUOTES}, words & {TICK, SECOND, MINUTE}
        if what and resolution:
            return dated[2], resolution.pop(), what.pop(), _day_of(path, dated[1])
    zipped = _ZIP_DATED.fullmatch(path.name)
    around = path.resolve().parent
    if zipped and around.parent.name.lower() in (TICK, SECOND, MINUTE):
        return around.name, around.parent.name.lower(), zipped[2].lower(), _day_of(path, zipped[1])
    plain = _PLAIN.fullmatch(name)
    if plain and plain[1].lower() == path.stem.lower():
        return plain[1], "", "", NO_DAY
    raise NotAFeedError(f"{path.name} is not one of Lean's files: a zip of {name}")


def _day_of(path: Path, text: str) -> int:
    day = day_number(int(text))
    if day < 0:
        raise NotAFeedError(f"{path.name} is not one of Lean's files: {text} is no day")
    return day


def day_number(digits: int) -> int:
    """Days since 1970-01-01 of YYYYMMDD as a number; NO_DAY for one that does not exist or lies outside the years 1970 to 2099."""
    if not 0 < digits < 10**8:
        return NO_DAY
    try:
        found = date(digits // 10_000, digits // 100 % 100, digits % 100)
    except ValueError:
        return NO_DAY
    return (found - EPOCH).days if 1970 <= found.year < 2100 else NO_DAY


def to_utc(days: NDArray[np.int64], of_day_ns: NDArray[np.int64], zone: str, last: NDArray[np.int64]) -> NDArray[np.int64]:
    """ns UTC of wall-clock times in the order of a file, `of_day_ns` within 0 and a day; `last` has that of the one before, shape (1,)."""
    times = np.empty(len(days), np.int64)
    read_clocks(days * DAY_NS + of_day_ns, *zone_table(zone), last, times)
    return times


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What zipfile raises, as errors of the way in."""
    try:
        yield
    except EOFError as error:
        raise TruncatedError(f"{path.name} is cut off: its compressed data has no end") from error
    except ZIP_DAMAGED as error:
        raise UnreadableError(f"{path.name} is damaged: {error}") from error
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror or error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    name = find_csv(path)
    with _reading(path), zipfile.ZipFile(path) as archive, archive.open(name) as file:
        yield file


def _head(path: Path) -> bytes:
    with _opened(path) as file:
        return file.read(HEAD_BYTES)


def read_lines(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """(whole lines, the line behind them) block after block, nothing behind the last; raises what can be wrong with a zip, after what was readable."""
    with _opened(path) as file:
        rest = b""
        while block := file.read(BLOCK_BYTES):
            text = rest + block
            end = text.rfind(b"\n") + 1
            if len(text) - end > LINE_BYTES_MAX:
                if end:
                    yield text[:end], b""
                raise UnreadableError(f"{path.name} has a line of over {LINE_BYTES_MAX} bytes")
            cut = text.rfind(b"\n", 0, max(0, end - 1)) + 1
            if cut:
                yield text[:cut], text[cut:end]
            rest = text[cut:]
        if rest:
            yield rest, b""


def read_whole(path: Path) -> bytes:
    """The whole CSV; raises UnreadableError for one of over STAMPED_BYTES_MAX."""
    with _opened(path) as file:
        text = file.read(STAMPED_BYTES_MAX + 1)
    if len(text) > STAMPED_BYTES_MAX:
        raise UnreadableError(f"{path.name} has over {STAMPED_BYTES_MAX} bytes")
    return text
