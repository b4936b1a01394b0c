"""Strategies: compiled they decide as in Python; what breaks the contract is refused by name or stops the line at its input."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.config import BUILTIN_STRATEGIES, Config, StrategyConfig
from engine.errors import LineStopped
from engine.line import Built, build_line, sequence_first_words
from engine.loops import DECIDING
from engine.session import Session
from handlers.contract import Handler
from handlers.domain import reasons
from handlers.domain.schema import EMA_FAST, EMA_SLOW, MID, VOLATILITY
from handlers.ingest.synthetic.feed import SyntheticFeed
from handlers.signals.errors import StrategyError, StrategyNotFound, StrategyRefused
from handlers.signals.loading import BUILT_IN, PROTOTYPE, LoadedStep, compile_step, new_state
from transport import compiled
from transport.records import FEATURE, INTENT, ORDER, REJECT, TARGET, empty, joined
from transport.shells import Attributes

HEAD = """
import math
import numpy as np
from handlers.contract import handler
from transport.records import BAR, FEATURE, FILL, ORDER, SIGNAL, TARGET, TIMER, TRADE
"""
# A target that follows the last digits of the mid: decisions enough to compare.
FOLLOW = """
@handler(reads=FEATURE, state=[("seen", "i8")], params=[("lots", "i8")], defaults={"lots": 5})
def go(s, p, row, out):
    s.seen += 1
    if s.seen % 7:
        return 0
    out.action = TARGET
    out.qty_lots = p.lots * (int(row.values[0]) % 3 - 1) + s.position_lots % 2
    return 1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for strategy files; their machine code goes where it vanishes with them."""
    monkeypatch.setattr(compiled, "CACHE_DIR", tmp_path / "cache")
    return tmp_path


def load(folder: Path, body: str) -> LoadedStep:
    (folder / "mine.py").write_text(HEAD + body)
    return compile_step("mine.py:go", folder)


def random_rows(seed: int, count: int = 4000) -> np.ndarray:
    """Feature rows of a wandering mid."""
    rng = np.random.default_rng(seed)
    rows = empty(count)
    rows["kind"] = FEATURE
    mid = 10_000 + 0.5 * np.cumsum(rng.integers(-4, 5, count))
    values = rows["values"]
    values[:, MID], values[:, VOLATILITY] = mid, rng.random(count) * 3
    values[:, EMA_FAST], values[:, EMA_SLOW] = mid + rng.normal(0, 1, count), mid
    return rows


def compiled_decisions(loaded: LoadedStep, rows: np.ndarray, **params: float) -> list[tuple[int, int, int]]:
    """(row, action, lots) of every decision, through the address that the line calls."""
    call = PROTOTYPE(loaded.address)
    state, options = new_state(loaded.handler, 1), loaded.handler.pack_params(params)
    out, decisions, rows_made = empty(loaded.handler.rows_max), [], ctypes.c_int64()
    for k in range(len(rows)):
        out.view(np.uint8)[:] = 0
        where = (ctypes.c_void_p(a.ctypes.data) for a in (state, options, rows[k : k + 1], out))
        assert call(ctypes.byref(rows_made), None, *where) == 0
        if rows_made.value:
            decisions.append((k, int(out[0]["action"]), int(out[0]["qty_lots"])))
    return decisions


def python_decisions(handler: Handler, rows: np.ndarray, **params: float) -> list[tuple[int, int, int]]:
    state, options = Attributes(np.zeros(1, handler.state)[0]), Attributes(handler.pack_params(params)[0])
    decisions = []
    for k, row in enumerate(rows):
        out = Attributes(empty(1)[0])
        if handler.step(state, options, Attributes(row), out):
            decisions.append((k, int(out.action), int(out.qty_lots)))
    return decisions


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("momentum", {"lots": 3, "warmup": 20}),
        ("momentum", {"lots": 3, "warmup": 0, "volatility_min": 0.5, "volatility_max": 2.5, "short": 0}),
        ("mean_reversion", {"lots": 2, "window": 50, "entry": 1.5}),
        ("mean_reversion", {"lots": 2, "window": 10, "entry": 1.0, "exit": 0.2, "stop": 2.0}),
    ],
)
def test_built_in_decides_compiled_as_in_python(name: str, params: dict[str, float], seed: int) -> None:
    loaded = compile_step(name, Path())
    rows = random_rows(seed)
    decisions = compiled_decisions(loaded, rows, **params)
    assert decisions == python_decisions(loaded.handler, rows, **params)
    assert loaded.python is None
    assert len(decisions) > 10
    assert len({lots for _, _, lots in decisions}) > 1


def test_momentum_says_nothing_before_it_is_warm_or_outside_its_volatility() -> None:
    loaded = compile_step("momentum", Path())
    rows = random_rows(1)
    assert min(k for k, _, _ in compiled_decisions(loaded, rows, warmup=500)) >= 500
    assert compiled_decisions(loaded, rows, volatility_min=3.1) == []


def test_mean_reversion_enters_nothing_after_a_stop_until_the_mid_is_back() -> None:
    rows = random_rows(2, 400)
    rows["values"][:, MID] = 10_000 + np.tile([0.0, 1.0], 200)  # within one deviation of its mean
    rows["values"][200, MID] += 3  # entered
    rows["values"][201:, MID] += 60  # far beyond the stop; then slowly the mean comes after it
    params = {"window": 50, "entry": 1.2, "exit": 0.1, "stop": 4.5, "lots": 1}
    decisions = compiled_decisions(compile_step("mean_reversion", Path()), rows, **params)
    assert [(k, lots) for k, _, lots in decisions] == [(200, -1), (201, 0)]


# --- what may not run -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("call", ["math.exp(x)", "math.log(x)", "x ** p.power", "np.tanh(x)", "math.lgamma(x)", "math.hypot(x, x)"])
def test_refuses_strategy_that_calls_libm(call: str, folder: Path) -> None:
    with pytest.raises(StrategyRefused, match="last bits differ between CPUs"):
        load(folder, f"""
