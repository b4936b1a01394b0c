"""Clocks that are set back: what files of every format make of the hour that is shown twice, held to the times they were written from."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handlers.ingest.clocks import read_clocks, zone_table
from handlers.ingest.feed import Feed
from handlers.ingest.tables.map import Columns, TableMap, TableTime
from tests.unit.made_tables import of_text, opened, rows_of
from tests.unit.test_lean_decoder import opened as lean_of
from tests.unit.test_lean_decoder import trades

NEW_YORK = ZoneInfo("America/New_York")
EPOCH = datetime(1970, 1, 1)
TABLE = TableMap("trade", venue="v", symbol="X", time=TableTime(zone="America/New_York"), columns=Columns(time="t", price="p", qty="q"))
SET_BACK = {  # a moment in UTC at which the clock is set back
    "America/New_York": datetime(2024, 11, 3, 6), "Europe/Berlin": datetime(2023, 10, 29, 1), "Australia/Lord_Howe": datetime(2024, 4, 6, 15),
    "America/Havana": datetime(2024, 11, 3, 5),  # its midnight is shown twice
}  # fmt: skip


def shown(when: datetime, zone: ZoneInfo) -> datetime:
    """What the clock shows, without a zone, at a time of UTC."""
    return when.replace(tzinfo=UTC).astimezone(zone).replace(tzinfo=None)


def ns(when: datetime) -> int:
    return (when - EPOCH) // timedelta(microseconds=1) * 1000


@pytest.mark.parametrize("zone", SET_BACK)
@pytest.mark.parametrize("disorder_s", [0, 25])
def test_a_file_in_order_is_read_as_the_times_that_it_was_written_from(zone: str, disorder_s: int, seed: int) -> None:
    chance, clock = random.Random(seed), ZoneInfo(zone)
    for _ in range(50):
        at = SET_BACK[zone] - timedelta(minutes=chance.randrange(70, 120))
        times = []
        while at < SET_BACK[zone] + timedelta(hours=3):
            at += timedelta(seconds=chance.randrange(1, 600))
            times.append(at - timedelta(seconds=chance.uniform(0, disorder_s)))
        local = np.array([ns(shown(when, clock)) for when in times])
        found = np.zeros(len(local), np.int64)
        read_clocks(local, *zone_table(zone), np.zeros(1, np.int64), found)
        assert found.tolist() == list(map(ns, times)), seed


def texts(lines: list[datetime], tmp_path: Path) -> Feed:
    return of_text(tmp_path, "t,p,q\n" + "".join(f"{when.isoformat()},1.5,1\n" for when in lines), TABLE)


def stamps(lines: list[datetime], tmp_path: Path) -> Feed:
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"t": pa.array(lines, pa.timestamp("ms")), "p": [1.5] * len(lines), "q": [1] * len(lines)}), path)
    return opened(path, TABLE)


def lean(lines: list[datetime], tmp_path: Path) -> Feed:
    day = datetime(2024, 11, 3)
    return lean_of(trades(tmp_path, [b"%d,10,1,P,1,0" % ((when - day) // timedelta(milliseconds=1)) for when in lines], "20241103"))


@pytest.mark.parametrize("file_of", [texts, stamps, lean])
@pytest.mark.parametrize(("minutes", "why"), [
    ([-90, -50, -20, -1, 0, 1, 30, 59, 60, 90], "the clock goes back in the file: the first time, then the second"),
    ([-70, -15, 25, 70], "lines are scarce, and still it goes back"),
    ([-30, 45], "it does not go back: the file shows nothing, and the second line is of the first time"),
])  # fmt: skip
def test_every_format_has_the_one_rule(file_of: type, minutes: list[int], why: str, tmp_path: Path) -> None:
    times = [SET_BACK["America/New_York"] + timedelta(minutes=m) for m in minutes]
    due = [ns(when) for when in times]
    if minutes == [-30, 45]:
        due[1] -= 3600 * 10**9
    feed = file_of([shown(when, NEW_YORK) for when in times], tmp_path)
    assert rows_of(feed)["ts_event_ns"].tolist() == due, why
    assert feed.receive_times().tolist()[-len(due) :] == due
    assert rows_of(feed, 1)["ts_event_ns"].tolist() == due


def test_lines_of_one_ticker_behind_another_do_not_make_a_second_hour(tmp_path: Path) -> None:
    day = ["2024-11-03T00:50:00", "2024-11-03T01:10:00", "2024-11-03T16:00:00"]
    rows = rows_of(of_text(tmp_path, "t,p,q\n" + "".join(f"{when},1.5,1\n" for when in [*day, *day[1:]]), TABLE))
    assert rows["ts_event_ns"].tolist()[1] == rows["ts_event_ns"].tolist()[3]
