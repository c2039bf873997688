"""The sandbox venue: a tape served over HTTP and websockets on loopback, in a venue's own words.

The server owns sockets and the order of frames. What is said comes from a dialect, when it may be
said from the timeline, what a scripted fault makes of it from the injector. Every REST answer
leaves through ``_respond`` and every frame through ``Hub.push``. It must never reach another host
and never serve a value that has not happened yet. Its own endpoints are in ``control``.

An interval closes for all symbols at once: per topic the final frame of the bar that closed, then
the first forming frame of the next. Subscribing to a kline in lock-step repeats the final frame of
the last close, because a client that subscribes after committing would otherwise never see it.
"""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog
from aiohttp import web

from market.instrument import Venue
from market.sandbox.binance_spot import BinanceSpot
from market.sandbox.binance_usdm import BinanceUsdm
from market.sandbox.bybit import Bybit
from market.sandbox.control import Control
from market.sandbox.dialect import Dialect, Reply
from market.sandbox.fault import Fault
from market.sandbox.fault_edits import edits_of
from market.sandbox.hub import Hub
from market.sandbox.injection import ConnectionState
from market.sandbox.injector import Injector
from market.sandbox.playback import Playback
from market.sandbox.recorder import Recorder
from market.sandbox.running import Running
from market.sandbox.served import MOST_BARS, MOST_EVENTS, ServedKind
from market.sandbox.sockets import Sockets
from market.sandbox.stage import CLOSE_SECONDS, Stage
from market.sandbox.tape import Tape
from market.sandbox.timeline import TapeEnded, Timeline

__all__ = ["PortInUse", "Sandbox", "SandboxOptions", "TapeEnded", "serve"]

log = structlog.get_logger()

# Real seconds between forming updates of a subscribed topic.
UPDATE_SECONDS = 0.5
# Real seconds between two looks at whether a client still waits for an answer that never comes.
GONE_SECONDS = 0.05

