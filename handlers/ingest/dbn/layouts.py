"""What records a DBN file may hold: the layout of each, by its type and length, and what the engine makes of it.

    type            schema              becomes                         type       schema         becomes
    160             mbo                 orders: L3 book, trades         32 .. 35   ohlcv-1s .. 1d BAR
    1, 10           mbp-1, mbp-10       levels: L2 book, trades         18         status         STATUS
    0               trades              TRADE                           19         definition     INSTRUMENT, and the grid
    1 of tbbo, 197  tbbo                QUOTE, then TRADE               20, 24     imbalance, statistics      counted
    195, 196        bbo-1s, bbo-1m      QUOTE                           21 .. 23   error, mapping, system     counted
    192, 193        cbbo-1s, cbbo-1m    QUOTE                           17         ohlcv of old files: the interval of the schema
    177, 194        cmbp-1, tcbbo       QUOTE, and TRADE where it is one

Every record begins with its length in words of 4 bytes, its type, publisher, instrument number and event time. Between the versions 1,
2 and 3 only definitions, statistics and messages of the gateway changed, each time their length; a file with `ts_out` has 8 bytes more
behind each record. The layouts are those that `databento_dbn` declares. Source: Databento, DBN encoding and schemas (2024).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import databento_dbn as dbn
import numpy as np

ORDERS, LEVELS, TRADES, QUOTES, SAMPLED, BARS, STATUSES, DEFINITIONS = range(8)  # which decoder
EVENTS = (ORDERS, LEVELS)  # of these several records make one event of the venue, which LAST ends; any other record is one by itself
SECOND_NS = 10**9
DAY_NS = 86_400 * SECOND_NS
UNDEF_PRICE: int = dbn.UNDEF_PRICE
RTYPE_MBO, RTYPE_MBP_1, RTYPE_OHLCV_OLD, RTYPE_DEFINITION, RTYPE_MAPPING = 160, 1, 17, 19, 22
UNUSED = {20: "imbalance", 21: "error", 22: "symbol mapping", 23: "system", 24: "statistics", 36: "ohlcv-eod"}
LEVEL_BYTES = 32  # bid and ask price i8, bid and ask size u4, bid and ask count


class Layout(NamedTuple):
    """One form of record."""

    rtype: int
    decoder: int  # ORDERS, …
    dtype: np.dtype[Any]
    prices: tuple[str, ...]  # fields that lie on the instrument's grid
    depth: int = 0  # levels a side
    interval_ns: int = 0  # of a bar: its event time is where that begins


def _dtype(record: Any) -> np.dtype[Any]:
    return np.dtype(record._dtypes)


def _level_prices(depth: int) -> tuple[str, ...]:
    return tuple(f"{side}_px_{level:02d}" for level in range(depth) for side in ("bid", "ask"))


_OHLC = ("open", "high", "low", "close")
_BAR_NS = {32: SECOND_NS, 33: 60 * SECOND_NS, 34: 3600 * SECOND_NS, 35: DAY_NS}
MBO: np.dtype[Any] = _dtype(dbn.MBOMsg)
MBP_1, BAR, DEFINITION = _dtype(dbn.MBP1Msg), _dtype(dbn.OHLCVMsg), _dtype(dbn.InstrumentDefMsg)
LAYOUTS = (
    Layout(RTYPE_MBO, ORDERS, MBO, ("price",)),
    Layout(RTYPE_MBP_1, LEVELS, MBP_1, _level_prices(1), 1),
    Layout(10, LEVELS, _dtype(dbn.MBP10Msg), _level_prices(10), 10),
    Layout(0, TRADES, _dtype(dbn.TradeMsg), ("price",)),
    Layout(197, QUOTES, MBP_1, ("price", *_level_prices(1)), 1),
    *(Layout(rtype, QUOTES, _dtype(dbn.CMBP1Msg), _level_prices(1), 1) for rtype in (177, 194)),
    *(Layout(rtype, SAMPLED, _dtype(dbn.BBOMsg), _level_prices(1), 1) for rtype in (195, 196)),
    *(Layout(rtype, SAMPLED, _dtype(dbn.CBBOMsg), _level_prices(1), 1) for rtype in (192, 193)),
    *(Layout(rtype, BARS, BAR, _OHLC, 0, ns) for rtype, ns in _BAR_NS.items()),
    Layout(18, STATUSES, _dtype(dbn.StatusMsg), ()),
    *(Layout(RTYPE_DEFINITION, DEFINITIONS, _dtype(d), ()) for d in (dbn.InstrumentDefMsgV1, dbn.InstrumentDefMsgV2)),
    Layout(RTYPE_DEFINITION, DEFINITIONS, DEFINITION, ()),
)
TBBO = next(n for n, layout in enumerate(LAYOUTS) if layout.rtype == 197)
NO_LAYOUT = -1
_SIZES = {dbn.MBOMsg: 56, dbn.MBP1Msg: 80, dbn.MBP10Msg: 368, dbn.TradeMsg: 48, dbn.OHLCVMsg: 56, dbn.StatusMsg: 40,
          dbn.InstrumentDefMsgV1: 360, dbn.InstrumentDefMsgV2: 400, dbn.InstrumentDefMsg: 520}  # fmt: skip
assert all(_dtype(r).itemsize == size for r, size in _SIZES.items()), "databento_dbn declares other records than this reader knows"
_OLD_BARS = {dbn.Schema.OHLCV_1S: 32, dbn.Schema.OHLCV_1M: 33, dbn.Schema.OHLCV_1H: 34, dbn.Schema.OHLCV_1D: 35}
# Of these a file has a record now and then, by the clock or the calendar: a weekend between two of them is no clock gone astray.
SPARSE = frozenset({
    dbn.Schema.OHLCV_1H, dbn.Schema.OHLCV_1D, dbn.Schema.DEFINITION, dbn.Schema.STATUS, dbn.Schema.STATISTICS, dbn.Schema.IMBALANCE,
})  # fmt: skip
SPARSE_JUMP_NS = 31 * DAY_NS  # no market is closed for longer
WITHOUT_ROWS = frozenset({dbn.Schema.STATISTICS, dbn.Schema.IMBALANCE, dbn.Schema.OHLCV_EOD})


def layout_of(rtype: int, size: int, schema: Any) -> int:
    """Place in LAYOUTS of a record of `size` bytes in a file of `schema` (None: mixed), NO_LAYOUT for one the engine does not read."""
    if rtype == RTYPE_MBP_1 and schema == dbn.Schema.TBBO:
        return TBBO if size >= MBP_1.itemsize else NO_LAYOUT
    if rtype == RTYPE_OHLCV_OLD:
        rtype = _OLD_BARS.get(schema, rtype)
    fitting = [n for n, layout in enumerate(LAYOUTS) if layout.rtype == rtype and layout.dtype.itemsize <= size]
    return max(fitting, key=lambda n: LAYOUTS[n].dtype.itemsize, default=NO_LAYOUT)
