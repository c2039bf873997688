"""The one arithmetic of trading: sizing, rounding, costs, modelled fills, funding, equity.

Elementwise float64 over ``(..., asset)``: the training environment calls it for a batch of
accounts, ``account`` and ``rebalance`` for one. It owns every formula about money and never knows
symbols, ``Decimal``, time or storage. Linear perpetuals under cross margin:
``equity = wallet + Σ quantity·(mark − entry_price)``.

Inputs must be finite. Where an asset has no price the caller passes any positive number and
``tradable`` (or ``fillable``) False; where it has no mark it passes 0, and must hold none of it.
``execution.market_arrays`` prepares a panel so.
"""

from __future__ import annotations

import numpy as np

from broker.book import (
    Book,
    BoolArray,
    Executed,
    FillLimits,
    Float64Array,
    Liquidity,
    LotRules,
    PlannedTrade,
)
from broker.costs import Costs, TradingRules

__all__ = [
    "LIMIT_TOLERANCE",
    "LOT_TOLERANCE",
    "MAX_ADVERSE_FRACTION",
    "Book",
    "BoolArray",
    "Executed",
    "FillLimits",
    "Float64Array",
    "Liquidity",
    "LotRules",
    "PlannedTrade",
    "adverse_fraction",
    "apply_fills",
    "capacity",
    "cash",
    "closing_part",
    "equity",
    "execute",
    "funding_payment",
    "meets_minimum",
    "modelled_fill_price",
    "plan_rebalance",
    "round_to_lot",
    "target_quantity",
    "trade_fee",
    "weights",
    "within_band",
]

LOT_TOLERANCE = 1e-6
"""Fraction of a lot that counts as float noise: two shells that differ by it must agree."""
LIMIT_TOLERANCE = 1e-9
"""Relative slack of the band and the minimums, for the same reason."""
MAX_ADVERSE_FRACTION = 0.5
"""A modelled fill is never worse than this fraction of the price, so that it stays positive."""

_LEAST_ADV_QUOTE = 1e-3


def equity(book: Book, mark: Float64Array) -> Float64Array:
    """Return ``wallet + Σ quantity·(mark − entry_price)``, shape (...,)."""
    value: Float64Array = book.wallet + np.vecdot(book.quantity, mark - book.entry_price)
    return value


def weights(
    quantity: Float64Array, price: Float64Array, account_equity: Float64Array
) -> Float64Array:
    """Drifted weights ``quantity·price/equity``, (..., asset); 0 where equity is not positive.

    At the decision's price a target equal to this asks for no trade.
    """
    solvent = account_equity > 0
    divisor = np.where(solvent, account_equity, np.inf)
    value: Float64Array = quantity * price / divisor[..., None]
    return value


def target_quantity(
    target: Float64Array, account_equity: Float64Array, price: Float64Array
) -> Float64Array:
    """Return ``weight·equity/price``, (..., asset) base units; no exposure without equity."""
    value: Float64Array = target * np.maximum(account_equity, 0.0)[..., None] / price
    return value


def within_band(
    wanted: Float64Array, price: Float64Array, account_equity: Float64Array, band: float
) -> BoolArray:
    """(..., asset) whether the change of weight ``|wanted|·price/equity`` is below ``band``."""
    limit = (band * (1.0 - LIMIT_TOLERANCE)) * np.maximum(account_equity, 0.0)
    inside: BoolArray = np.abs(wanted) * price < limit[..., None]
    return inside


def round_to_lot(quantity: Float64Array, lot_step: Float64Array) -> Float64Array:
    """Round toward zero to a multiple of ``lot_step``; a hair below a multiple counts as it."""
    lots = quantity / lot_step
    lots += np.copysign(LOT_TOLERANCE, lots)
    np.trunc(lots, out=lots)
    lots *= lot_step
    return lots


def meets_minimum(
    traded: Float64Array, quantity: Float64Array, price: Float64Array, lots: LotRules
) -> BoolArray:
    """(..., asset) whether the venue takes the order; one that only reduces needs no notional."""
    size = np.abs(traded)
    floor = 1.0 - LIMIT_TOLERANCE
    enough = size * price >= lots.min_notional * floor
    enough |= (traded * quantity < 0) & (size <= np.abs(quantity) * (1.0 + LIMIT_TOLERANCE))
    enough &= size >= lots.min_quantity * floor
    return enough


def adverse_fraction(notional: Float64Array, liquidity: Liquidity, costs: Costs) -> Float64Array:
    """Half spread plus square-root impact, as a fraction of the price, (..., asset).

    ``half_spread + Y·σ_daily·sqrt(notional/ADV)``, the participation capped at one day's volume
    (square-root law: Almgren et al. 2005; Tóth et al. 2011). ``notional`` must not be negative.
    """
    half_spread = costs.half_spread
    if not np.any(costs.impact):
        return np.full_like(notional, np.minimum(half_spread, MAX_ADVERSE_FRACTION))
    # An unknown volume (0) makes any order a whole day's: the cap, not a free trade.
    fraction = notional / np.maximum(liquidity.adv_quote, _LEAST_ADV_QUOTE)
    np.minimum(fraction, 1.0, out=fraction)
    np.sqrt(fraction, out=fraction)
    fraction *= liquidity.sigma_daily
    fraction *= costs.impact
    fraction += half_spread
    np.minimum(fraction, MAX_ADVERSE_FRACTION, out=fraction)
    return fraction


