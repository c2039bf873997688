"""The desk: a decision that is computed again sees the signals that it saw live."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from daemon.signal_desk import OTHERS_MARGIN_MS, SignalDesk, StoreClock
from daemon.targets import CashTarget, informed
from market.clock import ManualClock
from market.signal_join import join_signals
from market.signals import SignalColumn, stamped
from market.warehouse import Warehouse
from tests.daemon.producer_scene import MemoryStore, StandingClock, row
from tests.market.signal_factory import BTC, ETH, at, backfilled, column, hours

MINUTE = 1 / 60


def test_another_process_stamps_ahead_of_a_daemon() -> None:
    """It shares no lock with the daemon's reads: its rows count when they are surely there."""
    store, clock = MemoryStore(), StandingClock(5)
    SignalDesk(store=store, clock=clock, ahead_ms=OTHERS_MARGIN_MS).insert([row(1)])
    assert [each.ingested_at for each in store.rows] == [at(5) + OTHERS_MARGIN_MS + 1]


def test_a_decision_read_before_a_row_never_accepts_it() -> None:
    """On a clock that stands still or lags, a row stored after a read is stamped later than it."""
    clock = StandingClock(5)
    desk = SignalDesk(store=MemoryStore(), clock=clock)
    desk.insert([row(1, 7.0)])
    before = desk.join([column()], [BTC], hours(6))
    desk.insert([row(4, 9.0)])  # our clock says 5; the decision of hour 6 has read already
    after = desk.join([column()], [BTC], hours(6))
    assert before.values.tolist() == after.values.tolist() == [[[7.0]]]
    clock.time = at(6) + 1
    assert desk.join([column()], [BTC], hours(7)).values.tolist() == [[[9.0]]]


def test_live_reads_a_window_and_sees_what_a_full_join_sees() -> None:
    """A late back-fill stays invisible to earlier bars of the lookback, as it is in training."""
    store, clock = MemoryStore(), StandingClock(100)
    store.rows = [
        backfilled(1, 1.0, ingested=50),
        backfilled(92, 2.0, ingested=99),
    ]
    desk = SignalDesk(store=store, clock=clock)
    joined = desk.join([column(12)], [BTC], hours(95, 98, 99, 100))
    assert joined.known[:, 0, 0].tolist() == [False, False, True, True]
    desk.join([column(12)], [BTC], hours(101))
    assert store.asked[-1] == (at(89), at(101) + 1)


def test_the_warehouse_keeps_what_the_desk_relies_on(empty_warehouse: Warehouse) -> None:
    """Live reads, a repeated back-fill, a revision and a training over all rows agree."""
    clock, columns = StandingClock(10), [column(48)]
    desk = SignalDesk(store=empty_warehouse, clock=clock)
    history = [stamped(backfilled(hour, hour, ingested=10, lag=1), 0) for hour in range(0, 10, 2)]
    assert desk.insert(history) == 5
    assert desk.insert(history) == 0
    lived: dict[float, list[float]] = {}
    for hour in (11, 12, 13, 14):
        clock.time = at(hour)
        lived[hour] = desk.join(columns, [BTC], hours(hour)).values.ravel().tolist()
        desk.insert([row(hour, 100.0 + hour), row(8, 80.0 + hour)])
    desk.insert([stamped(backfilled(12.5, 9e9, ingested=1), 0)])
    stored = empty_warehouse.signals(sources=["mood"], since=0, until=at(100))
    joined = join_signals(stored, columns, [BTC], hours(3, 9, *lived))
    assert joined.values.ravel().tolist() == [2.0, 8.0, *(value for (value,) in lived.values())]
    assert [value for (value,) in lived.values()] == [8.0, 111.0, 112.0, 113.0]
    assert SignalDesk(store=empty_warehouse, clock=clock).join(
        columns, [BTC], hours(11, 12, 13, 14)
    ).values.tolist() == [[lived[hour]] for hour in lived]


def test_the_newest_event_is_remembered_per_version() -> None:
    """A producer is told how far its own version reaches; ``None`` asks it for its history."""
    desk = SignalDesk(store=MemoryStore(), clock=StandingClock(9))
    assert desk.newest_event_time("mood", "1") is None
    desk.insert([row(3), row(2)])
    assert desk.newest_event_time("mood", "1") == at(3)
    assert desk.newest_event_time("mood", "2") is None


def test_only_a_policy_with_signals_is_given_any() -> None:
    """Fallbacks and policies without signals cost no query."""

    def join(columns: Sequence[SignalColumn], symbols: Sequence[str], times: object) -> None:
        raise AssertionError("nothing to read")

    target = CashTarget()
    times = np.array([at(1)], dtype=np.int64)
    assert informed(target, times, join) is target  # type: ignore[arg-type]  # must not be called


def seen(desk: SignalDesk, hour: float) -> list[float | None]:
    """What the decision of that hour knows of BTC and of ETH."""
    panel = desk.join([column()], [BTC, ETH], hours(hour))
    return [
        value if known else None
        for value, known in zip(panel.values.ravel(), panel.known.ravel(), strict=True)
    ]


def test_a_beginning_that_lies_ahead_stays_the_beginning(empty_warehouse: Warehouse) -> None:
    """A live row after an import that stamped ahead changes no decision that was taken."""
    clock = StandingClock(10)
    desk = SignalDesk(store=empty_warehouse, clock=clock)
    other = SignalDesk(store=empty_warehouse, clock=clock, ahead_ms=OTHERS_MARGIN_MS)
    history = [backfilled(9, value, ingested=10, symbol=of) for of, value in ((BTC, 1), (ETH, 2))]
    other.insert([stamped(one, 0) for one in history])
    lived = {}
    for minute in (1, 3, 5, 7):
        hour = 10 + minute * MINUTE
        clock.time = at(hour)
        lived[hour] = seen(desk, hour)
        desk.insert([replace(row(hour, 7.0), symbol=BTC)])
    again = SignalDesk(store=empty_warehouse, clock=clock)
    assert {hour: seen(again, hour) for hour in lived} == lived


def test_the_time_in_a_store_is_never_before_its_newest_bar() -> None:
    """A sandbox's venue runs ahead of the wall, and then the wall catches up."""
    wall = ManualClock(at(5))
    clock = StoreClock(wall=wall, newest_close=at(90))
    assert clock.now() == at(90)
    wall.advance(at(100))
    assert clock.now() == at(100)


def test_what_another_process_stores_ahead_of_the_wall_changes_no_decision() -> None:
    """The store of a sandbox holds decisions of a time that the wall has not reached."""
    store, venue = MemoryStore(), StandingClock(90)
    daemon = SignalDesk(store=store, clock=venue)
    daemon.insert([stamped(backfilled(85, 1.0, ingested=1), 0)])
    venue.time = at(91)
    lived = seen(daemon, 91)
    here = StoreClock(wall=StandingClock(5), newest_close=at(91))
    other = SignalDesk(store=store, clock=here, ahead_ms=OTHERS_MARGIN_MS)
    other.insert([stamped(backfilled(90, 9.0, ingested=1), 0)])
    assert seen(SignalDesk(store=store, clock=venue), 91) == lived
