"""The configuration: what wins, what is refused and in which words, and that what is written reads back."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import Config, FeaturesConfig, StrategyConfig, resolve, span_ns
from engine.dumped import dump, values_told
from engine.errors import ConfigError
from engine.layered import key_lines

FILE = """\
[line]
seed = 7            # a comment
top = "quote"

[account]
cash = 2500000.50

[[account.positions]]
instrument = "BTCUSDT.binance"
strategy = "fast"
lots = -3
price = 61602.1

[risk]
position_max = "off"

[[instrument]]
symbol = "BTCUSDT"
venue = "binance"
tick = 0.01
lot = "0.00001"

[[strategy]]
name = "fast"
path = "momentum"
params = { lots = 2, volatility_min = 0.25 }

[[strategy]]
name = "own"
path = "my.py:step"
instruments = ["BTCUSDT.binance"]
[strategy.params]
edge = 1.5
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "demo.toml"
    path.write_text(FILE)
    return path


def problems(
    flags: dict[str, Any] | None = None, path: Path | None = None, env: dict[str, str] | None = None
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        resolve(path, flags, env)
    return str(caught.value).splitlines()


def test_nothing_given_is_the_defaults_and_says_so() -> None:
    config, origins = resolve(None)
    assert config == Config()
    assert origins["line.seed"] == origins["risk.position_max"] == "default"
    assert set(origins.values()) == {"default"}


def test_reads_every_section_of_a_file(file: Path) -> None:
    config, origins = resolve(file)
    assert (config.line.seed, config.line.top) == (7, "quote")
    assert config.account.cash == Decimal("2500000.50")
    assert config.account.positions[0].lots == -3
    assert config.account.positions[0].price == Decimal("61602.1")
    assert config.instrument[0].tick == Decimal("0.01")
    assert config.strategy[0].params == {"lots": 2, "volatility_min": 0.25}
    assert config.strategy[1] == StrategyConfig("own", "my.py:step", ("BTCUSDT.binance",), {"edge": 1.5})
    assert type(config.strategy[0].params["volatility_min"]) is float
    assert origins["line.seed"] == f"{file}:2"
    assert origins["account.positions.0.lots"] == f"{file}:11"
    assert origins["strategy.0.params.lots"] == f"{file}:26"
    assert origins["strategy.1.params.edge"] == f"{file}:33"
    assert origins["strategy.1.scope"] == "default"


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(file: Path) -> None:
    env = {"TICKLINE__LINE__SEED": "8", "TICKLINE__LINE__LINE_ID": "3", "HOME": "/"}
    config, origins = resolve(file, {"line.seed": 9, "line.top": None}, env)
    assert (config.line.seed, origins["line.seed"]) == (9, "flag")
    assert (config.line.line_id, origins["line.line_id"]) == (3, "env TICKLINE__LINE__LINE_ID")
    assert (config.line.top, origins["line.top"]) == ("quote", f"{file}:3")
    assert (config.line.checkpoint_inputs, origins["line.checkpoint_inputs"]) == (4096, "default")


def test_text_takes_the_type_of_its_key(file: Path) -> None:
    env = {
        "TICKLINE__JOURNAL__EMBED": "true",
        "TICKLINE__RUNTIME__CORES": "[2, 3]",
        "TICKLINE__RISK__POSITION_MAX": "2.50",
        "TICKLINE__RUNTIME__PLACEMENT": "split",
        "TICKLINE__STRATEGY__1__PARAMS__EDGE": "4",
        "TICKLINE__STRATEGY__0__NAME": "123",
    }
    config, _ = resolve(file, {"account.positions": []}, env)
    assert config.journal.embed is True
    assert config.runtime.cores == (2, 3)
    assert config.risk.position_max == Decimal("2.5")
    assert config.runtime.placement == "split"
    assert config.strategy[1].params == {"edge": 4}
    assert config.strategy[0].name == "123"


def test_a_list_given_as_a_flag_replaces_that_of_the_file(file: Path) -> None:
    flags = {"strategy": [{"name": "one", "path": "mean_reversion"}], "account.positions": []}
    config, origins = resolve(file, flags)
    assert [s.name for s in config.strategy] == ["one"]
    assert origins["strategy.0.path"] == "flag"


@pytest.mark.parametrize(
    ("key", "near"),
    [("features.ema_fst", "features.ema_fast"), ("line.sed", "line.seed"), ("featurs.ema_fast", "features")],
)
def test_refuses_an_unknown_key_and_names_the_near_one(key: str, near: str) -> None:
    (problem,) = problems({key: 3})
    assert f"unknown key, did you mean {near}?" in problem
    assert problem.endswith("(flag)")


def test_refuses_an_unknown_key_of_the_environment() -> None:
    (problem,) = problems(env={"TICKLINE__RISK__NOTIONL_MAX": "3"})
    assert problem == "risk.notionl_max: unknown key, did you mean risk.notional_max? (env TICKLINE__RISK__NOTIONL_MAX)"


def test_refuses_an_unknown_key_of_a_file_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text('[line]\nseed = 1\n\n[[strategy]]\nname = "a"\npth = "momentum"\n')
    assert problems(path=path) == [
        f"strategy.0.pth: unknown key, did you mean strategy.0.path? ({path}:6)",
        f"strategy.0.path: is required ({path}:4)",
    ]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("line.seed", "1.0", "line.seed = 1.0: expected int, got a decimal number"),
        ("line.seed", -1, "line.seed = -1: expected int >= 0"),
        ("line.seed", True, "line.seed = true: expected int, got bool"),
        ("line.log_features", "yes", 'line.log_features = "yes": expected bool, got str'),
        ("line.top", "qoute", 'line.top = "qoute": expected book or quote, did you mean quote?'),
        ("line", 3, "line: expected a table, got 3"),
        ("strategy", 3, "strategy: expected a list of tables, got 3"),
        ("latency.report_back_us", 0, "latency.report_back_us = 0: expected int >= 1"),
        ("latency.report_back_us", 2**40, "latency.report_back_us = 1099511627776: expected int <= 86400000000"),
        ("account.cash", "lots", 'account.cash = "lots": expected a decimal number'),
        ("account.cash", "inf", "account.cash = Infinity: expected a finite number"),
        ("account.maker_fee_bp", "1e999999999", "account.maker_fee_bp = 1E+999999999: expected at most 18 digits before the point"),
        ("risk.position_max", "0e-999999999", "expected at most 18 digits before the point and behind it"),
        ("account.cash", "0", "account.cash: 0 must be above 0"),
        ("account.cash", "1e12", "account.cash: 1E+12 overflows"),
        ("account.cash", "0.000000001", "is finer than 8 money_decimals"),
        ("account.money_decimals", 12, "risk.notional_max: 10000000 overflows"),
        ("account.taker_fee_bp", -1, "account.taker_fee_bp: -1 must not be below 0"),
        ("account.maker_fee_bp", -6, "account.maker_fee_bp: a rebate of 6 above the taker fee"),
        ("account.maker_fee_bp", "0.00001", "is finer than 0.0001 bp"),
        ("account.maker_fee_bp", 2000, "above 1000 bp"),
        ("features.ema_fast", 200, "features.ema_fast: 200 must be below ema_slow, 200"),
        ("risk.position_max", 0, 'risk.position_max: 0 must be above 0, or "off"'),
        ("risk.position_total_max", "-1", 'risk.position_total_max: -1 must be above 0, or "off"'),
        ("risk.open_orders_max", 4097, "risk.open_orders_max = 4097: expected int <= 4096"),
        ("risk.notional_max", "2e8", "is above notional_total_max"),
        ("runtime.cores", "[1, 1]", "runtime.cores: a core is named twice"),
        ("runtime.cores", "[1, -1]", "runtime.cores = [1, -1]: expected int >= 0"),
        ("strategy.0.path", "momentum", "strategy.0.path: there is no strategy.0 to set it in"),
    ],
)
def test_says_what_is_wrong_with_a_value(key: str, value: Any, words: str) -> None:
    found = problems({key: value})
    assert any(words in problem for problem in found), found
    assert all("(flag)" in problem or "(default)" in problem for problem in found)


