"""Assembles a daemon from its settings, runs it, and takes it down in order.

Nothing is decided here: this room only opens things, hands them to each other and closes them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import structlog

from broker.database import database_exists
from broker.store import Store
from daemon.deployment import Deployment
from daemon.journal import Event, Journal
from daemon.log import configure_logging
from daemon.loop import DecisionLoop, in_thread
from daemon.monitor.security import load_token
from daemon.monitor.server import start_monitor
from daemon.monitor.view import Phase
from daemon.notify import Notifier, watchdog_interval_seconds
from daemon.producers import Producers, check_producers
from daemon.recovery import (
    CRASHES_BEFORE_HOLDING,
    crashes_at,
    open_if_new,
    recall_instruments,
    remember_instruments,
    restore_state,
)
from daemon.retrain import Retrainer
from daemon.rules import QUOTE, check_tradable, decision_rules
from daemon.schedule import Cadence, Scheduler
from daemon.settings import Settings, SettingsError, load_settings
from daemon.signal_desk import SignalDesk
from daemon.status import DaemonView
from daemon.summary import RunSummary, summarise
from daemon.totals import totals_of
from daemon.venue import OwnSandbox, Pacer, VenueTime, ask_venue_time, clock_for
from market.budget import LIMITS, Budget
from market.clock import Clock
from market.exchange import Exchange
from market.ingest import Feed
from market.instrument import Instrument
from market.warehouse import Warehouse
from training.records import RunStatus
from training.registry import Registry

log = structlog.get_logger()

WATCH_SECONDS = 1.0
STARTUP_SECONDS = 120.0
MARKET_KEY = "market_identity"
INTERVAL_KEY = "interval"
SANDBOX_TASK = "sandbox"
BAN_FILE = "venue-ban.json"
MANUAL = "manual"

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What the command line adds to the settings of one run."""

    until_bars: int | None = None
    config_path: Path | None = None


async def run_daemon(settings: Settings, options: RunOptions) -> RunSummary | None:
    """Run until a signal, or until ``options.until_bars`` decisions are committed.

    Bad settings and an unreachable venue are found before anything is written.

    Returns:
        The totals, or ``None`` where a signal came before the daemon had started.

    Raises:
        SettingsError: the settings do not fit what is stored.
        MonitorError: the port is taken.
        VenueError: the venue cannot be reached or refuses us at the start.
    """
    check_tradable(settings)
    check_producers(settings)
    stop = asyncio.Event()
    _listen_for_signals(stop, settings, options.config_path)
    notifier = Notifier.from_environment(os.environ)
    async with AsyncExitStack() as stack:
        view = DaemonView(settings=settings)
        await _start_page(settings, view, stack)
        daemon = await _unless(stop, _start(settings, view, stack))
        if daemon is None:
            return None
        journal = daemon.journal
        await in_thread(journal.write, Event.DAEMON_STARTED, **_start_facts(daemon))
        await _work(daemon, view, notifier, stop, options)
        view.phase = Phase.STOPPING
        notifier.stopping()
        await in_thread(journal.write, Event.DAEMON_STOPPED, **_start_facts(daemon))
        return _summary(daemon)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, R]) -> R | None:
    """Finish ``work``, or cancel it as soon as ``stop`` is set and return ``None``."""
    task, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.wait({task})
    return None


async def _start(settings: Settings, view: DaemonView, stack: AsyncExitStack) -> _Daemon:
    """Meet the venue first, then open the stores, then take up the account."""
    found = await _find_venue(settings, stack)
    view.meet_venue(base_url=found.base_url, venue=found.time)
    exchange = await Exchange.open(
        settings.exchange.name, base_url=found.base_url, budget=_budget(settings, found)
    )
    stack.push_async_callback(exchange.close)
    instruments = await _load_instruments(exchange, settings)
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    stores = await _open_stores(settings, clock_for(found.time), stack)
    remember_instruments(stores.store, instruments)
    daemon = await _assemble(settings, found, exchange, instruments, stores, stack)
    view.attach(
        clock=stores.clock,
        store=stores.store,
        registry=stores.registry,
        loop=daemon.loop,
        feed=daemon.feed,
        retrainer=daemon.retrainer,
        producers=daemon.producers,
        scheduler=daemon.scheduler,
        deployment=daemon.deployment,
    )
    return daemon


