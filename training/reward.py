"""What the policy is paid for one bar. One formula per function, elementwise over accounts.

Pure numpy; no IO. All returns are fractions of the equity at the decision, per bar.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from market.panel import Float64Array


def hurdle_reward(
    gross_return: Float64Array, cost: Float64Array, sigma: Float64Array, *, lambda_per_bar: float
) -> Float64Array:
    """``R = ρ − κτ − λσ``: net return less the price of the rolling volatility.

    Homogeneous of degree one in the risky weights, so it invests only where the Sharpe ratio per
    bar exceeds λ; hence λ is ``S*/sqrt(bars per year)``.

    Args:
        gross_return: (...) ρ, before trading costs and after funding.
        cost: (...) κτ, the charged costs over equity.
        sigma: (...) rolling standard deviation of net returns, 0 until 5 returns.
        lambda_per_bar: hurdle Sharpe ratio per bar.
    """
    return gross_return - cost - lambda_per_bar * sigma


def variance_reward(net_return: Float64Array, *, risk_aversion: float) -> Float64Array:
    """``R = r − ½γ·r²``: the mean-variance objective per bar, with an interior optimum.

    ``r²`` estimates ``w'Σw`` without bias but for the squared mean, negligible per bar.
    """
    return net_return - 0.5 * risk_aversion * net_return**2


def log_reward(net_return: Float64Array) -> Float64Array:
    """``R = ln(1 + r)``: the growth rate (Kelly 1956); ruin is bounded at −0.999."""
    return np.log1p(np.maximum(net_return, -0.999))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SharpeMoments:
    """Exponential first and second moments of net returns, (...) each."""

    first: Float64Array
    second: Float64Array


def differential_sharpe(
    net_return: Float64Array, moments: SharpeMoments, *, rate: float
) -> tuple[Float64Array, SharpeMoments]:
    """Moody & Saffell (2001), eq. 14: the derivative of the exponential Sharpe ratio.

    ``D = (B·ΔA − ½A·ΔB) / (B − A²)^{3/2}`` with ``ΔA = r − A``, ``ΔB = r² − B``; 0 while the
    variance is not yet known.

    Returns:
        the rewards and the moments after this return.
    """
    delta_first = net_return - moments.first
    delta_second = net_return**2 - moments.second
    variance = moments.second - moments.first**2
    known = variance > 1e-12
    slope = moments.second * delta_first - 0.5 * moments.first * delta_second
    reward = np.where(known, slope / np.where(known, variance, 1.0) ** 1.5, 0.0)
    after = SharpeMoments(
        first=moments.first + rate * delta_first, second=moments.second + rate * delta_second
    )
    return reward, after
