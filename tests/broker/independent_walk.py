"""Walking an order book written down a second time, lot by lot, importing nothing of ours."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_DOWN, Context, Decimal, localcontext

Levels = Sequence[tuple[str, str]]
"""(price, quantity) as text, best first."""


def walked(
    bids: Levels, asks: Levels, *, quantity: str, cap: str, lot_step: str
) -> tuple[Decimal, Decimal]:
    """Signed quantity that a market order gets, and what is paid or received for it."""
    with localcontext(Context(prec=2_000)):
        order, step = Decimal(quantity), Decimal(lot_step)
        buys = order > 0
        middle = (Decimal(bids[0][0]) + Decimal(asks[0][0])) / 2
        worst = middle + middle * Decimal(cap) * (1 if buys else -1)
        offers = []
        for price, size in asks if buys else bids:
            too_dear = Decimal(price) > worst if buys else Decimal(price) < worst
            if not too_dear:
                offers.append((Decimal(price), Decimal(size)))
        there = sum((held for _, held in offers), Decimal(0))
        target = abs(order) if abs(order) < there else there
        target = (target / step).to_integral_value(ROUND_DOWN) * step
        got, paid = Decimal(0), Decimal(0)
        for rate, held in offers:
            part = held if got + held <= target else target - got
            got += part
            paid += part * rate
        return (got if buys else -got), paid
