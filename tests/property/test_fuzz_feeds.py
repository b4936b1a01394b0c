"""Files damaged at random, of every format: a decoder never raises, never goes on for ever, and counts what it leaves out."""

from __future__ import annotations

import importlib
import pkgutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import handlers.ingest
from handlers.domain import reasons
from handlers.ingest.dbn.feed import DbnFeed
from handlers.ingest.dbn.layouts import LAYOUTS
from handlers.ingest.feed import Feed
from handlers.ingest.formats import PROTOCOLS, open_feed
from handlers.ingest.lean.feed import LeanFeed
from handlers.ingest.live.feed import LiveFeed
from handlers.ingest.synthetic.feed import SyntheticFeed
from handlers.ingest.tables.feed import TableFeed
from handlers.ingest.tables.parquet import is_parquet
from handlers.ingest.venues.capture import CaptureFeed
from handlers.ingest.venues.capture_lines import Form
from handlers.ingest.venues.protocol import Protocol
from tests.fuzz_feeds import FORMATS, Format, WITHOUT_ORIGIN, check, dbn_body, seeds
from tests.runs import joined

NOT_OF_FILES = {SyntheticFeed, LiveFeed}  # makes its records; decodes what a venue sends as a capture of it is decoded
LEAN_SHAPES = {(True, "trade", "equity"), (True, "quote", "equity"), (True, "quote", "forex"), (False, "trade", "equity"), (False, "quote", "equity")}
EVERY_LINE_TOLD = ("tbbo", "trades", "ohlcv", "bbo", "status", "definition", "statistics")
Damage = Callable[[bytearray, int], None]  # content, where its records begin


@st.composite
def damages(draw: st.DrawFn) -> Damage:
    """One way to spoil a file, at a place that is a share of its length; three in four among its records."""
    share, amount, in_body = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(1, 64)), draw(st.integers(0, 3))
    how = draw(st.sampled_from(["flip", "cut", "remove", "repeat", "zero", "ones", "version", "swap"]))
    bit = draw(st.integers(0, 7))

    def spoil(content: bytearray, body: int) -> None:
        body = body if in_body and body < len(content) else 0
        at = body + int(share * (len(content) - body))
        if how == "flip" and content:
            content[at] ^= 1 << bit
        elif how == "cut":
            del content[at:]
        elif how == "remove":
            del content[at : at + amount]
        elif how == "repeat":
            content[at:at] = content[at : at + amount]
        elif how in ("zero", "ones"):
            content[at : at + amount] = (b"\0" if how == "zero" else b"\xff") * len(content[at : at + amount])
        elif how == "version" and len(content) > 3:
            content[3] = bit
        elif how == "swap":
            content[at : at + amount] = content[at : at + amount][::-1]

    return spoil


@pytest.fixture(scope="module")
def corpus(data_dir: Path) -> dict[str, list[bytes]]:
    found = {name: seeds(name, data_dir) for name in FORMATS}
    assert all(found.values())
    return found


@pytest.fixture(scope="module")
def opened(corpus: dict[str, list[bytes]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Feed | None]]:
    """Each seed as a feed, its file still there; None for one that is none."""
    folder = tmp_path_factory.mktemp("seeds")
    found: dict[str, list[Feed | None]] = {name: [] for name in FORMATS}
    for name, contents in corpus.items():
        for number, content in enumerate(contents):
            (folder / name / str(number)).mkdir(parents=True)
            found[name].append(check(content, folder / name / str(number) / "damaged", FORMATS[name]))
    return found


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_seeds_are_feeds_that_read_alike_twice(opened: dict[str, list[Feed | None]], name: str) -> None:
    """The beginning of a capture may hold answers to subscriptions alone, which no venue claims, and a sample of daily bars no record."""
    assert all(opened[name]) or name == "cryptofeed"
    assert sum(feed is not None and feed.lines > 0 for feed in opened[name]) > len(opened[name]) / 2


