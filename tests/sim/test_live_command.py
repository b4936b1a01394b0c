"""`tickline record` and `tickline paper` as processes: how they end, and what is left when they are killed."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.run_folder import open_run
from engine.verify import verify
from tests.live_session import await_that
from tests.runs import BOTH_STRATEGIES, config_file, done, environment, log_rows, replayed, tickline
from tests.live_venues import BTC, Usdm
from tests.venue_server import Answer, Pause, VenueServer
from transport.records import CONNECTION, DISCONNECTED


class Process:
    """`tickline ARGS` under way."""

    def __init__(self, *args: str | Path) -> None:
        command = [sys.executable, "-m", "engine.cli", *map(str, args)]
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())

    def ended(self, timeout_s: float = 30) -> tuple[int, str, str]:
        try:
            out, err = self.child.communicate(timeout=timeout_s)
        finally:
            self.child.kill()
        return self.child.returncode, out, err


@pytest.fixture
def usdm(data_dir: Path) -> Usdm:
    return Usdm(data_dir, 1200)


@pytest.fixture
def server(usdm: Usdm) -> Iterator[VenueServer]:
    """Plays a little, then a message every 10 ms."""
    with usdm.server([*usdm.play(0, 600), *(step for s in usdm.play(600) for step in (s, Pause(0.01)))]).running() as server:
        yield server


def addresses(server: VenueServer) -> list[str]:
    return ["--ws-url", server.ws_url, "--rest-url", f"{server.rest_url}/fapi/v1"]


def recorder(server: VenueServer, folder: Path, *more: str, capture: str = "capture") -> Process:
    where = ("--out", folder / capture, "--run", folder / "run")
    return Process("record", "--venue", "binance_usdm", "--symbols", BTC, *where, *addresses(server), *more)


def flows(folder: Path, server: VenueServer) -> None:
    """Wait until the messages of after the start are being written down."""
    await_that(lambda: len(server.sent) > 620 and (folder / "capture").exists() and len((folder / "capture").read_bytes()) > 100_000)


def market(rows: np.ndarray) -> list[bytes]:  # type: ignore[type-arg]
    """Feed records, without what the sequencer gives them."""
    mine = rows[rows["source_id"] >= 4].copy()
    mine["seq"] = mine["ts_seq_ns"] = mine["epoch"] = 0
    return [r.tobytes() for r in mine]


def test_record_follows_for_as_long_as_it_is_told(server: VenueServer, tmp_path: Path) -> None:
    code, out, err = recorder(server, tmp_path, "--for", "0.5", "--json", capture="capture.gz").ended()
    assert code == 0, err
    told = json.loads(out)
    again = replayed(tmp_path / "again", tmp_path / "capture.gz")
    assert again["hashes"] == told["hashes"]
    assert verify(tmp_path / "run").proved
    assert gzip.decompress((tmp_path / "capture.gz").read_bytes()).count(b"\n") > 600


def test_a_signal_ends_a_recording_in_order(server: VenueServer, tmp_path: Path) -> None:
    process = recorder(server, tmp_path)
    flows(tmp_path, server)
    process.child.send_signal(signal.SIGINT)
    code, out, err = process.ended()
    assert code == 0, err
    assert f"again: tickline replay {tmp_path / 'capture'}" in out
    rows = log_rows(tmp_path / "run", "input")
    assert rows[rows["kind"] == CONNECTION][-1]["action"] == DISCONNECTED
    assert replayed(tmp_path / "again", tmp_path / "capture")["hashes"] == json.loads((tmp_path / "run" / "summary.json").read_text())["hashes"]


def test_a_second_signal_interrupts(server: VenueServer, tmp_path: Path) -> None:
    process = recorder(server, tmp_path)
    flows(tmp_path, server)
    process.child.send_signal(signal.SIGSTOP)  # so that both are there when it looks
    process.child.send_signal(signal.SIGINT)
    process.child.send_signal(signal.SIGTERM)
    process.child.send_signal(signal.SIGCONT)
    code, _, err = process.ended()
    assert code in (130, 143), err
    assert "what was journaled until then stays readable" in err
    assert len(log_rows(tmp_path / "run", "input"))


def test_a_signal_before_the_venue_has_answered_interrupts(tmp_path: Path) -> None:
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        over = threading.Event()
        with VenueServer([[]], lambda path, over=over: Answer(str(over.wait(5)))).running() as server:  # type: ignore[misc]
            process = recorder(server, tmp_path)
            await_that(lambda: bool(server.requests))
            process.child.send_signal(number)
            assert process.ended()[0] == code
            over.set()
        assert not list(tmp_path.iterdir())


def test_a_recording_that_is_killed_stays_readable_up_to_then(server: VenueServer, tmp_path: Path) -> None:
    process = recorder(server, tmp_path)
    flows(tmp_path, server)
    time.sleep(0.3)  # a batch of the journal is 0.1 s
    process.child.kill()
    process.ended()
    journaled = market(log_rows(tmp_path / "run", "input"))
    replayed(tmp_path / "again", tmp_path / "capture")
    again = market(log_rows(tmp_path / "again", "input"))
    assert len(journaled) > 1000
    assert journaled == again[: len(journaled)]


def test_paper_trades_on_a_live_feed_and_its_run_is_proved(server: VenueServer, tmp_path: Path) -> None:
    config = config_file(tmp_path, BOTH_STRATEGIES)
    process = Process("paper", f"binance_usdm:{BTC}", "--config", config, "--out", tmp_path / "run", "--capture", tmp_path / "capture", *addresses(server))
    flows(tmp_path, server)
    process.child.send_signal(signal.SIGTERM)
    code, _, err = process.ended()
    assert code == 0, err
    assert len(open_run(tmp_path / "run").instruments) == 1
    assert verify(tmp_path / "run").proved
    summary = replayed(tmp_path / "again", tmp_path / "capture", config=config)
    assert summary["hashes"] == json.loads((tmp_path / "run" / "summary.json").read_text())["hashes"]
    assert done("verify", tmp_path / "again").code == 0


def test_what_cannot_be_followed_is_told_in_words_with_its_exit_code(tmp_path: Path) -> None:
    for args, code, words in (
        (("paper", "nyse:IBM", "--out", tmp_path / "run"), 2, "no live venue 'nyse'"),
        (("paper", "binance", "--out", tmp_path / "run"), 2, "is not VENUE:SYMBOL"),
        (("record", "--symbols", BTC, "--out", tmp_path / "no" / "such"), 2, "cannot be written"),
    ):
        said = tickline(*args)  # type: ignore[misc]
        assert (said.code, words in said.err) == (code, True), said.err
