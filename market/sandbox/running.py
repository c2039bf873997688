"""What a sandbox has only while it is started."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog
from aiohttp import web

from market.sandbox.recorder import Recorder
from market.sandbox.sockets import Sockets
from market.sandbox.stage import Stage

log = structlog.get_logger()


class Running:
    """The log, the listener and the tasks of one started sandbox.

    Attributes:
        player: the task that plays the tape, known once ``play`` was called.
    """

    def __init__(
        self, *, recorder: Recorder, stage: Stage, sockets: Sockets, runner: web.AppRunner
    ) -> None:
        """Hold what was started; nothing plays yet."""
        self.recorder = recorder
        self.stage = stage
        self.sockets = sockets
        self.runner = runner
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def player(self) -> asyncio.Task[None]:
        """The first of what was let play."""
        return self._tasks[0]

    def play(self, *plays: Coroutine[Any, Any, None]) -> None:
        """Let these run until ``end_tasks``."""
        for one in plays:
            task = asyncio.create_task(one)
            task.add_done_callback(_report_death)
            self._tasks.append(task)

    async def end_tasks(self) -> None:
        """Cancel what runs and wait for it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)


def _report_death(player: asyncio.Task[None]) -> None:
    """Say so when playing failed: the venue would stand still without a word."""
    if not player.cancelled() and (failure := player.exception()) is not None:
        log.critical("sandbox_player_died", exc_info=failure)
