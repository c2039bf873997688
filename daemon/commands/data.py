"""``ballast data``: what is stored, how complete it is, and out of the store into files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.commands.common import (
    Subparsers,
    UsageError,
    add_json_option,
    add_settings_options,
    print_json,
    print_table,
    settings_from,
)
from daemon.commands.stored import check_span, length, moment, opened, time_option
from daemon.settings import Settings
from market.bar import interval_ms, interval_name
from market.instrument import Venue

if TYPE_CHECKING:
    from daemon.data_check import ScopeReport, SignalsReport, SymbolReport
    from market.coverage import GapRange
    from market.exporting import ExportKind, Selection
    from market.warehouse import Warehouse

EXIT_FINDINGS = 1
EXIT_STORE = 3

CHECK = """\
Report for each symbol what is stored and what is missing.

A missing bar is of one of three kinds: fetchable (the venue should have it, or nobody has asked
yet), absent (the venue serves later bars and not this one: no fault of ours) or deferred (the venue
could not be asked). The newest bar is stale when a later one should be there: by the wall clock at
a live venue, by the newest bar in the store at a sandbox, whose time is its own; --at says
otherwise. Quotes and books are those of the last day. Signals, and those in quarantine, are of no
venue and no symbol: all are shown, whatever is asked for."""

CHECK_END = """\
examples:
  ballast data check                            everything in the store of the settings
  ballast data check --exchange binanceusdm --interval 1h --symbol BTC/USDT:USDT
  ballast data check --gaps 50                  the fifty longest gaps instead of ten
  ballast data check --at 2024-07-01 --json     judge recorded data as of a day

exit codes: 0 nothing to look after; 1 fetchable or deferred gaps, stale bars, rows or signals in
quarantine; 2 bad input; 3 the store cannot be opened (a daemon that runs owns an embedded one)"""

EXPORT = """\
Write stored rows to Parquet or CSV, in the form that ballast import reads.

PATH is a file (.parquet or .csv) for one kind, bars unless --kind says otherwise; or a folder that
exists, which gets one Parquet file per kind that has rows. A file has its name only once it is
complete.

It is no backup. What is written are the rows of one venue and interval, and of the symbols that
have bars there, as they count now, from the first stored bar to the last: marks, settlements and
signals from before it only with --since, versions that were revised never. Signals come back from
a file as back-filled; gaps, quotes and books are not imported back."""

EXPORT_END = """\
examples:
  ballast data export bars.parquet
  ballast data export btc.csv --symbol BTC/USDT:USDT --since 2024-01-01 --until 2024-02-01
  ballast data export funding.parquet --kind settlements
  ballast data export ./1h --interval 1h        bars, marks, settlements and signals, one file each
  ballast data export ./all --since 2009-01-03  the same with what is older than the first bar
  ballast data export quotes.csv --kind quotes

