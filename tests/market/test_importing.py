"""Importing Parquet files in the shape of recorded market data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from market import importing
from market.bar import HOUR_MS, MarkSource
from market.importing import ImportKind, ImportRejected, ImportSummary, import_parquet
from market.warehouse import Coverage, Warehouse

RECORDED = Path(__file__).parents[3] / "shared" / "market"
VENUE = "binanceusdm"
HOURS = 5


@pytest.fixture
def symbol(venue_name: str) -> str:
    """A symbol that no other test uses: the files' exchange decides the venue."""
    return f"{venue_name.upper()}/USDT:USDT"


def candles(symbol: str, **changes: list[Any]) -> dict[str, list[Any]]:
    """Columns of five hourly bars without quote volume."""
    columns: dict[str, list[Any]] = {
        "exchange": ["binance"] * HOURS,
        "market": ["perp"] * HOURS,
        "symbol": [symbol] * HOURS,
        "timeframe": ["1h"] * HOURS,
        "open_time": [hour * HOUR_MS for hour in range(HOURS)],
        "open": [10.0] * HOURS,
        "high": [20.0] * HOURS,
        "low": [5.0] * HOURS,
        "close": [11.0, 12.0, 13.0, 14.0, 15.0],
        "volume": [2.0] * HOURS,
        "quote_volume": [None] * HOURS,
        "trades": [None, 7, None, None, None],
    }
    return columns | changes


def funding(symbol: str, **changes: list[Any]) -> dict[str, list[Any]]:
    """Columns of two settlements, the second without a mark."""
    columns: dict[str, list[Any]] = {
        "exchange": ["binance"] * 2,
        "symbol": [symbol] * 2,
        "funding_time": [7, 9 * HOUR_MS],
        "rate": [0.001, 0.002],
        "mark_price": [99.0, None],
        "mark_price_source": ["mark_1h_open", None],
    }
    return columns | changes


def write(tmp_path: Path, columns: dict[str, list[Any]]) -> Path:
    """A Parquet file whose name says nothing."""
    path = tmp_path / "file.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def covered(warehouse: Warehouse, symbol: str) -> Coverage | None:
    """What is stored of ``symbol``, if it has bars."""
    found = warehouse.coverage(venue=VENUE, interval_ms=HOUR_MS)
    return next((item for item in found if item.symbol == symbol), None)


def load(path: Path, warehouse: Warehouse) -> ImportSummary:
    """Import without progress."""
    return import_parquet(path, warehouse, ingested_at=1)


def test_bars_are_stored_under_the_venue_s_name(
    warehouse: Warehouse, symbol: str, tmp_path: Path
) -> None:
    """The files say binance, the perpetual venue is binanceusdm; empty cells become NaN."""
    summary = load(write(tmp_path, candles(symbol)), warehouse)
    assert (summary.kind, summary.rows, summary.written) == (ImportKind.BARS, 5, 5)
    panel = warehouse.load_panel(
        [symbol], venue=VENUE, interval_ms=HOUR_MS, since=0, until=HOURS * HOUR_MS
    )
    assert panel.close[:, 0].tolist() == [11.0, 12.0, 13.0, 14.0, 15.0]
    np.testing.assert_array_equal(panel.trades[:, 0], [np.nan, 7, np.nan, np.nan, np.nan])
    assert np.isnan(panel.quote_volume).all()


def test_second_import_writes_nothing(warehouse: Warehouse, symbol: str, tmp_path: Path) -> None:
    """Importing is idempotent, and the summary says what was unchanged."""
    path = write(tmp_path, candles(symbol))
    load(path, warehouse)
    again = load(path, warehouse)
    assert (again.rows, again.written, again.unchanged, again.rejected) == (5, 0, 5, 0)


def test_candles_without_any_volume_are_mark_prices(
    warehouse: Warehouse, symbol: str, tmp_path: Path
) -> None:
    """Mark files have the columns of bars, and no volume in any row."""
    columns = candles(symbol, volume=[None] * HOURS)
    columns["volume"] = pa.array(columns["volume"], pa.float64())
    summary = load(write(tmp_path, columns), warehouse)
    assert (summary.kind, summary.written) == (ImportKind.MARK_BARS, 5)
    times = warehouse.mark_bar_times(
        symbol, venue=VENUE, interval_ms=HOUR_MS, since=0, until=HOURS * HOUR_MS
    )
    assert len(times) == 5


def test_settlements_keep_where_their_mark_came_from(
    warehouse: Warehouse, symbol: str, tmp_path: Path
) -> None:
    """A recorded mark candle is no mark of the venue, and an empty cell is unknown."""
    summary = load(write(tmp_path, funding(symbol)), warehouse)
    assert (summary.kind, summary.written) == (ImportKind.SETTLEMENTS, 2)
    first, second = warehouse.settlements(
        [symbol], venue=VENUE, interval_ms=HOUR_MS, since=0, until=10 * HOUR_MS
    )
    assert (first.funding_time, first.mark_price) == (7, 99.0)
    assert (first.mark_source, second.mark_source) == (MarkSource.MARK_CANDLE, MarkSource.UNKNOWN)


def test_bad_rows_are_quarantined_and_counted(
    warehouse: Warehouse, symbol: str, tmp_path: Path
) -> None:
    """One unsound and one empty cell leave the other rows alone."""
    columns = candles(symbol, close=[11.0, 99.0, None, 14.0, 15.0])
    summary = load(write(tmp_path, columns), warehouse)
    assert (summary.written, summary.rejected, summary.unchanged) == (3, 2, 0)
    found = covered(warehouse, symbol)
    assert found is not None
    assert (found.bars, found.missing, found.quarantined) == (3, 2, 2)


