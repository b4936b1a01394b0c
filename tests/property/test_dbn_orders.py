"""Ends and gaps of books by order: the kernels mark what slow searches in Python mark."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from handlers.ingest.dbn.orders import find_gaps, move_ends
from transport.compiled import load

Column = np.ndarray[Any, Any]


def ends_oracle(place: Column, last: Column, keep: Column, end: Column) -> None:
    """From each record that ends an event and yields no row back to the one that does."""
    for i in np.flatnonzero(last & ~keep & (place >= 0)).tolist():
        for j in range(i - 1, -1, -1):
            if place[j] == place[i]:
                if last[j]:
                    break
                if keep[j]:
                    end[j] = True
                    break


def gaps_oracle(place: Column, book: Column, begins: Column, breaks: Column, good: Column, timed: Column, broken: Column) -> tuple[Column, Column]:
    """Instrument by instrument."""
    gap, refused = np.zeros(len(place), np.bool_), np.zeros(len(place), np.bool_)
    for p in range(len(broken)):
        for i in np.flatnonzero(book & (place == p)).tolist():
            broken[p] &= not begins[i]
            if breaks[i] and not broken[p]:
                broken[p], gap[i] = True, timed[i]
            elif broken[p]:
                refused[i] = good[i]
    return gap, refused


@pytest.mark.parametrize("seed", range(40))
def test_marks_are_those_of_a_slow_search(seed: int) -> None:
    load(find_gaps, move_ends)
    chance = np.random.default_rng(seed)
    instruments, count = int(chance.integers(1, 5)), int(chance.integers(0, 200))
    place = chance.integers(-1, instruments, count)
    last, keep, end, good, timed, begins = (chance.random(count) < share for share in (0.3, 0.6, 0.1, 0.8, 0.9, 0.05))
    due = end | (last & keep)
    end = due.copy()
    move_ends(place, last, keep, np.zeros(instruments, np.int64), end)
    ends_oracle(place, last, keep, due)
    assert end.tolist() == due.tolist(), seed

    book = (place >= 0) & (chance.random(count) < 0.9)
    breaks = book & (~good | (chance.random(count) < 0.05))
    broken = chance.random(instruments) < 0.3
    broken_due, gap, refused = broken.copy(), np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    find_gaps(place, book, begins & good, breaks, good, timed, broken, gap, refused)
    found = gaps_oracle(place, book, begins & good, breaks, good, timed, broken_due)
    assert (gap.tolist(), refused.tolist(), broken.tolist()) == (found[0].tolist(), found[1].tolist(), broken_due.tolist()), seed
