"""A live session against a venue on the loopback, and what must hold of every one whatever went wrong in it."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from engine.config import resolve
from engine.line import load_kernels
from engine.live import follow
from engine.replay import Replayed, replay
from engine.verify import verify
from handlers.domain import reasons
from handlers.ingest.venues.own_lines import MARK, OwnLine, read
from tests.runs import log_rows
from tests.venue_oracle import Oracle, Top
from tests.venue_server import VenueServer
from transport.records import (
    ASK, BID, BOOK_DELTA, BOOK_SNAPSHOT, CONNECT_FAILED, CONNECTED, CONNECTING, CONNECTION, DISCONNECTED, EVENT_END, EVENT_FIRST, GAP, OVERRUN,
    RESYNC, SUBSCRIBED,
)  # fmt: skip

LIMIT_S = 20.0
OF_BOOKS = ("SEQUENCE_GAP", "CONNECTION_LOST", "CHECKSUM_FAILED")  # count books that were lost; all else counts lines without a record
NEXT = {  # what may follow a step in the life of a connection
    0: {CONNECTING, DISCONNECTED},
    CONNECTING: {CONNECTED, CONNECT_FAILED},
    CONNECTED: {SUBSCRIBED, DISCONNECTED},
    SUBSCRIBED: {DISCONNECTED, RESYNC, OVERRUN},
    CONNECT_FAILED: {CONNECTING, DISCONNECTED},
    DISCONNECTED: {CONNECTING, DISCONNECTED},
}


def await_that(what: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    until = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.01)


def sockets() -> int:
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
        except FileNotFoundError:
            continue
    return found


@contextmanager
def nothing_left() -> Iterator[None]:
    """Threads and sockets that come in the block go with it."""
    threads, before = set(threading.enumerate()), sockets()
    yield
    await_that(lambda: set(threading.enumerate()) <= threads, 5.0)
    await_that(lambda: sockets() <= before or (gc.collect() >= 0 and sockets() <= before), 5.0)  # to collect takes a while


class Live:
    """A session that has ended, beside its capture."""

    def __init__(self, done: Replayed, capture: Path) -> None:
        self.done, self.capture = done, capture
        self.rows: np.ndarray[Any, Any] = log_rows(done.folder, "input")
        self.lines = [line.partition(b" ") for line in capture.read_bytes().split(b"\n")[:-1]]
        self.bodies = [body for _, _, body in self.lines]
        self.ingest: dict[str, int] = done.summary["ingest"]
        self.market = self.rows[np.isin(self.rows["kind"], (*range(1, 6), GAP, CONNECTION)) & (self.rows["source_id"] >= 4)]

    @property
    def life(self) -> list[dict[str, int]]:
        """CONNECTION records."""
        found = self.rows[self.rows["kind"] == CONNECTION]
        return [{k: int(r[k]) for k in ("action", "connection", "attempt", "code", "lost", "origin")} for r in found]

    def actions(self, *but: int) -> list[int]:
        return [r["action"] for r in self.life if r["action"] not in but]

    def gaps(self) -> Counter[int]:
        return Counter(self.rows["reason"][self.rows["kind"] == GAP].tolist())

    def texts(self) -> list[bytes]:
        """What the venue sent over the websocket and was written down."""
        return [body for body in self.bodies if not body.startswith(MARK)]

    def own(self) -> Iterator[OwnLine]:
        return (read(body) for body in self.bodies if body.startswith(MARK))

    def message_at(self, origin: int) -> str:
        """The venue's message that line `origin` holds."""
        body = self.bodies[origin]
        return bytes(read(body).body).decode() if body.startswith(MARK) else body.decode()

    # --- books --------------------------------------------------------------------------------------------------------

    def books(self, symbol: str) -> tuple[list[tuple[str, Top]], dict[str, dict[Decimal, Decimal]] | None]:
        """(message, best levels after it) at every event end at which the book is valid; all of the last one, None where it is not."""
        at = next(n for n, i in enumerate(self.done.built.instruments) if i.symbol == symbol)
        tick, lot = self.done.built.instruments[at].tick, self.done.built.instruments[at].lot
        mine = self.rows[np.isin(self.rows["kind"], (BOOK_DELTA, BOOK_SNAPSHOT, GAP)) & (self.rows["instrument_id"] == at)]
        names = ("kind", "flags", "side", "price_ticks", "qty_lots", "origin")
        sides: dict[int, dict[int, int]] = {BID: {}, ASK: {}}
        valid, ends = False, []
        for kind, flags, side, price, qty, origin in zip(*(mine[n].tolist() for n in names), strict=True):
            if kind == GAP:
                valid = False
                continue
            if kind == BOOK_SNAPSHOT and flags & EVENT_FIRST:
                sides = {BID: {}, ASK: {}}
            if kind == BOOK_SNAPSHOT or valid:
                sides[side][price] = qty
                if not qty:
                    del sides[side][price]
            if flags & EVENT_END:
                valid |= kind == BOOK_SNAPSHOT
                if valid:
                    bid, ask = max(sides[BID]), min(sides[ASK])
                    ends.append((self.message_at(origin), (bid * tick, sides[BID][bid] * lot, ask * tick, sides[ASK][ask] * lot)))
        whole = {name: {p * tick: q * lot for p, q in sides[side].items()} for name, side in (("bids", BID), ("asks", ASK))}
        return ends, whole if valid else None

    # --- what always holds --------------------------------------------------------------------------------------------

    def check(self, server: VenueServer, oracle: Oracle, whole: Sequence[str] = (), doubted: Sequence[str] = ()) -> None:
        """Everything that the module promises; the books of `whole` were the venue's when it was told to stop, those of `doubted` unknown."""
        self._check_lives()
        self._check_nothing_is_lost(server)
        for symbol in oracle.books:
            ends, _ = self.books(symbol)
            for text, top in ends:
                assert top == oracle.tops[text], f"a wrong book of {symbol} was valid after {text[:200]}"
        for symbol in (*whole, *doubted):
            assert self.known_at_stop(symbol) == (oracle.books[symbol].quantities() if symbol in whole else None)
        self.check_again()

    def known_at_stop(self, symbol: str) -> dict[str, dict[Decimal, Decimal]] | None:
        """The book before the connection was closed."""
        last = max((r["origin"] for r in self.life if r["action"] == DISCONNECTED), default=len(self.bodies))
        cut = Live.__new__(Live)
        cut.__dict__ = {**self.__dict__, "rows": self.rows[~((self.rows["kind"] == GAP) & (self.rows["origin"] >= last))]}
        return cut.books(symbol)[1]

    def _check_lives(self) -> None:
        step = connection = 0
        for r in self.life:
            assert r["action"] in NEXT[step], f"{r} after step {step}"
            connection += r["action"] == CONNECTING
            assert r["connection"] == connection
            assert r["attempt"] >= 1 or r["action"] in (OVERRUN, DISCONNECTED)
            step = r["action"] if r["action"] not in (RESYNC, OVERRUN) else step
        assert step in (DISCONNECTED, CONNECT_FAILED, 0)
        told = [o for o in self.own() if o.tickline == "connection"]
        assert [(o.action, o.connection, o.attempt, o.code, o.lost) for o in told] == [
            tuple(r[k] for k in ("action", "connection", "attempt", "code", "lost")) for r in self.life
        ]

    def _check_nothing_is_lost(self, server: VenueServer) -> None:
        """Each connection's messages are in the capture from its first on, but what an overrun counts, and the end that was not received."""
        sent: dict[int, list[bytes]] = {}
        for connection, text in server.sent:
            sent.setdefault(connection, []).append(text.encode() if isinstance(text, str) else text)
        stood, at, missing = 0, 0, 0
        for body in self.bodies:
            if not body.startswith(MARK):
                found = sent[stood].index(body, at, at + missing + 1)
                missing, at = missing - (found - at), found + 1
                assert missing == 0, "an overrun counts more than is missing"
                continue
            own = read(body)
            if own.tickline == "connection" and own.action == CONNECTED:
                stood, at, missing = own.connection, 0, 0
            elif own.tickline == "connection":
                missing += own.lost
        lines = len(self.bodies)
        without = lines - len(set(self.market["origin"].tolist()))
        only_gaps = lines - len(set(self.market["origin"][self.market["kind"] != GAP].tolist()))
        dropped = sum(n for name, n in self.ingest.items() if name not in OF_BOOKS)
        assert without <= dropped <= only_gaps, (without, dropped, only_gaps, self.ingest)

    def check_again(self) -> None:
        """The capture decodes to the session, and the journal re-executes."""
        config, origins = resolve(None)
        again = replay([str(self.capture)], config, origins, self.done.folder.with_name("again"))
        assert again.summary["hashes"] == self.done.summary["hashes"]
        assert again.summary["ingest"] == self.ingest
        found = verify(self.done.folder)
        assert found.proved, (found.evidence, found.program, found.decisions)


