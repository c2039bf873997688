"""One tiny trained model, shared by the tests that need torch."""

from __future__ import annotations

import functools
from typing import NamedTuple

from tests.training.learner_factory import TINY, job_on, small_panel
from tests.training.market_factory import instruments_of
from training.artefact import Artefact
from training.config import TrainingConfig, TrainingJob
from training.learner import TrainingWindow, export, learn, training_window
from training.ppo import PortfolioPPO


class Trained(NamedTuple):
    """A model with everything it came from."""

    model: PortfolioPPO
    window: TrainingWindow
    job: TrainingJob
    artefact: Artefact


@functools.cache
def trained(seed: int = 1, config: TrainingConfig = TINY) -> Trained:
    """Train on the small panel; the same call gives the same object."""
    panel = small_panel()
    job = job_on(panel, config=config, seed=seed)
    window = training_window(panel, instruments_of(panel), job)
    model = learn(window, job, lambda _done, _total: None)
    return Trained(model, window, job, export(model, window, job, "snapshot"))
