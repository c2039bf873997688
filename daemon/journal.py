"""The daemon's vocabulary of events, and the one way to record them.

Every event that the daemon tells of is a member of ``Event`` with its meaning beside it; a name
that is not there cannot be logged through here. Important ones also go to the audit trail, which
is kept with the ledger. This module must never decide anything from what it records.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import structlog


class Event(enum.StrEnum):
    """Everything that the daemon can say has happened."""

    DAEMON_STARTED = "daemon_started"
    DAEMON_READY = "daemon_ready"
    DAEMON_STOPPING = "daemon_stopping"
    DAEMON_STOPPED = "daemon_stopped"
    SETTINGS_RELOADED = "settings_reloaded"
    SETTINGS_REFUSED = "settings_refused"
    ACCOUNT_OPENED = "account_opened"
    ACCOUNT_RECOVERED = "account_recovered"
    SAFE_MODE_ENTERED = "safe_mode_entered"

    BACKFILL_STARTED = "backfill_started"
    BACKFILL_FINISHED = "backfill_finished"
    WAREHOUSE_UNREACHABLE = "warehouse_unreachable"
    BAR_CLOSED = "bar_closed"
    FEED_STALE = "feed_stale"
    FEED_RECOVERED = "feed_recovered"
    ROW_QUARANTINED = "row_quarantined"
    SYMBOL_MASKED = "symbol_masked"

    DECISION_COMMITTED = "decision_committed"
    DECISION_REPEATED = "decision_repeated"
    DECISION_MISSED = "decision_missed"
    TARGET_UNUSABLE = "target_unusable"
    ORDER_PLANNED = "order_planned"
    ORDER_FILLED = "order_filled"
    ORDER_REJECTED = "order_rejected"
    FUNDING_POSTED = "funding_posted"
    FUNDING_POSTED_LATE = "funding_posted_late"
    FUNDING_DEFERRED = "funding_deferred"
    PARTIAL_FILL = "partial_fill"
    LIQUIDATED = "liquidated"
    DRAWDOWN_LIMIT = "drawdown_limit"
    PROTECTION_TRIGGERED = "protection_triggered"
    TRADING_RESUMED = "trading_resumed"

    SIGNALS_STORED = "signals_stored"
    SIGNALS_REFUSED = "signals_refused"
    PRODUCER_FAILED = "producer_failed"
    PRODUCER_RECOVERED = "producer_recovered"

    RETRAIN_STARTED = "retrain_started"
    RETRAIN_PROGRESS = "retrain_progress"
    RETRAIN_FINISHED = "retrain_finished"
    RETRAIN_FAILED = "retrain_failed"
    RETRAIN_MISFIRED = "retrain_misfired"
    MODEL_PROMOTED = "model_promoted"
    MODEL_REFUSED = "model_refused"
    MODEL_LOADED = "model_loaded"
    MODEL_UNUSABLE = "model_unusable"
    MODEL_ROLLED_BACK = "model_rolled_back"

    MONITOR_STARTED = "monitor_started"
    MONITOR_FAILED = "monitor_failed"
    CONDITION_NOTED = "condition_noted"
    ALERT_RAISED = "alert_raised"
    ALERT_CLEARED = "alert_cleared"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRule:
    """What an event means and where it goes.

    Attributes:
        meaning: one line for a person.
        level: of ``logging``; audited: whether it also enters the audit trail.
    """

    meaning: str
    level: int
    audited: bool


class AuditSink(Protocol):
    """Where the audit trail is kept (``broker.store.Store``)."""

    def audit(self, event: str, *, at: int, **facts: object) -> object:
        """Append one row; blocks."""
        ...


def log_event(event: Event, **facts: object) -> None:
    """Write ``event`` to the log at its own level."""
    log.log(EVENTS[event].level, event.value, **facts)


def record_event(sink: AuditSink, event: Event, *, at: int, **facts: object) -> None:
    """Write ``event`` to the log and, if it is audited, to the audit trail, dated ``at``.

    Blocks while the trail is written: on the loop, call it through a worker thread.

    Raises:
        ValueError: the event is not one that the audit trail keeps; use ``log_event``.
    """
    if not EVENTS[event].audited:
        raise ValueError(f"{event.value} is logged only; it does not enter the audit trail")
    log_event(event, **facts)
    sink.audit(event.value, at=at, **facts)


class Journal:
    """The vocabulary bound to one audit trail; writing blocks where the event is audited."""

    def __init__(self, sink: AuditSink, *, now: Callable[[], int]) -> None:
        """Keep where audited events go, and the clock that dates them."""
        self._sink = sink
        self._now = now

    def write(self, event: Event, **facts: object) -> None:
        """Log ``event``, and enter it in the audit trail where that keeps it."""
        if EVENTS[event].audited:
            record_event(self._sink, event, at=self._now(), **facts)
        else:
            log_event(event, **facts)


log = structlog.get_logger()


def _told(meaning: str, level: int = logging.INFO) -> EventRule:
    return EventRule(meaning=meaning, level=level, audited=False)


def _kept(meaning: str, level: int = logging.INFO) -> EventRule:
    return EventRule(meaning=meaning, level=level, audited=True)


EVENTS: Mapping[Event, EventRule] = MappingProxyType(
    {
        Event.DAEMON_STARTED: _kept("the process began to start up"),
        Event.DAEMON_READY: _told("start-up is over and the loop takes decisions"),
        Event.DAEMON_STOPPING: _told("a signal or the end of the run stops the daemon"),
        Event.DAEMON_STOPPED: _kept("the daemon stopped in good order"),
        Event.SETTINGS_RELOADED: _kept("settings that may change live were read again"),
        Event.SETTINGS_REFUSED: _kept("a reload was refused; the old ones stay", logging.ERROR),
        Event.ACCOUNT_OPENED: _kept("a paper account was opened with its deposit"),
        Event.ACCOUNT_RECOVERED: _told("the account was rebuilt from its ledger"),
        Event.SAFE_MODE_ENTERED: _kept(
            "the same decision crashed too often; positions are held", logging.ERROR
        ),
        Event.BACKFILL_STARTED: _told("history is being fetched"),
        Event.BACKFILL_FINISHED: _told("history is complete up to now"),
        Event.WAREHOUSE_UNREACHABLE: _told("market data cannot be read", logging.ERROR),
        Event.BAR_CLOSED: _told("every final bar of one interval is stored", logging.DEBUG),
        Event.FEED_STALE: _kept("a symbol has had no final bar for too long", logging.WARNING),
        Event.FEED_RECOVERED: _kept("a stale symbol has final bars again"),
        Event.ROW_QUARANTINED: _told("a row of the venue cannot be true", logging.WARNING),
        Event.SYMBOL_MASKED: _kept("a symbol without a bar keeps its position", logging.WARNING),
        Event.DECISION_COMMITTED: _told("a decision and all it caused is stored"),
        Event.DECISION_REPEATED: _told("a decision was there already; nothing was done"),
        Event.DECISION_MISSED: _kept("an interval passed without a decision", logging.WARNING),
        Event.TARGET_UNUSABLE: _kept("no usable weights; positions are held", logging.ERROR),
        Event.ORDER_PLANNED: _told("an order waits for the next bar", logging.DEBUG),
        Event.ORDER_FILLED: _told("an order was executed on paper"),
        Event.ORDER_REJECTED: _told("a target was not traded", logging.DEBUG),
        Event.FUNDING_POSTED: _told("a funding payment was posted"),
        Event.FUNDING_POSTED_LATE: _kept("a funding payment became known late", logging.WARNING),
        Event.FUNDING_DEFERRED: _told("a settlement waits for a mark price", logging.WARNING),
        Event.PARTIAL_FILL: _told("an order was filled in part", logging.WARNING),
        Event.LIQUIDATED: _kept("a position was closed for want of margin", logging.ERROR),
        Event.DRAWDOWN_LIMIT: _kept("the drawdown limit flattens and halts", logging.ERROR),
        Event.PROTECTION_TRIGGERED: _kept("a protection changed what is traded", logging.WARNING),
        Event.TRADING_RESUMED: _kept("a person let a halted account trade again"),
        Event.SIGNALS_STORED: _told("a producer of signals ran and its rows are stored"),
        Event.SIGNALS_REFUSED: _told("a producer gave rows that cannot be true", logging.WARNING),
        Event.PRODUCER_FAILED: _told("a producer of signals gave nothing", logging.WARNING),
        Event.PRODUCER_RECOVERED: _told("a producer that had failed gives signals again"),
        Event.RETRAIN_STARTED: _kept("a training process was started"),
        Event.RETRAIN_PROGRESS: _told("a training process told how far it is", logging.DEBUG),
        Event.RETRAIN_FINISHED: _kept("a training process ended with a verdict"),
        Event.RETRAIN_FAILED: _kept("a training process ended without one", logging.ERROR),
        Event.RETRAIN_MISFIRED: _kept("a run was due too long ago to start", logging.WARNING),
        Event.MODEL_PROMOTED: _kept("a model passed every gate and leads"),
        Event.MODEL_REFUSED: _kept("a model did not pass the gates"),
        Event.MODEL_LOADED: _kept("the deployed policy was loaded and checked itself"),
        Event.MODEL_UNUSABLE: _kept("a model cannot be loaded", logging.ERROR),
        Event.MODEL_ROLLED_BACK: _kept("the model before leads again", logging.WARNING),
        Event.MONITOR_STARTED: _told("the page is served"),
        Event.MONITOR_FAILED: _told("the page is not served", logging.ERROR),
        Event.CONDITION_NOTED: _told("a condition began that nobody needs to act on"),
        Event.ALERT_RAISED: _kept("an alert began", logging.WARNING),
        Event.ALERT_CLEARED: _kept("an alert ended"),
    }
)
