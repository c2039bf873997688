"""Ingestion: history first, then every close, into the warehouse.

The feed puts its parts together: history, listener, intake, repairer, dues, listings, recorder. It
owns the deadline of a close, and what a close waits for. It must never hand out a close whose bars
are not stored, never fail because of one bad bar or one bad symbol, and never wait for the venue
beyond the deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog

from market.backfill import ATTEMPTS
from market.clock import Clock, ManualClock, monotonic_seconds
from market.dues import Dues
from market.exchange import Exchange
from market.history import History
from market.instrument import Instrument, Market
from market.intake import COUNTERS, Intake
from market.listener import Listener
from market.listing import ListingChange, ListingEvent
from market.listing_watch import ListingWatch
from market.recorder import Recorder
from market.repair import Repairer
from market.retry import VenueError, ask_patiently, backoff_seconds
from market.roster import REMEMBERED_BARS
from market.warehouse import Warehouse

log = structlog.get_logger()

POLL_SECONDS = 1.0  # how often a venue whose clock stands still is asked for its time
AUDIT_BARS = 24  # closes between two audits of stored bars against REST
AUDIT_MEMORY_BARS = 480  # about one page
LAGGARD_SECONDS = 0.2  # what a symbol that missed the last close gets once the others are there


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalClose:
    """One interval closed: its decision time, and the symbols without a final bar."""

    decision_time: int
    missing: tuple[str, ...]


class Feed:
    """Everything the venue publishes about some symbols, brought into the warehouse.

    Attributes:
        counters: what happened since the start, by the names in ``COUNTERS``.
        last_bar_at: monotonic seconds at which each symbol's newest bar was stored.
    """

    def __init__(
        self,
        *,
        exchange: Exchange,
        warehouse: Warehouse,
        clock: Clock,
        symbols: Sequence[str],
        interval_ms: int,
        deadline_seconds: float = 20.0,
        book_depth: int = 0,
    ) -> None:
        """Follow ``symbols``.

        Args:
            exchange: open, and used by this feed alone.
            warehouse: open; every call to it runs in a worker thread.
            clock: the venue's time. A ``ManualClock`` is moved by this feed, to the close of each
                final bar.
            symbols: unified symbols.
            interval_ms: length of a bar.
            deadline_seconds: real seconds that a close waits for its bars, counted from its first
                bar or from the moment the clock passes it.
            book_depth: levels of the order books recorded at each close; 0 for none.
        """
        self._exchange = exchange
        self._clock = clock
        self._symbols = tuple(symbols)
        self._interval_ms = interval_ms
        self._deadline_seconds = deadline_seconds
        self._warehouse = warehouse
        self.counters: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self._intake = Intake(
            warehouse=warehouse,
            venue=exchange.venue,
            clock=clock,
            symbols=symbols,
            interval_ms=interval_ms,
            counters=self.counters,
        )
        self.last_bar_at = self._intake.last_bar_at
        self._repairer = Repairer(
            exchange=exchange,
            warehouse=warehouse,
            intake=self._intake,
            clock=clock,
            symbols=symbols,
            interval_ms=interval_ms,
            counters=self.counters,
            gone=lambda: self.gone,
        )
        self._history = History(
            exchange=exchange,
            warehouse=warehouse,
            intake=self._intake,
            repairer=self._repairer,
            clock=clock,
            symbols=symbols,
            interval_ms=interval_ms,
            counters=self.counters,
        )
        self._dues = Dues(
            exchange=exchange,
            warehouse=warehouse,
            clock=clock,
            symbols=symbols if exchange.venue.market is Market.PERP else (),
            interval_ms=interval_ms,
            counters=self.counters,
        )
        self._listings = ListingWatch(
            exchange=exchange,
            warehouse=warehouse,
            clock=clock,
            symbols=symbols,
            counters=self.counters,
            on_change=self._follow_listings,
        )
        self._recorder = Recorder(
            exchange=exchange,
            warehouse=warehouse,
            clock=clock,
            symbols=symbols,
            book_depth=book_depth,
            counters=self.counters,
        )
        self._listener = Listener(
            exchange=exchange,
            intake=self._intake,
            repairer=self._repairer,
            clock=clock,
            symbols=symbols,
            interval_ms=interval_ms,
            deadline_seconds=deadline_seconds,
            counters=self.counters,
            gone=lambda: self.gone,
        )
        self._audit_due = asyncio.Event()
        self._audited_until: dict[str, int] = {}
        self._last_audit = 0
        self._last_close = 0
        self._followed_until = 0
        self._laggards: frozenset[str] = frozenset()

    @property
    def skew_seconds(self) -> float | None:
        """The venue's time minus ours at its last message; ``None`` where unknown."""
        return self._listener.skew_seconds

    @property
    def gap_counts(self) -> dict[str, int]:
        """How many gaps of each kind are open."""
        return self._repairer.gaps.counts()

    @property
    def budget_used_share(self) -> float:
        """Request weight in the present window as a share of the venue's limit."""
        return self._exchange.budget.used_share

    @property
    def closed_because(self) -> str | None:
        """Why nothing may be asked at present; ``None`` where it may."""
        fault = self._exchange.budget.closed_fault(host=self._exchange.host, request="")
        return None if fault is None else fault.cause

    @property
    def gone(self) -> frozenset[str]:
        """Symbols that the venue no longer trades."""
        return frozenset(self._listings.gone)

    @property
    def instruments(self) -> dict[str, Instrument]:
        """The trading rules of the followed symbols as the venue last stated them, by symbol."""
        listed = self._listings.listed
        return {symbol: listed[symbol] for symbol in self._symbols if symbol in listed}

    async def backfill(
        self, *, since: int, until: int | None = None, progress: Callable[[int, int], None]
    ) -> None:
        """Store every bar, mark candle and settlement from ``since`` to now that is not stored.

        Args:
            since: UTC milliseconds.
            until: where to end before now.
            progress: called with the bars and mark candles asked for so far, and their total.

        Raises:
            VenueError: the venue failed for good; what came before is stored.
            WarehouseError: the store failed.
        """
        now = await ask_patiently(
            self._exchange.server_time, attempts=ATTEMPTS, on_failure=self._intake.note_failure
        )
        until = min(now, until or now)
        until -= until % self._interval_ms
        await self._repairer.load(since, until)
        await self._history.fetch(since, until, at=now, progress=progress)
        self._followed_until = until
        # What was streamed before the start has not been compared with REST either.
        unaudited = until - AUDIT_BARS * self._interval_ms
        self._audited_until = dict.fromkeys(self._symbols, max(since, unaudited))
        self._last_audit = unaudited
        await self._dues.load(until)
        await self._listings.look()
        log.info("backfill_finished", since=since, until=until)

    async def run(self) -> None:
        """Listen for as long as the task lives; the venue's faults are survived and counted."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listener.run(), name="feed-listener")
            group.create_task(self._audit_when_due(), name="feed-audit")
            group.create_task(self._repairer.mend(), name="feed-mend")
            group.create_task(self._listings.run(), name="feed-listings")
            group.create_task(self._history.finish(), name="feed-history")

    async def next_close(self, after: int) -> IntervalClose:
        """Return the close at ``after`` plus one interval, once everything about it is stored.

        Every symbol's final bar, its mark candle and the settlements due before the close are in
        the warehouse, or the deadline has passed: then ``missing`` names the symbols without a
        bar, and mark candles or settlements that failed stay outstanding. A close that lies in
        the past is repaired by REST at once.

        Args:
            after: a decision time, UTC milliseconds.
        """
        close_time = after + self._interval_ms
        self._intake.roster.forget_before(after - REMEMBERED_BARS * self._interval_ms)
        await self._follow_on(after)
        if self._intake.roster.missing(after) and self._clock.now() >= close_time:
            await self._intake.look_up(after, self._passed())
        await self._first_sign(after)
        deadline = monotonic_seconds() + self._deadline_seconds
        async with asyncio.TaskGroup() as group:
            group.create_task(self._complete(after, deadline))
            group.create_task(self._dues.collect(close_time, deadline=deadline, skip=self.gone))
            if self._clock.now() < close_time + self._interval_ms:
                group.create_task(self._recorder.record(close_time, skip=self.gone))
        missing = self._intake.roster.missing(after)
        self._note_missing(after, missing)
        self._schedule_audit(close_time)
        return IntervalClose(decision_time=close_time, missing=missing)

    async def audit(self) -> bool:
        """Compare what is stored since the last audit with REST now; return whether all of it is.

        Each symbol costs one request. One that could not be audited is audited further back the
        next time, up to ``AUDIT_MEMORY_BARS``.
        """
        until = self._last_audit = self._last_close
        oldest = until - AUDIT_MEMORY_BARS * self._interval_ms
        all_settled = True
        for symbol in self._symbols:
            since = max(self._audited_until.get(symbol, until - self._interval_ms), oldest)
            if symbol in self.gone or since >= until:
                continue
            if await self._repairer.audit(symbol, since, until):
                self._audited_until[symbol] = until
            else:
                all_settled = False
        return all_settled

    # One close

    async def _follow_on(self, until: int) -> None:
        """Note what closed between the end of the history and the first close that is waited for.

        Fetching history takes its time: nobody else would ever miss a bar of that while.
        """
        since, self._followed_until = self._followed_until, until + self._interval_ms
        if not 0 < since < until:
            return
        await self._intake.look_up(since, until)
        for symbol in set(self._symbols) - self.gone:
            self._repairer.note_holes(
                symbol, since, until, reason="closed while history was fetched"
            )

    async def _first_sign(self, open_time: int) -> None:
        """Return when a bar of the interval is stored or the clock has passed its close."""
        close_time = open_time + self._interval_ms
        roster = self._intake.roster
        passing = asyncio.create_task(self._clock.sleep_until(close_time))
        try:
            while not passing.done() and not roster.has_any(open_time):
                is_quiet = not await _done_first(passing, roster.changed(), POLL_SECONDS)
                if is_quiet and isinstance(self._clock, ManualClock):
                    await self._follow_venue_time(self._clock)
        finally:
            passing.cancel()

    async def _follow_venue_time(self, clock: ManualClock) -> None:
        """Move a clock that only bars move, when a bar may have been lost on the way."""
        try:
            clock.advance(await self._exchange.server_time())
        except VenueError as error:
            self._intake.note_failure(error)

    async def _complete(self, open_time: int, deadline: float) -> None:
        """Wait for every symbol's bar; from the repair time on, ask for the missing ones.

        A symbol that missed the close before gets a moment once the others are there: the mender
        asks for its bars, and it never delays the rest.
        """
        repair_at = monotonic_seconds() + self._patience_seconds(open_time)
        waits = backoff_seconds(first=0.5, most=5.0)
        hopeless = self.gone | self._repairer.refused
        while (missing := set(self._intake.roster.missing(open_time)) - hopeless) and (
            monotonic_seconds() < deadline
        ):
            if missing <= self._laggards:
                deadline = min(deadline, monotonic_seconds() + LAGGARD_SECONDS)
            if monotonic_seconds() < repair_at:
                seconds = min(repair_at, deadline) - monotonic_seconds()
                await _within(self._intake.roster.changed(), seconds)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline - monotonic_seconds()):
                    hopeless |= await self._repair(missing, open_time)
            repair_at = monotonic_seconds() + next(waits)

    def _note_missing(self, open_time: int, missing: tuple[str, ...]) -> None:
        """Write the close's missing bars into the gap book, from where they are asked for again.

        Of a symbol that is gone only those that opened before that was noticed: later ones were
        never due.
        """
        is_outage = len(missing) == len(self._symbols)
        self._laggards = frozenset() if is_outage else frozenset(missing)
        if not missing:
            return
        log.warning("bars_missing", decision_time=open_time + self._interval_ms, symbols=missing)
        for symbol in missing:
            gone_since = self._listings.gone.get(symbol)
            if gone_since is None:
                self._repairer.gaps.missing(
                    symbol, [open_time], now=self._clock.now(), reason="not there at the deadline"
                )
            elif open_time < gone_since:
                self._repairer.note_gone(symbol, open_time)
        if self._repairer.refused - self.gone:
            self._listings.ask()

    def _patience_seconds(self, open_time: int) -> float:
        """How long the socket gets before REST is asked: none for a close long past."""
        if isinstance(self._clock, ManualClock):
            return min(0.5, self._deadline_seconds / 2)
        if self._clock.now() >= open_time + 2 * self._interval_ms:
            return 0.0
        return self._deadline_seconds / 2

    async def _repair(self, symbols: Iterable[str], open_time: int) -> set[str]:
        """Fetch what is missing from ``open_time`` on; return the symbols to give up on."""
        until = max(open_time + self._interval_ms, self._passed())
        names = list(symbols)
        answers = await asyncio.gather(
            *(self._repairer.fetch_missing(name, since=open_time, until=until) for name in names)
        )
        return {
            name for name, hopeless in zip(names, answers, strict=True) if open_time in hopeless
        }

    def _follow_listings(self, changes: Sequence[ListingChange]) -> None:
        """Subscribe to what is listed now, and settle funding when it is due now."""
        self._dues.set_funding_intervals(self._listings.listed)
        if any(change.event is not ListingEvent.RULE_CHANGED for change in changes):
            self._listener.renew()

    # Audit

    def _schedule_audit(self, close_time: int) -> None:
        self._last_close = close_time
        if not self._last_audit:
            self._last_audit = close_time - self._interval_ms
        if close_time - self._last_audit >= AUDIT_BARS * self._interval_ms:
            self._audit_due.set()

    async def _audit_when_due(self) -> None:
        """Compare stored bars with REST, which is the truth: a difference becomes a revision."""
        while True:
            await self._audit_due.wait()
            self._audit_due.clear()
            await self.audit()

    def _passed(self) -> int:
        """Return the last close that the clock has passed."""
        now = self._clock.now()
        return now - now % self._interval_ms


async def _within(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, or after ``seconds``."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def _done_first(task: asyncio.Task[None], event: asyncio.Event, seconds: float) -> bool:
    """Wait for the task or the event, and return whether one came within ``seconds``."""
    waiter = asyncio.create_task(event.wait())
    try:
        done, _ = await asyncio.wait(
            {task, waiter}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        waiter.cancel()
    return bool(done)
