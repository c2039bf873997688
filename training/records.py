"""What the registry keeps, as values: models, promotions, retraining runs. No storage here."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from market.panel import Float64Array, Int64Array
from training.gates import Verdict


class UnknownModel(Exception):
    """No such model is registered."""


class PromotionRefused(Exception):
    """The model may not lead; the message says why."""


class NoChampion(Exception):
    """There is no champion to roll back from."""


class PromotionKind(enum.StrEnum):
    """How a model came to lead."""

    PROMOTED = "promoted"
    FORCED = "forced"
    ROLLED_BACK = "rolled_back"


class RunStatus(enum.StrEnum):
    """Where a retraining run stands."""

    RUNNING = "running"
    FAILED = "failed"
    REFUSED = "refused"
    CANDIDATE = "candidate"
    PROMOTED = "promoted"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutOfSample:
    """The joined out-of-sample record, kept for later comparisons and the page.

    Attributes:
        open_time: (T,) of the bars over which the returns were earned.
        net_return, equal_weight: (T,) per bar, of the candidate and of equal weight.
    """

    open_time: Int64Array
    net_return: Float64Array
    equal_weight: Float64Array

    def __post_init__(self) -> None:
        if not len(self.open_time) == len(self.net_return) == len(self.equal_weight):
            raise ValueError("an out-of-sample record has as many times as returns")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """What is registered about one model; ``config`` and ``lineage`` are plain JSON values."""

    model_id: str
    created_at: int
    snapshot_id: str
    artefact_path: Path
    config: Mapping[str, Any]
    lineage: Mapping[str, Any]
    verdict: Verdict
    out_of_sample: OutOfSample


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """One row of the list of models; ``passed`` is that of the newest verdict."""

    model_id: str
    created_at: int
    snapshot_id: str
    artefact_path: Path
    passed: bool
    judged_at: int
    leads: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """One move of the pointer; ``model_id`` is ``None`` when nothing leads any more."""

    promotion_id: int
    kind: PromotionKind
    model_id: str | None
    at: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Champion:
    """The model that leads, since when and why."""

    model_id: str
    artefact_path: Path
    snapshot_id: str
    created_at: int
    promoted_at: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainRun:
    """One retraining run; ``ended_at`` is ``None`` while it runs."""

    run_id: str
    trigger: str
    started_at: int
    ended_at: int | None
    status: RunStatus
    message: str
    model_id: str | None
