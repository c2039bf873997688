"""Writes into the tables that keep revisions: rows one by one, and whole columns at once.

Both ways obey the rule of ``market.revision``. The columnar way only sorts out, in vectors, what
needs no rule: a row whose key is stored nowhere is written as it is, and one that says nothing new
is dropped. Whatever is left goes through the rule like any other row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from market import tables
from market.bar import HOUR_MS, MINUTE_MS, MarkSource
from market.connection import Connection
from market.panel import BoolArray, Int64Array
from market.revision import V, Version, plan_revisions
from market.tables import Span, Table

log = structlog.get_logger()

BATCH_ROWS = 50_000
# Rows of one insert by columns: about 100 MB with the stored rows that they are compared with.
COLUMNAR_ROWS = 400_000
# Where a batch covers more than so many times its own rows, it is split by symbol.
SPARSE = 4
# Up to so many times are looked up one by one, so that scattered rows do not read all between them.
LISTED_TIMES = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Target(Generic[V]):
    """Where rows go, and what is stamped on them.

    Attributes:
        origin: empty where the table keeps none.
    """

    table: Table[V]
    venue: str
    interval_ms: int
    ingested_at: int
    origin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What an insert wrote.

    Attributes:
        new: rows that were not stored yet.
        revised: rows that replaced a stored version.
    """

    new: int = 0
    revised: int = 0

    @property
    def rows(self) -> int:
        """All rows written."""
        return self.new + self.revised

    def __add__(self, other: Written) -> Written:
        """Both together."""
        return Written(new=self.new + other.new, revised=self.revised + other.revised)


def insert_values(connection: Connection, target: Target[V], values: Sequence[V]) -> Written:
    """Store values and return what was written.

    Raises:
        ValueError: a value must not be stored; nothing was written.
        WarehouseError: the store failed; earlier batches of a long call may be stored.
    """
    table = target.table
    for value in values:
        flaw = table.flaw(value, target.interval_ms)
        if flaw is not None:
            raise ValueError(f"{table.name}: {flaw} in {value}")
    # By time: a batch then covers one narrow range of every symbol. The sort is stable, so of two
    # versions of one row the later still counts as the newer.
    ordered = sorted(values, key=table.time_of)
    written = Written()
    for start in range(0, len(ordered), BATCH_ROWS):
        batch = ordered[start : start + BATCH_ROWS]
        times = table.time_of(batch[0]), table.time_of(batch[-1])
        by_symbol: dict[str, list[V]] = {}
        for value in batch:
            by_symbol.setdefault(value.symbol, []).append(value)
        sparse = _is_sparse(target, len(batch), *times, len(by_symbol))
        parts = list(by_symbol.values()) if sparse else [batch]
        for part in parts:
            written += _insert_batch(connection, target, part)
    return written


def insert_columns(connection: Connection, target: Target[V], rows: pa.Table) -> Written:
    """Store a table of rows and return what was written, as ``insert_values`` does.

    Args:
        connection: the store.
        target: where the rows go.
        rows: ``symbol``, the table's time (or ``funding_time`` alone for settlements) and its
            fields; an optional field may be missing.

    Raises:
        ValueError: a column is missing or has another type, a required value is null or not
            finite, or a time is not aligned; nothing was written.
        WarehouseError: the store failed; earlier batches of a long call may be stored.
    """
    ordered = _in_time_order(_canonical(rows, target), target.table.time_column)
    written = Written()
    for start in range(0, ordered.num_rows, COLUMNAR_ROWS):
        batch = ordered.slice(start, COLUMNAR_ROWS)
        times, symbols = batch[target.table.time_column], pc.unique(batch["symbol"])
        parts = [batch]
        if _is_sparse(target, len(batch), times[0].as_py(), times[-1].as_py(), len(symbols)):
            parts = [batch.filter(pc.equal(batch["symbol"], symbol)) for symbol in symbols]
        for part in parts:
            written += _insert_columns_batch(connection, target, part)
    return written


