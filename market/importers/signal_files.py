"""Reads files of signals: rows of any outside producer, and the recorded Fear & Greed index.

Whatever a file brings was not observed when it came out: its rows are back-filled, and count from
``published_at`` plus the lag that the file declares.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from market.importers.recording import (
    SIGNALS,
    ImportKind,
    ImportRejected,
    Recording,
)
from market.importers.stored import Stored, times_of
from market.signals import WHOLE_MARKET

TEXTS = ("source", "version", "symbol", "name", "event_time", "published_at", "time")
COLUMNS = ("source", "version", "symbol", "event_time", "published_at", "name", "value")
_OPTIONAL = ("lag_seconds",)
_FEAR_GREED_COLUMNS = {"source", "time", "value"}
_FEAR_GREED_PUBLISHER = "alternative.me"


def is_signals(names: tuple[str, ...]) -> bool:
    """Whether a file with these columns holds signals rather than market data."""
    return {"event_time", "value"} <= set(names) or set(names) == _FEAR_GREED_COLUMNS


def open_signals(stored: Stored) -> Recording:
    """Open a file of signals.

    Raises:
        ImportRejected: a column is missing, unknown, or of a type that cannot hold its values.
    """
    fear_greed = set(stored.names) == _FEAR_GREED_COLUMNS
    if not fear_greed:
        _check_columns(stored)

    def read() -> Iterator[pa.Table]:
        for rows in stored.read(stored.names):
            build = _fear_greed if fear_greed else _signals
            yield build(stored.path, rows)

    return Recording(path=stored.path, kind=ImportKind.SIGNALS, read=read)


def _check_columns(stored: Stored) -> None:
    missing = [name for name in COLUMNS if name not in stored.names]
    if missing:
        raise ImportRejected(
            stored.path, f"the columns {', '.join(missing)} of signals are missing", missing=missing
        )
    unknown = sorted(set(stored.names) - {*COLUMNS, *_OPTIONAL})
    if unknown:
        known = ", ".join((*COLUMNS, *_OPTIONAL))
        raise ImportRejected(
            stored.path, f"unknown column {', '.join(unknown)}; signals have {known}"
        )
    for name, kind in (stored.types or {}).items():
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)
        if name in ("value", "lag_seconds") and not number:
            raise ImportRejected(stored.path, f"the column {name} is {kind}, not number")


def _signals(path: Path, rows: pa.Table) -> pa.Table:
    columns = {
        name: _text(path, rows, name) for name in ("source", "version", "symbol", "name")
    } | {name: _times(path, rows, name) for name in ("event_time", "published_at")}
    columns["value"] = rows["value"].cast(pa.float64())
    lag = rows["lag_seconds"] if "lag_seconds" in rows.column_names else pa.nulls(len(rows))
    seconds = pc.fill_null(lag.cast(pa.float64()), 0.0)
    if not pc.all(pc.is_finite(seconds)).as_py():
        raise ImportRejected(path, "the column lag_seconds holds a number that is not finite")
    columns["lag_ms"] = pc.round(pc.multiply(seconds, 1000.0)).cast(pa.int64())
    return pa.table(columns).select(SIGNALS.names).cast(SIGNALS)


def _fear_greed(path: Path, rows: pa.Table) -> pa.Table:
    """The recorded index as the built-in producer would back-fill it."""
    from market.producers.fear_greed import FearGreed  # it brings an HTTP client with it

    publishers = pc.unique(_text(path, rows, "source")).to_pylist()
    if publishers not in ([], [_FEAR_GREED_PUBLISHER]):
        raise ImportRejected(
            path,
            f"the column source says {', '.join(publishers)}; a file of source, time and value is "
            f"read as the Fear & Greed index of {_FEAR_GREED_PUBLISHER}",
        )
    size, times = len(rows), _times(path, rows, "time")
    columns = {
        "source": pa.repeat(FearGreed.name, size),
        "version": pa.repeat(FearGreed.version, size),
        "symbol": pa.repeat(WHOLE_MARKET, size),
        "event_time": times,
        "published_at": times,
        "name": pa.repeat("value", size),
        "value": rows["value"].cast(pa.float64()),
        "lag_ms": pa.repeat(pa.scalar(FearGreed.lag_ms, pa.int64()), size),
    }
    return pa.table(columns).select(SIGNALS.names).cast(SIGNALS)


def _times(path: Path, rows: pa.Table, name: str) -> pa.ChunkedArray:
    return times_of(path, name, rows[name])


def _text(path: Path, rows: pa.Table, name: str) -> pa.ChunkedArray:
    column = rows[name].cast(pa.string())
    if name == "symbol":
        return pc.fill_null(column, WHOLE_MARKET)
    if column.null_count:
        raise ImportRejected(path, f"the column {name} has empty cells")
    return column
