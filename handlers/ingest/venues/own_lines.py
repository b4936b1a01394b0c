"""What a live source writes into its capture of itself, between the venue's messages, so that a capture tells all that a session knew.

    {"tickline":"capture","venue":"binance","symbols":["BTCUSDT"]}             first line: whose messages follow
    {"tickline":"connection","action":2,"connection":1,"attempt":1,"code":0}   a step in the life of the connection
    {"tickline":"rest","url":"https://…","status":200,"body":{…}}              the answer to a request
    {"tickline":"history","symbol":"BTCUSDT","last":7,"time":…,"tail":[[7,7,5]]}  before the first message: what the line has of the symbol
    {"tickline":"joined","symbol":"BTCUSDT","attempt":1,"code":0}              what the venue could tell of its past stands above

The decoder makes CONNECTION records of the second kind and of the last, so that they are in the journal of the live session and of
its capture's replay alike; what follows a `history` is joined to it, see `joining`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Raw

from handlers.domain.reasons import CONTROL_MESSAGE, WRONG_TYPE
from handlers.ingest.venues.protocol import NO_JSON, NOTHING, Line, Parsed, Refused
from transport.records import CONNECTION, CONNECTING, JOINED, OVERRUN

MARK = b'{"tickline":'
LIFE_URL = b"tickline:connection"  # of lines that are no message of the venue
HISTORY_URL = b"tickline:history"
Count = Annotated[int, Meta(ge=0, le=2**62)]


class OwnLine(msgspec.Struct, omit_defaults=True):
    """Any of the five; `action` is a connection record's."""

    tickline: str
    venue: str = ""
    symbols: list[str] = []
    action: Annotated[int, Meta(ge=CONNECTING, le=OVERRUN)] = CONNECTING
    connection: Count = 0
    attempt: Count = 0
    code: Count = 0
    lost: Count = 0
    symbol: str = ""  # whose book is asked for again, or past; empty: the whole connection's
    last: Count = 0  # id of the last trade of the history, 0 where it has none
    time: Count = 0  # its time, ns of the venue's clock
    tail: list[tuple[Count, Count, Count]] = []  # (first id, last id, lots) of the last trades, oldest first
    url: str = ""
    status: Count = 0
    body: Raw = NOTHING


_decoder = msgspec.json.Decoder(OwnLine)


def write(line: OwnLine) -> bytes:
    """The line's body."""
    return msgspec.json.encode(line)


def read(body: bytes) -> OwnLine:
    """The line of a body that begins with MARK; raises Refused for one that is damaged."""
    try:
        return _decoder.decode(body)
    except NO_JSON as error:
        raise Refused(WRONG_TYPE, f"a line of the recorder's own: {error}") from None


def opened(recv: int, body: bytes) -> Line:
    """A REST answer as the line that it is; a step of the connection as it stands; raises Refused for what is neither."""
    own = read(body)
    if own.tickline == "rest":
        return Line(recv, own.url.encode(), bytes(own.body))
    if own.tickline in ("connection", "joined"):
        return Line(recv, LIFE_URL, body)
    if own.tickline == "history":
        return Line(recv, HISTORY_URL, body)
    raise Refused(CONTROL_MESSAGE, f"a line of the recorder's own: {own.tickline[:40]!r}")


def life(line: Line, places: dict[str, int]) -> Parsed:
    """The connection record of a line at LIFE_URL; `place` -1 is no instrument's."""
    own = read(line.body)
    place = places.get(own.symbol, -1)
    action = JOINED if own.tickline == "joined" else own.action
    return Parsed(CONNECTION, place, line.recv, 0, own.code, own.connection, own.attempt, action, own.lost)
