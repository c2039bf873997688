"""A random market in which every input of every feature is given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from market.bar import HOUR_MS
from market.features import FEATURES, Features
from market.panel import ARRAY_FIELDS, Float64Array, Panel

ALL = tuple(FEATURES)
SYMBOLS = ("BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT", "XRP/USDT:USDT")
BAR_FIELDS = (
    "open", "high", "low", "close", "volume", "quote_volume", "trades", "taker_buy_volume",
    "mark_open", "mark_high", "mark_low", "mark_close",
)  # fmt: skip
FUNDING_MS = 4 * HOUR_MS


def full_panel(
    seed: int,
    *,
    bars: int = 420,
    assets: int = 4,
    interval_ms: int = HOUR_MS,
    missing: float = 0.0,
) -> Panel:
    """Return correlated random walks; each bar is missing with probability ``missing``.

    Settlements fall due every four hours and are missing as often as bars.
    """
    rng = np.random.default_rng(seed)
    shape = (bars, assets)
    steps = 0.7 * rng.standard_t(4, (bars, 1)) + rng.standard_t(4, shape)
    close = 100.0 * np.exp(np.cumsum(0.004 * steps, axis=0))
    opened = np.vstack((close[:1], close[:-1])) * np.exp(rng.normal(0, 0.001, shape))
    volume = np.exp(rng.normal(5, 1, shape))
    open_time = interval_ms * np.arange(20_000_000, 20_000_000 + bars, dtype=np.int64)
    settles = (open_time % FUNDING_MS < interval_ms)[:, None] & (rng.random(shape) >= missing)
    arrays = {
        "open": opened,
        "high": np.maximum(opened, close) * (1 + rng.random(shape) * 0.004),
        "low": np.minimum(opened, close) * (1 - rng.random(shape) * 0.004),
        "close": close,
        "volume": volume,
        "quote_volume": volume * close * (1 + rng.normal(0, 1e-4, shape)),
        "trades": np.floor(volume) + 1.0,
        "taker_buy_volume": volume * rng.random(shape),
        "funding_rate": np.where(settles, rng.normal(0, 0.0002, shape), np.nan),
        "funding_at_open": np.zeros(shape),
        "funding_in_bar": np.zeros(shape),
    }
    for name in ("mark_open", "mark_high", "mark_low", "mark_close"):
        base = arrays[name.removeprefix("mark_")]
        arrays[name] = base * (1 + rng.normal(0, 0.0003, shape))
    gone = rng.random(shape) < missing
    for name in BAR_FIELDS:
        arrays[name] = np.where(gone, np.nan, arrays[name])
    return Panel(symbols=SYMBOLS[:assets], interval_ms=interval_ms, open_time=open_time, **arrays)


def changed(panel: Panel, **arrays: Any) -> Panel:
    """Return ``panel`` with some arrays (or its symbols) replaced."""
    return replace(panel, **arrays)


def without(panel: Panel, *fields: str) -> Panel:
    """Return ``panel`` as a venue gives it that does not know ``fields``."""
    assert set(fields) <= set(ARRAY_FIELDS)
    return changed(panel, **{name: np.full_like(panel.close, np.nan) for name in fields})


def unknown(features: Features, *, bar: int = -1, asset: int = 0) -> set[str]:
    """Return the names of the features that one cell does not know."""
    flags = features.known[bar, asset].tolist()
    return {name for name, known in zip(features.names, flags, strict=True) if not known}


def column(features: Features, name: str) -> Float64Array:
    """(T, N) values of one feature, NaN where unknown."""
    place = features.names.index(name)
    known = features.known[..., place]
    return np.where(known, features.values[..., place].astype(np.float64), np.nan)
