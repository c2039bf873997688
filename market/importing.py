"""Imports recorded Parquet files into the warehouse: bars, mark candles and funding settlements.

What a file holds is told by its columns, never by its name. A file is checked as a whole before
anything is written; a bad row is quarantined with its reason and counted. Importing a file again
writes nothing.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from market.bar import (
    Bar,
    BarDefect,
    MarkBar,
    MarkSource,
    Settlement,
    bar_defect,
    interval_ms,
)
from market.instrument import Venue
from market.warehouse import Origin, Warehouse

log = structlog.get_logger()

BATCH_ROWS = 50_000

Progress = Callable[[int, int], None]
Record = dict[str, Any]

_PRICES = ("open", "high", "low", "close")
_CANDLE_KEYS = ("exchange", "market", "symbol", "timeframe", "open_time")
_CANDLE_COLUMNS = (*_CANDLE_KEYS, *_PRICES, "volume")
_CANDLE_OPTIONAL = ("quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")
_FUNDING_KEYS = ("exchange", "symbol", "funding_time")
_FUNDING_COLUMNS = (*_FUNDING_KEYS, "rate")
_FUNDING_OPTIONAL = ("mark_price", "mark_price_source")
_TEXTS = ("exchange", "market", "symbol", "timeframe", "mark_price_source")
_INTEGERS = ("open_time", "funding_time")
_VENUES = {"binance": Venue.BINANCEUSDM} | {venue.value: venue for venue in Venue}
# What the files call their marks; a word that is not here was not seen at the venue.
_MARK_SOURCES = {"venue": MarkSource.VENUE} | {"bar_open": MarkSource.BAR_OPEN}


class ImportKind(enum.StrEnum):
    """What the rows of a file are."""

    BARS = "bars"
    MARK_BARS = "mark_bars"
    SETTLEMENTS = "settlements"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSummary:
    """What became of a file's rows: rows = written + unchanged + rejected."""

    path: Path
    kind: ImportKind
    rows: int
    written: int
    unchanged: int
    rejected: int


class ImportRejected(Exception):
    """The file cannot be imported; ``missing`` names the columns it lacks, if that is why."""

    def __init__(self, path: Path, cause: str, *, missing: Sequence[str] = ()) -> None:
        """Say which file, why, and which columns are missing."""
        super().__init__(f"{path}: {cause}")
        self.path = path
        self.missing = tuple(missing)


def import_parquet(
    path: Path,
    warehouse: Warehouse,
    *,
    ingested_at: int,
    progress: Progress | None = None,
) -> ImportSummary:
    """Import one file.

    Args:
        path: Parquet with one row per candle (``exchange, market, symbol, timeframe, open_time,
            open, high, low, close, volume`` and optional volumes; a candle file without any volume
            holds mark prices) or per settlement (``exchange, symbol, funding_time, rate`` and
            optional ``mark_price, mark_price_source``). Times are UTC milliseconds.
        warehouse: where the rows go.
        ingested_at: UTC milliseconds stamped on every row.
        progress: called with the rows done and the rows in the file after each batch.

    Raises:
        ImportRejected: the file is no Parquet file, is damaged, lacks columns, or holds a market
            that is not supported; nothing was written.
        WarehouseError: the store failed.
    """
    file = _open(path)
    kind = _recognise(path, file)
    total = file.metadata.num_rows
    done = written = rejected = 0
    for records in _batches(file, kind):
        for venue, interval, series in _by_series(records):
            target = _Target(warehouse, venue, interval, ingested_at)
            stored, refused = _WRITERS[kind](target, series)
            written += stored
            rejected += refused
        done += len(records)
        if progress is not None:
            progress(done, total)
    log.info("file_imported", path=str(path), kind=kind.value, rows=total, written=written)
    return ImportSummary(
        path=path,
        kind=kind,
        rows=total,
        written=written,
        unchanged=total - written - rejected,
        rejected=rejected,
    )


def check_parquet(path: Path) -> ImportKind:
    """Tell what a file holds without importing it, so that several can be checked first.

    Raises:
        ImportRejected: as ``import_parquet`` would before it writes anything.
    """
    return _recognise(path, _open(path))


