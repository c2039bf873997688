"""Exports stored market data into Parquet or CSV files, in the form that the importers read.

Bars, mark candles, settlements and signals come out so that importing the file elsewhere gives the
same rows, signals never earlier than they could be used here; gaps, quotes and order books, which
nobody imports, come out as they are stored. A file has its name only once it is complete and on
disk. It must never replace a file unasked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from market.bar import DAY_MS, MINUTE_MS, interval_name
from market.instrument import Market, Venue
from market.revision import V
from market.signals import Signal, Stream
from market.tables import BARS, MARK_BARS, OPTIONAL, PRICES, SETTLEMENTS, TRADED, Span, Table
from market.warehouse import Warehouse

CHUNK_ROWS = 500_000  # candles in memory at once
FACTS_MS = 30 * DAY_MS  # quotes and the like are read by months

Progress = Callable[[int, int], None]

_SERIES = ("exchange", "market", "symbol", "timeframe")
_TEXTS = {
    *(*_SERIES, "source", "version", "name", "kind", "reason", "mark_price_source"),
    *("bids", "asks"),
}
_WHOLE = {
    *("open_time", "funding_time", "event_time", "published_at", "noticed_at", "updated_at"),
    *("closed_at", "available_at", "next_funding_time", "decision_time"),
    *("trades", "attempts", "update_id"),
}


class ExportKind(StrEnum):
    """What can be exported."""

    BARS = "bars"
    MARK_BARS = "mark_bars"
    SETTLEMENTS = "settlements"
    SIGNALS = "signals"
    GAPS = "gaps"
    QUOTES = "quotes"
    BOOKS = "books"


IMPORTABLE = (
    ExportKind.BARS,
    ExportKind.MARK_BARS,
    ExportKind.SETTLEMENTS,
    ExportKind.SIGNALS,
)
COLUMNS: dict[ExportKind, tuple[str, ...]] = {
    ExportKind.BARS: (*_SERIES, "open_time", *TRADED, *OPTIONAL),
    ExportKind.MARK_BARS: (*_SERIES, "open_time", *PRICES, "volume"),
    ExportKind.SETTLEMENTS: (
        *("exchange", "market", "symbol", "funding_time", "rate"),
        *("mark_price", "mark_price_source"),
    ),
    ExportKind.SIGNALS: (
        *("source", "version", "symbol", "event_time", "published_at", "name", "value"),
        "lag_seconds",
    ),
    ExportKind.GAPS: (
        *(*_SERIES, "open_time", "kind", "noticed_at", "updated_at", "attempts", "reason"),
        "closed_at",
    ),
    ExportKind.QUOTES: (
        *("exchange", "market", "symbol", "event_time", "available_at"),
        *("bid", "bid_quantity", "ask", "ask_quantity", "mark_price", "index_price"),
        *("predicted_funding_rate", "next_funding_time"),
    ),
    ExportKind.BOOKS: (
        *("exchange", "market", "symbol", "decision_time", "event_time", "available_at"),
        *("update_id", "bids", "asks"),
    ),
}


class ExportRefused(Exception):
    """The file cannot be written; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What to export: rows with since <= time < until.

    The time is ``open_time`` of bars and gaps, the nominal time of settlements, ``published_at``
    of signals, ``available_at`` of quotes and ``decision_time`` of books.
    """

    venue: Venue
    interval_ms: int
    symbols: tuple[str, ...]
    since: int
    until: int


def export_file(
    path: Path,
    kind: ExportKind,
    warehouse: Warehouse,
    selection: Selection,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write one kind of rows to one file and return how many.

    Args:
        path: its suffix, ``.parquet`` or ``.csv``, tells the format; folders above it must exist.
        kind: what to write. Mark candles have an empty column ``volume``, by which an importer
            knows them. Books have their levels as JSON.
        warehouse: open.
        selection: which rows.
        force: whether a file of that name is replaced.
        progress: called with the pieces read so far and their total.

    Raises:
        ExportRefused: the file exists, or has another suffix.
        OSError: the disk failed; nothing is left behind.
        WarehouseError: the store failed.
    """
    check_target(path, force=force)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        rows = _write(
            unfinished, path.suffix, schema_of(kind), _pieces(kind, warehouse, selection, progress)
        )
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        _publish(unfinished, path, force=force)
    finally:
        unfinished.unlink(missing_ok=True)
    return rows


