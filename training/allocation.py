"""The map from an unbounded action to risky weights: a Euclidean projection.

``w = Proj{w >= 0, Σw <= budget}(a + offset)``. Every allocation, all cash and all in one asset
included, is the image of some bounded action. This module must never import torch.
"""

from __future__ import annotations

import numpy as np

from market.panel import Float64Array

ACTION_OFFSET = 1.0 / 3.0
ACTION_BOUND = 4.0


def allocate(action: Float64Array, *, budget: float, long_only: bool) -> Float64Array:
    """Return risky weights (..., N) for actions (..., N); the rest is cash.

    Args:
        action: (..., N), any finite numbers; 0 on every leg is one third of the equity each
            (cut down to the budget) when long-only, and cash when not.
        budget: largest Σ|w|, the leverage limit.
        long_only: project on the non-negative part, else on the whole L1 ball.
    """
    if action.ndim < 1:
        raise ValueError("an action needs an asset axis")
    shifted = np.asarray(action, dtype=np.float64)
    if long_only:
        return _project_capped_simplex(shifted + ACTION_OFFSET, budget)
    return np.sign(shifted) * _project_capped_simplex(np.abs(shifted), budget)


def action_for(weights: Float64Array, *, long_only: bool) -> Float64Array:
    """Return an action that ``allocate`` maps to ``weights`` (..., N) exactly."""
    return weights - ACTION_OFFSET if long_only else weights


def _project_capped_simplex(point: Float64Array, budget: float) -> Float64Array:
    """Nearest point of {w >= 0, Σw <= budget}; Held, Wolfe & Crowder (1974) for the face."""
    positive = np.maximum(point, 0.0)
    over = positive.sum(axis=-1) > budget
    if not over.any():
        return positive
    descending = -np.sort(-point, axis=-1)
    excess = np.cumsum(descending, axis=-1) - budget
    rank = np.arange(1, point.shape[-1] + 1)
    support = (descending * rank > excess).sum(axis=-1, keepdims=True)
    threshold = np.take_along_axis(excess, support - 1, axis=-1) / support
    on_face: Float64Array = np.maximum(point - threshold, 0.0)
    return np.where(over[..., None], on_face, positive)
