"""What is missing, refused or late in the store is counted and named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from daemon.commands.spans import length, moment
from daemon.data_check import check_scope, check_settlements, check_signals
from market.bar import DAY_MS, HOUR_MS, BarDefect
from market.gap import GapKind
from market.listing import ListingChange, ListingEvent
from market.signals import read_signals
from market.warehouse import Warehouse
from tests.market.stored_market import (
    BTC,
    END,
    ETH,
    HOURS,
    PLACE,
    SCOPE,
    SETTLED,
    T0,
    USDM,
    bar,
    book,
    gap,
    quote,
    signal,
    store,
)

SOL = "SOL/USDT:USDT"


@pytest.fixture
def holed(empty_warehouse: Warehouse) -> Warehouse:
    """BTC without its hours 2-4, 6 and 9; ETH whole, but two hours short of BTC's end."""
    store(empty_warehouse, [bar(hour) for hour in range(HOURS) if hour not in (2, 3, 4, 6, 9)])
    store(empty_warehouse, [bar(hour, ETH) for hour in range(HOURS - 2)])
    gaps = [gap(hour, GapKind.ABSENT) for hour in (2, 3, 4)] + [gap(6, GapKind.DEFERRED)]
    empty_warehouse.insert_gaps(gaps, **PLACE)
    return empty_warehouse


def test_missing_bars_are_counted_by_kind_and_listed_with_their_lengths(holed: Warehouse) -> None:
    """Absent, deferred, and fetchable where nothing is recorded; expected = bars + missing."""
    report = check_scope(holed, SCOPE, symbols=None, now=END)
    btc, eth = report.symbols
    assert btc.gaps == {GapKind.FETCHABLE: 1, GapKind.ABSENT: 3, GapKind.DEFERRED: 1}
    assert (btc.coverage.bars, btc.expected) == (HOURS - 5, HOURS)
    assert set(eth.gaps.values()) == {0}
    found = [(one.kind, (one.first_open_time - T0) // HOUR_MS, one.bars) for one in report.ranges]
    assert found == [(GapKind.ABSENT, 2, 3), (GapKind.DEFERRED, 6, 1), (GapKind.FETCHABLE, 9, 1)]
    assert "2 missing bars" in report.problems[0]


def test_absent_bars_are_no_problem(empty_warehouse: Warehouse) -> None:
    """Nobody can fetch what the venue never made."""
    store(empty_warehouse, [bar(0), bar(2)])
    empty_warehouse.insert_gaps([gap(1, GapKind.ABSENT)], **PLACE)
    assert check_scope(empty_warehouse, SCOPE, symbols=None, now=None).problems == ()


@pytest.mark.parametrize(
    ("now", "stale"),
    [
        (END, [ETH]),
        (END + 2 * HOUR_MS - 1, [ETH]),
        (END + 2 * HOUR_MS, [BTC, ETH]),
        (None, [ETH]),
    ],
)
def test_a_symbol_is_stale_once_a_whole_bar_was_missed(
    holed: Warehouse, now: int | None, stale: list[str]
) -> None:
    """By the time given, or where none is, by the newest bar of all."""
    report = check_scope(holed, SCOPE, symbols=None, now=now)
    assert [one.coverage.symbol for one in report.symbols if one.is_stale] == stale


def test_quarantine_listing_changes_quotes_and_books_are_reported(holed: Warehouse) -> None:
    """Each by symbol; what belongs to another symbol is left out where one is asked for."""
    bad = bar(0, close=-1.0)
    holed.quarantine.insert([(bad, BarDefect.NOT_POSITIVE)], ingested_at=END, **PLACE)
    gone = ListingChange(symbol=ETH, event=ListingEvent.DELISTED, noticed_at=END)
    holed.insert_listing_changes([gone], venue=USDM.value)
    holed.insert_quotes([quote(END - HOUR_MS), quote(END - 3 * DAY_MS)], venue=USDM.value)
    holed.insert_books([book(END)], venue=USDM.value)
    report = check_scope(holed, SCOPE, symbols=[BTC], now=END)
    assert report.quarantine == {(BTC, "price_not_positive"): 1}
    assert report.listing == ()
    assert [(one.quotes, one.books) for one in report.symbols] == [(1, 1)]
    assert "1 rows in quarantine" in report.problems
    whole = check_scope(holed, SCOPE, symbols=None, now=END)
    assert whole.listing == (gone,)


def test_settlements_of_symbols_without_bars_are_reported_by_venue(holed: Warehouse) -> None:
    """A symbol with bars is in a scope already; only what is asked for."""
    rows = [replace(SETTLED[0], symbol=name) for name in (BTC, SOL)]
    holed.insert_settlements(rows, venue=USDM.value, ingested_at=END)
    (found,) = check_settlements(holed, symbols=None)
    assert (found.venue, [one.symbol for one in found.symbols]) == (USDM.value, [SOL])
    assert check_settlements(holed, symbols=[BTC]) == ()


@pytest.mark.parametrize(
    ("with_bars", "problems"), [(False, ("1 rows in quarantine",)), (True, ())]
)
def test_refused_settlements_are_counted_once(
    empty_warehouse: Warehouse, with_bars: bool, problems: tuple[str, ...]
) -> None:
    """By the scopes of a venue that has bars, else with its settlements."""
    alone = replace(SETTLED[0], symbol=SOL)
    empty_warehouse.insert_settlements([alone], venue=USDM.value, ingested_at=END)
    empty_warehouse.quarantine.insert(
        [(bar(0, SOL), BarDefect.NOT_FINITE)], kind="settlements", venue=USDM.value, interval_ms=0,
        ingested_at=END,
    )  # fmt: skip
    if with_bars:
        store(empty_warehouse, [bar(0)])
        report = check_scope(empty_warehouse, SCOPE, symbols=None, now=None)
        assert report.problems == ("1 rows in quarantine",)
    (found,) = check_settlements(empty_warehouse, symbols=None)
    assert found.problems == problems


def test_lengths_and_times_are_written_for_people() -> None:
    """As one says them."""
    assert [length(ms) for ms in (90 * 60_000, 33 * HOUR_MS, 10 * DAY_MS)] == [
        *("90 min", "33 h", "10 d"),
    ]
    assert moment(T0) == "2023-11-14 22:00"
    assert moment(T0 + 1_500) == "2023-11-14 22:00:01"


def test_signals_are_counted_by_stream(empty_warehouse: Warehouse) -> None:
    """With the first and the last publication."""
    empty_warehouse.insert_signals([signal(1, ""), signal(2, BTC)], ingested_at=END)
    (found,) = check_signals(empty_warehouse).streams
    assert (found.source, found.rows, found.last - found.first) == ("mood", 2, HOUR_MS)


def test_refused_signals_are_a_problem_as_other_rows_in_quarantine(
    empty_warehouse: Warehouse,
) -> None:
    """They belong to no venue, so no scope counts them."""
    _, refused = read_signals([{"source": "mood", "value": "much"}])
    empty_warehouse.insert_refused_signals(refused, ingested_at=END)
    found = check_signals(empty_warehouse)
    assert found.quarantine == {one.fault.value: 1 for one in refused}
    assert found.problems == ("1 signals in quarantine",)
