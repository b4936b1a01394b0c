"""Tick and multiplier of futures by their root, for feeds whose files do not say; the configuration overrides them.

Source: CME Group contract specifications (December 2023). A root that is not here, a spread or an option gets as its tick the greatest
common divisor of its prices, which is the tick or a multiple of it, and a multiplier of 1.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import numpy as np

from transport.instruments import Instrument

NANO = 10**9  # DBN counts prices in 1e-9
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


def known_future(symbol: str, venue: str) -> Instrument | None:
    """The outright future of a root in the table: ESH4 is ES, March 2024; None for anything else or elsewhere."""
    found = _OUTRIGHT.fullmatch(symbol)
    if venue != "glbx" or not found or found[1] not in FUTURES:
        return None
    tick, multiplier = FUTURES[found[1]]
    return Instrument(symbol, venue, Decimal(tick), Decimal(1), "USD", Decimal(multiplier), "l3")


def inferred(symbol: str, venue: str, prices: np.ndarray[Any, Any]) -> Instrument:
    """An instrument whose tick is the greatest common divisor of `prices` (1e-9); 0.01 where there are none."""
    step = int(np.gcd.reduce(np.abs(prices))) if len(prices) else 0
    tick = (Decimal(step) / NANO).normalize() if step else Decimal("0.01")
    return Instrument(symbol, venue, tick, Decimal(1), "USD", Decimal(1), "l3")