exit codes: 0 done; 2 bad input, nothing written; 3 the store cannot be opened (a daemon that runs
owns an embedded one)"""


def add(subparsers: Subparsers) -> None:
    """Add the commands."""
    parser = subparsers.add_parser(
        "data",
        help="check what is stored, or export it",
        description="What is stored, how complete it is, and out of the store into files.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    check = _action(actions, "check", CHECK, CHECK_END, "coverage, gaps, quarantine, staleness")
    check.add_argument("--gaps", type=int, default=10, metavar="N", help="gaps shown (10)")
    check.add_argument("--at", metavar="TIME", help="judge staleness at this time")
    check.set_defaults(execute=execute_check)
    export = _action(actions, "export", EXPORT, EXPORT_END, "write rows to Parquet or CSV")
    export.add_argument("path", type=Path, metavar="PATH", help="a .parquet or .csv, or a folder")
    export.add_argument(
        "--kind",
        action="append",
        choices=["bars", "mark_bars", "settlements", "signals", "gaps", "quotes", "books"],
        help="what to write; for a folder it may be repeated",
    )
    export.add_argument("--since", metavar="TIME", help="first open time (default: all)")
    export.add_argument("--until", metavar="TIME", help="open times before this (default: all)")
    export.add_argument("--force", action="store_true", help="replace files that exist")
    export.set_defaults(execute=execute_export)


def _action(
    actions: Subparsers, name: str, description: str, epilog: str, brief: str
) -> argparse.ArgumentParser:
    parser = actions.add_parser(
        name,
        help=brief,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--interval", metavar="INTERVAL", help="length of the bars, such as 1h")
    parser.add_argument(
        "--symbol", action="append", metavar="SYMBOL", help="only this one; may be repeated"
    )
    add_settings_options(parser)
    add_json_option(parser)
    return parser


def execute_check(args: argparse.Namespace) -> int:
    """Report on the store of the settings."""
    from daemon.data_check import check_scope, check_signals
    from market.clock import WallClock
    from market.warehouse import WarehouseError

    if args.gaps < 0:
        raise UsageError(f"--gaps {args.gaps}: must not be negative")
    at, asked_ms = time_option(args, "at"), _interval(args)
    settings = settings_from(args)
    own_time = settings.sandbox.enabled or settings.exchange.base_url is not None
    now = at if at is not None or own_time else WallClock().now()
    try:
        with opened(settings) as warehouse:
            found = [
                check_scope(warehouse, scope, symbols=args.symbol, now=now)
                for scope in _scopes(args, warehouse, asked_ms, settings)
            ]
            signals = check_signals(warehouse)
    except WarehouseError as error:
        return _store_closed(error)
    _check_symbols(args.symbol, [one for scope in found for one in scope.symbols])
    if args.json:
        print_json(_document(found, signals))
    else:
        _print(found, signals, gaps=args.gaps)
    return 0 if _holds(found, signals) else EXIT_FINDINGS


def _interval(args: argparse.Namespace) -> int | None:
    if args.interval is None:
        return None
    try:
        return interval_ms(args.interval)
    except ValueError as error:
        raise UsageError(f"--interval: {error}") from None


def _store_closed(error: Exception) -> int:
    print(f"ballast: error: {error}", file=sys.stderr)
    return EXIT_STORE


def _scopes(
    args: argparse.Namespace, warehouse: Warehouse, asked_ms: int | None, settings: Settings
) -> list[tuple[str, int]]:
    """What is stored and asked for."""
    chosen = [
        (venue, length_ms)
        for venue, length_ms in warehouse.scopes()
        if args.exchange in (None, venue) and asked_ms in (None, length_ms)
    ]
    if not chosen:
        stored = ", ".join(f"{venue} {interval_name(ms)}" for venue, ms in warehouse.scopes())
        raise UsageError(
            f"{settings.warehouse_url}: no bars of what was asked for; there "
            + (f"are {stored}" if stored else "are none: see ballast import and ballast backfill")
        )
    return chosen


def _check_symbols(wanted: Sequence[str] | None, found: Sequence[SymbolReport]) -> None:
    stored = {one.coverage.symbol for one in found}
    if missing := set(wanted or ()) - stored:
        raise UsageError(f"--symbol {', '.join(sorted(missing))}: no bars of it are stored")


def _holds(found: Sequence[ScopeReport], signals: SignalsReport) -> bool:
    return not signals.problems and not any(scope.problems for scope in found)


def _document(found: Sequence[ScopeReport], signals: SignalsReport) -> dict[str, Any]:
    return {
        "holds": _holds(found, signals),
        "scopes": [_scope_document(scope) for scope in found],
        "signals": [asdict(one) for one in signals.streams],
        "signals_quarantine": [
            {"reason": reason, "rows": rows} for reason, rows in signals.quarantine.items()
        ],
    }


def _scope_document(scope: ScopeReport) -> dict[str, Any]:
    return {
        "venue": scope.venue,
        "interval_ms": scope.interval_ms,
        "judged_at": scope.judged_at,
        "problems": list(scope.problems),
        "symbols": [
            asdict(one.coverage)
            | {"expected": one.expected, "gaps": {kind.value: n for kind, n in one.gaps.items()}}
            | {"quotes_last_day": one.quotes, "books_last_day": one.books}
            | {"age_ms": one.age_ms, "is_stale": one.is_stale}
            for one in scope.symbols
        ],
        "gaps": [asdict(one) | {"length_ms": one.bars * scope.interval_ms} for one in scope.ranges],
        "quarantine": [
            {"symbol": symbol, "reason": reason, "rows": rows}
            for (symbol, reason), rows in scope.quarantine.items()
        ],
        "listing_changes": [asdict(one) for one in scope.listing],
    }


def _print(found: Sequence[ScopeReport], signals: SignalsReport, *, gaps: int) -> None:
    for scope in found:
        print(
            f"{scope.venue} {interval_name(scope.interval_ms)}, judged at "
            f"{moment(scope.judged_at)} UTC"
        )
        _print_symbols(scope)
        _print_gaps(scope.ranges, scope.interval_ms, most=gaps)
        for (symbol, reason), rows in scope.quarantine.items():
            print(f"quarantine  {symbol}  {reason}  {rows}")
        for one in scope.listing:
            change = f"{one.field} {one.before} -> {one.after}".strip(" ->")
            print(
                f"listing     {moment(one.noticed_at)}  {one.symbol}  {one.event.value}  {change}"
            )
        print("; ".join(scope.problems) or "nothing to look after", end="\n\n")
    if signals.streams:
        print_table(
            ["signal", "version", "name", "rows", "first", "last"],
            [
                (one.source, one.version, one.name, one.rows, moment(one.first), moment(one.last))
                for one in signals.streams
            ],
        )
    for reason, rows in signals.quarantine.items():
        print(f"quarantine  signals  {reason}  {rows}")
    for problem in signals.problems:
        print(problem)


def _print_symbols(scope: ScopeReport) -> None:
    print_table(
        [
            *("symbol", "first", "last", "bars", "expected", "fetchable", "absent", "deferred"),
            *("marks", "funding", "no mark", "revised", "refused", "quotes", "books", "age"),
        ],
        [_symbol_row(one) for one in scope.symbols],
    )


def _symbol_row(one: SymbolReport) -> tuple[object, ...]:
    stored = one.coverage
    return (
        stored.symbol,
        moment(stored.first_open_time),
        moment(stored.last_open_time),
        *(stored.bars, one.expected),
        *one.gaps.values(),
        *(stored.mark_bars, stored.settlements, stored.settlements_without_mark),
        *(stored.revisions, stored.quarantined, one.quotes, one.books),
        f"{length(one.age_ms)}{' STALE' if one.is_stale else ''}",
    )


def _print_gaps(ranges: Sequence[GapRange], bar_ms: int, *, most: int) -> None:
    """The longest first."""
    ordered = sorted(ranges, key=lambda one: (-one.bars, one.symbol, one.first_open_time))
    for one in ordered[:most]:
        print(
            f"gap         {one.symbol}  {moment(one.first_open_time)} to "
            f"{moment(one.last_open_time + bar_ms)}  {length(one.bars * bar_ms)}  {one.kind.value}"
        )
    if len(ranges) > most:
        print(f"            {len(ranges) - most} more gaps; --gaps N shows more")


# Export


def execute_export(args: argparse.Namespace) -> int:
    """Write every chosen kind, or nothing where a name cannot be written to."""
    from market.exporting import ExportRefused, check_target
    from market.warehouse import WarehouseError

    since, until, asked_ms = time_option(args, "since"), time_option(args, "until"), _interval(args)
    check_span(since, until)
    settings = settings_from(args)
    targets = _targets(args)
    try:
        for path in targets:
            check_target(path, force=args.force)
        with opened(settings) as warehouse:
            chosen = _selection(args, settings, warehouse, asked_ms, (since, until))
            rows = {
                path: _export(path, kind, warehouse, chosen, force=args.force)
                for path, kind in targets.items()
            }
            _remove_empty(args, rows)
    except ExportRefused as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(f"{args.path}: cannot be written: {error}") from None
    except WarehouseError as error:
        return _store_closed(error)
    if args.json:
        print_json([{"path": str(path), "rows": count} for path, count in rows.items()])
    else:
        print_table(["path", "rows"], list(rows.items()))
    return 0


def _remove_empty(args: argparse.Namespace, rows: dict[Path, int]) -> None:
    """A folder keeps no files without rows, which spot's marks and settlements would be."""
    for path, count in rows.items():
        if not count and args.path.is_dir():
            path.unlink()


