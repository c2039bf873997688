"""The recorder: quotes and order books at each close, so that a fill can be recomputed later.

One failed request costs one book, never a decision: everything has a short time limit and is
counted. It must never record a book for a decision that is past.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping, Sequence

import structlog

from market.clock import Clock
from market.exchange import Exchange
from market.quote import OrderBook, Quote
from market.retry import VenueError
from market.warehouse import Warehouse, WarehouseError

log = structlog.get_logger()

RECORD_SECONDS = 2.0


class Recorder:
    """Best bid and ask, mark, index, predicted funding and books of some symbols."""

    def __init__(
        self,
        *,
        exchange: Exchange,
        warehouse: Warehouse,
        clock: Clock,
        symbols: Sequence[str],
        book_depth: int,
        counters: MutableMapping[str, int],
    ) -> None:
        """Record nothing yet.

        Args:
            exchange: asked once or twice for all quotes, and once per symbol for its book.
            warehouse: where they go.
            clock: stamps when they were available.
            symbols: unified symbols.
            book_depth: levels a side; 0 records nothing at all.
            counters: shared with the feed.
        """
        self._exchange = exchange
        self._warehouse = warehouse
        self._clock = clock
        self._symbols = tuple(symbols)
        self._depth = book_depth
        self._counters = counters

    async def record(self, decision_time: int, *, skip: frozenset[str] = frozenset()) -> None:
        """Record the market at a decision, except ``skip``, within ``RECORD_SECONDS``."""
        symbols = [symbol for symbol in self._symbols if symbol not in skip]
        if not self._depth or not symbols:
            return
        if self._exchange.budget.closed_seconds() > 0:
            self._counters["quotes_failed"] += 1
            return
        quotes: list[Quote] = []
        books: list[OrderBook] = []
        try:
            async with asyncio.timeout(RECORD_SECONDS):
                await asyncio.gather(
                    self._take_quotes(symbols, quotes),
                    *(self._take_book(symbol, decision_time, books) for symbol in symbols),
                )
        except TimeoutError:
            self._counters["quotes_failed"] += 1
            log.warning("quotes_late", decision_time=decision_time, books=len(books))
        await self._store(quotes, books)

    async def _take_quotes(self, symbols: Sequence[str], quotes: list[Quote]) -> None:
        try:
            quotes += await self._exchange.fetch_quotes(symbols, now=self._clock.now)
        except VenueError as error:
            self._counters["quotes_failed"] += 1
            log.warning("quotes_failed", cause=error.cause)

    async def _take_book(self, symbol: str, decision_time: int, books: list[OrderBook]) -> None:
        try:
            book = await self._exchange.fetch_book(
                symbol, depth=self._depth, decision_time=decision_time, now=self._clock.now
            )
        except VenueError as error:
            self._counters["books_failed"] += 1
            log.warning("book_failed", symbol=symbol, cause=error.cause)
            return
        books.append(book)

    async def _store(self, quotes: Sequence[Quote], books: Sequence[OrderBook]) -> None:
        try:
            await asyncio.to_thread(self._write, quotes, books)
        except WarehouseError as error:
            self._counters["writes_failed"] += 1
            log.error("quotes_not_stored", cause=str(error))
            return
        self._counters["quotes"] += len(quotes)
        self._counters["books"] += len(books)

    def _write(self, quotes: Sequence[Quote], books: Sequence[OrderBook]) -> None:
        venue = self._exchange.venue.value
        if quotes:
            self._warehouse.insert_quotes(quotes, venue=venue)
        if books:
            self._warehouse.insert_books(books, venue=venue)
