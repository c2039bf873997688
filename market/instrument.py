"""Instruments: what a venue lets us trade, and in which steps."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

_DECIMALS = ("tick_size", "lot_step", "min_quantity", "max_quantity", "min_notional")


class Market(enum.StrEnum):
    """What is traded: linear perpetuals or spot."""

    PERP = "perp"
    SPOT = "spot"


class Venue(enum.StrEnum):
    """Venues that Ballast speaks to: an exchange and one market type."""

    BINANCEUSDM = "binanceusdm"
    BINANCE = "binance"
    BYBIT = "bybit"
    BYBITSPOT = "bybitspot"

    @property
    def market(self) -> Market:
        """Which market type it is."""
        return Market.SPOT if self in (Venue.BINANCE, Venue.BYBITSPOT) else Market.PERP

    @property
    def taker_fee_rate(self) -> float:
        """Published taker rate as a fraction of notional (2026); the config may override it."""
        return {
            Venue.BINANCEUSDM: 0.0005,
            Venue.BINANCE: 0.001,
            Venue.BYBIT: 0.00055,
            Venue.BYBITSPOT: 0.001,
        }[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """Trading rules of one linear perpetual or spot pair.

    Attributes:
        symbol: ccxt's unified symbol, such as ``BTC/USDT:USDT`` (perpetual) or ``BTC/USDT``.
        venue_symbol: the venue's own id, such as ``BTCUSDT``.
        tick_size: price step, quote currency.
        lot_step: quantity step, base units.
        min_quantity: smallest order, base units.
        max_quantity: largest market order, base units; ``None`` when the venue states none.
        min_notional: smallest order value, quote currency.
        funding_interval_minutes: time between settlements as the venue states it now; ``None``
            for spot, which has no funding.
        is_trading: whether the venue accepts orders for it now.
    """

    symbol: str
    venue_symbol: str
    base: str
    quote: str
    tick_size: Decimal
    lot_step: Decimal
    min_quantity: Decimal
    max_quantity: Decimal | None
    min_notional: Decimal
    funding_interval_minutes: int | None
    is_trading: bool = True

    def __post_init__(self) -> None:
        if self.tick_size <= 0 or self.lot_step <= 0:
            raise ValueError(f"{self.symbol}: tick_size and lot_step must be positive")
        if self.min_notional < 0 or self.min_quantity < 0:
            raise ValueError(f"{self.symbol}: minimum notional and quantity must not be negative")


def instrument_facts(instrument: Instrument) -> dict[str, Any]:
    """Return the rules as JSON values; equal rules give equal text (0.10 and 0.1 are one step)."""
    facts = asdict(instrument)
    for name in _DECIMALS:
        value = facts[name]
        facts[name] = None if value is None else format(value.normalize(), "f")
    return facts


def read_instrument(facts: Mapping[str, Any]) -> Instrument:
    """Read what ``instrument_facts`` wrote.

    Raises:
        KeyError, TypeError, ValueError, ArithmeticError: it is something else.
    """
    numbers = {name: None if facts[name] is None else Decimal(facts[name]) for name in _DECIMALS}
    return Instrument(**(dict(facts) | numbers))
