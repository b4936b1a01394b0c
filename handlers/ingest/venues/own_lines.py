"""What a live source writes into its capture of itself, between the venue's messages, so that a capture tells all that a session knew.

    {"tickline":"capture","venue":"binance","symbols":["BTCUSDT"]}             first line: whose messages follow
    {"tickline":"connection","action":2,"connection":1,"attempt":1,"code":0}   a step in the life of the connection
    {"tickline":"rest","url":"https://…","status":200,"body":{…}}              the answer to a request

The decoder makes CONNECTION records of the second kind, so that they are in the journal of the live session and of its capture's
replay alike.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Raw

from handlers.domain.reasons import CONTROL_MESSAGE, WRONG_TYPE
from handlers.ingest.venues.protocol import NO_JSON, NOTHING, Line, Parsed, Refused
from transport.records import CONNECTION, CONNECTING, OVERRUN

MARK = b'{"tickline":'
LIFE_URL = b"tickline:connection"  # of a line that is no message of the venue
Count = Annotated[int, Meta(ge=0, le=2**62)]


class OwnLine(msgspec.Struct, omit_defaults=True):
    """Any of the three; `action` is a connection record's."""

    tickline: str
    venue: str = ""
    symbols: list[str] = []
    action: Annotated[int, Meta(ge=CONNECTING, le=OVERRUN)] = CONNECTING
    connection: Count = 0
    attempt: Count = 0
    code: Count = 0
    lost: Count = 0
    symbol: str = ""  # whose book is asked for again; empty: the whole connection's
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
    if own.tickline == "connection":
        return Line(recv, LIFE_URL, body)
    raise Refused(CONTROL_MESSAGE, f"a line of the recorder's own: {own.tickline[:40]!r}")


def life(line: Line, places: dict[str, int]) -> Parsed:
    """The connection record of a line at LIFE_URL; `place` -1 is no instrument's."""
    own = read(line.body)
    place = places.get(own.symbol, -1)
    return Parsed(CONNECTION, place, line.recv, 0, own.code, own.connection, own.attempt, own.action, own.lost)
