"""Backfill: bring history into the warehouse, asking the venue only for what is not stored.

Requests run a few at a time, rows are written in batches oldest first, and nothing is remembered
between runs: an interrupted backfill is simply started again. It must never write a bar that broke
a rule anywhere but in quarantine.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import structlog

from market.bar import HOUR_MS, MINUTE_MS, Bar, MarkBar, RefusedSettlement, Settlement
from market.clock import monotonic_seconds
from market.exchange import Exchange
from market.instrument import Market
from market.panel import Int64Array
from market.retry import (
    RegionBlocked,
    VenueError,
    VenueRefused,
    VenueUnavailable,
    ask_patiently,
)
from market.rows import mark_defect, missing_times, pages, sift
from market.warehouse import Origin, Warehouse

log = structlog.get_logger()

WORKERS = 6
ATTEMPTS = 8  # with growing waits: more than a minute of outage
BATCH_ROWS = 20_000
BATCH_SECONDS = 5.0  # what an interrupted backfill loses at most
LONGEST_FUNDING_INTERVAL_MS = 8 * HOUR_MS

Progress = Callable[[int, int], None]
OnFailure = Callable[[VenueError], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request to the venue, for ``since <= time < until``; ``bars`` is how many are missing."""

    kind: str
    symbol: str
    since: int
    until: int
    bars: int


