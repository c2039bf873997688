"""The listener: what the websocket brings on its way to the intake, and care of the connection.

It owns the staleness timer of each symbol's stream, the rolling renewal, and the catch-up after
every subscription. It must never lose a bar between socket and store, and never let one silent
symbol cost the others their connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, MutableMapping, Sequence

import structlog

from market.bar import HOUR_MS, Bar
from market.clock import Clock, ManualClock, ScaledClock
from market.exchange import Exchange
from market.intake import Intake
from market.repair import Repairer
from market.retry import VenueError, backoff_seconds

log = structlog.get_logger()

QUEUE_BARS = 4_096
BATCH_SECONDS = 0.05  # how long a close's first bar waits for the others at most, for one insert
IDLE_SECONDS = 0.01  # a pause between bars that ends the batch
STREAM_AGE_MS = 23 * HOUR_MS  # venues cut a connection after 24 hours
RENEW_AGAIN_SECONDS = 60.0
CATCH_UP_SECONDS = 1.0  # before a catch-up is tried again that could not ask for the time
LATE_MS = 10_000  # a final that comes later than this after its close is counted
SKEW_MS = 1_000
_LATENCY_MS = 50  # real milliseconds that a message may take, scaled by the venue's speed


class Listener:
    """The websocket side of a feed.

    Attributes:
        skew_seconds: the venue's time minus ours at its last message; ``None`` where unknown.
    """

    def __init__(
        self,
        *,
        exchange: Exchange,
        intake: Intake,
        repairer: Repairer,
        clock: Clock,
        symbols: Sequence[str],
        interval_ms: int,
        deadline_seconds: float,
        counters: MutableMapping[str, int],
        gone: Callable[[], frozenset[str]],
    ) -> None:
        """Hear nothing until ``run``; ``gone`` tells which symbols are not expected to speak."""
        self.skew_seconds: float | None = None
        self._exchange = exchange
        self._intake = intake
        self._repairer = repairer
        self._clock = clock
        self._symbols = tuple(symbols)
        self._interval_ms = interval_ms
        self._deadline_seconds = deadline_seconds
        self._counters = counters
        self._gone = gone
        self._arrivals: asyncio.Queue[Bar] = asyncio.Queue(maxsize=QUEUE_BARS)
        self._subscribed = asyncio.Event()
        self._renewal_due = asyncio.Event()
        self._streamed_until: dict[str, int] = {}
        self._opened_at = 0  # when the present connection was subscribed, on the clock
        self._is_skewed = False
        exchange.on_venue_time = self._note_skew
        exchange.on_bar_refused = self._note_refused

    def renew(self) -> None:
        """Replace the connection soon, by one that follows what the venue lists now."""
        self._renewal_due.set()

    async def run(self) -> None:
        """Listen for as long as the task lives; the venue's faults are survived and counted."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(), name="feed-listen")
            group.create_task(self._store_arrivals(), name="feed-store")
            group.create_task(self._watch_staleness(), name="feed-staleness")
            group.create_task(self._catch_up_when_subscribed(), name="feed-catch-up")
            group.create_task(self._renew_when_due(), name="feed-renewal")
            group.create_task(self._renew_by_age(), name="feed-age")

    async def _listen(self) -> None:
        stream = self._exchange.closed_bars(
            self._symbols,
            interval_ms=self._interval_ms,
            on_restart=self._note_restart,
            on_subscribed=self._note_subscribed,
        )
        async with contextlib.aclosing(stream) as bars:
            async for bar in bars:
                self._note_arrival(bar)
                await self._arrivals.put(bar)

    def _note_arrival(self, bar: Bar) -> None:
        close_time = bar.open_time + self._interval_ms
        latest = self._streamed_until.get(bar.symbol, 0)
        self._counters["bars_out_of_order"] += close_time < latest
        self._streamed_until[bar.symbol] = max(latest, close_time)
        if isinstance(self._clock, ManualClock):
            self._clock.advance(close_time)
        elif self._clock.now() - close_time > LATE_MS:
            self._counters["bars_late"] += 1

    async def _store_arrivals(self) -> None:
        while True:
            batch = await self._next_batch()
            waits = backoff_seconds()
            while (stored := await self._intake.store_streamed(batch)) is None:
                await asyncio.sleep(next(waits))
            for bar in stored.sound:
                self._repairer.note_stored(bar.symbol, {bar.open_time})

    async def _next_batch(self) -> list[Bar]:
        """Return a close's bars together: when all have come, or soon after the first."""
        batch = [await self._arrivals.get()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BATCH_SECONDS):
                while not self._is_whole(batch):
                    async with asyncio.timeout(IDLE_SECONDS):
                        batch.append(await self._arrivals.get())
        return batch

    def _is_whole(self, batch: Sequence[Bar]) -> bool:
        """Whether every symbol has come that came at the close before: a silent one delays none."""
        before = batch[0].open_time
        expected = {one for one, until in self._streamed_until.items() if until >= before}
        return expected <= {bar.symbol for bar in batch}

    # The connection

    async def _watch_staleness(self) -> None:
        """Open a new connection when a close brought nothing, or not every symbol's bar."""
        accepted: set[str] = set()
        checked = self._passed()
        while True:
            passed = self._passed()
            close_time = passed if passed > checked else passed + self._interval_ms
            checked = close_time
            await self._clock.sleep_until(close_time)
            await asyncio.sleep(self._deadline_seconds)
            expected = set(self._symbols) - self._gone()
            silent = {one for one in expected if self._streamed_until.get(one, 0) < close_time}
            if silent and silent == expected:
                self._note_silence(silent, close_time)
                await self._exchange.reconnect()
            elif silent - accepted:
                # A symbol that stays silent costs one new connection, not one per close.
                self._note_silence(silent, close_time)
                self.renew()
            accepted = silent

    def _note_silence(self, symbols: set[str], close_time: int) -> None:
        self._counters["stream_restarts"] += 1
        log.warning("stream_silent", symbols=sorted(symbols), close_time=close_time)

    async def _renew_when_due(self) -> None:
        """Replace the connection by a second one that overlaps with it."""
        while True:
            await self._renewal_due.wait()
            self._renewal_due.clear()
            self._counters["stream_renewals"] += 1
            if not await self._exchange.renew():
                await asyncio.sleep(RENEW_AGAIN_SECONDS)
                self.renew()

    async def _renew_by_age(self) -> None:
        """Replace the connection before the venue cuts it."""
        self._opened_at = self._clock.now()
        while True:
            await self._clock.sleep_until(self._opened_at + STREAM_AGE_MS)
            # It may have been opened anew meanwhile.
            if self._clock.now() >= self._opened_at + STREAM_AGE_MS:
                self._opened_at = self._clock.now()
                self.renew()

    async def _catch_up_when_subscribed(self) -> None:
        """After each subscription, fetch what closed while nobody listened."""
        while True:
            await self._subscribed.wait()
            self._subscribed.clear()
            try:
                now = await self._exchange.server_time()
            except VenueError as error:
                self._intake.note_failure(error)
                await asyncio.sleep(max(CATCH_UP_SECONDS, self._exchange.budget.closed_seconds()))
                self._subscribed.set()
                continue
            if isinstance(self._clock, ManualClock):
                self._clock.advance(now)
            until = now - now % self._interval_ms
            async with asyncio.TaskGroup() as group:
                for symbol in self._symbols:
                    latest = self._intake.roster.latest(symbol)
                    if latest is not None:
                        group.create_task(
                            self._repairer.fetch_missing(symbol, since=latest, until=until)
                        )

    def _note_subscribed(self) -> None:
        self._opened_at = self._clock.now()
        self._subscribed.set()

    def _note_refused(self, _bar: Bar) -> None:
        self._counters["bars_refused"] += 1

    def _note_restart(self, error: VenueError) -> None:
        self._counters["stream_restarts"] += 1
        log.warning("stream_broken", host=error.host, cause=error.cause)

    def _note_skew(self, venue_time: int) -> None:
        """Count when the venue's clock leaves ours, once each time."""
        if isinstance(self._clock, ManualClock):
            return
        speed = self._clock.speed if isinstance(self._clock, ScaledClock) else 1.0
        skew_ms = venue_time - self._clock.now()
        self.skew_seconds = skew_ms / 1000
        is_skewed = abs(skew_ms) > SKEW_MS + _LATENCY_MS * speed
        if is_skewed and not self._is_skewed:
            self._counters["clock_skew_seen"] += 1
            log.warning("clock_skew", skew_ms=skew_ms)
        self._is_skewed = is_skewed

    def _passed(self) -> int:
        """Return the last close that the clock has passed."""
        now = self._clock.now()
        return now - now % self._interval_ms
