"""The rules that turn facts about a running daemon into alerts.

Pure: facts in, alerts out. It must never read a clock, a store or a feed; the loop measures and
this module judges. An alert is a state, not an event: it is active for as long as its rule holds.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


class AlertName(enum.StrEnum):
    """Every alert there is; the same names are labels of ``ballast_alerts_active``."""

    HALTED = "halted"
    DRAWDOWN = "drawdown"
    NO_DECISION = "no_decision"
    NO_COMMIT = "no_commit"
    STALE_FEED = "stale_feed"
    CLOCK_SKEW = "clock_skew"
    MISSED_DECISIONS = "missed_decisions"
    RETRAIN_FAILED = "retrain_failed"
    RETRAIN_OVERDUE = "retrain_overdue"
    MODEL_TOO_OLD = "model_too_old"
    NO_MODEL = "no_model"
    QUARANTINE = "quarantine"
    PRODUCER_FAILED = "producer_failed"
    VENUE_CLOSED = "venue_closed"
    SYMBOL_GONE = "symbol_gone"


class Severity(enum.StrEnum):
    """How soon somebody should look."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One thing that is wrong, in words for a person.

    Attributes:
        since: when the condition began, UTC ms; None where that is not known.
        message: what is the case, with its figures; remedy: what to do about it.
    """

    name: AlertName
    severity: Severity
    since: int | None
    message: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertLimits:
    """When each rule begins to hold, in seconds on the daemon's clock unless named otherwise.

    Attributes:
        drawdown_warning: fraction below the peak at which the warning starts.
        model_age_seconds: None where a model may lead for ever.
        missed_window_seconds: how long a missed decision is worth an alert.
    """

    stale_feed_seconds: float
    no_decision_seconds: float
    no_commit_seconds: float
    clock_skew_seconds: float = 2.0
    drawdown_warning: float = 0.1
    model_age_seconds: float | None = None
    retrain_grace_seconds: float = 3_600.0
    missed_window_seconds: float = 86_400.0

    @classmethod
    def for_interval(
        cls, interval_ms: int, *, speed: float = 1.0, deadline_seconds: float = 20.0
    ) -> AlertLimits:
        """Return the defaults: two intervals and three deadlines may pass before an alert.

        ``deadline_seconds`` are real seconds; at ``speed`` they last that much longer on the
        venue's clock, which is why a fast sandbox does not call every bar stale.
        """
        quiet = 2 * interval_ms / 1000 + 3 * deadline_seconds * speed
        return cls(
            stale_feed_seconds=quiet,
            no_decision_seconds=quiet,
            no_commit_seconds=quiet,
            clock_skew_seconds=2.0 * speed,
            retrain_grace_seconds=3_600.0 * max(1.0, speed / 60),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertFacts:
    """What the loop measured; every time UTC ms, None where a thing has not happened.

    Attributes:
        running_since: when the loop began to take decisions; None during start-up, when the
            rules about progress do not hold yet.
        last_close_times: close of the newest final bar by symbol.
        missed_times: decision times recorded as missed, any order.
        halted_reason: why trading has stopped; None where it has not.
        trained_until: the end of the data that the champion was trained on.
        retrain_failure: the error of the last retraining run; None where it did not fail.
        retrain_due_at: when the next run should start; None where none is scheduled or one runs.
        clock_skew_seconds: the venue's time minus ours; None where it was never measured.
        quarantined: refused rows by kind since the start.
        venue_closed: why the venue lets us ask nothing at present; None where it does.
        gone_symbols: symbols that the venue no longer trades.
        failed_producers: what each producer of signals that keeps failing says, by name.
        producers_failed_since: when the first of those failures began.
    """

    now: int
    running_since: int | None
    last_close_times: Mapping[str, int | None] = field(default_factory=dict)
    last_decision_at: int | None = None
    last_commit_at: int | None = None
    missed_times: tuple[int, ...] = ()
    halted_since: int | None = None
    halted_reason: str | None = None
    drawdown: float = 0.0
    drawdown_limit: float | None = None
    champion_id: str | None = None
    trained_until: int | None = None
    fallback: str = "cash"
    retrain_failure: str | None = None
    retrain_failed_at: int | None = None
    retrain_due_at: int | None = None
    clock_skew_seconds: float | None = None
    quarantined: Mapping[str, int] = field(default_factory=dict)
    venue_closed: str | None = None
    gone_symbols: tuple[str, ...] = ()
    failed_producers: Mapping[str, str] = field(default_factory=dict)
    producers_failed_since: int | None = None


def active_alerts(facts: AlertFacts, limits: AlertLimits) -> tuple[Alert, ...]:
    """Return the alerts that hold, the most severe first."""
    found = [alert for rule in _RULES if (alert := rule(facts, limits)) is not None]
    return tuple(sorted(found, key=lambda alert: _ORDER[alert.severity]))


def _halted(facts: AlertFacts, _limits: AlertLimits) -> Alert | None:
    if facts.halted_reason is None:
        return None
    return Alert(
        name=AlertName.HALTED,
        severity=Severity.CRITICAL,
        since=facts.halted_since,
        message=f"Trading has stopped: {facts.halted_reason}.",
        remedy="Look at the decisions and the audit trail; restart with a new account or a "
        "higher limit once the cause is understood.",
    )


def _drawdown(facts: AlertFacts, limits: AlertLimits) -> Alert | None:
    if facts.drawdown < limits.drawdown_warning:
        return None
    beyond = facts.drawdown_limit is not None and facts.drawdown >= facts.drawdown_limit
    limit = "" if facts.drawdown_limit is None else f"; the limit is {facts.drawdown_limit:.1%}"
    return Alert(
        name=AlertName.DRAWDOWN,
        severity=Severity.CRITICAL if beyond else Severity.WARNING,
        since=None,
        message=f"Equity is {facts.drawdown:.1%} below its peak{limit}.",
        remedy="Nothing to do: at the limit the daemon sells everything and stops.",
    )


def _no_decision(facts: AlertFacts, limits: AlertLimits) -> Alert | None:
    since = _silent_since(facts, facts.last_decision_at, limits.no_decision_seconds)
    if since is None:
        return None
    return Alert(
        name=AlertName.NO_DECISION,
        severity=Severity.CRITICAL,
        since=since,
        message=f"No decision for {_duration(facts.now - since)}.",
        remedy="Check the feed first: without a closed bar there is nothing to decide on. "
        "Run `ballast doctor`.",
    )


def _no_commit(facts: AlertFacts, limits: AlertLimits) -> Alert | None:
    since = _silent_since(facts, facts.last_commit_at, limits.no_commit_seconds)
    decided = facts.last_decision_at is not None and (
        facts.last_commit_at is None or facts.last_decision_at > facts.last_commit_at
    )
    if since is None or not decided:
        return None
    return Alert(
        name=AlertName.NO_COMMIT,
        severity=Severity.CRITICAL,
        since=since,
        message=f"Decisions are taken but none was committed for {_duration(facts.now - since)}.",
        remedy="The ledger does not take writes: check that its disk has space and that no other "
        "process locks the database.",
    )


def _stale_feed(facts: AlertFacts, limits: AlertLimits) -> Alert | None:
    stale = {
        symbol: since
        for symbol, closed in facts.last_close_times.items()
        if (since := _silent_since(facts, closed, limits.stale_feed_seconds)) is not None
    }
    if not stale:
        return None
    everything = len(stale) == len(facts.last_close_times)
    oldest = min(stale.values())
    names = "every symbol" if everything else ", ".join(sorted(stale))
    return Alert(
        name=AlertName.STALE_FEED,
        severity=Severity.CRITICAL if everything else Severity.WARNING,
        since=oldest,
        message=f"No closed bar for {_duration(facts.now - oldest)}: {names}.",
        remedy="The positions are kept and the others trade on. Check the connection to the venue "
        "and whether the symbol is still listed.",
    )


def _clock_skew(facts: AlertFacts, limits: AlertLimits) -> Alert | None:
    skew = facts.clock_skew_seconds
    if skew is None or abs(skew) <= limits.clock_skew_seconds:
        return None
    side = "behind" if skew > 0 else "ahead of"
    return Alert(
        name=AlertName.CLOCK_SKEW,
        severity=Severity.WARNING,
        since=None,
        message=f"This machine's clock is {abs(skew):.1f} s {side} the venue's.",
        remedy="Synchronise the clock (timedatectl set-ntp true).",
    )


def _venue_closed(facts: AlertFacts, _limits: AlertLimits) -> Alert | None:
    if facts.venue_closed is None:
        return None
    return Alert(
        name=AlertName.VENUE_CLOSED,
        severity=Severity.WARNING,
        since=None,
        message=f"The venue refuses our requests: {facts.venue_closed}.",
        remedy="A rate limit ends by itself. A blocked region does not: run from an address that "
        "the venue serves, or choose another venue.",
    )


def _symbol_gone(facts: AlertFacts, _limits: AlertLimits) -> Alert | None:
    if not facts.gone_symbols:
        return None
    return Alert(
        name=AlertName.SYMBOL_GONE,
        severity=Severity.WARNING,
        since=None,
        message=f"The venue no longer trades {', '.join(facts.gone_symbols)}.",
        remedy="Positions in it are kept at their last mark. See `ballast data check` for a "
        "successor, then change exchange.symbols.",
    )


def _missed_decisions(facts: AlertFacts, limits: AlertLimits) -> Alert | None:
    oldest = facts.now - limits.missed_window_seconds * 1000
    recent = [time for time in facts.missed_times if time >= oldest]
    if not recent:
        return None
    noun = "decision was" if len(recent) == 1 else "decisions were"
    return Alert(
        name=AlertName.MISSED_DECISIONS,
        severity=Severity.WARNING,
        since=min(recent),
        message=f"{len(recent)} {noun} missed in the last "
        f"{_duration(int(limits.missed_window_seconds * 1000))}.",
        remedy="No trade is made in the past. Find out why the daemon was down or late.",
    )


def _retrain_failed(facts: AlertFacts, _limits: AlertLimits) -> Alert | None:
    if facts.retrain_failure is None:
        return None
    return Alert(
        name=AlertName.RETRAIN_FAILED,
        severity=Severity.WARNING,
        since=facts.retrain_failed_at,
        message=f"The last retraining failed: {facts.retrain_failure}.",
        remedy="Trading goes on with the present model. The next run starts as scheduled; "
        "`ballast retrain` starts one now.",
    )


def _retrain_overdue(facts: AlertFacts, limits: AlertLimits) -> Alert | None:
    due = facts.retrain_due_at
    if due is None or facts.now - due <= limits.retrain_grace_seconds * 1000:
        return None
    return Alert(
        name=AlertName.RETRAIN_OVERDUE,
        severity=Severity.WARNING,
        since=due,
        message=f"Retraining should have started {_duration(facts.now - due)} ago.",
        remedy="The scheduler does not run; restart the daemon and report it.",
    )


def _model_too_old(facts: AlertFacts, limits: AlertLimits) -> Alert | None:
    if limits.model_age_seconds is None or facts.trained_until is None:
        return None
    age = facts.now - facts.trained_until
    if age <= limits.model_age_seconds * 1000:
        return None
    return Alert(
        name=AlertName.MODEL_TOO_OLD,
        severity=Severity.WARNING,
        since=facts.trained_until + int(limits.model_age_seconds * 1000),
        message=f"The newest data that the model learned from is {_duration(age)} old; "
        f"the fallback ({facts.fallback}) decides.",
        remedy="Look at why the retraining runs since then brought no new model.",
    )


def _no_model(facts: AlertFacts, _limits: AlertLimits) -> Alert | None:
    # Before the loop runs, a champion may be there and not loaded yet.
    if facts.champion_id is not None or facts.running_since is None:
        return None
    held = "cash" if facts.fallback == "cash" else facts.fallback.replace("_", " ")
    return Alert(
        name=AlertName.NO_MODEL,
        severity=Severity.INFO,
        since=facts.running_since,
        message=f"No model has been promoted; the account holds {held}.",
        remedy="Nothing to do: a candidate leads once it passes every gate.",
    )


def _quarantine(facts: AlertFacts, _limits: AlertLimits) -> Alert | None:
    refused = {kind: count for kind, count in facts.quarantined.items() if count > 0}
    if not refused:
        return None
    listed = ", ".join(f"{kind} ({count})" for kind, count in sorted(refused.items()))
    return Alert(
        name=AlertName.QUARANTINE,
        severity=Severity.INFO,
        since=None,
        message=f"Rows of the venue were refused because they cannot be true: {listed}.",
        remedy="`ballast data quarantine` lists them with their reasons.",
    )


def _producer_failed(facts: AlertFacts, _limits: AlertLimits) -> Alert | None:
    if not facts.failed_producers:
        return None
    listed = "; ".join(f"{name}: {why}" for name, why in sorted(facts.failed_producers.items()))
    return Alert(
        name=AlertName.PRODUCER_FAILED,
        severity=Severity.WARNING,
        since=facts.producers_failed_since,
        message=f"Producers of signals keep failing; their columns are masked with age. {listed}",
        remedy="`ballast signals run NAME` runs one by hand and stores nothing.",
    )


def _silent_since(facts: AlertFacts, last: int | None, limit_seconds: float) -> int | None:
    """Since when nothing has come, if that is longer than the limit; None while starting up."""
    if facts.running_since is None:
        return None
    quiet_from = max(facts.running_since, last if last is not None else 0)
    if facts.now - quiet_from <= limit_seconds * 1000:
        return None
    return last if last is not None else facts.running_since


def _duration(milliseconds: int) -> str:
    seconds = milliseconds / 1000
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size or (seconds >= size and unit != "d"):
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


_RULES: tuple[Callable[[AlertFacts, AlertLimits], Alert | None], ...] = (
    _venue_closed,
    _symbol_gone,
    _halted,
    _drawdown,
    _no_decision,
    _no_commit,
    _stale_feed,
    _clock_skew,
    _missed_decisions,
    _retrain_failed,
    _retrain_overdue,
    _model_too_old,
    _no_model,
    _quarantine,
    _producer_failed,
)
_ORDER = {Severity.CRITICAL: 0, Severity.WARNING: 1, Severity.INFO: 2}
