"""How the doctor asks a venue by itself: plain requests, beside the client that is on trial.

It knows each venue's paths and where an answer keeps its rows. It decides nothing about whether an
assumption holds, and never sends anything but a handful of public GET requests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from market.bar import DAY_MS, HOUR_MS, MINUTE_MS
from market.budget import Budget
from market.instrument import Market, Venue
from market.retry import RateLimited, VenueRefused, VenueUnavailable, answer_fault, connection_cause

Query = Mapping[str, str | int]

REQUEST_SECONDS = 10.0
REQUEST_COST = 5.0  # in ccxt's measure: one request of Bybit, a middling one of Binance


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """One venue's words.

    Attributes:
        root: what every path starts with.
        names: endpoint by what it answers.
        shared: parameters of every request about a market.
        most_rows: candles that one request may bring.
        row_fields: cells of one candle.
        ascending: whether the oldest candle comes first.
        refuses_more: whether a limit beyond ``most_rows`` is refused; else it is cut.
        range_names: what the ends of a range are called.
        usage_header: tells what this address has used up.
        is_enveloped: whether an answer is wrapped with a code and a time, as Bybit's are.
    """

    root: str
    names: Mapping[str, str]
    shared: Query
    most_rows: int
    row_fields: int
    ascending: bool
    refuses_more: bool
    range_names: tuple[str, str]
    usage_header: str
    is_enveloped: bool

    def interval(self, interval_ms: int) -> str:
        """Name an interval: Binance says ``1h``, Bybit ``60``."""
        if self.is_enveloped:
            return "D" if interval_ms == DAY_MS else str(interval_ms // MINUTE_MS)
        for unit_ms, unit in ((DAY_MS, "d"), (HOUR_MS, "h")):
            if interval_ms % unit_ms == 0:
                return f"{interval_ms // unit_ms}{unit}"
        return f"{interval_ms // MINUTE_MS}m"

    def content(self, document: Any) -> Any:
        """Return what an answer is about: Bybit wraps it.

        Raises:
            ValueError: the wrapping says that something is wrong.
        """
        if not self.is_enveloped:
            return document
        if document["retCode"] != 0:
            raise ValueError(f"retCode {document['retCode']}: {document.get('retMsg')}")
        result = document["result"]
        return result.get("list", result)

    def time(self, document: Any) -> int:
        """Return the venue's time out of an answer of ``time``."""
        return int(document["time" if self.is_enveloped else "serverTime"])


