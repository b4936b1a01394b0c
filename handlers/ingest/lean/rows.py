"""From the numbers of Lean's lines to records, a block at a time and column by column.

    trade tick   TRADE, an event each
    quote tick   QUOTE with the newest bid and the newest ask: the national best. An equity's row changes one side; a bid row and the
                 ask row behind it at the same millisecond are one event, between which the two may cross. A currency's has both,
                 without sizes, which become one lot
    trade bar    BAR, side NO_SIDE             quote bar   two BARs, BID then ASK, one event; a side without prices has none

`conditions` of ticks: bits 0-31 the publisher's flags, bit 32 that it calls the tick suspicious, bits 40-47 the exchange's letter.
Bars bear the time at which they closed: a minute after that of their line, or the next midnight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from handlers.domain.reasons import (
    CROSSED_QUOTE, LOCKED_QUOTE, MISSING_FIELD, NOT_POSITIVE, PRICE_OFF_GRID, QTY_OFF_GRID, TIME_JUMP, TIME_OUT_OF_RANGE,
)  # fmt: skip
from handlers.ingest.errors import FeedError
from handlers.ingest.feed import Rows
from handlers.ingest.jumps import NO_TIME, jumps
from handlers.ingest.lean.files import (
    DAILY, DAY_NS, EQUITY, INTERVAL_NS, NO_DAY, TICK, TRADES, LeanFile, day_number, to_utc,
)  # fmt: skip
from handlers.ingest.lean.text import ABSENT, COLUMN, HEX, LETTER, NUMBER, STAMP, scan_lines
from transport.instruments import Instrument
from transport.records import ASK, BAR, BID, EVENT_END, QUOTE, REC, SLOT_BYTES, TRADE, empty

SUSPICIOUS = 1 << 32
LETTER_AT = 40
KEEP, DROP, DROP_LOCKED = "keep", "drop", "drop_locked"  # what is done with a quote whose ask is below its bid, or not above it
NANO_DIGITS, MICRO_DIGITS = 9, 6
UNSIZED_LOTS = 1  # of a currency's quote, which tells no size: 0 would be a side that nobody quotes
EQUITY_DIGITS = 4  # an equity's prices are counted in 1e-4
LAST_PAUSE_NS = 31 * DAY_NS  # the last line of a file has none behind it that could confirm its date
Column = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Grid(NamedTuple):
    """An instrument's steps in the units that lines are scanned in."""

    tick_nano: int
    lot_micro: int


class Decoded(NamedTuple):
    """Rows of a block of lines and, of every line, why it has none: a reason, BLANK or 0."""

    rows: Rows
    reasons: Column


class Quoted(NamedTuple):
    """The newest bid and ask of a file up to some line."""

    bid: int = 0
    bid_lots: int = 0
    ask: int = 0
    ask_lots: int = 0


def grid_of(instrument: Instrument) -> Grid:
    """Raises FeedError for a tick or a lot that is finer than what lines are read to."""
    tick, lot = instrument.tick.scaleb(NANO_DIGITS), instrument.lot.scaleb(MICRO_DIGITS)
    if tick != int(tick) or lot != int(lot):
        raise FeedError(f"{instrument.name}: Lean's files are read to a tick of 1e-9 and a lot of 1e-6, not finer")
    return Grid(int(tick), int(lot))


def columns_of(file: LeanFile) -> np.ndarray[Any, Any]:
    """How each field of the file's lines is read, dtype COLUMN."""
    price = (NUMBER, NANO_DIGITS - (EQUITY_DIGITS if file.asset == EQUITY else 0), PRICE_OFF_GRID)
    size = (NUMBER, MICRO_DIGITS, QTY_OFF_GRID)
    time = (STAMP, 0, 0) if file.day == NO_DAY else (NUMBER, 6, 0)  # milliseconds in ns
    tick_end = [(LETTER, 0, 0), (HEX, 0, 0), (NUMBER, 0, 0)]
    if file.resolution != TICK:
        side = [price] * 4 + [size]
        shape = [time, *side] if file.what == TRADES else [time, *side, *side]
    elif file.what == TRADES:
        shape = [time, price, size, *tick_end]
    else:
        shape = [time, price, size, price, size, *tick_end] if file.columns == 8 else [time, price, price]
    return np.array(shape, COLUMN)


