"""The only importer of ccxt: its classes with our hooks, and what its errors mean.

ccxt drops the closed flag of a kline, misses outages, waits by a rate limiter that knows one client
only, and dies in silence over a frame that it cannot read; the hooks mend that and nothing else.
"""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import ccxt.pro

from market.binance import BinanceSpot, BinanceUsdm
from market.budget import Budget
from market.bybit import BybitLinear, BybitSpot
from market.endpoints import Endpoints
from market.instrument import Market, Venue
from market.retry import (
    BAN_SECONDS,
    NotOffered,
    RateLimited,
    RegionBlocked,
    VenueError,
    VenueRefused,
    VenueUnavailable,
    answer_fault,
    connection_cause,
)
from market.rows import RowMalformed
from market.tap import Tap

REQUEST_SECONDS = 10.0
# A blocked region stays blocked; one request in a quarter of an hour tells when it no longer is.
REGION_PAUSE_SECONDS = 900.0


def new_client(venue: Venue, base_url: str | None) -> Any:
    """Return a ccxt.pro client of ``venue``, its URLs below ``base_url`` where one is given.

    The caller sets ``host``, ``budget``, ``tap`` and ``venue_time`` before the first request.
    """
    ccxt_class, endpoints_class = _VENUES[venue]
    options: dict[str, Any] = {
        "fetchMarkets": {"types": [endpoints_class.market_type]},
        "OHLCVLimit": 2,
    }
    if venue.market is Market.SPOT:
        options["defaultType"] = "spot"
    client = ccxt_class({"timeout": int(REQUEST_SECONDS * 1000), "options": options})
    if base_url is not None:
        endpoints_class(client).use_base_url(base_url.rstrip("/"))
    return client


def endpoints_of(venue: Venue, client: Any) -> Endpoints:
    """Return the endpoints of ``venue``, asked through ``client``."""
    endpoints: Endpoints = _VENUES[venue][1](client)
    return endpoints


async def translated(
    ask: Callable[[], Awaitable[Any]], *, request: str, host: str, budget: Budget
) -> Any:
    """Make one call of ccxt; whatever goes wrong becomes one of the errors of ``market.retry``.

    Args:
        ask: the call.
        request: what is asked for, for messages.
        host: the venue's, for messages.
        budget: closed for as long as the venue tells us to stay away.
    """
    try:
        return await ask()
    except VenueError:
        raise
    except ccxt.BaseError as error:
        fault = _fault(error, host, request)
        _close_door(budget, fault)
        raise fault from error
    except (OSError, aiohttp.ClientError) as error:
        # ccxt lets some of its sockets' own errors through.
        cause = connection_cause(error, host) or f"the connection broke: {error}"
        raise VenueUnavailable(host=host, cause=cause, request=request) from error
    except (RowMalformed, TypeError, KeyError, IndexError, ValueError, AttributeError) as error:
        # ccxt reads an answer of the wrong shape without looking at it first.
        cause = f"unreadable answer: {error!r}"
        raise VenueUnavailable(host=host, cause=cause, request=request) from error


