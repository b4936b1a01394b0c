"""A live feed joined to its history by trade ids: what is covered, what is missing, what waits, and what bears WARMUP meanwhile.

Driven as a capture drives it, and so exactly as a session does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from handlers.domain.reasons import HISTORY_HOLE, HISTORY_OVERLAP, MISSING_FIELD, QTY_OFF_GRID, UNFINISHED_BAR
from handlers.ingest.formats import open_feed
from handlers.ingest.venues.joining import ATTEMPTS, Join
from handlers.ingest.venues.own_lines import OwnLine
from tests.unit.capture_lines import T0_MS, T0_NS, line, trade
from transport.records import BAR, CONNECTION, GAP, JOINED, TRADE, WARMUP, joined as joined_rows

REST = "https://fapi.binance.com/fapi/v1/"
INFO = {
    "symbol": "BTCUSDT", "quoteAsset": "USDT",
    "filters": [{"filterType": "PRICE_FILTER", "tickSize": "0.10"}, {"filterType": "LOT_SIZE", "stepSize": "0.001"}],
}  # fmt: skip


def answer(at: int, what: str, body: Any) -> str:
    return line(at, {"tickline": "rest", "url": REST + what, "status": 200, "body": body})


def past(at: int, *sums: tuple[int, int], qty: str = "0.5") -> str:
    """An answer of aggregates that cover trades (first, last), at the times that `trade` gives to trades at `at`."""
    told = [{"a": 10 + f, "p": "100.1", "q": qty, "f": f, "l": l, "T": T0_MS, "m": False} for f, l in sums]
    return answer(at, "aggTrades?symbol=BTCUSDT&startTime=5&limit=1000", told)


def joined(at: int, code: int = 0, symbol: str = "BTCUSDT") -> str:
    return line(at, {"tickline": "joined", "symbol": symbol, "attempt": 1, "code": code})


def history(last: int, *tail: tuple[int, int, int], time_ms: int = T0_MS, symbol: str = "BTCUSDT") -> str:
    return line(1, {"tickline": "history", "symbol": symbol, "last": last, "time": time_ms * 10**6, "tail": tail})


class Told:
    """What a capture of `lines` behind the description of its instruments decodes to."""

    def __init__(self, folder: Path, lines: Sequence[str], symbols: Sequence[str] = ("BTCUSDT",), rows_max: int = 1000) -> None:
        head = line(0, {"tickline": "capture", "venue": "binance_usdm", "symbols": list(symbols)})
        info = answer(0, "exchangeInfo", {"symbols": [{**INFO, "symbol": s} for s in symbols]})
        path = folder / "capture"
        path.write_text("".join(f"{text}\n" for text in (head, info, *lines)))
        self.feed = open_feed(str(path))
        self.rows = joined_rows(*self.feed.chunks(rows_max))
        self.trades = self.rows[self.rows["kind"] == TRADE]
        self.ids = self.trades["venue_seq"].tolist()
        self.warm = (self.trades["flags"] & WARMUP != 0).tolist()
        gaps = self.rows[self.rows["kind"] == GAP]
        self.gaps = [(int(g["reason"]), int(g["expected_seq"]), int(g["got_seq"])) for g in gaps]


def test_what_the_history_has_is_dropped_and_live_goes_on_behind_it(tmp_path: Path) -> None:
    told = Told(tmp_path, [history(7), trade(2, 7), past(3, (6, 6), (7, 7), (8, 8), (9, 9)), trade(4, 8), trade(5, 9), trade(6, 10), joined(7), trade(8, 11)])
    assert told.ids == [8, 9, 10, 11]
    assert told.warm == [True, True, True, False]
    assert told.feed.counters[HISTORY_OVERLAP] == 5
    assert not told.gaps
    assert told.feed.first_offenders[HISTORY_OVERLAP] == "line 5: trade 6 is in the history"


def test_the_join_is_a_record_and_ends_the_warm_up(tmp_path: Path) -> None:
    told = Told(tmp_path, [history(7), joined(2), trade(3, 8)])
    record = told.rows[told.rows["kind"] == CONNECTION]
    assert (record["action"].tolist(), record["attempt"].tolist(), record["code"].tolist()) == ([JOINED], [1], [0])
    assert record["flags"][0] & WARMUP
    assert (told.ids, told.warm) == ([8], [False])


def test_a_hole_is_told_and_filled_by_a_later_answer(tmp_path: Path) -> None:
    told = Told(tmp_path, [history(7), trade(2, 10), past(3, (8, 8)), joined(4), trade(5, 11), past(6, (8, 8), (9, 10)), joined(7), trade(8, 12)])
    assert told.ids == [8, 10, 11, 12]
    assert told.warm == [True, True, True, False]
    assert told.gaps == [(HISTORY_HOLE, 9, 10)]
    assert told.feed.counters[HISTORY_HOLE] == 1


def test_a_hole_behind_the_join_brings_the_warm_up_back_until_it_is_filled(tmp_path: Path) -> None:
    told = Told(tmp_path, [history(7), joined(2), trade(3, 9), trade(4, 10), past(5, (8, 8)), joined(6), trade(7, 11)])
    assert (told.ids, told.warm) == ([8, 9, 10, 11], [True, True, True, False])
    assert told.gaps == [(HISTORY_HOLE, 8, 9)]


def test_a_hole_that_cannot_be_filled_is_asked_for_a_bounded_number_of_times_and_told_each_time(tmp_path: Path) -> None:
    told = Told(tmp_path, [history(7), trade(2, 10), *(joined(3 + n) for n in range(ATTEMPTS + 1)), trade(20, 11)])
    assert told.gaps == [(HISTORY_HOLE, 8, 10)] * (ATTEMPTS + 1)
    assert (told.ids, told.warm) == ([10, 11], [True, False])


def test_a_hole_in_what_the_venue_tells_of_the_past_is_not_asked_for_again(tmp_path: Path) -> None:
    told = Told(tmp_path, [history(7), past(2, (8, 8), (12, 13)), joined(3), trade(4, 14)])
    assert told.ids == [8, 13, 14]
    assert told.gaps == [(HISTORY_HOLE, 9, 12)]


def test_requests_that_fail_are_a_hole_of_unknown_size(tmp_path: Path) -> None:
    told = Told(tmp_path, [history(0), *(joined(2 + n, 403) for n in range(ATTEMPTS)), trade(10, 5), joined(11, 403), trade(12, 6)])
    assert told.gaps == [(HISTORY_HOLE, 1, 0)] * (ATTEMPTS + 1)
    assert (told.ids, told.warm) == ([5, 6], [True, False])


def test_without_any_history_the_first_trade_told_begins_it(tmp_path: Path) -> None:
    told = Told(tmp_path, [history(0), past(2, (30, 32), (33, 33)), trade(3, 33), joined(4), trade(5, 34)])
    assert (told.ids, told.warm) == ([32, 33, 34], [True, True, False])
    assert not told.gaps


def test_a_symbol_without_trades_is_joined_when_that_is_told_and_proved_by_its_first(tmp_path: Path) -> None:
    told = Told(
        tmp_path,
        [
            history(7), history(0, symbol="ETHUSDT"), joined(2), trade(3, 8), joined(4, symbol="ETHUSDT"), trade(5, 9),
            trade(6, 900, s="ETHUSDT"), trade(7, 905, s="ETHUSDT"),
        ],
        ["BTCUSDT", "ETHUSDT"],
    )  # fmt: skip
    assert told.ids == [8, 9, 900, 905]  # once proved, nobody looks at ids any more
    assert told.warm == [True, False, False, False]


def test_a_history_of_ids_that_the_venue_has_not_given_out_is_of_another_market(tmp_path: Path) -> None:
    told = Told(tmp_path, [history(7_000), joined(2), trade(3, 80, T=T0_MS + 5_000), trade(4, 81)])
    assert told.gaps == [(HISTORY_HOLE, 7_001, 80)]
    assert told.ids == [80, 81]


def test_a_history_that_is_a_moment_ahead_of_the_stream_drops_what_it_has(tmp_path: Path) -> None:
    told = Told(tmp_path, [history(9), joined(2), trade(3, 8), trade(4, 9), trade(5, 10)])
    assert (told.ids, told.gaps, told.feed.counters[HISTORY_OVERLAP]) == ([10], [], 2)


def test_a_sum_of_which_the_history_has_a_part_keeps_the_other(tmp_path: Path) -> None:
    told = Told(tmp_path, [history(7, (6, 6, 100), (7, 7, 150)), past(2, (6, 9)), joined(3), trade(4, 10)])
    assert told.ids == [9, 10]
    assert told.trades["qty_lots"].tolist() == [500 - 250, 500]
    assert not told.gaps


def test_a_sum_whose_covered_part_is_not_known_is_a_hole_and_told_not_at_all(tmp_path: Path) -> None:
    told = Told(tmp_path, [history(7, (7, 7, 150)), past(2, (6, 9)), joined(3), trade(4, 10)])
    assert told.ids == [10]
    assert told.gaps == [(HISTORY_HOLE, 8, 6)]


def test_a_trade_that_is_refused_keeps_its_place_among_the_ids(tmp_path: Path) -> None:
    told = Told(tmp_path, [history(7), trade(2, 8, qty="0.5005"), joined(3), trade(4, 9)])
    assert (told.ids, told.gaps) == ([9], [])
    assert told.feed.counters[QTY_OFF_GRID] == 1


def test_records_do_not_depend_on_how_they_are_cut(tmp_path: Path) -> None:
    lines = [history(7), trade(2, 10), past(3, (8, 8)), joined(4), trade(5, 11), past(6, (8, 8), (9, 10)), joined(7), trade(8, 12)]
    assert Told(tmp_path, lines, rows_max=1).rows.tobytes() == Told(tmp_path, lines).rows.tobytes()


def test_an_answer_that_is_damaged_is_counted_and_its_trades_are_missing(tmp_path: Path) -> None:
    bad = answer(2, "aggTrades?symbol=BTCUSDT&fromId=5", [{"a": 1, "p": "1", "q": "1", "f": 8, "T": T0_MS, "m": True}])
    told = Told(tmp_path, [history(7), bad, joined(3), trade(4, 9), past(5, (8, 8)), joined(6)])
    assert told.feed.counters[MISSING_FIELD] == 1
    assert (told.ids, told.gaps) == ([8, 9], [(HISTORY_HOLE, 8, 9)])


@pytest.mark.parametrize(("end_ms", "bars"), [(T0_MS - 60_001, 1), (T0_MS + 10**6, 0)])
def test_closed_bars_of_the_past_are_bars_and_an_open_one_is_not(tmp_path: Path, end_ms: int, bars: int) -> None:
    told_bar = [end_ms - 59_999, "100.0", "100.3", "99.9", "100.1", "5.5", end_ms, "550.1", 42, "1", "1", "0"]
    told = Told(tmp_path, [history(0), answer(2, "klines?symbol=BTCUSDT&interval=1m&limit=1000", [told_bar]), joined(3), trade(4, 9)])
    rows = told.rows[told.rows["kind"] == BAR]
    assert len(rows) == bars
    assert told.feed.counters.get(UNFINISHED_BAR, 0) == 1 - bars
    for row in rows:
        assert (row["open_ticks"], row["high_ticks"], row["low_ticks"], row["close_ticks"]) == (1000, 1003, 999, 1001)
        assert (row["volume_lots"], row["trades"], row["interval_ns"]) == (5500, 42, 60 * 10**9)
        assert row["ts_recv_ns"] == T0_NS + 2
        assert row["flags"] & WARMUP


def test_what_waits_and_what_is_remembered_is_bounded() -> None:
    join = Join(OwnLine("history", symbol="X", last=5, tail=[(n, n, 1) for n in range(5000)]))
    assert len(join.tail) == 1000
    assert join.held.maxlen == 1 << 16


def test_a_hole_a_long_time_behind_the_history_is_a_hole_and_no_other_market(tmp_path: Path) -> None:
    late = {"T": T0_MS + 60_000}
    told = Told(tmp_path, [history(7), trade(2, 9, **late), joined(3), past(4, (8, 8)), joined(5), trade(6, 10, **late)])
    assert (told.ids, told.warm) == ([8, 9, 10], [True, True, False])
    assert told.gaps == [(HISTORY_HOLE, 8, 9)]


def test_a_sum_that_has_grown_since_it_was_told_adds_what_is_new(tmp_path: Path) -> None:
    lines = [history(7, (7, 7, 150)), past(2, (7, 8), qty="0.200"), joined(3), trade(4, 10), past(5, (7, 9), qty="0.300"), joined(6), trade(7, 11)]
    told = Told(tmp_path, lines)
    assert told.ids == [8, 9, 10, 11]
    assert told.trades["qty_lots"].tolist() == [50, 100, 500, 500]
