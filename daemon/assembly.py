"""The parts of a daemon, and how they are handed to each other.

Nothing is opened here, and nothing runs yet.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from daemon.deployment import Deployment
from daemon.loop import DecisionLoop, in_thread
from daemon.producers import Producers
from daemon.recovery import recover
from daemon.retrain import Retrainer
from daemon.rules import decision_rules, quoted_costs
from daemon.schedule import Cadence, Scheduler
from daemon.settings import Settings
from daemon.shadows import open_shadows
from daemon.signal_desk import SignalDesk
from daemon.stores import Stores
from daemon.venue import OwnSandbox, Pacer
from daemon.venue_access import VenueAccess
from market.exchange import Exchange
from market.ingest import Feed
from market.instrument import Instrument
from training.records import RunStatus

MANUAL = "manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """An assembled daemon.

    Attributes:
        sandbox: the venue, where it is a child of ours.
        last_run_at: when a training run last started, UTC milliseconds; ``None`` for never.
    """

    settings: Settings
    stores: Stores
    feed: Feed
    loop: DecisionLoop
    retrainer: Retrainer
    producers: Producers
    scheduler: Scheduler
    deployment: Deployment
    sandbox: OwnSandbox | None
    last_run_at: int | None


async def assemble(
    settings: Settings,
    access: VenueAccess,
    exchange: Exchange,
    instruments: tuple[Instrument, ...],
    stores: Stores,
    stack: AsyncExitStack,
) -> Daemon:
    """Make every part and take the account up where the ledger left it.

    Args:
        settings: checked against the stores.
        access: where the venue is.
        exchange: the open connection to it.
        instruments: rules of every symbol, in the order of the settings.
        stores: open.
        stack: closes the pacer.

    Raises:
        SettingsError: a symbol that the account holds is no longer followed.
    """
    clock, journal, registry = stores.clock, stores.journal, stores.registry
    feed = _feed(settings, exchange, stores)
    pacer = Pacer(access.base_url if access.in_lock_step else None)
    stack.push_async_callback(pacer.close)
    deployment = Deployment(settings=settings, registry=registry, journal=journal)
    loop: DecisionLoop
    retrainer = Retrainer(
        settings=settings,
        clock=clock,
        registry=registry,
        journal=journal,
        take_snapshot=lambda: loop.take_snapshot(),
    )
    desk = SignalDesk(store=stores.warehouse, clock=clock)
    producers = Producers(
        settings=settings,
        clock=clock,
        journal=journal,
        desk=desk,
        take_history=lambda root: loop.take_history(root),
    )
    loop = DecisionLoop(
        settings=settings,
        rules=decision_rules(settings, instruments, quoted=quoted_costs(settings)),
        clock=clock,
        speed=access.speed,
        feed=feed,
        warehouse=stores.warehouse,
        store=stores.ledger,
        journal=journal,
        deployment=deployment,
        retrainer=retrainer,
        pacer=pacer,
        signals=desk,
    )
    await in_thread(_take_up, settings, stores, loop, deployment, desk)
    return Daemon(
        settings=settings,
        stores=stores,
        feed=feed,
        loop=loop,
        retrainer=retrainer,
        producers=producers,
        scheduler=_scheduler(settings, stores, retrainer),
        deployment=deployment,
        sandbox=access.own,
        last_run_at=next((run.started_at for run in registry.runs(limit=1)), None),
    )


def _feed(settings: Settings, exchange: Exchange, stores: Stores) -> Feed:
    return Feed(
        exchange=exchange,
        warehouse=stores.warehouse,
        clock=stores.clock,
        symbols=settings.exchange.symbols,
        interval_ms=settings.exchange.interval_ms,
        deadline_seconds=settings.exchange.close_deadline_seconds,
        book_depth=settings.exchange.book_depth,
    )


def _scheduler(settings: Settings, stores: Stores, retrainer: Retrainer) -> Scheduler:
    cadence = Cadence.from_crontab(
        settings.training.schedule,
        misfire_grace_seconds=settings.training.misfire_grace_seconds,
    )
    return Scheduler(cadence=cadence, clock=stores.clock, start=retrainer.start)


def _take_up(
    settings: Settings,
    stores: Stores,
    loop: DecisionLoop,
    deployment: Deployment,
    desk: SignalDesk,
) -> None:
    """Go on where the last run ended, its verdict on a candidate included. Blocks."""
    registry, now = stores.registry, stores.clock.now()
    registry.mark_interrupted_runs(at=now)
    found = recover(
        settings,
        stores.ledger,
        stores.journal,
        now=now,
        sigma_window_bars=loop.rules.sigma_window_bars,
    )
    opened_at = now - now % settings.exchange.interval_ms
    shadows = open_shadows(
        settings,
        stores.ledger,
        registry,
        stores.journal,
        main=found.last,
        opened_at=opened_at if found.last is None else found.last.decision_time,
        rules=loop.rules,
        signals=desk,
    )
    loop.take_up(found.state, found.last, found.totals, hold=found.hold, shadows=shadows)
    deployment.refresh()
    newest = next(iter(registry.runs(limit=1)), None)
    if newest is not None and newest.status is RunStatus.CANDIDATE and newest.trigger != MANUAL:
        assert newest.model_id is not None
        deployment.promote(newest.model_id, now)
