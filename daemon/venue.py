"""The daemon's side of its venue: a sandbox of its own, the venue's clock, and the pace.

Talks only to ``/sandbox/...`` control paths, which no real venue has. Market data never passes
through here.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp
import structlog

from daemon.settings import Settings
from market.clock import Clock, ManualClock, ScaledClock, WallClock
from market.retry import backoff_seconds

log = structlog.get_logger()

START_SECONDS = 60.0
STOP_SECONDS = 3.0
BAD_INPUT = 2
TAPE_ENDED = 4


class SandboxFailed(Exception):
    """The sandbox venue that the daemon started did not come up or has died."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VenueTime:
    """What a sandbox says of itself."""

    now: int
    start: int
    speed: float
    lock_step: bool
    synthetic: bool
    description: str


class SandboxRefused(Exception):
    """The settings name a sandbox market that there is none of."""


class OwnSandbox:
    """A sandbox venue as a child process that ends with its parent."""

    def __init__(self, settings: Settings, *, resume_at: int | None) -> None:
        """Keep what the child is started with; ``resume_at`` continues an earlier run's time."""
        self._settings = settings
        self._resume_at = resume_at
        self._process: asyncio.subprocess.Process | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        """Start the child and wait for its address.

        Raises:
            SandboxFailed: it ended, or said nothing, before it was ready.
        """
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "daemon",
            "sandbox",
            *self._arguments(),
            stdin=asyncio.subprocess.PIPE,  # the child ends when this pipe closes
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches the daemon alone, which then stops the child
        )
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), START_SECONDS)
        except TimeoutError:
            await self._stop()
            raise SandboxFailed(f"the sandbox venue said nothing for {START_SECONDS:g} s") from None
        if not line:
            code = await self._process.wait()
            if code == BAD_INPUT:
                raise SandboxRefused(
                    "the sandbox venue refused its settings; its own line above says which"
                )
            raise SandboxFailed(f"the sandbox venue ended with code {code} before it was ready")
        self.url = str(json.loads(line)["url"])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the child."""
        await self._stop()

    async def wait(self) -> None:
        """Return when the market has come to the end of its tape.

        Raises:
            SandboxFailed: the child ended for any other reason.
        """
        assert self._process is not None
        code = await self._process.wait()
        if code == TAPE_ENDED:
            log.warning("sandbox_market_ended", remedy="another --start, seed or state directory")
            return
        raise SandboxFailed(f"the sandbox venue ended unexpectedly with code {code}")

    def _arguments(self) -> list[str]:
        sandbox, exchange = self._settings.sandbox, self._settings.exchange
        arguments = [
            "--json",
            "--until-parent-ends",
            *("--exchange", exchange.name.value),
            *("--port", "0"),
            *("--speed", repr(sandbox.speed)),
            *("--edge", repr(sandbox.edge)),
            *("--history-days", str(exchange.history_days)),
            *("--symbols", ",".join(exchange.symbols)),
        ]
        if sandbox.data is not None:
            arguments += ["--data", str(sandbox.data)]
        else:
            arguments += ["--synthetic", str(sandbox.synthetic_seed)]
        if sandbox.lock_step:
            arguments.append("--lock-step")
        start = sandbox.start if self._resume_at is None else str(self._resume_at)
        return arguments if start is None else [*arguments, "--start", start]

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


async def ask_venue_time(base_url: str) -> VenueTime | None:
    """Ask a loopback venue for its clock; ``None`` where it is no sandbox of ours."""
    timeout = aiohttp.ClientTimeout(total=5)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{base_url}/sandbox/clock") as response,
        ):
            if response.status != 200:
                return None
            answer = await response.json()
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None
    return VenueTime(
        now=int(answer["now"]),
        start=int(answer["start"]),
        speed=float(answer["speed"]),
        lock_step=bool(answer["lock_step"]),
        synthetic=bool(answer["synthetic"]),
        description=str(answer["description"]),
    )


def clock_for(venue: VenueTime | None) -> Clock:
    """Return the clock that the daemon lives by: the wall, or the sandbox's own time."""
    if venue is None:
        return WallClock()
    if venue.lock_step:
        return ManualClock(venue.now)
    return ScaledClock(anchor_ms=venue.now, speed=venue.speed)


class Pacer:
    """Tells a lock-step sandbox that a decision is committed, so that it plays the next bar."""

    def __init__(self, base_url: str | None) -> None:
        """Do nothing at all where ``base_url`` is ``None``."""
        self._url = None if base_url is None else f"{base_url}/sandbox/commit"
        self._session: aiohttp.ClientSession | None = None

    async def committed(self, decision_time: int) -> None:
        """Report one commit, again and again until it is heard: the venue waits for it."""
        if self._url is None:
            return
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5))
        for wait_seconds in backoff_seconds(first=0.2, most=5.0):
            try:
                report = {"decision_time": decision_time}
                async with self._session.post(self._url, json=report) as got:
                    got.raise_for_status()
                    return
            except (aiohttp.ClientError, TimeoutError) as error:
                log.warning("commit_not_reported", url=self._url, cause=str(error))
            await asyncio.sleep(wait_seconds)

    async def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            await self._session.close()
