"""The renewal: a connection is replaced by its age, and never during a ban."""

from __future__ import annotations

import asyncio

import pytest

from market.bar import DAY_MS, HOUR_MS, MINUTE_MS
from market.instrument import Venue
from market.warehouse import Warehouse
from tests.market.sandbox_client import T0, served, until
from tests.market.test_ingest import Scene, running, scene
from tests.market.test_stream import PERPETUALS, listening


async def test_a_renewal_that_falls_into_a_ban_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """It outlasts the patience with a new connection; the old one brings every bar meanwhile."""
    monkeypatch.setattr("market.exchange.RENEWAL_SECONDS", 0.1)
    async with listening(Venue.BINANCEUSDM, PERPETUALS) as one:
        await one.until_bars(PERPETUALS[0], 1)
        one.exchange.budget.close(60.0, because="banned")
        renewing = asyncio.create_task(one.exchange.renew())
        await one.until_bars(PERPETUALS[0], 4)
        still_waits = not renewing.done()
        renewing.cancel()
        await asyncio.wait({renewing})
    assert still_waits
    times = sorted(set(one.times(PERPETUALS[0])))
    assert times == list(range(times[0], times[-1] + MINUTE_MS, MINUTE_MS))
    assert one.restarts == []


async def subscribed(one: Scene, connections: int) -> None:
    """Return once the venue has confirmed subscriptions on so many connections."""

    async def is_confirmed() -> bool:
        found = {entry["connection"] for entry in await served(one.sandbox_url, "subscribed")}
        return len(found) == connections

    await until(is_confirmed)


async def test_a_connection_is_renewed_by_its_own_age(
    empty_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renewed at three hours; one opened anew in the second hour of the run lives to the fifth."""
    monkeypatch.setattr("market.listener.STREAM_AGE_MS", 3 * HOUR_MS)
    async with scene(empty_warehouse) as one, running(one.feed):
        await one.backfill(since=T0 - DAY_MS)
        await subscribed(one, 1)
        for hour in range(2):
            await one.close(T0 + hour * HOUR_MS)
        await one.exchange.reconnect()
        await subscribed(one, 2)
        renewals = []
        for hour in range(2, 5):
            await one.close(T0 + hour * HOUR_MS)
            renewals.append(one.feed.counters["stream_renewals"])
    assert renewals == [0, 0, 1]