def test_every_decoder_has_a_seed(opened: dict[str, list[Feed | None]]) -> None:
    """What reads a file, a venue's messages, a way of writing lines, a kind of table or a form of DBN record."""
    for module in pkgutil.walk_packages(handlers.ingest.__path__, "handlers.ingest."):
        importlib.import_module(module.name)
    feeds = [feed for of in opened.values() for feed in of if feed is not None]
    captures = [feed for feed in feeds if isinstance(feed, CaptureFeed)]
    tables = [feed for feed in feeds if isinstance(feed, TableFeed)]
    assert subclasses(Feed) - {type(feed) for feed in feeds} == NOT_OF_FILES
    assert {type(feed.survey.protocol) for feed in captures} == set(PROTOCOLS) == subclasses(Protocol)
    assert {type(feed.form) for feed in captures} == subclasses(Form)
    assert {(feed.files[0].table.kind, is_parquet(feed.paths[0])) for feed in tables} >= {(k, p) for k in ("trade", "quote", "book_delta", "bar") for p in (False, True)}
    assert {(f.resolution == "tick", f.what, f.asset) for feed in feeds if isinstance(feed, LeanFeed) for f in feed.files} == LEAN_SHAPES
    found = {layout.decoder for feed in feeds if isinstance(feed, DbnFeed) for _, _, layout in feed._records_quietly(feed.paths[0])}
    assert found == {layout.decoder for layout in LAYOUTS}


def subclasses(base: type) -> set[type]:
    """All classes below `base` that the engine has, with those below them."""
    below = {c for c in base.__subclasses__() if c.__module__.startswith("handlers.")}
    return below | {c for b in below for c in subclasses(b)}


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_damage_is_counted_and_never_raised(corpus: dict[str, list[bytes]], name: str) -> None:
    examples = 250 if name == "dbn" else 20

    @settings(max_examples=examples)
    @given(st.integers(0, len(corpus[name]) - 1), st.lists(damages(), min_size=1, max_size=4))
    def hold(which: int, spoils: list[Damage]) -> None:
        content = bytearray(corpus[name][which])
        body = FORMATS[name].body(bytes(content))
        for spoil in spoils:
            spoil(content, body)
        with tempfile.TemporaryDirectory() as folder:
            check(bytes(content), Path(folder) / "damaged", FORMATS[name])

    hold()


@settings(max_examples=80)
@given(data=st.data())
def test_every_record_of_a_damaged_file_has_rows_or_a_reason(data: st.DataObject, corpus: dict[str, list[bytes]]) -> None:
    """Where each record is an event by itself; of books by price some records change nothing and say nothing."""
    content = bytearray(data.draw(st.sampled_from(corpus["dbn"])))
    begins = dbn_body(bytes(content))
    for at, value in data.draw(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6)):
        if begins < len(content):
            content[begins + int(at * (len(content) - begins))] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged"
        feed = check(bytes(content), path, FORMATS["dbn"])
        assert feed is not None
        if any(kind in str(feed._schema) for kind in EVERY_LINE_TOLD):  # type: ignore[attr-defined]
            assert told(feed) == feed.lines


def told(feed: Feed) -> int:
    """Records that have rows, and that a reason was counted for."""
    rows = joined(*feed.chunks(4096))
    alone = np.isin(rows["kind"], WITHOUT_ORIGIN)
    counted = {reason: n for reason, n in feed.counters.items() if reason not in (reasons.TRUNCATED, reasons.UNREADABLE)}
    return int(np.count_nonzero(alone)) + len(np.unique(rows["origin"][~alone])) + sum(counted.values())


@pytest.mark.parametrize(("at", "reason"), [(0, "UNREADABLE"), (56, "UNREADABLE")])
def test_record_that_claims_no_length_ends_the_file_with_a_reason(
    corpus: dict[str, list[bytes]], tmp_path: Path, at: int, reason: str
) -> None:
    content = bytearray(next(c for c in corpus["dbn"] if b"ESH1" in c and len(c) < 480))
    content[dbn_body(bytes(content)) + at] = 0
    feed = check(bytes(content), tmp_path / "damaged", FORMATS["dbn"])
    assert feed is not None
    assert [reasons.NAME[r] for r in feed.counters] == [reason]
    assert feed.lines == at // 56


def test_a_rule_that_is_broken_is_seen(corpus: dict[str, list[bytes]], tmp_path: Path) -> None:
    class Careless(Feed):
        def chunks(self, rows_max: int):  # type: ignore[no-untyped-def]
            raise IndexError("past the end")

        def receive_times(self):  # type: ignore[no-untyped-def]
            return np.empty(0, np.int64)

    with pytest.raises(IndexError, match="past the end"):
        check(corpus["dbn"][0], tmp_path / "seed", Format((), 0, open=lambda spec: Careless("x", open_feed(spec).instruments)))
