"""A small stored market: twelve hours of Binance USD-M, with something of every kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from market.bar import HOUR_MS, Bar, MarkBar, MarkSource, Settlement
from market.gap import Gap, GapKind
from market.instrument import Venue
from market.quote import OrderBook, Quote
from market.signals import Signal
from market.warehouse import Origin, Warehouse

T0 = 1_699_999_200_000  # 2023-11-14 22:00 UTC
HOURS = 12
END = T0 + HOURS * HOUR_MS
BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
USDM = Venue.BINANCEUSDM
SCOPE = (USDM.value, HOUR_MS)
PLACE: dict[str, Any] = {"venue": USDM.value, "interval_ms": HOUR_MS}


def bar(hour: int, symbol: str = BTC, **changes: Any) -> Bar:
    """One sound bar with values that text shortens badly."""
    sound = Bar(
        symbol=symbol,
        open_time=T0 + hour * HOUR_MS,
        open=10.1 + hour / 3,
        high=20.7 + hour / 3,
        low=5.0,
        close=11.3 + hour / 7,
        volume=0.1 + 0.2,
        quote_volume=None if hour == 3 else 1e-7 * (hour + 1),
        trades=None if hour == 4 else 1000 + hour,
        taker_buy_volume=0.1,
        taker_buy_quote_volume=None if hour == 5 else 3.3,
    )
    return replace(sound, **changes)


def store(warehouse: Warehouse, bars: list[Bar]) -> None:
    """Store bars of Binance USD-M."""
    warehouse.insert_bars(bars, origin=Origin.REST, ingested_at=END, **PLACE)


def gap(hour: int, kind: GapKind) -> Gap:
    """What is known of a missing bar."""
    time = T0 + hour * HOUR_MS
    return Gap(symbol=BTC, open_time=time, kind=kind, noticed_at=END, updated_at=END, reason="r")


def quote(time: int) -> Quote:
    """One quote without an index."""
    return Quote(
        symbol=BTC, event_time=time, available_at=time, bid=1.5, bid_quantity=2.0, ask=1.6,
        ask_quantity=None, mark_price=1.55, next_funding_time=END,
    )  # fmt: skip


def book(time: int) -> OrderBook:
    """One book of two levels a side."""
    return OrderBook(
        symbol=BTC, decision_time=time, event_time=time, available_at=time + 1, update_id=None,
        bids=((1.5, 2.0), (1.4, 3.0)), asks=((1.6, 1.0), (1.7, 0.5)),
    )  # fmt: skip


def marked(hour: int, symbol: str = BTC) -> MarkBar:
    """One mark candle."""
    return MarkBar(
        symbol=symbol, open_time=T0 + hour * HOUR_MS, open=1.1, high=1.3, low=1.0, close=1.2
    )


def signal(hour: int, symbol: str) -> Signal:
    """One row of an archive."""
    return Signal(
        source="mood", version="2", symbol=symbol, event_time=T0 + hour * HOUR_MS, value=0.1 + hour,
        published_at=T0 + hour * HOUR_MS + 7, ingested_at=0, name="value", is_backfilled=True,
        lag_ms=1_500,
    )  # fmt: skip


SETTLED = (
    Settlement(
        symbol=BTC, funding_time=T0 + 2 * HOUR_MS + 3, rate=-1.25e-05, mark_price=10.1,
        mark_source=MarkSource.VENUE,
    ),
    Settlement(
        symbol=BTC, funding_time=T0 + 10 * HOUR_MS, rate=1e-4, mark_price=None,
        mark_source=MarkSource.UNKNOWN,
    ),
)  # fmt: skip
