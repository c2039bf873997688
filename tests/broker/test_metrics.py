"""Figures of merit, by hand."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import metrics
from broker.metrics import Drawdown, Record

HOURS = 8760.0
PATH = np.array([0.10, -0.20, 0.05, 0.0])
NOTHING = np.array([], dtype=np.float64)


def record(net_return: metrics.Float64Array) -> Record:
    """A record that trades what it earns and holds half of it."""
    return Record(net_return, np.abs(net_return), np.abs(net_return), net_return / 2)


def test_total_and_annual_return() -> None:
    """1.1 · 0.8 · 1.05 = 0.924; four bars of a year of eight: 0.924² − 1."""
    assert metrics.total_return(PATH) == pytest.approx(-0.076)
    assert metrics.annual_return(PATH, bars_per_year=8) == pytest.approx(0.924**2 - 1)


def test_returns_compound_to_the_equity() -> None:
    """One unit becomes 1.1, 0.88, 0.924, and stays so."""
    assert metrics.equity_curve(PATH) == pytest.approx([1, 1.1, 0.88, 0.924, 0.924])


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


def test_a_drawdown_lasts_until_it_is_made_good() -> None:
    """1 → 0.8 → 1 takes two bars, 1 → 0.9 → 0.9 → 1.008 three; the last one is still open."""
    returns = np.array([-0.2, 0.25, -0.1, 0.0, 0.12, -0.05, 0.01])
    assert tuple(metrics.deepest_drawdown(returns)) == pytest.approx((0.2, 2))
    assert tuple(metrics.longest_drawdown(returns)) == pytest.approx((0.1, 3))
    assert tuple(metrics.longest_drawdown(returns[5:])) == pytest.approx((0.05, 2))
    assert metrics.deepest_drawdown(np.array([0.1, 0.2])) == Drawdown(0.0, 0)


def test_hit_rate_and_turnover() -> None:
    """Two of three moves are gains; 0.5 per hour is 12 a day."""
    assert metrics.hit_rate(PATH) == pytest.approx(2 / 3)
    assert metrics.turnover_per_day(np.array([1.0, 0.0]), bars_per_year=HOURS) == pytest.approx(12)


def test_exposure_is_a_mean_over_known_bars() -> None:
    """Half invested, flat and unknown: a quarter."""
    assert metrics.mean_exposure(np.array([0.5, 0.0, math.nan])) == 0.25


def test_losing_everything_stays_lost() -> None:
    """A return of −100 % ends at −1, whatever follows, with a drawdown of 1."""
    ruined = np.array([0.1, -1.2, 5.0])
    assert metrics.total_return(ruined) == -1.0
    assert metrics.annual_return(ruined, bars_per_year=HOURS) == -1.0
    assert metrics.deepest_drawdown(ruined) == Drawdown(1.0, 2)


def test_what_a_record_does_not_define_is_not_a_number() -> None:
    """No dispersion, no loss, no drawdown, no move, no bar: NaN, and never 0 or infinity."""
    constant = np.full(1000, 0.1)
    assert math.isnan(metrics.sharpe(constant, bars_per_year=HOURS))
    assert math.isnan(metrics.sortino(constant, bars_per_year=HOURS))
    assert math.isnan(metrics.calmar(constant, bars_per_year=HOURS))
    assert math.isnan(metrics.volatility(np.array([0.1]), bars_per_year=HOURS))
    assert math.isnan(metrics.hit_rate(np.zeros(5)))


def test_an_empty_record_earned_and_lost_nothing() -> None:
    """Growth and drawdown are 0; whatever is a mean or a ratio is NaN."""
    found = asdict(metrics.performance(record(NOTHING), bars_per_year=HOURS))
    zero = {"bars", "total_return", "max_drawdown", "max_drawdown_bars", "longest_drawdown_bars"}
    assert {name for name, value in found.items() if value == 0} == zero
    assert all(math.isnan(value) for name, value in found.items() if name not in zero)


@given(st.lists(st.floats(-2, 5) | st.just(math.nan), max_size=30))
def test_no_figure_is_infinite_and_nan_is_left_out(values: list[float]) -> None:
    """Empty, one value, NaN or ruin: a number or NaN, the same as without the NaN bars."""
    returns = np.array(values, dtype=np.float64)
    whole = asdict(metrics.performance(record(returns), bars_per_year=HOURS))
    assert not any(math.isinf(value) for value in whole.values())
    known = asdict(metrics.performance(record(returns[~np.isnan(returns)]), bars_per_year=HOURS))
    assert whole == pytest.approx(known, rel=0, abs=0, nan_ok=True)


@given(st.lists(st.floats(-0.5, 0.5), min_size=1, max_size=40))
def test_drawdowns_agree_with_the_definition(values: list[float]) -> None:
    """The deepest fall is the largest over all pairs of bars, written as two loops."""
    returns = np.array(values)
    equity = [1.0]
    for value in values:
        equity.append(equity[-1] * (1 + value))
    falls = [1 - equity[j] / equity[i] for i in range(len(equity)) for j in range(i, len(equity))]
    assert metrics.max_drawdown(returns) == pytest.approx(max(falls), abs=1e-11)


def test_one_series_at_a_time() -> None:
    """A matrix is refused instead of being flattened."""
    with pytest.raises(ValueError, match="shape"):
        metrics.sharpe(np.zeros((2, 2)), bars_per_year=HOURS)
