"""Turns the faults that are facts of the market into edits of its tape. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from market.sandbox.edits import (
    Delisting,
    FundingIntervalChange,
    MinNotionalChange,
    MissingBars,
    Renaming,
    VenueEdit,
)
from market.sandbox.fault import Fault, FaultKind


def edits_of(faults: Iterable[Fault], *, interval_ms: int) -> tuple[VenueEdit, ...]:
    """Return the faults that are facts of the market as edits of its tape.

    Times move down to the grid of ``interval_ms`` where a bar would be cut in two.
    """
    return tuple(edit for fault in faults for edit in _edits(fault, interval_ms))


def _edits(fault: Fault, interval_ms: int) -> list[VenueEdit]:
    at = fault.at - fault.at % interval_ms
    match fault.kind:
        case FaultKind.DELISTING:
            return [Delisting(symbol=one, at=at) for one in fault.symbols]
        case FaultKind.RENAMING:
            base = fault.renamed_to.partition("/")[0]
            return [Renaming(symbol=one, at=at, base=base) for one in fault.symbols]
        case FaultKind.FUNDING_INTERVAL:
            minutes = fault.funding_interval_minutes
            return [
                FundingIntervalChange(symbol=one, at=fault.at, minutes=minutes)
                for one in fault.symbols
            ]
        case FaultKind.MIN_NOTIONAL:
            return [
                MinNotionalChange(symbol=one, at=fault.at, min_notional=fault.min_notional)
                for one in fault.symbols
            ]
        case FaultKind.MISSING_BARS:
            until = -(-(fault.at + fault.duration_ms) // interval_ms) * interval_ms
            return [
                MissingBars(symbol=one, since=at, until=until) for one in fault.symbols or (None,)
            ]
        case _:
            return []
