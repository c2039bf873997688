"""The daemon: performs what ``decide`` returns, bar after bar, and stays alive or says why not.

Start-up is recovery: the same path after a clean stop, a kill and a power cut. The SQL ledger is
the authority; everything in memory is rebuilt from it. Blocking work (chDB, SQL, inference) runs
in worker threads, and a stop waits for the one that is under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog

from broker.execution import latest_liquidity
from broker.records import AuditRecord, Commit, DecisionRecord
from broker.store import LedgerConflict, Store
from daemon.decide import decide
from daemon.decision import (
    DecisionInputs,
    DecisionRules,
    DecisionState,
    Effects,
    FillMode,
    Target,
)
from daemon.deployment import Deployment
from daemon.history import freeze, load_panel
from daemon.journal import EVENTS, Event, Journal, log_event
from daemon.progress import ProgressBar
from daemon.recovery import CRASHES_BEFORE_HOLDING
from daemon.retrain import Retrainer
from daemon.rules import with_listed
from daemon.settings import Settings
from daemon.shadows import Shadows
from daemon.signal_desk import SignalDesk
from daemon.targets import HoldTarget, informed, row_time
from daemon.totals import Totals
from daemon.venue import Pacer
from market.bar import DAY_MS
from market.clock import Clock, monotonic_seconds
from market.ingest import Feed, IntervalClose
from market.panel import Panel
from market.quote import OrderBook
from market.retry import backoff_seconds
from market.warehouse import Warehouse, WarehouseError

log = structlog.get_logger()

# Funding may be published late, and is then posted as a dated correction; older is left alone.
LATE_FUNDING_MS = 7 * DAY_MS


P = ParamSpec("P")
R = TypeVar("R")


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run blocking work in a thread; a cancellation waits until the work is finished."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


@dataclass(slots=True, kw_only=True)
class Progress:
    """When the loop last moved, in real seconds; what liveness is judged by."""

    attempt_at: float
    bar_at: float | None = None
    decision_at: float | None = None
    commit_at: float | None = None
    decisions: int = 0
    missed: int = 0


class DecisionLoop:
    """Waits for a close, decides, commits, tells the venue; for ever or for N decisions."""

    def __init__(
        self,
        *,
        settings: Settings,
        rules: DecisionRules,
        clock: Clock,
        speed: float,
        feed: Feed,
        warehouse: Warehouse,
        store: Store,
        journal: Journal,
        deployment: Deployment,
        retrainer: Retrainer,
        pacer: Pacer,
        signals: SignalDesk | None = None,
    ) -> None:
        """Take every part; ``speed`` is venue seconds per real second."""
        self._settings = settings
        self._rules = rules
        self._clock = clock
        self._speed = speed
        self._feed = feed
        self._warehouse = warehouse
        self._store = store
        self._journal = journal
        self._deployment = deployment
        self._retrainer = retrainer
        self._pacer = pacer
        self._signals = signals or SignalDesk(store=warehouse, clock=clock)
        self._shadows = Shadows([], signals=self._signals)
        self._interval_ms = settings.exchange.interval_ms
        self._hold_once = False
        self.progress = Progress(attempt_at=monotonic_seconds())
        self.state: DecisionState | None = None
        self.last_record: DecisionRecord | None = None
        self.last_panel: Panel | None = None
        self.totals = Totals()

    @property
    def rules(self) -> DecisionRules:
        """What every decision of this loop goes by."""
        return self._rules

    @property
    def shadows(self) -> Shadows:
        """The other accounts on the same feed."""
        return self._shadows

    def take_up(
        self,
        state: DecisionState,
        last: DecisionRecord | None,
        totals: Totals,
        *,
        hold: bool,
        shadows: Shadows | None = None,
    ) -> None:
        """Take up the accounts where the ledger left them; ``hold`` skips trading once."""
        self._shadows = shadows or self._shadows
        self.state = state
        self.last_record = last
        self.totals = totals
        self._hold_once = hold

    async def resume_venue(self) -> None:
        """Tell a lock-step venue what is committed already, so that it plays on from there."""
        if self.last_record is not None:
            await self._pacer.committed(self.last_record.decision_time)

    async def run(self, until_bars: int | None) -> None:
        """Decide at every close; return after ``until_bars`` decisions of this run."""
        last = self._last_decision_time()
        while until_bars is None or self.progress.decisions < until_bars:
            close = await self._feed.next_close(last)
            self.progress.attempt_at = monotonic_seconds()
            await self._decide_at(close)
            last = close.decision_time
            await self._pacer.committed(last)

    async def backfill(self, note: Callable[[int, int], None]) -> None:
        """Fetch the history that the warehouse lacks, with a progress bar."""
        since = self._clock.now() - self._settings.exchange.history_days * DAY_MS
        with ProgressBar("backfill", unit="bars") as bar:
            await self._feed.backfill(since=since, progress=partial(self._backfilled, bar, note))

    async def take_snapshot(self) -> Path:
        """Freeze the market history up to the last decision for a training run."""
        snapshot = await in_thread(
            freeze,
            self._settings,
            self._warehouse,
            until=self._last_decision_time(),
            instruments=tuple(self._rules.instruments.values()),
        )
        return snapshot.directory

    async def take_history(self, root: Path) -> Path:
        """Freeze the market history up to now under ``root``, for a producer of signals."""
        now = self._clock.now()
        until = now - now % self._interval_ms
        days = self._settings.signals.history_days
        snapshot = await in_thread(
            freeze,
            self._settings,
            self._warehouse,
            since=until - days * DAY_MS if days else None,
            until=until,
            instruments=tuple(self._rules.instruments.values()),
            root=root,
        )
        return snapshot.directory

    def _backfilled(
        self, bar: ProgressBar, note: Callable[[int, int], None], done: int, total: int
    ) -> None:
        self.progress.attempt_at = monotonic_seconds()
        note(done, total)
        bar.show("bars", done, total)

    def _last_decision_time(self) -> int:
        if self.last_record is not None:
            return self.last_record.decision_time
        now = self._clock.now()
        return now - now % self._interval_ms - self._interval_ms

    async def _decide_at(self, close: IntervalClose) -> None:
        assert self.state is not None
        await self._advance_promotion()
        self._rules = with_listed(self._rules, self._feed.instruments)
        inputs, targets = await self._gather_patiently(close)
        state, effects = await in_thread(decide, self.state, inputs, self._rules)
        others = await in_thread(self._shadows.decide, inputs, targets, self._rules)
        self.progress.decision_at = monotonic_seconds()
        await in_thread(self._commit, [effects, *(each for _, each in others)])
        self.progress.commit_at = monotonic_seconds()
        self._shadows.move_on(others)
        self.state, self.last_record, self.last_panel = state, effects.record, inputs.panel
        self.totals = self.totals.plus(effects)
        self._count(effects)
        for each in (effects, *(effects for _, effects in others)):
            tell(each)

    async def _advance_promotion(self) -> None:
        outcome = self._retrainer.take_promotable()
        if outcome is not None and outcome.model_id is not None:
            await in_thread(self._deployment.promote, outcome.model_id, self._clock.now())
        await in_thread(self._deployment.refresh)

    async def _gather_patiently(self, close: IntervalClose) -> tuple[DecisionInputs, list[Target]]:
        """Gather, and again while the warehouse is out of reach; each attempt counts as life."""
        for wait_seconds in backoff_seconds(first=0.5, most=30.0):
            try:
                return await in_thread(self._gather, close)
            except WarehouseError as error:
                self.progress.attempt_at = monotonic_seconds()
                log_event(Event.WAREHOUSE_UNREACHABLE, cause=str(error))
            await asyncio.sleep(wait_seconds)
        raise AssertionError("unreachable: the waits never end")

    def _gather(self, close: IntervalClose) -> tuple[DecisionInputs, list[Target]]:
        """Read what was known at the close, and choose what names the weights of each account.

        Everything is read before the choice is made: to choose twice would forget a hold.
        """
        time = close.decision_time
        required = max(self._deployment.required_bars, self._shadows.required_bars)
        bars = max(required, self._rules.sigma_window_bars + 2)
        panel = load_panel(
            self._settings, self._warehouse, since=time - bars * self._interval_ms, until=time
        )
        settlements = self._warehouse.settlements(
            self._settings.exchange.symbols,
            venue=self._settings.exchange.name.value,
            interval_ms=self._interval_ms,
            since=time - LATE_FUNDING_MS,
            until=time,
        )
        books = self._books(time)
        targets = self._shadows.targets(panel.close_time, hold=self._hold_once)
        now = self._clock.now()
        target, reason = self._target_at(time, now, nothing_seen=not panel.observed[-1].any())
        if target is not None:
            target = informed(target, panel.close_time, self._signals.join)
            # The join may have waited for a producer's rows: only now is it decided.
            now = self._clock.now()
            if (late := self._lateness(time, now)) is not None:
                target, reason = None, f"missed: {late}"
        inputs = DecisionInputs(
            decision_time=time,
            decided_at=now,
            panel=panel,
            liquidity=latest_liquidity(panel),
            settlements=settlements,
            books=books,
            target=target,
            reason=reason,
        )
        return inputs, targets

    def _books(self, time: int) -> dict[str, OrderBook]:
        """The order books recorded at a close; none where fills are modelled."""
        if self._rules.fills is FillMode.MODELLED:
            return {}
        exchange = self._settings.exchange
        found = self._warehouse.books(
            exchange.symbols, venue=exchange.name.value, since=time, until=time + 1
        )
        return {book.symbol: book for book in found}

    def _target_at(self, time: int, now: int, *, nothing_seen: bool) -> tuple[Target | None, str]:
        if (late := self._lateness(time, now)) is not None:
            return None, f"missed: {late}"
        if nothing_seen:
            return None, "missed: no symbol had a final bar by the deadline"
        if self._hold_once:
            self._hold_once = False
            self._journal.write(Event.PROTECTION_TRIGGERED, protection="crash_loop")
            return HoldTarget(), f"held: {CRASHES_BEFORE_HOLDING} crashes at this decision"
        return self._deployment.target(now)

    def _lateness(self, time: int, now: int) -> str | None:
        return too_late(
            time,
            now,
            interval_ms=self._interval_ms,
            speed=self._speed,
            limit_seconds=self._settings.exchange.max_lateness_seconds,
        )

    def _commit(self, decided: Sequence[Effects]) -> None:
        """Store the decisions of all accounts in one transaction."""
        if self._store.commit_decisions(list(map(effects_commit, decided))) != len(decided):
            record = decided[0].record
            raise LedgerConflict(
                f"decision {record.decision_time} of account {record.account_id} or of a shadow "
                "was committed by another process; only one daemon may trade an account"
            )

    def _count(self, effects: Effects) -> None:
        """Count the decision of the main account."""
        if effects.record.status == "missed":
            self.progress.missed += 1
        else:
            self.progress.decisions += 1
            self.progress.bar_at = self.progress.commit_at


def too_late(
    time: int, now: int, *, interval_ms: int, speed: float, limit_seconds: float
) -> str | None:
    """Say why a decision for ``time`` may no longer trade at ``now``; ``None`` where it may.

    The bar that would fill it must not have closed yet, at whatever speed the venue runs, and on
    a live venue the decision must come within ``limit_seconds`` real seconds.
    """
    if now - time >= interval_ms:
        return "the bar that would have filled it has closed"
    late_seconds = (now - time) / 1000 / speed
    if late_seconds > limit_seconds:
        return f"{late_seconds:.0f} s late, the limit is {limit_seconds:g} s"
    return None


def tell(effects: Effects) -> None:
    """Log what one decision did."""
    for event, facts in decision_events(effects):
        log_event(event, **facts)


def effects_commit(effects: Effects) -> Commit:
    """Return what one transaction stores of a decision, its audited events included."""
    return Commit(
        record=effects.record,
        entries=effects.entries,
        orders=effects.orders,
        fills=effects.fills,
        rejections=effects.rejections,
        audits=tuple(
            AuditRecord(at=effects.record.decided_at, event=event.value, facts=facts)
            for event, facts in decision_events(effects)
            if EVENTS[event].audited
        ),
    )


def decision_events(effects: Effects) -> Iterator[tuple[Event, dict[str, object]]]:
    """Name what one decision did and whose it was, in the daemon's vocabulary."""
    for event, facts in _events(effects):
        yield event, {"account_id": effects.record.account_id, **facts}


def _events(effects: Effects) -> Iterator[tuple[Event, dict[str, object]]]:
    record = effects.record
    time = row_time(record.decision_time)
    for kind, detail in effects.events:
        yield Event(kind.value), {"decision_time": time, "detail": detail}
    for fill in effects.fills:
        yield (
            Event.ORDER_FILLED,
            {
                "symbol": fill.symbol,
                "quantity": str(fill.quantity),
                "fill_price": str(fill.fill_price),
                "fee": str(fill.fee),
            },
        )
    for rejection in effects.rejections:
        yield (
            Event.ORDER_REJECTED,
            {"symbol": rejection.symbol, "reason": rejection.reason.value},
        )
    if record.status == "missed":
        yield (
            Event.DECISION_MISSED,
            {"decision_time": time, "reason": record.reason},
        )
        return
    yield (
        Event.DECISION_COMMITTED,
        {
            "decision_time": time,
            "status": record.status,
            "source": record.source,
            "equity": round(record.equity, 2),
            "turnover": round(record.turnover, 4),
            "orders": len(effects.orders),
        },
    )
