"""``ballast backfill``: history from the venue into the warehouse, without running the daemon."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from daemon.commands.common import (
    Subparsers,
    UsageError,
    add_json_option,
    add_settings_options,
    print_json,
    settings_from,
)
from daemon.commands.spans import add_span_options, moment, span_options
from daemon.settings import Settings

if TYPE_CHECKING:
    from market.warehouse import Warehouse

DESCRIPTION = """\
Fetch bars, mark candles and settlements of the settings' symbols, from a time to now.

Only what is not stored is asked for, so it may be interrupted and started again. A bar that the
venue does not have stays a gap and is recorded with its kind; nothing is ever filled in. Needs a
venue: --exchange, or --base-url for a sandbox that runs, or a configuration with one."""

EPILOG = """\
examples:
  ballast backfill --since 2023-01-01 --exchange binanceusdm
  ballast backfill --since 2024-01-01 --until 2024-02-01 --config ballast.toml
  ballast backfill --since 2024-06-01 --base-url http://127.0.0.1:8711

exit codes: 0 done (gaps that the venue has no bars for included); 2 bad input; 3 the venue cannot
be reached (what came before is stored), or the store cannot be opened (a daemon that runs owns an
embedded one, and fetches its own history)"""


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "backfill",
        help="fetch history from the venue",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_span_options(
        parser,
        since="first open time",
        until="open times before this (default: now)",
        since_required=True,
    )
    add_settings_options(parser)
    add_json_option(parser)
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Fetch, and say what came."""
    since, until = span_options(args)
    settings = settings_from(args)
    if settings.sandbox.enabled:
        raise UsageError(
            "no venue is named: --exchange NAME for a live one, or --base-url URL of a sandbox "
            "that runs (a sandbox of its own would be gone afterwards)"
        )
    assert since is not None
    facts = asyncio.run(_backfill(settings, since=since, until=until))
    if args.json:
        print_json(facts)
    else:
        _print(facts)
    return 0


async def _backfill(settings: Settings, *, since: int, until: int | None) -> dict[str, Any]:
    from daemon.progress import ProgressBar
    from daemon.venue import ask_venue_time, clock_for
    from market.exchange import Exchange
    from market.ingest import Feed

    chosen = settings.exchange
    async with AsyncExitStack() as stack:
        exchange = await Exchange.open(chosen.name, base_url=chosen.base_url)
        stack.push_async_callback(exchange.close)
        await exchange.load_instruments(chosen.symbols)  # an unknown symbol is bad input
        venue_time = None if chosen.base_url is None else await ask_venue_time(chosen.base_url)
        now = await exchange.server_time()
        if since >= now:
            raise UsageError(f"--since {moment(since)} lies in the future of the venue")
        warehouse = await asyncio.to_thread(_open, settings)
        stack.callback(warehouse.close)
        before = await asyncio.to_thread(_totals, settings, warehouse)
        feed = Feed(
            exchange=exchange,
            warehouse=warehouse,
            clock=clock_for(venue_time),
            symbols=chosen.symbols,
            interval_ms=chosen.interval_ms,
        )
        bar = stack.enter_context(ProgressBar("backfill", unit="bars"))
        await feed.backfill(since=since, until=until, progress=partial(bar.show, "history"))
        after = await asyncio.to_thread(_totals, settings, warehouse)
        return {
            "venue": chosen.name.value,
            "symbols": list(chosen.symbols),
            "since": since,
            "until": min(now, until or now),
            **{f"new_{name}": after[name] - before[name] for name in after},
            **after,
            "quarantined": feed.counters["bars_quarantined"],
            "gaps": await asyncio.to_thread(_gaps, settings, warehouse),
            "requests_failed": feed.counters["requests_failed"],
            "request_weight": exchange.budget.spent,
        }


def _open(settings: Settings) -> Warehouse:
    """Open the warehouse, or make it; only once the venue has answered."""
    from market.warehouse import Warehouse

    settings.state_dir.mkdir(parents=True, exist_ok=True)
    return Warehouse.open(settings.warehouse_url)


def _totals(settings: Settings, warehouse: Warehouse) -> dict[str, int]:
    """What is stored of the settings' symbols."""
    chosen = settings.exchange
    covered = [
        one
        for one in warehouse.coverage(venue=chosen.name.value, interval_ms=chosen.interval_ms)
        if one.symbol in chosen.symbols
    ]
    return {
        name: sum(getattr(one, name) for one in covered)
        for name in ("bars", "mark_bars", "settlements")
    }


def _gaps(settings: Settings, warehouse: Warehouse) -> dict[str, int]:
    """Missing bars by kind."""
    from market.gap import GapKind

    chosen = settings.exchange
    ranges = warehouse.gap_ranges(
        venue=chosen.name.value, interval_ms=chosen.interval_ms, symbols=chosen.symbols
    )
    return {kind.value: sum(one.bars for one in ranges if one.kind is kind) for kind in GapKind}


def _print(facts: dict[str, Any]) -> None:
    gaps = ", ".join(f"{kind} {bars}" for kind, bars in facts["gaps"].items())
    lines = {
        "venue": f"{facts['venue']}: {', '.join(facts['symbols'])}",
        "span": f"{moment(facts['since'])} to {moment(facts['until'])} UTC",
        "bars": f"{facts['new_bars']} new, {facts['bars']} stored",
        "marks": f"{facts['new_mark_bars']} new, {facts['mark_bars']} stored",
        "funding": f"{facts['new_settlements']} new, {facts['settlements']} stored",
        "gaps": gaps,
        "refused": facts["quarantined"],
    }
    for name, value in lines.items():
        print(f"{name:<9} {value}")
