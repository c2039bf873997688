from __future__ import annotations

import json
import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.commands.status import status_text
from daemon.monitor.view import EquityPoint, FeedAge, Phase, thin_curve, to_json
from tests.daemon import scenes


def _points(equities: list[float]) -> list[EquityPoint]:
    return [
        EquityPoint(time=index, equity=equity, drawdown=0.0)
        for index, equity in enumerate(equities)
    ]


def test_short_curve_is_kept_whole() -> None:
    """A curve that fits the limit is not thinned."""
    points = _points([3.0, 1.0, 2.0, 5.0])
    assert thin_curve(points, 4) == tuple(points)


def test_thinning_keeps_the_crash() -> None:
    """One bar's crash in ten thousand survives thinning to fifty points."""
    equities = [100.0 + index * 0.001 for index in range(10_000)]
    equities[6_173] = 12.5
    thinned = thin_curve(_points(equities), 50)
    assert min(point.equity for point in thinned) == 12.5
    assert thinned[0].time == 0
    assert thinned[-1].time == 9_999


@given(
    st.lists(st.floats(min_value=1, max_value=1e6), min_size=1, max_size=300),
    st.integers(min_value=4, max_value=60),
)
def test_thinning_keeps_order_extremes_and_limit(equities: list[float], limit: int) -> None:
    """A thinned curve is in order, no longer than the limit, and has both extremes."""
    thinned = thin_curve(_points(equities), limit)
    times = [point.time for point in thinned]
    assert times == sorted(set(times))
    assert len(thinned) <= limit
    values = [point.equity for point in thinned]
    assert (min(values), max(values)) == (min(equities), max(equities))


def test_curve_limit_too_small_is_refused() -> None:
    """Fewer than two ends and two extremes cannot show a curve."""
    with pytest.raises(ValueError, match="at least 4"):
        thin_curve([], 3)


def test_json_has_no_nan() -> None:
    """A figure that is not finite becomes null: JSON has no NaN, and a page cannot draw it."""
    written = to_json({"a": math.nan, "b": -math.inf, "c": 1.5, "d": Decimal("0.10")})
    assert written == {"a": None, "b": None, "c": 1.5, "d": "0.10"}


def test_json_of_nested_values() -> None:
    """Dataclasses, enums, tuples and mappings become plain JSON."""
    value = {"phase": Phase.RUNNING, "feed": (FeedAge(last_close_time=1, age_seconds=None),)}
    assert to_json(value) == {
        "phase": "running",
        "feed": [{"last_close_time": 1, "age_seconds": None}],
    }


def test_json_of_every_scene_is_strict() -> None:
    """A whole status passes a strict JSON writer."""
    for scene in (scenes.starting(), scenes.training(), scenes.trading(), scenes.refused()):
        json.dumps(to_json(scene.status()), allow_nan=False)


def test_json_refuses_what_has_no_form() -> None:
    """An unknown type is a bug, not a string."""
    with pytest.raises(TypeError, match="object"):
        to_json({"x": object()})


def test_status_text_has_a_line_for_each_shadow() -> None:
    """A terminal shows the other accounts as the page does."""
    state, other = to_json(scenes.trading().state), scenes.REFUSED_ID
    assert isinstance(state, dict)
    lines = [line for line in status_text(state).splitlines() if line.startswith("shadow")]
    assert lines == [
        "shadow      yardstick: 11,204.50 USDT (+12.04%) by equal_weight, 2023 decisions",
        f"shadow      older: 4,980.00 USDT (-50.20%) by {other}, 1400 decisions, halted",
    ]
