"""`tickline fetch binance`: daily files of the venue's public archive, whole or not at all, and resumed where they were cut.

    BTCUSDT-trades-2024-08-08.zip.CHECKSUM ──► its SHA-256
    BTCUSDT-trades-2024-08-08.zip ──(Range)──► .zip.part ──(SHA-256 is that one)──► .zip

A file has its name only when its checksum was right, so one that is there is not fetched again. A `.part` is resumed; one whose
checksum is wrong is removed. What a server asks for (429, 418, 503 with Retry-After) is done, within bounds; nothing is retried
for ever. Layout: github.com/binance/binance-public-data, README (2022).
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, FetchError, NotPublishedError

BASE_URL = "https://data.binance.vision"
MARKETS = {"spot": "spot", "um": "futures/um", "cm": "futures/cm"}
DATA = {"spot": ("trades", "aggTrades", "klines"), "um": ("trades", "aggTrades", "klines", "bookTicker"), "cm": ("trades", "aggTrades", "klines", "bookTicker")}  # fmt: skip
INTERVALS = ("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d")
DAYS_MAX = 3700  # ten years
ATTEMPTS_MAX = 6  # in a row that bring no byte
WAIT_S, WAIT_MAX_S = 0.5, 30.0  # doubled from the one up to the other
ASKED_WAIT_MAX_S = 120.0  # a server that asks for more is told to the user instead
TIMEOUT_S = 30.0
READ_BYTES = 1 << 18
FILE_BYTES_MAX = 1 << 36
CHECKSUM_BYTES_MAX = 4096
_BUSY = (418, 429, 500, 502, 503, 504)
_CUT = (http.client.HTTPException, urllib.error.URLError, OSError)  # a connection that fails or ends early, at any point

Told = Callable[[str, int, int | None], None]  # file, bytes so far, of how many


@dataclass(frozen=True)
class Wanted:
    """What a user asks for; `interval` is for klines."""

    market: str
    data: str
    symbol: str
    first: date
    last: date
    interval: str = "1m"

    def check(self) -> None:
        """Raises ConfigError for what the archive cannot have."""
        if self.market not in MARKETS:
            raise ConfigError(f"no market {self.market!r}; there are {', '.join(MARKETS)}")
        if self.data not in DATA[self.market]:
            raise ConfigError(f"no {self.data!r} of {self.market}; there are {', '.join(DATA[self.market])}")
        if not re.fullmatch(r"[A-Z0-9]{2,24}(_[A-Z0-9]{1,12})?", self.symbol):
            raise ConfigError(f"{self.symbol!r} is not a symbol as the venue writes it, such as BTCUSDT")
        if self.interval not in INTERVALS:
            raise ConfigError(f"no interval {self.interval!r}; there are {', '.join(INTERVALS)}")
        if not 1 <= (self.last - self.first).days + 1 <= DAYS_MAX:
            raise ConfigError(f"{self.first} to {self.last} is not a span of 1 to {DAYS_MAX} days")

    @property
    def folder(self) -> str:
        """Of the files, below the archive's `data`."""
        deeper = f"/{self.interval}" if self.data == "klines" else ""
        return f"{MARKETS[self.market]}/daily/{self.data}/{self.symbol}{deeper}"

    def names(self) -> Iterator[str]:
        """The file of each day."""
        what = self.interval if self.data == "klines" else self.data
        for day in range((self.last - self.first).days + 1):
            yield f"{self.symbol}-{what}-{self.first + timedelta(days=day)}.zip"


def day_of(text: str) -> date:
    """Raises ConfigError."""
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{text!r} is not a day, such as 2024-08-08") from error


def fetch(wanted: Wanted, out: Path, tell: Told, base_url: str = BASE_URL, sleep: Callable[[float], None] = time.sleep) -> dict[str, Any]:
    """Fetch every day's file below `out`; returns what came, what was there, what is not published.

    Raises ConfigError, and FetchError where the archive does not answer or answers wrongly; what came until then is whole.
    """
    wanted.check()
    _check_address(base_url)
    folder = out / wanted.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FetchError(f"{folder} cannot be made: {error.strerror or error}") from error
    facts: dict[str, Any] = {"folder": str(folder), "fetched": [], "there": [], "not_published": []}
    for name in wanted.names():
        target = folder / name
        if target.exists():
            facts["there"].append(name)
            continue
        source = Source(f"{base_url.rstrip('/')}/data/{wanted.folder}/{name}", tell, sleep)
        try:
            source.fetch(target)
        except NotPublishedError:
            facts["not_published"].append(name)
        else:
            facts["fetched"].append(name)
    return facts


