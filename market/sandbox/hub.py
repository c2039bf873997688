"""The sandbox's websocket connections: who is subscribed to what, and the one way out for frames.

Each connection has its own bounded queue and writer, so that a client that stops reading loses its
connection, as on a real venue, and never holds up the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

import structlog
from aiohttp import WSCloseCode, web

log = structlog.get_logger()

MOST_QUEUED_FRAMES = 20_000


class Connection:
    """One websocket client."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        *,
        transport: asyncio.Transport | None,
        wraps_frames: bool,
    ) -> None:
        """Take over an opened socket.

        Args:
            socket: the websocket.
            transport: what it runs on, ``None`` when already gone.
            wraps_frames: whether a frame goes out inside its topic's envelope.
        """
        self.socket = socket
        self._transport = transport
        self.topics: set[str] = set()
        self._wraps_frames = wraps_frames
        self._queue: asyncio.Queue[str] = asyncio.Queue(maxsize=MOST_QUEUED_FRAMES)

    def enqueue(self, text: str) -> bool:
        """Queue a text to be sent; false when the client has fallen too far behind."""
        with contextlib.suppress(asyncio.QueueFull):
            self._queue.put_nowait(text)
            return True
        return False

    def envelope(self, topic: str, frame: str) -> str:
        """Return ``frame`` as this connection wants it."""
        return f'{{"stream":"{topic}","data":{frame}}}' if self._wraps_frames else frame

    def abort(self) -> None:
        """Cut the connection without a word, whatever the client is doing."""
        if self._transport is not None:
            self._transport.abort()

    async def write(self) -> None:
        """Send what is queued until the connection is gone."""
        with contextlib.suppress(ConnectionResetError):
            while True:
                await self.socket.send_str(await self._queue.get())


class Hub:
    """All open connections."""

    def __init__(self) -> None:
        """Start without any."""
        self._connections: set[Connection] = set()

    def add(self, connection: Connection) -> None:
        """Let ``connection`` receive frames."""
        self._connections.add(connection)

    def remove(self, connection: Connection) -> None:
        """Forget ``connection``."""
        self._connections.discard(connection)

    @property
    def topics(self) -> list[str]:
        """Every topic that somebody is subscribed to, sorted."""
        return sorted({topic for one in self._connections for topic in one.topics})

    def publish(self, topic: str, frames: Iterable[str]) -> int:
        """Send ``frames`` to every subscriber of ``topic``; return how many there are."""
        subscribers = [one for one in self._connections if topic in one.topics]
        for frame in frames:
            for connection in subscribers:
                self.push(connection, connection.envelope(topic, frame))
        return len(subscribers)

    def push(self, connection: Connection, text: str) -> None:
        """Send one text to one client: every frame and acknowledgement leaves through here."""
        if not connection.enqueue(text) and connection in self._connections:
            log.warning("sandbox_client_too_slow", queued_frames=MOST_QUEUED_FRAMES)
            self.remove(connection)
            connection.abort()

    async def close(self, *, timeout_seconds: float) -> None:
        """Close every connection as a venue does that goes away; cut those that do not answer."""
        connections = tuple(self._connections)
        farewells = [
            asyncio.create_task(one.socket.close(code=WSCloseCode.GOING_AWAY))
            for one in connections
        ]
        if farewells:
            await asyncio.wait(farewells, timeout=timeout_seconds)
        for connection in connections:
            connection.abort()
        await asyncio.gather(*farewells, return_exceptions=True)
