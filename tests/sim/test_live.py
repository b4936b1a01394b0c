"""Live sessions against a venue on the loopback that plays recorded messages, with everything going wrong that goes wrong out there."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from engine.config import resolve
from engine.live import follow
from handlers.domain import reasons
from handlers.ingest.errors import FeedError
from handlers.ingest.live import source as module
from handlers.ingest.live import feed as live_feed
from handlers.ingest.live import lines as live_lines
from handlers.ingest.live import rest
from handlers.ingest.venues.binance import BinanceStream
from tests.live_session import Live, await_that, followed, refused
from tests.live_venues import BTC, STARTED, Usdm
from tests.venue_server import Abort, Answer, Call, Close, Lose, Pause, Refuse, Send, Step, VenueServer
from transport.instruments import Instrument
from transport.records import (
    CONNECT_FAILED, CONNECTING, CONNECTION, DISCONNECTED, OVERRUN, RESYNC, TRADE,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("hurried")

# --- Binance --------------------------------------------------------------------------------------------------------------


def trades_told(live: Live) -> list[int]:
    return [int(t) for t in live.rows["venue_seq"][live.rows["kind"] == TRADE]]


def test_a_session_without_faults_has_every_message_and_the_venues_book(usdm: Usdm, tmp_path: Path) -> None:
    server = usdm.server([*usdm.play(0, 100), usdm.asked(1), *usdm.play(100)])
    live = usdm.follow(tmp_path, server)
    live.check(server, usdm.oracle, whole=[BTC])
    assert live.actions() == [*STARTED, RESYNC, DISCONNECTED]
    assert live.life[-1]["code"] == 1000
    assert [t.decode() for t in live.texts()] == usdm.texts
    told = trades_told(live)
    assert told == list(range(told[0], told[-1] + 1))
    assert live.gaps() == {reasons.CONNECTION_LOST: 1}  # its own end
    assert len(live.books(BTC)[0]) >= len(usdm.diffs) - 20


@pytest.mark.parametrize(("end", "code"), [(Abort(), 1006), (Close(1012), 1012)])
def test_a_connection_that_ends_is_followed_by_another_and_the_book_comes_again(usdm: Usdm, tmp_path: Path, end: Step, code: int) -> None:
    first = [*usdm.play(0, 300), usdm.asked(1), *usdm.play(300, 700), usdm.told(tmp_path, 1, usdm.texts[699]), end]
    server = usdm.server(first, [*map(Lose, usdm.texts[700:800]), *usdm.play(800, 900), usdm.asked(2), *usdm.play(900)])
    live = usdm.follow(tmp_path, server)
    live.check(server, usdm.oracle, whole=[BTC])
    assert live.actions(RESYNC) == [*STARTED, DISCONNECTED, *STARTED, DISCONNECTED]
    ends = [r for r in live.life if r["action"] == DISCONNECTED]
    assert [r["code"] for r in ends] == [code, 1000]
    assert [r["attempt"] for r in live.life if r["action"] == CONNECTING] == [1, 2]
    assert live.gaps() == {reasons.CONNECTION_LOST: 2}
    told = trades_told(live)
    missing = set(range(told[0], told[-1] + 1)) - set(told)
    lost = {json.loads(t)["data"]["t"] for t in usdm.texts[:800] if '"e":"trade"' in t}
    assert missing <= lost, "only what happened up to the new connection may be missing"


@pytest.mark.parametrize("refusal", [Refuse(429, {"Retry-After": "1"}), Refuse(503)])
def test_a_refused_handshake_is_tried_again_when_the_venue_wants_it(usdm: Usdm, tmp_path: Path, refusal: Refuse) -> None:
    server = usdm.server([refusal], [*usdm.play(0, 100), usdm.asked(1), *usdm.play(100, 400)])
    live = usdm.follow(tmp_path, server)
    live.check(server, usdm.oracle, whole=[BTC])
    assert live.actions(RESYNC) == [CONNECTING, CONNECT_FAILED, *STARTED, DISCONNECTED]
    assert live.life[1]["code"] == refusal.status
    times = live.rows["ts_recv_ns"][live.rows["kind"] == CONNECTION]
    assert (times[2] - times[1] >= 1e9) == bool(refusal.headers)


def test_connections_that_end_at_once_are_attempts_that_failed_until_one_stands(
    usdm: Usdm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits longer; after one that stood for a while the waiting begins anew."""
    monkeypatch.setattr(module, "STABLE_S", 0.3)
    waited: list[int] = []
    monkeypatch.setattr(rest, "back_off_s", lambda attempt: 0.001 * bool(waited.append(attempt) or True))
    stood: list[Step] = [*usdm.play(0, 100), usdm.asked(1), Pause(0.5), Close(1012)]
    server = usdm.server([Close(1012)], [Close(1012)], [Refuse(503)], stood, usdm.play(100, 150))
    live = usdm.follow(tmp_path, server)
    live.check(server, usdm.oracle)
    assert [r["attempt"] for r in live.life if r["action"] == CONNECTING] == [1, 2, 3, 4, 2]
    assert waited[:4] == [1, 2, 3, 1]


