"""The sandbox venue: a tape served over HTTP and websockets on loopback, in a venue's own words.

The server owns sockets, the order of frames and the control endpoints. What is said comes from a
dialect, when it may be said from the timeline. Every REST answer leaves through ``_respond`` and
every frame through ``Hub.push``. It must never reach another host and never serve a value that has
not happened yet.

Control endpoints: ``GET /sandbox/clock``, ``POST /sandbox/commit``, ``GET /sandbox/log[?kind=]``.

An interval closes for all symbols at once: per topic the final frame of the bar that closed, then
the first forming frame of the next. Subscribing to a kline in lock-step repeats the final frame of
the last close, because a client that subscribes after committing would otherwise never see it.
"""

from __future__ import annotations

import asyncio
import errno
import json
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog
from aiohttp import WSMsgType, web

from market.instrument import Venue
from market.sandbox.binance import BinanceUsdm
from market.sandbox.bybit import BybitLinear
from market.sandbox.dialect import Dialect, Reply
from market.sandbox.hub import Connection, Hub
from market.sandbox.playback import Playback
from market.sandbox.served import ServedKind, ServedLog
from market.sandbox.tape import Tape
from market.sandbox.timeline import TapeEnded, Timeline

__all__ = ["PortInUse", "Sandbox", "SandboxOptions", "TapeEnded", "serve"]

log = structlog.get_logger()

# Real seconds between forming updates of a subscribed topic.
UPDATE_SECONDS = 0.5
# Real seconds that a client gets to answer a closing handshake.
CLOSE_SECONDS = 1.0

_DIALECTS: dict[Venue, type[BinanceUsdm] | type[BybitLinear]] = {
    Venue.BINANCEUSDM: BinanceUsdm,
    Venue.BYBIT: BybitLinear,
}


class PortInUse(Exception):
    """The port that the sandbox was told to listen on is taken."""

    def __init__(self, *, host: str, port: int) -> None:
        """Name the address."""
        super().__init__(f"{host}:{port} is already in use; choose another port, or 0 for any")
        self.host = host
        self.port = port


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxOptions:
    """How to play a tape.

    Attributes:
        start: T0, UTC milliseconds; everything that closed up to it is history at once.
        speed: venue seconds per real second; 0 only in lock-step, as fast as commits come.
        lock_step: whether the next interval waits for the commit of the previous close.
        port: 0 for any free one.
    """

    tape: Tape
    start: int
    speed: float = 3600.0
    lock_step: bool = False
    host: str = "127.0.0.1"
    port: int = 0


def serve(options: SandboxOptions) -> Sandbox:
    """Return the sandbox that ``async with`` starts and stops."""
    return Sandbox(options)


