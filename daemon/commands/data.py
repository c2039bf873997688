"""``ballast data``: what is stored and how complete it is; its other actions are added here."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from daemon.commands import data_export, data_quarantine
from daemon.commands.common import (
    Subparsers,
    UsageError,
    print_json,
    print_table,
    settings_from,
)
from daemon.commands.spans import length, moment, time_option
from daemon.commands.stored import add_action, interval_option, opened, store_closed
from daemon.settings import Settings
from market.bar import interval_name

if TYPE_CHECKING:
    from daemon.data_check import ScopeReport, SettlementsReport, SignalsReport, SymbolReport
    from market.coverage import GapRange
    from market.warehouse import Warehouse

EXIT_FINDINGS = 1

CHECK = """\
Report for each symbol what is stored and what is missing.

A missing bar is of one of three kinds: fetchable (the venue should have it, or nobody has asked
yet), absent (the venue serves later bars and not this one: no fault of ours) or deferred (the venue
could not be asked). The newest bar is stale when a later one should be there: by the wall clock at
a live venue, by the newest bar in the store at a sandbox, whose time is its own; --at says
otherwise. Quotes and books are those of the last day. Symbols that have settlements and no bars
come by themselves, unless an interval is asked for. Signals, and those in quarantine, are of no
venue and no symbol: all are shown, whatever is asked for."""

CHECK_END = """\
examples:
  ballast data check                            everything in the store of the settings
  ballast data check --exchange binanceusdm --interval 1h --symbol BTC/USDT:USDT
  ballast data check --gaps 50                  the fifty longest gaps instead of ten
  ballast data check --at 2024-07-01 --json     judge recorded data as of a day

exit codes: 0 nothing to look after; 1 fetchable or deferred gaps, stale bars, rows or signals in
quarantine; 2 bad input; 3 the store cannot be opened (a daemon that runs owns an embedded one)"""


def add(subparsers: Subparsers) -> None:
    """Add the commands."""
    parser = subparsers.add_parser(
        "data",
        help="check what is stored, export it, look at what was refused",
        description="What is stored, how complete it is, what was refused; and out of the store "
        "into files.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    check = add_action(
        actions,
        "check",
        description=CHECK,
        epilog=CHECK_END,
        brief="coverage, gaps, quarantine, staleness",
    )
    check.add_argument("--gaps", type=int, default=10, metavar="N", help="gaps shown (10)")
    check.add_argument("--at", metavar="TIME", help="judge staleness at this time")
    check.set_defaults(execute=execute_check)
    data_export.add(actions)
    data_quarantine.add(actions)


def execute_check(args: argparse.Namespace) -> int:
    """Report on the store of the settings."""
    from daemon.data_check import check_settlements, check_signals
    from market.clock import WallClock
    from market.warehouse import WarehouseError

    if args.gaps < 0:
        raise UsageError(f"--gaps {args.gaps}: must not be negative")
    at, asked_ms = time_option(args, "at"), interval_option(args)
    settings = settings_from(args)
    own_time = settings.sandbox.enabled or settings.exchange.base_url is not None
    now = at if at is not None or own_time else WallClock().now()
    try:
        with opened(settings) as warehouse:
            found = _check_scopes(args, warehouse, asked_ms, now)
            settled = [
                report
                for report in check_settlements(warehouse, symbols=args.symbol)
                if args.exchange in (None, report.venue) and asked_ms is None
            ]
            if not found and not settled:
                raise UsageError(_nothing_stored(warehouse, settings))
            signals = check_signals(warehouse)
    except WarehouseError as error:
        return store_closed(error)
    report = Report(scopes=found, settlements=settled, signals=signals)
    _check_symbols(args.symbol, report)
    if args.json:
        print_json(_document(report))
    else:
        _print(report, gaps=args.gaps)
    return 0 if report.holds else EXIT_FINDINGS


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that was looked at."""

    scopes: Sequence[ScopeReport]
    settlements: Sequence[SettlementsReport]
    signals: SignalsReport

    @property
    def holds(self) -> bool:
        """Whether there is nothing to look after."""
        refused = any(one.problems for one in self.settlements)
        return not (refused or self.signals.problems or any(one.problems for one in self.scopes))