@handler(reads=FEATURE, params=[("power", "f8")], defaults={{"power": 0.3}})
def go(s, p, row, out):
    x = row.values[0]
    out.qty_lots = int({call})
    return 1
""")


def test_square_root_and_rounding_are_the_same_everywhere_and_may_be_used(folder: Path) -> None:
    loaded = load(folder, """
@handler(reads=FEATURE)
def go(s, p, row, out):
    out.qty_lots = int(math.sqrt(row.values[0]) + math.floor(row.values[0]) % 3 + round(row.values[0]))
    return 1
""")
    assert loaded.python is None
    rows = random_rows(3, 50)
    assert compiled_decisions(loaded, rows) == python_decisions(loaded.handler, rows)


@pytest.mark.parametrize("what", ["np.zeros(3).sum()", "len([1, 2, int(row.values[0])])"])
def test_refuses_strategy_that_allocates_also_when_asked_again(what: str, folder: Path) -> None:
    body = f"\n@handler(reads=FEATURE)\ndef go(s, p, row, out):\n    out.qty_lots = int({what})\n    return 1\n"
    for _ in range(2):  # the second time the verdict comes from the cache
        with pytest.raises(StrategyRefused, match="allocates memory"):
            load(folder, body)


COMPILES = """
import sys, time
from pathlib import Path
from handlers.signals import loading
from transport import shells
first, times = shells._compile_first, 0
def slowly(*args):
    global times
    times += 1
    time.sleep(0.5)
    return first(*args)
