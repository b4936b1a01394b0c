"""Receive times that stand alone in the future: the rule, and that both decoders keep it however the source is cut."""

from __future__ import annotations

import gzip
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import zstandard

from handlers.domain import reasons
from handlers.ingest.feed import Feed, message_index
from handlers.ingest.jumps import CONFIRM_LINES, JUMP_NS, JUMPED, NO_TIME, JumpRule, jumps
from handlers.ingest.venues import capture
from handlers.ingest.dbn import files as dbn_files
from handlers.ingest.formats import open_feed
from transport.records import BOOK_DELTA, BOOK_SNAPSHOT, GAP, TRADE

from tests.unit.capture_lines import BTC, T0_NS, depth, feed_of, rows_of, snapshot, trade
from tests.unit.test_dbn_decoder import LAST, header, records

DAY = JUMP_NS
FAR = 73 * 365 * DAY  # from the captures' day into the 2090s
NO = NO_TIME


def restamped(text: str, at: int) -> str:
    """The same line, received `at` ns after T0."""
    return f"{T0_NS + at} {text.partition(' ')[2]}"


# --- the rule -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("days", "refused"),
    [
        ([10, 10, 99, 10, 10], [2]),
        ([10, 10, 99, 50, 10], [2, 3]),  # neither confirms the other
        ([10, 10, 99, 99, 10], []),  # each confirms the other: the sequencer's bound is for these
        ([99, 10, 10], [0]),
        ([99, 50, 10], [0, 1]),
        ([10, 10, 99], [2]),
        ([10, 99], [1]),
        ([99], []),
        ([10, 13, 13, 13], []),  # a pause
        ([10, 13], [1]),  # a pause before the last line of all
        ([10, 11, 12, 13, 14], []),  # never over a day at once
        ([10, 99, NO, 10], [1]),
        ([10, 13, NO, 13], []),
        ([NO, 99, NO, 10], [1]),
        ([NO, NO], []),
        ([], []),
        ([10, 10, 1, 10, 1, 10], []),  # a line of the past moves no time, and so makes none a jump
    ],
)
def test_line_is_refused_that_is_over_a_day_ahead_and_not_confirmed_by_the_next(days: list[int], refused: list[int]) -> None:
    times = np.array([NO if d == NO else T0_NS + d * DAY for d in days], np.int64)
    assert np.flatnonzero(jumps(times, NO_TIME)).tolist() == refused


def test_a_day_is_allowed_and_a_nanosecond_more_is_not() -> None:
    for ahead, after, refused in ((DAY, -9, []), (DAY + 1, 0, [1]), (DAY + 1, 1, [])):
        times = np.array([0, ahead, after], np.int64) + T0_NS
        assert np.flatnonzero(jumps(times, NO_TIME)).tolist() == refused


def test_what_confirms_is_looked_for_among_a_bounded_number_of_lines() -> None:
    for between, refused in ((CONFIRM_LINES - 1, []), (CONFIRM_LINES, [1])):
        times = np.array([0, 3 * DAY, *[NO] * between, 3 * DAY, 3 * DAY], np.int64)
        assert np.flatnonzero(jumps(times, NO_TIME)).tolist() == refused


def by_loop(times: Sequence[int]) -> list[int]:
    """The rule in plain Python: line by line, with the lines behind it in sight."""
    out, before = [], NO_TIME
    for i, time in enumerate(times):
        behind = [t for t in times[i + 1 : i + 1 + CONFIRM_LINES] if t != NO_TIME][:1]
        ahead = time != NO_TIME and (before == NO_TIME or time > before + DAY)
        if ahead and (behind[0] < time - DAY if behind else before != NO_TIME):
            out.append(JUMPED)
        else:
            out.append(time)
            before = max(before, time)
    return out


def random_times(chance: random.Random, count: int) -> list[int]:
    """Receive times that rise, with pauses of days, jumps either way, and stretches that cannot be read."""
    out: list[int] = []
    now = T0_NS
    while len(out) < count:
        now += chance.choice((1, 10**9)) if chance.random() < 0.9 else chance.randrange(3 * DAY)
        kind = chance.random()
        if kind < 0.15:
            out += [NO_TIME] * chance.choice((1, 1, 2, CONFIRM_LINES - 1, CONFIRM_LINES, 3 * CONFIRM_LINES))
        elif kind < 0.35:
            out += [now + chance.choice((-3, -1, 1, 2, 50)) * DAY for _ in range(chance.choice((1, 1, 1, 2)))]
        else:
            out.append(now)
    return out


