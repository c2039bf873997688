"""Repair: every trouble of one symbol ends in the venue's truth, and touches no other symbol.

One session in which each symbol has a trouble of its own, over real sockets; the tests read what
came of it.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

import pytest

from market.bar import DAY_MS, HOUR_MS, MINUTE_MS
from market.clock import monotonic_seconds
from market.gap import Gap, GapKind
from market.instrument import Venue
from market.sandbox.fault import Fault, FaultKind, Place
from market.sandbox.rules import listed_symbols
from market.tables import TABLE_NAMES
from market.warehouse import Warehouse
from tests.market import fault_proxy as proxy_fault
from tests.market.rehearsal import T0, minute, rehearsal
from tests.market.sandbox_client import T0 as T0_HOURLY
from tests.market.sandbox_client import T0_BAR
from tests.market.small_tape import BTC, small_tape
from tests.market.test_ingest import FUNDING, KLINES, MARKS, fail, running, scene

# A minute of rehearsal at a hundred times the speed: make sim.
pytestmark = pytest.mark.simulation

SYMBOLS = listed_symbols(Venue.BINANCEUSDM)[:10]
(
    CLEAN, MISSING, NAN, WRONG_FIRST, WRONG_AFTER, DISORDER, STAYS, LATE, OUTAGE, QUIET,
) = SYMBOLS  # fmt: skip
BARS = 11


def fault(kind: FaultKind, symbol: str, *, at: float, minutes: float, **how: object) -> Fault:
    """Return a fault of one symbol from so many minutes after T0 on."""
    span = {"at": minute(at), "duration_ms": round(minutes * MINUTE_MS)}
    return Fault(kind=kind, symbols=(symbol,), **span, **how)  # type: ignore[arg-type]


# A bar's final frame is sent a minute after the bar opened: what is on from minute 2.5 to 4.5
# spoils the finals of the bars 2 and 3.
TROUBLES = (
    fault(FaultKind.MISSING_BARS, MISSING, at=2, minutes=2),
    fault(FaultKind.NAN_FIELDS, NAN, at=2.5, minutes=2, place=Place.BOTH),
    fault(FaultKind.DUPLICATE_FINAL, WRONG_FIRST, at=2.5, minutes=2, wrong_first=True),
    fault(FaultKind.DUPLICATE_FINAL, WRONG_AFTER, at=2.5, minutes=2),
    fault(FaultKind.OUT_OF_ORDER, DISORDER, at=2.5, minutes=2),
    fault(FaultKind.FORMING_STAYS, STAYS, at=2.5, minutes=3),
    fault(FaultKind.LATE_FINAL, LATE, at=2.5, minutes=1, delay_ms=90_000),
    fault(FaultKind.OUTAGE_JSON, OUTAGE, at=2.5, minutes=3),
    fault(FaultKind.FORMING_STAYS, OUTAGE, at=2.5, minutes=2),
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a session left behind: gaps, wrong cells and revisions by symbol, and counters."""

    gaps: dict[str, list[Gap]]
    wrong: dict[str, list[str]]
    quarantined: dict[str, int]
    revised: dict[str, list[int]]
    counters: dict[str, int]
    counts: dict[str, int]
    missing: list[tuple[str, ...]]


async def rehearse(warehouse: Warehouse) -> Outcome:
    """Play the troubles and wait until nothing can be repaired any more."""
    async with rehearsal(warehouse, SYMBOLS, faults=TROUBLES) as one:
        await one.play(BARS)
        await one.whole()
        counts = warehouse.quarantine.counts(venue=one.exchange.venue, interval_ms=MINUTE_MS)
        quarantined = dict.fromkeys(SYMBOLS, 0)
        for (symbol, _), count in counts.items():
            quarantined[symbol] += count
        # The feed may start up slowly: what it missed before the first trouble is no matter.
        gaps = {
            symbol: [gap for gap in gaps if gap.open_time >= minute(2)]
            for symbol, gaps in one.gaps().items()
        }
        return Outcome(
            gaps=gaps,
            wrong=await one.differences(T0, minute(BARS)),
            quarantined=quarantined,
            revised={symbol: revised_bars(warehouse, symbol) for symbol in SYMBOLS},
            counters=dict(one.feed.counters),
            counts=one.feed.gap_counts,
            missing=[close.missing for close in one.closes[2:]],
        )


def revised_bars(warehouse: Warehouse, symbol: str) -> list[int]:
    """Return the open times of which an earlier version was stored."""
    superseded = warehouse.revisions(
        symbol,
        venue=Venue.BINANCEUSDM,
        interval_ms=MINUTE_MS,
        since=T0,
        until=minute(BARS),
    )
    return sorted({one.time for one in superseded})


