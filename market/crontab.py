"""Crontab expressions as triggers, with crontab's weekdays, in UTC. Reads no clock."""

from __future__ import annotations

import re
from datetime import UTC

from apscheduler.triggers.cron import CronTrigger

_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NUMBERED_WEEKDAY = re.compile(r"(?<![/0-9])[0-7](?![0-9])")


def crontab(expression: str) -> CronTrigger:
    """Read five crontab fields in UTC, with crontab's weekdays.

    Crontab counts Sunday as 0 and 7; APScheduler's own reader counts Monday as 0.

    Raises:
        ValueError: the expression is not a crontab.
    """
    fields = expression.split()
    if len(fields) == 5:
        fields[4] = _NUMBERED_WEEKDAY.sub(lambda found: _WEEKDAYS[int(found[0]) % 7], fields[4])
    return CronTrigger.from_crontab(" ".join(fields), timezone=UTC)
