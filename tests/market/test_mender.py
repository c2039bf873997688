"""The mender: while the store fails it asks and writes now and then, and makes it good later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from market.bar import HOUR_MS, MINUTE_MS
from market.clock import ManualClock, monotonic_seconds
from market.exchange import Exchange
from market.gap import GapKind
from market.instrument import Venue
from market.intake import COUNTERS, Intake
from market.repair import Repairer
from market.warehouse import Warehouse, WarehouseError
from tests.market.fault_proxy import FaultProxy
from tests.market.sandbox_client import T0, sandbox, until
from tests.market.small_tape import BTC, SYMBOLS
from tests.market.test_ingest import DOWN, KLINES, fail

BAR = T0 - 5 * HOUR_MS
LOOK_SECONDS = 0.01
LOOKS = 10
PAUSE_SECONDS = 0.3


class CountingClock(ManualClock):
    """A clock that is read at every look of the mender."""

    readings = 0

    def now(self) -> int:
        """Count who asks."""
        self.readings += 1
        return super().now()

    async def has_been_read(self) -> bool:
        """Whether the mender has looked often since the count began."""
        return self.readings > LOOKS


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A repairer that mends, behind a proxy before a sandbox that stands at T0."""

    repairer: Repairer
    intake: Intake
    clock: CountingClock
    proxy: FaultProxy
    counters: dict[str, int]

    async def has_failed(self) -> bool:
        """Whether a write has failed."""
        return self.counters["writes_failed"] > 0


@asynccontextmanager
async def mending(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """Look at what is due a hundred times a second."""
    monkeypatch.setattr("market.repair.MEND_SECONDS", LOOK_SECONDS)
    clock, counters = CountingClock(T0), dict.fromkeys(COUNTERS, 0)
    shared: dict[str, Any] = {"clock": clock, "symbols": SYMBOLS, "interval_ms": HOUR_MS}
    shared |= {"warehouse": warehouse, "counters": counters}
    async with sandbox(Venue.BINANCEUSDM) as server, FaultProxy(server.url) as proxy:
        exchange = await Exchange.open(Venue.BINANCEUSDM, base_url=proxy.url)
        intake = Intake(venue=exchange.venue, **shared)
        repairer = Repairer(exchange=exchange, intake=intake, gone=frozenset, **shared)
        mender = asyncio.create_task(repairer.mend())
        try:
            yield Bench(
                repairer=repairer, intake=intake, clock=clock, proxy=proxy, counters=counters
            )
        finally:
            mender.cancel()
            await asyncio.wait({mender})
            await exchange.close()


def disk_full(*_args: Any, **_options: Any) -> int:
    """Fail as a store without room does."""
    raise WarehouseError("disk full")


@pytest.mark.parametrize("trouble", ["gap", "doubt"])
async def test_a_failed_store_is_tried_again_a_minute_later(
    trouble: str, empty_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it looks: one request, until a minute of the venue's time has passed."""
    async with mending(empty_warehouse, monkeypatch) as one:
        with monkeypatch.context() as outage:
            outage.setattr(empty_warehouse, "insert_bars", disk_full)
            if trouble == "gap":
                one.repairer.gaps.missing(BTC, [BAR], now=T0, reason="not there")
            else:
                one.intake.doubts[BTC] = {BAR}
            await until(one.has_failed)
            one.clock.readings = 0
            await until(one.clock.has_been_read)
            asked = one.proxy.asked(KLINES)
            failed = one.counters["writes_failed"]
        one.clock.advance(T0 + MINUTE_MS)

        async def is_stored() -> bool:
            return one.intake.roster.has(BTC, BAR)

        await until(is_stored)
    assert (len(asked), failed) == (1, 1)


async def test_a_gap_book_that_cannot_be_written_is_kept(
    empty_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again after a pause, not at every look, and then holds what came meanwhile."""
    monkeypatch.setattr("market.repair.SAVE_AGAIN_SECONDS", PAUSE_SECONDS)
    attempts: list[float] = []

    def insert_gaps(*_args: Any, **_options: Any) -> None:
        attempts.append(monotonic_seconds())
        raise WarehouseError("disk full")

    async def has_tried_again() -> bool:
        return len(attempts) > 1

    async def is_written() -> bool:
        found = empty_warehouse.gaps(
            venue=Venue.BINANCEUSDM, interval_ms=HOUR_MS, since=BAR, until=T0
        )
        return [(gap.symbol, gap.open_time, gap.kind) for gap in found] == [
            (BTC, BAR, GapKind.DEFERRED)
        ]

    async with mending(empty_warehouse, monkeypatch) as one:
        one.proxy.answer = fail(KLINES, DOWN)
        with monkeypatch.context() as outage:
            outage.setattr(empty_warehouse, "insert_gaps", insert_gaps)
            one.repairer.gaps.missing(BTC, [BAR], now=T0, reason="not there")
            await until(has_tried_again)
        await until(is_written)
    assert attempts[1] - attempts[0] >= PAUSE_SECONDS
