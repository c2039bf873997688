"""Fills the monitor's view from the running parts. Reads only; decides nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from importlib.metadata import version

import numpy as np

from broker.account import account_equity, account_weights
from broker.money import to_float
from broker.records import DecisionRecord
from broker.store import Store
from daemon.alerts import Alert, AlertFacts, AlertLimits, Severity, active_alerts
from daemon.decide import last_known
from daemon.deployment import Deployment
from daemon.journal import Event, Journal
from daemon.loop import DecisionLoop
from daemon.monitor.view import (
    Champion,
    CheckRow,
    DecisionRow,
    EntryRow,
    EquityPoint,
    FeedAge,
    FillRow,
    ModelRow,
    OrderRow,
    Phase,
    PositionRow,
    Progress,
    Retraining,
    RetrainState,
    Status,
    VerdictRow,
    thin_curve,
)
from daemon.producers import Producers
from daemon.retrain import Retrainer, RunOutcome
from daemon.schedule import Scheduler
from daemon.settings import Settings
from daemon.venue import VenueTime
from market.bar import DAY_MS
from market.clock import Clock, WallClock, monotonic_seconds
from market.ingest import Feed
from training.gates import Verdict
from training.registry import ModelSummary, Registry

MODELS_SHOWN = 50


class DaemonView:
    """The monitor's ``View`` of one daemon; useful from before its parts exist."""

    def __init__(self, *, settings: Settings) -> None:
        """Start with what is there first; ``attach`` adds the rest."""
        self._settings = settings
        self._store: Store | None = None
        self._registry: Registry | None = None
        self._clock: Clock = WallClock()
        self._venue: VenueTime | None = None
        self._base_url: str | None = None
        self._loop: DecisionLoop | None = None
        self._feed: Feed | None = None
        self._retrainer: Retrainer | None = None
        self._producers: Producers | None = None
        self._scheduler: Scheduler | None = None
        self._deployment: Deployment | None = None
        self._started_at = self._clock.now()
        self._running_since: int | None = None
        self._alerts: tuple[Alert, ...] = ()
        self._last_verdict: VerdictRow | None = None
        self._verdict_after: RunOutcome | str | None = "nothing read yet"
        self.phase = Phase.STARTING
        self.backfill: Progress | None = None

    def meet_venue(self, *, base_url: str | None, venue: VenueTime | None) -> None:
        """Learn which venue it is and what it says of itself."""
        self._base_url = base_url
        self._venue = venue

    def attach(
        self,
        *,
        clock: Clock,
        store: Store,
        registry: Registry,
        loop: DecisionLoop,
        feed: Feed,
        retrainer: Retrainer,
        scheduler: Scheduler,
        deployment: Deployment,
        producers: Producers | None = None,
    ) -> None:
        """Learn the running parts, once they are assembled."""
        self._clock = clock
        self._store = store
        self._registry = registry
        self._started_at = clock.now()
        self._loop = loop
        self._feed = feed
        self._retrainer = retrainer
        self._producers = producers
        self._scheduler = scheduler
        self._deployment = deployment

    def note_backfill(self, done: int, total: int) -> None:
        """Note how many bars of the history are there."""
        self.backfill = Progress(done=done, total=total)

    def running(self) -> None:
        """Note that start-up is over."""
        self.phase = Phase.RUNNING
        self._running_since = self._clock.now()

    def status(self) -> Status:
        """Return the present state, from memory alone."""
        settings, now = self._settings, self._clock.now()
        base = Status(
            version=version("ballast"),
            phase=self.phase,
            now=now,
            started_at=self._started_at,
            venue=settings.exchange.name.value,
            venue_description=self._describe_venue(),
            sandbox=self._venue is not None,
            synthetic=self._venue is not None and self._venue.synthetic,
            symbols=settings.exchange.symbols,
            interval=settings.exchange.interval,
            account_id=settings.account.id,
            speed=1.0 if self._venue is None else max(self._venue.speed, 1.0),
            initial_deposit=settings.account.deposit_quote,
            fallback=settings.account.fallback,
            signal_counters={} if self._producers is None else dict(self._producers.counters),
            retraining=self._retraining(),
            champion=self._champion(),
            alerts=self._alerts,
            backfill=self.backfill if self.phase is Phase.BACKFILLING else None,
        )
        return base if self._loop is None else self._with_account(base, self._loop, now)

    def healthy(self) -> tuple[bool, str]:
        """Judge liveness by the age of the last completed attempt, in real seconds."""
        if self._loop is None:
            return True, "starting"
        age = monotonic_seconds() - self._loop.progress.attempt_at
        limit = self._liveness_limit_seconds()
        if age > limit:
            return False, f"no progress for {age:.0f} s, the limit is {limit:.0f} s"
        return True, f"last progress {age:.1f} s ago"

    def ready(self) -> tuple[bool, str]:
        """Tell whether the loop takes decisions."""
        return self.phase is Phase.RUNNING, f"{self.phase.value}"

    def tell_alerts(self) -> None:
        """Evaluate the alerts; journal those that began and those that ended. Blocks."""
        if self._loop is None or self._store is None:
            return
        journal = Journal(self._store, now=self._clock.now)
        limits = self._alert_limits()
        before = {alert.name for alert in self._alerts}
        self._alerts = active_alerts(self._alert_facts(self._loop), limits)
        now = {alert.name for alert in self._alerts}
        for alert in self._alerts:
            if alert.name not in before:
                informs = alert.severity is Severity.INFO
                event = Event.CONDITION_NOTED if informs else Event.ALERT_RAISED
                journal.write(event, alert=alert.name.value, message=alert.message)
        for name in before - now:
            journal.write(Event.ALERT_CLEARED, alert=name.value)

    def learn_verdict(self) -> None:
        """Read the newest verdict for the page, when a run has ended since. Blocks."""
        if self._registry is None or self._retrainer is None:
            return
        if self._verdict_after is self._retrainer.outcome:
            return
        outcome = self._retrainer.outcome
        models = self._registry.list_models()
        self._last_verdict = _verdict(self._registry, models[0]) if models else None
        self._verdict_after = outcome

    async def equity_curve(self, limit: int) -> tuple[EquityPoint, ...]:
        """Return at most ``limit`` points over the whole life of the account."""
        if self._store is None:
            return ()
        curve = await asyncio.to_thread(self._store.equity_curve, self._settings.account.id)
        fallen = 1 - curve.equity / np.maximum.accumulate(curve.equity)
        points = [
            EquityPoint(time=int(time), equity=float(equity), drawdown=float(depth))
            for time, equity, depth in zip(curve.decision_time, curve.equity, fallen, strict=True)
        ]
        return thin_curve(points, limit)

    async def recent_fills(self, limit: int) -> tuple[FillRow, ...]:
        """Return the newest fills, newest first."""
        if self._store is None:
            return ()
        fills = await asyncio.to_thread(self._store.fills, self._settings.account.id, limit=limit)
        return tuple(
            FillRow(
                event_time=fill.event_time,
                symbol=fill.symbol,
                quantity=to_float(fill.quantity),
                reference_price=to_float(fill.reference_price),
                fill_price=to_float(fill.fill_price),
                fee=to_float(fill.fee),
                slippage=to_float(fill.slippage),
            )
            for fill in reversed(fills)
        )

    async def recent_decisions(self, limit: int) -> tuple[DecisionRow, ...]:
        """Return the newest decisions, newest first."""
        if self._store is None:
            return ()
        account_id = self._settings.account.id
        records = await asyncio.to_thread(self._store.decisions, account_id, limit=limit)
        return tuple(_decision_row(record) for record in reversed(records))

    async def models(self) -> tuple[ModelRow, ...]:
        """Return the newest models with their verdicts, newest first."""
        if self._registry is None:
            return ()
        return await asyncio.to_thread(_model_rows, self._registry)

    async def model(self, model_id: str) -> ModelRow | None:
        """Return one model with its verdict."""
        if self._registry is None:
            return None
        rows = await asyncio.to_thread(_model_rows, self._registry)
        return next((row for row in rows if row.model_id == model_id), None)

    async def entries(self, limit: int) -> tuple[EntryRow, ...]:
        """Return the newest ledger entries, newest first."""
        if self._store is None:
            return ()
        account_id = self._settings.account.id
        entries = await asyncio.to_thread(self._store.entries, account_id, limit=limit)
        return tuple(
            EntryRow(
                entry_id=entry.entry_id,
                kind=entry.kind.value,
                symbol=entry.symbol,
                event_time=entry.event_time,
                posted_at=entry.posted_at,
                postings=tuple(
                    (one.ledger_account, one.currency, str(one.amount)) for one in entry.postings
                ),
                facts=entry.facts,
            )
            for entry in reversed(entries)
        )

    def _describe_venue(self) -> str:
        if self._venue is not None:
            return self._venue.description
        where = self._base_url or "live public market data"
        return f"{self._settings.exchange.name.value}, {where}; paper orders only"

    def _with_account(self, base: Status, loop: DecisionLoop, now: int) -> Status:
        state, panel, totals = loop.state, loop.last_panel, loop.totals
        if state is None:
            return base
        mark = {} if panel is None else last_known(panel.mark, panel.symbols)
        known = {
            symbol: mark.get(symbol, to_float(position.entry_price))
            for symbol, position in state.account.positions.items()
        }
        weights = account_weights(state.account, known)
        record = loop.last_record
        return replace(
            base,
            equity=account_equity(state.account, known),
            wallet=to_float(state.account.wallet),
            peak_equity=state.peak_equity,
            drawdown=state.drawdown,
            weights=weights,
            cash_weight=1.0 - sum(abs(weight) for weight in weights.values()),
            positions=tuple(
                _position_row(symbol, to_float(one.quantity), to_float(one.entry_price), mark)
                for symbol, one in state.account.positions.items()
            ),
            pending_orders=tuple(
                OrderRow(
                    symbol=order.symbol,
                    quantity=to_float(order.quantity),
                    decision_price=to_float(order.decision_price),
                    decision_time=order.decision_time,
                )
                for order in state.account.pending
            ),
            decision_time=None if record is None else record.decision_time,
            last_decision=None if record is None else _decision_row(record),
            decisions=totals.decisions,
            missed=totals.decisions.get("missed", 0),
            fills=totals.fills,
            fees=totals.fees,
            slippage=totals.slippage,
            funding=totals.funding,
            feed=self._feed_ages(loop, now),
            feed_counters={} if self._feed is None else dict(self._feed.counters),
            gaps={} if self._feed is None else self._feed.gap_counts,
            request_budget_used=0.0 if self._feed is None else self._feed.budget_used_share,
            bar_age_seconds=_age(loop.progress.bar_at),
            decision_age_seconds=_age(loop.progress.decision_at),
            commit_age_seconds=_age(loop.progress.commit_at),
        )

    def _feed_ages(self, loop: DecisionLoop, now: int) -> dict[str, FeedAge]:
        closes = last_closes(loop, self._settings.exchange.symbols)
        return {
            symbol: FeedAge(
                last_close_time=closed,
                age_seconds=None if closed is None else max(0.0, (now - closed) / 1000),
            )
            for symbol, closed in closes.items()
        }

    def _retraining(self) -> Retraining:
        if self._retrainer is None or not self._settings.training.enabled:
            disabled = not self._settings.training.enabled
            return Retraining(
                state=RetrainState.DISABLED if disabled else RetrainState.IDLE,
                last_verdict=self._last_verdict,
            )
        progress, outcome = self._retrainer.progress, self._retrainer.outcome
        return Retraining(
            state=RetrainState.IDLE if progress is None else RetrainState.RUNNING,
            run_id=None if progress is None else progress.run_id,
            trigger=None if progress is None else progress.trigger,
            stage=None if progress is None else progress.stage,
            done=0 if progress is None else progress.done,
            total=0 if progress is None else progress.total,
            started_at=None if progress is None else progress.started_at,
            next_run_at=None if self._scheduler is None else self._scheduler.next_run_at,
            last_verdict=self._last_verdict,
            last_error=None if outcome is None else outcome.error,
            outcomes=dict(self._retrainer.outcomes),
        )

    def _champion(self) -> Champion | None:
        deployed = None if self._deployment is None else self._deployment.deployed
        if deployed is None:
            return None
        champion = deployed.champion
        return Champion(
            model_id=champion.model_id,
            promoted_at=champion.promoted_at,
            summary=champion.reason,
        )

    def _alert_facts(self, loop: DecisionLoop) -> AlertFacts:
        state, outcome = loop.state, None if self._retrainer is None else self._retrainer.outcome
        deployed = None if self._deployment is None else self._deployment.deployed
        failed = outcome is not None and outcome.error is not None
        last = None if loop.last_record is None else loop.last_record.decided_at
        idle = self._retrainer is not None and self._retrainer.progress is None
        failing = self._producers.failing() if self._producers is not None else ()
        return AlertFacts(
            now=self._clock.now(),
            running_since=self._running_since,
            last_close_times=last_closes(loop, self._settings.exchange.symbols),
            last_decision_at=last,
            last_commit_at=last,
            missed_times=loop.totals.missed_times,
            halted_reason="the drawdown limit was reached" if state and state.halted else None,
            drawdown=0.0 if state is None else state.drawdown,
            drawdown_limit=self._settings.protection.drawdown_limit,
            champion_id=None if deployed is None else deployed.champion.model_id,
            trained_until=None if deployed is None else deployed.trained_until,
            fallback=self._settings.account.fallback,
            quarantined={"all symbols": self._feed.counters.get("bars_quarantined", 0)}
            if self._feed is not None
            else {},
            clock_skew_seconds=None if self._feed is None else self._feed.skew_seconds,
            venue_closed=None if self._feed is None else self._feed.closed_because,
            gone_symbols=() if self._feed is None else tuple(sorted(self._feed.gone)),
            retrain_failure=outcome.error if failed and outcome is not None else None,
            retrain_failed_at=outcome.at if failed and outcome is not None else None,
            retrain_due_at=self._scheduler.next_run_at if self._scheduler and idle else None,
            failed_producers={state.name: state.problem for state in failing},
            producers_failed_since=min(
                (state.failed_since for state in failing if state.failed_since), default=None
            ),
        )

    def _alert_limits(self) -> AlertLimits:
        limits = AlertLimits.for_interval(
            self._settings.exchange.interval_ms,
            speed=1.0 if self._venue is None else max(self._venue.speed, 1.0),
            deadline_seconds=self._settings.exchange.close_deadline_seconds,
        )
        days = self._settings.protection.max_model_age_days
        return replace(limits, model_age_seconds=days * DAY_MS / 1000 if days else None)

    def _liveness_limit_seconds(self) -> float:
        """Two intervals of the venue's time and three deadlines, in real seconds."""
        speed = 1.0 if self._venue is None else max(self._venue.speed, 1.0)
        interval = self._settings.exchange.interval_ms / 1000 / speed
        return 2 * interval + 3 * self._settings.exchange.close_deadline_seconds


