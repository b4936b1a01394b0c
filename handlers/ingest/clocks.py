"""Clocks of time zones, as files show them: what a reading that knows no zone is in UTC, the same rule for every format.

    01:58  01:59  01:00  01:01            New York on a first Sunday of November, in a file's order
    05:58  05:59  06:00  06:01  UTC       it goes back by more than BACK_NS, and not when it is taken for the second time: so it is that

An hour that a clock shows twice is taken for the first time, unless the file shows that it is the second: where the time would go back
from the one before it by more than clocks and threads disorder, and does not as the second. A file that begins within that hour, or
has one line in it, shows nothing; then it is the first. An hour that a clock skips is counted on from before.

A zone is two arrays: from local time `starts[k]` on (ns of a clock that knows no zone) the clock was `offsets[k]` ahead of UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from transport.compiled import kernel, types

SECOND_NS = 10**9
BACK_NS = 60 * SECOND_NS  # lines of a file are out of order by less; a clock is set back by half an hour at least


@cache
def zone_table(zone: str) -> tuple[np.ndarray, np.ndarray]:
    """(local starts, offsets) of a zone from 1970 to 2100, in ns; raises KeyError, in words for the user."""
    try:
        clock = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise KeyError(f"{zone!r} is no time zone of this system, such as America/New_York") from error
    first = datetime(1970, 1, 1, tzinfo=UTC)
    starts, offsets = [-(2**62)], [_offset_s(clock, first)]
    for day in range(131 * 366):
        low = first + timedelta(days=day)
        if _offset_s(clock, low + timedelta(days=1)) != offsets[-1]:
            after = _change(clock, low)
            offsets.append(_offset_s(clock, after))
            starts.append((int(after.timestamp()) + offsets[-1]) * SECOND_NS)
    return np.array(starts, np.int64), np.array(offsets, np.int64) * SECOND_NS


def _offset_s(clock: ZoneInfo, when: datetime) -> int:
    offset = when.astimezone(clock).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())


def _change(clock: ZoneInfo, day: datetime) -> datetime:
    """First second within a day from which the offset differs from that at its beginning."""
    before, low, high = _offset_s(clock, day), 0, 86_400
    while high - low > 1:
        middle = (low + high) // 2
        if _offset_s(clock, day + timedelta(seconds=middle)) == before:
            low = middle
        else:
            high = middle
    return day + timedelta(seconds=high)


@kernel
def read_clock(local: Any, starts: Any, offsets: Any, last: Any, which: Any) -> Any:
    """UTC ns of a clock's reading; `last[which]` is that of the reading before it in the file, 0 for none, and becomes this one's."""
    low, high = 0, len(starts)
    while high - low > 1:
        middle = (low + high) // 2
        if starts[middle] <= local:
            low = middle
        else:
            high = middle
    when = local - offsets[low]
    if low > 0 and local - starts[low] < offsets[low - 1] - offsets[low]:  # shown twice: `when` is the second time
        first, before = local - offsets[low - 1], last[which] - BACK_NS
        if first >= before or when < before:
            when = first
    last[which] = when
    return when


@kernel(types.void(*[types.int64[::1]] * 5), deferred=True)
def read_clocks(local: Any, starts: Any, offsets: Any, last: Any, times: Any) -> None:
    """UTC ns of every reading, in the order of a file, into `times`; `last` has one place."""
    for i in range(len(local)):
        times[i] = read_clock(local[i], starts, offsets, last, 0)
