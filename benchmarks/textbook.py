"""The textbook's way to train: one scalar environment per process, and PPO as it is shipped.

Nothing here is ours but the arithmetic of the account: ``PortfolioEnv`` eight times, in
subprocesses or one after the other, flat observations, and stable-baselines3's PPO unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from benchmarks.training_market import COSTS, instruments_of, job_on, made_up_panel
from broker.costs import TradingRules
from training.config import TrainingConfig
from training.environment import Episodes, PortfolioEnv
from training.learner import training_window
from training.training_market import TrainingMarket

ENVIRONMENTS = 8


@cache
def _market(config: TrainingConfig, seed: int, bars: int, assets: int) -> TrainingMarket:
    panel = made_up_panel(seed, bars=bars, assets=assets)
    return training_window(panel, instruments_of(panel), job_on(panel, config, seed)).market


def one_environment(
    config: TrainingConfig, seed: int, number: int, bars: int, assets: int
) -> PortfolioEnv:
    """Return scalar environment ``number`` on the made-up market, which each process makes."""
    return PortfolioEnv(
        Episodes(
            _market(config, seed, bars, assets),
            config,
            costs=COSTS,
            rules=TradingRules(),
            count=1,
            rng=np.random.default_rng((seed, number)),
        )
    )


def environments(kind: str, config: TrainingConfig, *, seed: int, bars: int, assets: int) -> VecEnv:
    """Eight scalar environments: ``subprocess`` or ``serial``."""
    make: list[Callable[[], gymnasium.Env[Any, Any]]] = [
        partial(one_environment, config, seed, number, bars, assets)
        for number in range(ENVIRONMENTS)
    ]
    return SubprocVecEnv(make, start_method="spawn") if kind == "subprocess" else DummyVecEnv(make)


def learn(
    env: VecEnv,
    config: TrainingConfig,
    *,
    threads: int,
    after_rollout: Callable[[int], None],
) -> None:
    """Train as the textbook does; ``after_rollout`` is told the transitions so far."""
    torch.set_num_threads(threads)
    model = PPO(
        "MlpPolicy",
        env,
        learning_rate=config.learning_rate_start,
        n_steps=config.rollout_steps,
        batch_size=config.batch_size,
        n_epochs=config.epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        ent_coef=0.01,
        vf_coef=config.value_coefficient,
        max_grad_norm=config.max_grad_norm,
        policy_kwargs={"net_arch": {"pi": [256, 256], "vf": [256, 256]}},
        seed=1,
        device="cpu",
    )
    model.learn(config.total_steps, callback=_AfterRollout(after_rollout))


class _AfterRollout(BaseCallback):
    def __init__(self, tell: Callable[[int], None]) -> None:
        super().__init__()
        self._tell = tell

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._tell(self.num_timesteps)
