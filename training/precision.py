"""Products of float32 matrices at the device's own pace, where a training can bear it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` multiplies matrices of 16-bit numbers faster than of 32-bit ones."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return device.type == "cpu" and supported


@contextmanager
def reduced_precision(device: torch.device) -> Iterator[None]:
    """Round the factors of float32 products: to bfloat16 on processors that have it, else not.

    On a GPU to TF32. Sums stay float32. For gradients alone: what a policy decides is computed
    outside, in full, so that it agrees with ``training.inference``.
    """
    if not has_bfloat16(device):
        yield
        return
    backend: Any = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    matmul = backend.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32" if device.type == "cuda" else "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
