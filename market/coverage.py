"""What the warehouse holds, as values: coverage of a symbol, and versions that were replaced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from market.bar import Settlement
from market.gap import Gap, GapKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What is stored of one symbol at one interval.

    ``missing`` counts the bars absent between the first and the last, ``revisions`` the superseded
    versions of bars, ``settlements_without_mark`` those whose mark stays ``UNKNOWN`` after every
    fallback, ``quarantined`` the refused rows.
    """

    symbol: str
    first_open_time: int
    last_open_time: int
    bars: int
    missing: int
    mark_bars: int
    settlements: int
    settlements_without_mark: int
    revisions: int
    quarantined: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementCoverage:
    """The stored settlements of one symbol.

    Attributes:
        first_nominal_time, last_nominal_time: UTC milliseconds.
        settlements: how many.
        settlements_without_mark: those of which no mark is stored; a candle may give them one.
        has_bars: whether the symbol has bars, of whatever interval.
    """

    symbol: str
    first_nominal_time: int
    last_nominal_time: int
    settlements: int
    settlements_without_mark: int
    has_bars: bool

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> SettlementCoverage:
        """Read a row of ``tables.SELECT_SETTLEMENT_EXTENTS``."""
        symbol, first, last, settlements, without_mark, has_bars = row
        return cls(
            symbol=symbol,
            first_nominal_time=first,
            last_nominal_time=last,
            settlements=settlements,
            settlements_without_mark=without_mark,
            has_bars=bool(has_bars),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GapRange:
    """Consecutive missing bars of one symbol and one kind, between its first and its last bar.

    Attributes:
        first_open_time, last_open_time: the first and the last missing bar, UTC milliseconds.
        bars: how many are missing.
    """

    symbol: str
    kind: GapKind
    first_open_time: int
    last_open_time: int
    bars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hole:
    """Missing bars of one symbol, first_open_time <= open_time < until, of whatever kind."""

    symbol: str
    first_open_time: int
    until: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Superseded:
    """A version that a later one replaced; ``content`` holds its values as JSON."""

    symbol: str
    time: int
    ingested_at: int
    superseded_at: int
    origin: str
    content: str

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Superseded:
        """Read a row of ``tables.SELECT_SUPERSEDED_BARS``."""
        symbol, time, ingested_at, superseded_at, origin, content = row
        return cls(
            symbol=symbol,
            time=time,
            ingested_at=ingested_at,
            superseded_at=superseded_at,
            origin=origin,
            content=content,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BarExtent:
    """The stored bars of one symbol: first and last open time, and how many."""

    symbol: str
    first_open_time: int
    last_open_time: int
    bars: int

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> BarExtent:
        """Read a row of ``tables.SELECT_BAR_EXTENTS``."""
        return cls(symbol=row[0], first_open_time=row[1], last_open_time=row[2], bars=row[3])


def summarise_coverage(
    extents: Sequence[BarExtent],
    settlements: Sequence[Settlement],
    *,
    interval_ms: int,
    mark_bars: Mapping[str, int],
    revisions: Mapping[str, int],
    quarantined: Mapping[str, int],
) -> tuple[Coverage, ...]:
    """Put the counts of each symbol together; a symbol that a mapping lacks counts 0."""
    settled = Counter(item.symbol for item in settlements)
    unmarked = Counter(item.symbol for item in settlements if item.mark_price is None)
    return tuple(
        Coverage(
            symbol=extent.symbol,
            first_open_time=extent.first_open_time,
            last_open_time=extent.last_open_time,
            bars=extent.bars,
            missing=_slots(extent, interval_ms) - extent.bars,
            mark_bars=mark_bars.get(extent.symbol, 0),
            settlements=settled[extent.symbol],
            settlements_without_mark=unmarked[extent.symbol],
            revisions=revisions.get(extent.symbol, 0),
            quarantined=quarantined.get(extent.symbol, 0),
        )
        for extent in extents
    )


def gap_ranges(
    holes: Sequence[Hole], recorded: Iterable[Gap], *, interval_ms: int
) -> tuple[GapRange, ...]:
    """Part each hole into ranges of one kind; what nothing is recorded about is fetchable.

    Args:
        holes: in any order.
        recorded: what is known about missing bars; one that is closed, yet missing, says nothing.
        interval_ms: length of a bar.
    """
    kinds: dict[str, dict[int, GapKind]] = {}
    for gap in recorded:
        if gap.closed_at is None:
            kinds.setdefault(gap.symbol, {})[gap.open_time] = gap.kind
    ordered = sorted(holes, key=lambda hole: (hole.symbol, hole.first_open_time))
    return tuple(
        found for hole in ordered for found in _parts(hole, kinds.get(hole.symbol, {}), interval_ms)
    )


def _parts(hole: Hole, kinds: Mapping[int, GapKind], interval_ms: int) -> Iterable[GapRange]:
    start, times = hole.first_open_time, range(hole.first_open_time, hole.until, interval_ms)
    kind_at = [kinds.get(time, GapKind.FETCHABLE) for time in times] if kinds else []
    turns = [i for i in range(1, len(kind_at)) if kind_at[i] != kind_at[i - 1]]
    bounds = [0, *turns, len(times)]
    for first, end in pairwise(bounds):
        yield GapRange(
            symbol=hole.symbol,
            kind=kind_at[first] if kind_at else GapKind.FETCHABLE,
            first_open_time=start + first * interval_ms,
            last_open_time=start + (end - 1) * interval_ms,
            bars=end - first,
        )


def _slots(extent: BarExtent, interval_ms: int) -> int:
    return (extent.last_open_time - extent.first_open_time) // interval_ms + 1
