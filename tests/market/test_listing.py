"""Listings: what a venue changes about its instruments is noticed, recorded and lived with."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from decimal import Decimal

import pytest

from market import listing_watch
from market.bar import HOUR_MS, MINUTE_MS
from market.gap import Gap, GapKind
from market.instrument import Venue
from market.listing import ListingChange, ListingEvent
from market.sandbox.fault import Fault, FaultKind
from market.sandbox.rules import listed_symbols
from market.tables import TABLE_NAMES
from market.warehouse import Warehouse
from tests.market.rehearsal import T0, Rehearsal, minute, rehearsal

# A minute of rehearsal at a hundred times the speed: make sim.
pytestmark = pytest.mark.simulation

# One session in which each symbol has a change of its own

SYMBOLS = listed_symbols(Venue.BINANCEUSDM)[:5]
CLEAN, DELISTED, RENAMED, NOTIONAL, FUNDING = SYMBOLS
HEIR = "NEW/USDT:USDT"
BARS = 12
TROUBLES = (
    # What closed just before the delisting was not served until after it.
    Fault(kind=FaultKind.SILENCE, at=minute(2.5), duration_ms=90_000, symbols=(DELISTED,)),
    Fault(kind=FaultKind.OUTAGE_JSON, at=minute(2.5), duration_ms=150_000, symbols=(DELISTED,)),
    Fault(kind=FaultKind.DELISTING, at=minute(4), symbols=(DELISTED,)),
    Fault(kind=FaultKind.RENAMING, at=minute(5), symbols=(RENAMED,), renamed_to=HEIR),
    Fault(
        kind=FaultKind.MIN_NOTIONAL, at=minute(3), symbols=(NOTIONAL,), min_notional=Decimal("77")
    ),
    Fault(
        kind=FaultKind.FUNDING_INTERVAL,
        at=minute(3),
        symbols=(FUNDING,),
        funding_interval_minutes=60,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the session left behind."""

    changes: dict[str, ListingChange]
    gaps: dict[str, list[Gap]]
    wrong: dict[str, list[str]]
    counters: dict[str, int]
    counts: dict[str, int]
    gone: frozenset[str]
    missing: list[tuple[str, ...]]


async def rehearse(warehouse: Warehouse) -> Outcome:
    """Play the changes; the list is looked at every minute of the venue."""
    async with rehearsal(warehouse, SYMBOLS, faults=TROUBLES) as one:
        await one.play(BARS)
        await one.whole()
        return Outcome(
            changes=recorded(one),
            gaps=one.gaps(),
            wrong=await one.differences(minute(1), minute(BARS)),
            counters=dict(one.feed.counters),
            counts=one.feed.gap_counts,
            gone=one.feed.gone,
            missing=[close.missing for close in one.closes],
        )


def recorded(one: Rehearsal) -> dict[str, ListingChange]:
    """Return the one change of each symbol."""
    found = one.warehouse.listing_changes(
        venue=one.exchange.venue, since=T0, until=T0 + 2 * HOUR_MS
    )
    by_symbol = {change.symbol: change for change in found}
    assert len(by_symbol) == len(found)
    return by_symbol


@pytest.fixture(scope="module")
def outcome(warehouse: Warehouse) -> Outcome:
    """The session, played once for all tests that read it."""
    for name in TABLE_NAMES:
        warehouse._command(f"TRUNCATE TABLE {name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing_watch, "LOOK_MS", MINUTE_MS)
        return asyncio.run(rehearse(warehouse))


def test_every_change_is_recorded_and_counted(outcome: Outcome) -> None:
    """Four symbols, four rows with the time of notice; the clean one has none."""
    found = {
        symbol: (change.event, change.field, change.before, change.after)
        for symbol, change in outcome.changes.items()
    }
    assert found.pop(NOTIONAL)[:2] == (ListingEvent.RULE_CHANGED, "min_notional")
    assert found == {
        DELISTED: (ListingEvent.DELISTED, "", "", ""),
        RENAMED: (ListingEvent.RENAMED, "", "SOLUSDT", "NEWUSDT"),
        FUNDING: (ListingEvent.RULE_CHANGED, "funding_interval_minutes", "480", "60"),
    }
    assert Decimal(outcome.changes[NOTIONAL].after) == 77
    assert outcome.counters["listing_changes"] == 4
    assert outcome.counters["symbols_gone"] == 2
    assert minute(4) <= outcome.changes[DELISTED].noticed_at < minute(BARS)


def test_symbols_that_left_are_gone(outcome: Outcome) -> None:
    """Delisted and renamed ones; the heir is not followed by itself."""
    assert outcome.gone == {DELISTED, RENAMED}


def test_every_close_names_what_is_gone_and_nothing_else(outcome: Outcome) -> None:
    """From the delisting on it has no bar, and says so; the other symbols are whole."""
    assert all(DELISTED in missing for missing in outcome.missing[4:])
    assert all(RENAMED in missing for missing in outcome.missing[5:])
    assert {name for missing in outcome.missing[6:] for name in missing} == {DELISTED, RENAMED}


def test_the_last_bars_before_a_delisting_are_fetched(outcome: Outcome) -> None:
    """Bars that were out of reach when it left come afterwards, and every row is the venue's."""
    assert outcome.wrong == {symbol: [] for symbol in SYMBOLS}
    late = {gap.open_time: gap for gap in outcome.gaps[DELISTED] if gap.open_time < minute(4)}
    assert (late[minute(2)].closed_at or 0) >= minute(5)


def test_gaps_of_what_is_gone_end_as_absent(outcome: Outcome) -> None:
    """The first bars that it lacks are verified absent; later ones were never due: no gaps."""
    gaps = [gap for gap in outcome.gaps[DELISTED] if gap.open_time >= minute(4)]
    assert [gap.open_time for gap in gaps] == [minute(4 + number) for number in range(len(gaps))]
    assert 1 <= len(gaps) < BARS - 4 - 1
    assert {gap.kind for gap in gaps} == {GapKind.ABSENT}
    assert {gap.closed_at for gap in gaps} == {None}
    assert outcome.counts["deferred"] == 0


async def test_a_symbol_that_is_gone_is_not_waited_for(
    empty_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is known, closes take a fraction of the deadline of two seconds."""
    monkeypatch.setattr(listing_watch, "LOOK_MS", MINUTE_MS)
    delisting = Fault(kind=FaultKind.DELISTING, at=minute(-2), symbols=(DELISTED,))
    async with rehearsal(
        empty_warehouse, SYMBOLS, faults=(delisting,), deadline_seconds=2.0
    ) as one:
        await one.play(6)
        assert one.feed.gone == {DELISTED}
    assert max(one.late_seconds[2:]) < 1.0
