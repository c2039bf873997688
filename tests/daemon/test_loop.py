"""The loop's one rule of its own: no trade is made in the past."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from daemon.decision import FillMode
from daemon.loop import DecisionLoop, too_late
from daemon.settings import Settings
from daemon.targets import PolicyTarget
from market.bar import HOUR_MS
from market.ingest import IntervalClose
from tests.daemon.test_decide import FLAT, panel

CLOSE = 1_767_225_600_000


@pytest.mark.parametrize(
    ("after_ms", "speed", "trades"),
    [
        (1_500, 1.0, True),
        (59_000, 1.0, True),
        (61_000, 1.0, False),
        (HOUR_MS - 1, 3_600.0, True),
        (HOUR_MS, 3_600.0, False),
        (6 * HOUR_MS, 3_600.0, False),
    ],
)
def test_a_decision_may_trade_only_until_its_moment_has_passed(
    after_ms: int, speed: float, trades: bool
) -> None:
    """Sixty real seconds on a live venue; never once the filling bar has closed, at any speed."""
    why = too_late(CLOSE, CLOSE + after_ms, interval_ms=HOUR_MS, speed=speed, limit_seconds=60.0)
    assert (why is None) == trades


class Watch:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = CLOSE + 1_500

    def now(self) -> int:
        """The time that was set."""
        return self.time


@pytest.mark.parametrize(("waited_ms", "trades"), [(1_000, True), (HOUR_MS, False)])
def test_a_join_that_waited_too_long_trades_nothing(waited_ms: int, trades: bool) -> None:
    """The moment that counts is the one after the signals were read."""
    clock = Watch()

    def join(*_: object) -> None:
        clock.time += waited_ms

    schema = SimpleNamespace(signals=("mood",), symbols=("A",))
    policy: Any = SimpleNamespace(schema=schema)
    target = PolicyTarget(policy=policy)
    bars = panel(FLAT, end=CLOSE)
    unused = dict.fromkeys(("feed", "store", "journal", "retrainer", "pacer"))
    parts: dict[str, Any] = unused | {
        "settings": Settings(),
        "rules": SimpleNamespace(sigma_window_bars=1, fills=FillMode.MODELLED),
        "clock": clock,
        "speed": 1.0,
        "warehouse": SimpleNamespace(
            load_panel=lambda *_, **__: bars, settlements=lambda *_, **__: ()
        ),
        "deployment": SimpleNamespace(required_bars=3, target=lambda now: (target, "champion")),
        "signals": SimpleNamespace(join=join),
    }
    loop = DecisionLoop(**parts)
    inputs = loop._gather(IntervalClose(decision_time=CLOSE, missing=()))
    assert inputs.decided_at == CLOSE + 1_500 + waited_ms
    assert (inputs.target is not None) == trades
    assert inputs.reason.startswith("champion" if trades else "missed: the bar that would")
