"""The schedule runs on the venue's clock and follows APScheduler's rules."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from daemon.schedule import Cadence, Scheduler, check_crontab, due, next_fire
from market.bar import DAY_MS, HOUR_MS
from market.clock import ManualClock

WEEKLY = Cadence.from_crontab("0 0 * * sun", misfire_grace_seconds=3600)


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


SUNDAY = ms("2026-01-04")


def test_a_weekly_job_fires_at_the_venues_sunday() -> None:
    """From a Thursday of the venue the next fire time is the Sunday after, whatever our date."""
    assert next_fire(WEEKLY, ms("2026-01-01T05:00")) == SUNDAY
    assert next_fire(WEEKLY, SUNDAY) == SUNDAY + 7 * DAY_MS


def test_missed_times_coalesce_into_one() -> None:
    """Three weeks of silence give one run, not three, when the newest is within the grace."""
    now = SUNDAY + 21 * DAY_MS + HOUR_MS // 2
    assert due(WEEKLY, last_considered=SUNDAY - 1, now=now) == SUNDAY + 21 * DAY_MS


def test_a_run_that_is_too_late_is_skipped() -> None:
    """Past the grace time nothing is due."""
    assert due(WEEKLY, last_considered=SUNDAY - 1, now=SUNDAY + 2 * HOUR_MS) is None


def test_nothing_is_due_before_its_time() -> None:
    """A moment before the fire time nothing is due; at the time it is."""
    assert due(WEEKLY, last_considered=SUNDAY - DAY_MS, now=SUNDAY - 1) is None
    assert due(WEEKLY, last_considered=SUNDAY - DAY_MS, now=SUNDAY) == SUNDAY


async def test_the_scheduler_starts_the_job_once_for_each_fire_time() -> None:
    """The clock reaching two Sundays, one after the other, starts two runs."""
    clock = ManualClock(SUNDAY - HOUR_MS)
    started: list[int] = []

    async def start(_trigger: str) -> bool:
        started.append(clock.now())
        return True

    task = asyncio.create_task(Scheduler(cadence=WEEKLY, clock=clock, start=start).run())
    for time in (SUNDAY - 1, SUNDAY, SUNDAY + HOUR_MS, SUNDAY + 7 * DAY_MS):
        clock.advance(time)
        for _ in range(5):
            await asyncio.sleep(0)
    task.cancel()
    assert started == [SUNDAY, SUNDAY + 7 * DAY_MS]


@pytest.mark.parametrize("expression", ["0 0 * * 0", "0 0 * * 7", "0 0 * * sun"])
def test_weekdays_are_crontabs(expression: str) -> None:
    """Sunday is 0 and 7, as in every crontab, and not APScheduler's Monday."""
    cadence = Cadence.from_crontab(expression, misfire_grace_seconds=60)
    assert next_fire(cadence, ms("2026-01-01")) == SUNDAY


def test_a_range_of_numbered_weekdays() -> None:
    """1-5 is Monday to Friday; a step after a slash is left alone."""
    cadence = Cadence.from_crontab("0 */6 * * 1-5", misfire_grace_seconds=60)
    assert next_fire(cadence, SUNDAY) == ms("2026-01-05")


def test_a_schedule_that_never_fires_is_found_out() -> None:
    """The thirtieth of February is no schedule."""
    assert not check_crontab("0 0 30 2 *")
    assert check_crontab("0 0 29 2 *")


async def test_a_fire_time_missed_by_a_restart_is_made_up_for() -> None:
    """Down at the fire time, back within the grace time: the run starts at once."""
    clock = ManualClock(SUNDAY + HOUR_MS // 2)
    started: list[int] = []

    async def start(_trigger: str) -> bool:
        started.append(clock.now())
        return True

    scheduler = Scheduler(cadence=WEEKLY, clock=clock, start=start)
    task = asyncio.create_task(scheduler.run(last_run_at=SUNDAY - 7 * DAY_MS))
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    assert started == [SUNDAY + HOUR_MS // 2]
