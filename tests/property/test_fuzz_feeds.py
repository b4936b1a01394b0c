"""Files damaged at random, of every format: a decoder never raises, never goes on for ever, and counts what it leaves out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.domain import reasons
from handlers.ingest.feed import Feed
from handlers.ingest.formats import open_feed
from tests.fuzz_feeds import FORMATS, Format, WITHOUT_ORIGIN, check, dbn_body, seeds
from tests.runs import joined

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


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_seeds_are_feeds_that_read_alike_twice(corpus: dict[str, list[bytes]], tmp_path: Path, name: str) -> None:
    """The beginning of a capture may hold answers to subscriptions alone, which no venue claims, and a sample of daily bars no record."""
    found = [check(content, tmp_path / "damaged", FORMATS[name]) for content in corpus[name]]
    assert all(found) or name == "cryptofeed"
    assert sum(feed is not None and feed.lines > 0 for feed in found) > len(corpus[name]) / 2


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
