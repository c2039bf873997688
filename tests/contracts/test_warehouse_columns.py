"""Whole columns in and out: Arrow tables and float32 tensors, over every client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market import inserts, reads
from market.bar import HOUR_MS, MINUTE_MS, Bar, MarkBar, MarkSource, Settlement
from market.warehouse import Origin, Warehouse, Written
from tests.contracts.rows import bar, closes, insert, mark_bar, settlement

HOUR = HOUR_MS
_NUMBERS = count()


def table(rows: Sequence[Bar | MarkBar | Settlement]) -> pa.Table:
    """The rows by column, as an importer gives them."""
    return pa.Table.from_pylist([asdict(row) for row in rows])


def insert_table(store: Warehouse, venue: str, rows: pa.Table, at: int = 100) -> int:
    """Store hourly bars by column; the number written."""
    return store.insert_bar_table(
        rows, venue=venue, interval_ms=HOUR, origin=Origin.REST, ingested_at=at
    ).rows


def stored(store: Warehouse, venue: str) -> list[object]:
    """Every bar and every replaced version of symbols A and B."""
    scope: dict[str, Any] = {"venue": venue, "interval_ms": HOUR, "since": 0, "until": 9 * HOUR}
    rows = store._connection.rows(
        "SELECT * EXCEPT venue FROM bars FINAL WHERE venue = {venue:String} "
        "AND interval_ms = {interval_ms:Int64} ORDER BY symbol, open_time",
        scope,
    )
    return [*rows, *(store.revisions(symbol, **scope) for symbol in "AB")]


def test_repeated_columns_write_nothing(store: Warehouse, venue_name: str) -> None:
    """Equal rows are no news, whichever way they were stored."""
    bars = [bar(0), replace(bar(1), trades=3, quote_volume=5.5), bar(1, "B")]
    assert insert_table(store, venue_name, table(bars)) == 3
    assert insert_table(store, venue_name, table(bars), at=200) == 0
    assert insert(store, venue_name, *bars, at=300) == 0
    assert closes(store, venue_name, 2, "A", "B")[1] == [11.0, 11.0]


def test_different_row_becomes_a_revision(store: Warehouse, venue_name: str) -> None:
    """By the same rule as single rows: the old version stays readable."""
    insert(store, venue_name, bar(0), bar(1))
    assert insert_table(store, venue_name, table([bar(0), bar(1, close=12.0), bar(2)]), 200) == 2
    assert closes(store, venue_name, 3) == [[11.0], [12.0], [11.0]]
    (old,) = store.revisions("A", venue=venue_name, interval_ms=HOUR, since=0, until=9 * HOUR)
    assert (old.time, old.ingested_at, old.superseded_at) == (HOUR, 100, 200)


def test_revised_rows_are_counted_apart_from_new_ones(store: Warehouse, venue_name: str) -> None:
    """Two stored bars come with another close and an equal one, beside two new ones."""
    place: dict[str, Any] = {"venue": venue_name, "interval_ms": HOUR, "origin": Origin.IMPORT}
    store.insert_bar_table(table([bar(0), bar(1)]), ingested_at=1, **place)
    later = table([bar(0, close=12.0), bar(1), bar(2), bar(3)])
    written = store.insert_bar_table(later, ingested_at=2, **place)
    assert written == Written(new=2, revised=1)
    assert written.rows == 3


def test_columns_that_a_file_lacks_are_unknown(store: Warehouse, venue_name: str) -> None:
    """A missing optional column, null and NaN are the same, and erase nothing."""
    full = replace(bar(0), trades=3, quote_volume=5.5)
    insert(store, venue_name, full)
    without = table([bar(0), bar(1)]).drop_columns(["trades", "taker_buy_volume"])
    nan = pa.array([np.nan, np.nan])
    without = without.set_column(without.column_names.index("quote_volume"), "quote_volume", nan)
    assert insert_table(store, venue_name, without, at=200) == 1
    panel = store.load_panel(["A"], venue=venue_name, interval_ms=HOUR, since=0, until=2 * HOUR)
    np.testing.assert_array_equal(panel.quote_volume, [[5.5], [np.nan]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"close": None}, "a close that is not finite"),
        ({"close": float("inf")}, "a close that is not finite"),
        ({"symbol": None}, "an empty symbol"),
        ({"open_time": 7}, "not aligned"),
        ({"volume": "much"}, "the column volume is not double"),
    ],
)
def test_unsound_columns_are_refused_as_a_whole(
    warehouse: Warehouse, venue_name: str, change: dict[str, object], message: str
) -> None:
    """What no importer may hand over is an error before anything is written."""
    rows = pa.Table.from_pylist([asdict(bar(0)) | change])
    with pytest.raises(ValueError, match=message):
        insert_table(warehouse, venue_name, rows)
    assert np.isnan(closes(warehouse, venue_name, 1)).all()


def test_missing_column_is_named(warehouse: Warehouse, venue_name: str) -> None:
    """Prices and volume are not optional."""
    with pytest.raises(ValueError, match="the column volume is missing"):
        insert_table(warehouse, venue_name, table([bar(0)]).drop_columns(["volume"]))


_bars = st.lists(
    st.builds(
        lambda hour, symbol, close, trades, quoted: replace(
            bar(hour, symbol, close), trades=trades, quote_volume=quoted
        ),
        st.integers(0, 3),
        st.sampled_from("AB"),
        st.sampled_from([9.5, 10.5]),
        st.sampled_from([None, 1, 2]),
        st.sampled_from([None, 7.5]),
    ),
    max_size=8,
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(inserts_of=st.lists(_bars, min_size=1, max_size=3), size=st.sampled_from([2, 1000]))
def test_columns_and_rows_store_the_same(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, inserts_of: list[list[Bar]], size: int
) -> None:
    """Whatever comes, twice, revised or repeated: both ways leave the same rows and revisions."""
    one, other = (f"pair_{next(_NUMBERS)}" for _ in range(2))
    monkeypatch.setattr(inserts, "COLUMNAR_ROWS", size)
    for at, bars in enumerate(inserts_of):
        empty = table([bar(0)]).slice(0, 0)
        written = insert_table(warehouse, other, table(bars) if bars else empty, at=100 * at)
        assert written == insert(warehouse, one, *bars, at=100 * at)
    assert stored(warehouse, other) == stored(warehouse, one)


_settlements = st.lists(
    st.builds(
        lambda minute, jitter, rate, mark: Settlement(
            symbol="A",
            funding_time=minute * MINUTE_MS + jitter,
            rate=rate,
            mark_price=None if mark is None else mark[0],
            mark_source=MarkSource.UNKNOWN if mark is None else mark[1],
        ),
        st.integers(0, 2),
        st.sampled_from([0, 7]),
        st.sampled_from([0.001, 0.002]),
        st.sampled_from(
            [None, (5.0, MarkSource.VENUE), (5.0, MarkSource.BAR_OPEN), (6.0, MarkSource.BAR_OPEN)]
        ),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(inserts_of=st.lists(_settlements, min_size=1, max_size=3))
def test_columns_and_rows_store_the_same_settlements(
    warehouse: Warehouse, inserts_of: list[list[Settlement]]
) -> None:
    """Jitter, worse marks and new rates have the same end both ways."""
    one, other = (f"pair_{next(_NUMBERS)}" for _ in range(2))
    for at, rows in enumerate(inserts_of):
        by_row = warehouse.insert_settlements(rows, venue=one, ingested_at=at)
        by_column = warehouse.insert_settlement_table(table(rows), venue=other, ingested_at=at)
        assert by_column.rows == by_row
    scope: dict[str, Any] = {"interval_ms": HOUR, "since": 0, "until": HOUR}
    found = [warehouse.settlements(["A"], venue=venue, **scope) for venue in (one, other)]
    assert found[0] == found[1]


def test_mark_candles_by_column(store: Warehouse, venue_name: str) -> None:
    """Stored like single candles."""
    candles = table([mark_bar(0, 7.0), mark_bar(1, 8.0)])
    for expected, rows in ((2, candles), (0, candles), (1, table([mark_bar(1, 9.0)]))):
        written = store.insert_mark_bar_table(
            rows, venue=venue_name, interval_ms=HOUR, ingested_at=1
        )
        assert written.rows == expected
    panel = store.load_panel(["A"], venue=venue_name, interval_ms=HOUR, since=0, until=2 * HOUR)
    assert panel.mark_open.tolist() == [[7.0], [9.0]]


def test_settlements_by_column(store: Warehouse, venue_name: str) -> None:
    """One per nominal time; jitter is no news, a better mark is, a worse one is not."""
    first = [settlement(3), settlement(HOUR + 9, 50.0)]
    better = [settlement(41, 99.0), settlement(HOUR)]
    for expected, rows in ((2, first), (0, [settlement(30), first[1]]), (1, better), (0, better)):
        written = store.insert_settlement_table(table(rows), venue=venue_name, ingested_at=1)
        assert written.rows == expected
    found = store.settlements(["A"], venue=venue_name, interval_ms=HOUR, since=0, until=9 * HOUR)
    assert [(item.mark_price, item.mark_source) for item in found] == [
        (99.0, MarkSource.VENUE),
        (50.0, MarkSource.VENUE),
    ]


def test_settlement_whose_mark_contradicts_its_source(
    warehouse: Warehouse, venue_name: str
) -> None:
    """A price without a source is refused, as for single rows."""
    rows = pa.Table.from_pylist([asdict(settlement(3)) | {"mark_price": 5.0}])
    with pytest.raises(ValueError, match="contradicts its source"):
        warehouse.insert_settlement_table(rows, venue=venue_name, ingested_at=1)


def test_tensor_holds_what_the_panel_holds(store: Warehouse, venue_name: str) -> None:
    """(T, N, C) in the order asked for, as float32, NaN where there is no bar or no value."""
    rich = replace(bar(2), trades=3, quote_volume=0.1)
    insert(store, venue_name, bar(0), rich, bar(1, "B", 8.0), bar(5))
    scope: dict[str, Any] = {
        "venue": venue_name,
        "interval_ms": HOUR,
        "since": 1,
        "until": 5 * HOUR,
    }
    columns = ("close", "trades", "quote_volume")
    tensor = store.load_tensor(["B", "A"], columns=columns, **scope)
    panel = store.load_panel(["B", "A"], **scope)
    expected = np.stack([getattr(panel, name) for name in columns], axis=-1)
    assert tensor.shape == (4, 2, 3)
    assert tensor.dtype == np.float32
    np.testing.assert_array_equal(tensor, expected.astype(np.float32))


def test_tensor_reads_the_last_revision(store: Warehouse, venue_name: str) -> None:
    """Also before the engine has merged the versions."""
    insert(store, venue_name, *(bar(hour) for hour in range(4)))
    insert(store, venue_name, bar(1, close=12.0), at=200)
    insert(store, venue_name, bar(1, close=13.0), at=300)
    tensor = store.load_tensor(
        ["A"], venue=venue_name, interval_ms=HOUR, since=0, until=4 * HOUR, columns=["close"]
    )
    assert tensor[:, 0, 0].tolist() == [11.0, 13.0, 11.0, 11.0]


def test_tensor_of_nothing_is_empty(store: Warehouse, venue_name: str) -> None:
    """No bar in the range, or no symbol, is not an error."""
    scope: dict[str, Any] = {"venue": venue_name, "interval_ms": MINUTE_MS}
    assert store.load_tensor(["A"], since=0, until=0, **scope).shape == (0, 1, 5)
    assert store.load_tensor([], since=0, until=HOUR, **scope).shape == (60, 0, 5)
    assert np.isnan(store.load_tensor(["A"], since=0, until=HOUR, **scope)).all()


def test_unknown_column_is_named(warehouse: Warehouse, venue_name: str) -> None:
    """The message says which there are."""
    with pytest.raises(ValueError, match="unknown columns .'vwap'.; known: open, high"):
        warehouse.load_tensor(
            ["A"], venue=venue_name, interval_ms=HOUR, since=0, until=HOUR, columns=["vwap"]
        )


@pytest.mark.parametrize("by_column", [True, False])
def test_rows_far_apart_are_compared_with_their_own_symbol_alone(
    empty_warehouse: Warehouse, venue_name: str, monkeypatch: pytest.MonkeyPatch, by_column: bool
) -> None:
    """Two symbols of different years: what is stored of both in all the time is not read."""
    years = [bar(hour, symbol) for symbol in "AB" for hour in range(6_000)]
    insert_table(empty_warehouse, venue_name, table(years))
    connection, read = empty_warehouse._connection, Counter[str]()

    def counting(name: str) -> Any:
        ask = getattr(connection, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            found = ask(*arguments, **options)
            read["rows"] += len(found)
            return found

        return counted

    for name in ("table", "rows"):
        monkeypatch.setattr(connection, name, counting(name))
    again = [bar(hour, "A") for hour in range(2_100)]
    again += [bar(hour, "B") for hour in range(5_990, 6_000)]
    if by_column:
        assert insert_table(empty_warehouse, venue_name, table(again), at=200) == 0
    else:
        assert insert(empty_warehouse, venue_name, *again, at=200) == 0
    assert read["rows"] == len(again)


def test_a_close_is_stored_while_a_long_panel_is_read(
    empty_warehouse: Warehouse, venue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two groups of symbols the lock is free: it is never held from one to the next."""
    monkeypatch.setattr(reads, "READ_CELLS", 1)
    insert(empty_warehouse, venue_name, bar(0, "A"), bar(0, "B"))
    connection = empty_warehouse._connection
    turns = Turns(connection.lock)
    monkeypatch.setattr(connection, "lock", turns)
    panel = empty_warehouse.load_panel(
        ["A", "B"], venue=venue_name, interval_ms=HOUR, since=0, until=2 * HOUR
    )
    assert panel.close[0].tolist() == [11.0, 11.0]
    assert turns.released == 3  # two groups, and the settlements


class Turns:
    """A lock that counts how often it is let go."""

    def __init__(self, lock: Any) -> None:
        self.lock, self.depth, self.released = lock, 0, 0

    def __enter__(self) -> None:
        self.lock.acquire()
        self.depth += 1

    def __exit__(self, *_: object) -> None:
        self.depth -= 1
        self.released += self.depth == 0
        self.lock.release()
