"""The doctor's probe of one venue: both ways of asking it, and everything it is asked about.

It holds the plain line and the exchange client that is on trial, and what several trials share. It
judges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from daemon.doctor_stream import StreamTrial
from daemon.doctor_wire import Line, market_id_of
from daemon.venue import VenueTime, ask_venue_time
from market.bar import MINUTE_MS
from market.clock import WallClock, monotonic_seconds
from market.exchange import Exchange
from market.instrument import Instrument, Venue
from market.retry import VenueError

PAGE_ROWS = 50


class VenueProbe:
    """One venue under examination.

    Attributes:
        symbols: every configured symbol.
        interval_ms: length of the configured bars.
        short_interval_ms: the bars that are waited for: minutes at a live venue.
        line: plain requests.
        stream: what the websocket did.
    """

    def __init__(
        self,
        venue: Venue,
        *,
        base_url: str | None,
        symbols: Sequence[str],
        interval_ms: int,
    ) -> None:
        """Prepare; ``open`` connects."""
        self.venue = venue
        self.symbols = tuple(symbols)
        self.interval_ms = interval_ms
        self.short_interval_ms = interval_ms if base_url is not None else MINUTE_MS
        self._base_url = base_url
        unopened = Exchange(venue=venue, base_url=base_url)
        self._unopened, self._budget = unopened, unopened.budget
        self.line = Line(venue, host=unopened.host, base_url=base_url, budget=self._budget)
        self._exchange: Exchange | None = None
        self._fault: VenueError | None = None
        self._sandbox: VenueTime | None = None
        self._first_page: tuple[float, int, list[Any]] | None = None
        self.stream: StreamTrial | None = None

    async def open(self) -> None:
        """Ask a sandbox for its clock."""
        if self._base_url is not None:
            self._sandbox = await ask_venue_time(self._base_url)

    async def close(self) -> None:
        """Close every connection."""
        if self.stream is not None:
            await self.stream.close()
        if self._exchange is not None:
            await self._exchange.close()
        await self._unopened.close()
        await self.line.close()

    @property
    def stands_still(self) -> bool:
        """Whether it is a sandbox in lock-step, known once opened."""
        return self._sandbox is not None and self._sandbox.lock_step

    @property
    def market_id(self) -> str:
        """The venue's id of the first symbol, which stands for all where one is enough."""
        return market_id_of(self.symbols[0])

    async def exchange(self) -> Exchange:
        """Return the client on trial, opened at the first call.

        Raises:
            VenueError: it could not be opened, at every call.
        """
        if self._fault is not None:
            raise self._fault
        if self._exchange is None:
            try:
                self._exchange = await Exchange.open(
                    self.venue, base_url=self._base_url, budget=self._budget
                )
            except VenueError as error:
                self._fault = error
                raise
        return self._exchange

    async def instruments(self) -> tuple[Instrument, ...]:
        """Return the trading rules of every symbol."""
        return await (await self.exchange()).load_instruments(self.symbols)

    async def true_time(self) -> int:
        """Return the time that the venue's should be: the wall's, or a sandbox's own."""
        if self._base_url is not None:
            sandbox = await ask_venue_time(self._base_url)
            if sandbox is not None:
                return sandbox.now
        return WallClock().now()

    async def page(self) -> tuple[float, int, list[Any]]:
        """Return (monotonic seconds, venue time before, raw rows) of the first page of candles."""
        if self._first_page is None:
            asked_at, before = monotonic_seconds(), await self.line.server_time()
            rows = await self.line.candles(
                "klines", self.market_id, self.interval_ms, limit=PAGE_ROWS
            )
            self._first_page = (asked_at, before, rows)
        return self._first_page

    async def listen(self) -> StreamTrial:
        """Return the trial of the websocket, subscribed at the first call."""
        if self.stream is None:
            exchange = await self.exchange()
            self.stream = StreamTrial(
                exchange,
                symbols=self.symbols,
                interval_ms=self.short_interval_ms,
                interval_seconds=self.short_interval_ms / 1000 / self._speed,
            )
        return self.stream

    @property
    def _speed(self) -> float:
        """Venue seconds per real second."""
        return 1.0 if self._sandbox is None or self.stands_still else self._sandbox.speed
