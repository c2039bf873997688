"""Trading rules of the perpetuals that a sandbox can list, one table per venue.

Values are constants, dated by their source; a live venue's rules come from its own API instead.

Binance: BTC and ETH from ``/fapi/v1/exchangeInfo`` as captured on 2026-09-30, except BTC's minimum
notional, which is the 100 USDT in force for most of the recorded years (50 in that capture); the
others from the capture of 2021-07-22 with SOL's and BNB's steps as refined since. Bybit: from
``/v5/market/instruments-info``, category linear, as documented in 2025; not captured, so check them
again before money depends on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from market.instrument import Instrument, Venue

# base: (tick size, lot step and minimum quantity, largest market order, minimum notional)
_Rule = tuple[str, str, str, str]

_BINANCE: dict[str, _Rule] = {
    "BTC": ("0.1", "0.001", "120", "100"),
    "ETH": ("0.01", "0.001", "2000", "20"),
    "SOL": ("0.01", "0.01", "20000", "5"),
    "XRP": ("0.0001", "0.1", "1000000", "5"),
    "ADA": ("0.0001", "1", "3000000", "5"),
    "BNB": ("0.01", "0.01", "20000", "5"),
    "DOGE": ("0.00001", "1", "5000000", "5"),
    "LTC": ("0.01", "0.001", "10000", "20"),
    "LINK": ("0.001", "0.01", "100000", "20"),
}

_BYBIT: dict[str, _Rule] = {
    "BTC": ("0.1", "0.001", "150", "5"),
    "ETH": ("0.01", "0.01", "1500", "5"),
    "SOL": ("0.01", "0.1", "12000", "5"),
    "XRP": ("0.0001", "0.1", "1000000", "5"),
    "ADA": ("0.0001", "1", "1000000", "5"),
    "BNB": ("0.1", "0.01", "2500", "5"),
    "DOGE": ("0.00001", "1", "10000000", "5"),
    "LTC": ("0.01", "0.1", "10000", "5"),
    "LINK": ("0.001", "0.1", "50000", "5"),
}

_FUNDING_MINUTES = 480


def listed_symbols(venue: Venue) -> tuple[str, ...]:
    """Return the unified symbols whose rules are known."""
    return tuple(f"{base}/USDT:USDT" for base in _rules(venue))


def list_instruments(symbols: Sequence[str], *, venue: Venue) -> tuple[Instrument, ...]:
    """Return the rules of ``symbols`` in their order.

    Raises:
        ValueError: no symbol at all, one twice, or one that is not in the table.
    """
    if not symbols:
        raise ValueError("a sandbox needs at least one symbol")
    if len(set(symbols)) != len(symbols):
        raise ValueError(f"a symbol is listed twice: {', '.join(symbols)}")
    listed = listed_symbols(venue)
    if unknown := [symbol for symbol in symbols if symbol not in listed]:
        raise ValueError(
            f"no trading rules for {', '.join(unknown)} on {venue}; known: {', '.join(listed)}"
        )
    return tuple(_instrument(symbol, venue) for symbol in symbols)


def _rules(venue: Venue) -> dict[str, _Rule]:
    return {Venue.BINANCEUSDM: _BINANCE, Venue.BYBIT: _BYBIT}[venue]


def _instrument(symbol: str, venue: Venue) -> Instrument:
    base = symbol.split("/", maxsplit=1)[0]
    tick, step, most, notional = _rules(venue)[base]
    return Instrument(
        symbol=symbol,
        venue_symbol=f"{base}USDT",
        base=base,
        quote="USDT",
        tick_size=Decimal(tick),
        lot_step=Decimal(step),
        min_quantity=Decimal(step),
        max_quantity=Decimal(most),
        min_notional=Decimal(notional),
        funding_interval_minutes=_FUNDING_MINUTES,
    )
