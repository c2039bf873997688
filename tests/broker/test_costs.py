"""Cost models and trading rules refuse what makes no sense."""

from __future__ import annotations

import math

import pytest

from broker.costs import CostModel, TradingRules


def test_scaling_leaves_funding_alone() -> None:
    """Cost stress multiplies fee, spread and impact; funding has its own factor."""
    model = CostModel(
        fee_rate=0.001, half_spread_bps=2.0, impact_coefficient=0.5, funding_multiplier=2.0
    )
    assert model.scaled(3) == CostModel(
        fee_rate=0.003, half_spread_bps=6.0, impact_coefficient=1.5, funding_multiplier=2.0
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fee_rate", -0.1),
        ("half_spread_bps", math.nan),
        ("impact_coefficient", math.inf),
        ("funding_multiplier", math.nan),
    ],
)
def test_costs_are_numbers(name: str, value: float) -> None:
    """A negative, infinite or missing cost is named."""
    usual = {"fee_rate": 0.0, "half_spread_bps": 0.0, "impact_coefficient": 0.0}
    with pytest.raises(ValueError, match=name):
        CostModel(**{**usual, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("leverage_limit", 0.0), ("no_trade_band", 1.0), ("latency_ms", 60_000), ("latency_ms", -1)],
)
def test_rules_are_sensible(name: str, value: float) -> None:
    """A latency of a minute could step over a settlement; a band of 1 could never trade."""
    with pytest.raises(ValueError, match=name):
        TradingRules(**{name: value})  # type: ignore[arg-type]  # one of several fields