def _verdict(registry: Registry, model: ModelSummary) -> VerdictRow:
    return verdict_row(model, registry.verdict(model.model_id))


def verdict_row(model: ModelSummary, verdict: Verdict) -> VerdictRow:
    """Put a verdict into the page's words."""
    return VerdictRow(
        model_id=model.model_id,
        passed=verdict.passed,
        reasons=verdict.reasons,
        at=model.judged_at,
        checks=tuple(
            CheckRow(
                name=check.name,
                value=check.value if check.measured else None,
                threshold=check.threshold,
                comparison=check.relation.value,
                hard=check.hard,
                passed=check.passed,
                explanation=check.explanation,
            )
            for check in verdict.checks
        ),
    )


def _model_rows(registry: Registry) -> tuple[ModelRow, ...]:
    """Read the newest ``MODELS_SHOWN`` models. Blocks."""
    promoted = {one.model_id: one.at for one in registry.promotions()}
    return tuple(
        ModelRow(
            model_id=model.model_id,
            state="champion" if model.leads else ("passed" if model.passed else "refused"),
            created_at=model.created_at,
            promoted_at=promoted.get(model.model_id),
            snapshot_id=model.snapshot_id,
            verdict=_verdict(registry, model),
        )
        for model in registry.list_models()[:MODELS_SHOWN]
    )


