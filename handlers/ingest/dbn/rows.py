"""DBN records that are a venue's event each by itself: trades, quotes, bars, statuses, definitions.

A record is refused whole, with one reason, where a number that its row needs is undefined, off the grid or impossible.

    trade        TRADE, `side` of the aggressor
    quote        QUOTE, then TRADE if the record is one: a tbbo's best prices are those before its trade. A side whose price is undefined
                 or whose size is 0 has nobody: price 0, 0 lots
    sample       QUOTE of the best prices when the interval ended; both its times are that end, for the event time and the price of the
                 record are those of the last trade, which may be old
    bar          BAR; its event time is where the interval begins, so that both times of the row are that plus the interval: earlier it
                 would be the future. The publisher says neither notional nor number of trades: both are 0
    status       STATUS; `action` is the venue-neutral one, `status` is action | reason << 16 | trading event << 32 of the record
    definition   INSTRUMENT: tick, multiplier as stated there; what is undefined, from the instrument table. Deletions are counted

Source: Databento, schemas (2024).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np

from handlers.domain.reasons import (
    NOT_POSITIVE, OUT_OF_INT64, PRICE_OFF_GRID, QTY_OFF_GRID, UNKNOWN_RECORD,
)  # fmt: skip
from handlers.ingest.feed import Rows
from handlers.ingest.dbn.decoding import SIDES, Column, Decoding, Lines, Mask, letters, refusals, worse
from handlers.ingest.dbn.grid import multiplier_of
from handlers.ingest.dbn.layouts import UNDEF_PRICE, Layout
from transport.instruments import INT64_MAX
from transport.records import (
    AUCTION, BAR, CLOSED, EVENT_END, HALT, INSTRUMENT, PAUSED, PRE_OPEN, QUOTE, SLOT_BYTES, STATUS, TRADE, TRADING, UNKNOWN_STATUS, copied,
    empty,
)  # fmt: skip

# Publisher's action -> ours: none, pre-open, pre-cross, quoting, cross, rotation, price indication, trading, halt, pause, suspend,
# pre-close, close, post-close, change of short selling, not available. Of those that say no state, `is_trading` does.
ACTIONS = np.array([
    UNKNOWN_STATUS, PRE_OPEN, AUCTION, PRE_OPEN, AUCTION, AUCTION, UNKNOWN_STATUS, TRADING, HALT, PAUSED, HALT,
    UNKNOWN_STATUS, CLOSED, CLOSED, UNKNOWN_STATUS, CLOSED,
], np.uint8)  # fmt: skip
_SLOT = f"V{SLOT_BYTES}"
_TRADE, _YES, _NO, _DELETED = (ord(letter) for letter in "TYND")


def priced(d: Decoding, lines: Lines) -> tuple[Column, Column, Column]:
    """(ticks, lots, reason or 0) of the trade in each line."""
    records = lines.records
    ticks, off = d.grid.ticks(records["price"], lines.place)
    lots, odd = d.grid.lots(records["size"], lines.place)
    reason = np.where(off, PRICE_OFF_GRID, np.where(odd, QTY_OFF_GRID, 0))
    return ticks, lots, np.where(records["size"] == 0, NOT_POSITIVE, reason)


def trades(d: Decoding, lines: Lines, _: Layout) -> Rows:
    """Of layout trades."""
    ticks, lots, reason = priced(d, lines)
    reason = worse(refusals(lines, lines.records["ts_event"]), reason)
    reason[letters(lines.records["action"]) != _TRADE] = UNKNOWN_RECORD
    return trade_rows(d, lines, d.kept(reason, lines.origin), ticks, lots)


def trade_rows(d: Decoding, lines: Lines, which: Mask, ticks: Column, lots: Column) -> Rows:
    lines = lines.part(which)
    r = lines.records
    return d.slots(
        lines, TRADE, EVENT_END, ts_event_ns=r["ts_event"], price_ticks=ticks[which], qty_lots=lots[which],
        side=SIDES[letters(r["side"])], venue_seq=sequences(r),
    )  # fmt: skip


def sequences(records: np.ndarray[Any, Any]) -> Column:
    """The venue's sequence numbers; consolidated records have none: 0."""
    return records["sequence"] if "sequence" in (records.dtype.names or ()) else np.zeros(len(records), np.uint32)


def quotes(d: Decoding, lines: Lines, _: Layout) -> Rows:
    """Of layouts tbbo, cmbp-1, tcbbo."""
    quote, reason = _quoted(d, lines, lines.records["ts_event"], refusals(lines, lines.records["ts_event"]))
    is_trade = letters(lines.records["action"]) == _TRADE
    ticks, lots, wrong = priced(d, lines)
    reason = worse(reason, np.where(is_trade, wrong, 0))
    keep = d.kept(reason, lines.origin)
    quote, is_trade = copied(quote, keep), is_trade[keep]
    quote["flags"] = np.where(is_trade, 0, EVENT_END)
    traded = trade_rows(d, lines.part(keep), is_trade, ticks[keep], lots[keep])
    rows = empty(len(quote) + len(traded))
    at = np.arange(len(quote)) + np.cumsum(is_trade) - is_trade
    slots = rows.view(_SLOT)
    slots[at], slots[at[is_trade] + 1] = quote.view(_SLOT), traded.view(_SLOT)
    return rows


def samples(d: Decoding, lines: Lines, _: Layout) -> Rows:
    """Of layouts bbo and cbbo."""
    quote, reason = _quoted(d, lines, lines.recv, refusals(lines, lines.records["ts_recv"]))
    return copied(quote, d.kept(reason, lines.origin))


