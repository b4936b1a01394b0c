"""One thread, two processes or five: the same input log and the same decisions, byte for byte; and no run leaves anything behind."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import msgspec
import numpy as np
import pytest

from engine.config import Config, LatencyConfig, LineConfig, RuntimeConfig, StrategyConfig
from engine.errors import ConfigError, LineStopped, WorkerDied
from engine.journaling import Batch, RunJournal
from engine.line import build_line, sequence_first_words
from engine.loops import DECIDING
from engine.observe.histogram import COUNTS
from engine.session import Session
from engine.supervisor import WORKERS, PlacedSession
from handlers.ingest.synthetic.feed import START_NS, SyntheticFeed
from transport.instruments import Instrument
from transport.log_reader import LogReader
from transport.records import (
    ACK, AMENDED, BY_EXCHANGE, CANCELLED, CHECKPOINT, EXPIRED, FEATURE, FILL, MAKER, TAKER, joined,
)  # fmt: skip
from transport.segment import SHM

from tests.runs import await_end, state_of

pytestmark = pytest.mark.spawned

PLACED = tuple(WORKERS)
PLACEMENTS = ("fused", *PLACED)
BOTH = (
    StrategyConfig(name="trend", path="momentum", params={"lots": 250, "warmup": 50}),
    StrategyConfig(name="fade", path="mean_reversion", params={"lots": 400, "window": 200, "entry": 1.5}),
)
QUOTER = '''"""Rests at the touch and one behind it, amends, cancels, and takes; asks at timers too."""

import time

from handlers.contract import handler
from handlers.domain.schema import MID, SPREAD
from transport.records import (
    AMEND_ORDER, BUY, CANCEL_ORDER, FEATURE, FILL, IOC, LIMIT_ORDER, PLACE, SELL, TIMER, TRADE,
)


@handler(
    reads=(FEATURE, TIMER, FILL),
    state=[("seen", "i8"), ("order", "i8"), ("side", "i8"), ("price", "i8"), ("bid", "i8"), ("ask", "i8")],
    params=[("lots", "i8")],
    defaults={"lots": 40},
)
def quote(s, p, row, out):
    out.order_type = LIMIT_ORDER
    out.qty_lots = p.lots
    if row.kind == TIMER or row.kind == FILL:
        if s.bid == 0:
            return 0
        out.action, out.side, out.price_ticks = PLACE, BUY if s.seen % 2 else SELL, s.bid if s.seen % 2 else s.ask
        return 1 if row.kind == TIMER or s.seen % 3 else 0
    at = s.seen % 24
    s.seen += 1
    s.bid = int(row.values[MID] - 0.5 * row.values[SPREAD])
    s.ask = int(row.values[MID] + 0.5 * row.values[SPREAD])
    if at == 0:
        s.side = BUY if (s.seen // 24) % 2 == 0 else SELL
        s.price = s.bid if s.side == BUY else s.ask
        s.order = (row.epoch << 48) | (row.seq << 12)
        out.action = PLACE
    elif at == 7:
        s.price = s.bid - 1 if s.side == BUY else s.ask + 1
        out.action, out.order_id, out.qty_lots = AMEND_ORDER, s.order, p.lots + 5
    elif at == 15:
        out.action, out.order_id = CANCEL_ORDER, s.order
    elif at == 19:
        s.price = s.ask if s.side == BUY else s.bid
        out.action, out.tif, out.qty_lots = PLACE, IOC, 3 * p.lots
    else:
        return 0
    out.side, out.price_ticks = s.side, s.price
    return 1


@handler(reads=TRADE, state=[("seen", "i8")], compiled=False)
def fails(s, p, trade, out):
    s.seen += 1
    if s.seen == 700:
        raise ValueError("enough")
    return 0


@handler(reads=TRADE, state=[("seen", "i8")])
def overruns(s, p, trade, out):
    s.seen += 1
    return 2 if s.seen == 700 else 0


@handler(reads=TRADE, state=[("seen", "i8")], compiled=False)
def spins(s, p, trade, out):
    s.seen += 1
    while s.seen == 700:
        pass
    return 0


@handler(reads=FEATURE, compiled=False)
def sleeps(s, p, row, out):
    time.sleep(0.03)
    return 0
'''
Feeds = list[np.ndarray]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the strategies of these tests."""
    folder = tmp_path_factory.mktemp("strategies")
    (folder / "quoter.py").write_text(QUOTER)
    return folder


