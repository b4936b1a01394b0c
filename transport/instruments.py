"""The instrument table: exact decimals of tick, lot and multiplier, and what a price or quantity may be.

Records carry integers (`price_ticks`, `qty_lots`); this table says what they mean. Money is an integer of a unit stated per
currency (10**-8 unless configured), and one tick times one lot is worth the exact ratio `notional_num / notional_den` of them.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import msgspec

from transport.errors import InstrumentError

MONEY_DECIMALS = 8  # BTC venues settle in 1e-8; 5 bp of a 1e-4 notional still lands on it
INT64_MAX = 2**63 - 1


class Instrument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tradable thing of one venue; `tick` and `lot` are exact decimals > 0."""

    symbol: str  # the venue's own word, "BTCUSDT"
    venue: str  # "binance", "binance_usdm", "glbx", "synthetic"
    tick: Decimal
    lot: Decimal
    quote: str = "USD"  # currency that prices and PnL are in
    multiplier: Decimal = Decimal(1)  # money of one price unit of one quantity unit
    book: str = "l2"  # "l2" or "l3": how the venue publishes its book
    inverse: bool = False  # prices are in `quote`, but contracts are worth `multiplier` of it each and settle in the coin

    @property
    def name(self) -> str:
        """`SYMBOL.venue`, the key used in configuration, tables and reports."""
        return f"{self.symbol}.{self.venue}"

    def price_ticks(self, price: Decimal) -> int:
        """Raises InstrumentError for a price off the grid."""
        return _on_grid(price, self.tick, f"price of {self.name}")

    def qty_lots(self, qty: Decimal) -> int:
        """Raises InstrumentError for a quantity off the grid."""
        return _on_grid(qty, self.lot, f"quantity of {self.name}")

    def price(self, ticks: int) -> Decimal:
        return _scaled(ticks, self.tick)

    def qty(self, lots: int) -> Decimal:
        return _scaled(lots, self.lot)

    def notional(self, money_decimals: int = MONEY_DECIMALS) -> Fraction:
        """Money units of one tick times one lot, exact."""
        return Fraction(self.tick) * Fraction(self.lot) * Fraction(self.multiplier) * 10**money_decimals


def _on_grid(value: Decimal, step: Decimal, what: str) -> int:
    units, rest = divmod(value, step)
    if rest:
        raise InstrumentError(f"{what}: {value} is not a multiple of {step}")
    if abs(units) > INT64_MAX:
        raise InstrumentError(f"{what}: {value} does not fit 64 bits of {step}")
    return int(units)


def _scaled(count: int, step: Decimal) -> Decimal:
    sign, digits, exponent = step.as_tuple()
    mantissa = int("".join(map(str, digits)))
    assert not sign and isinstance(exponent, int)
    return Decimal(count * mantissa).scaleb(exponent)


def plain(value: Decimal) -> str:
    """Decimal text without exponent or trailing zeros: 61602.02000000 is 61602.02, 1E+2 is 100."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
