"""Rows for the contract suite, and the shortest way to store and to read them."""

from __future__ import annotations

from market.bar import HOUR_MS, Bar, MarkBar, MarkSource, Settlement
from market.warehouse import Origin, Warehouse

HOUR = HOUR_MS


def bar(hour: int, symbol: str = "A", close: float = 11.0) -> Bar:
    """A sound hourly bar that opens at 10."""
    return Bar(
        symbol=symbol, open_time=hour * HOUR, open=10.0, high=20.0, low=5.0, close=close, volume=2.0
    )


def mark_bar(hour: int, open_price: float, symbol: str = "A") -> MarkBar:
    """An hourly mark candle."""
    return MarkBar(
        symbol=symbol, open_time=hour * HOUR, open=open_price, high=30.0, low=1.0, close=9.0
    )


def settlement(time: int, mark: float | None = None, symbol: str = "A") -> Settlement:
    """A settlement at a rate of 0.1 %, with the venue's mark or none."""
    return Settlement(
        symbol=symbol,
        funding_time=time,
        rate=0.001,
        mark_price=mark,
        mark_source=MarkSource.UNKNOWN if mark is None else MarkSource.VENUE,
    )


def insert(store: Warehouse, venue: str, *bars: Bar, at: int = 100) -> int:
    """Store hourly bars; the number written."""
    return store.insert_bars(
        bars, venue=venue, interval_ms=HOUR, origin=Origin.REST, ingested_at=at
    )


def closes(store: Warehouse, venue: str, hours: int, *symbols: str) -> list[list[float]]:
    """The closes of a panel that starts at time 0."""
    panel = store.load_panel(
        symbols or ("A",), venue=venue, interval_ms=HOUR, since=0, until=hours * HOUR
    )
    rows: list[list[float]] = panel.close.tolist()
    return rows