def _is_sparse(target: Target[V], rows: int, first: int, last: int, symbols: int) -> bool:
    """Whether the store may hold far more rows of these symbols in this time than are given.

    All of them would be read and compared. Files that hold one symbol after another, each of
    another time, are such a case: symbol by symbol the time is as long as the rows.
    """
    step_ms = target.interval_ms if target.table.per_interval else HOUR_MS
    covered = ((last - first) // step_ms + 1) * symbols
    return symbols > 1 and covered > SPARSE * rows and covered > LISTED_TIMES


def _insert_batch(connection: Connection, target: Target[V], values: Sequence[V]) -> Written:
    table, scope = target.table, _scope(target)
    incoming = [
        Version(value=value, ingested_at=target.ingested_at, origin=target.origin)
        for value in values
    ]
    keys = [table.key(value) for value in values]
    symbols = sorted({symbol for symbol, _ in keys})
    times = sorted({time for _, time in keys})
    listed = len(times) <= LISTED_TIMES
    span = Span(target.venue, target.interval_ms, times[0], times[-1] + 1)
    with connection.lock:
        rows = connection.rows(
            table.select_versions(listed_times=listed),
            span.parameters(symbols, times=times if listed else []),
        )
        stored = map(table.version, rows)
        plan = plan_revisions(stored, incoming, key=table.key, revise=table.revise)
        # The old versions first: after a crash in between, the insert is simply repeated.
        connection.insert("superseded", tables.superseded_columns(table, plan.superseded, **scope))
        connection.insert(table.name, table.columns(plan.written, **scope))
    if plan.superseded:
        log.info(
            "revisions_stored", table=table.name, venue=target.venue, rows=len(plan.superseded)
        )
    revised = len(plan.superseded)
    return Written(new=len(plan.written) - revised, revised=revised)


def _insert_columns_batch(connection: Connection, target: Target[V], batch: pa.Table) -> Written:
    table = target.table
    times = batch[table.time_column].to_numpy()
    span = Span(target.venue, target.interval_ms, int(times[0]), int(times[-1]) + 1)
    symbols = pc.unique(batch["symbol"]).to_pylist()
    with connection.lock:
        stored = connection.table(table.select_values, span.parameters(symbols))
        is_new, is_known = _sort_out(batch, stored, table, symbols)
        fresh = batch.filter(pa.array(is_new))
        connection.insert_table(table.name, _stamped(fresh, target))
        left = batch.filter(pa.array(~(is_new | is_known)))
        # Values of these few rows meet the rule in the order in which they came.
        return Written(new=fresh.num_rows) + insert_values(connection, target, _values(left, table))


def _sort_out(
    batch: pa.Table, stored: pa.Table, table: Table[V], symbols: Sequence[str]
) -> tuple[BoolArray, BoolArray]:
    """(R,) which rows of ``batch`` are certainly new, and which certainly say nothing new."""
    keys, known = _keys(batch, table, symbols), _keys(stored, table, symbols)
    order = np.argsort(known)
    place = np.searchsorted(known, keys, sorter=order)
    found = order[np.minimum(place, max(0, len(known) - 1))] if len(known) else np.zeros_like(keys)
    is_stored = known[found] == keys if len(known) else np.zeros(len(keys), dtype=np.bool_)
    once = _occur_once(keys)
    same = np.zeros(len(keys), dtype=np.bool_)
    if is_stored.any():
        rows = np.flatnonzero(is_stored & once)
        same[rows] = _says_nothing_new(batch.take(rows), stored.take(found[rows]), table)
    return once & ~is_stored, same


def _keys(rows: pa.Table, table: Table[V], symbols: Sequence[str]) -> Int64Array:
    """(R,) one number per symbol and time; times are those of one batch, so it fits 64 bits."""
    codes = pc.index_in(rows["symbol"], value_set=pa.array(symbols, pa.string()))
    times = rows[table.time_column].to_numpy()
    keys: Int64Array = times * len(symbols) + codes.to_numpy()
    return keys


def _occur_once(keys: Int64Array) -> BoolArray:
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    once: BoolArray = counts[inverse] == 1
    return once


def _says_nothing_new(incoming: pa.Table, stored: pa.Table, table: Table[V]) -> BoolArray:
    """(R,) whether required fields are equal, and optional ones are equal or unknown."""
    same = np.ones(incoming.num_rows, dtype=np.bool_)
    for name in (*table.required, *table.optional):
        equal = pc.equal(incoming[name], stored[name])
        unknown = name in table.optional
        same &= pc.fill_null(equal, False).to_numpy() | (
            pc.is_null(incoming[name]).to_numpy() if unknown else False
        )
    return same


def _canonical(rows: pa.Table, target: Target[V]) -> pa.Table:
    """The columns of the table with their types, checked; NaN in an optional one is null."""
    table = target.table
    columns: dict[str, Any] = {"symbol": _column(rows, "symbol", pa.string(), table)}
    if table.time_column in table.types or table.time_column in rows.column_names:
        columns[table.time_column] = _column(rows, table.time_column, pa.int64(), table)
    for name in table.fields:
        columns[name] = _column(rows, name, table.types[name], table)
    if table.time_column not in columns:
        times = columns["funding_time"].to_numpy()
        columns[table.time_column] = pa.array(times - times % MINUTE_MS)
    if table.per_interval and np.any(columns[table.time_column].to_numpy() % target.interval_ms):
        raise ValueError(f"{table.name}: a time that is not aligned")
    if "mark_source" in columns:
        _check_marks(columns)
    return pa.table(columns)


def _column(rows: pa.Table, name: str, kind: pa.DataType, table: Table[V]) -> Any:
    optional = name in table.optional
    if name not in rows.column_names:
        if optional:
            return pa.nulls(rows.num_rows, kind)
        raise ValueError(f"{table.name}: the column {name} is missing")
    try:
        column = rows[name].cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{table.name}: the column {name} is not {kind} ({error})") from error
    column = column.combine_chunks()
    if pa.types.is_floating(kind):
        finite = pc.is_finite(column)
        if optional:
            return pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
        if not pc.all(pc.fill_null(finite, False), min_count=0).as_py():
            raise ValueError(f"{table.name}: a {name} that is not finite")
    elif column.null_count and not optional:
        raise ValueError(f"{table.name}: an empty {name}")
    return column


def _check_marks(columns: dict[str, Any]) -> None:
    source = pc.fill_null(columns["mark_source"], MarkSource.UNKNOWN.value)
    known = pc.is_in(source, value_set=pa.array([each.value for each in MarkSource]))
    if not pc.all(known, min_count=0).as_py():
        raise ValueError("settlements: a mark_source that is unknown to MarkSource")
    contradicts = pc.not_equal(
        pc.is_null(columns["mark_price"]), pc.equal(source, MarkSource.UNKNOWN.value)
    )
    if pc.any(contradicts).as_py():
        raise ValueError("settlements: a mark price that contradicts its source")
    # While rows are compared, an unknown source is null like its price.
    columns["mark_source"] = pc.if_else(
        pc.is_null(columns["mark_price"]), pa.scalar(None, pa.string()), source
    )


def _in_time_order(rows: pa.Table, time_column: str) -> pa.Table:
    times = rows[time_column].to_numpy()
    if np.all(times[1:] >= times[:-1]):
        return rows
    return rows.take(np.argsort(times, kind="stable"))


def _stamped(rows: pa.Table, target: Target[V]) -> pa.Table:
    """The rows with every column that an insert writes."""
    count = rows.num_rows
    stamps: dict[str, Any] = {"venue": pa.scalar(target.venue)}
    stamps |= {"ingested_at": pa.scalar(target.ingested_at, pa.int64())}
    if target.table.per_interval:
        stamps["interval_ms"] = pa.scalar(target.interval_ms, pa.int64())
    if target.table.keeps_origin:
        stamps["origin"] = pa.scalar(str(target.origin))
    for name, value in stamps.items():
        rows = rows.append_column(name, pa.repeat(value, count))
    if "mark_source" in rows.column_names:
        filled = pc.fill_null(rows["mark_source"], MarkSource.UNKNOWN.value)
        rows = rows.set_column(rows.column_names.index("mark_source"), "mark_source", filled)
    return rows


def _values(rows: pa.Table, table: Table[V]) -> list[V]:
    columns = [rows[name].to_pylist() for name in ("symbol", table.time_column, *table.fields)]
    if "mark_source" in rows.column_names:
        columns[-1] = [source or MarkSource.UNKNOWN.value for source in columns[-1]]
    return [table.build(row[0], row[1], row[2:]) for row in zip(*columns, strict=True)]


def _scope(target: Target[V]) -> dict[str, Any]:
    return {"venue": target.venue, "interval_ms": target.interval_ms}
