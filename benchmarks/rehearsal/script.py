"""What one trial of ingest is: a venue, a seed, a length, a speed, and the faults that follow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from market.bar import MINUTE_MS
from market.instrument import Venue
from market.sandbox.faults import Fault, FaultKind, random_faults
from market.sandbox.rules import listed_symbols

START = 1_735_689_600_000  # 2025-01-01
HISTORY_BARS = 240
TAIL_SECONDS = 180.0  # real seconds in which the feed becomes whole while the venue goes on


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What to run.

    Attributes:
        script: ``random`` faults of the seed, ``none``, ``bad_symbol`` or ``silence``.
        deadline_seconds: real seconds that a close waits for its bars.
    """

    venue: Venue
    seed: int
    minutes: int
    speed: float
    symbols: int = 10
    script: str = "random"
    deadline_seconds: float = 0.7
    book_depth: int = 20

    @property
    def names(self) -> tuple[str, ...]:
        """The symbols that are followed."""
        return listed_symbols(self.venue)[: self.symbols]

    @property
    def until(self) -> int:
        """The end of what is compared, UTC milliseconds of the venue."""
        return START + self.minutes * MINUTE_MS

    @property
    def tail_bars(self) -> int:
        """Bars of the tape after ``until``: a venue at the end of its tape stands still."""
        return math.ceil(TAIL_SECONDS * self.speed / 60)

    def faults(self) -> tuple[Fault, ...]:
        """The script."""
        match self.script:
            case "random":
                return random_faults(
                    seed=self.seed,
                    since=START,
                    until=self.until,
                    symbols=self.names,
                    venue=self.venue,
                )
            case "bad_symbol":
                return _bad_symbol(self.names[-1], self.until)
            case "silence":
                at = START + 2 * MINUTE_MS + 30_000
                return (Fault(kind=FaultKind.SILENCE, at=at, duration_ms=10 * MINUTE_MS),)
            case _:
                return ()


def _bad_symbol(symbol: str, until: int) -> tuple[Fault, ...]:
    """One trouble after the other, of one symbol only."""
    kinds: list[dict[str, Any]] = [
        {"kind": FaultKind.NAN_FIELDS, "text": "NaN"},
        {"kind": FaultKind.FORMING_STAYS},
        {"kind": FaultKind.SHIFTED_TIMES, "shift_ms": 30_000},
        {"kind": FaultKind.MISSING_BARS},
        {"kind": FaultKind.SILENCE},
        {"kind": FaultKind.LATE_FINAL, "delay_ms": 20_000},
    ]
    span = (until - START) // len(kinds)
    return tuple(
        Fault(at=START + place * span, duration_ms=span, symbols=(symbol,), **facts)
        for place, facts in enumerate(kinds)
    )


def flags(trial: Trial) -> list[str]:
    """Return the command line that means ``trial``."""
    return [
        *("--venue", trial.venue.value),
        *("--seed", str(trial.seed)),
        *("--minutes", str(trial.minutes)),
        *("--speed", repr(trial.speed)),
        *("--symbols", str(trial.symbols)),
        *("--script", trial.script),
        *("--deadline", repr(trial.deadline_seconds)),
        *("--book-depth", str(trial.book_depth)),
    ]
