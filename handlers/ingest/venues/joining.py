"""A live feed is joined to the history before it, symbol by symbol, without a trade twice or missing: the ids of trades prove it.

    history ──► last id ──► trades told by REST ──► JOINED ──► trades held since the stream began ──► the next live one
                             id <= last: HISTORY_OVERLAP, dropped      id > last + 1: HISTORY_HOLE, a GAP, asked for again

It is driven by the lines of a capture alone (`own_lines`): a session's capture decodes to what the session itself let through. Until
a symbol's past has been told its live trades are held, and the feed's records bear WARMUP; so do the held ones, which are old news.
The first live trade that follows the last one known proves the join, and from then on nothing is looked at here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from handlers.domain.reasons import HISTORY_OVERLAP, HISTORY_UNTOLD
from handlers.ingest.feed import Rows
from handlers.ingest.venues.own_lines import OwnLine
from handlers.ingest.venues.protocol import PAST
from transport.records import CONNECTION, copied

ATTEMPTS = 5  # of having a hole filled: REST answers from databases that follow the stream by a second or two
HELD_TRADES_MAX = 1 << 16  # of a symbol; older ones are dropped, and had again from REST, or a hole
TAIL_MAX = 1000  # trades that are known one by one, to part a sum of which some are covered
NEWER_NS = 10**9  # an id of the past with a time so much later is of another market's history


class Held(NamedTuple):
    """A trade: its entry of MESSAGE and its row, none where it was refused."""

    message: np.void
    rows: Rows

    @property
    def first(self) -> int:
        """Id of the first trade that it covers."""
        return int(self.message["first_seq"] if self.message["prev_seq"] == PAST else self.message["venue_seq"])

    @property
    def last(self) -> int:
        return int(self.message["venue_seq"])


class Host(Protocol):
    """What the joining asks of the feed that it is in: see `CaptureFeed`."""

    def count(self, reason: int, offender: str, times: int = 1) -> None: ...

    def tell_hole(self, m: np.void, expected: int, got: int) -> Rows: ...

    def ask_past(self, place: int, after_ns: int) -> None: ...

    def hole_stays(self, place: int, why: str) -> None: ...


class Join:
    """One symbol: what is covered up to now, and what waits. `told`: the past stands above, and the next live trade is to follow it."""

    def __init__(self, own: OwnLine) -> None:
        self.last, self.last_ns = own.last, own.time  # 0: no trade is known
        self.tail = {first: (last, lots) for first, last, lots in own.tail[-TAIL_MAX:]}
        self.held: deque[Held] = deque(maxlen=HELD_TRADES_MAX)
        self.attempts = 0
        self.told = False

    def hold(self, trade: Held) -> Held | None:
        """Keep a copy; returns the one that had to go for it."""
        gone = self.held[0] if len(self.held) == HELD_TRADES_MAX else None
        self.held.append(Held(trade.message.copy(), copied(trade.rows)))
        return gone

    def accept(self, trade: Held) -> None:
        """It passes: what is covered ends with it."""
        first = self.last + 1 if trade.first <= self.last < trade.last else trade.first  # of what was not covered
        self.last, self.last_ns = trade.last, int(trade.message["ts_event_ns"])
        if len(trade.rows):
            self.tail[first] = (trade.last, int(trade.rows["qty_lots"][0]))
            if len(self.tail) > TAIL_MAX:
                del self.tail[next(iter(self.tail))]

    def follows(self, trade: Held) -> bool:
        """No id is missing before it, and none of it is covered; a sum that is covered in part loses that part."""
        if self.last in (0, trade.first - 1):
            return True
        return trade.first <= self.last < trade.last and self._part(trade)

    def is_newer(self, trade: Held) -> bool:
        """Its id is one of the past, its time is not: the history is of another market."""
        live = trade.message["prev_seq"] != PAST
        return bool(live and trade.last <= self.last and trade.message["ts_event_ns"] > self.last_ns + NEWER_NS)

    def _part(self, trade: Held) -> bool:
        """Take the lots of the trades up to `last` out of the sum; whether they are known."""
        at, lots = trade.first, 0
        while at <= self.last and at in self.tail:
            at, known = self.tail[at][0] + 1, self.tail[at][1]
            lots += known
        if at != self.last + 1 or (len(trade.rows) and lots >= trade.rows["qty_lots"][0]):
            return False
        if len(trade.rows):
            trade.rows["qty_lots"] -= lots
        return True


class Joining:
    """All symbols of a feed that are not proved yet; empty in a feed without history."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.joins: dict[int, Join] = {}

    def expect(self, place: int, own: OwnLine) -> None:
        """A `history` line: the symbol's trades are to follow it."""
        self.joins[place] = Join(own)

    @property
    def warming(self) -> bool:
        """Some symbol's past is still to come."""
        return any(not join.told for join in self.joins.values())

    def step(self, m: np.void, rows: Rows) -> Iterator[Rows]:
        """What may pass, of a trade or of what waited for the JOINED record that `m` is."""
        join = self.joins.get(int(m["place"]))
        if join is None:
            yield rows
        elif m["kind"] == CONNECTION:
            yield rows  # before what waited for it, which was received earlier: the line's time has gone on to here
            yield from self._told(join, m)
        elif join.told or m["prev_seq"] == PAST:
            yield from self._pass(join, [Held(m, rows)])
        else:
            self._hold(join, Held(m, rows))

    def give_up(self) -> None:
        """The feed has ended: count the trades whose past was never told."""
        for join in self.joins.values():
            for trade in join.held:
                self._never(trade)
            join.held.clear()

    def _hold(self, join: Join, trade: Held) -> None:
        gone = join.hold(trade)
        if gone is not None:
            self._never(gone)

    def _never(self, trade: Held) -> None:
        self.host.count(HISTORY_UNTOLD, f"line {int(trade.message['line']) + 1}: trade {trade.last} waited for what was before it")

    def _told(self, join: Join, m: np.void) -> Iterator[Rows]:
        """The past of a symbol stands above, or why not, `code` of the record says: what waited, if it can pass."""
        place, code, waiting = int(m["place"]), int(m["venue_seq"]), list(join.held)
        if code:
            yield self.host.tell_hole(m, join.last + 1, 0)
            if self._ask(join, place):
                return
            self.host.hole_stays(place, f"requests for its trades fail with status {code}")
            join.last = 0
        join.held.clear()
        yield from self._pass(join, waiting)
        join.told = not join.held  # else it was asked again

    def _pass(self, join: Join, trades: list[Held]) -> Iterator[Rows]:
        """Trades that follow what is covered; at a hole they wait while it is asked for."""
        proved = False
        for at, trade in enumerate(trades):
            place, live = int(trade.message["place"]), trade.message["prev_seq"] != PAST
            whole = join.follows(trade)
            if not whole:
                newer = join.is_newer(trade)
                if trade.last <= join.last and not newer:
                    self.host.count(HISTORY_OVERLAP, f"line {int(trade.message['line']) + 1}: trade {trade.last} is in the history")
                    continue
                expected = join.last + 1
                yield self.host.tell_hole(trade.message, expected, trade.first)
                if live and not newer and self._ask(join, place):
                    for waiting in trades[at:]:
                        self._hold(join, waiting)
                    return
                what = "is older than the last of its history, yet came later" if newer else "is the next that the venue tells"
                self.host.hole_stays(place, f"trade {expected} was to follow its history, and {trade.first} {what}")
            join.accept(trade)
            proved = proved or live
            if len(trade.rows) and (whole or live or trade.first >= expected):  # a sum of which some are covered is not told twice
                yield trade.rows
        if proved:
            del self.joins[place]

    def _ask(self, join: Join, place: int) -> bool:
        """Have what is missing asked for, if it may be once more; what is live waits for it."""
        if join.attempts >= ATTEMPTS:
            return False
        join.attempts += 1
        join.told = False
        self.host.ask_past(place, join.last_ns)
        return True
