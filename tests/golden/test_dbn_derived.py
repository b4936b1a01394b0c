"""Books by price made from a recorded market-by-order file, as its publisher would: the line's book must hold their levels.

The levels are those of plain dicts folded from the publisher's own decoder's records, at every event; they are written as MBP-10 and
MBP-1 files, read as feeds, and folded by the line's kernels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import databento_dbn as dbn
import numpy as np
import pytest

from handlers.domain.book import NO_LEVEL, apply_market, level_at, level_key, new_markets, next_level
from handlers.ingest.formats import open_feed
from tests.golden.raw_mbo import SNAPSHOT, TICK_NANO, RawBook, events, raw_records
from tests.unit.dbn_lines import header, lines
from transport.compiled import kernel
from transport.records import ASK, BID, EVENT_END, joined

EVENTS = 1_000  # of the end of the recorded day: sorting the levels of a book in Python takes most of the time
Levels = tuple[tuple[int, int], ...]


@kernel
def _fold_levels(markets, books, rows, depth, out):
    """The best `depth` levels of both sides at every event's end, shape (ends, 2, depth, 2) of ticks and lots; returns how many ends."""
    m, n = markets[0], 0
    for i in range(len(rows)):
        apply_market(m, books, rows[i])
        if not rows[i].flags & EVENT_END:
            continue
        for s in range(2):
            key = m.best[s]
            for k in range(depth):
                if key != NO_LEVEL:
                    price = level_key(s + BID, key)
                    out[n, s, k, 0], out[n, s, k, 1] = price, level_at(m, s + BID, price)[0]
                    key = next_level(m, s, key)
        n += 1
    return n


@pytest.fixture(scope="module")
def recorded(data_dir: Path) -> list[tuple[Any, dict[str, Levels]]]:
    """(last record, best eleven levels of each side) of the last EVENTS events of the day."""
    found = raw_records(data_dir / "databento_mbo_esh4" / "esh4-glbx-mdp3-20231225.mbo.dbn.zst")
    book, spans = RawBook(), list(events(found))
    out = []
    for number, (first, behind) in enumerate(spans):
        for r in found[first:behind]:
            book.apply(r)
        if number >= len(spans) - EVENTS:
            assert not found[first].flags & SNAPSHOT
            out.append((found[behind - 1], {side: tuple(book.best(side, 11)) for side in "BA"}))
    return out


def written(recorded: list[tuple[Any, dict[str, Levels]]], depth: int) -> bytes:
    """A file of MBP-`depth` with one record an event."""
    out = lines({1: 1, 10: 10}[depth], len(recorded), action=b"M", side=b"N", flags=dbn.F_LAST)
    for i, (last, sides) in enumerate(recorded):
        out[i]["ts_event"], out[i]["ts_recv"], out[i]["sequence"] = last.ts_event, last.ts_recv, last.sequence
        for name, side in (("bid", sides["B"]), ("ask", sides["A"])):
            for k, (ticks, lots) in enumerate(side[:depth]):
                out[i][f"{name}_px_{k:02d}"], out[i][f"{name}_sz_{k:02d}"] = ticks * TICK_NANO, lots
    return header(dbn.Schema.MBP_10 if depth == 10 else dbn.Schema.MBP_1) + out.tobytes()


@pytest.mark.parametrize("depth", [1, 10])
def test_book_holds_the_published_levels_and_no_other_after_every_event(
    tmp_path: Path, recorded: list[tuple[Any, dict[str, Levels]]], depth: int
) -> None:
    path = tmp_path / "derived.dbn"
    path.write_bytes(written(recorded, depth))
    feed = open_feed(str(path))
    rows = joined(*feed.chunks(4096))
    markets, books = new_markets([False])
    folded = np.zeros((len(rows), 2, depth + 1, 2), np.int64)  # a level more than is published: it must not be there
    assert _fold_levels(markets, books, rows, depth + 1, folded) == EVENTS
    wanted = np.zeros((EVENTS, 2, depth + 1, 2), np.int64)
    for i, (_, sides) in enumerate(recorded):
        for s, side in enumerate("BA"):
            wanted[i, s, :depth] = sides[side][:depth]
    assert np.array_equal(folded[:EVENTS], wanted)
    assert feed.counters == {}
    assert rows["venue_seq"][rows["flags"] & EVENT_END != 0].tolist() == [last.sequence for last, _ in recorded]
    assert set(rows["side"].tolist()) == {BID, ASK}