def feed_rows(seed: int, rows: int, first: int, start_ns: int = START_NS, count: int = 1) -> tuple[list[Instrument], np.ndarray]:
    """A synthetic feed whose instruments are numbered from `first`."""
    feed = SyntheticFeed(seed, rows, count, start_ns)
    feed.bind({i.name: first + n for n, i in enumerate(feed.instruments)}, 16 + first)
    instruments = [msgspec.structs.replace(i, symbol=f"S{first + n}") for n, i in enumerate(feed.instruments)]
    return instruments, joined(*feed.chunks(65536))


def windows(rows: np.ndarray, sizes: Callable[[], int]) -> Iterator[np.ndarray]:
    at = 0
    while at < len(rows):
        n = sizes()
        yield rows[at : at + n]
        at += n


def session_of(
    placement: str, config: Config, instruments: list[Instrument], feeds: list[Iterator[np.ndarray]], base: Path,
    take: Callable[[Batch], None], **options: float,
) -> Session:  # fmt: skip
    built = build_line(config, instruments, len(feeds), 1, base)
    if placement == "fused":
        session = Session(built, feeds, take, 0.0, config.line.timer_origin_ns)
    else:
        session = PlacedSession(placement, built, feeds, take, 0.0, config, base, "test run", 1, **options)
    session.open(lambda ns: sequence_first_words(built, config, ns, 1, 2))
    return session


def run(
    placement: str, config: Config, instruments: list[Instrument], feeds: Feeds, base: Path, folder: Path, sizes: Callable[[], int]
) -> tuple[dict[str, str], Session]:
    """The hashes of a run whose logs are in `folder`."""
    journal = RunJournal(folder, "run", [i.name for i in instruments], None, 1, "write")
    began = time.perf_counter()
    session = session_of(placement, config, instruments, [windows(rows, sizes) for rows in feeds], base, journal.put)
    session.run()
    took = time.perf_counter() - began
    print(f"{placement}: {took:.2f} s, {getattr(session, 'starting_s', 0.0):.2f} of them to start")
    assert not ours_in_shm()
    return journal.close(), session


def ours_in_shm(pid: int | None = None) -> list[str]:
    return sorted(p.name for p in SHM.glob(f"*tickline-{pid or os.getpid()}-*"))


def log_of(folder: Path, name: str) -> np.ndarray:
    with LogReader(folder, name) as log:
        return log.rows(0, log.rows_total)


def difference(one: Path, other: Path) -> str:
    """Where two runs' logs differ first, log by log."""
    for name in ("input", *DECIDING):
        a, b = (log_of(f, name) for f in (one, other))
        same = min(len(a), len(b))
        words = [rows.view(np.uint8).reshape(-1, 128)[:same] for rows in (a, b)]
        differs = np.flatnonzero((words[0] != words[1]).any(axis=1))
        if len(differs):
            return f"{name}: row {differs[0]}: {a[differs[0]]} against {b[differs[0]]}"
        if len(a) != len(b):
            return f"{name}: {len(a)} rows against {len(b)}"
    return ""


def agree(
    config: Config, instruments: list[Instrument], feeds: Feeds, base: Path, folder: Path, runs: int = 1, window: tuple[int, int] = (65536, 65536)
) -> Path:  # fmt: skip
    """Every placement, `runs` times, makes the same logs; returns the folder of the fused one's."""
    chance = random.Random(len(feeds))
    wanted, _ = run("fused", config, instruments, feeds, base, folder / "fused", lambda: chance.randint(*window))
    for k in range(runs):
        for placement in PLACED:
            mine = folder / f"{placement}-{k}"
            hashes, session = run(placement, config, instruments, feeds, base, mine, lambda: chance.randint(*window))
            assert hashes == wanted, f"{placement}: {difference(folder / 'fused', mine)}"
            timed = session.built.line.histograms["bucket"][1:5, :COUNTS].sum(axis=1)
            assert (timed > 0).all(), f"{placement}: no times of {np.flatnonzero(timed == 0)}"
    return folder / "fused"


def test_same_logs_of_a_long_feed_with_two_strategies(tmp_path: Path) -> None:
    instruments, rows = feed_rows(7, 60_000, 0, count=3)
    fused = agree(Config(strategy=BOTH), instruments, [rows], Path(), tmp_path)
    assert len(log_of(fused, "orders")) > 500
    assert set(log_of(fused, "features")["kind"].tolist()) == {CHECKPOINT}


