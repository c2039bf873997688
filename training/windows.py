"""The market part of all observations as one tensor, out of which windows are cut when needed.

Consecutive windows overlap in all bars but one, so keeping them all would take ``lookback_bars``
times the memory. Kept are the bars themselves, asset after asset: a window is then one stretch of
memory, and all windows are the rows of one matrix with overlapping rows. This module must never
import torch, stable-baselines3 or gymnasium.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from market.panel import Int64Array
from training.normalizer import Float32Array

LARGEST_INDEX = 2**24
"""Whole numbers below it are exact in float32, the type of an index observation."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MarketWindows:
    """Windows of ``lookback_bars`` bars of every asset, and of the assets' mean.

    Attributes:
        channels: (N + 1, T, C) normalised float32; entry N is the mean over the assets. May be
            memory-mapped, so that processes share it.
    """

    channels: Float32Array
    lookback_bars: int

    def __post_init__(self) -> None:
        if self.channels.ndim != 3 or self.channels.dtype != np.float32:
            raise ValueError(f"channels must be (N + 1, T, C) float32, got {self.channels.shape}")
        if not self.channels.flags.c_contiguous:
            raise ValueError("channels must be contiguous: windows are stretches of their memory")
        if not self.lookback_bars <= len(self) < LARGEST_INDEX:
            raise ValueError(
                f"bars must be at least {self.lookback_bars} (lookback_bars) and fewer than "
                f"{LARGEST_INDEX} (exact in float32), got {len(self)}"
            )

    def __len__(self) -> int:
        """T, bars."""
        return int(self.channels.shape[1])

    @property
    def asset_count(self) -> int:
        """N."""
        return len(self.channels) - 1

    @property
    def asset_width(self) -> int:
        """Values of one window: L × C."""
        return self.lookback_bars * int(self.channels.shape[2])

    def matrix(self) -> Float32Array:
        """((N + 1)·T − L + 1, L·C): each row a window, a view; ``row`` says whose.

        Rows that would begin with one asset and end with the next belong to nobody.
        """
        step = self.channels.strides[-1]
        rows = len(self.channels) * len(self) - self.lookback_bars + 1
        return np.lib.stride_tricks.as_strided(
            self.channels,
            (rows, self.asset_width),
            (step * self.channels.shape[2], step),
            writeable=False,
        )

    def row(self, bar: Int64Array) -> Int64Array:
        """(..., N) row of each asset's window that ends at ``bar`` (...).

        Raises:
            IndexError: a window would begin before the first bar or end after the last.
        """
        first = bar - (self.lookback_bars - 1)
        if bar.size and (first.min() < 0 or bar.max() >= len(self)):
            raise IndexError(f"windows end at bars {self.lookback_bars - 1} to {len(self) - 1}")
        rows: Int64Array = first[..., None] + len(self) * np.arange(self.asset_count)
        return rows

    def at(self, bar: Int64Array) -> Float32Array:
        """(..., N, L·C) windows that end at ``bar`` (...), copied."""
        windows: Float32Array = self.matrix()[self.row(bar)]
        return windows


def market_windows(channels: Float32Array, lookback_bars: int) -> MarketWindows:
    """Arrange (T, N, C) channels (``training.observation.market_channels``) for windows."""
    bars, assets, width = channels.shape
    arranged = np.empty((assets + 1, bars, width), dtype=np.float32)
    arranged[:assets] = channels.swapaxes(0, 1)
    channels.mean(axis=1, out=arranged[assets])
    return MarketWindows(channels=arranged, lookback_bars=lookback_bars)
