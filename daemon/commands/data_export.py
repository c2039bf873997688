"""``ballast data export``: stored rows into files that ``ballast import`` reads."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.commands.common import (
    Subparsers,
    UsageError,
    print_json,
    print_table,
    settings_from,
)
from daemon.commands.spans import add_span_options, span_options
from daemon.commands.stored import add_action, interval_option, opened, store_closed
from daemon.settings import Settings
from market.bar import interval_name
from market.instrument import Venue

if TYPE_CHECKING:
    from market.exporting import ExportKind, Selection
    from market.warehouse import Warehouse

EXPORT = """\
Write stored rows to Parquet or CSV, in the form that ballast import reads.

PATH is a file (.parquet or .csv) for one kind, bars unless --kind says otherwise; or a folder that
exists, which gets one Parquet file per kind that has rows. A file has its name only once it is
complete.

It is no backup. What is written are the rows of one venue and interval as they count now, of the
symbols that have bars there; where settlements are written also of those that have settlements
alone. They reach from the first stored bar to the last, for a symbol without bars from its first
settlement to its last: marks, settlements and signals from before that only with --since, versions
that were revised never. Signals come back from a file as back-filled; gaps, quotes and books are
not imported back."""

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


def add(actions: Subparsers) -> None:
    """Add the action."""
    parser = add_action(
        actions,
        "export",
        description=EXPORT,
        epilog=EXPORT_END,
        brief="write rows to Parquet or CSV",
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="a .parquet or .csv, or a folder")
    parser.add_argument(
        "--kind",
        action="append",
        choices=["bars", "mark_bars", "settlements", "signals", "gaps", "quotes", "books"],
        help="what to write; for a folder it may be repeated",
    )
    add_span_options(
        parser,
        since="first open time (default: all)",
        until="open times before this (default: all)",
    )
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Write every chosen kind, or nothing where a name cannot be written to."""
    from market.exporting import ExportRefused, check_target
    from market.warehouse import WarehouseError

    span, asked_ms = span_options(args), interval_option(args)
    settings = settings_from(args)
    targets = _targets(args)
    try:
        for path in targets:
            check_target(path, force=args.force)
        with opened(settings) as warehouse:
            kinds = tuple(targets.values())
            chosen = _selection(args, settings, warehouse, kinds, asked_ms, span)
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
        return store_closed(error)
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
    kinds: Sequence[ExportKind],
    asked_ms: int | None,
    span: tuple[int | None, int | None],
) -> Selection:
    """The symbols and the range, no wider than what is stored."""
    from market.exporting import Selection

    venue: Venue = settings.exchange.name
    bar_ms = asked_ms or settings.exchange.interval_ms
    covered = _extents(warehouse, kinds, venue, bar_ms)
    symbols = tuple(args.symbol or covered)
    missing = sorted(set(symbols) - set(covered))
    if missing or not symbols:
        what = ", ".join(missing) or "anything"
        raise UsageError(
            f"{settings.warehouse_url}: no {_rows_of(kinds)} of {what} at {venue.value} "
            f"{interval_name(bar_ms)}; ballast data check shows what there is"
        )
    since, until = span
    first = min(covered[name][0] for name in symbols)
    end = max(covered[name][1] for name in symbols)
    return Selection(
        venue=venue,
        interval_ms=bar_ms,
        symbols=symbols,
        since=first if since is None else since,
        # What fell due at the last close belongs to it: a settlement, a quote, a decision's book.
        until=end + bar_ms if until is None else until,
    )


def _rows_of(kinds: Sequence[ExportKind]) -> str:
    """Which rows tell the symbols that there are."""
    from market.exporting import ExportKind

    return "bars or settlements" if ExportKind.SETTLEMENTS in kinds else "bars"


def _extents(
    warehouse: Warehouse, kinds: Sequence[ExportKind], venue: Venue, bar_ms: int
) -> dict[str, tuple[int, int]]:
    """First time and end of each symbol's bars; of one without bars, of its settlements.

    A symbol without bars counts where settlements are among ``kinds``.
    """
    from market.exporting import ExportKind

    settled = {}
    if ExportKind.SETTLEMENTS in kinds:
        settled = {
            one.symbol: (one.first_nominal_time, one.last_nominal_time + 1)
            for one in warehouse.settlement_coverage(venue=venue.value)
        }
    return settled | {
        one.symbol: (one.first_open_time, one.last_open_time + bar_ms)
        for one in warehouse.coverage(venue=venue.value, interval_ms=bar_ms)
    }


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
