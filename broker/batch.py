"""Decisions collected into one transaction, for replay; it keeps them in memory and no longer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from broker.ledger import Entry
from broker.orders import Fill, Order, Rejection
from broker.records import AuditRecord, Commit, DecisionRecord


class Batch:
    """Decisions collected for one transaction; see ``Store.batch``."""

    def __init__(self, commit: Callable[[Sequence[Commit]], int], *, every: int) -> None:
        """Flush through ``commit`` whenever ``every`` decisions are waiting."""
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self._commit = commit
        self._every = every
        self._waiting: list[Commit] = []
        self._lock = threading.Lock()

    def commit_decision(
        self,
        record: DecisionRecord,
        entries: Sequence[Entry] = (),
        orders: Sequence[Order] = (),
        fills: Sequence[Fill] = (),
        rejections: Sequence[Rejection] = (),
        audits: Sequence[AuditRecord] = (),
    ) -> bool:
        """Collect one decision; one that is stored already is skipped when flushed."""
        commit = Commit(
            record=record,
            entries=tuple(entries),
            orders=tuple(orders),
            fills=tuple(fills),
            rejections=tuple(rejections),
            audits=tuple(audits),
        )
        with self._lock:
            self._waiting.append(commit)
            full = len(self._waiting) >= self._every
        if full:
            self.flush()
        return True

    def flush(self) -> int:
        """Commit what waits, in one transaction; return how many decisions were new."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        return self._commit(waiting)
