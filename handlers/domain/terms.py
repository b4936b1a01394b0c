"""Per-instrument constants that money needs: what a tick times a lot is worth, and the fees."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

import numpy as np

from transport.errors import InstrumentError
from transport.instruments import Instrument

TERMS = np.dtype(
    [
        ("num", "i8"), ("den", "i8"),  # money units of one tick times one lot = num / den
        ("maker_num", "i8"), ("taker_num", "i8"),  # fee = money * num / fee_den
        ("fee_den", "i8"),
    ]
)  # fmt: skip
RATIO_MAX = 2**40  # leaves 2**22 ticks * lots a mul_div can carry in one step


def new_terms(instruments: Sequence[Instrument], money_decimals: int, maker_bp: Decimal, taker_bp: Decimal) -> np.ndarray:
    """One row per instrument; raises InstrumentError where a ratio does not fit."""
    terms = np.zeros(max(1, len(instruments)), TERMS)
    scale = max(0, -min(_exponent(maker_bp), _exponent(taker_bp)))
    for row, instrument in zip(terms, instruments, strict=False):
        worth = instrument.notional(money_decimals)
        if worth.numerator > RATIO_MAX or worth.denominator > RATIO_MAX:
            raise InstrumentError(f"{instrument.name}: a tick times a lot is {worth} money units, too fine or too coarse")
        row["num"], row["den"] = worth.numerator, worth.denominator
        row["maker_num"], row["taker_num"] = (int(Fraction(bp) * 10**scale) for bp in (maker_bp, taker_bp))
        row["fee_den"] = 10_000 * 10**scale
    return terms


def _exponent(value: Decimal) -> int:
    exponent = value.normalize().as_tuple().exponent
    assert isinstance(exponent, int)
    return exponent