shells._compile_first = slowly
print("ready", flush=True)
sys.stdin.readline()
step = loading.compile_step("mine.py:go", Path(sys.argv[1]))
print(times, step.python)
"""


def test_processes_that_start_at_once_compile_a_strategy_once(folder: Path) -> None:
    body = f"@handler(reads=FEATURE)\ndef go(s, p, row, out):\n    return {os.getpid()} * 0\n"  # which no cache knows yet
    (folder / "mine.py").write_text(HEAD + body)
    command = [sys.executable, "-c", COMPILES, str(folder)]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in started:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].split() for process in started]
    assert sorted(said) == [["0", "None"], ["0", "None"], ["1", "None"]]


def test_missing_file_or_step_is_told_with_what_there_is(folder: Path) -> None:
    with pytest.raises(StrategyNotFound, match="momentum, mean_reversion"):
        compile_step("nowhere.py:go", folder)
    with pytest.raises(StrategyNotFound, match=r"give `file.py:step`"):
        compile_step("momentun", folder)
    (folder / "mine.py").write_text(HEAD + FOLLOW)
    with pytest.raises(StrategyNotFound, match=r"no step 'stop'.*it has go"):
        compile_step("mine.py:stop", folder)


def test_file_that_cannot_be_imported_is_told_with_its_error(folder: Path) -> None:
    with pytest.raises(StrategyError, match="ZeroDivisionError"):
        load(folder, "\n1 / 0\n")


def test_unknown_missing_and_broken_parameters_are_told() -> None:
    config = Config(strategy=(StrategyConfig(name="m", path="momentum", params={"lot": 3}),))
    with pytest.raises(StrategyError, match="strategy m: momentum has no parameter 'lot'; it has lots, warmup"):
        build_line(config, SyntheticFeed(1, 10, 1).instruments, 1, 1, Path())
    handler = compile_step("momentum", Path()).handler
    with pytest.raises(ValueError, match=r"lots must be a whole number, not 1.5"):
        handler.pack_params({"lots": 1.5})


def test_editing_a_module_beside_the_strategy_changes_what_it_does(folder: Path) -> None:
    body = """
from beside import chosen
@handler(reads=FEATURE)
def go(s, p, row, out):
    out.qty_lots = chosen(row.values[0])
    return 1
"""
    rows = random_rows(4, 3)

    def lots(value: int) -> set[int]:
        (folder / "beside.py").write_text(
            f"from transport.compiled import kernel\n@kernel\ndef chosen(x):\n    return {value} if x > 0.0 else 0\n"
        )
        loaded = load(folder, body)
        assert loaded.python is None
        assert {Path(file).name for file in loaded.sources} == {"mine.py", "beside.py"}
        return {lots for _, _, lots in compiled_decisions(loaded, rows)}

    assert [lots(11), lots(22), lots(11)] == [{11}, {22}, {11}]


# --- on the line ----------------------------------------------------------------------------------------------------------
def run_line(folder: Path, *strategies: tuple[str, str], rows: int = 6000, **params: float) -> tuple[Built, dict[str, np.ndarray]]:
    """The line over a synthetic feed with strategies of (file.py:step, its source)."""
    for where, body in strategies:
        (folder / where.partition(":")[0]).write_text(HEAD + body)
    config = Config(strategy=tuple(StrategyConfig(name=f"s{n}", path=w, params=params) for n, (w, _) in enumerate(strategies)))
    feed = SyntheticFeed(5, rows, 1)
    feed.bind({i.name: 0 for i in feed.instruments}, 16)
    built = build_line(config, feed.instruments, 1, 1, folder)
    batches: list[Any] = []
    session = Session(built, [feed.chunks(65536)], batches.append)
    session.open(lambda ns: sequence_first_words(built, config, ns, 1, 2))
    session.run()
    return built, {name: joined(*(b.decisions[k] for b in batches)) for k, name in enumerate(DECIDING)}


def test_fields_named_like_numpys_own_methods_are_fields_in_plain_python() -> None:
    slot = Attributes(np.zeros(1, [("mean", "f8"), ("flags", "u1"), ("sum", "i8", (2,))])[0])
    slot.mean, slot.flags = 2.5, 200
    slot.sum[1] = 7
    assert (slot.mean, slot.flags << 8, slot.sum.tolist()) == (2.5, 51200, [0, 7])
    with pytest.raises(AttributeError, match="no field 'means'; there are mean, flags, sum"):
        slot.means = 1


def test_strategy_as_plain_python_decides_as_compiled(folder: Path) -> None:
    _, fast = run_line(folder, ("fast.py:go", FOLLOW))
    built, slow = run_line(folder, ("slow.py:go", FOLLOW.replace("reads=FEATURE", "reads=FEATURE, compiled=False")))
    assert built.strategies[0].loaded.python == "declared with compiled=False"
    assert len(fast["signals"]) > 100
    assert len(fast["orders"]) > 100
    assert {name: rows.tobytes() for name, rows in fast.items()} == {name: rows.tobytes() for name, rows in slow.items()}


def test_strategy_that_cannot_be_compiled_runs_as_plain_python_and_says_why(folder: Path) -> None:
    body = FOLLOW.replace("    s.seen += 1", "    import json\n    s.seen += len(json.dumps([1])) - 2")
    built, logs = run_line(folder, ("odd.py:go", body))
    assert built.strategies[0].loaded.python
    assert len(logs["signals"]) > 100


RAISING = """
@handler(reads=FEATURE, state=[("seen", "i8")]{extra})
def go(s, p, row, out):
    s.seen += 1
    if s.seen == 100:
        raise ValueError("no more")
    return 0
