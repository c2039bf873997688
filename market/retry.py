"""The kinds of trouble a venue can give, what an HTTP answer means, and how long to wait.

It owns the judgement, never the connection: nothing here opens a socket.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TypeVar

import aiohttp

Answer = TypeVar("Answer")

BAN_SECONDS = 60.0  # assumed where the venue says "too many requests" and no deadline
_EXCERPT = 200
_BANNED_UNTIL = re.compile(r"banned until (\d{13})")
_COUNTRY = re.compile(r"block access from your country|restricted location", re.IGNORECASE)
_TOO_MANY = frozenset({403, 418, 429})


class VenueError(Exception):
    """A venue did not do what we asked; ``host`` and ``cause`` say where and why."""

    def __init__(self, *, host: str, cause: str, request: str = "") -> None:
        """Keep the parts, so that a message for a person can name each."""
        super().__init__(f"{host}: {cause}" + (f" (while asking for {request})" if request else ""))
        self.host = host
        self.cause = cause
        self.request = request


class VenueUnavailable(VenueError):
    """Worth asking again: outage, time-out, refused connection, nonsense instead of data."""


class RateLimited(VenueUnavailable):
    """Worth asking again, but not before ``retry_after_seconds``."""

    def __init__(
        self, *, host: str, cause: str, retry_after_seconds: float, request: str = ""
    ) -> None:
        """Keep the deadline beside the cause."""
        super().__init__(host=host, cause=cause, request=request)
        self.retry_after_seconds = retry_after_seconds


class VenueRefused(VenueError):
    """Final: asking again cannot help (region blocked, unknown symbol, bad request)."""


class RegionBlocked(VenueRefused):
    """Final: the venue does not serve this address; nothing may be asked for a while."""


class NotOffered(VenueRefused):
    """Final, and a matter of our settings: the venue has no such symbol or interval."""


def backoff_seconds(
    *, first: float = 0.5, factor: float = 2.0, most: float = 30.0
) -> Iterator[float]:
    """Yield waits that grow by ``factor`` from ``first`` up to ``most``, for ever."""
    wait = first
    while True:
        yield wait
        wait = min(wait * factor, most)


async def ask_patiently(
    ask: Callable[[], Awaitable[Answer]],
    *,
    attempts: int,
    on_failure: Callable[[VenueError], None],
) -> Answer:
    """Ask up to ``attempts`` times, waiting longer each time and as long as a rate limit demands.

    Raises:
        VenueRefused: at once.
        VenueUnavailable: the last attempt's, when every attempt failed.
    """
    waits = backoff_seconds()
    for attempt in range(1, attempts + 1):
        try:
            return await ask()
        except VenueError as error:
            on_failure(error)
            if attempt == attempts or not isinstance(error, VenueUnavailable):
                raise
            least = error.retry_after_seconds if isinstance(error, RateLimited) else 0.0
            await asyncio.sleep(max(next(waits), least))
    raise AssertionError("attempts must be at least 1")


def answer_fault(
    *,
    host: str,
    status: int,
    headers: Mapping[str, str],
    body: str,
    is_json: bool,
    venue_now: int,
    request: str,
) -> VenueError | None:
    """Judge an HTTP answer by its status and shape; ``None`` when the body may be read.

    ccxt alone lets HTML with status 200 through and calls a 503 with a JSON body a plain error,
    so the status is judged before ccxt sees the answer. ``venue_now`` (UTC milliseconds, 0 where
    unknown) turns a ban that is stated as a time into seconds.
    """
    excerpt = " ".join(body.split())[:_EXCERPT]
    cause = f"HTTP {status}: {excerpt}"
    if status == 451 or (status == 403 and _COUNTRY.search(body)):
        return RegionBlocked(host=host, cause=f"region blocked, {cause}", request=request)
    if status in _TOO_MANY:
        seconds = _ban_seconds(headers, body, venue_now)
        return RateLimited(host=host, cause=cause, retry_after_seconds=seconds, request=request)
    if status >= 500 or status in (404, 408):
        return VenueUnavailable(host=host, cause=cause, request=request)
    if not is_json:
        return VenueUnavailable(
            host=host, cause=f"HTTP {status} without readable JSON: {excerpt}", request=request
        )
    return None


def _ban_seconds(headers: Mapping[str, str], body: str, venue_now: int) -> float:
    stated = {name.lower(): value for name, value in headers.items()}.get("retry-after", "")
    if stated.strip().isdigit():
        return float(stated)
    banned_until = _BANNED_UNTIL.search(body)
    if banned_until and 0 < venue_now < int(banned_until[1]):
        return (int(banned_until[1]) - venue_now) / 1000
    return BAN_SECONDS


def connection_cause(error: BaseException, host: str) -> str | None:
    """Say why a connection failed, in a person's words; ``None`` when that was not the trouble.

    ccxt's own message of such a failure is only the URL; the cause hides in the chain.
    """
    for link in _chain(error):
        if isinstance(link, aiohttp.ClientConnectorDNSError | socket.gaierror):
            return f"DNS failure: {host} cannot be resolved"
        if isinstance(link, aiohttp.ClientSSLError | ssl.SSLError):
            return f"TLS failure: {link}"
        if getattr(link, "errno", None) == errno.ECONNREFUSED:
            return "connection refused"
        if isinstance(link, aiohttp.ClientConnectorError):
            return f"cannot connect: {link.os_error.strerror or link.os_error}"
        if isinstance(link, aiohttp.ServerDisconnectedError | ConnectionResetError):
            return "the connection was cut"
    return None


def _chain(error: BaseException | None) -> list[BaseException]:
    links: list[BaseException] = []
    while error is not None and error not in links:
        links.append(error)
        wrapped = error.args[0] if error.args and isinstance(error.args[0], BaseException) else None
        error = error.__cause__ or wrapped or getattr(error, "os_error", None)
    return links
