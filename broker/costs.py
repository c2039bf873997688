"""What a trade costs: fee, half spread and square-root impact as one frozen value."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from market.panel import Float64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """Cost parameters of one account, the same for all that it trades.

    Attributes:
        fee_rate: taker fee as a fraction of notional.
        half_spread_bps: half of the bid-ask spread, basis points of the price.
        impact_coefficient: Y in ``Y·σ_daily·sqrt(notional/ADV)``; 0 turns impact off.
        funding_multiplier: 1 charges funding as it was; cost stress uses 2.
    """

    fee_rate: float
    half_spread_bps: float
    impact_coefficient: float
    funding_multiplier: float = 1.0

    def __post_init__(self) -> None:
        for name in ("fee_rate", "half_spread_bps", "impact_coefficient"):
            _check_cost(name, getattr(self, name))
        if not math.isfinite(self.funding_multiplier):
            raise ValueError(f"funding_multiplier must be finite, got {self.funding_multiplier}")

    def scaled(self, factor: float) -> CostModel:
        """Return the model with every trading cost multiplied by ``factor``."""
        return replace(
            self,
            fee_rate=self.fee_rate * factor,
            half_spread_bps=self.half_spread_bps * factor,
            impact_coefficient=self.impact_coefficient * factor,
        )

    @property
    def half_spread(self) -> float:
        """Half of the spread as a fraction of the price."""
        return self.half_spread_bps * 1e-4

    @property
    def impact(self) -> float:
        """Y."""
        return self.impact_coefficient


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetCosts:
    """Cost parameters of a market whose assets differ; only arrays of all of them can be charged.

    Attributes:
        fee_rate, funding_multiplier: as in ``CostModel``.
        half_spread_bps, impact_coefficient: one for each asset, in the sequence of the arrays.
    """

    fee_rate: float
    half_spread_bps: tuple[float, ...]
    impact_coefficient: tuple[float, ...]
    funding_multiplier: float = 1.0

    def __post_init__(self) -> None:
        _check_cost("fee_rate", self.fee_rate)
        for name in ("half_spread_bps", "impact_coefficient"):
            for value in getattr(self, name):
                _check_cost(name, value)
        if len(self.half_spread_bps) != len(self.impact_coefficient):
            raise ValueError(
                f"half_spread_bps names {len(self.half_spread_bps)} assets, impact_coefficient "
                f"{len(self.impact_coefficient)}"
            )

    def scaled(self, factor: float) -> AssetCosts:
        """Return the model with every trading cost multiplied by ``factor``."""
        return replace(
            self,
            fee_rate=self.fee_rate * factor,
            half_spread_bps=tuple(one * factor for one in self.half_spread_bps),
            impact_coefficient=tuple(one * factor for one in self.impact_coefficient),
        )

    @property
    def half_spread(self) -> Float64Array:
        """(asset,) half of the spread as a fraction of the price."""
        return np.array(self.half_spread_bps) * 1e-4

    @property
    def impact(self) -> Float64Array:
        """(asset,) Y."""
        return np.array(self.impact_coefficient)


Costs = CostModel | AssetCosts
"""What the kernel charges: the same for every asset, or of each."""


def _check_cost(name: str, value: float) -> None:
    if not 0 <= value < 10_000:
        raise ValueError(f"{name} must be a non-negative number, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TradingRules:
    """Account-wide limits of rebalancing.

    Attributes:
        leverage_limit: gross notional over equity that a rebalance may reach.
        no_trade_band: change of a risky weight below which the asset is left alone.
        allow_short: whether targets may be negative (perpetuals only).
        participation_cap: most that one order fills of a bar's volume, a fraction; inf = no cap.
        slippage_cap: farthest from the mid that a recorded book is walked, a fraction.
        latency_ms: time from the next bar's open to a modelled fill; below a minute, so that no
            settlement (nominal times are whole minutes) lies between them.
    """

    leverage_limit: float = 1.0
    no_trade_band: float = 0.0
    allow_short: bool = False
    participation_cap: float = math.inf
    slippage_cap: float = 0.01
    latency_ms: int = 1_000

    def __post_init__(self) -> None:
        if not self.leverage_limit > 0:
            raise ValueError(f"leverage_limit must be positive, got {self.leverage_limit}")
        if not 0 <= self.no_trade_band < 1:
            raise ValueError(f"no_trade_band must be in [0, 1), got {self.no_trade_band}")
        if not self.participation_cap > 0:
            raise ValueError(f"participation_cap must be positive, got {self.participation_cap}")
        if not 0 < self.slippage_cap < 1:
            raise ValueError(f"slippage_cap must be in (0, 1), got {self.slippage_cap}")
        if not 0 <= self.latency_ms < 60_000:
            raise ValueError(f"latency_ms must be in [0, 60000), got {self.latency_ms}")
