"""Fills the monitor's view from the running parts. Reads only; decides nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from importlib.metadata import version

import numpy as np

from broker.account import account_equity, account_weights
from broker.money import to_float
from daemon.alerts import Alert, Severity, active_alerts
from daemon.assembly import Daemon
from daemon.health import (
    alert_facts,
    alert_limits,
    last_closes,
    liveness,
    liveness_limit_seconds,
)
from daemon.journal import Event
from daemon.loop import DecisionLoop
from daemon.monitor.view import (
    Champion,
    DecisionRow,
    EntryRow,
    EquityPoint,
    FeedAge,
    FillRow,
    ModelRow,
    Phase,
    Progress,
    Retraining,
    RetrainState,
    Status,
    VerdictRow,
    thin_curve,
)
from daemon.page_rows import (
    decision_row,
    entry_row,
    fill_row,
    model_row,
    order_row,
    position_row,
    shadow_row,
    verdict_row,
)
from daemon.producers import Producers
from daemon.retrain import RunOutcome
from daemon.settings import Settings
from daemon.venue import VenueTime
from market.clock import Clock, WallClock, monotonic_seconds
from training.registry import Registry

MODELS_SHOWN = 50


class DaemonView:
    """The monitor's ``View`` of one daemon; useful from before its parts exist."""

    def __init__(self, *, settings: Settings) -> None:
        """Start with what is there first; ``attach`` adds the rest."""
        self._settings = settings
        self._clock: Clock = WallClock()
        self._venue: VenueTime | None = None
        self._base_url: str | None = None
        self._daemon: Daemon | None = None
        self._producers: Producers | None = None
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

    def attach(self, daemon: Daemon) -> None:
        """Learn the running parts, once they are assembled."""
        self._daemon = daemon
        self._producers = daemon.producers
        self._clock = daemon.stores.clock
        self._started_at = self._clock.now()

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
            speed=self._speed,
            initial_deposit=settings.account.deposit_quote,
            fallback=settings.account.fallback,
            signal_counters={} if self._producers is None else dict(self._producers.counters),
            retraining=self._retraining(),
            champion=None if self._daemon is None else _champion(self._daemon),
            alerts=self._alerts,
            backfill=self.backfill if self.phase is Phase.BACKFILLING else None,
        )
        return base if self._daemon is None else _with_account(base, self._daemon, now)

    def healthy(self) -> tuple[bool, str]:
        """Judge liveness by the age of the last completed attempt, in real seconds."""
        if self._daemon is None:
            return True, "starting"
        limit = liveness_limit_seconds(self._settings, speed=self._speed)
        return liveness(self._daemon.loop, limit_seconds=limit)

    def ready(self) -> tuple[bool, str]:
        """Tell whether the loop takes decisions."""
        return self.phase is Phase.RUNNING, f"{self.phase.value}"

    def tell_alerts(self) -> None:
        """Evaluate the alerts; journal those that began and those that ended. Blocks."""
        if self._daemon is None:
            return
        journal = self._daemon.stores.journal
        limits = alert_limits(self._settings, speed=self._speed)
        before = {alert.name for alert in self._alerts}
        facts = alert_facts(self._daemon, running_since=self._running_since)
        self._alerts = active_alerts(facts, limits)
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
        if self._daemon is None or self._verdict_after is self._daemon.retrainer.outcome:
            return
        outcome, registry = self._daemon.retrainer.outcome, self._daemon.stores.registry
        newest = next(iter(registry.list_models()), None)
        self._last_verdict = (
            None if newest is None else verdict_row(newest, registry.verdict(newest.model_id))
        )
        self._verdict_after = outcome

    async def equity_curve(self, limit: int) -> tuple[EquityPoint, ...]:
        """Return at most ``limit`` points over the whole life of the account."""
        if self._daemon is None:
            return ()
        ledger = self._daemon.stores.ledger
        curve = await asyncio.to_thread(ledger.equity_curve, self._settings.account.id)
        fallen = 1 - curve.equity / np.maximum.accumulate(curve.equity)
        points = [
            EquityPoint(time=int(time), equity=float(equity), drawdown=float(depth))
            for time, equity, depth in zip(curve.decision_time, curve.equity, fallen, strict=True)
        ]
        return thin_curve(points, limit)

    async def recent_fills(self, limit: int) -> tuple[FillRow, ...]:
        """Return the newest fills, newest first."""
        if self._daemon is None:
            return ()
        ledger, account_id = self._daemon.stores.ledger, self._settings.account.id
        fills = await asyncio.to_thread(ledger.fills, account_id, limit=limit)
        return tuple(map(fill_row, reversed(fills)))

    async def recent_decisions(self, limit: int) -> tuple[DecisionRow, ...]:
        """Return the newest decisions, newest first."""
        if self._daemon is None:
            return ()
        ledger, account_id = self._daemon.stores.ledger, self._settings.account.id
        records = await asyncio.to_thread(ledger.decisions, account_id, limit=limit)
        return tuple(map(decision_row, reversed(records)))

    async def models(self) -> tuple[ModelRow, ...]:
        """Return the newest models with their verdicts, newest first."""
        if self._daemon is None:
            return ()
        return await asyncio.to_thread(_newest_models, self._daemon.stores.registry)

    async def model(self, model_id: str) -> ModelRow | None:
        """Return one model with its verdict."""
        return next((row for row in await self.models() if row.model_id == model_id), None)

    async def entries(self, limit: int) -> tuple[EntryRow, ...]:
        """Return the newest ledger entries, newest first."""
        if self._daemon is None:
            return ()
        ledger, account_id = self._daemon.stores.ledger, self._settings.account.id
        entries = await asyncio.to_thread(ledger.entries, account_id, limit=limit)
        return tuple(map(entry_row, reversed(entries)))

    @property
    def _speed(self) -> float:
        """Venue seconds per real second, at least 1."""
        return 1.0 if self._venue is None else max(self._venue.speed, 1.0)

    def _describe_venue(self) -> str:
        if self._venue is not None:
            return self._venue.description
        where = self._base_url or "live public market data"
        return f"{self._settings.exchange.name.value}, {where}; paper orders only"

    def _retraining(self) -> Retraining:
        if self._daemon is None or not self._settings.training.enabled:
            disabled = not self._settings.training.enabled
            return Retraining(
                state=RetrainState.DISABLED if disabled else RetrainState.IDLE,
                last_verdict=self._last_verdict,
            )
        retrainer = self._daemon.retrainer
        progress, outcome = retrainer.progress, retrainer.outcome
        return Retraining(
            state=RetrainState.IDLE if progress is None else RetrainState.RUNNING,
            run_id=None if progress is None else progress.run_id,
            trigger=None if progress is None else progress.trigger,
            stage=None if progress is None else progress.stage,
            done=0 if progress is None else progress.done,
            total=0 if progress is None else progress.total,
            started_at=None if progress is None else progress.started_at,
            next_run_at=self._daemon.scheduler.next_run_at,
            last_verdict=self._last_verdict,
            last_error=None if outcome is None else outcome.error,
            outcomes=dict(retrainer.outcomes),
        )