def test_position_limit_of_one_instrument_is_not_above_that_of_all_together() -> None:
    found = problems({"risk.position_max": "2.5", "risk.position_total_max": 2})
    assert found == ["risk.position_max: 2.5 is above position_total_max, 2 (flag)"]
    config, _ = resolve(None, {"risk.position_max": 2, "risk.position_total_max": 2})
    assert config.risk.position_total_max == Decimal(2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "b"}, "strategy.1.name: b is the name of another strategy"),
        ({"name": "a b"}, 'strategy.1.name = "a b"'),
        ({"path": "momentun"}, 'strategy.1.path: "momentun" is neither FILE.py:FUNCTION nor a built-in'),
        ({"instruments": []}, "names no instrument"),
        ({"instruments": ["*", "A.b"]}, 'names beside "*"'),
        ({"params": {"edge": "high"}}, 'strategy.1.params.edge = "high": expected int | float'),
        ({"params": {"edge": float("nan")}}, "expected a finite number"),
        ({"params": 3}, "strategy.1.params: expected a table"),
    ],
)
def test_refuses_a_strategy_that_cannot_run(change: dict[str, Any], words: str) -> None:
    both = [{"name": "b", "path": "momentum"}, {"name": "c", "path": "my.py:step", **change}]
    (problem,) = problems({"strategy": both})
    assert words in problem


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tick": 0}, "instrument.1.tick: 0 must be above 0"),
        ({"book": "l4"}, 'instrument.1.book: "l4" is neither l2 nor l3'),
        ({"symbol": "A"}, "instrument.1.symbol: A.x is described above already"),
        ({"expiry": 1}, "instrument.1.expiry: unknown key"),
    ],
)
def test_refuses_an_instrument_without_a_grid_or_twice(change: dict[str, Any], words: str) -> None:
    grid = {"venue": "x", "tick": "0.01", "lot": 1}
    (problem,) = problems({"instrument": [{"symbol": "A", **grid}, {"symbol": "B", **grid, **change}]})
    assert words in problem


