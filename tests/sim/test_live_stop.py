"""A live session that is told to stop, in every phase, and one that finds nobody to connect to."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.config import resolve
from engine.live import follow
from engine.replay import run_feeds
from handlers.ingest.errors import FeedError
from handlers.ingest.live import rest
from tests.live_session import Live, nothing_left
from tests.live_venues import BTC, INFO, Usdm
from tests.venue_server import Answer, Refuse, Step, VenueServer
from transport.records import CONNECT_FAILED, CONNECTING, DISCONNECTED

pytestmark = pytest.mark.usefixtures("hurried")


def test_stop_before_anything_was_asked(usdm: Usdm, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(FeedError, match="was not waited for"):
        usdm.follow(tmp_path, VenueServer([[]], lambda path: Answer(INFO)), stop=stop, stops=False)


@pytest.mark.parametrize("phase", ["before connecting", "backing off", "told to come later", "handshake", "request", "silent"])
def test_stop_ends_every_phase_at_once_with_a_whole_run_folder(
    usdm: Usdm, tmp_path: Path, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, told = threading.Event(), threading.Event()
    script: list[Step] = [*usdm.play(0, 20)]
    if phase == "before connecting":
        monkeypatch.setattr("engine.live.run_feeds", _stopped_first(stop))
    elif phase == "backing off":
        monkeypatch.setattr(rest, "LONGEST_S", 300.0)
        monkeypatch.setattr(rest, "back_off_s", lambda attempt: 300.0)
        script = [Refuse(403)]
    elif phase == "told to come later":
        script = [Refuse(503, {"Retry-After": "300"})]
    elif phase == "request":
        usdm.answers = {1: lambda: Answer(str(told.wait(8)))}
    server = usdm.server(script)
    if phase == "handshake":
        monkeypatch.setattr(server, "_answer", _hangs(server._answer, told))

    def ready(written: Callable[[str | bytes], bool]) -> bool:
        went = {"before connecting": True, "backing off": server.connections > 0, "told to come later": server.connections > 0}
        return went.get(phase, told.is_set() if phase == "handshake" else usdm.books > 0 and written(usdm.texts[19]))

    began: list[float] = []

    def until(written: Callable[[str | bytes], bool]) -> bool:
        if ready(written):
            time.sleep(0.1)
            began.append(time.monotonic())
        return bool(began)

    if phase == "request":
        threading.Timer(2.6, told.set).start()
    live = usdm.follow(tmp_path, server, ready=until, stop=stop)
    ended = (live.done.folder / "summary.json").stat().st_mtime - time.time() + time.monotonic()
    assert ended - began[0] < 2.4
    live.check(server, usdm.oracle)
    assert (live.actions()[-1:] or [DISCONNECTED]) in ([DISCONNECTED], [CONNECT_FAILED])


def _stopped_first(stop: threading.Event) -> Callable[..., object]:
    def run(*args: object, **more: object) -> object:
        stop.set()
        return run_feeds(*args, **more)  # type: ignore[arg-type]

    return run


def _hangs(answer: Callable[..., object], told: threading.Event) -> Callable[..., object]:
    async def hanging(connection: object, request: object) -> object:
        if "Upgrade" in request.headers:  # type: ignore[attr-defined]
            told.set()
            await asyncio.sleep(1.5)
        return await answer(connection, request)  # type: ignore[misc]

    return hanging


def test_no_address_no_name_and_no_tls_are_failed_attempts(usdm: Usdm, tmp_path: Path) -> None:
    server = usdm.server([usdm.play(0, 10)])
    for n, ws_url in enumerate(("ws://127.0.0.1:9", "ws://no-such-name.invalid", "wss:")):
        stop = threading.Event()
        with nothing_left(), server.running():
            threading.Timer(0.4, stop.set).start()
            url = server.ws_url.replace("ws:", ws_url) if ws_url == "wss:" else ws_url
            capture = tmp_path / str(n) / "capture"
            capture.parent.mkdir()
            done = follow({"binance_usdm": [BTC]}, *resolve(None), tmp_path / str(n) / "run", capture=capture, ws_url=url, rest_url=server.rest_url, stop=stop)
        live = Live(done, capture)
        live.check(server, usdm.oracle)
        assert set(live.actions()) <= {CONNECTING, CONNECT_FAILED, DISCONNECTED}
        assert live.actions()[:2] == [CONNECTING, CONNECT_FAILED]
        assert not live.life[1]["code"]