class Block:
    """Lines of one file as columns of integers, and the reasons found so far; an instance lives for one block."""

    def __init__(self, file: LeanFile, text: bytes, last: Column) -> None:
        """`last` has the UTC ns of the line before, 0 for none, shape (1,), and then that of the last."""
        columns = columns_of(file)
        self.file = file
        count = text.count(b"\n") + (not text.endswith(b"\n"))
        values = np.zeros(count * len(columns), np.int64)
        self.reasons = np.zeros(count, np.int64)
        used = scan_lines(np.frombuffer(text, np.uint8).copy(), columns, values, self.reasons)
        assert used == count
        self.values = values.reshape(count, len(columns)).T
        self.refuse(self.values[0] == ABSENT, MISSING_FIELD)
        self.ts_open_ns, self.ts_ns = self._times(last)

    def refuse(self, which: Mask, reason: int) -> None:
        """Give `reason` to the lines of `which` that have none yet."""
        self.reasons[which & (self.reasons == 0)] = reason

    def require(self, *columns: int) -> None:
        """These fields may not be empty."""
        for c in columns:
            self.refuse(self.values[c] == ABSENT, MISSING_FIELD)

    def _times(self, last: Column) -> tuple[Column, Column]:
        """(ns UTC that lines bear, ns UTC of their records) or 0; a line with a time that cannot be is refused."""
        file, raw = self.file, self.values[0]
        days = np.full(len(raw), file.day)
        of_day = raw.copy()
        if file.day == NO_DAY:
            unique, at = np.unique(raw // 10_000, return_inverse=True)
            days = np.array([day_number(int(u)) for u in unique], np.int64)[at]
            hour, minute = raw % 10_000 // 100, raw % 100
            of_day = np.where((hour < 24) & (minute < 60), (hour * 60 + minute) * 60 * 10**9, -1)
        good = (self.reasons == 0) & (days >= 0) & (of_day >= 0) & (of_day < DAY_NS)
        self.refuse(~good, TIME_OUT_OF_RANGE)
        opened, closed = np.zeros(len(raw), np.int64), np.zeros(len(raw), np.int64)
        opened[good] = to_utc(days[good], of_day[good], file.zone, last)
        if file.resolution == DAILY:
            closed[good] = to_utc(days[good] + 1, np.zeros(int(good.sum()), np.int64), file.zone, np.zeros(1, np.int64))
        else:
            closed[good] = opened[good] + INTERVAL_NS.get(file.resolution, 0)
        if file.day == NO_DAY:
            good[good] = ~_jumped(closed[good])
            self.refuse(~good, TIME_JUMP)
        return opened, closed

    def prices(self, column: int, grid: Grid) -> Column:
        """A price column in ticks; lines off the grid are refused, an empty field is 0 ticks."""
        raw = np.where((self.values[column] == ABSENT) | (self.reasons != 0), 0, self.values[column])
        ticks, off = np.divmod(raw, grid.tick_nano)
        self.refuse(off != 0, PRICE_OFF_GRID)
        return ticks

    def lots(self, column: int, grid: Grid) -> Column:
        """A size column in lots; lines off the grid or below 0 are refused, an empty field is 0 lots."""
        raw = np.where((self.values[column] == ABSENT) | (self.reasons != 0), 0, self.values[column])
        lots, off = np.divmod(raw, grid.lot_micro)
        self.refuse(raw < 0, NOT_POSITIVE)
        self.refuse(off != 0, QTY_OFF_GRID)
        return lots

    def conditions(self, first: int) -> Column:
        """The three last columns of a tick as one word."""
        letter, flags, suspicious = (np.where(v == ABSENT, 0, v) for v in self.values[first : first + 3])
        return flags | (suspicious != 0) * SUSPICIOUS | letter << LETTER_AT

    def rows(self, keep: Mask, kind: int, **fields: Column) -> Rows:
        """Slots of the lines of `keep`, each an event."""
        rows = empty(int(keep.sum()))
        rows["kind"], rows["flags"] = kind, EVENT_END
        rows["ts_event_ns"] = rows["ts_recv_ns"] = self.ts_ns[keep]
        for name, column in fields.items():
            rows[name] = column[keep]
        return rows


def _jumped(times: Column) -> Mask:
    """Which lines of a file's whole history stand alone in the future; the last line is believed after a pause of up to 31 days."""
    if len(times) > 1 and 0 <= times[-1] - times[-2] <= LAST_PAUSE_NS:
        return jumps(np.append(times, times[-1]), NO_TIME)[:-1]
    return jumps(times, NO_TIME)


def decode_trades(file: LeanFile, grid: Grid, text: bytes, first_line: int, last: Column) -> Decoded:
    """Trade ticks."""
    block = Block(file, text, last)
    block.require(1, 2)
    price, lots = block.prices(1, grid), block.lots(2, grid)
    block.refuse((price <= 0) | (lots <= 0), NOT_POSITIVE)
    keep = block.reasons == 0
    origin = first_line + np.arange(len(keep))
    rows = block.rows(keep, TRADE, price_ticks=price, qty_lots=lots, conditions=block.conditions(3), origin=origin)
    return Decoded(rows, block.reasons)


def decode_quotes(
    file: LeanFile, grid: Grid, text: bytes, behind: bytes, first_line: int, before: Quoted, crossed: str, last: Column
) -> tuple[Decoded, Quoted]:
    """Quote ticks behind `before`, and what is quoted after them; the line `behind` tells whether the last is half of an event."""
    block = Block(file, text + behind, last)
    lines = len(block.reasons) - bool(behind)
    if file.columns == 3:
        bid, ask, conditions = block.prices(1, grid), block.prices(2, grid), np.zeros(len(block.reasons), np.int64)
        bid_lots = ask_lots = conditions + UNSIZED_LOTS
        block.require(1, 2)
    else:
        bid, ask = block.prices(1, grid), block.prices(3, grid)
        bid_lots, ask_lots = block.lots(2, grid), block.lots(4, grid)
        conditions = block.conditions(5)
    block.refuse((bid < 0) | (ask < 0) | ((bid == 0) & (ask == 0)), NOT_POSITIVE)
    has_bid, has_ask = (bid > 0) & (block.reasons == 0), (ask > 0) & (block.reasons == 0)  # what is refused quotes nothing
    half = has_bid & ~has_ask
    half[:-1] &= has_ask[1:] & ~has_bid[1:] & (block.ts_ns[1:] == block.ts_ns[:-1])
    half[-1:] = False
    bid, bid_lots = _newest(bid, bid_lots, has_bid, before.bid, before.bid_lots)
    ask, ask_lots = _newest(ask, ask_lots, has_ask, before.ask, before.ask_lots)
    end = ~half
    _drop_crossed(block, bid, ask, half, end, crossed)
    block.reasons = block.reasons[:lines]
    keep = np.append(block.reasons == 0, np.zeros(int(bool(behind)), np.bool_))
    flags = np.where(end, EVENT_END, 0)
    rows = block.rows(
        keep, QUOTE, price_ticks=bid, qty_lots=bid_lots, ask_ticks=ask, ask_lots=ask_lots, conditions=conditions,
        flags=flags, origin=first_line + np.arange(len(keep)),
    )  # fmt: skip
    end_of = lines - 1
    return Decoded(rows, block.reasons), Quoted(int(bid[end_of]), int(bid_lots[end_of]), int(ask[end_of]), int(ask_lots[end_of]))


def _newest(price: Column, lots: Column, has: Mask, price_before: int, lots_before: int) -> tuple[Column, Column]:
    """Of every line the price and lots of the last line up to it that has them."""
    at = np.maximum.accumulate(np.where(has, np.arange(len(has)), -1))
    return np.where(at < 0, price_before, price[at]), np.where(at < 0, lots_before, lots[at])


def _drop_crossed(block: Block, bid: Column, ask: Column, half: Mask, end: Mask, crossed: str) -> None:
    """Refuse crossed (and locked) states as `crossed` says; an event whose second half goes ends with its first."""
    known = (bid > 0) & (ask > 0)
    if crossed != KEEP:
        block.refuse(known & (ask < bid), CROSSED_QUOTE)
    if crossed == DROP_LOCKED:
        block.refuse(known & (ask == bid), LOCKED_QUOTE)
    gone = np.append(block.reasons[1:] != 0, False)
    end |= half & gone


def decode_bars(file: LeanFile, grid: Grid, text: bytes, last: Column) -> Decoded:
    """Bars of trades, or pairs of bars of quotes."""
    block = Block(file, text, last)
    sides = 1 if file.what == TRADES else 2
    given: list[Mask] = []
    parts: list[dict[str, Column]] = []
    for side in range(sides):
        places = range(1 + 5 * side, 5 + 5 * side)
        counts = np.sum([block.values[c] != ABSENT for c in places], axis=0)
        there: Mask = counts == len(places)
        block.refuse((counts > 0) & ~there, MISSING_FIELD)
        names = ("open_ticks", "high_ticks", "low_ticks", "close_ticks")
        parts.append({name: block.prices(c, grid) for name, c in zip(names, places, strict=True)})
        parts[-1]["volume_lots"] = block.lots(5 + 5 * side, grid)
        block.refuse(there & (np.min([parts[-1][n] for n in names], axis=0) <= 0), NOT_POSITIVE)
        given.append(there)
    block.refuse(~np.any(given, axis=0), MISSING_FIELD)
    times = {"ts_open_ns": block.ts_open_ns, "interval_ns": block.ts_ns - block.ts_open_ns}
    good = block.reasons == 0
    if sides == 1:
        return Decoded(block.rows(good, BAR, **parts[0], **times), block.reasons)
    both = [block.rows(good & there, BAR, **part, **times) for there, part in zip(given, parts, strict=True)]
    return Decoded(_paired(both, [good & there for there in given]), block.reasons)


def _paired(both: list[Rows], kept: list[Mask]) -> Rows:
    """Bid rows and ask rows in the order of their lines, the bid first; of a pair the ask ends the event."""
    bids, asks = both
    bids["side"], asks["side"] = BID, ASK
    bids["flags"] = np.where(kept[1][kept[0]], 0, EVENT_END)
    line = np.concatenate([np.flatnonzero(k) for k in kept])
    return ordered(both, line)


def ordered(parts: Sequence[Rows], key: Column) -> Rows:
    """All rows of `parts` in the order of `key`, which has a number for each; of equal ones the earlier part's first."""
    joined = np.concatenate([rows.view(np.uint8).reshape(-1, SLOT_BYTES) for rows in parts])
    return joined[np.argsort(key, kind="stable")].reshape(-1).view(REC)

