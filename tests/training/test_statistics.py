"""Sharpe statistics against published and hand-computed figures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from broker import metrics
from training.statistics import (
    annual_sharpe,
    annual_sharpe_standard_error,
    kurtosis,
    probabilistic_sharpe,
    probabilistic_sharpe_of,
    sharpe_per_bar,
    sharpe_standard_error,
    skewness,
    total_return,
)


def test_sharpe_by_hand() -> None:
    """Mean 2, deviations −1, 0, 1: standard deviation 1 with divisor T − 1, ratio 2."""
    assert sharpe_per_bar(np.array([1.0, 2.0, 3.0])) == pytest.approx(2.0)
    assert annual_sharpe(np.array([1.0, 2.0, 3.0]), 25.0) == pytest.approx(10.0)


def test_moments_by_hand() -> None:
    """Of (0, 0, 0, 1): m2 = 3/16, m3 = 3/32, m4 = 21/256, so skew 2/sqrt(3) and kurtosis 7/3."""
    record = np.array([0.0, 0.0, 0.0, 1.0])
    assert skewness(record) == pytest.approx(2 / math.sqrt(3))
    assert kurtosis(record) == pytest.approx(7 / 3)


def test_probabilistic_sharpe_of_the_paper() -> None:
    """Bailey & López de Prado (2012), 24 months at 0.458: 0.982 if normal, 0.913 as observed."""
    normal = probabilistic_sharpe_of(0.458, bars=24, skew=0.0, kurt=3.0)
    observed = probabilistic_sharpe_of(0.458, bars=24, skew=-2.448, kurt=10.164)
    assert normal == pytest.approx(0.982, abs=1e-3)
    assert observed == pytest.approx(0.913, abs=1e-3)


def test_probabilistic_sharpe_against_the_normal_table() -> None:
    """With normal moments and S = 0.1 over 401 bars, z = 0.1·20/sqrt(1.005) = 1.99501."""
    value = probabilistic_sharpe_of(0.1, bars=401, skew=0.0, kurt=3.0)
    assert value == pytest.approx(0.5 * (1 + math.erf(1.995010 / math.sqrt(2))), abs=1e-6)


def test_probability_is_one_half_at_the_benchmark() -> None:
    """A record whose ratio equals the benchmark is as likely above as below it."""
    record = np.random.default_rng(1).normal(0.01, 0.1, 500)
    value = probabilistic_sharpe(record, benchmark_per_bar=sharpe_per_bar(record))
    assert value == pytest.approx(0.5)


def test_standard_error_matches_simulation() -> None:
    """The stated error is the spread of the estimate over many independent records."""
    rng = np.random.default_rng(2)
    records = rng.normal(0.05, 1.0, (2_000, 400))
    spread = float(np.std([sharpe_per_bar(record) for record in records]))
    assert sharpe_standard_error(records[0]) == pytest.approx(spread, rel=0.1)
    annual = annual_sharpe_standard_error(records[0], 100.0)
    assert annual == pytest.approx(10 * sharpe_standard_error(records[0]))


@pytest.mark.parametrize(
    "record",
    [[], [0.01], [0.0, 0.0, 0.0], [0.001] * 50, [0.01, math.nan, 0.02]],
    ids=["empty", "one bar", "cash", "constant", "nan"],
)
def test_undefined_is_nan(record: list[float]) -> None:
    """Where no ratio is defined every statistic is NaN, so that no gate can pass on it."""
    returns = np.array(record)
    assert math.isnan(sharpe_per_bar(returns))
    assert math.isnan(probabilistic_sharpe(returns))
    assert math.isnan(sharpe_standard_error(returns))


def test_total_return_compounds() -> None:
    """+10 % and then −10 % is −1 %; no bars are no evidence; a NaN stays a NaN."""
    assert total_return(np.array([0.1, -0.1])) == pytest.approx(-0.01)
    assert math.isnan(total_return(np.array([])))
    assert math.isnan(total_return(np.array([0.1, math.nan])))


def test_the_display_agrees_where_both_are_defined() -> None:
    """On a clean record the account's own figures are the same numbers."""
    record = np.random.default_rng(3).normal(0.001, 0.01, 300)
    assert annual_sharpe(record, 8_760.0) == pytest.approx(
        metrics.sharpe(record, bars_per_year=8_760.0)
    )
    assert total_return(record) == pytest.approx(metrics.total_return(record))
