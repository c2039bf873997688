"""What goes wrong between us and the venue: every fault has a name, and none is taken for data."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from market import ccxt_client
from market import stream as stream_module
from market.bar import HOUR_MS, Bar
from market.exchange import Exchange
from market.instrument import Venue
from market.retry import RateLimited, RegionBlocked, VenueError, VenueRefused, VenueUnavailable
from tests.market.fault_proxy import Fault, FaultProxy
from tests.market.sandbox_client import T0, T0_BAR, commit, sandbox
from tests.market.small_tape import BTC, small_tape

HTML = "<html><body>scheduled maintenance</body></html>"
BINANCE_KLINES, BYBIT_KLINES = "/fapi/v1/klines", "/v5/market/kline"


@asynccontextmanager
async def behind_proxy(venue: Venue) -> AsyncIterator[tuple[FaultProxy, Exchange, str]]:
    """Yield a proxy before a sandbox, an exchange that goes through it, and the sandbox's URL."""
    async with sandbox(venue) as server, FaultProxy(server.url) as proxy:
        exchange = await Exchange.open(venue, base_url=proxy.url)
        try:
            yield proxy, exchange, server.url
        finally:
            await exchange.close()


def bars_fault(fault: Fault, path: str) -> Fault | None:
    """Fail requests for bars only."""
    return fault if path.startswith((BINANCE_KLINES, BYBIT_KLINES)) else None


def fetch(exchange: Exchange) -> asyncio.Task[list[Bar]]:
    """Ask for ten bars."""
    asked = exchange.fetch_bars(BTC, interval_ms=HOUR_MS, since=T0 - 10 * HOUR_MS, until=T0)
    return asyncio.create_task(asked)


FAULTS = {
    "429": (Fault(status=429, body="{}", headers={"Retry-After": "9"}), RateLimited, "429"),
    "418": (Fault(status=418, body='{"code":-1003,"msg":"banned"}'), RateLimited, "418"),
    "451": (Fault(status=451, body=HTML, content_type="text/html"), RegionBlocked, "region"),
    "403": (Fault(status=403, body=HTML, content_type="text/html"), RateLimited, "403"),
    "502": (Fault(status=502, body=HTML, content_type="text/html"), VenueUnavailable, "502"),
    "503 with JSON": (
        Fault(status=503, body='{"code":-1,"msg":"Service unavailable"}'),
        VenueUnavailable,
        "503",
    ),
    "504": (Fault(status=504, body=""), VenueUnavailable, "504"),
    "HTML with 200": (Fault(body=HTML, content_type="text/html"), VenueUnavailable, "maintenance"),
    "JSON cut off": (Fault(body='[[1700000000000,"1","1'), VenueUnavailable, "readable JSON"),
    "nothing": (Fault(body=""), VenueUnavailable, "readable JSON"),
    "rows of None": (Fault(body="[null, null]"), VenueUnavailable, "row"),
    "an object": (Fault(body="{}"), VenueUnavailable, "no list"),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_bad_answer_becomes_one_of_three_errors(name: str) -> None:
    """No outage is silent, no refusal is retried, and none becomes an empty list of bars."""
    fault, kind, cause = FAULTS[name]
    async with behind_proxy(Venue.BINANCEUSDM) as (proxy, exchange, _):
        proxy.answer = lambda path: bars_fault(fault, path)
        with pytest.raises(VenueError, match=cause) as caught:
            await fetch(exchange)
        assert type(caught.value) is kind
        assert proxy.url.endswith(caught.value.host)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ('{"retCode":10006,"retMsg":"Too many visits!","result":{},"time":1}', RateLimited),
        ('{"retCode":10016,"retMsg":"Server error","result":{},"time":1}', VenueUnavailable),
        ('{"retCode":10001,"retMsg":"params error","result":{},"time":1}', VenueRefused),
        ('{"retCode":0,"retMsg":"OK","result":{"list":null},"time":1}', VenueUnavailable),
        ('{"retCode":0,"retMsg":"OK","result":null,"time":1}', VenueUnavailable),
    ],
)
async def test_bybits_codes_become_the_same_three_errors(body: str, kind: type[VenueError]) -> None:
    """Bybit says 200 to everything; the code in the body decides."""
    async with behind_proxy(Venue.BYBIT) as (proxy, exchange, _):
        proxy.answer = lambda path: bars_fault(Fault(body=body), path)
        with pytest.raises(VenueError) as caught:
            await fetch(exchange)
        assert type(caught.value) is kind


