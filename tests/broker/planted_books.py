"""Order books whose spread and impact are known, made without any code of ours but the value."""

from __future__ import annotations

import numpy as np

from market.bar import HOUR_MS
from market.quote import OrderBook

BTC = "BTC/USDT:USDT"
SIZES = (100.0, 400.0, 1_600.0, 6_400.0)
ADV, SIGMA = 1e8, 0.03
SPREAD_BPS, KAPPA = 2.0, 0.7


def planted(
    hour: int, *, half_spread_bps: float = SPREAD_BPS, kappa: float = KAPPA, mid: float = 100.0
) -> OrderBook:
    """A book in which walks of ``SIZES`` cost the half spread and κ·σ·√(size/ADV), exactly."""
    spread = mid * half_spread_bps * 1e-4
    quantity = np.array(SIZES) / mid
    excess = quantity * (spread + mid * kappa * SIGMA * np.sqrt(np.array(SIZES) / ADV))
    # A sliver at the best price, so that the spread is seen, and nothing but it.
    knots = np.concatenate(([0.0, quantity[0] * 1e-3], quantity, [quantity[-1] * 2]))
    paid = np.concatenate(([0.0, quantity[0] * 1e-3 * spread], excess, [excess[-1] * 4]))
    away = np.diff(paid) / np.diff(knots)
    levels = list(zip(away.tolist(), np.diff(knots).tolist(), strict=True))
    return OrderBook(
        symbol=BTC,
        decision_time=hour * HOUR_MS,
        event_time=hour * HOUR_MS,
        available_at=hour * HOUR_MS + 150,
        update_id=None,
        bids=tuple((mid - distance, held) for distance, held in levels),
        asks=tuple((mid + distance, held) for distance, held in levels),
    )
