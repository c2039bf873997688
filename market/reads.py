"""Reads that are more than a statement: panels' cells, tensors, marks, coverage, times, facts.

Takes an open connection; decides how much one statement reads, and never writes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from market import facts, quarantine, tables
from market.bar import Settlement
from market.connection import Connection
from market.coverage import BarExtent, Coverage, GapRange, Hole, gap_ranges, summarise_coverage
from market.facts import GAPS, F, FactTable
from market.panel import Float32Array, Float64Array, Int64Array
from market.panels import (
    BAR_ARRAYS,
    MARK_ARRAYS,
    opens_at,
    scatter,
    scatter_table,
    unknown_arrays,
    unknown_tensor,
)
from market.revision import V, needs_candles, resolve_mark
from market.tables import BARS, MARK_BARS, SETTLEMENTS, Parameters, Span, Table

# Cells of one read, about 250 MB with every column: longer panels are read by groups of symbols.
READ_CELLS = 2_000_000
# The engine's default blocks of 65k rows cost a third more time on a long read.
_LONG_READ = {"max_block_size": 1 << 18, "preferred_block_size_bytes": 1 << 27}
_END_OF_TIME = 1 << 62


def read_times(connection: Connection, table: Table[V], symbol: str, span: Span) -> Int64Array:
    """(R,) times of a symbol's stored rows, ascending."""
    rows = connection.rows(table.select_times, span.parameters([symbol]))
    return np.array([row[0] for row in rows], dtype=np.int64)


def read_facts(
    connection: Connection,
    table: FactTable[F],
    since: int,
    until: int,
    symbols: Sequence[str] | None,
    *conditions: str,
    **parameters: object,
) -> tuple[F, ...]:
    """Facts with since <= time < until, by time; ``symbols`` of ``None`` means all.

    ``parameters`` are the scope of the table and what ``conditions`` bind.
    """
    if symbols is not None:
        conditions = (*conditions, facts.OF_SYMBOLS)
        parameters["symbols"] = list(symbols)
    bound = {"since": since, "until": until, **parameters}
    return tuple(map(table.build, connection.rows(table.select(*conditions), bound)))


