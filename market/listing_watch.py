"""The listing watch: the venue's instruments are read again on a schedule, and changes are kept.

A delisting, a renaming, a new minimum notional or another funding interval is recorded, counted and
told; a symbol that is gone is no longer waited for. It must never stop the feed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping, Sequence

import structlog

from market.bar import HOUR_MS, MINUTE_MS
from market.clock import Clock
from market.exchange import Exchange
from market.instrument import Instrument
from market.listing import ListingChange, ListingEvent, listing_changes
from market.retry import VenueError
from market.warehouse import Warehouse, WarehouseError

log = structlog.get_logger()

LOOK_MS = HOUR_MS  # venue time between two looks
LOOK_GONE_MS = 5 * MINUTE_MS  # while a symbol is gone, which may be a short halt
POLL_SECONDS = 0.25


class ListingWatch:
    """What the venue lists of the symbols that are followed.

    Attributes:
        gone: followed symbols that the venue no longer trades, and when that was noticed.
        listed: every instrument at the last look, by unified symbol.
    """

    def __init__(
        self,
        *,
        exchange: Exchange,
        warehouse: Warehouse,
        clock: Clock,
        symbols: Sequence[str],
        counters: MutableMapping[str, int],
        on_change: Callable[[Sequence[ListingChange]], None],
    ) -> None:
        """Know nothing until the first look; ``on_change`` hears of every later change."""
        self.gone: dict[str, int] = {}
        self.listed: dict[str, Instrument] = {}
        self._exchange = exchange
        self._warehouse = warehouse
        self._clock = clock
        self._symbols = tuple(symbols)
        self._counters = counters
        self._on_change = on_change
        self._asked = False
        self._looked_at = 0
        self._unsaved: list[ListingChange] = []

    def ask(self) -> None:
        """Look soon: a request says that a symbol is not what it was."""
        self._asked = True

    async def run(self) -> None:
        """Look on schedule and when asked, for as long as the task lives."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            wait = LOOK_GONE_MS if self.gone else LOOK_MS
            is_due = self._clock.now() >= self._looked_at + wait
            if is_due or self._asked:
                await self.look()

    async def look(self) -> None:
        """Read the venue's list once; a failure is counted and repeated at the next look."""
        self._asked, self._looked_at = False, self._clock.now()
        try:
            listed = await self._exchange.reload_instruments()
        except VenueError as error:
            self._counters["requests_failed"] += 1
            log.warning("instruments_not_reloaded", cause=error.cause)
            return
        before, self.listed, now = self.listed, listed, self._clock.now()
        self.gone = {
            symbol: self.gone.get(symbol, now)
            for symbol in self._symbols
            if symbol not in listed or not listed[symbol].is_trading
        }
        if before:
            changes = listing_changes(before, listed, followed=self._symbols, noticed_at=now)
            await self._tell(changes)

    async def _tell(self, changes: Sequence[ListingChange]) -> None:
        for change in changes:
            self._counters["listing_changes"] += 1
            if change.event in (ListingEvent.DELISTED, ListingEvent.RENAMED):
                self._counters["symbols_gone"] += 1
            log.warning(
                "listing_changed",
                symbol=change.symbol,
                change=change.event.value,
                field=change.field,
                before=change.before,
                after=change.after,
            )
        self._unsaved += changes
        await self._save()
        if changes:
            self._on_change(changes)

    async def _save(self) -> None:
        if not self._unsaved:
            return
        try:
            await asyncio.to_thread(
                self._warehouse.insert_listing_changes,
                self._unsaved,
                venue=self._exchange.venue.value,
            )
        except WarehouseError as error:
            self._counters["writes_failed"] += 1
            log.error("listing_changes_not_stored", cause=str(error))
            return
        self._unsaved = []
