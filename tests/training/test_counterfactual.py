"""What another action would have given: against the environment itself, and by hand."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch

from benchmarks.learner_quadratic import QuadraticVecEnv
from market.panel import Float64Array
from tests.training.learner_factory import (
    COSTS,
    FREE,
    TINY,
    episodes_of,
    job_on,
    small_market,
    small_panel,
)
from tests.training.market_factory import instruments_of
from training.allocation import action_for
from training.config import RewardKind
from training.counterfactual import Judged, advantages, with_weights
from training.environment import PortfolioVecEnv
from training.inference import Policy
from training.learner import export, learn, training_window
from training.normalizer import Float32Array
from training.optimizer import FlatAdamW
from training.policy import PortfolioPolicy
from training.ppo import PortfolioPPO, portfolio_ppo

PAIRED = TINY.replace(counterfactual=True, average_fraction=0.5)


def weights_for(count: int, seed: int) -> Float64Array:
    """(count, 3) portfolios with some cash."""
    return np.random.default_rng(seed).dirichlet(np.ones(4), count)[:, :3] * 0.9


@pytest.mark.parametrize("kind", list(RewardKind))
def test_another_action_gives_what_the_environment_would_have_given(kind: RewardKind) -> None:
    """Two environments in the same state: one takes the action, the other says what it had given.

    Both charge a fee that does not depend on the size; what is left are lots and minimums.
    """
    config = TINY.replace(reward=kind)
    panel = small_panel()
    other, taken = (weights_for(16, seed) for seed in (1, 2))
    outcome, answered = [], []
    for first in (other, taken):
        env = PortfolioVecEnv(episodes_of(small_market(panel, config), 16, config=config))
        env.reset()
        for seed in (5, 6, 7):
            env.step(action_for(weights_for(16, seed), long_only=True))
        obs, reward, done, _ = env.step(action_for(first, long_only=True))
        assert not done.any()
        outcome.append((reward, np.array(obs)))
        answered.append(env.instead(action_for(other, long_only=True)))
    (expected_reward, expected_obs), (reward, obs) = outcome[0], answered[1]
    scale = np.abs(expected_reward).max()
    np.testing.assert_allclose(reward, expected_reward, atol=2e-3 * scale + 2e-6)
    np.testing.assert_allclose(obs[:, 1:4], expected_obs[:, 1:4], atol=2e-4)


def test_other_holdings_pay_for_their_own_trade() -> None:
    """The same target from all cash and from the target itself differ by the cost of buying it."""
    market = small_market(small_panel())
    episodes = episodes_of(market, 8)
    episodes.restart(np.arange(8))
    target = weights_for(8, 3)
    action = action_for(target, long_only=True)
    episodes.advance(action)
    from_cash, _ = episodes.instead(action, np.zeros((8, 3)))
    there_already, _ = episodes.instead(action, target)
    paid = (there_already - from_cash) / target.sum(axis=1)
    assert (paid > COSTS.fee_rate + COSTS.half_spread_bps * 1e-4 - 1e-9).all()
    free = episodes_of(market, 8, costs=FREE)
    free.restart(np.arange(8))
    free.advance(action)
    np.testing.assert_allclose(free.instead(action, target)[0], free.instead(action, 0 * target)[0])


def judged(**figures: list[float]) -> Judged:
    arrays = {name: np.array(values, dtype=np.float32) for name, values in figures.items()}
    return Judged(
        held=np.zeros((2, 1), np.float32),
        pair_difference=np.zeros(2, np.float32),
        dones=~np.isnan(arrays["ended_values"]),
        **arrays,
    )


def test_advantages_by_hand() -> None:
    """γ = 0.5, λ = 0.5; the first account goes on, the second is cut off after its first step."""
    nan = float("nan")
    steps = [
        judged(rewards=[1, 2], ended_values=[nan, 8], mean_q=[3, 5], values=[2, 4]),
        judged(rewards=[0, 1], ended_values=[nan, 0], mean_q=[1, 1], values=[6, 2]),
    ]
    advantage, target = advantages(
        steps, np.array([4, 4], dtype=np.float32), gamma=0.5, gae_lambda=0.5
    )
    # Q(a) − Q(ā): 1 + 0.5·6 − 3 and 2 + 0.5·8 − 5; then 0 + 0.5·4 − 1 and 1 + 0 − 1.
    np.testing.assert_allclose(advantage, np.array([[1, 1], [1, 0]]))
    # The last targets are Q(ā); the first account's adds γλ·(1 − 6), the second's nothing.
    np.testing.assert_allclose(target, np.array([[3 - 1.25, 5], [1, 1]]))


def test_only_the_weights_of_an_observation_change() -> None:
    """Weights and cash are replaced, in flat and in index observations; nothing else is."""
    config = PAIRED
    panel = small_panel()
    window = training_window(panel, instruments_of(panel), job_on(panel, config=config))
    model = learn(window, job_on(panel, config=config), lambda _done, _total: None)
    policy = cast(PortfolioPolicy, model.policy)
    held = torch.tensor([[0.1, 0.2, 0.3]])
    width = window.market.schema.width
    for size, start in ((policy.index_width, 1), (width, window.market.schema.market_width)):
        before = torch.arange(float(size))[None]
        after = with_weights(before, held, policy)
        changed = (after != before)[0].nonzero()[:, 0].tolist()
        assert changed == [start, start + 1, start + 2, start + 3]
        torch.testing.assert_close(after[0, start : start + 4], torch.tensor([0.1, 0.2, 0.3, 0.4]))


def test_the_kept_policy_is_the_average_of_the_last_updates() -> None:
    """Of two updates the second half is one: its weights; of a whole run, the mean of both."""
    panel = small_panel()
    last: dict[float, Float32Array] = {}
    for share in (0.0, 0.5, 1.0):
        config = PAIRED.replace(average_fraction=share)
        job = job_on(panel, config=config)
        model = learn(training_window(panel, instruments_of(panel), job), job, lambda _d, _t: None)
        last[share] = cast(FlatAdamW, model.policy.optimizer).values.numpy().copy()
        assert model.averaged_updates == round(2 * share)
    np.testing.assert_array_equal(last[0.5], last[0.0])
    assert not np.array_equal(last[1.0], last[0.0])


def test_a_counterfactual_training_is_reproducible_and_exports() -> None:
    """The same seed gives the same arrays, and the numpy policy agrees with the averaged one."""
    panel = small_panel()
    job = job_on(panel, config=PAIRED)
    window = training_window(panel, instruments_of(panel), job)
    first, again = (
        export(learn(window, job, lambda _done, _total: None), window, job, "snapshot")
        for _ in range(2)
    )
    for name, array in first.members[0].actor.items():
        np.testing.assert_array_equal(again.members[0].actor[name], array)
    check = first.self_check
    np.testing.assert_allclose(Policy(first).actions(check.observations), check.actions, atol=1e-5)


def test_an_environment_without_answers_is_refused() -> None:
    """The key and the remedy are named."""

    class Silent(QuadraticVecEnv):
        instead = None  # type: ignore[assignment]  # nothing to call

    model: PortfolioPPO = portfolio_ppo(
        Silent(PAIRED, count=8, seed=1), PAIRED, asset_count=1, asset_width=1, seed=1
    )
    with pytest.raises(TypeError, match=r"training\.counterfactual .* set it to false"):
        model.learn(64)
