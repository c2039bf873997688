"""The sandbox's websocket connections: who is subscribed to what, and the one way out for frames.

Each connection has its own bounded queue and writer, so that a client that stops reading loses its
connection, as on a real venue, and never holds up the others. Pings, pongs and the silence after
which a client is dropped are counted in real seconds: they are about the network, not the market.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from market.clock import monotonic_seconds
from market.sandbox.injection import ConnectionState

log = structlog.get_logger()

MOST_QUEUED_FRAMES = 20_000

# What of a text for one topic (None for a reply) reaches a connection; None for nothing.
Deliver = Callable[[ConnectionState, str | None, str], str | None]


class Connection:
    """One websocket client.

    Attributes:
        number: position among all connections of the sandbox, from 1.
        state: what faults have done to it.
        topics: what it is subscribed to.
    """

    def __init__(
        self,
        socket: web.WebSocketResponse,
        *,
        transport: asyncio.Transport | None,
        wraps_frames: bool,
        state: ConnectionState,
        number: int,
    ) -> None:
        """Take over an opened socket.

        Args:
            socket: the websocket; it must leave pings to the connection.
            transport: what it runs on, ``None`` when already gone.
            wraps_frames: whether a frame goes out inside its topic's envelope.
            state: what faults have done to it.
            number: position among all connections.
        """
        self.socket = socket
        self.state = state
        self.number = number
        self.topics: set[str] = set()
        self._transport = transport
        self._wraps_frames = wraps_frames
        self._queue: asyncio.Queue[str] = asyncio.Queue(maxsize=MOST_QUEUED_FRAMES)
        self._heard_at_seconds = monotonic_seconds()

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

    def freeze(self) -> None:
        """Read nothing more; the caller sees to it that nothing is sent."""
        if self._transport is not None:
            self._transport.pause_reading()

    async def write(self) -> None:
        """Send what is queued until the connection is gone."""
        with contextlib.suppress(ConnectionResetError):
            while True:
                await self.socket.send_str(await self._queue.get())

    async def listen(self, hear: Callable[[str], None], *, counts_all: bool) -> None:
        """Hand every text to ``hear`` and answer pings until the connection is gone.

        Args:
            hear: called with each text message.
            counts_all: whether any message proves that the client lives, or only a pong.
        """
        async for message in self.socket:
            if counts_all or message.type is WSMsgType.PONG:
                self._heard_at_seconds = monotonic_seconds()
            if message.type is WSMsgType.TEXT:
                hear(message.data)
            elif message.type is WSMsgType.PING:
                await self.socket.pong(message.data)

    async def watch(self, *, ping_seconds: float | None, silence_seconds: float) -> None:
        """Ping the client, and cut it off once it has been silent for too long.

        Args:
            ping_seconds: real seconds between pings, ``None`` for none.
            silence_seconds: real seconds without a sign of life.
        """
        step = silence_seconds if ping_seconds is None else ping_seconds
        with contextlib.suppress(ConnectionResetError):
            while monotonic_seconds() - self._heard_at_seconds < silence_seconds:
                await asyncio.sleep(min(step, silence_seconds))
                if ping_seconds is not None and self.state.frozen is None:
                    await self.socket.ping()
            log.warning("sandbox_client_silent", silence_seconds=silence_seconds)
            self.abort()


class Hub:
    """All open connections."""

    def __init__(self, deliver: Deliver) -> None:
        """Start without any; ``deliver`` decides what of a text reaches whom."""
        self._deliver = deliver
        self._connections: set[Connection] = set()

    @property
    def connections(self) -> tuple[Connection, ...]:
        """Every open connection, oldest first."""
        return tuple(sorted(self._connections, key=lambda one: one.number))

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
                self.push(connection, connection.envelope(topic, frame), topic=topic)
        return len(subscribers)

    def push(self, connection: Connection, text: str, *, topic: str | None = None) -> None:
        """Send one text to one client: every frame and acknowledgement leaves through here.

        Args:
            connection: the client.
            text: what to send.
            topic: what a frame belongs to, ``None`` for a reply to the client.
        """
        delivered = self._deliver(connection.state, topic, text)
        if delivered is None:
            return
        if not connection.enqueue(delivered) and connection in self._connections:
            log.warning("sandbox_client_too_slow", queued_frames=MOST_QUEUED_FRAMES)
            self.remove(connection)
            connection.abort()

    async def close(self, *, timeout_seconds: float) -> None:
        """Close every connection as a venue does that goes away; cut those that do not answer."""
        await self.dismiss(self.connections, timeout_seconds=timeout_seconds)

    async def dismiss(self, connections: Iterable[Connection], *, timeout_seconds: float) -> None:
        """Close these connections with the websocket's handshake; cut those that do not answer."""
        farewells = {
            asyncio.create_task(one.socket.close(code=WSCloseCode.GOING_AWAY)): one
            for one in connections
        }
        if farewells:
            await asyncio.wait(farewells, timeout=timeout_seconds)
        for connection in farewells.values():
            connection.abort()
        await asyncio.gather(*farewells, return_exceptions=True)
