"""``ballast snapshot``: freeze the stored history for training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.commands.common import (
    Subparsers,
    UsageError,
    add_json_option,
    add_settings_options,
    print_json,
    settings_from,
)
from daemon.commands.spans import add_span_options, check_span, moment, span_options
from daemon.commands.stored import opened
from daemon.settings import Settings
from market.bar import DAY_MS, interval_name

if TYPE_CHECKING:
    from market.snapshot import Snapshot
    from market.warehouse import Warehouse

DESCRIPTION = """\
Freeze bars, marks, funding, trading rules and the configured signals of the settings' symbols.

A snapshot is a folder of memory-mapped arrays named by the hash of its content, so the same history
has the same id on every machine and is written once. Training reads snapshots only. It joins those
of the state directory, which keeps the newest three."""

EPILOG = """\
examples:
  ballast snapshot                                  exchange.history_days up to the newest bar
  ballast snapshot --since 2023-01-01 --until 2024-01-01
  ballast snapshot --config ballast.toml --json

exit codes: 0 done; 2 bad input; 3 the store cannot be opened (a daemon that runs owns an embedded
one, and makes its own snapshots)"""


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "snapshot",
        help="freeze the stored history for training",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_span_options(
        parser,
        since="first open time (default: exchange.history_days before the end)",
        until="open times before this (default: after the newest bar)",
    )
    add_settings_options(parser)
    add_json_option(parser)
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Freeze and describe."""
    from daemon.history import freeze

    since, until = span_options(args)
    settings = settings_from(args)
    root = settings.state_dir / "snapshots"
    with opened(settings) as warehouse:
        first, end = _stored_span(settings, warehouse)
        step_ms = settings.exchange.interval_ms
        until = end if until is None else until - until % step_ms
        earliest = max(first, until - settings.exchange.history_days * DAY_MS)
        since = earliest if since is None else -(-since // step_ms) * step_ms
        check_span(since, until)
        before = set(root.iterdir()) if root.is_dir() else set()
        try:
            snapshot = freeze(settings, warehouse, since=since, until=until)
        except ValueError as error:
            raise UsageError(str(error)) from None
    facts = _facts(snapshot, since, until, existed=snapshot.directory in before)
    if args.json:
        print_json(facts)
    else:
        _print(facts)
    return 0


def _facts(snapshot: Snapshot, since: int, until: int, *, existed: bool) -> dict[str, Any]:
    return {
        "id": snapshot.id,
        "path": str(snapshot.directory),
        "venue": snapshot.venue,
        "interval": interval_name(snapshot.panel.interval_ms),
        "since": since,
        "until": until,
        "symbols": list(snapshot.panel.symbols),
        "bars": len(snapshot.panel),
        "observed": int(snapshot.panel.observed.sum()),
        "signals": len(snapshot.signals),
        "bytes": _size(snapshot.directory),
        "existed": existed,
    }


def _stored_span(settings: Settings, warehouse: Warehouse) -> tuple[int, int]:
    """From the first open time to the last close of the settings' symbols."""
    exchange = settings.exchange
    covered = [
        one
        for one in warehouse.coverage(venue=exchange.name.value, interval_ms=exchange.interval_ms)
        if one.symbol in exchange.symbols
    ]
    if not covered:
        raise UsageError(
            f"{settings.warehouse_url}: no bars of {', '.join(exchange.symbols)} at "
            f"{exchange.name.value} {exchange.interval}; see ballast data check"
        )
    first = min(one.first_open_time for one in covered)
    return first, max(one.last_open_time for one in covered) + exchange.interval_ms


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.iterdir() if file.is_file())


def _print(facts: dict[str, Any]) -> None:
    cells = facts["bars"] * len(facts["symbols"])
    lines = {
        "snapshot": facts["id"],
        "path": facts["path"],
        "market": f"{facts['venue']} {facts['interval']}: {', '.join(facts['symbols'])}",
        "span": f"{moment(facts['since'])} to {moment(facts['until'])} UTC",
        "bars": f"{facts['bars']} per symbol, {facts['observed']} of {cells} there",
        "signals": facts["signals"],
        "size": f"{facts['bytes'] / 1e6:.1f} MB",
        "state": "existed already" if facts["existed"] else "written",
    }
    for name, value in lines.items():
        print(f"{name:<9} {value}")