async def _load_instruments(exchange: Exchange, settings: Settings) -> tuple[Instrument, ...]:
    """The venue's rules; a symbol that it has delisted keeps those of an earlier run.

    Raises:
        NotOffered: the venue does not list a symbol, and no earlier run knew it.
    """
    symbols = settings.exchange.symbols
    gone = [symbol for symbol in symbols if not exchange.lists(symbol)]
    known = await in_thread(recall_instruments, settings.ledger_url) if gone else {}
    asked = [symbol for symbol in symbols if exchange.lists(symbol) or symbol not in known]
    fresh = {one.symbol: one for one in await exchange.load_instruments(asked)}
    for symbol in set(symbols) - set(fresh):
        log.warning(
            "symbol_delisted", symbol=symbol, remedy="its position is kept at its last mark"
        )
        fresh[symbol] = replace(known[symbol], is_trading=False)
    return tuple(fresh[symbol] for symbol in symbols)


def _budget(settings: Settings, found: _Found) -> Budget | None:
    """The venue's limits in its own time; a ban of a live venue outlives this process.

    A sandbox in lock-step stands still while we ask, and limits nobody.
    """
    venue = settings.exchange.name
    if found.base_url is None:
        return Budget(LIMITS[venue], ban_file=settings.state_dir / BAN_FILE)
    if found.time is None or found.time.lock_step:
        return None
    return Budget(LIMITS[venue], speed=found.time.speed)


