"""The stream of final bars of one venue, from one websocket to the next.

A ``Socket`` keeps one connection open; this room puts another in its place and loses nothing that
the tap has taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import structlog

from market.bar import Bar
from market.budget import Budget
from market.stream import Socket
from market.tap import Tap

log = structlog.get_logger()

Connect = Callable[[], Socket]


class BarStream:
    """At most one stream at a time; between two it holds no connection."""

    def __init__(self, tap: Tap, *, host: str, budget: Budget) -> None:
        """Hand out what ``tap`` takes.

        Args:
            tap: what every socket of this stream brings its bars to.
            host: for messages.
            budget: tells when the venue lets nobody in.
        """
        self._tap = tap
        self._host = host
        self._budget = budget
        self._socket: Socket | None = None
        self._connect: Connect | None = None

    async def bars(self, connect: Connect) -> AsyncGenerator[Bar, None]:
        """Yield the bars that arrive, for as long as the caller listens.

        Args:
            connect: opens a websocket that is subscribed to what the venue lists by then.
        """
        tap, self._connect = self._tap, connect
        self._socket = connect()
        try:
            while True:
                await _first_of(self._socket.task, tap.arrived)
                tap.arrived.clear()
                while tap.bars:
                    yield tap.bars.popleft()
                if self._socket.task.done() and not self._socket.task.cancelled():
                    self._socket.task.result()
        finally:
            await self.close()

    async def drop(self) -> None:
        """Drop the websocket, so that it opens anew at once."""
        if self._socket is not None:
            await self._socket.drop()

    async def renew(self, *, within_seconds: float) -> bool:
        """Open a second websocket and close the first once the second is heard.

        Bars may come twice meanwhile.

        Returns:
            Whether the second took over; where it stays silent the first is kept.
        """
        while (closed_seconds := self._budget.closed_seconds()) > 0:
            await asyncio.sleep(closed_seconds)
        old, connect = self._socket, self._connect
        if old is None or connect is None:
            return True
        new = connect()
        try:
            async with asyncio.timeout(within_seconds):
                await new.heard.wait()
        except TimeoutError:
            log.warning("renewed_stream_silent", host=self._host)
            await new.close()
            return False
        except BaseException:
            await new.close()
            raise
        self._socket = new
        self._tap.arrived.set()  # bars() must watch the new task
        await old.close()
        return True

    async def close(self) -> None:
        """Close the websocket; safe to call twice."""
        if self._socket is not None:
            socket, self._socket = self._socket, None
            await socket.close()


async def _first_of(task: asyncio.Task[None], event: asyncio.Event) -> None:
    """Return when the task is done or the event is set."""
    waiter = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()