def _targets(args: argparse.Namespace) -> dict[Path, ExportKind]:
    """Which kind goes to which file."""
    from market.exporting import IMPORTABLE, ExportKind

    if args.path.is_dir():
        kinds = [ExportKind(kind) for kind in args.kind or IMPORTABLE]
        return {args.path / f"{kind.value}.parquet": kind for kind in kinds}
    kinds = [ExportKind(kind) for kind in args.kind or ("bars",)]
    if len(kinds) > 1:
        raise UsageError(f"{args.path}: a file holds one kind; name a folder that exists for more")
    return {args.path: kinds[0]}


def _selection(
    args: argparse.Namespace,
    settings: Settings,
    warehouse: Warehouse,
    asked_ms: int | None,
    span: tuple[int | None, int | None],
) -> Selection:
    """The symbols and the range, no wider than what is stored."""
    from market.exporting import Selection

    venue: Venue = settings.exchange.name
    bar_ms = asked_ms or settings.exchange.interval_ms
    covered = {one.symbol: one for one in warehouse.coverage(venue=venue.value, interval_ms=bar_ms)}
    symbols = tuple(args.symbol or covered)
    missing = sorted(set(symbols) - set(covered))
    if missing or not symbols:
        what = ", ".join(missing) or "anything"
        raise UsageError(
            f"{settings.warehouse_url}: no bars of {what} at {venue.value} "
            f"{interval_name(bar_ms)}; ballast data check shows what there is"
        )
    since, until = span
    first = min(covered[name].first_open_time for name in symbols)
    end = max(covered[name].last_open_time for name in symbols) + bar_ms
    return Selection(
        venue=venue,
        interval_ms=bar_ms,
        symbols=symbols,
        since=first if since is None else since,
        # What fell due at the last close belongs to it: a settlement, a quote, a decision's book.
        until=end + bar_ms if until is None else until,
    )


def _export(
    path: Path, kind: ExportKind, warehouse: Warehouse, chosen: Selection, *, force: bool
) -> int:
    from functools import partial

    from daemon.progress import ProgressBar
    from market.exporting import export_file

    with ProgressBar(f"export {path.name}", unit="pieces") as bar:
        return export_file(
            path, kind, warehouse, chosen, force=force, progress=partial(bar.show, kind.value)
        )
