"""The sequencer: who comes first when, what is refused, and what a place in the log means."""

from __future__ import annotations

import numpy as np
import pytest

from handlers.domain import reasons
from handlers.domain.limits import PRICE_MAX, QTY_MAX
from handlers.ingest.sequencer import FEEDS_MAX, OWN, PAUSE_NS, new_sequencer, start_timers
from tests.sequencing import Intake, kinds_and_times, trades
from tests.stages import slots
from transport.records import (
    ACK, ADD, ASK, BAR, BOOK_DELTA, BOOK_SNAPSHOT, BY_EXCHANGE, BY_INGEST, CANCEL_ALL, CLEAR, COMMAND, CONNECTION, END_OF_FEED, FEED_BASE,
    EVENT_END, FILL, INTENT, KINDS, NAME_OF, NO_INSTRUMENT, ORDER, QUOTE, TIMER, TRADE, WARMUP, copied, joined,
)  # fmt: skip

HOUR, DAY = 3_600 * 10**9, 86_400 * 10**9
OPEN_KINDS = ("Trade", "Quote", "BookDelta", "BookSnapshot", "Bar", "InstrumentRow", "Status", "Gap", "Connection")


def log_of(intake: Intake) -> np.ndarray:
    """The input log without the three commands every line ends with."""
    rows = intake.run()
    words = (rows["kind"] == COMMAND) & (rows["source_id"] == BY_INGEST) & (rows["action"] >= CANCEL_ALL)
    assert rows[words]["action"].tolist() == [CANCEL_ALL, CANCEL_ALL, END_OF_FEED]
    assert words[-2:].all()
    return copied(rows, ~words)


def test_records_of_two_feeds_come_by_time_then_feed_then_position() -> None:
    rows = log_of(Intake([[trades([10, 20, 20, 30])], [trades([10, 15, 20, 40], 1)]]))
    assert rows["price_ticks"].tolist() == [0, 1000, 1001, 1, 2, 1002, 3, 1003]


def test_feed_that_goes_back_in_time_keeps_its_order_and_the_lines_clock_stands() -> None:
    rows = log_of(Intake([[trades([10, 5, 20])], [trades([7, 12], 1)]]))
    assert rows["price_ticks"].tolist() == [1000, 0, 1, 1001, 2]
    assert rows["ts_seq_ns"].tolist() == [7, 10, 10, 12, 20]
    assert rows["ts_recv_ns"].tolist() == [7, 10, 5, 12, 20]


@pytest.mark.parametrize(
    "bar", [{"low_ticks": 9}, {"high_ticks": 4}, {"close_ticks": 8}, {"open_ticks": 3}, {"volume_lots": -1}, {"trades": -1}, {"high_ticks": 2**41}]
)
def test_a_bar_that_cannot_be_is_refused(bar: dict[str, int]) -> None:
    usual = {"kind": BAR, "source_id": 16, "open_ticks": 5, "high_ticks": 7, "low_ticks": 4, "close_ticks": 6, "volume_lots": 3}
    intake = Intake([[slots([{**usual, "ts_recv_ns": 100}, {**usual, "ts_recv_ns": 200, **bar}])]])
    assert log_of(intake)["ts_seq_ns"].tolist() == [100]
    assert intake.sequencer.counters[reasons.OUT_OF_RANGE] == 1


HOUR_NS, DAY_NS = 3600 * 10**9, 86_400 * 10**9


@pytest.mark.parametrize(
    ("bar", "reason"),
    [
        ({"interval_ns": 367 * DAY_NS}, reasons.OUT_OF_RANGE),
        ({"interval_ns": 2**63 - 1}, reasons.OUT_OF_RANGE),
        ({"interval_ns": -1}, reasons.OUT_OF_RANGE),
        ({"ts_open_ns": -1}, reasons.OUT_OF_RANGE),
        ({"ts_open_ns": 2**63 - 1}, reasons.TIME_IN_FUTURE),
        ({"ts_open_ns": 999 * DAY_NS, "interval_ns": DAY_NS + HOUR_NS + 1}, reasons.TIME_IN_FUTURE),
        ({"ts_open_ns": 1000 * DAY_NS + HOUR_NS + 1}, reasons.TIME_IN_FUTURE),
    ],
)
def test_a_bar_longer_than_a_year_or_not_over_for_an_hour_is_refused(bar: dict[str, int], reason: int) -> None:
    usual = {"kind": BAR, "source_id": 16, "ts_recv_ns": 1000 * DAY_NS}
    edges = [{"interval_ns": 366 * DAY_NS}, {"ts_open_ns": 999 * DAY_NS, "interval_ns": DAY_NS + HOUR_NS}, {"ts_open_ns": 1000 * DAY_NS + HOUR_NS}]
    intake = Intake([[slots([*({**usual, **edge} for edge in edges), {**usual, **bar}])]])
    assert len(log_of(intake)) == 3
    assert intake.sequencer.counters[reason] == 1


