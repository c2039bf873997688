"""The venue adapter: what one venue publishes, as values.

It owns the connection, the venues' paging and their errors. It hands out final bars, mark candles,
settlements and instruments as values, and raises ``VenueUnavailable``, ``RateLimited`` or
``VenueRefused``, each naming the host and the cause. It must never hand out a forming bar, never
send an order, and never hold a key.
"""

from __future__ import annotations

import asyncio
import difflib
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

import structlog

from market.bar import DAY_MS, HOUR_MS, MINUTE_MS, Bar, MarkBar, Settlement
from market.budget import Budget, shared_budget
from market.ccxt_client import endpoints_of, new_client, translated
from market.clock import monotonic_seconds
from market.endpoints import Candles
from market.instrument import Instrument, Market, Venue
from market.quote import OrderBook, Quote
from market.retry import (
    NotOffered,
    VenueError,
    VenueUnavailable,
    ask_patiently,
)
from market.rows import (
    EVENT_TOLERANCE_MS,
    RowMalformed,
    final_open_times,
    mark_bar,
    parse_rows,
)
from market.stream import Socket
from market.tap import Tap

log = structlog.get_logger()

OPEN_SECONDS = 15.0
OPEN_ATTEMPTS = 3
MARKETS_AGE_SECONDS = 600.0
RENEWAL_SECONDS = 15.0


Row = TypeVar("Row", Bar, MarkBar)
Parse = Callable[[str, object], Row]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """Candles that a caller wants: ``since <= open_time < until``."""

    kind: str
    symbol: str
    interval_ms: int
    since: int
    until: int


