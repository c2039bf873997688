"""Where signals are stored and read, so that a decision recomputed later sees the same ones.

Two threads use it: a producer's rows are stored while decisions read. A row stored after a
decision has read must never carry a stamp that the decision would have accepted; so both happen
under one lock, and a stamp is later than everything that was read before it. Another process (an
import, a producer run by hand) next to a daemon on the same server has no such lock: it stamps
``OTHERS_MARGIN_MS`` ahead, so that the rows are there before any decision that may accept them; and
ahead of the newest bar, since the venue's time may be ahead of the wall (``StoreClock``).
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Protocol

import numpy as np

from market.clock import Clock
from market.panel import Int64Array
from market.signal_join import SignalPanel, join_signals
from market.signals import RejectedSignal, Signal, SignalColumn, Stream, longest_age_ms, sources_of

# One read and one insert, each ended after CALL_LIMIT_SECONDS (``market.connection``); the clocks
# of two machines may differ by what is left.
OTHERS_MARGIN_MS = 300_000


class SignalStore(Protocol):
    """The part of ``market.warehouse.Warehouse`` that is used here."""

    def insert_signals(self, signals: Sequence[Signal], *, ingested_at: int) -> int:
        """Store rows and return how many were new."""
        ...

    def signals(
        self, *, sources: Sequence[str] | None = None, since: int, until: int
    ) -> tuple[Signal, ...]:
        """Return rows with ``since <= published_at < until``."""
        ...

    def signals_stored_since(self, sources: Sequence[str]) -> dict[Stream, int]:
        """Return when the first row of each of the sources' streams was stored."""
        ...

    def newest_signal_event(self, source: str, version: str, *, until: int) -> int | None:
        """Return the newest event time of rows with ``published_at < until``, if there are any."""
        ...

    def insert_refused_signals(
        self, refused: Sequence[RejectedSignal], *, ingested_at: int
    ) -> None:
        """Keep rows that cannot be signals in quarantine."""
        ...


class StoreClock:
    """What time it is in a store, for a process that is not its daemon.

    The wall's time, or the close of its newest bar where that is later: in the store of a sandbox
    decisions were taken at closes that the wall has not reached yet.
    """

    def __init__(self, *, wall: Clock, newest_close: int) -> None:
        """Take the wall's clock and ``market.warehouse.Warehouse.newest_close``."""
        self._wall = wall
        self._newest_close = newest_close

    def now(self) -> int:
        """Return the later of the two, UTC milliseconds."""
        return max(self._wall.now(), self._newest_close)

    async def sleep_until(self, time_ms: int) -> None:
        """Wait for the wall, unless the store is there already."""
        if time_ms > self._newest_close:
            await self._wall.sleep_until(time_ms)


class SignalDesk:
    """Stores and joins the signals of one daemon; every method blocks."""

    def __init__(self, *, store: SignalStore, clock: Clock, ahead_ms: int = 0) -> None:
        """Take the warehouse and the clock that stamps, ``ahead_ms`` ahead of it."""
        self._store = store
        self._clock = clock
        self._ahead_ms = ahead_ms
        self._lock = Lock()
        self._newest_read = 0
        self._began: dict[Stream, int] = {}
        self._newest: dict[tuple[str, str], int] = {}

    def insert(self, signals: Sequence[Signal]) -> int:
        """Store rows as ingested now and return how many were new.

        Raises:
            WarehouseError: they could not be stored; storing them again is safe.
        """
        if not signals:
            return 0
        with self._lock:
            # One later than any decision that has read: a clock may lag or stand still.
            stamp = max(self._clock.now() + self._ahead_ms, self._newest_read) + 1
            added = self._store.insert_signals(signals, ingested_at=stamp)
        for row in signals:
            self._note_newest(row)
        return added

    def keep_refused(self, refused: Sequence[RejectedSignal]) -> None:
        """Put rows that cannot be signals into quarantine.

        Raises:
            WarehouseError: they could not be stored; storing them again is safe.
        """
        if refused:
            self._store.insert_refused_signals(refused, ingested_at=self._clock.now())

    def join(
        self, columns: Sequence[SignalColumn], symbols: Sequence[str], decision_times: Int64Array
    ) -> SignalPanel:
        """Return what decisions at ``decision_times`` (T,), all of them past or present, may see.

        Raises:
            WarehouseError: the rows could not be read.
        """
        first, last = int(np.min(decision_times)), int(np.max(decision_times))
        with self._lock:
            self._newest_read = max(self._newest_read, last)
            self._learn_beginnings(columns)
            rows = self._store.signals(
                sources=sources_of(columns),
                since=max(0, first - longest_age_ms(columns)),
                until=last + 1,
            )
            began = dict(self._began)
        return join_signals(rows, columns, symbols, decision_times, stored_since=began)

    def newest_event_time(self, source: str, version: str) -> int | None:
        """Return the newest event time that is stored of a producer's rows, if there is one."""
        if (source, version) not in self._newest:
            until = self._clock.now() + 1
            newest = self._store.newest_signal_event(source, version, until=until)
            if newest is not None:
                self._newest[source, version] = newest
        return self._newest.get((source, version))

    def _note_newest(self, row: Signal) -> None:
        known = self._newest.get((row.source, row.version), row.event_time)
        self._newest[row.source, row.version] = max(known, row.event_time)

    def _learn_beginnings(self, columns: Sequence[SignalColumn]) -> None:
        """Remember when each stream was first stored: an insert never lets it fall."""
        new = [column for column in columns if column.stream not in self._began]
        if new:
            self._began |= self._store.signals_stored_since(sources_of(new))