def test_a_connections_life_concerns_no_instrument() -> None:
    rows = log_of(Intake([[trades([100], kind=CONNECTION, instrument_id=NO_INSTRUMENT), trades([200], instrument_id=NO_INSTRUMENT)]]))
    assert rows["kind"].tolist() == [CONNECTION]


def test_feed_that_goes_back_at_a_window_or_after_an_empty_one_keeps_its_order() -> None:
    whole = log_of(Intake([[trades([10, 5, 20])], [trades([7, 12], 1)]]))
    rows = trades([10, 5, 20])
    for windows in ([rows[:1], rows[1:]], [rows[:1], rows[:0], rows[:0], rows[1:]], [rows[:0], rows, rows[:0]]):
        assert log_of(Intake([windows, [trades([7, 12], 1)]])).tobytes() == whole.tobytes()


def test_at_one_time_timers_come_before_commands_reports_and_feeds() -> None:
    intake = Intake([[trades([100, 200, 300])]], timer_ns=100)
    intake.timers_from(100)
    intake.answer(200)
    intake.order(200)
    assert [k for k, t in kinds_and_times(log_of(intake)) if t == 200] == [TIMER, COMMAND, ACK, TRADE]


def test_timers_and_reports_of_a_quiet_live_feed_come_up_to_the_time_it_is_quiet_until() -> None:
    intake = Intake([[trades([100, 150]), 400, trades([390, 401])]], timer_ns=100)
    intake.timers_from(100)
    intake.answer(250)
    intake.answer(400)
    told = kinds_and_times(log_of(intake))
    assert told == [
        (TRADE, 100), (TRADE, 150), (TIMER, 200), (ACK, 250), (TIMER, 300),
        (TRADE, 390), (TIMER, 400), (ACK, 400), (TRADE, 401),  # what comes in spite of the promise bears its own time, as the journal has it
    ]  # fmt: skip


def test_a_feed_quiet_until_a_time_holds_up_what_is_due_at_it() -> None:
    intake = Intake([[trades([100]), 300, trades([300])]], timer_ns=100)
    intake.timers_from(100)
    assert kinds_and_times(log_of(intake)) == [(TRADE, 100), (TIMER, 200), (TIMER, 300), (TRADE, 300)]


def test_timer_precedes_the_first_record_at_or_after_its_time_and_bears_its_own() -> None:
    intake = Intake([[trades([100, 199, 450])]], timer_ns=100)
    intake.timers_from(100)
    rows = log_of(intake)
    assert kinds_and_times(rows) == [(TRADE, 100), (TRADE, 199), (TIMER, 200), (TIMER, 300), (TIMER, 400), (TRADE, 450)]
    timers = rows[rows["kind"] == TIMER]
    assert timers["due_ns"].tolist() == [200, 300, 400]
    assert timers["timer_id"].tolist() == [0, 1, 2]


def test_reports_of_one_time_keep_the_order_in_which_they_were_made() -> None:
    intake = Intake([[trades([100])]])
    for n in (3, 1, 2):
        intake.answer(50, order_id=n)
    intake.answer(49, order_id=9)
    assert log_of(intake)["order_id"].tolist()[:4] == [9, 3, 1, 2]


def test_reports_in_flight_are_sequenced_after_the_feeds_have_ended() -> None:
    intake = Intake([[trades([100])]])
    intake.answer(900)
    assert kinds_and_times(log_of(intake)) == [(TRADE, 100), (ACK, 900)]


def test_end_bears_the_time_of_the_last_record() -> None:
    assert Intake([[trades([100, 70])]]).run()["ts_seq_ns"].tolist() == [100, 100, 100, 100, 100]


def test_line_without_records_still_begins_and_ends() -> None:
    assert Intake([[trades([])]]).run()["kind"].tolist() == [COMMAND, COMMAND, COMMAND]


def test_seq_is_gapless_and_the_log_is_of_one_epoch() -> None:
    rows = Intake([[trades(range(50))], [trades(range(50), 1)]]).run()
    assert rows["seq"].tolist() == list(range(103))
    assert set(rows["epoch"].tolist()) == {3}


