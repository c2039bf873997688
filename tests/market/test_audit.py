"""The audit: REST confirms every closed bar, symbol by symbol, also those from before a restart."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from market import ingest as ingest_module
from market.bar import DAY_MS, HOUR_MS
from market.instrument import Venue
from market.warehouse import Origin, Warehouse
from tests.market.fault_proxy import Fault
from tests.market.sandbox_client import T0, T0_BAR, commit
from tests.market.small_tape import BTC, ETH, small_tape
from tests.market.test_ingest import DOWN, KLINES, Scene, running, scene


async def take_close(one: Scene) -> None:
    """Take the close after T0 while nothing audits by itself."""
    await one.backfill(since=T0 - DAY_MS)
    await commit(one.sandbox_url, T0)
    one.clock.advance(T0 + HOUR_MS)
    await one.feed.next_close(T0)


async def audit(one: Scene, *, failing: str = "") -> tuple[bool, dict[str, int]]:
    """Audit while one venue symbol fails; return the answer and what was asked for since when."""
    one.proxy.requests.clear()
    one.proxy.answer = lambda path: (
        DOWN if failing and path.startswith(KLINES) and failing in path else None
    )
    is_settled = await one.feed.audit()
    asked = (dict(pair.split("=") for pair in path.split("?")[1].split("&"))
             for path in one.proxy.asked(KLINES))  # fmt: skip
    return is_settled, {query["symbol"]: int(query["startTime"]) for query in asked}


async def test_one_symbols_failed_audit_does_not_fail_the_rest(empty_warehouse: Warehouse) -> None:
    """All three are asked for; the next audit asks again for the failed one alone."""
    async with scene(empty_warehouse) as one:
        await take_close(one)
        is_settled, asked = await audit(one, failing="ETHUSDT")
        is_settled_then, asked_then = await audit(one)
    assert (is_settled, set(asked)) == (False, {"BTCUSDT", "ETHUSDT", "SOLUSDT"})
    assert (is_settled_then, asked_then) == (True, {"ETHUSDT": asked["ETHUSDT"]})


async def test_an_audit_looks_back_only_so_far(
    empty_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be audited for longer than the memory is left to the next backfill."""
    monkeypatch.setattr(ingest_module, "AUDIT_MEMORY_BARS", 5)
    async with scene(empty_warehouse) as one:
        await take_close(one)
        is_settled, asked = await audit(one)
    assert is_settled
    assert set(asked.values()) == {T0 + HOUR_MS - 5 * HOUR_MS}


async def stream_wrongly(one: Scene, open_time: int) -> None:
    """Store a bar of BTC with another close than the venue's, as the socket might have."""
    (true,) = await one.exchange.fetch_bars(
        BTC, interval_ms=HOUR_MS, since=open_time, until=open_time + HOUR_MS
    )
    one.warehouse.insert_bars(
        [replace(true, close=true.low)],
        venue=one.exchange.venue,
        interval_ms=HOUR_MS,
        origin=Origin.STREAM,
        ingested_at=T0 + 1,
    )


async def test_the_first_close_after_a_restart_audits_what_was_streamed_before(
    empty_warehouse: Warehouse,
) -> None:
    """A wrong bar that an earlier run streamed, as old as an audit reaches, is revised at once."""
    oldest = T0 - ingest_module.AUDIT_BARS * HOUR_MS
    async with scene(empty_warehouse) as one, running(one.feed):
        await one.backfill(since=T0 - DAY_MS)
        await stream_wrongly(one, oldest)
        await one.backfill(since=T0 - DAY_MS)
        await one.close(T0)
        async with asyncio.timeout(5):
            while not one.feed.counters["bars_revised"]:
                await asyncio.sleep(0.02)
    panel = empty_warehouse.load_panel(
        [BTC], venue=one.exchange.venue, interval_ms=HOUR_MS, since=oldest, until=T0
    )
    taped = small_tape(Venue.BINANCEUSDM).panel.close[T0_BAR - ingest_module.AUDIT_BARS, 0]
    assert panel.close[0, 0] == taped


async def test_a_bar_that_neither_came_nor_is_in_the_audits_answer_is_a_gap(
    empty_warehouse: Warehouse,
) -> None:
    """An answer without it settles the audit, and still nobody forgets the bar."""
    async with scene(empty_warehouse) as one:
        await take_close(one)
        one.feed._intake.roster._stored[ETH].discard(T0)
        one.proxy.answer = lambda path: (
            Fault(status=200, body="[]", content_type="application/json")
            if path.startswith(KLINES) and "ETHUSDT" in path
            else None
        )
        assert await one.feed.audit()
        assert one.feed.gap_counts["fetchable"] == 1


async def test_what_closed_while_history_was_fetched_is_asked_for(
    empty_warehouse: Warehouse,
) -> None:
    """The first close that is waited for lies an interval after the history: that one is a gap."""
    async with scene(empty_warehouse) as one:
        await one.backfill(since=T0 - DAY_MS)
        for after in (T0, T0 + HOUR_MS):
            await commit(one.sandbox_url, after)
        one.clock.advance(T0 + 2 * HOUR_MS)
        await one.feed.next_close(T0 + HOUR_MS)
        assert one.feed.gap_counts["fetchable"] == 3
        async with running(one.feed), asyncio.timeout(10):
            while one.feed.gap_counts["fetchable"]:
                await asyncio.sleep(0.02)
        assert T0 in one.stored_bars(BTC, T0, T0 + DAY_MS)
