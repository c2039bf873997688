"""When a retraining is due, on the daemon's own clock.

APScheduler supplies the triggers and their arithmetic. Its scheduler is not used: that reads the
wall clock, while a weekly job here must fire at the venue's Sunday, whatever speed it runs at.
Coalescing, the grace time and one run at a time follow APScheduler's rules.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from apscheduler.triggers.base import BaseTrigger

from market.clock import Clock
from market.crontab import crontab

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """A repeating job.

    Attributes:
        trigger: APScheduler trigger, in UTC.
        misfire_grace_ms: a run that is later than this is skipped.
    """

    trigger: BaseTrigger
    misfire_grace_ms: int

    @classmethod
    def from_crontab(cls, expression: str, *, misfire_grace_seconds: float) -> Cadence:
        """Build from a five-field crontab expression in UTC.

        Raises:
            ValueError: the expression is not a crontab.
        """
        return cls(
            trigger=crontab(expression),
            misfire_grace_ms=int(misfire_grace_seconds * 1000),
        )


def check_crontab(expression: str) -> bool:
    """Whether the expression ever fires.

    Raises:
        ValueError: it is not a crontab.
    """
    leap_day = datetime(2024, 2, 28, tzinfo=UTC)  # any fixed date; the 29th of February follows
    return crontab(expression).get_next_fire_time(None, leap_day) is not None


def next_fire(cadence: Cadence, after: int) -> int | None:
    """Return the first fire time later than ``after``, UTC milliseconds, or ``None`` for never."""
    start = datetime.fromtimestamp((after + 1) / 1000, UTC)
    fire: datetime | None = cadence.trigger.get_next_fire_time(None, start)
    return None if fire is None else round(fire.timestamp() * 1000)


def due(cadence: Cadence, *, last_considered: int, now: int) -> int | None:
    """Return the newest fire time in ``(last_considered, now]``, if it is within the grace time.

    Several missed times coalesce into one; one that is older than the grace time is a misfire
    and yields ``None``.
    """
    newest: int | None = None
    fire = next_fire(cadence, max(last_considered, now - cadence.misfire_grace_ms - 1))
    while fire is not None and fire <= now:
        newest = fire
        fire = next_fire(cadence, fire)
    return newest


class Scheduler:
    """Waits for the next fire time and starts the job; at most one run at a time."""

    def __init__(
        self, *, cadence: Cadence, clock: Clock, start: Callable[[str], Awaitable[bool]]
    ) -> None:
        """Take the cadence, the clock it is measured on, and how a run is started.

        ``start(trigger)`` answers whether it took the run; a run in progress declines.
        """
        self._cadence = cadence
        self._clock = clock
        self._start = start
        self.next_run_at: int | None = None

    async def run(self, last_run_at: int | None = None) -> None:
        """Start the job at every fire time, until cancelled.

        Args:
            last_run_at: when a run last started; a fire time missed since then is made up for
                within the grace time.
        """
        considered = self._clock.now() if last_run_at is None else last_run_at
        while (fire := next_fire(self._cadence, considered)) is not None:
            self.next_run_at = fire
            await self._clock.sleep_until(fire)
            now = self._clock.now()
            run_at = due(self._cadence, last_considered=considered, now=now)
            considered = now
            if run_at is None:
                log.warning("retrain_misfired", scheduled_for=fire, now=now)
            elif not await self._start("schedule"):
                log.info("retrain_skipped", scheduled_for=run_at, reason="a run is in progress")
        self.next_run_at = None
