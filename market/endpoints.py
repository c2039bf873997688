"""How each venue is asked: its URLs, its endpoints, its paging and its names for things.

The classes drive a ccxt client that they are given; they never make one, never judge an error and
never decide whether a bar is final.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from market.bar import Bar, Settlement
from market.instrument import Instrument, Venue
from market.rows import (
    DEFAULT_FUNDING_MINUTES,
    StreamUpdate,
    binance_bar,
    binance_instrument,
    binance_settlement,
    binance_stream,
    bybit_bar,
    bybit_instrument,
    bybit_settlement,
    bybit_stream,
    time_ms,
)


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
    """

    best_rows: int
    most_rows: int

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

    def read_stream(
        self, message: object, symbol_of: Mapping[str, str], interval: str
    ) -> StreamUpdate:
        """Read one websocket kline message."""
        ...


class BinanceUsdm:
    """Binance USD-M perpetuals (fapi)."""

    best_rows = 499
    most_rows = 1500
    page_settlements = 1000

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
        return await self._client.fapiPublicGetKlines(_binance_candles(asked))

    async def mark_rows(self, asked: Candles) -> Any:
        """See ``Endpoints``."""
        return await self._client.fapiPublicGetMarkPriceKlines(_binance_candles(asked))

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

    to_bar = staticmethod(binance_bar)
    to_settlement = staticmethod(binance_settlement)
    read_stream = staticmethod(binance_stream)


def _binance_candles(asked: Candles) -> dict[str, object]:
    return {
        "symbol": asked.market_id,
        "interval": asked.interval,
        "startTime": asked.since,
        "endTime": asked.until - 1,
        "limit": asked.rows,
    }


class BybitLinear:
    """Bybit linear perpetuals (v5)."""

    best_rows = 1000
    most_rows = 1000
    page_settlements = 200

    def __init__(self, client: Any) -> None:
        """Ask through ``client``, a ``ccxt.pro.bybit``."""
        self._client = client

    def use_base_url(self, base_url: str) -> None:
        """See ``Endpoints``."""
        api = self._client.urls["api"]
        socket_url = "ws" + base_url.removeprefix("http") + "/v5/public/linear"
        public = {**api["ws"]["public"], "linear": socket_url}
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
        return (await self._client.publicGetV5MarketKline(_bybit_candles(asked)))["result"]["list"]

    async def mark_rows(self, asked: Candles) -> Any:
        """See ``Endpoints``; the newest row comes first."""
        return (await self._client.publicGetV5MarketMarkPriceKline(_bybit_candles(asked)))[
            "result"
        ]["list"]

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

    to_bar = staticmethod(bybit_bar)
    to_settlement = staticmethod(bybit_settlement)
    read_stream = staticmethod(bybit_stream)


def _bybit_candles(asked: Candles) -> dict[str, object]:
    return {
        "category": "linear",
        "symbol": asked.market_id,
        "interval": asked.interval,
        "start": asked.since,
        "end": asked.until - 1,
        "limit": asked.rows,
    }


ENDPOINTS: Mapping[Venue, type[BinanceUsdm] | type[BybitLinear]] = {
    Venue.BINANCEUSDM: BinanceUsdm,
    Venue.BYBIT: BybitLinear,
}
