"""Hyperparameters and jobs as validated values."""

from __future__ import annotations

import dataclasses
import json

import pytest

from market.features import DEFAULT_FEATURES
from tests.training.learner_factory import job_on, small_panel
from training.config import PRESETS, TrainingConfig, config_from_json, preset


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_survive_json(name: str) -> None:
    """Every preset knows its name and comes back from JSON equal."""
    config = preset(name)
    assert config.preset == name
    assert config_from_json(json.loads(json.dumps(config.to_json()))) == config


def test_an_unknown_preset_names_the_known_ones() -> None:
    """A typo is answered with what there is."""
    with pytest.raises(ValueError, match="bootstrap, default, fast, textbook"):
        preset("bootstrp")


def test_an_unknown_key_is_refused() -> None:
    """A misspelt hyperparameter is never ignored."""
    with pytest.raises(ValueError, match="unknown training key 'gama'"):
        config_from_json({"gama": 0.9})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gamma", 1.5), ("lookback_bars", 0), ("total_steps", -1), ("weight_decay", -0.1),
        ("seeds", ()), ("seeds", (1, 1)), ("sigma_window_bars", 3), ("batch_size", 10**9),
    ],
)  # fmt: skip
def test_a_bad_value_names_its_field(field: str, value: object) -> None:
    """The message says which hyperparameter, what is expected and what was given."""
    with pytest.raises(ValueError, match=f"training.{field} must be"):
        TrainingConfig(**{field: value})  # type: ignore[arg-type]  # bad on purpose


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["basys"], "training.features: unknown feature 'basys'; did you mean basis"),
        (["basis", "basis"], "training.features: feature 'basis' is selected twice"),
        ([], "training.features: no feature is selected"),
        ("basis", "training.features: features must be a list of names, got 'basis'"),
    ],
)
def test_features_that_make_no_sense_are_refused(names: object, message: str) -> None:
    """The message names the key, the feature, and what is near."""
    with pytest.raises(ValueError, match=message):
        config_from_json({"features": names})


def test_a_configuration_stored_before_features_could_be_chosen_means_the_default() -> None:
    """The manifests of older artefacts do not name features; theirs were these thirteen."""
    stored = preset("bootstrap").to_json()
    del stored["features"]
    assert config_from_json(stored) == preset("bootstrap")
    assert all(config.features == DEFAULT_FEATURES for config in PRESETS.values())


def test_lambda_is_the_hurdle_per_bar() -> None:
    """S* = 0.5 a year on hourly bars: 0.5/√8760."""
    assert TrainingConfig(hurdle_sharpe=0.5).lambda_per_bar(8760) == pytest.approx(0.00534, 1e-3)


def test_the_job_id_is_a_function_of_content() -> None:
    """The same job has the same id; another seed, window or hyperparameter has another."""
    job = job_on(small_panel())
    others = [
        dataclasses.replace(job, seed=job.seed + 1),
        dataclasses.replace(job, stop=job.stop - 1),
        dataclasses.replace(job, config=job.config.replace(gamma=0.9)),
        dataclasses.replace(job, config=job.config.replace(features=("basis",))),
    ]
    assert job_on(small_panel()).job_id == job.job_id
    assert len({job.job_id, *(other.job_id for other in others)}) == 5


def test_an_empty_window_is_refused() -> None:
    """A job must cover some time."""
    job = job_on(small_panel())
    with pytest.raises(ValueError, match="window is empty"):
        dataclasses.replace(job, stop=job.start)
