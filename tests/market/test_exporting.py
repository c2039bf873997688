"""What is exported comes back as it was, and a file is whole or not there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from market import exporting
from market.bar import HOUR_MS
from market.exporting import IMPORTABLE, ExportKind, ExportRefused, Selection, export_file
from market.gap import GapKind
from market.importing import import_file
from market.tables import BARS, Span
from market.warehouse import Warehouse
from tests.market.stored_market import (
    BTC,
    END,
    ETH,
    HOURS,
    PLACE,
    SETTLED,
    T0,
    USDM,
    bar,
    book,
    gap,
    marked,
    quote,
    signal,
    store,
)


@pytest.fixture
def filled(empty_warehouse: Warehouse) -> Warehouse:
    """Something of every kind."""
    store(empty_warehouse, [bar(hour, one) for one in (BTC, ETH) for hour in range(HOURS)])
    store_marks = [marked(hour, one) for one in (BTC, ETH) for hour in range(3, HOURS)]
    empty_warehouse.insert_mark_bars(store_marks, ingested_at=END, **PLACE)
    empty_warehouse.insert_settlements(SETTLED, venue=USDM.value, ingested_at=END)
    empty_warehouse.insert_signals([signal(1, ""), signal(2, BTC)], ingested_at=END)
    empty_warehouse.insert_gaps([gap(6, GapKind.DEFERRED)], **PLACE)
    empty_warehouse.insert_quotes([quote(T0 + HOUR_MS)], venue=USDM.value)
    empty_warehouse.insert_books([book(T0 + HOUR_MS)], venue=USDM.value)
    return empty_warehouse


def everything(**changes: Any) -> Selection:
    """All that is filled in."""
    whole = Selection(
        venue=USDM, interval_ms=HOUR_MS, symbols=(BTC, ETH), since=T0, until=END + HOUR_MS
    )
    return replace(whole, **changes)


def contents(warehouse: Warehouse) -> dict[str, object]:
    """Every importable row, as stored."""
    span: dict[str, Any] = {"since": T0, "until": END + HOUR_MS}
    rows = warehouse.stored_rows(BARS, [BTC, ETH], Span(USDM.value, HOUR_MS, T0, END))
    return {
        "bars": sorted(rows.to_pylist(), key=lambda row: (row["symbol"], row["open_time"])),
        "marks": [warehouse.mark_bar_times(one, **PLACE, **span).tolist() for one in (BTC, ETH)],
        "settlements": warehouse.settlements([BTC], **PLACE, **span),
        "signals": warehouse.signals(**span),
    }


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_what_is_exported_and_imported_is_what_was_there(
    filled: Warehouse, tmp_path: Path, suffix: str
) -> None:
    """Bars, mark candles, settlements and signals, in a fresh store, bit for bit."""
    before = contents(filled)
    paths = [tmp_path / f"{kind.value}.{suffix}" for kind in IMPORTABLE]
    rows = [
        export_file(path, kind, filled, everything())
        for path, kind in zip(paths, IMPORTABLE, strict=True)
    ]
    assert rows == [2 * HOURS, 2 * (HOURS - 3), 2, 2]
    for table in ("bars", "mark_bars", "settlements", "signals"):
        filled._command(f"TRUNCATE TABLE {table}")
    summaries = [import_file(path, filled, ingested_at=END) for path in paths]
    assert [summary.written for summary in summaries] == rows
    assert [summary.kind.value for summary in summaries] == [kind.value for kind in IMPORTABLE]
    assert contents(filled) == before


def test_a_signal_never_counts_earlier_where_it_is_imported(
    empty_warehouse: Warehouse, tmp_path: Path
) -> None:
    """A live row counts from its ingestion, a revision too; history keeps its declared lag."""
    old, new = signal(1, ""), replace(signal(3, ""), is_backfilled=False, lag_ms=0)
    late = replace(signal(2, ""), lag_ms=9 * HOUR_MS)
    steps = [(old, 5), (new, 6), (replace(old, value=7.0), 8), (late, 20)]
    for row, hour in steps:
        empty_warehouse.insert_signals([row], ingested_at=T0 + hour * HOUR_MS)
    path = tmp_path / "signals.csv"
    export_file(path, ExportKind.SIGNALS, empty_warehouse, everything())
    empty_warehouse._command("TRUNCATE TABLE signals")
    import_file(path, empty_warehouse, ingested_at=T0 + 30 * HOUR_MS)
    found = empty_warehouse.signals(since=T0, until=END + HOUR_MS)
    assert {(row.value, row.available_at) for row in found} == {
        (old.value, old.published_at + 1_500),
        (7.0, T0 + 8 * HOUR_MS),
        (late.value, T0 + 20 * HOUR_MS),
        (new.value, T0 + 6 * HOUR_MS),
    }


def test_what_came_after_the_beginning_counts_elsewhere_from_its_storing(
    empty_warehouse: Warehouse, tmp_path: Path
) -> None:
    """It claims to be older than its stream, and was missing from every decision since."""
    first, late = signal(1, ""), signal(2, "")
    for row, hour in ((first, 5), (late, 8)):
        empty_warehouse.insert_signals([row], ingested_at=T0 + hour * HOUR_MS)
    assert exported_lags(empty_warehouse, tmp_path) == [
        first.lag_ms / 1000,
        (T0 + 8 * HOUR_MS - late.published_at) / 1000,
    ]


def test_the_pieces_of_one_import_began_together(
    empty_warehouse: Warehouse, tmp_path: Path
) -> None:
    """No bar closed between their stamps, so no decision missed any of them."""
    first, revised = signal(1, ""), replace(signal(1, ""), value=7.0)
    second = signal(2, "")
    empty_warehouse.insert_signals([first, revised], ingested_at=T0 + 5 * HOUR_MS + 1)
    empty_warehouse.insert_signals([second], ingested_at=T0 + 5 * HOUR_MS + 20_000)
    assert exported_lags(empty_warehouse, tmp_path) == [1.5, 1.5, 1.5]


def exported_lags(warehouse: Warehouse, folder: Path) -> list[float]:
    """The lags of the exported signals in seconds, by time of publication."""
    path = folder / "signals.parquet"
    export_file(path, ExportKind.SIGNALS, warehouse, everything())
    lags: list[float] = pq.read_table(path)["lag_seconds"].to_pylist()
    return lags


def test_long_exports_are_read_in_pieces(
    filled: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece once and in order, with its progress; the range's end is not part of it."""
    monkeypatch.setattr(exporting, "CHUNK_ROWS", 5)
    shown: list[tuple[int, int]] = []
    path = tmp_path / "bars.parquet"
    chosen = everything(symbols=(ETH,), since=T0 + HOUR_MS, until=END)
    rows = export_file(
        path, ExportKind.BARS, filled, chosen, progress=lambda *done: shown.append(done)
    )
    times = pq.read_table(path)["open_time"].to_pylist()
    assert times == [T0 + hour * HOUR_MS for hour in range(1, HOURS)]
    assert (rows, shown) == (HOURS - 1, [(1, 3), (2, 3), (3, 3)])


