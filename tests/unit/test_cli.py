"""The command: instant help, tables that can be trusted, a scaffold that runs, files that say what they should."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.cli import _known_error
from engine.errors import ConfigError, LineBroken, LineStopped, WorkerDied
from engine.export import TABLES, columns_of
from engine.run_folder import new_folder, open_run
from engine.tables import DECIMAL_KINDS, KINDS_OF
from handlers.ingest.synthetic.feed import SyntheticFeed, synthetic_instruments
from transport.errors import StorageError
from transport.records import ACCEPTED, ACK, AFTER_FILL, FILL, REJECT, TRADE

from tests.runs import BOTH_STRATEGIES, ROOT, config_file, done, environment, log_rows, replayed, table, tickline

FEED = "synthetic:30_000:11:2"
HELP_CPU_S = 0.3
# documentation promises these of summary.json
SUMMARY_KEYS = {
    "title", "troubles", "events", "inputs", "orders", "fills", "rejects", "synthetic", "seconds", "seconds_with_journal", "seconds_starting",
    "events_per_second",
    "ingest", "first_offenders", "gaps", "accounts", "pnl", "latency", "latency_sampled_every", "hashes", "code_hash", "placement",
    "python_strategies", "machine",
}  # fmt: skip
VERBS = ("replay", "demo", "verify", "export", "import", "watch", "doctor", "config", "new")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of both strategies over two synthetic instruments, its features logged."""
    folder = tmp_path_factory.mktemp("cli")
    replayed(folder / "run", FEED, config=config_file(folder, BOTH_STRATEGIES))
    return folder / "run"


# --- help ----------------------------------------------------------------------------------------------------------------
def test_help_is_instant_and_names_every_verb() -> None:
    command = [sys.executable, "-m", "engine.cli", "--help"]
    costs = [60.0]
    while min(costs) >= HELP_CPU_S and len(costs) < 20:  # the best of many: a neighbour on the core and its caches only adds
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert said.returncode == 0
    for verb in VERBS:
        assert re.search(rf"\b{verb}\b", said.stdout), verb
    assert min(costs) < HELP_CPU_S, f"{costs} s of CPU"


