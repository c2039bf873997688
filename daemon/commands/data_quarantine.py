"""``ballast data quarantine``: the rows that were refused, for a person to look at and to clear."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from daemon.commands.common import (
    Subparsers,
    UsageError,
    print_json,
    print_table,
    settings_from,
)
from daemon.commands.spans import add_span_options, moment, span_options
from daemon.commands.stored import add_action, interval_option, opened, store_closed
from market.bar import BarDefect, interval_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from market.quarantine import QuarantinedRow, QuarantineFilter

ROWS_SHOWN = 50
MOST_ROWS = 10_000
WIDEST_CONTENT = 120
_FILTERS = ("kind", "interval", "symbol", "defect", "since", "until")

QUARANTINE = """\
List the rows that were refused, refused last first: of which venue, interval, symbol and time, why,
and with which content. A refused row is stored nowhere else.

--clear removes rows instead, once somebody has looked at them: those that the filters select, or
every one with --all. A row that is refused again is there again. --exchange names the store and
leaves out the rows of other venues; it is no filter for --clear. Signals are of no venue and are
there with every exchange; settlements and signals are of no interval."""

QUARANTINE_END = """\
examples:
  ballast data quarantine                       the fifty that were refused last
  ballast data quarantine --symbol BTC/USDT:USDT --defect not_finite --limit 500
  ballast data quarantine --kind settlements --since 2024-01-01 --json
  ballast data quarantine --clear --kind signals
  ballast data quarantine --clear --all --exchange binanceusdm

exit codes: 0 done; 2 bad input, nothing removed; 3 the store cannot be opened (a daemon that runs
owns an embedded one)"""


def add(actions: Subparsers) -> None:
    """Add the action."""
    parser = add_action(
        actions,
        "quarantine",
        description=QUARANTINE,
        epilog=QUARANTINE_END,
        brief="rows that were refused: list them, clear them",
    )
    parser.add_argument(
        "--kind",
        action="append",
        choices=["bars", "mark_bars", "settlements", "signals"],
        help="what the rows were meant to be; may be repeated",
    )
    parser.add_argument(
        "--defect", action="append", metavar="DEFECT", help="why; may be repeated (not_finite, ...)"
    )
    add_span_options(
        parser,
        since="first time of a row (default: all)",
        until="times of rows before this (default: all)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help=f"rows listed ({ROWS_SHOWN})")
    parser.add_argument("--clear", action="store_true", help="remove the rows instead")
    parser.add_argument("--all", action="store_true", help="with --clear: whatever they are")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """List the rows of the filters, or remove them."""
    from market.warehouse import WarehouseError

    selection = _selection(args)
    limit = ROWS_SHOWN if args.limit is None else args.limit
    if not 1 <= limit <= MOST_ROWS:
        raise UsageError(f"--limit {limit}: must be 1 to {MOST_ROWS}")
    _check_clear(args)
    settings = settings_from(args)
    try:
        with opened(settings) as warehouse:
            if args.clear:
                return _say_removed(args, warehouse.quarantine.clear(selection))
            matching = warehouse.quarantine.count(selection)
            rows = warehouse.quarantine.rows(selection, limit=limit)
    except WarehouseError as error:
        return store_closed(error)
    if args.json:
        print_json({"matching": matching, "rows": [asdict(row) for row in rows]})
    else:
        _print(rows, matching)
    return 0


def _selection(args: argparse.Namespace) -> QuarantineFilter:
    from market.quarantine import QuarantineFilter
    from market.signals import SignalFault

    known = sorted({*BarDefect, *SignalFault})
    if unknown := sorted(set(args.defect or ()) - set(known)):
        raise UsageError(f"--defect {', '.join(unknown)}: unknown; there are {', '.join(known)}")
    since, until = span_options(args)
    return QuarantineFilter(
        venues=None if args.exchange is None else (args.exchange, ""),
        kinds=_any_of(args.kind),
        interval_ms=interval_option(args),
        symbols=_any_of(args.symbol),
        defects=_any_of(args.defect),
        since=since,
        until=until,
    )


def _any_of(given: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if given is None else tuple(given)


def _check_clear(args: argparse.Namespace) -> None:
    """Refuse to remove what nobody has said, and options that would not do what they say."""
    filters = [f"--{name}" for name in _FILTERS if getattr(args, name) is not None]
    if args.all and not args.clear:
        raise UsageError("--all: only --clear needs it; without --clear every row is listed")
    if args.all and filters:
        raise UsageError(f"--all contradicts {', '.join(filters)}: leave one of them out")
    if args.clear and not (filters or args.all):
        names = ", ".join(f"--{name}" for name in _FILTERS)
        raise UsageError(f"--clear: say which rows ({names}), or --all")
    if args.clear and args.limit is not None:
        raise UsageError(f"--limit {args.limit}: --clear removes every row that is selected")


def _say_removed(args: argparse.Namespace, count: int) -> int:
    if args.json:
        print_json({"removed": count})
    else:
        print(f"removed {count} rows from quarantine")
    return 0


def _print(rows: Sequence[QuarantinedRow], matching: int) -> None:
    if rows:
        header = ["refused", "venue", "interval", "kind", "symbol", "time", "defect", "content"]
        print_table(header, [_cells(row) for row in rows])
    print(f"{len(rows)} of {matching} rows in quarantine")
    if len(rows) < matching:
        print("--limit N shows more")


def _cells(row: QuarantinedRow) -> tuple[str, ...]:
    content = row.content
    if len(content) > WIDEST_CONTENT:
        content = f"{content[:WIDEST_CONTENT]}... (--json shows all)"
    return (
        *(_moment(row.refused_at), row.venue or "-"),
        interval_name(row.interval_ms) if row.interval_ms else "-",
        *(row.kind, row.symbol or "-", _moment(row.time) if row.time else "-"),
        *(row.defect, content),
    )


def _moment(time: int) -> str:
    """A refused row may have a time that no calendar has."""
    try:
        return moment(time)
    except (ValueError, OverflowError, OSError):
        return str(time)
