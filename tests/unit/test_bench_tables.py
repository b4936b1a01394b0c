"""The benchmark of tables has no figure for records that are not those it wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perf import bench_tables


def test_every_form_of_the_table_is_the_same_trades_and_others_have_no_figure(tmp_path: Path) -> None:
    trades = bench_tables.make_trades(3000)
    other = trades._replace(ticks=trades.ticks + (np.arange(3000) == 2999))
    for path, table in bench_tables.forms(tmp_path, trades).values():
        assert bench_tables.decode(path, table, trades) > 0
        with pytest.raises(bench_tables.WrongAnswer, match="price_ticks of rows 0 to 3,000 is not what was written"):
            bench_tables.decode(path, table, other)
        with pytest.raises(bench_tables.WrongAnswer):
            bench_tables.decode(path, table, trades._replace(sides=trades.sides[:2999]))
