"""What the networks decide while a rollout is collected: in numpy, with the weights as they stand.

A rollout asks for a few accounts at a time, thousands of times, between two updates. On so little,
a call of torch costs more than its arithmetic, and numpy a fraction of it; so rollouts decide with
the arithmetic of ``training.inference``. The windows are still multiplied by ``training.layers``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from market.panel import Int64Array
from training.inference import actor_network
from training.layers import WindowTable
from training.normalizer import Float32Array
from training.observation import ObservationSchema

_BARS_AHEAD = 32


class RolloutNetworks:
    """Actor and critic on index observations, without gradients, until the next update."""

    def __init__(
        self,
        table: WindowTable,
        schema: ObservationSchema,
        actor: Mapping[str, Tensor],
        critic: Mapping[str, Tensor],
    ) -> None:
        """Take the present weights; after an update, make another.

        Args:
            table: the windows of the market.
            schema: of the flat observations that the index observations stand for.
            actor: its arrays, as ``training.inference.actor_network`` takes them.
            critic: likewise; its value is the mean of what it gives.
        """
        both = [{name: array.detach() for name, array in each.items()} for each in (actor, critic)]
        self._networks = [
            actor_network({name: array.numpy() for name, array in each.items()}, schema)
            for each in both
        ]
        is_dense = "dense_0" in actor
        self._market = (_DenseMarket if is_dense else _SharedMarket)(table, schema, both)

    def __call__(self, obs: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Return mean actions (n, N) and values (n, 1) for index observations (n, 1 + N + G)."""
        market = self._market.hidden(obs[:, 0].astype(np.int64))
        means, values = (
            network.action_from(hidden, obs[:, 1:])
            for network, hidden in zip(self._networks, market, strict=True)
        )
        return means, values.mean(axis=1, keepdims=True)


class _SharedMarket:
    """What windows give to equivariant first layers, (n, N, H) each."""

    def __init__(
        self, table: WindowTable, schema: ObservationSchema, arrays: Sequence[Mapping[str, Tensor]]
    ) -> None:
        width = schema.asset_width
        self._table, self._shape = table, (-1, schema.asset_count)
        self._own = torch.cat([each["own_0"][:width].t() for each in arrays])
        self._pooled = torch.cat([each["pooled_0"][:width].t() for each in arrays])
        self._split = arrays[0]["own_0"].shape[1]

    def hidden(self, bar: Int64Array) -> Sequence[Float32Array]:
        bars = torch.from_numpy(bar)
        (own,), (pooled,) = (
            group.products(bars, [weight])[1]
            for group, weight in ((self._table.assets, self._own), (self._table.mean, self._pooled))
        )
        together = own.numpy().reshape(*self._shape, own.shape[1]) + pooled.numpy()[:, None]
        return np.split(together, [self._split], axis=-1)


class _DenseMarket:
    """What windows give to dense first layers, (n, H) each; every bar is multiplied once.

    A bar that is met is multiplied with those that follow it, which its account meets next.
    """

    def __init__(
        self, table: WindowTable, schema: ObservationSchema, arrays: Sequence[Mapping[str, Tensor]]
    ) -> None:
        width = schema.market_width
        self._table = table
        self._weights = [each["dense_0"][:width].t() for each in arrays]
        self._kept = [
            np.empty((table.bars, len(weight)), dtype=np.float32) for weight in self._weights
        ]
        self._known = np.zeros(table.bars, dtype=np.bool_)

    def hidden(self, bar: Int64Array) -> Sequence[Float32Array]:
        if not self._known[bar].all():
            self._multiply(bar[~self._known[bar]])
        return [kept[bar] for kept in self._kept]

    def _multiply(self, bar: Int64Array) -> None:
        ahead = np.unique(bar[:, None] + np.arange(_BARS_AHEAD))
        ahead = ahead[ahead < len(self._known)]
        new = ahead[~self._known[ahead]]
        _, products = self._table.assets.products(torch.from_numpy(new), self._weights)
        for kept, product in zip(self._kept, products, strict=True):
            kept[new] = product.numpy()
        self._known[new] = True
