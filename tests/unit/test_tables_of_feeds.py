"""Bars and features straight from feeds are those of a replay of them without strategies, `seq` included."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import config_file, done, replayed, table, tickline

FEED = "synthetic:20000:3:2"


@pytest.mark.parametrize("name", ["bars", "features"])
@pytest.mark.parametrize("depth", [0, 3])
def test_rows_of_a_feed_equal_those_of_its_run(tmp_path: Path, name: str, depth: int) -> None:
    config = config_file(tmp_path, f"[features]\ndepth = {depth}\n[bars]\ninterval_s = 1\n[runtime]\nchunk_rows = 777\n")
    replayed(tmp_path / "run", FEED, config=config)
    found = table(FEED, name, "--config", config)
    assert found == table(tmp_path / "run", name)
    assert len(found) > 5


def test_strategies_and_positions_of_the_configuration_change_nothing(tmp_path: Path) -> None:
    config = config_file(tmp_path, """
[[strategy]]
name = "m"
path = "momentum"
[[account.positions]]
strategy = "m"
instrument = "AAA.synthetic"
lots = 5
price = "100"
""")
    assert table(FEED, "bars", "--config", config) == table(FEED, "bars")


def test_parquet_of_a_feed_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "features.parquet"
    done("export", FEED, "--table", "features", "--format", "parquet", "--out", out)
    assert pq.read_table(out).num_rows == len(table(FEED, "features"))
    assert tickline("export", FEED, "--table", "orders", "--out", tmp_path / "orders.csv").code == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["features.parquet"]