class _Hooks:
    """What both ccxt classes must do differently; it stands before them in the MRO."""

    tap: Tap
    host: str
    session: object
    venue_time: Callable[[], int]
    budget: Budget

    async def throttle(self, cost: float | None = None) -> None:
        """Spend from the one budget; this is the last gate before a request leaves."""
        await self.budget.spend(1.0 if cost is None else cost, host=self.host)

    def open(self, lazy: bool = False) -> None:
        """Open the session without aiohttp's warning about an option that ccxt sets."""
        parent: Any = super()
        if self.session is not None:
            parent.open(lazy)
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "enable_cleanup_closed", DeprecationWarning)
            parent.open(lazy)

    def handle_errors(
        self,
        code: int,
        reason: str,
        url: str,
        method: str,
        headers: Mapping[str, str],
        body: str,
        response: object,
        request_headers: object,
        request_body: object,
    ) -> object:
        """Judge the answer's status and shape before ccxt does, which misses some outages."""
        used = {name.lower(): value for name, value in headers.items()}.get("x-mbx-used-weight-1m")
        if used is not None and used.isdigit():
            self.budget.note_stated(float(used))
        fault = answer_fault(
            host=self.host,
            status=code,
            headers=headers,
            body=body,
            is_json=isinstance(response, dict | list),
            venue_now=self.venue_time(),
            request=urlsplit(url).path,
        )
        if fault is not None:
            _close_door(self.budget, fault)
            raise fault
        parent: Any = super()
        return parent.handle_errors(
            code, reason, url, method, headers, body, response, request_headers, request_body
        )

    def handle_ohlcv(self, client: Any, message: dict[str, Any]) -> None:
        """Keep the closed flag and the fields that ccxt's six numbers drop."""
        self.tap.take(message)
        parent: Any = super()
        parent.handle_ohlcv(client, message)

    def handle_subscription_status(self, client: Any, message: dict[str, Any]) -> object:
        """Tell that the venue has confirmed a subscription."""
        self.tap.on_subscribed()
        parent: Any = super()
        return parent.handle_subscription_status(client, message)

    def client(self, url: str) -> Any:
        """Make the connection survive a frame that it cannot read, by reconnecting."""
        parent: Any = super()
        connection = parent.client(url)
        if not getattr(connection, "is_guarded", False):
            _guard(connection)
        return connection


def _guard(connection: Any) -> None:
    read = connection.handle_message

    def read_guarded(message: object) -> None:
        try:
            read(message)
        except Exception as error:  # noqa: BLE001 -- ccxt's receive loop dies in silence otherwise
            connection.on_error(ccxt.NetworkError(f"unreadable frame: {error!r}"))

    connection.handle_message = read_guarded
    connection.is_guarded = True


def _close_door(budget: Budget, fault: VenueError) -> None:
    """Let nothing else pass for as long as the venue said, in its own time."""
    match fault:
        case RateLimited():
            fault.retry_after_seconds /= budget.speed
            budget.close(fault.retry_after_seconds, because=fault.cause)
        case RegionBlocked():
            budget.close(REGION_PAUSE_SECONDS / budget.speed, because=fault.cause, is_refusal=True)


class _BinanceUsdm(_Hooks, ccxt.pro.binanceusdm):  # type: ignore[misc]  # ccxt ships no types
    """Binance USD-M perpetuals."""


class _Binance(_Hooks, ccxt.pro.binance):  # type: ignore[misc]  # ccxt ships no types
    """Binance spot."""


class _Bybit(_Hooks, ccxt.pro.bybit):  # type: ignore[misc]  # ccxt ships no types
    """Bybit, linear or spot."""


_VENUES: Mapping[Venue, tuple[Any, Any]] = {
    Venue.BINANCEUSDM: (_BinanceUsdm, BinanceUsdm),
    Venue.BINANCE: (_Binance, BinanceSpot),
    Venue.BYBIT: (_Bybit, BybitLinear),
    Venue.BYBITSPOT: (_Bybit, BybitSpot),
}


_REFUSALS = (
    ccxt.BadRequest,
    ccxt.ArgumentsRequired,
    ccxt.NotSupported,
    ccxt.AuthenticationError,
)


def _fault(error: Exception, host: str, request: str) -> VenueError:
    """Turn an exception of ccxt into one of ours; a plain ``ExchangeError`` counts as an outage."""
    cause = connection_cause(error, host)
    if cause is None and isinstance(error, ccxt.RequestTimeout):
        cause = f"no answer within {REQUEST_SECONDS:.0f} s"
    if cause is None:
        cause = " ".join(str(error).split())[:300]
    if isinstance(error, ccxt.DDoSProtection | ccxt.RateLimitExceeded):
        return RateLimited(host=host, cause=cause, retry_after_seconds=BAN_SECONDS, request=request)
    if isinstance(error, ccxt.BadSymbol):
        return NotOffered(host=host, cause=cause, request=request)
    if isinstance(error, _REFUSALS):
        return VenueRefused(host=host, cause=cause, request=request)
    return VenueUnavailable(host=host, cause=cause, request=request)