async def test_binances_unknown_symbol_is_refused() -> None:
    """Code −1121 is final."""
    async with behind_proxy(Venue.BINANCEUSDM) as (proxy, exchange, _):
        fault = Fault(status=400, body='{"code":-1121,"msg":"Invalid symbol."}')
        proxy.answer = lambda path: bars_fault(fault, path)
        with pytest.raises(VenueRefused, match="Invalid symbol"):
            await fetch(exchange)


async def test_nothing_is_sent_during_a_ban() -> None:
    """After a 418 with a deadline the venue hears nothing until it has passed."""
    async with behind_proxy(Venue.BINANCEUSDM) as (proxy, exchange, _):
        fault = Fault(status=418, body="{}", headers={"Retry-After": "1"})
        proxy.answer = lambda path: bars_fault(fault, path)
        with pytest.raises(RateLimited):
            await fetch(exchange)
        proxy.answer = lambda _path: None
        before = len(proxy.requests)
        with pytest.raises(RateLimited) as caught:
            await exchange.server_time()
        assert len(proxy.requests) == before
        await asyncio.sleep(caught.value.retry_after_seconds)
        assert len(await fetch(exchange)) == 10


async def test_a_stalled_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request has a time limit, and the error says so."""
    monkeypatch.setattr(ccxt_client, "REQUEST_SECONDS", 0.3)
    async with behind_proxy(Venue.BINANCEUSDM) as (proxy, exchange, _):
        proxy.answer = lambda path: bars_fault(Fault(body="[]", delay_seconds=1.0), path)
        with pytest.raises(VenueUnavailable, match="no answer within"):
            await fetch(exchange)


async def test_a_blocked_region_ends_opening_at_once() -> None:
    """451 is final: one attempt, and the message says region."""
    async with sandbox(Venue.BINANCEUSDM) as server, FaultProxy(server.url) as proxy:
        proxy.answer = lambda _path: Fault(status=451, body=HTML, content_type="text/html")
        with pytest.raises(VenueRefused, match="region blocked"):
            await Exchange.open(Venue.BINANCEUSDM, base_url=proxy.url)
        assert len(proxy.requests) == 1


async def test_opening_survives_a_venue_under_maintenance_for_a_moment() -> None:
    """The first answer is HTML, the second is not."""
    async with sandbox(Venue.BYBIT) as server, FaultProxy(server.url) as proxy:
        proxy.answer = lambda _path: (
            Fault(body=HTML, content_type="text/html") if len(proxy.requests) < 2 else None
        )
        exchange = await Exchange.open(Venue.BYBIT, base_url=proxy.url)
        await exchange.close()


async def next_bar_after(
    proxy: FaultProxy, exchange: Exchange, url: str, *, trouble: str
) -> tuple[list[Bar], list[VenueError]]:
    """Read a close, make trouble, read the next close; return bars and restarts."""
    restarts: list[VenueError] = []
    subscribed = asyncio.Event()
    bars: list[Bar] = []
    stream = exchange.closed_bars(
        [BTC], interval_ms=HOUR_MS, on_restart=restarts.append, on_subscribed=subscribed.set
    )
    await commit(url, T0)
    async with aclosing(stream), asyncio.timeout(10):
        bars.append(await anext(stream))
        subscribed.clear()
        reader = asyncio.create_task(anext(stream))
        if trouble == "cut":
            await proxy.cut()
        else:
            await proxy.say(trouble)
        await subscribed.wait()
        await commit(url, T0 + HOUR_MS)
        bars.append(await reader)
        while bars[-1].open_time == T0:
            bars.append(await anext(stream))
    return bars, restarts


@pytest.mark.parametrize("venue", [Venue.BINANCEUSDM, Venue.BYBIT])
@pytest.mark.parametrize("trouble", ["cut", '{"cut off', "[1, 2"])
async def test_a_broken_connection_is_replaced(venue: Venue, trouble: str) -> None:
    """A lost connection and an unreadable frame cost a reconnect, never the stream."""
    async with behind_proxy(venue) as (proxy, exchange, url):
        bars, restarts = await next_bar_after(proxy, exchange, url, trouble=trouble)
    assert bars[-1].open_time == T0 + HOUR_MS
    assert restarts
    assert all(isinstance(error, VenueUnavailable) for error in restarts)


async def test_a_silent_connection_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that stays open and brings nothing is not trusted for ever."""
    async with behind_proxy(Venue.BINANCEUSDM) as (proxy, exchange, url):
        restarts = asyncio.Event()
        stream = exchange.closed_bars(
            [BTC], interval_ms=HOUR_MS, on_restart=lambda _error: restarts.set()
        )
        await commit(url, T0)
        async with aclosing(stream), asyncio.timeout(10):
            times = [(await anext(stream)).open_time]
            monkeypatch.setattr(stream_module, "SILENCE_SECONDS", 0.3)
            proxy.mute()
            reader = asyncio.create_task(anext(stream))
            await restarts.wait()
            monkeypatch.setattr(stream_module, "SILENCE_SECONDS", 60.0)
            await commit(url, T0 + HOUR_MS)
            times.append((await reader).open_time)
            while times[-1] == T0:
                times.append((await anext(stream)).open_time)
    assert times[-1] == T0 + HOUR_MS


