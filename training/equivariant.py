"""Forward and backward of several equivariant encoders at once, written out.

What ``training.policy.SharedEncoder`` computes, for index observations. The encoders are so small
that autograd's bookkeeping would take longer than their arithmetic: here a whole network is one
step of it. The derivatives are those of ``y_i = A·x_i + c·B·mean_j(x_j) + b`` and of tanh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from training.layers import WindowTable, outer, tanh_


@dataclass(slots=True, eq=False)
class Inputs:
    """A batch of n index observations.

    Attributes:
        bar: (n,) int64.
        weights: (n, N) of the account.
        account: (n, 1 + G) mean weight, then what all assets share.
    """

    bar: Tensor
    weights: Tensor
    account: Tensor


@dataclass(slots=True, eq=False)
class LayerWeights:
    """A: own (H, I); b: bias (H,); B: pooled (H, I + globals); c: context."""

    own: Tensor
    bias: Tensor
    pooled: Tensor
    context: float


def encode(
    table: WindowTable, inputs: Inputs, encoders: Sequence[Sequence[LayerWeights]]
) -> tuple[Tensor, ...]:
    """Return each encoder's output (n, N)."""
    flat = [
        tensor
        for encoder in encoders
        for layer in encoder
        for tensor in (layer.own, layer.bias, layer.pooled)
    ]
    passed = _Encode.apply(table, inputs, encoders, *flat)  # type: ignore[no-untyped-call]  # torch's
    return cast(tuple[Tensor, ...], passed)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        table: WindowTable,
        inputs: Inputs,
        encoders: Sequence[Sequence[LayerWeights]],
        *flat: Tensor,  # noqa: ARG004 # the encoders' weights again, for autograd
    ) -> tuple[Tensor, ...]:
        firsts = [encoder[0] for encoder in encoders]
        width = firsts[0].own.shape[1] - 1
        # All encoders' first layers are one product: narrow ones leave the processor idle.
        of_assets, (own,) = table.assets.products(
            inputs.bar, [torch.cat([first.own[:, :width] for first in firsts])]
        )
        of_mean, (pooled,) = table.mean.products(
            inputs.bar, [torch.cat([first.pooled[:, :width] for first in firsts])]
        )
        ctx.save_for_backward(of_assets, of_mean)
        ctx.runs = [_Run(encoder, inputs) for encoder in encoders]
        ctx.sizes = [first.bias.shape[0] for first in firsts]
        parts = (torch.split(product, ctx.sizes, dim=1) for product in (own, pooled))
        return tuple(
            run.forward(own_part.contiguous(), pooled_part.contiguous())
            for run, own_part, pooled_part in zip(ctx.runs, *parts, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_assets, of_mean = ctx.saved_tensors
        slopes, later = zip(
            *(run.backward(gradient) for run, gradient in zip(ctx.runs, gradients, strict=True)),
            strict=True,
        )
        totals = [run.over_assets(slope) for run, slope in zip(ctx.runs, slopes, strict=True)]
        own = torch.split(outer(torch.cat(slopes, dim=1), of_assets), ctx.sizes)
        pooled = torch.split(outer(torch.cat(totals, dim=1), of_mean), ctx.sizes)
        found: list[Tensor | None] = []
        for number, run in enumerate(ctx.runs):
            found += run.first_layer(slopes[number], totals[number], own[number], pooled[number])
            found += later[number]
        return (None, None, None, *found)


class _Run:
    """One pass through one encoder, and what its gradient will need."""

    def __init__(self, layers: Sequence[LayerWeights], inputs: Inputs) -> None:
        self._layers, self._inputs = layers, inputs
        self._active: list[Tensor] = []
        self._pool: list[Tensor] = []

    def forward(self, own: Tensor, pooled: Tensor) -> Tensor:
        """Return (n, N).

        Args:
            own: (n·N, H) what the windows alone give to the first layer; overwritten.
            pooled: (n, H) what the window of their mean does; overwritten.
        """
        first, inputs = self._layers[0], self._inputs
        width, shape = first.own.shape[1] - 1, inputs.weights.shape
        hidden = own.addmm_(inputs.weights.reshape(-1, 1), first.own[:, width:].t())
        if first.context:
            pooled.addmm_(inputs.account, first.pooled[:, width:].t())
            everywhere = torch.add(first.bias, pooled, alpha=first.context)
            hidden.view(*shape, -1).add_(everywhere.unsqueeze(1))
        else:
            hidden.add_(first.bias)
        for layer in self._layers[1:]:
            active = tanh_(hidden)
            pool = active.view(*shape, -1).mean(dim=1)
            hidden = torch.addmm(layer.bias, active, layer.own.t())
            if layer.context:
                shared = torch.mm(pool, layer.pooled.t()).unsqueeze(1)
                hidden.view(*shape, -1).add_(shared, alpha=layer.context)
            self._active.append(active)
            self._pool.append(pool)
        return hidden.view(shape)

    def over_assets(self, values: Tensor) -> Tensor:
        """Sum (n·N, H) over the assets: (n, H)."""
        return values.view(*self._inputs.weights.shape, -1).sum(dim=1)

    def backward(self, gradient: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """Return the gradient of the first layer's output, and those of the later layers.

        The latter are own, bias and pooled, layer after layer.
        """
        shape = gradient.shape
        slope = gradient.reshape(-1, 1)
        found: list[Tensor | None] = []
        later = zip(self._layers[1:], self._active, self._pool, strict=True)
        for layer, active, pool in reversed(list(later)):
            total = self.over_assets(slope)
            in_pooled = torch.mm(total.t(), pool).mul_(layer.context) if layer.context else None
            found = [torch.mm(slope.t(), active), total.sum(dim=0), in_pooled, *found]
            inner = torch.mm(slope, layer.own)
            if layer.context:
                share = torch.mm(total, layer.pooled).unsqueeze(1)
                inner.view(*shape, -1).add_(share, alpha=layer.context / shape[1])
            slope = torch.ops.aten.tanh_backward(inner, active)
        return slope, found

    def first_layer(
        self, slope: Tensor, total: Tensor, own: Tensor, pooled: Tensor
    ) -> list[Tensor | None]:
        """Complete the windows' share, ``own`` and ``pooled``, by the account's."""
        first, inputs = self._layers[0], self._inputs
        by_weight = torch.mm(slope.t(), inputs.weights.reshape(-1, 1))
        in_own = torch.cat((own, by_weight), dim=1)
        if not first.context:
            return [in_own, total.sum(dim=0), None]
        by_account = torch.mm(total.t(), inputs.account)
        in_pooled = torch.cat((pooled, by_account), dim=1).mul_(first.context)
        return [in_own, total.sum(dim=0), in_pooled]
