"""However a market's trades are parted between a history, sums told by REST and a live stream, each is let through exactly once."""

from __future__ import annotations

import random

import numpy as np
import pytest

from handlers.ingest.feed import Rows
from handlers.ingest.venues.joining import Joining
from handlers.ingest.venues.levels import MESSAGE
from handlers.ingest.venues.own_lines import OwnLine
from handlers.ingest.venues.protocol import PAST
from transport.records import CONNECTION, GAP, TRADE, empty

SECOND = 10**9


class Host:
    """What a feed would do; `wanted_from` is where it was asked for the past anew."""

    def __init__(self) -> None:
        self.holes = self.dropped = 0
        self.wanted_from: int | None = None

    def count(self, reason: int, offender: str, times: int = 1) -> None:
        self.dropped += times

    def tell_hole(self, m: np.void, expected: int, got: int) -> Rows:
        self.holes += 1
        row = empty(1)
        row["kind"] = GAP
        return row

    def ask_past(self, place: int, after_ns: int) -> None:
        self.wanted_from = after_ns // SECOND

    def hole_stays(self, place: int, why: str) -> None:
        raise AssertionError(why)


class Session:
    """A market's trades 1 to `count`, of which the history has some, and what a line is told of them."""

    def __init__(self, chance: random.Random) -> None:
        self.chance, self.host = chance, Host()
        count = chance.randrange(3, 60)
        self.lots = {n: chance.randrange(1, 9) for n in range(1, count + 1)}
        self.cuts = [1]  # where the sums begin that the venue makes of its trades
        while self.cuts[-1] <= count:
            self.cuts.append(self.cuts[-1] + chance.randrange(1, 6))
        self.history = chance.randrange(0, count)
        self.joining = Joining(self.host)
        known = range(max(1, self.history - 9), self.history + 1)
        own = OwnLine("history", last=self.history, time=self.history * SECOND, tail=[(n, n, self.lots[n]) for n in known])
        self.joining.expect(0, own)
        self.out: list[tuple[int, int]] = []  # (id, lots) of the trades let through

    def send(self, kind: int, first: int, last: int, past: bool) -> None:
        m, rows = np.zeros(1, MESSAGE), empty(1)
        m["kind"], m["venue_seq"], m["first_seq"], m["prev_seq"] = kind, last, first, PAST if past else 0
        m["ts_event_ns"] = last * SECOND
        rows["kind"], rows["venue_seq"] = kind, last
        rows["qty_lots"] = sum(self.lots[n] for n in range(first, last + 1)) if kind == TRADE else 0
        passed = [row for rows in self.joining.step(m[0], rows) for row in rows]
        self.out += [(int(r["venue_seq"]), int(r["qty_lots"])) for r in passed if r["kind"] == TRADE]

    def tell_past(self, begin: int, end: int) -> None:
        """REST: sums from that of `begin` on, the last of which may still grow at `end`; then that this is all."""
        for first, last in zip(self.cuts, [n - 1 for n in self.cuts[1:]], strict=False):
            if last >= begin and first <= end:
                self.send(TRADE, first, min(last, end), True)
        self.send(CONNECTION, 0, 0, False)

    def live(self) -> None:
        """The stream begins at some trade; REST answers now and then, with a lag, and again where it is asked."""
        count, chance = len(self.lots), self.chance
        begins = chance.randrange(self.history + 1, count + 1) if self.history else 1
        told_at = chance.randrange(begins, count + 1)
        for n in range(begins, count + 1):
            self.send(TRADE, n, n, False)
            if n == told_at:
                self.tell_past(self.history + 1, max(self.history, n - chance.randrange(4)))
            while self.host.wanted_from is not None:
                after, self.host.wanted_from = self.host.wanted_from, None
                self.tell_past(after + 1, n)


@pytest.mark.parametrize("case", range(300))
def test_each_trade_behind_the_history_comes_once_with_all_its_lots(case: int, seed: int) -> None:
    session = Session(random.Random(seed + case))
    session.live()
    ids = [n for n, _ in session.out]
    first, last = session.history + 1, len(session.lots)
    assert ids == sorted(set(ids)), seed + case
    assert sum(lots for _, lots in session.out) == sum(session.lots[n] for n in range(first, last + 1)), seed + case
    assert ids[-1] == last, seed + case
    assert not session.joining.warming, seed + case
