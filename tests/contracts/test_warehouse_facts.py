"""Gaps, quotes, order books, listing changes and signals, over every client."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from market.bar import HOUR_MS, BarDefect
from market.gap import Gap, GapKind
from market.listing import ListingChange, ListingEvent
from market.quarantine import QuarantineFilter
from market.quote import OrderBook, Quote
from market.signals import Signal, read_signals
from market.warehouse import GapRange, Warehouse
from tests.contracts.rows import bar, insert, settlement

HOUR = HOUR_MS
T0 = 1_700_000_000_000

QUOTE = Quote(
    symbol="A", event_time=T0 - 5, available_at=T0, bid=9.5, bid_quantity=1.0, ask=10.0,
    ask_quantity=None, mark_price=9.75, predicted_funding_rate=-0.0001, next_funding_time=T0 + 7,
)  # fmt: skip
BOOK = OrderBook(
    symbol="A", decision_time=T0, event_time=T0 + 1, available_at=T0 + 2, update_id=None,
    bids=((9.5, 1.0), (9.0, 2.5)), asks=(),
)  # fmt: skip


def gap(hour: int, kind: GapKind = GapKind.DEFERRED, symbol: str = "A", at: int = 1) -> Gap:
    """A gap noticed at 1, in the version of ``at``."""
    return Gap(
        symbol=symbol, open_time=hour * HOUR, kind=kind, noticed_at=1, updated_at=at, reason="r"
    )


def signal(source: str, value: float = 1.0, **changes: object) -> Signal:
    """A live row about the whole market."""
    row = Signal(
        source=source, version="1", symbol="", event_time=T0, published_at=T0 + 5, ingested_at=0,
        name="n", value=value, is_backfilled=False,
    )  # fmt: skip
    return replace(row, **changes)  # type: ignore[arg-type]  # fields of Signal


def test_latest_version_of_a_gap_counts(store: Warehouse, venue_name: str) -> None:
    """By updated_at, whatever the order of writing; a closed gap is left out unless asked for."""
    absent = gap(1, GapKind.ABSENT, at=3)
    closed = replace(gap(2, at=2), closed_at=2)
    for gaps in ([absent], [gap(1, at=2), gap(2)], [closed]):
        store.insert_gaps(gaps, venue=venue_name, interval_ms=HOUR)
    scope: dict[str, Any] = {"venue": venue_name, "interval_ms": HOUR}
    assert store.gaps(**scope, since=0, until=9 * HOUR) == (absent,)
    assert store.gaps(**scope, since=0, until=9 * HOUR, open_only=False) == (absent, closed)


def test_gaps_are_bounded_by_time_symbol_and_interval(store: Warehouse, venue_name: str) -> None:
    """Since <= open_time < until, of the symbols asked for, of one interval."""
    gaps = [gap(1), gap(2), gap(2, symbol="B"), gap(3)]
    store.insert_gaps(gaps, venue=venue_name, interval_ms=HOUR)
    store.insert_gaps([gap(2, symbol="C")], venue=venue_name, interval_ms=2 * HOUR)
    scope: dict[str, Any] = {"venue": venue_name, "interval_ms": HOUR}
    assert store.gaps(**scope, since=2 * HOUR, until=3 * HOUR) == (gap(2), gap(2, symbol="B"))
    assert store.gaps(**scope, since=0, until=3 * HOUR, symbols=["B"]) == (gap(2, symbol="B"),)
    assert store.gaps(**scope, since=0, until=3 * HOUR, symbols=[]) == ()


def test_quote_comes_back_as_it_was(store: Warehouse, venue_name: str) -> None:
    """Twice written is once stored, and what the venue did not give stays None."""
    later = replace(QUOTE, available_at=T0 + 1, symbol="B", bid=None)
    for quotes in ([later, QUOTE], [QUOTE]):
        store.insert_quotes(quotes, venue=venue_name)
    found = store.quotes(["A", "B"], venue=venue_name, since=T0, until=T0 + 2)
    assert found == (QUOTE, later)
    assert store.quotes(["A", "B"], venue=venue_name, since=T0 + 1, until=T0 + 2) == (later,)
    assert store.quotes(["B"], venue=venue_name, since=0, until=T0 + 1) == ()


def test_book_comes_back_level_by_level(store: Warehouse, venue_name: str) -> None:
    """One book per decision: the one we had last; an empty side stays empty."""
    newer = replace(BOOK, available_at=T0 + 3, update_id=7, asks=((10.0, 0.25),))
    for books in ([newer], [BOOK], [replace(BOOK, symbol="B")]):
        store.insert_books(books, venue=venue_name)
    found = store.books(["A", "B"], venue=venue_name, since=T0, until=T0 + 1)
    assert found == (newer, replace(BOOK, symbol="B"))
    assert store.books(["A"], venue=venue_name, since=T0 + 1, until=T0 + 9) == ()


def test_listing_change_is_stored_once(store: Warehouse, venue_name: str) -> None:
    """The same change again adds nothing; two rules of one symbol are two changes."""
    raised = ListingChange(
        symbol="A", event=ListingEvent.RULE_CHANGED, field="min_notional", before="5", after="9",
        noticed_at=T0,
    )  # fmt: skip
    gone = ListingChange(symbol="B", event=ListingEvent.DELISTED, noticed_at=T0 + 1)
    for changes in ([gone, raised], [raised, replace(raised, field="tick_size")]):
        store.insert_listing_changes(changes, venue=venue_name)
    found = store.listing_changes(venue=venue_name, since=T0, until=T0 + 2)
    assert found == (raised, replace(raised, field="tick_size"), gone)
    assert store.listing_changes(venue=venue_name, since=T0 + 1, until=T0 + 2) == (gone,)


def test_signal_is_stamped_and_stored_once(store: Warehouse, venue_name: str) -> None:
    """A row that is stored already keeps its first ingested_at."""
    row = signal(venue_name)
    other = signal(venue_name, symbol="A", is_backfilled=True, lag_ms=60)
    assert store.insert_signals([row, other, row], ingested_at=T0 + 10) == 2
    assert store.insert_signals([row, other], ingested_at=T0 + 20) == 0
    found = store.signals(sources=[venue_name], since=T0 + 5, until=T0 + 6)
    assert found == (replace(row, ingested_at=T0 + 10), replace(other, ingested_at=T0 + 10))
    assert store.signals(sources=[venue_name], since=0, until=T0 + 5) == ()


def test_signal_with_another_value_is_kept_beside_the_first(
    store: Warehouse, venue_name: str
) -> None:
    """Every revision stays, also one that returns to an earlier value, and its stamp is later."""
    for value, at in ((1.0, 50), (2.0, 20), (1.0, 60), (1.0, 70)):
        store.insert_signals([signal(venue_name, value)], ingested_at=T0 + at)
    found = store.signals(sources=[venue_name], since=0, until=T0 + 99)
    assert [(row.value, row.ingested_at - T0) for row in found] == [(1.0, 50), (2.0, 51), (1.0, 60)]


def test_start_of_a_stream_is_its_first_row(store: Warehouse, venue_name: str) -> None:
    """Per source, version and name, over all time."""
    rows = [signal(venue_name), signal(venue_name, version="2")]
    for at, row in ((40, rows[0]), (30, rows[1]), (50, replace(rows[1], symbol="A"))):
        store.insert_signals([row], ingested_at=T0 + at)
    assert store.signals_stored_since([venue_name]) == {
        (venue_name, "1", "n"): T0 + 40,
        (venue_name, "2", "n"): T0 + 30,
    }


def test_nothing_to_insert_is_fine(store: Warehouse, venue_name: str) -> None:
    """An empty list writes nothing and fails nowhere."""
    store.insert_gaps([], venue=venue_name, interval_ms=HOUR)
    store.insert_quotes([], venue=venue_name)
    store.insert_books([], venue=venue_name)
    store.insert_listing_changes([], venue=venue_name)
    assert store.insert_signals([], ingested_at=T0) == 0


def test_missing_bars_come_as_ranges_of_one_kind(store: Warehouse, venue_name: str) -> None:
    """What nothing is recorded about is fetchable; nothing lies outside the first and last bar."""
    insert(store, venue_name, bar(0), bar(1), bar(7), bar(9), bar(3, "B"), bar(5, "B"))
    absent = [gap(hour, GapKind.ABSENT) for hour in (3, 4)]
    came = replace(gap(8, GapKind.ABSENT), closed_at=5)
    store.insert_gaps([*absent, came, gap(12)], venue=venue_name, interval_ms=HOUR)
    expected = [("A", GapKind.FETCHABLE, 2, 2), ("A", GapKind.ABSENT, 3, 4)]
    expected += [("A", GapKind.FETCHABLE, 5, 6), ("A", GapKind.FETCHABLE, 8, 8)]
    expected += [("B", GapKind.FETCHABLE, 4, 4)]
    ranges = tuple(
        GapRange(
            symbol=symbol,
            kind=kind,
            first_open_time=first * HOUR,
            last_open_time=last * HOUR,
            bars=last - first + 1,
        )
        for symbol, kind, first, last in expected
    )
    assert store.gap_ranges(venue=venue_name, interval_ms=HOUR) == ranges
    assert store.gap_ranges(venue=venue_name, interval_ms=HOUR, symbols=["B"]) == ranges[-1:]


def test_quarantine_is_counted_by_symbol_and_defect(store: Warehouse, venue_name: str) -> None:
    """Symbols without any bar are counted too."""
    refused = [
        (bar(0), BarDefect.NOT_FINITE),
        (bar(1), BarDefect.NOT_FINITE),
        (bar(1, "B"), BarDefect.MISALIGNED),
    ]
    store.quarantine.insert(refused, venue=venue_name, interval_ms=HOUR, ingested_at=1)
    assert store.quarantine.counts(venue=venue_name, interval_ms=HOUR) == {
        ("A", "not_finite"): 2,
        ("B", "open_time_not_aligned"): 1,
    }


def test_quarantined_rows_are_listed_as_they_came(store: Warehouse, venue_name: str) -> None:
    """Refused last first, at most as many as asked for, with their key, defect and content."""
    place: dict[str, Any] = {"venue": venue_name, "interval_ms": HOUR}
    store.quarantine.insert([(bar(1), BarDefect.NOT_FINITE)], ingested_at=1, **place)
    store.quarantine.insert([(bar(0, "B"), BarDefect.MISALIGNED)], ingested_at=2, **place)
    selection = QuarantineFilter(venues=(venue_name,))
    newest, oldest = store.quarantine.rows(selection, limit=9)
    assert (oldest.kind, oldest.symbol, oldest.time, oldest.refused_at) == ("bars", "A", HOUR, 1)
    assert (oldest.venue, oldest.interval_ms, oldest.defect) == (venue_name, HOUR, "not_finite")
    assert json.loads(oldest.content)["close"] == 11.0
    assert store.quarantine.rows(selection, limit=1) == (newest,)
    assert store.quarantine.count(selection) == 2


@pytest.mark.parametrize(
    ("changes", "hours"),
    [
        ({}, [0, 1, 2, 3]),
        ({"symbols": ("B",)}, [2]),
        ({"kinds": ("mark_bars",)}, [3]),
        ({"defects": ("not_finite", "conflicting_rows")}, [0, 1]),
        ({"since": HOUR, "until": 3 * HOUR}, [1, 2]),
        ({"interval_ms": HOUR, "symbols": ("A", "B"), "until": HOUR}, [0]),
        ({"interval_ms": 5}, []),
    ],
)
def test_what_a_filter_selects_is_what_is_cleared(
    store: Warehouse, venue_name: str, changes: dict[str, Any], hours: list[int]
) -> None:
    """Everything that is given must hold; the count is of rows removed, the others stay."""
    place: dict[str, Any] = {"venue": venue_name, "interval_ms": HOUR, "ingested_at": 1}
    refused = [
        *((bar(0), BarDefect.NOT_FINITE), (bar(1), BarDefect.NOT_FINITE)),
        (bar(2, "B"), BarDefect.MISALIGNED),
    ]
    for _ in range(2):
        store.quarantine.insert(refused, **place)
    store.quarantine.insert([(bar(3), BarDefect.NOT_POSITIVE)], kind="mark_bars", **place)
    every = QuarantineFilter(venues=(venue_name,))
    selection = replace(every, **changes)
    found = store.quarantine.rows(selection, limit=9)
    assert sorted(row.time // HOUR for row in found) == hours
    assert store.quarantine.clear(selection) == len(hours)
    left = store.quarantine.rows(every, limit=9)
    assert sorted(row.time // HOUR for row in left) == sorted({0, 1, 2, 3} - set(hours))
    assert store.quarantine.clear(selection) == 0


def test_a_cleared_row_that_is_refused_again_is_there_again(
    store: Warehouse, venue_name: str
) -> None:
    """Clearing forgets rows, it forgives none."""
    place: dict[str, Any] = {"venue": venue_name, "interval_ms": HOUR, "ingested_at": 1}
    selection = QuarantineFilter(venues=(venue_name,))
    for _ in range(2):
        store.quarantine.insert([(bar(0), BarDefect.NOT_FINITE)], **place)
        assert store.quarantine.clear(selection) == 1


def test_settlements_are_covered_without_bars(store: Warehouse, venue_name: str) -> None:
    """First and last nominal time, how many, those without a mark, and whether there are bars."""
    rows = [settlement(3), settlement(8 * HOUR + 5, 50.0), settlement(HOUR, symbol="B")]
    store.insert_settlements(rows, venue=venue_name, ingested_at=1)
    insert(store, venue_name, bar(0, "B"))
    a, b = store.settlement_coverage(venue=venue_name)
    assert (a.symbol, a.first_nominal_time, a.last_nominal_time) == ("A", 0, 8 * HOUR)
    assert (a.settlements, a.settlements_without_mark, a.has_bars) == (2, 1, False)
    assert (b.symbol, b.settlements, b.has_bars) == ("B", 1, True)
    assert venue_name in store.settlement_venues()


def test_read_that_takes_too_long_says_so(
    store: Warehouse, venue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends it, and the message names the remedy."""
    from market import connection
    from market.warehouse import WarehouseError

    monkeypatch.setattr(connection, "READ_LIMIT_SECONDS", 1)
    endless = "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 7"
    with pytest.raises(WarehouseError, match="ask for a shorter time or fewer symbols"):
        store._connection.rows(endless, {})