def test_settlement_without_a_rate_is_rejected(
    warehouse: Warehouse, symbol: str, tmp_path: Path
) -> None:
    """A rate that is not a number is never stored as zero."""
    summary = load(write(tmp_path, funding(symbol, rate=[None, 0.002])), warehouse)
    assert (summary.written, summary.rejected) == (1, 1)


def test_missing_columns_are_named_and_nothing_is_written(
    warehouse: Warehouse, symbol: str, tmp_path: Path
) -> None:
    """The error names the file and every missing column."""
    columns = candles(symbol)
    del columns["close"], columns["volume"]
    path = write(tmp_path, columns)
    with pytest.raises(ImportRejected, match="close, volume") as caught:
        load(path, warehouse)
    assert str(path) in str(caught.value)
    assert caught.value.missing == ("close", "volume")
    assert covered(warehouse, symbol) is None


@pytest.mark.parametrize("content", [b"", b"open,close\n1,2\n", b"PAR1" + bytes(40) + b"PAR1"])
def test_file_that_is_no_parquet_is_rejected(
    warehouse: Warehouse, tmp_path: Path, content: bytes
) -> None:
    """The error names the file and says what it is not."""
    path = tmp_path / "bars.parquet"
    path.write_bytes(content)
    with pytest.raises(ImportRejected, match=r"bars\.parquet: not a readable Parquet file"):
        load(path, warehouse)


def test_absent_file_is_rejected(warehouse: Warehouse, tmp_path: Path) -> None:
    """A path with a typing error is named."""
    with pytest.raises(ImportRejected, match=r"nowhere\.parquet"):
        load(tmp_path / "nowhere.parquet", warehouse)


def test_damaged_data_are_found_before_anything_is_written(
    warehouse: Warehouse, symbol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage in the last rows of a file leaves no row of its first batch behind."""
    monkeypatch.setattr(importing, "BATCH_ROWS", 2)
    path = tmp_path / "file.parquet"
    table = pa.table(candles(symbol))
    pq.write_table(table, path, row_group_size=2, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    last = pq.ParquetFile(path).metadata.row_group(2).column(8)
    start = last.data_page_offset
    content[start : start + last.total_compressed_size] = bytes(last.total_compressed_size)
    path.write_bytes(content)
    with pytest.raises(ImportRejected, match="damaged"):
        load(path, warehouse)
    assert covered(warehouse, symbol) is None


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"market": ["perp"] * 4 + ["spot"]}, "spot accounts are not supported yet"),
        ({"market": ["future"] * 5}, "unknown market future"),
        ({"exchange": ["kraken"] * 5}, "unknown exchange kraken"),
        ({"timeframe": ["1h"] * 4 + ["7h"]}, "does not divide a day"),
        ({"symbol": [None] * 5}, "symbol has empty cells"),
        ({"symbol": ["A"] * 4 + [None]}, "symbol has empty cells"),
        ({"close": ["11"] * 5}, "close is string, not number"),
        ({"open_time": [0.5] * 5}, "open_time is double, not integer"),
    ],
)
def test_file_that_cannot_be_stored_as_a_whole_is_rejected(
    warehouse: Warehouse,
    symbol: str,
    tmp_path: Path,
    changes: dict[str, list[Any]],
    cause: str,
) -> None:
    """Unknown markets, venues, intervals and types are named, and nothing is written."""
    with pytest.raises(ImportRejected, match=cause):
        load(write(tmp_path, candles(symbol) | changes), warehouse)
    assert covered(warehouse, symbol) is None


def test_progress_counts_rows_up_to_the_total(
    warehouse: Warehouse, symbol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each batch: rows done, rows in the file."""
    monkeypatch.setattr(importing, "BATCH_ROWS", 2)
    calls: list[tuple[int, int]] = []
    import_parquet(
        write(tmp_path, candles(symbol)),
        warehouse,
        ingested_at=1,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(2, 5), (4, 5), (5, 5)]


def test_empty_file_imports_nothing(warehouse: Warehouse, symbol: str, tmp_path: Path) -> None:
    """No rows are not an error."""
    path = tmp_path / "file.parquet"
    pq.write_table(pa.table(candles(symbol)).slice(0, 0), path)
    summary = load(path, warehouse)
    assert (summary.rows, summary.written, summary.rejected) == (0, 0, 0)


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recorded market data are not here")
def test_recorded_data_arrive_as_they_are(warehouse: Warehouse, tmp_path: Path) -> None:
    """Real bars and settlements of one symbol equal what pyarrow reads from the files."""
    recorded = [("symbol", "==", "SOL/USDT:USDT")]
    bars = pq.read_table(RECORDED / "bars_bybit_perp_1h.parquet", filters=recorded)
    due = pq.read_table(RECORDED / "funding_bybit.parquet", filters=recorded)
    for table in (bars, due):
        pq.write_table(table, tmp_path / "file.parquet")
        summary = load(tmp_path / "file.parquet", warehouse)
        assert (summary.written, summary.rejected) == (len(table), 0)
    times = bars["open_time"].to_numpy()
    first, end = int(times.min()), int(times.max()) + HOUR_MS
    panel = warehouse.load_panel(
        ["SOL/USDT:USDT"], venue="bybit", interval_ms=HOUR_MS, since=first, until=end
    )
    rows = (times - first) // HOUR_MS
    for name in ("open", "high", "low", "close", "volume"):
        np.testing.assert_array_equal(getattr(panel, name)[rows, 0], bars[name].to_numpy())
    assert int(panel.observed.sum()) == len(bars)
    settled = due["funding_time"].to_numpy() // 60_000 * 60_000
    within = (settled >= first) & (settled < end)
    assert np.nansum(panel.funding_rate) == pytest.approx(due["rate"].to_numpy()[within].sum())
