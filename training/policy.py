"""The networks: ``shared``, one encoder for every asset, and ``mlp``, the textbook's.

The shared encoder makes the policy permutation-equivariant. Each layer is
``y_i = A·x_i + B·mean_j(x_j) + C·g + b`` (Zaheer et al. 2017, Deep Sets, eq. 4): whatever is
learned about one asset is known about all, and reordering the assets reorders the actions.

Both networks take flat observations and, once they hold the market's windows (``watch``), index
observations (``training.environment``): the same arithmetic, without the windows ever being put
together. ``training.inference`` repeats it without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn
from torch.nn import functional

from training.allocation import ACTION_OFFSET
from training.config import PolicyKind
from training.equivariant import Inputs, LayerWeights, encode
from training.layers import WindowTable, tanh
from training.normalizer import Float32Array
from training.observation import GLOBALS, ObservationSchema
from training.optimizer import FlatAdamW
from training.rollout_networks import RolloutNetworks
from training.training_market import TrainingMarket

_HEAD_GAIN = 0.01
_HIDDEN_GAIN = math.sqrt(2)


class EquivariantLinear(nn.Module):
    """``(batch, N, in) → (batch, N, out)``; ``globals`` (batch, G) enter every asset alike."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        global_inputs: int = 0,
        *,
        gain: float = 1.0,
        context: float = 1.0,
    ) -> None:
        super().__init__()
        self.context = context
        self.own = nn.Linear(inputs, outputs)
        self.pooled = nn.Linear(inputs + global_inputs, outputs, bias=False)
        nn.init.orthogonal_(self.own.weight, gain)
        nn.init.orthogonal_(self.pooled.weight, 0.5 * gain)
        nn.init.zeros_(self.own.bias)

    def forward(self, assets: Tensor, shared: Tensor | None = None) -> Tensor:
        """Apply the layer; ``shared`` is (batch, G) or None."""
        if self.context == 0:
            alone: Tensor = self.own(assets)
            return alone
        pool = assets.mean(dim=1)
        if shared is not None:
            pool = torch.cat((pool, shared), dim=-1)
        result: Tensor = self.own(assets) + self.context * self.pooled(pool).unsqueeze(1)
        return result


class SharedEncoder(nn.Module):
    """A stack of equivariant layers with tanh between, ending in one number per asset."""

    def __init__(
        self, inputs: int, global_inputs: int, sizes: tuple[int, ...], context: float
    ) -> None:
        super().__init__()
        widths = (inputs, *sizes, 1)
        last = len(widths) - 2
        self.layers = nn.ModuleList(
            EquivariantLinear(
                widths[i],
                widths[i + 1],
                global_inputs if i == 0 else 0,
                gain=_HEAD_GAIN if i == last else 1.0,
                context=context,
            )
            for i in range(last + 1)
        )

    def forward(self, assets: Tensor, shared: Tensor) -> Tensor:
        """Return (batch, N)."""
        hidden = self.layers[0](assets, shared)
        for layer in self.layers[1:]:
            hidden = layer(tanh(hidden))
        return torch.squeeze(hidden, -1)

    @property
    def stack(self) -> list[EquivariantLinear]:
        """The layers, typed."""
        return [cast(EquivariantLinear, layer) for layer in self.layers]

    def arrays(self) -> dict[str, Tensor]:
        """Return the layers as ``own_0``, ``pooled_0``, ``bias_0`` and so on, inputs first."""
        arrays: dict[str, Tensor] = {}
        for number, layer in enumerate(self.stack):
            arrays[f"own_{number}"] = layer.own.weight.T
            arrays[f"pooled_{number}"] = layer.context * layer.pooled.weight.T
            arrays[f"bias_{number}"] = layer.own.bias
        return arrays

    def weights(self) -> list[LayerWeights]:
        """The parameters, as ``training.equivariant`` takes them."""
        return [
            LayerWeights(layer.own.weight, layer.own.bias, layer.pooled.weight, layer.context)
            for layer in self.stack
        ]