def schema_of(kind: ExportKind) -> pa.Schema:
    """Return the columns of an exported file, in their order."""
    return pa.schema([(name, _type_of(name)) for name in COLUMNS[kind]])


def check_target(path: Path, *, force: bool) -> None:
    """Refuse a name that cannot be written to; see ``export_file``."""
    if path.suffix not in (".parquet", ".csv"):
        raise ExportRefused(f"{path}: unknown kind of file; expected .parquet or .csv")
    if not path.parent.is_dir():
        raise ExportRefused(f"{path.parent}: no such folder")
    if path.is_dir():
        raise ExportRefused(f"{path} is a folder")
    if path.exists() and not force:
        raise ExportRefused(f"{path} exists already; --force replaces it")


def _type_of(name: str) -> pa.DataType:
    if name in _TEXTS:
        return pa.string()
    return pa.int64() if name in _WHOLE else pa.float64()


def _publish(unfinished: Path, path: Path, *, force: bool) -> None:
    """Give the file its name, unless another program was quicker, and keep that on disk."""
    check_target(path, force=force)
    unfinished.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class _Writer(Protocol):
    def write_table(self, table: pa.Table) -> None: ...

    def close(self) -> None: ...


def _write(path: Path, suffix: str, schema: pa.Schema, pieces: Iterator[pa.Table]) -> int:
    writer: _Writer
    if suffix == ".csv":
        writer = pa_csv.CSVWriter(path, schema)
    else:
        writer = pq.ParquetWriter(path, schema, compression="zstd")
    rows = 0
    try:
        for piece in pieces:
            writer.write_table(piece.select(schema.names).cast(schema))
            rows += len(piece)
    finally:
        writer.close()
    return rows


def _pieces(
    kind: ExportKind, warehouse: Warehouse, selection: Selection, progress: Progress | None
) -> Iterator[pa.Table]:
    reads = list(_reads(kind, warehouse, selection))
    for number, read in enumerate(reads, start=1):
        yield read()
        if progress is not None:
            progress(number, len(reads))


def _reads(
    kind: ExportKind, warehouse: Warehouse, selection: Selection
) -> Iterator[Callable[[], pa.Table]]:
    """Yield the reads that bring all rows, each of a size that memory holds."""
    match kind:
        case ExportKind.BARS:
            yield from _row_reads(BARS, warehouse, selection)
        case ExportKind.MARK_BARS:
            yield from _row_reads(MARK_BARS, warehouse, selection)
        case ExportKind.SETTLEMENTS:
            yield from _row_reads(SETTLEMENTS, warehouse, selection)
        case _:
            for since, until in _cuts(selection, FACTS_MS):
                yield _fact_read(kind, warehouse, selection, since, until)


def _cuts(selection: Selection, step_ms: int) -> Iterator[tuple[int, int]]:
    for since in range(selection.since, selection.until, step_ms):
        yield since, min(since + step_ms, selection.until)


def _row_reads(
    table: Table[V], warehouse: Warehouse, selection: Selection
) -> Iterator[Callable[[], pa.Table]]:
    step_ms = CHUNK_ROWS * (selection.interval_ms if table.per_interval else MINUTE_MS)
    for symbol in selection.symbols:
        for since, until in _cuts(selection, step_ms):
            span = Span(selection.venue.value, selection.interval_ms, since, until)
            yield partial(_rows, table, warehouse, symbol, span, selection)


def _rows(
    table: Table[V], warehouse: Warehouse, symbol: str, span: Span, selection: Selection
) -> pa.Table:
    found = warehouse.stored_rows(table, [symbol], span)
    found = found.take(pc.sort_indices(found, sort_keys=[(table.time_column, "ascending")]))
    columns = _series(selection, len(found)) | {
        name: found[name] for name in ("symbol", *table.fields)
    }
    match table.name:
        case "settlements":
            columns["mark_price_source"] = columns.pop("mark_source")
        case "mark_bars":
            columns |= {
                "open_time": found["open_time"],
                "volume": pa.nulls(len(found), pa.float64()),
            }
        case _:
            columns["open_time"] = found["open_time"]
    return pa.table(columns)


