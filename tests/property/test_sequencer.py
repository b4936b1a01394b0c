"""The sequencer against Python's sort, over random feeds, reports, commands and timers; and windows split anywhere."""

from __future__ import annotations

import random
from itertools import accumulate

import numpy as np
import pytest

from handlers.ingest.sequencer import OWN
from tests.sequencing import Intake, trades
from transport.records import ACK, COMMAND, ORDER, TIMER, TRADE, copied

TIMER_NS = 37


def random_times(chance: random.Random, count: int) -> list[int]:
    """Receive times that mostly rise, often repeat, and sometimes go back."""
    out, now = [], 1000
    for _ in range(count):
        now += chance.choice((0, 0, 1, 3, 10, 40))
        out.append(now - (chance.randrange(30) if chance.random() < 0.1 else 0))
    return out


def random_feeds(chance: random.Random) -> list[np.ndarray]:
    feeds = [trades(random_times(chance, chance.randrange(0, 200)), f) for f in range(chance.randrange(1, 5))]
    for rows in feeds:
        for k in range(len(rows)):
            if chance.random() < 0.05:
                rows["kind"][k] = ORDER  # refused
    return feeds


def split(chance: random.Random, rows: np.ndarray) -> list[np.ndarray]:
    """The same rows in windows of any size, empty ones among them."""
    cuts = sorted(chance.choices(range(len(rows) + 1), k=chance.randrange(0, 9)))
    return [rows[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]


def intake_of(feeds: list[list[np.ndarray]], own: list[tuple[int, int, int]], **room: int) -> Intake:
    intake = Intake(feeds, TIMER_NS, **room)
    intake.timers_from(1000)
    for due, rank, n in own:
        (intake.order if rank == 1 else intake.answer)(due, order_id=n)
    return intake


def by_sort(feeds: list[np.ndarray], own: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """(time, kind, price or number) in the order that the rules give, the closing commands left out."""
    found = [(due, rank, n, COMMAND if rank == 1 else ACK, n) for due, rank, n in own]
    for f, rows in enumerate(feeds):
        entered = rows["kind"] != ORDER  # the others are as if they were not there
        keys = accumulate(rows["ts_recv_ns"][entered].tolist(), max)
        told = zip(keys, rows["kind"][entered].tolist(), rows["price_ticks"][entered].tolist(), strict=True)
        found += [(key, 4 + f, k, kind, price) for k, (key, kind, price) in enumerate(told)]
    out, due = [], 1000 + TIMER_NS
    for time, _, _, kind, number in sorted(found):
        while due <= time:
            out.append((due, TIMER, 0))
            due += TIMER_NS
        out.append((time, kind, number))
    return out


def random_own(chance: random.Random) -> list[tuple[int, int, int]]:
    """(due, rank, number) of commands and reports, numbered in the order in which they are queued."""
    return [(chance.randrange(1000, 3000), chance.choice((1, 2)), n) for n in range(1, chance.randrange(2, 60))]


@pytest.mark.parametrize("case", range(30))
def test_any_merge_equals_pythons_sort_by_time_rank_and_position(case: int, seed: int) -> None:
    chance = random.Random(seed + case)
    feeds, own = random_feeds(chance), random_own(chance)
    intake = intake_of([split(chance, rows) for rows in feeds], own)
    whole = intake.run()
    log = copied(whole, (whole["kind"] != COMMAND) | (whole["order_id"] != 0))  # without those that close the line
    assert len(log) == len(whole) - 3
    numbers = np.where(log["kind"] == TRADE, log["price_ticks"], np.where(log["kind"] == TIMER, 0, log["order_id"]))
    got = list(zip(log["ts_seq_ns"].tolist(), log["kind"].tolist(), numbers.tolist(), strict=True))
    assert got == by_sort(feeds, own), seed + case
    assert whole["seq"].tolist() == list(range(len(whole)))
    assert (np.diff(log["ts_seq_ns"]) >= 0).all()
    assert intake.sequencer.head[0]["refused"] == sum(int((rows["kind"] == ORDER).sum()) for rows in feeds)


@pytest.mark.parametrize("case", range(30))
def test_windows_split_anywhere_and_small_buffers_give_the_same_bytes(case: int, seed: int) -> None:
    chance = random.Random(seed + 1000 + case)
    feeds, own = random_feeds(chance), random_own(chance)
    whole = intake_of([[rows] for rows in feeds], own).run()
    for room in ({}, {"runs_max": chance.randrange(1, 5), "own_max": chance.randrange(1, 5)}):
        cut = intake_of([split(chance, rows) for rows in feeds], own, **room)
        assert cut.run().tobytes() == whole.tobytes(), seed + 1000 + case


def test_runs_say_where_every_record_came_from(seed: int) -> None:
    chance = random.Random(seed)
    feeds = random_feeds(chance)
    intake = intake_of([split(chance, rows) for rows in feeds], random_own(chance))
    log = intake.run()
    seen = 0
    for source, first, count, seq in intake.runs:
        assert seq == seen
        rows = log[seq : seq + count]
        if source == OWN:
            assert not np.isin(rows["kind"], [TRADE]).any()
        else:
            assert rows["price_ticks"].tolist() == feeds[source]["price_ticks"][first : first + count].tolist()
        seen += count
    assert seen == len(log)
