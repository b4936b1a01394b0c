"""Every feature there is, listed: configuration names them, tests iterate over them."""

from __future__ import annotations

from handlers.features.declare import Feature
from handlers.features.indicators.momentum import macd, roc, rsi, stoch_rsi, trix
from handlers.features.indicators.moving_averages import dema, ema, hma, kama, sma, smma, tema, wma
from handlers.features.indicators.oscillators import cci, stochastic, ultimate, williams_r
from handlers.features.indicators.trend import adx, aroon, ichimoku, parabolic_sar, supertrend
from handlers.features.indicators.volatility import atr, bollinger, donchian, keltner, mean_deviation, natr, standard_deviation
from handlers.features.indicators.volume import accumulation, mfi, obv, vwap_moving, vwap_session
from handlers.features.microstructure.book import book_slope, microprice_levels, queue_imbalance, resilience
from handlers.features.microstructure.order_flow import order_flow, order_flow_levels, trade_imbalance, trade_intensity, vpin
from handlers.features.microstructure.prices import effective_spread, kyle_lambda, realised_spread, realised_variance, roll_spread

INDICATORS: tuple[Feature, ...] = (
    sma, ema, smma, wma, dema, tema, hma, kama,
    rsi, stoch_rsi, macd, roc, trix,
    stochastic, williams_r, cci, ultimate,
    mean_deviation, standard_deviation, bollinger, atr, natr, keltner, donchian,
    obv, accumulation, mfi, vwap_session, vwap_moving,
    adx, aroon, ichimoku, parabolic_sar, supertrend,
)  # fmt: skip
MICROSTRUCTURE: tuple[Feature, ...] = (  # of events, where those above are of bars
    microprice_levels, queue_imbalance, book_slope, resilience,
    order_flow, order_flow_levels, trade_imbalance, vpin, trade_intensity,
    realised_variance, kyle_lambda, roll_spread, effective_spread, realised_spread,
)  # fmt: skip
