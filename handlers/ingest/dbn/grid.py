"""Tick, lot and multiplier of the instruments of a DBN file: from definitions, else by root or by prices; the configuration overrides all.

A definition states the tick (`min_price_increment`), the money of a tick (`min_price_increment_amount`; their quotient is the
multiplier), the number of units of a contract (`contract_multiplier`, the multiplier where that amount is undefined) and the currency.
Without one: the root of a future in the table below. Source: CME Group contract specifications (December 2023). A root that is not here, a
spread or an option gets as its tick the greatest common divisor of its prices, which is the tick or a multiple of it, and a multiplier of 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from handlers.ingest.errors import FeedError
from handlers.ingest.dbn.layouts import UNDEF_PRICE
from transport.instruments import Instrument

NANO = 10**9  # DBN counts prices in 1e-9
_UNDEF_COUNT = 2**31 - 1
# root -> (tick, money of one point)
FUTURES: dict[str, tuple[str, str]] = {
    "ES": ("0.25", "50"), "MES": ("0.25", "5"), "NQ": ("0.25", "20"), "MNQ": ("0.25", "2"),
    "RTY": ("0.1", "50"), "M2K": ("0.1", "5"), "YM": ("1", "5"), "MYM": ("1", "0.5"),
    "CL": ("0.01", "1000"), "MCL": ("0.01", "100"), "NG": ("0.001", "10000"),
    "GC": ("0.1", "100"), "MGC": ("0.1", "10"), "SI": ("0.005", "5000"), "HG": ("0.0005", "25000"),
    "ZT": ("0.00390625", "2000"), "ZF": ("0.0078125", "1000"), "ZN": ("0.015625", "1000"), "ZB": ("0.03125", "1000"),
    "6E": ("0.00005", "125000"), "6B": ("0.0001", "62500"), "6J": ("0.0000005", "12500000"),
}  # fmt: skip
_OUTRIGHT = re.compile(r"([A-Z0-9]{1,3}?)[FGHJKMNQUVXZ]\d{1,2}")


class Grid:
    """Steps of the instruments of a feed as arrays, so that columns of prices and sizes are turned into ticks and lots at once."""

    def __init__(self, instruments: Sequence[Instrument]) -> None:
        """Raises FeedError for a tick that DBN prices cannot show."""
        lots = [i.lot.as_integer_ratio() for i in instruments] or [(1, 1)]
        self.tick_nano = np.array([_nano(i) for i in instruments] or [1], np.int64)
        self.lot_num, self.lot_den = (np.array(part, np.int64) for part in zip(*lots, strict=True))

    def ticks(self, prices: NDArray[Any], place: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(ticks, which prices are undefined or off the grid); place -1 is taken for 0."""
        ticks, rest = np.divmod(prices, self.tick_nano[np.maximum(place, 0)])
        return ticks, (rest != 0) | (prices == UNDEF_PRICE)

    def lots(self, sizes: NDArray[Any], place: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(lots, which sizes are off the grid or too large for 64 bits)."""
        at = np.maximum(place, 0)
        large = sizes > np.uint64(2**63 - 1) // self.lot_den[at].astype(np.uint64)
        lots, rest = np.divmod(np.where(large, 0, sizes).astype(np.int64) * self.lot_den[at], self.lot_num[at])
        return lots, (rest != 0) | large


def _nano(instrument: Instrument) -> int:
    tick = instrument.tick * NANO
    if tick != int(tick):
        raise FeedError(f"{instrument.name}: a tick of {instrument.tick} is finer than the 1e-9 of DBN prices")
    return int(tick)


def known_future(symbol: str, venue: str, book: str = "l3") -> Instrument | None:
    """The outright future of a root in the table: ESH4 is ES, March 2024; None for anything else or elsewhere."""
    found = _OUTRIGHT.fullmatch(symbol)
    if venue != "glbx" or not found or found[1] not in FUTURES:
        return None
    tick, multiplier = FUTURES[found[1]]
    return Instrument(symbol, venue, Decimal(tick), Decimal(1), "USD", Decimal(multiplier), book)


def inferred(symbol: str, venue: str, prices: np.ndarray[Any, Any], book: str = "l3") -> Instrument:
    """An instrument whose tick is the greatest common divisor of `prices` (1e-9); 0.01 where there are none."""
    step = int(np.gcd.reduce(np.abs(prices))) if len(prices) else 0
    tick = (Decimal(step) / NANO).normalize() if step > 0 else Decimal("0.01")
    return Instrument(symbol, venue, tick, Decimal(1), "USD", Decimal(1), book)


def stated(record: Any, symbol: str, venue: str) -> Instrument | None:
    """The instrument that a definition describes; None where it does not say the tick."""
    tick = int(record["min_price_increment"])
    if not 0 < tick < UNDEF_PRICE:
        return None
    currency = record["currency"].decode("ascii", "replace")
    multiplier = multiplier_of(tick, int(record["min_price_increment_amount"]), int(record["contract_multiplier"]))
    if multiplier is None:
        known = known_future(symbol, venue)
        multiplier = known.multiplier if known else Decimal(1)
    found = Instrument(symbol, venue, (Decimal(tick) / NANO).normalize(), Decimal(1), multiplier=multiplier, book="l2")
    return msgspec.structs.replace(found, quote=currency) if currency.isalnum() else found


def multiplier_of(tick: int, tick_amount: int, contract: int) -> Decimal | None:
    """Money of one point by a definition's fields (1e-9, 1e-9, 1), None where it does not say or says no finite decimal."""
    if 0 < tick_amount < UNDEF_PRICE:
        ratio = Fraction(tick_amount, tick)
        exact = Decimal(ratio.numerator) / Decimal(ratio.denominator)
        if Fraction(exact) == ratio:
            return exact.normalize()
    return Decimal(contract) if 0 < contract < _UNDEF_COUNT else None
