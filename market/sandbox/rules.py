"""Trading rules of the symbols that a sandbox can list, one table per venue.

Values are constants, dated by their source; a live venue's rules come from its own API instead.

Binance USD-M: BTC and ETH from ``/fapi/v1/exchangeInfo`` as captured on 2026-09-30, except BTC's
minimum notional, which is the 100 USDT in force for most of the recorded years (50 in that
capture); the others from the capture of 2021-07-22 with SOL's and BNB's steps as refined since.
Binance spot: largest market orders from ``/api/v3/exchangeInfo`` as captured on 2021-10-12, rounded
down; steps and the minimum notional as listed in 2025. Bybit: from ``/v5/market/instruments-info``
as documented in 2025. What was not captured must be checked again before money depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from market.instrument import Instrument, Market, Venue

# base: (tick size, lot step and minimum quantity, largest market order, minimum notional)
_Rule = tuple[str, str, str, str]

_BINANCE_USDM: dict[str, _Rule] = {
    "BTC": ("0.1", "0.001", "120", "100"),
    "ETH": ("0.01", "0.001", "2000", "20"),
    "SOL": ("0.01", "0.01", "20000", "5"),
    "XRP": ("0.0001", "0.1", "1000000", "5"),
    "ADA": ("0.0001", "1", "3000000", "5"),
    "BNB": ("0.01", "0.01", "20000", "5"),
    "DOGE": ("0.00001", "1", "5000000", "5"),
    "LTC": ("0.01", "0.001", "10000", "20"),
    "LINK": ("0.001", "0.01", "100000", "20"),
    "AVAX": ("0.001", "1", "25000", "5"),
    "DOT": ("0.001", "0.1", "100000", "5"),
    "TRX": ("0.00001", "1", "10000000", "5"),
    "BCH": ("0.01", "0.001", "1000", "5"),
    "UNI": ("0.001", "1", "100000", "5"),
    "ATOM": ("0.001", "0.01", "100000", "5"),
    "ETC": ("0.001", "0.01", "100000", "5"),
    "XLM": ("0.00001", "1", "1000000", "5"),
    "FIL": ("0.001", "0.1", "20000", "5"),
    "NEAR": ("0.0001", "1", "250000", "5"),
    "AAVE": ("0.01", "0.1", "5000", "5"),
}

_BYBIT_LINEAR: dict[str, _Rule] = {
    "BTC": ("0.1", "0.001", "150", "5"),
    "ETH": ("0.01", "0.01", "1500", "5"),
    "SOL": ("0.01", "0.1", "12000", "5"),
    "XRP": ("0.0001", "0.1", "1000000", "5"),
    "ADA": ("0.0001", "1", "1000000", "5"),
    "BNB": ("0.1", "0.01", "2500", "5"),
    "DOGE": ("0.00001", "1", "10000000", "5"),
    "LTC": ("0.01", "0.1", "10000", "5"),
    "LINK": ("0.001", "0.1", "50000", "5"),
    "AVAX": ("0.001", "0.1", "25000", "5"),
    "DOT": ("0.001", "0.1", "100000", "5"),
    "TRX": ("0.00001", "1", "4000000", "5"),
    "BCH": ("0.1", "0.01", "500", "5"),
    "UNI": ("0.001", "0.1", "30000", "5"),
    "ATOM": ("0.001", "0.1", "30000", "5"),
    "ETC": ("0.001", "0.1", "20000", "5"),
    "XLM": ("0.00001", "1", "2000000", "5"),
    "FIL": ("0.001", "0.1", "60000", "5"),
    "NEAR": ("0.001", "0.1", "60000", "5"),
    "AAVE": ("0.01", "0.01", "2000", "5"),
}

_BINANCE_SPOT: dict[str, _Rule] = {
    "BTC": ("0.01", "0.00001", "100", "5"),
    "ETH": ("0.01", "0.0001", "1600", "5"),
    "SOL": ("0.01", "0.001", "52000", "5"),
    "XRP": ("0.0001", "0.1", "9222449", "5"),
    "ADA": ("0.0001", "0.1", "8234643", "5"),
    "BNB": ("0.01", "0.001", "28160", "5"),
    "DOGE": ("0.00001", "1", "32613681", "1"),
    "LTC": ("0.01", "0.001", "25570", "5"),
    "LINK": ("0.01", "0.01", "183978", "5"),
    "AVAX": ("0.01", "0.01", "78926", "5"),
    "DOT": ("0.001", "0.01", "330921", "5"),
    "TRX": ("0.0001", "0.1", "23834141", "5"),
    "BCH": ("0.1", "0.001", "3443", "5"),
    "UNI": ("0.001", "0.01", "84499", "5"),
    "ATOM": ("0.001", "0.01", "80272", "5"),
    "ETC": ("0.01", "0.01", "44651", "5"),
    "XLM": ("0.0001", "1", "3842781", "5"),
    "FIL": ("0.001", "0.01", "86892", "5"),
    "NEAR": ("0.001", "0.1", "309731", "5"),
    "AAVE": ("0.01", "0.001", "4346", "5"),
}

_BYBIT_SPOT: dict[str, _Rule] = {
    "BTC": ("0.01", "0.000001", "83", "5"),
    "ETH": ("0.01", "0.00001", "2200", "5"),
    "SOL": ("0.01", "0.001", "30000", "5"),
    "XRP": ("0.0001", "0.01", "2000000", "5"),
    "ADA": ("0.0001", "0.01", "4000000", "5"),
    "BNB": ("0.1", "0.0001", "4000", "5"),
    "DOGE": ("0.00001", "0.1", "15000000", "5"),
    "LTC": ("0.01", "0.00001", "30000", "5"),
    "LINK": ("0.001", "0.001", "160000", "5"),
    "AVAX": ("0.01", "0.001", "90000", "5"),
    "DOT": ("0.001", "0.001", "500000", "5"),
    "TRX": ("0.0001", "0.01", "12000000", "5"),
    "BCH": ("0.1", "0.001", "5000", "5"),
    "UNI": ("0.001", "0.001", "250000", "5"),
    "ATOM": ("0.001", "0.001", "400000", "5"),
    "ETC": ("0.01", "0.01", "120000", "5"),
    "XLM": ("0.0001", "0.1", "9000000", "5"),
    "FIL": ("0.001", "0.01", "700000", "5"),
    "NEAR": ("0.001", "0.01", "700000", "5"),
    "AAVE": ("0.01", "0.0001", "12000", "5"),
}

_RULES = {
    Venue.BINANCEUSDM: _BINANCE_USDM,
    Venue.BINANCE: _BINANCE_SPOT,
    Venue.BYBIT: _BYBIT_LINEAR,
    Venue.BYBITSPOT: _BYBIT_SPOT,
}
_FUNDING_MINUTES = 480


def listed_symbols(venue: Venue) -> tuple[str, ...]:
    """Return the unified symbols whose rules are known."""
    settled = ":USDT" if venue.market is Market.PERP else ""
    return tuple(f"{base}/USDT{settled}" for base in _RULES[venue])


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


def _instrument(symbol: str, venue: Venue) -> Instrument:
    base = symbol.split("/", maxsplit=1)[0]
    tick, step, most, notional = _RULES[venue][base]
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
        funding_interval_minutes=_FUNDING_MINUTES if venue.market is Market.PERP else None,
    )
