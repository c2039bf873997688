"""The sandbox's own record of what it served: the truth that tests compare a client with.

Memory is bounded: the oldest entries go first, and how many went is counted. It does no IO.
"""

from __future__ import annotations

import enum
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

MOST_BARS = 100_000
MOST_EVENTS = 10_000


class ServedKind(enum.StrEnum):
    """What an entry of the log tells."""

    FINAL = "final"  # the final frame of one bar went out
    ABSENT = "absent"  # an interval closed for which the tape has no bar of this symbol
    REQUEST = "request"  # a REST request was answered
    SUBSCRIBED = "subscribed"  # a client subscribed to topics
    COMMIT = "commit"  # the client committed a decision
    ENDED = "ended"  # the last interval of the tape closed


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One entry; times are the venue's, UTC milliseconds.

    Attributes:
        number: position in the log, from 0.
        symbol, open_time: the bar, for ``FINAL`` and ``ABSENT``.
        receivers: connections that the frame was queued for.
        detail: path and status, topics, or the committed decision time.
    """

    number: int
    kind: ServedKind
    sent_at: int
    symbol: str | None = None
    open_time: int | None = None
    receivers: int | None = None
    detail: str | None = None


class ServedLog:
    """Bars and other events in two bounded queues, so that requests never push out bars."""

    def __init__(self) -> None:
        """Start empty."""
        self._bars: deque[Served] = deque(maxlen=MOST_BARS)
        self._events: deque[Served] = deque(maxlen=MOST_EVENTS)
        self._count = 0

    @property
    def dropped(self) -> int:
        """Entries that had to make room."""
        return self._count - len(self._bars) - len(self._events)

    def bar(self, symbol: str, *, open_time: int, receivers: int | None, sent_at: int) -> None:
        """Record the close of one bar; ``receivers`` is ``None`` where the tape has no bar."""
        kind = ServedKind.ABSENT if receivers is None else ServedKind.FINAL
        self._bars.append(
            Served(
                number=self._next_number(),
                kind=kind,
                sent_at=sent_at,
                symbol=symbol,
                open_time=open_time,
                receivers=receivers,
            )
        )

    def event(self, kind: ServedKind, *, detail: str, sent_at: int) -> None:
        """Record anything but a bar."""
        number = self._next_number()
        self._events.append(Served(number=number, kind=kind, sent_at=sent_at, detail=detail))

    def lines(self, kind: str | None = None) -> Iterator[str]:
        """Yield the entries in order as JSON, fields without a value left out."""
        entries = sorted((*self._bars, *self._events), key=lambda entry: entry.number)
        for entry in entries:
            if kind is None or entry.kind == kind:
                facts = {name: getattr(entry, name) for name in Served.__slots__}
                yield json.dumps({name: fact for name, fact in facts.items() if fact is not None})

    def _next_number(self) -> int:
        self._count += 1
        return self._count - 1
