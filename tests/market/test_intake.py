"""Intake: a bar enters the warehouse once, and of two versions none is believed unasked."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, replace
from typing import Any

import pytest

from market.bar import MINUTE_MS, Bar
from market.clock import ManualClock
from market.intake import COUNTERS, Intake
from market.retry import RateLimited, RegionBlocked, VenueUnavailable
from market.roster import REMEMBERED_BARS
from market.warehouse import Origin, Warehouse, WarehouseError

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
NOW = 1_767_225_600_000


def bar(number: int = 0, *, symbol: str = BTC, close: float = 11.0) -> Bar:
    """A sound one-minute bar, ``number`` minutes after NOW."""
    return Bar(
        symbol=symbol,
        open_time=NOW + number * MINUTE_MS,
        open=10.0,
        high=12.0,
        low=9.0,
        close=close,
        volume=3.0,
    )


@dataclass(frozen=True, kw_only=True)
class Desk:
    """An intake of two symbols on a venue of its own."""

    intake: Intake
    counters: dict[str, int]
    warehouse: Warehouse
    venue: str

    def closes(self, symbol: str = BTC) -> dict[int, float]:
        """Return the stored closes by minutes after NOW."""
        panel = self.warehouse.load_panel(
            [symbol],
            venue=self.venue,
            interval_ms=MINUTE_MS,
            since=NOW - 10 * MINUTE_MS,
            until=NOW + 10 * MINUTE_MS,
        )
        stored = zip(panel.open_time.tolist(), panel.close[:, 0].tolist(), strict=True)
        return {(time - NOW) // MINUTE_MS: close for time, close in stored if close == close}

    def counted(self) -> dict[str, int]:
        """Return the counters that moved."""
        return {name: count for name, count in self.counters.items() if count}


@pytest.fixture
def desk(warehouse: Warehouse, venue_name: str) -> Desk:
    """An intake that has stored nothing."""
    counters = dict.fromkeys(COUNTERS, 0)
    intake = Intake(
        warehouse=warehouse,
        venue=venue_name,
        clock=ManualClock(NOW + 60 * MINUTE_MS),
        symbols=(BTC, ETH),
        interval_ms=MINUTE_MS,
        counters=counters,
    )
    return Desk(intake=intake, counters=counters, warehouse=warehouse, venue=venue_name)


async def test_a_streamed_bar_is_stored_and_remembered(desk: Desk) -> None:
    """It is in the warehouse when the call returns, and the roster knows."""
    stored = await desk.intake.store_streamed([bar(), bar(symbol=ETH)])
    assert stored is not None
    assert set(stored.sound) == {bar(), bar(symbol=ETH)}
    assert desk.closes() == {0: 11.0}
    assert desk.intake.roster.missing(NOW) == ()
    assert set(desk.intake.last_bar_at) == {BTC, ETH}
    assert desk.counted() == {"bars_stream": 2}


async def test_the_same_bar_again_is_only_counted(desk: Desk) -> None:
    """In the same batch or later: no second row, no doubt."""
    await desk.intake.store_streamed([bar(), bar()])
    await desk.intake.store_streamed([bar()])
    assert desk.counted() == {"bars_stream": 1, "bars_repeated": 2}
    assert desk.intake.doubts == {}


@pytest.mark.parametrize("apart", [False, True])
async def test_another_version_is_a_doubt_and_changes_nothing(desk: Desk, apart: bool) -> None:
    """The first stays stored, whichever of them is right; REST has to settle it."""
    batches = [[bar()], [bar(close=11.5)]] if apart else [[bar(), bar(close=11.5)]]
    for batch in batches:
        await desk.intake.store_streamed(batch)
    assert desk.closes() == {0: 11.0}
    assert desk.intake.doubts == {BTC: {NOW}}
    assert desk.counted() == {"bars_stream": 1, "bars_conflicting": 1}


async def test_a_broken_bar_that_comes_after_rests_is_quarantined(desk: Desk) -> None:
    """It is no second version of the bar, and nobody needs to be asked."""
    await desk.intake.store([bar()], Origin.REST)
    await desk.intake.store_streamed([bar(close=math.nan)])
    assert desk.closes() == {0: 11.0}
    assert desk.intake.doubts == {}
    assert desk.counted() == {"bars_rest": 1, "bars_quarantined": 1}


async def test_rest_is_the_truth(desk: Desk) -> None:
    """What REST says of a streamed bar replaces it, and counts as a revision."""
    await desk.intake.store_streamed([bar()])
    await desk.intake.store([bar(close=11.5)], Origin.REST)
    assert desk.closes() == {0: 11.5}
    assert desk.counted() == {"bars_stream": 1, "bars_rest": 1, "bars_revised": 1}


async def test_a_streamed_bar_never_replaces_rests(desk: Desk) -> None:
    """A final frame that comes after the repair is a doubt at most."""
    await desk.intake.store([bar()], Origin.REST)
    await desk.intake.store_streamed([bar(close=11.5)])
    assert desk.closes() == {0: 11.0}
    assert desk.intake.doubts == {BTC: {NOW}}


async def test_new_bars_from_rest_are_no_revisions(desk: Desk) -> None:
    """Of three bars one was known and equal, one known and different, one new."""
    await desk.intake.store([bar(0), bar(1)], Origin.REST)
    await desk.intake.store([bar(0), bar(1, close=11.5), bar(2)], Origin.REST)
    assert desk.counted() == {"bars_rest": 5, "bars_revised": 1}


async def test_an_earlier_bar_after_a_later_one_is_stored(desk: Desk) -> None:
    """Order is the venue's trouble: both bars are taken, without a doubt."""
    await desk.intake.store_streamed([bar(1)])
    await desk.intake.store_streamed([bar(0)])
    assert desk.closes() == {0: 11.0, 1: 11.0}
    assert desk.counters["bars_stream"] == 2
    assert desk.intake.doubts == {}


