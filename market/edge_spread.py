"""The EDGE estimate of the bid-ask spread from open, high, low and close, over rolling windows.

Ardia, Guidotti, Kroencke (2024), "Efficient estimation of bid-ask spreads from open, high, low,
and close prices", Journal of Financial Economics 161. The library ``bidask`` by the same authors
is the reference that tests compare with; its rolling version rests on running sums, so its last
bits depend on where the data start, which a feature may not. This module does no IO.

With m the middle of log high and log low, and 1 marking the bar before:
r1 = m − o, r2 = o − m1, r3 = m − c1, r4 = c1 − m1, r5 = o − c1; τ = 1 unless h = l = c1;
p_o and p_c the probabilities that the open, and the close before, differ from high and from low.
The squared spread is the mean of x1 and x2, weighted by each other's variance:
x1 = A·(r1 − μ1τ)·r2 + B·(r3 − μ3τ)·r4,  x2 = A·(r1 − μ1τ)·r5 + B·(r5 − μ5τ)·r4,
with A = −4/p_o, B = −4/p_c, μk = mean(r_k)/mean(τ). The products are expanded, since μ differs
from window to window and a rolling sum must not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from market.panel import BoolArray, Float64Array
from market.rolling import COVERAGE, lagged, ratio, rolling_count, rolling_sum

_FEWEST_MOVES = 2

Mean = Callable[[Float64Array], Float64Array]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pairs:
    """What each bar and the one before say; (T, N), 0 or ``False`` where not both are known."""

    known: BoolArray
    moved: BoolArray
    open_moves: tuple[BoolArray, BoolArray]
    close_moves: tuple[BoolArray, BoolArray]
    r1: Float64Array
    r2: Float64Array
    r3: Float64Array
    r4: Float64Array
    r5: Float64Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Leg:
    """One product ``factor·(p − shift·τ)·q`` of the estimator."""

    factor: Float64Array
    p: Float64Array
    shift: Float64Array
    q: Float64Array


def edge_spread(
    log_open: Float64Array,
    log_high: Float64Array,
    log_low: Float64Array,
    log_close: Float64Array,
    bars: int,
) -> Float64Array:
    """(T, N) unsigned spread as a fraction of the price, from the last ``bars`` bars.

    Args:
        log_open: (T, N) natural logarithm, NaN where unknown.
        log_high: the same of the high.
        log_low: the same of the low.
        log_close: the same of the close.
        bars: length of the window; it holds ``bars − 1`` pairs of neighbouring bars.

    Returns:
        NaN where too few pairs are known or the prices moved too little to tell.
    """
    pairs = _pairs(log_open, log_high, log_low, log_close)
    count = rolling_count(pairs.known, bars - 1)
    moves = rolling_count(pairs.moved, bars - 1)
    mean = _mean_over(count, bars - 1)
    tau = pairs.moved.astype(np.float64)
    opening = _either(pairs.open_moves, bars - 1)
    closing = _either(pairs.close_moves, bars - 1)
    usable = (count >= COVERAGE * (bars - 1)) & (moves >= _FEWEST_MOVES)
    usable &= (opening > 0) & (closing > 0)
    at_open = ratio(-4.0 * count, opening, where=usable)
    at_close = ratio(-4.0 * count, closing, where=usable)

    def shift(values: Float64Array, known: Float64Array) -> Float64Array:
        """mean(r)/mean(τ), the mean over where r itself is known."""
        return ratio(
            rolling_sum(values, bars - 1) * count, moves * known, where=usable & (known > 0)
        )

    middle = (log_high + log_low) / 2.0 - log_open
    middle_known = np.isfinite(middle)
    shift1 = shift(np.where(middle_known, middle, 0.0), rolling_count(middle_known, bars - 1))
    shift3, shift5 = shift(pairs.r3, count), shift(pairs.r5, count)
    close_leg3 = _Leg(factor=at_close, p=pairs.r3, shift=shift3, q=pairs.r4)
    close_leg5 = _Leg(factor=at_close, p=pairs.r5, shift=shift5, q=pairs.r4)
    open_leg2 = _Leg(factor=at_open, p=pairs.r1, shift=shift1, q=pairs.r2)
    open_leg5 = _Leg(factor=at_open, p=pairs.r1, shift=shift1, q=pairs.r5)
    e1, v1 = _moments(open_leg2, close_leg3, tau, mean)
    e2, v2 = _moments(open_leg5, close_leg5, tau, mean)
    total = v1 + v2
    weighted = ratio(v2 * e1 + v1 * e2, total, where=total > 0)
    squared = np.where(total > 0, weighted, (e1 + e2) / 2.0)
    return np.sqrt(np.abs(squared))


def _pairs(o: Float64Array, h: Float64Array, low: Float64Array, c: Float64Array) -> _Pairs:
    h1, l1, c1 = lagged(h, 1), lagged(low, 1), lagged(c, 1)
    middle, middle1 = (h + low) / 2.0, (h1 + l1) / 2.0
    known = np.isfinite(o + middle + middle1 + c1)
    moved = known & ((h != low) | (low != c1))

    def where_known(values: Float64Array) -> Float64Array:
        return np.where(known, values, 0.0)

    return _Pairs(
        known=known,
        moved=moved,
        open_moves=(moved & (o != h), moved & (o != low)),
        close_moves=(moved & (c1 != h1), moved & (c1 != l1)),
        r1=where_known(middle - o),
        r2=where_known(o - middle1),
        r3=where_known(middle - c1),
        r4=where_known(c1 - middle1),
        r5=where_known(o - c1),
    )


def _either(flags: tuple[BoolArray, BoolArray], pairs: int) -> Float64Array:
    """How often the one and how often the other is set, together."""
    return rolling_count(flags[0], pairs) + rolling_count(flags[1], pairs)


def _mean_over(count: Float64Array, pairs: int) -> Mean:
    """Return the mean over the known pairs of values that are 0 elsewhere."""

    def mean(values: Float64Array) -> Float64Array:
        return ratio(rolling_sum(values, pairs), count, where=count > 0)

    return mean


def _moments(
    first: _Leg, second: _Leg, tau: Float64Array, mean: Mean
) -> tuple[Float64Array, Float64Array]:
    """Mean and variance of the sum of two legs over the window, by expanding the products."""
    a, b, mu, nu = first.factor, second.factor, first.shift, second.shift
    x, y = first.p * first.q, second.p * second.q
    u, w = tau * first.q, tau * second.q
    expectation = a * (mean(x) - mu * mean(u)) + b * (mean(y) - nu * mean(w))
    square = (
        a**2 * (mean(x * x) - 2.0 * mu * mean(x * u) + mu**2 * mean(u * u))
        + b**2 * (mean(y * y) - 2.0 * nu * mean(y * w) + nu**2 * mean(w * w))
        + 2.0 * a * b
        * (mean(x * y) - mu * mean(u * y) - nu * mean(x * w) + mu * nu * mean(u * w))
    )  # fmt: skip
    return expectation, square - expectation**2
