"""The exchange adapter against the sandbox: what it hands out is what the tape holds."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import astuple
from decimal import Decimal

import numpy as np
import pytest

from market import exchange as exchange_module
from market.bar import HOUR_MS, Bar, MarkSource
from market.binance import BinanceUsdm
from market.bybit import BybitLinear
from market.exchange import Exchange
from market.instrument import Venue
from market.retry import VenueRefused, VenueUnavailable
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


@asynccontextmanager
async def opened(venue: Venue, url: str) -> AsyncIterator[Exchange]:
    """Yield an exchange that talks to ``url``, and close it."""
    exchange = await Exchange.open(venue, base_url=url)
    try:
        yield exchange
    finally:
        await exchange.close()


def taped(venue: Venue, symbol: str, bar: int) -> tuple[float, ...]:
    """Return open, high, low, close and volume of one bar of the tape."""
    panel, index = small_tape(venue).panel, SYMBOLS.index(symbol)
    names = ("open", "high", "low", "close", "volume")
    return tuple(float(getattr(panel, name)[bar, index]) for name in names)


def prices(bar: Bar) -> tuple[float, ...]:
    """Return open, high, low, close and volume."""
    return (bar.open, bar.high, bar.low, bar.close, bar.volume)


@both_venues
async def test_bars_are_the_tape_over_several_pages(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every bar once, ascending, in the half-open range, whatever the venue's page and order."""
    monkeypatch.setattr(BinanceUsdm, "most_rows", 8)
    monkeypatch.setattr(BybitLinear, "most_rows", 8)
    async with sandbox(venue) as server, opened(venue, server.url) as exchange:
        bars = await exchange.fetch_bars(
            BTC, interval_ms=HOUR_MS, since=open_time(3), until=open_time(40)
        )
    assert [bar.open_time for bar in bars] == [open_time(bar) for bar in range(3, 40)]
    assert [prices(bar) for bar in bars] == [taped(venue, BTC, bar) for bar in range(3, 40)]


@both_venues
async def test_the_open_bar_is_left_out(venue: Venue) -> None:
    """A range that reaches into the future ends with the last bar that closed."""
    async with sandbox(venue) as server, opened(venue, server.url) as exchange:
        bars = await exchange.fetch_bars(
            BTC, interval_ms=HOUR_MS, since=T0 - 2 * HOUR_MS, until=T0 + 9 * HOUR_MS
        )
    assert [bar.open_time for bar in bars] == [T0 - 2 * HOUR_MS, T0 - HOUR_MS]


@both_venues
async def test_a_bar_that_the_venue_lacks_is_not_invented(venue: Venue) -> None:
    """ETH's missing bar is missing, and its neighbours are not."""
    since, until = open_time(MISSING_ETH_BAR - 1), open_time(MISSING_ETH_BAR + 2)
    async with sandbox(venue) as server, opened(venue, server.url) as exchange:
        bars = await exchange.fetch_bars(ETH, interval_ms=HOUR_MS, since=since, until=until)
    assert [bar.open_time for bar in bars] == [since, open_time(MISSING_ETH_BAR + 1)]
    assert bars[0].quote_volume is None
    assert bars[0].trades is None


@both_venues
async def test_mark_bars_are_the_tape(venue: Venue) -> None:
    """Mark candles are their own series; a symbol without any has none."""
    async with sandbox(venue) as server, opened(venue, server.url) as exchange:
        marks = await exchange.fetch_mark_bars(
            BTC, interval_ms=HOUR_MS, since=open_time(5), until=T0 + HOUR_MS
        )
        none = await exchange.fetch_mark_bars(
            SOL, interval_ms=HOUR_MS, since=open_time(5), until=T0
        )
    panel = small_tape(venue).panel
    assert [mark.open_time for mark in marks] == [open_time(bar) for bar in range(5, T0_BAR)]
    assert np.array_equal([mark.close for mark in marks], panel.mark_close[5:T0_BAR, 0])
    assert none == []


