"""A symbol that was delisted before the feed started: it is named, and the others are whole."""

from __future__ import annotations

import asyncio

import pytest

from market.bar import DAY_MS, HOUR_MS
from market.clock import ManualClock
from market.exchange import Exchange
from market.ingest import Feed, IntervalClose
from market.instrument import Venue
from market.warehouse import Warehouse
from tests.market.delisted_venue import venue_without_sol
from tests.market.sandbox_client import T0, commit
from tests.market.small_tape import SOL, SYMBOLS
from tests.market.test_ingest import running


@pytest.mark.parametrize("venue", [Venue.BINANCEUSDM, Venue.BYBIT])
async def test_a_feed_says_what_was_delisted_before_it_started(
    venue: Venue, empty_warehouse: Warehouse
) -> None:
    """It is gone from the first look on; no close waits the deadline of 30 s for it."""
    async with venue_without_sol(venue) as server:
        exchange, clock = await Exchange.open(venue, base_url=server.url), ManualClock(T0)
        feed = Feed(
            exchange=exchange,
            warehouse=empty_warehouse,
            clock=clock,
            symbols=SYMBOLS,
            interval_ms=HOUR_MS,
            deadline_seconds=30.0,
        )
        await feed.backfill(since=T0 - DAY_MS, progress=lambda *_: None)
        gone = feed.gone
        async with running(feed), asyncio.timeout(15):
            await commit(server.url, T0)
            close = await feed.next_close(T0)
        await exchange.close()
    assert gone == {SOL}
    assert close == IntervalClose(decision_time=T0 + HOUR_MS, missing=(SOL,))
