"""Recorded venues on the loopback: what they send, and what they answer of the moment."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.live_session import Live, await_that, followed
from tests.venue_oracle import BinanceOracle, CoinbaseOracle, KrakenOracle, OkxOracle, Oracle
from tests.venue_server import Answer, Await, Call, Send, Step, VenueServer, json_messages
from transport.records import CONNECTED, CONNECTING, SUBSCRIBED

BTC = "BTCUSDT"
STARTED = [CONNECTING, CONNECTED, SUBSCRIBED]
FILTERS = [{"filterType": "PRICE_FILTER", "tickSize": "0.10"}, {"filterType": "LOT_SIZE", "stepSize": "0.001"}]
INFO = json.dumps({"symbols": [{"symbol": BTC, "quoteAsset": "USDT", "filters": FILTERS}]})


class Usdm:
    """The recorded head of a futures stream from its snapshot on, and a venue that answers with the book of the moment."""

    def __init__(self, data_dir: Path, lines: int = 1500) -> None:
        with gzip.open(data_dir / "binance_ws_capture" / "usdm" / "btcusdt_20240808.gz") as file:
            head = [next(file).rstrip() for _ in range(lines)]
        texts = json_messages(head)
        self.snapshot = next(t for t in texts if '"lastUpdateId"' in t[:60])
        begin = json.loads(self.snapshot)["lastUpdateId"]
        self.texts = [t for t in texts if '"lastUpdateId"' not in t[:60] and not ('"depthUpdate"' in t and json.loads(t)["data"]["u"] < begin)]
        self.diffs = [n for n, t in enumerate(self.texts) if '"depthUpdate"' in t]
        self.oracle = BinanceOracle(BTC, self.snapshot)
        self.books = 0  # asked for
        self.answers: dict[int, Callable[[], Answer]] = {}  # n-th request for a book -> what it is answered instead

    def rest(self, path: str) -> Answer | None:
        if "/exchangeInfo" in path:
            return Answer(INFO)
        self.books += 1
        made = self.answers.get(self.books)
        return made() if made else Answer(self.oracle.fresh(BTC))

    def asked(self, books: int) -> Call:
        """Wait until so many books were asked for."""

        def wait() -> Sequence[str]:
            await_that(lambda: self.books >= books)
            return ()

        return Call(wait)

    def told(self, folder: Path, books: int, last: str) -> Call:
        """Wait until the session in `folder` has written down so many books, and message `last`."""

        def is_written() -> bool:
            lines = (folder / "capture").read_bytes().split(b"\n")
            found = [line for line in lines if b'"tickline":"rest"' in line and b'"lastUpdateId"' in line]
            return len(found) >= books and any(line.endswith(last.encode()) for line in lines)

        def wait() -> Sequence[str]:
            await_that(is_written)
            return ()

        return Call(wait)

    def play(self, begin: int, end: int | None = None) -> list[Step]:
        return [Send(t) for t in self.texts[begin:end]]

    def server(self, *scripts: Sequence[Step]) -> VenueServer:
        return VenueServer(scripts, self.rest, self.oracle.happen)

    def follow(self, folder: Path, server: VenueServer, **more: object) -> Live:
        return followed(folder, server, "binance_usdm", [BTC], rest="/fapi/v1", **more)  # type: ignore[arg-type]


class Recorded:
    """A recorded capture of one of the other venues, played; whoever subscribes to a book anew gets it as it is then."""

    def __init__(self, data_dir: Path, venue: str, name: str, oracle: Oracle, skip: Callable[[str], bool], limit: int) -> None:
        folder = data_dir / "cryptofeed_captures"
        lines = [line for line in (folder / name).read_bytes().split(b"\n") if line[:1].isdigit()]
        self.texts = [t for t in json_messages(lines) if not skip(t)][:limit]
        described = [line.partition(b" -> ") for line in (folder / f"{venue.upper()}.0").read_bytes().split(b"\n") if line]
        self.described = {url.decode().partition("://")[2].partition("/")[2]: line.partition(b": ")[2] for url, _, line in described}
        self.venue, self.oracle = venue, oracle

    def rest(self, path: str) -> Answer | None:
        found = next((body for url, body in self.described.items() if url.endswith(path.lstrip("/"))), None)
        return Answer(found) if found else None

    def server(self, *scripts: Sequence[Step]) -> VenueServer:
        return VenueServer(scripts, self.rest, self.oracle.happen)


def okx(data_dir: Path) -> tuple[Recorded, list[str]]:
    return Recorded(data_dir, "okx", "OKX.ws.1.0", OkxOracle(), lambda t: '"event"' in t, 400), ["BTC-USDT", "UNI-USD-SWAP", "BTC-USD-220527"]


def kraken(data_dir: Path) -> tuple[Recorded, list[str]]:
    wanted = ("XMR/USD", "ETH/CHF")
    skip = lambda t: t[0] != "[" or not t.rstrip("]").rstrip('"').endswith(wanted)  # noqa: E731
    return Recorded(data_dir, "kraken", "KRAKEN.ws.50.0", KrakenOracle(), skip, 600), list(wanted)


def coinbase(data_dir: Path) -> tuple[Recorded, list[str]]:
    wanted = ("SKL-USD", "DASH-BTC")
    skip = lambda t: not any(f'"{w}"' in t for w in wanted) or '"subscriptions"' in t  # noqa: E731
    return Recorded(data_dir, "coinbase", "COINBASE.ws.28.0", CoinbaseOracle(), skip, 900), list(wanted)


def subscribed(symbol: str) -> Await:
    return Await(lambda m: '"subscribe"' in m and symbol in m)
