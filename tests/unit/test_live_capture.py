"""A live feed whose venue is a list of messages: its records and counters, and those of the capture that it wrote, are the same.

The venue is hostile: what it describes and sends is what no venue should.
"""

from __future__ import annotations

import json
import resource
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import Raw, structs

from engine import live as engine_live
from engine.config import WarmupConfig, resolve
from engine.live import follow
from engine.session import Terminated
from handlers.domain import reasons
from handlers.ingest.errors import FeedError
from handlers.ingest.formats import open_feed
from handlers.ingest.live import feed as live_feed
from handlers.ingest.live.feed import CaptureWriter, LiveFeed, stream_of
from handlers.ingest.live.source import LiveSource
from handlers.ingest.venues.own_lines import OwnLine, write
from tests.live_venues import BTC, INFO
from tests.venue_server import Answer, VenueServer
from transport.errors import StorageError
from transport.records import GAP, REC, empty

T_MS = 1_723_161_256_000
ID_MAX = 2**63 - 1
URL = "http://venue/exchangeInfo"


class Told(LiveSource):
    """What its venue describes and sends is given; it connects to nobody."""

    described: tuple[str, str] = ("", "")

    def fetch_instruments(self, stop: threading.Event) -> None:
        url, body = self.described
        self._lines.put(write(OwnLine("rest", url=url, status=200, body=Raw(body.encode()))))

    def start(self) -> None:
        self._lines.end()


def told(market: str, symbols: Sequence[str], described: str, url: str = URL) -> Told:
    source = Told(stream_of(market, symbols))
    source.described = url, described
    return source


class Both:
    """A session's feed and its capture's, each with its rows."""

    def __init__(self, folder: Path, bodies: Sequence[bytes], market: str = "binance_usdm", name: str = "capture") -> None:
        source = told(market, [BTC], INFO)
        self.live = LiveFeed(source, CaptureWriter(folder / name))
        for body in bodies:
            source._lines.put(body)
        self.rows = self._rows(self.live)
        self.again = open_feed(str(folder / name))
        assert self._rows(self.again).tobytes() == self.rows.tobytes()
        assert self.again.counters == self.live.counters
        assert self.again.first_offenders == self.live.first_offenders

    @staticmethod
    def _rows(feed: Any) -> np.ndarray[Any, Any]:
        feed.bind({i.name: n for n, i in enumerate(feed.instruments)}, 16)
        return np.concatenate([rows.view("V128") for rows in (empty(0), *feed.chunks(1000))]).view(REC)

    def gaps(self) -> list[tuple[int, int]]:
        found = self.rows[self.rows["kind"] == GAP]
        return [(int(r["expected_seq"]), int(r["got_seq"])) for r in found]


def message(**more: Any) -> bytes:
    return json.dumps({"E": T_MS, "s": BTC, **more}, separators=(",", ":")).encode()


def depth(first: int, last: int, **more: Any) -> bytes:
    return message(e="depthUpdate", U=first, u=last, b=[["100.0", "1"]], a=[], **more)


def trade(number: int) -> bytes:
    return message(e="trade", T=T_MS + 9999, t=number, p="100.1", q="0.5", X="MARKET", m=False)


def rest(what: str, body: Any) -> bytes:
    return write(OwnLine("rest", url=f"http://venue/{what}?symbol={BTC}", status=200, body=Raw(json.dumps(body).encode())))


def book(last: int) -> bytes:
    return rest("depth", {"lastUpdateId": last, "bids": [["99.9", "3"]], "asks": [["100.2", "4"]]})


def joined(code: int = 0) -> bytes:
    return write(OwnLine("joined", symbol=BTC, attempt=1, code=code))


HISTORY = write(OwnLine("history", symbol=BTC, last=7, time=T_MS * 10**6))


def test_a_book_that_names_no_symbol_is_nobodys_in_the_session_and_in_its_capture(tmp_path: Path) -> None:
    both = Both(tmp_path, [depth(5, 6, T=T_MS, pu=4), b'{"lastUpdateId":5,"bids":[["99.9","3"]],"asks":[["100.2","4"]]}'])
    assert both.live.counters[reasons.UNKNOWN_SYMBOL] == 1
    assert not len(both.rows)


@pytest.mark.parametrize("market", ["binance", "binance_coinm", "binance_usdm"])
def test_a_capture_is_of_the_sessions_market_whatever_its_messages_look_like(market: str, tmp_path: Path) -> None:
    both = Both(tmp_path, [message(e="bookTicker", u=1, b="1.0", B="1", a="1.1", A="1"), book(5), depth(6, 7), depth(8, 9, T=T_MS, pu=7)], market)
    assert both.again.instruments == both.live.instruments
    assert both.live.instruments[0].venue == market


def test_what_follows_the_greatest_id_of_a_book_is_a_gap_and_no_error(tmp_path: Path) -> None:
    both = Both(tmp_path, [book(5), depth(6, ID_MAX), depth(7, 9)], "binance")
    assert both.gaps() == [(ID_MAX, 7)]


