"""``ballast doctor``: does everything that the daemon needs work here?"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING

from daemon.commands.common import (
    Subparsers,
    add_json_option,
    add_settings_options,
    print_json,
    print_table,
    settings_from,
)
from daemon.doctor import Finding, Outcome
from daemon.settings import Settings

if TYPE_CHECKING:
    from daemon.doctor_venue import VenueProbe

# What was found at the venue, and what was not tried with the reason, by name.
Examination = tuple[list[Finding], dict[str, str]]

DESCRIPTION = """\
Try everything that the daemon relies on: this machine, the ledger, and one by one what the code
assumes about the configured venue, on its live endpoints: paths, fields, order and limit of rows,
the open bar, the closed flag, funding, filters, clock, rate limits, quotes, the websocket.

Each is reported as
  holds        it is so
  differs      the venue answers, and it is not so: the line below says what that does to us
  unreachable  there was no answer to judge: the line below says why

No key is needed and nothing is written. It makes about 40 public requests and waits for one bar of
one minute to close (--quick does not wait). Without --config, --exchange or --base-url it starts a
sandbox venue of its own and tries that."""

EPILOG = """\
examples:
  ballast doctor --exchange binanceusdm             a live venue, before the first run
  ballast doctor --exchange bybit --quick           without waiting for a bar to close
  ballast doctor --config ballast.toml --json       what your settings will meet

exit codes: 0 all hold; 1 something differs or cannot be reached; 2 bad input"""


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="check this machine, the stores and every assumption about the venue",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="do not wait for a bar to close")
    add_settings_options(parser)
    add_json_option(parser)
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Try everything and print what was found."""
    settings = settings_from(args)
    at_venue, skipped = asyncio.run(_venue(settings, quick=args.quick))
    findings = [*_machine(settings), *at_venue]
    holds = all(finding.outcome is Outcome.HOLDS for finding in findings)
    if args.json:
        print_json(
            {
                "venue": settings.exchange.name.value,
                "holds": holds,
                "findings": [asdict(finding) for finding in findings],
                "skipped": skipped,
            }
        )
    else:
        _print(findings)
        for name, reason in skipped.items():
            print(f"skipped      {name}: {reason}")
    return 0 if holds else 1


def _print(findings: Sequence[Finding]) -> None:
    """A table, then a paragraph for each cause of what does not hold."""
    rows = [(one.outcome.value, one.name, one.found) for one in findings]
    print_table(["outcome", "assumption", "found"], rows)
    causes: dict[tuple[Outcome, str], list[Finding]] = {}
    for one in findings:
        if one.outcome is not Outcome.HOLDS:
            causes.setdefault((one.outcome, one.found), []).append(one)
    for alike in causes.values():
        _explain(alike)
    held = sum(one.outcome is Outcome.HOLDS for one in findings)
    print(f"\n{held} of {len(findings)} hold")


def _explain(alike: Sequence[Finding]) -> None:
    """Say what differs and what it does to us; what has one cause is explained once."""
    first = alike[0]
    names = first.name if len(alike) == 1 else f"{first.name} and {len(alike) - 1} more"
    print(f"\n{names}: {first.outcome.value}")
    if len(alike) == 1:
        print(f"  expected     {first.expected}")
    print(f"  found        {first.found}")
    if first.outcome is Outcome.DIFFERS:
        for one in alike:
            print(f"  consequence  {one.consequence}")


# This machine


def _machine(settings: Settings) -> Iterator[Finding]:
    yield _try(
        "python",
        "3.11 or newer",
        "The program does not run on an older one.",
        lambda: (sys.version_info >= (3, 11), sys.version.split()[0]),
    )
    yield _try(
        "state directory",
        "writable",
        "Nothing can be kept, so the daemon does not start.",
        lambda: _writable(settings),
    )
    yield _try(
        "page's port",
        "free",
        "The daemon does not start while something else listens there.",
        lambda: _port_free(settings),
    )
    yield _try(
        "ledger",
        "its chain and every invariant hold",
        "The account cannot be trusted; see ballast account check.",
        lambda: _ledger(settings),
    )


def _try(
    name: str, expected: str, consequence: str, attempt: Callable[[], tuple[bool, str]]
) -> Finding:
    from broker.database import DatabaseUnavailable

    try:
        holds, found = attempt()
        outcome = Outcome.HOLDS if holds else Outcome.DIFFERS
    except (OSError, DatabaseUnavailable) as error:
        outcome, found = Outcome.UNREACHABLE, str(error)
    return Finding(
        name=name, outcome=outcome, expected=expected, found=found, consequence=consequence
    )


def _writable(settings: Settings) -> tuple[bool, str]:
    place = settings.state_dir
    while not place.exists():
        place = place.parent
    writable = os.access(place, os.W_OK)
    return writable, f"{settings.state_dir} is {'' if writable else 'not '}writable"


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


# The venue


async def _venue(settings: Settings, *, quick: bool) -> Examination:
    from daemon.doctor_venue import VenueProbe
    from daemon.venue import OwnSandbox, SandboxFailed

    async with AsyncExitStack() as stack:
        base_url = settings.exchange.base_url
        if settings.sandbox.enabled:
            own = OwnSandbox(_flowing(settings), resume_at=None)
            try:
                base_url = (await stack.enter_async_context(own)).url
            except SandboxFailed as error:
                return [_no_sandbox(str(error))], {}
        probe = VenueProbe(
            settings.exchange.name,
            base_url=base_url,
            symbols=settings.exchange.symbols,
            interval_ms=settings.exchange.interval_ms,
        )
        stack.push_async_callback(probe.close)
        await probe.open()
        return await _examine(probe, quick=quick)


async def _examine(probe: VenueProbe, *, quick: bool) -> Examination:
    from daemon.doctor import examine
    from daemon.doctor_assumptions import assumptions_of, skipped_of
    from daemon.progress import ProgressBar

    with ProgressBar("doctor", unit="assumptions") as bar:
        trials = assumptions_of(probe, quick=quick)
        findings = await examine(trials, probe, progress=bar.show)
    return findings, skipped_of(probe, quick=quick)


def _flowing(settings: Settings) -> Settings:
    """The settings with a sandbox whose time passes by itself: there is no daemon to wait for."""
    speed = settings.sandbox.speed or settings.exchange.interval_ms / 1000
    sandbox = settings.sandbox.model_copy(update={"lock_step": False, "speed": speed})
    return settings.model_copy(update={"sandbox": sandbox})


def _no_sandbox(cause: str) -> Finding:
    return Finding(
        name="sandbox venue",
        outcome=Outcome.UNREACHABLE,
        expected="starts",
        found=cause,
        consequence="There is no venue to try.",
    )