def test_refuses_positions_of_nobody_of_nothing_and_twice(file: Path) -> None:
    held = {"instrument": "A.x", "strategy": "own", "lots": 1, "price": 1}
    found = problems({"account.positions": [held, held, {**held, "strategy": "ghost", "lots": 0}]}, file)
    assert [p.split(" (")[0] for p in found] == [
        "account.positions.1.instrument: own has a position in A.x above",
        "account.positions.2.lots: a position of 0 lots is none",
        "account.positions.2.strategy: no strategy ghost; there are: fast, own",
    ]


def test_tells_all_problems_at_once() -> None:
    found = problems({"line.sed": 1, "features.ema_fast": 0, "risk.notional_max": "x"})
    assert [p.split(":")[0].split(" ")[0] for p in found] == ["line.sed", "features.ema_fast", "risk.notional_max"]


@pytest.mark.parametrize(
    ("text", "words"), [("a = ", "is not TOML"), (None, "cannot be read: No such file"), ("\xff", "is not TOML")]
)
def test_refuses_a_file_that_cannot_be_read(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "broken.toml"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    (problem,) = problems(path=path)
    assert problem.startswith(f"{path}: {words}")


def test_what_is_dumped_reads_back_identically_and_names_each_origin(file: Path, tmp_path: Path) -> None:
    config, origins = resolve(file, {"risk.orders_burst": 5}, {"TICKLINE__LINE__TOP": "book"})
    text = dump(config, origins)
    assert "orders_burst = 5  # flag\n" in text
    assert 'top = "book"  # env TICKLINE__LINE__TOP\n' in text
    assert f"edge = 1.5  # {file}:33\n" in text
    assert 'position_max = "off"' in text
    again = tmp_path / "again.toml"
    again.write_text(text)
    assert resolve(again)[0] == config
    assert dump(resolve(again)[0]) == dump(config)


def test_equal_trees_have_one_canonical_text() -> None:
    one, _ = resolve(None, {"account.cash": "1000000.00"})
    assert dump(one) == dump(Config())
    assert "#" not in dump(one)


_NUMBERS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False))


@given(
    params=st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1), _NUMBERS, max_size=4),
    path=st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1).map(lambda t: f"{t}.py:step"),
    fast=st.integers(1, 199),
)
def test_any_tree_survives_the_file(
    tmp_path_factory: pytest.TempPathFactory, params: Any, path: str, fast: int
) -> None:
    config = Config(features=FeaturesConfig(ema_fast=fast), strategy=(StrategyConfig("x", path, params=params),))
    file = tmp_path_factory.mktemp("config") / "c.toml"
    file.write_text(dump(config), encoding="utf-8", newline="")
    again, _ = resolve(file)
    assert again == config
    assert {k: type(v) for k, v in again.strategy[0].params.items()} == {k: type(v) for k, v in params.items()}


def test_lines_are_found_through_nested_lists_and_quoted_keys() -> None:
    text = '[[a]]\nx=1\n[[a.b]]\n"y z" = 2\n[[a.b]]\ny = 3\n[[a]]\nx = 4\n[[a.b]]\ny = 5\n[c."d"]\ne.f = 1\n'
    lines = key_lines(text)
    assert lines["a.0.x"] == 2
    assert lines["a.0.b.0.y z"] == 4
    assert lines["a.0.b.1.y"] == 6
    assert lines["a.1.x"] == 8
    assert lines["a.1.b.0.y"] == 10
    assert lines["c.d.e.f"] == 12


def test_warmup_is_told_by_the_key_from_and_reads_back() -> None:
    config, origins = resolve(None, {"warmup.from": "journal", "warmup.path": "runs/7"}, {"TICKLINE__WARMUP__SPAN": "90s"})
    assert (config.warmup.source, config.warmup.path, config.warmup.span) == ("journal", "runs/7", "90s")
    assert (origins["warmup.from"], origins["warmup.span"]) == ("flag", "env TICKLINE__WARMUP__SPAN")
    assert values_told(config, origins)["warmup.from"] == ('"journal"', "flag")
    assert 'from = "journal"  # flag' in dump(config, origins)


@pytest.mark.parametrize(("span", "ns"), [("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86_400)])
def test_a_span_is_a_number_and_a_unit(span: str, ns: int) -> None:
    assert span_ns(span) == ns * 10**9


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"warmup.from": "journal"}, 'warmup.from: "journal" needs warmup.path'),
        ({"warmup.path": "run"}, 'warmup.path: "run" is not read from = "off"'),
        ({"warmup.from": "rest", "warmup.path": "run"}, 'warmup.path: "run" is not read from = "rest"'),
        ({"warmup.span": "367d"}, 'warmup.span: "367d" is more than a year'),
        ({"warmup.span": "0h"}, 'warmup.span = "0h": expected'),
        ({"warmup.source": "rest"}, "warmup.source: unknown key"),
        ({"warmup.from": "jurnal"}, "did you mean journal?"),
        ({"warmup.on_hole": "ignore"}, "expected stop or trade"),
    ],
)
def test_warmup_that_makes_no_sense_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        resolve(None, given)
