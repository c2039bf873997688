"""What another action would have given, and the advantages and value targets made of it.

Prices do not answer to a paper account, so what it would have earned in the same bar with another
action, or with other holdings, is arithmetic. ``A = Q(s, a) − Q(s, ā)`` then compares the sampled
action with the policy's mean action ``ā`` under the same returns: an input-driven baseline (Mao et
al. 2019), which leaves the expected gradient alone and takes out the noise that both share. From
the next step on the mean policy is followed, so what exploration pays in trading costs enters no
value. Since nothing but the values speaks of later bars, they are also trained on **pairs**: two
accounts with different holdings in the same bar, whose difference the market's noise leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from market.panel import BoolArray, Float64Array
from training.normalizer import Float32Array
from training.policy import PortfolioNetwork, PortfolioPolicy


@runtime_checkable
class Counterfactual(Protocol):
    """An environment that can say what other actions would have given in the step just taken."""

    def instead(
        self, actions: npt.NDArray[Any], held: Float64Array | None = None, /
    ) -> tuple[Float64Array, Float32Array]:
        """Return rewards (B,) and the observations (B, width) that would have followed.

        Args:
            actions: (B, N).
            held: (B, N) weights before the trade, by default those that were held.
        """

    def random_weights(self, count: int) -> Float64Array:
        """Return (count, N) weights as episodes begin with."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """One step of B accounts, each under three actions; (B,) but for ``held`` (B, N).

    Attributes:
        rewards: of the sampled action; ended_values: of the observation that a cut episode ended
            with, NaN where none was cut, 0 where it terminated.
        mean_q: ``r + γV(s')`` of the mean action; values: of the state acted in.
        held: other holdings; pair_difference: ``r + γV(s')`` of the mean action with them, less
            ``mean_q``.
        dones: whether the episode ended with the step.
    """

    rewards: Float32Array
    ended_values: Float32Array
    mean_q: Float32Array
    values: Float32Array
    held: Float32Array
    pair_difference: Float32Array
    dones: BoolArray


def judge(
    game: Counterfactual,
    policy: PortfolioPolicy,
    *,
    obs: Float32Array,
    means: Float32Array,
    values: Float32Array,
    rewards: npt.NDArray[Any],
    dones: BoolArray,
    infos: list[dict[str, Any]],
    gamma: float,
    scale: float,
) -> Judged:
    """Look at the step just taken from ``obs`` with the eyes of two other accounts.

    Args:
        game: has just taken the step, and answers for it.
        policy: gives the mean action of the other holdings, and values.
        obs: (B, width) acted in.
        means: (B, N) its mean actions.
        values: (B,) its values.
        rewards: (B,) of the sampled actions.
        dones: (B,) whether the episode ended.
        infos: as SB3's.
        gamma: discount.
        scale: between rewards and values.
    """
    held = game.random_weights(len(obs)).astype(np.float32)
    device = policy.device
    with torch.no_grad():
        other = with_weights(
            torch.as_tensor(obs, device=device), torch.as_tensor(held, device=device), policy
        )
        other_means = policy.mlp_extractor.forward_actor(other).cpu().numpy()
        mean_rewards, mean_next = game.instead(means)
        other_rewards, other_next = game.instead(other_means, held.astype(np.float64))
    following = _values(np.concatenate((mean_next, other_next)), policy)
    ended = _ended_values(dones, infos, policy)
    goes_on = np.where(ended == 0.0, 0.0, gamma).astype(np.float32)
    mean_values, other_values = np.split(following, 2)
    mean_q = scale * mean_rewards + goes_on * mean_values
    other_q = scale * other_rewards + goes_on * other_values
    return Judged(
        rewards=(scale * rewards).astype(np.float32),
        ended_values=ended,
        mean_q=mean_q.astype(np.float32),
        values=values,
        held=held,
        pair_difference=(other_q - mean_q).astype(np.float32),
        dones=dones,
    )


def advantages(
    steps: list[Judged], last_values: Float32Array, *, gamma: float, gae_lambda: float
) -> tuple[Float32Array, Float32Array]:
    """Return (T, B) advantages of the sampled actions and value targets of the mean policy.

    With ``Q(s, ·) = r + γV(s')`` and ``δ̄ = Q(s, ā) − V(s)``::

        A_t = Q(s_t, a_t) − Q(s_t, ā_t)
        V_t = Q(s_t, ā_t) + Σ_{k≥1} (γλ)^k δ̄_{t+k}, up to the end of the episode

    Args:
        steps: T of them, in order.
        last_values: (B,) of the states after the last step.
        gamma: discount.
        gae_lambda: λ of the value targets (Schulman et al. 2016, eq. 16).
    """
    advantage, target = [], []
    following, ahead = last_values, np.zeros_like(last_values)
    for step in reversed(steps):
        cut = ~np.isnan(step.ended_values)
        next_values = np.where(cut, step.ended_values, following)
        advantage.append(step.rewards + gamma * next_values - step.mean_q)
        future = np.where(step.dones, 0.0, gamma * gae_lambda * ahead).astype(np.float32)
        target.append(step.mean_q + future)
        ahead = step.mean_q - step.values + future
        following = step.values
    return np.stack(advantage[::-1]), np.stack(target[::-1])


def with_weights(obs: torch.Tensor, weights: torch.Tensor, policy: PortfolioPolicy) -> torch.Tensor:
    """Return a copy of ``obs`` (n, width), flat or index, with other ``weights`` (n, N) held."""
    network = cast(PortfolioNetwork, policy.mlp_extractor)
    count = weights.shape[1]
    is_flat = obs.shape[1] == network.flat_width
    start = count * network.asset_width if is_flat else 1
    changed = obs.clone()
    changed[:, start : start + count] = weights
    if changed.shape[1] > start + count:  # cash is the first of the globals
        changed[:, start + count] = 1.0 - weights.sum(dim=1)
    return changed


def _ended_values(
    dones: BoolArray, infos: list[dict[str, Any]], policy: PortfolioPolicy
) -> Float32Array:
    """(B,) NaN where the episode goes on, 0 where it terminated, else the value it was cut at."""
    ended = np.full(len(dones), np.nan, dtype=np.float32)
    ended[dones] = 0.0
    cut = [int(one) for one in np.flatnonzero(dones) if infos[int(one)]["TimeLimit.truncated"]]
    if cut:
        last = np.stack([infos[number]["terminal_observation"] for number in cut])
        ended[cut] = _values(last, policy)
    return ended


def _values(obs: Float32Array, policy: PortfolioPolicy) -> Float32Array:
    """(n,) values of observations (n, width)."""
    with torch.no_grad():
        values = policy.mlp_extractor.forward_critic(torch.as_tensor(obs, device=policy.device))
    result: Float32Array = values[:, 0].cpu().numpy()
    return result