@pytest.mark.parametrize("code", [0, 404])
def test_what_follows_the_greatest_id_of_a_trade_is_a_hole_and_no_error(code: int, tmp_path: Path) -> None:
    told_past = rest("aggTrades", [{"a": 1, "p": "100.1", "q": "0.5", "f": 8, "l": ID_MAX, "T": T_MS, "m": False}])
    stays = [joined(code)] * 6
    with pytest.raises(FeedError, match="cannot be joined to its history"):
        Both(tmp_path, [HISTORY, told_past, trade(10), *stays, trade(11)])


def test_trades_that_wait_for_a_past_when_the_feed_ends_are_counted(tmp_path: Path) -> None:
    both = Both(tmp_path, [HISTORY, trade(8), trade(9)])
    assert both.live.counters[reasons.HISTORY_UNTOLD] == 2
    assert both.live.first_offenders[reasons.HISTORY_UNTOLD] == "line 4: trade 8 waited for what was before it"
    assert not len(both.rows)


def okx_steps(tick: str, lot: str = "1") -> tuple[str, str, str, str]:
    return "okx", "A-B", "http://venue/public/instruments", json.dumps({"data": [{"instId": "A-B", "tickSz": tick, "lotSz": lot}]})


@pytest.mark.parametrize(("market", "symbol", "url", "body"), [
    *(okx_steps(tick) for tick in ("0", "-1", "NaN", "sNaN", "Infinity", "1e30", "1e-30", "1e999999999", "1e-999999999")),
    okx_steps("1", "-Infinity"),
    ("kraken", "A/B", "http://venue/public/AssetPairs", '{"result":{"x":{"wsname":"A/B","pair_decimals":-400,"lot_decimals":1}}}'),
    ("coinbase", "A-B", "http://venue/products", '[{"id":"A-B","quote_increment":"0.1","base_increment":"1","quote_currency":7}]'),
])  # fmt: skip
def test_a_description_in_which_nothing_can_be_counted_is_refused_in_words(market: str, symbol: str, url: str, body: str) -> None:
    with pytest.raises(FeedError, match=rf"{symbol} is described with a tick, lot or size|cannot be read"):
        LiveFeed(told(market, [symbol], body, url), None)


def test_steps_as_coarse_and_as_fine_as_64_bits_allow_are_taken() -> None:
    _, _, url, body = okx_steps("1e-18", "1e17")
    feed = LiveFeed(told("okx", ["A-B"], body, url), None)
    assert (feed.instruments[0].tick, feed.instruments[0].lot) == (Decimal("1e-18"), Decimal("1e17"))


@pytest.mark.parametrize("wall", [0, 4_200_000_000 * 10**9])
def test_a_machine_whose_clock_is_not_set_follows_nothing(wall: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_feed, "wall_ns", lambda: wall)
    with pytest.raises(FeedError, match="clock is not set"):
        LiveFeed(told("binance_usdm", [BTC], INFO), None)


# --- the capture's file ---------------------------------------------------------------------------------------------------


def test_a_packed_capture_that_is_killed_holds_what_was_flushed(tmp_path: Path) -> None:
    writer = CaptureWriter(tmp_path / "capture.gz")
    head = [(T_MS * 10**6, write(OwnLine("capture", venue="binance_usdm", symbols=[BTC]))), (T_MS * 10**6, rest("exchangeInfo", json.loads(INFO)))]
    writer.write([*head, (T_MS * 10**6 + 1, trade(1))])
    writer.flush()
    writer.write([(T_MS * 10**6 + 2, trade(2))])
    killed = tmp_path / "killed.gz"
    killed.write_bytes((tmp_path / "capture.gz").read_bytes())
    feed = open_feed(str(killed))
    rows = Both._rows(feed)
    assert rows["venue_seq"].tolist() == [1]
    assert feed.counters[reasons.TRUNCATED] == 1
    writer.close()


def _fill(writer: CaptureWriter, noise: bytes) -> None:
    for _ in range(10):
        writer.write([(T_MS, noise)])
        writer.flush()


@pytest.mark.parametrize("name", ["capture", "capture.gz"])
def test_a_disk_that_takes_no_more_of_a_capture_is_told_in_words(name: str, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = CaptureWriter(tmp_path / name)
    noise = np.random.default_rng(1).integers(32, 127, 200_000, np.uint8).tobytes()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        with pytest.raises(StorageError, match=rf"{name} cannot be written: "):
            _fill(writer, noise)
        with suppress(StorageError):  # what still waits to be written cannot be
            writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    writer.close()


def test_a_signal_while_the_history_is_read_leaves_no_capture_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reads(*_: object) -> None:
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL, "it would end the process as it is"
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(engine_live, "warm_up", reads)
    config, origins = resolve(None)
    config = structs.replace(config, warmup=structs.replace(WarmupConfig(), source="rest"))
    with VenueServer([[]], lambda path: Answer(INFO)).running() as server, pytest.raises(Terminated):
        follow({"binance_usdm": [BTC]}, config, origins, tmp_path / "run", capture=tmp_path / "capture", ws_url=server.ws_url, rest_url=server.rest_url)
    assert not list(tmp_path.iterdir())
