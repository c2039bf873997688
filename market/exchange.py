"""The venue adapter: the only importer of ccxt.

It owns the connection, the venues' paging and their errors. It hands out final bars, mark candles,
settlements and instruments as values, and raises ``VenueUnavailable``, ``RateLimited`` or
``VenueRefused``, each naming the host and the cause. It must never hand out a forming bar, never
send an order, and never hold a key.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import functools
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import ccxt.pro
import structlog

from market.bar import DAY_MS, HOUR_MS, MINUTE_MS, Bar, MarkBar, Settlement
from market.clock import monotonic_seconds
from market.endpoints import ENDPOINTS, Candles, Endpoints
from market.instrument import Instrument, Venue
from market.retry import (
    BAN_SECONDS,
    NotOffered,
    RateLimited,
    VenueError,
    VenueRefused,
    VenueUnavailable,
    answer_fault,
    ask_patiently,
    backoff_seconds,
    connection_cause,
)
from market.rows import (
    EVENT_TOLERANCE_MS,
    RowMalformed,
    final_open_times,
    mark_bar,
    parse_rows,
)
from market.tap import Tap

log = structlog.get_logger()

OPEN_SECONDS = 15.0
OPEN_ATTEMPTS = 3
REQUEST_SECONDS = 10.0
MARKETS_AGE_SECONDS = 600.0
# A Binance final was seen up to 24 s after the close (freqtrade#11571).
SETTLE_MS = 30_000
SOCKET_CLOSE_SECONDS = 1.0
SILENCE_SECONDS = 300.0


class _Hooks:
    """What both ccxt classes must do differently; it stands before them in the MRO."""

    tap: Tap
    host: str
    session: object
    venue_time: Callable[[], int]

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


class _Binance(_Hooks, ccxt.pro.binanceusdm):  # type: ignore[misc]  # ccxt ships no types
    """Binance USD-M perpetuals."""


class _Bybit(_Hooks, ccxt.pro.bybit):  # type: ignore[misc]  # ccxt ships no types
    """Bybit linear perpetuals."""


_CLASSES: Mapping[Venue, Any] = {Venue.BINANCEUSDM: _Binance, Venue.BYBIT: _Bybit}


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
    """

    def __init__(self, *, venue: Venue, base_url: str | None) -> None:
        """Prepare the client without connecting; use ``open``."""
        client = _CLASSES[venue](
            {
                "timeout": int(REQUEST_SECONDS * 1000),
                "options": {"fetchMarkets": {"types": ["linear"]}, "OHLCVLimit": 2},
            }
        )
        self._endpoints: Endpoints = ENDPOINTS[venue](client)
        if base_url is not None:
            self._endpoints.use_base_url(base_url.rstrip("/"))
        self.venue = venue
        self.host = self._endpoints.host()
        self._is_local = urlsplit(f"//{self.host}").hostname in ("127.0.0.1", "::1", "localhost")
        client.enableRateLimit = not self._is_local
        rows = self._endpoints.most_rows if self._is_local else self._endpoints.best_rows
        self.page_bars = rows - 1  # one row looks beyond the range
        client.timeout_on_exit = 0 if self._is_local else 250
        self._venue_time = 0
        client.host = self.host
        client.venue_time = lambda: self._venue_time
        client.tap = self._tap = Tap()
        self._tap.note_time = self._note_event_time
        self._client = client
        self._settle_ms = 0 if self._is_local else SETTLE_MS
        self._venue_time_seconds = 0.0
        self._is_time_doubted = False
        self._banned_until_seconds = 0.0
        self._markets_seconds = 0.0
        self._is_closed = False

    @classmethod
    async def open(cls, venue: Venue, *, base_url: str | None) -> Exchange:
        """Connect and read the venue's instruments, within 15 seconds.

        Args:
            venue: which venue.
            base_url: root of a sandbox, such as ``http://127.0.0.1:8720``; ``None`` for the venue.

        Raises:
            VenueUnavailable: no usable answer; the message names the host and the cause.
            VenueRefused: the venue will not serve us (region).
        """
        exchange = cls(venue=venue, base_url=base_url)
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
            await self._drop_sockets()
            await self._client.close()

    async def server_time(self) -> int:
        """Return the venue's own time, UTC milliseconds."""
        now: int = await self._ask("time", self._endpoints.venue_now)
        self._note_time(now)
        self._is_time_doubted = False
        return now

    async def load_instruments(self, symbols: Sequence[str]) -> tuple[Instrument, ...]:
        """Return the trading rules of ``symbols``, in their order.

        Raises:
            VenueRefused: a symbol is no linear perpetual of this venue; near matches are named.
        """
        if monotonic_seconds() - self._markets_seconds > MARKETS_AGE_SECONDS:
            await self._load_markets()
        markets = [self._market(symbol) for symbol in symbols]
        minutes = await self._ask("funding intervals", self._endpoints.funding_minutes)
        try:
            return tuple(self._endpoints.to_instrument(market, minutes) for market in markets)
        except (KeyError, ValueError) as error:
            raise self._unavailable(f"unreadable instrument: {error!r}", "instruments") from error

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
        followed = [symbol for symbol in symbols if symbol in self._client.markets]
        if len(followed) < len(symbols):
            log.warning("symbols_not_listed", symbols=sorted(set(symbols) - set(followed)))
        # One symbol that left the venue must not stop the others; none at all is an error.
        symbol_of = {self._market(symbol)["id"]: symbol for symbol in followed or symbols}
        interval = self._client.timeframes[timeframe]
        tap.read = lambda message: self._endpoints.read_stream(message, symbol_of, interval)
        tap.interval_ms, tap.on_subscribed = interval_ms, on_subscribed
        pairs = [[symbol, timeframe] for symbol in symbol_of.values()]
        pump = asyncio.create_task(self._keep_subscribed(pairs, on_restart))
        try:
            while not pump.done():
                await _first_of(pump, tap.arrived)
                tap.arrived.clear()
                while tap.bars:
                    yield tap.bars.popleft()
            pump.result()
        finally:
            pump.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await pump
            await self._drop_sockets()

    async def reconnect(self) -> None:
        """Drop the websocket, so that ``closed_bars`` opens a new one."""
        await self._drop_sockets()

    async def _drop_sockets(self) -> None:
        """Close the websockets without waiting long for a venue that no longer answers."""
        dropped = list(self._client.clients.values())
        # Out of ccxt's sight first: the watcher that is cancelled here must not find them again.
        self._client.clients.clear()
        if not dropped:
            return
        closing = [asyncio.create_task(connection.close()) for connection in dropped]
        _, slow = await asyncio.wait(closing, timeout=SOCKET_CLOSE_SECONDS)
        for task in slow:
            task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)

    async def _keep_subscribed(
        self, pairs: list[list[str]], on_restart: Callable[[VenueError], None]
    ) -> None:
        waits = backoff_seconds(first=0.2)
        while not self._is_closed:
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    await self._ask("stream", lambda: self._client.watch_ohlcv_for_symbols(pairs))
                waits = backoff_seconds(first=0.2)
            except TimeoutError:
                # A half-open connection may answer pings, or need minutes to be noticed.
                on_restart(self._unavailable(f"silent for {SILENCE_SECONDS:.0f} s", "stream"))
                await self._drop_sockets()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # reconnect() cancelled the watcher, not us.
            except VenueError as error:
                on_restart(error)
                await asyncio.sleep(next(waits))

    async def _candles(
        self, span: _Span, fetch: Callable[[Candles], Awaitable[Any]], parse: Parse[Row]
    ) -> list[Row]:
        """Fetch page by page and keep what is final; each page looks one bar beyond its range."""
        found: dict[int, Row] = {}
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
                settle_ms=self._settle_ms,
            )
            found |= {row.open_time: row for row in page if row.open_time in final}
        return [found[time] for time in sorted(found) if span.since <= time < span.until]

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
        self._markets_seconds = monotonic_seconds()

    def _market(self, symbol: str) -> Mapping[str, Any]:
        market: Mapping[str, Any] | None = self._client.markets.get(symbol)
        if market is not None and market["swap"] and market["linear"]:
            return market
        perpetuals = [name for name, known in self._client.markets.items() if known["linear"]]
        near = difflib.get_close_matches(symbol, perpetuals, n=3, cutoff=0.5)
        hint = f"; near matches: {', '.join(near)}" if near else ""
        cause = f"no linear perpetual is named {symbol!r}{hint}"
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
        """Make one call of ccxt; whatever goes wrong becomes one of our three errors."""
        banned_seconds = self._banned_until_seconds - monotonic_seconds()
        if banned_seconds > 0:
            raise RateLimited(
                host=self.host,
                cause="waiting out an earlier rate limit",
                retry_after_seconds=banned_seconds,
                request=request,
            )
        try:
            return await ask()
        except VenueError as error:
            self._note_ban(error)
            raise
        except ccxt.BaseError as error:
            fault = _fault(error, self.host, request)
            self._note_ban(fault)
            raise fault from error
        except (RowMalformed, TypeError, KeyError, IndexError, ValueError, AttributeError) as error:
            # ccxt reads an answer of the wrong shape without looking at it first.
            raise self._unavailable(f"unreadable answer: {error!r}", request) from error

    def _note_ban(self, error: VenueError) -> None:
        if isinstance(error, RateLimited):
            banned_until = monotonic_seconds() + error.retry_after_seconds
            self._banned_until_seconds = max(self._banned_until_seconds, banned_until)

    def _unavailable(self, cause: str, request: str) -> VenueUnavailable:
        return VenueUnavailable(host=self.host, cause=cause, request=request)


_REFUSALS = (
    ccxt.BadSymbol,
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
    if isinstance(error, _REFUSALS):
        return VenueRefused(host=host, cause=cause, request=request)
    return VenueUnavailable(host=host, cause=cause, request=request)


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
