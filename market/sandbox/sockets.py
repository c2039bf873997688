"""The sandbox's websockets from handshake to end: what is heard, subscribed and shown at first.

What is said comes from the dialect and goes out through the hub.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from market.sandbox.dialect import Dialect
from market.sandbox.hub import Connection, Hub
from market.sandbox.injection import ConnectionState
from market.sandbox.injector import Injector
from market.sandbox.recorder import Recorder
from market.sandbox.served import ServedKind
from market.sandbox.stage import CLOSE_SECONDS, Stage
from market.sandbox.timeline import Timeline


class Sockets:
    """Serves the websockets of one running sandbox."""

    def __init__(
        self,
        *,
        dialect: Dialect,
        injector: Injector,
        hub: Hub,
        timeline: Timeline,
        recorder: Recorder,
        stage: Stage,
    ) -> None:
        """Serve from these parts."""
        self._dialect = dialect
        self._injector = injector
        self._hub = hub
        self._timeline = timeline
        self._recorder = recorder
        self._stage = stage
        self._opened = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Open a websocket and converse until it is gone; 404 where the venue has none."""
        topics = self._dialect.opening_topics(request.path, request.query)
        if topics is None:
            return web.Response(status=404, text="Not Found")
        socket = web.WebSocketResponse(timeout=CLOSE_SECONDS, autoping=False, compress=False)
        await socket.prepare(request)
        connection = self._connection(socket, request)
        if not self._stage.admits(connection):
            await self._hub.dismiss((connection,), timeout_seconds=CLOSE_SECONDS)
            return socket
        await self._converse(connection, topics)
        return socket

    def _connection(self, socket: web.WebSocketResponse, request: web.Request) -> Connection:
        self._opened += 1
        self._recorder.record(ServedKind.CONNECTED, detail=request.path, connection=self._opened)
        return Connection(
            socket,
            transport=request.transport,
            wraps_frames=self._dialect.wraps_frames(request.path),
            state=ConnectionState(opened_at=self._timeline.now()),
            number=self._opened,
        )

    async def _converse(self, connection: Connection, topics: tuple[str, ...]) -> None:
        """Serve one websocket until it is gone."""
        dialect = self._dialect
        self._hub.add(connection)
        pings = dialect.heartbeat_seconds
        tasks = [
            asyncio.create_task(connection.write()),
            asyncio.create_task(
                connection.watch(ping_seconds=pings, silence_seconds=dialect.silence_seconds)
            ),
        ]
        try:
            self._subscribe(connection, topics)
            await connection.listen(
                lambda text: self._hear(connection, text), counts_all=pings is None
            )
        finally:
            self._hub.remove(connection)
            reason = f"code {connection.socket.close_code}"
            self._recorder.record(
                ServedKind.DISCONNECTED, detail=reason, connection=connection.number
            )
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _hear(self, connection: Connection, text: str) -> None:
        heard = self._dialect.hear(text, frozenset(connection.topics), now=self._timeline.now())
        for reply in heard.replies:
            self._hub.push(connection, reply)
        connection.topics.difference_update(heard.unsubscribed)
        self._subscribe(connection, heard.subscribed)

    def _subscribe(self, connection: Connection, topics: tuple[str, ...]) -> None:
        """Add topics and show each as it stands."""
        if not topics:
            return
        now = self._timeline.now()
        fresh = [topic for topic in topics if topic not in connection.topics]
        connection.topics.update(fresh)
        self._injector.subscribe(connection.state, fresh, now=now)
        for topic in fresh:
            for frame in (
                *self._missed_final(topic, now),
                *self._injector.updating(topic, now=now),
            ):
                self._hub.push(connection, connection.envelope(topic, frame), topic=topic)
        self._recorder.record(
            ServedKind.SUBSCRIBED, detail=" ".join(topics), connection=connection.number
        )

    def _missed_final(self, topic: str, now: int) -> list[str]:
        timeline = self._timeline
        if not timeline.lock_step or timeline.last_close == timeline.start:
            return []
        return self._injector.repeated(topic, timeline.last_close - timeline.interval_ms, now=now)