def test_help_and_configuration_load_neither_numba_nor_torch() -> None:
    script = """
import sys
from engine.cli import main
for args in (["--help"], ["replay", "--help"], ["config"], ["new", "strategy", "--help"]):
    sys.argv = ["tickline", *args]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
print([name for name in ("numba", "llvmlite", "torch", "pyarrow", "numpy") if name in sys.modules])
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment(), timeout=60)
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines()[-1] == "[]"


def test_config_shows_every_value_with_its_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKLINE__RISK__ORDERS_BURST", "7")
    text = done("config", "--config", config_file(tmp_path, "[line]\nseed = 5\n")).out
    assert re.search(r"^seed = 5  # .*config\.toml:2$", text, re.M)
    assert re.search(r"^orders_burst = 7  # env TICKLINE__RISK__ORDERS_BURST$", text, re.M)
    assert re.search(r"^cash = 1000000  # default$", text, re.M)


# --- new strategy --------------------------------------------------------------------------------------------------------
def test_a_new_strategy_runs_and_its_test_passes(tmp_path: Path) -> None:
    said = done("new", "strategy", "leaner", "--folder", tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["leaner.py", "leaner.toml", "test_leaner.py"]
    assert "tickline replay" in said.out
    summary = replayed(tmp_path / "run", "synthetic:30_000", config=tmp_path / "leaner.toml")
    assert summary["fills"] > 0
    assert summary["python_strategies"] == {}, "it is compiled"
    assert done("verify", tmp_path / "run")
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_leaner.py"], cwd=tmp_path, capture_output=True, text=True,
        env=environment(), timeout=120,
    )  # fmt: skip
    assert tested.returncode == 0, tested.stdout
    assert "2 passed" in tested.stdout


def test_a_new_strategy_overwrites_nothing_and_needs_a_name(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("mine")
    taken = [(name, "Python knows already") for name in ("numpy", "signal", "engine")]  # its test would import that instead
    bad = [(name, "no name") for name in ("Mine", "class", "a-b", "", "_mine", "__main__")]
    for name, words in (("mine", "exists already"), *bad, *taken):
        said = tickline("new", "strategy", name, "--folder", tmp_path)
        assert said.code == 2
        assert words in said.err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.toml"]


# --- export --------------------------------------------------------------------------------------------------------------
def test_every_table_is_the_same_in_csv_and_parquet(run: Path, tmp_path: Path) -> None:
    instruments = open_run(run).instruments
    for name in TABLES:
        if name in ("signals", "indicators", "event_features", "factors"):
            continue  # no strategy of this run writes one, and it has no [[feature]] and no factors
        cells = table(run, name)
        assert cells, name
        done("export", run, "--table", name, "--format", "parquet", "--out", tmp_path / name)
        columns = pq.read_table(tmp_path / name).to_pylist()
        assert len(columns) == len(cells)
        for column in columns_of(name, instruments):
            texts = [row[column.name] for row in cells]
            values = [row[column.name] for row in columns]
            if column.kind in DECIMAL_KINDS:
                assert [Decimal(t) if t else None for t in texts] == values, (name, column.name)
                assert all("e" not in t.lower() for t in texts)
            elif column.kind == "float":
                assert [float(t) for t in texts] == values
            else:
                assert texts == ["" if v is None else str(v) for v in values], (name, column.name)


def test_a_table_without_rows_has_its_heading(run: Path) -> None:
    said = done("export", run, "--table", "signals")
    assert said.out == ",".join(c.name for c in columns_of("signals")) + "\n"
    assert "0 rows" in said.err


def test_exported_rows_are_as_many_as_the_run_has(run: Path) -> None:
    opened = open_run(run)
    summary = opened.summary()
    assert len(table(run, "trades")) == summary["events"]["Trade"]
    assert len(table(run, "quotes")) == summary["events"]["Quote"]
    assert len(table(run, "fills")) == summary["fills"] == summary["events"]["Fill"]
    orders, inputs = log_rows(run, "orders"), log_rows(run, "input")
    sent, told = np.isin(orders["kind"], KINDS_OF["orders"]).sum(), np.isin(inputs["kind"], (ACK, REJECT)).sum()
    assert len(table(run, "orders")) == sent + told
    assert told >= summary["orders"], "each was answered"
    assert len(table(run, "pnl")) == np.count_nonzero(orders["action"][orders["kind"] == KINDS_OF["pnl"][0]] == AFTER_FILL)


def test_exported_orders_tell_what_the_exchange_answered_and_every_refusal(tmp_path: Path) -> None:
    limits = "[risk]\nposition_max = 50\norders_per_second_max = 1\norders_burst = 1\n"
    summary = replayed(tmp_path / "run", FEED, config=config_file(tmp_path, limits + BOTH_STRATEGIES))
    rows = table(tmp_path / "run", "orders")
    assert Counter(r["reason"] for r in rows if r["event"] == "REJECT") == summary["rejects"]
    assert len(summary["rejects"]) > 1
    inputs = log_rows(tmp_path / "run", "input")
    accepted = inputs[(inputs["kind"] == ACK) & (inputs["action"] == ACCEPTED)]
    assert len(accepted) > 0
    assert [int(r["seq"]) for r in rows if r["event"] == "ACCEPTED"] == accepted["seq"].tolist()
    assert [int(r["seq"]) for r in rows] == sorted(int(r["seq"]) for r in rows)


def test_exported_trades_have_exact_decimals(run: Path) -> None:
    instruments = {i.name: i for i in synthetic_instruments(2)}
    feed = SyntheticFeed(11, 30_000, 2)
    rows = [row for chunk in feed.chunks(4096) for row in chunk if row["kind"] == TRADE]
    cells = table(run, "trades")
    assert len(cells) == len(rows)
    for row, cell in zip(rows, cells, strict=True):
        instrument = instruments[cell["instrument"]]
        assert Decimal(cell["price"]) == int(row["price_ticks"]) * instrument.tick
        assert Decimal(cell["qty"]) == int(row["qty_lots"]) * instrument.lot
        assert int(cell["ts_event_ns"]) == row["ts_event_ns"]


def test_exported_money_adds_up_to_the_summary(run: Path) -> None:
    summary = open_run(run).summary()
    fills = table(run, "fills")
    assert sum(Decimal(fill["fee"]) for fill in fills) == Decimal(summary["pnl"]["fees"])
    last = table(run, "pnl")[-1]
    assert Decimal(last["total_fees"]) == Decimal(summary["pnl"]["fees"])
    assert Decimal(last["total_realised"]) == Decimal(summary["pnl"]["realised"])
    assert Decimal(last["total_net"]) == Decimal(last["total_realised"]) - Decimal(last["total_fees"])
    for account in summary["accounts"]:
        mine = [f for f in fills if f["instrument"] == account["instrument"] and account["strategy"] == ["momentum", "fade"][int(f["strategy_id"]) - 1]]
        held = sum(Decimal(f["qty"]) if f["side"] == "BUY" else -Decimal(f["qty"]) for f in mine)
        assert held == Decimal(account["position"])
        assert len(mine) == account["fills"]


def test_a_table_or_format_that_is_none_is_told(run: Path, tmp_path: Path) -> None:
    for args, words in (
        ((run, "--table", "candles"), "no table 'candles'"),
        ((run, "--table", "fills", "--format", "xlsx"), "no format 'xlsx'"),
        ((FEED, "--table", "fills"), "replay the feed first"),
        ((FEED, "--table", "candles"), "no table 'candles'"),
    ):
        said = tickline("export", *args, "--out", tmp_path / "out")
        assert said.code == 2
        assert words in said.err
    assert not list(tmp_path.iterdir())


# --- import --------------------------------------------------------------------------------------------------------------
def test_an_imported_feed_replays_as_the_feed(run: Path, tmp_path: Path) -> None:
    facts = done("import", FEED, "--out", tmp_path / "feed.tape", "--json").json
    summary = open_run(run).summary()
    market = sum(summary["events"][kind] for kind in ("Trade", "Quote", "BookDelta", "BookSnapshot"))
    assert facts["rows"] == market
    assert facts["instruments"] == ["AAA.synthetic", "BBB.synthetic"]
    assert facts["refused"] == {}
    config = config_file(tmp_path, BOTH_STRATEGIES)
    by_reference = replayed(tmp_path / "a", tmp_path / "feed.tape", config=config)
    embedded = replayed(tmp_path / "b", tmp_path / "feed.tape", config=config, options=("--embed",))
    for found in (by_reference, embedded):
        assert found["hashes"]["market_hash"] == summary["hashes"]["market_hash"]
        assert found["hashes"]["decision_log_hash"] == summary["hashes"]["decision_log_hash"]
    sizes = [sum(p.stat().st_size for p in (tmp_path / name / "input").iterdir()) for name in ("a", "b")]
    assert sizes[0] < sizes[1] / 10, "rows of the tape are named, not stored"
    for name in ("a", "b"):
        assert "proved: " in done("verify", tmp_path / name).out


# --- what a run leaves ---------------------------------------------------------------------------------------------------
def test_summary_has_the_documented_keys_and_agrees_with_what_was_printed(run: Path, tmp_path: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary) == SUMMARY_KEYS
    assert set(summary["pnl"]) == {
        "currency", "realised", "unrealised", "fees", "net_marked_to_mid", "net_flattened", "max_drawdown",
    }  # fmt: skip
    assert summary["events"]["Fill"] == summary["fills"] == np.count_nonzero(log_rows(run, "input")["kind"] == FILL)
    assert summary["inputs"] == sum(summary["events"].values()) == open_run(run).input_log().rows_total
    assert summary["synthetic"] is True
    printed = replayed(tmp_path / "again", FEED, config=config_file(tmp_path, BOTH_STRATEGIES))
    assert set(printed) == SUMMARY_KEYS | {"run"}
    assert printed["hashes"] == summary["hashes"]


class Loads(HTMLParser):
    """What a page would fetch: every src, href, and url() of it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action", "xlink:href") and value and not value.startswith(("#", "data:")):
                self.found.append(value)


