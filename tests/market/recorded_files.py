"""Small files of recorded data for the tests of the importers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from market.bar import HOUR_MS
from market.importing import ImportHints, ImportSummary, import_file
from market.warehouse import Coverage, Warehouse

START = 1_699_999_200_000  # 2023-11-14 22:00 UTC
NOW = START + 1_000 * HOUR_MS
VENUE = "binanceusdm"
HOURS = 5


def candles(symbol: str, **changes: list[Any]) -> dict[str, list[Any]]:
    """Columns of five hourly bars without quote volume."""
    columns: dict[str, list[Any]] = {
        "exchange": ["binance"] * HOURS,
        "market": ["perp"] * HOURS,
        "symbol": [symbol] * HOURS,
        "timeframe": ["1h"] * HOURS,
        "open_time": [START + hour * HOUR_MS for hour in range(HOURS)],
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
        "funding_time": [START + 7, START + 8 * HOUR_MS],
        "rate": [0.001, 0.002],
        "mark_price": [99.0, None],
        "mark_price_source": ["mark_1h_open", None],
    }
    return columns | changes


def write_parquet(folder: Path, columns: dict[str, list[Any]]) -> Path:
    """A Parquet file whose name says nothing."""
    path = folder / "file.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def write_csv(folder: Path, columns: dict[str, list[Any]]) -> Path:
    """A CSV file with the same columns; an empty cell is nothing."""
    path = folder / "file.csv"
    lines = [",".join(columns)]
    for row in zip(*columns.values(), strict=True):
        lines.append(",".join("" if cell is None else str(cell) for cell in row))
    path.write_text("\n".join(lines) + "\n")
    return path


def load(path: Path, warehouse: Warehouse, **hints: Any) -> ImportSummary:
    """Import without progress."""
    return import_file(path, warehouse, ingested_at=NOW, hints=ImportHints(**hints))


def covered(warehouse: Warehouse, symbol: str, *, venue: str = VENUE) -> Coverage | None:
    """What is stored of ``symbol``, if it has bars."""
    found = warehouse.coverage(venue=venue, interval_ms=HOUR_MS)
    return next((item for item in found if item.symbol == symbol), None)


def closes(warehouse: Warehouse, symbol: str, *, venue: str = VENUE) -> list[float]:
    """Closes of the five hours, NaN where there is no bar."""
    panel = warehouse.load_panel(
        [symbol], venue=venue, interval_ms=HOUR_MS, since=START, until=START + HOURS * HOUR_MS
    )
    values: list[float] = panel.close[:, 0].tolist()
    return values
