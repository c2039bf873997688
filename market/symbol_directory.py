"""The symbol directory of one venue: which instruments it lists, under which names and rules.

The raw list stays with the ccxt client, which reads messages by it.
"""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import structlog

from market.clock import monotonic_seconds
from market.endpoints import Endpoints
from market.instrument import Instrument, Market, Venue
from market.retry import NotOffered, VenueUnavailable

log = structlog.get_logger()

MARKETS_AGE_SECONDS = 600.0

Ask = Callable[[str, Callable[[], Awaitable[Any]]], Awaitable[Any]]


class SymbolDirectory:
    """What one venue listed when it was last asked; empty before ``load``.

    A symbol that has left the list is still answered for, so that its last bars come.
    """

    def __init__(
        self, venue: Venue, client: Any, endpoints: Endpoints, *, host: str, ask: Ask
    ) -> None:
        """Keep the list in ``client``.

        Args:
            venue: which venue it is.
            client: a ccxt client.
            endpoints: how the venue is asked through it.
            host: for messages.
            ask: makes one named request and turns ccxt's errors into ours.
        """
        self._venue = venue
        self._client = client
        self._endpoints = endpoints
        self._host = host
        self._ask = ask
        self._loaded_seconds = 0.0
        self._known_markets: dict[str, Any] = {}
        self._last_listed: dict[str, Instrument] = {}

    async def load(self) -> None:
        """Ask the venue for its whole list.

        Raises:
            VenueUnavailable: there is no answer, or it lists nothing.
        """
        markets = await self._ask("instruments", self._client.fetch_markets)
        if not markets:
            raise self._unavailable("the answer lists no instruments")
        self._client.set_markets(markets)
        self._known_markets |= self._client.markets
        self._loaded_seconds = monotonic_seconds()

    async def instruments(self, symbols: Sequence[str]) -> tuple[Instrument, ...]:
        """Return the trading rules of ``symbols``, in their order, at most ten minutes old.

        Raises:
            NotOffered: a symbol is no instrument of this venue; near matches are named.
            VenueUnavailable: there is no answer, or one that cannot be read.
        """
        if monotonic_seconds() - self._loaded_seconds > MARKETS_AGE_SECONDS:
            await self.load()
        markets = [self.market(symbol) for symbol in symbols]
        minutes = await self._ask("funding intervals", self._endpoints.funding_minutes)
        try:
            return tuple(self._endpoints.to_instrument(market, minutes) for market in markets)
        except (KeyError, ValueError) as error:
            raise self._unavailable(f"unreadable instrument: {error!r}") from error

    async def reload(self) -> dict[str, Instrument]:
        """Ask the venue for its whole list anew and return it by unified symbol.

        An instrument whose rules cannot be read keeps those of the last time, or is left out.
        """
        await self.load()
        minutes = await self._ask("funding intervals", self._endpoints.funding_minutes)
        listed: dict[str, Instrument] = {}
        for symbol, market in self._client.markets.items():
            if self._is_ours(market):
                try:
                    listed[symbol] = self._endpoints.to_instrument(market, minutes)
                except (KeyError, ValueError) as error:
                    log.warning("instrument_unreadable", symbol=symbol, cause=repr(error))
                    if symbol in self._last_listed:
                        listed[symbol] = self._last_listed[symbol]
        self._last_listed = listed
        return listed

    def lists(self, symbol: str) -> bool:
        """Whether the list, as last read, has ``symbol``."""
        return symbol in self._client.markets and self._is_ours(self._client.markets[symbol])

    def is_trading(self, symbol: str) -> bool:
        """Whether the list, as last read, has ``symbol`` and does not say that trading stopped."""
        market = self._client.markets.get(symbol)
        return market is not None and market["active"] is not False

    def market(self, symbol: str) -> Mapping[str, Any]:
        """Return ccxt's market of ``symbol``, also of one that has left the list.

        Raises:
            NotOffered: it never was an instrument of this venue; near matches are named.
        """
        market: Mapping[str, Any] | None = self._known_markets.get(symbol)
        if market is not None and self._is_ours(market):
            return market
        ours = [name for name, known in self._client.markets.items() if self._is_ours(known)]
        near = difflib.get_close_matches(symbol, ours, n=3, cutoff=0.5)
        hint = f"; near matches: {', '.join(near)}" if near else ""
        kind = "spot pair" if self._venue.market is Market.SPOT else "linear perpetual"
        cause = f"no {kind} is named {symbol!r}{hint}"
        raise NotOffered(host=self._host, cause=cause, request="instruments")

    def _is_ours(self, market: Mapping[str, Any]) -> bool:
        if self._venue.market is Market.SPOT:
            return bool(market["spot"])
        return bool(market["swap"] and market["linear"])

    def _unavailable(self, cause: str) -> VenueUnavailable:
        return VenueUnavailable(host=self._host, cause=cause, request="instruments")
