"""A monitor over a fake view, with a client, for the length of a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from daemon.monitor.server import Monitor, start_monitor
from daemon.monitor.view import View


@asynccontextmanager
async def serving(
    view: View, *, host: str = "127.0.0.1", port: int = 0, token: str | None = None
) -> AsyncIterator[tuple[Monitor, aiohttp.ClientSession]]:
    """Serve ``view`` and yield the monitor with a client that talks to it over loopback."""
    monitor = await start_monitor(view, host=host, port=port, token=token)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{monitor.port}/") as client:
            yield monitor, client
    finally:
        await monitor.close()