async def test_an_unreadable_price_leaves_the_judgement_to_quarantine() -> None:
    """The bar is handed on with NaN; the stream goes on without a reconnect."""

    def spoil(frame: str) -> list[str]:
        message = json.loads(frame)
        if message.get("k", {}).get("x"):
            message["k"]["h"] = None
        return [json.dumps(message)]

    async with behind_proxy(Venue.BINANCEUSDM) as (proxy, exchange, url):
        proxy.rewrite = spoil
        await commit(url, T0)
        restarts: list[VenueError] = []
        stream = exchange.closed_bars([BTC], interval_ms=HOUR_MS, on_restart=restarts.append)
        async with aclosing(stream), asyncio.timeout(10):
            bar = await anext(stream)
    assert math.isnan(bar.high)
    assert restarts == []


async def test_a_final_bar_from_the_future_is_not_believed() -> None:
    """A kline that says it is final an hour before its close is not, and is told."""

    def too_early(frame: str) -> list[str]:
        message = json.loads(frame)
        if "k" in message:
            message["k"]["x"] = True
        return [json.dumps(message)]

    async with behind_proxy(Venue.BINANCEUSDM) as (proxy, exchange, url):
        proxy.rewrite = too_early
        refused: list[Bar] = []
        exchange.on_bar_refused = refused.append
        subscribed = asyncio.Event()
        stream = exchange.closed_bars([BTC], interval_ms=HOUR_MS, on_subscribed=subscribed.set)
        async with aclosing(stream), asyncio.timeout(10):
            reader = asyncio.create_task(anext(stream))
            await subscribed.wait()
            await proxy.seen(2)  # the forming bar, after the confirmation
            await commit(url, T0)
            bar = await reader
    close = small_tape(Venue.BINANCEUSDM).panel.close[T0_BAR, 0]
    assert (bar.open_time, bar.close) == (T0, close)
    assert T0 in {one.open_time for one in refused}
