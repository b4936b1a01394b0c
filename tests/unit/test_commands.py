"""The commands beside replay, verify and export of a run: what they say to people and to programs, and the options each has."""

from __future__ import annotations

import gzip
import json
import os
import re
import threading
from decimal import Decimal
from pathlib import Path

import pytest

from engine.doctor import PROBES
from engine.observe import counters as counting
from engine.observe import watch as watching
from engine.observe.counters import Counters
from engine.run_folder import open_run
from engine.verify import verify
from tests.runs import BOTH_STRATEGIES, ROOT, config_file, done, replayed, table, tickline
from tests.unit.capture_lines import quote, trade
from transport import disk
from transport.tape import Tape

GRID = """
[[instrument]]
symbol = "BTCUSDT"
venue = "binance_usdm"
tick = 0.05
lot = 0.0005
"""


# --- watch -----------------------------------------------------------------------------------------------------------------
@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shared memory of a machine of our own, where no other run is."""
    look = counting.observed
    for module in (counting, watching):
        monkeypatch.setattr(module, "observed", lambda: look(tmp_path))
    return tmp_path


def test_watch_says_that_there_is_no_run(machine: Path) -> None:
    said = done("watch")
    assert (said.out.strip(), said.err) == ("", "no run on this machine\n")
    assert done("watch", "--json").json == {}


def test_watch_shows_the_runs_until_the_last_has_ended(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    counters = Counters.create("mine", machine)
    counters.store({"inputs": 12_345, "fills": 7})
    end = threading.Timer(0.3, counters.__exit__)
    end.start()
    said = done("watch")
    end.join()
    assert "no run" not in said.err
    for word in ("mine", "12,345", "inputs/s", "fills"):
        assert word in said.out, said.out
    assert counting.published(machine) == []


def test_watch_tells_a_program_once_what_every_run_has_counted(machine: Path) -> None:
    with Counters.create("mine", machine) as counters:
        counters.store({"inputs": 5, "orders": 2})
        (told,) = done("watch", "--json").json.values()
    assert (told["inputs"], told["orders"], told["fills"]) == (5, 2, 0)
    assert set(told) == set(counting.NAMES)


# --- doctor ----------------------------------------------------------------------------------------------------------------
def test_doctor_tells_people_every_finding_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    said, told = tickline("doctor"), json.loads(tickline("doctor", "--json").out)
    assert [finding["name"] for finding in told] == list(PROBES)
    for finding in told:
        (line,) = (line for line in said.out.splitlines() if re.match(rf"\s*{finding['status']} +{re.escape(finding['name'])}  ", line))
        assert finding["fix"] in line
    assert said.code == (1 if "missing" in {finding["status"] for finding in told} else 0)


# --- demo ------------------------------------------------------------------------------------------------------------------
def test_the_demo_of_another_seed_is_another_market_and_the_same_each_time(tmp_path: Path) -> None:
    hashes = {}
    for name, seed in (("one", 8), ("again", 8), ("other", 9)):
        said = done("demo", "--rows", "5000", "--seed", str(seed), "--out", tmp_path / name)
        assert "report.html" in said.out
        hashes[name] = open_run(tmp_path / name).summary()["hashes"]
    assert hashes["one"] == hashes["again"]
    assert hashes["one"]["market_hash"] != hashes["other"]["market_hash"]
    plain = replayed(tmp_path / "plain", "synthetic:5000:8:3", config=ROOT / "engine" / "demo.toml")
    assert plain["hashes"]["decision_log_hash"] == hashes["one"]["decision_log_hash"]
    said = tickline("demo", "--rows", "5000", "--seed", "-1", "--out", tmp_path / "one")
    assert said.code == 2
    assert open_run(tmp_path / "one").summary()["hashes"] == hashes["one"], "what it would have replaced is there still"


# --- import and export of a feed, on a grid of one's own -------------------------------------------------------------------
@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """Three trades, of which one is at a price that the configured tick does not have."""
    lines = [quote(0, 1), trade(1000, 1, "100.1", "0.5"), trade(2000, 2, "100.12", "0.5"), trade(3000, 3, "100.15", "0.25")]
    path = tmp_path / "capture.gz"
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    return path


def test_import_takes_ticks_and_lots_from_the_configuration(capture: Path, tmp_path: Path) -> None:
    config = config_file(tmp_path, GRID)
    facts = done("import", capture, "--out", tmp_path / "own.tape", "--config", config, "--json").json
    assert (facts["rows"], facts["refused"]) == (3, {"PRICE_OFF_GRID": 1})
    with Tape.open(tmp_path / "own.tape") as tape:
        (instrument,) = tape.instruments
        assert (instrument.tick, instrument.lot) == (Decimal("0.05"), Decimal("0.0005"))
        assert tape.rows["price_ticks"][1:].tolist() == [2002, 2003]
        assert tape.rows["qty_lots"][1:].tolist() == [1000, 500]
    said = done("import", capture, "--out", tmp_path / "guessed.tape")
    assert "4 records of BTCUSDT.binance_usdm" in said.out
    said = done("import", capture, "--out", tmp_path / "told.tape", "--config", config)
    assert "PRICE_OFF_GRID: 1" in said.out


def test_export_of_a_feed_takes_ticks_and_lots_from_the_configuration(capture: Path, tmp_path: Path) -> None:
    guessed = table(capture, "trades")
    assert [Decimal(row["price"]) for row in guessed] == [Decimal("100.1"), Decimal("100.12"), Decimal("100.15")]
    own = table(capture, "trades", "--config", config_file(tmp_path, GRID))
    assert [(Decimal(row["price"]), Decimal(row["qty"])) for row in own] == [
        (Decimal("100.1"), Decimal("0.5")), (Decimal("100.15"), Decimal("0.25")),
    ]  # fmt: skip
    said = tickline("export", capture, "--table", "trades", "--config", tmp_path / "none.toml")
    assert said.code == 2
    assert "none.toml: cannot be read" in said.err


# --- durability ------------------------------------------------------------------------------------------------------------
def test_a_run_that_survives_a_power_loss_is_the_same_run_and_is_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = "synthetic:20000:11:2"
    plain = replayed(tmp_path / "write", feed, config=config_file(tmp_path, BOTH_STRATEGIES))
    synced: set[Path] = set()
    real = disk.os.fsync
    monkeypatch.setattr(disk.os, "fsync", lambda fd: (synced.add(Path(os.readlink(f"/proc/self/fd/{fd}"))), real(fd))[1])
    config = config_file(tmp_path, BOTH_STRATEGIES + '\n[journal]\ndurability = "fsync"\n', "fsync.toml")
    durable = replayed(tmp_path / "fsync", feed, config=config)
    run = tmp_path / "fsync"
    names = {path.name.removesuffix(".tmp") for path in synced if path.parent == run and not path.is_dir()}
    assert names == {"run.json", "environment.json", "config.toml", "summary.json"}, "without them no log can be read"
    logs = ("input", "features", "signals", "risk", "orders")
    assert synced >= {tmp_path, run, run / "blobs", *(run / log for log in logs), *(run / log / "00000000.open" for log in logs)}
    assert durable["hashes"] == plain["hashes"]
    assert open_run(run).config().journal.durability == "fsync"
    assert verify(run).proved
