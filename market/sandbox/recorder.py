"""Writes down what a running sandbox does: the entries of its log, stamped with both times.

Owns the log's file, where there is one. It decides nothing: what it is told happened, happened.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from market.bar import MINUTE_MS
from market.clock import monotonic_seconds
from market.sandbox.dialect import Reply
from market.sandbox.injection import Answer, Injection
from market.sandbox.served import Served, ServedKind, ServedLog


class Recorder:
    """The log of one sandbox from its start to its stop.

    Attributes:
        served: the entries.
    """

    def __init__(
        self, *, now: Callable[[], int], path: Path | None, most_bars: int, most_events: int
    ) -> None:
        """Begin a log.

        Args:
            now: the venue's time, UTC milliseconds.
            path: a file that every entry is appended to, ``None`` for memory alone.
            most_bars: bars kept in memory.
            most_events: other entries kept in memory.
        """
        self._now = now
        self._sink: TextIO | None = None if path is None else path.open("a", encoding="utf-8")
        self._began_seconds = monotonic_seconds()
        self._meter = _WeightReader()
        self.served = ServedLog(sink=self._sink, most_bars=most_bars, most_events=most_events)

    def record(self, kind: ServedKind, **facts: Any) -> None:
        """Add an entry that happens now."""
        self.served.add(self._entry(kind, **facts))

    def request(
        self, path_qs: str, answer: Answer, *, symbol: str | None, stated: Mapping[str, str]
    ) -> None:
        """Add a REST request and what became of it.

        Args:
            path_qs: its path and query.
            answer: what the client gets.
            symbol: unified symbol that it names, if any.
            stated: headers of the venue's own answer, which state the weight used.
        """
        now, reply = self._now(), answer.reply
        status = 0 if reply is None else reply.status
        self.record(
            ServedKind.REQUEST,
            detail=f"{status} {path_qs}",
            symbol=symbol,
            status=status,
            weight=self._meter.read(stated, now=now),
            fault=answer.fault,
            banned_until=None if reply is None else _deadline(reply, now),
        )

    def fault(self, injection: Injection) -> None:
        """Add what a fault has done."""
        self.served.add(self.fault_entry(injection))

    def fault_entry(self, injection: Injection) -> Served:
        """Return what a fault has done so far, without adding it."""
        fault = injection.fault
        return self._entry(
            ServedKind.FAULT,
            fault=fault.kind.value,
            at=fault.at,
            until=fault.until,
            touched=injection.touched,
            first_touched_at=injection.first_touched_at,
            last_touched_at=injection.last_touched_at,
            symbols=tuple(sorted(injection.touched_symbols)) or fault.symbols,
            detail="over" if injection.over else "on" if injection.began else "planned",
        )

    def close(self) -> None:
        """Finish the file; harmless without one."""
        if self._sink is not None:
            self._sink.close()

    def _entry(self, kind: ServedKind, **facts: Any) -> Served:
        seconds = round(monotonic_seconds() - self._began_seconds, 4)
        return Served(number=0, kind=kind, sent_at=self._now(), real_seconds=seconds, **facts)


class _WeightReader:
    """Tells what single requests weigh from the sum of the minute that the venue states."""

    def __init__(self) -> None:
        self._minute = -1
        self._used = 0

    def read(self, headers: Mapping[str, str], *, now: int) -> int:
        """Return the weight of the latest request; 1 where the venue states none."""
        sums = [int(text) for name, text in headers.items() if "USED-WEIGHT" in name.upper()]
        if not sums:
            return 1
        minute = now // MINUTE_MS
        weight = sums[0] - self._used if minute == self._minute else sums[0]
        self._minute, self._used = minute, sums[0]
        return weight


def _deadline(reply: Reply, now: int) -> int | None:
    """Until when a refusal tells the client to wait, UTC milliseconds of the venue."""
    if reply.status not in (418, 429):
        return None
    stated = re.search(r"banned until (\d+)", reply.body)
    if stated is not None:
        return int(stated[1])
    patience = reply.headers.get("Retry-After")
    return None if patience is None else now + 1000 * int(patience)
