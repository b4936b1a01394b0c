"""Feature rows with levels of the book through a whole run: strategies see them, every placement logs them, verify and export read them."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from engine.comparing import Compared
from engine.export import FORMATS, ExportError, columns_of, write_table
from handlers.contract import handler
from handlers.domain.schema import features_of
from tests.runs import config_file, done, log_rows, replayed, table, tickline
from transport.instruments import Instrument
from transport.log_reader import LogReader
from transport.journal import LogWriter
from transport.records import FEATURE, copied

FEED = "synthetic:30000:5:2"
DEPTH, PARTS = 5, 4
CONFIG = """
[features]
depth = 5

[line]
log_features = true

[[strategy]]
name = "heavy"
path = "heavy.py:step"
"""
# Goes with the heavier side of five levels: it reads the last value of the row.
HEAVY = """
from handlers.contract import handler
from transport.records import FEATURE, FILL, TARGET


@handler(reads=(FEATURE, FILL), values=28, depth=2, state=[("target", "i8")]{more})
def step(s, p, row, out):
    if row.kind == FILL and s.values[0] == 0:  # those of the row before it stay
        raise ValueError("no values")
    if s.values[8] != s.bids_ticks[0] or s.values[14] != s.asks_ticks[1]:
        return 0  # a fill comes between two events of the book
    bids = s.values[9] + s.values[13] + s.values[17] + s.values[21] + s.values[25]
    asks = s.values[11] + s.values[15] + s.values[19] + s.values[23] + s.values[27]
    wanted = 100 if bids > 2 * asks else (-100 if asks > 2 * bids else s.target)
    if wanted == s.target:
        return 0
    s.target = wanted
    out.action = TARGET
    out.qty_lots = wanted
    return 1
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of the compiled strategy, `run`, and its configuration."""
    folder = tmp_path_factory.mktemp("long")
    config_file(folder, CONFIG)
    (folder / "heavy.py").write_text(HEAVY.format(more=""))
    replayed(folder / "run", FEED, config=folder / "config.toml")
    return folder


def hashes(folder: Path, config: Path, *options: str) -> list[str]:
    summary = replayed(folder, FEED, config=config, options=options)
    return [summary["hashes"][name] for name in ("input_log_hash", "decision_log_hash", "features_log_hash")]


def test_every_placement_and_plain_python_decide_and_log_the_same(made: Path, tmp_path: Path) -> None:
    wanted = hashes(tmp_path / "fused", made / "config.toml")
    for placement in ("split", "staged"):
        assert hashes(tmp_path / placement, made / "config.toml", "--placement", placement) == wanted
    slow = config_file(tmp_path / "python", CONFIG)
    (slow.parent / "heavy.py").write_text(HEAVY.format(more=", compiled=False"))
    assert hashes(tmp_path / "slow", slow) == wanted
    assert len(log_rows(made / "run", "orders")) > 100


def test_verify_proves_a_run_with_long_rows_in_its_logs(made: Path) -> None:
    assert "proved" in done("verify", made / "run").out
    assert "proved" in done("verify", made / "run", "--placement", "staged").out


def test_every_row_of_the_log_is_whole_and_its_levels_are_a_book(made: Path) -> None:
    rows = log_rows(made / "run", "features")
    slots = copied(rows, rows["kind"] == FEATURE)
    assert slots["part"].tolist() == list(range(PARTS)) * (len(slots) // PARTS)
    levels = slots["values"].reshape(-1, PARTS * 8)[:, 8 : 8 + 4 * DEPTH].reshape(-1, DEPTH, 4)
    assert len(levels) > 5000
    bids, bid_lots, asks, ask_lots = (levels[:, :, k] for k in range(4))
    assert (bids[:, 0] < asks[:, 0]).all() and (bid_lots[:, 0] > 0).all() and (ask_lots[:, 0] > 0).all()
    for prices, lots, sign in ((bids, bid_lots, -1), (asks, ask_lots, 1)):
        there = lots > 0
        assert (prices[~there] == 0).all()
        assert ((np.diff(prices, axis=1) * sign > 0) | ~there[:, 1:]).all()
    mid = slots["values"][::PARTS, 0]
    assert ((bids[:, 0] + asks[:, 0]) / 2 == mid).all()


def test_export_has_a_column_for_every_value_in_both_formats(made: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    found = table(made / "run", "features")
    names = [feature.name for feature in features_of(DEPTH)]
    assert list(found[0])[-len(names) :] == names
    rows = log_rows(made / "run", "features")
    slots = copied(rows, rows["kind"] == FEATURE)
    assert len(found) == len(slots) // PARTS
    assert [float(found[7][name]) for name in names] == slots["values"][7 * PARTS : 8 * PARTS].ravel()[: len(names)].tolist()
    done("export", made / "run", "--table", "features", "--format", "parquet", "--out", tmp_path / "f.parquet")
    assert [str(v) for v in pq.read_table(tmp_path / "f.parquet").column("ask_lots_5").to_pylist()] == [r["ask_lots_5"] for r in found]


def test_export_refuses_rows_that_lack_a_slot_or_are_of_another_schema(made: Path, tmp_path: Path) -> None:
    rows = log_rows(made / "run", "features")
    slots = copied(rows, rows["kind"] == FEATURE)
    instruments = [Instrument(name, "test", Decimal(1), Decimal(1)) for name in "AB"]
    columns = columns_of("features", instruments, DEPTH)
    for form in FORMATS:
        assert write_table([slots[: 8 * PARTS]], "features", instruments, tmp_path / form, form, columns=columns) == 8
    with pytest.raises(ExportError, match="lacks some of its slots"):
        write_table([slots[: 8 * PARTS - 1]], "features", instruments, tmp_path / "x", columns=columns)
    with pytest.raises(ExportError, match="another schema"):
        write_table([slots], "features", instruments, tmp_path / "x")


def test_a_difference_in_a_later_slot_is_named_with_its_part(made: Path, tmp_path: Path) -> None:
    rows = log_rows(made / "run", "features")
    slots = copied(rows, rows["kind"] == FEATURE)[: 10 * PARTS]
    with LogWriter(tmp_path, "features", "run-1") as log:
        log.append(slots)
    other = copied(slots)
    other["values"][6 * PARTS + 2][3] += 1
    with LogReader(tmp_path, "features") as log:
        text = Compared(log, "features").differs(other)
    seq = slots["seq"][6 * PARTS]
    assert text is not None and text.startswith(f"seq {seq}, stage features, row {slots['row'][6 * PARTS]}, part 2 (Feature): values")


def test_strategy_that_asks_for_more_values_than_there_are_is_refused(made: Path, tmp_path: Path) -> None:
    config = config_file(tmp_path, CONFIG.replace("depth = 5", "depth = 4"))
    (tmp_path / "heavy.py").write_text(HEAVY.format(more=""))
    said = tickline("replay", FEED, "--config", config, "--out", tmp_path / "run")
    assert said.code == 2
    assert "strategy heavy sees 28 values of a feature row, which has 24: raise features.depth" in " ".join(said.err.split())
    for values in (-1, 257):
        with pytest.raises(TypeError, match=r"values is 0\.\.256"):
            handler(reads=FEATURE, values=values)


@pytest.mark.parametrize("depth", [-1, 33])
def test_depth_outside_its_bounds_is_refused_by_name(tmp_path: Path, depth: int) -> None:
    said = tickline("replay", FEED, "--config", config_file(tmp_path, f"[features]\ndepth = {depth}\n"), "--out", tmp_path / "run")
    assert said.code == 2
    assert "features.depth" in said.err
