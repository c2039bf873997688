"""The named arrays that the kernel reads and returns; one account or a batch, (..., asset).

Values only: units and shapes are written here, the arithmetic is in ``kernel``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Int64Array = npt.NDArray[np.int64]


class Book(NamedTuple):
    """Accounts: ``wallet`` (...,) quote; ``quantity`` and ``entry_price`` (..., asset).

    ``entry_price`` is 0 where nothing is held.
    """

    wallet: Float64Array
    quantity: Float64Array
    entry_price: Float64Array


class LotRules(NamedTuple):
    """Venue rules, each (asset,): quantity step, smallest order in base units and in quote.

    ``max_quantity`` is the largest market order, base units; inf where the venue states none.
    """

    lot_step: Float64Array
    min_quantity: Float64Array
    min_notional: Float64Array
    max_quantity: Float64Array


class FillLimits(NamedTuple):
    """What bounds a modelled fill.

    Attributes:
        capacity: (..., asset) most that one order fills in the bar, base units; inf = no bound.
        lot_step: (asset,) base units; a bounded fill is rounded toward zero to it.
        cash_only: spot: what is bought is paid from cash, never on credit.
    """

    capacity: Float64Array
    lot_step: Float64Array
    cash_only: bool


class MarginSchedule(NamedTuple):
    """Maintenance margin by date: S ladders of K tiers each, and the liquidation fee.

    The margin of a notional V is ``V·rate − amount`` of the tier whose ``floor`` is the highest
    one at or below V; amounts make it continuous. Unused tiers have the floor inf.

    Attributes:
        since: (S,) UTC milliseconds from which each ladder counts, ascending; the first counts
            before its date too.
        floor, rate, amount: (S, asset, K) quote currency, fraction, quote currency.
        top_rate: (asset,) the highest rate of any ladder: an upper bound that is cheap to test.
        liquidation_fee: (S, asset) fraction of the notional that is closed.
    """

    since: Int64Array
    floor: Float64Array
    rate: Float64Array
    amount: Float64Array
    top_rate: Float64Array
    liquidation_fee: Float64Array


class Liquidation(NamedTuple):
    """What a margin test inside one bar did; (...,) unless said otherwise.

    Attributes:
        book: the accounts after it.
        hit: which accounts were liquidated, or owed with nothing held.
        closed: (..., asset) quantity that was closed, signed as it was held; 0 elsewhere.
        price: (..., asset) the mark at which the margin was reached.
        fee: (..., asset) liquidation fee, quote currency, never negative.
        realised: (..., asset) before the fee.
        insurance: (...,) what was posted so that the wallet does not end below zero.
    """

    book: Book
    hit: BoolArray
    closed: Float64Array
    price: Float64Array
    fee: Float64Array
    realised: Float64Array
    insurance: Float64Array


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
        capped: (..., asset) whether the venue's largest market order cut the order.
        buy_scale: (...,) the one factor in [0, 1] applied to everything that adds exposure.
        equity: (...,) quote currency, at the decision's mark.
    """

    wanted: Float64Array
    traded: Float64Array
    capped: BoolArray
    buy_scale: Float64Array
    equity: Float64Array


class Executed(NamedTuple):
    """The book after modelled fills and what each fill cost; all but ``book`` (..., asset).

    ``traded`` is what was filled (0 where there was no bar), ``fee`` and ``slippage`` are quote
    currency and never negative, ``realised`` is before fees. ``cash_scale`` (...,) is the factor
    in [0, 1] that was put on purchases so that cash sufficed.
    """

    book: Book
    traded: Float64Array
    fill_price: Float64Array
    fee: Float64Array
    slippage: Float64Array
    realised: Float64Array
    cash_scale: Float64Array


class Step(NamedTuple):
    """One interval of a batch of accounts; all but ``book`` are (...,), quote currency.

    ``equity`` is at the interval's closing mark; ``funding`` is positive when received;
    ``traded_notional`` is Σ|quantity|·open price, the numerator of turnover; ``cost`` is
    fee + slippage. ``liquidated`` says which accounts the margin test closed,
    ``liquidation_fee`` what they paid for it, ``insurance`` what they were given.
    """

    book: Book
    equity: Float64Array
    fee: Float64Array
    slippage: Float64Array
    funding: Float64Array
    traded_notional: Float64Array
    liquidated: BoolArray
    liquidation_fee: Float64Array
    insurance: Float64Array

    @property
    def cost(self) -> Float64Array:
        """(...,) what trading cost in the interval, quote currency, never negative."""
        return self.fee + self.slippage


class Interval(NamedTuple):
    """What the market did between two closes, each (..., asset) but ``ladder``.

    Attributes:
        open_price, fillable: where fills happen.
        volume: base units traded in the bar.
        funding_at_open: Σ rate·mark per unit held before the fill, quote currency.
        funding_in_bar: the same per unit held after it.
        mark_open, mark_low, mark_high: the path of the mark that the margin test takes.
        mark: valuation price at the closing end.
        ladder: (...,) which ladder of the ``MarginSchedule`` is in force.
    """

    open_price: Float64Array
    fillable: BoolArray
    volume: Float64Array
    funding_at_open: Float64Array
    funding_in_bar: Float64Array
    mark_open: Float64Array
    mark_low: Float64Array
    mark_high: Float64Array
    mark: Float64Array
    ladder: Int64Array
