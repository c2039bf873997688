"""Repair: what the socket did not bring, or brought in two versions, is asked for by REST.

REST is the truth. Every answer settles something: the bar is stored, or its absence is evidence, or
the request failed and is repeated later. It must never hold up a close, and never let one symbol's
trouble reach another's bars.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence

import structlog

from market.bar import HOUR_MS, MINUTE_MS, Bar
from market.budget import in_background
from market.clock import Clock, monotonic_seconds
from market.exchange import Exchange
from market.gap_book import GapBook
from market.intake import Intake
from market.retry import NotOffered, VenueError, VenueUnavailable
from market.rows import missing_times
from market.tables import Origin
from market.warehouse import Warehouse, WarehouseError

log = structlog.get_logger()

SAVE_AGAIN_SECONDS = 10.0  # real seconds before a failed write of the gap book is repeated
UNSAID_MS = 2 * HOUR_MS  # a lone last bar is final after an hour (``Exchange``)
BEYOND_BARS = 2  # asked for as well: a later bar is the evidence that one is absent
MEND_SECONDS = 0.25  # real seconds between two looks at what is due
_SPAN_BARS = 400  # bars that one repair asks for at most


class Repairer:
    """Fetches missing and doubtful bars, and writes the gap book to the warehouse."""

    def __init__(
        self,
        *,
        exchange: Exchange,
        warehouse: Warehouse,
        intake: Intake,
        clock: Clock,
        symbols: Sequence[str],
        interval_ms: int,
        counters: MutableMapping[str, int],
        gone: Callable[[], frozenset[str]],
    ) -> None:
        """Repair nothing yet; ``counters`` is shared with the feed, ``gone`` tells what left."""
        self.gaps = GapBook()
        self.refused: set[str] = set()  # symbols that the venue no longer answers for
        self._exchange = exchange
        self._warehouse = warehouse
        self._intake = intake
        self._clock = clock
        self._symbols = tuple(symbols)
        self._interval_ms = interval_ms
        self._counters = counters
        self._gone = gone
        self._mending: set[str] = set()
        self._save_from = 0.0
        self._doubts_due: dict[str, int] = {}  # when doubts that REST left open are asked again

    async def load(self, since: int, until: int) -> None:
        """Take up the gaps of ``[since, until)`` that an earlier run recorded."""
        try:
            found = await asyncio.to_thread(
                self._warehouse.gaps,
                venue=self._exchange.venue.value,
                interval_ms=self._interval_ms,
                since=since,
                until=until,
                symbols=list(self._symbols),
            )
        except WarehouseError as error:
            self._counters["reads_failed"] += 1
            log.error("recorded_gaps_unknown", cause=str(error))
            return
        self.gaps.load(found)

    async def fetch(self, symbol: str, open_times: Sequence[int]) -> frozenset[int]:
        """Ask for missing bars of ``symbol`` and settle what the answer means.

        Args:
            symbol: unified symbol.
            open_times: ascending.

        Returns:
            The open times that are hopeless for now: the venue refuses the symbol, or has later
            bars and not these.
        """
        since, last = open_times[0], open_times[-1] + (1 + BEYOND_BARS) * self._interval_ms
        try:
            bars = await self._exchange.fetch_bars(
                symbol, interval_ms=self._interval_ms, since=since, until=last
            )
        except VenueError as error:
            return self._note_failure(symbol, open_times, error)
        self.refused.discard(symbol)
        stored = await self._intake.store(bars, Origin.REST) if bars else None
        if bars and stored is None:
            reason = "fetched, but the store failed"
            self.gaps.deferred(symbol, open_times, now=self._clock.now(), reason=reason)
            return frozenset()
        sound = {bar.open_time for bar in stored.sound} if stored is not None else set()
        self.gaps.close(symbol, sound, now=self._clock.now())
        self._count_repaired(symbol, len(sound.intersection(open_times)))
        return self._settle(symbol, open_times, {bar.open_time for bar in bars}, sound)

    def _settle(
        self, symbol: str, open_times: Sequence[int], found: set[int], sound: set[int]
    ) -> frozenset[int]:
        """Write down what an answer means for the bars that it did not bring; return the lost."""
        now, newest = self._clock.now(), max(found, default=0)
        # A bar that is served but breaks a rule is not absent: it may be served whole later.
        refused = [time for time in open_times if time in found and time not in sound]
        unserved = [time for time in open_times if time not in found]
        lost = [time for time in unserved if self._is_past(symbol, time, newest)]
        unsaid = [time for time in unserved if time not in lost]
        self.gaps.deferred(symbol, refused, now=now, reason="served, but quarantined")
        reason = "the venue serves later bars, not this one"
        self.gaps.not_served(symbol, lost, now=now, reason=reason)
        reason = "no later bar shows that it is final"
        self.gaps.postpone(symbol, unsaid, now=now, reason=reason)
        self._counters["bars_absent"] += len(lost)
        return frozenset(lost)

    async def fetch_missing(self, symbol: str, *, since: int, until: int) -> frozenset[int]:
        """Fetch the bars missing in ``[since, until)``; return those that are hopeless for now."""
        times = self._intake.roster.gaps(symbol, since=since, until=until)
        return await self.fetch(symbol, times) if times else frozenset()

    def note_stored(self, symbol: str, open_times: set[int]) -> None:
        """Close the gaps of bars that came."""
        self._count_repaired(symbol, self.gaps.close(symbol, open_times, now=self._clock.now()))

    def note_gone(self, symbol: str, open_time: int) -> None:
        """Write down a bar that cannot be: the venue no longer trades the symbol.

        It is asked for once all the same, in case the bar was the symbol's last.
        """
        reason = "the venue no longer trades the symbol"
        self.gaps.not_served(symbol, [open_time], now=self._clock.now(), reason=reason)

    async def audit(
        self, symbol: str, since: int, until: int, *, is_expected: bool = False
    ) -> bool:
        """Compare ``[since, until)`` with REST in one request; return whether that is settled.

        ``is_expected`` says that an answer without a bar settles nothing: REST may list it later.
        """
        try:
            with in_background():
                bars = await self._exchange.fetch_bars(
                    symbol, interval_ms=self._interval_ms, since=since, until=until
                )
        except VenueError as error:
            self._intake.note_failure(error)
            return isinstance(error, NotOffered)
        stored = await self._intake.store(bars, Origin.REST) if bars else None
        if bars and stored is None:
            return False
        sound = {bar.open_time for bar in stored.sound} if stored is not None else set()
        self._counters["bars_audited"] += len(sound)
        self.note_stored(symbol, sound)
        self.note_holes(symbol, since, until, reason="neither streamed nor in the audit's answer")
        # A bar that breaks a rule is in quarantine: that is settled, too, unless it is in doubt.
        return not is_expected or (bool(bars) and len(sound) == len(bars))

    def note_holes(self, symbol: str, since: int, until: int, *, reason: str) -> None:
        """Write down which bars of ``[since, until)`` are not stored, to be asked for.

        Bars before the first that is known are none: they may never have been.
        """
        first = self._intake.roster.first(symbol)
        if first is not None:
            holes = self._intake.roster.gaps(symbol, since=max(since, first), until=until)
            self.gaps.missing(symbol, holes, now=self._clock.now(), reason=reason)

    def note_unfetched(self, symbol: str, open_times: Sequence[int], *, reason: str) -> None:
        """Write down a span of history that could not be asked for; the newest bars of it."""
        newest = open_times[-_SPAN_BARS:]
        self.gaps.deferred(symbol, newest, now=self._clock.now(), reason=reason)

    def note_quarantined(self, bars: Iterable[Bar]) -> None:
        """Write down bars of history that were served and break a rule."""
        now, reason = self._clock.now(), "served, but quarantined"
        for bar in bars:
            self.gaps.deferred(bar.symbol, [bar.open_time], now=now, reason=reason)

    async def note_history(self, since: int, until: int, *, skip: Mapping[str, set[int]]) -> None:
        """Write the bars into the gap book that a backfill of ``[since, until)`` did not bring.

        Bars before a symbol's first or after its last are none: they may never have been.

        Args:
            since: UTC milliseconds.
            until: exclusive.
            skip: open times by symbol that the venue was not heard about, or brought broken: their
                not being stored is no evidence.
        """
        for symbol in self._symbols:
            try:
                stored = await asyncio.to_thread(
                    self._warehouse.bar_times,
                    symbol,
                    venue=self._exchange.venue.value,
                    interval_ms=self._interval_ms,
                    since=since,
                    until=until,
                )
            except WarehouseError as error:
                self._counters["reads_failed"] += 1
                log.error("stored_bars_unknown", cause=str(error))
                return
            if len(stored):
                self.gaps.close(symbol, stored.tolist(), now=self._clock.now())
                missing = missing_times(
                    stored,
                    since=int(stored[0]),
                    until=int(stored[-1]),
                    interval_ms=self._interval_ms,
                )
                known = skip.get(symbol, set()).union(self.gaps.absent(symbol))
                self.gaps.not_served(
                    symbol,
                    [time for time in missing.tolist() if time not in known],
                    now=self._clock.now(),
                    reason="not in the venue's history",
                )
        await self.save_gaps()

    async def mend(self) -> None:
        """Ask again for gaps and doubtful bars when they are due, for as long as the task lives."""
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(MEND_SECONDS)
                for symbol in self._due_symbols():
                    self._mending.add(symbol)
                    group.create_task(self._mend_symbol(symbol))
                await self.save_gaps()

    def _due_symbols(self) -> set[str]:
        """Symbols with something to ask for, none of which is being mended already."""
        now = self._clock.now()
        doubtful = {one for one in self._intake.doubts if self._doubts_due.get(one, 0) <= now}
        due = set(self.gaps.due(now)) | doubtful
        return due - self._mending if self._exchange.budget.closed_seconds() == 0 else set()

    async def save_gaps(self) -> None:
        """Write what changed in the gap book; a failed write is repeated with the next one."""
        if monotonic_seconds() < self._save_from:
            return
        gaps = self.gaps.take_unsaved()
        if not gaps:
            return
        try:
            await asyncio.to_thread(
                self._warehouse.insert_gaps,
                gaps,
                venue=self._exchange.venue.value,
                interval_ms=self._interval_ms,
            )
        except WarehouseError as error:
            self._counters["writes_failed"] += 1
            self.gaps.give_back(gaps)
            self._save_from = monotonic_seconds() + SAVE_AGAIN_SECONDS
            log.error("gaps_not_stored", cause=str(error))

    async def _mend_symbol(self, symbol: str) -> None:
        """Ask for one symbol's gaps and doubts; the others are mended beside it."""
        try:
            with in_background():
                due = self.gaps.due(self._clock.now()).get(symbol, [])
                for span in _spans(due, _SPAN_BARS * self._interval_ms):
                    await self.fetch(symbol, span)
                await self._settle_doubts(symbol)
        finally:
            self._mending.discard(symbol)

    async def _settle_doubts(self, symbol: str) -> None:
        """Ask REST which of two versions of a bar is the venue's, once a minute at most."""
        if self._doubts_due.get(symbol, 0) > self._clock.now():
            return
        for time in sorted(self._intake.doubts.pop(symbol, ())):
            until = time + self._interval_ms
            if not await self.audit(symbol, time, until, is_expected=True):
                self._intake.doubts.setdefault(symbol, set()).add(time)
                self._doubts_due[symbol] = self._clock.now() + MINUTE_MS

    def _count_repaired(self, symbol: str, bars: int) -> None:
        if bars:
            self._counters["gaps_repaired"] += bars
            log.info("gap_repaired", symbol=symbol, bars=bars)

    def _note_failure(
        self, symbol: str, open_times: Sequence[int], error: VenueError
    ) -> frozenset[int]:
        self._intake.note_failure(error)
        note = self.gaps.deferred
        if isinstance(error, NotOffered):
            # The venue no longer serves the symbol: that its bars are not there is its answer.
            self.refused.add(symbol)
            note = self.gaps.not_served
        note(symbol, open_times, now=self._clock.now(), reason=error.cause[:200])
        return frozenset(() if isinstance(error, VenueUnavailable) else open_times)

    def _is_past(self, symbol: str, open_time: int, newest: int) -> bool:
        """Whether a later bar was served, or so much time has passed that one should have been."""
        patience_ms = 3 * self._interval_ms
        if symbol not in self._gone():
            patience_ms = max(patience_ms, UNSAID_MS)
        return open_time < newest or open_time + patience_ms <= self._clock.now()


def _spans(open_times: Sequence[int], longest_ms: int) -> list[list[int]]:
    """Cut ascending times where they lie further than ``longest_ms`` from a span's first."""
    spans: list[list[int]] = []
    for time in open_times:
        if not spans or time - spans[-1][0] >= longest_ms:
            spans.append([])
        spans[-1].append(time)
    return spans
