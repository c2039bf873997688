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


class WindowTable:
    """The windows of one market on one device.

    Attributes:
        assets: the windows of the N assets; mean: the window of their mean.
    """

    def __init__(self, windows: MarketWindows, device: torch.device) -> None:
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
        rows = (bar[:, None] + self._last).view(-1)
        products = _WindowLinear.apply(self, rows, *weights)  # type: ignore[no-untyped-call]  # torch's
        return cast(tuple[Tensor, ...], products)

    def memory(self, rows: int) -> Tensor:
        """Return memory for ``rows`` of the matrix, the same every time.

        Fresh memory costs more than copying. What was in it is gone; autograd notices a gradient
        that still needed it, and raises.
        """
        if self._kept.shape[0] < rows:
            self._kept = self._matrix.new_empty(rows, self._matrix.shape[1])
        return self._kept[:rows]

    def gather(self, rows: Tensor, out: Tensor) -> None:
        """Copy ``rows`` (m,) of the matrix into ``out``."""
        torch.index_select(self._matrix, 0, rows, out=out)


class _WindowLinear(torch.autograd.Function):
    """Gathers and multiplies piece by piece; the gathered windows are kept for the gradient."""

    @staticmethod
    def forward(
        ctx: Any, windows: WindowGroup, rows: Tensor, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        gathered = windows.memory(rows.shape[0])
        inputs = gathered.view(-1, weights[0].shape[1])
        ctx.piece = _piece(inputs, gathered)
        if inputs.shape[0] <= ctx.piece:
            windows.gather(rows, gathered)
            outputs = tuple(torch.mm(inputs, weight.t()) for weight in weights)
        else:
            outputs = _by_pieces(windows, rows, gathered, inputs, weights, ctx.piece)
        ctx.save_for_backward(inputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (inputs,) = ctx.saved_tensors
        return (None, None, *(_outer(gradient, inputs, ctx.piece) for gradient in gradients))


def _piece(inputs: Tensor, gathered: Tensor) -> int:
    """How many rows to multiply at a time, gathered whole: all of them except on a processor."""
    if inputs.device.type != "cpu":
        return max(1, inputs.shape[0])
    together = max(1, gathered.shape[1] // inputs.shape[1])
    return max(1, _PIECE_VALUES // (together * inputs.shape[1])) * together


def _by_pieces(
    windows: WindowGroup,
    rows: Tensor,
    gathered: Tensor,
    inputs: Tensor,
    weights: Sequence[Tensor],
    piece: int,
) -> tuple[Tensor, ...]:
    """Gather ``rows`` into ``gathered``, which ``inputs`` views, and multiply what came."""
    count, size = inputs.shape
    outputs = tuple(weight.new_empty(count, weight.shape[0]) for weight in weights)
    for start in range(0, count, piece):
        stop = min(start + piece, count)
        part = slice(start * size // gathered.shape[1], stop * size // gathered.shape[1])
        windows.gather(rows[part], gathered[part])
        for weight, output in zip(weights, outputs, strict=True):
            torch.mm(inputs[start:stop], weight.t(), out=output[start:stop])
    return outputs


def _outer(gradient: Tensor, inputs: Tensor, piece: int) -> Tensor:
    """``Gᵀ·X``, piece by piece: (K, width) from (n, K) and (n, width)."""
    total = torch.mm(gradient[:piece].t(), inputs[:piece])
    for start in range(piece, inputs.shape[0], piece):
        total.addmm_(gradient[start : start + piece].t(), inputs[start : start + piece])
    return total


def tanh(values: Tensor) -> Tensor:
    """``2·sigmoid(2x) − 1``: within two units in the last place of one, at a third of the time."""
    result: Tensor = _Tanh.apply(values)  # type: ignore[no-untyped-call]  # torch's
    return result


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        result = (values * 2.0).sigmoid_().mul_(2.0).sub_(1.0)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return cast(Tensor, torch.ops.aten.tanh_backward(gradient, result))
