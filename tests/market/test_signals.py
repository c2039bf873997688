"""Signals: what a row may be, and what a decision may see of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.clock import monotonic_seconds
from market.signal_join import SignalPanel, first_stored, join_signals
from market.signals import (
    LARGEST_VALUE,
    LONGEST_LAG_MS,
    Signal,
    SignalColumn,
    SignalFault,
    SignalRejected,
    read_signals,
)
from tests.market.signal_factory import BTC, ETH, at, backfilled, column, hours, live

GOOD = live(1, 5.0, ingested=2)


def values_of(
    rows: Sequence[Signal], *times: float, max_age_hours: float = 1_000.0
) -> list[float | None]:
    """What decisions at those hours see for BTC; ``None`` where masked."""
    panel = join_signals(rows, [column(max_age_hours)], [BTC], hours(*times))
    pairs = zip(panel.values[:, 0, 0].tolist(), panel.known[:, 0, 0].tolist(), strict=True)
    return [value if known else None for value, known in pairs]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"value": math.nan}, SignalFault.NOT_A_NUMBER),
        ({"value": -math.inf}, SignalFault.NOT_A_NUMBER),
        ({"value": True}, SignalFault.NOT_A_NUMBER),
        ({"value": "5"}, SignalFault.NOT_A_NUMBER),
        ({"value": 2 * LARGEST_VALUE}, SignalFault.OUT_OF_RANGE),
        ({"value": 10**400}, SignalFault.OUT_OF_RANGE),
        ({"value": 10**5_000}, SignalFault.OUT_OF_RANGE),
        ({"is_backfilled": "no"}, SignalFault.BAD_FLAG),
        ({"name": "\ud83d"}, SignalFault.BAD_NAME),
        ({"source": ""}, SignalFault.BAD_NAME),
        ({"version": " 1"}, SignalFault.BAD_NAME),
        ({"name": "a\nb"}, SignalFault.BAD_NAME),
        ({"symbol": "x" * 200}, SignalFault.BAD_NAME),
        ({"event_time": at(1) // 1000}, SignalFault.BAD_TIME),
        ({"published_at": at(1) * 1000}, SignalFault.BAD_TIME),
        ({"ingested_at": -1}, SignalFault.BAD_TIME),
        ({"event_time": float(at(1))}, SignalFault.BAD_TIME),
        ({"published_at": at(0.5)}, SignalFault.PUBLISHED_BEFORE_EVENT),
        ({"lag_ms": -1}, SignalFault.BAD_LAG),
        ({"lag_ms": LONGEST_LAG_MS + 1}, SignalFault.LAG_TOO_LONG),
        ({"lag_ms": 2**63 - 1}, SignalFault.LAG_TOO_LONG),
    ],
)
def test_a_row_that_cannot_be_true_is_refused(
    changes: dict[str, object], fault: SignalFault
) -> None:
    """A row exists only with a finite value, names, and times in order; else it says why."""
    with pytest.raises(SignalRejected) as refused:
        replace(GOOD, **changes)  # type: ignore[arg-type]  # wrong on purpose
    assert refused.value.fault is fault


def test_one_bad_row_does_not_cost_the_others() -> None:
    """Rows from outside are read one by one; the bad ones come back with their reasons."""
    good = {"source": "s", "version": "1", "name": "n", "event_time": at(1), "value": 1.0}
    rows = [good, good | {"value": math.nan}, {}, good | {"symbol": BTC}]
    sound, refused = read_signals(rows)
    assert [row.symbol for row in sound] == ["", BTC]
    assert sound[0].published_at == at(1)
    assert [one.fault for one in refused] == [SignalFault.NOT_A_NUMBER, SignalFault.BAD_NAME]


def test_a_live_row_counts_from_its_ingestion() -> None:
    """However early it was published, a decision before the ingestion does not see it."""
    row = live(1, 5.0, published=1.5, ingested=3)
    assert row.available_at == at(3)
    assert values_of([row], 2, 2.999, 3, 4) == [None, None, 5.0, 5.0]


def test_a_row_that_is_announced_early_counts_from_its_publication() -> None:
    """A row stored before its own publication time waits for it."""
    assert values_of([live(1, 5.0, published=4, ingested=2)], 3, 4) == [None, 5.0]


def test_history_counts_from_publication_and_declared_lag() -> None:
    """Rows back-filled at once into an empty stream are usable in the past, after the lag."""
    row = backfilled(1, 5.0, lag=2, ingested=100)
    assert row.available_at == at(3)
    assert values_of([row], 2, 3, 50) == [None, 5.0, 5.0]


def test_a_later_backfill_does_not_change_a_lived_decision() -> None:
    """Once a stream is stored, what is back-filled into it counts from its own ingestion."""
    lived = live(1, 1.0, ingested=1)
    hole = backfilled(2, 2.0, ingested=10)
    assert values_of([lived], 3, 9) == [1.0, 1.0]
    assert values_of([lived, hole], 3, 9, 10) == [1.0, 1.0, 2.0]


def test_a_later_backfill_of_older_history_serves_the_time_before() -> None:
    """Decisions before the stream was first stored were never lived: they see the new history."""
    first = backfilled(5, 1.0, ingested=10)
    older = backfilled(3, 2.0, ingested=20)
    assert values_of([first, older], 3, 4, 5, 12) == [2.0, 2.0, 1.0, 1.0]


def test_the_newest_event_wins_and_then_its_newest_revision() -> None:
    """A revision counts from its own publication; an older event never replaces a newer one."""
    rows = [
        live(1, 1.0, ingested=1),
        live(2, 2.0, ingested=2),
        live(2, 2.5, published=4, ingested=4),
        live(1, 1.5, published=6, ingested=6),
    ]
    assert values_of(rows, 1, 2, 3, 4, 7) == [1.0, 2.0, 2.0, 2.5, 2.5]


def test_a_value_older_than_the_maximum_age_is_masked() -> None:
    """The age is measured from the event, to the millisecond; nothing older is taken instead."""
    rows = [live(1, 1.0, ingested=1), live(2, 2.0, ingested=2)]
    assert values_of(rows, 3, 5, 5.001, max_age_hours=3) == [2.0, 2.0, None]


def test_market_wide_rows_serve_every_asset() -> None:
    """A row without a symbol is about every asset; a row with one is about that asset alone."""
    rows = [live(1, 1.0, ingested=1), live(2, 7.0, ingested=2, symbol=ETH)]
    panel = join_signals(rows, [column()], [BTC, ETH], hours(1, 3))
    np.testing.assert_array_equal(panel.values[:, :, 0], [[1.0, 1.0], [1.0, 7.0]])
    assert panel.known.all()


def test_versions_and_names_are_never_mixed() -> None:
    """A column reads its own stream only; one without rows is unknown and 0."""
    rows = [live(1, 1.0, ingested=1), replace(GOOD, version="2"), replace(GOOD, name="other")]
    panel = join_signals(rows, [column(), column(version="9")], [BTC], hours(3))
    assert panel.values.tolist() == [[[1.0, 0.0]]]
    assert panel.known.tolist() == [[[True, False]]]


def test_a_row_that_was_never_stored_is_not_joined() -> None:
    """A join of rows without an ingestion time is a mistake and raises."""
    with pytest.raises(ValueError, match="never stored"):
        join_signals([replace(GOOD, ingested_at=0)], [column()], [BTC], hours(3))


def test_rows_of_a_joined_panel_are_found_by_decision_time() -> None:
    """``at`` gives the asked decisions and refuses one that was not joined."""
    panel = join_signals([live(1, 1.0, ingested=2)], [column()], [BTC], hours(1, 2, 3))
    assert panel.at(hours(2, 3)).known[:, 0, 0].tolist() == [True, True]
    with pytest.raises(ValueError, match="not joined"):
        panel.at(hours(2, 4))


whole_hours = st.integers(0, 12)


@st.composite
def signal_rows(draw: st.DrawFn) -> Signal:
    """Any sound row of the stream: live or back-filled, late, early, revised."""
    event, delay, late, lag = (draw(whole_hours) for _ in range(4))
    return Signal(
        source="mood",
        version="1",
        symbol=draw(st.sampled_from(["", BTC, ETH])),
        event_time=at(event),
        published_at=at(event + delay),
        ingested_at=at(event + late),
        name="value",
        value=float(draw(st.integers(-3, 3))),
        is_backfilled=draw(st.booleans()),
        lag_ms=lag * 3_600_000,
    )


many_rows = st.lists(signal_rows(), max_size=12)


def seen(rows: Sequence[Signal], columns: Sequence[SignalColumn], hour: int) -> SignalPanel:
    """Both assets at one decision."""
    return join_signals(rows, columns, [BTC, ETH], hours(hour))


def same(first: SignalPanel, other: SignalPanel) -> bool:
    """Whether two joins hold the same values and masks."""
    return np.array_equal(first.values, other.values) and np.array_equal(first.known, other.known)


@given(rows=many_rows, hour=whole_hours, age=st.integers(1, 12))
def test_the_join_is_the_rule_written_out(rows: list[Signal], hour: int, age: int) -> None:
    """For every asset, the join equals a loop over the rows that follows the rule word by word."""
    joined = seen(rows, [column(age)], hour)
    began = min((row.ingested_at for row in rows), default=0)
    for asset, symbol in enumerate((BTC, ETH)):
        counting = [
            row
            for row in rows
            if row.symbol in ("", symbol)
            and row.available_at <= at(hour)
            and (at(hour) < began or row.ingested_at <= at(hour))
        ]
        best = max(
            counting,
            key=lambda row: (row.event_time, row.published_at, row.ingested_at, row.value),
            default=None,
        )
        known = best is not None and at(hour) - best.event_time <= age * 3_600_000
        assert joined.known[0, asset, 0] == known
        assert joined.values[0, asset, 0] == (best.value if best is not None and known else 0.0)


@given(rows=many_rows, later=many_rows, hour=whole_hours)
def test_what_becomes_public_after_the_decision_never_reaches_it(
    rows: list[Signal], later: list[Signal], hour: int
) -> None:
    """Rows published, or ingested live, after the decision change nothing in it."""
    future = [
        row
        for row in later
        if row.published_at > at(hour) or (not row.is_backfilled and row.ingested_at > at(hour))
    ]
    # The stream has begun, so that the future rows do not decide when it began.
    rows = [*rows, live(0, 9.0, ingested=0)]
    assert same(seen(rows, [column()], hour), seen([*rows, *future], [column()], hour))


@given(rows=many_rows, later=many_rows, hour=whole_hours, patience=whole_hours)
def test_a_decision_recomputed_later_sees_what_it_saw_live(
    rows: list[Signal], later: list[Signal], hour: int, patience: int
) -> None:
    """Whatever is stored after a decision, back-filled and revised rows too, it stays the same."""
    lived = [row for row in rows if row.ingested_at <= at(hour)] + [live(0, 9.0, ingested=0)]
    after = [replace(row, ingested_at=at(hour + 1 + patience)) for row in later]
    assert same(seen(lived, [column()], hour), seen([*lived, *after], [column()], hour))


@given(rows=many_rows, hour=whole_hours, age=st.integers(1, 12))
def test_a_window_of_the_rows_is_enough_where_the_beginning_is_known(
    rows: list[Signal], hour: int, age: int
) -> None:
    """Rows published within the maximum age, with the stream's beginning, give the same answer."""
    recent = [row for row in rows if at(hour - age) <= row.published_at <= at(hour)]
    whole = seen(rows, [column(age)], hour)
    window = join_signals(
        recent, [column(age)], [BTC, ETH], hours(hour), stored_since=first_stored(rows)
    )
    assert same(whole, window)


@given(rows=many_rows, order=st.randoms(use_true_random=False))
def test_the_order_of_rows_and_decisions_decides_nothing(rows: list[Signal], order: object) -> None:
    """Shuffled rows give the same panel; decisions may come in any order."""
    shuffled = list(rows)
    order.shuffle(shuffled)  # type: ignore[attr-defined]  # random.Random
    forward = join_signals(rows, [column()], [BTC], hours(*range(12)))
    backward = join_signals(shuffled, [column()], [BTC], hours(*range(11, -1, -1)))
    np.testing.assert_array_equal(forward.values, backward.values[::-1])
    np.testing.assert_array_equal(forward.known, backward.known[::-1])


def test_years_of_bars_are_joined_in_a_moment() -> None:
    """Half a million decisions with ten thousand rows and five assets take under three seconds."""
    rows = [live(hour, float(hour % 7), ingested=hour + 0.5) for hour in range(10_000)]
    minutes = at(0) + 60_000 * np.arange(500_000, dtype=np.int64)
    started = monotonic_seconds()
    panel = join_signals(rows, [column(48)], [BTC, ETH, "A", "B", "C"], minutes)
    assert monotonic_seconds() - started < 3.0
    assert panel.known.mean() > 0.99
