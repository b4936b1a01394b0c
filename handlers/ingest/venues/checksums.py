"""The CRC-32 that OKX and Kraken sign their books with, of a book of ours: its best levels as the venue writes them.

CRC-32 as in IEEE 802.3 (polynomial 0xEDB88320 reflected), table-driven.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from handlers.domain.book import (
    FAR, NO_LEVEL, WINDOW, clear_book, level_at, next_level, set_level,
)  # fmt: skip
from transport.compiled import kernel
from transport.records import BID



def _crc_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint64)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ 0xEDB88320, table >> 1)
    return table


_CRC = _crc_table()
_ZERO, _DOT, _COLON = ord("0"), ord("."), ord(":")


@kernel(inline=True)
def crc_byte(crc: Any, byte: Any) -> Any:
    """`crc`, a uint64 below 2**32 not yet complemented, with one more byte."""
    return _CRC[(crc ^ np.uint64(byte)) & np.uint64(255)] ^ (crc >> np.uint64(8))


@kernel
def crc_integer(crc: Any, value: Any) -> Any:
    """CRC of the decimal digits of `value` >= 0, without leading zeros; nothing for 0."""
    power = np.int64(1)
    while value // power >= 10:
        power *= 10
    while value > 0 and power > 0:
        crc = crc_byte(crc, _ZERO + value // power % 10)
        power //= 10
    return crc


@kernel
def crc_decimal(crc: Any, units: Any, decimals: Any) -> Any:
    """CRC of `units` * 10**-`decimals` as plain decimal text without trailing zeros: 30236.1, 0.18050747, 5."""
    while decimals > 0 and units % 10 == 0:
        units //= 10
        decimals -= 1
    scale = np.int64(1)
    for _ in range(decimals):
        scale *= 10
    if units // scale == 0:
        crc = crc_byte(crc, _ZERO)
    else:
        crc = crc_integer(crc, units // scale)
    if decimals > 0:
        crc = crc_byte(crc, _DOT)
        while scale > 1:
            scale //= 10
            crc = crc_byte(crc, _ZERO + units // scale % 10)
    return crc


@kernel
def fold_levels(markets: Any, place: Any, rows: Any, whole: Any) -> None:
    """Apply the L2 rows of a message to a book; `whole` empties it first."""
    m = markets[place]
    if whole:
        clear_book(m)
    for i in range(len(rows)):
        if not whole or rows[i].qty_lots > 0:
            set_level(m, rows[i].side, rows[i].price_ticks, rows[i].qty_lots, 1)


@kernel
def worst_key(m: Any, s: Any) -> Any:
    """Least key of a side that is not empty: a scan of what stands below the window, else of the window."""
    worst = m.best[s]
    if m.far[s] > 0:
        for i in range(s * FAR, (s + 1) * FAR):
            if m.far_qty[i] > 0 and m.far_key[i] < worst:
                worst = m.far_key[i]
        return worst
    key = m.lo[s]
    while key < worst:
        if m.qty[s * WINDOW + (key & (WINDOW - 1))] > 0:
            return key
        key += 1
    return worst


@kernel
def trim(markets: Any, place: Any, depth: Any, out: Any) -> Any:
    """Remove what lies deeper than `depth` levels, writing rows that remove it to `out`; returns how many."""
    m = markets[place]
    n = 0
    for s in range(2):
        while m.levels[s] > depth and n < len(out):
            key = worst_key(m, s)
            side, price = BID + s, key if s == 0 else -key
            set_level(m, side, price, 0, 0)
            out[n].side, out[n].price_ticks = side, price
            n += 1
    return n


@kernel
def okx_checksum(markets: Any, place: Any, price_decimals: Any, price_step: Any, qty_decimals: Any, qty_step: Any) -> Any:
    """CRC-32 of `bid:lots:ask:lots:…` over the best 25 levels of both sides in turn, as a signed integer.

    Source: OKX API v5, "Order book channel", checksum (May 2022).
    """
    m = markets[place]
    crc, first = np.uint64(0xFFFFFFFF), True
    bid, ask = m.best[0], m.best[1]
    for _ in range(25):
        for s in range(2):
            key = bid if s == 0 else ask
            if key == NO_LEVEL:
                continue
            if not first:
                crc = crc_byte(crc, _COLON)
            first = False
            price = key if s == 0 else -key
            crc = crc_decimal(crc, price * price_step, price_decimals)
            crc = crc_byte(crc, _COLON)
            crc = crc_decimal(crc, level_at(m, BID + s, price)[0] * qty_step, qty_decimals)
            following = next_level(m, s, key)
            if s == 0:
                bid = following
            else:
                ask = following
    value = np.int64(crc ^ np.uint64(0xFFFFFFFF))
    return value - (1 << 32) if value >= 1 << 31 else value


@kernel
def kraken_checksum(markets: Any, place: Any, price_num: Any, price_den: Any, qty_num: Any, qty_den: Any) -> Any:
    """CRC-32 of the best ten asks, then bids: price and quantity as the venue writes them, without point and leading zeros.

    `price_num` / `price_den` units of the venue's last digit are a tick, likewise of a lot. Source: Kraken websocket API v1, "Book
    checksum" (2021).
    """
    m = markets[place]
    crc = np.uint64(0xFFFFFFFF)
    for s in (1, 0):
        key = m.best[s]
        for _ in range(10):
            if key == NO_LEVEL:
                break
            price = key if s == 0 else -key
            crc = crc_integer(crc, price * price_num // price_den)
            crc = crc_integer(crc, level_at(m, BID + s, price)[0] * qty_num // qty_den)
            key = next_level(m, s, key)
    return np.int64(crc ^ np.uint64(0xFFFFFFFF))
