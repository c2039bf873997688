"""The budget: what one address may ask of one venue, and the door that a ban closes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market import ccxt_client
from market import exchange as exchange_module
from market.bar import HOUR_MS, Bar
from market.budget import (
    BACKGROUND_SHARE,
    LIMITS,
    LIVE_SHARE,
    Budget,
    Limit,
    in_background,
    shared_budget,
)
from market.clock import WallClock, monotonic_seconds
from market.exchange import Exchange
from market.instrument import Venue
from market.retry import RateLimited, RegionBlocked
from tests.market.fault_proxy import Fault, FaultProxy
from tests.market.sandbox_client import T0, sandbox
from tests.market.small_tape import BTC

WINDOW = 60.0
KLINES = "/fapi/v1/klines"


def budget(
    *, weight: float = 10, speed: float = 600, per_cost: float = 1, ban_file: Path | None = None
) -> Budget:
    """A budget of 10 per minute; at 600 a minute passes in a tenth of a second."""
    limit = Limit(weight=weight, window_seconds=WINDOW, weight_per_cost=per_cost)
    return Budget(limit, speed=speed, ban_file=ban_file)


async def spend_all(one: Budget, costs: list[int]) -> list[tuple[float, float]]:
    """Spend all at once; return the venue second and the weight of each."""
    spent: list[tuple[float, float]] = []

    async def spend(cost: int) -> None:
        await one.spend(cost)
        spent.append((monotonic_seconds() * one.speed, float(cost)))

    await asyncio.gather(*(spend(cost) for cost in costs))
    return sorted(spent)


async def seconds_to_spend(one: Budget, cost: float) -> float:
    """Return how many real seconds a request of ``cost`` had to wait."""
    began = monotonic_seconds()
    await one.spend(cost)
    return monotonic_seconds() - began


# Limits


@settings(max_examples=25)
@given(costs=st.lists(st.integers(1, 8), min_size=1, max_size=14))
def test_no_window_holds_more_than_the_share(costs: list[int]) -> None:
    """In every span of a window's length the weights sum up to at most 8 of 10."""
    one = budget(speed=6_000)
    spent = asyncio.run(spend_all(one, costs))
    # What was measured came up to a few microseconds, so venue milliseconds, after the spending.
    for since, _ in spent:
        within = [weight for at, weight in spent if since <= at < since + WINDOW - 5]
        assert sum(within) <= 8
    assert one.spent == sum(costs)
    assert one.most_in_window <= 8


async def test_what_fits_never_waits() -> None:
    """Eight requests of one pass at once; the ninth waits for the first to leave the window."""
    one = budget(speed=120)  # a minute passes in half a second
    waited = [await seconds_to_spend(one, 1) for _ in range(9)]
    assert sum(waited[:8]) < 0.1
    assert 0.4 < waited[8] < 0.7


async def test_a_wait_ends_when_enough_has_left_the_window() -> None:
    """4 now and 4 later: room for 4 comes with the first, not when all has left."""
    one = budget(speed=120)
    await one.spend(4)
    await asyncio.sleep(0.25)
    await one.spend(4)
    assert 0.15 < await seconds_to_spend(one, 4) < 0.4


async def test_a_request_over_the_whole_share_still_passes() -> None:
    """A weight that no window could ever hold goes alone, instead of waiting for ever."""
    one = budget()
    async with asyncio.timeout(2):
        await one.spend(50)
    assert one.spent == 50


async def test_background_leaves_room_for_the_live_feed() -> None:
    """After 5 of 10 a backfill waits while the live feed still gets 3."""
    one = budget(speed=60)
    assert (LIVE_SHARE, BACKGROUND_SHARE) == (0.8, 0.5)
    with in_background():
        for _ in range(5):
            await one.spend(1)
        waiting = asyncio.create_task(one.spend(1))
    async with asyncio.timeout(0.5):
        for _ in range(3):
            await one.spend(1)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert one.spent == 8