def followed(
    folder: Path, server: VenueServer, venue: str, symbols: Sequence[str], ready: Callable[[Callable[[str | bytes], bool]], bool] | None = None,
    rest: str = "", stop: threading.Event | None = None, stops: bool = True,
) -> Live:  # fmt: skip
    """A session that is told to stop when `ready(written)` holds: by default when the last message sent, and the answer to what it
    asked last on its last connection, were written down."""
    load_kernels()  # to compile them may take longer than a session waits for anything
    stop, capture, config = stop or threading.Event(), folder / "capture", resolve(None)

    def written(text: str | bytes) -> bool:
        return capture.exists() and (text if isinstance(text, bytes) else text.encode()) in capture.read_bytes()

    def all_written() -> bool:
        asked = [body for ordinal, body in server.answers[-1:] if ordinal == server.connections]
        return server.played.is_set() and all(body is not None and written(body) for body in (server.sent[-1][1], *asked))

    def ender() -> None:
        try:
            await_that(lambda: ready(written) if ready else all_written())
        finally:
            stop.set()

    with nothing_left(), server.running():
        thread = threading.Thread(target=ender)
        if stops:
            thread.start()
        done = follow(
            {venue: symbols}, *config, folder / "run", capture=capture, ws_url=server.ws_url, rest_url=server.rest_url + rest, stop=stop
        )
        if stops:
            thread.join()
    return Live(done, capture)


def refused(live: Live, reason: int) -> int:
    return live.ingest.get(reasons.NAME[reason], 0)
