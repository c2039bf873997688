"""What the policy sees at the close of a bar. One function builds it, live and in training.

An observation is one flat float32 vector: for each asset a lookback window of normalised
features and the share of them that was usable, then the portfolio, then the calendar. Nothing in
it grows with time or with the price level. This module must never import torch,
stable-baselines3 or gymnasium, and does no IO.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from market.bar import DAY_MS, bars_per_year
from market.features import DEFAULT_FEATURES, Features, selected
from market.panel import Float64Array, Int64Array
from market.signal_join import SignalPanel
from market.signals import SignalColumn
from training.normalizer import Float32Array, Normalizer

GLOBALS = (
    "cash", "drawdown", "sigma_annual", "bars_since_trade", "unit_cost",
    "hour_sin", "hour_cos", "weekday_sin", "weekday_cos",
)  # fmt: skip
IDLE_HORIZON_BARS = 168
MIN_SIGMA_RETURNS = 5
_UNIT_COST_SCALE = 1_000.0
_THURSDAY_TO_MONDAY_MS = 3 * DAY_MS


class ObservationRejected(ValueError):
    """An observation may not be shown to a policy; the message says which part is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationSchema:
    """The shape and meaning of an observation; a policy accepts only its own.

    Layout, in order: N × L × (F + 1 + 2·S) market values (asset-major, oldest bar first; F
    features, S signals, the share of usable features, and for each signal 1 where it was usable,
    else 0; usable is what was known and has a scale), N drifted risky weights, then ``GLOBALS``.
    """

    symbols: tuple[str, ...]
    interval_ms: int
    lookback_bars: int
    features: tuple[str, ...] = DEFAULT_FEATURES
    sigma_window_bars: int = 168
    signals: tuple[SignalColumn, ...] = ()

    def __post_init__(self) -> None:
        if not self.symbols or len(set(self.symbols)) != len(self.symbols):
            raise ValueError(f"symbols must be distinct and not empty: {self.symbols}")
        if self.lookback_bars < 1:
            raise ValueError(f"lookback_bars must be positive, got {self.lookback_bars}")
        selected(self.features)

    @property
    def asset_count(self) -> int:
        """N."""
        return len(self.symbols)

    @property
    def asset_width(self) -> int:
        """Market values per asset: L × (F + 1 + 2·S)."""
        return self.lookback_bars * (len(self.features) + 1 + 2 * len(self.signals))

    @property
    def market_width(self) -> int:
        """Market values of all assets."""
        return self.asset_count * self.asset_width

    @property
    def account_width(self) -> int:
        """Values of the portfolio and the calendar: N + G."""
        return self.asset_count + len(GLOBALS)

    @property
    def width(self) -> int:
        """Length of the flat observation."""
        return self.market_width + self.account_width

    @property
    def hash(self) -> str:
        """SHA-256 of everything that gives a position in the vector its meaning."""
        facts = {
            "symbols": self.symbols,
            "interval_ms": self.interval_ms,
            "lookback_bars": self.lookback_bars,
            "features": self.features,
            "globals": GLOBALS,
            "idle_horizon_bars": IDLE_HORIZON_BARS,
            "sigma_window_bars": self.sigma_window_bars,
            "unit_cost_scale": _UNIT_COST_SCALE,
            "layout": 1,
        }
        if self.signals:
            facts["signals"] = [dataclasses.asdict(column) for column in self.signals]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PortfolioState:
    """One account (or a batch of them) at the close of a bar.

    Attributes:
        weights: (..., N) drifted risky weights, signed notional at the mark over equity.
        drawdown: (...) fall from the equity's peak, a fraction in [0, 1].
        sigma: (...) rolling standard deviation of net returns per bar (``rolling_sigma``).
        bars_since_trade: (...) bars since anything was traded; 0 right after a trade.
        unit_cost: (...) expected cost of trading one unit of notional, a fraction.
    """

    weights: Float64Array
    drawdown: Float64Array
    sigma: Float64Array
    bars_since_trade: Float64Array
    unit_cost: Float64Array


def portfolio_state(
    *,
    weights: Sequence[float],
    drawdown: float,
    sigma: float,
    bars_since_trade: int,
    unit_cost: float,
) -> PortfolioState:
    """Wrap one account's numbers for ``assemble``."""
    return PortfolioState(
        weights=np.asarray(weights, dtype=np.float64),
        drawdown=np.float64(drawdown),  # type: ignore[arg-type]  # a 0-d value broadcasts
        sigma=np.float64(sigma),  # type: ignore[arg-type]  # as above
        bars_since_trade=np.float64(bars_since_trade),  # type: ignore[arg-type]  # as above
        unit_cost=np.float64(unit_cost),  # type: ignore[arg-type]  # as above
    )


def rolling_sigma(net_returns: Float64Array) -> float:
    """Population standard deviation of the last window of per-bar net returns.

    Args:
        net_returns: (n,) at most the window's length, any order.

    Returns:
        0 until there are ``MIN_SIGMA_RETURNS`` returns.
    """
    if len(net_returns) < MIN_SIGMA_RETURNS:
        return 0.0
    return float(np.std(net_returns))


def with_signals(features: Features, signals: SignalPanel | None) -> Features:
    """Append the signals as further columns, so that they are normalised like features.

    Args:
        features: (T, N, F).
        signals: (T, N, S) at the closes of the same bars; without any, ``features`` come back.

    Raises:
        ObservationRejected: the signals are of other bars or assets.
    """
    if signals is None or not signals.columns:
        return features
    if signals.values.shape[:2] != features.values.shape[:2]:
        raise ObservationRejected(
            f"signals are for {signals.values.shape[:2]} bars and assets, the features for "
            f"{features.values.shape[:2]}"
        )
    values = np.concatenate((features.values, signals.values.astype(np.float32)), axis=-1)
    return Features(
        values=values,
        known=np.concatenate((features.known, signals.known), axis=-1),
        names=(*features.names, *(column.name for column in signals.columns)),
    )


