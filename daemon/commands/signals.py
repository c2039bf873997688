"""``ballast signals``: which producers there are, what is stored of them, and a run by hand."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.commands.common import (
    Subparsers,
    UsageError,
    add_json_option,
    add_settings_options,
    print_json,
    print_table,
    settings_from,
)
from daemon.settings import Settings
from market.bar import DAY_MS

if TYPE_CHECKING:
    from market.producers.child import Answer, Request
    from market.producers.producer import ProducerFailed
    from market.signals import Signal
    from market.warehouse import Warehouse

ROWS_SHOWN = 10
RECENT_MS = 7 * DAY_MS
FAR_FUTURE_MS = 10**13

EXIT_FAULT = 1
EXIT_BAD_INPUT = 2

RUN = """\
Run one producer in a process of its own, as the daemon does, and print what it gives. Nothing is
stored without --store."""

RUN_END = """\
exit codes: 0 done; 1 the producer failed; 2 bad input: no producer of this name, or a bad option of
it; 3 the store cannot be opened (a daemon that runs owns an embedded one). A failure is told on
stderr; --json prints its kind and message on stdout as well"""


def add(subparsers: Subparsers) -> None:
    """Add the commands."""
    parser = subparsers.add_parser(
        "signals",
        help="producers of signals: list them, run one by hand",
        description="Signals are numbers from outside that the observation may hold; "
        "docs/signals.md says how to bring your own.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = commands.add_parser(
        "list",
        help="installed producers and stored streams",
        description="List the installed producers, which are enabled, and every stored stream "
        "with its rows and times.",
    )
    add_settings_options(listing)
    add_json_option(listing)
    listing.set_defaults(execute=execute_list)
    running = commands.add_parser(
        "run",
        help="run one producer once",
        description=RUN,
        epilog=RUN_END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    running.add_argument("name", metavar="NAME", help="as `ballast signals list` gives it")
    running.add_argument(
        "--store",
        action="store_true",
        help="store the rows in the warehouse; they count from five minutes later on",
    )
    running.add_argument(
        "--history",
        action="store_true",
        help="ask for the whole history, as at the first run",
    )
    running.add_argument(
        "--snapshot",
        type=Path,
        metavar="DIR",
        help="read bars from this snapshot (default: freeze those of the warehouse)",
    )
    add_settings_options(running)
    add_json_option(running)
    running.set_defaults(execute=execute_run)


def execute_list(args: argparse.Namespace) -> int:
    """Print producers and streams."""
    from market.producers.producer import installed_producers

    settings = settings_from(args)
    producers = [
        {
            "name": one.name,
            "distribution": one.distribution,
            "target": one.target,
            "enabled": one.name in settings.signals.producers,
        }
        for one in installed_producers()
    ]
    streams = _stored_streams(settings)
    if args.json:
        print_json({"producers": producers, "streams": streams})
        return 0
    print_table(list(producers[0]), [list(row.values()) for row in producers])
    print()
    if streams:
        print_table(list(streams[0]), [list(row.values()) for row in streams])
    else:
        print("no signal is stored")
    return 0


def execute_run(args: argparse.Namespace) -> int:
    """Run a producer once."""
    from market.producers.producer import ProducerFailed

    settings = settings_from(args)
    try:
        answer, stored = _run(args, settings)
    except ProducerFailed as failed:
        return _report_failure(args, failed)
    document = _facts(answer, stored=stored)
    if args.json:
        print_json(document)
    else:
        _print_run(document)
    return 0


def _report_failure(args: argparse.Namespace, failed: ProducerFailed) -> int:
    from market.producers.producer import ProducerFault

    if args.json:
        print_json({"producer": args.name, "fault": failed.fault, "message": str(failed)})
    print(f"ballast: error: {args.name} failed ({failed.fault}): {failed}", file=sys.stderr)
    is_bad_input = failed.fault in (ProducerFault.UNKNOWN, ProducerFault.BAD_OPTION)
    return EXIT_BAD_INPUT if is_bad_input else EXIT_FAULT


def _run(args: argparse.Namespace, settings: Settings) -> tuple[Answer, int | None]:
    """Describe, then produce, both in children; a warehouse is opened only where one is needed.

    Returns:
        What the producer gave, and how many rows were stored: ``None`` for a dry run.
    """
    import asyncio
    from dataclasses import replace

    from daemon.producers import ask_child
    from daemon.signal_desk import OTHERS_MARGIN_MS, SignalDesk, StoreClock
    from market.clock import WallClock

    clock, request = WallClock(), _request(settings, args.name)
    description = asyncio.run(ask_child(request)).description
    with ExitStack() as stack:
        newest: int | None = clock.now() - RECENT_MS
        now = clock.now()
        needs_bars = description.needs_history and args.snapshot is None
        desk = None
        if args.store or needs_bars:
            warehouse = _open_warehouse(settings, stack)
            here = StoreClock(wall=clock, newest_close=warehouse.newest_close())
            desk = SignalDesk(store=warehouse, clock=here, ahead_ms=OTHERS_MARGIN_MS)
        if args.snapshot is not None:
            now, folder = _close_of(args.snapshot), args.snapshot
            request = replace(request, snapshot=str(folder))
        elif needs_bars:
            now, folder = _frozen_bars(settings, warehouse, stack)
            request = replace(request, snapshot=str(folder))
        if desk is not None and args.store:
            newest = desk.newest_event_time(args.name, description.version)
        request = replace(request, now=now, last_event_time=None if args.history else newest)
        answer = asyncio.run(ask_child(request))
        if desk is None or not args.store:
            return answer, None
        desk.keep_refused(answer.refused)
        return answer, desk.insert(answer.rows)


def _open_warehouse(settings: Settings, stack: ExitStack) -> Warehouse:
    from market.warehouse import Warehouse

    settings.state_dir.mkdir(parents=True, exist_ok=True)
    warehouse = Warehouse.open(settings.warehouse_url)
    stack.callback(warehouse.close)
    return warehouse


def _frozen_bars(settings: Settings, warehouse: Warehouse, stack: ExitStack) -> tuple[int, Path]:
    """Freeze the bars of the warehouse; the close of the newest one, and the folder."""
    import tempfile

    from daemon.history import freeze

    root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    now = _last_close(settings, warehouse)
    return now, freeze(settings, warehouse, until=now, root=root).directory


def _close_of(snapshot: Path) -> int:
    from market.snapshot import SnapshotCorrupt, load_snapshot

    try:
        return int(load_snapshot(snapshot).panel.close_time[-1])
    except SnapshotCorrupt as error:
        raise UsageError(f"--snapshot: {error}") from None


def _request(settings: Settings, name: str) -> Request:
    from market.producers.child import Request

    return Request(
        name=name,
        options=settings.signals.options.get(name, {}),
        venue=settings.exchange.name.value,
        symbols=settings.exchange.symbols,
        interval_ms=settings.exchange.interval_ms,
        time_limit_seconds=settings.signals.time_limit_seconds,
        memory_limit_mb=settings.signals.memory_limit_mb,
    )


def _last_close(settings: Settings, warehouse: Warehouse) -> int:
    """The close of the newest stored bar of the configured symbols, UTC milliseconds."""
    ends = [
        one.last_open_time
        for one in warehouse.coverage(
            venue=settings.exchange.name.value, interval_ms=settings.exchange.interval_ms
        )
        if one.symbol in settings.exchange.symbols
    ]
    if not ends:
        raise UsageError(
            f"{settings.warehouse_url}: no bars of {', '.join(settings.exchange.symbols)}; this "
            "producer reads them: run `ballast run` or `ballast import` first"
        )
    return max(ends) + settings.exchange.interval_ms


def _stored_streams(settings: Settings) -> list[dict[str, object]]:
    """One row per source, version and name; empty where there is no warehouse yet."""
    from market.warehouse import Warehouse

    if settings.storage.warehouse_url is None and not (settings.state_dir / "warehouse").exists():
        return []
    warehouse = Warehouse.open(settings.warehouse_url)
    try:
        return summarise_streams(warehouse.signals(since=0, until=FAR_FUTURE_MS))
    finally:
        warehouse.close()


def summarise_streams(signals: Iterable[Signal]) -> list[dict[str, object]]:
    """Count the rows of each stream and say how far they reach."""
    from daemon.targets import row_time

    streams: dict[tuple[str, str, str], list[Signal]] = {}
    for row in signals:
        streams.setdefault(row.stream, []).append(row)
    return [
        {
            "source": source,
            "version": version,
            "name": name,
            "rows": len(rows),
            "backfilled": sum(row.is_backfilled for row in rows),
            "symbols": len({row.symbol for row in rows}),
            "first_event": row_time(min(row.event_time for row in rows)),
            "last_event": row_time(max(row.event_time for row in rows)),
            "last_ingested": row_time(max(row.ingested_at for row in rows)),
        }
        for (source, version, name), rows in sorted(streams.items())
    ]


def _facts(answer: Answer, *, stored: int | None) -> dict[str, object]:
    from dataclasses import asdict

    newest: Sequence[Signal] = sorted(answer.rows, key=lambda row: row.event_time)[-ROWS_SHOWN:]
    return {
        "producer": asdict(answer.description),
        "rows": len(answer.rows),
        "stored": stored,
        "refused": [asdict(one) for one in answer.refused],
        "newest": [asdict(row) for row in newest],
    }


def _print_run(document: dict[str, object]) -> None:
    from daemon.targets import row_time

    refused, newest = document["refused"], document["newest"]
    assert isinstance(refused, list)
    assert isinstance(newest, list)
    print(
        f"{document['rows']} rows, {len(refused)} refused, stored: {document['stored'] or 'none'}"
    )
    for one in refused[:ROWS_SHOWN]:
        print(f"refused: {one['message']}")
    if newest:
        print_table(
            ["event_time", "symbol", "name", "value"],
            [
                [row_time(row["event_time"]), row["symbol"] or "(all)", row["name"], row["value"]]
                for row in newest
            ],
        )
