"""How well an account did, from its net returns per bar. Pure numpy; a year has 365 days.

Returns that are NaN are left out. A figure that its record does not define (a ratio without
anything to divide by, a mean of nothing) is NaN, never 0, which would be a statement, and never
infinite. Growth and drawdown of an empty record are 0: nothing was earned and nothing lost. How
much evidence stands behind a figure is for the caller to ask: ``Performance.bars`` says how many
returns there were.

The ratios are those of Bacon (2023), "Practical Portfolio Performance Measurement and
Attribution", 3rd ed.; each function names the paper it comes from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]

_MAX_EXPONENT = 300.0
"""Growth is cut at e^300: a year made of one lucky bar must still be a number."""
_NOISE = 1e-12
"""A drawdown below this, or a deviation below this fraction of the largest return, is none."""


class Record(NamedTuple):
    """What is known of an account at T decisions, each (T,) and NaN where it is not known.

    Attributes:
        net_return: fraction of equity earned in the bar, after all costs.
        turnover: traded notional over equity in the bar, both sides.
        gross_exposure: Σ|weight| held at the end of the bar, before trading.
        net_exposure: Σ weight.
    """

    net_return: Float64Array
    turnover: Float64Array
    gross_exposure: Float64Array
    net_exposure: Float64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """Figures of one record; NaN where the record does not define one.

    Attributes:
        bars: returns that were not NaN.
        total_return, annual_return, volatility: fractions, the last two per 365-day year.
        max_drawdown: largest fall from a peak, a fraction in [0, 1].
        max_drawdown_bars: from that peak until the equity was back at it, or until the end.
        longest_drawdown_bars: the most bars between a peak and the return to it, or the end.
        hit_rate: fraction of the returns other than 0 that are positive.
        turnover_per_day: traded notional over equity, both sides, per day.
        gross_exposure, net_exposure: means over the bars, fractions of equity.
    """

    bars: int
    total_return: float
    annual_return: float
    volatility: float
    sharpe: float
    sortino: float
    calmar: float
    max_drawdown: float
    max_drawdown_bars: int
    longest_drawdown_bars: int
    hit_rate: float
    turnover_per_day: float
    gross_exposure: float
    net_exposure: float


class Drawdown(NamedTuple):
    """One fall of the equity: its depth as a fraction, and the bars until it was made good.

    A fall that is not made good lasts until the end of the record.
    """

    depth: float
    bars: int


def performance(record: Record, *, bars_per_year: float) -> Performance:
    """Return every figure of a record.

    Args:
        record: (T,) each.
        bars_per_year: bars in a 365-day year, 8760 for hours.

    Raises:
        ValueError: an array does not have exactly one axis.
    """
    net_returns = record.net_return
    deepest = deepest_drawdown(net_returns)
    return Performance(
        bars=len(_known(net_returns)),
        total_return=total_return(net_returns),
        annual_return=annual_return(net_returns, bars_per_year=bars_per_year),
        volatility=volatility(net_returns, bars_per_year=bars_per_year),
        sharpe=sharpe(net_returns, bars_per_year=bars_per_year),
        sortino=sortino(net_returns, bars_per_year=bars_per_year),
        calmar=calmar(net_returns, bars_per_year=bars_per_year),
        max_drawdown=deepest.depth,
        max_drawdown_bars=deepest.bars,
        longest_drawdown_bars=longest_drawdown(net_returns).bars,
        hit_rate=hit_rate(net_returns),
        turnover_per_day=turnover_per_day(record.turnover, bars_per_year=bars_per_year),
        gross_exposure=mean_exposure(record.gross_exposure),
        net_exposure=mean_exposure(record.net_exposure),
    )


def equity_curve(net_returns: Float64Array) -> Float64Array:
    """Compound returns (T,) to the equity (K + 1,) of one unit, K of them being known.

    ``E₀ = 1, E_t = E_{t−1}·(1 + r_t)``; it stays at 0 once everything is lost.
    """
    growth = np.maximum(1.0 + _known(net_returns), 0.0)
    return np.concatenate(([1.0], np.cumprod(growth)))


def total_return(net_returns: Float64Array) -> float:
    """Compounded return ``Π(1 + r) − 1``; −1 once everything is lost."""
    growth = _log_growth(net_returns)
    return math.expm1(min(growth, _MAX_EXPONENT))


def annual_return(net_returns: Float64Array, *, bars_per_year: float) -> float:
    """Geometric return per year, ``(1 + total)^(bars per year / bars) − 1``; NaN without bars.

    A record shorter than a year is extrapolated, which GIPS (2020) forbids in a presentation:
    show ``total_return`` beside it.
    """
    bars = len(_known(net_returns))
    if bars == 0:
        return math.nan
    yearly = _log_growth(net_returns) * bars_per_year / bars
    return math.expm1(min(yearly, _MAX_EXPONENT))


def volatility(net_returns: Float64Array, *, bars_per_year: float) -> float:
    """Sample standard deviation of returns per bar times √(bars per year); NaN below two bars.

    The square root takes returns as uncorrelated (Lo 2002, "The statistics of Sharpe ratios").
    """
    return _deviation(_known(net_returns)) * math.sqrt(bars_per_year)


def sharpe(net_returns: Float64Array, *, bars_per_year: float) -> float:
    """Annual Sharpe ratio against cash at 0, ``mean/std·√(bars per year)``; NaN if std is 0.

    Sharpe (1994), "The Sharpe ratio", with the sample deviation; annualised as ``volatility``.
    """
    known = _known(net_returns)
    return _ratio(_mean(known), _deviation(known)) * math.sqrt(bars_per_year)


def sortino(net_returns: Float64Array, *, bars_per_year: float) -> float:
    """Mean over downside deviation about 0, times √(bars per year); NaN without a loss.

    The downside deviation is ``√(mean of min(r, 0)²)`` over all returns, not over losses alone
    (Sortino & Price 1994, "Performance measurement in a downside risk framework").
    """
    known = _known(net_returns)
    downside = math.sqrt(float(np.mean(np.minimum(known, 0.0) ** 2))) if len(known) else 0.0
    return _ratio(_mean(known), downside if downside >= _NOISE else 0.0) * math.sqrt(bars_per_year)


def calmar(net_returns: Float64Array, *, bars_per_year: float) -> float:
    """Annual return over the largest drawdown of the record; NaN without a drawdown.

    Young (1991), "Calmar ratio: a smoother tool", over the whole record instead of 36 months.
    """
    fall = max_drawdown(net_returns)
    annual = annual_return(net_returns, bars_per_year=bars_per_year)
    return _ratio(annual, fall if fall >= _NOISE else 0.0)


def max_drawdown(net_returns: Float64Array) -> float:
    """Largest fall of the compounded equity from its peak so far, a fraction in [0, 1].

    ``max_t (1 − E_t / max_{s ≤ t} E_s)``; Magdon-Ismail & Atiya (2004), "Maximum drawdown".
    """
    return deepest_drawdown(net_returns).depth


def deepest_drawdown(net_returns: Float64Array) -> Drawdown:
    """Return the largest fall (the first of equals); depth 0 and no bars where nothing fell."""
    falls = _drawdowns(net_returns)
    return max(falls, key=lambda fall: fall.depth, default=Drawdown(0.0, 0))


def longest_drawdown(net_returns: Float64Array) -> Drawdown:
    """Return the fall that took longest to be made good (the first of equals)."""
    falls = _drawdowns(net_returns)
    return max(falls, key=lambda fall: fall.bars, default=Drawdown(0.0, 0))


def hit_rate(net_returns: Float64Array) -> float:
    """Fraction of positive returns among those that are not 0; NaN where all are.

    The batting average of Bacon (2023) against a benchmark of 0.
    """
    known = _known(net_returns)
    return _mean((known[known != 0] > 0).astype(np.float64))


def turnover_per_day(turnover: Float64Array, *, bars_per_year: float) -> float:
    """Mean of ``Σ|traded|/equity`` per bar times bars per day; cash is not counted.

    Trades are measured against the drifted holdings (DeMiguel, Garlappi & Uppal 2009).
    """
    return _mean(_known(turnover)) * bars_per_year / 365.0


def mean_exposure(exposure: Float64Array) -> float:
    """Mean of an exposure (T,) over the bars where it is known; NaN where it never is."""
    return _mean(_known(exposure))


def _drawdowns(net_returns: Float64Array) -> list[Drawdown]:
    """Every fall from a peak, in order: from the bar of the peak to the first one back at it."""
    equity = equity_curve(net_returns)
    peak = np.maximum.accumulate(equity)
    depth = np.maximum(1.0 - equity / peak, 0.0)
    below = np.concatenate(([False], depth >= _NOISE, [False])).astype(np.int8)
    edges = np.diff(below)
    starts = map(int, np.flatnonzero(edges == 1))
    stops = map(int, np.flatnonzero(edges == -1))
    last = len(equity) - 1
    return [
        Drawdown(float(depth[start:stop].max()), min(stop, last) - (start - 1))
        for start, stop in zip(starts, stops, strict=True)
    ]


def _one_axis(values: Float64Array) -> None:
    if values.ndim != 1:
        raise ValueError(f"expected one value per bar, (T,), got shape {values.shape}")


def _known(values: Float64Array) -> Float64Array:
    _one_axis(values)
    return values[~np.isnan(values)]


def _mean(known: Float64Array) -> float:
    return float(known.mean()) if len(known) else math.nan


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else math.nan


def _deviation(known: Float64Array) -> float:
    """Sample standard deviation; NaN below two returns, 0 when they differ by float noise only."""
    if len(known) < 2:
        return math.nan
    deviation = float(np.std(known, ddof=1))
    return deviation if deviation > _NOISE * float(np.max(np.abs(known))) else 0.0


def _log_growth(net_returns: Float64Array) -> float:
    """Return Σ log(1 + r), −∞ once a return is −100 % or less."""
    known = _known(net_returns)
    if np.any(known <= -1.0):
        return -math.inf
    return float(np.sum(np.log1p(known)))