def _summary(daemon: _Daemon) -> RunSummary:
    loop, settings = daemon.loop, daemon.settings
    assert loop.state is not None
    return summarise(
        account_id=settings.account.id,
        market=settings.market_identity,
        decisions_this_run=loop.progress.decisions,
        totals=loop.totals,
        state=loop.state,
        model_id=None if loop.last_record is None else loop.last_record.model_id,
        last_decision_time=None if loop.last_record is None else loop.last_record.decision_time,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """The venue: where it is, what a sandbox says of itself, and the child if it is ours."""

    base_url: str | None
    time: VenueTime | None
    own: OwnSandbox | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stores:
    clock: Clock
    store: Store
    registry: Registry
    warehouse: Warehouse
    journal: Journal


@dataclass(frozen=True, slots=True, kw_only=True)
class _Daemon:
    settings: Settings
    loop: DecisionLoop
    feed: Feed
    retrainer: Retrainer
    producers: Producers
    scheduler: Scheduler
    deployment: Deployment
    journal: Journal
    sandbox: OwnSandbox | None
    last_run_at: int | None


async def _open_stores(settings: Settings, clock: Clock, stack: AsyncExitStack) -> _Stores:
    """Open ledger, registry and warehouse, and make sure they belong to this market.

    Raises:
        SettingsError: the ledger's accounts trade another market.
    """
    store = await in_thread(Store.open, settings.ledger_url)
    stack.callback(store.close)
    registry = await in_thread(Registry.open, settings.ledger_url)
    stack.callback(registry.close)
    known = store.meta(MARKET_KEY)
    if known is None:
        store.set_meta(MARKET_KEY, settings.market_identity)
    elif known != settings.market_identity:
        raise SettingsError(
            f"state_dir = {str(settings.state_dir)!r}: its account trades {known!r}, the settings "
            f"say {settings.market_identity!r}; use another state_dir for another market"
        )
    warehouse = await in_thread(Warehouse.open, settings.warehouse_url)
    stack.callback(warehouse.close)
    _same_interval(store, settings)
    return _Stores(
        clock=clock,
        store=store,
        registry=registry,
        warehouse=warehouse,
        journal=Journal(store, now=clock.now),
    )


def _same_interval(store: Store, settings: Settings) -> None:
    """Refuse another bar length than the account was traded at.

    Raises:
        SettingsError: it has changed.
    """
    known, wanted = store.meta(INTERVAL_KEY), settings.exchange.interval
    if known is None:
        store.set_meta(INTERVAL_KEY, wanted)
    elif known != wanted:
        raise SettingsError(
            f"exchange.interval = {wanted!r}: the account in {settings.state_dir} is traded at "
            f"{known!r}; use another state_dir for another interval"
        )


async def _start_page(settings: Settings, view: DaemonView, stack: AsyncExitStack) -> None:
    if not settings.monitor.enabled:
        return
    monitor = await start_monitor(
        view,
        host=settings.monitor.host,
        port=settings.monitor.port,
        token=load_token(os.environ),
    )
    stack.push_async_callback(monitor.close)
    print(f"monitoring page: {monitor.url}", file=sys.stderr, flush=True)


async def _find_venue(settings: Settings, stack: AsyncExitStack) -> _Found:
    """Start the daemon's own sandbox if the settings ask for it; ask a sandbox for its clock."""
    base_url, sandbox = settings.exchange.base_url, None
    if settings.sandbox.enabled:
        resume_at = await in_thread(_last_decision_time, settings)
        sandbox = await stack.enter_async_context(OwnSandbox(settings, resume_at=resume_at))
        base_url = sandbox.url
        log.info("sandbox_started", url=base_url, market=settings.market_identity)
    if base_url is None:
        return _Found(base_url=None, time=None, own=None)
    return _Found(base_url=base_url, time=await ask_venue_time(base_url), own=sandbox)


def _last_decision_time(settings: Settings) -> int | None:
    """Where the account of an earlier run stands; a sandbox of ours resumes there."""
    if not database_exists(settings.ledger_url):
        return None
    store = Store.open(settings.ledger_url)
    try:
        return store.last_decision_time(settings.account.id)
    finally:
        store.close()


async def _assemble(
    settings: Settings,
    found: _Found,
    exchange: Exchange,
    instruments: tuple[Instrument, ...],
    stores: _Stores,
    stack: AsyncExitStack,
) -> _Daemon:
    clock, venue = stores.clock, found.time
    feed = Feed(
        exchange=exchange,
        warehouse=stores.warehouse,
        clock=clock,
        symbols=settings.exchange.symbols,
        interval_ms=settings.exchange.interval_ms,
        deadline_seconds=settings.exchange.close_deadline_seconds,
        book_depth=settings.exchange.book_depth,
    )
    lock_step = venue is not None and venue.lock_step
    pacer = Pacer(found.base_url if lock_step else None)
    stack.push_async_callback(pacer.close)
    deployment = Deployment(settings=settings, registry=stores.registry, journal=stores.journal)
    loop: DecisionLoop
    retrainer = Retrainer(
        settings=settings,
        clock=clock,
        registry=stores.registry,
        journal=stores.journal,
        take_snapshot=lambda: loop.take_snapshot(),
    )
    desk = SignalDesk(store=stores.warehouse, clock=clock)
    producers = Producers(
        settings=settings,
        clock=clock,
        journal=stores.journal,
        desk=desk,
        take_history=lambda root: loop.take_history(root),
    )
    loop = DecisionLoop(
        settings=settings,
        rules=decision_rules(settings, instruments),
        clock=clock,
        speed=1.0 if venue is None or lock_step else venue.speed,
        feed=feed,
        warehouse=stores.warehouse,
        store=stores.store,
        journal=stores.journal,
        deployment=deployment,
        retrainer=retrainer,
        pacer=pacer,
        signals=desk,
    )
    await in_thread(_recover, settings, stores, loop, deployment)
    cadence = Cadence.from_crontab(
        settings.training.schedule,
        misfire_grace_seconds=settings.training.misfire_grace_seconds,
    )
    return _Daemon(
        settings=settings,
        loop=loop,
        feed=feed,
        retrainer=retrainer,
        producers=producers,
        scheduler=Scheduler(cadence=cadence, clock=clock, start=retrainer.start),
        deployment=deployment,
        journal=stores.journal,
        sandbox=found.own,
        last_run_at=next((run.started_at for run in stores.registry.runs(limit=1)), None),
    )


def _recover(
    settings: Settings, stores: _Stores, loop: DecisionLoop, deployment: Deployment
) -> None:
    """Open the account at the first start; afterwards rebuild everything from the ledger."""
    store, journal, account = stores.store, stores.journal, settings.account
    now = stores.clock.now()
    stores.registry.mark_interrupted_runs(at=now)
    open_if_new(
        store,
        journal,
        account_id=account.id,
        deposit=Decimal(str(account.deposit_quote)),
        quote=QUOTE,
        time=now - now % settings.exchange.interval_ms,
    )
    _same_symbols(store, settings)
    state, last = restore_state(store, account.id, sigma_window_bars=loop.rules.sigma_window_bars)
    totals = totals_of(store.decisions(account.id), fills=store.count_fills(account.id))
    crashes = crashes_at(store, None if last is None else last.decision_time)
    if crashes >= CRASHES_BEFORE_HOLDING:
        journal.write(Event.SAFE_MODE_ENTERED, crashes=crashes)
    loop.take_up(state, last, totals, hold=crashes >= CRASHES_BEFORE_HOLDING)
    journal.write(Event.ACCOUNT_RECOVERED, account_id=account.id, equity=state.equity)
    deployment.refresh()
    newest = next(iter(stores.registry.runs(limit=1)), None)
    if newest is not None and newest.status is RunStatus.CANDIDATE and newest.trigger != MANUAL:
        assert newest.model_id is not None
        deployment.promote(newest.model_id, now)


def _same_symbols(store: Store, settings: Settings) -> None:
    """Refuse to start where a held symbol is no longer followed.

    Raises:
        SettingsError: a position would be left without prices.
    """
    account = store.load_account(settings.account.id)
    held = set() if account is None else set(account.positions)
    if gone := sorted(held - set(settings.exchange.symbols)):
        raise SettingsError(
            f"exchange.symbols: the account holds {', '.join(gone)}; keep it in the list until it "
            "is sold, or use another state_dir"
        )


def _start_facts(daemon: _Daemon) -> dict[str, object]:
    last = daemon.loop.last_record
    return {
        "last_decision_time": None if last is None else last.decision_time,
        "market": daemon.settings.market_identity,
    }


async def _work(
    daemon: _Daemon,
    view: DaemonView,
    notifier: Notifier,
    stop: asyncio.Event,
    options: RunOptions,
) -> None:
    """Run every task until the decisions are done or a stop is asked for."""
    decisions = asyncio.create_task(_trade(daemon, view, notifier, options), name="decisions")
    others = [
        asyncio.create_task(work, name=name)
        for name, work in _background(daemon, view, notifier).items()
    ]
    stopping = asyncio.create_task(stop.wait(), name="stop")
    everything = {decisions, stopping, *others}
    try:
        done, _ = await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopping}:
            task.result()  # a fault of ours ends the process; the restart recovers
            if task is not decisions and task.get_name() != SANDBOX_TASK:
                raise RuntimeError(f"the {task.get_name()} task ended by itself")
    finally:
        for task in everything:
            task.cancel()
        await asyncio.gather(*everything, return_exceptions=True)


