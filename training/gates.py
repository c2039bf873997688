"""The gates: whether the out-of-sample evidence allows a candidate to lead.

Pure functions from ``Evidence`` to ``Check``; the list ``GATES`` is the whole rule, in the order
in which it is reported. A value that could not be measured (NaN) is a refusal, whether its gate
is hard or a warning: missing evidence never passes.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from market.panel import Float64Array
from training.statistics import (
    annual_sharpe,
    annual_sharpe_standard_error,
    probabilistic_sharpe,
    total_return,
)


class Stress(enum.StrEnum):
    """Variants of the market or venue under which the frozen policy is run again."""

    COST_X2 = "cost_x2"
    COST_X3 = "cost_x3"
    LATENCY = "latency_plus_one_bar"
    FUNDING_X2 = "funding_x2"


class Relation(enum.StrEnum):
    """How a value must stand to its threshold."""

    ABOVE = ">"
    AT_LEAST = ">="
    AT_MOST = "<="

    def holds(self, value: float, threshold: float) -> bool:
        """Whether ``value`` satisfies the relation; NaN never does."""
        match self:
            case Relation.ABOVE:
                return value > threshold
            case Relation.AT_LEAST:
                return value >= threshold
            case Relation.AT_MOST:
                return value <= threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One gate's outcome.

    Attributes:
        value: what was measured; NaN where it could not be.
        hard: whether failing it refuses the candidate; otherwise it is a warning.
        explanation: one plain sentence with the figures.
    """

    name: str
    value: float
    threshold: float
    relation: Relation
    hard: bool
    passed: bool
    explanation: str

    @property
    def measured(self) -> bool:
        """Whether there was evidence at all."""
        return math.isfinite(self.value)

    @property
    def refuses(self) -> bool:
        """Whether this check alone refuses the candidate."""
        return not self.measured or (self.hard and not self.passed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The outcome of every gate; ``reasons`` are the sentences of those that refuse."""

    passed: bool
    checks: tuple[Check, ...]
    reasons: tuple[str, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences of the checks that failed without refusing."""
        return tuple(c.explanation for c in self.checks if not (c.passed or c.refuses))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """Net returns (K,) of candidate and champion recipe on the K bars that both were judged on."""

    champion_id: str
    candidate: Float64Array
    champion: Float64Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """The joined out-of-sample record of T bars and N assets that the gates look at.

    Attributes:
        windows: number of test windows joined into the record.
        net_return: (T,) per bar, after all costs and funding.
        turnover: (T,) traded notional over equity.
        weights: (T, N) risky weights held over each bar.
        stressed: (T,) net returns of the frozen policy under each stress.
        equal_weight: (T,) net returns of the equal-weight baseline on the same bars.
        comparison: returns beside the champion's, or ``None`` where no champion leads.
    """

    bars_per_year: float
    windows: int
    net_return: Float64Array
    turnover: Float64Array
    weights: Float64Array
    stressed: Mapping[Stress, Float64Array]
    equal_weight: Float64Array
    comparison: Comparison | None = None

    def __post_init__(self) -> None:
        bars = self.net_return.shape
        if len(bars) != 1 or self.turnover.shape != bars or self.equal_weight.shape != bars:
            raise ValueError("net_return, turnover and equal_weight must all be (T,)")
        if self.weights.ndim != 2 or self.weights.shape[:1] != bars:
            raise ValueError(f"weights must be (T, N), got {self.weights.shape}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Where each gate stands.

    The warnings on concentration, turnover and saturation mark behaviour that an owner should
    look at (almost always one asset; the whole book turned over twice a day), not a fault.
    """

    windows: int = 4
    sharpe_probability: float = 0.95
    mean_exposure: float = 0.05
    champion_sharpe_loss: float = 0.5
    common_bars: int = 500
    concentration: float = 0.9
    turnover_per_day: float = 2.0
    saturation: float = 0.95
    corner: float = 0.99


def judge(evidence: Evidence, thresholds: Thresholds | None = None) -> Verdict:
    """Run every gate; the candidate passes if no check refuses it."""
    limits = thresholds or Thresholds()
    checks = tuple(check for gate in GATES if (check := gate(evidence, limits)) is not None)
    reasons = tuple(check.explanation for check in checks if check.refuses)
    return Verdict(passed=not reasons, checks=checks, reasons=reasons)


def enough_windows(evidence: Evidence, limits: Thresholds) -> Check:
    """At least four test windows."""
    return _check(
        "enough_windows",
        float(evidence.windows),
        Relation.AT_LEAST,
        float(limits.windows),
        hard=True,
        explanation=f"{evidence.windows} test windows were judged, needed {limits.windows}.",
    )


def no_position(evidence: Evidence, limits: Thresholds) -> Check:
    """The mean gross risky weight is not next to nothing."""
    exposure = _mean(np.abs(evidence.weights).sum(axis=1))
    return _check(
        "no_position",
        exposure,
        Relation.AT_LEAST,
        limits.mean_exposure,
        hard=True,
        explanation=(
            f"The mean risky exposure is {exposure:.1%} of equity, needed "
            f"{limits.mean_exposure:.0%}: a policy that holds cash has shown nothing."
        ),
    )


def net_sharpe_psr(evidence: Evidence, limits: Thresholds) -> Check:
    """The probability that the true net Sharpe ratio is above zero."""
    probability = probabilistic_sharpe(evidence.net_return)
    sharpe = annual_sharpe(evidence.net_return, evidence.bars_per_year)
    error = annual_sharpe_standard_error(evidence.net_return, evidence.bars_per_year)
    return _check(
        "net_sharpe_psr",
        probability,
        Relation.AT_LEAST,
        limits.sharpe_probability,
        hard=True,
        explanation=(
            f"The annual net Sharpe ratio out of sample is {sharpe:.2f} (standard error "
            f"{error:.2f}), so it is above zero with probability {probability:.3f}, needed "
            f"{limits.sharpe_probability:.2f}."
        ),
    )


def beats_cash(evidence: Evidence, _limits: Thresholds) -> Check:
    """The net return is above zero."""
    return _return_above_zero(
        "beats_cash", evidence.net_return, "at the configured costs", hard=True
    )


def beats_equal_weight(evidence: Evidence, _limits: Thresholds) -> Check:
    """The net Sharpe ratio is above that of equal weight on the same bars."""
    own = annual_sharpe(evidence.net_return, evidence.bars_per_year)
    other = annual_sharpe(evidence.equal_weight, evidence.bars_per_year)
    return _check(
        "beats_equal_weight",
        own if math.isfinite(other) else math.nan,
        Relation.ABOVE,
        other,
        hard=True,
        explanation=(
            f"The annual net Sharpe ratio is {own:.2f}; equal weight has {other:.2f} on the "
            "same bars and at the same costs."
        ),
    )


def cost_stress_x2(evidence: Evidence, _limits: Thresholds) -> Check:
    """Still above zero at twice the trading costs."""
    return _stressed(evidence, Stress.COST_X2, "at twice the trading costs", hard=True)


def cost_stress_x3(evidence: Evidence, _limits: Thresholds) -> Check:
    """Still above zero at three times the trading costs (warning)."""
    return _stressed(evidence, Stress.COST_X3, "at three times the trading costs", hard=False)


def latency_plus_one_bar(evidence: Evidence, _limits: Thresholds) -> Check:
    """Still above zero when every decision is executed one bar later (warning)."""
    return _stressed(evidence, Stress.LATENCY, "when executed one bar later", hard=False)


def funding_x2(evidence: Evidence, _limits: Thresholds) -> Check:
    """Still above zero at twice the funding (warning)."""
    return _stressed(evidence, Stress.FUNDING_X2, "at twice the funding", hard=False)


def concentration(evidence: Evidence, limits: Thresholds) -> Check:
    """Mean Herfindahl index of the risky weights while there is a position (warning)."""
    index = _herfindahl(evidence.weights)
    return _check(
        "concentration_hhi",
        index,
        Relation.AT_MOST,
        limits.concentration,
        hard=False,
        explanation=(
            f"The mean concentration of the risky weights is {index:.2f} (1 is one asset, "
            f"1/{evidence.weights.shape[1]} is all alike), warned above "
            f"{limits.concentration:.2f}."
        ),
    )


def turnover_per_day(evidence: Evidence, limits: Thresholds) -> Check:
    """Mean turnover per day (warning)."""
    daily = _mean(evidence.turnover) * evidence.bars_per_year / 365.0
    return _check(
        "turnover_per_day",
        daily,
        Relation.AT_MOST,
        limits.turnover_per_day,
        hard=False,
        explanation=(
            f"The mean turnover is {daily:.2f} times equity per day, warned above "
            f"{limits.turnover_per_day:.2f}."
        ),
    )


def saturation(evidence: Evidence, limits: Thresholds) -> Check:
    """Share of bars spent in a corner: all in one asset, or all in cash (warning)."""
    share = _mean(_in_corner(evidence.weights, limits.corner))
    return _check(
        "saturation",
        share,
        Relation.AT_MOST,
        limits.saturation,
        hard=False,
        explanation=(
            f"All of the equity is in one asset or in cash on {share:.0%} of the bars, warned "
            f"above {limits.saturation:.0%}."
        ),
    )


def not_worse_than_champion(evidence: Evidence, limits: Thresholds) -> Check | None:
    """The Sharpe ratio is not below the champion recipe's by more than the allowed loss."""
    comparison = evidence.comparison
    if comparison is None:
        return None
    bars = len(comparison.candidate)
    own = annual_sharpe(comparison.candidate, evidence.bars_per_year)
    other = _sharpe_or_cash(comparison.champion, evidence.bars_per_year)
    gap = own - other if bars >= limits.common_bars else math.nan
    return _check(
        "not_worse_than_champion",
        gap,
        Relation.AT_LEAST,
        -limits.champion_sharpe_loss,
        hard=True,
        explanation=(
            f"On {bars} common bars the annual net Sharpe ratio is {own:.2f} against "
            f"{other:.2f} for champion {comparison.champion_id}, a difference of {gap:+.2f}, "
            f"needed {-limits.champion_sharpe_loss:+.2f} on at least {limits.common_bars} bars "
            "(a comparison of recipes: these bars lie before the end of training)."
        ),
    )


GATES: tuple[Callable[[Evidence, Thresholds], Check | None], ...] = (
    enough_windows,
    no_position,
    net_sharpe_psr,
    beats_cash,
    beats_equal_weight,
    cost_stress_x2,
    cost_stress_x3,
    latency_plus_one_bar,
    funding_x2,
    not_worse_than_champion,
    concentration,
    turnover_per_day,
    saturation,
)


def _check(
    name: str,
    value: float,
    relation: Relation,
    threshold: float,
    *,
    hard: bool,
    explanation: str,
) -> Check:
    measured = math.isfinite(value)
    sentence = explanation if measured else f"{name} could not be measured: {explanation}"
    return Check(
        name=name,
        value=value if measured else math.nan,
        threshold=threshold,
        relation=relation,
        hard=hard,
        passed=measured and relation.holds(value, threshold),
        explanation=sentence,
    )


def _return_above_zero(name: str, record: Float64Array, how: str, *, hard: bool) -> Check:
    value = total_return(record)
    return _check(
        name,
        value,
        Relation.ABOVE,
        0.0,
        hard=hard,
        explanation=f"The net return out of sample is {value:+.2%} {how}, needed above zero.",
    )


def _stressed(evidence: Evidence, stress: Stress, how: str, *, hard: bool) -> Check:
    record = evidence.stressed.get(stress, np.empty(0))
    complete = record if record.shape == evidence.net_return.shape else np.empty(0)
    name = {Stress.COST_X2: "cost_stress_x2", Stress.COST_X3: "cost_stress_x3"}.get(
        stress, stress.value
    )
    return _return_above_zero(name, complete, how, hard=hard)


def _sharpe_or_cash(record: Float64Array, bars_per_year: float) -> float:
    """Annual Sharpe ratio; 0 for a record that is exactly cash (a champion that was forced)."""
    if len(record) and not record.any():
        return 0.0
    return annual_sharpe(record, bars_per_year)


def _herfindahl(weights: Float64Array) -> float:
    exposure = np.abs(weights).sum(axis=1)
    if not np.isfinite(exposure).all():
        return math.nan
    held = exposure > 0.01
    if not held.any():
        return math.nan
    shares = np.abs(weights[held]) / exposure[held, None]
    return float(np.mean(np.sum(shares**2, axis=1)))


def _in_corner(weights: Float64Array, corner: float) -> Float64Array:
    sizes = np.abs(weights)
    cash = 1.0 - sizes.sum(axis=1)
    largest = np.maximum(sizes.max(axis=1, initial=0.0), cash)
    return np.where(np.isfinite(largest), largest >= corner, math.nan)


def _mean(values: Float64Array) -> float:
    return float(np.mean(values)) if len(values) else math.nan
