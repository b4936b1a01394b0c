"""Captures of six venues beside figures that independent scripts computed from them: books, trades, what the venues signed."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.feeds import open_feeds
from engine.importing import merged
from engine.run_folder import open_run
from handlers.domain import reasons
from handlers.ingest.feed import Feed
from handlers.ingest.formats import open_feed
from handlers.ingest.venues.signed import SignedRule
from tests.golden.decoded import reference
from tests.golden.folding import Books, fold
from tests.runs import config_file, log_rows, replayed
from transport.records import BAR, BOOK_DELTA, BOOK_SNAPSHOT, EVENT_END, GAP, QUOTE, TRADE, copied, joined

VENUES = {
    "OKX": "OKX.ws.1.0",
    "KRAKEN": "KRAKEN.ws.48.0,KRAKEN.ws.49.0,KRAKEN.ws.50.0",
    "COINBASE": "COINBASE.ws.28.0",
    "BITMEX": "BITMEX.ws.1.0",
    "BYBIT": "BYBIT.ws.25.0",
    "BINANCE": "BINANCE.http.0.0,BINANCE.ws.1.0",
    "BINANCE_FUTURES": "BINANCE_FUTURES.http.0.0,BINANCE_FUTURES.ws.1.0",
}
SIGNED = {"OKX": 290, "KRAKEN": 4269}
FLOAT32 = Decimal("2e-7")  # relative: Bybit's quantities are 32-bit floats, which are put back on the grid


class Venue:
    """A capture run to its end."""

    def __init__(self, name: str, data_dir: Path) -> None:
        self.name = name
        self.expected: dict[str, Any] = reference(data_dir, f"ws_{name}")
        self.feed: Feed = open_feed(spec(data_dir, VENUES[name]))
        self.rows = np.concatenate(list(self.feed.chunks(4096)))
        self.books: Books = fold(self.rows, len(self.feed.instruments))

    def of(self, kind: int, symbol: str) -> np.ndarray[Any, Any]:
        place = [i.symbol for i in self.feed.instruments].index(symbol)
        return self.rows[(self.rows["kind"] == kind) & (self.rows["instrument_id"] == place)]


def spec(data_dir: Path, names: str) -> str:
    return ",".join(str(data_dir / "cryptofeed_captures" / name) for name in names.split(","))


@pytest.fixture(scope="module", params=VENUES)
def venue(request: pytest.FixtureRequest, data_dir: Path) -> Iterator[Venue]:
    return Venue(request.param, data_dir)


def test_final_books_are_the_references(venue: Venue) -> None:
    assert venue.expected["final_books"]
    places = {i.symbol: place for place, i in enumerate(venue.feed.instruments)}
    for symbol, book in venue.expected["final_books"].items():
        place, m = places[symbol], venue.books.markets[places[symbol]]
        instrument, (bid, bid_lots, ask, ask_lots) = venue.feed.instruments[place], venue.books.tops[place]
        assert m["levels"].tolist() == [book["bid_levels"], book["ask_levels"]], symbol
        for (price, qty), ticks, lots in ((book["best_bid"], bid, bid_lots), (book["best_ask"], ask, ask_lots)):
            assert instrument.price(ticks) == Decimal(price), symbol
            near = FLOAT32 * Decimal(qty) if venue.name == "BYBIT" else 0
            assert abs(instrument.qty(lots) - Decimal(qty)) <= near, symbol


@pytest.mark.parametrize(("name", "beyond", "left_out"), [("KRAKEN", 3, {}), ("COINBASE", 1, {"CRV-EUR": [0, 1]})])
def test_books_of_the_line_lack_nothing_but_levels_that_stand_too_far(
    name: str, beyond: int, left_out: dict[str, list[int]], data_dir: Path
) -> None:
    """Kraken's levels of more than 2**50 lots are held as so many; Coinbase's ask of 888,888,004 euro, which ends its snapshot, is not."""
    feeds, instruments = open_feeds([spec(data_dir, VENUES[name])], ())
    chunks, sequencer = merged(feeds, instruments, 4096)
    books = fold(joined(*(copied(rows) for rows in chunks)), len(instruments))
    assert feeds[0].counted()[reasons.LEVEL_OUT_OF_BOUNDS] == beyond
    assert not sequencer.counters.any()
    expected = reference(data_dir, f"ws_{name}")["final_books"]
    for place, instrument in enumerate(instruments):
        book, m = expected[instrument.symbol], books.markets[place]
        levels = np.array([book["bid_levels"], book["ask_levels"]]) - left_out.get(instrument.symbol, [0, 0])
        assert (m["valid"], m["levels"].tolist()) == (1, levels.tolist()), instrument.symbol
        bid, _, ask, _ = books.tops[place]
        assert [instrument.price(bid), instrument.price(ask)] == [Decimal(book["best_bid"][0]), Decimal(book["best_ask"][0])]


def test_the_line_has_features_of_a_book_whose_snapshot_ends_with_a_level_too_far(data_dir: Path, tmp_path: Path) -> None:
    config = config_file(tmp_path, "[line]\nlog_features = true\ntimer_interval_ms = 0\n")
    summary = replayed(tmp_path / "run", spec(data_dir, VENUES["COINBASE"]), config=config)
    assert "OUT_OF_RANGE" not in summary["ingest"]
    place = [i.symbol for i in open_run(tmp_path / "run").instruments].index("CRV-EUR")
    rows, features = (log_rows(tmp_path / "run", log) for log in ("input", "features"))
    book = (rows["instrument_id"] == place) & ((rows["kind"] == BOOK_SNAPSHOT) | (rows["kind"] == BOOK_DELTA)) & (rows["flags"] & EVENT_END != 0)
    assert np.count_nonzero(book) > 100
    assert np.isin(rows["seq"][book], features["seq"][features["instrument_id"] == place]).all()


def test_trades_are_the_references(venue: Venue) -> None:
    for symbol, expected in venue.expected["trades"].items():
        trades = venue.of(TRADE, symbol)
        instrument = next(i for i in venue.feed.instruments if i.symbol == symbol)
        qty = [instrument.qty(int(q)) for q in trades["qty_lots"]]
        notional = sum(q * instrument.price(int(p)) for q, p in zip(qty, trades["price_ticks"], strict=True))
        assert len(trades) == expected["n"], symbol
        near = FLOAT32 * sum(qty) if venue.name == "BYBIT" else 0
        assert abs(sum(qty) - Decimal(expected["volume"])) <= near, symbol
        assert abs(notional / sum(qty) - Decimal(expected["vwap"])) <= Decimal("1e-10") + near, symbol
    count = sum(e["n"] for e in venue.expected["trades"].values())
    assert np.count_nonzero(venue.rows["kind"] == TRADE) == count


def test_books_are_never_crossed_and_nothing_is_missing(venue: Venue) -> None:
    assert sum(venue.books.crossed) == 0
    assert not np.any(venue.rows["kind"] == GAP)
    unread = set(venue.feed.counters) - {reasons.CONTROL_MESSAGE, reasons.UNKNOWN_STREAM, reasons.UNFINISHED_BAR}
    assert unread <= {reasons.DEPTH_STALE, reasons.BEFORE_STREAM}


def test_messages_of_each_kind_are_as_many_as_were_recorded(venue: Venue) -> None:
    types = venue.expected["by_type"]

    def recorded(*words: str) -> int:
        return sum(n for name, n in types.items() if name.startswith(words))

    ends = {kind: int(np.count_nonzero((venue.rows["kind"] == kind) & (venue.rows["flags"] & 1 > 0))) for kind in (QUOTE, BOOK_DELTA, BOOK_SNAPSHOT)}
    if venue.name == "OKX":
        assert ends == {QUOTE: recorded("tickers"), BOOK_DELTA: recorded("books/update"), BOOK_SNAPSHOT: recorded("books/snapshot")}
    elif venue.name == "KRAKEN":
        assert ends[BOOK_DELTA] + ends[BOOK_SNAPSHOT] == recorded("book-1000")
        assert ends[QUOTE] == recorded("ticker")
    elif venue.name == "COINBASE":
        assert ends == {QUOTE: 0, BOOK_DELTA: recorded("l2update"), BOOK_SNAPSHOT: recorded("snapshot")}
        assert venue.feed.counters[reasons.BEFORE_STREAM] == recorded("last_match")
    elif venue.name == "BYBIT":
        assert ends == {QUOTE: 0, BOOK_DELTA: recorded("orderBookL2_25/delta"), BOOK_SNAPSHOT: recorded("orderBookL2_25/snapshot")}
    elif venue.name == "BITMEX":
        changes = recorded("orderBookL2/update", "orderBookL2/insert", "orderBookL2/delete")
        assert (ends[BOOK_DELTA], ends[BOOK_SNAPSHOT]) == (changes, recorded("orderBookL2/partial"))
        assert venue.feed.counters[reasons.BEFORE_STREAM] == recorded("trade/partial")
    else:
        dropped = venue.feed.counters[reasons.DEPTH_STALE]
        assert dropped == recorded("dropped")
        assert ends[BOOK_DELTA] == recorded("depth ") - dropped
        assert ends[QUOTE] == recorded("bookTicker")


@pytest.mark.parametrize("name", SIGNED)
def test_every_signed_book_is_the_venues(name: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    take = SignedRule._take

    def watched(self: SignedRule, m: Any, rows: Any, whole: bool) -> int:
        verdict = take(self, m, rows, whole)
        if m["check"] >= -(2**31):
            checked.append(verdict)
        return verdict

    monkeypatch.setattr(SignedRule, "_take", watched)
    feed = open_feed(spec(data_dir, VENUES[name]))
    assert sum(len(rows) for rows in feed.chunks(4096))
    assert checked == [0] * SIGNED[name]
    assert reasons.CHECKSUM_FAILED not in feed.counters


@pytest.mark.parametrize(("name", "mark", "old", "new"), [
    ("OKX", b'"action":"update"', b'"1.2112"', b'"1.2113"'),
    ("KRAKEN", b'"XMR/USD"]', b'"5.00000000"', b'"5.00000001"'),
])  # fmt: skip
def test_one_digit_flipped_breaks_the_book_until_the_next_snapshot(
    name: str, mark: bytes, old: bytes, new: bytes, data_dir: Path, tmp_path: Path
) -> None:
    path = data_dir / "cryptofeed_captures" / VENUES[name].split(",")[-1]
    lines = path.read_bytes().split(b"\n")
    at = next(n for n, line in enumerate(lines) if mark in line and old in line and b'"as"' not in line and b"snapshot" not in line)
    wrong = [*lines[:at], lines[at].replace(old, new, 1), *lines[at + 1 :]]
    (tmp_path / path.name).write_bytes(b"\n".join(wrong))
    (tmp_path / f"{name}.0").write_bytes((path.parent / f"{name}.0").read_bytes())
    feed = open_feed(str(tmp_path / path.name))
    rows = np.concatenate(list(feed.chunks(4096)))
    gaps = rows[rows["kind"] == GAP]
    assert gaps["reason"].tolist() == [reasons.CHECKSUM_FAILED]
    assert gaps["origin"].tolist() == [at]
    of_book = (rows["instrument_id"] == gaps["instrument_id"][0]) & ((rows["kind"] == BOOK_DELTA) | (rows["kind"] == BOOK_SNAPSHOT))
    assert rows["origin"][of_book].max() < at
    assert feed.counters[reasons.DEPTH_REFUSED] > 10
    again = next(line for line in lines if (b'"as"' in line or b"snapshot" in line) and (b"XMR/USD" in line or b'"BTC-USDT"' in line))
    last = next(line for line in reversed(lines) if line)
    resumed = [*wrong, last.partition(b": ")[0] + b": " + again.partition(b": ")[2]]
    (tmp_path / path.name).write_bytes(b"\n".join(resumed))
    healed = np.concatenate(list(open_feed(str(tmp_path / path.name)).chunks(4096)))
    assert healed["kind"][-1] == BOOK_SNAPSHOT
    assert fold(healed, 16).markets[int(gaps["instrument_id"][0])]["valid"]


def test_closed_bars_of_the_venue_are_bars_at_their_close(data_dir: Path) -> None:
    venue = Venue("BINANCE_FUTURES", data_dir)
    bars = venue.rows[venue.rows["kind"] == BAR]
    assert len(bars) == 4
    for bar in bars:
        assert bar["low_ticks"] <= min(bar["open_ticks"], bar["close_ticks"])
        assert bar["interval_ns"] == 60 * 10**9
        assert bar["ts_event_ns"] >= bar["ts_open_ns"] + bar["interval_ns"]
        assert bar["volume_lots"] * bar["low_ticks"] <= bar["notional_ticks_lots"] <= bar["volume_lots"] * bar["high_ticks"]
