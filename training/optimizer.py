"""AdamW over all parameters of a small network as one flat vector.

torch's own optimisers import ``torch._dynamo`` on first use (several CPU-seconds) and update one
tensor at a time; for a network of a few hundred weights that is most of the training time, and for
a wide one several passes over its memory. Here all of it is one call of torch's fused kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class FlatAdamW:
    """Loshchilov & Hutter (2019), algorithm 2, with the duties SB3 asks of an optimiser.

    The parameters become views of one vector, and so do their gradients; nothing else may rebind
    ``parameter.data`` or ``parameter.grad`` afterwards.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        *,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-5,
    ) -> None:
        listed = list(parameters)
        self.param_groups: list[dict[str, Any]] = [{"params": listed, "lr": lr}]
        self._weight_decay, self._betas, self._eps = weight_decay, betas, eps
        self._values = torch.cat([parameter.detach().reshape(-1) for parameter in listed])
        self._gradient = torch.zeros_like(self._values)
        self._first = torch.zeros_like(self._values)
        self._second = torch.zeros_like(self._values)
        self._steps = torch.zeros((), device=self._values.device)
        self._bind(listed)

    def zero_grad(self, set_to_none: bool = False) -> None:  # noqa: ARG002 # torch's signature
        """Set every gradient to zero, in place."""
        self._gradient.zero_()

    @torch.no_grad()
    def clip_gradient(self, max_norm: float) -> None:
        """Scale the gradient down to ``max_norm`` where its Euclidean norm is larger."""
        norm = torch.linalg.vector_norm(self._gradient)
        if norm.device.type == "cpu" and norm <= max_norm:
            return  # elsewhere asking would wait for the device
        self._gradient.mul_(torch.clamp(max_norm / (norm + 1e-6), max=1.0))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # noqa: ARG002 # torch's signature
        """Take one step along the gradients."""
        self._steps += 1
        torch._fused_adamw_(
            [self._values], [self._gradient], [self._first], [self._second], [], [self._steps],
            lr=self.param_groups[0]["lr"], beta1=self._betas[0], beta2=self._betas[1],
            weight_decay=self._weight_decay, eps=self._eps, amsgrad=False, maximize=False,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Return the moments, the step count and the learning rate."""
        return {
            "first": self._first.clone(),
            "second": self._second.clone(),
            "steps": int(self._steps),
            "lr": self.param_groups[0]["lr"],
        }

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:  # noqa: ARG002 # as SB3 calls it
        """Take over what ``state_dict`` gave."""
        self._first.copy_(state["first"])
        self._second.copy_(state["second"])
        self._steps.fill_(state["steps"])
        self.param_groups[0]["lr"] = state["lr"]

    def _bind(self, parameters: list[nn.Parameter]) -> None:
        start = 0
        for parameter in parameters:
            stop = start + parameter.numel()
            parameter.data = self._values[start:stop].view_as(parameter)
            parameter.grad = _view(self._gradient, start, stop, parameter)
            start = stop


def _view(flat: Tensor, start: int, stop: int, like: Tensor) -> Tensor:
    return flat[start:stop].view_as(like)
