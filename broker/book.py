"""The named arrays that the kernel reads and returns; one account or a batch, (..., asset).

Values only: units and shapes are written here, the arithmetic is in ``kernel``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


class Book(NamedTuple):
    """Accounts: ``wallet`` (...,) quote; ``quantity`` and ``entry_price`` (..., asset).

    ``entry_price`` is 0 where nothing is held.
    """

    wallet: Float64Array
    quantity: Float64Array
    entry_price: Float64Array


class LotRules(NamedTuple):
    """Venue rules, each (asset,): quantity step, smallest order in base units and in quote."""

    lot_step: Float64Array
    min_quantity: Float64Array
    min_notional: Float64Array


class Liquidity(NamedTuple):
    """What impact is measured against, each (..., asset).

    ``adv_quote`` is the average daily volume in quote currency (0 = unknown, the impact is then
    that of a whole day's volume); ``sigma_daily`` is the daily volatility as a fraction.
    """

    adv_quote: Float64Array
    sigma_daily: Float64Array


class PlannedTrade(NamedTuple):
    """What a rebalance wants and what it may do.

    Attributes:
        wanted: (..., asset) target minus held quantity, before any rule; 0 where not tradable.
        traded: (..., asset) signed order quantity, a multiple of the lot step; 0 = no order.
        buy_scale: (...,) the one factor in [0, 1] applied to everything that adds exposure.
        equity: (...,) quote currency, at the decision's mark.
    """

    wanted: Float64Array
    traded: Float64Array
    buy_scale: Float64Array
    equity: Float64Array


class Executed(NamedTuple):
    """The book after modelled fills and what each fill cost; all but ``book`` (..., asset).

    ``traded`` is what was filled (0 where there was no bar), ``fee`` and ``slippage`` are quote
    currency and never negative, ``realised`` is before fees.
    """

    book: Book
    traded: Float64Array
    fill_price: Float64Array
    fee: Float64Array
    slippage: Float64Array
    realised: Float64Array


class Step(NamedTuple):
    """One interval of a batch of accounts; all but ``book`` are (...,), quote currency.

    ``equity`` is at the interval's closing mark; ``funding`` is positive when received;
    ``traded_notional`` is Σ|quantity|·open price, the numerator of turnover; ``cost`` is
    fee + slippage.
    """

    book: Book
    equity: Float64Array
    fee: Float64Array
    slippage: Float64Array
    funding: Float64Array
    traded_notional: Float64Array

    @property
    def cost(self) -> Float64Array:
        """(...,) what trading cost in the interval, quote currency, never negative."""
        return self.fee + self.slippage


class Interval(NamedTuple):
    """What the market did between two closes, each (..., asset).

    ``open_price`` with ``fillable``; funding as Σ rate·mark per unit held, quote currency, at the
    open (charged on the quantity before the fill) and inside the bar (after it); ``mark`` is the
    valuation price at the closing end.
    """

    open_price: Float64Array
    fillable: BoolArray
    funding_at_open: Float64Array
    funding_in_bar: Float64Array
    mark: Float64Array