def _check_scopes(
    args: argparse.Namespace, warehouse: Warehouse, asked_ms: int | None, now: int | None
) -> list[ScopeReport]:
    """Report on each venue and interval that has bars and was asked for."""
    from daemon.data_check import check_scope

    return [
        check_scope(warehouse, (venue, length_ms), symbols=args.symbol, now=now)
        for venue, length_ms in warehouse.scopes()
        if args.exchange in (None, venue) and asked_ms in (None, length_ms)
    ]


def _nothing_stored(warehouse: Warehouse, settings: Settings) -> str:
    stored = [f"{venue} {interval_name(ms)}" for venue, ms in warehouse.scopes()]
    stored += [f"settlements of {venue}" for venue in warehouse.settlement_venues()]
    return (
        f"{settings.warehouse_url}: no bars of what was asked for, and no settlements alone; there "
        + (
            f"are {', '.join(stored)}"
            if stored
            else "are none: see ballast import and ballast backfill"
        )
    )


def _check_symbols(wanted: Sequence[str] | None, report: Report) -> None:
    stored = {one.coverage.symbol for scope in report.scopes for one in scope.symbols}
    stored |= {one.symbol for venue in report.settlements for one in venue.symbols}
    if missing := set(wanted or ()) - stored:
        raise UsageError(f"--symbol {', '.join(sorted(missing))}: no bars of it are stored")


def _document(report: Report) -> dict[str, Any]:
    return {
        "holds": report.holds,
        "scopes": [_scope_document(scope) for scope in report.scopes],
        "settlements_without_bars": [
            {
                "venue": venue.venue,
                "problems": list(venue.problems),
                "symbols": [asdict(one) for one in venue.symbols],
                "quarantine": _refused_document(venue.quarantine),
            }
            for venue in report.settlements
        ],
        "signals": [asdict(one) for one in report.signals.streams],
        "signals_quarantine": [
            {"reason": reason, "rows": rows} for reason, rows in report.signals.quarantine.items()
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
        "quarantine": _refused_document(scope.quarantine),
        "listing_changes": [asdict(one) for one in scope.listing],
    }


def _refused_document(refused: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    return [
        {"symbol": symbol, "reason": reason, "rows": rows}
        for (symbol, reason), rows in refused.items()
    ]


def _print(report: Report, *, gaps: int) -> None:
    for scope in report.scopes:
        _print_scope(scope, gaps=gaps)
    for venue in report.settlements:
        _print_settlements(venue)
    _print_signals(report.signals)


def _print_scope(scope: ScopeReport, *, gaps: int) -> None:
    print(
        f"{scope.venue} {interval_name(scope.interval_ms)}, judged at {moment(scope.judged_at)} UTC"
    )
    _print_symbols(scope)
    _print_gaps(scope.ranges, scope.interval_ms, most=gaps)
    _print_refused(scope.quarantine)
    for one in scope.listing:
        change = f"{one.field} {one.before} -> {one.after}".strip(" ->")
        print(f"listing     {moment(one.noticed_at)}  {one.symbol}  {one.event.value}  {change}")
    print("; ".join(scope.problems) or "nothing to look after", end="\n\n")


def _print_settlements(venue: SettlementsReport) -> None:
    print(f"{venue.venue}, settlements of symbols without bars")
    print_table(
        ["symbol", "first", "last", "funding", "no mark"],
        [
            (
                one.symbol,
                *(moment(one.first_nominal_time), moment(one.last_nominal_time)),
                *(one.settlements, one.settlements_without_mark),
            )
            for one in venue.symbols
        ],
    )
    _print_refused(venue.quarantine)
    print("; ".join(venue.problems) or "nothing to look after", end="\n\n")


def _print_refused(refused: Mapping[tuple[str, str], int]) -> None:
    for (symbol, reason), rows in refused.items():
        print(f"quarantine  {symbol}  {reason}  {rows}")


def _print_signals(signals: SignalsReport) -> None:
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
