"""What is asked of the learner in each market, and whether a row of the table reaches it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.document import Check

Row = Mapping[str, Any]

QUADRATIC = "quadratic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Least share of the optimum: of the median seed and of the worst one."""

    median: float
    worst: float


SHARES: Mapping[str, Target] = {
    "drift": Target(median=0.99, worst=0.97),
    "ar1": Target(median=0.93, worst=0.88),
    "regime": Target(median=0.98, worst=0.96),
    "interior20": Target(median=0.93, worst=0.85),
    "interior14": Target(median=0.93, worst=0.85),
    QUADRATIC: Target(median=0.93, worst=0.85),
    "momentum8": Target(median=0.75, worst=0.65),
}

NOISE_LOSS_BPS = Target(median=0.05, worst=0.1)
NOISE_TURNOVER = 0.004
SMALLEST_INTERIOR_WEIGHT = 0.02


def checks(rows: Mapping[str, Row]) -> Iterator[Check]:
    """Yield every figure that was asked for of the markets that were run."""
    for name, row in rows.items():
        if name in SHARES:
            target = SHARES[name]
            yield _at_least(f"{name}_median_share", row["median_share"], target.median)
            yield _at_least(f"{name}_worst_share", row["worst_share"], target.worst)
        if name == "noise":
            yield _at_most("noise_median_loss_bps", row["median_loss_bps"], NOISE_LOSS_BPS.median)
            yield _at_most("noise_worst_loss_bps", row["worst_loss_bps"], NOISE_LOSS_BPS.worst)
            yield _at_most("noise_largest_turnover", row["largest_turnover"], NOISE_TURNOVER)
        if name == "ar1":
            yield _at_least("ar1_worst_lead_on_sign_rule", row["worst_lead_on_rule_bps"], 0.0)
        if name == "momentum8":
            yield _at_least(
                "momentum8_worst_lead_on_equal_weight", row["worst_lead_on_rule_bps"], 0.0
            )
        if name.startswith("interior"):
            yield _at_least(
                f"{name}_smallest_weight", row["smallest_weight"], SMALLEST_INTERIOR_WEIGHT
            )


def _at_least(name: str, value: float, limit: float) -> Check:
    return Check(name=name, value=round(value, 4), target=f">= {limit:g}", holds=value >= limit)


def _at_most(name: str, value: float, limit: float) -> Check:
    return Check(name=name, value=round(value, 4), target=f"<= {limit:g}", holds=value <= limit)