@dataclass(slots=True, kw_only=True)
class Catch:
    """What requests brought and no write has stored yet."""

    bars: list[Bar] = field(default_factory=list)
    mark_bars: list[MarkBar] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)
    settlements_refused: list[RefusedSettlement] = field(default_factory=list)

    def __len__(self) -> int:
        settlements = len(self.settlements) + len(self.settlements_refused)
        return len(self.bars) + len(self.mark_bars) + settlements

    def add(self, other: Catch) -> None:
        """Take over what ``other`` caught."""
        self.bars += other.bars
        self.mark_bars += other.mark_bars
        self.settlements += other.settlements
        self.settlements_refused += other.settlements_refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What one write did.

    Attributes:
        sound: the bars that were offered to the store, without the defective ones.
        written: rows of them that were new or differed from what was stored.
        quarantined: the defective bars.
        marks_refused: mark candles that broke a rule.
        settlements_refused: rows of settlements that could not be read.
    """

    sound: tuple[Bar, ...]
    written: int
    quarantined: tuple[Bar, ...]
    marks_refused: int
    settlements_refused: int


def store(
    catch: Catch, *, warehouse: Warehouse, venue: str, interval_ms: int, origin: Origin, at: int
) -> Stored:
    """Write ``catch`` in one insert per kind; blocking.

    Raises:
        WarehouseError: the store failed; repeating the call repairs it.
    """
    sound, defective = sift(catch.bars, interval_ms)
    judged = [(bar, mark_defect(bar, interval_ms)) for bar in catch.mark_bars]
    marks = [bar for bar, defect in judged if defect is None]
    refused = [(bar, defect) for bar, defect in judged if defect is not None]
    scope: dict[str, Any] = {"venue": venue, "ingested_at": at}
    written = 0
    if sound:
        written = warehouse.insert_bars(sound, interval_ms=interval_ms, origin=origin, **scope)
    if defective:
        warehouse.quarantine.insert(defective, interval_ms=interval_ms, **scope)
    if refused:
        warehouse.quarantine.insert(refused, interval_ms=interval_ms, kind="mark_bars", **scope)
    if marks:
        warehouse.insert_mark_bars(marks, interval_ms=interval_ms, **scope)
    if catch.settlements:
        warehouse.insert_settlements(catch.settlements, **scope)
    if catch.settlements_refused:
        warehouse.quarantine.insert_settlements(catch.settlements_refused, **scope)
    for bar, defect in defective:
        log.warning("bar_quarantined", symbol=bar.symbol, open_time=bar.open_time, defect=defect)
    return Stored(
        sound=tuple(sound),
        written=written,
        quarantined=tuple(bar for bar, _defect in defective),
        marks_refused=len(catch.mark_bars) - len(marks),
        settlements_refused=len(catch.settlements_refused),
    )


class Backfill:
    """One run of backfill over ``[since, until)`` for some symbols.

    Attributes:
        unfetched: what the venue could not be asked for; a later run asks again.
        refused: symbols that the venue does not serve.
    """

    def __init__(
        self,
        *,
        exchange: Exchange,
        warehouse: Warehouse,
        symbols: Sequence[str],
        interval_ms: int,
        since: int,
        until: int,
        at: int,
        absent: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """Prepare; ``at`` is the time of ingestion. All times are UTC milliseconds.

        ``absent`` are open times by symbol that the venue is known not to have.
        """
        self._exchange = exchange
        self._warehouse = warehouse
        self._symbols = tuple(symbols)
        self._interval_ms = interval_ms
        self._since = since
        self._until = until
        self._at = at
        self._absent = absent or {}
        self.refused: set[str] = set()
        self.unfetched: list[Request] = []
        self._batch = Catch()
        self._batch_began = monotonic_seconds()
        self._failures_in_row = 0

    async def run(
        self, *, progress: Progress, on_stored: Callable[[Stored], None], on_failure: OnFailure
    ) -> None:
        """Fetch and store what is missing.

        Args:
            progress: called with bars and mark candles asked for so far, and with their total.
            on_stored: called with each write.
            on_failure: called with each failed request, before it is repeated.

        Raises:
            VenueError: a request failed for good, or the venue refused every symbol; what came
                before is stored.
            WarehouseError: the store failed.
        """
        requests = await asyncio.to_thread(lambda: list(self._missing()))
        total = sum(request.bars for request in requests)
        progress(0, total)
        waiting = iter(requests)
        answers: asyncio.Queue[tuple[Request, Catch]] = asyncio.Queue(maxsize=2 * WORKERS)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(WORKERS):
                    group.create_task(self._work(waiting, answers, on_failure))
                writer = self._write(answers, requests=len(requests), on_stored=on_stored)
                async for done in writer:
                    progress(done, total)
        except BaseExceptionGroup as failures:
            fault = _first_of(failures)
            if isinstance(fault, VenueError):
                await self._store_rest(answers, on_stored)
            raise fault from failures
        except asyncio.CancelledError:
            await self._store_rest(answers, on_stored)
            raise

    async def _work(
        self,
        waiting: Iterable[Request],
        answers: asyncio.Queue[tuple[Request, Catch]],
        on_failure: OnFailure,
    ) -> None:
        for request in waiting:
            catch = Catch()
            if request.symbol not in self.refused:
                try:
                    catch = await ask_patiently(
                        functools.partial(self._fetch, request),
                        attempts=ATTEMPTS,
                        on_failure=on_failure,
                    )
                    self._failures_in_row = 0
                except RegionBlocked:
                    raise
                except VenueRefused as error:
                    self._note_refusal(request.symbol, error)
                except VenueUnavailable as error:
                    self._note_unfetched(request, error)
            await answers.put((request, catch))

    def _note_refusal(self, symbol: str, error: VenueRefused) -> None:
        """Go on without one symbol; a venue that refuses every one refuses us."""
        self.refused.add(symbol)
        log.error("symbol_refused", symbol=symbol, cause=error.cause)
        if self.refused == set(self._symbols):
            raise error

    def _note_unfetched(self, request: Request, error: VenueUnavailable) -> None:
        """Go on without one page; a venue that fails for every symbol fails us."""
        self.unfetched.append(request)
        log.error("history_incomplete", symbol=request.symbol, kind=request.kind, cause=error.cause)
        self._failures_in_row += 1
        everywhere = {one.symbol for one in self.unfetched} >= set(self._symbols)
        if everywhere or self._failures_in_row >= WORKERS:
            raise error

    async def _fetch(self, request: Request) -> Catch:
        symbol, since, until = request.symbol, request.since, request.until
        match request.kind:
            case "bars":
                bars = await self._exchange.fetch_bars(
                    symbol, interval_ms=self._interval_ms, since=since, until=until
                )
                return Catch(bars=bars)
            case "mark_bars":
                mark_bars = await self._exchange.fetch_mark_bars(
                    symbol, interval_ms=self._interval_ms, since=since, until=until
                )
                return Catch(mark_bars=mark_bars)
            case _:
                refused: list[RefusedSettlement] = []
                settlements = await self._exchange.fetch_settlements(
                    symbol, since=since, until=until, on_refused=refused.append
                )
                return Catch(settlements=settlements, settlements_refused=refused)

    async def _write(
        self,
        answers: asyncio.Queue[tuple[Request, Catch]],
        *,
        requests: int,
        on_stored: Callable[[Stored], None],
    ) -> AsyncIterator[int]:
        """Store the answers in batches; yield how many bars were asked for so far."""
        done = 0
        for answered in range(1, requests + 1):
            request, catch = await answers.get()
            self._batch.add(catch)
            done += request.bars
            is_old = monotonic_seconds() - self._batch_began >= BATCH_SECONDS
            if len(self._batch) >= BATCH_ROWS or is_old or answered == requests:
                await self._store_batch(on_stored)
            yield done

    async def _store_rest(
        self, answers: asyncio.Queue[tuple[Request, Catch]], on_stored: Callable[[Stored], None]
    ) -> None:
        """Store what had been answered when the run broke off."""
        while not answers.empty():
            _request, catch = answers.get_nowait()
            self._batch.add(catch)
        await self._store_batch(on_stored)

    async def _store_batch(self, on_stored: Callable[[Stored], None]) -> None:
        batch, self._batch = self._batch, Catch()
        if len(batch):
            on_stored(await asyncio.to_thread(self._store, batch))
        self._batch_began = monotonic_seconds()

    def _store(self, batch: Catch) -> Stored:
        return store(
            batch,
            warehouse=self._warehouse,
            venue=self._exchange.venue,
            interval_ms=self._interval_ms,
            origin=Origin.REST,
            at=self._at,
        )

    def _missing(self) -> Iterable[Request]:
        venue, since, until = self._exchange.venue, self._since, self._until
        is_perpetual = self._exchange.venue.market is Market.PERP
        kinds = [("bars", self._warehouse.bar_times)]
        if is_perpetual:
            kinds.append(("mark_bars", self._warehouse.mark_bar_times))
        for symbol in self._symbols:
            for kind, stored_times in kinds:
                stored = stored_times(
                    symbol, venue=venue, interval_ms=self._interval_ms, since=since, until=until
                )
                yield from self._candle_requests(kind, symbol, stored)
            if not is_perpetual:
                continue
            settled = self._warehouse.settlement_times(
                symbol, venue=venue, since=since, until=until
            )
            for first, last in settlement_gaps(settled, since=since, until=until):
                yield Request(kind="settlements", symbol=symbol, since=first, until=last, bars=0)

    def _candle_requests(self, kind: str, symbol: str, stored: Int64Array) -> Iterable[Request]:
        missing = missing_times(
            stored, since=self._since, until=self._until, interval_ms=self._interval_ms
        )
        if kind == "bars" and self._absent.get(symbol):
            missing = np.setdiff1d(missing, np.array(self._absent[symbol], dtype=np.int64))
        for first, last, count in pages(
            missing, interval_ms=self._interval_ms, page_bars=self._exchange.page_bars
        ):
            yield Request(kind=kind, symbol=symbol, since=first, until=last, bars=count)


def settlement_gaps(settled: Int64Array, *, since: int, until: int) -> list[tuple[int, int]]:
    """Return the spans of ``[since, until)`` in which a settlement may be missing.

    A pause between two settlements is a gap when it is longer than the shortest of the two pauses
    on either side, or than eight hours; where a venue shortened its interval, one span is asked for
    in vain. The time after the last settlement always counts.

    Args:
        settled: nominal times that are stored, ascending, UTC milliseconds.
        since: start of the span.
        until: end of the span, exclusive.
    """
    if not len(settled):
        return [(since, until)] if since < until else []
    times = [int(time) for time in settled]
    steps = [later - earlier for earlier, later in pairwise(times)]
    gaps = [
        (times[place] + MINUTE_MS, times[place + 1])
        for place, step in enumerate(steps)
        if step > min(LONGEST_FUNDING_INTERVAL_MS, *steps[max(0, place - 2) : place + 3])
    ]
    if times[0] - since >= min(steps[:2], default=HOUR_MS):
        gaps.insert(0, (since, times[0]))
    if times[-1] + MINUTE_MS < until:
        gaps.append((times[-1] + MINUTE_MS, until))
    return gaps


def _first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    first = failures.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first
