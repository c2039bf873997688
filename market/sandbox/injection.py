"""What faults have done so far, and what the injector answers whoever asks it. Values alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from market.sandbox.dialect import Reply
from market.sandbox.fault import Fault, FaultKind


@dataclass(slots=True, kw_only=True, eq=False)
class Injection:
    """One scripted fault and what it did so far.

    Attributes:
        touched: answers, frames and connections that it changed.
        first_touched_at, last_touched_at: venue time, UTC milliseconds; ``None`` before.
        touched_symbols: whose answers and frames those were.
    """

    fault: Fault
    touched: int = 0
    first_touched_at: int | None = None
    last_touched_at: int | None = None
    touched_symbols: set[str] = field(default_factory=set)
    began: bool = False
    over: bool = False

    def touch(self, now: int, symbol: str | None = None) -> Fault:
        """Count one thing that the fault changed, and return the fault."""
        self.touched += 1
        self.first_touched_at = now if self.first_touched_at is None else self.first_touched_at
        self.last_touched_at = now
        if symbol is not None:
            self.touched_symbols.add(symbol)
        return self.fault


@dataclass(slots=True, kw_only=True, eq=False)
class ConnectionState:
    """What faults have done to one connection.

    Attributes:
        opened_at: venue time, UTC milliseconds.
        frozen: the fault that made it half-open.
        dead_topics: subscriptions that were acknowledged and get nothing.
    """

    opened_at: int
    frozen: Injection | None = None
    dead_topics: dict[str, Injection] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """What a topic sends when an interval closes; ``has_final``: the bar's own final frame."""

    frames: tuple[str, ...]
    has_final: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a client gets instead of a reply: ``None`` for nothing, ever; and whose doing it is."""

    reply: Reply | None
    fault: FaultKind | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Faults that began and that ended since the last look."""

    began: tuple[Injection, ...]
    ended: tuple[Injection, ...]
