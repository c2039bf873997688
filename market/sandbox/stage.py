"""Lets scripted faults begin and end at their times, and does to connections what they ask for.

The few actions on sockets that a fault needs are here: close, abort, freeze. Which fault is on
and what it changes is the injector's decision.
"""

from __future__ import annotations

import asyncio

import structlog

from market.sandbox.fault import FaultKind
from market.sandbox.hub import Connection, Hub
from market.sandbox.injection import Injection
from market.sandbox.injector import Injector
from market.sandbox.recorder import Recorder
from market.sandbox.timeline import Timeline

log = structlog.get_logger()

# Real seconds that a client gets to answer a closing handshake.
CLOSE_SECONDS = 1.0
# Real seconds between two looks where nothing falls due sooner.
LOOK_SECONDS = 0.02


class Stage:
    """The faults and the connections' lives of one running sandbox."""

    def __init__(
        self,
        *,
        injector: Injector,
        hub: Hub,
        timeline: Timeline,
        recorder: Recorder,
        connection_life_ms: int | None,
    ) -> None:
        """Act on these parts; see ``SandboxOptions`` for ``connection_life_ms``."""
        self._injector = injector
        self._hub = hub
        self._timeline = timeline
        self._recorder = recorder
        self._connection_life_ms = connection_life_ms
        self._farewells: set[asyncio.Task[None]] = set()

    async def play(self) -> None:
        """Turn the script whenever something falls due, until cancelled."""
        while True:
            self.turn()
            due = self._injector.next_due()
            await self._timeline.sleep_until(
                self._timeline.end if due is None else due, most_seconds=LOOK_SECONDS
            )

    def turn(self) -> None:
        """Begin and end faults, send what they held back, and end connections that are too old."""
        now = self._timeline.now()
        turn = self._injector.turn(now)
        for injection in turn.began:
            self._begin(injection, now)
        for injection in turn.ended:
            self._end(injection)
        for topic, frames in self._injector.released(now):
            self._hub.publish(topic, [*frames, *self._injector.updating(topic, now=now)])
        self._end_old_connections(now)

    def admits(self, connection: Connection) -> bool:
        """Whether a new connection may stay; a reset cuts it here."""
        now = self._timeline.now()
        injection = self._injector.turns_away(now=now)
        if injection is None:
            return True
        if injection.touch(now).kind is FaultKind.RESET:
            connection.abort()
        return False

    def record_rest(self) -> None:
        """Record the faults that are still on when the sandbox stops."""
        for injection in self._injector.injections:
            if injection.began and not injection.over:
                self._recorder.fault(injection)

    def _begin(self, injection: Injection, now: int) -> None:
        log.info("sandbox_fault_began", fault=injection.fault.kind.value, at=injection.fault.at)
        for connection in self._hub.connections:
            match injection.fault.kind:
                case FaultKind.DISCONNECT:
                    injection.touch(now)
                    self._dismiss(connection)
                case FaultKind.RESET:
                    injection.touch(now)
                    connection.abort()
                case FaultKind.HALF_OPEN:
                    injection.touch(now)
                    connection.state.frozen = injection
                    connection.freeze()

    def _end(self, injection: Injection) -> None:
        for connection in self._hub.connections:
            if connection.state.frozen is injection:
                connection.abort()
        self._recorder.fault(injection)

    def _end_old_connections(self, now: int) -> None:
        life = self._connection_life_ms
        if life is None:
            return
        for connection in self._hub.connections:
            if now - connection.state.opened_at >= life:
                self._dismiss(connection)

    def _dismiss(self, connection: Connection) -> None:
        """Close one connection with the handshake, without waiting for it."""
        self._hub.remove(connection)
        task = asyncio.create_task(self._hub.dismiss((connection,), timeout_seconds=CLOSE_SECONDS))
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)
