"""PPO of stable-baselines3 for portfolios: schedules, a control variate, and what replaces it.

``PortfolioPPO`` stays an SB3 algorithm: callbacks, ``save``, ``load`` and ``predict`` are as usual.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from market.panel import Float64Array, Int64Array
from training.allocation import allocate
from training.config import TrainingConfig
from training.counterfactual import Counterfactual, Judged, advantages, judge, with_weights
from training.environment import Episodes, PortfolioVecEnv
from training.normalizer import Float32Array
from training.optimizer import FlatAdamW
from training.policy import PortfolioNetwork, PortfolioPolicy
from training.precision import reduced_precision


@runtime_checkable
class SetsCosts(Protocol):
    """Something whose trading costs can be charged in part; any other follows the noise alone."""

    def set_cost_multiplier(self, multiplier: float) -> None:
        """Charge ``multiplier`` times the trading costs."""


class PortfolioPPO(PPO):
    """PPO whose exploration noise and trading costs follow a schedule.

    On a ``PortfolioVecEnv`` it has the control variate besides; any other environment is collected
    as SB3 does.

    Attributes:
        schedule: the configuration whose schedules are followed; saved with the model. Without
            one this is plain PPO on any environment.
        average: mean of the weights over the last ``averaged_updates`` updates, float64.
    """

    schedule: TrainingConfig | None = None
    average: torch.Tensor | None = None
    averaged_updates = 0
    _pairs: _Pairs | None = None

    def _setup_model(self) -> None:
        super()._setup_model()
        if isinstance(self.policy, PortfolioPolicy) and self.device.type != "cpu":
            self.policy.make_optimizer(self.lr_schedule(1))
        self._watch_market()

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Train on ``env`` from now on."""
        super().set_env(env, force_reset)
        self._watch_market()

    def _watch_market(self) -> None:
        if self.env is None or not isinstance(self.policy, PortfolioPolicy):
            return
        if isinstance(game := self.env.unwrapped, PortfolioVecEnv):
            self.policy.watch(game.episodes.market)

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """Collect as SB3 does, but scheduled, with batched bootstraps and the control variate."""
        if self.schedule is None:
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        if self.schedule.counterfactual:
            return self._collect_counterfactual(env, callback, rollout_buffer, n_rollout_steps)
        if not isinstance(env.unwrapped, PortfolioVecEnv):
            self._apply_schedule(env.unwrapped, cast(PortfolioPolicy, self.policy), self.schedule)
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        game, policy = env.unwrapped, cast(PortfolioPolicy, self.policy)
        self._apply_schedule(game.episodes, policy, self.schedule)
        policy.set_training_mode(False)
        policy.begin_rollout()
        rollout_buffer.reset()
        callback.on_rollout_start()
        assert self._last_obs is not None
        paid = 0.0
        for _ in range(n_rollout_steps):
            obs = cast(Float32Array, self._last_obs)
            actions, means, values, log_probs = _sample(policy, obs)
            bar = game.episodes.portfolios.bar
            new_obs, rewards, dones, infos = env.step(actions)
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer([infos[int(number)] for number in np.flatnonzero(dones)])
            paid += float(rewards.mean())
            informative = rewards - _noise(game, bar, means, self.schedule)
            rewards = (informative * self.schedule.reward_scale).astype(np.float32)
            self._bootstrap(rewards, dones, infos, policy)
            rollout_buffer.add(
                obs, actions, rewards, cast(Any, self._last_episode_starts), values, log_probs
            )
            self._last_obs, self._last_episode_starts = cast(Any, new_obs), dones
        with torch.no_grad():
            last_values = policy.decide(cast(Float32Array, new_obs))[1]
        rollout_buffer.compute_returns_and_advantage(last_values=last_values, dones=dones)
        self.logger.record("rollout/reward", paid / n_rollout_steps)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _collect_counterfactual(
        self, env: VecEnv, callback: BaseCallback, buffer: RolloutBuffer, steps: int
    ) -> bool:
        """Collect with every action judged against the mean action of the same bar."""
        game, policy, schedule = env.unwrapped, cast(PortfolioPolicy, self.policy), self.schedule
        if schedule is None or not isinstance(game, Counterfactual):
            raise TypeError(
                f"training.counterfactual needs an environment with instead(), not "
                f"{type(game).__name__}: set it to false"
            )
        self._apply_schedule(_charging(env), policy, schedule)
        reach = math.exp(probe_log_std(schedule, self._done(schedule)) - float(policy.log_std[0]))
        policy.set_training_mode(False)
        buffer.reset()
        callback.on_rollout_start()
        judged: list[Judged] = []
        for _ in range(steps):
            obs = cast(Float32Array, self._last_obs)
            actions, means, values, log_probs = _sample(policy, obs)
            new_obs, rewards, dones, infos = env.step(means + reach * (actions - means))
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer([infos[int(number)] for number in np.flatnonzero(dones)])
            judged.append(
                judge(
                    game, policy,
                    obs=obs, means=means, values=values.cpu().numpy()[:, 0],
                    rewards=rewards, dones=dones, infos=infos,
                    gamma=self.gamma, scale=schedule.reward_scale,
                )
            )  # fmt: skip
            started = cast(Any, self._last_episode_starts)
            buffer.add(obs, actions, judged[-1].rewards, started, values, log_probs)
            self._last_obs, self._last_episode_starts = cast(Any, new_obs), dones
        with torch.no_grad():
            last = policy.predict_values(torch.as_tensor(new_obs, device=self.device))
        buffer.compute_returns_and_advantage(last_values=last, dones=dones)
        buffer.advantages, buffer.returns = advantages(
            judged, last.cpu().numpy()[:, 0], gamma=self.gamma, gae_lambda=self.gae_lambda
        )
        self._pairs = _Pairs(
            held=self._on_device([one.held for one in judged]),
            difference=self._on_device([one.pair_difference for one in judged]),
        )
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def train(self) -> None:
        """Update as SB3 does (clipped surrogate, normalised advantages), with less overhead."""
        if self.schedule is None:
            super().train()
            return
        policy, buffer = cast(PortfolioPolicy, self.policy), self.rollout_buffer
        policy.set_training_mode(True)
        self._update_learning_rate(policy.optimizer)
        clip = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]  # SB3 wraps the number
        batch = _flatten(buffer, self.device)
        with reduced_precision(self.device):
            for _ in range(self.n_epochs):
                order = torch.randperm(len(batch.advantages), device=self.device)
                for rows in torch.split(order, self.batch_size):
                    losses = self._minibatch(policy, batch.take(rows), clip, self._pairs_at(rows))
        self._n_updates += self.n_epochs
        for name, loss in zip(("policy_loss", "value_loss"), losses, strict=True):
            self.logger.record(f"train/{name}", float(loss))
        self.logger.record("train/log_std", float(policy.log_std.mean()))
        self._average_weights(cast(FlatAdamW, policy.optimizer), self.schedule)

    def _on_device(self, parts: Sequence[Float32Array]) -> torch.Tensor:
        return torch.as_tensor(np.concatenate(parts), device=self.device)

    def _pairs_at(self, rows: torch.Tensor) -> _Pairs | None:
        pairs = self._pairs
        if pairs is None:
            return None
        return _Pairs(held=pairs.held[rows], difference=pairs.difference[rows])

    def _average_weights(self, optimizer: FlatAdamW, schedule: TrainingConfig) -> None:
        """Add the weights to the average where it has begun, and take it over at the end."""
        if self._done(schedule) <= 1.0 - schedule.average_fraction:
            return
        before = 0.0 if self.average is None else self.average
        self.averaged_updates += 1
        self.average = before + (optimizer.values.double() - before) / self.averaged_updates
        if self.num_timesteps >= schedule.total_steps:
            optimizer.set_values(self.average)

    def _done(self, schedule: TrainingConfig) -> float:
        """Share of the run that is over."""
        return min(1.0, self.num_timesteps / schedule.total_steps)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_pairs"]

    def _minibatch(
        self, policy: PortfolioPolicy, batch: _Batch, clip: float, pairs: _Pairs | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take one step and return the two losses before it."""
        means, values, apart = _forward(policy, batch.observations, pairs)
        log_probs = _log_probability(batch.actions - means, policy.log_std)
        ratio = torch.exp(log_probs - batch.log_probs)
        advantages = batch.advantages
        if len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        clipped = torch.clamp(ratio, 1 - clip, 1 + clip)
        policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean()
        value_loss = (batch.returns - values).square().mean()
        loss = policy_loss + self.vf_coef * value_loss
        if pairs is not None and self.schedule is not None:
            gap = apart - pairs.difference
            loss = loss + self.schedule.pair_coefficient * gap.square().mean()
        optimizer = cast(FlatAdamW, policy.optimizer)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.clip_gradient(self.max_grad_norm)
        optimizer.step()
        return policy_loss.detach(), value_loss.detach()

    def _apply_schedule(
        self, charging: VecEnv | Episodes, policy: PortfolioPolicy, schedule: TrainingConfig
    ) -> None:
        done = self._done(schedule)
        policy.set_log_std(log_std(schedule, done))
        if isinstance(charging, SetsCosts):
            charging.set_cost_multiplier(cost_multiplier(schedule, done))

    def _bootstrap(
        self,
        rewards: npt.NDArray[np.float32],
        dones: npt.NDArray[np.bool_],
        infos: Sequence[dict[str, Any]],
        policy: PortfolioPolicy,
    ) -> None:
        """Add the discounted value of what a truncated account would have gone on to see."""
        cut = [
            int(number)
            for number in np.flatnonzero(dones)
            if infos[int(number)]["TimeLimit.truncated"]
        ]
        if not cut:
            return
        ended = np.stack([infos[number]["terminal_observation"] for number in cut])
        values = policy.decide(ended)[1]
        rewards[cut] += self.gamma * values.cpu().numpy()[:, 0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pairs:
    """For each transition other holdings (n, N), and by how much their value differs (n,)."""

    held: torch.Tensor
    difference: torch.Tensor


def _forward(
    policy: PortfolioPolicy, obs: torch.Tensor, pairs: _Pairs | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return means (n, N), values (n,), and by how much other holdings' values differ, (n,).

    One pass serves both holdings: the windows gathered for a gradient do not outlive the next.
    """
    count = len(obs)
    both = obs if pairs is None else torch.cat((obs, with_weights(obs, pairs.held, policy)))
    network = cast(PortfolioNetwork, policy.mlp_extractor)
    means, values = network(both)
    return means[:count], values[:count, 0], values[count:, 0] - values[: len(both) - count, 0]


def _charging(env: VecEnv) -> VecEnv | Episodes:
    """What sets the costs of an environment."""
    game = env.unwrapped
    return game.episodes if isinstance(game, PortfolioVecEnv) else game


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Batch:
    """Transitions (n, ...) of a rollout."""

    observations: torch.Tensor
    actions: torch.Tensor
    log_probs: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor

    def take(self, rows: torch.Tensor) -> _Batch:
        return _Batch(
            observations=self.observations[rows],
            actions=self.actions[rows],
            log_probs=self.log_probs[rows],
            advantages=self.advantages[rows],
            returns=self.returns[rows],
        )


def _flatten(buffer: RolloutBuffer, device: torch.device) -> _Batch:
    """Join the steps and the accounts of a full rollout into one axis, on ``device``."""
    return _Batch(
        observations=torch.as_tensor(buffer.observations, device=device).flatten(0, 1),
        actions=torch.as_tensor(buffer.actions, device=device).flatten(0, 1),
        log_probs=torch.as_tensor(buffer.log_probs, device=device).flatten(),
        advantages=torch.as_tensor(buffer.advantages, device=device).flatten(),
        returns=torch.as_tensor(buffer.returns, device=device).flatten(),
    )


def _log_probability(deviation: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
    """(n,) log density of a diagonal Gaussian at ``deviation`` (n, N) from its mean."""
    scaled = deviation * torch.exp(-log_std)
    density = -0.5 * (scaled.square() + math.log(2 * math.pi)) - log_std
    return density.sum(dim=-1)


def log_std(schedule: TrainingConfig, done: float) -> float:
    """Logarithm of the exploration noise when ``done`` (0 to 1) of the run is over."""
    ramp = min(1.0, done / schedule.log_std_fraction)
    return schedule.log_std_start + ramp * (schedule.log_std_end - schedule.log_std_start)


def probe_log_std(schedule: TrainingConfig, done: float) -> float:
    """Logarithm of the deviation that is carried out when ``done`` (0 to 1) of the run is over."""
    start, end = schedule.probe_log_std_start, schedule.probe_log_std_end
    return start + done * (end - start)


def cost_multiplier(schedule: TrainingConfig, done: float) -> float:
    """Share of the trading costs charged when ``done`` (0 to 1) of the run is over."""
    if schedule.cost_ramp_fraction == 0:
        return 1.0
    ramp = min(1.0, done / schedule.cost_ramp_fraction)
    return schedule.cost_ramp_start + ramp * (1.0 - schedule.cost_ramp_start)


def portfolio_ppo(
    env: VecEnv, config: TrainingConfig, *, asset_count: int, asset_width: int, seed: int
) -> PortfolioPPO:
    """Return an untrained model of ``config`` on any environment with assets and weights.

    Args:
        env: observations are N rows of ``asset_width`` values, N weights, then globals.
        config: network, schedules and hyperparameters.
        asset_count: N.
        asset_width: market values per asset.
        seed: of the network and the exploration.
    """
    model = PortfolioPPO(
        PortfolioPolicy,
        env,
        learning_rate=LinearSchedule(config.learning_rate_start, config.learning_rate_end, 1.0),
        n_steps=config.rollout_steps,
        batch_size=config.batch_size,
        n_epochs=config.epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        vf_coef=config.value_coefficient,
        max_grad_norm=config.max_grad_norm,
        policy_kwargs={
            "kind": config.policy,
            "asset_count": asset_count,
            "asset_width": asset_width,
            "actor_sizes": config.actor_sizes,
            "critic_sizes": config.critic_sizes,
            "actor_context": config.actor_context,
            "initial_exposure": config.initial_exposure,
            "initial_hold": config.initial_hold,
            "log_std_init": config.log_std_start,
            "weight_decay": config.weight_decay,
        },
        seed=seed,
        device="cpu",
    )
    model.schedule = config
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def _sample(
    policy: PortfolioPolicy, obs: Float32Array
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], torch.Tensor, torch.Tensor]:
    """Return actions, mean actions, values and log-probabilities, as ``policy.forward`` would."""
    with torch.no_grad():
        means, values = policy.decide(obs)
        noise = torch.randn_like(means)
        actions = means + noise * policy.log_std.exp()
        log_probs = _log_probability(actions - means, policy.log_std)
    return actions.cpu().numpy(), means.cpu().numpy(), values, log_probs


def _noise(
    game: PortfolioVecEnv, bar: Int64Array, means: npt.NDArray[np.float32], config: TrainingConfig
) -> Float64Array:
    """(B,) the part of the last reward that says nothing about the action, to be subtracted.

    With ``w`` the sampled weights, ``w̄`` those of the mean action, ``R`` the assets' returns, ``μ``
    what the features predicted of them, and ``m`` the cross-section's mean return:
    ``w̄·(R − μ)`` does not depend on the sampled action, and subtracting it leaves the expected
    gradient alone (a control variate). ``(1 − c)·m·Σ(w − w̄)`` does: it shrinks what the market as
    a whole earned toward zero, since its mean cannot be told from noise within one window.
    """
    episodes, market = game.episodes, game.episodes.market
    assert game.last_outcome is not None
    weights = game.last_outcome.record.target
    returns = market.bar_return[bar + 1]
    common = (1.0 - config.market_share) * returns.mean(axis=-1, keepdims=True)
    if not config.control_variate:
        return _dot(weights, np.broadcast_to(common, weights.shape))
    mean_weights = allocate(
        means.astype(np.float64), budget=episodes.budget, long_only=config.long_only
    )
    predicted = market.expected_return[bar]
    return _dot(mean_weights, returns - common - predicted) + _dot(
        weights, np.broadcast_to(common, weights.shape)
    )


def _dot(left: Float64Array, right: Float64Array) -> Float64Array:
    total: Float64Array = np.einsum("ij,ij->i", left, right)
    return total
