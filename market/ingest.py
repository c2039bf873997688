"""Ingestion: history first, then every close, into the warehouse.

The feed listens to the websocket, checks each bar, stores it, and repairs by REST what the socket
did not bring. It owns the staleness timer of the stream and the deadline of a close. It must never
hand out a close whose bars are not stored, never fail because of one bad bar or one bad symbol,
and never wait for the venue beyond the deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog

from market.backfill import Backfill
from market.bar import Bar
from market.clock import Clock, ManualClock, monotonic_seconds
from market.dues import Dues
from market.exchange import Exchange
from market.intake import COUNTERS, Intake
from market.retry import VenueError, VenueRefused, backoff_seconds
from market.roster import REMEMBERED_BARS
from market.warehouse import Origin, Warehouse

log = structlog.get_logger()

QUEUE_BARS = 4_096
BATCH_SECONDS = 0.05  # how long a close's first bar waits for the others, to share one insert
POLL_SECONDS = 1.0  # how often a venue whose clock stands still is asked for its time
AUDIT_BARS = 24  # closes between two audits of streamed bars against REST
STREAM_AGE_SECONDS = 23 * 3600.0  # venues cut a connection after 24 hours


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
        """
        self._exchange = exchange
        self._warehouse = warehouse
        self._clock = clock
        self._symbols = tuple(symbols)
        self._interval_ms = interval_ms
        self._deadline_seconds = deadline_seconds
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
        self._dues = Dues(
            exchange=exchange,
            warehouse=warehouse,
            clock=clock,
            symbols=symbols,
            interval_ms=interval_ms,
            counters=self.counters,
        )
        self._arrivals: asyncio.Queue[Bar] = asyncio.Queue(maxsize=QUEUE_BARS)
        self._subscribed = asyncio.Event()
        self._audit_due = asyncio.Event()
        self._streamed_until: dict[str, int] = {}
        self._audited_until: int | None = None
        self._last_close = 0

    async def backfill(self, *, since: int, progress: Callable[[int, int], None]) -> None:
        """Store every bar, mark candle and settlement from ``since`` to now that is not stored.

        Args:
            since: UTC milliseconds.
            progress: called with the bars and mark candles asked for so far, and their total.

        Raises:
            VenueError: the venue failed for good; what came before is stored.
            WarehouseError: the store failed.
        """
        now = await self._exchange.server_time()
        until = now - now % self._interval_ms
        history = Backfill(
            exchange=self._exchange,
            warehouse=self._warehouse,
            symbols=self._symbols,
            interval_ms=self._interval_ms,
            since=since - since % self._interval_ms,
            until=until,
            at=now,
        )
        await history.run(
            progress=progress,
            on_stored=lambda stored: self._intake.count(stored, Origin.REST),
            on_failure=self._intake.note_failure,
        )
        await self._intake.look_up(until - REMEMBERED_BARS * self._interval_ms, until)
        await self._dues.load(until)
        log.info("backfill_finished", since=since, until=until)

    async def run(self) -> None:
        """Listen for as long as the task lives; the venue's faults are survived and counted."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(), name="feed-listen")
            group.create_task(self._store_arrivals(), name="feed-store")
            group.create_task(self._watch_staleness(), name="feed-staleness")
            group.create_task(self._catch_up_when_subscribed(), name="feed-catch-up")
            group.create_task(self._audit_when_due(), name="feed-audit")

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
        if self._intake.roster.missing(after) and self._clock.now() >= close_time:
            await self._intake.look_up(after, self._passed())
        await self._first_sign(after)
        deadline = monotonic_seconds() + self._deadline_seconds
        async with asyncio.TaskGroup() as group:
            group.create_task(self._complete(after, deadline))
            group.create_task(self._dues.collect(close_time, deadline=deadline))
        missing = self._intake.roster.missing(after)
        if missing:
            log.warning("bars_missing", decision_time=close_time, symbols=missing)
        self._schedule_audit(close_time)
        return IntervalClose(decision_time=close_time, missing=missing)

    # One close

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
        """Wait for every symbol's bar; from the repair time on, ask for the missing ones."""
        repair_at = monotonic_seconds() + self._patience_seconds(open_time)
        waits = backoff_seconds(first=0.5, most=5.0)
        hopeless: set[str] = set()
        while (missing := set(self._intake.roster.missing(open_time)) - hopeless) and (
            monotonic_seconds() < deadline
        ):
            if monotonic_seconds() < repair_at:
                seconds = min(repair_at, deadline) - monotonic_seconds()
                await _within(self._intake.roster.changed(), seconds)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline - monotonic_seconds()):
                    hopeless |= await self._repair(missing, open_time)
            repair_at = monotonic_seconds() + next(waits)

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
            *(self._repair_symbol(name, since=open_time, until=until) for name in names)
        )
        return {
            name for name, hopeless in zip(names, answers, strict=True) if open_time in hopeless
        }

    async def _repair_symbol(self, symbol: str, *, since: int, until: int) -> frozenset[int]:
        """Fetch the bars missing in ``[since, until)`` by REST and store them.

        Returns:
            The open times that the venue will not serve: it refuses the symbol, or it has later
            bars, or that time is more than an interval past.
        """
        gaps = self._intake.roster.gaps(symbol, since=since, until=until)
        if not gaps:
            return frozenset()
        last = gaps[-1] + self._interval_ms
        try:
            bars = await self._exchange.fetch_bars(
                symbol, interval_ms=self._interval_ms, since=gaps[0], until=last
            )
        except VenueError as error:
            self._intake.note_failure(error)
            return frozenset(gaps if isinstance(error, VenueRefused) else ())
        found = {bar.open_time for bar in bars}
        if bars and await self._intake.store(bars, Origin.REST) is not None:
            repaired = found.intersection(gaps)
            self.counters["gaps_repaired"] += len(repaired)
            log.info("gap_repaired", symbol=symbol, since=gaps[0], bars=len(repaired))
        served_until = max(max(found, default=0), self._passed() - self._interval_ms)
        absent = frozenset(time for time in gaps if time not in found and time < served_until)
        self.counters["bars_absent"] += len(absent)
        return absent

    # The stream

    async def _listen(self) -> None:
        stream = self._exchange.closed_bars(
            self._symbols,
            interval_ms=self._interval_ms,
            on_restart=self._note_restart,
            on_subscribed=self._subscribed.set,
        )
        async with contextlib.aclosing(stream) as bars:
            async for bar in bars:
                close_time = bar.open_time + self._interval_ms
                self._streamed_until[bar.symbol] = close_time
                if isinstance(self._clock, ManualClock):
                    self._clock.advance(close_time)
                await self._arrivals.put(bar)

    async def _store_arrivals(self) -> None:
        while True:
            batch = await self._next_batch()
            waits = backoff_seconds()
            while await self._intake.store(batch, Origin.STREAM) is None:
                await asyncio.sleep(next(waits))

    async def _next_batch(self) -> list[Bar]:
        """Return a close's bars together: when all have come, or soon after the first."""
        batch = [await self._arrivals.get()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BATCH_SECONDS):
                while len({bar.symbol for bar in batch}) < len(self._symbols):
                    batch.append(await self._arrivals.get())
        return batch

    async def _watch_staleness(self) -> None:
        """Open a new connection when a close brought nothing, or not every symbol's bar."""
        accepted: set[str] = set()
        opened, checked = monotonic_seconds(), self._passed()
        while True:
            passed = self._passed()
            close_time = passed if passed > checked else passed + self._interval_ms
            checked = close_time
            await self._clock.sleep_until(close_time)
            await asyncio.sleep(self._deadline_seconds)
            silent = {one for one in self._symbols if self._streamed_until.get(one, 0) < close_time}
            is_old = not silent and monotonic_seconds() - opened > STREAM_AGE_SECONDS
            # A symbol that stays silent (delisted) costs one new connection, not one per close.
            if is_old or len(silent) == len(self._symbols) or silent - accepted:
                opened = monotonic_seconds()
                log.warning("stream_renewed", silent=sorted(silent), close_time=close_time)
                self.counters["stream_restarts"] += not is_old
                await self._exchange.reconnect()
            accepted = silent

    async def _catch_up_when_subscribed(self) -> None:
        """After each subscription, fetch what closed while nobody listened."""
        while True:
            await self._subscribed.wait()
            self._subscribed.clear()
            try:
                now = await self._exchange.server_time()
            except VenueError as error:
                self._intake.note_failure(error)
                continue
            if isinstance(self._clock, ManualClock):
                self._clock.advance(now)
            async with asyncio.TaskGroup() as group:
                for symbol in self._symbols:
                    latest = self._intake.roster.latest(symbol)
                    if latest is not None:
                        group.create_task(
                            self._repair_symbol(
                                symbol, since=latest, until=now - now % self._interval_ms
                            )
                        )

    # Audit

    def _schedule_audit(self, close_time: int) -> None:
        self._last_close = close_time
        if self._audited_until is None:
            self._audited_until = close_time
        elif close_time - self._audited_until >= AUDIT_BARS * self._interval_ms:
            self._audit_due.set()

    async def _audit_when_due(self) -> None:
        """Compare streamed bars with REST, which is the truth: a difference becomes a revision."""
        while True:
            await self._audit_due.wait()
            self._audit_due.clear()
            since, until = self._audited_until or self._last_close, self._last_close
            audited = [await self._audit(symbol, since, until) for symbol in self._symbols]
            if all(audited):
                self._audited_until = until

    async def _audit(self, symbol: str, since: int, until: int) -> bool:
        """Store what REST says of ``[since, until)``; return whether that is settled."""
        gaps = self._intake.roster.gaps(symbol, since=since, until=until)
        try:
            bars = await self._exchange.fetch_bars(
                symbol, interval_ms=self._interval_ms, since=since, until=until
            )
        except VenueError as error:
            self._intake.note_failure(error)
            return isinstance(error, VenueRefused)
        if not bars:
            return True
        stored = await self._intake.store(bars, Origin.REST)
        if stored is None:
            return False
        repaired = sum(bar.open_time in gaps for bar in stored.sound)
        self.counters["gaps_repaired"] += repaired
        self.counters["bars_revised"] += max(0, stored.written - repaired)
        return True

    def _passed(self) -> int:
        """Return the last close that the clock has passed."""
        now = self._clock.now()
        return now - now % self._interval_ms

    def _note_restart(self, error: VenueError) -> None:
        self.counters["stream_restarts"] += 1
        log.warning("stream_broken", host=error.host, cause=error.cause)


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
