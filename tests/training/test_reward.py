"""Reward formulas against figures worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training.reward import (
    SharpeMoments,
    differential_sharpe,
    hurdle_reward,
    log_reward,
    variance_reward,
)


def test_hurdle_reward_by_hand() -> None:
    """1 % gross, 0.1 % cost, σ 2 %, λ 0.005: 0.01 − 0.001 − 0.0001."""
    reward = hurdle_reward(
        np.array([0.01]), np.array([0.001]), np.array([0.02]), lambda_per_bar=0.005
    )
    assert reward[0] == pytest.approx(0.0089, abs=1e-15)


def test_hurdle_reward_is_homogeneous_in_the_risky_weight() -> None:
    """Twice the exposure has twice the return, cost and σ, hence twice the reward."""
    one = np.array([0.01]), np.array([0.001]), np.array([0.02])
    two = tuple(2 * part for part in one)
    single = hurdle_reward(*one, lambda_per_bar=0.005)
    double = hurdle_reward(two[0], two[1], two[2], lambda_per_bar=0.005)
    np.testing.assert_allclose(double, 2 * single)


def test_variance_reward_by_hand() -> None:
    """R = 2 %, γ = 10: 0.02 − 5·0.0004 = 0.018."""
    assert variance_reward(np.array([0.02]), risk_aversion=10.0)[0] == pytest.approx(0.018)


def test_log_reward_is_finite_at_ruin() -> None:
    """ln(1.1) for +10 %; a loss of everything counts as one of 99.9 %."""
    reward = log_reward(np.array([0.1, -1.0]))
    assert reward[0] == pytest.approx(math.log(1.1))
    assert reward[1] == pytest.approx(math.log(0.001))


def test_differential_sharpe_by_hand() -> None:
    """A = 0.01, B = 0.0005, r = 0.03, η = 0.1 (Moody & Saffell, eq. 14).

    ΔA = 0.02, ΔB = 0.0004, B·ΔA − A·ΔB/2 = 8e-6, variance 4e-4, to the power 3/2: 8e-6. D = 1.
    """
    moments = SharpeMoments(first=np.array([0.01]), second=np.array([0.0005]))
    reward, after = differential_sharpe(np.array([0.03]), moments, rate=0.1)
    assert reward[0] == pytest.approx(1.0)
    assert after.first[0] == pytest.approx(0.012)
    assert after.second[0] == pytest.approx(0.00054)


def test_differential_sharpe_is_zero_before_any_variance() -> None:
    """The first return has no Sharpe ratio to differ from."""
    moments = SharpeMoments(first=np.zeros(1), second=np.zeros(1))
    assert differential_sharpe(np.array([0.03]), moments, rate=0.1)[0][0] == 0.0
