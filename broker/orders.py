"""Orders and fills as values, and every reason for which an order is not sent or not filled.

It owns the names and the ids; it decides nothing. Ids are functions of content, so that deciding
or filling a thing twice is doing it once.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from decimal import Decimal


class RejectReason(enum.StrEnum):
    """Why an asset's target did not become an order, or an order not a fill, or not all of it.

    ``NO_PRICE``: no usable price at the decision; ``NOT_TRADABLE``: excluded by the caller or
    unknown to the venue; ``LEVERAGE_LIMIT``: scaled down to less than the venue takes;
    ``ABOVE_MAX_QUANTITY``: cut to the venue's largest market order; ``PARTICIPATION_CAP``: the
    bar's volume did not suffice; ``INSUFFICIENT_CASH``: the fill was dearer than the cash of a spot
    account allowed; ``NO_BOOK`` to ``SLIPPAGE_CAP``: the recorded order book was missing, empty,
    crossed, too old, too thin, or too dear beyond its first levels.
    """

    WITHIN_BAND = "within_no_trade_band"
    BELOW_LOT_STEP = "below_lot_step"
    BELOW_MIN_QUANTITY = "below_min_quantity"
    BELOW_MIN_NOTIONAL = "below_min_notional"
    NO_PRICE = "no_price"
    NOT_TRADABLE = "not_tradable"
    LEVERAGE_LIMIT = "leverage_limit"
    NO_BAR_TO_FILL = "no_bar_to_fill"
    ABOVE_MAX_QUANTITY = "above_max_quantity"
    PARTICIPATION_CAP = "participation_cap"
    INSUFFICIENT_CASH = "insufficient_cash"
    NO_BOOK = "no_book"
    EMPTY_BOOK = "empty_book"
    CROSSED_BOOK = "crossed_book"
    STALE_BOOK = "stale_book"
    BOOK_EXHAUSTED = "book_exhausted"
    SLIPPAGE_CAP = "slippage_cap"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A market order decided at ``decision_time``; ``quantity`` is signed base units.

    ``limited_by`` says which limit of the venue cut it, if one did. What the leverage limit took of
    every addition is the decision's ``buy_scale``.
    """

    order_id: str
    symbol: str
    decision_time: int
    quantity: Decimal
    decision_price: Decimal
    limited_by: RejectReason | None = None


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
    """An executed order, or as much of it as could be had; the rest is given up.

    Attributes:
        event_time: when it happened: the next bar's open plus latency, or the decision.
        quantity: signed base units, at most the order's.
        reference_price: the price before costs (the next bar's open, or the book's mid).
        fill_price: what was paid or received per unit, moved against us.
        fee: quote currency, never negative.
        slippage: ``|quantity|·|fill_price − reference_price|``, quote currency.
        shortfall: why it is less than the order; ``None`` where it is all of it.
        book_id: the recorded order book that was walked; ``None`` for a modelled fill.
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
    shortfall: RejectReason | None = None
    book_id: str | None = None


def order_id(account_id: str, decision_time: int, symbol: str) -> str:
    """Id of the one order that a decision can place in a symbol."""
    return f"{account_id}:order:{decision_time}:{symbol}"


def fill_id(order: Order) -> str:
    """Id of the one fill that a market order can have."""
    return f"{order.order_id}:fill"
