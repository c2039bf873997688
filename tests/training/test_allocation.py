"""The action map: always feasible, nearest, and able to reach every allocation."""

from __future__ import annotations

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from market.panel import Float64Array
from training.allocation import ACTION_BOUND, ACTION_OFFSET, action_for, allocate

ACTIONS = arrays.arrays(
    np.float64,
    st.tuples(st.integers(1, 4), st.integers(1, 6)),
    elements=st.floats(-ACTION_BOUND, ACTION_BOUND),
)


def projected_by_bisection(point: Float64Array, budget: float) -> Float64Array:
    """max(point − θ, 0) with the θ ≥ 0 that just meets the budget, found by halving."""
    low, high = 0.0, float(np.max(point, initial=0.0)) + 1.0
    if np.maximum(point, 0.0).sum() <= budget:
        return np.maximum(point, 0.0)
    for _ in range(200):
        theta = (low + high) / 2
        if np.maximum(point - theta, 0.0).sum() > budget:
            low = theta
        else:
            high = theta
    return np.maximum(point - high, 0.0)


@given(ACTIONS, st.sampled_from((0.5, 1.0, 3.0)))
def test_long_only_weights_are_the_nearest_feasible_point(
    action: Float64Array, budget: float
) -> None:
    """The map is the Euclidean projection of the shifted action on {w ≥ 0, Σw ≤ budget}."""
    weights = allocate(action, budget=budget, long_only=True)
    assert (weights >= 0).all()
    assert (weights.sum(axis=-1) <= budget + 1e-12).all()
    for row, shifted in zip(weights, action + ACTION_OFFSET, strict=True):
        np.testing.assert_allclose(row, projected_by_bisection(shifted, budget), atol=1e-9)


@given(ACTIONS, st.sampled_from((0.5, 1.0, 3.0)))
def test_long_short_weights_keep_the_gross_limit_and_the_signs(
    action: Float64Array, budget: float
) -> None:
    """With shorts allowed Σ|w| stays within the limit and no leg changes sides."""
    weights = allocate(action, budget=budget, long_only=False)
    assert (np.abs(weights).sum(axis=-1) <= budget + 1e-12).all()
    assert (weights * action >= 0).all()


@pytest.mark.parametrize("long_only", [True, False])
def test_every_allocation_is_reached(long_only: bool) -> None:
    """All cash, all in one asset, and an interior point each have a bounded action."""
    wanted = np.array([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.2, 0.5, 0.1], [0.0, 0.4, 0.6]])
    action = action_for(wanted, long_only=long_only)
    assert np.abs(action).max() < ACTION_BOUND
    np.testing.assert_allclose(
        allocate(action, budget=1.0, long_only=long_only), wanted, atol=1e-15
    )


def test_corners_are_reached_from_a_whole_region() -> None:
    """Noise around a far mean does not move a corner, so exploring there costs nothing."""
    noise = np.random.default_rng(0).normal(0.0, 0.1, (100, 3))
    cash = allocate(np.array([-2.0, -2.0, -2.0]) + noise, budget=1.0, long_only=True)
    single = allocate(np.array([2.0, 0.0, 0.0]) + noise, budget=1.0, long_only=True)
    assert (cash == 0.0).all()
    np.testing.assert_allclose(single, np.tile([1.0, 0.0, 0.0], (100, 1)), atol=1e-15)
