"""The feed against the sandbox and a real warehouse: what it stores is what the tape holds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from market import ingest as ingest_module
from market.bar import DAY_MS, HOUR_MS, MINUTE_MS, MarkSource
from market.clock import ManualClock, ScaledClock
from market.exchange import Exchange
from market.ingest import Feed, IntervalClose
from market.instrument import Venue
from market.retry import VenueRefused, VenueUnavailable
from market.warehouse import Warehouse, WarehouseError
from tests.market.fault_proxy import Fault, FaultProxy
from tests.market.sandbox_client import T0, T0_BAR, commit, sandbox
from tests.market.small_tape import (
    BTC,
    ETH,
    FIRST_OPEN,
    MISSING_ETH_BAR,
    SOL,
    SYMBOLS,
    open_time,
    small_tape,
)

both_venues = pytest.mark.parametrize("venue", [Venue.BINANCEUSDM, Venue.BYBIT])
KLINES, MARKS, FUNDING = "/fapi/v1/klines", "/fapi/v1/markPriceKlines", "/fapi/v1/fundingRate"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A venue whose clock stands still is asked for its time sooner than in earnest."""
    monkeypatch.setattr(ingest_module, "POLL_SECONDS", 0.2)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A feed behind a proxy before a sandbox in lock-step."""

    feed: Feed
    exchange: Exchange
    warehouse: Warehouse
    clock: ManualClock
    proxy: FaultProxy
    sandbox_url: str

    async def backfill(self, since: int = FIRST_OPEN) -> list[tuple[int, int]]:
        """Fill the warehouse and return the progress that was reported."""
        reported: list[tuple[int, int]] = []
        await self.feed.backfill(since=since, progress=lambda *now: reported.append(now))
        return reported

    async def close(self, after: int) -> IntervalClose:
        """Commit the decision at ``after`` and return the next close."""
        await commit(self.sandbox_url, after)
        async with asyncio.timeout(15):
            return await self.feed.next_close(after)

    def stored_bars(self, symbol: str, since: int, until: int) -> list[int]:
        """Return the open times of the stored bars."""
        times = self.warehouse.bar_times(
            symbol, venue=self.exchange.venue, interval_ms=HOUR_MS, since=since, until=until
        )
        return [int(time) for time in times]

    def stored_marks(self, symbol: str, since: int, until: int) -> list[int]:
        """Return the open times of the stored mark candles."""
        times = self.warehouse.mark_bar_times(
            symbol, venue=self.exchange.venue, interval_ms=HOUR_MS, since=since, until=until
        )
        return [int(time) for time in times]

    def stored_settlements(self, symbol: str, since: int, until: int) -> list[int]:
        """Return the nominal times of the stored settlements."""
        times = self.warehouse.settlement_times(
            symbol, venue=self.exchange.venue, since=since, until=until
        )
        return [int(time) for time in times]


@asynccontextmanager
async def scene(
    warehouse: Warehouse,
    venue: Venue = Venue.BINANCEUSDM,
    *,
    start_bar: int = T0_BAR,
    **options: float,
) -> AsyncIterator[Scene]:
    """Open everything; ``options`` go to the feed."""
    start = open_time(start_bar)
    async with sandbox(venue, start=start) as server, FaultProxy(server.url) as proxy:
        exchange = await Exchange.open(venue, base_url=proxy.url)
        clock = ManualClock(start)
        feed = Feed(
            exchange=exchange,
            warehouse=warehouse,
            clock=clock,
            symbols=SYMBOLS,
            interval_ms=HOUR_MS,
            deadline_seconds=options.get("deadline_seconds", 3.0),
        )
        try:
            yield Scene(
                feed=feed,
                exchange=exchange,
                warehouse=warehouse,
                clock=clock,
                proxy=proxy,
                sandbox_url=server.url,
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


def fail(path: str, fault: Fault) -> Callable[[str], Fault | None]:
    """Fail the requests whose path begins with ``path``."""
    return lambda request: fault if request.startswith(path) else None


DOWN = Fault(status=502, body="<html>bad gateway</html>", content_type="text/html")


@both_venues
async def test_backfill_stores_the_whole_history(venue: Venue, empty_warehouse: Warehouse) -> None:
    """Bars, mark candles and settlements up to now are those of the tape, bit for bit."""
    async with scene(empty_warehouse, venue) as one:
        progress = await one.backfill()
    stored = empty_warehouse.load_panel(
        SYMBOLS, venue=venue, interval_ms=HOUR_MS, since=FIRST_OPEN, until=T0
    )
    tape = small_tape(venue)
    for name in ("open", "high", "low", "close", "volume", "quote_volume", "mark_open", "mark_low"):
        assert np.array_equal(
            getattr(stored, name), getattr(tape.panel, name)[:T0_BAR], equal_nan=True
        ), name
    settled = [one for one in tape.settlements if one.symbol == SOL and one.nominal_time < T0]
    times = empty_warehouse.settlement_times(SOL, venue=venue, since=0, until=T0 + DAY_MS)
    assert times.tolist() == [one.nominal_time for one in settled if one.nominal_time < T0]
    total = 2 * len(SYMBOLS) * T0_BAR
    assert progress[0] == (0, total)
    assert progress[-1] == (total, total)


async def test_a_second_backfill_asks_only_for_what_is_missing(empty_warehouse: Warehouse) -> None:
    """What is stored is not asked for again; what the venue lacks is, because it may come."""
    async with scene(empty_warehouse) as one:
        await one.backfill()
        one.proxy.requests.clear()
        await one.backfill()
    missing_bar = f"startTime={open_time(MISSING_ETH_BAR)}"
    klines = one.proxy.asked(KLINES)
    assert len(klines) == 1
    assert "ETHUSDT" in klines[0]
    assert missing_bar in klines[0]
    assert [request for request in one.proxy.asked(MARKS) if "SOLUSDT" not in request] == []
    starts = [
        int(request.split("startTime=")[1].split("&")[0]) for request in one.proxy.asked(FUNDING)
    ]
    assert starts
    assert min(starts) > T0 - 9 * HOUR_MS


async def test_an_interrupted_backfill_is_resumed(
    empty_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A venue that fails for every symbol ends the run by name; the next run completes it."""
    monkeypatch.setattr("market.backfill.ATTEMPTS", 1)
    async with scene(empty_warehouse) as one:
        one.proxy.answer = lambda path: DOWN if path.startswith(KLINES) else None
        with pytest.raises(VenueUnavailable, match="502"):
            await one.backfill()
        one.proxy.answer = lambda _path: None
        await one.backfill()
        assert len(one.stored_bars(SOL, FIRST_OPEN, T0)) == T0_BAR


