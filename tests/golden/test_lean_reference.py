"""Lean's recorded files through the feed and FEATURES, against what independent scripts computed and the bars Lean ships beside them."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo
from datetime import datetime

import numpy as np
import pytest

from engine.config import BarsConfig
from engine.sessions import cut_bars_of
from handlers.domain.reasons import CROSSED_QUOTE, LOCKED_QUOTE
from handlers.features.stage import ROWS_MAX, new_features
from handlers.domain.book import new_markets
from handlers.ingest.formats import open_feed
from handlers.ingest.lean.feed import LeanFeed
from handlers.ingest.lean.rows import LETTER_AT, SUSPICIOUS
from tests.golden.decoded import Decoded, reference
from tests.property.test_features import _features
from transport.records import ASK, BAR, BID, COMMAND, END_OF_FEED, EVENT_END, NO_INSTRUMENT, QUOTE, TRADE, empty, joined

DAYS = ("20131007", "20131008", "20131009", "20131010", "20131011")
FX_DAYS = ("20140512", "20140513", "20140514")
MINUTE_NS = 60 * 10**9
PRICELESS = 0x20 | 0x200 | 0x40000 | 0x100000 | 0x1000000  # conditions of sale that set no price in Lean's bars, as the reference found
OHLC = ("open_ticks", "high_ticks", "low_ticks", "close_ticks")
IBM, EURUSD = "lean_equity_ibm", "lean_forex_eurusd"


def decoded(data_dir: Path, *path: str, crossed: str = "keep") -> Decoded:
    feed = open_feed(str(data_dir.joinpath(*path)), crossed_quotes=crossed)
    assert isinstance(feed, LeanFeed)
    return Decoded(feed, joined(*feed.chunks(5000)), {})


def new_york(day: str, hour: int, minute: int) -> int:
    at = datetime(int(day[:4]), int(day[4:6]), int(day[6:]), hour, minute, tzinfo=ZoneInfo("America/New_York"))
    return int(at.timestamp()) * 10**9


def regular(rows: np.ndarray, day: str, field: str = "ts_event_ns") -> np.ndarray:
    return rows[(rows[field] >= new_york(day, 9, 30)) & (rows[field] < new_york(day, 16, 0))]


def vwap(d: Decoded, rows: np.ndarray) -> float:
    money = sum(p * q for p, q in zip(rows["price_ticks"].tolist(), rows["qty_lots"].tolist(), strict=True))
    return round(float(Decimal(money) / int(rows["qty_lots"].sum()) * d.feed.instruments[0].tick), 8)


# --- what the ticks are ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("day", DAYS)
def test_ibms_trades_are_the_references(data_dir: Path, day: str) -> None:
    d, expected = decoded(data_dir, IBM, "tick", "ibm", f"{day}_trade.zip"), reference(data_dir, "lean_ibm")[day]["trades"]
    rows = d.of(TRADE)
    prices = [float(d.price(p)) for p in (rows["price_ticks"].max(), rows["price_ticks"].min(), rows["price_ticks"][0], rows["price_ticks"][-1])]
    assert prices == [expected[k] for k in ("high", "low", "first", "last")]
    assert (len(rows), len(d.rows), int(rows["qty_lots"].sum()), vwap(d, rows)) == (expected["n"],) * 2 + (expected["volume"], expected["vwap"])
    open_hours = regular(rows, day)
    found = (len(open_hours), int(open_hours["qty_lots"].sum()), vwap(d, open_hours))
    assert found == tuple(expected[k] for k in ("regular_session_n", "regular_volume", "regular_vwap"))
    letters, counts = np.unique(rows["conditions"] >> LETTER_AT, return_counts=True)
    assert dict(zip(map(chr, letters.tolist()), counts.tolist(), strict=True)) == expected["by_exchange"]
    priced = rows["conditions"] & PRICELESS == 0
    assert int(priced.sum()) == expected["price_eligible_ticks"]
    assert int((rows["conditions"] & SUSPICIOUS != 0).sum()) == expected["suspicious"]
    midnight = new_york(day, 0, 0)
    assert (rows["ts_event_ns"][[0, -1]] - midnight).tolist() == [expected["ms_first"] * 10**6, expected["ms_last"] * 10**6]
    assert (rows["ts_recv_ns"] == rows["ts_event_ns"]).all() and not d.feed.counters


@pytest.mark.parametrize("day", DAYS)
def test_ibms_national_best_is_the_references(data_dir: Path, day: str) -> None:
    d = decoded(data_dir, IBM, "tick", "ibm", f"{day}_quote.zip")
    expected = reference(data_dir, "lean_ibm")[day]
    assert len(d.rows) == len(d.of(QUOTE)) == expected["quotes"]["n"]
    assert int((d.rows["conditions"] & SUSPICIOUS != 0).sum()) == expected["quotes"]["suspicious"]
    rows, states = regular(d.rows, day), expected["nbbo_latest_bid_and_ask_rows_regular_session"]
    spread = rows["ask_ticks"] - rows["price_ticks"]
    found = {
        "states": len(rows), "crossed": int((spread < 0).sum()), "locked": int((spread == 0).sum()),
        "mean_spread": round(float(spread.mean()) / 10_000, 8), "last_bid": float(d.price(rows["price_ticks"][-1])),
        "last_ask": float(d.price(rows["ask_ticks"][-1])),
    }  # fmt: skip
    assert found == {k: states[k] for k in found}
    whole = rows[rows["flags"] & EVENT_END != 0]
    assert int((whole["ask_ticks"] < whole["price_ticks"]).sum()) < states["crossed"]  # most of it is half of an event
    assert not d.feed.counters


@pytest.mark.parametrize("day", FX_DAYS)
def test_euros_quotes_are_the_references_crossed_ones_kept_or_dropped(data_dir: Path, day: str) -> None:
    path = (EURUSD, "tick", "eurusd", f"{day}_quote.zip")
    d, expected = decoded(data_dir, *path), reference(data_dir, "lean_eurusd")[day]
    bid, ask = d.rows["price_ticks"], d.rows["ask_ticks"]
    ends = [float(d.price(v)) for v in (bid[0], ask[0], bid[-1], ask[-1], bid.max(), bid.min(), ask.max(), ask.min())]
    assert ends == [expected[k] for k in ("bid_first", "ask_first", "bid_last", "ask_last", "bid_high", "bid_low", "ask_high", "ask_low")]
    crossed, locked = int((ask < bid).sum()), int((ask == bid).sum())
    assert (len(bid), crossed, locked) == tuple(expected[k] for k in ("ticks", "crossed", "locked"))
    assert round(float((ask - bid).mean()) * 1e-5, 9) == expected["mean_spread"]
    for how, gone in (("drop", {CROSSED_QUOTE: crossed}), ("drop_locked", {CROSSED_QUOTE: crossed, LOCKED_QUOTE: locked})):
        other = decoded(data_dir, *path, crossed=how)
        assert other.feed.counters == gone
        assert len(other.rows) == len(bid) - sum(gone.values())
        assert (other.rows["ask_ticks"] >= other.rows["price_ticks"]).all()


def test_a_folder_of_ticks_is_one_feed_in_time_order_whatever_its_chunks(data_dir: Path) -> None:
    feed = open_feed(str(data_dir / IBM / "tick" / "ibm"))
    chunks = list(feed.chunks(10_000))
    times = np.concatenate([c["ts_event_ns"] for c in chunks])
    totals = reference(data_dir, "lean_ibm")
    assert len(times) == sum(totals[day]["trades"]["n"] + totals[day]["quotes"]["n"] for day in DAYS) == len(feed.receive_times())
    assert (np.diff(times) >= 0).all()
    assert all(c["flags"][-1] & EVENT_END for c in chunks)
    other = list(open_feed(str(data_dir / IBM / "tick" / "ibm")).chunks(77_777))
    assert b"".join(c.tobytes() for c in chunks) == b"".join(c.tobytes() for c in other)


# --- bars from ticks, against Lean's --------------------------------------------------------------------------------------
def bars_from_ticks(d: Decoded, config: BarsConfig) -> np.ndarray:
    """What FEATURES makes of the feed's rows under `[bars]`, top of book left aside."""
    state = new_features(1, 5, 20, 10, 0, False, 4096, 0, cut_bars_of(config, d.feed.instruments))
    markets, books = new_markets([False])
    rows, end, out = d.rows, empty(1), empty(20_000)
    end["kind"], end["action"], end["instrument_id"] = COMMAND, END_OF_FEED, NO_INSTRUMENT
    rows["ts_seq_ns"] = rows["ts_recv_ns"]  # as INGEST stamps them
    n = _features(state, markets, books, rows, empty(ROWS_MAX), out)
    n += _features(state, markets, books, end, empty(ROWS_MAX), out[n:])
    assert set(out["kind"][:n].tolist()) == {BAR}
    return out[:n]


