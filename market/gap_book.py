"""The gap book: which bars are missing now, why, and when the venue is asked for them again.

It lives in memory on one event loop; every change is also kept as a version for the warehouse,
which ``take_unsaved`` hands out. A bar is verified absent only after two answers, a minute apart or
more, that served later bars and not this one. It must never forget a missing bar, and never call a
failed request an absence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from market.bar import DAY_MS, HOUR_MS, MINUTE_MS
from market.gap import Gap, GapKind

EVIDENCE = 2  # answers without the bar before it counts as absent
LONGEST_WAIT_MS = HOUR_MS
ABSENT_LOOKS_MS = (HOUR_MS, 6 * HOUR_MS, DAY_MS)  # venues repair their own history


class GapBook:
    """Open gaps by symbol and open time."""

    def __init__(self) -> None:
        """Know of no gap."""
        self._open: dict[tuple[str, int], Gap] = {}
        self._due: dict[tuple[str, int], int] = {}  # what is never asked for again is not in it
        self._looks: Counter[tuple[str, int]] = Counter()
        self._evidence: Counter[tuple[str, int]] = Counter()
        self._unsaved: dict[tuple[str, int], Gap] = {}

    def load(self, gaps: Iterable[Gap]) -> None:
        """Take up the gaps that an earlier run recorded."""
        for gap in gaps:
            key = (gap.symbol, gap.open_time)
            self._open[key] = gap
            self._evidence[key] = EVIDENCE if gap.kind is GapKind.ABSENT else 0
            self._schedule(key, gap.kind, gap.updated_at, gap.attempts)

    def missing(self, symbol: str, open_times: Iterable[int], *, now: int, reason: str) -> None:
        """Note bars that did not come; those already known keep what is known of them."""
        for time in open_times:
            if (symbol, time) not in self._open:
                self._write((symbol, time), GapKind.FETCHABLE, now=now, reason=reason, attempts=0)

    def deferred(self, symbol: str, open_times: Iterable[int], *, now: int, reason: str) -> None:
        """Note that the venue could not be asked; a verified absence stays one.

        A failure before the bar was due again is part of the same attempt.
        """
        for time in open_times:
            key = (symbol, time)
            if self._is_early(key, now):
                continue
            known = self._open.get(key)
            kind = GapKind.DEFERRED
            if known is not None and known.kind is GapKind.ABSENT:
                kind = GapKind.ABSENT
                self._looks[key] -= 1  # a look that failed is no look
            self._write(key, kind, now=now, reason=reason, attempts=self._attempts(key) + 1)

    def postpone(self, symbol: str, open_times: Iterable[int], *, now: int, reason: str) -> None:
        """Note an answer that said nothing about bars that are known to be missing: ask later."""
        known = [time for time in open_times if (symbol, time) in self._open]
        self.deferred(symbol, known, now=now, reason=reason)

    def not_served(self, symbol: str, open_times: Iterable[int], *, now: int, reason: str) -> None:
        """Note an answer that held later bars and not these; the second one verifies it.

        An answer before the bar was due again repeats the last one: it is no second evidence.
        """
        for time in open_times:
            key = (symbol, time)
            if self._evidence[key] and self._is_early(key, now):
                continue
            self._evidence[key] += 1
            is_verified = self._evidence[key] >= EVIDENCE
            kind = GapKind.ABSENT if is_verified else GapKind.FETCHABLE
            self._write(key, kind, now=now, reason=reason, attempts=self._attempts(key) + 1)

    def close(self, symbol: str, open_times: Iterable[int], *, now: int) -> int:
        """Note that bars came after all; return how many of them were gaps."""
        closed = 0
        for time in open_times:
            key = (symbol, time)
            gap = self._open.pop(key, None)
            if gap is None:
                continue
            closed += 1
            self._unsaved[key] = replace(gap, updated_at=_after(gap, now), closed_at=now)
            self._due.pop(key, None)
            self._looks.pop(key, None)
            self._evidence.pop(key, None)
        return closed

    def due(self, now: int) -> dict[str, list[int]]:
        """Return the open times to ask for at ``now``, by symbol, ascending."""
        asked: dict[str, list[int]] = {}
        for (symbol, time), at in self._due.items():
            if at <= now:
                asked.setdefault(symbol, []).append(time)
        return {symbol: sorted(times) for symbol, times in asked.items()}

    def absent(self, symbol: str) -> list[int]:
        """Return the open times of ``symbol`` that are verified absent, ascending."""
        return sorted(
            time
            for (name, time), gap in self._open.items()
            if name == symbol and gap.kind is GapKind.ABSENT
        )

    def counts(self) -> dict[str, int]:
        """Return how many gaps of each kind are open."""
        found = Counter(gap.kind.value for gap in self._open.values())
        return {kind.value: found[kind.value] for kind in GapKind}

    def take_unsaved(self) -> list[Gap]:
        """Return the versions that no warehouse has yet; whoever fails to write gives them back."""
        unsaved = list(self._unsaved.values())
        self._unsaved.clear()
        return unsaved

    def give_back(self, gaps: Iterable[Gap]) -> None:
        """Keep versions that could not be written, unless a newer one is there."""
        for gap in gaps:
            self._unsaved.setdefault((gap.symbol, gap.open_time), gap)

    def _is_early(self, key: tuple[str, int], now: int) -> bool:
        """Whether a gap is known and not yet due to be asked for."""
        return key in self._open and self._due.get(key, now + 1) > now

    def _attempts(self, key: tuple[str, int]) -> int:
        known = self._open.get(key)
        return 0 if known is None else known.attempts

    def _write(
        self, key: tuple[str, int], kind: GapKind, *, now: int, reason: str, attempts: int
    ) -> None:
        known = self._open.get(key)
        gap = Gap(
            symbol=key[0],
            open_time=key[1],
            kind=kind,
            noticed_at=now if known is None else known.noticed_at,
            updated_at=now if known is None else _after(known, now),
            attempts=attempts,
            reason=reason,
        )
        self._open[key] = self._unsaved[key] = gap
        self._schedule(key, kind, now, attempts)

    def _schedule(self, key: tuple[str, int], kind: GapKind, now: int, attempts: int) -> None:
        """Set when the venue is asked for a bar again, if ever."""
        self._due.pop(key, None)
        if kind is not GapKind.ABSENT:
            # A gap that was just noticed is asked for at once, then with growing waits.
            wait = min(MINUTE_MS * 2 ** min(attempts - 1, 10), LONGEST_WAIT_MS) if attempts else 0
            self._due[key] = now + wait
            return
        looks = self._looks[key]
        if looks < len(ABSENT_LOOKS_MS):
            self._looks[key] += 1
            self._due[key] = now + ABSENT_LOOKS_MS[looks]


def _after(gap: Gap, now: int) -> int:
    """Return ``now``, or just after ``gap``'s: the newest version wins, and clocks step back."""
    return max(now, gap.updated_at + 1)
