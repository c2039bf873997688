"""The socket: what waits on a dropped connection is ended by us, and so is one half opened."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ccxt.async_support.base.ws.client import Client

from market.instrument import Venue
from tests.market.test_stream import PERPETUALS, listening


async def test_dropping_a_connection_ends_the_wait_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its close never returns, it hears no more: the next one is opened, and no fault reported."""

    async def hang(connection: Client, _code: int = 1000) -> None:
        connection.handle_message = lambda _message: None
        await asyncio.Event().wait()

    monkeypatch.setattr("market.stream.SOCKET_CLOSE_SECONDS", 0.1)
    async with listening(Venue.BINANCEUSDM, PERPETUALS) as one:
        await one.until_bars(PERPETUALS[0], 1)
        monkeypatch.setattr(Client, "close", hang)
        await one.exchange.reconnect()
        await one.until_bars(PERPETUALS[0], 1)
        opened = await one.numbers("connected")
    assert len(opened) == 2
    assert one.restarts == []


async def test_a_connection_dropped_while_it_is_opened_never_opens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A dial that the venue answers late must not live on beside the next one, out of sight."""
    dial, dials = Client.create_connection, []

    async def dial_late(connection: Client, session: Any) -> Any:
        dials.append(session)
        if len(dials) == 1:
            await asyncio.sleep(0.3)
        return await dial(connection, session)

    monkeypatch.setattr(Client, "create_connection", dial_late)
    async with listening(Venue.BINANCEUSDM, PERPETUALS) as one:
        await one.until(lambda: bool(dials))
        await one.exchange.reconnect()
        await one.until_bars(PERPETUALS[0], 2)
        opened = await one.numbers("connected")
    assert len(dials) == 2
    assert len(opened) == 1
