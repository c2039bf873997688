"""How complete and how fresh the stored market data are, as values.

It reads the warehouse and judges; it writes nothing and asks no venue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from market.bar import DAY_MS
from market.coverage import Coverage, GapRange, SettlementCoverage
from market.gap import GapKind
from market.listing import ListingChange
from market.warehouse import Warehouse

STALE_INTERVALS = 2  # a bar that is this late has been missed
_END_OF_TIME = 1 << 62

Scope = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolReport:
    """What is stored of one symbol.

    Attributes:
        gaps: missing bars between its first and last, by kind.
        quotes, books: recorded in the day before its newest bar.
        age_ms: since its newest bar closed.
        is_stale: whether a later bar should be there by now.
    """

    coverage: Coverage
    gaps: Mapping[GapKind, int]
    quotes: int
    books: int
    age_ms: int
    is_stale: bool

    @property
    def expected(self) -> int:
        """Bars that there would be without gaps."""
        return self.coverage.bars + self.coverage.missing


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeReport:
    """What is stored of one venue and interval.

    Attributes:
        judged_at: the moment that ages are counted to, UTC milliseconds.
        quarantine: refused rows by (symbol, reason); settlements have no interval and are
            counted with every interval of their venue.
    """

    venue: str
    interval_ms: int
    judged_at: int
    symbols: tuple[SymbolReport, ...]
    ranges: tuple[GapRange, ...]
    quarantine: Mapping[tuple[str, str], int]
    listing: tuple[ListingChange, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """What should be looked after; none where all is well. An absent bar is no problem."""
        missing = sum(
            count
            for one in self.symbols
            for kind, count in one.gaps.items()
            if kind is not GapKind.ABSENT
        )
        stale = [one.coverage.symbol for one in self.symbols if one.is_stale]
        found = []
        if missing:
            found.append(f"{missing} missing bars that the venue may have")
        if stale:
            found.append(f"no recent bars of {', '.join(stale)}")
        if refused := sum(self.quarantine.values()):
            found.append(f"{refused} rows in quarantine")
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementsReport:
    """What a venue has of symbols with settlements and without bars, which no scope shows.

    Attributes:
        quarantine: refused settlements by (symbol, reason), where the venue has no bars at all;
            else its scopes count them.
    """

    venue: str
    symbols: tuple[SettlementCoverage, ...]
    quarantine: Mapping[tuple[str, str], int]

    @property
    def problems(self) -> tuple[str, ...]:
        """What should be looked after; none where all is well."""
        refused = sum(self.quarantine.values())
        return (f"{refused} rows in quarantine",) if refused else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReport:
    """What is stored of one stream of signals; times are of publication."""

    source: str
    version: str
    name: str
    rows: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalsReport:
    """What is stored of all signals; they belong to no venue.

    Attributes:
        quarantine: refused rows by reason.
    """

    streams: tuple[StreamReport, ...]
    quarantine: Mapping[str, int]

    @property
    def problems(self) -> tuple[str, ...]:
        """What should be looked after; none where all is well."""
        refused = sum(self.quarantine.values())
        return (f"{refused} signals in quarantine",) if refused else ()


def check_scope(
    warehouse: Warehouse, scope: Scope, *, symbols: Sequence[str] | None, now: int | None
) -> ScopeReport:
    """Report on one venue and interval.

    Args:
        warehouse: open.
        scope: venue and interval.
        symbols: only these; ``None`` for all.
        now: the moment that bars should have come up to, UTC milliseconds; ``None`` for the
            newest bar of the scope, so that a symbol which lags behind the others is stale.
    """
    venue, interval_ms = scope
    everything = warehouse.coverage(venue=venue, interval_ms=interval_ms)
    newest = max(one.last_open_time for one in everything) + interval_ms
    judged_at = newest if now is None else now
    chosen = [one for one in everything if symbols is None or one.symbol in symbols]
    names = [one.symbol for one in chosen]
    ranges = warehouse.gap_ranges(venue=venue, interval_ms=interval_ms, symbols=names)
    recent: dict[str, Any] = {"venue": venue, "since": newest - DAY_MS, "until": _END_OF_TIME}
    quotes = Counter(one.symbol for one in warehouse.quotes(names, **recent))
    books = Counter(one.symbol for one in warehouse.books(names, **recent))
    return ScopeReport(
        venue=venue,
        interval_ms=interval_ms,
        judged_at=judged_at,
        symbols=tuple(
            SymbolReport(
                coverage=one,
                gaps=_gap_counts(one.symbol, ranges),
                quotes=quotes[one.symbol],
                books=books[one.symbol],
                age_ms=(age_ms := judged_at - one.last_open_time - interval_ms),
                is_stale=age_ms >= STALE_INTERVALS * interval_ms,
            )
            for one in chosen
        ),
        ranges=ranges,
        quarantine=_of(symbols, _quarantine(warehouse, scope)),
        listing=tuple(
            change
            for change in warehouse.listing_changes(venue=venue, since=0, until=_END_OF_TIME)
            if symbols is None or change.symbol in symbols
        ),
    )


def check_settlements(
    warehouse: Warehouse, *, symbols: Sequence[str] | None
) -> tuple[SettlementsReport, ...]:
    """Report on each venue that has settlements of symbols without bars.

    Args:
        warehouse: open.
        symbols: only these; ``None`` for all.
    """
    with_bars = {venue for venue, _interval_ms in warehouse.scopes()}
    reports = []
    for venue in warehouse.settlement_venues():
        alone = tuple(
            one
            for one in warehouse.settlement_coverage(venue=venue)
            if not one.has_bars and (symbols is None or one.symbol in symbols)
        )
        refused = {} if venue in with_bars else _quarantine(warehouse, (venue, 0))
        if alone:
            reports.append(
                SettlementsReport(venue=venue, symbols=alone, quarantine=_of(symbols, refused))
            )
    return tuple(reports)


def check_signals(warehouse: Warehouse) -> SignalsReport:
    """Report on every stream of signals, and on what was refused of any."""
    times: dict[tuple[str, str, str], list[int]] = {}
    for signal in warehouse.signals(since=0, until=_END_OF_TIME):
        times.setdefault(signal.stream, []).append(signal.published_at)
    streams = tuple(
        StreamReport(
            source=source,
            version=version,
            name=name,
            rows=len(all_of),
            first=min(all_of),
            last=max(all_of),
        )
        for (source, version, name), all_of in sorted(times.items())
    )
    # A refused row is of no venue, and of no symbol that could be believed.
    refused = Counter[str]()
    for (_symbol, reason), rows in warehouse.quarantine.counts(venue="", interval_ms=0).items():
        refused[reason] += rows
    return SignalsReport(streams=streams, quarantine=dict(sorted(refused.items())))


def _gap_counts(symbol: str, ranges: Sequence[GapRange]) -> dict[GapKind, int]:
    counts = dict.fromkeys(GapKind, 0)
    for one in ranges:
        if one.symbol == symbol:
            counts[one.kind] += one.bars
    return counts


def _quarantine(warehouse: Warehouse, scope: Scope) -> Counter[tuple[str, str]]:
    venue, interval_ms = scope
    refused = Counter[tuple[str, str]]()
    for one in {interval_ms, 0}:
        refused.update(warehouse.quarantine.counts(venue=venue, interval_ms=one))
    return refused


def _of(
    symbols: Sequence[str] | None, counts: Mapping[tuple[str, str], int]
) -> dict[tuple[str, str], int]:
    return {key: n for key, n in sorted(counts.items()) if symbols is None or key[0] in symbols}
