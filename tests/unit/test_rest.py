"""GETs of a venue's REST interface: what comes back whatever the other side does, and how long to wait."""

from __future__ import annotations

import gc
import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.ingest.live import rest


@contextmanager
def answering(*parts: bytes, pause_s: float = 0.0, stay: bool = False) -> Iterator[str]:
    """Address of a server that answers one connection with `parts`, then closes it, or stays silent."""
    server = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        peer, _ = server.accept()
        with peer, suppress(OSError):
            peer.recv(1 << 16)
            for part in parts:
                peer.sendall(part)
                over.wait(pause_s)
            if stay:
                over.wait(5)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/x"
    finally:
        over.set()
        server.close()
        thread.join(5)


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]).encode() + body


def test_a_good_answer_is_its_status_and_body() -> None:
    with answering(answer("200 OK", b'{"a":1}')) as url:
        assert rest.get(url) == rest.Answer(200, b'{"a":1}', 0.0)


def test_a_refusal_bears_when_to_come_again() -> None:
    with answering(answer("429 Too Many", b"slowly", "Retry-After: 7")) as url:
        assert rest.get(url) == rest.Answer(429, b"slowly", 7.0)
    with answering(answer("404 Not Found", b"", "Retry-After: 7")) as url:
        assert rest.get(url) == rest.Answer(404, b"", 0.0)


def test_a_refusal_whose_reason_does_not_come_is_still_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "TIMEOUT_S", 0.2)
    with answering(b"HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nContent-Length: 99\r\n\r\nhal", stay=True) as url:
        assert rest.get(url)[::2] == (503, 3.0)


@pytest.mark.parametrize("parts", [
    (b"",), (b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\nhalf",), (b"SSH-2.0-x\r\n\r\n",),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal",), (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/hostname\r\n\r\n",),
])  # fmt: skip
def test_an_answer_that_is_broken_is_none_and_says_why(parts: tuple[bytes, ...]) -> None:
    with answering(*parts) as url:
        found = rest.get(url)
    assert found.status == (302 if b"302" in parts[0] else 0)
    assert found.body or found.status
    assert found.after_s == 0


def test_an_answer_that_is_too_long_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "BODY_BYTES_MAX", 10)
    with answering(answer("200 OK", b"x" * 11)) as url:
        assert rest.get(url) == rest.Answer(0, b"the answer is too long")


def test_who_asks_says_how_long_an_answer_may_be() -> None:
    found: queue.SimpleQueue[rest.Answer] = queue.SimpleQueue()
    with answering(answer("200 OK", b"x" * 11)) as url:
        rest.Request(url, found.put, 11).start()
        assert found.get(timeout=5) == rest.Answer(200, b"x" * 11)
    with answering(answer("200 OK", b"x" * 11)) as url:
        rest.Request(url, found.put, 10).start()
        assert found.get(timeout=5) == rest.Answer(0, b"the answer is too long")


def test_an_answer_that_comes_byte_by_byte_is_given_up_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "WHOLE_S", 0.3)
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n", *[b"x"] * 90, pause_s=0.05) as url:
        assert rest.get(url) == rest.Answer(0, b"the answer took too long")
        until = time.monotonic() + 2
        while any(t.name == "rest" for t in threading.enumerate()):
            assert time.monotonic() < until, "its thread goes on"
            time.sleep(0.01)
    gc.collect()


def test_nobody_waits_for_an_answer_after_stop() -> None:
    stop = threading.Event()
    with answering(stay=True) as url:
        threading.Timer(0.1, stop.set).start()
        began = time.monotonic()
        assert rest.get(url, stop) == rest.Answer(0, b"it was not waited for")
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "http://no-such-name.invalid/", "x", "", "http://", "http://[::1", "https://127.0.0.1:1/x", "mailto:x"])
def test_an_address_where_nobody_answers_is_no_answer_with_its_reason(url: str) -> None:
    found = rest.get(url)
    assert found.status == 0
    assert found.body


def test_an_environments_proxy_is_not_asked_for_the_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with answering(answer("200 OK", b"1")) as url:
        assert rest.get(url).status == 200


@pytest.mark.parametrize(("text", "seconds"), [
    ("0", 0), ("3", 3), (" 3 ", 3), ("2.5", 2.5), ("-4", 0), ("1e9", 300), ("inf", 300), ("-inf", 0), ("nan", 0), ("", 0), ("soon", 0), ("3 seconds", 0),
    ("Fri, 31 Dec 1999 23:59:59 GMT", 0), ("Fri, 31 Dec 9999 23:59:59 GMT", 300), ("Fri, 31 Dec 1999 23:59:59 -0000", 0), ("Fri, 99 Dec", 0),
])  # fmt: skip
def test_retry_after_is_seconds_or_a_date_and_bounded(text: str, seconds: float) -> None:
    assert rest.retry_after(text, 429) == seconds
    assert rest.retry_after(text, 500) == 0


def test_retry_after_a_date_is_the_time_until_then() -> None:
    then = datetime.now(UTC) + timedelta(seconds=100)
    assert 97 < rest.retry_after(format_datetime(then, usegmt=True), 503) <= 100


@given(st.text(max_size=60) | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,12} \d\d:\d\d:\d\d ([+-]\d{4,9}|GMT)", fullmatch=True))
def test_retry_after_never_raises_and_never_leaves_its_bounds(text: str) -> None:
    assert 0 <= rest.retry_after(text, 418) <= rest.AFTER_MAX_S


def test_back_off_doubles_up_to_its_bound_and_never_is_nothing() -> None:
    for attempt in range(1, 200):
        bound = min(rest.LONGEST_S, rest.FIRST_S * 2 ** (attempt - 1))
        drawn = [rest.back_off_s(attempt) for _ in range(20)]
        assert all(bound / 10 <= s <= bound for s in drawn)
        assert len(set(drawn)) > 1


def test_a_file_is_never_read_for_an_address(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    assert rest.get(f"file://{tmp_path}/secret").status == 0
