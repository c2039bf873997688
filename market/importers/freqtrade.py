"""Reads freqtrade's candles: Feather files, and its older JSON.

The name tells the pair, the interval and the kind. Candles have ``date, open, high, low, close,
volume``; a funding file has the rate in ``open``.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from market.bar import MarkSource, interval_ms
from market.importers import recording
from market.importers.names import NamedFile, read_freqtrade_name
from market.importers.recording import (
    CANDLES,
    PRICES,
    SETTLEMENTS,
    VOLUMES,
    ImportHints,
    ImportKind,
    ImportRejected,
    Recording,
    agreed,
    venue_of,
)
from market.importers.stored import open_stored, times_of

_COLUMNS = ("date", *PRICES, "volume")


def open_freqtrade(path: Path, hints: ImportHints) -> Recording:
    """Open one ``.feather``, ``.json`` or ``.json.gz`` file by its documented name.

    Raises:
        ImportRejected: the name has another form or does not tell the exchange, the interval is
            not one of ours, or the file has other columns.
    """
    named = read_freqtrade_name(path, hints)
    venue = venue_of(path, named.exchange, named.symbol, hints).value
    if named.kind is not None and hints.kind is not None:
        agreed(path, "kind", named.kind.value, hints.kind.value)
    interval = 0
    if named.interval is not None:
        agreed(path, "interval", named.interval, hints.interval)
        try:
            interval = interval_ms(named.interval)
        except ValueError as error:
            raise ImportRejected(path, str(error)) from error
    if path.suffix == ".feather":
        _check_columns(path)

    def read() -> Iterator[pa.Table]:
        tables = _feather(path) if path.suffix == ".feather" else _json(path)
        for rows in tables:
            yield _canonical(path, rows, named, venue, interval)

    return Recording(path=path, kind=named.kind, read=read)


def _check_columns(path: Path) -> None:
    stored = open_stored(path, texts=())
    missing = [name for name in _COLUMNS if name not in stored.names]
    if missing:
        raise ImportRejected(
            path, f"the columns {', '.join(missing)} of candles are missing", missing=missing
        )
    for name in _COLUMNS:
        kind = (stored.types or {})[name]
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        time = pa.types.is_timestamp(kind) or pa.types.is_integer(kind)
        if not (time if name == "date" else number):
            expected = "a time" if name == "date" else "number"
            raise ImportRejected(path, f"the column {name} is {kind}, not {expected}")


def _feather(path: Path) -> Iterator[pa.Table]:
    yield from open_stored(path, texts=()).read(_COLUMNS)


def _json(path: Path) -> Iterator[pa.Table]:
    """Rows are ``[milliseconds, open, high, low, close, volume]``, all in one list."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        values = np.array(json.loads(content) or np.empty((0, 6)), dtype=np.float64)
    except (OSError, EOFError, zlib.error, ValueError, TypeError) as error:
        raise ImportRejected(path, f"not a readable list of candles ({error})") from error
    if values.ndim != 2 or values.shape[1] != len(_COLUMNS):
        raise ImportRejected(path, f"its rows are not lists of {', '.join(_COLUMNS)}")
    if not np.isfinite(values[:, 0]).all():
        raise ImportRejected(path, "the column date has empty cells")
    arrays = {name: values[:, idx] for idx, name in enumerate(_COLUMNS)}
    table = pa.table(arrays | {"date": values[:, 0].astype(np.int64)})
    for start in range(0, len(table), recording.BATCH_ROWS):
        yield table.slice(start, recording.BATCH_ROWS)


def _canonical(path: Path, rows: pa.Table, named: NamedFile, venue: str, interval: int) -> pa.Table:
    size = len(rows)
    times = times_of(path, "date", rows["date"])
    series = {"venue": pa.repeat(venue, size), "symbol": pa.repeat(named.symbol, size)}
    if named.kind is ImportKind.SETTLEMENTS:
        columns = {
            **series,
            "funding_time": times,
            "rate": rows["open"].cast(pa.float64()),
            "mark_price": pa.nulls(size, pa.float64()),
            "mark_source": pa.repeat(MarkSource.UNKNOWN.value, size),
        }
        return pa.table(columns).select(SETTLEMENTS.names).cast(SETTLEMENTS)
    columns = {
        **series,
        "interval_ms": pa.repeat(pa.scalar(interval, pa.int64()), size),
        "open_time": times,
        **{name: rows[name].cast(pa.float64()) for name in PRICES},
        **{name: pa.nulls(size, CANDLES.field(name).type) for name in VOLUMES},
    }
    if named.kind is ImportKind.BARS:
        columns["volume"] = rows["volume"].cast(pa.float64())
    return pa.table(columns).select(CANDLES.names).cast(CANDLES)
