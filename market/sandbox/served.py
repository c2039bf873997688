"""The sandbox's own record of what it served: the truth that tests compare a client with.

Memory is bounded: the oldest entries go first, and how many went is counted. With a ``sink`` every
entry is also written there as a line of JSON, so that nothing of a long run is lost. Apart from
the sink it does no IO.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

MOST_BARS = 100_000
MOST_EVENTS = 10_000


class ServedKind(enum.StrEnum):
    """What an entry of the log tells."""

    FINAL = "final"  # a bar closed, and its final frame went out unless a fault withheld it
    ABSENT = "absent"  # an interval closed for which the venue has no bar of this symbol
    REQUEST = "request"  # a REST request was answered, or never will be
    CONNECTED = "connected"  # a client opened a websocket
    DISCONNECTED = "disconnected"  # a websocket is gone
    SUBSCRIBED = "subscribed"  # a client subscribed to topics
    COMMIT = "commit"  # the client committed a decision
    FAULT = "fault"  # a scripted fault is over, or the sandbox stopped while it was on
    ENDED = "ended"  # the last interval of the tape closed


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One entry; times are the venue's, UTC milliseconds, unless their name says seconds.

    Attributes:
        number: position in the log, from 0.
        real_seconds: real time since the sandbox started.
        symbol: unified symbol of a bar, or that a request names.
        open_time: the bar, for ``FINAL`` and ``ABSENT``.
        receivers: connections that the final frame was queued for.
        detail: status and path, topics, the reason of an end, or the committed decision time.
        status: of the answer; 0 for a request that is never answered.
        weight: what the request cost of the venue's limit.
        banned_until: the deadline that a 429 or 418 stated.
        connection: number of the websocket.
        fault, at, until, touched, first_touched_at, last_touched_at, symbols: a scripted fault,
            how many answers, frames and connections it changed, when, and of which symbols; of a
            request, ``fault`` alone: the kind that changed its answer.
    """

    number: int
    kind: ServedKind
    sent_at: int
    real_seconds: float
    symbol: str | None = None
    open_time: int | None = None
    receivers: int | None = None
    detail: str | None = None
    status: int | None = None
    weight: int | None = None
    banned_until: int | None = None
    connection: int | None = None
    fault: str | None = None
    at: int | None = None
    until: int | None = None
    touched: int | None = None
    first_touched_at: int | None = None
    last_touched_at: int | None = None
    symbols: tuple[str, ...] | None = None

    def line(self) -> str:
        """Return the entry as JSON, fields without a value left out."""
        facts = {name: getattr(self, name) for name in _FIELDS}
        return json.dumps({name: fact for name, fact in facts.items() if fact is not None})


_FIELDS = tuple(one.name for one in dataclasses.fields(Served))
_BARS = (ServedKind.FINAL, ServedKind.ABSENT)


class ServedLog:
    """Bars and other events in two bounded queues, so that requests never push out bars."""

    def __init__(
        self,
        *,
        sink: TextIO | None = None,
        most_bars: int = MOST_BARS,
        most_events: int = MOST_EVENTS,
    ) -> None:
        """Start empty; ``sink`` gets every entry, the queues keep the newest."""
        self._sink = sink
        self._bars: deque[Served] = deque(maxlen=most_bars)
        self._events: deque[Served] = deque(maxlen=most_events)
        self._count = 0

    @property
    def dropped(self) -> int:
        """Entries that had to make room in memory; a sink has them all the same."""
        return self._count - len(self._bars) - len(self._events)

    def add(self, entry: Served) -> None:
        """Record one entry, numbered by its place here."""
        entry = dataclasses.replace(entry, number=self._count)
        self._count += 1
        (self._bars if entry.kind in _BARS else self._events).append(entry)
        if self._sink is not None:
            self._sink.write(entry.line() + "\n")

    def flush(self) -> None:
        """Let the sink have what it buffers."""
        if self._sink is not None:
            self._sink.flush()

    def lines(self, kind: str | None = None, *, since: int = 0) -> Iterator[str]:
        """Yield the entries numbered ``since`` and later in order as JSON."""
        wanted = [
            entry
            for entry in (*self._bars, *self._events)
            if entry.number >= since and (kind is None or entry.kind == kind)
        ]
        for entry in sorted(wanted, key=lambda entry: entry.number):
            yield entry.line()
