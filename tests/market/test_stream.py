"""The stream: connections overlap when they are renewed, and a cut one costs no bar."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from market.bar import MINUTE_MS, Bar
from market.exchange import Exchange
from market.instrument import Venue
from market.retry import VenueError
from market.sandbox.fault import Fault, FaultKind
from market.sandbox.rules import listed_symbols
from market.stream import MOST_TOPICS
from market.warehouse import Warehouse
from tests.market.rehearsal import minute, minute_sandbox, rehearsal
from tests.market.sandbox_client import served

SPEED = 200.0  # a bar in 0.3 seconds
PERPETUALS = listed_symbols(Venue.BINANCEUSDM)[:3]
GONE = PERPETUALS[1]
both_venues = pytest.mark.parametrize("venue", [Venue.BINANCEUSDM, Venue.BYBIT])


@dataclass(kw_only=True)
class Listener:
    """A stream that is read, and what it brought."""

    exchange: Exchange
    url: str
    bars: list[Bar] = field(default_factory=list)
    restarts: list[VenueError] = field(default_factory=list)

    def times(self, symbol: str) -> list[int]:
        """Return the open times of ``symbol`` in the order in which they came."""
        return [bar.open_time for bar in self.bars if bar.symbol == symbol]

    async def until(self, is_enough: Callable[[], bool]) -> None:
        """Return once it holds, at most ten seconds from now."""
        async with asyncio.timeout(10):
            while not is_enough():
                await asyncio.sleep(0.02)

    async def until_bars(self, symbol: str, more: int) -> None:
        """Return once so many more bars of ``symbol`` have come."""
        wanted = len(self.times(symbol)) + more
        await self.until(lambda: len(self.times(symbol)) >= wanted)

    async def numbers(self, kind: str) -> dict[int, int]:
        """Return the place in the venue's log of the first entry of a kind, by connection."""
        found: dict[int, int] = {}
        for entry in await served(self.url, kind):
            found.setdefault(entry["connection"], entry["number"])
        return found

    async def topics(self) -> dict[int, list[list[str]]]:
        """Return the topics of each request to subscribe, by connection."""
        found: dict[int, list[list[str]]] = {}
        for entry in await served(self.url, "subscribed"):
            found.setdefault(entry["connection"], []).append(entry["detail"].split())
        return found


@asynccontextmanager
async def listening(
    venue: Venue,
    symbols: Sequence[str],
    *,
    faults: tuple[Fault, ...] = (),
    connection_life_ms: int | None = None,
) -> AsyncIterator[Listener]:
    """Open an exchange before a running sandbox and read its stream."""
    async with minute_sandbox(
        symbols, venue=venue, faults=faults, speed=SPEED, connection_life_ms=connection_life_ms
    ) as server:
        exchange = await Exchange.open(venue, base_url=server.url)
        one = Listener(exchange=exchange, url=server.url)

        async def read() -> None:
            stream = exchange.closed_bars(
                symbols, interval_ms=MINUTE_MS, on_restart=one.restarts.append
            )
            async with aclosing(stream):
                async for bar in stream:
                    one.bars.append(bar)

        reader = asyncio.create_task(read())
        try:
            yield one
        finally:
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader
            await exchange.close()


@both_venues
async def test_a_renewal_overlaps(venue: Venue) -> None:
    """The venue sees the second subscription before the first connection ends, and no final lost.

    What came twice meanwhile came with the same values.
    """
    async with listening(venue, PERPETUALS) as one:
        await one.until_bars(PERPETUALS[0], 2)
        await one.exchange.renew()
        await one.until_bars(PERPETUALS[0], 3)
        subscribed, ended = await one.numbers("subscribed"), await one.numbers("disconnected")
        restarts = list(one.restarts)
    first, second = sorted(subscribed)
    assert subscribed[second] < ended[first]
    assert second not in ended
    assert restarts == []
    for symbol in PERPETUALS:
        times = sorted(set(one.times(symbol)))
        assert times == list(range(times[0], times[-1] + MINUTE_MS, MINUTE_MS))
        assert len({bar for bar in one.bars if bar.symbol == symbol}) == len(times)


async def test_a_renewal_stores_no_bar_twice(empty_warehouse: Warehouse) -> None:
    """Three renewals in eight minutes: the rows are the venue's, and none was revised."""
    async with rehearsal(empty_warehouse, PERPETUALS) as one:
        for _ in range(3):
            await one.play(2)
            await one.exchange.renew()
        await one.play(2)
        wrong = await one.differences(minute(0), minute(8))
        counters = one.feed.counters
    assert wrong == {symbol: [] for symbol in PERPETUALS}
    assert counters["bars_conflicting"] == 0
    assert counters["bars_revised"] == 0
    assert counters["stream_restarts"] == 0


