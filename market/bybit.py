"""How Bybit is asked: linear perpetuals and spot of the v5 interface.

Drives a ccxt client that it is given; see ``market.endpoints``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from market.endpoints import Candles
from market.instrument import Instrument
from market.quote import Quote
from market.quote_rows import by_symbol, bybit_book, bybit_quote
from market.rows import (
    bybit_bar,
    bybit_instrument,
    bybit_settlement,
    bybit_spot_instrument,
    bybit_stream,
    time_ms,
)


class BybitLinear:
    """Bybit linear perpetuals (v5)."""

    best_rows = 1000
    most_rows = 1000
    page_settlements = 200
    market_type = "linear"
    most_depth = 500

    def __init__(self, client: Any) -> None:
        """Ask through ``client``, a ``ccxt.pro.bybit``."""
        self._client = client

    def use_base_url(self, base_url: str) -> None:
        """See ``Endpoints``."""
        api = self._client.urls["api"]
        socket_url = f"ws{base_url.removeprefix('http')}/v5/public/{self.market_type}"
        public = {**api["ws"]["public"], self.market_type: socket_url}
        api |= {"public": base_url, "private": base_url, "ws": {**api["ws"], "public": public}}

    def host(self) -> str:
        """See ``Endpoints``."""
        url = self._client.implode_hostname(self._client.urls["api"]["public"])
        return urlsplit(str(url)).netloc

    async def venue_now(self) -> int:
        """See ``Endpoints``."""
        return time_ms((await self._client.publicGetV5MarketTime())["time"])

    async def bar_rows(self, asked: Candles) -> Any:
        """See ``Endpoints``; the newest row comes first."""
        answer = await self._client.publicGetV5MarketKline(self._candles(asked))
        return answer["result"]["list"]

    async def mark_rows(self, asked: Candles) -> Any:
        """See ``Endpoints``; the newest row comes first."""
        answer = await self._client.publicGetV5MarketMarkPriceKline(self._candles(asked))
        return answer["result"]["list"]

    async def settlement_rows(self, market_id: str, since: int, until: int) -> list[Any]:
        """Page backwards: the venue answers with the newest rows of the range."""
        rows: list[Any] = []
        while since < until:
            asked = {"category": "linear", "symbol": market_id, "limit": self.page_settlements}
            span = {"startTime": since, "endTime": until - 1}
            answer = await self._client.publicGetV5MarketFundingHistory(asked | span)
            page = answer["result"]["list"]
            rows += page
            if len(page) < self.page_settlements:
                break
            until = min(until - 1, *(time_ms(row["fundingRateTimestamp"]) for row in page))
        return rows

    async def funding_minutes(self) -> Mapping[str, int]:
        """Return nothing: the trading rules state the interval."""
        return {}

    def to_instrument(self, market: Mapping[str, Any], funding: Mapping[str, int]) -> Instrument:
        """See ``Endpoints``."""
        del funding
        return bybit_instrument(market)

    async def quotes(self, market_ids: Sequence[str], now: Callable[[], int]) -> list[Quote]:
        """See ``Endpoints``: one request for all symbols."""
        answer = await self._client.publicGetV5MarketTickers({"category": self.market_type})
        ticker_of = by_symbol(answer["result"]["list"])
        event_time = time_ms(answer["time"])
        return [
            bybit_quote(ticker_of[name], event_time=event_time, available_at=now())
            for name in market_ids
            if name in ticker_of
        ]

    async def book(self, market_id: str, depth: int) -> Any:
        """See ``Endpoints``."""
        asked = {"category": self.market_type, "symbol": market_id}
        limit = min(depth, self.most_depth)
        return (await self._client.publicGetV5MarketOrderbook(asked | {"limit": limit}))["result"]

    def _candles(self, asked: Candles) -> dict[str, object]:
        return {
            "category": self.market_type,
            "symbol": asked.market_id,
            "interval": asked.interval,
            "start": asked.since,
            "end": asked.until - 1,
            "limit": asked.rows,
        }

    to_bar = staticmethod(bybit_bar)
    to_settlement = staticmethod(bybit_settlement)
    to_book = staticmethod(bybit_book)
    read_stream = staticmethod(bybit_stream)


class BybitSpot(BybitLinear):
    """Bybit spot (v5): the same interface in another category; no mark, no funding."""

    market_type = "spot"
    most_depth = 200

    async def mark_rows(self, asked: Candles) -> Any:
        """Return nothing: spot has no mark price."""
        del asked
        return []

    async def settlement_rows(self, market_id: str, since: int, until: int) -> list[Any]:
        """Return nothing: spot has no funding."""
        del market_id, since, until
        return []

    def to_instrument(self, market: Mapping[str, Any], funding: Mapping[str, int]) -> Instrument:
        """See ``Endpoints``."""
        del funding
        return bybit_spot_instrument(market)
