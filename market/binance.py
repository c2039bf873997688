"""How Binance is asked: USD-M perpetuals (fapi) and spot (api/v3).

Drives a ccxt client that it is given; see ``market.endpoints``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from market.endpoints import Candles
from market.instrument import Instrument
from market.quote import Quote
from market.quote_rows import binance_book, binance_quote, by_symbol
from market.rows import (
    DEFAULT_FUNDING_MINUTES,
    binance_bar,
    binance_instrument,
    binance_settlement,
    binance_stream,
    time_ms,
)


class BinanceUsdm:
    """Binance USD-M perpetuals (fapi)."""

    best_rows = 499
    most_rows = 1500
    page_settlements = 1000
    market_type = "linear"
    depths = (5, 10, 20, 50, 100, 500, 1000)

    def __init__(self, client: Any) -> None:
        """Ask through ``client``, a ``ccxt.pro.binanceusdm``."""
        self._client = client

    def use_base_url(self, base_url: str) -> None:
        """See ``Endpoints``; ccxt turns the ``/ws`` into ``/market/ws/N`` and ``/public/ws/N``."""
        api = self._client.urls["api"]
        socket_url = "ws" + base_url.removeprefix("http") + "/ws"
        api |= {
            "fapiPublic": f"{base_url}/fapi/v1",
            "fapiPrivate": f"{base_url}/fapi/v1",
            "public": f"{base_url}/api/v3",
            "private": f"{base_url}/api/v3",
            "ws": {**api["ws"], "linear": socket_url},
        }

    def host(self) -> str:
        """See ``Endpoints``."""
        return urlsplit(str(self._client.urls["api"]["fapiPublic"])).netloc

    async def venue_now(self) -> int:
        """See ``Endpoints``."""
        return time_ms((await self._client.fapiPublicGetTime())["serverTime"])

    async def bar_rows(self, asked: Candles) -> Any:
        """See ``Endpoints``."""
        return await self._client.fapiPublicGetKlines(_candles(asked))

    async def mark_rows(self, asked: Candles) -> Any:
        """See ``Endpoints``."""
        return await self._client.fapiPublicGetMarkPriceKlines(_candles(asked))

    async def settlement_rows(self, market_id: str, since: int, until: int) -> list[Any]:
        """Page forwards: the venue answers with the oldest rows of the range."""
        rows: list[Any] = []
        while since < until:
            asked = {"symbol": market_id, "limit": self.page_settlements}
            span = {"startTime": since, "endTime": until - 1}
            page = await self._client.fapiPublicGetFundingRate(asked | span)
            rows += page
            if len(page) < self.page_settlements:
                break
            since = max(since, time_ms(page[-1]["fundingTime"])) + 1
        return rows

    async def funding_minutes(self) -> Mapping[str, int]:
        """Return the interval of each symbol whose interval or cap was ever adjusted."""
        listed = await self._client.fapiPublicGetFundingInfo()
        return {row["symbol"]: int(row["fundingIntervalHours"]) * 60 for row in listed}

    def to_instrument(self, market: Mapping[str, Any], funding: Mapping[str, int]) -> Instrument:
        """See ``Endpoints``; a symbol that was never adjusted settles every 8 hours."""
        return binance_instrument(market, funding.get(market["id"], DEFAULT_FUNDING_MINUTES))

    async def quotes(self, market_ids: Sequence[str], now: Callable[[], int]) -> list[Quote]:
        """See ``Endpoints``: two requests for all symbols."""
        tops, premiums = await asyncio.gather(
            self._client.fapiPublicGetTickerBookTicker(),
            self._client.fapiPublicGetPremiumIndex(),
        )
        top_of, premium_of = by_symbol(tops), by_symbol(premiums)
        return [
            binance_quote(top_of[name], premium_of.get(name, {}), available_at=now())
            for name in market_ids
            if name in top_of
        ]

    async def book(self, market_id: str, depth: int) -> Any:
        """See ``Endpoints``."""
        limit = _at_least(depth, self.depths)
        return await self._client.fapiPublicGetDepth({"symbol": market_id, "limit": limit})

    to_bar = staticmethod(binance_bar)
    to_settlement = staticmethod(binance_settlement)
    to_book = staticmethod(binance_book)
    read_stream = staticmethod(binance_stream)


class BinanceSpot:
    """Binance spot (api/v3): no mark, no funding."""

    best_rows = 1000
    most_rows = 1000
    market_type = "spot"
    depths = (5, 10, 20, 50, 100, 500, 1000, 5000)

    def __init__(self, client: Any) -> None:
        """Ask through ``client``, a ``ccxt.pro.binance``."""
        self._client = client

    def use_base_url(self, base_url: str) -> None:
        """See ``Endpoints``.

        ccxt takes a websocket URL without ``/stream`` for a futures one and would name the candles
        after the perpetual.
        """
        api = self._client.urls["api"]
        socket_url = "ws" + base_url.removeprefix("http") + "/stream"
        api |= {
            "public": f"{base_url}/api/v3",
            "private": f"{base_url}/api/v3",
            "ws": {**api["ws"], "spot": socket_url},
        }

    def host(self) -> str:
        """See ``Endpoints``."""
        return urlsplit(str(self._client.urls["api"]["public"])).netloc

    async def venue_now(self) -> int:
        """See ``Endpoints``."""
        return time_ms((await self._client.publicGetTime())["serverTime"])

    async def bar_rows(self, asked: Candles) -> Any:
        """See ``Endpoints``."""
        return await self._client.publicGetKlines(_candles(asked))

    async def mark_rows(self, asked: Candles) -> Any:
        """Return nothing: spot has no mark price."""
        del asked
        return []

    async def settlement_rows(self, market_id: str, since: int, until: int) -> list[Any]:
        """Return nothing: spot has no funding."""
        del market_id, since, until
        return []

    async def funding_minutes(self) -> Mapping[str, int]:
        """Return nothing: spot has no funding."""
        return {}

    def to_instrument(self, market: Mapping[str, Any], funding: Mapping[str, int]) -> Instrument:
        """See ``Endpoints``."""
        del funding
        return binance_instrument(market, None)

    async def quotes(self, market_ids: Sequence[str], now: Callable[[], int]) -> list[Quote]:
        """See ``Endpoints``: one request for all symbols."""
        top_of = by_symbol(await self._client.publicGetTickerBookTicker())
        return [
            binance_quote(top_of[name], {}, available_at=now())
            for name in market_ids
            if name in top_of
        ]

    async def book(self, market_id: str, depth: int) -> Any:
        """See ``Endpoints``."""
        limit = _at_least(depth, self.depths)
        return await self._client.publicGetDepth({"symbol": market_id, "limit": limit})

    to_bar = staticmethod(binance_bar)
    to_settlement = staticmethod(binance_settlement)
    to_book = staticmethod(binance_book)
    read_stream = staticmethod(binance_stream)


def _candles(asked: Candles) -> dict[str, object]:
    return {
        "symbol": asked.market_id,
        "interval": asked.interval,
        "startTime": asked.since,
        "endTime": asked.until - 1,
        "limit": asked.rows,
    }


def _at_least(depth: int, offered: Sequence[int]) -> int:
    """Return the smallest depth that the venue offers and that is enough, else its largest."""
    return next((one for one in offered if one >= depth), offered[-1])
