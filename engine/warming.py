"""Warm-up: the history that a live line is fed before its venue, from `[warmup]` of the configuration.

    history (a run, a tape, captures, …) ──► the last `span` of the live instruments, flagged WARMUP, in the live feed's numbers ──► LiveFeed
                        └──► of each its last trade: a `history` line, which the venue's trades are joined to (`venues.joining`)

The history is read twice: once to its end, to know where the span begins and which trade is the last; then window by window, as the
line takes it. Books of the history are built from the last snapshot before the span, and end with a GAP: what the venue sends next is
no continuation of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from engine.config import WarmupConfig, span_ns
from engine.errors import ConfigError
from engine.feeds import OpenFeed, open_one
from engine.journaling import INPUT_LOG, Rows
from handlers.domain.reasons import CONNECTION_LOST
from handlers.ingest.errors import FeedError
from handlers.ingest.venues.joining import TAIL_MAX
from handlers.ingest.live.feed import LiveFeed
from handlers.ingest.venues.own_lines import OwnLine
from handlers.ingest.venues.stream import Stream
from transport.clock import wall_ns
from transport.records import BOOK_DELTA, BOOK_SNAPSHOT, CLEAR, EVENT_END, EVENT_FIRST, GAP, NO_INSTRUMENT, TRADE, WARMUP, copied, empty

ROWS_MAX = 200_000_000  # of a history: a minute or two of sequencing, and four days of a busy market
NS_PER_MS = 10**6
ALWAYS = -(2**62)  # before every time


def check_streams(streams: Sequence[Stream], warmup: WarmupConfig) -> None:
    """Raises ConfigError where a venue cannot tell what the warm-up needs."""
    for stream in streams:
        wants_past = warmup.source == "rest" or (warmup.source != "off" and warmup.on_hole == "stop")
        if wants_past and not stream.trades_url(stream.symbols[0], 0):
            raise ConfigError(
                f"warmup: past trades of {stream.market} cannot be had, so that no history can be joined to it without a hole; "
                'from = "journal" with on_hole = "trade" goes on over that'
            )


def warm_up(feeds: Sequence[LiveFeed], warmup: WarmupConfig) -> None:
    """Give bound live feeds what they begin with; raises ConfigError, FeedError in words."""
    if warmup.source == "off":
        return
    since_ms = (wall_ns() - span_ns(warmup.span)) // NS_PER_MS
    for feed in feeds:
        stream = feed.source.stream
        if warmup.source == "rest":
            joins, windows = [OwnLine("history", symbol=s) for s in stream.symbols], None
        else:
            history = History(_opened(warmup, feed), feed, span_ns(warmup.span))
            joins, windows = history.joins(), history.windows
        feed.warm(joins, since_ms, windows, warmup.on_hole == "trade")


def _opened(warmup: WarmupConfig, feed: LiveFeed) -> OpenFeed:
    """The history, its prices on the venue's own grid where it does not state one."""
    if warmup.source == "journal" and not (Path(warmup.path) / INPUT_LOG).is_dir():
        raise ConfigError(f"warmup.path: {warmup.path} is no run's folder")
    opened = open_one(warmup.path, feed.instruments, feed.instruments)
    opened.bind(opened.instruments, 0)
    return opened


