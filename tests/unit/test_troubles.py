"""What a line could not take is counted and told, wherever its stages run."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from engine.config import Config
from engine.line import build_line, troubles
from transport.instruments import Instrument
from transport.records import BAR, BID, BOOK_DELTA, DELETE, EVENT_END, FEED_BASE, empty
from transport.tape import TapeWriter

from tests.runs import config_file, replayed

L3 = Instrument("ES", "test", Decimal("0.25"), Decimal(1), book="l3")


def test_a_line_without_trouble_says_nothing_and_every_counter_has_a_name() -> None:
    line = build_line(Config(), [L3], 1, 1, Path()).line
    assert troubles(line) == {}
    line.markets["dropped"] = 2
    line.paper.paper["crowded"] = 3
    line.orders.line["invalid"] = 4
    assert troubles(line) == {"BOOK_LEVELS_DROPPED": 2, "FILLS_MISSED": 3, "REPORTS_INVALID": 4}


@pytest.mark.parametrize("placement", ["fused", "split"])
def test_messages_of_orders_that_no_book_knows_are_told_in_the_summary(placement: str, tmp_path: Path) -> None:
    rows = empty(50)
    rows["kind"], rows["action"], rows["side"], rows["flags"], rows["source_id"] = BOOK_DELTA, DELETE, BID, EVENT_END, FEED_BASE
    rows["ts_recv_ns"], rows["price_ticks"], rows["qty_lots"], rows["parts"] = range(1000, 1050), 100, 1, 1
    rows["order_id"] = range(1, 51)
    with TapeWriter(tmp_path / "feed.tape", [L3], {"sources": []}) as tape:
        tape.append(rows)
    config = config_file(tmp_path, f'[runtime]\nplacement = "{placement}"\n')
    summary = replayed(tmp_path / "run", tmp_path / "feed.tape", config=config)
    assert summary["troubles"] == {"BOOK_ORDERS_UNKNOWN": 50}


@pytest.mark.parametrize("placement", ["fused", "split"])
def test_bars_that_no_indicator_and_no_score_takes_are_told_in_the_summary(placement: str, tmp_path: Path) -> None:
    """Of two instruments: the first one's first two minutes, the second again, a day, and the other's first minute when the second has closed."""
    minute, day = 60 * 10**9, 86_400 * 10**9
    told = [(0, day, minute), (0, day + minute, minute), (0, day + minute, minute), (0, 0, day), (1, day, minute)]
    rows = empty(len(told))
    rows["kind"], rows["flags"], rows["source_id"], rows["parts"] = BAR, EVENT_END, FEED_BASE, 1
    rows["instrument_id"], rows["ts_open_ns"], rows["interval_ns"] = zip(*told, strict=True)
    rows["ts_recv_ns"] = day + 2 * minute
    for name in ("open_ticks", "high_ticks", "low_ticks", "close_ticks"):
        rows[name] = 100
    with TapeWriter(tmp_path / "feed.tape", [L3, Instrument("NQ", "test", Decimal("0.25"), Decimal(1))], {"sources": []}) as tape:
        tape.append(rows)
    config = config_file(tmp_path, f'[factors]\nenabled = true\n[runtime]\nplacement = "{placement}"\n')
    summary = replayed(tmp_path / "run", tmp_path / "feed.tape", config=config)
    assert summary["troubles"] == {"BAR_LATE": 1, "BAR_OF_OTHER_CLOCK": 1, "BAR_REPEATED": 1}
