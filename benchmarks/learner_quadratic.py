"""Gârleanu & Pedersen's market: quadratic trading costs, a linear head, no simplex, no kernel.

One position w in [−3, 3] per account, ``r = 30 bp·x``, reward
``w·(r + noise) − ½·risk·w² − ½C·Δw²``. The head is ``w = 3·action`` and the network sees w/3, so
that its numbers have the size of weights. The environment is this benchmark's own; algorithm,
network and hyperparameters are those of every other market.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from benchmarks.learner_markets import PERSISTENCE
from benchmarks.learner_optima import QuadraticMarket, quadratic_optimum
from market.panel import BoolArray, Float64Array
from training.allocation import ACTION_BOUND
from training.config import TrainingConfig
from training.normalizer import Float32Array
from training.ppo import PortfolioPPO, portfolio_ppo

Act = Callable[[Float32Array], npt.NDArray[Any]]
"""``act(obs (B, 2)) -> (B, 1)`` actions."""

STEPS = 200_000
POSITION_LIMIT = 3.0
SIGMA = 0.01
JUDGED_ACCOUNTS = 200
SETTLE_BARS, JUDGED_BARS = 100, 1_000


class QuadraticVecEnv(VecEnv):
    """B accounts, each with a state of its own; observations are (x, w/3), actions the next w/3."""

    render_mode: str | None = None

    def __init__(self, config: TrainingConfig, *, count: int, seed: int) -> None:
        self.market, self.config = QuadraticMarket(), config
        self._rng = np.random.default_rng(seed)
        self._multiplier = 1.0
        self._actions = np.zeros((count, 1))
        self.state = np.zeros(count)
        self.position = np.zeros(count)
        self.age = np.zeros(count, dtype=np.int64)
        self._taken = (self.position, self.position)
        self._ended = np.zeros((count, 2), np.float32)
        super().__init__(
            count,
            spaces.Box(-np.inf, np.inf, shape=(2,), dtype=np.float32),
            spaces.Box(-ACTION_BOUND, ACTION_BOUND, shape=(1,), dtype=np.float32),
        )

    def set_cost_multiplier(self, multiplier: float) -> None:
        """Charge ``multiplier`` times the trading costs."""
        self._multiplier = multiplier

    def reset(self) -> Float32Array:
        """Draw every account's state and position afresh."""
        self._restart(np.ones(self.num_envs, dtype=np.bool_))
        return self._observe(self.position)

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Keep the actions (B, 1)."""
        self._actions = actions

    def step_wait(self) -> tuple[Float32Array, Float32Array, BoolArray, list[dict[str, Any]]]:
        """Trade, earn the bar's return, move the state; episodes are cut, never terminated."""
        moved = self.market.slope * self.state + SIGMA * self._rng.standard_normal(self.num_envs)
        self._taken = (self.position, moved)
        rewards = self._reward(held(self._actions), self.position, moved)
        self.position = held(self._actions)
        shock = np.sqrt(1 - PERSISTENCE**2) * self._rng.standard_normal(self.num_envs)
        self.state = PERSISTENCE * self.state + shock
        self.age = self.age + 1
        obs = self._observe(self.position)
        self._ended = obs.copy()
        done = self.age >= self.config.episode_bars
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for number in np.flatnonzero(done):
            infos[number] = {
                "terminal_observation": obs[number].copy(),
                "TimeLimit.truncated": True,
            }
        if done.any():
            self._restart(done)
            obs = self._observe(self.position)
        return obs, rewards.astype(np.float32), done, infos

    def instead(
        self, actions: npt.NDArray[Any], held_before: Float64Array | None = None
    ) -> tuple[Float64Array, Float32Array]:
        """What other actions (B, 1), or other positions w/3 before, would have given."""
        position, moved = self._taken
        before = position if held_before is None else POSITION_LIMIT * held_before[:, 0]
        obs = self._ended.copy()
        obs[:, 1] = held(actions) / POSITION_LIMIT
        return self._reward(held(actions), before, moved), obs

    def random_weights(self, count: int) -> Float64Array:
        """Return (count, 1) positions w/3 as episodes begin with."""
        return self._rng.uniform(-1.0, 1.0, (count, 1))

    def _reward(
        self, after: Float64Array, before: Float64Array, moved: Float64Array
    ) -> Float64Array:
        market = self.market
        friction = 0.5 * market.friction * self._multiplier * (after - before) ** 2
        reward: Float64Array = after * moved - 0.5 * market.risk * after**2 - friction
        return reward

    def _restart(self, which: BoolArray) -> None:
        count = int(which.sum())
        self.state[which] = self._rng.standard_normal(count)
        self.position[which] = self._rng.uniform(-1.0, 1.0, count) * POSITION_LIMIT
        self.age[which] = 0

    def _observe(self, position: Float64Array) -> Float32Array:
        return np.stack((self.state, position / POSITION_LIMIT), axis=1).astype(np.float32)

    def close(self) -> None:
        """Nothing to release."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:  # noqa: ARG002 # one object
        """Return the attribute once per account."""
        return [getattr(self, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:  # noqa: ARG002 # one object
        """Set the attribute for all accounts."""
        setattr(self, attr_name, value)

    def env_method(
        self,
        method_name: str,
        *args: Any,
        indices: Any = None,  # noqa: ARG002 # one object
        **kwargs: Any,
    ) -> list[Any]:
        """Call a method once."""
        return [getattr(self, method_name)(*args, **kwargs)] * self.num_envs

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:  # noqa: ARG002 # never wrapped
        """No account has a wrapper."""
        return [False] * self.num_envs


def held(actions: npt.NDArray[Any]) -> Float64Array:
    """(B,) positions for actions (B, 1): the linear head, cut at the limit."""
    position: Float64Array = POSITION_LIMIT * np.clip(actions[:, 0].astype(np.float64), -1.0, 1.0)
    return position


def train_quadratic(seed: int, config: TrainingConfig) -> PortfolioPPO:
    """Train one seed with the hyperparameters of ``config``."""
    env = QuadraticVecEnv(config, count=config.env_count, seed=seed)
    model = portfolio_ppo(env, config, asset_count=1, asset_width=1, seed=seed)
    model.learn(config.total_steps, log_interval=None)  # type: ignore[arg-type]  # None is handled
    return model


def predictor(model: PortfolioPPO) -> Act:
    """Return the model's deterministic action."""
    return lambda obs: model.predict(obs, deterministic=True)[0]


