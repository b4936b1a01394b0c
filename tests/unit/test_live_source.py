"""Lines of a live source: their order, bounds and times, what is said of losses, and the source over a stream that is none."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.domain import reasons
from handlers.ingest.errors import FeedError
from handlers.ingest.live import lines as live_lines
from handlers.ingest.live import source as live_source
from handlers.ingest.live.source import LiveSource
from handlers.ingest.live.lines import WaitingLines
from handlers.ingest.venues.okx import Okx, OkxStream
from handlers.ingest.venues.own_lines import LIFE_URL, MARK, OwnLine, life, opened, read, write
from handlers.ingest.venues.protocol import Refused
from tests.live_session import await_that, nothing_left
from tests.venue_server import Answer, Send, VenueServer
from transport.records import CONNECT_FAILED, CONNECTED, CONNECTING, CONNECTION, DISCONNECTED, OVERRUN, SUBSCRIBED

S = 10**9


class Clocks:
    """The wall's and the monotonic one, set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.run = 1_700_000_000 * S, 50 * S
        monkeypatch.setattr(live_lines, "wall_ns", lambda: self.wall)
        monkeypatch.setattr(live_lines, "monotonic_ns", lambda: self.run)

    def go(self, ns: int, step: int = 0) -> None:
        self.wall += ns + step
        self.run += ns


def waiting() -> WaitingLines:
    return WaitingLines(lambda lost: b"lost %d" % lost, threading.Event())


# --- lines that wait ------------------------------------------------------------------------------------------------------


def test_lines_come_out_in_order_with_the_time_they_came(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks, lines = Clocks(monkeypatch), waiting()
    begin = clocks.wall
    for n in range(3):
        clocks.go(10)
        lines.put(b"%d" % n, droppable=True)
    assert lines.woken.is_set()
    clocks.go(5)
    taken = lines.take(2)
    assert taken.lines == [(begin + 10, b"0"), (begin + 20, b"1")]
    assert taken.until_ns == begin + 30, "the next line is known"
    assert lines.take(2) == ([(begin + 30, b"2")], begin + 35, False, False)


def test_a_clock_that_is_set_back_goes_on_at_half_its_pace_until_it_has_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks, lines = Clocks(monkeypatch), waiting()
    begin = lines.take(1).until_ns
    clocks.go(10 * S, step=-60 * S)
    assert lines.take(1).until_ns == begin + 5 * S
    clocks.go(90 * S)
    assert lines.take(1).until_ns == begin + 50 * S
    clocks.go(20 * S)
    assert lines.take(1).until_ns == clocks.wall == begin + 60 * S
    clocks.go(1, step=3600 * S)
    assert lines.take(1).until_ns == clocks.wall


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(-(10**12), 10**12)), max_size=40))
def test_time_never_goes_back_and_no_line_is_earlier_than_what_was_said(steps: list[tuple[int, int]]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        clocks, lines, said = Clocks(monkeypatch), waiting(), 0
        for n, (ns, step) in enumerate(steps):
            clocks.go(ns, step)
            if n % 2:
                lines.put(b"x")
            taken = lines.take(1)
            times = [at for at, _ in taken.lines]
            assert all(at >= said for at in times)
            assert taken.until_ns >= said
            said = taken.until_ns


def test_what_has_no_room_is_counted_where_it_would_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_lines, "WAITING_MAX", 4)
    lines = waiting()
    for n in range(9):
        lines.put(b"%d" % n, droppable=True)
    lines.put(b"own")
    taken = lines.take(1)
    assert ([b for _, b in taken.lines], taken.resumed) == ([b"0"], False)
    lines.put(b"too early", droppable=True)
    taken = lines.take(4)
    assert ([b for _, b in taken.lines], taken.resumed) == ([b"1", b"2", b"3", b"lost 6"], True)
    lines.put(b"again", droppable=True)
    assert [b for _, b in lines.take(9).lines] == [b"own", b"again"]


def test_losses_on_both_sides_of_their_line_are_all_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_lines, "WAITING_MAX", 2)
    lines, told = waiting(), []
    for n in range(50):
        lines.put(b"%d" % n, droppable=True)
        if n % 3 == 0:
            told += [b for _, b in lines.take(1).lines]
    while taken := lines.take(1).lines:
        told.append(taken[0][1])
    lost = sum(int(b[5:]) for b in told if b.startswith(b"lost"))
    assert lost > 5
    assert lost + sum(not b.startswith(b"lost") for b in told) == 50


