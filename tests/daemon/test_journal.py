from __future__ import annotations

import logging
from typing import Any

import pytest
from structlog.testing import capture_logs

from daemon.decision import DecisionEvent
from daemon.journal import EVENTS, Event, Journal, log_event, record_event


class Trail:
    """Keeps rows in memory."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, dict[str, object]]] = []

    def audit(self, event: str, *, at: int, **facts: Any) -> None:
        self.rows.append((event, at, facts))


def test_every_event_has_a_meaning() -> None:
    """The vocabulary is closed: each event has its one line, short enough for a table."""
    assert set(EVENTS) == set(Event)
    assert all(0 < len(rule.meaning) <= 80 for rule in EVENTS.values())
    assert all(event.value == event.name.lower() for event in Event)


def test_what_a_decision_tells_is_in_the_vocabulary() -> None:
    """Every event that the pure decision names can be recorded."""
    assert {event.value for event in DecisionEvent} <= {event.value for event in Event}


def test_audited_event_goes_to_both() -> None:
    """An audited event is logged and kept, with the same facts and its date."""
    trail = Trail()
    with capture_logs() as logs:
        record_event(trail, Event.MODEL_REFUSED, at=17, model_id="m1", reasons=["no_position"])
    facts = {"model_id": "m1", "reasons": ["no_position"]}
    assert trail.rows == [("model_refused", 17, facts)]
    assert logs == [{"event": "model_refused", "log_level": "info", **facts}]


def test_frequent_event_cannot_flood_the_trail() -> None:
    """What happens at every bar is logged only; recording it is a bug."""
    trail = Trail()
    with pytest.raises(ValueError, match="bar_closed"):
        record_event(trail, Event.BAR_CLOSED, at=17, symbol="BTC")
    assert trail.rows == []


def test_journal_sends_each_event_where_it_belongs() -> None:
    """One call for both kinds: the clock dates what is kept, the rest is logged."""
    trail = Trail()
    journal = Journal(trail, now=lambda: 42)
    with capture_logs() as logs:
        journal.write(Event.DECISION_COMMITTED, equity=1.0)
        journal.write(Event.DECISION_MISSED, decision_time=7)
    assert [entry["event"] for entry in logs] == ["decision_committed", "decision_missed"]
    assert trail.rows == [("decision_missed", 42, {"decision_time": 7})]


def test_level_is_the_events_own() -> None:
    """A failed retraining is an error wherever it is told."""
    assert EVENTS[Event.RETRAIN_FAILED].level == logging.ERROR
    with capture_logs() as logs:
        log_event(Event.RETRAIN_FAILED, cause="timeout")
    assert logs == [{"event": "retrain_failed", "log_level": "error", "cause": "timeout"}]