class Exchange:
    """One venue, one market type, public data only.

    Attributes:
        venue: which venue it is.
        host: where requests go, for messages.
        page_bars: bars that one request can bring.
        budget: what its requests draw on.
        on_venue_time: called with every time that the venue states, UTC milliseconds.
    """

    def __init__(self, *, venue: Venue, base_url: str | None, budget: Budget | None = None) -> None:
        """Prepare the client without connecting; use ``open``."""
        self._new_client = functools.partial(new_client, venue, base_url)
        self._client = client = self._new_client()
        self._endpoints = endpoints_of(venue, client)
        self.venue = venue
        self.host = self._endpoints.host()
        self._is_local = urlsplit(f"//{self.host}").hostname in ("127.0.0.1", "::1", "localhost")
        if budget is None:
            budget = Budget(None) if self._is_local else shared_budget(venue, self.host)
        self.budget = budget
        rows = self._endpoints.most_rows if self._is_local else self._endpoints.best_rows
        self.page_bars = rows - 1  # one row looks beyond the range
        self._venue_time = 0
        self._tap = Tap()
        self._tap.note_time = self._note_event_time
        self._prepare(client)
        self._venue_time_seconds = 0.0
        self._is_time_doubted = False
        self._markets_seconds = 0.0
        # A symbol that has just left the list is still answered for, so that its last bars come.
        self._known_markets: dict[str, Any] = {}
        self._last_listed: dict[str, Instrument] = {}
        self._socket: Socket | None = None
        self._following: Callable[[], list[list[str]]] = list
        self._on_restart: Callable[[VenueError], None] = lambda _error: None
        self.on_venue_time: Callable[[int], None] = lambda _time: None
        self._is_closed = False

    def _prepare(self, client: Any) -> None:
        """Give a ccxt client what its hooks need."""
        client.timeout_on_exit = 0 if self._is_local else 250
        client.enableRateLimit = True  # ccxt asks throttle() before each request: our budget
        client.host, client.budget, client.tap = self.host, self.budget, self._tap
        client.venue_time = lambda: self._venue_time

    @classmethod
    async def open(
        cls, venue: Venue, *, base_url: str | None, budget: Budget | None = None
    ) -> Exchange:
        """Connect and read the venue's instruments, within 15 seconds.

        Args:
            venue: which venue.
            base_url: root of a sandbox, such as ``http://127.0.0.1:8720``; ``None`` for the venue.
            budget: what requests draw on; without one, the process's one budget of the host, and
                none at all on loopback.

        Raises:
            VenueUnavailable: no usable answer; the message names the host and the cause.
            VenueRefused: the venue will not serve us (region).
        """
        exchange = cls(venue=venue, base_url=base_url, budget=budget)
        failures: list[VenueError] = []
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await ask_patiently(
                    exchange._load_markets, attempts=OPEN_ATTEMPTS, on_failure=failures.append
                )
        except TimeoutError:
            await exchange.close()
            if failures:
                raise failures[-1] from None
            cause = f"no answer within {OPEN_SECONDS:.0f} s"
            raise VenueUnavailable(host=exchange.host, cause=cause, request="instruments") from None
        except BaseException:
            await exchange.close()
            raise
        return exchange

    async def close(self) -> None:
        """Close every connection; safe to call twice."""
        if not self._is_closed:
            self._is_closed = True
            await self._close_socket()
            await self._client.close()

    async def server_time(self) -> int:
        """Return the venue's own time, UTC milliseconds."""
        now: int = await self._ask("time", self._endpoints.venue_now)
        self._note_time(now)
        self._is_time_doubted = False
        self.on_venue_time(now)
        return now

    async def load_instruments(self, symbols: Sequence[str]) -> tuple[Instrument, ...]:
        """Return the trading rules of ``symbols``, in their order.

        Raises:
            VenueRefused: a symbol is no instrument of this venue; near matches are named.
        """
        if monotonic_seconds() - self._markets_seconds > MARKETS_AGE_SECONDS:
            await self._load_markets()
        markets = [self._market(symbol) for symbol in symbols]
        return await self._instruments(markets)

    async def reload_instruments(self) -> dict[str, Instrument]:
        """Ask the venue for its whole list anew, by unified symbol.

        An instrument whose rules cannot be read keeps those of the last time, or is left out.
        """
        await self._load_markets()
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
        """Whether the venue's list, as last read, has ``symbol``."""
        return symbol in self._client.markets and self._is_ours(self._client.markets[symbol])

    async def _instruments(self, markets: Sequence[Mapping[str, Any]]) -> tuple[Instrument, ...]:
        minutes = await self._ask("funding intervals", self._endpoints.funding_minutes)
        try:
            return tuple(self._endpoints.to_instrument(market, minutes) for market in markets)
        except (KeyError, ValueError) as error:
            raise self._unavailable(f"unreadable instrument: {error!r}", "instruments") from error

    async def fetch_quotes(self, symbols: Sequence[str], *, now: Callable[[], int]) -> list[Quote]:
        """Return the present quotes of ``symbols``; one that the venue does not quote is left out.

        Args:
            symbols: unified symbols.
            now: tells when the answer was there, UTC milliseconds.
        """
        symbol_of = {self._market(symbol)["id"]: symbol for symbol in symbols}
        quotes: list[Quote] = await self._ask(
            "quotes", lambda: self._endpoints.quotes(list(symbol_of), now)
        )
        return [replace(quote, symbol=symbol_of[quote.symbol]) for quote in quotes]

    async def fetch_book(
        self, symbol: str, *, depth: int, decision_time: int, now: Callable[[], int]
    ) -> OrderBook:
        """Return the order book of ``symbol`` as it stands, at least ``depth`` levels a side.

        Args:
            symbol: unified symbol.
            depth: levels wanted; the venue's next larger offer is taken.
            decision_time: the decision that it is recorded for.
            now: tells when the answer was there, UTC milliseconds.
        """
        market_id = self._market(symbol)["id"]

        async def ask() -> OrderBook:
            answer = await self._endpoints.book(market_id, depth)
            return self._endpoints.to_book(
                symbol, answer, decision_time=decision_time, available_at=now()
            )

        book: OrderBook = await self._ask(f"book of {symbol}", ask)
        return book

    async def fetch_bars(
        self, symbol: str, *, interval_ms: int, since: int, until: int
    ) -> list[Bar]:
        """Return the bars with ``since <= open_time < until`` that are final, ascending."""
        span = _Span(kind="bars", symbol=symbol, interval_ms=interval_ms, since=since, until=until)
        return await self._candles(span, self._endpoints.bar_rows, self._endpoints.to_bar)

    async def fetch_mark_bars(
        self, symbol: str, *, interval_ms: int, since: int, until: int
    ) -> list[MarkBar]:
        """Return the mark candles with ``since <= open_time < until`` that are final, ascending."""
        span = _Span(
            kind="mark bars", symbol=symbol, interval_ms=interval_ms, since=since, until=until
        )
        return await self._candles(span, self._endpoints.mark_rows, mark_bar)

    async def fetch_settlements(self, symbol: str, *, since: int, until: int) -> list[Settlement]:
        """Return the settlements with ``since <= nominal_time < until``, ascending.

        Binance states the mark that it charged with; Bybit does not, so its ``mark_price`` is
        ``None`` and its ``mark_source`` unknown.
        """
        # Jitter never crosses a minute, so whole minutes of funding_time are whole nominal times.
        first, last = since - since % MINUTE_MS, -(-until // MINUTE_MS) * MINUTE_MS
        market_id = self._market(symbol)["id"]
        rows = await self._ask(
            f"settlements of {symbol}",
            lambda: self._endpoints.settlement_rows(market_id, first, last),
        )
        found, rejected = parse_rows(rows, lambda row: self._endpoints.to_settlement(symbol, row))
        if rejected:
            log.warning("settlement_rows_unreadable", symbol=symbol, rows=rejected)
        settled = {settlement.nominal_time: settlement for settlement in found}
        return [settled[time] for time in sorted(settled) if since <= time < until]

    async def closed_bars(
        self,
        symbols: Sequence[str],
        *,
        interval_ms: int,
        on_restart: Callable[[VenueError], None] = lambda _error: None,
        on_subscribed: Callable[[], None] = lambda: None,
    ) -> AsyncGenerator[Bar, None]:
        """Yield each bar that the venue marks final, for as long as the caller listens.

        A broken connection is opened again, with growing waits; bars that closed meanwhile are not
        yielded. One such stream at a time.

        Args:
            symbols: unified symbols.
            interval_ms: length of a bar.
            on_restart: called with the fault whenever the connection is about to be opened again.
            on_subscribed: called when the venue confirms the subscription, so that the caller can
                fetch what closed before it.
        """
        timeframe = self._timeframe(interval_ms)
        tap = self._tap
        tap.interval_ms, tap.on_subscribed = interval_ms, on_subscribed
        self._on_restart = on_restart
        self._following = functools.partial(self._followed, tuple(symbols), timeframe)
        self._socket = self._open_socket()
        try:
            while True:
                await _first_of(self._socket.task, tap.arrived)
                tap.arrived.clear()
                while tap.bars:
                    yield tap.bars.popleft()
                if self._socket.task.done() and not self._socket.task.cancelled():
                    self._socket.task.result()
        finally:
            await self._close_socket()

    async def reconnect(self) -> None:
        """Drop the websocket, so that ``closed_bars`` opens a new one at once."""
        if self._socket is not None:
            await self._socket.drop()

    async def renew(self) -> bool:
        """Open a second websocket and close the first once the second is heard.

        It follows what the venue lists now. Bars may come twice meanwhile.

        Returns:
            Whether the second took over; where it stays silent the first is kept.
        """
        while (closed_seconds := self.budget.closed_seconds()) > 0:
            await asyncio.sleep(closed_seconds)
        old = self._socket
        if old is None:
            return True
        new = self._open_socket()
        try:
            async with asyncio.timeout(RENEWAL_SECONDS):
                await new.heard.wait()
        except TimeoutError:
            log.warning("renewed_stream_silent", host=self.host)
            await new.close()
            return False
        except BaseException:
            await new.close()
            raise
        self._socket = new
        self._tap.arrived.set()  # closed_bars must watch the new task
        await old.close()
        return True

    def _open_socket(self) -> Socket:
        pairs = self._following()
        client = self._new_client()
        self._prepare(client)
        client.set_markets(list(self._client.markets.values()))
        return Socket(
            client,
            host=self.host,
            pairs=pairs,
            ask=lambda ask: self._translated("stream", ask),
            budget=self.budget,
            on_restart=self._on_restart,
        )

    async def _close_socket(self) -> None:
        if self._socket is not None:
            socket, self._socket = self._socket, None
            await socket.close()

    def _followed(self, symbols: Sequence[str], timeframe: str) -> list[list[str]]:
        """Return what to subscribe to, and let the tap read exactly that."""
        listed = [symbol for symbol in symbols if symbol in self._client.markets]
        if len(listed) < len(symbols):
            log.warning("symbols_not_listed", symbols=sorted(set(symbols) - set(listed)))
        # One symbol that left the venue must not stop the others; none at all is an error.
        symbol_of = {self._market(symbol)["id"]: symbol for symbol in listed or symbols}
        interval = self._client.timeframes[timeframe]
        self._tap.read = lambda message: self._endpoints.read_stream(message, symbol_of, interval)
        return [[symbol, timeframe] for symbol in symbol_of.values()]

    async def _candles(
        self, span: _Span, fetch: Callable[[Candles], Awaitable[Any]], parse: Parse[Row]
    ) -> list[Row]:
        """Fetch page by page and keep what is final; each page looks one bar beyond its range."""
        found: dict[int, Row] = {}
        if span.kind == "mark bars" and self.venue.market is Market.SPOT:
            return []
        venue_now = await self._venue_time_for(span.until)
        closed_until = min(span.until, venue_now - venue_now % span.interval_ms)
        for since in range(span.since, closed_until, self.page_bars * span.interval_ms):
            until = min(since + self.page_bars * span.interval_ms, closed_until) + span.interval_ms
            asked = Candles(
                market_id=self._market(span.symbol)["id"],
                interval=self._client.timeframes[self._timeframe(span.interval_ms)],
                since=since,
                until=until,
                rows=-(-(until - since) // span.interval_ms),
            )
            page = await self._ask(
                f"{span.kind} of {span.symbol}",
                functools.partial(_parsed, fetch, asked, functools.partial(parse, span.symbol)),
            )
            final = final_open_times(
                (row.open_time for row in page),
                interval_ms=span.interval_ms,
                venue_now=venue_now,
                settle_ms=self._settle_ms(span),
            )
            found |= {row.open_time: row for row in page if row.open_time in final}
        return [found[time] for time in sorted(found) if span.since <= time < span.until]

    def _settle_ms(self, span: _Span) -> int:
        """How long after its close a bar without a later one is final.

        A venue that is late shows the forming bar as its last; what trades no more has no later.
        """
        market = self._client.markets.get(span.symbol)
        is_trading = market is not None and market["active"] is not False
        return max(span.interval_ms, HOUR_MS if is_trading else MINUTE_MS)

    async def _venue_time_for(self, until: int) -> int:
        """Return the venue's time, or a moment before it that is late enough to judge ``until``."""
        known = self._estimated_time()
        return known if known >= until else await self.server_time()

    def _estimated_time(self) -> int:
        """Return a time that the venue's has reached, 0 where nothing is known."""
        if self._is_local or not self._venue_time:
            # A sandbox's time may stand still or run fast.
            return self._venue_time
        return self._venue_time + int((monotonic_seconds() - self._venue_time_seconds) * 1000)

    def _note_event_time(self, event_time: int) -> None:
        """Learn from a websocket message what time it is, unless it is beyond belief."""
        self.on_venue_time(event_time)
        estimated = self._estimated_time()
        if estimated and not self._is_local and event_time > estimated + EVENT_TOLERANCE_MS:
            # Believing it would make forming bars final; the next server_time() tells.
            if not self._is_time_doubted:
                log.warning("event_time_jumped", event_time=event_time, estimated=estimated)
            self._is_time_doubted = True
            return
        self._note_time(event_time)

    def _note_time(self, venue_time: int) -> None:
        if venue_time > self._venue_time:
            self._venue_time = venue_time
            self._venue_time_seconds = monotonic_seconds()

    async def _load_markets(self) -> None:
        markets = await self._ask("instruments", self._client.fetch_markets)
        if not markets:
            raise self._unavailable("the answer lists no instruments", "instruments")
        self._client.set_markets(markets)
        self._known_markets |= self._client.markets
        self._markets_seconds = monotonic_seconds()

    def _is_ours(self, market: Mapping[str, Any]) -> bool:
        if self.venue.market is Market.SPOT:
            return bool(market["spot"])
        return bool(market["swap"] and market["linear"])

    def _market(self, symbol: str) -> Mapping[str, Any]:
        market: Mapping[str, Any] | None = self._known_markets.get(symbol)
        if market is not None and self._is_ours(market):
            return market
        ours = [name for name, known in self._client.markets.items() if self._is_ours(known)]
        near = difflib.get_close_matches(symbol, ours, n=3, cutoff=0.5)
        hint = f"; near matches: {', '.join(near)}" if near else ""
        kind = "spot pair" if self.venue.market is Market.SPOT else "linear perpetual"
        cause = f"no {kind} is named {symbol!r}{hint}"
        raise NotOffered(host=self.host, cause=cause, request="instruments")

    def _timeframe(self, interval_ms: int) -> str:
        for unit_ms, unit in ((DAY_MS, "d"), (HOUR_MS, "h"), (MINUTE_MS, "m")):
            if interval_ms % unit_ms == 0:
                timeframe = f"{interval_ms // unit_ms}{unit}"
                break
        if timeframe not in self._client.timeframes:
            raise NotOffered(host=self.host, cause=f"no bars of {timeframe}", request="bars")
        return timeframe

    async def _ask(self, request: str, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Make one request, unless the venue has closed its door to us."""
        closed = self.budget.closed_fault(host=self.host, request=request)
        if closed is not None:
            raise closed
        return await self._translated(request, ask)

    async def _translated(self, request: str, ask: Callable[[], Awaitable[Any]]) -> Any:
        return await translated(ask, request=request, host=self.host, budget=self.budget)

    def _unavailable(self, cause: str, request: str) -> VenueUnavailable:
        return VenueUnavailable(host=self.host, cause=cause, request=request)


async def _parsed(
    fetch: Callable[[Candles], Awaitable[Any]], asked: Candles, parse: Callable[[object], Row]
) -> list[Row]:
    rows = await fetch(asked)
    if not isinstance(rows, list):
        raise RowMalformed(f"{str(rows)[:80]!r} is no list of rows")
    return [parse(row) for row in rows]


async def _first_of(task: asyncio.Task[None], event: asyncio.Event) -> None:
    """Return when the task is done or the event is set."""
    waiter = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()
