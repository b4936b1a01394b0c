"""The code of the line's own loops: no memory taken, no libm, no liberty with floats, nothing of Python's, no call off a list."""

from __future__ import annotations

import ast
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.config import Config
from engine.journaling import MarketHash, market_words
from engine.line import build_line, load_kernels
from engine.loops import run_fused, run_logged
from engine.ring_loops import run_ingest
from engine.worker_loop import run_worker
from engine.workers import load_ring_kernels
from handlers.ingest.bounds import hold_to_bounds
from handlers.ingest.venues.binance_kernels import scan_messages
from handlers.features.at_universe import step_universe
from handlers.features.catalogue import INDICATORS
from handlers.features.declare import BAR_INPUT, Feature
from handlers.features.feature_set import FeatureSet, run_features, update_features
from handlers.ingest.venues.checksums import fold_levels, kraken_checksum, okx_checksum, trim
from handlers.ingest.clocks import read_clocks
from handlers.ingest.dbn.levels import write_levels
from handlers.ingest.dbn.orders import find_gaps, move_ends
from handlers.ingest.dbn.walk import find_records
from handlers.ingest.venues.kraken import Facts, KrakenRule
from handlers.ingest.lean.text import scan_lines as scan_lean_lines
from handlers.ingest.venues.levels import MESSAGE, write_rows
from handlers.ingest.venues.line_kernels import find_bodies, read_times
from handlers.ingest.venues.okx import OkxRule
from handlers.ingest.tables.parquet_cells import counts_to_times, doubles_to_units, finish_rows, scale_column, texts_to_words
from handlers.ingest.synthetic.feed import SyntheticFeed
from handlers.ingest.synthetic.flow import generate
from handlers.ingest.tables.cells import decode_lines, scan_lines
from handlers.ingest.tables.events import mark_events
from handlers.ingest.tables.plan import add_names
from handlers.signals.loading import BUILT_IN, compile_step
from tests.tidy.ir import code_of
from tests.tidy.source import PACKAGES, functions_of, imports_of, is_compiled, python_files, tree_of
from tests.unit.made_tables import HEAD, T0, TRADES, of_text, opened, rows_of
from transport.clock import cycles_now
from transport.compiled import load
from transport.instruments import Instrument
from transport.pack import pack_words, unpack_words
from transport.records import empty
from transport.reference import copy_run, materialise, take_runs

# Counts of the arrays that Python handed in: they stay owned by the caller, so none is freed. `borrow` spares run_fused even these.
COUNTS = frozenset(("NRT_incref", "NRT_decref"))
WAITS = frozenset(("sched_yield", "usleep"))  # transport/wait.py: a worker that has nothing to do
LOOPS = {"run_fused": frozenset(), "run_logged": COUNTS, "run_ingest": COUNTS | WAITS, "run_worker": COUNTS | WAITS}
TABLES = (decode_lines, scan_lines, add_names, mark_events, counts_to_times, doubles_to_units, finish_rows, scale_column, texts_to_words)
SIGNED = (fold_levels, trim, okx_checksum, kraken_checksum)
BESIDE = (
    *SIGNED, hold_to_bounds, scan_messages, read_times, find_bodies, write_rows, write_levels, find_records, find_gaps, move_ends, read_clocks, scan_lean_lines, cycles_now, pack_words, unpack_words,
    copy_run, materialise, take_runs, market_words,
    generate, step_universe,
)  # fmt: skip
# Kernels that Python calls and that are not read by themselves: they stand in the loops as well, or never decide anything.
IN_THE_LOOPS = {"consumer_cell", "head", "load_cell", "push_first", "seek_first", "store_cell", "swap_cell", "tail"}
# Those of factor panels and of the checks of data are read in tests/property/test_factors.py and test_quality.py.
READ_ELSEWHERE = {"rank_ics", "spreads", "step_panel", "judge", "rebuild"}
NOT_OF_THE_LINE = {"_read_pair", "first_refused", "fold_tops", "merge_rows", "take_what_is_left"}


pytestmark = pytest.mark.timeout(900)  # who comes first compiles the whole line