async def test_a_bar_from_before_what_is_remembered_is_a_doubt(desk: Desk) -> None:
    """Whether it is stored is not known here: it is not written, REST is asked."""
    await desk.intake.store_streamed([bar(0)])
    old = bar(-REMEMBERED_BARS)
    await desk.intake.store_streamed([old])
    assert desk.intake.doubts == {BTC: {old.open_time}}
    assert desk.counters["bars_stream"] == 1


async def test_a_bad_bar_is_quarantined_and_still_missing(desk: Desk) -> None:
    """It does not count as there, and its whole version is taken when it comes."""
    broken = replace(bar(), high=1.0)
    stored = await desk.intake.store_streamed([broken, bar(symbol=ETH)])
    assert stored is not None
    assert stored.sound == (bar(symbol=ETH),)
    assert desk.intake.roster.missing(NOW) == (BTC,)
    await desk.intake.store_streamed([bar()])
    assert desk.closes() == {0: 11.0}
    assert desk.counted() == {"bars_stream": 2, "bars_quarantined": 1}


async def test_a_failed_write_is_never_taken_for_a_bar(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is remembered of it, and the same call repeated stores it once."""
    write = desk.warehouse.insert_bars

    def fail(*_args: Any, **_options: Any) -> int:
        raise WarehouseError("disk full")

    batch = [bar(1), bar(0), bar(1, close=11.5)]
    monkeypatch.setattr(desk.warehouse, "insert_bars", fail)
    assert await desk.intake.store_streamed(batch) is None
    assert desk.intake.roster.missing(NOW) == (BTC, ETH)
    assert desk.intake.last_bar_at == {}
    monkeypatch.setattr(desk.warehouse, "insert_bars", write)
    assert await desk.intake.store_streamed(batch) is not None
    assert desk.closes() == {0: 11.0, 1: 11.0}
    assert desk.intake.doubts == {BTC: {NOW + MINUTE_MS}}
    assert (desk.counters["writes_failed"], desk.counters["bars_stream"]) == (1, 2)


async def test_calls_that_come_together_are_all_answered(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten calls at once: each learns of its own bar, and the store was asked far less often."""
    write, writes = desk.warehouse.insert_bars, []

    def insert(bars: Any, **options: Any) -> int:
        writes.append(len(bars))
        return write(bars, **options)

    monkeypatch.setattr(desk.warehouse, "insert_bars", insert)
    calls = [desk.intake.store([bar(number)], Origin.REST) for number in range(10)]
    answers = await asyncio.gather(*calls)
    assert [answer and answer.sound for answer in answers] == [(bar(n),) for n in range(10)]
    assert len(desk.closes()) == 10
    assert len(writes) < 5


async def test_a_final_frame_during_its_repair_is_no_second_row(desk: Desk) -> None:
    """The socket's bar waits for the write that is under way, and is then known."""
    repaired, streamed = await asyncio.gather(
        desk.intake.store([bar()], Origin.REST), desk.intake.store_streamed([bar()])
    )
    assert repaired is not None
    assert streamed is not None
    assert desk.counted() == {"bars_rest": 1, "bars_repeated": 1}
    assert desk.intake.doubts == {}


async def test_a_caller_that_gives_up_does_not_stop_a_write(desk: Desk) -> None:
    """A close whose deadline passes while its bars are written: they are stored, and known."""
    storing = asyncio.create_task(desk.intake.store([bar()], Origin.REST))
    await asyncio.sleep(0)
    storing.cancel()
    await asyncio.gather(storing, return_exceptions=True)
    await desk.intake.store([bar(1)], Origin.REST)
    assert desk.closes() == {0: 11.0, 1: 11.0}
    assert desk.intake.roster.has(BTC, NOW)


async def test_what_is_stored_already_is_looked_up(desk: Desk) -> None:
    """A restarted process knows its bars, and takes none of them a second time."""
    await desk.intake.store([bar(0), bar(1)], Origin.REST)
    again = Intake(
        warehouse=desk.warehouse,
        venue=desk.venue,
        clock=ManualClock(NOW),
        symbols=(BTC, ETH),
        interval_ms=MINUTE_MS,
        counters=dict.fromkeys(COUNTERS, 0),
    )
    await again.look_up(NOW, NOW + 5 * MINUTE_MS)
    assert again.roster.gaps(BTC, since=NOW, until=NOW + 3 * MINUTE_MS) == [NOW + 2 * MINUTE_MS]
    assert again.roster.missing(NOW) == (ETH,)


def test_failures_are_counted_by_kind(desk: Desk) -> None:
    """Every failure counts once; a rate limit and a refusal count by their names too."""
    for error in (
        VenueUnavailable(host="venue", cause="503"),
        RateLimited(host="venue", cause="429", retry_after_seconds=1),
        RegionBlocked(host="venue", cause="451"),
    ):
        desk.intake.note_failure(error)
    assert desk.counted() == {"requests_failed": 3, "rate_limited": 1, "requests_refused": 1}
