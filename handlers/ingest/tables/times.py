"""Times of tables as ns since 1970 UTC: counts of s, ms, us or ns, ISO 8601 text, and clocks of a time zone.

Which time an hour is that a clock shows twice is in `handlers.ingest.clocks`. Days are added on the clock, so that the midnight after
a midnight is the next one whatever the day's length; anything shorter is added in UTC, where an hour has an hour.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from handlers.domain.reasons import OUT_OF_INT64, TIME_OUT_OF_RANGE, WRONG_TYPE
from handlers.ingest.clocks import SECOND_NS, read_clock, zone_table
from handlers.ingest.decimals import read_cell
from handlers.ingest.feed import YEAR_2100_NS
from transport.compiled import kernel

YEAR_1971_NS = 365 * 86_400 * 10**9  # panels begin long ago; a count of ms read as us, or of s as ms, would still be of 1970
WORDS = 16  # of eight bytes in a record
AUTO, ISO = -1, -2  # units beside the decimals behind which a unit's ns stand
UNITS = {"s": 9, "ms": 6, "us": 3, "ns": 0, "auto": AUTO, "iso": ISO}
DAY_NS, MINUTE_NS = 86_400 * SECOND_NS, 60 * SECOND_NS
_MONTHS = np.array([0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365])  # days before each, of a year without a leap day
_ZERO, _DOT, _DASH, _SLASH, _COLON, _BLANK, _T, _SMALL_T, _Z, _SMALL_Z, _PLUS, _COMMA = (ord(c) for c in "0.-/: TtZz+,")
_YEARS = (1900, 2200)  # outside, 64 bits of ns come near their end; the range is checked behind
_COUNT_DIGITS = 9  # fewer digits are a date, 20240808, or no time of these years


class Clock(NamedTuple):
    """How a table's times are read."""

    unit: int  # AUTO, ISO, or decimals of a second's fraction that make a unit: 6 for ms
    starts: np.ndarray  # int64, ascending, the first far in the past
    offsets: np.ndarray
    last: np.ndarray  # int64, UTC ns of the reading before for each word of a record; one file's own


def clock_of(unit: str, zone: str) -> Clock:
    """Raises KeyError for a zone that the system's database does not have."""
    return Clock(UNITS[unit], *zone_table(zone), np.zeros(WORDS, np.int64))


@kernel
def read_time(text: Any, at: Any, end: Any, clock: Any, word: Any, add_units: Any, add_ns: Any) -> Any:
    """(ns since 1970 UTC, reason or 0) of the time that fills [at, end), plus units of its own and ns; `word` is where it goes."""
    unit = clock.unit
    if unit == AUTO:
        unit = np.int64(unit_of(text, at, end))
    if unit == ISO:
        local, known, why = read_iso(text, at, end)
        if add_units:
            return 0, WRONG_TYPE  # text has no unit of its own
    else:
        local, why = read_cell(text, at, end, unit, np.int64(1), np.int64(WRONG_TYPE))
        known = False
        if why:
            why = TIME_OUT_OF_RANGE if why == OUT_OF_INT64 else WRONG_TYPE
        if add_units:
            for _ in range(unit):
                add_units *= 10
    if why:
        return 0, why
    return moved_time(local, known, clock, word, add_units, add_ns)


@kernel
def moved_time(local: Any, known: Any, clock: Any, word: Any, more_ns: Any, add_ns: Any) -> Any:
    """(UTC ns, reason or 0) of a reading of the clock, or of UTC where that is `known`, and `add_ns` on from it: whole days on the clock."""
    days = add_ns if add_ns % DAY_NS == 0 else 0
    local += days
    if local <= 0 or local > YEAR_2100_NS + DAY_NS:
        return 0, TIME_OUT_OF_RANGE
    when = local if known else read_clock(local, clock.starts, clock.offsets, clock.last, word)
    when += more_ns + add_ns - days
    if when < YEAR_1971_NS or when > YEAR_2100_NS:
        return 0, TIME_OUT_OF_RANGE
    return when, 0


@kernel
def unit_of(text: Any, at: Any, end: Any) -> Any:
    """The unit that a count has by its size, which is unambiguous from 1973 on; ISO for what is not digits, or a date's eight."""
    digits = 0
    while at + digits < end and text[at + digits] >= _ZERO and text[at + digits] <= _ZERO + 9:
        digits += 1
    if digits < _COUNT_DIGITS or (at + digits < end and text[at + digits] != _DOT):
        return ISO
    return 9 if digits < 12 else 6 if digits < 15 else 3 if digits < 18 else 0


