"""Producers over a store in memory, with children made of a few lines."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from daemon.journal import Journal
from daemon.producers import Producers, ProducerState, TakeHistory
from daemon.settings import Settings
from daemon.signal_desk import SignalDesk
from market.clock import Clock
from market.facts import new_signals
from market.producers.child import Description
from market.signal_join import first_stored
from market.signals import RejectedSignal, Signal, Stream, stamped
from tests.market.signal_factory import at, live


class MemoryStore:
    """The warehouse's promise about signals, kept in a list."""

    def __init__(self) -> None:
        self.rows: list[Signal] = []
        self.asked: list[tuple[int, int]] = []
        self.refused: set[RejectedSignal] = set()

    def insert_signals(self, signals: Sequence[Signal], *, ingested_at: int) -> int:
        """Add what is new."""
        incoming = [stamped(row, ingested_at) for row in signals]
        new = new_signals(self.rows, incoming, began=first_stored(self.rows))
        self.rows += new
        return len(new)

    def signals(
        self, *, sources: Sequence[str] | None = None, since: int, until: int
    ) -> tuple[Signal, ...]:
        """Return what was published then."""
        self.asked.append((since, until))
        return tuple(
            row
            for row in self.rows
            if since <= row.published_at < until and (sources is None or row.source in sources)
        )

    def signals_stored_since(self, sources: Sequence[str]) -> dict[Stream, int]:
        """Return when each stream began."""
        return first_stored(row for row in self.rows if row.source in sources)

    def newest_signal_event(self, source: str, version: str, *, until: int) -> int | None:
        """Return the newest event that was published by then."""
        events = [
            row.event_time
            for row in self.rows
            if (row.source, row.version) == (source, version) and row.published_at < until
        ]
        return max(events, default=None)

    def insert_refused_signals(
        self, refused: Sequence[RejectedSignal], *, ingested_at: int
    ) -> None:
        """Keep each once."""
        self.refused |= set(refused)


class StandingClock:
    """A clock that moves when it is told to."""

    def __init__(self, hour: float) -> None:
        self.time = at(hour)

    def now(self) -> int:
        """Return the hour it stands at."""
        return self.time

    async def sleep_until(self, time_ms: int) -> None:
        """Jump there, letting others run."""
        await asyncio.sleep(0)
        self.time = max(self.time, time_ms)


class Silence:
    """An audit trail that must not be written by producers."""

    def audit(self, event: str, *, at: int, **facts: object) -> object:
        """Fail."""
        raise AssertionError(f"{event} was written to the ledger")


def row(event: float, value: float = 1.0) -> Signal:
    """A row as a producer gives it: not stored yet."""
    return stamped(live(event, value, ingested=event), 0)


DESCRIBES = """
import json, sys, os, time
request = json.loads(sys.stdin.readline())
described = {"name": "mood", "version": "1", "cadence": "0 * * * *", "lag_ms": 0,
             "needs_history": False}
def answer(rows, refused=()):
    print(json.dumps({"description": described, "rows": rows, "refused": list(refused)}))
def row(**changes):
    facts = dict(source="mood", version="1", symbol="", event_time=request["now"],
                 published_at=request["now"], ingested_at=0, name="value", value=1.5,
                 is_backfilled=False, lag_ms=0)
    return facts | changes
"""
GOOD = "answer([row()] if request['now'] else [])"
DESCRIPTION = Description(
    name="mood", version="1", cadence="0 * * * *", lag_ms=0, needs_history=False
)


class Scene:
    """Producers over a memory store, with a child made of a few lines."""

    def __init__(
        self,
        tmp_path: Path,
        script: str,
        *,
        time_limit: float = 20.0,
        store: MemoryStore | None = None,
        clock: Clock | None = None,
        take_history: TakeHistory | None = None,
    ) -> None:
        child = tmp_path / "child.py"
        child.write_text(DESCRIBES + script)
        self.store, self.clock = store or MemoryStore(), clock or StandingClock(10)
        self.settings = Settings.model_validate(
            {
                "state_dir": str(tmp_path),
                "signals": {"producers": ["mood"], "time_limit_seconds": time_limit},
            }
        )
        self.desk = SignalDesk(store=self.store, clock=self.clock)
        self.producers = Producers(
            settings=self.settings,
            clock=self.clock,
            journal=Journal(Silence(), now=self.clock.now),
            desk=self.desk,
            take_history=take_history or self._history,
            command=(sys.executable, str(child)),
        )

    async def _history(self, root: Path) -> Path:
        raise AssertionError("this producer needs no bars")

    @property
    def state(self) -> ProducerState:
        """How the one producer fares."""
        return self.producers.states["mood"]

    async def run(self) -> ProducerState:
        """One run, now."""
        await self.producers.run_once("mood", DESCRIPTION)
        return self.state