def emptied(warehouse: Warehouse) -> Warehouse:
    """Return the shared warehouse without a row."""
    for name in TABLE_NAMES:
        warehouse._command(f"TRUNCATE TABLE {name}")
    return warehouse


@pytest.fixture(scope="module")
def outcome(warehouse: Warehouse) -> Outcome:
    """The session, played once for all tests that read it."""
    return asyncio.run(rehearse(emptied(warehouse)))


def test_the_warehouse_ends_with_the_truth(outcome: Outcome) -> None:
    """After every trouble each stored field of each bar is the venue's own, and none is extra."""
    assert outcome.wrong == {symbol: [] for symbol in SYMBOLS}


def test_a_bar_that_the_venue_lacks_is_recorded_as_absent(outcome: Outcome) -> None:
    """Two looks, then the gap is a row of its own, with its reason, and stays open."""
    gaps = outcome.gaps[MISSING]
    assert [(gap.open_time, gap.kind) for gap in gaps] == [
        (minute(2), GapKind.ABSENT),
        (minute(3), GapKind.ABSENT),
    ]
    assert {gap.closed_at for gap in gaps} == {None}
    assert all("later bars" in gap.reason for gap in gaps)
    assert all(gap.attempts >= 2 for gap in gaps)
    assert outcome.counts == {"fetchable": 0, "absent": 2, "deferred": 0}


def test_an_outage_defers_and_is_repaired(outcome: Outcome) -> None:
    """A 503 is not an absence: the gap says why it was deferred, and when it was closed."""
    gaps = outcome.gaps[OUTAGE]
    assert minute(2) in {gap.open_time for gap in gaps}
    deferred = [gap for gap in gaps if gap.kind is GapKind.DEFERRED]
    assert deferred
    assert all("503" in gap.reason for gap in deferred)
    assert all(gap.closed_at is not None and gap.closed_at >= minute(5.5) for gap in deferred)


def test_prices_that_are_no_numbers_are_quarantined_and_repaired(outcome: Outcome) -> None:
    """Frames and rows of NaN are kept apart under their symbol; the true rows come later."""
    assert outcome.quarantined[NAN] >= 2
    assert sum(outcome.quarantined.values()) == outcome.quarantined[NAN]
    gaps = {gap.open_time: gap for gap in outcome.gaps[NAN]}
    assert gaps[minute(2)].closed_at is not None
    assert gaps[minute(2)].kind is not GapKind.ABSENT


def test_two_versions_of_a_bar_are_settled_by_rest(outcome: Outcome) -> None:
    """Two bars of two symbols came twice with other values: counted, and the wrong one revised.

    Where the true version came first nothing was wrong, so nothing was revised.
    """
    assert outcome.counters["bars_conflicting"] >= 4
    assert outcome.revised[WRONG_FIRST] == [minute(2), minute(3)]
    assert outcome.revised[WRONG_AFTER] == []


def test_forming_values_are_never_stored(outcome: Outcome) -> None:
    """Bars that closed late, or went on forming, were stored once, with their final values."""
    assert outcome.revised[LATE] == []
    assert outcome.revised[STAYS] == []
    assert {symbol for symbol, bars in outcome.revised.items() if bars} == {WRONG_FIRST}


def test_bars_in_the_wrong_order_are_both_taken(outcome: Outcome) -> None:
    """The earlier bar comes after the later one, or REST was quicker: counted as out of order."""
    assert outcome.counters["bars_out_of_order"] >= 1


def test_a_bar_that_goes_on_forming_is_fetched(outcome: Outcome) -> None:
    """Its final frame never comes: three bars of it were repaired by REST."""
    assert outcome.counters["gaps_repaired"] >= 3


def test_the_closes_name_only_symbols_in_trouble(outcome: Outcome) -> None:
    """Symbols without a trouble are in every close; the others come back."""
    named = {symbol for missing in outcome.missing for symbol in missing}
    assert named <= {MISSING, NAN, DISORDER, STAYS, LATE, OUTAGE}
    assert MISSING in named
    assert outcome.missing[-1] == ()


def test_symbols_without_trouble_have_no_gap(outcome: Outcome) -> None:
    """Nothing is written into the book of a symbol whose bars came."""
    for symbol in (CLEAN, QUIET, WRONG_FIRST, WRONG_AFTER):
        assert outcome.gaps[symbol] == []