"""


@pytest.mark.parametrize(("extra", "told"), [("", ""), (", compiled=False", r" \(ValueError: no more\)")])
def test_strategy_that_raises_stops_the_line_at_that_input(extra: str, told: str, folder: Path) -> None:
    with pytest.raises(LineStopped, match=rf"strategy s0 raised an error{told} at seq \d+, instrument AAA.synthetic"):
        run_line(folder, ("raising.py:go", RAISING.format(extra=extra)))


@pytest.mark.parametrize("write", ["out[4].price_ticks = 9\n    return 1", "out[2].kind = SIGNAL\n    return 2", "return 3"])
def test_strategy_that_overruns_its_rows_stops_the_line(write: str, folder: Path) -> None:
    body = f"\n@handler(reads=FEATURE, rows_max=2)\ndef go(s, p, row, out):\n    {write}\n"
    indexed = os.environ.get("NUMBA_BOUNDSCHECK") == "1" and "out[" in write  # then the write itself is caught, before the guard
    with pytest.raises(LineStopped, match="raised an error" if indexed else "wrote more rows than it declares"):
        run_line(folder, ("over.py:go", body))


def test_strategy_that_never_ends_on_a_record_stops_the_line(folder: Path) -> None:
    with pytest.raises(LineStopped, match="kept asking to be called again"):
        run_line(folder, ("endless.py:go", "\n@handler(reads=FEATURE)\ndef go(s, p, row, out):\n    return -1\n"))


TWO_ROWS = """
@handler(reads=FEATURE, rows_max=3, state=[("called", "i8")])
def go(s, p, row, out):
    s.called += 1
    for k in range(3):
        out[k].kind = SIGNAL
        out[k].value = s.called + k
    return 3 if s.called % 2 == 0 else -3
"""


def test_rows_of_one_strategy_are_no_overrun_of_the_next_and_a_step_may_go_on(folder: Path) -> None:
    two = TWO_ROWS.replace("rows_max=3", "rows_max=2").replace("range(3)", "range(2)").replace("return 3", "return 2").replace("-3", "-2")
    _, logs = run_line(folder, ("a.py:go", TWO_ROWS), ("b.py:go", two), ("c.py:go", FOLLOW), rows=1500)
    rows = logs["signals"]
    first = rows[rows["seq"] == rows[0]["seq"]]
    assert first["strategy_id"].tolist() == [1] * 6 + [2] * 4
    assert first["row"].tolist() == list(range(10))
    assert set(rows["strategy_id"].tolist()) == {1, 2, 3}


def test_row_of_a_forged_kind_is_refused_at_the_edge_and_makes_no_order(folder: Path) -> None:
    body = FOLLOW.replace("    out.action = TARGET", "    out.kind = ORDER\n    out.side = 1\n    out.order_id = 99")
    built, logs = run_line(folder, ("forged.py:go", body))
    rows = logs["signals"]
    assert len(rows) > 100
    assert set(rows["kind"].tolist()) == {REJECT}
    assert set(rows["reason"].tolist()) == {reasons.FORGED_KIND}
    assert not (logs["risk"]["kind"] == ORDER).any()
    assert built.line.orders.line[0]["sent"] == 0


DEPTH = """
@handler(reads=FEATURE, depth=3)
def go(s, p, row, out):
    out.kind = SIGNAL
    if s.bids_ticks[0] != s.bid_ticks or s.asks_ticks[0] != s.ask_ticks:
        out.value = -1.0
    elif not s.bids_ticks[0] > s.bids_ticks[1] > s.bids_ticks[2] or min(s.bids_lots[2], s.asks_lots[2]) <= 0:
        out.value = -2.0
    else:
        out.value = 1.0
    return 1
