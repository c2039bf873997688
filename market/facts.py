"""Tables of facts that are recorded once: gaps, quotes, order books, listing changes, signals.

Each value is one row; how a value becomes a row and back, and the SELECTs. Owns no connection and
runs no statement. The tables of bars, candles and settlements, which have revisions, are in
``market.tables``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Generic, TypeVar

from market.gap import Gap, GapKind
from market.listing import ListingChange, ListingEvent
from market.quote import OrderBook, Quote
from market.signals import LONGEST_LAG_MS, Signal, Stream, stamped

F = TypeVar("F")
Row = Sequence[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class FactTable(Generic[F]):
    """A table whose rows are values of one kind.

    Attributes:
        name: as in ``market/schema``.
        scope: columns that every row of a call shares, such as the venue.
        time_column: what a read is bounded by.
        columns: reads each column out of a value.
        build: makes a value from its columns, in their order.
        sound: a condition that every read adds, against rows of an earlier program that could not
            be built; empty for none.
    """

    name: str
    scope: tuple[str, ...]
    time_column: str
    columns: Mapping[str, Callable[[F], Any]]
    build: Callable[[Row], F]
    sound: str = ""

    def rows(self, values: Sequence[F], **scope: object) -> dict[str, list[Any]]:
        """Every column that an insert writes, by name."""
        shared = {name: [scope[name]] * len(values) for name in self.scope}
        return shared | {name: list(map(read, values)) for name, read in self.columns.items()}

    def select(self, *conditions: str) -> str:
        """Statement: columns for ``build`` with since <= time < until, by time."""
        types = {"venue": "String", "interval_ms": "Int64"}
        where = [f"{name} = {{{name}:{types[name]}}}" for name in self.scope]
        where += [f"{self.time_column} >= {{since:Int64}}", f"{self.time_column} < {{until:Int64}}"]
        where += [self.sound] if self.sound else []
        return (
            f"SELECT {', '.join(self.columns)} FROM {self.name} FINAL "
            f"WHERE {' AND '.join((*where, *conditions))} ORDER BY {', '.join(self.columns)}"
        )


OF_SYMBOLS = "symbol IN {symbols:Array(String)}"
OF_SOURCES = "source IN {sources:Array(String)}"
# A lag of centuries overflows the arithmetic of the join, and never counts anyway.
_SOUND_LAG = f"lag_ms BETWEEN 0 AND {LONGEST_LAG_MS}"
STILL_MISSING = "closed_at IS NULL"


def _named(names: Iterable[str]) -> dict[str, Callable[[Any], Any]]:
    return {name: attrgetter(name) for name in names}


_GAP = (
    "open_time", "symbol", "kind", "noticed_at", "updated_at", "attempts", "reason", "closed_at",
)  # fmt: skip


def _gap(row: Row) -> Gap:
    return Gap(**dict(zip(_GAP, row, strict=True)) | {"kind": GapKind(row[2])})


_QUOTE = (
    "available_at", "symbol", "event_time", "bid", "bid_quantity", "ask", "ask_quantity",
    "mark_price", "index_price", "predicted_funding_rate", "next_funding_time",
)  # fmt: skip


def _quote(row: Row) -> Quote:
    return Quote(**dict(zip(_QUOTE, row, strict=True)))


def _book(row: Row) -> OrderBook:
    return OrderBook(
        decision_time=row[0],
        symbol=row[1],
        event_time=row[2],
        available_at=row[3],
        update_id=row[4],
        bids=tuple(zip(row[5], row[6], strict=True)),
        asks=tuple(zip(row[7], row[8], strict=True)),
    )


def _listing_change(row: Row) -> ListingChange:
    return ListingChange(
        noticed_at=row[0],
        symbol=row[1],
        event=ListingEvent(row[2]),
        field=row[3],
        before=row[4],
        after=row[5],
    )


_SIGNAL = (
    "published_at", "event_time", "source", "version", "name", "symbol", "ingested_at", "value",
    "is_backfilled", "lag_ms",
)  # fmt: skip


def _signal(row: Row) -> Signal:
    return Signal(**dict(zip(_SIGNAL, row, strict=True)))


GAPS: FactTable[Gap] = FactTable(
    name="gaps",
    scope=("venue", "interval_ms"),
    time_column="open_time",
    columns=_named(_GAP),
    build=_gap,
)
QUOTES: FactTable[Quote] = FactTable(
    name="quotes",
    scope=("venue",),
    time_column="available_at",
    columns=_named(_QUOTE),
    build=_quote,
)
BOOKS: FactTable[OrderBook] = FactTable(
    name="books",
    scope=("venue",),
    time_column="decision_time",
    columns=_named(("decision_time", "symbol", "event_time", "available_at", "update_id"))
    | {
        "bid_prices": lambda book: [price for price, _ in book.bids],
        "bid_quantities": lambda book: [quantity for _, quantity in book.bids],
        "ask_prices": lambda book: [price for price, _ in book.asks],
        "ask_quantities": lambda book: [quantity for _, quantity in book.asks],
    },
    build=_book,
)
LISTING_CHANGES: FactTable[ListingChange] = FactTable(
    name="listing_changes",
    scope=("venue",),
    time_column="noticed_at",
    columns=_named(("noticed_at", "symbol", "event", "field", "before", "after")),
    build=_listing_change,
)
SIGNALS: FactTable[Signal] = FactTable(
    name="signals",
    scope=(),
    time_column="published_at",
    columns=_named(_SIGNAL),
    build=_signal,
    sound=_SOUND_LAG,
)

SELECT_STREAM_STARTS = (
    "SELECT source, version, name, min(ingested_at) FROM signals "
    f"WHERE source IN {{sources:Array(String)}} AND {_SOUND_LAG} GROUP BY source, version, name"
)
SELECT_NEWEST_EVENT = (
    "SELECT maxOrNull(event_time) FROM signals WHERE source = {source:String} "
    "AND version = {version:String} AND published_at < {until:Int64}"
)
TABLE_NAMES = (GAPS.name, QUOTES.name, BOOKS.name, LISTING_CHANGES.name, SIGNALS.name)


def new_signals(
    stored: Iterable[Signal], incoming: Sequence[Signal], *, began: Mapping[Stream, int]
) -> list[Signal]:
    """Return the rows of ``incoming`` that say something new, in their order and with their stamps.

    A live row is compared with the one of its key that was stored last, so a value that returns to
    what it was is news again, and a repeated one is not; it is news as well where that one cannot
    be used yet. A back-filled row is compared with every version of its key, since a file that
    holds several of them may come again; its other lag is news, whether it was back-filled is not.

    Args:
        stored: every stored row of the keys of ``incoming``.
        incoming: rows stamped with the moment of this insert.
        began: when each stream that has rows was first stored.
    """
    versions: dict[tuple[object, ...], list[Signal]] = {}
    for row in sorted(stored, key=attrgetter("ingested_at")):
        versions.setdefault(row.key, []).append(row)
    news: list[Signal] = []
    for row in incoming:
        known = versions.setdefault(row.key, [])
        # The beginning of a stream decides what counts (``market.signal_join``), and a daemon keeps
        # it: it must never fall, though whoever stored first may have stamped ahead of our clock.
        # A revision is later than what it revises, also where the clock went back.
        revised = known[-1].ingested_at + 1 if known else 0
        row = stamped(row, max(row.ingested_at, began.get(row.stream, 0), revised))
        if not _is_known(row, known):
            known.append(row)
            news.append(row)
    return news


def _is_known(row: Signal, versions: Sequence[Signal]) -> bool:
    """Whether a row says nothing beyond the stored versions of its key, oldest first."""
    if row.is_backfilled:
        return any(
            one.value == row.value and (not one.is_backfilled or one.lag_ms == row.lag_ms)
            for one in versions
        )
    if not versions or versions[-1].value != row.value:
        return False
    return max(versions[-1].available_at, versions[-1].ingested_at) <= row.available_at