def test_bytes_that_wait_are_bounded_and_counted_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_lines, "WAITING_BYTES_MAX", 100)
    lines = waiting()
    for _ in range(20):
        for _ in range(4):
            lines.put(b"x" * 40, droppable=True)
        assert [b[:4] for _, b in lines.take(9).lines] == [b"xxxx", b"xxxx", b"lost"]
        assert lines._bytes == 0


def test_an_empty_message_is_a_line_too() -> None:
    lines = waiting()
    lines.put(b"", droppable=True)
    assert [b for _, b in lines.take(9).lines] == [b" "]


def test_time_stands_after_the_last_line_once_it_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks, lines = Clocks(monkeypatch), waiting()
    lines.put(b"last")
    last = clocks.wall
    lines.close()
    clocks.go(7 * S)
    assert lines.take(9).until_ns == last
    assert not lines.take(9).ended
    clocks.go(7 * S)
    lines.end()
    assert lines.take(9) == ([], last, True, False)


# --- the recorder's own lines -----------------------------------------------------------------------------------------------


def test_own_lines_read_back_as_they_were_written() -> None:
    for line in (
        OwnLine("capture", venue="okx", symbols=["A", "B"]),
        OwnLine("connection", action=OVERRUN, connection=3, attempt=2, code=1006, lost=7, symbol="B"),
        OwnLine("rest", url="https://x/y?z=1", status=200),
    ):
        assert read(write(line)) == line
        assert write(line).startswith(MARK)


def test_a_step_of_the_connection_becomes_its_event() -> None:
    line = opened(5, write(OwnLine("connection", action=OVERRUN, connection=3, attempt=2, code=1006, lost=7, symbol="B")))
    assert line.url == LIFE_URL
    event = life(line, {"A": 0, "B": 1})
    assert (event.kind, event.place, event.recv, event.side) == (CONNECTION, 1, 5, OVERRUN)
    assert (event.seq, event.first, event.previous, event.check) == (1006, 3, 2, 7)
    assert life(opened(5, write(OwnLine("connection", action=DISCONNECTED))), {"A": 0}).place == -1


@pytest.mark.parametrize("body", [
    b'{"tickline":', b'{"tickline":1}', b'{"tickline":"connection","action":0}', b'{"tickline":"connection","action":99}',
    b'{"tickline":"connection","code":-1}', b'{"tickline":"connection","lost":4611686018427387905}', b'{"tickline":"else"}', b'{"tickline":"\xff"}',
    b'{"tickline":"rest","body":' + b"[" * 5000,
])  # fmt: skip
def test_a_damaged_own_line_is_refused(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        opened(1, body)
    assert refused.value.reason in (reasons.WRONG_TYPE, reasons.CONTROL_MESSAGE)


# --- the source over a stream that is none ----------------------------------------------------------------------------------


class Fake(OkxStream):
    """Greets with one word, and pongs with another."""

    ping_s, idle_s = 0.05, 2.0

    def protocol(self) -> Okx:
        return Okx()

    def greetings(self) -> list[str]:
        return ["hello"]

    def ping(self) -> str:
        return "ping"

    def book_messages(self, symbol: str) -> list[str]:
        return [f"book {symbol}"]


def bodies(source: LiveSource) -> list[bytes]:
    return [body for _, body in source.take(10**6).lines]


def actions(lines: list[bytes]) -> list[int]:
    return [own.action for own in (read(b) for b in lines if b.startswith(MARK)) if own.tickline == "connection"]


def test_a_source_greets_pings_and_writes_down_all_but_pongs() -> None:
    server = VenueServer([[Send("pong"), Send("one"), Send("pong"), Send("two")]], lambda path: None)
    with nothing_left(), server.running():
        source = LiveSource(Fake("okx", ["A"], server.ws_url, server.rest_url))
        source.start()
        source.start()
        await_that(lambda: server.heard.count("ping") >= 2)
        source.resync("A")
        await_that(lambda: "book A" in server.heard)
        source.stop()
        lines = bodies(source)
    assert server.heard[0] == "hello"
    assert [b for b in lines if not b.startswith(MARK)] == [b"one", b"two"]
    assert actions(lines)[:3] == [CONNECTING, CONNECTED, SUBSCRIBED]
    assert actions(lines)[-1] == DISCONNECTED
    assert source.take(1).ended


def test_a_book_that_breaks_each_time_is_asked_for_ever_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_source, "RESYNC_SPACING_S", 0.05)
    monkeypatch.setattr(live_source, "RESYNC_LONGEST_S", 0.2)
    server = VenueServer([[]], lambda path: None)
    with nothing_left(), server.running():
        source = LiveSource(Fake("okx", ["A"], server.ws_url, server.rest_url))
        source.start()
        await_that(lambda: source.connected and "hello" in server.heard)
        times: list[float] = []
        while len(times) < 6:
            source.resync("A")
            asked = server.heard.count("book A")
            times += [time.monotonic()] * (asked - len(times))
            time.sleep(0.002)
        source.stop()
    least = [0.05, 0.1, 0.2, 0.2]  # the first was asked for at once, and the second after the shortest pause
    assert all(after - before > pause * 0.8 for before, after, pause in zip(times[1:], times[2:], least, strict=False)), times


