"""Bars, mark candles and settlements: one suite over every client (``store`` in conftest)."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market import inserts, reads
from market.bar import HOUR_MS, MINUTE_MS, BarDefect, MarkSource
from market.panels import funding_arrays
from market.warehouse import Origin, Warehouse
from tests.contracts.rows import bar, closes, insert, mark_bar, settlement

HOUR = HOUR_MS
_NUMBERS = count()


def test_identical_bars_are_not_written_again(store: Warehouse, venue_name: str) -> None:
    """The count is of rows written; a repeated bar is not one."""
    assert insert(store, venue_name, bar(0), bar(1)) == 2
    assert insert(store, venue_name, bar(0), bar(1), bar(2), at=200) == 1


def test_different_bar_is_a_readable_revision(store: Warehouse, venue_name: str) -> None:
    """The new version is read everywhere, the old one stays readable, also after a merge."""
    insert(store, venue_name, bar(0))
    assert insert(store, venue_name, bar(0, close=12.0), at=200) == 1
    store._command("OPTIMIZE TABLE bars FINAL")
    store._command("OPTIMIZE TABLE superseded FINAL")
    assert closes(store, venue_name, 1) == [[12.0]]
    (old,) = store.revisions("A", venue=venue_name, interval_ms=HOUR, since=0, until=HOUR)
    assert (old.ingested_at, old.superseded_at, old.origin) == (100, 200, "rest")
    assert json.loads(old.content)["close"] == 11.0
    assert store.coverage(venue=venue_name, interval_ms=HOUR)[0].revisions == 1


def test_revision_wins_although_the_clock_went_back(store: Warehouse, venue_name: str) -> None:
    """The last insert is what is read, whatever its stamp."""
    insert(store, venue_name, bar(0), at=1000)
    insert(store, venue_name, bar(0, close=12.0), at=5)
    insert(store, venue_name, bar(0, close=13.0), at=5)
    assert closes(store, venue_name, 1) == [[13.0]]


def test_fields_that_the_venue_lacks_are_nan(store: Warehouse, venue_name: str) -> None:
    """What was not given is not zero, and what was given is kept."""
    rich = replace(bar(1), quote_volume=22.0, trades=3, taker_buy_volume=1.5)
    insert(store, venue_name, bar(0), rich)
    panel = store.load_panel(["A"], venue=venue_name, interval_ms=HOUR, since=0, until=2 * HOUR)
    for name, value in (("quote_volume", 22.0), ("trades", 3.0), ("taker_buy_volume", 1.5)):
        np.testing.assert_array_equal(getattr(panel, name), [[np.nan], [value]])


def test_panel_is_dense_and_in_the_order_asked_for(store: Warehouse, venue_name: str) -> None:
    """A missing bar is a row of NaN; columns follow the symbols asked for."""
    insert(store, venue_name, bar(0, "A", 6.0), bar(2, "A", 7.0), bar(1, "B", 8.0))
    expected = [[np.nan, 6.0], [8.0, np.nan], [np.nan, 7.0], [np.nan, np.nan]]
    np.testing.assert_array_equal(closes(store, venue_name, 4, "B", "A"), expected)


def test_panel_bounds_include_since_and_exclude_until(store: Warehouse, venue_name: str) -> None:
    """Only open times with since <= t < until, aligned to the interval."""
    insert(store, venue_name, *(bar(hour) for hour in range(5)))
    panel = store.load_panel(
        ["A"], venue=venue_name, interval_ms=HOUR, since=HOUR + 1, until=4 * HOUR
    )
    assert panel.open_time.tolist() == [2 * HOUR, 3 * HOUR]
    assert panel.observed.all()


def test_empty_range_gives_an_empty_panel(store: Warehouse, venue_name: str) -> None:
    """No bar in the range is not an error."""
    panel = store.load_panel(["A"], venue=venue_name, interval_ms=HOUR, since=HOUR, until=HOUR)
    assert len(panel) == 0


def test_symbol_named_twice_is_refused(store: Warehouse, venue_name: str) -> None:
    """A panel has one column per symbol."""
    with pytest.raises(ValueError, match="each symbol once"):
        closes(store, venue_name, 1, "A", "A")


def test_times_are_sorted_and_bounded(store: Warehouse, venue_name: str) -> None:
    """Each kind of row lists its times, since <= t < until."""
    insert(store, venue_name, bar(3), bar(1), bar(2), bar(1, "B"))
    store.insert_mark_bars([mark_bar(2, 7.0)], venue=venue_name, interval_ms=HOUR, ingested_at=1)
    store.insert_settlements([settlement(HOUR + 9)], venue=venue_name, ingested_at=1)
    venue, since, until = venue_name, HOUR, 3 * HOUR
    times = store.bar_times("A", venue=venue, interval_ms=HOUR, since=since, until=until)
    marks = store.mark_bar_times("A", venue=venue, interval_ms=HOUR, since=since, until=until)
    settled = store.settlement_times("A", venue=venue, since=since, until=until)
    none = store.settlement_times("B", venue=venue, since=since, until=until)
    assert times.tolist() == [HOUR, 2 * HOUR]
    assert marks.tolist() == [2 * HOUR]
    assert settled.tolist() == [HOUR]
    assert none.tolist() == []


def test_venues_and_intervals_do_not_mix(store: Warehouse, venue_name: str) -> None:
    """The same symbol and time at another venue or interval is another bar."""
    insert(store, venue_name, bar(0, close=6.0))
    insert(store, f"{venue_name}_other", bar(0, close=7.0))
    store.insert_bars(
        [bar(0, close=8.0)],
        venue=venue_name,
        interval_ms=MINUTE_MS,
        origin=Origin.STREAM,
        ingested_at=1,
    )
    assert closes(store, venue_name, 1) == [[6.0]]


def test_bar_with_a_defect_is_never_stored(store: Warehouse, venue_name: str) -> None:
    """One unsound bar refuses the whole insert before anything is written."""
    broken = replace(bar(1), low=15.0)
    with pytest.raises(ValueError, match="open_or_close_outside_low_high"):
        insert(store, venue_name, bar(0), broken)
    assert np.isnan(closes(store, venue_name, 2)).all()


def test_quarantined_rows_are_counted(store: Warehouse, venue_name: str) -> None:
    """A refused row keeps its reason, and the same refusal counts once."""
    insert(store, venue_name, bar(0))
    refused = [(replace(bar(1), close=float("nan")), BarDefect.NOT_FINITE)]
    for at in (1, 2):
        store.quarantine.insert(refused, venue=venue_name, interval_ms=HOUR, ingested_at=at)
    assert store.coverage(venue=venue_name, interval_ms=HOUR)[0].quarantined == 1


def test_settlement_is_stored_once_per_nominal_time(store: Warehouse, venue_name: str) -> None:
    """Jitter makes no second settlement, and a better mark replaces a worse one."""
    assert store.insert_settlements([settlement(3)], venue=venue_name, ingested_at=1) == 1
    assert store.insert_settlements([settlement(41)], venue=venue_name, ingested_at=2) == 0
    assert store.insert_settlements([settlement(3, 99.0)], venue=venue_name, ingested_at=3) == 1
    assert store.insert_settlements([settlement(3)], venue=venue_name, ingested_at=4) == 0
    (found,) = store.settlements(["A"], venue=venue_name, interval_ms=HOUR, since=0, until=HOUR)
    assert (found.mark_price, found.mark_source) == (99.0, MarkSource.VENUE)


def test_marks_fall_back_to_candles_then_bars(store: Warehouse, venue_name: str) -> None:
    """Venue mark, else the mark candle's open, else the bar's open, else unknown."""
    insert(store, venue_name, bar(0), bar(1), bar(2))
    store.insert_mark_bars(
        [mark_bar(0, 7.0), mark_bar(1, 7.5)], venue=venue_name, interval_ms=HOUR, ingested_at=1
    )
    due = [settlement(HOUR * hour + 5, mark) for hour, mark in enumerate((8.0, None, None, None))]
    store.insert_settlements(due, venue=venue_name, ingested_at=1)
    found = store.settlements(["A"], venue=venue_name, interval_ms=HOUR, since=0, until=4 * HOUR)
    assert [(item.mark_price, item.mark_source.value) for item in found] == [
        (8.0, "venue"),
        (7.5, "mark_candle"),
        (10.0, "bar_open"),
        (None, "unknown"),
    ]


def test_panel_funding_is_rate_times_resolved_mark(store: Warehouse, venue_name: str) -> None:
    """At the open and inside the bar are kept apart; unknown marks pay nothing and are counted."""
    insert(store, venue_name, bar(0), bar(1))
    store.insert_settlements(
        [settlement(HOUR + 12), settlement(90 * MINUTE_MS, 50.0), settlement(100 * MINUTE_MS)],
        venue=venue_name,
        ingested_at=1,
    )
    panel = store.load_panel(["A"], venue=venue_name, interval_ms=HOUR, since=0, until=2 * HOUR)
    assert panel.funding_at_open.tolist() == [[0.0], [pytest.approx(0.001 * 10.0)]]
    assert panel.funding_in_bar.tolist() == [[0.0], [pytest.approx(0.001 * 50.0)]]
    np.testing.assert_allclose(panel.funding_rate, [[np.nan], [0.003]])
    (covered,) = store.coverage(venue=venue_name, interval_ms=HOUR)
    assert (covered.settlements, covered.settlements_without_mark) == (3, 1)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    candles=st.sets(st.integers(0, 5)),
    bars=st.sets(st.integers(0, 5)),
    minutes=st.sets(st.sampled_from([0, 60, 90, 120, 240, 300, 359])),
    venue_marks=st.sets(st.sampled_from([60, 90, 240])),
)
def test_panel_funding_has_the_marks_of_the_settlements(
    warehouse: Warehouse,
    candles: set[int],
    bars: set[int],
    minutes: set[int],
    venue_marks: set[int],
) -> None:
    """A panel takes the candles' opens from its own cells: never another mark than a query's."""
    venue = f"marks_{next(_NUMBERS)}"
    scope: dict[str, Any] = {"venue": venue, "interval_ms": HOUR}
    insert(warehouse, venue, *(bar(hour, symbol) for hour in bars for symbol in "AB"))
    prices = [mark_bar(hour, 6.0 + hour, symbol) for hour in candles for symbol in "AB"]
    warehouse.insert_mark_bars(prices, **scope, ingested_at=1)
    due = [
        settlement(at * MINUTE_MS, 5.0 if at in venue_marks else None, symbol)
        for at in minutes
        for symbol in "AB"
    ]
    warehouse.insert_settlements(due, venue=venue, ingested_at=1)
    scope |= {"since": HOUR, "until": 6 * HOUR}
    panel = warehouse.load_panel(["B", "A"], **scope)
    expected = funding_arrays(
        warehouse.settlements(["A", "B"], **scope),
        ["B", "A"],
        open_time=panel.open_time,
        interval_ms=HOUR,
    )
    for name, array in expected.items():
        np.testing.assert_array_equal(getattr(panel, name), array)


def test_coverage_counts_what_is_missing(store: Warehouse, venue_name: str) -> None:
    """First, last, bars and the holes between them, for each symbol."""
    insert(store, venue_name, bar(2), bar(3), bar(6), bar(1, "B"))
    store.insert_mark_bars([mark_bar(2, 7.0)], venue=venue_name, interval_ms=HOUR, ingested_at=1)
    first, second = store.coverage(venue=venue_name, interval_ms=HOUR)
    assert (first.symbol, first.first_open_time, first.last_open_time) == ("A", 2 * HOUR, 6 * HOUR)
    assert (first.bars, first.missing, first.mark_bars) == (3, 2, 1)
    assert (second.symbol, second.bars, second.missing) == ("B", 1, 0)


def test_small_batches_give_the_same_rows(
    store: Warehouse, venue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many rows go into one statement changes nothing that is read."""
    monkeypatch.setattr(inserts, "BATCH_ROWS", 3)
    monkeypatch.setattr(inserts, "LISTED_TIMES", 1)
    monkeypatch.setattr(reads, "READ_CELLS", 4)
    bars = [bar(hour, symbol, 6.0 + hour) for symbol in "ABC" for hour in range(4)]
    assert insert(store, venue_name, *bars) == 12
    assert insert(store, venue_name, *bars, bar(0, close=7.5), at=200) == 1
    expected = [[6.0 + hour] * 3 for hour in range(4)]
    expected[0][0] = 7.5
    assert closes(store, venue_name, 4, "A", "B", "C") == expected


def test_threads_share_one_store(store: Warehouse, venue_name: str) -> None:
    """Inserts and reads from several threads neither fail nor write a row twice."""
    bars = [bar(hour) for hour in range(40)]

    def work(offset: int) -> int:
        written = insert(store, venue_name, *bars[offset : offset + 25])
        closes(store, venue_name, 40)
        return written

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, (0, 5, 10, 15))) == 40
    assert not np.isnan(closes(store, venue_name, 40)).any()


def test_odd_names_are_data(store: Warehouse, venue_name: str) -> None:
    """Symbols travel as parameters: quotes, backslashes and unicode are nothing special."""
    symbol = "1000'\\\"PÉPÉ/USDT:USDT"
    insert(store, venue_name, bar(0, symbol, 6.0))
    assert closes(store, venue_name, 1, symbol) == [[6.0]]


def test_emptied_store_is_ready_for_use(empty_warehouse: Warehouse, venue_name: str) -> None:
    """The fixture for tests that need a real venue's name removes rows, not the schema."""
    assert empty_warehouse.coverage(venue="binanceusdm", interval_ms=HOUR) == ()
    assert insert(empty_warehouse, venue_name, bar(0)) == 1
