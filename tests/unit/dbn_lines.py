"""DBN files written for a case: the head by its publisher's library, the records as arrays of the published layouts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import databento_dbn as dbn
import numpy as np
import zstandard

from handlers.ingest.feed import Feed
from handlers.ingest.formats import open_feed
from handlers.ingest.dbn.layouts import LAYOUTS, MBO
from transport.instruments import Instrument
from transport.records import joined


T0_NS = 1_703_541_600_000_000_000  # 2023-12-25 22:00 UTC
ESH4, SPREAD = 17077, 4242
LAST, SNAPSHOT, DOUBT = 128, 32, 4
TICK = 250_000_000  # a quarter in the publisher's units
UNDEF, UNDEF_TIME = dbn.UNDEF_PRICE, dbn.UNDEF_TIMESTAMP
SECOND_NS = 10**9
Row = tuple[str, str, int, int, int, int]  # action, side, order, price in ticks of 0.25, size, flags
Days = tuple[int, int, str]  # of December 2023, from and up to, and the symbol's number


def header(
    schema: dbn.Schema | None = dbn.Schema.MBO, symbols: Mapping[str, int | str | Sequence[Days]] | None = None,
    dataset: str = "GLBX.MDP3", ts_out: bool = False,
) -> bytes:  # fmt: skip
    """The head of a file; a symbol has one number on 25 December 2023, or several by day."""
    named = {"ESH4": ESH4} if symbols is None else dict(symbols)
    mappings = [
        SimpleNamespace(raw_symbol=symbol, intervals=[
            SimpleNamespace(start_date=date(2023, 12, first), end_date=date(2023, 12, end), symbol=number)
            for first, end, number in ([(25, 26, str(given))] if isinstance(given, int | str) else given)
        ]) for symbol, given in named.items()
    ]  # fmt: skip
    metadata = dbn.Metadata(
        dataset=dataset, start=T0_NS, stype_out=dbn.SType.INSTRUMENT_ID, schema=schema, stype_in=dbn.SType.RAW_SYMBOL,
        end=T0_NS + 10**12, symbols=list(named), mappings=mappings, version=3, ts_out=ts_out,
    )  # fmt: skip
    return bytes(metadata.encode())


def records(rows: Iterable[Row], instrument: int = ESH4) -> np.ndarray[Any, Any]:
    """MBO records a nanosecond apart."""
    listed = list(rows)
    out = np.zeros(len(listed), MBO)
    out["length"], out["rtype"], out["publisher_id"], out["instrument_id"] = 14, 160, 1, instrument
    for i, (action, side, order, ticks, size, flags) in enumerate(listed):
        out[i]["action"], out[i]["side"] = action.encode(), side.encode()
        out[i]["order_id"], out[i]["price"], out[i]["size"], out[i]["flags"] = order, ticks * TICK, size, flags
        out[i]["ts_event"], out[i]["ts_recv"], out[i]["sequence"] = T0_NS + i, T0_NS + 100 + i, 50 + i
    return out


def lines(rtype: int, count: int, **columns: Any) -> np.ndarray[Any, Any]:
    """`count` records of a type, a nanosecond apart, with `columns` as given; prices not given are undefined."""
    layout = [layout for layout in LAYOUTS if layout.rtype == rtype][-1]
    out = np.zeros(count, layout.dtype)
    names = layout.dtype.names or ()
    out["length"], out["rtype"], out["publisher_id"], out["instrument_id"] = layout.dtype.itemsize // 4, rtype, 1, ESH4
    for name in layout.prices:
        out[name] = UNDEF
    moments = T0_NS + np.arange(count)
    for name, column in (("ts_event", moments), ("ts_recv", moments + 100), ("sequence", 50 + np.arange(count))):
        if name in names:
            out[name] = column
    for name, column in columns.items():
        out[name] = column
    return out


def feed_of(tmp_path: Path, body: bytes, instruments: Iterable[Instrument] = (), **how: Any) -> Feed:
    path = tmp_path / "day.dbn.zst"
    path.write_bytes(zstandard.compress(header(**how) + body))
    return open_feed(str(path), list(instruments))


def rows_of(feed: Feed, rows_max: int = 4096) -> np.ndarray[Any, Any]:
    return joined(*feed.chunks(rows_max))
