"""What a venue is asked for: the protocol that each venue's endpoints fulfil.

The classes behind it (``market.binance``, ``market.bybit``) drive a ccxt client that they are
given; they never make one, never judge an error and never decide whether a bar is final.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from market.bar import Bar, Settlement
from market.instrument import Instrument
from market.quote import OrderBook, Quote
from market.rows import StreamUpdate


@dataclass(frozen=True, slots=True, kw_only=True)
class Candles:
    """One request for candles with ``since <= open_time < until``.

    Attributes:
        market_id: the venue's own symbol.
        interval: the venue's name of the interval.
        rows: how many candles the range holds; fewer weigh less.
    """

    market_id: str
    interval: str
    since: int
    until: int
    rows: int


class Endpoints(Protocol):
    """One venue's public market data. Ranges are ``since <= time < until``, UTC milliseconds.

    Attributes:
        best_rows: candles per request that weigh least per row against the venue's rate limit.
        most_rows: candles per request that the venue allows.
        market_type: what ccxt is told to load, ``linear`` or ``spot``.
    """

    best_rows: int
    most_rows: int
    market_type: str

    def use_base_url(self, base_url: str) -> None:
        """Send REST and websocket traffic to ``base_url`` instead of the venue."""
        ...

    def host(self) -> str:
        """Return the host (and port) that REST requests go to."""
        ...

    async def venue_now(self) -> int:
        """Return the venue's time, UTC milliseconds."""
        ...

    async def bar_rows(self, asked: Candles) -> Any:
        """Return raw candles with the open one, in the venue's order."""
        ...

    async def mark_rows(self, asked: Candles) -> Any:
        """Return raw mark-price candles, in the venue's order."""
        ...

    async def settlement_rows(self, market_id: str, since: int, until: int) -> list[Any]:
        """Return every raw funding settlement of the range, in no order."""
        ...

    async def funding_minutes(self) -> Mapping[str, int]:
        """Return funding intervals by venue symbol that the trading rules do not state."""
        ...

    def to_instrument(self, market: Mapping[str, Any], funding: Mapping[str, int]) -> Instrument:
        """Read one of ccxt's markets."""
        ...

    def to_bar(self, symbol: str, row: object) -> Bar:
        """Read one of ``bar_rows``."""
        ...

    def to_settlement(self, symbol: str, row: object) -> Settlement:
        """Read one of ``settlement_rows``."""
        ...

    async def quotes(self, market_ids: Sequence[str], now: Callable[[], int]) -> list[Quote]:
        """Return the present quotes, their ``symbol`` still the venue's own id.

        A symbol that the venue does not quote is left out.
        """
        ...

    async def book(self, market_id: str, depth: int) -> Any:
        """Return one raw order book of about ``depth`` levels a side."""
        ...

    def to_book(
        self, symbol: str, answer: object, *, decision_time: int, available_at: int
    ) -> OrderBook:
        """Read an answer of ``book``."""
        ...

    def read_stream(
        self, message: object, symbol_of: Mapping[str, str], interval: str
    ) -> StreamUpdate:
        """Read one websocket kline message."""
        ...
