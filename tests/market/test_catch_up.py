"""The catch-up: what closed while nobody listened is fetched after every subscription."""

from __future__ import annotations

import asyncio

import pytest

from market.bar import DAY_MS, HOUR_MS, MINUTE_MS
from market.warehouse import Warehouse
from tests.market.sandbox_client import T0, commit, until
from tests.market.small_tape import BTC
from tests.market.test_ingest import DOWN, KLINES, Scene, fail, running, scene

TIME = "/fapi/v1/time"


async def miss_a_close(one: Scene, *, failing: str) -> None:
    """Let a bar close that the socket does not bring, and reconnect while a request fails."""
    await one.backfill(since=T0 - DAY_MS)
    await one.close(T0)
    one.proxy.rewrite = lambda frame: [] if '"kline"' in frame else [frame]
    one.proxy.answer = fail(failing, DOWN)
    one.proxy.requests.clear()
    await commit(one.sandbox_url, T0 + HOUR_MS)
    one.clock.advance(T0 + 2 * HOUR_MS)
    await one.exchange.reconnect()


@pytest.mark.parametrize("failing", [TIME, KLINES])
async def test_a_catch_up_that_failed_is_tried_again(
    failing: str, empty_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the time or the bars could not be asked for: nobody takes the close, it is stored."""
    monkeypatch.setattr("market.listener.CATCH_UP_SECONDS", 0.05)
    async with scene(empty_warehouse, deadline_seconds=30.0) as one, running(one.feed):
        await miss_a_close(one, failing=failing)
        newest_at = one.feed.last_bar_at[BTC]

        async def has_failed() -> bool:
            return bool(one.proxy.asked(failing))

        async def is_fetched() -> bool:
            return one.feed.last_bar_at[BTC] > newest_at

        await until(has_failed)
        await asyncio.sleep(0.1)
        assert T0 + HOUR_MS not in one.stored_bars(BTC, T0, T0 + DAY_MS)
        one.proxy.answer = lambda _path: None
        one.clock.advance(one.clock.now() + MINUTE_MS)  # a bar that failed is due again
        await until(is_fetched)
        assert T0 + HOUR_MS in one.stored_bars(BTC, T0, T0 + DAY_MS)