_BINANCE_NAMES = {
    "time": "time",
    "instruments": "exchangeInfo",
    "klines": "klines",
    "book ticker": "ticker/bookTicker",
    "depth": "depth",
}
_BYBIT_NAMES = {
    "time": "time",
    "instruments": "instruments-info",
    "klines": "kline",
    "tickers": "tickers",
    "depth": "orderbook",
}
_BYBIT = Wire(
    root="/v5/market/",
    names=_BYBIT_NAMES | {"mark klines": "mark-price-kline", "funding history": "funding/history"},
    shared={"category": "linear"},
    most_rows=1000,
    row_fields=7,
    ascending=False,
    refuses_more=False,
    range_names=("start", "end"),
    usage_header="X-Bapi-Limit-Status",
    is_enveloped=True,
)
WIRES: Mapping[Venue, Wire] = {
    Venue.BINANCEUSDM: Wire(
        root="/fapi/v1/",
        names=_BINANCE_NAMES
        | {
            "mark klines": "markPriceKlines",
            "funding history": "fundingRate",
            "funding info": "fundingInfo",
            "premium index": "premiumIndex",
        },
        shared={},
        most_rows=1500,
        row_fields=12,
        ascending=True,
        refuses_more=True,
        range_names=("startTime", "endTime"),
        usage_header="X-MBX-USED-WEIGHT-1M",
        is_enveloped=False,
    ),
    Venue.BINANCE: Wire(
        root="/api/v3/",
        names=_BINANCE_NAMES,
        shared={},
        most_rows=1000,
        row_fields=12,
        ascending=True,
        refuses_more=False,
        range_names=("startTime", "endTime"),
        usage_header="X-MBX-USED-WEIGHT-1M",
        is_enveloped=False,
    ),
    Venue.BYBIT: _BYBIT,
    Venue.BYBITSPOT: Wire(
        root=_BYBIT.root,
        names=_BYBIT_NAMES,
        shared={"category": "spot"},
        most_rows=_BYBIT.most_rows,
        row_fields=_BYBIT.row_fields,
        ascending=_BYBIT.ascending,
        refuses_more=_BYBIT.refuses_more,
        range_names=_BYBIT.range_names,
        usage_header=_BYBIT.usage_header,
        is_enveloped=True,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer with status 200, 400 or the like: something that the venue meant to say."""

    status: int
    headers: Mapping[str, str]
    document: Any


class Line:
    """Plain requests to one host."""

    def __init__(self, venue: Venue, *, host: str, base_url: str | None, budget: Budget) -> None:
        """Ask ``base_url`` where one is given, else ``https://host``; nothing is opened yet.

        Every request is paid out of ``budget``, and none leaves while it is closed.
        """
        self.wire = WIRES[venue]
        self.venue = venue
        self.host = host
        self._budget = budget
        self._base_url = base_url.rstrip("/") if base_url else f"https://{host}"
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        self._session = aiohttp.ClientSession(timeout=timeout)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def ask(self, name: str, query: Query | None = None) -> Answer:
        """Ask for one of the wire's ``names``.

        Raises:
            VenueUnavailable: no answer, or one that is no JSON.
            RateLimited, RegionBlocked: the venue wants us to stay away.
            VenueRefused: the path is not there.
        """
        path = self.wire.root + self.wire.names[name]
        await self._budget.spend(REQUEST_COST, host=self.host, request=path)
        parameters = dict(self.wire.shared if name != "time" else {}) | dict(query or {})
        try:
            async with self._session.get(self._base_url + path, params=parameters) as got:
                body, status, headers = await got.text(), got.status, dict(got.headers)
        except TimeoutError:
            cause = f"no answer within {REQUEST_SECONDS:.0f} s"
            raise VenueUnavailable(host=self.host, cause=cause, request=path) from None
        except (aiohttp.ClientError, OSError, UnicodeDecodeError) as error:
            cause = connection_cause(error, self.host) or repr(error)
            raise VenueUnavailable(host=self.host, cause=cause, request=path) from error
        if status == 404:
            raise VenueRefused(host=self.host, cause=f"HTTP 404: no path {path}", request=name)
        return Answer(
            status=status, headers=headers, document=self._read(path, status, headers, body)
        )

    async def content(self, name: str, query: Query | None = None) -> Any:
        """Ask, and return what the answer is about.

        Raises:
            ValueError: the venue refused the question; also what ``ask`` raises.
        """
        answer = await self.ask(name, query)
        if answer.status != 200:
            raise ValueError(f"HTTP {answer.status}: {str(answer.document)[:200]}")
        return self.wire.content(answer.document)

    async def candles(
        self,
        name: str,
        market_id: str,
        interval_ms: int,
        *,
        limit: int,
        span: tuple[int, int] | None = None,
    ) -> list[Any]:
        """Ask for raw candles, newest ``limit`` or those with ``since <= open_time < until``."""
        rows = await self.content(name, self.candle_query(market_id, interval_ms, limit, span))
        if not isinstance(rows, list) or not rows:
            raise ValueError(f"{str(rows)[:80]!r} is no list of rows")
        return rows

    def candle_query(
        self, market_id: str, interval_ms: int, limit: int, span: tuple[int, int] | None = None
    ) -> Query:
        """Return the parameters of a request for candles."""
        asked: dict[str, str | int] = {
            "symbol": market_id,
            "interval": self.wire.interval(interval_ms),
            "limit": limit,
        }
        if span is None:
            return asked
        since, until = self.wire.range_names
        return asked | {since: span[0], until: span[1] - 1}

    async def server_time(self) -> int:
        """Return the venue's time, UTC milliseconds."""
        answer = await self.ask("time")
        return self.wire.time(answer.document)

    def _read(self, path: str, status: int, headers: Mapping[str, str], body: str) -> Any:
        try:
            document = json.loads(body)
        except ValueError:
            document = None
        fault = answer_fault(
            host=self.host,
            status=status,
            headers=headers,
            body=body,
            is_json=isinstance(document, dict | list),
            venue_now=0,
            request=path,
        )
        if isinstance(fault, RateLimited):
            self._budget.close(fault.retry_after_seconds, because=fault.cause)
        if fault is not None:
            raise fault
        return document


def market_id_of(symbol: str) -> str:
    """Return the id that both venues give a linear USDT perpetual or a spot pair."""
    return symbol.partition(":")[0].replace("/", "")


def has_funding(venue: Venue) -> bool:
    """Whether the venue's instruments are perpetuals."""
    return venue.market is Market.PERP
