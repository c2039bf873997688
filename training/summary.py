"""What is written down about a retraining: where the model comes from and every figure measured.

Plain JSON values for the registry's ``lineage``; an undefined figure is ``None``. Nothing here
decides anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from broker.metrics import max_drawdown
from market.bar import bars_per_year
from market.panel import Panel
from training.evaluate import Backtest
from training.folds import Window
from training.statistics import annual_sharpe, annual_sharpe_standard_error, total_return


def window_summary(
    panel: Panel, windows: Sequence[Window], tests: Sequence[Backtest]
) -> list[dict[str, Any]]:
    """Each window's times (UTC ms, stops being closes) and the figures of its test."""
    return [
        _times(panel, window) | figures(test, panel.interval_ms)
        for window, test in zip(windows, tests, strict=True)
    ]


def record_summary(
    records: Mapping[str, Backtest], interval_ms: int
) -> dict[str, dict[str, float | None]]:
    """The figures of each named record."""
    return {name: figures(test, interval_ms) for name, test in records.items()}


def figures(test: Backtest, interval_ms: int) -> dict[str, float | None]:
    """Returns as fractions, Sharpe ratios per year, turnover per day in multiples of equity."""
    yearly = bars_per_year(interval_ms)
    values = {
        "net_return": total_return(test.net_return),
        "gross_return": total_return(test.gross_return),
        "net_sharpe": annual_sharpe(test.net_return, yearly),
        "net_sharpe_error": annual_sharpe_standard_error(test.net_return, yearly),
        "max_drawdown": max_drawdown(test.net_return),
        "cost": float(np.sum(test.cost)),
        "funding": float(np.sum(test.funding)),
        "turnover_per_day": float(np.mean(test.turnover)) * yearly / 365.0,
        "mean_exposure": float(np.mean(np.abs(test.weights).sum(axis=1))),
    }
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _times(panel: Panel, window: Window) -> dict[str, Any]:
    return {
        "train_start": int(panel.open_time[window.train_start]),
        "train_stop": int(panel.close_time[window.train_stop - 1]),
        "test_start": int(panel.open_time[window.test_start]),
        "test_stop": int(panel.close_time[window.test_stop - 1]),
    }
