"""From what a user names as a feed to the feed: which files it is, and by their content, not their names, of which format."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from handlers.ingest.blocks import is_zip, packed_head, read_head
from handlers.ingest.errors import FeedError, NotAFeedError
from handlers.ingest.feed import Feed
from handlers.ingest.venues.binance import Binance
from handlers.ingest.venues.bitmex import Bitmex
from handlers.ingest.venues.bybit import Bybit
from handlers.ingest.venues.capture import CaptureFeed
from handlers.ingest.venues.capture_lines import Form, form_of
from handlers.ingest.venues.coinbase import Coinbase
from handlers.ingest.dbn.feed import DbnFeed
from handlers.ingest.dbn.files import MAGIC, told_fragment
from handlers.ingest.venues.kraken import Kraken
from handlers.ingest.lean.feed import LeanFeed
from handlers.ingest.lean.files import find_csv
from handlers.ingest.lean.rows import KEEP
from handlers.ingest.venues.okx import Okx
from handlers.ingest.venues.own_lines import MARK, read
from handlers.ingest.venues.protocol import Protocol, Refused
from handlers.ingest.venues.survey import survey_capture
from handlers.ingest.tables.layouts import ReadMap, layout_of
from handlers.ingest.tables.feed import TableFeed
from transport.instruments import Instrument

PROTOCOLS: tuple[type[Protocol], ...] = (Binance, Okx, Kraken, Coinbase, Bitmex, Bybit)
HEAD_BYTES = 4096
HEAD_LINES = 200  # in which a capture must show whose it is; the largest recorded lead of answers to subscriptions has 40
HEAD_LINES_BYTES = 1 << 23
CAPTURE, DBN, TABLE, LEAN = "capture", "dbn", "table", "lean"
READS = (
    "captures of websocket streams (`<receive ns> <JSON>` a line, or cryptofeed's) of Binance, OKX, Kraken, Coinbase, BitMEX and Bybit, DBN "
    "files of any schema and version, zips of Lean, and tables (CSV, Parquet), plain, gzip, zstd or zip; what the columns of a table are is said in "
    "a map, FILE.toml or map.toml beside it"
)
_BESIDE = re.compile(r"\..*|(LICEN[CS]E|COPYING|README|NOTICE).*|.*\.(md|txt|toml|checksum|part)", re.I)  # files that lie beside captures


def open_feed(
    spec: str, instruments: Sequence[Instrument] = (), known: Sequence[Instrument] = (), read_map: ReadMap | None = None, crossed_quotes: str = KEEP
) -> Feed:
    """Open a feed: a file, several joined by commas, or a folder, whose files in the order of their names are one source.

    `instruments` is the configuration's table; a venue it does not name gets instruments inferred from the feed, or as `known` (what
    the definitions of another feed state) describes them. `read_map` reads the map beside a table; without it only tables that need
    none are opened. `crossed_quotes` is the configuration's word on quotes without a book behind them (KEEP, DROP, DROP_LOCKED of
    lean.rows). Raises FeedError with a text for the user: no such file, not a feed, files of different formats; and what `read_map`
    raises.
    """
    paths = feed_files(spec)
    tables = {path: layout_of(path, read_map) for path in paths if not capture_format(path)}
    formats = {path: TABLE if tables.get(path) else detect_format(path) for path in paths}
    if len(set(formats.values())) > 1:
        listed = ", ".join(f"{path.name} ({found})" for path, found in formats.items())
        raise NotAFeedError(f"{spec} mixes formats: {listed}; name them as several feeds")
    name = feed_name(spec)
    if formats[paths[0]] == CAPTURE:
        form, protocol = _whose(paths)
        return CaptureFeed(name, paths, form, survey_capture(paths, form, protocol), instruments)
    if formats[paths[0]] == TABLE:
        return TableFeed(name, [table for table in tables.values() if table is not None], instruments)
    if formats[paths[0]] == LEAN:
        return LeanFeed(name, paths, instruments, crossed_quotes)
    return DbnFeed(name, paths, instruments, known)


def _whose(paths: Sequence[Path]) -> tuple[Form, Protocol]:
    """How a capture's lines are written, and its venue's protocol; raises NotAFeedError where no venue claims it, or two do, or it is written in two ways.

    The heads of all files are looked at. What is another's further on is counted line by line, and never taken for this one's.
    """
    forms: dict[type[Form], str] = {}
    protocols: dict[type[Protocol], str] = {}
    for path in paths:
        lines = read_head(path, HEAD_LINES_BYTES, HEAD_LINES).split(b"\n")[:HEAD_LINES]
        for number, form in ((n, form) for n, line in enumerate(lines) if (form := form_of([line])) is not None):
            forms.setdefault(type(form), f"{path.name} line {number + 1} ({form.written})")
        if len(forms) > 1:
            raise NotAFeedError(f"captures written in different ways: {', '.join(forms.values())}; part them and name them as several feeds")
        for number, protocol in _protocols_of(lines, next(iter(forms))()):
            protocols.setdefault(protocol, f"{path.name} line {number + 1} ({protocol.venue})")
    if len(protocols) > 1:
        raise NotAFeedError(f"captures of different venues: {', '.join(protocols.values())}; part them and name them as several feeds")
    if not protocols:
        raise NotAFeedError(f"{paths[0].name} is a capture of a venue the engine does not read; it reads {READS}")
    return next(iter(forms))(), next(iter(protocols))()


def _protocols_of(lines: Sequence[bytes], form: Form) -> Iterator[tuple[int, type[Protocol]]]:
    """(place of a line, the protocol whose it can only be); of a capture that says whose it is that one alone."""
    for number, text in enumerate(lines):
        if MARK in text[:64]:
            named = _protocol_named(text)
            if named is not None:
                yield number, named
            return
        head = text[:512].partition(b": ")[0]
        claimed = [protocol for protocol in PROTOCOLS if any(mark in head for mark in protocol.url_marks)]
        if not claimed:
            try:
                body = form.split(text, max(form.time(text), 0)).body
            except Refused:
                continue
            claimed = [protocol for protocol in PROTOCOLS if protocol.claims(body)]
        if len(claimed) == 1:
            yield number, claimed[0]


def _protocol_named(text: bytes) -> type[Protocol] | None:
    """The protocol of a capture that says whose it is."""
    try:
        venue = read(text.partition(b" ")[2]).venue
    except Refused:
        return None
    return next((p for p in PROTOCOLS if venue == p.venue or venue in p.markets), None)


def feed_files(spec: str) -> list[Path]:
    """The files that `spec` names, in the order they are read; raises FeedError where one is missing or a folder has none."""
    named = [Path(part.strip()) for part in spec.split(",") if part.strip()]
    if not named:
        raise NotAFeedError("no feed is named: give a file, a folder, or files joined by commas")
    files: list[Path] = []
    for path in named:
        if not path.exists():
            raise FeedError(f"there is no file or folder {path}")
        files.extend(_files_of(path) if path.is_dir() else [path])
    return files


def _files_of(folder: Path) -> list[Path]:
    """Files of a folder in name order, but hidden ones, licences and notes."""
    try:
        found = sorted(p for p in folder.iterdir() if p.is_file() and not _BESIDE.fullmatch(p.name))
    except OSError as error:
        raise FeedError(f"{folder} cannot be read: {error.strerror or error}") from error
    if not found:
        raise NotAFeedError(f"the folder {folder} holds no captures")
    return found


def capture_format(path: Path) -> str:
    """CAPTURE or DBN by the first bytes, "" for anything else; raises UnreadableError."""
    if is_zip(path):
        return ""
    head = read_head(path, HEAD_BYTES)
    if head.startswith(MAGIC):
        return DBN
    return CAPTURE if form_of(head.split(b"\n")[:3]) is not None else ""


def detect_format(path: Path) -> str:
    """CAPTURE, DBN or LEAN; raises NotAFeedError for anything else, UnreadableError."""
    if is_zip(path):
        find_csv(path)
        return LEAN
    found = capture_format(path)
    if found:
        return found
    head = read_head(path, HEAD_BYTES)
    relative = told_fragment(packed_head(path, HEAD_BYTES), head)
    if relative:
        raise NotAFeedError(f"{path} is {relative}")
    if not head:
        raise NotAFeedError(f"{path} is not a feed: it is empty")
    raise NotAFeedError(f"{path} is not a feed: it begins with {head[:24]!r}; the engine reads {READS}")


def feed_name(spec: str) -> str:
    """What reports call the feed: the folder, or the first file up to the first dot."""
    first = Path(spec.split(",")[0].strip())
    return first.name if first.is_dir() else first.name.split(".")[0]
