"""The history of a feed: what the venue had before we listened, as far as it is not stored.

It owns what a backfill left open. A page that the venue did not answer is asked for again until it
is there; it must never be taken for a page without bars.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence

import structlog

from market.backfill import Backfill, Request, Stored
from market.bar import Bar
from market.budget import in_background
from market.clock import Clock
from market.exchange import Exchange
from market.intake import Intake
from market.repair import Repairer
from market.retry import VenueError, backoff_seconds
from market.roster import REMEMBERED_BARS
from market.warehouse import Origin, Warehouse, WarehouseError

log = structlog.get_logger()

FINISH_SECONDS = 60.0  # venue seconds before failed pages are asked for again, the first time
LONGEST_FINISH_SECONDS = 3_600.0


class History:
    """Brings history into the warehouse, and its missing bars into the gap book."""

    def __init__(
        self,
        *,
        exchange: Exchange,
        warehouse: Warehouse,
        intake: Intake,
        repairer: Repairer,
        clock: Clock,
        symbols: Sequence[str],
        interval_ms: int,
        counters: MutableMapping[str, int],
    ) -> None:
        """Fetch nothing yet; ``counters`` is shared with the feed."""
        self._exchange = exchange
        self._warehouse = warehouse
        self._intake = intake
        self._repairer = repairer
        self._clock = clock
        self._symbols = tuple(symbols)
        self._interval_ms = interval_ms
        self._counters = counters
        self._unfinished: tuple[int, int] | None = None

    async def fetch(
        self, since: int, until: int, *, at: int, progress: Callable[[int, int], None]
    ) -> None:
        """Store what is missing of ``[since, until)``, and book what is missing after that.

        Args:
            since: UTC milliseconds.
            until: exclusive, on the grid of the interval.
            at: time of ingestion.
            progress: called with the bars and mark candles asked for so far, and their total.

        Raises:
            VenueError: the venue failed for good; what came before is stored.
            WarehouseError: the store failed.
        """
        backfill = Backfill(
            exchange=self._exchange,
            warehouse=self._warehouse,
            symbols=self._symbols,
            interval_ms=self._interval_ms,
            since=since - since % self._interval_ms,
            until=until,
            at=at,
            absent={symbol: self._repairer.gaps.absent(symbol) for symbol in self._symbols},
        )
        broken: list[Bar] = []

        def note_stored(stored: Stored) -> None:
            self._intake.count(stored, Origin.REST)
            broken.extend(stored.quarantined)

        await backfill.run(
            progress=progress, on_stored=note_stored, on_failure=self._intake.note_failure
        )
        await self._intake.look_up(until - REMEMBERED_BARS * self._interval_ms, until)
        unheard = [request for request in backfill.unfetched if request.kind == "bars"]
        self._note_unsettled(broken, unheard)
        await self._repairer.note_history(since, until, skip=self._unsettled(broken, unheard))
        self._unfinished = (since, until) if backfill.unfetched else None

    async def finish(self) -> None:
        """Ask again, with growing waits, for the pages that could not be fetched; then return."""
        waits = backoff_seconds(first=FINISH_SECONDS, most=LONGEST_FINISH_SECONDS)
        while self._unfinished is not None:
            since, until = self._unfinished
            await self._clock.sleep_until(self._clock.now() + int(next(waits) * 1000))
            try:
                with in_background():
                    await self.fetch(since, until, at=self._clock.now(), progress=_untold)
            except VenueError:
                continue  # counted and logged where it was met
            except WarehouseError as error:
                self._counters["writes_failed"] += 1
                log.error("history_not_stored", cause=str(error))

    def _note_unsettled(self, broken: Sequence[Bar], unheard: Sequence[Request]) -> None:
        self._repairer.note_quarantined(broken)
        for request in unheard:
            self._repairer.note_unfetched(
                request.symbol, self._times(request), reason="history could not be fetched"
            )

    def _unsettled(self, broken: Sequence[Bar], unheard: Sequence[Request]) -> dict[str, set[int]]:
        """Open times by symbol whose not being stored is no evidence that they never were."""
        unsettled: dict[str, set[int]] = {symbol: set() for symbol in self._symbols}
        for bar in broken:
            unsettled[bar.symbol].add(bar.open_time)
        for request in unheard:
            unsettled[request.symbol].update(self._times(request))
        return unsettled

    def _times(self, request: Request) -> range:
        return range(request.since, request.until, self._interval_ms)


def _untold(_done: int, _total: int) -> None:
    """Nobody watches the progress of a repetition."""
