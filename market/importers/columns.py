"""Reads Parquet and CSV files whose columns say what they hold: bars, mark candles, settlements.

What a file says of itself (exchange, market, symbol, timeframe) may be columns or, where it has no
such column, options. The whole file is one interval of one kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from market.bar import MarkSource, interval_ms
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
from market.importers.stored import Stored, known, times_of

TEXTS = ("exchange", "market", "symbol", "timeframe", "mark_price_source")
TIMES = ("open_time", "funding_time")
# What the files call their marks; a word that is not here was not seen at the venue.
_OWN_MARK_SOURCES = (MarkSource.VENUE.value, MarkSource.BAR_OPEN.value)
# Which option stands in for which column.
_OPTIONS = {"exchange": "exchange", "symbol": "symbol", "timeframe": "interval"}


def open_candles(stored: Stored, hints: ImportHints) -> Recording:
    """Open a file of bars or mark candles.

    Raises:
        ImportRejected: a column is missing, or has a type that cannot hold its values.
    """
    marks = hints.kind is ImportKind.MARK_BARS
    facts = ("exchange", "symbol", "timeframe")
    numbers = ("open_time", *PRICES) if marks else ("open_time", *PRICES, "volume")
    _require(stored, facts, numbers, hints, what="bars")
    wanted = (*facts, "market", "open_time", *PRICES, *VOLUMES)
    _check_types(stored, wanted)

    def read() -> Iterator[pa.Table]:
        for rows in stored.read(wanted):
            yield _candles(stored.path, rows, hints)

    return Recording(path=stored.path, kind=hints.kind, read=read)


def open_settlements(stored: Stored, hints: ImportHints) -> Recording:
    """Open a file of settlements; raises as ``open_candles`` does."""
    facts, numbers = ("exchange", "symbol"), ("funding_time", "rate")
    _require(stored, facts, numbers, hints, what="settlements")
    wanted = (*facts, *numbers, "mark_price", "mark_price_source")
    _check_types(stored, wanted)

    def read() -> Iterator[pa.Table]:
        for rows in stored.read(wanted):
            yield _settlements(stored.path, rows, hints)

    return Recording(path=stored.path, kind=ImportKind.SETTLEMENTS, read=read)


def _require(
    stored: Stored, facts: Sequence[str], numbers: Sequence[str], hints: ImportHints, *, what: str
) -> None:
    untold = [name for name in facts if getattr(hints, _OPTIONS[name]) is None]
    missing = [name for name in (*untold, *numbers) if name not in stored.names]
    if missing:
        options = [f"--{_OPTIONS[name]}" for name in missing if name in _OPTIONS]
        hint = f"; {', '.join(options)} can say it instead" if options else ""
        raise ImportRejected(
            stored.path,
            f"the columns {', '.join(missing)} of {what} are missing{hint}",
            missing=missing,
        )


def _check_types(stored: Stored, names: Sequence[str]) -> None:
    for name in names:
        kind = (stored.types or {}).get(name)
        if kind is not None and not _accepts(name, kind):
            expected = "text" if name in TEXTS else "integer" if name in TIMES else "number"
            raise ImportRejected(stored.path, f"the column {name} is {kind}, not {expected}")


def _accepts(name: str, kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind):
        return name not in TIMES
    if name in TEXTS:
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
    if name in TIMES:
        return bool(pa.types.is_integer(kind) or pa.types.is_timestamp(kind))
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _candles(path: Path, rows: pa.Table, hints: ImportHints) -> pa.Table:
    timeframe = _text(path, rows, "timeframe", hints.interval)
    lengths = {word: _interval(path, word) for word in pc.unique(timeframe).to_pylist()}
    columns = {
        **_series(path, rows, hints),
        "interval_ms": _mapped(timeframe, lengths, pa.int64()),
        "open_time": times_of(path, "open_time", rows["open_time"]),
        **{name: rows[name].cast(pa.float64()) for name in PRICES},
    }
    for name in VOLUMES:
        empty = pa.nulls(len(rows), CANDLES.field(name).type)
        columns[name] = _volume(name, rows) if name in rows.column_names else empty
    return pa.table(columns).select(CANDLES.names).cast(CANDLES)


def _settlements(path: Path, rows: pa.Table, hints: ImportHints) -> pa.Table:
    empty = pa.nulls(len(rows), pa.float64())
    mark = known(rows["mark_price"]) if "mark_price" in rows.column_names else empty
    # As of a venue: a mark that is no price is unknown, and the rate stands.
    mark = pc.if_else(pc.greater(mark, 0), mark, pa.scalar(None, pa.float64()))
    columns = {
        **_series(path, rows, hints),
        "funding_time": times_of(path, "funding_time", rows["funding_time"]),
        "rate": rows["rate"].cast(pa.float64()),
        "mark_price": mark,
        "mark_source": _mark_source(rows, mark),
    }
    return pa.table(columns).select(SETTLEMENTS.names).cast(SETTLEMENTS)


def _mark_source(rows: pa.Table, mark: pa.ChunkedArray) -> pa.ChunkedArray:
    if "mark_price_source" in rows.column_names:
        word = rows["mark_price_source"].cast(pa.string())
    else:
        word = pa.nulls(len(rows), pa.string())
    own = pc.is_in(word, pa.array(_OWN_MARK_SOURCES))
    seen = pc.if_else(own, word, MarkSource.MARK_CANDLE.value)
    return pc.if_else(pc.is_valid(mark), seen, MarkSource.UNKNOWN.value)


def _volume(name: str, rows: pa.Table) -> pa.ChunkedArray:
    if name == "volume":  # required of a bar: an infinite one is a defect, not an absence
        return rows[name].cast(pa.float64(), safe=False)
    return known(rows[name])


def _series(path: Path, rows: pa.Table, hints: ImportHints) -> dict[str, pa.ChunkedArray]:
    """The columns venue and symbol."""
    symbol = _text(path, rows, "symbol", hints.symbol)
    unsaid = pa.chunked_array([pa.repeat(pa.scalar(""), len(rows))])
    told = [
        _text(path, rows, name, None) if name in rows.column_names else unsaid
        for name in ("exchange", "market")
    ]
    # One word per combination: there are few of them, however many rows there are.
    facts = pc.binary_join_element_wise(*told, symbol, "\n")
    venues = {}
    for fact in pc.unique(facts).to_pylist():
        exchange, market, name = fact.split("\n", 2)
        if market not in ("", "perp", "spot"):
            raise ImportRejected(path, f"unknown market {market}; expected perp or spot")
        venue = venue_of(path, exchange or None, name, hints)
        if market and market != venue.market.value:
            raise ImportRejected(
                path, f"the column market says {market}, but {name} is a symbol of {venue.market}"
            )
        venues[fact] = venue.value
    return {"venue": _mapped(facts, venues, pa.string()), "symbol": symbol}


def _text(path: Path, rows: pa.Table, name: str, hint: str | None) -> pa.ChunkedArray:
    """A column of text without empty cells, or the option that stands in for it."""
    if name not in rows.column_names:
        return pa.chunked_array([pa.repeat(pa.scalar(hint, pa.string()), len(rows))])
    column = rows[name].cast(pa.string())
    if column.null_count:
        raise ImportRejected(path, f"the column {name} has empty cells")
    if hint is not None and name in _OPTIONS:
        for word in pc.unique(column).to_pylist():
            agreed(path, _OPTIONS[name], word, hint)
    return column


def _mapped(
    column: pa.ChunkedArray, values: dict[str, str] | dict[str, int], kind: pa.DataType
) -> pa.ChunkedArray:
    position = pc.index_in(column, pa.array(list(values), pa.string()))
    return pc.take(pa.array(list(values.values()), kind), position)


def _interval(path: Path, text: str) -> int:
    try:
        return interval_ms(text)
    except ValueError as error:
        raise ImportRejected(path, str(error)) from error
