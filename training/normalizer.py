"""The scale of each feature, fitted on the training window alone and then frozen.

One mean and one scale per feature, shared by all assets, because the encoder is shared too. A
feature that training never saw vary has no scale, and the network's weights for it were never
trained: it counts as unknown for ever, whatever live brings.
This module must never import torch, stable-baselines3 or gymnasium.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from market.panel import BoolArray, Float64Array

Float32Array = npt.NDArray[np.float32]

CLIP = 5.0
_SMALLEST_SCALE = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Normalizer:
    """Affine map per feature, then a clip.

    Attributes:
        mean, scale: (F,) float64, in the feature's own units; scale is positive.
        fitted: (F,) whether training knew the feature, and knew it to vary.
        clip: largest absolute normalised value.
    """

    mean: Float64Array
    scale: Float64Array
    fitted: BoolArray
    clip: float = CLIP

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.mean.shape != self.scale.shape:
            raise ValueError(f"normaliser shapes differ: {self.mean.shape}, {self.scale.shape}")
        if self.fitted.shape != self.mean.shape or self.fitted.dtype != np.bool_:
            raise ValueError("normaliser does not say of each feature whether it was fitted")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.scale).all()):
            raise ValueError("normaliser holds values that are not finite")
        if not (self.scale > 0).all() or not self.clip > 0:
            raise ValueError("normaliser scales and clip must be positive")

    def usable(self, known: BoolArray) -> BoolArray:
        """(..., F) which of the known values mean anything to what was trained on this scale."""
        return known & self.fitted

    def apply(self, values: Float32Array, known: BoolArray) -> Float32Array:
        """Return (..., F) normalised float32: 0 (the mean) where unknown or never fitted.

        A fitted value that claims to be known and is not finite stays NaN, so that the observation
        is rejected instead of being taken for an average one.
        """
        scaled = (values - self.mean) / self.scale
        clipped = np.clip(scaled, -self.clip, self.clip)
        return np.where(self.usable(known), clipped, 0.0).astype(np.float32)


def fit_normalizer(values: Float32Array, known: BoolArray) -> Normalizer:
    """Fit mean and standard deviation per feature on (T, N, F) known values.

    A feature that is never known, or constant, keeps mean 0 (its constant) and scale 1, and is not
    fitted.
    """
    if values.ndim != 3 or values.shape != known.shape:
        raise ValueError(f"features must be (T, N, F) with masks: {values.shape}, {known.shape}")
    weight = known.astype(np.float64)
    count = np.maximum(weight.sum(axis=(0, 1)), 1.0)
    exact = np.where(known, values, 0.0).astype(np.float64)
    mean = exact.sum(axis=(0, 1)) / count
    variance = (weight * (exact - mean) ** 2).sum(axis=(0, 1)) / count
    scale = np.sqrt(variance)
    fitted = scale > _SMALLEST_SCALE
    return Normalizer(mean=mean, scale=np.where(fitted, scale, 1.0), fitted=fitted)