@kernel
def read_number(text: Any, at: Any, end: Any, digits: Any) -> Any:
    """The number of exactly so many digits at `at`, or -1."""
    if at + digits > end:
        return -1
    value = 0
    for i in range(at, at + digits):
        digit: Any = np.int64(text[i]) - _ZERO
        if digit < 0 or digit > 9:
            return -1
        value = value * 10 + digit
    return value


@kernel
def read_iso(text: Any, at: Any, end: Any) -> Any:
    """(ns, whether they are UTC already, reason or 0) of 2024-08-08, 20240808, 2024-08-08T23:54:16.5Z, 2024/08/08 23:54+02:00."""
    year = read_number(text, at, end, 4)
    at += 4
    apart = at < end and (text[at] == _DASH or text[at] == _SLASH)
    mark = text[at] if apart else 0
    at += apart
    month = read_number(text, at, end, 2)
    at += 2
    if apart and (at >= end or text[at] != mark):
        return 0, False, WRONG_TYPE
    at += apart
    day = read_number(text, at, end, 2)
    at += 2
    if year < 0 or month < 1 or month > 12 or day < 1 or day > month_days(year, month):
        return 0, False, WRONG_TYPE
    if year < _YEARS[0] or year > _YEARS[1]:
        return 0, False, TIME_OUT_OF_RANGE
    ns = days_before(year, month, day) * DAY_NS
    if at == end:
        return ns, False, 0
    if text[at] != _T and text[at] != _SMALL_T and text[at] != _BLANK:
        return 0, False, WRONG_TYPE
    of_day, at = read_of_day(text, at + 1, end)
    offset, known, whole = read_offset(text, at, end)
    if of_day < 0 or not whole:
        return 0, False, WRONG_TYPE
    return ns + of_day - offset, known, 0


@kernel
def month_days(year: Any, month: Any) -> Any:
    leap = month == 2 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return _MONTHS[month] - _MONTHS[month - 1] + leap


@kernel
def days_before(year: Any, month: Any, day: Any) -> Any:
    """Days from 1970-01-01 to a date of the Gregorian calendar."""
    past = year - 1 if month <= 2 else year  # leap days of the years that have had theirs
    leaps = past // 4 - past // 100 + past // 400
    return (year - 1970) * 365 + leaps - 477 + _MONTHS[month - 1] + day - 1


@kernel
def read_of_day(text: Any, at: Any, end: Any) -> Any:
    """(ns since midnight or -1, place behind) of HH:MM, HH:MM:SS, HH:MM:SS.fraction, with colons or without."""
    hour = read_number(text, at, end, 2)
    apart = at + 2 < end and text[at + 2] == _COLON
    minute = read_number(text, at + 2 + apart, end, 2)
    at += 4 + apart
    second = 0
    if at < end and (text[at] == _COLON if apart else read_number(text, at, end, 2) >= 0):
        second = read_number(text, at + apart, end, 2)
        at += 2 + apart
    if hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 59:
        return -1, at
    ns, unit = (hour * 60 + minute) * MINUTE_NS + second * SECOND_NS, SECOND_NS
    if at < end and (text[at] == _DOT or text[at] == _COMMA):
        at += 1
        if at >= end or text[at] < _ZERO or text[at] > _ZERO + 9:
            return -1, at
        while at < end and text[at] >= _ZERO and text[at] <= _ZERO + 9:
            if unit == 1 and text[at] != _ZERO:
                return -1, at  # finer than a ns
            unit = max(unit // 10, 1)
            ns += (np.int64(text[at]) - _ZERO) * unit
            at += 1
    return ns, at


@kernel
def read_offset(text: Any, at: Any, end: Any) -> Any:
    """(ns ahead of UTC, whether the text says so, whether it is well-formed) of nothing, Z, +02, +0200 or +02:00."""
    if at == end:
        return 0, False, True
    if at + 1 == end and (text[at] == _Z or text[at] == _SMALL_Z):
        return 0, True, True
    if at > end or (text[at] != _PLUS and text[at] != _DASH):
        return 0, False, False
    sign = 1 if text[at] == _PLUS else -1
    hours, minutes = read_number(text, at + 1, end, 2), 0
    at += 3
    if at < end:
        at += text[at] == _COLON
        minutes = read_number(text, at, end, 2)
        at += 2
    whole = at == end and hours >= 0 and hours <= 23 and minutes >= 0 and minutes <= 59
    return sign * (hours * 60 + minutes) * MINUTE_NS, True, whole
