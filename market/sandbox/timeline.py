"""The sandbox venue's own time, and the moment at which each interval may close.

A ``Timeline`` owns the clock that every answer of the venue is computed at. It reads no market data
and must never touch the wall clock: real time enters only as ``monotonic_seconds``.
"""

from __future__ import annotations

import asyncio

from market.clock import ScaledClock, monotonic_seconds

# In lock-step the clock stands this far behind the last close, so that REST counts that bar as
# closed and settlements with a few milliseconds of jitter have happened.
SETTLE_MS = 1_500


class TapeEnded(Exception):
    """The tape holds nothing after the time it was asked to start at."""


class Timeline:
    """Venue time from ``start`` to ``end``, scaled or in lock-step.

    Scaled: time runs at ``speed`` times the real one. Lock-step: time stands just after the last
    close until a commit for that close arrives, then the next interval closes at once, or with a
    positive ``speed`` not sooner than an interval divided by ``speed`` after the previous close.

    Attributes:
        last_close: close_time of the interval that was closed last; ``start`` at first.
    """

    def __init__(
        self, *, start: int, end: int, interval_ms: int, speed: float, lock_step: bool
    ) -> None:
        """Stand at ``start``; times are UTC milliseconds on the grid of ``interval_ms``.

        Raises:
            TapeEnded: ``start`` is not before ``end``.
            ValueError: ``start`` is off the grid, or the speed cannot work in this mode.
        """
        if start % interval_ms:
            raise ValueError(f"sandbox start {start} is not a multiple of {interval_ms} ms")
        if start >= end:
            raise TapeEnded(f"the tape ends at {end}, nothing is left after the start {start}")
        if speed < 0 or (speed == 0 and not lock_step):
            raise ValueError(f"sandbox speed must be positive (0 only in lock-step), got {speed}")
        self.start = start
        self.end = end
        self.interval_ms = interval_ms
        self.speed = speed
        self.lock_step = lock_step
        self.last_close = start
        self._committed = start - 1
        self._committed_more = asyncio.Event()
        self._closed_at_seconds = -float("inf")
        self._clock: ScaledClock | None = None

    @property
    def ended(self) -> bool:
        """Whether the last interval has closed; the clock then stands for ever."""
        return self.last_close >= self.end

    def begin(self) -> None:
        """Let scaled time run from now on; lock-step needs no start."""
        if not self.lock_step:
            self._clock = ScaledClock(anchor_ms=self.start, speed=self.speed)

    def now(self) -> int:
        """Return the venue's time, UTC milliseconds."""
        if self._clock is None:
            return self.last_close + (SETTLE_MS if self.lock_step else 0)
        return min(self._clock.now(), self.end + SETTLE_MS)

    def commit(self, decision_time: int) -> None:
        """Take note that everything up to the close at ``decision_time`` is decided.

        A repeated or an older commit changes nothing; one ahead of the clock releases every
        interval up to the one that opens at ``decision_time``.
        """
        self._committed = max(self._committed, decision_time)
        self._committed_more.set()
        self._committed_more = asyncio.Event()

    async def until_due(self) -> None:
        """Return once the interval after ``last_close`` may close; safe to cancel and repeat."""
        if self.lock_step:
            while self._committed < self.last_close:
                await self._committed_more.wait()
            await asyncio.sleep(self._pause_seconds())
        else:
            assert self._clock is not None, "begin() comes first"
            await self._clock.sleep_until(self.last_close + self.interval_ms)

    async def sleep_until(self, time_ms: int, *, most_seconds: float) -> None:
        """Return at ``time_ms`` of the venue, or sooner: after ``most_seconds`` real ones.

        In lock-step time does not pass by itself: only the real seconds count.
        """
        seconds = most_seconds
        if self._clock is not None:
            seconds = min(seconds, max(0, time_ms - self.now()) / 1000 / self.speed)
        await asyncio.sleep(seconds)

    def close_interval(self) -> int:
        """Close the interval after ``last_close`` and return its open_time."""
        open_time = self.last_close
        self.last_close += self.interval_ms
        self._closed_at_seconds = monotonic_seconds()
        return open_time

    def _pause_seconds(self) -> float:
        if self.speed == 0:
            return 0.0
        due = self._closed_at_seconds + self.interval_ms / 1000 / self.speed
        return max(0.0, due - monotonic_seconds())
