"""Carrying accounts from one close to the next: funding, fills, the margin test, equity.

The order of events within a bar, once, for the environment's batches; ``account`` follows the same
order for one account (``daemon.settle``).
"""

from __future__ import annotations

import numpy as np

from broker.book import (
    Book,
    FillLimits,
    Float64Array,
    Interval,
    Liquidity,
    MarginSchedule,
    Step,
)
from broker.costs import Costs
from broker.kernel import equity, execute, funding_payment
from broker.margin import liquidate


def step(
    book: Book,
    traded: Float64Array,
    interval: Interval,
    *,
    liquidity: Liquidity,
    costs: Costs,
    limits: FillLimits,
    schedule: MarginSchedule,
) -> Step:
    """Carry accounts over one bar: funding at the open, fills, funding, margin test, equity.

    Args:
        book: the accounts at the close before.
        traded: (..., asset) signed order quantities.
        interval: the bar.
        liquidity: as known when the orders were decided.
        costs: what is charged.
        limits: what bounds the fills.
        schedule: maintenance margin; ``margin.no_margin`` for spot, which owes nothing.
    """
    multiplier = costs.funding_multiplier
    at_open = _total(funding_payment(book.quantity, interval.funding_at_open))
    done = execute(
        book, traded, interval.open_price,
        fillable=interval.fillable, liquidity=liquidity, costs=costs, limits=limits,
    )  # fmt: skip
    funding = at_open + _total(funding_payment(done.book.quantity, interval.funding_in_bar))
    funding *= multiplier
    after = done.book._replace(wallet=done.book.wallet + funding)
    tested = liquidate(after, interval, schedule)
    return Step(
        book=tested.book,
        equity=equity(tested.book, interval.mark),
        fee=_total(done.fee),
        slippage=_total(done.slippage),
        funding=funding,
        traded_notional=_total(np.abs(done.traded) * interval.open_price),
        liquidated=tested.hit,
        liquidation_fee=_total(tested.fee),
        insurance=tested.insurance,
    )


def _total(values: Float64Array) -> Float64Array:
    """Sum over the asset axis."""
    total: Float64Array = np.add.reduce(values, axis=-1)
    return total
