"""Cut bars against a few lines of plain Python: every kind of bar over random trades, exact to the integer, whatever closes them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from handlers.domain.book import new_markets
from handlers.features.bars import (
    BY_NOTIONAL, BY_SESSION, BY_TICK_IMBALANCE, BY_TICKS, BY_TIME, BY_VOLUME, BY_VOLUME_IMBALANCE, NEVER, ON_RECORD, ON_TIMER, ON_TRADE,
    SESSION, SUM_MAX, BarsState, new_bars,
)  # fmt: skip
from handlers.features.catalogue import INDICATORS
from handlers.features.feature_set import FeatureSet
from handlers.features.stage import ROWS_MAX, FeaturesState, new_features
from tests.property.test_features import _features, random_book
from tests.stages import Fields, slots, stamped, trade
from transport.records import (
    ASK, BAR, BID, BUY, COMMAND, END_OF_FEED, EVENT_END, FEATURE, FEED_BASE, NO_INSTRUMENT, NO_SIDE, QUOTE, REC, SELL, TIMER, empty,
)  # fmt: skip

DAY_NS, MINUTE_NS = 86_400 * 10**9, 60 * 10**9
START_NS = 20_000 * DAY_NS + 14 * 3600 * 10**9
END = stamped(COMMAND, 1, NO_INSTRUMENT, action=END_OF_FEED)
FIELDS = (
    "instrument_id", "side", "ts_open_ns", "interval_ns", "open_ticks", "high_ticks", "low_ticks", "close_ticks", "volume_lots",
    "notional_ticks_lots", "trades", "session",
)  # fmt: skip
Bar = tuple[int, ...]


def state_of(bars: BarsState, instruments: int = 2) -> FeaturesState:
    return new_features(instruments, 5, 20, 10, 0, False, 4096, 0, bars)


def rows_of(state: FeaturesState, records: list[Fields]) -> np.ndarray:
    """The bars that FEATURES makes of the records; there is no book, hence nothing else."""
    markets, books = new_markets([False] * len(state.bars))
    out = empty(4 * len(records) + 8)
    rows = slots({**r, "seq": n} for n, r in enumerate(records))
    found = out[: _features(state, markets, books, rows, empty(ROWS_MAX), out)]
    assert set(found["kind"].tolist()) <= {BAR}
    return found


def bars_of(bars: BarsState, records: list[Fields], instruments: int = 2) -> list[Bar]:
    return [tuple(int(r[n]) for n in FIELDS) for r in rows_of(state_of(bars, instruments), [*records, END])]


def printed(at: int, price: int, lots: int, side: int = NO_SIDE, instrument: int = 0, conditions: int = 0) -> Fields:
    return {**trade(side, price, lots, at, instrument), "conditions": conditions}


def quoted(at: int, bid: int, ask: int, **fields: Any) -> Fields:
    return stamped(QUOTE, at, **{"price_ticks": bid, "qty_lots": 5, "ask_ticks": ask, "ask_lots": 7, **fields})


def sessions(*hours: tuple[int, int, int]) -> np.ndarray:
    """(open, close, day) each, in ns."""
    return np.array(list(hours), SESSION)


# --- the oracle -----------------------------------------------------------------------------------------------------------
@dataclass
class Plain:
    """Bars of one instrument, closed by trades: the module's text again, in lists."""

    by: int
    size: int = 0
    sessions: list[tuple[int, int, int]] = field(default_factory=list)
    adapt: float = 0.0
    masks: tuple[int, int] = (0, 0)
    at: int = 0
    closed: int = 0
    start: int = 0
    ends: int = NEVER
    held: list[tuple[int, int, int, bool, bool]] = field(default_factory=list)  # time, price, lots, priced, counted
    theta: int = 0
    sign: int = 0
    last: int | None = None
    expected: tuple[float, float] | None = None
    out: list[Bar] = field(default_factory=list)

    def close(self) -> None:
        prices = [p for _, p, _, priced, _ in self.held if priced]
        counted = [(p, q) for _, p, q, _, c in self.held if c]
        if prices:
            clock = self.by in (BY_TIME, BY_SESSION)
            length = self.ends - self.start if clock else max(t for t, *_ in self.held) - self.start
            lots, money = sum(q for _, q in counted), sum(p * q for p, q in counted)
            day = self.sessions[self.at][2] if self.sessions else 0
            self.out.append((0, 0, self.start, length, prices[0], max(prices), min(prices), prices[-1], lots, money, len(counted), day))
        self.held, self.theta = [], 0

    def take(self, r: Fields) -> None:
        when, price, lots = r["ts_event_ns"], r["price_ticks"], r["qty_lots"]
        if self.held and when >= self.ends:
            self.close()
            self.closed = self.ends
        priced, counted = not r["conditions"] & self.masks[0], not r["conditions"] & self.masks[1]
        if not priced and not counted:
            return
        while self.at < len(self.sessions) and self.sessions[self.at][1] <= when:
            self.at += 1
        if self.sessions and not (self.at < len(self.sessions) and self.sessions[self.at][0] <= when):
            return
        when = max(when, self.closed)
        if self.sessions and when >= self.sessions[self.at][1]:
            return
        if not self.held:
            self.open(when)
        if r["side"] != NO_SIDE:
            self.sign = 1 if r["side"] == BUY else -1
        elif priced and self.last is not None and price != self.last:
            self.sign = 1 if price > self.last else -1
        self.last = price if priced else self.last
        self.held.append((when, price, lots, priced, counted))
        self.theta += counted * self.sign * (1 if self.by == BY_TICK_IMBALANCE else lots)
        if any(h[3] for h in self.held) and any(h[4] for h in self.held) and self.reached():
            self.close()

    def open(self, when: int) -> None:
        begun, self.ends = self.sessions[self.at][:2] if self.sessions else (0, NEVER)
        self.start = when
        if self.by == BY_TIME:
            self.start = begun + (when - begun) // MINUTE_NS * MINUTE_NS
            self.ends = min(self.ends, self.start + MINUTE_NS)
        elif self.by == BY_SESSION:
            self.start = begun

    def reached(self) -> bool:
        counted = [(p, q) for _, p, q, _, c in self.held if c]
        if self.by == BY_TICKS:
            return len(counted) >= self.size
        if self.by == BY_VOLUME:
            return sum(q for _, q in counted) >= self.size
        if self.by == BY_NOTIONAL:
            return abs(sum(p * q for p, q in counted)) >= self.size
        if self.by not in (BY_TICK_IMBALANCE, BY_VOLUME_IMBALANCE):
            return False
        wanted: float = self.size
        if self.adapt and self.expected:
            wanted = min(max(self.expected[0] * abs(self.expected[1]), wanted * 0.25), wanted * 4.0)
        if abs(self.theta) < wanted:
            return False
        count, share = len(counted), self.theta / len(counted)
        e = self.expected
        self.expected = (e[0] + self.adapt * (count - e[0]), e[1] + self.adapt * (share - e[1])) if e else (float(count), share)
        return True