def test_same_logs_of_two_feeds_in_small_windows(tmp_path: Path) -> None:
    instruments, rows = feed_rows(8, 15_000, 0)
    more, other = feed_rows(9, 15_000, 1, START_NS + 777_777)
    config = Config(line=LineConfig(log_features=True, timer_interval_ms=50), strategy=BOTH)
    fused = agree(config, instruments + more, [rows, other], Path(), tmp_path, window=(1, 400))
    assert FEATURE in log_of(fused, "features")["kind"]


def stretched(rows: np.ndarray, times: int) -> np.ndarray:
    """The same market, so many times slower."""
    for name in ("ts_event_ns", "ts_recv_ns"):
        rows[name] = START_NS + (rows[name] - START_NS) * times
    return rows


@pytest.mark.parametrize(
    ("latency", "records", "slower"),
    [
        (LatencyConfig(order_out_us=0, report_back_us=1), 15_000, 1),
        (LatencyConfig(order_out_us=0, order_out_jitter_us=700, report_back_us=1, report_back_jitter_us=2500), 15_000, 1),
        # between two records many orders arrive, and what the reports of one cause overtakes another
        (LatencyConfig(order_out_us=0, order_out_jitter_us=9000, report_back_us=1), 6_000, 50),
    ],
    ids=["short", "jitter", "overtaking"],
)
def test_same_logs_where_the_market_fills_resting_orders(
    latency: LatencyConfig, records: int, slower: int, base: Path, tmp_path: Path
) -> None:
    instruments, rows = feed_rows(11, records, 0, count=2)
    rows = stretched(rows, slower)
    config = Config(
        line=LineConfig(timer_interval_ms=20 * slower),
        latency=latency,
        strategy=(StrategyConfig(name="quoter", path="quoter.py:quote"), *BOTH),
    )
    fused = agree(config, instruments, [rows], base, tmp_path, runs=2)
    inputs = log_of(fused, "input")
    reports = inputs[inputs["source_id"] == BY_EXCHANGE]
    seen = {(int(k), int(a)) for k, a in zip(reports["kind"], reports["action"], strict=True)}
    assert {(FILL, MAKER), (FILL, TAKER), (ACK, CANCELLED), (ACK, AMENDED), (ACK, EXPIRED)} <= seen


@pytest.mark.parametrize("step", ["fails", "overruns"])
def test_a_strategys_fault_stops_every_placement_with_the_same_words(step: str, base: Path) -> None:
    instruments, rows = feed_rows(7, 20_000, 0)
    config = Config(strategy=(StrategyConfig(name="bad", path=f"quoter.py:{step}"),))
    told = {}
    for placement in PLACEMENTS:
        with pytest.raises(LineStopped) as stopped:
            session_of(placement, config, instruments, [iter([rows])], base, lambda batch: None).run()
        told[placement] = str(stopped.value)
        assert not multiprocessing.active_children()
        assert not ours_in_shm()
    assert len(set(told.values())) == 1, told
    assert "strategy bad" in told["fused"] and "at seq" in told["fused"]


@pytest.mark.parametrize(("placement", "victim"), [("split", "line"), ("staged", "risk")])
def test_a_killed_worker_ends_the_run_and_leaves_nothing(placement: str, victim: str) -> None:
    instruments, rows = feed_rows(7, 60_000, 0)
    session = session_of(placement, Config(strategy=BOTH), instruments, [iter([rows])], Path(), lambda batch: None)

    def kill_after_a_while(inputs: int) -> None:
        worker = next((p for p in multiprocessing.active_children() if p.name == victim), None)
        if inputs > 5000 and worker is not None and worker.pid is not None:
            os.kill(worker.pid, signal.SIGKILL)

    with pytest.raises(WorkerDied, match=f"worker {victim} was killed by signal 9"):
        session.run(kill_after_a_while)
    assert not multiprocessing.active_children()
    assert not ours_in_shm()


