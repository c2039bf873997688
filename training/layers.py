"""What the networks are made of: a layer over windows that are never put together, and tanh.

The first layer is nearly all of the network's arithmetic, and its input nearly all of an
observation's memory. Here a batch names its windows by number: they are gathered in pieces that
fit the processor's cache, and multiplied at once by the weights of every network that wants them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from training.windows import MarketWindows

_PIECE_VALUES = 256 * 1024
"""Values gathered at a time on a processor: 1 MiB, which stays in its cache."""
_PIECE_ROWS = 256
"""But no fewer rows: every piece reads and writes all weights."""


class WindowTable:
    """The windows of one market on one device.

    Attributes:
        assets: the windows of the N assets; mean: the window of their mean.
        bars: T.
    """

    def __init__(self, windows: MarketWindows, device: torch.device) -> None:
        self.bars = len(windows)
        channels = torch.from_numpy(windows.channels).to(device)
        width = channels.shape[-1]
        matrix = channels.as_strided(windows.matrix().shape, (width, 1))
        first = torch.arange(windows.asset_count + 1, device=device) * len(windows)
        last = first - (windows.lookback_bars - 1)
        self.mean = WindowGroup(matrix, last[-1:], width=windows.asset_width)
        if windows.lookback_bars == 1:  # then a bar's windows can lie side by side
            matrix = channels[:-1].transpose(0, 1).reshape(len(windows), -1)
            last = last[:2]
        self.assets = WindowGroup(matrix, last[:-1], width=windows.asset_width)


class WindowGroup:
    """The windows of some assets at every bar."""

    def __init__(self, matrix: Tensor, last: Tensor, *, width: int) -> None:
        """Keep where the windows are.

        Args:
            matrix: every window, or every bar's, a view with overlapping rows.
            last: what to add to a bar for the rows whose windows end there.
            width: L·C, of one window.
        """
        self._matrix, self._last, self.width = matrix, last, width
        self._kept = matrix.new_empty(0, matrix.shape[1])

    def linear(self, bar: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        """Multiply the windows that end at ``bar`` by weights, without bias.

        Args:
            bar: (n,) int64.
            weights: (K, L·C) each, for every window alone, or (K, g·L·C) each, for a bar's
                windows together.

        Returns:
            (n·g, K) or (n, K) each.
        """
        products = _WindowLinear.apply(self, bar, *weights)  # type: ignore[no-untyped-call]  # torch's
        return cast(tuple[Tensor, ...], products)

    def products(self, bar: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the windows, (n·g, L·C) or (n, g·L·C), and what ``linear`` does, underived.

        The windows are in the same memory every time, as fresh memory costs more than copying.
        Whoever needs them for a gradient saves them in autograd's context, which notices, and
        raises, when they are no longer those.
        """
        rows = (bar[:, None] + self._last).view(-1)
        if self._kept.shape[0] < rows.shape[0]:
            self._kept = self._matrix.new_empty(rows.shape[0], self._matrix.shape[1])
        gathered = self._kept[: rows.shape[0]]
        inputs = gathered.view(-1, weights[0].shape[1])
        piece = _piece(inputs, gathered.shape[1])
        if inputs.shape[0] <= piece:
            torch.index_select(self._matrix, 0, rows, out=gathered)
            return inputs, [torch.mm(inputs, weight.t()) for weight in weights]
        outputs = [weight.new_empty(inputs.shape[0], weight.shape[0]) for weight in weights]
        for start in range(0, inputs.shape[0], piece):
            part = slice(start, min(start + piece, inputs.shape[0]))
            wanted = _scaled(part, inputs.shape[1] / gathered.shape[1])
            torch.index_select(self._matrix, 0, rows[wanted], out=gathered[wanted])
            for weight, output in zip(weights, outputs, strict=True):
                torch.mm(inputs[part], weight.t(), out=output[part])
        return inputs, outputs


def outer(gradient: Tensor, inputs: Tensor) -> Tensor:
    """``Gᵀ·X``, piece by piece: (K, width) from (n, K) and (n, width)."""
    piece = _piece(inputs, inputs.shape[1])
    total = torch.mm(gradient[:piece].t(), inputs[:piece])
    for start in range(piece, inputs.shape[0], piece):
        total.addmm_(gradient[start : start + piece].t(), inputs[start : start + piece])
    return total


class _WindowLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, windows: WindowGroup, bar: Tensor, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        inputs, outputs = windows.products(bar, weights)
        ctx.save_for_backward(inputs)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (inputs,) = ctx.saved_tensors
        return (None, None, *(outer(gradient, inputs) for gradient in gradients))


def _piece(inputs: Tensor, gathered: int) -> int:
    """How many rows to multiply at a time, gathered whole: all of them except on a processor."""
    if inputs.device.type != "cpu":
        return max(1, inputs.shape[0])
    together = max(1, gathered // inputs.shape[1])
    return max(1, max(_PIECE_ROWS, _PIECE_VALUES // inputs.shape[1]) // together) * together


def _scaled(part: slice, factor: float) -> slice:
    return slice(round(part.start * factor), round(part.stop * factor))


def tanh_(values: Tensor) -> Tensor:
    """``2·sigmoid(2x) − 1`` in place: a third of the time, and exact to a few 1e-7."""
    return values.mul_(2.0).sigmoid_().mul_(2.0).sub_(1.0)


def tanh(values: Tensor) -> Tensor:
    """As ``tanh_``, of a copy."""
    result: Tensor = _Tanh.apply(values)  # type: ignore[no-untyped-call]  # torch's
    return result


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        result = tanh_(values.clone())
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return cast(Tensor, torch.ops.aten.tanh_backward(gradient, result))