def random_trades(chance: random.Random, count: int = 600) -> list[Fields]:
    """Trades of one instrument over a few hours, some of them late, some without a known side."""
    at, out, price = START_NS, [], 1000
    for _ in range(count):
        at += chance.choice((0, MINUTE_NS // 50, MINUTE_NS // 3, MINUTE_NS if chance.random() < 0.2 else 0, chance.randrange(MINUTE_NS)))
        late = chance.randrange(2 * MINUTE_NS) if chance.random() < 0.1 else 0
        price += chance.randrange(-3, 4)
        out.append(printed(at - late, price, chance.randrange(1, 400), chance.choice((NO_SIDE, NO_SIDE, BUY, SELL)), conditions=chance.randrange(8)))
    return out


CASES = [
    Plain(BY_TIME), Plain(BY_TICKS, 7), Plain(BY_VOLUME, 2000), Plain(BY_NOTIONAL, 1_500_000), Plain(BY_TICK_IMBALANCE, 4),
    Plain(BY_VOLUME_IMBALANCE, 900), Plain(BY_TICK_IMBALANCE, 4, adapt=0.25), Plain(BY_VOLUME_IMBALANCE, 900, adapt=0.5),
]  # fmt: skip


@pytest.mark.parametrize("masks", [(0, 0), (3, 4)], ids=["all", "conditions"])
@pytest.mark.parametrize("open_all_day", [True, False], ids=["24/7", "sessions"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.by}-{c.adapt}")
def test_bars_of_random_trades_equal_plain_python(case: Plain, open_all_day: bool, masks: tuple[int, int], seed: int) -> None:
    hours = [] if open_all_day else [(START_NS + k * 3600 * 10**9, START_NS + k * 3600 * 10**9 + 50 * MINUTE_NS + 7, 20_000 + k) for k in range(6)]
    trades = random_trades(random.Random(seed))
    plain = replace(case, sessions=hours, masks=masks, held=[], out=[])
    for r in trades:
        plain.take(r)
    plain.close()
    bars = new_bars(
        [case.size] * 2, sessions(*hours) if hours else None, by=case.by, interval_ns=MINUTE_NS, adapt=case.adapt, price_excluded=masks[0],
        volume_excluded=masks[1],
    )  # fmt: skip
    assert bars_of(bars, trades) == plain.out, seed
    assert len(plain.out) >= 2


@pytest.mark.parametrize("case", range(3))
def test_session_bars_of_random_trades_equal_plain_python(case: int, seed: int) -> None:
    hours = [(START_NS + k * 3600 * 10**9, START_NS + k * 3600 * 10**9 + 50 * MINUTE_NS, 20_000 + k) for k in range(4)]
    plain = Plain(BY_SESSION, sessions=hours)
    trades = random_trades(random.Random(seed + case))
    for r in trades:
        plain.take(r)
    plain.close()
    assert bars_of(new_bars([0, 0], sessions(*hours), by=BY_SESSION), trades) == plain.out, seed + case
    assert [b[2:4] for b in plain.out] == [(o, c - o) for o, c, _ in hours][: len(plain.out)]


def test_cut_minutes_closed_by_trades_are_the_plain_ones(seed: int) -> None:
    chance = random.Random(seed)
    trades = [{**r, "instrument_id": chance.randrange(2)} for r in random_trades(chance)]
    plain = new_features(2, 5, 20, 10, MINUTE_NS, False, 4096)
    cut = state_of(new_bars([0, 0], by=BY_TIME, interval_ns=MINUTE_NS))
    assert rows_of(plain, [*trades, END]).tobytes() == rows_of(cut, [*trades, END]).tobytes(), seed
    assert plain.digest.tobytes() == cut.digest.tobytes()


@pytest.mark.parametrize("depth", [0, 3])
@pytest.mark.parametrize("quotes", [False, True], ids=["book", "quote"])
def test_feature_rows_beside_cut_minutes_are_those_beside_plain_ones(depth: int, quotes: bool, seed: int) -> None:
    chance = random.Random(seed)
    records = [{**r, **dict.fromkeys(("ts_event_ns", "ts_seq_ns"), START_NS + k * MINUTE_NS // 7)} for k, r in enumerate(random_book(chance))]
    for at in range(0, len(records), 5):
        records.insert(at, {**quoted(records[at]["ts_event_ns"], 99, 101), "flags": chance.choice((0, EVENT_END))})
    found = []
    for bars in (None, new_bars([0, 0], by=BY_TIME, interval_ns=MINUTE_NS)):
        state = new_features(2, 5, 20, 10, 0 if bars else MINUTE_NS, quotes, 4096, depth, bars)
        markets, books = new_markets([False] * 2)
        rows, out = slots({**r, "seq": n} for n, r in enumerate([*records, END])), empty((3 + depth) * len(records))
        found.append((out[: _features(state, markets, books, rows, empty(ROWS_MAX), out)].tobytes(), state.digest.tobytes()))
    assert found[0] == found[1], seed
    kinds = np.frombuffer(found[0][0], REC)["kind"]
    assert min((kinds == BAR).sum(), (kinds == FEATURE).sum()) > 10


def test_a_split_of_the_stream_changes_no_byte(seed: int) -> None:
    chance = random.Random(seed)
    records = [*random_trades(chance), END]
    whole = rows_of(state_of(new_bars([5, 5], by=BY_TICKS)), records)
    state, parts, at = state_of(new_bars([5, 5], by=BY_TICKS)), [], 0
    while at < len(records):
        step = chance.randrange(1, 90)
        rows = rows_of(state, [timer(1), *records[at : at + step]])
        rows["seq"] += at - 1
        parts.append(rows.tobytes())
        at += step
    assert b"".join(parts) == whole.tobytes(), seed


# --- when a bar of the clock closes ---------------------------------------------------------------------------------------
def minutes(close_on: int, hours: np.ndarray | None = None, **rule: int) -> BarsState:
    return new_bars([0, 0], hours, by=BY_TIME, interval_ns=MINUTE_NS, close_on=close_on, **rule)


def timer(due: int) -> Fields:
    """Among trades: `slots` would set due_ns and price_ticks, which have one place, both."""
    return stamped(TIMER, due, NO_INSTRUMENT, price_ticks=due, source_id=1)


def seqs(bars: BarsState, records: list[Fields]) -> list[tuple[int, int]]:
    """(seq of the cause, interval's start after START_NS) of every bar."""
    return [(int(r["seq"]), int(r["ts_open_ns"]) - START_NS) for r in rows_of(state_of(bars), records)]


def test_a_quiet_instruments_bar_closes_by_the_first_record_of_a_later_time_and_no_other_instruments() -> None:
    other = {**quoted(START_NS + 3 * MINUTE_NS, 9, 11), "instrument_id": 1}
    records = [printed(START_NS, 10, 1), quoted(START_NS + MINUTE_NS - 1, 9, 11), other, quoted(START_NS + MINUTE_NS, 9, 11)]
    assert seqs(minutes(ON_RECORD), records) == [(3, 0)]
    assert seqs(minutes(ON_TRADE), records) == []


def test_a_timer_closes_the_bar_once_its_end_is_far_enough_behind_and_not_before() -> None:
    records = [printed(START_NS, 10, 1), timer(START_NS + MINUTE_NS + 999), timer(START_NS + MINUTE_NS + 1000), timer(START_NS + MINUTE_NS + 1001)]
    assert seqs(minutes(ON_TIMER, close_after_ns=1000), records) == [(2, 0)]
    assert seqs(minutes(ON_RECORD, close_after_ns=1000), records) == []


def test_trade_that_is_late_counts_in_the_next_bar_so_that_no_interval_has_two() -> None:
    trades = [printed(START_NS, 10, 1), timer(START_NS + MINUTE_NS), printed(START_NS + 5, 7, 3), printed(START_NS + MINUTE_NS + 1, 8, 2)]
    found = bars_of(minutes(ON_TIMER), trades)
    assert [(b[2] - START_NS, b[4:9]) for b in found] == [(0, (10, 10, 10, 10, 1)), (MINUTE_NS, (7, 8, 7, 8, 5))]


def test_trade_that_is_late_in_the_open_bar_counts_there() -> None:
    found = bars_of(minutes(ON_TRADE), [printed(START_NS, 10, 1), printed(START_NS + MINUTE_NS, 20, 1), printed(START_NS + 5, 7, 3)])
    assert [(b[2] - START_NS, b[4:9]) for b in found] == [(0, (10, 10, 10, 10, 1)), (MINUTE_NS, (20, 20, 7, 7, 4))]


def test_nothing_crosses_a_sessions_end_and_what_comes_late_over_it_is_counted() -> None:
    hours = sessions((START_NS, START_NS + 90 * 10**9, 7), (START_NS + DAY_NS, START_NS + DAY_NS + 90 * 10**9, 8))
    close = START_NS + 90 * 10**9
    records = [
        printed(START_NS - 1, 1, 1), printed(close - 1, 10, 1), printed(close, 99, 1), timer(close), printed(close - 2, 98, 1),
        printed(START_NS + DAY_NS, 20, 1), printed(close - 1, 97, 1), printed(START_NS + 9 * DAY_NS, 96, 1), END,
    ]  # fmt: skip
    state = state_of(minutes(ON_TIMER, hours))
    rows = rows_of(state, records)
    assert [(r["seq"], r["ts_open_ns"] - START_NS, r["interval_ns"] // 10**9, r["close_ticks"], r["session"]) for r in rows] == [
        (2, MINUTE_NS, 30, 10, 7), (7, DAY_NS, 60, 20, 8),
    ]  # fmt: skip
    assert state.cut.open["late"].tolist() == [2, 0]


@pytest.mark.parametrize(("by", "size"), [(BY_TICKS, 10), (BY_VOLUME, 10), (BY_NOTIONAL, 1000), (BY_TICK_IMBALANCE, 10)])
def test_a_session_ends_bars_that_no_clock_cuts(by: int, size: int) -> None:
    hours = sessions((START_NS, START_NS + 100, 7), (START_NS + DAY_NS, START_NS + DAY_NS + 100, 8))
    found = bars_of(new_bars([size] * 2, hours, by=by), [printed(START_NS + 5, 10, 1), printed(START_NS + 60, 11, 2), printed(START_NS + DAY_NS, 12, 3)])
    assert [(b[2:4], b[8], b[-1]) for b in found] == [((START_NS + 5, 55), 3, 7), ((START_NS + DAY_NS, 0), 3, 8)]


def test_a_day_of_utc_is_the_session_where_no_calendar_is_asked() -> None:
    found = bars_of(new_bars([0, 0], by=BY_SESSION), [printed(DAY_NS - 1, 10, 1), printed(DAY_NS, 20, 1), printed(5 * DAY_NS + 3, 30, 1)])
    assert [b[2:4] for b in found] == [(0, DAY_NS), (DAY_NS, DAY_NS), (5 * DAY_NS, DAY_NS)]


@pytest.mark.parametrize("kind", ["plain", "cut", "session", "quotes"])
def test_a_venue_time_of_another_year_ends_no_bars(kind: str) -> None:
    """It would hold open the bar that all others until then are late for, and every session would be over."""
    hours = sessions((START_NS, START_NS + 2 * 3600 * 10**9, 7), (START_NS + DAY_NS, START_NS + 2 * DAY_NS, 8))
    bars = {
        "plain": None, "cut": minutes(ON_RECORD), "session": minutes(ON_TRADE, hours),
        "quotes": new_bars([0] * 4, by=BY_TIME, interval_ns=MINUTE_NS, quotes=1),
    }[kind]  # fmt: skip
    found = []
    for ahead in (0, 3600 * 10**9 - 1, 3600 * 10**9 + 1, 50 * 365 * DAY_NS, NEVER):
        records = [quoted(at, 9, 11) if kind == "quotes" else printed(at, 10, 1) for at in range(START_NS, START_NS + 5 * MINUTE_NS, MINUTE_NS // 4)]
        records[6]["ts_event_ns"] = min(records[6]["ts_event_ns"] + ahead, NEVER)
        state = new_features(2, 5, 20, 10, MINUTE_NS, False, 4096) if bars is None else state_of(new_bars_like(bars))
        found.append([int(r["ts_open_ns"]) - START_NS for r in rows_of(state, [*records, END])])
    assert found[0] == found[2] == found[3] == found[4] == [n * MINUTE_NS for n in range(5) for _ in range(1 + (kind == "quotes"))]
    assert found[1] != found[0], "within an hour it is believed"


def new_bars_like(bars: BarsState) -> BarsState:
    return BarsState(*(part.copy() for part in bars))


def test_indicators_take_every_bar_that_opens_at_one_time_where_bars_are_cut_by_trades_and_none_of_the_feeds() -> None:
    made = FeatureSet([("obv", {})], INDICATORS)
    prices = dict.fromkeys(("open_ticks", "high_ticks", "low_ticks", "close_ticks"), 1)
    of_feed = stamped(BAR, START_NS + 10, source_id=FEED_BASE, ts_open_ns=START_NS + 9, interval_ns=MINUTE_NS, **prices)
    del of_feed["venue_seq"]  # which is where a bar has its interval
    for by, size, count in ((BY_TICKS, 2, 8), (BY_TIME, 0, 1)):
        bars = new_bars([size], by=by, interval_ns=MINUTE_NS)
        state = new_features(1, 5, 20, 10, 0, False, 4096, 0, bars, indicators=made)
        records = [*(printed(START_NS, 100 + k, 1) for k in range(16)), {**END, "ts_seq_ns": START_NS}]
        markets, books = new_markets([False])
        out = empty(64)
        rows = slots({**r, "seq": n} for n, r in enumerate(records))
        kinds = out[: _features(state, markets, books, rows, empty(ROWS_MAX), out)]["kind"].tolist()
        assert kinds == [BAR, FEATURE] * count
        n = _features(state, markets, books, slots([of_feed]), empty(ROWS_MAX), out)
        assert out[:n]["kind"].tolist() == ([BAR] if by == BY_TICKS else [BAR, FEATURE])


# --- quotes, conditions, bounds -------------------------------------------------------------------------------------------
def test_quote_bars_come_in_pairs_of_whole_events_and_a_side_that_is_not_known_has_none() -> None:
    bars = new_bars([0] * 4, by=BY_TIME, interval_ns=MINUTE_NS, quotes=1, close_on=ON_RECORD)
    records = [
        quoted(START_NS, 10, 0, ask_lots=0), quoted(START_NS + MINUTE_NS, 12, 15), quoted(START_NS + MINUTE_NS + 1, 99, 15, flags=0),
        quoted(START_NS + MINUTE_NS + 1, 11, 14), printed(START_NS + 2 * MINUTE_NS, 13, 1), quoted(START_NS + 3 * MINUTE_NS, 1, 2),
    ]  # fmt: skip
    found = [(b[1], b[2] - START_NS, *b[4:9], b[10]) for b in bars_of(bars, records)]
    assert found == [
        (BID, 0, 10, 10, 10, 10, 5, 1), (BID, MINUTE_NS, 12, 12, 11, 11, 5, 2), (ASK, MINUTE_NS, 15, 15, 14, 14, 7, 2),
        (BID, 3 * MINUTE_NS, 1, 1, 1, 1, 5, 1), (ASK, 3 * MINUTE_NS, 2, 2, 2, 2, 7, 1),
    ]  # fmt: skip


def test_a_bar_without_a_price_is_none_and_its_volume_is_not_the_next_ones() -> None:
    trades = [printed(START_NS, 10, 100, conditions=2), printed(START_NS + MINUTE_NS, 20, 1)]
    assert [b[8] for b in bars_of(minutes(ON_TRADE, price_excluded=2), trades)] == [1]


def test_sums_stay_at_their_bound_and_never_wrap() -> None:
    most = printed(START_NS, -(2**40), 2**50)
    found = bars_of(minutes(ON_TRADE), [most] * 3 + [printed(START_NS, 2**40, 2**50)])
    assert [(b[8], b[9]) for b in found] == [(4 * 2**50, 0)]
    (up,) = bars_of(minutes(ON_TRADE), [printed(START_NS, 2**40, 2**50)] * 3)
    assert up[9] == SUM_MAX


def test_the_sides_of_a_feeds_own_bars_are_kept_and_tell_in_the_digest() -> None:
    digests = set()
    for side in (NO_SIDE, BID, ASK):
        state = new_features(2, 5, 20, 10, MINUTE_NS, False, 4096)
        (row,) = rows_of(state, [stamped(BAR, 5, side=side, open_ticks=1, high_ticks=1, low_ticks=1, close_ticks=1, source_id=FEED_BASE)])
        assert row["side"] == side
        digests.add(int(state.digest[0]["value"]))
    assert len(digests) == 3
