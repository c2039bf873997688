"""A man in the middle: it passes the venue's traffic on, except where a test tells it not to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import WSMsgType, web


@dataclass(frozen=True, kw_only=True)
class Fault:
    """An answer that the venue never gave."""

    status: int = 200
    body: str = ""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0


class FaultProxy:
    """REST and websockets of ``upstream`` (a sandbox's URL), with faults.

    Attributes:
        answer: maps a path with its query to a fault, or ``None`` to pass the request on.
        rewrite: maps a frame of the venue to the frames that the client gets.
        requests: path and query of every REST request, in order.
        frames: how many frames the venue has sent.
    """

    def __init__(self, upstream: str) -> None:
        """Pass everything on."""
        self.answer: Callable[[str], Fault | None] = lambda _path: None
        self.rewrite: Callable[[str], list[str]] = lambda frame: [frame]
        self.requests: list[str] = []
        self.frames = 0
        self.url = ""
        self._upstream = upstream
        self._sockets: set[web.WebSocketResponse] = set()
        self._muted: set[web.WebSocketResponse] = set()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        app = web.Application()
        app.router.add_get("/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.cut()
        await self._session.close()
        await self._runner.cleanup()

    def asked(self, path: str) -> list[str]:
        """Return the requests whose path contains ``path``."""
        return [request for request in self.requests if path in request]

    async def cut(self) -> None:
        """Close every websocket that is open now."""
        for socket in list(self._sockets):
            await socket.close()

    def mute(self) -> None:
        """Pass no more frames to the websockets that are open now; new ones work."""
        self._muted |= self._sockets

    async def say(self, frame: str) -> None:
        """Send ``frame`` to every client as if the venue had."""
        for socket in self._sockets:
            await socket.send_str(frame)

    async def seen(self, frames: int) -> None:
        """Return once the venue has sent so many frames in all."""
        async with asyncio.timeout(5):
            while self.frames < frames:
                await asyncio.sleep(0.01)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._serve_socket(request)
        self.requests.append(request.path_qs)
        fault = self.answer(request.path_qs)
        if fault is not None:
            await asyncio.sleep(fault.delay_seconds)
            return web.Response(
                text=fault.body,
                status=fault.status,
                content_type=fault.content_type,
                headers=fault.headers,
            )
        async with self._session.get(self._upstream + request.path_qs) as answer:
            return web.Response(
                text=await answer.text(),
                status=answer.status,
                content_type=answer.content_type,
            )

    async def _serve_socket(self, request: web.Request) -> web.StreamResponse:
        client = web.WebSocketResponse(timeout=0.1)
        await client.prepare(request)
        self._sockets.add(client)
        try:
            async with self._session.ws_connect(self._upstream + request.path_qs) as venue:
                listener = asyncio.create_task(self._pass_frames(venue, client))
                async for message in client:
                    if message.type is WSMsgType.TEXT:
                        await venue.send_str(message.data)
                listener.cancel()
                with suppress(asyncio.CancelledError):
                    await listener
        finally:
            self._sockets.discard(client)
        return client

    async def _pass_frames(
        self, venue: aiohttp.ClientWebSocketResponse, client: web.WebSocketResponse
    ) -> None:
        async for message in venue:
            if message.type is WSMsgType.TEXT:
                self.frames += 1
                for frame in [] if client in self._muted else self.rewrite(message.data):
                    with suppress(ConnectionError):
                        await client.send_str(frame)
