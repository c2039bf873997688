"""What a panel says about filling: prices that can be traded, marks to value at, liquidity.

Pure and causal: row t of everything uses bars up to t only. It prepares inputs of the kernel and
never changes an account.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from broker.kernel import BoolArray, Float64Array, Interval, Liquidity
from market.bar import DAY_MS
from market.panel import Int64Array, Panel

LIQUIDITY_BARS = 168
"""Trailing bars over which volume and volatility are measured; a week of hours."""
REQUIRED_BARS = LIQUIDITY_BARS + 1
"""Bars that make the last row of ``liquidity`` equal to that of any longer panel, bit for bit."""
UNKNOWN_SIGMA_DAILY = 0.05
"""Daily volatility assumed until two returns are known: about a crypto-currency's."""


def has_price(value: float | None) -> TypeGuard[float]:
    """Whether a price can be traded at: present, finite and positive."""
    return value is not None and math.isfinite(value) and value > 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MarketArrays:
    """A panel made ready for the kernel: every number finite, what is missing in the masks.

    Attributes:
        price: (T, N) decision price at the close; the mark where not tradable, 1 where neither
            is known (the kernel divides by it even where masked).
        tradable: (T, N) whether the close is usable.
        mark: (T, N) valuation price at the close, the last known one carried forward; 0 before.
        open_price: (T, N) price of a fill in bar t; the mark where not fillable.
        fillable: (T, N) whether the open is usable.
        funding_at_open: (T, N) Σ rate·mark per unit held before the fill, 0 where none.
        funding_in_bar: (T, N) the same per unit held after it.
        liquidity: (T, N) each, for orders decided at the close of bar t.
    """

    price: Float64Array
    tradable: BoolArray
    mark: Float64Array
    open_price: Float64Array
    fillable: BoolArray
    funding_at_open: Float64Array
    funding_in_bar: Float64Array
    liquidity: Liquidity

    def interval(self, row: int | Int64Array) -> Interval:
        """Return bar ``row`` as what happens after the decision at the close of ``row − 1``.

        With an index array (accounts,) the arrays are (accounts, N), one bar for each account.
        """
        return Interval(
            self.open_price[row],
            self.fillable[row],
            self.funding_at_open[row],
            self.funding_in_bar[row],
            self.mark[row],
        )

    def liquidity_at(self, row: int | Int64Array) -> Liquidity:
        """Return what is known at the close of bar ``row``, (N,) or (accounts, N)."""
        return Liquidity(self.liquidity.adv_quote[row], self.liquidity.sigma_daily[row])


def market_arrays(panel: Panel) -> MarketArrays:
    """Prepare every bar of ``panel`` for the kernel; see ``MarketArrays``."""
    mark = carry_forward(panel.mark)
    tradable = _usable(panel.close)
    fillable = _usable(panel.open)
    return MarketArrays(
        price=np.where(tradable, panel.close, np.where(mark > 0, mark, 1.0)),
        tradable=tradable,
        mark=mark,
        open_price=np.where(fillable, panel.open, mark),
        fillable=fillable,
        funding_at_open=np.nan_to_num(panel.funding_at_open, nan=0.0),
        funding_in_bar=np.nan_to_num(panel.funding_in_bar, nan=0.0),
        liquidity=liquidity(panel),
    )


def carry_forward(mark: Float64Array) -> Float64Array:
    """(T, N) the last usable mark at or before each bar; 0 before the first."""
    usable = _usable(mark)
    rows = np.arange(len(mark))[:, None]
    last = np.maximum.accumulate(np.where(usable, rows, -1), axis=0)
    carried = np.take_along_axis(mark, np.maximum(last, 0), axis=0)
    return np.where(last >= 0, carried, 0.0)


def liquidity(panel: Panel) -> Liquidity:
    """Trailing average daily volume and daily volatility, each (T, N), causal and finite.

    ``adv_quote`` is the mean quote volume per bar (``volume·close`` where the venue gives none)
    times bars per day, 0 where none is known. ``sigma_daily`` is the sample standard deviation of
    log returns of the close times √(bars per day), ``UNKNOWN_SIGMA_DAILY`` below two returns. A
    return across a missing bar does not count.
    """
    bars_per_day = DAY_MS / panel.interval_ms
    close = np.where(_usable(panel.close), panel.close, np.nan)
    volume = np.where(np.isnan(panel.quote_volume), panel.volume * close, panel.quote_volume)
    mean_volume, _ = _trailing_mean(volume)
    returns = np.full_like(close, np.nan)
    if len(close) > 1:
        returns[1:] = np.log(close[1:] / close[:-1])
    sigma = _trailing_deviation(returns) * math.sqrt(bars_per_day)
    return Liquidity(
        np.nan_to_num(mean_volume, nan=0.0) * bars_per_day,
        np.where(np.isnan(sigma), UNKNOWN_SIGMA_DAILY, sigma),
    )


def _trailing_mean(values: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Mean and count of the finite values among the last ``LIQUIDITY_BARS``, NaN where none."""
    known = np.isfinite(values)
    count = _trailing_sum(known.astype(np.float64))
    total = _trailing_sum(np.where(known, values, 0.0))
    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return mean, count


def _trailing_deviation(values: Float64Array) -> Float64Array:
    """Sample standard deviation of the finite values in the window, NaN below two of them."""
    mean, count = _trailing_mean(values)
    squares = np.zeros_like(values)
    for lag in range(min(LIQUIDITY_BARS, len(values))):
        stop = len(values) - lag
        deviation = values[:stop] - mean[lag:]
        squares[lag:] += np.where(np.isfinite(deviation), deviation, 0.0) ** 2
    enough = count > 1
    return np.sqrt(np.divide(squares, count - 1, out=np.full_like(mean, np.nan), where=enough))


def _trailing_sum(values: Float64Array) -> Float64Array:
    """Sum of each bar and the ``LIQUIDITY_BARS − 1`` before it, newest first.

    Added lag by lag, not by a running sum: the result does not depend on where the panel starts.
    """
    total = np.zeros_like(values)
    for lag in range(min(LIQUIDITY_BARS, len(values))):
        total[lag:] += values[: len(values) - lag]
    return total


def _usable(price: Float64Array) -> BoolArray:
    usable: BoolArray = np.isfinite(price) & (price > 0)
    return usable