async def test_what_others_used_counts() -> None:
    """The venue says 7 and we spent 2: one more fits, the next does not."""
    one = budget(speed=60)
    await one.spend(2)
    one.note_stated(7)
    assert one.used_share == pytest.approx(0.7)
    async with asyncio.timeout(0.3):
        await one.spend(1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await one.spend(1)
    assert one.spent == 3


async def test_a_venue_that_knows_of_less_frees_nothing() -> None:
    """Its minute began later than ours: what we spent stays spent."""
    one = budget(speed=60)
    await one.spend(6)
    one.note_stated(2)
    assert one.used_share == pytest.approx(0.6)


async def test_the_venues_count_enters_by_its_header() -> None:
    """Binance states the used weight with every answer; another program's 1,000 counts."""
    async with sandbox(Venue.BINANCEUSDM) as server, FaultProxy(server.url) as proxy:
        own = Budget(LIMITS[Venue.BINANCEUSDM])
        exchange = await Exchange.open(Venue.BINANCEUSDM, base_url=proxy.url, budget=own)
        proxy.answer = lambda _path: Fault(
            body=json.dumps({"serverTime": T0}), headers={"X-MBX-USED-WEIGHT-1M": "1200"}
        )
        await exchange.server_time()
        await exchange.close()
    assert own.used_share == pytest.approx(0.5)


async def test_what_a_ban_refuses_is_not_counted() -> None:
    """A request that may not leave has cost the venue nothing, also one that waited for room."""
    one = budget(speed=60)
    await one.spend(8)
    waiting = asyncio.create_task(one.spend(1))
    await asyncio.sleep(0)
    one.close(30, because="banned")
    with pytest.raises(RateLimited):
        await one.spend(1)
    with pytest.raises(RateLimited):
        await asyncio.wait_for(waiting, 2)
    assert one.spent == one.most_in_window == 8


async def test_a_standing_venue_limits_nobody() -> None:
    """Without a limit everything passes, and is counted."""
    one = Budget(None)
    async with asyncio.timeout(0.5):
        for _ in range(1_000):
            await one.spend(10)
    assert one.spent == 10_000
    assert one.used_share == 0


def test_two_exchanges_on_one_host_share_a_budget() -> None:
    """The limit is the address's: whoever asks the same host draws on the same budget."""
    first = Exchange(venue=Venue.BINANCEUSDM, base_url=None)
    second = Exchange(venue=Venue.BINANCEUSDM, base_url=None)
    spot = Exchange(venue=Venue.BINANCE, base_url=None)
    assert first.budget is second.budget
    assert spot.budget is not first.budget
    assert first.budget.limit == LIMITS[Venue.BINANCEUSDM]
    assert spot.budget.limit == LIMITS[Venue.BINANCE]


def test_bybits_two_markets_share_a_budget() -> None:
    """Linear and spot are asked at one host, and its limit does not tell them apart."""
    linear = Exchange(venue=Venue.BYBIT, base_url=None)
    spot = Exchange(venue=Venue.BYBITSPOT, base_url=None)
    assert linear.host == spot.host
    assert linear.budget is spot.budget
    assert shared_budget(Venue.BYBIT, linear.host) is linear.budget


# The closed door


@asynccontextmanager
async def behind_proxy(own: Budget) -> AsyncIterator[tuple[FaultProxy, Exchange]]:
    """Yield a proxy before a sandbox and an exchange that draws on ``own``."""
    async with sandbox(Venue.BINANCEUSDM) as server, FaultProxy(server.url) as proxy:
        exchange = await Exchange.open(Venue.BINANCEUSDM, base_url=proxy.url, budget=own)
        try:
            yield proxy, exchange
        finally:
            await exchange.close()


def fetch(exchange: Exchange) -> asyncio.Task[list[Bar]]:
    """Ask for ten bars."""
    asked = exchange.fetch_bars(BTC, interval_ms=HOUR_MS, since=T0 - 10 * HOUR_MS, until=T0)
    return asyncio.create_task(asked)


async def test_no_request_reaches_the_venue_before_the_deadline() -> None:
    """A 418 also stops those that wait for their turn already; after the deadline they pass."""
    own = budget(speed=60)  # a minute passes in a second
    async with behind_proxy(own) as (proxy, exchange):
        await exchange.server_time()
        await asyncio.sleep(1.1)
        proxy.requests.clear()
        arrived: list[float] = []

        def ban(path: str) -> Fault | None:
            arrived.append(monotonic_seconds())
            headers = {"Retry-After": "150"}  # venue seconds: 2.5 real ones
            is_first = len(arrived) <= 8
            return Fault(status=418, body="{}", headers=headers) if is_first else None

        proxy.answer = ban
        asked = [fetch(exchange) for _ in range(20)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(answer, RateLimited) for answer in answers)
        in_flight, banned_at = len(arrived), arrived[-1]
        assert in_flight <= 8
        while own.closed_seconds() > 0:
            with pytest.raises(RateLimited):
                await fetch(exchange)
            await asyncio.sleep(0.1)
        proxy.answer = lambda _path: arrived.append(monotonic_seconds())
        bars = await fetch(exchange)
    assert len(bars) == 10
    assert arrived[in_flight] >= banned_at + 2.4


async def test_a_deadline_stated_as_a_time_is_waited_out() -> None:
    """The body says "banned until" and no header: seconds count from the venue's time."""
    own = Budget(LIMITS[Venue.BINANCEUSDM], speed=60)
    async with behind_proxy(own) as (proxy, exchange):
        now = await exchange.server_time()
        text = f"Way too many requests; IP banned until {now + 90_000}."
        proxy.answer = lambda _path: Fault(
            status=418, body=json.dumps({"code": -1003, "msg": text})
        )
        with pytest.raises(RateLimited) as caught:
            await fetch(exchange)
    assert caught.value.retry_after_seconds == pytest.approx(1.5)
    assert 1.2 < own.closed_seconds() <= 1.5


async def test_the_longer_of_two_bans_holds() -> None:
    """A later and shorter notice does not open the door sooner."""
    one = budget()
    one.close(10, because="first")
    one.close(1, because="second")
    fault = one.closed_fault(host="venue", request="bars")
    assert isinstance(fault, RateLimited)
    assert 9 < fault.retry_after_seconds <= 10
    assert "first" in fault.cause
    assert one.bans == 1


async def test_a_blocked_region_ends_every_call_until_the_pause_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a 451 nothing is asked, whatever it is; then one request tells."""
    monkeypatch.setattr(ccxt_client, "REGION_PAUSE_SECONDS", 1.0)
    async with behind_proxy(Budget(LIMITS[Venue.BINANCEUSDM])) as (proxy, exchange):
        proxy.answer = lambda _path: Fault(status=451, body="{}")
        with pytest.raises(RegionBlocked):
            await exchange.server_time()
        before = len(proxy.requests)
        for ask in (exchange.server_time, lambda: fetch(exchange), exchange.reload_instruments):
            with pytest.raises(RegionBlocked, match="region blocked"):
                await ask()
        assert len(proxy.requests) == before
        await asyncio.sleep(1.05)
        proxy.answer = lambda _path: None
        assert await exchange.server_time() >= T0


# The ban that outlives the process


def test_a_ban_outlives_the_process(tmp_path: Path) -> None:
    """A new budget on the same file waits out what is left of the old one's ban."""
    path = tmp_path / "ban.json"
    budget(ban_file=path).close(30, because="HTTP 418")
    again = budget(ban_file=path)
    assert 28 < again.closed_seconds() <= 30
    fault = again.closed_fault(host="venue", request="bars")
    assert isinstance(fault, RateLimited)
    assert "HTTP 418" in fault.cause


async def test_a_restarted_process_asks_nothing_before_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even its first request: opening fails with the cause, and the venue hears nothing."""
    monkeypatch.setattr(exchange_module, "OPEN_SECONDS", 0.5)
    path = tmp_path / "ban.json"
    budget(ban_file=path).close(60, because="HTTP 418")
    async with sandbox(Venue.BINANCEUSDM) as server, FaultProxy(server.url) as proxy:
        again = budget(ban_file=path)
        with pytest.raises(RateLimited, match="HTTP 418"):
            await Exchange.open(Venue.BINANCEUSDM, base_url=proxy.url, budget=again)
        assert proxy.requests == []


def test_a_ban_that_is_over_is_ignored(tmp_path: Path) -> None:
    """A file whose deadline has passed closes nothing."""
    path = tmp_path / "ban.json"
    path.write_text(json.dumps({"until": WallClock().now() - 1_000, "because": "HTTP 418"}))
    assert budget(ban_file=path).closed_seconds() == 0


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "7", '{"until": "soon", "because": ""}', '{"because": "x"}', "\udcff"],
)
def test_a_broken_ban_file_is_ignored(tmp_path: Path, text: str) -> None:
    """A file cut off by a crash must not keep the daemon from starting."""
    path = tmp_path / "ban.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert budget(ban_file=path).closed_seconds() == 0
