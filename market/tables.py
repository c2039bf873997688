"""The warehouse's tables as values: their columns, their SELECTs, and how a row becomes a value.

Owns no connection and runs no statement.
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import Any, Generic

import pyarrow as pa

from market import facts
from market.bar import Bar, MarkBar, MarkSource, Settlement, bar_defect
from market.revision import V, Version, revise_bar, revise_mark_bar, revise_settlement

Row = Sequence[Any]
Parameters = dict[str, Any]


class Origin(enum.StrEnum):
    """How a bar reached us."""

    STREAM = "stream"
    REST = "rest"
    IMPORT = "import"


PRICES = ("open", "high", "low", "close")
TRADED = (*PRICES, "volume")
OPTIONAL = ("quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")


@dataclass(frozen=True, slots=True)
class Span:
    """A venue's rows of one interval with since <= time < until; 0 where no interval applies."""

    venue: str
    interval_ms: int
    since: int
    until: int

    def parameters(self, symbols: Sequence[str], **more: object) -> Parameters:
        """What the SELECTs of this module are bound to."""
        return asdict(self) | {"symbols": list(symbols)} | more


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(Generic[V]):
    """A table whose rows are versions of one kind of value.

    Attributes:
        name: as in ``market/schema``.
        time_column: the part of the key that says when it happened.
        fields: value columns; these and the time are named like the value's attributes.
        per_interval: whether ``interval_ms`` is part of the key.
        required: fields that always have a value and decide whether a version is another one.
        optional: fields that may be unknown; unknown says nothing about what is stored. A field in
            neither (the jitter of a settlement) never makes a revision by itself.
        types: Arrow type of each field, by name.
        keeps_origin: whether the table says where a row came from.
        build: makes a value from its symbol, its time and its fields.
        revise: the rule of ``market.revision`` for this kind.
        flaw: why a value must not be stored, or ``None``; takes the value and ``interval_ms``.
    """

    name: str
    time_column: str
    fields: tuple[str, ...]
    required: tuple[str, ...]
    optional: tuple[str, ...]
    types: Mapping[str, pa.DataType]
    per_interval: bool
    keeps_origin: bool
    build: Callable[[str, int, Row], V]
    revise: Callable[[V, V], V | None]
    flaw: Callable[[V, int], str | None]

    @property
    def time_of(self) -> Callable[[V], int]:
        """Reads a value's time."""
        return attrgetter(self.time_column)

    @property
    def key(self) -> Callable[[V], tuple[str, int]]:
        """Reads what identifies a value within one venue and interval."""
        return attrgetter("symbol", self.time_column)

    def columns(
        self, versions: Sequence[Version[V]], *, venue: str, interval_ms: int
    ) -> dict[str, list[Any]]:
        """Every column that an insert writes, by name."""
        values = [version.value for version in versions]
        columns: dict[str, list[Any]] = {"venue": [venue] * len(values)}
        if self.per_interval:
            columns["interval_ms"] = [interval_ms] * len(values)
        for name in ("symbol", self.time_column, *self.fields):
            columns[name] = list(map(attrgetter(name), values))
        if self.keeps_origin:
            columns["origin"] = [version.origin for version in versions]
        columns["ingested_at"] = [version.ingested_at for version in versions]
        return columns

    @property
    def where(self) -> str:
        """The condition that a ``Span`` and its symbols bind; always bounded in time."""
        interval = "AND interval_ms = {interval_ms:Int64} " if self.per_interval else ""
        return (
            f"WHERE venue = {{venue:String}} {interval}AND symbol IN {{symbols:Array(String)}} "
            f"AND {self.time_column} >= {{since:Int64}} AND {self.time_column} < {{until:Int64}}"
        )

    @property
    def select_times(self) -> str:
        """Statement: the times, ascending."""
        return (
            f"SELECT DISTINCT {self.time_column} FROM {self.name} {self.where} "
            f"ORDER BY {self.time_column}"
        )

    def select_versions(self, *, listed_times: bool = False) -> str:
        """Statement: rows for ``version``, by time and symbol.

        ``listed_times`` adds a condition on the parameter ``times``.
        """
        origin = "origin" if self.keeps_origin else "''"
        columns = ", ".join(("symbol", self.time_column, "ingested_at", origin, *self.fields))
        listed = f" AND {self.time_column} IN {{times:Array(Int64)}}" if listed_times else ""
        return (
            f"SELECT {columns} FROM {self.name} FINAL {self.where}{listed} "
            f"ORDER BY {self.time_column}, symbol"
        )

    @property
    def select_values(self) -> str:
        """Statement: symbol, time and fields, in no order."""
        columns = ", ".join(("symbol", self.time_column, *self.fields))
        return f"SELECT {columns} FROM {self.name} FINAL {self.where}"

    def version(self, row: Row) -> Version[V]:
        """Read a row of ``select_versions``."""
        value = self.build(row[0], row[1], row[4:])
        return Version(value=value, ingested_at=row[2], origin=row[3])


