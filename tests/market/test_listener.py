"""The batches of the listener: one close is stored together, and a silent symbol delays none."""

from __future__ import annotations

import asyncio

import pytest

from market.warehouse import Warehouse
from tests.market.small_tape import BTC, ETH, SOL
from tests.market.test_ingest import Scene, scene
from tests.market.test_intake import bar

OPENED = bar(0).open_time


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch ends because it is whole, or not within a test."""
    monkeypatch.setattr("market.listener.BATCH_SECONDS", 60.0)
    monkeypatch.setattr("market.listener.IDLE_SECONDS", 60.0)


def heard(one: Scene, *symbols: str) -> None:
    """Say which symbols came at the close before."""
    one.feed._listener._streamed_until = dict.fromkeys(symbols, OPENED)


async def arrive(one: Scene, *symbols: str) -> set[str]:
    """Let bars of one close arrive; return the symbols of the batch that they make."""
    for symbol in symbols:
        one.feed._listener._arrivals.put_nowait(bar(0, symbol=symbol))
    async with asyncio.timeout(0.5):
        return {each.symbol for each in await one.feed._listener._next_batch()}


async def test_a_batch_is_whole_when_all_have_come_that_came_before(
    empty_warehouse: Warehouse,
) -> None:
    """SOL was silent at the close before: the two others are stored without waiting for it."""
    async with scene(empty_warehouse) as one:
        heard(one, BTC, ETH)
        assert await arrive(one, BTC, ETH) == {BTC, ETH}


async def test_a_batch_waits_for_a_symbol_that_came_before(empty_warehouse: Warehouse) -> None:
    """SOL came at the close before: one row of three bars is better than two."""
    async with scene(empty_warehouse) as one:
        heard(one, BTC, ETH, SOL)
        with pytest.raises(TimeoutError):
            await arrive(one, BTC, ETH)
        assert one.feed._listener._arrivals.empty()


async def test_bars_of_symbols_that_were_silent_still_count(empty_warehouse: Warehouse) -> None:
    """At the first close nobody has come before: the first bar is a batch, and none is lost."""
    async with scene(empty_warehouse) as one:
        heard(one)
        assert await arrive(one, BTC, ETH) == {BTC}
        assert await arrive(one) == {ETH}
