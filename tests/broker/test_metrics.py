"""Figures of merit, by hand."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import metrics

HOURS = 8760.0
PATH = np.array([0.10, -0.20, 0.05, 0.0])


def test_total_and_annual_return() -> None:
    """1.1 · 0.8 · 1.05 = 0.924; four bars of a year of eight: 0.924² − 1."""
    assert metrics.total_return(PATH) == pytest.approx(-0.076)
    assert metrics.annual_return(PATH, bars_per_year=8) == pytest.approx(0.924**2 - 1)


def test_sharpe_by_hand() -> None:
    """Returns 1, 2, 3 %: mean 2, sample deviation 1, so 2·√8760."""
    returns = np.array([0.01, 0.02, 0.03])
    assert metrics.sharpe(returns, bars_per_year=HOURS) == pytest.approx(2 * math.sqrt(HOURS))
    assert metrics.volatility(returns, bars_per_year=HOURS) == pytest.approx(
        0.01 * math.sqrt(HOURS)
    )


def test_sortino_counts_all_bars_in_the_downside() -> None:
    """Returns 3 and −1 %: mean 1, downside √(1/2), so √2 per bar."""
    returns = np.array([0.03, -0.01])
    assert metrics.sortino(returns, bars_per_year=4) == pytest.approx(math.sqrt(2) * 2)


def test_drawdown_is_from_the_peak() -> None:
    """From 1.1 to 0.88 is 20 %; a loss in the first bar counts from the start."""
    assert metrics.max_drawdown(PATH) == pytest.approx(0.2)
    assert metrics.max_drawdown(np.array([-0.3, 0.1])) == pytest.approx(0.3)
    assert metrics.calmar(PATH, bars_per_year=4) == pytest.approx(-0.076 / 0.2)


def test_hit_rate_and_turnover() -> None:
    """Two of three moves are gains; 0.5 per hour is 12 a day."""
    assert metrics.hit_rate(PATH) == pytest.approx(2 / 3)
    assert metrics.turnover_per_day(np.array([1.0, 0.0]), bars_per_year=HOURS) == pytest.approx(12)


def test_losing_everything_stays_lost() -> None:
    """A return of −100 % ends at −1, whatever follows, with a drawdown of 1."""
    ruined = np.array([0.1, -1.2, 5.0])
    assert metrics.total_return(ruined) == -1.0
    assert metrics.annual_return(ruined, bars_per_year=HOURS) == -1.0
    assert metrics.max_drawdown(ruined) == 1.0


def test_constant_returns_have_no_sharpe() -> None:
    """Equal returns differ by float noise only: no dispersion to divide by."""
    assert metrics.sharpe(np.full(1000, 0.1), bars_per_year=HOURS) == 0.0


@given(st.lists(st.floats(-2, 5) | st.just(math.nan), max_size=30))
def test_every_figure_is_always_defined(values: list[float]) -> None:
    """Empty, one value, NaN or ruin: every figure is a finite number, and NaN is left out."""
    returns = np.array(values, dtype=np.float64)
    whole = metrics.performance(returns, np.abs(returns), bars_per_year=HOURS)
    assert all(math.isfinite(value) for value in asdict(whole).values())
    known = returns[~np.isnan(returns)]
    assert whole == metrics.performance(known, np.abs(known), bars_per_year=HOURS)


def test_one_series_at_a_time() -> None:
    """A matrix is refused instead of being flattened."""
    with pytest.raises(ValueError, match="shape"):
        metrics.sharpe(np.zeros((2, 2)), bars_per_year=HOURS)
