"""PortfolioPPO: SB3's algorithm with schedules and a control variate, and the training itself."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from benchmarks.learner_quadratic import QuadraticVecEnv
from broker.costs import TradingRules
from broker.tiers import Ladder, MarginTable
from market.snapshot import save_snapshot
from tests.training.learner_factory import (
    ASSETS,
    COSTS,
    TINY,
    episodes_of,
    job_on,
    small_market,
    small_panel,
)
from tests.training.learner_models import trained
from tests.training.market_factory import instruments_of, panel_of
from training import learner, ppo
from training.config import PolicyKind, TrainingConfig, TrainingJob
from training.environment import FlatObservations, PortfolioVecEnv
from training.inference import load_policy
from training.learner import train
from training.optimizer import FlatAdamW
from training.policy import PortfolioPolicy
from training.ppo import PortfolioPPO, cost_multiplier, log_std, portfolio_ppo
from training.simulation import Portfolios


class Collected(BaseCallback):
    """Ends the training after one rollout."""

    def _on_step(self) -> bool:
        return True


def as_is(game: PortfolioVecEnv) -> VecEnv:
    return game


def model_on(
    game: PortfolioVecEnv,
    config: TrainingConfig,
    kind: type[PPO],
    *,
    wrap: Callable[[PortfolioVecEnv], VecEnv] = as_is,
) -> PPO:
    schema = game.episodes.market.schema
    env = wrap(game)
    return kind(
        PortfolioPolicy,
        env,
        n_steps=config.rollout_steps,
        batch_size=config.batch_size,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        n_epochs=config.epochs,
        policy_kwargs={
            "kind": config.policy,
            "actor_sizes": config.actor_sizes,
            "asset_count": schema.asset_count,
            "asset_width": schema.asset_width,
            "log_std_init": config.log_std_start,
        },
        seed=5,
        device="cpu",
    )


def test_a_rollout_equals_stable_baselines3s() -> None:
    """Without control variate, shrinkage, scale and ramp the buffer is SB3's, bootstraps too."""
    config = TINY.replace(
        control_variate=False, market_share=1.0, reward_scale=1.0, cost_ramp_start=1.0,
        log_std_end=TINY.log_std_start, rollout_steps=30, batch_size=240, total_steps=240,
    )  # fmt: skip
    buffers = []
    for kind in (PPO, PortfolioPPO):
        env = PortfolioVecEnv(episodes_of(small_market(small_panel()), 8, config=config))
        wrap = as_is if kind is PortfolioPPO else FlatObservations
        model = model_on(env, config, kind, wrap=wrap)
        if isinstance(model, PortfolioPPO):
            model.schedule = config
        model.train = lambda: None  # type: ignore[method-assign]  # collect only
        model.learn(240)
        buffers.append(model.rollout_buffer)
    for name in ("actions", "rewards", "values", "log_probs", "advantages"):
        np.testing.assert_allclose(
            getattr(buffers[0], name), getattr(buffers[1], name), atol=2e-5, err_msg=name
        )


def test_an_update_equals_stable_baselines3s_loss() -> None:
    """One full-batch update moves the network as SB3's own ``train`` does."""
    config = TINY.replace(rollout_steps=8, batch_size=64, epochs=1, total_steps=64)
    results = []
    for schedule in (None, config):
        env = PortfolioVecEnv(episodes_of(small_market(small_panel()), 8, config=config))
        model = model_on(env, config, PortfolioPPO)
        assert isinstance(model, PortfolioPPO)
        model.n_epochs = 1
        model._setup_learn(64)
        callback = Collected()
        callback.init_callback(model)
        model.collect_rollouts(env, callback, model.rollout_buffer, 8)
        model.schedule = schedule
        model.train()
        results.append(torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach())
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", list(PolicyKind))
def test_index_observations_are_the_flat_ones(kind: PolicyKind) -> None:
    """A rollout and a whole update give the same network, whichever of the two PPO was shown."""
    config = TINY.replace(policy=kind, lookback_bars=4, actor_sizes=(8, 8))
    trained_on = []
    for wrap in (as_is, FlatObservations):
        game = PortfolioVecEnv(
            episodes_of(small_market(small_panel(), config), config.env_count, config=config)
        )
        model = model_on(game, config, PortfolioPPO, wrap=wrap)
        assert isinstance(model, PortfolioPPO)
        model.schedule = config
        model.learn(2 * config.env_count * config.rollout_steps)
        trained_on.append(torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach())
    torch.testing.assert_close(trained_on[0], trained_on[1], atol=2e-5, rtol=1e-4)


