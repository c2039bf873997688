"""What a retraining run says while it runs: one JSON object per line.

The daemon reads these lines from the retraining process; this module must never import torch or
anything that trains.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.gates import Verdict
from training.report import verdict_json


class Stage(enum.StrEnum):
    """What a run is doing, in this order."""

    PREPARE = "prepare"
    TRAIN = "train"
    EVALUATE = "evaluate"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProgress:
    """How far a stage is.

    Attributes:
        window: number of the window that moved, from 1; of: how many there are.
        seed: of the training that moved, ``None`` outside training.
        done, total: transitions of that one training, or bars of the evaluation.
        fraction: of the whole stage, 0 to 1.
    """

    stage: Stage
    window: int
    of: int
    done: int
    total: int
    fraction: float
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictReached:
    """The candidate is registered and judged; nothing has been promoted."""

    run_id: str
    model_id: str
    artefact_path: Path
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed:
    """The run ended without a candidate."""

    run_id: str
    message: str


Event = StageProgress | VerdictReached | RunFailed
Listener = Callable[[Event], None]


def event_json(event: Event) -> dict[str, Any]:
    """Plain JSON values; ``event`` is ``progress``, ``verdict`` or ``failed``."""
    match event:
        case StageProgress():
            return {
                "event": "progress",
                "stage": event.stage.value,
                "window": event.window,
                "of": event.of,
                "seed": event.seed,
                "done": event.done,
                "total": event.total,
                "fraction": round(event.fraction, 4),
            }
        case VerdictReached():
            return {
                "event": "verdict",
                "run_id": event.run_id,
                "model_id": event.model_id,
                "artefact_path": str(event.artefact_path),
                **verdict_json(event.verdict),
            }
        case RunFailed():
            return {"event": "failed", "run_id": event.run_id, "message": event.message}


def event_line(event: Event) -> str:
    """The event as one line of strict JSON, without its end of line."""
    return json.dumps(event_json(event), allow_nan=False)
