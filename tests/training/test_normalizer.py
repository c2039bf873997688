"""The frozen feature scale."""

from __future__ import annotations

import numpy as np
import pytest

from training.normalizer import Normalizer, fit_normalizer


def test_only_known_values_are_fitted() -> None:
    """Known 1 and 3 give mean 2 and scale 1 whatever the masked value is."""
    values = np.array([[[1.0]], [[3.0]], [[99.0]]], dtype=np.float32)
    known = np.array([[[True]], [[True]], [[False]]])
    normalizer = fit_normalizer(values, known)
    assert normalizer.mean.tolist() == [2.0]
    assert normalizer.scale.tolist() == [1.0]


def test_unknown_becomes_the_mean_and_extremes_are_clipped() -> None:
    """Unknown is 0; 100 standard deviations are 5."""
    normalizer = Normalizer(mean=np.array([2.0]), scale=np.array([1.0]), fitted=np.array([True]))
    values = np.array([[4.0], [102.0], [7.0]], dtype=np.float32)
    known = np.array([[True], [True], [False]])
    assert normalizer.apply(values, known)[:, 0].tolist() == [2.0, 5.0, 0.0]


def test_a_known_nan_stays_nan() -> None:
    """A NaN that claims to be known must reach the check that rejects the observation."""
    normalizer = Normalizer(mean=np.zeros(1), scale=np.ones(1), fitted=np.array([True]))
    assert np.isnan(normalizer.apply(np.array([[np.nan]], np.float32), np.array([[True]]))).all()


@pytest.mark.parametrize("known", [True, False])
def test_a_constant_or_unknown_feature_gets_scale_one(known: bool) -> None:
    """No feature is ever divided by zero."""
    values = np.full((5, 2, 1), 3.0, dtype=np.float32)
    normalizer = fit_normalizer(values, np.full(values.shape, known))
    assert normalizer.scale.tolist() == [1.0]
    assert normalizer.mean.tolist() == [3.0 if known else 0.0]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_impossible_scales_are_refused(scale: float) -> None:
    """A damaged normaliser cannot be built."""
    with pytest.raises(ValueError, match="normaliser"):
        Normalizer(mean=np.zeros(1), scale=np.array([scale]), fitted=np.array([True]))


@pytest.mark.parametrize("known", [True, False])
def test_a_feature_that_training_never_saw_vary_is_zero_for_ever(known: bool) -> None:
    """Whatever live brings, weights that were never trained are fed no raw value."""
    values = np.full((5, 2, 1), 3.0, dtype=np.float32)
    normalizer = fit_normalizer(values, np.full(values.shape, known))
    live, is_known = np.array([[40.0]], dtype=np.float32), np.array([[True]])
    assert normalizer.fitted.tolist() == [False]
    assert normalizer.usable(is_known).tolist() == [[False]]
    assert normalizer.apply(live, is_known).tolist() == [[0.0]]
