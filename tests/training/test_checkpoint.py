"""A training that died: resumed to the same end, and never from something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from market.snapshot import save_snapshot
from tests.training.learner_factory import COSTS, TINY, small_panel
from tests.training.market_factory import instruments_of
from training.artefact import Arrays, read_artefact
from training.checkpoint import CheckpointRejected
from training.config import PolicyKind, RewardKind, TrainingConfig, TrainingJob
from training.learner import train

ROLLOUT = TINY.env_count * TINY.rollout_steps
CONFIG = TINY.replace(
    total_steps=8 * ROLLOUT, reward=RewardKind.DIFFERENTIAL_SHARPE, episode_bars=11
)


class Killed(BaseException):
    """What a power cut would be."""


def job_in(folder: Path, config: TrainingConfig = CONFIG, seed: int = 1) -> TrainingJob:
    panel = small_panel()
    snapshot = save_snapshot(panel, instruments_of(panel), venue="binanceusdm", root=folder)
    return TrainingJob(
        snapshot_dir=snapshot.directory,
        start=int(panel.open_time[0]),
        stop=int(panel.close_time[-1]),
        seed=seed,
        config=config,
        costs=COSTS,
    )


def kill_at(transitions: int, job: TrainingJob, out_dir: Path) -> Path:
    """Train until ``transitions`` and return the checkpoint that is left."""

    def progress(done: int, _total: int) -> None:
        if done >= transitions:
            raise Killed

    with pytest.raises(Killed):
        train(job, out_dir, progress, checkpoint_every=2 * ROLLOUT)
    assert not out_dir.exists()
    return out_dir.with_name(f".{out_dir.name}.checkpoint")


def weights(directory: Path) -> Arrays:
    return read_artefact(directory).members[0].actor


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(CONFIG.replace(policy=PolicyKind.SHARED), id="shared"),
        pytest.param(CONFIG.replace(policy=PolicyKind.MLP), id="mlp"),
        pytest.param(
            CONFIG.replace(counterfactual=True, average_fraction=0.8), id="averaged counterfactual"
        ),
    ],
)
def test_a_resumed_training_ends_as_an_uninterrupted_one(
    tmp_path: Path, config: TrainingConfig
) -> None:
    """Bit for bit, killed twice, in the middle of a rollout and not where a checkpoint was."""
    job = job_in(tmp_path, config)
    train(job, tmp_path / "whole", lambda _done, _total: None, checkpoint_every=2 * ROLLOUT)
    resumed = tmp_path / "resumed"
    kill_at(3 * ROLLOUT, job, resumed)
    checkpoint = kill_at(6 * ROLLOUT, job, resumed)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 # stable-baselines3 seeds it
    seen: list[int] = []
    train(job, resumed, lambda done, _total: seen.append(done), checkpoint_every=2 * ROLLOUT)
    assert seen[0] == 5 * ROLLOUT  # the checkpoint at 4 rollouts, then one more
    assert seen[-1] == 8 * ROLLOUT
    for name, array in weights(tmp_path / "whole").items():
        np.testing.assert_array_equal(weights(resumed)[name], array)
    assert not checkpoint.exists()


def test_another_trainings_checkpoint_is_refused(tmp_path: Path) -> None:
    """Another seed is another training; the message says what to do."""
    checkpoint = kill_at(3 * ROLLOUT, job_in(tmp_path), tmp_path / "model")
    with pytest.raises(CheckpointRejected, match="remove the file to begin anew"):
        train(job_in(tmp_path, seed=2), tmp_path / "model", lambda _done, _total: None)
    assert checkpoint.exists()


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    """Half a file, or none of ours."""
    job = job_in(tmp_path)
    checkpoint = kill_at(3 * ROLLOUT, job, tmp_path / "model")
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointRejected, match="cannot be read"):
        train(job, tmp_path / "model", lambda _done, _total: None)
    torch.save({"format": 0}, checkpoint)
    with pytest.raises(CheckpointRejected, match="not a checkpoint of format 1"):
        train(job, tmp_path / "model", lambda _done, _total: None)


def test_the_learning_curve_goes_to_files(tmp_path: Path) -> None:
    """One row per rollout, with true transition counts."""
    train(job_in(tmp_path), tmp_path / "model", lambda _d, _t: None, log_dir=tmp_path / "log")
    header, *rows = (tmp_path / "log" / "progress.csv").read_text().splitlines()
    column = header.split(",").index("time/total_timesteps")
    assert [int(row.split(",")[column]) for row in rows] == [
        ROLLOUT * number for number in range(1, 9)
    ]
    assert {"train/policy_loss", "train/value_loss", "rollout/reward"} <= set(header.split(","))
