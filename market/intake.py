"""Intake: bars on their way into the warehouse are checked, stored, counted and remembered.

Every write runs in a worker thread. A store that fails is counted and reported to the caller as
"not stored"; it must never be mistaken for a bar that is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping, Sequence

import structlog

from market.backfill import Catch, Stored, store
from market.bar import Bar
from market.clock import Clock, monotonic_seconds
from market.retry import VenueError
from market.roster import REMEMBERED_BARS, Roster
from market.warehouse import Origin, Warehouse, WarehouseError

log = structlog.get_logger()

COUNTERS = (
    "bars_stream",
    "bars_rest",
    "bars_quarantined",
    "bars_absent",
    "bars_revised",
    "mark_bars",
    "marks_refused",
    "settlements",
    "settlements_late",
    "stream_restarts",
    "gaps_repaired",
    "requests_failed",
    "mark_fetch_failed",
    "funding_fetch_failed",
    "reads_failed",
    "writes_failed",
)


class Intake:
    """The way of one venue's bars into the warehouse.

    Attributes:
        roster: which recent bars are stored.
        last_bar_at: monotonic seconds at which each symbol's newest bar was stored.
    """

    def __init__(
        self,
        *,
        warehouse: Warehouse,
        venue: str,
        clock: Clock,
        symbols: Sequence[str],
        interval_ms: int,
        counters: MutableMapping[str, int],
    ) -> None:
        """Store nothing yet; ``counters`` is shared with the feed."""
        self.roster = Roster(symbols, interval_ms)
        self.last_bar_at: dict[str, float] = {}
        self._warehouse = warehouse
        self._venue = venue
        self._clock = clock
        self._symbols = tuple(symbols)
        self._interval_ms = interval_ms
        self._counters = counters

    async def store(self, bars: Sequence[Bar], origin: Origin) -> Stored | None:
        """Store bars in one insert; ``None`` when the store failed."""
        try:
            stored = await asyncio.to_thread(
                store,
                Catch(bars=list(bars)),
                warehouse=self._warehouse,
                venue=self._venue,
                interval_ms=self._interval_ms,
                origin=origin,
                at=self._clock.now(),
            )
        except WarehouseError as error:
            self._counters["writes_failed"] += 1
            log.error("bars_not_stored", cause=str(error), bars=len(bars))
            return None
        self.count(stored, origin)
        for bar in stored.sound:
            if self.roster.add(bar.symbol, [bar.open_time]):
                self.last_bar_at[bar.symbol] = monotonic_seconds()
        return stored

    async def look_up(self, since: int, until: int) -> None:
        """Learn from the warehouse which bars of ``[since, until)`` are stored.

        When it cannot be read they count as missing, which costs requests but no bar.
        """
        last = min(until, since + REMEMBERED_BARS * self._interval_ms)
        try:
            stored = await asyncio.to_thread(self._stored_times, since, last)
        except WarehouseError as error:
            self._counters["reads_failed"] += 1
            log.error("stored_bars_unknown", cause=str(error))
            return
        for symbol, times in stored.items():
            self.roster.add(symbol, times)

    def count(self, stored: Stored, origin: Origin) -> None:
        """Add one write to the counters."""
        self._counters["bars_stream" if origin is Origin.STREAM else "bars_rest"] += len(
            stored.sound
        )
        self._counters["bars_quarantined"] += stored.quarantined
        self._counters["marks_refused"] += stored.marks_refused

    def note_failure(self, error: VenueError) -> None:
        """Count and log a request that failed."""
        self._counters["requests_failed"] += 1
        log.warning("request_failed", host=error.host, cause=error.cause, request=error.request)

    def _stored_times(self, since: int, until: int) -> dict[str, list[int]]:
        return {
            symbol: self._warehouse.bar_times(
                symbol,
                venue=self._venue,
                interval_ms=self._interval_ms,
                since=since,
                until=until,
            ).tolist()
            for symbol in self._symbols
        }
