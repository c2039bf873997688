"""The warehouse: bars, mark candles and settlements in ClickHouse, embedded (chDB) or a server.

The only module that imports clickhouse_connect. Every call blocks; callers on an event loop go
through ``asyncio.to_thread``. Rows are only ever appended: a row that differs from the stored one
becomes a revision, and the version it replaces stays readable in ``superseded``.

One process owns an embedded store; within that process it may be opened more than once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import clickhouse_connect
import numpy as np
import structlog
from clickhouse_connect.driver.exceptions import ClickHouseError

from market import migrations, tables
from market.bar import Bar, BarDefect, MarkBar, Settlement
from market.clock import WallClock
from market.coverage import BarExtent, Coverage, Superseded, summarise_coverage
from market.panel import Float64Array, Int64Array, Panel
from market.panels import (
    BAR_ARRAYS,
    MARK_ARRAYS,
    Rows,
    aligned_open_times,
    assemble,
    funding_arrays,
    scatter,
    unknown_arrays,
)
from market.revision import V, Version, needs_candles, plan_revisions, resolve_mark
from market.store_fault import WarehouseError, explain_fault
from market.store_url import EmbeddedStore, ServerStore, parse_store_url
from market.tables import BARS, MARK_BARS, SETTLEMENTS, Origin, Parameters, Row, Span, Table

__all__ = ["Coverage", "Origin", "Superseded", "Warehouse", "WarehouseError"]

log = structlog.get_logger()

BATCH_ROWS = 50_000
# Up to so many times are looked up one by one, so that scattered rows do not read all between them.
LISTED_TIMES = 2_000
# Cells of one read, about 250 MB with every column: longer panels are read by groups of symbols.
READ_CELLS = 2_000_000
_END_OF_TIME = 1 << 62


class Warehouse:
    """One open store. Thread-safe: calls are served one after another."""

    def __init__(self, client: Any, *, location: str) -> None:
        """Use ``Warehouse.open``."""
        self._client = client
        self._location = location
        self._lock = threading.RLock()

    @classmethod
    def open(cls, url: str) -> Warehouse:
        """Connect and bring the schema up to date.

        Args:
            url: ``chdb:///absolute/path`` or ``http(s)://user:password@host:8123/database``.

        Raises:
            WarehouseError: the URL is unusable, another process owns the path, the server does
                not answer or refuses, or the schema is newer than this program.
        """
        store = parse_store_url(url)
        with _explaining("open", store.location):
            warehouse = cls(_connect(store), location=store.location)
        try:
            warehouse._migrate()
        except BaseException:
            warehouse.close()
            raise
        return warehouse

    def close(self) -> None:
        """Release the store; closing twice is harmless."""
        with self._lock:
            self._client.close()

    def insert_bars(
        self,
        bars: Sequence[Bar],
        *,
        venue: str,
        interval_ms: int,
        origin: Origin,
        ingested_at: int,
    ) -> int:
        """Store sound, final bars and return the number of rows written.

        A bar equal to the stored one is not written again; a different one becomes a revision
        (``market.revision.revise_bar``).

        Raises:
            ValueError: a bar breaks a rule of ``bar_defect``; such bars belong in quarantine.
            WarehouseError: the store failed; earlier batches of a long call may be stored.
        """
        versions = [Version(value=bar, ingested_at=ingested_at, origin=origin) for bar in bars]
        return self._insert(BARS, versions, venue=venue, interval_ms=interval_ms)

    def insert_mark_bars(
        self, bars: Sequence[MarkBar], *, venue: str, interval_ms: int, ingested_at: int
    ) -> int:
        """Store final mark candles like ``insert_bars``."""
        versions = [Version(value=bar, ingested_at=ingested_at) for bar in bars]
        return self._insert(MARK_BARS, versions, venue=venue, interval_ms=interval_ms)

    def insert_settlements(
        self, settlements: Sequence[Settlement], *, venue: str, ingested_at: int
    ) -> int:
        """Store settlements like ``insert_bars``, one per symbol and nominal time.

        A better mark replaces a worse one, never the reverse.
        """
        versions = [Version(value=item, ingested_at=ingested_at) for item in settlements]
        return self._insert(SETTLEMENTS, versions, venue=venue, interval_ms=0)

    def insert_quarantine(
        self,
        rows: Sequence[tuple[Bar, BarDefect]],
        *,
        venue: str,
        interval_ms: int,
        ingested_at: int,
        kind: str = BARS.name,
    ) -> None:
        """Keep refused rows with their reason; ``kind`` is the table they were meant for."""
        columns = tables.quarantine_columns(
            rows, kind=kind, venue=venue, interval_ms=interval_ms, ingested_at=ingested_at
        )
        self._write("quarantine", columns)

    def bar_times(
        self, symbol: str, *, venue: str, interval_ms: int, since: int, until: int
    ) -> Int64Array:
        """Open times of the stored bars, since <= t < until, ascending."""
        return self._times(BARS, symbol, Span(venue, interval_ms, since, until))

    def mark_bar_times(
        self, symbol: str, *, venue: str, interval_ms: int, since: int, until: int
    ) -> Int64Array:
        """Open times of the stored mark candles, since <= t < until, ascending."""
        return self._times(MARK_BARS, symbol, Span(venue, interval_ms, since, until))

    def settlement_times(self, symbol: str, *, venue: str, since: int, until: int) -> Int64Array:
        """Nominal times of the stored settlements, since <= t < until, ascending."""
        return self._times(SETTLEMENTS, symbol, Span(venue, 0, since, until))

    def settlements(
        self, symbols: Sequence[str], *, venue: str, interval_ms: int, since: int, until: int
    ) -> tuple[Settlement, ...]:
        """Settlements with since <= nominal time < until, by time, each with its best mark.

        Marks are resolved by ``market.revision.resolve_mark`` from the candles and bars of
        ``interval_ms``.
        """
        parameters = Span(venue, interval_ms, since, until).parameters(symbols)
        with self._lock:
            rows = self._read(SETTLEMENTS.select_versions(), parameters)
            stored = [SETTLEMENTS.version(row).value for row in rows]
            if not any(map(needs_candles, stored)):
                return tuple(stored)
            candles = self._opens_at_settlements(MARK_BARS, parameters)
            bars = self._opens_at_settlements(BARS, parameters)
        keys = [SETTLEMENTS.key(item) for item in stored]
        return tuple(
            resolve_mark(item, candle_open=candles.get(key), bar_open=bars.get(key))
            for item, key in zip(stored, keys, strict=True)
        )

    def load_panel(
        self, symbols: Sequence[str], *, venue: str, interval_ms: int, since: int, until: int
    ) -> Panel:
        """A dense panel of every aligned bar with since <= open_time < until.

        Where a symbol has no bar the panel holds NaN; its settlements are those of
        ``settlements``.

        Raises:
            ValueError: a symbol is named twice.
            WarehouseError: the store failed.
        """
        if len(set(symbols)) != len(symbols):
            raise ValueError(f"a panel takes each symbol once, got {list(symbols)}")
        open_time = aligned_open_times(since, until, interval_ms)
        end = int(open_time[-1]) + interval_ms if len(open_time) else since
        start = int(open_time[0]) if len(open_time) else since
        with self._lock:
            arrays = self._cells(symbols, open_time, Span(venue, interval_ms, start, end))
            settlements = self.settlements(
                symbols, venue=venue, interval_ms=interval_ms, since=start, until=end
            )
        arrays |= funding_arrays(settlements, symbols, open_time=open_time, interval_ms=interval_ms)
        return assemble(symbols, interval_ms=interval_ms, open_time=open_time, arrays=arrays)

    def coverage(self, *, venue: str, interval_ms: int) -> tuple[Coverage, ...]:
        """What is stored of each symbol that has bars, by symbol. Reads every open time."""
        scope: Parameters = {"venue": venue, "interval_ms": interval_ms}
        with self._lock:
            rows = self._read(tables.SELECT_BAR_EXTENTS, scope)
            extents = [BarExtent.from_row(row) for row in rows]
            symbols = [extent.symbol for extent in extents]
            return summarise_coverage(
                extents,
                self.settlements(symbols, **scope, since=0, until=_END_OF_TIME),
                interval_ms=interval_ms,
                mark_bars=self._counts(tables.COUNT_MARK_BARS, scope),
                revisions=self._counts(tables.COUNT_REVISIONS, scope),
                quarantined=self._counts(tables.COUNT_QUARANTINE, scope),
            )

    def revisions(
        self, symbol: str, *, venue: str, interval_ms: int, since: int, until: int
    ) -> tuple[Superseded, ...]:
        """Superseded versions of a symbol's bars, since <= open_time < until, oldest first."""
        parameters = Span(venue, interval_ms, since, until).parameters([symbol])
        rows = self._read(tables.SELECT_SUPERSEDED_BARS, parameters)
        return tuple(map(Superseded.from_row, rows))

    def _insert(
        self, table: Table[V], versions: Sequence[Version[V]], *, venue: str, interval_ms: int
    ) -> int:
        for version in versions:
            flaw = table.flaw(version.value, interval_ms)
            if flaw is not None:
                raise ValueError(f"{table.name}: {flaw} in {version.value}")
        # By time: a batch then covers one narrow range of every symbol. The sort is stable, so of
        # two versions of one row the later still counts as the newer.
        time_of = table.time_of
        ordered = sorted(versions, key=lambda version: time_of(version.value))
        return sum(
            self._insert_batch(
                table, ordered[start : start + BATCH_ROWS], venue=venue, interval_ms=interval_ms
            )
            for start in range(0, len(ordered), BATCH_ROWS)
        )

    def _insert_batch(
        self, table: Table[V], batch: Sequence[Version[V]], *, venue: str, interval_ms: int
    ) -> int:
        scope: Parameters = {"venue": venue, "interval_ms": interval_ms}
        key = table.key
        keys = [key(version.value) for version in batch]
        symbols = sorted({symbol for symbol, _ in keys})
        times = sorted({time for _, time in keys})
        listed = len(times) <= LISTED_TIMES
        span = Span(venue, interval_ms, times[0], times[-1] + 1)
        with self._lock:
            rows = self._read(
                table.select_versions(listed_times=listed),
                span.parameters(symbols, times=times if listed else []),
            )
            stored = map(table.version, rows)
            plan = plan_revisions(stored, batch, key=key, revise=table.revise)
            # The old versions first: after a crash in between, the insert is simply repeated.
            self._write("superseded", tables.superseded_columns(table, plan.superseded, **scope))
            self._write(table.name, table.columns(plan.written, **scope))
        if plan.superseded:
            log.info("revisions_stored", table=table.name, venue=venue, rows=len(plan.superseded))
        return len(plan.written)

    def _cells(
        self, symbols: Sequence[str], open_time: Int64Array, span: Span
    ) -> dict[str, Float64Array]:
        arrays = unknown_arrays((*BAR_ARRAYS, *MARK_ARRAYS), (len(open_time), len(symbols)))
        bars = {name: arrays[name] for name in BAR_ARRAYS}
        marks = {name: arrays[name] for name in MARK_ARRAYS}
        group_size = max(1, READ_CELLS // max(1, len(open_time)))
        for start in range(0, len(symbols), group_size):
            group = symbols[start : start + group_size]
            parameters = span.parameters(group, universe=list(symbols))
            for statement, cells in (
                (tables.SELECT_BAR_CELLS, bars),
                (tables.SELECT_MARK_CELLS, marks),
            ):
                rows = self._read_columns(statement, parameters)
                scatter(rows, cells, open_time=open_time, interval_ms=span.interval_ms)
        return arrays

    def _opens_at_settlements(
        self, table: Table[V], parameters: Parameters
    ) -> dict[tuple[str, int], float]:
        rows = self._read(tables.select_opens_at_settlements(table), parameters)
        return {(symbol, open_time): price for symbol, open_time, price in rows}

    def _counts(self, statement: str, scope: Parameters) -> dict[str, int]:
        return {row[0]: row[1] for row in self._read(statement, scope)}

    def _times(self, table: Table[V], symbol: str, span: Span) -> Int64Array:
        rows = self._read(table.select_times, span.parameters([symbol]))
        return np.array([row[0] for row in rows], dtype=np.int64)

    def _migrate(self) -> None:
        self._command(migrations.CREATE_TABLE)
        applied = {row[0]: row[1] for row in self._read(migrations.SELECT_APPLIED, {})}
        try:
            due = migrations.due_migrations(migrations.load_migrations(), applied)
        except migrations.MigrationError as conflict:
            raise WarehouseError(f"cannot open {self._location}: {conflict}") from conflict
        for migration in due:
            for statement in migration.statements:
                self._command(statement)
            self._write("schema_migrations", migration.columns(applied_at=WallClock().now()))
            log.info("schema_migrated", store=self._location, migration=migration.name)

    def _command(self, statement: str) -> None:
        with self._lock, _explaining("change", self._location):
            self._client.command(statement)

    def _read(self, statement: str, parameters: Parameters) -> Sequence[Row]:
        with self._lock, _explaining("read", self._location):
            rows: Sequence[Row] = self._client.query(statement, parameters=parameters).result_rows
        return rows

    def _read_columns(self, statement: str, parameters: Parameters) -> Rows:
        with self._lock, _explaining("read", self._location):
            rows: Rows = self._client.query_np(statement, parameters=parameters)
        return rows

    def _write(self, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
        if not next(iter(columns.values())):
            return
        with self._lock, _explaining("write to", self._location):
            self._client.insert(
                table,
                list(columns.values()),
                column_names=list(columns),
                column_oriented=True,
                # An insert is acknowledged when it is on disk, whatever the server's default.
                settings={"async_insert": 0},
            )


def _connect(store: EmbeddedStore | ServerStore) -> Any:
    match store:
        case EmbeddedStore(path=path):
            path.mkdir(parents=True, exist_ok=True)
            return _open_embedded(store)
        case ServerStore():
            return clickhouse_connect.get_client(
                interface=store.scheme,
                host=store.host,
                port=store.port,
                username=store.username,
                password=store.password,
                database=store.database,
                autogenerate_session_id=False,
                form_encode_query_params=True,
                connect_timeout=10,
                send_receive_timeout=120,
            )


def _open_embedded(store: EmbeddedStore) -> Any:
    try:
        with _kept_signal_mask():
            return clickhouse_connect.get_client(interface="chdb", path=str(store.path))
    except ClickHouseError as error:
        if store.is_locked():
            raise WarehouseError(
                f"cannot open {store.location}: another ballast process owns {store.path}; "
                "stop it or use its HTTP API"
            ) from error
        raise


@contextmanager
def _kept_signal_mask() -> Iterator[None]:
    """The chDB engine blocks SIGPIPE in the thread that opens it, and children inherit that."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _explaining(action: str, location: str) -> Iterator[None]:
    """Turn the driver's errors into ``WarehouseError`` with a cause and a remedy."""
    try:
        yield
    except (ClickHouseError, OSError) as error:
        raise WarehouseError(
            f"cannot {action} {location}: {explain_fault(error, location)}"
        ) from error