@pytest.mark.parametrize(("placement", "victim"), [("split", "line"), ("staged", "risk")])
def test_a_stopped_worker_ends_the_run_and_leaves_nothing(placement: str, victim: str) -> None:
    instruments, rows = feed_rows(7, 60_000, 0)
    session = session_of(
        placement, Config(strategy=BOTH), instruments, [iter([rows])], Path(), lambda batch: None, hung_s=0.8
    )
    session.speed = 1.0  # some seconds of records, so that the run is not over before

    def stop_after_a_while(inputs: int) -> None:
        worker = next((p for p in multiprocessing.active_children() if p.name == victim), None)
        if inputs > 1000 and worker is not None and worker.pid is not None and state_of(worker.pid) not in "TX":
            os.kill(worker.pid, signal.SIGSTOP)

    with pytest.raises(WorkerDied, match=rf"worker {victim} has not moved for 0.8 s after seq \d+: ") as died:
        session.run(stop_after_a_while)
    assert died.value.retriable
    assert not multiprocessing.active_children()
    assert not ours_in_shm()


@pytest.mark.parametrize("placement", PLACED)
def test_a_strategy_that_does_not_return_ends_the_run_and_leaves_nothing(placement: str, base: Path) -> None:
    instruments, rows = feed_rows(7, 20_000, 0)
    config = Config(strategy=(StrategyConfig(name="bad", path="quoter.py:spins"),))
    session = session_of(placement, config, instruments, [iter([rows])], base, lambda batch: None, hung_s=0.8)
    worker = "line" if placement == "split" else "signals"
    with pytest.raises(WorkerDied, match=f"worker {worker} has not moved for 0.8 s.* a strategy does not return"):
        session.run()
    assert not multiprocessing.active_children()
    assert not ours_in_shm()


def test_a_slow_strategy_is_not_taken_for_one_that_hangs(base: Path) -> None:
    """What one input takes counts, not what a batch of them does."""
    instruments, rows = feed_rows(7, 200, 0)
    config = Config(strategy=(StrategyConfig(name="slow", path="quoter.py:sleeps"),))
    session = session_of("split", config, instruments, [iter([rows])], base, lambda batch: None, hung_s=0.5)
    began = time.monotonic()
    session.run()
    assert time.monotonic() - began - session.starting_s > 1.0


def test_refuses_a_core_that_this_machine_has_not() -> None:
    instruments, rows = feed_rows(7, 100, 0)
    config = Config(runtime=RuntimeConfig(placement="split", cores=(4095,)))
    with pytest.raises(ConfigError, match="core 4095 is not ours"):
        session_of("split", config, instruments, [iter([rows])], Path(), lambda batch: None).run()
    assert not ours_in_shm()


def _paced_run(told: Path, hung_s: float) -> None:
    """A run at the feed's own speed that writes down its workers' pids."""
    instruments, rows = feed_rows(7, 60_000, 0)
    session = session_of(
        "split", Config(strategy=BOTH), instruments, [iter([rows])], Path(), lambda batch: None, hung_s=hung_s
    )
    session.speed = 1.0

    def tell(inputs: int) -> None:
        if not told.exists():
            pids = [str(p.pid) for p in multiprocessing.active_children()]
            told.with_suffix(".tmp").write_text(" ".join(pids))
            told.with_suffix(".tmp").rename(told)

    session.run(tell)


def paced_run(folder: Path, hung_s: float) -> tuple[BaseProcess, list[int]]:
    """A run in a process of its own that has just begun, and its workers' pids."""
    told = folder / "pids"
    process = multiprocessing.get_context("spawn").Process(target=_paced_run, args=(told, hung_s))
    process.start()
    until = time.monotonic() + 120
    while not told.exists():
        assert process.exitcode is None and time.monotonic() < until
        time.sleep(0.02)
    return process, [int(pid) for pid in told.read_text().split()]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 1), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_signal_to_the_run_ends_its_workers_and_leaves_nothing(
    number: signal.Signals, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    process, workers = paced_run(tmp_path, 10.0)
    assert process.pid is not None
    assert len(workers) == 1
    assert list(temporary.iterdir())
    os.kill(process.pid, number)
    process.join(30)
    assert process.exitcode == status
    await_end(workers)
    assert not ours_in_shm(process.pid)
    assert not list(temporary.iterdir())


def test_a_run_that_was_stopped_with_its_workers_goes_on(tmp_path: Path) -> None:
    """Whoever is woken first does not count the time in which it slept against the others."""
    process, workers = paced_run(tmp_path, 1.0)
    assert process.pid is not None
    for pid in (*workers, process.pid):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(process.pid, signal.SIGCONT)
    time.sleep(0.4)
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    time.sleep(1.0)
    assert process.exitcode is None
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)
    assert process.exitcode == 143
    await_end(workers)
    assert not ours_in_shm(process.pid)
