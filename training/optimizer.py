"""AdamW over all parameters of a small network as one flat vector.

torch's own optimisers import ``torch._dynamo`` on first use (several CPU-seconds) and update one
tensor at a time; for a network of a few hundred weights that is most of the training time, and for
a wide one several passes over its memory. Here all of it is one call of torch's fused kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class FlatAdamW:
    """Loshchilov & Hutter (2019), algorithm 2, with the duties SB3 asks of an optimiser.

    The parameters become views of one vector: nothing else may rebind ``parameter.data``.
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
        self._first = torch.zeros_like(self._values)
        self._second = torch.zeros_like(self._values)
        self._steps = torch.zeros((), device=self._values.device)
        self._bind(listed)

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: ARG002 # torch's signature
        """Forget every gradient, so that the next one is taken over instead of added."""
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    @torch.no_grad()
    def clip_gradient(self, max_norm: float) -> None:
        """Scale the gradient down to ``max_norm`` where its Euclidean norm is larger."""
        gradients = [slot.gradient for slot in self._used()]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if norm.device.type == "cpu" and norm <= max_norm:
            return  # elsewhere asking would wait for the device
        torch._foreach_mul_(gradients, torch.clamp(max_norm / (norm + 1e-6), max=1.0))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # noqa: ARG002 # torch's signature
        """Take one step along the gradients; a parameter without one stays."""
        used = self._used()
        self._steps += 1
        torch._fused_adamw_(
            [slot.values for slot in used], [slot.gradient for slot in used],
            [slot.first for slot in used], [slot.second for slot in used],
            [], [self._steps] * len(used),
            lr=self.param_groups[0]["lr"], beta1=self._betas[0], beta2=self._betas[1],
            weight_decay=self._weight_decay, eps=self._eps, amsgrad=False, maximize=False,
        )  # fmt: skip

    @property
    def values(self) -> Tensor:
        """All parameters as one vector, a view."""
        return self._values

    @torch.no_grad()
    def set_values(self, values: Tensor) -> None:
        """Set every parameter, in the order of ``values``."""
        self._values.copy_(values)

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

    def _used(self) -> list[_Used]:
        return [
            _Used(parameter.data, parameter.grad, first, second)
            for parameter, first, second in self._slots
            if parameter.grad is not None
        ]

    def _bind(self, parameters: list[nn.Parameter]) -> None:
        """Make the parameters views of the vector."""
        start = 0
        self._slots: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        for parameter in parameters:
            part = slice(start, start + parameter.numel())
            parameter.data, first, second = (
                flat[part].view_as(parameter) for flat in (self._values, self._first, self._second)
            )
            self._slots.append((parameter, first, second))
            start = part.stop


class _Used(NamedTuple):
    """A parameter with a gradient, and its moments."""

    values: Tensor
    gradient: Tensor
    first: Tensor
    second: Tensor