_DIALECTS: dict[Venue, type[BinanceUsdm] | type[BinanceSpot] | type[Bybit]] = {
    Venue.BINANCEUSDM: BinanceUsdm,
    Venue.BINANCE: BinanceSpot,
    Venue.BYBIT: Bybit,
    Venue.BYBITSPOT: Bybit,
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
        faults: what goes wrong and when.
        enforce_limits: whether requests over the venue's limit are refused.
        connection_life_ms: how long a websocket may live, of the venue's time, before the venue
            closes it (the real ones: 24 h); ``None`` for ever.
        log_path: a file that every entry of the log is appended to; the memory of the log is
            bounded by ``log_bars`` and ``log_events`` all the same.
    """

    tape: Tape
    start: int
    speed: float = 3600.0
    lock_step: bool = False
    host: str = "127.0.0.1"
    port: int = 0
    faults: tuple[Fault, ...] = ()
    enforce_limits: bool = False
    connection_life_ms: int | None = None
    log_path: Path | None = None
    log_bars: int = MOST_BARS
    log_events: int = MOST_EVENTS


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
            ValueError: start, speed, the tape's interval or a fault do not fit the venue.
        """
        tape = options.tape
        interval_ms = tape.panel.interval_ms
        self.options = options
        self.url = ""
        self._playback = Playback(tape, edits_of(options.faults, interval_ms=interval_ms))
        self._dialect: Dialect = _DIALECTS[tape.venue](self._playback)
        self._dialect.enforce_limits = options.enforce_limits
        self._timeline = Timeline(
            start=options.start,
            end=int(tape.panel.close_time[-1]),
            interval_ms=interval_ms,
            speed=options.speed,
            lock_step=options.lock_step,
        )
        self._injector = _injector(options.faults, self._playback, self._dialect)
        self._hub = Hub(self._deliver)
        self._running: Running | None = None

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
        recorder = self._recorder()
        stage = Stage(
            injector=self._injector,
            hub=self._hub,
            timeline=self._timeline,
            recorder=recorder,
            connection_life_ms=self.options.connection_life_ms,
        )
        sockets = Sockets(
            dialect=self._dialect,
            injector=self._injector,
            hub=self._hub,
            timeline=self._timeline,
            recorder=recorder,
            stage=stage,
        )
        app = web.Application()
        self._control(recorder).add_routes(app)
        app.router.add_get("/{path:.*}", self._serve_venue)
        runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=CLOSE_SECONDS
        )
        await runner.setup()
        try:
            await self._listen(runner)
        except BaseException:
            recorder.close()
            await runner.cleanup()
            raise
        self._timeline.begin()
        self._running = Running(recorder=recorder, stage=stage, sockets=sockets, runner=runner)
        self._running.play(self._play(), *([stage.play()] if self._has_script else []))
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
        if (running := self._running) is None:
            return
        await running.end_tasks()
        running.stage.record_rest()
        await self._hub.close(timeout_seconds=CLOSE_SECONDS)
        await running.runner.cleanup()
        running.recorder.close()
        self._running = None

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
        player = self._started.player
        await asyncio.wait([player])
        if not player.cancelled():
            player.result()

    def commit(self, decision_time: int) -> None:
        """Take the client's commit of the decision at ``decision_time`` (UTC milliseconds)."""
        self._timeline.commit(decision_time)
        self._record(ServedKind.COMMIT, detail=str(decision_time))

    async def _listen(self, runner: web.AppRunner) -> None:
        host, port = self.options.host, self.options.port
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as failure:
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
        self._record(ServedKind.ENDED, detail=str(self._timeline.end))
        self._started.recorder.served.flush()
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
            self._hub.publish(topic, self._injector.updating(topic, now=now))

    def _close_interval(self) -> None:
        """Close one interval for every symbol at once; nothing is awaited in between."""
        open_time = self._timeline.close_interval()
        self._started.stage.turn()
        now = self.now()
        receivers: dict[str, int] = {}
        for topic in self._hub.topics:
            closing = self._injector.closing(topic, open_time, now=now)
            subscribers = self._hub.publish(topic, closing.frames)
            if closing.has_final:
                receivers[topic] = subscribers
        self._record_close(open_time, receivers, now)

    def _record_close(self, open_time: int, receivers: dict[str, int], now: int) -> None:
        for venue_symbol, instrument in self._playback.instruments.items():
            reached = receivers.get(self._dialect.kline_topic(venue_symbol), 0)
            known = self._playback.bar(venue_symbol, open_time, now=now) is not None
            if not known:
                self._injector.absent(instrument.symbol, open_time, now=now)
            self._record(
                ServedKind.FINAL if known else ServedKind.ABSENT,
                symbol=instrument.symbol,
                open_time=open_time,
                receivers=reached if known else None,
            )

    def _deliver(self, state: ConnectionState, topic: str | None, text: str) -> str | None:
        return self._injector.deliver(state, topic, text, now=self.now())

    # Venue endpoints

    async def _serve_venue(self, request: web.Request) -> web.StreamResponse:
        self._started.stage.turn()
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._started.sockets.serve(request)
        reply = self._dialect.answer(request.path, request.query, now=self.now())
        if reply is None:
            log.warning("sandbox_unknown_path", path=request.path)
            reply = Reply(body="Not Found", status=404, content_type="text/html")
        return await self._respond(request, reply)

    async def _respond(self, request: web.Request, reply: Reply) -> web.Response:
        """Send one REST answer: every one leaves through here."""
        answer = self._injector.reply(request.path, request.query, reply, now=self.now())
        named = self._playback.instruments.get(request.query.get("symbol", ""))
        self._started.recorder.request(
            request.path_qs,
            answer,
            symbol=None if named is None else named.symbol,
            stated=reply.headers,
        )
        given = answer.reply
        if given is None:
            await _until_gone(request)
            return web.Response(status=204)  # to nobody
        return web.Response(
            text=given.body,
            status=given.status,
            headers=given.headers,
            content_type=given.content_type,
        )

    # The log

    @property
    def _has_script(self) -> bool:
        return bool(self.options.faults) or self.options.connection_life_ms is not None

    @property
    def _started(self) -> Running:
        assert self._running is not None, "start() comes first"
        return self._running

    def _recorder(self) -> Recorder:
        options = self.options
        return Recorder(
            now=self.now,
            path=options.log_path,
            most_bars=options.log_bars,
            most_events=options.log_events,
        )

    def _control(self, recorder: Recorder) -> Control:
        injections = self._injector.injections
        return Control(
            tape=self.options.tape,
            timeline=self._timeline,
            playback=self._playback,
            served=recorder.served,
            commit=self.commit,
            faults=lambda: [recorder.fault_entry(one) for one in injections],
        )

    def _record(self, kind: ServedKind, **facts: Any) -> None:
        self._started.recorder.record(kind, **facts)


def _injector(faults: tuple[Fault, ...], playback: Playback, dialect: Dialect) -> Injector:
    symbols = {name: one.symbol for name, one in playback.instruments.items()}
    return Injector(
        faults,
        interval_ms=playback.interval_ms,
        symbols=symbols,
        kline_topics={symbol: dialect.kline_topic(name) for name, symbol in symbols.items()},
        final_frame=lambda topic, open_time, now: dialect.final_frame(topic, open_time, now=now),
        update_frame=lambda topic, now: dialect.update_frame(topic, now=now),
    )


async def _until_gone(request: web.Request) -> None:
    """Return when the client has given up."""
    while (transport := request.transport) is not None and not transport.is_closing():
        await asyncio.sleep(GONE_SECONDS)