def _quoted(d: Decoding, lines: Lines, event_ns: Column, reason: Column) -> tuple[Rows, Column]:
    """(a QUOTE of each line, what is wrong with it)."""
    fields: dict[str, Any] = {}
    r = lines.records
    for side, price, lots in (("bid", "price_ticks", "qty_lots"), ("ask", "ask_ticks", "ask_lots")):
        nobody = (r[f"{side}_px_00"] == UNDEF_PRICE) | (r[f"{side}_sz_00"] == 0)
        ticks, off = d.grid.ticks(r[f"{side}_px_00"], lines.place)
        size, odd = d.grid.lots(r[f"{side}_sz_00"], lines.place)
        reason = worse(reason, np.where(nobody, 0, np.where(off, PRICE_OFF_GRID, np.where(odd, QTY_OFF_GRID, 0))))
        fields[price], fields[lots] = np.where(nobody, 0, ticks), np.where(nobody, 0, size)
    return d.slots(lines, QUOTE, EVENT_END, ts_event_ns=event_ns, venue_seq=sequences(r), **fields), reason


def bars(d: Decoding, lines: Lines, layout: Layout) -> Rows:
    """Of layouts ohlcv."""
    r = lines.records
    fields: dict[str, Column] = {}
    volume, odd = d.grid.lots(r["volume"], lines.place)
    reason = np.where(r["volume"] > np.uint64(INT64_MAX), OUT_OF_INT64, np.where(odd, QTY_OFF_GRID, 0))
    for name in ("open", "high", "low", "close"):
        fields[f"{name}_ticks"], off = d.grid.ticks(r[name], lines.place)
        reason = worse(reason, np.where(off, PRICE_OFF_GRID, 0))
    reason = worse(refusals(lines, r["ts_event"]), reason)
    rows = d.slots(
        lines, BAR, EVENT_END, ts_event_ns=lines.recv, volume_lots=volume, ts_open_ns=r["ts_event"],
        interval_ns=np.full(len(r), layout.interval_ns), **fields,
    )  # fmt: skip
    return copied(rows, d.kept(reason, lines.origin))


def statuses(d: Decoding, lines: Lines, _: Layout) -> Rows:
    """Of layout status."""
    lines = lines.part(d.kept(refusals(lines, lines.records["ts_event"]), lines.origin))
    r = lines.records
    action = np.where(r["action"] < len(ACTIONS), ACTIONS[np.minimum(r["action"], len(ACTIONS) - 1)], UNKNOWN_STATUS)
    trading = letters(r["is_trading"])
    said = np.where(trading == _YES, TRADING, np.where(trading == _NO, PAUSED, UNKNOWN_STATUS))
    code = r["action"].astype(np.int64) | r["reason"].astype(np.int64) << 16 | r["trading_event"].astype(np.int64) << 32
    return d.slots(
        lines, STATUS, EVENT_END, ts_event_ns=r["ts_event"], status=code,
        action=np.where((action == UNKNOWN_STATUS) & (r["action"] < len(ACTIONS)), said, action),
    )  # fmt: skip


def definitions(d: Decoding, lines: Lines, _: Layout) -> Rows:
    """Of layouts definition."""
    reason = refusals(lines, lines.records["ts_event"])
    reason[(letters(lines.records["security_update_action"]) == _DELETED) & (reason == 0)] = UNKNOWN_RECORD
    lines = lines.part(d.kept(reason, lines.origin))
    r, table = lines.records, d.grid.tick_nano[lines.place] if len(lines.place) else np.empty(0, np.int64)
    tick = np.where((r["min_price_increment"] > 0) & (r["min_price_increment"] < UNDEF_PRICE), r["min_price_increment"], table)
    said = np.column_stack((lines.place, tick, r["min_price_increment_amount"], r["contract_multiplier"]))
    kinds, which = np.unique(said, axis=0, return_inverse=True)  # an instrument is defined again every day, as a rule alike
    terms = np.array([_terms(d, *kind) for kind in kinds.tolist()], np.int64).reshape(-1, 4)[which.reshape(-1)]
    rows = d.slots(
        lines, INSTRUMENT, EVENT_END, ts_event_ns=r["ts_event"], tick_mantissa=tick, tick_exponent=np.full(len(r), -9),
        lot_mantissa=terms[:, 0], lot_exponent=terms[:, 1], notional_num=terms[:, 2], notional_den=terms[:, 3],
    )  # fmt: skip
    return copied(rows, d.kept(np.where(terms[:, 3] == 0, OUT_OF_INT64, 0), lines.origin))


def _terms(d: Decoding, place: int, tick: int, amount: int, contract: int) -> tuple[int, int, int, int]:
    """(lot mantissa, exponent, money units of a tick times a lot as numerator, denominator; 0 for one that 64 bits cannot hold)."""
    instrument = d.instruments[place]
    multiplier = multiplier_of(tick, amount, contract) or instrument.multiplier
    notional = type(instrument)("", "", Decimal(tick).scaleb(-9), instrument.lot, multiplier=multiplier).notional()
    _, digits, exponent = instrument.lot.as_tuple()
    fits = notional.numerator <= INT64_MAX and notional.denominator <= INT64_MAX
    assert isinstance(exponent, int)
    return int("".join(map(str, digits))), exponent, notional.numerator if fits else 0, notional.denominator if fits else 0


def finished(rows: Rows) -> Rows:
    """`rows` with what two kinds have in the place of `origin`, by which rows of several layouts were put in order until here."""
    rows["origin"][rows["kind"] == BAR] = 0
    rows["fee_den"][rows["kind"] == INSTRUMENT] = 1
    return rows
