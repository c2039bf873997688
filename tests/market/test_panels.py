"""Building panels from rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from market.bar import HOUR_MS, MINUTE_MS, MarkSource, Settlement
from market.panels import aligned_open_times, funding_arrays, scatter_table


def _settlement(minutes: int, rate: float, mark: float | None, symbol: str = "A") -> Settlement:
    return Settlement(
        symbol=symbol,
        funding_time=minutes * MINUTE_MS + 7,
        rate=rate,
        mark_price=mark,
        mark_source=MarkSource.UNKNOWN if mark is None else MarkSource.VENUE,
    )


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [(0, 30, [0, 10, 20]), (1, 30, [10, 20]), (0, 31, [0, 10, 20, 30]), (5, 5, []), (30, 0, [])],
)
def test_open_times_are_the_multiples_within_the_bounds(
    since: int, until: int, expected: list[int]
) -> None:
    """The first bound is included, the last is not, and neither needs to be aligned."""
    assert aligned_open_times(since, until, 10).tolist() == expected


def test_settlement_at_the_open_is_paid_before_the_fill() -> None:
    """A nominal time equal to the open counts at the open, a later one inside the bar."""
    open_time = np.array([0, HOUR_MS], dtype=np.int64)
    arrays = funding_arrays(
        [_settlement(60, 0.01, 100.0), _settlement(90, 0.02, 50.0)],
        ["B", "A"],
        open_time=open_time,
        interval_ms=HOUR_MS,
    )
    assert arrays["funding_at_open"].tolist() == [[0, 0], [0, 1.0]]
    assert arrays["funding_in_bar"].tolist() == [[0, 0], [0, 1.0]]
    np.testing.assert_array_equal(arrays["funding_rate"], [[np.nan, np.nan], [np.nan, 0.01 + 0.02]])


def test_settlement_without_a_mark_has_a_rate_and_pays_nothing() -> None:
    """An unknown mark leaves the payment at 0, and the rate still shows that it fell due."""
    arrays = funding_arrays(
        [_settlement(0, 0.01, None)], ["A"], open_time=np.array([0]), interval_ms=HOUR_MS
    )
    assert arrays["funding_rate"].tolist() == [[0.01]]
    assert arrays["funding_at_open"].tolist() == arrays["funding_in_bar"].tolist() == [[0.0]]


@pytest.mark.parametrize(
    ("bars", "is_whole"), [([2, 0], True), ([2, 0, 2], False), ([0, 1, 2], True), ([], True)]
)
def test_bar_that_came_twice_is_noticed(bars: list[int], is_whole: bool) -> None:
    """Each record lands at its bar and asset; a second one of a bar means unmerged versions."""
    tensor = np.zeros((3, 2, 2), dtype=np.float32)
    values = pa.array(np.ones(len(bars), dtype=np.float32))
    records = pa.table({"bar": pa.array(bars, pa.uint32()), "first": values, "second": values})
    assert scatter_table(records, tensor, 1) is is_whole
    assert sorted(np.flatnonzero(tensor[:, 1].all(axis=1)).tolist()) == sorted(set(bars))
    assert not tensor[:, 0].any()
