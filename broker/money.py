"""The only place where float64 meets ``Decimal``: amounts of money, quantities and prices.

Money is quantised to 1e-8 of the quote currency, quantities to the lot step; prices are carried
exactly (the shortest decimal that reads back as the same float64), because a fixed quantum would be
coarse for a coin worth 1e-6 and finer than float64 for one worth 1e5.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_EVEN, Context, Decimal

MONEY_QUANTUM = Decimal("1e-8")
_NOISE_QUANTUM = Decimal("1e-11")
_SIGNIFICANT = Context(prec=15, rounding=ROUND_HALF_EVEN)
# Amounts up to 1e20 with eight decimals, products of exact prices and quantities.
_WIDE = Context(prec=50, rounding=ROUND_HALF_EVEN)


class NotFinite(ValueError):
    """A NaN or an infinity was about to enter the ledger."""


def to_money(value: float) -> Decimal:
    """Quantise a float64 amount to 1e-8 quote currency, half to even.

    Float noise is dropped first (15 significant digits, 1e-11), so that a product of decimals that
    ends in exactly half a quantum rounds as it would in decimal arithmetic.
    """
    exact = _SIGNIFICANT.create_decimal(_finite(value))
    quiet = exact.quantize(_NOISE_QUANTUM, context=_WIDE)
    return quiet.quantize(MONEY_QUANTUM, context=_WIDE) + 0


def money(value: Decimal) -> Decimal:
    """Quantise an exact amount to 1e-8 quote currency, half to even."""
    return value.quantize(MONEY_QUANTUM, context=_WIDE)


def notional(quantity: Decimal, price: Decimal) -> Decimal:
    """Return ``quantity·price`` as money, half to even."""
    return money(_WIDE.multiply(quantity, price))


def to_quantity(value: float, lot_step: Decimal) -> Decimal:
    """Return the multiple of ``lot_step`` nearest to ``value``, base units, exactly."""
    lots = round(Decimal(_finite(value)) / lot_step)
    return lots * lot_step


def to_price(value: float) -> Decimal:
    """Return the shortest decimal that reads back as exactly ``value``."""
    return Decimal(repr(float(_finite(value))))


def to_float(value: Decimal) -> float:
    """Return the float64 nearest to ``value``."""
    return float(value)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise NotFinite(f"{value} is not an amount")
    return float(value)
