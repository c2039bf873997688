"""The quarantine: rows that were refused, as they came, each with its reason.

``Quarantine`` is the part of an open warehouse that keeps, finds and removes them; the rest says
what they are as columns and as conditions, and runs no statement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from market.bar import Bar, BarDefect, MarkBar, RefusedSettlement, is_count
from market.connection import Connection
from market.signals import RejectedSignal
from market.tables import BARS, OF_INTERVAL, OPTIONAL, TRADED, content_of

COUNT_BY_SYMBOL = f"SELECT symbol, count() FROM quarantine FINAL {OF_INTERVAL} GROUP BY symbol"
COUNT_BY_DEFECT = (
    "SELECT symbol, defect, count() FROM quarantine FINAL "
    f"{OF_INTERVAL} GROUP BY symbol, defect ORDER BY symbol, defect"
)


_CONDITIONS = {
    "venues": "venue IN {venues:Array(String)}",
    "kinds": "kind IN {kinds:Array(String)}",
    "interval_ms": "interval_ms = {interval_ms:Int64}",
    "symbols": "symbol IN {symbols:Array(String)}",
    "defects": "defect IN {defects:Array(String)}",
    "since": "open_time >= {since:Int64}",
    "until": "open_time < {until:Int64}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineFilter:
    """Which refused rows: those for which everything that is given holds; ``None`` asks nothing.

    Attributes:
        venues: signals have the venue ``""``.
        kinds: the tables that rows were meant for, such as ``bars``.
        interval_ms: settlements and signals have 0.
        symbols, defects: any of these.
        since, until: since <= time of the row < until, UTC milliseconds.
    """

    venues: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None
    interval_ms: int | None = None
    symbols: tuple[str, ...] | None = None
    defects: tuple[str, ...] | None = None
    since: int | None = None
    until: int | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """What the statements of this filter are bound to."""
        given = {name: getattr(self, name) for name in _CONDITIONS}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in given.items()
            if value is not None
        }

    @property
    def where(self) -> str:
        """The condition, which ``parameters`` bind."""
        return f"WHERE {' AND '.join(_CONDITIONS[name] for name in self.parameters) or 'true'}"

    @property
    def select(self) -> str:
        """Statement: at most ``limit`` rows for ``QuarantinedRow.from_row``, refused last first."""
        key = "kind, venue, interval_ms, symbol, open_time, defect"
        return (
            f"SELECT {key}, ingested_at, content FROM quarantine FINAL {self.where} "
            f"ORDER BY ingested_at DESC, {key}, content LIMIT {{limit:UInt64}}"
        )

    @property
    def count(self) -> str:
        """Statement: how many there are."""
        return f"SELECT count() FROM quarantine FINAL {self.where}"

    @property
    def delete(self) -> str:
        """Statement: remove them; it returns once every replica has."""
        return f"ALTER TABLE quarantine DELETE {self.where} SETTINGS mutations_sync = 2"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedRow:
    """One refused row.

    Attributes:
        kind: the table that it was meant for.
        venue: empty for signals.
        interval_ms: 0 where no interval applies.
        time: its open, funding or other time, UTC milliseconds; 0 where it states none.
        refused_at: when it was refused last, UTC milliseconds.
        content: its columns as they came, JSON; empty where an early version refused it.
    """

    kind: str
    venue: str
    interval_ms: int
    symbol: str
    time: int
    defect: str
    refused_at: int
    content: str

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> QuarantinedRow:
        """Read a row of ``QuarantineFilter.select``."""
        kind, venue, interval_ms, symbol, time, defect, refused_at, content = row
        return cls(
            kind=kind,
            venue=venue,
            interval_ms=interval_ms,
            symbol=symbol,
            time=time,
            defect=defect,
            refused_at=refused_at,
            content=content,
        )


class Quarantine:
    """The refused rows of one open warehouse; ``Warehouse.quarantine``."""

    def __init__(self, connection: Connection) -> None:
        """Take the warehouse's own connection."""
        self._connection = connection

    def insert(
        self,
        rows: Sequence[tuple[Bar | MarkBar, BarDefect]],
        *,
        venue: str,
        interval_ms: int,
        ingested_at: int,
        kind: str = BARS.name,
        contents: Sequence[str] | None = None,
    ) -> None:
        """Keep refused rows with their reason; ``kind`` is the table they were meant for.

        ``contents`` are the rows as they came (JSON), where they had other columns than a bar. The
        same row refused again adds nothing; two rows of one time that differ are both kept.
        """
        columns = bar_columns(
            rows,
            kind=kind,
            venue=venue,
            interval_ms=interval_ms,
            ingested_at=ingested_at,
            contents=contents,
        )
        self._connection.insert("quarantine", columns)

    def insert_signals(self, refused: Sequence[RejectedSignal], *, ingested_at: int) -> None:
        """Keep rows that cannot be signals with their reason; the same one again adds nothing."""
        self._connection.insert("quarantine", signal_columns(refused, ingested_at=ingested_at))

    def insert_settlements(
        self, refused: Sequence[RefusedSettlement], *, venue: str, ingested_at: int
    ) -> None:
        """Keep a venue's settlements that could not be read; the same one again adds nothing."""
        columns = settlement_columns(refused, venue=venue, ingested_at=ingested_at)
        self._connection.insert("quarantine", columns)

    def counts(self, *, venue: str, interval_ms: int) -> dict[tuple[str, str], int]:
        """Refused rows by (symbol, defect)."""
        scope = {"venue": venue, "interval_ms": interval_ms}
        rows = self._connection.rows(COUNT_BY_DEFECT, scope)
        return {(symbol, defect): count for symbol, defect, count in rows}

    def count(self, selection: QuarantineFilter) -> int:
        """How many refused rows a filter selects."""
        ((count,),) = self._connection.rows(selection.count, selection.parameters)
        return int(count)

    def rows(self, selection: QuarantineFilter, *, limit: int) -> tuple[QuarantinedRow, ...]:
        """The refused rows that a filter selects, refused last first, at most ``limit``."""
        parameters = selection.parameters | {"limit": limit}
        return tuple(
            map(QuarantinedRow.from_row, self._connection.rows(selection.select, parameters))
        )

    def clear(self, selection: QuarantineFilter) -> int:
        """Remove the refused rows that a filter selects, and return how many there were."""
        with self._connection.lock:
            count = self.count(selection)
            self._connection.command(selection.delete, selection.parameters)
        return count