def superseded_columns(
    table: Table[V], replaced: Sequence[tuple[Version[V], int]], *, venue: str, interval_ms: int
) -> dict[str, list[Any]]:
    """The rows of ``superseded`` that keep replaced versions readable, by column.

    Args:
        table: where they were.
        replaced: versions, each with the ``ingested_at`` of the one that replaced it.
        venue: the venue of all of them.
        interval_ms: their interval; recorded as 0 where the table has none.
    """
    versions = [version for version, _ in replaced]
    return {
        "kind": [table.name] * len(versions),
        "venue": [venue] * len(versions),
        "interval_ms": [interval_ms if table.per_interval else 0] * len(versions),
        "symbol": [version.value.symbol for version in versions],
        "time": [table.time_of(version.value) for version in versions],
        "ingested_at": [version.ingested_at for version in versions],
        "superseded_at": [ended for _, ended in replaced],
        "origin": [version.origin for version in versions],
        "content": [content_of(version.value) for version in versions],
    }


def content_of(value: Bar | MarkBar | Settlement) -> str:
    """A value as JSON, without its symbol, as ``superseded`` and ``quarantine`` keep it."""
    content = asdict(value)
    del content["symbol"]
    return json.dumps(content, sort_keys=True)


# A dictionary: the enum's own look-up by value is five times slower, and long panels have many.
_MARK_SOURCES = {source.value: source for source in MarkSource}


def _build_bar(symbol: str, open_time: int, row: Row) -> Bar:
    return Bar(
        symbol=symbol,
        open_time=open_time,
        open=row[0],
        high=row[1],
        low=row[2],
        close=row[3],
        volume=row[4],
        quote_volume=row[5],
        trades=row[6],
        taker_buy_volume=row[7],
        taker_buy_quote_volume=row[8],
    )


def _build_mark_bar(symbol: str, open_time: int, row: Row) -> MarkBar:
    return MarkBar(
        symbol=symbol, open_time=open_time, open=row[0], high=row[1], low=row[2], close=row[3]
    )


def _build_settlement(symbol: str, _nominal_time: int, row: Row) -> Settlement:
    return Settlement(
        symbol=symbol,
        funding_time=row[0],
        rate=row[1],
        mark_price=row[2],
        mark_source=_MARK_SOURCES[row[3]],
    )


def _mark_bar_flaw(candle: MarkBar, interval_ms: int) -> str | None:
    prices = (candle.open, candle.high, candle.low, candle.close)
    if not all(math.isfinite(price) and price > 0 for price in prices):
        return "a price that is not a positive number"
    return "open_time not aligned" if candle.open_time % interval_ms else None


def _settlement_flaw(settlement: Settlement, _interval_ms: int) -> str | None:
    if not math.isfinite(settlement.rate):
        return "a rate that is not finite"
    if (settlement.mark_price is None) != (settlement.mark_source is MarkSource.UNKNOWN):
        return "a mark price that contradicts its source"
    if settlement.mark_price is not None and not math.isfinite(settlement.mark_price):
        return "a mark price that is not finite"
    return None


BARS: Table[Bar] = Table(
    name="bars",
    time_column="open_time",
    fields=(*TRADED, *OPTIONAL),
    required=TRADED,
    optional=OPTIONAL,
    types=dict.fromkeys((*TRADED, *OPTIONAL), pa.float64()) | {"trades": pa.int64()},
    per_interval=True,
    keeps_origin=True,
    build=_build_bar,
    revise=revise_bar,
    flaw=bar_defect,
)
MARK_BARS: Table[MarkBar] = Table(
    name="mark_bars",
    time_column="open_time",
    fields=PRICES,
    required=PRICES,
    optional=(),
    types=dict.fromkeys(PRICES, pa.float64()),
    per_interval=True,
    keeps_origin=False,
    build=_build_mark_bar,
    revise=revise_mark_bar,
    flaw=_mark_bar_flaw,
)
SETTLEMENTS: Table[Settlement] = Table(
    name="settlements",
    time_column="nominal_time",
    fields=("funding_time", "rate", "mark_price", "mark_source"),
    required=("rate",),
    optional=("mark_price", "mark_source"),
    types={
        "funding_time": pa.int64(),
        "rate": pa.float64(),
        "mark_price": pa.float64(),
        "mark_source": pa.string(),
    },
    per_interval=False,
    keeps_origin=False,
    build=_build_settlement,
    revise=revise_settlement,
    flaw=_settlement_flaw,
)

