"""One copy of a window's tensor for all processes that train on it: a file that they map.

Folds and seeds are processes of their own. What they map is in the page cache once, however many
they are. This module must never import torch, stable-baselines3 or gymnasium.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from training.windows import MarketWindows


class SharedWindowsDiffer(Exception):
    """The file holds another market's windows; the message says what to do."""


def share_windows(windows: MarketWindows, path: Path) -> MarketWindows:
    """Return the same windows, mapped from ``path``, which the first to come writes.

    Raises:
        SharedWindowsDiffer: ``path`` holds something else.
    """
    if not path.exists():
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.partial")
        with unfinished.open("wb") as file:
            np.save(file, windows.channels, allow_pickle=False)
        unfinished.replace(path)  # whoever else was first wrote the same
    # Copy on write: torch wants memory that it might write to, and never does.
    mapped = np.load(path, mmap_mode="c", allow_pickle=False)
    if not np.array_equal(mapped, windows.channels, equal_nan=True):
        raise SharedWindowsDiffer(f"{path} holds another market's windows: remove it")
    return MarketWindows(channels=mapped, lookback_bars=windows.lookback_bars)
