"""Quotes and order books: what a fill would have cost at one moment.

Values only. ``event_time`` is the venue's own stamp, ``available_at`` the moment we had it; both
are UTC milliseconds. What a venue does not give is ``None``, never zero.
"""

from __future__ import annotations

from dataclasses import dataclass

Level = tuple[float, float]
"""(price in quote currency, quantity in base units), both exactly as the venue wrote them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """Best bid and ask of one symbol, and for perpetuals its mark, index and next funding.

    Attributes:
        predicted_funding_rate: what the venue expects to settle at ``next_funding_time``, a
            fraction of notional.
    """

    symbol: str
    event_time: int
    available_at: int
    bid: float | None
    bid_quantity: float | None
    ask: float | None
    ask_quantity: float | None
    mark_price: float | None = None
    index_price: float | None = None
    predicted_funding_rate: float | None = None
    next_funding_time: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderBook:
    """The order book of one symbol at one decision.

    Attributes:
        decision_time: the decision it was recorded for.
        update_id: the venue's number of this state of the book; ``None`` where it gives none.
        bids, asks: levels, best first.
    """

    symbol: str
    decision_time: int
    event_time: int
    available_at: int
    update_id: int | None
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