# Panel cells: `asset` is the position in the parameter `universe`; NaN where nothing is known.
_BAR_CELLS = (
    "SELECT toInt64(indexOf({universe:Array(String)}, symbol)) - 1 AS asset, open_time, "
    "open, high, low, close, volume, ifNull(quote_volume, nan) AS quote_volume, "
    "ifNull(toFloat64(trades), nan) AS trades, ifNull(taker_buy_volume, nan) AS taker_buy_volume "
)
_MARK_CELLS = (
    "SELECT toInt64(indexOf({universe:Array(String)}, symbol)) - 1 AS asset, open_time, "
    "open AS mark_open, high AS mark_high, low AS mark_low, close AS mark_close "
)


def select_bar_cells(*, final: bool) -> str:
    """Statement: cells of bars; without ``final`` every version that no merge has removed."""
    return f"{_BAR_CELLS}FROM bars {'FINAL ' if final else ''}{BARS.where}"


def select_mark_cells(*, final: bool) -> str:
    """Statement: cells of mark candles, as ``select_bar_cells``."""
    return f"{_MARK_CELLS}FROM mark_bars {'FINAL ' if final else ''}{MARK_BARS.where}"


SELECT_SUPERSEDED_BARS = (
    "SELECT symbol, time, ingested_at, superseded_at, origin, content FROM superseded FINAL "
    "WHERE kind = 'bars' AND venue = {venue:String} AND interval_ms = {interval_ms:Int64} "
    "AND symbol IN {symbols:Array(String)} AND time >= {since:Int64} AND time < {until:Int64} "
    "ORDER BY time, ingested_at"
)
OF_INTERVAL = "WHERE venue = {venue:String} AND interval_ms = {interval_ms:Int64}"
SELECT_BAR_EXTENTS = (
    "SELECT symbol, min(open_time), max(open_time), uniqExact(open_time) "
    f"FROM bars {OF_INTERVAL} GROUP BY symbol ORDER BY symbol"
)
SELECT_SCOPES = (
    "SELECT venue, interval_ms FROM bars GROUP BY venue, interval_ms ORDER BY venue, interval_ms"
)
SELECT_SETTLEMENT_VENUES = "SELECT DISTINCT venue FROM settlements ORDER BY venue"
SELECT_SETTLEMENT_EXTENTS = (
    "SELECT symbol, min(nominal_time), max(nominal_time), count(), countIf(mark_price IS NULL), "
    "symbol IN (SELECT symbol FROM bars WHERE venue = {venue:String}) "
    "FROM settlements FINAL WHERE venue = {venue:String} GROUP BY symbol ORDER BY symbol"
)
SELECT_NEWEST_CLOSE = "SELECT maxOrNull(open_time + interval_ms) FROM bars"
COUNT_MARK_BARS = (
    f"SELECT symbol, uniqExact(open_time) FROM mark_bars {OF_INTERVAL} GROUP BY symbol"
)
COUNT_REVISIONS = (
    f"SELECT symbol, count() FROM superseded FINAL {OF_INTERVAL} AND kind = 'bars' GROUP BY symbol"
)
# Where a symbol's bars end, before a hole, and where they begin again after it.
SELECT_HOLES = (
    "SELECT symbol, before, open_time FROM (SELECT symbol, open_time, "
    "lagInFrame(open_time, 1, open_time) OVER "
    "(PARTITION BY symbol ORDER BY open_time ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS before "
    f"FROM bars {OF_INTERVAL}) WHERE open_time - before > {{interval_ms:Int64}} "
    "ORDER BY symbol, open_time"
)


def select_values32(columns: Sequence[str], *, final: bool) -> str:
    """Statement: ``bar`` (UInt32, counted from ``since``) and each column as Float32 or null.

    Without ``final`` it is twice as fast, and until parts are merged, a revised bar comes more than
    once.
    """
    values = ", ".join(f"toFloat32({name}) AS value_{idx}" for idx, name in enumerate(columns))
    return (
        "SELECT toUInt32(intDiv(open_time - {since:Int64}, {interval_ms:Int64})) AS bar, "
        f"{values} FROM bars {'FINAL ' if final else ''}{BARS.where}"
    )


def select_opens_at_settlements(table: Table[V]) -> str:
    """Statement: symbol, open_time, open of the candles that open when a settlement fell due."""
    due = f"SELECT nominal_time FROM settlements {SETTLEMENTS.where}"
    return (
        f"SELECT symbol, open_time, open FROM {table.name} FINAL {table.where} "
        f"AND open_time IN ({due})"
    )


TABLE_NAMES = (
    *(BARS.name, MARK_BARS.name, SETTLEMENTS.name, "superseded", "quarantine"),
    *facts.TABLE_NAMES,
)
