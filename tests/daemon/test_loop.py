"""The loop's one rule of its own: no trade is made in the past."""

from __future__ import annotations

import pytest

from daemon.loop import too_late
from market.bar import HOUR_MS

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
