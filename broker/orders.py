"""Orders and fills as values, and every reason for which an order is not sent or not filled.

It owns the names and the ids; it decides nothing. Ids are functions of content, so that deciding
or filling a thing twice is doing it once.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from decimal import Decimal


class RejectReason(enum.StrEnum):
    """Why an asset's target did not become an order, or an order not a fill.

    ``NO_PRICE``: no usable price at the decision; ``NOT_TRADABLE``: excluded by the caller or
    unknown to the venue; ``LEVERAGE_LIMIT``: scaled down to less than the venue takes;
    ``CANCELLED``: withdrawn before its bar came.
    """

    WITHIN_BAND = "within_no_trade_band"
    BELOW_LOT_STEP = "below_lot_step"
    BELOW_MIN_QUANTITY = "below_min_quantity"
    BELOW_MIN_NOTIONAL = "below_min_notional"
    NO_PRICE = "no_price"
    NOT_TRADABLE = "not_tradable"
    LEVERAGE_LIMIT = "leverage_limit"
    NO_BAR_TO_FILL = "no_bar_to_fill"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A market order decided at ``decision_time``; ``quantity`` is signed base units."""

    order_id: str
    symbol: str
    decision_time: int
    quantity: Decimal
    decision_price: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """An asset whose target was not traded, and why.

    ``wanted_quantity`` is signed base units: the change before rounding, or the order's quantity.
    """

    symbol: str
    decision_time: int
    reason: RejectReason
    wanted_quantity: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """An executed order.

    Attributes:
        event_time: when it happened: the next bar's open plus latency.
        quantity: signed base units.
        reference_price: the price before costs (the next bar's open).
        fill_price: what was paid or received per unit, moved against us.
        fee: quote currency, never negative.
        slippage: ``|quantity|·|fill_price − reference_price|``, quote currency.
    """

    fill_id: str
    order_id: str
    symbol: str
    event_time: int
    quantity: Decimal
    reference_price: Decimal
    fill_price: Decimal
    fee: Decimal
    slippage: Decimal


def order_id(account_id: str, decision_time: int, symbol: str) -> str:
    """Id of the one order that a decision can place in a symbol."""
    return f"{account_id}:order:{decision_time}:{symbol}"


def fill_id(order: Order) -> str:
    """Id of the one fill that a market order can have."""
    return f"{order.order_id}:fill"