# --- refusals -------------------------------------------------------------------------------------------------------------
def refused(**fields: int) -> int:
    """Reason for which a feed's record with these fields is refused, 0 when it is let in; its neighbours are not touched."""
    market = {"kind": TRADE, "source_id": FEED_BASE}
    rows = slots([{**market, "ts_recv_ns": 10}, {**market, "ts_recv_ns": 20, **fields}, {**market, "ts_recv_ns": 30}])
    intake = Intake([[rows]])
    log = log_of(intake)
    counted = np.flatnonzero(intake.sequencer.counters)
    assert log["seq"].tolist() == list(range(len(log)))
    assert len(log) == 3 - len(counted) == 3 - intake.sequencer.head[0]["refused"]
    if len(counted):
        assert intake.runs[:2] == [(0, 0, 1, 0), (0, 2, 1, 1)]
    return int(counted[0]) if len(counted) else 0


@pytest.mark.parametrize("kind", [k.__struct_config__.tag for k in KINDS])
def test_feed_may_send_market_records_and_nothing_else(kind: int) -> None:
    side = ASK if kind in (BOOK_DELTA, BOOK_SNAPSHOT) else 0
    assert refused(kind=kind, side=side) == (0 if NAME_OF[kind] in OPEN_KINDS else reasons.FORBIDDEN_KIND)


def test_order_in_a_feed_is_refused_counted_and_gets_no_seq() -> None:
    intake = Intake([[trades([10, 11, 12, 13])]])
    intake.feeds[0][0]["kind"][1:3] = ORDER
    assert log_of(intake)["price_ticks"].tolist() == [0, 3]
    assert intake.sequencer.counters[reasons.FORBIDDEN_KIND] == 2
    assert refused(kind=INTENT) == refused(kind=FILL) == reasons.FORBIDDEN_KIND


@pytest.mark.parametrize("source", [0, BY_INGEST, BY_EXCHANGE, FEED_BASE - 1])
def test_feed_may_not_speak_in_the_name_of_a_stage(source: int) -> None:
    assert refused(source_id=source) == reasons.FORBIDDEN_KIND
    assert refused(source_id=FEED_BASE + 63) == 0


@pytest.mark.parametrize("kind", [0, 27, 63, 64 + TRADE, 128 + BOOK_DELTA, 255])
def test_kind_that_does_not_exist_is_refused(kind: int) -> None:
    assert refused(kind=kind) == reasons.FORBIDDEN_KIND


def test_instrument_that_is_not_of_the_line_is_refused() -> None:
    assert refused(instrument_id=1) == 0
    assert refused(instrument_id=2) == refused(instrument_id=2**32 - 1) == reasons.UNKNOWN_SYMBOL


@pytest.mark.parametrize("sign", [1, -1])
def test_price_beyond_what_products_can_carry_is_refused(sign: int) -> None:
    assert refused(price_ticks=sign * PRICE_MAX) == 0
    assert refused(price_ticks=sign * (PRICE_MAX + 1)) == refused(price_ticks=sign * (2**63 - 1)) == reasons.OUT_OF_RANGE


def test_quantity_that_is_negative_or_beyond_what_products_can_carry_is_refused() -> None:
    assert refused(qty_lots=QTY_MAX) == 0
    for lots in (QTY_MAX + 1, -1, -(2**63)):
        assert refused(qty_lots=lots) == reasons.OUT_OF_RANGE


def test_both_sides_of_a_quote_are_held_to_the_same_bounds() -> None:
    assert refused(kind=QUOTE, ask_ticks=PRICE_MAX, ask_lots=QTY_MAX) == 0
    assert refused(kind=QUOTE, ask_ticks=PRICE_MAX + 1) == refused(kind=QUOTE, ask_lots=-1) == reasons.OUT_OF_RANGE


def test_book_row_without_a_side_is_refused_unless_it_empties_the_book() -> None:
    assert refused(kind=BOOK_DELTA) == refused(kind=BOOK_SNAPSHOT, side=3) == reasons.OUT_OF_RANGE
    assert refused(kind=BOOK_DELTA, action=ADD) == reasons.OUT_OF_RANGE
    assert refused(kind=BOOK_DELTA, action=CLEAR) == 0