def modelled_fill_price(
    traded: Float64Array, open_price: Float64Array, liquidity: Liquidity, costs: Costs
) -> Float64Array:
    """Next bar's open moved against us, quote currency, (..., asset)."""
    moved = adverse_fraction(np.abs(traded) * open_price, liquidity, costs)
    np.copysign(moved, traded, out=moved)
    moved += 1.0
    moved *= open_price
    return moved


def trade_fee(traded: Float64Array, fill_price: Float64Array, costs: Costs) -> Float64Array:
    """Fee = rate × filled notional, quote currency, never negative, (..., asset)."""
    value: Float64Array = np.abs(traded) * fill_price * costs.fee_rate
    return value


def funding_payment(quantity: Float64Array, per_unit: Float64Array) -> Float64Array:
    """Return ``−quantity·mark·rate``, quote currency, positive when received, (..., asset).

    Args:
        quantity: signed base units held at the settlement's nominal time.
        per_unit: mark·rate (times the account's funding multiplier), quote currency per unit.
    """
    value: Float64Array = -(quantity * per_unit)
    return value


def closing_part(traded: Float64Array, quantity: Float64Array) -> Float64Array:
    """(..., asset) the part of ``traded`` that takes ``quantity`` toward zero; signed as it."""
    flat = -quantity
    return np.minimum(np.maximum(traded, np.minimum(flat, 0.0)), np.maximum(flat, 0.0))


def apply_fills(
    wallet: Float64Array,
    quantity: Float64Array,
    entry_price: Float64Array,
    traded: Float64Array,
    fill_price: Float64Array,
    fee: Float64Array,
) -> tuple[Float64Array, Float64Array, Float64Array, Float64Array]:
    """Net fills into positions at the average price; a flip realises the closed part.

    Args:
        wallet: (...,) quote currency.
        quantity: (..., asset) signed base units before the fills.
        entry_price: (..., asset) average price before the fills, 0 where flat.
        traded: (..., asset) signed base units.
        fill_price: (..., asset) quote currency per unit; any finite number where nothing traded.
        fee: (..., asset) quote currency, never negative.

    Returns:
        wallet (...,), quantity, entry_price and realised profit before fees (..., asset).
    """
    closed = closing_part(traded, quantity)
    move = fill_price - entry_price
    realised = -closed * move
    held = quantity + traded
    is_flat = held == 0
    # The opened share of what is held moves the average; the closed part leaves it alone.
    move *= (traded - closed) / (held + is_flat)
    move += entry_price
    move *= ~is_flat
    return wallet + _total(realised - fee), held, move, realised


def plan_rebalance(
    target: Float64Array,
    book: Book,
    price: Float64Array,
    mark: Float64Array,
    *,
    tradable: BoolArray,
    liquidity: Liquidity,
    lots: LotRules,
    costs: Costs,
    rules: TradingRules,
) -> PlannedTrade:
    """Size one rebalance: band, lots, minimums, one factor on what adds exposure, largest order.

    Reductions (sells of a long book) are taken whole; additions (buys) are scaled by one factor
    so that gross notional ≤ leverage_limit · equity after the estimated fee and slippage of all
    of it. A flip's closing part is a reduction.

    Args:
        target: (..., asset) target weights of the risky assets.
        book: the accounts before the decision.
        price: (..., asset) decision price (the bar's close); the mark where not tradable, so
            that a position that cannot move counts against the limit at its value.
        mark: (..., asset) valuation price.
        tradable: (..., asset) False keeps the position.
        liquidity: as known at the decision, (..., asset).
        lots: venue rules, (asset,) or (..., asset).
        costs: for the estimate of fee and slippage.
        rules: leverage limit and band.
    """
    value = equity(book, mark)
    wanted = target_quantity(target, value, price)
    wanted -= book.quantity
    wanted *= tradable
    traded = round_to_lot(wanted, lots.lot_step)
    keep = meets_minimum(traded, book.quantity, price, lots)
    if rules.no_trade_band > 0:
        keep &= ~within_band(wanted, price, value, rules.no_trade_band)
    traded *= keep
    reduced = closing_part(traded, book.quantity)
    scale = _addition_scale(
        traded, reduced, book.quantity, price, value,
        liquidity=liquidity, costs=costs, leverage_limit=rules.leverage_limit,
    )  # fmt: skip
    if np.min(scale) < 1.0:
        traded = round_to_lot((traded - reduced) * scale[..., None], lots.lot_step)
        traded += reduced
        traded *= meets_minimum(traded, book.quantity, price, lots)
    capped = np.abs(traded) > lots.max_quantity
    if np.any(capped):
        largest = round_to_lot(np.where(capped, lots.max_quantity, 0.0), lots.lot_step)
        np.copyto(traded, np.copysign(largest, traded), where=capped)
    # Exactly flat, not 1e-18 of a coin: lots in float64 do not add up to their multiples.
    dust = np.abs(book.quantity + traded) < lots.lot_step * LOT_TOLERANCE
    np.copyto(traded, -book.quantity, where=dust)
    return PlannedTrade(wanted, traded, capped, scale, value)


