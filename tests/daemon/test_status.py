"""What the page is told of a daemon that has decided nothing yet since its start."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from daemon.assembly import Daemon
from daemon.settings import Settings
from daemon.status import DaemonView
from daemon.targets import HoldTarget
from daemon.totals import Totals
from market.clock import ManualClock
from tests.daemon.test_decide import FLAT, T0, Half, fresh_state, step


def test_a_restarted_daemon_values_its_positions_at_their_last_marks() -> None:
    """50 bought at 100 and marked at 120: the page says so before the first new bar."""
    state, _ = step(fresh_state(), FLAT, hour=0, target=Half())
    prices = [*FLAT, (100.0, 50.0), (120.0, 50.0)]
    state, _ = step(state, prices[:-1], hour=1, target=HoldTarget())
    state, _ = step(state, prices, hour=2, target=HoldTarget())
    nothing: Any = SimpleNamespace(counters={}, gap_counts={}, budget_used_share=0.0)
    loop = SimpleNamespace(
        state=state,
        last_panel=None,
        last_record=None,
        totals=Totals(),
        shadows=SimpleNamespace(accounts=[]),
        progress=SimpleNamespace(bar_at=None, decision_at=None, commit_at=None),
    )
    daemon = SimpleNamespace(
        settings=Settings(),
        stores=SimpleNamespace(clock=ManualClock(T0)),
        feed=nothing,
        loop=loop,
        producers=nothing,
        deployment=SimpleNamespace(deployed=None),
        retrainer=SimpleNamespace(progress=None, outcome=None, outcomes={}),
        scheduler=SimpleNamespace(next_run_at=None),
    )
    view = DaemonView(settings=Settings())
    view.attach(cast(Daemon, daemon))
    status = view.status()
    (position,) = status.positions
    assert position.mark_price == 120.0
    assert status.equity == pytest.approx(state.equity)