def _newest_models(registry: Registry) -> tuple[ModelRow, ...]:
    """Read the newest ``MODELS_SHOWN`` models. Blocks."""
    promoted = {one.model_id: one.at for one in registry.promotions()}
    return tuple(
        model_row(model, registry.verdict(model.model_id), promoted_at=promoted.get(model.model_id))
        for model in registry.list_models()[:MODELS_SHOWN]
    )


def _champion(daemon: Daemon) -> Champion | None:
    deployed = daemon.deployment.deployed
    if deployed is None:
        return None
    champion = deployed.champion
    return Champion(
        model_id=champion.model_id,
        promoted_at=champion.promoted_at,
        summary=champion.reason,
    )


def _with_account(base: Status, daemon: Daemon, now: int) -> Status:
    loop, feed = daemon.loop, daemon.feed
    state, totals, record = loop.state, loop.totals, loop.last_record
    if state is None:
        return base
    mark = state.marks
    known = {
        symbol: mark.get(symbol, to_float(position.entry_price))
        for symbol, position in state.account.positions.items()
    }
    weights = account_weights(state.account, known)
    return replace(
        base,
        equity=account_equity(state.account, known),
        wallet=to_float(state.account.wallet),
        peak_equity=state.peak_equity,
        drawdown=state.drawdown,
        weights=weights,
        cash_weight=1.0 - sum(abs(weight) for weight in weights.values()),
        positions=tuple(
            position_row(symbol, position, mark.get(symbol))
            for symbol, position in state.account.positions.items()
        ),
        pending_orders=tuple(map(order_row, state.account.pending)),
        shadows=tuple(map(shadow_row, loop.shadows.accounts)),
        decision_time=None if record is None else record.decision_time,
        last_decision=None if record is None else decision_row(record),
        decisions=totals.decisions,
        missed=totals.decisions.get("missed", 0),
        fills=totals.fills,
        fees=totals.fees,
        slippage=totals.slippage,
        funding=totals.funding,
        feed=_feed_ages(loop, daemon.settings.exchange.symbols, now),
        feed_counters=dict(feed.counters),
        gaps=feed.gap_counts,
        request_budget_used=feed.budget_used_share,
        bar_age_seconds=_age(loop.progress.bar_at),
        decision_age_seconds=_age(loop.progress.decision_at),
        commit_age_seconds=_age(loop.progress.commit_at),
    )


def _feed_ages(loop: DecisionLoop, symbols: tuple[str, ...], now: int) -> dict[str, FeedAge]:
    return {
        symbol: FeedAge(
            last_close_time=closed,
            age_seconds=None if closed is None else max(0.0, (now - closed) / 1000),
        )
        for symbol, closed in last_closes(loop, symbols).items()
    }


def _age(moment: float | None) -> float | None:
    return None if moment is None else monotonic_seconds() - moment
