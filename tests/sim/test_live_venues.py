"""Live sessions at venues that send their books over the stream: signed ones, and one where nothing numbers the messages."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engine.config import resolve
from engine.live import follow
from engine.verify import verify

from handlers.domain import reasons
from handlers.ingest.live import feed as live_feed
from handlers.ingest.venues.coinbase import CoinbaseStream
from handlers.ingest.live.source import LiveSource
from handlers.ingest.venues.okx import OkxStream
from tests.live_session import await_that, followed, nothing_left
from tests.live_venues import STARTED, Recorded, coinbase, kraken, okx, subscribed
from tests.runs import log_rows
from tests.venue_server import Abort, Await, Call, Lose, Send
from transport.records import CONNECTION, DISCONNECTED, EVENT_END, RESYNC

pytestmark = pytest.mark.usefixtures("hurried")


@pytest.mark.parametrize("venue", [okx, kraken, coinbase])
def test_a_venue_that_sends_its_books_is_followed_from_its_snapshots(
    venue: Callable[[Path], tuple[Recorded, list[str]]], data_dir: Path, tmp_path: Path
) -> None:
    played, symbols = venue(data_dir)
    half = len(played.texts) // 2
    fresh = [Call(lambda s=s: [played.oracle.fresh(s)]) for s in symbols]  # type: ignore[misc]
    server = played.server([subscribed(symbols[0]), *map(Send, played.texts[:half]), Abort()],
                           [subscribed(symbols[0]), *fresh, *map(Send, played.texts[half:])])  # fmt: skip
    live = followed(tmp_path, server, played.venue, symbols)
    live.check(server, played.oracle, whole=symbols)
    assert live.actions() == [*STARTED, DISCONNECTED, *STARTED, DISCONNECTED]
    assert live.gaps() == {reasons.CONNECTION_LOST: 2 * len(symbols)}


def test_two_venues_run_through_one_line_and_a_quiet_one_holds_nobody_up(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (busy, symbols), (quiet, others) = okx(data_dir), coinbase(data_dir)
    busy_server = busy.server([subscribed(symbols[0]), *map(Send, busy.texts)])
    quiet_server = quiet.server([subscribed(others[0]), *map(Send, quiet.texts[:20])])
    stop, work = threading.Event(), LiveSource._work
    seen: list[int] = []
    reached: list[int] = []

    def slowly(self: LiveSource) -> None:
        if self.stream.market == "coinbase":  # the other one's records are journaled before its first
            time.sleep(0.3)
        work(self)

    monkeypatch.setattr(LiveSource, "_work", slowly)
    with nothing_left(), busy_server.running(), quiet_server.running():
        monkeypatch.setattr(OkxStream, "markets", {"okx": (busy_server.ws_url, busy_server.rest_url + "/api/v5")})
        monkeypatch.setattr(CoinbaseStream, "markets", {"coinbase": (quiet_server.ws_url, quiet_server.rest_url)})
        def end() -> None:
            await_that(busy_server.played.is_set)
            time.sleep(0.8)
            reached.append(seen[-1])
            stop.set()

        ender = threading.Thread(target=end)
        ender.start()
        follow({"okx": symbols, "coinbase": others}, *resolve(None), tmp_path / "run", stop=stop, progress=lambda doing, n, *of: seen.append(n))
        ender.join()
    rows = log_rows(tmp_path / "run", "input")
    feeds = [rows[rows["source_id"] == source] for source in np.unique(rows["source_id"][rows["source_id"] >= 4])]
    assert [int(np.count_nonzero(r["flags"] & EVENT_END)) > 15 for r in feeds] == [True, True]
    assert [r["action"][r["kind"] == CONNECTION].tolist() for r in feeds] == [[*STARTED, DISCONNECTED]] * 2
    assert reached[0] > 0.9 * len(rows), "the busy one's records waited for the quiet one"
    assert verify(tmp_path / "run").proved


@pytest.mark.parametrize(("venue", "word"), [(okx, "books"), (kraken, "book")])
def test_a_book_that_is_not_what_the_venue_signed_is_subscribed_to_anew(
    venue: Callable[[Path], tuple[Recorded, list[str]]], word: str, data_dir: Path, tmp_path: Path
) -> None:
    played, symbols = venue(data_dir)
    symbol, half = symbols[0], len(played.texts) // 2
    key = '"checksum":' if venue is okx else '"c":"'
    at = next(n for n in range(half, len(played.texts)) if symbol in played.texts[n] and key in played.texts[n] and '"snapshot"' not in played.texts[n])
    text = played.texts[at]
    digit = text.index(key) + len(key) + 3
    wrong = text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :]
    anew = Await(lambda m: '"subscribe"' in m and f'"{word}"' in m, lambda m: [played.oracle.fresh(symbol)])
    server = played.server([subscribed(symbols[-1]), *map(Send, played.texts[:at]), Lose(text), Send(wrong, happens=False),
                            anew, *map(Send, played.texts[at + 1 :])])  # fmt: skip
    live = followed(tmp_path, server, played.venue, symbols)
    live.check(server, played.oracle, whole=symbols)
    assert live.gaps()[reasons.CHECKSUM_FAILED] == 1
    assert live.actions() == [*STARTED, RESYNC, DISCONNECTED]
    said = [m for m in server.heard if f'"{word}"' in m][-2:]
    assert ['"unsubscribe"' in m for m in said] == [True, False]
    assert all(symbol in m and symbols[1] not in m for m in said)


def test_a_message_cut_in_half_ends_every_book_where_nothing_numbers_them(data_dir: Path, tmp_path: Path) -> None:
    played, symbols = coinbase(data_dir)
    half = len(played.texts) // 2
    at = next(n for n in range(half, len(played.texts)) if '"l2update"' in played.texts[n])
    anew = Await(lambda m: '"subscribe"' in m and "matches" not in m, lambda m: [played.oracle.fresh(json.loads(m)["product_ids"][0])])
    server = played.server([subscribed(symbols[0]), *map(Send, played.texts[:at]), Lose(played.texts[at]),
                            Send(played.texts[at][:50], happens=False), anew, anew, *map(Send, played.texts[at + 1 :])])  # fmt: skip
    live = followed(tmp_path, server, played.venue, symbols)
    live.check(server, played.oracle, whole=symbols)
    assert live.gaps() == {reasons.BROKEN_LINE: 2, reasons.CONNECTION_LOST: 2}
    assert sorted(json.loads(m)["product_ids"][0] for m in server.heard if '"unsubscribe"' in m) == sorted(symbols)


def test_a_subscription_that_is_not_heard_is_asked_for_again(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_feed, "BOOK_LATE_S", 0.3)
    monkeypatch.setattr(live_feed, "LATE_LOOK_S", 0.1)
    played, (symbol, _, _) = okx(data_dir)
    played.texts = [t for t in played.texts if f'"{symbol}"' in t][:80]
    first = next(n for n, t in enumerate(played.texts) if '"snapshot"' in t and symbol in t)
    anew = Await(lambda m: '"subscribe"' in m and '"books"' in m, lambda m: [played.oracle.fresh(symbol)])
    greeted = Await(lambda m: '"subscribe"' in m and '"books"' in m)
    server = played.server([greeted, *map(Lose, played.texts[: first + 1]), anew, *map(Send, played.texts[first + 1 :])])
    live = followed(tmp_path, server, "okx", [symbol])
    live.check(server, played.oracle, whole=[symbol])