def _background(
    daemon: _Daemon, view: DaemonView, notifier: Notifier
) -> dict[str, Coroutine[Any, Any, None]]:
    tasks: dict[str, Coroutine[Any, Any, None]] = {
        "feed": daemon.feed.run(),
        "retrain": daemon.retrainer.run(),
        "producers": daemon.producers.run(),
        "watchdog": _watch(view, notifier),
    }
    if daemon.sandbox is not None:
        tasks[SANDBOX_TASK] = daemon.sandbox.wait()
    if daemon.settings.training.enabled:
        tasks["schedule"] = daemon.scheduler.run(daemon.last_run_at)
    return tasks


async def _trade(
    daemon: _Daemon, view: DaemonView, notifier: Notifier, options: RunOptions
) -> None:
    view.phase = Phase.BACKFILLING

    def note(done: int, total: int) -> None:
        view.note_backfill(done, total)
        notifier.extend_startup(STARTUP_SECONDS)

    await daemon.loop.backfill(note)
    daemon.producers.begin()
    view.running()
    notifier.ready("trading on paper")
    daemon.journal.write(Event.DAEMON_READY)
    await daemon.loop.resume_venue()
    if daemon.settings.training.enabled and daemon.deployment.deployed is None:
        await daemon.retrainer.start("no_champion")
    await daemon.loop.run(options.until_bars)


async def _watch(view: DaemonView, notifier: Notifier) -> None:
    """Feed systemd's watchdog while there is progress, and raise and clear alerts."""
    interval = watchdog_interval_seconds(os.environ, pid=os.getpid())
    while True:
        healthy, _ = view.healthy()
        if healthy:
            notifier.watchdog()
        await in_thread(view.tell_alerts)
        await in_thread(view.learn_verdict)
        await asyncio.sleep(min(interval or WATCH_SECONDS, WATCH_SECONDS))


def _listen_for_signals(stop: asyncio.Event, settings: Settings, config: Path | None) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _reload_logging, settings, config)


def _reload_logging(settings: Settings, config: Path | None) -> None:
    """SIGHUP: the log settings change live; everything else needs a restart."""
    try:
        fresh = load_settings(config) if config is not None else settings
    except SettingsError as error:
        log.error("settings_refused", reason=str(error))
        return
    configure_logging(fresh.log.level, json=fresh.log.json_lines or None)
    log.info("settings_reloaded", changed="log", restart_needed_for="everything else")