def equal_fields(ours: np.ndarray, leans: np.ndarray, fields: tuple[str, ...]) -> tuple[int, int]:
    """(bars of the same interval, those equal in all `fields`)."""
    _, a, b = np.intersect1d(ours["ts_open_ns"], leans["ts_open_ns"], return_indices=True)
    same = np.all([ours[f][a] == leans[f][b] for f in fields], axis=0)
    return len(a), int(same.sum())


@pytest.mark.parametrize(("resolution", "interval_s"), [("minute", 60), ("second", 1)])
@pytest.mark.parametrize("day", DAYS)
def test_ibms_trade_bars_of_the_session_equal_leans_as_often_as_the_references_do(data_dir: Path, day: str, resolution: str, interval_s: int) -> None:
    config = BarsConfig(session="XNYS", interval_s=interval_s, price_excluded_conditions=PRICELESS | SUSPICIOUS)
    ours = bars_from_ticks(decoded(data_dir, IBM, "tick", "ibm", f"{day}_trade.zip"), config)
    shipped = decoded(data_dir, IBM, resolution, "ibm", f"{day}_trade.zip")
    expected = reference(data_dir, "lean_ibm")[day][f"{resolution}_trade_bars"]
    assert len(shipped.rows) == expected["ref_bars"]
    assert (shipped.rows["ts_event_ns"] == shipped.rows["ts_open_ns"] + interval_s * 10**9).all()
    leans, expected = regular(shipped.rows, day, "ts_open_ns"), expected["regular_session"]
    common, same = equal_fields(ours, leans, OHLC)
    assert (len(leans), len(ours), common, same) == tuple(expected[k] for k in ("ref_bars", "our_bars", "common", "ohlc_equal"))
    assert equal_fields(ours, leans, ("volume_lots",))[1] == expected["volume_equal"]
    assert equal_fields(ours, leans, (*OHLC, "volume_lots"))[1] == expected["all_equal"]
    assert set(ours["session"].tolist()) == {new_york(day, 0, 0) // (86_400 * 10**9)}


@pytest.mark.parametrize("day", DAYS)
def test_ibms_quote_bars_equal_leans_as_often_as_the_references_do(data_dir: Path, day: str) -> None:
    ours = bars_from_ticks(decoded(data_dir, IBM, "tick", "ibm", f"{day}_quote.zip"), BarsConfig(of="quotes", session="XNYS"))
    leans = regular(decoded(data_dir, IBM, "minute", "ibm", f"{day}_quote.zip").rows, day, "ts_open_ns")
    expected = reference(data_dir, "lean_quotebars_ibm")[day]["equal"]
    found: dict[str, Any] = {}
    for letter, side in (("b", BID), ("a", ASK)):
        for name in OHLC:
            found[letter + name[0]] = equal_fields(ours[ours["side"] == side], leans[leans["side"] == side], (name,))[1]
    assert found == expected and found["bc"] == found["ac"] == 390


@pytest.mark.parametrize("day", FX_DAYS)
def test_euros_quote_bars_equal_leans_in_every_field_of_every_bar(data_dir: Path, day: str) -> None:
    ours = bars_from_ticks(decoded(data_dir, EURUSD, "tick", "eurusd", f"{day}_quote.zip"), BarsConfig(of="quotes"))
    leans = decoded(data_dir, EURUSD, "minute", "eurusd", f"{day}_quote.zip").rows
    bars = reference(data_dir, "lean_eurusd")[day]["minute_bars"]["lean"]
    assert len(ours) == len(leans) == 2 * bars
    for name in (*OHLC, "ts_open_ns", "interval_ns", "side"):
        assert ours[name].tolist() == leans[name].tolist(), name
    assert (leans["ts_event_ns"] == leans["ts_open_ns"] + MINUTE_NS).all()


def test_ibms_days_by_session_hold_the_sessions_volume_and_close_when_it_does(data_dir: Path) -> None:
    totals = reference(data_dir, "lean_ibm")
    ours = bars_from_ticks(decoded(data_dir, IBM, "tick", "ibm"), BarsConfig(by="session", session="XNYS"))
    assert ours["volume_lots"].tolist() == [totals[day]["trades"]["regular_volume"] for day in DAYS]
    assert (ours["ts_open_ns"] + ours["interval_ns"]).tolist() == [new_york(day, 16, 0) for day in DAYS]


def test_ibms_daily_bars_are_23_years_and_close_at_the_next_midnight(data_dir: Path) -> None:
    d = decoded(data_dir, IBM, "daily", "ibm.zip")
    assert len(d.rows) == 5849 and not d.feed.counters
    assert (d.rows["ts_open_ns"][0], d.rows["ts_event_ns"][0]) == (new_york("19980102", 0, 0), new_york("19980103", 0, 0))
    assert (d.rows["ts_open_ns"] + d.rows["interval_ns"] == d.rows["ts_event_ns"]).all()
    assert set((d.rows["interval_ns"] // (3600 * 10**9)).tolist()) == {24}  # no day of trading has a change of clocks
