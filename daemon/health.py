"""The health of a running daemon: what liveness and alerts are judged by, measured.

It measures; ``daemon.alerts`` judges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from daemon.alerts import AlertFacts, AlertLimits
from daemon.assembly import Daemon
from daemon.loop import DecisionLoop
from daemon.settings import Settings
from market.bar import DAY_MS
from market.clock import monotonic_seconds

_HALTED = "the drawdown limit was reached, or the account was liquidated"
_REFUSED = {
    "bars": "bars_quarantined",
    "mark candles": "marks_refused",
    "settlements": "settlements_refused",
}


def liveness(loop: DecisionLoop, *, limit_seconds: float) -> tuple[bool, str]:
    """Judge liveness by the age of the last completed attempt, in real seconds."""
    age = monotonic_seconds() - loop.progress.attempt_at
    if age > limit_seconds:
        return False, f"no progress for {age:.0f} s, the limit is {limit_seconds:.0f} s"
    return True, f"last progress {age:.1f} s ago"


def liveness_limit_seconds(settings: Settings, *, speed: float) -> float:
    """Two intervals of the venue's time and three deadlines, in real seconds.

    ``speed`` is venue seconds per real second, at least 1.
    """
    interval = settings.exchange.interval_ms / 1000 / speed
    return 2 * interval + 3 * settings.exchange.close_deadline_seconds


def alert_limits(settings: Settings, *, speed: float) -> AlertLimits:
    """Return when each alert begins; ``speed`` as in ``liveness_limit_seconds``."""
    limits = AlertLimits.for_interval(
        settings.exchange.interval_ms,
        speed=speed,
        deadline_seconds=settings.exchange.close_deadline_seconds,
    )
    days = settings.protection.max_model_age_days
    return replace(limits, model_age_seconds=days * DAY_MS / 1000 if days else None)


def alert_facts(daemon: Daemon, *, running_since: int | None) -> AlertFacts:
    """Measure what the alerts are judged by; ``running_since`` is UTC milliseconds."""
    settings, loop, feed = daemon.settings, daemon.loop, daemon.feed
    state, deployed, outcome = loop.state, daemon.deployment.deployed, daemon.retrainer.outcome
    failed = outcome if outcome is not None and outcome.error is not None else None
    last = None if loop.last_record is None else loop.last_record.decided_at
    failing = daemon.producers.failing()
    return AlertFacts(
        now=daemon.stores.clock.now(),
        running_since=running_since,
        last_close_times=last_closes(loop, settings.exchange.symbols),
        last_decision_at=last,
        last_commit_at=last,
        missed_times=loop.totals.missed_times,
        halted_reason=_HALTED if state and state.halted else None,
        drawdown=0.0 if state is None else state.drawdown,
        drawdown_limit=settings.protection.drawdown_limit,
        champion_id=None if deployed is None else deployed.champion.model_id,
        trained_until=None if deployed is None else deployed.trained_until,
        fallback=settings.account.fallback,
        quarantined=refused_rows(feed.counters),
        clock_skew_seconds=feed.skew_seconds,
        venue_closed=feed.closed_because,
        gone_symbols=tuple(sorted(feed.gone)),
        retrain_failure=None if failed is None else failed.error,
        retrain_failed_at=None if failed is None else failed.at,
        retrain_due_at=daemon.scheduler.next_run_at if daemon.retrainer.progress is None else None,
        failed_producers={one.name: one.problem for one in failing},
        producers_failed_since=min(
            (one.failed_since for one in failing if one.failed_since), default=None
        ),
    )


def refused_rows(counters: Mapping[str, int]) -> dict[str, int]:
    """Return how many rows of the venue were refused since the start, by kind."""
    return {kind: counters.get(name, 0) for kind, name in _REFUSED.items()}


def last_closes(loop: DecisionLoop, symbols: tuple[str, ...]) -> dict[str, int | None]:
    """Close of each symbol's newest final bar that a decision has seen, UTC milliseconds."""
    panel = loop.last_panel
    if panel is None:
        return dict.fromkeys(symbols)
    return {
        symbol: int(panel.close_time[seen[-1]]) if len(seen) else None
        for symbol, seen in (
            (name, np.flatnonzero(panel.observed[:, i])) for i, name in enumerate(panel.symbols)
        )
    }
