"""``ballast run``: brings a daemon up, lets it work, and takes it down in order.

Nothing is decided here.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog

from daemon.assembly import Daemon, assemble
from daemon.journal import Event
from daemon.log import configure_logging
from daemon.loop import in_thread
from daemon.monitor.security import load_token
from daemon.monitor.server import start_monitor
from daemon.monitor.view import Phase
from daemon.notify import Notifier, watchdog_interval_seconds
from daemon.producers import check_producers
from daemon.recovery import remember_instruments
from daemon.rules import check_account
from daemon.settings import Settings, SettingsError, load_settings
from daemon.status import DaemonView
from daemon.stores import open_stores
from daemon.summary import RunSummary, summarise
from daemon.venue import clock_for
from daemon.venue_access import find_venue, load_instruments, open_exchange

log = structlog.get_logger()

WATCH_SECONDS = 1.0
STARTUP_SECONDS = 120.0
SANDBOX_TASK = "sandbox"

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
    check_account(settings)
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
        await _note(daemon, Event.DAEMON_STARTED)
        await _work(daemon, view, notifier, stop, options)
        view.phase = Phase.STOPPING
        notifier.stopping()
        await _note(daemon, Event.DAEMON_STOPPED)
        return _summary(daemon)


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


async def _start(settings: Settings, view: DaemonView, stack: AsyncExitStack) -> Daemon:
    """Meet the venue first, then open the stores, then take up the account."""
    access = await find_venue(settings, stack)
    view.meet_venue(base_url=access.base_url, venue=access.time)
    exchange = await open_exchange(settings, access, stack)
    instruments = await load_instruments(exchange, settings)
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    stores = await open_stores(settings, clock_for(access.time), stack)
    remember_instruments(stores.ledger, instruments)
    daemon = await assemble(settings, access, exchange, instruments, stores, stack)
    view.attach(daemon)
    return daemon


async def _note(daemon: Daemon, event: Event) -> None:
    """Write a start or a stop to the audit trail: crashes are counted by them."""
    last = daemon.loop.last_record
    await in_thread(
        daemon.stores.journal.write,
        event,
        last_decision_time=None if last is None else last.decision_time,
        market=daemon.settings.market_identity,
    )


async def _work(
    daemon: Daemon,
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
    daemon: Daemon, view: DaemonView, notifier: Notifier
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


async def _trade(daemon: Daemon, view: DaemonView, notifier: Notifier, options: RunOptions) -> None:
    view.phase = Phase.BACKFILLING

    def note(done: int, total: int) -> None:
        view.note_backfill(done, total)
        notifier.extend_startup(STARTUP_SECONDS)

    await daemon.loop.backfill(note)
    daemon.producers.begin()
    view.running()
    notifier.ready("trading on paper")
    daemon.stores.journal.write(Event.DAEMON_READY)
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


def _summary(daemon: Daemon) -> RunSummary:
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