def bar_columns(
    rows: Sequence[tuple[Bar | MarkBar, BarDefect]],
    *,
    kind: str,
    venue: str,
    interval_ms: int,
    ingested_at: int,
    contents: Sequence[str] | None = None,
) -> dict[str, list[Any]]:
    """The rows of ``quarantine`` for refused bars, by column.

    ``contents`` are the rows as they came, where they have more than a bar's columns.
    """
    bars = [bar for bar, _ in rows]
    values = {name: [getattr(bar, name) for bar in bars] for name in ("symbol", "open_time")}
    values |= {name: [getattr(bar, name, math.nan) for bar in bars] for name in TRADED}
    values |= {name: [getattr(bar, name, None) for bar in bars] for name in OPTIONAL}
    # The column holds counts alone; what was said instead is in the content.
    values["trades"] = [
        int(trades) if trades is not None and is_count(trades) else None
        for trades in values["trades"]
    ]
    return values | {
        "content": list(contents) if contents is not None else list(map(content_of, bars)),
        "kind": [kind] * len(bars),
        "venue": [venue] * len(bars),
        "interval_ms": [interval_ms] * len(bars),
        "defect": [defect.value for _, defect in rows],
        "ingested_at": [ingested_at] * len(bars),
    }


def signal_columns(refused: Sequence[RejectedSignal], *, ingested_at: int) -> dict[str, list[Any]]:
    """The rows of ``quarantine`` for refused signals: all that they have is their content."""
    fixed = {"kind": "signals", "venue": "", "symbol": "", "open_time": 0}
    return _repeated(len(refused), **fixed, ingested_at=ingested_at) | {
        "defect": [one.fault.value for one in refused],
        "content": [one.content or one.message for one in refused],
    }


def settlement_columns(
    refused: Sequence[RefusedSettlement], *, venue: str, ingested_at: int
) -> dict[str, list[Any]]:
    """The rows of ``quarantine`` for a venue's settlements that could not be read, by column."""
    fixed = {"kind": "settlements", "venue": venue, "defect": BarDefect.UNREADABLE.value}
    return _repeated(len(refused), **fixed, ingested_at=ingested_at) | {
        "symbol": [one.symbol for one in refused],
        "open_time": [one.funding_time for one in refused],
        "content": [one.content for one in refused],
    }


def _repeated(count: int, **values: object) -> dict[str, list[Any]]:
    """Columns of rows without an interval and without figures, with ``values`` in each."""
    values |= {"interval_ms": 0, **dict.fromkeys(TRADED, math.nan), **dict.fromkeys(OPTIONAL)}
    return {name: [value] * count for name, value in values.items()}
