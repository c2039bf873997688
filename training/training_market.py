"""One training window, ready to be stepped through: bars, windows, and what was to be expected.

This module must never import torch, stable-baselines3 or gymnasium.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from market.features import Features
from market.panel import Float64Array
from training.normalizer import Float32Array, Normalizer
from training.observation import ObservationSchema, market_channels
from training.simulation import Market
from training.windows import MarketWindows, market_windows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingMarket:
    """One training window, ready to be stepped through.

    Attributes:
        accounts: what the accounts meet, all bars of the panel.
        windows: market part of the observations, cut out when needed; bars as in ``accounts``.
        first_bar, last_bar: an episode's first decision is at or after ``first_bar``; no account
            is ever carried beyond the close of ``last_bar``.
        bar_return: (T, N) close over open less one; 0 where nothing can be filled.
        expected_return: (T, N) linear forecast, made at each bar, of the next bar's return less
            the cross-section's mean; for the control variate of training only.
    """

    accounts: Market
    windows: MarketWindows
    schema: ObservationSchema
    first_bar: int
    last_bar: int
    bar_return: Float64Array
    expected_return: Float64Array

    def __post_init__(self) -> None:
        if not self.schema.lookback_bars - 1 <= self.first_bar < self.last_bar:
            raise ValueError(f"no decision fits between {self.first_bar} and {self.last_bar}")
        if len(self.windows) != len(self.accounts):
            raise ValueError(f"{len(self.windows)} bars of windows, {len(self.accounts)} of market")


def training_market(
    accounts: Market,
    features: Features,
    normalizer: Normalizer,
    schema: ObservationSchema,
    *,
    first_bar: int = 0,
    prediction_ridge: float = 1.0,
) -> TrainingMarket:
    """Join a market with its observations; the market must end where training ends."""
    arrays = accounts.arrays
    begin = max(first_bar, schema.lookback_bars - 1)
    channels = market_channels(features, normalizer, schema)
    bar_return = np.where(
        arrays.fillable, arrays.mark / np.where(arrays.fillable, arrays.open_price, 1.0) - 1.0, 0.0
    )
    normal = channels[..., : len(features.names)]
    return TrainingMarket(
        accounts=accounts,
        windows=market_windows(channels, schema.lookback_bars),
        schema=schema,
        first_bar=begin,
        last_bar=len(accounts) - 1,
        bar_return=bar_return,
        expected_return=linear_forecast(normal, bar_return, first=begin, ridge=prediction_ridge),
    )


def linear_forecast(
    features: Float32Array, bar_return: Float64Array, *, first: int, ridge: float
) -> Float64Array:
    """(T, N) ridge forecast of the next bar's return, both less their cross-section's mean.

    One coefficient per feature for all assets (Hoerl & Kennard 1970), fitted on decisions from
    bar ``first`` on; ``ridge`` is in units of the features' mean square over all rows.

    Args:
        features: (T, N, F) normalised.
        bar_return: (T, N) simple returns.
        first: earlier bars are predicted too, but not fitted on.
        ridge: penalty; infinite gives forecasts of zero.
    """
    relative = features.astype(np.float64) - features.mean(axis=1, keepdims=True)
    moved = bar_return - bar_return.mean(axis=1, keepdims=True)
    width = relative.shape[-1]
    inputs, target = relative[first:-1].reshape(-1, width), moved[first + 1 :].reshape(-1)
    gram = inputs.T @ inputs
    penalty = ridge * max(1.0, float(np.trace(gram)) / width) * np.eye(width)
    forecast: Float64Array = relative @ np.linalg.solve(gram + penalty, inputs.T @ target)
    return forecast