def test_stored_row_with_an_absurd_lag_is_never_read(store: Warehouse, venue_name: str) -> None:
    """An earlier program stored such rows; they must not stop every decision since."""
    store.insert_signals([signal(venue_name)], ingested_at=T0 + 10)
    store._command(
        "INSERT INTO signals (source, version, name, symbol, event_time, published_at, "
        f"ingested_at, value, is_backfilled, lag_ms) VALUES ('{venue_name}', '1', 'n', '', "
        f"{T0}, {T0 + 4}, {T0 + 9}, 2.0, true, {2**63 - 1})"
    )
    (found,) = store.signals(sources=[venue_name], since=0, until=T0 + 99)
    assert found.value == 1.0
    assert store.signals_stored_since([venue_name]) == {(venue_name, "1", "n"): T0 + 10}


def test_two_values_of_one_key_in_one_insert_both_stay(store: Warehouse, venue_name: str) -> None:
    """The later one is the revision, and is stamped later."""
    rows = [signal(venue_name, value) for value in (1.0, 2.0, 2.0)]
    assert store.insert_signals(rows, ingested_at=T0 + 10) == 2
    found = store.signals(sources=[venue_name], since=0, until=T0 + 99)
    assert [(row.value, row.ingested_at - T0) for row in found] == [(1.0, 10), (2.0, 11)]


