"""Sessions of exchanges as plain arrays, and `[bars]` of the configuration as what FEATURES cuts by."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import exchange_calendars
import numpy as np
import pytest

from engine.config import BarsConfig, resolve
from engine.errors import ConfigError
from engine.sessions import cut_bars_of, sessions_of
from handlers.features import bars
from tests.property.test_bars import bars_of, printed
from transport.instruments import Instrument

NEW_YORK = ZoneInfo("America/New_York")
BTC = Instrument("BTCUSDT", "binance", Decimal("0.01"), Decimal("0.001"))
HOUR_NS = 3600 * 10**9


def ns(*when: int, zone: ZoneInfo = NEW_YORK) -> int:
    return int(datetime(*when, tzinfo=zone).timestamp()) * 10**9  # type: ignore[arg-type, misc]


def session_of(name: str, day: date) -> tuple[datetime, datetime]:
    """(open, close) in UTC."""
    found = sessions_of(name)
    (row,) = found[found["day"] == (day - date(1970, 1, 1)).days]
    opened, closed = (datetime.fromtimestamp(int(row[n]) // 10**9, UTC) for n in ("open_ns", "close_ns"))
    return opened, closed


@pytest.mark.parametrize(
    ("name", "day", "hours"),
    [  # in UTC
        ("XNYS", date(2013, 3, 8), "14:30-21:00"), ("XNYS", date(2013, 3, 11), "13:30-20:00"),  # spring, the Sunday between
        ("XNYS", date(2013, 11, 1), "13:30-20:00"), ("XNYS", date(2013, 11, 4), "14:30-21:00"),  # autumn
        ("XNYS", date(2013, 11, 29), "14:30-18:00"),  # half a day, after Thanksgiving
        ("XLON", date(2013, 3, 28), "08:00-16:30"), ("XLON", date(2013, 4, 2), "07:00-15:30"),
        ("XTKS", date(2013, 7, 1), "00:00-06:00"), ("CMES", date(2013, 7, 2), "22:00-22:00"),  # opens on the day before
    ],
)  # fmt: skip
def test_a_session_opens_and_closes_by_the_exchanges_own_clock(name: str, day: date, hours: str) -> None:
    opened, closed = session_of(name, day)
    assert f"{opened:%H:%M}-{closed:%H:%M}" == hours


def test_sessions_are_apart_in_order_and_none_on_a_holiday() -> None:
    found = sessions_of("XNYS")
    assert (found["open_ns"] < found["close_ns"]).all() and (found["close_ns"][:-1] < found["open_ns"][1:]).all()
    days = set(found["day"].tolist())
    holidays = (date(2013, 11, 28), date(2012, 10, 29), date(2001, 9, 11), date(2013, 10, 12))  # Thanksgiving, a storm, Saturday
    assert not days & {(day - date(1970, 1, 1)).days for day in holidays}


@pytest.mark.parametrize("name", ["NOPE", "xnys "])
def test_an_exchange_that_is_not_known_is_refused_in_words(name: str) -> None:
    with pytest.raises(ConfigError, match="is no exchange that is known; a market identifier such as XNYS"):
        sessions_of(name)


@pytest.mark.parametrize("error", [NotImplementedError("implemented by subclasses"), ValueError("special dates")])
def test_an_exchange_that_the_library_cannot_make_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Some of its own fail beside some versions of pandas, ASEX and XTAE among them."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(exchange_calendars, "get_calendar", fail)
    with pytest.raises(ConfigError, match=rf'"ASEX": this exchange_calendars, \S+, cannot make it: {error}'):
        sessions_of("ASEX")


# --- bars over days that change clocks ------------------------------------------------------------------------------------
@pytest.mark.parametrize(("before", "after"), [((2013, 3, 8), (2013, 3, 11)), ((2013, 11, 1), (2013, 11, 4))], ids=["spring", "autumn"])
def test_hours_of_a_session_begin_at_its_open_on_both_sides_of_a_change_of_clocks(before: tuple[int, ...], after: tuple[int, ...]) -> None:
    cut = cut_bars_of(BarsConfig(session="XNYS", interval_s=3600), [BTC])
    assert cut is not None
    trades = [printed(ns(*day, hour, 45), 10, 1) for day in (before, after) for hour in range(8, 18)]
    found = bars_of(cut, trades, 1)
    starts = [ns(*day, hour, 30) for day in (before, after) for hour in range(9, 16)]
    assert [b[2] for b in found] == starts
    assert [b[3] // HOUR_NS for b in found] == [1, 1, 1, 1, 1, 1, 0] * 2  # the last is the half hour that is left
    assert found[6][3] == HOUR_NS // 2
    assert len({b[-1] for b in found}) == 2


def test_a_session_bar_of_half_a_day_ends_at_one_and_what_is_traded_later_is_in_none() -> None:
    cut = cut_bars_of(BarsConfig(by="session", session="XNYS", close_on="timer", close_after_ms=0), [BTC])
    assert cut is not None
    trades = [printed(ns(2013, 11, 29, 9, 30), 10, 1), printed(ns(2013, 11, 29, 12, 59), 12, 1), printed(ns(2013, 11, 29, 13), 99, 1)]
    (bar,) = bars_of(cut, trades, 1)
    assert (bar[2], bar[2] + bar[3], bar[7]) == (ns(2013, 11, 29, 9, 30), ns(2013, 11, 29, 13), 12)
    assert bar[-1] == (date(2013, 11, 29) - date(1970, 1, 1)).days


# --- configuration --------------------------------------------------------------------------------------------------------
def test_plain_bars_are_those_of_any_interval_and_nothing_else_told() -> None:
    assert cut_bars_of(BarsConfig(interval_s=5), [BTC]) is None
    assert cut_bars_of(BarsConfig(close_on="record"), [BTC]) is not None


@pytest.mark.parametrize(
    ("by", "size", "counted"),
    [("ticks", "7.5", 8), ("volume", "2.5", 2500), ("volume_imbalance", "0.0001", 1), ("notional", "1000", 100_000_000), ("tick_imbalance", "3", 3)],
)
def test_a_size_is_told_in_trades_quantity_or_money_and_counted_on_the_instruments_grid(by: str, size: str, counted: int) -> None:
    cut = cut_bars_of(BarsConfig(by=by, size=Decimal(size)), [BTC, BTC])  # type: ignore[arg-type]
    assert cut is not None
    assert cut.open["size"].tolist() == [counted] * 2


def test_rules_are_those_told() -> None:
    config = BarsConfig(
        of="quotes", interval_s=5, close_on="timer", close_after_ms=7, price_excluded_conditions=3, volume_excluded_conditions=4, session="24/5"
    )
    cut = cut_bars_of(config, [BTC])
    assert cut is not None
    rule = {name: cut.rule[0][name].item() for name in cut.rule.dtype.names or ()}
    assert rule == {
        "by": bars.BY_TIME, "quotes": 1, "interval_ns": 5 * 10**9, "price_excluded": 3, "volume_excluded": 4, "close_on": bars.ON_TIMER,
        "close_after_ns": 7_000_000, "sessions": len(cut.sessions), "adapt": 0.0,
    }  # fmt: skip
    assert len(cut.open) == 2
    adapting = cut_bars_of(BarsConfig(by="tick_imbalance", adapt_bars=9), [BTC])
    assert adapting is not None and adapting.rule[0]["adapt"] == 0.2


def test_what_a_line_cannot_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match=r'bars\.of = "quotes" with 257 instruments; a line takes at most 256'):
        cut_bars_of(BarsConfig(of="quotes"), [BTC] * 257)
    with pytest.raises(ConfigError, match=r"bars.size = 1E\+30 is too large: BTCUSDT.binance counts it in 0.001"):
        cut_bars_of(BarsConfig(by="volume", size=Decimal("1e30")), [BTC])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"bars.by": "ticks", "bars.of": "quotes"}, "bars of quotes are by time or session, not by ticks"),
        ({"bars.size": "0"}, "bars.size: 0 must be above 0"),
        ({"bars.adapt_bars": "5"}, "bars by time have no size that adapts"),
        ({"bars.by": "weight"}, "bars.by"),
        ({"bars.price_excluded_conditions": "-1"}, "bars.price_excluded_conditions"),
        ({"feeds.crossed_quotes": "hide"}, "feeds.crossed_quotes"),
    ],
)
def test_words_that_do_not_go_together_are_refused(flags: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve(None, flags)


def test_conditions_are_told_as_masks() -> None:
    config, _ = resolve(None, {"bars.price_excluded_conditions": 0x1140220, "bars.session": "XNYS"})
    assert config.bars == BarsConfig(price_excluded_conditions=0x1140220, session="XNYS")
    assert np.int64(config.bars.price_excluded_conditions) == 18_088_480
