"""History that the venue did not give at once: nothing is lost, and nothing is called absent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from market.bar import HOUR_MS, MINUTE_MS
from market.gap import GapKind
from market.retry import VenueUnavailable
from market.warehouse import Warehouse
from tests.market.fault_proxy import Fault
from tests.market.sandbox_client import T0, T0_BAR
from tests.market.small_tape import BTC, FIRST_OPEN, open_time
from tests.market.test_ingest import DOWN, KLINES, MARKS, Scene, running, scene

PAGE = 50
MIDDLE = range(PAGE, 2 * PAGE)


@pytest.fixture(autouse=True)
def _asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed page is not asked for again within the run."""
    monkeypatch.setattr("market.backfill.ATTEMPTS", 1)


def second_page_fails(path: str) -> Callable[[str], Fault | None]:
    """Let the venue fail for BTC's second page only."""
    start = f"startTime={open_time(PAGE)}&"
    return lambda asked: (
        DOWN if asked.startswith(path) and "BTCUSDT" in asked and start in asked + "&" else None
    )


async def finish(one: Scene, is_done: Callable[[], bool]) -> None:
    """Let the feed run for two venue minutes and more, until ``is_done``."""
    one.proxy.answer = lambda _path: None
    async with running(one.feed), asyncio.timeout(10):
        while not is_done():
            one.clock.advance(one.clock.now() + MINUTE_MS)
            await asyncio.sleep(0.05)


async def test_a_page_that_failed_is_no_evidence(empty_warehouse: Warehouse) -> None:
    """Its bars are deferred, not missing from the venue's history: nobody has heard of them."""
    async with scene(empty_warehouse) as one:
        one.exchange.page_bars = PAGE
        one.proxy.answer = second_page_fails(KLINES)
        await one.backfill()
    gaps = empty_warehouse.gaps(
        venue="binanceusdm", interval_ms=HOUR_MS, since=FIRST_OPEN, until=T0, symbols=[BTC]
    )
    assert [gap.open_time for gap in gaps] == [open_time(bar) for bar in MIDDLE]
    assert {(gap.kind, gap.reason) for gap in gaps} == {
        (GapKind.DEFERRED, "history could not be fetched")
    }


async def test_a_page_that_failed_is_fetched_while_the_feed_runs(
    empty_warehouse: Warehouse,
) -> None:
    """Nobody has to restart the daemon for it, and its gaps close."""
    async with scene(empty_warehouse) as one:
        one.exchange.page_bars = PAGE
        one.proxy.answer = second_page_fails(KLINES)
        await one.backfill()
        assert one.feed.gap_counts["deferred"] == PAGE
        await finish(one, lambda: not one.feed.gap_counts["deferred"])
        assert len(one.stored_bars(BTC, FIRST_OPEN, T0)) == T0_BAR


async def test_mark_candles_that_failed_are_fetched_while_the_feed_runs(
    empty_warehouse: Warehouse,
) -> None:
    """They have no gap book; the page is asked for again all the same."""
    async with scene(empty_warehouse) as one:
        one.exchange.page_bars = PAGE
        one.proxy.answer = second_page_fails(MARKS)
        await one.backfill()
        before = len(one.stored_marks(BTC, FIRST_OPEN, T0))
        await finish(one, lambda: len(one.stored_marks(BTC, FIRST_OPEN, T0)) > before)
        assert len(one.stored_marks(BTC, FIRST_OPEN, T0)) == before + PAGE


async def test_a_run_that_breaks_off_keeps_what_came(empty_warehouse: Warehouse) -> None:
    """The first pages are stored although the venue then failed for every symbol."""
    async with scene(empty_warehouse) as one:
        one.exchange.page_bars = PAGE
        late = [f"startTime={open_time(page * PAGE)}&" for page in (1, 2, 3)]
        one.proxy.answer = lambda asked: (
            DOWN
            if asked.startswith(KLINES) and any(start in asked + "&" for start in late)
            else None
        )
        with pytest.raises(VenueUnavailable, match="502"):
            await one.backfill()
        assert len(one.stored_bars(BTC, FIRST_OPEN, T0)) == PAGE
