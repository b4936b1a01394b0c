"""Times of tables: counts by unit or size, ISO 8601, and clocks with summer time; held to Python's datetime and zoneinfo."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from handlers.domain.reasons import TIME_OUT_OF_RANGE, WRONG_TYPE
from handlers.ingest.tables.times import clock_of, read_time

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOON = 1_723_161_256_322_000_000  # 2024-08-08T23:54:16.322Z


def read(text: str, unit: str = "auto", zone: str = "UTC", add_units: int = 0, add_ns: int = 0) -> tuple[int, int]:
    raw = np.frombuffer(text.encode() or b"\0", np.uint8).copy()
    when, why = read_time(raw, 0, len(text.encode()), clock_of(unit, zone), 1, add_units, add_ns)
    return int(when), int(why)


@pytest.mark.parametrize(("text", "unit"), [
    ("1723161256.322", "s"), ("1723161256322", "ms"), ("1723161256322000", "us"), (str(NOON), "ns"), ("1723161256322.000", "ms"),
    ("1723161256.322", "auto"), ("1723161256322", "auto"), ("1723161256322000", "auto"), (str(NOON), "auto"), ("1.723161256322e12", "ms"),
    ("2024-08-08T23:54:16.322Z", "auto"), ("2024-08-08 23:54:16,322", "iso"), ("20240808T235416.322", "auto"), ("2024/08/09 01:54:16.322+02:00", "iso"),
    ("2024-08-08T19:54:16.322000000-0400", "auto"), ("2024-08-08t23:54:16.3220000000000z", "auto"),
])  # fmt: skip
def test_one_instant_in_every_writing(text: str, unit: str) -> None:
    assert read(text, unit) == (NOON, 0)


@pytest.mark.parametrize(("text", "unit", "reason"), [
    ("", "iso", WRONG_TYPE), ("soon", "auto", WRONG_TYPE), ("2024-02-30", "auto", WRONG_TYPE), ("2024-13-01", "auto", WRONG_TYPE), ("2024-08/08", "auto", WRONG_TYPE),
    ("2024-08-08T", "auto", WRONG_TYPE), ("2024-08-08T24:00", "auto", WRONG_TYPE), ("2024-08-08T23:60", "auto", WRONG_TYPE), ("2024-08-08T23:54:", "auto", WRONG_TYPE),
    ("2024-08-08T23:54:16.", "auto", WRONG_TYPE), ("2024-08-08T23:54:16.1234567891", "auto", WRONG_TYPE), ("2024-08-08T23:54+25:00", "auto", WRONG_TYPE),
    ("2024-08-08T23:54 Z", "auto", WRONG_TYPE), ("2024-08-08 23:54:16 UTC", "auto", WRONG_TYPE), ("1723161256.3220000001", "s", WRONG_TYPE), ("12x", "ms", WRONG_TYPE),
    ("-5", "s", TIME_OUT_OF_RANGE), ("1969-12-31", "auto", TIME_OUT_OF_RANGE), ("2101-01-01", "auto", TIME_OUT_OF_RANGE), ("9999-01-01", "auto", TIME_OUT_OF_RANGE),
    ("1723161256322", "us", TIME_OUT_OF_RANGE), ("1723161256", "ms", TIME_OUT_OF_RANGE),  # a unit that is wrong is noticed
])  # fmt: skip
def test_what_is_no_time_has_a_reason(text: str, unit: str, reason: int) -> None:
    assert read(text, unit)[1] == reason


def test_any_day_is_the_calendars(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(1000):
        when = EPOCH + timedelta(seconds=chance.randrange(366 * 86_400, 4_102_000_000))
        expected = ((when - EPOCH) // timedelta(seconds=1)) * 10**9
        assert read(when.strftime("%Y-%m-%dT%H:%M:%SZ")) == (expected, 0)


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/Berlin", "Asia/Tokyo", "Australia/Lord_Howe"])
def test_a_clock_with_summer_time_is_zoneinfos_the_first_time_an_hour_is_shown(zone: str, seed: int) -> None:
    chance, clock = random.Random(seed), ZoneInfo(zone)
    for _ in range(1000):
        shown = datetime(1971, 6, 1) + timedelta(minutes=chance.randrange(60 * 24 * 366 * 120))
        assert read(shown.isoformat(), "iso", zone) == (int(shown.replace(tzinfo=clock).timestamp()) * 10**9, 0), shown


def test_the_hour_that_is_shown_twice_is_its_first_and_the_skipped_one_is_counted_on() -> None:
    assert read("2024-11-03 01:30", "iso", "America/New_York")[0] == 1_730_611_800 * 10**9  # 05:30Z, summer time
    assert read("2024-03-10 02:30", "iso", "America/New_York")[0] == 1_710_055_800 * 10**9  # 07:30Z, 03:30 of summer time


def test_a_day_behind_a_day_is_the_next_midnight_of_the_clock() -> None:
    """On the day that summer time ends it is 25 hours later."""
    began = read("2024-11-03", "iso", "America/New_York")[0]
    assert read("2024-11-03", "iso", "America/New_York", add_ns=86_400 * 10**9)[0] - began == 25 * 3600 * 10**9


def test_an_hour_behind_a_time_is_an_hour_whatever_the_clock_shows() -> None:
    opened = read("2024-11-03 01:00", "iso", "America/New_York")[0]
    assert read("2024-11-03 01:00", "iso", "America/New_York", add_ns=3600 * 10**9)[0] - opened == 3600 * 10**9
    last = str((datetime(2024, 11, 3, 1, 59, 59, tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1) + 999)
    assert read(last, "ms", "America/New_York", add_units=1)[0] - opened == 3600 * 10**9


def test_the_last_unit_within_a_bar_leads_to_its_end() -> None:
    assert read("1723161299999", "auto", add_units=1)[0] == 1_723_161_300 * 10**9
    assert read("1723161299999999", "auto", add_units=1)[0] == 1_723_161_300 * 10**9