@dataclass(frozen=True, slots=True)
class _Target:
    """Where the rows of one series go."""

    warehouse: Warehouse
    venue: str
    interval_ms: int
    ingested_at: int

    def quarantine(self, rows: Sequence[tuple[Bar, BarDefect]], *, kind: ImportKind) -> None:
        self.warehouse.insert_quarantine(
            rows,
            venue=self.venue,
            interval_ms=self.interval_ms,
            ingested_at=self.ingested_at,
            kind=kind.value,
        )


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ImportRejected(path, f"not a readable Parquet file ({error})") from error


def _recognise(path: Path, file: pq.ParquetFile) -> ImportKind:
    """Tell the kind of the file, and reject what cannot be imported as a whole."""
    columns = set(file.schema_arrow.names)
    funding = "funding_time" in columns
    required = _FUNDING_COLUMNS if funding else _CANDLE_COLUMNS
    missing = [name for name in required if name not in columns]
    if missing:
        what = "settlements" if funding else "bars"
        raise ImportRejected(
            path, f"the columns {', '.join(missing)} of {what} are missing", missing=missing
        )
    _check_types(path, file.schema_arrow, (*required, *_CANDLE_OPTIONAL, *_FUNDING_OPTIONAL))
    volumes = 0
    for batch in _decoded(path, file):
        _check_keys(path, batch, _FUNDING_KEYS if funding else _CANDLE_KEYS)
        volumes += 0 if funding else len(batch["volume"]) - batch["volume"].null_count
    if funding:
        return ImportKind.SETTLEMENTS
    rows: int = file.metadata.num_rows
    return ImportKind.MARK_BARS if rows and not volumes else ImportKind.BARS


def _decoded(path: Path, file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    """Read the whole file once, so that damage anywhere is found before anything is written."""
    try:
        yield from file.iter_batches(batch_size=BATCH_ROWS)
    except (pa.ArrowException, OSError) as error:
        raise ImportRejected(path, f"damaged ({error})") from error


def _check_types(path: Path, schema: pa.Schema, names: Sequence[str]) -> None:
    for name in names:
        if name not in schema.names:
            continue
        kind = schema.field(name).type
        if not _accepts(name, kind):
            expected = "text" if name in _TEXTS else "integer" if name in _INTEGERS else "number"
            raise ImportRejected(path, f"the column {name} is {kind}, not {expected}")


def _accepts(name: str, kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind):
        return name not in _INTEGERS
    if name in _TEXTS:
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
    if name in _INTEGERS:
        return bool(pa.types.is_integer(kind))
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _check_keys(path: Path, batch: pa.RecordBatch, keys: Sequence[str]) -> None:
    for name in keys:
        if batch[name].null_count:
            raise ImportRejected(path, f"the column {name} has empty cells")
    unknown = sorted(set(_distinct(batch, "exchange")) - set(_VENUES))
    if unknown:
        raise ImportRejected(
            path, f"unknown exchange {', '.join(unknown)}; known are {', '.join(sorted(_VENUES))}"
        )
    if "market" not in keys:
        return
    markets = set(_distinct(batch, "market"))
    if "spot" in markets:
        raise ImportRejected(path, "it holds spot bars; spot accounts are not supported yet")
    if markets - {"perp"}:
        raise ImportRejected(path, f"unknown market {', '.join(sorted(markets - {'perp'}))}")
    for timeframe in _distinct(batch, "timeframe"):
        try:
            interval_ms(timeframe)
        except ValueError as error:
            raise ImportRejected(path, str(error)) from error


def _distinct(batch: pa.RecordBatch, name: str) -> list[str]:
    values: list[str] = pc.unique(batch[name]).to_pylist()
    return values


def _batches(file: pq.ParquetFile, kind: ImportKind) -> Iterator[list[Record]]:
    """Yield the rows in batches, in the file's order."""
    names = {
        ImportKind.BARS: (*_CANDLE_COLUMNS, *_CANDLE_OPTIONAL),
        ImportKind.MARK_BARS: (*_CANDLE_KEYS, *_PRICES),
        ImportKind.SETTLEMENTS: (*_FUNDING_COLUMNS, *_FUNDING_OPTIONAL),
    }[kind]
    present = [name for name in names if name in file.schema_arrow.names]
    for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=present):
        yield batch.to_pylist()