"""


def test_strategy_sees_the_levels_it_declares_best_first_with_their_lots(folder: Path) -> None:
    _, logs = run_line(folder, ("deep.py:go", DEPTH))
    values = logs["signals"]["value"].tolist()
    assert len(values) > 1000
    assert set(values) == {1.0}
    assert INTENT not in logs["signals"]["kind"]


def test_a_built_in_strategy_is_part_of_the_code_hash() -> None:
    """Its machine code lies under that hash, and `verify` compares it: an edit of it is another program."""
    assert {f"handlers/signals/strategies/{name}.py" for name in ("momentum", "mean_reversion")} <= set(compiled.SOURCES)


def test_packages_beside_a_strategy_are_its_sources_too(folder: Path) -> None:
    (folder / "lib" / "deep").mkdir(parents=True)
    (folder / "lib" / "__init__.py").write_text("from .near import HALF\n")
    (folder / "lib" / "near.py").write_text("from .deep.far import WHOLE\nHALF = WHOLE // 2\n")
    (folder / "lib" / "deep" / "__init__.py").write_text("")
    (folder / "lib" / "deep" / "far.py").write_text("WHOLE = 8\n")
    body = """
from lib import HALF

@handler(reads=FEATURE)
def go(s, p, row, out):
    out.action = TARGET
    out.qty_lots = HALF
    return 1
"""
    rows = random_rows(1, 1)
    assert compiled_decisions(load(folder, body), rows) == [(0, TARGET, 4)]
    found = {str(Path(p).relative_to(folder)) for p in load(folder, body).sources}
    assert found == {"mine.py", "lib/__init__.py", "lib/near.py", "lib/deep/__init__.py", "lib/deep/far.py"}
    (folder / "lib" / "deep" / "far.py").write_text("WHOLE = 6\n")
    assert compiled_decisions(load(folder, body), rows) == [(0, TARGET, 3)]


def test_a_strategy_in_a_checkout_of_the_engine_uses_the_engine_that_runs(folder: Path) -> None:
    for package in compiled.PACKAGES:
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text("raise ImportError('another engine')\n")
    (folder / "handlers" / "contract.py").write_text("raise ImportError('another engine')\n")
    loaded = load(folder, """
@handler(reads=FEATURE)
def go(s, p, row, out):
    return 0
""")
    assert isinstance(loaded.handler, Handler)
    assert set(loaded.sources) == {str(folder / "mine.py")}


@pytest.mark.parametrize("error", ["KeyboardInterrupt()", "SystemExit(0)", "ValueError('mine')"])
def test_nothing_that_a_plain_python_step_raises_passes_through_the_call(folder: Path, error: str) -> None:
    loaded = load(folder, f"""
@handler(reads=FEATURE, compiled=False)
def go(s, p, row, out):
    raise {error}
""")
    with pytest.raises(AssertionError):
        compiled_decisions(loaded, random_rows(1, 1))
    assert repr(loaded.errors[-1]) == error


@pytest.mark.parametrize(("value", "dtype"), [(2**65, "i8"), (300, "u1")])
def test_a_parameter_that_does_not_fit_is_refused_in_words(folder: Path, value: int, dtype: str) -> None:
    loaded = load(folder, f"""
@handler(reads=FEATURE, params=[("lots", "{dtype}")])
def go(s, p, row, out):
    return 0
""")
    with pytest.raises(ValueError, match=f"lots = {value} does not fit"):
        loaded.handler.pack_params({"lots": value})


def test_the_built_ins_that_a_configuration_may_name_are_those_that_can_be_loaded() -> None:
    assert set(BUILTIN_STRATEGIES) == set(BUILT_IN)
