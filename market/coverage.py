"""What the warehouse holds, as values: coverage of a symbol, and versions that were replaced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from market.bar import Settlement


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


def _slots(extent: BarExtent, interval_ms: int) -> int:
    return (extent.last_open_time - extent.first_open_time) // interval_ms + 1