def _by_series(records: Sequence[Record]) -> list[tuple[str, int, list[Record]]]:
    """Group rows by venue and interval; 0 where no interval applies."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        key = (record["exchange"], record.get("timeframe", ""))
        groups.setdefault(key, []).append(record)
    return [
        (_VENUES[exchange].value, interval_ms(timeframe) if timeframe else 0, group)
        for (exchange, timeframe), group in groups.items()
    ]


def _write_bars(target: _Target, records: Sequence[Record]) -> tuple[int, int]:
    bars, refused = _sound(map(_bar, records), target.interval_ms)
    target.quarantine(refused, kind=ImportKind.BARS)
    written = target.warehouse.insert_bars(
        bars,
        venue=target.venue,
        interval_ms=target.interval_ms,
        origin=Origin.IMPORT,
        ingested_at=target.ingested_at,
    )
    return written, len(refused)


def _write_mark_bars(target: _Target, records: Sequence[Record]) -> tuple[int, int]:
    candles, refused = _sound(map(_bar_of_mark, records), target.interval_ms)
    target.quarantine(refused, kind=ImportKind.MARK_BARS)
    written = target.warehouse.insert_mark_bars(
        [
            MarkBar(
                symbol=candle.symbol,
                open_time=candle.open_time,
                open=candle.open,
                high=candle.high,
                low=candle.low,
                close=candle.close,
            )
            for candle in candles
        ],
        venue=target.venue,
        interval_ms=target.interval_ms,
        ingested_at=target.ingested_at,
    )
    return written, len(refused)


def _write_settlements(target: _Target, records: Sequence[Record]) -> tuple[int, int]:
    sound = [record for record in records if math.isfinite(_number(record["rate"]))]
    refused = len(records) - len(sound)
    if refused:
        log.warning("settlements_refused", venue=target.venue, rows=refused, reason="rate")
    written = target.warehouse.insert_settlements(
        [_settlement(record) for record in sound],
        venue=target.venue,
        ingested_at=target.ingested_at,
    )
    return written, refused


_WRITERS: Mapping[ImportKind, Callable[[_Target, Sequence[Record]], tuple[int, int]]] = {
    ImportKind.BARS: _write_bars,
    ImportKind.MARK_BARS: _write_mark_bars,
    ImportKind.SETTLEMENTS: _write_settlements,
}


def _sound(bars: Iterator[Bar], interval: int) -> tuple[list[Bar], list[tuple[Bar, BarDefect]]]:
    """Part sound bars from the others, each with its defect."""
    sound: list[Bar] = []
    refused: list[tuple[Bar, BarDefect]] = []
    for bar in bars:
        defect = bar_defect(bar, interval)
        if defect is None:
            sound.append(bar)
        else:
            refused.append((bar, defect))
    return sound, refused


def _bar(record: Record) -> Bar:
    trades = _known(record.get("trades"))
    return Bar(
        symbol=record["symbol"],
        open_time=record["open_time"],
        open=_number(record["open"]),
        high=_number(record["high"]),
        low=_number(record["low"]),
        close=_number(record["close"]),
        volume=_number(record["volume"]),
        quote_volume=_known(record.get("quote_volume")),
        trades=None if trades is None else int(trades),
        taker_buy_volume=_known(record.get("taker_buy_volume")),
        taker_buy_quote_volume=_known(record.get("taker_buy_quote_volume")),
    )


def _bar_of_mark(record: Record) -> Bar:
    """A mark candle as a bar without trades, so that one rule judges both."""
    return _bar(record | {"volume": 0.0})


def _settlement(record: Record) -> Settlement:
    mark = _known(record.get("mark_price"))
    word = record.get("mark_price_source")
    source = _MARK_SOURCES.get(word or "", MarkSource.MARK_CANDLE)
    return Settlement(
        symbol=record["symbol"],
        funding_time=record["funding_time"],
        rate=float(record["rate"]),
        mark_price=mark,
        mark_source=MarkSource.UNKNOWN if mark is None else source,
    )


def _number(value: float | None) -> float:
    """A required number; an empty cell counts as not finite."""
    return math.nan if value is None else float(value)


def _known(value: float | None) -> float | None:
    """An optional number; an empty cell and NaN both mean that the source gave none."""
    return float(value) if value is not None and math.isfinite(value) else None
