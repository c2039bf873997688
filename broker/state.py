"""What an account is between two events: cash, quantities, and what is still under way.

Values only. Weights, equity and profit are derived from them and never stored here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from broker.orders import Order
from market.bar import DAY_MS
from market.instrument import Market

HOLDINGS_KEPT_MS = 8 * DAY_MS
"""How long before its last fill an account remembers what it held, for settlements known late."""

Settled = tuple[str, int]
"""(symbol, nominal time) of a funding settlement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A netted holding: signed base units at the average entry price, quote currency."""

    quantity: Decimal
    entry_price: Decimal

    def __post_init__(self) -> None:
        if self.quantity == 0 or self.entry_price <= 0:
            raise ValueError(f"not a position: {self.quantity} at {self.entry_price}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What was held from the fill at ``since`` until the next holding; flat symbols left out."""

    since: int
    quantities: Mapping[str, Decimal]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountState:
    """One account.

    Attributes:
        quote: currency of the wallet.
        market: perpetuals under cross margin, or spot.
        wallet: deposits plus everything realised, quote currency; for spot, the cash.
        positions: by symbol; a symbol that is flat is absent.
        pending: orders decided and not yet filled or rejected.
        holdings: ascending; the last is what is held now, the first reaches back at least
            ``HOLDINGS_KEPT_MS`` before it, or to the opening.
        posted: settlements posted at or after the first holding kept.
    """

    account_id: str
    quote: str
    market: Market = Market.PERP
    wallet: Decimal
    positions: Mapping[str, Position] = field(default_factory=dict)
    pending: tuple[Order, ...] = ()
    holdings: tuple[Holding, ...]
    posted: frozenset[Settled] = frozenset()

    def __post_init__(self) -> None:
        if not self.holdings:
            raise ValueError(f"account {self.account_id}: no holding, not even the opening one")

    @property
    def last_fill_time(self) -> int:
        """Time of the last fill, or of the opening."""
        return self.holdings[-1].since


def holdings_cutoff(last_fill_time: int) -> int:
    """Settlements with a nominal time before this can no longer be posted."""
    return last_fill_time - HOLDINGS_KEPT_MS


def trim_holdings(holdings: tuple[Holding, ...]) -> tuple[Holding, ...]:
    """Drop what the cutoff no longer needs; the holding in force at the cutoff stays."""
    cutoff = holdings_cutoff(holdings[-1].since)
    first = 0
    while first + 1 < len(holdings) and holdings[first + 1].since < cutoff:
        first += 1
    return holdings[first:] if first else holdings


def trim_posted(posted: Iterable[Settled], last_fill_time: int) -> frozenset[Settled]:
    """Drop settlements that the cutoff refuses anyway."""
    cutoff = holdings_cutoff(last_fill_time)
    return frozenset(settled for settled in posted if settled[1] >= cutoff)


def quantity_at(holdings: tuple[Holding, ...], symbol: str, time: int) -> Decimal | None:
    """Base units held just before ``time`` (a fill at it does not count); ``None``: unknown."""
    for holding in reversed(holdings):
        if holding.since < time:
            return holding.quantities.get(symbol, Decimal(0))
    return None