async def test_one_bad_symbol_never_changes_the_other_nine(empty_warehouse: Warehouse) -> None:
    """Silent, then without bars while its requests stall: the rows of the others are the truth."""
    troubles = (
        fault(FaultKind.MISSING_BARS, WRONG_FIRST, at=4, minutes=2),
        fault(FaultKind.STALL, WRONG_FIRST, at=4.5, minutes=3),
    )
    async with rehearsal(empty_warehouse, SYMBOLS, faults=troubles) as one:
        await one.play(8)
        wrong = await one.differences(T0, minute(8))
    others = [symbol for symbol in SYMBOLS if symbol != WRONG_FIRST]
    assert {symbol: wrong[symbol] for symbol in others} == {symbol: [] for symbol in others}
    assert all(set(close.missing) <= {WRONG_FIRST} for close in one.closes[3:])


def without_bars_of_sol(frame: str) -> list[str]:
    """Drop the frames of one symbol."""
    return [] if "SOLUSDT" in frame else [frame]


async def test_a_doubt_lasts_until_rest_has_settled_it(empty_warehouse: Warehouse) -> None:
    """REST that does not list a doubtful bar yet has not confirmed it: it is asked again."""

    def double(frame: str) -> list[str]:
        message = json.loads(frame)
        if message.get("s") != "BTCUSDT" or not message["k"]["x"]:
            return [frame]
        message["k"]["c"] = message["k"]["l"]
        return [json.dumps(message), frame]

    nothing = [proxy_fault.Fault(body="[]")] * 2
    async with scene(empty_warehouse) as one, running(one.feed):
        await one.backfill(since=T0_HOURLY - DAY_MS)
        one.proxy.rewrite = double
        one.proxy.answer = lambda path: (
            nothing.pop() if nothing and path.startswith(KLINES) and "BTCUSDT" in path else None
        )
        for hour in range(5):
            await one.close(T0_HOURLY + hour * HOUR_MS)
            await asyncio.sleep(0.6)
    assert nothing == []
    stored = empty_warehouse.load_panel(
        [BTC],
        venue=one.exchange.venue,
        interval_ms=HOUR_MS,
        since=T0_HOURLY,
        until=T0_HOURLY + 3 * HOUR_MS,
    )
    taped = small_tape(Venue.BINANCEUSDM).panel.close[T0_BAR : T0_BAR + 3, 0]
    assert stored.close[:, 0].tolist() == taped.tolist()


async def test_a_doubt_that_cannot_be_settled_is_asked_for_now_and_then(
    empty_warehouse: Warehouse,
) -> None:
    """While REST is down, one doubtful bar costs one request a minute, not one per look."""
    async with scene(empty_warehouse) as one, running(one.feed):
        await one.backfill(since=T0_HOURLY - DAY_MS)
        await one.close(T0_HOURLY)
        one.proxy.requests.clear()
        one.proxy.answer = fail(KLINES, DOWN)
        one.feed._intake.doubts[BTC] = {T0_HOURLY}
        await asyncio.sleep(1.5)  # six looks of the mender, in which the venue's clock stands
        bar = f"symbol=BTCUSDT&interval=1h&startTime={T0_HOURLY}&"
        asked = one.proxy.asked(bar)
    assert len(asked) == 1


DOWN = proxy_fault.Fault(status=502, body="<html></html>", content_type="text/html")
STALLED = proxy_fault.Fault(body="[]", delay_seconds=30.0)


@pytest.mark.parametrize(
    ("path", "answer"),
    [(KLINES, STALLED), (MARKS, DOWN), (MARKS, STALLED), (FUNDING, STALLED)],
    ids=["bars stall", "mark candles fail", "mark candles stall", "funding stalls"],
)
async def test_one_bad_symbol_never_delays_the_others(
    path: str, answer: proxy_fault.Fault, empty_warehouse: Warehouse
) -> None:
    """What it owes costs one close the deadline of 2 s; the closes after wait for a moment."""
    async with scene(empty_warehouse, deadline_seconds=2.0) as one, running(one.feed):
        await one.backfill(since=T0_HOURLY - DAY_MS)
        one.proxy.rewrite = without_bars_of_sol if path == KLINES else one.proxy.rewrite
        one.proxy.answer = lambda asked: (
            answer if asked.startswith(path) and "SOLUSDT" in asked else None
        )
        took = []
        for hour in range(3):
            began = monotonic_seconds()
            await one.close(T0_HOURLY + hour * HOUR_MS)
            took.append(monotonic_seconds() - began)
        one.proxy.answer = lambda _path: None
    slow = [seconds for seconds in took if seconds > 1.4]  # 1 s for mark candles and settlements
    assert len(slow) <= 1, took