def test_a_book_that_stood_for_a_while_is_asked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_source, "RESYNC_SPACING_S", 0.02)
    monkeypatch.setattr(live_source, "STABLE_S", 0.1)
    server = VenueServer([[]], lambda path: None)
    with nothing_left(), server.running():
        source = LiveSource(Fake("okx", ["A"], server.ws_url, server.rest_url))
        source.start()
        await_that(lambda: source.connected and "hello" in server.heard)
        for asked in range(1, 12):  # doubled each time they would take 20 s
            source.resync("A")
            await_that(lambda: server.heard.count("book A") >= asked, 1.0)  # noqa: B023
            time.sleep(0.11)
        source.stop()


def test_an_answer_for_which_there_is_no_room_is_none_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_lines, "WAITING_BYTES_MAX", 400)
    monkeypatch.setattr(live_source, "INSTRUMENT_ATTEMPTS", 1)
    monkeypatch.setattr(Fake, "instrument_urls", lambda self: [f"{self.rest_url}/{n}" for n in range(100)])
    with VenueServer([[]], lambda path: Answer("{}")).running() as server:
        source = LiveSource(Fake("okx", ["A"], server.ws_url, server.rest_url))
        with pytest.raises(FeedError, match="does not answer"):
            source.fetch_instruments(threading.Event())
    lines = bodies(source)
    assert sum(map(len, lines)) <= 400
    assert [read(body).tickline for body in lines] == ["capture"] + ["rest"] * (len(lines) - 1)
    assert 2 <= len(lines) == len(server.requests)


def test_a_source_stopped_before_it_began_has_ended() -> None:
    source = LiveSource(Fake("okx", ["A"], "ws://127.0.0.1:1", "http://127.0.0.1:1"))
    source.stop()
    source.start()
    assert bodies(source)[0].startswith(b'{"tickline":"capture"')
    assert source.take(1).ended
    source.resync("A")


def test_a_source_stopped_at_any_moment_ends_soon_and_tells_its_end() -> None:
    server = VenueServer([[Send("one")]], lambda path: None)
    with nothing_left(), server.running():
        for n in range(25):
            source = LiveSource(Fake("okx", ["A"], server.ws_url, server.rest_url))
            source.start()
            threading.Event().wait(n * 0.0007)
            source.stop()
            told = actions(bodies(source))
            assert source.take(1).ended
            assert not told or told[-1] in (DISCONNECTED, CONNECT_FAILED), told


def test_a_loop_that_cannot_be_closed_holds_up_nobody_who_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is being looked up cannot be cut off, and a loop waits for it when it is closed."""
    found, close = threading.Event(), asyncio.Runner.close
    monkeypatch.setattr(asyncio.Runner, "close", lambda runner: found.wait(5) and close(runner))
    server = VenueServer([[Send("one")]], lambda path: None)
    with nothing_left(), server.running():
        source = LiveSource(Fake("okx", ["A"], server.ws_url, server.rest_url))
        source.start()
        await_that(lambda: "hello" in server.heard)
        source.ask_to_stop()
        lines: list[bytes] = []

        def ended() -> bool:
            lines.extend(bodies(source))
            return source.take(1).ended

        await_that(ended, 3.0)
        assert actions(lines)[-1] == DISCONNECTED
        found.set()
        source.stop()


@pytest.mark.parametrize("method", ["greetings", "is_pong", "book_messages", "url"])
def test_a_bug_in_a_venues_module_is_raised_to_who_takes_the_last_line(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError(method)

    monkeypatch.setattr(Fake, method, bug)
    server = VenueServer([[Send("one")]], lambda path: Answer("{}"))
    with nothing_left(), server.running():
        source = LiveSource(Fake("okx", ["A"], server.ws_url, server.rest_url))
        source.start()
        taken: list[bytes] = []

        def connected() -> bool:
            taken.extend(bodies(source))
            return bool(actions(taken))

        await_that(connected)
        ended = raised_by(source)
        await_that(ended)
        source.stop()


def raised_by(source: LiveSource) -> Callable[[], bool]:
    def looked() -> bool:
        source.resync("A")
        try:
            source.take(100)
        except ZeroDivisionError:
            return True
        return False

    return looked
