"""The live path of features over a sandbox is the batch path over the warehouse, bit for bit."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import numpy as np

from market.bar import MINUTE_MS
from market.clock import ScaledClock
from market.exchange import Exchange
from market.features import FEATURES, Features, compute_features, warmup_bars
from market.ingest import Feed
from market.instrument import Venue
from market.sandbox.minutes import minute_tape
from market.sandbox.server import Sandbox, SandboxOptions
from market.warehouse import Warehouse

SYMBOLS = ("BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT")
START = 1_735_689_600_000
SPEED = 60.0
CLOSES = 4
# Windows of days would need weeks of minutes; every other feature of the catalogue is here.
NAMES = tuple(name for name in FEATURES if warmup_bars([name], MINUTE_MS) <= 1_500)
WARMUP = warmup_bars(NAMES, MINUTE_MS)
HISTORY = WARMUP + 60


async def test_features_of_a_live_close_are_those_of_the_whole_history(
    empty_warehouse: Warehouse,
) -> None:
    """At each streamed close, the last row from the last bars equals the batch's row."""
    tape = minute_tape(
        seed=5,
        venue=Venue.BINANCEUSDM,
        symbols=SYMBOLS,
        start=START - HISTORY * MINUTE_MS,
        bars=HISTORY + 60,
    )
    async with Sandbox(SandboxOptions(tape=tape, start=START, speed=SPEED)) as venue:
        exchange = await Exchange.open(Venue.BINANCEUSDM, base_url=venue.url)
        try:
            live = await _follow(exchange, empty_warehouse, venue)
        finally:
            await exchange.close()
    first, last = min(live), max(live)
    batch = _features(empty_warehouse, START - HISTORY * MINUTE_MS, last)
    for time, seen in live.items():
        row = -1 - (last - time) // MINUTE_MS
        assert seen.values[-1].tobytes() == batch.values[row].tobytes()
        assert (seen.known[-1] == batch.known[row]).all()
    assert (last - first) // MINUTE_MS >= CLOSES - 1
    assert batch.known[-1].mean() > 0.5
    assert len(NAMES) > 40


async def _follow(exchange: Exchange, warehouse: Warehouse, venue: Sandbox) -> dict[int, Features]:
    """Features by decision time, each computed at its close from what was stored then."""
    clock = ScaledClock(anchor_ms=venue.now(), speed=SPEED)
    feed = Feed(
        exchange=exchange,
        warehouse=warehouse,
        clock=clock,
        symbols=SYMBOLS,
        interval_ms=MINUTE_MS,
        deadline_seconds=0.9,
    )
    await feed.backfill(since=START - HISTORY * MINUTE_MS, progress=lambda *_: None)
    task = asyncio.create_task(feed.run())
    live: dict[int, Features] = {}
    try:
        now = clock.now()
        after = now - now % MINUTE_MS
        while len(live) < CLOSES:
            close = await feed.next_close(after)
            after = close.decision_time
            if not close.missing:
                live[after] = _features(warehouse, after - WARMUP * MINUTE_MS, after)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    return live


def _features(warehouse: Warehouse, since: int, until: int) -> Features:
    panel = warehouse.load_panel(
        SYMBOLS,
        venue=Venue.BINANCEUSDM.value,
        interval_ms=MINUTE_MS,
        since=since,
        until=until,
    )
    assert not np.isnan(panel.close[-1]).any()
    return compute_features(panel, NAMES)