def test_newest_event_of_a_source_and_version(store: Warehouse, venue_name: str) -> None:
    """Only rows that were published by then count; without any there is none."""
    rows = [
        signal(venue_name, event_time=T0 + hour * HOUR, published_at=T0 + hour * HOUR)
        for hour in (1, 3, 2)
    ]
    store.insert_signals(rows, ingested_at=T0 + 9 * HOUR)
    newest = [
        store.newest_signal_event(venue_name, "1", until=T0 + hour * HOUR) for hour in (1, 3, 4)
    ]
    assert newest == [None, T0 + 2 * HOUR, T0 + 3 * HOUR]
    assert store.newest_signal_event(venue_name, "2", until=T0 + 9 * HOUR) is None


def test_contradicting_rows_of_one_time_are_both_kept(store: Warehouse, venue_name: str) -> None:
    """Quarantine keeps each row as it came, and the same one once."""
    refused = [(bar(0, close=close), BarDefect.CONFLICTING) for close in (11.0, 12.0, 11.0)]
    for _ in range(2):
        store.quarantine.insert(refused, venue=venue_name, interval_ms=HOUR, ingested_at=1)
    counts = store.quarantine.counts(venue=venue_name, interval_ms=HOUR)
    assert counts == {("A", "conflicting_rows"): 2}


def test_refused_signals_are_kept_as_they_came(store: Warehouse, venue_name: str) -> None:
    """They have no venue and perhaps no times: their content is all there is."""
    _, refused = read_signals([{"source": venue_name, "value": "x"}, {"source": venue_name}])
    for _ in range(2):
        store.insert_refused_signals(refused, ingested_at=1)
    found = store._connection.rows(
        "SELECT defect, content FROM quarantine FINAL WHERE kind = 'signals' "
        "AND position(content, {source:String}) > 0 ORDER BY length(content)",
        {"source": venue_name},
    )
    assert [json.loads(content) for _, content in found] == [
        {"source": venue_name},
        {"source": venue_name, "value": "x"},
    ]
