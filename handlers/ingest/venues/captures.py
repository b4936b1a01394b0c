"""From what a user names as a feed to the feed: which files it is, and by their content, not their names, of which format."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from handlers.ingest.blocks import read_head
from handlers.ingest.errors import FeedError, NotAFeedError
from handlers.ingest.feed import Feed
from handlers.ingest.venues.binance import BinanceFeed
from handlers.ingest.venues.dbn import DbnFeed
from handlers.ingest.venues.dbn_files import MAGIC
from handlers.ingest.venues.table_layouts import ReadMap, layout_of
from handlers.ingest.venues.tables import TableFeed
from transport.instruments import Instrument

HEAD_BYTES = 4096
BINANCE, DBN, TABLE = "binance", "dbn", "table"
READS = (
    "captures of Binance's streams (`<receive ns> <JSON>` a line), DBN files of schema mbo, and tables (CSV, Parquet), plain, gzip, "
    "zstd or zip; what the columns of a table are is said in a map, FILE.toml or map.toml beside it"
)
_CAPTURE_LINE = re.compile(rb"\d{19} ?\{")
_BESIDE = re.compile(r"\..*|(LICEN[CS]E|COPYING|README|NOTICE).*|.*\.(md|txt|toml|checksum|part)", re.I)  # files that lie beside captures


def open_feed(spec: str, instruments: Sequence[Instrument] = (), read_map: ReadMap | None = None) -> Feed:
    """Open a feed: a file, several joined by commas, or a folder, whose files in the order of their names are one source.

    `instruments` is the configuration's table; a venue it does not name gets instruments inferred from the feed. `read_map` reads
    the map beside a table; without it only tables that need none are opened. Raises FeedError with a text for the user: no such
    file, not a feed, files of different formats; and what `read_map` raises.
    """
    paths = feed_files(spec)
    tables = {path: layout_of(path, read_map) for path in paths if not capture_format(path)}
    formats = {path: capture_format(path) or (TABLE if tables[path] else detect_format(path)) for path in paths}
    if len(set(formats.values())) > 1:
        listed = ", ".join(f"{path.name} ({found})" for path, found in formats.items())
        raise NotAFeedError(f"{spec} mixes formats: {listed}; name them as several feeds")
    name = feed_name(spec)
    if formats[paths[0]] == BINANCE:
        return BinanceFeed(name, paths, instruments)
    if formats[paths[0]] == TABLE:
        return TableFeed(name, [table for table in tables.values() if table is not None], instruments)
    return DbnFeed(name, paths, instruments)


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
    """BINANCE or DBN by the first bytes, "" for anything else; raises UnreadableError."""
    head = read_head(path, HEAD_BYTES)
    if head.startswith(MAGIC):
        return DBN
    return BINANCE if any(_CAPTURE_LINE.match(line) for line in head.split(b"\n")[:3]) else ""


def detect_format(path: Path) -> str:
    """BINANCE or DBN; raises NotAFeedError for anything else, UnreadableError."""
    found = capture_format(path)
    if found:
        return found
    head = read_head(path, HEAD_BYTES)
    if not head:
        raise NotAFeedError(f"{path} is not a feed: it is empty")
    raise NotAFeedError(f"{path} is not a feed: it begins with {head[:24]!r}; the engine reads {READS}")


def feed_name(spec: str) -> str:
    """What reports call the feed: the folder, or the first file up to the first dot."""
    first = Path(spec.split(",")[0].strip())
    return first.name if first.is_dir() else first.name.split(".")[0]
