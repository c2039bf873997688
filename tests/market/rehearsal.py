"""A feed on minute bars before a sandbox with scripted faults, and what came of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from market.bar import DAY_MS, HOUR_MS, MINUTE_MS
from market.budget import LIMITS, Budget
from market.clock import ManualClock, ScaledClock, monotonic_seconds
from market.exchange import Exchange
from market.gap import Gap
from market.ingest import Feed, IntervalClose
from market.instrument import Market, Venue
from market.panel import Panel
from market.sandbox.fault import Fault
from market.sandbox.minutes import minute_tape
from market.sandbox.server import Sandbox, SandboxOptions
from market.warehouse import Warehouse
from tests.market.fault_proxy import FaultProxy
from tests.market.sandbox_client import T0 as LOCK_STEP_T0
from tests.market.sandbox_client import commit, sandbox
from tests.market.small_tape import SPOT_SYMBOLS, SYMBOLS

HISTORY_BARS = 90
FIRST_OPEN = 1_767_225_600_000  # 2026-01-01 00:00 UTC
T0 = FIRST_OPEN + HISTORY_BARS * MINUTE_MS
LEAD_BARS = 3  # closes before T0, while everything starts up
TRUE_FIELDS = (
    "open", "high", "low", "close", "volume", "quote_volume", "trades", "taker_buy_volume",
)  # fmt: skip


def minute(number: float) -> int:
    """Return the venue's time so many minutes after T0, UTC milliseconds."""
    return T0 + round(number * MINUTE_MS)


def minute_sandbox(
    symbols: Sequence[str],
    *,
    venue: Venue = Venue.BINANCEUSDM,
    faults: tuple[Fault, ...] = (),
    speed: float,
    bars: int = 120,
    connection_life_ms: int | None = None,
) -> Sandbox:
    """Return a sandbox that runs from just before T0 on at ``speed``, with history."""
    tape = minute_tape(
        seed=11, venue=venue, symbols=symbols, start=FIRST_OPEN, bars=HISTORY_BARS + bars
    )
    return Sandbox(
        SandboxOptions(
            tape=tape,
            start=minute(-LEAD_BARS),
            speed=speed,
            faults=faults,
            connection_life_ms=connection_life_ms,
        )
    )


@dataclass(kw_only=True)
class Rehearsal:
    """A running feed and what it has returned so far.

    Attributes:
        closes: what ``play`` was handed.
        late_seconds: how long after its time each of them came, in real seconds.
    """

    feed: Feed
    exchange: Exchange
    budget: Budget
    warehouse: Warehouse
    clock: ScaledClock
    symbols: tuple[str, ...]
    url: str
    closes: list[IntervalClose] = field(default_factory=list)
    late_seconds: list[float] = field(default_factory=list)

    async def play(self, bars: int) -> None:
        """Take the next closes, one after the other."""
        for _ in range(bars):
            after = self.closes[-1].decision_time if self.closes else T0
            async with asyncio.timeout(20):
                close = await self.feed.next_close(after)
            late_ms = self.clock.now() - close.decision_time
            self.closes.append(close)
            self.late_seconds.append(late_ms / 1000 / self.clock.speed)

    async def whole(self, *, seconds: float = 5.0) -> None:
        """Return once no bar is missing that the venue may still bring."""
        until = monotonic_seconds() + seconds
        counts = self.feed.gap_counts
        while (counts["fetchable"] or counts["deferred"]) and monotonic_seconds() < until:
            await asyncio.sleep(0.1)
            counts = self.feed.gap_counts
        await asyncio.sleep(0.5)  # the mender writes its book, and settles doubts

    def panel(self, since: int, until: int) -> Panel:
        """Return what is stored."""
        return self.warehouse.load_panel(
            self.symbols,
            venue=self.exchange.venue,
            interval_ms=MINUTE_MS,
            since=since,
            until=until,
        )

    def gaps(self) -> dict[str, list[Gap]]:
        """Return every recorded gap by symbol, also the closed ones."""
        found: dict[str, list[Gap]] = {symbol: [] for symbol in self.symbols}
        for gap in self.warehouse.gaps(
            venue=self.exchange.venue,
            interval_ms=MINUTE_MS,
            since=FIRST_OPEN,
            until=minute(120),
            open_only=False,
        ):
            found[gap.symbol].append(gap)
        return found

    async def truth(self, symbol: str, since: int, until: int) -> list[dict[str, Any]]:
        """Return the venue's own list of the bars of ``symbol``."""
        text = await fetch_text(self.url, f"/sandbox/truth?since={since}&until={until}")
        rows = [json.loads(line) for line in text.splitlines()]
        return [row for row in rows if row["symbol"] == symbol]

    async def differences(self, since: int, until: int) -> dict[str, list[str]]:
        """Compare what is stored with the truth; return the wrong cells by symbol."""
        stored = self.panel(since, until)
        wrong: dict[str, list[str]] = {symbol: [] for symbol in self.symbols}
        for index, symbol in enumerate(self.symbols):
            rows = await self.truth(symbol, since, until)
            assert len(rows) == len(stored)
            for number, row in enumerate(rows):
                for name in TRUE_FIELDS:
                    value = row.get(name)
                    expected = np.nan if value is None else float(value)
                    found = getattr(stored, name)[number, index]
                    if not np.array_equal(found, expected, equal_nan=True):
                        wrong[symbol].append(f"{number} {name}: {found} for {expected}")
        return wrong


