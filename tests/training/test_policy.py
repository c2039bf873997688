"""The networks: what they make of an index observation is what they make of the flat one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.learner_factory import BARS, TINY, episodes_of, small_market, small_panel
from training.config import PolicyKind, TrainingConfig
from training.environment import FlatObservations, PortfolioVecEnv, index_space
from training.layers import WindowTable
from training.policy import PortfolioNetwork, PortfolioPolicy

CONFIGS = {
    "shared": TINY.replace(lookback_bars=4, actor_sizes=(8, 6), critic_sizes=(5,)),
    "linear": TINY.replace(lookback_bars=1, actor_sizes=(), critic_sizes=(), actor_context=0.0),
    "weak_context": TINY.replace(lookback_bars=3, actor_context=0.3, initial_hold=0.6),
    "mlp": TINY.replace(lookback_bars=3, policy=PolicyKind.MLP, actor_sizes=(8, 6)),
    "mlp_linear": TINY.replace(
        policy=PolicyKind.MLP, actor_sizes=(), critic_sizes=(), initial_hold=0
    ),
}


def network_and_observations(config: TrainingConfig) -> tuple[PortfolioNetwork, Tensor, Tensor]:
    """A network with weights of no special kind, and 40 observations, index and flat."""
    policy, indexed, flat = policy_and_observations(config)
    network: PortfolioNetwork = policy.mlp_extractor  # type: ignore[assignment]  # what was built
    return network, indexed, flat


def policy_and_observations(config: TrainingConfig) -> tuple[PortfolioPolicy, Tensor, Tensor]:
    market = small_market(small_panel(), config)
    game = PortfolioVecEnv(episodes_of(market, 40, config=config))
    schema = market.schema
    flat_env = FlatObservations(game)
    policy = PortfolioPolicy(
        index_space(schema), flat_env.action_space, lambda _: 1e-3,
        kind=config.policy, asset_count=schema.asset_count, asset_width=schema.asset_width,
        actor_sizes=config.actor_sizes, critic_sizes=config.critic_sizes,
        actor_context=config.actor_context, initial_hold=config.initial_hold,
    )  # fmt: skip
    policy.watch(market)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    game.reset()
    game.step(np.random.default_rng(0).normal(size=(40, schema.asset_count)))
    indexed = game.episodes.observe_index(np.empty((40, policy.index_width), np.float32))
    flat = game.episodes.observe(np.empty((40, schema.width), np.float32))
    return policy, torch.from_numpy(indexed), torch.from_numpy(flat)


@pytest.mark.parametrize("name", CONFIGS)
def test_both_kinds_of_observation_mean_the_same(name: str) -> None:
    """Actions, values, and every parameter's gradient of a loss that depends on all of them."""
    network, indexed, flat = network_and_observations(CONFIGS[name])
    gradients = []
    for obs in (flat, indexed):
        means, values = network(obs)
        torch.testing.assert_close(means, network(flat)[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(values, network(flat)[1], atol=1e-5, rtol=1e-5)
        means, values = network(obs)
        loss = means.square().sum() + (values * torch.arange(40)[:, None]).sum()
        gradients.append(torch.autograd.grad(loss, list(network.parameters()), allow_unused=True))
    for (parameter_name, _), one, other in zip(network.named_parameters(), *gradients, strict=True):
        if one is None or other is None:
            assert one is other, parameter_name
        else:
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4, msg=parameter_name)


@pytest.mark.parametrize("name", CONFIGS)
def test_actor_and_critic_alone_give_what_both_do(name: str) -> None:
    """``forward_actor`` and ``forward_critic`` are the halves of ``forward``."""
    network, indexed, flat = network_and_observations(CONFIGS[name])
    for obs in (indexed, flat):
        means, values = network(obs)
        torch.testing.assert_close(network.forward_actor(obs), means)
        torch.testing.assert_close(network.forward_critic(obs), values)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_rollout_decides_as_the_network(name: str) -> None:
    """With the weights of its beginning, also for bars that were met before and at the end."""
    policy, indexed, _ = policy_and_observations(CONFIGS[name])
    indexed[:3, 0] = BARS - 1
    with torch.no_grad():
        means, values = policy.mlp_extractor(indexed)
    policy.begin_rollout()
    for order in (slice(0, 20), slice(10, 40)):
        got = policy.decide(indexed[order].numpy())
        torch.testing.assert_close(got[0], means[order], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(got[1], values[order], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1)
    policy.begin_rollout()
    assert not torch.allclose(policy.decide(indexed.numpy())[0], means, atol=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_everything_stays_on_the_device(name: str) -> None:
    """On a device that is not the processor (here the one that only knows shapes)."""
    network, indexed, _ = network_and_observations(CONFIGS[name])
    market = small_market(small_panel(), CONFIGS[name])
    meta = torch.device("meta")
    network.to(meta)
    network.windows = WindowTable(market.windows, meta)
    means, values = network(indexed.to(meta))
    assert (means.shape, values.shape) == ((40, 3), (40, 1))
    torch.autograd.backward(means.sum() + values.sum())
    gradients = [parameter.grad for parameter in network.parameters()]
    assert {gradient.device for gradient in gradients if gradient is not None} == {meta}


def test_a_network_without_a_market_refuses_an_index() -> None:
    """There is nothing to look the bar up in."""
    network, indexed, _ = network_and_observations(CONFIGS["shared"])
    network.windows = None
    with pytest.raises(AssertionError, match="need a market"):
        network(indexed)
