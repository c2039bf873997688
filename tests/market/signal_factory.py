"""Signals and columns for tests, with times written as hours after a fixed start."""

from __future__ import annotations

import numpy as np

from market.panel import Int64Array
from market.signals import Signal, SignalColumn

HOUR_MS = 3_600_000
START = 1_700_000_000_000 - 1_700_000_000_000 % HOUR_MS
BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"


def at(hour: float) -> int:
    """UTC milliseconds of ``hour`` hours after the start."""
    return START + round(hour * HOUR_MS)


def hours(*numbers: float) -> Int64Array:
    """Decision times at these hours."""
    return np.array([at(number) for number in numbers], dtype=np.int64)


def live(
    event: float, value: float, *, ingested: float, published: float | None = None, symbol: str = ""
) -> Signal:
    """A row that was observed live; every time in hours."""
    return Signal(
        source="mood",
        version="1",
        symbol=symbol,
        event_time=at(event),
        published_at=at(event if published is None else published),
        ingested_at=at(ingested),
        name="value",
        value=value,
        is_backfilled=False,
    )


def backfilled(
    event: float, value: float, *, ingested: float, lag: float = 0.0, symbol: str = ""
) -> Signal:
    """A row out of the source's archive; every time in hours."""
    return Signal(
        source="mood",
        version="1",
        symbol=symbol,
        event_time=at(event),
        published_at=at(event),
        ingested_at=at(ingested),
        name="value",
        value=value,
        is_backfilled=True,
        lag_ms=round(lag * HOUR_MS),
    )


def column(max_age_hours: float = 1_000.0, version: str = "1") -> SignalColumn:
    """The column that reads those rows."""
    return SignalColumn(
        source="mood", name="value", version=version, max_age_seconds=round(max_age_hours * 3_600)
    )
