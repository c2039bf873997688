"""The yardstick of the planted edge: what somebody who sees the hidden factor would earn.

The rule is deliberately simple: hold one asset or cash, long only, and move only when it is worth
a round trip. It is pure arithmetic, with its own costs, and must never be used to decide a trade.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from market.bar import bars_per_year
from market.panel import Float64Array, Panel

Int64Array = npt.NDArray[np.int64]

ORACLE_COST_RATE = 0.0006
"""One-way cost of the oracle's trades: fee 5 bp and half a spread of 1 bp, no impact."""

CASH = -1
ENTER_FACTOR = 0.5
LEAVE_FACTOR = -0.5
SWITCH_ADVANTAGE = 0.75


def oracle_holdings(factor: Float64Array) -> Int64Array:
    """Return the asset that the oracle decides to hold at the close of each bar.

    In cash it buys the asset with the highest factor once that exceeds ``ENTER_FACTOR``; it sells
    when its asset's factor falls below ``LEAVE_FACTOR``, and moves to the best asset when that
    leads its own by more than ``SWITCH_ADVANTAGE`` (standard deviations of the factor).

    Args:
        factor: (T, N) the planted factor, zero mean and unit variance.

    Returns:
        (T,) index of the asset with weight 1, or ``CASH``.
    """
    best = factor.argmax(axis=1).tolist()
    rows = factor.tolist()
    held = CASH
    holdings = np.empty(len(factor), dtype=np.int64)
    for bar, values in enumerate(rows):
        held = _next_holding(held, values, best[bar])
        holdings[bar] = held
    return holdings


def _next_holding(held: int, values: list[float], best: int) -> int:
    if held == CASH:
        return best if values[best] > ENTER_FACTOR else CASH
    if values[best] > values[held] + SWITCH_ADVANTAGE:
        return best
    return held if values[held] > LEAVE_FACTOR else CASH


def net_returns(holdings: Int64Array, returns: Float64Array, funding: Float64Array) -> Float64Array:
    """Return per bar of an account that holds one asset at a time, after costs and funding.

    Args:
        holdings: (T,) what is held during bar t, bought at its open; ``CASH`` for nothing.
        returns: (T, N) simple return of bar t, open to next open.
        funding: (T, N) rate settled at the open of bar t, 0 where none; it falls on what was held
            before that open.

    Returns:
        (T,) net simple returns.
    """
    before = np.concatenate(([CASH], holdings[:-1]))
    invested, carried = holdings != CASH, before != CASH
    row = np.arange(len(holdings))
    gross = np.where(invested, returns[row, holdings], 0.0)
    paid = np.where(carried, funding[row, before], 0.0)
    legs = np.where(holdings == before, 0, invested.astype(np.int64) + carried)
    net: Float64Array = gross - paid - ORACLE_COST_RATE * legs
    return net


def annual_sharpe(returns: Float64Array, *, interval_ms: int) -> float:
    """Mean over standard deviation of per-bar ``returns`` times sqrt(bars per 365-day year)."""
    spread = float(returns.std())
    if spread == 0.0:
        return 0.0
    return float(returns.mean()) / spread * float(np.sqrt(bars_per_year(interval_ms)))


def panel_sharpe(panel: Panel, factor: Float64Array) -> float:
    """Annual net Sharpe of the oracle on ``panel``: decide at a close, fill at the next open.

    Args:
        panel: (T, N) market history without gaps.
        factor: (T, N) the factor as it stood at each close.
    """
    opens = panel.open
    returns = opens[2:] / opens[1:-1] - 1.0
    funding = np.nan_to_num(panel.funding_rate[1:-1], nan=0.0)
    holdings = oracle_holdings(factor)[: len(returns)]
    return annual_sharpe(net_returns(holdings, returns, funding), interval_ms=panel.interval_ms)
