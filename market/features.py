"""What a policy sees of the market: causal features of every asset at the close of every bar.

Owns the formulas, their warm-up and their clipping. It does no IO and must never look ahead,
never guess, and never depend on anything further back than ``WARMUP_BARS``: the row of the last
bar computed from the last ``WARMUP_BARS`` bars is bit-equal to the same row computed from all
history. That is why every window is finite, every rolling sum is a fixed tree of additions
(no running totals, whose rounding would depend on where the data start), and volatilities are
taken from their own windows.

Notation: c close, h high, l low, v volume, r_k = ln(c_t/c_{t-1}); σ = sqrt(mean of r² over 168
bars), zero-mean because hourly drift is far below its own error. All bars inclusive of t.

================  ==========================================================  ====  ======  ========
feature           formula                                                     bars  bounds  source
================  ==========================================================  ====  ======  ========
return_1          ln(c_t/c_{t-1}) / σ                                          169  ±8      [1]
return_6          ln(c_t/c_{t-6}) / (σ·sqrt 6)                                 169  ±6      [1]
return_24         ln(c_t/c_{t-24}) / (σ·sqrt 24)                               169  ±6      [1]
return_72         ln(c_t/c_{t-72}) / (σ·sqrt 72)                               169  ±6      [1]
volatility_ratio  ln(sqrt(mean r² over 24) / σ)                                169  ±2      [2]
range_ratio       ln(sqrt(mean ln(h/l)² over 24 / (4 ln 2)) / sqrt(mean r²      25  ±2      [3]
                  over 24))
volume_surprise   mean over 6 bars of u_t = ln v_t - mean of ln v at the       246  ±4      [4]
                  same time of day over the 240 bars before
volume_relative   volume_surprise - its mean over the known assets             246  ±4      [4]
volume_shock      u_t - volume_surprise                                        246  ±4      [4]
funding_last      rate of the last settlement within 168 bars, bp              168  ±20     [5]
funding_mean      mean rate of the settlements within 168 bars, bp             168  ±20     [5]
basis             mark close / close - 1, bp                                     1  ±50     [5]
return_rank       rank of return over 24 bars among the known assets, -½..½     25  ±½      [6]
================  ==========================================================  ====  ======  ========

A bar-count window spans the stated number of bars whatever the interval. u_t
compares with the same time of day where at least 7 days fit into 240 bars; for shorter intervals
it compares with all of the 240 bars before.

Sources: [1] Lim, Zohren, Roberts (2019), "Enhancing Time Series Momentum Strategies Using Deep
Neural Networks", §3 (volatility-scaled returns). [2] Engle (1982): volatility clusters.
[3] Parkinson (1980), "The Extreme Value Method for Estimating the Variance of the Rate of
Return". [4] Gervais, Kaniel, Mingelgrin (2001), "The High-Volume Return Premium". [5] Venue
documentation of perpetual funding: the rate follows the premium of the mark over the index.
[6] Jegadeesh, Titman (1993), "Returns to Buying Winners and Selling Losers".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from market.bar import DAY_MS
from market.panel import BoolArray, Float64Array, Panel

Float32Array = npt.NDArray[np.float32]

FEATURE_BOUNDS: dict[str, float] = {
    "return_1": 8.0,
    "return_6": 6.0,
    "return_24": 6.0,
    "return_72": 6.0,
    "volatility_ratio": 2.0,
    "range_ratio": 2.0,
    "volume_surprise": 4.0,
    "volume_relative": 4.0,
    "volume_shock": 4.0,
    "funding_last": 20.0,
    "funding_mean": 20.0,
    "basis": 50.0,
    "return_rank": 0.5,
}
"""Largest absolute value of each feature; what lies beyond is clipped."""

FEATURES: tuple[str, ...] = tuple(FEATURE_BOUNDS)
"""Names along the last axis of ``Features.values``."""

WARMUP_BARS = 246
"""Bars, the present one included, that the longest feature needs."""

_LONG_BARS = 168
_SHORT_BARS = 24
_VOLUME_BARS = 240
_VOLUME_SMOOTHING_BARS = 6
_FEWEST_DAYS = 7
# A window is used when at least this share of it was observed; one missing bar must not blind
# the policy for ten days, and an average over fewer bars than that would be a guess.
_COVERAGE = 0.8
_PER_BP = 10_000.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Features:
    """Features of N assets over T bars.

    Attributes:
        values: (T, N, F) float32, finite, within ``FEATURE_BOUNDS``; 0 where unknown.
        known: (T, N, F) whether the value was computed from enough observed data.
    """

    values: Float32Array
    known: BoolArray


def compute_features(panel: Panel) -> Features:
    """Compute every feature at the close of every bar of ``panel``.

    A row uses only bars up to its own and at most ``WARMUP_BARS`` of them; earlier rows of the
    panel are marked unknown where their window is not covered.

    Args:
        panel: (T, N) market history; NaN where the venue gave nothing.

    Returns:
        (T, N, F) values and masks, in the order of ``FEATURES``.
    """
    prices = _return_features(panel) | _volume_features(panel)
    funding = _funding_features(panel)
    # A window that is covered without the present bar would show a stale value as today's.
    observed = {name: np.where(panel.observed, x, np.nan) for name, x in prices.items()}
    columns = observed | funding
    raw = np.stack([columns[name] for name in FEATURES], axis=-1)
    known = np.isfinite(raw)
    bounds = np.array(list(FEATURE_BOUNDS.values()))
    values = np.clip(np.where(known, raw, 0.0), -bounds, bounds)
    return Features(values=values.astype(np.float32), known=known)


def _return_features(panel: Panel) -> dict[str, Float64Array]:
    log_close = _log(panel.close)
    returns = log_close - _lagged(log_close, 1)
    range_variance = (_log(panel.high) - _log(panel.low)) ** 2 / (4.0 * np.log(2.0))
    long_volatility = _root(_rolling_mean(returns**2, _LONG_BARS))
    short_volatility = _root(_rolling_mean(returns**2, _SHORT_BARS))
    range_volatility = _root(_rolling_mean(range_variance, _SHORT_BARS))
    day_return = log_close - _lagged(log_close, _SHORT_BARS)
    moves = {bars: log_close - _lagged(log_close, bars) for bars in (1, 6, 24, 72)}
    scaled = {
        f"return_{bars}": move / (long_volatility * np.sqrt(bars)) for bars, move in moves.items()
    }
    return scaled | {
        "volatility_ratio": _log(short_volatility / long_volatility),
        "range_ratio": _log(range_volatility / short_volatility),
        "return_rank": _cross_sectional_rank(day_return),
    }


def _volume_features(panel: Panel) -> dict[str, Float64Array]:
    log_volume = _log(panel.volume)
    unusual = log_volume - _mean_at_lags(log_volume, _volume_lags(panel.interval_ms))
    surprise = _rolling_mean(unusual, _VOLUME_SMOOTHING_BARS)
    return {
        "volume_surprise": surprise,
        "volume_relative": surprise - _cross_sectional_mean(surprise),
        "volume_shock": unusual - surprise,
    }


def _funding_features(panel: Panel) -> dict[str, Float64Array]:
    rate = panel.funding_rate * _PER_BP
    settled = np.isfinite(rate)
    count = _rolling_sum(settled.astype(np.float64), _LONG_BARS)
    total = _rolling_sum(np.where(settled, rate, 0.0), _LONG_BARS)
    return {
        "funding_last": _last_known(rate, _LONG_BARS),
        "funding_mean": _ratio(total, count, where=count > 0),
        "basis": (panel.mark_close / panel.close - 1.0) * _PER_BP,
    }


def _volume_lags(interval_ms: int) -> Sequence[int]:
    """Lags, in bars, whose mean is the usual volume of the present bar."""
    day_bars = max(1, DAY_MS // interval_ms)
    step = day_bars if day_bars * _FEWEST_DAYS <= _VOLUME_BARS else 1
    return range(step, _VOLUME_BARS + 1, step)


def _log(values: Float64Array) -> Float64Array:
    """Natural logarithm; NaN where the argument is not positive or not known."""
    positive = values > 0
    logs = np.log(np.where(positive, values, 1.0))
    return np.where(positive, logs, np.nan)


def _root(variance: Float64Array) -> Float64Array:
    """Square root; NaN for 0, since a market that did not move has no scale to divide by."""
    return np.sqrt(np.where(variance > 0, variance, np.nan))


def _ratio(dividend: Float64Array, divisor: Float64Array, *, where: BoolArray) -> Float64Array:
    """``dividend / divisor`` where asked, NaN elsewhere."""
    quotient = np.full(dividend.shape, np.nan)
    np.divide(dividend, divisor, out=quotient, where=where)
    return quotient


def _lagged(values: Float64Array, bars: int, fill: float = np.nan) -> Float64Array:
    """(T, ...) the value ``bars`` earlier; ``fill`` before the first."""
    shifted = np.full_like(values, fill)
    shifted[bars:] = values[: max(0, len(values) - bars)]
    return shifted


def _rolling_sum(values: Float64Array, bars: int) -> Float64Array:
    """(T, ...) sum over the last ``bars`` bars, what lies before the first counting as 0.

    The window is cut into blocks whose lengths are powers of two; each block's sum is two half
    blocks' sum. Every element is therefore the same tree of additions wherever the data start.
    """
    total = np.zeros_like(values)
    block, offset, length = values, 0, 1
    while length <= bars:
        if bars & length:
            total = total + _lagged(block, offset, 0.0)
            offset += length
        block = block + _lagged(block, length, 0.0)
        length *= 2
    return total


def _rolling_mean(values: Float64Array, bars: int) -> Float64Array:
    """(T, ...) mean of the known values of the last ``bars`` bars; NaN when too few are known."""
    known = np.isfinite(values)
    count = _rolling_sum(known.astype(np.float64), bars)
    total = _rolling_sum(np.where(known, values, 0.0), bars)
    return _ratio(total, count, where=count >= _COVERAGE * bars)


def _mean_at_lags(values: Float64Array, lags: Sequence[int]) -> Float64Array:
    """(T, ...) mean of the known values at the given lags; NaN when too few are known."""
    known = np.isfinite(values)
    filled, counted = np.where(known, values, 0.0), known.astype(np.float64)
    total, count = np.zeros_like(values), np.zeros_like(values)
    for lag in lags:
        total += _lagged(filled, lag, 0.0)
        count += _lagged(counted, lag, 0.0)
    return _ratio(total, count, where=count >= _COVERAGE * len(lags))


def _last_known(values: Float64Array, bars: int) -> Float64Array:
    """(T, N) the newest known value of the last ``bars`` bars, NaN where there is none."""
    row = np.arange(len(values))[:, None]
    newest = np.maximum.accumulate(np.where(np.isfinite(values), row, -1), axis=0)
    found = (newest >= 0) & (row - newest < bars)
    picked = np.take_along_axis(values, np.maximum(newest, 0), axis=0)
    return np.where(found, picked, np.nan)


def _cross_sectional_mean(values: Float64Array) -> Float64Array:
    """(T, 1) mean over the known assets of each bar, added in the order of the asset axis."""
    known = np.isfinite(values)
    total = np.zeros(len(values))
    for asset in range(values.shape[1]):
        total = total + np.where(known[:, asset], values[:, asset], 0.0)
    count = known.sum(axis=1).astype(np.float64)
    return _ratio(total, count, where=count > 0)[:, None]


def _cross_sectional_rank(values: Float64Array) -> Float64Array:
    """(T, N) rank among the known assets from -0.5 (lowest) to 0.5; ties share their mean rank.

    NaN for an unknown asset, and where fewer than two are known.
    """
    known = np.isfinite(values)
    others = known.sum(axis=1, keepdims=True).astype(np.float64) - 1.0
    below = np.zeros_like(values)
    for asset in range(values.shape[1]):
        rival = values[:, asset : asset + 1]
        below += (rival < values) + 0.5 * (rival == values)
    place = below - 0.5  # an asset ties with itself
    return _ratio(place, others, where=known & (others > 0)) - 0.5
