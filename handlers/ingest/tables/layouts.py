"""Which map a table has: the one beside it, or, for two known families of files, one that is built in.

    trades.csv.gz      1. trades.csv.gz.toml beside it     2. map.toml in its folder, for all tables there
                       3. the header of a table that `tickline export` wrote
                       4. the name of a daily or monthly file of Binance's archive, as `tickline fetch binance` leaves it

Columns of the archive: github.com/binance/binance-public-data, README (2022), and the header lines that futures' files have since.
Spot stamps are in ms, from 2025 on in us, which their size tells.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

from handlers.ingest.blocks import read_head
from handlers.ingest.errors import NotAFeedError
from handlers.ingest.venues.binance import COINM, SPOT, USDM
from handlers.ingest.tables.parquet import is_parquet, parquet_header
from handlers.ingest.venues.protocol import quote_of
from handlers.ingest.tables.files import HEADER_BYTES, TableFile
from handlers.ingest.tables.map import Columns, Kind, TableMap, TableTime, TableWords

ReadMap = Callable[[Path], TableMap]  # raises in words where the file is no map
BESIDE, OF_FOLDER = ".toml", "map.toml"
_NS = TableTime(unit="ns")
_PRINT = ("ts_event_ns", "ts_recv_ns", "instrument")
_EXPORTED: dict[tuple[str, ...], TableMap] = {
    (*_PRINT, "trade_id", "price", "qty", "side", "conditions"): TableMap(
        "trade", time=_NS,
        columns=Columns(time="ts_event_ns", recv_time="ts_recv_ns", instrument="instrument", price="price", qty="qty", side="side", id="trade_id", conditions="conditions"),
    ),
    (*_PRINT, "venue_seq", "bid", "bid_qty", "ask", "ask_qty"): TableMap(
        "quote", time=_NS,
        columns=Columns(time="ts_event_ns", recv_time="ts_recv_ns", instrument="instrument", bid="bid", bid_qty="bid_qty", ask="ask", ask_qty="ask_qty", id="venue_seq"),
    ),
    ("ts_open_ns", "interval_ns", "instrument", "open", "high", "low", "close", "volume", "notional", "trades", "side", "session"): TableMap(
        "bar", time=_NS,
        columns=Columns(open_time="ts_open_ns", interval_ns="interval_ns", instrument="instrument", open="open", high="high", low="low", close="close", volume="volume", notional="notional", trades="trades", side="side", session="session"),
    ),
}  # fmt: skip
_ARCHIVE = re.compile(r"([A-Z0-9]+(?:_[A-Z0-9]+)?)-(trades|aggTrades|bookTicker|\d{1,2}(?:s|m|h|d|w|mo))-\d{4}-\d\d(?:-\d\d)?\.(?:csv|zip)")
_MAKER = TableWords(buy=("false", "False"), sell=("true", "True"))  # whether the buyer waited: then the seller was the aggressor
_DAILY: dict[str, tuple[Kind, Columns]] = {
    "trades": ("trade", Columns(id=1, price=2, qty=3, time=5, side=6)),
    "aggTrades": ("trade", Columns(id=1, price=2, qty=3, time=6, side=7)),
    "bookTicker": ("quote", Columns(id=1, bid=2, bid_qty=3, ask=4, ask_qty=5, time=6, recv_time=7)),
    "klines": ("bar", Columns(open_time=1, open=2, high=3, low=4, close=5, volume=6, close_time=7, trades=9)),
}
_SPOT_FIELDS = {"trades": 7, "aggTrades": 8}  # spot says whether it was the best match too


def layout_of(path: Path, read_map: ReadMap | None) -> TableFile | None:
    """The file as a table, or None where nothing says what its columns are; without `read_map` maps beside it are not looked for."""
    if read_map is not None:
        for beside in (path.with_name(path.name + BESIDE), path.with_name(OF_FOLDER)):
            if beside.is_file():
                return TableFile(path, read_map(beside), str(beside), beside)
    if is_parquet(path):
        table = _EXPORTED.get(tuple(parquet_header(TableFile(path, TableMap("trade"), ""))))
        return TableFile(path, table, "a table of tickline export") if table is not None else None
    first = _first_fields(path)
    if tuple(first) in _EXPORTED:
        return TableFile(path, _EXPORTED[tuple(first)], "a table of tickline export")
    found = _ARCHIVE.fullmatch(path.name)
    return TableFile(path, _archived(path, found[1], found[2], first), "a file of Binance's archive") if found else None


def _first_fields(path: Path) -> list[str]:
    line = read_head(path, HEADER_BYTES).removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].rstrip(b"\r")
    try:
        return next(csv.reader([line.decode()]), [])
    except (UnicodeDecodeError, csv.Error):
        return []


def _archived(path: Path, symbol: str, data: str, first: list[str]) -> TableMap:
    """The map of a file of the archive; money of its bars is left out, since the venue cuts it to eight decimals a trade."""
    kind, columns = _DAILY.get(data, _DAILY["klines"])
    header = bool(first) and not first[0][:1].isdigit()
    if len(first) < max(n for key in Columns.__struct_fields__ if isinstance(n := getattr(columns, key), int)):
        raise NotAFeedError(f"{path} is named like a file of Binance's archive, but its first line has {len(first)} columns")
    venue = _venue(path, symbol, data, len(first), header)
    return TableMap(
        kind, venue=venue, symbol=symbol, quote=quote_of(symbol), header=header, columns=columns,
        time=TableTime(close_is_last=kind == "bar"), words=_MAKER if kind == "trade" else TableWords(),
    )  # fmt: skip


def _venue(path: Path, symbol: str, data: str, fields: int, header: bool) -> str:
    """The market: by the archive's folders, else by what only one market's files have."""
    folders = path.resolve().parts
    for folder, venue in (("um", USDM), ("cm", COINM), ("spot", SPOT)):
        if folder in folders:
            return venue
    if re.search(r"USD_(PERP|\d+)$", symbol):
        return COINM
    if data in _SPOT_FIELDS:
        return SPOT if fields >= _SPOT_FIELDS[data] else USDM
    return USDM if header or data == "bookTicker" else SPOT
