"""What a start finds out about the starts before it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from broker.store import Store
from daemon.journal import Event
from daemon.recovery import crashes_at


def test_crashes_are_counted_through_whatever_else_was_audited(tmp_path: Path) -> None:
    """A replay between two starts leaves many lines; a clean stop or progress ends the count."""
    store = Store.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    tell = partial(store.audit, at=1)
    started, stopped = Event.DAEMON_STARTED.value, Event.DAEMON_STOPPED.value
    tell(started, last_decision_time=7)
    tell(stopped)
    for _ in range(2):
        tell(started, last_decision_time=7)
        for _ in range(60):
            tell("funding_posted")
    assert crashes_at(store, 7) == 2
    assert crashes_at(store, 8) == 0
    tell(stopped)
    assert crashes_at(store, 7) == 0
    store.close()
