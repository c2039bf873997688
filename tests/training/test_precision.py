"""Rounded products: only inside an update, and only where they are faster."""

from __future__ import annotations

import pytest
import torch

from training import precision
from training.precision import reduced_precision

CPU = torch.device("cpu")


def product_precision() -> str:
    return str(torch.backends.mkldnn.matmul.fp32_precision)  # type: ignore[attr-defined]  # made at run time


def test_products_are_rounded_inside_and_exact_again_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the update raises: what is decided next is computed in full."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda _device: True)
    before = product_precision()

    def update() -> None:
        with reduced_precision(CPU):
            assert product_precision() == "bf16"
            raise KeyError

    with pytest.raises(KeyError):
        update()
    assert product_precision() == before != "bf16"


def test_a_processor_without_bfloat16_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """There, rounding would cost time."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda _device: False)
    before = product_precision()
    with reduced_precision(CPU):
        assert product_precision() == before