def test_gaps_quotes_and_books_come_out_as_they_are(filled: Warehouse, tmp_path: Path) -> None:
    """With every field; levels as JSON, and nothing where the venue gave nothing."""
    rows = {}
    for kind in (ExportKind.GAPS, ExportKind.QUOTES, ExportKind.BOOKS):
        path = tmp_path / f"{kind.value}.parquet"
        assert export_file(path, kind, filled, everything()) == 1
        rows[kind] = pq.read_table(path).to_pylist()[0]
    assert rows[ExportKind.GAPS]["kind"] == "deferred"
    assert rows[ExportKind.GAPS]["closed_at"] is None
    assert rows[ExportKind.QUOTES]["ask_quantity"] is None
    assert rows[ExportKind.QUOTES]["mark_price"] == 1.55
    assert json.loads(rows[ExportKind.BOOKS]["asks"]) == [[1.6, 1.0], [1.7, 0.5]]


def test_a_file_is_replaced_only_on_demand(filled: Warehouse, tmp_path: Path) -> None:
    """Refused before a row is read; with ``force`` the new rows stand there."""
    path = tmp_path / "bars.csv"
    path.write_text("mine")
    with pytest.raises(ExportRefused, match="--force"):
        export_file(path, ExportKind.BARS, filled, everything())
    assert path.read_text() == "mine"
    export_file(path, ExportKind.BARS, filled, everything(), force=True)
    assert len(path.read_text().splitlines()) == 1 + 2 * HOURS


def test_a_failed_export_leaves_nothing_behind(filled: Warehouse, tmp_path: Path) -> None:
    """Neither a half file nor a temporary one, and an older file stays whole."""
    path = tmp_path / "bars.parquet"
    path.write_text("older")

    def fail(_done: int, _total: int) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        export_file(path, ExportKind.BARS, filled, everything(), force=True, progress=fail)
    assert [one.name for one in tmp_path.iterdir()] == ["bars.parquet"]
    assert path.read_text() == "older"


@pytest.mark.parametrize("name", ["bars.txt", "absent/bars.csv"])
def test_a_name_that_cannot_be_written_to_is_refused(
    filled: Warehouse, tmp_path: Path, name: str
) -> None:
    """Another suffix, or a folder that is not there."""
    with pytest.raises(ExportRefused):
        export_file(tmp_path / name, ExportKind.BARS, filled, everything())
