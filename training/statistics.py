"""What a record of returns proves: Sharpe ratios, their errors and probabilities.

Pure functions over (T,) per-bar net returns. A statistic that is not defined for its input
(too few bars, no variation, a NaN in the record) is NaN, never a number that could pass a gate;
``broker.metrics``, which describes an account for display, leaves such bars out instead.

Sources: Lo (2002), "The statistics of Sharpe ratios"; Mertens (2002), "Comments on variance of
the IID estimator in Lo"; Bailey & López de Prado (2012), "The Sharpe ratio efficient frontier".
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from market.panel import Float64Array

_NORMAL = NormalDist()

NO_VARIATION = 1e-12
"""Standard deviations at or below this, per bar, are rounding noise of a constant record."""


def sharpe_per_bar(returns: Float64Array) -> float:
    """Mean over standard deviation (divisor T − 1) of per-bar returns (T,); NaN if undefined."""
    record = _vector(returns)
    if len(record) < 2:
        return math.nan
    deviation = float(np.std(record, ddof=1))
    if not deviation > NO_VARIATION:
        return math.nan
    return float(np.mean(record)) / deviation


def annual_sharpe(returns: Float64Array, bars_per_year: float) -> float:
    """Per-bar Sharpe ratio times sqrt(bars per year): returns taken as uncorrelated."""
    return sharpe_per_bar(returns) * math.sqrt(bars_per_year)


def skewness(returns: Float64Array) -> float:
    """Third standardised moment, population form; 0 for a normal record."""
    return _standardised_moment(returns, 3)


def kurtosis(returns: Float64Array) -> float:
    """Fourth standardised moment, population form, **not** excess; 3 for a normal record."""
    return _standardised_moment(returns, 4)


def sharpe_standard_error(returns: Float64Array) -> float:
    """Standard error of the per-bar Sharpe ratio under non-normal returns.

    ``sqrt((1 − γ₃·S + (γ₄ − 1)/4·S²) / (T − 1))``, Bailey & López de Prado (2012), eq. 8.
    """
    ratio = sharpe_per_bar(returns)
    return _standard_error(ratio, len(returns), skewness(returns), kurtosis(returns))


def annual_sharpe_standard_error(returns: Float64Array, bars_per_year: float) -> float:
    """Standard error of ``annual_sharpe``."""
    return sharpe_standard_error(returns) * math.sqrt(bars_per_year)


def probabilistic_sharpe(returns: Float64Array, *, benchmark_per_bar: float = 0.0) -> float:
    """Probability that the true per-bar Sharpe ratio exceeds ``benchmark_per_bar``.

    ``Φ((S − S*)·sqrt(T − 1) / sqrt(1 − γ₃·S + (γ₄ − 1)/4·S²))``, Bailey & López de Prado (2012),
    eq. 11.
    """
    ratio = sharpe_per_bar(returns)
    return probabilistic_sharpe_of(
        ratio,
        bars=len(returns),
        skew=skewness(returns),
        kurt=kurtosis(returns),
        benchmark_per_bar=benchmark_per_bar,
    )


def probabilistic_sharpe_of(
    ratio: float, *, bars: int, skew: float, kurt: float, benchmark_per_bar: float = 0.0
) -> float:
    """The same from the moments of a record; ``kurt`` is not excess."""
    error = _standard_error(ratio, bars, skew, kurt)
    if not (math.isfinite(ratio) and error > 0):
        return math.nan
    return _NORMAL.cdf((ratio - benchmark_per_bar) / error)


def total_return(returns: Float64Array) -> float:
    """Compounded return of the whole record, as a fraction; NaN for an empty record."""
    record = _vector(returns)
    if not len(record):
        return math.nan
    return float(np.prod(1.0 + record)) - 1.0


def _standard_error(ratio: float, bars: int, skew: float, kurt: float) -> float:
    variance = 1.0 - skew * ratio + (kurt - 1.0) / 4.0 * ratio**2
    if bars < 2 or not variance > 0:
        return math.nan
    return math.sqrt(variance / (bars - 1))


def _standardised_moment(returns: Float64Array, order: int) -> float:
    record = _vector(returns)
    if len(record) < 2:
        return math.nan
    centred = record - np.mean(record)
    deviation = math.sqrt(float(np.mean(centred**2)))
    if not deviation > NO_VARIATION:
        return math.nan
    return float(np.mean(centred**order)) / deviation**order


def _vector(returns: Float64Array) -> Float64Array:
    if returns.ndim != 1:
        raise ValueError(f"a record of returns has one axis, got shape {returns.shape}")
    return returns
