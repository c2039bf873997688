"""The venue adapter: what one venue publishes, as values.

It owns the connection, the venues' paging and their errors; the symbol directory, the venue's time
and the stream of bars are parts with rooms of their own. It hands out final bars, mark candles,
settlements and instruments as values, and raises ``VenueUnavailable``, ``RateLimited`` or
``VenueRefused``, each naming the host and the cause. It must never hand out a forming bar, never
send an order, and never hold a key.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

import structlog

from market.bar import (
    HOUR_MS,
    MINUTE_MS,
    Bar,
    MarkBar,
    RefusedSettlement,
    Settlement,
    interval_name,
)
from market.bar_stream import BarStream
from market.budget import Budget, shared_budget
from market.ccxt_client import endpoints_of, new_client, translated
from market.endpoints import Candles
from market.instrument import Instrument, Market, Venue
from market.quote import OrderBook, Quote
from market.retry import (
    NotOffered,
    VenueError,
    VenueUnavailable,
    ask_patiently,
)
from market.rows import RowMalformed, final_open_times, mark_bar, parse_rows
from market.stream import Socket
from market.symbol_directory import SymbolDirectory
from market.tap import Tap
from market.venue_clock import VenueClock

log = structlog.get_logger()

OPEN_SECONDS = 15.0
OPEN_ATTEMPTS = 3
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
        on_bar_refused: called with each streamed final bar that ``closed_bars`` does not yield.
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
        self._clock = VenueClock(keeps_pace=not self._is_local)
        self._tap = Tap()
        self._tap.note_time = self._note_event_time
        self._tap.note_refused = lambda bar: self.on_bar_refused(bar)
        self._prepare(client)
        self._directory = SymbolDirectory(
            venue, client, self._endpoints, host=self.host, ask=self._ask
        )
        self._stream = BarStream(self._tap, host=self.host, budget=budget)
        self.on_venue_time: Callable[[int], None] = lambda _time: None
        self.on_bar_refused: Callable[[Bar], None] = lambda _bar: None
        self._is_closed = False

    def _prepare(self, client: Any) -> None:
        """Give a ccxt client what its hooks need."""
        client.timeout_on_exit = 0 if self._is_local else 250
        client.enableRateLimit = True  # ccxt asks throttle() before each request: our budget
        client.host, client.budget, client.tap = self.host, self.budget, self._tap
        client.venue_time = lambda: self._clock.stated

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
                    exchange._directory.load, attempts=OPEN_ATTEMPTS, on_failure=failures.append
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
            await self._stream.close()
            await self._client.close()

    async def server_time(self) -> int:
        """Return the venue's own time, UTC milliseconds."""
        now: int = await self._ask("time", self._endpoints.venue_now)
        self._clock.note_answer(now)
        self.on_venue_time(now)
        return now

    async def load_instruments(self, symbols: Sequence[str]) -> tuple[Instrument, ...]:
        """Return the trading rules of ``symbols``, in their order.

        Raises:
            VenueRefused: a symbol is no instrument of this venue; near matches are named.
        """
        return await self._directory.instruments(symbols)

    async def reload_instruments(self) -> dict[str, Instrument]:
        """Ask the venue for its whole list anew, by unified symbol.

        An instrument whose rules cannot be read keeps those of the last time, or is left out.
        """
        return await self._directory.reload()

    def lists(self, symbol: str) -> bool:
        """Whether the venue's list, as last read, has ``symbol``."""
        return self._directory.lists(symbol)

    async def fetch_quotes(self, symbols: Sequence[str], *, now: Callable[[], int]) -> list[Quote]:
        """Return the present quotes of ``symbols``; one that the venue does not quote is left out.

        Args:
            symbols: unified symbols.
            now: tells when the answer was there, UTC milliseconds.
        """
        symbol_of = {self._directory.market(symbol)["id"]: symbol for symbol in symbols}
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
        market_id = self._directory.market(symbol)["id"]

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

    async def fetch_settlements(
        self,
        symbol: str,
        *,
        since: int,
        until: int,
        on_refused: Callable[[RefusedSettlement], None] = lambda _row: None,
    ) -> list[Settlement]:
        """Return the settlements with ``since <= nominal_time < until``, ascending.

        ``on_refused`` is called with each row of the answer that cannot be read.

        Binance states the mark that it charged with; Bybit does not, so its ``mark_price`` is
        ``None`` and its ``mark_source`` unknown.
        """
        # Jitter never crosses a minute, so whole minutes of funding_time are whole nominal times.
        first, last = since - since % MINUTE_MS, -(-until // MINUTE_MS) * MINUTE_MS
        market_id = self._directory.market(symbol)["id"]
        rows = await self._ask(
            f"settlements of {symbol}",
            lambda: self._endpoints.settlement_rows(market_id, first, last),
        )
        found, refused = parse_rows(symbol, rows, self._endpoints.to_settlement)
        if refused:
            log.warning("settlement_rows_unreadable", symbol=symbol, rows=len(refused))
        for row in refused:
            on_refused(row)
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
        pairs = functools.partial(self._pairs, tuple(symbols), self._timeframe(interval_ms))
        self._tap.interval_ms, self._tap.on_subscribed = interval_ms, on_subscribed
        stream = self._stream.bars(lambda: self._open_socket(pairs(), on_restart))
        async with aclosing(stream) as bars:
            async for bar in bars:
                yield bar

    async def reconnect(self) -> None:
        """Drop the websocket, so that ``closed_bars`` opens a new one at once."""
        await self._stream.drop()

    async def renew(self) -> bool:
        """Open a second websocket and close the first once the second is heard.

        It follows what the venue lists now. Bars may come twice meanwhile.

        Returns:
            Whether the second took over; where it stays silent the first is kept.
        """
        return await self._stream.renew(within_seconds=RENEWAL_SECONDS)

    def _open_socket(
        self, pairs: list[list[str]], on_restart: Callable[[VenueError], None]
    ) -> Socket:
        client = self._new_client()
        self._prepare(client)
        client.set_markets(list(self._client.markets.values()))
        return Socket(
            client,
            host=self.host,
            pairs=pairs,
            ask=lambda ask: self._translated("stream", ask),
            budget=self.budget,
            on_restart=on_restart,
        )

    def _pairs(self, symbols: Sequence[str], timeframe: str) -> list[list[str]]:
        """Return what to subscribe to, and let the tap read exactly that."""
        listed = [symbol for symbol in symbols if symbol in self._client.markets]
        if len(listed) < len(symbols):
            log.warning("symbols_not_listed", symbols=sorted(set(symbols) - set(listed)))
        # One symbol that left the venue must not stop the others; none at all is an error.
        symbol_of = {self._directory.market(symbol)["id"]: symbol for symbol in listed or symbols}
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
                market_id=self._directory.market(span.symbol)["id"],
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
        is_trading = self._directory.is_trading(span.symbol)
        return max(span.interval_ms, HOUR_MS if is_trading else MINUTE_MS)

    async def _venue_time_for(self, until: int) -> int:
        """Return the venue's time, or a moment before it that is late enough to judge ``until``."""
        known = self._clock.estimate()
        return known if known >= until else await self.server_time()

    def _note_event_time(self, event_time: int) -> None:
        self.on_venue_time(event_time)
        self._clock.note_event(event_time)

    def _timeframe(self, interval_ms: int) -> str:
        timeframe = interval_name(interval_ms)
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


async def _parsed(
    fetch: Callable[[Candles], Awaitable[Any]], asked: Candles, parse: Callable[[object], Row]
) -> list[Row]:
    rows = await fetch(asked)
    if not isinstance(rows, list):
        raise RowMalformed(f"{str(rows)[:80]!r} is no list of rows")
    return [parse(row) for row in rows]