class SharedNetwork(nn.Module):
    """Splits the observation and runs two separate encoders, actor and critic.

    Stands where stable-baselines3 expects its ``mlp_extractor``: the latent of the policy is the
    mean action (batch, N) itself, the latent of the value is the value (batch, 1) itself.
    """

    windows: WindowTable | None = None

    def __init__(
        self,
        *,
        asset_count: int,
        asset_width: int,
        global_width: int,
        actor_sizes: tuple[int, ...],
        critic_sizes: tuple[int, ...],
        actor_context: float,
        initial_exposure: float,
        initial_hold: float,
    ) -> None:
        super().__init__()
        self.asset_count, self.asset_width = asset_count, asset_width
        self.flat_width = asset_count * (asset_width + 1) + global_width
        self.actor = SharedEncoder(asset_width + 1, global_width, actor_sizes, actor_context)
        self.critic = SharedEncoder(asset_width + 1, global_width, critic_sizes, 1.0)
        self.hold = nn.Parameter(torch.tensor(float(initial_hold)))
        rest = (1.0 - initial_hold) * initial_exposure / asset_count - ACTION_OFFSET
        nn.init.constant_(self.actor.stack[-1].own.bias, rest)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean actions (batch, N) and values (batch, 1)."""
        weights, (score, value) = self._encode(obs, self.actor, self.critic)
        return self._action(score, weights), value.mean(dim=-1, keepdim=True)

    def forward_actor(self, obs: Tensor) -> Tensor:
        """Return mean actions (batch, N)."""
        weights, (score,) = self._encode(obs, self.actor)
        return self._action(score, weights)

    def forward_critic(self, obs: Tensor) -> Tensor:
        """Return values (batch, 1)."""
        return self._encode(obs, self.critic)[1][0].mean(dim=-1, keepdim=True)

    def arrays(self, *, critic: bool = False) -> dict[str, Tensor]:
        """Return one network's arrays, named as ``training.inference`` reads them."""
        encoder, hold = (self.critic, self.hold * 0) if critic else (self.actor, self.hold)
        return encoder.arrays() | {"hold": hold}

    def _action(self, score: Tensor, weights: Tensor) -> Tensor:
        action: Tensor = score + self.hold * weights
        return action

    def _encode(self, obs: Tensor, *encoders: SharedEncoder) -> tuple[Tensor, Sequence[Tensor]]:
        """Return the account's weights (batch, N) and what each encoder gives, (batch, N)."""
        if obs.shape[-1] == self.flat_width:
            assets, shared = self._split(obs)
            return assets[:, :, -1], [encoder(assets, shared) for encoder in encoders]
        assert self.windows is not None, "index observations need a market: call watch"
        weights, shared = obs[:, 1 : 1 + self.asset_count], obs[:, 1 + self.asset_count :]
        account = torch.cat((weights.mean(dim=-1, keepdim=True), shared), dim=-1)
        inputs = Inputs(obs[:, 0].long(), weights, account)
        return weights, encode(self.windows, inputs, [encoder.weights() for encoder in encoders])

    def _split(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        count, width = self.asset_count, self.asset_width
        market = obs[:, : count * width].reshape(-1, count, width)
        weights = obs[:, count * width : count * (width + 1)].unsqueeze(-1)
        return torch.cat((market, weights), dim=-1), obs[:, count * (width + 1) :]


class MlpNetwork(nn.Module):
    """Two separate perceptrons over the whole observation; duties as ``SharedNetwork``."""

    windows: WindowTable | None = None

    def __init__(
        self,
        *,
        asset_count: int,
        asset_width: int,
        global_width: int,
        actor_sizes: tuple[int, ...],
        critic_sizes: tuple[int, ...],
        actor_context: float,  # noqa: ARG002 # every unit sees everything
        initial_exposure: float,
        initial_hold: float,
    ) -> None:
        super().__init__()
        self.asset_count, self.asset_width = asset_count, asset_width
        self.flat_width = asset_count * (asset_width + 1) + global_width
        market, account = asset_count * asset_width, asset_count + global_width
        self.actor = Perceptron(market, account, (*actor_sizes, asset_count), _HEAD_GAIN)
        self.critic = Perceptron(market, account, (*critic_sizes, 1), 1.0)
        self.hold = nn.Parameter(torch.tensor(float(initial_hold)))
        rest = (1.0 - initial_hold) * initial_exposure / asset_count - ACTION_OFFSET
        nn.init.constant_(self.actor.biases[-1], rest)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean actions (batch, N) and values (batch, 1)."""
        actor, critic = self._first_layers(obs, self.actor, self.critic)
        return self._action(actor, obs), self.critic.finish(critic)

    def forward_actor(self, obs: Tensor) -> Tensor:
        """Return mean actions (batch, N)."""
        return self._action(self._first_layers(obs, self.actor)[0], obs)

    def forward_critic(self, obs: Tensor) -> Tensor:
        """Return values (batch, 1)."""
        return self.critic.finish(self._first_layers(obs, self.critic)[0])

    def arrays(self, *, critic: bool = False) -> dict[str, Tensor]:
        """Return one network's arrays, named as ``training.inference`` reads them."""
        network, hold = (self.critic, self.hold * 0) if critic else (self.actor, self.hold)
        return network.arrays() | {"hold": hold}

    def _action(self, hidden: Tensor, obs: Tensor) -> Tensor:
        return self.actor.finish(hidden) + self.hold * self._account(obs)[:, : self.asset_count]

    def _account(self, obs: Tensor) -> Tensor:
        market = self.asset_count * self.asset_width
        return obs[:, market if obs.shape[-1] == self.flat_width else 1 :]

    def _first_layers(self, obs: Tensor, *networks: Perceptron) -> Sequence[Tensor]:
        """What each first layer gives, (batch, H)."""
        weights = [network.market for network in networks]
        if obs.shape[-1] == self.flat_width:
            market = obs[:, : self.asset_count * self.asset_width]
            products: Sequence[Tensor] = [functional.linear(market, each) for each in weights]
        else:
            assert self.windows is not None, "index observations need a market: call watch"
            products = self.windows.assets.linear(obs[:, 0].long(), *weights)
        account = self._account(obs)
        return [
            product + functional.linear(account, network.account, network.biases[0])
            for product, network in zip(products, networks, strict=True)
        ]


class Perceptron(nn.Module):
    """Layers with tanh between; the first has one weight for the market and one for the rest."""

    def __init__(self, market: int, account: int, sizes: tuple[int, ...], head_gain: float) -> None:
        super().__init__()
        first = torch.empty(sizes[0], market + account)
        nn.init.orthogonal_(first, head_gain if len(sizes) == 1 else _HIDDEN_GAIN)
        # Two parameters: rows of the larger one then begin where the processor likes them to.
        self.market = nn.Parameter(first[:, :market].clone())
        self.account = nn.Parameter(first[:, market:].clone())
        self.weights = nn.ParameterList(
            nn.Parameter(torch.empty(sizes[i + 1], sizes[i])) for i in range(len(sizes) - 1)
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(size)) for size in sizes)
        for number, weight in enumerate(self.weights, start=2):
            nn.init.orthogonal_(weight, head_gain if number == len(sizes) else _HIDDEN_GAIN)

    def finish(self, hidden: Tensor) -> Tensor:
        """Return (batch, outputs) from what the first layer gave, (batch, H)."""
        for weight, bias in zip(self.weights, self.biases[1:], strict=True):
            hidden = functional.linear(tanh(hidden), weight, bias)
        return hidden

    def arrays(self) -> dict[str, Tensor]:
        """Return the layers as ``dense_0``, ``dense_bias_0`` and so on, inputs first."""
        weights = [torch.cat((self.market, self.account), dim=1), *self.weights]
        arrays = {f"dense_{number}": weight.T for number, weight in enumerate(weights)}
        return arrays | {f"dense_bias_{number}": bias for number, bias in enumerate(self.biases)}


