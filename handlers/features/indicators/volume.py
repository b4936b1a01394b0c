"""Volume, and prices weighted by it."""

from __future__ import annotations

from handlers.features.blocks import TOTAL, known, total
from handlers.features.declare import BAR_INPUT, Value, feature
from handlers.features.indicators.common import first_value, period


@feature(
    reads=BAR_INPUT, values=[Value("obv", "volume", "volume of rising less that of falling bars")],
    state=[("bars", "i8"), ("close", "f8"), ("obv", "f8")],
    window=lambda p: 0, warm_up=lambda p: 0,
)  # fmt: skip
def obv(s, w, p, x, out):
    """On-balance volume: + volume where the close rose, - where it fell; begun with the first bar's volume (Granville 1963)."""
    if s.bars == 0 or x.close > s.close:
        s.obv += x.volume
    elif x.close < s.close:
        s.obv -= x.volume
    s.bars = 1
    s.close = x.close
    out[0] = s.obv
    return 1


@feature(
    reads=BAR_INPUT, values=[Value("accumulation", "volume", "volume weighted by the close's place in its bar")],
    state=[("sum", "f8")], window=lambda p: 0, warm_up=lambda p: 0,
)  # fmt: skip
def accumulation(s, w, p, x, out):
    """Accumulation/distribution line: sum of volume (2 close - high - low) / (high - low), nothing of a bar without range (Chaikin)."""
    if x.high > x.low:
        s.sum += x.volume * ((x.close - x.low) - (x.high - x.close)) / (x.high - x.low)
    out[0] = s.sum
    return 1


@feature(
    reads=BAR_INPUT, values=[Value("mfi", "0..100", "share of money flow that came with rising prices")], params=[period(14)],
    state=[("bars", "i8"), ("typical", "f8")],
    window=lambda p: 2 * (TOTAL + p.period), warm_up=lambda p: p.period,
)  # fmt: skip
def mfi(s, w, p, x, out):
    """Money flow index: 100 up / (up + down), sums over n of t volume where t = (high + low + close) / 3 rose or fell; 50 without flow.

    Quong & Soudack (1989).
    """
    typical = (x.high + x.low + x.close) / 3.0
    before = s.typical
    s.typical = typical
    s.bars += 1
    if s.bars == 1:
        return 0
    flow = typical * x.volume
    up = total(w, 0, p.period, flow if typical > before else 0.0)
    down = total(w, TOTAL + p.period, p.period, flow if typical < before else 0.0)
    out[0] = 100.0 * up / (up + down) if up + down != 0.0 else 50.0
    return known(up)


@feature(
    reads=BAR_INPUT, values=[Value("vwap", "price", "volume-weighted mean price of the session so far")],
    state=[("session", "i8"), ("bars", "i8"), ("money", "f8"), ("volume", "f8")],
    window=lambda p: 0, warm_up=lambda p: 0,
)  # fmt: skip
def vwap_session(s, w, p, x, out):
    """Session VWAP: sum of t volume / sum of volume since the session began, t = (high + low + close) / 3; t while none traded.

    Berkowitz, Logue & Noser (1988).
    """
    if s.bars == 0 or x.session != s.session:
        s.money = s.volume = 0.0
        s.session = x.session
    s.bars = 1
    typical = (x.high + x.low + x.close) / 3.0
    s.money += typical * x.volume
    s.volume += x.volume
    out[0] = s.money / s.volume if s.volume > 0.0 else typical
    return 1


@feature(
    reads=BAR_INPUT, values=[Value("vwap", "price", "volume-weighted mean price of the last `period` bars")], params=[period(50)],
    window=lambda p: 2 * (TOTAL + p.period), warm_up=first_value,
)  # fmt: skip
def vwap_moving(s, w, p, x, out):
    """Moving VWAP: sum of t volume / sum of volume over n bars, t = (open + high + low + close) / 4; t where none traded."""
    typical = (x.open + x.high + x.low + x.close) / 4.0
    money = total(w, 0, p.period, typical * x.volume)
    volume = total(w, TOTAL + p.period, p.period, x.volume)
    out[0] = money / volume if volume > 0.0 else typical
    return known(money)