def _series(selection: Selection, rows: int) -> dict[str, Any]:
    """The columns that say whose rows they are."""
    venue = selection.venue
    exchange = "bybit" if venue in (Venue.BYBIT, Venue.BYBITSPOT) else "binance"
    words = {
        "exchange": exchange,
        "market": "spot" if venue.market is Market.SPOT else "perp",
        "timeframe": interval_name(selection.interval_ms),
    }
    return {name: pa.repeat(pa.scalar(word, pa.string()), rows) for name, word in words.items()}


def _fact_read(
    kind: ExportKind, warehouse: Warehouse, selection: Selection, since: int, until: int
) -> Callable[[], pa.Table]:
    venue, symbols = selection.venue.value, selection.symbols

    def read() -> pa.Table:
        values: Sequence[Any]
        match kind:
            case ExportKind.SIGNALS:
                return _signal_table(warehouse, selection, since, until)
            case ExportKind.GAPS:
                values = warehouse.gaps(
                    venue=venue, interval_ms=selection.interval_ms, since=since, until=until,
                    symbols=symbols, open_only=False,
                )  # fmt: skip
            case ExportKind.QUOTES:
                values = warehouse.quotes(symbols, venue=venue, since=since, until=until)
            case _:
                values = warehouse.books(symbols, venue=venue, since=since, until=until)
        return _fact_table(kind, selection, [asdict(value) for value in values])

    return read


def _fact_table(kind: ExportKind, selection: Selection, rows: list[dict[str, Any]]) -> pa.Table:
    for row in rows:
        row |= {name: json.dumps(row[name]) for name in ("bids", "asks") if name in row}
    series = _series(selection, len(rows))
    known = {name: column for name, column in series.items() if name in COLUMNS[kind]}
    return _table([name for name in COLUMNS[kind] if name not in known], rows, known)


def _signal_table(warehouse: Warehouse, selection: Selection, since: int, until: int) -> pa.Table:
    """Signals of the chosen symbols and of the whole market."""
    found = [
        one
        for one in warehouse.signals(since=since, until=until)
        if one.symbol in ("", *selection.symbols)
    ]
    began = warehouse.signals_stored_since(sorted({one.source for one in found}))
    usable = _usable_since(found, began)
    rows = [
        asdict(one) | {"lag_seconds": (time - one.published_at) / 1000}
        for one, time in zip(found, usable, strict=True)
    ]
    return _table(COLUMNS[ExportKind.SIGNALS], rows, {})


def _usable_since(signals: Sequence[Signal], began: Mapping[Stream, int]) -> list[int]:
    """When each row first counted here, by the rule of ``market.signal_join``.

    Imported elsewhere every row is back-filled, and its lag alone says when it counts: it must
    never be earlier than it was here. What was stored when its stream began counts from
    ``available_at`` on. Everything else was missing from some decision between that beginning and
    its own storing, however early it claims to be, so it counts from the latter.

    Args:
        signals: rows of any streams.
        began: when each of these streams was first stored.
    """
    return [
        one.available_at
        if _no_close_between(began[one.stream], one.ingested_at)
        else max(one.available_at, one.ingested_at)
        for one in signals
    ]


def _no_close_between(since: int, until: int) -> bool:
    """Whether no bar closes, and so nothing is decided, at since <= t < until.

    The rows of one import have several stamps; every bar closes at a whole minute.
    """
    return (since - 1) // MINUTE_MS == (until - 1) // MINUTE_MS


def _table(names: Sequence[str], rows: Sequence[dict[str, Any]], known: dict[str, Any]) -> pa.Table:
    columns = {name: pa.array([row[name] for row in rows], _type_of(name)) for name in names}
    return pa.table(known | columns)