@pytest.fixture(scope="module")
def loops() -> dict[str, Any]:
    """The loops, compiled or loaded as a run does it."""
    load_kernels()
    load_ring_kernels()
    run_logged(build_line(Config(), (), 0, 1, Path()).line, empty(1), 0, 0)
    return {loop.__name__: loop for loop in (run_fused, run_logged, run_ingest, run_worker)}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_calls_nothing_off_its_list_and_takes_no_liberty(loops: dict[str, Any], name: str) -> None:
    code = code_of(loops[name])
    assert any(called.startswith("llvm.memset") for called in code.calls)  # it was read
    assert code.foreign() <= LOOPS[name]
    assert not code.flags


@pytest.mark.parametrize("kernel", BESIDE, ids=lambda kernel: kernel.__name__)
def test_the_kernels_of_journal_clock_and_feeds_call_nothing(kernel: Any) -> None:
    MarketHash(["BTCUSDT"]).update(empty(1))  # this and the next are compiled at their first call
    next(iter(SyntheticFeed(seed=1, rows=1000).chunks(1000)))
    if kernel in SIGNED:
        instrument = Instrument("BTC-USDT", "okx", Decimal("0.1"), Decimal("0.01"))
        for rule in (OkxRule(instrument), KrakenRule(Facts(10, 5, 8), instrument)):
            rule.start(np.zeros(1, MESSAGE)[0], empty(1))
    if hasattr(kernel, "declared"):
        load(kernel)
    code = code_of(kernel)
    assert code.foreign() <= COUNTS
    assert not code.flags


@pytest.mark.parametrize("kernel", TABLES, ids=lambda kernel: kernel.__name__)
def test_the_kernels_of_tables_call_nothing(kernel: Any, tmp_path: Path) -> None:
    rows_of(of_text(tmp_path, f"{HEAD}{T0},1.5,2,b\n"))  # compiled at their first call
    columns = {"t": pa.array([T0]).cast(pa.timestamp("ms")), "p": pa.array([1.5]), "q": pa.array([2]), "s": pa.array(["b"])}
    pq.write_table(pa.table(columns), tmp_path / "table.parquet")
    rows_of(opened(tmp_path / "table.parquet", TRADES))
    code = code_of(kernel)
    assert code.foreign() <= COUNTS
    assert not code.flags


@pytest.mark.parametrize("strategy", BUILT_IN)
def test_the_steps_of_built_in_strategies_call_nothing(strategy: str) -> None:
    loaded = compile_step(strategy, Path())
    assert loaded.python is None
    code = code_of(loaded.keep)
    assert (code.foreign(), code.flags) == (set(), frozenset())


@pytest.mark.parametrize("feature", INDICATORS, ids=lambda f: f.name)
def test_the_steps_of_features_call_nothing(feature: Feature) -> None:
    code = code_of(feature.shell)
    assert code.foreign() <= COUNTS  # of the window, which nobody owns
    assert not code.flags


def test_the_loops_over_features_call_nothing_but_them() -> None:
    made = FeatureSet([("sma", {})], INDICATORS)
    made.update(made.new_memory()[0], np.zeros(1, BAR_INPUT), made.batch(np.zeros(1, BAR_INPUT))[0])
    for loop in (update_features, run_features):
        code = code_of(loop)
        assert code.foreign() <= COUNTS
        assert not code.flags


def test_no_kernel_that_python_calls_is_left_out() -> None:
    """By name: a kernel that a function which is not one calls, made in that file or imported from the one that makes it."""
    made = {path: {f.name for f in functions_of(path) if is_compiled(f)} for path in python_files(*PACKAGES)}
    called: set[str] = set()
    for path in python_files(*PACKAGES):
        known = {f"{p.removesuffix('.py').replace('/', '.')}.{name}" for p in made for name in made[p]}
        here = made[path] | {name.rpartition(".")[2] for _, name in imports_of(path) if name in known}
        inside = {id(node) for f in functions_of(path) if is_compiled(f) for node in ast.walk(f)}
        calls = (n.func for n in ast.walk(tree_of(path)) if isinstance(n, ast.Call) and id(n) not in inside)
        called |= {func.id for func in calls if isinstance(func, ast.Name) and func.id in here}
    read = {*LOOPS, *(kernel.__name__ for kernel in (*BESIDE, *TABLES, update_features, run_features))}
    assert called - read == IN_THE_LOOPS | NOT_OF_THE_LINE | READ_ELSEWHERE
