"""Live lines that begin with a history: fed to the line with WARMUP, joined to the venue's trades, and only then traded on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from engine.config import Config, resolve
from engine.errors import ConfigError
from engine.live import follow
from engine.replay import Replayed, replay
from engine.verify import verify
from handlers.domain.reasons import IN_WARMUP, NAME
from handlers.ingest.errors import FeedError
from handlers.ingest.live import past
from tests.runs import config_file, log_rows
from tests.venue_server import Answer, Call, Pause, Send, Step, VenueServer
from transport.records import (
    BAR, BOOK_DELTA, BOOK_SNAPSHOT, CONNECTION, FEATURE, GAP, JOINED, NO_INSTRUMENT, ORDER, QUOTE, REJECT, TIMER, TRADE, WARMUP, copied,
)  # fmt: skip

FIRST_ID = 1_000
TRADES = 1_200
IN_HISTORY = 500  # of them the history has
MISSED = 150  # behind it, that the venue tells when asked
EACH_MS = 20
STRATEGY = '''
"""Orders at every trade and timer, below the last trade, as long as few are open."""
from handlers.contract import handler
from transport.records import BUY, LIMIT_ORDER, PLACE, TIMER, TRADE

@handler(reads=(TRADE, TIMER), state=[("price", "i8")])
def ask(s, p, row, out):
    if row.kind == TRADE:
        s.price = row.price_ticks - 1000
    if s.open_buy_lots > 20:
        return 0
    out.action, out.side, out.order_type, out.price_ticks, out.qty_lots = PLACE, BUY, LIMIT_ORDER, s.price, 1
    return 1
'''
CONFIG = """
[line]
top = "quote"
log_features = true
timer_interval_ms = 500
[bars]
interval_s = 1
[features]
ema_fast = 5
ema_slow = 20
[risk]
stale_data_ms = 0
[[strategy]]
name = "ask"
path = "ask.py:ask"
"""
INFO = {
    "symbols": [
        {"symbol": s, "quoteAsset": "USDT",
         "filters": [{"filterType": "PRICE_FILTER", "tickSize": "0.01"}, {"filterType": "LOT_SIZE", "stepSize": "0.00001"}]}
        for s in ("BTCUSDT", "ETHUSDT")
    ]
}  # fmt: skip


@dataclass
class Market:
    """BTCUSDT of a venue whose trades up to `now` have happened; REST knows all of them, aggregates of one each but for `sums`."""

    t0_ms: int = field(default_factory=lambda: int(time.time() * 1000) - 120_000)
    now: int = IN_HISTORY + MISSED
    untold: tuple[int, ...] = ()  # that REST leaves out
    page: int = 1000
    asked: int = 0  # how often for trades, up to the last
    later: int = 0  # what `now` is from the second time on

    def price(self, k: int) -> str:
        return f"{60_000 + (k * 7919 % 211) / 100 + k / 100:.2f}"

    def trade(self, k: int) -> dict[str, Any]:
        """The k-th trade as the stream sends it."""
        data = {"e": "trade", "s": "BTCUSDT", "t": FIRST_ID + k, "p": self.price(k), "q": f"{0.001 * (1 + k % 5):.5f}", "T": self.t0_ms + EACH_MS * k}
        return {"stream": "btcusdt@trade", "data": {**data, "E": data["T"] + 1, "m": k % 3 == 0, "M": True}}

    def quote(self) -> dict[str, Any]:
        data = {"u": 5, "s": "BTCUSDT", "b": "59999.50", "B": "1.00000", "a": "60000.50", "A": "2.00000"}
        return {"stream": "btcusdt@bookTicker", "data": data}

    def sent(self, *trades: int) -> list[Step]:
        return [Send(json.dumps(self.trade(k))) for k in trades]

    def capture(self, path: Path, trades: range, depth: bool = False) -> Path:
        """A recorder's file of a quote and these trades, received 3 ms after they were made."""
        lines = [(self.t0_ms, self.quote()), *((self.t0_ms + EACH_MS * k + 3, self.trade(k)) for k in trades)]
        if depth:
            book = {"lastUpdateId": 9, "bids": [["59999.50", "1.0"]], "asks": [["60000.50", "1.0"]]}
            diff = {"e": "depthUpdate", "E": self.t0_ms, "s": "BTCUSDT", "U": 9, "u": 10, "b": [["59999.00", "1.00000"]], "a": []}
            answer = {"tickline": "rest", "url": "https://api.binance.com/api/v3/depth?symbol=BTCUSDT", "status": 200, "body": book}
            lines[1:1] = [(self.t0_ms, {"stream": "btcusdt@depth", "data": diff}), (self.t0_ms, answer)]
        head = {"tickline": "capture", "venue": "binance", "symbols": ["BTCUSDT"]}
        info = {"tickline": "rest", "url": "https://api.binance.com/api/v3/exchangeInfo", "status": 200, "body": INFO}
        path.write_text("".join(f"{ms * 10**6} {json.dumps(body, separators=(',', ':'))}\n" for ms, body in [(self.t0_ms, head), (self.t0_ms, info), *lines]))
        return path

    def answer(self, path: str) -> Answer | None:
        """REST."""
        url = urlsplit(path)
        asked = {key: values[0] for key, values in parse_qs(url.query).items()}
        if url.path.endswith("/exchangeInfo"):
            return Answer(json.dumps(INFO))
        if url.path.endswith("/klines"):
            return Answer(json.dumps(self.bars(int(asked["startTime"]), int(asked["endTime"]))))
        if not url.path.endswith("/aggTrades"):
            return None
        self.now = self.later if self.later and self.asked else self.now
        since, first = int(asked.get("startTime", 0)), int(asked.get("fromId", 0))
        told = [self.trade(k)["data"] | {"a": k} for k in range(self.now) if k not in self.untold]
        told = [t | {"f": t["t"], "l": t["t"]} for t in told if t["T"] >= since and t["a"] >= first]
        told = told[: self.page] if asked["symbol"] == "BTCUSDT" else []
        self.asked += len(told) < self.page
        return Answer(json.dumps([{key: t[key] for key in "apqflTmM"} for t in told]))

    def bars(self, start: int, end: int) -> list[list[Any]]:
        opens = range(-(-start // 60_000) * 60_000, end, 60_000)
        return [[t, "60000.00", "60001.00", "59999.00", "60000.50", "1.00000", t + 59_999, "60000.00", 9, "1", "1", "0"] for t in opens]


def configured(folder: Path, extra: str = "", **flags: Any) -> tuple[Config, dict[str, str]]:
    config_file(folder, STRATEGY, "ask.py")
    return resolve(config_file(folder, CONFIG + extra), {key.replace("__", "."): value for key, value in flags.items()})


def lived(market: Market, script: Sequence[Step], folder: Path, name: str, *, symbols: Sequence[str] = ("BTCUSDT",), **flags: Any) -> Replayed:
    """A live session of the script, stopped when it has been played and taken."""
    config, origins = configured(folder, **flags)
    server, stop = VenueServer([script], market.answer), threading.Event()

    def end() -> None:
        server.played.wait(120)
        time.sleep(0.3)
        stop.set()

    with server.running():
        threading.Thread(target=end, daemon=True).start()
        return follow(
            {"binance": symbols}, config, origins, folder / name, capture=folder / f"{name}.capture", seconds=150, base=folder,
            ws_url=server.ws_url, rest_url=f"{server.rest_url}/api/v3", stop=stop,
        )  # fmt: skip


def told(market: Market, times: int = 1) -> list[Step]:
    """Go on with the script when REST has answered so often, and that is likely to be taken."""

    def wait() -> Sequence[str]:
        ends = time.monotonic() + 90
        while market.asked < times:
            assert time.monotonic() < ends
            time.sleep(0.01)
        return ()

    return [Call(wait), Pause(0.4)]


def market_rows(folder: Path) -> np.ndarray[Any, Any]:
    rows = log_rows(folder, "input")
    return copied(rows, rows["source_id"] == 16)


def made_of(folder: Path, kind: int, ids: set[int]) -> list[tuple[Any, ...]]:
    """What FEATURES made of the trades with these ids: (trade id, the row's own bytes), in order."""
    inputs, made = log_rows(folder, "input"), log_rows(folder, "features")
    trades = inputs[inputs["kind"] == TRADE]
    cause = dict(zip(trades["seq"].tolist(), trades["venue_seq"].tolist(), strict=True))
    return [(cause[s], r.tobytes()[48:]) for s, r in zip(made["seq"].tolist(), made, strict=True) if r["kind"] == kind and cause.get(s) in ids]


@dataclass
class Sessions:
    """The same market: A recorded and replayed whole, B its first part as history, the rest live."""

    folder: Path
    market: Market
    whole: Replayed
    live: Replayed


@pytest.fixture(autouse=True, scope="module")
def soon() -> Iterator[None]:
    """A hole is asked for again at once."""
    with mock.patch.object(past, "AGAIN_S", 0.05):
        yield


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Sessions:
    folder = tmp_path_factory.mktemp("warmup")
    market = Market()
    config, origins = configured(folder)
    whole = replay([str(market.capture(folder / "whole.capture", range(TRADES)))], config, origins, folder / "whole", base=folder)
    replay([str(market.capture(folder / "first.capture", range(IN_HISTORY)))], config, origins, folder / "first", base=folder)
    begun = IN_HISTORY + MISSED
    script = [*market.sent(*range(begun - 20, begun + 100)), *told(market), *market.sent(*range(begun + 100, TRADES)), Pause(0.6)]
    live = lived(market, script, folder, "live", warmup__from="journal", warmup__path=str(folder / "first"), warmup__span="1h")
    return Sessions(folder, market, whole, live)


def test_no_trade_comes_twice_or_is_missing(sessions: Sessions) -> None:
    trades = market_rows(sessions.live.folder)
    trades = trades[trades["kind"] == TRADE]
    assert trades["venue_seq"].tolist() == list(range(FIRST_ID, FIRST_ID + TRADES))
    assert sessions.live.summary["ingest"]["HISTORY_OVERLAP"] >= 20
    assert "HISTORY_HOLE" not in sessions.live.summary["ingest"]


def test_history_and_what_waited_bear_warmup_and_what_follows_the_join_does_not(sessions: Sessions) -> None:
    rows = market_rows(sessions.live.folder)
    warm = rows["flags"] & WARMUP != 0
    assert warm.tolist() == sorted(warm.tolist(), reverse=True)  # from the join on, never again
    trades = rows["kind"] == TRADE
    assert int((trades & warm).sum()) == IN_HISTORY + MISSED + 100
    assert rows[rows["action"] * (rows["kind"] == CONNECTION) == JOINED]["instrument_id"].tolist() == [0]


def test_features_and_bars_from_the_join_on_are_those_of_a_line_that_was_live_all_the_time(sessions: Sessions) -> None:
    rows = market_rows(sessions.live.folder)
    live = {int(r["venue_seq"]) for r in rows if r["kind"] == TRADE and not r["flags"] & WARMUP}
    assert len(live) == TRADES - IN_HISTORY - MISSED - 100
    for kind, least in ((FEATURE, len(live)), (BAR, len(live) * EACH_MS // 1000 - 1)):
        made = made_of(sessions.live.folder, kind, live)
        assert len(made) >= least
        assert made == made_of(sessions.whole.folder, kind, live)


def test_no_order_comes_of_history_nor_of_a_timer_in_it_and_orders_come_after(sessions: Sessions) -> None:
    folder = sessions.live.folder
    inputs, risk = log_rows(folder, "input"), log_rows(folder, "risk")
    warm = set(inputs[inputs["flags"] & WARMUP != 0]["seq"].tolist())
    timers = set(inputs[inputs["kind"] == TIMER]["seq"].tolist())
    orders, rejects = risk[risk["kind"] == ORDER], risk[risk["kind"] == REJECT]
    assert len(orders) > 10
    assert not warm & set(orders["seq"].tolist())
    refused = rejects[np.isin(rejects["seq"], list(warm))]
    assert set(refused["reason"].tolist()) == {IN_WARMUP}
    assert len(refused) > IN_HISTORY
    assert len(warm & timers & set(refused["seq"].tolist())) > 100  # two minutes of them
    assert timers - warm


def test_the_session_is_proved(sessions: Sessions) -> None:
    assert verify(sessions.live.folder).proved


def test_the_capture_decodes_to_what_came_behind_the_history(sessions: Sessions) -> None:
    config, origins = configured(sessions.folder)
    again = replay([str(sessions.folder / "live.capture")], config, origins, sessions.folder / "again", base=sessions.folder)
    rows, told = market_rows(sessions.live.folder), market_rows(again.folder)
    rows = copied(rows, slice(len(rows) - len(told), None))
    for both in (rows, told):
        both["seq"] = both["ts_seq_ns"] = 0
    assert told.tobytes() == rows.tobytes()
    assert again.summary["ingest"] == sessions.live.summary["ingest"]


def test_books_of_the_history_end_at_the_join_and_begin_before_the_span(tmp_path: Path) -> None:
    market = Market(now=200)
    first = market.capture(tmp_path / "first.capture", range(200), depth=True)
    done = lived(market, [*market.sent(200), *told(market), *market.sent(201)], tmp_path, "run", warmup__from="parquet", warmup__path=str(first), warmup__span="1s")
    rows = market_rows(done.folder)
    assert rows["kind"][:4].tolist() == [BOOK_SNAPSHOT, BOOK_SNAPSHOT, BOOK_DELTA, TRADE]
    trades = rows[rows["kind"] == TRADE]
    assert trades["venue_seq"].tolist() == list(range(FIRST_ID + 149, FIRST_ID + 202))  # of the last second, 51
    ends = np.flatnonzero(rows["kind"] == GAP)
    assert trades["venue_seq"][:51][-1] == rows["venue_seq"][ends[0] - 1]
    assert rows["flags"][ends[0]] & WARMUP
    assert not (rows["kind"] == QUOTE).any()


def test_rest_alone_begins_with_closed_bars_and_the_trades_behind_them(tmp_path: Path) -> None:
    now_ms = int(time.time() * 1000)
    market = Market(t0_ms=now_ms // 60_000 * 60_000 - 120_000, now=20_000, page=1000)
    market.now = (now_ms - market.t0_ms) // EACH_MS
    done = lived(
        market, [*market.sent(market.now), *told(market, 2), *market.sent(market.now + 1)], tmp_path, "run", symbols=("BTCUSDT", "ETHUSDT"),
        warmup__from="rest", warmup__span="10m",
    )  # fmt: skip
    rows = market_rows(done.folder)
    bars, trades = rows[rows["kind"] == BAR], rows[rows["kind"] == TRADE]
    assert set(bars["instrument_id"].tolist()) == {0, 1}
    assert np.all(bars["flags"] & WARMUP)
    assert int(bars["ts_open_ns"].max()) + 60 * 10**9 <= trades["ts_event_ns"][0]
    assert np.all(np.diff(trades["venue_seq"]) == 1)
    assert trades["venue_seq"][-1] == FIRST_ID + market.now + 1
    assert not trades["flags"][-1] & WARMUP
    assert set(trades["instrument_id"].tolist()) == {0}  # the other has none, and keeps nobody from trading


def holed(folder: Path) -> tuple[Market, Path, list[Step]]:
    market = Market(now=110, untold=(105, 106))
    first = market.capture(folder / "first.capture", range(100))
    return market, first, [*market.sent(*range(110, 120)), *told(market), *market.sent(*range(120, 140))]


def test_a_hole_that_stays_stops_the_session_in_words(tmp_path: Path) -> None:
    market, first, script = holed(tmp_path)
    with pytest.raises(FeedError, match=r'BTCUSDT.binance cannot be joined to its history: trade 1105 was to follow .* warmup.on_hole = "trade"'):
        lived(market, script, tmp_path, "run", warmup__from="parquet", warmup__path=str(first))


def test_a_hole_that_stays_is_told_and_traded_over_where_that_is_wanted(tmp_path: Path) -> None:
    market, first, script = holed(tmp_path)
    done = lived(market, script, tmp_path, "run", warmup__from="parquet", warmup__path=str(first), warmup__on_hole="trade")
    rows = market_rows(done.folder)
    assert rows[rows["kind"] == TRADE]["venue_seq"].tolist() == [FIRST_ID + k for k in range(140) if k not in market.untold]
    gap = rows[(rows["kind"] == GAP) & (rows["instrument_id"] != NO_INSTRUMENT)]
    assert (gap["expected_seq"].tolist(), gap["got_seq"].tolist()) == ([1105], [1107])
    assert NAME[int(gap["reason"][0])] == "HISTORY_HOLE"
    assert not rows["flags"][-1] & WARMUP


def test_rest_that_lags_behind_the_stream_is_asked_again(tmp_path: Path) -> None:
    market = Market(now=105, later=120)
    first = market.capture(tmp_path / "first.capture", range(100))
    script = [*market.sent(*range(110, 120)), *told(market, 2), *market.sent(120)]
    done = lived(market, script, tmp_path, "run", warmup__from="parquet", warmup__path=str(first))
    trades = market_rows(done.folder)
    trades = trades[trades["kind"] == TRADE]
    assert trades["venue_seq"].tolist() == list(range(FIRST_ID, FIRST_ID + 121))
    assert done.summary["ingest"]["HISTORY_HOLE"] == 1
    assert (trades["flags"] & WARMUP != 0).tolist() == [True] * 120 + [False]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"warmup__from": "journal", "warmup__path": "nowhere"}, "nowhere is no run's folder"),
        ({"warmup__from": "parquet", "warmup__path": "{first}", "symbols": ("BTCUSDT", "ETHUSDT")}, "has nothing of ETHUSDT.binance"),
    ],
)
def test_a_history_that_does_not_fit_is_refused_in_words(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    market = Market()
    first = market.capture(tmp_path / "first.capture", range(3))
    with pytest.raises(ConfigError, match=words):
        lived(market, [], tmp_path, "run", **{k: v.format(first=first) if isinstance(v, str) else v for k, v in change.items()})


@pytest.mark.parametrize("flags", [{"warmup__from": "rest"}, {"warmup__from": "journal", "warmup__path": "run"}])
def test_a_venue_that_does_not_tell_its_past_is_refused_before_anything_is_asked_of_it(tmp_path: Path, flags: dict[str, Any]) -> None:
    config, origins = configured(tmp_path, **flags)
    with pytest.raises(ConfigError, match=r"past trades of okx cannot be had.*on_hole"):
        follow({"okx": ["BTC-USDT"]}, config, origins, tmp_path / "run", ws_url="ws://127.0.0.1:1", rest_url="http://127.0.0.1:1")


def test_a_long_history_can_be_left(tmp_path: Path) -> None:
    market = Market()
    first = market.capture(tmp_path / "first.capture", range(IN_HISTORY))
    stop = threading.Event()
    server = VenueServer([[]], market.answer)
    config, origins = configured(tmp_path, warmup__from="parquet", warmup__path=str(first), runtime__chunk_rows=10)
    with server.running():
        done = follow({"binance": ["BTCUSDT"]}, config, origins, tmp_path / "run", base=tmp_path, ws_url=server.ws_url,
                      rest_url=f"{server.rest_url}/api/v3", stop=stop,
                      progress=lambda doing, *_: stop.set() if doing == "reading the history" else None)  # fmt: skip
    assert 0 < len(market_rows(done.folder)) < 50
    assert not server.connections
