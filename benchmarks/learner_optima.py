"""What the best policy earns in each market of the learner's benchmark, computed here.

Switching between all and nothing is solved by dynamic programming over a chain of states, the
interior optimum and the quadratic-cost tracker in closed form, the eight assets by a rule whose one
parameter is tuned. All figures are per bar, as fractions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.learner_markets import PERSISTENCE, STAY, LearnerMarket
from market.panel import Float64Array, Int64Array

GRID_POINTS = 801
GRID_LIMIT = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Switching:
    """The best rule that holds all or nothing of one asset.

    Attributes:
        gain: net return per bar.
        enter, leave: buy where the state is above ``enter``, sell where it is below ``leave``.
    """

    gain: float
    enter: float
    leave: float


def switching_optimum(
    states: Float64Array, transition: Float64Array, mean_return: Float64Array, cost: float
) -> Switching:
    """Average-reward optimum of holding w in {0, 1} at a proportional cost of switching.

    The advantage of being invested, ``D(x) = h(x, 1) − h(x, 0)``, solves
    ``D = clip(μ + E[D(x')|x], −c, c)``, and the gain is
    ``E[max(0, μ + E[D(x')|x] − c)]`` over the stationary law (what an account that is out of the
    market gains by the right to enter). Rewards and costs are linear in w, so nothing between 0
    and 1 is better.

    Args:
        states: (S,) ascending.
        transition: (S, S) rows sum to one.
        mean_return: (S,) of the next bar.
        cost: one-way, a fraction.
    """
    advantage = np.zeros(len(states))
    for _ in range(100_000):
        before = advantage
        worth = mean_return + transition @ before
        advantage = np.clip(worth, -cost, cost)
        if np.abs(advantage - before).max() < 1e-14:
            break
    else:
        raise ArithmeticError("the value of being invested did not converge")
    gain = stationary(transition) @ np.maximum(0.0, worth - cost)
    return Switching(
        gain=float(gain),
        enter=_crossing(states, worth - cost),
        leave=_crossing(states, worth + cost),
    )


def autoregression_chain() -> tuple[Float64Array, Float64Array]:
    """The AR(1) state on a grid: (S,) states and (S, S) transition probabilities."""
    states = np.linspace(-GRID_LIMIT, GRID_LIMIT, GRID_POINTS)
    gap = (states[None, :] - PERSISTENCE * states[:, None]) / np.sqrt(1 - PERSISTENCE**2)
    density = np.exp(-0.5 * gap**2)
    return states, density / density.sum(axis=1, keepdims=True)


def regime_chain() -> tuple[Float64Array, Float64Array]:
    """The two-state market: (2,) states and (2, 2) transition probabilities."""
    return np.array([-1.0, 1.0]), np.array([[STAY, 1 - STAY], [1 - STAY, STAY]])


def stationary(transition: Float64Array) -> Float64Array:
    """(S,) stationary law of an ergodic chain."""
    size = len(transition)
    equations = np.vstack((transition.T - np.eye(size), np.ones(size)))
    target = np.zeros(size + 1)
    target[-1] = 1.0
    law = np.linalg.lstsq(equations, target, rcond=None)[0]
    return np.asarray(law, dtype=np.float64)


def sign_rule_gain(market: LearnerMarket) -> float:
    """Net return per bar of holding the asset exactly while the AR(1) state is positive."""
    states, transition = autoregression_chain()
    law = stationary(transition)
    long = states > 0
    switches = law[~long] @ transition[~long][:, long].sum(axis=1)
    earned = law @ (long * market.slope * states)
    return float(earned - 2.0 * switches * market.cost)


def interior_optimum(market: LearnerMarket) -> tuple[Float64Array, float]:
    """``w = Σ⁻¹μ/γ`` and ``½w'μ``: the optimum without costs, an upper bound with them."""
    mean = np.asarray(market.mean_return)
    weights: Float64Array = np.linalg.solve(market.covariance, mean) / market.risk_aversion
    return weights, float(0.5 * weights @ mean)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracker:
    """``w = keep·w₋ + aim·x``, the best policy under quadratic costs, and its reward per bar."""

    keep: float
    aim: float
    gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QuadraticMarket:
    """Gârleanu & Pedersen (2013): r = slope·x, penalties ½·risk·w² and ½·friction·Δw²."""

    slope: float = 30e-4
    risk: float = 20.0 * 0.01**2
    friction: float = 0.01
    discount: float = 0.99


def quadratic_optimum(market: QuadraticMarket) -> Tracker:
    """Solve the scalar Riccati equation of the discounted problem.

    With ``V(w₋, x) = −½A·w₋² + B·w₋·x + …`` and δ the discount, maximising
    ``slope·x·w − ½risk·w² − ½C(w − w₋)² + δE[V(w, x')]`` over w gives
    ``w = (C·w₋ + (slope + δφB)·x)/J`` with ``J = risk + C + δA``, ``A = C − C²/J``,
    ``B = C(slope + δφB)/J``. The reward per bar is that of the stationary process.
    """
    friction, delta = market.friction, market.discount
    curvature, cross = 0.0, 0.0
    for _ in range(10_000):
        scale = market.risk + friction + delta * curvature
        curvature = friction - friction**2 / scale
        cross = friction * (market.slope + delta * PERSISTENCE * cross) / scale
    keep = friction / scale
    aim = (market.slope + delta * PERSISTENCE * cross) / scale
    return Tracker(keep=keep, aim=aim, gain=tracker_gain(market, keep, aim))


def tracker_gain(market: QuadraticMarket, keep: float, aim: float) -> float:
    """Mean reward per bar of ``w = keep·w₋ + aim·x``, x the unit AR(1), unbounded.

    With φ the persistence, ``E[wx] = aim/(1 − keep·φ)`` and
    ``E[w²] = (aim² + 2·keep·aim·φE[wx])/(1 − keep²)``; ``E[ww₋] = keep·E[w²] + aim·φE[wx]``.
    """
    product = aim / (1 - keep * PERSISTENCE)
    square = (aim**2 + 2 * keep * aim * PERSISTENCE * product) / (1 - keep**2)
    lagged = keep * square + aim * PERSISTENCE * product
    traded = 2 * (square - lagged)
    return market.slope * product - 0.5 * market.risk * square - 0.5 * market.friction * traded


def filtered(shown: Float64Array) -> Float64Array:
    """(T, N) mean of the AR(1) state given what was seen of it through unit noise so far.

    The stationary Kalman filter: prior variance ``P = φ²P/(P + 1) + 1 − φ²``, gain ``P/(P + 1)``.
    """
    prior = 1.0
    for _ in range(1_000):
        prior = PERSISTENCE**2 * prior / (prior + 1) + 1 - PERSISTENCE**2
    gain = prior / (prior + 1)
    mean = np.empty_like(shown)
    mean[0] = shown[0] / 2.0
    for bar in range(1, len(shown)):
        predicted = PERSISTENCE * mean[bar - 1]
        mean[bar] = predicted + gain * (shown[bar] - predicted)
    return mean


def leader_with_hysteresis(score: Float64Array, margin: float) -> Int64Array:
    """(T,) which asset to hold: the leader, once it leads the one held by ``margin``."""
    best = score.argmax(axis=1)
    held = np.empty(len(score), dtype=np.int64)
    current = best[0]
    for bar in range(len(score)):
        if score[bar, best[bar]] > score[bar, current] + margin:
            current = best[bar]
        held[bar] = current
    return held


def leader_gain(held: Int64Array, expected: Float64Array, cost: float) -> float:
    """Net return per bar of holding asset ``held[t]`` alone; a switch trades twice."""
    earned = expected[np.arange(len(held)), held].mean()
    return float(earned - 2.0 * cost * (np.diff(held) != 0).mean())


MARGINS = tuple(np.arange(0.0, 1.55, 0.1))


def tuned_margin(shown: Float64Array, expected: Float64Array, cost: float) -> tuple[float, float]:
    """Return the margin that earns most on a tape, and what it earns there."""
    score = filtered(shown)
    gains = [
        leader_gain(leader_with_hysteresis(score, margin), expected, cost) for margin in MARGINS
    ]
    best = int(np.argmax(gains))
    return float(MARGINS[best]), gains[best]


def _crossing(states: Float64Array, worth: Float64Array) -> float:
    """Where an increasing function of the state passes zero; ±inf where it never does."""
    above = np.flatnonzero(worth > 0)
    if len(above) == 0:
        return float("inf")
    first = int(above[0])
    if first == 0:
        return float("-inf")
    low, high = worth[first - 1], worth[first]
    return float(states[first - 1] + (states[first] - states[first - 1]) * -low / (high - low))