def _position_row(
    symbol: str, quantity: float, entry_price: float, mark: dict[str, float]
) -> PositionRow:
    price = mark.get(symbol)
    value = entry_price if price is None else price
    return PositionRow(
        symbol=symbol,
        quantity=quantity,
        entry_price=entry_price,
        mark_price=price,
        notional=quantity * value,
        unrealised=quantity * (value - entry_price),
    )


def _decision_row(record: DecisionRecord) -> DecisionRow:
    return DecisionRow(
        decision_time=record.decision_time,
        status=record.status,
        source=record.source,
        model_id=record.model_id,
        reason=record.reason,
        equity=record.equity,
        turnover=record.turnover,
        fees=record.fees,
        slippage=record.slippage,
        funding=record.funding,
        target_weights=record.target_weights,
        missing=record.missing,
    )


def last_closes(loop: DecisionLoop, symbols: tuple[str, ...]) -> dict[str, int | None]:
    """Close of each symbol's newest final bar that a decision has seen."""
    panel = loop.last_panel
    if panel is None:
        return dict.fromkeys(symbols)
    return {
        symbol: int(panel.close_time[seen[-1]]) if len(seen) else None
        for symbol, seen in (
            (name, np.flatnonzero(panel.observed[:, i])) for i, name in enumerate(panel.symbols)
        )
    }


def _age(moment: float | None) -> float | None:
    return None if moment is None else monotonic_seconds() - moment
