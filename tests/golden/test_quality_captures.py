"""The checks on recorded feeds: no hard one objects, nothing is lost, and the clock runs 1.27 s behind where it is known to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.config import Config
from engine.feeds import open_feeds
from engine.quality import assess

SOFT = {"returns", "volume", "locked"}
# Trades, then how many are outliers of a hundred thousand at most, of each.
FEEDS = {
    "binance_ws_capture/usdm": (21_313, 200),
    "binance_ws_capture/spot": (19_904, 200),
    "databento_mbo_esh4": (2_973, 0),
}


@pytest.mark.parametrize("name", FEEDS)
def test_no_hard_check_objects_to_a_recorded_feed(data_dir: Path, name: str) -> None:
    spec = str(data_dir / name)
    report = assess([spec], Config())[spec]
    objected = {key: check["times"] for key, check in report["checks"].items() if check["times"]}
    trades, share = FEEDS[name]
    assert set(objected) <= SOFT
    assert sum(objected.values()) <= share * trades / 100_000
    assert report["score"] > 99.9
    assert (report["dropped"], report["held_on"], report["halts"]) == (0, 0, 0)
    assert report["flagged"] == sum(objected.values())
    (instrument,) = report["instruments"]
    assert (instrument["trades"], instrument["trades_lost"]) == (trades, 0)


VENUES = (
    "OKX.ws.1.0", "KRAKEN.ws.48.0,KRAKEN.ws.49.0,KRAKEN.ws.50.0", "COINBASE.ws.28.0", "BITMEX.ws.1.0", "BYBIT.ws.25.0",
    "BINANCE.http.0.0,BINANCE.ws.1.0", "BINANCE_FUTURES.http.0.0,BINANCE_FUTURES.ws.1.0",
)  # fmt: skip


@pytest.mark.parametrize("names", VENUES)
def test_no_hard_check_objects_to_a_short_capture_of_any_venue(data_dir: Path, names: str) -> None:
    spec = ",".join(str(data_dir / "cryptofeed_captures" / name) for name in names.split(","))
    report = assess([spec], Config())[spec]
    objected = {key for key, check in report["checks"].items() if check["times"]}
    assert objected <= SOFT
    assert report["records"] > 100
    assert report["score"] == 100.0
    assert sum(i["trades_lost"] for i in report["instruments"]) == 0


@pytest.mark.parametrize("name", ["usdm", "spot"])
def test_skew_of_the_captures_is_what_their_times_say(data_dir: Path, name: str) -> None:
    spec = str(data_dir / "binance_ws_capture" / name)
    feeds, _ = open_feeds([spec], ())
    skews = []
    for rows in feeds[0].windows(1 << 16):
        known = (rows["ts_event_ns"] > 0) & np.isin(rows["kind"], (1, 2, 3))
        skews.append((rows["ts_recv_ns"] - rows["ts_event_ns"])[known])
    due = np.concatenate(skews)
    found = assess([spec], Config())[spec]["instruments"][0]["skew_ns"]
    assert (found["min"], found["max"]) == (due.min(), due.max())
    assert found["median"] == pytest.approx(np.median(due), abs=1_000_000), "a sample of the records, to a millisecond"
    assert round(found["median"] / 1e9, 2) == -1.27
