"""Features of events over two recorded venues beside figures that independent scripts computed from the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from handlers.features.catalogue import MICROSTRUCTURE
from handlers.features.declare import EVENT_INPUT, ON_BOOK
from handlers.features.feature_set import FeatureSet
from handlers.ingest.formats import open_feed
from tests.golden.decoded import reference
from transport.records import QUOTE, joined

SECOND_NS = 10**9
Rows = np.ndarray[Any, Any]


class Quotes(NamedTuple):
    """A venue's best quotes as events whose time begins at the first, in its units, and what is expected of them."""

    events: Rows
    tick: float
    lot: float
    book: dict[str, Any]
    micro: dict[str, Any]

    def values(self, name: str, **params: float) -> Rows:
        return FeatureSet([(name, params)], MICROSTRUCTURE).batch(self.events)


@pytest.fixture(scope="module", params=["usdm", "spot"])
def quotes(request: pytest.FixtureRequest, data_dir: Path) -> Quotes:
    feed = open_feed(str(data_dir / "binance_ws_capture" / request.param))
    rows = joined(*feed.chunks(4096))
    rows = rows[rows["kind"] == QUOTE]
    x = np.zeros(len(rows), EVENT_INPUT)
    x["ts_ns"], x["kind"] = rows["ts_recv_ns"] - rows["ts_recv_ns"][0], ON_BOOK
    for name, source in (("bid_ticks", "price_ticks"), ("bid_lots", "qty_lots"), ("ask_ticks", "ask_ticks"), ("ask_lots", "ask_lots")):
        x[name][:, 0] = rows[source]
    x["mid"] = 0.5 * (x["bid_ticks"][:, 0] + x["ask_ticks"][:, 0])
    instrument = feed.instruments[0]
    book, micro = (reference(data_dir, f"{of}_{request.param}_btcusdt") for of in ("binance", "micro"))
    return Quotes(x, float(instrument.tick), float(instrument.lot), book, micro)


def next_change(mid: Rows) -> Rows:
    """Sign of the first mid behind each that is another; 0 where there is none."""
    steps = np.flatnonzero(np.diff(mid))
    at = np.searchsorted(steps, np.arange(len(mid)))
    known = at < len(steps)
    sign = np.zeros(len(mid))
    sign[known] = np.sign(np.diff(mid)[steps[at[known]]])
    return sign


def mids_of_seconds(quotes: Quotes) -> tuple[Rows, Rows]:
    """The second of each quote, from the first quote on, and the last mid of every second."""
    second = quotes.events["ts_ns"] // SECOND_NS
    last = np.searchsorted(second, np.arange(second[-1] + 1), side="right") - 1
    return second, quotes.events["mid"][last]


def test_order_flow_adds_up_to_the_reference(quotes: Quotes) -> None:
    flow = quotes.values("order_flow")[:, 0]
    assert np.nansum(flow) * quotes.lot == pytest.approx(float(quotes.book["book_ticker"]["OFI_sum"]), abs=1e-9)
    assert (quotes.values("order_flow_levels", levels=3)[1:, 1] == flow[1:]).all()
    hundreds = quotes.values("order_flow", period=100)[100::100, 0]
    assert hundreds.tolist() == flow[1 : 100 * len(hundreds) + 1].reshape(-1, 100).sum(axis=1).tolist()


def test_order_flow_of_a_second_goes_with_its_mid_change_and_hardly_with_the_next(quotes: Quotes) -> None:
    second, mids = mids_of_seconds(quotes)
    flow = np.bincount(second, np.nan_to_num(quotes.values("order_flow")[:, 0])) * quotes.lot
    change = np.diff(mids, prepend=quotes.events["mid"][0]) * quotes.tick
    said = quotes.micro
    assert len(change) == said["seconds"]
    assert round(float(np.corrcoef(flow, change)[0, 1]), 6) == said["ofi_1s_contemporaneous_corr"]
    assert round(float(np.corrcoef(flow[:-1], change[1:])[0, 1]), 6) == said["ofi_1s_next_second_corr"]
    assert round(float(np.polyfit(flow, change, 1)[0]), 8) == said["ofi_1s_slope"]


def test_sign_of_the_imbalance_tells_the_next_mid_as_often_as_the_reference_says(quotes: Quotes) -> None:
    sign = next_change(quotes.events["mid"])
    imbalance = quotes.values("queue_imbalance", levels=1)[:, 0]
    known = sign != 0
    for name, begin in (("all", 0.0), ("last30pct", 0.7)):
        said = quotes.micro[name]
        part = np.flatnonzero(known)
        part = part[len(part) - said["n"] :] if begin else part
        assert len(part) == said["n"]
        right = (imbalance[part] > 0) == (sign[part] > 0)
        assert round(float(right.mean()), 6) == said["accuracy_sign_of_imbalance"], name
    leans = quotes.values("microprice_levels", levels=1)[:, 0] - quotes.events["mid"]
    assert (np.sign(leans) == np.sign(imbalance)).all()  # of one level both lean to the same side


def test_realised_variance_of_seconds_is_the_references(quotes: Quotes) -> None:
    _, mids = mids_of_seconds(quotes)
    end = quotes.events[-1:].copy()
    end["ts_ns"] += SECOND_NS  # until then the last second has not ended
    whole = quotes._replace(events=np.concatenate((quotes.events, end)))
    variance, bipower, jump = whole.values("realised_variance", period=len(mids) - 1, sample_ms=1000)[-1]
    assert float(f"{variance:.8g}") == quotes.micro["realized_var_1s_mid"]
    size = np.abs(np.diff(np.log(mids)))
    assert bipower == pytest.approx(np.pi / 2 * (size[1:] * size[:-1]).sum(), rel=1e-9)
    assert jump == variance - bipower > 0
