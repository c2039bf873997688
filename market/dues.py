"""Dues: the mark candles and funding settlements that closed intervals owe us.

It owns, per symbol, up to where both are stored, and what it costs to find out: the venue is asked
only for what a close made due or an earlier close left outstanding. A fetch that failed is counted
and stays outstanding; it must never become a zero, and never hold a decision beyond its deadline.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import TypeVar

import structlog

from market.backfill import Catch, store
from market.bar import DAY_MS, HOUR_MS, MINUTE_MS, MarkBar, RefusedSettlement, Settlement
from market.clock import Clock, monotonic_seconds
from market.exchange import Exchange
from market.instrument import Instrument
from market.retry import VenueError, backoff_seconds
from market.warehouse import Origin, Warehouse, WarehouseError

log = structlog.get_logger()

MARK_MEMORY_BARS = 1_440  # outstanding mark candles older than this are left to the next backfill
SETTLEMENT_MEMORY_MS = 8 * DAY_MS
PATIENCE = 4  # answers without the row asked for, before it is believed that there is none
LAGGARD_SECONDS = 1.0  # what a symbol gets that did not answer at the last close

Row = TypeVar("Row", MarkBar, Settlement)


class Dues:
    """Mark candles and settlements due at closes, per symbol."""

    def __init__(
        self,
        *,
        exchange: Exchange,
        warehouse: Warehouse,
        clock: Clock,
        symbols: Sequence[str],
        interval_ms: int,
        counters: MutableMapping[str, int],
    ) -> None:
        """Know nothing yet; ``load`` or the first ``collect`` reads what is stored."""
        self._exchange = exchange
        self._warehouse = warehouse
        self._clock = clock
        self._symbols = tuple(symbols)
        self._interval_ms = interval_ms
        self._counters = counters
        self._is_loaded = False
        self._skipped: frozenset[str] = frozenset()
        # First open_time whose mark candle is not stored; last nominal time that is.
        self._mark_from: dict[str, int] = {}
        self._settled: dict[str, int] = {}
        self._funding_ms: dict[str, int] = {}
        # Answers that lacked the row, by (symbol, the time it was due).
        self._empty_marks: Counter[tuple[str, int]] = Counter()
        self._empty_settlements: Counter[tuple[str, int]] = Counter()
        # Symbols whose mark candles are asked for once per close and not waited for.
        self._markless: set[str] = set()
        self._answered: dict[str, int] = {}
        self._unanswered: set[tuple[str, str]] = set()  # (what failed or stalled, symbol)

    async def load(self, until: int) -> None:
        """Read from the warehouse what is stored of the days before ``until``."""
        await asyncio.to_thread(self._read_stored, until)
        self._is_loaded = True

    async def collect(
        self, close_time: int, *, deadline: float, skip: frozenset[str] = frozenset()
    ) -> None:
        """Fetch and store what the close at ``close_time`` made due, and what is outstanding.

        Args:
            close_time: the close, UTC milliseconds; the venue's time must have reached it.
            deadline: on ``monotonic_seconds``; what is still due then stays outstanding.
            skip: symbols that the venue no longer trades.
        """
        self._skipped = skip
        if not self._is_loaded:
            try:
                await self.load(close_time)
            except WarehouseError as error:
                self._counters["reads_failed"] += 1
                log.error("stored_dues_unknown", cause=str(error))
        laggards = {symbol for _, symbol in self._unanswered}
        if laggards == set(self._symbols):
            laggards = set()  # an outage of the venue, not one symbol's trouble
        soon = min(deadline, monotonic_seconds() + LAGGARD_SECONDS)
        prompt = [symbol for symbol in self._symbols if symbol not in laggards]
        await asyncio.gather(
            self._collect_until(deadline, prompt, close_time),
            self._collect_until(soon, sorted(laggards), close_time),
        )

    async def _collect_until(
        self, deadline: float, symbols: Sequence[str], close_time: int
    ) -> None:
        waits = backoff_seconds(first=0.5)
        try:
            async with asyncio.timeout(max(0.0, deadline - monotonic_seconds())):
                await self._learn_funding_intervals()
                while await self._collect_once(symbols, close_time):
                    wait = max(next(waits), self._exchange.budget.closed_seconds())
                    if monotonic_seconds() + wait > deadline:
                        raise TimeoutError  # a ban longer than that must not hold the close
                    await asyncio.sleep(wait)
        except TimeoutError:
            self._give_up_marks(close_time)
            log.warning("dues_outstanding", close_time=close_time)

    async def _collect_once(self, symbols: Sequence[str], close_time: int) -> bool:
        """Ask once for everything due; return whether asking again soon could help."""
        marks_due = [one for one in symbols if self._owes_mark(one, close_time)]
        settlements_due = [one for one in symbols if self._owes_settlement(one, close_time)]
        refused: list[RefusedSettlement] = []
        marks, settlements = await asyncio.gather(
            self._fetch_all(marks_due, "mark_fetch_failed", self._mark_fetcher(close_time)),
            self._fetch_all(
                settlements_due,
                "funding_fetch_failed",
                self._settlement_fetcher(close_time, refused.append),
            ),
        )
        if not await self._store(marks.values(), settlements.values(), refused):
            return True
        for symbol, mark_bars in marks.items():
            self._note_marks(symbol, mark_bars, close_time)
        for symbol, settled in settlements.items():
            self._note_settlements(symbol, settled, close_time)
        waits_for_mark = any(
            self._owes_mark(one, close_time) and one not in self._markless for one in marks
        )
        failed = len(marks) < len(marks_due) or len(settlements) < len(settlements_due)
        return waits_for_mark or failed

    async def _fetch_all(
        self,
        symbols: Iterable[str],
        counter: str,
        fetch: Callable[[str], Awaitable[list[Row]]],
    ) -> dict[str, list[Row]]:
        async def fetch_one(symbol: str) -> list[Row] | None:
            self._unanswered.add((counter, symbol))
            try:
                rows = await fetch(symbol)
            except VenueError as error:
                self._counters[counter] += 1
                self._counters["requests_failed"] += 1
                log.warning(counter, symbol=symbol, cause=error.cause)
                return None
            self._unanswered.discard((counter, symbol))
            return rows

        names = list(symbols)
        answers = await asyncio.gather(*(fetch_one(symbol) for symbol in names))
        return {name: rows for name, rows in zip(names, answers, strict=True) if rows is not None}

    def _mark_fetcher(self, close_time: int) -> Callable[[str], Awaitable[list[MarkBar]]]:
        oldest = close_time - MARK_MEMORY_BARS * self._interval_ms

        def fetch(symbol: str) -> Awaitable[list[MarkBar]]:
            since = max(oldest, self._mark_from.get(symbol, close_time - self._interval_ms))
            return self._exchange.fetch_mark_bars(
                symbol, interval_ms=self._interval_ms, since=since, until=close_time
            )

        return fetch

    def _settlement_fetcher(
        self, close_time: int, on_refused: Callable[[RefusedSettlement], None]
    ) -> Callable[[str], Awaitable[list[Settlement]]]:
        def fetch(symbol: str) -> Awaitable[list[Settlement]]:
            first = self._settled.get(symbol, self._due_time(symbol, close_time) - MINUTE_MS)
            oldest = close_time - SETTLEMENT_MEMORY_MS
            return self._exchange.fetch_settlements(
                symbol,
                since=max(first + MINUTE_MS, oldest),
                until=close_time,
                on_refused=on_refused,
            )

        return fetch

    async def _store(
        self,
        marks: Iterable[list[MarkBar]],
        settlements: Iterable[list[Settlement]],
        refused: list[RefusedSettlement],
    ) -> bool:
        """Write what came; ``False`` when the store failed, so that it is asked for again."""
        catch = Catch(
            mark_bars=[bar for bars in marks for bar in bars],
            settlements=[one for some in settlements for one in some],
            settlements_refused=refused,
        )
        if not len(catch):
            return True
        try:
            stored = await asyncio.to_thread(
                store,
                catch,
                warehouse=self._warehouse,
                venue=self._exchange.venue,
                interval_ms=self._interval_ms,
                origin=Origin.REST,
                at=self._clock.now(),
            )
        except WarehouseError as error:
            self._counters["writes_failed"] += 1
            log.error("dues_not_stored", cause=str(error))
            return False
        self._counters["marks_refused"] += stored.marks_refused
        self._counters["mark_bars"] += len(catch.mark_bars) - stored.marks_refused
        self._counters["settlements"] += len(catch.settlements)
        self._counters["settlements_refused"] += stored.settlements_refused
        return True

    def _owes_mark(self, symbol: str, close_time: int) -> bool:
        if symbol in self._skipped:
            return False
        return self._mark_from.get(symbol, 0) < close_time and (
            self._empty_marks[symbol, close_time] < (1 if symbol in self._markless else PATIENCE)
        )

    def _note_marks(self, symbol: str, bars: Sequence[MarkBar], close_time: int) -> None:
        if bars:
            self._mark_from[symbol] = bars[-1].open_time + self._interval_ms
            self._markless.discard(symbol)
        if self._mark_from.get(symbol, 0) >= close_time:
            return
        self._empty_marks[symbol, close_time] += 1
        if self._empty_marks[symbol, close_time] >= PATIENCE:
            self._give_up_marks(close_time)
        _forget(self._empty_marks, close_time - DAY_MS)

    def _give_up_marks(self, close_time: int) -> None:
        """Wait for no symbol's mark candle that the venue answered without; later closes ask."""
        for symbol, due in list(self._empty_marks):
            if due == close_time and symbol not in self._markless:
                self._markless.add(symbol)
                log.warning("mark_missing", symbol=symbol, close_time=close_time)

    def _due_time(self, symbol: str, close_time: int) -> int:
        """Return the last settlement time before ``close_time``."""
        funding_ms = self._funding_ms.get(symbol, HOUR_MS)
        return (close_time - 1) // funding_ms * funding_ms

    def _owes_settlement(self, symbol: str, close_time: int) -> bool:
        due_time = self._due_time(symbol, close_time)
        if symbol in self._skipped:
            return False
        if self._settled.get(symbol, 0) >= due_time or self._answered.get(symbol) == close_time:
            return False
        return self._empty_settlements[symbol, due_time] < PATIENCE

    def _note_settlements(
        self, symbol: str, settled: Sequence[Settlement], close_time: int
    ) -> None:
        self._answered[symbol] = close_time
        due_time = self._due_time(symbol, close_time)
        times = [self._settled[symbol]] if symbol in self._settled else []
        times += [one.nominal_time for one in settled]
        if len(times) > 1 and times[-1] - times[-2] < self._funding_ms.get(symbol, HOUR_MS):
            # The venue shortened the interval since we read it.
            self._funding_ms[symbol] = times[-1] - times[-2]
            log.warning(
                "funding_interval_shortened", symbol=symbol, interval_ms=self._funding_ms[symbol]
            )
        if settled:
            self._settled[symbol] = times[-1]
        if not times or times[-1] < due_time:
            # Counted once per close: later closes ask again, up to PATIENCE times.
            self._empty_settlements[symbol, due_time] += 1
            self._counters["settlements_late"] += 1
            log.warning("settlement_missing", symbol=symbol, nominal_time=due_time)
        _forget(self._empty_settlements, close_time - DAY_MS)

    def set_funding_intervals(self, listed: Mapping[str, Instrument]) -> None:
        """Take the intervals that the venue states now, by unified symbol."""
        for symbol in self._symbols:
            minutes = listed[symbol].funding_interval_minutes if symbol in listed else None
            if minutes is not None:
                self._funding_ms[symbol] = minutes * MINUTE_MS

    async def _learn_funding_intervals(self) -> None:
        if self._funding_ms or not self._symbols:
            return
        try:
            listed = [symbol for symbol in self._symbols if self._exchange.lists(symbol)]
            instruments = await self._exchange.load_instruments(listed)
        except VenueError as error:
            # Until it is known every full hour counts as a settlement time.
            self._counters["requests_failed"] += 1
            log.warning("funding_intervals_unknown", cause=error.cause)
            return
        for instrument in instruments:
            minutes = instrument.funding_interval_minutes
            if minutes is not None:
                self._funding_ms[instrument.symbol] = minutes * MINUTE_MS

    def _read_stored(self, until: int) -> None:
        venue, oldest = self._exchange.venue, until - SETTLEMENT_MEMORY_MS
        for symbol in self._symbols:
            marks = self._warehouse.mark_bar_times(
                symbol,
                venue=venue,
                interval_ms=self._interval_ms,
                since=until - MARK_MEMORY_BARS * self._interval_ms,
                until=until,
            )
            settled = self._warehouse.settlement_times(
                symbol, venue=venue, since=oldest, until=until
            )
            if len(marks):
                self._mark_from[symbol] = int(marks[-1]) + self._interval_ms
            else:
                self._markless.add(symbol)
            if len(settled):
                self._settled[symbol] = int(settled[-1])


def _forget(counts: Counter[tuple[str, int]], before: int) -> None:
    for key in [key for key in counts if key[1] < before]:
        del counts[key]
