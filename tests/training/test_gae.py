"""The advantages of a rollout, recomputed account by account with a loop from the definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from market.panel import Float64Array
from tests.training.learner_factory import TINY, episodes_of, small_market
from tests.training.market_factory import panel_of, random_close
from training.environment import PortfolioVecEnv
from training.policy import PortfolioPolicy, SharedNetwork
from training.ppo import PortfolioPPO

STEPS, ACCOUNTS = 30, 6
CONFIG = TINY.replace(
    env_count=ACCOUNTS, rollout_steps=STEPS, batch_size=ACCOUNTS * STEPS, episode_bars=7,
    drawdown_limit=0.012, control_variate=False, market_share=1.0, reward_scale=1.0,
    cost_ramp_start=1.0, total_steps=STEPS * ACCOUNTS,
)  # fmt: skip


class Recorder(BaseCallback):
    """Keeps what the environment gave and what the critic said of it."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[dict[str, Any]] = []
        self.last_values = np.empty(0)

    def _on_step(self) -> bool:
        found = {name: self.locals[name] for name in ("rewards", "dones", "infos")}
        self.steps.append(
            {name: np.copy(found[name]) for name in ("rewards", "dones")}
            | {"values": self.locals["values"].numpy()[:, 0].astype(np.float64)}
            | {"after": [self._after(info) for info in found["infos"]]}
        )
        return True

    def _on_rollout_end(self) -> None:
        self.last_values = self.locals["last_values"].numpy()[:, 0].astype(np.float64)

    def _after(self, info: dict[str, Any]) -> float:
        """Value of the state that an episode was cut at; 0 where it ended for good."""
        if not info.get("TimeLimit.truncated", False):
            return 0.0
        obs = torch.as_tensor(info["terminal_observation"][None])
        with torch.no_grad():
            return float(self.model.policy.predict_values(obs))  # type: ignore[operator]  # a method


def by_definition(recorder: Recorder, gamma: float, gae_lambda: float) -> Float64Array:
    """``A_t = Σ_k (γλ)^k δ_{t+k}`` up to the episode's end, δ with the value of what came next."""
    advantages = np.zeros((len(recorder.steps), ACCOUNTS))
    for account in range(ACCOUNTS):
        for begin in range(len(recorder.steps)):
            discount = 1.0
            for time in range(begin, len(recorder.steps)):
                step = recorder.steps[time]
                is_last = time + 1 == len(recorder.steps)
                following = recorder.last_values if is_last else recorder.steps[time + 1]["values"]
                after = step["after"] if step["dones"][account] else following
                delta = step["rewards"][account] + gamma * after[account] - step["values"][account]
                advantages[begin, account] += discount * delta
                discount *= gamma * gae_lambda
                if step["dones"][account]:
                    break
    return advantages


def test_advantages_are_those_of_the_definition() -> None:
    """With episodes that are cut (bootstrap), that end for good (no value), and that go on."""
    market = small_market(panel_of(random_close(3, 420, 3)), CONFIG)
    game = PortfolioVecEnv(episodes_of(market, ACCOUNTS, config=CONFIG))
    schema = market.schema
    model = PortfolioPPO(
        PortfolioPolicy, game, n_steps=STEPS, batch_size=CONFIG.batch_size, seed=5, device="cpu",
        gamma=0.97, gae_lambda=0.8,
        policy_kwargs={"asset_count": schema.asset_count, "asset_width": schema.asset_width},
    )  # fmt: skip
    with torch.no_grad():  # a critic whose values matter
        network: SharedNetwork = model.policy.mlp_extractor  # type: ignore[assignment]  # ours
        network.critic.stack[-1].own.weight.mul_(100.0)
    model.schedule = CONFIG
    model.train = lambda: None  # type: ignore[method-assign]  # collect only
    recorder = Recorder()
    model.learn(STEPS * ACCOUNTS, callback=recorder)
    ends = [
        (bool(d), a != 0)
        for s in recorder.steps
        for d, a in zip(s["dones"], s["after"], strict=True)
    ]
    assert (True, True) in ends
    assert (True, False) in ends
    np.testing.assert_allclose(
        model.rollout_buffer.advantages, by_definition(recorder, 0.97, 0.8), atol=1e-5
    )
    np.testing.assert_allclose(
        model.rollout_buffer.returns,
        model.rollout_buffer.advantages + model.rollout_buffer.values,
        atol=1e-6,
    )
