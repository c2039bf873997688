"""The arithmetic of each feature of ``market.feature_table``, one line each, by name.

It must never clip, mask or name anything new: bounds, masks and the choice are
``market.features``'. It does no IO.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from market.bar import DAY_MS, HOUR_MS
from market.feature_spec import day_bars
from market.measures import LONG_BARS, PER_BP, SHORT_BARS, Measures
from market.panel import Float64Array
from market.rolling import (
    cross_sectional_deviation,
    cross_sectional_mean,
    cross_sectional_rank,
    last_known,
    log,
    ratio,
    rolling_count,
    rolling_mean,
    rolling_sum,
)

Formula = Callable[[Measures], Float64Array]
"""From what a panel measures to (T, N), or (T, 1) where all assets share the value."""

_WEEK_DAYS = 7
_THURSDAY_TO_MONDAY_MS = 3 * DAY_MS  # the epoch was a Thursday


def _scaled_return(bars: int) -> Formula:
    return lambda m: m.scaled_move(bars)


def _return_rank(bars: int) -> Formula:
    return lambda m: cross_sectional_rank(m.move(bars))


def _less_market(values: Float64Array) -> Float64Array:
    return values - cross_sectional_mean(values)


def _taker_imbalance(m: Measures) -> Float64Array:
    volume = m.panel.volume
    return 2.0 * ratio(m.panel.taker_buy_volume, volume, where=volume > 0) - 1.0


def _mean_funding(m: Measures) -> Float64Array:
    rate = m.panel.funding_rate * PER_BP
    settled = np.isfinite(rate)
    total = rolling_sum(np.where(settled, rate, 0.0), LONG_BARS)
    count = rolling_count(settled, LONG_BARS)
    return ratio(total, count, where=count > 0)


def _funding_countdown(m: Measures) -> Float64Array:
    age, gap = m.settlement_gaps
    return (gap - age - 1.0) * (m.panel.interval_ms / HOUR_MS)


def _funding_carry(m: Measures) -> Float64Array:
    _age, gap = m.settlement_gaps
    window = 3 + 2 * day_bars(m.panel.interval_ms)
    rate = last_known(m.panel.funding_rate * PER_BP, window)
    per_day = (DAY_MS / m.panel.interval_ms) / gap
    carry: Float64Array = rate * per_day
    return carry


def _residual_return(m: Measures) -> Float64Array:
    own: Float64Array = m.move(SHORT_BARS) - m.beta * m.bitcoin_move(SHORT_BARS)
    scale: Float64Array = m.volatility(LONG_BARS) * np.sqrt(SHORT_BARS)
    return own / scale


def _day_angle(m: Measures) -> Float64Array:
    angle: Float64Array = 2.0 * math.pi * (m.panel.close_time % DAY_MS) / DAY_MS
    return angle[:, None]


def _week_angle(m: Measures) -> Float64Array:
    weekday = (m.panel.close_time + _THURSDAY_TO_MONDAY_MS) // DAY_MS % _WEEK_DAYS
    angle: Float64Array = 2.0 * math.pi * weekday / _WEEK_DAYS
    return angle[:, None]


FORMULAS: Mapping[str, Formula] = {
    **{f"return_{bars}": _scaled_return(bars) for bars in (1, 3, 6, 12, 24, 72, 168, 336)},
    "realised_volatility": lambda m: m.log_annual(m.volatility(SHORT_BARS)),
    "parkinson_volatility": lambda m: m.log_annual(m.parkinson(SHORT_BARS)),
    "garman_klass_volatility": lambda m: m.log_annual(m.garman_klass(SHORT_BARS)),
    "volatility_ratio": lambda m: log(m.volatility(SHORT_BARS) / m.volatility(LONG_BARS)),
    "volatility_ratio_6": lambda m: log(m.volatility(6) / m.volatility(SHORT_BARS)),
    "parkinson_ratio": lambda m: log(m.parkinson(SHORT_BARS) / m.parkinson(LONG_BARS)),
    "garman_klass_ratio": lambda m: log(m.garman_klass(SHORT_BARS) / m.garman_klass(LONG_BARS)),
    "range_ratio": lambda m: log(m.parkinson(SHORT_BARS) / m.volatility(SHORT_BARS)),
    "garman_klass_excess": lambda m: log(m.garman_klass(SHORT_BARS) / m.volatility(SHORT_BARS)),
    "volume_surprise": lambda m: m.surprise("volume"),
    "volume_relative": lambda m: _less_market(m.surprise("volume")),
    "volume_shock": lambda m: m.unusual("volume") - m.surprise("volume"),
    "trades_surprise": lambda m: m.surprise("trades"),
    "trades_relative": lambda m: _less_market(m.surprise("trades")),
    "volume_seasonal": lambda m: m.seasonal(m.panel.volume),
    "trades_seasonal": lambda m: m.seasonal(m.panel.trades),
    "trade_size_seasonal": lambda m: m.seasonal(m.trade_size),
    "taker_imbalance": _taker_imbalance,
    "taker_imbalance_24": lambda m: m.taker_imbalance_24,
    "taker_relative": lambda m: _less_market(m.taker_imbalance_24),
    "amihud": lambda m: m.illiquidity(SHORT_BARS),
    "amihud_ratio": lambda m: m.illiquidity(SHORT_BARS) - m.illiquidity(LONG_BARS),
    "amihud_relative": lambda m: _less_market(m.illiquidity(LONG_BARS)),
    "edge_spread": lambda m: m.edge_spread * PER_BP,
    "funding_last": lambda m: last_known(m.panel.funding_rate * PER_BP, LONG_BARS),
    "funding_mean": _mean_funding,
    "funding_countdown": _funding_countdown,
    "funding_carry": _funding_carry,
    "basis": lambda m: m.basis,
    "basis_mean": lambda m: rolling_mean(m.basis, SHORT_BARS),
    "basis_change": lambda m: m.basis - rolling_mean(m.basis, SHORT_BARS),
    "return_rank": _return_rank(SHORT_BARS),
    "return_rank_6": _return_rank(6),
    "return_rank_168": _return_rank(LONG_BARS),
    "volatility_rank": lambda m: cross_sectional_rank(m.volatility(LONG_BARS)),
    "market_return": lambda m: cross_sectional_mean(m.scaled_move(SHORT_BARS)),
    "dispersion": lambda m: cross_sectional_deviation(m.scaled_move(SHORT_BARS)),
    "beta": lambda m: m.beta,
    "btc_correlation": lambda m: m.bitcoin_correlation,
    "residual_return": _residual_return,
    "hour_sin": lambda m: np.sin(_day_angle(m)),
    "hour_cos": lambda m: np.cos(_day_angle(m)),
    "weekday_sin": lambda m: np.sin(_week_angle(m)),
    "weekday_cos": lambda m: np.cos(_week_angle(m)),
}