def test_a_loaded_model_understands_index_observations() -> None:
    """``predict`` takes what the environment hands out, and what plain SB3 would see."""
    model, window, _, _ = trained()
    archive = io.BytesIO()
    model.save(archive)
    archive.seek(0)
    game = PortfolioVecEnv(episodes_of(window.market, TINY.env_count))
    loaded = PortfolioPPO.load(archive, env=game, device="cpu")
    indexed = game.reset()
    full = game.episodes.observe(np.empty((len(indexed), window.market.schema.width), np.float32))
    assert indexed.shape[1] < full.shape[1]
    np.testing.assert_allclose(
        loaded.predict(indexed, deterministic=True)[0],
        loaded.predict(full, deterministic=True)[0],
        atol=1e-6,
    )
    np.testing.assert_allclose(
        loaded.predict(indexed[3], deterministic=True)[0],
        loaded.predict(full[3], deterministic=True)[0],
        atol=1e-6,
    )


def test_schedules_by_hand() -> None:
    """Costs ramp from 0.1 to 1 over half the run; log σ falls from −1 to −3 over all of it."""
    config = TINY.replace(
        cost_ramp_start=0.1, cost_ramp_fraction=0.5, log_std_start=-1.0, log_std_end=-3.0
    )
    assert [cost_multiplier(config, done) for done in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(
        [0.1, 0.55, 1.0, 1.0]
    )
    assert [log_std(config, done) for done in (0.0, 0.5, 1.0)] == pytest.approx([-1.0, -2.0, -3.0])


def test_the_control_variate_by_hand() -> None:
    """Means hold (0.5, 0.5), the account (1, 0), returns are 10 % and 2 %, shares of m are 0.25.

    m = 6 %, of which 4.5 % is removed from both: w̄·(R − 0.045 − μ) + w·0.045 with μ = (1 %, 0).
    """
    close = np.full((420, 2), 100.0)
    close[301] = (110.0, 102.0)
    panel = panel_of(close)
    config = TINY.replace(market_share=0.25)
    market = small_market(panel, config)
    market.expected_return[300] = (0.01, 0.0)
    env = PortfolioVecEnv(episodes_of(market, 1, config=config))
    env.reset()
    env.episodes.restart(np.arange(1), bar=np.array([300]), weights=np.zeros((1, 2)))
    env.step(np.array([[2.0, -1.0]]))
    noise = ppo._noise(
        env, np.array([300]), np.array([[0.5 - 1 / 3, 0.5 - 1 / 3]], np.float32), config
    )
    expected = 0.5 * (0.10 - 0.045 - 0.01) + 0.5 * (0.02 - 0.045) + 0.045
    assert noise[0] == pytest.approx(expected, abs=1e-6)


def test_adamw_against_its_formula() -> None:
    """Three steps on one weight, recomputed from Loshchilov & Hutter's algorithm 2."""
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = FlatAdamW([weight], 0.1, weight_decay=0.5, eps=1e-8)
    value, first, second = 1.0, 0.0, 0.0
    for step, gradient in enumerate((0.3, -0.2, 0.4), start=1):
        optimizer.zero_grad()
        torch.autograd.backward((weight * gradient).sum())
        optimizer.step()
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        adam = first / (1 - 0.9**step) / (math.sqrt(second / (1 - 0.999**step)) + 1e-8)
        value = value * (1 - 0.1 * 0.5) - 0.1 * adam
        assert float(weight.detach()) == pytest.approx(value, abs=1e-6)


def test_gradient_clipping_keeps_the_direction() -> None:
    """A gradient of (3, 4) clipped to 1 is (0.6, 0.8); a small one is left alone."""
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = FlatAdamW([weight], 0.1)
    torch.autograd.backward((weight * torch.tensor([3.0, 4.0])).sum())
    optimizer.clip_gradient(1.0)
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, torch.tensor([0.6, 0.8]), atol=1e-5, rtol=0)
    optimizer.clip_gradient(10.0)
    torch.testing.assert_close(weight.grad, torch.tensor([0.6, 0.8]), atol=1e-5, rtol=0)


def test_save_and_load_keep_training() -> None:
    """A loaded model predicts the same, keeps its schedule, and can go on learning."""
    model, window, job, _ = trained()
    archive = io.BytesIO()
    model.save(archive)
    archive.seek(0)
    env = PortfolioVecEnv(episodes_of(window.market, TINY.env_count))
    loaded = PortfolioPPO.load(archive, env=env, device="cpu")
    obs = trained().artefact.self_check.observations
    np.testing.assert_array_equal(
        loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
    )
    assert loaded.schedule == job.config
    loaded.learn(TINY.env_count * TINY.rollout_steps)
    assert not np.array_equal(
        loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
    )


def test_the_seed_decides_everything() -> None:
    """The same job trained twice gives the same arrays; another seed gives others."""
    again = trained.__wrapped__(1, TINY)
    for name, array in trained(1).artefact.members[0].actor.items():
        np.testing.assert_array_equal(again.artefact.members[0].actor[name], array)
    assert not np.array_equal(
        trained(2).artefact.members[0].actor["own_0"], trained(1).artefact.members[0].actor["own_0"]
    )


def test_plain_ppo_still_works() -> None:
    """Without a schedule the subclass is SB3's PPO, on any environment."""
    model = PortfolioPPO("MlpPolicy", make_vec_env("CartPole-v1", 2), n_steps=16, batch_size=16)
    model.learn(32)
    assert model.num_timesteps == 32


