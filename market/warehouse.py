"""The warehouse: what the market did, in ClickHouse, embedded (chDB) or a server.

Bars, mark candles and settlements are only ever appended: a row that differs from the stored one
becomes a revision, and the version it replaces stays readable in ``superseded``. Gaps, quotes,
order books, listing changes and signals are facts, each stored once. What was refused is in
``Warehouse.quarantine``. This module owns the open store and its public methods; the driver is
behind ``market.connection``. Every read ends at a limit of time on the server
(``connection.READ_LIMIT_SECONDS``). Most are bounded by the range asked for. ``coverage``,
``settlement_coverage``, ``gap_ranges``, ``scopes``, ``settlement_venues``, ``signals_stored_since``
and those of the quarantine go over all that is stored of what they are asked about, and answer with
counts, holes and first times, or with as many rows as are asked for.

Every call blocks; callers on an event loop go through ``asyncio.to_thread``. One process owns an
embedded store; within that process it may be opened more than once.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from market import facts, tables
from market.bar import Bar, MarkBar, Settlement
from market.connection import Connection, connect
from market.coverage import Coverage, GapRange, SettlementCoverage, Superseded
from market.facts import BOOKS, GAPS, LISTING_CHANGES, QUOTES, SIGNALS
from market.gap import Gap
from market.inserts import Target, Written, insert_columns, insert_values
from market.listing import ListingChange
from market.migrations import migrate
from market.panel import Float32Array, Int64Array, Panel
from market.panels import BAR_ARRAYS, aligned_open_times, assemble, funding_arrays
from market.quarantine import Quarantine
from market.quote import OrderBook, Quote
from market.reads import (
    read_cells,
    read_coverage,
    read_facts,
    read_gap_ranges,
    read_settlements,
    read_settlements_of,
    read_tensor,
    read_times,
)
from market.revision import V
from market.signals import RejectedSignal, Signal, Stream, stamped
from market.store_fault import WarehouseError
from market.store_url import parse_store_url
from market.tables import BARS, MARK_BARS, SETTLEMENTS, Origin, Span, Table

__all__ = ["Coverage", "GapRange", "Origin", "Superseded", "Warehouse", "WarehouseError", "Written"]


class Warehouse:
    """One open store. Thread-safe: calls are served one after another."""

    def __init__(self, connection: Connection) -> None:
        """Use ``Warehouse.open``."""
        self._connection = connection
        self.quarantine = Quarantine(connection)

    @classmethod
    def open(cls, url: str) -> Warehouse:
        """Connect and bring the schema up to date.

        Args:
            url: ``chdb:///absolute/path`` or ``http(s)://user:password@host:8123/database``;
                ``http(s)+async://`` chooses the asynchronous client (``market.connection``).

        Raises:
            WarehouseError: the URL is unusable, another process owns the path, the server does
                not answer or refuses, or the schema is newer than this program.
        """
        connection = connect(parse_store_url(url))
        try:
            migrate(connection)
        except BaseException:
            connection.close()
            raise
        return cls(connection)

    def close(self) -> None:
        """Release the store; closing twice is harmless."""
        self._connection.close()

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
        target = _target(BARS, venue, interval_ms, ingested_at, origin)
        return insert_values(self._connection, target, bars).rows

    def insert_mark_bars(
        self, bars: Sequence[MarkBar], *, venue: str, interval_ms: int, ingested_at: int
    ) -> int:
        """Store final mark candles like ``insert_bars``."""
        target = _target(MARK_BARS, venue, interval_ms, ingested_at)
        return insert_values(self._connection, target, bars).rows

    def insert_settlements(
        self, settlements: Sequence[Settlement], *, venue: str, ingested_at: int
    ) -> int:
        """Store settlements like ``insert_bars``, one per symbol and nominal time.

        A better mark replaces a worse one, never the reverse.
        """
        target = _target(SETTLEMENTS, venue, 0, ingested_at)
        return insert_values(self._connection, target, settlements).rows

    def bar_times(
        self, symbol: str, *, venue: str, interval_ms: int, since: int, until: int
    ) -> Int64Array:
        """Open times of the stored bars, since <= t < until, ascending."""
        return read_times(self._connection, BARS, symbol, Span(venue, interval_ms, since, until))

    def mark_bar_times(
        self, symbol: str, *, venue: str, interval_ms: int, since: int, until: int
    ) -> Int64Array:
        """Open times of the stored mark candles, since <= t < until, ascending."""
        return read_times(
            self._connection, MARK_BARS, symbol, Span(venue, interval_ms, since, until)
        )

    def settlement_times(self, symbol: str, *, venue: str, since: int, until: int) -> Int64Array:
        """Nominal times of the stored settlements, since <= t < until, ascending."""
        return read_times(self._connection, SETTLEMENTS, symbol, Span(venue, 0, since, until))

    def settlements(
        self, symbols: Sequence[str], *, venue: str, interval_ms: int, since: int, until: int
    ) -> tuple[Settlement, ...]:
        """Settlements with since <= nominal time < until, by time, each with its best mark.

        Marks are resolved by ``market.revision.resolve_mark`` from the candles and bars of
        ``interval_ms``.
        """
        parameters = Span(venue, interval_ms, since, until).parameters(symbols)
        return read_settlements(self._connection, parameters)

    def load_panel(
        self, symbols: Sequence[str], *, venue: str, interval_ms: int, since: int, until: int
    ) -> Panel:
        """A dense panel of every aligned bar with since <= open_time < until.

        Where a symbol has no bar the panel holds NaN; its settlements are those of
        ``settlements``. A long panel is read by groups of symbols, and writes of other threads
        get in between; a panel whose bars are final does not notice.

        Raises:
            ValueError: a symbol is named twice.
            WarehouseError: the store failed.
        """
        _check_symbols(symbols)
        open_time = aligned_open_times(since, until, interval_ms)
        end = int(open_time[-1]) + interval_ms if len(open_time) else since
        start = int(open_time[0]) if len(open_time) else since
        span = Span(venue, interval_ms, start, end)
        arrays = read_cells(self._connection, symbols, open_time, span)
        settlements = read_settlements_of(arrays, self._connection, symbols, open_time, span)
        arrays |= funding_arrays(settlements, symbols, open_time=open_time, interval_ms=interval_ms)
        return assemble(symbols, interval_ms=interval_ms, open_time=open_time, arrays=arrays)

    def insert_bar_table(
        self, rows: pa.Table, *, venue: str, interval_ms: int, origin: Origin, ingested_at: int
    ) -> Written:
        """Store many sound, final bars without a Python object per row.

        Equal to ``insert_bars`` on the same rows, revisions included; of two rows of one bar the
        later counts.

        Args:
            rows: ``symbol`` (string), ``open_time`` (int64), ``open, high, low, close, volume``
                (float64), ``quote_volume, taker_buy_volume, taker_buy_quote_volume`` (float64 or
                null), ``trades`` (int64 or null); an optional column may be missing. The caller has
                checked every row with the rules of ``bar_defect``.
            venue: of all of them.
            interval_ms: their length.
            origin: how they reached us.
            ingested_at: UTC milliseconds.

        Returns:
            How many rows were written, those that replaced a stored version apart.

        Raises:
            ValueError: a column is missing, or cannot be cast to its type.
            WarehouseError: the store failed; earlier batches of a long call may be stored.
        """
        target = _target(BARS, venue, interval_ms, ingested_at, origin)
        return insert_columns(self._connection, target, rows)

    def insert_mark_bar_table(
        self, rows: pa.Table, *, venue: str, interval_ms: int, ingested_at: int
    ) -> Written:
        """Store mark candles like ``insert_bar_table``: symbol, open_time and the four prices."""
        target = _target(MARK_BARS, venue, interval_ms, ingested_at)
        return insert_columns(self._connection, target, rows)

    def insert_settlement_table(self, rows: pa.Table, *, venue: str, ingested_at: int) -> Written:
        """Store settlements like ``insert_bar_table``, with the rule of ``insert_settlements``.

        Args:
            rows: ``symbol, funding_time, rate, mark_price`` (null where unknown), ``mark_source``
                (a value of ``MarkSource``).
            venue: where they settled.
            ingested_at: UTC milliseconds.
        """
        target = _target(SETTLEMENTS, venue, 0, ingested_at)
        return insert_columns(self._connection, target, rows)

    def insert_gaps(self, gaps: Sequence[Gap], *, venue: str, interval_ms: int) -> None:
        """Record why bars are missing; of one bar the version last in ``updated_at`` counts."""
        rows = GAPS.rows(gaps, venue=venue, interval_ms=interval_ms)
        self._connection.insert(GAPS.name, rows)

    def gaps(
        self,
        *,
        venue: str,
        interval_ms: int,
        since: int,
        until: int,
        symbols: Sequence[str] | None = None,
        open_only: bool = True,
    ) -> tuple[Gap, ...]:
        """Recorded gaps with since <= open_time < until, by time and symbol.

        ``symbols`` of ``None`` means all; ``open_only`` leaves out those whose bar came after all.
        """
        conditions = [facts.STILL_MISSING] if open_only else []
        scope = {"venue": venue, "interval_ms": interval_ms}
        return read_facts(self._connection, GAPS, since, until, symbols, *conditions, **scope)

    def insert_quotes(self, quotes: Sequence[Quote], *, venue: str) -> None:
        """Record quotes, one per symbol and ``available_at``."""
        self._connection.insert(QUOTES.name, QUOTES.rows(quotes, venue=venue))

    def quotes(
        self, symbols: Sequence[str], *, venue: str, since: int, until: int
    ) -> tuple[Quote, ...]:
        """Quotes with since <= available_at < until, by that time and symbol."""
        return read_facts(self._connection, QUOTES, since, until, symbols, venue=venue)

    def insert_books(self, books: Sequence[OrderBook], *, venue: str) -> None:
        """Record order books, one per symbol and decision; the latest ``available_at`` counts."""
        self._connection.insert(BOOKS.name, BOOKS.rows(books, venue=venue))

    def books(
        self, symbols: Sequence[str], *, venue: str, since: int, until: int
    ) -> tuple[OrderBook, ...]:
        """Order books with since <= decision_time < until, by that time and symbol."""
        return read_facts(self._connection, BOOKS, since, until, symbols, venue=venue)

    def insert_listing_changes(self, changes: Sequence[ListingChange], *, venue: str) -> None:
        """Record changes of a venue's instruments; the same change again adds nothing."""
        self._connection.insert(LISTING_CHANGES.name, LISTING_CHANGES.rows(changes, venue=venue))

    def listing_changes(self, *, venue: str, since: int, until: int) -> tuple[ListingChange, ...]:
        """Changes with since <= noticed_at < until, by time and symbol."""
        return read_facts(self._connection, LISTING_CHANGES, since, until, None, venue=venue)

    def insert_signals(self, signals: Sequence[Signal], *, ingested_at: int) -> int:
        """Store signals, stamped with ``ingested_at``, and return the number of rows written.

        A row that says nothing new adds nothing; one with another value is kept beside the first,
        and none is stamped before the beginning of its stream (``market.facts.new_signals``).
        """
        if not signals:
            return 0
        incoming = [stamped(signal, ingested_at) for signal in signals]
        published = [signal.published_at for signal in incoming]
        sources = sorted({signal.source for signal in incoming})
        with self._connection.lock:
            stored = self.signals(sources=sources, since=min(published), until=max(published) + 1)
            began = self.signals_stored_since(sources)
            news = facts.new_signals(stored, incoming, began=began)
            self._connection.insert(SIGNALS.name, SIGNALS.rows(news))
        return len(news)

    def insert_refused_signals(
        self, refused: Sequence[RejectedSignal], *, ingested_at: int
    ) -> None:
        """Keep rows that cannot be signals, with their reason, in quarantine."""
        self.quarantine.insert_signals(refused, ingested_at=ingested_at)

    def signals(
        self, *, sources: Sequence[str] | None = None, since: int, until: int
    ) -> tuple[Signal, ...]:
        """Signals with since <= published_at < until, by that time; ``None`` means every source."""
        conditions = [] if sources is None else [facts.OF_SOURCES]
        return read_facts(
            self._connection, SIGNALS, since, until, None, *conditions, sources=list(sources or ())
        )

    def signals_stored_since(self, sources: Sequence[str]) -> dict[Stream, int]:
        """When the first row of each stream of ``sources`` was stored, UTC milliseconds."""
        rows = self._connection.rows(facts.SELECT_STREAM_STARTS, {"sources": list(sources)})
        return {(source, version, name): stored for source, version, name, stored in rows}

    def newest_signal_event(self, source: str, version: str, *, until: int) -> int | None:
        """The newest event time of a source's rows with published_at < until, if it has any."""
        parameters = {"source": source, "version": version, "until": until}
        ((newest,),) = self._connection.rows(facts.SELECT_NEWEST_EVENT, parameters)
        return None if newest is None else int(newest)

    def load_tensor(
        self,
        symbols: Sequence[str],
        *,
        venue: str,
        interval_ms: int,
        since: int,
        until: int,
        columns: Sequence[str] = ("open", "high", "low", "close", "volume"),
    ) -> Float32Array:
        """(T, N, C) float32: every aligned bar with since <= open_time < until.

        NaN where a symbol has no bar or a column no value. Columns are those of a panel's bars
        (``market.panels.BAR_ARRAYS``). It reads symbol by symbol: 21 M bars in seconds.

        Raises:
            ValueError: a symbol is named twice, or a column is unknown.
            WarehouseError: the store failed.
        """
        _check_symbols(symbols)
        if unknown := [name for name in columns if name not in BAR_ARRAYS]:
            raise ValueError(f"unknown columns {unknown}; known: {', '.join(BAR_ARRAYS)}")
        open_time = aligned_open_times(since, until, interval_ms)
        start = int(open_time[0]) if len(open_time) else since
        span = Span(venue, interval_ms, start, until)
        return read_tensor(self._connection, symbols, open_time, columns, span)

    def gap_ranges(
        self, *, venue: str, interval_ms: int, symbols: Sequence[str] | None = None
    ) -> tuple[GapRange, ...]:
        """Missing bars between each symbol's first and last, as ranges of one kind.

        A missing bar about which nothing is recorded is fetchable. By symbol and time.
        """
        return read_gap_ranges(
            self._connection, venue=venue, interval_ms=interval_ms, symbols=symbols
        )

    def coverage(self, *, venue: str, interval_ms: int) -> tuple[Coverage, ...]:
        """What is stored of each symbol that has bars, by symbol. Reads every open time."""
        return read_coverage(self._connection, venue=venue, interval_ms=interval_ms)

    def scopes(self) -> tuple[tuple[str, int], ...]:
        """Each venue and interval that has bars."""
        return tuple((venue, ms) for venue, ms in self._connection.rows(tables.SELECT_SCOPES, {}))

    def settlement_coverage(self, *, venue: str) -> tuple[SettlementCoverage, ...]:
        """What is stored of each symbol that has settlements, by symbol."""
        rows = self._connection.rows(tables.SELECT_SETTLEMENT_EXTENTS, {"venue": venue})
        return tuple(map(SettlementCoverage.from_row, rows))

    def settlement_venues(self) -> tuple[str, ...]:
        """Each venue that has settlements."""
        return tuple(row[0] for row in self._connection.rows(tables.SELECT_SETTLEMENT_VENUES, {}))

    def newest_close(self) -> int:
        """When the newest stored bar of any market closed, UTC milliseconds; 0 without bars."""
        ((newest,),) = self._connection.rows(tables.SELECT_NEWEST_CLOSE, {})
        return 0 if newest is None else int(newest)

    def stored_rows(self, table: Table[V], symbols: Sequence[str], span: Span) -> pa.Table:
        """The rows of a span as they are stored, in no order: symbol, time and fields."""
        return self._connection.table(table.select_values, span.parameters(symbols))

    def revisions(
        self, symbol: str, *, venue: str, interval_ms: int, since: int, until: int
    ) -> tuple[Superseded, ...]:
        """Superseded versions of a symbol's bars, since <= open_time < until, oldest first."""
        parameters = Span(venue, interval_ms, since, until).parameters([symbol])
        rows = self._connection.rows(tables.SELECT_SUPERSEDED_BARS, parameters)
        return tuple(map(Superseded.from_row, rows))

    def _command(self, statement: str) -> None:
        """Run a statement of a test or a benchmark."""
        self._connection.command(statement)


def _target(
    table: Table[V], venue: str, interval_ms: int, ingested_at: int, origin: str = ""
) -> Target[V]:
    return Target(
        table=table, venue=venue, interval_ms=interval_ms, ingested_at=ingested_at, origin=origin
    )


def _check_symbols(symbols: Sequence[str]) -> None:
    if len(set(symbols)) != len(symbols):
        raise ValueError(f"a panel takes each symbol once, got {list(symbols)}")
