"""``ballast doctor``: does everything that the daemon needs work here?"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from daemon.commands.common import (
    Subparsers,
    add_json_option,
    add_settings_options,
    print_json,
    settings_from,
)
from daemon.settings import Settings

CLOCK_SKEW_LIMIT_MS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was tried: ``holds``, ``differs`` or ``unreachable``, and the facts."""

    name: str
    outcome: str
    detail: str


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="check this machine, the stores and the venue",
        description="Try what the daemon will need: the state directory, the page's port, the "
        "ledger, and the configured venue's clock, instruments, bars and funding. Exit code 1 "
        "where something differs or cannot be reached.",
    )
    add_settings_options(parser)
    add_json_option(parser)
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Try everything and print what was found."""
    settings = settings_from(args)
    findings = [*_machine(settings), *asyncio.run(_venue(settings))]
    if args.json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{finding.outcome:<12} {finding.name:<20} {finding.detail}")
    return 0 if all(finding.outcome == "holds" for finding in findings) else 1


def _machine(settings: Settings) -> Iterator[Finding]:
    yield _try("python", lambda: (sys.version_info >= (3, 11), sys.version.split()[0]))
    yield _try("state directory", lambda: _writable(settings))
    yield _try("page's port", lambda: _port_free(settings))
    yield _try("ledger", lambda: _ledger(settings))


def _try(name: str, attempt: Callable[[], tuple[bool, str]]) -> Finding:
    from broker.database import DatabaseUnavailable

    try:
        holds, detail = attempt()
    except (OSError, DatabaseUnavailable) as error:
        return Finding(name=name, outcome="unreachable", detail=str(error))
    return Finding(name=name, outcome="holds" if holds else "differs", detail=detail)


def _writable(settings: Settings) -> tuple[bool, str]:
    place = settings.state_dir
    while not place.exists():
        place = place.parent
    return os.access(place, os.W_OK), f"{settings.state_dir} is writable"


def _port_free(settings: Settings) -> tuple[bool, str]:
    address = (settings.monitor.host, settings.monitor.port)
    with socket.socket() as probe:
        taken = probe.connect_ex(address) == 0 if address[1] else False
    where = f"{address[0]}:{address[1]}"
    return not taken, f"{where} is {'taken (a daemon that runs?)' if taken else 'free'}"


def _ledger(settings: Settings) -> tuple[bool, str]:
    from broker.database import database_exists
    from broker.store import Store

    if not database_exists(settings.ledger_url):
        return True, "none yet; the first run makes it"
    store = Store.open(settings.ledger_url)
    try:
        problems = [one for name in store.account_ids() for one in store.check(name)]
    finally:
        store.close()
    return not problems, problems[0] if problems else "the chain and every invariant hold"


async def _venue(settings: Settings) -> list[Finding]:
    from contextlib import AsyncExitStack

    from daemon.venue import OwnSandbox, SandboxFailed
    from market.exchange import Exchange
    from market.retry import VenueError

    async with AsyncExitStack() as stack:
        base_url = settings.exchange.base_url
        try:
            if settings.sandbox.enabled:
                own = OwnSandbox(settings, resume_at=None)
                base_url = (await stack.enter_async_context(own)).url
            exchange = await Exchange.open(settings.exchange.name, base_url=base_url)
            stack.push_async_callback(exchange.close)
            return await _try_venue(exchange, settings, base_url)
        except (VenueError, SandboxFailed) as error:
            return [Finding(name="venue", outcome="unreachable", detail=str(error))]


async def _try_venue(exchange, settings: Settings, base_url: str | None) -> list[Finding]:  # type: ignore[no-untyped-def]  # imported when it runs
    from daemon.venue import ask_venue_time
    from market.bar import DAY_MS, bar_defect
    from market.clock import WallClock

    symbols, interval = settings.exchange.symbols, settings.exchange.interval_ms
    venue_time = None if base_url is None else await ask_venue_time(base_url)
    now = await exchange.server_time()
    skew = 0 if venue_time is not None else now - WallClock().now()
    instruments = await exchange.load_instruments(symbols)
    bars = await exchange.fetch_bars(
        symbols[0], interval_ms=interval, since=now - 10 * interval, until=now
    )
    funding = await exchange.fetch_settlements(symbols[0], since=now - 3 * DAY_MS, until=now)
    open_bar = [bar for bar in bars if bar.open_time + interval > now]
    return [
        _finding("clock", abs(skew) <= CLOCK_SKEW_LIMIT_MS, f"venue minus machine: {skew} ms"),
        _finding("instruments", len(instruments) == len(symbols), f"{len(instruments)} found"),
        _finding("closed bars", len(bars) >= 9 and not open_bar, f"{len(bars)} of {symbols[0]}"),
        _finding(
            "bar fields",
            all(bar_defect(bar, interval) is None for bar in bars),
            "finite, ordered, aligned",
        ),
        _finding("funding history", bool(funding), f"{len(funding)} settlements in three days"),
    ]


def _finding(name: str, holds: bool, detail: str) -> Finding:
    return Finding(name=name, outcome="holds" if holds else "differs", detail=detail)