def test_a_message_beyond_all_measure_ends_the_connection(usdm: Usdm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MESSAGE_BYTES_MAX", 1 << 16)
    huge = Send('{"stream":"' + "x" * (1 << 16) + '"}', happens=False)
    server = usdm.server([*usdm.play(0, 100), usdm.asked(1), huge], [*usdm.play(100, 200), usdm.asked(2), *usdm.play(200, 300)])
    live = usdm.follow(tmp_path, server)
    live.check(server, usdm.oracle, whole=[BTC])
    assert [r["code"] for r in live.life if r["action"] == DISCONNECTED] == [1009, 1000]


def test_a_silent_connection_is_taken_for_dead(usdm: Usdm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BinanceStream, "idle_s", 0.4)
    monkeypatch.setattr(BinanceStream, "ping_s", 0.0)
    server = usdm.server([usdm.asked(1), *usdm.play(0, 300)], [usdm.asked(2), *usdm.play(300, 600)])
    live = usdm.follow(tmp_path, server)
    live.check(server, usdm.oracle, whole=[BTC])
    assert live.actions(RESYNC)[: 2 * len(STARTED) + 1] == [*STARTED, DISCONNECTED, *STARTED]


def test_delays_and_messages_of_no_use_change_nothing(usdm: Usdm, tmp_path: Path) -> None:
    odd = ["", " ", "null", "[]", "{}", '{"result":null,"id":1}', '{"stream":"x@y","data":{}}', '{\n "e": "trade"\r\n}', "\u00e9" * 40, '{"tickline":"rest"}']
    odd += ['{"tickline":"connection","action":4,"connection":1,"attempt":1,"code":1006}']
    steps: list[Step] = [*usdm.play(0, 50), Pause(0.2), usdm.asked(1), *usdm.play(50, 400), *(Send(t, happens=False) for t in odd)]
    server = usdm.server([*steps, Send(b"\xff\xfe{", happens=False), Pause(0.1), *usdm.play(400, 500)])
    live = usdm.follow(tmp_path, server)
    server.sent = [(n, _written(t)) for n, t in server.sent]
    live.check(server, usdm.oracle, whole=[BTC])
    assert live.actions() == [*STARTED, RESYNC, DISCONNECTED]
    assert refused(live, reasons.BROKEN_LINE) >= 4


def _written(text: str | bytes) -> bytes:
    """How a message is written down: on one line, not empty, and never as a line of our own."""
    body = (text if isinstance(text, bytes) else text.encode()).replace(b"\n", b" ").replace(b"\r", b" ") or b" "
    return b" " + body if body.startswith(b'{"tickline":') else body


def test_a_repeated_diff_is_dropped_and_counted(usdm: Usdm, tmp_path: Path) -> None:
    at = next(n for n in usdm.diffs if n > 300)
    server = usdm.server([*usdm.play(0, 100), usdm.asked(1), *usdm.play(100, at + 1), Send(usdm.texts[at], happens=False), *usdm.play(at + 1, 600)])
    live = usdm.follow(tmp_path, server)
    live.check(server, usdm.oracle, whole=[BTC])
    assert refused(live, reasons.DEPTH_REPEATED) == 1
    assert usdm.books == 1


@pytest.mark.parametrize("fault", ["missing", "reordered", "half", "older"])
def test_a_diff_that_does_not_follow_is_a_gap_and_the_book_is_fetched_anew(usdm: Usdm, tmp_path: Path, fault: str) -> None:
    at, after = [n for n in usdm.diffs if n > 300][:2]
    text = usdm.texts[at]
    steps = [*usdm.play(0, 100), usdm.asked(1), *usdm.play(100, at)]
    if fault == "missing":
        steps += [Lose(text), *usdm.play(at + 1, after + 1)]
    elif fault == "half":
        steps += [Lose(text), Send(text[: len(text) // 2], happens=False), *usdm.play(at + 1, after + 1)]
    elif fault == "reordered":
        between = usdm.texts[at + 1 : after]
        steps += [Lose(text), *map(Send, between), Lose(usdm.texts[after]), Send(usdm.texts[after], happens=False), Send(text, happens=False)]
    else:
        old = usdm.texts[next(n for n in usdm.diffs if n > 100)]
        steps += [Send(text), Send(old, happens=False), *usdm.play(at + 1, after + 1)]
    settled = Pause(0.3 if fault == "reordered" else 0.0)  # the older one may come behind the snapshot, and cost a second one
    server = usdm.server([*steps, usdm.asked(2), settled, *usdm.play(after + 1, after + 300)])
    live = usdm.follow(tmp_path, server)
    live.check(server, usdm.oracle, whole=[BTC])
    gaps = live.gaps()[reasons.SEQUENCE_GAP]
    assert gaps == 1 or (gaps == 2 and fault == "reordered")
    assert refused(live, reasons.BROKEN_LINE) == (fault == "half")
    assert live.actions() == [*STARTED, RESYNC, *[RESYNC] * gaps, DISCONNECTED]


def test_a_line_that_does_not_keep_up_says_how_many_messages_it_lost(usdm: Usdm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_lines, "WAITING_MAX", 40)
    taken, free = live_feed.LiveFeed._take, threading.Event()

    def slow(self: live_feed.LiveFeed, lines: list[tuple[int, bytes]], rows_max: int) -> Iterator[object]:
        if self.lines > 200:
            free.wait(10)
        yield from taken(self, lines, rows_max)

    monkeypatch.setattr(live_feed.LiveFeed, "_take", slow)

    def release() -> Sequence[str]:
        time.sleep(0.2)
        free.set()
        return ()

    paced = [step for n, s in enumerate(usdm.play(0, 400)) for step in ((s, Pause(0.01)) if n % 10 == 0 else (s,))]
    tail = [step for s in usdm.play(900) for step in (s, Pause(0.0005))]
    server = usdm.server([*paced, *usdm.play(400, 900), Call(release), usdm.asked(2), *tail])
    live = usdm.follow(tmp_path, server, ready=lambda written: server.played.is_set() and time.sleep(0.3) is None)
    live.check(server, usdm.oracle)
    lost = sum(r["lost"] for r in live.life if r["action"] == OVERRUN)
    assert lost > 100
    assert lost == len(server.sent) - len(live.texts())
    first = next(r for r in live.life if r["action"] == OVERRUN)
    assert live.gaps()[reasons.CONNECTION_LOST] >= 2
    assert any(r["action"] == RESYNC and r["origin"] > first["origin"] for r in live.life)


# --- books by REST --------------------------------------------------------------------------------------------------------


def test_a_venue_that_limits_requests_is_not_asked_again_before_it_says(usdm: Usdm, tmp_path: Path) -> None:
    asked: list[float] = []

    def limited() -> Answer:
        asked.append(time.monotonic())
        return Answer('{"code":-1003}', 429, {"Retry-After": "1"})

    def late() -> Answer:
        asked.append(time.monotonic())
        return Answer(usdm.oracle.fresh(BTC))

    usdm.answers = {1: limited, 2: late}
    server = usdm.server([*usdm.play(0, 100), usdm.asked(1), Abort()], [*usdm.play(100, 200), usdm.asked(2), *usdm.play(200, 500)])
    live = usdm.follow(tmp_path, server)
    live.check(server, usdm.oracle, whole=[BTC])
    assert asked[1] - asked[0] >= 1, "not even by the next connection"


@pytest.mark.parametrize("body", ["<html>busy</html>", '{"lastUpdateId":1,"bids":[', "NaN"])
def test_an_answer_that_is_no_json_is_asked_for_again(usdm: Usdm, tmp_path: Path, body: str) -> None:
    usdm.answers = {1: lambda: Answer(body), 2: lambda: Answer("down", 500)}
    server = usdm.server([*usdm.play(0, 100), usdm.asked(3), *usdm.play(100, 300)])
    live = usdm.follow(tmp_path, server)
    live.check(server, usdm.oracle, whole=[BTC])
    assert [r["code"] for r in live.life if r["action"] == RESYNC] == [200, 500, 200]
    assert [r["attempt"] for r in live.life if r["action"] == RESYNC] == [1, 2, 3]


@pytest.mark.parametrize("body", ["[]", '{"code":-1121}', '{"lastUpdateId":"x","bids":[],"asks":[]}'])
def test_json_that_is_no_book_is_asked_for_again_when_the_book_is_late(
    usdm: Usdm, tmp_path: Path, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_feed, "BOOK_LATE_S", 0.3)
    monkeypatch.setattr(live_feed, "LATE_LOOK_S", 0.1)
    usdm.answers = {1: lambda: Answer(body)}
    server = usdm.server([*usdm.play(0, 100), usdm.asked(2), *usdm.play(100, 300)])
    live = usdm.follow(tmp_path, server)
    live.check(server, usdm.oracle, whole=[BTC])


def test_an_answer_cut_off_or_late_is_no_answer(usdm: Usdm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "WHOLE_S", 0.3)
    cut = usdm.oracle.fresh(BTC)

    def late() -> Answer:
        time.sleep(0.6)
        return Answer(usdm.snapshot)

    usdm.answers = {1: lambda: Answer(cut[:1000], headers={"Content-Length": str(len(cut))}), 2: late}
    server = usdm.server([*usdm.play(0, 100), usdm.asked(3), *usdm.play(100, 300)])
    live = usdm.follow(tmp_path, server)
    live.check(server, usdm.oracle, whole=[BTC])
    assert [r["code"] for r in live.life if r["action"] == RESYNC] == [0, 0, 200]


def test_a_snapshot_that_leaves_a_hole_before_the_stream_is_fetched_again_at_once(usdm: Usdm, tmp_path: Path) -> None:
    """The one that comes while the request before it is hardly over is not forgotten."""
    usdm.answers = {1: lambda: Answer(usdm.snapshot), 2: lambda: Answer(usdm.snapshot)}
    skipped = [*map(Lose, usdm.texts[:300])]
    server = usdm.server([*skipped, *usdm.play(300, 400), usdm.asked(3), *usdm.play(400, 700)])
    live = usdm.follow(tmp_path, server)
    live.check(server, usdm.oracle, whole=[BTC])
    assert live.gaps()[reasons.SEQUENCE_GAP] >= 2


def test_a_snapshot_that_lies_behind_the_stream_waits_for_nothing(usdm: Usdm, tmp_path: Path) -> None:
    """Diffs that came before it are dropped as older, and counted."""

    def later() -> Answer:
        await_that(lambda: len(usdm.oracle.tops) > 20)
        return Answer(usdm.oracle.fresh(BTC))

    usdm.answers = {1: later}
    server = usdm.server([*usdm.play(0, 600), usdm.asked(1), Pause(0.3), *usdm.play(600, 900)])
    live = usdm.follow(tmp_path, server)
    live.check(server, usdm.oracle, whole=[BTC])
    assert refused(live, reasons.DEPTH_STALE) >= 15


@pytest.mark.parametrize(("answer", "words", "asked"), [
    (Answer("", 500), "does not answer .status 500. after 5 attempts", 5),
    (Answer("", 404), "does not answer .status 404. after 1 attempt", 1),
    (Answer('{"symbols":['), "does not answer", 5),
    (Answer('{"symbols":[]}'), "binance_usdm has no symbol BTCUSDT", 1),
    (Answer("[]"), "cannot be read", 1),
    (Answer('{"symbols":[{"symbol":"BTCUSDT"}]}'), "cannot be read", 1),
])  # fmt: skip
def test_a_venue_that_does_not_describe_the_symbol_ends_it_in_words(tmp_path: Path, answer: Answer, words: str, asked: int) -> None:
    server = VenueServer([[]], lambda path: answer)
    with pytest.raises(FeedError, match=words):
        followed(tmp_path, server, "binance_usdm", [BTC], stops=False)
    assert len(server.requests) == asked
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "capture").exists(), "it would be in the next attempt's way"


def test_a_configuration_that_describes_some_of_the_symbols_only_is_refused(usdm: Usdm, tmp_path: Path) -> None:
    other = Instrument("ETHUSDT", "binance_usdm", Decimal("0.01"), Decimal("0.001"), "USDT")
    config, origins = resolve(None)
    with VenueServer([[]], usdm.rest).running() as server, pytest.raises(FeedError, match="but not BTCUSDT"):
        follow(
            {"binance_usdm": [BTC]}, msgspec.structs.replace(config, instrument=(other,)), origins, tmp_path / "run",
            ws_url=server.ws_url, rest_url=server.rest_url,
        )  # fmt: skip


@pytest.mark.parametrize(("venue", "symbols", "more", "words"), [
    ("nyse", ["IBM"], {}, "no live venue 'nyse'; there are binance, "),
    ("binance", [], {}, "1 to 100 symbols"),
    ("binance", ["A", "A"], {}, "each once"),
    ("binance", [BTC], {"ws_url": "http://127.0.0.1:1"}, "begins with ws:// or wss://"),
    ("binance", [BTC], {"rest_url": "file:///etc"}, "begins with http:// or https://"),
    ("binance", [BTC], {"rest_url": "http://[::1"}, "is no address"),
    ("binance", [BTC], {"ws_url": "ws://127.0.0.1:70000"}, "is no address"),
])  # fmt: skip
def test_what_is_named_wrongly_is_refused_in_words(tmp_path: Path, venue: str, symbols: list[str], more: dict[str, str], words: str) -> None:
    with pytest.raises(FeedError, match=words):
        follow({venue: symbols}, *resolve(None), tmp_path / "run", capture=tmp_path / "capture", **more)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
