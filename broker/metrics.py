"""How well an account did, from its net returns per bar. Pure numpy; a year has 365 days.

Every figure is defined for every input: returns that are NaN are left out, and where a figure has
no value (no returns, no dispersion, no loss to divide by) it is 0. How much evidence stands behind
a figure is for the caller to ask: ``Performance.bars`` says how many returns there were.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]

_MAX_EXPONENT = 300.0
"""Growth is cut at e^300: a year made of one lucky bar must still be a number."""
_NOISE = 1e-12
"""A drawdown below this, or a deviation below this fraction of the largest return, is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """Figures of one record of net returns.

    Attributes:
        bars: returns that were not NaN.
        total_return, annual_return, volatility: fractions, the last two per 365-day year.
        max_drawdown: largest fall from a peak, a fraction in [0, 1].
        hit_rate: fraction of the returns other than 0 that are positive.
        turnover_per_day: traded notional over equity, both sides, per day.
    """

    bars: int
    total_return: float
    annual_return: float
    volatility: float
    sharpe: float
    sortino: float
    calmar: float
    max_drawdown: float
    hit_rate: float
    turnover_per_day: float


def performance(
    net_returns: Float64Array, turnover: Float64Array, *, bars_per_year: float
) -> Performance:
    """Return every figure of a record.

    Args:
        net_returns: (T,) fraction of equity earned per bar after all costs.
        turnover: (T,) or (0,) traded notional over equity per bar.
        bars_per_year: bars in a 365-day year, 8760 for hours.
    """
    return Performance(
        bars=len(_known(net_returns)),
        total_return=total_return(net_returns),
        annual_return=annual_return(net_returns, bars_per_year=bars_per_year),
        volatility=volatility(net_returns, bars_per_year=bars_per_year),
        sharpe=sharpe(net_returns, bars_per_year=bars_per_year),
        sortino=sortino(net_returns, bars_per_year=bars_per_year),
        calmar=calmar(net_returns, bars_per_year=bars_per_year),
        max_drawdown=max_drawdown(net_returns),
        hit_rate=hit_rate(net_returns),
        turnover_per_day=turnover_per_day(turnover, bars_per_year=bars_per_year),
    )


def total_return(net_returns: Float64Array) -> float:
    """Compounded return ``Π(1 + r) − 1``; −1 once everything is lost."""
    growth = _log_growth(net_returns)
    return math.expm1(min(growth, _MAX_EXPONENT))


def annual_return(net_returns: Float64Array, *, bars_per_year: float) -> float:
    """Geometric return per year, ``(1 + total)^(bars per year / bars) − 1``."""
    bars = len(_known(net_returns))
    if bars == 0:
        return 0.0
    yearly = _log_growth(net_returns) * bars_per_year / bars
    return math.expm1(min(yearly, _MAX_EXPONENT))


def volatility(net_returns: Float64Array, *, bars_per_year: float) -> float:
    """Sample standard deviation of returns per bar times √(bars per year)."""
    return _deviation(_known(net_returns)) * math.sqrt(bars_per_year)


def sharpe(net_returns: Float64Array, *, bars_per_year: float) -> float:
    """Annual Sharpe ratio against cash at 0: mean/std·√(bars per year) (Sharpe 1994)."""
    known = _known(net_returns)
    deviation = _deviation(known)
    if deviation == 0:
        return 0.0
    return float(known.mean()) / deviation * math.sqrt(bars_per_year)


def sortino(net_returns: Float64Array, *, bars_per_year: float) -> float:
    """Mean over downside deviation about 0, annual (Sortino & Price 1994).

    The downside deviation is ``√(mean of min(r, 0)²)`` over all returns, not over losses alone.
    """
    known = _known(net_returns)
    downside = math.sqrt(float(np.mean(np.minimum(known, 0.0) ** 2))) if len(known) else 0.0
    if downside < _NOISE:
        return 0.0
    return float(known.mean()) / downside * math.sqrt(bars_per_year)


def calmar(net_returns: Float64Array, *, bars_per_year: float) -> float:
    """Annual return over the largest drawdown (Young 1991)."""
    fall = max_drawdown(net_returns)
    if fall < _NOISE:
        return 0.0
    return annual_return(net_returns, bars_per_year=bars_per_year) / fall


def max_drawdown(net_returns: Float64Array) -> float:
    """Largest fall of the compounded equity from its peak so far, a fraction in [0, 1]."""
    known = _known(net_returns)
    if len(known) == 0:
        return 0.0
    equity = np.concatenate(([1.0], np.cumprod(np.maximum(1.0 + known, 0.0))))
    return float(np.max(1.0 - equity / np.maximum.accumulate(equity)))


def hit_rate(net_returns: Float64Array) -> float:
    """Fraction of positive returns among those that are not 0."""
    known = _known(net_returns)
    moved = known[known != 0]
    return float(np.mean(moved > 0)) if len(moved) else 0.0


def turnover_per_day(turnover: Float64Array, *, bars_per_year: float) -> float:
    """Mean traded notional over equity per bar times bars per day; cash is not counted."""
    known = _known(turnover)
    return float(known.mean()) * bars_per_year / 365.0 if len(known) else 0.0


def _known(values: Float64Array) -> Float64Array:
    if values.ndim != 1:
        raise ValueError(f"expected one value per bar, (T,), got shape {values.shape}")
    return values[~np.isnan(values)]


def _deviation(known: Float64Array) -> float:
    """Sample standard deviation; 0 below two returns or when they differ by float noise only."""
    if len(known) < 2:
        return 0.0
    deviation = float(np.std(known, ddof=1))
    return deviation if deviation > _NOISE * float(np.max(np.abs(known))) else 0.0


def _log_growth(net_returns: Float64Array) -> float:
    """Return Σ log(1 + r), −∞ once a return is −100 % or less."""
    known = _known(net_returns)
    if np.any(known <= -1.0):
        return -math.inf
    return float(np.sum(np.log1p(known)))
