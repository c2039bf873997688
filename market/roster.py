"""The roster: which recent bars of which symbols are stored.

It lives in memory, on one event loop, and forgets old bars; the warehouse is the authority.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

REMEMBERED_BARS = 512


class Roster:
    """Stored bars by symbol; it wakes whoever waits for one."""

    def __init__(self, symbols: Sequence[str], interval_ms: int) -> None:
        """Know of no bar."""
        self._symbols = tuple(symbols)
        self._interval_ms = interval_ms
        self._stored: dict[str, set[int]] = {symbol: set() for symbol in symbols}
        self._latest: dict[str, int] = {}
        self._changed = asyncio.Event()

    def add(self, symbol: str, open_times: Iterable[int]) -> bool:
        """Note stored bars of a symbol that is followed; return whether one is its newest."""
        known, latest = self._stored[symbol], self._latest.get(symbol, -1)
        for time in open_times:
            known.add(time)
            self._latest[symbol] = max(self._latest.get(symbol, -1), time)
        self._changed.set()
        self._changed = asyncio.Event()
        return self._latest.get(symbol, -1) > latest

    def forget_before(self, open_time: int) -> None:
        """Drop bars that nobody will ask for again."""
        for symbol, known in self._stored.items():
            self._stored[symbol] = {time for time in known if time >= open_time}

    def missing(self, open_time: int) -> tuple[str, ...]:
        """Return the symbols without a stored bar at ``open_time``, in order."""
        return tuple(one for one in self._symbols if open_time not in self._stored[one])

    def has(self, symbol: str, open_time: int) -> bool:
        """Whether the bar of ``symbol`` at ``open_time`` is stored."""
        return open_time in self._stored[symbol]

    def has_any(self, open_time: int) -> bool:
        """Whether any symbol's bar at ``open_time`` is stored."""
        return any(open_time in known for known in self._stored.values())

    def latest(self, symbol: str) -> int | None:
        """Return the newest stored open time of ``symbol``, if any is known."""
        return self._latest.get(symbol)

    def first(self, symbol: str) -> int | None:
        """Return the oldest open time of ``symbol`` that is remembered, if any is."""
        return min(self._stored[symbol], default=None)

    def gaps(self, symbol: str, *, since: int, until: int) -> list[int]:
        """Return the open times in ``[since, until)`` without a stored bar."""
        known = self._stored[symbol]
        return [time for time in range(since, until, self._interval_ms) if time not in known]

    def changed(self) -> asyncio.Event:
        """Return the event that the next added bar sets."""
        return self._changed
