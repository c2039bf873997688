"""One budget of request weight per venue and address, shared by everything that asks the venue.

Live requests, repairs, audits and backfills of one process draw on the same budget, so that
together they stay below the venue's limit; a ban ends all of them until its deadline. A ban can be
kept in a file, so that a restarted process does not ask before the deadline either. It must never
let a request pass during a ban.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections import deque
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import structlog

from market.clock import WallClock, monotonic_seconds
from market.instrument import Venue
from market.retry import RateLimited, RegionBlocked, VenueError

log = structlog.get_logger()

LIVE_SHARE = 0.8  # of the venue's limit: other programs share the address
BACKGROUND_SHARE = 0.5  # backfills and audits leave room for the live feed
_SHORTEST_WAIT_SECONDS = 0.01

_share: ContextVar[float] = ContextVar("share_of_the_budget", default=LIVE_SHARE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A venue's limit: ``weight`` per ``window_seconds`` of venue time and address.

    Attributes:
        weight_per_cost: the venue's weight of one unit of ccxt's endpoint cost.
    """

    weight: float
    window_seconds: float
    weight_per_cost: float


# As the venues document them in 2026. Bybit counts requests, 600 in 5 s, and ccxt's cost of one is
# 5; ccxt scales the weights of Binance spot by 0.2.
LIMITS = {
    Venue.BINANCEUSDM: Limit(weight=2400, window_seconds=60, weight_per_cost=1),
    Venue.BINANCE: Limit(weight=6000, window_seconds=60, weight_per_cost=5),
    Venue.BYBIT: Limit(weight=600, window_seconds=5, weight_per_cost=0.2),
    Venue.BYBITSPOT: Limit(weight=600, window_seconds=5, weight_per_cost=0.2),
}


@contextlib.contextmanager
def in_background() -> Iterator[None]:
    """Requests made inside leave room for the live feed."""
    token = _share.set(BACKGROUND_SHARE)
    try:
        yield
    finally:
        _share.reset(token)


class Budget:
    """Request weight spent at one venue from this address.

    Attributes:
        spent: weight of all requests so far.
        most_in_window: the most weight that any window has held.
        bans: how often the venue told us to stay away.
    """

    def __init__(
        self, limit: Limit | None, *, speed: float = 1.0, ban_file: Path | None = None
    ) -> None:
        """Start unspent, and banned if ``ban_file`` says so.

        Args:
            limit: the venue's; ``None`` for a sandbox that stands still, which limits nobody.
            speed: venue seconds per real second; windows and bans pass in venue time.
            ban_file: where a ban outlives the process; kept in real time.
        """
        self.limit = limit
        self.speed = speed
        self.spent = 0.0
        self.most_in_window = 0.0
        self.bans = 0
        self._window: deque[tuple[float, float]] = deque()
        self._in_window = 0.0
        self._closed_until = -math.inf
        self._closed_because = ""
        self._is_refusal = False
        self._ban_file = ban_file
        self._recall_ban()

    async def spend(self, cost: float, *, host: str = "", request: str = "") -> None:
        """Wait until a request of ccxt's ``cost`` fits, then count it; the request leaves at once.

        Args:
            cost: as ccxt rates the request.
            host: the venue's, for messages.
            request: what is asked for, for messages.

        Raises:
            RateLimited, RegionBlocked: the venue has closed its door; nothing is counted.
        """
        weight = cost if self.limit is None else cost * self.limit.weight_per_cost
        while True:
            fault = self.closed_fault(host=host, request=request)
            if fault is not None:
                raise fault
            wait = self._wait_seconds(weight)
            if wait <= 0:
                break
            await asyncio.sleep(max(wait, _SHORTEST_WAIT_SECONDS))
        if self.limit is not None:
            self._add(weight)
        self.spent += weight

    def note_stated(self, used: float) -> None:
        """Learn from the venue how much weight this address has used in the present window.

        What we did not spend ourselves was another program's.
        """
        if self.limit is not None and used > self._used():
            self._add(used - self._in_window)

    def close(self, seconds: float, *, because: str, is_refusal: bool = False) -> None:
        """Let nothing pass for ``seconds`` of real time.

        ``is_refusal`` says that waiting will not help: the venue does not serve this address.
        """
        until = monotonic_seconds() + seconds
        if until <= self._closed_until:
            return
        self.bans += 1
        self._closed_until, self._closed_because = until, because
        self._is_refusal = is_refusal
        log.warning("venue_closed_to_us", seconds=round(seconds, 1), cause=because)
        if self._ban_file is not None:
            kept = {
                "until": WallClock().now() + int(seconds * 1000),
                "because": because,
                "is_refusal": is_refusal,
            }
            half = self._ban_file.with_suffix(".partial")
            with contextlib.suppress(OSError):
                half.write_text(json.dumps(kept), encoding="utf-8")
                half.replace(self._ban_file)

    def closed_fault(self, *, host: str, request: str) -> VenueError | None:
        """Return the error of whoever asks while the door is closed; ``None`` while it is open."""
        seconds = self.closed_seconds()
        if seconds <= 0:
            return None
        cause = f"waiting out: {self._closed_because}"
        if self._is_refusal:
            return RegionBlocked(host=host, cause=cause, request=request)
        return RateLimited(host=host, cause=cause, retry_after_seconds=seconds, request=request)

    def closed_seconds(self) -> float:
        """Return for how many more real seconds nothing may be asked; 0 where all is well."""
        return max(0.0, self._closed_until - monotonic_seconds())

    @property
    def used_share(self) -> float:
        """Weight in the present window as a share of the venue's limit."""
        return 0.0 if self.limit is None else self._used() / self.limit.weight

    def _wait_seconds(self, weight: float) -> float:
        """Real seconds until ``weight`` fits under our share of the limit; 0 where it does."""
        if self.limit is None:
            return 0.0
        used, most = self._used(), self.limit.weight * _share.get()
        if used == 0 or used + weight <= most:
            return 0.0
        excess, freed = used + weight - most, 0.0
        for at, spent in self._window:
            freed += spent
            if freed >= excess:
                return (at + self.limit.window_seconds - self._now()) / self.speed
        return (self._window[-1][0] + self.limit.window_seconds - self._now()) / self.speed

    def _used(self) -> float:
        assert self.limit is not None
        oldest = self._now() - self.limit.window_seconds
        while self._window and self._window[0][0] <= oldest:
            self._in_window -= self._window.popleft()[1]
        if not self._window:
            self._in_window = 0.0
        return self._in_window

    def _add(self, weight: float) -> None:
        self._used()
        self._window.append((self._now(), weight))
        self._in_window += weight
        self.most_in_window = max(self.most_in_window, self._in_window)

    def _now(self) -> float:
        return monotonic_seconds() * self.speed

    def _recall_ban(self) -> None:
        if self._ban_file is None or not self._ban_file.exists():
            return
        try:
            kept = json.loads(self._ban_file.read_text(encoding="utf-8"))
            seconds, because = (kept["until"] - WallClock().now()) / 1000, str(kept["because"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("ban_file_unreadable", path=str(self._ban_file), cause=repr(error))
            return
        if seconds > 0:
            self._closed_until, self._closed_because = monotonic_seconds() + seconds, because
            self._is_refusal = bool(kept.get("is_refusal"))
            log.warning("still_banned", seconds=round(seconds, 1), cause=because)


_shared: dict[str, Budget] = {}


def shared_budget(venue: Venue, host: str) -> Budget:
    """Return the one budget of this process for ``host``; Bybit's two markets share theirs."""
    return _shared.setdefault(host, Budget(LIMITS[venue]))