def market_channels(
    features: Features, normalizer: Normalizer, schema: ObservationSchema
) -> Float32Array:
    """Return (T, N, F + 1 + 2·S): what one bar adds to the market part of an observation.

    Args:
        features: (T, N, F + S), the signals last (``with_signals``).
        normalizer: fitted on the same columns.
        schema: what the policy was trained on.

    Raises:
        ObservationRejected: shapes do not fit the schema, or a known value is not finite.
    """
    bars, assets, width = features.values.shape
    wanted = len(schema.features) + len(schema.signals)
    if (assets, width) != (schema.asset_count, wanted):
        raise ObservationRejected(
            f"features are for {assets} assets × {width}, the schema wants "
            f"{schema.asset_count} × {wanted}"
        )
    if features.names[: len(schema.features)] != schema.features:
        raise ObservationRejected(
            f"features are {', '.join(features.names)}, the schema wants "
            f"{', '.join(schema.features)}"
        )
    if bars < schema.lookback_bars:
        raise ObservationRejected(f"{bars} bars are fewer than lookback {schema.lookback_bars}")
    normal = normalizer.apply(features.values, features.known)
    if not np.isfinite(normal).all():
        raise ObservationRejected("a feature that claims to be known is not finite")
    usable = normalizer.usable(features.known)
    of_features, of_signals = np.split(usable, [len(schema.features)], axis=-1)
    share = of_features.mean(axis=-1, keepdims=True, dtype=np.float64).astype(np.float32)
    return np.concatenate((normal, share, of_signals.astype(np.float32)), axis=-1)


def market_rows(
    features: Features, normalizer: Normalizer, schema: ObservationSchema
) -> Float32Array:
    """Return (T − L + 1, N, L·(F + 1 + 2·S)): the market part of the observation at each bar.

    Row k is what is known at the close of bar k + L − 1. Live calls it with exactly L bars;
    training, which has many, keeps ``market_channels`` and cuts windows (``training.windows``).

    Raises:
        ObservationRejected: as ``market_channels``.
    """
    channels = market_channels(features, normalizer, schema)
    windows = np.lib.stride_tricks.sliding_window_view(channels, schema.lookback_bars, axis=0)
    rows: Float32Array = np.ascontiguousarray(windows.swapaxes(-1, -2)).reshape(
        len(windows), schema.asset_count, schema.asset_width
    )
    return rows


def assemble(
    market: Float32Array,
    portfolio: PortfolioState,
    decision_time: Int64Array,
    schema: ObservationSchema,
    *,
    out: Float32Array | None = None,
) -> Float32Array:
    """Return the flat observations (..., width).

    Args:
        market: (..., N, L·(F + 1 + 2·S)) rows of ``market_rows``.
        portfolio: arrays of the same leading shape.
        decision_time: (...) UTC milliseconds, the close of the newest bar in the window.
        schema: what the policy was trained on.
        out: written and returned when given.

    Raises:
        ObservationRejected: a shape does not fit, or the portfolio's state is not finite
            (``market_rows`` has refused windows that are not).
    """
    lead = market.shape[:-2]
    if market.shape[-2:] != (schema.asset_count, schema.asset_width):
        raise ObservationRejected(f"market rows have shape {market.shape}")
    obs = np.empty((*lead, schema.width), dtype=np.float32) if out is None else out
    obs[..., : schema.market_width] = market.reshape(*lead, schema.market_width)
    write_account(obs[..., schema.market_width :], portfolio, decision_time, schema)
    return obs


def write_account(
    part: Float32Array,
    portfolio: PortfolioState,
    decision_time: Int64Array,
    schema: ObservationSchema,
) -> None:
    """Write the portfolio and calendar, the last N + G values of an observation, into ``part``.

    Raises:
        ObservationRejected: a shape does not fit, or a value is not finite.
    """
    count = schema.asset_count
    if portfolio.weights.shape != (*part.shape[:-1], count):
        raise ObservationRejected(f"weights have shape {portfolio.weights.shape}")
    part[..., :count] = portfolio.weights
    _write_globals(part[..., count:], portfolio, decision_time, schema)
    if not np.isfinite(part).all():
        raise ObservationRejected("the portfolio's state is not finite")


def _write_globals(
    part: Float32Array,
    portfolio: PortfolioState,
    decision_time: Int64Array,
    schema: ObservationSchema,
) -> None:
    day = 2 * math.pi * (decision_time % DAY_MS) / DAY_MS
    weekday = (decision_time + _THURSDAY_TO_MONDAY_MS) // DAY_MS % 7
    week = 2 * math.pi * weekday / 7
    idle = np.minimum(portfolio.bars_since_trade, IDLE_HORIZON_BARS)
    part[..., 0] = 1.0 - portfolio.weights.sum(axis=-1)
    part[..., 1] = portfolio.drawdown
    part[..., 2] = portfolio.sigma * math.sqrt(bars_per_year(schema.interval_ms))
    part[..., 3] = np.log1p(idle) / math.log1p(IDLE_HORIZON_BARS)
    part[..., 4] = portfolio.unit_cost * _UNIT_COST_SCALE
    part[..., 5] = np.sin(day)
    part[..., 6] = np.cos(day)
    part[..., 7] = np.sin(week)
    part[..., 8] = np.cos(week)


def required_bars(schema: ObservationSchema, warmup_bars: int) -> int:
    """Bars of panel that live needs to build one observation."""
    return warmup_bars + schema.lookback_bars - 1