def test_reordering_assets_reorders_the_actions() -> None:
    """One encoder serves all assets: the policy is permutation-equivariant."""
    model, _, _, artefact = trained()
    schema = artefact.schema
    obs = np.random.default_rng(0).normal(size=(20, schema.width)).astype(np.float32)
    order = [2, 0, 1]
    market = obs[:, : schema.market_width].reshape(20, ASSETS, schema.asset_width)
    weights = obs[:, schema.market_width : schema.market_width + ASSETS]
    moved = np.concatenate(
        (
            market[:, order].reshape(20, -1),
            weights[:, order],
            obs[:, schema.market_width + ASSETS :],
        ),
        axis=1,
    )
    np.testing.assert_allclose(
        model.predict(moved, deterministic=True)[0],
        model.predict(obs, deterministic=True)[0][:, order],
        atol=1e-6,
    )


def test_train_reads_a_snapshot_and_writes_an_artefact(tmp_path: Path) -> None:
    """From a snapshot directory to a policy that loads, with progress up to the total."""
    panel = small_panel()
    snapshot = save_snapshot(panel, instruments_of(panel), venue="binanceusdm", root=tmp_path)
    seen: list[tuple[int, int]] = []
    job = TrainingJob(
        snapshot_dir=snapshot.directory,
        start=int(panel.open_time[0]),
        stop=int(panel.close_time[-1]),
        seed=1,
        config=TINY,
        costs=COSTS,
    )
    directory = train(job, tmp_path / "model", lambda done, total: seen.append((done, total)))
    policy = load_policy(directory)
    assert policy.artefact.lineage.snapshot_id == snapshot.id
    assert seen[-1] == (TINY.total_steps, TINY.total_steps)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_training_never_reads_beyond_its_window() -> None:
    """Change every bar at or after ``stop``: normaliser and trained arrays stay bit-equal."""
    panel = small_panel()
    close = panel.close.copy()
    close[380:] *= 7.0
    results = []
    for data in (panel, panel_of(close)):
        job = TrainingJob(
            snapshot_dir=Path("x"),
            start=int(panel.open_time[0]),
            stop=int(panel.close_time[379]),
            seed=1,
            config=TINY,
            costs=COSTS,
        )
        window = learner.training_window(data, instruments_of(data), job)
        model = learner.learn(window, job, lambda _done, _total: None)
        results.append(learner.export(model, window, job, "x"))
    np.testing.assert_array_equal(results[0].normalizer.mean, results[1].normalizer.mean)
    for name, array in results[0].members[0].actor.items():
        np.testing.assert_array_equal(results[1].members[0].actor[name], array)


def test_training_accounts_are_liquidated_by_the_margin_of_the_job() -> None:
    """Invested 1.9 times, a bar costs a table that asks for 90 % the account, and no other one."""
    panel = small_panel()
    strict = MarginTable((Ladder(symbol="*", since=0, tiers=((0.0, 0.9),), liquidation_fee=0.05),))
    job = dataclasses.replace(job_on(panel), rules=TradingRules(leverage_limit=2.0))
    liquidated = {}
    for table in (job.margin, strict):
        asked = dataclasses.replace(job, margin=table)
        window = learner.training_window(panel, instruments_of(panel), asked)
        accounts = Portfolios(
            window.market.accounts, count=1, costs=job.costs, rules=job.rules,
            deposit_quote=10_000.0, sigma_window_bars=20,
        )  # fmt: skip
        accounts.open_accounts(np.zeros(1, int), np.full(1, 300), np.zeros((1, 3)))
        liquidated[table.content_hash] = bool(accounts.step(np.full((1, 3), 0.63)).liquidated[0])
    assert liquidated == {job.margin.content_hash: False, strict.content_hash: True}
    assert job.job_id != dataclasses.replace(job, margin=strict).job_id


def test_a_window_too_short_for_one_decision_is_refused() -> None:
    """Fewer bars than the features' warm-up and one step cannot be trained on."""
    panel = small_panel().window(0, 248)
    with pytest.raises(ValueError, match="training window holds 248 bars"):
        learner.training_window(panel, instruments_of(panel), job_on(panel))


def test_an_environment_of_ones_own_follows_the_schedule() -> None:
    """Noise and costs are scheduled on any environment, not on a ``PortfolioVecEnv`` alone."""

    class Charged(QuadraticVecEnv):
        charged: tuple[float, ...] = ()

        def set_cost_multiplier(self, multiplier: float) -> None:
            self.charged = (*self.charged, multiplier)

    config = TINY.replace(cost_ramp_start=0.0, cost_ramp_fraction=1.0, initial_hold=0)
    env = Charged(config, count=8, seed=1)
    model = portfolio_ppo(env, config, asset_count=1, asset_width=1, seed=1)
    model.learn(config.total_steps)
    assert env.charged == (0.0, 0.5)
    assert float(cast(PortfolioPolicy, model.policy).log_std) == pytest.approx(log_std(config, 0.5))
