"""Rolling and cross-sectional arithmetic whose last bit does not depend on where the data start.

Every window is finite. A rolling sum is a fixed tree of additions, never a running total, whose
rounding would depend on the bars before the window; running totals are used for counts alone,
which are exact. Cross-sections are added in the order of the asset axis. Unknown values are NaN,
here and only here filled with 0. This module does no IO.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from market.panel import BoolArray, Float64Array, Int64Array

COVERAGE = 0.8
"""Share of a window that must be known: one missing bar must not blind the policy for ten days,
and an average over fewer bars than that would be a guess."""


def log(values: Float64Array) -> Float64Array:
    """Natural logarithm; NaN where the argument is not positive or not known."""
    positive = values > 0
    logs = np.log(np.where(positive, values, 1.0))
    logs[~positive] = np.nan
    return logs


def root(variance: Float64Array) -> Float64Array:
    """Square root; NaN for 0, since a market that did not move has no scale to divide by."""
    return np.sqrt(np.where(variance > 0, variance, np.nan))


def ratio(dividend: Float64Array, divisor: Float64Array, *, where: BoolArray) -> Float64Array:
    """``dividend / divisor`` where asked, NaN elsewhere."""
    quotient = np.full(dividend.shape, np.nan)
    np.divide(dividend, divisor, out=quotient, where=where)
    return quotient


def lagged(values: Float64Array, bars: int) -> Float64Array:
    """(T, ...) the value ``bars`` earlier; NaN before the first."""
    shifted = np.empty_like(values)
    shifted[:bars] = np.nan
    shifted[bars:] = values[: max(0, len(values) - bars)]
    return shifted


def rolling_sum(values: Float64Array, bars: int) -> Float64Array:
    """(T, ...) sum over the last ``bars`` bars, what lies before the first counting as 0.

    The window is cut into blocks whose lengths are powers of two; each block's sum is two half
    blocks' sum. Every element is therefore the same tree of additions wherever the data start.
    """
    total = np.zeros_like(values)
    block, offset, length = values, 0, 1
    while length <= bars:
        if bars & length:
            _add_lagged(total, block, offset)
            offset += length
        if 2 * length <= bars:
            doubled = block.copy()
            _add_lagged(doubled, block, length)
            block = doubled
        length *= 2
    return total


def _add_lagged(total: Float64Array, values: Float64Array, bars: int) -> None:
    """Add the value ``bars`` earlier in place; ``total`` and ``values`` must not overlap."""
    if bars < len(total):
        np.add(total[bars:], values[: len(values) - bars], out=total[bars:])


def rolling_count(flags: BoolArray, bars: int) -> Float64Array:
    """(T, ...) how many of the last ``bars`` flags are set; whole numbers, hence exact."""
    total = np.cumsum(flags, axis=0, dtype=np.int64)
    total[bars:] -= total[: max(0, len(total) - bars)].copy()
    return total.astype(np.float64)


def rolling_mean(values: Float64Array, bars: int) -> Float64Array:
    """(T, ...) mean of the known values of the last ``bars`` bars; NaN when too few are known."""
    known = np.isfinite(values)
    count = rolling_count(known, bars)
    total = rolling_sum(np.where(known, values, 0.0), bars)
    return ratio(total, count, where=count >= COVERAGE * bars)


def mean_at_lags(values: Float64Array, lags: Sequence[int]) -> Float64Array:
    """(T, ...) mean of the known values at the given lags; NaN when too few are known."""
    known = np.isfinite(values)
    filled, counted = np.where(known, values, 0.0), known.astype(np.float64)
    total, count = np.zeros_like(values), np.zeros_like(values)
    for lag in lags:
        _add_lagged(total, filled, lag)
        _add_lagged(count, counted, lag)
    return ratio(total, count, where=count >= COVERAGE * len(lags))


def newest_known(values: Float64Array) -> Int64Array:
    """(T, N) row of the newest known value at or before each row; -1 where there is none."""
    row = np.arange(len(values))[:, None]
    newest: Int64Array = np.maximum.accumulate(np.where(np.isfinite(values), row, -1), axis=0)
    return newest


def last_known(values: Float64Array, bars: int) -> Float64Array:
    """(T, N) the newest known value of the last ``bars`` bars, NaN where there is none."""
    row, newest = np.arange(len(values))[:, None], newest_known(values)
    found = (newest >= 0) & (row - newest < bars)
    picked = np.take_along_axis(values, np.maximum(newest, 0), axis=0)
    return np.where(found, picked, np.nan)


def cross_sectional_mean(values: Float64Array) -> Float64Array:
    """(T, 1) mean over the known assets of each bar, added in the order of the asset axis."""
    known = np.isfinite(values)
    total = np.zeros(len(values))
    for asset in range(values.shape[1]):
        total = total + np.where(known[:, asset], values[:, asset], 0.0)
    count = known.sum(axis=1).astype(np.float64)
    return ratio(total, count, where=count > 0)[:, None]


def cross_sectional_deviation(values: Float64Array) -> Float64Array:
    """(T, 1) population standard deviation over the known assets; NaN for fewer than two."""
    several = np.isfinite(values).sum(axis=1, keepdims=True) > 1
    variance = cross_sectional_mean((values - cross_sectional_mean(values)) ** 2)
    return np.sqrt(np.where(several, variance, np.nan))


def cross_sectional_rank(values: Float64Array) -> Float64Array:
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
    return ratio(place, others, where=known & (others > 0)) - 0.5
