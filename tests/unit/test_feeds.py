"""What feeds a run is given: at least one, not too many, and one meaning of each instrument."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.feeds import open_feeds
from handlers.ingest.errors import FeedError, NotAFeedError
from transport.instruments import Instrument
from transport.records import FEED_BASE, TRADE, empty
from transport.tape import TapeWriter


def tape(path: Path, name: str, tick: str = "0.01") -> str:
    """A tape of one trade of one instrument."""
    rows = empty(1)
    rows["kind"] = TRADE
    with TapeWriter(path, [Instrument(name, "test", Decimal(tick), Decimal(1))], {"sources": []}) as writer:
        writer.append(rows)
    return str(path)


def test_no_feed_is_told() -> None:
    with pytest.raises(FeedError, match="no feed given"):
        open_feeds([], [])


def test_an_instrument_that_two_feeds_describe_differently_is_told(tmp_path: Path) -> None:
    feeds = [tape(tmp_path / "a.tape", "A"), tape(tmp_path / "b.tape", "A", tick="0.05")]
    with pytest.raises(ConfigError, match=r"A\.test: two feeds give it different ticks or lots"):
        open_feeds(feeds, [])


def test_a_tape_that_cannot_be_read_is_told_with_its_path(tmp_path: Path) -> None:
    path = Path(tape(tmp_path / "a.tape", "A"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(NotAFeedError, match=r"a\.tape: .*a\.tape: "):
        open_feeds([str(path)], [])


def test_instruments_are_numbered_in_the_order_of_the_feeds_a_shared_one_once(tmp_path: Path) -> None:
    specs = [tape(tmp_path / f"{k}.tape", name) for k, name in enumerate("BAB")]
    feeds, table = open_feeds(specs, [])
    assert [instrument.name for instrument in table] == ["B.test", "A.test"]
    rows = [next(iter(feed.windows(10))) for feed in feeds]
    assert [window["instrument_id"].tolist() for window in rows] == [[0], [1], [0]]
    assert [feed.source_id for feed in feeds] == [FEED_BASE, FEED_BASE + 1, FEED_BASE + 2]
