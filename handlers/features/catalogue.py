"""Every feature there is, listed: configuration names them, tests iterate over them."""

from __future__ import annotations

from handlers.features.declare import Feature
from handlers.features.indicators.momentum import macd, roc, rsi, stoch_rsi, trix
from handlers.features.indicators.moving_averages import dema, ema, hma, kama, sma, smma, tema, wma
from handlers.features.indicators.oscillators import cci, stochastic, ultimate, williams_r
from handlers.features.indicators.trend import adx, aroon, ichimoku, parabolic_sar, supertrend
from handlers.features.indicators.volatility import atr, bollinger, donchian, keltner, mean_deviation, natr, standard_deviation
from handlers.features.indicators.volume import accumulation, mfi, obv, vwap_moving, vwap_session

INDICATORS: tuple[Feature, ...] = (
    sma, ema, smma, wma, dema, tema, hma, kama,
    rsi, stoch_rsi, macd, roc, trix,
    stochastic, williams_r, cci, ultimate,
    mean_deviation, standard_deviation, bollinger, atr, natr, keltner, donchian,
    obv, accumulation, mfi, vwap_session, vwap_moving,
    adx, aroon, ichimoku, parabolic_sar, supertrend,
)  # fmt: skip
