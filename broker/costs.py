"""What a trade costs: fee, half spread and square-root impact as one frozen value."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """Cost parameters of one account.

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
            value = getattr(self, name)
            if not 0 <= value < 10_000:
                raise ValueError(f"{name} must be a non-negative number, got {value}")
        if not math.isfinite(self.funding_multiplier):
            raise ValueError(f"funding_multiplier must be finite, got {self.funding_multiplier}")

    def scaled(self, factor: float) -> CostModel:
        """Return the model with every trading cost multiplied by ``factor``."""
        return CostModel(
            fee_rate=self.fee_rate * factor,
            half_spread_bps=self.half_spread_bps * factor,
            impact_coefficient=self.impact_coefficient * factor,
            funding_multiplier=self.funding_multiplier,
        )


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