class History:
    """The part of `opened` that `feed` is warmed up with, in the feed's numbers; raises ConfigError where it is of other instruments."""

    def __init__(self, opened: OpenFeed, feed: LiveFeed, span: int) -> None:
        self.opened, self.feed = opened, feed
        here = {i.name: n for n, i in enumerate(opened.instruments)}
        for instrument in feed.instruments:
            found = here.get(instrument.name)
            if found is None:
                raise self._nothing_of(instrument.name)
            past = opened.instruments[found]
            if (past.tick, past.lot, past.multiplier) != (instrument.tick, instrument.lot, instrument.multiplier):
                raise ConfigError(f"warmup.path: {instrument.name} has another tick or lot in {opened.spec} than at the venue")
        self.places = [here[i.name] for i in feed.instruments]
        self.ids = np.full(len(here), NO_INSTRUMENT, np.uint32)  # id in the history -> id in the line
        self.ids[self.places] = feed.ids
        self.end_ns = ALWAYS
        self.tails: list[list[tuple[int, int, int]]] = [[] for _ in here]
        self.lasts = [(0, 0)] * len(here)  # (trade id, its time)
        self._starts: list[list[int]] = [[] for _ in here]  # times at which whole books begin
        self._look(span)

    def _nothing_of(self, name: str) -> ConfigError:
        return ConfigError(f"warmup.path: {self.opened.spec} has nothing of {name}")

    def joins(self) -> list[OwnLine]:
        """A `history` line for each of the feed's symbols."""
        return [
            OwnLine("history", symbol=i.symbol, last=self.lasts[k][0], time=self.lasts[k][1], tail=self.tails[k])
            for i, k in zip(self.feed.instruments, self.places, strict=True)
        ]

    def windows(self, rows_max: int) -> Iterator[Rows]:
        """The rows, at most `rows_max` at a time, the books' ends last."""
        booked: set[int] = set()
        last_ns = 0
        for rows in self._chosen(rows_max):
            wanted = rows["ts_recv_ns"] >= np.where(_of_book(rows), self._book_from[rows["instrument_id"]], self._from_ns)
            rows = copied(rows, wanted)
            if not len(rows):
                continue
            rows["instrument_id"] = self.ids[rows["instrument_id"]]
            rows["source_id"], rows["epoch"] = self.feed.source_id, 0
            rows["seq"] = rows["ts_seq_ns"] = 0
            rows["flags"] |= WARMUP
            booked.update(rows["instrument_id"][_of_book(rows)].tolist())
            last_ns = max(last_ns, int(rows["ts_recv_ns"].max()))
            yield rows
        if booked:
            yield self._ends(sorted(booked), last_ns)

    def _chosen(self, rows_max: int) -> Iterator[Rows]:
        """Windows of the history's rows of the feed's instruments, in its own numbers."""
        for rows in self.opened.windows(rows_max):
            for start in range(0, len(rows), rows_max):  # a tape is one window
                part = rows[start : start + rows_max]
                yield copied(part, np.isin(part["instrument_id"], self.places))

    def _look(self, span: int) -> None:
        """Read to the end: where the span begins, and the last trades."""
        seen: list[tuple[int, int]] = []
        seen_of = np.zeros(len(self.opened.instruments), np.bool_)
        for rows in self._chosen(1 << 16):
            if not len(rows):
                continue
            seen_of[np.unique(rows["instrument_id"])] = True
            self.end_ns = max(self.end_ns, int(rows["ts_recv_ns"].max()))
            seen.append((int(rows["ts_recv_ns"].max()), len(rows)))
            whole = (rows["kind"] == BOOK_SNAPSHOT) & (rows["flags"] & EVENT_FIRST != 0) | (rows["kind"] == BOOK_DELTA) & (rows["action"] == CLEAR)
            for r in rows[whole]:
                self._starts[r["instrument_id"]].append(int(r["ts_recv_ns"]))
            for k in self.places:
                self._keep_tail(k, rows[(rows["kind"] == TRADE) & (rows["instrument_id"] == k)])
        for k in self.places:
            if not seen_of[k]:
                raise self._nothing_of(self.opened.instruments[k].name)
        self._from_ns = self.end_ns - span
        before = [[t for t in starts if t <= self._from_ns] for starts in self._starts]
        self._book_from = np.array([max(times, default=self._from_ns) for times in before], np.int64)
        if sum(n for last, n in seen if last >= self._book_from.min()) > ROWS_MAX:
            raise ConfigError(f"warmup.span: more than {ROWS_MAX} records; take a shorter one")

    def _keep_tail(self, k: int, trades: Rows) -> None:
        if not len(trades):
            return
        before, recent = self.lasts[k][0], trades[-TAIL_MAX:]
        if recent["venue_seq"][-1] <= 0:
            name = self.opened.instruments[k].name
            raise FeedError(f"warmup.path: the trades of {name} in {self.opened.spec} have no ids to join the venue's to")
        for n, lots in zip(recent["venue_seq"].tolist(), recent["qty_lots"].tolist(), strict=True):
            if n == before + 1:  # else it may sum up several
                self.tails[k].append((n, n, lots))
            before = n
        self.tails[k] = self.tails[k][-TAIL_MAX:]
        self.lasts[k] = (before, int(trades["ts_event_ns"][-1]))

    def _ends(self, ids: Sequence[int], when: int) -> Rows:
        """A GAP for each book: it is not the venue's."""
        rows = empty(len(ids))
        rows["kind"], rows["flags"], rows["source_id"] = GAP, EVENT_END | WARMUP, self.feed.source_id
        rows["instrument_id"], rows["ts_recv_ns"], rows["ts_event_ns"] = ids, when, when
        rows["reason"], rows["lost"] = CONNECTION_LOST, -1
        return rows


def _of_book(rows: Rows) -> np.ndarray:
    return np.isin(rows["kind"], (BOOK_DELTA, BOOK_SNAPSHOT, GAP))