# --- runs -----------------------------------------------------------------------------------------------------------------
def test_runs_name_the_rows_of_every_source_in_order() -> None:
    intake = Intake([[trades([10, 11, 30])], [trades([20, 21], 1)]])
    intake.answer(25)
    intake.run()
    assert intake.runs == [(0, 0, 2, 0), (1, 0, 2, 2), (OWN, 0, 1, 4), (0, 2, 1, 5), (OWN, 1, 3, 6)]


def test_line_takes_a_bounded_number_of_feeds() -> None:
    with pytest.raises(ValueError, match=str(FEEDS_MAX)):
        new_sequencer(FEEDS_MAX + 1, 1, 0, 1, False)


@pytest.mark.parametrize(("first", "due"), [(1000, 1100), (1001, 1100), (1099, 1100), (1100, 1200)])
def test_timers_of_an_origin_begin_after_the_first_record(first: int, due: int) -> None:
    """START is due at the first record's time, and nothing comes before it."""
    intake = Intake([[trades([first, first + 150])]], 100)
    start_timers(intake.sequencer, first, 500)
    rows = log_of(intake)
    assert rows["kind"].tolist()[0] == TRADE
    assert rows["due_ns"][rows["kind"] == TIMER].tolist()[0] == due


# --- timers in long pauses ------------------------------------------------------------------------------------------------
def due_of(intake: Intake) -> list[int]:
    """When the timers of a line are due; their numbers have no hole, and none stands behind a record of its time."""
    rows = log_of(intake)
    timers = rows[rows["kind"] == TIMER]
    assert timers["timer_id"].tolist() == list(range(len(timers)))
    assert timers["ts_seq_ns"].tolist() == timers["due_ns"].tolist()
    due: list[int] = timers["due_ns"].tolist()
    return due


def paused(pause: int, interval: int) -> Intake:
    """Two records `pause` apart, and a third two hours behind."""
    intake = Intake([[trades([100, 100 + pause, 100 + pause + 2 * HOUR])]], interval)
    intake.timers_from(100)
    return intake


def test_pause_of_a_month_has_all_its_timers() -> None:
    """A weekend's, or a week's without trading: what a strategy does by its timer comes when it is due."""
    due = due_of(paused(PAUSE_NS + HOUR, HOUR))
    assert due == [100 + k * HOUR for k in range(1, PAUSE_NS // HOUR + 4)]


@pytest.mark.parametrize("beyond", [0, 1, HOUR - 1])
def test_longer_pause_has_its_first_timer_and_its_last_and_keeps_their_phase(beyond: int) -> None:
    due = due_of(paused(40 * DAY + beyond, HOUR))
    assert due == [100 + k * HOUR for k in (1, 960, 961, 962)]


def test_interval_that_is_longer_than_such_a_pause_goes_on() -> None:
    assert due_of(paused(100 * DAY, 40 * DAY)) == [100 + 40 * DAY, 100 + 80 * DAY]
    assert due_of(paused(35 * DAY, 40 * DAY)) == []


def test_report_known_in_a_long_pause_changes_none_of_its_timers() -> None:
    """It may be known earlier in one placement than in another."""
    alone = due_of(paused(40 * DAY, HOUR))
    intake = paused(40 * DAY, HOUR)
    intake.answer(100 + 2 * HOUR)
    intake.order(100 + 3 * DAY)
    assert due_of(intake) == alone


def test_report_after_the_feeds_have_ended_has_all_timers_before_it() -> None:
    intake = Intake([[trades([100])]], DAY)
    intake.timers_from(100)
    intake.answer(100 + 90 * DAY)
    assert len(due_of(intake)) == 90


def test_a_timer_bears_warmup_from_the_first_record_of_a_feeds_history_to_the_first_that_is_none() -> None:
    history, live = trades([100, 250], flags=EVENT_END | WARMUP), trades([450, 700])
    refused = trades([260], flags=EVENT_END, kind=FILL)
    for windows in ([history, live], [joined(history, live)],
                    [history, refused, 400, live], [history[:1], 240, history[1:], refused[:0], live]):  # fmt: skip
        intake = Intake([windows, [trades([120, 800], 1)]], timer_ns=100)
        intake.timers_from(100)
        rows = log_of(intake)
        timers = rows[rows["kind"] == TIMER]
        told = dict(zip(timers["ts_seq_ns"].tolist(), (timers["flags"] & WARMUP).tolist(), strict=True))
        assert told == {200: WARMUP, 300: WARMUP, 400: WARMUP, 500: 0, 600: 0, 700: 0, 800: 0}
