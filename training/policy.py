"""The network: one small encoder for every asset, which makes the policy permutation-equivariant.

Each layer is ``y_i = A·x_i + B·mean_j(x_j) + C·g + b`` (Zaheer et al. 2017, Deep Sets, eq. 4):
whatever is learned about one asset is known about all, and reordering the assets reorders the
actions. ``training.inference`` repeats the same arithmetic without torch.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from training.allocation import ACTION_OFFSET
from training.optimizer import FlatAdamW

_HEAD_GAIN = 0.01


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
            hidden = layer(torch.tanh(hidden))
        return torch.squeeze(hidden, -1)

    @property
    def stack(self) -> list[EquivariantLinear]:
        """The layers, typed."""
        return [cast(EquivariantLinear, layer) for layer in self.layers]


class PortfolioNetwork(nn.Module):
    """Splits the flat observation and runs two separate encoders, actor and critic.

    Stands where stable-baselines3 expects its ``mlp_extractor``: the latent of the policy is the
    mean action (batch, N) itself, the latent of the value is the value (batch, 1) itself.
    """

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
        self.actor = SharedEncoder(asset_width + 1, global_width, actor_sizes, actor_context)
        self.critic = SharedEncoder(asset_width + 1, global_width, critic_sizes, 1.0)
        self.hold = nn.Parameter(torch.tensor(initial_hold))
        rest = (1.0 - initial_hold) * initial_exposure / asset_count - ACTION_OFFSET
        nn.init.constant_(self.actor.stack[-1].own.bias, rest)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean actions (batch, N) and values (batch, 1)."""
        assets, shared = self._split(obs)
        return self._action(assets, shared), self._value(assets, shared)

    def forward_actor(self, obs: Tensor) -> Tensor:
        """Return mean actions (batch, N)."""
        return self._action(*self._split(obs))

    def forward_critic(self, obs: Tensor) -> Tensor:
        """Return values (batch, 1)."""
        return self._value(*self._split(obs))

    def _action(self, assets: Tensor, shared: Tensor) -> Tensor:
        action: Tensor = self.actor(assets, shared) + self.hold * assets[:, :, -1]
        return action

    def _value(self, assets: Tensor, shared: Tensor) -> Tensor:
        value: Tensor = self.critic(assets, shared).mean(dim=-1, keepdim=True)
        return value

    def _split(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        count, width = self.asset_count, self.asset_width
        market = obs[:, : count * width].reshape(-1, count, width)
        weights = obs[:, count * width : count * (width + 1)].unsqueeze(-1)
        return torch.cat((market, weights), dim=-1), obs[:, count * (width + 1) :]


class PortfolioPolicy(ActorCriticPolicy):
    """stable-baselines3's actor-critic over ``PortfolioNetwork`` with a scheduled noise."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
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
            "asset_count": asset_count,
            "asset_width": asset_width,
            "actor_sizes": tuple(actor_sizes),
            "critic_sizes": tuple(critic_sizes),
            "actor_context": actor_context,
            "initial_exposure": initial_exposure,
            "initial_hold": initial_hold,
            "weight_decay": weight_decay,
        }
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        arguments = dict(self._network_arguments)
        count, width = arguments["asset_count"], arguments["asset_width"]
        weight_decay = arguments.pop("weight_decay")
        shape = self.observation_space.shape
        assert shape is not None
        self.mlp_extractor = PortfolioNetwork(  # type: ignore[assignment]  # same duties
            global_width=int(np.prod(shape)) - count * (width + 1),
            **arguments,
        )
        self.action_net = nn.Identity()  # the latent is the mean already
        self.value_net = nn.Identity()  # type: ignore[assignment]  # the latent is the value
        self.log_std = nn.Parameter(torch.full((count,), self.log_std_init), requires_grad=False)
        self.optimizer = FlatAdamW(  # type: ignore[assignment]  # does what SB3 asks of it
            [parameter for parameter in self.parameters() if parameter.requires_grad],
            lr=lr_schedule(1),
            weight_decay=weight_decay,
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | self._network_arguments

    def set_log_std(self, value: float) -> None:
        """Set the exploration noise of every leg to ``exp(value)``."""
        with torch.no_grad():
            self.log_std.fill_(value)

    def export_actor(self) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """Return the actor's arrays, named as ``training.inference`` reads them."""
        network = cast(PortfolioNetwork, self.mlp_extractor)
        arrays = {"hold": network.hold.detach().numpy().copy()}
        for number, layer in enumerate(network.actor.stack):
            arrays[f"own_{number}"] = layer.own.weight.detach().numpy().T.copy()
            arrays[f"pooled_{number}"] = layer.context * layer.pooled.weight.detach().numpy().T
            arrays[f"bias_{number}"] = layer.own.bias.detach().numpy().copy()
        return arrays
