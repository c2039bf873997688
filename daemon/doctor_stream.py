"""The doctor's trial of the websocket: through the very client that the daemon listens with.

It waits for what should come, never longer than it says, and closes what it opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing

from market.bar import Bar
from market.exchange import Exchange
from market.retry import VenueError, VenueUnavailable

SUBSCRIBE_SECONDS = 10.0
GRACE_SECONDS = 8.0  # beyond one interval, for the venue to send the final frame
COMPARE_SECONDS = 8.0  # for REST to serve the bar that has just closed
COMPARE_EVERY_SECONDS = 0.5


class StreamTrial:
    """One subscription that is listened to from its making to ``close``.

    Attributes:
        wait_seconds: how long a closed bar is waited for.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        symbols: Sequence[str],
        interval_ms: int,
        interval_seconds: float,
    ) -> None:
        """Subscribe to the bars of ``symbols``; ``interval_seconds`` is real time."""
        self._exchange = exchange
        self._symbols = tuple(symbols)
        self._interval_ms = interval_ms
        self.wait_seconds = interval_seconds + GRACE_SECONDS
        self._changed = asyncio.Event()
        self._confirmed = 0
        self._frames = 0
        self._bar: Bar | None = None
        self._fault: VenueError | None = None
        exchange.on_venue_time = self._note_frame
        self._task = asyncio.create_task(self._listen(), name="doctor-listen")

    async def close(self) -> None:
        """Stop listening."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def subscribed(self) -> bool:
        """Whether the venue confirmed the subscription and sent a frame, in time.

        Raises:
            VenueError: the connection failed.
        """
        return await self._in_time(
            lambda: bool(self._confirmed and self._frames), SUBSCRIBE_SECONDS
        )

    async def closed_bar(self) -> Bar | None:
        """Return the first bar that the venue marks closed; ``None`` where none came in time.

        Raises:
            VenueError: the connection failed.
        """
        await self._in_time(lambda: self._bar is not None, self.wait_seconds)
        return self._bar

    @property
    def first_bar(self) -> Bar | None:
        """The first bar that was marked closed so far."""
        return self._bar

    async def same_over_rest(self, streamed: Bar) -> Bar | None:
        """Return what REST serves for a streamed bar, asked until it is equal or time is up."""
        span = {"since": streamed.open_time, "until": streamed.open_time + self._interval_ms}
        served: Bar | None = None
        try:
            async with asyncio.timeout(COMPARE_SECONDS):
                while served != streamed:
                    bars = await self._exchange.fetch_bars(
                        streamed.symbol, interval_ms=self._interval_ms, **span
                    )
                    served = bars[0] if bars else served
                    if served != streamed:
                        await asyncio.sleep(COMPARE_EVERY_SECONDS)
        except TimeoutError:
            pass
        return served

    async def heard_again(self) -> bool:
        """Drop the connection; whether a new one was confirmed and heard, in time.

        Raises:
            VenueError: the connection failed.
        """
        await self._exchange.reconnect()
        self._confirmed = self._frames = 0
        self._fault = None
        return await self.subscribed()

    async def _listen(self) -> None:
        stream = self._exchange.closed_bars(
            self._symbols,
            interval_ms=self._interval_ms,
            on_restart=self._note_fault,
            on_subscribed=self._note_confirmed,
        )
        try:
            async with aclosing(stream) as bars:
                async for bar in bars:
                    if self._bar is None:
                        self._bar = bar
                        self._changed.set()
        except* VenueError as group:
            self._note_fault(_first(group))

    async def _in_time(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for the condition; the last fault of the connection is raised instead of False."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            if self._fault is not None:
                raise VenueUnavailable(
                    host=self._fault.host, cause=self._fault.cause, request="stream"
                ) from self._fault
        return condition()

    def _note_frame(self, _time: int) -> None:
        self._frames += 1
        self._changed.set()

    def _note_confirmed(self) -> None:
        self._confirmed += 1
        self._changed.set()

    def _note_fault(self, error: VenueError) -> None:
        self._fault = error


def _first(group: BaseExceptionGroup[VenueError]) -> VenueError:
    """Return one of the errors, however deep."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, VenueError)
    return error
