"""Instruments: what a venue lets us trade, and in which steps."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from decimal import Decimal


class Venue(enum.StrEnum):
    """Venues that Ballast speaks to, by their ccxt class name."""

    BINANCEUSDM = "binanceusdm"
    BYBIT = "bybit"

    @property
    def taker_fee_rate(self) -> float:
        """Published taker rate as a fraction of notional (2026); the config may override it."""
        return {Venue.BINANCEUSDM: 0.0005, Venue.BYBIT: 0.00055}[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """Trading rules of one linear perpetual.

    Attributes:
        symbol: ccxt's unified symbol, such as ``BTC/USDT:USDT``.
        venue_symbol: the venue's own id, such as ``BTCUSDT``.
        tick_size: price step, quote currency.
        lot_step: quantity step, base units.
        min_quantity: smallest order, base units.
        max_quantity: largest market order, base units; ``None`` when the venue states none.
        min_notional: smallest order value, quote currency.
        funding_interval_minutes: time between settlements as the venue states it now.
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
    funding_interval_minutes: int

    def __post_init__(self) -> None:
        if self.tick_size <= 0 or self.lot_step <= 0:
            raise ValueError(f"{self.symbol}: tick_size and lot_step must be positive")
        if self.min_notional < 0 or self.min_quantity < 0:
            raise ValueError(f"{self.symbol}: minimum notional and quantity must not be negative")