async def test_one_failing_symbol_does_not_stop_a_backfill(
    empty_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be fetched of one symbol becomes gaps, which are asked for while others trade."""
    monkeypatch.setattr("market.backfill.ATTEMPTS", 1)
    async with scene(empty_warehouse) as one:
        one.proxy.answer = lambda path: (
            DOWN if path.startswith(KLINES) and "SOLUSDT" in path else None
        )
        await one.backfill()
        assert len(one.stored_bars(BTC, FIRST_OPEN, T0)) == T0_BAR
        assert one.feed.gap_counts["deferred"] == T0_BAR
        one.proxy.answer = lambda _path: None
        one.clock.advance(T0 + HOUR_MS)
        async with running(one.feed), asyncio.timeout(10):
            while one.feed.gap_counts["deferred"]:
                await asyncio.sleep(0.05)
        assert len(one.stored_bars(SOL, FIRST_OPEN, T0)) == T0_BAR


async def test_one_refused_symbol_does_not_stop_a_backfill(empty_warehouse: Warehouse) -> None:
    """A symbol that left the venue is reported; the history of the others is stored."""
    refusal = Fault(status=400, body='{"code":-1121,"msg":"Invalid symbol."}')
    async with scene(empty_warehouse) as one:
        one.proxy.answer = lambda path: refusal if "symbol=SOLUSDT" in path else None
        await one.backfill()
        assert len(one.stored_bars(BTC, FIRST_OPEN, T0)) == T0_BAR
        assert one.stored_bars(SOL, FIRST_OPEN, T0) == []


async def test_a_venue_that_refuses_every_symbol_ends_a_backfill(
    empty_warehouse: Warehouse,
) -> None:
    """A blocked region is not a history without bars."""
    async with scene(empty_warehouse) as one:
        one.proxy.answer = fail(KLINES, Fault(status=451, body="{}"))
        with pytest.raises(VenueRefused, match="region blocked"):
            await one.backfill()


async def test_a_short_outage_does_not_stop_a_backfill(empty_warehouse: Warehouse) -> None:
    """A request that fails once is asked again."""
    failed: list[str] = []

    def once(path: str) -> Fault | None:
        if not path.startswith(KLINES) or failed:
            return None
        failed.append(path)
        return DOWN

    async with scene(empty_warehouse) as one:
        one.proxy.answer = once
        await one.backfill()
        assert len(one.stored_bars(BTC, FIRST_OPEN, T0)) == T0_BAR
    assert one.feed.counters["requests_failed"] == 1


@both_venues
async def test_a_close_is_complete_when_it_is_returned(
    venue: Venue, empty_warehouse: Warehouse
) -> None:
    """Nine closes: bars, mark candles and due settlements are stored before each is returned."""
    async with scene(empty_warehouse, venue) as one, running(one.feed):
        await one.backfill(since=T0 - DAY_MS)
        after = T0
        for _ in range(9):
            result = await one.close(after)
            assert result == IntervalClose(decision_time=after + HOUR_MS, missing=())
            assert one.clock.now() >= after + HOUR_MS
            after += HOUR_MS
            for symbol in SYMBOLS:
                assert one.stored_bars(symbol, T0, after)[-1] == after - HOUR_MS
            assert one.stored_marks(BTC, T0, after)[-1] == after - HOUR_MS
            # BTC settles at bars 200 and 208, SOL at 200, 204 and 208: each is there at the next
            # close at the latest.
            every_8_hours = list(range(T0, after, 8 * HOUR_MS))
            assert one.stored_settlements(BTC, T0, after) == every_8_hours
            every_4_hours = list(range(T0, after, 4 * HOUR_MS))
            assert one.stored_settlements(SOL, T0, after) == every_4_hours
    assert one.feed.counters["bars_stream"] >= 27
    assert one.feed.counters["requests_failed"] == 0


async def test_settlements_are_asked_for_when_due_and_not_otherwise(
    empty_warehouse: Warehouse,
) -> None:
    """Over eight hourly closes an eight-hour symbol costs one request, a four-hour one two."""
    async with scene(empty_warehouse) as one, running(one.feed):
        await one.backfill(since=T0 - DAY_MS)
        one.proxy.requests.clear()
        for hour in range(8):
            await one.close(T0 + hour * HOUR_MS)
    asked = one.proxy.asked(FUNDING)
    assert sum("BTCUSDT" in request for request in asked) == 1
    assert sum("SOLUSDT" in request for request in asked) == 2


async def test_without_a_stream_rest_brings_the_bars(empty_warehouse: Warehouse) -> None:
    """Subscribed but no data: every close is repaired by REST, in time, and counted."""
    async with scene(empty_warehouse) as one, running(one.feed):
        await one.backfill(since=T0 - DAY_MS)
        one.proxy.rewrite = lambda frame: [] if '"kline"' in frame else [frame]
        results = [await one.close(T0 + hour * HOUR_MS) for hour in range(2)]
    assert [result.missing for result in results] == [(), ()]
    assert one.feed.counters["bars_stream"] == 0
    assert one.feed.counters["gaps_repaired"] == 6


async def test_a_bar_that_nobody_has_names_its_symbol_and_no_other(
    empty_warehouse: Warehouse,
) -> None:
    """ETH's missing bar isolates ETH; the others are stored and the next close is whole again."""
    start = open_time(MISSING_ETH_BAR)
    async with (
        scene(empty_warehouse, start_bar=MISSING_ETH_BAR, deadline_seconds=1.0) as one,
        running(one.feed),
    ):
        await one.backfill(since=start - DAY_MS)
        gap = await one.close(start)
        whole = await one.close(start + HOUR_MS)
    assert gap == IntervalClose(decision_time=start + HOUR_MS, missing=(ETH,))
    assert one.stored_bars(BTC, start, start + HOUR_MS) == [start]
    assert whole.missing == ()


async def test_a_venue_that_is_down_costs_the_deadline_and_no_more(
    empty_warehouse: Warehouse,
) -> None:
    """With nothing reachable the close is returned at the deadline, every symbol missing."""
    async with scene(empty_warehouse, deadline_seconds=1.0) as one:
        await one.backfill(since=T0 - DAY_MS)
        one.proxy.answer = lambda _path: DOWN
        async with running(one.feed):
            await one.proxy.cut()
            one.clock.advance(T0 + HOUR_MS)
            started = asyncio.get_running_loop().time()
            result = await one.feed.next_close(T0)
            took = asyncio.get_running_loop().time() - started
    assert result == IntervalClose(decision_time=T0 + HOUR_MS, missing=SYMBOLS)
    assert 0.9 < took < 2.5
    assert one.feed.counters["requests_failed"] > 0


async def test_a_close_that_is_stored_is_returned_at_once(empty_warehouse: Warehouse) -> None:
    """A daemon that comes late gets the close after the one it knows, not the newest."""
    async with scene(empty_warehouse) as one:
        await one.backfill(since=T0 - DAY_MS)
        async with asyncio.timeout(2):
            result = await one.feed.next_close(T0 - 5 * HOUR_MS)
    assert result == IntervalClose(decision_time=T0 - 4 * HOUR_MS, missing=())


async def test_a_late_close_is_repaired_at_once(empty_warehouse: Warehouse) -> None:
    """Intervals that closed while nobody listened are fetched without waiting for the socket."""
    async with scene(empty_warehouse, deadline_seconds=30.0) as one:
        await one.backfill(since=T0 - DAY_MS)
        await commit(one.sandbox_url, T0 + 4 * HOUR_MS)
        one.clock.advance(T0 + 5 * HOUR_MS)
        async with asyncio.timeout(5):
            results = [await one.feed.next_close(T0 + hour * HOUR_MS) for hour in range(5)]
    assert [result.missing for result in results] == [()] * 5
    assert one.stored_bars(BTC, T0, T0 + DAY_MS) == [T0 + hour * HOUR_MS for hour in range(5)]


async def test_a_bad_bar_is_quarantined_and_replaced_by_rest(empty_warehouse: Warehouse) -> None:
    """High below low is refused and counted; the true bar comes by REST; the others go on."""

    def spoil(frame: str) -> list[str]:
        message = json.loads(frame)
        if message.get("s") == "BTCUSDT" and message["k"]["x"]:
            message["k"]["h"] = "1"
        return [json.dumps(message)]

    async with scene(empty_warehouse) as one, running(one.feed):
        await one.backfill(since=T0 - DAY_MS)
        one.proxy.rewrite = spoil
        result = await one.close(T0)
    assert result.missing == ()
    assert one.feed.counters["bars_quarantined"] >= 1
    panel = empty_warehouse.load_panel(
        [BTC], venue=one.exchange.venue, interval_ms=HOUR_MS, since=T0, until=T0 + HOUR_MS
    )
    assert panel.high[0, 0] == small_tape(Venue.BINANCEUSDM).panel.high[T0_BAR, 0]


async def test_an_audit_finds_a_streamed_bar_that_rest_contradicts(
    empty_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """REST is the truth: the difference becomes a revision and is counted."""
    monkeypatch.setattr(ingest_module, "AUDIT_BARS", 2)
    wrong_close = float(small_tape(Venue.BINANCEUSDM).panel.low[T0_BAR + 1, 0])

    def distort(frame: str) -> list[str]:
        message = json.loads(frame)
        kline = message.get("k", {})
        if (kline.get("s"), kline.get("t")) == ("BTCUSDT", T0 + HOUR_MS) and kline["x"]:
            kline["c"] = str(wrong_close)
        return [json.dumps(message)]

    async with scene(empty_warehouse) as one, running(one.feed):
        await one.backfill(since=T0 - DAY_MS)
        one.proxy.rewrite = distort
        for hour in range(4):
            await one.close(T0 + hour * HOUR_MS)
        async with asyncio.timeout(5):
            while not one.feed.counters["bars_revised"]:
                await asyncio.sleep(0.02)
    panel = empty_warehouse.load_panel(
        [BTC], venue=one.exchange.venue, interval_ms=HOUR_MS, since=T0, until=T0 + 2 * HOUR_MS
    )
    assert panel.close[1, 0] == small_tape(Venue.BINANCEUSDM).panel.close[T0_BAR + 1, 0]
    assert one.feed.counters["bars_revised"] == 1


async def test_a_failed_mark_fetch_stays_outstanding(empty_warehouse: Warehouse) -> None:
    """It is counted, does not hold the bars, and is made good at the next close."""
    async with scene(empty_warehouse, deadline_seconds=1.0) as one, running(one.feed):
        await one.backfill(since=T0 - DAY_MS)
        one.proxy.answer = fail(MARKS, DOWN)
        first = await one.close(T0)
        assert one.stored_marks(BTC, T0, T0 + DAY_MS) == []
        failed = one.feed.counters["mark_fetch_failed"]
        one.proxy.answer = lambda _path: None
        await one.close(T0 + HOUR_MS)
        assert one.stored_marks(BTC, T0, T0 + DAY_MS) == [T0, T0 + HOUR_MS]
    assert first.missing == ()
    assert failed >= 3


async def test_a_failed_funding_fetch_is_never_a_zero(empty_warehouse: Warehouse) -> None:
    """Nothing is stored while it fails; every true rate is stored at the close after."""
    async with scene(empty_warehouse, deadline_seconds=0.4) as one, running(one.feed):
        await one.backfill(since=T0 - DAY_MS)
        one.proxy.answer = fail(FUNDING, DOWN)
        for hour in range(5):
            await one.close(T0 + hour * HOUR_MS)
        assert one.stored_settlements(BTC, T0, T0 + DAY_MS) == []
        assert one.feed.counters["funding_fetch_failed"] >= 10
        one.proxy.answer = lambda _path: None
        await one.close(T0 + 5 * HOUR_MS)
        assert one.stored_settlements(BTC, T0, T0 + DAY_MS) == [T0]
        assert one.stored_settlements(SOL, T0, T0 + DAY_MS) == [T0, T0 + 4 * HOUR_MS]
    (settlement,) = empty_warehouse.settlements(
        [BTC], venue=one.exchange.venue, interval_ms=HOUR_MS, since=T0, until=T0 + MINUTE_MS
    )
    assert settlement.rate == (T0_BAR - 90) / 3e6
    assert settlement.mark_source is MarkSource.VENUE


async def test_a_shortened_funding_interval_is_noticed(empty_warehouse: Warehouse) -> None:
    """The venue says eight hours for SOL and settles every four: stored rows decide."""
    async with scene(empty_warehouse) as one, running(one.feed):
        one.proxy.answer = fail("/fapi/v1/fundingInfo", Fault(body="[]"))
        await one.backfill(since=T0 - DAY_MS)
        for hour in range(5):
            await one.close(T0 + hour * HOUR_MS)
        assert one.stored_settlements(SOL, T0, T0 + DAY_MS) == [T0, T0 + 4 * HOUR_MS]


async def test_a_broken_stream_is_counted_and_survived(empty_warehouse: Warehouse) -> None:
    """A cut connection costs a restart; the closes around it are whole."""
    async with scene(empty_warehouse) as one, running(one.feed):
        await one.backfill(since=T0 - DAY_MS)
        first = await one.close(T0)
        await one.proxy.cut()
        second = await one.close(T0 + HOUR_MS)
        third = await one.close(T0 + 2 * HOUR_MS)
    assert [first.missing, second.missing, third.missing] == [(), (), ()]
    assert one.feed.counters["stream_restarts"] >= 1


async def test_a_stream_that_falls_silent_is_renewed(empty_warehouse: Warehouse) -> None:
    """A socket that is open and brings nothing is replaced after the deadline, by one that does."""
    async with scene(empty_warehouse, deadline_seconds=0.5) as one, running(one.feed):
        await one.backfill(since=T0 - DAY_MS)
        await one.close(T0)
        one.proxy.mute()
        await one.close(T0 + HOUR_MS)
        async with asyncio.timeout(5):
            while not one.feed.counters["stream_restarts"]:
                await asyncio.sleep(0.05)
        before = one.feed.counters["bars_stream"]
        await one.close(T0 + 2 * HOUR_MS)
        await one.close(T0 + 3 * HOUR_MS)
    assert one.feed.counters["bars_stream"] >= before + 3


async def test_a_store_that_fails_loses_no_bar(
    empty_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A streamed bar that could not be written is kept, and written once the store is back."""
    write = empty_warehouse.insert_bars
    failures = iter([WarehouseError("disk full")] * 2)

    def insert_bars(*args: Any, **options: Any) -> int:
        for failure in failures:
            raise failure
        return write(*args, **options)

    async with scene(empty_warehouse, deadline_seconds=5.0) as one, running(one.feed):
        await one.backfill(since=T0 - DAY_MS)
        one.proxy.answer = fail(KLINES, DOWN)
        monkeypatch.setattr(empty_warehouse, "insert_bars", insert_bars)
        result = await one.close(T0)
    assert result.missing == ()
    assert one.feed.counters["writes_failed"] == 2


@both_venues
async def test_a_running_clock_misses_no_close(venue: Venue, empty_warehouse: Warehouse) -> None:
    """At ten bars a second, without lock-step, every close of every symbol comes in order."""
    speed = 36_000.0
    async with sandbox(venue, speed=speed, lock_step=False) as server:
        exchange = await Exchange.open(venue, base_url=server.url)
        clock = ScaledClock(anchor_ms=await exchange.server_time(), speed=speed)
        feed = Feed(
            exchange=exchange,
            warehouse=empty_warehouse,
            clock=clock,
            symbols=SYMBOLS,
            interval_ms=HOUR_MS,
            deadline_seconds=5.0,
        )
        await feed.backfill(since=T0 - DAY_MS, progress=lambda *_: None)
        async with running(feed), asyncio.timeout(20):
            closes = [await feed.next_close(T0 + hour * HOUR_MS) for hour in range(15)]
        await exchange.close()
    assert [close.decision_time for close in closes] == [
        T0 + hour * HOUR_MS for hour in range(1, 16)
    ]
    assert [close.missing for close in closes] == [()] * 15
    assert set(feed.last_bar_at) == set(SYMBOLS)


async def test_stopping_leaves_no_task(empty_warehouse: Warehouse) -> None:
    """Cancelling ``run`` in the middle of a close ends everything that the feed started."""
    async with scene(empty_warehouse) as one:
        before = asyncio.all_tasks()
        async with running(one.feed):
            waiting = asyncio.create_task(one.feed.next_close(T0))
            await asyncio.sleep(0.2)
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
        await asyncio.sleep(0.2)
        left = [repr(task) for task in asyncio.all_tasks() - before]
    assert [task for task in left if "sandbox" not in task and "aiohttp" not in task] == []
