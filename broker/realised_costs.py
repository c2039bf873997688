"""What fills that walked an order book cost, beside what the model says of the same fills. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from broker.book import Liquidity
from broker.book_walk import parse_book_id
from broker.calibration import bootstrap_interval
from broker.costs import CostModel
from broker.kernel import adverse_fraction
from broker.money import to_float
from broker.orders import Fill

MIN_FILLS = 30
"""Fewest fills for an interval of the model's error."""
_BPS = 1e4


@dataclass(frozen=True, slots=True, kw_only=True)
class RealisedCosts:
    """What the fills of one symbol that walked a book cost besides the fee, and the model's error.

    Attributes:
        fills: how many.
        realised_bps: mean slippage against the mid, basis points of it.
        modelled_bps: mean of what half spread and impact say of the same fills.
        error_interval_bps: bounds at ``CONFIDENCE`` of realised less modelled, winsorised mean;
            ``None`` below ``MIN_FILLS``.
    """

    fills: int
    realised_bps: float
    modelled_bps: float
    error_interval_bps: tuple[float, float] | None


def realised_costs(
    fills: Iterable[Fill],
    liquidity: Mapping[int, tuple[float, float]],
    *,
    costs: CostModel,
    rng: np.random.Generator,
) -> RealisedCosts | None:
    """Compare fills of one symbol that walked a book with the model; ``None`` without any.

    Args:
        fills: of one symbol; those that were modelled themselves are passed over.
        liquidity: (ADV in quote currency, daily σ) by decision time; a fill whose decision has none
            is passed over.
        costs: the model to judge.
        rng: for the bootstrap.
    """
    pairs = []
    for fill in fills:
        if fill.book_id is None:
            continue
        known = liquidity.get(parse_book_id(fill.book_id).decision_time)
        if known is not None:
            pairs.append((_slippage_bps(fill), _modelled_bps(fill, known, costs)))
    if not pairs:
        return None
    realised, modelled = np.array(pairs).T
    enough = len(pairs) >= MIN_FILLS
    return RealisedCosts(
        fills=len(pairs),
        realised_bps=float(np.mean(realised)),
        modelled_bps=float(np.mean(modelled)),
        error_interval_bps=bootstrap_interval(realised - modelled, rng) if enough else None,
    )


def _slippage_bps(fill: Fill) -> float:
    return to_float(fill.slippage / (fill.quantity.copy_abs() * fill.reference_price)) * _BPS


def _modelled_bps(fill: Fill, liquidity: tuple[float, float], costs: CostModel) -> float:
    """What ``costs`` say that ``fill`` costs besides the fee, basis points."""
    notional = to_float(fill.quantity.copy_abs() * fill.reference_price)
    depth = Liquidity(*(np.array([one]) for one in liquidity))
    return float(adverse_fraction(np.array([notional]), depth, costs)[0]) * _BPS