class Sandbox:
    """A simulated venue that listens while it is started.

    Attributes:
        url: root of REST and websocket paths, known once started.
    """

    def __init__(self, options: SandboxOptions) -> None:
        """Prepare to serve; nothing listens yet.

        Raises:
            TapeEnded: the tape holds nothing after ``options.start``.
            ValueError: start, speed or the tape's interval do not fit the venue.
        """
        tape = options.tape
        self.options = options
        self.url = ""
        self._playback = Playback(tape)
        self._dialect: Dialect = _DIALECTS[tape.venue](self._playback)
        self._timeline = Timeline(
            start=options.start,
            end=int(tape.panel.close_time[-1]),
            interval_ms=tape.panel.interval_ms,
            speed=options.speed,
            lock_step=options.lock_step,
        )
        self._hub = Hub()
        self._log = ServedLog()
        self._runner: web.AppRunner | None = None
        self._player: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, and let the venue's time begin.

        Raises:
            PortInUse: another process listens on the port.
        """
        app = web.Application()
        app.router.add_get("/sandbox/clock", self._serve_clock)
        app.router.add_post("/sandbox/commit", self._serve_commit)
        app.router.add_get("/sandbox/log", self._serve_log)
        app.router.add_get("/{path:.*}", self._serve_venue)
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=CLOSE_SECONDS
        )
        await self._runner.setup()
        await self._listen(self._runner)
        self._timeline.begin()
        self._player = asyncio.create_task(self._play(), name="sandbox-player")
        self._player.add_done_callback(_report_death)
        tape = self.options.tape
        log.info(
            "sandbox_started",
            url=self.url,
            venue=tape.venue.value,
            start=self.options.start,
            speed=self.options.speed,
            lock_step=self.options.lock_step,
            description=tape.description,
        )

    async def stop(self) -> None:
        """Close every connection and stop listening; harmless when not started."""
        if self._player is not None:
            self._player.cancel()
            await asyncio.wait([self._player])
            self._player = None
        await self._hub.close(timeout_seconds=CLOSE_SECONDS)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def now(self) -> int:
        """Return the venue's time, UTC milliseconds."""
        return self._timeline.now()

    @property
    def ended(self) -> bool:
        """Whether the tape has been played to its end."""
        return self._timeline.ended

    async def wait_ended(self) -> None:
        """Return once the tape has been played to its end, or the sandbox was stopped.

        Raises whatever kept the tape from being played on.
        """
        player = self._player
        assert player is not None, "start() comes first"
        await asyncio.wait([player])
        if not player.cancelled():
            player.result()

    def commit(self, decision_time: int) -> None:
        """Take the client's commit of the decision at ``decision_time`` (UTC milliseconds)."""
        self._timeline.commit(decision_time)
        self._log.event(ServedKind.COMMIT, detail=str(decision_time), sent_at=self.now())

    async def _listen(self, runner: web.AppRunner) -> None:
        host, port = self.options.host, self.options.port
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as failure:
            await runner.cleanup()
            self._runner = None
            if failure.errno == errno.EADDRINUSE:
                raise PortInUse(host=host, port=port) from failure
            raise
        bound = runner.addresses[0][1]
        self.url = f"http://{host}:{bound}"

    # Playing

    async def _play(self) -> None:
        while not self._timeline.ended:
            await self._until_due()
            self._close_interval()
            # A far-ahead commit releases many intervals: let the writers and readers in between.
            await asyncio.sleep(0)
        self._log.event(ServedKind.ENDED, detail=str(self._timeline.end), sent_at=self.now())
        log.error("sandbox_tape_ended", last_close=self._timeline.last_close)

    async def _until_due(self) -> None:
        while True:
            try:
                return await asyncio.wait_for(self._timeline.until_due(), UPDATE_SECONDS)
            except TimeoutError:
                self._publish_updates()

    def _publish_updates(self) -> None:
        now = self.now()
        for topic in self._hub.topics:
            self._hub.publish(topic, _present(self._dialect.update_frame(topic, now=now)))

    def _close_interval(self) -> None:
        """Close one interval for every symbol at once; nothing is awaited in between."""
        open_time = self._timeline.close_interval()
        now = self.now()
        receivers: dict[str, int] = {}
        for topic in self._hub.topics:
            final = self._dialect.final_frame(topic, open_time, now=now)
            update = self._dialect.update_frame(topic, now=now)
            subscribers = self._hub.publish(topic, _present(final, update))
            if final is not None:
                receivers[topic] = subscribers
        self._record_close(open_time, receivers, now)

    def _record_close(self, open_time: int, receivers: dict[str, int], now: int) -> None:
        for venue_symbol, instrument in self._playback.instruments.items():
            reached = receivers.get(self._dialect.kline_topic(venue_symbol), 0)
            known = self._playback.bar(venue_symbol, open_time, now=now) is not None
            self._log.bar(
                instrument.symbol,
                open_time=open_time,
                receivers=reached if known else None,
                sent_at=now,
            )

    # Venue endpoints

    async def _serve_venue(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._serve_socket(request)
        reply = self._dialect.answer(request.path, request.query, now=self.now())
        if reply is None:
            log.warning("sandbox_unknown_path", path=request.path)
            reply = Reply(body="Not Found", status=404, content_type="text/html")
        return await self._respond(request, reply)

    async def _respond(self, request: web.Request, reply: Reply) -> web.Response:
        """Send one REST answer: every one leaves through here."""
        detail = f"{reply.status} {request.path_qs}"
        self._log.event(ServedKind.REQUEST, detail=detail, sent_at=self.now())
        return web.Response(
            text=reply.body,
            status=reply.status,
            headers=reply.headers,
            content_type=reply.content_type,
        )

    async def _serve_socket(self, request: web.Request) -> web.StreamResponse:
        topics = self._dialect.opening_topics(request.path, request.query)
        if topics is None:
            return web.Response(status=404, text="Not Found")
        socket = web.WebSocketResponse(
            timeout=CLOSE_SECONDS, heartbeat=self._dialect.heartbeat_seconds, compress=False
        )
        await socket.prepare(request)
        wraps_frames = self._dialect.wraps_frames(request.path)
        connection = Connection(socket, transport=request.transport, wraps_frames=wraps_frames)
        self._hub.add(connection)
        writer = asyncio.create_task(connection.write())
        try:
            self._subscribe(connection, topics)
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    self._hear(connection, message.data)
        finally:
            self._hub.remove(connection)
            writer.cancel()
            await asyncio.wait([writer])
        return socket

    def _hear(self, connection: Connection, text: str) -> None:
        heard = self._dialect.hear(text, frozenset(connection.topics))
        for reply in heard.replies:
            self._hub.push(connection, reply)
        connection.topics.difference_update(heard.unsubscribed)
        self._subscribe(connection, heard.subscribed)

    def _subscribe(self, connection: Connection, topics: tuple[str, ...]) -> None:
        """Add topics and show each as it stands."""
        if not topics:
            return
        now = self.now()
        fresh = [topic for topic in topics if topic not in connection.topics]
        connection.topics.update(fresh)
        for topic in fresh:
            update = self._dialect.update_frame(topic, now=now)
            for frame in _present(self._missed_final(topic, now), update):
                self._hub.push(connection, connection.envelope(topic, frame))
        self._log.event(ServedKind.SUBSCRIBED, detail=" ".join(topics), sent_at=now)

    def _missed_final(self, topic: str, now: int) -> str | None:
        timeline = self._timeline
        if not timeline.lock_step or timeline.last_close == timeline.start:
            return None
        open_time = timeline.last_close - timeline.interval_ms
        return self._dialect.final_frame(topic, open_time, now=now)

    # Control endpoints

    async def _serve_clock(self, request: web.Request) -> web.Response:
        del request
        tape, timeline = self.options.tape, self._timeline
        return _json({
            "now": self.now(),
            "speed": timeline.speed,
            "lock_step": timeline.lock_step,
            "start": timeline.start,
            "end": timeline.end,
            "last_close": timeline.last_close,
            "ended": timeline.ended,
            "venue": tape.venue.value,
            "interval_ms": timeline.interval_ms,
            "symbols": list(tape.panel.symbols),
            "synthetic": tape.synthetic,
            "description": tape.description,
        })  # fmt: skip

    async def _serve_commit(self, request: web.Request) -> web.Response:
        decision_time = _decision_time(await request.text())
        if decision_time is None:
            wanted = 'the body must be {"decision_time": milliseconds}'
            return _json({"error": wanted}, status=400)
        self.commit(decision_time)
        timeline = self._timeline
        return _json({
            "decision_time": decision_time,
            "lock_step": timeline.lock_step,
            "last_close": timeline.last_close,
            "ended": timeline.ended,
        })  # fmt: skip

    async def _serve_log(self, request: web.Request) -> web.Response:
        lines = [f"{line}\n" for line in self._log.lines(request.query.get("kind"))]
        return web.Response(
            text="".join(lines),
            content_type="application/x-ndjson",
            headers={"X-Sandbox-Dropped": str(self._log.dropped)},
        )


def _present(*frames: str | None) -> list[str]:
    return [frame for frame in frames if frame is not None]


def _decision_time(body: str) -> int | None:
    try:
        message = json.loads(body)
    except ValueError:
        return None
    value = message.get("decision_time") if isinstance(message, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _json(facts: dict[str, object], *, status: int = 200) -> web.Response:
    return web.json_response(facts, status=status)


def _report_death(player: asyncio.Task[None]) -> None:
    """Say so when playing failed: the venue would stand still without a word."""
    if not player.cancelled() and (failure := player.exception()) is not None:
        log.critical("sandbox_player_died", exc_info=failure)