def best_tracker(obs: Float32Array) -> Float64Array:
    """The closed-form optimum as actions (B, 1)."""
    best = quadratic_optimum(QuadraticMarket())
    action: Float64Array = best.keep * obs[:, 1:] + best.aim * obs[:, :1] / POSITION_LIMIT
    return action


def judge_quadratic(act: Act, seed: int) -> float:
    """Expected reward per bar of ``act`` on fresh states, after the accounts have settled."""
    market, rng = QuadraticMarket(), np.random.default_rng(seed)
    state, position = rng.standard_normal(JUDGED_ACCOUNTS), np.zeros(JUDGED_ACCOUNTS)
    rewards = []
    for bar in range(SETTLE_BARS + JUDGED_BARS):
        obs = np.stack((state, position / POSITION_LIMIT), axis=1).astype(np.float32)
        after = held(act(obs))
        friction = 0.5 * market.friction * (after - position) ** 2
        earned = after * market.slope * state - 0.5 * market.risk * after**2 - friction
        if bar >= SETTLE_BARS:
            rewards.append(earned.mean())
        position = after
        shock = np.sqrt(1 - PERSISTENCE**2) * rng.standard_normal(JUDGED_ACCOUNTS)
        state = PERSISTENCE * state + shock
    return float(np.mean(rewards))
