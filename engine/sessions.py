"""From `[bars]` of the configuration to what FEATURES cuts bars by: sizes on each instrument's grid, and sessions as plain arrays.

A calendar is asked here, once, at start, over the same years whatever the feed and whenever the run: the line itself sees neither
a library nor a clock. A run's environment has the library's version, for another one may know another holiday; verify tells.
Times are the exchange's own, daylight saving and early closes included; a lunch break is inside its session.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from decimal import ROUND_CEILING, Decimal
from typing import Any

import numpy as np

from engine.config import ALWAYS, BarsConfig
from engine.errors import ConfigError
from handlers.features import bars
from handlers.features.bars import SESSION, BarsState, new_bars
from handlers.features.stage import INSTRUMENTS_MAX
from transport.instruments import Instrument

YEARS = ("1990-01-01", "2039-12-31")  # what a calendar knows of them; outside there are no sessions, hence no bars
DAY_NS = 86_400 * 10**9
BY = {
    "time": bars.BY_TIME, "session": bars.BY_SESSION, "ticks": bars.BY_TICKS, "volume": bars.BY_VOLUME,
    "notional": bars.BY_NOTIONAL, "tick_imbalance": bars.BY_TICK_IMBALANCE, "volume_imbalance": bars.BY_VOLUME_IMBALANCE,
}  # fmt: skip
CLOSE_ON = {"trade": bars.ON_TRADE, "record": bars.ON_RECORD, "timer": bars.ON_TIMER}


def cut_bars_of(config: BarsConfig, instruments: Sequence[Instrument]) -> BarsState | None:
    """What cuts the run's bars; None for plain ones. Raises ConfigError for a calendar or a size that cannot be."""
    if config == BarsConfig(interval_s=config.interval_s):
        return None
    quotes = config.of == "quotes"
    if quotes and len(instruments) > INSTRUMENTS_MAX // 2:
        raise ConfigError(f'bars.of = "quotes" with {len(instruments)} instruments; a line takes at most {INSTRUMENTS_MAX // 2}')
    sizes = [_size(config, instrument) for instrument in instruments for _ in range(1 + quotes)]
    return new_bars(
        sizes, None if config.session == ALWAYS else sessions_of(config.session), by=BY[config.by], quotes=quotes,
        interval_ns=config.interval_s * 10**9, price_excluded=config.price_excluded_conditions,
        volume_excluded=config.volume_excluded_conditions, close_on=CLOSE_ON[config.close_on],
        close_after_ns=config.close_after_ms * 1_000_000, adapt=2.0 / (config.adapt_bars + 1) if config.adapt_bars else 0.0,
    )  # fmt: skip


def _size(config: BarsConfig, instrument: Instrument) -> int:
    """`bars.size` in what a bar of the instrument counts, rounded up."""
    unit = {"volume": instrument.lot, "volume_imbalance": instrument.lot}.get(config.by, Decimal(1))
    if config.by == "notional":
        unit = instrument.tick * instrument.lot * instrument.multiplier
    size = int((config.size / unit).to_integral_value(ROUND_CEILING))
    if size > bars.SUM_MAX // 4:
        raise ConfigError(f"bars.size = {config.size} is too large: {instrument.name} counts it in {unit}")
    return size


def sessions_of(name: str) -> np.ndarray[Any, Any]:
    """Sessions of an exchange over YEARS, dtype SESSION, in order and apart; raises ConfigError for one that is not known."""
    calendar = _calendar(name)
    found = np.zeros(len(calendar.sessions), SESSION)
    found["open_ns"] = calendar.opens.dt.tz_convert(None).to_numpy().astype("M8[ns]").view(np.int64)
    found["close_ns"] = calendar.closes.dt.tz_convert(None).to_numpy().astype("M8[ns]").view(np.int64)
    found["day"] = calendar.sessions.to_numpy().astype("M8[ns]").view(np.int64) // DAY_NS
    assert (found["open_ns"] < found["close_ns"]).all() and (found["close_ns"][:-1] <= found["open_ns"][1:]).all(), name
    return found


def _calendar(name: str) -> Any:
    """The library's calendar over as many of YEARS as it knows."""
    import exchange_calendars
    from exchange_calendars.errors import CalendarError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own, of what its pandas will change one day
        try:
            return exchange_calendars.get_calendar(name, start=YEARS[0], end=YEARS[1])
        except CalendarError as error:
            raise ConfigError(
                f'bars.session = "{name}" is no exchange that is known; a market identifier such as XNYS, or "{ALWAYS}"'
            ) from error
        except (ValueError, NotImplementedError):  # of some exchanges fewer years are known
            return _known_years(name)


def _known_years(name: str) -> Any:
    """The library's calendar where it does not know all of YEARS; some of its own it cannot make at all, whatever the years."""
    import exchange_calendars

    try:
        known = type(exchange_calendars.get_calendar(name))
        first, last = (None if bound is None else f"{bound:%Y-%m-%d}" for bound in (known.bound_min(), known.bound_max()))
        return exchange_calendars.get_calendar(name, start=max(YEARS[0], first or ""), end=min(YEARS[1], last or YEARS[1]))
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f'bars.session = "{name}": this exchange_calendars, {exchange_calendars.__version__}, cannot make it: {str(error)[:200]}') from error