def test_the_report_stands_alone(run: Path) -> None:
    text = (run / "report.html").read_text()
    page = Loads()
    page.feed(text)
    assert page.found == []
    assert not re.search(r"(?:@import|url\()\s*['\"]?(?!#|data:)", text)
    assert not re.search(r"https?://(?!www\.w3\.org/)", text)
    assert open_run(run).summary()["hashes"]["decision_log_hash"] in text
    assert "<svg" in text
    assert "risk.stale_data_ms" in text, "the configuration, with where each value came from"


def test_a_replay_for_people_says_where_the_run_is_and_how_to_prove_it(tmp_path: Path) -> None:
    said = done("replay", "synthetic:5000", "--out", tmp_path / "run")
    assert "report.html" in said.out
    assert "tickline verify" in said.out


def test_runs_without_a_name_that_start_at_once_get_a_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as many:
        folders = list(many.map(lambda _: new_folder(None), range(64)))
    assert sorted(map(str, folders)) == [f"runs/{number:04d}" for number in range(1, 65)]


def test_a_run_without_a_name_is_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in ("0001", "0002"):
        assert done("replay", "synthetic:2000", "--json").json["run"] == f"runs/{number}"
        assert (tmp_path / "runs" / number / "summary.json").is_file()


def test_the_demo_replaces_only_a_run(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "mine.txt").write_text("mine")
    assert tickline("demo", "--out", tmp_path / "demo", "--rows", "5000").code == 2
    (tmp_path / "demo" / "run.json").write_text('{"scripts": "another program\'s"}')
    assert tickline("demo", "--out", tmp_path / "demo", "--rows", "5000").code == 2
    assert (tmp_path / "demo" / "mine.txt").is_file()
    for _ in range(2):
        done("demo", "--out", tmp_path / "ours", "--rows", "20_000".replace("_", ""))
    assert open_run(tmp_path / "ours").summary()["synthetic"] is True


def test_doctor_speaks_json() -> None:
    said = tickline("doctor", "--json")
    found = json.loads(said.out)
    assert found
    assert said.code in (0, 1)


def test_the_installed_command_is_this_one() -> None:
    command = Path(sys.executable).with_name("tickline")
    if not command.exists():
        pytest.skip("the project is not installed in this environment")
    said = subprocess.run([command, "--help"], capture_output=True, text=True, cwd=ROOT, env=dict(os.environ), timeout=60)
    assert said.returncode == 0
    assert "replay" in said.stdout


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LineStopped("a strategy", 7), 1),
        (LineBroken("an assertion", 7, "where"), 4),
        (ConfigError("a key"), 2),
        (WorkerDied("worker risk was killed"), 3),
        (StorageError("disk full"), 3),
        (OSError(28, "no space"), 3),
        (ZeroDivisionError("a bug"), None),
    ],
)
def test_what_a_user_can_act_on_has_an_exit_code_and_a_bug_has_none(error: Exception, code: int | None) -> None:
    assert _known_error(error) == code
