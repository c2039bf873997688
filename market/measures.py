"""Quantities that several features share, each computed once per panel and only when asked for.

Owns returns, volatilities, the usual volume and who is Bitcoin; knows nothing of feature names or
bounds. It does no IO and, like all that features rest on, never looks ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from market.bar import bars_per_year
from market.edge_spread import edge_spread
from market.feature_spec import day_bars
from market.panel import Float64Array, Int64Array, Panel
from market.rolling import (
    lagged,
    log,
    mean_at_lags,
    newest_known,
    ratio,
    rolling_mean,
    root,
)

LONG_BARS = 168
SHORT_BARS = 24
PER_BP = 10_000.0
PER_MILLION = 1_000_000.0
_VOLUME_BARS = 240
_FEWEST_DAYS = 7
_SMOOTHING_BARS = 6
_SEASON_DAYS = 7
_BITCOIN = "BTC"


class Measures:
    """What the formulas read: (T, N) arrays of one panel, NaN where unknown."""

    def __init__(self, panel: Panel) -> None:
        """Hold ``panel``; nothing is computed yet."""
        self.panel = panel
        self._kept: dict[tuple[str, int], Float64Array] = {}

    def _once(self, name: str, bars: int, compute: Callable[[], Float64Array]) -> Float64Array:
        key = (name, bars)
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    @cached_property
    def log_open(self) -> Float64Array:
        """Logarithm of the open."""
        return log(self.panel.open)

    @cached_property
    def log_high(self) -> Float64Array:
        """Logarithm of the high."""
        return log(self.panel.high)

    @cached_property
    def log_low(self) -> Float64Array:
        """Logarithm of the low."""
        return log(self.panel.low)

    @cached_property
    def log_close(self) -> Float64Array:
        """Logarithm of the close."""
        return log(self.panel.close)

    @cached_property
    def returns(self) -> Float64Array:
        """r_t = ln(c_t/c_{t-1})."""
        return self.move(1)

    @cached_property
    def squared_range(self) -> Float64Array:
        """ln(h/l)²."""
        return (self.log_high - self.log_low) ** 2

    def move(self, bars: int) -> Float64Array:
        """ln(c_t/c_{t-bars})."""
        return self._once("move", bars, lambda: self.log_close - lagged(self.log_close, bars))

    def scaled_move(self, bars: int) -> Float64Array:
        """ln(c_t/c_{t-bars}) / (σ·sqrt bars)."""
        scale = self.volatility(LONG_BARS)
        return self._once("scaled", bars, lambda: self.move(bars) / (scale * np.sqrt(bars)))

    def volatility(self, bars: int) -> Float64Array:
        """σ_B = sqrt(mean r²), per bar."""
        return self._once("realised", bars, lambda: root(rolling_mean(self.returns**2, bars)))

    def parkinson(self, bars: int) -> Float64Array:
        """P_B = sqrt(mean ln(h/l)² / (4 ln 2)), per bar."""

        def compute() -> Float64Array:
            return root(rolling_mean(self.squared_range / (4.0 * np.log(2.0)), bars))

        return self._once("parkinson", bars, compute)

    def garman_klass(self, bars: int) -> Float64Array:
        """G_B = sqrt(mean of ½ ln(h/l)² − (2 ln 2 − 1) ln(c/o)²), per bar."""

        def compute() -> Float64Array:
            body = (self.log_close - self.log_open) ** 2
            variance = 0.5 * self.squared_range - (2.0 * np.log(2.0) - 1.0) * body
            return root(rolling_mean(variance, bars))

        return self._once("garman_klass", bars, compute)

    def log_annual(self, volatility: Float64Array) -> Float64Array:
        """ln(volatility·sqrt(bars per year))."""
        return log(volatility * np.sqrt(bars_per_year(self.panel.interval_ms)))

    def unusual(self, field: str) -> Float64Array:
        """u(x) = ln x less the mean of ln x at the same time of day over the 240 bars before.

        Where fewer than 7 days fit into 240 bars it is less the mean of all of them.
        """
        values = log(getattr(self.panel, field))
        lags = _usual_lags(self.panel.interval_ms)
        return self._once(field, _VOLUME_BARS, lambda: values - mean_at_lags(values, lags))

    def surprise(self, field: str) -> Float64Array:
        """Mean of u(x) over 6 bars."""
        return self._once(
            field, _SMOOTHING_BARS, lambda: rolling_mean(self.unusual(field), _SMOOTHING_BARS)
        )

    def seasonal(self, values: Float64Array) -> Float64Array:
        """Mean over 6 bars of s(x) = ln x less its mean at the same time on the 7 days before."""
        day = day_bars(self.panel.interval_ms)
        logs = log(values)
        usual = mean_at_lags(logs, range(day, _SEASON_DAYS * day + 1, day))
        return rolling_mean(logs - usual, _SMOOTHING_BARS)

    @cached_property
    def trade_size(self) -> Float64Array:
        """q/n, quote currency per trade."""
        trades = self.panel.trades
        return ratio(self.panel.quote_volume, trades, where=trades > 0)

    @cached_property
    def taker_imbalance_24(self) -> Float64Array:
        """2Σb/Σv − 1 over the bars of 24 where both are known."""
        bought, volume = self.panel.taker_buy_volume, self.panel.volume
        both = np.isfinite(bought) & np.isfinite(volume)
        total = rolling_mean(np.where(both, volume, np.nan), SHORT_BARS)
        part = rolling_mean(np.where(both, bought, np.nan), SHORT_BARS)
        return 2.0 * ratio(part, total, where=total > 0) - 1.0

    def illiquidity(self, bars: int) -> Float64Array:
        """Logarithm of A_B, A_B = mean |r|/q in basis points per million of quote currency."""

        def compute() -> Float64Array:
            volume = self.panel.quote_volume
            price_impact = ratio(np.abs(self.returns), volume, where=volume > 0)
            return log(rolling_mean(price_impact, bars) * (PER_BP * PER_MILLION))

        return self._once("illiquidity", bars, compute)

    @cached_property
    def edge_spread(self) -> Float64Array:
        """EDGE over 168 bars, a fraction of the price."""
        return edge_spread(self.log_open, self.log_high, self.log_low, self.log_close, LONG_BARS)

    @cached_property
    def basis(self) -> Float64Array:
        """Mark close / close − 1, basis points."""
        return (self.panel.mark_close / self.panel.close - 1.0) * PER_BP

    @cached_property
    def settlement_gaps(self) -> tuple[Float64Array, Float64Array]:
        """Bars since the bar of the last settlement, and bars between the last two such bars.

        NaN unless the last three settlements lie within ``3 + 2 days`` of bars, equally far
        apart, and the next one by that rhythm is not overdue: where the venue's rhythm cannot be
        read from what it settled, none is assumed.
        """
        newest = newest_known(self.panel.funding_rate)
        second = _row_before(newest, newest)
        third = _row_before(newest, second)
        row = np.arange(len(newest))[:, None]
        window = 3 + 2 * day_bars(self.panel.interval_ms)
        age, gap = row - newest, newest - second
        regular = (third >= 0) & (row - third < window) & (gap == second - third) & (age < gap)
        return np.where(regular, age, np.nan), np.where(regular, gap, np.nan)

    @cached_property
    def bitcoin_returns(self) -> Float64Array:
        """(T, 1) r of the first symbol whose base is BTC; NaN where there is none."""
        return self.bitcoin_move(1)

    def bitcoin_move(self, bars: int) -> Float64Array:
        """(T, 1) ln(c_t/c_{t-bars}) of Bitcoin; NaN where the panel has none."""
        asset = _bitcoin(self.panel.symbols)
        move = self.move(bars)
        return np.full((len(move), 1), np.nan) if asset is None else move[:, asset : asset + 1]

    @cached_property
    def _products(self) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Means over 168 bars of r·r_BTC, r_BTC² and r², where both returns are known."""
        own, bitcoin = self.returns, self.bitcoin_returns
        shared = own * bitcoin
        both = np.isfinite(shared)
        pairs = (shared, bitcoin**2, own**2)
        first, second, third = (
            rolling_mean(np.where(both, values, np.nan), LONG_BARS) for values in pairs
        )
        return first, second, third

    @cached_property
    def beta(self) -> Float64Array:
        """Σ r·r_BTC / Σ r_BTC² over 168 bars: the slope through the origin, as σ is zero-mean."""
        shared, bitcoin, _own = self._products
        return ratio(shared, bitcoin, where=bitcoin > 0)

    @cached_property
    def bitcoin_correlation(self) -> Float64Array:
        """Σ r·r_BTC / sqrt(Σ r²·Σ r_BTC²) over 168 bars."""
        shared, bitcoin, own = self._products
        scale = root(bitcoin) * root(own)
        return ratio(shared, scale, where=scale > 0)


def _usual_lags(interval_ms: int) -> Sequence[int]:
    """Lags, in bars, whose mean is the usual volume of the present bar."""
    day = day_bars(interval_ms)
    step = day if day * _FEWEST_DAYS <= _VOLUME_BARS else 1
    return range(step, _VOLUME_BARS + 1, step)


def _row_before(newest: Int64Array, row: Int64Array) -> Int64Array:
    """Row of the newest known value strictly before ``row``; -1 where there is none."""
    earlier = np.take_along_axis(newest, np.maximum(row - 1, 0), axis=0)
    return np.where(row > 0, earlier, -1)


def _bitcoin(symbols: Sequence[str]) -> int | None:
    """Place of the first symbol whose base is BTC."""
    for asset, symbol in enumerate(symbols):
        if symbol.split("/")[0] == _BITCOIN:
            return asset
    return None
