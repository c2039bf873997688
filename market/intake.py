"""Intake: bars on their way into the warehouse are checked, stored, counted and remembered.

Every write runs in a worker thread. A store that fails is counted and reported to the caller as
"not stored"; it must never be mistaken for a bar that is there. The socket may add a bar but never
change one: a second, different version of a streamed bar is a doubt, which REST settles.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass

import structlog

from market.backfill import Catch, Stored, store
from market.bar import Bar, row_defect
from market.clock import Clock, monotonic_seconds
from market.retry import RateLimited, RegionBlocked, VenueError
from market.roster import REMEMBERED_BARS, Roster
from market.warehouse import Origin, Warehouse, WarehouseError

log = structlog.get_logger()

COUNTERS = (
    "bars_stream",
    "bars_rest",
    "bars_quarantined",
    "bars_absent",
    "bars_revised",
    "bars_audited",
    "bars_late",
    "bars_repeated",
    "bars_conflicting",
    "bars_out_of_order",
    "bars_refused",
    "mark_bars",
    "marks_refused",
    "settlements",
    "settlements_late",
    "settlements_refused",
    "quotes",
    "books",
    "stream_restarts",
    "stream_renewals",
    "gaps_repaired",
    "listing_changes",
    "symbols_gone",
    "clock_skew_seen",
    "requests_failed",
    "requests_refused",
    "rate_limited",
    "mark_fetch_failed",
    "funding_fetch_failed",
    "quotes_failed",
    "books_failed",
    "reads_failed",
    "writes_failed",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The bars of one call that are stored now: sound, and news where the socket brought them."""

    sound: tuple[Bar, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """Bars that somebody waits to have stored."""

    bars: tuple[Bar, ...]
    origin: Origin
    done: asyncio.Future[Accepted | None]

    def finish(self, accepted: frozenset[Bar] | None) -> None:
        """Tell whoever waits which of the bars are stored; ``None`` when the store failed."""
        if not self.done.done():
            sound = tuple(bar for bar in self.bars if accepted and bar in accepted)
            self.done.set_result(None if accepted is None else Accepted(sound=sound))


class Intake:
    """The way of one venue's bars into the warehouse.

    Attributes:
        roster: which recent bars are stored.
        doubts: open times by symbol of which the socket brought two versions.
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
        self.doubts: dict[str, set[int]] = {}
        self.last_bar_at: dict[str, float] = {}
        self._warehouse = warehouse
        self._venue = venue
        self._clock = clock
        self._symbols = tuple(symbols)
        self._interval_ms = interval_ms
        self._counters = counters
        self._recent: dict[tuple[str, int], Bar] = {}
        self._orders: list[_Order] = []
        self._writer: asyncio.Task[None] | None = None

    async def store(self, bars: Sequence[Bar], origin: Origin) -> Accepted | None:
        """Store bars; ``None`` when the store failed.

        Calls that come while a write is under way share the next one: tiny inserts are dear. Of
        what the socket brought only news is stored (``_is_news``), judged when its turn has come.
        """
        order = _Order(
            bars=tuple(bars), origin=origin, done=asyncio.get_running_loop().create_future()
        )
        self._orders.append(order)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_orders(), name="intake-writer")
        # A caller that gives up does not stop the write.
        return await asyncio.shield(order.done)

    async def store_streamed(self, bars: Sequence[Bar]) -> Accepted | None:
        """Store what the socket brought; ``None`` as ``store``."""
        return await self.store(bars, Origin.STREAM)

    async def _write_orders(self) -> None:
        """Write everything that was ordered, all of one origin at a time."""
        while self._orders:
            origin = self._orders[0].origin
            batch = [order for order in self._orders if order.origin is origin]
            self._orders = [order for order in self._orders if order.origin is not origin]
            bars = [bar for order in batch for bar in order.bars]
            try:
                if origin is Origin.STREAM:
                    bars = self._news(bars)
                accepted = await self._write(bars, origin) if bars else frozenset()
            except Exception as error:  # noqa: BLE001 -- a bug of ours: raised where it was ordered
                for order in batch:
                    order.done.set_exception(error)
                continue
            for order in batch:
                order.finish(accepted)

    async def _write(self, bars: Sequence[Bar], origin: Origin) -> frozenset[Bar] | None:
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
        if origin is Origin.REST:
            known = sum(self.roster.has(bar.symbol, bar.open_time) for bar in stored.sound)
            self._counters["bars_revised"] += max(0, stored.written - len(stored.sound) + known)
        for bar in stored.sound:
            self._recent[bar.symbol, bar.open_time] = bar
            if self.roster.add(bar.symbol, [bar.open_time]):
                self.last_bar_at[bar.symbol] = monotonic_seconds()
        self._forget_old()
        return frozenset(stored.sound)

    def _news(self, bars: Sequence[Bar]) -> list[Bar]:
        """Return what of streamed bars is to be written; those that break a rule all are.

        A broken bar is no second version of a sound one: it belongs into quarantine.
        """
        news: dict[tuple[str, int], Bar] = {}
        broken: list[Bar] = []
        for bar in bars:
            if row_defect(bar, self._interval_ms) is not None:
                broken.append(bar)
            elif self._is_news(bar, news):
                news[bar.symbol, bar.open_time] = bar
        return [*news.values(), *broken]

    def _is_news(self, bar: Bar, news: Mapping[tuple[str, int], Bar]) -> bool:
        """Whether a streamed bar is to be stored; a second version of one becomes a doubt.

        ``news`` are the bars of the same batch that are.
        """
        key = (bar.symbol, bar.open_time)
        latest = self.roster.latest(bar.symbol)
        is_remembered = (
            latest is None or bar.open_time > latest - REMEMBERED_BARS * self._interval_ms
        )
        if is_remembered and key not in news and not self.roster.has(*key):
            return True
        known = news.get(key) or self._recent.get(key)
        if known == bar:
            self._counters["bars_repeated"] += 1
            return False
        self.doubts.setdefault(bar.symbol, set()).add(bar.open_time)
        if known is not None:
            self._counters["bars_conflicting"] += 1
            log.warning("bar_conflicting", symbol=bar.symbol, open_time=bar.open_time)
        return False

    def _forget_old(self) -> None:
        while len(self._recent) > REMEMBERED_BARS * len(self._symbols):
            del self._recent[next(iter(self._recent))]

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
        self._counters["bars_quarantined"] += len(stored.quarantined)
        self._counters["marks_refused"] += stored.marks_refused
        self._counters["settlements_refused"] += stored.settlements_refused

    def note_failure(self, error: VenueError) -> None:
        """Count and log a request that failed."""
        self._counters["requests_failed"] += 1
        match error:
            case RateLimited():
                self._counters["rate_limited"] += 1
            case RegionBlocked():
                self._counters["requests_refused"] += 1
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