def _check_address(base_url: str) -> None:
    """Raises ConfigError."""
    try:
        parts = urllib.parse.urlsplit(base_url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # brackets that do not close, a port that is none
        good = False
    if not good:
        raise ConfigError(f"{base_url!r} is not an http or https address")


class Source:
    """One file of the archive."""

    def __init__(self, url: str, tell: Told, sleep: Callable[[float], None]) -> None:
        self.url, self.tell, self.sleep = url, tell, sleep
        self.name = url.rpartition("/")[2]

    def fetch(self, target: Path) -> None:
        """Leave `target` with the checksum that the archive states, or nothing but a `.part`; raises FetchError."""
        due = self._checksum()
        part = target.with_name(f"{target.name}.part")
        self._download(part)
        found = _sha256(part)
        if found != due:
            part.unlink()
            raise FetchError(f"{self.url}: its SHA-256 is {found}, the archive's CHECKSUM says {due}; what came was removed, try again")
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(target)

    def _checksum(self) -> str:
        """The SHA-256 that the archive states."""
        def read(response: Any) -> bytes:
            text = bytes(response.read(CHECKSUM_BYTES_MAX))
            if response.length and len(text) < CHECKSUM_BYTES_MAX:
                raise http.client.IncompleteRead(text, response.length)
            return text

        text = self._tried(lambda: self._opened(f"{self.url}.CHECKSUM", {}, read)).decode(errors="replace")
        words = text.split()
        if not words or not re.fullmatch(r"[0-9a-fA-F]{64}", words[0]) or (len(words) > 1 and words[1].lstrip("*") != self.name):
            raise FetchError(f"{self.url}.CHECKSUM does not hold the SHA-256 of {self.name}: {text[:80]!r}")
        return words[0].lower()

    def _download(self, part: Path) -> None:
        """Bytes of the file into `part`, from where it ends; each attempt that brings some counts as none."""
        def once() -> None:
            have = part.stat().st_size if part.exists() else 0
            headers = {"Range": f"bytes={have}-"} if have else {}
            self._opened(self.url, headers, lambda response: self._append(response, part, have))

        self._tried(once, lambda: part.stat().st_size if part.exists() else 0)

    def _append(self, response: Any, part: Path, have: int) -> None:
        """Write what comes behind `have` bytes, or from the beginning where the server sends it all."""
        if response.status == 206:
            found = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]{1,18})", response.headers.get("Content-Range", ""))
            if not found or int(found[1]) != have:
                raise FetchError(f"{self.url}: asked for bytes from {have} on, got {response.headers.get('Content-Range')!r}")
            total: int | None = int(found[2])
        else:
            have, total = 0, response.length  # None where the server does not say it, or not in digits
        if total is not None and total > FILE_BYTES_MAX:
            raise FetchError(f"{self.url}: {total:,} bytes; a file has at most {FILE_BYTES_MAX:,}")
        self.tell(self.name, have, total)
        if not have:
            _store(part, "wb", b"")
        while block := response.read(READ_BYTES):
            _store(part, "ab", block)
            have += len(block)
            self.tell(self.name, have, total)
            if have > FILE_BYTES_MAX:
                raise FetchError(f"{self.url}: over {FILE_BYTES_MAX:,} bytes came")
        if total is not None and have < total:
            raise http.client.IncompleteRead(b"", total - have)

    def _opened(self, url: str, headers: dict[str, str], read: Callable[[Any], Any]) -> Any:
        request = urllib.request.Request(url, headers={"User-Agent": "tickline", **headers})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return read(response)

    def _tried(self, once: Callable[[], Any], came: Callable[[], int] = lambda: 0) -> Any:
        """`once`, again while it fails for reasons that may pass; raises FetchError after ATTEMPTS_MAX that brought no byte."""
        failed, most = 0, came()
        while True:
            before = came()
            try:
                return once()
            except urllib.error.HTTPError as error:
                with error:
                    wait = self._asked_wait(error, failed)
                    if error.code == 416 and before:
                        return None  # nothing lies behind what we have: its checksum says whether that is all
                why = f"{error.code} {error.reason}"
            except _CUT as error:
                wait, why = _back_off(failed), str(getattr(error, "reason", error)) or type(error).__name__
            except ValueError as error:  # the server sends us to an address that is none
                raise FetchError(f"{self.url}: {error}") from error
            failed = 0 if came() > most else failed + 1
            most = max(most, came())
            if failed >= ATTEMPTS_MAX:
                raise FetchError(f"{self.url}: {why}; given up after {ATTEMPTS_MAX} attempts, a later one goes on from there")
            self.sleep(wait)

    def _asked_wait(self, error: urllib.error.HTTPError, failed: int) -> float:
        """How long to wait before the next attempt; raises FetchError where none would help."""
        if error.code == 404:
            raise NotPublishedError(f"{self.url}: not there (a day's file is published on the day after)")
        if error.code == 416:
            return 0.0
        if error.code not in _BUSY:
            raise FetchError(f"{self.url}: {error.code} {error.reason}")
        wait = max(_back_off(failed), _seconds(error.headers.get("Retry-After")))
        if wait > ASKED_WAIT_MAX_S:
            raise FetchError(f"{self.url}: {error.code} {error.reason}; the server asks to come back in {wait:,.0f} s")
        return wait


def _store(part: Path, mode: str, block: bytes) -> None:
    """Write to the file; its own failure is told at once, where the network's is tried again."""
    try:
        with part.open(mode) as file:
            file.write(block)
    except OSError as error:
        raise FetchError(f"{part} cannot be written: {error.strerror or error}") from error


def _back_off(failed: int) -> float:
    return min(WAIT_S * 2.0**failed, WAIT_MAX_S)


def _seconds(asked: str | None) -> float:
    """Retry-After, seconds or a date (RFC 9110, 10.2.3), in seconds; 0 where there is none."""
    if not asked:
        return 0.0
    if asked.strip().isdecimal():
        return float(asked)
    try:
        return max(0.0, (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError, OverflowError, IndexError):
        return 0.0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
