from __future__ import annotations

from dataclasses import replace

import pytest

from daemon.alerts import AlertFacts, AlertLimits, AlertName, Severity, active_alerts
from daemon.health import refused_rows

HOUR = 3_600_000
NOW = 1_000 * HOUR
LIMITS = AlertLimits.for_interval(HOUR)
WELL = AlertFacts(
    now=NOW,
    running_since=NOW - 100 * HOUR,
    last_close_times={"BTC": NOW, "ETH": NOW},
    last_decision_at=NOW,
    last_commit_at=NOW,
    champion_id="m1",
)


def _names(facts: AlertFacts, limits: AlertLimits = LIMITS) -> set[AlertName]:
    return {alert.name for alert in active_alerts(facts, limits)}


def test_nothing_wrong_raises_nothing() -> None:
    """A daemon that trades and is up to date has no alert."""
    assert active_alerts(WELL, LIMITS) == ()


def test_hourly_bars_may_be_two_hours_and_a_minute_old() -> None:
    """The default patience is two intervals and three deadlines of 20 s: 7260 s."""
    assert LIMITS.stale_feed_seconds == 7_260
    at_limit = replace(WELL, last_close_times={"BTC": NOW - 7_260_000, "ETH": NOW})
    assert AlertName.STALE_FEED not in _names(at_limit)
    beyond = replace(WELL, last_close_times={"BTC": NOW - 7_260_001, "ETH": NOW})
    assert AlertName.STALE_FEED in _names(beyond)


def test_fast_sandbox_has_more_patience() -> None:
    """At 3600 venue seconds per real second, three deadlines last 60 venue hours."""
    limits = AlertLimits.for_interval(HOUR, speed=3_600)
    assert limits.stale_feed_seconds == 7_200 + 60 * 3_600
    late = replace(WELL, last_close_times={"BTC": NOW - 10 * HOUR})
    assert AlertName.STALE_FEED not in _names(late, limits)


def test_one_stale_symbol_warns_and_all_are_critical() -> None:
    """One silent symbol is masked and the others trade; silence of all is an outage."""
    one = replace(WELL, last_close_times={"BTC": NOW - 5 * HOUR, "ETH": NOW})
    every = replace(WELL, last_close_times={"BTC": NOW - 5 * HOUR, "ETH": NOW - 6 * HOUR})
    (warning,) = active_alerts(one, LIMITS)
    (critical,) = active_alerts(every, LIMITS)
    assert (warning.severity, critical.severity) == (Severity.WARNING, Severity.CRITICAL)
    assert "BTC" in warning.message
    assert "ETH" not in warning.message
    assert critical.since == NOW - 6 * HOUR
    assert critical.message == "No closed bar for 6 h: every symbol."


def test_progress_rules_wait_for_the_start() -> None:
    """During start-up nothing has been decided, and that is no alert."""
    starting = replace(
        WELL,
        running_since=None,
        last_close_times={"BTC": None},
        last_decision_at=None,
        champion_id=None,
    )
    assert _names(starting) == set()


def test_old_decision_right_after_a_restart_is_no_alert() -> None:
    """After a long stop the patience begins with the start, not with the last decision."""
    restarted = replace(WELL, running_since=NOW - HOUR, last_decision_at=NOW - 90 * HOUR)
    assert AlertName.NO_DECISION not in _names(restarted)


def test_no_decision_since_the_start() -> None:
    """A daemon that runs and never decides is told apart from one that starts."""
    silent = replace(WELL, last_decision_at=None, running_since=NOW - 3 * HOUR)
    (alert,) = active_alerts(silent, LIMITS)
    assert (alert.name, alert.since) == (AlertName.NO_DECISION, NOW - 3 * HOUR)


def test_decisions_without_commits_are_critical() -> None:
    """Deciding and not storing is worse than not deciding: the ledger does not take writes."""
    stuck = replace(WELL, last_decision_at=NOW, last_commit_at=NOW - 5 * HOUR)
    (alert,) = active_alerts(stuck, LIMITS)
    assert (alert.name, alert.severity) == (AlertName.NO_COMMIT, Severity.CRITICAL)


