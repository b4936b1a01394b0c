"""The instrument table: a decimal is a whole number of ticks or lots or it is refused, and comes back exactly."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.errors import InstrumentError
from transport.instruments import INT64_MAX, Instrument, plain

BTC = Instrument("BTCUSDT", "binance", Decimal("0.01"), Decimal("0.00001"), quote="USDT")
ES = Instrument("ESH4", "glbx", Decimal("0.25"), Decimal(1), multiplier=Decimal(50))
steps = st.builds(lambda m, e: Decimal(m).scaleb(e), st.integers(1, 400), st.integers(-12, 3))


def test_name_is_symbol_and_venue() -> None:
    assert BTC.name == "BTCUSDT.binance"


@given(steps, steps, st.integers(-(2**50), 2**50))
def test_every_whole_number_of_ticks_and_lots_comes_back(tick: Decimal, lot: Decimal, count: int) -> None:
    instrument = Instrument("X", "test", tick, lot)
    assert instrument.price_ticks(instrument.price(count)) == count
    assert instrument.qty_lots(instrument.qty(count)) == count
    assert Fraction(instrument.price(count)) == count * Fraction(tick)


@pytest.mark.parametrize("price", ["61602.025", "0.001", "-0.005"])
def test_price_off_the_grid_is_refused_by_name(price: str) -> None:
    with pytest.raises(InstrumentError, match=f"price of BTCUSDT.binance: {price} is not a multiple of 0.01"):
        BTC.price_ticks(Decimal(price))


def test_quantity_off_the_grid_or_beyond_int64_is_refused_by_name() -> None:
    with pytest.raises(InstrumentError, match=r"quantity of ESH4.glbx: 0.5 is not a multiple of 1"):
        ES.qty_lots(Decimal("0.5"))
    assert ES.qty_lots(Decimal(INT64_MAX)) == INT64_MAX
    with pytest.raises(InstrumentError, match="does not fit 64 bits"):
        ES.qty_lots(Decimal(INT64_MAX + 1))


@pytest.mark.parametrize(
    ("instrument", "decimals", "units"), [(BTC, 8, 10), (BTC, 7, 1), (BTC, 6, Fraction(1, 10)), (ES, 8, 1_250_000_000), (ES, 2, 1250)]
)
def test_notional_is_the_exact_worth_of_a_tick_times_a_lot(instrument: Instrument, decimals: int, units: Fraction) -> None:
    assert instrument.notional(decimals) == units


@pytest.mark.parametrize(
    ("value", "text"), [("61602.02000000", "61602.02"), ("1E+2", "100"), ("100", "100"), ("0.00", "0"), ("1E-8", "0.00000001")]
)
def test_plain_text_has_no_exponent_and_no_trailing_zeros(value: str, text: str) -> None:
    assert plain(Decimal(value)) == text


def test_table_goes_through_json_unchanged_and_an_unknown_field_is_refused() -> None:
    data = msgspec.json.encode((BTC, ES))
    assert msgspec.json.decode(data, type=tuple[Instrument, ...]) == (BTC, ES)
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(data.replace(b'"lot"', b'"lots"'), type=tuple[Instrument, ...])