async def test_a_renewal_whose_second_connection_is_silent_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A subscription that is acknowledged and brings nothing does not keep the old one for ever."""
    monkeypatch.setattr("market.exchange.RENEWAL_SECONDS", 0.4)
    silent = Fault(kind=FaultKind.SUBSCRIBED_NO_DATA, at=minute(2), duration_ms=60 * MINUTE_MS)
    async with listening(Venue.BINANCEUSDM, PERPETUALS, faults=(silent,)) as one:
        await one.until_bars(PERPETUALS[0], 3)
        async with asyncio.timeout(3):
            await one.exchange.renew()
        assert len(await one.numbers("disconnected")) == 1


async def test_bybit_spot_gets_its_topics_in_groups() -> None:
    """Twelve pairs: ten and two in a request, on one connection; every pair's bars come."""
    pairs = listed_symbols(Venue.BYBITSPOT)[:12]
    async with listening(Venue.BYBITSPOT, pairs) as one:
        await one.until(lambda: {bar.symbol for bar in one.bars} == set(pairs))
        topics = await one.topics()
        await one.exchange.renew()
        before = len(one.bars)
        await one.until(lambda: {bar.symbol for bar in one.bars[before:]} == set(pairs))
        restarts = list(one.restarts)
    (requests,) = topics.values()
    assert sorted(len(request) for request in requests) == [2, MOST_TOPICS]
    assert len({topic for request in requests for topic in request}) == 12
    assert restarts == []


# Binance lists a symbol for an hour more, as not trading; Bybit's list is of what trades.
@pytest.mark.parametrize(
    ("venue", "delisted_at"), [(Venue.BINANCEUSDM, minute(-56)), (Venue.BYBIT, minute(4))]
)
async def test_a_renewal_leaves_out_what_is_no_longer_listed(
    venue: Venue, delisted_at: int
) -> None:
    """A symbol that left the venue would spoil the whole subscription; the others go on."""
    delisting = Fault(kind=FaultKind.DELISTING, at=delisted_at, symbols=(GONE,))
    async with listening(venue, PERPETUALS, faults=(delisting,)) as one:
        await one.until(lambda: bool(one.bars) and one.bars[-1].open_time >= minute(4))
        listed = await one.exchange.reload_instruments()
        await one.exchange.renew()
        await one.until_bars(PERPETUALS[0], 2)
        await one.until_bars(PERPETUALS[2], 1)
        topics = await one.topics()
    assert GONE not in listed
    first, second = (
        [topic for request in topics[connection] for topic in request]
        for connection in sorted(topics)
    )
    assert (len(first), len(second)) == (3, 2)
    assert not any(GONE.split("/")[0] in topic.upper() for topic in second)
    assert max(one.times(GONE), default=0) < delisted_at


async def test_the_venues_own_cut_is_survived(empty_warehouse: Warehouse) -> None:
    """A venue that ends each connection at its age: every bar is stored, by socket or REST."""
    async with rehearsal(empty_warehouse, PERPETUALS, connection_life_ms=3 * MINUTE_MS) as one:
        await one.play(6)
        await one.whole()
        wrong = await one.differences(minute(0), minute(6))
        ended = await served(one.url, "disconnected")
        counters = dict(one.feed.counters)
    assert len(ended) >= 2
    assert counters["stream_restarts"] >= 2
    assert counters["bars_stream"] >= 6
    assert wrong == {symbol: [] for symbol in PERPETUALS}


@both_venues
async def test_a_half_open_connection_is_left_at_once(venue: Venue) -> None:
    """Its closing handshake is never answered: the next one brings bars all the same."""
    symbols = listed_symbols(venue)[:3]
    faults = (Fault(kind=FaultKind.HALF_OPEN, at=minute(4), duration_ms=60 * MINUTE_MS),)
    async with listening(venue, symbols, faults=faults) as one:
        await one.until_bars(symbols[0], 2)
        heard = -1
        while heard < len(one.bars):  # until the connection says nothing any more
            heard = len(one.bars)
            await asyncio.sleep(1.0)
        await one.exchange.reconnect()
        await one.until_bars(symbols[0], 2)
        opened = await one.numbers("connected")
    assert len(opened) == 2