PortfolioNetwork = SharedNetwork | MlpNetwork

_NETWORKS: Mapping[PolicyKind, type[SharedNetwork] | type[MlpNetwork]] = {
    PolicyKind.SHARED: SharedNetwork,
    PolicyKind.MLP: MlpNetwork,
}


class PortfolioPolicy(ActorCriticPolicy):
    """stable-baselines3's actor-critic over one of the networks, with a scheduled noise.

    Its observation space is the flat one, also where it was built for index observations; those
    are understood once it watches a market.
    """

    _rollout: RolloutNetworks | None = None
    _schema: ObservationSchema

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        kind: PolicyKind = PolicyKind.SHARED,
        asset_count: int = 1,
        asset_width: int = 1,
        actor_sizes: tuple[int, ...] = (32, 32),
        critic_sizes: tuple[int, ...] = (32, 32),
        actor_context: float = 1.0,
        initial_exposure: float = 0.5,
        initial_hold: float = 0.0,
        weight_decay: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self._network_arguments: dict[str, Any] = {
            "kind": kind,
            "asset_count": asset_count,
            "asset_width": asset_width,
            "actor_sizes": tuple(actor_sizes),
            "critic_sizes": tuple(critic_sizes),
            "actor_context": actor_context,
            "initial_exposure": initial_exposure,
            "initial_hold": initial_hold,
            "weight_decay": weight_decay,
        }
        flat = asset_count * (asset_width + 1) + len(GLOBALS)
        self.index_width = 1 + asset_count + len(GLOBALS)
        if observation_space.shape == (self.index_width,):
            observation_space = spaces.Box(-np.inf, np.inf, shape=(flat,), dtype=np.float32)
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        arguments = dict(self._network_arguments)
        count, width = arguments["asset_count"], arguments["asset_width"]
        weight_decay, kind = arguments.pop("weight_decay"), arguments.pop("kind")
        shape = self.observation_space.shape
        assert shape is not None
        self.mlp_extractor = _NETWORKS[kind](  # type: ignore[assignment]  # same duties
            global_width=int(np.prod(shape)) - count * (width + 1),
            **arguments,
        )
        self.action_net = nn.Identity()  # the latent is the mean already
        self.value_net = nn.Identity()  # type: ignore[assignment]  # the latent is the value
        self.log_std = nn.Parameter(torch.full((count,), self.log_std_init), requires_grad=False)
        self._weight_decay = weight_decay
        self.make_optimizer(lr_schedule(1))

    def make_optimizer(self, rate: float) -> None:
        """Begin anew with Adam; needed again where the parameters were moved to a device."""
        self.optimizer = FlatAdamW(  # type: ignore[assignment]  # does what SB3 asks of it
            [parameter for parameter in self.parameters() if parameter.requires_grad],
            lr=rate,
            weight_decay=self._weight_decay,
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | self._network_arguments

    def watch(self, market: TrainingMarket) -> None:
        """Take the market that the bars of index observations are of."""
        network = cast(PortfolioNetwork, self.mlp_extractor)
        network.windows = WindowTable(market.windows, self.device)
        self._schema = market.schema

    def begin_rollout(self) -> None:
        """Make ``decide`` use the present weights until they change."""
        network, self._rollout = cast(PortfolioNetwork, self.mlp_extractor), None
        if network.windows is not None and self.device.type == "cpu":
            self._rollout = RolloutNetworks(
                network.windows, self._schema, network.arrays(), network.arrays(critic=True)
            )

    def decide(self, obs: Float32Array) -> tuple[Tensor, Tensor]:
        """Return mean actions (n, N) and values (n, 1), without gradients."""
        if self._rollout is not None and obs.shape[-1] == self.index_width:
            means, values = self._rollout(obs)
            return torch.from_numpy(means), torch.from_numpy(values)
        with torch.no_grad():
            decided: tuple[Tensor, Tensor] = self.mlp_extractor(
                torch.as_tensor(obs, device=self.device)
            )
        return decided

    def obs_to_tensor(
        self, observation: npt.NDArray[Any] | dict[str, npt.NDArray[Any]]
    ) -> tuple[PyTorchObs, bool]:
        """Return the observations as a batch, and whether they were one; flat or index."""
        if isinstance(observation, np.ndarray) and observation.shape[-1] == self.index_width:
            batch = observation.reshape(-1, self.index_width)
            return torch.as_tensor(batch, device=self.device), observation.ndim > 1
        return super().obs_to_tensor(observation)

    def set_log_std(self, value: float) -> None:
        """Set the exploration noise of every leg to ``exp(value)``."""
        with torch.no_grad():
            self.log_std.fill_(value)

    def export_actor(self) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """Return the actor's arrays, named as ``training.inference`` reads them."""
        arrays = cast(PortfolioNetwork, self.mlp_extractor).arrays()
        return {name: array.detach().cpu().numpy().copy() for name, array in arrays.items()}
