"""Book messages taken many at once end as those taken one by one."""

from __future__ import annotations

import random

import numpy as np
import pytest

from handlers.ingest.venues.depth import DepthRule
from handlers.ingest.venues.levels import MESSAGE
from handlers.ingest.venues.protocol import APPLY


def stream(chance: random.Random, futures: bool) -> np.ndarray:
    """Messages that follow one another, here and there one lost, repeated or wrong."""
    messages = np.zeros(chance.randrange(1, 40), MESSAGE)
    last, harm = 100, chance.choice([0.0, 0.02, 0.2])
    for n, m in enumerate(messages):
        m["first_seq"], m["prev_seq"] = last + 1, last
        last += chance.randrange(1, 4)
        m["venue_seq"] = last
        if n and chance.random() < harm:
            messages[n] = messages[n - 1]
        if chance.random() < harm:
            m[chance.choice(["first_seq", "prev_seq", "venue_seq"])] += chance.choice([-1, 1])
        if not futures:
            m["prev_seq"] = m["first_seq"] - 1
    return messages


def state(rule: DepthRule) -> tuple[int, int, tuple[int, int], int, int]:
    return rule.state, rule.last, rule.repeat, rule.expected, rule.got


@pytest.mark.parametrize("futures", [True, False])
def test_a_run_of_messages_is_what_each_of_them_is(seed: int, futures: bool) -> None:
    chance, taken, cut = random.Random(seed), 0, 0
    for _ in range(1500):
        messages = stream(chance, futures)
        at_once, one_by_one = DepthRule(futures), DepthRule(futures)
        snapshot = 100 if futures else chance.choice([100, 99])
        for rule in (at_once, one_by_one):
            rule.take_snapshot(snapshot)
        assert at_once.run(messages) == 0  # the first behind a snapshot is judged by itself
        begin = chance.randrange(1, len(messages) + 1)
        for m in messages[:begin]:
            assert at_once.judge(m, messages) == one_by_one.judge(m, messages)
        n = at_once.run(messages[begin:]) if begin < len(messages) else 0
        assert all(one_by_one.judge(m, messages) == APPLY for m in messages[begin : begin + n])
        assert state(at_once) == state(one_by_one)
        if begin + n < len(messages):
            assert one_by_one.waiting or one_by_one.judge(messages[begin + n], messages) != APPLY
            cut += 1
        taken += n
    assert taken > 1000
    assert cut > 100