def read_cells(
    connection: Connection, symbols: Sequence[str], open_time: Int64Array, span: Span
) -> dict[str, Float64Array]:
    """Arrays (T, N) of bars and mark candles; NaN where nothing is stored.

    The lock is held for one group of symbols at a time: whoever stores a close waits no longer.
    """
    arrays = unknown_arrays((*BAR_ARRAYS, *MARK_ARRAYS), (len(open_time), len(symbols)))
    bars = {name: arrays[name] for name in BAR_ARRAYS}
    marks = {name: arrays[name] for name in MARK_ARRAYS}
    group_size = max(1, READ_CELLS // max(1, len(open_time)))
    for start in range(0, len(symbols), group_size):
        group = symbols[start : start + group_size]
        parameters = span.parameters(group, universe=list(symbols))
        with connection.lock:
            for select, cells in (
                (tables.select_bar_cells, bars),
                (tables.select_mark_cells, marks),
            ):
                # FINAL doubles the time of a short read, and revisions that no merge has removed
                # yet are rare: it is asked for only where a cell came twice.
                for final in (False, True):
                    rows = connection.columns(select(final=final), parameters)
                    if scatter(rows, cells, open_time=open_time, interval_ms=span.interval_ms):
                        break
    return arrays


def read_tensor(
    connection: Connection,
    symbols: Sequence[str],
    open_time: Int64Array,
    columns: Sequence[str],
    span: Span,
) -> Float32Array:
    """(T, N, C) float32; NaN where nothing is stored.

    One symbol at a time, the next one read while this one is put in its place.
    """
    shape = (len(open_time), len(symbols), len(columns))
    if not math.prod(shape):
        return unknown_tensor(shape)
    with ThreadPoolExecutor(1, thread_name_prefix="warehouse-read") as ahead:
        reads = [ahead.submit(_read_values, connection, symbols[0], columns, span)]
        tensor = unknown_tensor(shape)
        for asset in range(len(symbols)):
            rows = reads.pop().result()
            if asset + 1 < len(symbols):
                following = symbols[asset + 1]
                reads.append(ahead.submit(_read_values, connection, following, columns, span))
            if not scatter_table(rows, tensor, asset):
                final = _read_values(connection, symbols[asset], columns, span, final=True)
                scatter_table(final, tensor, asset)
    return tensor


def read_settlements(connection: Connection, parameters: Parameters) -> tuple[Settlement, ...]:
    """Settlements by time, each with its best mark."""
    with connection.lock:
        stored = _stored_settlements(connection, parameters)
        if not any(map(needs_candles, stored)):
            return stored
        candles = _opens_at_settlements(connection, MARK_BARS, parameters)
        bars = _opens_at_settlements(connection, BARS, parameters)
    return _resolved(stored, candles, bars)


def read_settlements_of(
    cells: Mapping[str, Float64Array],
    connection: Connection,
    symbols: Sequence[str],
    open_time: Int64Array,
    span: Span,
) -> tuple[Settlement, ...]:
    """As ``read_settlements``, with the marks of the cells (T, N) that ``read_cells`` returned."""
    stored = _stored_settlements(connection, span.parameters(symbols))
    due = list(filter(needs_candles, stored))
    candles, bars = (
        opens_at(
            due, cells[name], symbols=symbols, open_time=open_time, interval_ms=span.interval_ms
        )
        for name in ("mark_open", "open")
    )
    return _resolved(stored, candles, bars)


def read_coverage(connection: Connection, *, venue: str, interval_ms: int) -> tuple[Coverage, ...]:
    """What is stored of each symbol that has bars, by symbol."""
    scope: Parameters = {"venue": venue, "interval_ms": interval_ms}
    with connection.lock:
        rows = connection.rows(tables.SELECT_BAR_EXTENTS, scope)
        extents = [BarExtent.from_row(row) for row in rows]
        span = Span(venue, interval_ms, 0, _END_OF_TIME)
        symbols = [extent.symbol for extent in extents]
        return summarise_coverage(
            extents,
            read_settlements(connection, span.parameters(symbols)),
            interval_ms=interval_ms,
            mark_bars=_counts(connection, tables.COUNT_MARK_BARS, scope),
            revisions=_counts(connection, tables.COUNT_REVISIONS, scope),
            quarantined=_counts(connection, quarantine.COUNT_BY_SYMBOL, scope),
        )


def read_gap_ranges(
    connection: Connection, *, venue: str, interval_ms: int, symbols: Sequence[str] | None
) -> tuple[GapRange, ...]:
    """Missing bars as ranges of one kind, by symbol and time."""
    scope: Parameters = {"venue": venue, "interval_ms": interval_ms}
    bounds = {"since": 0, "until": _END_OF_TIME}
    with connection.lock:
        found = connection.rows(tables.SELECT_HOLES, scope)
        recorded = connection.rows(GAPS.select(), scope | bounds)
    holes = [
        Hole(symbol=symbol, first_open_time=before + interval_ms, until=after)
        for symbol, before, after in found
        if symbols is None or symbol in symbols
    ]
    return gap_ranges(holes, map(GAPS.build, recorded), interval_ms=interval_ms)


def _read_values(
    connection: Connection,
    symbol: str,
    columns: Sequence[str],
    span: Span,
    *,
    final: bool = False,
) -> pa.Table:
    statement = tables.select_values32(columns, final=final)
    return connection.table(statement, span.parameters([symbol]), settings=_LONG_READ)


def _stored_settlements(connection: Connection, parameters: Parameters) -> tuple[Settlement, ...]:
    rows = connection.rows(SETTLEMENTS.select_versions(), parameters)
    return tuple(SETTLEMENTS.version(row).value for row in rows)


def _resolved(
    stored: Sequence[Settlement],
    candles: Mapping[tuple[str, int], float],
    bars: Mapping[tuple[str, int], float],
) -> tuple[Settlement, ...]:
    keys = [SETTLEMENTS.key(item) for item in stored]
    return tuple(
        resolve_mark(item, candle_open=candles.get(key), bar_open=bars.get(key))
        for item, key in zip(stored, keys, strict=True)
    )


def _opens_at_settlements(
    connection: Connection, table: Table[V], parameters: Parameters
) -> dict[tuple[str, int], float]:
    rows = connection.rows(tables.select_opens_at_settlements(table), parameters)
    return {(symbol, open_time): price for symbol, open_time, price in rows}


def _counts(connection: Connection, statement: str, scope: Parameters) -> dict[str, int]:
    return {row[0]: row[1] for row in connection.rows(statement, scope)}
