"""What a panel says about filling: prices that can be traded, marks to value at, liquidity.

Pure and causal: row t of everything uses bars up to t only. It prepares inputs of the kernel and
never changes an account.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeGuard

import numpy as np

from broker.book import BoolArray, Float64Array, Interval, Liquidity
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
        volume: (T, N) base units traded in the bar; 0 where unknown.
        mark_open, mark_low, mark_high: (T, N) the mark's range within the bar: the mark candle,
            else the bar itself, else the mark at the close before; low ≤ open ≤ high.
        funding_at_open: (T, N) Σ rate·mark per unit held before the fill, 0 where none.
        funding_in_bar: (T, N) the same per unit held after it.
        liquidity: (T, N) each, for orders decided at the close of bar t.
    """

    price: Float64Array
    tradable: BoolArray
    mark: Float64Array
    open_price: Float64Array
    fillable: BoolArray
    volume: Float64Array
    mark_open: Float64Array
    mark_low: Float64Array
    mark_high: Float64Array
    funding_at_open: Float64Array
    funding_in_bar: Float64Array
    liquidity: Liquidity

    def interval(self, row: int | Int64Array, ladder: Int64Array) -> Interval:
        """Return bar ``row`` as what happens after the decision at the close of ``row − 1``.

        With an index array (accounts,) the arrays are (accounts, N), one bar for each account.
        ``ladder`` (T,) is the margin ladder in force in each bar (``margin.ladder_at``).
        """
        return Interval(
            open_price=self.open_price[row],
            fillable=self.fillable[row],
            volume=self.volume[row],
            funding_at_open=self.funding_at_open[row],
            funding_in_bar=self.funding_in_bar[row],
            mark_open=self.mark_open[row],
            mark_low=self.mark_low[row],
            mark_high=self.mark_high[row],
            mark=self.mark[row],
            ladder=ladder[row],
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
        volume=np.where(np.isfinite(panel.volume), panel.volume, 0.0),
        **mark_range(panel, mark),
        funding_at_open=np.nan_to_num(panel.funding_at_open, nan=0.0),
        funding_in_bar=np.nan_to_num(panel.funding_in_bar, nan=0.0),
        liquidity=liquidity(panel),
    )


def mark_range(panel: Panel, mark: Float64Array) -> dict[str, Float64Array]:
    """``mark_open``, ``mark_low`` and ``mark_high`` of ``MarketArrays``, (T, N) each.

    Args:
        panel: T bars.
        mark: (T, N) the mark at each close, carried forward.
    """
    before = np.vstack([mark[:1], mark[:-1]])
    has_candle, has_bar = _usable(panel.mark_open), _usable(panel.open)

    def chosen(candle: Float64Array, bar: Float64Array) -> Float64Array:
        return np.where(has_candle, candle, np.where(has_bar, bar, before))

    opened = chosen(panel.mark_open, panel.open)
    low = chosen(panel.mark_low, panel.low)
    high = chosen(panel.mark_high, panel.high)
    return {
        "mark_open": opened,
        "mark_low": np.fmin(low, opened),
        "mark_high": np.fmax(high, opened),
    }


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
    return _measured(panel, _trailing_sum, _trailing_squares)


class KnownLiquidity(NamedTuple):
    """What a decision knows, (N,) each: ``before`` when pending orders were sent, and ``now``."""

    before: Liquidity
    now: Liquidity

    @classmethod
    def at(cls, measured: Liquidity, row: int) -> KnownLiquidity:
        """Return what is known at the close of bar ``row`` of ``liquidity``, (T, N) each."""
        rows = (measured.adv_quote, measured.sigma_daily)
        before, now = (Liquidity(*(each[at] for each in rows)) for at in (max(row - 1, 0), row))
        return cls(before, now)


def latest_liquidity(panel: Panel) -> KnownLiquidity:
    """The last two rows of ``liquidity``, bit for bit; what a decision needs, at once."""
    now = _newest(panel)
    return KnownLiquidity(_newest(panel.window(0, len(panel) - 1)) if len(panel) > 1 else now, now)


def _newest(panel: Panel) -> Liquidity:
    stop = len(panel)
    recent = panel.window(max(0, stop - REQUIRED_BARS), stop)
    found = _measured(recent, _newest_sum, _newest_squares)
    return Liquidity(found.adv_quote[-1], found.sigma_daily[-1])


Measure = Callable[[Float64Array], Float64Array]
Deviate = Callable[[Float64Array, Float64Array], Float64Array]


def _measured(panel: Panel, trailing_sum: Measure, trailing_squares: Deviate) -> Liquidity:
    """``liquidity`` of the rows for which the two sums answer."""
    bars_per_day = DAY_MS / panel.interval_ms
    close = np.where(_usable(panel.close), panel.close, np.nan)
    volume = np.where(np.isnan(panel.quote_volume), panel.volume * close, panel.quote_volume)
    returns = np.full_like(close, np.nan)
    if len(close) > 1:
        returns[1:] = np.log(close[1:] / close[:-1])
    mean_volume, _ = _mean(volume, trailing_sum)
    mean_return, count = _mean(returns, trailing_sum)
    squares = trailing_squares(returns, mean_return)
    unknown = np.full_like(mean_return, np.nan)
    sigma = np.sqrt(np.divide(squares, count - 1, out=unknown, where=count > 1))
    return Liquidity(
        np.nan_to_num(mean_volume, nan=0.0) * bars_per_day,
        np.where(np.isnan(sigma), UNKNOWN_SIGMA_DAILY, sigma * math.sqrt(bars_per_day)),
    )


def _mean(values: Float64Array, trailing_sum: Measure) -> tuple[Float64Array, Float64Array]:
    """Mean and count of the finite values in the window, NaN where there is none."""
    known = np.isfinite(values)
    count = trailing_sum(known.astype(np.float64))
    total = trailing_sum(np.where(known, values, 0.0))
    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return mean, count


def _trailing_sum(values: Float64Array) -> Float64Array:
    """(T, N) sum of each bar and the ``LIQUIDITY_BARS − 1`` before it, newest first.

    Added lag by lag, not by a running sum: the result does not depend on where the panel starts.
    """
    total = np.zeros_like(values)
    for lag in range(min(LIQUIDITY_BARS, len(values))):
        total[lag:] += values[: len(values) - lag]
    return total


def _trailing_squares(values: Float64Array, mean: Float64Array) -> Float64Array:
    """(T, N) sum of squared deviations of the finite values in each window from its mean."""
    squares = np.zeros_like(values)
    for lag in range(min(LIQUIDITY_BARS, len(values))):
        squares[lag:] += _square(values[: len(values) - lag] - mean[lag:])
    return squares


def _newest_sum(values: Float64Array) -> Float64Array:
    """(1, N) the last row of ``_trailing_sum``: a running sum adds in the same sequence."""
    if not len(values):
        return values
    return np.add.accumulate(values[::-1][:LIQUIDITY_BARS])[-1:]


def _newest_squares(values: Float64Array, mean: Float64Array) -> Float64Array:
    """(1, N) the last row of ``_trailing_squares``."""
    if not len(values):
        return values
    return np.add.accumulate(_square(values[::-1][:LIQUIDITY_BARS] - mean))[-1:]


def _square(deviation: Float64Array) -> Float64Array:
    return np.where(np.isfinite(deviation), deviation, 0.0) ** 2


def _usable(price: Float64Array) -> BoolArray:
    usable: BoolArray = np.isfinite(price) & (price > 0)
    return usable
