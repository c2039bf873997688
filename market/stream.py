"""One websocket connection: subscribed for as long as it lives, opened again whenever it breaks.

What arrives goes to the client's tap, inside ccxt's receive loop; a ``Socket`` only keeps the
connection going. Each has a ccxt client of its own, so that a new one can be opened and heard
before the old one is closed. It must never open a connection while the venue has closed its door.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from market.budget import Budget
from market.retry import VenueError, VenueUnavailable, backoff_seconds

SOCKET_CLOSE_SECONDS = 1.0
SILENCE_SECONDS = 300.0
MOST_TOPICS = 10  # Bybit spot takes no more in one request

Ask = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


class Socket:
    """A connection and its task.

    Attributes:
        heard: set once the venue has sent something on it.
    """

    def __init__(
        self,
        client: Any,
        *,
        host: str,
        pairs: list[list[str]],
        ask: Ask,
        budget: Budget,
        on_restart: Callable[[VenueError], None],
    ) -> None:
        """Subscribe to ``pairs`` of (symbol, timeframe) with ``client``, which it then owns.

        Args:
            client: a ccxt.pro client with its markets set.
            host: for messages.
            pairs: what to subscribe to.
            ask: makes one call and turns ccxt's errors into ours.
            budget: tells when the venue lets nobody in.
            on_restart: called with the fault before the connection is opened again.
        """
        self.heard = asyncio.Event()
        self._client = client
        self._host = host
        self._pairs = pairs
        self._ask = ask
        self._budget = budget
        self._on_restart = on_restart
        self._watches: set[asyncio.Future[Any]] = set()
        self._may_open = asyncio.Event()
        self._may_open.set()
        self.task = asyncio.create_task(self._run(), name="socket")

    async def drop(self) -> None:
        """Drop the connection without waiting long for a venue that no longer answers."""
        dropped = list(self._client.clients.values())
        # Out of ccxt's sight first: the watcher that is cancelled here must not find them again.
        self._client.clients.clear()
        self._may_open.clear()
        try:
            # Not left to ccxt: closing a half-open connection may never tell those who wait on it.
            for watch in list(self._watches):
                watch.cancel()
            if dropped:
                await self._close_all(dropped)
        finally:
            self._may_open.set()

    async def _close_all(self, connections: Sequence[Any]) -> None:
        closing = [asyncio.create_task(connection.close()) for connection in connections]
        _, slow = await asyncio.wait(closing, timeout=SOCKET_CLOSE_SECONDS)
        for task in slow:
            task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)
        # Closing does not end a dial: it would live on, unseen, beside the next connection.
        is_dialling = any(connection.connection is None for connection in connections)
        if slow or is_dialling:
            await self._abort()

    async def _abort(self) -> None:
        """Close what did not answer the closing handshake from underneath; ccxt opens anew."""
        session, self._client.session = self._client.session, None
        if session is not None:
            await session.close()

    async def close(self) -> None:
        """End for good."""
        self.task.cancel()
        await asyncio.wait({self.task})  # a cancellation of our own passes through
        await self.drop()
        await self._client.close()

    async def _run(self) -> None:
        """Keep every group of topics subscribed; the first one speaks for the connection."""
        async with asyncio.TaskGroup() as group:
            for start in range(0, len(self._pairs), MOST_TOPICS):
                pairs = self._pairs[start : start + MOST_TOPICS]
                on_restart = self._on_restart if start == 0 else _nothing
                group.create_task(self._keep_subscribed(pairs, on_restart))

    async def _keep_subscribed(
        self, pairs: list[list[str]], on_restart: Callable[[VenueError], None]
    ) -> None:
        waits = backoff_seconds(first=0.2)
        while True:
            await self._may_open.wait()
            while not self._client.clients and (wait := self._budget.closed_seconds()) > 0:
                await asyncio.sleep(wait)
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    await self._watch(pairs)
                self.heard.set()
                waits = backoff_seconds(first=0.2)
            except TimeoutError:
                # A half-open connection may answer pings, or need minutes to be noticed.
                cause = f"silent for {SILENCE_SECONDS:.0f} s"
                on_restart(VenueUnavailable(host=self._host, cause=cause, request="stream"))
                await self.drop()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # drop() cancelled the watcher, not us.
            except VenueError as error:
                on_restart(error)
                await asyncio.sleep(next(waits))

    async def _watch(self, pairs: list[list[str]]) -> None:
        """Wait for the next message; ``drop`` ends the wait."""
        watch = asyncio.ensure_future(
            self._ask(lambda: self._client.watch_ohlcv_for_symbols(pairs))
        )
        self._watches.add(watch)
        try:
            await watch
        finally:
            self._watches.discard(watch)
            watch.cancel()


def _nothing(_error: VenueError) -> None:
    """Another group of the same connection has told it already."""
