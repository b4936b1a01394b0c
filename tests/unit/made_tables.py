"""Tables made by tests, opened as feeds: text or Parquet with a map, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from handlers.domain import reasons
from handlers.ingest.feed import Feed
from handlers.ingest.tables.files import TableFile
from handlers.ingest.tables.map import Columns, TableMap, problems_of
from handlers.ingest.tables.feed import TableFeed
from transport.instruments import Instrument
from transport.records import joined

TRADES = TableMap("trade", venue="v", symbol="X", columns=Columns(time="t", price="p", qty="q", side="s"))
HEAD = "t,p,q,s\n"
T0 = 1_723_161_256_000  # ms


def opened(path: Path, table: TableMap, instruments: Sequence[Instrument] = ()) -> TableFeed:
    """The file as a feed; asserts that the map itself is sound."""
    assert problems_of(table) == []
    feed = TableFeed("x", [TableFile(path, table, "the test's map")], instruments)
    feed.bind({i.name: n for n, i in enumerate(feed.instruments)}, 16)
    return feed


def of_text(tmp_path: Path, text: str | bytes, table: TableMap = TRADES, instruments: Sequence[Instrument] = ()) -> TableFeed:
    """CSV text as a feed."""
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return opened(path, table, instruments)


def rows_of(feed: Feed, rows_max: int = 1 << 16) -> np.ndarray[Any, Any]:
    """All records of a feed, in one array."""
    return joined(*feed.chunks(rows_max))


def counted(feed: Feed) -> dict[str, int]:
    """What was refused, by name, after the feed was read."""
    return {reasons.NAME[reason]: n for reason, n in feed.counters.items()}