def test_batches_of_any_size_give_what_the_plain_rule_gives(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(200):
        times = random_times(chance, chance.randrange(1, 80))
        rule, told, rest, at = JumpRule(), list[int](), list[int](), 0
        while at < len(times):
            size = chance.choice((1, 2, 5, 40))
            batch, at = rest + times[at : at + size], at + size
            settled = rule.settle(np.array(batch, np.int64), final=False).tolist()
            told, rest = told + settled, batch[len(settled) :]
            assert len(rest) <= CONFIRM_LINES
        told += rule.settle(np.array(rest, np.int64), final=True).tolist()
        assert told == by_loop(times), (seed, times)


# --- captures -------------------------------------------------------------------------------------------------------------
def test_depth_line_that_jumps_is_a_gap_as_one_that_is_missing_is(tmp_path: Path) -> None:
    lines = [snapshot(0, 10), depth(1, 9, 12, 8), depth(2, 13, 14, 12), depth(3, 15, 16, 14), trade(4, 1)]
    without = rows_of(feed_of(tmp_path, [*lines[:2], "lost", *lines[3:]]))
    lines[2] = restamped(lines[2], FAR)
    feed = feed_of(tmp_path, lines)
    rows = rows_of(feed)
    assert rows["kind"].tolist() == [BOOK_SNAPSHOT, BOOK_SNAPSHOT, BOOK_DELTA, GAP, TRADE]
    assert (rows["expected_seq"][3], rows["got_seq"][3], rows["ts_recv_ns"][3]) == (12, 14, T0_NS + 3)
    assert rows.tobytes() == without.tobytes()
    assert feed.counters == {reasons.TIME_JUMP: 1, reasons.SEQUENCE_GAP: 1, reasons.DEPTH_REFUSED: 1}
    assert feed.first_offenders[reasons.TIME_JUMP].startswith("line 3: ")


def test_first_and_last_line_of_a_capture_are_asked_too(tmp_path: Path) -> None:
    lines = [restamped(trade(0, 1), FAR), trade(1, 2), trade(2, 3), restamped(trade(3, 4), FAR)]
    feed = feed_of(tmp_path, lines)
    assert rows_of(feed)["venue_seq"].tolist() == [2, 3]
    assert feed.counters == {reasons.TIME_JUMP: 2}


def test_line_that_jumps_has_no_time_and_no_place_in_the_merge(tmp_path: Path) -> None:
    feed = feed_of(tmp_path, [trade(0, 1), restamped(trade(1, 2), FAR), trade(2, 3)])
    assert feed.receive_times().tolist() == [T0_NS, NO_TIME, T0_NS + 2]
    assert message_index([feed])[:, 2].tolist() == [0, 2]


def test_files_of_days_apart_are_one_source_and_lose_nothing(tmp_path: Path) -> None:
    for day, name in ((0, "a"), (2, "b"), (9, "c")):
        lines = [restamped(trade(day, 10 * day + i), day * DAY + i) for i in range(3)]
        (tmp_path / name).write_bytes(gzip.compress("".join(text + "\n" for text in lines).encode()))
    feed = open_feed(str(tmp_path), [BTC])
    assert rows_of(feed)["venue_seq"].tolist() == [0, 1, 2, 20, 21, 22, 90, 91, 92]
    assert feed.counters == {}


def told_by(feed: Feed, rows_max: int) -> tuple[bytes, dict[int, int], dict[int, str]]:
    return rows_of(feed, rows_max).tobytes(), feed.counters, feed.first_offenders


def test_capture_with_jumps_decodes_alike_in_batches_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    lines = [snapshot(0, 0)]
    for i, at in enumerate(random_times(chance, 400), 1):
        text = chance.choice((trade(i, i), depth(i, i, i, i - 1)))
        lines.append(chance.choice(("junk", "12345 {}", "")) if at == NO_TIME else restamped(text, at - T0_NS))
    expected = told_by(feed_of(tmp_path, lines), 10**9)
    assert expected[1][reasons.TIME_JUMP] > 0
    for _ in range(8):
        monkeypatch.setattr(capture, "BATCH_LINES", chance.choice((1, 2, 3, 7, 50)))
        monkeypatch.setattr(capture, "BATCH_BYTES", chance.choice((1, 200, 1000, 1 << 20)))
        feed = feed_of(tmp_path, lines)
        assert told_by(feed, chance.choice((1, 2, 9))) == expected
        times = feed.receive_times()
        rows = rows_of(feed)
        assert np.array_equal(times[rows["origin"]], rows["ts_recv_ns"])


# --- DBN files ------------------------------------------------------------------------------------------------------------
def dbn_file(path: Path, times: Sequence[int]) -> None:
    """Adds and trades in turn, one event each, received at `times`; what has no time has one of the year 1970."""
    body = records([("AT"[i % 2], "B", i, 100 + i % 7, 1, LAST) for i in range(len(times))])
    body["ts_recv"] = [7 if t == NO_TIME else t for t in times]
    path.write_bytes(zstandard.compress(header() + body.tobytes()))


def test_record_that_jumps_is_a_gap_at_the_time_of_the_feed(tmp_path: Path) -> None:
    dbn_file(tmp_path / "a.dbn.zst", [T0_NS, T0_NS + 5, T0_NS + FAR, T0_NS + 6, T0_NS + 7])
    feed = open_feed(str(tmp_path / "a.dbn.zst"))
    rows = rows_of(feed)
    assert rows["kind"].tolist() == [BOOK_DELTA, TRADE, GAP, TRADE]
    assert (rows["ts_recv_ns"] - T0_NS).tolist() == [0, 5, 5, 6]
    assert feed.counters == {reasons.TIME_JUMP: 1, reasons.SEQUENCE_GAP: 1, reasons.DEPTH_REFUSED: 1}
    assert feed.receive_times().tolist() == [T0_NS, T0_NS + 5, NO_TIME, T0_NS + 6, T0_NS + 7]


@pytest.mark.parametrize(("first", "reason"), [(T0_NS + FAR, reasons.TIME_JUMP), (NO_TIME, reasons.TIME_OUT_OF_RANGE)])
def test_first_record_of_a_source_without_a_time_tells_no_gap(tmp_path: Path, first: int, reason: int) -> None:
    """A gap row there would be the first of the line and have no time, from which timers would count."""
    dbn_file(tmp_path / "a.dbn.zst", [first, T0_NS + 1, T0_NS + 2, T0_NS + 3])
    feed = open_feed(str(tmp_path / "a.dbn.zst"))
    rows = rows_of(feed)
    assert rows["ts_recv_ns"].tolist() == [T0_NS + 1, T0_NS + 3]
    assert feed.counters == {reason: 1, reasons.DEPTH_REFUSED: 1}


def test_dbn_files_with_jumps_decode_alike_in_blocks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    times = [T0_NS, *random_times(chance, 300), T0_NS + FAR, NO_TIME, T0_NS + FAR // 2, T0_NS + 5 * DAY]
    cuts = sorted(chance.choices(range(len(times) + 1), k=3))
    for name, a, b in zip("abcd", [0, *cuts], [*cuts, len(times)], strict=True):
        dbn_file(tmp_path / f"{name}.dbn.zst", times[a:b])
    expected = told_by(open_feed(str(tmp_path)), 10**9)
    assert expected[1][reasons.TIME_JUMP] == by_loop(times).count(JUMPED) > 0
    assert open_feed(str(tmp_path)).receive_times().tolist() == [max(NO_TIME, t) for t in by_loop(times)]
    for _ in range(6):
        monkeypatch.setattr(dbn_files, "BLOCK_BYTES", chance.choice((1, 60, 200, 3000)))
        assert told_by(open_feed(str(tmp_path)), chance.choice((1, 2, 9))) == expected


def test_a_source_of_a_line_now_and_then_may_wait_longer_before_its_last_one() -> None:
    week = np.array([0, 1, 3, 8]) * JUMP_NS + 10**18
    assert JumpRule().settle(week, final=True).tolist() == [*week[:3].tolist(), JUMPED]
    assert JumpRule(31 * JUMP_NS).settle(week, final=True).tolist() == week.tolist()
    assert JumpRule(4 * JUMP_NS).settle(week[[0, 1, 2, 3]], final=False).tolist() == week[:3].tolist()
