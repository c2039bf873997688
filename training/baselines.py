"""What anybody could have done without learning: the yardsticks of every backtest.

Each baseline is a pure, causal function of the whole panel: row t of its plan uses bars up to t
only. It states target weights and when it trades; costs, rounding and funding are charged by the
same evaluation as the policy's. A baseline is never leveraged: its weights sum to at most 1.

=================  ==================================================  =================
baseline           target                                              trades
=================  ==================================================  =================
cash               nothing                                             never
buy_and_hold       1/N each                                            at the start only
equal_weight       1/N each                                            daily, 00:00 UTC
inverse_volatility 1/σ over 168 bars, normalised (Risk parity without  daily, 00:00 UTC
                   correlations: Maillard, Roncalli, Teïletche 2010)
momentum           1/N each in the assets whose return over 672 bars   daily, 00:00 UTC
                   is above zero (time-series momentum: Moskowitz,
                   Ooi, Pedersen 2012)
=================  ==================================================  =================

N counts the assets that have a bar; every baseline also trades at the first bar it is run on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from market.bar import DAY_MS
from market.panel import BoolArray, Float64Array, Panel

VOLATILITY_BARS = 168
MOMENTUM_BARS = 672


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """What a rule wants after every bar.

    Attributes:
        target: (T, N) risky weights wanted at the close of each bar, finite.
        trades: (T,) whether it trades toward them at that close; otherwise it holds.
    """

    target: Float64Array
    trades: BoolArray

    def __post_init__(self) -> None:
        if self.target.ndim != 2 or self.trades.shape != self.target.shape[:1]:
            raise ValueError(f"plan shapes differ: {self.target.shape}, {self.trades.shape}")
        if not np.isfinite(self.target).all():
            raise ValueError("a plan's target weights must be finite")


Baseline = Callable[[Panel], Plan]


def cash(panel: Panel) -> Plan:
    """Hold nothing."""
    return Plan(target=np.zeros(panel.close.shape), trades=np.zeros(len(panel), dtype=np.bool_))


def buy_and_hold(panel: Panel) -> Plan:
    """Buy equal weights once and let them drift."""
    return Plan(target=_equal(panel.observed), trades=np.zeros(len(panel), dtype=np.bool_))


def equal_weight(panel: Panel) -> Plan:
    """Return to equal weights every day."""
    return Plan(target=_equal(panel.observed), trades=_daily(panel))


def inverse_volatility(panel: Panel) -> Plan:
    """Weights in proportion to 1/σ; equal weights while σ is not known."""
    volatility = _trailing_volatility(panel.close)
    known = panel.observed & np.isfinite(volatility) & (volatility > 0)
    inverse = np.divide(1.0, volatility, out=np.zeros_like(volatility), where=known)
    total = inverse.sum(axis=1, keepdims=True)
    shares = np.divide(inverse, total, out=_equal(panel.observed), where=total > 0)
    return Plan(target=shares, trades=_daily(panel))


def momentum(panel: Panel) -> Plan:
    """Equal slots, filled where the trailing return is above zero, else cash."""
    past = np.full(panel.close.shape, np.nan)
    past[MOMENTUM_BARS:] = panel.close[:-MOMENTUM_BARS] if len(panel) > MOMENTUM_BARS else np.nan
    with np.errstate(invalid="ignore"):
        rising = panel.close > past
    return Plan(target=_equal(panel.observed) * rising, trades=_daily(panel))


BASELINES: Mapping[str, Baseline] = {
    "cash": cash,
    "buy_and_hold": buy_and_hold,
    "equal_weight": equal_weight,
    "inverse_volatility": inverse_volatility,
    "momentum": momentum,
}


def _equal(observed: BoolArray) -> Float64Array:
    """(T, N) 1/n in each of the n assets that have a bar."""
    count = observed.sum(axis=1, keepdims=True)
    shares: Float64Array = observed / np.maximum(count, 1)
    return shares


def _daily(panel: Panel) -> BoolArray:
    """(T,) whether the bar closes at midnight UTC."""
    midnight: BoolArray = panel.close_time % DAY_MS == 0
    return midnight


def _trailing_volatility(close: Float64Array) -> Float64Array:
    """(T, N) root mean square of the last ``VOLATILITY_BARS`` log returns; NaN if any is missing.

    Summed over an explicit window rather than as a running total, so that the figure does not
    depend on where the history starts.
    """
    volatility = np.full(close.shape, np.nan)
    if len(close) <= VOLATILITY_BARS:
        return volatility
    squares = np.diff(np.log(close), axis=0) ** 2
    windows = np.lib.stride_tricks.sliding_window_view(squares, VOLATILITY_BARS, axis=0)
    volatility[VOLATILITY_BARS:] = np.sqrt(windows.mean(axis=-1))
    return volatility