@asynccontextmanager
async def rehearsal(
    warehouse: Warehouse,
    symbols: Sequence[str],
    *,
    venue: Venue = Venue.BINANCEUSDM,
    faults: tuple[Fault, ...] = (),
    speed: float = 100.0,
    deadline_seconds: float = 0.4,
    followed: Sequence[str] | None = None,
    book_depth: int = 0,
    ban_file: Path | None = None,
    connection_life_ms: int | None = None,
) -> AsyncIterator[Rehearsal]:
    """Open everything, fill half an hour of history and let the feed run up to T0."""
    async with minute_sandbox(
        symbols, venue=venue, faults=faults, speed=speed, connection_life_ms=connection_life_ms
    ) as server:
        budget = Budget(LIMITS[venue], speed=speed, ban_file=ban_file)
        exchange = await Exchange.open(venue, base_url=server.url, budget=budget)
        clock = ScaledClock(anchor_ms=server.now(), speed=speed)
        feed = Feed(
            exchange=exchange,
            warehouse=warehouse,
            clock=clock,
            symbols=followed or symbols,
            interval_ms=MINUTE_MS,
            deadline_seconds=deadline_seconds,
            book_depth=book_depth,
        )
        try:
            await feed.backfill(since=T0 - 30 * MINUTE_MS, progress=lambda *_: None)
            async with running(feed):
                for number in range(-LEAD_BARS, 0):
                    await feed.next_close(minute(number))
                yield Rehearsal(
                    feed=feed,
                    exchange=exchange,
                    budget=budget,
                    warehouse=warehouse,
                    clock=clock,
                    symbols=tuple(followed or symbols),
                    url=server.url,
                )
        finally:
            await exchange.close()


@asynccontextmanager
async def running(feed: Feed) -> AsyncIterator[None]:
    """Let the feed listen."""
    task = asyncio.create_task(feed.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def fetch_text(url: str, path: str) -> str:
    """Return the text of a plain GET."""
    async with aiohttp.ClientSession() as session, session.get(url + path) as response:
        return await response.text()


@dataclass(frozen=True, kw_only=True)
class LockStep:
    """A feed on the small tape of hourly bars, behind a proxy before a sandbox in lock-step."""

    feed: Feed
    exchange: Exchange
    clock: ManualClock
    proxy: FaultProxy
    url: str
    symbols: tuple[str, ...]

    async def close(self, after: int) -> IntervalClose:
        """Commit the decision at ``after`` and return the next close."""
        await commit(self.url, after)
        async with asyncio.timeout(15):
            return await self.feed.next_close(after)


@asynccontextmanager
async def lock_step(
    warehouse: Warehouse, venue: Venue, *, book_depth: int = 0, deadline_seconds: float = 3.0
) -> AsyncIterator[LockStep]:
    """Open everything with two days of history, and let the feed run."""
    symbols = SPOT_SYMBOLS if venue.market is Market.SPOT else SYMBOLS
    async with sandbox(venue) as server, FaultProxy(server.url) as proxy:
        exchange = await Exchange.open(venue, base_url=proxy.url)
        clock = ManualClock(LOCK_STEP_T0)
        feed = Feed(
            exchange=exchange,
            warehouse=warehouse,
            clock=clock,
            symbols=symbols,
            interval_ms=HOUR_MS,
            deadline_seconds=deadline_seconds,
            book_depth=book_depth,
        )
        try:
            since = LOCK_STEP_T0 - 2 * DAY_MS
            await feed.backfill(since=since, progress=lambda *_: None)
            async with running(feed):
                yield LockStep(
                    feed=feed,
                    exchange=exchange,
                    clock=clock,
                    proxy=proxy,
                    url=server.url,
                    symbols=symbols,
                )
        finally:
            await exchange.close()
