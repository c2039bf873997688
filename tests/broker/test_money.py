"""Crossing between float64 and decimals."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.money import NotFinite, money, to_float, to_money, to_price, to_quantity


@given(st.floats(1e-12, 1e12))
def test_prices_cross_without_loss(price: float) -> None:
    """A price read back is the same float64, bit for bit."""
    assert to_float(to_price(price)) == price


@given(st.integers(-(10**9), 10**9), st.sampled_from(["1", "0.1", "0.001", "0.00001", "5"]))
def test_quantities_are_exact_multiples(lots: int, step: str) -> None:
    """A float64 number of lots becomes exactly that many steps."""
    assert to_quantity(lots * float(step), Decimal(step)) == lots * Decimal(step)


def test_money_ties_round_as_decimals_do() -> None:
    """0.415 · 60226.01 · 0.0005 is 12.496897075 exactly: half to even gives …08, not …07."""
    noisy = 0.415 * 60226.01 * 0.0005
    assert to_money(noisy) == Decimal("12.49689708")
    assert to_money(0.000000025) == Decimal("0.00000002")
    assert money(Decimal("1.000000015")) == Decimal("1.00000002")


def test_minus_zero_is_zero() -> None:
    """A payment of −0.0 is written as 0.00000000."""
    assert format(to_money(-0.0), "f") == "0.00000000"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite_never_enters_the_ledger(value: float) -> None:
    """NaN and infinities raise at the border."""
    for convert in (to_money, to_price, lambda number: to_quantity(number, Decimal(1))):
        with pytest.raises(NotFinite):
            convert(value)
