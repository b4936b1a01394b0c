"""Faults planted in a clean feed are found, each by its check and no other, as often as they were planted; and told to a person."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from engine.config import Config, QualityBounds, QualityConfig, resolve
from engine.errors import ConfigError
from engine.feeds import open_feeds
from engine.quality import assess, gates_of, render
from handlers.domain import reasons
from handlers.ingest.quality import TABLE, Gate, score
from tests.runs import config_file, joined, tickline
from transport.records import EVENT_END, HALT, QUOTE, STATUS, SUSPECT, TRADE, TRADING, copied

FEED, MILLISECOND = "synthetic:60_000:5:1", 10**6
Rows = np.ndarray[Any, Any]
KEYS = [check.key for check in TABLE]
ALL = {"enabled": True, "volume_multiple": 100.0}


@pytest.fixture(scope="module")
def clean() -> Rows:
    """Rows of one instrument, in one piece."""
    feeds, _ = open_feeds([FEED], ())
    return joined(*feeds[0].windows(1 << 16))


def gate_of(**quality: Any) -> Gate:
    feeds, table = open_feeds([FEED], ())
    (gate,) = gates_of(msgspec.convert(ALL | quality, QualityConfig), feeds, table)
    return gate


def sifted(rows: Rows, gate: Gate) -> Rows:
    return joined(*gate.sift(iter([rows]), 7_000))


def found(gate: Gate) -> dict[str, int]:
    """How often each check objected, those that did not left out."""
    checks = gate.report({}, {})["checks"]
    return {key: check["times"] for key, check in checks.items() if check["times"]}


def places(rows: Rows, kind: int, count: int) -> np.ndarray[Any, Any]:
    """Rows of a kind, spread over the second half of the feed."""
    at = np.flatnonzero(rows["kind"] == kind)
    return at[len(at) // 2 :: len(at) // (2 * count + 2)][:count]


def shift_time(by_ms: int) -> Callable[[Rows, Any], None]:
    def plant(rows: Rows, at: Any) -> None:
        rows["ts_event_ns"][at] += by_ms * MILLISECOND

    return plant


def set_field(name: str, change: Callable[[Rows, Any], Any]) -> Callable[[Rows, Any], None]:
    def plant(rows: Rows, at: Any) -> None:
        rows[name][at] = change(rows, at)

    return plant


FAULTS = {
    "price_bounds": (TRADE, set_field("price_ticks", lambda rows, at: 9_000_000), reasons.PRICE_OUT_OF_BOUNDS),
    "price_band": (TRADE, set_field("price_ticks", lambda rows, at: rows["price_ticks"][at] // 10 * 9 - 1), reasons.PRICE_OUT_OF_BAND),
    "time_backwards": (TRADE, shift_time(-30_000), reasons.TIME_BACKWARDS),
    "time_future": (QUOTE, shift_time(5_200), reasons.TIME_IN_FUTURE),
    "volume": (TRADE, set_field("qty_lots", lambda rows, at: 10**8), reasons.VOLUME_ANOMALY),
    "returns": (TRADE, set_field("price_ticks", lambda rows, at: rows["price_ticks"][at] + 5_000), reasons.RETURN_OUTLIER),
    "crossed": (QUOTE, set_field("ask_ticks", lambda rows, at: rows["price_ticks"][at] - 1), reasons.CROSSED_QUOTE),
    "locked": (QUOTE, set_field("ask_ticks", lambda rows, at: rows["price_ticks"][at]), reasons.LOCKED_QUOTE),
}
BOUNDS = ({"instrument": "AAA.synthetic", "price_max": "80000"},)


def test_a_clean_feed_has_nothing_to_object_to_and_is_handed_on_as_it_is(clean: Rows) -> None:
    gate = gate_of(bounds=BOUNDS)
    pieces = list(gate.sift(iter([clean]), 7_000))
    assert all(np.shares_memory(piece, clean) for piece in pieces)
    assert joined(*pieces).tobytes() == clean.tobytes()
    report = gate.report({}, {})
    assert (found(gate), report["score"], report["records"]) == ({}, 100.0, len(clean))


def test_an_empty_window_of_a_live_feed_is_handed_on(clean: Rows) -> None:
    windows = [clean[:0], clean[:100], clean[:0]]
    assert [len(piece) for piece in gate_of().sift(iter(windows), 60)] == [0, 60, 40, 0]


@pytest.mark.parametrize("key", FAULTS)
def test_a_planted_fault_is_found_as_often_as_it_was_planted_and_nothing_else(clean: Rows, key: str) -> None:
    kind, plant, reason = FAULTS[key]
    rows = copied(clean)
    at = places(rows, kind, 9)
    plant(rows, at)
    gate = gate_of(bounds=BOUNDS, **{key: "flag"})
    out = sifted(rows, gate)
    assert found(gate) == {key: 9}
    assert np.flatnonzero(out["flags"] & SUSPECT).tolist() == at.tolist()
    told = gate.report({}, {})["checks"][key]
    assert (told["reason"], told["first"]["row"]) == (reasons.NAME[reason], at[0])
    assert told["first"]["line"] == rows["origin"][at[0]]
    assert told["first"]["instrument"] == "AAA.synthetic"


def test_each_reason_is_that_of_its_check() -> None:
    assert [check.reason for check in TABLE] == [
        reasons.PRICE_OUT_OF_BOUNDS, reasons.PRICE_OUT_OF_BAND, reasons.TIME_BACKWARDS, reasons.TIME_IN_FUTURE, reasons.TIME_STALE,
        reasons.VOLUME_ANOMALY, reasons.RETURN_OUTLIER, reasons.DUPLICATE_RECORD, reasons.TRADE_ID_GAP, reasons.CROSSED_QUOTE,
        reasons.LOCKED_QUOTE,
    ]  # fmt: skip


def test_a_stale_record_is_also_one_whose_time_goes_backwards(clean: Rows) -> None:
    rows = copied(clean)
    rows["ts_event_ns"][places(rows, QUOTE, 4)] -= 61_000 * MILLISECOND
    gate = gate_of()
    sifted(rows, gate)
    assert found(gate) == {"time_backwards": 4, "time_stale": 4}


def test_trades_left_out_are_gaps_and_trades_sent_again_are_left_out(clean: Rows) -> None:
    at = places(clean, TRADE, 6)
    kept = np.ones(len(clean), bool)
    kept[at[:3]] = False
    pieces, gate = [], gate_of()
    for n in np.flatnonzero(kept).tolist():
        pieces.append(clean[n : n + 1])
        if n in at[3:]:
            pieces.append(clean[n : n + 1])
    out = sifted(joined(*pieces), gate)
    assert found(gate) == {"duplicate": 3, "trade_gap": 3}
    assert gate.report({}, {})["instruments"][0]["trades_lost"] == 3
    marked = out["flags"] & SUSPECT != 0
    out["flags"][marked] -= SUSPECT
    assert out.tobytes() == copied(clean, kept).tobytes(), "what came again is gone, all else stands as it came"


def test_a_price_that_stays_is_believed(clean: Rows) -> None:
    rows = copied(clean)
    half = len(rows) // 2
    for name in ("price_ticks", "ask_ticks"):
        rows[name][half:] += np.where(rows[name][half:] > 0, 1_000_000, 0)
    gate = gate_of(confirm=5)
    sifted(rows, gate)
    assert found(gate)["price_band"] == 4
    assert sum(found(gate).values()) == 4


def test_a_book_is_handed_on_whole_whatever_the_policy(clean: Rows) -> None:
    gate = gate_of(price_bounds="drop", bounds=({"instrument": "AAA.synthetic", "price_min": "61602.5"},))
    out = sifted(clean, gate)
    in_book = ~np.isin(clean["kind"], (TRADE, QUOTE))
    assert np.count_nonzero(~np.isin(out["kind"], (TRADE, QUOTE))) == np.count_nonzero(in_book)
    report = gate.report({}, {})
    assert report["dropped"] > 0
    assert report["held_on"] > 0
    assert len(out) == len(clean) - report["dropped"]


def test_a_halt_says_why_once_and_ends_after_so_many_records_without_objection(clean: Rows) -> None:
    rows = copied(clean)
    at = places(rows, QUOTE, 3)
    rows["ask_ticks"][at] = rows["price_ticks"][at] - 1
    gate = gate_of(crossed="halt", resume_after=100)
    out = sifted(rows, gate)
    said = out[out["kind"] == STATUS]
    assert said["action"].tolist() == [HALT, TRADING] * 3
    assert said["reason"].tolist() == [reasons.CROSSED_QUOTE] * 6
    assert (said["flags"] & EVENT_END).all()
    assert said["ts_recv_ns"][::2].tolist() == rows["ts_recv_ns"][at].tolist()
    assert gate.report({}, {})["halts"] == 3
    assert len(out) == len(clean) + 3, "three quotes less, six words more"
    for_good = gate_of(crossed="halt")
    out = sifted(rows, for_good)
    assert out["action"][out["kind"] == STATUS].tolist() == [HALT]


def test_the_score_falls_to_nothing_at_one_record_in_a_hundred() -> None:
    counts = np.zeros(len(TABLE), np.int64)
    assert score(counts, 1000, 0) == 100.0
    counts[KEYS.index("crossed")] = 4
    assert score(counts, 1000, 0) == 60.0
    counts[KEYS.index("returns")] = 10
    assert score(counts, 1000, 0) == 50.0
    assert score(counts, 1000, 40) == 0.0
    assert score(counts * 0, 0, 0) == 0.0


def test_bounds_are_whole_ticks_and_lots_within_what_was_given() -> None:
    feeds, table = open_feeds([FEED], ())
    bounds = QualityBounds("AAA.synthetic", Decimal("1.001"), Decimal("2.019"), Decimal("0.0025"))
    (gate,) = gates_of(QualityConfig(bounds=(bounds,)), feeds, table)
    assert gate.watch.limits[0].tolist() == (101, 201, 2)
    with pytest.raises(ConfigError, match=r"no instrument 'XYZ\.none'; there are AAA\.synthetic"):
        gates_of(QualityConfig(bounds=(QualityBounds("XYZ.none"),)), feeds, table)


@pytest.mark.parametrize(("text", "words"), [
    ("price_min = 3\nprice_max = 2", "quality.bounds.0.price_min: 3 is above price_max, 2"),
    ("qty_max = 0", "quality.bounds.0.qty_max: 0 must be above 0"),
    ('qty_max = 1\n[[quality.bounds]]\ninstrument = "A.b"', "quality.bounds.1.instrument: A.b has bounds above already"),
])  # fmt: skip
def test_bounds_that_cannot_be_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve(config_file(tmp_path, f'[[quality.bounds]]\ninstrument = "A.b"\n{text}\n'))


def test_a_policy_is_one_of_four(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean drop"):
        resolve(config_file(tmp_path, '[quality]\nlocked = "drops"\n'))


def test_report_tells_a_person_what_was_objected_to() -> None:
    out = io.StringIO()
    config = Config(quality=QualityConfig(return_multiple=2.0))
    reports = assess([FEED], config)
    render(reports, Console(file=out, width=200))
    text = out.getvalue()
    assert f"{FEED}: score {reports[FEED]['score']:g} of 60,000 records" in text
    times = reports[FEED]["checks"]["returns"]["times"]
    assert times > 0
    assert re.search(rf"^returns +flag +{times} +Trade of AAA\.synthetic, line \d+, id \d+: \d+ against [\d.]+ ticks", text, re.M)
    assert "AAA.synthetic" in text.splitlines()[-2]


def test_the_command_ends_with_1_when_a_feed_is_worse_than_it_may_be(tmp_path: Path) -> None:
    config = config_file(tmp_path, "[quality]\nreturn_multiple = 2.0\n")
    good, bad = tickline("quality", FEED, "--min-score", "100"), tickline("quality", FEED, "--min-score", "100", "--config", config)
    assert (good.code, bad.code) == (0, 1)
    report = tickline("quality", FEED, "--json").json[FEED]
    assert (report["score"], report["checks"]["crossed"]["reason"]) == (100.0, "CROSSED_QUOTE")
    assert tickline("quality", "nowhere").code == 2


def test_a_feed_named_twice_is_told_twice() -> None:
    assert list(assess([FEED, FEED], Config())) == [FEED, f"{FEED} (2)"]


BEHIND = 1024  # trades in a row with lower ids, from which on they count as begun again


@pytest.mark.parametrize(
    ("ids", "lost"),
    [
        ([*range(5000, 5100), 90_000, *range(5100, 5200)], 0),
        ([*range(5000, 5100), 90_000, *range(1, BEHIND + 200)], 0),
        ([*range(5000, 5100), 90_000, 90_001, *range(5100, 5100 + BEHIND + 200)], 0),
        ([*range(5000, 5100), *range(5103, 5200), *range(1, BEHIND + 200)], 3),
        ([*range(5000, 5100), *range(5103, 5200), *range(1, BEHIND + 200), *range(1, BEHIND + 200)], 3),
    ],
    ids=["a wrong id", "begun again behind a wrong id", "a jump whose ids come after all", "begun again behind a gap", "begun again twice"],
)
def test_trades_are_lost_only_where_ids_stay_left_out(clean: Rows, ids: list[int], lost: int) -> None:
    rows = copied(clean, np.full(len(ids), int(places(clean, TRADE, 1)[0])))
    rows["venue_seq"], rows["flags"] = ids, EVENT_END
    gate = gate_of()
    sifted(rows, gate)
    assert gate.report({}, {})["instruments"][0]["trades_lost"] == lost
