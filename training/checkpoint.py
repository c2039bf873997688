"""A training as it stands between two updates, so that a crash costs minutes and changes nothing.

Kept are the network, its average, the optimiser's moments, every source of randomness, and the
accounts with where they are. A run that is resumed ends with the same weights, bit for bit, as one
that was never interrupted, on the same machine and number of threads. The file appears under its
name only when it is complete.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from training.environment import PortfolioVecEnv
from training.normalizer import Float32Array
from training.policy import PortfolioPolicy

_FORMAT = 1


class CheckpointRejected(Exception):
    """A checkpoint must not be resumed from; the message says why, and what to do."""


class CheckpointWriter(BaseCallback):
    """Writes a checkpoint at the first rollout's start after every ``every`` transitions."""

    def __init__(self, path: Path, job_id: str, *, every: int) -> None:
        """``path`` is the file, in an existing directory; ``job_id`` is what it is of."""
        super().__init__()
        if every < 1:
            raise ValueError(f"every must be at least one transition, got {every}")
        self._path, self._job_id, self._every = path, job_id, every
        self._written_at = 0

    def _on_training_start(self) -> None:
        self._written_at = self.num_timesteps

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        done = self.model.num_timesteps
        if done - self._written_at >= self._every:
            self._written_at = done
            write_checkpoint(self.model, self._path, self._job_id)


def write_checkpoint(model: Any, path: Path, job_id: str) -> None:
    """Write what ``resume`` needs; ``model`` is a ``PortfolioPPO`` between two updates."""
    game, policy = _parts(model)
    content = {
        "format": _FORMAT,
        "job_id": job_id,
        "transitions": model.num_timesteps,
        "updates": model._n_updates,
        "progress_remaining": model._current_progress_remaining,
        "policy": policy.state_dict(),
        "optimizer": policy.optimizer.state_dict(),
        "average": model.average,
        "averaged_updates": model.averaged_updates,
        "torch_rng": torch.get_rng_state(),
        "episodes_rng": game.episodes.rng.bit_generator.state,
        "episodes": _tensors(game.episodes.arrays()),
        "last": _tensors(
            {"obs": model._last_obs, "episode_starts": np.asarray(model._last_episode_starts)}
        ),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    _write_durably(path, buffer.getvalue())


def resume(model: Any, path: Path, job_id: str) -> bool:
    """Bring a fresh ``PortfolioPPO`` to where a checkpoint was written.

    Returns:
        whether there was one.

    Raises:
        CheckpointRejected: the file is damaged, or of another training.
    """
    if not path.exists():
        return False
    content = _read(path)
    if content["job_id"] != job_id:
        raise CheckpointRejected(
            f"{path} is of training {content['job_id']}, this one is {job_id}: "
            "remove the file to begin anew"
        )
    game, policy = _parts(model)
    policy.load_state_dict(content["policy"])
    policy.optimizer.load_state_dict(content["optimizer"])
    model.average, model.averaged_updates = content["average"], content["averaged_updates"]
    game.episodes.load_arrays(_arrays(content["episodes"]))
    game.episodes.rng.bit_generator.state = content["episodes_rng"]
    last = _arrays(content["last"])
    model._last_obs = cast(Float32Array, last["obs"])
    model._last_episode_starts = last["episode_starts"]
    model.num_timesteps = content["transitions"]
    model._n_updates = content["updates"]
    model._current_progress_remaining = content["progress_remaining"]
    torch.set_rng_state(content["torch_rng"])
    return True


def _parts(model: Any) -> tuple[PortfolioVecEnv, PortfolioPolicy]:
    return cast(PortfolioVecEnv, model.env.unwrapped), cast(PortfolioPolicy, model.policy)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(io.BytesIO(path.read_bytes()), weights_only=True)
    except Exception as error:  # torch raises whatever its parser meets
        raise CheckpointRejected(
            f"{path} cannot be read ({error}): remove the file to begin anew"
        ) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointRejected(
            f"{path} is not a checkpoint of format {_FORMAT}: remove the file to begin anew"
        )
    return content


def _tensors(arrays: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def _arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    return {name: tensor.numpy().copy() for name, tensor in tensors.items()}


def _write_durably(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