@both_venues
async def test_settlements_are_the_tape_over_several_pages(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each settlement once, by nominal time in the half-open range, forwards or backwards paged."""
    monkeypatch.setattr(BinanceUsdm, "page_settlements", 4)
    monkeypatch.setattr(BybitLinear, "page_settlements", 4)
    async with sandbox(venue) as server, opened(venue, server.url) as exchange:
        found = await exchange.fetch_settlements(SOL, since=open_time(4), until=open_time(100))
    expected = [
        one
        for one in small_tape(venue).settlements
        if one.symbol == SOL and open_time(4) <= one.nominal_time < open_time(100)
    ]
    assert len(expected) == 24
    assert [(one.funding_time, one.rate) for one in found] == [
        (one.funding_time, one.rate) for one in expected
    ]


async def test_the_mark_of_a_settlement_is_the_venues_or_unknown() -> None:
    """Binance states BTC's marks and leaves SOL's empty; Bybit states none."""
    async with (
        sandbox(Venue.BINANCEUSDM) as server,
        opened(Venue.BINANCEUSDM, server.url) as exchange,
    ):
        btc = await exchange.fetch_settlements(BTC, since=FIRST_OPEN, until=T0)
        sol = await exchange.fetch_settlements(SOL, since=FIRST_OPEN, until=T0)
    async with sandbox(Venue.BYBIT) as server, opened(Venue.BYBIT, server.url) as exchange:
        bybit = await exchange.fetch_settlements(BTC, since=FIRST_OPEN, until=T0)
    assert {one.mark_source for one in btc} == {MarkSource.VENUE}
    assert {one.mark_source for one in (*sol, *bybit)} == {MarkSource.UNKNOWN}
    assert {one.mark_price for one in (*sol, *bybit)} == {None}


@both_venues
async def test_instruments_are_read_from_the_venue(venue: Venue) -> None:
    """Steps, limits and the funding interval are the venue's own, in the order asked for."""
    async with sandbox(venue) as server, opened(venue, server.url) as exchange:
        sol, btc = await exchange.load_instruments([SOL, BTC])
    assert (sol.funding_interval_minutes, btc.funding_interval_minutes) == (240, 480)
    assert (btc.tick_size, btc.lot_step) == (Decimal("0.1"), Decimal("0.001"))
    assert (btc.max_quantity, btc.min_notional) == (Decimal(120), Decimal(5))
    assert (sol.venue_symbol, sol.base, sol.quote) == ("SOLUSDT", "SOL", "USDT")


@both_venues
async def test_an_unknown_symbol_is_refused_with_its_near_matches(venue: Venue) -> None:
    """A typing error is final, and the message says what may have been meant."""
    async with sandbox(venue) as server, opened(venue, server.url) as exchange:
        with pytest.raises(VenueRefused, match=r"'BTC/USD:USDT'.*near matches: BTC/USDT:USDT"):
            await exchange.load_instruments(["BTC/USD:USDT"])


@both_venues
async def test_the_stream_yields_final_bars_only(venue: Venue) -> None:
    """Three closes of three symbols give nine bars, equal to the tape; forming ones give none."""
    async with sandbox(venue) as server, opened(venue, server.url) as exchange:
        bars = []
        stream = exchange.closed_bars(SYMBOLS, interval_ms=HOUR_MS)
        await commit(server.url, T0)
        async with aclosing(stream), asyncio.timeout(10):
            async for bar in stream:
                bars.append(bar)
                if len(bars) % 3 == 0:
                    await commit(server.url, bar.open_time + HOUR_MS)
                if len(bars) == 9:
                    break
    for index, bar in enumerate(sorted(bars, key=lambda bar: (bar.open_time, bar.symbol))):
        number = T0_BAR + index // 3
        assert (bar.open_time, prices(bar)) == (
            open_time(number),
            taped(venue, bar.symbol, number),
        )


@both_venues
async def test_a_streamed_bar_equals_the_fetched_one(venue: Venue) -> None:
    """Both ways to a bar give every field alike, so an audit finds only real differences."""
    async with sandbox(venue) as server, opened(venue, server.url) as exchange:
        await commit(server.url, T0)
        async with aclosing(exchange.closed_bars([BTC], interval_ms=HOUR_MS)) as stream:
            async with asyncio.timeout(10):
                streamed = await anext(stream)
        (fetched,) = await exchange.fetch_bars(
            BTC, interval_ms=HOUR_MS, since=T0, until=T0 + HOUR_MS
        )
    assert astuple(streamed) == astuple(fetched)
    assert streamed.quote_volume is not None
    assert (streamed.trades is None) == (venue is Venue.BYBIT)


@both_venues
async def test_a_stream_lives_on_after_a_reconnect(venue: Venue) -> None:
    """The cure of a silent stream costs no bar that closes afterwards, and doubles none."""
    subscribed = asyncio.Event()
    async with sandbox(venue) as server, opened(venue, server.url) as exchange:
        stream = exchange.closed_bars([BTC], interval_ms=HOUR_MS, on_subscribed=subscribed.set)
        await commit(server.url, T0)
        async with aclosing(stream), asyncio.timeout(10):
            times = [(await anext(stream)).open_time]
            subscribed.clear()
            await exchange.reconnect()
            await subscribed.wait()
            await commit(server.url, T0 + HOUR_MS)
            while times[-1] == T0:  # in lock-step a new subscription repeats the last final
                times.append((await anext(stream)).open_time)
    assert times[-1] == T0 + HOUR_MS


async def test_newer_pythons_warn_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """From Python 3.12.8 on aiohttp deprecates an option that ccxt sets; users see no warning."""
    monkeypatch.setattr("aiohttp.connector.NEEDS_CLEANUP_CLOSED", False)
    async with (
        sandbox(Venue.BINANCEUSDM) as server,
        opened(Venue.BINANCEUSDM, server.url) as exchange,
    ):
        assert await exchange.server_time() >= T0


async def test_a_refused_connection_is_named() -> None:
    """The message names the host and the cause, soon, and nothing is left open."""
    started = asyncio.get_running_loop().time()
    with pytest.raises(VenueUnavailable, match=r"127\.0\.0\.1:9: connection refused"):
        await Exchange.open(Venue.BYBIT, base_url="http://127.0.0.1:9")
    assert asyncio.get_running_loop().time() - started < 10


async def test_a_host_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening ends at its limit, even when the connection is accepted and then silent."""
    monkeypatch.setattr(exchange_module, "OPEN_SECONDS", 0.5)

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1024):
            pass
        writer.close()

    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(VenueUnavailable, match=f"127.0.0.1:{port}: no answer within"):
            await Exchange.open(Venue.BINANCEUSDM, base_url=f"http://127.0.0.1:{port}")


async def test_a_name_that_does_not_resolve_is_named() -> None:
    """``.invalid`` never resolves (RFC 6761): the message says DNS."""
    with pytest.raises(VenueUnavailable, match=r"venue\.invalid: DNS failure"):
        await Exchange.open(Venue.BINANCEUSDM, base_url="http://venue.invalid")


async def test_the_venues_time_is_its_own() -> None:
    """Lock-step stands a little after the last close, long before the wall clock."""
    async with (
        sandbox(Venue.BINANCEUSDM) as server,
        opened(Venue.BINANCEUSDM, server.url) as exchange,
    ):
        now = await exchange.server_time()
    assert 0 <= now - T0 < 60_000
    assert math.isfinite(now)


async def test_closing_twice_is_harmless_and_leaves_no_task() -> None:
    """After ``close`` nothing of the exchange is running, also with a stream half read."""
    before = asyncio.all_tasks()
    async with sandbox(Venue.BINANCEUSDM) as server:
        exchange = await Exchange.open(Venue.BINANCEUSDM, base_url=server.url)
        stream = exchange.closed_bars([BTC], interval_ms=HOUR_MS)
        await commit(server.url, T0)
        await anext(stream)
        await stream.aclose()
        await exchange.close()
        await exchange.close()
    await asyncio.sleep(0.1)
    assert asyncio.all_tasks() == before