def test_drawdown_warns_before_the_limit_and_is_critical_at_it() -> None:
    """The warning starts at 10 %; the configured limit makes it critical."""
    assert _names(replace(WELL, drawdown=0.0999)) == set()
    (warning,) = active_alerts(replace(WELL, drawdown=0.1, drawdown_limit=0.3), LIMITS)
    (critical,) = active_alerts(replace(WELL, drawdown=0.3, drawdown_limit=0.3), LIMITS)
    assert (warning.severity, critical.severity) == (Severity.WARNING, Severity.CRITICAL)
    assert warning.message == "Equity is 10.0% below its peak; the limit is 30.0%."


def test_missed_decisions_count_for_a_day() -> None:
    """Only what was missed in the last 24 hours is an alert."""
    times = (NOW - 25 * HOUR, NOW - 24 * HOUR, NOW - HOUR)
    (alert,) = active_alerts(replace(WELL, missed_times=times), LIMITS)
    assert alert.message == "2 decisions were missed in the last 24 h."
    assert alert.since == NOW - 24 * HOUR
    assert _names(replace(WELL, missed_times=times[:1])) == set()


@pytest.mark.parametrize(("skew", "side"), [(2.5, "behind"), (-2.5, "ahead of")])
def test_clock_skew_names_the_side(skew: float, side: str) -> None:
    """A venue that is ahead means that we are behind."""
    (alert,) = active_alerts(replace(WELL, clock_skew_seconds=skew), LIMITS)
    assert alert.message == f"This machine's clock is 2.5 s {side} the venue's."
    assert _names(replace(WELL, clock_skew_seconds=2.0)) == set()


def test_no_model_is_only_information() -> None:
    """Holding cash without a champion is the normal state of a young daemon."""
    (alert,) = active_alerts(replace(WELL, champion_id=None), LIMITS)
    assert (alert.name, alert.severity) == (AlertName.NO_MODEL, Severity.INFO)
    assert alert.message == "No model has been promoted; the account holds cash."


def test_old_model_counts_from_its_data() -> None:
    """A model's age is the age of the newest data that it learned from."""
    limits = replace(LIMITS, model_age_seconds=10 * 86_400)
    old = replace(WELL, trained_until=NOW - 11 * 24 * HOUR)
    (alert,) = active_alerts(old, limits)
    assert (alert.name, alert.since) == (AlertName.MODEL_TOO_OLD, NOW - 24 * HOUR)
    assert _names(old) == set()


def test_overdue_retraining_is_an_alert_after_its_grace() -> None:
    """A run that should have started more than an hour ago means that nobody starts runs."""
    assert _names(replace(WELL, retrain_due_at=NOW - HOUR)) == set()
    assert _names(replace(WELL, retrain_due_at=NOW - HOUR - 1)) == {AlertName.RETRAIN_OVERDUE}


def test_the_most_severe_comes_first() -> None:
    """Critical before warning before information; every alert says what to do."""
    facts = replace(
        WELL,
        champion_id=None,
        retrain_failure="out of memory",
        halted_reason="the drawdown limit was reached",
        quarantined={"bars": 2, "settlements": 0},
    )
    alerts = active_alerts(facts, LIMITS)
    assert [alert.severity for alert in alerts] == [
        Severity.CRITICAL, Severity.WARNING, Severity.INFO, Severity.INFO,
    ]  # fmt: skip
    assert all(alert.remedy for alert in alerts)
    assert "bars (2)" in alerts[-1].message


def test_refused_rows_of_every_kind_are_told() -> None:
    """A settlement that cannot be read is a funding payment that nobody makes."""
    counters = {"bars": 9, "bars_quarantined": 2, "settlements_refused": 1}
    (alert,) = active_alerts(replace(WELL, quarantined=refused_rows(counters)), LIMITS)
    assert alert.name is AlertName.QUARANTINE
    assert "bars (2), settlements (1)" in alert.message
    assert "ballast data quarantine" in alert.remedy
