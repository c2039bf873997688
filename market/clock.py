"""The one clock. No other module reads the wall clock.

Everything that ages, falls due or is late is measured on a ``Clock``: the wall for a live venue,
the venue's own time for the sandbox and for replay. Socket timeouts and latencies are real
seconds and are measured with ``monotonic_seconds``.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time and waits for it, in UTC milliseconds."""

    def now(self) -> int:
        """Return the present time, UTC milliseconds."""
        ...

    async def sleep_until(self, time_ms: int) -> None:
        """Return once ``now() >= time_ms``."""
        ...


def monotonic_seconds() -> float:
    """Real seconds from an arbitrary origin, for timeouts and latencies."""
    return time.monotonic()


class WallClock:
    """The machine's clock."""

    def now(self) -> int:
        """Return the wall time, UTC milliseconds."""
        return time.time_ns() // 1_000_000

    async def sleep_until(self, time_ms: int) -> None:
        """Wait in steps, so that a changed wall clock is noticed."""
        while (remaining := time_ms - self.now()) > 0:
            await asyncio.sleep(min(remaining / 1000, 60.0))


class ScaledClock:
    """A venue's time that runs at ``speed`` times the real one from an anchor."""

    def __init__(self, *, anchor_ms: int, speed: float) -> None:
        """Start at ``anchor_ms``; ``speed`` 3600 passes one hour per real second."""
        if speed <= 0:
            raise ValueError(f"clock speed must be positive, got {speed}")
        self.speed = speed
        self._anchor_ms = anchor_ms
        self._anchor_seconds = monotonic_seconds()

    def now(self) -> int:
        """Return the venue's time, UTC milliseconds."""
        elapsed = monotonic_seconds() - self._anchor_seconds
        return self._anchor_ms + int(elapsed * 1000 * self.speed)

    async def sleep_until(self, time_ms: int) -> None:
        """Wait for the venue's time."""
        while (remaining := time_ms - self.now()) > 0:
            await asyncio.sleep(min(remaining / 1000 / self.speed, 60.0))

    def synchronise(self, venue_now: int) -> None:
        """Move the anchor so that ``now()`` equals ``venue_now``; time never goes backwards."""
        self._anchor_ms = max(venue_now, self.now())
        self._anchor_seconds = monotonic_seconds()


class ManualClock:
    """A clock that moves only when told: lock-step, replay and tests."""

    def __init__(self, start_ms: int) -> None:
        """Stand at ``start_ms``."""
        self._now = start_ms
        self._moved = asyncio.Event()

    def now(self) -> int:
        """Return the time last advanced to, UTC milliseconds."""
        return self._now

    def advance(self, time_ms: int) -> None:
        """Move to ``time_ms``; a time in the past changes nothing."""
        self._now = max(self._now, time_ms)
        self._moved.set()
        self._moved = asyncio.Event()

    async def sleep_until(self, time_ms: int) -> None:
        """Wait until somebody advances the clock that far."""
        while self._now < time_ms:
            await self._moved.wait()
