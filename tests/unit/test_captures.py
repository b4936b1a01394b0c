"""Sources of recorded lines: their files, instruments, chunks, and what is no feed at all."""

from __future__ import annotations

import gzip
import random
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from handlers.ingest.errors import FeedError, NotAFeedError
from handlers.ingest.feed import message_index, split_at_events
from handlers.ingest.venues import capture as module
from handlers.ingest.formats import open_feed
from transport.instruments import Instrument
from transport.records import (
    EVENT_END,
    empty,
)

from tests.unit.capture_lines import BTC, T0_NS, depth, feed_of, quote, rows_of, snapshot, trade


def test_files_of_one_source_continue_one_another(tmp_path: Path) -> None:
    (tmp_path / "b.gz").write_bytes(gzip.compress(f"{depth(3, 13, 15, 12)}\n{trade(4, 1)}\n".encode()))
    (tmp_path / "a.gz").write_bytes(gzip.compress(f"{snapshot(0, 10)}\n{depth(1, 9, 12, 8)}\n".encode()))
    for spec in (str(tmp_path), f"{tmp_path}/a.gz,{tmp_path}/b.gz"):
        feed = open_feed(spec, [BTC])
        rows = rows_of(feed)
        assert rows["origin"].tolist() == [0, 0, 1, 2, 3]
        assert feed.counters == {}
        assert feed.lines == 4


def test_grid_is_inferred_from_significant_decimals_of_prices_and_quantities(tmp_path: Path) -> None:
    lines = [trade(0, 1, "100.10", "0.50"), quote(1, 1, a="100.2500", A="3.000"), depth(2, 1, 2, 0, [["7", "0.0040"]])]
    (instrument,) = feed_of(tmp_path, lines, []).instruments
    assert instrument == Instrument("BTCUSDT", "binance_usdm", Decimal("0.01"), Decimal("0.001"), "USDT")


def test_recorded_captures_show_their_venue_and_grid(data_dir: Path) -> None:
    (futures,) = open_feed(str(data_dir / "binance_ws_capture" / "usdm")).instruments
    assert futures == Instrument("BTCUSDT", "binance_usdm", Decimal("0.1"), Decimal("0.001"), "USDT")
    (spot,) = open_feed(str(data_dir / "binance_ws_capture" / "spot")).instruments
    # The venue's lot is 0.00001; seven depth levels hold dust of a sixth decimal.
    assert spot == Instrument("BTCUSDT", "binance", Decimal("0.01"), Decimal("0.000001"), "USDT")


def test_configuration_that_knows_the_venue_but_not_the_symbol_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotAFeedError, match="holds BTCUSDT of binance_usdm; the configuration knows only ETHUSDT"):
        feed_of(tmp_path, [trade(0, 1)], [Instrument("ETHUSDT", "binance_usdm", Decimal("0.01"), Decimal("0.001"))])


@pytest.mark.parametrize("batch", [1, 3, 4096])
def test_joined_chunks_depend_neither_on_rows_max_nor_on_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, batch: int
) -> None:
    rng = random.Random(seed)
    lines, last = [], 10
    for i in range(300):
        if i in (20, 200):
            lines.append(snapshot(i, last + rng.randrange(-1, 1)))
        elif rng.random() < 0.5:
            step = rng.randrange(1, 4)
            bids = [[f"{rng.randrange(1, 999)}.5", "1.5"] for _ in range(rng.randrange(4))]
            lines.append(depth(i, last + 1, last + step, last - (rng.random() < 0.02), bids))
            last += step
        else:
            lines.append(trade(i, i, price=rng.choice(["100.1", "100.15"])))
    whole = feed_of(tmp_path, lines)
    expected = rows_of(whole, 10**9).tobytes()
    monkeypatch.setattr(module, "BATCH_LINES", batch)
    for rows_max in (1, 2, 7):
        feed = feed_of(tmp_path, lines)
        chunks = list(feed.chunks(rows_max))
        assert np.concatenate(chunks).tobytes() == expected
        assert (feed.counters, feed.first_offenders) == (whole.counters, whole.first_offenders)
        for chunk in chunks:
            assert chunk["flags"][-1] & EVENT_END
            assert len(chunk) <= rows_max or not np.any(chunk["flags"][:-1] & EVENT_END)
            assert chunk.flags.c_contiguous


def test_feed_starts_over_when_asked_for_chunks_again(tmp_path: Path) -> None:
    feed = feed_of(tmp_path, [depth(1, 1, 5, 0), snapshot(2, 10), "junk", depth(3, 9, 12, 8)])
    first, counted = rows_of(feed), dict(feed.counters)
    assert np.array_equal(rows_of(feed), first)
    assert feed.counters == counted


def test_split_at_events_keeps_an_unended_rest() -> None:
    rows = empty(5)
    rows["flags"][[1, 3]] = EVENT_END
    assert [len(part) for part in split_at_events(rows, 2)] == [2, 2, 1]
    assert [len(part) for part in split_at_events(rows, 1)] == [2, 2, 1]
    assert [len(part) for part in split_at_events(rows, 9)] == [5]


def test_message_index_orders_lines_of_sources_by_time_then_source_then_line(tmp_path: Path) -> None:
    sources = []
    for name, times in (("a", (5, 5, 9)), ("b", (4, 5, 9))):
        (tmp_path / name).mkdir()
        sources.append(feed_of(tmp_path / name, [trade(at, i) for i, at in enumerate(times)] + ["junk"]))
    index = message_index(sources)
    assert (index - [T0_NS, 0, 0]).tolist() == [[4, 1, 0], [5, 0, 0], [5, 0, 1], [5, 1, 1], [9, 0, 2], [9, 1, 2]]


@pytest.mark.parametrize(
    "content", [b"", b"hello\n", b"\x00" * 100, b"{}\n", gzip.compress(b"time,price\n1,2\n"), b"\x1f\x8b\x08"]
)
def test_file_that_is_no_feed_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "thing"
    path.write_bytes(content)
    with pytest.raises(FeedError, match="thing"):
        open_feed(str(path))


def test_missing_empty_and_mixed_sources_are_refused_in_words(tmp_path: Path, data_dir: Path) -> None:
    with pytest.raises(FeedError, match="there is no file or folder"):
        open_feed(str(tmp_path / "nowhere"))
    with pytest.raises(NotAFeedError, match="holds no captures"):
        open_feed(str(tmp_path))
    with pytest.raises(NotAFeedError, match="no feed is named"):
        open_feed(" , ")
    capture = data_dir / "binance_ws_capture" / "usdm" / "btcusdt_20240808.gz"
    dbn = data_dir / "databento_mbo_esh4" / "esh4-glbx-mdp3-20231224.mbo.dbn.zst"
    with pytest.raises(NotAFeedError, match="mixes formats"):
        open_feed(f"{capture},{dbn}")
