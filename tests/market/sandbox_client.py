"""The real ccxt classes, pointed at a sandbox by nothing but ``urls.api``.

The spot classes are also told to load spot markets alone, as one instance has one market type.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import ccxt.pro

from market.instrument import Venue
from market.sandbox.server import Sandbox, SandboxOptions
from tests.market.small_tape import open_time, small_tape

T0_BAR = 200
T0 = open_time(T0_BAR)


def sandbox(
    venue: Venue, *, speed: float = 0.0, lock_step: bool = True, start: int = T0, port: int = 0
) -> Sandbox:
    """Return a sandbox on the small tape, in lock-step at T0 unless told otherwise."""
    tape = small_tape(venue)
    options = SandboxOptions(tape=tape, start=start, speed=speed, lock_step=lock_step, port=port)
    return Sandbox(options)


@asynccontextmanager
async def ccxt_client(venue: Venue, url: str) -> AsyncIterator[Any]:
    """Yield an unmodified ccxt.pro exchange that talks to ``url``."""
    exchange = _CLASSES[venue]()
    # Real seconds that ccxt waits for TLS connections to close; there are none here.
    exchange.timeout_on_exit = 0
    # The sandbox counts weights and limits nobody.
    exchange.enableRateLimit = False
    _point(exchange, venue, url)
    try:
        yield exchange
    finally:
        await exchange.close()


_CLASSES: dict[Venue, Any] = {
    Venue.BINANCEUSDM: ccxt.pro.binanceusdm,
    Venue.BINANCE: lambda: ccxt.pro.binance({"options": {"fetchMarkets": {"types": ["spot"]}}}),
    Venue.BYBIT: ccxt.pro.bybit,
    Venue.BYBITSPOT: lambda: ccxt.pro.bybit({"options": {"fetchMarkets": {"types": ["spot"]}}}),
}


def _point(exchange: Any, venue: Venue, url: str) -> None:
    api, websocket = exchange.urls["api"], url.replace("http://", "ws://")
    match venue:
        case Venue.BINANCEUSDM:
            api["fapiPublic"] = f"{url}/fapi/v1"
            api["ws"]["linear"] = f"{websocket}/ws"
        case Venue.BINANCE:
            api["public"] = f"{url}/api/v3"
            api["ws"]["spot"] = f"{websocket}/stream"
        case Venue.BYBIT:
            api["public"] = url
            api["ws"]["public"]["linear"] = f"{websocket}/v5/public/linear"
        case Venue.BYBITSPOT:
            api["public"] = url
            api["ws"]["public"]["spot"] = f"{websocket}/v5/public/spot"


async def get(url: str, path: str) -> tuple[int, Any, dict[str, str]]:
    """Return (status, JSON, headers) of a plain GET."""
    async with aiohttp.ClientSession() as session, session.get(url + path) as response:
        return response.status, json.loads(await response.text()), dict(response.headers)


async def commit(url: str, decision_time: int) -> Any:
    """Post one commit and return the answer."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/sandbox/commit", json={"decision_time": decision_time}) as response,
    ):
        return await response.json()


async def served(url: str, kind: str) -> list[dict[str, Any]]:
    """Return the sandbox's own log of one kind."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url}/sandbox/log", params={"kind": kind}) as response,
    ):
        return [json.loads(line) for line in (await response.text()).splitlines()]


@asynccontextmanager
async def raw_socket(url: str, path: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """Yield a plain websocket to ``path``."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url.replace("http://", "ws://") + path) as socket,
    ):
        yield socket


async def receive(socket: aiohttp.ClientWebSocketResponse) -> Any:
    """Return the next frame as JSON, at most five seconds from now."""
    return await socket.receive_json(timeout=5)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Poll ``condition`` until it holds, at most five seconds."""
    async with asyncio.timeout(5):
        while not await condition():
            await asyncio.sleep(0.01)