def _addition_scale(
    traded: Float64Array,
    reduced: Float64Array,
    quantity: Float64Array,
    price: Float64Array,
    value: Float64Array,
    *,
    liquidity: Liquidity,
    costs: Costs,
    leverage_limit: float,
) -> Float64Array:
    """Return the factor (...,) in [0, 1] for what ``traded`` adds beyond ``reduced``.

    Solves ``gross_kept + f·added = L·(equity − cost_kept − f·cost_added)`` for f. The impact is
    that of the unscaled trade, so it is never too low; the fee is that at ``price``, too low by
    what it is of the slippage.
    """
    notional = np.abs(traded)
    notional *= price
    added = np.abs(traded - reduced)
    added *= price
    unit_cost = adverse_fraction(notional, liquidity, costs)
    unit_cost += costs.fee_rate
    cost_added = np.vecdot(added, unit_cost)
    cost_kept = np.vecdot(notional, unit_cost) - cost_added
    gross_kept = np.vecdot(np.abs(quantity + reduced), price)
    room = leverage_limit * (value - cost_kept) - gross_kept
    need = _total(added) + leverage_limit * cost_added
    none_added = need <= 0
    scale = room / (need + none_added)
    return np.where(none_added, 1.0, np.minimum(np.maximum(scale, 0.0), 1.0))


def execute(
    book: Book,
    traded: Float64Array,
    open_price: Float64Array,
    *,
    fillable: BoolArray,
    liquidity: Liquidity,
    costs: Costs,
    limits: FillLimits,
) -> Executed:
    """Fill ``traded`` at the modelled price where the next bar exists; the rest does not happen.

    An order fills no more than ``limits.capacity``; a spot account buys no more than it can pay,
    what it sells at the same open included.
    """
    filled = _within_capacity(traded * fillable, limits)
    fill_price = modelled_fill_price(filled, open_price, liquidity, costs)
    scale = np.ones_like(book.wallet)
    if limits.cash_only:
        scale = _cash_scale(book, filled, fill_price, costs)
        if np.min(scale) < 1.0:
            filled = _within_cash(filled, scale, limits.lot_step)
            fill_price = modelled_fill_price(filled, open_price, liquidity, costs)
    fee = trade_fee(filled, fill_price, costs)
    slippage = np.abs(filled) * np.abs(fill_price - open_price)
    wallet, quantity, entry_price, realised = apply_fills(
        book.wallet, book.quantity, book.entry_price, filled, fill_price, fee
    )
    after = Book(wallet, quantity, entry_price)
    return Executed(after, filled, fill_price, fee, slippage, realised, scale)


def capacity(volume: Float64Array, participation_cap: float) -> Float64Array:
    """(..., asset) most that one order fills of a bar, base units: its share of the volume."""
    if np.isinf(participation_cap):
        return np.full_like(volume, np.inf)
    value: Float64Array = volume * participation_cap
    return value


def cash(book: Book) -> Float64Array:
    """Return the cash of a spot account, (...,): its wallet less the cost of what it holds."""
    value: Float64Array = book.wallet - np.vecdot(book.quantity, book.entry_price)
    return value


def _within_capacity(traded: Float64Array, limits: FillLimits) -> Float64Array:
    size = np.abs(traded)
    bounded = size > limits.capacity
    if not np.any(bounded):
        return traded
    most = round_to_lot(np.where(bounded, limits.capacity, 0.0), limits.lot_step)
    return np.where(bounded, np.copysign(most, traded), traded)


def _cash_scale(
    book: Book, filled: Float64Array, fill_price: Float64Array, costs: Costs
) -> Float64Array:
    """Factor (...,) in [0, 1] on purchases: cash plus proceeds over what they cost with fees."""
    value = filled * fill_price
    needed = _total(np.maximum(value, 0.0)) * (1.0 + costs.fee_rate)
    proceeds = _total(np.maximum(-value, 0.0)) * (1.0 - costs.fee_rate)
    none = needed <= 0
    scale = np.maximum(cash(book) + proceeds, 0.0) / (needed + none)
    return np.where(none, 1.0, np.minimum(scale, 1.0))


def _within_cash(filled: Float64Array, scale: Float64Array, lot_step: Float64Array) -> Float64Array:
    """Scale the purchases of accounts that are short of cash, down to whole lots.

    Not with ``round_to_lot``: a lot for which a hair of cash is missing is not paid for.
    """
    bought = np.floor(np.maximum(filled, 0.0) * scale[..., None] / lot_step) * lot_step
    return np.where(scale[..., None] < 1.0, np.minimum(filled, 0.0) + bought, filled)


def _total(values: Float64Array) -> Float64Array:
    """Sum over the asset axis."""
    total: Float64Array = np.add.reduce(values, axis=-1)
    return total
